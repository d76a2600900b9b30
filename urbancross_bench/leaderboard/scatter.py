"""A drawing of ranks under A against ranks under B, query by query: SVG, without any library."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from urbancross_bench.errors import cut
from urbancross_bench.leaderboard.comparing import Comparison
from urbancross_bench.leaderboard.plotting import xml_text
from urbancross_bench.leaderboard.queries import LOST, TIED, WON, Queries

_SIDE, _LEFT, _ABOVE, _GAP = 300, 70, 46, 60  # pixels: of a panel, and around it
_TITLE, _LINE = '<title id="title">Ranks under A, ', 2000  # characters of a line that are looked at
_ROOM = 100  # characters above the panels; the description has all
_CELL = 4  # pixels: queries that fall into one cell are one circle
_FEW = 500  # queries that are drawn large
_COLOURS = {WON: "#0b5fa5", TIED: "#6b6b6b", LOST: "#b3460b"}
_WORDS = {"i2t": "images to texts", "t2i": "texts to images"}


def is_drawing(file: Path) -> bool:
    """Whether `draw` gave what is in a file, by its title. Raises OSError, ValueError."""
    with file.open(encoding="utf-8") as opened:
        return opened.readline(_LINE).startswith("<svg ") and opened.readline(_LINE).startswith(_TITLE)


def draw(comparison: Comparison) -> str:
    """An SVG document with two panels a pair, one a direction.

    Both axes are logarithmic, from rank 1 to the largest of the panel. A circle above the diagonal holds queries
    that A won; it grows with their number, up to a limit. Title and description say the same in words.
    """
    wide = _LEFT + 2 * (_SIDE + _GAP)
    tall = _ABOVE + len(comparison.pairs) * (_SIDE + _ABOVE + _GAP)
    sides = f"A: {comparison.a}   B: {comparison.b}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {tall}" width="{wide}" height="{tall}" '
        'role="img" aria-labelledby="title desc" font-family="sans-serif" font-size="12">',
        f"{_TITLE}{xml_text(f'{comparison.a}, against B, {comparison.b}')}</title>",
        f'<desc id="desc">{xml_text(_described(comparison))}</desc>',
        f'<rect width="{wide}" height="{tall}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="20" font-size="14">{xml_text(cut(sides, _ROOM))}</text>',
        f'<text x="{_LEFT}" y="36">above the line A won (<tspan fill="{_COLOURS[WON]}">blue</tspan>), below it A '
        f'lost (<tspan fill="{_COLOURS[LOST]}">orange</tspan>); larger circles are more queries</text>',
    ]
    for row, (pair, name) in enumerate(zip(comparison.pairs, _names(comparison), strict=True)):
        top = _ABOVE + row * (_SIDE + _ABOVE + _GAP) + _ABOVE
        parts.append(f'<text x="{_LEFT}" y="{top - 22}" font-weight="bold">{xml_text(cut(name, _ROOM))}</text>')
        for column, (direction, found) in enumerate(pair.queries.items()):
            parts += _panel(found, _WORDS[direction], _LEFT + column * (_SIDE + _GAP), top)
    return "\n".join([*parts, "</svg>", ""])


def _described(comparison: Comparison) -> str:
    said = [
        "Scatter plots with logarithmic axes, one point a query: rank of the first right answer under A and B."
    ]
    for pair, name in zip(comparison.pairs, _names(comparison), strict=True):
        for direction, found in pair.queries.items():
            counts = ", ".join(f"{name} {count}" for name, count in found.counts.items())
            said.append(f"{name}, {_WORDS[direction]}: A {counts}.")
    return " ".join(said)


def _names(comparison: Comparison) -> list[str]:
    """What tells each pair from the others: its scenario, and what is not the same in all."""
    cells = [pair.cells for pair in comparison.pairs]
    telling = [column for column in cells[0] if column == "scenario" or len({one[column] for one in cells}) > 1]
    return [" · ".join(one[column] for column in telling) for one in cells]


def _panel(found: Queries, words: str, left: int, top: int) -> list[str]:
    decades = math.log10(max(2.0, float(found.a.max(initial=1)), float(found.b.max(initial=1))))
    bottom = top + _SIDE

    def place(rank: float) -> float:
        return _SIDE * math.log10(rank) / decades

    parts = [
        f'<rect x="{left}" y="{top}" width="{_SIDE}" height="{_SIDE}" fill="none" stroke="#6b6b6b"/>',
        f'<line x1="{left}" y1="{bottom}" x2="{left + _SIDE}" y2="{top}" stroke="#6b6b6b"/>',
        f'<text x="{left}" y="{top - 6}">{words}</text>',
        f'<text x="{left + _SIDE / 2}" y="{bottom + 34}" text-anchor="middle">rank under A</text>',
        f'<text transform="translate({left - 40} {top + _SIDE / 2}) rotate(-90)" text-anchor="middle">rank under B'
        "</text>",
    ]
    for rank in _ticks(decades):
        at = place(rank)
        parts += [
            f'<text x="{left + at:.1f}" y="{bottom + 16}" text-anchor="middle">{rank}</text>',
            f'<text x="{left - 6}" y="{bottom - at + 4:.1f}" text-anchor="end">{rank}</text>',
        ]
    single = _CELL * (0.75 if len(found.a) <= _FEW else 0.4)
    cells = _cells(found, decades)
    for outcome, colour in _COLOURS.items():
        parts.append(f'<g fill="{colour}" fill-opacity="0.6">')
        for (x, y), number in sorted(cells[outcome].items()):
            radius = min(3.0 * _CELL, single * math.sqrt(number))
            parts.append(f'<circle cx="{left + x * _CELL}" cy="{bottom - y * _CELL}" r="{radius:.1f}"/>')
        parts.append("</g>")
    return parts


def _ticks(decades: float) -> list[int]:
    """Ones, and twos and fives where there is room."""
    steps: Sequence[int] = (1, 2, 5) if decades < 2.5 else (1,)
    ticks = (step * 10**power for power in range(math.floor(decades) + 1) for step in steps)
    return [tick for tick in ticks if math.log10(tick) <= decades]


def _cells(found: Queries, decades: float) -> dict[str, Counter[tuple[int, int]]]:
    """Whether A won → how many such queries fall into each cell of the panel."""
    across, up = (np.rint(_SIDE * np.log10(ranks) / decades / _CELL).astype(int) for ranks in (found.a, found.b))
    return {
        outcome: Counter(zip(across[mask].tolist(), up[mask].tolist(), strict=True))
        for outcome, mask in found.outcomes.items()
    }
