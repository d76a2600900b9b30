"""Comparing what a plugin gave twice, to the bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

from urbancross_bench.identity import digest


def difference(first: Any, second: Any) -> str:
    """Where two results differ first, in words; empty where they are alike to the bit."""
    one, two = flat(first), flat(second)
    if one.keys() != two.keys():
        return next(iter(sorted(one.keys() ^ two.keys())))
    return next((name for name, value in one.items() if value != two[name]), "")


def flat(value: Any, name: str = "the result") -> dict[str, str]:
    """Every number, text, array and tensor of a result, by its place, as a text that is equal for equal bits."""
    if isinstance(value, Mapping):
        parts = {f"{name}[{key!r}]": part for key, part in value.items()}
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = {f"{name}.{one.name}": getattr(value, one.name) for one in dataclasses.fields(value)}
    elif isinstance(value, Set):
        parts = {f"{name}[{number}]": part for number, part in enumerate(sorted(value, key=repr))}
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        parts = {f"{name}[{number}]": part for number, part in enumerate(value)}
    else:
        return {name: _leaf(value)}
    found = {name: f"{type(value).__name__} of {len(parts)}"}
    for place, part in parts.items():
        found |= flat(part, place)
    return found


def _leaf(value: Any) -> str:
    if hasattr(type(value), "detach"):  # a tensor; torch need not be imported to know one
        value = value.detach().cpu().contiguous()
        value = value.float().numpy() if str(value.dtype) == "torch.bfloat16" else value.numpy()
    if isinstance(value, np.ndarray) and value.dtype != object:
        return f"{value.dtype} {value.shape} {digest([np.ascontiguousarray(value).tobytes()])}"
    return repr(value)
