"""Methods, selectors and searches through a whole grid; and trainings that are killed in their midst."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Outcome, Result, outcome_of, tree, write_domains, write_grid
from safetensors.numpy import load_file

from urbancross_bench.evaluation import evaluate_retrieval
from urbancross_bench.execution import methods
from urbancross_bench.records import Record, read_records
from urbancross_bench.specs import Search

GridWriter = Callable[..., Path]
Cli = Callable[..., Result]
SELECTORS = ["last", "source_val", "target_oracle", "cycle_consistency"]
WISE = "wise_ft[alphas=[0.0,1.0]]"
SEARCH = {
    "trials": 3,
    "space": {"dann": {"weight": [0.05, 0.5, 2.0], "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}},
}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """One scenario with a search, calibrations, untrained methods and interpolations. Look, do not touch."""
    folder = tmp_path_factory.mktemp("searched")
    file = write_grid(
        folder,
        write_domains(folder),
        scenarios=[{"source": "plain", "target": "dark"}],
        adaptations=[
            "zero_shot",
            "source_only",
            "dann",
            WISE,
            "csls",
            "csls[base=zero_shot]",
        ],
        budget={"steps": 4, "batch_size": 8, "target_batch_size": 4, "checkpoints": 2, "learning_rate": 1e-2},
        selectors=SELECTORS,
        search=SEARCH,
    )
    outcome = outcome_of(file, folder / "out")
    assert outcome.result.status == 0, outcome.result.err
    return outcome


def by_method(outcome: Outcome) -> dict[str, Record]:
    return {record.spec["adaptation"]["label"]: record for record in read_records([outcome.out])}


def score(record: Record, selector: str) -> Mapping[str, Any]:
    [found] = [one.content for one in record.scores if one.content["selector"] == selector]
    return found


def features(outcome: Outcome, content: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    arrays = load_file(outcome.out / "store" / "embed" / content["features"] / "features.safetensors")
    return arrays[f"images.{content['number']}"], arrays[f"texts.{content['number']}"], arrays["image_of_text"]


def test_the_checkpoint_with_the_greatest_score_is_the_one_that_is_ranked(searched: Outcome) -> None:
    for record in by_method(searched).values():
        for one in record.scores:
            found = [c for c in one.content["candidates"] if c["score"] is not None]
            best = max(c["score"] for c in found)
            chosen = next(c for c in found if c["score"] == best)
            assert (chosen["trial"], chosen["step"], chosen["name"]) == tuple(
                one.content[key] for key in ("trial", "step", "candidate")
            )


def test_a_search_has_its_trials_and_the_first_is_as_written(searched: Outcome) -> None:
    records = by_method(searched)
    search = records["dann"].spec["search"]
    assert len(search["trials"]) == 3
    assert search["trials"][0] == {"learning_rate": 1e-2}
    assert all(trial["weight"] in (0.05, 0.5, 2.0) and 1e-4 <= trial["learning_rate"] <= 1e-2
               for trial in search["trials"][1:])  # fmt: skip
    for selector in SELECTORS:
        candidates = score(records["dann"], selector)["candidates"]
        assert [(c["trial"], c["step"]) for c in candidates] == [(t, s) for t in range(3) for s in (2, 4)]
    last = score(records["dann"], "last")
    assert (last["trial"], last["step"]) == (0, 4)
    assert all(record.spec["search"] is None for label, record in records.items() if label != "dann")


def test_one_training_gives_all_interpolations(searched: Outcome) -> None:
    records = by_method(searched)
    wise = score(records[WISE], "last")
    assert [(c["step"], c["name"]) for c in wise["candidates"]] == [
        (step, name) for step in (2, 4) for name in ("alpha=0.0", "alpha=1.0")
    ]
    assert wise["metrics"] == score(records["source_only"], "last")["metrics"]


def test_untrained_methods_take_no_step_and_calibrations_share_a_training(searched: Outcome) -> None:
    records = by_method(searched)
    assert {label: record.spec["steps"] for label, record in records.items()} == {
        "zero_shot": 0, "source_only": 4, "dann": 4, WISE: 4, "csls": 4,
        "csls[base=zero_shot]": 0,
    }  # fmt: skip
    # Three of dann, one each of source_only, wise_ft and zero_shot.
    assert len(list((searched.out / "store" / "adapt").iterdir())) == 6
    start = load_file(next((searched.out / "store" / "pretrain").glob("*/weights.safetensors")))
    [adapt] = records["zero_shot"].spec["stages"]["adapt"]
    [candidate] = (searched.out / "store" / "adapt" / adapt).glob("candidate-*.safetensors")
    kept = load_file(candidate)
    assert all((kept[name] == value).all() for name, value in start.items())


def test_csls_is_its_formula_over_the_stored_features(searched: Outcome) -> None:
    records = by_method(searched)
    content = score(records["csls"], "last")
    assert content["features"] == score(records["source_only"], "last")["features"]
    images, texts, owner = features(searched, content)
    images, texts = (
        x / np.linalg.norm(x, axis=1, keepdims=True) for x in (images.astype(float), texts.astype(float))
    )
    cosine = images @ texts.T
    k = min(10, *cosine.shape)
    near_images = np.sort(cosine, axis=1)[:, -k:].mean(axis=1)
    near_texts = np.sort(cosine, axis=0)[-k:].mean(axis=0)
    ours = evaluate_retrieval(images, texts, owner, image_bias=near_images / 2, text_bias=near_texts / 2)
    assert content["metrics"]["mR"]["value"] == pytest.approx(ours.mr)
    assert (content["setting"], content["calibration"]) == ("test_time", {"queries": "all"})
    lines = (searched.out / "leaderboard" / "summary.md").read_text().splitlines()
    assert all(("transductive" in line) == ("csls" in line) for line in lines if line.startswith("| tiny"))


def test_label_free_selection_is_the_setting_of_its_rows(searched: Outcome) -> None:
    records = by_method(searched)
    for selector, setting in [
        ("last", "source_only"),
        ("cycle_consistency", "unsupervised"),
        ("target_oracle", "oracle"),
    ]:
        assert score(records["source_only"], selector)["setting"] == setting


def test_the_curve_says_what_happened(searched: Outcome) -> None:
    record = by_method(searched)["dann"]
    curves = json.loads((record.folder / "curve.json").read_text())
    assert curves.keys() == {"pretrain", "adapt", "adapt 1", "adapt 2"}
    point = curves["adapt"][-1]
    assert {"step", "loss", "gradient_norm", "learning_rate", "discriminator_accuracy"} <= point.keys()
    assert 0 <= point["discriminator_accuracy"] <= 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"search": {"trials": 3, "space": {"dan": {"weight": [1]}}}},
            "'dan', which is not among",
        ),
        ({"search": {"trials": 3, "space": {"dann": {"wait": [1]}}}}, "no option 'wait'|unknown option 'wait'"),
        ({"search": {"trials": 3, "space": {"csls": {"k": [1]}}}}, "'csls' only calibrates; search its base"),
        ({"search": {"trials": 3, "space": {"zero_shot": {"k": [1]}}}}, "'zero_shot' is not trained"),
        ({"search": {"trials": 1, "space": {"dann": {"weight": [1]}}}}, "trials"),
        ({"search": {"trials": 2, "space": {"dann": {"weight": [2]}}}}, "last looks at no features, and so takes"),
        ({"search": {"trials": 2, "space": {"dann": {"weight": {"low": 2, "high": 1}}}}}, "low must be less"),
        ({"search": {"trials": 2, "space": {"dann": {}}}}, "search.space.dann must have at least 1 entry"),
        ({"search": {"trials": 10**9, "space": {"dann": {"weight": [1]}}}}, "than or equal to 10000"),
        ({"adaptations": ["csls[base=csls]"]}, "is a calibration too"),
        ({"adaptations": ["csls[base=dan]"]}, "base of adaptation 'csls[base=dan]': there is no adaptation 'dan'"),
        ({"budget": {"steps": 1, "epochs": 1}}, "either steps or epochs"),
        ({"budget": {"steps": 1, "decay": 0.5}}, "decay is of schedule: step"),
        (
            {"budget": {"epochs": 1, "batch_size": 12, "checkpoints": 9}},
            "9 checkpoints do not fit into the 1",
        ),
        ({"budget": {"epochs": 0.1, "batch_size": 12}}, "budget: 0.1 epochs are no step in scenario"),
        ({"pretraining": {"epochs": 0.1, "batch_size": 12}}, "pretraining: 0.1 epochs are no step in scenario"),
    ],
)
def test_what_makes_no_sense_is_refused(
    grid: GridWriter, cli: Cli, changes: dict[str, object], message: str
) -> None:
    file = grid(**({"adaptations": ["zero_shot", "dann", "csls"]} | changes))
    result = cli("plan", file)
    assert result.status == 2
    assert any(part in result.err for part in message.split("|")), result.err


def test_a_space_of_few_values_is_drawn_from_until_all_were_seen(
    grid: GridWriter, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many trials are asked for."""
    numbers: list[int] = []
    draw = methods._drawn

    def drawn(space: Mapping[str, Any], number: int, search: Search) -> dict[str, Any]:
        numbers.append(number)
        return draw(space, number, search)

    monkeypatch.setattr(methods, "_drawn", drawn)
    space = {"weight": [0.5, 2.0], "learning_rate": [0.1, 0.2, 0.3, 0.3]}
    search = {"trials": 2000, "space": {"dann": space}}
    one_pair = {"scenarios": [{"source": "plain", "target": "dark"}], "seeds": [0]}
    file = grid(adaptations=["dann"], selectors=["source_val"], search=search, **one_pair)
    planned = cli("plan", file)
    assert planned.status == 0, planned.err
    assert len(numbers) < 100
    assert " 7 adapt," in planned.out  # as the grid wrote it, and all six sets


def test_several_processes_train_one_model(grid: GridWriter, cli: Cli, tmp_path: Path) -> None:
    """What they compute is tested where they are; here, that a grid hands a training to them and gets it back."""
    out, none = tmp_path / "out", {"steps": 0}
    file = grid(scenarios=[{"source": "plain", "target": "dark"}], adaptations=["dann"], pretraining=none)
    assert cli("run", file, "--out", out, "--set", "ranks=2").status == 0
    [record] = read_records([out])
    assert record.spec["ranks"] == 2
    assert len(json.loads((record.folder / "curve.json").read_text())["adapt"]) == 2  # two passes


def test_a_training_that_diverges_leaves_its_curve(grid: GridWriter, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "out"
    file = grid(
        scenarios=[{"source": "plain", "target": "dark"}],
        adaptations=["source_only", "dann[weight=1e38]"],
        budget={"steps": 4, "batch_size": 8, "target_batch_size": 4, "learning_rate": 1e-3},
    )
    assert cli("run", file, "--out", out).status == 1
    [good, bad] = sorted(read_records([out]), key=lambda record: not record.ok)
    assert good.ok
    assert not bad.ok
    assert "diverged" in json.loads((bad.folder / "failure.json").read_text())["error"]
    assert json.loads((bad.folder / "curve.json").read_text())["adapt"][-1]["source_pairs"] > 0


CHEAT = """
import numpy as np
from urbancross_bench.interfaces import Adaptation, Calibrated, hookimpl, register

@hookimpl
def register_adaptations():
    return [register("cheat", "cheat:Cheat", setting="test_time", summary="takes texts to follow their images")]

class Cheat(Adaptation):
    def calibrate(self, images, texts):
        own = np.repeat(images, len(texts) // len(images), axis=0)
        return Calibrated(images, own)
"""


def test_a_calibration_cannot_pair_by_order(grid: GridWriter, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "cheat.py").write_text(CHEAT)
    file = grid(plugins=["cheat.py"], adaptations=["cheat"], scenarios=[{"source": "plain", "target": "dark"}])
    assert cli("run", file, "--out", tmp_path / "out").status == 0
    [record] = read_records([tmp_path / "out"])
    assert record.scores[0].content["metrics"]["mR"]["value"] < 90


def test_a_trial_that_diverges_is_passed_over(grid: GridWriter, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "out"
    file = grid(
        scenarios=[{"source": "plain", "target": "dark"}],
        adaptations=["dann", "source_only"],
        selectors=["last", "source_val"],
        budget={"steps": 4, "batch_size": 8, "target_batch_size": 4, "clip_norm": 1e9},
        # Of so large a rate the losses stay finite, and embeddings do not.
        search={
            "trials": 4,
            "space": {"dann": {"weight": [1.0, 1e38]}, "source_only": {"learning_rate": [1000.0]}},
        },
    )
    assert cli("run", file, "--out", out).status == 0
    record, other = sorted(read_records([out]), key=lambda record: record.spec["adaptation"]["label"])
    assert [trial.get("learning_rate") for trial in other.spec["search"]["trials"]][1:] == [1000.0]
    assert {one["trial"] for one in score(other, "source_val")["candidates"]} == {0}
    assert "adapt 1" in json.loads((other.folder / "curve.json").read_text())
    assert [trial.get("weight") for trial in record.spec["search"]["trials"]] == [None, 1e38]
    assert {one["trial"] for one in score(record, "source_val")["candidates"]} == {0}
    curves = json.loads((record.folder / "curve.json").read_text())
    assert {"pretrain", "adapt", "adapt 1"} == curves.keys()


@pytest.mark.parametrize(
    ("space", "says"),
    [
        ({"rank": {"low": 1, "high": 4}}, r"rank=2\.8\d+: option 'rank' of adaptation 'lora': .*list the values"),
        ({"rank": [8, 0]}, r"rank=0: option 'rank' .* greater than 0 \(got 0\)$"),
        ({"rnak": [1, 2]}, r"rnak=1: adaptation 'lora' has no option 'rnak'\. Did you mean \"rank\"\?$"),
        (
            {"alpha": {"low": 1, "high": 1e308}, "learning_rate": [0.1, -1]},
            r"learning_rate=-1: .* of the budget: ",
        ),
        ({"alpha": {"low": -1, "high": 0, "log": False}}, r"alpha=-1\.0: .*greater than 0 \(got -1\.0\)$"),
        (
            {"learning_rate": {"low": -1, "high": 1}},
            r"learning_rate=-1\.0: learning_rate of the budget: .*greater",
        ),
        ({"rank": [8, "many"], "alpha": [0, 2]}, r"rank='many': .*integer.*; alpha=0: .*greater than 0"),
    ],
)
def test_every_value_of_a_search_is_checked(
    grid: GridWriter, cli: Cli, space: dict[str, object], says: str
) -> None:
    """Two trials draw one of the values at most, which one the seed says: it is not to matter."""
    for seed in range(3):
        search = {"trials": 2, "seed": seed, "space": {"lora": space}}
        told = cli("plan", grid(adaptations=["lora"], selectors=["source_val"], search=search))
        assert told.status == 2
        assert re.search(rf"grid 'tiny': search\.space: lora: {says}", told.err.strip()), told.err


def test_whether_values_of_a_search_fit_together_is_seen_when_they_are_drawn(grid: GridWriter, cli: Cli) -> None:
    def told(adaptation: str, space: dict[str, list[float]]) -> Result:
        search = {"trials": 2, "space": {"urbancross": space}}
        adaptations = {"urbancross": f"urbancross[{adaptation}]"}
        return cli("plan", grid(adaptations=adaptations, selectors=["source_val"], search=search))

    # Each nought is one that the other could make up for.
    one = told("pairs=0", {"adversarial": [0], "triplet": [0]})
    assert (one.status, "trial 2 draws adversarial=0, triplet=0: " in one.err) == (2, True), one.err
    assert told("pairs=0", {"adversarial": [0], "triplet": [1, 2]}).status == 0
    assert told("triplet=0", {"adversarial": [0], "triplet": [1]}).status == 0
    # Nothing can make up for it.
    alone = told("pairs=0,triplet=0", {"adversarial": [1, 2, 0]})
    assert (alone.status, "urbancross: adversarial=0: adaptation" in alone.err) == (2, True), alone.err


def test_the_ends_of_a_range_need_not_be_values(grid: GridWriter, cli: Cli) -> None:
    """A share above 0, from 0 on."""
    search = {"trials": 3, "space": {"urbancross": {"first_share": {"low": 0, "high": 1}, "triplet": [1, 2]}}}
    told = cli("plan", grid(adaptations=["urbancross"], selectors=["source_val"], search=search))
    assert told.status == 0, told.err


ORDERED = """
from pydantic import field_validator
from urbancross_bench.interfaces import Options, hookimpl, register
from urbancross_adaptations.supervised import SourceOnly

class Ordered(Options):
    first: float = 1
    last: float = 2

    @field_validator("last")
    @classmethod
    def _in_order(cls, last, info):
        if last < info.data["first"]:
            raise ValueError("last lies before first")
        return last

class InOrder(SourceOnly):
    options_type = Ordered

@hookimpl
def register_adaptations():
    made = dict(options="ordered:Ordered", setting="source_only", needs={"gradients"}, summary="In order.")
    return [register("in_order", "ordered:InOrder", **made)]
"""


def test_a_validator_may_look_at_other_options_of_a_search(grid: GridWriter, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "ordered.py").write_text(ORDERED)

    def told(space: dict[str, list[float]]) -> Result:
        search = {"trials": 4, "space": {"in_order": space}}
        plugins = {"plugins": ["ordered.py"], "adaptations": ["in_order"], "selectors": ["source_val"]}
        return cli("plan", grid(**plugins, search=search))

    assert told({"first": [0, 0.1], "last": [0.5, 3]}).status == 0
    assert "last=0.5: option 'last' of" in told({"last": [0.5, 3]}).err


@pytest.mark.slow
def test_killed_in_the_midst_of_training_it_goes_on_to_the_same_bytes(
    grid: GridWriter, cli: Cli, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    file, out = grid(
        scenarios=[{"source": "plain", "target": "dark"}],
        pretraining={"steps": 12, "batch_size": 8, "learning_rate": 1e-3},
        adaptations=["dann"],
        budget={"steps": 12, "batch_size": 8, "target_batch_size": 4, "checkpoints": 3},
    ), tmp_path / "killed"  # fmt: skip
    draw, outs, killed = random.Random(0), [out], 0
    for _ in range(request.config.getoption("--kills")):
        command = [sys.executable, "-m", "urbancross_bench", "run", str(file), "--save-every", "0"]
        process = subprocess.Popen(
            [*command, "--out", str(out)],
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        # Somewhat after a step that is saved: as it is written, as the next is taken, as a stage is published.
        moment = saved_steps(out) + draw.randint(1, 3)
        while process.poll() is None and saved_steps(out) < moment:
            time.sleep(0.002)
        for _ in range(draw.randrange(20000)):
            os.sched_yield()
        if process.poll() is None:
            killed += 1
            os.killpg(process.pid, signal.SIGKILL)
        else:  # it came to its end; the next starts anew
            outs.append(out := tmp_path / f"killed{len(outs)}")
        process.wait()
    assert killed >= 2
    assert cli("run", file, "--out", tmp_path / "whole").status == 0
    for out in outs:
        assert cli("run", file, "--out", out, "--save-every", "0").status == 0
        assert finished(out) == finished(tmp_path / "whole")
        assert not list(out.glob("store/.saved/*"))


def saved_steps(out: Path) -> int:
    """How many steps of pre-training and adaptation are saved or done."""
    done = 12 * len(list(out.glob("store/pretrain/*/stage.json")))
    try:
        names = [path.name for path in out.glob("store/.saved/*/state-*")]
    except FileNotFoundError:  # a folder went while it was looked into
        return saved_steps(out)
    return done + max([int(name.partition("-")[2]) for name in names], default=0)


def finished(out: Path) -> dict[str, bytes]:
    """The records, and the weights and curves behind them."""
    files = {f"runs/{name}": content for name, content in tree(out / "runs").items() if "provenance" not in name}
    for kind in ("pretrain", "adapt"):
        for name, content in tree(out / "store" / kind).items():
            if name.endswith("stage.json"):
                manifest = json.loads(content)
                del manifest["files"]["provenance.json"]  # which tells of time and machine
                content = json.dumps(manifest).encode()
            if "provenance" not in name:
                files[f"{kind}/{name}"] = content
    return files


LOOKS = """
from urbancross_bench.interfaces import Adaptation, hookimpl, register


@hookimpl
def register_adaptations():
    settings = ("oracle", "few_shot", "unsupervised")
    return [
        register(f"looks_{name}", "looks:Looks", setting=name, needs={"gradients"}, summary="tells sizes")
        for name in settings
    ]


class Looks(Adaptation):
    def prepare(self, model, context):
        self.context = context

    def loss(self, source, target, progress):
        self.context.log("source_rows", len(source.image_rows))
        self.context.log("target_rows", len(target.image_rows))
        return {"pairs": source.image_features.sum()}
"""


def test_pairs_of_the_oracle_come_in_batches_of_the_sources_size(
    grid: GridWriter, cli: Cli, tmp_path: Path
) -> None:
    """Else it had fewer negatives than source_only, and the gap that others close were smaller than it is."""
    (tmp_path / "looks.py").write_text(LOOKS, encoding="utf-8")
    file = grid(
        plugins=["looks.py"],
        adaptations=[f"looks_{setting}" for setting in ("oracle", "few_shot", "unsupervised")],
        scenarios=[{"source": "plain", "target": "dark"}, {"source": "plain", "target": "dark", "share": 1.0}],
        budget={"steps": 2, "batch_size": 8, "target_batch_size": 4, "learning_rate": 1e-3},
    )
    result = cli("run", file, "--out", tmp_path / "out")
    assert result.status == 0, result.err
    rows = {}
    for record in read_records([tmp_path / "out"]):
        [first, *_] = json.loads((record.folder / "curve.json").read_text(encoding="utf-8"))["adapt"]
        rows[record.spec["adaptation"]["name"]] = first["source_rows"], first["target_rows"]
    assert rows == {"looks_oracle": (8, 8), "looks_few_shot": (8, 4), "looks_unsupervised": (8, 4)}


def test_of_more_than_a_hundred_candidates_of_a_step_the_last_is_the_last_listed(
    grid: GridWriter, cli: Cli, tmp_path: Path
) -> None:
    shares = [*range(101), 50.5]
    wise = f"wise_ft[alphas={json.dumps([share / 101 for share in shares])}]"
    file = grid(scenarios=[{"source": "plain", "target": "dark"}], adaptations=[wise], selectors=["last"])
    result = cli("run", file, "--out", tmp_path / "out")
    assert result.status == 0, result.err
    [record] = read_records([tmp_path / "out"])
    [found] = record.scores
    assert [one["name"] for one in found.content["candidates"]] == [f"alpha={share / 101}" for share in shares]
    assert found.content["number"] == 101
