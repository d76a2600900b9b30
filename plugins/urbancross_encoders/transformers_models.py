"""CLIP, SigLIP and SigLIP 2 of transformers: its models and tokenizers, our reading of weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    CLIPConfig,
    CLIPModel,
    Siglip2Config,
    Siglip2Model,
    SiglipConfig,
    SiglipModel,
)

from urbancross_bench.errors import UsageError
from urbancross_bench.interfaces import DualEncoder, Encoder
from urbancross_bench.modelling.checkpoints import fitting
from urbancross_encoders.clip_model import ClipModel, named, read_weights
from urbancross_encoders.transformers_options import TransformersOptions
from urbancross_encoders.weight_files import unchanged

_CLASSES: dict[str, tuple[Any, Any]] = {
    "clip": (CLIPConfig, CLIPModel),
    "siglip": (SiglipConfig, SiglipModel),
    "siglip2": (Siglip2Config, Siglip2Model),
}
# The id of the end token in configs that transformers wrote before it knew the right one; it pools the highest id.
_OLD_END = 2


class Transformers(Encoder):
    """CLIP, SigLIP or SigLIP 2, from a folder or the hub."""

    options_type = TransformersOptions

    def load(self) -> DualEncoder:
        """Raises UsageError where the files do not make a model.

        RunError where they are not those that were hashed when planning.
        """
        options = cast(TransformersOptions, self.options)
        config_type, model_type = _CLASSES[options.family]
        files = options.weight_files  # where they are missing, that is said before anything is built
        try:
            # In single precision whatever the config says: what is right for serving is not for training.
            clip = model_type(config_type.from_pretrained(options.folder)).float()
            tokenizer = AutoTokenizer.from_pretrained(options.folder, local_files_only=True)
        except (RuntimeError, OSError, KeyError, ValueError, TypeError, AttributeError, ImportError) as error:
            raise UsageError(f"encoder 'transformers' cannot build {options.model}: {error}") from error
        _expect_fit(tokenizer, clip.config.text_config, options)
        # As all of them were trained, whatever a tokenizer's file says: words have their places from the left.
        tokenizer.padding_side = tokenizer.truncation_side = "right"
        with unchanged(options.hashed):
            read = read_weights(options)
            assert read is not None, "there are no random weights here"
            fitted = fitting(
                # Buffers of positions that transformers once saved and no longer has.
                {name: v for name, v in read.state.items() if not name.endswith("embeddings.position_ids")},
                clip.state_dict(),
                f"encoder 'transformers' cannot load {named(files)}",
                allow_missing=options.allow_missing,
                allow_surplus=options.allow_surplus,
            )
            clip.load_state_dict(fitted, strict=False)
        return (PatchedModel if options.family == "siglip2" else TransformersModel)(clip, tokenizer, options)


class TransformersModel(ClipModel):
    """The `interfaces.DualEncoder` around a CLIPModel or SiglipModel."""

    def __init__(self, clip: Any, tokenizer: Any, options: TransformersOptions) -> None:
        projection = getattr(clip, "visual_projection", None)
        width = projection.out_features if projection is not None else clip.config.vision_config.hidden_size
        super().__init__(clip, int(width), options)
        self._tokenizer = tokenizer
        # SigLIP, 2 as well, was trained on texts in lower case. Not every tokenizer that stands beside its weights
        # sees to it: that of a SigLIP 2 of one resolution is Gemma's.
        self._lowers = options.family != "clip"
        self._length = options.context_length
        # CLIP's text tower is causal and pools its end token: what stands after it cannot change the feature.
        # SigLIP's sees all tokens at once and pools the last, padding or not.
        self._end: int | None = self.clip.config.text_config.eos_token_id if options.family == "clip" else None

    @property
    def image_tower(self) -> nn.Module:
        """The vision model and, for CLIP, its projection, as a ModuleDict of `model` and `projection`."""
        return _tower(self.clip, "vision_model", "visual_projection")

    @property
    def text_tower(self) -> nn.Module:
        """The text model and, for CLIP, its projection, as a ModuleDict of `model` and `projection`."""
        return _tower(self.clip, "text_model", "text_projection")

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """(B, L) token ids, padded to the context length."""
        found = self._tokenizer(
            [text.lower() if self._lowers else text for text in texts],
            padding="max_length",
            truncation=True,
            max_length=self._length,
            return_tensors="pt",
        )
        tokens: Tensor = found["input_ids"]
        return tokens

    def text_length(self, tokens: Tensor) -> int:
        """Up to the last end token for CLIP; all for SigLIP."""
        if self._end is None:
            return tokens.shape[1]
        ends = tokens if self._end == _OLD_END else (tokens == self._end).int()
        return int(ends.argmax(dim=1).max()) + 1

    def encode_view(self, images: Tensor) -> Tensor:
        """(B, D) features of images as they stand."""
        return _pooled(self.clip.get_image_features(pixel_values=images))

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """(B, D) features, without an attention mask: none of these models was trained with one."""
        return _pooled(self.clip.get_text_features(input_ids=tokens))


class PatchedModel(TransformersModel):
    """SigLIP 2 of any resolution takes patches; a square image is all of them."""

    def encode_view(self, images: Tensor) -> Tensor:
        """(B, D) features of images as they stand."""
        size = self.clip.config.vision_config.patch_size
        count, channels, height, width = images.shape
        down, across = height // size, width // size
        cut = images.reshape(count, channels, down, size, across, size).permute(0, 2, 4, 3, 5, 1)
        patches = cut.reshape(count, down * across, size * size * channels)
        return _pooled(
            self.clip.get_image_features(
                pixel_values=patches,
                pixel_attention_mask=torch.ones(patches.shape[:2], dtype=torch.int32, device=images.device),
                spatial_shapes=torch.tensor([[down, across]] * count, device=images.device),
            )
        )


def _expect_fit(tokenizer: Any, config: Any, options: TransformersOptions) -> None:
    """Hold that the text tower has an embedding of every token, and pools where the tokenizer ends a text."""
    file, said = options.tokenizer_files[0], options.folder / "config.json"
    highest = max(tokenizer.get_vocab().values())
    if highest >= config.vocab_size:
        raise UsageError(
            f"encoder 'transformers': {file} has a token {highest}, and by {said} the model has a vocabulary of "
            f"{config.vocab_size}; take both from the same revision"
        )
    # Of a text without the model's end token the first place is pooled, which is the same of all texts.
    end = tokenizer("")["input_ids"][-1:]
    if options.family == "clip" and config.eos_token_id not in (_OLD_END, *end):
        raise UsageError(
            f"encoder 'transformers': by {file} texts end with the token {end[0] if end else None}, by {said} "
            f"(eos_token_id) with {config.eos_token_id}; take both from the same revision"
        )


def _tower(clip: Any, model: str, projection: str) -> nn.Module:
    if not hasattr(clip, projection):
        return cast(nn.Module, getattr(clip, model))
    return nn.ModuleDict({"model": getattr(clip, model), "projection": getattr(clip, projection)})


def _pooled(output: Any) -> Tensor:
    """Since transformers 5 a feature comes inside an output of the tower."""
    features: Tensor = output if isinstance(output, Tensor) else output.pooler_output
    return features
