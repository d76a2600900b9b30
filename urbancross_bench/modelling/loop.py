"""The one training loop: pre-training and every adaptation run through it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from urbancross_bench.errors import UsageError
from urbancross_bench.interfaces.adaptation import Adaptation, Context, Progress
from urbancross_bench.interfaces.encoder import DualEncoder
from urbancross_bench.modelling import answers
from urbancross_bench.modelling.attention import join_products
from urbancross_bench.modelling.curve import Curve
from urbancross_bench.modelling.distributed import Ranks
from urbancross_bench.modelling.encoding import refuse_batch_statistics
from urbancross_bench.modelling.feeds import Feed
from urbancross_bench.modelling.method_state import MethodState, optimisers
from urbancross_bench.modelling.optimiser import MovingAverage, make_optimiser, restore_optimiser, set_rate
from urbancross_bench.modelling.pair_loss import PairLoss
from urbancross_bench.modelling.runtime import autocast
from urbancross_bench.modelling.saving import Saves, module_state, random_state, restore_module, restore_random
from urbancross_bench.modelling.unsaved import Unsaved
from urbancross_bench.specs import Training

_LOOK = 32  # on a device that runs ahead of Python, losses are looked at every so many steps


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
    on_start: Callable[[int], None] = lambda trained: None,
    saves: Saves | None = None,
) -> Iterator[int]:
    """Train `model` in place, yielding after each candidate step (the last step is always one).

    While a step is yielded, `model` is what that checkpoint scores: with the moving average of weights, if the
    recipe has one. With `saves` a training that was cut goes on behind its last saved step, and yields no
    candidate that it had before. `on_start` is told how many numbers are trained, a method's own among them.

    Raises RunError where a loss or its gradient is not finite, or the loss explodes, naming loss and step.
    """
    assert recipe.steps is not None, "the length of a training is in steps by now"
    if device.type == "cuda":  # on a CPU nothing is won by it, and sums would come in another order
        join_products(cast(nn.Module, model))
    logged: dict[str, Tensor | float] = {}
    source_pool, target_pool = source.pool, target.pool
    pools = {"context.source": source_pool, "context.target": target_pool}
    context = Context(
        model.width,
        device,
        recipe.steps,
        PairLoss(loss_name, model),
        source_pool,
        target_pool,
        lambda name, value: logged.__setitem__(name, value.detach() if isinstance(value, Tensor) else value),
    )
    free = [parameter for parameter in model.parameters() if parameter.requires_grad]
    method.prepare(model, context)
    answers.unchanged(method, "prepare", pools)
    if recipe.steps == 0:
        on_start(0)
        yield 0
        return
    training = _Training(model, method, source, target, pools, recipe, precision, device, curve, on_pass)
    training.refuse_thawing(free)
    on_start(sum(p.numel() for p in training.trained if p.requires_grad))
    stops = {round(recipe.steps * (i + 1) / candidates) for i in range(candidates)}
    for step in range(training.restored(saves), recipe.steps):
        progress = Progress(step, recipe.steps, source.passes(step), target.passes(step))
        logged.clear()
        losses, share = training.losses(progress)
        norm = training.descend(losses)
        method.after_step(model, progress)
        training.average.update(step)
        curve.add(step, losses, logged, share, {"gradient_norm": norm}, may_overflow=training.scaler.is_enabled())
        if (step + 1) % source.steps_per_pass == 0 or step + 1 == recipe.steps:
            curve.close_pass(step + 1, learning_rate=training.optimiser.param_groups[0]["lr"])
        if device.type == "cpu" or step % _LOOK == 0 or step + 1 in stops:
            training.settle()
        report((step + 1) / recipe.steps)
        if step + 1 in stops:
            training.ranks.check_alike(training.trained, losses.values())
            with training.average.applied():
                yield step + 1
        if saves and step + 1 < recipe.steps:
            if step < 2:  # long before the first save, as a rule: what it finds then may not be there yet
                training.unsaved.look()
            saves.offer(step + 1, lambda: training.state(step + 1))  # noqa: B023 - called at once


class _Training:
    """What a step changes, and what one that was cut needs to go on."""

    def __init__(
        self,
        model: DualEncoder,
        method: Adaptation,
        source: Feed,
        target: Feed,
        pools: Mapping[str, Any],
        recipe: Training,
        precision: str,
        device: torch.device,
        curve: Curve,
        on_pass: Callable[[dict[str, float]], None],
    ) -> None:
        self.model, self.method, self.recipe = model, method, recipe
        self.source, self.target, self.pools = source, target, pools
        self.precision, self.device = precision, device
        self.curve, self.on_pass = curve, on_pass
        self.ranks = Ranks.current()
        groups = answers.parameter_groups(method, model, recipe.learning_rate)
        self.optimiser = make_optimiser(groups, recipe)
        self.trained = [p for group in self.optimiser.param_groups for p in group["params"]]
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
        if self.scaler.is_enabled() and any(optimisers(vars(method))):
            raise UsageError(
                "precision: float16 scales the loss, and an optimiser that a method keeps for itself does not "
                "know; take bfloat16 or float32"
            )
        self.average = MovingAverage(model, recipe.ema)
        self.kept, self.unsaved = MethodState(method, model), Unsaved(method, model)
        modules = cast(nn.Module, model).modules() if recipe.frozen_statistics else ()
        self.still = [module for module in modules if isinstance(module, _BatchNorm)]
        self.cut = bool(recipe.micro_batch and recipe.micro_batch < recipe.batch_size)

    def refuse_thawing(self, free: Sequence[nn.Parameter]) -> None:
        """Raise UsageError now for what the method trains in a later phase alone, and could not: see `losses`.

        free: the parameters that had a gradient before the method had a say.
        """
        if (self.cut or self.ranks.world > 1) and not self.recipe.frozen_statistics:
            trained = {id(parameter) for parameter in self.trained}
            later = [p for p in free if id(p) in trained and not p.requires_grad]
            refuse_batch_statistics(self.model, later)

    def losses(self, progress: Progress) -> tuple[Mapping[str, Tensor], dict[str, float]]:
        """Of a step, by their names; and what share of the source's batch the method keeps, where it selects."""
        self.model.train()
        self._hold_still()
        set_rate(self.optimiser, progress.step, self.recipe)
        method, source, target = self.method, self.source.batch(progress.step), self.target.batch(progress.step)
        share: dict[str, float] = {}
        with autocast(self.precision, self.device):
            kept = answers.selected(method, source, target, progress)
            answers.unchanged(method, "select", {"source": source, "target": target})
            self._hold_still()  # whatever mode the method has put the model in
            if self.cut:
                refuse_batch_statistics(self.model)  # now, and not when the method first asks for so large a batch
            if kept is not None:
                answers.of_batch(method, kept, source)
                share["kept_share"] = len(kept) / len(source.image_rows)
                source = source.rows(kept)
            losses = answers.losses(method, source, target, progress)
            answers.unchanged(method, "loss", {"source": source, "target": target, **self.pools})
        return losses, share

    def descend(self, losses: Mapping[str, Tensor]) -> Tensor:
        """One step of the optimiser down the sum of the losses; the norm of its gradient before clipping."""
        self.optimiser.zero_grad(set_to_none=True)
        total = torch.stack(list(losses.values())).sum()
        self.scaler.scale(total).backward()  # type: ignore[no-untyped-call]
        self.ranks.average(self.trained)
        self.scaler.unscale_(self.optimiser)
        norm = nn.utils.clip_grad_norm_(self.trained, self.recipe.clip_norm)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        if self.model.logit_scale.requires_grad:
            with torch.no_grad():
                self.model.logit_scale.clamp_(max=math.log(self.recipe.max_logit_scale))
        return norm

    def settle(self) -> None:
        """Look at the losses of the steps so far, and tell of the passes that ended with them."""
        for ended in self.curve.settle():
            self.on_pass(ended)

    def state(self, step: int) -> dict[str, Any]:
        """All that `restored` needs, after so many steps."""
        self.settle()
        self.unsaved.refuse()
        return {
            "step": step,
            "model": module_state(cast(nn.Module, self.model)),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.state,
            "method": self.kept.content(),
            "random": random_state(self.device),
            "curve": self.curve.state(),
        }

    def restored(self, saves: Saves | None) -> int:
        """The steps that are done: 0, or those of what was saved last, from which this goes on."""
        saved = saves.read() if saves else None
        if saved is None:
            return 0
        restore_module(cast(nn.Module, self.model), saved["model"])
        restore_optimiser(self.optimiser, saved["optimiser"])
        self.scaler.load_state_dict(saved["scaler"])
        self.average.state = {name: value.to(self.device) for name, value in saved["average"].items()}
        self.kept.restore(saved["method"], self.device)
        restore_random(saved["random"], self.device)
        self.curve.restore(saved["curve"])
        return int(saved["step"])

    def _hold_still(self) -> None:
        for module in self.still:
            module.eval()
