"""The rclpy node: parameters, services, timers and topics. What is published when is in matching.py.

One executor thread takes messages and services; the worker thread of core/live.py always takes the newest
image, so latency never grows. Stamps and frame_ids are those of the images: no result ever asks a clock.
"""

from __future__ import annotations

import signal
import sys
from contextlib import suppress
from functools import partial
from typing import Any

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy._rclpy_pybind11 import RCLError  # a parameter file that is no YAML; rclpy has no public name for it
from rclpy.clock import Clock, ClockType, JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.qos_overriding_options import QoSOverridingOptions
from sensor_msgs.msg import Image, PointCloud, PointCloud2
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from efficient_matcher.core.memory import settle_memory
from efficient_matcher.errors import MatcherError
from efficient_matcher.ros import params
from efficient_matcher.ros.inputs import CameraInputs, named_overrides
from efficient_matcher.ros.matching import LAZY_PERIOD_S, LOG_PERIOD_S, NAME, Listeners, Matching, Publishers
from efficient_matcher.ros.messages import MessageTypes


class MatcherNode(Node):
    """Matches images of a camera, or of a stereo pair, under the topics and services of docs/ros.md."""

    def __init__(self, **options: Any) -> None:
        super().__init__(NAME, **options)
        config = params.declare(self)
        self.matching = Matching(config, MessageTypes.from_ros(), self._create_publishers(),
                                 partial(CameraInputs, self, config.node),
                                 Listeners(self.get_logger().warning, self._on_failure, is_up=self.context.ok))
        self._create_services()
        self._create_timers()
        params.on_change(self, config, self.matching.reconfigure)
        self.matching.start()
        self._announce()

    def destroy_node(self) -> None:
        """Stops the worker before what it publishes with goes away."""
        self.matching.stop()
        self._clock_jumps.unregister()
        super().destroy_node()

    def _create_publishers(self) -> Publishers:
        def create(kind: Any, topic: str, qos: QoSProfile) -> Any:
            with named_overrides(self.resolve_topic_name(topic), "publisher"):
                return self.create_publisher(kind, topic, qos,
                                             qos_overriding_options=QoSOverridingOptions.with_default_policies())

        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        return Publishers(
            matches=create(PointCloud2, "~/matches", QoSProfile(depth=10)),
            homography=create(PointCloud2, "~/homography", QoSProfile(depth=10)),
            relative_pose=create(PointCloud2, "~/relative_pose", QoSProfile(depth=10)),
            vins_features=create(PointCloud, "~/vins_features", QoSProfile(depth=10)),
            debug_image=create(Image, "~/debug_image", QoSProfile(depth=1)),
            info=self.create_publisher(String, "~/info", latched),
            diagnostics=self.create_publisher(DiagnosticArray, "/diagnostics", QoSProfile(depth=10)))

    def _create_services(self) -> None:
        self.create_service(Trigger, "~/set_reference", self._on_set_reference)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(SetBool, "~/enable", self._on_enable)

    def _create_timers(self) -> None:
        # steady, because simulated time may stand still before a bag starts and after it ends
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        # polled, because Humble has no event for subscribers that come and go
        self.create_timer(LAZY_PERIOD_S, self.matching.update_inputs, clock=steady)
        self.create_timer(self.matching.config.node.diagnostics_period_s, self._publish_diagnostics, clock=steady)
        threshold = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=False)
        self._clock_jumps = self.get_clock().create_jump_callback(threshold, post_callback=self._on_time_jump)

    def _announce(self) -> None:
        inputs = self.matching.inputs
        self.get_logger().info(f"model '{self.matching.matcher.card.name}', images from {', '.join(inputs.topics)}"
                               + ("" if inputs.is_open else "; waiting for subscribers (node.lazy)"))

    def _publish_diagnostics(self) -> None:
        name = self.get_fully_qualified_name().lstrip("/")
        self.matching.publish_diagnostics(name, self.get_clock().now().to_msg())

    def _on_failure(self, text: str) -> None:
        """Called in the worker thread."""
        self.get_logger().warning(f"image skipped: {text}", throttle_duration_sec=LOG_PERIOD_S)

    def _on_time_jump(self, jump: TimeJump) -> None:
        if self.matching.config.track.mode != "reference":  # a set reference outlives a bag that starts again
            reason = f"time jumped back by {-jump.delta.nanoseconds * 1e-9:.3f} s"
            self.get_logger().info(f"{reason}, starting afresh")
            self.matching.stream.start_afresh(reason)

    def _on_set_reference(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if self.matching.config.node.stereo:
            response.success, response.message = False, "each pair of two cameras is matched by itself: no reference"
            return response
        self.matching.stream.set_reference()
        response.success, response.message = True, "the next image becomes the reference"
        return response

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.matching.stream.reset()
        response.success, response.message = True, "the next image starts afresh"
        return response

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self.matching.enable(request.data)
        response.success, response.message = True, "enabled" if request.data else "disabled"
        return response


def run(args: list[str] | None = None) -> int:
    """Runs the node until it is interrupted or ROS shuts down; returns the exit code."""
    try:
        rclpy.init(args=args)
    except RCLError as error:
        return _told(error)
    node = None
    try:
        node = MatcherNode()
        settle_memory()
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (MatcherError, ParameterException, RCLError) as error:
        return _told(error) if rclpy.ok() else 0  # interrupted while it was made, it fails for that
    finally:
        if node is not None:
            # The terminal interrupts launch and node, launch then the node once more. Cut short by that, the worker
            # would still be in the runtime when the process ends, and take it down with a core dump.
            with suppress(KeyboardInterrupt):
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            node.destroy_node()
        if rclpy.ok():  # a signal may have shut ROS down already
            rclpy.shutdown(uninstall_handlers=node is None)  # else the handler that interrupts would be back
    return 0


def _told(error: Exception) -> int:
    print(f"error: {error}", file=sys.stderr)
    return 1
