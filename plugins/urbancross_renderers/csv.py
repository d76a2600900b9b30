"""Tables as CSV."""

from __future__ import annotations

import csv
import io
from typing import ClassVar

from urbancross_bench.interfaces import Renderer, Table
from urbancross_bench.interfaces.renderer import harmless
from urbancross_renderers.content import DECIMALS, Value, flat


class Csv(Renderer):
    """One line per row; an estimate takes three columns: value, low and high end of its interval."""

    suffix: ClassVar[str] = ".csv"

    def render(self, table: Table) -> str:
        """Numbers with four decimals, nothing for what is missing."""
        names, rows = flat(table)
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([_text(name) for name in names])
        writer.writerows([_text(value) for value in row] for row in rows)
        return out.getvalue()


def _text(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.{DECIMALS}f}"
    text = str(value)
    return harmless(text) if isinstance(value, str) else text
