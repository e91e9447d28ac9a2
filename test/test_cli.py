"""The command line: exit codes, one-line failures, help."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from efficient_matcher import cli

pytest.importorskip("typer")
COMMANDS = ("replay", "live", "match", "make-bag", "dump-config", "info", "demo", "export", "train", "evaluate",
            "bench", "make-pairs", "make-scenes")


@pytest.fixture()
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run `efficient-matcher ARGS`; gives exit status, output, errors."""
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["efficient-matcher", *map(str, arguments)])
        try:
            status = cli.main()
        except SystemExit as stop:
            status = stop.code or 0
        output = capsys.readouterr()
        return status, output.out, output.err
    return run


def test_help_lists_every_command(call: Callable) -> None:
    status, output, _ = call("--help")
    assert status == 0
    assert all(re.search(rf"\W{name} ", output) for name in COMMANDS)


@pytest.mark.parametrize("command", [("replay",), ("match",), ("make-bag",), ("make-pairs",), ("dump-config",),
                                     ("info",), ("demo",), ("export",), ("bench",), ("train", "superpoint"), ("train", "superglue"),
                                     ("evaluate", "homography"), ("evaluate", "pose"), ("make-scenes",)])
def test_every_command_explains_itself(call: Callable, command: tuple[str, ...]) -> None:
    status, output, _ = call(*command, "--help")
    assert status == 0
    assert "Usage: efficient-matcher " + " ".join(command) in output


@pytest.mark.parametrize("arguments", [("replya",), ("replay",), ("replay", "a", "b"), ("replay", "a", "--mode", "x"),
                                       ("match", "a"), ("replay", "a", "--limit", "0")])
def test_wrong_use_is_exit_2(call: Callable, arguments: tuple[str, ...]) -> None:
    assert call(*arguments)[0] == 2


@pytest.mark.parametrize(("arguments", "message"), [
    (("replay", "none.mcap"), "error: none.mcap: does not exist\n"),
    (("match", "none.png", "b.png"), "error: none.png: cannot be read: No such file or directory\n"),
    (("dump-config", "--set", "extract.keypoints=5"), "error: unknown setting 'extract.keypoints'; did you mean extract.max_keypoints?\n"),
    (("dump-config", "--set", "extract.max_keypoints=1"),
     "error: extract.max_keypoints must be from 8 to 8192, got 1\n"),
    (("dump-config", "--set", "extract.max_keypoints=2026-13-45"),
     "error: extract.max_keypoints must be of type int, got '2026-13-45'\n"),
    (("make-bag", "none", "out"), "error: none: is not a folder of images\n"),
    (("make-bag", ".", "out", "--topic", "my camera"),
     "error: 'my camera' is not a name in ROS: letters, digits and _ between slashes, no digit first\n"),
    (("evaluate", "homography", "none.txt", "--json", "/"), "error: /: cannot be written: is a folder\n"),
    (("bench", "--xfeat", "none.pt"), "error: none.pt: no such file\n"),
    (("evaluate", "sweep", "photos", "--out", "out", "--xfeat", "none.pt"), "error: none.pt: no such file\n"),
])
def test_expected_failures_are_one_line_and_exit_1(
        call: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(*arguments) == (1, "", message)


def test_a_bag_of_images_is_whole_or_not_there(call: Callable, tmp_path: Path, make_textured: Callable) -> None:
    pytest.importorskip("rosbags")
    (tmp_path / "in").mkdir()
    for name in "ab":
        cv2.imwrite(str(tmp_path / "in" / f"{name}.png"), make_textured(48, 64))
    (tmp_path / "in" / "c.png").write_text("no image")
    status, _, errors = call("make-bag", tmp_path / "in", tmp_path / "bag")
    assert status == 1 and "c.png" in errors and not (tmp_path / "bag").exists()


def test_a_bag_keeps_pictures_as_they_are_stored(call: Callable, tmp_path: Path, make_textured: Callable) -> None:
    """Whatever an orientation tag (here: a quarter turn) says; and half a picture is none."""
    rosbags = pytest.importorskip("rosbags.highlevel")
    (tmp_path / "in").mkdir()
    jpeg = cv2.imencode(".jpg", make_textured(48, 64))[1].tobytes()
    tag = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    (tmp_path / "in" / "1.jpg").write_bytes(jpeg[:2] + b"\xff\xe1" + (len(tag) + 2).to_bytes(2, "big") + tag + jpeg[2:])
    assert call("make-bag", tmp_path / "in", tmp_path / "bag")[0] == 0
    with rosbags.AnyReader([tmp_path / "bag"]) as reader:
        connection, _, raw = next(reader.messages())
        message = reader.deserialize(raw, connection.msgtype)
    assert (message.height, message.width) == (48, 64)
    (tmp_path / "in" / "2.jpg").write_bytes(jpeg[:-len(jpeg) // 3])
    status, _, errors = call("make-bag", tmp_path / "in", tmp_path / "other")
    assert status == 1 and "2.jpg: data is a JPEG cut short" in errors


def test_images_of_one_stamp_make_no_bag(call: Callable, tmp_path: Path, make_textured: Callable) -> None:
    pytest.importorskip("rosbags")
    (tmp_path / "in").mkdir()
    for name in ("1.png", "001.png", "2.png"):
        cv2.imwrite(str(tmp_path / "in" / name), make_textured(48, 64))
    status, _, errors = call("make-bag", tmp_path / "in", tmp_path / "bag")
    assert status == 1 and "the same stamp by their names" in errors and not (tmp_path / "bag").exists()


def test_output_that_is_full_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "efficient_matcher.cli", "dump-config"], stdout=full,
                              stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: output: No space left")


def test_interrupt_is_one_line_and_exit_130(call: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("efficient_matcher.commands.dump_config.run", interrupt)
    assert call("dump-config") == (130, "", "interrupted\n")


def test_an_interrupted_training_says_that_it_goes_on(call: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("efficient_matcher.commands.curves.run", interrupt)
    assert call("train", "curves", "run") == (130, "", "interrupted; the same command goes on\n")


def test_interrupt_before_the_command_is_the_same_line(call: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("typer.core.TyperGroup.parse_args", interrupt)
    assert call("dump-config") == (130, "", "interrupted\n")


@pytest.mark.parametrize(("module", "advice"), [
    ("typer", "pip install 'efficient-matcher[replay]'"), ("cv2", "pip install opencv-python-headless")])
def test_a_missing_module_is_one_line(module: str, advice: str) -> None:
    program = (f"import sys; sys.modules[{module!r}] = None; sys.argv = ['efficient-matcher', 'match', 'a', 'b']; "
               "from efficient_matcher.cli import main; sys.exit(main())")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: the module '{module}' is missing: {advice}\n"


def test_a_typer_that_is_too_old_is_one_line(call: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("typer.__version__", "0.4.0")
    assert call("dump-config") == (1, "", "error: typer 0.4.0 is too old: pip install 'typer>=0.12'\n")


def test_set_and_config_reach_the_settings(call: Callable, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("match: {score_threshold: 0.3}\n")
    status, output, _ = call("dump-config", "--config", tmp_path / "a.yaml", "--set", "track.mode=keyframe")
    assert status == 0
    assert "score_threshold: 0.3 " in output and "mode: keyframe " in output


@pytest.mark.parametrize("options", [(), ("--storage", "sqlite3", "--compressed")])
def test_folder_to_bag_to_results(
        call: Callable, tmp_path: Path, tiny_bundle: Path, make_textured: Callable, options: tuple[str, ...]) -> None:
    pytest.importorskip("rosbags")
    scene = make_textured(140, 180)
    for index in range(3):
        image = np.ascontiguousarray(scene[index:120 + index, 2 * index:160 + 2 * index])
        cv2.imwrite(str(tmp_path / f"17000000{index:02}.5.png"), image)
    assert call("make-bag", tmp_path, tmp_path / "bag", *options)[:2] == (0, f"{tmp_path / 'bag'}: 3 images\n")
    status, output, errors = call("replay", tmp_path / "bag", "--out", tmp_path / "out", "--bundle", tiny_bundle,
                                  "--set", "input.width=0", "--set", "input.height=0", "--mode", "keyframe")
    assert (status, errors) == (0, "")
    assert "2, of them valid 2" in output
