"""Attention layers of models that are embedded in bfloat16: the numbers of torch's own."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from encoder_files import TEXTS, TINY, load
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from urbancross_bench.modelling.attention import join_products
from urbancross_bench.modelling.runtime import autocast, lowered

CPU = torch.device("cpu")
BATCH, LENGTH, WIDTH, HEADS, SIZE = 3, 7, 24, 4, 32
Call = Callable[[nn.MultiheadAttention, Tensor], tuple[Tensor, Tensor | None]]

CAUSAL = torch.full((LENGTH, LENGTH), -torch.inf).double().triu(1)
PADDED = torch.zeros(BATCH, LENGTH, dtype=torch.bool).index_fill(1, torch.tensor([5, 6]), True)
OTHER = torch.randn(BATCH, 4, WIDTH, generator=torch.Generator().manual_seed(2)).double()
OF_HEADS = torch.randn(BATCH * HEADS, LENGTH, LENGTH, generator=torch.Generator().manual_seed(3)).double()


class Functions(TorchFunctionMode):
    """Counts the functions of torch that are called, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = Counter[str]()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.calls[getattr(func, "__name__", str(func))] += 1
        return func(*args, **kwargs or {})

    @property
    def joined(self) -> bool:
        return self.calls["scaled_dot_product_attention"] > 0 and not self.calls["multi_head_attention_forward"]


def pair(**build: Any) -> tuple[nn.MultiheadAttention, nn.MultiheadAttention]:
    """A layer of torch's, and the same layer with its products joined; weights need gradients, so torch has no
    other fast way.
    """
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(WIDTH, HEADS, **{"batch_first": True} | build).double().eval()
    if layer.in_proj_bias is not None:
        nn.init.normal_(layer.in_proj_bias)
        nn.init.normal_(layer.out_proj.bias)
    joint = copy.deepcopy(layer)
    join_products(joint)
    return layer, joint


def compare(call: Call, tokens: Tensor | None = None, *, train: bool = False, **build: Any) -> bool:
    """Both give the same numbers; whether the products were joined for that."""
    if tokens is None:
        tokens = torch.randn(BATCH, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1)).double()
    results = []
    for layer in pair(**build):
        layer.train(train)
        torch.manual_seed(5)
        with torch.no_grad(), Functions() as used:
            results.append(call(layer, tokens))
    (theirs, their_weights), (ours, our_weights) = results
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert (our_weights is None) == (their_weights is None)
    if their_weights is not None:
        assert torch.equal(our_weights, their_weights)
    return used.joined


JOINED: dict[str, tuple[Call, dict[str, Any]]] = {
    "plain": (lambda layer, x: layer(x, x, x, need_weights=False), {}),
    "without biases": (lambda layer, x: layer(x, x, x, need_weights=False), {"bias": False}),
    "added mask": (lambda layer, x: layer(x, x, x, need_weights=False, attn_mask=CAUSAL), {}),
    "mask of single precision": (lambda layer, x: layer(x, x, x, None, False, CAUSAL.float()), {}),
    "by position": (lambda layer, x: layer(x, x, x, None, False, CAUSAL), {}),
    "all that is usual named": (
        lambda layer, x: layer(x, x, x, key_padding_mask=None, need_weights=False, is_causal=False),
        {},
    ),
    "dropout, which evaluation leaves out": (
        lambda layer, x: layer(x, x, x, need_weights=False),
        {"dropout": 0.5},
    ),
    "in training, without dropout": (lambda layer, x: layer(x, x, x, None, False, CAUSAL), {"train": True}),
}
AS_TORCH: dict[str, tuple[Call, dict[str, Any]]] = {
    "weights by default": (lambda layer, x: layer(x, x, x), {}),
    "weights by position": (lambda layer, x: layer(x, x, x, None), {}),
    "weights of each head": (lambda layer, x: layer(x, x, x, average_attn_weights=False), {}),
    "mask of booleans": (lambda layer, x: layer(x, x, x, need_weights=False, attn_mask=CAUSAL < 0), {}),
    "mask of each head": (lambda layer, x: layer(x, x, x, need_weights=False, attn_mask=OF_HEADS), {}),
    "mask of padding": (lambda layer, x: layer(x, x, x, PADDED, need_weights=False), {}),
    "causal": (lambda layer, x: layer(x, x, x, None, False, CAUSAL, is_causal=True), {}),
    "another side": (lambda layer, x: layer(x, OTHER, OTHER, need_weights=False), {}),
    "other values": (lambda layer, x: layer(x, x, x + 1, need_weights=False), {}),
    "batch in the middle": (lambda layer, x: layer(x, x, x, need_weights=False), {"batch_first": False}),
    "no batch": (lambda layer, x: layer(x[0], x[0], x[0], need_weights=False), {}),
    "biases of keys": (lambda layer, x: layer(x, x, x, need_weights=False), {"add_bias_kv": True}),
    "a key of zeros": (lambda layer, x: layer(x, x, x, need_weights=False), {"add_zero_attn": True}),
    "dropout in training": (
        lambda layer, x: layer(x, x, x, need_weights=False),
        {"dropout": 0.5, "train": True},
    ),
}


@pytest.mark.parametrize("name", JOINED)
def test_joined_products_have_the_numbers_of_torch(name: str) -> None:
    call, build = JOINED[name]
    assert compare(call, **build)


def test_joined_products_have_the_gradients_of_torch() -> None:
    found = []
    for layer in pair():
        tokens = torch.randn(BATCH, LENGTH, WIDTH, generator=torch.Generator().manual_seed(1)).double()
        tokens.requires_grad_()
        layer.train()
        features, _ = layer(tokens, tokens, tokens, need_weights=False, attn_mask=CAUSAL)
        features.square().sum().backward()
        found.append([tokens.grad, *(p.grad for p in layer.parameters())])
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", AS_TORCH)
def test_whatever_else_is_asked_for_is_left_to_torch(name: str) -> None:
    call, build = AS_TORCH[name]
    assert not compare(call, **build)


@pytest.mark.parametrize("shape", [(1, LENGTH), (LENGTH, 1)])
def test_a_mask_that_torch_refuses_is_refused(shape: tuple[int, int]) -> None:
    tokens = torch.zeros(BATCH, LENGTH, WIDTH).double()
    for layer in pair():
        with pytest.raises(RuntimeError, match="shape of the 2D attn_mask"):
            layer(tokens, tokens, tokens, need_weights=False, attn_mask=torch.zeros(shape).double())


def test_hooks_of_the_last_projection_are_called_as_little_as_by_torch() -> None:
    called: list[str] = []
    tokens = torch.zeros(BATCH, LENGTH, WIDTH).double()
    for layer in pair():
        layer.out_proj.register_forward_hook(lambda *_: called.append("hook"))
        layer(tokens, tokens, tokens, need_weights=False)
    assert not called


class Mine(nn.MultiheadAttention):
    pass


def test_layers_of_other_classes_stay() -> None:
    class Halved(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return weight / 2

    changed = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
    parametrize.register_parametrization(changed, "in_proj_weight", Halved())
    layers = nn.ModuleList([Mine(WIDTH, HEADS), changed])
    before = [type(layer) for layer in layers]
    join_products(layers)
    assert [type(layer) for layer in layers] == before


def test_a_lowered_model_has_its_products_joined_and_the_model_is_as_it_was() -> None:
    model = load(f"openclip[architecture={TINY}]").eval()
    low, plain = lowered(model, "bfloat16"), copy.deepcopy(model).to(torch.bfloat16)
    tokens = model.tokenize(TEXTS)
    images = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        exact = model.encode_text(tokens), model.encode_image(images)
        with autocast("bfloat16", CPU):
            with Functions() as used:
                ours = low.encode_text(tokens), low.encode_image(images)
            theirs = plain.encode_text(tokens), plain.encode_image(images)
    assert used.joined
    for mine, other, true in zip(ours, theirs, exact, strict=True):
        # As far from single precision as what torch makes of the same weights.
        assert (mine.float() - true).norm() <= 1.5 * (other.float() - true).norm()
    kinds = {type(part) for part in model.modules() if isinstance(part, nn.MultiheadAttention)}
    assert kinds == {nn.MultiheadAttention}
    assert lowered(model, "float32") is model
