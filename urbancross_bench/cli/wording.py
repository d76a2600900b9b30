"""How the standing of a grid is put into words: the same on the screen, in plain lines and in `status`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from urbancross_bench.cli.amounts import duration
from urbancross_bench.errors import some

if TYPE_CHECKING:
    from urbancross_bench.execution.following import Known, Running, Standing

# In the order in which they are told; the last ones are not the end of a run.
STATES = ("ok", "reused", "failed", "timeout", "oom", "interrupted", "skipped", "running", "to do")
_NAMES = 10  # runs named under one reason


def time_of(standing: Standing, now: float) -> str:
    """`0:42 so far, about 3:10 left`; no estimate where there is nothing to go by, or nothing left."""
    left = standing.seconds_left(now)
    return f"{duration(now)} so far" + (f", about {duration(left)} left" if left else "")


def rate_of(standing: Standing, now: float) -> str:
    """`3.1 stages/min`; empty as long as none is done."""
    rate = standing.rate(now)
    if not rate:
        return ""
    return f"{60 * rate:.1f} stages/min" if rate >= 1 / 60 else f"{3600 * rate:.1f} stages/h"


def counts_of(states: Mapping[str, int]) -> str:
    """`12 ok, 1 failed, 3 to do`."""
    return ", ".join(f"{states[state]} {state}" for state in STATES if states.get(state))


def stages_of(standing: Standing) -> str:
    """`34 done, 1 failed, 2 running, 12 left`."""
    counts = standing.stages().items()
    return ", ".join(f"{count} {what}" for what, count in counts if count or what in ("done", "left"))


def details_of(running: Running, now: float | None) -> list[str]:
    """How far a stage is, the time it will still take, its last loss and the device memory it takes.

    now: None for one that runs no more.
    """
    left = None if now is None else running.left(now)
    return [
        f"{running.fraction:.0%}",
        "" if left is None else f"about {duration(left)} left",
        "" if running.loss is None else f"loss {running.loss:.4g}",
        "" if running.cuda_bytes is None else f"{running.cuda_bytes / 2**30:.1f} GiB",
    ]


def reasons_of(runs: Iterable[Known], logs: Mapping[str, Iterable[Path]]) -> list[str]:
    """Why runs are not well: each reason once, the runs it is of, and the logs that `logs` has for it."""
    groups: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        if run.amiss:
            groups.setdefault((run.state, run.reason or ""), []).append(run.name)
    lines = []
    for (state, reason), names in sorted(groups.items(), key=lambda group: STATES.index(group[0][0])):
        lines.append(f"{state}: {reason}" if reason else state)
        lines.append("  " + (f"{len(names)} runs" if state == "skipped" else some(names, _NAMES, "\n  ")))
        lines += [f"  log: {log}" for log in sorted(set(logs.get(reason, ())))]
    return lines
