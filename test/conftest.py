"""Shared fixtures: images whose texture and warp are known, and a bundle whose answers can be worked out by hand."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from efficient_matcher.stopping import StopSignals

CELL = 8
PATCH = 7  # coarse cells across the tiny extractor's descriptor
MATCH_SCALE = 50.0
MATCH_DUSTBIN = 42.0
LOOPBACK = ('<CycloneDDS><Domain><General><Interfaces><NetworkInterface name="lo" multicast="false"/></Interfaces>'
            "</General></Domain></CycloneDDS>")


@dataclass(frozen=True)
class WarpedPair:
    """image0, image1 [H,W] uint8 and matrix [3,3] float64 with p1 = matrix p0 in pixels; no black borders."""

    image0: np.ndarray
    image1: np.ndarray
    matrix: np.ndarray


def textured(height: int = 240, width: int = 320, seed: int = 0) -> np.ndarray:
    """[height,width] uint8 of random blobs of several sizes: many distinct corners, the same for the same seed."""
    rng = np.random.default_rng(seed)
    image = np.zeros((height, width), np.float32)
    for sigma, weight in ((2.0, 1.0), (4.0, 1.0), (9.0, 1.0)):
        layer = cv2.GaussianBlur(rng.standard_normal((height, width)).astype(np.float32), (0, 0), sigma)
        image += weight * layer / layer.std()
    return np.clip(128 + 35 * image, 0, 255).astype(np.uint8)


def small_homography(seed: int = 0, width: int = 320, height: int = 240) -> np.ndarray:
    """[3,3] float64: a few degrees, per cent and pixels about the image centre, as between frames of a drive."""
    rng = np.random.default_rng(seed)
    angle, scale = np.radians(rng.uniform(-4, 4)), rng.uniform(0.96, 1.04)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    shift = rng.uniform(-8, 8, 2)
    perspective = rng.uniform(-5e-5, 5e-5, 2)
    about = np.array([[1, 0, width / 2], [0, 1, height / 2], [0, 0, 1.0]])
    matrix = about @ np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]], [*perspective, 1]]) @ np.linalg.inv(about)
    return matrix / matrix[2, 2]


def warped(seed: int = 0, height: int = 240, width: int = 320, matrix: np.ndarray | None = None) -> WarpedPair:
    """A textured image and what a camera sees of the same larger plane after `matrix`."""
    margin = 64
    canvas = textured(height + 2 * margin, width + 2 * margin, seed)
    matrix = small_homography(seed, width, height) if matrix is None else matrix
    into = np.array([[1, 0, -margin], [0, 1, -margin], [0, 0, 1.0]])
    image1 = cv2.warpPerspective(canvas, matrix @ into, (width, height), flags=cv2.INTER_LINEAR)
    image0 = np.ascontiguousarray(canvas[margin:margin + height, margin:margin + width])
    return WarpedPair(image0, image1, matrix)


@pytest.fixture(scope="session")
def make_textured() -> Callable[..., np.ndarray]:
    """`textured(height, width, seed)`."""
    return textured


@pytest.fixture(scope="session")
def make_pair() -> Callable[..., WarpedPair]:
    """`warped(seed, height, width, matrix)`."""
    return warped


@pytest.fixture()
def textured_image() -> np.ndarray:
    """[240,320] uint8."""
    return textured()


@pytest.fixture()
def warped_pair() -> WarpedPair:
    """A 320x240 pair of small motion with its true homography."""
    return warped()


@pytest.fixture(scope="session")
def stopped_after() -> Callable[[int], StopSignals]:
    """`StopSignals` that let `n` questions pass, then answer as after a signal."""

    class After(StopSignals):
        def __init__(self, questions: int) -> None:
            self.left = questions

        @property
        def requested(self) -> bool:
            self.left -= 1
            return self.left < 0

        @requested.setter
        def requested(self, value: bool) -> None: ...

        def __enter__(self) -> StopSignals:
            return self

        def __exit__(self, *_: object) -> None: ...

    return After


@pytest.fixture(scope="session")
def xfeat_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with the keys and shapes of XFeat's, of random values that make it find keypoints."""
    torch = pytest.importorskip("torch")
    from efficient_matcher.learn.xfeat import XFeatNetwork
    torch.manual_seed(0)
    network = XFeatNetwork()
    network.keypoint_head[-1].weight.data *= 300  # decided answers, as a trained network's
    path = tmp_path_factory.mktemp("xfeat") / "xfeat.pt"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture()
def loopback(monkeypatch: pytest.MonkeyPatch) -> int:
    """Plain DDS on the loopback interface only, here and in processes started here; gives the domain.

    Of this process, and below 100: the ports of higher ones are those the system gives to anybody.
    """
    domain = 10 + os.getpid() % 90
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.setenv("CYCLONEDDS_URI", LOOPBACK)
    for name in ("ROS_STATIC_PEERS", "ROS_LOCALHOST_ONLY", "ROS_DISTRO"):
        monkeypatch.delenv(name, raising=False)
    return domain


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a complete bundle made without torch.

    Extractor: a pixel's score is r^2 / (r^2 + 0.01) with r the difference of two Gaussian blurs (1.5 and 3 px) of the
    image in [0,1], so a round spot has its peak at its centre and a flat image has none; descriptors (D = 49) are the
    blurred brightness of the 7x7 cells around, less their mean. Matcher: similarity 50 d0.d1, dustbin 42.
    """
    return make_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="session")
def make_bundle() -> Callable[..., Path]:
    """`make_tiny_bundle(folder)`, for tests that alter a bundle."""
    return make_tiny_bundle


@pytest.fixture()
def variant_bundle(tmp_path: Path) -> Path:
    """Folder of the tiny bundle with an extractor for OpenVINO whose scores are half of the other's."""
    import onnx

    from efficient_matcher.core.bundle import VARIANT_NAMES, file_sha256, read_card, write_card
    folder = make_tiny_bundle(tmp_path / "two")
    model, name = onnx.load(str(folder / "extractor.onnx")), VARIANT_NAMES["openvino"]
    for node in model.graph.node:
        node.output[:] = ["whole" if output == "scores" else output for output in node.output]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.5), "half"))
    model.graph.node.append(onnx.helper.make_node("Mul", ["whole", "half"], ["scores"]))
    onnx.save(model, str(folder / name))
    card = read_card(folder)
    write_card(folder, replace(card, files={**card.files, name: file_sha256(folder / name)}))
    return folder


def make_tiny_bundle(folder: Path) -> Path:
    """Write the bundle `tiny_bundle` describes into a new folder."""
    import onnx

    from efficient_matcher.core.bundle import file_sha256, write_card
    from efficient_matcher.records import FORMAT_VERSION, ModelCard

    folder.mkdir(parents=True)
    onnx.save(_extractor_model(), str(folder / "extractor.onnx"))
    onnx.save(_matcher_model(), str(folder / "matcher.onnx"))
    write_card(folder, ModelCard(
        format_version=FORMAT_VERSION, name=folder.name,
        extractor={"architecture": "blobs", "descriptor_dim": PATCH * PATCH, "precision": "fp32", "parameters": 0},
        matcher={"architecture": "similarity", "precision": "fp32", "parameters": 0},
        input_size=(320, 240), max_keypoints=512, preprocessing={"channels": "grey", "range": "uint8"},
        files={name: file_sha256(folder / name) for name in ("extractor.onnx", "matcher.onnx")},
        licence="Apache-2.0", training={"data": "none"}, measured={"note": "made for tests"}))
    return folder


def _gauss(sigma: float, radius: int) -> np.ndarray:
    row = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    return (row / row.sum()).astype(np.float32)


class _Graph:
    """Collects nodes and constants; every step returns the name of its output."""

    def __init__(self) -> None:
        self.nodes: list = []
        self.constants: list = []

    def constant(self, value: np.ndarray) -> str:
        from onnx import numpy_helper
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def add(self, kind: str, *inputs: str, output: str = "", **attributes: object) -> str:
        from onnx import helper
        output = output or f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def conv(self, x: str, kernel: np.ndarray, **attributes: object) -> str:
        """Convolution after repeating the border, so that a flat image has no edges."""
        down, right = kernel.shape[2] // 2, kernel.shape[3] // 2
        pads = self.constant(np.array([0, 0, down, right, 0, 0, down, right], np.int64))
        return self.add("Conv", self.add("Pad", x, pads, mode="edge"), self.constant(kernel), **attributes)

    def blur(self, x: str, sigma: float, radius: int) -> str:
        row = _gauss(sigma, radius)
        return self.conv(self.conv(x, row.reshape(1, 1, 1, -1)), row.reshape(1, 1, -1, 1))

    def model(self, inputs: list, outputs: list) -> object:
        from onnx import checker, helper
        graph = helper.make_graph(self.nodes, "tiny", inputs, outputs, self.constants)
        # An opset and format every onnxruntime we support reads.
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        checker.check_model(model)
        return model


def _extractor_model() -> object:
    from onnx import TensorProto, helper
    g = _Graph()
    grey = g.add("Div", g.add("Cast", "image", to=TensorProto.FLOAT), g.constant(np.float32(255)))
    fine = g.blur(grey, 1.5, 6)
    response = g.add("Sub", fine, g.blur(grey, 3.0, 11))
    squared = g.add("Mul", response, response)
    share = g.add("Div", squared, g.add("Add", squared, g.constant(np.float32(0.01))))
    g.add("Squeeze", share, g.constant(np.array([1], np.int64)), output="scores")
    # A cell's centre lies between pixels 3 and 4, so the mean of those four samples it.
    inner = np.zeros((1, 1, CELL, CELL), np.float32)
    inner[0, 0, 3:5, 3:5] = 0.25
    coarse = g.add("Conv", g.blur(fine, 3.5, 10), g.constant(inner), strides=[CELL, CELL])
    count = PATCH * PATCH
    patches = (np.eye(count) - 1 / count).astype(np.float32).reshape(count, 1, PATCH, PATCH)
    g.add("Transpose", g.conv(coarse, patches), perm=[0, 2, 3, 1], output="descriptors")
    return g.model(
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 1, "H", "W"])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, "H", "W"]),
         helper.make_tensor_value_info("descriptors", TensorProto.FLOAT, [1, "h", "w", count])])


def _matcher_model() -> object:
    from onnx import TensorProto, helper
    g = _Graph()
    cosine = g.add("MatMul", "descriptors0", g.add("Transpose", "descriptors1", perm=[1, 0]))
    g.add("Mul", cosine, g.constant(np.float32(MATCH_SCALE)), output="similarity")
    g.add("Identity", g.constant(np.float32(MATCH_DUSTBIN)), output="dustbin")
    inputs = []
    for side, count in (("0", "N"), ("1", "M")):
        for name, shape in (("keypoints", [count, 2]), ("scores", [count]), ("descriptors", [count, PATCH * PATCH])):
            inputs.append(helper.make_tensor_value_info(name + side, TensorProto.FLOAT, shape))
    return g.model(inputs, [helper.make_tensor_value_info("similarity", TensorProto.FLOAT, ["N", "M"]),
                            helper.make_tensor_value_info("dustbin", TensorProto.FLOAT, [])])


@pytest.fixture(scope="session")
def write_bag() -> Callable[..., Path]:
    """`write_test_bag(path, images, ...)`; skips where rosbags is not installed."""
    pytest.importorskip("rosbags")
    return write_test_bag


def write_test_bag(path: Path, images: list, *, topics: tuple = ("/camera/image_raw",), storage: str = "mcap",
                   stamps: list | None = None, alter: dict | None = None) -> Path:
    """A rosbag2 bag of images [H,W] or [H,W,3] on each topic, at 10 Hz unless `stamps` (ns) are given.

    alter: index of a message -> fields of it to replace, for messages that lie. Logged in the order given.
    """
    from dataclasses import replace

    from efficient_matcher.ros.messages import image_message, make_header
    from efficient_matcher.sources.bag_writer import BagWriter

    stamps = stamps or [10**18 + index * 10**8 for index in range(len(images))]
    with BagWriter(path, storage) as bag:
        for topic in topics:
            bag.add_topic(topic, "sensor_msgs/msg/Image")
        for index, (stamp, image) in enumerate(zip(stamps, images)):
            message = image_message(bag.types, make_header(bag.types, stamp, "camera"), image)
            message = replace(message, **(alter or {}).get(index, {}))
            for topic in topics:
                bag.write(topic, 10**18 + index * 10**8, message)
    return path
