"""Models of open_clip: its architectures and towers, our reading of weights."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any, cast

import open_clip
import torch
from open_clip.convert import convert_state_dict
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from urbancross_bench.errors import UsageError
from urbancross_bench.interfaces import DualEncoder, Encoder
from urbancross_bench.modelling.checkpoints import ReadCheckpoint, fitting
from urbancross_encoders import last_block
from urbancross_encoders.clip_model import ClipModel, named, read_weights
from urbancross_encoders.options import OWN_ARCHITECTURES, OpenClipOptions
from urbancross_encoders.weight_files import unchanged

open_clip.add_model_config(OWN_ARCHITECTURES)

Tokenizer = Callable[[list[str]], Tensor]
_TEXT = "text."
_DECODER = "text_decoder"  # of CoCa, which captions by it: no part of any embedding
_CLIP_TOKENS = 49408  # that `open_clip.tokenize` knows


class OpenClip(Encoder):
    """Any open_clip architecture."""

    options_type = OpenClipOptions

    def load(self) -> DualEncoder:
        """Raises UsageError where the weights cannot be found or do not fit the architecture.

        RunError where they are not those that were hashed when planning.
        """
        options = cast(OpenClipOptions, self.options)
        files = options.weight_files  # where they are missing, that is said before anything is built
        clip = _build(options)
        with unchanged(options.hashed):
            read = read_weights(options)
            if read is not None:
                where = f"encoder 'openclip' cannot load {named(files)} into {options.architecture}"
                _take(clip, read, options, where)
                self.take_segment_tower(clip, read)
        return OpenClipModel(clip, *_tokenizer(options), options)

    def take_segment_tower(self, clip: nn.Module, read: ReadCheckpoint) -> None:
        """What becomes of the segment tower that a checkpoint may hold beside `clip`: told to be left out."""
        if read.segment_state is not None:
            name = cast(OpenClipOptions, self.options).weight_files[0].name
            print(
                f"{name}: {len(read.segment_state)} tensors of a segment tower are left out; "
                "sam_fused[tower=checkpoint,…] takes it"
            )


class OpenClipModel(ClipModel):
    """The `interfaces.DualEncoder` around an open_clip model with a text tower of its own (`CustomTextCLIP`)."""

    def __init__(self, clip: nn.Module, tokenizer: Tokenizer, known: int, options: OpenClipOptions) -> None:
        super().__init__(clip, int(options.config["embed_dim"]), options)
        self._tokenizer, self._known = tokenizer, known
        self._vocabulary = int(options.config["text_cfg"].get("vocab_size", _CLIP_TOKENS))
        text = self.clip.text
        # A causal tower that pools its end token: what stands after that token cannot change the feature.
        self._cuttable = (
            isinstance(text, TextTransformer)
            and text.attn_mask is not None
            and text.cls_emb is None
            and text.pool_type in ("argmax", "eos")
        )
        self._pools_first = last_block.pools_first(self.clip.visual)
        for tower, pools_one in ((self.clip.visual, self._pools_first), (text, self._cuttable)):
            if pools_one:
                last_block.prepare(tower.transformer)

    @property
    def image_tower(self) -> nn.Module:
        """A VisionTransformer, ModifiedResNet or TimmModel of open_clip; called with images, it gives features."""
        return cast(nn.Module, self.clip.visual)

    @property
    def text_tower(self) -> nn.Module:
        """A TextTransformer or HFTextEncoder of open_clip; called with uncut tokens, it gives features."""
        return cast(nn.Module, self.clip.text)

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """(B, L) token ids, folded where the architecture's vocabulary is smaller than the tokenizer's."""
        tokens: Tensor = self._tokenizer(list(texts))
        return tokens if self._known <= self._vocabulary else _folded(tokens, self._known, self._vocabulary)

    def text_length(self, tokens: Tensor) -> int:
        """Up to the last end token, where the tower allows it."""
        if not self._cuttable:
            return tokens.shape[1]
        return int(_ends(self.clip.text, tokens).max()) + 1

    def encode_view(self, images: Tensor) -> Tensor:
        """(B, D) features of images as they stand."""
        visual = self.clip.visual
        if self._pools_first and last_block.may_be_short(visual):
            return last_block.image_features(visual, images)
        features: Tensor = self.clip.encode_image(images, normalize=False)
        return features

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """(B, D) features."""
        if self._cuttable:
            return _encode_cut_text(self.clip.text, tokens)
        features: Tensor = self.clip.encode_text(tokens, normalize=False)
        return features


def _build(options: OpenClipOptions) -> Any:
    """The model with random weights, drawn from torch's global generator."""
    text = dict(options.config["text_cfg"])
    if text.get("hf_model_name"):
        text |= {"hf_model_name": str(options.text_config_folder), "hf_model_pretrained": False}
    name = options.architecture if options.folder is None else f"local-dir:{options.folder}"
    # open_clip warns that weights are random; ours are yet to come, or the record says so.
    logging.disable(logging.WARNING)
    try:
        model = open_clip.create_model(
            name,
            load_weights=False,
            pretrained_text=False,
            force_custom_text=True,
            text_cfg=text,
            quick_gelu=bool(options.config.get("quick_gelu", False)),
        )
    except (RuntimeError, OSError, KeyError, ValueError, TypeError) as error:
        raise UsageError(f"encoder 'openclip' cannot build {options.architecture}: {error}") from error
    finally:
        logging.disable(logging.NOTSET)
    if hasattr(model, _DECODER):
        delattr(model, _DECODER)
    return model


def _tokenizer(options: OpenClipOptions) -> tuple[Tokenizer, int]:
    """What makes tokens of texts, and how many different ones; 0 where they are the architecture's own."""
    text = options.config["text_cfg"]
    length = int(text.get("context_length", open_clip.tokenizer.DEFAULT_CONTEXT_LENGTH))
    extra = text.get("tokenizer_kwargs") or {}
    # One that stands ready: to make another takes longer than a model.
    if options.text_folder is None and not extra:
        return functools.partial(open_clip.tokenize, context_length=length), _CLIP_TOKENS
    try:
        if options.text_folder is None:
            simple = open_clip.SimpleTokenizer(context_length=length, **extra)
            return simple, simple.vocab_size
        mode = text.get("tokenizer_mode")
        folder = str(options.text_folder)
        return open_clip.tokenizer.HFTokenizer(folder, context_length=length, tokenizer_mode=mode, **extra), 0
    except (OSError, ValueError, TypeError, KeyError, ImportError) as error:
        raise UsageError(f"encoder 'openclip': no tokenizer for {options.architecture}: {error}") from error


def _take(clip: Any, read: ReadCheckpoint, options: OpenClipOptions, where: str) -> None:
    """Copy the weights into the model, strictly. Names are told as the file has them."""
    own = clip.state_dict()
    state = convert_state_dict(clip, read.state)
    plain = "token_embedding.weight" in state  # the text tower's tensors stand at the top, not below `text.`
    names = {name.removeprefix(_TEXT) if plain else name: name for name in own}
    expected = {there: own[here] for there, here in names.items()}
    state = {name: _shaped(value, expected.get(name)) for name, value in state.items()}
    # A buffer of positions that transformers once saved and no longer has.
    old = {"text.transformer.embeddings.position_ids"} - expected.keys()
    fitted = fitting(
        {name: value for name, value in state.items() if name not in old and not name.startswith(f"{_DECODER}.")},
        expected,
        where,
        allow_missing=options.allow_missing,
        allow_surplus=options.allow_surplus,
    )
    clip.load_state_dict({names[name]: value for name, value in fitted.items()}, strict=False)


def _shaped(value: Tensor, wanted: Tensor | None) -> Tensor:
    """One number is one number, whether or not it is kept as a vector of length one."""
    if wanted is None or value.layout != wanted.layout or not value.numel() == wanted.numel() == 1:
        return value
    return value.reshape(wanted.shape)


def _encode_cut_text(text: Any, tokens: Tensor) -> Tensor:
    """What the text tower computes, for tokens cut to any length, which it does not take itself."""
    length = tokens.shape[1]
    dtype = text.transformer.get_cast_dtype()
    x = text.token_embedding(tokens).to(dtype) + text.positional_embedding[:length].to(dtype)
    mask, ends = text.attn_mask[:length, :length], _ends(text, tokens)
    if last_block.may_be_short(text):
        x = text.ln_final(last_block.pooled_token(text.transformer, x, ends, mask))
    else:
        x = text.ln_final(text.transformer(x, attn_mask=mask))
        x = x[torch.arange(len(x), device=x.device), ends]
    projection = text.text_projection
    if projection is not None:
        x = projection(x) if isinstance(projection, nn.Linear) else x @ projection
    features: Tensor = x
    return features


def _ends(text: Any, tokens: Tensor) -> Tensor:
    """(B,) where the end tokens of (B, L) tokens are, which the tower pools."""
    of_end: Tensor = tokens if text.pool_type == "argmax" else (tokens == text.eos_id).int()
    return of_end.argmax(dim=1)


def _folded(tokens: Tensor, size: int, vocabulary: int) -> Tensor:
    """Word ids modulo a small vocabulary; padding stays 0, start and end keep the two highest ids.

    A text tower with a small vocabulary of its own trains in a fraction of the time, and a few words share an
    embedding. The end token must be the highest id, since that is where open_clip pools.
    """
    words = 1 + tokens % (vocabulary - 3)
    special = tokens - size + vocabulary
    return torch.where(tokens >= size - 2, special, torch.where(tokens == 0, tokens, words))
