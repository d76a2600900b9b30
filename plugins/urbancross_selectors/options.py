"""Options of the selectors. No torch."""

from __future__ import annotations

from pydantic import Field

from urbancross_bench.interfaces import Options


class NeighbourhoodDensityOptions(Options):
    """How near a neighbour is."""

    temperature: float = Field(default=0.05, ge=0.01, le=1, description="of the softmax over similarities")
