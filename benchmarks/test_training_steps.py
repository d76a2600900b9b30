"""Training beside open_clip's own loop, and our loop beside bare steps.

    pip install "open_clip_torch[training]"        # for open_clip's loop; without it that part is skipped
    pytest benchmarks/test_training_steps.py --benchmark-only

Ways of doing the same take turns, round after round, so that a busy machine slows all alike. At the end ratios are
printed: medians over rounds, by the clock and by CPU time. What is asserted is that all ways compute the same.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture
from side_by_side import CPU, RSICD, SIZE, Ours, Race, built, feed_of, product, recipe, rested, usual, wait
from test_loading import WITHOUT_GPU
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader, RandomSampler
from torch.utils.flop_counter import FlopCounterMode

from urbancross_bench.data.packed import PackedImages, PackedSplit, Rows
from urbancross_bench.modelling.encoding import compile_blocks
from urbancross_bench.modelling.feeds import Feed
from urbancross_bench.modelling.losses import info_nce
from urbancross_bench.modelling.optimiser import make_optimiser
from urbancross_bench.specs import Pretraining

pytest_plugins = "side_by_side"

GPU_CORES = 16


class OpenClip:
    """open_clip's own loop on a model of its own with our first weights, over batches that it is given."""

    def __init__(self, model: Any, architecture: str, precision: str, device: torch.device) -> None:
        self.train_one_epoch = pytest.importorskip("open_clip_train.train").train_one_epoch
        made = open_clip.create_model_and_transforms(architecture, device=device, output_dict=True)
        self.model, self.augmented, self.plain = made
        state = model.clip.state_dict()
        self.model.load_state_dict({name.removeprefix("text."): value for name, value in state.items()})
        self.tokenizer = open_clip.get_tokenizer(architecture)
        weights = list(self.model.parameters())
        groups = [
            {"params": [p for p in weights if p.ndim >= 2], "weight_decay": 0.1},
            {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.98), eps=1e-6)
        self.arguments = SimpleNamespace(
            **{"device": device, "precision": {"float32": "fp32", "bfloat16": "amp_bf16"}[precision]},
            **{"accum_freq": 1, "grad_clip_norm": 1.0, "skip_scheduler": True, "batch_size": 0},
            **{"distill": False, "horovod": False, "wandb": False, "rank": 0, "world_size": 1},
        )
        self.losses: list[float] = []

    def loader(self, split: PackedSplit, folder: Path, batch: int, workers: int) -> Iterator[Any]:
        """Batches without end, read from files by open_clip's dataset, with its training transform."""
        data = pytest.importorskip("open_clip_train.data")
        table, owners = folder / "pairs.csv", split.image_of_caption.tolist()
        rows = [
            f"{RSICD / 'images' / split.image_names[i]}\t{c}" for i, c in zip(owners, split.captions, strict=True)
        ]
        table.write_text("\n".join(["image\tcaption", *rows]))
        pairs = data.CsvDataset(str(table), self.augmented, "image", "caption", tokenizer=self.tokenizer)
        endless = RandomSampler(pairs, replacement=True, num_samples=10_000 * batch)
        return iter(DataLoader(pairs, batch, sampler=endless, num_workers=workers, pin_memory=workers > 0))

    def steps(self, batches: Iterator[Any], count: int, record: bool = False) -> None:
        self.arguments.log_every_n_steps = 1 if record else 1_000_000
        writer = SimpleNamespace(add_scalar=self._take) if record else None
        data = {"train": SimpleNamespace(dataloader=Some(batches, count), set_epoch=lambda _: None)}
        fixed = (open_clip.ClipLoss(), 0, self.optimiser, None, None, None, self.arguments)
        self.train_one_epoch(self.model, data, *fixed, tb_writer=writer)

    def _take(self, name: str, value: float, _: int) -> None:
        if name == "train/loss":
            self.losses.append(value)


class Some:
    """So many batches of a loader that goes on after them, as an epoch."""

    def __init__(self, batches: Iterator[Any], count: int) -> None:
        self._batches, self.num_batches, self.num_samples = batches, count, 1_000_000

    def __iter__(self) -> Iterator[Any]:
        return (next(self._batches) for _ in range(self.num_batches))


@pytest.fixture(scope="module")
def agreed(rsicd: PackedSplit, lines: list[str]) -> None:
    """Without augmentation and on the same rows, both loops leave the same losses and the same weights."""
    torch.set_num_threads(2)
    model, how = built("openclip[architecture=ViT-B-32]"), recipe(8)
    start = {name: value.clone() for name, value in model.clip.state_dict().items()}
    peer, feed = OpenClip(model, "ViT-B-32", "float32", CPU), feed_of(model, rsicd, how)
    ours = Ours(model, feed, how, record=True)
    batches = []
    for step in range(3):
        rows = feed.batch(step)
        paths = [RSICD / "images" / rsicd.image_names[row] for row in rows.image_rows.tolist()]
        tokens = peer.tokenizer([rsicd.captions[row] for row in rows.text_rows.tolist()])
        batches.append((torch.stack([peer.plain(Image.open(path)) for path in paths]), tokens))
    ours.steps(3)
    peer.steps(iter(batches), 3, record=True)
    losses = [step["pairs"] for step in ours.method.losses]  # type: ignore[attr-defined]
    assert losses == pytest.approx(peer.losses, rel=1e-3)
    assert max(losses) > 1.01 * min(losses), "losses that do not move could not differ either"
    theirs = peer.model.state_dict()
    apart, moved = (
        sum(float((value - other(name)).square().sum()) for name, value in model.clip.state_dict().items()) ** 0.5
        for other in (lambda name: theirs[name.removeprefix("text.")], start.__getitem__)
    )
    lines.append(f"ours and open_clip, 3 equal steps: weights apart by {apart / moved:.1e} of how far they moved")
    assert apart < 0.05 * moved


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.usefixtures("agreed")
def test_fine_tuning(
    benchmark: BenchmarkFixture, rsicd: PackedSplit, lines: list[str], tmp_path: Path, threads: int, precision: str
) -> None:
    """On a CPU, where workers of a loader would take the step's cores: what they could hide is printed."""
    torch.set_num_threads(threads)
    race(benchmark, lines, rsicd, tmp_path, "ViT-B-32", CPU, precision, batch=16, workers=0, steps=1, rounds=3)


@pytest.mark.gpu
@WITHOUT_GPU
@pytest.mark.usefixtures("agreed")
def test_fine_tuning_on_a_gpu(
    benchmark: BenchmarkFixture, rsicd: PackedSplit, lines: list[str], tmp_path: Path
) -> None:
    """Ours has its turn once open_clip's workers have decoded all that they may ahead: to its advantage."""
    torch.set_num_threads(1)
    device = torch.device("cuda")
    race(
        benchmark,
        lines,
        rsicd,
        tmp_path,
        "ViT-B-16",
        device,
        "bfloat16",
        256,
        workers=GPU_CORES,
        steps=20,
        rounds=5,
    )


def race(
    benchmark: BenchmarkFixture,
    lines: list[str],
    split: PackedSplit,
    folder: Path,
    architecture: str,
    device: torch.device,
    precision: str,
    batch: int,
    *,
    workers: int,
    steps: int,
    rounds: int,
) -> None:
    """Ours with `crop` against open_clip with its random crop, `steps` of each a round; on CUDA also compiled."""
    model, how = built(f"openclip[architecture={architecture}]", device), recipe(batch, augmentation=("crop",))
    peer = OpenClip(model, architecture, precision, device)
    length = feed_of(model, split, how, device).batch(0)._drawn.tokens.shape[1]  # type: ignore[union-attr]
    work = {"ours": flops(model, batch, length, device), "open_clip": flops(model, batch, 77, device)}
    loader = peer.loader(split, folder, batch, workers)
    models = {"ours": model}
    if device.type == "cuda":
        models["ours, compiled"] = copy.deepcopy(model)
        compile_blocks(models["ours, compiled"])
        work["ours, compiled"] = work["ours"]
    ways: dict[str, Callable[[], object]] = {}
    for name, own in models.items():
        fed = feed_of(own, split, how, device)
        ours = Ours(own, fed, how, at_a_time=steps, precision=precision, device=device)
        ways[name] = partial(ours.steps, steps)
    ways["open_clip"] = lambda: peer.steps(loader, steps)
    if not workers:
        ways["its loader"] = lambda: next(loader)
    within = {"open_clip": usual, "its loader": usual} | (dict.fromkeys(models, rested) if workers else {})
    ran = Race(ways, within)
    ran.run(benchmark, rounds)
    threads = torch.get_num_threads()
    lines.append(f"{architecture} on {device}, {precision}, batch {batch}, {threads} threads:")
    peak = product(device, precision)
    for name, flop in work.items():
        rate = steps * flop / ran.seconds(name)
        lines.append(
            f"  {name:14} {batch * steps / ran.seconds(name):7.1f} pairs/s, {rate / 1e12:.3f} TFLOP/s, "
            f"{rate / peak:.0%} of a large product's"
        )
    for name in models:
        lines.append(f"  open_clip takes, times as long as {name}: {ran.ratios('open_clip', name)}")
    if not workers:
        lines.append(f"  of a step of its, reading takes {ran.ratios('its loader', 'open_clip')}")
    if device.type == "cuda":
        for name in work:
            with within[name]():
                lines.extend(f"  {name}, {line}" for line in kernels(ways[name], steps))


def kernels(work: Callable[[], object], steps: int) -> Iterator[str]:
    """What the device spends most of a step on, in words."""
    with profile(activities=[ProfilerActivity.CUDA]) as seen:
        work()
        wait()
    events = sorted(seen.key_averages(), key=lambda event: -event.self_device_time_total)
    yield f"a step, ms on the device: {sum(e.self_device_time_total for e in events) / steps / 1000:.1f}"
    yield from (f"{e.self_device_time_total / steps / 1000:7.2f} {e.key[:80]}" for e in events[:30])


def flops(model: Any, batch: int, length: int, device: torch.device) -> float:
    """Multiplications and additions of a step's forward and backward pass, counted on two pairs."""
    tokens = model.tokenize(["a", "b"])[:, :length].to(device)
    images = torch.zeros(2, 3, SIZE, SIZE, device=device)
    with FlopCounterMode(display=False) as counter:
        (model.encode_image(images).sum() + model.encode_text(tokens).sum()).backward()
    model.zero_grad(set_to_none=True)
    return counter.get_total_flops() / 2 * batch


class Prepared:
    """In a feed's place: some of its batches, which are on the device already."""

    steps_per_pass = 1_000_000

    def __init__(self, model: Any, feed: Feed, count: int) -> None:
        self.batches = [feed.batch(step) for step in range(count)]
        self.pool, self._model = feed.pool, model

    def passes(self, _: int) -> int:
        return 0

    def batch(self, step: int) -> Any:
        return self.batches[step % len(self.batches)].encoded_by(self._model)  # nothing is encoded yet


def bare(model: Any, batches: Sequence[Any], how: Pretraining) -> Iterator[None]:
    """The same steps without a loop around: towers, InfoNCE, backward, clipping, AdamW."""
    optimiser = make_optimiser([{"params": list(model.parameters())}], how)
    weights = [p for group in optimiser.param_groups for p in group["params"]]  # a norm depends on the order
    for step in range(10_000):
        inputs = batches[step % len(batches)]._drawn
        x = F.normalize(model.encode_image(inputs.images[0]), dim=1)
        y = F.normalize(model.encode_text(inputs.tokens), dim=1)
        loss = info_nce(x, y, model.logit_scale.exp())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(weights, how.clip_norm)
        optimiser.step()
        yield


@pytest.mark.parametrize(
    ("architecture", "size", "batch", "rounds"),
    [("urbancross-s", 64, 128, 40), ("ViT-B-32", SIZE, 16, 8)],
)
def test_overhead(
    benchmark: BenchmarkFixture, lines: list[str], architecture: str, size: int, batch: int, rounds: int
) -> None:
    """On one thread, where CPU time does not count waiting, and images need not show anything."""
    torch.set_num_threads(1)
    count, draw = 4 * batch, np.random.default_rng(0)
    rows = Rows([draw.integers(0, 256, (count, size, size, 3), dtype=np.uint8)])
    captions = tuple(f"some planes are parked in airport number {row} near a road" for row in range(count))
    drawn = PackedSplit(PackedImages(rows), captions, captions, np.arange(count))
    model, how = built(f"openclip[architecture={architecture}]"), recipe(batch)
    twin = copy.deepcopy(model).train()
    feeds = {
        "plain": feed_of(model, drawn, how),
        "crop, flip, rotate90, colour": feed_of(
            model, drawn, recipe(batch, augmentation=("crop", "flip", "rotate90", "colour"))
        ),
    }
    prepared = Prepared(model, feeds["plain"], 4)
    ours = Ours(model, prepared, how)  # type: ignore[arg-type]
    steps = bare(twin, prepared.batches, how)
    ways: dict[str, Callable[[], object]] = {"ours": lambda: ours.steps(1), "bare": lambda: next(steps)}
    ways |= {name: lambda feed=feed: feed.batch(0) for name, feed in feeds.items()}  # type: ignore[misc]
    ran = Race(ways, {"bare": usual})
    ran.run(benchmark, rounds)
    other = twin.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in model.state_dict().items())
    lines.append(f"{architecture}, batch {batch}, 1 thread: a bare step {1000 * ran.seconds('bare'):.0f} ms")
    lines.append(f"  our loop on batches that are ready takes, times as long: {ran.ratios('ours', 'bare')}")
    for name in feeds:
        lines.append(f"  preparing a batch ({name}): {ran.ratios(name, 'bare')}")
