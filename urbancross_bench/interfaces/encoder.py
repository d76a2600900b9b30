"""Dual encoders: an image and a text tower with one common embedding space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.interfaces.options import Options
from urbancross_bench.interfaces.weights import Weights

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ImageFormat:
    """What images are packed to: size×size pixels, squashed with PIL's filter of this name."""

    size: int
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"


@dataclass(frozen=True)
class SegmentUse:
    """How an encoder uses the segments of an image.

    most: how many of an image's segments it takes; those that show the largest area.
    tower: what encodes them. `start`: the image tower as it was first loaded, frozen. `checkpoint`: a tower of
        their own that came with the first weights, frozen. `pretrained`: the image tower as the grid's
        pre-training left it, frozen, so that pre-training itself sees no segments. `shared`: the image tower as it
        is at each step. Features of a frozen tower are computed once and kept.
    at_retrieval: an image's embedding is made with its segments. Otherwise they have a part in training alone.
    caption_aware: segments that may have been chosen by the image's own caption are used at retrieval too, where
        they say what the caption is; rows that do so are marked.
    """

    most: int
    tower: Literal["start", "checkpoint", "pretrained", "shared"]
    at_retrieval: bool
    caption_aware: bool = False


class EncoderOptions(Options):
    """Options of an encoder; they also answer, without torch, what planning has to know."""

    def image_format(self) -> ImageFormat | None:
        """How images must be packed for this encoder; None: it takes no pixels, but features stored before."""
        raise NotImplementedError(f"{type(self).__name__} does not define image_format()")

    def frozen(self) -> frozenset[str]:
        """The towers, of `image` and `text`, that never change.

        The harness runs them once for each different item, and hands their features, (B, D), to `encode_image` and
        `encode_text` in place of images and tokens. What a model adds to a frozen tower must at first leave its
        features as they are.
        """
        return frozenset()

    def trains(self) -> bool:
        """Whether pre-training can change anything; where it cannot, it is skipped in a grid that pre-trains."""
        return True

    def tower_identity(self) -> dict[str, Any]:
        """Of `identity()`, what decides the features of frozen towers; encoders that agree in it share them."""
        return self.identity()

    def segments(self) -> SegmentUse | None:
        """How segments are used; None: not at all."""
        return None

    def check_items(self, image_names: Set[str], captions: Set[str]) -> None:
        """Raise `DataError` where stored features do not fit the images and captions of a grid's domains.

        Asked once, when planning, where `image_format()` is None.
        """

    def weights(self) -> Weights:
        """The first weights; a file is hashed. Raises `UsageError` if it cannot be read."""
        raise NotImplementedError(f"{type(self).__name__} does not define weights()")


class DualEncoder(Protocol):
    """The model an encoder loads: a torch module with these members.

    D = `width` is that of the common space; features are returned as the towers give them, not normalised.
    """

    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def logit_scale(self) -> torch.nn.Parameter:
        """Natural logarithm of the factor on cosine similarities; one number."""
        ...

    @property
    def logit_bias(self) -> torch.nn.Parameter | None:
        """What SigLIP's sigmoid loss adds to scaled similarities, one number; None for the softmax loss."""
        ...

    @property
    def image_tower(self) -> torch.nn.Module:
        """All that makes an image's feature, projection included: to freeze, to copy, to group parameters by.

        Features come from `encode_image`, which knows how to call it.
        """
        ...

    @property
    def text_tower(self) -> torch.nn.Module:
        """All that makes a text's feature, projection included; see `image_tower`."""
        ...

    def blocks(self, tower: Literal["image", "text"]) -> list[torch.nn.Module]:
        """The residual blocks of a tower, from input to output. Raises `UsageError` where it has none."""
        ...

    def tokenize(self, texts: Sequence[str]) -> torch.Tensor:
        """(B, L) int64 token ids of B strings."""
        ...

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """(B, D) features of (B, 3, H, W) float images, normalised by `mean` and `std`.

        Of an encoder that uses segments it takes two arguments more; see `SegmentEncoder`.
        """
        ...

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        """(B, D) features of (B, L') token ids; L' may be cut to the longest text where that is exact."""
        ...

    def text_length(self, tokens: torch.Tensor) -> int:
        """To how many columns (B, L) `tokens` can be cut without changing any feature."""
        ...

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """As `torch.nn.Module`."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """As `torch.nn.Module`; a parameter that two modules share has one name."""
        ...

    def state_dict(self) -> Mapping[str, Any]:
        """As `torch.nn.Module`."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> Any:
        """As `torch.nn.Module`, strict."""
        ...

    def train(self, mode: bool = True) -> Any:
        """As `torch.nn.Module`."""
        ...

    def to(self, device: Any) -> Any:
        """As `torch.nn.Module`."""
        ...


class SegmentEncoder(DualEncoder, Protocol):
    """The model of an encoder that uses segments."""

    def encode_image(
        self,
        images: torch.Tensor,
        segments: torch.Tensor | None = None,
        present: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(B, D) features of images and, where the encoder uses them at retrieval, their segments.

        `segments`: (B, K, D) features that `encode_segment` gave. `present`: (B, K) bool, which of them are there;
        what stands at the others means nothing. None: segments are not at hand, as if no image had any.
        """
        ...

    def encode_segment(self, images: torch.Tensor) -> torch.Tensor:
        """(B, D) features of (B, 3, H, W) segments, by what encodes them as it is now, without any fusion."""
        ...


class Encoder(ABC):
    """An encoder plugin: builds a model from its options."""

    options_type: ClassVar[type[EncoderOptions]] = EncoderOptions

    def __init__(self, options: EncoderOptions) -> None:
        self.options = options

    @abstractmethod
    def load(self) -> DualEncoder:
        """The model with its first weights, on the CPU.

        Untrained parameters are drawn from torch's global generator, which the harness seeds.
        """

    def stored_features(
        self, image_names: Sequence[str], captions: Sequence[str]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(N, D) and (M, D) features of a split's images and captions, where `image_format()` is None.

        Raises `DataError` naming file and row for an image or caption that has none.
        """
        raise NotImplementedError(f"{type(self).__name__} stores no features")
