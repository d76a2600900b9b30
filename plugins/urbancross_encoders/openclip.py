"""OpenCLIP models, made and loaded by open_clip itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from urbancross_bench.data.readers import data_path
from urbancross_bench.errors import UsageError
from urbancross_bench.interfaces import DualEncoder, Encoder
from urbancross_encoders.options import OWN_ARCHITECTURES, OpenClipOptions

open_clip.add_model_config(OWN_ARCHITECTURES)

Tokenizer = Callable[[list[str]], Tensor]


class OpenClip(Encoder):
    """Any open_clip architecture."""

    options_type = OpenClipOptions

    def load(self) -> DualEncoder:
        """Raises UsageError where the weights cannot be found or do not fit the architecture."""
        options = cast(OpenClipOptions, self.options)
        source = options.pretrained or (str(data_path(options.checkpoint)) if options.checkpoint else None)
        known = open_clip.list_pretrained_tags_by_model(options.architecture)
        if options.pretrained and options.pretrained not in known:
            raise UsageError(
                f"encoder 'openclip': {options.architecture} has no weights tagged {options.pretrained!r}; "
                f"known: {', '.join(known) or 'none'}"
            )
        try:
            model = open_clip.create_model(
                options.architecture,
                pretrained=source,
                pretrained_text=False,  # some text towers would else fetch weights that no option names
                pretrained_image=False,
            )
        except (RuntimeError, OSError, KeyError) as error:
            raise UsageError(
                f"encoder 'openclip' cannot load {source!r} into {options.architecture}: {error}"
            ) from error
        tokenizer = open_clip.get_tokenizer(options.architecture)
        return OpenClipModel(model, tokenizer, options.config, options.orientations)


class OpenClipModel(nn.Module):
    """The `interfaces.DualEncoder` around an open_clip model."""

    def __init__(self, clip: Any, tokenizer: Tokenizer, config: Mapping[str, Any], orientations: int) -> None:
        super().__init__()
        # Packed images arrive with their channels last; convolutions run a third faster if weights match.
        self.clip = clip.to(memory_format=torch.channels_last)
        self.width = int(config["embed_dim"])
        self._tokenizer = tokenizer
        self._orientations = orientations
        self._vocabulary = int(config["text_cfg"].get("vocab_size", 49408))
        preprocessing = open_clip.get_model_preprocess_cfg(clip)
        self.mean, self.std = tuple(preprocessing["mean"]), tuple(preprocessing["std"])
        # A causal tower that pools its end token: what stands after that token cannot change the feature.
        self._cuttable = getattr(clip, "attn_mask", None) is not None and clip.text_pool_type == "argmax"

    @property
    def logit_scale(self) -> nn.Parameter:
        """Natural logarithm of the factor on cosine similarities."""
        return cast(nn.Parameter, self.clip.logit_scale)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """(B, L) token ids, folded where the architecture's vocabulary is smaller than the tokenizer's."""
        tokens: Tensor = self._tokenizer(list(texts))
        size = getattr(self._tokenizer, "vocab_size", self._vocabulary)
        return tokens if size <= self._vocabulary else _folded(tokens, size, self._vocabulary)

    def text_length(self, tokens: Tensor) -> int:
        """Up to the last end token, where the tower allows it."""
        return int(tokens.argmax(dim=1).max()) + 1 if self._cuttable else tokens.shape[1]

    def encode_image(self, images: Tensor) -> Tensor:
        """(B, D) features; from above no side is up, so that all eight orientations may have a say."""
        if self.training or self._orientations == 1:
            features: Tensor = self.clip.encode_image(images)
            return features
        views = [images.rot90(turn, (2, 3)).flip(dims) for turn in range(4) for dims in ((), (3,))]
        return torch.stack([F.normalize(self.clip.encode_image(view), dim=1) for view in views]).mean(dim=0)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """(B, D) features."""
        features: Tensor = _encode_cut_text(self.clip, tokens) if self._cuttable else self.clip.encode_text(tokens)
        return features


def _encode_cut_text(clip: Any, tokens: Tensor) -> Tensor:
    """What `clip.encode_text` computes, for tokens cut to any length, which it does not take itself."""
    length = tokens.shape[1]
    dtype = clip.transformer.get_cast_dtype()
    x = clip.token_embedding(tokens).to(dtype) + clip.positional_embedding[:length].to(dtype)
    x = clip.ln_final(clip.transformer(x, attn_mask=clip.attn_mask[:length, :length]))
    x = x[torch.arange(len(x), device=x.device), tokens.argmax(dim=1)]
    projection = clip.text_projection
    features: Tensor = projection(x) if isinstance(projection, nn.Linear) else x @ projection
    return features


def _folded(tokens: Tensor, size: int, vocabulary: int) -> Tensor:
    """Word ids modulo a small vocabulary; padding stays 0, start and end keep the two highest ids.

    A text tower with a small vocabulary of its own trains in a fraction of the time, and a few words share an
    embedding. The end token must be the highest id, since that is where open_clip pools.
    """
    words = 1 + tokens % (vocabulary - 3)
    special = tokens - size + vocabulary
    return torch.where(tokens >= size - 2, special, torch.where(tokens == 0, tokens, words))
