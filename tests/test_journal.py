"""The journal holds what its listener was told, never costs a run, and is read back as what happened."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from grid_events import ADAPT, RANK, RUNS, SKIPPED, STAGES, START, Heard, status
from hypothesis import given
from hypothesis import strategies as st

from urbancross_bench.execution import journal
from urbancross_bench.execution.following import Standing, read_entries, read_session
from urbancross_bench.execution.journal import Entry, EntryListener, Journal, command_line
from urbancross_bench.execution.stage import Stage


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [500.0]
    monkeypatch.setattr(journal.time, "monotonic", lambda: now[0])
    return now


def only_journal(out: Path) -> Path:
    [file] = (out / "journal").glob("*.jsonl")
    return file


def test_entries_are_what_was_told(tmp_path: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    heard = Heard()
    monkeypatch.setattr(sys, "argv", ["/bin/urbancross-bench", "run", "my grid.yaml"])
    listener = Journal(tmp_path, heard)
    listener.planned(status(reused=1))
    clock[0] += 2.5
    listener.stage_started(START)
    listener.stage_progress(START, 0.25, {"cuda_bytes": 2**30})
    listener.stage_values(START, {"step": 3.0, "loss": float("inf")})
    listener.stage_ended(START, None)
    listener.run_started(RUNS[1])
    listener.stage_ended(ADAPT[1], "no — luck")
    listener.run_ended(RUNS[1], "oom", "no — luck")
    listener.warn("beware")
    clock[0] += 1
    listener.finished({"oom": 1})
    entries = list(read_entries(only_journal(tmp_path)))
    assert [entry.pop("elapsed") for entry in entries] == [0.0, *[2.5] * 8, 3.5]
    assert all(entry.pop("time").endswith("Z") for entry in entries)
    planned = entries.pop(0)
    assert planned["command"] == "/bin/urbancross-bench run 'my grid.yaml'"
    assert planned["folder"] == str(Path.cwd())
    assert planned["runs"] == [
        {"key": RUNS[1].key, "name": str(RUNS[1]), "state": "to do", "reason": ""},
        {"key": RUNS[0].key, "name": str(RUNS[0]), "state": "reused", "reason": ""},
        {"key": "", "name": str(SKIPPED), "state": "skipped", "reason": SKIPPED.skipped},
    ]
    assert [(stage["key"], stage["inputs"]) for stage in planned["stages"]] == [
        (START.key, []),
        (ADAPT[1].key, [START.key]),
        (RANK[1].key, [ADAPT[1].key]),
    ]
    key = START.key
    assert entries == [
        {"event": "stage_started", "stage": key, "kind": "pretrain", "label": START.label},
        {"event": "stage_progress", "stage": key, "fraction": 0.25, "values": {"cuda_bytes": 2.0**30}},
        {"event": "stage_values", "stage": key, "values": {"step": 3.0, "loss": None}},
        {"event": "stage_ended", "stage": key, "error": None},
        {"event": "run_started", "run": RUNS[1].key},
        {"event": "stage_ended", "stage": ADAPT[1].key, "error": "no — luck"},
        {"event": "run_ended", "run": RUNS[1].key, "status": "oom", "error": "no — luck"},
        {"event": "warn", "message": "beware"},
        {"event": "finished", "counts": {"oom": 1}},
    ]
    assert heard.warnings == []


def test_progress_is_written_once_a_second_for_each_stage(tmp_path: Path, clock: list[float]) -> None:
    listener = Journal(tmp_path, Heard())
    listener.planned(status())
    for number in range(40):  # ten seconds
        for stage in ADAPT:
            listener.stage_progress(stage, number / 40, {})
        clock[0] += 0.25
    told = [
        (entry["stage"], entry["elapsed"]) for entry in read_entries(only_journal(tmp_path)) if "fraction" in entry
    ]
    assert told == [(stage.key, float(second)) for second in range(10) for stage in ADAPT]
    listener.finished({})


def test_a_full_disk_is_said_once(tmp_path: Path) -> None:
    heard = Heard()
    listener = Journal(tmp_path, heard)
    listener.planned(status())
    assert listener._file is not None
    listener._file.close()
    listener._file = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115
    for _ in range(3):
        listener.stage_started(START)
    listener.finished({})
    [warning] = heard.warnings
    assert "is not written any more: [Errno 28] No space left on device" in warning


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "journal").touch()
    heard = Heard()
    listener = Journal(tmp_path, heard)
    listener.planned(status())
    listener.stage_started(START)
    listener.finished({})
    assert len(heard.warnings) == 1


def test_sessions_of_one_second_have_files_of_their_own(tmp_path: Path) -> None:
    listeners = [Journal(tmp_path, Heard()) for _ in range(3)]
    for listener in listeners:
        listener.planned(status())
    for listener in listeners:
        listener.finished({})
    assert len(list((tmp_path / "journal").glob("*.jsonl"))) == 3
    assert list((tmp_path / "journal").glob("*.lock")) == []


@pytest.mark.parametrize(
    ("arguments", "typed"),
    [
        (["urbancross-bench", "run", "a b", "--set", "seeds=[0]"], "urbancross-bench run 'a b' --set 'seeds=[0]'"),
        (
            ["/x/urbancross_bench/__main__.py", "run", "quickstart"],
            f"{sys.executable} -m urbancross_bench run quickstart",
        ),
        (["my script.py", "7"], f"{sys.executable} 'my script.py' 7"),
    ],
)
def test_the_command_line_can_be_typed_again(
    monkeypatch: pytest.MonkeyPatch, arguments: list[str], typed: str
) -> None:
    monkeypatch.setattr(sys, "argv", arguments)
    assert command_line() == typed


class Kept(EntryListener):
    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def take(self, entry: Entry) -> None:
        self.entries.append(entry)


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Stage], list[tuple[int, str]]]:
    """Stages that build on earlier ones, and what becomes of them: (number, `start`, `ok` or `fail`)."""
    stages: list[Stage] = []
    for number in range(draw(st.integers(1, 8))):
        inputs = draw(st.sets(st.integers(0, number - 1))) if number else set()
        stages.append(Stage("embed", {"number": number}, {str(n): stages[n].key for n in sorted(inputs)}))
    told: list[tuple[int, str]] = []
    running: set[int] = set()
    for _ in range(draw(st.integers(0, 20))):
        number = draw(st.integers(0, len(stages) - 1))
        what = draw(st.sampled_from(["ok", "fail"])) if number in running else "start"
        running = running - {number} if number in running else running | {number}
        told.append((number, what))
    return stages, told


@given(histories())
def test_the_standing_is_what_the_entries_add_up_to(history: tuple[list[Stage], list[tuple[int, str]]]) -> None:
    stages, told = history
    kept, standing = Kept(), Standing()
    grid, run = SimpleNamespace(name="g"), RUNS[0]
    plan = SimpleNamespace(plan=SimpleNamespace(grid=grid), stages=stages, todo=[run], reused=[], skipped=[])
    kept.planned(plan)  # type: ignore[arg-type]
    for number, what in told:
        if what == "start":
            kept.stage_started(stages[number])
        else:
            kept.stage_ended(stages[number], "bad" if what == "fail" else None)
    for second, entry in enumerate(json.loads(json.dumps(kept.entries))):
        standing.take(entry, float(second))

    last = dict(told)  # number → the last that was heard of it
    lost = {number for number, what in last.items() if what == "fail"}
    for number, stage in enumerate(stages):  # a stage whose input is lost cannot come
        if {int(n) for n in stage.inputs} & lost and last.get(number) != "ok":
            lost.add(number)
    left = {number for number in range(len(stages)) if number not in last and number not in lost}
    assert standing.done == {stages[n].key for n, what in last.items() if what == "ok"}
    assert {*standing.running} == {stages[n].key for n, what in last.items() if what == "start"}
    assert {*standing.failed} == {stages[n].key for n, what in last.items() if what == "fail"}
    assert standing.stages_left() == len(left)


def test_a_session_reads_as_it_went(tmp_path: Path, clock: list[float]) -> None:
    listener = Journal(tmp_path, Heard())
    listener.planned(status())
    for stage in STAGES[:3]:
        listener.stage_started(stage)
        listener.stage_values(stage, {"loss": 2.0})
        listener.stage_progress(stage, 0.5, {"cuda_bytes": 2.0**31})
        clock[0] += 4
        if stage is not ADAPT[1]:
            listener.stage_ended(stage, None)
    listener.run_started(RUNS[1])
    session = read_session(only_journal(tmp_path))
    standing = session.standing
    assert session.state == "alive"
    assert standing.states() == {"to do": 1, "running": 1, "skipped": 1}
    [running] = standing.running.values()
    assert (running.label, running.since, running.fraction) == (ADAPT[1].label, 8.0, 0.5)
    assert (running.loss, running.cuda_bytes) == (2.0, 2.0**31)
    assert standing.rate(12.0) == 2 / 12
    assert standing.seconds_left(12.0) is None  # nothing of the kind `rank` has been seen
    listener.finished({})
    assert read_session(only_journal(tmp_path)).state == "interrupted"


def test_the_page_reads_a_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parent.parent / "docs" / "tracking.md").read_text(encoding="utf-8")
    code, _ = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    listener = Journal(tmp_path / "runs" / "quickstart", Heard())
    listener.planned(status())
    listener.run_ended(RUNS[0], "ok", None)
    listener.finished({})
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert capsys.readouterr().out.endswith(" ok None\n")


def test_what_is_no_entry_is_passed_over(tmp_path: Path) -> None:
    listener = Journal(tmp_path, Heard())
    listener.planned(status())
    listener.finished({})
    file = only_journal(tmp_path)
    whole = list(read_entries(file))
    first, last = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(
        first + b'\xff\xfe\n[1]\n"x"\n{}\n' + b'{"event": "later_version", "time": "", "elapsed": 0}\n' + last
    )
    assert [entry for entry in read_entries(file) if entry["event"] != "later_version"] == whole
    for cut in range(len(last)):
        file.write_bytes(first + last[:cut])
        assert [entry["event"] for entry in read_entries(file)] == ["planned"] + ["finished"] * (
            cut == len(last) - 1
        )
