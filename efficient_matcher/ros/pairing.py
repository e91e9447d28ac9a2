"""Left and right messages of a stereo camera -> pairs of (nearly) equal stamps.

Not message_filters: its Python subscribers cannot be dropped while nobody listens, and only the newest
pair matters here, so that short queues and one pass over them are enough.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from efficient_matcher.ros.messages import stamp_ns

DEPTH = 10  # messages kept per side while they wait for the other one, which may come through a slower driver


class StampPairing:
    """Pairs messages whose stamps differ by at most `slop_ns`; choose it below half the frame period.

    unpaired: how many messages were given up without a partner.
    """

    def __init__(self, slop_ns: int) -> None:
        self._slop_ns = slop_ns
        self.unpaired = 0
        self._waiting: tuple[deque[tuple[int, Any]], ...] = (deque(maxlen=DEPTH), deque(maxlen=DEPTH))

    def add(self, side: int, message: Any) -> tuple[Any, Any] | None:
        """Takes a message of side 0 (left) or 1 (right); returns (left, right) when it completes a pair.

        A stamp that goes back (a bag starting again) drops whatever still waits.
        """
        stamp = stamp_ns(message.header)
        own, other = self._waiting[side], self._waiting[1 - side]
        if own and stamp < own[-1][0]:
            self.clear()
        candidates = [entry for entry in other if abs(entry[0] - stamp) <= self._slop_ns]
        if not candidates:
            self.unpaired += len(own) == DEPTH  # the oldest one falls out
            own.append((stamp, message))
            return None
        partner = min(candidates, key=lambda entry: abs(entry[0] - stamp))
        self.unpaired += len(own)
        own.clear()
        while other.popleft() is not partner:
            self.unpaired += 1
        return (message, partner[1]) if side == 0 else (partner[1], message)

    def clear(self) -> None:
        """Forgets what waits."""
        for waiting in self._waiting:
            waiting.clear()
