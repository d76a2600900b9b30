"""A one-file plugin for tests: masks of equal brightness, faults on demand. An image's first pixel names it."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.errors import DataError
from urbancross_bench.interfaces import (
    Mask,
    Registration,
    Segmenter,
    SegmenterOptions,
    Weights,
    hookimpl,
    register,
)


class StripedOptions(SegmenterOptions):
    refuses: int = -1
    dies: int = -1
    dies_once: str | None = None
    fails_together: str | None = None
    dies_together: str | None = None
    fails: bool = False
    sees_nothing: bool = False
    waits: str | None = None
    waits_at: int = -1
    notes: str | None = None
    fails_to_load: bool = False
    dies_loading: bool = False

    def weights(self) -> Weights:
        return Weights("untrained", "none")

    def identity(self) -> dict[str, Any]:
        return {}


class Striped(Segmenter):
    options_type: ClassVar[type[SegmenterOptions]] = StripedOptions

    def load(self, device: str) -> None:
        options: Any = self.options
        if options.dies_loading:
            os.kill(os.getpid(), signal.SIGKILL)
        if options.fails_to_load:
            raise ValueError("no such stripes")

    def segment(self, images: Sequence[NDArray[np.uint8]]) -> list[list[Mask]]:
        options: Any = self.options
        if options.fails:
            raise RuntimeError("no stripes today")
        together = len(images) > 1
        if together and options.fails_together and Path(options.fails_together).exists():
            raise MemoryError("no room for so many")
        if together and options.dies_together and Path(options.dies_together).exists():
            os.kill(os.getpid(), signal.SIGKILL)
        for image in images:
            first = int(image[0, 0, 0])
            if options.notes:
                with Path(options.notes).open("a") as file:
                    print(first, file=file)
            if first == options.refuses:
                raise DataError(f"tile {first} has no stripes")
            if first == options.dies:
                os.kill(os.getpid(), signal.SIGKILL)
            if options.dies_once and not Path(options.dies_once).exists():
                Path(options.dies_once).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if first == options.waits_at:
                Path(options.waits).write_bytes(bytes(2**20))  # a pipe too narrow for it, until its reader is gone
        return [[] if options.sees_nothing else _stripes(image) for image in images]


def _stripes(image: NDArray[np.uint8]) -> list[Mask]:
    shades = [image[..., 1] // 32 == shade for shade in range(8)]
    masks = [Mask(pixels, 0.5 + shade / 16, 0.9) for shade, pixels in enumerate(shades)]
    return [*masks, Mask(masks[0].pixels, 0.1, 0.2), Mask(np.zeros_like(masks[0].pixels), 1.0, 1.0)]


@hookimpl
def register_segmenters() -> list[Registration]:
    target = f"{__name__}:Striped"
    return [register("striped", target, options=f"{__name__}:StripedOptions", summary="Equal brightness.")]
