"""Options of a plugin: a frozen pydantic model in a module that imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, RootModel


class Options(BaseModel):
    """Base of every plugin's options. Unknown names are errors; values are checked once, when planning."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def identity(self) -> dict[str, Any]:
        """The facts about these options that may change a result, as plain JSON values.

        They enter the keys under which results are stored. Override it where an option is a path:
        what lies at the path counts (its hash), the path itself does not.
        """
        facts: dict[str, Any] = _in_order(self, self.model_dump(mode="json"))
        return facts | dict.fromkeys(self.idle())

    def idle(self) -> Mapping[str, str]:
        """Options that do nothing as the others stand, each with what makes it so: `{"inner": "kind=linear"}`.

        They are no part of the identity, and a grid that gives one another value than it has anyway is refused.
        What a search draws is not: there an option may be idle in one trial and not in another.
        """
        return {}

    def needs(self) -> frozenset[str]:
        """Of an adaptation: what it needs as its options stand, beside what it is registered with."""
        return frozenset()


def _in_order(value: Any, dumped: Any) -> Any:
    """`dumped`, which is `value` as JSON, with sets in it in an order that is the same in every process."""
    if isinstance(value, RootModel):
        value = value.root
    # A type of a plugin's own may be written in a way of its own.
    if isinstance(dumped, dict) and (isinstance(value, BaseModel) or is_dataclass(value)):
        value = {name: getattr(value, name, None) for name in dumped}
    if isinstance(value, set | frozenset) and isinstance(dumped, list) and len(value) == len(dumped):
        return sorted(map(_in_order, value, dumped), key=json.dumps)
    if isinstance(value, list | tuple) and isinstance(dumped, list) and len(value) == len(dumped):
        return [*map(_in_order, value, dumped)]
    if isinstance(value, dict) and isinstance(dumped, dict) and len(value) == len(dumped):
        return dict(zip(dumped, map(_in_order, value.values(), dumped.values()), strict=True))
    return dumped


class CalibrationOptions(Options):
    """Options of a method that calibrates the model of another: `csls[base=dann]` trains nothing of its own."""

    base: str = Field(default="source_only", description="the adaptation whose model is calibrated")
