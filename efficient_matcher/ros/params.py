"""Settings of config.py <-> declared ROS parameters of the same names (`section.field`)."""

from __future__ import annotations

from collections.abc import Callable

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from efficient_matcher.config import Config, Setting, describe, settings
from efficient_matcher.errors import ConfigError, likely

SECTIONS = frozenset(setting.name.split(".")[0] for setting in settings())
_NOT_OURS = ("use_sim_time", "qos_overrides.", "start_type_description_service")


def declare(node: Node) -> Config:
    """Declares every setting, with overrides from parameter files and the command line taken in.

    Raises ConfigError for a parameter no setting knows, a wrong type or a value out of range.
    """
    _check_names(node)
    values = {}
    for setting in settings():
        values[setting.name] = node.declare_parameter(setting.name, setting.default, descriptor(setting)).value
    return Config().with_values(values)


def descriptor(setting: Setting) -> ParameterDescriptor:
    """What `ros2 param describe` and rqt's sliders show of a setting."""
    result = ParameterDescriptor(description=describe(setting), read_only=not setting.dynamic)
    if setting.choices:
        result.additional_constraints = "one of: " + ", ".join(setting.choices)
    if setting.minimum is None or setting.maximum is None:
        return result
    if isinstance(setting.default, float):
        result.floating_point_range = [FloatingPointRange(from_value=float(setting.minimum),
                                                          to_value=float(setting.maximum))]
    else:
        result.integer_range = [IntegerRange(from_value=int(setting.minimum), to_value=int(setting.maximum))]
    return result


def on_change(node: Node, config: Config, apply: Callable[[Config], None]) -> None:
    """From now on validates what others set on the node, and hands each new config to `apply`."""
    current = config

    def check(parameters: list[Parameter]) -> SetParametersResult:
        nonlocal current
        changes = {parameter.name: parameter.value for parameter in parameters
                   if parameter.name.split(".")[0] in SECTIONS}
        if not changes:
            return SetParametersResult(successful=True)
        try:
            changed = current.with_values(changes)
            apply(changed)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        current = changed
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(check)


def _check_names(node: Node) -> None:
    """ROS ignores overrides nobody declares, so a misspelt setting would silently keep its default."""
    known = {setting.name for setting in settings()}
    # rclpy has no public way to list overrides that are not declared
    for name in getattr(node, "_parameter_overrides", {}):
        if name in known or name.startswith(_NOT_OURS):
            continue
        if name.split(".")[0] in SECTIONS:
            raise ConfigError(f"unknown setting '{name}'{likely(name, known)}")
        node.get_logger().warning(f"parameter '{name}' is no setting of this node and is ignored")
