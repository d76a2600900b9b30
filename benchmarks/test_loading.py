"""Packing and loading beside what the released code does: decoding, resizing and augmenting in every epoch.

Each round is one epoch over the same images, to normalised float batches of 64 at 224 pixels. Compare within a
group; `peer` rows are the ones to beat.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from urbancross_bench.data.domain import Split
from urbancross_bench.data.images import FolderImages
from urbancross_bench.data.pack import pack
from urbancross_bench.data.packed import PackedSplit
from urbancross_bench.interfaces import Domain, ImageFormat
from urbancross_bench.modelling.inputs import prepared
from urbancross_bench.modelling.runtime import keep_freed_memory

SHARED = Path(__file__).parent.parent.parent / "shared" / "data"
IMAGES, BATCH, SIZE, CORES = 1000, 64, 224, 2
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
WITHOUT_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, WITHOUT_GPU])]

# The training and evaluation transforms of the released UrbanCross code, with CLIP's mean and std.
TO_TENSOR = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
RELEASED = {
    "rotate_crop": transforms.Compose(
        [
            transforms.Resize((278, 278)),
            transforms.RandomRotation((0, 90)),
            transforms.RandomCrop(SIZE),
            *TO_TENSOR,
        ]
    ),
    "plain": transforms.Compose([transforms.Resize((SIZE, SIZE)), *TO_TENSOR]),
}


class Model:
    """What `prepared` asks of an encoder."""

    mean, std = MEAN, STD


class Files(Dataset):  # type: ignore[type-arg]
    """Images by path, transformed when asked for."""

    def __init__(self, paths: list[Path], transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.paths = paths
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.transform(Image.open(self.paths[index]).convert("RGB"))


@pytest.fixture(scope="module", autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(CORES)
    keep_freed_memory()  # as in every process that trains
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """RSICD's images where they are at hand, else drawn ones of the same size and format."""
    if (SHARED / "rsicd").is_dir():
        return sorted((SHARED / "rsicd" / "images").iterdir())[:IMAGES]
    folder, noise = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for index in range(IMAGES):
        small = Image.fromarray(noise.integers(0, 256, (28, 28, 3), dtype=np.uint8))
        small.resize((SIZE, SIZE)).save(folder / f"{index:05d}.jpg", quality=75)
    return sorted(folder.iterdir())


def split_of_files(paths: list[Path]) -> Split:
    names = [path.name for path in paths]
    everything = np.arange(len(names))
    images = FolderImages(paths[0].parent, names)
    domain = Domain("files", names, {"train": everything}, ["a tile"] * len(names), everything, images)
    return Split(domain, "train", everything, tuple(domain.captions), everything)


@pytest.fixture(scope="module")
def packed(paths: list[Path], tmp_path_factory: pytest.TempPathFactory) -> PackedSplit:
    folder = tmp_path_factory.mktemp("pack")
    pack(split_of_files(paths), ImageFormat(SIZE), folder, lambda _: None)
    return PackedSplit.load(folder)


def with_dataloader(paths: list[Path], transform: Callable[[Image.Image], torch.Tensor], device: str) -> int:
    loader = DataLoader(Files(paths, transform), BATCH, shuffle=True, num_workers=CORES)
    return sum(len(batch.to(device)) for batch in loader)


def with_datasets(paths: list[Path], transform: Callable[[Image.Image], torch.Tensor], device: str) -> int:
    import datasets

    table = datasets.Dataset.from_dict({"image": [str(path) for path in paths]})
    table = table.cast_column("image", datasets.Image())
    table.set_transform(lambda rows: {"image": [transform(image.convert("RGB")) for image in rows["image"]]})
    loader = DataLoader(table, BATCH, shuffle=True, num_workers=CORES)  # type: ignore[arg-type]
    return sum(len(batch["image"].to(device)) for batch in loader)


def with_pack(packed: PackedSplit, augmentation: list[str], device: str) -> int:
    order, seen = np.random.default_rng(0).permutation(len(packed.images)), 0
    for number, start in enumerate(range(0, len(order), BATCH)):
        generator = torch.Generator().manual_seed(number)
        taken = packed.images.take(order[start : start + BATCH]).rows
        batch = prepared(taken, Model(), torch.device(device), augmentation, generator)  # type: ignore[arg-type]
        seen += len(batch)
    if device == "cuda":
        torch.cuda.synchronize()
    return seen


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kind", RELEASED)
@pytest.mark.parametrize("loader", ["ours", "peer DataLoader", "peer datasets"])
def test_an_epoch(
    benchmark: BenchmarkFixture, paths: list[Path], packed: PackedSplit, loader: str, kind: str, device: str
) -> None:
    benchmark.group = f"an epoch, {kind}, {device}"
    if loader == "ours":
        arguments = (with_pack, packed, [kind] if kind != "plain" else [], device)
    else:
        peer = with_dataloader if loader.endswith("DataLoader") else with_datasets
        arguments = (peer, paths, RELEASED[kind], device)
    call, *rest = arguments
    assert benchmark.pedantic(call, args=rest, rounds=3, warmup_rounds=1) == IMAGES


@pytest.mark.benchmark(group="packing, beside one epoch of the released training transform")
def test_packing(benchmark: BenchmarkFixture, paths: list[Path], tmp_path: Path) -> None:
    folders = (tmp_path / str(number) for number in itertools.count())

    def once() -> None:
        folder = next(folders)
        folder.mkdir()
        pack(split_of_files(paths), ImageFormat(SIZE), folder, lambda _: None)

    benchmark.pedantic(once, rounds=3, warmup_rounds=1)


@pytest.mark.benchmark(group="packing, beside one epoch of the released training transform")
@pytest.mark.parametrize("kind", RELEASED)
def test_peer_epoch(benchmark: BenchmarkFixture, paths: list[Path], kind: str) -> None:
    benchmark.pedantic(with_dataloader, args=(paths, RELEASED[kind], "cpu"), rounds=3, warmup_rounds=1)
