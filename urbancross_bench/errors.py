"""Errors a user can act on. Each message names the file, option or plugin, and says what to do."""

from __future__ import annotations

import copy
import copyreg
import datetime
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self


class UrbanCrossError(Exception):
    """Base of all errors that are shown to the user without a traceback."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Exception's own calls the class with the message alone, and a subclass may ask for more.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]

    def after(self, words: str) -> Self:
        """The same error, and all that it holds, with words before its message."""
        again = copy.copy(self)
        again.args = (f"{words}{self}",)
        return again


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


class DiedError(RunError):
    """A process that a stage had started died: another try may end otherwise."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """' Did you mean "x"?' for the nearest of `known`, else the list of what is known."""
    known = sorted(known)
    return meant(name, known) or (f" Known: {', '.join(known)}." if known else "")


def meant(name: str, known: Iterable[str]) -> str:
    """' Did you mean "x"?' for the nearest of `known`; empty where none looks like the name."""
    near = nearest(name, known)
    return "" if near is None else f' Did you mean "{near}"?'


def plural(number: int, one: str, many: str = "") -> str:
    """The word for so many: `one`, or `many`, which by default is that with an s."""
    return one if number == 1 else many or f"{one}s"


def cut(text: str, most: int) -> str:
    """A text of at most so many characters; "…" stands for what is left out."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def some(names: Sequence[str], most: int, between: str = ", ") -> str:
    """The first of several names, and how many more there are."""
    more = len(names) - most
    return between.join(names[:most]) + (f"{between}and {more:,} more" if more > 0 else "")


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The one of `known` that looks most like a name, if any looks like it at all."""
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return near[0] if near else None


def requirement(problem: Mapping[str, Any]) -> str | None:
    """What a value must be, of a problem that pydantic tells in words of Python; None where its own words do."""
    kind, value = problem["type"], problem["input"]
    if kind in ("tuple_type", "list_type", "set_type", "frozen_set_type"):
        alone = isinstance(value, str) and re.fullmatch(r"[\w./-]+", value)
        return f"must be a list, such as {f'[{value}]' if alone else '[0, 1, 2] or [a, b]'}"
    if kind in ("dict_type", "mapping_type", "model_type", "model_attributes_type"):
        return "must be a mapping of keys to values"
    if kind == "too_short":
        least, there = problem["ctx"]["min_length"], problem["ctx"]["actual_length"]
        return f"must have at least {least} {plural(least, 'entry', 'entries')}, not {there}"
    if kind == "string_type":
        return _quoted(value)
    return None


def _quoted(value: object) -> str | None:
    """What to do about a text that YAML takes for something else: `no`, `12`, `2024-01-01`."""
    if not isinstance(value, (bool, int, float, datetime.date)):
        return None
    return f"must be text, and YAML reads this as {str(value).lower()}: put it in quotes"
