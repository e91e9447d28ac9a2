"""Files of settings: nested sections of YAML, or a parameter file of ROS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from efficient_matcher.errors import ConfigError

NODE = "efficient_matcher"  # as the launch files call it
ROS_PARAMETERS = ("use_sim_time", "qos_overrides", "start_type_description_service")  # every node of ROS has these


def read_yaml(path: Path) -> Any:
    """What a YAML file says. Raises ConfigError with the cause, which the caller puts behind the file's name."""
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: of bytes, and of a day that is none
        raise ConfigError(f"is not YAML: {str(error).splitlines()[0]}") from None


def read_settings(path: Path) -> dict[str, Any]:
    """What a file says, as `section.field` -> value, not checked any further. Raises ConfigError."""
    tree = read_yaml(path)
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError("must be a mapping of sections")
    flat = {}
    for section, entries in _below_ros_heading(tree).items():
        if not isinstance(section, str):
            raise ConfigError(f"unknown section {section!r}; YAML reads what looks like that as no text")
        if "." in section and not isinstance(entries, dict):  # ROS knows both ways
            flat[section] = entries
        elif not isinstance(entries, dict):
            raise ConfigError(f"unknown setting or empty section '{section}'")
        else:
            flat.update({f"{section}.{key}": value for key, value in entries.items()})
    return flat


def _below_ros_heading(tree: dict[str, Any]) -> dict[str, Any]:
    """The sections; in a parameter file of ROS they stand below a node's name, which may be split by its namespaces,
    beside parameters of ROS itself. What is for all nodes comes first, then what is for this one."""
    nodes = _ros_parameters(tree)
    if not nodes:
        return tree
    sections: dict[str, Any] = {}
    for name in _for_this_node(list(nodes)):
        for key, entries in nodes[name].items():
            if str(key).split(".")[0] in ROS_PARAMETERS:
                continue
            known = sections.get(key)
            sections[key] = {**known, **entries} if isinstance(known, dict) and isinstance(entries, dict) else entries
    return sections


def _for_this_node(names: list[str]) -> list[str]:
    """Those of the nodes of a file whose parameters are this one's: of all, and of the only other one or the one that
    is called efficient_matcher, as a camera's driver may stand in the same file. Raises ConfigError."""
    of_all = [name for name in names if name.endswith("*")]
    others = [name for name in names if not name.endswith("*")]
    own = [name for name in others if name.rpartition("/")[2] == NODE]
    if len(others) > 1 and len(own) != 1:
        raise ConfigError(f"holds parameters of several nodes, {', '.join(others)}; leave only one, or call one {NODE}")
    return of_all + (own or others)


def _ros_parameters(tree: Any, name: str = "") -> dict[str, dict[str, Any]]:
    """What stands below each `ros__parameters`, by the name of its node; nothing where there is anything else."""
    if not isinstance(tree, dict):
        return {}
    if set(tree) == {"ros__parameters"}:
        parameters = tree["ros__parameters"] or {}
        if not isinstance(parameters, dict):
            raise ConfigError("ros__parameters must be a mapping")
        return {name: parameters}
    below = [_ros_parameters(part, f"{name}/{str(key).strip('/')}") for key, part in tree.items()]
    return {node: parameters for part in below for node, parameters in part.items()} if all(below) else {}
