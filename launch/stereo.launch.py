"""The node on two cameras: ros2 launch efficient_matcher stereo.launch.py left:=/stereo/left right:=/stereo/right"""

from __future__ import annotations

from pathlib import Path

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

DEFAULT_CONFIG = PathJoinSubstitution([FindPackageShare("efficient_matcher"), "config", "stereo.yaml"])
# As image_rect is, whose rays come from P. A parameter file may say otherwise: this goes below it, which a dictionary
# among the node's parameters would not, as ROS puts what is for one node by name above what is for all.
RECTIFIED = ["--ros-args", "-p", "node.undistort:=false"]
ARGUMENTS = [
    DeclareLaunchArgument("left", default_value="left", description="namespace of the left camera"),
    DeclareLaunchArgument("right", default_value="right", description="namespace of the right camera"),
    DeclareLaunchArgument("image", default_value="image_rect", description="image topic in both namespaces"),
    DeclareLaunchArgument("config", default_value=DEFAULT_CONFIG, description="ROS parameter file"),
    DeclareLaunchArgument("undistort", default_value="",
                          description="true when the images are raw, false when rectified; empty: as configured"),
    DeclareLaunchArgument("use_sim_time", default_value="", description="true or false; empty: as configured"),
    DeclareLaunchArgument("name", default_value="efficient_matcher", description="name of the node"),
    DeclareLaunchArgument("namespace", default_value="", description="namespace of the node"),
]


def generate_launch_description() -> LaunchDescription:
    """The launch arguments and the node."""
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=make_node)])


def make_node(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    """The node, with only those parameters overridden whose argument was given."""
    value = context.launch_configurations
    if not Path(value["config"]).is_file():  # of which ROS only warns, and goes on without
        raise FileNotFoundError(f"config: {value['config']}: no such file")
    remappings = [(f"{side}/{name}", f"{value[side]}/{value['image'] if name == 'image' else name}")
                  for side in ("left", "right") for name in ("image", "camera_info")]
    return [Node(package="efficient_matcher", executable="matcher_node", name=value["name"],
                 namespace=value["namespace"], arguments=RECTIFIED,
                 parameters=[value["config"], overrides(value)], remappings=remappings, output="screen")]


def overrides(value: dict[str, str]) -> dict[str, bool]:
    """Two cameras, and the parameters of the arguments that are not empty."""
    names = {"undistort": "node.undistort", "use_sim_time": "use_sim_time"}
    given = {names[key]: value[key].lower() in ("true", "1") for key in names if value[key]}
    return {"node.stereo": True, **given}
