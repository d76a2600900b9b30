"""What is ranked: the stored features of a test split, and what is known of its items besides."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from urbancross_bench.data.domain import Split
from urbancross_bench.data.floors import numbered, split_floors
from urbancross_bench.evaluation.floors import FLOORS, as_json, random_floor
from urbancross_bench.evaluation.ranking import Ranking, evaluate_retrieval
from urbancross_bench.files import write_json
from urbancross_bench.interfaces.selector import Features

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SplitItems:
    """N images and M texts. `text_id` (M,) and `image_id` (N,) int64 are equal for equal strings and images.

    `image_class` (N,) int64, or None where not every image has a scene class. `classic_floors`: of the protocol
    `classic`, by tie rule.
    """

    image_names: Sequence[str]
    text_id: Ints
    image_id: Ints
    image_class: Ints | None
    classic_floors: Mapping[str, Any]

    def floors(self, ranking: Ranking) -> Any:
        """The floors and ceilings of a ranking; under other protocols than `classic` there is chance alone."""
        if ranking.protocol == "classic":
            return self.classic_floors[ranking.ties]
        return dict.fromkeys(FLOORS) | {"random": random_floor(ranking).as_json()}


def items_of(split: Split) -> SplitItems:
    """The items of a split as its domain gives them."""
    digests = [split.domain.images.digest(index) for index in split.members.tolist()]
    classes = split.image_class
    return SplitItems(
        split.image_names,
        numbered(split.captions),
        numbered(digests),
        None if classes is None else numbered(classes),
        as_json(split_floors(split)),
    )


def write_items(items: SplitItems, folder: Path) -> None:
    """Write `items.json` and `items.safetensors`."""
    arrays = {"text_id": items.text_id, "image_id": items.image_id}
    if items.image_class is not None:
        arrays["image_class"] = items.image_class
    save_file(arrays, folder / "items.safetensors")
    write_json(folder / "items.json", {"image_names": items.image_names, "floors": items.classic_floors})


def read_items(folder: Path) -> SplitItems:
    """What `write_items` wrote."""
    arrays: dict[str, Ints] = load_file(folder / "items.safetensors")
    said = json.loads((folder / "items.json").read_text(encoding="utf-8"))
    return SplitItems(
        said["image_names"], arrays["text_id"], arrays["image_id"], arrays.get("image_class"), said["floors"]
    )


def features_of(folder: Path) -> dict[str, Features]:
    """Step → the features an `embed` stage stored."""
    return _features(load_file(folder / "features.safetensors"), "")


def exact_features_of(folder: Path) -> dict[str, Features]:
    """Step → the features of sampled images in float32; none where all features are."""
    return _features(load_file(folder / "features.safetensors"), "exact_")


def _features(arrays: Mapping[str, NDArray[Any]], kind: str) -> dict[str, Features]:
    steps = [name.partition(".")[2] for name in arrays if name.startswith(f"{kind}images.")]
    return {
        step: Features(
            arrays[f"{kind}images.{step}"], arrays[f"{kind}texts.{step}"], arrays[f"{kind}image_of_text"]
        )
        for step in steps
    }


def rank_features(features: Features, items: SplitItems, *, protocol: str, ties: str) -> Ranking:
    """Rank the features of a test split. Raises ValueError for features that cannot be ranked."""
    return evaluate_retrieval(
        features.images,
        features.texts,
        features.image_of_text,
        protocol=protocol,
        ties=ties,
        text_id=items.text_id,
        image_id=items.image_id,
        image_class=items.image_class,
    )
