"""Running a grid: what a plan lacks is carried out, and every run leaves its record."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType

from urbancross_bench.execution.keeping import keep_grid
from urbancross_bench.execution.listening import Listener
from urbancross_bench.execution.plan import Plan
from urbancross_bench.execution.provenance import remember_git
from urbancross_bench.execution.recording import Recorder
from urbancross_bench.execution.scheduler import Limits, Scheduler
from urbancross_bench.execution.status import Status, lacks_a_metric, status_of
from urbancross_bench.execution.store import Store
from urbancross_bench.interfaces.executor import Executor


def run_grid(
    plan: Plan,
    out: Path,
    executor: Executor,
    listener: Listener,
    *,
    device: str,
    limits: Limits,
    only: Collection[str],
) -> Counter[str]:
    """Carry out what a plan still lacks. Returns how many runs have which status, `reused` among them.

    only: how keys of runs begin; the others are left alone, unless none is named. Several processes may run grids
    in one folder: each stage is computed by one of them. An interrupt (Ctrl-C, or the signal to terminate) leaves
    records that say so, and KeyboardInterrupt; a second one ends this process at once.

    Raises UsageError if the output folder cannot be written to, or the device is not there.
    """
    store = Store(out / "store")
    recorder = Recorder(plan, out, store, listener.warn)
    store.create()
    remember_git()
    with closing(executor), _interruptible():
        store.clean()
        recorder.clean()
        status = status_of(plan, out, only)
        keep_grid(plan, out)
        _forget_failed_metrics(status, store)
        listener.planned(status)
        counts = Counter({"reused": len(status.reused), "skipped": len(status.skipped)})
        scheduler = Scheduler(status, store, executor, recorder, listener, device, limits)
        try:
            scheduler.run()
        except KeyboardInterrupt:
            executor.close()
            scheduler.interrupt()
            raise
        finally:
            counts += scheduler.counts
            listener.finished(counts)
    return counts


def _forget_failed_metrics(status: Status, store: Store) -> None:
    """Remove the stored stages that are to be done again; records keep what they had until there is better."""
    for stage in status.stages:
        if lacks_a_metric(store, stage):
            with store.holding(stage.key, wait=False) as free:
                if free and lacks_a_metric(store, stage):  # no other process has done it again since
                    store.remove(store.entry(stage.key))


@contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C and the signal to terminate end a grid in order the first time, at once the second time."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = 0

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        heard += 1
        if heard > 1:
            os._exit(128 + number)  # the stages' processes notice, and end
        raise KeyboardInterrupt

    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
