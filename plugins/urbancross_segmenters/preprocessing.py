"""How the image processor beside weights of Segment Anything prepares images. No torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from urbancross_bench.errors import UsageError
from urbancross_bench.modelling.formats import (
    deviation_of_pixels,
    expect_scaled,
    image_processor_in,
    mean_of_pixels,
)

_MEAN, _DEVIATION, _BILINEAR = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 2
_FILTERS = range(6)  # of PIL, by its numbers


def of_folder(folder: Path, side: int) -> dict[str, Any]:
    """What the folder's processor does otherwise than the authors' code, as arguments of transformers' processor.

    Empty without one, and for that of the published weights, so that neither has another key than a bare file.
    side: of the square of pixels that the model takes. Raises UsageError, naming the file, for what cannot be
    right or is not supported.
    """
    file, content = image_processor_in(folder)
    said = {name: value for name, value in content.items() if value is not None}
    _expect_supported(said, side, file)
    longest = _longest_edge(said.get("size", {"longest_edge": side}), side, file)
    mean = mean_of_pixels(said.get("image_mean", _MEAN), f"segmenter: {file}: image_mean")
    deviation = deviation_of_pixels(said.get("image_std", _DEVIATION), f"segmenter: {file}: image_std")
    if not said.get("do_normalize", True):
        mean, deviation = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    found: dict[str, tuple[Any, Any]] = {
        "image_mean": (list(mean), list(_MEAN)),
        "image_std": (list(deviation), list(_DEVIATION)),
        "resample": (said.get("resample", _BILINEAR), _BILINEAR),
        "size": ({"longest_edge": longest}, {"longest_edge": side}),
    }
    return {name: value for name, (value, authors) in found.items() if value != authors}


def _expect_supported(said: dict[str, Any], side: int, file: Path) -> None:
    """Raise UsageError for what only another model could be meant by."""
    steps = {"do_resize": True, "do_pad": True, "do_center_crop": False}
    for name, wanted in (steps | {"pad_size": {"height": side, "width": side}}).items():
        if said.get(name, wanted) != wanted:
            raise UsageError(
                f"segmenter: {file} says {name}={said[name]}, and the model wants {wanted}; take the folder's "
                "files from one revision"
            )
    expect_scaled(said, f"segmenter: {file}:")
    filter_ = said.get("resample", _BILINEAR)
    if filter_ not in _FILTERS:
        raise UsageError(f"segmenter: {file}: images are resized by {filter_}, which is no filter of PIL")


def _longest_edge(size: Any, side: int, file: Path) -> int:
    longest = size.get("longest_edge") if isinstance(size, dict) else None
    if not isinstance(longest, int) or not 0 < longest <= side:
        raise UsageError(
            f"segmenter: {file} says size={size}; its longest_edge is what an image is resized to, and the model "
            f"takes up to {side}"
        )
    return longest
