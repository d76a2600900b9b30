"""The slurm executor: every task a Slurm job, submitted through submitit."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from urbancross_bench.errors import PluginError, UsageError
from urbancross_bench.interfaces import Event, Executor, Task
from urbancross_bench.interfaces.executor import Outcome
from urbancross_executors import here
from urbancross_executors.events import Told
from urbancross_executors.options import SlurmOptions

_LOOKED = 1.0  # seconds between two looks at what was told
_ASKED = 30.0  # seconds between two questions to Slurm: one for all jobs
_STOPPED = 10.0  # seconds that local jobs have to stop in
_MORE = 1.1  # memory of a job to that of its task: who waits for the task's process takes some, too

# What Slurm calls a job that will not go on, and submitit a local one (FINISHED, INTERRUPTED) → what that is here.
ENDED: dict[str, Outcome] = {
    **dict.fromkeys(("COMPLETED", "FINISHED", "FAILED", "INTERRUPTED", "CANCELLED"), "failed"),
    **dict.fromkeys(("PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "REVOKED"), "failed"),
    **dict.fromkeys(("TIMEOUT", "DEADLINE"), "timeout"),
    "OUT_OF_MEMORY": "oom",
}


def outcome_of(state: str) -> Outcome | None:
    """What a state of Slurm's (`CANCELLED by 1000`, `CANCELLED+`) means; None while the job may go on."""
    words = state.split()
    return ENDED.get(words[0].rstrip("+").upper()) if words else None


@dataclass(frozen=True, eq=False)
class _Running:
    job: Any
    told: Told


class SlurmExecutor(Executor):
    """Jobs of one task each. Slurm never runs one again: that is the scheduler's to decide."""

    options_type = SlurmOptions

    def __init__(self, options: SlurmOptions) -> None:
        super().__init__(options)
        try:
            self._submitit: Any = import_module("submitit")
        except ImportError as error:
            raise PluginError(
                f"executor 'slurm' needs the package submitit ({error}): pip install 'urbancross-bench[slurm]'"
            ) from error
        self._asked = options
        self._modules: tuple[str, ...] = ()
        self._running: list[_Running] = []
        self._looked = float("-inf")

    def device(self, name: str) -> str | None:
        """`auto` is `cuda` where `gres` asks for GPUs. The machine that `run` stands on need not have one."""
        if self._asked.cluster == "local":
            return None
        if name == "auto":
            return "cuda" if "gpu" in (self._asked.gres or "") else "cpu"
        return here.named(name)

    def slots(self, device: str, devices: int, threads: int) -> int:
        """As many as the option says: Slurm has a queue of its own."""
        return self._asked.slots

    def preload(self, modules: Sequence[str]) -> None:
        """For the processes that jobs fork."""
        self._modules = tuple(modules)

    def submit(self, task: Task) -> None:
        """Queue a job for it. Raises UsageError if Slurm does not take it."""
        told = Told(task)
        utils = self._submitit.core.utils
        try:
            executor = self._submitit.AutoExecutor(Path(task.log).parent / "slurm", cluster=self._asked.cluster)
            executor.update_parameters(**self.parameters(task))
            job = executor.submit(_job, here.placed(task), self._modules, str(told.file), here.environment())
        except (utils.FailedJobError, utils.FailedSubmissionError, RuntimeError, OSError) as error:
            told.forget()
            raise UsageError(f"executor 'slurm': the job was not taken: {error}") from error
        self._running.append(_Running(job, told))

    def parameters(self, task: Task) -> dict[str, Any]:
        """What submitit is asked for."""
        asked, cuda = self._asked, task.device.startswith("cuda")
        memory = asked.memory or (task.memory_limit and _MORE * task.memory_limit / 2**30)
        return {
            "name": f"urbancross-{task.key[:8]}",
            "timeout_min": asked.minutes,
            "cpus_per_task": task.threads * task.devices,
            "gpus_per_node": task.devices if cuda and asked.gres is None else None,
            "mem_gb": math.ceil(memory * 1024) / 1024 if memory else None,
            "slurm_partition": asked.partition,
            "slurm_account": asked.account,
            "slurm_qos": asked.qos,
            "slurm_gres": asked.gres,
            "slurm_additional_parameters": {"no-requeue": True, **dict(map(_named, asked.additional_parameters))},
        }

    def wait(self, seconds: float) -> list[Event]:
        """What tasks told, and what Slurm knows of jobs that did not get to the end."""
        give_up = time.monotonic() + seconds
        while True:
            states = self._states()
            events: list[Event] = []
            for running in list(self._running):
                told = running.told
                events += told.news()  # after Slurm was asked, so that what ended has told all
                state = states.get(running.job.job_id, "")
                outcome = outcome_of(state)
                if not told.over and outcome is not None:
                    events.append(Event(told.key, "over", outcome=outcome, error=_said(running.job, state)))
                    told.over = True
                if told.over:
                    told.forget()
                    self._running.remove(running)
            left = give_up - time.monotonic()
            if events or left <= 0:
                return events
            time.sleep(min(left, _LOOKED))

    def _states(self) -> dict[str, str]:
        """Of jobs by id. Slurm is asked now and then; then one question brings the states of all."""
        local = self._asked.cluster == "local"
        if not local and time.monotonic() - self._looked < _ASKED:
            return {}
        self._looked = time.monotonic()
        states = {}
        for number, running in enumerate(self._running):
            info = running.job.get_info(mode="cache" if number else "force")
            states[running.job.job_id] = str(info.get("jobState" if local else "State") or "UNKNOWN")
        return states

    def close(self) -> None:
        """Cancel what is queued or runs."""
        for running in self._running:
            running.job.cancel(check=False)
        give_up = time.monotonic() + _STOPPED
        while self._asked.cluster == "local" and time.monotonic() < give_up:
            if not any(state == "RUNNING" for state in self._states().values()):
                break
            time.sleep(0.05)
        for running in self._running:
            running.told.forget()
        self._running.clear()


def _job(task: Task, modules: Sequence[str], file: str, variables: Mapping[str, str]) -> None:
    """The body of a job. submitit would queue a job anew that Slurm wants to end; here the next `run` goes on."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    here.carry_out(task, modules, file, variables)


def _named(option: str) -> tuple[str, str | bool]:
    """`constraint=rome`, or a switch such as `exclusive`."""
    name, equals, value = option.partition("=")
    return name, value if equals else True


def _said(job: Any, state: str) -> str:
    return f"the Slurm job {job.job_id} ended as {state} before its task did; see {job.paths.stderr}"
