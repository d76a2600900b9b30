"""A small dual encoder with batch normalisation, and batches that methods are tested on without the harness."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from urbancross_bench.interfaces import Context, Progress
from urbancross_bench.modelling.optimiser import make_optimiser
from urbancross_bench.modelling.pair_loss import PairLoss
from urbancross_bench.specs import Budget

WIDTH = 8
_INPUT = 6


class Small(nn.Module):
    """Images and texts are vectors. As the towers of an `interfaces.DualEncoder` it has running statistics."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.width, self.mean, self.std = WIDTH, (), ()
        self.image_tower = nn.Sequential(
            nn.Linear(_INPUT, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, WIDTH)
        )
        self.text_tower = nn.Linear(_INPUT, WIDTH)
        self.logit_scale = nn.Parameter(torch.tensor(math.log(5.0)))
        self.logit_bias = None

    def encode_image(self, images: Tensor) -> Tensor:
        return self.image_tower(images)

    def encode_text(self, tokens: Tensor) -> Tensor:
        return self.text_tower(tokens)


class Drawn:
    """A batch of a model's own inputs, encoded when it is asked for."""

    def __init__(self, model: Any, images: Tensor, texts: Tensor) -> None:
        self.model, self.images, self.texts = model, images, texts
        self.image_rows = torch.arange(len(images))
        self._kept: dict[str, Tensor] = {}

    @property
    def image_features(self) -> Tensor:
        return self._once("images", lambda: self.model.encode_image(self.images))

    @property
    def text_features(self) -> Tensor:
        return self._once("texts", lambda: self.model.encode_text(self.texts))

    def encoded_by(self, model: Any) -> Drawn:
        return Drawn(model, self.images, self.texts)

    def _once(self, name: str, make: Any) -> Tensor:
        if name not in self._kept:
            self._kept[name] = F.normalize(make().float(), dim=1)
        return self._kept[name]


def vectors(rows: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images and texts for `Small`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, _INPUT, generator=generator), torch.randn(rows, _INPUT, generator=generator)


def context(model: Any, steps: int = 10, target: Any = None) -> tuple[Any, dict[str, Any]]:
    """What `prepare` is given, with InfoNCE for the recipe's loss; and what is logged."""
    logged: dict[str, Any] = {}
    return (
        Context(
            width=model.width,
            device=torch.device("cpu"),
            steps=steps,
            pair_loss=PairLoss("info_nce", model),
            source=SimpleNamespace(),  # type: ignore[arg-type]
            target=target or SimpleNamespace(),  # type: ignore[arg-type]
            log=logged.__setitem__,
        ),
        logged,
    )


class Training:
    """The steps of the harness's loop, one at a time, on given inputs."""

    def __init__(self, method: Any, model: Any, steps: int = 10, learning_rate: float = 1e-2) -> None:
        self.method, self.model, self.steps = method, model, steps
        self.context, self.logged = context(model, steps)
        method.prepare(model, self.context)
        recipe = Budget(steps=steps, learning_rate=learning_rate)
        self.optimiser = make_optimiser(method.parameter_groups(model, learning_rate), recipe)

    def run(self, inputs: Sequence[tuple[Tensor, Tensor]], first: int = 0) -> None:
        """Train on source and target batches alike, step by step from `first` on."""
        for step, (images, texts) in enumerate(inputs, start=first):
            self.model.train()
            progress = Progress(step, self.steps, 0, 0)
            batch = Drawn(self.model, images, texts)
            self.method.select(batch, batch, progress)
            losses = self.method.loss(batch, batch, progress)
            self.optimiser.zero_grad(set_to_none=True)
            sum(losses.values()).backward()
            self.optimiser.step()
            self.method.after_step(self.model, progress)
        self.model.eval()


def copied(model: Any) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def moved(before: dict[str, Tensor], model: Any) -> set[str]:
    """The names whose bits are others now."""
    return {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}
