"""What is ranked: the stored features of a test split, and what is known of its items besides."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from urbancross_bench.data.domain import Split
from urbancross_bench.data.floors import numbered, split_floors
from urbancross_bench.data.packed import Rows, sorted_places
from urbancross_bench.errors import PluginError
from urbancross_bench.evaluation.floors import FLOORS, as_json, random_floor
from urbancross_bench.evaluation.ranking import Ranking, evaluate_retrieval
from urbancross_bench.files import write_json
from urbancross_bench.interfaces.adaptation import Adaptation, Calibrated
from urbancross_bench.interfaces.selector import Features, UnpairedFeatures

Ints = NDArray[np.int64]
_FEATURES = "features.safetensors"


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


@dataclass(frozen=True, eq=False)
class Embedded:
    """A split's features by one candidate; `exact`: those of sampled images in float32, where features are not.

    cut: how many captions are longer than the text tower reads.
    """

    step: int
    name: str
    scale: float
    features: Features
    exact: Features | None
    cut: int


@dataclass(frozen=True, eq=False)
class Lost:
    """A candidate whose features of a split cannot be ranked, and why."""

    step: int
    name: str
    scale: float
    why: str


def write_embedded(folder: Path, embedded: Sequence[Embedded | Lost], diverged: str) -> None:
    """Write `features.safetensors`: arrays by the number of the candidate, what it is in the header.

    Of a training that `diverged` there is no candidate, but how it did.
    """
    arrays: dict[str, NDArray[Any]] = {}
    said: list[dict[str, Any]] = []
    for number, one in enumerate(embedded):
        said.append({"step": one.step, "name": one.name, "scale": one.scale})
        if isinstance(one, Lost):
            said[-1]["lost"] = one.why
            continue
        said[-1]["cut"] = one.cut
        arrays |= {f"images.{number}": one.features.images, f"texts.{number}": one.features.texts}
        arrays["image_of_text"] = one.features.image_of_text
        if one.exact is not None:
            arrays |= {f"exact_images.{number}": one.exact.images, f"exact_texts.{number}": one.exact.texts}
            arrays["exact_image_of_text"] = one.exact.image_of_text
    # One entry: of several the order differs from file to file, and so would the bytes.
    metadata = {"diverged": diverged} if diverged else {"candidates": json.dumps(said)}
    save_file(arrays, folder / _FEATURES, metadata=metadata)


def diverged_in(folder: Path) -> str:
    """How the training diverged whose candidates were to be embedded; empty where it did not."""
    with safe_open(folder / _FEATURES, framework="numpy") as file:
        return str(file.metadata().get("diverged", ""))


def lost_in(folder: Path) -> list[str]:
    """Of each candidate why its features cannot be ranked; empty where they can."""
    return [said.get("lost", "") for said in candidates_of(folder)]


def candidates_of(folder: Path) -> list[dict[str, Any]]:
    """`step`, `name` and `scale` of each candidate that an `embed` stage has features of; reads no feature."""
    with safe_open(folder / _FEATURES, framework="numpy") as file:
        said: list[dict[str, Any]] = json.loads(file.metadata().get("candidates", "[]"))
    return said


def read_embedded(folder: Path, number: int) -> Embedded:
    """The features of one candidate, by its place among `candidates_of`."""
    with safe_open(folder / _FEATURES, framework="numpy") as file:
        said = json.loads(file.metadata()["candidates"])[number]

        def features(kind: str) -> Features:
            names = (f"{kind}images.{number}", f"{kind}texts.{number}", f"{kind}image_of_text")
            return Features(*(file.get_tensor(name) for name in names))

        exact = features("exact_") if f"exact_images.{number}" in file.keys() else None  # noqa: SIM118
        return Embedded(said["step"], said["name"], said["scale"], features(""), exact, said.get("cut", 0))


def rank_features(
    features: Features, items: SplitItems, *, protocol: str, ties: str, calibration: Adaptation | None = None
) -> Ranking:
    """Rank the features of a test split, calibrated if asked. Raises ValueError for what cannot be ranked."""
    given = Calibrated(features.images, features.texts)
    if calibration is not None:
        given = _calibrated(calibration, features)
    return evaluate_retrieval(
        given.images,
        given.texts,
        features.image_of_text,
        image_bias=given.image_bias,
        text_bias=given.text_bias,
        protocol=protocol,
        ties=ties,
        text_id=items.text_id,
        image_id=items.image_id,
        image_class=items.image_class,
    )


@dataclass(frozen=True, eq=False)
class Orders:
    """Orders of images (N,) and of texts (M,) by what their features hold, which tells nothing of pairs: whoever
    knows how an order was drawn can undo it.
    """

    images: Ints
    texts: Ints

    @classmethod
    def of(cls, features: Features) -> Orders:
        """Those of some features."""
        images, texts = (Rows([rows]).digests() for rows in (features.images, features.texts))
        return cls(sorted_places(images), sorted_places(texts))

    def unpaired(self, features: Features) -> UnpairedFeatures:
        """Features of the same split, each side in its order."""
        return UnpairedFeatures(features.images[self.images], features.texts[self.texts])


def _calibrated(calibration: Adaptation, features: Features) -> Calibrated:
    """What a method makes of the features, which it is shown unpaired. Raises ValueError for other shapes."""
    orders = Orders.of(features)
    shown = orders.unpaired(features)
    given = calibration.calibrate(_normalised(shown.images), _normalised(shown.texts))
    if not isinstance(given, Calibrated):
        said = f"{type(calibration).__name__}.calibrate must return Calibrated(images, texts)"
        raise PluginError(f"{said}; it returns a {type(given).__name__}")
    places = {"images": np.argsort(orders.images), "texts": np.argsort(orders.texts)}
    parts = {"images": (given.images, given.image_bias), "texts": (given.texts, given.text_bias)}
    for side, (rows, bias) in parts.items():
        if len(rows) != len(places[side]) or (bias is not None and np.shape(bias) != (len(rows),)):
            raise ValueError(
                f"calibrate gave {len(rows)} {side} for {len(places[side])}, or a bias not of that length"
            )
    (images, image_bias), (texts, text_bias) = (
        (rows[places[side]], None if bias is None else bias[places[side]]) for side, (rows, bias) in parts.items()
    )
    return Calibrated(images, texts, image_bias, text_bias)


def _normalised(features: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    normalised: NDArray[np.float32] = features / np.maximum(lengths, np.finfo(np.float32).tiny)
    return normalised
