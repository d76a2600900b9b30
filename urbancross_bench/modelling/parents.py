"""Processes that go with the one that started them."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from multiprocessing.connection import Connection


def end_with(connection: Connection) -> None:
    """End this process as soon as the other end of a connection is closed: whoever holds it may be killed.

    Its locks are then free, and its memory and devices are others'.
    """
    threading.Thread(target=_wait, args=(connection,), daemon=True).start()


def _wait(connection: Connection) -> None:
    with suppress(EOFError, OSError):
        connection.recv()
    os._exit(1)
