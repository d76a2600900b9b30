"""The cells of a grid's ablation: they become adaptations, or encoders, of the grid like any other."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from urbancross_bench.errors import UsageError
from urbancross_bench.identity import canonical_json
from urbancross_bench.references import Reference
from urbancross_bench.registry import Registry, Resolved
from urbancross_bench.specs import Ablation, AblationCell, AblationView, Grid
from urbancross_bench.specs.ablation import Kind

Levels = Mapping[str, Any]


@dataclass(frozen=True)
class Ablating:
    """A grid that has its ablation's cells among its entries, and which entries these are, the base first."""

    grid: Grid
    cells: Mapping[str, Levels]

    @property
    def adaptations(self) -> Collection[str]:
        """The cells, where it is an adaptation that is ablated."""
        ablation = self.grid.ablation
        return self.cells if ablation and _kind(ablation, self.grid) == "adaptation" else ()

    def view(self, rows: Mapping[Kind, Mapping[str, str]]) -> AblationView | None:
        """What a leaderboard has to know; `rows`: the `row_key` of adaptations and encoders, by kind and name."""
        ablation = self.grid.ablation
        if ablation is None:
            return None
        kind = _kind(ablation, self.grid)
        return AblationView(
            of=ablation.of,
            kind=kind,
            design=ablation.design,
            factors={name: tuple(_text(level) for level in levels) for name, levels in ablation.factors.items()},
            cells=tuple(
                AblationCell(
                    levels={factor: _text(level) for factor, level in levels.items()}, row=rows[kind][name]
                )
                for name, levels in self.cells.items()
            ),
        )


def with_ablation(grid: Grid, registry: Registry) -> Ablating:
    """Add the ablation's cells that the grid lacks, after the entry they are made from.

    A cell is written as the shortest reference that means it, and called after what it changes of that entry. What
    stands in the grid already is not added again.
    Raises UsageError naming the factor, level or cell that cannot be.
    """
    if grid.ablation is None:
        return Ablating(grid, {})
    return _Expansion(grid, grid.ablation, registry).made()


class _Expansion:
    def __init__(self, grid: Grid, ablation: Ablation, registry: Registry) -> None:
        self._grid = grid
        self._ablation = ablation
        self._registry = registry
        self._kind: Kind = _kind(ablation, grid)
        self._entries = grid.adaptations if self._kind == "adaptation" else grid.encoders
        self._written = Reference.parse(self._entries[ablation.of])
        searched = grid.search is not None and self._kind == "adaptation"
        self._spaces: Mapping[str, Any] = grid.search.space if grid.search and searched else {}

    def made(self) -> Ablating:
        self._check()
        of, space = self._ablation.of, self._spaces.get(self._ablation.of)
        standing = {
            self._meaning(self._registry.resolve(self._kind, entry), self._spaces.get(name)): name
            for name, entry in self._entries.items()
        }
        cells: dict[str, Levels] = {}
        added: dict[str, str] = {}
        for levels in self._ablation.combinations():
            changed = self._needed(levels)
            meaning = self._meaning(self._resolved(changed), space)
            name = standing.get(meaning) or self._new_name(changed)
            if name in cells:
                other_design = ", or take design: one_at_a_time" if self._ablation.design == "factorial" else ""
                raise UsageError(
                    f"ablation of {of!r}: {_said(cells[name])} and {_said(levels)} are the same {self._kind}; "
                    f"remove one of the levels{other_design}"
                )
            if meaning not in standing:
                added[name] = str(self._shortest(changed))
                standing[meaning] = name
            cells[name] = levels
        return Ablating(self._with(added), cells)

    def _check(self) -> None:
        """Errors about one factor or level are easier to read before any are combined."""
        of = self._ablation.of
        for factor in self._ablation.factors:
            if factor in self._written.options:
                raise UsageError(
                    f"ablation.factors names {factor!r}, which {self._kind} {of!r} sets already "
                    f"({self._written}); leave it out there, or out of the factors"
                )
            if factor in self._spaces.get(of, {}):
                raise UsageError(f"ablation.factors names {factor!r}, over which search.space searches {of!r}")
        for levels in self._ablation.combinations():
            self._resolved(levels)
        for factor, some in self._ablation.factors.items():
            self._check_texts(factor, some)

    def _check_texts(self, factor: str, levels: Sequence[Any]) -> None:
        """Tables know a level by its text."""
        of = self._ablation.of
        for one, other in combinations(levels, 2):
            if one != other and _text(one) == _text(other):
                raise UsageError(
                    f"ablation of {of!r}: levels {_json(one)} and {_json(other)} of {factor!r} would be read as "
                    "one in tables; remove one of them"
                )

    def _needed(self, levels: Levels) -> Levels:
        """Of these levels those that say something: without them it would be another cell.

        An option can move others, as a variant does; so what is left out is what changes nothing here, not what
        equals a default.
        """
        kept, meant = dict(levels), self._meaning(self._resolved(levels))
        for factor in levels:
            fewer = {name: level for name, level in kept.items() if name != factor}
            if self._meaning(self._resolved(fewer)) == meant:
                kept = fewer
        return kept

    def _resolved(self, levels: Levels) -> Resolved:
        reference = self._reference(levels)
        try:
            return self._registry.resolve(self._kind, reference)
        except UsageError as error:
            raise UsageError(f"ablation of {self._ablation.of!r}: {_said(levels)}: {error}") from None

    def _reference(self, levels: Levels) -> Reference:
        written = self._written
        return Reference(written.name, written.member, {**written.options, **levels})

    def _shortest(self, changed: Levels) -> Reference:
        """Without what the entry sets and does nothing here: a level may take out the part it belongs to."""
        reference, idle = self._reference(changed), self._resolved(changed).options.idle()
        return replace(reference, options={o: v for o, v in reference.options.items() if o not in idle})

    def _new_name(self, changed: Levels) -> str:
        of = self._ablation.of
        named = self._entries[of] != of  # a name of the user's own, not the reference itself
        name = str(Reference(of, options=changed) if named else self._shortest(changed))
        if name in self._entries:
            raise UsageError(
                f"ablation of {of!r}: {_said(changed)} would be called {name!r}, as another {self._kind} of the "
                "grid is; give that another name"
            )
        return name

    def _with(self, added: Mapping[str, str]) -> Grid:
        entries: dict[str, str] = {}
        for name, entry in self._entries.items():
            entries |= {name: entry, **added} if name == self._ablation.of else {name: entry}
        changes: dict[str, Any] = {f"{self._kind}s": entries}
        if self._grid.search and self._ablation.of in self._spaces:  # the same search for every cell
            space = {**self._spaces, **dict.fromkeys(added, self._spaces[self._ablation.of])}
            changes["search"] = self._grid.search.model_copy(update={"space": space})
        return self._grid.model_copy(update=changes)

    @staticmethod
    def _meaning(resolved: Resolved, space: Any = None) -> str:
        searched = {option: str(values) for option, values in space.items()} if space else None
        return canonical_json([resolved.identity(), searched])


def _kind(ablation: Ablation, grid: Grid) -> Kind:
    return "adaptation" if ablation.of in grid.adaptations else "encoder"


def _said(levels: Levels) -> str:
    return ", ".join(f"{factor}={_text(level)}" for factor, level in levels.items())


def _text(level: Any) -> str:
    return level if isinstance(level, str) else _json(level)


def _json(level: Any) -> str:
    return json.dumps(level, ensure_ascii=False, default=str)
