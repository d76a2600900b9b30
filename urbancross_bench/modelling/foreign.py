"""Files of weights that others wrote: what they are, and their content without running any of it."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from urbancross_bench.errors import UsageError
from urbancross_bench.modelling.formats import instead, kind_of

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


def read_content(path: Path, *, unsafe_pickle: bool | None) -> Any:
    """What a file of weights holds: named tensors, or whatever a training script saved around them.

    A torch file is read with `weights_only`; `unsafe_pickle` lets it run what it likes. Raises UsageError naming
    the file for one that is absent, empty, truncated, a web page, a pointer, a program, or no weights at all.
    """
    kind = kind_of(path, unsafe_pickle=unsafe_pickle)
    if kind == "safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise UsageError(f"{path} is damaged or cut short: {error}; fetch it again") from error
    if kind == "torchscript":
        return _scripted(path)
    try:
        with torch.serialization.safe_globals(_NUMPY):
            return torch.load(path, map_location="cpu", weights_only=not unsafe_pickle, mmap=kind == "torch")
    except Exception as error:
        # Errors of any type: with `unsafe_pickle` the file's own code may raise what it wants.
        raise UsageError(_complaint(path, error, unsafe_pickle)) from error


def _scripted(path: Path) -> Mapping[str, torch.Tensor]:
    try:
        state = torch.jit.load(path, map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
    except Exception as error:
        raise UsageError(_complaint(path, error, True)) from error
    return {name: value for name, value in state.items() if name not in _OPENAI_NUMBERS}


def _complaint(path: Path, error: Exception, unsafe_pickle: bool | None) -> str:
    text = str(error)
    named = _GLOBAL.search(text)
    if isinstance(error, pickle.UnpicklingError) and (named or "nsupported" in text):
        return (
            f"{path} is a pickle that may run code when opened ({named[1] if named else 'not only tensors'}); "
            f"{instead(unsafe_pickle)}"
        )
    return f"{path} is damaged, cut short, or not weights: {text.splitlines()[0] if text else repr(error)}"
