"""Feeds: every way to gather a batch gives the same one, one gathered ahead moves nothing, what stays where."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import gc
import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from urbancross_bench.data.packed import PackedImages, PackedSegments, PackedSplit, Rows, Taken
from urbancross_bench.data.views import PairView, Shown, StreamView, source_view, target_view
from urbancross_bench.errors import DataError
from urbancross_bench.interfaces import Adaptation, Batch, Options, Progress
from urbancross_bench.modelling import losses, residence
from urbancross_bench.modelling.batches import Drawn, EncodedBatch
from urbancross_bench.modelling.curve import Curve
from urbancross_bench.modelling.feeds import Feed
from urbancross_bench.modelling.inputs import encoded_segments, image_inputs
from urbancross_bench.modelling.loop import train
from urbancross_bench.modelling.losses import mmd, normalised_weights
from urbancross_bench.modelling.pair_loss import PairLoss
from urbancross_bench.modelling.residence import THREAD, Ahead, Mapped, Residence, Resident
from urbancross_bench.modelling.saving import Saves
from urbancross_bench.specs import Budget

CPU = torch.device("cpu")
SIZE, STEPS = 6, 7
View = PairView | StreamView | None

GPU = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


class ToyModel(nn.Module):
    """Two layers on the first values of pixels, features or tokens, whichever come."""

    width, mean, std = 4, (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image_tower, self.text_tower = nn.Linear(4, 4), nn.Linear(3, 4)
        self.logit_scale = nn.Parameter(torch.ones(()))
        self.logit_bias = None

    def tokenize(self, texts: list[str]) -> Tensor:
        numbers = torch.tensor([int(text.split()[1]) for text in texts])
        return torch.stack([torch.full_like(numbers, 9), 1 + numbers % 7, numbers // 7], dim=1)

    def text_length(self, tokens: Tensor) -> int:
        return int((tokens != 0).sum(dim=1).max())

    def encode_image(self, images: Tensor, *segments: Tensor) -> Tensor:
        features: Tensor = self.image_tower(images.flatten(1)[:, :4])
        return features

    def encode_segment(self, images: Tensor) -> Tensor:
        return self.encode_image(images)

    def encode_text(self, tokens: Tensor) -> Tensor:
        features: Tensor = self.text_tower(F.pad(tokens.float(), (0, 3 - tokens.shape[1])))
        return features


def split(count: int, first: int = 0, segments: str = "", frozen: bool = False) -> PackedSplit:
    """Image i, of `count` from `first` on, is random but for its first value, i; its two captions say i."""
    draw, numbers = np.random.default_rng(first), np.arange(first, first + count)

    def made(owners: np.ndarray, features: bool) -> np.ndarray:
        if features:
            return np.concatenate([owners[:, None], draw.random((len(owners), 3))], axis=1).astype(np.float32)
        values = draw.integers(0, 256, (len(owners), SIZE, SIZE, 3), dtype=np.uint8)
        values[:, 0, 0, 0] = owners
        return values

    own = None
    if segments:
        counts = numbers % 4  # some have none, and of the last kind one too many is packed
        values = made(np.repeat(numbers, counts), segments == "features")
        own = PackedSegments(Rows([values]), np.cumsum([0, *counts[:-1]]), counts, 2)
    owners = np.repeat(np.arange(count), 2)
    return PackedSplit(
        PackedImages(Rows([made(numbers, frozen)]), own),
        tuple(f"{i}.png" for i in numbers),
        tuple(f"tile {first + i} {kind}" for i, kind in zip(owners, "ab" * count, strict=True)),
        owners,
        Rows([made(first + owners, True)[:, :3]]) if frozen else None,
    )


VIEWS: dict[str, Callable[[], View]] = {
    "pairs": lambda: source_view([split(20)]),
    "domains": lambda: source_view([split(9), split(11, 30), split(5, 60)]),
    "streams": lambda: target_view(split(20), Shown("unsupervised"), 1),
    "halves": lambda: target_view(split(20), Shown("unsupervised", disjoint_halves=True), 1),
    "images": lambda: target_view(split(20), Shown("unsupervised_images"), 1),
    "texts": lambda: StreamView(None, split(20).captions, split(20, frozen=True).text_features),
    "few": lambda: target_view(split(20, segments="pixels"), Shown("few_shot", 0.5), 1),
    "nothing": lambda: None,
    "segments": lambda: source_view([split(9, segments="pixels"), split(11, 30, segments="pixels")]),
    "segment streams": lambda: target_view(split(20, segments="pixels"), Shown("unsupervised"), 1),
    "segment features": lambda: source_view([split(20, segments="features")]),
    "frozen": lambda: source_view([split(9, frozen=True), split(11, 30, frozen=True)]),
    "frozen segments": lambda: target_view(split(20, 0, "features", True), Shown("unsupervised"), 1),
}
ALL = 10**12
WAYS: dict[str, Callable[[], Residence]] = {
    "resident": lambda: Residence(CPU, room=ALL),
    "ahead": lambda: Residence(CPU, ahead=True),
}


def feed(view: View, way: Residence | None = None, device: torch.device = CPU, **changes: Any) -> Feed:
    options: dict[str, Any] = {"batch_size": 4, "augmentation": ("flip", "crop"), "seed": 3, "hidden": "no"}
    model: Any = ToyModel().to(device)
    return Feed(model, view, device=device, residence=way, **(options | changes))


def parts(batch: Any) -> dict[str, Tensor]:
    """Every tensor of a batch, by name."""
    found: dict[str, Tensor] = {}
    for field in dataclasses.fields(Drawn):
        value = getattr(batch._drawn, field.name)
        several = value if isinstance(value, tuple) else (value,)
        found |= {f"{field.name}.{i}": part for i, part in enumerate(several) if isinstance(part, Tensor)}
    return found


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        value.dtype == other[name].dtype and torch.equal(value, other[name]) for name, value in one.items()
    )


@pytest.mark.parametrize("references", [False, True])
@pytest.mark.parametrize("kind", VIEWS)
@pytest.mark.parametrize("way", WAYS)
def test_every_way_gives_the_batches_of_mapped_rows(way: str, kind: str, references: bool) -> None:
    view = VIEWS[kind]()
    plain, other = (feed(view, how, references=references) for how in (None, WAYS[way]()))
    if kind != "nothing":
        assert [type(one._supply) for one in (plain, other)] == [
            Mapped,
            {"resident": Resident, "ahead": Ahead}[way],
        ]
    for step in (0, 1, 2, 3, STEPS, STEPS + 1, 1):
        assert same(parts(plain.batch(step)), parts(other.batch(step)))
    if kind != "nothing":
        ours, theirs = ([parts(batch) for batch in one.pool.batches()] for one in (plain, other))
        assert len(ours) > 2
        assert all(same(a, b) for a, b in zip(ours, theirs, strict=True))
        assert same(parts(plain.batch(2)), parts(other.batch(2))), "a pass in between changed a batch"


DRAWN = [
    ([7, 6, 16, 14], [15, 13, 33, 28]),
    ([3, 9, 10, 11], [6, 19, 21, 23]),
    ([17, 2, 15, 18], [34, 4, 31, 36]),
    ([5, 13, 1, 8], [10, 26, 2, 16]),
    ([0, 19, 12, 4], [1, 38, 24, 9]),
    ([12, 5, 3, 16], [25, 10, 6, 33]),
]


@pytest.mark.parametrize("way", ["mapped", *WAYS])
def test_rows_are_those_of_the_pack_and_what_was_ever_drawn(way: str) -> None:
    """The rows of the first steps as they were drawn before there were several ways to gather them."""
    one, two = split(9, segments="pixels"), split(11, 30, segments="pixels")
    ours = feed(source_view([one, two]), WAYS[way]() if way in WAYS else None, augmentation=())
    raw = np.concatenate([s.images.rows.take(np.arange(len(s.images))) for s in (one, two)])
    for step, (images, texts) in enumerate(DRAWN):
        drawn = ours.batch(step)._drawn
        assert drawn.images is not None
        assert (drawn.image_rows.tolist(), drawn.text_rows.tolist()) == (images, texts)  # type: ignore[union-attr]
        pixels, segments, present = drawn.images
        mean, std = torch.tensor(ToyModel.mean), torch.tensor(ToyModel.std)
        wanted = (torch.from_numpy(raw[images]).float() / 255 - mean) / std
        torch.testing.assert_close(pixels, wanted.permute(0, 3, 1, 2))
        numbers = [row if row < 9 else row + 21 for row in images]
        assert present.sum(dim=1).tolist() == [min(2, number % 4) for number in numbers]
        owners = ((segments[:, :, 0, 0, 0] * std[0] + mean[0]) * 255).round().int()
        assert (owners == torch.tensor(numbers)[:, None])[present].all()
        assert (owners == 0)[~present].all()


@pytest.mark.parametrize("kind", ["streams", "few", "segment streams", "frozen segments"])
@pytest.mark.parametrize("way", WAYS)
def test_a_batch_holds_its_own_rows_alone_and_the_device_what_the_view_shows(way: str, kind: str) -> None:
    ours = feed(VIEWS[kind](), WAYS[way](), references=True)
    for value in parts(ours.batch(0)).values():
        assert value.untyped_storage().nbytes() <= value.numel() * value.element_size()
    if isinstance(ours._supply, Resident):
        assert len(ours._supply._images) == (10 if kind == "few" else 20)  # type: ignore[arg-type]
        if kind == "few":
            shown = ours._supply._segments._values[:-1, 0, 0, 0].int().tolist()  # type: ignore[union-attr]
            own = ours._supply._images[:, 0, 0, 0].int().tolist()  # type: ignore[index]
            assert shown == [number for number in own for _ in range(min(2, number % 4))]


@pytest.mark.parametrize("way", ["mapped", *WAYS])
def test_what_a_method_does_to_its_rows_changes_no_other_batch(way: str) -> None:
    ours = feed(VIEWS["segment streams"](), WAYS[way]() if way in WAYS else None, references=True)
    before = {name: value.clone() for name, value in parts(ours.batch(0)).items()}
    for name, value in parts(ours.batch(0)).items():
        if "weights" not in name:  # those are of all texts
            value.zero_()
    assert same(parts(ours.batch(0)), before)


class Watched(PackedImages):
    """Images that tell who takes which rows, and fail when they are taken for the `fails`-th time."""

    def __init__(self, rows: Rows, fails: int | None = None) -> None:
        super().__init__(rows)
        self.taken: queue.Queue[tuple[str, list[int]]] = queue.Queue()
        self._left = fails

    def take(self, indices: Any) -> Taken:
        if self._left is not None:
            self._left -= 1
            if not self._left:
                raise DataError("the pack is gone")
        self.taken.put((threading.current_thread().name, indices.tolist()))
        return super().take(indices)


def watched(fails: int | None = None) -> tuple[Watched, StreamView]:
    images = Watched(split(20).images.rows, fails)
    return images, StreamView(images, split(20).captions)


def no_thread_stays() -> bool:
    mine = [thread for thread in threading.enumerate() if thread.name == THREAD]
    for thread in mine:
        thread.join(60)
    return not any(thread.is_alive() for thread in mine)


def test_a_thread_gathers_one_batch_before_it_is_asked_for() -> None:
    images, view = watched()
    ours = feed(view, WAYS["ahead"]())
    first = ours.batch(0)
    here = threading.current_thread().name
    assert images.taken.get() == (here, first.image_rows.tolist())
    for step in (1, 2, 3):
        name, rows = images.taken.get(timeout=60)
        assert name == THREAD
        assert no_thread_stays()
        assert images.taken.empty(), "more than one batch was gathered ahead"
        assert ours.batch(step).image_rows.tolist() == rows
    images.taken.get(timeout=60)
    assert ours.batch(9).image_rows.tolist() == images.taken.get()[1], (
        "one that nobody expected is gathered at once"
    )


def test_what_fails_in_the_thread_fails_when_its_batch_is_asked_for() -> None:
    ours = feed(watched(fails=3)[1], WAYS["ahead"]())
    ours.batch(0)
    ours.batch(1)
    with pytest.raises(DataError, match="the pack is gone"):
        ours.batch(2)
    assert no_thread_stays()


class Method(Adaptation):
    """Uses both sides, draws at random and keeps a number, as methods do."""

    count = 0

    def loss(self, source: Batch, target: Batch, progress: Progress) -> dict[str, Tensor]:
        noise = torch.randn(len(target.image_features))
        return {
            "pairs": (source.image_features - source.text_features).square().sum(),
            "target": (target.image_features.sum(dim=1) * noise).square().mean() * (1 + 0.1 * self.count),
        }

    def after_step(self, model: Any, progress: Progress) -> None:
        self.count += 1


class Kept(Saves):
    """Saves every step, and keeps what it saved."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, 0)
        self.states: dict[int, Any] = {}

    def offer(self, step: int, state: Callable[[], Mapping[str, Any]]) -> None:
        self.states[step] = copy.deepcopy(state())
        super().offer(step, state)


def trained(way: Residence | None, saves: Saves | None = None, cut: int = STEPS, target: View = None) -> bytes:
    """The weights after a training, or what there is of one that is cut in the middle of the step after `cut`."""
    model: Any = ToyModel()
    options: Any = {"augmentation": ("flip", "crop"), "device": CPU, "hidden": "", "residence": way}
    source = Feed(model, VIEWS["domains"](), batch_size=5, seed=0, **options)
    target_feed = Feed(model, target or VIEWS["streams"](), batch_size=3, seed=1, **options)
    recipe = Budget(steps=STEPS, learning_rate=1e-2, batch_size=5, checkpoints=1)

    def report(fraction: float) -> None:
        if fraction > cut / STEPS:
            raise KeyboardInterrupt

    steps = train(
        model, Method(Options()), source, target_feed, recipe, loss_name="info_nce", precision="float32",
        device=CPU, curve=Curve(), report=report, on_pass=lambda _: None, saves=saves,
    )  # fmt: skip
    if cut < STEPS:
        with pytest.raises(KeyboardInterrupt):
            list(steps)
    else:
        assert list(steps) == [STEPS]
    return b"".join(value.numpy().tobytes() for value in model.state_dict().values())


def flat(value: Any) -> Any:
    """Nested states as what can be compared."""
    if isinstance(value, Tensor):
        return value.numpy().tobytes()
    if isinstance(value, Mapping):
        return {key: flat(part) for key, part in value.items()}
    return [flat(part) for part in value] if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("way", WAYS)
def test_a_training_saves_the_same_state_at_every_step_and_goes_on_from_any(way: str, tmp_path: Path) -> None:
    torch.manual_seed(5)
    plain = Kept(tmp_path / "plain")
    whole = trained(None, plain)
    torch.manual_seed(5)
    ours = Kept(tmp_path / "ours")
    assert trained(WAYS[way](), ours) == whole
    assert list(ours.states) == list(range(1, STEPS))
    assert flat(ours.states) == flat(plain.states)
    for cut in range(1, STEPS):
        folder = tmp_path / f"cut {cut}"
        torch.manual_seed(5)
        trained(WAYS[way](), Saves(folder, 0), cut)
        torch.manual_seed(cut)
        assert trained(WAYS[way](), Saves(folder, 0)) == whole
    assert no_thread_stays()


def test_a_thread_that_fails_ends_the_training_and_itself(tmp_path: Path) -> None:
    saves = Kept(tmp_path)
    with pytest.raises(DataError, match="the pack is gone"):
        trained(WAYS["ahead"](), saves, target=watched(fails=4)[1])
    assert list(saves.states) == [1, 2, 3]
    assert no_thread_stays()


def test_what_stays_on_a_device_is_counted_over_all_feeds_of_a_training() -> None:
    source, target = VIEWS["domains"](), VIEWS["few"]()
    pixels = SIZE * SIZE * 3
    own = [number % 4 for number in parts(feed(target, batch_size=10).batch(0))["image_rows.0"].tolist()]
    assert len(own) == 10
    numbers = [int(image[0, 0, 0]) for image in target.images.take(np.arange(10)).rows]  # type: ignore[union-attr]
    wanted = [25 * pixels, (10 + sum(min(2, number % 4) for number in numbers)) * pixels]

    def kinds(room: int) -> list[type]:
        shared = Residence(CPU, room=room, ahead=True)
        return [type(feed(view, shared)._supply) for view in (source, target)]

    assert kinds(sum(wanted)) == [Resident, Resident]
    assert kinds(sum(wanted) - 1) == [Resident, Ahead]
    assert kinds(wanted[0] - 1) == [Ahead, Resident if wanted[1] < wanted[0] else Ahead]
    assert kinds(0) == [Ahead, Ahead]


def test_references_and_features_are_counted_too() -> None:
    view = VIEWS["frozen segments"]()
    counts = np.minimum(2, np.arange(20) % 4).sum()
    stored = 4 * (20 * 4 + int(counts) * 4 + 40 * 3)
    references = 4 * (20 * 4 + 40 * 4)
    for with_references, needed in ((False, stored), (True, stored + references)):
        for room, kind in ((needed, Resident), (needed - 1, Mapped)):
            assert type(feed(view, Residence(CPU, room=room), references=with_references)._supply) is kind


def test_without_a_gpu_rows_stay_mapped_and_with_one_a_share_of_what_is_free_may_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert type(feed(VIEWS["pairs"]())._supply) is Mapped
    assert type(feed(None, WAYS["ahead"]())._supply) is Mapped
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 10**9))
    ours = Residence(torch.device("cuda", 1))
    assert (ours._room, ours._ahead) == (400, True)


def test_a_device_without_room_after_all_leaves_rows_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Tensor:
        raise torch.OutOfMemoryError("no room")

    shared = Residence(CPU, room=ALL, ahead=True)
    with monkeypatch.context() as within:
        within.setattr(residence, "_room", full)
        assert type(feed(VIEWS["pairs"](), shared)._supply) is Ahead
    assert shared._room == ALL
    assert type(feed(VIEWS["pairs"](), shared)._supply) is Resident


@pytest.mark.parametrize("augmentation", ["flip", "rotate90", "crop", "rotate_crop", "colour"])
@pytest.mark.parametrize("kind", ["domains", "segments", "frozen segments", "texts"])
@pytest.mark.parametrize("room", [0, ALL])
def test_a_batch_is_made_without_a_look_at_what_is_on_the_device(room: int, kind: str, augmentation: str) -> None:
    """A device that holds no values: whatever asks it for one, for a branch or for a shape, fails."""
    device = torch.device("meta")
    ours = feed(VIEWS[kind](), Residence(device, room=room, ahead=True), device, augmentation=(augmentation,))
    for step in range(2):
        batch = ours.batch(step)
        # Which segments there are is kept on the host, for those who must know.
        assert {name for name, value in parts(batch).items() if value.device != device} <= {"present.0"}
        sides = {"texts": ["text"], "segments": ["image", "text", "segment"]}.get(kind, ["image", "text"])
        features = [getattr(batch, f"{side}_features") for side in sides]
        assert all(part.device == device and part.shape == (4, 4) for part in features)


def test_segments_are_encoded_without_a_look_at_the_device_and_only_those_that_are_there() -> None:
    model: Any = ToyModel()
    images = split(9, segments="pixels").images
    taken = images.take(np.arange(9))
    _, segments, present = image_inputs(taken, model, CPU)
    features = encoded_segments(model, segments, present)
    assert present.any()
    assert not present.all()
    torch.testing.assert_close(features[present], model.encode_segment(segments[present]), rtol=0, atol=0)
    assert not features[~present].any()
    features.square().sum().backward()  # type: ignore[no-untyped-call]
    ours = model.image_tower.weight.grad.clone()
    model.zero_grad()
    model.encode_segment(segments[present]).square().sum().backward()
    torch.testing.assert_close(ours, model.image_tower.weight.grad)
    assert not encoded_segments(model, segments[:1], present[:1]).any()  # the first image has none
    there = model.to("meta")
    assert encoded_segments(there, segments.to("meta"), present).shape == features.shape


def test_losses_look_at_nothing_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("meta")
    # Such a device has no autocast.
    monkeypatch.setattr(losses, "_full_precision", lambda _: contextlib.nullcontext())
    model: Any = ToyModel().to(device)
    batch = feed(VIEWS["segments"](), Residence(device, room=ALL), device).batch(0)
    loss = PairLoss("info_nce", model).of_segments(batch)
    loss.backward()  # type: ignore[no-untyped-call]
    assert normalised_weights(batch.text_rows.float()).shape == (4,)
    assert normalised_weights(torch.tensor([1.0, torch.nan])).isnan().all(), "what is no number must be seen"
    assert mmd(batch.image_features, batch.text_features).device == device


def test_a_feed_that_is_gone_leaves_no_thread() -> None:
    ours = feed(VIEWS["pairs"](), WAYS["ahead"]())
    ours.batch(0)
    del ours
    gc.collect()
    assert no_thread_stays()


@pytest.mark.parametrize("kind", ["domains", "segment streams", "frozen segments"])
@pytest.mark.parametrize("room", [pytest.param(0, marks=GPU), pytest.param(ALL, marks=GPU)])
def test_a_gpu_gets_the_same_rows_and_is_not_waited_for(room: int, kind: str) -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    view = VIEWS[kind]()
    plain = feed(view, references=True)
    ours = feed(view, Residence(device, room=room), device, references=True)
    for step in range(3):  # page-locked memory is found in the first steps, and kept
        ours.batch(step)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = [ours.batch(step) for step in range(3, 9)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for step, batch in enumerate(batches, 3):
        wanted = parts(plain.batch(step))
        for name, value in parts(batch).items():
            assert value.device == (CPU if name == "present.0" else device)
            if name.startswith(("reference", "images")):
                torch.testing.assert_close(value.cpu(), wanted[name], rtol=1e-4, atol=1e-5)
            else:
                assert torch.equal(value.cpu(), wanted[name]), name
    gathered = [one._supply.take(plain._wanted(0)) for one in (plain, ours)]
    assert all(
        (a is None and b is None) or torch.equal(a, b.cpu())  # type: ignore[union-attr, arg-type]
        for a, b in zip(gathered[0][:3], gathered[1][:3], strict=True)
    )
    assert isinstance(batches[0], EncodedBatch)
