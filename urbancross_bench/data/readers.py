"""Readers shared by dataset plugins: image folders and the caption files of the field."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.errors import DataError
from urbancross_bench.identity import file_digest
from urbancross_bench.interfaces.dataset import Domain, ImageSource


def data_folder() -> Path:
    """Where datasets lie: `URBANCROSS_DATA`, or the current folder."""
    return Path(os.environ.get("URBANCROSS_DATA", ".")).resolve()


def data_path(path: str) -> Path:
    """Where a path of a grid lies: absolute as it is, relative below `data_folder`."""
    try:
        return data_folder() / Path(path).expanduser()
    except RuntimeError as error:
        raise DataError(f"path {path!r}: {error}") from error


class FolderImages(ImageSource):
    """Images as files in one folder, decoded by PIL."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        """Raises DataError at once if the folder or one of the files is missing."""
        if not folder.is_dir():
            raise DataError(f"image folder {folder} does not exist")
        outside = [name for name in names if Path(name).is_absolute() or ".." in Path(name).parts]
        if outside:
            raise DataError(f"image name {outside[0]!r} leads out of the image folder {folder}")
        present = {entry.name for entry in os.scandir(folder) if entry.is_file()}
        missing = [name for name in names if name not in present and not (folder / name).is_file()]
        if missing:
            raise DataError(
                f"image folder {folder} lacks {len(missing)} of {len(names)} images, {missing[0]} the first"
            )
        self._paths = [folder / name for name in names]

    def digest(self, index: int) -> str:
        """SHA-256 of the file."""
        try:
            return file_digest(self._paths[index])
        except OSError as error:
            raise DataError(f"image {self._paths[index]} cannot be read: {error}") from error

    def read(self, index: int) -> NDArray[np.uint8]:
        """Decode one file; greyscale and palette images become RGB."""
        from PIL import Image

        path = self._paths[index]
        try:
            with Image.open(path) as image:
                return np.asarray(image.convert("RGB"))
        except Exception as error:  # PIL's decoders raise whatever their format makes them trip over
            raise DataError(f"image {path} cannot be decoded: {error}") from error


def read_karpathy(name: str, file: Path, folder: Path, *, captions_generated: bool = False) -> Domain:
    """A Karpathy-style json: `{"images": [{"filename", "split", "sentences": [{"raw"}]}]}` and its image folder.

    `restval` counts as train, as everywhere in the field. Blank sentences are left out.
    Raises DataError naming the file, and the entry where one is malformed.
    """
    entries = _load_json(file).get("images")
    if not isinstance(entries, list) or not entries:
        raise DataError(f'{file} holds no list "images"; is it a Karpathy-style caption file?')
    names, splits, captions, owners = [], [], [], []
    for index, entry in enumerate(entries):
        try:
            names.append(_text(entry["filename"]))
            splits.append("train" if entry["split"] == "restval" else _text(entry["split"]))
            texts = [_text(sentence["raw"]).strip() for sentence in entry["sentences"]]
        except (KeyError, TypeError, UnicodeEncodeError) as error:
            raise DataError(f'{file}: entry {index} of "images" lacks or garbles {error}') from error
        captions += [text for text in texts if text]
        owners += [index for text in texts if text]
    return Domain(
        name=name,
        image_names=names,
        splits=splits,
        captions=captions,
        image_of_caption=np.asarray(owners, dtype=np.int64),
        images=FolderImages(folder, names),
        captions_generated=captions_generated,
    )


def _text(value: Any) -> str:
    """A string that can be written as UTF-8; anything else raises TypeError or UnicodeEncodeError."""
    if not isinstance(value, str):
        raise TypeError(f"a string: {value!r}")
    value.encode()
    return value


def _load_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"caption file {file} does not exist (relative paths start at URBANCROSS_DATA)") from None
    except OSError as error:
        raise DataError(f"caption file {file} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"caption file {file} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"caption file {file} holds a {type(content).__name__}, not an object")
    return content
