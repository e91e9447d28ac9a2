"""A ROS 2 node over plain DDS, from pip: topics that ROS nodes see, publish to and subscribe to. No ROS needed.

Publishers and subscriptions have the methods of rclpy's that are used here. There are no services and no
parameters. Needs a ROS side whose middleware is DDS (Cyclone or Fast DDS).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np
from cyclonedds.builtin import BuiltinDataReader, BuiltinTopicDcpsPublication
from cyclonedds.core import DDSException, GuardCondition, ReadCondition, WaitSet
from cyclonedds.core import InstanceState, SampleState, ViewState
from cyclonedds.domain import Domain, DomainParticipant
from cyclonedds.pub import DataWriter
from cyclonedds.qos import Policy, Qos
from cyclonedds.sub import DataReader
from cyclonedds.topic import Topic
from cyclonedds.util import duration
from rosbags.serde import SerdeError

from efficient_matcher.errors import MatcherError
from efficient_matcher.ros import discovery
from efficient_matcher.ros.messages import MessageTypes
from efficient_matcher.ros.wire import WireTypes, ros_typestore

DISCOVERY_TOPIC, DISCOVERY_TYPE = "ros_discovery_info", "rmw_dds_common/msg/ParticipantEntitiesInfo"
BLOCKING_S = 1.0  # a publisher waits so long for subscribers that do not keep up
_UNREAD = ViewState.Any | InstanceState.Any | SampleState.NotRead

# Of a process, one configuration per domain: Cyclone knows no second one, and all participants go with the domain.
_domains: dict[int, Domain] = {}


def sensor_qos() -> list[Any]:
    """SensorData with depth 1: best effort matches any publisher, and only the newest image counts."""
    return [Policy.Reliability.BestEffort, Policy.Durability.Volatile, Policy.History.KeepLast(1)]


def reliable_qos(depth: int) -> list[Any]:
    """What rclpy makes of a bare depth."""
    return [Policy.Reliability.Reliable(duration(seconds=BLOCKING_S)), Policy.Durability.Volatile,
            Policy.History.KeepLast(depth)]


def latched_qos() -> list[Any]:
    """Late subscribers get the last message."""
    history = Policy.History.KeepLast(1)
    keep = Policy.DurabilityService(0, history, -1, -1, -1)
    return [Policy.Reliability.Reliable(duration(seconds=BLOCKING_S)), Policy.Durability.TransientLocal, history, keep]


class DdsPublisher:
    """Publishes messages of the node's typestore on one topic."""

    def __init__(self, writer: DataWriter, wire: type[Any], topic: str) -> None:
        self.entity, self._wire, self._topic = writer, wire, topic

    def publish(self, message: Any) -> None:
        """Sends a message; from any thread. Raises MatcherError when a reliable subscriber does not keep up."""
        try:
            self.entity.write(self._wire(message))
        except DDSException as error:
            raise MatcherError(f"{self._topic}: cannot be published: {error}") from None

    def get_subscription_count(self) -> int:
        """How many subscriptions are matched."""
        return int(self.entity.get_publication_matched_status().current_count)


class DdsSubscription:
    """Hands messages of one topic to `callback`, in the thread that spins the node."""

    def __init__(self, reader: DataReader, topic: str, callback: Callable[[Any], None],
                 on_error: Callable[[str], None]) -> None:
        self.entity, self._topic, self._callback, self._on_error = reader, topic, callback, on_error
        self.condition = ReadCondition(reader, _UNREAD)

    def get_publisher_count(self) -> int:
        """How many publishers are matched."""
        return int(self.entity.get_subscription_matched_status().current_count)

    def dispatch(self) -> None:
        """Takes what has come; bytes that are no message of the type go to `on_error`."""
        while True:
            try:
                samples = self.entity.take(1, self.condition)
            except (SerdeError, ValueError) as error:
                self._on_error(f"{self._topic}: {error}")
                continue
            if not samples:
                return
            if hasattr(samples[0], "message"):  # else the publisher has gone away
                self._callback(samples[0].message)


class DdsNode:
    """A participant that ROS tools list as a node. `spin_once` and the creation of endpoints belong to one thread.

    name: the node's, relative or absolute, its namespace included. domain: by default ROS_DOMAIN_ID; how far is
    discovered says the environment when the process first uses the domain. Raises MatcherError.
    """

    def __init__(self, name: str, domain: int | None = None) -> None:
        self.full_name = discovery.full_name(name)
        self.namespace, _, self.name = self.full_name.rpartition("/")
        self.namespace = self.namespace or "/"
        self.domain = discovery.domain_id(domain)
        self._typestore = ros_typestore(os.environ.get("ROS_DISTRO", ""))
        self._wires = WireTypes(self._typestore)
        self.types = MessageTypes.from_typestore(self._typestore)
        self._participant = _participant(self.domain)
        self._waitset = WaitSet(self._participant)
        self._waitset.attach(GuardCondition(self._participant))  # never set: without anything it would not wait at all
        self._publishers: list[DdsPublisher] = []
        self._subscriptions: list[DdsSubscription] = []
        self._graph = self._publisher(DISCOVERY_TYPE, DISCOVERY_TOPIC, latched_qos())
        self._announce()

    def resolve(self, topic: str) -> str:
        """The full name of a topic. Raises MatcherError for an impossible one."""
        return discovery.full_name(topic, self.namespace, self.name)

    def create_publisher(self, ros_type: str, topic: str, qos: list[Any]) -> DdsPublisher:
        """Publishes `ros_type`, such as sensor_msgs/msg/Image, on a topic that is resolved first."""
        self._publishers.append(self._publisher(ros_type, "rt" + self.resolve(topic), qos))
        self._announce()
        return self._publishers[-1]

    def create_subscription(self, ros_type: str, topic: str, qos: list[Any], callback: Callable[[Any], None],
                            on_error: Callable[[str], None] = lambda text: None) -> DdsSubscription:
        """Subscribes; `on_error` gets one line for every sample that is no message of the type."""
        wire, name = self._wires.wire(ros_type), self.resolve(topic)
        reader = DataReader(self._participant, Topic(self._participant, "rt" + name, wire),
                            Qos(*qos, *self._endpoint_policies(ros_type)))
        subscription = DdsSubscription(reader, name, callback, on_error)
        self._waitset.attach(subscription.condition)
        self._subscriptions.append(subscription)
        self._announce()
        return subscription

    def destroy_subscription(self, subscription: DdsSubscription) -> None:
        """Unsubscribes."""
        self._subscriptions.remove(subscription)
        self._waitset.detach(subscription.condition)
        _delete(subscription.condition)
        _delete(subscription.entity)
        self._announce()

    def spin_once(self, timeout_s: float) -> None:
        """Waits for messages, at most `timeout_s`, and hands out all that have come."""
        if self._waitset.wait(duration(seconds=timeout_s)):
            for subscription in list(self._subscriptions):
                subscription.dispatch()

    def published_topics(self) -> dict[str, str]:
        """The topics of ROS publishers that were discovered until now, with their types as sensor_msgs/msg/Image."""
        reader = BuiltinDataReader(self._participant, BuiltinTopicDcpsPublication)
        samples = [sample for sample in reader.take(N=10_000) if hasattr(sample, "type_name")]  # others have gone away
        _delete(reader)
        found = {sample.topic_name: sample.type_name for sample in samples}
        return {name[2:]: kind.replace("::dds_::", "::").rstrip("_").replace("::", "/")
                for name, kind in sorted(found.items()) if name.startswith("rt/")}

    def close(self) -> None:
        """Leaves the domain; nothing may be published afterwards."""
        _delete(self._waitset)
        _delete(self._participant)

    def _publisher(self, ros_type: str, dds_topic: str, qos: list[Any]) -> DdsPublisher:
        wire = self._wires.wire(ros_type)
        policies = [*qos, *self._endpoint_policies(ros_type), Policy.WriterDataLifecycle(autodispose=False)]
        writer = DataWriter(self._participant, Topic(self._participant, dds_topic, wire), Qos(*policies))
        return DdsPublisher(writer, wire, dds_topic[2:])

    def _endpoint_policies(self, ros_type: str) -> list[Any]:
        return [Policy.DataRepresentation(use_cdrv0_representation=True),
                Policy.Userdata(data=self._wires.user_data(ros_type))]

    def _announce(self) -> None:
        """Tells ROS tools which endpoints are the node's; without it they show as those of an unnamed process."""
        kinds = self._typestore.types
        node = kinds["rmw_dds_common/msg/NodeEntitiesInfo"](
            node_namespace=self.namespace, node_name=self.name,
            reader_gid_seq=[self._gid(subscription.entity) for subscription in self._subscriptions],
            writer_gid_seq=[self._gid(publisher.entity) for publisher in self._publishers])
        self._graph.publish(kinds[DISCOVERY_TYPE](gid=self._gid(self._participant), node_entities_info_seq=[node]))

    def _gid(self, entity: Any) -> Any:
        kind = "rmw_dds_common/msg/Gid"
        data = np.zeros(self._typestore.fielddefs[kind][1][0][1][1][1], np.uint8)  # 24 bytes in Humble, 16 later
        data[:16] = np.frombuffer(entity.guid.bytes, np.uint8)
        return self._typestore.types[kind](data=data)


def _participant(domain: int) -> DomainParticipant:
    try:
        if domain not in _domains:
            _domains[domain] = Domain(domain, discovery.cyclone_config())
        return DomainParticipant(domain, Qos(Policy.Userdata(data=b"enclave=/;")))
    except DDSException as error:
        raise MatcherError(f"cannot join DDS domain {domain}: {error} (is CYCLONEDDS_URI right?)") from None


def _delete(entity: Any) -> None:
    """Now, rather than when the last reference goes: cyclonedds has no other way to say so, and allows it twice."""
    entity.__del__()
