"""`leaderboard check`: whether a board is what its records give, and its records are what they were."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path, PurePosixPath

from urbancross_bench.errors import UrbanCrossError, some
from urbancross_bench.interfaces.renderer import Board as BoardContent
from urbancross_bench.interfaces.renderer import Renderer, Table
from urbancross_bench.leaderboard.boards import Board
from urbancross_bench.leaderboard.build import columns_of, make_board, make_files, renderers_of
from urbancross_bench.leaderboard.committed import broken_seals, read_all
from urbancross_bench.leaderboard.published import published_renderer, read_published
from urbancross_bench.leaderboard.recounting import moved
from urbancross_bench.leaderboard.tables import NAMES, SUFFIXES
from urbancross_bench.registry import Registry

_SAID = 3  # cells named of a file
# What other views may have made of a board.
_TABLES = NAMES | {"by_source", "by_kind", "cost"}
_SITE = "site"


def check_board(board: Board, registry: Registry) -> list[str]:
    """What is wrong with a board, one sentence a fault, each naming a file; nothing is written."""
    problems = [problem for place in board.records for problem in broken_seals(place)]
    try:
        renderers = renderers_of(board.view, registry)
        records = read_all(board.records)
        problems += moved(records)
        shown = make_board(records, board.view, columns_of(board.view, registry))
        problems += _stale(shown, renderers, board.out, f"leaderboard build {board.file}", of_view=True)
    except UrbanCrossError as error:
        return [*problems, str(error)]
    return problems


def check_published(file: Path, registry: Registry) -> list[str]:
    """The same of a file of published figures and the table beside it."""
    try:
        table = read_published(file)
    except UrbanCrossError as error:
        return [str(error)]
    shown = BoardContent(table.title, [table])
    return list(
        _stale(shown, [published_renderer(registry)], file.parent, f"leaderboard build {file}", of_view=False)
    )


def _stale(
    shown: BoardContent, renderers: Sequence[Renderer], out: Path, command: str, *, of_view: bool
) -> Iterator[str]:
    """The files of a board that are missing, not what it gives, or of a format no longer asked for; of a view's
    board those that another view has left, too.
    """
    names = set()
    for made in make_files(shown, renderers):
        names.add(made.name)
        file = out / made.name
        try:
            written = file.read_bytes()
        except OSError:
            yield f"{file} is missing: urbancross-bench {command}"
            continue
        if not made.same(written, made.content):
            yield f"{file} is stale{_difference(file, written, made.content)}: urbancross-bench {command}"
    yield from _surplus(names, shown.tables, out)
    if of_view:
        yield from _of_other_views(names, shown.tables, out)


def _surplus(made: Collection[str], tables: Sequence[Table], out: Path) -> Iterator[str]:
    """Files that are named like tables, or stand in a folder that a format fills."""
    names = {table.name for table in tables}
    for file in sorted(out.glob("*")):
        source = file.suffix == ".csv" and file.stem == "published"
        if file.is_file() and file.stem in names and file.name not in made and not source:
            yield f"{file} is not among what the view makes: delete it, or add its format to `renderers`"
    for folder in sorted({PurePosixPath(name).parts[0] for name in made if "/" in name}):
        for file in sorted((out / folder).rglob("*")):
            if file.is_file() and file.relative_to(out).as_posix() not in made:
                yield f"{file} is not among what the view makes: delete it"


def _of_other_views(made: Collection[str], tables: Sequence[Table], out: Path) -> Iterator[str]:
    """Tables and a site that the view does not make, and made once: nothing would keep them up to date."""
    gone = sorted(_TABLES - {table.name for table in tables})
    found = [file for name in gone for suffix in SUFFIXES if (file := out / f"{name}{suffix}").is_file()]
    if (out / _SITE / "index.html").is_file() and f"{_SITE}/index.html" not in made:
        found.append(out / _SITE)
    for place in found:
        yield f"{place} is not among what the view makes: delete it, or have the view make it"


def _difference(file: Path, written: bytes, made: bytes) -> str:
    """Which scores moved, where both are CSV with the same lines; else nothing."""
    if file.suffix != ".csv":
        return ""
    before, after = (list(csv.reader(io.StringIO(text.decode(errors="replace")))) for text in (written, made))
    if [len(line) for line in before] != [len(line) for line in after] or not after:
        return ", with other rows or columns"
    cells = [
        f"row {i}, {after[0][k]}: {old or 'nothing'} → {new or 'nothing'}"
        for i, (olds, news) in enumerate(zip_longest(before, after))
        for k, (old, new) in enumerate(zip(olds, news, strict=True))
        if old != new
    ]
    return f", {some(cells, _SAID, '; ')}" if cells else ""
