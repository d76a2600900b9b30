"""Hostile plugins: what the conformance kit says of each, and what becomes of a grid that uses it.

`docs/conformance.md` has the same table in words, and SECURITY.md where containment ends.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from broken_promises import ZOO, broken_promises
from conftest import Outcome, Result, made_once, outcome_of, write_domains, write_grid

import urbancross_bench.testing as kit
from urbancross_bench.errors import PluginError
from urbancross_bench.evaluation import evaluate_retrieval
from urbancross_bench.execution.scoring import metric_values
from urbancross_bench.records import read_records
from urbancross_bench.registry import Registry
from urbancross_bench.testing.runner import Subject, keep

OTHERS = (
    "import_error",
    "missing_dependency",
    "wrong_signature",
    "misspelt_hook",
    "duplicate_name",
    "heavy_import",
)


@dataclass(frozen=True)
class Beast:
    """A hostile adaptation. kit: the promise it breaks, and a word of why. run: how its cell of a grid ends."""

    kit: tuple[str, str]
    run: tuple[str, str]


METRIC = """
from urbancross_bench.interfaces import Metric, QueryScores, hookimpl, register

@hookimpl
def register_metrics():
    return [register("mine", "mine:Mine", summary="the rank of the first right answer")]

class Mine(Metric):
    def score(self, ranking):
        return {"i2t_mine": QueryScores("i2t", ranking.i2t.ranks, higher_is_better=False)}
"""

ADAPTATIONS = {
    "changes_seed": Beast(("test_it_leaves_no_trace", "the seed of torch"), ("ok", "")),
    "patches_torch": Beast(("test_it_leaves_no_trace", "torch.nn.functional.normalize"), ("ok", "")),
    "draws_unseeded": Beast(("test_it_repeats", "draw from torch's generators"), ("ok", "")),
    "reads_hidden_captions": Beast(
        ("test_it_asks_for_what_it_may_see", "captions are not shown"), ("failed", "captions are not shown here")
    ),
    "walks_to_pairs": Beast(("test_hidden_data_changes_nothing", "what its setting hides"), ("ok", "")),
    "reads_files": Beast(("test_it_opens_nothing", "dataset.json"), ("ok", "")),
    "writes_to_stdout": Beast(("test_it_prints_nothing", "step 0"), ("ok", "")),
    "leaks_memory": Beast(("test_it_keeps_nothing", "bytes more"), ("ok", "")),
    "never_returns": Beast(("test_it_works", "did not return"), ("timeout", "the time limit")),
    "ends_the_process": Beast(("", ""), ("failed", "its process ended before it did")),
}  # fmt: skip


def test_the_table_is_whole() -> None:
    assert {file.stem for file in ZOO.glob("*.py")} == {*ADAPTATIONS, *OTHERS}
    page = (ZOO.parent.parent / "docs" / "conformance.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in {*ADAPTATIONS, *OTHERS})


@pytest.mark.parametrize("name", [name for name, beast in ADAPTATIONS.items() if beast.kit[0]])
def test_the_kit_catches_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.nn.functional.normalize", torch.nn.functional.normalize)  # put back afterwards
    promise, words = ADAPTATIONS[name].kit
    found = broken_promises("adaptation", name, **({"patience": 0.5} if name == "never_returns" else {}))
    assert words in found[promise]
    also = {"test_it_works"} if name == "reads_hidden_captions" else set()
    if name in ("draws_unseeded", "changes_seed"):  # a kill shows it too
        also |= {"test_it_goes_on_after_a_kill", "test_hidden_data_changes_nothing", "test_it_leaves_no_trace"}
    if name == "patches_torch":  # and what follows is done with what it left
        also |= {"test_it_repeats", "test_hidden_data_changes_nothing", "test_it_goes_on_after_a_kill"}
    if name == "walks_to_pairs":  # there is another number of splits to be found after one
        also |= {"test_it_goes_on_after_a_kill", "test_it_repeats"}
    assert found.keys() <= {promise, *also}


def test_a_plugin_that_ends_its_process_is_reported(tmp_path: Path) -> None:
    subject = Subject("adaptation", "ends_the_process", {}, None, (str(ZOO / "ends_the_process.py"),))
    told = {one.promise: one for one in keep(subject, 30.0)}
    assert told["test_it_is_there"].outcome == "kept"
    assert told["test_it_works"].why == "its process ended (exit status 0)"
    assert [one.promise for one in told.values() if one.outcome == "skipped" and "2 processes" in one.why]


def test_what_starts_processes_is_tried_too() -> None:
    told = list(keep(Subject("executor", "local", {}, None, ()), 60.0))
    assert [(one.promise, one.why) for one in told if one.outcome == "broken"] == []
    assert "test_it_works" in {one.promise for one in told if one.outcome == "kept"}


def test_libraries_that_fail_or_crash_cost_the_plugins_that_need_them(tmp_path: Path) -> None:
    """Neither the card, nor a word on it; and a file of the current folder that nobody named is not run."""
    (tmp_path / "mine.py").write_text(METRIC)
    for folder, does in (("", "Path('ran').touch()"), ("fails", "raise OSError"), ("crashes", "os.abort()")):
        (tmp_path / folder).mkdir(exist_ok=True)
        words = "import os, sys; from pathlib import Path; print('noise'); print('noise', file=sys.stderr)\n"
        (tmp_path / folder / "torch.py").write_text(words + does)
    for folder, broken in (("nowhere", False), ("fails", True), ("crashes", True)):
        command = [sys.executable, "-m", "urbancross_bench", "plugins", "check", tmp_path / "mine.py", "--json"]
        paths = os.pathsep.join([str(tmp_path / folder), *filter(None, sys.path)])
        environment = {**os.environ, "PYTHONPATH": paths, "PYTHONSAFEPATH": "1"}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        [card] = json.loads(done.stdout)
        assert any(one["outcome"] == "kept" for one in card["promises"])
        why = [one["why"] for one in card["promises"] if one["outcome"] == "broken"]
        assert (bool(why), done.returncode) == (broken, broken), why
        assert "noise" not in done.stderr
    assert not (tmp_path / "ran").exists()


def test_processes_of_the_kit_are_of_todays_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server that they are forked from is older."""
    subject = Subject("metric", "recall", {}, None, ())
    assert next(keep(subject, 30.0)).outcome == "kept"
    monkeypatch.setenv("URBANCROSS_DISABLE_PLUGINS", "metrics")
    first = next(keep(subject, 30.0))
    assert (first.outcome, "there is no metric 'recall'" in first.why) == ("broken", True)


def test_the_kit_catches_metrics() -> None:
    found = broken_promises("metric", "wrong_signature")
    assert "Mine.score must take (self, ranking)" in found["test_it_is_of_its_kind"]
    found = broken_promises("metric", "missing_dependency")
    assert "a_package_that_is_not_there" in found["test_it_is_of_its_kind"]
    cls = type("Checked", (kit.MetricConformance,), {"plugin": "recall", "files": (ZOO / "duplicate_name.py",)})
    with pytest.raises(PluginError, match=r"provided more than once.*duplicate_name"):
        cls().test_it_is_there()
    for name, words in (("import_error", "this module is not well"), ("misspelt_hook", "register_metric")):
        with pytest.raises(PluginError, match=words):
            Registry.discover([ZOO / f"{name}.py"])


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The beasts that are no adaptation, as distributions on Python's path; the folder."""
    for name in OTHERS:
        (tmp_path / f"{name}.py").write_text((ZOO / f"{name}.py").read_text(encoding="utf-8"), encoding="utf-8")
        about = tmp_path / f"{name}_dist-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[urbancross_bench]\n{name} = {name}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in OTHERS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield tmp_path
    for name in OTHERS:
        sys.modules.pop(name, None)


def test_installed_ones_cost_themselves_only(installed: Path) -> None:
    registry = Registry.discover()
    bad = {p.name: (p.status, str(p.error)) for p in registry.providers if p.error}
    assert bad.keys() == {"import_error", "misspelt_hook"}
    assert "not well" in bad["import_error"][1]
    assert registry.find("adaptation", "dann").provider.name == "adaptations"
    with pytest.raises(PluginError, match=r"by duplicate_name-dist 1.0.*by urbancross-bench"):
        registry.find("metric", "recall")
    names = ("rank", "wrong_signature", "missing_dependency", "heavy_import")
    ranking = evaluate_retrieval(np.eye(6), np.eye(6), np.arange(6))
    found, _ = metric_values(ranking, [registry.resolve("metric", name) for name in names], draws=0)
    assert found["failed"].keys() == {"wrong_signature", "missing_dependency"}
    assert found["metrics"]["i2t_hit"]["value"] == 1.0


def test_a_heavy_one_is_told_so(
    installed: Path, cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(installed))
    result = cli("plugins", "check", "heavy_import-dist", "--json")
    [card] = json.loads(result.out)
    broken = {one["promise"]: one["why"] for one in card["promises"] if one["outcome"] == "broken"}
    assert result.status == 1
    assert broken.keys() == {"test_registering_is_light"}
    assert "imports torch" in broken["test_registering_is_light"]


def run(folder: Path, plugins: list[str], adaptations: list[str]) -> Outcome:
    """A grid of one scenario."""
    scenarios = [{"source": "plain", "target": "dark"}]
    file = write_grid(folder, write_domains(folder), plugins=plugins, adaptations=adaptations, scenarios=scenarios)
    return outcome_of(file, folder / "out")


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A grid of all hostile adaptations beside a good one. Look, do not touch."""
    plugins = [str(ZOO / f"{name}.py") for name in ADAPTATIONS]
    others = [name for name in ADAPTATIONS if name != "never_returns"]

    def make(folder: Path) -> Outcome:
        outcome = run(folder, plugins, [*others, "source_only"])
        # Alone, so that its limit may be shorter than what others need.
        outcome_of(outcome.file, outcome.out, "--set", "adaptations=[never_returns]", "--time-limit", "1")
        return outcome

    return made_once(tmp_path_factory, "zoo", make)


@pytest.mark.parametrize("name", ADAPTATIONS)
def test_a_grid_contains_it(together: Outcome, name: str) -> None:
    status, words = ADAPTATIONS[name].run
    [record] = [one for one in read_records([together.out]) if one.spec["adaptation"]["label"] == name]
    assert record.spec["status"] == status
    if words:
        assert words in json.loads((record.folder / "failure.json").read_text())["error"]


def metrics(out: Path, label: str) -> list[object]:
    """All scores of a method's one run."""
    [record] = [one for one in read_records([out]) if one.spec["adaptation"]["label"] == label]
    return [score.content["metrics"] for score in record.scores]


def test_a_stage_lets_go_of_what_its_view_was_made_from(together: Outcome) -> None:
    """Its loss is that of `source_only`, unless it finds a split."""
    assert metrics(together.out, "walks_to_pairs") == metrics(together.out, "source_only")


def test_the_good_one_is_what_it_would_be_alone(together: Outcome, tmp_path: Path) -> None:
    """To the bit, though it was trained after all the others; and what was printed went to logs."""
    assert together.result.status == 1
    assert metrics(together.out, "source_only") == metrics(run(tmp_path, [], ["source_only"]).out, "source_only")
    assert "and past it" not in together.result.out
    logs = [file.read_bytes() for file in together.out.rglob("*.log")]
    assert any(b"and past it" in log for log in logs)
