"""The table of what was spent: time and energy of the trainings behind a leaderboard.

It is made from provenance, which differs whenever a run is repeated, so it stands in a file of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from urbancross_bench.interfaces.renderer import Cell, Table
from urbancross_bench.leaderboard.view import View
from urbancross_bench.records import Record

Stages = dict[str, Mapping[str, Any]]  # key → provenance

_PRETRAIN, _ADAPT = "pretrain", "adapt"

_MINUTE, _HOUR = 60.0, 3600.0  # seconds
_WATT_HOUR = 3600.0  # joules
_NOTES = (
    "Trainings alone: packing, embedding and ranking are not counted. A training that several runs share is "
    "counted once in a line and once in the last one, so lines do not add up to it.",
    "CPU hours: user and system time of the process. GPU hours: wall-clock time of each GPU, 0 without any. "
    "Energy: of all that ran meanwhile on the device. A sum with an unknown part is unknown.",
)


def cost_table(records: Sequence[Record], view: View) -> Table:
    """A line per encoder and adaptation, then one for everything; null where a training does not say."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record.spec["encoder"]["label"], record.spec["adaptation"]["label"]), []).append(record)
    lines = [_line(*key, groups[key]) for key in sorted(groups)]
    lines.append(_line("all", None, records))
    return Table.of_lines("cost", f"{view.title}: what was spent", lines, _NOTES)


def _line(encoder: str, adaptation: str | None, records: Sequence[Record]) -> dict[str, Cell]:
    stages: dict[str, Stages] = {_PRETRAIN: {}, _ADAPT: {}}
    for record in records:
        for name, key, facts in _trainings(record):
            stages[name][key] = stages[name].get(key) or facts  # not every record of a shared one may know it
    both = [*stages[_PRETRAIN].values(), *stages[_ADAPT].values()]
    devices = sorted({str(facts["device"]) for facts in both if facts.get("device")})
    return {
        "encoder": encoder,
        "adaptation": adaptation,
        "runs": len(records),
        "adaptations trained": len(stages[_ADAPT]),
        "minutes": _sum(stages[_ADAPT].values(), _seconds, _MINUTE),
        "pre-trainings": len(stages[_PRETRAIN]),
        "minutes of pre-training": _sum(stages[_PRETRAIN].values(), _seconds, _MINUTE),
        "CPU hours": _sum(both, lambda facts: facts.get("cpu_seconds"), _HOUR),
        "GPU hours": _sum(both, _gpu_seconds, _HOUR),
        "GPU energy, Wh": _sum(both, lambda facts: _energy(facts, "gpu"), _WATT_HOUR),
        "CPU energy, Wh": _sum(both, lambda facts: _energy(facts, "cpu"), _WATT_HOUR),
        "devices": ", ".join(devices) or None,
    }


def _trainings(record: Record) -> list[tuple[str, str, Mapping[str, Any]]]:
    """(pretrain or adapt, key, provenance) of every training of a run; of a failed one those that are known."""
    stages, said = record.spec.get("stages"), record.provenance()
    if not stages:
        return []
    names = {_PRETRAIN: stages[_PRETRAIN]}
    # Trials of a search after the first have a number.
    names |= {f"{_ADAPT} {n}" if n else _ADAPT: key for n, key in enumerate(stages[_ADAPT])}
    return [(name.split(" ")[0], key, said.get(name, {})) for name, key in names.items()]


def _sum(
    stages: Iterable[Mapping[str, Any]], of: Callable[[Mapping[str, Any]], float | None], unit: float
) -> float | None:
    values = [of(facts) for facts in stages]
    known = [value for value in values if value is not None]
    return math.fsum(known) / unit if len(known) == len(values) else None


def _seconds(facts: Mapping[str, Any]) -> float | None:
    return facts.get("seconds")


def _gpu_seconds(facts: Mapping[str, Any]) -> float | None:
    if "gpus" not in facts or "ranks" not in facts:
        return None
    return float(facts["seconds"] * facts["ranks"]) if facts["gpus"] else 0.0


def _energy(facts: Mapping[str, Any], device: str) -> float | None:
    used: Mapping[str, float | None] = facts.get("energy_joules") or {}
    return used.get(device)
