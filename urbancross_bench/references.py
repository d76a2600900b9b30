"""How a grid and the command line name a plugin: `name`, `name/member`, `name[option=value,other=value]`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import yaml

from urbancross_bench.errors import UsageError

_REFERENCE = re.compile(r"(?P<name>[\w-]+)(?:/(?P<member>[\w-]+))?(?:\[(?P<options>.*)\])?", re.DOTALL)
_OPTION = re.compile(r"\s*(\w+)\s*=")
_QUOTED = re.compile(r""""(?:\\.|[^"\\])*"|'[^']*'""", re.DOTALL)
_PLAIN = re.compile(r"[\w./~+:-]+")


@dataclass(frozen=True)
class Reference:
    """A plugin by name, one of its members, and the options that differ from the defaults."""

    name: str
    member: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read `name/member[option=value,…]`; values are YAML scalars, lists or mappings, quoted where they
        hold commas of their own.

        Raises UsageError for anything else.
        """
        match = _REFERENCE.fullmatch(text.strip())
        if match is None:
            raise UsageError(f"{text!r} is not a plugin reference; write {_meant(text.strip())}")
        options: dict[str, Any] = {}
        rest = match["options"] or ""
        while rest.strip():
            option = _OPTION.match(rest)
            end = _end_of_value(rest, option.end()) if option else None
            if option is None or end is None:
                raise UsageError(f"cannot read the options of {text!r} from {rest!r} on; write option=value")
            key, value = option[1], rest[option.end() : end].strip()
            if key in options:
                raise UsageError(f"option {key!r} stands twice in {text!r}")
            try:
                options[key] = yaml.safe_load(value)
            except (yaml.YAMLError, ValueError) as error:
                raise UsageError(
                    f'the value of {key!r} in {text!r} is not YAML; put it in quotes: {key}="{value}"'
                ) from error
            rest = rest[end + 1 :]
        return cls(match["name"], match["member"], options)

    def __str__(self) -> str:
        name = self.name if self.member is None else f"{self.name}/{self.member}"
        if not self.options:
            return name
        return f"{name}[{','.join(f'{key}={_plain(value)}' for key, value in self.options.items())}]"


def _end_of_value(text: str, at: int) -> int | None:
    """Where the value that begins at `at` ends: at a comma outside quotes, lists and mappings, or with the text.

    None if it ends nowhere: a quote or a bracket is left open, or a list stands in the middle of a word.
    """
    closing: list[str] = []
    may_open = True  # quotes and brackets open something where a value or a key begins; elsewhere they are letters
    while at < len(text):
        sign = text[at]
        if may_open and sign in "\"'":
            quoted = _QUOTED.match(text, at)
            if quoted is None:
                return None
            at = quoted.end()
            continue
        if may_open and sign in "[{":
            closing.append("]" if sign == "[" else "}")
        elif closing and sign == closing[-1]:
            closing.pop()
        elif not closing and sign == ",":
            return at
        elif not closing and sign in "[]":
            return None
        # Behind a key in quotes a colon suffices, behind a word a space must follow.
        key_ends = sign == ":" and (may_open or text[at + 1 : at + 2].isspace())
        may_open = sign in ",[{" or key_ends or (may_open and sign.isspace())
        at += 1
    return None if closing else at


def _meant(text: str) -> str:
    """What to write in place of a text that is no reference: if it is a caption file, the readers of such."""
    readers = {".csv": ("csv",), ".tsv": ("csv",), ".json": ("karpathy", "json"), ".jsonl": ("json",)}
    found = readers.get(PurePath(text).suffix.lower(), ())
    options = {"file": text} | ({"separator": "tab"} if text.lower().endswith(".tsv") else {})
    named = [str(Reference(name, None, options)) for name in found]
    return " or ".join(named) or "name[option=value,other=value]"


def _plain(value: Any) -> str:
    """The shortest text that is read back as the same value."""
    with suppress(yaml.YAMLError, ValueError):  # a colon alone, a day that no month has
        if isinstance(value, str) and _PLAIN.fullmatch(value) and yaml.safe_load(value) == value:
            return value
    style = '"' if isinstance(value, str) else None
    text: str = yaml.safe_dump(value, default_flow_style=True, default_style=style, width=float("inf"))
    return text.strip().removesuffix("...").strip()
