"""Executors of clusters: what they hand out, what they hear, and what they make of jobs that die."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from executor_tasks import PATIENCE, check_failed_stage, heard, maker

from urbancross_bench.errors import PluginError, UsageError
from urbancross_bench.execution.stage import Stage
from urbancross_bench.interfaces import Event, Task
from urbancross_bench.registry import Registry
from urbancross_executors import events, here
from urbancross_executors.events import Told, telling
from urbancross_executors.options import RayOptions


@pytest.fixture
def task(tmp_path: Path) -> Callable[..., Task]:
    """Makes tasks."""
    return maker(tmp_path)


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


KILLED = """
import os, sys
from pathlib import Path
from urbancross_bench.interfaces import Task
from urbancross_executors.events import Told
told = Told(Task("left", (), "", "", sys.argv[1], "cpu"))
print(told.file, flush=True)
sys.stdin.read()
"""


def test_files_of_a_killed_run_are_removed_and_those_of_others_stay(
    task: Callable[..., Task], tmp_path: Path
) -> None:
    ours = Told(task())
    log = Path(task().log).with_name("adapt-other.log")
    command = [sys.executable, "-c", KILLED, str(log)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    theirs = Path(process.stdout.readline().strip())
    second = Told(task(1))
    assert {ours.file, theirs, second.file} == set(tmp_path.rglob("*.events"))
    process.kill()
    process.communicate()
    assert theirs.exists()
    third = Told(task(2))
    assert {ours.file, second.file, third.file} == set(tmp_path.rglob("*.events"))
    with telling(str(theirs)) as tell:  # by a job of the killed one, which begins only now
        tell(Event("a", "started"))
    for told in (ours, second, third, Told(task(3))):
        assert told.news() == []
        told.forget()
    assert not list(tmp_path.rglob("*.events"))
    assert not list(tmp_path.rglob("*.new"))


def test_a_worker_goes_on_though_nobody_listens_any_more(
    task: Callable[..., Task], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a network file system a file that another machine removed cannot be written to."""
    wrong = errno.ESTALE

    def write(line: bytes) -> int:
        raise OSError(wrong, os.strerror(wrong))

    events._write(write, Event("a", "started"))
    wrong = errno.ENOSPC
    with pytest.raises(OSError, match="space"):
        events._write(write, Event("a", "started"))


@pytest.mark.parametrize(("name", "package", "extra"), [("ray", "ray", "ray"), ("slurm", "submitit", "slurm")])
def test_a_missing_package_is_named(name: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    resolved = Registry.discover().resolve("executor", name)
    with pytest.raises(PluginError, match=rf"pip install 'urbancross-bench\[{extra}\]'"):
        resolved.build()


class NoRay:
    """A package whose `init` does what it is told."""

    def __init__(self, doing: Callable[..., None]) -> None:
        self.init = doing

    def is_initialized(self) -> bool:
        return False


def fails(error: BaseException) -> Callable[..., None]:
    def doing(**settings: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as ray has a handler of its own meanwhile
        raise error

    return doing


@pytest.mark.parametrize(
    ("address", "error", "expected", "words"),
    [
        ("auto", ConnectionError("none"), UsageError, r"there is no cluster at 'auto' \(none\)"),
        ("rubbish", ValueError("Invalid address"), UsageError, "there is no cluster at 'rubbish'"),
        ("foo://x:1", RuntimeError("no module foo"), UsageError, "there is no cluster at 'foo://x:1'"),
        ("auto", SystemExit(15), KeyboardInterrupt, "^$"),  # ray's handler of SIGTERM
        (
            None,
            OSError("AF_UNIX path length cannot exceed 107 bytes"),
            UsageError,
            "set TMPDIR to a shorter folder",
        ),
        (None, OSError("No space left"), OSError, "No space left"),
    ],
)
def test_a_ray_that_cannot_be_reached_has_its_words(
    monkeypatch: pytest.MonkeyPatch,
    address: str | None,
    error: BaseException,
    expected: type[BaseException],
    words: str,
) -> None:
    from urbancross_executors.on_ray import RayExecutor

    monkeypatch.setitem(sys.modules, "ray", NoRay(fails(error)))  # type: ignore[arg-type]
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "before")
    terminating = signal.getsignal(signal.SIGTERM)
    with pytest.raises(expected, match=words):
        RayExecutor(RayOptions(address=address)).device("auto")
    assert signal.getsignal(signal.SIGTERM) is terminating
    assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "before"


@pytest.mark.parametrize("form", ["127.0.0.1:{port}", "[::ffff:127.0.0.1]:{port}", "auto"])
def test_where_nobody_listens_ray_is_not_asked(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would try for ever."""
    from urbancross_executors.on_ray import RayExecutor

    monkeypatch.setitem(sys.modules, "ray", NoRay(fails(AssertionError("asked"))))  # type: ignore[arg-type]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody else has it, and nobody listens
        port = taken.getsockname()[1]
        address = form.format(port=port)
        monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
        with pytest.raises(UsageError, match=rf"there is no cluster at '{re.escape(address)}' \(.*refused"):
            RayExecutor(RayOptions(address=address)).device("auto")


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
        assert [node["NodeManagerAddress"] for node in ray.nodes()] == ["127.0.0.1"]
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
