"""Who finds whom: the environment variables of ROS 2 as settings of Cyclone DDS, and the rules of ROS names.

Both sides have to discover alike, so the settings are those that ROS's own Cyclone layer makes of the same
variables. What CYCLONEDDS_URI says comes after them and wins.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from xml.sax.saxutils import quoteattr

from efficient_matcher.errors import MatcherError

MAX_DOMAIN = 232  # above, the ports of a domain do not exist
MAX_PROCESSES = 32  # found on one computer without multicast, as in ROS
# requested, and as much granted as net.core.rmem_max allows: 1 MiB, Cyclone's own request, loses large images
RECEIVE_BUFFER = "8MB"

_TOKEN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def domain_id(given: int | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """The DDS domain: `given`, or ROS_DOMAIN_ID, or 0. Raises MatcherError when it is none."""
    text = environ.get("ROS_DOMAIN_ID", "").strip() if given is None else str(given)
    try:
        number = int(text or 0)
    except ValueError:
        raise MatcherError(f"ROS_DOMAIN_ID must be a number from 0 to {MAX_DOMAIN}, got '{text}'") from None
    if not 0 <= number <= MAX_DOMAIN:
        source = "ROS_DOMAIN_ID" if given is None else "the domain"
        raise MatcherError(f"{source} must be from 0 to {MAX_DOMAIN}, got {number}")
    return number


def discovery_range(environ: Mapping[str, str] = os.environ) -> str:
    """SUBNET, LOCALHOST, OFF or SYSTEM_DEFAULT; like ROS, an unknown word is LOCALHOST."""
    if environ.get("ROS_LOCALHOST_ONLY", "").strip() == "1":
        return "LOCALHOST"
    word = environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "").strip() or "SUBNET"
    return word if word in ("SUBNET", "LOCALHOST", "OFF", "SYSTEM_DEFAULT") else "LOCALHOST"


def cyclone_config(environ: Mapping[str, str] = os.environ) -> str:
    """The configuration of a domain, as XML fragments with CYCLONEDDS_URI last."""
    reach = discovery_range(environ)
    parts = [f'<Internal><SocketReceiveBufferSize max="{RECEIVE_BUFFER}"/></Internal>']
    if reach in ("LOCALHOST", "OFF"):
        parts.append("<General><AllowMulticast>false</AllowMulticast></General>")
    if reach != "SYSTEM_DEFAULT":
        parts.append(f"<Discovery>{_discovery(reach, environ)}</Discovery>")
    ours = f"<CycloneDDS><Domain>{''.join(parts)}</Domain></CycloneDDS>"
    return ",".join(filter(None, [ours, environ.get("CYCLONEDDS_URI", "").strip()]))


def full_name(name: str, namespace: str = "/", node: str = "") -> str:
    """A topic's name as ROS resolves it: absolute, relative to the namespace, or `~/private`; raises MatcherError."""
    if name.startswith("~"):
        full = f"{namespace.rstrip('/')}/{node}{name[1:]}"
    else:
        full = name if name.startswith("/") else f"{namespace.rstrip('/')}/{name}"
    if not all(_TOKEN.fullmatch(token) for token in full[1:].split("/")):
        raise MatcherError(f"'{name}' is not a name in ROS: letters, digits and _ between slashes, no digit first")
    return full


def beside(topic: str, name: str) -> str:
    """`name` in the namespace of `topic`, as camera drivers lay their topics out."""
    return f"{topic.rpartition('/')[0]}/{name}" if "/" in topic else name


def _discovery(reach: str, environ: Mapping[str, str]) -> str:
    if reach == "OFF":  # a tag nobody else has
        return f"<ParticipantIndex>none</ParticipantIndex><Tag>ros_discovery_off_{os.getpid()}</Tag>"
    local_only = environ.get("ROS_LOCALHOST_ONLY", "").strip() == "1"
    peers = [] if local_only else [peer for peer in environ.get("ROS_STATIC_PEERS", "").split(";") if peer.strip()]
    if reach == "LOCALHOST":
        peers.insert(0, "localhost")
    listed = "".join(f"<Peer address={quoteattr(peer.strip())}/>" for peer in peers)
    return (f"<ParticipantIndex>auto</ParticipantIndex><MaxAutoParticipantIndex>{MAX_PROCESSES}"
            f"</MaxAutoParticipantIndex>" + (f"<Peers>{listed}</Peers>" if listed else ""))
