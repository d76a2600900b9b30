"""What a running grid shows, under a clock of the test's own."""

from __future__ import annotations

import errno
import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from grid_events import ADAPT, RANK, RUNS, START, status
from rich.console import Console

from urbancross_bench.cli import progress
from urbancross_bench.cli.amounts import duration
from urbancross_bench.cli.progress import LiveDisplay, PlainDisplay, make_display, picture, print_table
from urbancross_bench.cli.wording import time_of
from urbancross_bench.execution.following import Standing
from urbancross_bench.interfaces import Estimate, Table


def standing_of(**kinds: int) -> Standing:
    """A session that is to do so many stages of each kind; their keys are `kind0`, `kind1`, …"""
    standing = Standing()
    keys = [(kind, f"{kind}{number}") for kind, count in kinds.items() for number in range(count)]
    stages = [{"key": key, "kind": kind, "label": "", "inputs": []} for kind, key in keys]
    standing.take({"event": "planned", "grid": "g", "runs": [], "stages": stages}, 0.0)
    return standing


def start(standing: Standing, key: str, now: float) -> None:
    standing.take({"event": "stage_started", "stage": key, "kind": key[:-1], "label": ""}, now)


def progress_to(standing: Standing, key: str, fraction: float, now: float) -> None:
    standing.take({"event": "stage_progress", "stage": key, "fraction": fraction, "values": {}}, now)


def end(standing: Standing, key: str, now: float) -> None:
    standing.take({"event": "stage_ended", "stage": key, "error": None}, now)


def test_the_estimate_follows_from_stages_that_ended() -> None:
    standing = standing_of(embed=4)
    assert time_of(standing, 0.0) == "0:00 so far"
    for number in range(3):  # ten seconds each, one after the other
        start(standing, f"embed{number}", 10.0 * number)
        end(standing, f"embed{number}", 10.0 * number + 10)
    assert time_of(standing, 30.0) == "0:30 so far, about 0:10 left"
    start(standing, "embed3", 30.0)
    assert time_of(standing, 34.0) == "0:34 so far, about 0:06 left"  # as the others
    progress_to(standing, "embed3", 0.25, 34.0)
    assert time_of(standing, 34.0) == "0:34 so far, about 0:12 left"  # as itself
    end(standing, "embed3", 46.0)
    assert time_of(standing, 46.0) == "0:46 so far"


def test_parallel_stages_shorten_the_estimate() -> None:
    standing = standing_of(embed=4)
    for number in range(2):
        start(standing, f"embed{number}", 0.0)
    for number in range(2):
        end(standing, f"embed{number}", 10.0)
    assert time_of(standing, 10.0) == "0:10 so far, about 0:10 left"
    for number in (2, 3):
        start(standing, f"embed{number}", 10.0)
    assert time_of(standing, 15.0) == "0:15 so far, about 0:05 left"


def test_no_estimate_is_made_up_for_a_kind_not_seen_yet() -> None:
    standing = standing_of(pack=1, adapt=2)
    start(standing, "pack0", 0.0)
    end(standing, "pack0", 5.0)
    assert time_of(standing, 5.0) == "0:05 so far"
    start(standing, "adapt0", 5.0)
    assert time_of(standing, 9.0) == "0:09 so far"
    progress_to(standing, "adapt0", 0.5, 10.0)  # five seconds more, and ten of the other
    assert time_of(standing, 10.0) == "0:10 so far, about 0:15 left"


def test_long_times_have_hours() -> None:
    assert [duration(seconds) for seconds in (0, 59.6, 3599, 7385)] == ["0:00", "1:00", "59:59", "2:03:05"]


def test_plain_lines_where_there_is_no_terminal(tmp_path: Path) -> None:
    assert type(make_display(tmp_path)) is PlainDisplay


@pytest.fixture
def played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[PlainDisplay], list[str]]:
    """What a display prints of a grid of two runs, of which one fails."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(sys, "argv", ["urbancross-bench", "run", "my grid.yaml"])
    log = tmp_path / "store" / "logs" / f"adapt-{ADAPT[1].key}.log"
    log.parent.mkdir(parents=True)
    log.touch()

    def play(display: PlainDisplay) -> list[str]:
        with display:
            display.planned(status())
            display.stage_started(START)
            display.stage_progress(START, 0.5, {})
            now[0] += 10
            display.stage_ended(START, None)
            display.run_started(RUNS[0])
            for stage in (ADAPT[0], RANK[0]):
                display.stage_started(stage)
                display.stage_values(stage, {"loss": 0.25})
                display.stage_ended(stage, None)
            display.run_ended(RUNS[0], "ok", None)
            display.run_started(RUNS[1])
            for stage in (ADAPT[1], RANK[1]):
                display.stage_started(stage)
                display.stage_ended(stage, None if stage is ADAPT[1] else "no [bold]luck")
            display.warn("beware")
            display.run_ended(RUNS[1], "failed", "no [bold]luck")
            display.finished({"ok": 1, "failed": 1, "skipped": 1})
        return capsys.readouterr().err.splitlines()

    return play


def test_plain_lines_say_what_became_of_each_run_and_why(
    played: Callable[[PlainDisplay], list[str]], tmp_path: Path
) -> None:
    assert played(PlainDisplay(tmp_path)) == [
        "3 runs: 2 to do, 0 reused, 1 skipped; 5 stages to do: 1 pretrain, 2 adapt, 2 rank",
        "skipped: encoder 'tiny' does not provide segments (1 runs)",
        f"[1/2] ok     {RUNS[0]}  0:10 so far",
        f"FAILED rank of {RANK[1].label}: no [bold]luck",
        "warning: beware",
        f"[2/2] failed {RUNS[1]}  0:10 so far",
        "failed: no [bold]luck",
        f"  {RUNS[1]}",
        f"  log: {tmp_path / 'store' / 'logs' / f'adapt-{ADAPT[1].key}.log'}",  # it followed in that process
        f"all logs: {tmp_path / 'store' / 'logs'}",
        "to try again what is not ok: urbancross-bench run 'my grid.yaml'",
    ]


def test_a_live_display_prints_the_same_lines(played: Callable[[PlainDisplay], list[str]], tmp_path: Path) -> None:
    lines = played(LiveDisplay(tmp_path))
    assert "warning: beware" in lines
    assert "failed: no [bold]luck" in lines
    assert lines[-1] == "to try again what is not ok: urbancross-bench run 'my grid.yaml'"


class Gone(io.StringIO):
    """A terminal that goes away after some lines, as by EIO, or as a pipe without a reader."""

    lines = 0

    def write(self, text: str) -> int:
        self.lines += 1
        if self.lines > 3:
            raise OSError(errno.EIO, "Input/output error")
        return len(text)

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("display", [PlainDisplay, LiveDisplay])
def test_a_terminal_that_goes_away_costs_no_run(
    played: Callable[[PlainDisplay], list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    display: type[PlainDisplay],
) -> None:
    gone = Gone()
    monkeypatch.setattr(sys, "stderr", gone)
    played(display(tmp_path))
    assert gone.lines > 3


def test_the_picture_shows_runs_speed_time_and_the_stages_that_run(tmp_path: Path) -> None:
    display = PlainDisplay(tmp_path)
    display.planned(status())
    display.stage_started(START)
    display.stage_ended(START, None)
    display.run_started(RUNS[0])
    for stage in ADAPT:
        display.stage_started(stage)
    display.stage_values(ADAPT[0], {"step": 4.0, "loss": 0.25})
    display.stage_progress(ADAPT[0], 0.5, {"cuda_bytes": 1.5 * 2**30})
    console = Console(file=io.StringIO(), width=150)
    standing = display._standing
    for one in standing.running.values():
        one.since = 20.0
    console.print(picture(standing, 30.0))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue().splitlines()
    assert shown[0].strip() == "1 skipped, 1 running, 1 to do · 2.0 stages/min · 0:30 so far"
    assert "1 done, 2 running, 2 left" in shown[1]
    line = " ".join(shown[2].split())
    assert line.startswith("adapt dann, a → b, seed 0 ━")
    assert line.endswith("━ 50% about 0:10 left loss 0.25 1.5 GiB")
    assert "0%" in shown[3]
    console.print(picture(Standing(), 0.0))


def test_what_all_rows_share_stands_once(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(Table("t", "Title", ["a", "b", "c"], [["x", 1, Estimate(2.0)], ["x", 2, Estimate(3.0, 2.5, 3.5)]]))
    out = capsys.readouterr().out
    assert "a x" in out
    assert "3.0 (2.5 to 3.5)" in out
    print_table(Table("t", "Title", ["a"], [["coral[weight=0.5]"], ["[bold]"]]))
    out = capsys.readouterr().out
    assert "coral[weight=0.5]" in out
    assert "[bold]" in out
    print_table(Table("t", "Title", ["a"], []))
    print_table(Table("t", "Title", ["a"], [["only"]]))
    assert "only" in capsys.readouterr().out


def test_a_single_row_that_is_too_wide_stands_on_its_side(capsys: pytest.CaptureFixture[str]) -> None:
    for columns, wide in ((18, False), (19, True)):
        names = [f"column {n:02}" for n in range(columns)]
        print_table(Table("t", "Title", names, [[f"{n:06}" for n in range(columns)]]))
        lines = capsys.readouterr().out.splitlines()
        assert ("│ column 03 │ 000003 │" in lines) == wide
