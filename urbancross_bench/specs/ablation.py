"""Ablations: the factors a grid varies, and what a leaderboard has to know to find the rows again."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from urbancross_bench.identity import key_of
from urbancross_bench.specs.training import Spec

Kind = Literal["adaptation", "encoder"]
Design = Literal["one_at_a_time", "factorial"]


class Ablation(Spec):
    """Options of one adaptation or encoder of the grid, and the levels each of them takes.

    The base has the first level of every factor. `one_at_a_time` changes one factor of it per cell, `factorial`
    takes every combination.
    """

    of: str = Field(description="an adaptation or encoder, by its name in the grid")
    factors: dict[str, Annotated[tuple[Any, ...], Field(min_length=2)]] = Field(min_length=1)
    design: Design = "one_at_a_time"

    def combinations(self) -> list[dict[str, Any]]:
        """Factor → level of each cell, the base first."""
        if self.design == "factorial":
            return [
                dict(zip(self.factors, levels, strict=True))
                for levels in itertools.product(*self.factors.values())
            ]
        base = {factor: levels[0] for factor, levels in self.factors.items()}
        return [base, *(base | {name: level} for name, levels in self.factors.items() for level in levels[1:])]


class AblationCell(Spec):
    """Factor → level as text, and the `row_key` of the rows that have these."""

    levels: dict[str, str]
    row: str


class AblationView(Spec):
    """An ablation over records: which rows are its cells. The plan of a grid makes it; the base stands first."""

    of: str
    kind: Kind
    design: Design
    factors: dict[str, tuple[str, ...]]
    cells: tuple[AblationCell, ...] = Field(min_length=1)


def row_key(said: Mapping[str, Any], search: Mapping[str, Any] | None = None) -> str:
    """What names an adaptation or encoder by content, given what a run's record says of it, and of its search."""
    return key_of(identity_of(said) | ({"search": search} if search else {}))


def identity_of(said: Mapping[str, Any]) -> dict[str, Any]:
    """Of what a run's record says of an adaptation or encoder, what that is.

    Neither the label, which is what some grid happened to call it, nor whether its weights were trained.
    """
    return {name: value for name, value in said.items() if name not in ("label", "weights")}
