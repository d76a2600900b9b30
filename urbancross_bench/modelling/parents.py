"""Processes that go with the one that started them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection


def end_with(connection: Connection, last: Callable[[], object] = bool) -> None:
    """End this process as soon as the other end of a connection is closed: whoever holds it may be killed.

    Its locks are then free, and its memory and devices are others'. last: called before it ends.
    """
    threading.Thread(target=_wait, args=(connection, last), daemon=True).start()


def _wait(connection: Connection, last: Callable[[], object]) -> None:
    with suppress(EOFError, OSError):
        connection.recv()
    try:
        last()
    finally:
        os._exit(1)
