"""What lies in files counts, exactly for what is made from it; where it lies, and what a run is told, never do."""

from __future__ import annotations

import inspect
import json
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pytest
from conftest import Result
from identity_world import (
    KINDS,
    below,
    change_text,
    changed,
    keys_of,
    over,
    planned,
    read_entries,
    write_segments,
    write_world,
)
from PIL import Image

from urbancross_bench.cli.run import run
from urbancross_bench.execution import versions
from urbancross_bench.execution.listening import Listener
from urbancross_bench.execution.plan import Plan

Cli = Callable[..., Result]
GridWriter = Callable[..., Path]


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A world to look at and to copy."""
    folder = tmp_path_factory.mktemp("content")
    write_world(folder)
    return folder


@pytest.fixture
def world(untouched: Path, tmp_path: Path) -> Path:
    """A world to change."""
    shutil.copytree(untouched, tmp_path / "world")
    return tmp_path / "world"


def plan_of(folder: Path, **changes: Any) -> Plan:
    """The plan over a world. `encoders__stored=None` is the change at `encoders.stored`."""
    grid = changed(over(folder), {"exclusions.dark": str(folder / "out.csv")})
    return planned(changed(grid, {path.replace("__", "."): value for path, value in changes.items()}), folder)


# ── Places ────────────────────────────────────────────────────────────────────────────────────────


def test_files_are_what_they_are_in_any_folder(untouched: Path, world: Path) -> None:
    (world / "weights.safetensors").rename(world / "renamed.safetensors")
    (world / "out.csv").rename(world / "other.csv")
    frozen = over(world)["encoders"]["frozen"].replace("weights.safetensors", "renamed.safetensors")
    elsewhere = plan_of(world, encoders__frozen=frozen, exclusions__dark=str(world / "other.csv"))
    assert keys_of(elsewhere) == keys_of(plan_of(untouched))


def test_paths_may_start_at_the_data_folder(untouched: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("URBANCROSS_DATA", str(untouched))
    grid, written = over(untouched), over(Path())
    relative = {name: written[name] for name in ("domains", "encoders")}
    assert "dataset.json" in str(relative)
    assert str(untouched) not in str(relative)
    assert keys_of(planned({**grid, **relative}, untouched)) == keys_of(planned(grid, untouched))


def strings(value: Any) -> Iterator[str]:
    """Every string in a JSON value, names of members too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, member in value.items():
            yield from (name, *strings(member))
    elif isinstance(value, list | tuple):
        for member in value:
            yield from strings(member)


def test_no_fact_and_no_specification_holds_a_path_or_a_machine(
    untouched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.node", lambda: "some-machine")
    plan = plan_of(untouched, executor="local[slots=3]")
    facts = {stage.kind: [*strings(stage.facts)] for stage in plan.stages.values()}
    assert facts.keys() | {"run", "score"} == set(KINDS)
    assert any(str(untouched) in text for s in plan.stages.values() for text in strings(s.work)), "as it must be"
    found = [text for texts in facts.values() for text in texts]
    found += [text for one in plan.runs for text in strings(one.spec)]
    bad = (str(untouched), str(Path(__file__).parent.parent), "some-machine", "slots", "dataset.json")
    assert [text for text in found if PurePath(text).is_absolute() or any(part in text for part in bad)] == []


# ── Machines and options ──────────────────────────────────────────────────────────────────────────


def test_the_machine_and_its_settings_move_nothing(
    untouched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = keys_of(plan_of(untouched))
    for name in ("platform.node", "socket.gethostname"):
        monkeypatch.setattr(name, lambda: "another-machine")
    monkeypatch.setattr("os.cpu_count", lambda: 96)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(96), raising=False)
    for name in ("URBANCROSS_HOME", "HOME", "TMPDIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))
    for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "WORLD_SIZE", "SLURM_JOB_ID"):
        monkeypatch.setenv(name, "5")
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.chdir(tmp_path)
    versions.core.cache_clear()
    versions.decoders.cache_clear()
    assert keys_of(plan_of(untouched)) == here


def test_what_run_is_told_moves_nothing(
    grid: GridWriter, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Plan] = []
    plugin = tmp_path / "bare_plugin.py"
    plugin.write_text(
        "from urbancross_bench.interfaces import hookimpl\n\n\n@hookimpl\ndef register_columns():\n    return []\n"
    )

    def carried_out(plan: Plan, *_: object, **__: object) -> Counter[str]:
        seen.append(plan)
        return Counter()

    monkeypatch.setattr("urbancross_bench.execution.run.run_grid", carried_out)
    monkeypatch.setattr("urbancross_bench.execution.tracking.trackers", lambda *_, **__: Listener())
    options: dict[str, object] = {
        "out": tmp_path / "elsewhere",
        "set": "executor=local[slots=3]",
        "plugin": plugin,
        "verify": None,
        "device": "cuda:1",
        "only": "1a2b",
        "store": tmp_path / "shared",
        "save-every": 5,
        "time-limit": 9,
        "memory-limit": 2,
        "retries": 3,
        "track": "tensorboard",
        "track-patience": 1,
    }
    # An option that is new has to be among them.
    assert {name.replace("-", "_").replace("set", "set_") for name in options} | {"grid"} == {
        *inspect.signature(run).parameters
    }
    written = [part for name, value in options.items() for part in (f"--{name}", value) if part is not None]
    file = grid(adaptations=["source_only", "urbancross"])
    for given in (["--only", "1a2b", "--out", tmp_path / "o"], written):
        result = cli("run", file, *given)
        assert result.status == 0, result.err
    plain, told = seen
    assert keys_of(plain) == keys_of(told)


# ── Data ──────────────────────────────────────────────────────────────────────────────────────────


def test_how_captions_and_images_are_stored_moves_nothing(untouched: Path, world: Path) -> None:
    file = world / "dark" / "dataset.json"
    entries = read_entries(file.parent)
    entries[-1]["sentences"][0]["raw"] = "un champ près de l'eau"  # features of it there are none
    file.write_text(json.dumps({"images": entries}, ensure_ascii=True), encoding="utf-8")
    before = keys_of(plan_of(world, encoders__stored=None))

    turned = [dict(reversed(entry.items())) for entry in entries]
    text = json.dumps({"made": "today", "images": turned}, ensure_ascii=False, indent=3)
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    with zipfile.ZipFile(world / "dark.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        for image in sorted((world / "dark" / "images").iterdir()):
            packed.write(image, f"tiles/{image.name}")
    dark = f"karpathy[file={file},images={world / 'dark.zip'}]"
    assert keys_of(plan_of(world, encoders__stored=None, domains__dark=dark)) == before
    assert before["pack"] != keys_of(plan_of(untouched, encoders__stored=None))["pack"], "one caption is another"


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("what", ["pixel", "character"])
def test_a_change_moves_exactly_what_is_made_from_its_split(
    untouched: Path, world: Path, what: str, split: str
) -> None:
    before, domain = plan_of(untouched), world / "dark"
    kinds = {"pack", "stored"} | ({"items"} if split == "test" else set())
    if what == "pixel":
        kinds.add("segments")
        name = [entry["filename"] for entry in read_entries(domain) if entry["split"] == split][-1]
        with Image.open(domain / "images" / name) as opened:
            pixels = np.array(opened)
        pixels[3, 3, 2] ^= 1
        Image.fromarray(pixels).save(domain / "images" / name)
        write_segments(world, "dark")
    else:
        change_text(domain, split)
    after = plan_of(world)

    roots = [k for k, s in before.stages.items() if s.kind in kinds and s.label.endswith(f"dark {split}")]
    assert len(roots) == len(kinds)
    moved = below(before, roots)
    assert before.stages.keys() - after.stages.keys() == moved
    assert len(after.stages) == len(before.stages)
    for run_before, run_after in zip(before.runs, after.runs, strict=True):
        scenario = run_before.scenario
        told = scenario.target == "dark"  # which target it was adapted to, or could have been, and is scored on
        told |= "dark" in scenario.source and split == "val"  # what a selector chose by, or could have
        # Segments of all splits are a part of what a run is.
        told |= what == "pixel" and run_before.encoder == "fused" and "dark" in (*scenario.source, scenario.target)
        anew = told or any(training.key in moved for training in run_before.trainings)
        if not run_before.skipped:
            assert (run_before.key != run_after.key) == anew, str(run_before)
        for score, score_after in zip(run_before.scores, run_after.scores, strict=True):
            assert (score.key != score_after.key) == (anew or score.stage.key in moved)


# ── Weights ───────────────────────────────────────────────────────────────────────────────────────


def test_one_bit_of_a_tensor_moves_all_that_starts_from_it(untouched: Path, world: Path) -> None:
    before, file = plan_of(untouched), world / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    after = plan_of(world)
    starts = [k for k, s in before.stages.items() if s.label.startswith("frozen,")]
    assert {before.stages[key].kind for key in starts} == {"towers", "pretrain"}
    assert before.stages.keys() - after.stages.keys() == below(before, starts)
    moved = {a.encoder for a, b in zip(before.runs, after.runs, strict=True) if not a.skipped and a.key != b.key}
    kept = {a.encoder for a, b in zip(before.runs, after.runs, strict=True) if not a.skipped and a.key == b.key}
    assert (moved, kept) == ({"frozen"}, {"fused", "stored"})


def test_a_run_is_another_once_its_test_images_stand_in_training(untouched: Path, world: Path) -> None:
    """Rows are marked by that count, and no training tells it: test images have no part in any."""
    [copied, *_] = (e["filename"] for e in read_entries(world / "plain") if e["split"] == "train")
    [test, *_] = (e["filename"] for e in read_entries(world / "dark") if e["split"] == "test")
    shutil.copy(world / "plain" / "images" / copied, world / "dark" / "images" / test)
    write_segments(world, "dark")
    for before, after in zip(plan_of(untouched).runs, plan_of(world).runs, strict=True):
        if before.spec and after.spec and before.key == after.key:
            assert before.spec["test_images_in_training"] == after.spec["test_images_in_training"]
