"""Whole grids on a CUDA device: the same bytes every time, near the CPU's numbers, and memory that runs out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import comparable
from safetensors.numpy import load_file

from urbancross_bench.data.packed import PackedImages, Rows
from urbancross_bench.modelling.embed import embed_images
from urbancross_bench.registry import Registry

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

GridWriter = Callable[..., Path]
METHODS = ["urbancross", "dann", "mean_teacher", "lora", "optimal_transport"]


def started(file: Path, out: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "urbancross_bench", "run", str(file), "--out", str(out), *more]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)


def run(file: Path, out: Path, *more: str) -> None:
    process = started(file, out, *more)
    said = process.communicate()[1].decode()
    assert process.returncode == 0, said


def provenance(out: Path, kind: str) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(out.glob(f"store/{kind}/*/provenance.json"))]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_grid_leaves_the_same_bytes_twice(grid: GridWriter, tmp_path: Path, precision: str) -> None:
    file = grid(
        scenarios=[{"source": "plain", "target": "dark"}],
        adaptations=METHODS,
        precision=precision,
        executor="local[slots=4]",
    )
    run(file, tmp_path / "one")
    run(file, tmp_path / "two")
    assert comparable(tmp_path / "one") == comparable(tmp_path / "two")
    for said in provenance(tmp_path / "one", "adapt"):
        assert said["device"] == torch.cuda.get_device_name(0)
        assert said["seconds"] > 0


def test_a_card_trains_as_the_processor_does(grid: GridWriter, tmp_path: Path) -> None:
    file = grid(scenarios=[{"source": "plain", "target": "dark"}], adaptations=["source_only", "dann"])
    for device in ("cuda", "cpu"):
        run(file, tmp_path / device, "--device", device)
    there, here = (
        {
            file.parent.name: load_file(file)
            for file in (tmp_path / device).glob("store/embed/*/features.safetensors")
        }
        for device in ("cuda", "cpu")
    )
    assert there.keys() == here.keys()
    for key, arrays in here.items():
        for name, wanted in arrays.items():
            np.testing.assert_allclose(
                there[key][name], wanted, atol=2e-3 * float(abs(wanted).max()), err_msg=name
            )


def test_killed_it_goes_on_to_the_same_bytes(grid: GridWriter, tmp_path: Path) -> None:
    file = grid(
        scenarios=[{"source": "plain", "target": "dark"}],
        adaptations=["dann"],
        budget={"steps": 400, "batch_size": 8, "target_batch_size": 4, "checkpoints": 2},
    )
    process = started(file, tmp_path / "killed", "--save-every", "0")
    while process.poll() is None and not list(tmp_path.glob("killed/store/.saved/*/state-?*")):
        time.sleep(0.01)
    assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    run(file, tmp_path / "killed")
    run(file, tmp_path / "whole")
    assert comparable(tmp_path / "killed") == comparable(tmp_path / "whole")


def test_embedding_goes_on_in_smaller_batches_where_memory_runs_out(capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    device = torch.device("cuda")
    model: Any = (
        Registry.discover().resolve("encoder", "openclip[architecture=ViT-B-32]").build().load().to(device)
    )
    pixels = np.random.default_rng(0).integers(0, 256, (256, 224, 224, 3), dtype=np.uint8)
    images = PackedImages(Rows([pixels]))
    wanted = embed_images(model, images, device)
    torch.cuda.empty_cache()
    room = torch.cuda.memory_allocated() + 400 * 2**20
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.get_device_properties(0).total_memory)
    try:
        found = embed_images(model, images, device)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "trying again with 32 at a time" in capsys.readouterr().out
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-3)
