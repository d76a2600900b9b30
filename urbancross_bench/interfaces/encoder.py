"""Dual encoders: an image and a text tower with one common embedding space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from urbancross_bench.interfaces.options import Options
from urbancross_bench.interfaces.weights import Weights

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ImageFormat:
    """What images are packed to: size×size pixels, squashed with PIL's filter of this name."""

    size: int
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"


class EncoderOptions(Options):
    """Options of an encoder; they also answer, without torch, what planning has to know."""

    def image_format(self) -> ImageFormat:
        """How images must be packed for this encoder."""
        raise NotImplementedError(f"{type(self).__name__} does not define image_format()")

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
        """Natural logarithm of the factor on cosine similarities; a scalar."""
        ...

    def tokenize(self, texts: Sequence[str]) -> torch.Tensor:
        """(B, L) int64 token ids of B strings."""
        ...

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """(B, D) features of (B, 3, H, W) float images, normalised by `mean` and `std`."""
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
