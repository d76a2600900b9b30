"""What dashboards call the things of a grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from urbancross_bench.interfaces.scenarios import route, sources


def run_title(run: Mapping[str, Any]) -> str:
    """What tells a run from all others; it ends with the beginning of its key, for labels may repeat."""
    parts = [
        route(run["scenario"]),
        run["encoder"]["label"],
        run["adaptation"]["label"],
        f"seed {run['seed']}",
    ]
    return f"{' · '.join(parts)} ({run['key'][:8]})"


def training_title(stage: str, key: str) -> str:
    """A training: two of different encoders may have one label."""
    return f"{stage} ({key[:8]})"


def numbers(values: Mapping[str, float]) -> dict[str, float]:
    """The values of a pass without the step, which is where they stand."""
    return {name: float(value) for name, value in values.items() if name != "step"}


def scored(scores: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """`selector/protocol/domain/metric` → value."""
    return {f"{score}/{name}": float(value) for score, values in scores.items() for name, value in values.items()}


def facts(run: Mapping[str, Any]) -> dict[str, str]:
    """What a run is, in few words, by name."""
    options = run["adaptation"].get("options") or {}
    return {
        "key": run["key"],
        "source": sources(run["scenario"]),
        "target": run["scenario"]["target"],
        "encoder": run["encoder"]["label"],
        "adaptation": run["adaptation"]["label"],
        "seed": str(run["seed"]),
        **{f"adaptation {name}": str(value) for name, value in options.items()},
    }
