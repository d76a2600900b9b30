"""How models are trained: what pre-training and adaptation have in common, and what each has of its own."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

from urbancross_bench.errors import plural

Augmentation = Literal["flip", "rotate90", "crop", "rotate_crop", "colour"]


class PlacedError(ValueError):
    """A value of a part of the grid does not go with others; `at`: the keys that lead to it from that part."""

    def __init__(self, message: str, *at: str | int) -> None:
        super().__init__(message)
        self.at = at


class Spec(BaseModel):
    """A part of a grid: unknown keys are errors, nothing is changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Training(Spec):
    """How a model is trained: AdamW, linear warm-up, then the schedule.

    A step draws `batch_size` source images, each with one of its captions at random.
    """

    steps: int | None = Field(default=None, ge=0)
    epochs: PositiveFloat | None = Field(default=None, description="passes over the source, instead of steps")
    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = 1e-4
    weight_decay: float = Field(default=0.1, ge=0)
    warmup: float = Field(default=0.05, ge=0, le=1, description="share of the steps")
    schedule: Literal["cosine", "constant", "step"] = "cosine"
    decay: float = Field(
        default=0.7, gt=0, le=1, description="of schedule `step`: the rate times this, again and again"
    )
    decay_every: PositiveFloat | None = Field(
        default=None, description="of schedule `step`: after so many epochs, or steps where the length is in steps"
    )
    clip_norm: PositiveFloat = 1.0
    max_logit_scale: PositiveFloat = Field(default=100.0, description="upper bound of InfoNCE's factor")
    ema: float = Field(
        default=0.0, ge=0, lt=1, description="decay of the moving average of weights that is scored"
    )
    micro_batch: PositiveInt | None = Field(
        default=None,
        description="encode so many at a time, with all negatives of the batch: less memory, more time",
    )
    checkpoint_activations: bool = Field(default=False, description="less memory, more time, the same gradients")
    compile: bool = Field(default=False, description="compile the blocks of the towers")
    frozen_statistics: bool = Field(default=False, description="batch normalisation keeps the start's statistics")
    augmentation: tuple[Augmentation, ...] = ()

    @model_validator(mode="after")
    def _one_length_and_one_schedule(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("say how long to train: either steps or epochs")
        if (self.schedule == "step") != (self.decay_every is not None):
            raise ValueError("schedule: step and decay_every go together")
        if self.schedule != "step" and self.decay != type(self).model_fields["decay"].default:
            raise ValueError("decay is of schedule: step; the others have none")
        return self

    def in_steps(self, steps_per_pass: int) -> Self:
        """The same with its length in steps, for a source that takes `steps_per_pass` of them."""
        if self.epochs is None:
            return self
        changes: dict[str, Any] = {"steps": round(self.epochs * steps_per_pass), "epochs": None}
        if self.decay_every is not None:
            changes["decay_every"] = self.decay_every * steps_per_pass
        return self.model_copy(update=changes)

    def length(self) -> dict[str, Any]:
        """What `in_steps` settles."""
        return {"steps": self.steps, "epochs": self.epochs, "decay_every": self.decay_every}

    @property
    def trains(self) -> bool:
        """Whether there is any step."""
        return self.steps != 0


class Pretraining(Training):
    """The recipe every adaptation of the grid starts from: training on the source pairs alone."""

    loss: Literal["info_nce", "soft_info_nce", "hinge", "hardest_hinge"] = "info_nce"
    segment_weight: float = Field(
        default=1.0, ge=0, description="of L(segments, text), for encoders that use segments; others have none"
    )


class Budget(Training):
    """What every adaptation may spend: the same optimiser steps for all."""

    target_batch_size: PositiveInt = Field(
        default=64, description="rows of the target that a method gets beside its source batch; see `of_target`"
    )
    checkpoints: PositiveInt = Field(default=1, description="candidates for the selector, evenly spaced")

    def of_target(self, setting: str) -> int:
        """Rows of a target batch. Those of `oracle` stand in the place of the source's, and are as many."""
        return self.batch_size if setting == "oracle" else self.target_batch_size

    @model_validator(mode="after")
    def _checkpoints_fit(self) -> Self:
        if self.steps and self.checkpoints > self.steps:
            steps = plural(self.steps, "step")
            raise ValueError(f"{self.checkpoints} checkpoints do not fit into {self.steps} {steps}")
        return self
