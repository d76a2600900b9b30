"""Signals that come amid what must not be left half-done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C, or the signal to terminate, is answered after this; the second of them at once.

    Processes that are started meanwhile hear them, too.
    """
    heard, due = 0, list[int]()
    if threading.current_thread() is not threading.main_thread():
        yield  # no signal is answered here
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in handlers.items() if handler not in (None, signal.SIG_IGN)}

    def answer() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)
        while due:
            signal.raise_signal(due.pop(0))

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        heard += 1
        due.append(number)
        if heard > 1:
            answer()

    for number in before:
        signal.signal(number, hear)
    try:
        yield
    finally:
        answer()
