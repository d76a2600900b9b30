"""Small random models of the CLIP family on disk, in the layouts that are published."""

from __future__ import annotations

import json
import string
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    PreTrainedTokenizerFast,
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    Siglip2Tokenizer,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

import urbancross_encoders.openclip  # noqa: F401 - makes our architectures known to open_clip
from urbancross_bench.registry import Registry

TINY = "urbancross-tiny"
WORDS = ["a", "red", "roof", "beside", "the", "road", "many", "green", "trees"]
TEXTS = ["a red roof", "many green trees beside the road beside the roof", "road"]
HUB = "0123456789abcdef0123456789abcdef01234567"
_REGISTRY = Registry.discover()


def resolve(reference: str) -> Any:
    """An encoder's reference, with its options checked."""
    return _REGISTRY.resolve("encoder", reference)


def load(reference: str) -> Any:
    """The model an encoder's reference names."""
    return resolve(reference).build().load()


def theirs(architecture: str = TINY, seed: int = 1) -> Any:
    """A random model as open_clip itself builds it; the text tower's tensors stand at the top."""
    torch.manual_seed(seed)
    return open_clip.create_model(architecture).eval()


def state_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.contiguous().clone() for name, value in model.state_dict().items()}


def under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: value for name, value in state.items()}


def layouts(state: dict[str, Tensor]) -> dict[str, tuple[Any, str]]:
    """What a torch file of a published layout holds, and what reading it has to take off."""
    training = {
        "epoch": 3,
        "name": "run",
        "optimizer": {"state": {0: torch.ones(2)}, "param_groups": [{"lr": 0.1}]},
    }
    both = under("clip_model.", state) | under("clip_img_seg.", under("visual.", {"proj": torch.ones(2)}))
    return {
        "plain": (state, ""),  # RemoteCLIP, GeoRSCLIP
        "training": ({**training, "state_dict": under("module.", state)}, "state_dict, module."),  # SkyCLIP
        "training, one device": ({**training, "state_dict": state}, "state_dict"),
        "compiled": (under("module._orig_mod.", state), "module., _orig_mod."),
        "urbancross": ({"epoch": 1, "model": both}, "model, clip_model., clip_img_seg."),
        "urbancross, parallel": ({"model": under("module.", both)}, "model, module., clip_model., clip_img_seg."),
        "urbancross, no segments": ({"model": under("clip_model.", state)}, "model, clip_model."),
    }


def write_local_dir(
    folder: Path, model_cfg: dict[str, Any], preprocess_cfg: dict[str, Any], state: dict[str, Tensor]
) -> None:
    """A folder as open_clip's `push_to_hf_hub` writes one, without a tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
    (folder / "open_clip_config.json").write_text(json.dumps(content), encoding="utf-8")
    save_file(state, folder / "open_clip_model.safetensors")


def cached(cache: Path, repository: str) -> Path:
    """The folder where the hub's cache keeps the files of a repository; made, with the branch `main` at it."""
    place = cache / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True, exist_ok=True)
    (place / "refs" / "main").write_text(HUB)
    folder = place / "snapshots" / HUB
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def word_tokenizer(length: int) -> PreTrainedTokenizerFast:
    """Words by number, between a start and an end token, padded by ones that are no end."""
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<unk>", *WORDS, "<start>", "<end>"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[(t, vocabulary[t]) for t in ("<start>", "<end>")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<start>",
        eos_token="<end>",
        model_max_length=length,
    )


def letter_tokenizer() -> Siglip2Tokenizer:
    """Letters by number, and an end token; what transformers makes of SigLIP 2's files knows no capitals."""
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    letters = {token: number for number, token in enumerate([*specials, "▁", *string.ascii_lowercase])}
    return Siglip2Tokenizer(vocab=letters, merges=[], padding_side="right")


def write_transformers(folder: Path, family: str, *, end: int | None = None, seed: int = 1) -> Any:
    """A random CLIP, SigLIP or SigLIP 2 of any resolution as `save_pretrained` writes it; the model itself.

    end: the id of the end token in the config; None: the tokenizer's.
    """
    torch.manual_seed(seed)
    words = len(WORDS) + 4
    layers = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**layers, "vocab_size": 32 if family == "siglip2" else words, "max_position_embeddings": 12}
    text |= {"bos_token_id": words - 2, "eos_token_id": words - 1 if end is None else end, "pad_token_id": 0}
    vision = {**layers, "patch_size": 16}
    model: Any
    if family == "clip":
        model = CLIPModel(
            CLIPConfig(text_config=text, vision_config={**vision, "image_size": 32}, projection_dim=8)
        )
        processor: Any = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    elif family == "siglip":
        model = SiglipModel(
            SiglipConfig(text_config={**text, "projection_size": 16}, vision_config={**vision, "image_size": 32})
        )
        processor = SiglipImageProcessorPil(size={"height": 32, "width": 32}, resample=2)
    else:
        model = Siglip2Model(
            Siglip2Config(text_config={**text, "projection_size": 16}, vision_config={**vision, "num_patches": 4})
        )
        processor = Siglip2ImageProcessorPil(patch_size=16, max_num_patches=9)
    for parameter in model.parameters():
        # Drawn wide, so that features differ by more than rounding does.
        nn.init.normal_(parameter, std=0.3)
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    (letter_tokenizer() if family == "siglip2" else word_tokenizer(12)).save_pretrained(folder)
    return model
