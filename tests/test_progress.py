"""What a running grid shows, under a clock of the test's own."""

from __future__ import annotations

import pytest

from urbancross_bench.cli import progress
from urbancross_bench.cli.progress import Clock, PlainDisplay, make_display, print_table
from urbancross_bench.execution.stage import Stage
from urbancross_bench.interfaces import Estimate, Table


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_the_estimate_follows_from_stages_that_ended(time: list[float]) -> None:
    stages = tuple(Stage("embed", {"number": n}) for n in range(4))
    clock = Clock(stages)
    assert str(clock) == "0:00 so far"
    for stage in stages[:3]:  # ten seconds each, one after the other
        clock.started(stage)
        time[0] += 10
        clock.ended(stage)
    assert str(clock) == "0:30 so far, about 0:10 left"
    clock.started(stages[3])
    time[0] += 2
    assert clock.left_of(stages[3], 0.25) == "0:06"
    time[0] += 8
    clock.ended(stages[3])
    assert str(clock) == "0:40 so far"


def test_parallel_stages_shorten_the_estimate(time: list[float]) -> None:
    stages = tuple(Stage("embed", {"number": n}) for n in range(4))
    clock = Clock(stages)
    for stage in stages[:2]:
        clock.started(stage)
    time[0] += 10
    for stage in stages[:2]:
        clock.ended(stage)
    assert str(clock) == "0:10 so far, about 0:10 left"


def test_no_estimate_is_made_up_for_a_kind_not_seen_yet(time: list[float]) -> None:
    seen, unseen = Stage("pack", {}), Stage("adapt", {})
    clock = Clock((seen, unseen))
    clock.started(seen)
    time[0] += 5
    clock.ended(seen)
    assert str(clock) == "0:05 so far"


def test_plain_lines_where_there_is_no_terminal() -> None:
    assert type(make_display()) is PlainDisplay


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
