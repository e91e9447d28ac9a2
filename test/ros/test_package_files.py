"""The files ROS tools read: package.xml, parameter files, launch files, what setup.py installs."""

from __future__ import annotations

import ast
import importlib.util
import re
import xml.etree.ElementTree as ET
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest
import yaml

import efficient_matcher
from efficient_matcher.config import Config, settings

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "config").glob("*.yaml"))
LAUNCHES = sorted((ROOT / "launch").glob("*.launch.py"))


def package() -> ET.Element:
    return ET.parse(ROOT / "package.xml").getroot()


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in tree.items():
        name = prefix + key
        result.update(flat(value, name + ".") if isinstance(value, dict) else {name: value})
    return result


def test_versions_agree() -> None:
    in_setup = re.search(r'version="([^"]+)"', (ROOT / "setup.py").read_text()).group(1)
    assert package().findtext("version") == in_setup == efficient_matcher.__version__


def test_package_is_ament_python_of_format_3() -> None:
    root = package()
    assert root.get("format") == "3" and root.findtext("name") == "efficient_matcher"
    assert root.findtext("export/build_type") == "ament_python" and root.findtext("license") == "Apache-2.0"


def test_every_ros_import_is_declared() -> None:
    declared = {entry.text for entry in package().iter() if entry.tag.endswith("depend")}
    ros_packages = {"rclpy", "rcl_interfaces", "builtin_interfaces", "sensor_msgs", "std_msgs", "std_srvs", "launch",
                    "diagnostic_msgs", "cv_bridge", "launch_ros", "message_filters", "diagnostic_updater"}
    used = set()
    for file in [*(ROOT / "efficient_matcher").rglob("*.py"), *LAUNCHES]:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else \
                [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            used |= {name.split(".")[0] for name in names} & ros_packages
    assert {"rclpy", "sensor_msgs", "launch_ros"} <= used <= declared


def test_marker_for_the_ament_index_exists() -> None:
    assert (ROOT / "resource" / "efficient_matcher").is_file()


def test_executables_go_where_ros2_run_looks() -> None:
    parser = ConfigParser()
    parser.read(ROOT / "setup.cfg")
    assert parser["develop"]["script_dir"] == parser["install"]["install_scripts"] == "$base/lib/efficient_matcher"


def test_console_scripts_name_functions_that_exist() -> None:
    scripts = re.findall(r'f"[\w-]+ = \{PACKAGE\}\.([\w.]+):(\w+)"', (ROOT / "setup.py").read_text())
    assert len(scripts) == 2
    for module, function in scripts:
        spec = importlib.util.find_spec(f"efficient_matcher.{module}")
        tree = ast.parse(Path(spec.origin).read_text())
        assert function in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_parameter_file_overrides_known_settings_only_and_repeats_no_default(path: Path) -> None:
    tree = yaml.safe_load(path.read_text())
    assert list(tree) == ["/**"] and list(tree["/**"]) == ["ros__parameters"]
    values = flat(tree["/**"]["ros__parameters"])
    assert values  # rcl rejects an empty file
    values.pop("use_sim_time", None)  # ROS's own
    Config().with_values(values)  # raises for an unknown setting or a value out of range
    defaults = {setting.name: setting.default for setting in settings()}
    assert not [name for name, value in values.items() if defaults[name] == value]


@pytest.mark.parametrize("path", LAUNCHES, ids=lambda path: path.name)
def test_launch_file_compiles_and_has_its_entry(path: Path) -> None:
    tree = ast.parse(path.read_text())
    compile(tree, str(path), "exec")
    assert "generate_launch_description" in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]


def test_launch_and_config_files_are_there() -> None:
    assert {path.name for path in LAUNCHES} == {"matcher.launch.py", "stereo.launch.py", "replay.launch.py"}
    assert {path.name for path in CONFIGS} == {"default.yaml", "keyframe.yaml", "stereo.yaml"}
