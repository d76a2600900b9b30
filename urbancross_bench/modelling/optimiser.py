"""What moves the weights: the optimiser, its learning rate at each step, and the moving average of weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from urbancross_bench.errors import RunError
from urbancross_bench.interfaces.encoder import DualEncoder
from urbancross_bench.specs import Training


def make_optimiser(groups: Sequence[dict[str, Any]], recipe: Training) -> torch.optim.Optimizer:
    """AdamW with decay on matrices only: gains, biases and the logit scale are left alone.

    Each group keeps the learning rate it came with as `initial_lr`. Raises RunError if there is nothing to train.
    """
    split = []
    for group in groups:
        parameters: list[nn.Parameter] = list(group["params"])
        group = {**group, "initial_lr": group.get("lr", recipe.learning_rate)}
        matrices = [p for p in parameters if p.ndim >= 2]
        others = [p for p in parameters if p.ndim < 2]
        split.append({"weight_decay": recipe.weight_decay, **group, "params": matrices})
        split.append({**group, "params": others, "weight_decay": 0.0})
    split = [group for group in split if group["params"]]
    if not split:
        raise RunError(
            "there is nothing to train: the encoder's weights are all frozen, by its options freeze or "
            "frozen_towers; freeze fewer, give it a head, or pre-train and adapt in 0 steps"
        )
    on_card = all(p.is_cuda for group in split for p in group["params"])  # one kernel for all that is trained
    return torch.optim.AdamW(split, lr=recipe.learning_rate, betas=(0.9, 0.98), eps=1e-6, fused=on_card)


def restore_optimiser(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state, and lay its moments out in memory as the weights are, which one kernel for all insists on."""
    optimiser.load_state_dict(state)
    for weight, moments in optimiser.state.items():
        for name, value in moments.items():
            if isinstance(value, Tensor) and value.shape == weight.shape:
                moments[name] = torch.empty_like(weight, dtype=value.dtype, device=value.device).copy_(value)


def set_rate(optimiser: torch.optim.Optimizer, step: int, recipe: Training) -> None:
    """Give each group its learning rate for a step: warm-up, then the recipe's schedule."""
    factor = rate(step, recipe)
    for group in optimiser.param_groups:
        group["lr"] = group["initial_lr"] * factor


def rate(step: int, recipe: Training) -> float:
    """The learning rate at a step, as a share of the full one."""
    assert recipe.steps is not None, "a recipe is in steps by the time it is trained by"
    warm = round(recipe.warmup * recipe.steps)
    if step < warm:
        return (step + 1) / warm
    if recipe.schedule == "constant":
        return 1.0
    if recipe.schedule == "step":
        assert recipe.decay_every is not None
        return float(recipe.decay ** (step // recipe.decay_every))
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, recipe.steps - warm)))


class MovingAverage:
    """θ̄ ← d θ̄ + (1 − d) θ after step t, from the starting weights on; of what is trained, and of buffers.

    At first d is 1 − 1 / (t + 2), as long as that is less than the decay: else the start would be most of the
    average of a short training. With a decay of 0 it is the model itself and costs nothing.
    """

    def __init__(self, model: DualEncoder, decay: float) -> None:
        self._model, self._decay = model, decay
        self.state: dict[str, Tensor] = {}
        if decay:
            self.state = {name: value.detach().clone() for name, value in model.state_dict().items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Count the weights in that a step, from 0, has left."""
        if self._decay:
            decay = min(self._decay, 1 - 1 / (step + 2))
            for name, value in self._model.state_dict().items():
                if value.is_floating_point():
                    self.state[name].lerp_(value, 1 - decay)
                else:
                    self.state[name].copy_(value)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the averaged weights inside, its own again after."""
        if not self._decay:
            yield
            return
        own = {name: value.detach().clone() for name, value in self._model.state_dict().items()}
        self._model.load_state_dict(self.state)
        try:
            yield
        finally:
            self._model.load_state_dict(own)
