"""What was made of images or their features, kept for as long as somebody has these."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from typing import Generic, TypeVar, Union

from efficient_matcher.records import Features, Frame

T = TypeVar("T")
Owner = Union[Features, Frame]

MOST = 16  # images: the last frame or keyframe of several cameras


class Remembered(Generic[T]):
    """One value for each of the last MOST images, or their features; may be shared between threads."""

    def __init__(self) -> None:
        self._known: OrderedDict[int, tuple[weakref.ref[Owner], T]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, owner: Owner) -> T | None:
        """What was kept of this very object: an equal one may have been changed since."""
        with self._lock:
            known, value = self._known.get(id(owner), (lambda: None, None))
            if known() is not owner:  # else a new object where an old one was
                return None
            self._known.move_to_end(id(owner))
            return value

    def keep(self, owner: Owner, value: T) -> None:
        """Remember it, and forget what nobody can ask for any more, then what was not asked for the longest."""
        with self._lock:
            self._known[id(owner)] = weakref.ref(owner), value
            self._known.move_to_end(id(owner))
            for key in [key for key, (known, _) in self._known.items() if known() is None]:
                del self._known[key]
            while len(self._known) > MOST:
                self._known.popitem(last=False)
