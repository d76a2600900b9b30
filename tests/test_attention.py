"""Attention layers of models that are embedded in bfloat16: the numbers of torch's own."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import pytest
import torch
from encoder_files import TEXTS, TINY, load
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from urbancross_bench.modelling.attention import join_products
from urbancross_bench.modelling.runtime import autocast, lowered

CPU = torch.device("cpu")
BATCH, LENGTH, WIDTH, HEADS = 3, 7, 24, 4


def both(
    tokens: Tensor, other: Tensor | None = None, *, build: dict[str, Any], call: dict[str, Any]
) -> tuple[Any, Any]:
    """What torch's layer gives, and what the joint one gives."""
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(WIDTH, HEADS, **{"batch_first": True} | build).double().eval()
    nn.init.normal_(layer.in_proj_bias)
    joint = copy.deepcopy(layer)
    join_products(joint)
    second = tokens if other is None else other
    with torch.no_grad():
        return layer(tokens, second, second, **call), joint(tokens, second, second, **call)


CAUSAL = torch.full((LENGTH, LENGTH), -torch.inf).double().triu(1)
PADDED = torch.zeros(BATCH, LENGTH, dtype=torch.bool).index_fill(1, torch.tensor([5, 6]), True)
SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "added mask": ({}, {"attn_mask": CAUSAL}),
    "mask of booleans": ({}, {"attn_mask": CAUSAL < 0}),
    "mask of padding": ({}, {"key_padding_mask": PADDED}),
    "weights": ({}, {"need_weights": True}),
    "batch in the middle": ({"batch_first": False}, {}),
    "biases of keys": ({"add_bias_kv": True}, {}),
    "a key of zeros": ({"add_zero_attn": True}, {}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_numbers_are_those_of_torch(name: str) -> None:
    build, call = SETTINGS[name]
    tokens = torch.randn(BATCH, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1)).double()
    if name == "batch in the middle":
        tokens = tokens.transpose(0, 1)
    theirs, ours = both(tokens, build=build, call={"need_weights": False} | call)
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-12, atol=1e-12)
    assert (ours[1] is None) == (theirs[1] is None)


def test_a_layer_that_attends_to_another_side_stays() -> None:
    draw = torch.Generator().manual_seed(1)
    tokens, other = (torch.randn(BATCH, n, WIDTH, generator=draw).double() for n in (LENGTH, 4))
    theirs, ours = both(tokens, other, build={}, call={"need_weights": False})
    assert torch.equal(ours[0], theirs[0])


class Functions(TorchFunctionMode):
    """Counts the functions of torch that are called, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = Counter[str]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[getattr(func, "__name__", str(func))] += 1
        return func(*args, **kwargs or {})


def test_a_lowered_model_has_its_products_joined_and_the_model_is_as_it_was() -> None:
    model = load(f"openclip[architecture={TINY}]").eval()
    low = lowered(model, "bfloat16")
    tokens = model.tokenize(TEXTS)
    plain = copy.deepcopy(model).to(torch.bfloat16)
    with torch.no_grad(), autocast("bfloat16", CPU):
        with Functions() as used:
            features = low.encode_text(tokens).float()
        expected = plain.encode_text(tokens).float()
    assert used.calls["multi_head_attention_forward"] == 0
    assert nn.functional.cosine_similarity(features, expected).min() > 0.9999
    kinds = {type(part) for part in model.modules() if isinstance(part, nn.MultiheadAttention)}
    assert kinds == {nn.MultiheadAttention}
    assert lowered(model, "float32") is model
