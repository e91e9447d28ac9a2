"""Every setting, once: default, unit, range and description.

The same fields become YAML keys (`section.name`), ROS parameters and command-line overrides. Values
are validated here and nowhere else; a config is frozen once built.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from efficient_matcher.errors import ConfigError, likely
from efficient_matcher.settings_file import read_settings

Value = bool | int | float | str


@dataclass(frozen=True)
class Setting:
    """One setting as other parts see it: ROS descriptors, YAML comments, help texts."""

    name: str  # "section.field"
    default: Value
    description: str
    unit: str
    minimum: float | None
    maximum: float | None
    choices: tuple[str, ...] | None
    dynamic: bool  # may change while the node runs


def _setting(default: Value, description: str, *, unit: str = "", minimum: float | None = None,
             maximum: float | None = None, choices: tuple[str, ...] | None = None, dynamic: bool = True) -> Any:
    return field(default=default, metadata=dict(description=description, unit=unit, minimum=minimum,
                                                maximum=maximum, choices=choices, dynamic=dynamic))


@dataclass(frozen=True)
class ModelConfig:
    """Which networks run, and on what."""

    bundle: str = _setting("default", "name of a bundle that ships, or a path to one", dynamic=False)
    backend: str = _setting("onnxruntime", "CPU runtime; auto times those installed at the start and takes the fastest "
                            "that agrees with onnxruntime", choices=("onnxruntime", "openvino", "auto"), dynamic=False)
    threads: int = _setting(0, "threads of the runtime; 0 takes the process's CPU affinity",
                            minimum=0, maximum=256, dynamic=False)


@dataclass(frozen=True)
class InputConfig:
    """What happens to an image before the networks."""

    width: int = _setting(640, "images are resized to this width; 0 keeps the camera's",
                          unit="px", minimum=0, maximum=4096)
    height: int = _setting(480, "images are resized to this height; 0 keeps the camera's",
                           unit="px", minimum=0, maximum=4096)
    depth_bits: int = _setting(16, "bits in use of images with 16 bits a pixel; 12 for a camera whose upper 4 stay zero",
                               minimum=8, maximum=16)


@dataclass(frozen=True)
class ExtractConfig:
    """Score map to keypoints."""

    max_keypoints: int = _setting(512, "keypoints kept per image, the best first", minimum=8, maximum=8192)
    score_threshold: float = _setting(0.0005, "keypoints scoring less are dropped", minimum=0.0, maximum=1.0)
    nms_radius_px: int = _setting(4, "no two keypoints closer than this", unit="px", minimum=0, maximum=32)
    border_px: int = _setting(4, "no keypoints closer to the border than this", unit="px", minimum=0, maximum=64)
    subpixel: bool = _setting(True, "move keypoints to the centroid of their score peak")
    locate: bool = _setting(True, "move keypoints on to where the bundle's locator network sees them in the image around them, "
                                  "if it has one; needs subpixel")
    sharp_first: bool = _setting(True, "prefer keypoints with a sharp score peak, which lie nearer to their true place; "
                                       "needs subpixel")
    mirrored: bool = _setting(False, "look at the image's mirror images too and take the mean of their score maps: keypoints "
                                     "lie nearer to their true place, at four times the cost of extraction")


@dataclass(frozen=True)
class MatchConfig:
    """Two sets of features to matches."""

    score_threshold: float = _setting(0.2, "matches less probable are dropped", minimum=0.0, maximum=1.0)
    motion_prior: bool = _setting(True, "hold matches against the motion of their neighbours: lookalikes elsewhere are "
                                  "dropped, likely partners where it points are found")
    turns: bool = _setting(False, "where few keypoints match, look at image 0 in quarter turns too: for cameras that turn by "
                           "more than 45 degrees against each other or a reference; each turn costs an extraction, of a "
                           "reference once")
    transport_iterations: int = _setting(20, "Sinkhorn iterations of the optimal transport at most",
                                         minimum=1, maximum=1000)
    transport_tolerance: float = _setting(0.02, "they end when this share of the mass is misplaced at most",
                                          minimum=0.0, maximum=1.0)
    early_stop: float = _setting(0.4, "the matcher network ends in its first half once this share of the keypoints "
                                 "has a partner more likely than not; 1: never", minimum=0.0, maximum=1.0)
    drop_above: float = _setting(0.95, "a keypoint that has no partner with this probability in the first half of the "
                                 "network is left out of the rest; 1: none", minimum=0.5, maximum=1.0)


@dataclass(frozen=True)
class RefineConfig:
    """Matches to the same matches at sub-pixel agreement; only where images, not features alone, are given."""

    enabled: bool = _setting(True, "move matched points to where the images around them agree")
    prior_px: float = _setting(0.7, "standard deviation of the networks' positions, in pixels of the coarser image",
                               unit="px", minimum=0.05, maximum=10.0)
    max_move_px: float = _setting(1.75, "points that would move farther stay, in pixels of the coarser image",
                                  unit="px", minimum=0.0, maximum=10.0)
    min_correlation: float = _setting(0.8, "points whose surroundings agree less after the move stay",
                                      minimum=0.0, maximum=1.0)
    guided: bool = _setting(False, "for planes and turning cameras: add mutually most similar keypoints that the first "
                            "homography and the images confirm; they score below all others")
    guided_radius_px: float = _setting(5.0, "how near to where the first homography puts them, in pixels of the "
                                       "coarser image", unit="px", minimum=0.5, maximum=50.0)
    guided_min_similarity: float = _setting(0.3, "added matches have at least this cosine of their descriptors",
                                            minimum=-1.0, maximum=1.0)


@dataclass(frozen=True)
class GeometryConfig:
    """Matches to a homography."""

    threshold_px: float = _setting(3.0, "a match is an inlier below this reprojection error",
                                   unit="px", minimum=0.1, maximum=50.0)
    max_iterations: int = _setting(3000, "iterations of the robust fit at most", minimum=10, maximum=100000)
    confidence: float = _setting(0.999, "the robust fit stops when this sure", minimum=0.5, maximum=0.999999)
    min_inliers: int = _setting(12, "fewer inliers count as no homography", minimum=4, maximum=1000)
    settle: bool = _setting(True, "place matched points where the matches around them agree too: smoother by far for what "
                            "counts inliers, as RANSAC does; off where errors must be independent of each other")
    seed: int = _setting(0, "seed of the robust fit", minimum=0, maximum=2147483647)


@dataclass(frozen=True)
class TrackConfig:
    """Which earlier frame each new frame is matched with."""

    mode: str = _setting("sequential", "sequential: the previous frame; keyframe: the last keyframe; reference: "
                         "the first frame, or the one set by the service",
                         choices=("sequential", "keyframe", "reference"))
    keyframe_min_inliers: int = _setting(60, "keyframe mode: fewer inliers make the new frame the keyframe",
                                         minimum=4, maximum=8192)
    keyframe_min_share: float = _setting(0.25, "keyframe mode: a smaller share of the keyframe's keypoints still "
                                         "matched makes the new frame the keyframe", minimum=0.0, maximum=1.0)
    max_gap_s: float = _setting(5.0, "a longer gap between stamps starts afresh",
                                unit="s", minimum=0.01, maximum=3600.0)


@dataclass(frozen=True)
class NodeConfig:
    """What only a live node needs."""

    image_transport: str = _setting("raw", "raw subscribes to sensor_msgs/Image on `image`, compressed to "
                                    "sensor_msgs/CompressedImage on `image/compressed`",
                                    choices=("raw", "compressed"), dynamic=False)
    stereo: bool = _setting(False, "match left/image with right/image instead of tracking one camera", dynamic=False)
    stereo_slop_s: float = _setting(0.005, "stamps of a stereo pair may differ by this",
                                    unit="s", minimum=0.0, maximum=1.0, dynamic=False)
    undistort: bool = _setting(True, "true for raw images: rays are undistorted by K and D of the CameraInfo; "
                               "false for rectified ones: rays come from its P. Homographies stay in image pixels "
                               "either way")
    lazy: bool = _setting(True, "while nobody subscribes to results, the cameras are not subscribed to either")
    overlap: bool = _setting(False, "extract the next image while one is matched, each with half of the threads: more "
                             "images a second where cores abound, each of them later", dynamic=False)
    debug_max_matches: int = _setting(200, "matches drawn on the debug image", minimum=0, maximum=8192)
    diagnostics_period_s: float = _setting(1.0, "period of /diagnostics",
                                           unit="s", minimum=0.1, maximum=60.0, dynamic=False)


@dataclass(frozen=True)
class Config:
    """All settings; sections are the stages."""

    model: ModelConfig = ModelConfig()
    input: InputConfig = InputConfig()
    extract: ExtractConfig = ExtractConfig()
    match: MatchConfig = MatchConfig()
    refine: RefineConfig = RefineConfig()
    geometry: GeometryConfig = GeometryConfig()
    track: TrackConfig = TrackConfig()
    node: NodeConfig = NodeConfig()

    def with_values(self, values: Mapping[str, Any]) -> Config:
        """A copy with `section.field` values replaced.

        Raises ConfigError on an unknown key, a wrong type, or a value out of range.
        """
        result = self
        for name, value in values.items():
            setting = _find(name)
            section, key = name.split(".")
            checked = _checked(setting, value)
            result = replace(result, **{section: replace(getattr(result, section), **{key: checked})})
        return result

    def values(self) -> dict[str, Value]:
        """Flat `section.field` -> value, as reports store it."""
        return {s.name: _get(self, s.name) for s in settings()}


def settings() -> Iterator[Setting]:
    """All settings with their defaults, in order."""
    for section in fields(Config):
        for entry in fields(type(section.default)):
            yield Setting(f"{section.name}.{entry.name}", entry.default, **entry.metadata)


def load_config(path: Path | str | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Defaults, then the YAML file (nested sections, or a parameter file of ROS), then `section.field` overrides.

    Raises ConfigError naming file and key.
    """
    config = Config()
    if path is not None:
        try:
            config = config.with_values(read_settings(Path(path)))
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
    return config.with_values(overrides or {})


def dump_config(config: Config) -> str:
    """The config as commented YAML; `load_config` reads it back unchanged."""
    lines = []
    section = ""
    for setting in settings():
        head, key = setting.name.split(".")
        if head != section:
            section = head
            lines.append(f"{head}:")
        value = yaml.safe_dump(_get(config, setting.name), default_flow_style=True, width=math.inf).split("\n")[0]
        lines.append(f"  {key}: {value}  # {describe(setting)}")
    return "\n".join(lines) + "\n"


def describe(setting: Setting) -> str:
    """Description with unit and range, for comments and help."""
    notes = [setting.unit] if setting.unit else []
    if setting.choices:
        notes.append(" | ".join(setting.choices))
    elif setting.minimum is not None:
        notes.append(f"{_number(setting.minimum)} to {_number(setting.maximum)}")
    return setting.description + (f" ({', '.join(notes)})" if notes else "")


def _find(name: str) -> Setting:
    for setting in settings():
        if setting.name == name:
            return setting
    raise ConfigError(f"unknown setting '{name}'{likely(name, (setting.name for setting in settings()))}")


def _checked(setting: Setting, value: Any) -> Value:
    kind = type(setting.default)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            value = math.inf
    if type(value) is not kind:
        raise ConfigError(f"{setting.name} must be of type {kind.__name__}, got {value!r}")
    if setting.choices and value not in setting.choices:
        raise ConfigError(f"{setting.name} must be one of {', '.join(setting.choices)}, got {value!r}")
    if setting.minimum is not None and not setting.minimum <= value <= setting.maximum:
        raise ConfigError(f"{setting.name} must be from {_number(setting.minimum)} to {_number(setting.maximum)}, "
                          f"got {value!r}")
    return value


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _get(config: Config, name: str) -> Value:
    section, key = name.split(".")
    return getattr(getattr(config, section), key)
