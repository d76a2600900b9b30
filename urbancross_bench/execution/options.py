"""Options of the executors. No torch."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from urbancross_bench.interfaces import Options


class LocalOptions(Options):
    """`local[slots=4]`."""

    slots: PositiveInt | None = Field(
        default=None, description="stages at once; by default CPU cores ÷ threads, and one on a GPU"
    )
