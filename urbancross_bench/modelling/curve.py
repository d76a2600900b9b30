"""The learning curve: what every step says of itself, as means per pass, and whether training has diverged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch
from torch import Tensor

from urbancross_bench.errors import PluginError, RunError
from urbancross_bench.modelling.answers import IN_EVERY_CURVE, told

_MOST_SKIPPED = 24  # steps in a row: the loss is scaled by half as much after each, and by 65536 at first
# Times the first step's loss, or times 1 where that was less: training has diverged. So much, because a loss that
# a method weighs in over the first steps grows a hundredfold and more with nothing wrong.
EXPLODED = 10_000.0


class DivergedError(RunError):
    """Training has come to no number, or to one beyond all bounds."""


@dataclass
class Curve:
    """Means per pass over the source. Steps, and ends of passes, wait on the device until `settle` looks at all of
    them at once.
    """

    points: list[dict[str, float]] = field(default_factory=list)
    first_loss: float | None = None
    skipped: int = 0  # steps in a row
    _sums: dict[str, float] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)
    _logged: set[str] = field(default_factory=set)
    _waiting: list[Callable[[], None]] = field(default_factory=list)

    def add(
        self,
        step: int,
        losses: Mapping[str, Tensor],
        logged: Mapping[str, Tensor | float],
        before: Mapping[str, float] | None = None,
        after: Mapping[str, Tensor] | None = None,
        *,
        may_overflow: bool = False,
    ) -> None:
        """Take one step in: its losses, and what the method logged and, before and after that, the harness; all
        must stay finite.

        may_overflow: a gradient that is not finite costs its step and no more, as in float16, unless none is.

        Raises PluginError where something is logged by a name that is taken, or is no number.
        """
        for name, value in logged.items():
            _refuse_log(name, value, losses)
        total = torch.stack([value.detach().float() for value in losses.values()]).sum()
        trained = {name: value.detach() for name, value in losses.items()}
        row = {**trained, **(before or {}), **logged, **(after or {}), "loss": total}
        self._logged |= logged.keys()
        self._waiting.append(partial(self._count, step, row, may_overflow))

    def close_pass(self, step: int, **last: float) -> None:
        """End a pass: the mean of each number over the steps that had it, and what stands at its end."""
        self._waiting.append(partial(self._close, step, last))

    def settle(self) -> Iterator[dict[str, float]]:
        """Wait for the device and count in what was added; the passes that ended with it, as they do.

        Raises DivergedError, naming the step, for a loss or gradient that is no number, and a loss that exploded.
        """
        waiting, self._waiting = self._waiting, []
        for take_in in waiting:
            before = len(self.points)
            take_in()
            yield from self.points[before:]

    def _count(self, step: int, row: Mapping[str, Tensor | float], may_overflow: bool) -> None:
        values = {name: float(value) for name, value in row.items()}
        if may_overflow:
            skips = not math.isfinite(values["gradient_norm"])
            self.skipped = self.skipped + 1 if skips else 0
            values["skipped_share"] = float(skips)
            if skips and self.skipped < _MOST_SKIPPED:
                del values["gradient_norm"]
        # Counted in first: what made a training fail belongs into its curve.
        for name, value in values.items():
            if math.isfinite(value):
                self._sums[name] = self._sums.get(name, 0.0) + value
                self._counts[name] = self._counts.get(name, 0) + 1
        self._check(step, values)

    def _close(self, step: int, last: Mapping[str, float]) -> None:
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        self.points.append({"step": float(step), **means, **last})
        self._sums, self._counts = {}, {}

    def so_far(self) -> list[dict[str, float]]:
        """The passes that ended, and of the one that did not what was counted in, for a training that failed."""
        means = {name: total / self._counts[name] for name, total in self._sums.items()}
        return [*self.points, means] if means else self.points

    def state(self) -> dict[str, object]:
        """What `restored` needs, as plain values, once all is settled."""
        assert not self._waiting
        sums = {"sums": self._sums, "counts": self._counts}
        return {"points": self.points, "first_loss": self.first_loss, "skipped": self.skipped, **sums}

    def restore(self, state: Mapping[str, object]) -> None:
        """Go on from what `state` gave."""
        self.points, self.first_loss = state["points"], state["first_loss"]  # type: ignore[assignment]
        self.skipped = state["skipped"]  # type: ignore[assignment]
        self._sums, self._counts = state["sums"], state["counts"]  # type: ignore[assignment]

    def _check(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            if not math.isfinite(value) and name != "loss":
                what = "the gradient" if name == "gradient_norm" else f"{name!r}"
                if name in self._logged:
                    what = f"the logged value {name!r}"
                raise DivergedError(f"training has diverged: {what} is {value} at step {step}")
        loss = values["loss"]
        if self.first_loss is None:
            self.first_loss = loss
        if not loss <= EXPLODED * max(1.0, abs(self.first_loss)):
            raise DivergedError(
                f"training has diverged: the loss is {loss:.4g} at step {step}, {self.first_loss:.4g} at first"
            )


def _refuse_log(name: str, value: object, losses: Mapping[str, Tensor]) -> None:
    if name in IN_EVERY_CURVE or name in losses:
        own = name in IN_EVERY_CURVE
        whose = "is in every learning curve" if own else "is the name of a loss, which is logged by itself"
        raise PluginError(f"context.log({name!r}, …): {name} {whose}; log it by another name")
    number = value.numel() == 1 if isinstance(value, Tensor) else isinstance(value, int | float | np.number)
    if not number:
        raise PluginError(
            f"context.log({name!r}, …) takes a number, or a tensor of one; it is given {told(value)}"
        )
