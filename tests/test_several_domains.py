"""Runs scored on their sources too (`score_sources`): what is said of a run is said of its target."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Result
from made_up_records import edit, write_run, write_runs
from safetensors.numpy import save_file

from urbancross_bench import api
from urbancross_bench.evaluation import evaluate_retrieval
from urbancross_bench.execution.scoring import score_ranking
from urbancross_bench.identity import key_of
from urbancross_bench.registry import Registry

Cli = Callable[..., Result]


def score_file(run: Path) -> Path:
    """The score that a run was made up with."""
    return run / "scores" / key_of(["score", run.name]) / "score.json"


def add_score(run: Path, value: float | None, **changes: object) -> Path:
    """A further score of a run: a copy of its own with another mR, none if `value` is None."""
    own = score_file(run).parent
    key = key_of([own.name, value, changes])
    shutil.copytree(own, own.with_name(key))
    set_value(own.with_name(key) / "score.json", value, key=key, **changes)
    return own.with_name(key) / "score.json"


def set_value(file: Path, value: float | None, **changes: object) -> None:
    metrics = json.loads(file.read_text())["metrics"]
    entry = metrics.pop("mR")
    edit(file, metrics=metrics | ({} if value is None else {"mR": entry | {"value": value}}), **changes)


def test_runs_are_listed_by_what_they_score_on_their_target(tmp_path: Path, cli: Cli) -> None:
    """By the score that a search is of: other domains, selectors and protocols would turn the order around."""
    for method, value, elsewhere in (("ours", 20.0, 99.0), ("theirs", 50.0, 1.0), ("oracle", None, 99.0)):
        run = write_run(tmp_path / "runs", method, "a", "b", 0)
        first = score_file(run)
        for changes in ({"domain": "a"}, {"selector": "later"}, {"protocol": "later"}):
            add_score(run, elsewhere, **changes)
        set_value(first, value)
    failed = write_run(tmp_path / "runs", "source_only", "a", "b", 0)
    set_value(score_file(failed), 70.0, domain="a")  # nothing on its target
    for command in (("search", tmp_path, "a lake"), ("export", "model-card", tmp_path, "")):
        result = cli(*command)
        assert result.status == 2
        listed = re.findall(r"mR +(\S+)  a → b · small · (\w+)", result.err)
        assert listed[:2] == [("50.0", "theirs"), ("20.0", "ours")]
        assert sorted(listed[2:]) == [("–", "oracle"), ("–", "source_only")]


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    """A run scored on target and source, and one on its target alone, from which rankings can be made again."""
    recall = Registry.discover().resolve("metric", "recall")
    generator = np.random.default_rng(0)
    for method in ("ours", "theirs"):
        run = write_run(tmp_path / "runs", method, "a", "b", 0)
        files = [score_file(run)] + ([add_score(run, 0.0, domain="a")] if method == "ours" else [])
        for file in files:
            images, texts = generator.normal(size=(2, 9, 4))
            ranking = evaluate_retrieval(images, texts, np.arange(9))
            content, arrays = score_ranking(ranking, [recall], draws=1)
            edit(file, **content)
            save_file(arrays, file.with_name("queries.safetensors"))
    return tmp_path


def test_rescoring_says_which_domain_a_score_is_of(scored: Path, cli: Cli) -> None:
    heads = [line for line in cli("rescore", scored).out.splitlines() if not line.startswith(" ")]
    several = [line for line in heads if "ours" in line]
    assert sorted(re.findall(r" · (on .) · ", " ".join(several))) == ["on a", "on b"]
    assert [line for line in heads if "theirs" in line] == [
        "a → b · small · theirs · last · classic · expected · seed 0"
    ]
    recorded = {
        (file.parent.name, said["domain"], said["metrics"]["mR"]["value"])
        for file in scored.glob("runs/*/scores/*/score.json")
        for said in [json.loads(file.read_text())]
    }
    said = json.loads(cli("rescore", scored, "--json").out)
    assert {(one["score"], one["domain"], one["metrics"]["mR"]["value"]) for one in said} == recorded
    frame = api.rescore(scored)
    assert {*zip(frame["score"], frame["domain"], frame["mR"], strict=True)} == recorded


def test_a_row_that_lacks_a_seed_is_refused_once(tmp_path: Path, cli: Cli) -> None:
    write_runs(tmp_path, methods=["ours"], pairs=[("a", "b")])
    write_runs(tmp_path, methods=["theirs"], pairs=[("a", "b")], seeds=[0, 1])
    for run in sorted((tmp_path / "runs").iterdir()):
        add_score(run, 5.0, domain="a", test=key_of(["a", "test"]))
    result = cli("leaderboard", "add", tmp_path, "--to", tmp_path / "board")
    assert result.status == 1
    assert re.search(r"1 row \(theirs on small, a → b, last, only seeds 0, 1\) lack", result.err), result.err
