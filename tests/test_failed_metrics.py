"""Metrics that fail: what they cost, who is told, and how their scores are made again."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Outcome, Result, tree, write_domains, write_grid
from grid_events import RUNS, Heard, status, write_record
from made_up_plans import FACTS, Session, make_plan, make_run, make_stage, publish
from safetensors.numpy import save_file

import urbancross_bench.testing as kit
from urbancross_bench.api import leaderboard
from urbancross_bench.evaluation import evaluate_retrieval
from urbancross_bench.execution.journal import Journal
from urbancross_bench.execution.scoring import _TAKEN, metric_values
from urbancross_bench.execution.stage import Stage
from urbancross_bench.execution.store import Store
from urbancross_bench.files import write_json
from urbancross_bench.identity import DISTRIBUTION
from urbancross_bench.leaderboard.view import View, fitted
from urbancross_bench.records import Record, ScoreRecord, read_record, read_records, write_score
from urbancross_bench.registry import Registry

Cli = Callable[..., Result]

METRICS = """
from pathlib import Path

import numpy as np

from urbancross_bench.interfaces import Metric, Options, QueryScores, hookimpl, register

NAMES = ("flaky", "leaves", "nans", "forgot", "asks", "same", "of_none", "own", "aa_moves", "aa_same")
OPTIONS = "failing_metrics:Some"


@hookimpl
def register_metrics():
    return [
        *(register(name, f"failing_metrics:{name.title()}", options=OPTIONS, summary="x") for name in NAMES),
        register("says", "failing_metrics:Forgot", options=OPTIONS, needs={"embeddings"}, summary="x"),
    ]


class Some(Options):
    k: int = 3


class Own(Metric):
    options_type = Some

    def score(self, ranking):
        return {f"own_{self.options.k}": QueryScores("i2t", ranking.i2t.hits(self.options.k))}


class Flaky(Own):
    def score(self, ranking):
        if not (Path(__file__).parent / "well").exists():
            raise OSError("the index is away")
        return {"flaky": QueryScores("i2t", ranking.i2t.hits(2))}


class Leaves(Own):
    def score(self, ranking):
        raise SystemExit(0)


class Nans(Own):
    def score(self, ranking):
        values = ranking.t2i.hits(1).astype(float)
        values[[2, 5]] = np.nan, np.inf
        return {"nans": QueryScores("t2i", values)}


class Forgot(Own):
    def score(self, ranking):
        return {"forgot": QueryScores("i2t", ranking.i2t.hits(1 + (ranking.inputs.images is None)))}


class Asks(Own):
    def score(self, ranking):
        return {"asks": QueryScores("i2t", ranking.i2t.hits(1 + (ranking.with_inputs("asks") is None)))}


class Same(Own):
    def score(self, ranking):
        return {"i2t_R@1": QueryScores("i2t", 100.0 * ranking.i2t.hits(1))}


Aa_Same = Same


class Aa_Moves(Own):
    def score(self, ranking):
        ranking.i2t.recall[1] = 0.0  # a copy
        ranks = ranking.i2t.ranks
        ranks -= 1
        return {"moved": QueryScores("i2t", ranks)}


class Of_None(Own):
    def score(self, ranking):
        raise KeyError("cheese")
"""


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with metrics: a process loads a module of this name from one place only."""
    file = tmp_path_factory.mktemp("plugin") / "failing_metrics.py"
    file.write_text(METRICS)
    return file


# ── One metric ────────────────────────────────────────────────────────────────────────────────────


def problem_of(plugin: Path, name: str) -> str:
    """Why a metric has no value of a ranking that has its embeddings; `rank` beside it has."""
    registry = Registry.discover([plugin])
    ranking = evaluate_retrieval(np.eye(8), np.eye(8), np.arange(8))
    found, _ = metric_values(ranking, [registry.resolve("metric", one) for one in (name, "rank")], draws=0)
    assert "i2t_MRR" in found["metrics"]
    return str(found["failed"].get(name, ""))


def test_a_metric_that_fails_when_scores_are_taken_again_is_no_success(
    plugin: Path, outcome: Outcome, cli: Cli
) -> None:
    asked = ("rescore", outcome.out, "--metric", "of_none", "--plugin", plugin)
    result = cli(*asked)
    assert result.status == 1
    assert result.out.count("of_none: failed, KeyError('cheese')") == len(json.loads(cli(*asked, "--json").out))
    assert cli("rescore", outcome.out, "--metric", "own", "--plugin", plugin).status == 0


def test_no_metric_moves_what_others_see_or_takes_a_name_of_the_projects(plugin: Path) -> None:
    """Whatever it is called: metrics are asked in order."""
    assert "read-only" in problem_of(plugin, "aa_moves")
    registry, generator = Registry.discover([plugin]), np.random.default_rng(0)
    ranking = evaluate_retrieval(generator.normal(size=(8, 4)), generator.normal(size=(8, 4)), np.arange(8))
    names = ("aa_moves", "aa_same", "rank", "recall")
    found, _ = metric_values(ranking, [registry.resolve("metric", name) for name in names], draws=0)
    alone, _ = metric_values(ranking, [registry.resolve("metric", name) for name in names[2:]], draws=0)
    assert found["metrics"] == alone["metrics"]
    assert found["failed"].keys() == {"aa_moves", "aa_same"}
    assert found["failed"]["aa_same"] == (
        "value 'i2t_R@1' is called as one of metric 'recall', which comes along; call it by another name"
    )
    assert problem_of(plugin, "aa_same") == found["failed"]["aa_same"]  # no recall is there


def test_the_names_that_are_taken_are_those_of_the_projects_metrics() -> None:
    ranking = evaluate_retrieval(
        np.eye(8), np.eye(8), np.arange(8), text_id=np.arange(8), image_class=np.zeros(8, dtype=np.int64)
    )
    registry, given = Registry.discover(), {}
    for plugin in [one for one in registry.plugins if one.provider.distribution == DISTRIBUTION]:
        if plugin.kind == "metric":
            name = plugin.registration.name
            found, _ = metric_values(ranking, [registry.resolve("metric", name)], draws=0)
            given |= dict.fromkeys(found["metrics"], name)
    assert given == _TAKEN


def test_two_metrics_of_others_do_not_give_one_value(plugin: Path) -> None:
    registry, ranking = Registry.discover([plugin]), evaluate_retrieval(np.eye(8), np.eye(8), np.arange(8))
    metrics = [registry.resolve("metric", name) for name in ("own", "own[k=3]")]
    found, _ = metric_values(ranking, metrics, draws=0)
    assert found["failed"] == {"own[k=3]": "another metric gives a value called 'own_3', too"}


def test_a_ranking_protects_its_own_and_leaves_the_callers_arrays_alone() -> None:
    owner, classes, ids = np.arange(8), np.zeros(8, dtype=np.int64), np.arange(8)
    ranking = evaluate_retrieval(np.eye(8), np.eye(8), owner, image_class=classes, text_id=ids)
    assert ranking.inputs is not None
    shown = [
        ranking.i2t.reciprocal_ranks,
        ranking.image_of_text,
        ranking.inputs.image_class,
        ranking.inputs.text_id,
    ]
    for array in (*shown, ranking.inputs.items.picture, *ranking.inputs.items.right):
        assert array is not None
        assert not array.flags.writeable
    ranking.map_at_r["i2t"] = 0.0
    assert ranking.map_at_r["i2t"] == 100
    owner[0], classes[0], ids[0] = 1, 1, 1  # not frozen


def test_what_is_no_number_is_named(plugin: Path) -> None:
    assert problem_of(plugin, "nans") == (
        "value 'nans' is nan for query 2 of t2i (from 0); of its 8 values 2 are no finite number"
    )


def test_a_metric_that_leaves_is_a_failure(plugin: Path, cli: Cli, tmp_path: Path) -> None:
    assert problem_of(plugin, "leaves") == "SystemExit(0)"
    np.save(tmp_path / "i.npy", np.eye(8))
    (tmp_path / "m.json").write_text(json.dumps([*range(8)]))
    files = ("--images", tmp_path / "i.npy", "--texts", tmp_path / "i.npy", "--map", tmp_path / "m.json")
    result = cli("score", *files, "--plugin", plugin, "--metric", "leaves", "--metric", "recall")
    assert result.status == 1
    assert "leaves: failed, SystemExit(0)" in result.out
    assert "mR              100.00" in result.out
    for twins in (("rank", "rank"), ("own", "own[k=3]")):
        result = cli("score", *files, "--plugin", plugin, *(part for name in twins for part in ("--metric", name)))
        assert result.status == 2
        assert f"metric {twins[1]!r} is named twice, first as {twins[0]!r}" in result.err
    assert cli("score", *files, "--plugin", plugin, "--metric", "own", "--metric", "own[k=4]").status == 0


@pytest.mark.parametrize("name", ["forgot", "asks"])
def test_a_metric_sees_embeddings_only_if_it_says_so(plugin: Path, name: str) -> None:
    assert "register it with needs={'embeddings'}" in problem_of(plugin, name)
    assert "needs=" not in problem_of(plugin, "of_none")
    assert problem_of(plugin, "says") == ""


def test_the_kit_says_what_would_fail_in_grids(plugin: Path) -> None:
    def checked(name: str) -> Any:
        return type("Checked", (kit.MetricConformance,), {"plugin": name, "files": (plugin,)})()

    with pytest.raises(AssertionError, match=r"'i2t_R@1' is called as one of metric 'recall'"):
        checked("same").test_it_works()
    checked("own").test_it_works()
    with pytest.raises(AssertionError, match=r"needs=\{'embeddings'\}"):
        checked("forgot").test_it_works()


# ── A grid ────────────────────────────────────────────────────────────────────────────────────────


def test_a_metric_that_failed_is_told_of_and_tried_again(plugin: Path, cli: Cli, tmp_path: Path) -> None:
    domains, out = write_domains(tmp_path), tmp_path / "out"
    one = {"scenarios": [{"source": "plain", "target": "dark"}], "adaptations": ["source_only"]}
    file = write_grid(tmp_path, domains, plugins=[str(plugin)], metrics=["rank", "flaky"], **one)
    result = cli("run", file, "--out", out)
    assert result.status == 1
    why = "metric flaky: OSError('the index is away')"
    for told in (result.err, cli("status", out).out):
        assert told.count(why) == 1
        assert f"failed: {why}\n  plain → dark · tiny · source_only · seed 0\n" in told
    assert "1 failed. Records" in result.out
    assert "i2t_MRR" in result.out  # without recall, a table by what there is
    written = tree(out / "leaderboard")
    assert cli("leaderboard", "build", out, "--out", tmp_path / "built").status == 0
    assert tree(tmp_path / "built") == written
    assert "mean i2t_MRR" in leaderboard(out)["summary"].columns
    [record] = read_records([out])
    assert record.ok
    [score] = record.scores
    before = tree(out / "store")

    kept = {name: content for name, content in before.items() if not name.startswith("rank/")}
    shutil.copytree(out / "store", tmp_path / "alone" / "store", ignore=shutil.ignore_patterns("rank"))
    alone = write_grid(tmp_path, domains, plugins=[str(plugin)], metrics=["flaky"], **one)
    result = cli("run", alone, "--out", tmp_path / "alone")
    assert result.status == 1
    assert f"no tables: view 'Leaderboard': no score has the metric 'mR'. Failed: {why}." in result.err

    (plugin.parent / "well").touch()
    result = cli("run", file, "--out", out)
    assert result.status == 0
    assert "1 stages to do: 1 rank" in result.err
    assert kept.items() <= tree(out / "store").items()
    [again] = read_records([out])[0].scores
    assert again.folder == score.folder
    assert again.content["failed"] == {}
    entries = dict(again.content["metrics"])
    assert entries.pop("flaky")["value"] > 0
    assert entries == score.content["metrics"]
    assert "1 reused" in cli("run", file, "--out", out).out

    shutil.copytree(out / "store", tmp_path / "anew" / "store", ignore=shutil.ignore_patterns("rank"))
    assert cli("run", file, "--out", tmp_path / "anew").status == 0
    scores = [tree(place / "runs" / record.folder.name / "scores") for place in (out, tmp_path / "anew")]
    assert scores[0] == scores[1]  # it is what it would have been at once


def test_a_view_of_nobodys_takes_a_metric_that_is_there(tmp_path: Path) -> None:
    def by(*own: str, **metrics: bool) -> View:
        """Of scores with these metrics, a view that names the usual details and some of its own."""
        entries = {name.replace("R_", "i2t_R@"): {"higher_is_better": more} for name, more in metrics.items()}
        score = ScoreRecord(tmp_path, {"metrics": entries})
        return fitted(View(title="x", details=("i2t_R@1", "i2t_R@5", *own)), [Record(tmp_path, {}, (score,))])

    assert (by(mR=True, R_1=True, R_5=True, x=True).metric, by(mR=True, x=True).metric) == ("mR", "mR")
    assert by(mR=True, R_5=True, x=True).details == ("i2t_R@5",)
    view = by(places=False, MRR=True, R_1=True)
    assert (view.metric, view.details) == ("MRR", ("places", "i2t_R@1"))
    assert by(places=False).metric == "mR"  # nothing to order by; the error names it
    # What is somebody's own is not left out in silence.
    assert by("i2t_R@3", mR=True, R_5=True).details == ("i2t_R@5", "i2t_R@3")
    assert by("MRR", "x", MRR=True, R_1=True).details == ("i2t_R@1", "x")


# ── Records ───────────────────────────────────────────────────────────────────────────────────────

START = make_stage("pretrain", 0)
ADAPT = make_stage("adapt", 0, START)
RANKS = [make_stage("rank", n, ADAPT, **FACTS) for n in range(2)]
RUN = make_run(0, [ADAPT], RANKS)
PLAN = make_plan([START, ADAPT, *RANKS], [RUN])


def put_score(store: Store, stage: Stage, failed: dict[str, str], *values: str) -> None:
    """The output of a rank stage in place of what is there."""
    with suppress(Exception):
        store.remove(store.entry(stage.key))
    with store.writing(stage, {}) as folder:
        entries = {name: {"value": 1.0} for name in values}
        content = {"metrics": entries, "failed": failed, "floors": {}, "trial": 0, "images": 2}
        (folder / "score.json").write_text(json.dumps(content))
        save_file({f"image_sums.{name}": np.ones((2, 2)) for name in values}, folder / "queries.safetensors")
        (folder / "items.json").write_text("{}")


def metrics_of(out: Path) -> tuple[list[str], dict[str, str]]:
    """The values of the first score of the run, and what failed there. Each value has its sums."""
    record = read_record(out / "runs" / RUN.key)
    assert record is not None
    content, sums = record.scores[0].content, record.scores[0].image_sums()
    assert content["metrics"].keys() <= sums.keys()
    return [*content["metrics"]], content["failed"]


def test_a_score_is_replaced_only_by_one_that_has_all_it_has(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.create()
    for stage in (START, ADAPT, RANKS[1]):
        publish(store, stage)
    put_score(store, RANKS[0], {"b": "away", "c": "away"}, "a")
    session = Session(PLAN, tmp_path)
    assert session.recorder.record(RUN, {}) == ["metric b: away", "metric c: away"]
    other = tree(tmp_path / "runs" / RUN.key / "scores" / RUN.scores[1].key)
    assert metrics_of(tmp_path) == (["a"], {"b": "away", "c": "away"})

    session = Session(PLAN, tmp_path)  # what the store holds is no reason to leave it at that
    assert session.status.todo == (RUN,)
    assert [stage.key for stage in session.status.stages] == [RANKS[0].key]

    for failed, values, expected in [
        ({"a": "now away"}, ("b", "c"), (["a"], {"b": "away", "c": "away"})),
        ({"c": "elsewhere"}, ("a", "b"), (["a", "b"], {"c": "elsewhere"})),
        ({}, ("a", "b", "c"), (["a", "b", "c"], {})),
        ({"c": "again"}, ("a", "b"), (["a", "b", "c"], {})),
    ]:
        put_score(store, RANKS[0], failed, *values)
        session.recorder.record(RUN, {})
        assert metrics_of(tmp_path) == expected
    assert tree(tmp_path / "runs" / RUN.key / "scores" / RUN.scores[1].key) == other
    assert Session(PLAN, tmp_path).status.reused == (RUN,)


def test_a_kill_while_a_score_is_replaced_leaves_one_of_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(tmp_path / "store")
    store.create()
    for stage in (START, ADAPT, RANKS[1]):
        publish(store, stage)
    for moves in range(4):
        shutil.rmtree(tmp_path / "runs", ignore_errors=True)
        put_score(store, RANKS[0], {"b": "away"}, "a")
        Session(PLAN, tmp_path).recorder.record(RUN, {})
        put_score(store, RANKS[0], {}, "a", "b")
        with monkeypatch.context() as patched, suppress(KeyboardInterrupt):
            patched.setattr("urbancross_bench.records.publish", dying(moves))
            Session(PLAN, tmp_path).recorder.record(RUN, {})
        assert metrics_of(tmp_path) == ((["a", "b"], {}) if moves == 3 else (["a"], {"b": "away"}))
        session = Session(PLAN, tmp_path)
        session.recorder.clean()
        assert session.run() == ({} if moves == 3 else {0: "ok"})
        assert metrics_of(tmp_path) == (["a", "b"], {})


def dying(moves: int) -> Callable[[Path, Path], None]:
    """`publish` that comes to its end after some moves."""
    left: Iterator[int] = iter(range(moves))

    def move(source: Path, place: Path) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        source.rename(place)

    return move


def test_of_copies_of_a_score_the_one_with_most_values_counts(tmp_path: Path) -> None:
    for name, failed in (("first", {"b": "away"}), ("second", {})):
        write_record(tmp_path / name, RUNS[0], "ok")
        place = tmp_path / name / "runs" / RUNS[0].key / "scores" / "s"
        outputs = tmp_path / f"{name} outputs"
        outputs.mkdir()
        for file in ("queries.safetensors", "items.json"):
            (outputs / file).touch()
        write_score(place, {"metrics": {}, "failed": failed, "floors": {}}, outputs)
    for order in (["first", "second"], ["second", "first"]):
        [record] = read_records([tmp_path / name for name in order])
        assert record.scores[0].content["failed"] == {}


@pytest.mark.parametrize("write", [write_json, lambda file, content: file.write_text(json.dumps(content))])
def test_a_killed_session_tells_of_metrics_too(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, Any], None]
) -> None:
    monkeypatch.setattr(sys, "argv", ["urbancross-bench", "run", "g.yaml"])
    listener = Journal(tmp_path, Heard())
    listener.planned(status())
    listener.run_started(RUNS[0])
    write_record(tmp_path, RUNS[0], "ok")
    score = {"schema": 5, "key": "s", "options": {"failed": {}}, "metrics": {}, "floors": {}}
    for name, failed in (("r", {}), ("s", {"flaky": "OSError('away')"}), (".partial-t", {"other": "x"})):
        place = tmp_path / "runs" / RUNS[0].key / "scores" / name
        place.mkdir(parents=True)
        write(place / "score.json", score | {"key": name, "failed": failed})
    assert listener._file is not None
    assert listener._lock is not None
    listener._file.close()
    listener._lock.release()
    seen = json.loads(cli("status", tmp_path, "--json").out)
    assert seen["not_ok"][0]["reason"] == "metric flaky: OSError('away')"
    assert seen["runs"]["failed"] == 1
    assert seen["to_go_on"]
