"""Files of weights that others wrote: what they are, and their content without running any of it."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from urbancross_bench.errors import UsageError

_PAGE = (b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
# A best score kept as a numpy number is common in training checkpoints, and as harmless as a float.
_NUMPY: list[Any] = [
    np.dtype,
    type(np.dtype(np.float64)),
    type(np.dtype(np.float32)),
    type(np.dtype(np.int64)),
    *((np.float64().__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("_core", "core")),
]
# Beside its weights, OpenAI's TorchScript file holds three numbers as buffers.
_OPENAI_NUMBERS = ("input_resolution", "context_length", "vocab_size")


def read_content(path: Path, *, unsafe_pickle: bool = False) -> Any:
    """What a file of weights holds: named tensors, or whatever a training script saved around them.

    A torch file is read with `weights_only`; `unsafe_pickle` lets it run what it likes. Raises UsageError naming
    the file for one that is absent, empty, truncated, a web page, a pointer, a program, or no weights at all.
    """
    kind = _kind(path)
    if kind == "safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise UsageError(f"{path} is damaged or cut short: {error}; fetch it again") from error
    if kind == "torchscript":
        return _scripted(path, unsafe_pickle)
    try:
        with torch.serialization.safe_globals(_NUMPY):
            return torch.load(path, map_location="cpu", weights_only=not unsafe_pickle, mmap=kind == "torch")
    except Exception as error:
        # Errors of any type: with `unsafe_pickle` the file's own code may raise what it wants.
        raise UsageError(_complaint(path, error)) from error


def _kind(path: Path) -> str:
    """`safetensors`, `torch`, `torchscript` or `pickle`, by content."""
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
        return "safetensors"
    if head.startswith(b"PK\x03\x04"):
        return _archive(path)
    if head.startswith(b"\x80"):
        return "pickle"
    raise UsageError(f"{path} is neither safetensors nor a file of torch.save")


def _archive(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise UsageError(f"{path} is damaged or cut short ({error}); fetch it again") from error
    if any(name.endswith("/constants.pkl") for name in names):
        return "torchscript"
    if any(name.endswith("/data.pkl") for name in names):
        return "torch"
    what = "numpy arrays" if any(name.endswith(".npy") for name in names) else "other files"
    raise UsageError(f"{path} is a zip of {what}, not a file of torch.save")


def _scripted(path: Path, unsafe_pickle: bool) -> Mapping[str, torch.Tensor]:
    if not unsafe_pickle:
        raise UsageError(
            f"{path} is a TorchScript archive, a program beside its weights; save its state dict as safetensors, "
            "or give unsafe_pickle=true if you trust where it comes from"
        )
    try:
        state = torch.jit.load(path, map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
    except Exception as error:
        raise UsageError(_complaint(path, error)) from error
    return {name: value for name, value in state.items() if name not in _OPENAI_NUMBERS}


def _complaint(path: Path, error: Exception) -> str:
    text = str(error)
    named = _GLOBAL.search(text)
    if isinstance(error, pickle.UnpicklingError) and (named or "nsupported" in text):
        return (
            f"{path} is a pickle that may run code when opened ({named[1] if named else 'not only tensors'}); "
            "save its state dict as safetensors, or give unsafe_pickle=true if you trust where it comes from"
        )
    return f"{path} is damaged, cut short, or not weights: {text.splitlines()[0] if text else repr(error)}"
