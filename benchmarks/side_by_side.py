"""What benchmarks of training share: ways that take turns, our loop a step at a time, RSICD in a pack."""

from __future__ import annotations

import gc
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from urbancross_bench.data.domain import split_of
from urbancross_bench.data.pack import pack
from urbancross_bench.data.packed import PackedSplit
from urbancross_bench.data.views import source_view
from urbancross_bench.interfaces import ImageFormat
from urbancross_bench.modelling.curve import Curve
from urbancross_bench.modelling.feeds import Feed
from urbancross_bench.modelling.loop import train
from urbancross_bench.modelling.pair_loss import PairLoss, Supervised
from urbancross_bench.modelling.runtime import configure
from urbancross_bench.registry import Registry
from urbancross_bench.specs import Pretraining

RSICD = Path(os.environ.get("RSICD", Path(__file__).parent.parent.parent / "shared" / "data" / "rsicd"))
CPU, SIZE = torch.device("cpu"), 224


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

        benchmark.pedantic(self._timed, args=(first,), setup=before, rounds=rounds, warmup_rounds=1)
        for times in (*self.wall.values(), *self.cpu.values()):
            del times[0]  # the warm-up
        benchmark.extra_info |= {name: self.seconds(name) for name in self._ways}
        self._ways = {}  # pytest-benchmark keeps what it has called, and with it would keep every model

    def _timed(self, name: str) -> None:
        with self._within.get(name, nullcontext)():
            wait()
            wall, cpu = time.perf_counter(), time.process_time()
            self._ways[name]()
            wait()
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


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def product(device: torch.device, precision: str) -> float:
    """Multiplications and additions a second in the product of two large blocks."""
    size = 8192 if device.type == "cuda" else 2048
    block = torch.randn(size, size, device=device).to(getattr(torch, precision))
    times, at_once = [], 10 if device.type == "cuda" else 1  # of which the device does not wait for Python
    for _ in range(6):
        wait()
        start = time.perf_counter()
        for _ in range(at_once):
            block @ block
        wait()
        times.append((time.perf_counter() - start) / at_once)
    return 2 * size**3 / min(times)


@contextmanager
def usual() -> Iterator[None]:
    """Inside, torch runs as open_clip's `main` sets it; outside as in our workers."""
    threads = torch.get_num_threads()
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    yield
    configure(threads, 0)


@contextmanager
def rested() -> Iterator[None]:
    """Until open_clip's workers have filled their queue, and leave the processor to others."""
    time.sleep(4)
    yield


@pytest.fixture(scope="module")
def lines(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """What is printed at the end of a module; torch is then as it was before."""
    before, found = torch.get_num_threads(), list[str]()
    yield found
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(before)
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print("\n" + "\n".join(found))


@pytest.fixture(scope="session")
def rsicd(tmp_path_factory: pytest.TempPathFactory) -> PackedSplit:
    """RSICD's test split, the smallest: what is trained on does not change how long it takes."""
    if not RSICD.is_dir():
        pytest.skip(f"no RSICD at {RSICD}")
    folder = tmp_path_factory.mktemp("pack")
    reference = f"karpathy[file={RSICD / 'dataset_rsicd.json'}]"
    domain = Registry.discover().resolve("dataset", reference).build().read(None)
    pack(split_of(domain, "test"), ImageFormat(SIZE), folder, lambda _: None)
    return PackedSplit.load(folder)


def built(encoder: str, device: torch.device = CPU) -> Any:
    gc.collect()  # of the test before: a loop that is not run to its end is part of a cycle
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
    """Our loop, some steps at a time, over what a feed draws."""

    def __init__(
        self,
        model: Any,
        feed: Any,
        how: Pretraining,
        *,
        at_a_time: int = 1,
        segments: bool = False,
        **options: Any,
    ) -> None:
        kind = Recorded if options.pop("record", False) else Supervised
        self.method = kind(PairLoss(how.loss, model), how.segment_weight if segments else 0.0)
        device = options.setdefault("device", CPU)
        target = Feed(model, None, batch_size=1, augmentation=(), device=device, seed=0, hidden="there is none")
        # The loop stops at a candidate, after waiting for the device, and does nothing else there.
        self._at_a_time = at_a_time
        assert how.steps is not None
        options = {
            "precision": "float32",
            "loss_name": how.loss,
            "candidates": how.steps // at_a_time,
            "curve": Curve(),
        } | options
        silent = {"report": lambda _: None, "on_pass": lambda _: None}
        self._loop = train(model, self.method, feed, target, how, **options, **silent)

    def steps(self, count: int) -> None:
        assert count % self._at_a_time == 0
        for _ in range(count // self._at_a_time):
            next(self._loop)


def feed_of(model: Any, split: PackedSplit, how: Pretraining, device: torch.device = CPU) -> Feed:
    size, augmentation = how.batch_size, how.augmentation
    return Feed(
        model, source_view([split]), batch_size=size, augmentation=augmentation, device=device, seed=0, hidden=""
    )
