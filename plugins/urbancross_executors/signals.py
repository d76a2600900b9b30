"""Signals that come amid what must not be left half-done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def uninterrupted() -> Iterator[list[int]]:
    """Ctrl-C, or the signal to terminate, is answered after this; the second of them at once.

    Gives a list of the signals that came. Processes that are started meanwhile hear them, too.
    """
    heard, due = list[int](), list[int]()
    if threading.current_thread() is not threading.main_thread():
        yield heard  # no signal is answered here
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def answer() -> None:
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)
        while due:
            signal.raise_signal(due.pop(0))

    def hear(number: int, frame: FrameType | None) -> None:
        heard.append(number)
        due.append(number)
        if len(heard) > 1:
            answer()

    for number in before:
        signal.signal(number, hear)
    try:
        yield heard
    finally:
        answer()
