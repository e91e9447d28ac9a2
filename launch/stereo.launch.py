"""The node on two cameras: ros2 launch efficient_matcher stereo.launch.py left:=/stereo/left right:=/stereo/right"""

from __future__ import annotations

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

DEFAULT_CONFIG = PathJoinSubstitution([FindPackageShare("efficient_matcher"), "config", "stereo.yaml"])


def generate_launch_description() -> LaunchDescription:
    """The launch arguments and the node."""
    value = LaunchConfiguration
    remappings = [(f"{side}/{topic}", [value(side), "/", value(topic) if topic == "image" else topic])
                  for side in ("left", "right") for topic in ("image", "camera_info")]
    return LaunchDescription([
        DeclareLaunchArgument("left", default_value="left", description="namespace of the left camera"),
        DeclareLaunchArgument("right", default_value="right", description="namespace of the right camera"),
        DeclareLaunchArgument("image", default_value="image_rect", description="image topic in both namespaces"),
        DeclareLaunchArgument("config", default_value=DEFAULT_CONFIG, description="ROS parameter file"),
        DeclareLaunchArgument("use_sim_time", default_value="false", description="true when a bag plays with --clock"),
        DeclareLaunchArgument("name", default_value="efficient_matcher", description="name of the node"),
        DeclareLaunchArgument("namespace", default_value="", description="namespace of the node"),
        # rectified images by default, so rays come from P
        DeclareLaunchArgument("undistort", default_value="false", description="true when the images are raw"),
        Node(package="efficient_matcher", executable="matcher_node", name=value("name"), namespace=value("namespace"),
             parameters=[value("config"), {"node.stereo": True, "node.undistort": value("undistort"),
                                           "use_sim_time": value("use_sim_time")}],
             remappings=remappings, output="screen"),
    ])
