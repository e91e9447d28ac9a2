"""The rclpy node. Its callbacks convert, call and publish; the work is in stream.py and core/.

One executor thread takes messages and services; the worker thread of core/live.py always takes the newest
image, so latency never grows. Stamps and frame_ids are those of the images: no result ever asks a clock.
"""

from __future__ import annotations

import sys
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
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import String
from std_srvs.srv import SetBool, Trigger

from efficient_matcher.config import Config
from efficient_matcher.core.live import LatestFrameWorker
from efficient_matcher.core.pipeline import Matcher
from efficient_matcher.errors import MatcherError
from efficient_matcher.ros import params
from efficient_matcher.ros.diagnostics import Health, diagnostics_message
from efficient_matcher.ros.inputs import CameraInputs
from efficient_matcher.ros.messages import MessageTypes, info_message
from efficient_matcher.ros.stream import CameraStream, Output

NAME = "efficient_matcher"
LAZY_PERIOD_S = 0.25  # polled, because Humble has no event for subscribers that come and go
LOG_PERIOD_S = 5.0


class MatcherNode(Node):
    """Matches images of a camera, or of a stereo pair, as DESIGN's topics and services say."""

    def __init__(self, **options: Any) -> None:
        super().__init__(NAME, **options)
        self._config = params.declare(self)
        self._types = MessageTypes.from_ros()
        self._matcher = matcher = Matcher.from_bundle(self._config.model.bundle, self._config)
        self._stream = CameraStream(matcher, self.get_logger().warning)
        self._health = Health(matcher.card)
        self._enabled = True
        self._frame_ids: tuple[str, ...] | None = None
        self._worker = LatestFrameWorker(self._stream.process, self._publish, self._report_failure)
        self._inputs = CameraInputs(self, self._config.node, self._worker.submit, self._stream.set_camera_info)
        self._create_publishers()
        self._create_services()
        self._create_timers()
        params.on_change(self, self._config, self._reconfigure)
        self._announce()

    def destroy_node(self) -> None:
        """Stops the worker before what it publishes with goes away."""
        self._worker.stop()
        self._clock_jumps.unregister()
        super().destroy_node()

    def _create_publishers(self) -> None:
        def create(kind: Any, topic: str, qos: QoSProfile) -> Any:
            return self.create_publisher(kind, topic, qos,
                                         qos_overriding_options=QoSOverridingOptions.with_default_policies())

        self._matches = create(PointCloud2, "~/matches", QoSProfile(depth=10))
        self._homography = create(PointCloud2, "~/homography", QoSProfile(depth=10))
        self._debug_image = create(Image, "~/debug_image", QoSProfile(depth=1))
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._info = self.create_publisher(String, "~/info", latched)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", QoSProfile(depth=10))

    def _create_services(self) -> None:
        self.create_service(Trigger, "~/set_reference", self._on_set_reference)
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(SetBool, "~/enable", self._on_enable)

    def _create_timers(self) -> None:
        # steady, because simulated time may stand still before a bag starts and after it ends
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(LAZY_PERIOD_S, self._update_inputs, clock=steady)
        self.create_timer(self._config.node.diagnostics_period_s, self._publish_diagnostics, clock=steady)
        threshold = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=False)
        self._clock_jumps = self.get_clock().create_jump_callback(threshold, post_callback=self._on_time_jump)

    def _announce(self) -> None:
        self._update_inputs()
        self._publish_info()
        self.get_logger().info(f"model '{self._matcher.card.name}', images from {', '.join(self._inputs.topics)}"
                               + ("" if self._inputs.is_open else "; waiting for subscribers (node.lazy)"))

    def _update_inputs(self) -> None:
        """Subscribes to the cameras while results are wanted, else not."""
        if self._wanted() and not self._inputs.is_open:
            self._stream.reset()
            self._inputs.open()
        elif not self._wanted():
            self._inputs.close()

    def _wanted(self) -> bool:
        results = (self._matches, self._homography, self._debug_image)
        return self._enabled and (not self._config.node.lazy or any(p.get_subscription_count() for p in results))

    def _publish(self, output: Output) -> None:
        """Called in the worker thread with each result."""
        if not self.context.ok():
            return
        if self._stream.frame_ids != self._frame_ids:
            self._publish_info()
        self._matches.publish(output.matches(self._types))
        self._homography.publish(output.homography(self._types))
        self._health.add(output.result)
        if self._debug_image.get_subscription_count():
            self._debug_image.publish(output.debug_image(self._types, self._config.node.debug_max_matches))

    def _publish_info(self) -> None:
        self._frame_ids = self._stream.frame_ids
        self._info.publish(info_message(self._types, self._matcher.card, self._frame_ids))

    def _publish_diagnostics(self) -> None:
        status = self._health.status(self._worker.stats(), self._stream.restarts, self._inputs.is_open)
        name = self.get_fully_qualified_name().lstrip("/")
        self._diagnostics.publish(diagnostics_message(status, name, self.get_clock().now().to_msg()))

    def _report_failure(self, error: Exception) -> None:
        """Called in the worker thread when an image failed: counted in the diagnostics, and the next one is taken."""
        text = str(error) if isinstance(error, MatcherError) else f"{type(error).__name__}: {error}"
        self.get_logger().warning(f"image skipped: {text}", throttle_duration_sec=LOG_PERIOD_S)

    def _reconfigure(self, config: Config) -> None:
        self._config = config
        self._matcher.reconfigure(config)

    def _on_time_jump(self, jump: TimeJump) -> None:
        if self._config.track.mode != "reference":  # a reference the user has set outlives a bag that starts again
            self.get_logger().info(f"time jumped back by {-jump.delta.nanoseconds * 1e-9:.3f} s, starting afresh")
            self._stream.reset()

    def _on_set_reference(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._stream.set_reference()
        response.success, response.message = True, "the next image becomes the reference"
        return response

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self._stream.reset()
        response.success, response.message = True, "the next image starts afresh"
        return response

    def _on_enable(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        self._enabled = request.data
        self._update_inputs()
        response.success, response.message = True, "enabled" if self._enabled else "disabled"
        return response


def run(args: list[str] | None = None) -> int:
    """Runs the node until it is interrupted or ROS shuts down; returns the exit code."""
    node = None
    try:
        rclpy.init(args=args)
        node = MatcherNode()
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (MatcherError, ParameterException, RCLError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        if node is not None:
            node.destroy_node()
        if rclpy.ok():  # a signal may have shut ROS down already
            rclpy.shutdown()
    return 0
