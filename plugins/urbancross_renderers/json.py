"""Tables as JSON."""

from __future__ import annotations

import json
from typing import ClassVar

from urbancross_bench.interfaces import Renderer, Table
from urbancross_bench.interfaces.renderer import printable
from urbancross_renderers.content import typed

# So that the text may stand in a page's script as it is.
_IN_A_PAGE = str.maketrans({char: f"\\u{ord(char):04x}" for char in "<>&"})


class Json(Renderer):
    """An object with `name`, `title`, `columns`, `rows` (an object each, by column) and `notes`.

    The columns and values are those of the CSV and Parquet files; null for what is missing.
    """

    suffix: ClassVar[str] = ".json"

    def render(self, table: Table) -> str:
        """One row a line."""
        columns = typed(table)
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        lines = ",\n  ".join(_text(row) for row in rows)
        parts = {
            "name": _text(table.name),
            "title": _text(printable(table.title)),
            "columns": _text([*columns]),
            "rows": f"[\n  {lines}\n ]" if rows else "[]",
            "notes": _text([printable(note) for note in table.notes]),
        }
        body = ",\n ".join(f'"{name}": {part}' for name, part in parts.items())
        return f"{{\n {body}\n}}\n"


def _text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False).translate(_IN_A_PAGE)
