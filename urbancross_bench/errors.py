"""Errors a user can act on. Each message names the file, option or plugin, and says what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UrbanCrossError(Exception):
    """Base of all errors that are shown to the user without a traceback."""


class UsageError(UrbanCrossError):
    """A grid, option, reference or command-line argument is wrong."""


class OptionError(UsageError):
    """A plugin's option has a value that it does not take; `option` is empty where several do not fit together."""

    def __init__(self, option: str, message: str) -> None:
        super().__init__(message)
        self.option = option


class DataError(UrbanCrossError):
    """A file of a dataset is missing, damaged or not what it should be."""


class PluginError(UrbanCrossError):
    """A plugin cannot be registered, found or loaded."""


class FirewallError(UrbanCrossError):
    """A method asked for something of the target that its setting does not show."""


class RunError(UrbanCrossError):
    """A run cannot give a valid result (non-finite features, say)."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """' Did you mean "x"?' for the nearest of `known`, else the list of what is known."""
    known = sorted(known)
    near = nearest(name, known)
    if near is not None:
        return f' Did you mean "{near}"?'
    return f" Known: {', '.join(known)}." if known else ""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The one of `known` that looks most like a name, if any looks like it at all."""
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return near[0] if near else None
