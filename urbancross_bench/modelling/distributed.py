"""One training in several processes, each of which encodes its share of every batch.

All processes draw the same batches, gather the features of all shares and compute the same loss over the whole
batch, so a loss need not know of them. What a share's gradient is to the whole is kept in one rule: each process
holds the share's part times the number of processes, and the mean over processes is the gradient of the whole, for
weights that every process applies to all features, like a discriminator's, too.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import TCPStore

from urbancross_bench.errors import DiedError, RunError, UrbanCrossError
from urbancross_bench.modelling.curve import DivergedError
from urbancross_bench.modelling.saving import random_state, restore_random
from urbancross_bench.processes import end_with, said_exit, servers_environment, take_environment

_LAST_WORD = 20.0  # seconds


@dataclass(frozen=True)
class Ranks:
    """The processes of a training, and which of them this is; by default one alone, and nothing is exchanged."""

    rank: int = 0
    world: int = 1

    @classmethod
    def current(cls) -> Ranks:
        """Those of torch.distributed where it is in use."""
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size())
        return cls()

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and reports."""
        return self.rank == 0

    def sizes(self, count: int) -> list[int]:
        """How many of `count` rows each process takes: as equal as can be, the first ones more."""
        least, more = divmod(count, self.world)
        return [least + (rank < more) for rank in range(self.world)]

    def rows(self, count: int) -> slice:
        """Those of `count` rows that this process takes."""
        sizes = self.sizes(count)
        start = sum(sizes[: self.rank])
        return slice(start, start + sizes[self.rank])

    def share(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """This process's rows of tensors that all processes have alike."""
        return tuple(self._taken(part) for part in inputs)

    def _taken(self, whole: Tensor) -> Tensor:
        own = whole[self.rows(len(whole))]
        if own.requires_grad:
            # It was gathered, and what comes back to it is this share's, `world` times already.
            own.register_hook(lambda gradient: gradient / self.world)  # type: ignore[no-untyped-call]
        return own

    def gather(self, own: Tensor, count: int) -> Tensor:
        """(B, …) of all processes' rows, B = `count`, with gradients to one's own."""
        gathered: Tensor = _Gather.apply(own, self, count)
        return gathered

    @contextmanager
    def own_draws(self, device: torch.device) -> Iterator[None]:
        """Inside, each process draws from torch's generators what is its own; after it, all stand alike again.

        So dropout differs from share to share, though what a method draws is the same everywhere. If nothing is
        drawn, generators are left as they stood; it has to be so in all processes or in none.
        """
        before = random_state(device)
        torch.manual_seed(int(torch.randint(2**62, ())) + self.rank)
        started = random_state(device)
        try:
            yield
        finally:
            drawn = not all(torch.equal(state, started[name]) for name, state in random_state(device).items())
            restore_random(before, device)
            if drawn:
                torch.randint(2**62, ())

    @torch.no_grad()
    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """After backward: give each parameter the gradient of the whole batch.

        Every process has to pass all that it trains, in one order. A gradient that only some processes have counts
        as zero at the others; one that none has stays None.
        """
        if self.world == 1:
            return
        trained = list({id(p): p for p in parameters if p.requires_grad}.values())
        if not trained:
            return
        has = torch.tensor([p.grad is not None for p in trained], dtype=torch.uint8, device=trained[0].device)
        dist.all_reduce(has, op=dist.ReduceOp.MAX)
        sums, works = [], []
        for parameter, anyone in zip(trained, has.tolist(), strict=True):
            if not anyone:
                continue
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            sums.append((parameter.grad, parameter.grad.contiguous()))
            works.append(dist.all_reduce(sums[-1][1], async_op=True))
        for work, (gradient, total) in zip(works, sums, strict=True):
            work.wait()
            gradient.copy_(total.div_(self.world))

    @torch.no_grad()
    def check_alike(self, parameters: Iterable[nn.Parameter], losses: Iterable[Tensor]) -> None:
        """Raise RunError where processes no longer hold the same weights, or a batch has other losses in them.

        Then a method has drawn on its own: the losses show it even where weights follow the mean of all gradients.
        """
        if self.world == 1:
            return
        values = [value.detach().double().square().sum() for value in (*parameters, *losses)]
        own = torch.stack([value.to(values[0].device) for value in values])
        every = [torch.empty_like(own) for _ in range(self.world)]
        dist.all_gather(every, own)
        apart = [rank for rank, sums in enumerate(every) if not torch.equal(sums, every[0])]
        if apart:
            raise RunError(
                f"the weights or losses of process {apart[0]} are no longer those of process 0; a method that "
                "draws at random must draw from torch's generators or by the step, or be trained with ranks: 1"
            )


class _Gather(torch.autograd.Function):
    """All rows from every process's own. Every process computes the whole loss, so backward needs no exchange."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, ranks: Ranks, count: int) -> Tensor:
        ctx.ranks = ranks
        sizes = ranks.sizes(count)
        padded = own.new_zeros(sizes[0], *own.shape[1:])
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        [whole] = gradients
        return whole[ctx.ranks.rows(len(whole))] * ctx.ranks.world, None, None


class _RemoteError(Exception):
    """The traceback of an error in another process."""

    def __str__(self) -> str:
        return "\n" + str(self.args[0])


def run_ranks(
    count: int,
    function: Callable[..., None],
    *arguments: Any,
    device: torch.device,
    report: Callable[[Any], None],
) -> None:
    """Run `function(device, tell, *arguments)` in `count` new processes that are each other's `Ranks.current()`.

    device: the CPU for all, or the first's CUDA device; the others get those that follow it. tell: what the first
    process tells goes to `report`, here; what others tell goes nowhere. Function and arguments must be picklable.
    Each process has the environment variables that torchrun sets.

    Returns when all are done. If one fails, all are killed, and its error is raised; DiedError if it died without
    a word. They end, too, when this process does.
    """
    context = multiprocessing.get_context("forkserver")
    # Imported once, not in each; the last is what optimisers and checkpoints import when they are first used.
    context.set_forkserver_preload(["__main__", __name__, function.__module__, "torch._dynamo"])
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    common = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port)}
    common |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    running: dict[Connection, BaseProcess] = {}
    try:
        for rank in range(count):
            here, there = context.Pipe()
            environment = common | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            arguments_of = (there, environment, device, function, arguments)
            process: BaseProcess = context.Process(target=_rank, args=arguments_of, daemon=True)
            running[here] = process
            with servers_environment():
                process.start()
            there.close()
        _attend(running, report)
    finally:
        for connection, process in running.items():
            process.kill()
            process.join()
            connection.close()


def _attend(running: dict[Connection, BaseProcess], report: Callable[[Any], None]) -> None:
    """Until all are done: pass on what the first process tells, raise what any of them raises."""
    ranks = {connection: rank for rank, connection in enumerate(running)}
    open_ = list(running)
    while open_:
        failed: list[tuple[int, Exception, str]] = []
        # In order of rank.
        for connection in sorted(cast("list[Connection]", wait(open_)), key=lambda one: ranks[one]):
            try:
                kind, content = connection.recv()
            except (EOFError, OSError):
                raise _died(ranks[connection], running[connection]) from None
            if kind == "tell":
                report(content)
            elif kind == "done":
                open_.remove(connection)
            else:
                failed.append((ranks[connection], *content))
        for rank, error, text in failed:
            if not isinstance(error, UrbanCrossError):
                _raise_if_died(running)
            if isinstance(error, DivergedError) and rank > 0:
                _hear_out(open_[0])
            raise error from _RemoteError(f"process {rank}:\n{text}")


def _hear_out(first: Connection) -> None:
    """All diverge at the same step, and the first, before it says so, keeps the curve that led there."""
    until = time.monotonic() + _LAST_WORD
    with suppress(EOFError, OSError):
        while first.poll(max(0.0, until - time.monotonic())) and first.recv()[0] == "tell":
            pass


def _died(rank: int, process: BaseProcess) -> DiedError:
    process.join()
    return DiedError(f"process {rank} died without a word ({said_exit(process.exitcode)})")


def _raise_if_died(running: dict[Connection, BaseProcess]) -> None:
    """A process that dies is why the others fail, though theirs may be the first that is heard of it."""
    wait([process.sentinel for process in running.values()], timeout=1.0)
    for rank, process in enumerate(running.values()):
        if process.exitcode is not None:
            raise _died(rank, process)


def _rank(
    connection: Connection,
    environment: dict[str, str],
    device: torch.device,
    function: Callable[..., None],
    arguments: tuple[Any, ...],
) -> None:
    """The life of one process."""
    take_environment(environment)
    rank = int(environment["RANK"])
    end_with(connection)

    def tell(content: Any) -> None:
        if rank == 0:
            connection.send(("tell", content))

    try:
        if device.type == "cuda":
            device = torch.device("cuda", (device.index or 0) + rank)
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        function(device, tell, *arguments)
        dist.barrier()
        dist.destroy_process_group()
        connection.send(("done", None))
    except Exception as error:
        text = traceback.format_exc()
        print(text, file=sys.stderr)
        connection.send(("failed", (_picklable(error), text)))
    threading.Event().wait()  # until killed: to the others, a process that leaves is an error of its own


def _picklable(error: Exception) -> Exception:
    with suppress(Exception):
        pickle.loads(pickle.dumps(error))
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")
