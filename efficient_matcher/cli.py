"""The `efficient-matcher` command.

The subcommands are in `commands/app.py`, what they do in `commands/<name>.py`. This file must import
where nothing but the standard library is installed, so that a missing module is one clear line.
"""

from __future__ import annotations

import os
import sys

PACKAGES = {"cv2": "opencv-python-headless", "yaml": "PyYAML"}
EXTRAS = {"typer": "replay", "rich": "replay", "rosbags": "replay", "torch": "train", "safetensors": "train",
          "onnx": "train", "onnxscript": "train", "skimage": "demo", "cyclonedds": "dds",
          "matplotlib": "plots"}

OLDEST_TYPER = 0, 9  # Ubuntu 22.04 has 0.4, whose commands cannot be declared as ours are


def main() -> int:
    """Run the command line; returns the exit status: 0 done, 1 failed, 2 wrong use, 130 interrupted."""
    # A damaged image is counted and named; OpenCV would print a line of its own for each.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")
    try:
        import typer
        if tuple(map(int, typer.__version__.split(".")[:2])) < OLDEST_TYPER:
            print(f"error: typer {typer.__version__} is too old: pip install 'typer>=0.12'", file=sys.stderr)
            return 1
        from efficient_matcher.commands.app import app
        return app(prog_name="efficient-matcher", standalone_mode=True) or 0
    except ImportError as error:
        if error.name is None or error.name.split(".")[0] == "efficient_matcher":
            raise
        print(f"error: {describe_missing(error.name)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def describe_missing(module: str) -> str:
    """One line on a module that is not installed, with the command that installs it."""
    name = module.split(".")[0]
    wanted = f"'efficient-matcher[{EXTRAS[name]}]'" if name in EXTRAS else PACKAGES.get(name, name)
    return f"the module '{name}' is missing: pip install {wanted}"


if __name__ == "__main__":
    sys.exit(main())
