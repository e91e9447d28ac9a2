"""Topics over plain DDS, between nodes of one process on the loopback interface."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import pytest

pytest.importorskip("cyclonedds")
pytest.importorskip("rosbags")

from cyclonedds.qos import Policy, Qos  # noqa: E402
from cyclonedds.sub import DataReader  # noqa: E402
from cyclonedds.topic import Topic  # noqa: E402

from efficient_matcher.errors import MatcherError  # noqa: E402
from efficient_matcher.ros.dds import DISCOVERY_TOPIC, DISCOVERY_TYPE, DdsNode  # noqa: E402
from efficient_matcher.ros.dds import latched_qos, reliable_qos, sensor_qos  # noqa: E402

STRING = "std_msgs/msg/String"
PATIENCE_S = 20.0  # only reached by a failure


@pytest.fixture()
def make_node(loopback: int) -> Iterator[Callable[[str], DdsNode]]:
    nodes: list[DdsNode] = []

    def make(name: str) -> DdsNode:
        nodes.append(DdsNode(name))
        return nodes[-1]

    yield make
    for node in nodes:
        node.close()


def spin_until(node: DdsNode, condition: Callable[[], Any]) -> bool:
    end = monotonic() + PATIENCE_S
    while not condition() and monotonic() < end:
        node.spin_once(0.02)
    return bool(condition())


def listen(node: DdsNode, topic: str, qos: list[Any], **options: Any) -> tuple[list[str], Any]:
    heard: list[str] = []
    return heard, node.create_subscription(STRING, topic, qos, lambda message: heard.append(message.data), **options)


def test_messages_arrive_in_order(make_node: Callable[[str], DdsNode]) -> None:
    talker, listener = make_node("talker"), make_node("/robot/listener")
    heard, _ = listen(listener, "/chatter", reliable_qos(10))
    publisher = talker.create_publisher(STRING, "chatter", reliable_qos(10))
    assert spin_until(listener, publisher.get_subscription_count)
    for text in ("a", "b", "ç"):
        publisher.publish(talker.types.string(data=text))
    assert spin_until(listener, lambda: len(heard) == 3) and heard == ["a", "b", "ç"]


def test_sensor_subscription_takes_any_publisher_and_keeps_the_newest(make_node: Callable[[str], DdsNode]) -> None:
    talker, listener = make_node("talker"), make_node("listener")
    heard, _ = listen(listener, "/chatter", sensor_qos())
    publisher = talker.create_publisher(STRING, "/chatter", reliable_qos(10))
    assert spin_until(listener, publisher.get_subscription_count)
    for number in range(5):
        publisher.publish(talker.types.string(data=str(number)))
    assert spin_until(listener, lambda: heard) and heard == ["4"]


def test_latched_message_reaches_who_comes_late(make_node: Callable[[str], DdsNode]) -> None:
    talker, listener = make_node("talker"), make_node("listener")
    publisher = talker.create_publisher(STRING, "~/info", latched_qos())
    for text in ("old", "new"):
        publisher.publish(talker.types.string(data=text))
    heard, _ = listen(listener, "/talker/info", latched_qos())
    assert spin_until(listener, lambda: heard) and heard == ["new"]


def test_unsubscribing_is_seen_and_final(make_node: Callable[[str], DdsNode]) -> None:
    talker, listener = make_node("talker"), make_node("listener")
    heard, subscription = listen(listener, "/chatter", reliable_qos(1))
    publisher = talker.create_publisher(STRING, "/chatter", reliable_qos(1))
    assert spin_until(listener, publisher.get_subscription_count) and subscription.get_publisher_count() == 1
    listener.destroy_subscription(subscription)
    assert spin_until(listener, lambda: not publisher.get_subscription_count())
    publisher.publish(talker.types.string(data="nobody listens"))
    listener.spin_once(0.05)
    assert heard == []


def test_bytes_that_are_no_message_are_reported_and_the_next_one_is_taken(make_node: Callable[[str], DdsNode]) -> None:
    talker, listener = make_node("talker"), make_node("listener")
    errors: list[str] = []
    heard, _ = listen(listener, "/chatter", reliable_qos(10), on_error=errors.append)
    publisher = talker.create_publisher(STRING, "/chatter", reliable_qos(10))
    assert spin_until(listener, publisher.get_subscription_count)
    broken = publisher.entity.data_type(None)
    # Cyclone itself keeps off what has the wrong size, but does not look at letters
    broken.serialize = lambda **options: b"\0\1\0\0" + b"\4\0\0\0" + b"\xff\xfe\xff\0"
    publisher.entity.write(broken)
    publisher.publish(talker.types.string(data="sound"))
    assert spin_until(listener, lambda: heard) and heard == ["sound"]
    assert len(errors) == 1 and errors[0].startswith("/chatter: ")


def test_a_node_without_subscriptions_waits(make_node: Callable[[str], DdsNode]) -> None:
    node, start = make_node("idle"), monotonic()
    node.spin_once(0.2)
    assert monotonic() - start > 0.15  # else the idle node would keep a core busy


def test_publishers_can_be_listed(make_node: Callable[[str], DdsNode]) -> None:
    talker, listener = make_node("talker"), make_node("listener")
    talker.create_publisher("sensor_msgs/msg/CompressedImage", "camera/image/compressed", sensor_qos())
    kinds = listener.published_topics()
    assert kinds["/camera/image/compressed"] == "sensor_msgs/msg/CompressedImage" and "/ros_discovery_info" not in kinds


def test_ros_tools_learn_the_nodes_name_and_endpoints(make_node: Callable[[str], DdsNode]) -> None:
    node, tool = make_node("/robot/front"), make_node("tool")
    publisher = node.create_publisher(STRING, "a", reliable_qos(1))
    _, subscription = listen(node, "b", reliable_qos(1))
    wire = tool._wires.wire(DISCOVERY_TYPE)
    reader = DataReader(tool._participant, Topic(tool._participant, DISCOVERY_TOPIC, wire),
                        Qos(*latched_qos()[:2], Policy.History.KeepAll))
    newest: dict[bytes, Any] = {}

    def read() -> bool:
        newest.update({bytes(sample.message.gid.data): sample.message for sample in reader.take(10)})
        return node._participant.guid.bytes in newest

    assert spin_until(tool, read)
    info, = newest[node._participant.guid.bytes].node_entities_info_seq
    assert (info.node_namespace, info.node_name) == ("/robot", "front")
    assert [bytes(gid.data) for gid in info.writer_gid_seq] == [publisher.entity.guid.bytes]
    assert [bytes(gid.data) for gid in info.reader_gid_seq] == [subscription.entity.guid.bytes]


@pytest.mark.parametrize("name", ["front camera", "/robot/", "2nd"])
def test_impossible_names_are_refused(loopback: int, name: str) -> None:
    with pytest.raises(MatcherError, match="not a name"):
        DdsNode(name)


def test_a_broken_configuration_is_one_line(loopback: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CYCLONEDDS_URI", "<CycloneDDS><Domain><NoSuchThing/></Domain></CycloneDDS>")
    with pytest.raises(MatcherError, match=r"cannot join DDS domain 101: .*CYCLONEDDS_URI"):
        DdsNode("matcher", 101)
