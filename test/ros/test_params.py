"""Settings as ROS parameters; needs rclpy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy")

from rclpy.exceptions import ParameterException  # noqa: E402
from rclpy.node import Node  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402

from efficient_matcher.config import Config, settings  # noqa: E402
from efficient_matcher.errors import ConfigError  # noqa: E402
from efficient_matcher.ros import params  # noqa: E402


@pytest.fixture(autouse=True)
def ros() -> Iterator[None]:
    rclpy.init()
    yield
    rclpy.shutdown()


def make_node(**overrides: Any) -> Node:
    """Names in overrides have a double underscore for the dot."""
    given = [Parameter(name.replace("__", "."), value=value) for name, value in overrides.items()]
    return Node("params", parameter_overrides=given)


def test_every_setting_is_declared_with_its_default_range_and_text() -> None:
    node = make_node()
    assert params.declare(node) == Config()
    for setting in settings():
        described = node.describe_parameter(setting.name)
        assert node.get_parameter(setting.name).value == setting.default
        assert described.read_only is not setting.dynamic and setting.description in described.description
    ranged = node.describe_parameter("geometry.threshold_px").floating_point_range[0]
    assert (ranged.from_value, ranged.to_value) == (0.1, 50.0)
    counted = node.describe_parameter("extract.max_keypoints").integer_range[0]
    assert (counted.from_value, counted.to_value) == (8, 8192)
    assert "keyframe" in node.describe_parameter("track.mode").additional_constraints


def test_overrides_are_taken_in() -> None:
    config = params.declare(make_node(extract__max_keypoints=256, track__mode="keyframe"))
    assert config.extract.max_keypoints == 256 and config.track.mode == "keyframe"


def test_unknown_setting_is_named() -> None:
    with pytest.raises(ConfigError, match="unknown setting 'extract.max_keypoint'"):
        params.declare(make_node(extract__max_keypoint=256))


def test_parameters_of_others_are_let_pass() -> None:
    assert params.declare(make_node(someone__elses=1, use_sim_time=False)) == Config()


@pytest.mark.parametrize("overrides", [{"extract__max_keypoints": 1}, {"extract__max_keypoints": "many"},
                                       {"track__mode": "sideways"}])
def test_bad_override_is_named(overrides: dict[str, Any]) -> None:
    with pytest.raises((ConfigError, ParameterException), match=next(iter(overrides)).replace("__", ".")):
        params.declare(make_node(**overrides))


def test_change_is_validated_and_handed_on() -> None:
    node = make_node()
    seen: list[Config] = []
    params.on_change(node, params.declare(node), seen.append)
    result, = node.set_parameters([Parameter("match.score_threshold", value=0.5)])
    assert result.successful and seen[-1].match.score_threshold == 0.5
    result, = node.set_parameters([Parameter("track.mode", value="reference")])
    assert result.successful and seen[-1].match.score_threshold == 0.5 and seen[-1].track.mode == "reference"


@pytest.mark.parametrize(("name", "value", "reason"), [
    ("match.score_threshold", 1.5, "match.score_threshold"), ("track.mode", "sideways", "sequential"),
    ("model.threads", 4, "read-only")])
def test_bad_change_is_rejected_with_a_reason(name: str, value: Any, reason: str) -> None:
    node = make_node()
    seen: list[Config] = []
    params.on_change(node, params.declare(node), seen.append)
    result, = node.set_parameters([Parameter(name, value=value)])
    assert not result.successful and reason in result.reason and not seen


def test_a_change_that_cannot_be_taken_is_rejected_and_forgotten() -> None:
    node, seen = make_node(), []

    def take(config: Config) -> None:
        if config.extract.max_keypoints == 100:
            raise ConfigError("not now")
        seen.append(config)
    params.on_change(node, params.declare(node), take)
    result, = node.set_parameters([Parameter("extract.max_keypoints", value=100)])
    assert not result.successful and result.reason == "not now"
    node.set_parameters([Parameter("match.score_threshold", value=0.5)])
    assert seen[-1].extract.max_keypoints == Config().extract.max_keypoints


def test_foreign_parameters_may_change() -> None:
    node = make_node()
    params.on_change(node, params.declare(node), lambda config: pytest.fail("nothing of ours changed"))
    node.declare_parameter("someone.elses", 1)
    assert node.set_parameters([Parameter("someone.elses", value=2)])[0].successful
