"""What is saved of a training: damaged it is not believed, and the training still ends in the same bytes."""

from __future__ import annotations

import contextlib
import copy
import itertools
import logging
import random
import re
import shutil
import threading
from collections import Counter, defaultdict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, IntEnum
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

import urbancross_bench.testing as kit
from urbancross_bench.data.packed import PackedImages, Rows
from urbancross_bench.data.views import PairView
from urbancross_bench.errors import RunError
from urbancross_bench.interfaces import Adaptation, Batch, Context, DualEncoder, Options, Progress
from urbancross_bench.modelling.curve import Curve
from urbancross_bench.modelling.feeds import Feed
from urbancross_bench.modelling.loop import train
from urbancross_bench.modelling.method_state import MethodState
from urbancross_bench.modelling.saving import Saves
from urbancross_bench.specs import Budget

STEPS = 8
IMAGES = np.random.default_rng(0).integers(0, 255, size=(12, 4, 4, 3)).astype(np.uint8)
Kept = tuple[dict[str, bytes], Any]


class ToyModel(nn.Module):
    """Two layers, on the first pixels and on the number in a caption."""

    width, mean, std = 4, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image_tower, self.text_tower = nn.Linear(9, 4), nn.Linear(1, 4)
        self.logit_scale = nn.Parameter(torch.ones(()))
        self.logit_bias = None

    def tokenize(self, texts: list[str]) -> Tensor:
        return torch.tensor([[1 + int(text.split()[1])] for text in texts])

    def text_length(self, tokens: Tensor) -> int:
        return tokens.shape[1]

    def encode_image(self, images: Tensor) -> Tensor:
        features: Tensor = self.image_tower(images.flatten(1)[:, :9])
        return features

    def encode_text(self, tokens: Tensor) -> Tensor:
        features: Tensor = self.text_tower(tokens.float() / 24)
        return features


class Noisy(Adaptation):
    """A method that draws from torch's own generator, and counts."""

    count = 0

    def loss(self, source: Batch, target: Batch, progress: Progress) -> dict[str, Tensor]:
        noise = torch.rand(source.image_features.shape)
        apart = source.image_features * noise - source.text_features
        return {"pairs": apart.square().mean() * (1 + self.count)}

    def after_step(self, model: Any, progress: Progress) -> None:
        self.count += 1


def trained(folder: Path, cut: int = STEPS, method: Adaptation | None = None) -> tuple[int, Kept]:
    """How many steps a training took, cut in the middle of the one after `cut`, and what it left."""
    model: Any = ToyModel()
    captions = tuple(f"text {i}" for i in range(24))
    pairs = PairView(PackedImages(Rows([IMAGES])), captions, np.repeat(np.arange(12), 2), np.zeros(12, np.int64))
    options: Any = {"augmentation": ("flip",), "device": torch.device("cpu"), "hidden": ""}
    source, target = (Feed(model, view, batch_size=4, seed=0, **options) for view in (pairs, None))
    saves, curve, reported = Saves(folder, 0), Curve(), list[float]()

    def report(fraction: float) -> None:
        if fraction > cut / STEPS:
            raise KeyboardInterrupt
        reported.append(fraction)

    recipe = Budget(steps=STEPS, learning_rate=1e-2, batch_size=4, checkpoints=3, ema=0.5)
    steps = train(
        model, method or Noisy(Options()), source, target, recipe, loss_name="info_nce", precision="float32",
        device=torch.device("cpu"), candidates=3, curve=curve, report=report, on_pass=lambda _: None, saves=saves,
    )  # fmt: skip
    with contextlib.suppress(KeyboardInterrupt):
        for step in steps:
            with saves.writing(f"candidate-{step:09d}-00.safetensors") as file:
                save_file({name: value.clone() for name, value in model.state_dict().items()}, file)
    return len(reported), ({file.name: file.read_bytes() for file in folder.glob("candidate-*")}, curve.points)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """The candidates and the learning curve of the training, uninterrupted."""
    return trained(tmp_path_factory.mktemp("whole"))[1]


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    """What is saved of the training when it is cut after six of its steps, with candidates at three and five."""
    trained(tmp_path / "cut", 6)
    assert [path.name for path in (tmp_path / "cut").glob("state-*")] == ["state-000000006"]
    return tmp_path / "cut"


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "halved": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "emptied": lambda file: file.write_bytes(b""),
    "removed": lambda file: file.unlink(),
    "flipped": lambda file: flip(file, file.stat().st_size // 2, 0),
    "flipped at its end": lambda file: flip(file, -1, 6),
}


def flip(file: Path, place: int, bit: int) -> None:
    """Turn one bit."""
    content = bytearray(file.read_bytes())
    content[place] ^= 1 << bit
    file.write_bytes(content)


STATE = "state-000000006/state.safetensors"
CANDIDATES = [f"candidate-{step:09d}-00.safetensors" for step in (3, 5)]


def test_a_cut_training_ends_in_the_same_bytes(cut: Path, whole: Kept) -> None:
    assert trained(cut) == (2, whole)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [STATE, "state-000000006/state.json", "state-000000006/hashes.json", *CANDIDATES])
def test_what_is_damaged_is_not_believed(
    name: str, damage: str, cut: Path, whole: Kept, capsys: pytest.CaptureFixture[str]
) -> None:
    DAMAGES[damage](cut / name)
    assert Saves(cut, 0, writes=False).read() is None  # another rank comes to the same, and leaves it to the first
    assert (cut / "state-000000006").is_dir()
    assert capsys.readouterr().out == ""
    assert trained(cut) == (STEPS, whole)
    assert "state-000000006 is damaged" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "left"), [(STATE, 4), (CANDIDATES[1], 4), (CANDIDATES[0], 8), (None, 2)])
def test_the_state_before_is_gone_on_with(
    name: str | None, left: int, cut: Path, whole: Kept, tmp_path: Path
) -> None:
    """Two are there where a process is killed as soon as the second is; a candidate may belong to that alone."""
    both = tmp_path / "both"
    trained(both, 4)
    shutil.copytree(cut, both, dirs_exist_ok=True)
    if name:
        DAMAGES["flipped"](both / name)
    assert trained(both) == (left, whole)


def test_a_training_that_went_on_knows_the_candidates_before(cut: Path, whole: Kept) -> None:
    assert trained(cut, 7)[0] == 1
    assert [path.name for path in cut.glob("state-*")] == ["state-000000007"]
    DAMAGES["flipped"](cut / CANDIDATES[0])
    assert trained(cut) == (STEPS, whole)


def test_whoever_may_read_one_file_of_a_state_may_read_all(cut: Path) -> None:
    """Of its candidates, too."""
    files = [*(cut / "state-000000006").iterdir(), *cut.glob("candidate-*")]
    assert len(files) == 5
    assert len({file.stat().st_mode for file in files}) == 1


def test_what_cannot_be_read_now_is_left_as_it_is(cut: Path, whole: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(file: Path) -> str:
        raise PermissionError(13, "Permission denied", str(file))

    with monkeypatch.context() as patch:
        patch.setattr("urbancross_bench.modelling.saving.file_digest", refused)
        with pytest.raises(RunError, match=r"state-000000006 cannot be read.*Permission denied"):
            Saves(cut, 0).read()
    assert trained(cut) == (2, whole)


def test_any_byte_of_the_hashes_may_change(cut: Path) -> None:
    """Of what a state says of itself: it is not believed, or it says the same still."""
    [read, file] = [Saves(cut, 0, writes=False).read, cut / "state-000000006" / "hashes.json"]
    good = file.read_bytes()
    assert read() is not None
    believed = []
    for place in range(len(good)):
        flip(file, place, place % 8)
        if read() is not None:
            believed.append(chr(good[place]))
        file.write_bytes(good)
    assert set(believed) <= {" "}


def test_tensors_are_saved_as_they_are_whatever_they_share(tmp_path: Path) -> None:
    one = torch.arange(12.0).reshape(3, 4)
    given = {"whole": one, "turned": one.T, "row": one[1], "spread": one[0].expand(2, 4), "half": one.bfloat16()}
    Saves(tmp_path, 0).offer(1, lambda: given)
    one += 1  # what was saved is a copy
    read = Saves(tmp_path, 0).read()
    assert read is not None
    assert read.keys() == given.keys()
    for name, value in given.items():
        assert read[name].dtype == value.dtype
        assert torch.equal(read[name] + (name != "half"), value)
    assert len(load_file(tmp_path / "state-000000001" / "state.safetensors")) == 5


class Bank:
    """An object of a plugin's own."""

    def __init__(self) -> None:
        self.items: list[Tensor] = []


@dataclass(slots=True)
class Mean:
    """One with slots, and another each step."""

    value: Tensor | None = None


class Keeps(Adaptation):
    """A method that keeps the source features of some steps, in one way or another."""

    def __init__(
        self, make: Callable[[], Any], put: Callable[[Any, Tensor], Any], take: Callable[[Any], Any]
    ) -> None:
        super().__init__(Options())
        self._make, self._put, self._take = make, put, take

    def prepare(self, model: DualEncoder, context: Context) -> None:
        self.kept = self._make()
        self.watching = [self.kept]

    def loss(self, source: Batch, target: Batch, progress: Progress) -> dict[str, Tensor]:
        features = source.image_features
        before = torch.as_tensor(self._take(self.watching[0]), dtype=torch.float32).sum()
        after = self._put(self.kept, features.detach().mean(dim=0))
        if after is not None:
            self.kept = self.watching[0] = after
        return {"pairs": (features * (1 + before) - source.text_features).square().mean()}


def _append(kept: Any, features: Tensor) -> None:
    kept.append(features)


def _put_into(kept: Any, features: Tensor) -> None:
    kept *= 0.9
    kept += features.numpy()


class Head(nn.Module):
    """Whose weights learn from the third step on, when it draws no more."""

    def __init__(self) -> None:
        super().__init__()
        self.of, self.drop = nn.Linear(4, 1), nn.Dropout(0.5)
        self.register_buffer("strength", torch.tensor(0.01))
        self.of.requires_grad_(False)


def _grown(head: Head, features: Tensor) -> None:
    head.strength *= 1.5
    if head.strength > 0.02:
        head.eval()
        head.of.requires_grad_(True)


def _of_head(head: Head) -> Tensor:
    drawn: Tensor = head.drop(torch.ones(4)).sum() / 100
    return drawn + head.strength * (1 + head.of.weight.requires_grad)


SAVED: dict[str, tuple[Callable[[], Any], Callable[[Any, Tensor], Any], Callable[[Any], Any]]] = {
    "a deque": (lambda: deque(maxlen=3), _append, lambda kept: [float(one.sum()) for one in kept]),
    "a list": (list, _append, lambda kept: [float(one.sum()) for one in kept]),
    "an array": (lambda: np.zeros(4, np.float32), _put_into, lambda kept: kept),
    "another array": (lambda: np.zeros(0), lambda kept, new: np.append(kept, new.numpy()), lambda kept: kept),
    "a numpy number": (lambda: np.float32(0), lambda kept, new: np.float32(kept / 3 + new.numpy().sum()), float),
    "a dict": (
        dict,
        lambda kept, new: kept.update({len(kept): new}),
        lambda kept: [float(one.sum()) for one in kept.values()],
    ),
    "a module": (Head, _grown, _of_head),
    "tuples in a deque": (
        deque,
        lambda kept, new: kept.append((new, len(kept))),
        lambda kept: [float(pair[0].sum()) + {pair: 1}[pair] for pair in kept],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SAVED)
def test_what_a_method_keeps_is_there_after_a_kill(name: str, tmp_path: Path) -> None:
    """As it was, and in place: what else holds it holds it still."""
    whole, first, second = (Keeps(*SAVED[name]) for _ in range(3))
    _, left = trained(tmp_path / "whole", method=whole)
    trained(tmp_path / "cut", 5, method=first)
    assert trained(tmp_path / "cut", method=second) == (3, left)
    for kept in (second.kept, second.watching[0]):
        assert type(kept) is type(whole.kept)
        assert getattr(kept, "maxlen", None) == getattr(whole.kept, "maxlen", None)


class Changes(Adaptation):
    """A method whose attributes are made by `first`, and changed by `then` after each step."""

    def __init__(
        self, first: Callable[[Any], None], then: Callable[[Any, int], Any], take: Callable[[Any], Any]
    ) -> None:
        super().__init__(Options())
        self._make, self._change, self._take = first, then, take

    def prepare(self, model: DualEncoder, context: Context) -> None:
        self.model = model
        self._make(self)

    def loss(self, source: Batch, target: Batch, progress: Progress) -> dict[str, Tensor]:
        scale = 1 + torch.as_tensor(self._take(self), dtype=torch.float32)
        loss = (source.image_features * scale - source.text_features).square().mean()
        return {"pairs": loss}

    def after_step(self, model: DualEncoder, progress: Progress) -> None:
        self._change(self, progress.step)


def _one(method: Any) -> None:
    method.now = method.before = torch.zeros(4)


def _two(method: Any) -> None:
    method.now, method.before = torch.zeros(4), torch.ones(4)


def _moved_on(method: Any, step: int) -> None:
    method.before, method.now = method.now, method.now * 0.9 + 0.1 * (step + 1)


def _joined(method: Any, step: int) -> None:
    if step == 2:
        method.before = method.now
    method.now += 0.1 * (step + 1)


def _warmed(method: Any, step: int) -> None:
    if step == 2:
        del method.before


def _thawed(method: Any, step: int) -> None:
    if step == 2:
        method.now.requires_grad_(True)


def _scheduled(method: Any) -> None:
    method.weight = nn.Parameter(torch.zeros(4))
    method.optimiser = torch.optim.SGD([method.weight], lr=1.0)
    method.schedule = torch.optim.lr_scheduler.StepLR(method.optimiser, 1, gamma=0.5)


def _by_schedule(method: Any, step: int) -> None:
    method.weight.grad = torch.ones(4)
    method.optimiser.step()
    method.schedule.step()


def _held(method: Any) -> None:
    method.total = method.held = torch.zeros(4)
    method.add = lambda value, total=method.total: total.add_(value)


def _held_elsewhere(method: Any, step: int) -> None:
    """What was one is two, and that which others hold is under its second name."""
    method.add(0.1)
    method.total = method.total.clone() * 2


def _counted(method: Any) -> None:
    method.sums = [defaultdict(float, a=1.0), namedtuple("Pair", "a b")(1, 2)]


def _counted_anew(method: Any, step: int) -> None:
    method.sums = [
        defaultdict(float, a=method.sums[0]["a"] + method.sums[0]["b"]),
        method.sums[1]._replace(b=step),
    ]


def _teacher(method: Any) -> None:
    method.teacher = copy.deepcopy(method.model)


def _another_teacher(method: Any, step: int) -> None:
    if step % 2:
        method.teacher = copy.deepcopy(method.model)


def _shaped(method: Any) -> None:
    method.net = nn.LazyLinear(1)


def _shaped_by_a_batch(method: Any, step: int) -> None:
    with torch.no_grad():
        method.net(torch.ones(1, 3))
        method.net.weight += 0.1


def _of_shaped(method: Any) -> float:
    return sum(float(p.detach().sum()) for p in method.net.parameters() if not is_lazy(p))


def _teacher_and_its_weights(method: Any) -> None:
    method.weights = None  # which comes before the module that they are parts of
    method.teacher = copy.deepcopy(method.model)
    method.weights = [*method.teacher.parameters()]


def _refreshed(method: Any, step: int) -> None:
    if step == 1:
        _teacher_and_its_weights(method)
    with torch.no_grad():
        for own, new in zip(method.weights, method.model.parameters(), strict=True):
            own.lerp_(new, 0.5)


def _of_model(method: Any, step: int) -> None:
    method.late = [method.model, method.model.image_tower, *method.model.parameters()]
    with torch.no_grad():
        method.late[2].mul_(0.9)


def _from_none(make: Callable[[Any, int], Any]) -> tuple[Callable[[Any], None], Callable[[Any, int], None]]:
    return lambda method: setattr(method, "late", None), lambda method, step: setattr(
        method, "late", make(method, step)
    )


def _not_written_to(method: Any) -> None:
    method.spread = torch.ones(1).expand(4)
    with torch.inference_mode():
        method.inferred = torch.ones(4)


def _summed(method: Any, step: int) -> None:
    """Gradients of three steps for one of the optimiser, which alone holds the weights."""
    weight = method.optimiser.param_groups[0]["params"][0]
    (weight.sum() * (step + 1)).backward()
    if step % 3 == 2:
        method.optimiser.step()
        method.optimiser.zero_grad()


class Counting(nn.Module):
    """Of which a buffer is in no state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(1), persistent=False)


def _turned(method: Any, step: int) -> None:
    """Sums of its rows go by its layout in memory."""
    drawn = torch.rand(33, 47, generator=torch.Generator().manual_seed(step))
    method.late = (drawn if method.late is None else method.late * 0.7 + drawn).T.contiguous().T


def _fused(method: Any) -> None:
    method.head = nn.Conv2d(3, 4, 2).to(memory_format=torch.channels_last)
    method.optimiser = torch.optim.Adam(method.head.parameters(), lr=0.1, fused=True)


def _by_fused(method: Any, step: int) -> None:
    method.optimiser.zero_grad()
    method.head(torch.arange(48.0).reshape(1, 3, 4, 4) / 48).sin().sum().backward()
    method.optimiser.step()


def _teacher_and_its_tower(method: Any) -> None:
    teacher = copy.deepcopy(method.model)
    method.tower, method.teacher = teacher.image_tower, teacher


def _refreshed_tower(method: Any, step: int) -> None:
    if step == 1:
        _teacher_and_its_tower(method)
    with torch.no_grad():
        for own, new in zip(method.tower.parameters(), method.model.image_tower.parameters(), strict=True):
            own.lerp_(new, 0.5)


class Caching(nn.Module):
    """Which makes a buffer, and a layer without weights, when it is first asked."""

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "cached"):
            self.register_buffer("cached", torch.full((4,), 0.1), persistent=False)
            self.drop = nn.Dropout(0.5)
        return self.drop(x) * self.cached


def _sparse(method: Any) -> None:
    method.table = nn.Embedding(10, 4, sparse=True)
    method.optimiser = torch.optim.SparseAdam([*method.table.parameters()], lr=0.1)


def _by_sparse(method: Any, step: int) -> None:
    method.optimiser.zero_grad()
    method.table(torch.tensor([step, 1])).sin().sum().backward()
    method.optimiser.step()


def _summed_by_fused(method: Any, step: int) -> None:
    method.head(torch.arange(48.0).reshape(1, 3, 4, 4) / 48).sin().sum().backward()
    if step % 3 == 2:
        method.optimiser.step()
        method.optimiser.zero_grad()


def _another_weight(method: Any, step: int) -> None:
    if step == 1:
        method.weight = method.optimiser.param_groups[0]["params"][0] = nn.Parameter(torch.ones(4))
    method.weight.grad = torch.ones(4)
    method.optimiser.step()


def _with_gradient(method: Any) -> None:
    method.weight = nn.Parameter(torch.zeros(4))
    method.weight.grad = torch.ones(4)


CHANGES: dict[str, tuple[Callable[[Any], None], Callable[[Any, int], Any], Callable[[Any], Any]]] = {
    "a module and its weights": (
        _teacher_and_its_weights, _refreshed, lambda method: method.teacher.image_tower.weight.mean().detach()
    ),
    "a part before its module": (
        _teacher_and_its_tower, _refreshed_tower, lambda method: method.teacher.image_tower.weight.mean().detach()
    ),
    "what comes with a first batch": (
        lambda method: setattr(method, "net", Caching()),
        lambda method, step: None,
        lambda method: method.net(torch.ones(4)).mean(),
    ),
    "sparse gradients": (_sparse, _by_sparse, lambda method: method.table.weight.mean().detach()),
    "gradients that lie turned": (_fused, _summed_by_fused, lambda method: method.head.weight.detach().mean()),
    "a weight that an optimiser was given": (
        _scheduled, _another_weight, lambda method: method.weight.detach().mean()
    ),
    "a gradient that goes": (
        _with_gradient,
        lambda method, step: setattr(method.weight, "grad", None),
        lambda method: float(method.weight.grad is None),
    ),
    "the sign of nought": (
        lambda method: setattr(method, "zero", torch.zeros(4)),
        lambda method, step: method.zero.copy_(-torch.zeros(4)),
        lambda method: torch.ones(4).copysign(method.zero).mean() / 2,
    ),
    "what is of the model": (
        lambda method: setattr(method, "late", None),
        _of_model,
        lambda method: 0.0 if method.late is None else float(method.late[0] is method.model),
    ),
    "a state dict": (
        *_from_none(lambda method, step: copy.deepcopy(method.model.state_dict())),
        lambda method: 0.0 if method.late is None else type(method.late)(method.late)["image_tower.weight"].mean(),
    ),
    "a counter": (
        *_from_none(lambda method, step: Counter([step])),
        lambda method: 0.0 if method.late is None else method.late.total(),
    ),
    "a shape": (
        *_from_none(lambda method, step: torch.zeros(step + 1, 2).shape),
        lambda method: 0.0 if method.late is None else method.late.numel(),
    ),
    "the highest": (
        lambda method: setattr(method, "top", torch.arange(3.0).topk(2)),
        lambda method, step: setattr(method, "top", (torch.arange(3.0) * step).topk(2)),
        lambda method: method.top.values.sum(),
    ),
    "what cannot be written to": (
        _not_written_to,
        lambda method, step: None,
        lambda method: method.spread.mean() + method.inferred.clone().mean(),
    ),
    "gradients, and weights that an optimiser has alone": (
        lambda method: setattr(method, "optimiser", torch.optim.SGD([nn.Parameter(torch.zeros(4))], lr=0.1)),
        _summed,
        lambda method: method.optimiser.param_groups[0]["params"][0].detach().mean(),
    ),
    "a buffer that is not persistent": (
        lambda method: setattr(method, "net", Counting()),
        lambda method, step: method.net.seen.add_(1),
        lambda method: method.net.seen.mean(),
    ),
    "a tensor that lies turned": (
        lambda method: setattr(method, "late", None),
        _turned,
        lambda method: 0.0 if method.late is None else (method.late.mean() + method.late.stride(0)) / 50,
    ),
    "a fused optimiser": (_fused, _by_fused, lambda method: method.head.weight.detach().mean()),
    "one tensor that becomes two": (_one, _moved_on, lambda method: (method.now - method.before).mean()),
    "two tensors that become one": (_two, _joined, lambda method: (method.now + 2 * method.before).mean()),
    "an attribute that goes": (_two, _warmed, lambda method: float(hasattr(method, "before"))),
    "a tensor that learns later": (_two, _thawed, lambda method: float(method.now.requires_grad)),
    "a schedule": (_scheduled, _by_schedule, lambda method: method.weight.detach().mean()),
    "what a function holds": (_held, _held_elsewhere, lambda method: (method.total - method.held).mean()),
    "containers of their own kind": (
        _counted,
        _counted_anew,
        lambda method: method.sums[0]["a"] + method.sums[0]["c"] + method.sums[1].b,
    ),
    "a module that is replaced": (
        _teacher, _another_teacher, lambda method: method.teacher.image_tower.weight.mean().detach()
    ),
    "a module that is shaped by its first batch": (_shaped, _shaped_by_a_batch, _of_shaped),
}  # fmt: skip


@pytest.mark.parametrize("steps", [2, 4, 6])
@pytest.mark.parametrize("name", CHANGES)
def test_objects_are_the_same_or_others_as_they_were(name: str, steps: int, tmp_path: Path) -> None:
    _, left = trained(tmp_path / "whole", method=Changes(*CHANGES[name]))
    trained(tmp_path / "cut", steps, method=Changes(*CHANGES[name]))
    again = Changes(*CHANGES[name])
    assert trained(tmp_path / "cut", method=again) == (STEPS - steps, left)
    if again._make is _counted:
        assert again.sums[0].default_factory is float


def _snapshot(method: Any, step: int) -> None:
    method.snapshots = [*method.snapshots, copy.deepcopy(method.model.image_tower)]


def _another_head(method: Any, step: int) -> None:
    method.head = nn.Linear(4, 2)


def _more_weights(method: Any, step: int) -> None:
    if step == 2:
        method.optimiser.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})


def _another_optimiser(method: Any, step: int) -> None:
    if step == 2:
        method.optimiser = torch.optim.SGD([method.weight], lr=0.1)


LATE: dict[str, tuple[Callable[[Any], None], Callable[[Any, int], Any], str]] = {
    "a module": (lambda method: setattr(method, "teacher", None), _another_teacher, "`teacher` a ToyModel"),
    "a list of modules": (lambda method: setattr(method, "snapshots", []), _snapshot, "`snapshots` a Linear"),
    "a module of another shape": (
        lambda method: setattr(method, "head", nn.Linear(4, 1)), _another_head, "`head` a Linear"
    ),
    "layers of another kind": (
        lambda method: setattr(method, "head", nn.Sequential(nn.ReLU())),
        lambda method, step: setattr(method, "head", nn.Sequential(nn.Tanh())),
        "`head` a Sequential",
    ),
    "named tuples in a deque": (
        lambda method: setattr(method, "pairs", deque()),
        lambda method, step: method.pairs.append(namedtuple("Pair", "a b")(1, 2)),
        "`pairs` a Pair of int",
    ),
    "an optimiser": (_scheduled, _another_optimiser, "`optimiser` a SGD"),
    "more for an optimiser": (_scheduled, _more_weights, "`optimiser` a SGD"),
    "a dict of its own kind": (
        lambda method: setattr(method, "sums", None),
        lambda method, step: setattr(method, "sums", defaultdict(float)),
        "`sums` an empty defaultdict",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LATE)
def test_what_could_not_be_made_again_is_refused_by_name(name: str, tmp_path: Path) -> None:
    first, then, says = LATE[name]
    with pytest.raises(RunError, match=f"^Changes keeps in {re.escape(says)}.*[Mm]ake it in prepare"):
        trained(tmp_path, method=Changes(first, then, lambda method: 0.0))


class Stage(IntEnum):
    """Which is not the number that would be saved of it."""

    FIRST = 1
    SECOND = 2


def _drawn_by(generator: Any, new: Tensor) -> None:
    generator.random()


def _another(kept: Any, new: Tensor) -> Mean:
    return Mean(new)


NOT_SAVED: dict[str, tuple[Callable[[], Any], Callable[[Any, Tensor], Any], str]] = {
    "an object": (Bank, lambda kept, new: kept.items.append(new), "`kept`, a Bank"),
    "a namespace": (SimpleNamespace, lambda kept, new: setattr(kept, "at", new), "`kept`, a SimpleNamespace"),
    "another object each step": (Mean, _another, "`kept`, a Mean"),
    "a number with a name": (lambda: Stage.FIRST, lambda kept, new: Stage.SECOND, "`kept`, a Stage"),
    "objects in a list": (list, lambda kept, new: kept.append(Mean(new)), "`kept`, a list of Mean"),
    "a set": (set, lambda kept, new: kept.add(float(new.sum())), "`kept`, a set"),
    "keys that are no text": (dict, lambda kept, new: kept.update({(len(kept), 0): new}), "`kept`, a dict"),
    "python's generator": (lambda: random.Random(0), _drawn_by, "a generator as kept, a Random"),
    "numpy's old generator": (lambda: np.random.RandomState(0), _drawn_by, "a generator as kept, a RandomState"),
    "a generator in a list": (lambda: [random.Random(0)], lambda kept, new: None, "a generator as kept, a Random"),
    "an endless iterator": (
        lambda: itertools.cycle("ab"), lambda kept, new: next(kept) and None, "a generator as kept, a cycle"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_SAVED)
def test_what_changes_and_is_not_saved_is_refused_by_name(name: str, tmp_path: Path) -> None:
    make, put, says = NOT_SAVED[name]
    with pytest.raises(RunError, match=re.escape(says)) as caught:
        trained(tmp_path, method=Keeps(make, put, lambda kept: 0.0))
    assert "Keeps" in str(caught.value)
    assert not list(tmp_path.glob("state-*"))


class Phase(Enum):
    """A part of a training that follows from its progress."""

    EARLY = 0
    LATE = 1


class Table:
    """Something that is computed when it is first asked for."""

    @cached_property
    def rows(self) -> list[int]:
        return [*range(3)]


class Constant(Adaptation):
    """A method that keeps much, and of it nothing that changes and is not saved."""

    def prepare(self, model: DualEncoder, context: Context) -> None:
        self.model, self.context, self.bank = model, context, Bank()
        self.bank.items.append(torch.ones(3))
        self.logger, self.random, self.kind, self.made = logging.getLogger(__name__), random, Bank, Bank
        self.names, self.known = {("a", 0): self}, frozenset("ab")
        self.groups = [{"params": [*cast(nn.Module, model).parameters()], "of": self.bank}]
        self.history: list[float] = []
        self.sees = {("history", "of"): self.history, ("model", "of"): model, ("count", 0): self.bank}
        self.found: Bank | None = None
        self.where, self.lock, self.log = Path("a"), threading.Lock(), context.log
        self.parameters = filter(None, cast(nn.Module, model).parameters())
        own = dict(cast(nn.Module, model).named_parameters())
        self.trained, self.called = set(own.values()), {value: name for name, value in own.items()}
        self.heads = {"head": {*own.values()}}
        self.phase, self.table = Phase.EARLY, Table()

    def select(self, source: Batch, target: Batch, progress: Progress) -> None:
        self.found, self.batch, self.progress = Bank(), source, progress
        self.later = Mean(source.image_features.detach())
        self.history.append(float(self.later.value.sum()))  # type: ignore[union-attr]
        self.logger.info("a step")
        self.phase = Phase.LATE if progress.step > 1 else Phase.EARLY
        assert self.table.rows == [0, 1, 2]

    def loss(self, source: Batch, target: Batch, progress: Progress) -> dict[str, Tensor]:
        assert self.found is not None
        self.found.items.append(source.image_features)
        return {"pairs": (self.found.items[0] - source.text_features).square().mean()}


def test_what_is_constant_or_made_anew_each_step_is_not_refused(tmp_path: Path) -> None:
    assert trained(tmp_path, method=Constant(Options()))[0] == STEPS


def test_arrays_and_their_like_are_saved_as_they_are(tmp_path: Path) -> None:
    given = {
        "unsigned": np.arange(6, dtype=np.uint16).reshape(2, 3).T, "none": np.zeros((0, 2)), "one": np.array(3.0),
        "number": np.float32(0.1), "flag": np.bool_(True), "pair": (1, 2.5), "few": deque([1, (2,)], 4),
    }  # fmt: skip
    Saves(tmp_path, 0).offer(1, lambda: given)
    read = Saves(tmp_path, 0).read()
    assert read is not None
    for name in ("unsigned", "none", "one", "number", "flag"):
        assert type(read[name]) is type(given[name])
        assert read[name].dtype == given[name].dtype  # type: ignore[attr-defined]
        assert np.array_equal(read[name], given[name])  # type: ignore[arg-type]
        assert read[name].shape == given[name].shape  # type: ignore[attr-defined]
    assert (read["pair"], read["few"], read["few"].maxlen) == ((1, 2.5), deque([1, (2,)]), 4)


def test_what_is_restored_does_not_fill_a_list_of_its_class() -> None:
    class Shared(Adaptation):
        seen: list[int] = []  # noqa: RUF012 - a mistake that many make

    model: Any = ToyModel()
    trained_before, again = Shared(Options()), Shared(Options())
    kept = MethodState(trained_before, model)
    trained_before.seen = [1, 2]
    MethodState(again, model).restore(kept.content(), torch.device("cpu"))
    assert (again.seen, Shared.seen) == ([1, 2], [])


def test_parts_of_a_model_are_known_by_name() -> None:
    """Its first batch may bring more of them, which one that goes on has not met yet."""
    models: list[Any] = [ToyModel(), ToyModel()]
    methods: list[Any] = [Noisy(Options()), Noisy(Options())]
    states = [MethodState(*pair) for pair in zip(methods, models, strict=True)]
    models[0].image_tower.add_module("cached", nn.Identity())
    methods[0].kept = [models[0].text_tower.weight, models[0].text_tower]
    states[1].restore(states[0].content(), torch.device("cpu"))
    assert methods[1].kept[0] is models[1].text_tower.weight
    assert methods[1].kept[1] is models[1].text_tower


WRITTEN = """
from collections import UserList
from urbancross_bench.interfaces import Adaptation, hookimpl, register

@hookimpl
def register_adaptations():
    return [register("NAME", "NAME:Mine", setting="source_only", needs={"gradients"}, summary="Mine.")]

class Bank:
    def __init__(self):
        self.items = []
    def append(self, item):
        self.items.append(item)
    def __iter__(self):
        return iter(self.items)

class Mine(Adaptation):
    def prepare(self, model, context):
        self.pair_loss, self.bank = context.pair_loss, MAKE

    def loss(self, source, target, progress):
        features = source.FEATURES
        self.bank.append(features.detach().mean())
        return {"pairs": self.pair_loss(source) * (1 + sum(self.bank))}
"""


@pytest.mark.parametrize(
    ("make", "features", "promise", "says"),
    [
        ("Bank()", "image_features", "test_it_goes_on_after_a_kill", r"RunError: Mine keeps .* in `bank`, a Bank"),
        (
            "UserList()",
            "image_features",
            "test_it_goes_on_after_a_kill",
            "after a kill; not saved: `bank`, a.* User",
        ),
        (
            "[]",
            "reference_image_features",
            "test_it_asks_for_what_it_may_see",
            r"register the method with needs=\{'reference'\}$",
        ),
    ],
)
def test_the_kit_names_what_is_not_saved_and_the_need_that_is_missing(
    make: str, features: str, promise: str, says: str, tmp_path: Path
) -> None:
    name = f"kept_by_{re.sub('[^a-z]', '', make.lower())}"
    file = tmp_path / f"{name}.py"
    file.write_text(WRITTEN.replace("NAME", name).replace("MAKE", make).replace("FEATURES", features))
    checked = type("Checked", (kit.AdaptationConformance,), {"plugin": name, "files": (file,)})()
    with pytest.raises(AssertionError, match=says):
        getattr(checked, promise)()
