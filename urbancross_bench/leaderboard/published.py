"""Published figures: what others report, beside our own numbers and never among them."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from urbancross_bench.errors import DataError
from urbancross_bench.evaluation.protocols import PROTOCOLS
from urbancross_bench.interfaces.renderer import Board, Cell, Renderer, Table
from urbancross_bench.leaderboard.build import make_files, write_files
from urbancross_bench.registry import Registry

COLUMNS = ("method", "dataset", "metric", "value", "protocol", "checkpoint", "source", "evidence", "note")
REQUIRED = ("method", "dataset", "metric", "value", "source", "evidence")
_FIGURE = ("method", "dataset", "metric", "protocol", "checkpoint", "source")  # what tells two apart
EVIDENCE = ("repository", "paper", "third party", "checkpoint name")

_NOTES = (
    "Reported, not re-run: every figure is the authors' own or a third party's, under the protocol, splits, tie "
    "rule and choice of checkpoint that they used. None is ranked, here or with rows of a leaderboard.",
    "Order is by dataset, protocol, metric and name. A dash: not known. Percent.",
    "Evidence: printed in an official repository, in the paper, in a third party's summary, or part of the name "
    "of a released checkpoint.",
)


def published_renderer(registry: Registry) -> Renderer:
    """The one format that published figures are written in; the file they are made from is a format itself."""
    renderer: Renderer = registry.resolve("renderer", "markdown").build()
    return renderer


def build_published(file: Path, registry: Registry) -> Table:
    """Write `published.md` beside a file of published figures. Raises DataError, see `read_published`."""
    table = read_published(file)
    write_files(make_files(Board(table.title, [table]), [published_renderer(registry)]), file.parent)
    return table


def read_published(file: Path) -> Table:
    """The table of published figures in a CSV file of `COLUMNS`, in an order that no value decides.

    Raises DataError naming the line for another header, an empty field of `REQUIRED`, a value that is no
    percentage, an unknown protocol or kind of evidence, and a figure that stands twice.
    """
    try:
        with file.open(encoding="utf-8", newline="") as opened:
            reader = csv.DictReader(opened, strict=True)
            lines = [(reader.line_num, line) for line in map(_stripped, reader)]
            header = tuple(reader.fieldnames or ())
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"published figures {file} cannot be read: {error}") from error
    if header != COLUMNS:
        raise DataError(f"published figures {file}: the columns are {', '.join(header)}, not {', '.join(COLUMNS)}")
    seen: dict[tuple[str, ...], int] = {}
    for number, line in lines:
        problem = _problem(line)
        facts = tuple(str(line[name]) for name in _FIGURE)
        if not problem and facts in seen:
            problem = f"the figure of line {seen[facts]} once more"
        if problem:
            raise DataError(f"published figures {file}, line {number}: {problem}")
        seen[facts] = number
    ordered = sorted(
        (line for _, line in lines),
        key=lambda line: [
            line[name] for name in ("dataset", "protocol", "metric", "method", "source", "checkpoint")
        ],
    )
    names = ["dataset", "protocol", "metric", *(n for n in COLUMNS if n not in ("dataset", "protocol", "metric"))]
    rows = [[_cell(name, line[name]) for name in names] for line in ordered]
    return Table("published", "Published figures: reported, not re-run", names, rows, _NOTES)


def _stripped(line: dict[str, str]) -> dict[str, str]:
    return {name: field.strip() if isinstance(field, str) else field for name, field in line.items()}


def _problem(line: dict[str, str]) -> str:
    """What is wrong with a line; empty if nothing is."""
    if None in line or None in line.values():
        return f"not {len(COLUMNS)} fields"
    empty = [name for name in REQUIRED if not line[name]]
    if empty:
        return f"{', '.join(empty)} must not be empty"
    try:
        value = float(line["value"].replace("_", "no digit"))
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= 100.0:
        return f"value {line['value']!r} is no percentage"
    if line["protocol"] not in ("", *PROTOCOLS):
        return f"protocol {line['protocol']!r} is none of {', '.join(PROTOCOLS)}; leave it empty if not known"
    if line["evidence"] not in EVIDENCE:
        return f"evidence {line['evidence']!r} is none of {', '.join(EVIDENCE)}"
    return ""


def _cell(name: str, text: str) -> Cell:
    return float(text) if name == "value" else text or None
