"""What each kind of stage does: from the folders of its inputs to files in its own folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from urbancross_bench.data.packed import PackedSplit
from urbancross_bench.data.views import PairView, Shown, StreamView, source_view, target_view
from urbancross_bench.errors import RunError
from urbancross_bench.execution.drift import drift, sampled
from urbancross_bench.execution.items import exact_features_of, features_of, rank_features, read_items
from urbancross_bench.execution.job import Job
from urbancross_bench.execution.preparing import (
    describe,
    embed_frozen_segments,
    pack_split,
    pack_split_segments,
    run_frozen_towers,
    store_features,
)
from urbancross_bench.execution.scoring import score_ranking
from urbancross_bench.files import write_json
from urbancross_bench.identity import derive_seed
from urbancross_bench.interfaces.adaptation import Adaptation
from urbancross_bench.interfaces.encoder import DualEncoder
from urbancross_bench.interfaces.selector import Candidate
from urbancross_bench.modelling.checkpoints import load_weights, save_weights
from urbancross_bench.modelling.embed import embed_images, embed_texts
from urbancross_bench.modelling.feeds import Feed
from urbancross_bench.modelling.loop import Curve, PairLoss, Supervised, train
from urbancross_bench.modelling.runtime import configure
from urbancross_bench.specs import Budget, Pretraining, Training


def pretrain(job: Job) -> None:
    """Train the encoder on the source pairs, by the grid's recipe."""
    configure(job.facts["threads"], derive_seed("initial weights", job.facts["seed"]))
    job.planned("encoder", job.work["encoder"], job.facts["encoder"])
    model = job.model()
    recipe = Pretraining(**job.facts["recipe"])
    source = _feed(job, model, "source", source_view(job.packed("source")), recipe, recipe.batch_size)
    target = _feed(job, model, "target", None, recipe, 1, hidden="pre-training sees no target")
    weight = recipe.segment_weight if job.group("source_segments") else 0.0
    method = Supervised(PairLoss(recipe.loss, model), weight)
    for _ in _train(job, model, method, source, target, recipe, loss=recipe.loss):
        save_weights(model, job.out / "weights.safetensors")


def adapt(job: Job) -> None:
    """Train the pre-trained encoder further, by the adaptation, on what its setting shows."""
    seed, shown = job.facts["seed"], Shown(**job.facts["shown"])
    configure(job.facts["threads"], derive_seed("adaptation", seed))
    model = job.model()
    load_weights(model, job.inputs["start"] / "weights.safetensors")
    budget = Budget(**job.facts["budget"])
    resolved = job.planned("adaptation", job.work["adaptation"], job.facts["adaptation"])
    method: Adaptation = resolved.build()
    references = "reference" in resolved.plugin.registration.needs
    hidden = f"adaptation {resolved.reference.name!r} has the setting {shown.setting!r}"
    targets = job.packed("target")
    view = target_view(targets[0], shown, derive_seed("target view", seed)) if targets else None
    del targets  # from here on, what the setting hides is not in reach of the method
    pairs = source_view(job.packed("source"))
    source = _feed(job, model, "source", pairs, budget, budget.batch_size, references=references)
    target = _feed(
        job, model, "target", view, budget, budget.target_batch_size, references=references, hidden=hidden
    )
    loss, candidates = job.facts["loss"], budget.checkpoints
    for step in _train(job, model, method, source, target, budget, loss=loss, candidates=candidates):
        save_weights(model, job.out / f"candidate-{step:09d}.safetensors")


def embed(job: Job) -> None:
    """Features of one split by every candidate; in bfloat16, some in float32 beside, to see what that moves."""
    configure(torch.get_num_threads(), 0)
    model, [split], precision = job.model(), job.packed("split"), job.facts["precision"]
    arrays: dict[str, NDArray[Any]] = {"image_of_text": split.image_of_caption}
    candidates = sorted(job.inputs["model"].glob("candidate-*.safetensors"))
    for number, file in enumerate(candidates):
        load_weights(model, file)
        step = file.stem.partition("-")[2]
        arrays[f"images.{step}"], arrays[f"texts.{step}"] = _features(job, model, split, precision)
        if precision != "float32" and job.facts["drift"]:
            sample = split.part(sampled(len(split.images)))
            exact = _features(job, model, sample, "float32")
            arrays[f"exact_images.{step}"], arrays[f"exact_texts.{step}"] = exact
            arrays["exact_image_of_text"] = sample.image_of_caption
        job.report((number + 1) / len(candidates))
    save_file(arrays, job.out / "features.safetensors")


def _features(
    job: Job, model: DualEncoder, split: PackedSplit, precision: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    images = embed_images(model, split.images, job.device, precision)
    texts = embed_texts(model, split.captions, job.device, precision, features=split.text_features)
    return images.numpy(), texts.numpy()


def rank(job: Job) -> None:
    """Choose a checkpoint, rank the test split with it, and score the ranking."""
    resolved = job.planned("selector", job.work["selector"], job.facts["selector"])
    steps = sorted(features_of(job.inputs["test"]))
    validation = {
        role: [features_of(folder) for folder in job.group(role)]
        for role in sorted(resolved.plugin.registration.needs)
    }
    candidates = [
        Candidate(int(step), {role: [split[step] for split in splits] for role, splits in validation.items()})
        for step in steps
    ]
    chosen = resolved.build().choose(candidates)
    if not 0 <= chosen < len(steps):
        raise RunError(f"selector {job.work['selector']!r} chose candidate {chosen} of {len(steps)}")
    test, items = features_of(job.inputs["test"])[steps[chosen]], read_items(job.inputs["items"])
    exact = exact_features_of(job.inputs["test"]).get(steps[chosen])
    try:
        ranking = rank_features(test, items, protocol=job.facts["protocol"], ties=job.facts["ties"])
        drifted = None if exact is None else drift(test, exact)
    except ValueError as error:
        raise RunError(f"the test embeddings cannot be ranked: {error}") from error
    planned = zip(job.work["metrics"], job.facts["metrics"], strict=True)
    metrics = [job.planned("metric", reference, identity) for reference, identity in planned]
    score, arrays = score_ranking(ranking, metrics, draws=derive_seed("resampled images", job.facts["test"]))
    score |= {"floors": items.floors(ranking), "step": int(steps[chosen])}
    score |= {"precision": job.work["precision"], "drift": drifted, "segments": job.work["segments"]}
    score |= {"candidates": [int(step) for step in steps], "features": job.stage.inputs["test"]}
    score["items"] = job.stage.inputs["items"]
    write_json(job.out / "score.json", score)
    save_file(arrays, job.out / "queries.safetensors")
    write_json(job.out / "items.json", {"image_names": items.image_names})


STAGES: dict[str, Callable[[Job], None]] = {
    "items": describe,
    "pack": pack_split,
    "segments": pack_split_segments,
    "stored": store_features,
    "towers": run_frozen_towers,
    "segment_features": embed_frozen_segments,
    "pretrain": pretrain,
    "adapt": adapt,
    "embed": embed,
    "rank": rank,
}


def _feed(
    job: Job,
    model: DualEncoder,
    side: str,
    view: PairView | StreamView | None,
    recipe: Training,
    batch_size: int,
    *,
    references: bool = False,
    hidden: str = "",
) -> Feed:
    """One side of a stage's training, with draws of its own."""
    return Feed(
        model,
        view,
        batch_size=batch_size,
        augmentation=recipe.augmentation,
        device=job.device,
        seed=derive_seed(job.stage.kind, side, job.facts["seed"]),
        hidden=hidden,
        references=references,
    )


def _train(
    job: Job,
    model: DualEncoder,
    method: Adaptation,
    source: Feed,
    target: Feed,
    recipe: Training,
    *,
    loss: str,
    candidates: int = 1,
) -> Iterator[int]:
    """The training loop as a stage runs it: yields candidate steps, and leaves the learning curve."""
    curve = Curve()
    yield from train(
        model,
        method,
        source,
        target,
        recipe,
        loss_name=loss,
        precision=job.facts["precision"],
        device=job.device,
        candidates=candidates,
        curve=curve,
        report=job.report,
        on_pass=job.on_pass,
    )
    write_json(job.out / "curve.json", curve.points)
