"""Options of the embedded dataset."""

from __future__ import annotations

from pydantic import Field

from urbancross_bench.interfaces import Options


class SyntheticOptions(Options):
    """What to draw. Tiles of one seed stay what they are when `images` grows; only the splits are redrawn."""

    seed: int = Field(default=0, ge=0, le=2**32 - 1, description="draws every tile, caption and split")
    images: int = Field(default=320, ge=40, le=4096, description="tiles per country")
    size: int = Field(default=64, ge=32, le=512, description="pixels along a tile's edge, for the same ground")
