"""Failures a user can cause and mend: each is one clear line, never a traceback."""

from __future__ import annotations


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
