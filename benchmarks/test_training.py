"""Training beside open_clip's own loop, beside UrbanCross's scripts with segments, and beside bare steps.

    pip install "open_clip_torch[training]"        # for open_clip's loop; without it that part is skipped
    pytest benchmarks/test_training.py --benchmark-only

Ways of doing the same take turns, round after round, so that a busy machine slows all alike. At the end ratios are
printed: medians over rounds, by the clock and by CPU time. What is asserted is that all ways compute the same.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
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
from test_loading import RELEASED, WITHOUT_GPU
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torch.utils.flop_counter import FlopCounterMode

from urbancross_bench.data.domain import split_of
from urbancross_bench.data.pack import pack
from urbancross_bench.data.packed import PackedImages, PackedSegments, PackedSplit, Rows
from urbancross_bench.data.views import source_view
from urbancross_bench.interfaces import ImageFormat
from urbancross_bench.modelling.curve import Curve
from urbancross_bench.modelling.embed import embed_segments
from urbancross_bench.modelling.feeds import Feed
from urbancross_bench.modelling.loop import train
from urbancross_bench.modelling.losses import info_nce
from urbancross_bench.modelling.optimiser import make_optimiser
from urbancross_bench.modelling.pair_loss import PairLoss, Supervised
from urbancross_bench.modelling.runtime import configure
from urbancross_bench.registry import Registry
from urbancross_bench.specs import Pretraining

RSICD = Path(__file__).parent.parent.parent / "shared" / "data" / "rsicd"
CPU, SIZE = torch.device("cpu"), 224
SEGMENTS, PASSES = 10, 15  # of an image; over the data, in the released scripts
GPU_CORES = 16

lines: list[str] = []


class Race:
    """Ways of doing the same, each done once a round. The first is what pytest-benchmark's own table shows."""

    def __init__(
        self, ways: dict[str, Callable[[], object]], within: dict[str, Callable[[], AbstractContextManager[None]]]
    ) -> None:
        self._ways, self._within = ways, within
        self.wall: dict[str, list[float]] = {name: [] for name in ways}
        self.cpu: dict[str, list[float]] = {name: [] for name in ways}

    def run(self, benchmark: BenchmarkFixture, rounds: int) -> None:
        first, *others = self._ways

        def before() -> None:
            for name in others:
                self._timed(name)

        benchmark.pedantic(self._timed, args=(first,), setup=before if others else None, rounds=rounds)
        benchmark.extra_info |= {name: self.seconds(name) for name in self._ways}

    def _timed(self, name: str) -> None:
        with self._within.get(name, nullcontext)():
            _wait()
            wall, cpu = time.perf_counter(), time.process_time()
            self._ways[name]()
            _wait()
            self.cpu[name].append(time.process_time() - cpu)
            self.wall[name].append(time.perf_counter() - wall)

    def seconds(self, name: str) -> float:
        return statistics.median(self.wall[name])

    def ratios(self, name: str, to: str) -> str:
        """How much longer one takes than another, in the middle of all rounds."""
        both = [
            statistics.median(a / b for a, b in zip(times[name], times[to], strict=True))
            for times in (self.wall, self.cpu)
        ]
        return f"{both[0]:.3f} by the clock, {both[1]:.3f} by CPU time"


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextmanager
def usual() -> Iterator[None]:
    """Inside, torch runs as open_clip's `main` sets it; outside as in our workers."""
    threads = torch.get_num_threads()
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    yield
    configure(threads, 0)


@pytest.fixture(scope="module", autouse=True)
def _settings_and_summary(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(before)
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n" + "\n".join(lines))


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> PackedSplit:
    """RSICD's test split, the smallest: what is trained on does not change how long it takes."""
    if not RSICD.is_dir():
        pytest.skip(f"no RSICD at {RSICD}")
    folder = tmp_path_factory.mktemp("pack")
    reference = f"karpathy[file={RSICD / 'dataset_rsicd.json'}]"
    domain = Registry.discover().resolve("dataset", reference).build().read(None)
    pack(split_of(domain, "test"), ImageFormat(SIZE), folder, lambda _: None)
    return PackedSplit.load(folder)


def built(encoder: str, device: torch.device = CPU) -> Any:
    configure(torch.get_num_threads(), 0)
    return Registry.discover().resolve("encoder", encoder).build().load().to(device)


def recipe(batch: int, **more: Any) -> Pretraining:
    return Pretraining(steps=10_000, batch_size=batch, learning_rate=1e-4, warmup=0, schedule="constant", **more)


class Recorded(Supervised):
    """Pre-training that remembers its losses."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.losses: list[dict[str, float]] = []

    def loss(self, source: Any, target: Any, progress: Any) -> dict[str, Tensor]:
        losses = super().loss(source, target, progress)
        self.losses.append({name: value.item() for name, value in losses.items()})
        return losses


class Ours:
    """Our loop, a step at a time, over what a feed draws."""

    def __init__(self, model: Any, feed: Any, how: Pretraining, *, segments: bool = False, **options: Any) -> None:
        kind = Recorded if options.pop("record", False) else Supervised
        self.method = kind(PairLoss(how.loss, model), how.segment_weight if segments else 0.0)
        device = options.setdefault("device", CPU)
        target = Feed(model, None, batch_size=1, augmentation=(), device=device, seed=0, hidden="there is none")
        # A candidate at each step: the loop stops there and says so, and does nothing else.
        options = {
            "precision": "float32",
            "loss_name": how.loss,
            "candidates": how.steps,
            "curve": Curve(),
        } | options
        silent = {"report": lambda _: None, "on_pass": lambda _: None}
        self._loop = train(model, self.method, feed, target, how, **options, **silent)

    def steps(self, count: int) -> None:
        for _ in range(count):
            next(self._loop)


def feed_of(model: Any, split: PackedSplit, how: Pretraining, device: torch.device = CPU) -> Feed:
    size, augmentation = how.batch_size, how.augmentation
    return Feed(
        model, source_view([split]), batch_size=size, augmentation=augmentation, device=device, seed=0, hidden=""
    )


# 1. open_clip


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
def agreed(split: PackedSplit) -> None:
    """Without augmentation and on the same rows, both loops leave the same losses and the same weights."""
    torch.set_num_threads(2)
    model, how = built("openclip[architecture=ViT-B-32]"), recipe(8)
    start = {name: value.clone() for name, value in model.clip.state_dict().items()}
    peer, feed = OpenClip(model, "ViT-B-32", "float32", CPU), feed_of(model, split, how)
    ours = Ours(model, feed, how, record=True)
    batches = []
    for step in range(3):
        rows = feed.batch(step)
        paths = [RSICD / "images" / split.image_names[row] for row in rows.image_rows.tolist()]
        tokens = peer.tokenizer([split.captions[row] for row in rows.text_rows.tolist()])
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
    benchmark: BenchmarkFixture, split: PackedSplit, tmp_path: Path, threads: int, precision: str
) -> None:
    """On a CPU, where workers of a loader would take the step's cores: what they could hide is printed."""
    torch.set_num_threads(threads)
    race(benchmark, split, tmp_path, "ViT-B-32", CPU, precision, batch=16, workers=0, steps=1, rounds=4)


@pytest.mark.gpu
@WITHOUT_GPU
@pytest.mark.usefixtures("agreed")
def test_fine_tuning_on_a_gpu(benchmark: BenchmarkFixture, split: PackedSplit, tmp_path: Path) -> None:
    """open_clip's workers go on decoding while ours has its turn, which is to open_clip's advantage."""
    torch.set_num_threads(1)
    device = torch.device("cuda")
    race(benchmark, split, tmp_path, "ViT-B-16", device, "bfloat16", 256, workers=GPU_CORES, steps=20, rounds=5)


def race(
    benchmark: BenchmarkFixture,
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
    """Ours with `crop` against open_clip with its random crop, `steps` of each a round."""
    model, how = built(f"openclip[architecture={architecture}]", device), recipe(batch, augmentation=("crop",))
    peer, feed = OpenClip(model, architecture, precision, device), feed_of(model, split, how, device)
    length = feed.batch(0)._drawn.tokens.shape[1]  # type: ignore[union-attr]
    work = {"ours": flops(model, batch, length, device), "open_clip": flops(model, batch, 77, device)}
    ours = Ours(model, feed, how, precision=precision, device=device)
    loader = peer.loader(split, folder, batch, workers)
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: ours.steps(steps),
        "open_clip": lambda: peer.steps(loader, steps),
    }
    if not workers:
        ways["its loader"] = lambda: next(loader)
    ran = Race(ways, {"open_clip": usual, "its loader": usual})
    ran.run(benchmark, rounds)
    threads = torch.get_num_threads()
    lines.append(f"{architecture} on {device}, {precision}, batch {batch}, {threads} threads:")
    peak = product(device, precision)
    for name, flop in work.items():
        rate = steps * flop / ran.seconds(name)
        lines.append(
            f"  {name:10} {batch * steps / ran.seconds(name):7.1f} pairs/s, {rate / 1e12:.3f} TFLOP/s, "
            f"{rate / peak:.0%} of a large product's"
        )
    lines.append(f"  open_clip takes {ran.ratios('open_clip', 'ours')}, times as long")
    if not workers:
        lines.append(f"  of a step of its, reading takes {ran.ratios('its loader', 'open_clip')}")


def flops(model: Any, batch: int, length: int, device: torch.device) -> float:
    """Multiplications and additions of a step's forward and backward pass, counted on two pairs."""
    tokens = model.tokenize(["a", "b"])[:, :length].to(device)
    images = torch.zeros(2, 3, SIZE, SIZE, device=device)
    with FlopCounterMode(display=False) as counter:
        (model.encode_image(images).sum() + model.encode_text(tokens).sum()).backward()
    model.zero_grad(set_to_none=True)
    return counter.get_total_flops() / 2 * batch


def product(device: torch.device, precision: str) -> float:
    """Multiplications and additions a second in the product of two large blocks."""
    size = 8192 if device.type == "cuda" else 2048
    block = torch.randn(size, size, device=device).to(getattr(torch, precision))
    times = []
    for _ in range(6):
        _wait()
        start = time.perf_counter()
        block @ block
        _wait()
        times.append(time.perf_counter() - start)
    return 2 * size**3 / min(times)


# 2. Segments, as the released scripts train with them


class Files(Dataset[Any]):
    """An image, its segments and its caption, read from files each time."""

    def __init__(self, items: Sequence[tuple[Path, list[Path], str]], of_image: Any, of_segment: Any) -> None:
        self.items, self.of_image, self.of_segment = items, of_image, of_segment

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, str]:
        path, segments, caption = self.items[index]
        images = [self.of_segment(Image.open(one).convert("RGB")) for one in segments]
        return self.of_image(Image.open(path).convert("RGB")), torch.stack(images), caption


class Script:
    """A step of such a script: a frozen tower encodes the segments anew, texts are as long as they can be."""

    def __init__(self, model: Any, frozen: Any) -> None:
        self.model, self.frozen = model, frozen
        self.optimiser = torch.optim.Adam(model.parameters(), lr=1e-5)

    def losses(self, images: Tensor, segments: Tensor, captions: Sequence[str]) -> tuple[Tensor, Tensor]:
        x = F.normalize(self.model.encode_image(images), dim=1)
        y = F.normalize(self.model.encode_text(self.model.tokenize(captions)), dim=1)
        parts = self.frozen.encode_segment(segments.flatten(0, 1)).unflatten(0, segments.shape[:2])
        mean = F.normalize(F.normalize(parts, dim=2).sum(dim=1), dim=1)
        return self.hinge(x, y), self.hinge(mean, y)

    def hinge(self, x: Tensor, y: Tensor) -> Tensor:
        """Summed over all negatives, both ways."""
        scores = x @ y.T
        own = scores.diag().view(-1, 1)
        other = torch.eye(len(scores)) < 0.5
        return sum((0.2 + s - own).clamp(min=0)[other].sum() for s in (scores, scores.T))  # type: ignore[return-value]

    def step(self, images: Tensor, segments: Tensor, captions: Sequence[str]) -> None:
        self.optimiser.zero_grad()
        torch.stack(self.losses(images, segments, captions)).sum().backward()
        self.optimiser.step()


@pytest.fixture(scope="module")
def items(split: PackedSplit, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, list[Path], str]]:
    """Each image with ten segments: the image where they are, white elsewhere, as JPEG files."""
    folder, draw, found = tmp_path_factory.mktemp("segments"), np.random.default_rng(0), []
    for row, name in enumerate(split.image_names[:32]):
        image, files = Image.open(RSICD / "images" / name).convert("RGB"), []
        for number in range(SEGMENTS):
            left, top, width, height = draw.integers((0, 0, 30, 30), (150, 150, 150, 150)).tolist()
            box = (left, top, min(SIZE, left + width), min(SIZE, top + height))
            segment = Image.new("RGB", image.size, "white")
            segment.paste(image.crop(box), box[:2])
            files.append(folder / f"{row}_{number}.jpg")
            segment.save(files[-1])
        found.append((RSICD / "images" / name, files, split.captions[int(split.captions_of(np.array([row]))[0])]))
    return found


def test_segments(
    benchmark: BenchmarkFixture, split: PackedSplit, items: list[tuple[Path, list[Path], str]]
) -> None:
    torch.set_num_threads(2)
    batch = 8
    model, how = (
        built("sam_fused[architecture=ViT-B-32]"),
        recipe(batch, loss="hinge", augmentation=("rotate_crop",)),
    )
    frozen, script = copy.deepcopy(model).eval().requires_grad_(False), None
    script = Script(copy.deepcopy(model).train(), frozen)
    start = time.perf_counter()
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for _, files, _ in items for file in files])
    counts = np.full(len(items), SEGMENTS)
    stored = embed_segments(
        frozen, PackedSegments(Rows([pixels]), counts.cumsum() - counts, counts, SEGMENTS), CPU
    )
    once = (time.perf_counter() - start) / len(items)
    segments = PackedSegments(Rows([stored.numpy()]), counts.cumsum() - counts, counts, SEGMENTS)
    rows = split.images.take(np.arange(len(items))).rows
    captions = tuple(caption for *_, caption in items)
    of_items = PackedSplit(
        PackedImages(Rows([rows]), segments), split.image_names[: len(items)], captions, np.arange(len(items))
    )

    plain = Files(items, RELEASED["plain"], RELEASED["plain"])
    first = feed_of(model, of_items, how.model_copy(update={"augmentation": ()}))
    agreeing = Ours(model, first, how, segments=True, record=True)
    chosen = first.batch(0).image_rows.tolist()
    agreeing.steps(1)  # its loss is that of the weights both started from
    images, parts, texts = zip(*(plain[row] for row in chosen), strict=True)
    with torch.no_grad():
        expected = [float(loss) / batch for loss in script.losses(torch.stack(images), torch.stack(parts), texts)]
    assert list(agreeing.method.losses[0].values()) == pytest.approx(expected, rel=1e-4)  # type: ignore[attr-defined]

    ours = Ours(model, feed_of(model, of_items, how), how, segments=True)
    turned = Files(items, RELEASED["rotate_crop"], RELEASED["plain"])
    endless = RandomSampler(turned, replacement=True, num_samples=10_000 * batch)
    loader = iter(DataLoader(turned, batch, sampler=endless))
    ways: dict[str, Callable[[], object]] = {
        "ours": lambda: ours.steps(1),
        "script": lambda: script.step(*next(loader)),
    }
    ran = Race(ways, {"script": usual})
    ran.run(benchmark, 4)
    whole = ran.seconds("ours") + batch * once / PASSES
    lines.append(f"ViT-B-32 with {SEGMENTS} segments an image, float32, batch {batch}, 2 threads:")
    lines.append(f"  ours {ran.seconds('ours'):.2f} s a step, script {ran.seconds('script'):.2f} s")
    lines.append(f"  the script takes {ran.ratios('script', 'ours')}, times as long")
    lines.append(
        f"  with the storing of features spread over {PASSES} passes: {ran.seconds('script') / whole:.2f}"
    )


# 3. The bare step


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
    [("urbancross-s", 64, 128, 40), ("ViT-B-32", SIZE, 16, 10)],
)
def test_overhead(benchmark: BenchmarkFixture, architecture: str, size: int, batch: int, rounds: int) -> None:
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
    lines.append(f"  our loop on batches that are ready takes {ran.ratios('ours', 'bare')}, times as long")
    for name in feeds:
        lines.append(f"  preparing a batch ({name}): {ran.ratios(name, 'bare')}")
