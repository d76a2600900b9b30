"""Where a model's first weights come from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Weights:
    """The first weights of a model: `pretrained`, `trained here` (by an earlier run) or `untrained`.

    `source` names them for a reader; `sha256` is that of the file or files, None where there is none. `partial`: a
    part of them may be missing, and is then drawn; `was_partial`: one may have been, before they were trained on.
    `images`: those whose pairs they were trained on, as far as is known, as `modelling.origins` names them.
    """

    status: Literal["pretrained", "trained here", "untrained"]
    source: str
    sha256: str | None = None
    partial: bool = False
    was_partial: bool = False
    images: frozenset[str] = field(default=frozenset(), repr=False)

    def said(self) -> dict[str, Any]:
        """For a record: all but the images; `was_partial` only where it is so."""
        said = {name: getattr(self, name) for name in ("status", "source", "sha256", "partial")}
        return said | ({"was_partial": True} if self.was_partial else {})
