"""Keeping the promises of a plugin in a process of its own, one by one, so that none can stop the rest."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal
from unittest import SkipTest

from urbancross_bench.processes import kill_whole, said_exit, start_forked, take_environment
from urbancross_bench.testing import KINDS

# What takes long to import, of all that a plugin of a kind is tried with; the others need nothing of it.
_LIBRARIES = {
    **dict.fromkeys(["adaptation", "encoder"], "torch._dynamo"),  # which optimisers import
    **dict.fromkeys(["captioner", "metric", "segmenter", "selector"], "torch"),
}
_PROCESSES = 2  # that are spent on one plugin
_GRACE = 60.0  # seconds more than a plugin may take, for imports and for the kit itself


@dataclass(frozen=True)
class Subject:
    """A plugin to check, with the options to do it with."""

    kind: str
    name: str
    options: Mapping[str, Any]
    member: str | None
    files: tuple[str, ...]


@dataclass(frozen=True)
class Kept:
    """What became of a promise; `why` it is broken or was skipped."""

    promise: str
    words: str
    outcome: Literal["kept", "broken", "skipped"]
    why: str = ""


def promises(kind: str) -> dict[str, str]:
    """The promises of a kind, in order: the names of tests, and what they say in words."""
    found: dict[str, str] = {}
    for one in reversed(_class(kind).__mro__):
        for name, test in vars(one).items():
            if name.startswith("test_") and callable(test):
                found[name] = " ".join((test.__doc__ or name).split())
    return found


def prepare(kinds: Iterable[str]) -> None:
    """Have what plugins of these kinds are tried with imported once, in the server that processes are forked from.

    Of no effect where this process has a server already.
    """
    modules = {name for kind in kinds for name in (KINDS[kind][0], _LIBRARIES.get(kind)) if name}
    os.environ["URBANCROSS_TESTING_PRELOAD"] = json.dumps([sys.path, *sorted(modules)])
    multiprocessing.get_context("forkserver").set_forkserver_preload(["urbancross_bench.testing.preload"])


def keep(subject: Subject, patience: float) -> Iterator[Kept]:
    """Try every promise of a plugin. One that ends its process, or never returns, is broken; the next go on."""
    left = promises(subject.kind)
    for _ in range(_PROCESSES):
        if left:
            yield from _in_a_process(subject, left, patience)
    for promise, words in left.items():
        yield Kept(promise, words, "skipped", f"it has ended {_PROCESSES} processes already")


def _class(kind: str) -> type[Any]:
    module, name = KINDS[kind]
    found: type[Any] = getattr(importlib.import_module(module), name)
    return found


def _in_a_process(subject: Subject, left: dict[str, str], patience: float) -> Iterator[Kept]:
    """As many promises as one process comes to, taken out of `left`."""
    context = multiprocessing.get_context("forkserver")
    here, there = context.Pipe(duplex=False)
    arguments = (subject, [*left], patience, dict(os.environ), there)
    process = context.Process(target=_live, args=arguments)  # no daemon: an executor starts others
    start_forked(process, partial(prepare, ()))
    there.close()
    try:
        while left:
            promise = next(iter(left))
            if not here.poll(patience + _GRACE):
                yield Kept(promise, left.pop(promise), "broken", f"it did not return within {patience:g} seconds")
                return
            try:
                outcome, why = here.recv()
            except EOFError:
                process.join()
                why = f"its process ended ({said_exit(process.exitcode)})"
                yield Kept(promise, left.pop(promise), "broken", why)
                return
            yield Kept(promise, left.pop(promise), outcome, why)
    finally:
        kill_whole(process)
        process.join()
        here.close()


def _live(
    subject: Subject, names: Sequence[str], patience: float, environment: Mapping[str, str], connection: Connection
) -> None:
    """The life of the process, in an environment of now: its server's is older. What the plugin prints is lost."""
    take_environment(environment)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        os.dup2(nowhere.fileno(), 2)
    cls = type(
        "Checked",
        (_class(subject.kind),),
        {
            "plugin": subject.name,
            "options": subject.options,
            "member": subject.member,
            "files": subject.files,
            "patience": patience,
        },
    )
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    for name in names:
        connection.send(_tried(cls, name))
    connection.close()
    os._exit(0)  # a thread that a plugin left would keep the process


def _tried(cls: type[Any], name: str) -> tuple[str, str]:
    try:
        getattr(cls(), name)()
    except SkipTest as reason:
        return "skipped", str(reason)
    except AssertionError as reason:
        return "broken", str(reason)
    except BaseException as error:
        return "broken", f"{type(error).__name__}: {error}"
    return "kept", ""
