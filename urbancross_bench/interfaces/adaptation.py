"""Adaptations: how an encoder is changed for a scenario. A method is one class with one loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from urbancross_bench.interfaces.encoder import DualEncoder
from urbancross_bench.interfaces.options import Options

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Progress:
    """Where training stands when a loss is computed.

    `step` counts from 0 to `steps` - 1; `source_pass` and `target_pass` count the finished passes over the
    source images and over the target images (0 where no target is seen).
    """

    step: int
    steps: int
    source_pass: int
    target_pass: int

    @property
    def fraction(self) -> float:
        """`step / steps`, in [0, 1)."""
        return self.step / self.steps


class Batch(Protocol):
    """A batch of one side. Features are L2-normalised, (B, D), computed once and only when asked for.

    A source batch, and the target batch of `oracle`, is paired: row i of the images belongs to row i of the
    texts. The target batch of `unsupervised` holds two independent streams, whose rows mean nothing to each
    other. What a setting does not show cannot be read: asking for it raises `FirewallError`.
    """

    @property
    def image_features(self) -> torch.Tensor:
        """(B, D), with gradients, of the augmented images by the encoder being trained."""
        ...

    @property
    def text_features(self) -> torch.Tensor:
        """(B, D), with gradients, by the encoder being trained."""
        ...

    @property
    def segment_features(self) -> torch.Tensor:
        """(B, D), the normalised mean of the normalised features of an image's segments; 0 where it has none.

        Needs `"segments"`. Without gradients, unless the segment tower is the image tower itself.
        """
        ...

    @property
    def reference_image_features(self) -> torch.Tensor:
        """(B, D), of the plain images by the frozen starting encoder. Needs `"reference"`."""
        ...

    @property
    def reference_text_features(self) -> torch.Tensor:
        """(B, D), by the frozen starting encoder. Needs `"reference"`."""
        ...

    @property
    def caption_similarity(self) -> torch.Tensor:
        """(B, B) cosine similarity of the captions' words, rare words weighing more (tf-idf); 1 where equal."""
        ...

    @property
    def domains(self) -> torch.Tensor:
        """(B,) int64, which of the scenario's source domains an image comes from; zeros for a target."""
        ...


@dataclass(frozen=True)
class Context:
    """What a method is told before training starts.

    `pair_loss` is the supervised loss of the grid's pre-training recipe, on a paired batch.
    """

    width: int
    device: torch.device
    steps: int
    pair_loss: Callable[[Batch], torch.Tensor]


class Adaptation(ABC):
    """An adaptation plugin. The harness owns loops, precision, devices, checkpoints, seeds and logging."""

    options_type: ClassVar[type[Options]] = Options

    def __init__(self, options: Options) -> None:
        self.options = options

    def prepare(self, model: DualEncoder, context: Context) -> None:  # noqa: B027 - optional
        """Once, before the first step: build heads, freeze parameters."""

    def parameter_groups(self, model: DualEncoder, learning_rate: float) -> list[dict[str, Any]]:
        """Parameter groups for the optimiser: by default everything trainable in the model."""
        return [{"params": [p for p in model.parameters() if p.requires_grad], "lr": learning_rate}]

    def select(self, source: Batch, target: Batch, progress: Progress) -> torch.Tensor | None:
        """Which rows of the drawn source batch to train on, (B',) int64; None keeps all."""
        return None

    @abstractmethod
    def loss(self, source: Batch, target: Batch, progress: Progress) -> dict[str, torch.Tensor]:
        """Named scalar losses of one step; their sum is minimised, each is logged."""

    def after_step(self, model: DualEncoder, progress: Progress) -> None:  # noqa: B027 - optional
        """After each optimiser step: update teachers and averages."""
