"""The training loop: what it yields, how it diverges, and that a cut training goes on to the same bits."""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from urbancross_bench.data.packed import PackedImages, Rows
from urbancross_bench.data.views import PairView, StreamView
from urbancross_bench.errors import FirewallError, PluginError, RunError, UsageError
from urbancross_bench.interfaces import Adaptation, Batch, Context, DualEncoder, Options, Progress
from urbancross_bench.modelling.curve import Curve, DivergedError
from urbancross_bench.modelling.feeds import Feed
from urbancross_bench.modelling.loop import train
from urbancross_bench.modelling.losses import Discriminator
from urbancross_bench.modelling.optimiser import MovingAverage, make_optimiser, rate, restore_optimiser
from urbancross_bench.modelling.pair_loss import PairLoss, Supervised
from urbancross_bench.modelling.saving import Saves
from urbancross_bench.registry import Registry
from urbancross_bench.specs import Budget

CPU = torch.device("cpu")
IMAGES = np.random.default_rng(0).integers(0, 255, size=(12, 32, 32, 3)).astype(np.uint8)


def encoder(architecture: str = "urbancross-tiny") -> DualEncoder:
    torch.manual_seed(0)
    model: DualEncoder = (
        Registry.discover().resolve("encoder", f"openclip[architecture={architecture}]").build().load()
    )
    return model


class Training:
    """A training of twelve images, as one would start it anew each time."""

    def __init__(
        self, make: Callable[[DualEncoder], Adaptation], architecture: str = "urbancross-tiny", **recipe: object
    ) -> None:
        self.model = encoder(architecture)
        times = 2 if architecture == "urbancross-s" else 1
        images = IMAGES.repeat(times, axis=1).repeat(times, axis=2)
        self.method = make(self.model)
        self.curve = Curve()
        self.reported: list[float] = []
        self.recipe = Budget(**({"steps": 8, "learning_rate": 1e-2, "batch_size": 4, "checkpoints": 3} | recipe))  # type: ignore[arg-type]
        captions = tuple(f"text {i}" for i in range(24))
        pairs = PairView(
            PackedImages(Rows([images])), captions, np.repeat(np.arange(12), 2), np.zeros(12, np.int64)
        )
        streams = StreamView(PackedImages(Rows([255 - images])), captions[::-1])
        options: Any = {"augmentation": ("flip",), "device": CPU, "hidden": ""}
        self.source = Feed(self.model, pairs, batch_size=4, seed=0, **options)
        self.target = Feed(self.model, streams, batch_size=3, seed=1, **options)

    def steps(self, saves: Saves | None = None, precision: str = "float32") -> Iterator[int]:
        return train(
            self.model, self.method, self.source, self.target, self.recipe, loss_name="info_nce",
            precision=precision, device=CPU, candidates=self.recipe.checkpoints, curve=self.curve,
            report=self.reported.append, on_pass=lambda _: None, saves=saves,
        )  # fmt: skip

    def bits(self) -> dict[str, bytes]:
        return {name: value.numpy().tobytes() for name, value in self.model.state_dict().items()}


def supervised(model: DualEncoder) -> Adaptation:
    return Supervised(PairLoss("info_nce", model), 0.0)


class Busy(Adaptation):
    """Everything a method may keep: a module in a group, one with an optimiser of its own, a teacher, numbers."""

    def prepare(self, model: DualEncoder, context: Context) -> None:
        self.context, self.model = context, model
        self.grouped, self.own = Discriminator(context.width), nn.Linear(context.width, 1)
        self.optimiser = torch.optim.Adam(self.own.parameters(), lr=1e-2)
        self.teacher = copy.deepcopy(model)
        self.centre, self.count = torch.zeros(context.width), 0
        self.history: list[float] = []
        self.parts = {"several": [nn.Linear(context.width, 1)], "pair": (torch.zeros(2), 0)}
        self.watched = list(model.parameters())[:2]

    def parameter_groups(self, model: DualEncoder, learning_rate: float) -> list[dict[str, Any]]:
        return [*super().parameter_groups(model, learning_rate), {"params": self.grouped.parameters(), "lr": 1e-3}]

    def select(self, source: Batch, target: Batch, progress: Progress) -> Tensor | None:
        return torch.randperm(4)[:3]  # draws from the global generator, as dropout does

    def loss(self, source: Batch, target: Batch, progress: Progress) -> dict[str, Tensor]:
        taught = target.encoded_by(self.teacher).image_features.detach()
        self.context.log("seen", target.image_features.detach().mean())
        return {
            "pairs": self.context.pair_loss(source),
            "domains": self.grouped(target.image_features).mean() + self.own(source.image_features).mean(),
            "teacher": (target.image_features - taught - 0.01 * self.centre).square().sum() * (1 + self.count),
        }

    def after_step(self, model: DualEncoder, progress: Progress) -> None:
        self.optimiser.step()
        self.optimiser.zero_grad()
        with torch.no_grad():
            for mine, other in zip(self.teacher.parameters(), model.parameters(), strict=True):
                mine.lerp_(other, 0.1)
            self.centre = self.centre + next(iter(self.own.parameters()))[0]
        self.count += 1
        self.history.append(float(self.centre[0]))
        with torch.no_grad():
            self.parts["several"][0].bias += 1
            self.parts["pair"] = (self.parts["pair"][0] + self.centre[:2], self.count)
        assert self.watched[0] is next(iter(model.parameters()))


def busy(model: DualEncoder) -> Adaptation:
    return Busy(Options())


def test_training_learns_yields_candidates_and_logs_passes() -> None:
    training = Training(supervised, steps=60, max_logit_scale=15.0)
    assert list(training.steps()) == [20, 40, 60]
    points = training.curve.points
    assert training.reported[-1] == 1.0
    assert [point["step"] for point in points] == [3.0 * i for i in range(1, 21)]
    assert points[-1]["pairs"] < 0.8 * points[0]["pairs"]
    assert all(point["loss"] == point["pairs"] for point in points)
    assert all(point["gradient_norm"] > 0 for point in points)
    assert training.model.logit_scale.exp() <= 15.01


@pytest.mark.parametrize(
    ("cut", "recipe"),
    [(1, {}), (3, {"ema": 0.5}), (5, {"schedule": "step", "decay_every": 2.0}), (7, {}), (7, {"ema": 0.5})],
)
def test_a_cut_training_goes_on_to_the_same_bits(cut: int, recipe: dict[str, object], tmp_path: Path) -> None:
    whole = Training(busy, **recipe)
    candidates = {}
    for step in whole.steps():
        candidates[step] = whole.bits()
    first = Training(busy, **recipe)
    # The process is gone in the middle of the step after `cut`: what it had not saved is lost.
    first.reported = Stopping(cut + 1)
    kept = {}
    with contextlib.suppress(KeyboardInterrupt):
        for step in first.steps(Saves(tmp_path / "saved", 0)):
            kept[step] = first.bits()
    assert len(first.reported) == cut
    torch.manual_seed(99)
    second = Training(busy, **recipe)
    torch.manual_seed(98)
    for step in second.steps(Saves(tmp_path / "saved", 0)):
        kept[step] = second.bits()
    assert len(second.reported) == 8 - cut
    assert kept == candidates
    assert second.curve.points == whole.curve.points
    ours, theirs = (training.method.parts for training in (second, whole))  # type: ignore[attr-defined]
    assert (ours["several"][0].bias == theirs["several"][0].bias).all()
    assert (ours["pair"][0] == theirs["pair"][0]).all()
    assert isinstance(ours["pair"], tuple)
    assert (second.method.history, second.method.count) == (whole.method.history, 8)  # type: ignore[attr-defined]


class Stopping(list[float]):
    """Takes the reports of eight steps until one of them is too many."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self._at = at

    def append(self, fraction: float) -> None:
        if fraction >= self._at / 8:
            raise KeyboardInterrupt
        super().append(fraction)


def test_an_encoder_that_is_frozen_whole_says_what_to_do() -> None:
    with pytest.raises(RunError, match=r"nothing to train: .* freeze fewer"):
        make_optimiser([{"params": []}], Budget(steps=2, batch_size=1))


def test_restored_moments_lie_in_memory_as_their_weights_do() -> None:
    """Files hold every tensor in one order; AdamW in one kernel, as on CUDA, takes none but the weights' own."""
    convolution = nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)
    recipe = Budget(steps=2, batch_size=1)
    first, second = (make_optimiser([{"params": list(convolution.parameters())}], recipe) for _ in range(2))
    convolution(torch.ones(1, 3, 4, 4)).square().sum().backward()
    first.step()
    saved = copy.deepcopy(first.state_dict())
    for moments in saved["state"].values():
        moments |= {name: value.contiguous() for name, value in moments.items()}
    restore_optimiser(second, saved)
    assert not convolution.weight.is_contiguous()
    for weight in convolution.parameters():
        for name, value in first.state[weight].items():
            assert torch.equal(second.state[weight][name], value)
            if name != "step":
                assert second.state[weight][name].stride() == weight.stride()


def test_what_was_half_written_is_not_believed(tmp_path: Path) -> None:
    training = Training(supervised)
    steps = training.steps(Saves(tmp_path, 0))
    next(steps)
    [state] = tmp_path.glob("state-*")
    (tmp_path / ".state-000000009").mkdir()
    (tmp_path / ".candidate").write_bytes(b"half")
    saves = Saves(tmp_path, 0)
    assert [path.name for path in tmp_path.iterdir()] == [state.name]
    read = saves.read()
    assert read is not None
    assert read["step"] == int(state.name.partition("-")[2])


def test_a_training_is_saved_no_more_often_than_asked(tmp_path: Path) -> None:
    training = Training(supervised)
    list(training.steps(Saves(tmp_path, 3600)))
    assert not list(tmp_path.iterdir())


class Losing(Adaptation):
    """A method whose loss turns NaN."""

    def loss(self, source: Batch, target: Batch, progress: Progress) -> dict[str, Tensor]:
        total = source.image_features.sum()
        return {"fine": total, "bad": total * (math.nan if progress.step == 2 else 0.0)}


class Exploding(Adaptation):
    """A method whose loss grows without end."""

    def loss(self, source: Batch, target: Batch, progress: Progress) -> dict[str, Tensor]:
        return {"growing": source.image_features.sum() * 0 + 100.0**progress.step}


@pytest.mark.parametrize(
    ("method", "message", "seen"),
    [
        (Losing, "diverged: 'bad' is nan at step 2", {"fine"}),
        (Exploding, r"diverged: the loss is 1e\+06 at step 3, 1 at first", {"growing"}),
    ],
)
def test_a_training_that_diverges_fails_with_its_curve(
    method: type[Adaptation], message: str, seen: set[str]
) -> None:
    training = Training(lambda _: method(Options()))
    with pytest.raises(RunError, match=message):
        list(training.steps())
    assert seen <= training.curve.so_far()[-1].keys()


class WeighedIn(Supervised):
    """A loss with a second part that rises from next to nothing, as consistency losses do."""

    def loss(self, source: Batch, target: Batch, progress: Progress) -> dict[str, Tensor]:
        return super().loss(source, target, progress) | {
            "weighed": torch.tensor(500 * math.exp(5 * progress.fraction - 5))
        }


def test_a_loss_that_is_weighed_in_has_not_diverged() -> None:
    training = Training(lambda model: WeighedIn(PairLoss("info_nce", model), 0.0))
    assert list(training.steps())[-1] == 8


def test_the_moving_average_is_its_definition() -> None:
    model = encoder()
    average = MovingAverage(model, 0.75)
    by_hand = {name: value.clone() for name, value in model.state_dict().items()}
    for step, kept in enumerate((1 / 2, 2 / 3, 3 / 4, 3 / 4)):  # the start must not be most of a short average
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)
        average.update(step)
        by_hand = {name: kept * by_hand[name] + (1 - kept) * value for name, value in model.state_dict().items()}
    own = {name: value.clone() for name, value in model.state_dict().items()}
    with average.applied():
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value.float(), by_hand[name].float(), rtol=1e-5, atol=1e-5)
    assert all((value == own[name]).all() for name, value in model.state_dict().items())


def test_rates_follow_their_schedule() -> None:
    step = Budget(steps=10, warmup=0.2, schedule="step", decay=0.5, decay_every=3, checkpoints=1)
    assert [rate(i, step) for i in range(10)] == pytest.approx([0.5, 1, 1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.125])
    cosine = Budget(steps=10, warmup=0.2)
    assert [rate(i, cosine) for i in range(2, 10)] == pytest.approx(
        [0.5 * (1 + math.cos(math.pi * i / 8)) for i in range(8)]
    )


def test_half_precision_trains_and_skips_what_overflows() -> None:
    training = Training(supervised, steps=12)
    list(training.steps(precision="float16"))
    assert all(math.isfinite(point["loss"]) for point in training.curve.points)
    assert training.curve.points[-1]["loss"] < training.curve.points[0]["loss"]
    assert training.curve.points[-1]["skipped_share"] == 0.0


class Steep(Supervised):
    """A finite loss whose gradient is no number: that of a norm at zero."""

    def loss(self, source: Batch, target: Batch, progress: Progress) -> dict[str, Tensor]:
        moved = source.image_features - source.image_features.detach()
        return super().loss(source, target, progress) | {"moved": moved.square().sum().sqrt()}


def test_half_precision_that_can_take_no_step_has_diverged() -> None:
    training = Training(lambda model: Steep(PairLoss("info_nce", model), 0.0), steps=40)
    with pytest.raises(DivergedError, match="the gradient is nan at step 23"):
        list(training.steps(precision="float16"))
    assert training.curve.points[0]["skipped_share"] == 1.0


def test_frozen_statistics_stay_so_whatever_mode_a_method_asks_for() -> None:
    class Eager(Supervised):
        def select(self, source: Batch, target: Batch, progress: Progress) -> None:
            model.train()

    training = Training(
        lambda model: Eager(PairLoss("info_nce", model), 0.0), architecture="urbancross-s", frozen_statistics=True
    )
    model = cast(nn.Module, training.model)
    before = {name: value.clone() for name, value in model.state_dict().items() if "running" in name}
    assert before
    list(training.steps())
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())


def test_frozen_statistics_stay_as_they_are() -> None:
    for frozen in (True, False):
        training = Training(supervised, architecture="urbancross-s", steps=3, frozen_statistics=frozen)
        names = [name for name, _ in training.model.named_buffers() if "running" in name]
        before = {name: training.model.state_dict()[name].clone() for name in names}
        list(training.steps())
        assert names
        assert all((training.model.state_dict()[name] == before[name]).all() == frozen for name in names)


def test_a_batch_that_may_not_be_cut_is_refused_before_the_first_step() -> None:
    class Late(Supervised):
        """Does not ask for the whole batch as long as it can do without."""

        def select(self, source: Batch, target: Batch, progress: Progress) -> Tensor:
            return torch.arange(1 if progress.step < 6 else 4)

    training = Training(
        lambda model: Late(PairLoss("info_nce", model), 0.0), architecture="urbancross-s", micro_batch=2
    )
    with pytest.raises(UsageError, match="leave out micro_batch"):
        list(training.steps())
    assert not training.reported

    class Thawing(Supervised):
        """In two phases: the towers stand still in the first."""

        def parameter_groups(self, model: DualEncoder, learning_rate: float) -> list[dict[str, Any]]:
            groups = super().parameter_groups(model, learning_rate)
            for parameter in groups[0]["params"]:
                parameter.requires_grad_(parameter is model.logit_scale)
            return groups

        def select(self, source: Batch, target: Batch, progress: Progress) -> None:
            thawing.model.train(progress.step >= 6)
            for parameter in thawing.model.parameters():
                parameter.requires_grad_(progress.step >= 6 or parameter is thawing.model.logit_scale)

    thawing = Training(
        lambda model: Thawing(PairLoss("info_nce", model), 0.0), architecture="urbancross-s", micro_batch=2
    )
    with pytest.raises(UsageError, match="leave out micro_batch"):
        list(thawing.steps())
    assert not thawing.reported

    class Quiet(Supervised):
        def parameter_groups(self, model: DualEncoder, learning_rate: float) -> list[dict[str, Any]]:
            return [{"params": list(model.parameters())}]  # the frozen ones too

        def select(self, source: Batch, target: Batch, progress: Progress) -> None:
            model.eval()

    quiet = Training(
        lambda model: Quiet(PairLoss("info_nce", model), 0.0), architecture="urbancross-s", micro_batch=2
    )
    model = cast(nn.Module, quiet.model)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.requires_grad_(False)
    assert [*quiet.steps()][-1] == 8


def test_a_factor_that_is_not_trained_stays_above_the_bound_for_those_that_are() -> None:
    training = Training(supervised)
    with torch.no_grad():
        training.model.logit_scale.fill_(math.log(117.33)).requires_grad_(False)
    list(training.steps())
    assert training.model.logit_scale.exp().item() == pytest.approx(117.33)


def test_what_a_training_could_not_restore_or_scale_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="float16"):
        list(Training(busy).steps(precision="float16"))
    hidden = Training(supervised)
    hidden.method.kept = {"own": [torch.optim.SGD(nn.Linear(2, 1).parameters())]}  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="float16"):
        list(hidden.steps(precision="float16"))
    drawing = Training(supervised)
    drawing.method.random = np.random.default_rng(0)  # type: ignore[attr-defined]
    with pytest.raises(RunError, match="a method keeps a generator as random"):
        list(drawing.steps(Saves(tmp_path, 0)))


def test_epochs_become_steps_of_the_source() -> None:
    recipe = Budget(epochs=2.5, schedule="step", decay_every=1.0).in_steps(6)
    assert (recipe.steps, recipe.epochs, recipe.decay_every) == (15, None, 6.0)
    with pytest.raises(ValueError, match="either steps or epochs"):
        Budget(steps=1, epochs=1.0)
    with pytest.raises(ValueError, match="either steps or epochs"):
        Budget()
    with pytest.raises(ValueError, match="go together"):
        Budget(steps=1, schedule="step")


def test_ends_of_passes_wait_with_their_steps_until_somebody_looks() -> None:
    curve = Curve()
    for step, loss in enumerate([1.0, 3.0, 5.0, 7.0, 9.0]):
        curve.add(step, {"pairs": torch.tensor(loss)}, {})
        if step in (1, 3):
            curve.close_pass(step + 1, learning_rate=0.1)
    assert curve.points == []
    ended = [*curve.settle()]
    assert ended == curve.points
    assert [(point["step"], point["pairs"], point["loss"]) for point in ended] == [(2, 2, 2), (4, 6, 6)]
    assert curve.so_far()[2:] == [{"pairs": 9, "loss": 9}]
    assert [*curve.settle()] == []
    # What ended before a training diverged is told all the same.
    curve.close_pass(5)
    curve.add(5, {"pairs": torch.tensor(math.nan)}, {})
    settling = curve.settle()
    assert next(settling)["step"] == 5
    with pytest.raises(DivergedError):
        next(settling)


class Doing(Adaptation):
    """The recipe's loss, and something that is done before it."""

    def __init__(self, do: Callable[[Any, Any], object], kept: Tensor | None = None) -> None:
        super().__init__(Options())
        self._do, self._kept = do, kept

    def prepare(self, model: DualEncoder, context: Context) -> None:
        self.context = context

    def select(self, source: Batch, target: Batch, progress: Progress) -> Tensor | None:
        return self._kept

    def loss(self, source: Batch, target: Batch, progress: Progress) -> dict[str, Tensor]:
        self._do(self.context, source)
        return {"pairs": self.context.pair_loss(source)}


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("pairs", 99.0, r"context\.log\('pairs', …\): pairs is the name of a loss"),
        *((name, 1.0, f"{name} is in every learning curve; log it by another name") for name in (
            "step", "loss", "gradient_norm", "learning_rate", "kept_share", "skipped_share"
        )),
        ("x", "abc", r"context\.log\('x', …\) takes a number, or a tensor of one; it is given a str"),
        ("x", torch.ones(2, 3), r"context\.log\('x', …\) takes .* a tensor of shape \(2, 3\)"),
        ("x", math.nan, "diverged: the logged value 'x' is nan at step 0"),
    ],
)  # fmt: skip
def test_what_is_logged_is_a_number_with_a_name_of_its_own(name: str, value: Any, says: str) -> None:
    training = Training(lambda _: Doing(lambda context, _: context.log(name, value), torch.tensor([0, 1])))
    with pytest.raises((PluginError, DivergedError), match=says):
        list(training.steps())


def test_what_is_logged_stands_beside_what_is_there_anyway() -> None:
    training = Training(lambda _: Doing(lambda context, _: context.log("x", np.float32(2)), torch.tensor([0, 1])))
    list(training.steps())
    assert [*training.curve.points[-1]] == [
        "step", "pairs", "kept_share", "x", "gradient_norm", "loss", "learning_rate"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("do", "says"),
    [
        (
            lambda _, source: source.image_features.detach().mul_(0.5),
            "loss changes source.image_features in place",
        ),
        (lambda _, source: source.text_features.detach().zero_(), "loss changes source.text_features in place"),
        (lambda _, source: source.reference_image_features.zero_(), "source.reference_image_features in place"),
        (lambda _, source: source.image_rows.add_(1), "source.image_rows in place"),
        (
            lambda context, _: context.source.reference_image_features.zero_(),
            "Doing.loss changes context.source.reference_image_features in place",
        ),
        (lambda _, source: source.image_features.detach().clone().mul_(0.5), ""),
    ],
)
def test_what_a_batch_gives_is_not_changed_in_place(do: Callable[[Any, Any], object], says: str) -> None:
    training = Training(lambda _: Doing(do))
    pairs: Any = training.source._view
    training.source = Feed(
        training.model, pairs, batch_size=4, seed=0, augmentation=(), device=CPU, hidden="", references=True
    )
    if not says:
        list(training.steps())
        return
    with pytest.raises(PluginError, match=says):
        list(training.steps())


def test_rows_that_are_kept_are_rows_of_the_batch() -> None:
    for row in (-1, 4):
        training = Training(lambda _, row=row: Doing(lambda *_: None, torch.tensor([0, row])))  # type: ignore[misc]
        with pytest.raises(PluginError, match=f"Doing.select gives row {row} of a batch that has rows 0 to 3"):
            list(training.steps())
    assert list(Training(lambda _: Doing(lambda *_: None, torch.tensor([0, 0, 3]))).steps())


@pytest.mark.parametrize("ask", ["reference_image_features", "reference_text_features"])
def test_a_need_that_is_missing_is_named(ask: str) -> None:
    says = rf"{ask.replace('_', ' ')} are not shown here: register the method with needs=\{{'reference'\}}"
    for do in (lambda _, source: getattr(source, ask), lambda context, _: getattr(context.source, ask)):
        with pytest.raises(FirewallError, match=says):
            list(Training(lambda _, do=do: Doing(do)).steps())  # type: ignore[misc]
