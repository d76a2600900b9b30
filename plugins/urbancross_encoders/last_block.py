"""The last block of open_clip's transformers, in training: one of its tokens is pooled, others are not computed.

Of a tower of twelve blocks that saves a fifteenth of the arithmetic, forward and backward, and changes nothing but
the order of sums. For evaluation features stay open_clip's own to the bit.
"""

from __future__ import annotations

import inspect
from typing import Any, cast

import torch
from open_clip.transformer import ResidualAttentionBlock, TextTransformer, Transformer, VisionTransformer
from torch import Tensor, nn


def prepare(transformer: Transformer) -> None:
    """Let the last block be told which token of a row is pooled."""
    last = transformer.resblocks[-1]
    if type(last) is ResidualAttentionBlock and last.attn.batch_first:
        last.__class__ = OneTokenBlock


def pools_first(tower: nn.Module) -> bool:
    """Whether an image tower pools its first token, and nothing else."""
    return isinstance(tower, VisionTransformer) and tower.pool_type == "tok" and tower.attn_pool is None


def may_be_short(tower: Any) -> bool:
    """Whether a tower, which ends in a norm and the pooling of a token, has no use for others now.

    In training, as open_clip has made it, and while nobody listens to what goes through it.
    """
    of_images, transformer = isinstance(tower, VisionTransformer), tower.transformer
    kind, norm = (VisionTransformer, tower.ln_post) if of_images else (TextTransformer, tower.ln_final)
    if not (tower.training and _is_as_made(tower, kind) and _is_as_made(transformer, Transformer)):
        return False
    last = transformer.resblocks[-1]
    usual = _takes_a_place(last) and isinstance(last.attn, nn.MultiheadAttention)
    heard = any(map(_is_heard, (tower, transformer, norm, *last.modules())))
    return usual and not heard and not transformer.grad_checkpointing and not tower.output_tokens


def image_features(tower: VisionTransformer, images: Tensor) -> Tensor:
    """(B, D) features of images, of a tower that `pools_first` and `may_be_short`."""
    tokens = tower._embeds(images)
    x = tower.ln_post(pooled_token(tower.transformer, tokens, tokens.new_zeros(len(tokens), dtype=torch.long)))
    return cast(Tensor, x if tower.proj is None else x @ tower.proj)


def pooled_token(transformer: Transformer, x: Tensor, at: Tensor, mask: Tensor | None = None) -> Tensor:
    """(B, W) of (B, L, W): what becomes of the tokens at (B,) places. mask: (L, L), to be added."""
    *blocks, last = transformer.resblocks
    for block in blocks:
        x = block(x, attn_mask=mask)
    one: Tensor = last(x, attn_mask=mask, at=at)[:, 0]
    return one


class OneTokenBlock(ResidualAttentionBlock):  # type: ignore[misc]  # open_clip has no types
    """Told a place in each row, it attends from there to all tokens, and goes on with that one."""

    def forward(
        self,
        q_x: Tensor,
        k_x: Tensor | None = None,
        v_x: Tensor | None = None,
        attn_mask: Tensor | None = None,
        at: Tensor | None = None,
    ) -> Tensor:
        """(B, 1, W) of (B, L, W), at (B,) places; all of (B, L, W) where it is told none. attn_mask: (L, L)."""
        if at is None:
            return cast(Tensor, super().forward(q_x, k_x, v_x, attn_mask))
        rows, tokens = torch.arange(len(q_x), device=q_x.device), self.ln_1(q_x)
        # What a place must not see is what all of its row must not.
        mask = None if attn_mask is None else attn_mask[at].to(tokens.dtype)
        query = tokens[rows, at][:, None]
        attended = self.attn(query, tokens, tokens, key_padding_mask=mask, need_weights=False)[0]
        one = q_x[rows, at][:, None] + self.ls_1(attended)
        return cast(Tensor, one + self.ls_2(self.mlp(self.ln_2(one))))


def _is_as_made(part: nn.Module, kind: type[nn.Module]) -> bool:
    return type(part).forward is kind.forward and "forward" not in vars(part)


def _takes_a_place(block: nn.Module) -> bool:
    """Whether it can be told one, also by way of what was put around its forward (activation checkpoints, say)."""
    around = vars(block).get("forward")
    passes_all = around is None or inspect.getfullargspec(around).varkw is not None
    return type(block).forward is OneTokenBlock.forward and passes_all


def _is_heard(part: nn.Module) -> bool:
    """Whether somebody is told what goes through it, and may want all tokens."""
    forward = part._forward_hooks or part._forward_pre_hooks
    return bool(forward or part._backward_hooks or part._backward_pre_hooks)
