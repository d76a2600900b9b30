"""Executors of clusters: what they hand out, what they hear, and what they make of jobs that die."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from urbancross_bench.errors import PluginError, UsageError
from urbancross_bench.execution.stage import Stage
from urbancross_bench.execution.store import Store
from urbancross_bench.interfaces import Event, Executor, Task
from urbancross_bench.registry import Registry
from urbancross_executors import here, on_slurm
from urbancross_executors.events import Told, telling
from urbancross_executors.options import RayOptions, SlurmOptions

PATIENCE = 120.0  # seconds until a test gives up


@pytest.fixture
def task(tmp_path: Path) -> Callable[..., Task]:
    """A task of one stage of a kind that nobody knows: it fails as soon as it has begun."""
    store = Store(tmp_path / "store")
    store.create()

    def make(number: int = 0, **changes: Any) -> Task:
        stage = Stage("nothing", {"number": number})  # type: ignore[arg-type]
        log = str(store.log(stage))
        made = Task(stage.key, (stage.to_json(),), str(store.root), str(tmp_path), log, "cpu")
        return replace(made, **changes)

    return make


def heard(executor: Executor, count: int) -> dict[str, list[Event]]:
    """The events of so many tasks, by task, until all are over."""
    events: dict[str, list[Event]] = {}
    give_up = time.monotonic() + PATIENCE
    while sum(event.kind == "over" for told in events.values() for event in told) < count:
        assert time.monotonic() < give_up, events
        for event in executor.wait(1.0):
            events.setdefault(event.key, []).append(event)
    return events


def check_failed_stage(told: list[Event]) -> None:
    """What a task of an unknown kind has to tell, and no more."""
    assert [event.kind for event in told] == ["started", "ended", "over"]
    assert (told[1].outcome, told[2].outcome) == ("failed", "ok")
    assert told[1].error is not None
    assert "nothing" in told[1].error
    assert "KeyError" in (told[1].traceback or "")
    assert told[2].error is None


def test_events_come_through_a_file_whole_in_order_and_once(task: Callable[..., Task]) -> None:
    said = [
        Event("a", "started"),
        Event("a", "progress", 0.25, {"cuda_bytes": 5.0}),
        Event("a", "values", values={"loss": math.nan}),
        Event("a", "ended", outcome="oom", error="ä\nb", traceback="t", damaged=("x", "y")),
        Event("b", "over"),
    ]
    told = Told(task())
    assert told.news() == []
    with telling(str(told.file)) as tell:
        tell(said[0])
        assert told.news() == said[:1]
        assert told.news() == []
        for event in said[1:]:
            tell(event)
    _, line, *_ = told.file.read_bytes().splitlines(keepends=True)
    several = told.news()
    assert repr(several) == repr(said[1:])  # a NaN is not equal to itself
    assert told.over
    with told.file.open("ab") as stream:  # killed amid a line
        stream.write(line[:-5])
    assert told.news() == []
    told.forget()
    assert not told.file.exists()


def test_two_hand_out_one_task_without_hearing_each_other(task: Callable[..., Task]) -> None:
    one, two = Told(task()), Told(task())
    with telling(str(one.file)) as tell:
        tell(Event("a", "over"))
    assert two.news() == []
    assert one.news() == [Event("a", "over")]


def test_the_way_to_the_machine_is_told_of_as_an_error(
    task: Callable[..., Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(here.LocalExecutor):
        def submit(self, task: Task) -> None:
            raise OSError("no process left")

    monkeypatch.setattr(here, "LocalExecutor", Broken)
    told = Told(task())
    here.carry_out(task(), (), str(told.file), {})
    [event] = told.news()
    assert (event.kind, event.outcome, event.error) == ("over", "failed", "OSError: no process left")


@pytest.mark.parametrize(("name", "package", "extra"), [("ray", "ray", "ray"), ("slurm", "submitit", "slurm")])
def test_a_missing_package_is_named(name: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    resolved = Registry.discover().resolve("executor", name)
    with pytest.raises(PluginError, match=rf"pip install 'urbancross-bench\[{extra}\]'"):
        resolved.build()


@pytest.mark.parametrize(
    ("state", "outcome"),
    [
        ("", None),
        ("UNKNOWN", None),
        ("PENDING", None),
        ("RUNNING", None),
        ("COMPLETING", None),
        ("COMPLETED", "failed"),  # without a last word
        ("FAILED", "failed"),
        ("CANCELLED by 1000", "failed"),
        ("CANCELLED+", "failed"),
        ("PREEMPTED", "failed"),
        ("NODE_FAIL", "failed"),
        ("TIMEOUT", "timeout"),
        ("OUT_OF_MEMORY", "oom"),
    ],
)
def test_states_of_slurm_are_outcomes(state: str, outcome: str | None) -> None:
    assert on_slurm.outcome_of(state) == outcome


SLURM = """#!{python}
import json, pathlib, sys
folder = pathlib.Path({folder!r})
name = pathlib.Path(sys.argv[0]).name
with (folder / "calls").open("a") as calls:
    calls.write(json.dumps([name, *sys.argv[1:]]) + "\\n")
if name == "sbatch":
    number = len(list(folder.glob("*.sh")))
    (folder / f"{{number}}.sh").write_text(pathlib.Path(sys.argv[1]).read_text())
    (folder / f"{{number}}.state").write_text("RUNNING")
    print("Submitted batch job", number)
if name == "sacct":
    print("JobID|State|NodeList")
    for file in folder.glob("*.state"):
        print(file.stem, file.read_text(), "node7", sep="|")
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Slurm's commands, which write down what they were called with; jobs are in the state that a file says."""
    pytest.importorskip("submitit")
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name in ("sbatch", "sacct", "scancel", "srun"):
        (folder / name).write_text(SLURM.format(python=sys.executable, folder=str(folder)))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(on_slurm, "_ASKED", 0.0)
    return folder


def calls(slurm: Path, name: str) -> list[list[str]]:
    lines = (slurm / "calls").read_text().splitlines()
    return [words[1:] for words in map(json.loads, lines) if words[0] == name]


def test_jobs_ask_slurm_for_what_tasks_need(task: Callable[..., Task], slurm: Path) -> None:
    options = SlurmOptions(
        minutes=90,
        partition="gpu",
        account="us",
        qos="low",
        additional_parameters=("constraint=rome", "exclusive"),
    )
    executor = on_slurm.SlurmExecutor(options)
    executor.submit(task(1, device="cuda:1", devices=2, threads=3, memory_limit=10 * 2**30))
    executor.submit(task(2))
    script = (slurm / "0.sh").read_text()
    asked = dict(
        (line.removeprefix("#SBATCH --") + "=").split("=")[:2]
        for line in script.splitlines()
        if line.startswith("#SBATCH")
    )
    wanted = {
        "time": "90",
        "partition": "gpu",
        "account": "us",
        "qos": "low",
        "constraint": "rome",
        "cpus-per-task": "6",
        "gpus-per-node": "2",
        "no-requeue": "",
        "exclusive": "",
    }
    assert wanted.items() <= asked.items()
    assert asked["mem"] == "11GB"
    plain = (slurm / "1.sh").read_text()
    assert "gpus" not in plain
    assert "--mem" not in plain
    executor.close()
    assert sorted(words[0] for words in calls(slurm, "scancel")) == ["0", "1"]


def test_a_job_that_slurm_ends_costs_its_task(task: Callable[..., Task], slurm: Path) -> None:
    with closing(on_slurm.SlurmExecutor(SlurmOptions())) as executor:
        for number in range(3):
            executor.submit(task(number))
        files = [running.told.file for running in executor._running]
        with telling(str(files[0])) as tell:  # as the job would
            tell(Event("stage", "started"))
        assert executor.wait(0.0) == [Event("stage", "started")]
        (slurm / "0.state").write_text("TIMEOUT")
        (slurm / "1.state").write_text("OUT_OF_MEMORY")
        events = heard(executor, 2)
        over = {key: told[-1] for key, told in events.items()}
        assert [over[task(number).key].outcome for number in range(2)] == ["timeout", "oom"]
        assert all("the Slurm job" in (event.error or "") for event in over.values())
        with telling(str(files[2])) as tell:  # its last word counts, not what Slurm says after it
            tell(Event(task(2).key, "over"))
        (slurm / "2.state").write_text("COMPLETED")
        assert heard(executor, 1) == {task(2).key: [Event(task(2).key, "over")]}
        assert executor.wait(0.0) == []
        assert not any(file.exists() for file in files)
    assert calls(slurm, "scancel") == []


def test_without_slurm_the_error_says_so(
    task: Callable[..., Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", str(tmp_path))
    executor = on_slurm.SlurmExecutor(SlurmOptions())
    with pytest.raises(UsageError, match="srun"):
        executor.submit(task())
    assert not list(tmp_path.rglob("*.events"))


@pytest.mark.slow
def test_submitits_local_cluster_carries_tasks_out(task: Callable[..., Task]) -> None:
    pytest.importorskip("submitit")
    with closing(on_slurm.SlurmExecutor(SlurmOptions(cluster="local", minutes=5))) as executor:
        executor.preload(())
        executor.submit(task())
        events = heard(executor, 1)
    check_failed_stage([event for told in events.values() for event in told])


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """The package, with no cluster of ours left behind."""
    module = pytest.importorskip("ray")
    yield module
    assert not module.is_initialized()


HANG = """
import json, os, pathlib, threading
import psutil
from urbancross_bench.execution.stages import STAGES
def hang(job):
    one = psutil.Process()
    [server, worker, *_] = one.parents()
    pathlib.Path(os.environ["URBANCROSS_DATA"], "pids").write_text(json.dumps([one.pid, worker.pid]))
    job.say(0.5)
    threading.Event().wait()
STAGES["hang"] = hang
"""


@pytest.mark.slow
def test_a_ray_cluster_of_our_own(
    task: Callable[..., Task], ray: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is killed amid its task costs that task alone; so does a task that runs into its limit."""
    import psutil

    from urbancross_executors.on_ray import RayExecutor

    (tmp_path / "hanging.py").write_text(HANG)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))  # the processes that workers fork import it
    stage = Stage("hang", {"number": 0})  # type: ignore[arg-type]
    hanging = task(2, key="hanging", stages=(stage.to_json(),))
    terminating = signal.getsignal(signal.SIGTERM)
    with closing(RayExecutor(RayOptions(cpus=2))) as executor:
        assert executor.slots("cpu", 1, 1) == 2
        assert signal.getsignal(signal.SIGTERM) is terminating  # it is the grid's, not ray's
        assert executor.slots("cpu", 1, 2) == 1
        with pytest.raises(UsageError, match="3 CPU"):
            executor.slots("cpu", 3, 1)
        with pytest.raises(UsageError, match="GPU"):
            executor.slots("cuda", 1, 1)
        assert executor.device("auto") == "cpu"
        executor.preload(["hanging"])
        executor.submit(task(1))
        executor.submit(hanging)
        events: list[Event] = []
        give_up = time.monotonic() + PATIENCE
        while not any(event.kind == "progress" for event in events):
            assert time.monotonic() < give_up, events
            events += executor.wait(1.0)
            assert not any(event.key == "hanging" for event in events), events
        process, worker = map(psutil.Process, json.loads((tmp_path / "pids").read_text()))
        worker.kill()
        rest = heard(executor, 2 - sum(event.kind == "over" for event in events))
        events += [event for told in rest.values() for event in told]
        check_failed_stage([event for event in events if event.key == task(1).key])
        assert [event.kind for event in events if event.key == stage.key] == ["started", "progress"]
        [over] = [event for event in events if event.key == "hanging"]
        assert (over.kind, over.outcome) == ("over", "failed")
        assert "the ray worker died" in (over.error or "")
        assert psutil.wait_procs([process], timeout=PATIENCE)[1] == []  # what it forked ends with it
        executor.submit(replace(hanging, time_limit=0.5))
        over = heard(executor, 1)["hanging"][-1]
        assert (over.kind, over.outcome) == ("over", "timeout")
        (tmp_path / "pids").unlink()
        executor.submit(hanging)
        while not any(event.kind == "progress" for event in executor.wait(1.0)):
            assert time.monotonic() < give_up
        process = psutil.Process(json.loads((tmp_path / "pids").read_text())[0])
    assert psutil.wait_procs([process], timeout=PATIENCE)[1] == []
    assert not ray.is_initialized()
    assert not list(tmp_path.rglob("*.events"))


@pytest.mark.parametrize(
    ("options", "name", "device"),
    [
        ({}, "auto", "cpu"),
        ({"gres": "gpu:a100:1"}, "auto", "cuda"),
        ({}, "cuda:3", "cuda"),
        ({}, "cpu", "cpu"),
        ({}, "cdua", None),  # left to whoever knows what is wrong with it
        ({"cluster": "local"}, "auto", None),
    ],
)
def test_the_device_is_that_of_the_jobs(options: dict[str, Any], name: str, device: str | None) -> None:
    pytest.importorskip("submitit")
    assert on_slurm.SlurmExecutor(SlurmOptions(**options)).device(name) == device
