"""What a method keeps as it trains, saved and given back: its values, and which of them are one object."""

from __future__ import annotations

import copy
import weakref
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import partial
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
from urbancross_bench.modelling.optimiser import restore_optimiser
from urbancross_bench.modelling.saving import module_state, restore_module, same_bits

Stateful = torch.optim.Optimizer | LRScheduler | torch.amp.GradScaler  # saved by their state, in place alone
Place = tuple[str | int, ...]  # of an object: the attribute, then keys and indices
# What can be made without one to go by.
_CONTAINERS = {kind.__name__: kind for kind in (list, tuple, torch.Size, dict, OrderedDict, Counter)}
_PLAIN = (Tensor, nn.Parameter, np.ndarray, deque, *_CONTAINERS.values())


def is_state(value: Any) -> bool:
    """Whether it is saved: modules, optimisers, tensors, arrays, numbers and text, in whatever holds them."""
    if isinstance(value, list | tuple | deque):
        return all(is_state(part) for part in value)
    if isinstance(value, dict):
        return all(isinstance(key, str | int) and is_state(part) for key, part in value.items())
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype.kind in "biufc"
    kept = isinstance(value, nn.Module | Tensor | int | float | str | Stateful) and not isinstance(value, Enum)
    return value is None or kept


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
    attributes is one object in both again, and so is what is a part of a module, of the model itself above all.
    """

    def __init__(self, method: Adaptation, model: DualEncoder) -> None:
        self._method, self._model = method, model
        self._first = {place: _First.of(value) for place, value in self._objects()}

    def _objects(self) -> Iterator[tuple[Place, Any]]:
        """What is saved and can be told from its like, with the first place where it stands."""
        met = {*map(id, whole_of(self._model).values())}
        left: deque[tuple[Place, Any]] = deque(((name,), value) for name, value in self._attributes().items())
        while left:
            place, value = left.popleft()
            if _is_object(value) and id(value) not in met:
                met.add(id(value))
                yield place, value
                left += [((*place, key), part) for key, part in _parts(value)]

    def _attributes(self) -> dict[str, Any]:
        """The largest modules come first: what else there is may be a part of one."""
        kept = {name: value for name, value in vars(self._method).items() if is_state(value)}
        return dict(sorted(kept.items(), key=lambda item: -_modules_in(item[1])))

    def content(self) -> dict[str, Any]:
        """What `restore` needs. Raises RunError naming what a training that was cut could not make again."""
        origins = {id(first.value()): place for place, first in self._first.items() if first.value() is not None}
        numbers: dict[int, int] = {}

        def numbered(parts: Mapping[str, Any]) -> dict[str, int]:
            return {name: numbers.setdefault(id(part), len(numbers)) for name, part in parts.items()}

        own = numbered(whole_of(self._model))

        def of(value: Any, place: Place) -> Any:
            if not _is_object(value):
                return value
            if id(value) in numbers:
                return {"same": numbers[id(value)]}
            whole = whole_of(value)
            known = numbered(whole)
            origin = origins.get(id(value))
            like = place if origin is None else origin
            self._expect_found_again(value, place, self._first.get(like), moved=origin is None)
            alike = like in self._first and self._first[like].type is type(value)
            gradients = {name: part.grad for name, part in whole.items() if _has_gradient(part)}
            found = {"numbers": known, "gradients": gradients, "at": origin, "like": like if alike else None}
            return found | _described(value, lambda key, part: of(part, (*place, key)))

        return {
            "kept": {name: of(value, (name,)) for name, value in self._attributes().items()},
            "names": [*vars(self._method)],
            "model": own,
        }

    def _expect_found_again(self, value: Any, place: Place, like: _First | None, *, moved: bool) -> None:
        filled = isinstance(value, Stateful | Tensor | np.ndarray)  # in place alone: no copy is as good
        fits = like is not None and like.takes(value, moved) and not (moved and filled)
        if type(value) not in _PLAIN and not fits:
            name, method = place[0], type(self._method).__name__
            plain = [kind.__name__ for kind in (dict, list, tuple, deque) if isinstance(value, kind)]
            raise RunError(
                f"{method} keeps in `{name}` {told(value)} that was made, or given another shape or build, after "
                "prepare: a training that was cut could not make it again. Make it in prepare, as it will be, and "
                f"fill it later{f', or take a plain {plain[0]}' if plain else ' (load_state_dict, copy_)'}"
            )

    def restore(self, content: Mapping[str, Any], device: torch.device) -> None:
        """Give a prepared method what `content` took of one, on a device."""
        own = content["model"]
        made = {own[name]: part for name, part in whole_of(self._model).items() if name in own}
        held = {place: first.value() for place, first in self._first.items()}  # as attributes are replaced

        def of(node: Any) -> Any:
            if not isinstance(node, dict):
                return node
            if "same" in node:
                return made[node["same"]]
            found = _given_back(node, held.get(node["at"]), held.get(node["like"]), of, device)
            for name, part in whole_of(found).items():
                if name in node["numbers"]:  # and no part that a first batch has yet to bring
                    made.setdefault(node["numbers"][name], part)
                gradient = node["gradients"].get(name)
                if gradient is not None:
                    part.grad = torch.empty_like(part, dtype=gradient.dtype).copy_(gradient)
                elif _has_gradient(part):
                    part.grad = None
            return found

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
    build: tuple[str, ...]

    @staticmethod
    def of(value: Any) -> _First:
        try:
            there: Callable[[], Any] = weakref.ref(value)  # which keeps no memory of what is replaced later
        except TypeError:
            there = lambda: value  # noqa: E731
        return _First(there, type(value), _shape(value), _build(value))

    def takes(self, value: Any, moved: bool) -> bool:
        """Whether it can be given the state of an object: its own, or (moved) of one that was made later.

        One that is shaped by its first batch can be given any of its own.
        """
        if moved and self.build != _build(value):
            return False
        unshaped = isinstance(value, nn.Module) and self.shape is None
        return unshaped or (self.type, self.shape) == (type(value), _shape(value))


def _is_object(value: Any) -> bool:
    """Whether it can be told from its like."""
    return isinstance(value, Tensor | nn.Module | np.ndarray | list | tuple | dict | deque | Stateful)


def _parts(value: Any) -> Iterator[tuple[Any, Any]]:
    """What a container holds, by key or index; the weights of an optimiser."""
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list | tuple | deque):
        yield from enumerate(value)
    elif isinstance(value, torch.optim.Optimizer):
        yield from enumerate(weight for group in value.param_groups for weight in group["params"])


def whole_of(value: Any) -> dict[str, Any]:
    """An object, and of a module all that is in it, by name."""
    if not isinstance(value, nn.Module):
        return {"": value}
    return dict((*value.named_modules(), *value.named_parameters(), *value.named_buffers()))


def _has_gradient(part: Any) -> bool:
    """One of the usual kind, which may be a sum over steps."""
    leaf = isinstance(part, Tensor) and part.is_leaf and part.grad is not None
    return leaf and part.grad.layout == torch.strided


def _modules_in(value: Any) -> int:
    if isinstance(value, nn.Module):
        return sum(1 for _ in value.modules())
    return max((_modules_in(part) for _, part in _parts(value)), default=0)


def _build(value: Any) -> tuple[str, ...]:
    """The kinds of a module's layers: others may have the same shapes."""
    layers = value.named_modules() if isinstance(value, nn.Module) else ()
    return tuple(f"{name}: {type(part).__qualname__}" for name, part in layers)


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
        return {"is": "tensor", "value": value, "strides": _strides(value), "on": value.device.type} | facts
    if isinstance(value, np.ndarray):
        return {"is": "array", "value": value}
    if isinstance(value, nn.Module):
        return {"is": "module", "value": module_state(value)}
    parts = [part(*one) for one in _parts(value)]
    if isinstance(value, Stateful):
        return {"is": "stateful", "value": value.state_dict(), "weights": parts}
    name = type(value).__name__
    kind = {"of": name if _CONTAINERS.get(name) is type(value) else ""}
    if isinstance(value, dict):
        return {"is": "dict", "value": dict(zip(value, parts, strict=True))} | kind
    if isinstance(value, deque):
        return {"is": "deque", "value": parts, "longest": value.maxlen} | kind
    return {"is": "tuple" if isinstance(value, tuple) else "list", "value": parts} | kind


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
        weights = iter([of(weight) for weight in node["weights"]])
        if isinstance(there, torch.optim.Optimizer):
            for group in there.param_groups:
                group["params"] = [next(weights) for _ in group["params"]]
            restore_optimiser(there, value)
        else:
            there.load_state_dict(value)
        return there
    make: Callable[[], Any] | None = _CONTAINERS.get(node["of"])
    if kind == "dict":
        pairs = {key: of(part) for key, part in value.items()}
        kept = _emptied(there, like, make)
        kept.update(pairs)
        return kept
    parts = [of(part) for part in value]
    if kind == "tuple":
        return cast(Any, like)._make(parts) if hasattr(like, "_make") else cast(Any, make or type(like))(parts)
    if kind == "deque" and (like is None or like.maxlen != node["longest"]):
        make = partial(deque, maxlen=node["longest"])
    kept = _emptied(there, like, make)
    kept.extend(parts)
    return kept


def _tensor(node: Mapping[str, Any], there: Tensor | None, device: torch.device) -> Tensor:
    value: Tensor = node["value"]
    if node["strides"]:
        value = torch.empty_strided(value.shape, node["strides"], dtype=value.dtype).copy_(value)
    if there is None:
        found = value if node["on"] == "cpu" else value.to(device)
        return nn.Parameter(found, node["learns"]) if node["weight"] else found.requires_grad_(node["learns"])
    with torch.no_grad():
        if (there.shape, there.dtype) != (value.shape, value.dtype):
            there.data = value.to(there.device)
        elif not same_bits(there, value):  # what is not the method's own is not written to
            there.copy_(value)
    return there.requires_grad_(node["learns"]) if there.is_leaf else there


def _strides(value: Tensor) -> list[int] | None:
    """Of one that is not laid out as usual, but fills its memory: sums go by that order."""
    if value.layout != torch.strided or value.is_contiguous():
        return None
    dense = torch.empty_like(value, device="meta").stride() == value.stride()
    return [*value.stride()] if dense else None


def _emptied(there: Any, like: Any, make: Callable[[], Any] | None) -> Any:
    """The container itself, or an empty one of its kind."""
    kept = there if there is not None else copy.copy(like) if make is None else make()
    kept.clear()
    return kept
