"""Selectors: which candidate checkpoint of a run is scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
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
class Candidate:
    """One checkpoint. `validation` holds the splits the selector declared to need, and no others:
    `source_val` one entry per source domain, `target_val` one."""

    step: int
    validation: Mapping[str, Sequence[Features]]


class Selector(ABC):
    """A selector plugin: a pure function of validation features. Test data never reaches it."""

    options_type: ClassVar[type[Options]] = Options

    def __init__(self, options: Options) -> None:
        self.options = options

    @abstractmethod
    def choose(self, candidates: Sequence[Candidate]) -> int:
        """The index of the chosen one of `candidates`, which are in order of their steps."""
