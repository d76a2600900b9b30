"""A view: which records a leaderboard shows, and how."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from urbancross_bench.errors import UsageError, did_you_mean
from urbancross_bench.interfaces.settings import SETTINGS

DEFAULT = Path(__file__).with_name("default.yaml")


class View(BaseModel):
    """The content of a view file; see `default.yaml` beside this module."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    metric: str = Field(default="mR", description="what rows are ordered and compared by")
    details: tuple[str, ...] = Field(default=(), description="further metrics, a column each")
    baseline: str = Field(default="source_only", description="the adaptation that differences are taken to")
    oracle: str = Field(default="oracle", description="the adaptation that the gap to close is taken to")
    reference_settings: tuple[str, ...] = Field(default=("oracle",), description="shown, never ranked")
    weights: tuple[Literal["pretrained", "trained here", "untrained"], ...] = ("pretrained", "trained here")
    renderers: tuple[str, ...] = Field(default=("markdown", "csv"), min_length=1)


def load_view(path: Path) -> View:
    """Read a view file. Raises UsageError naming the file and the key."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        view = View.model_validate(content)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise UsageError(f"view {path} cannot be read: {error}") from error
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"])
        hint = did_you_mean(key, View.model_fields) if problem["type"] == "extra_forbidden" else ""
        raise UsageError(f"view {path}: {key}: {problem['msg']}.{hint}") from None
    for setting in view.reference_settings:
        if setting not in SETTINGS:
            raise UsageError(f"view {path}: unknown setting {setting!r}.{did_you_mean(setting, SETTINGS)}")
    return view
