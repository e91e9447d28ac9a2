"""The stages in order: image -> Frame -> Features -> Matches -> Homography."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.config import Config, settings
from efficient_matcher.core.backend import Backend, open_model
from efficient_matcher.core.bundle import load_bundle
from efficient_matcher.core.features import Extractor
from efficient_matcher.core.geometry import fit_homography
from efficient_matcher.core.image import network_side, to_frame
from efficient_matcher.core.matches import FeatureMatcher
from efficient_matcher.core.stages import interfaces, network_of
from efficient_matcher.core.tracking import Tracker
from efficient_matcher.errors import ConfigError
from efficient_matcher.records import Features, Frame, ModelCard, PairResult

__all__ = ["Image", "Matcher", "Tracker"]

Image = NDArray[np.uint8]  # [H,W] grey or [H,W,3]


@dataclass(frozen=True)
class _Stages:
    """All stages of one config, exchanged in one step so that a pair never sees two configs."""

    config: Config
    extract: Extractor
    match: FeatureMatcher


class Matcher:
    """Finds and matches features with the two networks of a bundle.

    matcher: the network as a whole, or its stages in the order they run.
    card: what the bundle says of itself, None when made from bare networks. May be shared between threads.
    """

    def __init__(self, extractor: Backend, matcher: Backend | Sequence[Backend], config: Config | None = None,
                 card: ModelCard | None = None) -> None:
        self.card = card
        self._networks = extractor, network_of(matcher if isinstance(matcher, Sequence) else [matcher])
        self._stages = self._staged(config or Config())

    @classmethod
    def from_bundle(cls, name: str | Path = "default", config: Config | None = None) -> Matcher:
        """Load the bundle that ships under `name`, or the one at that path; `config.model.bundle` is set to it.

        Raises BundleError naming file and field when the bundle is not whole.
        """
        config = (config or Config()).with_values({"model.bundle": str(name)})
        bundle = load_bundle(name)
        threads, backend = config.model.threads, config.model.backend
        width, height = bundle.card.input_size
        size = network_side(config.input.height or height), network_side(config.input.width or width)
        extractor = open_model(bundle.extractor, threads, backend, inputs=("image",), outputs=("scores", "descriptors"),
                               free=size, fixed=True)
        matcher = [open_model(path, threads, backend, inputs=inputs, outputs=outputs,
                              free=(config.extract.max_keypoints,))
                   for path, (inputs, outputs) in zip(bundle.matcher, interfaces(len(bundle.matcher)))]
        return cls(extractor, matcher, config, bundle.card)

    @property
    def config(self) -> Config:
        """The settings in force."""
        return self._stages.config

    def reconfigure(self, config: Config) -> None:
        """Take over dynamic settings from the next image on; callable from any thread.

        Raises ConfigError naming a setting that cannot change while running; nothing is changed then.
        """
        old, new = self.config.values(), config.values()
        for setting in settings():
            if not setting.dynamic and old[setting.name] != new[setting.name]:
                raise ConfigError(f"{setting.name} cannot change while running")
        self._stages = self._staged(config)

    def to_frame(self, image: Frame | Image) -> Frame:
        """An image [H,W] or [H,W,3] uint8 as the networks see it; a Frame is returned as it is. Raises ImageError."""
        return image if isinstance(image, Frame) else to_frame(image, self.config.input)

    def extract(self, image: Frame | Image) -> Features:
        """Keypoints of an image, in its own pixels. Raises ImageError, and MatcherError when the network fails."""
        return self._stages.extract(self.to_frame(image))

    def match(self, a: Frame | Image | Features, b: Frame | Image | Features) -> PairResult:
        """Match two images, Frames or Features (in any mixture); `a` is image 0, `b` image 1.

        timings, in ms: extract (what was not given as Features), match, homography, total. Raises ImageError, and
        MatcherError when a network fails.
        """
        stages = self._stages
        times = [perf_counter()]
        (frame0, features0), (frame1, features1) = self._side(stages, a), self._side(stages, b)
        times.append(perf_counter())
        matches, depth = stages.match(features0, features1)
        times.append(perf_counter())
        homography = fit_homography(features0.keypoints[matches.indices[:, 0]],
                                    features1.keypoints[matches.indices[:, 1]],
                                    features0.image_size, stages.config.geometry)
        times.append(perf_counter())
        return PairResult(features0, features1, matches, homography, _timings(times), frame0=frame0, frame1=frame1,
                          depth=depth)

    def track(self, images: Iterable[Frame | Image]) -> Iterator[PairResult]:
        """Follow a camera by the mode of `config.track`, extracting each image once; no result for a new reference."""
        tracker = Tracker(self)
        for image in images:
            result = tracker.process(image)
            if result is not None:
                yield result

    def _staged(self, config: Config) -> _Stages:
        extractor, matcher = self._networks
        return _Stages(config, Extractor(extractor, config.extract), FeatureMatcher(matcher, config.match))

    @staticmethod
    def _side(stages: _Stages, given: Frame | Image | Features) -> tuple[Frame | None, Features]:
        if isinstance(given, Features):
            return None, given
        frame = given if isinstance(given, Frame) else to_frame(given, stages.config.input)
        return frame, stages.extract(frame)


def _timings(times: list[float]) -> dict[str, float]:
    names = ("extract", "match", "homography")
    spent = {name: 1e3 * (end - start) for name, start, end in zip(names, times, times[1:])}
    return {**spent, "total": 1e3 * (times[-1] - times[0])}
