"""The one training loop: pre-training and every adaptation run through it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
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
from urbancross_bench.modelling.feeds import Feed
from urbancross_bench.modelling.optimiser import MovingAverage, make_optimiser, restore_optimiser, set_rate
from urbancross_bench.modelling.pair_loss import PairLoss
from urbancross_bench.modelling.runtime import autocast
from urbancross_bench.modelling.saving import (
    Saves,
    method_state,
    random_state,
    restore_method,
    restore_random,
)
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
    method.prepare(model, context)
    answers.unchanged(method, "prepare", pools)
    if recipe.steps == 0:
        on_start(0)
        yield 0
        return
    ranks = Ranks.current()
    optimiser = make_optimiser(answers.parameter_groups(method, model, recipe.learning_rate), recipe)
    trained = [p for group in optimiser.param_groups for p in group["params"]]
    on_start(sum(p.numel() for p in trained if p.requires_grad))
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
    if scaler.is_enabled() and any(isinstance(value, torch.optim.Optimizer) for value in vars(method).values()):
        raise UsageError(
            "precision: float16 scales the loss, and an optimiser that a method keeps for itself does not know; "
            "take bfloat16 or float32"
        )
    average = MovingAverage(model, recipe.ema)
    unsaved = Unsaved(method, model)

    def state(step: int) -> dict[str, Any]:
        settle()
        unsaved.refuse()
        return {
            "step": step,
            "model": model.state_dict(),
            "optimiser": optimiser.state_dict(),
            "scaler": scaler.state_dict(),
            "average": average.state,
            "method": method_state(method, model),
            "random": random_state(device),
            "curve": curve.state(),
        }

    def settle() -> None:
        for ended in curve.settle():
            on_pass(ended)

    def restored() -> int:
        saved = saves.read() if saves else None
        if saved is None:
            return 0
        model.load_state_dict(saved["model"])
        restore_optimiser(optimiser, saved["optimiser"])
        scaler.load_state_dict(saved["scaler"])
        average.state = {name: value.to(device) for name, value in saved["average"].items()}
        restore_method(method, saved["method"], device)
        restore_random(saved["random"], device)
        curve.restore(saved["curve"])
        return int(saved["step"])

    modules = cast(nn.Module, model).modules() if recipe.frozen_statistics else ()
    still = [module for module in modules if isinstance(module, _BatchNorm)]
    stops = {round(recipe.steps * (i + 1) / candidates) for i in range(candidates)}
    for step in range(restored(), recipe.steps):
        model.train()
        for module in still:
            module.eval()
        set_rate(optimiser, step, recipe)
        progress = Progress(step, recipe.steps, source.passes(step), target.passes(step))
        source_batch, target_batch = source.batch(step), target.batch(step)
        logged.clear()
        share: dict[str, float] = {}
        with autocast(precision, device):
            kept = answers.selected(method, source_batch, target_batch, progress)
            answers.unchanged(method, "select", {"source": source_batch, "target": target_batch})
            for module in still:  # whatever mode the method has put the model in
                module.eval()
            if kept is not None:
                answers.of_batch(method, kept, source_batch)
                share["kept_share"] = len(kept) / len(source_batch.image_rows)
                source_batch = source_batch.rows(kept)
            losses = answers.losses(method, source_batch, target_batch, progress)
            answers.unchanged(method, "loss", {"source": source_batch, "target": target_batch, **pools})
        optimiser.zero_grad(set_to_none=True)
        scaler.scale(torch.stack(list(losses.values())).sum()).backward()  # type: ignore[no-untyped-call]
        ranks.average(trained)
        scaler.unscale_(optimiser)
        norm = nn.utils.clip_grad_norm_(trained, recipe.clip_norm)
        scaler.step(optimiser)
        scaler.update()
        with torch.no_grad():
            model.logit_scale.clamp_(max=math.log(recipe.max_logit_scale))
        method.after_step(model, progress)
        average.update()
        curve.add(step, losses, logged, share, {"gradient_norm": norm}, may_overflow=scaler.is_enabled())
        if (step + 1) % source.steps_per_pass == 0 or step + 1 == recipe.steps:
            curve.close_pass(step + 1, learning_rate=optimiser.param_groups[0]["lr"])
        if device.type == "cpu" or step % _LOOK == 0 or step + 1 in stops:
            settle()
        report((step + 1) / recipe.steps)
        if step + 1 in stops:
            ranks.check_alike(trained)
            with average.applied():
                yield step + 1
        if saves and step + 1 < recipe.steps:
            if step < 2:  # long before the first save, as a rule: what it finds then may not be there yet
                unsaved.look()
            saves.offer(step + 1, lambda: state(step + 1))  # noqa: B023 - called at once
