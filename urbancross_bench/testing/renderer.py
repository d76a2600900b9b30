"""What a renderer promises."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from pathlib import PurePosixPath
from typing import Any
from unittest import SkipTest

from urbancross_bench.interfaces import Board, Estimate, Renderer, Table
from urbancross_bench.registry import Resolved
from urbancross_bench.testing.conformance import PureConformance, broken

_NASTY = (
    "<script>alert(1)</script>",
    "=1+1",
    "a|b",
    "\\input{x}",
    "100 % & more",
    "line\nbreak",
    "\u202eleft",
    "漢 é",
)


def tiny_table(name: str = "summary", rows: int = 3) -> Table:
    """A table with a cell of each type, and with texts that a format might take for markup."""
    cells = [
        (text, number, Estimate(12.5 + number, 11.0, 14.0), Estimate(-1.0), None, 0.5)
        for number, text in enumerate((*_NASTY, *_NASTY)[:rows])
    ]
    best = frozenset({(0, 2)}) if rows else frozenset[tuple[int, int]]()
    return Table(name, "A title & more", ("method", "n", "mR", "gain", "none", "share"), cells, ("A note.",), best)


def written(resolved: Resolved) -> dict[str, str]:
    """Keys of the files that it makes of a board of two tables."""
    return {path: sha256(content).hexdigest() for path, content in _files(resolved.build(), _board())}


def _board() -> Board:
    return Board("Board", [tiny_table(rows=len(_NASTY)), tiny_table("other", 1)])


def _files(renderer: Renderer, board: Board) -> Iterator[tuple[str, bytes]]:
    """Raises AssertionError for what is no file's content."""
    for path, content in renderer.files(board):
        if not isinstance(content, str | bytes):
            broken(f"{path!r} is a {type(content).__name__}, neither text nor bytes")
        try:
            yield path, content.encode() if isinstance(content, str) else content
        except UnicodeEncodeError as error:
            broken(f"{path!r} cannot be written as UTF-8: {error}")


class RendererConformance(PureConformance):
    """A renderer is shown small boards with texts that are not harmless."""

    kind = "renderer"

    def work(self) -> Any:
        """Write a board of two tables."""
        return self._files(_board())

    def _files(self, board: Board) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for path, content in _files(self.build(), board):
            parts = PurePosixPath(path)
            if parts.is_absolute() or ".." in parts.parts or "\\" in path:
                broken(f"it writes to {path!r}, which is not below the board's folder")
            if path in found:
                broken(f"it writes {path!r} twice")
            found[path] = content
        return found

    def test_it_writes_the_same_elsewhere(self) -> None:
        """Another process, as on another machine and another day, writes the same bytes."""
        self.worked()
        if type(self.build()).same is not Renderer.same:
            raise SkipTest("what it takes for the same is its own to say")
        if others := self.others_elsewhere(written, far=True):
            broken(
                f"{', '.join(others)} are others in another process, so a board fails leaderboard check on "
                "another machine: leave out what the board does not say, as times, folders and names of machines, "
                "and sort what comes out of a set"
            )

    def test_it_has_a_suffix(self) -> None:
        """Its files have a suffix that begins with a dot."""
        suffix = getattr(self.resolved.plugin.load(), "suffix", None)
        if not isinstance(suffix, str) or not suffix.startswith("."):
            broken(f"its suffix is {suffix!r}")

    def test_it_knows_its_own(self) -> None:
        """A file says the same as itself, and something else than a file of another table."""
        renderer, (one, other) = self.build(), (self._table(tiny_table()), self._table(tiny_table(rows=1)))
        if not renderer.same(one, one):
            broken("same() says that a file is not the same as itself")
        if renderer.same(one, other):
            broken("same() does not tell two tables apart, or its file does not hold the rows")

    def _table(self, table: Table) -> bytes:
        self.worked()
        content = self.build().render(table)
        return content.encode() if isinstance(content, str) else bytes(content)

    def test_nothing_runs(self) -> None:
        """What stands in a table does not become markup: no script, no formula."""
        for path, content in self.worked().result.items():
            if path.endswith((".html", ".md", ".svg")) and b"<script>alert(1)" in content:
                broken(f"{path}: a cell's <script> is written as it is")
            if path.endswith(".csv") and any(
                cell.startswith(b"=") for cell in content.replace(b"\n", b",").split(b",")
            ):
                broken(
                    f"{path}: a cell begins with '=', which a spreadsheet runs; see interfaces.renderer.harmless"
                )

    def test_a_table_of_none(self) -> None:
        """A table without rows can be written, and one of one row."""
        self.worked()
        for rows in (0, 1):
            seen = self.watched(partial(self._files, Board("Board", [tiny_table(rows=rows)])))
            if seen.error is not None:
                broken(f"with {rows} rows: {type(seen.error).__name__}: {seen.error}")
