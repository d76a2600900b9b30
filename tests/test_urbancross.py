"""The paper variant against a second, slow implementation of its formulas."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from urbancross_adaptations.options import UrbanCrossOptions
from urbancross_adaptations.urbancross import UrbanCross
from urbancross_bench.interfaces import Context, Progress


def unit(rows: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(rows, 8, generator=torch.Generator().manual_seed(seed)), dim=1)


def batch(rows: int, seed: int) -> SimpleNamespace:
    return SimpleNamespace(
        image_features=unit(rows, seed).requires_grad_(),
        text_features=unit(rows, seed + 1).requires_grad_(),
        reference_image_features=unit(rows, seed + 2),
        reference_text_features=unit(rows, seed + 3),
    )


def method(**options: object) -> UrbanCross:
    torch.manual_seed(0)
    made = UrbanCross(UrbanCrossOptions(**options))  # type: ignore[arg-type]
    made.prepare(nn.Linear(1, 1), Context(8, torch.device("cpu"), 100, lambda b: b.image_features.sum() * 0))  # type: ignore[arg-type]
    return made


def scores_by_hand(source: SimpleNamespace, target: SimpleNamespace) -> list[float]:
    result = []
    for image, text in zip(source.reference_image_features, source.reference_text_features, strict=True):
        z = (image + text) / 2
        z = z / z.norm()
        v = [float(z @ row) for row in target.reference_image_features]
        u = [float(z @ row) for row in target.reference_text_features]
        result.append(0.5 * (sum(v) / len(v) + sum(u) / len(u)))
    return result


@pytest.mark.parametrize(("passes", "kept"), [(0, 4), (1, 8), (2, 12), (4, 20), (9, 20)])
def test_the_sampler_keeps_a_growing_share_of_the_nearest(passes: int, kept: int) -> None:
    source, target = batch(20, 0), batch(5, 10)
    chosen = method().select(source, target, Progress(3, 100, 0, passes))  # type: ignore[arg-type]
    scores = scores_by_hand(source, target)
    expected = sorted(range(20), key=lambda i: -scores[i])[:kept]
    assert chosen is not None
    assert chosen.tolist() == expected


def test_the_losses_equal_the_formulas() -> None:
    source, target, m = batch(6, 0), batch(4, 10), method(adversarial=0.7, triplet=0.3)
    progress = Progress(30, 100, 0, 2)
    losses = m.loss(source, target, progress)  # type: ignore[arg-type]

    def weights(values: list[float]) -> list[float]:
        scaled = [(v - min(values)) / (max(values) - min(values)) for v in values]
        return [v / sum(scaled) for v in scaled]

    z = F.normalize((source.reference_image_features + source.reference_text_features) / 2, dim=1)
    w_s = weights(scores_by_hand(source, target))
    w_v = weights([sum(float(row @ s) for s in z) for row in target.reference_image_features])
    w_u = weights([sum(float(row @ s) for s in z) for row in target.reference_text_features])

    def bce(features: torch.Tensor, w: list[float], label: int) -> float:
        p = torch.sigmoid(m.discriminator(features)).tolist()
        return sum(-wi * math.log(pi if label else 1 - pi) for wi, pi in zip(w, p, strict=True))

    adversarial = bce(source.image_features, w_s, 1) + bce(target.image_features, w_v, 0)
    adversarial += bce(source.text_features, w_s, 1) + bce(target.text_features, w_u, 0)
    assert losses["adversarial"].item() == pytest.approx(0.7 * adversarial, rel=1e-5)

    a, p, n = (f.detach() for f in (source.image_features, source.text_features, target.image_features))
    triplet = sum(
        w_s[i] * max(0.0, float((a[i] - p[i]).norm() - min((a[i] - n[j]).norm() for j in range(4)) + 0.9))
        for i in range(6)
    )
    assert losses["triplet"].item() == pytest.approx(0.3 * triplet, rel=1e-5)
    assert set(losses) == {"adversarial", "triplet"}


@pytest.mark.parametrize(("passes", "margin"), [(0, 0.5), (1, 0.7), (5, 1.5), (9, 1.5)])
def test_the_margin_grows_to_its_end(passes: int, margin: float) -> None:
    source, target = batch(3, 0), batch(3, 10)
    m = method(adversarial=0, weighted=False)
    a, p, n = (f.detach() for f in (source.image_features, source.text_features, target.image_features))
    expected = sum(
        max(0.0, float((a[i] - p[i]).norm() - torch.cdist(a, n)[i].min() + margin)) / 3 for i in range(3)
    )
    loss = m.loss(source, target, Progress(0, 10, 0, passes))  # type: ignore[arg-type]
    assert loss["triplet"].item() == pytest.approx(expected, rel=1e-5)


def test_encoder_and_discriminator_pull_apart() -> None:
    """Following its gradient the discriminator gets better at telling domains, the features make it worse."""
    source, target, m = batch(30, 0), batch(30, 10), method(triplet=0, weighted=False)
    progress = Progress(90, 100, 0, 0)
    loss = m.loss(source, target, progress)["adversarial"]  # type: ignore[arg-type]
    loss.backward()

    def now(step_features: float = 0.0) -> float:
        moved = [
            SimpleNamespace(
                **{
                    **vars(side),
                    **{k: v - step_features * v.grad for k, v in vars(side).items() if v.grad is not None},
                }
            )
            for side in (source, target)
        ]
        return m.loss(*moved, progress)["adversarial"].item()  # type: ignore[arg-type]

    before = now()
    assert now(step_features=0.05) > before
    with torch.no_grad():
        for parameter in m.discriminator.parameters():
            parameter -= 0.05 * parameter.grad
    assert now() < before


def test_parts_can_be_switched_off() -> None:
    source, target = batch(6, 0), batch(4, 10)
    progress = Progress(3, 10, 0, 0)
    assert method(sampler=False).select(source, target, progress) is None  # type: ignore[arg-type]
    assert set(method(adversarial=0).loss(source, target, progress)) == {"triplet"}  # type: ignore[arg-type]
    assert set(method(triplet=0, pairs=1).loss(source, target, progress)) == {"adversarial", "pairs"}  # type: ignore[arg-type]
