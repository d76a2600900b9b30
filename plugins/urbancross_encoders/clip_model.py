"""What the models of the CLIP family have in common, whichever library builds them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from urbancross_bench.errors import UsageError, some
from urbancross_bench.modelling.checkpoints import ReadCheckpoint, freeze, read_checkpoint
from urbancross_bench.modelling.heads import head
from urbancross_encoders.options import ClipOptions

# Where a tower keeps its blocks: open_clip's own, timm's, then transformers' in its various models.
_BLOCKS = (
    "transformer.resblocks",
    "trunk.blocks",
    "trunk.stages",
    "trunk.layers",
    "encoder.layers",
    "model.encoder.layers",
    "transformer.encoder.layer",
    "transformer.encoder.layers",
    "transformer.block",
    "transformer.layers",
)
_RESNET_STAGES = ("layer1", "layer2", "layer3", "layer4")


class ClipModel(nn.Module, ABC):
    """The part of an `interfaces.DualEncoder` that does not depend on the library of `clip`."""

    def __init__(self, clip: nn.Module, width: int, options: ClipOptions) -> None:
        super().__init__()
        # Packed images arrive with their channels last; convolutions run a third faster if weights match.
        self.clip: Any = clip.to(memory_format=torch.channels_last)
        self.width = width
        self.mean: tuple[float, ...] = options.preprocessing.mean
        self.std: tuple[float, ...] = options.preprocessing.std
        self._orientations = options.orientations
        freeze(clip, options.freeze)
        self._frozen = options.frozen()
        for tower in self._frozen:
            (self.image_tower if tower == "image" else self.text_tower).requires_grad_(False)
        self.image_head, self.text_head = (
            head(options.head if side in self._frozen else "none", width, width, bottleneck=options.bottleneck)
            for side in ("image", "text")
        )
        factors = {id(self.logit_scale), id(self.logit_bias)}
        self.trains = any(p.requires_grad for p in self.parameters() if id(p) not in factors)

    @property
    def logit_scale(self) -> nn.Parameter:
        """Natural logarithm of the factor on cosine similarities."""
        return cast(nn.Parameter, self.clip.logit_scale)

    @property
    def logit_bias(self) -> nn.Parameter | None:
        """What SigLIP adds to scaled similarities."""
        return cast("nn.Parameter | None", getattr(self.clip, "logit_bias", None))

    @property
    @abstractmethod
    def image_tower(self) -> nn.Module:
        """See `interfaces.DualEncoder`."""

    @property
    @abstractmethod
    def text_tower(self) -> nn.Module:
        """See `interfaces.DualEncoder`."""

    def blocks(self, tower: Literal["image", "text"]) -> list[nn.Module]:
        """From input to output; of a residual network, the blocks of its four stages."""
        module = self.image_tower if tower == "image" else self.text_tower
        if all(hasattr(module, stage) for stage in _RESNET_STAGES):
            return [block for stage in _RESNET_STAGES for block in getattr(module, stage)]
        for path in _BLOCKS:
            found: Any = module
            for name in path.split("."):
                found = getattr(found, name, None)
            if isinstance(found, (nn.ModuleList, nn.Sequential)):
                return [part for block in found for part in _parts(block)]
        raise UsageError(f"the {tower} tower, a {type(module).__name__}, has no list of blocks that is known")

    @abstractmethod
    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """See `interfaces.DualEncoder`."""

    @abstractmethod
    def text_length(self, tokens: Tensor) -> int:
        """See `interfaces.DualEncoder`."""

    @abstractmethod
    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """(B, D) features of (B, L) tokens."""

    def encode_text(self, tokens: Tensor) -> Tensor:
        """(B, D) features of tokens, or of the features that a frozen tower made of them."""
        features: Tensor = self.text_head(tokens if tokens.is_floating_point() else self.encode_tokens(tokens))
        return features

    @abstractmethod
    def encode_view(self, images: Tensor) -> Tensor:
        """(B, D) features of images as they stand."""

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, D) features of pixels, or of the features that a frozen tower made of them."""
        features: Tensor = self.image_head(images if images.ndim == 2 else self.oriented(self.encode_view, images))
        return features

    def oriented(self, encode: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """(B, D) features that `encode` gives of pixels, outside training as means over the orientations.

        From above no side is up, so that all eight may have a say: by their directions, one as much as another.
        Times their mean length: a head with a bias meets the scale that it was trained on.
        """
        if self.training or self._orientations == 1:
            return encode(images)
        views = [images.rot90(turn, (2, 3)).flip(dims) for turn in range(4) for dims in ((), (3,))]
        features = torch.stack([encode(view) for view in views])
        lengths: Tensor = features.norm(dim=2).mean(dim=0)
        return F.normalize(features, dim=2).mean(dim=0) * lengths[:, None]

    def train(self, mode: bool = True) -> ClipModel:
        """As `torch.nn.Module`, but a frozen batch normalisation keeps its running statistics too.

        Raises UsageError where there is nothing to train: no method then can do what its row would say.
        """
        if mode and not self.trains:
            raise UsageError(
                "all of the encoder is frozen, by frozen_towers or freeze, and there is nothing to train; take "
                "head=linear or head=residual with frozen_towers, or a grid whose pretraining and budget have "
                "steps: 0"
            )
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm) and module.affine and not module.weight.requires_grad:
                module.eval()
        return self


def read_weights(options: ClipOptions) -> ReadCheckpoint | None:
    """The first weights, out of one file or several shards; None for random ones.

    Raises UsageError for files that cannot be read, and for shards that are not as their index says.
    """
    if not options.weight_files:
        return None
    parts = [read_checkpoint(path, unsafe_pickle=options.unsafe_pickle) for path in options.weight_files]
    for path, part in zip(options.weight_files, parts, strict=True) if options.weight_map else ():
        _expect_mapped(path, part, options.weight_map)
    state = {name: value for part in parts for name, value in part.state.items()}
    return ReadCheckpoint(state, parts[0].segment_state, parts[0].layout)


def _expect_mapped(shard: Path, part: ReadCheckpoint, weight_map: Mapping[str, str]) -> None:
    """Raise UsageError for a tensor that the index has in another file, so that no two files hold the same."""
    taken_off = "".join(found for found in part.layout.split(", ") if found.endswith("."))
    for name in part.state:
        there = weight_map.get(taken_off + name)
        if there != shard.name:
            said = f"in {there}" if there else "in no file"
            raise UsageError(
                f"{shard} holds {taken_off + name!r}, which the index beside it has {said}; fetch index and files "
                "again, of one revision"
            )


def named(files: Sequence[Path]) -> str:
    """The files of the first weights, for a message."""
    return some([*map(str, files)], 1)


def _parts(block: nn.Module) -> list[nn.Module]:
    """A stage is its blocks, whichever way it is written."""
    inner = getattr(block, "blocks", None)
    return list(inner) if isinstance(inner, (nn.ModuleList, nn.Sequential)) else [block]
