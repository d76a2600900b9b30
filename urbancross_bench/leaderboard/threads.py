"""Work on arrays, shared out between threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Part = TypeVar("Part")
Out = TypeVar("Out")

THREADS = 2  # each part in work takes memory


def shared_out(work: Callable[[Part], Out], parts: Iterable[Part]) -> list[Out]:
    """What the work gives for each part, in order; for work in which Python itself has little to do."""
    with ThreadPoolExecutor(THREADS) as pool:
        return [*pool.map(work, parts)]
