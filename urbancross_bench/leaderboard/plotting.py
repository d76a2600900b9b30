"""A forest plot as SVG, written by hand: a dot and its interval on a line, and the same in words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from urbancross_bench.errors import cut
from urbancross_bench.interfaces.renderer import Cell, Estimate, Scale, ends_of, printable

_LINE, _MARGIN, _PLOT, _CHARACTER, _LONGEST = 22, 16, 360, 7.2, 60  # pixels; the last: characters of a text
_STEPS = 4  # of the axis, at least
_LEGEND = "Filled: told from zero, after correction."


@dataclass(frozen=True)
class Dot:
    """A line of a panel: a label, a number or none, what is said beside it, and whether it is told from zero."""

    label: str
    estimate: Estimate | None
    said: str
    sure: bool = False


@dataclass(frozen=True)
class Panel:
    """Lines below a heading."""

    heading: str
    dots: Sequence[Dot]


def forest(name: str, title: str, description: str, panels: Sequence[Panel]) -> str:
    """An SVG document, all panels on one axis with a line at zero. `name` tells its ids from those of others.

    Dots that are told from zero are filled. The description goes on with every number in words.
    """
    left = _MARGIN + _width([dot.label for panel in panels for dot in panel.dots])
    right = _width([dot.said for panel in panels for dot in panel.dots])
    wide = left + _PLOT + 2 * _MARGIN + right
    drawn = [dot.estimate for panel in panels for dot in panel.dots if dot.estimate is not None]
    axis = _Axis(Scale.over([0.0, *ends_of(drawn)], _STEPS), left + _MARGIN)
    top = 3 * _LINE
    bottom = top + _LINE * sum(len(panel.dots) + 2 for panel in panels)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {bottom + 2 * _LINE}" width="{wide}" '
        f'height="{bottom + 2 * _LINE}" role="img" aria-labelledby="{name}-title {name}-desc" '
        'font-family="sans-serif" font-size="12" fill="#1a1a1a">',
        f'<title id="{name}-title">{xml_text(title)}</title>',
        f'<desc id="{name}-desc">{xml_text(" ".join([description, *map(_described, panels)]))}</desc>',
        f'<rect width="{wide}" height="{bottom + 2 * _LINE}" fill="#ffffff"/>',
        f'<text x="{_MARGIN}" y="{_LINE}" font-size="14" font-weight="bold">{xml_text(title)}</text>',
        f'<text x="{_MARGIN}" y="{2 * _LINE}">{xml_text(f"{description} {_LEGEND}")}</text>',
        *axis.drawn(top, bottom),
    ]
    for panel in panels:
        parts += _lines(panel, axis, top, left)
        top += _LINE * (len(panel.dots) + 2)
    return "\n".join([*parts, "</svg>", ""])


def in_words(cell: Cell, *, signed: bool = True) -> str:
    """`+1.20 [−0.50, +2.90]`, or a dash for what is no number."""
    if not isinstance(cell, Estimate):
        return "–"
    value, low, high = (
        None if number is None else _number(round(number, 2), "+.2f" if signed else ".2f")
        for number in (cell.value, cell.low, cell.high)
    )
    return f"{value}" if low is None or high is None else f"{value} [{low}, {high}]"


def xml_text(text: str) -> str:
    """A text for between two tags; XML knows no U+FFFE and U+FFFF."""
    return escape(printable(text).translate(dict.fromkeys((0xFFFE, 0xFFFF), "\ufffd")))


@dataclass(frozen=True)
class _Axis:
    """From values to pixels."""

    scale: Scale
    left: float

    def place(self, value: float) -> str:
        """A number of pixels, as it is written."""
        return f"{self.left + _PLOT * self.scale.share(value):.1f}"

    def drawn(self, top: float, bottom: float) -> list[str]:
        """Grid lines and their numbers; the one at zero is dark."""
        parts = []
        for value in self.scale.ticks:
            at, colour = self.place(value), "#1a1a1a" if value == 0 else "#d0d0d0"
            parts += [
                f'<line x1="{at}" y1="{top}" x2="{at}" y2="{bottom}" stroke="{colour}"/>',
                f'<text x="{at}" y="{bottom + _LINE}" text-anchor="middle">{_number(value, ".6g")}</text>',
            ]
        return parts


def _lines(panel: Panel, axis: _Axis, top: int, left: int) -> list[str]:
    halo = 'stroke="#ffffff" stroke-width="4" paint-order="stroke"'  # over the grid lines
    parts = [f'<text x="{_MARGIN}" y="{top + _LINE}" font-weight="bold" {halo}>{xml_text(panel.heading)}</text>']
    for number, dot in enumerate(panel.dots):
        middle = top + _LINE * (number + 1.5) + 5
        parts += [
            f"<g><title>{xml_text(f'{dot.label}: {dot.said}')}</title>",
            f'<text x="{left}" y="{middle + 4}" text-anchor="end">{xml_text(_cut(dot.label))}</text>',
            *(_mark(dot.estimate, dot.sure, axis, middle) if dot.estimate else ()),
            f'<text x="{axis.left + _PLOT + _MARGIN}" y="{middle + 4}">{xml_text(_cut(dot.said))}</text></g>',
        ]
    return parts


def _mark(estimate: Estimate, sure: bool, axis: _Axis, middle: float) -> list[str]:
    parts, fill = [], "#0b5fa5" if sure else "#ffffff"
    if estimate.low is not None and estimate.high is not None:
        ends = f'x1="{axis.place(estimate.low)}" y1="{middle}" x2="{axis.place(estimate.high)}" y2="{middle}"'
        parts.append(f'<line {ends} stroke="#0b5fa5" stroke-width="2"/>')
    at = axis.place(estimate.value)
    return [*parts, f'<circle cx="{at}" cy="{middle}" r="4.5" fill="{fill}" stroke="#0b5fa5" stroke-width="2"/>']


def _described(panel: Panel) -> str:
    return f"{panel.heading}: {'; '.join(f'{dot.label}: {dot.said}' for dot in panel.dots)}."


def _width(texts: Sequence[str]) -> int:
    return math.ceil(_CHARACTER * max((len(_cut(text)) for text in texts), default=0))


def _cut(text: str) -> str:
    return cut(printable(text), _LONGEST)


def _number(value: float, form: str) -> str:
    return f"{value + 0.0:{form}}".replace("-", "−")  # + 0.0: no −0
