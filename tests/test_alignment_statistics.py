"""Alignment in closed form: maps of features, and batch normalisation, against numpy; heads on real models."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
import torch.nn.functional as F
from encoder_files import TEXTS, load
from open_clip.modified_resnet import ModifiedResNet
from torch import Tensor, nn

from urbancross_adaptations.alignment_options import StatisticsImagesOptions, StatisticsOptions
from urbancross_adaptations.statistics import AdaBn, Affine, AlignStatistics
from urbancross_bench.errors import RunError
from urbancross_bench.interfaces import Context, Options
from urbancross_bench.modelling.heads import LinearHead, WithHeads

CPU = torch.device("cpu")
WIDTH = 5
TINY = "architecture=urbancross-tiny"


class Towers(nn.Module):
    """A dual encoder whose towers hand on what they are given."""

    width, mean, std = WIDTH, (), ()

    def encode_image(self, images: Tensor) -> Tensor:
        return images

    def encode_text(self, tokens: Tensor) -> Tensor:
        return tokens


def pool(count: int, seed: int) -> Any:
    """Unit features about a mean of their own, the more spread the later the coordinate."""
    draw = np.random.default_rng(seed)

    def features() -> Tensor:
        x = draw.normal(size=(count, WIDTH)) * np.linspace(0.2, 1, WIDTH) + draw.normal(size=WIDTH)
        return F.normalize(torch.tensor(x, dtype=torch.float32), dim=1)

    return SimpleNamespace(reference_image_features=features(), reference_text_features=features())


def aligned(options: StatisticsImagesOptions, source: Any, target: Any) -> WithHeads:
    method = AlignStatistics(options)
    model = method.extend(Towers())  # type: ignore[arg-type]
    context = Context(WIDTH, CPU, 0, lambda b: torch.zeros(()), source, target, lambda name, value: None)
    method.prepare(model, context)
    assert isinstance(model, WithHeads)
    return model


@pytest.mark.parametrize("whitening", [False, True])
@pytest.mark.parametrize("on", ["both", "text"])
def test_the_targets_statistics_become_the_sources(on: Any, whitening: bool) -> None:
    source, target = pool(40, 0), pool(30, 1)
    model = aligned(StatisticsOptions(on=on, whitening=whitening, shrinkage=0), source, target)
    for side, encode in (("image", model.encode_image), ("text", model.encode_text)):
        before, wanted = (getattr(p, f"reference_{side}_features").numpy() for p in (target, source))
        moved = encode(torch.tensor(before * 7)).numpy()  # of whatever length the tower gives it
        if side == "image" and on == "text":
            np.testing.assert_array_equal(moved, before * 7)
            continue
        np.testing.assert_allclose(moved.mean(axis=0), wanted.mean(axis=0), atol=1e-6)
        spread = np.cov(moved, rowvar=False)
        expected = np.cov(wanted if whitening else before, rowvar=False)
        np.testing.assert_allclose(spread, expected, atol=1e-6)


def test_whitening_with_shrinkage_equals_scipy() -> None:
    source, target = pool(40, 0), pool(3, 1)  # three rows have no invertible covariance of their own
    model = aligned(StatisticsImagesOptions(whitening=True, shrinkage=0.2), source, target)
    roots = []
    for side in (source, target):
        covariance = np.cov(side.reference_image_features.double().numpy(), rowvar=False)
        roots.append(scipy.linalg.sqrtm(0.8 * covariance + 0.2 * np.trace(covariance) / WIDTH * np.eye(WIDTH)))
    matrix = roots[0] @ np.linalg.inv(roots[1])
    np.testing.assert_allclose(model.image_head.matrix.numpy(), matrix, rtol=1e-4, atol=1e-5)  # type: ignore[union-attr]
    assert isinstance(model.text_head, nn.Identity)
    with pytest.raises(RunError, match="shrinkage"):
        aligned(StatisticsImagesOptions(whitening=True, shrinkage=0), source, target)
    with pytest.raises(RunError, match="two images"):
        aligned(StatisticsImagesOptions(), source, pool(1, 2))


def test_equal_domains_are_left_alone_and_what_was_set_is_in_the_state() -> None:
    same = pool(40, 0)
    x = same.reference_image_features
    unmoved = aligned(StatisticsOptions(whitening=True), same, same)
    torch.testing.assert_close(unmoved.encode_image(x), x)
    moved = aligned(StatisticsOptions(whitening=True), same, pool(30, 1))
    again = AlignStatistics(StatisticsOptions(whitening=True)).extend(Towers())  # type: ignore[arg-type]
    assert torch.equal(again.encode_image(x), F.normalize(x, dim=1))
    again.load_state_dict(moved.state_dict())
    assert torch.equal(again.encode_image(x), moved.encode_image(x))
    assert not list(Affine(WIDTH).parameters())


class Images:
    """A pool of images that a tower encodes when it is asked for, `size` at a time."""

    def __init__(self, tower: nn.Module, images: Tensor, size: int) -> None:
        self._tower, self._images, self._size = tower, images, size
        self.gradients = False

    def batches(self) -> Iterator[Any]:
        for images in self._images.split(self._size):
            batch = _Lazy(self._tower, images)
            yield batch
            self.gradients |= batch.gradients


class _Lazy:
    def __init__(self, tower: nn.Module, images: Tensor) -> None:
        self._tower, self._images, self.gradients = tower, images, False

    @property
    def image_features(self) -> Tensor:
        features: Tensor = self._tower(self._images)
        self.gradients = features.requires_grad
        return features


def adapted(tower: nn.Module, images: Tensor, size: int) -> None:
    model = nn.Module()
    model.image_tower = tower
    shown = Images(tower, images, size)
    context = Context(WIDTH, CPU, 0, lambda b: torch.zeros(()), None, shown, lambda name, value: None)  # type: ignore[arg-type]
    AdaBn(Options()).prepare(model, context)  # type: ignore[arg-type]
    assert not shown.gradients


def small_tower() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.Flatten()
    )


@pytest.mark.parametrize("size", [4, 7, 10])
def test_statistics_are_those_of_all_images_at_once(size: int) -> None:
    tower, images = small_tower(), 3 * torch.randn(10, 3, 8, 8) + 5
    images[7:] *= 4  # batches differ, so a mean of their variances would be far off
    adapted(tower, images, size)
    norm = tower[1]
    reaching = tower[0](images).detach().double().numpy().transpose(1, 0, 2, 3).reshape(4, -1)
    np.testing.assert_allclose(norm.running_mean.numpy(), reaching.mean(axis=1), rtol=1e-5)
    np.testing.assert_allclose(norm.running_var.numpy(), reaching.var(axis=1, ddof=1), rtol=1e-5)
    assert not tower.training
    after = norm(tower[0](images)).detach().numpy()
    np.testing.assert_allclose(after.mean(axis=(0, 2, 3)), 0, atol=1e-4)
    count = len(norm._forward_pre_hooks)
    assert count == 0


def test_in_one_batch_each_layer_of_a_deep_tower_has_the_statistics_of_what_reaches_it() -> None:
    torch.manual_seed(0)
    tower = ModifiedResNet((1, 1, 1, 1), output_dim=8, heads=2, image_size=32, width=8)
    images = torch.randn(6, 3, 32, 32) + 1
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    adapted(tower, images, 6)
    changed = {name for name, value in tower.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if "running" in name}
    reaching: dict[nn.Module, Tensor] = {}
    layers = [module for module in tower.modules() if isinstance(module, nn.BatchNorm2d)]
    for layer in layers:
        layer.register_forward_pre_hook(lambda module, inputs: reaching.__setitem__(module, inputs[0].detach()))
    tower(images)
    assert len(layers) > 15
    for layer in layers:
        x = reaching[layer].numpy().swapaxes(0, 1).reshape(layer.num_features, -1)
        assert layer.running_mean is not None
        assert layer.running_var is not None
        np.testing.assert_allclose(layer.running_mean.numpy(), x.mean(axis=1), rtol=1e-3, atol=1e-5)
        np.testing.assert_allclose(layer.running_var.numpy(), x.var(axis=1, ddof=1), rtol=1e-3)


def test_adabn_says_where_it_cannot_work() -> None:
    with pytest.raises(RunError, match="no batch normalisation"):
        adapted(nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)), torch.randn(4, 3), 2)
    frozen = nn.Module()
    frozen.image_tower = small_tower()
    stored = SimpleNamespace(batches=lambda: iter([SimpleNamespace(image_features=torch.randn(4, WIDTH))]))
    context = Context(WIDTH, CPU, 0, lambda b: torch.zeros(()), None, stored, lambda name, value: None)  # type: ignore[arg-type]
    with pytest.raises(RunError, match="frozen_towers"):
        AdaBn(Options()).prepare(frozen, context)  # type: ignore[arg-type]


def test_a_single_vector_left_for_the_last_batch_is_counted_too() -> None:
    tower = nn.Sequential(nn.BatchNorm1d(3))
    x = torch.randn(5, 3) * 2 + 1
    adapted(tower, x, 2)
    np.testing.assert_allclose(tower[0].running_var.numpy(), x.numpy().var(axis=0, ddof=1), rtol=1e-5)  # type: ignore[union-attr]


@pytest.mark.parametrize("reference", [f"openclip[{TINY}]", f"sam_fused[{TINY},fusion=mean]"])
def test_heads_stand_behind_a_model_and_nothing_else_changes(reference: str) -> None:
    torch.manual_seed(0)
    base = load(reference).train(False)
    model = WithHeads(base, LinearHead(base.width), LinearHead(base.width)).train(False)
    images, tokens = torch.randn(2, 3, 32, 32), model.tokenize(TEXTS)
    given = (images,)
    if reference.startswith("sam_fused"):
        segments = model.encode_segment(torch.randn(4, 3, 32, 32)).view(2, 2, -1)
        given = (images, segments, torch.tensor([[True, True], [True, False]]))  # type: ignore[assignment]
        assert not torch.equal(base.encode_image(*given), base.encode_image(images))
    assert torch.equal(model.encode_image(*given), base.encode_image(*given))
    assert torch.equal(model.encode_text(tokens), base.encode_text(tokens))
    with torch.no_grad():
        model.image_head.change.bias += 1  # type: ignore[union-attr,operator]
    assert torch.equal(model.encode_image(*given), base.encode_image(*given) + 1)
    assert torch.equal(model.encode_text(tokens), base.encode_text(tokens))
    assert {name.partition(".")[0] for name in model.state_dict()} == {"base", "image_head", "text_head"}
    assert model.logit_scale is base.logit_scale
    assert model.text_length(tokens) == base.text_length(tokens)
    assert (model.width, model.mean, model.std) == (base.width, base.mean, base.std)
    assert model.blocks("image") == base.blocks("image")


def test_a_base_that_learns_nothing_stays_as_it_is_tested() -> None:
    frozen = load("openclip[architecture=urbancross-tiny,frozen_towers='image,text']")
    model = WithHeads(frozen, LinearHead(frozen.width), LinearHead(frozen.width)).train()
    assert model.training
    assert model.image_head.training
    assert not frozen.training
    learning = load("openclip[architecture=urbancross-tiny,frozen_towers=text]")
    assert WithHeads(learning, nn.Identity(), nn.Identity()).train().base.training  # type: ignore[attr-defined]
