"""In training the last block of open_clip's towers computes the pooled token alone: what all tokens would give."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import open_clip
import pytest
import torch
from encoder_files import TEXTS, load, state_of, theirs, write_local_dir
from torch import Tensor, nn

from urbancross_bench.modelling.encoding import checkpoint_activations
from urbancross_encoders.last_block import OneTokenBlock

IMAGE = {"image_size": 32, "patch_size": 8, "layers": 2, "width": 64, "head_width": 16}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
POOLED: dict[str, dict[str, dict[str, Any]]] = {
    "as usual": {},
    "scaled layers": {"vision_cfg": {"ls_init_value": 0.5}, "text_cfg": {"ls_init_value": 0.5}},
    "end token by its id": {"text_cfg": {"pool_type": "eos", "eos_id": 49407}},
    "one layer": {"vision_cfg": {"layers": 1}, "text_cfg": {"layers": 1}},
}
POOLED_OTHERWISE: dict[str, dict[str, dict[str, Any]]] = {
    "mean of all": {"vision_cfg": {"pool_type": "avg", "final_ln_after_pool": True}},
    "pooled by attention": {"vision_cfg": {"attentional_pool": True, "attn_pooler_heads": 4}},
    "blocks of another kind": {"vision_cfg": {"block_type": "custom", "qk_norm": True}},
}
PIXELS = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()


def models(folder: Path, changes: dict[str, dict[str, Any]]) -> tuple[Any, Any]:
    """Ours and open_clip's own, in training and in double precision."""
    config = {"embed_dim": 24} | {
        name: tower | changes.get(name, {}) for name, tower in (("vision_cfg", IMAGE), ("text_cfg", TEXT))
    }
    (folder / "last-block.json").write_text(json.dumps(config), encoding="utf-8")
    open_clip.add_model_config(folder / "last-block.json")
    other = theirs("last-block")
    for parameter in other.parameters():  # biases begin with noughts, which hide what is added to what
        nn.init.normal_(parameter, std=0.2)
    write_local_dir(folder / "dir", config, {}, state_of(other))
    ours = load(f"openclip[architecture=local-dir:{folder / 'dir'}]")
    return ours.double().train(), other.double().train()


def features(ours: Any) -> list[Tensor]:
    tokens = ours.tokenize(TEXTS)
    cut = tokens[:, : ours.text_length(tokens)]
    assert cut.shape[1] < tokens.shape[1]
    return [ours.encode_image(PIXELS), *(ours.encode_text(each) for each in (tokens, cut))]


def expected(ours: Any, other: Any) -> list[Tensor]:
    tokens = ours.tokenize(TEXTS)
    return [other.encode_image(PIXELS), other.encode_text(tokens), other.encode_text(tokens)]


def expect_same(ours: Any, other: Any) -> None:
    """Features, and the gradients of all weights."""
    found = [features(ours), expected(ours, other)]
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)
    for each in found:
        torch.stack([one.sin().sum() for one in each]).sum().backward()
    gradients = {name: weight.grad for name, weight in other.named_parameters()}
    for name, weight in ours.clip.named_parameters():
        torch.testing.assert_close(weight.grad, gradients[name.removeprefix("text.")], rtol=1e-9, atol=1e-12)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of how many tokens a row an MLP was asked for, one after the other."""
    seen = list[int]()
    forward = nn.Sequential.forward

    def watched(layer: nn.Sequential, x: Tensor) -> Tensor:
        if hasattr(layer, "c_fc"):
            seen.append(x.shape[1])
        return forward(layer, x)

    monkeypatch.setattr(nn.Sequential, "forward", watched)
    return seen


@pytest.mark.parametrize("name", POOLED)
def test_features_and_gradients_are_those_of_all_tokens(name: str, tmp_path: Path) -> None:
    expect_same(*models(tmp_path, POOLED[name]))


def test_the_rest_is_not_computed(tmp_path: Path, computed: list[int]) -> None:
    ours, _ = models(tmp_path, {})
    features(ours)
    length = ours.text_length(ours.tokenize(TEXTS))
    assert computed == [17, 1, 16, 1, length, 1]


def test_in_evaluation_features_are_open_clips_to_the_bit(tmp_path: Path, computed: list[int]) -> None:
    ours, other = (model.float().eval() for model in models(tmp_path, {}))
    tokens, pixels = ours.tokenize(TEXTS), PIXELS.float()
    assert torch.equal(ours.encode_text(tokens), other.encode_text(tokens))
    other.to(memory_format=torch.channels_last)
    assert torch.equal(ours.encode_image(pixels), other.encode_image(pixels))
    assert set(computed) == {16, 17}


@pytest.mark.parametrize("part", ["", "mlp", "ln_2"])
def test_who_listens_to_the_block_is_told_of_all_tokens(part: str, tmp_path: Path) -> None:
    ours, other = models(tmp_path, {})
    heard = list[Tensor]()
    for tower in ("image", "text"):
        listened = ours.blocks(tower)[-1].get_submodule(part)
        listened.register_forward_hook(lambda module, given, result: heard.append(result))
    expect_same(ours, other)
    assert [one.shape[1] for one in heard] == [17, 16, ours.text_length(ours.tokenize(TEXTS))]


LISTENERS = ("register_forward_hook", "register_full_backward_hook")


@pytest.mark.parametrize("listener", LISTENERS)
@pytest.mark.parametrize("part", ["visual.transformer", "visual.ln_post", "text.transformer", "text.ln_final"])
def test_who_listens_to_what_is_around_it_is_told_of_all_tokens(part: str, listener: str, tmp_path: Path) -> None:
    ours, other = models(tmp_path, {})
    heard = list[Tensor]()
    listened = ours.clip.get_submodule(part)
    getattr(listened, listener)(lambda module, given, result: heard.append(*_tensors(result)))
    expect_same(ours, other)
    expected_lengths = [17] if part.startswith("visual") else [16, ours.text_length(ours.tokenize(TEXTS))]
    assert sorted(one.shape[1] for one in heard) == sorted(expected_lengths)


def _tensors(result: Any) -> tuple[Tensor]:
    return result if isinstance(result, tuple) else (result,)


def test_what_goes_into_the_text_tower_may_be_changed_by_a_hook(tmp_path: Path) -> None:
    ours, _ = models(tmp_path, {})
    tokens = ours.tokenize(TEXTS)
    before = ours.encode_text(tokens)
    ours.clip.text.transformer.register_forward_pre_hook(lambda module, given: (given[0].flip(2), *given[1:]))
    assert not torch.allclose(ours.encode_text(tokens), before)


class Doubled(nn.MultiheadAttention):
    """What a plugin may put in the place of attention, to change what it gives."""

    def forward(self, *inputs: Tensor, **more: Any) -> Any:
        attended, weights = super().forward(*inputs, **more)
        return 2 * attended, weights


class Around(nn.Module):
    """As libraries of low-rank updates do, with the weights of what is inside in their usual places."""

    def __init__(self, inside: nn.MultiheadAttention) -> None:
        super().__init__()
        self.inside = inside
        self.in_proj_weight, self.in_proj_bias = inside.in_proj_weight, inside.in_proj_bias
        self.embed_dim, self.num_heads, self.out_proj = inside.embed_dim, inside.num_heads, inside.out_proj

    def forward(self, *inputs: Tensor, **more: Any) -> Any:
        attended, weights = self.inside(*inputs, **more)
        return 2 * attended, weights


@pytest.mark.parametrize("how", [Doubled, Around])
@pytest.mark.parametrize("tower", ["image", "text"])
def test_attention_of_another_kind_is_heeded(how: type, tower: Literal["image", "text"], tmp_path: Path) -> None:
    ours, other = models(tmp_path, {})
    for block in (
        ours.blocks(tower)[-1],
        (other.visual.transformer if tower == "image" else other.transformer).resblocks[-1],
    ):
        if how is Around:
            block.attn = Around(block.attn)
        else:
            block.attn.__class__ = Doubled
    torch.testing.assert_close(features(ours), expected(ours, other), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("how", ["its own", "of its class"])
def test_a_tower_that_computes_otherwise_is_called_as_it_is(how: str, tmp_path: Path) -> None:
    ours, other = models(tmp_path, {})
    towers = [ours.image_tower, other.visual]

    class Mine(type(towers[0])):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Tensor:
            return 3 * super().forward(x)

    for tower in towers:
        if how == "its own":
            tower.forward = lambda x, forward=tower.forward: 2 * forward(x)
        else:
            tower.__class__ = Mine
    torch.testing.assert_close(features(ours), expected(ours, other), rtol=1e-12, atol=1e-12)


def test_a_block_or_a_transformer_that_was_replaced_is_called_as_it_is(tmp_path: Path) -> None:
    ours, other = models(tmp_path, {})
    text, block = ours.clip.text, ours.blocks("image")[-1]
    inside, forward = text.transformer, block.forward

    class Wrapped(nn.Module):
        def forward(self, x: Tensor, attn_mask: Tensor) -> Tensor:
            return -inside(x, attn_mask=attn_mask)

        def get_cast_dtype(self) -> torch.dtype:
            return inside.get_cast_dtype()

    text.transformer = Wrapped()
    block.forward = lambda x, attn_mask=None: forward(x, attn_mask=attn_mask)
    other.transformer.register_forward_hook(lambda module, given, result: -result)
    torch.testing.assert_close(features(ours), expected(ours, other), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", POOLED_OTHERWISE)
def test_towers_that_pool_otherwise_stay_as_they_are(name: str, tmp_path: Path) -> None:
    ours, other = models(tmp_path, POOLED_OTHERWISE[name])
    assert [isinstance(ours.blocks(tower)[-1], OneTokenBlock) for tower in ("image", "text")] == [False, True]
    expect_same(ours, other)


def test_activations_may_be_computed_again(tmp_path: Path) -> None:
    ours, other = models(tmp_path, {})
    checkpoint_activations(ours)
    expect_same(ours, other)


def test_towers_can_be_called_themselves(tmp_path: Path) -> None:
    """As the contract of a model says: with images, and with uncut tokens."""
    ours, other = models(tmp_path, {})
    tokens = ours.tokenize(TEXTS)
    torch.testing.assert_close(ours.text_tower(tokens), other.encode_text(tokens), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.image_tower(PIXELS), other.encode_image(PIXELS), rtol=1e-12, atol=1e-12)
    inner = torch.randn(2, 17, 64, generator=torch.Generator().manual_seed(1)).double()
    given = ours.image_tower.transformer(inner), other.visual.transformer(inner)
    torch.testing.assert_close(*given, rtol=1e-12, atol=1e-12)
    ours.image_tower.output_tokens = other.visual.output_tokens = True
    for mine, theirs_ in zip(ours.image_tower(PIXELS), other.visual(PIXELS), strict=True):
        torch.testing.assert_close(mine, theirs_, rtol=1e-12, atol=1e-12)
