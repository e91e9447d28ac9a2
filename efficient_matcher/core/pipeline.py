"""The stages in order: image -> Frame -> Features -> Matches -> Homography."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from efficient_matcher.config import Config, settings
from efficient_matcher.core.backend import Backend, Usage, open_model
from efficient_matcher.core.bundle import Bundle, load_bundle
from efficient_matcher.core.features import Extractor
from efficient_matcher.core.geometry import fit_matches, rough_homography, warp_points
from efficient_matcher.core.image import network_side, to_frame
from efficient_matcher.core.locate import INPUTS, OUTPUTS, Locator
from efficient_matcher.core.matches import FeatureMatcher
from efficient_matcher.core.refine import Grey, Refiner, View
from efficient_matcher.core.relative_pose import fit_relative_pose
from efficient_matcher.core.remembered import Remembered
from efficient_matcher.core.settle import settle
from efficient_matcher.core.stages import interfaces, network_of
from efficient_matcher.core.tracking import Tracker
from efficient_matcher.core.turning import TurningMatcher
from efficient_matcher.errors import ConfigError
from efficient_matcher.records import Features, Frame, Homography, Matches, ModelCard, PairResult, RelativePose

__all__ = ["Image", "Matcher", "Tracker"]

Image = NDArray[np.uint8]  # [H,W] grey or [H,W,3] blue-green-red


@dataclass(frozen=True)
class _Stages:
    """All stages of one config, exchanged in one step so that a pair never sees two configs."""

    config: Config
    extract: Extractor
    match: TurningMatcher


class Matcher:
    """Finds and matches features with the two networks of a bundle.

    matcher: the network as a whole, or its stages in the order they run. locator: for bundles that have one.
    card: what the bundle says of itself, None when made from bare networks. May be shared between threads.
    """

    def __init__(self, extractor: Backend, matcher: Backend | Sequence[Backend], config: Config | None = None,
                 card: ModelCard | None = None, locator: Locator | None = None) -> None:
        self.card = card
        stages = matcher if isinstance(matcher, Sequence) else [matcher]
        self._networks = extractor, network_of(stages)
        self._locator = locator
        self._backends = extractor, *([] if locator is None else [locator.backend]), *stages
        self._blurs: Remembered[Grey] = Remembered()
        self._stages = self._staged(config or Config())

    @classmethod
    def from_bundle(cls, name: str | Path | None = None, config: Config | None = None) -> Matcher:
        """Load the bundle that ships under `name`, or the one at that path; `config.model.bundle` is set to it.

        None: the one that `config` names, which is `default` unless it says otherwise. Raises BundleError naming file
        and field when the bundle is not whole.
        """
        config = config or Config()
        config = config if name is None else config.with_values({"model.bundle": str(name)})
        bundle = load_bundle(config.model.bundle)
        threads, backend = config.model.threads, config.model.backend
        width, height = bundle.card.input_size
        size = network_side(config.input.height or height), network_side(config.input.width or width)
        extractor = open_model(bundle.extractor, threads, backend, inputs=("image",), outputs=("scores", "descriptors"),
                               usage=Usage(size, "all"), variants=bundle.variants)
        matcher = [open_model(path, threads, backend, inputs=inputs, outputs=outputs, usage=usage)
                   for path, (inputs, outputs), usage in zip(bundle.matcher, interfaces(len(bundle.matcher)),
                                                             _usages(bundle, config))]
        return cls(extractor, matcher, config, bundle.card, _locator(bundle, config))

    @property
    def config(self) -> Config:
        """The settings in force."""
        return self._stages.config

    @property
    def runtimes(self) -> list[str]:
        """Which runtime computes each network, in the order they run: with `model.backend` auto, the faster one."""
        return [backend.name for backend in self._backends]

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
        """An image [H,W] grey or [H,W,3] blue-green-red uint8 as the networks see it; a Frame is returned as it is.

        Raises ImageError.
        """
        return image if isinstance(image, Frame) else to_frame(image, self.config.input)

    def extract(self, image: Frame | Image) -> Features:
        """Keypoints of an image, in its own pixels. Raises ImageError, and MatcherError when the network fails."""
        return self._stages.extract(self.to_frame(image))

    def match(self, a: Frame | Image | Features, b: Frame | Image | Features, *, frame0: Frame | None = None,
              frame1: Frame | None = None) -> PairResult:
        """Match two images, Frames or Features (in any mixture); `a` is image 0, `b` image 1.

        frame0, frame1: the images of what is given as Features; with both images known, matches are refined unless
        `config.refine` says no. timings, in ms: extract (what was not given as Features), match, refine (where it
        was), homography, total. Raises ImageError, and MatcherError when a network fails.
        """
        stages = self._stages
        clock = _Clock()
        (own0, features0), (own1, features1) = self._side(stages, a), self._side(stages, b)
        frame0, frame1 = own0 or frame0, own1 or frame1
        clock.lap("extract")
        turned = stages.match(features0, features1)
        matches = turned.matches
        clock.lap("match")
        if frame0 is not None and frame1 is not None and stages.config.refine.enabled:
            seen0 = stages.match.seen(features0, turned.quarter_turns)
            matches = _refined(View(frame0, frame1, seen0, features1), matches, stages.config, self._blurs)
            clock.lap("refine")
        matches, homography = _fitted(matches, features0, features1, stages.config)
        clock.lap("homography")
        return PairResult(features0, features1, matches, homography, clock.timings(), frame0=frame0, frame1=frame1,
                          depth=turned.depth, quarter_turns=turned.quarter_turns)

    def refine(self, result: PairResult, image0: Frame | Image, image1: Frame | Image) -> PairResult:
        """A result of Features as it would be had their images been given, whatever `config.refine.enabled` says.

        Has no track ids; timings, in ms: refine, homography, total. Raises ImageError.
        """
        stages = self._stages
        frame0, frame1 = self.to_frame(image0), self.to_frame(image1)
        clock = _Clock()
        seen0 = stages.match.seen(result.features0, result.quarter_turns)
        view = View(frame0, frame1, seen0, result.features1)
        matches = _refined(view, result.matches, stages.config, self._blurs)
        clock.lap("refine")
        matches, homography = _fitted(matches, result.features0, result.features1, stages.config)
        clock.lap("homography")
        return replace(result, matches=matches, homography=homography, timings=clock.timings(), track_ids=None,
                       frame0=frame0, frame1=frame1)

    def relative_pose(self, result: PairResult, K0: NDArray[np.float64],
                      K1: NDArray[np.float64] | None = None) -> RelativePose:
        """How the cameras of a result stood to each other, from its matches; no plane is needed, as for a homography.

        K0, K1: intrinsics [3,3] of images 0 and 1 in input pixels, K0 for both if only that is given; the images must
        be free of distortion. Raises MatcherError for intrinsics that are none.
        """
        return fit_relative_pose(result.points0, result.measured1, K0, K0 if K1 is None else K1, self.config.geometry,
                                 result.matches.spreads(result.features0, result.features1))

    def track(self, images: Iterable[Frame | Image]) -> Iterator[PairResult]:
        """Follow a camera by the mode of `config.track`, extracting each image once; no result for a new reference."""
        tracker = Tracker(self)
        for image in images:
            result = tracker.process(image)
            if result is not None:
                yield result

    def _staged(self, config: Config) -> _Stages:
        extractor, matcher = self._networks
        extract = Extractor(extractor, config.extract, config.match.turns, self._locator)
        return _Stages(config, extract, TurningMatcher(extract.describe, FeatureMatcher(matcher, config.match)))

    @staticmethod
    def _side(stages: _Stages, given: Frame | Image | Features) -> tuple[Frame | None, Features]:
        if isinstance(given, Features):
            return None, given
        frame = given if isinstance(given, Frame) else to_frame(given, stages.config.input)
        return frame, stages.extract(frame)


def _locator(bundle: Bundle, config: Config) -> Locator | None:
    if bundle.locator is None:
        return None
    return Locator(open_model(bundle.locator, config.model.threads, config.model.backend, inputs=INPUTS, outputs=OUTPUTS,
                              usage=Usage((config.extract.max_keypoints,), "most")))


def _usages(bundle: Bundle, config: Config) -> list[Usage]:
    """Of the matcher's parts: the first pair of layers and what stands around them sees all keypoints, of which the
    later pairs get those that may have a partner."""
    coarse = bundle.card.matcher.get("precision") == "int8"
    parts = len(bundle.matcher)
    return [Usage((config.extract.max_keypoints,), "few" if 2 <= part < parts - 1 else "most", coarse)
            for part in range(parts)]


def _refined(view: View, matches: Matches, config: Config, blurs: Remembered[Grey]) -> Matches:
    """Matches at sub-pixel agreement and, where a homography holds, those the networks missed."""
    refiner = Refiner(view, config.refine, blurs)
    H = _rough(view, matches, config)
    matches = refiner.refine(matches, H)
    if H is None or not config.refine.guided:
        return matches
    H = _rough(view, matches, config)
    if H is None or not _is_supported(H, view, matches, config):
        return matches
    return refiner.guide(matches, H, config.match.score_threshold)


def _fitted(matches: Matches, features0: Features, features1: Features, config: Config) -> tuple[Matches, Homography]:
    """The homography of matches as they were measured, and the matches settled about it where the settings say so."""
    homography = fit_matches(features0, features1, matches, config.geometry)
    settled1 = None
    if config.geometry.settle:
        settled1 = settle(matches, features0, features1, homography, config.geometry)
    return replace(matches, settled1=settled1), homography


def _rough(view: View, matches: Matches, config: Config) -> NDArray[np.float64] | None:
    return rough_homography(*matches.positions(view.features0, view.features1), config.geometry)


def _is_supported(H: NDArray[np.float64], view: View, matches: Matches, config: Config) -> bool:
    points0, points1 = matches.positions(view.features0, view.features1)
    apart = np.linalg.norm(warp_points(points0, H) - points1, axis=1)
    return np.count_nonzero(apart < config.geometry.threshold_px) >= config.geometry.min_inliers


class _Clock:
    """Milliseconds per stage."""

    def __init__(self) -> None:
        self._start = self._last = perf_counter()
        self._spent: dict[str, float] = {}

    def lap(self, stage: str) -> None:
        """What has passed since the last lap was spent on `stage`."""
        now = perf_counter()
        self._spent[stage], self._last = 1e3 * (now - self._last), now

    def timings(self) -> dict[str, float]:
        return {**self._spent, "total": 1e3 * (self._last - self._start)}
