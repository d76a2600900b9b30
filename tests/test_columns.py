"""Columns that plugins add to a leaderboard."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import Result
from made_up_records import edit, write_runs

from urbancross_bench.leaderboard.committed import seal
from urbancross_bench.leaderboard.importing import add

Cli = Callable[..., Result]
PAGE = Path(__file__).parent.parent / "docs" / "plugins.md"
HEAD = """
from urbancross_bench.interfaces import Column, Estimate, hookimpl, register

@hookimpl
def register_columns():
    return [register({name!r}, "{module}:Mine", summary="Mine.")]

class Mine(Column):
    def cell(self, run, scores):
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods, three seeds. Look, do not touch."""
    return write_runs(tmp_path_factory.mktemp("made_up"), methods={"source_only": 10, "ours": 12})


@pytest.fixture
def board(runs: Path, tmp_path: Path) -> Path:
    """A board with these records."""
    folder = tmp_path / "board"
    assert add([runs], folder).refused == ()
    return folder


def named(board: Path, *columns: str, **more: object) -> Path:
    """The board, whose view names these columns."""
    view = yaml.safe_load((board / "view.yaml").read_text(encoding="utf-8"))
    (board / "view.yaml").write_text(yaml.safe_dump({**view, "columns": [*columns], **more}), encoding="utf-8")
    return board


def plugin(folder: Path, body: str, name: str = "mine") -> Path:
    """A file with a column whose cell is what `body` returns. Modules have their names once in a process."""
    file = folder / f"column_{abs(hash((body, name, str(folder))))}.py"
    file.write_text(HEAD.format(name=name, module=file.stem) + f"        {body}\n", encoding="utf-8")
    return file


def scenarios(board: Path) -> list[dict[str, str]]:
    with (board / "scenarios.csv").open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def test_the_column_of_the_page_stands_last(cli: Cli, board: Path, tmp_path: Path) -> None:
    code = [b for b in re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL) if "Column" in b]
    (tmp_path / "my_column.py").write_text(code[0], encoding="utf-8")
    before = cli("leaderboard", "build", board)
    assert before.status == 0, before.err
    plain = scenarios(board)
    built = cli("leaderboard", "build", named(board, "worst_seed"), "--plugin", tmp_path / "my_column.py")
    assert built.status == 0, built.err
    rows = scenarios(board)
    assert [list(row)[-1] for row in rows] == ["worst_seed"] * len(rows)
    assert [{k: v for k, v in row.items() if k != "worst_seed"} for row in rows] == plain
    assert all(0 < float(row["worst_seed"]) <= float(row["mR"]) for row in rows)
    assert cli("leaderboard", "check", board, "--plugin", tmp_path / "my_column.py").status == 0
    missing = cli("leaderboard", "check", board)
    assert missing.status == 1
    assert "there is no column 'worst_seed'" in missing.err


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("return run['nothing']", "column 'mine' failed on "),
        ("raise SystemExit(3)", "column 'mine' failed on "),
        ("return [1]", "column 'mine' gave a list, which is no cell"),
        ("return float('nan')", "column 'mine' gave nan"),
        ("return Estimate(1.0, float('-inf'), 2.0)", "column 'mine' gave "),
        ("return Estimate('x', None, None)", "whose value and ends are no numbers"),
        ("return 2**70", "column 'mine' gave 1180591620717411303424, of more digits than tables hold"),
    ],
)
def test_a_column_that_fails_is_named_and_writes_nothing(
    body: str, said: str, cli: Cli, board: Path, tmp_path: Path
) -> None:
    result = cli("leaderboard", "build", named(board, "mine"), "--plugin", plugin(tmp_path, body))
    assert result.status == 2
    assert said in result.err
    assert not (board / "scenarios.csv").exists()


@pytest.mark.parametrize(
    ("body", "values", "kind"),
    [
        ("return numpy.mean([1.0, 2.0])", {"mine": 1.5}, float),
        ("return Estimate(numpy.float64(1.5), 1, 2)", {"mine": 1.5, "mine low": 1.0, "mine high": 2.0}, float),
        ("return run['seed'] == 0", {"mine": "True"}, str),
    ],
)
def test_files_of_all_formats_hold_the_same_of_a_column(
    body: str, values: dict[str, object], kind: type, cli: Cli, board: Path, tmp_path: Path
) -> None:
    import pyarrow.parquet as pq

    view = named(board, "mine", renderers=["csv", "json", "parquet", "markdown"])
    file = plugin(tmp_path, f"import numpy\n        {body}")
    built = cli("leaderboard", "build", view, "--plugin", file)
    assert built.status == 0, built.err
    in_csv, in_json = scenarios(board), json.loads((board / "scenarios.json").read_text(encoding="utf-8"))["rows"]
    in_parquet = pq.read_table(board / "scenarios.parquet").to_pylist()
    for name, value in values.items():
        found = [row[name] for row in in_parquet]
        assert found == [row[name] for row in in_json]
        assert set(found) == {value}
        assert {type(one) for one in found} == {kind}
        assert [kind(row[name]) for row in in_csv] == found


def test_what_a_column_changes_is_its_own(cli: Cli, board: Path, tmp_path: Path) -> None:
    assert cli("leaderboard", "build", board).status == 0
    plain = scenarios(board)
    body = "[score.clear() for score in scores]; run.clear(); return 'x'"
    file = plugin(tmp_path, body.replace("; ", "\n        "))
    assert cli("leaderboard", "build", named(board, "mine"), "--plugin", file).status == 0
    assert scenarios(board) == [{**row, "mine": "x"} for row in plain]


def test_a_column_does_not_take_anothers_place(cli: Cli, board: Path, tmp_path: Path) -> None:
    file = plugin(tmp_path, "return 1", name="verdict")
    result = cli("leaderboard", "build", named(board, "verdict"), "--plugin", file)
    assert (result.status, "there is a column 'verdict' already" in result.err) == (2, True)


@pytest.mark.parametrize("view", [{"metric": "chance"}, {"details": ["seeds"]}, {"metric": "scenario"}])
def test_a_metric_does_not_take_a_columns_place(view: dict[str, object], cli: Cli, board: Path) -> None:
    [name] = [name if isinstance(name, str) else name[0] for name in view.values()]  # type: ignore[index]
    for score in board.glob("records/*/scores/*/score.json"):
        metrics = json.loads(score.read_text(encoding="utf-8"))["metrics"]
        edit(score, metrics=metrics | {name: metrics["mR"]})
    seal(board / "records")
    assert cli("leaderboard", "build", named(board, details=["mR"])).status == 0  # the metric itself is no other
    result = cli("leaderboard", "build", named(board, **view))
    assert (result.status, f"there is a column '{name}' already" in result.err) == (2, True)
