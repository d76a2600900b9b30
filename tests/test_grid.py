"""Whole grids through the command line: results, sharing, repetition, interruption, failures."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Outcome, Result, comparable, tree
from safetensors.numpy import load_file

from urbancross_bench.execution.plan import make_plan
from urbancross_bench.execution.stage import Stage
from urbancross_bench.records import read_records
from urbancross_bench.registry import Registry
from urbancross_bench.specs.reading import load_grid

Cli = Callable[..., Result]
GridWriter = Callable[..., Path]


BUDGET = {"steps": 2, "batch_size": 8, "target_batch_size": 4}


def stored(out: Path) -> list[Path]:
    """The published stages of a store."""
    return [p for p in (out / "store").glob("*/*/stage.json") if p.parts[-3] != ".partial"]


def test_a_grid_runs_and_leaves_whole_records(outcome: Outcome) -> None:
    out, result = outcome.out, outcome.result
    assert result.status == 0, result.err
    records = read_records([out])
    # Two in-domain scenarios with source_only alone, two cross-domain ones with three methods, two seeds.
    assert len(records) == 2 * (2 * 1 + 2 * 3)
    for record in records:
        assert record.ok
        assert record.spec["encoder"]["weights"]["status"] == "trained here"
        assert {s.content["selector"] for s in record.scores} == {"last", "source_val", "target_oracle"}
        assert not (record.folder / "failure.json").exists()
        for score in record.scores:
            arrays, queries = score.arrays(), score.content["queries"]
            for side in ("i2t", "t2i"):
                assert {len(arrays[f"{side}.{n}"]) for n in ("greater", "tied", "tied_positives", "top")} == {
                    queries[side]
                }
            oracle = record.spec["shown"]["setting"] == "oracle" or score.content["selector"] == "target_oracle"
            assert (score.content["setting"] == "oracle") == oracle
            for value in score.content["metrics"].values():
                if value["low"] is not None:  # null where all images are alike, as in a split of few
                    assert value["low"] <= value["value"] <= value["high"]
            floors = score.content["floors"]
            assert floors["random"]["mR"] == pytest.approx(score.content["metrics"]["mR"]["chance"])
            assert floors["random"]["mR"] < floors["equal_strings"]["mR"] <= floors["ceiling"]["mR"]
    methods = {(r.spec["scenario"]["kind"], r.spec["adaptation"]["label"]) for r in records}
    assert ("in_domain", "urbancross") not in methods
    assert "Leaderboard" in result.out
    assert (out / "leaderboard" / "summary.md").is_file()


def test_scores_are_those_of_the_stored_features(outcome: Outcome) -> None:
    """A second, slow computation of R@K from the features of the store."""
    out = outcome.out
    for record in read_records([out])[:4]:
        for score in record.scores:
            arrays = load_file(out / "store" / "embed" / score.content["features"] / "features.safetensors")
            number = score.content["number"]
            images, texts = (arrays[f"{n}.{number}"].astype(float) for n in ("images", "texts"))
            images /= np.linalg.norm(images, axis=1, keepdims=True)
            texts /= np.linalg.norm(texts, axis=1, keepdims=True)
            scores = np.round(images @ texts.T, 10)
            owner = arrays["image_of_text"]
            hits = []
            for image in range(len(images)):
                best = scores[image, owner == image].max()
                rest = scores[image, owner != image]
                e, m = (rest == best).sum(), (scores[image, owner == image] == best).sum()
                # A hit at 1 under a random order: the first of the tied is one of the positives.
                hits.append(0.0 if (rest > best).any() else m / (m + e))
            assert score.content["metrics"]["i2t_R@1"]["value"] == pytest.approx(100 * np.mean(hits))


def test_a_second_run_redoes_nothing_and_says_so(outcome: Outcome, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(outcome.out, out, symlinks=True)
    before = {name: content for name, content in tree(out).items() if not name.startswith("journal")}
    again = cli("run", outcome.file, "--out", out)
    assert again.status == 0
    assert "nothing to do" in again.err
    assert "16 reused" in again.out
    assert {name: content for name, content in tree(out).items() if not name.startswith("journal")} == before


def test_two_folders_hold_the_same_bytes(outcome: Outcome, cli: Cli, tmp_path: Path) -> None:
    # Another number of processes, too, and a part of the grid: who computes what, and when, must not matter.
    fewer = ("--set", "executor=local[slots=1]", "--set", "seeds=[1]", "--set", "adaptations=[urbancross]")
    assert cli("run", outcome.file, "--out", tmp_path / "two", *fewer).status == 0
    one, two = (
        {name: content for name, content in comparable(out).items() if "leaderboard" not in name}
        for out in (outcome.out, tmp_path / "two")
    )
    assert len(two) == 2 * (2 + 3 * 3)  # two cross-domain runs: spec, curve, three scores of three files
    assert two.items() <= one.items()


def test_new_selectors_and_methods_reuse_what_is_there(grid: GridWriter, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "out"
    few = {"adaptations": ["source_only"], "budget": BUDGET | {"checkpoints": 2}}
    assert cli("run", grid(**few), "--out", out).status == 0
    trained = set((out / "store" / "adapt").iterdir())
    more = grid(**(few | {"selectors": ["last", "target_oracle"]}))
    assert cli("run", more, "--out", out).status == 0
    assert set((out / "store" / "adapt").iterdir()) == trained
    plan = json.loads(cli("plan", grid(budget=few["budget"]), "--out", out, "--json").out)
    assert {run["state"] for run in plan["runs"] if run["adaptation"] == "source_only"} == {"reused"}
    assert "pretrain" not in {stage["kind"] for stage in plan["stages"]}


def test_a_constant_encoder_scores_chance(grid: GridWriter, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "constants.py").write_text(CONSTANT)
    changes = {"plugins": ["constants.py"], "encoders": ["constant"], "adaptations": ["source_only"]}
    nothing = {"pretraining": {"steps": 0}, "budget": {"steps": 0}}
    assert cli("run", grid(**changes, **nothing), "--out", tmp_path / "out").status == 0
    records = read_records([tmp_path / "out"])
    for record in records:
        for value in record.scores[0].content["metrics"].values():
            assert value["value"] == pytest.approx(value["chance"])
    # Untrained weights never enter a board unasked.
    assert "4 runs are left out" in (tmp_path / "out" / "leaderboard" / "summary.md").read_text()


CONSTANT = """
import torch
from urbancross_bench.interfaces import Encoder, EncoderOptions, ImageFormat, Weights, hookimpl, register

@hookimpl
def register_encoders():
    return [
        register(
            "constant",
            "constants:Constant",
            options="constants:ConstantOptions",
            provides={"gradients"},
            summary="x",
        )
    ]

class ConstantOptions(EncoderOptions):
    def image_format(self):
        return ImageFormat(8)

    def weights(self):
        return Weights("untrained", "none")

class Constant(Encoder):
    options_type = ConstantOptions

    def load(self):
        return Model()

class Model(torch.nn.Module):
    width, mean, std = 4, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self):
        super().__init__()
        self.logit_scale = torch.nn.Parameter(torch.zeros(()))

    def tokenize(self, texts):
        return torch.zeros(len(texts), 1, dtype=torch.int64)

    def text_length(self, tokens):
        return 1

    def encode_image(self, images):
        return torch.ones(len(images), 4) / 3

    def encode_text(self, tokens):
        return torch.ones(len(tokens), 4) / 7
"""


def test_a_bad_selector_costs_its_own_score(grid: GridWriter, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "choosy.py").write_text(
        "from pathlib import Path\n"
        "from urbancross_bench.interfaces import Selector, hookimpl, register\n"
        "@hookimpl\n"
        "def register_selectors():\n"
        "    return [register('choosy', 'choosy:Choosy', setting='source_only', summary='x')]\n"
        "class Choosy(Selector):\n"
        "    def scores(self, candidates):\n"
        f"        return [0.0] if Path({str(tmp_path / 'well')!r}).exists() else [0.0, 7.0]\n"
    )
    out = tmp_path / "out"
    file = grid(plugins=["choosy.py"], adaptations=["source_only"], selectors=["last", "choosy"])
    result = cli("run", file, "--out", out)
    assert result.status == 1
    assert "gave 2 scores for 1 candidates" in result.err
    assert [[s.content["selector"] for s in r.scores] for r in read_records([out])] == [["last"]] * 4
    (tmp_path / "well").touch()
    assert cli("run", file, "--out", out).status == 0
    assert all(len(record.scores) == 2 for record in read_records([out]))


def test_a_run_takes_no_more_threads_than_it_is_given(grid: GridWriter, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "counting.py").write_text(
        "import threadpoolctl, torch\n"
        "from urbancross_bench.interfaces import Selector, hookimpl, register\n"
        "@hookimpl\n"
        "def register_selectors():\n"
        "    return [register('counting', 'counting:Counting', setting='source_only', summary='x')]\n"
        "class Counting(Selector):\n"
        "    def scores(self, candidates):\n"
        "        pools = threadpoolctl.threadpool_info()\n"
        "        of_numpy = [pool['num_threads'] for pool in pools if pool['user_api'] == 'blas']\n"
        f"        with open({str(tmp_path / 'counted')!r}, 'a') as file:\n"
        "            print(torch.get_num_threads(), *of_numpy, file=file)\n"
        "        return [0.0 for _ in candidates]\n"
    )
    file = grid(
        plugins=["counting.py"],
        adaptations=["source_only"],
        selectors=["counting"],
        scenarios=[{"source": "plain", "target": "dark"}],
    )
    assert cli("run", file, "--out", tmp_path / "out").status == 0
    assert {*(tmp_path / "counted").read_text().split()} == {"1"}


def test_a_plugin_that_breaks_or_leaves_on_import_costs_its_own_runs(
    grid: GridWriter, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "raises_late.py").write_text("raise RuntimeError('not today')")
    (tmp_path / "leaves_late.py").write_text("import sys; sys.exit(0)")
    (tmp_path / "lazy.py").write_text(
        "from urbancross_bench.interfaces import hookimpl, register\n"
        "@hookimpl\n"
        "def register_adaptations():\n"
        "    names = ('raises', 'leaves')\n"
        "    return [register(n, f'{n}_late:X', setting='source_only', summary='x') for n in names]\n"
    )
    file = grid(
        plugins=["lazy.py"],
        adaptations=["source_only", "raises", "leaves"],
        scenarios=[{"source": "plain", "target": "dark"}],
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "urbancross_bench", "run", str(file), "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 1, done.stderr
    assert "1 ok, 2 failed" in done.stdout
    assert "cannot be loaded from raises_late:X" in done.stderr
    assert "cannot be loaded from leaves_late:X" in done.stderr


def test_a_partly_deleted_store_is_filled_again(grid: GridWriter, cli: Cli, tmp_path: Path) -> None:
    file, out = grid(adaptations=["source_only"]), tmp_path / "out"
    assert cli("run", file, "--out", out).status == 0
    before = comparable(out)
    shutil.rmtree(out / "store" / "pretrain")
    shutil.rmtree(sorted((out / "runs").iterdir())[0])
    assert cli("run", file, "--out", out).status == 0
    assert comparable(out) == before


def test_half_written_records_are_neither_believed_nor_kept(grid: GridWriter, cli: Cli, tmp_path: Path) -> None:
    file, out = grid(adaptations=["source_only"]), tmp_path / "out"
    assert cli("run", file, "--out", out).status == 0
    before = comparable(out)
    run = sorted((out / "runs").iterdir())[0]
    [score] = (run / "scores").iterdir()
    shutil.copytree(run, out / "runs" / ".partial-abc")
    shutil.copytree(score, run / "scores" / ".partial-abc")
    assert len(read_records([out])) == 4
    assert {len(record.scores) for record in read_records([out])} == {1}
    assert cli("run", file, "--out", out).status == 0
    assert comparable(out) == before


@pytest.mark.parametrize("device", ["banana", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_named(grid: GridWriter, cli: Cli, tmp_path: Path, device: str) -> None:
    result = cli("run", grid(), "--out", tmp_path / "out", "--device", device)
    assert result.status == 2
    assert repr(device) in result.err
    assert not (tmp_path / "out" / "runs").exists()


def test_code_that_changed_after_planning_is_not_run(tmp_path: Path) -> None:
    from urbancross_bench.errors import RunError
    from urbancross_bench.execution.stages import Job

    registry = Registry.discover()
    identity = registry.resolve("metric", "recall").identity()
    job = Job(Stage("rank", {}), {}, tmp_path, registry, torch.device("cpu"), lambda _: None, tmp_path, 60)
    assert job.planned("metric", "recall", identity)
    with pytest.raises(RunError, match=r"metric 'recall'.*has changed since the grid was planned"):
        job.planned("metric", "recall", identity | {"version": "0.0.9"})


@pytest.mark.parametrize("kind", ["pretrain", "adapt", "embed"])
def test_an_encoder_that_changed_after_planning_is_not_built(grid: GridWriter, tmp_path: Path, kind: str) -> None:
    """Its file, say: a run has one encoder from its first stage to its last."""
    from urbancross_bench.errors import RunError
    from urbancross_bench.execution.stages import Job

    registry = Registry.discover()
    plan = make_plan(load_grid(grid()), registry)
    stage = next(one for one in plan.stages.values() if one.kind == kind)
    work = {**stage.work, "identity": {**stage.work["identity"], "version": "0.0.9"}}
    as_planned, changed = (
        Job(one, {}, tmp_path, registry, torch.device("cpu"), lambda _: None, tmp_path, 60)
        for one in (stage, replace(stage, work=work))
    )
    assert as_planned.model().width
    with pytest.raises(RunError, match=r"encoder 'openclip'.*has changed since the grid was planned"):
        changed.model()


def test_a_split_that_is_another_names_what_may_be_to_blame(tmp_path: Path, domains: dict[str, str]) -> None:
    from urbancross_bench.errors import RunError
    from urbancross_bench.execution.stages import Job

    work = {"dataset": domains["plain"], "exclusions": None, "split": "train"}
    stage = Stage("pack", {"content": "0" * 32}, {}, work, "plain train")
    job = Job(stage, {}, tmp_path, Registry.discover(), torch.device("cpu"), lambda _: None, tmp_path, 60)
    says = r"plain train has changed on disk .*; run it again\. If .*, dataset 'karpathy' .* another order each"
    with pytest.raises(RunError, match=says):
        job.split()


def test_combinations_that_cannot_work_are_skipped_with_the_reason(
    grid: GridWriter, cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "picky.py").write_text(
        "from urbancross_bench.interfaces import hookimpl, register\n"
        "class P: ...\n"
        "@hookimpl\n"
        "def register_adaptations():\n"
        "    return [register('picky', 'picky:P', setting='source_only', needs={'segments'}, summary='x')]\n"
    )
    plan = json.loads(cli("plan", grid(plugins=["picky.py"], adaptations=["picky"]), "--json").out)
    assert {run["reason"] for run in plan["runs"]} == {"encoder 'tiny' does not provide segments"}
    assert plan["stages"] == []


def test_hooks_are_told_and_a_failing_one_costs_nothing(grid: GridWriter, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "listener.py").write_text(LISTENER.replace("LOG", str(tmp_path / "heard")))
    file = grid(
        plugins=["listener.py"], adaptations=["source_only"], scenarios=[{"source": "plain", "target": "dark"}]
    )
    result = cli("run", file, "--out", tmp_path / "out")
    assert result.status == 0
    assert "failed in on_grid_finished" in result.err
    heard = (tmp_path / "heard").read_text().splitlines()
    assert heard[0] == "epoch"  # pre-training, before the run's own stages
    assert heard.count("started plain") == heard.count("finished ok") == 1
    assert heard.index("started plain") < heard.index("finished ok")


LISTENER = """
from urbancross_bench.interfaces import hookimpl

def say(text):
    with open("LOG", "a") as file:
        file.write(text + "\\n")

@hookimpl
def on_run_started(run):
    say("started " + run["scenario"]["source"][0])

@hookimpl
def on_epoch_ended(stage, values):
    say("epoch")

@hookimpl
def on_run_finished(run, status):
    say("finished " + status)

@hookimpl
def on_grid_finished(out, counts):
    raise RuntimeError("not interested")
"""


def test_changed_data_is_noticed(grid: GridWriter, cli: Cli, tmp_path: Path) -> None:
    file, out = (
        grid(adaptations=["source_only"], scenarios=[{"source": "plain", "target": "dark"}]),
        tmp_path / "out",
    )
    assert cli("run", file, "--out", out).status == 0
    text = (tmp_path / "dark" / "dataset.json").read_text()
    (tmp_path / "dark" / "dataset.json").write_text(text.replace("a red", "one red"))
    plan = json.loads(cli("plan", file, "--out", out, "--json").out)
    assert [run["state"] for run in plan["runs"]] == ["run"]
    assert {stage["kind"] for stage in plan["stages"]} == {"pack", "items", "embed", "rank"}
    shutil.rmtree(out)
