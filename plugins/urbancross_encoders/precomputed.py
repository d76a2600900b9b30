"""Features of any model from files: what is closed, huge, or of another code base enters the same grids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from urbancross_bench.errors import UsageError
from urbancross_bench.evaluation.distances import words
from urbancross_bench.interfaces import DualEncoder, Encoder
from urbancross_bench.modelling.heads import head
from urbancross_encoders.precomputed_options import PrecomputedOptions
from urbancross_encoders.weight_files import unchanged


class Precomputed(Encoder):
    """Rows of files, found by the names of images and the words of captions, and a head on either side."""

    options_type = PrecomputedOptions

    def load(self) -> DualEncoder:
        """The heads. Raises UsageError where features of several widths have no common one."""
        options = cast(PrecomputedOptions, self.options)
        return PrecomputedModel(options.image_rows().width, options.text_rows().width, options)

    def stored_features(
        self, image_names: Sequence[str], captions: Sequence[str]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(N, D) and (M, D') in single precision. RunError if a file is not the one that was hashed."""
        options = cast(PrecomputedOptions, self.options)
        with unchanged(options.hashed):
            return options.image_rows().take(image_names), options.text_rows().take(captions)


class PrecomputedModel(nn.Module):
    """The `interfaces.DualEncoder` whose towers are heads on stored features."""

    def __init__(self, image_width: int, text_width: int, options: PrecomputedOptions) -> None:
        super().__init__()
        self.width = options.common_width(image_width, text_width)
        self.mean: tuple[float, ...] = ()  # there are no pixels
        self.std: tuple[float, ...] = ()
        self._head = options.head
        self.image_tower = head(options.head, image_width, self.width, bottleneck=options.bottleneck)
        self.text_tower = head(options.head, text_width, self.width, bottleneck=options.bottleneck)
        self.logit_scale = nn.Parameter(torch.tensor(options.logit_scale))

    @property
    def logit_bias(self) -> nn.Parameter | None:
        """None."""
        return None

    def blocks(self, tower: Literal["image", "text"]) -> list[nn.Module]:
        """Raises UsageError: what made the features is not here."""
        raise UsageError(f"encoder 'precomputed' has no {tower} tower of blocks; its features come from files")

    def train(self, mode: bool = True) -> Self:
        """Raises UsageError where there is nothing to train: no method then can do what its row would say."""
        if mode and self._head == "none":
            raise UsageError(
                "encoder 'precomputed' with head=none has nothing to train; take head=linear or head=residual, or "
                "a grid whose pretraining and budget have steps: 0"
            )
        return super().train(mode)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """(B, L) numbers of words, from 1 in the order they come; 0 pads. They serve to compare captions alone."""
        numbers: dict[str, int] = {}
        rows = [[numbers.setdefault(word, len(numbers) + 1) for word in words(text)] for text in texts]
        tokens = torch.zeros(len(rows), max(1, *map(len, rows)) if rows else 1, dtype=torch.int64)
        for row, found in zip(tokens, rows, strict=True):
            row[: len(found)] = torch.tensor(found, dtype=torch.int64)
        return tokens

    def text_length(self, tokens: Tensor) -> int:
        """All of them."""
        return tokens.shape[1]

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, width) of (B, D) stored features."""
        features: Tensor = self.image_tower(images)
        return features

    def encode_text(self, tokens: Tensor) -> Tensor:
        """(B, width) of (B, D') stored features, which come in the place of tokens."""
        features: Tensor = self.text_tower(tokens)
        return features
