"""The functions for notebooks say what the command line says, and the page about them runs as it stands."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import Outcome, Result, tree

from urbancross_bench import api
from urbancross_bench.errors import DataError, UsageError
from urbancross_bench.evaluation import evaluate_retrieval
from urbancross_bench.frames import frame_of_table
from urbancross_bench.interfaces import Estimate, Table
from urbancross_bench.leaderboard.view import DEFAULT, load_view
from urbancross_bench.records import read_records

PAGE = Path(__file__).parent.parent / "docs" / "python.md"
ONE_FILE = """
from urbancross_bench.interfaces import Adaptation, hookimpl, register


@hookimpl
def register_adaptations():
    return [register("as_it_is", "my_file:AsItIs", setting="source_only", summary="Nothing.")]


class AsItIs(Adaptation):
    pass
"""
EDITED = "def __init__(self, options):\n        raise RuntimeError('edited')"
COLUMN = """
from urbancross_bench.interfaces import Column, hookimpl, register


@hookimpl
def register_columns():
    return [register("how_many", "api_column:HowMany", summary="Seeds.")]


class HowMany(Column):
    def cell(self, run, scores):
        return len(scores)
"""


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seen: dict[str, object] = {}
    for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(code, seen)
    frame = api.records("runs/small")
    assert sorted(frame["adaptation"]) == ["dann", "source_only"]
    assert set(frame["status"]) == {"ok"}
    assert (tmp_path / "runs" / "small" / "leaderboard" / "summary.csv").is_file()
    # The very functions that the page names, and no others, are what there is.
    assert {name for name in seen if name in api.__all__} == {*api.__all__} - {"Ranking"}


def test_records_are_what_the_files_say(outcome: Outcome) -> None:
    frame = api.records(outcome.out)
    for _, row in frame.iterrows():
        folder = outcome.out / "runs" / row["run"]
        spec = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        score = json.loads((folder / "scores" / row["score"] / "score.json").read_text(encoding="utf-8"))
        assert (row["seed"], row["adaptation"]) == (spec["seed"], spec["adaptation"]["label"])
        assert (row["selector"], row["setting"], row["images"]) == tuple(
            score[name] for name in ("selector", "setting", "images")
        )
        for name, entry in score["metrics"].items():
            for column, value in ((name, "value"), (f"{name} low", "low"), (f"{name} high", "high")):
                assert math.isnan(row[column]) if entry[value] is None else row[column] == entry[value]
    assert len(frame) == len(list(outcome.out.glob("runs/*/scores/*/score.json")))


def test_a_leaderboard_is_the_tables_of_the_command(outcome: Outcome, tmp_path: Path) -> None:
    tables = api.leaderboard(outcome.out, out=tmp_path)
    assert tree(tmp_path) == tree(outcome.out / "leaderboard")
    for name, frame in tables.items():
        with (tmp_path / f"{name}.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert [*frame.columns] == [*rows[0]]
        for (_, mine), theirs in zip(frame.iterrows(), rows, strict=True):
            assert theirs["adaptation"] == mine["adaptation"]
            for column in ("mR", "mR low", "mR high"):
                if column in frame:
                    assert (theirs[column] == "") if math.isnan(mine[column]) else (
                        float(theirs[column]) == pytest.approx(mine[column], abs=5e-5)
                    )  # fmt: skip
    again = api.leaderboard(outcome.out)
    assert all(frame.equals(again[name]) for name, frame in tables.items())


def test_what_is_recorded_is_planned_and_run_as_such(outcome: Outcome, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(outcome.out, out, symlinks=True)
    planned = api.plan(outcome.file, out)
    assert set(planned["state"]) == {"reused", "skipped"}
    assert set(planned[planned["state"] == "skipped"]["adaptation"]) == {"oracle", "urbancross"}
    assert planned[planned["state"] == "skipped"]["reason"].str.len().min() > 10
    assert set(api.plan(outcome.file, tmp_path / "empty")["state"]) == {"run", "skipped"}
    before = tree(out / "runs")
    frame = api.run(api.Grid.from_yaml(outcome.file), out)
    assert tree(out / "runs") == before
    assert frame.equals(api.records(out))
    assert {*planned["run"].dropna()} == {*frame["run"]}


def test_only_some_runs_are_given_back(outcome: Outcome, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(outcome.out, out, symlinks=True)
    [first, *_] = api.plan(outcome.file, out)["run"]
    assert {*api.run(outcome.file, out, only=[first])["run"]} == {first}
    assert {*api.run(outcome.file, out, only=[first[:12]])["run"]} == {first}
    with pytest.raises(UsageError, match=r"16 keys begin with : .*, and 11 more; write more of it"):
        api.run(outcome.file, out, only=[""])


def test_what_an_earlier_version_left_is_told_apart(outcome: Outcome, tmp_path: Path) -> None:
    """As its folder has it after the code of a method was changed, and it was run again."""
    out = tmp_path / "out"
    shutil.copytree(outcome.out / "runs", out / "runs")
    assert api.records(out)["current"].isna().all()  # as of a board: no grid is kept there
    shutil.copytree(outcome.out / "grids", out / "grids")
    before = api.records(out)
    assert before["current"].all()
    key = before.loc[before["adaptation"] == "urbancross", "run"].iloc[0]
    shutil.copytree(out / "runs" / key, out / "runs" / "older")
    [file, *_] = scores = sorted((out / "runs" / "older").glob("scores/*/score.json"))
    spec = json.loads((out / "runs" / "older" / "run.json").read_text(encoding="utf-8"))
    spec |= {"key": "older", "adaptation": spec["adaptation"] | {"version": "local+older"}}
    (out / "runs" / "older" / "run.json").write_text(json.dumps(spec), encoding="utf-8")
    # A score that its run has from an earlier form of the grid is no part of it either.
    shutil.copytree(file.parent, out / "runs" / key / "scores" / "earlier")
    earlier = out / "runs" / key / "scores" / "earlier" / "score.json"
    earlier.write_text(
        json.dumps(json.loads(file.read_text(encoding="utf-8")) | {"key": "earlier"}), encoding="utf-8"
    )
    frame = api.records(out)
    assert frame[frame["current"]].reset_index(drop=True).equals(before)
    others = frame[~frame["current"]]
    assert sorted(others["run"]) == sorted([key, *(["older"] * len(scores))])
    assert set(others.loc[others["run"] == "older", "version"]) == {"local+older"}
    assert set(before["version"]) == {one.spec["adaptation"]["version"] for one in read_records([outcome.out])}
    # Of several folders it is enough that one asks for it.
    assert api.records(out, outcome.out)["current"].sum() == len(before)
    later = out / "grids" / "later.json"
    later.write_text('{"schema": 99}', encoding="utf-8")
    with pytest.warns(UserWarning, match="schema 99") as warned:
        assert api.records(out)["current"].isna().all()
    [warning] = warned
    assert str(later) in str(warning.message)
    assert warning.filename == __file__  # who reads the records is told, not the harness


def test_the_runs_of_an_output_are_judged_by_its_grids(
    outcome: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "runs" / "records"  # names that folders of runs have themselves
    for part in ("runs", "grids"):
        shutil.copytree(outcome.out / part, out / part)
    [key, *_] = api.records(out)["run"]
    shutil.copytree(out / "runs" / key, out / "runs" / "older")
    spec = json.loads((out / "runs" / key / "run.json").read_text(encoding="utf-8"))
    (out / "runs" / "older" / "run.json").write_text(json.dumps(spec | {"key": "older"}), encoding="utf-8")
    of_output = api.records(out)
    assert {*of_output["current"]} == {True, False}
    assert api.records(out / "runs").equals(of_output)
    monkeypatch.chdir(out / "runs")
    assert api.records(".").equals(of_output)
    assert api.records(out, ".").equals(of_output)
    # A folder of runs that is no part of an output is judged by nobody, whatever lies beside it.
    shutil.copytree(out / "runs", out / "copy")
    assert api.records(out / "copy")["current"].isna().all()


def test_a_failed_run_is_a_row_without_a_score(outcome: Outcome, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(outcome.out / "runs", out / "runs")
    [first, *_] = sorted((out / "runs").iterdir())
    spec = json.loads((first / "run.json").read_text(encoding="utf-8"))
    (first / "run.json").write_text(json.dumps(spec | {"status": "oom"}), encoding="utf-8")
    shutil.rmtree(first / "scores")
    frame = api.records(out)
    [row] = [row for _, row in frame.iterrows() if row["run"] == first.name]
    assert row["status"] == "oom"
    assert math.isnan(row["mR"])


def test_grids_are_read_as_the_command_reads_them() -> None:
    assert api.Grid.from_yaml("quickstart", "seeds=[7]", "budget.steps=3").budget.steps == 3
    with pytest.raises(UsageError, match='Did you mean "quickstart"'):
        api.Grid.from_yaml("quickstrat")
    with pytest.raises(UsageError, match=r'--set budget.stpes: budget: unknown key "stpes"|unknown key'):
        api.Grid.from_yaml("quickstart", "budget.stpes=3")
    with pytest.raises(DataError, match="holds no record"):
        api.records(PAGE.parent)


def test_a_mapping_is_a_grid_and_its_mistakes_are_named(outcome: Outcome, tmp_path: Path) -> None:
    content = yaml.safe_load(outcome.file.read_text(encoding="utf-8"))
    assert api.plan(content, outcome.out).equals(api.plan(outcome.file, outcome.out))
    content["budget"]["stpes"] = 3
    with pytest.raises(UsageError, match=r"^grid: budget: unknown key 'stpes'\. Did you mean \"steps\"\?"):
        api.plan(content)
    with pytest.raises(UsageError, match=r"from_yaml reads a file; give a mapping to `plan` or `run`"):
        api.Grid.from_yaml(content)  # type: ignore[arg-type]


def test_a_mapping_is_a_view_and_its_mistakes_are_named(outcome: Outcome) -> None:
    content = yaml.safe_load(DEFAULT.read_text(encoding="utf-8"))
    found, usual = api.leaderboard(outcome.out, view=content), api.leaderboard(outcome.out)
    assert [*found] == [*usual]
    assert all(table.equals(usual[name]) for name, table in found.items())
    with pytest.raises(UsageError, match=r"^view: unknown key 'colums'"):
        api.leaderboard(outcome.out, view={**content, "colums": []})


def test_folders_may_be_in_a_list(outcome: Outcome) -> None:
    assert api.records([outcome.out]).equals(api.records(outcome.out))
    assert api.rescore([str(outcome.out)]).equals(api.rescore(outcome.out))
    assert [*api.leaderboard([outcome.out])] == [*api.leaderboard(outcome.out)]
    pair = ("urbancross", "source_only")
    assert api.compare(*pair, [outcome.out], selector="last").equals(
        api.compare(*pair, outcome.out, selector="last")
    )
    for read in (api.records, api.leaderboard, api.rescore):
        with pytest.raises(UsageError, match="None is no folder; give its path"):
            read(None)
        with pytest.raises(UsageError, match="name a folder"):
            read([])


def test_what_no_score_has_is_named_without_options(outcome: Outcome) -> None:
    with pytest.raises(UsageError, match=r"^no score has the metric 'R@1'\. Did you mean"):
        api.compare("urbancross", "source_only", outcome.out, metric="R@1")


def test_one_needs_no_list(outcome: Outcome, tmp_path: Path) -> None:
    """The letters of a string are not meant."""
    one = api.rescore(outcome.out, metrics="rank", plugins=())
    assert one.equals(api.rescore(outcome.out, metrics=["rank"]))
    out = tmp_path / "out"
    shutil.copytree(outcome.out, out, symlinks=True)
    [first, *_] = api.plan(outcome.file, out)["run"]
    assert {*api.run(outcome.file, out, only=first)["run"]} == {first}
    with pytest.raises(UsageError, match="no score has the scenario 'a → b'"):
        api.compare("urbancross", "source_only", outcome.out, selector="last", scenarios="a -> b")


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ({"save_every": -1.0}, "cannot be saved every -1.0 seconds"),
        ({"save_every": math.nan}, "cannot be saved every nan seconds"),
        ({"retries": -1}, "cannot be tried -1 times more"),
        ({"retries": 1.5}, "cannot be tried 1.5 times more"),
        ({"track_patience": -1.0}, "cannot be given -1.0 seconds"),
    ],
)
def test_limits_are_those_of_the_command(
    limit: dict[str, Any], said: str, outcome: Outcome, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=said):
        api.run(outcome.file, tmp_path / "out", **limit)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("read", [api.records, api.leaderboard, api.rescore])
def test_no_folder_is_an_error_not_an_empty_frame(read: Callable[..., Any]) -> None:
    with pytest.raises(UsageError, match="name a folder"):
        read()


def test_an_end_of_an_interval_is_no_other_column() -> None:
    """A domain `urban low` beside `urban`."""
    columns = ["→ urban", "→ urban low"]
    frame = frame_of_table(Table("matrix", "t", columns, [[Estimate(50.0, 40.0, 60.0), 10.0]]))
    assert [*frame.columns] == ["→ urban", "→ urban [low]", "→ urban [high]", "→ urban low"]
    assert [*frame.iloc[0]] == [50.0, 40.0, 60.0, 10.0]


def test_a_device_that_cannot_be_is_refused_before_anything_is_begun(outcome: Outcome, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no device 'gpu'; known: auto, cpu, cuda, cuda:N"):
        api.run(outcome.file, tmp_path / "out", device="gpu")
    assert not (tmp_path / "out").exists()


def test_the_ranking_is_the_one_of_evaluation() -> None:
    assert api.evaluate_retrieval is evaluate_retrieval


def test_a_ranking_is_a_line_in_a_notebook() -> None:
    found = evaluate_retrieval(np.eye(4), np.repeat(np.eye(4), 5, axis=0), np.repeat(np.arange(4), 5), k=(1, 10))
    assert repr(found) == "Ranking(4 images × 20 texts, classic, expected, mR 100.00)"
    said = "DirectionRanking(4 queries, a gallery of 20, expected, R@1 100.00, R@10 100.00)"
    assert repr(found.i2t) == said


@pytest.mark.slow
def test_a_script_and_a_plugin_that_is_edited_as_in_a_notebook(grid: Callable[..., Path], tmp_path: Path) -> None:
    """Without a guard for multiprocessing; the plugin's source is what its version is made of, and what runs."""
    (tmp_path / "my_file.py").write_text(ONE_FILE, encoding="utf-8")
    file = grid(
        plugins=["my_file.py"], scenarios=[{"source": "plain", "target": "dark"}], adaptations=["as_it_is"]
    )
    script = tmp_path / "script.py"
    script.write_text(
        f"from urbancross_bench.api import run\nprint('once')\nprint(*run({str(file)!r}, 'out')['status'])\n"
        f"open('my_file.py', 'w').write({ONE_FILE.replace('pass', EDITED)!r})\n"
        f"print(*run({str(file)!r}, 'out')['status'])\n",
        encoding="utf-8",
    )
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "once\nok\nfailed\n"), done.stderr
    runs = [json.loads(run.read_text(encoding="utf-8")) for run in (tmp_path / "out" / "runs").glob("*/run.json")]
    versions = {run["adaptation"]["version"] for run in runs}
    assert len(versions) == 2
    assert all(re.fullmatch(r"local\+[0-9a-f]{12}", version) for version in versions)


def test_other_metrics_are_those_of_the_command(outcome: Outcome, cli: Callable[..., Result]) -> None:
    frame = api.rescore(outcome.out, metrics=["recall", "map"], ties="optimistic")
    options = ("--metric", "recall", "--metric", "map", "--ties", "optimistic", "--json")
    said = json.loads(cli("rescore", outcome.out, *options).out)
    assert [*frame["score"]] == [score["score"] for score in said]
    assert [*frame["mR"]] == [score["metrics"]["mR"]["value"] for score in said]
    assert {*frame["ties"]} == {"optimistic"}
    records = api.records(outcome.out)
    same = [name for name in records if name not in ("ties", *frame.filter(regex="^mR|@"))]
    assert frame[same].equals(records[same])  # `current`, `version`, `setting` … are there as well
    recorded = records.set_index("score")["mR"]
    assert (frame.set_index("score")["mR"] >= recorded - 1e-9).all()  # of the same runs
    with pytest.raises(UsageError, match="unknown tie rule 'lucky'"):
        api.rescore(outcome.out, ties="lucky")


def test_a_comparison_is_that_of_the_command(outcome: Outcome, cli: Callable[..., Result]) -> None:
    frame = api.compare("urbancross", "tiny/source_only", outcome.out, selector="last")
    said = json.loads(
        cli("compare", "urbancross", "tiny/source_only", outcome.out, "--selector", "last", "--json").out
    )
    assert [*frame["A − B"]] == [pair["difference"]["value"] for pair in said["pairs"]]
    assert [*frame["A is"]] == [pair["a_is"] for pair in said["pairs"]]
    assert frame.attrs == {"notes": said["notes"], "not_compared": said["not_compared"]}


def test_a_column_of_a_file_is_shown(outcome: Outcome, tmp_path: Path) -> None:
    (tmp_path / "api_column.py").write_text(COLUMN, encoding="utf-8")
    view = load_view(DEFAULT).model_copy(update={"columns": ("how_many",)})
    table = api.leaderboard(outcome.out, view=view, plugins=[tmp_path / "api_column.py"])["scenarios"]
    assert {*table["how_many"]} == {len({*api.records(outcome.out)["seed"]})}


def test_status_is_what_the_command_says(outcome: Outcome, cli: Callable[..., Result]) -> None:
    said = json.loads(cli("status", outcome.out, "--json").out)
    frame = api.status(outcome.out)
    assert frame["state"].value_counts().to_dict() == said["runs"]
    assert {*frame["run"].dropna()} == {folder.name for folder in (outcome.out / "runs").iterdir()}
    with pytest.raises(UsageError):
        api.status(outcome.out / "nowhere")


def test_a_search_finds_what_the_command_finds(outcome: Outcome, cli: Callable[..., Result]) -> None:
    key = min(folder.name for folder in (outcome.out / "runs").iterdir())
    words = ("a red field", "some planes")
    said = json.loads(cli("search", outcome.out, *words, "--run", key, "--top", 3, "--json").out)
    frame = api.search(outcome.out, *words, run=key, top=3)
    assert list(frame["place"]) == [1, 2, 3] * 2
    for one in said["queries"]:
        found = frame[frame["query"] == one["query"]]
        assert list(found["image"]) == [hit["image"] for hit in one["hits"]]
        assert list(found["score"]) == [hit["score"] for hit in one["hits"]]
        assert [list(captions) for captions in found["captions"]] == [hit["captions"] for hit in one["hits"]]
    with pytest.raises(UsageError, match="nothing to search for"):
        api.search(outcome.out, run=key)
