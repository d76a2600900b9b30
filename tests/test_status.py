"""`status`: what a second terminal sees of grids that run, ended, or were killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from conftest import Result
from grid_events import ADAPT, RANK, RUNS, SKIPPED, START, Heard, status, write_record

from urbancross_bench.execution.journal import Journal

Cli = Callable[..., Result]
TESTS = Path(__file__).parent


def begin(out: Path) -> Journal:
    """A session that is half-way: its first run is well, its second is at its adaptation."""
    with patch.object(sys, "argv", ["urbancross-bench", "run", "my grid.yaml", "--out", str(out)]):
        listener = Journal(out, Heard())
    listener.planned(status())
    for stage in (START, ADAPT[0], RANK[0]):
        listener.stage_started(stage)
        listener.stage_ended(stage, None)
    write_record(out, RUNS[0], "ok")
    listener.run_started(RUNS[0])
    listener.run_ended(RUNS[0], "ok", None)
    listener.run_started(RUNS[1])
    listener.stage_started(ADAPT[1])
    listener.stage_values(ADAPT[1], {"step": 4.0, "loss": 0.125})
    listener.stage_progress(ADAPT[1], 0.5, {"cuda_bytes": 2**31})
    return listener


def drop(listener: Journal) -> None:
    """What a kill does to a journal: the lock is gone, and a line is torn."""
    assert listener._file is not None
    assert listener._lock is not None
    listener._file.write(b'{"time": "2026-')
    listener._file.close()
    listener._lock.release()


@pytest.fixture
def see(cli: Cli, tmp_path: Path) -> Callable[[], dict[str, Any]]:
    def look() -> dict[str, Any]:
        result = cli("status", tmp_path, "--json")
        assert result.status == 0, result.err
        content: dict[str, Any] = json.loads(result.out)
        return content

    return look


def test_a_living_session_is_seen_from_beside(see: Callable[[], dict[str, Any]], tmp_path: Path, cli: Cli) -> None:
    listener = begin(tmp_path)
    seen = see()
    [session] = seen["sessions"]
    assert session["state"] == "alive"
    assert session["pid"] == os.getpid()
    assert session["stages"] == {"done": 3, "failed": 0, "running": 1, "left": 1}
    [running] = session["running"]
    wanted = {"kind": "adapt", "label": ADAPT[1].label, "fraction": 0.5, "loss": 0.125, "cuda_bytes": 2**31}
    assert wanted.items() <= running.items()
    assert seen["runs"] == {"ok": 1, "skipped": 1, "running": 1}
    assert seen["to_go_on"] == []
    said = cli("status", tmp_path).out
    assert f"adapt of {ADAPT[1].label}: 50%" in said
    assert "loss 0.125, 2.0 GiB" in said
    assert "to go on" not in said
    listener.finished({})


def test_a_killed_session_is_told_from_a_living_one(
    see: Callable[[], dict[str, Any]], tmp_path: Path, cli: Cli
) -> None:
    drop(begin(tmp_path))
    seen = see()
    assert [session["state"] for session in seen["sessions"]] == ["killed"]
    assert seen["runs"] == {"ok": 1, "interrupted": 1, "skipped": 1}
    assert {(one["run"], one["status"], one["reason"]) for one in seen["not_ok"]} == {
        (str(RUNS[1]), "interrupted", "its process was killed"),
        (str(SKIPPED), "skipped", SKIPPED.skipped),
    }
    command = f"cd {Path.cwd()} && urbancross-bench run 'my grid.yaml' --out {tmp_path}"
    assert seen["to_go_on"] == [command]
    said = cli("status", tmp_path).out.splitlines()
    assert not any("left" in line for line in said if "was at" in line)
    assert said[-1].strip() == command
    assert "runs: 1 ok, 1 interrupted, 1 skipped" in said


def test_a_grid_that_an_error_ended_runs_no_more(see: Callable[[], dict[str, Any]], tmp_path: Path) -> None:
    begin(tmp_path).finished({"ok": 1})
    seen = see()
    assert [session["state"] for session in seen["sessions"]] == ["interrupted"]
    [reason] = [one["reason"] for one in seen["not_ok"] if one["status"] == "interrupted"]
    assert reason == "an error ended its grid"


@pytest.mark.parametrize(
    "line",
    [
        {"event": 5, "time": 1, "elapsed": 0},
        {"event": "warn", "time": "garbage", "elapsed": 0},
        {"event": "warn", "time": "2026-01-01T00:00:00+00:00", "elapsed": "soon"},
        {"event": "warn", "time": "2026-01-01T00:00:00+00:00", "elapsed": float("nan")},
    ],
)
def test_a_damaged_line_costs_no_more_than_itself(
    see: Callable[[], dict[str, Any]], tmp_path: Path, line: dict[str, Any]
) -> None:
    journal = begin(tmp_path)
    drop(journal)
    expected = see()
    [file] = tmp_path.glob("journal/*.jsonl")
    with file.open("a") as lines:
        lines.write("\n" + json.dumps(line) + "\n")
    assert see() == expected


def test_a_process_that_is_really_killed(see: Callable[[], dict[str, Any]], tmp_path: Path) -> None:
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(TESTS)!r})
from pathlib import Path
from test_status import begin
begin(Path({str(tmp_path)!r}))
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    assert [session["state"] for session in see()["sessions"]] == ["killed"]


def test_reasons_stand_once_with_their_runs(see: Callable[[], dict[str, Any]], tmp_path: Path, cli: Cli) -> None:
    listener = begin(tmp_path)
    listener.stage_ended(ADAPT[1], "no luck")
    write_record(tmp_path, RUNS[1], "oom", "no luck")
    listener.run_ended(RUNS[1], "oom", "no luck")
    listener.finished({"ok": 1, "oom": 1})
    log = tmp_path / "store" / "logs" / f"adapt-{ADAPT[1].key}.log"
    log.parent.mkdir(parents=True)
    log.touch()
    seen = see()
    assert [session["state"] for session in seen["sessions"]] == ["finished"]
    assert seen["not_ok"][0] == {
        "key": RUNS[1].key,
        "run": str(RUNS[1]),
        "status": "oom",
        "reason": "no luck",
        "logs": [str(log)],
    }
    said = cli("status", tmp_path).out.splitlines()
    at = said.index("oom: no luck")
    assert said[at + 1 : at + 3] == [f"  {RUNS[1]}", f"  log: {log}"]
    assert "stages: 3 done, 1 failed, 0 left" in said[2]  # the rank that built on it cannot come


def test_records_know_what_other_sessions_did(see: Callable[[], dict[str, Any]], tmp_path: Path) -> None:
    drop(begin(tmp_path))
    write_record(tmp_path, RUNS[1], "failed", "said elsewhere")
    seen = see()
    assert seen["runs"] == {"ok": 1, "failed": 1, "skipped": 1}
    assert seen["not_ok"][0]["reason"] == "said elsewhere"
    write_record(tmp_path, RUNS[1], "ok")
    seen = see()
    assert seen["runs"] == {"ok": 2, "skipped": 1}
    assert seen["to_go_on"] == []


def test_sessions_that_share_a_folder_are_shown_together(
    see: Callable[[], dict[str, Any]], tmp_path: Path
) -> None:
    old = begin(tmp_path)
    drop(old)
    [file] = (tmp_path / "journal").glob("*.jsonl")
    entries = file.read_text().replace('"time": "2', '"time": "1')  # a thousand years ago
    file.write_text(entries)
    os.utime(file, (0, 0))
    first, second = begin(tmp_path), begin(tmp_path)
    assert [session["state"] for session in see()["sessions"]] == ["alive", "alive"]
    second.finished({})
    assert [session["state"] for session in see()["sessions"]] == ["alive"]
    drop(first)
    assert sorted(session["state"] for session in see()["sessions"]) == ["interrupted", "killed"]


def test_the_clock_of_files_may_lag(see: Callable[[], dict[str, Any]], tmp_path: Path) -> None:
    drop(begin(tmp_path))
    [file] = (tmp_path / "journal").glob("*.jsonl")
    os.utime(file, (0, 0))
    assert [session["state"] for session in see()["sessions"]] == ["killed"]


def test_a_folder_without_a_journal_is_named(cli: Cli, tmp_path: Path) -> None:
    result = cli("status", tmp_path)
    assert result.status == 2
    assert f"error: {tmp_path} holds no journal" in result.err


@pytest.mark.parametrize("finished", [True, False])
def test_status_imports_nothing_heavy(tmp_path: Path, finished: bool) -> None:
    if finished:
        begin(tmp_path).finished({})
    else:
        drop(begin(tmp_path))
        write_record(tmp_path, RUNS[1], "ok", scores={"mR": 1.0})  # of another session: its record is looked at
    code = f"""
import sys
from urbancross_bench.cli.app import main
sys.argv = ["urbancross-bench", "status", {str(tmp_path)!r}]
try:
    main()
except SystemExit as stop:
    assert not stop.code
print([name for name in ("torch", "pandas", "numpy", "rich.live") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
