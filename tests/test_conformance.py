"""Every first-party plugin keeps the promises of its kind."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import SkipTest

import numpy as np
import pytest
from data_files import LAYOUTS, tiles
from feature_data import write_bundle

import urbancross_bench.testing as kit
from urbancross_bench.hookspecs import REGISTRATION_HOOKS
from urbancross_bench.registry import Registry
from urbancross_bench.testing import watching
from urbancross_bench.testing.watching import folder

Options = dict[str, Any]
FEW = {"points_per_side": 2, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}


def layout(name: str) -> Callable[[], Options]:
    """A dataset's files as they are published, written."""
    return lambda: dict(LAYOUTS[name](folder(), tiles()).options)


def sam() -> Options:
    from urbancross_bench.testing.fixtures.sam import write_tiny_sam

    return {"checkpoint": str(write_tiny_sam(folder())), **FEW}


def segment_anything() -> Options:
    from segment_models import write_original

    file = write_original(folder())
    return {"checkpoint": str(file), "architecture": str(file.parent / "config.json"), **FEW}


def transformers() -> Options:
    from urbancross_bench.testing.fixtures.clip import write_tiny_clip

    place = folder()
    write_tiny_clip(place)
    return {"model": str(place)}


def instructblip() -> Options:
    from urbancross_bench.testing.fixtures.instructblip import write_instructblip

    return {"model": str(write_instructblip(folder())), "max_new_tokens": 4, "num_beams": 1}


def precomputed() -> Options:
    rows, place = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32), folder()
    for name in ("images", "texts"):
        np.savez(place / f"{name}.npz", names=np.array([f"{name} {i}" for i in range(6)]), features=rows)
    return {name: str(place / f"{name}.npz") for name in ("images", "texts")}


def on_a_cluster() -> Options:
    raise SkipTest("its own tests start what it runs on")


# What a plugin is tried with that cannot do with its defaults, or not in a second.
OPTIONS: dict[str, Callable[[], Options]] = {
    "dataset synthetic": lambda: {"images": 40, "size": 32},
    "dataset prompted": lambda: {"file": str(write_bundle(folder() / "bundle.npz"))},
    "dataset huggingface": layout("huggingface, parquet"),
    "dataset imagefolder": layout("imagefolder, jsonl"),
    "dataset csv": layout("csv, a row per caption"),
    "dataset json": layout("json, records"),
    **{
        f"dataset {name}": layout(name)
        for name in ("karpathy", "rsicd", "rsitmd", "ucm", "sydney", "precomp", "pir", "urbancross")
    },
    "encoder openclip": lambda: {"architecture": "urbancross-tiny"},
    "encoder sam_fused": lambda: {"architecture": "urbancross-tiny"},
    "encoder transformers": transformers,
    "encoder precomputed": precomputed,
    "segmenter sam": sam,
    "segmenter segment_anything": segment_anything,
    "captioner instructblip": instructblip,
    "executor ray": on_a_cluster,
    "executor slurm": on_a_cluster,
}


def chosen(make: Callable[[], Options]) -> Callable[[Any], Mapping[str, Any]]:
    """A `choose` that writes files once."""
    once = functools.cache(make)
    return lambda self: once()


for _plugin in Registry.discover().plugins:
    _name = _plugin.registration.name
    _base = getattr(kit, f"{_plugin.kind.capitalize()}Conformance")
    _members: dict[str, Any] = {"plugin": _name}
    if (_make := OPTIONS.get(f"{_plugin.kind} {_name}")) is not None:
        _members["choose"] = chosen(_make)
    if _name == "urbancross" and _plugin.kind == "dataset":
        _members["test_every_member_can_be_read"] = None  # one country is written
    _title = "Test" + "".join(part.capitalize() for part in (*_name.split("_"), _plugin.kind))
    globals()[_title] = type(_title, (_base,), _members)


@pytest.mark.parametrize("fusion", ["mean", "gated", "attention"])
def test_segments_are_a_set_to_every_fusion(fusion: str) -> None:
    members = {"plugin": "sam_fused", "options": {"architecture": "urbancross-tiny", "fusion": fusion}}
    checked = type("Checked", (kit.EncoderConformance,), members)()
    checked.test_segments_have_features()
    checked.test_segments_are_a_set()


def test_every_kind_has_promises() -> None:
    assert set(kit.KINDS) == set(REGISTRATION_HOOKS)


def test_the_page_names_the_promises_of_every_kind() -> None:
    page = (Path(__file__).parent.parent / "docs" / "conformance.md").read_text(encoding="utf-8")
    assert [kind for kind, (_, name) in kit.KINDS.items() if f"`{name}`" not in page] == []
    assert [kind for kind in kit.KINDS if f"\n| {kind} | " not in page] == []


def test_bytecode_that_is_being_written_is_nothing_that_a_plugin_opens(tmp_path: Path) -> None:
    """Python, and pytest, write it to a file of another name first."""
    opened: list[str] = []
    with watching._audited(opened):
        for name in (
            "a.cpython-311.pyc.14014582",
            "b.cpython-311-pytest-9.2.0.pyc.526",
            "c.pyc",
            "d.txt",
            "e.526",
        ):
            (tmp_path / name).touch()
            (tmp_path / name).read_bytes()
    assert sorted({Path(name).name for name in opened}) == ["d.txt", "e.526"]
