"""Model weights on disk: our own as safetensors, others' in the layouts that are in use; always strict."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from urbancross_bench.errors import UsageError, some
from urbancross_bench.interfaces.encoder import DualEncoder
from urbancross_bench.modelling.foreign import read_content
from urbancross_bench.modelling.origins import Origin

_WRAPPERS = ("state_dict", "model", "model_state_dict")
# What nn.parallel's, torch.compile's and our own wrappers put before every name.
_PREFIXES = ("module.", "_orig_mod.", "clip.", "base.")
# What has the names of weights, and is none.
_OF_TRAINING = re.compile(r"(?<![a-z])(optim[a-z]*|grads?|gradients?|exp_avg)(?![a-z])", re.IGNORECASE)
_DEPTH = 4
_PAIRS, _SEGMENTS = "clip_model.", "clip_img_seg."
_SHOWN = 3
_SPOILT = "; such weights are damaged or of a training that diverged: take others"
_INFINITE = "with values that are infinite, or too large for the model's numbers"
# What may be wrong with a tensor that has the right name, and what to do about it.
_FAULTS = {
    "of another shape": "; is it another architecture?",
    "that are not dense": "; save them after `to_dense()`",
    "that are no real floating-point numbers": "; save the weights as float32, not quantised or complex",
    "with values that are no numbers": _SPOILT,
    _INFINITE: _SPOILT,
    "whose exponential is infinite": "; the model takes the logarithm of the factor: save that",
}


def save_weights(state: Mapping[str, Tensor], path: Path, origin: Origin | None = None) -> None:
    """Write every parameter and buffer, and where they come from."""
    save_file(plain(state), path, metadata=origin.header() if origin else None)


def plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state as safetensors takes it: on the CPU, contiguous, no two names for one memory."""
    seen: set[int] = set()
    found = {}
    for name, value in state.items():
        tensor = value.detach().contiguous().cpu()
        found[name] = tensor.clone() if tensor.untyped_storage().data_ptr() in seen else tensor
        seen.add(tensor.untyped_storage().data_ptr())
    return found


def load_weights(model: DualEncoder, path: Path) -> None:
    """Read what `save_weights` wrote for the same architecture; any missing or surplus key is an error."""
    model.load_state_dict(load_file(path))


@dataclass(frozen=True)
class ReadCheckpoint:
    """The tensors of a file, by their names inside the model.

    `state` is the dual encoder's; `segment_state` that of the segment tower that UrbanCross's released code saves
    beside it, None where there is none. `layout` names what was taken off, from the outside in:
    `state_dict, module.` for a checkpoint of open_clip's training, nothing for a plain state dict.
    """

    state: dict[str, Tensor]
    segment_state: dict[str, Tensor] | None
    layout: str


def read_checkpoint(path: Path, *, unsafe_pickle: bool | None = False) -> ReadCheckpoint:
    """Read weights of any layout in use: safetensors or torch, plain or inside a training checkpoint.

    The content decides, not the file's suffix. Tensors of torch files are mapped, not read: copy them before the
    file may change. Nothing that could run code is unpickled unless `unsafe_pickle` says so (None: there is no
    option of that name to be told of). Raises UsageError that names the file and what is wrong with it.
    """
    content = read_content(path, unsafe_pickle=unsafe_pickle)
    layout = []
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            _expect_alone(content, wrapper, path)
            content = content[wrapper]
            layout.append(wrapper)
            break
    state = _tensors(content, path)
    state = _bare(state, layout)
    if not any(name.startswith(_PAIRS) for name in state):
        return ReadCheckpoint(state, None, ", ".join(layout))
    pairs = _bare(_below(state, _PAIRS), layout := [*layout, _PAIRS])
    segments = _bare(_below(state, _SEGMENTS), [])
    if segments:
        layout.append(_SEGMENTS)
    # Whatever else was saved (a discriminator, say) stays, under its full name, for the user to allow or not.
    rest = {name: value for name, value in state.items() if not name.startswith((_PAIRS, _SEGMENTS))}
    for name in sorted(pairs.keys() & rest.keys()):
        raise UsageError(f"{path} holds both {_PAIRS + name!r} and {name!r}; save the one that is meant, alone")
    return ReadCheckpoint(pairs | rest, segments or None, ", ".join(layout))


def fitting(
    state: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    where: str,
    *,
    allow_missing: Iterable[str] | None = None,
    allow_surplus: Iterable[str] | None = None,
) -> dict[str, Tensor]:
    """The tensors of `state` that a model with the tensors `expected` takes: all of them, or an error.

    `allow_missing` and `allow_surplus` are fnmatch patterns of names that may be absent from either side; None
    where a user has no such options, and so is not told of them. Raises UsageError that starts with `where`, lists
    the first names of each kind, and counts them. Never allowed are other shapes, sparse tensors, integers or
    complex numbers where the model has floating point, NaN, values that are infinite in the model's dtype (but for
    those of its own masks), a logit_scale whose exponential is, and a state that has no name in common with the
    model.
    """
    missing = [name for name in expected if name not in state]
    surplus = [name for name in state if name not in expected]
    common = [name for name in state if name in expected]
    if not common:
        has, wants = next(iter(state), "nothing"), next(iter(expected), "nothing")
        prefix = _before_all(state, expected)
        hint = (
            f"; all its names start with {prefix!r}, before the model's own: save them without it"
            if prefix
            else ""
        )
        raise UsageError(
            f"{where}: none of its {len(state)} tensors has a name of this model; "
            f"it holds {has!r} and such, the model wants {wants!r} and such{hint}"
        )
    problems, advice = _told(_fault(name, state[name], expected[name]) for name in common)
    refused = [name for name in missing if not _matches(name, allow_missing or ())]
    beyond = [name for name in surplus if not _matches(name, allow_surplus or ())]
    if refused:
        problems.append(f"{len(refused)} missing ({some(refused, _SHOWN)})")
    if beyond:
        problems.append(f"{len(beyond)} surplus ({some(beyond, _SHOWN)})")
    if problems:
        naming = _renamed(refused, beyond, state, expected)
        if any(re.search(r"\.parametrizations\.\w+\.0\.[ab]$", name) for name in beyond):
            naming = "; its low-rank updates are no part of the architecture, so it cannot be taken as that"
        elif not naming and (refused or beyond) and not (allow_missing is allow_surplus is None):
            naming = "; allow_missing and allow_surplus take patterns of names that may differ"
        raise UsageError(f"{where}: of {len(expected)} tensors, {', '.join(problems)}{naming}{advice}")
    return {name: state[name] for name in common}


def freeze(model: DualEncoder | nn.Module, patterns: Iterable[str]) -> list[str]:
    """Switch off the gradients of the parameters that match any of some fnmatch patterns; their names.

    Raises UsageError for a pattern that matches nothing, naming the nearest parameter.
    """
    parameters, frozen = dict(model.named_parameters()), dict[str, None]()
    for pattern in patterns:
        found = [name for name in parameters if fnmatchcase(name, pattern)]
        if not found:
            near = difflib.get_close_matches(pattern.replace("*", ""), parameters, n=1, cutoff=0.0)
            hint = f'; the nearest is "{near[0]}"' if near else ""
            raise UsageError(f"freeze: no parameter matches {pattern!r}{hint}")
        frozen.update(dict.fromkeys(found))
    for name in frozen:
        parameters[name].requires_grad_(False)
    return list(frozen)


def _fault(name: str, value: Tensor, wanted: Tensor) -> tuple[str, str] | None:
    """What makes a tensor unfit for the place of another, one of `_FAULTS`, and its name with the facts."""
    if value.shape != wanted.shape:
        return "of another shape", f"{name} is {_size(value)}, the model wants {_size(wanted)}"
    if value.layout != torch.strided or value.is_meta:
        return "that are not dense", f"{name} is {'meta' if value.is_meta else _plainly(value.layout)}"
    if not wanted.is_floating_point():
        return None
    if not value.is_floating_point():
        return "that are no real floating-point numbers", f"{name} is {_plainly(value.dtype)}"
    held = value.to(wanted.dtype)
    if not (finite := held.isfinite()).all():
        if held.isnan().any():
            return "with values that are no numbers", name
        # A mask over attention is a buffer of some models, and of minus infinities.
        return None if (finite | (held == wanted)).all() else (_INFINITE, name)
    if name.rpartition(".")[2] == "logit_scale" and not held.exp().isfinite().all():
        return "whose exponential is infinite", f"{name} is {held.max().item():g}"
    return None


def _told(faults: Iterable[tuple[str, str] | None]) -> tuple[list[str], str]:
    """The faults of each kind, counted, and what to do about them all."""
    found: dict[str, list[str]] = {kind: [] for kind in _FAULTS}
    for kind, shown in filter(None, faults):
        found[kind].append(shown)
    said = {kind: shown for kind, shown in found.items() if shown}
    problems = [f"{len(shown)} {kind} ({some(shown, _SHOWN)})" for kind, shown in said.items()]
    return problems, "".join(dict.fromkeys(_FAULTS[kind] for kind in said))


def _plainly(kind: torch.dtype | torch.layout) -> str:
    return str(kind).removeprefix("torch.")


def _tensors(content: object, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        raise UsageError(f"{path} holds a {type(content).__name__}, not named tensors; save `model.state_dict()`")
    strange = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if strange or not content:
        raise UsageError(
            f"{path} holds no state dict: {some(strange, _SHOWN) or 'it is empty'}; tensors are looked for "
            f"at the top, or under {', '.join(_WRAPPERS)}"
        )
    return {str(name): value for name, value in content.items()}


def _expect_alone(content: Mapping[object, object], wrapper: str, path: Path) -> None:
    """Raise UsageError where a file holds the weights under `wrapper` once more: running means of them, say.

    Which are meant shows neither in names nor in shapes. What stands elsewhere and has few of the names and shapes
    is of something else (a discriminator), as is what an optimiser keeps by their names, and is passed over.
    """
    taken = content[wrapper]
    own = _bare(_named(taken), [])  # none where that is no state dict, which is told afterwards
    for place, found in _within(content):
        again = _bare(_named(found), []) if found is not taken and not _OF_TRAINING.search(place) else {}
        alike = sum(name in again and again[name].shape == value.shape for name, value in own.items())
        if own and again and (place in _WRAPPERS or 2 * alike >= len(own)):
            raise UsageError(
                f"{path} holds weights under both {wrapper!r} and {place!r}; save those that are meant, alone"
            )


def _within(
    content: Mapping[object, object], before: str = "", depth: int = _DEPTH
) -> Iterator[tuple[str, object]]:
    """What stands in a file, so many levels deep, with the keys that lead there."""
    for key, value in content.items():
        yield f"{before}{key}", value
        if isinstance(value, Mapping) and depth > 1:
            yield from _within(value, f"{before}{key}.", depth - 1)


def _named(content: object) -> dict[str, Tensor]:
    """The tensors of a state dict; none of anything else."""
    found = content if isinstance(content, Mapping) else {}
    return {str(n): v for n, v in found.items()} if all(isinstance(v, Tensor) for v in found.values()) else {}


def _bare(state: dict[str, Tensor], layout: list[str]) -> dict[str, Tensor]:
    """Without the prefixes that all names share; each is added to `layout`."""
    while found := [prefix for prefix in _PREFIXES if state and all(name.startswith(prefix) for name in state)]:
        state = _below(state, found[0])
        layout.append(found[0])
    return state


def _below(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _before_all(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """What a training script's own module puts before every name of the model; empty where that is not it."""
    first = next(iter(state), "")
    for prefix in (first[: dot.end()] for dot in re.finditer(r"\.", first)):
        if all(name.startswith(prefix) for name in state) and not expected.keys().isdisjoint(
            _below(state, prefix)
        ):
            return prefix
    return ""


def _renamed(
    missing: list[str], surplus: list[str], state: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> str:
    """A word on names, where as many tensors of the same shapes are missing as surplus."""
    if not missing or sorted(expected[name].shape for name in missing) != sorted(state[n].shape for n in surplus):
        return ""
    return (
        f"; the shapes are the same, so the names may be another library's or version's: "
        f"is {surplus[0]!r} what the model calls {missing[0]!r}?"
    )


def _matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _size(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a scalar"
