"""Environment variables as Cyclone's settings, and ROS names."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from efficient_matcher.errors import MatcherError
from efficient_matcher.ros.discovery import beside, cyclone_config, discovery_range, domain_id, full_name


def tree(**environ: str) -> ElementTree.Element:
    return ElementTree.fromstring(cyclone_config(environ))


def peers(**environ: str) -> list[str]:
    return [peer.get("address", "") for peer in tree(**environ).iter("Peer")]


def test_domain_is_the_flag_then_the_environment_then_zero() -> None:
    assert domain_id(7, {"ROS_DOMAIN_ID": "42"}) == 7
    assert domain_id(None, {"ROS_DOMAIN_ID": " 42 "}) == 42
    assert domain_id(None, {}) == domain_id(None, {"ROS_DOMAIN_ID": ""}) == 0


@pytest.mark.parametrize("text", ["abc", "-1", "233", "1.5"])
def test_impossible_domains_are_named(text: str) -> None:
    with pytest.raises(MatcherError, match=f"ROS_DOMAIN_ID.*{text}"):
        domain_id(None, {"ROS_DOMAIN_ID": text})


@pytest.mark.parametrize("environ, reach", [
    ({}, "SUBNET"), ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}, "LOCALHOST"),
    ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "OFF"}, "OFF"), ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "localhost"}, "LOCALHOST"),
    ({"ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET", "ROS_LOCALHOST_ONLY": "1"}, "LOCALHOST"),
    ({"ROS_LOCALHOST_ONLY": "0"}, "SUBNET")])
def test_range_is_read_as_ros_reads_it(environ: dict[str, str], reach: str) -> None:
    assert discovery_range(environ) == reach


def test_localhost_means_no_multicast_and_one_peer() -> None:
    config = tree(ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST")
    assert config.findtext(".//AllowMulticast") == "false" and config.findtext(".//ParticipantIndex") == "auto"
    assert peers(ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST") == ["localhost"]


def test_subnet_leaves_multicast_alone() -> None:
    assert tree().findtext(".//AllowMulticast") is None and peers() == []


def test_static_peers_come_in_and_are_escaped() -> None:
    assert peers(ROS_STATIC_PEERS="10.0.0.5; robot.local;") == ["10.0.0.5", "robot.local"]
    assert peers(ROS_STATIC_PEERS='a"<b', ROS_AUTOMATIC_DISCOVERY_RANGE="LOCALHOST") == ["localhost", 'a"<b']
    assert peers(ROS_STATIC_PEERS="10.0.0.5", ROS_LOCALHOST_ONLY="1") == ["localhost"]
    assert peers(ROS_STATIC_PEERS="10.0.0.5", ROS_AUTOMATIC_DISCOVERY_RANGE="OFF") == []


def test_off_hides_behind_a_tag_and_system_default_changes_no_discovery() -> None:
    assert "ros_discovery_off_" in (tree(ROS_AUTOMATIC_DISCOVERY_RANGE="OFF").findtext(".//Tag") or "")
    assert tree(ROS_AUTOMATIC_DISCOVERY_RANGE="SYSTEM_DEFAULT").find(".//Discovery") is None


def test_the_users_own_settings_come_last() -> None:
    assert cyclone_config({"CYCLONEDDS_URI": "file:///etc/cyclone.xml"}).endswith(",file:///etc/cyclone.xml")


@pytest.mark.parametrize("name, full", [
    ("/camera/image_raw", "/camera/image_raw"), ("image", "/robot/image"), ("~/matches", "/robot/front/matches")])
def test_names_resolve_as_in_ros(name: str, full: str) -> None:
    assert full_name(name, "/robot", "front") == full


def test_names_in_the_root_namespace() -> None:
    assert full_name("image") == "/image" and full_name("~/matches", "/", "matcher") == "/matcher/matches"


@pytest.mark.parametrize("name", ["", "/", "a//b", "/a/", "1camera", "front-camera", "~x y"])
def test_impossible_names_are_refused(name: str) -> None:
    with pytest.raises(MatcherError, match="not a name"):
        full_name(name)


def test_camera_info_is_beside_the_image() -> None:
    assert beside("/camera/image_raw", "camera_info") == "/camera/camera_info"
    assert beside("/image", "camera_info") == "/camera_info" and beside("image", "camera_info") == "camera_info"
