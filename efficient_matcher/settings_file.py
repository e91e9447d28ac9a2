"""Files of settings: nested sections of YAML, or a parameter file of ROS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from efficient_matcher.errors import ConfigError

ROS_PARAMETERS = ("use_sim_time", "qos_overrides", "start_type_description_service")  # every node of ROS has these


def read_settings(path: Path) -> dict[str, Any]:
    """What a file says, as `section.field` -> value, not checked any further. Raises ConfigError."""
    try:
        tree = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: of bytes, and of a day that is none
        raise ConfigError(f"is not YAML: {str(error).splitlines()[0]}") from None
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
    beside parameters of ROS itself."""
    parameters = _ros_parameters(tree)
    if not parameters:
        return tree
    return {name: entries for part in parameters for name, entries in part.items()
            if str(name).split(".")[0] not in ROS_PARAMETERS}


def _ros_parameters(tree: Any) -> list[dict[str, Any]]:
    """What stands below each `ros__parameters`; none where there is anything else."""
    if not isinstance(tree, dict):
        return []
    if set(tree) == {"ros__parameters"}:
        parameters = tree["ros__parameters"] or {}
        if not isinstance(parameters, dict):
            raise ConfigError("ros__parameters must be a mapping")
        return [parameters]
    below = [_ros_parameters(part) for part in tree.values()]
    return [part for parts in below for part in parts] if all(below) else []
