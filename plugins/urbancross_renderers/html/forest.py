"""Forest plots: a table whose rows have a dot and an interval drawn beside the numbers they show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from urbancross_bench.interfaces import Cell, Estimate, Table
from urbancross_bench.interfaces.renderer import Scale, ends_of
from urbancross_renderers.html.markup import element
from urbancross_renderers.html.tables import labels

MOST = 40  # rows of a plot
_STEPS = 2  # of the axis, at least: it may be narrow
_VERDICT, _SURE = "verdict", ("better", "worse")
_SIGNED = ("Δ", "effect")  # columns of differences begin so


@dataclass(frozen=True)
class Line:
    """A row: a label, a number with its interval, and the drawing of both."""

    label: str
    estimate: Estimate
    drawing: Markup


@dataclass(frozen=True)
class Forest:
    """A plot for the template `forest.html`; `left_out` rows are in the table alone."""

    title: str
    axis: Markup
    lines: Sequence[Line]
    left_out: int


def forests(table: Table, rows: Sequence[Sequence[Cell]]) -> list[Forest]:
    """Of some rows of a table: the first column of estimates, and those of differences and of targets."""
    columns = [name for i, name in enumerate(table.columns) if any(isinstance(row[i], Estimate) for row in rows)]
    wanted = dict.fromkeys([*columns[:1], *(name for name in columns if name.startswith(("Δ", "→")))])
    return [plot for name in wanted if (plot := _forest(table, rows, name)) is not None]


def _forest(table: Table, rows: Sequence[Sequence[Cell]], column: str) -> Forest | None:
    place = table.columns.index(column)
    judged = table.columns.index(_VERDICT) if _VERDICT in table.columns else None
    signed = column.startswith(_SIGNED)
    known: list[tuple[str, Estimate, bool]] = []
    for label, row in zip(labels(table, rows), rows, strict=True):
        cell = row[place]
        if isinstance(cell, Estimate):
            sure = not signed or (judged is not None and row[judged] in _SURE)
            known.append((label, cell, sure))
    if not known:
        return None
    ends = ends_of([one for _, one, _ in known[:MOST]])
    axis = Axis(Scale.over([0.0, *ends] if signed else ends, _STEPS))
    lines = [Line(label, one, _drawn(one, axis, sure)) for label, one, sure in known[:MOST]]
    title = f"{column}: filled where the verdict is better or worse" if signed else column
    return Forest(title, axis.drawn(), lines, len(known) - len(lines))


@dataclass(frozen=True)
class Axis:
    """From values to percent of the width."""

    scale: Scale

    def place(self, value: float) -> str:
        """A place on it."""
        return f"{4 + 92 * self.scale.share(value):.2f}%"

    def drawn(self) -> Markup:
        """The numbers of the ticks; said in words by the rows, so not read out."""
        texts = [
            element("text", f"{tick:.6g}", x=self.place(tick), y=13, text_anchor="middle")
            for tick in self.scale.ticks
        ]
        return element("svg", *texts, class_="axis", height=18, width="100%", aria_hidden="true")


def _drawn(one: Estimate, axis: Axis, sure: bool) -> Markup:
    grid = [
        element("line", x1=at, x2=at, y1=0, y2=24, class_="zero" if tick == 0 else "grid")
        for tick in axis.scale.ticks
        for at in [axis.place(tick)]
    ]
    whisker = []
    if one.low is not None and one.high is not None:
        ends = {"x1": axis.place(one.low), "x2": axis.place(one.high)}
        whisker = [element("line", **ends, y1=12, y2=12, class_="whisker")]
    dot = element("circle", cx=axis.place(one.value), cy=12, r=4.5, class_="dot sure" if sure else "dot")
    return element("svg", *grid, *whisker, dot, class_="strip", height=24, width="100%", aria_hidden="true")
