"""Records of runs that never were: whole enough for every table, made in milliseconds and without torch."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from urbancross_bench.evaluation.statistics import interval, resampled_images, resampled_means
from urbancross_bench.identity import key_of

PARTS = tuple(f"{way}_R@{k}" for way in ("i2t", "t2i") for k in (1, 5, 10))
IMAGES = 30
METHODS = {"source_only": 30.0, "ours": 60.0, "theirs": 58.0, "oracle": 80.0}
PAIRS = (("a", "b"), ("b", "a"), ("a", "a"))


def write_runs(
    place: Path,
    *,
    methods: Iterable[str] = tuple(METHODS),
    seeds: Iterable[int] = (0, 1, 2),
    pairs: Iterable[tuple[str, str]] = PAIRS,
    **changes: Any,
) -> Path:
    """`place`/runs with a run per method, pair of domains and seed; keywords replace fields of its `run.json`."""
    for method in methods:
        for source, target in pairs:
            for seed in seeds:
                write_run(place / "runs", method, source, target, seed, **changes)
    return place


def write_run(runs: Path, method: str, source: str, target: str, seed: int, **changes: Any) -> Path:
    """One run with one score; its folder."""
    spec = _spec(method, source, target, seed) | changes
    folder = runs / key_of([method, source, target, seed, changes])
    score = folder / "scores" / key_of(["score", folder.name])
    score.mkdir(parents=True)
    _write(folder / "run.json", {"schema": 5, "status": "ok", "key": folder.name} | spec)
    stages = ("pretrain", "adapt")
    said = {name: _provenance(seconds) for name, seconds in zip(stages, (60.0, 30.0), strict=True)}
    _write(folder / "provenance.json", said | {"written": {"time": "2026-01-01T00:00:00Z"}})
    _write(folder / "curve.json", {"adapt": [{"step": 1.0, "loss": 1.23456789}]})
    content, arrays = _score(method, target, seed, spec)
    _write(score / "score.json", {"schema": 5, "key": score.name, "run": folder.name} | content)
    save_file(arrays, score / "queries.safetensors")
    _write(score / "items.json", [f"{target}_{i}.png" for i in range(IMAGES)])
    return folder


def domains(*names: str, **other: dict[str, str]) -> dict[str, Any]:
    """What a run says of its domains; `other` has fingerprints of splits that are not the usual, by domain."""
    facts = {
        "partition": "as the files say",
        "mark": "",
        "captions_generated": False,
        "test_images_also_in_train_or_val": 0,
        "excluded": None,
    }
    splits = {name: {part: key_of([name, part]) for part in ("train", "val", "test")} for name in names}
    return {name: facts | {"splits": parts | other.get(name, {})} for name, parts in splits.items()}


def edit(file: Path, **changes: Any) -> None:
    """Replace fields of a JSON file."""
    _write(file, json.loads(file.read_text(encoding="utf-8")) | changes)


def _write(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content), encoding="utf-8")


def _spec(method: str, source: str, target: str, seed: int) -> dict[str, Any]:
    setting = {"source_only": "source_only", "oracle": "oracle"}.get(method, "unsupervised")
    weights = {"status": "trained here", "source": "random", "sha256": None, "partial": False}
    return {
        "grid": "made up",
        "scenario": {
            "source": [source],
            "target": target,
            "kind": "in_domain" if source == target else "cross_domain",
        },
        "encoder": {"label": "small", "name": "openclip", "version": "1", "options": {}, "weights": weights},
        "adaptation": {"label": method, "name": method, "version": "1", "options": {}},
        "shown": {"setting": setting, "share": 1.0, "share_seed": 0, "disjoint_halves": False},
        "segments": None,
        "pretraining": {"steps": 10, "epochs": None},
        "budget": {"steps": 5},
        "steps": 5,
        "search": None,
        "seed": seed,
        "precision": "float32",
        "threads": 1,
        "ranks": 1,
        "domains": domains(source, target),
        "test_images_in_training": 0,
        "target_images_in_sources": 0,
        "code": "1",
        "stages": {"pretrain": key_of([source, seed]), "adapt": [key_of([method, source, target, seed])]},
    }


def _provenance(seconds: float) -> dict[str, Any]:
    return {
        "seconds": seconds,
        "cpu_seconds": 2 * seconds,
        "device": "x86_64",
        "host": "secret",
        "gpus": None,
        "ranks": 1,
        "energy_joules": {"gpu": 0.0, "cpu": 7200.0},
    }


def _score(method: str, target: str, seed: int, spec: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    generator = np.random.default_rng([seed, list(METHODS).index(method), ord(target[0])])
    hard = np.random.default_rng(ord(target[0])).uniform(0, 100, IMAGES)  # the same images for all
    level = METHODS[method] + generator.normal(scale=1.0)
    sums = {part: np.stack([100.0 * (hard < level), np.ones(IMAGES)], axis=1) for part in PARTS}
    values = {part: float(pair[:, 0].mean()) for part, pair in sums.items()}
    mean = sum(values.values()) / len(values)
    low, high = interval(
        resampled_means(sums, resampled_images(IMAGES, ord(target[0])))[PARTS[0]]
    )  # all are alike
    entry = {"low": low, "high": high, "chance": 5.0, "higher_is_better": True}
    metrics = {part: {"value": value, "parts": []} | entry for part, value in values.items()}
    metrics["mR"] = {"value": mean, "parts": [*PARTS]} | entry
    content = {
        "selector": "last",
        "domain": target,
        "setting": spec["shown"]["setting"],
        "selected_by": {"name": "last", "options": {}},
        "measured_by": {"metrics": [], "code": "1"},
        "test": key_of([target, "test"]),
        "protocol": "classic",
        "ties": "expected",
        "metrics": metrics,
        "failed": {},
        "floors": {},
        "draws": ord(target[0]),
        "images": IMAGES,
        "texts": IMAGES,
        "precision": "float32",
        "drift": None,
        "segments": "",
        "calibration": None,
        "items": "0",
    }
    arrays: dict[str, Any] = {f"image_sums.{part}": pair for part, pair in sums.items()}
    for way in ("i2t", "t2i"):
        arrays[f"{way}.greater"] = generator.integers(0, 9, IMAGES)
        arrays[f"{way}.top"] = generator.integers(0, IMAGES, (IMAGES, 10))
        arrays[f"{way}.top_tied"] = np.zeros((IMAGES, 10), dtype=np.uint8)
    return content, arrays
