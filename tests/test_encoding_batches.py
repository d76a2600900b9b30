"""Batches encoded in parts, and towers that are run again in backward: losses and gradients stay the same."""

from __future__ import annotations

import copy
import weakref
from functools import partialmethod
from typing import Any

import numpy as np
import pytest
import torch
import torch._dynamo.utils
import torch.nn.functional as F
from torch import Tensor, nn

from urbancross_bench.data.packed import PackedImages, PackedSegments, Rows
from urbancross_bench.data.views import PairView, StreamView
from urbancross_bench.errors import UsageError
from urbancross_bench.modelling.encoding import Encoding, checkpoint_activations, compile_blocks
from urbancross_bench.modelling.feeds import Feed
from urbancross_bench.modelling.heads import masked_mean
from urbancross_bench.modelling.losses import hinge, info_nce
from urbancross_bench.registry import Registry

CPU = torch.device("cpu")
Grads = dict[str, Tensor]


@pytest.fixture(scope="module")
def tiny() -> Any:
    torch.manual_seed(0)
    return Registry.discover().resolve("encoder", "openclip[architecture=urbancross-tiny]").build().load().train()


def images(count: int, side: int = 32) -> PackedImages:
    values = np.random.default_rng(0).integers(0, 255, size=(count, side, side, 3)).astype(np.uint8)
    return PackedImages(Rows([values]))


def feeds(model: Any, encoding: Encoding | None) -> tuple[Feed, Feed]:
    """Ten pairs, and a target of streams that are not of one length."""
    captions = tuple(f"a text {i} on {'roofs ' * (i % 4)}" for i in range(10))
    pairs = PairView(images(10), captions, np.arange(10), np.zeros(10, np.int64))
    streams = StreamView(images(9), captions[:7])
    settings: dict[str, Any] = {"augmentation": ("flip", "crop"), "device": CPU, "seed": 1, "hidden": ""}
    return (
        Feed(model, pairs, batch_size=10, encoding=encoding, **settings),
        Feed(model, streams, batch_size=7, encoding=encoding, **settings),
    )


def step(model: Any, encoding: Encoding | None, precision: str = "float32") -> tuple[float, Grads]:
    """Loss and gradients of a step that uses features in every way: cut down, twice, of two sides, not at all."""
    source, target = (feed.batch(0) for feed in feeds(model, encoding))
    model.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
        kept = source.rows(torch.tensor([0, 2, 3, 5, 6, 9, 1]))
        loss = info_nce(kept.image_features, kept.text_features, model.logit_scale.exp())
        loss = loss + hinge(target.image_features, kept.text_features) + target.image_features[0].pow(3).sum()
        _ = source.image_features, target.text_features
    loss.backward()
    return loss.item(), gradients_of(model)


def gradients_of(model: nn.Module) -> Grads:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def close(own: Grads, wanted: Grads, within: float = 1e-5) -> None:
    """Each gradient is the same but for a share of its largest value."""
    assert own.keys() == wanted.keys()
    for name, gradient in wanted.items():
        apart, largest = float((own[name] - gradient).abs().max()), float(gradient.abs().max())
        assert apart <= within * largest, f"{name}: {apart} of {largest}"


@pytest.mark.parametrize("size", [1, 3, 5, 7, 100])
def test_parts_have_the_loss_and_gradients_of_the_whole(tiny: Any, size: int) -> None:
    loss, wanted = step(tiny, None)
    own_loss, own = step(tiny, Encoding(size))
    assert own_loss == pytest.approx(loss, rel=1e-6)
    close(own, wanted)
    assert any(gradient.abs().max() > 1e-3 for gradient in wanted.values())


def test_parts_are_run_again_at_the_same_precision(tiny: Any) -> None:
    """In bfloat16 parts differ from the whole by its rounding; run again in float32 they would by much less."""
    _, exact = step(tiny, None)
    loss, wanted = step(tiny, None, "bfloat16")
    own_loss, own = step(tiny, Encoding(3), "bfloat16")
    assert own_loss == pytest.approx(loss, rel=1e-2)
    seen: set[torch.dtype] = set()
    hook = tiny.clip.visual.transformer.resblocks[0].mlp.c_fc.register_forward_hook(
        lambda module, inputs, output: seen.add(output.dtype)
    )
    step(tiny, Encoding(3), "bfloat16")
    hook.remove()
    assert seen == {torch.bfloat16}
    for name, gradient in wanted.items():
        apart, rounding = (float((one[name] - gradient).norm()) for one in (own, exact))
        assert apart <= 3 * rounding + 1e-5, name


def test_gradients_of_parts_are_not_added_up_in_half_precision(tiny: Any) -> None:
    """Where parts shared autocast's copies of the weights, what each adds would be lost in the sum's rounding."""
    pixels = torch.from_numpy(np.random.default_rng(0).random((512, 3, 32, 32), dtype=np.float32))

    def gradients(size: int | None, *, half: bool) -> Grads:
        tiny.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            features = pictures(tiny, Encoding(size), pixels).float()
        (features * torch.linspace(0, 1, 512)[:, None]).mean(dim=0).square().sum().backward()
        return gradients_of(tiny)

    exact, whole, parts = gradients(None, half=False), gradients(None, half=True), gradients(1, half=True)

    def apart(own: Grads) -> float:
        return float(sum((own[name] - wanted).square().sum() for name, wanted in exact.items()))

    assert apart(parts) <= 2 * apart(whole)


def pictures(model: Any, encoding: Encoding, inputs: Tensor) -> Tensor:
    return encoding(model, model.encode_image, inputs)


class Toy(nn.Module):
    """A tower of any layers, over images of any shape."""

    width = 4

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.own: list[nn.Module] = [*self.layers]

    def encode_image(self, images: Tensor) -> Tensor:
        for layer in self.layers:
            images = layer(images)
        return images.flatten(1)

    def blocks(self, tower: str) -> list[nn.Module]:
        return [*self.layers]


def gradients(model: nn.Module, features: Tensor) -> Grads:
    model.zero_grad(set_to_none=True)
    features.square().cumsum(0).sum().backward()  # type: ignore[no-untyped-call]
    return gradients_of(model)


def test_dropout_is_the_same_when_a_part_is_run_again() -> None:
    torch.manual_seed(0)
    model = Toy(nn.Linear(8, 16), nn.Dropout(0.5), nn.Linear(16, 4))
    inputs = torch.randn(9, 8)
    torch.manual_seed(1)
    wanted = gradients(model, torch.cat([model.encode_image(part) for part in inputs.split(4)]))
    torch.manual_seed(1)
    close(gradients(model, pictures(model, Encoding(4), inputs)), wanted)
    other = gradients(model, pictures(model, Encoding(4), inputs))
    assert not torch.allclose(other["layers.0.weight"], wanted["layers.0.weight"], rtol=0.05)


class Watched(nn.Module):
    """Counts the rows that are kept for backward at once."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[weakref.ref[Any], int]] = []
        self.most = 0

    def forward(self, inputs: Tensor) -> Tensor:
        memory = np.ones(inputs.shape, dtype=np.float32)  # lives as long as the tensor that has it
        self.kept.append((weakref.ref(memory), len(memory)))
        self.most = max(self.most, sum(rows for alive, rows in self.kept if alive() is not None))
        return inputs * torch.from_numpy(memory)


def test_no_more_is_kept_than_the_activations_of_one_part() -> None:
    most = []
    for encoding in (Encoding(), Encoding(2)):
        watched = Watched()
        model = Toy(nn.Linear(8, 4), watched)
        # Of two batches: the first one's parts are gone before the second's are made.
        features = [pictures(model, encoding, torch.randn(12, 8)) for _ in range(2)]
        torch.cat(features).sum().backward()  # type: ignore[no-untyped-call]
        most.append(watched.most)
    assert most[0] == 24
    assert most[1] <= 4


def test_without_gradients_parts_are_the_whole(tiny: Any) -> None:
    with torch.no_grad():
        [whole, _], [parts, _] = (
            [feed.batch(0).encoded_by(tiny) for feed in feeds(tiny, encoding)] for encoding in (None, Encoding(3))
        )
        torch.testing.assert_close(parts.image_features, whole.image_features, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(parts.text_features, whole.text_features, rtol=1e-5, atol=1e-6)
        assert not parts.image_features.requires_grad


@pytest.mark.parametrize("size", [None, 3])
def test_features_have_gradients_wherever_they_are_first_asked_for(tiny: Any, size: int | None) -> None:
    found = []
    for hidden_by in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        batch = feeds(tiny, Encoding(size))[0].batch(0)
        tiny.zero_grad(set_to_none=True)
        with hidden_by(), torch.autocast("cpu", torch.bfloat16):
            _ = batch.image_features, batch.text_features
        kept = batch.rows(torch.arange(5))
        with hidden_by():
            _ = kept.image_features
        (batch.image_features @ batch.text_features.T + kept.image_features.sum()).sum().backward()
        found.append(gradients_of(tiny))
    for name, wanted in found[0].items():
        for other in found[1:]:
            torch.testing.assert_close(other[name], wanted, rtol=0, atol=0)


def test_statistics_of_a_batch_are_not_taken_of_a_part() -> None:
    model = Toy(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)))
    inputs = torch.randn(6, 3, 2, 2)
    with pytest.raises(UsageError, match=r"layers\.0\.1 is a BatchNorm2d.*leave out micro_batch and ranks"):
        pictures(model, Encoding(4), inputs)
    assert model.layers[0][1].num_batches_tracked == 0  # type: ignore[index]
    whole = pictures(model, Encoding(6), inputs)  # one part: the whole
    assert whole.shape == (6, 16)
    model.eval()
    torch.testing.assert_close(pictures(model, Encoding(4), inputs), pictures(model, Encoding(), inputs))


class Segmented(nn.Module):
    """Images and segments through one tower; a segment's feature has a part in its image's."""

    width, mean, std = 4, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Linear(48, 4)
        self.fused = nn.Linear(4, 4)
        self.rows: list[int] = []

    @property
    def image_tower(self) -> nn.Module:
        return self.tower

    def encode_segment(self, pixels: Tensor) -> Tensor:
        self.rows.append(len(pixels))
        features: Tensor = self.tower(pixels.flatten(1))
        return features

    def encode_image(self, pixels: Tensor, segments: Tensor, present: Tensor) -> Tensor:
        self.rows.append(len(pixels))
        features: Tensor = self.tower(pixels.flatten(1))
        return features + self.fused(masked_mean(F.normalize(segments, dim=2), present))

    def encode_text(self, tokens: Tensor) -> Tensor:
        return self.fused(F.one_hot(tokens[:, 0] % 4, 4).float())

    def tokenize(self, texts: list[str]) -> Tensor:
        return torch.arange(1, len(texts) + 1)[:, None]

    def text_length(self, tokens: Tensor) -> int:
        return 1


def segmented_batch(model: Any, encoding: Encoding | None) -> Any:
    """Eight images with up to three segments; the first two have none."""
    draw = np.random.default_rng(1)
    rows, values = (draw.integers(0, 255, size=(n, 4, 4, 3)).astype(np.uint8) for n in (8, 12))
    counts = np.array([0, 0, 1, 2, 3, 1, 3, 2])
    segments = PackedSegments(Rows([values]), np.cumsum([0, *counts[:-1]]), counts, 3)
    view = PairView(
        PackedImages(Rows([rows]), segments), tuple("abcdefgh"), np.arange(8), np.zeros(8, np.int64), None
    )
    return Feed(
        model, view, batch_size=8, augmentation=(), device=CPU, seed=0, hidden="", encoding=encoding
    ).batch(0)


def test_segments_are_encoded_in_parts_too_and_what_is_made_of_them() -> None:
    torch.manual_seed(0)
    model = Segmented()
    results: list[tuple[float, Grads]] = []
    for encoding in (None, Encoding(4)):
        model.zero_grad(set_to_none=True)
        model.rows.clear()
        batch = segmented_batch(model, encoding)
        scale = torch.tensor(5.0)
        loss = info_nce(batch.image_features, batch.text_features, scale)
        loss = loss + info_nce(batch.segment_features, batch.text_features, scale)
        loss.backward()  # type: ignore[no-untyped-call]
        results.append((loss.item(), gradients_of(model)))
    assert max(model.rows) <= 4
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-6)
    close(results[1][1], results[0][1])


def test_a_batch_is_the_same_for_another_model(tiny: Any) -> None:
    other = copy.deepcopy(tiny)
    with torch.no_grad():
        other.clip.visual.proj.neg_()
        source, target = (feed.batch(0) for feed in feeds(tiny, None))
        for batch in (source.rows(torch.tensor([4, 1])), target):
            theirs = batch.encoded_by(other)
            pixels, tokens = batch._drawn.images, batch._drawn.tokens
            assert pixels is not None
            assert tokens is not None
            expected = F.normalize(other.encode_image(pixels[0]), dim=1)
            torch.testing.assert_close(theirs.image_features, expected, rtol=0, atol=0)
            torch.testing.assert_close(theirs.text_features, batch.text_features, rtol=0, atol=0)
            assert not torch.allclose(theirs.image_features, batch.image_features, atol=1e-2)
            assert (theirs.image_rows == batch.image_rows).all()


def saved_bytes(model: Any) -> int:
    """What is kept for backward of images' features, beside the images and the weights."""
    images, kept = torch.randn(8, 3, 32, 32), {}
    known = {values.untyped_storage().data_ptr() for values in [images, *model.parameters()]}

    def pack(values: Tensor) -> Tensor:
        storage = values.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return values

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda values: values):
        features = model.encode_image(images)
    assert features.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("size", [None, 4])
def test_blocks_that_are_run_again_have_the_same_gradients_and_keep_less(tiny: Any, size: int | None) -> None:
    model = copy.deepcopy(tiny)
    names, count = list(model.state_dict()), sum(1 for _ in model.modules())
    checkpoint_activations(model)
    assert list(model.state_dict()) == names
    assert sum(1 for _ in model.modules()) == count
    loss, wanted = step(tiny, Encoding(size))
    own_loss, own = step(model, Encoding(size))
    assert own_loss == loss
    close(own, wanted, within=0)
    assert saved_bytes(model) < 0.4 * saved_bytes(tiny)


def test_a_copy_of_a_model_whose_blocks_are_run_again_is_a_copy(tiny: Any) -> None:
    model = copy.deepcopy(tiny)
    checkpoint_activations(model)
    teacher, pixels = copy.deepcopy(model), torch.randn(3, 3, 32, 32)
    before = model.encode_image(pixels)
    with torch.no_grad():
        teacher.clip.visual.transformer.resblocks[0].mlp.c_fc.weight.mul_(-1)
    assert (model.encode_image(pixels) == before).all()
    assert not torch.allclose(teacher.encode_image(pixels), before, atol=1e-3)
    assert next(iter(teacher.parameters())).grad is None
    teacher.encode_image(pixels).sum().backward()
    assert model.clip.visual.transformer.resblocks[0].mlp.c_fc.weight.grad is None


def test_running_statistics_count_a_batch_once() -> None:
    torch.manual_seed(0)
    plain = Toy(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.GELU(), nn.Conv2d(4, 4, 1)))
    again, inputs = copy.deepcopy(plain), torch.randn(6, 3, 2, 2)
    checkpoint_activations(again)  # type: ignore[arg-type]
    wanted, own = (gradients(model, model.encode_image(inputs)) for model in (plain, again))
    close(own, wanted, within=0)
    for name, value in plain.state_dict().items():
        assert (again.state_dict()[name] == value).all(), name
    gradients(again, again.encode_image(inputs))
    norm: Any = again.layers[0]
    assert norm[1].num_batches_tracked == 2
    assert norm[1].momentum == 0.1


# Generated code is torch's affair, and takes a C++ compiler half a minute: graphs, gradients and names are ours.
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.long)])
def test_compiled_blocks_have_the_same_gradients_and_names(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    """Both towers are the same two blocks here, which are compiled, and run again in backward too."""
    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend=backend))
    torch.manual_seed(0)
    plain = Toy(*(nn.Sequential(nn.Linear(4, 4), nn.GELU()) for _ in range(2)))
    model, inputs = copy.deepcopy(plain), torch.randn(5, 4)
    checkpoint_activations(model)  # type: ignore[arg-type]
    compile_blocks(model)  # type: ignore[arg-type]
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    own = gradients(model, pictures(model, Encoding(), inputs))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    close(own, gradients(plain, pictures(plain, Encoding(), inputs)))
    assert [*model.state_dict()] == [*plain.state_dict()]
    with torch.no_grad():
        other = copy.deepcopy(model)
        other.layers[0][0].weight.neg_()  # type: ignore[index]
        assert not torch.allclose(other.encode_image(inputs), plain.encode_image(inputs))
        torch.testing.assert_close(model.encode_image(inputs), plain.encode_image(inputs))


def test_a_tower_without_blocks_cannot_run_them_again() -> None:
    class Flat(Toy):
        def blocks(self, tower: str) -> list[nn.Module]:
            raise UsageError(f"the {tower} tower has no blocks")

    with pytest.raises(UsageError, match="the image tower has no blocks"):
        checkpoint_activations(Flat(nn.Linear(2, 2)))  # type: ignore[arg-type]
