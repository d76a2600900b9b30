"""Whether Triton's kernels can be used: it compiles them when they are first called, and needs a C compiler."""

from __future__ import annotations

import warnings
from functools import lru_cache
from importlib.util import find_spec

import torch


def kernels_work(device: torch.device) -> bool:
    """Whether `kernels` can run on a device; tried once a process. Says why where it should and cannot."""
    return device.type == "cuda" and find_spec("triton") is not None and _tried(device)


@lru_cache(maxsize=8)
def _tried(device: torch.device) -> bool:
    try:
        from urbancross_bench.evaluation.kernels import pair_scores

        one = torch.ones((1, 4), device=device)
        place = torch.zeros(1, dtype=torch.int64, device=device)
        return float(pair_scores(one, one, place, place)) == 4.0
    except Exception as error:  # of the compiler, the driver or Triton itself
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        warnings.warn(f"Triton cannot compile for {device}, so ranking takes longer: {reason}", stacklevel=2)
        return False
