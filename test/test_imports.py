"""The rules on who may import whom, read from the source, and the deployed path with everything else blocked."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "efficient_matcher"

CORE_ORDER = ["native", "compressed", "runtimes", "backend", "bundle", "image", "locate", "features", "transport", "remembered", "stages",
              "least_squares", "geometry", "epipolar", "relative_pose", "local_maps", "motion_prior", "matches", "turning", "motion",
              "align", "refine", "settle", "tracking", "pipeline", "memory", "live"]
CORE_THIRD_PARTY = {"numpy", "cv2", "onnxruntime", "openvino", "yaml"}
GROUND = {"errors", "records", "config", "settings_file"}
ROS = {"rclpy", "cv_bridge", "sensor_msgs", "std_msgs", "std_srvs", "diagnostic_msgs", "diagnostic_updater",
       "geometry_msgs", "builtin_interfaces", "rcl_interfaces", "message_filters", "launch", "launch_ros",
       "ament_index_python", "cyclonedds"}


@dataclass(frozen=True)
class Import:
    """One imported module: dotted name, line, and whether it happens only when a function is called."""

    module: str
    line: int
    lazy: bool

    @property
    def top(self) -> str:
        return self.module.split(".")[0]

    @property
    def own(self) -> str:
        """Path below the package, such as core.matches; "" for other packages."""
        return self.module.partition(".")[2] if self.top == PACKAGE.name else ""


def imports_of(path: Path) -> list[Import]:
    package = list(path.relative_to(ROOT).with_suffix("").parts[:-1])
    return list(_walk(ast.parse(path.read_text(encoding="utf-8")), package, False))


def _walk(node: ast.AST, package: list[str], lazy: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, lazy) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            base = package[:len(package) - child.level + 1] if child.level else []
            module = ".".join([*base, *([child.module] if child.module else [])])
            # `from package.core import matches` names a module too.
            yield from (Import(f"{module}.{alias.name}" if _is_module(module, alias.name) else module,
                               child.lineno, lazy) for alias in child.names)
        else:
            inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from _walk(child, package, lazy or inside)


def _is_module(package: str, name: str) -> bool:
    path = ROOT.joinpath(*package.split("."), name)
    return path.with_suffix(".py").is_file() or path.is_dir()


def sources(folder: str = "") -> list[Path]:
    return sorted((PACKAGE / folder).rglob("*.py"))


def offences(paths: list[Path], is_wrong: object) -> list[str]:
    return [f"{path.relative_to(ROOT)}:{entry.line} imports {entry.module}"
            for path in paths for entry in imports_of(path) if is_wrong(entry)]


def outside(*folders: str) -> list[Path]:
    return [path for path in sources() if path.relative_to(PACKAGE).parts[0] not in folders]


def test_core_files_import_only_files_above_them() -> None:
    wrong = []
    for path in sources("core"):
        if path.stem == "__init__":
            continue
        assert path.stem in CORE_ORDER, f"{path.name} has no place in the order"
        above = {f"core.{name}" for name in CORE_ORDER[:CORE_ORDER.index(path.stem)]} | GROUND
        wrong += offences([path], lambda entry: entry.own and entry.own not in above)
    assert wrong == []


def test_core_leans_on_nothing_but_numpy_opencv_the_runtimes_and_yaml() -> None:
    allowed = CORE_THIRD_PARTY | set(sys.stdlib_module_names) | {PACKAGE.name}
    assert offences(sources("core"), lambda entry: entry.top not in allowed) == []


def test_the_ground_stands_alone() -> None:
    paths = [PACKAGE / f"{name}.py" for name in sorted(GROUND)]
    assert offences(paths, lambda entry: entry.own and entry.own not in GROUND) == []
    allowed = {"numpy", "yaml", PACKAGE.name} | set(sys.stdlib_module_names)
    assert offences(paths, lambda entry: entry.top not in allowed) == []


def test_only_learn_imports_torch() -> None:
    assert offences(outside("learn"), lambda entry: entry.top in {"torch", "torchvision"}) == []


def test_only_commands_and_evaluate_reach_for_learn_and_only_when_called() -> None:
    def reaches(entry: Import) -> bool:
        return entry.own.split(".")[0] == "learn"

    assert offences(outside("learn", "commands", "evaluate"), reaches) == []
    assert offences(sources("evaluate"), lambda entry: reaches(entry) and not entry.lazy) == []


def test_only_ros_imports_ros() -> None:
    assert offences(outside("ros"), lambda entry: entry.top in ROS) == []


def test_bags_are_read_and_written_where_sources_and_messages_are() -> None:
    wrong = offences(outside("sources", "ros", "commands"), lambda entry: entry.top == "rosbags")
    assert wrong == []


def test_nothing_below_imports_the_command_line() -> None:
    paths = [path for path in outside("commands") if path.name != "cli.py"]
    assert offences(paths, lambda entry: entry.own.split(".")[0] in {"cli", "commands"}) == []


def test_the_scan_sees_every_kind_of_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    folder = tmp_path / "efficient_matcher" / "core"
    folder.mkdir(parents=True)
    (folder / "image.py").touch()
    (folder / "x.py").write_text(
        "import a.b, c\nfrom d import e\nfrom efficient_matcher.core import image\nfrom . import image\n"
        "from .image import y\nfrom ..errors import z\n"
        "if True:\n    import f\ndef g():\n    import h\nclass K:\n    def m(self):\n        from n import o\n")
    found = [(entry.module, entry.lazy) for entry in imports_of(folder / "x.py")]
    own = ("efficient_matcher.core.image", False)
    assert found == [("a.b", False), ("c", False), ("d", False), own, own, own, ("efficient_matcher.errors", False),
                     ("f", False), ("h", True), ("n", True)]


DEPLOYED = """
import json, sys
bundle, images, root, *blocked = sys.argv[1:]

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Block())
sys.path.insert(0, root)
import numpy as np
from efficient_matcher import Matcher
from efficient_matcher.config import Config
from efficient_matcher.core.live import LatestFrameWorker
from efficient_matcher.core.pipeline import Tracker
matcher = Matcher.from_bundle(bundle, Config().with_values({"input.width": 0, "input.height": 0, "model.threads": 1}))
results = []
worker = LatestFrameWorker(Tracker(matcher).process, results.append)
for image in np.load(images):
    worker.submit(image)
    assert worker.wait_idle(60)
assert worker.stop()
print(json.dumps({"matches": [len(r.matches) for r in results], "failed": worker.stats().failed,
                  "valid": [r.homography.valid for r in results],
                  "loaded": sorted({name.split(".")[0] for name in sys.modules} & set(blocked))}))
"""


def run_python(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_deployed_path_runs_with_all_else_blocked(tiny_bundle: Path, warped_pair: object, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", np.stack([warped_pair.image0, warped_pair.image1]))
    blocked = ["torch", "torchvision", "onnx", "onnxscript", "safetensors", "scipy", "skimage", "PIL", "matplotlib",
               "typer", "rich", "rosbags", *sorted(ROS)]
    out = json.loads(run_python("-c", DEPLOYED, str(tiny_bundle), str(tmp_path / "images.npy"), str(ROOT), *blocked))
    assert out["loaded"] == [] and out["failed"] == 0 and out["valid"] == [True]
    assert out["matches"][0] > 200


def test_the_package_alone_loads_nothing_heavy() -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import efficient_matcher as m; print(m.__version__, " \
           "*sorted({'numpy', 'cv2', 'onnxruntime', 'torch', 'yaml'} & set(sys.modules)))"
    assert run_python("-c", code).split() == ["0.1.0"]


def test_the_command_line_starts_without_the_heavy_libraries() -> None:
    pytest.importorskip("typer")
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import efficient_matcher.cli; " \
           "print(*sorted({'cv2', 'onnxruntime', 'torch', 'rosbags', 'onnx'} & set(sys.modules)))"
    assert run_python("-c", code).split() == []


def test_the_package_has_no_other_names() -> None:
    import efficient_matcher

    with pytest.raises(AttributeError, match="no attribute 'Matchr'"):
        efficient_matcher.Matchr
