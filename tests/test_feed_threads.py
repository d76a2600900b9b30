"""A batch that a thread gathers ahead moves nothing, in a training neither, and no failure is lost."""

from __future__ import annotations

import copy
import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from toy_feeds import CPU, STEPS, VIEWS, WAYS, ToyModel, View, feed, no_thread_stays, split

from urbancross_bench.data.packed import PackedImages, Rows, Taken
from urbancross_bench.data.views import StreamView
from urbancross_bench.errors import DataError
from urbancross_bench.interfaces import Adaptation, Batch, Options, Progress
from urbancross_bench.modelling.curve import Curve
from urbancross_bench.modelling.feeds import Feed
from urbancross_bench.modelling.loop import train
from urbancross_bench.modelling.residence import THREAD, Residence
from urbancross_bench.modelling.saving import Saves
from urbancross_bench.specs import Budget


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
