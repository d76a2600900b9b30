"""What each kind of stage does: from the folders of its inputs to files in its own folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import save_file

from urbancross_bench.data.domain import Split, split_of
from urbancross_bench.data.pack import PackedSplit, pack
from urbancross_bench.data.views import PairView, Shown, StreamView, source_view, target_view
from urbancross_bench.errors import RunError
from urbancross_bench.execution.domains import read_domain
from urbancross_bench.execution.items import features_of, items_of, rank_features, read_items, write_items
from urbancross_bench.execution.scoring import score_ranking
from urbancross_bench.execution.stage import Stage
from urbancross_bench.files import write_json
from urbancross_bench.identity import derive_seed
from urbancross_bench.interfaces.adaptation import Adaptation
from urbancross_bench.interfaces.encoder import DualEncoder, ImageFormat
from urbancross_bench.interfaces.selector import Candidate
from urbancross_bench.modelling.checkpoints import load_weights, save_weights
from urbancross_bench.modelling.embed import embed_images, embed_texts
from urbancross_bench.modelling.feeds import Feed
from urbancross_bench.modelling.loop import Curve, Supervised, pair_loss, train
from urbancross_bench.modelling.runtime import configure
from urbancross_bench.registry import Registry, Resolved
from urbancross_bench.specs import Budget, Pretraining, Training


@dataclass(frozen=True, eq=False)
class Job:
    """A stage about to be carried out. `inputs` are the folders of the stages it builds on."""

    stage: Stage
    inputs: Mapping[str, Path]
    out: Path
    registry: Registry
    device: torch.device
    report: Callable[[float], None]

    @property
    def facts(self) -> Mapping[str, Any]:
        """The stage's facts."""
        return self.stage.facts

    @property
    def work(self) -> Mapping[str, Any]:
        """How the stage is carried out."""
        return self.stage.work

    def group(self, role: str) -> list[Path]:
        """The inputs `role.0`, `role.1`, … in order."""
        names = sorted(
            (n for n in self.inputs if n.startswith(f"{role}.")), key=lambda n: int(n.partition(".")[2])
        )
        return [self.inputs[name] for name in names]

    def packed(self, role: str) -> list[PackedSplit]:
        """The packed splits of a role."""
        return [PackedSplit.load(folder) for folder in self.group(role)]

    def model(self) -> DualEncoder:
        """The stage's encoder with its first weights, on the stage's device."""
        model: DualEncoder = self.registry.resolve("encoder", self.work["encoder"]).build().load()
        model.to(self.device)
        return model

    def planned(self, kind: str, reference: str, identity: Mapping[str, Any]) -> Resolved:
        """A plugin, if it still is what the plan named. Raises RunError if its code or options have changed."""
        resolved = self.registry.resolve(kind, reference)
        if resolved.identity() != identity:
            raise RunError(f"{resolved.plugin} has changed since the grid was planned; run the grid again")
        return resolved

    def on_pass(self, values: dict[str, float]) -> None:
        """Tell trackers that a pass over the source ended; their failures are only printed."""
        for problem in self.registry.notify("on_epoch_ended", stage=self.stage.label, values=values):
            print(problem)


def describe(job: Job) -> None:
    """What ranking has to know of a test split besides features: equal strings and images, classes, floors."""
    split = _split(job)
    write_items(items_of(split), job.out)


def pack_split(job: Job) -> None:
    """Decode and resize the images of one split."""
    pack(_split(job), ImageFormat(**job.facts["format"]), job.out, job.report)


def _split(job: Job) -> Split:
    """The split of the stage, read anew. Raises RunError if it is not what the plan saw."""
    resolved = job.registry.resolve("dataset", job.work["dataset"])
    domain, _ = read_domain(resolved, job.work["exclusions"])
    split = split_of(domain, job.work["split"])
    if split.fingerprint != job.facts["content"]:
        raise RunError(f"{job.stage.label} has changed on disk since the grid was planned; run it again")
    return split


def pretrain(job: Job) -> None:
    """Train the encoder on the source pairs, by the grid's recipe."""
    configure(job.facts["threads"], derive_seed("initial weights", job.facts["seed"]))
    job.planned("encoder", job.work["encoder"], job.facts["encoder"])
    model = job.model()
    recipe = Pretraining(**job.facts["recipe"])
    source = _feed(job, model, "source", source_view(job.packed("source")), recipe, recipe.batch_size)
    target = _feed(job, model, "target", None, recipe, 1, hidden="pre-training sees no target")
    method = Supervised(pair_loss(recipe.loss, model))
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
    """Features of one split by every candidate checkpoint."""
    configure(torch.get_num_threads(), 0)
    model = job.model()
    split = job.packed("split")[0]
    arrays = {"image_of_text": split.image_of_caption}
    candidates = sorted(job.inputs["model"].glob("candidate-*.safetensors"))
    for number, file in enumerate(candidates):
        load_weights(model, file)
        step = file.stem.partition("-")[2]
        arrays[f"images.{step}"] = embed_images(model, split.images, job.device).numpy()
        arrays[f"texts.{step}"] = embed_texts(model, split.captions, job.device).numpy()
        job.report((number + 1) / len(candidates))
    save_file(arrays, job.out / "features.safetensors")


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
    try:
        ranking = rank_features(test, items, protocol=job.facts["protocol"], ties=job.facts["ties"])
    except ValueError as error:
        raise RunError(f"the test embeddings cannot be ranked: {error}") from error
    planned = zip(job.work["metrics"], job.facts["metrics"], strict=True)
    metrics = [job.planned("metric", reference, identity) for reference, identity in planned]
    score, arrays = score_ranking(ranking, metrics, draws=derive_seed("resampled images", job.facts["test"]))
    score |= {"floors": items.floors(ranking), "step": int(steps[chosen])}
    score |= {"candidates": [int(step) for step in steps], "features": job.stage.inputs["test"]}
    score["items"] = job.stage.inputs["items"]
    write_json(job.out / "score.json", score)
    save_file(arrays, job.out / "queries.safetensors")
    write_json(job.out / "items.json", {"image_names": items.image_names})


STAGES: dict[str, Callable[[Job], None]] = {
    "items": describe,
    "pack": pack_split,
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
