"""Guessed pairs against linear programming, plain loops and pairs that were hidden; teachers by hand."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dual_encoder import Drawn, Small, Training, context, copied, moved, vectors
from encoder_files import load
from scipy.optimize import linear_sum_assignment, linprog

from urbancross_adaptations.mean_teacher import consistency
from urbancross_adaptations.pseudo_pairs import coupled_cross_entropy
from urbancross_bench.errors import RunError
from urbancross_bench.interfaces import Progress
from urbancross_bench.modelling.losses import info_nce
from urbancross_bench.modelling.method_state import MethodState
from urbancross_bench.modelling.transport import log_plan, mutual_nearest, potentials
from urbancross_bench.registry import Registry
from urbancross_bench.testing.fixtures.clip import write_tiny_clip

REGISTRY = Registry.discover()


def method(reference: str) -> Any:
    return REGISTRY.resolve("adaptation", reference).build()


def unit(rows: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(rows, 8, generator=generator, dtype=dtype), dim=1)


def coupled(images: torch.Tensor, texts: torch.Tensor, epsilon: float, iterations: int = 500) -> np.ndarray:
    return log_plan(images, texts, *potentials(images, texts, epsilon, iterations), epsilon).exp().numpy()


# Transport.


@pytest.mark.parametrize(("n", "m"), [(6, 6), (5, 9), (12, 4), (1, 3)])
def test_the_plan_is_that_of_sinkhorns_scaling(n: int, m: int) -> None:
    images, texts, epsilon = unit(n, n), unit(m, 50 + m), 0.5
    kernel = np.exp(-(1 - images.numpy() @ texts.numpy().T) / epsilon)
    u, v = np.ones(n), np.ones(m)
    for _ in range(500):
        u = 1 / n / (kernel @ v)
        v = 1 / m / (kernel.T @ u)
    found = coupled(images, texts, epsilon)
    np.testing.assert_allclose(found, u[:, None] * kernel * v[None, :], rtol=1e-9)
    np.testing.assert_allclose(found.sum(axis=1), 1 / n, rtol=1e-9)
    np.testing.assert_allclose(found.sum(axis=0), 1 / m, rtol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_without_entropy_the_plan_is_the_best_assignment(seed: int) -> None:
    images, texts = unit(12, seed), unit(12, 100 + seed)
    cost = 1 - images.numpy() @ texts.numpy().T
    rows, columns = linear_sum_assignment(cost)
    found = coupled(images, texts, 3e-3, 3000)
    assert found.argmax(axis=1).tolist() == columns.tolist()
    assert (found * cost).sum() == pytest.approx(cost[rows, columns].mean(), abs=2e-3)


def test_with_little_entropy_the_cost_is_nearly_that_of_linear_programming() -> None:
    images, texts, epsilon = unit(5, 0), unit(8, 1), 0.01
    cost = 1 - images.numpy() @ texts.numpy().T
    sums = np.vstack([np.kron(np.eye(5), np.ones(8)), np.kron(np.ones(5), np.eye(8))])
    least = linprog(cost.ravel(), A_eq=sums, b_eq=[1 / 5] * 5 + [1 / 8] * 8).fun
    found = float((coupled(images, texts, epsilon, 2000) * cost).sum())
    assert least - 1e-6 <= found <= least + epsilon * math.log(5 * 8)


def test_with_much_entropy_all_is_shared_by_all() -> None:
    np.testing.assert_allclose(coupled(unit(4, 0), unit(6, 1), 1e6), 1 / 24, rtol=1e-5)


def test_costs_in_parts_give_the_same_and_a_part_of_a_plan_is_of_the_plan() -> None:
    images, texts = unit(11, 0), unit(7, 1)
    f, g = potentials(images, texts, 0.1, 30)
    for rows in (1, 4, 10, 11):
        for whole, part in zip((f, g), potentials(images, texts, 0.1, 30, rows=rows), strict=True):
            torch.testing.assert_close(part, whole, rtol=1e-12, atol=1e-12)
    some, others = torch.tensor([3, 0, 9]), torch.tensor([6, 2])
    found = log_plan(images[some], texts[others], f[some], g[others], 0.1)
    torch.testing.assert_close(found, log_plan(images, texts, f, g, 0.1)[some][:, others])


def test_a_small_epsilon_does_not_underflow_in_single_precision() -> None:
    images, texts = unit(30, 0, torch.float32), unit(40, 1, torch.float32)
    found = coupled(images, texts, 3e-3, 1000)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.sum(axis=0), 1 / 40, rtol=1e-2)
    assert found.sum() == pytest.approx(1, rel=1e-3)


def test_autocast_does_not_coarsen_the_plan() -> None:
    images, texts = unit(9, 0, torch.float32), unit(9, 1, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = coupled(images, texts, 0.02, 50)
    assert (coarse == coupled(images, texts, 0.02, 50)).all()


def test_nothing_to_transport_is_refused() -> None:
    with pytest.raises(ValueError, match="between 0 images and 3 texts"):
        potentials(unit(0, 0), unit(3, 1), 0.1, 5)


# Mutual nearest neighbours.


@pytest.mark.parametrize("seed", range(8))
def test_mutual_nearest_neighbours_are_those_of_a_loop(seed: int) -> None:
    images, texts = unit(7 + seed, seed), unit(15 - seed, 60 + seed)
    s = (images @ texts.T).tolist()
    expected = [
        (i, j)
        for i in range(len(images))
        for j in range(len(texts))
        if s[i][j] == max(s[i]) and s[i][j] == max(row[j] for row in s)
    ]
    rows, columns = mutual_nearest(images, texts)
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == expected
    assert expected


def test_hidden_pairs_are_found_again() -> None:
    images, order = unit(20, 0), torch.randperm(20, generator=torch.Generator().manual_seed(2))
    texts = F.normalize(images + 0.05 * unit(20, 1), dim=1)[order]
    belongs = order.argsort().tolist()
    rows, columns = mutual_nearest(images, texts)
    assert rows.tolist() == [*range(20)]
    assert columns.tolist() == belongs
    assert coupled(images, texts, 0.05).argmax(axis=1).tolist() == belongs


# The losses.


def test_the_coupled_loss_equals_a_loop_and_info_nce_at_its_end() -> None:
    s = (6 * unit(4, 0) @ unit(5, 1).T).tolist()
    p = torch.rand(4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    total = 0.0
    for i in range(4):
        for j in range(5):
            to_text = math.exp(s[i][j]) / sum(map(math.exp, s[i]))
            to_image = math.exp(s[i][j]) / sum(math.exp(row[j]) for row in s)
            total -= float(p[i, j]) * (math.log(to_text) + math.log(to_image)) / 2
    loss = coupled_cross_entropy(torch.tensor(s, dtype=torch.float64), p.log())
    assert loss.item() == pytest.approx(total / float(p.sum()))
    x, y = unit(4, 0), unit(4, 1)
    alike = coupled_cross_entropy(3 * x @ y.T, (0.2 * torch.eye(4, dtype=torch.float64)).log())
    assert alike.item() == pytest.approx(info_nce(x, y, torch.tensor(3.0)).item())


def target_of(model: Small, rows: int = 6) -> Any:
    """A batch whose reference features are another model's."""
    images, texts = vectors(rows, 3)
    batch, start = Drawn(model, images, texts), Drawn(Small(seed=9).eval(), images, texts)
    batch.reference_image_features = start.image_features.detach()
    batch.reference_text_features = start.text_features.detach()
    return batch


def test_transport_in_a_batch_is_by_present_features_and_its_plan_has_no_gradient() -> None:
    model = Small().eval()
    source, target = Drawn(model, *vectors(5, 1)), target_of(model)
    transport = method("optimal_transport[epsilon=0.1,weight=0.5]")
    told, logged = context(model)
    transport.prepare(model, told)
    losses = transport.loss(source, target, Progress(0, 10, 0, 0))
    coupling = torch.from_numpy(coupled(target.image_features.detach(), target.text_features.detach(), 0.1, 50))
    logits = model.logit_scale.exp() * target.image_features @ target.text_features.T
    expected = 0.5 * coupled_cross_entropy(logits, coupling.log())
    assert losses["transport"].item() == pytest.approx(expected.item())
    assert losses["source_pairs"].item() == pytest.approx(told.pair_loss(source).item())
    shares = coupling / coupling.sum(dim=1, keepdim=True)
    assert float(logged["plan_confidence"]) == pytest.approx(shares.max(dim=1).values.mean().item())
    parameters = list(model.parameters())
    found = torch.autograd.grad(losses["transport"], parameters, retain_graph=True)
    for one, other in zip(found, torch.autograd.grad(expected, parameters), strict=True):
        torch.testing.assert_close(one, other)


def prepared_by_bank(model: Small, images: torch.Tensor, texts: torch.Tensor, options: str) -> tuple[Any, Any]:
    """The method with these features as the whole target, and what it logs."""
    pool = SimpleNamespace(reference_image_features=images, reference_text_features=texts)
    transport = method(f"optimal_transport[plan=bank,{options}]")
    told, logged = context(model, target=pool)
    transport.prepare(model, told)
    return transport, logged


def drawn_from(model: Small, images: torch.Tensor, texts: torch.Tensor, *rows: torch.Tensor) -> Any:
    """A batch of six of each, in these rows of the whole target."""
    target: Any = Drawn(model, *vectors(6, 3))
    target.image_rows, target.text_rows = rows
    target.reference_image_features = images[target.image_rows]
    target.reference_text_features = texts[target.text_rows]
    return target


def test_transport_of_the_bank_couples_a_batch_as_the_whole_target_is() -> None:
    model = Small().eval()
    images, texts = unit(30, 1, torch.float32), unit(50, 2, torch.float32)
    transport, _ = prepared_by_bank(model, images, texts, "epsilon=0.2,iterations=100")
    target = drawn_from(model, images, texts, torch.arange(6) + 20, torch.arange(6) * 7)
    losses = transport.loss(target, target, Progress(0, 10, 0, 0))
    whole = torch.from_numpy(coupled(images, texts, 0.2, 100))
    part = whole[target.image_rows][:, target.text_rows]
    logits = model.logit_scale.exp() * target.image_features @ target.text_features.T
    assert losses["transport"].item() == pytest.approx(coupled_cross_entropy(logits, part.log()).item(), rel=1e-4)
    # What is kept of the whole target is saved with a training, and given back to one that goes on.
    assert {*MethodState(transport, model).content()["kept"]} == {"f", "g", "model"}


def test_a_part_of_a_sharp_plan_without_one_pair_that_belongs_together_still_has_its_own_order() -> None:
    """All of it is far below the least number of single precision."""
    model = Small().eval()
    images, texts = unit(40, 1, torch.float32), unit(40, 2, torch.float32)
    transport, logged = prepared_by_bank(model, images, texts, "epsilon=0.002,iterations=200")
    exact = log_plan(images.double(), texts.double(), transport.f.double(), transport.g.double(), 0.002)
    target = drawn_from(model, images, texts, torch.arange(6), exact[:6].max(dim=0).values.argsort()[:6])
    part = exact[target.image_rows][:, target.text_rows]
    assert part.max() < -104
    loss = transport.loss(target, target, Progress(0, 10, 0, 0))["transport"]
    shares = part.softmax(dim=1).max(dim=1).values.mean().item()
    assert float(logged["plan_confidence"]) == pytest.approx(shares, abs=1e-3)
    assert any(gradient.abs().max() > 1e-6 for gradient in torch.autograd.grad(loss, [*model.parameters()][:2]))


@pytest.mark.parametrize("features", ["current", "reference"])
def test_mutual_pairs_are_trained_on_as_pairs(features: str) -> None:
    model = Small().eval()
    source, target = Drawn(model, *vectors(5, 1)), target_of(model, 9)
    told, logged = context(model)
    mutual = method(f"mutual_nearest[features={features},weight=2]")
    mutual.prepare(model, told)
    losses = mutual.loss(source, target, Progress(0, 10, 0, 0))
    seen = target if features == "current" else Drawn(Small(seed=9).eval(), target.images, target.texts)
    rows, columns = mutual_nearest(seen.image_features, seen.text_features)
    pairs = target.image_features[rows], target.text_features[columns]
    assert losses["mutual_nearest"].item() == pytest.approx(2 * info_nce(*pairs, model.logit_scale.exp()).item())
    assert logged["paired_share"] == len(rows) / 9
    assert 0 < logged["paired_share"] < 1
    losses["mutual_nearest"].backward()
    assert model.text_tower.weight.grad.abs().sum() > 0


# Mean teacher.


def test_the_teacher_follows_the_student_by_its_decay() -> None:
    training = Training(method("mean_teacher[decay=0.8]"), Small())
    expected = copied(training.model)
    for step in range(5):
        training.run([vectors(8, step)], first=step)
        for name, value in training.model.state_dict().items():
            follows = value.is_floating_point()
            kept = min(0.8, 1 - 1 / (step + 2))
            expected[name] = kept * expected[name] + (1 - kept) * value if follows else value.clone()
    teacher = training.method.teacher.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(teacher[name], value, rtol=1e-5, atol=1e-7)
    assert teacher["image_tower.1.num_batches_tracked"] == 5
    assert all(p.grad is None for p in training.method.teacher.parameters())


def test_one_target_item_teaches_nothing_and_is_refused() -> None:
    model = Small().eval()
    several, one = Drawn(model, *vectors(5, 1)), Drawn(model, *vectors(1, 2))
    teaching = method("mean_teacher")
    teaching.prepare(model, context(model)[0])
    with pytest.raises(RunError, match="a batch shows one item"):
        teaching.loss(several, one, Progress(0, 10, 0, 0))


def test_the_teacher_is_in_the_mode_of_its_student_layer_by_layer() -> None:
    """So that of equal weights nothing is left to learn, whether or not statistics are those of the batch."""
    for frozen in (False, True):
        model, (images, texts) = Small(), vectors(8, 0)
        teaching = method("mean_teacher[ramp=0]")
        teaching.prepare(model, context(model)[0])
        model.train()
        model.image_tower[1].train(not frozen)
        batch = Drawn(model, images, texts)
        teaching.loss(batch, batch, Progress(0, 10, 0, 0))["consistency"].backward()
        modes = [[module.training for module in one.modules()] for one in (model, teaching.teacher)]
        assert modes[0] == modes[1]
        moved = sum(float(p.grad.abs().sum()) for p in model.parameters() if p.grad is not None)
        assert moved < 1e-5


@pytest.mark.parametrize("largest", [1.0, 1e30, math.inf])
def test_no_batch_moves_the_statistics_of_the_teacher(largest: float) -> None:
    """1e30 has a variance that is infinite, of which features and losses know nothing."""
    model, (images, texts) = Small(), vectors(8, 0)
    teaching = method("mean_teacher")
    teaching.prepare(model, context(model)[0])
    before = copied(teaching.teacher)
    images[0] *= largest
    batch = Drawn(model.train(), images, texts)
    losses = teaching.loss(batch, batch, Progress(0, 10, 0, 0))
    assert losses["consistency"].isfinite() == math.isfinite(largest)
    assert moved(before, teaching.teacher) == set()
    assert not torch.equal(copied(model)["image_tower.1.running_mean"], before["image_tower.1.running_mean"])
    scored = Small(seed=1).eval()
    scored.load_state_dict(teaching.teacher.state_dict())
    inputs, _ = vectors(8, 1)
    assert torch.equal(teaching.teacher.eval().encode_image(inputs), scored.encode_image(inputs))


def test_the_teacher_of_a_real_encoder_is_at_first_its_student(tmp_path: Path) -> None:
    write_tiny_clip(tmp_path / "clip", "clip")
    for reference in ("openclip[architecture=urbancross-tiny]", f"transformers[model='{tmp_path / 'clip'}']"):
        model = load(reference).eval()
        teaching = method("mean_teacher")
        teaching.prepare(model, context(model)[0])
        batch = Drawn(model, torch.randn(3, 3, 32, 32), model.tokenize(["a red roof", "trees", "road"]))
        believed = batch.encoded_by(teaching.teacher)
        # Without gradients torch takes another way through its attention, and rounds otherwise.
        torch.testing.assert_close(believed.image_features, batch.image_features.detach())
        torch.testing.assert_close(believed.text_features, batch.text_features.detach())
        assert batch.text_features.requires_grad
        assert not believed.text_features.requires_grad


def test_disagreement_is_cross_entropy_both_ways_and_pulls_the_student_alone() -> None:
    student, teacher = unit(3, 0) @ unit(4, 1).T * 5, unit(3, 2) @ unit(4, 3).T * 5
    total = 0.0
    for s, t in ((student, teacher), (student.T, teacher.T)):
        for a, b in zip(s.tolist(), t.tolist(), strict=True):
            believed = [math.exp(v) / sum(map(math.exp, b)) for v in b]
            said = [math.exp(v) / sum(map(math.exp, a)) for v in a]
            total -= sum(p * math.log(q) for p, q in zip(believed, said, strict=True)) / len(s) / 2
    assert consistency(student, teacher).item() == pytest.approx(total)
    alike = student.clone().requires_grad_()
    consistency(alike, student).backward()
    assert alike.grad is not None
    assert alike.grad.abs().max() < 1e-12


@pytest.mark.parametrize(("step", "height"), [(0, math.exp(-5)), (5, math.exp(-1.25)), (10, 1.0), (60, 1.0)])
def test_the_loss_on_the_target_rises_to_its_weight(step: int, height: float) -> None:
    model = Small().eval()
    teaching = method("mean_teacher[weight=2,ramp=0.1]")
    teaching.prepare(model, context(model)[0])
    with torch.no_grad():
        teaching.teacher.text_tower.weight.mul_(-1)
    target = Drawn(model, *vectors(6, 3))
    loss = teaching.loss(target, target, Progress(step, 100, 0, 0))["consistency"]
    believed = target.encoded_by(teaching.teacher)
    logits = [5 * batch.image_features @ batch.text_features.T for batch in (target, believed)]
    assert loss.item() == pytest.approx(2 * height * consistency(*logits).item(), rel=1e-5)


def test_teacher_or_student_is_scored_and_the_teacher_outlives_an_interruption() -> None:
    training = Training(method("mean_teacher"), Small())
    training.run([vectors(8, seed) for seed in range(2)])
    [(name, state)] = training.method.candidates(training.model).items()
    assert name == "teacher"
    Small(seed=1).load_state_dict(state)
    assert not torch.equal(state["text_tower.weight"], training.model.text_tower.weight)
    student = method("mean_teacher[score=student]")
    student.prepare(training.model, training.context)
    assert torch.equal(
        student.candidates(training.model)["student"]["text_tower.bias"], training.model.text_tower.bias
    )
    again = Training(method("mean_teacher"), Small(seed=5))
    kept = MethodState(training.method, training.model).content()
    MethodState(again.method, again.model).restore(kept, torch.device("cpu"))
    for key, value in again.method.teacher.state_dict().items():
        assert torch.equal(value, state[key])
