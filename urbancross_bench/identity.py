"""What things are called: keys from facts, seeds from names, versions from code."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any


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


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def derive_seed(*names: Any) -> int:
    """A seed in [0, 2⁶³) that depends on these names alone, so that no other factor can move it."""
    return int.from_bytes(hashlib.blake2b(canonical_json(names).encode(), digest_size=8).digest(), "little") >> 1


@cache
def code_version(module: str, distribution: str | None) -> str:
    """What identifies a module's code: the version of its distribution, and a source hash while it may change.

    Code installed from a wheel is named by its distribution's version. Code in an editable install, or in a
    file outside any distribution (None), can change without one, so the sources below `module` count too.
    """
    version = "local" if distribution is None else importlib.metadata.version(distribution)
    if distribution is not None and not _is_editable(distribution):
        return version
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return version
    origin = Path(spec.origin)
    sources = sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
    content = digest(part for s in sources for part in (s.name.encode(), s.read_bytes()))
    return f"{version}+{content[:12]}"


def _is_editable(distribution: str) -> bool:
    text = importlib.metadata.distribution(distribution).read_text("direct_url.json")
    return bool(text) and bool(json.loads(text or "{}").get("dir_info", {}).get("editable"))
