"""Options of a plugin: a frozen pydantic model in a module that imports no torch."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Options(BaseModel):
    """Base of every plugin's options. Unknown names are errors; values are checked once, when planning."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def identity(self) -> dict[str, Any]:
        """The facts about these options that may change a result, as plain JSON values.

        They enter the keys under which results are stored. Override it where an option is a path:
        what lies at the path counts (its hash), the path itself does not.
        """
        return self.model_dump(mode="json")


class CalibrationOptions(Options):
    """Options of a method that calibrates the model of another: `csls[base=dann]` trains nothing of its own."""

    base: str = Field(default="source_only", description="the adaptation whose model is calibrated")
