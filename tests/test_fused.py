"""Counting while multiplying on a CUDA device: the same counts and lists as block by block.

Without a card the kernels run in Triton's interpreter, on tiles that it can work through. That is decided when
Triton is imported, so a process of its own runs these tests once more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ranking_oracle import any_seeded_case, differences

from urbancross_bench.evaluation import evaluate_retrieval, fused, screening, toplists
from urbancross_bench.evaluation.compiling import _tried, kernels_work
from urbancross_bench.evaluation.screening import FLOAT16, Block, scaled
from urbancross_bench.evaluation.vectors import Vectors

pytest.importorskip("triton")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
COUNTS = ("greater", "tied", "tied_positives", "right", "top", "top_tied")


@pytest.fixture(params=[pytest.param("cpu", id="interpreted"), pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """A device where the kernels count whatever they can, however little, and leave any share open."""
    if request.param == "cuda" and (INTERPRETED or not torch.cuda.is_available()):
        pytest.skip("needs a CUDA device")
    if request.param == "cpu":
        if not INTERPRETED:
            pytest.skip("runs in a process with TRITON_INTERPRET=1")
        from urbancross_bench.evaluation import kernels

        for name, size in {"ROWS": 4, "COLUMNS": 32, "DEPTH": 16, "_PAIRS": 512}.items():
            monkeypatch.setattr(kernels, name, size)
        monkeypatch.setattr(fused, "suits", lambda images, texts, *_: not biased(images, texts))
    monkeypatch.setattr(fused, "_LEAST", 1)
    monkeypatch.setattr(fused, "_PAIRS", 1 << 20)
    monkeypatch.setattr(fused, "FLOAT16", replace(FLOAT16, open=1.0))
    return str(request.param)


@pytest.mark.skipif(INTERPRETED, reason="nothing is compiled there")
@pytest.mark.parametrize("best", [False, True])
def test_the_kernels_compile_for_a_card(best: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter takes types that the compiler refuses. To compile needs no card."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from urbancross_bench.evaluation import kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")  # else it warns; products here are exact either way
    floats = {name: f"*fp{16 if name in 'xy' else 32}" for name in ("x", "y", "best_x", "best_y")}
    limits = {f"{what}_{side}": "*fp32" for what in ("centre", "radius") for side in "xy"}
    counts = {f"{what}_{side}": "*i32" for what in ("weight", "above", "open") for side in "xy"}
    tile = {"rows": kernels.ROWS, "columns": kernels.COLUMNS, "step": kernels.DEPTH, "bits": kernels.BITS}
    of_pairs = {"x": "*fp32", "y": "*fp32", "row": "*i64", "column": "*i64", "out": "*fp64"}
    for kernel, pointers, fixed in (
        (kernels._tile, floats | limits | counts, {"width": 512, "best": best, "group": kernels._GROUP, **tile}),
        (kernels._pairs, of_pairs, {"width": 512, "pairs": kernels._PAIRS}),
    ):
        types = {name: "constexpr" if name in fixed else pointers.get(name, "i32") for name in kernel.arg_names}
        source = ASTSource(kernel, types, fixed)
        options = {"num_warps": kernels._WARPS, "num_stages": kernels._STAGES}
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
        assert compiled.asm["cubin"]


@pytest.mark.skipif(INTERPRETED, reason="this is that process")
def test_all_of_this_holds_in_the_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", __file__, "-q", "-k", "interpreted", "-p", "no:cacheprovider"]
    done = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def biased(*sides: screening.Side) -> bool:
    return any(side.vectors.bias is not None for side in sides)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """How each count by the kernels ended."""
    ends, count = [], fused.count

    def counted(*arguments: Any) -> None:
        try:
            count(*arguments)
        except fused.TooManyOpenError:
            ends.append("too many open")
            raise
        ends.append("counted")

    monkeypatch.setattr(fused, "count", counted)
    return ends


def problem(images: int, per_image: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Captions near their images; every fifth is an exact copy of another image's."""
    generator = np.random.default_rng(0)
    left = generator.standard_normal((images, width), dtype=np.float32)
    owner = np.repeat(np.arange(images), per_image)
    right = left[owner] + 2 * generator.standard_normal((len(owner), width), dtype=np.float32)
    right[5::5] = right[3:-5:5][: len(right[5::5])]
    return left, right, owner


def test_planted_ties_are_counted_as_by_brute_force(device: str, launched: list[str]) -> None:
    for seed in range(50):
        case = any_seeded_case(seed)
        moved = case.arguments(lambda rows: torch.tensor(rows, device=device))
        assert differences(case, evaluate_retrieval(**moved)) == []
    assert launched.count("counted") > 10


@pytest.mark.parametrize("top", [0, 3])
def test_counts_and_lists_are_those_of_blocks(
    device: str, launched: list[str], monkeypatch: pytest.MonkeyPatch, top: int
) -> None:
    left, right, owner = problem(70, 3, 40)
    with monkeypatch.context() as patch:
        patch.setattr(fused, "suits", lambda *_: False)
        wanted = evaluate_retrieval(left, right, owner, top=top)
    assert not launched
    monkeypatch.setattr(fused, "_PAIRS", 70 * 96)  # three launches, the first a short one
    monkeypatch.setattr(toplists, "_QUERIES", 32)
    found = evaluate_retrieval(left, right, owner, top=top, device=device)
    assert launched == ["counted"]
    for one, other in ((found.i2t, wanted.i2t), (found.t2i, wanted.t2i)):
        for name in COUNTS:
            assert np.array_equal(getattr(one, name), getattr(other, name)), name


def test_too_much_left_open_goes_block_by_block(
    device: str, launched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    left = 1 + 1e-4 * generator.standard_normal((60, 24))  # all scores lie within the bound of each other
    right = 1 + 1e-4 * generator.standard_normal((120, 24))
    monkeypatch.setattr(fused, "FLOAT16", FLOAT16)
    found = evaluate_retrieval(left, right, np.arange(120) // 2, top=3, device=device)
    assert launched == ["too many open"]
    with monkeypatch.context() as patch:
        patch.setattr(fused, "suits", lambda *_: False)
        wanted = evaluate_retrieval(left, right, np.arange(120) // 2, top=3)
    for name in COUNTS:
        assert np.array_equal(getattr(found.i2t, name), getattr(wanted.i2t, name)), name


@pytest.mark.parametrize("width", [32, 512])
def test_products_of_tensor_cores_stay_within_the_bound(width: int) -> None:
    """Sums of positive numbers, each cut off after 23 bits: no hardware does worse."""
    generator = np.random.default_rng(width)
    images, texts = (np.abs(generator.standard_normal((6, width))) + 0.1 for _ in range(2))
    x, y = scaled(Vectors("images", images, True), Vectors("texts", texts, True))
    left, right = Block(x, 0, 6), Block(y, 0, 6)
    bound = left.bounds(FLOAT16, y).numpy()
    a, b = (block.factors(torch.float16).double().numpy() for block in (left, right))
    for i in range(6):
        for j in range(6):
            total = 0.0
            for term in a[i] * b[j]:
                whole = total + term
                step = 2.0 ** (np.frexp(whole)[1] - 23)
                total = np.floor(whole / step) * step
            true = float(left.rows[i].double() @ right.rows[j].double())
            assert abs(total - true) <= bound[i]


@pytest.mark.skipif(INTERPRETED, reason="there it works")
def test_where_triton_cannot_compile_that_is_said_once() -> None:
    _tried.cache_clear()
    with pytest.warns(UserWarning, match="Triton cannot compile for cpu, so ranking takes longer: .+"):
        assert not _tried(torch.device("cpu"))
    assert not _tried(torch.device("cpu"))
    assert not kernels_work(torch.device("cpu"))


def test_a_card_without_room_works_block_by_block(
    device: str, launched: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    left, right, owner = problem(30, 2, 24)
    wanted = evaluate_retrieval(left, right, owner, top=3, device=device)

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(fused._Queries, "scores", full)  # of the lists, after all has been counted
    with monkeypatch.context() as patch:
        patch.setattr(fused._Queries, "decide", lambda *_: None)
        found = evaluate_retrieval(left, right, owner, top=3, device=device)
    assert launched == ["counted"]
    for name in COUNTS:
        assert np.array_equal(getattr(found.t2i, name), getattr(wanted.t2i, name)), name


def most_bytes(work: Callable[[], object], trace: Path) -> int:
    """The most bytes of tensors that `work` holds at once, by the books of torch's allocator."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        work()
    profile.export_chrome_trace(str(trace))
    events = [event for event in json.loads(trace.read_text())["traceEvents"] if event.get("name") == "[memory]"]
    held = np.cumsum([event["args"]["Bytes"] for event in sorted(events, key=lambda event: event["ts"])])
    return int(held.max())


@pytest.mark.parametrize("offsets", [(7,), (3, 40), range(64)], ids=["alone", "both halves", "all"])
@pytest.mark.parametrize(("columns", "padded"), [(4096, 4096), (4000, 4096), (4064, 4064), (4001, 4064)])
def test_open_places_are_found_in_the_memory_that_is_asked_for(
    tmp_path: Path, columns: int, padded: int, offsets: range | tuple[int, ...]
) -> None:
    """Places are those of bits that numpy unpacks. The other direction's, found before, take 16 bytes each."""
    generator = np.random.default_rng(0)
    bits = np.zeros((256, padded), dtype=bool)
    starts = 64 * generator.choice(bits.size // 64 - 1, 8192 // len(offsets), replace=False)
    bits.reshape(-1)[starts[:, None] + np.array(offsets)] = True
    bits[:, columns:] = True  # means nothing
    words = torch.from_numpy(np.packbits(bits, axis=1, bitorder="little").view("<i4"))
    wanted = bits[:, :columns].nonzero()
    room = len(wanted[0])
    row, column = fused._places(words.clone(), columns, room)
    assert np.array_equal(row.numpy(), wanted[0])
    assert np.array_equal(column.numpy(), wanted[1])
    given = words.clone()
    assert (
        most_bytes(lambda: fused._places(given, columns, room), tmp_path / "t.json") <= (fused._OPEN - 16) * room
    )

    def refused() -> None:
        with pytest.raises(fused.TooManyOpenError):
            fused._places(given, columns, room - 1)

    assert most_bytes(refused, tmp_path / "t.json") <= (fused._OPEN - 16) * room


def test_words_full_of_open_places_are_refused_before_they_are_unpacked(tmp_path: Path) -> None:
    words = torch.full((64, 128), -1, dtype=torch.int32)
    room = words.numel() // 2  # as many as two words at a time; bits are 64 times as many

    def refused() -> None:
        with pytest.raises(fused.TooManyOpenError):
            fused._places(words, 4096, room)

    assert most_bytes(refused, tmp_path / "t.json") <= (fused._OPEN - 16) * room
