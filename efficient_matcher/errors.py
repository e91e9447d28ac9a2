"""Failures a user can cause and mend: each is one clear line, never a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MatcherError(Exception):
    """Base of all expected failures; the command line prints it as one line and exits 1."""


class ConfigError(MatcherError):
    """An unknown setting, a wrong type, or a value out of range; names the key."""


class ImageError(MatcherError):
    """An image that cannot be decoded; names the field that is wrong."""


class BundleError(MatcherError):
    """A model bundle that is missing, altered, cut short or of another version; names file and field."""


class SourceError(MatcherError):
    """A bag, folder or image file that cannot be read; names the file and the topic."""


class RecipeError(MatcherError):
    """A recipe with an unknown, missing or duplicate key or a value out of range; names file and field."""


class ExportError(MatcherError):
    """Networks that do not fit together, a graph that does not equal its network, a folder that is taken."""


def likely(name: str, known: Iterable[str]) -> str:
    """What may have been meant by a name that is none: "; did you mean a or b?", empty where nothing is like it.

    Names with points are also found by their last part.
    """
    known = list(known)
    same_end = [entry for entry in known if entry.rpartition(".")[2] == name.rpartition(".")[2]]
    found = difflib.get_close_matches(name, known, n=2, cutoff=0.75) or same_end
    return f"; did you mean {' or '.join(found)}?" if found else ""
