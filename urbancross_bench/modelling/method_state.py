"""What a method keeps as it trains, saved and given back: its values, and which of them are one object."""

from __future__ import annotations

import copy
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim.lr_scheduler import LRScheduler

from urbancross_bench.errors import RunError
from urbancross_bench.interfaces.adaptation import Adaptation
from urbancross_bench.interfaces.encoder import DualEncoder
from urbancross_bench.modelling.answers import told
from urbancross_bench.modelling.saving import module_state, restore_module

Stateful = torch.optim.Optimizer | LRScheduler | torch.amp.GradScaler  # saved by their state, in place alone
Place = tuple[str | int, ...]  # of an object: the attribute, then keys and indices
_PLAIN = (Tensor, nn.Parameter, np.ndarray, list, tuple, dict, deque)  # what can be made without one to go by


def is_state(value: Any) -> bool:
    """Whether it is saved: modules, optimisers, tensors, arrays, numbers and text, in whatever holds them."""
    if isinstance(value, list | tuple | deque):
        return all(is_state(part) for part in value)
    if isinstance(value, dict):
        return all(isinstance(key, str | int) and is_state(part) for key, part in value.items())
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.kind in "biufc"
    return value is None or isinstance(value, nn.Module | Tensor | int | float | str | Stateful)


def optimisers(value: Any) -> Iterator[torch.optim.Optimizer]:
    """Those in what a method keeps, in whatever holds them."""
    if isinstance(value, torch.optim.Optimizer):
        yield value
    for _, part in _parts(value):
        yield from optimisers(part)


class MethodState:
    """The attributes of a prepared method that are saved: see `is_state`. What else it keeps, see `Unsaved`.

    An object that `prepare` has left, and that still is where it was or elsewhere, is filled in place when a
    training goes on: others, an optimiser say, may hold it. What has come since is made anew. What stands in two
    attributes is one object in both again.
    """

    def __init__(self, method: Adaptation, model: DualEncoder) -> None:
        self._method, self._model = method, model
        self._first = {place: _First.of(value) for place, value in self._objects()}

    def _objects(self) -> Iterator[tuple[Place, Any]]:
        """What is saved and can be told from its like, with the first place where it stands."""
        met = {id(self._model)}
        left: deque[tuple[Place, Any]] = deque(((name,), value) for name, value in self._attributes().items())
        while left:
            place, value = left.popleft()
            if _is_object(value) and id(value) not in met:
                met.add(id(value))
                yield place, value
                left += [((*place, key), part) for key, part in _parts(value)]

    def _attributes(self) -> dict[str, Any]:
        return {
            name: value
            for name, value in vars(self._method).items()
            if value is not self._model and is_state(value)
        }

    def content(self) -> dict[str, Any]:
        """What `restore` needs. Raises RunError naming what a training that was cut could not make again."""
        origins = {id(first.value()): place for place, first in self._first.items() if first.value() is not None}
        numbers: dict[int, int] = {}

        def of(value: Any, place: Place) -> Any:
            if not _is_object(value):
                return value
            if value is self._model:
                return {"is": "model"}
            if id(value) in numbers:
                return {"same": numbers[id(value)]}
            numbers[id(value)] = len(numbers)
            origin = origins.get(id(value))
            like = place if origin is None else origin
            self._expect_found_again(value, place, self._first.get(like), moved=origin is None)
            alike = like in self._first and self._first[like].type is type(value)
            found = {"at": origin, "like": like if alike else None}
            return found | _described(value, lambda key, part: of(part, (*place, key)))

        return {
            "kept": {name: of(value, (name,)) for name, value in self._attributes().items()},
            "names": [*vars(self._method)],
        }

    def _expect_found_again(self, value: Any, place: Place, like: _First | None, *, moved: bool) -> None:
        filled = isinstance(value, Stateful | Tensor | np.ndarray)  # in place alone: no copy is as good
        fits = like is not None and like.takes(value) and not (moved and filled)
        if type(value) not in _PLAIN and not fits:
            name, method = place[0], type(self._method).__name__
            raise RunError(
                f"{method} keeps in `{name}` {told(value)} that was made, or given another shape, after prepare: "
                "a training that was cut could not make it again. Make it in prepare, as it will be, and fill it "
                "later (load_state_dict, copy_)"
            )

    def restore(self, content: Mapping[str, Any], device: torch.device) -> None:
        """Give a prepared method what `content` took of one, on a device."""
        made: list[Any] = []
        held = {place: first.value() for place, first in self._first.items()}  # as attributes are replaced

        def of(node: Any) -> Any:
            if not isinstance(node, dict):
                return node
            if node.get("is") == "model":
                return self._model
            if "same" in node:
                return made[node["same"]]
            number, there = len(made), held.get(node["at"])
            made.append(None)  # what is in it comes behind it
            made[number] = _given_back(node, there, held.get(node["like"]), of, device)
            return made[number]

        attributes = vars(self._method)
        for name in attributes.keys() - {*content["names"]}:
            delattr(self._method, name)
        for name, node in content["kept"].items():
            # Its own, not its class's, which the next method of this process would find filled.
            setattr(self._method, name, of(node))


@dataclass(frozen=True)
class _First:
    """An object as `prepare` has left it."""

    value: Callable[[], Any]
    type: type
    shape: Any

    @staticmethod
    def of(value: Any) -> _First:
        try:
            there: Callable[[], Any] = weakref.ref(value)  # which keeps no memory of what is replaced later
        except TypeError:
            there = lambda: value  # noqa: E731
        return _First(there, type(value), _shape(value))

    def takes(self, value: Any) -> bool:
        """Whether it can be given the state of another object. One that is shaped by its first batch can."""
        unshaped = isinstance(value, nn.Module) and self.shape is None
        return unshaped or (self.type, self.shape) == (type(value), _shape(value))


def _is_object(value: Any) -> bool:
    """Whether it can be told from its like."""
    return isinstance(value, Tensor | nn.Module | np.ndarray | list | tuple | dict | deque | Stateful)


def _parts(value: Any) -> Iterator[tuple[Any, Any]]:
    """What a container holds, by key or index."""
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list | tuple | deque):
        yield from enumerate(value)


def _shape(value: Any) -> Any:
    """What a module or an optimiser must have in common with one that is to take its state.

    None of a module that is yet to be shaped, by its first batch.
    """
    if isinstance(value, nn.Module):
        parts = {name: part for name, part in value.state_dict().items() if isinstance(part, Tensor)}
        return None if any(map(is_lazy, parts.values())) else {name: part.shape for name, part in parts.items()}
    if isinstance(value, torch.optim.Optimizer):
        return [len(group["params"]) for group in value.param_groups]
    return None


def _described(value: Any, part: Callable[[Any, Any], Any]) -> dict[str, Any]:
    """Of which kind it is, and what is in it."""
    if isinstance(value, Tensor):
        facts = {"learns": value.is_leaf and value.requires_grad, "weight": isinstance(value, nn.Parameter)}
        return {"is": "tensor", "value": value, "on": value.device.type} | facts
    if isinstance(value, np.ndarray):
        return {"is": "array", "value": value}
    if isinstance(value, nn.Module):
        return {"is": "module", "value": module_state(value)}
    if isinstance(value, Stateful):
        return {"is": "stateful", "value": value.state_dict()}
    if isinstance(value, dict):
        return {"is": "dict", "value": {key: part(key, one) for key, one in value.items()}}
    if isinstance(value, deque):
        return {"is": "deque", "value": [part(*one) for one in _parts(value)], "longest": value.maxlen}
    return {"is": "tuple" if isinstance(value, tuple) else "list", "value": [part(*one) for one in _parts(value)]}


def _given_back(
    node: Mapping[str, Any], there: Any, like: Any, of: Callable[[Any], Any], device: torch.device
) -> Any:
    """What `_described` describes. there: the object that it was; like: one of its kind. None where unknown."""
    kind, value = node["is"], node["value"]
    if kind == "tensor":
        return _tensor(node, there, device)
    if kind == "array":
        if there is None or not there.flags.writeable or (there.shape, there.dtype) != (value.shape, value.dtype):
            return value
        there[...] = value
        return there
    if kind == "module":
        module = copy.deepcopy(like) if there is None else there
        restore_module(module, value)
        return module
    if kind == "stateful":
        there.load_state_dict(value)
        return there
    if kind == "dict":
        pairs = {key: of(part) for key, part in value.items()}
        kept = _emptied(there, like, {})
        kept.update(pairs)
        return kept
    parts = [of(part) for part in value]
    if kind == "tuple":
        return cast(Any, like)._make(parts) if hasattr(like, "_make") else tuple(parts)
    if kind == "deque" and getattr(like, "maxlen", None) != node["longest"]:
        like = None
    kept = _emptied(there, like, deque(maxlen=node["longest"]) if kind == "deque" else [])
    kept.extend(parts)
    return kept


def _tensor(node: Mapping[str, Any], there: Tensor | None, device: torch.device) -> Tensor:
    value: Tensor = node["value"]
    if there is None:
        found = value if node["on"] == "cpu" else value.to(device)
        return nn.Parameter(found, node["learns"]) if node["weight"] else found.requires_grad_(node["learns"])
    with torch.no_grad():
        if (there.shape, there.dtype) == (value.shape, value.dtype):
            there.copy_(value)
        else:
            there.data = value.to(there.device)
    return there.requires_grad_(node["learns"]) if there.is_leaf else there


def _emptied(there: Any, like: Any, plain: Any) -> Any:
    """The container itself, or an empty one of its kind."""
    kept = there if there is not None else copy.copy(like) if isinstance(like, type(plain)) else plain
    kept.clear()
    return kept
