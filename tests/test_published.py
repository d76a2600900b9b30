"""Published figures: a file of them is checked, and no value decides their order."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Result

from urbancross_bench.errors import DataError
from urbancross_bench.leaderboard.published import COLUMNS, read_published

Cli = Callable[..., Result]

LINE = ["M", "rsicd", "mR", "10", "classic", "", "a paper", "paper", ""]


def write_published(folder: Path, *lines: list[str], header: tuple[str, ...] = COLUMNS) -> Path:
    with (folder / "published.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *lines])
    return folder / "published.csv"


@pytest.mark.parametrize(
    ("position", "text", "message"),
    [
        (0, "", "line 3: method must not be empty"),
        (3, "", "line 3: value must not be empty"),
        (3, "1,5", "'1,5' is no percentage"),
        (3, "nan", "is no percentage"),
        (3, "101", "is no percentage"),
        (4, "clasic", "'clasic' is none of"),
        (6, " ", "source must not be empty"),
        (7, "hearsay", "'hearsay' is none of"),
        (3, "1_0", "'1_0' is no percentage"),
        (0, "M", "the figure of line 2 once more"),
        (0, " M ", "the figure of line 2 once more"),
    ],
)
def test_published_figures_are_checked(tmp_path: Path, position: int, text: str, message: str) -> None:
    other = ["N", *LINE[1:]]
    other[position] = text
    with pytest.raises(DataError, match=message):
        read_published(write_published(tmp_path, LINE, other))


def test_published_figures_have_their_columns(tmp_path: Path, cli: Cli) -> None:
    with pytest.raises(DataError, match="the columns are method, value"):
        read_published(write_published(tmp_path, header=("method", "value")))
    with pytest.raises(DataError, match="line 2: not 9 fields"):
        read_published(write_published(tmp_path, LINE[:-1]))
    assert "not 9 fields" in cli("leaderboard", "check", tmp_path).err


def test_one_method_may_have_figures_of_several_checkpoints(tmp_path: Path) -> None:
    table = read_published(write_published(tmp_path, LINE, [*LINE[:5], "best on test", *LINE[6:]]))
    assert [row[table.columns.index("checkpoint")] for row in table.rows] == [None, "best on test"]


def test_no_value_decides_the_order_of_published_figures(tmp_path: Path) -> None:
    lines = [[name, *LINE[1:]] for name in ("C", "A", "B")]
    for values in ((1, 2, 3), (3, 1, 2)):
        valued = [[*line[:3], str(value), *line[4:]] for line, value in zip(lines, values, strict=True)]
        table = read_published(write_published(tmp_path, *valued))
        assert [row[table.columns.index("method")] for row in table.rows] == ["A", "B", "C"]
    assert "not re-run" in table.title
    assert not {"rank", "verdict", "tie group"} & {*table.columns}
