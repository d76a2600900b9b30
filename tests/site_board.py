"""A grid's output with a store, made up: enough for every page of the site, in milliseconds and without torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from made_up_records import IMAGES, edit, write_runs
from safetensors.numpy import load_file, save_file

from urbancross_bench.identity import key_of
from urbancross_bench.records import read_records

CAPTIONS = [f"caption {i}" for i in range(IMAGES)]
NAMES = [f"image_{i}.png" for i in range(IMAGES)]
METHODS = ("source_only", "ours", "oracle")
CURVE = [{"step": 10 * i, "loss": 4.0 - i, "kept_share": i / 2} for i in range(3)]
COPIES = {3: 0, 7: 4}  # a caption or image that is the same as another, one of a query that is shown


def write_output(
    place: Path,
    *,
    shareable: bool = True,
    captions: Sequence[str] = CAPTIONS,
    names: Sequence[str] = NAMES,
    methods: Sequence[str] = METHODS,
    seeds: Sequence[int] = (0, 1, 2),
    **changes: Any,
) -> Path:
    """Records as `write_runs` makes them, and a store with the card, captions and pictures of each domain."""
    write_runs(place, methods=methods, seeds=seeds, **changes)
    said = [captions[COPIES.get(i, i)] for i in range(IMAGES)]
    for record in read_records([place]):
        edit(record.folder / "curve.json", adapt=CURVE)
        for score in record.scores:
            number = [*methods].index(record.spec["adaptation"]["label"])
            source = record.spec["scenario"]["source"][0]
            _complete(score.folder, score.content["domain"], [number, record.spec["seed"], ord(source[0])])
            _write_store(place / "store", score.content, said, names, shareable)
    return place


def _complete(folder: Path, domain: str, seed: Sequence[int]) -> None:
    """The arrays and facts that a real score has besides."""
    rows = np.arange(IMAGES)
    arrays = load_file(folder / "queries.safetensors") | {"image_of_text": rows}
    generator = np.random.default_rng([*seed])
    for way in ("i2t", "t2i"):
        arrays[f"{way}.top"] = np.stack([generator.permutation(IMAGES)[:10] for _ in rows])
        arrays |= {f"{way}.{name}": rows for name in ("query_row", "gallery_row")}
        arrays |= {f"{way}.tied": 0 * rows, f"{way}.tied_positives": 0 * rows + 1}
    save_file(arrays, folder / "queries.safetensors")
    floors = {
        "random": {"mR": 12.5, "i2t_R@1": 3.25},
        "ceiling": {"mR": 99.5, "i2t_R@1": 98.75},
        "class_oracle": None,
    }
    edit(folder / "score.json", items=key_of(["items", domain]), floors=floors, step=5)


def _write_store(store: Path, score: Any, captions: Sequence[str], names: Sequence[str], shareable: bool) -> None:
    items = store / "items" / key_of(["items", score["domain"]])
    if items.exists():
        return
    items.mkdir(parents=True)
    equal = np.array([COPIES.get(i, i) for i in range(IMAGES)])
    save_file({"image_id": equal, "text_id": equal}, items / "items.safetensors")
    some = {"min": 1, "mean": 1.0, "max": 1}
    card = {
        "images": 50,
        "captions": IMAGES,
        "distinct_captions": IMAGES - len(COPIES),
        "splits": {"train": {"images": 20, "captions": 20}, "test": {"images": IMAGES, "captions": IMAGES}},
        "captions_per_image": some,
        "words_per_caption": some,
        "vocabulary": 31,
        "classes": {"distinct": 2, "most": {"forest": 3, "port": 2}},
        "tags": None,
        "resolution": None,
        "years": None,
        "countries": {captions[0]: 3},
        "licence": captions[1],
        "shareable": shareable,
    }
    places = [["train" if i % 2 else "test", 50.0 + i / 10, 179.0 + i / 10 - 360 * (i > 9)] for i in range(20)]
    (items / "card.json").write_text(json.dumps({"card": card, "places": places}), encoding="utf-8")
    pack = store / "pack" / key_of(["pack", score["domain"]])
    pack.mkdir(parents=True)
    facts = {"content": score["test"], "format": {"size": 8}}
    (pack / "stage.json").write_text(json.dumps({"facts": facts}), encoding="utf-8")
    said = {"image_names": [*names], "captions": [*captions], "image_of_caption": [*range(IMAGES)]}
    (pack / "pack.json").write_text(json.dumps(said), encoding="utf-8")
    pixels = (
        np.zeros((IMAGES, 8, 8, 3), dtype=np.uint8) + np.arange(IMAGES, dtype=np.uint8)[:, None, None, None] * 8
    )
    save_file({"images": pixels}, pack / "images.safetensors")
