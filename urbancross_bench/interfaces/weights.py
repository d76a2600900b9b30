"""Where a model's first weights come from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Weights:
    """The first weights of a model: `pretrained`, `trained here` (by an earlier run) or `untrained`.

    `source` names them for a reader; `sha256` is that of the file or files, None where there is none. `partial`: a
    part of them may be missing, and is then drawn. `images`: those whose pairs they were trained on, as far as is
    known, as `modelling.origins` names them.
    """

    status: Literal["pretrained", "trained here", "untrained"]
    source: str
    sha256: str | None = None
    partial: bool = False
    images: frozenset[str] = field(default=frozenset(), repr=False)

    def said(self) -> dict[str, Any]:
        """For a record: all but the images."""
        return {name: value for name, value in asdict(self).items() if name != "images"}
