"""The one training loop: pre-training and every adaptation run through it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from urbancross_bench.errors import RunError
from urbancross_bench.interfaces.adaptation import Adaptation, Batch, Context, Progress
from urbancross_bench.interfaces.encoder import DualEncoder
from urbancross_bench.interfaces.options import Options
from urbancross_bench.modelling.feeds import Feed
from urbancross_bench.modelling.losses import hinge, info_nce, soft_info_nce
from urbancross_bench.modelling.runtime import autocast
from urbancross_bench.specs import Training


class Supervised(Adaptation):
    """Training on pairs of the source: what pre-training is. Of segments: L(image, text) + λ L(segments, text)."""

    def __init__(self, pair_loss: PairLoss, segment_weight: float = 0.0) -> None:
        super().__init__(Options())
        self._pair_loss = pair_loss
        self._segment_weight = segment_weight

    def loss(self, source: Batch, target: Batch, progress: Progress) -> dict[str, Tensor]:
        """The recipe's loss on the source batch."""
        losses = {"pairs": self._pair_loss(source)}
        if self._segment_weight:
            losses["segments"] = self._segment_weight * self._pair_loss.of_segments(source)
        return losses


class PairLoss:
    """The supervised loss that a pre-training recipe names, on a paired batch; a scalar."""

    def __init__(self, name: str, model: DualEncoder) -> None:
        self._name = name
        self._model = model

    def __call__(self, batch: Batch) -> Tensor:
        """Of images and texts."""
        return self._of(batch.image_features, batch, slice(None))

    def of_segments(self, batch: Batch) -> Tensor:
        """Of the mean of an image's segments and its text, over the images that have any; 0 where none has."""
        features = batch.segment_features
        present = features.any(dim=1)
        return self._of(features[present], batch, present) if present.any() else features.sum() * 0

    def _of(self, features: Tensor, batch: Batch, rows: Tensor | slice) -> Tensor:
        texts = batch.text_features[rows]
        if self._name == "hinge":
            return hinge(features, texts)
        scale = self._model.logit_scale.exp()
        if self._name == "soft_info_nce":
            return soft_info_nce(features, texts, scale, batch.caption_similarity[rows][:, rows], 0.3)
        return info_nce(features, texts, scale)


@dataclass
class Curve:
    """Mean losses per pass over the source: what a run's learning curve shows."""

    points: list[dict[str, float]] = field(default_factory=list)
    _sums: dict[str, float] = field(default_factory=dict)
    _steps: int = 0

    def add(self, losses: dict[str, Tensor]) -> None:
        """Count one step in."""
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value.detach())
        self._steps += 1

    def close_pass(self, step: int) -> dict[str, float]:
        """End a pass: the mean of each loss over its steps."""
        point = {"step": float(step), **{name: total / self._steps for name, total in self._sums.items()}}
        self.points.append(point)
        self._sums, self._steps = {}, 0
        return point


def train(
    model: DualEncoder,
    method: Adaptation,
    source: Feed,
    target: Feed,
    recipe: Training,
    *,
    loss_name: str,
    precision: str,
    device: torch.device,
    candidates: int = 1,
    curve: Curve,
    report: Callable[[float], None],
    on_pass: Callable[[dict[str, float]], None],
) -> Iterator[int]:
    """Train `model` in place, yielding after each candidate step (the last step is always one).

    Raises RunError where a loss or its gradient is not finite, naming loss and step.
    """
    method.prepare(model, Context(model.width, device, recipe.steps, PairLoss(loss_name, model)))
    optimiser = _optimiser(method.parameter_groups(model, recipe.learning_rate), recipe)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _factor(step, recipe))
    trained = [p for group in optimiser.param_groups for p in group["params"]]
    stops = {round(recipe.steps * (i + 1) / candidates) for i in range(candidates)}
    for step in range(recipe.steps):
        model.train()
        progress = Progress(step, recipe.steps, source.passes(step), target.passes(step))
        source_batch, target_batch = source.batch(step), target.batch(step)
        with autocast(precision, device):
            kept = method.select(source_batch, target_batch, progress)
            if kept is not None:
                source_batch = source_batch.rows(kept)
            losses = method.loss(source_batch, target_batch, progress)
        total = torch.stack(list(losses.values())).sum()
        optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(trained, recipe.clip_norm)
        _check_finite(losses, norm, step)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(recipe.max_logit_scale))
        method.after_step(model, progress)
        curve.add(losses)
        if (step + 1) % source.steps_per_pass == 0 or step + 1 == recipe.steps:
            on_pass(curve.close_pass(step + 1))
        report((step + 1) / recipe.steps)
        if step + 1 in stops:
            yield step + 1
    if recipe.steps == 0:
        yield 0


def _optimiser(groups: list[dict[str, object]], recipe: Training) -> torch.optim.Optimizer:
    """AdamW with decay on matrices only: gains, biases and the logit scale are left alone."""
    split = []
    for group in groups:
        parameters: list[nn.Parameter] = list(group["params"])  # type: ignore[call-overload]
        matrices = [p for p in parameters if p.ndim >= 2]
        others = [p for p in parameters if p.ndim < 2]
        split.append({**group, "params": matrices, "weight_decay": recipe.weight_decay})
        split.append({**group, "params": others, "weight_decay": 0.0})
    return torch.optim.AdamW([group for group in split if group["params"]], betas=(0.9, 0.98), eps=1e-6)


def _factor(step: int, recipe: Training) -> float:
    """The learning rate at a step, as a share of the full one."""
    warm = round(recipe.warmup * recipe.steps)
    if step < warm:
        return (step + 1) / warm
    if recipe.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, recipe.steps - warm)))


def _check_finite(losses: dict[str, Tensor], norm: Tensor, step: int) -> None:
    for name, value in losses.items():
        if not bool(value.detach().isfinite()):
            raise RunError(f"loss {name!r} is {float(value.detach())} at step {step}")
    if not bool(norm.isfinite()):
        raise RunError(f"the gradient is not finite at step {step}")
