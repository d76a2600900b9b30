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

from urbancross_bench.errors import PluginError

DISTRIBUTION = "urbancross-bench"  # the project's own
_COMPILED = {".pyc", ".pyo", ".so", ".pyd", ".o", ".obj", ".dll", ".dylib"}


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


def library_versions(*distributions: str) -> dict[str, str]:
    """The version of each of some distributions. Raises PluginError for one that is not installed."""
    try:
        return {name: importlib.metadata.version(name) for name in distributions}
    except importlib.metadata.PackageNotFoundError as error:
        raise PluginError(f"{error.name} is needed and not installed; `pip install {error.name}`") from None


@cache
def own_version(module: str) -> str:
    """`code_version` of the project's own code: as it was when first asked, since it is imported but once."""
    return code_version(module, DISTRIBUTION)


def code_version(module: str, distribution: str | None) -> str:
    """What identifies a module's code: the version of its distribution, and a source hash while it may change.

    Code installed from a wheel is named by its distribution's version. Code in an editable install, or in a
    file outside any distribution (None), can change without one, so the files below `module` count too: its
    sources, and data such as a table; neither bytecode nor hidden files.
    """
    version = "local" if distribution is None else importlib.metadata.version(distribution)
    if distribution is not None and not _is_local(distribution):
        return version
    # Data of the project's own packages is in the identity of the options that name it.
    files = sorted(_files(module, "*.py" if distribution == DISTRIBUTION else "*"))
    if not files:
        return version
    content = digest(part for name, file in files for part in (name.encode(), file.read_bytes()))
    return f"{version}+{content[:12]}"


def _files(module: str, pattern: str) -> Iterable[tuple[str, Path]]:
    """The files of a module or package, with their names in it; of a package, those whose names match."""
    spec = importlib.util.find_spec(module)
    if spec is None:
        return []
    # A namespace package has folders, but no file of its own.
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    if not folders:
        return [(Path(spec.origin).name, Path(spec.origin))] if spec.origin else []
    found = [(file.relative_to(folder), file) for folder in folders for file in folder.rglob(pattern)]
    return [(name.as_posix(), file) for name, file in found if not _passing(name) and file.is_file()]


def _passing(name: Path) -> bool:
    """Whether a file of a package is no part of it: what is compiled from it here, or hidden."""
    hidden = any(part == "__pycache__" or part.startswith(".") for part in name.parts)
    return hidden or name.suffix in _COMPILED or name.name.endswith("~")


def _is_local(distribution: str) -> bool:
    """Whether it was installed from a folder, editable or not: its code may change and its version stay."""
    text = importlib.metadata.distribution(distribution).read_text("direct_url.json")
    return "dir_info" in json.loads(text or "{}")
