"""Where a model's first weights come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Weights:
    """The first weights of a model: `pretrained`, `trained here` (by an earlier run) or `untrained`.

    `source` names them for a reader; `sha256` is that of the file or files, None where there is none. `partial`: a
    part of them may be missing, and is then drawn. `pairs`: the fingerprints of the splits whose pairs they were
    trained on, as far as that is known.
    """

    status: Literal["pretrained", "trained here", "untrained"]
    source: str
    sha256: str | None = None
    partial: bool = False
    pairs: tuple[str, ...] = ()
