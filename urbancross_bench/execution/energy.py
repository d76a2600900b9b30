"""Energy counters of the hardware, where it has some and lets us read them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

_POWERCAP = Path("/sys/class/powercap")
_HIGHEST_WATTS = 1000.0  # that a package of processors may take: a counter has not turned over twice below that


class Energy:
    """What the hardware uses from now on, by everything that runs on it.

    gpus: whether those are of interest. Takes no CUDA device into use.
    """

    def __init__(self, *, gpus: bool) -> None:
        self._began = time.monotonic()
        self._gpus = _gpus() if gpus else {}
        self._packages = _packages()

    def used(self, devices: Sequence[int]) -> dict[str, float | None]:
        """Joules of `gpu`, torch's CUDA devices of these numbers together, and of `cpu`, all processors.

        None: there is no counter, it is not ours to read, or it may have turned over more than once.
        """
        return {"gpu": self._of_gpus(devices), "cpu": self._of_packages()}

    def _of_gpus(self, devices: Sequence[int]) -> float | None:
        if not devices or not self._gpus:
            return None
        import torch

        now = _gpus()
        try:
            # By identity: the system numbers all devices, torch those in `CUDA_VISIBLE_DEVICES`.
            names = [f"GPU-{torch.cuda.get_device_properties(number).uuid}" for number in devices]
            return round(sum(now[name] - self._gpus[name] for name in names), 3)
        except (KeyError, AttributeError, RuntimeError):
            return None

    def _of_packages(self) -> float | None:
        seconds, now, total = time.monotonic() - self._began, _packages(), 0.0
        if not self._packages:
            return None
        for name, (before, turn) in self._packages.items():
            if name not in now or _HIGHEST_WATTS * seconds > turn:
                return None
            total += (now[name][0] - before) % turn
        return round(total, 3)


@cache
def _nvml() -> Any:
    try:
        nvml = import_module("pynvml")
        nvml.nvmlInit()
    except Exception:  # the package is optional, and tells a missing library by errors of its own
        return None
    return nvml


def _gpus() -> dict[str, float]:
    """Joules since the driver was loaded, by identity."""
    nvml, found = _nvml(), {}
    if nvml is not None:
        for number in range(nvml.nvmlDeviceGetCount()):
            with contextlib.suppress(nvml.NVMLError):  # older devices have no such counter
                handle = nvml.nvmlDeviceGetHandleByIndex(number)
                name = nvml.nvmlDeviceGetUUID(handle)
                name = name.decode() if isinstance(name, bytes) else name
                found[name] = nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000
    return found


def _packages() -> dict[str, tuple[float, float]]:
    """RAPL's counters, one per package of processors: joules, and how many make the counter begin anew."""
    found = {}
    for domain in sorted(_POWERCAP.glob("*-rapl:*")):
        with contextlib.suppress(OSError, ValueError):  # usually for root alone
            if (domain / "name").read_text(encoding="ascii").startswith("package"):
                counts = [
                    (domain / name).read_text(encoding="ascii") for name in ("energy_uj", "max_energy_range_uj")
                ]
                found[domain.name] = (int(counts[0]) / 1e6, int(counts[1]) / 1e6)
    return found
