"""Left and right messages to pairs."""

from __future__ import annotations

from types import SimpleNamespace

from efficient_matcher.ros.pairing import DEPTH, StampPairing

MS = 1_000_000


def message(milliseconds: int) -> SimpleNamespace:
    sec, rest = divmod(milliseconds, 1000)
    return SimpleNamespace(header=SimpleNamespace(stamp=SimpleNamespace(sec=sec, nanosec=rest * MS)))


def test_equal_stamps_make_a_pair_in_order_left_right() -> None:
    pairing, left, right = StampPairing(0), message(100), message(100)
    assert pairing.add(1, right) is None
    assert pairing.add(0, left) == (left, right)


def test_stamps_within_slop_pair_and_beyond_do_not() -> None:
    pairing = StampPairing(5 * MS)
    assert pairing.add(0, message(100)) is None
    assert pairing.add(1, message(106)) is None
    left = message(111)
    assert pairing.add(0, left)[0] is left


def test_nearest_partner_wins() -> None:
    pairing = StampPairing(20 * MS)
    near = message(110)
    pairing.add(0, message(95))
    pairing.add(0, near)
    assert pairing.add(1, message(108))[0] is near


def test_older_messages_are_dropped_with_a_pair() -> None:
    pairing = StampPairing(0)
    for stamp in (10, 20, 30):
        pairing.add(0, message(stamp))
    assert pairing.add(1, message(20)) is not None
    assert pairing.add(1, message(10)) is None
    assert pairing.add(1, message(30)) is not None  # 30 is newer than the pair and still waits


def test_one_side_alone_does_not_grow() -> None:
    pairing, first = StampPairing(0), message(0)
    pairing.add(0, first)
    for stamp in range(1, DEPTH + 1):
        pairing.add(0, message(stamp))
    assert pairing.add(1, message(0)) is None


def test_what_finds_no_partner_is_counted() -> None:
    pairing = StampPairing(5 * MS)
    for frame in range(2 * DEPTH):
        assert pairing.add(0, message(40 * frame)) is None and pairing.add(1, message(40 * frame + 8)) is None
    assert pairing.unpaired == 2 * DEPTH
    pairing.clear()
    for stamp in (1000000, 1000040, 1000080):
        pairing.add(0, message(stamp))
    assert pairing.add(1, message(1000080)) is not None and pairing.unpaired == 2 * DEPTH + 2


def test_a_side_that_comes_late_is_waited_for() -> None:
    pairing, pairs = StampPairing(0), 0
    for frame in range(50):
        pairing.add(0, message(33 * frame))
        if frame >= 6:
            pairs += pairing.add(1, message(33 * (frame - 6))) is not None
    assert pairs == 44 and pairing.unpaired == 0


def test_stamp_going_back_starts_afresh() -> None:
    pairing = StampPairing(0)
    pairing.add(0, message(5000))
    pairing.add(0, message(10))
    newest = message(10)
    assert pairing.add(1, newest)[1] is newest


def test_what_waited_before_stamps_went_back_is_dropped() -> None:
    pairing = StampPairing(0)
    pairing.add(0, message(5000))
    pairing.add(0, message(10))
    assert pairing.add(1, message(5000)) is None


def test_clear_forgets() -> None:
    pairing = StampPairing(0)
    pairing.add(0, message(1))
    pairing.clear()
    assert pairing.add(1, message(1)) is None
