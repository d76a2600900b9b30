"""Alignment by losses: each against numpy, scipy or a loop, and gradients against finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from urbancross_adaptations.adversarial import Cdan, Dann, Multilinear
from urbancross_adaptations.adversarial_options import CdanOptions, DannImagesOptions, DannOptions
from urbancross_adaptations.alignment import Coral, Mmd
from urbancross_adaptations.alignment_options import (
    CoralImagesOptions,
    CoralOptions,
    MmdImagesOptions,
)
from urbancross_adaptations.confusion import InformationMaximisation, MinimumClassConfusion
from urbancross_adaptations.confusion_options import InformationMaximisationOptions, MccOptions
from urbancross_bench.errors import RunError, UsageError
from urbancross_bench.interfaces import Context, Progress
from urbancross_bench.modelling.losses import (
    class_confusion,
    concentration,
    coral,
    dann_strength,
    entropies,
    mmd,
)
from urbancross_bench.registry import Registry

CPU = torch.device("cpu")
DISTANCES: list[Callable[[Tensor, Tensor], Tensor]] = [coral, mmd]
REGISTRY = Registry.discover()


def rows(count: int, seed: int, width: int = 6) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch(count: int, seed: int, texts: int | None = None) -> Any:
    return SimpleNamespace(
        image_features=F.normalize(rows(count, seed), dim=1).requires_grad_(),
        text_features=F.normalize(rows(texts or count, seed + 1), dim=1).requires_grad_(),
    )


def context(logged: dict[str, float] | None = None, width: int = 6) -> Any:
    def log(name: str, value: Tensor | float) -> None:
        if logged is not None:
            logged[name] = float(value)

    return Context(width, CPU, 100, lambda b: b.image_features.sum() * 0 + 2, None, None, log)  # type: ignore[arg-type]


def model(scale: float = 5.0) -> Any:
    return SimpleNamespace(logit_scale=nn.Parameter(torch.tensor(math.log(scale), dtype=torch.float64)))


def prepared(made: Any, logged: dict[str, float] | None = None) -> Any:
    torch.manual_seed(0)
    made.prepare(model(), context(logged))
    for part in vars(made).values():
        if isinstance(part, nn.Module):
            part.double()
    return made


def probabilities(logits: Tensor) -> np.ndarray:
    powers = np.exp(logits.detach().numpy())
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def test_coral_is_the_distance_of_the_covariances_times_the_papers_factor() -> None:
    source, target = rows(9, 0), rows(5, 1)
    scaled = [math.sqrt(6) * side.numpy() for side in (source, target)]
    difference = np.cov(scaled[0], rowvar=False) - np.cov(scaled[1], rowvar=False)
    assert coral(source, target).item() == pytest.approx((difference**2).sum() / (4 * 6**2))
    assert coral(source, source + 7).item() == pytest.approx(0, abs=1e-20)  # means are not its business
    assert coral(3 * source, 3 * target).item() == pytest.approx(3**4 * coral(source, target).item())


@pytest.mark.parametrize("noise", [0.0, 1e-9])
def test_mmd_of_rows_that_are_mostly_equal_has_a_gradient(noise: float) -> None:
    """The median distance is nought there, or no more than rounding; that of rows that differ is not."""
    source, target = F.normalize(rows(9, 0), dim=1).float(), F.normalize(rows(9, 1), dim=1).float()
    for side in (source, target):
        side[2:] = F.normalize(rows(1, 2), dim=1).float() + noise * rows(7, 3).float()
    source.requires_grad_()
    mmd(source, target).backward()  # type: ignore[no-untyped-call]
    assert source.grad is not None
    assert source.grad[:2].abs().max() > 1e-3
    assert mmd(torch.ones(4, 3), torch.ones(5, 3)).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("kernels", [1, 5])
def test_mmd_equals_a_loop(kernels: int) -> None:
    source, target = rows(5, 0).numpy(), rows(4, 1).numpy() + 0.5
    both = np.concatenate([source, target])
    distances = sorted(((both[i] - both[j]) ** 2).sum() for i in range(9) for j in range(9) if i < j)
    median = distances[(len(distances) - 1) // 2]

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        exponents = {1: [0], 5: [-2, -1, 0, 1, 2]}[kernels]
        return float(np.mean([np.exp(-((x - y) ** 2).sum() / (2.0**e * median)) for e in exponents]))

    within_source = np.mean([kernel(source[i], source[j]) for i in range(5) for j in range(5) if i != j])
    within_target = np.mean([kernel(target[i], target[j]) for i in range(4) for j in range(4) if i != j])
    between = np.mean([kernel(x, y) for x in source for y in target])
    expected = within_source + within_target - 2 * between
    assert mmd(torch.tensor(source), torch.tensor(target), kernels).item() == pytest.approx(expected)


def test_mmd_has_no_bias_where_there_is_no_shift() -> None:
    draws = [mmd(rows(6, 2 * i), rows(6, 2 * i + 1)).item() for i in range(400)]
    assert abs(np.mean(draws)) < 4 * np.std(draws) / 20  # a V-statistic would be off by about 0.2
    assert 4 * np.std(draws) / 20 < 0.02
    assert mmd(rows(6, 0), rows(6, 1) + 1).item() > 0.1


def test_mmd_does_not_ask_for_units_or_axes() -> None:
    source, target = rows(8, 0), rows(6, 1) + 0.3
    turned = torch.linalg.qr(rows(6, 2)).Q
    assert mmd(9 * source @ turned, 9 * target @ turned).item() == pytest.approx(mmd(source, target).item())


@pytest.mark.parametrize("distance", DISTANCES)
def test_distances_are_symmetric_and_know_no_order(distance: Callable[[Tensor, Tensor], Tensor]) -> None:
    source, target = rows(8, 0), rows(6, 1) + 0.3
    found = distance(source, target).item()
    assert distance(target, source).item() == pytest.approx(found)
    assert distance(source.flip(0), target.roll(2, 0)).item() == pytest.approx(found)
    with pytest.raises(RunError, match="batch_size"):
        distance(source, target[:1])


@pytest.mark.parametrize("distance", DISTANCES)
def test_distances_and_their_gradients_keep_full_precision(distance: Callable[[Tensor, Tensor], Tensor]) -> None:
    source, target = rows(8, 0).float().requires_grad_(), rows(6, 1).float()
    distance(source, target).backward()
    plain, source.grad = source.grad, None
    with torch.autocast("cpu", torch.bfloat16):
        lowered = distance(source, target)
    lowered.backward()
    assert plain is not None
    assert torch.equal(source.grad, plain)  # type: ignore[arg-type]


def test_mmd_of_equal_rows_is_zero_and_has_a_gradient() -> None:
    same = torch.ones(4, 3, requires_grad=True)
    value = mmd(same, torch.ones(5, 3))
    value.backward()
    assert value.item() == 0
    assert same.grad is not None
    assert same.grad.isfinite().all()


def test_entropy_and_concentration_are_scipys() -> None:
    logits = rows(7, 0, 4) * 3
    p = probabilities(logits)
    np.testing.assert_allclose(entropies(logits).numpy(), scipy.stats.entropy(p, axis=1))
    assert concentration(logits).item() == pytest.approx(scipy.stats.entropy(p.mean(axis=0), np.full(4, 0.25)))
    assert concentration(torch.eye(4) * 50).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("loss", [lambda x: entropies(x).mean(), concentration, class_confusion])
def test_a_class_that_nothing_chooses_does_no_harm(loss: Callable[[Tensor], Tensor]) -> None:
    logits = torch.tensor([[200.0, -200.0, 0.0], [200.0, -200.0, 1.0]], requires_grad=True)
    value = loss(logits)
    value.backward()
    assert value.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_class_confusion_equals_a_loop() -> None:
    logits = rows(7, 0, 4) * 2
    p = probabilities(logits)
    weights = [1 + math.exp(-scipy.stats.entropy(row)) for row in p]
    weights = [7 * w / sum(weights) for w in weights]
    confused = np.zeros((4, 4))
    for j in range(4):
        for k in range(4):
            confused[j, k] = sum(weights[i] * p[i, j] * p[i, k] for i in range(7))
    expected = sum(confused[j, k] / confused[j].sum() for j in range(4) for k in range(4) if j != k) / 4
    assert class_confusion(logits).item() == pytest.approx(expected, rel=1e-6)
    shuffled = logits[torch.randperm(7)][:, torch.tensor([2, 0, 3, 1])]
    assert class_confusion(shuffled).item() == pytest.approx(expected, rel=1e-6)
    assert class_confusion(torch.eye(4) * 90).item() == pytest.approx(0, abs=1e-6)
    assert class_confusion(torch.zeros(5, 4)).item() == pytest.approx(0.75)


def test_the_strength_of_reversal_grows_from_0_to_1() -> None:
    assert dann_strength(0) == 0
    assert dann_strength(0.1) == pytest.approx(math.tanh(0.5))
    assert dann_strength(1) == pytest.approx(math.tanh(5))


@pytest.mark.parametrize(("method", "distance"), [(Coral, coral), (Mmd, mmd)])
def test_a_distance_for_each_side_that_is_seen(method: Any, distance: Callable[..., Tensor]) -> None:
    source, target, progress = batch(8, 0), batch(6, 10), Progress(0, 10, 0, 0)
    options = {Coral: (CoralImagesOptions, CoralOptions), Mmd: (MmdImagesOptions, None)}[method]
    images = prepared(method(options[0](weight=3.0))).loss(
        SimpleNamespace(image_features=source.image_features),
        SimpleNamespace(image_features=target.image_features),  # captions are not shown
        progress,
    )
    expected = 3 * distance(source.image_features, target.image_features).item()
    assert {name: value.item() for name, value in images.items()} == {
        "source_pairs": 2,
        "distance_image": expected,
    }
    if options[1]:
        both = prepared(method(options[1](weight=1.0, on="both"))).loss(source, target, progress)
        text = prepared(method(options[1](weight=1.0, on="text"))).loss(source, target, progress)
        assert both.keys() == {"source_pairs", "distance_image", "distance_text"}
        assert text.keys() == {"source_pairs", "distance_text"}
        assert text["distance_text"].item() == distance(source.text_features, target.text_features).item()


def adversarial_sum(method: Any, source: Any, target: Any, step: int = 30) -> Tensor:
    losses = method.loss(source, target, Progress(step, 100, 0, 0))
    return torch.stack([value for name, value in losses.items() if name != "source_pairs"]).sum()


@pytest.mark.parametrize("schedule", ["ramp", "constant"])
def test_gradients_of_dann_equal_finite_differences_reversed(schedule: Any) -> None:
    source, target = batch(4, 0), batch(3, 10)
    method = prepared(Dann(DannOptions(schedule=schedule, weight=0.7)))
    adversarial_sum(method, source, target).backward()
    strength = math.tanh(1.5) if schedule == "ramp" else 1.0
    parameter = method.discriminators["text"][0].weight
    for tensor, sign in ((source.image_features, -strength), (target.text_features, -strength), (parameter, 1)):
        way, ends = rows(len(tensor), 7, tensor.shape[1]), []
        for move in (1e-6, -1e-6):
            with torch.no_grad():
                tensor += move * way
                ends.append(adversarial_sum(method, source, target).item())
                tensor -= move * way
        slope = (ends[0] - ends[1]) / 2e-6
        assert (tensor.grad * way).sum().item() == pytest.approx(sign * slope, rel=1e-5)
        assert abs(slope) > 1e-4


def test_the_loss_and_the_accuracy_of_dann_equal_a_loop() -> None:
    source, target, logged = batch(4, 0), batch(3, 10), dict[str, float]()
    method = prepared(Dann(DannOptions()), logged)
    losses = method.loss(source, target, Progress(0, 100, 0, 0))
    shares = []
    for side in ("image", "text"):
        told = [
            method.discriminators[side](getattr(b, f"{side}_features")).detach().sigmoid()
            for b in (source, target)
        ]
        expected = -np.mean([math.log(p) for p in told[0]]) - np.mean([math.log(1 - p) for p in told[1]])
        assert losses[f"adversarial_{side}"].item() == pytest.approx(expected)
        shares += [np.mean([p > 0.5 for p in told[0]]), np.mean([p <= 0.5 for p in told[1]])]
    assert logged == {"discriminator_accuracy": pytest.approx(np.mean(shares))}
    groups = method.parameter_groups(nn.Linear(2, 2), 0.5)
    assert [group["lr"] for group in groups] == [0.5, 1e-3]
    assert sum(p.numel() for p in groups[1]["params"]) == 2 * (42 + 42 + 7)


def toy(weight: float) -> tuple[list[float], float]:
    """Accuracies of 200 steps of DANN, and how much of a coordinate that only tells the domain is left.

    Pairs want the first three coordinates kept, and pull the fourth down slowly.
    """
    torch.manual_seed(0)
    encoder, accuracy = nn.Linear(4, 4, bias=False), list[float]()
    nn.init.eye_(encoder.weight)

    def pair_loss(b: Any) -> Tensor:
        kept = (F.normalize(b.image_features[:, :3], dim=1) - b.text_features).square().sum(dim=1).mean()
        return kept + 0.3 * b.image_features[:, 3].square().mean()

    method = Dann(DannImagesOptions(weight=weight, discriminator_learning_rate=1e-2))
    setting = Context(4, CPU, 200, pair_loss, None, None, lambda _, v: accuracy.append(float(v)))  # type: ignore[arg-type]
    method.prepare(encoder, setting)  # type: ignore[arg-type]
    own, discriminators = method.parameter_groups(encoder, 0.1)  # type: ignore[arg-type]
    optimisers = torch.optim.SGD([own]), torch.optim.Adam([discriminators])
    for step in range(200):
        sides = []
        for domain in (1.0, -1.0):
            seen = torch.cat([torch.randn(64, 3), domain + 0.3 * torch.randn(64, 1)], dim=1)
            image, text = F.normalize(encoder(seen), dim=1), F.normalize(seen[:, :3], dim=1)
            sides.append(SimpleNamespace(image_features=image, text_features=text))
        losses = method.loss(*sides, Progress(step, 200, 0, 0))  # type: ignore[arg-type]
        for optimiser in optimisers:
            optimiser.zero_grad()
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        for optimiser in optimisers:
            optimiser.step()
    return accuracy, abs(encoder.weight[3, 3].item())


def test_dann_takes_away_what_tells_domains_apart() -> None:
    alone, _ = toy(weight=1e-6)
    accuracy, left = toy(weight=1.0)
    assert np.mean(alone[60:120]) > 0.9
    assert np.mean(accuracy[60:120]) < 0.6
    assert np.mean(accuracy[-40:]) == pytest.approx(0.5, abs=0.1)
    assert left < 0.2


def test_multilinear_is_the_outer_product_or_keeps_its_inner_products() -> None:
    f, g = rows(3, 0), rows(3, 1)
    exact = Multilinear(6, 1024)(f, g)
    assert exact.tolist() == [[a * b for a in row_f for b in row_g] for row_f, row_g in zip(f, g, strict=True)]
    f, g = F.normalize(rows(3, 2, 65), dim=1), F.normalize(rows(3, 3, 65), dim=1)
    torch.manual_seed(0)
    randomised = Multilinear(65, 60_000).double()(f, g)
    assert randomised.shape == (3, 60_000)
    torch.testing.assert_close(randomised @ randomised.T, (f @ f.T) * (g @ g.T), rtol=0, atol=0.03)


@pytest.mark.parametrize("entropy", [True, False])
def test_what_cdan_sees_equals_a_loop(entropy: bool) -> None:
    source, target = batch(4, 0), batch(3, 10, texts=2)
    method = prepared(Cdan(CdanOptions(entropy=entropy)))
    seen, weights = method._seen(target, "image", source, target)
    texts = torch.cat([source.text_features, target.text_features]).detach()
    for i, image in enumerate(target.image_features.detach().numpy()):
        p = np.exp([5 * image @ u for u in texts.numpy()])
        p /= p.sum()
        predicted = sum(share * u for share, u in zip(p, texts.numpy(), strict=True))
        np.testing.assert_allclose(seen[i].detach().numpy(), np.outer(image, predicted).ravel())
        raw = [
            1 + math.exp(-scipy.stats.entropy(row))
            for row in probabilities(5 * target.image_features.detach() @ texts.T)
        ]
        assert weights[i].item() == pytest.approx(raw[i] / sum(raw) if entropy else 1 / 3)
    # What is predicted gets no gradient, and neither does the side it is predicted from.
    seen.sum().backward()
    assert source.text_features.grad is None
    assert target.text_features.grad is None
    assert target.image_features.grad is not None
    assert adversarial_sum(method, source, target).isfinite()


@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_what_cdan_predicts_is_as_certain_in_half_precision(precision: torch.dtype) -> None:
    source, target = (
        SimpleNamespace(image_features=b.image_features.float(), text_features=b.text_features.float())
        for b in (batch(4, 0), batch(3, 10))
    )
    cdan = Cdan(CdanOptions())
    cdan.prepare(model(100.0), context())
    wanted, found = [], []
    for seen, half in ((wanted, False), (found, True)):
        with torch.autocast("cpu", precision, enabled=half):
            seen += [part for own in (source, target) for part in cdan._seen(own, "image", source, target)]
    for half, whole in zip(found, wanted, strict=True):
        assert torch.equal(half, whole)


def test_cdan_asks_for_all_features_at_the_precision_of_the_step() -> None:
    asked = []

    class Watched:
        def __getattr__(self, name: str) -> Tensor:
            asked.append((torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
            return F.normalize(rows(3, len(asked)).float(), dim=1)

    cdan = Cdan(CdanOptions())
    cdan.prepare(model(), context())
    with torch.autocast("cpu", torch.bfloat16):
        cdan._seen(Watched(), "image", Watched(), Watched())  # type: ignore[arg-type]
    assert set(asked) == {(True, True)}


def test_cdan_does_not_see_which_items_have_their_pair_beside_them() -> None:
    """What is predicted of a source item does not depend on its own text, and of no item on where it stands."""
    source, target = batch(4, 0), batch(3, 10, texts=2)
    method = prepared(Cdan(CdanOptions()))
    before, _ = method._seen(source, "image", source, target)
    texts = source.text_features.detach().clone()
    texts[1] = -texts[1]
    changed = SimpleNamespace(image_features=source.image_features, text_features=texts)
    after, weights = method._seen(changed, "image", changed, target)
    assert torch.equal(after[1], before[1])
    assert not torch.allclose(after[0], before[0])
    assert weights.isfinite().all()


def test_cdan_tells_apart_what_features_alone_do_not() -> None:
    """Both domains have the same images and texts; only what goes with what differs."""
    eye = torch.eye(6, dtype=torch.float64)
    source = SimpleNamespace(image_features=eye[:4], text_features=eye[:4])
    target = SimpleNamespace(image_features=eye[:4], text_features=eye[:4].roll(1, 0))
    seen = [prepared(Dann(DannOptions()))._seen(b, "image", source, target)[0] for b in (source, target)]
    assert torch.equal(seen[0], seen[1])
    moved = SimpleNamespace(image_features=eye[:4], text_features=eye[[0, 1, 2, 4]])
    cdan = prepared(Cdan(CdanOptions()))
    before = cdan._seen(source, "image", source, target)[0]
    assert not torch.allclose(before, cdan._seen(source, "image", source, moved)[0])


def test_mcc_takes_the_texts_of_the_target_as_classes() -> None:
    source, target = batch(4, 0), batch(5, 10, texts=3)
    method = prepared(MinimumClassConfusion(MccOptions(weight=2, temperature=1.5)))
    losses = method.loss(source, target, Progress(0, 10, 0, 0))
    logits = 5 / 1.5 * target.image_features @ target.text_features.T
    assert losses["confusion"].item() == pytest.approx(2 * class_confusion(logits).item())
    losses["confusion"].backward()
    assert method.model.logit_scale.grad is None
    assert target.text_features.grad is not None


def test_information_is_maximised_in_both_directions() -> None:
    source, target = batch(4, 0), batch(5, 10, texts=3)
    options = InformationMaximisationOptions(weight=2, diversity=0.5)
    losses = prepared(InformationMaximisation(options)).loss(source, target, Progress(0, 10, 0, 0))
    logits = 5 * target.image_features @ target.text_features.T
    ways = [probabilities(logits), probabilities(logits.T)]
    entropy = np.mean([scipy.stats.entropy(p, axis=1).mean() for p in ways])
    uneven = np.mean([math.log(p.shape[1]) - scipy.stats.entropy(p.mean(axis=0)) for p in ways])
    assert losses["entropy"].item() == pytest.approx(2 * entropy)
    assert losses["diversity"].item() == pytest.approx(0.5 * uneven)
    alone = prepared(InformationMaximisation(InformationMaximisationOptions(diversity=0)))
    assert alone.loss(source, target, Progress(0, 10, 0, 0)).keys() == {"source_pairs", "entropy"}


def test_a_method_that_sees_images_alone_has_a_name_and_a_setting_of_its_own() -> None:
    for name in ("coral", "mmd", "dann", "align_statistics"):
        both, images = (REGISTRY.find("adaptation", n).registration for n in (name, f"{name}_images"))
        assert (both.setting, images.setting) == ("unsupervised", "unsupervised_images")
        assert both.target == images.target
        REGISTRY.resolve("adaptation", f"{name}_images").build()
        with pytest.raises(UsageError, match="on"):
            REGISTRY.resolve("adaptation", f"{name}[on=image]")
        with pytest.raises(UsageError, match="on"):
            REGISTRY.resolve("adaptation", f"{name}_images[on=text]")
    with pytest.raises(UsageError, match="odd"):
        REGISTRY.resolve("adaptation", "mmd[kernels=4]")
