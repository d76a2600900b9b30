"""How images are normalised and resized for weights. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from urbancross_bench.errors import UsageError, did_you_mean
from urbancross_bench.modelling.formats import Colour, deviation_of_pixels, expect_scaled, mean_of_pixels

Interpolation = Literal["bicubic", "bilinear"]

# Means and deviations in use, of pixels in [0, 1], by the names open_clip gives them.
OPENAI = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INCEPTION = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
NONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
NAMED: Mapping[str, tuple[Colour, Colour]] = {"openai": OPENAI, "imagenet": IMAGENET, "inception": INCEPTION}
# All that a `preprocess_cfg` of open_clip may say.
OPEN_CLIP_KEYS = ("size", "mode", "mean", "std", "interpolation", "resize_mode", "fill_color")
# PIL's numbers for its filters, as transformers writes them.
_FILTERS: Mapping[int, Interpolation] = {2: "bilinear", 3: "bicubic"}


@dataclass(frozen=True)
class Preprocessing:
    """(pixel - mean) / std on pixels in [0, 1], per channel, after a resize with PIL's filter of that name."""

    mean: Colour
    std: Colour
    interpolation: Interpolation

    def identity(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"mean": list(self.mean), "std": list(self.std), "interpolation": self.interpolation}


def of_architecture(name: str) -> Preprocessing:
    """What weights of an open_clip architecture are normalised by where only its name is known.

    This is what open_clip's tags of that architecture say; where they differ (`ViT-L-14`), OpenAI's.
    """
    if "siglip" in name.lower():
        return Preprocessing(*INCEPTION, "bicubic")
    if name.startswith("PE-Core"):
        return Preprocessing(*INCEPTION, "bilinear")
    if "CLIPA" in name:
        return Preprocessing(*IMAGENET, "bilinear")
    if name.startswith("MobileCLIP2-L"):
        return Preprocessing(*OPENAI, "bicubic")
    if name.startswith(("MobileCLIP2-S3", "MobileCLIP2-S4")):
        return Preprocessing(*OPENAI, "bilinear")
    if name.startswith("MobileCLIP"):
        return Preprocessing(*NONE, "bilinear")
    return Preprocessing(*OPENAI, "bicubic")


def of_open_clip(facts: Mapping[str, Any], where: str) -> Preprocessing:
    """What a tag of open_clip says beside other things; what it leaves out is open_clip's default."""
    found = {name: value for name, value in facts.items() if value is not None}
    return Preprocessing(
        mean_of_pixels(found.get("mean", OPENAI[0]), f"{where}: mean"),
        deviation_of_pixels(found.get("std", OPENAI[1]), f"{where}: std"),
        _interpolation(found.get("interpolation", "bicubic"), where),
    )


def of_config(facts: Any, where: str) -> Preprocessing:
    """What the `preprocess_cfg` of a folder says, which has nothing else beside it."""
    if not isinstance(facts, Mapping):
        raise UsageError(f"{where}: preprocess_cfg is {facts!r}, no json object")
    for key in sorted(facts.keys() - OPEN_CLIP_KEYS):
        hint = did_you_mean(key, OPEN_CLIP_KEYS)
        raise UsageError(f"{where}: open_clip knows no {key!r} in a preprocess_cfg.{hint}")
    if facts.get("mode") not in (None, "RGB"):
        raise UsageError(f"{where}: images are of mode {facts['mode']}; only RGB is supported")
    return of_open_clip(facts, where)


def of_transformers(facts: Mapping[str, Any], family: str, where: str) -> Preprocessing:
    """What an image processor of transformers says; what it leaves out is that family's default."""
    mean, std = OPENAI if family == "clip" else INCEPTION
    expect_scaled(facts, f"{where}:")
    found = {name: value for name, value in facts.items() if value is not None}
    mean, std = found.get("image_mean", mean), found.get("image_std", std)
    if not facts.get("do_normalize", True):
        mean, std = NONE
    filter_ = facts.get("resample", 2 if family == "siglip2" else 3)
    named = _FILTERS.get(filter_) if isinstance(filter_, int) else None
    return Preprocessing(
        mean_of_pixels(mean, f"{where}: image_mean"),
        deviation_of_pixels(std, f"{where}: image_std"),
        _interpolation(named or f"PIL's filter {filter_}", where),
    )


def _interpolation(value: Any, where: str) -> Interpolation:
    if value not in ("bicubic", "bilinear"):
        raise UsageError(f"{where}: images are resized by {value}; only bicubic and bilinear are supported")
    return value  # type: ignore[no-any-return]
