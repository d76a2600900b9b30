"""Queries of one's own against a test split that a run has embedded: what its model puts first.

The gallery is what the run was scored on, as stored. The query goes through the same encoder with the weights that
the selector chose. Whether that still is the model of the run is checked by what it makes of captions it has seen.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from urbancross_bench.data.decode import decode
from urbancross_bench.data.images import read_file
from urbancross_bench.data.pack import resized
from urbancross_bench.data.packed import PackedImages, PackedSplit, Rows
from urbancross_bench.errors import DataError, RunError, UrbanCrossError, UsageError
from urbancross_bench.evaluation.samples import evenly_spaced
from urbancross_bench.execution.choosing import chosen_run, chosen_score
from urbancross_bench.execution.items import read_embedded
from urbancross_bench.execution.keeping import kept_grids
from urbancross_bench.execution.methods import PlannedMethod
from urbancross_bench.execution.store import MissingError, Store
from urbancross_bench.execution.supply import PlannedEncoder
from urbancross_bench.execution.training import candidates_in
from urbancross_bench.identity import canonical_json, derive_seed
from urbancross_bench.interfaces.adaptation import Adaptation
from urbancross_bench.interfaces.encoder import DualEncoder
from urbancross_bench.modelling.answers import extended, load_model
from urbancross_bench.modelling.checkpoints import load_weights
from urbancross_bench.modelling.embed import embed_images, embed_texts
from urbancross_bench.modelling.runtime import configure, resolve_device
from urbancross_bench.records import Record, ScoreRecord
from urbancross_bench.registry import Registry
from urbancross_bench.specs import identity_of

T = TypeVar("T")
Floats = NDArray[np.float64]
_PROBES = 16  # captions embedded again
_LEAST = 0.999  # cosine between what they are and were: batches and devices move the last digits alone


@dataclass(frozen=True, eq=False)
class Hit:
    """An item of the gallery: an image with its captions, or a caption (`text`) with the name of its image.

    `score`: cosine similarity. `pixels`: (S, S, 3) uint8, of an image whose pixels the store has.
    """

    score: float
    name: str
    captions: tuple[str, ...]
    text: str | None
    pixels: NDArray[np.uint8] | None


@dataclass(frozen=True, eq=False)
class Found:
    """A query, a text or the path of an image (with its `pixels`), and what was found, best first."""

    query: str
    hits: tuple[Hit, ...]
    pixels: NDArray[np.uint8] | None = None


def searched(
    out: Path,
    texts: Sequence[str],
    images: Sequence[Path],
    run: str | None,
    domain: str | None,
    selector: str | None,
    top: int,
    device: str,
) -> tuple[Record, ScoreRecord, list[Found]]:
    """The run and the score that are meant, and what is found for each query. Raises UsageError."""
    if not texts and not images:
        raise UsageError("there is nothing to search for; give a text or an image")
    if any(not text.strip() for text in texts):
        raise UsageError("a query is blank")
    if top < 1:
        raise UsageError(f"top {top}: ask for at least one")
    record = chosen_run(out, run)
    score = chosen_score(record, domain, selector)
    try:
        searcher = Searcher(out, record, score, resolve_device(device))
        found = [searcher.images_for(text, top) for text in texts]
        found += [searcher.texts_for(file, top) for file in images]
    except MissingError as error:
        raise UsageError(
            f"{error}; a search needs the stages adapt, embed and pack of its run. Run the grid into another "
            "--out to make them anew"
        ) from error
    return record, score, found


class Searcher:
    """The model of a run and a test split. Opening it reads the store; the model is loaded for the first query.

    Raises MissingError for what the store has lost, UsageError where the run's grid is not kept.
    """

    def __init__(self, out: Path, record: Record, score: ScoreRecord, device: torch.device) -> None:
        self._record, self._score, self._device = record, score, device
        self._store = store = Store(out / "store")
        embedded = store.find(score.content["features"])
        manifest = store.entry(score.content["features"]).manifest()
        self._facts, self._inputs = manifest["facts"], manifest["inputs"]
        self._split = PackedSplit.load(store.find(self._inputs["split.0"]))
        features = read_embedded(embedded, score.content["number"]).features
        self._images, self._texts = _normalised(features.images), _normalised(features.texts)
        grid = next((kept.grid for kept in kept_grids(out) if record.folder.name in kept.runs), None)
        if grid is None:
            raise UsageError(
                f"no grid below {out / 'grids'} has run {record.folder.name}; run its grid again with --out "
                f"{out}: nothing is redone, and the grid is kept"
            )
        self._registry = registry = Registry.discover(grid.plugins)
        self._encoder = self._planned(
            "encoder",
            grid.encoders,
            lambda label: PlannedEncoder(label, registry.resolve("encoder", grid.encoders[label])),
            lambda encoder: encoder.identity,
        )
        method = self._planned(
            "adaptation",
            grid.adaptations,
            lambda label: PlannedMethod(label, grid, registry),
            PlannedMethod.identity,
        )
        self._method = method.trials[score.content["trial"]].resolved

    def _planned(
        self,
        kind: str,
        labels: Collection[str],
        plan: Callable[[str], T],
        identity: Callable[[T], Mapping[str, Any]],
    ) -> T:
        """The run's encoder or method, by whichever label the grid has it now; else what has its label."""
        said = self._record.spec[kind]
        own = canonical_json(identity_of(said))
        for label in sorted(labels, key=lambda label: bool(label != said["label"])):
            with suppress(UrbanCrossError):  # an entry that has nothing to do with the run may be broken
                if canonical_json(identity(entry := plan(label))) == own:
                    return entry
        if said["label"] not in labels:
            raise RunError(self._changed())
        return plan(said["label"])

    def images_for(self, text: str, top: int) -> Found:
        """The images nearest to a text. Raises DataError for one that an encoder of stored features lacks."""
        query = self._features(self._model, [text])
        return Found(text, tuple(self._image(*hit) for hit in _nearest(self._images, query, top)))

    def texts_for(self, file: Path, top: int) -> Found:
        """The captions nearest to an image file. Raises DataError if it is none, UsageError without pixels."""
        if self._encoder.format is None:
            raise UsageError(
                f"encoder {self._encoder.name!r} knows stored features alone, and cannot embed an image; ask with "
                "a text that it has, or search a run of another encoder"
            )
        pixels = resized(decode(read_file(file, str(file)), str(file)), self._encoder.format)
        images = PackedImages(Rows([pixels[None]]))
        if "image" in self._encoder.frozen:
            images = PackedImages(Rows([embed_images(self._first_model, images, self._device).numpy()]))
        query = embed_images(self._model, images, self._device, self._facts["precision"]).numpy()
        return Found(str(file), tuple(self._text(*hit) for hit in _nearest(self._texts, query, top)), pixels)

    def _features(self, model: DualEncoder, texts: Sequence[str]) -> NDArray[np.float32]:
        """(B, D) of some texts, through the towers that never change first, where there are any."""
        rows = None
        if self._encoder.format is None:
            rows = Rows([self._stored(texts)])
        elif "text" in self._encoder.frozen:
            rows = Rows([embed_texts(self._first_model, texts, self._device).numpy()])
        found: NDArray[np.float32] = embed_texts(
            model, texts, self._device, self._facts["precision"], features=rows
        ).numpy()
        return found

    def _stored(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """What an encoder without towers has for some texts. Raises UsageError for those it has nothing for."""
        try:
            rows: NDArray[np.float32] = self._encoder.resolved.build().stored_features([], texts)[1]
        except DataError as error:
            raise UsageError(
                f"encoder {self._encoder.name!r} has no text tower, only features of texts in its files: {error}"
            ) from error
        return rows

    @cached_property
    def _model(self) -> DualEncoder:
        """With the weights of the chosen candidate. Raises RunError if it is not the run's model any more."""
        trained = self._store.find(self._inputs["model"])
        file = candidates_in(trained)[self._score.content["number"]]
        configure(torch.get_num_threads(), 0)
        method: Adaptation = self._method.build()
        model = extended(method, self._loaded())
        model.to(self._device)
        try:
            load_weights(model, file)
        except RuntimeError as error:  # torch's, for names and shapes that differ
            raise RunError(f"{self._changed()}: its weights do not fit: {error}") from error
        self._check(model)
        return model

    @cached_property
    def _first_model(self) -> DualEncoder:
        """The encoder as pre-training starts from it."""
        towers = self._store.entry(self._inputs["split_towers.0"]).manifest()["facts"]
        configure(towers["threads"], derive_seed("initial weights", towers["seed"]))
        return self._loaded()

    def _loaded(self) -> DualEncoder:
        model = load_model(self._encoder.resolved)
        model.to(self._device)
        return model

    def _check(self, model: DualEncoder) -> None:
        rows = evenly_spaced(len(self._split.captions), _PROBES)
        again = _normalised(self._features(model, [self._split.captions[row] for row in rows.tolist()]))
        least = float((again * self._texts[rows]).sum(axis=1).min())
        if least < _LEAST:
            raise RunError(
                f"{self._changed()}: of captions that the run has embedded it makes something else now (cosine "
                f"{least:.3f})"
            )

    def _changed(self) -> str:
        return (
            f"the model of run {self._record.folder.name} cannot be loaded as it was; the code, the options or "
            "the weights of its encoder or method have changed. Run the grid again"
        )

    def _image(self, row: int, score: float) -> Hit:
        split = self._split
        captions = tuple(split.captions[text] for text in split.captions_of(np.array([row])).tolist())
        pixels = split.images.rows.take(np.array([row]))[0]
        return Hit(score, split.image_names[row], captions, None, pixels if pixels.dtype == np.uint8 else None)

    def _text(self, row: int, score: float) -> Hit:
        owner = int(self._split.image_of_caption[row])
        image = self._image(owner, score)
        return Hit(score, image.name, image.captions, self._split.captions[row], image.pixels)


def _nearest(gallery: Floats, query: NDArray[np.float32], top: int) -> list[tuple[int, float]]:
    """Rows with their cosine, the best first, equal ones in their order."""
    [scores] = _normalised(query) @ gallery.T
    return [(row, float(scores[row])) for row in np.argsort(-scores, kind="stable")[:top].tolist()]


def _normalised(features: NDArray[Any]) -> Floats:
    rows = features.astype(np.float64)
    normalised: Floats = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    return normalised
