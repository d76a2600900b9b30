"""Options of the test-time methods. No torch."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from urbancross_bench.interfaces import CalibrationOptions


class CSLSOptions(CalibrationOptions):
    """How wide a neighbourhood is."""

    neighbours: PositiveInt = Field(default=10, description="nearest items of the other side that are averaged")


class InvertedSoftmaxOptions(CalibrationOptions):
    """How sharp the softmax is."""

    beta: float = Field(default=30.0, gt=0, le=1000, description="factor of the cosine similarities")
