"""Which devices this machine has: torch knows, which takes seconds to import."""

from __future__ import annotations

import os

VISIBLE = "CUDA_VISIBLE_DEVICES"


def checked_device(name: str) -> str:
    """The device stages run on, `auto` resolved. Raises UsageError for what is not there."""
    if name == "cpu":
        return name
    from urbancross_bench.modelling.runtime import resolve_device

    return str(resolve_device(name))


def cuda_devices(device: str) -> tuple[str, ...]:
    """What `cuda` (all) or `cuda:N` are, as `VISIBLE` names them."""
    import torch

    named = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    every = tuple(named or map(str, range(torch.cuda.device_count())))
    number = device.partition(":")[2]
    return (every[int(number)],) if number else every
