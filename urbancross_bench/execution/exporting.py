"""A grid as commands, for whoever else hands out work: each carries out some of the runs that are still to do."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from urbancross_bench.execution.status import Status

_PROGRAM = "urbancross-bench"
LARGEST_ARRAY = 1001  # jobs in an array, as Slurm comes


@dataclass(frozen=True)
class Jobs:
    """The runs to do, by key, as many to a command as were asked for; `common` is what all commands share."""

    common: tuple[str, ...]
    keys: tuple[tuple[str, ...], ...]

    @classmethod
    def of(
        cls,
        status: Status,
        grid: str,
        out: Path,
        overrides: Sequence[str],
        plugins: Sequence[Path],
        per_job: int,
    ) -> Jobs:
        """Of a grid, as it was named on the command line, with what was set and the plugins named there."""
        settings = list(overrides)
        if status.plan.grid.executor.partition("[")[0] != "local":  # a command is what another engine has placed
            settings.append("executor=local")
        common = ["run", grid, "--out", str(out), *(part for one in settings for part in ("--set", one))]
        common += [part for file in plugins for part in ("--plugin", str(file))]
        keys = [run.key for run in status.todo]
        grouped = [tuple(keys[first : first + per_job]) for first in range(0, len(keys), per_job)]
        return cls(tuple(common), tuple(grouped))

    def commands(self) -> str:
        """One a line, and a last line that says what remains."""
        lines = [self._line(*(part for key in keys for part in ("--only", key))) for keys in self.keys]
        return "\n".join([*lines, self._afterwards()])

    def slurm(self, name: str, cpus: int, settings: Sequence[tuple[str, str]], parallel: int | None) -> str:
        """An array script for `sbatch`, to be submitted from this folder; `settings` are further options of it."""
        if not self.keys:
            return self._afterwards()
        most = f"%{parallel}" if parallel else ""
        options = [
            ("job-name", name),
            ("array", f"0-{len(self.keys) - 1}{most}"),
            ("cpus-per-task", str(cpus)),
            *settings,
        ]
        lines = ["#!/bin/bash", *(f"#SBATCH --{option}={shlex.quote(value)}" for option, value in options), ""]
        lines += ["only=("]
        lines += [f"  {shlex.quote(' '.join(f'--only {key}' for key in keys))}" for keys in self.keys]
        lines += [")", "# Unquoted: the options of one job are several words, and hold no other spaces."]
        lines += [f"exec {self._line()} ${{only[$SLURM_ARRAY_TASK_ID]}}", "", self._afterwards()]
        return "\n".join(lines)

    def _line(self, *more: str) -> str:
        return shlex.join([_PROGRAM, *self.common, *more])

    def _afterwards(self) -> str:
        when = "once all have ended" if self.keys else "nothing is to do"
        return f"# {when}; this builds the tables: {self._line()}"
