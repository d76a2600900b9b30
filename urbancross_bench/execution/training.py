"""The stages that train: pre-training, and adapting what it leaves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from urbancross_bench.data.views import PairView, Shown, StreamView, source_view, target_view
from urbancross_bench.errors import RunError
from urbancross_bench.execution.job import Job
from urbancross_bench.execution.store import CURVE, PARAMETERS
from urbancross_bench.files import write_json
from urbancross_bench.identity import derive_seed
from urbancross_bench.interfaces.adaptation import Adaptation
from urbancross_bench.interfaces.encoder import DualEncoder
from urbancross_bench.modelling import answers
from urbancross_bench.modelling.checkpoints import load_weights, plain, save_weights
from urbancross_bench.modelling.curve import Curve, DivergedError
from urbancross_bench.modelling.distributed import Ranks
from urbancross_bench.modelling.encoding import Encoding, checkpoint_activations, compile_blocks
from urbancross_bench.modelling.feeds import Feed
from urbancross_bench.modelling.loop import train
from urbancross_bench.modelling.origins import Origin, origin_of
from urbancross_bench.modelling.pair_loss import PairLoss, Supervised
from urbancross_bench.modelling.residence import Residence
from urbancross_bench.modelling.runtime import configure
from urbancross_bench.modelling.saving import Saves
from urbancross_bench.specs import Budget, Pretraining, Training

_DIVERGED, _WEIGHTS = "diverged.json", "weights.safetensors"


def pretrain(job: Job) -> None:
    """Train the encoder on the source pairs, by the grid's recipe."""
    configure(job.facts["threads"], derive_seed("initial weights", job.facts["seed"]))
    model = job.model()
    recipe = Pretraining(**job.facts["recipe"])
    _arrange(model, recipe)
    residence = Residence(job.device)
    source = _feed(job, model, "source", source_view(job.packed("source")), recipe, recipe.batch_size, residence)
    target = _feed(job, model, "target", None, recipe, 1, residence, hidden="pre-training sees no target")
    weight = recipe.segment_weight if job.group("source_segments") else 0.0
    method = Supervised(PairLoss(recipe.loss, model), weight)
    for _ in _train(job, model, method, source, target, recipe, loss=recipe.loss):
        save_weights(model.state_dict(), job.out / _WEIGHTS, Origin.of(job.work["origin"]))


def adapt(job: Job) -> None:
    """Train the pre-trained encoder further, by the adaptation, on what its setting shows.

    Leaves `candidate-STEP-NUMBER.safetensors`, its name and origin in the header. A training that diverges leaves
    none, but how it did: that is a result, too, which a search passes over and which need not be tried again.
    """
    seed, shown = job.facts["seed"], Shown(**job.facts["shown"])
    configure(job.facts["threads"], derive_seed("adaptation", seed))
    budget = Budget(**job.facts["budget"])
    resolved = job.planned("adaptation", job.work["adaptation"], job.facts["adaptation"])
    method: Adaptation = resolved.build()
    needs = resolved.plugin.registration.needs | resolved.options.needs()
    if "gradients" not in needs and type(method).loss is not Adaptation.loss:
        raise RunError(
            f"{resolved.plugin} defines a loss, and takes no step since it is registered without "
            "needs={'gradients'}"
        )
    start = job.model()
    load_weights(start, job.inputs["start"] / _WEIGHTS)
    model = answers.extended(method, start)
    model.to(job.device)
    _arrange(model, budget)
    references = "reference" in needs
    hidden = f"adaptation {resolved.reference.name!r} has the setting {shown.setting!r}"
    targets = job.packed("target")
    view = target_view(targets[0], shown, derive_seed("target view", seed)) if targets else None
    del targets  # from here on, what the setting hides is not in reach of the method
    pairs = source_view(job.packed("source"))
    residence = Residence(job.device)
    source = _feed(job, model, "source", pairs, budget, budget.batch_size, residence, references=references)
    target = _feed(
        job,
        model,
        "target",
        view,
        budget,
        budget.of_target(shown.setting),
        residence,
        references=references,
        hidden=hidden,
    )
    saves = _saves(job)
    try:
        _adapt(job, model, method, source, target, budget, saves)
    except DivergedError as error:
        write_json(job.out / _DIVERGED, {"error": str(error)})
        return
    for file in candidates_in(saves.folder) if Ranks.current().first else ():
        # Not moved: killed before this stage is published, the training goes on from what is saved.
        shutil.copyfile(file, job.out / file.name)


def candidates_in(folder: Path) -> list[Path]:
    """The candidates that a training left, in the order in which it did."""
    return sorted(folder.glob("candidate-*.safetensors"))


def diverged_as(folder: Path) -> str:
    """How the training diverged whose output this is; empty where it did not."""
    file = folder / _DIVERGED
    return str(json.loads(file.read_text(encoding="utf-8"))["error"]) if file.is_file() else ""


def _adapt(
    job: Job, model: DualEncoder, method: Adaptation, source: Feed, target: Feed, budget: Budget, saves: Saves
) -> None:
    """Train, and keep every candidate where the training is saved."""
    loss, candidates = job.facts["loss"], budget.checkpoints
    origin = Origin.of(job.work["origin"])
    for step in _train(job, model, method, source, target, budget, saves, loss=loss, candidates=candidates):
        for number, (name, state) in enumerate(answers.candidates(method, model).items()):
            if Ranks.current().first:
                with saves.writing(f"candidate-{step:09d}-{number:06d}.safetensors") as file:
                    left = origin if budget.trains or _moved(state, job) else _start(job)
                    save_weights(state, file, replace(left, candidate=name))


def _start(job: Job) -> Origin:
    """That of the weights which a method was given."""
    found = origin_of(job.inputs["start"] / _WEIGHTS)
    assert found is not None, "pre-training leaves it"
    return found


def _moved(state: Mapping[str, Tensor], job: Job) -> bool:
    """Whether a method that takes no step has changed anything all the same, or added a part of its own."""
    start = load_file(job.inputs["start"] / _WEIGHTS)
    state = plain(state)
    return state.keys() != start.keys() or not all(torch.equal(state[name], start[name]) for name in start)


def _arrange(model: DualEncoder, recipe: Training) -> None:
    """How the towers' blocks are run, as the recipe says; names and values of weights stay as they are."""
    if recipe.checkpoint_activations:
        checkpoint_activations(model)
    if recipe.compile:
        compile_blocks(model)


def _feed(
    job: Job,
    model: DualEncoder,
    side: str,
    view: PairView | StreamView | None,
    recipe: Training,
    batch_size: int,
    residence: Residence,
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
        encoding=Encoding(recipe.micro_batch, Ranks.current()),
        residence=residence,
    )


def _saves(job: Job) -> Saves:
    return Saves(job.saved, job.save_seconds, writes=Ranks.current().first)


def _train(
    job: Job,
    model: DualEncoder,
    method: Adaptation,
    source: Feed,
    target: Feed,
    recipe: Training,
    saves: Saves | None = None,
    *,
    loss: str,
    candidates: int = 1,
) -> Iterator[int]:
    """The training loop as a stage runs it: yields candidate steps, and leaves the learning curve.

    Of a training that diverges, too. How many numbers the model has and the training may change stands beside it.
    """
    curve = Curve()

    def on_start(trained: int) -> None:
        model_has = sum(p.numel() for p in cast(nn.Module, model).parameters())
        write_json(job.out / PARAMETERS, {"trained": trained, "model": model_has})

    saves = saves or _saves(job)
    try:
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
            report=job.say,
            on_pass=job.say,
            on_start=on_start,
            saves=saves,
        )
    except DivergedError:
        write_json(job.out / CURVE, curve.so_far())
        if Ranks.current().first:
            with saves.writing(CURVE) as file:  # should the stage fail by it, its output is thrown away
                write_json(file, curve.so_far())
        raise
    write_json(job.out / CURVE, curve.points)
