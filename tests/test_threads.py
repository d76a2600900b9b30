"""Work on parts from several threads: all of it, once, the earliest error, and nothing changed for others."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from urbancross_bench.evaluation.screening import plain_arithmetic
from urbancross_bench.evaluation.threads import for_each

CPU = torch.device("cpu")


@pytest.fixture(params=[1, 2, 5])
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    assert torch.get_num_threads() == request.param
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads")
def test_every_part_is_worked_on_once() -> None:
    done: list[int] = []
    for_each(range(300), done.append, CPU)
    assert sorted(done) == [*range(300)]
    for_each([], done.append, CPU)
    assert len(done) == 300


@pytest.mark.usefixtures("_threads")
def test_the_earliest_error_is_raised_and_no_part_begun_after_it() -> None:
    begun: list[int] = []

    def work(part: int) -> None:
        begun.append(part)
        if part in (7, 8, 9, 250):
            raise ValueError(f"part {part}")

    with pytest.raises(ValueError, match=r"^part 7$"):
        for_each(range(300), work, CPU)
    assert max(begun) < 20


@pytest.mark.usefixtures("_threads")
def test_parts_that_cannot_be_made() -> None:
    def parts() -> Iterator[int]:
        yield from range(10)
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        for_each(parts(), lambda part: None, CPU)


def test_the_last_thread_out_restores_precisions() -> None:
    mkldnn = torch.backends.mkldnn.matmul
    before = mkldnn.fp32_precision
    mkldnn.fp32_precision = "bf16"
    inside, leave = threading.Event(), threading.Event()

    def other() -> None:
        with plain_arithmetic():
            inside.set()
            leave.wait(30)

    thread = threading.Thread(target=other)
    try:
        with plain_arithmetic():
            thread.start()
            assert inside.wait(30)
        assert mkldnn.fp32_precision == "ieee"  # the other is still in there
        leave.set()
        thread.join()
        assert mkldnn.fp32_precision == "bf16"
    finally:
        leave.set()
        mkldnn.fp32_precision = before
