"""Messages: the rows others rely on, and the way there and back, on rosbags' message objects and on plain ones."""

from __future__ import annotations

import array
import json
from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from efficient_matcher.config import InputConfig
from efficient_matcher.errors import ImageError, MatcherError
from efficient_matcher.records import Features, Frame, Homography, Matches, ModelCard, PairResult
from efficient_matcher.ros import messages

STAMP = 1_700_000_000_123_456_789
H = np.array([[1.1, 0.1, 5.0], [-0.1, 0.9, -3.0], [1e-4, 2e-4, 1.0]])


@pytest.fixture(params=["rosbags", "plain"])
def types(request: pytest.FixtureRequest) -> messages.MessageTypes:
    """Both ways of holding bytes: numpy arrays as in rosbags, array.array as in rclpy."""
    if request.param == "rosbags":
        typesys = pytest.importorskip("rosbags.typesys")
        return messages.MessageTypes.from_typestore(typesys.get_typestore(typesys.Stores.ROS2_JAZZY))
    return messages.MessageTypes(*[SimpleNamespace] * 13, lambda data: array.array("B", data), int, list)


def result(valid: bool = True, count: int = 3) -> PairResult:
    """Matches (i, i + 1) of keypoints on a diagonal; the last one is an outlier."""
    points = np.float32([[10 * i + 0.25, 20 * i + 0.5] for i in range(count + 1)])
    features = Features(points, np.ones(count + 1, np.float32), np.ones((count + 1, 4), np.float32), (640, 480))
    indices = np.int32([[i, i + 1] for i in range(count)]).reshape(-1, 2)
    inliers = np.arange(count) < count - 1 if valid else np.zeros(count, bool)
    covariance = np.arange(64, dtype=float).reshape(8, 8) if valid else np.full((8, 8), np.nan)
    homography = Homography(H if valid else None, inliers, covariance, 0.75 if valid else float("nan"))
    frame0 = Frame(np.zeros((480, 640), np.uint8), STAMP - 10**8, "camera")
    frame1 = Frame(np.zeros((480, 640), np.uint8), STAMP, "camera")
    return PairResult(features, features, Matches(indices, np.linspace(0.9, 0.5, count, dtype=np.float32)), homography,
                      {"total": 5.0}, np.arange(7, 7 + count, dtype=np.uint32), frame0, frame1)


def image(types: messages.MessageTypes, **changes: object) -> object:
    header = messages.make_header(types, STAMP, "cam")
    message = messages.image_message(types, header, np.arange(48, dtype=np.uint8).reshape(6, 8))
    return SimpleNamespace(**{**vars(message), **changes})


def test_rows_have_the_published_size_and_offsets() -> None:
    matches, homography = messages.MATCH_DTYPE, messages.HOMOGRAPHY_DTYPE
    assert matches.itemsize == 48 and homography.itemsize == 392
    assert [matches.fields[name][1] for name in matches.names] == [
        0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 45, 46]
    assert [homography.fields[name][1] for name in homography.names] == [
        0, 72, 360, 368, 372, 376, 380, 384, 385, 386]


def test_matches_there_and_back(types: messages.MessageTypes) -> None:
    header = messages.make_header(types, STAMP, "camera")
    rays = np.float32([[0.1, 0.2, 1], [0.3, 0.4, 1], [0.5, 0.6, 1]])
    message = messages.matches_message(types, header, result(), rays, cam0=1, cam1=2)
    assert (message.height, message.width, message.point_step, message.row_step) == (1, 3, 48, 144)
    assert message.is_dense and not message.is_bigendian and len(message.data) == 144
    assert [(f.name, f.offset, f.datatype, f.count) for f in message.fields][-4:] == [
        ("track_id", 40, 6, 1), ("inlier", 44, 2, 1), ("cam0", 45, 2, 1), ("cam1", 46, 2, 1)]
    rows = messages.unpack_matches(message)
    np.testing.assert_array_equal(rows["y"], np.float32([0.2, 0.4, 0.6]))
    np.testing.assert_array_equal(rows["u0"], [0.25, 10.25, 20.25])
    np.testing.assert_array_equal(rows["v1"], [20.5, 40.5, 60.5])
    np.testing.assert_array_equal(rows["score"], np.linspace(0.9, 0.5, 3, dtype=np.float32))
    np.testing.assert_array_equal(rows["id1"], [1, 2, 3])
    np.testing.assert_array_equal(rows["track_id"], [7, 8, 9])
    np.testing.assert_array_equal(rows["inlier"], [1, 1, 0])
    assert rows["cam0"].tolist() == [1] * 3 and rows["cam1"].tolist() == [2] * 3


def test_header_is_passed_through_unchanged(types: messages.MessageTypes) -> None:
    header = messages.make_header(types, STAMP, "camera")
    assert messages.stamp_ns(header) == STAMP
    assert messages.matches_message(types, header, result()).header is header
    assert messages.homography_message(types, header, result()).header is header


def test_no_rays_are_nan_and_no_track_is_marked(types: messages.MessageTypes) -> None:
    message = messages.matches_message(types, messages.make_header(types, 0, ""), replace(result(), track_ids=None))
    rows = messages.unpack_matches(message)
    assert not message.is_dense
    assert np.isnan([rows["x"], rows["y"], rows["z"]]).all()
    assert set(rows["track_id"]) == {messages.NO_TRACK}
    rays = np.float32([[0.1, 0.2, 1], [np.nan] * 3, [0.5, 0.6, 1]])
    assert not messages.matches_message(types, messages.make_header(types, 0, ""), result(), rays).is_dense


def test_no_matches_are_an_empty_cloud(types: messages.MessageTypes) -> None:
    message = messages.matches_message(types, messages.make_header(types, 0, ""), result(valid=False, count=0))
    assert (message.width, message.row_step, len(message.data)) == (0, 0, 0)
    assert len(messages.unpack_matches(message)) == 0


def test_homography_there_and_back(types: messages.MessageTypes) -> None:
    header = messages.make_header(types, STAMP, "camera")
    message = messages.homography_message(types, header, result(), ref_cam=0, cur_cam=1)
    assert (message.width, message.point_step, len(message.data)) == (1, 392, 392)
    assert [(f.name, f.count) for f in message.fields][:2] == [("H", 9), ("cov", 36)]
    row = messages.unpack_homography(message)[0]
    np.testing.assert_array_equal(row["H"].reshape(3, 3), H)
    np.testing.assert_array_equal(row["cov"][:9], [0, 1, 2, 3, 4, 5, 6, 7, 9])
    assert row["cov"][35] == 63
    assert messages.reference_stamp_ns(row) == STAMP - 10**8
    assert (row["rmse_px"], row["n_matches"], row["n_inliers"], row["valid"]) == (0.75, 3, 2, 1)
    assert (row["ref_cam"], row["cur_cam"]) == (0, 1)


def test_failed_homography_is_published_as_invalid(types: messages.MessageTypes) -> None:
    row = messages.unpack_homography(
        messages.homography_message(types, messages.make_header(types, STAMP, ""), result(valid=False)))[0]
    assert (row["valid"], row["n_matches"], row["n_inliers"]) == (0, 3, 0)
    assert np.isnan(row["H"]).all() and np.isnan(row["cov"]).all()


def test_unpacking_goes_by_name_and_byte_order() -> None:
    rows = np.zeros(2, np.dtype([("pad", "u1"), ("H", ">f8", (9,))]))
    rows["H"] = np.arange(18).reshape(2, 9)
    fields = [SimpleNamespace(name="pad", offset=0, datatype=2, count=1),
              SimpleNamespace(name="H", offset=1, datatype=8, count=9)]
    message = SimpleNamespace(fields=fields, is_bigendian=True, point_step=73, width=2, height=1, data=rows.tobytes())
    unpacked = messages.unpack_cloud(message, np.dtype([("H", "<f8", (9,))]))
    np.testing.assert_array_equal(unpacked["H"], np.arange(18).reshape(2, 9))


def test_foreign_and_short_clouds_are_named(types: messages.MessageTypes) -> None:
    header = messages.make_header(types, 0, "")
    message = messages.homography_message(types, header, result())
    with pytest.raises(MatcherError, match="no field 'x'"):
        messages.unpack_matches(message)
    for changed, error in (({"count": 4}, "'H' has 4 numbers a row, 9 expected"), ({"datatype": 9}, "'H' is of an unknown")):
        fields = [SimpleNamespace(**{**vars(field), **(changed if field.name == "H" else {})}) for field in message.fields]
        with pytest.raises(MatcherError, match=error):
            messages.unpack_homography(SimpleNamespace(**{**vars(message), "fields": fields}))
    short = SimpleNamespace(**{**vars(message), "data": message.data[:100]})
    with pytest.raises(MatcherError, match="hold 100 bytes, 392 expected"):
        messages.unpack_homography(short)


def test_image_there_and_back(types: messages.MessageTypes) -> None:
    frame = messages.frame_of(image(types), InputConfig(width=0, height=0))
    assert (frame.stamp_ns, frame.frame_id) == (STAMP, "cam")
    np.testing.assert_array_equal(messages.decode_message(image(types)), np.arange(48).reshape(6, 8))
    deep = image(types, encoding="mono16", step=16, data=np.full(48, 0xFFF, "<u2").view(np.uint8))
    for bits, grey in ((16, 0xF), (12, 255)):
        assert set(messages.frame_of(deep, InputConfig(width=0, height=0, depth_bits=bits)).image.ravel()) == {grey}


def test_depth_of_a_compressed_image(types: messages.MessageTypes) -> None:
    data = cv2.imencode(".png", np.full((8, 8), 0xFFF, np.uint16))[1].ravel()
    message = types.compressed_image(header=messages.make_header(types, 0, ""), format="png", data=data)
    for bits, grey in ((16, 0xF), (12, 255)):
        assert set(messages.frame_of(message, InputConfig(width=0, height=0, depth_bits=bits)).image.ravel()) == {grey}


def test_colour_image_is_blue_green_red(types: messages.MessageTypes) -> None:
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 2] = 255
    message = messages.image_message(types, messages.make_header(types, 0, ""), red)
    assert (message.encoding, message.step) == ("bgr8", 24)
    assert set(messages.decode_message(message).ravel()) == {76}  # 0.299 * 255


@pytest.mark.parametrize(("changes", "field"), [
    ({"encoding": "rgb9"}, "encoding 'rgb9' is unknown"), ({"step": 7}, "step is 7"), ({"height": 0}, "height is 0"),
    ({"width": 0}, "width is 0"), ({"data": b"\x00" * 40}, "data has 40 bytes"), ({"data": b""}, "data has 0 bytes"),
])
def test_lying_images_are_named_by_field(types: messages.MessageTypes, changes: dict, field: str) -> None:
    with pytest.raises(ImageError, match=field):
        messages.decode_message(image(types, **changes))


def test_damaged_compressed_image_is_an_image_error(types: messages.MessageTypes) -> None:
    message = types.compressed_image(header=messages.make_header(types, 0, ""), format="jpeg",
                                     data=types.to_data(b"not a jpeg"))
    with pytest.raises(ImageError, match="data is no image"):
        messages.decode_message(message)


def test_unknown_encoding_goes_through_cv_bridge_where_installed(
        types: messages.MessageTypes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(messages, "_decode_by_cv_bridge", lambda message: np.full((6, 8), 9, np.uint8))
    assert messages.decode_message(image(types, encoding="nv21"))[0, 0] == 9
    with pytest.raises(ImageError, match="step is 7"):
        messages.decode_message(image(types, step=7))


def test_both_decoders_agree_where_cv_bridge_is_installed() -> None:
    bridge = pytest.importorskip("cv_bridge").CvBridge()
    colours = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    for encoding, pixels in (("mono8", colours[..., 0]), ("bgr8", colours), ("rgb8", colours)):
        message = bridge.cv2_to_imgmsg(np.ascontiguousarray(pixels), encoding)
        theirs = bridge.imgmsg_to_cv2(message, desired_encoding="mono8")
        np.testing.assert_allclose(messages.decode_message(message).astype(int), theirs.astype(int), atol=1)


def test_info_names_schema_model_and_cameras(types: messages.MessageTypes) -> None:
    card = ModelCard(1, "small", {}, {}, (640, 480), 512, {}, {"b.onnx": "22", "a.onnx": "11"}, "x", {}, {})
    info = json.loads(messages.info_message(types, card, ["left", "right"]).data)
    assert info["schema_version"] == 1
    assert info["model"]["name"] == "small" and info["cameras"] == {"0": "left", "1": "right"}
    assert info["model"]["hash"] == messages.model_hash(replace(card, files=dict(sorted(card.files.items()))))
    assert info["model"]["hash"] != messages.model_hash(replace(card, files={"a.onnx": "11", "b.onnx": "23"}))
