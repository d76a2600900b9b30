"""The slurm executor: every task a Slurm job, submitted through submitit."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from urbancross_bench.errors import UsageError
from urbancross_bench.interfaces import Event, Executor, Task
from urbancross_bench.interfaces.executor import Outcome
from urbancross_executors import here
from urbancross_executors.events import Told
from urbancross_executors.options import SlurmOptions
from urbancross_executors.signals import uninterrupted

_LOOKED = 1.0  # seconds between two looks at what was told
_ASKED = 30.0  # seconds between two questions to Slurm: one for all jobs
_STOPPED = 10.0  # seconds that local jobs have to stop in
_ANSWERED = 60.0  # seconds that squeue has to answer in
_AGAIN = 60.0  # seconds until a job that was not taken is offered again
_REFUSED = 600.0  # seconds without any job of ours after which one that is not taken has failed
_GONE = 300.0  # seconds without a word after which a job has failed that Slurm says it does not know
_SILENT = 3600.0  # the same where Slurm says nothing of it
_UNKNOWN = "UNKNOWN"
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


@dataclass(eq=False)
class _Running:
    job: Any
    told: Told
    heard: float  # when it, or Slurm, last said that it is there; by the monotonic clock


@dataclass(frozen=True, eq=False)
class _Waiting:
    """A task whose job Slurm did not take yet."""

    task: Task
    told: Told
    error: str


class SlurmExecutor(Executor):
    """Jobs of one task each. Slurm never runs one again: that is the scheduler's to decide."""

    options_type = SlurmOptions

    def __init__(self, options: SlurmOptions) -> None:
        super().__init__(options)
        self._submitit = here.module("submitit", "slurm")
        self._asked = options
        self._token = uuid.uuid4().hex[:8]  # in the names of jobs: those of this command alone
        self._modules: tuple[str, ...] = ()
        self._running: list[_Running] = []
        self._waiting: list[_Waiting] = []
        self._looked = self._offered = float("-inf")
        self._present: float | None = None  # when a job of ours was last in the queue or running
        self._in_queue: dict[str, str] | None = {}  # what squeue last answered

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
        """Queue a job for it. Raises UsageError if Slurm has taken none yet, and does not take this one.

        Later one that is not taken is offered again: there may be too many in the queue, or Slurm may be busy.
        """
        told = Told(task)
        try:
            error = None if self._waiting else self._take(task, told)
        except BaseException:
            if all(running.told is not told for running in self._running):  # else `close` forgets it
                told.forget()
            raise
        if error and self._present is None:
            told.forget()
            raise UsageError(f"executor 'slurm': the job was not taken: {error}")
        if error or self._waiting:
            self._wait_with(task, told, error or self._waiting[-1].error)

    def _take(self, task: Task, told: Told) -> str:
        """Have Slurm take a job; why it does not, or nothing."""
        utils = self._submitit.core.utils
        asked = self.parameters(task)
        with uninterrupted():  # else nobody would cancel a job that Slurm has taken and not numbered yet
            try:
                executor = self._submitit.AutoExecutor(
                    Path(task.log).parent / "slurm", cluster=self._asked.cluster
                )
                executor.update_parameters(**asked)
                job = executor.submit(_job, here.placed(task), self._modules, str(told.file), here.environment())
            except KeyboardInterrupt:  # the second
                self._cancel(asked["name"])
                raise
            except (utils.FailedJobError, utils.FailedSubmissionError, RuntimeError, OSError) as error:
                # It may have ended, of Ctrl-C or of a timeout, when it was about to say which job it is.
                self._cancel(asked["name"])
                return str(error) or type(error).__name__
            self._present = time.monotonic()
            self._running.append(_Running(job, told, self._present))
            return ""

    def _cancel(self, name: str) -> None:
        """Cancel the job of this name, if there is one, whose number is not known; no Ctrl-C reaches that."""
        if self._asked.cluster == "slurm":
            command = ["scancel", f"--name={name}", f"--user={os.getuid()}"]
            with suppress(OSError, subprocess.SubprocessError):
                subprocess.run(
                    command, check=False, timeout=_ANSWERED, capture_output=True, start_new_session=True
                )

    def _wait_with(self, task: Task, told: Told, error: str) -> None:
        if not self._waiting:
            # Why, submitit has printed.
            print("executor 'slurm': the job was not taken, and is offered again now and then", file=sys.stderr)
            self._offered = time.monotonic()
        self._waiting.append(_Waiting(task, told, error))

    def _offer_again(self) -> list[Event]:
        """Have Slurm take what it refused, now and then; what it refused for too long has failed."""
        now = time.monotonic()
        if self._running:
            self._present = now
        if self._waiting and now - self._offered >= _AGAIN:
            self._offered = now
            while self._waiting:
                first = self._waiting.pop(0)
                if error := self._take(first.task, first.told):
                    # To the end: it may be that this one is never taken, and others are.
                    self._waiting.append(_Waiting(first.task, first.told, error))
                    break
        if not self._waiting or (self._present or now) > now - _REFUSED:
            return []
        refused, self._waiting = self._waiting, []
        for one in refused:
            one.told.forget()
        return [
            Event(one.told.key, "over", outcome="failed", error=f"Slurm did not take its job: {one.error}")
            for one in refused
        ]

    def parameters(self, task: Task) -> dict[str, Any]:
        """What submitit is asked for."""
        asked, cuda = self._asked, task.device.startswith("cuda")
        memory = asked.memory or (task.memory_limit and _MORE * task.memory_limit / 2**30)
        return {
            "name": f"urbancross-{task.key[:8]}-{self._token}",
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
                news = told.news()  # after Slurm was asked, so that what ended has told all
                events += news
                state = states.get(running.job.job_id, "")
                if news or state not in ("", _UNKNOWN):
                    running.heard = time.monotonic()
                ended = None if told.over else self._ended(running, state)
                if ended:
                    events.append(ended)
                if told.over or ended:
                    told.forget()
                    self._running.remove(running)
                    self._offered = float("-inf")  # there is room in the queue
            events += self._offer_again()
            left = give_up - time.monotonic()
            if events or left <= 0:
                return events
            time.sleep(min(left, _LOOKED))

    def _ended(self, running: _Running, state: str) -> Event | None:
        """That a job is no more which has not said so, if that is what Slurm says, or for want of any word."""
        key, job = running.told.key, running.job
        outcome = outcome_of(state)
        if outcome is not None:
            said = f"the Slurm job {job.job_id} ended as {state} before its task did; see {job.paths.stderr}"
            return Event(key, "over", outcome=outcome, error=said)
        silence = time.monotonic() - running.heard
        if state != _UNKNOWN or silence < (_SILENT if self._in_queue is None else _GONE):
            return None
        job.cancel(check=False)  # should it be there after all
        known = "says nothing of" if self._in_queue is None else "does not know"
        said = (
            f"Slurm {known} the job {job.job_id}, which told nothing for {silence:.0f} s; see {job.paths.stderr}"
        )
        return Event(key, "over", outcome="failed", error=said)

    def _states(self) -> dict[str, str]:
        """Of jobs by id. Slurm is asked now and then; then one question brings the states of all.

        squeue is, which knows of jobs until some minutes after their end; then sacct, which not every Slurm has.
        """
        local = self._asked.cluster == "local"
        if not self._running or (not local and time.monotonic() - self._looked < _ASKED):
            return {}
        self._looked = time.monotonic()
        self._in_queue = None if local else _queue()
        states, asked = {}, False
        for running in self._running:
            name = running.job.job_id
            states[name] = (self._in_queue or {}).get(name, "")
            if not states[name]:
                info = running.job.get_info(mode="cache" if asked else "force")
                states[name] = str(info.get("jobState" if local else "State") or _UNKNOWN)
                asked = True
                # A job that the accounts have as running and the queue does not list was lost with its node.
                if self._in_queue is not None and outcome_of(states[name]) is None:
                    states[name] = _UNKNOWN
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
        for told in [one.told for one in self._running] + [one.told for one in self._waiting]:
            told.forget()
        self._running.clear()
        self._waiting.clear()


def _job(task: Task, modules: Sequence[str], file: str, variables: Mapping[str, str]) -> None:
    """The body of a job. submitit would queue a job anew that Slurm wants to end; here the next `run` goes on."""
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    here.carry_out(task, modules, file, variables)


def _named(option: str) -> tuple[str, str | bool]:
    """`constraint=rome`, or a switch such as `exclusive`."""
    name, equals, value = option.partition("=")
    return name, value if equals else True


def _queue() -> dict[str, str] | None:
    """States of this user's jobs by id, as squeue has them; None if it does not answer."""
    command = ["squeue", "--noheader", "--states=all", "--format=%i %T", f"--user={os.getuid()}"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_ANSWERED).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    words = [line.split() for line in said.splitlines()]
    return {pair[0]: pair[1] for pair in words if len(pair) == 2}
