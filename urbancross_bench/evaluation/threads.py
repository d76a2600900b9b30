"""Working on independent parts with as many threads as torch may use, one part to a thread.

Threads over blocks beat threads within each operation: most of a block's operations are too short to share out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from threading import Lock
from typing import TypeVar

import torch

Part = TypeVar("Part")


def for_each(parts: Iterable[Part], work: Callable[[Part], None], device: torch.device) -> None:
    """Call `work` on every part, from several threads; parts are taken one by one, in order.

    After an error no further part is taken; of several errors that of the earliest part is raised, so that it is
    the same whatever the threads. On another device than the CPU one thread does it all. While it works, threads
    that first use torch elsewhere in the process begin with one thread of its pool.
    """
    rest: Iterator[tuple[int, Part]] = enumerate(parts)
    first = list(islice(rest, 2))
    rest, threads = chain(first, rest), torch.get_num_threads()
    if len(first) < 2 or threads == 1 or device.type != "cpu":
        for _, part in rest:
            work(part)
        return
    lock, errors = Lock(), dict[int, BaseException]()

    def worker() -> None:
        torch.set_num_threads(1)  # of this thread
        while True:
            with lock:
                taken = None if errors else next(rest, None)
            if taken is None:
                return
            number, part = taken
            try:
                work(part)
            except BaseException as error:
                errors[number] = error
                return

    pool = ThreadPoolExecutor(threads)
    try:
        for future in [pool.submit(worker) for _ in range(threads)]:
            future.result()
    except BaseException as error:  # Ctrl-C, or a part that cannot be made
        errors.setdefault(-1, error)
    finally:
        pool.shutdown()
        torch.set_num_threads(threads)  # what threads of others begin with
    if errors:
        raise errors[min(errors)]
