"""Trainable heads on features that are stored or made by a tower that never changes.

A head that keeps the width leaves features as they are at first, bit for bit and at any precision: what it learns
is added to them. So weight decay pulls it back to the features, where a plain layer would be pulled to zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Self, cast

import torch.nn.functional as F
from torch import Tensor, nn

from urbancross_bench.errors import UsageError
from urbancross_bench.interfaces.encoder import DualEncoder, SegmentEncoder

HeadKind = Literal["none", "linear", "residual"]


def head(kind: HeadKind, width: int, out: int, *, bottleneck: int) -> nn.Module:
    """A head from (B, width) to (B, out) features.

    Raises UsageError for another width by anything but `linear`. Random parameters come from torch's global
    generator.
    """
    if kind == "none" and width == out:
        return nn.Identity()
    if kind == "linear":
        return LinearHead(width) if width == out else projection(width, out)
    if kind == "residual" and width == out:
        return ResidualHead(width, bottleneck)
    raise UsageError(f"head={kind} keeps the width of features, {width}, and cannot give {out}; take head=linear")


def masked_mean(vectors: Tensor, present: Tensor) -> Tensor:
    """(B, D) unit vectors along the mean of those of (B, K, D) unit vectors that are there; 0 where none is."""
    return F.normalize((vectors * present[..., None]).sum(dim=1), dim=1)


class LinearHead(nn.Module):
    """x + Δx + b with a square Δ: any affine map, the identity at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.change = _zero(nn.Linear(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) to (B, D)."""
        moved: Tensor = x + self.change(x)
        return moved


class ResidualHead(nn.Module):
    """x + up(gelu(down(x))), the identity at first, since `up` starts at zero.

    The adapter of Houlsby et al. 2019 (arXiv 1902.00751, section 2.1), which there stands inside a transformer's
    layers and starts near zero.
    """

    def __init__(self, width: int, bottleneck: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, bottleneck)
        self.up = _zero(nn.Linear(bottleneck, width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) to (B, D)."""
        moved: Tensor = x + self.up(F.gelu(self.down(x)))
        return moved


def projection(width: int, out: int) -> nn.Linear:
    """A random map to another width that keeps lengths and angles as well as it can: semi-orthogonal, bias 0."""
    layer = nn.Linear(width, out)
    nn.init.orthogonal_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def _zero(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class Around(nn.Module):
    """What an `interfaces.DualEncoder` around another of the same width leaves to it; its state is `base.*`."""

    def __init__(self, base: DualEncoder) -> None:
        super().__init__()
        self.base = base
        self.width, self.mean, self.std = base.width, base.mean, base.std

    @property
    def logit_scale(self) -> nn.Parameter:
        """See `interfaces.DualEncoder`."""
        return self.base.logit_scale

    @property
    def logit_bias(self) -> nn.Parameter | None:
        """See `interfaces.DualEncoder`."""
        return self.base.logit_bias

    @property
    def image_tower(self) -> nn.Module:
        """See `interfaces.DualEncoder`."""
        return self.base.image_tower

    @property
    def text_tower(self) -> nn.Module:
        """See `interfaces.DualEncoder`."""
        return self.base.text_tower

    def blocks(self, tower: Literal["image", "text"]) -> list[nn.Module]:
        """See `interfaces.DualEncoder`."""
        return self.base.blocks(tower)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """See `interfaces.DualEncoder`."""
        return self.base.tokenize(texts)

    def text_length(self, tokens: Tensor) -> int:
        """See `interfaces.DualEncoder`."""
        return self.base.text_length(tokens)


class WithHeads(Around):
    """The `interfaces.DualEncoder` around another of the same width, with a head on either side.

    Names of its state: `base.*`, `image_head.*`, `text_head.*`. A head maps (B, D) to (B, D). Where an encoder
    uses segments, it gets what they and the image were fused to; segments alone pass through none.
    """

    def __init__(self, base: DualEncoder, image_head: nn.Module, text_head: nn.Module) -> None:
        super().__init__(base)
        self.image_head = image_head
        self.text_head = text_head

    def encode_text(self, tokens: Tensor) -> Tensor:
        """See `interfaces.DualEncoder`."""
        features: Tensor = self.text_head(self.base.encode_text(tokens))
        return features

    def encode_segment(self, images: Tensor) -> Tensor:
        """See `interfaces.SegmentEncoder`."""
        return cast(SegmentEncoder, self.base).encode_segment(images)

    def encode_image(
        self, images: Tensor, segments: Tensor | None = None, present: Tensor | None = None
    ) -> Tensor:
        """See `interfaces.SegmentEncoder`."""
        if segments is None:
            features = self.base.encode_image(images)
        else:
            features = cast(SegmentEncoder, self.base).encode_image(images, segments, present)
        moved: Tensor = self.image_head(features)
        return moved

    def train(self, mode: bool = True) -> Self:
        """As `torch.nn.Module`; a base that learns no more than its scale stays as when it is tested."""
        self.training = mode
        self.image_head.train(mode)
        self.text_head.train(mode)
        factors = {id(self.base.logit_scale), id(self.base.logit_bias)}
        self.base.train(mode and any(p.requires_grad for p in self.base.parameters() if id(p) not in factors))
        return self
