"""The bars of `data` commands, on a terminal and elsewhere."""

from __future__ import annotations

import io

import pytest

from urbancross_bench.cli import progress_bars
from urbancross_bench.cli.progress_bars import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for stream, shown in (
        (Terminal(), ["reading [a]", "5/10", "━"]),
        (io.StringIO(), ["reading [a]: 0 of 10\n", "comparing: 1 of 3\n"]),
    ):
        monkeypatch.setattr("sys.stderr", stream)
        with progress() as report:
            for what, done, total in (("reading [a]", 0, 10), ("reading [a]", 5, 10), ("comparing", 1, 3)):
                report(what, done, total)
        assert all(text in stream.getvalue() for text in shown)
    assert "5 of 10" not in stream.getvalue()  # not every step, but one a while later
    monkeypatch.setattr(progress_bars, "_EVERY", -1)
    with progress() as report:
        report("reading [a]", 0, 10)
        report("reading [a]", 5, 10)
    assert "5 of 10" in stream.getvalue()


def test_lines_say_how_long_is_left_at_the_speed_of_this_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter((1000.0, 1001.0, 1600.0, 1600.0, 1700.0, 1701.0))  # looked at again for what is left
    monkeypatch.setattr(progress_bars.time, "monotonic", lambda: next(clock))
    with progress() as report:
        for done in (20, 21, 27, 100, 100):
            report("captions", done, 100)
    assert capsys.readouterr().err.splitlines() == [
        "captions: 20 of 100",
        "captions: 27 of 100, about 1:44:17 left",
        "captions: 100 of 100",
    ]
