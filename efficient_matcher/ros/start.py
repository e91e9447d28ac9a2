"""Entry point of `matcher_node`: says in one line what is missing instead of a traceback."""

from __future__ import annotations

import sys

INTERRUPTED = 130  # what a shell says of a program that Ctrl-C ended
HINTS = {
    "rclpy": "source a ROS 2 installation first, for example: source /opt/ros/jazzy/setup.bash",
    "cv2": "install OpenCV: rosdep key python3-opencv, or pip install opencv-python-headless",
    "numpy": "install NumPy: rosdep key python3-numpy",
    "yaml": "install PyYAML: rosdep key python3-yaml",
    "onnxruntime": "install onnxruntime: rosdep key python3-onnxruntime-pip, or pip install onnxruntime; "
                   "for a virtual environment create it with --system-site-packages",
}

OLDER_NUMPY = "; a module built for NumPy 1 does not load with 2: pip install 'numpy<2'"


def main(args: list[str] | None = None) -> int:
    """Runs the node until it is interrupted or ROS shuts down; returns the exit code."""
    try:
        import cv2  # noqa: F401  (also finds an OpenCV that was built for another NumPy)
        import onnxruntime  # noqa: F401  (the node opens the models only after a while)

        from efficient_matcher.ros.node import run

        return run(args)
    except ImportError as error:
        print(f"error: {describe_import_error(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # importing takes a second, long enough to be interrupted
        return INTERRUPTED


def describe_import_error(error: ImportError) -> str:
    """One line: the module that is missing and how to get it; for other failures the error's own first line."""
    module = (error.name or "").split(".")[0]
    if not isinstance(error, ModuleNotFoundError):
        text = str(error).strip().splitlines()[0]
        return f"cannot import {module or 'a module'}: {text}" + (OLDER_NUMPY if "numpy" in text.lower() else "")
    hint = HINTS.get(module, "install it, or source the workspace it is in")
    return f"Python module '{error.name}' is missing for {sys.executable}: {hint}"


if __name__ == "__main__":
    sys.exit(main())
