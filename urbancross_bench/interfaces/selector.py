"""Selectors: which candidate checkpoint of a run is scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.errors import FirewallError
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


class NotShown:
    """In place of what a selector does not declare to need: whatever it does with it raises FirewallError."""

    def __init__(self, need: str) -> None:
        self._need = need

    def _refuse(self, *_: Any) -> Any:
        raise FirewallError(f"{self._need} is not shown here: register the selector with needs={{{self._need!r}}}")

    __iter__ = __len__ = __getitem__ = __bool__ = _refuse

    def __repr__(self) -> str:
        return f"{self._need}, not shown"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what Python asks of any object
            raise AttributeError(name)
        self._refuse()


@dataclass(frozen=True, eq=False)
class Candidate:
    """One checkpoint.

    name: which of the method's candidates of this step, empty where it has one. trial: which set of options of a
    search, 0 for those the grid wrote. scale: the factor of the model's loss on cosine similarities.
    source_val: of each source domain. target_val: of the target, with its pairs. target_unpaired: the same
    features without. Of these, what a selector does not declare to need raises FirewallError when it is used.
    """

    step: int
    name: str
    trial: int
    scale: float
    source_val: Sequence[Features] = field(default_factory=cast(Any, partial(NotShown, "source_val")))
    target_val: Features = field(default_factory=cast(Any, partial(NotShown, "target_val")))
    target_unpaired: UnpairedFeatures = field(default_factory=cast(Any, partial(NotShown, "target_unpaired")))


class Selector(ABC):
    """A selector plugin: a pure function of validation features. Test data never reaches it."""

    options_type: ClassVar[type[Options]] = Options

    def __init__(self, options: Options) -> None:
        self.options = options

    @abstractmethod
    def scores(self, candidates: Sequence[Candidate]) -> Sequence[float]:
        """A number per candidate, in order of trial and step; the greatest is chosen, the earliest of equals."""
