"""The tables of an ablation: its cells against the base, and what each factor does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, combinations, groupby, pairwise, product
from pathlib import Path
from typing import Any

import yaml

from urbancross_bench.errors import UsageError
from urbancross_bench.evaluation.significance import BETTER, TEST_RESAMPLES, WORSE
from urbancross_bench.evaluation.statistics import RESAMPLES, SeedMeans
from urbancross_bench.identity import canonical_json
from urbancross_bench.interfaces.renderer import Cell, Estimate, Table
from urbancross_bench.interfaces.scenarios import route
from urbancross_bench.leaderboard.comparisons import Difference, verdicts
from urbancross_bench.leaderboard.notes import differences_of
from urbancross_bench.leaderboard.plotting import Dot, Panel, forest, in_words
from urbancross_bench.leaderboard.rows import Row, estimate_of, method_cells
from urbancross_bench.leaderboard.spent import VARIES, spent
from urbancross_bench.leaderboard.view import View
from urbancross_bench.specs import AblationView, row_key

CELLS, EFFECTS = "ablation", "ablation_effects"
DIFFERENCE, EFFECT, CHANGE, TRIALS, VERDICT = "Δ base", "effect", "change", "trials", "verdict"
_ON_VERDICTS = (
    "Verdict: paired bootstrap over images and seeds, 5 % over all lines with three seeds or more in this table "
    "(Holm's correction)."
)
_ON_TRIALS = (
    "Cells of one search had different numbers of trials: where a level takes out the part that a searched option "
    "belongs to, the option does nothing, and no trials differ in it. A cell with more trials had more to choose "
    "from, and what that was worth is in the differences, too."
)
_SETUP = ("budget", "precision", "threads", "ranks", "code")
_MEASURED = ("protocol", "ties", "precision", "measured_by")
_TOLD = ("setting", "pre-training", "parameters trained", "steps")  # in a plot, where blocks differ in it
Combination = tuple[str, ...]  # one level of each factor, in their order
Line = Mapping[str, Cell]


def ablation_tables(rows: Sequence[Row], view: View) -> list[Table]:
    """The cells of the view's ablation, and of a factorial one its effects; none where the view has no ablation.

    Means are over the scenarios where there is a shift, and null where a seed or a scenario is missing.
    """
    if view.ablation is None:
        return []
    blocks = _blocks([row for row in rows if row.shifted], view)
    title = f"{view.title}: ablation of {view.ablation.of}"
    uneven = any(block.trials(block.cells) == VARIES for block in blocks)
    more = [*([_ON_TRIALS] if uneven else []), *_on_blocks(blocks)]
    notes = _notes_on_cells(view.ablation, view.metric, more)
    tables = [Table.of_lines(CELLS, title, _cell_lines(blocks, view), notes)]
    if view.ablation.design == "factorial":
        lines = _effect_lines(blocks, view)
        tables.append(Table.of_lines(EFFECTS, f"{title}, effects", lines, _notes_on_effects(view.metric, more)))
    return tables


def ablation_plots(tables: Sequence[Table]) -> dict[str, str]:
    """File name → SVG of what `ablation_tables` made: a dot and an interval for each difference and effect."""
    return {f"{table.name}.svg": _plot(table) for table in tables if table.name in (CELLS, EFFECTS) and table.rows}


def keep_view(view: View, file: Path) -> None:
    """Write a view with its ablation, so that `leaderboard build` can make the same tables from the records alone.

    Raises UsageError if that cannot be written.
    """
    content = yaml.safe_dump(view.model_dump(mode="json", exclude_unset=True), sort_keys=False, allow_unicode=True)
    try:
        file.write_text(content, encoding="utf-8", newline="\n")
    except OSError as error:
        raise UsageError(f"view {file} cannot be written: {error}") from error


@dataclass(frozen=True, eq=False)
class _Block:
    """The cells that are compared with each other: the same recipe, measure, selector and search, and the same
    adaptation where encoders are ablated, the same encoder where adaptations are.

    scenarios: those that a cell has, or failed in.
    """

    ablation: AblationView
    metric: str
    groups: Mapping[Combination, Sequence[Row]]
    scenarios: Set[str]

    @property
    def cells(self) -> list[Combination]:
        """All that the design has, whether or not there are rows; the base first."""
        return [tuple(cell.levels[factor] for factor in self.ablation.factors) for cell in self.ablation.cells]

    def rows(self, cell: Combination) -> Sequence[Row]:
        """One per scenario; none of a cell that was not run."""
        return self.groups.get(cell, ())

    def said(self, cell: Combination) -> dict[str, Cell]:
        """What a line says of how the cell was run and measured."""
        row = (self.rows(cell) or next(iter(self.groups.values())))[0]
        said = method_cells(row)
        del said[self.ablation.kind]
        said["setting"] = ", ".join(filter(None, [row.setting, row.extent]))  # trials have a column of their own
        return said | {name: row.score[name] for name in ("protocol", "ties")}

    def spent(self, cells: Iterable[Combination]) -> dict[str, Cell]:
        """What the rows of some cells were given; trials have a column of their own."""
        found = spent([row for cell in cells for row in self.rows(cell)] or [*chain(*self.groups.values())])
        return {name: cell for name, cell in found.items() if name != TRIALS}

    def trials(self, cells: Iterable[Combination]) -> Cell:
        """How many trials of a search some cells had; None where none of them was run."""
        found = {row.trials for cell in cells for row in self.rows(cell)}
        return VARIES if len(found) > 1 else next(iter(found), None)

    def mean(self, cell: Combination, resamples: int) -> SeedMeans | None:
        """The mean over scenarios, seed by seed; None where one is missing, or has other seeds."""
        rows = self.rows(cell)
        found = [means for row in rows if (means := row.means(self.metric, resamples)) is not None]
        whole = sorted(row.scenario for row in rows) == sorted(self.scenarios) and len(found) == len(rows)
        return SeedMeans.average(found) if whole and len({row.numbers for row in rows}) == 1 else None

    def difference(self, cell: Combination, other: Combination) -> SeedMeans | None:
        """The paired difference of two cells; None where one is not whole, or they were not measured alike."""
        mine, theirs = self._means[cell], self._means[other]
        measured = [{row.scenario: (row.data, row.measured_on) for row in self.rows(one)} for one in (cell, other)]
        return None if mine is None or theirs is None or measured[0] != measured[1] else mine - theirs

    def effects(self) -> Iterator[tuple[str, str, SeedMeans | None]]:
        """Kind, change and size: of each level against its factor's first, and of each two of two factors."""
        for count, kind in ((1, "main effect"), (2, "interaction")):
            for places in combinations(range(len(self.ablation.factors)), count):
                others = [[*self.ablation.factors.values()][place][1:] for place in places]
                for levels in product(*others):
                    changed = dict(zip(places, levels, strict=True))
                    yield (
                        kind,
                        " × ".join(self.text(place, level) for place, level in changed.items()),
                        self.effect(changed),
                    )

    def effect(self, changed: Mapping[int, str]) -> SeedMeans | None:
        """Of some factors at these levels: the mean over all cells that have them of `_against_first`; None where
        one cannot be taken.
        """
        cells = [cell for cell in self.cells if all(cell[place] == level for place, level in changed.items())]
        found = [one for cell in cells if (one := self._against_first(cell, [*changed])) is not None]
        return SeedMeans.average(found) if len(found) == len(cells) else None

    def change(self, cell: Combination) -> str:
        """What a cell has other than the base."""
        base = self.cells[0]
        changed = [self.text(place, level) for place, level in enumerate(cell) if level != base[place]]
        return ", ".join(changed) or "base"

    def text(self, place: int, level: str) -> str:
        """A factor with its level."""
        return f"{[*self.ablation.factors][place]}={level}"

    def _against_first(self, cell: Combination, places: Sequence[int]) -> SeedMeans | None:
        """What a factor's level changes against its first; of two factors, how much more the second changes where
        the first is changed too.
        """
        place, *more = places
        back = (*cell[:place], self.cells[0][place], *cell[place + 1 :])
        if not more:
            return self.difference(cell, back)
        changed, plain = self._against_first(cell, more), self._against_first(back, more)
        return None if changed is None or plain is None else changed - plain

    @cached_property
    def _means(self) -> dict[Combination, SeedMeans | None]:
        return {cell: self.mean(cell, TEST_RESAMPLES) for cell in self.cells}


def _blocks(rows: Sequence[Row], view: View) -> list[_Block]:
    ablation = view.ablation
    assert ablation is not None
    cell_of = {cell.row: tuple(cell.levels[factor] for factor in ablation.factors) for cell in ablation.cells}
    found: dict[tuple[str, ...], dict[Combination, list[Row]]] = {}
    for row in rows:
        cell = cell_of.get(_keys(row.run)[ablation.kind])
        if cell is not None:
            found.setdefault(_alike(row, ablation), {}).setdefault(cell, []).append(row)

    def scenarios(groups: Mapping[Combination, Sequence[Row]]) -> set[str]:
        own = [*chain(*groups.values())]
        # Where encoders are ablated, all rows of a block are of one adaptation.
        wanted = cell_of if ablation.kind == "adaptation" else {_keys(own[0].run)["adaptation"]}
        failed = [run for row in {row.recipe: row for row in own}.values() for run in row.failed.values()]
        lacking = [run for run in failed if _keys(run)["adaptation"] in wanted]
        return {route(run["scenario"]) for run in (*(row.run for row in own), *lacking)}

    ordered = sorted(found.items(), key=lambda one: one[0])
    return [_Block(ablation, view.metric, groups, scenarios(groups)) for _, groups in ordered]


def _keys(run: Mapping[str, Any]) -> dict[str, str]:
    return {"adaptation": row_key(run["adaptation"], run["search"]), "encoder": row_key(run["encoder"])}


def _alike(row: Row, ablation: AblationView) -> tuple[str, ...]:
    """What all cells of one block share. It leads with what the lines are read by, so that these are in order."""
    encoder, adaptation, selector, _ = row.method
    if ablation.kind == "adaptation":
        return encoder, selector, row.extent, row.recipe
    # A row's recipe holds its encoder; so does what the segments weigh in pre-training.
    pretraining = {name: value for name, value in row.run["pretraining"].items() if name != "segment_weight"}
    setup = [pretraining, *(row.run[name] for name in _SETUP), *(row.score[name] for name in _MEASURED)]
    return adaptation, selector, row.extent, canonical_json([_keys(row.run)["adaptation"], setup])


def _spent_apart(blocks: Sequence[_Block]) -> list[str]:
    """In what blocks were not given the same."""
    given = [block.spent(block.cells) for block in blocks]
    return [name for name in chain(*given[:1]) if len({one[name] for one in given}) > 1]


def _on_blocks(blocks: Sequence[_Block]) -> list[str]:
    """In what blocks differ whose lines read alike."""
    read = [canonical_json(block.said(block.cells[0])) for block in blocks]
    alike: dict[tuple[str, Combination, str], list[Row]] = {}
    for said, block in zip(read, blocks, strict=True):
        if read.count(said) > 1:
            for cell, rows in block.groups.items():
                for row in rows:
                    alike.setdefault((said, cell, row.scenario), []).append(row)
    if not alike:
        return []
    changed = " or ".join(differences_of(alike.values()))
    return [
        "Each block of lines has a base of its own: a row may differ from one of another block in "
        f"{changed}; only those of one block are compared."
    ]


def _cell_lines(blocks: Sequence[_Block], view: View) -> list[Line]:
    """One line per cell, the base of each block first."""
    entries = [(block, cell) for block in blocks for cell in block.cells]
    apart = _spent_apart(blocks)
    differences = [
        None
        if cell == block.cells[0] or (found := block.difference(cell, block.cells[0])) is None
        else Difference.of(found)
        for block, cell in entries
    ]
    judged = _judged(differences, [block.rows(cell) for block, cell in entries], view)
    lines: list[Line] = []
    for (block, cell), difference, verdict in zip(entries, differences, judged, strict=True):
        rows, mean = block.rows(cell), block.mean(cell, RESAMPLES)
        lines.append(
            {
                **block.said(cell),
                **{name: given for name, given in block.spent([cell]).items() if name in apart},
                CHANGE: block.change(cell),
                **{f"{factor}=": level for factor, level in zip(block.ablation.factors, cell, strict=True)},
                "scenarios": len({row.scenario for row in rows}),
                "seeds": min((len(row.seeds) for row in rows), default=0),
                TRIALS: block.trials([cell]),
                f"mean {view.metric}": None if mean is None else estimate_of(mean),
                DIFFERENCE: None if difference is None else difference.estimate,
                VERDICT: verdict,
            }
        )
    return lines


def _effect_lines(blocks: Sequence[_Block], view: View) -> list[Line]:
    """One line per main effect and interaction."""
    entries = [
        (block, kind, change, None if found is None else Difference.of(found))
        for block in blocks
        for kind, change, found in block.effects()
    ]
    apart = _spent_apart(blocks)
    judged = _judged([found for *_, found in entries], [block.rows(block.cells[0]) for block, *_ in entries], view)
    return [
        {
            **block.said(block.cells[0]),
            **{name: given for name, given in block.spent(block.cells).items() if name in apart},
            TRIALS: block.trials(block.cells),
            "kind": kind,
            CHANGE: change,
            EFFECT: None if found is None else found.estimate,
            VERDICT: verdict,
        }
        for (block, kind, change, found), verdict in zip(entries, judged, strict=True)
    ]


def _judged(differences: Sequence[Difference | None], of: Sequence[Sequence[Row]], view: View) -> list[str | None]:
    """Verdicts, but for rows of a setting that is a reference: each would cost the others power."""
    judged = [
        None if any(view.is_reference(row.setting) for row in rows) else found
        for rows, found in zip(of, differences, strict=True)
    ]
    return verdicts(judged)


def _notes_on_cells(ablation: AblationView, metric: str, more: Sequence[str]) -> list[str]:
    base = ", ".join(f"{factor}={levels[0]}" for factor, levels in ablation.factors.items())
    return [
        f"The base is {base}; it stands first. {DIFFERENCE}: paired difference in {metric} to it on the same "
        "images and seeds, the mean over the scenarios where there is a shift. Brackets: 95 % intervals.",
        _ON_VERDICTS,
        *more,
        "A cell that lacks a seed or a scenario shows no number, nor does any difference to it.",
    ]


def _notes_on_effects(metric: str, more: Sequence[str]) -> list[str]:
    return [
        f"Main effect: what a level changes in {metric} against the first level of its factor, the mean over all "
        "combinations of the other factors' levels.",
        "Interaction: how much more one factor's level changes where the other factor has its level instead of "
        "its first, the mean over all combinations of the rest; 0 where two factors add up.",
        _ON_VERDICTS,
        *more,
        "An effect of which a cell lacks a seed or a scenario shows no number.",
    ]


def _plot(table: Table) -> str:
    lines = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    panels = _panels_of_effects(lines) if table.name == EFFECTS else _panels_of_cells(lines)
    what = "Size of each effect" if table.name == EFFECTS else "Difference of each cell to the base"
    return forest(table.name, table.title, f"{what}, in points, with its 95 % interval.", panels)


def _panels_of_cells(lines: Sequence[Line]) -> list[Panel]:
    factors = [column for column in lines[0] if column.endswith("=")]
    mean = next(column for column in lines[0] if column.startswith("mean "))
    panels = []
    for heading, (base, *others) in _by_block(lines):
        levels = ", ".join(f"{factor}{base[factor]}" for factor in factors)
        dots = [Dot(f"base: {levels}", None, f"{mean} {in_words(base[mean], signed=False)}")]
        dots += [_dot(str(line[CHANGE]), line[DIFFERENCE], line[VERDICT]) for line in others]
        panels.append(Panel(heading, dots))
    return panels


def _panels_of_effects(lines: Sequence[Line]) -> list[Panel]:
    return [
        Panel(f"{heading} · {kind}s", [_dot(str(line[CHANGE]), line[EFFECT], line[VERDICT]) for line in several])
        for heading, block in _by_block(lines)
        for kind, several in groupby(block, lambda line: line["kind"])
    ]


def _dot(label: str, found: Cell, verdict: Cell) -> Dot:
    estimate = found if isinstance(found, Estimate) else None
    said = in_words(found) + (f", {verdict}" if verdict else "")
    return Dot(label, estimate, said, sure=verdict in (BETTER, WORSE))


def _by_block(lines: Sequence[Line]) -> list[tuple[str, Sequence[Line]]]:
    """The lines of each block, under what tells it from others; all blocks have the same changes in one order."""
    starts = [place for place, line in enumerate(lines) if line[CHANGE] == lines[0][CHANGE]]
    blocks = [lines[start:end] for start, end in pairwise([*starts, len(lines)])]
    told = [name for name in _TOLD if name in lines[0] and len({str(first[name]) for first, *_ in blocks}) > 1]
    return [(_heading(block[0], told), block) for block in blocks]


def _heading(line: Line, told: Sequence[str]) -> str:
    names = ("encoder", "adaptation", "selector", "protocol", "ties")
    said = [str(line[name]) for name in names if name in line]
    return " · ".join([*said, *(f"{name}: {line[name]}" for name in told)])
