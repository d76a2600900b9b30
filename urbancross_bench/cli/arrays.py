"""Reading what other code leaves behind: embeddings, maps and lists of names, each error naming its file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.data import text
from urbancross_bench.errors import DataError

_MAPPED = 2**31  # bytes from which a file is mapped into memory and never read as a whole
_ARRAY = re.compile(r"(.+?\.(?:npz|safetensors)):(.*)", re.DOTALL)  # an array's name may hold colons, too
_INDEX = re.compile(r"\s*\d{1,18}\s*")


def read_matrix(place: str) -> Any:
    """A matrix from `.npy`, `.npz` or `.safetensors`; of several arrays in a file, the one named: `F.npz:images`.

    A numpy array, or a torch tensor where numpy lacks the type. Raises DataError.
    """
    path, name = _split(place)
    try:
        match path.suffix:
            case ".npy":
                large = path.stat().st_size > _MAPPED
                found = np.load(path, mmap_mode="r" if large else None, allow_pickle=False)
                if not isinstance(found, np.ndarray):
                    raise DataError(f"{path} is an archive of arrays, whose ending is .npz")
                return found
            case ".npz":
                archive = np.load(path, allow_pickle=False)
                if isinstance(archive, np.ndarray):
                    raise DataError(f"{path} is a single array, whose ending is .npy")
                with archive:
                    return archive[_named(place, name, archive.files)]
            case ".safetensors":
                from safetensors import safe_open

                with safe_open(path, framework="pt") as file:
                    return file.get_tensor(_named(place, name, list(file.keys())))
    except DataError:
        raise
    except Exception as error:  # each format raises errors of its own
        raise DataError(f"{path} cannot be read: {error}") from error
    raise DataError(f"{path}: embeddings are read from .npy, .npz or .safetensors")


def read_map(path: Path) -> NDArray[np.int64]:
    """(M,) the image of each text, from a JSON list, lines of one integer each or `.npy`. Raises DataError."""
    if path.suffix == ".npy":
        values = read_matrix(str(path))
    else:
        content = _listed(_there(path))
        if not isinstance(content, list) or not all(type(entry) is int for entry in content):
            raise DataError(f"{path} must be a list of integers, the image of each text: [0, 0, 0, 0, 0, 1, …]")
        try:
            values = np.array(content, dtype=np.int64)
        except OverflowError as error:
            raise DataError(f"{path}: {error}") from error
    if values.ndim != 1 or not len(values) or not np.issubdtype(values.dtype, np.integer):
        raise DataError(f"{path} must be one list of integers, and not empty; got {values.dtype} {values.shape}")
    return np.asarray(values, dtype=np.int64)


def read_lines(path: Path, count: int, what: str) -> NDArray[np.int64]:
    """(count,) an integer per line, equal for equal lines; what a last newline ends is no further line.

    Raises DataError for a blank line, and unless there are as many lines as `what`.
    """
    from urbancross_bench.data.floors import numbered

    lines = text.read_lines(_there(path))
    blank = next((number for number, line in enumerate(lines, 1) if not line.strip()), None)
    if blank is not None:  # first of all: a stray one is why there are too many, and blank ones would be equal
        raise DataError(
            f"{path}, line {blank} is blank; write what belongs there, "
            f"or remove it if it is none of the {count} {what}"
        )
    if len(lines) != count:
        raise DataError(f"{path} has {len(lines)} lines for {count} {what}; give one line each")
    return numbered(lines)


def _listed(path: Path) -> Any:
    """The integers of a file with one a line, or what one of JSON holds."""
    if path.suffix == ".json":
        return text.read_json(path)
    lines = text.read_lines(path)
    if "".join(lines).lstrip().startswith("["):
        return text.read_json(path)
    wrong = next((number for number, line in enumerate(lines, 1) if not _INDEX.fullmatch(line)), None)
    if wrong is not None:
        raise DataError(f"{path}, line {wrong} is no index of an image; write an integer from 0 on each line")
    return [int(line) for line in lines]


def _there(path: Path) -> Path:
    if not path.exists():
        raise DataError(f"there is no file {path}")
    return path


def _split(place: str) -> tuple[Path, str]:
    found = _ARRAY.fullmatch(place)
    return (Path(found[1]), found[2]) if found else (Path(place), "")


def _named(place: str, name: str, known: list[str]) -> str:
    if not name and len(known) == 1:
        return known[0]
    if name not in known:
        lacking = f"has no array {name!r}" if name else "holds several arrays"
        raise DataError(f"{place} {lacking}; name one of {', '.join(sorted(known))} after a colon")
    return name
