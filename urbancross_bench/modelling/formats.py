"""What a file of weights is, as far as its bytes say, and what stands in the configs beside it. No torch."""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open

from urbancross_bench.data.index import signature
from urbancross_bench.errors import UsageError

_PAGE = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")
# What a config says of its file's history, not of the model.
_HISTORY = {"_name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype"}

Kind = Literal["safetensors", "torch", "torchscript", "pickle"]
Colour = tuple[float, float, float]


def kind_of(path: Path, *, unsafe_pickle: bool | None = False) -> Kind:
    """What a file is, by content: a zip of torch is `torch`, torch's older files are `pickle`.

    unsafe_pickle: whether a program may be opened; None where a user has no such option, and so is not told of it.
    Raises UsageError naming the file for one that is absent, empty, truncated, a web page, a pointer, no weights
    at all, or a program, and for a zip with a member whose content is not the one that was saved. What is told by
    a table of contents is told; the tensors of safetensors, and all of a pickle, are not looked at.
    """
    try:
        with path.open("rb") as file:
            head = file.read(256)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}") from error
    if not head:
        raise UsageError(f"{path} is empty; fetch it again")
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGE):
        raise UsageError(f"{path} is a web page, not weights; fetch the file itself, not the page that shows it")
    if head.startswith(b"version https://git-lfs"):
        raise UsageError(f"{path} is a Git LFS pointer, not weights; `git lfs pull` fetches the file")
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 2**32:
        names_in(path)
        return "safetensors"
    if head.startswith(b"PK\x03\x04"):
        return _archive(path, unsafe_pickle)
    if head.startswith(b"\x80"):
        return "pickle"
    raise UsageError(f"{path} is neither safetensors nor a file of torch.save")


def names_in(path: Path) -> list[str]:
    """The names of the tensors of a safetensors file. Raises UsageError for one that is damaged or cut short."""
    try:
        with safe_open(path, framework="numpy") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise UsageError(f"{path} is damaged or cut short: {error}; fetch it again") from error


def instead(unsafe_pickle: bool | None) -> str:
    """What to do with a file that may run code."""
    trusting = "" if unsafe_pickle is None else ", or give unsafe_pickle=true if you trust where it comes from"
    return f"save its state dict as safetensors{trusting}"


def read_config(path: Path) -> dict[str, Any]:
    """What stands in a json file of transformers. Raises UsageError where that is no object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path} holds no json object")
    return found


def weight_map(index: Path) -> dict[str, str]:
    """Of an index of several files: the name of each tensor, and that of the file beside the index that it is in.

    Raises UsageError where it does not say that.
    """
    names = read_config(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise UsageError(f"{index} has no weight_map, which says what each file holds; fetch it again")
    for file in names.values():
        if not isinstance(file, str) or file != Path(file).name:
            raise UsageError(f"{index}: its weight_map names {file!r}, which is no file beside it")
    return names


def image_processor_in(folder: Path) -> tuple[Path, dict[str, Any]]:
    """The file of a folder's image processor, which since transformers 5 may be the processor's, and what it says.

    The folder itself, and nothing, where there is none. Raises UsageError for a file that cannot be read.
    """
    for name, inside in (("preprocessor_config.json", None), ("processor_config.json", "image_processor")):
        if (folder / name).is_file():
            found = read_config(folder / name)
            said = found if inside is None else found.get(inside)
            if isinstance(said, dict) and said:
                return folder / name, said
    return folder, {}


def without_history(config: Any) -> Any:
    """What a config.json of transformers says of the model, and of the models that it is made of, alone."""
    if isinstance(config, Mapping):
        return {name: without_history(value) for name, value in config.items() if name not in _HISTORY}
    return [without_history(value) for value in config] if isinstance(config, list) else config


def expect_scaled(said: Mapping[str, Any], what: str) -> None:
    """Raise UsageError that starts with `what` where an image processor of transformers says of pixels that they
    do not come to [0, 1], as they do for all models that are known here.
    """
    factor = said.get("rescale_factor", 1 / 255) if said.get("do_rescale", True) else 1
    if not isinstance(factor, (int, float)) or not abs(factor * 255 - 1) <= 1e-6:
        raise UsageError(f"{what} pixels are scaled by {factor}, not by 1/255; that is not supported")


def mean_of_pixels(value: Any, what: str) -> Colour:
    """What is subtracted from pixels in [0, 1], per channel; one number is that of all three.

    Raises UsageError that starts with `what`, the file and what it calls the value.
    """
    mean = _channels(value, what)
    if not all(0 <= part <= 1 for part in mean):
        raise UsageError(
            f"{what} is {value!r}; it is a mean of pixels in [0, 1] (divide by 255 if they went to 255)"
        )
    return mean


def deviation_of_pixels(value: Any, what: str) -> Colour:
    """What pixels are divided by. Raises UsageError as `mean_of_pixels` does."""
    deviation = _channels(value, what)
    if not all(0 < part < math.inf for part in deviation):
        raise UsageError(f"{what} is {value!r}; pixels are divided by it, so it is finite and above 0")
    return deviation


def _channels(value: Any, what: str) -> Colour:
    if isinstance(value, (int, float)):
        value = [value] * 3
    try:
        red, green, blue = map(float, () if isinstance(value, str) else value)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{what} is {value!r}, not three numbers") from error
    return red, green, blue


def _archive(path: Path, unsafe_pickle: bool | None) -> Kind:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise UsageError(f"{path} is damaged or cut short ({error}); fetch it again") from error
    if any(name.endswith("/constants.pkl") for name in names):
        if not unsafe_pickle:
            raise UsageError(
                f"{path} is a TorchScript archive, a program beside its weights; {instead(unsafe_pickle)}"
            )
        _expect_sound(path)
        return "torchscript"
    if any(name.endswith("/data.pkl") for name in names):
        _expect_sound(path)
        return "torch"
    what = "numpy arrays" if any(name.endswith(".npy") for name in names) else "other files"
    raise UsageError(f"{path} is a zip of {what}, not a file of torch.save")


def _expect_sound(path: Path) -> None:
    """Raise UsageError for a zip with a damaged member: torch itself looks at no checksum."""
    sign = signature(path)
    damaged = _damaged_member(path, sign) if sign else _damaged_member.__wrapped__(path, sign)
    if damaged is not None:
        raise UsageError(f"{path} is damaged: its member {damaged} is not what was saved; fetch it again")


@lru_cache(maxsize=256)
def _damaged_member(path: Path, _sign: str) -> str | None:
    """The first whose content has another checksum, looked for once for as long as the file's times stay."""
    try:
        with zipfile.ZipFile(path) as archive:
            # torch may be told to save without checksums, and writes zeros; then there is nothing to hold to.
            if not any(member.CRC for member in archive.infolist()):
                return None
            return archive.testzip()
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError) as error:
        raise UsageError(f"{path} is damaged or cut short ({error}); fetch it again") from error
