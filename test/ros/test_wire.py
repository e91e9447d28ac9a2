"""Messages between rosbags and Cyclone: the same bytes whoever writes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("cyclonedds")
pytest.importorskip("rosbags")

from rosbags.typesys.store import Typestore  # noqa: E402

from efficient_matcher.ros.messages import HOMOGRAPHY_DTYPE, MessageTypes  # noqa: E402
from efficient_matcher.ros.messages import cloud_message, unpack_homography  # noqa: E402
from efficient_matcher.ros.wire import WireTypes, ros_typestore  # noqa: E402

CLOUD, IMAGE, INFO = "sensor_msgs/msg/PointCloud2", "sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo"
DIAGNOSTICS, GRAPH = "diagnostic_msgs/msg/DiagnosticArray", "rmw_dds_common/msg/ParticipantEntitiesInfo"


@pytest.fixture(scope="module")
def typestore() -> Typestore:
    return ros_typestore()


def example(typestore: Typestore, kind: str) -> Any:
    """A message whose every field differs from zero and from its neighbours."""
    kinds = typestore.types
    header = kinds["std_msgs/msg/Header"](stamp=kinds["builtin_interfaces/msg/Time"](sec=3, nanosec=5), frame_id="cam")
    if kind == IMAGE:
        return kinds[kind](header=header, height=3, width=5, encoding="mono8", is_bigendian=1, step=6,
                           data=np.arange(18, dtype=np.uint8))
    if kind == CLOUD:
        rows = np.zeros(1, HOMOGRAPHY_DTYPE)
        rows["H"], rows["valid"], rows["n_matches"] = np.arange(9), 1, 77
        return cloud_message(MessageTypes.from_typestore(typestore), header, rows, is_dense=True)
    if kind == INFO:
        roi = kinds["sensor_msgs/msg/RegionOfInterest"](x_offset=1, y_offset=2, height=3, width=4, do_rectify=True)
        return kinds[kind](header=header, height=6, width=7, distortion_model="plumb_bob", d=np.arange(5.0),
                           k=np.arange(9.0), r=np.arange(9.0), p=np.arange(12.0), binning_x=8, binning_y=9, roi=roi)
    if kind == DIAGNOSTICS:
        values = [kinds["diagnostic_msgs/msg/KeyValue"](key=key, value=key * 2) for key in ("a", "bcd")]
        status = kinds["diagnostic_msgs/msg/DiagnosticStatus"](level=2, name="n", message="m", hardware_id="h",
                                                               values=values)
        return kinds[kind](header=header, status=[status])
    gid = kinds["rmw_dds_common/msg/Gid"](data=np.arange(16, dtype=np.uint8))
    node = kinds["rmw_dds_common/msg/NodeEntitiesInfo"](node_namespace="/", node_name="n", reader_gid_seq=[gid],
                                                        writer_gid_seq=[gid, gid])
    return kinds[kind](gid=gid, node_entities_info_seq=[node])


def as_struct(kind: Any, message: Any) -> Any:
    """The message in the class that Cyclone's own Python code serialises."""
    def convert(value: Any, annotation: Any) -> Any:
        if isinstance(value, np.ndarray):
            return value.tolist()
        if isinstance(value, list):
            return [convert(entry, annotation.__metadata__[0].subtype) for entry in value]
        return as_struct(annotation, value) if hasattr(value, "__msgtype__") else value

    result = kind.__new__(kind)
    for name, annotation in kind.__annotations__.items():
        setattr(result, name, convert(getattr(message, name), annotation))
    return result


@pytest.mark.parametrize("kind", [IMAGE, CLOUD, INFO, DIAGNOSTICS, GRAPH])
def test_bytes_are_those_of_rosbags_and_of_cyclone(typestore: Typestore, kind: str) -> None:
    types, message = WireTypes(typestore), example(typestore, kind)
    written = types.wire(kind)(message).serialize(use_version_2=False)
    assert written[:4] == b"\0\1\0\0" and written == bytes(typestore.serialize_cdr(message, kind))
    struct = types._struct(kind)  # the same declaration, with Cyclone's own codec
    assert struct.__idl__.serialize(as_struct(struct, message), use_version_2=False) == written
    back = types.wire(kind).deserialize(written).message
    assert bytes(typestore.serialize_cdr(back, kind)) == written


def test_homography_cloud_comes_back_in_numbers(typestore: Typestore) -> None:
    wire = WireTypes(typestore).wire(CLOUD)
    row = unpack_homography(wire.deserialize(wire(example(typestore, CLOUD)).serialize()).message)[0]
    np.testing.assert_array_equal(row["H"], np.arange(9))
    assert row["valid"] == 1 and row["n_matches"] == 77


def test_received_pixels_are_an_array_over_the_received_bytes(typestore: Typestore) -> None:
    wire = WireTypes(typestore).wire(IMAGE)
    data = wire.deserialize(wire(example(typestore, IMAGE)).serialize()).message.data
    assert isinstance(data, np.ndarray) and not data.flags.owndata


def test_type_names_and_hashes_are_those_of_ros(typestore: Typestore) -> None:
    types = WireTypes(typestore)
    assert types.wire(IMAGE).__idl__.idl_transformed_typename == "sensor_msgs::msg::dds_::Image_"
    assert types.wire(IMAGE) is types.wire(IMAGE)
    # as `ros2 topic info -v` shows it
    digest = "d31d41a9a4c4bc8eae9be757b0beed306564f7526c88ea6a4588fb9582527d47"
    assert types.user_data(IMAGE) == f"typehash=RIHS01_{digest};".encode()


def test_humble_has_longer_identifiers_of_endpoints() -> None:
    gids = [ros_typestore(name).fielddefs["rmw_dds_common/msg/Gid"] for name in ("humble", "jazzy", "")]
    assert [fields[0][1][1][1] for _, fields in gids] == [24, 16, 16]
