"""What is kept for features, and for how long."""

from __future__ import annotations

import gc

import numpy as np

from efficient_matcher.core.remembered import MOST, Remembered
from efficient_matcher.records import Features


def features() -> Features:
    return Features(np.zeros((0, 2), np.float32), np.zeros(0, np.float32), np.zeros((0, 4), np.float32), (64, 48))


def test_a_value_belongs_to_these_very_features() -> None:
    known: Remembered[str] = Remembered()
    first, equal = features(), features()
    known.keep(first, "first")
    assert known.get(first) == "first" and known.get(equal) is None
    known.keep(first, "again")
    assert known.get(first) == "again" and len(known) == 1


def test_features_nobody_has_are_forgotten() -> None:
    known: Remembered[int] = Remembered()
    for count in range(100):
        known.keep(features(), count)
        gc.collect()
    assert len(known) <= 2


def test_what_was_asked_for_the_longest_ago_makes_room() -> None:
    known: Remembered[int] = Remembered()
    many = [features() for _ in range(MOST + 1)]
    for count, one in enumerate(many[:MOST]):
        known.keep(one, count)
    assert known.get(many[0]) == 0
    known.keep(many[MOST], MOST)
    assert known.get(many[0]) == 0 and known.get(many[1]) is None and len(known) == MOST
