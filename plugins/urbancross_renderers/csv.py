"""Tables as CSV."""

from __future__ import annotations

import csv
import io
from typing import ClassVar

from urbancross_bench.interfaces import Renderer, Table
from urbancross_renderers.content import DECIMALS, Value, flat

# A spreadsheet would run a cell that starts like a formula; those of some languages take wide signs, too.
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")


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
    return f"'{text}" if isinstance(value, str) and text.startswith(_FORMULA) else text
