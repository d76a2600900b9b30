"""The processes that make something of items with a model: each has a model of its own, and may die."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Protocol, cast

from urbancross_bench.errors import RunError, UrbanCrossError
from urbancross_bench.identity import derive_seed
from urbancross_bench.processes import redirect_output, said_exit, servers_environment, take_environment

_PATIENCE = 5.0  # seconds for processes to end by themselves

Outcome = tuple[str | None, str]
"""What was made of an item; the reason if that is None, and where it was made alone since its batch had failed."""

Work = Callable[[Sequence[str]], list[str]]
"""From the names of a batch to one text an item. Raises if one of them cannot be done."""


class Maker(Protocol):
    """What is made, in a form that can be sent to another process."""

    def build(self, device: str) -> Work:
        """Load the model on a torch device, once in each process; torch is seeded before.

        What it raises ends the command: it would fail for every item.
        """
        ...


@dataclass(frozen=True)
class Setup:
    """What a process is told when it starts."""

    maker: Maker
    device: str
    threads: int
    seed: str
    log: str
    environment: Mapping[str, str]


@dataclass(eq=False)
class _Piece:
    """Items of a batch that a process takes in hand together."""

    batch: int
    names: Sequence[str]
    deaths: int = 0


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    ready: bool = False
    piece: _Piece | None = None


@dataclass(eq=False)
class _Crew:
    """The running processes by their connections."""

    setup: Setup
    started: int = 0
    members: dict[Connection, _Worker] = field(default_factory=dict)

    def start(self) -> None:
        """One more process; imports are done once, in the server that it is forked from."""
        context = multiprocessing.get_context("forkserver")
        # `__main__` too: else every process would import the command line anew. The last is what torch imports
        # when it is made deterministic, which takes as long as all the rest.
        context.set_forkserver_preload(
            ["__main__", "urbancross_bench.modelling.runtime", "torch._inductor.config"]
        )
        here, there = context.Pipe()
        process = context.Process(target=_serve, args=(self.setup, self.started, there), daemon=True)
        with servers_environment():
            process.start()
        there.close()
        self.members[here] = _Worker(process)
        self.started += 1

    def hand_out(self, pieces: deque[_Piece]) -> None:
        """Give waiting pieces to processes that have nothing in hand."""
        for connection, worker in self.members.items():
            if pieces and worker.ready and worker.piece is None:
                worker.piece = pieces.popleft()
                try:
                    connection.send(worker.piece.names)
                except OSError:
                    continue  # it has died; `hear` finds that out

    def hear(self) -> Iterator[tuple[_Piece, list[Outcome] | str]]:
        """Wait; then pieces with what became of them, a text if their process died of it."""
        for one in wait(list(self.members)):
            connection = cast(Connection, one)
            worker = self.members[connection]
            try:
                said = connection.recv()
            except (EOFError, OSError):
                del self.members[connection]
                worker.process.join()
                how = f"({said_exit(worker.process.exitcode)}); see {self.setup.log}"
                if not worker.ready:
                    raise RunError(f"a process died while it loaded the model {how}") from None
                if worker.piece:
                    yield worker.piece, f"the process died {how}"
                continue
            if isinstance(said, BaseException):
                raise said
            if worker.piece:
                yield worker.piece, said
            worker.ready, worker.piece = True, None

    def dismiss(self) -> None:
        """Let those go that have nothing in hand, and kill the others: nothing half-made is believed."""
        for connection in self.members:
            connection.close()  # who waits for names ends
        deadline = time.monotonic() + _PATIENCE
        for worker in self.members.values():
            if worker.ready and worker.piece is None:
                worker.process.join(max(0.0, deadline - time.monotonic()))
        for worker in self.members.values():
            worker.process.kill()
            worker.process.join()


def carried_out(
    batches: Sequence[Sequence[str]], setup: Setup, workers: int
) -> Iterator[tuple[int, list[Outcome]]]:
    """The numbers of batches with what was made of their items, as they are finished.

    A batch whose process died is tried once more whole, then item by item; see `_settled`.
    """
    pieces = deque(_Piece(number, names) for number, names in enumerate(batches))
    found: dict[int, dict[str, Outcome]] = {number: {} for number in range(len(batches))}
    died: dict[int, str] = {}
    crew = _Crew(setup)
    try:
        while found:
            while pieces and len(crew.members) < workers:
                crew.start()
            crew.hand_out(pieces)
            for piece, said in crew.hear():
                outcomes, names = found[piece.batch], batches[piece.batch]
                if not isinstance(said, str):
                    outcomes.update(zip(piece.names, said, strict=True))
                elif piece.deaths == 0:
                    pieces.appendleft(_Piece(piece.batch, piece.names, deaths=1))
                elif len(piece.names) > 1:
                    died[piece.batch] = said.partition("; see ")[0]  # the log goes with the work that is done
                    pieces.extendleft(_Piece(piece.batch, [name], deaths=1) for name in reversed(piece.names))
                else:
                    outcomes[piece.names[0]] = None, said
                if len(outcomes) == len(names):
                    made = [outcomes[name] for name in names]
                    yield piece.batch, _settled(made, died[piece.batch]) if piece.batch in died else made
                    del found[piece.batch]
    finally:
        crew.dismiss()


def _serve(setup: Setup, number: int, connection: Connection) -> None:
    """The life of a process: load the model, then answer names with what was made of them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    with Path(setup.log).open("ab", buffering=0) as log:
        redirect_output(log)
    take_environment(setup.environment)
    try:
        work = _built(setup, number)
    except UrbanCrossError as error:
        connection.send(error)
        return
    except Exception as error:
        connection.send(RunError(f"the model cannot be loaded: {type(error).__name__}: {error}"))
        return
    try:
        connection.send(None)
        while True:
            connection.send(_tried(work, connection.recv(), setup.seed))
    except (EOFError, OSError):
        return  # the parent is gone, and with it whoever wants the results


def _built(setup: Setup, number: int) -> Work:
    import torch

    from urbancross_bench.modelling.runtime import configure, resolve_device

    device = resolve_device(setup.device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", number % torch.cuda.device_count())
    configure(setup.threads, derive_seed("model", setup.seed))
    return setup.maker.build(str(device))


def _tried(work: Work, names: Sequence[str], seed: str) -> list[Outcome]:
    """What is made of some items together or, where that raises, of each alone; see `_settled`."""
    import torch

    torch.manual_seed(derive_seed("items", seed, list(names)))
    try:
        texts = work(names)
        if len(texts) != len(names):
            raise RunError(f"{len(texts)} results for {len(names)} items")
        return [(text, "") for text in texts]
    except Exception as error:
        why = str(error) if isinstance(error, UrbanCrossError) else f"{type(error).__name__}: {error}"
        if len(names) == 1:
            return [(None, why)]
        return _settled([outcome for name in names for outcome in _tried(work, [name], seed)], why)


def _settled(alone: list[Outcome], why: str) -> list[Outcome]:
    """What was made of the items of a batch, each alone, as the batch failed.

    Where none of them is at fault, each is given why: alone they may come out otherwise than together, and what
    failed for a moment, as where memory ran out, decides which.
    """
    return alone if any(text is None for text, _ in alone) else [(text, why) for text, _ in alone]
