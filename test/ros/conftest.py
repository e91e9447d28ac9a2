"""Plain DDS for tests: on the loopback interface only, in a domain of the test process."""

from __future__ import annotations

import os

import pytest

LOOPBACK = ('<CycloneDDS><Domain><General><Interfaces><NetworkInterface name="lo" multicast="false"/></Interfaces>'
            "</General></Domain></CycloneDDS>")


@pytest.fixture()
def loopback(monkeypatch: pytest.MonkeyPatch) -> int:
    """The domain. Below 100, for the ports of higher ones are those the system gives to anybody."""
    domain = 10 + os.getpid() % 90
    monkeypatch.setenv("ROS_DOMAIN_ID", str(domain))
    monkeypatch.setenv("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    monkeypatch.setenv("CYCLONEDDS_URI", LOOPBACK)
    for name in ("ROS_STATIC_PEERS", "ROS_LOCALHOST_ONLY", "ROS_DISTRO"):
        monkeypatch.delenv(name, raising=False)
    return domain
