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
# An option ends at a comma that stands outside quotes and brackets, a list at a bracket outside quotes.
_QUOTED = r"""(?:"(?:\\.|[^"\\])*"|'[^']*')"""
_ITEM = rf"""\s*(?:{_QUOTED}+\s*|(?!["'\s])[^,\]]*)"""
_LIST = rf"""\[(?:{_ITEM},)*{_ITEM}\]"""
_OPTION = re.compile(
    rf"""\s*(?P<key>\w+)\s*=(?P<value>(?:{_QUOTED}|{_LIST}|[^,"'\[\]])*)(?:,|$)""",
    re.DOTALL,
)
_PLAIN = re.compile(r"[\w./~+:-]+")


@dataclass(frozen=True)
class Reference:
    """A plugin by name, one of its members, and the options that differ from the defaults."""

    name: str
    member: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Read `name/member[option=value,…]`; values are YAML scalars or lists, quoted where they hold commas.

        Raises UsageError for anything else.
        """
        match = _REFERENCE.fullmatch(text.strip())
        if match is None:
            raise UsageError(f"{text!r} is not a plugin reference; write {_meant(text.strip())}")
        options: dict[str, Any] = {}
        rest = match["options"] or ""
        while rest.strip():
            option = _OPTION.match(rest)
            if option is None:
                raise UsageError(f"cannot read the options of {text!r} from {rest!r} on; write option=value")
            if option["key"] in options:
                raise UsageError(f"option {option['key']!r} stands twice in {text!r}")
            try:
                options[option["key"]] = yaml.safe_load(option["value"])
            except (yaml.YAMLError, ValueError) as error:
                value = option["value"].strip()
                raise UsageError(
                    f"the value of {option['key']!r} in {text!r} is not YAML; put it in quotes: "
                    f'{option["key"]}="{value}"'
                ) from error
            rest = rest[option.end() :]
        return cls(match["name"], match["member"], options)

    def __str__(self) -> str:
        name = self.name if self.member is None else f"{self.name}/{self.member}"
        if not self.options:
            return name
        return f"{name}[{','.join(f'{key}={_plain(value)}' for key, value in self.options.items())}]"


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
