"""How images are normalised and resized for weights. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from urbancross_bench.errors import UsageError

Interpolation = Literal["bicubic", "bilinear"]
Colour = tuple[float, float, float]

# Means and deviations in use, of pixels in [0, 1], by the names open_clip gives them.
OPENAI = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
INCEPTION = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)
NONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
NAMED: Mapping[str, tuple[Colour, Colour]] = {"openai": OPENAI, "imagenet": IMAGENET, "inception": INCEPTION}
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
    """What a `preprocess_cfg` of open_clip says; what it leaves out is open_clip's default."""
    mean, std = facts.get("mean") or OPENAI[0], facts.get("std") or OPENAI[1]
    return Preprocessing(
        _colour(mean, "mean", where),
        _colour(std, "std", where),
        _interpolation(facts.get("interpolation") or "bicubic", where),
    )


def of_transformers(facts: Mapping[str, Any], family: str, where: str) -> Preprocessing:
    """What an image processor of transformers says; what it leaves out is that family's default."""
    mean, std = OPENAI if family == "clip" else INCEPTION
    factor = facts.get("rescale_factor", 1 / 255)
    if not facts.get("do_rescale", True) or abs(factor * 255 - 1) > 1e-6:
        raise UsageError(f"{where}: pixels are scaled by {factor}, not by 1/255; such weights are not supported")
    mean, std = facts.get("image_mean") or mean, facts.get("image_std") or std
    if not facts.get("do_normalize", True):
        mean, std = NONE
    filter_ = facts.get("resample", 2 if family == "siglip2" else 3)
    return Preprocessing(
        _colour(mean, "image_mean", where),
        _colour(std, "image_std", where),
        _interpolation(_FILTERS.get(filter_, f"PIL's filter {filter_}"), where),
    )


def _colour(value: Any, name: str, where: str) -> Colour:
    if isinstance(value, (int, float)):
        value = [value] * 3
    try:
        red, green, blue = map(float, value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{where}: {name} is {value!r}, not three numbers") from error
    return red, green, blue


def _interpolation(value: Any, where: str) -> Interpolation:
    if value not in ("bicubic", "bilinear"):
        raise UsageError(f"{where}: images are resized by {value}; only bicubic and bilinear are supported")
    return value  # type: ignore[no-any-return]
