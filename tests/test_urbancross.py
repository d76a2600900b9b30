"""UrbanCross and its variants against a second, slow implementation of their formulas."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from urbancross_adaptations.urbancross import UrbanCross
from urbancross_adaptations.urbancross_options import VARIANTS, UrbanCrossOptions
from urbancross_bench.errors import UsageError
from urbancross_bench.interfaces import Progress
from urbancross_bench.registry import Registry

Rows = NDArray[np.float64]
NO_MODEL: Any = None
FEATURES = ("image_features", "text_features", "reference_image_features", "reference_text_features")


def unit(rows: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.randn(rows, 8, generator=torch.Generator().manual_seed(seed)), dim=1)


def batch(rows: int, seed: int) -> Any:
    made = {name: unit(rows, seed + number) for number, name in enumerate(FEATURES)}
    made = {name: x.requires_grad_("reference" not in name) for name, x in made.items()}
    return SimpleNamespace(**made, image_rows=torch.arange(rows), text_rows=torch.arange(rows))


def context(pair_loss: Any = None, log: Any = None) -> Any:
    return SimpleNamespace(
        width=8,
        device=torch.device("cpu"),
        pair_loss=pair_loss or (lambda b: b.image_features.sum() * 0 + 3),
        log=log or (lambda name, value: None),
    )


def method(**options: Any) -> Any:
    torch.manual_seed(0)
    made = UrbanCross(UrbanCrossOptions(**options))
    made.prepare(NO_MODEL, context())
    return made


def stepped(
    m: UrbanCross, source: Any, target: Any, progress: Progress
) -> tuple[list[int], dict[str, torch.Tensor]]:
    """The rows that a step keeps, and its losses, as the loop does it."""
    kept = m.select(source, target, progress)
    rows = list(range(len(source.image_features))) if kept is None else kept.tolist()
    return rows, m.loss(cut(source, rows), target, progress)


def cut(whole: SimpleNamespace, rows: list[int]) -> Any:
    return SimpleNamespace(**{name: getattr(whole, name)[rows] for name in FEATURES})


# --- the second implementation: numpy, one row at a time --------------------------------------------------------


def slow(
    o: UrbanCrossOptions, m: UrbanCross, source: Any, target: Any, p: Progress
) -> tuple[list[int], dict[str, float]]:
    """Kept rows and losses."""

    def of(side: Any, what: str, live: bool) -> Rows:
        x = getattr(side, f"{what}_features" if live else f"reference_{what}_features")
        return np.asarray(x.detach(), dtype=float)

    live = o.features == "live"
    v, u = of(target, "image", live), of(target, "text", live)
    z = []
    for image, text in zip(of(source, "image", live), of(source, "text", live), strict=True):
        joint = (image + text) / 2 if o.similarity == "both" else text
        z.append(joint / np.linalg.norm(joint))
    scores = []
    for s in z:
        by_text = sum(float(row @ s) for row in u) / len(u)
        by_image = sum(float(row @ s) for row in v) / len(v)
        scores.append((by_image + by_text) / 2 if o.similarity == "both" else by_text)
    cycle = p.target_pass
    while o.restart and cycle >= o.restart:
        cycle -= o.restart
    order = sorted(range(len(z)), key=lambda i: -scores[i])
    if o.order == "reversed":
        order.reverse()
    if o.order == "random":
        order = torch.randperm(len(z), generator=torch.Generator().manual_seed(p.step)).tolist()
    count = max(1, round(min(1.0, o.first_share + o.share_step * cycle) * len(z)))
    kept = list(range(len(z))) if o.order == "none" else order[:count]

    def of_target(row: Rows) -> float:
        if o.sums == "kept":
            return sum(float(row @ z[i]) for i in kept)
        descending = sorted((float(row @ s) for s in z), reverse=True)
        start = len(kept) * cycle if o.sums == "slice" else 0
        return sum(descending[start : start + len(kept)])

    w_v, w_u = scaled([of_target(row) for row in v]), scaled([of_target(row) for row in u])
    w_s = scaled([scores[i] for i in kept])
    if o.source_weights == "target":
        w_s = [w_u[place % len(w_u)] for place in range(len(kept))]
        w_s = [w / sum(w_s) if sum(w_s) else 1 / len(w_s) for w in w_s]
    losses: dict[str, float] = {}
    a, t = of(source, "image", True)[kept], of(source, "text", True)[kept]
    n, x = of(target, "image", True), of(target, "text", True)
    if o.adversarial:
        weights = [w_s, w_v, w_u] if o.weighted in ("both", "adversarial") else [even(w) for w in (w_s, w_v, w_u)]
        total = 0.0
        for what, ours, theirs, w in (("image", a, n, weights[1]), ("text", t, x, weights[2])):
            if o.domains_of in (what, "both"):
                part = cross_entropy(m, ours, weights[0], 1) + cross_entropy(m, theirs, w, 0)
                total += part / len(theirs) if o.reversal == "none" else part
        losses["adversarial"] = o.adversarial * total
    if o.triplet:
        weights_s = w_s if o.weighted in ("both", "triplet") else even(w_s)
        margin = min(o.first_margin + o.margin_step * cycle, o.last_margin)
        total = 0.0
        for i in range(len(kept)):
            pool = n if o.negatives == "target" else np.delete(a, i, axis=0)
            far = [float(np.linalg.norm(a[i] - row)) for row in pool]
            total += (
                weights_s[i] * max(0.0, float(np.linalg.norm(a[i] - t[i])) - min(far) + margin) if far else 0.0
            )
        losses["triplet"] = o.triplet * total
    if o.pairs:
        of_recipe = 3.0 if len(a) > 1 else 0.0  # of one pair nothing is learnt
        losses["pairs"] = o.pairs * (of_recipe if o.pairs_scale == "recipe" else contrast(a, t, o.pairs_scale))
    return kept, losses


def scaled(values: list[float]) -> list[float]:
    low, high = min(values), max(values)
    if low == high:
        return even(values)
    total = sum((x - low) / (high - low) for x in values)
    return [(x - low) / (high - low) / total for x in values]


def even(values: list[float]) -> list[float]:
    return [1 / len(values)] * len(values)


def cross_entropy(m: UrbanCross, features: Rows, weights: list[float], label: int) -> float:
    with torch.no_grad():
        logits = m.discriminator(torch.tensor(features, dtype=torch.float32)).reshape(len(features), -1).tolist()
    total = 0.0
    for weight, outputs in zip(weights, logits, strict=True):
        for output in outputs:
            right = 1 / (1 + math.exp(-output))
            total -= weight * math.log(right if label else 1 - right) / len(outputs)
    return total


def contrast(a: Rows, t: Rows, scale: float) -> float:
    total = 0.0
    for i in range(len(a)):
        for own, others in ((a[i], t), (t[i], a)):
            total -= scale * float(own @ others[i]) - math.log(
                sum(math.exp(scale * float(own @ y)) for y in others)
            )
    return total / (2 * len(a))


OPTIONS: list[dict[str, Any]] = [
    *({"variant": name} for name in VARIANTS),
    {"variant": "april_2024", "sums": "nearest", "domains_of": "both"},  # the script without curriculum
    *({"order": order} for order in ("random", "reversed", "none")),
    *({"weighted": part} for part in ("adversarial", "triplet", "none")),
    *({"sums": sums, "share_step": 0.1} for sums in ("nearest", "slice")),
    *({"reversal": how} for how in ("constant", "none")),
    *({"domains_of": side} for side in ("image", "text")),
    {"features": "live"},
    {"similarity": "text"},
    {"features": "live", "similarity": "text", "order": "none"},
    {"source_weights": "target"},
    {"negatives": "source"},
    {"negatives": "source", "weighted": "none", "first_margin": 0.1, "last_margin": 0.3},
    {"pairs": 0.4},
    {"pairs": 2.0, "pairs_scale": 7.5, "adversarial": 0.3, "triplet": 0.7},
    {"share_step": 0.0, "first_share": 0.5, "restart": 3},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("sizes", "passes"), [((20, 5), 1), ((10, 4), 3), ((7, 9), 6), ((1, 1), 0)])
def test_rows_and_losses_equal_the_formulas(options: dict[str, Any], sizes: tuple[int, int], passes: int) -> None:
    m, progress = method(**options), Progress(30, 100, 1, passes)
    source, target = batch(sizes[0], 0), batch(sizes[1], 10)
    kept, losses = stepped(m, source, target, progress)
    expected_kept, expected = slow(m.o, m, source, target, progress)
    assert kept == expected_kept
    assert {name: x.item() for name, x in losses.items()} == pytest.approx(expected, rel=1e-4, abs=1e-6)
    torch.stack(list(losses.values())).sum().backward()
    assert all(x.grad is None or x.grad.isfinite().all() for side in (source, target) for x in vars(side).values())


@pytest.mark.parametrize(
    ("variant", "shares"),
    [
        ("paper", [4, 8, 12, 16, 20, 20, 20]),
        ("april_2024", [4, 4, 4, 4, 4, 4, 4]),
        ("october_2024", [4, 8, 12, 16, 20, 4, 8]),
    ],
)
def test_the_share_of_each_pass(variant: str, shares: list[int]) -> None:
    m, source, target = method(variant=variant), batch(20, 0), batch(5, 10)
    kept = [m.select(source, target, Progress(0, 10, 0, c)) for c in range(7)]
    assert [None if rows is None else len(rows) for rows in kept] == shares


def test_the_released_pass_moves_the_slice_that_weights_sum() -> None:
    """With a share of a fifth, five slices are the whole batch and the sixth pass is the first again."""
    m, source, target = method(variant="april_2024"), batch(20, 0), batch(5, 10)
    weights = []
    for c in range(6):
        m.select(source, target, Progress(0, 10, 0, c))
        weights.append(m._found.target_weights(m._found.texts).tolist())
    assert weights[5] == weights[0]
    assert len({tuple(w) for w in weights}) == 5


def test_random_rows_are_a_function_of_the_step_alone() -> None:
    m, target = method(order="random"), batch(5, 10)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    rows = [m.select(batch(20, seed), target, Progress(step, 9, 0, 1)) for seed, step in ((0, 4), (1, 4), (0, 5))]
    assert torch.equal(state, torch.get_rng_state())
    first, other_batch, other_step = ([] if r is None else r.tolist() for r in rows)
    assert first == other_batch != other_step


def test_equal_items_weigh_the_same() -> None:
    source, target, m = batch(6, 0), batch(4, 10), method(order="none")
    for side in (source, target):
        for name in FEATURES[2:]:
            setattr(side, name, unit(1, 3).expand(len(side.image_features), -1))
    m.select(source, target, Progress(0, 10, 0, 0))
    found = m._found
    assert torch.allclose(found.source_weights(), torch.full((6,), 1 / 6))
    assert torch.allclose(found.target_weights(found.images), torch.full((4,), 1 / 4))


@pytest.mark.parametrize("reversal", ["schedule", "constant", "none"])
def test_encoder_and_discriminator_pull_apart_only_with_reversal(reversal: str) -> None:
    """By its gradient the discriminator tells domains better; features make it worse, or as released better."""
    m, progress = method(triplet=0, weighted="none", order="none", reversal=reversal), Progress(90, 100, 0, 0)
    source, target = batch(30, 0), batch(30, 10)

    def now(step_features: float = 0.0) -> torch.Tensor:
        moved = [
            SimpleNamespace(
                **{k: v if v.grad is None else v - step_features * v.grad for k, v in vars(side).items()}
            )
            for side in (source, target)
        ]
        return stepped(m, *moved, progress)[1]["adversarial"]

    now().backward()
    before = now().item()
    size = 30.0 if reversal == "none" else 1.0  # released gradients are those of a mean
    assert (now(0.05 * size).item() > before) == (reversal != "none")
    with torch.no_grad():
        for parameter in m.discriminator.parameters():
            assert parameter.grad is not None
            parameter -= 0.05 * size * parameter.grad
    assert now().item() < before


def test_the_reversal_has_the_strength_of_dann() -> None:
    def gradient(reversal: str, fraction: float) -> torch.Tensor:
        m, source, target = method(triplet=0, reversal=reversal), batch(8, 0), batch(4, 10)
        stepped(m, source, target, Progress(int(100 * fraction), 100, 0, 0))[1]["adversarial"].backward()
        found: torch.Tensor = target.image_features.grad
        return found

    full = gradient("constant", 0.0)
    for fraction in (0.0, 0.25, 0.9):
        strength = 2 / (1 + math.exp(-10 * fraction)) - 1
        assert torch.allclose(gradient("schedule", fraction), strength * full, atol=1e-7)


@pytest.mark.parametrize(
    ("options", "source_images", "source_texts"),
    [
        ({"features": "live"}, True, True),
        ({"variant": "october_2024"}, False, True),
        ({"features": "live", "order": "random", "weighted": "none"}, False, False),
    ],
)
def test_a_step_chooses_by_what_it_compares_and_encodes_nothing_else(
    options: dict[str, Any], source_images: bool, source_texts: bool
) -> None:
    asked = set()

    class Asked(SimpleNamespace):
        def __getattribute__(self, name: str) -> Any:
            asked.add(name)
            return super().__getattribute__(name)

    m = method(**options)
    m.select(Asked(**vars(batch(9, 0))), batch(5, 10), Progress(0, 100, 0, 0))
    assert ("image_features" in asked, "text_features" in asked) == (source_images, source_texts)
    assert not [name for name in asked if name.startswith("reference")]
    assert "reference" not in UrbanCrossOptions(**options).needs()


def test_dann_is_urbancross_without_its_own_parts() -> None:
    """With one state in its two discriminators DANN has the loss of the one that UrbanCross has for both."""
    from urbancross_adaptations.adversarial import Dann
    from urbancross_adaptations.adversarial_options import DannOptions

    ours = method(order="none", weighted="none", triplet=0, pairs=1)
    dann = Dann(DannOptions())
    dann.prepare(NO_MODEL, context())
    for discriminator in dann.discriminators.values():
        discriminator.load_state_dict(ours.discriminator.state_dict())
    totals, gradients = [], []
    for m in (ours, dann):
        source, target = batch(9, 0), batch(5, 10)
        assert m.select(source, target, Progress(40, 100, 0, 1)) is None
        total = torch.stack(list(m.loss(source, target, Progress(40, 100, 0, 1)).values())).sum()
        total.backward()
        totals.append(total.item())
        gradients.append(torch.cat([getattr(side, n).grad for side in (source, target) for n in FEATURES[:2]]))
    assert totals[0] == pytest.approx(totals[1], rel=1e-6)
    assert torch.allclose(*gradients, atol=1e-7)


def test_live_features_keep_their_gradients_for_the_loss() -> None:
    source, target = batch(6, 0), batch(4, 10)
    m = method(variant="october_2024", order="none")
    m.select(source, target, Progress(0, 10, 0, 0))
    assert not m._found.images.requires_grad
    sum(m.loss(source, target, Progress(0, 10, 0, 0)).values()).backward()
    assert source.image_features.grad.abs().sum() > 0
    assert target.image_features.grad.abs().sum() > 0


def test_the_curve_shows_accuracy_and_how_even_the_weights_are() -> None:
    logged: dict[str, torch.Tensor] = {}
    m = UrbanCross(UrbanCrossOptions(order="none", weighted="triplet"))
    m.prepare(NO_MODEL, context(log=logged.__setitem__))
    with torch.no_grad():
        m.discriminator[-2].weight.zero_()
        m.discriminator[-2].bias.fill_(1.0)  # everything is source
    stepped(m, batch(6, 0), batch(4, 10), Progress(0, 10, 0, 0))
    assert logged["discriminator_accuracy"].item() == pytest.approx(0.5)
    assert logged["effective_source_rows"].item() == pytest.approx(6)


def test_parameter_groups_have_the_rates_that_are_asked_for() -> None:
    model: Any = nn.Linear(2, 2)
    rates = [method(**o).parameter_groups(model, 3e-7)[1]["lr"] for o in ({}, {"variant": "october_2024"})]
    assert rates == [1e-3, 3e-7]


def test_a_variant_is_the_options_it_stands_for() -> None:
    registry = Registry.discover()

    def identity(reference: str) -> object:
        return registry.resolve("adaptation", reference).identity()

    assert identity("urbancross") == identity("urbancross[variant=paper]") == identity("urbancross[order=nearest]")
    assert len({str(identity(f"urbancross[variant={name}]")) for name in VARIANTS}) == 3
    for name, values in VARIANTS.items():
        spelled = ",".join(f"{option}={value}" for option, value in values.items())
        assert identity(f"urbancross[variant={name}]") == identity(f"urbancross[{spelled}]")
    assert identity("urbancross[variant=april_2024,pairs=0.5]") != identity("urbancross[variant=april_2024]")
    with pytest.raises(UsageError, match="variant"):
        registry.resolve("adaptation", "urbancross[variant=may_2024]")
    with pytest.raises(UsageError, match="nothing would be trained"):
        registry.resolve("adaptation", "urbancross[adversarial=0,triplet=0]")
