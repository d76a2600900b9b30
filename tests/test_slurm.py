"""The slurm executor, against commands that stand in for Slurm's: jobs asked for, refused, ended, lost."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from executor_tasks import check_failed_stage, heard, maker

from urbancross_bench.errors import UsageError
from urbancross_bench.interfaces import Event, Task
from urbancross_executors import on_slurm
from urbancross_executors.events import telling
from urbancross_executors.options import SlurmOptions


@pytest.fixture
def task(tmp_path: Path) -> Callable[..., Task]:
    """Makes tasks."""
    return maker(tmp_path)


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
import json, os, pathlib, signal, sys
folder = pathlib.Path({folder!r})
name = pathlib.Path(sys.argv[0]).name
with (folder / "calls").open("a") as calls:
    calls.write(json.dumps([name, *sys.argv[1:]]) + "\\n")
if (folder / f"{{name}}.off").exists():
    sys.exit(f"{{name}}: error: " + (folder / f"{{name}}.off").read_text())
if name == "sbatch":
    number = len(list(folder.glob("*.sh")))
    (folder / f"{{number}}.sh").write_text(pathlib.Path(sys.argv[1]).read_text())
    (folder / f"{{number}}.state").write_text("RUNNING")
    if (folder / "interrupts").exists():
        for signal_ in json.loads((folder / "interrupts").read_text()):
            os.kill(os.getppid(), signal_)
        if (folder / "group").exists():  # as a terminal's Ctrl-C does
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
    print("Submitted batch job", number)
if name == "sacct":
    print("JobID|State|NodeList")
    for file in folder.glob("*.state"):
        print(file.stem, file.read_text(), "node7", sep="|")
if name == "squeue":
    for file in folder.glob("*.state"):
        if not file.with_suffix(".purged").exists():
            print(file.stem, file.read_text())
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Slurm's commands, which write down what they were called with; jobs are in the state that a file says.

    One with a file of its name and `.off` fails with the words in it; squeue does not list a job that is purged.
    """
    submitit = pytest.importorskip("submitit")
    submitit.SlurmJob.watcher.clear()  # one for all, which remembers the jobs of other tests
    folder = tmp_path / "slurm"
    folder.mkdir()
    for name in ("sbatch", "sacct", "squeue", "scancel", "srun"):
        (folder / name).write_text(SLURM.format(python=sys.executable, folder=str(folder)))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(on_slurm, "_ASKED", 0.0)
    return folder


def calls(slurm: Path, name: str) -> list[list[str]]:
    lines = (slurm / "calls").read_text().splitlines()
    return [words[1:] for words in map(json.loads, lines) if words[0] == name]


def cancelled(slurm: Path) -> list[str]:
    """The jobs that were cancelled by their numbers."""
    return [words[-1] for words in calls(slurm, "scancel") if not words[0].startswith("--name=")]


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


@pytest.mark.parametrize("silent", ["squeue", "sacct"])
def test_a_job_that_slurm_ends_costs_its_task(silent: str, task: Callable[..., Task], slurm: Path) -> None:
    """Whichever of the two says so: there is Slurm without accounting."""
    (slurm / f"{silent}.off").write_text("Slurm accounting storage is disabled")
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


@pytest.mark.parametrize("accounts", [False, True])
def test_a_job_that_nobody_knows_has_failed_after_some_silence(
    accounts: bool, task: Callable[..., Task], slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is it believed to run because accounts, if there are any, say so for ever."""

    def silent(job: int) -> None:
        for running in executor._running:
            if running.job.job_id == str(job):
                running.heard -= on_slurm._GONE

    if not accounts:
        (slurm / "sacct.off").write_text("Slurm accounting storage is disabled")
    with closing(on_slurm.SlurmExecutor(SlurmOptions())) as executor:
        for number in range(3):
            executor.submit(task(number))
        files = [running.told.file for running in executor._running]
        silent(1)
        assert executor.wait(0.0) == []  # it is in the queue, whether it tells or not
        (slurm / "1.purged").touch()
        (slurm / "2.purged").touch()
        assert executor.wait(0.0) == []
        silent(1)
        silent(2)
        with telling(str(files[2])) as tell:  # it is there, whatever Slurm says
            tell(Event("stage", "started"))
        gone, started = sorted(executor.wait(0.0), key=lambda event: event.kind)
        assert (gone.key, gone.kind, gone.outcome) == (task(1).key, "over", "failed")
        assert "Slurm does not know the job 1" in (gone.error or "")
        assert started.kind == "started"
        assert not files[1].exists()
        assert cancelled(slurm) == ["1"]
        assert executor.wait(0.0) == []
        silent(2)
        (slurm / "squeue.off").write_text("Unable to contact slurm controller")
        assert executor.wait(0.0) == []  # that Slurm is away is another thing
        monkeypatch.setattr(on_slurm, "_SILENT", 0.0)
        if accounts:  # without squeue they are all there is
            assert executor.wait(0.0) == []
            return
        assert {event.key: event.outcome for event in executor.wait(0.0)} == {
            task(number).key: "failed" for number in (0, 2)
        }
        assert executor.wait(0.0) == []


def taken(executor: on_slurm.SlurmExecutor) -> list[str]:
    """The tasks that have a job."""
    return [running.told.key for running in executor._running]


def test_a_job_that_slurm_does_not_take_is_offered_again(
    task: Callable[..., Task], slurm: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = [task(number).key for number in range(4)]
    with closing(on_slurm.SlurmExecutor(SlurmOptions())) as executor:
        executor.submit(task(0))
        (slurm / "sbatch.off").write_text("QOSMaxSubmitJobPerUserLimit")
        for number in (1, 2, 3):
            executor.submit(task(number))
        assert capsys.readouterr().err.count("is offered again") == 1
        assert len(calls(slurm, "sbatch")) == 2  # not for each that waits
        assert executor.wait(0.0) == []
        assert len(calls(slurm, "sbatch")) == 2  # nor at once
        with telling(str(executor._running[0].told.file)) as tell:
            tell(Event(keys[0], "over"))
        assert executor.wait(0.0) == [Event(keys[0], "over")]
        assert len(calls(slurm, "sbatch")) == 3  # there is room
        (slurm / "sbatch.off").unlink()
        assert executor.wait(0.0) == []
        monkeypatch.setattr(on_slurm, "_AGAIN", 0.0)
        assert executor.wait(0.0) == []
        assert taken(executor) == [keys[2], keys[3], keys[1]]  # one that was refused lets others go first
        files = [running.told.file for running in executor._running]
        for number, file in zip((2, 3, 1), files, strict=True):
            with telling(str(file)) as tell:
                tell(Event(keys[number], "over"))
        assert heard(executor, 3).keys() == set(keys[1:])


def test_a_job_that_slurm_never_takes_fails_when_none_of_ours_is_there(
    task: Callable[..., Task], slurm: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(on_slurm, "_REFUSED", 0.0)
    with closing(on_slurm.SlurmExecutor(SlurmOptions())) as executor:
        executor.submit(task(0))
        (slurm / "sbatch.off").write_text("Socket timed out on send/recv operation")
        executor.submit(task(1))
        executor.submit(task(2))
        monkeypatch.setattr(on_slurm, "_REFUSED", 60.0)
        assert executor.wait(0.0) == []  # as long as one is there
        (slurm / "0.state").write_text("COMPLETED")
        assert [event.key for event in executor.wait(0.0)] == [task(0).key]
        assert executor.wait(0.0) == []  # nor at once after it
        monkeypatch.setattr(on_slurm, "_REFUSED", 0.0)
        events = heard(executor, 2)
        assert events.keys() == {task(1).key, task(2).key}
        for [event] in events.values():
            assert (event.kind, event.outcome) == ("over", "failed")
            assert "Socket timed out" in (event.error or "")
        assert not list(tmp_path.rglob("*.events"))
        (slurm / "sbatch.off").unlink()
        executor.submit(task(3))
        assert taken(executor) == [task(3).key]
        (slurm / "sbatch.off").write_text("Socket timed out on send/recv operation")
        executor.submit(task(4))
    assert cancelled(slurm) == ["1"]
    assert not list(tmp_path.rglob("*.events"))


def test_a_first_job_that_slurm_does_not_take_is_an_error(task: Callable[..., Task], slurm: Path) -> None:
    (slurm / "sbatch.off").write_text("invalid partition specified: gpus")
    with closing(on_slurm.SlurmExecutor(SlurmOptions())) as executor:
        for number in range(2):
            with pytest.raises(UsageError, match="invalid partition specified: gpus"):
                executor.submit(task(number))
        assert executor.wait(0.0) == []
    assert not list(slurm.parent.rglob("*.events"))


@pytest.fixture
def answered() -> Iterator[list[int]]:
    """The signals that were answered, each by KeyboardInterrupt, as `run` answers them."""
    numbers: list[int] = []

    def answer(number: int, frame: object) -> None:
        numbers.append(number)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, answer) for number in (signal.SIGINT, signal.SIGTERM)}
    yield numbers
    for number, handler in before.items():
        assert signal.signal(number, handler) is answer


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("before", [0, 1])
def test_a_job_that_is_taken_when_the_grid_is_ended_is_cancelled(
    task: Callable[..., Task], slurm: Path, answered: list[int], before: int, number: int
) -> None:
    """While sbatch is still to say which job it is."""
    with closing(on_slurm.SlurmExecutor(SlurmOptions())) as executor:
        for earlier in range(before):
            executor.submit(task(earlier))
        (slurm / "interrupts").write_text(f"[{number:d}]")
        with pytest.raises(KeyboardInterrupt):
            executor.submit(task(before))
    assert answered == [number]
    assert sorted(words[-1] for words in calls(slurm, "scancel")) == [str(job) for job in range(before + 1)]


def test_a_job_whose_sbatch_ends_of_the_same_ctrl_c_is_cancelled_by_its_name(
    task: Callable[..., Task], slurm: Path, answered: list[int]
) -> None:
    (slurm / "interrupts").write_text(f"[{signal.SIGINT:d}]")
    (slurm / "group").touch()
    with closing(on_slurm.SlurmExecutor(SlurmOptions())) as executor:
        with pytest.raises(KeyboardInterrupt):
            executor.submit(task())
        [words] = calls(slurm, "scancel")
        assert words[0] == f"--name={executor.parameters(task())['name']}"
        assert not list(slurm.parent.rglob("*.events"))
    assert answered == [signal.SIGINT]


def test_the_second_ctrl_c_does_not_wait_for_sbatch(
    task: Callable[..., Task], slurm: Path, answered: list[int]
) -> None:
    (slurm / "interrupts").write_text(f"[{signal.SIGINT:d}, {signal.SIGTERM:d}]")
    (slurm / "sbatch").write_text(
        (slurm / "sbatch").read_text().replace('print("Submitted', 'import time; time.sleep(20); print("')
    )
    with closing(on_slurm.SlurmExecutor(SlurmOptions())) as executor:
        with pytest.raises(KeyboardInterrupt):
            executor.submit(task())
        assert executor._running == []
        [words] = calls(slurm, "scancel")
        assert words[0].startswith("--name=urbancross-")
    assert sorted(answered) == [signal.SIGINT, signal.SIGTERM]


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
