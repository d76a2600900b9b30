"""What weights that a grid trained say of themselves, in the header of their file. No torch."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from urbancross_bench.errors import UsageError

_HEADER, _SCHEMA = "urbancross_bench", 1
_DIGITS = 12  # of a digest: two of a million images agree in them by chance once in five hundred times


@dataclass(frozen=True)
class Origin:
    """`encoder`: what its options said of themselves. `trained`: whether any step was taken, there or before.
    `partial`: whether some of the first weights may have been missing. `images`: of all images whose pairs were
    shown, there or before, the `short` digests. `candidate`: of what a method left, its name.
    """

    encoder: Mapping[str, Any]
    trained: bool
    partial: bool
    images: frozenset[str]
    candidate: str = ""

    @classmethod
    def of(cls, said: Any) -> Origin:
        """From what `as_json` gave. Raises ValueError, LookupError or TypeError for anything else."""
        if said["schema"] != _SCHEMA:
            raise ValueError(f"schema {said['schema']}; this version reads {_SCHEMA}")
        types = {"encoder": dict, "trained": bool, "partial": bool, "images": str, "candidate": str}
        for name, type_ in types.items():
            if not isinstance(said[name], type_):
                raise TypeError(f"{name} is {said[name]!r}")
        if not re.fullmatch(f"([0-9a-f]{{{_DIGITS}}})*", said["images"]):
            raise ValueError("images is no row of digests")
        images = frozenset(map("".join, zip(*[iter(said["images"])] * _DIGITS, strict=True)))
        return cls(said["encoder"], said["trained"], said["partial"], images, said["candidate"])

    def as_json(self) -> dict[str, Any]:
        """Plain values, the same for the same content."""
        said = {"schema": _SCHEMA, "encoder": dict(self.encoder), "trained": self.trained, "partial": self.partial}
        return said | {"images": "".join(sorted(self.images)), "candidate": self.candidate}

    def header(self) -> dict[str, str]:
        """The metadata of a safetensors file: one entry, as of several the order differs from file to file."""
        return {_HEADER: json.dumps(self.as_json(), sort_keys=True)}


def short(digests: Iterable[str]) -> frozenset[str]:
    """Digests of images, which may be any text, as an origin holds them."""
    return frozenset(hashlib.blake2b(d.encode(), digest_size=_DIGITS // 2).hexdigest() for d in digests)


def origin_of(path: Path) -> Origin | None:
    """What a file of weights says; None if no grid left it. Raises UsageError where that cannot be understood."""
    try:
        with safe_open(path, framework="numpy") as file:
            said = (file.metadata() or {}).get(_HEADER)
    except (SafetensorError, OSError):
        return None
    try:
        return None if said is None else Origin.of(json.loads(said))
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise UsageError(
            f"{path} says in its header where its weights come from, and not as this version does ({error!r}); "
            "run the grid again that left it"
        ) from error
