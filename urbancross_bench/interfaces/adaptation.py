"""Adaptations: how an encoder is changed for a scenario. A method is one class with one loss."""

from __future__ import annotations

from abc import ABC
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

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
    other. What a setting does not show cannot be read: asking for it raises `FirewallError`. What a batch gives it
    gives to all who ask: changing it in place raises `PluginError` after the step's loss.
    """

    @property
    def image_features(self) -> torch.Tensor:
        """(B, D), of the augmented images by the encoder being trained; with gradients, also under `no_grad`."""
        ...

    @property
    def text_features(self) -> torch.Tensor:
        """(B, D), by the encoder being trained; with gradients, also under `no_grad`."""
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
        """(B,) int64, which of the scenario's source domains an image comes from; zeros for a paired target."""
        ...

    @property
    def image_rows(self) -> torch.Tensor:
        """(B,) int64, the places of the images among those of `Pool`."""
        ...

    @property
    def text_rows(self) -> torch.Tensor:
        """(B,) int64, the places of the texts among those of `Pool`."""
        ...

    def encoded_by(self, model: DualEncoder) -> Batch:
        """The same images, augmented alike, and the same texts by another model, such as a teacher.

        Features of the new batch have gradients unless they are first asked for under `no_grad`.
        """
        ...


class Pool(Protocol):
    """All of one side that the setting shows: N images, M texts; see `Batch` for what is paired."""

    def batches(self) -> Iterator[Batch]:
        """One pass over the images (over the texts where only they are shown), in order and without augmentation.

        Each image once, the last batch may be smaller; of a paired image one text, of unpaired texts as many as
        images, as far as they go.
        """
        ...

    @property
    def reference_image_features(self) -> torch.Tensor:
        """(N, D), normalised, by the frozen starting encoder. Needs `"reference"`."""
        ...

    @property
    def reference_text_features(self) -> torch.Tensor:
        """(M, D), normalised, by the frozen starting encoder. Needs `"reference"`."""
        ...


@dataclass(frozen=True)
class Context:
    """What a method is told before training starts.

    pair_loss: the supervised loss of the grid's pre-training recipe, on a paired batch.
    source, target: what there is to train on.
    log: puts a number, by name, into the learning curve, which shows its mean over a pass. Costs no wait for the
        device. A number, or a tensor of one, and finite: NaN fails the run as a loss would, so log what is nought
        by nought only where it is something. Names of losses, and step, loss, gradient_norm, learning_rate,
        kept_share and skipped_share, are taken, and raise `PluginError`.
    """

    width: int
    device: torch.device
    steps: int
    pair_loss: Callable[[Batch], torch.Tensor]
    source: Pool
    target: Pool
    log: Callable[[str, torch.Tensor | float], None]


@dataclass(frozen=True, eq=False)
class Calibrated:
    """Features of N images and M texts after calibration: a score is ⟨x_i, y_j⟩ − image_bias_i − text_bias_j.

    `images` (N, D) and `texts` (M, D) are normalised before they are multiplied; the biases are (N,) and (M,).
    """

    images: NDArray[np.float32]
    texts: NDArray[np.float32]
    image_bias: NDArray[np.float64] | None = None
    text_bias: NDArray[np.float64] | None = None


class Adaptation(ABC):  # noqa: B024 - a method overrides what it needs, most of them `loss`
    """An adaptation plugin. The harness owns loops, precision, devices, checkpoints, seeds and logging.

    A method that does not register `needs={"gradients"}` is not trained: what it makes of the starting model in
    `extend` and `prepare` is scored.

    Modules (what their `state_dict` holds), optimisers, tensors, numpy arrays, numbers and text among a method's
    attributes, also in lists, tuples, deques and dicts with keys of text or int, are saved and restored where a
    training is interrupted; so keep what changes from step to step in such attributes. An object of the plugin's
    own that changes, a set that does, and any random generator are refused at the first save, by `RunError`.
    """

    options_type: ClassVar[type[Options]] = Options
    queries: ClassVar[Literal["single", "batch", "all"]] = "all"
    """What `calibrate` needs to see of the queries: one at a time, a batch of them, or all at once."""

    def __init__(self, options: Options) -> None:
        self.options = options

    def extend(self, model: DualEncoder) -> DualEncoder:
        """The model with parts added that stay in it: heads, low-rank updates. By default the model itself.

        Called on the starting model before training, and again whenever a checkpoint is to be loaded.
        """
        return model

    def prepare(self, model: DualEncoder, context: Context) -> None:  # noqa: B027 - optional
        """Once, before the first step: build a discriminator, freeze parameters."""

    def parameter_groups(self, model: DualEncoder, learning_rate: float) -> list[dict[str, Any]]:
        """Parameter groups for the optimiser: by default everything trainable in the model."""
        return [{"params": [p for p in model.parameters() if p.requires_grad], "lr": learning_rate}]

    def select(self, source: Batch, target: Batch, progress: Progress) -> torch.Tensor | None:
        """Which rows of the drawn source batch to train on, (B',) int64 from 0 to B − 1; None keeps all.

        A row may be kept twice.
        """
        return None

    def loss(self, source: Batch, target: Batch, progress: Progress) -> dict[str, torch.Tensor]:
        """Named scalar losses of one step; their sum is minimised, each is logged."""
        raise NotImplementedError(f"{type(self).__name__} is trained and defines no loss")

    def after_step(self, model: DualEncoder, progress: Progress) -> None:  # noqa: B027 - optional
        """After each optimiser step: update teachers and averages."""

    def candidates(self, model: DualEncoder) -> Mapping[str, Mapping[str, torch.Tensor]]:
        """The weights to choose from at a checkpoint, by name, each a state of the model; the last is the default.

        By default one without a name: the model's own. Interpolations and teachers are others.
        """
        return {"": model.state_dict()}

    def calibrate(self, images: NDArray[np.float32], texts: NDArray[np.float32]) -> Calibrated:
        """What is ranked in place of the (N, D) and (M, D) normalised features of a test split.

        Asked of methods of the setting `test_time` alone: the model that others return embeds test data, which may
        change nothing of it. Texts and images come without any pairing, each side in an order of its own, and are
        given back in it.
        """
        raise NotImplementedError(f"{type(self).__name__} has the setting test_time and defines no calibrate")
