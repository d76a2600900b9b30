"""The versions of the code that a stage's result depends on."""

from __future__ import annotations

from functools import cache

from urbancross_bench.data.decode import DECODERS
from urbancross_bench.identity import library_versions
from urbancross_bench.sources import own_version


@cache
def core(room: str) -> str:
    """A room of the core, and the stages themselves."""
    rooms = [room, "execution.stages", "execution.job", "execution.preparing"]
    if room == "modelling":
        rooms += ["execution.training", "execution.items", "data.views", "interfaces.adaptation"]
        rooms += ["execution.specification"]  # what weights say of themselves
    if room == "evaluation":
        rooms += [f"execution.{name}" for name in ("items", "selection", "scoring", "drift")]
        rooms += ["data.floors", "data.domain", "interfaces.metric", "interfaces.selector"]
    versions = [own_version(f"urbancross_bench.{name}") for name in rooms]
    return " ".join(dict.fromkeys(versions))


@cache
def decoders() -> dict[str, str]:
    """What turns files into pixels."""
    return library_versions(*DECODERS)
