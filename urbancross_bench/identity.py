"""What things are called: keys from facts, seeds from names."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from urbancross_bench.errors import PluginError

DISTRIBUTION = "urbancross-bench"  # the project's own
_AT_ONCE = 2**20  # bytes of a file


def canonical_json(facts: Any) -> str:
    """One text per value: sorted keys, no spaces, no NaN, unicode as it is."""
    return json.dumps(facts, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(parts: Iterable[bytes]) -> str:
    """A 128-bit hash, in hex, of a sequence of byte strings (and of where one ends and the next begins)."""
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        hasher.update(len(part).to_bytes(8, "little"))
        hasher.update(part)
    return hasher.hexdigest()


def key_of(facts: Any) -> str:
    """The key of exactly these facts, 32 hexadecimal digits."""
    return digest([canonical_json(facts).encode()])


def file_digest(path: Path | str) -> str:
    """SHA-256 of a file's content, in hex."""
    found = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - thousands of small ones in a quarter of the time
        while some := file.read(_AT_ONCE):
            found.update(some)
    return found.hexdigest()


def derive_seed(*names: Any) -> int:
    """A seed in [0, 2⁶³) that depends on these names alone, so that no other factor can move it."""
    return int.from_bytes(hashlib.blake2b(canonical_json(names).encode(), digest_size=8).digest(), "little") >> 1


def library_versions(*distributions: str) -> dict[str, str]:
    """The version of each of some distributions. Raises PluginError for one that is not installed."""
    try:
        return {name: importlib.metadata.version(name) for name in distributions}
    except importlib.metadata.PackageNotFoundError as error:
        raise PluginError(f"{error.name} is needed and not installed; `pip install {error.name}`") from None
