"""Working on independent parts with as many threads as torch may use, one part to a thread.

Threads over blocks beat threads within each operation: most of a block's operations are too short to share out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from threading import Event, Lock
from typing import TypeVar

import torch

Part = TypeVar("Part")


def for_each(parts: Iterable[Part], work: Callable[[Part], None], device: torch.device) -> None:
    """Call `work` on every part, in any order and from several threads; parts are taken one by one.

    On another device than the CPU one thread does it all. Raises what `work` raises first.
    """
    rest = iter(parts)
    first = list(islice(rest, 2))
    rest, threads = chain(first, rest), torch.get_num_threads()
    if len(first) < 2 or threads == 1 or device.type != "cpu":
        for part in rest:
            work(part)
        return
    lock, stop = Lock(), Event()

    def worker() -> None:
        torch.set_num_threads(1)  # of this thread
        while not stop.is_set():
            with lock:
                part = next(rest, None)
            if part is None:
                return
            work(part)

    pool = ThreadPoolExecutor(threads)
    try:
        for future in [pool.submit(worker) for _ in range(threads)]:
            future.result()
    finally:
        stop.set()
        pool.shutdown()
        torch.set_num_threads(threads)  # what threads of others begin with
