"""Embedding against open_clip as most code uses it, and a step with stored segment features against naive ones.

`pytest benchmarks/test_encoding.py --benchmark-only` prints the times; ratios are theirs. Where RSICD is at hand
its test split is embedded whole, which takes the peer minutes on a CPU.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture
from side_by_side import product
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from urbancross_bench.data.domain import split_of
from urbancross_bench.data.pack import pack
from urbancross_bench.data.packed import PackedImages, PackedSplit, Rows
from urbancross_bench.evaluation.ranking import evaluate_retrieval
from urbancross_bench.execution.drift import drift, sampled
from urbancross_bench.interfaces import ImageFormat
from urbancross_bench.interfaces.selector import Features
from urbancross_bench.modelling.embed import embed_images, embed_texts
from urbancross_bench.modelling.losses import info_nce
from urbancross_bench.modelling.runtime import configure
from urbancross_bench.registry import Registry

RSICD = Path(__file__).parent.parent.parent / "shared" / "data" / "rsicd" / "dataset_rsicd.json"
ARCHITECTURE = "ViT-B-32"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
BATCH, SEGMENTS = 16, 10


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> PackedSplit:
    """The test split of RSICD: 1,093 images, 5,465 captions, 3,331 of them different."""
    if not RSICD.is_file():
        pytest.skip(f"no RSICD at {RSICD}")
    folder = tmp_path_factory.mktemp("pack")
    domain = Registry.discover().resolve("dataset", f"karpathy[file={RSICD}]").build().read(None)
    pack(split_of(domain, "test"), ImageFormat(224), folder, lambda _: None)
    return PackedSplit.load(folder)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    loaded: torch.nn.Module = (
        Registry.discover().resolve("encoder", f"openclip[architecture={ARCHITECTURE}]").build().load()
    )
    return loaded.to(DEVICE).eval()


def usual(model: torch.nn.Module, split: PackedSplit) -> tuple[Tensor, Tensor]:
    """Single precision, every caption, 77 tokens, 64 at a time."""
    tokens = open_clip.get_tokenizer(ARCHITECTURE)(list(split.captions))
    mean, std = (torch.tensor(values)[:, None, None] for values in (model.mean, model.std))
    with torch.inference_mode():
        images = [
            model.clip.encode_image(  # type: ignore[operator, union-attr]
                ((torch.from_numpy(block.rows).permute(0, 3, 1, 2).float() / 255 - mean) / std).to(DEVICE)
            ).cpu()
            for block in split.images.blocks(64)
        ]
        texts = [model.clip.encode_text(tokens[i : i + 64].to(DEVICE)).cpu() for i in range(0, len(tokens), 64)]  # type: ignore[operator, union-attr]
    return torch.cat(images), torch.cat(texts)


def ours(precision: str) -> Callable[[torch.nn.Module, PackedSplit], tuple[Tensor, Tensor]]:
    def embed(model: torch.nn.Module, split: PackedSplit) -> tuple[Tensor, Tensor]:
        configure(torch.get_num_threads(), 0)  # as a worker does
        return (
            embed_images(model, split.images, DEVICE, precision),  # type: ignore[arg-type]
            embed_texts(model, split.captions, DEVICE, precision),  # type: ignore[arg-type]
        )

    return embed


@pytest.mark.parametrize("way", ["open_clip as usual", "ours, float32", "ours, bfloat16"])
@pytest.mark.benchmark(group=f"embedding RSICD's test split, {ARCHITECTURE}")
def test_embedding(benchmark: BenchmarkFixture, model: torch.nn.Module, split: PackedSplit, way: str) -> None:
    run = usual if way.startswith("open_clip") else ours(way.rpartition(" ")[2])
    images, texts = benchmark.pedantic(run, (model, split), rounds=1, iterations=1)
    features = Features(images.numpy(), texts.numpy(), split.image_of_caption)
    benchmark.extra_info["mR"] = evaluate_retrieval(images, texts, split.image_of_caption).mr
    if way == "ours, bfloat16":
        sample = split.part(sampled(len(split.images)))
        exact = Features(*(part.numpy() for part in ours("float32")(model, sample)), sample.image_of_caption)
        benchmark.extra_info["drift"] = drift(features, exact)
    print(way, json.dumps(benchmark.extra_info))


@pytest.mark.gpu
@pytest.mark.skipif(DEVICE.type != "cuda", reason="needs a CUDA device")
@pytest.mark.parametrize(("architecture", "count"), [("ViT-B-16", 16384), ("ViT-L-14", 4096)])
def test_images_per_second(benchmark: BenchmarkFixture, architecture: str, count: int) -> None:
    """Both from the same packed pixels in bfloat16 under autocast; the plain loop as most code has it."""
    torch.manual_seed(0)
    loaded = Registry.discover().resolve("encoder", f"openclip[architecture={architecture}]").build().load()
    loaded = loaded.to(DEVICE).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (count, 224, 224, 3), dtype=np.uint8)
    mean, std = (torch.tensor(values)[:, None, None] for values in (loaded.mean, loaded.std))
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        loaded.encode_image(torch.zeros(1, 3, 224, 224, device=DEVICE))
    work, peak = count * counter.get_total_flops(), product(DEVICE, "bfloat16")

    def plain() -> Tensor:
        parts = []
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
            for start in range(0, count, 64):
                block = torch.from_numpy(pixels[start : start + 64]).permute(0, 3, 1, 2).float() / 255
                parts.append(loaded.clip.encode_image(((block - mean) / std).to(DEVICE)).float().cpu())
        return torch.cat(parts)

    seconds: dict[str, list[float]] = {"ours": [], "plain": []}
    found: dict[str, Tensor] = {}

    def once() -> None:
        for name, way in (("plain", plain), ("ours", lambda: ours_of(loaded, pixels))):
            torch.cuda.synchronize()
            start = time.perf_counter()
            found[name] = way()
            torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)

    benchmark.pedantic(once, rounds=2, warmup_rounds=1)
    for name, times in seconds.items():
        rate = work / min(times[1:])
        print(
            f"{architecture}, {name}: {count / min(times[1:]):.0f} images/s, {rate / 1e12:.0f} TFLOP/s, "
            f"{rate / peak:.0%} of a large bfloat16 product's {peak / 1e12:.0f}"
        )
    assert F.cosine_similarity(found["ours"], found["plain"]).min() > 0.99


def ours_of(model: torch.nn.Module, pixels: np.ndarray) -> Tensor:
    return embed_images(model, PackedImages(Rows([pixels])), DEVICE, "bfloat16")  # type: ignore[arg-type]


@pytest.mark.parametrize("way", ["plain", "stored features", "naive, frozen", "naive, with gradients"])
@pytest.mark.benchmark(group=f"one training step, {BATCH} images with {SEGMENTS} segments, {ARCHITECTURE}")
def test_step_with_segments(benchmark: BenchmarkFixture, model: torch.nn.Module, way: str) -> None:
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, 224, 224, generator=draw).to(DEVICE)
    segments = torch.randn(BATCH * SEGMENTS, 3, 224, 224, generator=draw).to(DEVICE)
    stored = torch.randn(BATCH, SEGMENTS, model.width, generator=draw).to(DEVICE)  # type: ignore[arg-type]
    texts = [f"some planes are parked in airport number {index} near a road" for index in range(BATCH)]
    tokens = model.tokenize(texts)  # type: ignore[operator]
    tokens = tokens[:, : model.text_length(tokens)].to(DEVICE)  # type: ignore[operator]
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-6)

    def step() -> None:
        x, y = (F.normalize(side, dim=1) for side in (model.encode_image(images), model.encode_text(tokens)))  # type: ignore[operator]
        scale = model.logit_scale.exp()  # type: ignore[operator]
        loss = info_nce(x, y, scale)
        if way != "plain":
            if way == "stored features":
                parts = stored
            else:
                with torch.set_grad_enabled(way == "naive, with gradients"):
                    parts = model.encode_image(segments).unflatten(0, (BATCH, SEGMENTS))  # type: ignore[operator]
            loss = loss + info_nce(F.normalize(F.normalize(parts, dim=2).sum(dim=1), dim=1), y, scale)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    model.train()
    benchmark.pedantic(step, rounds=3, iterations=1, warmup_rounds=1)
    model.eval()
    assert np.isfinite(float(model.logit_scale))  # type: ignore[arg-type]
