"""A recorded drive through the node: ros2 launch efficient_matcher replay.launch.py bag:=run image:=/camera/image_raw

For results of every image use `efficient-matcher replay`, which needs no ROS: here, as on the robot, images that
come too fast are dropped.
"""

from __future__ import annotations

from launch import LaunchDescription
from launch.actions import (DeclareLaunchArgument, EmitEvent, ExecuteProcess, IncludeLaunchDescription,
                            RegisterEventHandler)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution, ThisLaunchFileDir

START_DELAY_S = "3"  # the node loads its models and discovers the player first


def generate_launch_description() -> LaunchDescription:
    """The launch arguments, the node on simulated time, and the player; all end with the bag."""
    player = ExecuteProcess(
        cmd=["ros2", "bag", "play", LaunchConfiguration("bag"), "--clock", "--delay", START_DELAY_S,
             "--rate", LaunchConfiguration("rate")], output="screen")
    matcher = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(PathJoinSubstitution([ThisLaunchFileDir(), "matcher.launch.py"])),
        launch_arguments={"image": LaunchConfiguration("image"), "use_sim_time": "true"}.items())
    end = OnProcessExit(target_action=player, on_exit=[EmitEvent(event=Shutdown(reason="the bag has ended"))])
    return LaunchDescription([
        DeclareLaunchArgument("bag", description="folder or file of the bag"),
        DeclareLaunchArgument("image", description="topic of the images in the bag"),
        DeclareLaunchArgument("rate", default_value="1.0", description="speed of playing, 1 as recorded"),
        matcher, player, RegisterEventHandler(end),
    ])
