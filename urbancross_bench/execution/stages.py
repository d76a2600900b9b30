"""What each kind of stage does: from the folders of its inputs to files in its own folder."""

from __future__ import annotations

from collections.abc import Callable

import torch
from safetensors.numpy import save_file

from urbancross_bench.data.packed import PackedSplit
from urbancross_bench.errors import RunError
from urbancross_bench.execution.drift import drift, sampled
from urbancross_bench.execution.items import (
    Embedded,
    Lost,
    rank_features,
    read_embedded,
    read_items,
    write_embedded,
)
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
from urbancross_bench.execution.selection import Choice
from urbancross_bench.execution.training import adapt, candidates_in, diverged_as, pretrain
from urbancross_bench.files import write_json
from urbancross_bench.identity import derive_seed
from urbancross_bench.interfaces.adaptation import Adaptation
from urbancross_bench.interfaces.encoder import DualEncoder
from urbancross_bench.interfaces.selector import Features
from urbancross_bench.modelling.answers import extended
from urbancross_bench.modelling.checkpoints import load_weights
from urbancross_bench.modelling.curve import DivergedError
from urbancross_bench.modelling.embed import cut_texts, embed_images, embed_texts
from urbancross_bench.modelling.origins import origin_of
from urbancross_bench.modelling.runtime import configure


def embed(job: Job) -> None:
    """Features of one split by every candidate; in bfloat16, some in float32 beside, to see what that moves."""
    configure(torch.get_num_threads(), 0)
    method: Adaptation = job.planned("adaptation", job.work["adaptation"], job.work["method"]).build()
    model = extended(method, job.model())
    model.to(job.device)
    [split], precision = job.packed("split"), job.facts["precision"]
    cut = cut_texts(model, split.captions) if job.facts["drift"] else 0  # of test splits
    if cut:
        print(f"{cut} of {len(split.captions)} captions are longer than the text tower reads, and are cut")
    embedded: list[Embedded | Lost] = []
    candidates = candidates_in(job.inputs["model"])
    for number, file in enumerate(candidates):
        load_weights(model, file)
        origin = origin_of(file)
        assert origin is not None, "a training leaves it"
        name = origin.candidate
        step, scale, exact = int(file.name.split("-")[1]), float(model.logit_scale.detach().exp()), None
        try:
            features = _features(job, model, split, precision)
            if precision != "float32" and job.facts["drift"]:
                exact = _features(job, model, split.part(sampled(len(split.images))), "float32")
        except DivergedError as error:  # with finite losses; what it means is for who chooses among them
            embedded.append(Lost(step, name, scale, f"{error}, at step {step}"))
        else:
            embedded.append(Embedded(step, name, scale, features, exact, cut))
        job.say((number + 1) / len(candidates))
    write_embedded(job.out, embedded, diverged_as(job.inputs["model"]))


def _features(job: Job, model: DualEncoder, split: PackedSplit, precision: str) -> Features:
    images = embed_images(model, split.images, job.device, precision)
    texts = embed_texts(model, split.captions, job.device, precision, features=split.text_features)
    return Features(images.numpy(), texts.numpy(), split.image_of_caption)


def rank(job: Job) -> None:
    """Choose a checkpoint, rank the test split with it, and score the ranking."""
    choice = Choice(job)
    test, items = read_embedded(job.group("test")[choice.trial], choice.number), read_items(job.inputs["items"])
    calibration = None
    if "calibration" in job.facts:
        calibration = job.planned("adaptation", job.work["calibration"], job.facts["calibration"]).build()
    try:
        ranking = rank_features(
            test.features, items, protocol=job.facts["protocol"], ties=job.facts["ties"], calibration=calibration
        )
        drifted = None if test.exact is None else drift(test.features, test.exact)
    except ValueError as error:
        raise RunError(f"the test embeddings cannot be ranked: {error}") from error
    planned = zip(job.work["metrics"], job.facts["metrics"], strict=True)
    metrics = [job.planned("metric", reference, identity) for reference, identity in planned]
    score, arrays = score_ranking(ranking, metrics, draws=derive_seed("resampled images", job.facts["test"]))
    score |= {"floors": items.floors(ranking), "step": test.step, "candidate": test.name, "trial": choice.trial}
    score |= {"precision": job.work["precision"], "drift": drifted, "segments": job.work["segments"]}
    score |= {"captions_cut": test.cut}
    score |= {"calibration": None if calibration is None else {"queries": calibration.queries}}
    score |= {"candidates": choice.as_json(), "number": choice.number}
    score |= {"features": job.stage.inputs[f"test.{choice.trial}"], "items": job.stage.inputs["items"]}
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
