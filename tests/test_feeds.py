"""Feeds: every way to gather a batch gives the same one, and what stays where."""

from __future__ import annotations

import contextlib
import gc
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy_feeds import ALL, CPU, GPU, SIZE, STEPS, VIEWS, WAYS, ToyModel, feed, no_thread_stays, parts, same, split

from urbancross_adaptations.statistics import PooledStatistics
from urbancross_bench.data.views import source_view
from urbancross_bench.modelling import losses, residence
from urbancross_bench.modelling.batches import EncodedBatch
from urbancross_bench.modelling.inputs import encoded_segments, image_inputs
from urbancross_bench.modelling.losses import mmd, normalised_weights
from urbancross_bench.modelling.pair_loss import PairLoss
from urbancross_bench.modelling.residence import Ahead, Mapped, Residence, Resident


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


class Normed(nn.Module):
    """What segments and images have in common is a batch normalisation."""

    width = 3

    def __init__(self) -> None:
        super().__init__()
        self.norm = self.image_tower = nn.BatchNorm2d(3)

    def encode_segment(self, images: Tensor) -> Tensor:
        seen: Tensor = self.norm(images).mean(dim=(2, 3))
        return seen


def test_segments_do_not_move_the_statistics_that_images_are_embedded_by() -> None:
    model: Any = Normed().train()
    pooled = PooledStatistics(model.norm)
    model.norm.register_forward_pre_hook(pooled)
    segments, present = 5 + torch.randn(4, 2, 3, 8, 8), torch.ones(4, 2, dtype=torch.bool)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    features = encoded_segments(model, segments, present)
    assert abs(float(features.detach().mean())) < 1e-5, "by their own batch, as images are"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert pooled.count == 0
    model.norm(segments[:, 0])
    assert pooled.count == 4 * 8 * 8
    assert model.norm.num_batches_tracked == 1


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
