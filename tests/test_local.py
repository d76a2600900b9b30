"""The local executor with real processes, whose stages do next to nothing, or what they must not."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
import pytest
from executor_tasks import PATIENCE, check_failed_stage, heard, maker
from threadpoolctl import threadpool_info

from urbancross_bench.errors import UsageError
from urbancross_bench.execution import local
from urbancross_bench.execution.local import LocalExecutor
from urbancross_bench.execution.options import LocalOptions
from urbancross_bench.execution.stage import Stage
from urbancross_bench.interfaces import Event, Task
from urbancross_bench.modelling.runtime import set_threads

TaskMaker = Callable[..., Task]

# A file of plugins is read in the process of the stage: a server that other tests have started will do.
KINDS = """
import ctypes, mmap, os, signal, subprocess, sys, threading
from pathlib import Path
from urbancross_bench.execution.stages import STAGES
from urbancross_bench.interfaces import hookimpl

@hookimpl
def register_metrics():
    return []

def easy(job):
    job.say(0.5)
    job.say({"loss": 1.0})
    (job.out / "output").touch()
    print("printed", flush=True)
    ctypes.CDLL(None).puts(b"printed by C")

def leave_thread(job):
    threading.Thread(target=threading.Event().wait, daemon=False).start()

def die(job):
    os.kill(os.getpid(), signal.SIGKILL)

def hang(job):
    child = subprocess.Popen([sys.executable, "-S", "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    Path(job.stage.work["pids"]).write_text(f"{os.getpid()} {child.pid}")
    job.say(0.5)
    threading.Event().wait()

def leave_child(job):
    child = os.fork()
    if not child:
        signal.pause()
        os._exit(0)
    Path(job.stage.work["pids"]).write_text(str(child))

def take(job):
    kept = bytearray(job.stage.work["bytes"])
    kept[::1024] = b"x" * len(kept[::1024])
    job.say(0.5)
    threading.Event().wait()

def take_shared(job):
    kept = mmap.mmap(-1, job.stage.work["bytes"])
    kept.write(b"x" * len(kept))
    job.say(0.5)
    threading.Event().wait()

def wait(job):
    job.say(0.5)
    threading.Event().wait()

TAKES = "import sys; kept = bytearray(b'x') * int(sys.argv[1]); sys.stdin.read()"

def take_below(job):
    command = [sys.executable, "-S", "-c", TAKES, str(job.stage.work["bytes"])]
    subprocess.Popen(command, stdin=subprocess.PIPE).wait()

STAGES |= {name: globals()[name] for name in (
    "easy", "leave_thread", "leave_child", "die", "hang", "take", "take_shared", "take_below", "wait"
)}
"""


@pytest.fixture(scope="module")
def executor() -> Iterator[LocalExecutor]:
    with closing(LocalExecutor(LocalOptions(slots=2))) as made:
        assert made.slots("cpu", 1, 1) == 2
        made.preload(())
        yield made


@pytest.fixture
def task(tmp_path: Path) -> TaskMaker:
    """Makes tasks of stages of these kinds, one after the other."""
    make = maker(tmp_path)
    plugins = tmp_path / "kinds.py"
    plugins.write_text(KINDS)

    def made(*kinds: str, work: dict[str, Any] | None = None, **changes: Any) -> Task:
        stages = [Stage(kind, {"number": n}, work=work or {}) for n, kind in enumerate(kinds)]  # type: ignore[arg-type]
        said = tuple(stage.to_json() for stage in stages)
        return make(stages=said, plugins=(str(plugins),), **{"key": f"{stages[0].key}-1", **changes})

    return made


def told(executor: LocalExecutor, task: Task) -> list[Event]:
    """All that there is to hear of one task, alone."""
    executor.submit(task)
    events: list[Event] = []
    give_up = time.monotonic() + PATIENCE
    while not events or events[-1].kind != "over":
        assert time.monotonic() < give_up, events
        events += executor.wait(1.0)
    assert executor.wait(0.0) == []
    assert events[-1].key == task.key
    return events


def test_events_come_in_order_and_over_once(executor: LocalExecutor, task: TaskMaker) -> None:
    given = task("easy", "nothing", "easy")
    events = told(executor, given)
    keys = [Stage(**said).key for said in given.stages]
    good = ["started", "progress", "values", "ended"]
    assert [(event.key, event.kind) for event in events] == [
        *((keys[0], kind) for kind in good),
        *((keys[1], kind) for kind in ("started", "ended")),
        *((keys[2], kind) for kind in good),
        (given.key, "over"),
    ]
    assert events[2].values == {"loss": 1.0}
    assert [event.outcome for event in events if event.kind in ("ended", "over")] == ["ok", "failed", "ok", "ok"]
    log = Path(given.log).read_text()
    assert log.count("printed\n") == 2
    assert log.count("printed by C\n") == 2
    assert [event.kind for event in told(executor, given)][:2] == ["started", "ended"]  # it is stored


def test_two_at_once_are_told_apart(executor: LocalExecutor, tmp_path: Path) -> None:
    make = maker(tmp_path)
    for number in range(2):
        executor.submit(make(number))
    events = heard(executor, 2)
    for number in range(2):
        check_failed_stage(events[make(number).key])


def test_a_thread_that_is_left_keeps_no_slot(executor: LocalExecutor, task: TaskMaker) -> None:
    events = told(executor, task("leave_thread"))
    assert [event.kind for event in events] == ["started", "ended", "over"]
    assert [event.error for event in events] == [None] * 3


def test_a_process_that_is_left_goes_with_its_task(
    executor: LocalExecutor, task: TaskMaker, tmp_path: Path
) -> None:
    events = told(executor, task("leave_child", work={"pids": str(tmp_path / "pids")}))
    assert [event.error for event in events] == [None] * 3
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int((tmp_path / "pids").read_text())).wait(PATIENCE)


CRASHING = """
import json, sys
from contextlib import closing
from executor_tasks import heard, maker
from pathlib import Path
from urbancross_bench.execution.local import LocalExecutor
from urbancross_bench.execution.options import LocalOptions

if __name__ == "__main__":
    with closing(LocalExecutor(LocalOptions(slots=1))) as executor:
        executor.preload(["crashes"])
        executor.slots(executor.device("auto"), 1, 1)
        make = maker(Path(sys.argv[1]))
        executor.submit(make(0))
        events = heard(executor, 1)
        print(json.dumps([[event.kind, event.outcome] for event in events[make(0).key]]))
        assert "torch" not in sys.modules, "for the server alone"
"""


@pytest.mark.long  # starts a server twice
def test_a_module_that_ends_the_server_when_imported_costs_no_other_task(tmp_path: Path) -> None:
    """As by a crash, or by the alarm of one that takes too long."""
    (tmp_path / "crashes.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGALRM)\n")
    (tmp_path / "script.py").write_text(CRASHING)
    path = os.pathsep.join([str(tmp_path), str(Path(__file__).parent)])
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py", tmp_path],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [["started", "ok"], ["ended", "failed"], ["over", "ok"]]


def test_a_process_that_dies_says_how(executor: LocalExecutor, task: TaskMaker) -> None:
    *_, started, over = told(executor, task("easy", "die", "easy"))
    assert started.kind == "started"
    assert (over.outcome, over.error) == ("failed", "the process died without a word (signal 9, Killed)")


def test_a_process_that_dies_before_a_word(executor: LocalExecutor, task: TaskMaker, tmp_path: Path) -> None:
    (tmp_path / "no folder").touch()
    [over] = told(executor, task("easy", log=str(tmp_path / "no folder" / "log")))
    assert (over.kind, over.outcome) == ("over", "failed")
    assert over.error == "the process died without a word (exit status 1)"


def test_the_time_limit_is_each_stages(executor: LocalExecutor, task: TaskMaker, tmp_path: Path) -> None:
    """A stage that begins has all of the limit again; with a process that it ends goes what is below it."""
    executor.submit(task("easy", "hang", work={"pids": str(tmp_path / "pids")}, time_limit=1e6))
    [running] = executor._running.values()
    ends, events = {running.ends}, list[Event]()
    give_up = time.monotonic() + PATIENCE
    while sum(event.kind == "progress" for event in events) < 2:
        assert time.monotonic() < give_up, events
        events += executor.wait(1.0)
        ends.add(running.ends)
    assert len(ends) == 3
    assert min(ends) > give_up
    processes = [psutil.Process(int(pid)) for pid in (tmp_path / "pids").read_text().split()]
    running.ends = give_up - PATIENCE  # as if it had passed
    [over] = heard(executor, 1).values()
    assert (over[-1].kind, over[-1].outcome) == ("over", "timeout")
    assert over[-1].error == "took longer than 1e+06 s, the time limit"
    assert psutil.wait_procs(processes, timeout=PATIENCE)[1] == []


def test_a_task_that_passes_its_limit_leaves_others_alone(
    executor: LocalExecutor, task: TaskMaker, tmp_path: Path
) -> None:
    executor.submit(task("hang", key="slow", work={"pids": str(tmp_path / "pids")}, time_limit=1e6))
    executor.submit(task("wait", key="other", time_limit=1e6))
    events, give_up = list[Event](), time.monotonic() + PATIENCE
    while sum(event.kind == "progress" for event in events) < 2:
        assert time.monotonic() < give_up, events
        events += executor.wait(1.0)
    by_key = {running.task.key: running for running in executor._running.values()}
    by_key["slow"].ends = 0.0  # as if it had passed
    [over] = heard(executor, 1)["slow"]
    assert over.outcome == "timeout"
    assert by_key["other"].process.is_alive()
    executor.close()


@pytest.mark.parametrize("kind", ["take", "take_shared", "take_below"])
def test_the_memory_limit_counts_all_that_a_task_takes(
    executor: LocalExecutor, task: TaskMaker, kind: str
) -> None:
    size = 2**30
    *_, over = told(executor, task(kind, work={"bytes": size}, memory_limit=size))
    assert over.outcome == "oom"
    assert "of memory; the limit is 1.0 GiB" in (over.error or "")


def test_close_leaves_nothing_running(task: TaskMaker, tmp_path: Path) -> None:
    executor = LocalExecutor(LocalOptions())
    executor.slots("cpu", 1, 1)
    executor.submit(task("hang", work={"pids": str(tmp_path / "pids")}))
    give_up = time.monotonic() + PATIENCE
    while not any(event.kind == "progress" for event in executor.wait(1.0)):
        assert time.monotonic() < give_up
    processes = [psutil.Process(int(pid)) for pid in (tmp_path / "pids").read_text().split()]
    executor.close()
    assert psutil.wait_procs(processes, timeout=PATIENCE)[1] == []
    assert executor.wait(0.0) == []
    executor.close()


# ── Slots and devices ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("slots", "devices", "threads", "expected"),
    [(None, 1, 1, 8), (None, 1, 3, 2), (None, 2, 3, 1), (None, 1, 9, 1), (5, 2, 9, 5)],
)
def test_slots_of_a_cpu(
    slots: int | None, devices: int, threads: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    assert LocalExecutor(LocalOptions(slots=slots)).slots("cpu", devices, threads) == expected


@pytest.fixture
def four(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four devices, or so it seems."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4, 5,6,GPU-7")


def test_a_device_is_what_it_is_here(executor: LocalExecutor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # which the server that others started need not know
    assert [executor.device(name) for name in ("cpu", "auto")] == ["cpu", "cpu"]
    with pytest.raises(UsageError, match="'cuda:0' is not on this machine, which has the CPU and 0 CUDA devices"):
        executor.device("cuda:0")
    with pytest.raises(UsageError, match="there is no device 'banana'"):
        executor.device("banana")


def says_nothing_elsewhere(device: str) -> str:
    if multiprocessing.parent_process() is not None:
        os._exit(1)
    return "what it is here"


def test_a_device_that_nobody_can_tell_is_looked_for_by_who_asked(
    executor: LocalExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "checked_device", says_nothing_elsewhere)
    assert executor.device("auto") == "what it is here"


def pages_and_threads(device: str) -> tuple[str | None, list[int]]:
    """How a process of a server has its memory; its threads when numpy takes one, and two less each second one."""
    found = []
    for count in (1, 2):
        set_threads(count)
        found.append(len(list(Path("/proc/self/task").iterdir())))
    libraries = sum(pool["user_api"] == "blas" for pool in threadpool_info())  # scipy brings its own
    begun = dict(line.partition("=")[::2] for line in Path("/proc/self/environ").read_text().split("\0"))
    return begun.get("GLIBC_TUNABLES"), [found[0], found[1] - libraries]


@pytest.mark.skipif(sys.platform != "linux", reason="threads are counted by what Linux tells")
def test_a_server_that_is_left_ends_with_its_last_process(
    executor: LocalExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nobody waits for it: another one starts what comes next, in an environment of its own."""
    servers = ("GLIBC_TUNABLES", "OPENBLAS_NUM_THREADS")
    for name in servers:
        monkeypatch.delenv(name, raising=False)
    server = forkserver._forkserver  # type: ignore[attr-defined]
    executor.device("auto")
    before = server._forkserver_pid
    here, there = executor._context.Pipe()
    process = executor._started(_waits, there, daemon=True)
    there.close()
    local._leave(server)
    executor.preload(())
    assert server._forkserver_pid not in (None, before)
    assert executor._asked(pages_and_threads, "cpu") == ("glibc.malloc.hugetlb=1", [2, 2])  # one waits for the end
    assert set(servers) & set(os.environ) == set()
    here.send("end")
    process.join(PATIENCE)
    assert process.exitcode == 7
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(before).wait(PATIENCE)


def _waits(connection: Connection) -> None:
    connection.recv()
    os._exit(7)


@pytest.mark.usefixtures("four")
def test_slots_of_devices() -> None:
    one, two = LocalExecutor(LocalOptions()), LocalExecutor(LocalOptions(slots=2))
    assert [one.slots("cuda", devices, 1) for devices in (1, 2, 3, 4)] == [4, 2, 1, 1]
    assert [two.slots("cuda", devices, 1) for devices in (1, 2, 3, 4)] == [8, 4, 2, 2]
    assert one.slots("cuda:2", 1, 1) == 1
    with pytest.raises(UsageError, match="ranks: 5 processes take a CUDA device each; 'cuda' is 4 here"):
        one.slots("cuda", 5, 1)
    with pytest.raises(UsageError, match="'cuda:0' is 1 here"):
        one.slots("cuda:0", 2, 1)


@pytest.mark.usefixtures("four")
def test_tasks_go_to_the_devices_with_the_least_to_do(task: TaskMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tasks a device; when one ends, its device is the next."""
    executor = LocalExecutor(LocalOptions(slots=2))
    assert executor.slots("cuda", 1, 1) == 8
    started: list[tuple[Any, ...]] = []

    class Process:
        pid, exitcode = 2**30, 0  # no process has that number

        def __init__(self, *, args: tuple[Any, ...], **more: Any) -> None:
            started.append(args)

        def start(self) -> None: ...
        def kill(self) -> None: ...
        def join(self) -> None: ...

    monkeypatch.setattr(executor._context, "Process", Process, raising=False)
    for _ in range(4):
        executor.submit(task("easy", device="cuda"))
    assert [args[3] for args in started] == [("4",), ("5",), ("6",), ("GPU-7",)]
    assert {args[0].device for args in started} == {"cuda"}
    executor.submit(task("easy", device="cuda", devices=3))
    assert started[-1][3] == ("4", "5", "6")
    executor.submit(task("easy", device="cuda"))
    assert started[-1][3] == ("GPU-7",)
    [connection] = [place for place, one in executor._running.items() if one.devices == ("5",)]
    executor._running.pop(connection).process.kill()
    executor.submit(task("easy", device="cuda"))
    assert started[-1][3] == ("5",)
    executor.close()


def say_devices(task: Task, tell: Callable[[Event], None]) -> None:
    """In place of `carry_out`, where there are no devices."""
    tell(Event(task.key, "started", error=f"{task.device}: {os.environ['CUDA_VISIBLE_DEVICES']}"))


@pytest.mark.usefixtures("four")
def test_a_process_sees_its_devices_alone(task: TaskMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "carry_out", say_devices)
    with closing(LocalExecutor(LocalOptions())) as executor:
        monkeypatch.setattr(executor, "_context", multiprocessing.get_context("fork"))
        assert executor.slots("cuda", 2, 1) == 2
        for number in range(2):
            executor.submit(task("easy", key=f"task {number}", device="cuda", devices=2))
        events = heard(executor, 2)
    assert [events[f"task {n}"][0].error for n in range(2)] == ["cuda: 4,5", "cuda: 6,GPU-7"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "4, 5,6,GPU-7"


def test_a_signal_to_interrupt_is_the_parents(executor: LocalExecutor, task: TaskMaker, tmp_path: Path) -> None:
    """Ctrl-C goes to all processes of a terminal; a stage is ended by whoever started it, or by SIGTERM."""
    executor.submit(task("hang", work={"pids": str(tmp_path / "pids")}))
    give_up = time.monotonic() + PATIENCE
    while not any(event.kind == "progress" for event in executor.wait(1.0)):
        assert time.monotonic() < give_up
    process, child = (psutil.Process(int(pid)) for pid in (tmp_path / "pids").read_text().split())
    process.send_signal(signal.SIGINT)
    assert process.is_running()
    process.send_signal(signal.SIGTERM)
    [over] = heard(executor, 1).values()
    assert over[-1].error == "the process died without a word (signal 15, Terminated)"
    child.kill()


WHERE = """
import sys
import urbancross_bench

def where(device):
    return urbancross_bench.__file__

if __name__ == "__main__":
    from urbancross_bench.execution.local import LocalExecutor
    from urbancross_bench.execution.options import LocalOptions
    executor = LocalExecutor(LocalOptions())
    executor.preload(())
    import wheres
    print(executor._asked(wheres.where, "cpu"))
"""


def test_stages_run_the_code_that_the_command_runs(tmp_path: Path) -> None:
    """Though it is found by the current folder alone, and another is installed; their keys are of that code."""
    shutil.copytree(Path(local.__file__).parent.parent, tmp_path / "urbancross_bench")
    (tmp_path / "wheres.py").write_text(WHERE)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-m", "wheres"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(tmp_path / "urbancross_bench" / "__init__.py"), done.stderr


def test_a_temporary_folder_of_too_long_a_path_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError("AF_UNIX path too long")

    monkeypatch.setattr(forkserver, "ensure_running", refuse)
    monkeypatch.setattr("tempfile.tempdir", "/a/long/way")
    with (
        closing(LocalExecutor(LocalOptions())) as executor,
        pytest.raises(UsageError, match="/a/long/way is too long"),
    ):
        executor.preload(())


def test_a_log_is_written_whose_folder_was_removed(
    executor: LocalExecutor, task: TaskMaker, tmp_path: Path
) -> None:
    asked = task("easy", log=str(tmp_path / "gone" / "logs" / "a.log"))
    assert told(executor, asked)[-1].outcome == "ok"
    assert (tmp_path / "gone" / "logs" / "a.log").is_file()
