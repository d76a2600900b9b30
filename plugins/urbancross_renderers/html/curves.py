"""Learning curves: a small chart for each value that a training logged, with its numbers in a table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from urbancross_renderers.content import decimals
from urbancross_renderers.html.markup import element

_WIDE, _HIGH = 300, 100
_FIRST = ("loss", "kept_share")
_SAID = {
    "loss": "loss",
    "kept_share": "curriculum: share of the source kept",
    "discriminator_accuracy": "discriminator: share told right",
}
_SHARES = ("kept_share", "skipped_share", "discriminator_accuracy", "paired_share")  # drawn on an axis from 0 to 1


@dataclass(frozen=True)
class Curve:
    """A chart for the template `curve.html`: `points` are (step, value)."""

    title: str
    low: str
    high: str
    first: str
    last: str
    drawing: Markup
    points: Sequence[tuple[float, float]]


def curves(training: str, passes: Sequence[Mapping[str, Any]]) -> list[Curve]:
    """The charts of a training, the loss and the curriculum's share first; a value logged once has none."""
    names = sorted({name for one in passes for name in one} - {"step"}, key=lambda name: (_order(name), name))
    return [curve for name in names if (curve := _curve(training, name, passes)) is not None]


def _order(name: str) -> int:
    return _FIRST.index(name) if name in _FIRST else len(_FIRST)


def _curve(training: str, name: str, passes: Sequence[Mapping[str, Any]]) -> Curve | None:
    points = [*_points(name, passes)]
    if len(points) < 2:
        return None
    values = [value for _, value in points]
    low, high = (0.0, 1.0) if name in _SHARES else (min(values), max(values))
    low, high = (min(low, *values), max(high, *values))
    title = _SAID.get(name, name.replace("_", " "))
    said = (
        f"{len(points)} passes; {_digits(values[0])} at first, {_digits(values[-1])} at the end, "
        f"between {_digits(min(values))} and {_digits(max(values))}."
    )
    drawing = element(
        "svg",
        element("title", f"{training}: {title} by step"),
        element("desc", said),
        element("polyline", points=_path(points, low, high), class_="curve"),
        viewBox=f"0 0 {_WIDE} {_HIGH}",
        preserveAspectRatio="none",
        role="img",
        class_="chart",
    )
    ends = f"{points[0][0]:.6g}", f"{points[-1][0]:.6g}"
    return Curve(title, _digits(low), _digits(high), *ends, drawing, points)


def _points(name: str, passes: Sequence[Mapping[str, Any]]) -> Iterator[tuple[float, float]]:
    for place, one in enumerate(passes):
        step, value = one.get("step", place), one.get(name)
        if isinstance(step, int | float) and isinstance(value, int | float) and math.isfinite(value):
            yield float(step), float(value)


def _path(points: Sequence[tuple[float, float]], low: float, high: float) -> str:
    start, end = points[0][0], points[-1][0]
    return " ".join(
        f"{_WIDE * (step - start) / ((end - start) or 1):.1f},"
        f"{4 + (_HIGH - 8) * (1 - (value - low) / ((high - low) or 1)):.1f}"
        for step, value in points
    )


def _digits(value: float) -> str:
    return decimals(value) if 0.1 <= abs(value) < 1e5 or value == 0 else f"{value:.3g}"
