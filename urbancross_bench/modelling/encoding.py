"""How the features of a training batch are computed: all at once, in parts, over several processes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from urbancross_bench.errors import UsageError
from urbancross_bench.interfaces.encoder import DualEncoder
from urbancross_bench.modelling.distributed import Ranks


class Encoding:
    """How features are computed, chosen once for a training. Whichever it is, a loss sees the whole batch.

    micro_batch: the batch is encoded so many rows at a time. Of a part nothing is kept but its features; when its
    gradient is asked for, the part is encoded once more, with the same random draws. So activations take no more
    memory than those of a part, every row meets all negatives of the batch, and gradients are those of the batch
    encoded at once. This is the gradient cache of Gao et al. 2021 (arXiv 2101.06983, section 3.2), left to
    autograd: a part is an activation checkpoint, and backward runs through parts one after the other.

    ranks: each process encodes its share of the rows, and the features of all are gathered; see `Ranks`.
    """

    def __init__(self, micro_batch: int | None = None, ranks: Ranks | None = None) -> None:
        self._micro_batch = micro_batch
        self._ranks = ranks or Ranks()

    def unshared(self) -> Encoding:
        """The same by every process for all rows, whose layers then see all there is."""
        return Encoding(self._micro_batch)

    def __call__(
        self, model: DualEncoder, encode: Callable[..., Tensor], *inputs: Tensor, pictures: int = 1
    ) -> Tensor:
        """(B, …) features that `encode`, which runs `model`, makes of inputs with B rows, at least one.

        pictures: how many a row is, of which a part holds `micro_batch`. Raises UsageError where the model
        normalises by statistics of a batch that would be cut.
        """
        count, ranks = len(inputs[0]), self._ranks
        if ranks.world == 1 or count < ranks.world:  # too few to share: every rank encodes all
            return self._in_parts(model, encode, inputs, pictures)
        refuse_batch_statistics(model)
        with ranks.own_draws(inputs[0].device):
            own = self._in_parts(model, encode, ranks.share(inputs), pictures)
        return ranks.gather(own, count)

    def _in_parts(
        self, model: DualEncoder, encode: Callable[..., Tensor], inputs: tuple[Tensor, ...], pictures: int
    ) -> Tensor:
        count = len(inputs[0])
        size = count if self._micro_batch is None else max(1, self._micro_batch // pictures)
        if size >= count:
            return encode(*inputs)
        refuse_batch_statistics(model)
        parts = [[part[start : start + size] for part in inputs] for start in range(0, count, size)]
        if not torch.is_grad_enabled():
            return torch.cat([encode(*part) for part in parts])
        return torch.cat([checkpoint(_by_itself, encode, *part, use_reentrant=False) for part in parts])


def _by_itself(encode: Callable[..., Tensor], *part: Tensor) -> Tensor:
    # With autocast's copies of the weights of the part before, gradients of all parts would be added up in half
    # precision, in whose rounding those of single parts are lost.
    torch.clear_autocast_cache()
    return encode(*part)


def checkpoint_activations(model: DualEncoder) -> None:
    """Let every block of both towers keep its inputs alone and be run again in backward: the same gradients.

    Names of weights stay as they are, and a copy of the model does the same. Raises UsageError where a tower has
    no blocks.
    """
    for block in _all_blocks(model):
        # Bound to the block, so that a copy of the block gets a method of its own.
        block.forward = MethodType(_run_again, block)


def compile_blocks(model: DualEncoder) -> None:
    """Let torch compile every block of both towers when it is first run.

    Names of weights stay as they are; a copy of the model is not compiled. Raises UsageError where a tower has no
    blocks.
    """
    # All blocks of a kind are one function to torch, which stops compiling it after so many shapes and modes.
    torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
    for block in _all_blocks(model):
        block.compile()


def _all_blocks(model: DualEncoder) -> list[nn.Module]:
    return [*model.blocks("image"), *model.blocks("text")]


def _run_again(block: nn.Module, *inputs: Any, **more: Any) -> Any:
    forward = partial(type(block).forward, block)
    if not torch.is_grad_enabled():
        return forward(*inputs, **more)
    if any(isinstance(part, _BatchNorm) and part.training for part in block.modules()):
        more["context_fn"] = partial(_first_and_again, block)
    return checkpoint(forward, *inputs, use_reentrant=False, **more)


def _first_and_again(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    return nullcontext(), statistics_kept(block)


@contextmanager
def statistics_kept(block: nn.Module) -> Iterator[None]:
    """Inside, running statistics of batches stay as they are, and the momentum of all their layers is 0."""
    norms = [part for part in block.modules() if isinstance(part, _BatchNorm)]
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm, _, count in kept:
        norm.momentum = 0.0
        norm.num_batches_tracked = None if count is None else count.clone()
    try:
        yield
    finally:
        for norm, momentum, count in kept:
            norm.momentum, norm.num_batches_tracked = momentum, count


def refuse_batch_statistics(model: DualEncoder, trained: Iterable[nn.Parameter] | None = None) -> None:
    """Raise UsageError for a model whose features of a batch are not those of its parts.

    As it is now or, with `trained`, as it is while these are trained.
    """
    ids = None if trained is None else {id(parameter) for parameter in trained}
    for name, module in cast(nn.Module, model).named_modules():
        if isinstance(module, _BatchNorm) and (module.training if ids is None else id(module.weight) in ids):
            raise UsageError(
                f"{name} is a {type(module).__name__}, which normalises by the statistics of a whole batch, and "
                "the batch would be encoded in parts; leave out micro_batch and ranks (there SyncBatchNorm is not "
                "put to use), freeze the tower or its statistics (frozen_statistics), or take an encoder without "
                "batch normalisation"
            )
