"""What a method keeps and a saved training does not: it must not change, or a run that was cut ends otherwise."""

from __future__ import annotations

import hashlib
import itertools
import random
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from enum import Enum
from functools import cached_property, partial
from types import BuiltinFunctionType, FunctionType, GeneratorType, MethodType, ModuleType, SimpleNamespace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from urbancross_bench.errors import RunError
from urbancross_bench.interfaces.adaptation import Adaptation, Context
from urbancross_bench.interfaces.encoder import DualEncoder
from urbancross_bench.interfaces.options import Options
from urbancross_bench.modelling.answers import told
from urbancross_bench.modelling.method_state import Stateful, is_state, whole_of
from urbancross_bench.modelling.pair_loss import PairLoss
from urbancross_bench.modelling.saving import raw_bytes

_DRAWING = (
    torch.Generator, np.random.Generator, np.random.RandomState, random.Random, itertools.count, itertools.cycle,
)  # fmt: skip
_CONSTANT = (
    Options, Context, PairLoss, FunctionType, BuiltinFunctionType, MethodType, partial, type, ModuleType, Enum,
)  # fmt: skip
_SAVED = Tensor | nn.Module | Stateful
_NUMBERS = int | float | complex | str | bytes | bytearray | np.generic | None
_HARNESS = {"urbancross_bench", "abc", "builtins", "typing"}


class Unsaved:
    """The attributes of a prepared method that are not saved, looked at while it trains.

    Looked into are containers, arrays, tensors and modules in them, and objects of the classes of the plugin's own
    package. What else there is (a function, a logger, a tokenizer) is taken for constant: a caller of other
    people's code cannot tell.

    What was not there when training began, or was None, is what each step makes anew, unless the very object is
    met twice and has changed in between.
    """

    def __init__(self, method: Adaptation, model: DualEncoder) -> None:
        self._method = method
        self._model = model
        self._own = {cls.__module__.partition(".")[0] for cls in type(method).__mro__} - _HARNESS
        self._at_first = self._contents()
        self._met: dict[str, tuple[Callable[[], Any], bytes | None]] = {}
        self._changed: dict[str, Any] = {}

    def look(self) -> None:
        """Note what has changed."""
        for name, (value, content) in self._contents().items():
            if content is None:
                continue
            first, content_then = self._at_first.get(name, (None, None))
            met, content_since = self._met.get(name, (_nothing, None))
            # A container that was saved at first, and no more, has changed.
            if value is first or content_then is not None:
                changed = content != content_then
            else:
                changed = value is met() and content != content_since
            if changed:
                self._changed[name] = value
            self._met[name] = _weakly(value), content

    def refuse(self) -> None:
        """Raises RunError naming a generator, or what has changed, that going on later would not find again."""
        self.look()
        title = type(self._method).__name__
        for name, value in vars(self._method).items():
            if (found := _drawing(value)) is not None:
                raise RunError(
                    f"{title}: a method keeps a generator as {name}, {told(found)}, which is not saved with a "
                    "training; draw from torch's own, or by progress.step"
                )
        if self._changed:
            kept = " and ".join(f"`{name}`, {told(value)}" for name, value in self._changed.items())
            raise RunError(
                f"{title} keeps what changes from step to step in {kept}, which is not saved: after a kill it "
                "would come to other numbers. Keep tensors, modules, optimisers, arrays, numbers or text, in "
                "lists, tuples, deques or dicts with keys of text or int; or, if each step makes it anew, set it "
                "to None in after_step"
            )

    def _contents(self) -> dict[str, tuple[Any, bytes | None]]:
        """The attributes by name, with a hash that changes with what is in them; None of what is not looked into,
        or saved. Tensors and the like are left out: they may be large, and are saved by themselves.
        """
        kept = {name: value for name, value in vars(self._method).items() if not isinstance(value, _SAVED)}
        saved: dict[int, Any] = {id(self._method): self._method}
        for value in (self._model, *vars(self._method).values()):
            if isinstance(value, _SAVED) or is_state(value):
                _note(value, saved)
        return {
            name: (value, None if is_state(value) else self._content(value, dict(saved)))
            for name, value in kept.items()
        }

    def _content(self, value: Any, met: dict[int, Any]) -> bytes | None:
        parts = [*self._parts(value, met)]
        return None if parts == [b""] else hashlib.sha256(b"\0".join(parts)).digest()

    def _parts(self, value: Any, met: dict[int, Any]) -> Iterator[bytes]:
        """What there is in it, down to its bytes; what is saved or was met before no second time."""
        if isinstance(value, _NUMBERS):
            yield repr(value).encode()
        elif id(value) not in met:
            met[id(value)] = value  # which keeps it, so that nothing else gets its id
            yield from self._within(value, met)

    def _within(self, value: Any, met: dict[int, Any]) -> Iterator[bytes]:
        inside: Any = ()
        if isinstance(value, Tensor):
            yield from _bytes(value)
        elif isinstance(value, np.ndarray):
            yield f"{value.dtype} {value.shape}".encode()
            if value.dtype.hasobject:
                inside = value.ravel().tolist()
            else:
                yield value.tobytes()
        elif isinstance(value, nn.Module):
            inside = [*value.parameters(), *value.buffers()]
        elif isinstance(value, list | tuple | deque):
            yield f"{len(value)} items".encode()
            inside = value
        elif isinstance(value, dict):
            yield f"{len(value)} items".encode()
            inside = [*value, *value.values()]
        elif isinstance(value, set | frozenset):
            yield f"{len(value)} items".encode()
            inside = value  # in an order that stays while it does
        elif (state := self._state(value)) is not None:
            yield type(value).__name__.encode()
            inside = (state,)
        else:
            yield b""
        for part in inside:
            yield from self._parts(part, met)

    def _state(self, value: Any) -> Any:
        """What an object holds, of those that are looked into."""
        if isinstance(value, Stateful):
            return value.state_dict()
        if isinstance(value, torch.Generator):
            return value.get_state()
        if isinstance(value, np.random.Generator):
            return value.bit_generator.state
        if isinstance(value, np.random.RandomState):
            return value.get_state()
        if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
            return value.getstate()
        own = type(value).__module__.partition(".")[0] in self._own and not isinstance(value, _CONSTANT)
        if own or isinstance(value, Adaptation | SimpleNamespace):
            # Of slots, too, whatever the class itself would pickle; None of an object that is empty as yet.
            state = cast(Any, object).__getstate__(value) or {}
            return _without_cached(state, type(value)) if isinstance(state, dict) else state
        return None


def left_out(method: Adaptation) -> str:
    """The attributes that are not saved and may hold what changes, with their types; empty if there are none."""
    kept = [
        f"`{name}`, {told(value)}"
        for name, value in vars(method).items()
        if not is_state(value) and not isinstance(value, _CONSTANT)
    ]
    return "; ".join(kept)


def _note(value: Any, met: dict[int, Any]) -> None:
    """What is saved, with all that is saved with it."""
    if not isinstance(value, _NUMBERS):
        met |= {id(part): part for part in whole_of(value).values()}
    if isinstance(value, list | tuple | deque | dict):
        for part in value.values() if isinstance(value, dict) else value:
            _note(part, met)


def _without_cached(state: dict[str, Any], of: type) -> dict[str, Any]:
    """What a cached property keeps follows from the rest."""
    return {name: part for name, part in state.items() if not isinstance(getattr(of, name, None), cached_property)}


def _drawing(value: Any) -> Any:
    """A generator, or an iterator that goes on from step to step, that it is or holds; else None."""
    if isinstance(value, _DRAWING) or (isinstance(value, GeneratorType) and value.gi_frame is not None):
        return value
    if isinstance(value, list | tuple | deque | dict):
        for part in value.values() if isinstance(value, dict) else value:
            if (found := _drawing(part)) is not None:
                return found
    return None


def _bytes(value: Tensor) -> Iterator[bytes]:
    if value.layout != torch.strided or value.is_meta:
        yield b""
        return
    yield f"{value.dtype} {tuple(value.shape)}".encode()
    yield raw_bytes(value).numpy().tobytes()


def _weakly(value: Any) -> Callable[[], Any]:
    """A way to the object that keeps no memory of a step; to nothing where there is none."""
    try:
        return weakref.ref(value)
    except TypeError:
        return _nothing


def _nothing() -> None:
    return None
