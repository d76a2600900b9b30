"""Captioners: what writes captions for images from their pixels, their geographic tags, or both."""

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
class Subject:
    """One image to write about.

    `pixels` is H×W×3 uint8 RGB, None for a captioner that does not ask for pixels. `tags` is the text of its
    geographic tags, empty where it has none. `seed` belongs to the image: draws made with it repeat.
    """

    name: str
    tags: str
    seed: int
    pixels: NDArray[np.uint8] | None = None


class CaptionerOptions(Options):
    """Options of a captioner; they also answer, without torch, what it asks for and where its weights come from.

    `sees_pixels`: whether its subjects come with pixels.
    """

    sees_pixels: ClassVar[bool] = True

    def weights(self) -> Weights | None:
        """The weights, files hashed; None for a captioner without any. Raises `UsageError`."""
        return None


class Captioner(ABC):
    """A captioner plugin."""

    options_type: ClassVar[type[CaptionerOptions]] = CaptionerOptions

    def __init__(self, options: CaptionerOptions) -> None:
        self.options = options

    def load(self, device: str) -> None:  # noqa: B027 - optional
        """Build the model on a torch device; called once, before `describe`. Raises `UsageError`."""

    @abstractmethod
    def describe(self, subjects: Sequence[Subject]) -> list[str]:
        """One caption per subject. Where nothing can be said of one, raises `DataError` naming it.

        Captions must depend on the subjects of this call alone, never on those of calls before it. After an error
        each subject of the call is asked about alone, so that it costs one image. torch is seeded before a call.
        """
