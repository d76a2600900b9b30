"""Segmenters: models that cut an image into masks, without being told what to look for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.interfaces.options import Options
from urbancross_bench.interfaces.weights import Weights


@dataclass(frozen=True, eq=False)
class Mask:
    """One region of an image of H×W pixels.

    `pixels` is (H, W) bool. `quality` is the model's own estimate of its overlap with the true region (SAM's
    predicted IoU), `stability` how little it changes with the threshold it was cut at; 1 is best, an estimate may
    overshoot it. None where the model says nothing.
    """

    pixels: NDArray[np.bool_]
    quality: float | None = None
    stability: float | None = None


class SegmenterOptions(Options):
    """Options of a segmenter; they also answer, without torch, where its weights come from.

    `libraries`: the distributions that compute its masks. With other versions of these, no store is continued.
    """

    libraries: ClassVar[Sequence[str]] = ()

    def weights(self) -> Weights:
        """The weights; a file is hashed. Raises `UsageError` if it cannot be read."""
        raise NotImplementedError(f"{type(self).__name__} does not define weights()")


class Segmenter(ABC):
    """A segmenter plugin."""

    options_type: ClassVar[type[SegmenterOptions]] = SegmenterOptions

    def __init__(self, options: SegmenterOptions) -> None:
        self.options = options

    @abstractmethod
    def load(self, device: str) -> None:
        """Build the model on a torch device; called once, before `segment`.

        Raises `UsageError` for weights that are not there or do not fit. Untrained parameters are drawn from
        torch's global generator, which the harness seeds.
        """

    @abstractmethod
    def segment(self, images: Sequence[NDArray[np.uint8]]) -> list[list[Mask]]:
        """The masks of each H×W×3 RGB image, in any order, overlapping or not; none is a valid answer.

        What an image gets must depend on that image alone.
        """
