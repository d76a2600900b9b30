"""Self-attention that multiplies all tokens of a batch at once."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def join_products(model: nn.Module) -> None:
    """Let torch's own attention layers multiply the tokens of a batch at once, where they attend to themselves.

    `nn.MultiheadAttention` puts tokens before the batch first. Without gradients torch then multiplies each place
    of a text by itself, with a copy of the weights for each: a fifth to a third of a text tower's time in bfloat16
    on a CPU. With gradients it copies inputs, products and the gradients of these: of what a training step of
    ViT-B/16 reads and writes in a GPU's memory, a quarter. Only sums may come in another order. Layers of a class
    of their own stay as they are.
    """
    for layer in model.modules():
        if type(layer) is nn.MultiheadAttention:
            layer.__class__ = _Joined


class _Joined(nn.MultiheadAttention):
    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As torch's, which also carries out whatever is asked for beyond heads and an added mask."""
        itself = query is key and key is value
        more = need_weights or is_causal or key_padding_mask is not None
        if itself and not more and self._is_plain(query) and _is_added(attn_mask, query):
            return self._joint(query, attn_mask), None
        return super().forward(
            *(query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal)
        )

    def _is_plain(self, tokens: Tensor) -> bool:
        """Whether they come as (B, L, W), to heads without further keys or dropout."""
        usual = self.batch_first and self.bias_k is None and not self.add_zero_attn
        drops = self.training and self.dropout > 0
        return usual and not drops and tokens.dim() == 3 and not tokens.is_nested

    def _joint(self, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """(B, L, W) of (B, L, W)."""
        joint = F.linear(tokens, self.in_proj_weight, self.in_proj_bias)
        # Taken apart, so that the gradients of the three are stacked at once.
        parts = joint.view(*joint.shape[:2], 3, self.num_heads, self.head_dim).unbind(2)
        q, k, v = (part.transpose(1, 2) for part in parts)
        mask = None if mask is None else mask.to(joint.dtype)
        heads = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        # Its weights alone, as torch does: the layer itself may have hooks.
        return F.linear(heads.transpose(1, 2).flatten(2), self.out_proj.weight, self.out_proj.bias)


def _is_added(mask: Tensor | None, tokens: Tensor) -> bool:
    """Whether there is no mask, or one number to add for each two places."""
    return mask is None or (mask.is_floating_point() and mask.shape == (tokens.shape[1],) * 2)
