"""Made-up records of two methods, and their comparison."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from urbancross_bench.leaderboard.comparing import Comparison, compare
from urbancross_bench.leaderboard.pairing import Wanted, sides_of_methods
from urbancross_bench.records import SCHEMA, read_records

Counts = Mapping[str, Sequence[int]]


def write_run(
    place: Path,
    method: str,
    seed: int,
    hits: Sequence[float],
    *,
    counts: Mapping[str, Counts] | None = None,
    target: str = "b",
    key: str = "",
    encoder: str = "tiny",
    names: Sequence[str] | None = None,
    run: Mapping[str, Any] | None = None,
    score: Mapping[str, Any] | None = None,
    better: bool = True,
) -> Path:
    """A record of a method on `target`: what each image adds to its metrics, and the counts of each direction.

    By default each image has one caption, and every right answer comes first.
    """
    images = len(hits)
    key = key or f"{method}-{encoder}-{target}-{seed}".replace("/", "_")
    folder = place / "runs" / key
    splits = {"train": "t", "val": "v", "test": "e"}
    domain = {"splits": splits, "mark": "", "test_images_also_in_train_or_val": 0, "excluded": None}
    spec: dict[str, Any] = {
        **{
            "schema": SCHEMA,
            "status": "ok",
            "key": key,
            "grid": "g",
            "seed": seed,
            "segments": None,
            "search": None,
        },
        **{"precision": "float32", "threads": 1, "ranks": 1, "code": "1", "steps": 5, "budget": {"steps": 5}},
        "scenario": {"source": ["a"], "target": target, "kind": "cross_domain"},
        "encoder": {"label": encoder, "name": encoder, "weights": {"status": "trained here"}},
        "adaptation": {"label": method, "name": method.split("[")[0], "options": {}},
        "shown": {"setting": "source_only", "share": 1.0, "share_seed": 0, "disjoint_halves": False},
        "pretraining": {"steps": 3, "epochs": None},
        "domains": {"a": domain, target: domain},
        **{"test_images_in_training": 0, "target_images_in_sources": 0},
        **(run or {}),
    }
    entry: dict[str, Any] = {"value": float(np.mean(hits)), "low": None, "high": None, "chance": 1.0, "parts": []}
    content = {
        **{"schema": SCHEMA, "key": "s", "run": key, "selector": "last", "selected_by": {"name": "last"}},
        **{"domain": target, "setting": "source_only", "measured_by": {"metrics": {}, "code": "1"}},
        **{"test": f"test of {target}", "protocol": "classic", "ties": "expected", "precision": "float32"},
        **{"items": "i", "segments": "", "draws": 7, "images": images, "texts": images},
        **{
            "drift": None,
            "calibration": None,
            "failed": {},
            "floors": {},
            "metrics": {"mR": entry | {"higher_is_better": better}},
        },
        **(score or {}),
    }
    each = np.arange(images)
    arrays = {"image_of_text": each, "image_sums.mR": np.stack([np.asarray(hits, float), np.ones(images)], axis=1)}
    for way in ("i2t", "t2i"):
        first = {"greater": [0] * images, "tied": [0] * images, "tied_positives": [1] * images}
        arrays |= {f"{way}.{n}": np.array(v) for n, v in {**first, **(counts or {}).get(way, {})}.items()}
        arrays |= {f"{way}.query_row": each, f"{way}.gallery_row": each, f"{way}.right": np.ones(images, int)}
        arrays[f"{way}.image_of_query"] = np.stack([each, each])
    (folder / "scores" / "s").mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(spec))
    (folder / "scores" / "s" / "score.json").write_text(json.dumps(content))
    save_file(arrays, folder / "scores" / "s" / "queries.safetensors")
    if names is not None:
        (folder / "scores" / "s" / "items.json").write_text(json.dumps({"image_names": names}))
    return folder


def methods(place: Path, a: str = "dann", b: str = "coral", **wanted: Any) -> Comparison:
    asked = Wanted(**wanted)
    return compare(sides_of_methods(read_records([place]), a, b, asked), a, b, asked)
