"""A training step with segments beside one as UrbanCross's released scripts take it.

    pytest benchmarks/test_training_segments.py --benchmark-only

They decode an image and its segments, encode the segments by a frozen tower and pad texts to 77 tokens, in every
step. Ours has segments encoded once. Both take turns; medians are printed; that both compute the same is asserted.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pytest_benchmark.fixture import BenchmarkFixture
from side_by_side import CPU, RSICD, SIZE, Ours, Race, built, feed_of, recipe, usual
from test_loading import RELEASED
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler

from urbancross_bench.data.packed import PackedImages, PackedSegments, PackedSplit, Rows
from urbancross_bench.modelling.embed import embed_segments

pytest_plugins = "side_by_side"

SEGMENTS, PASSES = 10, 15  # of an image; over the data, in the released scripts
Item = tuple[Path, list[Path], str]


class Files(Dataset[Any]):
    """An image, its segments and its caption, read from files each time."""

    def __init__(self, items: Sequence[Item], of_image: Any, of_segment: Any) -> None:
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
def items(rsicd: PackedSplit, tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    """Each image with ten segments: the image where they are, white elsewhere, as JPEG files."""
    folder, draw, found = tmp_path_factory.mktemp("segments"), np.random.default_rng(0), []
    for row, name in enumerate(rsicd.image_names[:32]):
        image, files = Image.open(RSICD / "images" / name).convert("RGB"), []
        for number in range(SEGMENTS):
            left, top, width, height = draw.integers((0, 0, 30, 30), (150, 150, 150, 150)).tolist()
            box = (left, top, min(SIZE, left + width), min(SIZE, top + height))
            segment = Image.new("RGB", image.size, "white")
            segment.paste(image.crop(box), box[:2])
            files.append(folder / f"{row}_{number}.jpg")
            segment.save(files[-1])
        found.append((RSICD / "images" / name, files, rsicd.captions[int(rsicd.captions_of(np.array([row]))[0])]))
    return found


def test_segments(benchmark: BenchmarkFixture, lines: list[str], rsicd: PackedSplit, items: list[Item]) -> None:
    torch.set_num_threads(1)
    batch = 16
    model, how = (
        built("sam_fused[architecture=ViT-B-32]"),
        recipe(batch, loss="hinge", augmentation=("rotate_crop",)),
    )
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    script = Script(copy.deepcopy(model).train(), frozen)
    start = time.perf_counter()
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB")) for _, files, _ in items for file in files])
    counts = np.full(len(items), SEGMENTS)
    stored = embed_segments(
        frozen, PackedSegments(Rows([pixels]), counts.cumsum() - counts, counts, SEGMENTS), CPU
    )
    once = (time.perf_counter() - start) / len(items)
    segments = PackedSegments(Rows([stored.numpy()]), counts.cumsum() - counts, counts, SEGMENTS)
    rows = rsicd.images.take(np.arange(len(items))).rows
    captions = tuple(caption for *_, caption in items)
    of_items = PackedSplit(
        PackedImages(Rows([rows]), segments), rsicd.image_names[: len(items)], captions, np.arange(len(items))
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
    ran.run(benchmark, 2)
    whole = ran.seconds("ours") + batch * once / PASSES
    lines.append(f"ViT-B-32 with {SEGMENTS} segments an image, float32, batch {batch}, 1 thread:")
    lines.append(f"  ours {ran.seconds('ours'):.2f} s a step, script {ran.seconds('script'):.2f} s")
    lines.append(f"  the script takes, times as long: {ran.ratios('script', 'ours')}")
    lines.append(
        f"  with the storing of features spread over {PASSES} passes: {ran.seconds('script') / whole:.2f}"
    )
