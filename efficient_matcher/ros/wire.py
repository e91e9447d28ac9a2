"""ROS message types as Cyclone DDS wants them, made at run time from a rosbags typestore: no IDL files, no generator.

Cyclone gets the real fields, so that the types it announces are true, but the bytes are written and read by
rosbags: Cyclone's own Python code takes 500 times as long for an image. This leans on what cyclonedds 11 calls on
a type (`serialize`, `deserialize`), so other major versions are not accepted.
"""

from __future__ import annotations

from typing import Any

from cyclonedds.idl import IdlStruct, make_idl_struct, types
from rosbags.interfaces import Nodetype
from rosbags.typesys import Stores, get_typestore
from rosbags.typesys.store import Typestore

_BASE = {"bool": bool, "byte": types.uint8, "char": types.uint8, "octet": types.uint8, "int8": types.int8,
         "uint8": types.uint8, "int16": types.int16, "uint16": types.uint16, "int32": types.int32,
         "uint32": types.uint32, "int64": types.int64, "uint64": types.uint64, "float32": types.float32,
         "float64": types.float64}


def ros_typestore(distribution: str = "") -> Typestore:
    """The types of a ROS 2 release; "" for what all since Iron share.

    The messages used here are alike in all; only what nodes tell each other about themselves differs in Humble.
    """
    return get_typestore(Stores.ROS2_HUMBLE if distribution == "humble" else Stores.ROS2_JAZZY)


class WireTypes:
    """Makes and keeps the types of one typestore."""

    def __init__(self, typestore: Typestore) -> None:
        self.typestore = typestore
        self._structs: dict[str, type[IdlStruct]] = {}
        self._wires: dict[str, type[Any]] = {}

    def wire(self, ros_type: str) -> type[Any]:
        """The class for a topic of `ros_type`, such as sensor_msgs/msg/Image.

        Made from a message of the typestore, which data writers then take, and which is the attribute `message` of
        what data readers return; its arrays are views of the received bytes.
        """
        if ros_type not in self._wires:
            self._wires[ros_type] = _with_rosbags_codec(self._struct(ros_type), self.typestore, ros_type)
        return self._wires[ros_type]

    def user_data(self, ros_type: str) -> bytes:
        """What ROS graph tools read of an endpoint: the hash of its type's definition."""
        return f"typehash={self.typestore.hash_rihs01(ros_type)};".encode()

    def _struct(self, ros_type: str) -> type[IdlStruct]:
        package, _, name = ros_type.split("/")
        fields = {field: self._field(description) for field, description in self.typestore.fielddefs[ros_type][1]}
        return make_idl_struct(f"{name}_", f"{package}.msg.dds_.{name}_", fields, dataclassify=False)

    def _field(self, description: Any) -> Any:
        kind, detail = description
        if kind == Nodetype.NAME:
            if detail not in self._structs:
                self._structs[detail] = self._struct(detail)
            return self._structs[detail]
        if kind == Nodetype.ARRAY:
            return types.array[self._field(detail[0]), detail[1]]
        if kind == Nodetype.SEQUENCE:
            element = self._field(detail[0])
            return types.sequence[element, detail[1]] if detail[1] else types.sequence[element]
        base, bound = detail
        if base == "string":
            return types.bounded_str[bound] if bound else str
        return _BASE[base]


def _with_rosbags_codec(struct: type[Any], typestore: Typestore, ros_type: str) -> type[Any]:
    """Replaces what cyclonedds calls on a type; not a base class, for Cyclone takes every base for a message type."""
    def init(self: Any, message: Any) -> None:
        self.message = message

    def serialize(self: Any, buffer: Any = None, endianness: Any = None, use_version_2: bool | None = None) -> bytes:
        return bytes(typestore.serialize_cdr(self.message, ros_type))  # version 1, the only one ROS 2 understands

    def deserialize(cls: type[Any], data: bytes, has_header: bool = True, use_version_2: bool | None = None) -> Any:
        return cls(typestore.deserialize_cdr(data, ros_type))

    def deserialize_key(cls: type[Any], *args: Any, **options: Any) -> None:
        return None  # asked for when a publisher goes away; ROS topics have no keys

    struct.__init__, struct.serialize = init, serialize
    struct.deserialize, struct.deserialize_key = classmethod(deserialize), classmethod(deserialize_key)
    return struct
