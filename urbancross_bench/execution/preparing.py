"""The stages before any training: what of a split models take, and what ranking has to know of it."""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from urbancross_bench.data.card import CARD, card, located
from urbancross_bench.data.pack import pack, pack_segments, split_facts
from urbancross_bench.data.packed import (
    FACTS,
    IMAGES,
    SEGMENTS,
    TEXTS,
    PackedSegments,
    header,
    write_facts,
)
from urbancross_bench.errors import PluginError
from urbancross_bench.execution.items import items_of, write_items
from urbancross_bench.execution.job import Job
from urbancross_bench.files import write_json
from urbancross_bench.identity import derive_seed
from urbancross_bench.interfaces.encoder import DualEncoder, Encoder, ImageFormat, SegmentEncoder
from urbancross_bench.modelling.answers import unlike_features
from urbancross_bench.modelling.checkpoints import load_weights
from urbancross_bench.modelling.embed import embed_images, embed_segments, embed_texts
from urbancross_bench.modelling.runtime import configure

_HELD = 32  # features of a frozen tower that are held against what the model makes of them


def describe(job: Job) -> None:
    """What ranking has to know of a test split besides features: equal strings and images, classes, floors.

    Beside it a card of the whole domain, for those who look at the results later.
    """
    split = job.split()
    write_items(items_of(split), job.out)
    write_json(job.out / CARD, {"card": card(split.domain, pixels=False), "places": located(split.domain)})


def pack_split(job: Job) -> None:
    """Decode and resize the images of one split."""
    pack(job.split(), ImageFormat(**job.facts["format"]), job.out, job.say)


def pack_split_segments(job: Job) -> None:
    """Decode and resize the segments of one split."""
    pack_segments(job.split(), ImageFormat(**job.facts["format"]), job.facts["most"], job.out, job.say)


def store_features(job: Job) -> None:
    """The features that an encoder without towers has for the images and captions of one split."""
    encoder: Encoder = job.planned("encoder", job.work["encoder"], job.facts["encoder"]).build()
    split = job.split()
    images, texts = encoder.stored_features(split.image_names, split.captions)
    _write_rows(job, IMAGES, images)
    _write_rows(job, TEXTS, texts)
    write_facts(job.out, split_facts(split))


def run_frozen_towers(job: Job) -> None:
    """Features of a split's images, captions or both, by towers that never change."""
    model, [split] = _first_model(job), job.packed("split")
    if "image" in job.facts["towers"]:
        _write_features(job, model, "image", IMAGES, embed_images(model, split.images, job.device))
    if "text" in job.facts["towers"]:
        _write_features(job, model, "text", TEXTS, embed_texts(model, split.captions, job.device))


def embed_frozen_segments(job: Job) -> None:
    """What a frozen segment tower makes of a split's segments: as first loaded, or the pre-trained image tower."""
    model = cast(SegmentEncoder, _first_model(job))
    if "start" in job.inputs:
        load_weights(model, job.inputs["start"] / "weights.safetensors")
    [folder] = job.group("split")
    segments = PackedSegments.load(folder)
    _write_rows(job, SEGMENTS, embed_segments(model, segments, job.device).numpy())
    (job.out / FACTS).write_bytes((folder / FACTS).read_bytes())


def _first_model(job: Job) -> DualEncoder:
    """The encoder as pre-training starts from it."""
    configure(job.facts["threads"], derive_seed("initial weights", job.facts["seed"]))
    return job.model()


def _write_features(job: Job, model: DualEncoder, side: str, name: str, features: Tensor) -> None:
    if why := unlike_features(model, side, features[:_HELD].to(job.device)):
        raise PluginError(f"encoder {job.work['encoder']!r}: {why}")
    _write_rows(job, name, features.numpy())


def _write_rows(job: Job, name: str, rows: NDArray[np.float32]) -> None:
    file = job.out / name
    with file.open("wb") as opened:
        opened.write(header(file, "F32", rows.shape))
        opened.write(np.ascontiguousarray(rows, dtype="<f4").data)
