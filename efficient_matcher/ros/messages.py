"""ROS messages to arrays and results to ROS messages, and back.

Works on the message objects of rclpy and of rosbags alike, and imports neither: fields are read by
name, and new messages are made by the classes of a `MessageTypes` that the caller passes in. Rows of
the two clouds are fixed here, so a consumer writes `unpack_matches(message)` and has a numpy array.
"""

from __future__ import annotations

import array
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.config import InputConfig
from efficient_matcher.core import image as core_image
from efficient_matcher.errors import ImageError, MatcherError
from efficient_matcher.records import Frame, ModelCard, PairResult

INFO_SCHEMA_VERSION = 1
NO_TRACK = 0xFFFFFFFF  # track_id of a match that belongs to no track

MATCH_DTYPE = np.dtype({
    "names": ["x", "y", "z", "u0", "v0", "u1", "v1", "score", "id0", "id1", "track_id", "inlier", "cam0", "cam1"],
    "formats": ["<f4"] * 8 + ["<u4"] * 3 + ["u1"] * 3,
    "offsets": [0, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40, 44, 45, 46],
    "itemsize": 48,
})

HOMOGRAPHY_DTYPE = np.dtype({
    "names": ["H", "cov", "rmse_px", "ref_sec", "ref_nanosec", "n_matches", "n_inliers", "valid", "ref_cam", "cur_cam"],
    "formats": [("<f8", (9,)), ("<f8", (36,)), "<f8", "<i4", "<u4", "<u4", "<u4", "u1", "u1", "u1"],
    "offsets": [0, 72, 360, 368, 372, 376, 380, 384, 385, 386],
    "itemsize": 392,
})

_DATATYPES = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 8}  # sensor_msgs/PointField
_FORMATS = {number: code for code, number in _DATATYPES.items()}


@dataclass(frozen=True)
class MessageTypes:
    """Message classes of one type system.

    to_data: turns bytes into what it wants in a uint8[] field; to_byte: an integer into what it wants in a byte field;
    to_floats: float32 [N] into what it wants in a float32[] field.
    """

    image: Callable[..., Any]
    compressed_image: Callable[..., Any]
    point_cloud: Callable[..., Any]
    point_field: Callable[..., Any]
    header: Callable[..., Any]
    time: Callable[..., Any]
    string: Callable[..., Any]
    diagnostic_array: Callable[..., Any]
    diagnostic_status: Callable[..., Any]
    key_value: Callable[..., Any]
    features: Callable[..., Any]  # sensor_msgs/PointCloud, the old kind
    point32: Callable[..., Any]
    channel: Callable[..., Any]
    to_data: Callable[[bytes], Any]
    to_byte: Callable[[int], Any]
    to_floats: Callable[[NDArray[np.float32]], Any]

    @classmethod
    def from_ros(cls) -> MessageTypes:
        """The classes of the ROS installation; raises ImportError without one."""
        from builtin_interfaces.msg import Time
        from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
        from geometry_msgs.msg import Point32
        from sensor_msgs.msg import ChannelFloat32, CompressedImage, Image, PointCloud, PointCloud2, PointField
        from std_msgs.msg import Header, String
        # rclpy takes an array.array as it is, but checks bytes element by element.
        return cls(Image, CompressedImage, PointCloud2, PointField, Header, Time, String, DiagnosticArray,
                   DiagnosticStatus, KeyValue, PointCloud, Point32, ChannelFloat32,
                   lambda data: array.array("B", data), lambda value: bytes([value]),
                   lambda values: array.array("f", values.tobytes()))

    @classmethod
    def from_typestore(cls, typestore: Any) -> MessageTypes:
        """The classes of a rosbags typestore (a ROS 2 one)."""
        names = ("sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/PointCloud2",
                 "sensor_msgs/msg/PointField", "std_msgs/msg/Header", "builtin_interfaces/msg/Time",
                 "std_msgs/msg/String", "diagnostic_msgs/msg/DiagnosticArray", "diagnostic_msgs/msg/DiagnosticStatus",
                 "diagnostic_msgs/msg/KeyValue", "sensor_msgs/msg/PointCloud", "geometry_msgs/msg/Point32",
                 "sensor_msgs/msg/ChannelFloat32")
        return cls(*(typestore.types[name] for name in names), lambda data: np.frombuffer(data, np.uint8), int,
                   lambda values: values)


def stamp_ns(header: Any) -> int:
    """The stamp of a std_msgs/Header in nanoseconds."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def make_header(types: MessageTypes, stamp: int, frame_id: str) -> Any:
    """A std_msgs/Header of `stamp` nanoseconds; only for results whose image had no live header to pass on."""
    sec, nanosec = divmod(stamp, 1_000_000_000)
    return types.header(stamp=types.time(sec=sec, nanosec=nanosec), frame_id=frame_id)


def decode_message(message: Any, depth_bits: int = 16) -> NDArray[np.uint8]:
    """Grey [H,W] uint8 of a sensor_msgs Image or CompressedImage; depth_bits: as in `core.image.decode_image`.

    Encodings the project's decoder does not know go through cv_bridge where it is installed.
    Raises ImageError naming the field that is wrong.
    """
    if not hasattr(message, "encoding"):
        return core_image.decode_compressed(message.data, depth_bits)
    try:
        return core_image.decode_image(message.data, message.height, message.width, message.encoding, message.step,
                                       bool(message.is_bigendian), depth_bits)
    except ImageError:
        if message.encoding in core_image.ENCODINGS:
            raise
        decoded = _decode_by_cv_bridge(message)
        if decoded is None:
            raise
        return decoded


def frame_of(message: Any, config: InputConfig) -> Frame:
    """The Frame of a sensor_msgs Image or CompressedImage: decoded, resized, with the header's stamp and frame_id.

    Raises ImageError naming the field that is wrong.
    """
    if not 0 <= message.header.stamp.nanosec < 1_000_000_000:  # would not fit the results' stamps
        raise ImageError(f"header.stamp.nanosec is {message.header.stamp.nanosec}, must be below 1000000000")
    if not -2**31 <= message.header.stamp.sec < 2**31:  # ROS 1 knows later ones
        raise ImageError(f"header.stamp.sec is {message.header.stamp.sec}, must be below 2147483648")
    return core_image.to_frame(decode_message(message, config.depth_bits), config, stamp_ns=stamp_ns(message.header),
                               frame_id=str(message.header.frame_id))


def pack_matches(result: PairResult, rays: NDArray[np.float32] | None = None, cam0: int = 0,
                 cam1: int = 0) -> NDArray[np.void]:
    """The rows of `~/matches`: [K] of MATCH_DTYPE, in the order of the matches (score descending).

    rays: [K,3] of the current image at z = 1, or None without a CameraInfo (then NaN).
    """
    rows = np.zeros(len(result.matches), MATCH_DTYPE)
    rays = np.full((len(rows), 3), np.nan, np.float32) if rays is None else rays
    for name, column in zip("xyz", rays.T):
        rows[name] = column
    rows["u0"], rows["v0"] = result.points0.T
    rows["u1"], rows["v1"] = result.points1.T
    rows["score"] = result.matches.scores
    rows["id0"], rows["id1"] = result.matches.indices.T
    rows["track_id"] = NO_TRACK if result.track_ids is None else result.track_ids
    rows["inlier"] = result.homography.inliers
    rows["cam0"], rows["cam1"] = cam0, cam1
    return rows


def pack_homography(result: PairResult, ref_cam: int = 0, cur_cam: int = 0) -> NDArray[np.void]:
    """The one row of `~/homography`: [1] of HOMOGRAPHY_DTYPE; H and cov are NaN where `valid` is 0."""
    row = np.zeros(1, HOMOGRAPHY_DTYPE)
    homography = result.homography
    row["H"] = np.nan if homography.matrix is None else homography.matrix.ravel()
    row["cov"] = homography.corner_covariance[np.triu_indices(8)]
    row["rmse_px"] = homography.rmse
    reference = 0 if result.frame0 is None else result.frame0.stamp_ns
    row["ref_sec"], row["ref_nanosec"] = divmod(reference, 1_000_000_000)
    row["n_matches"], row["n_inliers"] = len(result.matches), int(homography.inliers.sum())
    row["valid"], row["ref_cam"], row["cur_cam"] = homography.valid, ref_cam, cur_cam
    return row


def matches_message(types: MessageTypes, header: Any, result: PairResult,
                    rays: NDArray[np.float32] | None = None, cam0: int = 0, cam1: int = 0) -> Any:
    """`~/matches` as a PointCloud2 under the current image's header."""
    return cloud_message(types, header, pack_matches(result, rays, cam0, cam1),
                         is_dense=rays is not None and bool(np.isfinite(rays).all()))


def homography_message(types: MessageTypes, header: Any, result: PairResult, ref_cam: int = 0, cur_cam: int = 0) -> Any:
    """`~/homography` as a PointCloud2 under the current image's header; also when no homography was found."""
    return cloud_message(types, header, pack_homography(result, ref_cam, cur_cam), is_dense=result.homography.valid)


def cloud_message(types: MessageTypes, header: Any, rows: NDArray[np.void], is_dense: bool) -> Any:
    """A PointCloud2 of structured rows [N]."""
    size = rows.dtype.itemsize
    return types.point_cloud(header=header, height=1, width=len(rows), fields=_fields(types, rows.dtype),
                             is_bigendian=False, point_step=size, row_step=size * len(rows),
                             data=types.to_data(rows.tobytes()), is_dense=is_dense)


def image_message(types: MessageTypes, header: Any, image: NDArray[np.uint8] | NDArray[np.uint16]) -> Any:
    """A sensor_msgs/Image of [H,W] uint8 (mono8) or uint16 (mono16), or of [H,W,3] uint8 (bgr8)."""
    height, width = image.shape[:2]
    encoding = "bgr8" if image.ndim == 3 else f"mono{8 * image.itemsize}"
    data = image.astype(image.dtype.newbyteorder("<"), copy=False).tobytes()
    return types.image(header=header, height=height, width=width, encoding=encoding, is_bigendian=0,
                       step=len(data) // height, data=types.to_data(data))


def info_message(types: MessageTypes, card: ModelCard, cameras: Sequence[str]) -> Any:
    """`~/info`: schema version, model name and hash, camera index -> frame_id, as JSON in a String."""
    return types.string(data=info_text(card, cameras))


def info_text(card: ModelCard, cameras: Sequence[str]) -> str:
    """The JSON of `~/info`; cameras: the frame_id of each camera index."""
    return json.dumps({"schema_version": INFO_SCHEMA_VERSION,
                       "model": {"name": card.name, "hash": model_hash(card), "files": card.files},
                       "cameras": {str(index): frame_id for index, frame_id in enumerate(cameras)}})


def model_hash(card: ModelCard) -> str:
    """One SHA-256 for the whole bundle: over the names and hashes of its files."""
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(card.files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def unpack_matches(message: Any) -> NDArray[np.void]:
    """`~/matches` back to [K] rows of MATCH_DTYPE; raises MatcherError for another kind of cloud."""
    return unpack_cloud(message, MATCH_DTYPE)


def unpack_homography(message: Any) -> NDArray[np.void]:
    """`~/homography` back to [1] row of HOMOGRAPHY_DTYPE; raises MatcherError for another kind of cloud."""
    return unpack_cloud(message, HOMOGRAPHY_DTYPE)


def reference_stamp_ns(row: np.void) -> int:
    """The stamp of the reference image in a row of `~/homography`, in nanoseconds."""
    # Through int: the product does not fit the row's 32 bits.
    return int(row["ref_sec"]) * 1_000_000_000 + int(row["ref_nanosec"])


def unpack_cloud(message: Any, dtype: np.dtype[np.void]) -> NDArray[np.void]:
    """The rows of a PointCloud2 as `dtype`, by field name, whatever their offsets and byte order.

    Raises MatcherError when a field is missing or another one than it should be, or the data are too short.
    """
    order = ">" if message.is_bigendian else "<"
    unknown = [f.name for f in message.fields if int(f.datatype) not in _FORMATS]
    if unknown:
        raise MatcherError(f"the cloud's field '{unknown[0]}' is of an unknown datatype")
    fields = {f.name: (order + _FORMATS[int(f.datatype)], (int(f.count),)) for f in message.fields}
    for name in dtype.names or ():
        if name not in fields:
            raise MatcherError(f"the cloud has no field '{name}'")
        if fields[name][1][0] != prod(dtype[name].shape):
            raise MatcherError(f"the cloud's field '{name}' has {fields[name][1][0]} numbers a row, "
                               f"{prod(dtype[name].shape)} expected")
    offsets = [int(f.offset) for f in message.fields]
    try:
        stored = np.dtype({"names": list(fields), "formats": list(fields.values()), "offsets": offsets,
                           "itemsize": int(message.point_step)})
    except ValueError as error:
        raise MatcherError(f"the cloud's fields are inconsistent: {error}") from None
    count = int(message.width) * int(message.height)
    size = memoryview(message.data).nbytes
    if size < count * stored.itemsize:
        raise MatcherError(f"the cloud's data hold {size} bytes, {count * stored.itemsize} expected")
    source = np.frombuffer(message.data, stored, count) if count else np.zeros(0, stored)
    rows = np.zeros(count, dtype)
    for name in dtype.names or ():
        rows[name] = source[name].reshape(rows[name].shape)
    return rows


def _fields(types: MessageTypes, dtype: np.dtype[np.void]) -> list[Any]:
    fields = []
    for name in dtype.names or ():
        base, shape = (dtype[name].subdtype or (dtype[name], (1,)))
        fields.append(types.point_field(name=name, offset=int(dtype.fields[name][1]),
                                        datatype=_DATATYPES[f"{base.kind}{base.itemsize}"], count=int(shape[0])))
    return fields


def _decode_by_cv_bridge(message: Any) -> NDArray[np.uint8] | None:
    try:
        from cv_bridge import CvBridge, CvBridgeError
    except ImportError:
        return None
    try:
        return CvBridge().imgmsg_to_cv2(message, desired_encoding="mono8")
    except (CvBridgeError, TypeError, ValueError):
        return None
