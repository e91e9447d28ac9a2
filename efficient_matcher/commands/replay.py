"""`replay`: a recorded bag through the pipeline of the live node; results as a bag, a summary and a picture."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.commands.common import print_table
from efficient_matcher.commands.pictures import STRIP_NAME, VIDEO_NAME, Pictures
from efficient_matcher.commands.summary import COLUMNS, Summary, distributions, facts
from efficient_matcher.config import Config
from efficient_matcher.core.pipeline import Matcher, Tracker
from efficient_matcher.errors import MatcherError, SourceError
from efficient_matcher.files import check_apart, result_folder, write_json
from efficient_matcher.records import Features, PairResult, RelativePose
from efficient_matcher.ros import messages
from efficient_matcher.ros.camera import CameraModel, pose_by_rays
from efficient_matcher.ros.pose_message import pose_message
from efficient_matcher.sources.bag_writer import BagWriter
from efficient_matcher.sources.bags import BagFrame, ImageBag
from efficient_matcher.stopping import StopSignals

NODE = "/efficient_matcher"  # the live node's default name, so that consumers need no remapping
MATCHES_TOPIC, HOMOGRAPHY_TOPIC, INFO_TOPIC = f"{NODE}/matches", f"{NODE}/homography", f"{NODE}/info"
POSE_TOPIC = f"{NODE}/relative_pose"
BAG_NAME, SUMMARY_NAME = "bag", "summary.json"


@dataclass(frozen=True)
class ReplayOptions:
    """What to replay and where to; out: a folder, by default `<bag>-matches` in the working folder. poses: write
    `relative_pose` as well, which the live node does while somebody subscribes."""

    bag: Path
    topic: str | None = None
    out: Path | None = None
    config: Config = Config()
    json: Path | None = None
    video: bool = True
    limit: int | None = None
    overwrite: bool = False
    poses: bool = False

    @property
    def folder(self) -> Path:
        """The folder of the results."""
        bag = self.bag.resolve()
        return self.out if self.out is not None else Path(f"{bag.name if bag.is_dir() else bag.stem}-matches")


def run(options: ReplayOptions) -> bool:
    """Replay, write the summary and print the table; False when stopped by Ctrl-C or SIGTERM.

    Raises MatcherError; what was written until then is complete and readable.
    """
    with StopSignals() as stop:
        report = replay(options, stop)
    print_table("replay" + (" (stopped)" if report["stopped"] else ""), facts(report))
    print_table("", distributions(report), COLUMNS)
    return not report["stopped"]


def replay(options: ReplayOptions, stop: StopSignals | None = None) -> dict[str, Any]:
    """Replay a bag; returns the summary that is also written to `summary.json`. Raises MatcherError."""
    stop = stop or StopSignals()
    check_apart([options.json], [options.bag])
    with ImageBag(options.bag, options.topic) as bag:
        camera = _Camera(bag, options.config.node.undistort)
        if options.poses and camera.problem:
            raise SourceError(f"--poses: {camera.problem}")
        matcher = Matcher.from_bundle(options.config.model.bundle, options.config)
        results = BAG_NAME, SUMMARY_NAME, VIDEO_NAME, STRIP_NAME
        folder = result_folder(options.folder, results, options.overwrite, options.bag)
        run = _Run(options, bag, matcher, folder, camera)
        try:
            run.process(stop)
            if not run.summary.processed and not stop.requested:
                raise SourceError(f"{bag.path}: no usable image on {bag.topic}: {run.most_common_failure()}")
        except MatcherError as error:
            run.finish(stopped=False, error=str(error))
            raise
        return run.finish(stopped=stop.requested)


class _Run:
    """One replay under way."""

    def __init__(self, options: ReplayOptions, bag: ImageBag, matcher: Matcher, folder: Path, camera: _Camera) -> None:
        self._options, self._bag, self._folder, self._matcher = options, bag, folder, matcher
        self.summary = Summary()
        self._picture: Path | None = None
        self._camera = camera

    def process(self, stop: StopSignals) -> None:
        """All frames; the output bag is closed whole however this ends."""
        pictures = Pictures(self._folder, self._options.video)
        tracker = Tracker(self._matcher, self._options.config.track)
        try:
            with BagWriter(self._folder / BAG_NAME, self._bag.storage) as bag:
                output = _Output(bag, self._matcher, self._camera, self._options.poses)
                for item in self._frames(stop):
                    result = self._track(tracker, item)
                    output.announce(item)
                    if result is not None:
                        output.write(item, result)
                        pictures.add(result)
        except BaseException:
            with suppress(MatcherError):  # the first failure is the one to tell
                self._picture = pictures.close()
            raise
        self._picture = pictures.close()

    def most_common_failure(self) -> str:
        """Why most of the messages could not be used."""
        failures = self.summary.failures + self._bag.skipped
        if not failures:
            return "it has none"
        reason, count = failures.most_common(1)[0]
        return f"{count} of {self._bag.message_count} messages failed: {reason}"

    def finish(self, stopped: bool, error: str | None = None) -> dict[str, Any]:
        """Write the summary; returns it."""
        self.summary.received = self._bag.received
        self.summary.failures.update(self._bag.skipped)
        card = self._matcher.card
        report = {
            "command": "replay", "bag": str(self._bag.path), "topic": self._bag.topic, "storage": self._bag.storage,
            "bundle": {"name": card.name, "hash": messages.model_hash(card)}, "stopped": stopped, "error": error,
            **self.summary.as_dict(), "rays_missing": self._camera.problem or None,
            "outputs": {"bag": self._folder / BAG_NAME, "summary": self._folder / SUMMARY_NAME,
                        "picture": self._picture},
            "config": self._options.config.values(),
        }
        write_json(self._folder / SUMMARY_NAME, report)
        if self._options.json is not None:
            write_json(self._options.json, report)
        return report

    def _frames(self, stop: StopSignals) -> Iterator[BagFrame]:
        frames = self._bag.frames(self._options.config.input, self._options.limit)
        total = min(self._bag.message_count, self._options.limit or self._bag.message_count)
        with _progress(total) as advance:
            while not stop.requested:
                start = time.perf_counter()
                item = next(frames, None)
                if item is None:
                    return
                self.summary.add_timing("read", 1000 * (time.perf_counter() - start))
                yield item
                advance(self._bag.received)

    def _track(self, tracker: Tracker, item: BagFrame) -> PairResult | None:
        restarts = tracker.restarts
        try:
            result = tracker.process(item.frame)
        except MatcherError as error:
            self.summary.failures[str(error)] += 1
            return None
        self.summary.processed += 1
        if tracker.restarts > restarts:
            self.summary.restarts[tracker.restart_reason] += 1
        if result is not None:
            self.summary.add(result)
        return result


class _Output:
    """The result topics of a bag."""

    def __init__(self, bag: BagWriter, matcher: Matcher, camera: _Camera, poses: bool) -> None:
        self._bag, self._matcher, self._camera, self._poses = bag, matcher, camera, poses
        self._announced = False
        bag.add_topic(MATCHES_TOPIC, "sensor_msgs/msg/PointCloud2")
        bag.add_topic(HOMOGRAPHY_TOPIC, "sensor_msgs/msg/PointCloud2")
        if poses:
            bag.add_topic(POSE_TOPIC, "sensor_msgs/msg/PointCloud2")
        bag.add_topic(INFO_TOPIC, "std_msgs/msg/String", latched=True)

    def announce(self, item: BagFrame) -> None:
        """Write `info` once, with the first frame's frame_id as camera 0."""
        if not self._announced:
            info = messages.info_message(self._bag.types, self._matcher.card, [item.frame.frame_id])
            self._bag.write(INFO_TOPIC, item.time_ns, info)
            self._announced = True

    def write(self, item: BagFrame, result: PairResult) -> None:
        """Write one pair under the header of its current image, at the time the image was logged."""
        types = self._bag.types
        header = messages.make_header(types, item.frame.stamp_ns, item.frame.frame_id)
        rays = self._camera.rays(result.points1, result.features1)
        self._bag.write(MATCHES_TOPIC, item.time_ns, messages.matches_message(types, header, result, rays))
        self._bag.write(HOMOGRAPHY_TOPIC, item.time_ns, messages.homography_message(types, header, result))
        if self._poses:
            pose = self._camera.pose(result, self._matcher.config)
            self._bag.write(POSE_TOPIC, item.time_ns, pose_message(types, header, result, pose))


class _Camera:
    """Rays by the bag's CameraInfo; `problem` says why there are none."""

    def __init__(self, bag: ImageBag, undistort: bool) -> None:
        self.problem = ""
        self._undistort = undistort
        self._model: CameraModel | None = None
        try:
            info = bag.camera_info()
            if info is None:
                self.problem = "the bag has no camera_info beside the images"
            else:
                self._model = CameraModel.from_message(info)
                self.problem = self._model.problem_of(undistort)
        except MatcherError as error:  # the matches are as good without rays
            self.problem = f"camera_info: {str(error).removeprefix('camera_info: ')}"

    def rays(self, points: NDArray[np.float32], features: Features) -> NDArray[np.float32] | None:
        """[K,3] of points [K,2] of an image with these features, or None."""
        if self._model is None:
            return None
        try:
            return self._model.rays(points, features.image_size, self._undistort)
        except MatcherError as error:
            self.problem = str(error)
            return None

    def pose(self, result: PairResult, config: Config) -> RelativePose:
        """Of the camera between both images."""
        focal = 1.0 if self._model is None else self._model.focal_px(self._undistort)
        rays0, rays1 = self.rays(result.points0, result.features0), self.rays(result.measured1, result.features1)
        return pose_by_rays(result, rays0, rays1, (focal, focal), config.geometry)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal's standard error; gives the function that sets how many are done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    console = Console(stderr=True)
    columns = TextColumn("replay"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("replay", total=total)
        yield lambda done: progress.update(task, completed=done)
