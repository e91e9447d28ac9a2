"""What was made of images' features, kept for as long as somebody has these."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from typing import Generic, TypeVar

from efficient_matcher.records import Features

T = TypeVar("T")

MOST = 16  # images: the last frame or keyframe of several cameras


class Remembered(Generic[T]):
    """One value for the features of each of the last MOST images; may be shared between threads."""

    def __init__(self) -> None:
        self._known: OrderedDict[int, tuple[weakref.ref[Features], T]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, features: Features) -> T | None:
        """What was kept of these very features: equal ones may have been changed since."""
        with self._lock:
            owner, value = self._known.get(id(features), (lambda: None, None))
            if owner() is not features:  # else a new object where an old one was
                return None
            self._known.move_to_end(id(features))
            return value

    def keep(self, features: Features, value: T) -> None:
        """Remember it, and forget what nobody can ask for any more, then what was not asked for the longest."""
        with self._lock:
            self._known[id(features)] = weakref.ref(features), value
            self._known.move_to_end(id(features))
            for key in [key for key, (owner, _) in self._known.items() if owner() is None]:
                del self._known[key]
            while len(self._known) > MOST:
                self._known.popitem(last=False)
