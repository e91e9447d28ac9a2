"""The launch files as ROS loads them; needs launch_ros."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("launch_ros")

from launch import LaunchContext  # noqa: E402
from launch_ros.actions import Node  # noqa: E402

FOLDER = Path(__file__).resolve().parents[2] / "launch"
CONFIG = str(FOLDER.parent / "config" / "default.yaml")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.launch.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("name", "expected"), [("matcher", {"image", "camera_info", "config", "track_mode"}),
                                                ("stereo", {"left", "right", "config", "undistort"}),
                                                ("replay", {"bag", "image", "rate"})])
def test_launch_arguments_are_declared_and_described(name: str, expected: set[str]) -> None:
    description = load(name).generate_launch_description()
    arguments = description.get_launch_arguments(conditional_inclusion=False) if name != "replay" else \
        [entity for entity in description.entities if hasattr(entity, "default_value")]
    assert expected <= {argument.name for argument in arguments}
    assert all(argument.description for argument in arguments)


def configurations(**given: str) -> dict[str, str]:
    empty = dict.fromkeys(("camera_info", "bundle", "image_transport", "track_mode", "use_sim_time", "namespace"), "")
    return {**empty, "image": "/camera/image_raw", "config": CONFIG, "name": "efficient_matcher", "log_level": "info",
            **given}


def test_only_given_arguments_override_parameters() -> None:
    overrides = load("matcher").overrides
    assert overrides(configurations()) == {}
    assert overrides(configurations(track_mode="keyframe", use_sim_time="true")) == {"track.mode": "keyframe",
                                                                                    "use_sim_time": True}


@pytest.mark.parametrize(("image", "camera_info"), [("/camera/image_raw", "/camera/camera_info"),
                                                    ("image", "camera_info"), ("/image", "/camera_info")])
def test_camera_info_lies_beside_the_image(image: str, camera_info: str) -> None:
    assert load("matcher").beside(image, "camera_info") == camera_info


def test_stereo_leaves_to_the_file_what_was_not_given() -> None:
    overrides = load("stereo").overrides
    assert overrides({"undistort": "", "use_sim_time": ""}) == {"node.stereo": True}
    assert overrides({"undistort": "true", "use_sim_time": "false"}) == {
        "node.stereo": True, "node.undistort": True, "use_sim_time": False}


def stereo_context() -> LaunchContext:
    context = LaunchContext()
    context.launch_configurations.update({"left": "/l", "right": "/r", "image": "image_rect", "config": CONFIG,
                                          "name": "m", "namespace": "", "undistort": "", "use_sim_time": ""})
    return context


def test_stereo_remaps_both_cameras() -> None:
    node, = load("stereo").make_node(stereo_context())
    assert isinstance(node, Node) and node.node_executable == "matcher_node"


def test_stereo_s_default_lies_below_a_file_for_all_nodes() -> None:
    """Parameters of the command line come first and are for all nodes; dictionaries are for the node by name, which
    wins over what a file says of all."""
    node, = load("stereo").make_node(stereo_context())
    words = [piece.text for part in node.cmd for piece in part if hasattr(piece, "text")]
    assert words[:3] == ["--ros-args", "-p", "node.undistort:=false"]


def test_matcher_starts_one_node() -> None:
    context = LaunchContext()
    context.launch_configurations.update(configurations())
    node, = load("matcher").make_node(context)
    assert isinstance(node, Node) and node.node_package == "efficient_matcher"
    assert node.node_executable == "matcher_node"


@pytest.mark.parametrize("name", ["matcher", "stereo"])
def test_a_parameter_file_that_is_not_there_starts_nothing(name: str) -> None:
    """ROS itself would warn and start the node with its defaults."""
    context = LaunchContext()
    context.launch_configurations.update(configurations(config="/no/such.yaml"))
    with pytest.raises(FileNotFoundError, match="config: /no/such.yaml: no such file"):
        load(name).make_node(context)
