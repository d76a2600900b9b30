"""Keys: what counts changes them, what does not never does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from urbancross_bench.execution.plan import Plan, make_plan
from urbancross_bench.identity import code_version, derive_seed, digest, key_of
from urbancross_bench.registry import Registry
from urbancross_bench.specs import load_grid

GridWriter = Callable[..., Path]


def planned(file: Path) -> Plan:
    return make_plan(load_grid(file), Registry.discover())


def keys(file: Path) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Run → its key and the keys of its scores."""
    return {str(r): (r.key, tuple(s.key for s in r.scores)) for r in planned(file).runs if not r.skipped}


BASE = {"scenarios": [{"source": "plain", "target": "dark"}], "adaptations": {"m": "urbancross"}}


@pytest.mark.parametrize(
    ("change", "moves"),
    [
        ({"pretraining": {"steps": 4, "batch_size": 8, "learning_rate": 1e-3}}, "train"),
        ({"pretraining": {"steps": 3, "batch_size": 9, "learning_rate": 1e-3}}, "train"),
        ({"pretraining": {"steps": 3, "batch_size": 8, "learning_rate": 1e-3, "loss": "hinge"}}, "train"),
        ({"pretraining": {"steps": 3, "batch_size": 8, "learning_rate": 1e-3, "augmentation": ["flip"]}}, "train"),
        ({"budget": {"steps": 3, "batch_size": 8, "target_batch_size": 4}}, "train"),
        ({"budget": {"steps": 2, "batch_size": 8, "target_batch_size": 5}}, "train"),
        ({"budget": {"steps": 2, "batch_size": 8, "target_batch_size": 4, "checkpoints": 2}}, "train"),
        ({"adaptations": {"m": "urbancross[triplet=0.5]"}}, "train"),
        ({"adaptations": {"m": "oracle"}}, "train"),
        ({"encoders": {"tiny": "openclip"}}, "train"),
        ({"precision": "bfloat16"}, "train"),
        ({"threads": 2}, "train"),
        ({"ties": "pessimistic"}, "score"),
        ({"selectors": ["source_val"]}, "score"),
        ({"name": "other"}, "nothing"),
        ({"description": "other"}, "nothing"),
        ({"executor": "local[slots=1]"}, "nothing"),
        ({"adaptations": {"m": "urbancross[triplet=1.0]"}}, "nothing"),
    ],
)
def test_each_factor_moves_what_it_should(grid: GridWriter, change: dict[str, object], moves: str) -> None:
    [before], [after] = keys(grid(**BASE)).values(), keys(grid(**(BASE | change))).values()
    assert (before[0] != after[0]) == (moves == "train")
    assert (before[1] != after[1]) == (moves != "nothing")


def test_the_seed_counts_and_the_order_of_the_grid_does_not(grid: GridWriter) -> None:
    forward = keys(grid(seeds=[0, 1]))
    assert len({key for key, _ in forward.values()}) == len(forward)
    backward = keys(grid(seeds=[1, 0], adaptations=["oracle", "urbancross", "source_only"]))
    assert forward == backward


def test_content_counts_and_paths_do_not(grid: GridWriter, tmp_path: Path, domains: dict[str, str]) -> None:
    before = keys(grid(**BASE))
    shutil.move(tmp_path / "dark", tmp_path / "elsewhere")
    moved = {**domains, "dark": f"karpathy[file={tmp_path / 'elsewhere' / 'dataset.json'}]"}
    assert keys(grid(**BASE, domains=moved)) == before

    file = tmp_path / "elsewhere" / "dataset.json"
    text = file.read_text()
    file.write_text(text.replace("a red place", "one red place"))
    assert keys(grid(**BASE, domains=moved)) != before
    file.write_text(text)
    image = tmp_path / "elsewhere" / "images" / "dark_002.png"  # a test image
    Image.new("RGB", (20, 20)).save(image)
    [(train, scores)], [(train_before, scores_before)] = (
        keys(grid(**BASE, domains=moved)).values(),
        before.values(),
    )
    assert train == train_before
    assert scores != scores_before


def test_source_only_is_trained_once_for_all_targets(grid: GridWriter) -> None:
    plan = planned(grid(adaptations=["source_only"], seeds=[0, 1]))
    kinds = [stage.kind for stage in plan.stages.values()]
    assert (len(plan.runs), kinds.count("pretrain"), kinds.count("adapt")) == (8, 4, 4)


def test_every_stage_follows_its_inputs(grid: GridWriter) -> None:
    plan = planned(grid(selectors=["last", "source_val", "target_oracle"]))
    seen: set[str] = set()
    for key, stage in plan.stages.items():
        assert set(stage.inputs.values()) <= seen
        seen.add(key)


def test_unsupervised_training_does_not_depend_on_target_test_or_val(grid: GridWriter) -> None:
    plan = planned(grid(**BASE))
    [run] = plan.runs
    reached, labels = [*run.trainings], set()
    while reached:
        stage = reached.pop()
        labels.add(stage.label)
        reached += [plan.stages[key] for key in stage.inputs.values()]
    assert {label for label in labels if label.startswith(("dark", "plain"))} == {"dark train", "plain train"}


def test_the_same_run_twice_is_refused(grid: GridWriter) -> None:
    from urbancross_bench.errors import UsageError

    with pytest.raises(UsageError, match=r"the same.* a .* b "):
        planned(grid(adaptations={"a": "urbancross", "b": "urbancross[triplet=1.0]"}))


def test_a_source_under_another_name_is_no_shift(grid: GridWriter, domains: dict[str, str]) -> None:
    from urbancross_bench.errors import UsageError

    twins = {"a": domains["plain"], "b": domains["plain"]}
    with pytest.raises(UsageError, match="'a' and 'b' hold the same data"):
        planned(grid(domains=twins, scenarios=[{"source": "a", "target": "b"}]))


def test_keys_do_not_depend_on_the_hash_seed(grid: GridWriter, tmp_path: Path) -> None:
    file = grid(selectors=["source_val", "target_oracle"])
    command = [sys.executable, "-m", "urbancross_bench", "plan", str(file), "--json", "--out", str(tmp_path / "o")]
    plans = []
    for seed in ("1", "2"):
        done = subprocess.run(command, capture_output=True, check=True, env={"PYTHONHASHSEED": seed, "PATH": ""})
        plans.append(json.loads(done.stdout))
    assert plans[0] == plans[1]


def test_hashes_keep_parts_apart() -> None:
    assert digest([b"ab", b"c"]) != digest([b"a", b"bc"])
    assert key_of({"a": 1, "b": 2}) == key_of({"b": 2, "a": 1})
    assert derive_seed("x", 1) != derive_seed("x", 2)
    assert 0 <= derive_seed("x") < 2**63


def test_local_code_is_named_by_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    versions = set()
    for body in ("x = 1\n", "x = 2\n"):
        (tmp_path / "some_local_plugin.py").write_text(body)
        code_version.cache_clear()
        versions.add(code_version("some_local_plugin", None))
    code_version.cache_clear()
    assert len(versions) == 2
