"""The node on one camera: ros2 launch efficient_matcher matcher.launch.py image:=/camera/image_raw"""

from __future__ import annotations

from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

DEFAULT_CONFIG = PathJoinSubstitution([FindPackageShare("efficient_matcher"), "config", "default.yaml"])
ARGUMENTS = [
    DeclareLaunchArgument("image", description="topic of the images; its base name, for compressed ones too"),
    DeclareLaunchArgument("camera_info", default_value="", description="empty: camera_info beside the image topic"),
    DeclareLaunchArgument("config", default_value=DEFAULT_CONFIG, description="ROS parameter file"),
    DeclareLaunchArgument("bundle", default_value="", description="model bundle, name or path; empty: as configured"),
    DeclareLaunchArgument("image_transport", default_value="", description="raw or compressed; empty: as configured"),
    DeclareLaunchArgument("track_mode", default_value="",
                          description="sequential, keyframe or reference; empty: as configured"),
    DeclareLaunchArgument("use_sim_time", default_value="", description="true or false; empty: as configured"),
    DeclareLaunchArgument("name", default_value="efficient_matcher", description="name of the node"),
    DeclareLaunchArgument("namespace", default_value="", description="namespace of the node"),
    DeclareLaunchArgument("log_level", default_value="info", description="debug, info, warn or error"),
]


def generate_launch_description() -> LaunchDescription:
    """The launch arguments and the node."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=make_node)])


def make_node(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The node, with only those parameters overridden whose argument was given."""
    value = context.launch_configurations
    if not Path(value["config"]).is_file():  # of which ROS only warns, and goes on without
        raise FileNotFoundError(f"config: {value['config']}: no such file")
    camera_info = value["camera_info"] or beside(value["image"], "camera_info")
    return [Node(
        package="efficient_matcher", executable="matcher_node", name=value["name"], namespace=value["namespace"],
        parameters=[value["config"], *filter(None, [overrides(value)])], output="screen",  # ROS reads no empty set
        remappings=[("image", value["image"]), ("camera_info", camera_info)],
        arguments=["--ros-args", "--log-level", value["log_level"]])]


def overrides(value: dict[str, str]) -> dict[str, str | bool]:
    """Parameters of the arguments that are not empty."""
    names = {"bundle": "model.bundle", "image_transport": "node.image_transport", "track_mode": "track.mode"}
    given: dict[str, str | bool] = {names[key]: value[key] for key in names if value[key]}
    if value["use_sim_time"]:
        given["use_sim_time"] = value["use_sim_time"].lower() in ("true", "1")
    return given


def beside(topic: str, name: str) -> str:
    """`name` in the namespace of `topic`, as camera drivers lay their topics out."""
    return f"{topic.rpartition('/')[0]}/{name}" if "/" in topic else name
