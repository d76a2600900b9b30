"""Files of weights when planning: where they lie, in the cache of the hub or not, and their hashes. No torch."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from urbancross_bench.data.readers import signature
from urbancross_bench.errors import RunError, UsageError
from urbancross_bench.identity import file_digest
from urbancross_bench.interfaces import Weights
from urbancross_bench.modelling.formats import without_history
from urbancross_bench.modelling.origins import Origin

# What a tokenizer of Hugging Face may consist of; whichever are there count.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
_VOCABULARIES = {"tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model"}
_VOCABULARIES |= {"tokenizer.model"}


def digest_of(path: Path) -> str:
    """SHA-256 of a file, in hex, computed once for as long as its size and times stay. Raises UsageError."""
    try:
        sign = signature(path)
        return _digest(path, sign) if sign else file_digest(path)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error


@lru_cache(maxsize=256)
def _digest(path: Path, _sign: str) -> str:
    return file_digest(path)


def stage_of(path: Path) -> str | None:
    """The training stage of a grid that left a file, as `adapt/KEY`; None for a file of another origin."""
    try:
        said = json.loads((path.parent / "stage.json").read_text(encoding="utf-8"))
        return f"{said['kind']}/{path.parent.name}"
    except (OSError, ValueError, KeyError, TypeError):
        return None


def weights_of(origin: Origin | None, source: str, sha256: str, *, partial: bool) -> Weights:
    """What a record says of weights in a file: that they are pretrained, unless a grid left them."""
    if origin is None:
        return Weights("pretrained", source, sha256, partial)
    status: Literal["trained here", "untrained"] = "trained here" if origin.trained else "untrained"
    return Weights(status, source, sha256, partial, origin.partial, origin.images)


def digests_of(paths: Iterable[Path]) -> dict[Path, str]:
    """SHA-256 of each file."""
    return {path: digest_of(path) for path in paths}


def one_digest(digests: Mapping[Path, str]) -> str:
    """The hash of the one file, or one over the names and hashes of several."""
    if len(digests) == 1:
        return next(iter(digests.values()))
    lines = sorted(f"{path.name}  {digest}\n" for path, digest in digests.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@contextlib.contextmanager
def unchanged(hashed: Mapping[Path, str]) -> Iterator[None]:
    """Hold that files are, before and after they are read, what they were when hashed. Raises RunError."""
    _compare(hashed)
    yield
    _compare(hashed)


def _compare(hashed: Mapping[Path, str]) -> None:
    for path, digest in hashed.items():
        if not path.is_file() or digest_of(path) != digest:
            raise RunError(f"{path} is not the file that was hashed when the run was planned; run the grid again")


def config_digest(config: Mapping[str, Any]) -> str:
    """Of what a config.json of transformers says of the model; not of its file's history."""
    return json_digest(without_history(config))


def json_digest(content: Mapping[str, Any]) -> str:
    """Of plain JSON values, in whatever order they stand."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a tokenizer in a folder; none if it holds no vocabulary."""
    found = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]
    return found if any(path.name in _VOCABULARIES for path in found) else []


def hub_folder(
    what: str,
    repository: str,
    found: Callable[[Path], bool],
    patterns: Sequence[Sequence[str]],
    revision: str | None = None,
) -> Path:
    """The folder of a repository's files in the hub's cache, fetched first if it lacks what `found` looks for.

    patterns: files to fetch, in turn, until all is `found`. A cached copy is taken without asking the network, so
    that a name means the same files until the cache is emptied. Raises UsageError at once where they are not
    cached and the hub is out of reach, starting with `what`.
    """
    from huggingface_hub import snapshot_download

    reason = "the hub is switched off (HF_HUB_OFFLINE)" if _offline() else "the hub has no such files"
    for wanted in (None,) if _offline() else (None, *patterns):
        try:
            folder = Path(
                snapshot_download(
                    repository,
                    revision=revision,
                    allow_patterns=None if wanted is None else list(wanted),
                    local_files_only=wanted is None,
                )
            )
        except (OSError, ValueError, RuntimeError) as error:
            # Not to be cached is no news; what the hub itself answers is.
            reason = reason if wanted is None else _first_line(error)
            continue
        if found(folder):
            return folder
    at = f" at {revision}" if revision else ""
    raise UsageError(
        f"{what}: {repository}{at} is not in the cache of the hub, or not all of it, and cannot be fetched: "
        f"{reason}. Fetch it where there is a network (hf download), or name local files"
    )


def hub_file(what: str, repository: str, names: Sequence[str]) -> Path:
    """The first of some files that a repository has; see `hub_folder`."""

    def held(folder: Path) -> list[Path]:
        return [folder / name for name in names if (folder / name).is_file()]

    return held(hub_folder(what, repository, lambda folder: bool(held(folder)), [[name] for name in names]))[0]


def _offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), repr(error))
