"""What a plugin's model and method give back, held against what is asked of them before it is used.

Torch would say of a loss that is no tensor that an argument 0 has an element 1: these say whose it is, and what to
write instead.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from urbancross_bench.errors import PluginError, some
from urbancross_bench.interfaces.adaptation import Adaptation, Batch, Progress
from urbancross_bench.interfaces.encoder import DualEncoder
from urbancross_bench.registry import Resolved

if TYPE_CHECKING:
    from urbancross_bench.modelling.batches import EncodedBatch
    from urbancross_bench.modelling.feeds import EncodedPool

# What is in the learning curve of every training, so neither a loss nor what is logged may be called so.
IN_EVERY_CURVE = frozenset({"step", "loss", "gradient_norm", "learning_rate", "kept_share", "skipped_share"})
_MEMBERS = ("width", "mean", "std", "logit_scale", "tokenize", "encode_image", "encode_text", "text_length")


def lacking(model: object) -> str:
    """What no run can do without and a model lacks; empty if nothing."""
    if not isinstance(model, nn.Module):
        return f"load() must return a torch module; it returns {told(model)}"
    for name in _MEMBERS:
        if not hasattr(model, name):
            return f"its model {type(model).__name__} has no {name}; see interfaces.DualEncoder"
    scale: Any = model.logit_scale
    if not isinstance(scale, Tensor) or scale.numel() != 1:
        return f"logit_scale is not one number in a parameter, nn.Parameter(torch.tensor(2.66)), but {told(scale)}"
    return ""


def load_model(encoder: Resolved) -> DualEncoder:
    """The model of an encoder plugin. Raises PluginError naming the plugin where it is none."""
    model: DualEncoder = encoder.build().load()
    if why := lacking(model):
        raise PluginError(f"{encoder.plugin}: {why}")
    return model


def encoded(model: DualEncoder, name: str, *inputs: Tensor) -> Tensor:
    """(B, D) features of B inputs by the model's method of this name, `encode_image` say.

    Raises PluginError where they have another shape; nothing else is looked at, so no device is waited for.
    """
    features = getattr(model, name)(*inputs)
    wanted = len(inputs[0]), model.width
    if not isinstance(features, Tensor) or features.shape != wanted:
        raise PluginError(
            f"{type(model).__name__}.{name} must return (B, width) features, {wanted} of these {wanted[0]} with "
            f"the model's width of {wanted[1]}; it returns {told(features)}"
        )
    return features


def tokens(model: DualEncoder, texts: Sequence[str]) -> Tensor:
    """(B, L) token ids of B texts. Raises PluginError where `tokenize` gives no such tensor."""
    found = model.tokenize(texts)
    whole = isinstance(found, Tensor) and found.ndim == 2 and len(found) == len(texts)
    if not whole or (found.numel() and found.dtype not in (torch.int32, torch.int64)):
        raise PluginError(
            f"{type(model).__name__}.tokenize must return (B, L) token ids, a tensor of int64 with {len(texts)} "
            f"rows for these {len(texts)} texts; it returns {told(found)}"
        )
    return found


@torch.inference_mode()
def unlike_features(model: DualEncoder, side: str, features: Tensor) -> str:
    """Why (B, D) features of a frozen tower cannot be stored in place of what it took; empty if they can.

    side: `image` or `text`, as the options' `frozen()` names it.
    """
    asked = (
        f"frozen() names {side!r}, so encode_{side} is given (B, D) features in place of what its tower takes, "
        "and what is added to the tower must at first leave them as they are"
    )
    try:
        again = getattr(model, f"encode_{side}")(features)
    except Exception as error:
        return f"{asked}; it fails: {type(error).__name__}: {error}"
    if again.shape == features.shape and torch.allclose(again.float(), features.float(), atol=1e-4, rtol=1e-4):
        return ""
    return f"{asked}; they come back as others"


def extended(method: Adaptation, model: DualEncoder) -> DualEncoder:
    """The model with the method's parts. Raises PluginError where `extend` gives something else."""
    found = method.extend(model)
    if not isinstance(found, nn.Module):
        raise _wrong(method, "extend", "the model, return model", found)
    if why := lacking(found):
        raise PluginError(
            f"{type(method).__name__}.extend must return the model that it is given, extended: {why}"
        )
    return found


def parameter_groups(method: Adaptation, model: DualEncoder, learning_rate: float) -> list[dict[str, Any]]:
    """What the optimiser trains. Raises PluginError where it is no list of groups, or has a parameter twice."""
    found = method.parameter_groups(model, learning_rate)
    if not isinstance(found, list) or not all(isinstance(group, Mapping) and "params" in group for group in found):
        raise _wrong(method, "parameter_groups", 'a list of {"params": [parameters], "lr": rate}', found)
    groups = [{**group, "params": _parameters(method, group["params"])} for group in found]
    times = Counter(id(parameter) for group in groups for parameter in group["params"])
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    if twice := [names.get(one, "a parameter") for one, count in times.items() if count > 1]:
        raise PluginError(
            f"{type(method).__name__}.parameter_groups gives {some(twice, 3)} more than once; put each parameter "
            "into one group"
        )
    return groups


def _parameters(method: Adaptation, found: Any) -> list[Tensor]:
    """Of a group, in an order. Raises PluginError for what no optimiser would train as it is meant."""
    wanted = 'parameters in each "params": a list, or model.parameters()'
    if isinstance(found, set | frozenset):
        raise _wrong(method, "parameter_groups", f"{wanted} (a set has another order in each process)", found)
    one = isinstance(found, Tensor)
    parameters = [found] if one else list(found) if isinstance(found, Iterable) else [found]
    for each in parameters:
        learns = (
            isinstance(each, Tensor) and each.is_leaf and (each.requires_grad or isinstance(each, nn.Parameter))
        )
        if not learns:
            raise _wrong(method, "parameter_groups", wanted, each)
    return parameters


def selected(method: Adaptation, source: Batch, target: Batch, progress: Progress) -> Tensor | None:
    """Which rows of the source batch to keep; None keeps all. Raises PluginError for other answers."""
    found = method.select(source, target, progress)
    if found is None:
        return None
    whole = isinstance(found, Tensor) and found.ndim == 1 and found.dtype in (torch.int32, torch.int64)
    if not whole or not len(found):
        wanted = "None, or the numbers of the rows to keep, one at least: of a mask, mask.nonzero()[:, 0]"
        raise _wrong(method, "select", wanted, found)
    return found


def of_batch(method: Adaptation, rows: Tensor, source: Batch) -> None:
    """Raises PluginError for a row to keep that the batch lacks; on CUDA, which is not waited for, torch does."""
    count = len(source.image_rows)
    if rows.device.type == "cuda":
        torch._assert_async((rows >= 0).all(), "select gives a row below 0")
    elif wrong := [row for row in rows.tolist() if not 0 <= row < count]:
        raise PluginError(
            f"{type(method).__name__}.select gives row {wrong[0]} of a batch that has rows 0 to {count - 1}"
        )


def unchanged(method: Adaptation, name: str, given: Mapping[str, EncodedBatch | EncodedPool]) -> None:
    """Raises PluginError where a method has changed what it was given, which others read after it."""
    for whose, one in given.items():
        for what in one.changed():
            raise PluginError(
                f"{type(method).__name__}.{name} changes {whose}.{what} in place, which is not its own; change a "
                "copy, as clone() makes"
            )


def losses(method: Adaptation, source: Batch, target: Batch, progress: Progress) -> dict[str, Tensor]:
    """The named losses of a step. Raises PluginError unless they are numbers that depend on what is trained."""
    found = method.loss(source, target, progress)
    if not isinstance(found, Mapping) or not found:
        raise _wrong(method, "loss", 'named losses, return {"pairs": …}', found)
    for name, value in found.items():
        if name in IN_EVERY_CURVE:
            raise PluginError(
                f"{type(method).__name__}.loss calls a loss {name!r}, and {name} is in every learning curve; call "
                "it by another name"
            )
        if not isinstance(value, Tensor) or value.ndim != 0 or value.is_complex():
            wanted = f"a tensor of one real number (of shape (), a mean, say) as {name!r}"
            raise _wrong(method, "loss", wanted, value)
    if not any(value.requires_grad for value in found.values()):
        raise PluginError(
            f"{type(method).__name__}.loss: none of {', '.join(found)} depends on a weight that is trained; take "
            "features of the batch, without detach() or no_grad()"
        )
    return dict(found)


def candidates(method: Adaptation, model: DualEncoder) -> Mapping[str, Mapping[str, Tensor]]:
    """The weights to choose from. Raises PluginError where there are none, or some that the model cannot load."""
    found = method.candidates(model)
    if not isinstance(found, Mapping) or not found:
        raise _wrong(method, "candidates", 'states of the model by name, return {"": model.state_dict()}', found)
    own = model.state_dict()
    for name, state in found.items():
        if not isinstance(name, str):
            raise _wrong(method, "candidates", f"states by names of text; one is called {name!r}", name)
        if not isinstance(state, Mapping):
            raise _wrong(method, "candidates", f"a state of the model as {name!r}", state)
        other = [key for key in {**own, **state} if _shape(own, key) != _shape(state, key)]
        if other:
            raise PluginError(
                f"{type(method).__name__}.candidates must return states with the names and shapes of "
                f"model.state_dict(); {name!r} differs from it in {some(other, 3)}"
            )
    return found


def _shape(state: Mapping[str, Tensor], name: str) -> object:
    """That of a tensor of a state; None of one that is not there, or is none."""
    value = state.get(name)
    return value.shape if isinstance(value, Tensor) else None


def _wrong(method: Adaptation, name: str, wanted: str, found: object) -> PluginError:
    return PluginError(f"{type(method).__name__}.{name} must return {wanted}; it returns {told(found)}")


def told(value: object) -> str:
    """What it is, in words."""
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}, {value.dtype}"
    if value is None:
        return "nothing"
    name = type(value).__name__
    if isinstance(value, Collection) and not isinstance(value, str | bytes):
        if not len(value):
            return f"an empty {name}"
        if isinstance(value, list | tuple):
            name += f" of {type(value[0]).__name__}"
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"
