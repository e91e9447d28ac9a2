"""Settings: what is accepted, what is refused and how the refusal names its key."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from efficient_matcher.config import Config, TrackConfig, describe, dump_config, load_config, settings
from efficient_matcher.errors import ConfigError


def test_defaults_load_without_a_file() -> None:
    assert load_config() == Config()


def test_every_default_is_in_its_own_range_and_described() -> None:
    for setting in settings():
        assert Config().with_values({setting.name: setting.default}) == Config()
        assert setting.description
        assert (setting.minimum is None) == (setting.maximum is None)


def test_numbers_have_a_range() -> None:
    for setting in settings():
        assert type(setting.default) in (bool, str) or setting.minimum is not None, setting.name


def test_file_then_overrides(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("extract: {max_keypoints: 1024, nms_radius_px: 3}\ntrack:\n  mode: keyframe\n")
    config = load_config(path, {"extract.nms_radius_px": 5})
    assert config.extract.max_keypoints == 1024
    assert config.extract.nms_radius_px == 5
    assert config.track == TrackConfig(mode="keyframe")
    assert config.match == Config().match


def test_a_long_value_with_spaces_is_read_back(tmp_path: Path) -> None:
    config = Config().with_values({"model.bundle": " ".join(["/models/a name with spaces"] * 6)})
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize("text", [
    "/robot1:\n  matcher:\n    ros__parameters:\n      track: {mode: keyframe}\n",
    "robot1:\n  matcher:\n    ros__parameters: {track.mode: keyframe, start_type_description_service: true}\n",
    "track.mode: keyframe\n"])
def test_what_ros_reads_is_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    assert load_config(tmp_path / "config.yaml") == Config().with_values({"track.mode": "keyframe"})


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert load_config(tmp_path / "empty.yaml") == Config()


def test_a_dump_reads_back_unchanged(tmp_path: Path) -> None:
    config = Config().with_values({"track.mode": "reference", "match.score_threshold": 0.05, "model.bundle": "a: b #c",
                                   "extract.subpixel": False, "geometry.seed": 2147483647})
    path = tmp_path / "dump.yaml"
    path.write_text(dump_config(config))
    assert load_config(path) == config


def test_values_are_flat_and_complete() -> None:
    values = Config().values()
    assert values["extract.max_keypoints"] == 512
    assert list(values) == [setting.name for setting in settings()]
    assert Config().with_values(values) == Config()


def test_a_whole_number_is_taken_where_a_real_is_wanted() -> None:
    value = Config().with_values({"geometry.threshold_px": 2}).geometry.threshold_px
    assert value == 2.0 and type(value) is float


@pytest.mark.parametrize(("name", "value"), [
    ("extract.max_keypoints", "512"), ("extract.max_keypoints", 512.0), ("extract.max_keypoints", True),
    ("extract.max_keypoints", None), ("extract.subpixel", 1), ("geometry.threshold_px", "3"),
    ("geometry.threshold_px", True), ("track.mode", 3), ("extract.max_keypoints", [512])])
def test_a_wrong_type_names_the_key(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"^{name} must be of type"):
        Config().with_values({name: value})


@pytest.mark.parametrize(("name", "value", "text"), [
    ("extract.max_keypoints", 7, "must be from 8 to 8192, got 7"),
    ("match.score_threshold", 1.01, "must be from 0 to 1, got 1.01"),
    ("match.score_threshold", float("nan"), "must be from 0 to 1, got nan"),
    ("geometry.threshold_px", 10**400, "must be from 0.1 to 50, got inf"),
    ("geometry.threshold_px", float("inf"), "must be from 0.1 to 50, got inf"),
    ("geometry.seed", -1, "must be from 0 to 2147483647, got -1"),
    ("track.mode", "fast", "must be one of sequential, keyframe, reference, got 'fast'")])
def test_out_of_range_names_key_and_range(name: str, value: object, text: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} {text}$"):
        Config().with_values({name: value})


@pytest.mark.parametrize("name", ["extract.max_keypoint", "extrakt.max_keypoints", "extract", "a.b.c", "", "."])
def test_an_unknown_key_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=f"unknown setting '{name}'"):
        Config().with_values({name: 1})


@pytest.mark.parametrize(("text", "error"), [
    ("extract: {max_keypoint: 5}", "unknown setting 'extract.max_keypoint'"),
    ("extract:", "unknown setting or empty section 'extract'"), ("max_keypoints: 5", "'max_keypoints'"),
    ("- 1", "must be a mapping"), ("a: [", "is not YAML"), ("a: 2026-13-45", "is not YAML"),
    ("[" * 5000, "is not YAML"), ("on: {a: 1}", "unknown section True"), ("5: 6", "unknown section 5"),
    ("/**: {ros__parameters: [1]}", "ros__parameters must be a mapping"),
    ("/**: {ros__parameters: {5: 6}}", "unknown section 5"),
    ("extract: {1: 2}", "unknown setting 'extract.1'")])
def test_a_bad_file_is_named_with_its_key(tmp_path: Path, text: str, error: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"bad.yaml: .*{error}"):
        load_config(path)


def test_parameter_files_of_ros_are_read_as_well(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("/**:\n  ros__parameters:\n    use_sim_time: true\n"
                    "    qos_overrides./image.subscription.reliability: reliable\n    extract: {max_keypoints: 300}\n")
    assert load_config(path) == load_config(None, {"extract.max_keypoints": 300})
    for shipped in ("default", "keyframe", "stereo"):
        load_config(Path(__file__).parents[1] / "config" / f"{shipped}.yaml")
    path.write_text("/**:\n  ros__parameters:\n    extract: {max_keypoint: 300}\n")
    with pytest.raises(ConfigError, match="params.yaml: unknown setting 'extract.max_keypoint'"):
        load_config(path)
    path.write_text("/front:\n  ros__parameters:\n")
    assert load_config(path) == load_config()


def test_of_several_nodes_in_a_file_this_ones_parameters_are_read(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    driver = "/cam:\n  driver:\n    ros__parameters: {fps: 30}\n"
    of_all = "/**:\n  ros__parameters:\n    extract: {max_keypoints: 300, border_px: 9}\n"
    own = "/robot:\n  efficient_matcher:\n    ros__parameters:\n      extract: {max_keypoints: 200}\n"
    path.write_text(own + driver + of_all)  # in whatever order: what is for this node wins
    assert load_config(path) == load_config(None, {"extract.max_keypoints": 200, "extract.border_px": 9})
    path.write_text(of_all + own.replace("efficient_matcher", "front"))
    assert load_config(path) == load_config(None, {"extract.max_keypoints": 200, "extract.border_px": 9})
    path.write_text(driver + own.replace("efficient_matcher", "front"))
    with pytest.raises(ConfigError, match="params.yaml: holds parameters of several nodes, /cam/driver, /robot/front"):
        load_config(path)


def test_a_misspelt_setting_is_corrected() -> None:
    with pytest.raises(ConfigError, match="'match.score_treshold'; did you mean match.score_threshold?"):
        Config().with_values({"match.score_treshold": 0.3})
    with pytest.raises(ConfigError, match="'score_threshold'; did you mean .*match.score_threshold"):
        Config().with_values({"score_threshold": 0.3})


def test_a_file_that_is_not_there_or_not_text(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none.yaml: cannot be read: No such file"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\xfa\x00")
    with pytest.raises(ConfigError, match="binary.yaml: is not YAML"):
        load_config(tmp_path / "binary.yaml")


def test_a_config_is_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Config().extract.max_keypoints = 3


def test_descriptions_carry_unit_range_and_choices() -> None:
    texts = {setting.name: describe(setting) for setting in settings()}
    assert texts["input.width"].endswith("(px, 0 to 4096)")
    assert texts["geometry.seed"].endswith("(0 to 2147483647)")
    assert texts["geometry.confidence"].endswith("(0.5 to 0.999999)")
    assert texts["track.mode"].endswith("(sequential | keyframe | reference)")
