"""Starting without something the node needs."""

from __future__ import annotations

import sys

import pytest

from efficient_matcher.ros import start


@pytest.mark.parametrize(("module", "hint"), [
    ("rclpy", "source a ROS 2 installation"), ("onnxruntime", "python3-onnxruntime-pip"),
    ("sensor_msgs.msg", "workspace")])
def test_missing_module_is_named_with_a_hint(module: str, hint: str) -> None:
    line = start.describe_import_error(ModuleNotFoundError(f"No module named '{module}'", name=module))
    assert module in line and hint in line and sys.executable in line and "\n" not in line


def test_broken_module_is_told_in_one_line() -> None:
    line = start.describe_import_error(ImportError("numpy.core.multiarray failed to import\nmore", name="cv2"))
    assert line == ("cannot import cv2: numpy.core.multiarray failed to import; a module built for NumPy 1 does not load "
                    "with 2: pip install 'numpy<2'")
    assert start.describe_import_error(ImportError("libGL.so.1: no such file", name="cv2")) == (
        "cannot import cv2: libGL.so.1: no such file")


def test_main_without_ros_is_one_line_and_exit_1(monkeypatch: pytest.MonkeyPatch,
                                                 capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "rclpy", None)  # importing it raises ModuleNotFoundError
    monkeypatch.delitem(sys.modules, "efficient_matcher.ros.node", raising=False)
    assert start.main([]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ") and "rclpy" in lines[0]


def test_interrupted_while_importing_is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupting:
        def find_spec(self, *_: object) -> None:
            raise KeyboardInterrupt

    monkeypatch.delitem(sys.modules, "efficient_matcher.ros.node", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Interrupting()])
    assert start.main([]) == start.INTERRUPTED
