"""Boards: folders with a view and what it is made from, as `leaderboards/` of this project holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from urbancross_bench.errors import UsageError
from urbancross_bench.leaderboard.view import View, load_view

VIEW = "view.yaml"
PUBLISHED = "published.csv"


@dataclass(frozen=True)
class Board:
    """A view file with its content."""

    file: Path
    view: View

    @property
    def records(self) -> list[Path]:
        """The folders of records it is made from."""
        return [self.file.parent / place for place in self.view.records]

    @property
    def out(self) -> Path:
        """Where its files go."""
        return self.file.parent / self.view.out


@dataclass(frozen=True)
class Found:
    """What stands below some paths: boards, and files of published figures."""

    boards: tuple[Board, ...]
    published: tuple[Path, ...]


def find_boards(places: Sequence[Path]) -> Found:
    """A view file stands for itself, a folder for its `view.yaml`, else for its `published.csv` and the views of
    the folders in it. Raises UsageError for a path with neither, and for a view that cannot be read.
    """
    views: list[Path] = []
    published: list[Path] = []
    for place in places:
        if place.is_file():
            (published if place.suffix == ".csv" else views).append(place)
            continue
        below = [place / VIEW] if (place / VIEW).is_file() else sorted(place.glob(f"*/{VIEW}"))
        figures = [file for file in [place / PUBLISHED] if file.is_file()]
        if not below and not figures:
            raise UsageError(
                f"{place} is no view and holds none: give a view file, a folder with a {VIEW} or a folder of such "
                f"folders; for tables of a grid's output, `leaderboard build {place} --out DIR`"
            )
        views += below
        published += figures if place / VIEW not in below else []
    return Found(tuple(Board(file, load_view(file)) for file in views), tuple(published))
