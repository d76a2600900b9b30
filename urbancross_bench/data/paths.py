"""Where data lies."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from urbancross_bench.errors import DataError
from urbancross_bench.files import named_folder


def data_folder() -> Path:
    """Where datasets lie: `URBANCROSS_DATA`, or the current folder.

    Raises UsageError where that starts with `~` and the name of no user.
    """
    return named_folder("URBANCROSS_DATA", ".").resolve()


def relative_start() -> str:
    """What to say beside a path that is not there: where relative ones start, and why there."""
    why = "which URBANCROSS_DATA names" if "URBANCROSS_DATA" in os.environ else "the current folder"
    remedy = "" if "URBANCROSS_DATA" in os.environ else "; URBANCROSS_DATA names another"
    return f"relative paths start at {data_folder()}, {why}{remedy}"


def data_path(path: str) -> Path:
    """Where a path of a grid lies: absolute as it is, relative below `data_folder`."""
    try:
        place = data_folder() / Path(path).expanduser()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            place.lstat()  # a name that is too long for the file system is an error here, once
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"path {path!r} cannot be read: {error}") from error
    return place


def plain_name(name: str) -> str:
    """What all spellings of an image's name have in common: `./a.png` is `a.png`, in a zip too."""
    return PurePosixPath(name).as_posix() if name else ""


def find(folder: Path, names: Iterable[str], what: str) -> Path:
    """The first of some names that is in a folder. Raises DataError naming what is missing and what was tried."""
    names = list(names)
    for name in names:
        if (folder / name).exists():
            return folder / name
    if not folder.is_dir():
        raise DataError(f"folder {folder} does not exist ({relative_start()})")
    raise DataError(f"folder {folder} holds no {what}; looked for {', '.join(names)}")


def images_place(given: str | None, folder: Path, names: Iterable[str] = ("images", "images.zip")) -> Path | None:
    """Where a domain's images lie: as an option says, else the first of some names in the folder.

    `none` says that there are none, and gives None.
    """
    if given is None:
        return find(folder, names, "images (a folder or a zip; option `images` names another, or `none`)")
    return None if given == "none" else data_path(given)
