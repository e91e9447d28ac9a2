"""Deep feature matching in real time on a robot's CPU.

    from efficient_matcher import Matcher
    matcher = Matcher.from_bundle("default")
    result = matcher.match(image0, image1)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from efficient_matcher.core.pipeline import Matcher

__version__ = "0.1.0"
__all__ = ["Matcher", "__version__"]


def __getattr__(name: str) -> Any:
    # Lazily, so that the command line and the tools without networks start without OpenCV.
    if name == "Matcher":
        from efficient_matcher.core.pipeline import Matcher
        return Matcher
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
