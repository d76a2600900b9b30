"""Selectors: which candidate checkpoint of a run is scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.interfaces.options import Options


@dataclass(frozen=True, eq=False)
class Features:
    """The features of one split: images (N, D), texts (M, D), and the image of each text, (M,) int64."""

    images: NDArray[np.float32]
    texts: NDArray[np.float32]
    image_of_text: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class UnpairedFeatures:
    """Images (N, D) and texts (M, D) as the towers gave them, each side in an order of its own."""

    images: NDArray[np.float32]
    texts: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Candidate:
    """One checkpoint.

    name: which of the method's candidates of this step, empty where it has one. trial: which set of options of a
    search, 0 for those the grid wrote. scale: the factor of the model's loss on cosine similarities.
    source_val: of each source domain. target_val: of the target, with its pairs. target_unpaired: the same
    features without. Of these, what a selector does not declare to need is empty or None.
    """

    step: int
    name: str
    trial: int
    scale: float
    source_val: Sequence[Features] = ()
    target_val: Features | None = None
    target_unpaired: UnpairedFeatures | None = None


class Selector(ABC):
    """A selector plugin: a pure function of validation features. Test data never reaches it."""

    options_type: ClassVar[type[Options]] = Options

    def __init__(self, options: Options) -> None:
        self.options = options

    @abstractmethod
    def scores(self, candidates: Sequence[Candidate]) -> Sequence[float]:
        """A number per candidate, in order of trial and step; the greatest is chosen, the earliest of equals."""
