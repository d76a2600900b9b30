"""Watching a plugin work: what it changes, prints, opens and keeps, and whether it comes back at all."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import random
import re
import signal
import sys
import tempfile
import threading
import tracemalloc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import numpy as np

_ASIDE = ("/proc/", "/sys/", "/dev/", "/etc/", "/usr/lib", "/usr/share/")
_LOADING = ("ldconfig", "gcc", "ld", "objdump")  # what ctypes runs to find a library
_CODE = re.compile(r"\.(py|pyc(\.\d+)?|so|pyd|dll|dylib)\Z")  # a number: bytecode that is being written
_SEED = 8191  # of torch, while something is watched: not one that somebody else may choose
_LIBRARIES = ("TORCHINDUCTOR_", "TRITON_", "KMP_", "TOKENIZERS_")  # environment variables of theirs
_EVENTS = {
    "socket.connect": "a connection to {1!r}",
    "subprocess.Popen": "the process {0!r}",
    "os.system": "the process {0!r}",
    "os.posix_spawn": "the process {0!r}",
    "os.exec": "the process {0!r}",
}
# Modules and classes whose functions nobody but their authors may replace.
_OTHERS = ("builtins", "os", "random", "json", "numpy", "numpy.random", "torch", "torch.nn", "torch.nn.functional",
           "torch.nn.init", "torch.optim", "torch.random", "torch.autograd", "torch.cuda")  # fmt: skip
_CLASSES = (("torch", "Tensor"), ("torch", "Generator"), ("torch.nn", "Module"), ("torch.optim", "Optimizer"),
            ("torch.optim", "AdamW"), ("torch.nn", "Linear"))  # fmt: skip


class DidNotReturnError(BaseException):
    """What is being watched took longer than it may. Not an Exception, lest it be caught by what it interrupts."""


@dataclass
class Observed:
    """What there was to see while something ran.

    error: what it raised, in place of `result`. changed: global state that is not what it was, in words. printed:
    what went to standard output. opened: files, connections and processes that are none of Python's own.
    """

    result: Any = None
    error: BaseException | None = None
    changed: list[str] = field(default_factory=list)
    printed: str = ""
    opened: list[str] = field(default_factory=list)


def observe(work: Callable[[], Any], seconds: float) -> Observed:
    """Run something with torch seeded, and see what it does besides. Global state is put back to what it was."""
    seen = Observed()
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(_SEED)
    with _kept_state(seen.changed), _captured() as printed, _audited(seen.opened):
        try:
            with _within(seconds):
                seen.result = work()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin may even try to leave
            seen.error = error
    seen.printed = printed()
    return seen


def held_after(work: Callable[[], Any]) -> list[int]:
    """Bytes of memory more after each of two calls than before it, once one has warmed up.

    Counts what Python and numpy allocate, and torch's tensors on any device.
    """
    work()
    gc.freeze()  # what is there already is not looked at, which would take most of the time
    tracemalloc.start()
    try:
        found, before = [], _held()
        for _ in range(2):
            work()
            after = _held()
            found.append(after - before)
            before = after
    finally:
        tracemalloc.stop()
        gc.unfreeze()
    return found


def _held() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0] + _tensors()


def _tensors() -> int:
    if "torch" not in sys.modules:
        return 0
    import torch

    storages = {}
    for thing in gc.get_objects():
        # By its type: asking an instance would wake the lazy modules among them.
        if issubclass(type(thing), torch.Tensor) and thing.layout == torch.strided and not thing.is_meta:
            storage = thing.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


@contextlib.contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Interrupts what takes longer, in the main thread: others hear no signal."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise DidNotReturnError(f"it did not return within {seconds:g} seconds")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _captured() -> Iterator[Callable[[], str]]:
    """What goes to standard output, whether through Python or past it."""
    words = io.StringIO()
    with tempfile.TemporaryFile() as file:
        sys.stdout.flush()
        kept = os.dup(1)
        os.dup2(file.fileno(), 1)
        text = ""
        try:
            with contextlib.redirect_stdout(words):
                yield lambda: text
        finally:
            os.dup2(kept, 1)
            os.close(kept)
            file.seek(0)
            text = words.getvalue() + file.read().decode(errors="replace")


# An audit hook stays for the life of a process, so there is one, which tells whoever listens.
_listening: list[list[str]] = []


@contextlib.contextmanager
def _audited(opened: list[str]) -> Iterator[None]:
    if not hasattr(sys, "_urbancross_audited"):
        sys.addaudithook(_audit)
        sys._urbancross_audited = True  # type: ignore[attr-defined]
    _listening.append(opened)
    try:
        yield
    finally:
        _listening.pop()


def _audit(event: str, arguments: tuple[Any, ...]) -> None:
    if not _listening:
        return
    if event in _EVENTS:
        if event == "subprocess.Popen" and os.path.basename(str(arguments[0])) in _LOADING:  # noqa: PTH119
            return
        _listening[-1].append(_EVENTS[event].format(*arguments, "", ""))
    elif event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        path = os.path.abspath(os.fsdecode(arguments[0]))  # noqa: PTH100 - a Path would open more
        homes = (sys.prefix, sys.base_prefix, os.path.dirname(os.__file__), *_ASIDE)  # noqa: PTH120
        if not path.startswith(homes) and not _CODE.search(path) and ".dist-info/" not in path:
            _listening[-1].append(path)


@dataclass(frozen=True)
class _Watched:
    """Something of the process that is not a plugin's to change."""

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]
    same: Callable[[Any, Any], bool] = lambda a, b: bool(a == b)


def _environment() -> dict[str, str]:
    """All but what libraries note for themselves when they are first imported."""
    return {name: value for name, value in os.environ.items() if not name.startswith(_LIBRARIES)}


def _write_environment(values: dict[str, str]) -> None:
    for name in _environment().keys() - values.keys():
        del os.environ[name]
    os.environ.update(values)


def _which(before: Any, now: Any) -> str:
    """Of a mapping, the names that are others."""
    if not isinstance(before, dict):
        return ""
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    return f" ({', '.join(names)})"


def _watched() -> Iterator[_Watched]:
    yield _Watched("the working directory", os.getcwd, os.chdir)
    yield _Watched("environment variables", _environment, _write_environment)
    yield _Watched("sys.path", lambda: list(sys.path), lambda value: sys.path.__setitem__(slice(None), value))
    yield _Watched("the seed of Python's random", random.getstate, random.setstate)
    yield _Watched("the seed of numpy", np.random.get_state, np.random.set_state, _same_state)
    for name in ("SIGINT", "SIGTERM"):
        number = getattr(signal, name)
        yield _Watched(f"the handler of {name}", partial(signal.getsignal, number), partial(signal.signal, number))
    if "torch" in sys.modules:
        yield from _watched_of_torch()


def _same_state(one: Any, other: Any) -> bool:
    """Of numpy's global generator: a name, an array, and some numbers."""
    return bool(np.array_equal(one[1], other[1])) and (one[0], one[2:]) == (other[0], other[2:])


def _watched_of_torch() -> Iterator[_Watched]:
    import torch

    yield _Watched("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype)
    yield _Watched("torch's default device", lambda: str(torch.get_default_device()), torch.set_default_device)
    yield _Watched("whether torch computes gradients", torch.is_grad_enabled, torch.set_grad_enabled)
    yield _Watched("torch's number of threads", torch.get_num_threads, torch.set_num_threads)
    yield _Watched(
        "whether torch is deterministic",
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
    )
    yield _Watched("the seed of torch", torch.initial_seed, torch.manual_seed)


@contextlib.contextmanager
def _kept_state(changed: list[str]) -> Iterator[None]:
    """Says what is not as it was, and puts it back."""
    before = [(one, one.read()) for one in _watched()]
    functions = list(_functions())
    try:
        yield
    finally:
        for one, value in before:
            if not one.same(value, now := one.read()):
                changed.append(one.name + _which(value, now))
                one.write(value)
        for owner, name, value in functions:
            new = vars(owner).get(name, value)
            if new is not value and not _own(owner, new):
                changed.append(f"{owner.__name__}.{name}, which was replaced")
                setattr(owner, name, value)


def _own(owner: Any, value: Any) -> bool:
    """Whether a function was put there by the package itself, as torch does when its compiler is imported."""
    module = owner if isinstance(owner, ModuleType) else sys.modules.get(owner.__module__)
    package = sys.modules.get((module.__name__ if module else "").partition(".")[0])
    code, home = getattr(value, "__code__", None), getattr(package, "__file__", None)
    return (
        code is not None and home is not None and str(code.co_filename).startswith(str(Path(home).parent) + os.sep)
    )


def _functions() -> Iterable[tuple[Any, str, Any]]:
    """Functions and classes, by owner and name, that nobody may replace."""
    names = [*_OTHERS, *(name for name in list(sys.modules) if name.startswith("urbancross_bench."))]
    owners: list[Any] = [sys.modules[name] for name in names if isinstance(sys.modules.get(name), ModuleType)]
    owners += [getattr(sys.modules[module], name) for module, name in _CLASSES if module in sys.modules]
    owners += [
        value
        for owner in list(owners)
        if owner.__name__.startswith("urbancross_bench.") and ".testing" not in owner.__name__
        for value in list(vars(owner).values())
        if isinstance(value, type) and value.__module__ == owner.__name__
    ]
    for owner in owners:
        for name, value in list(vars(owner).items()):
            if callable(value) and (not name.startswith("_") or name in ("__init__", "__call__")):
                yield owner, name, value


def folder() -> Path:
    """A folder for files of this process, removed at its end."""
    global _folder
    if _folder is None:
        _folder = tempfile.TemporaryDirectory(prefix="urbancross-testing-")
    return Path(tempfile.mkdtemp(dir=_folder.name))


_folder: tempfile.TemporaryDirectory[str] | None = None
