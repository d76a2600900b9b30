"""What a grid costs beside the work of its cells, and what it saves by sharing.

    pytest benchmarks/test_grids.py --benchmark-only -s
    CELLS=1000 pytest benchmarks/test_grids.py --benchmark-only -s -k featherweight

Printed are CPU seconds of a command with all the processes below it, and seconds by the clock.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pytest
import yaml
from pytest_benchmark.fixture import BenchmarkFixture

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
MINI = ROOT.parent / "shared" / "data"
CELLS = int(os.environ.get("CELLS", "200"))

# Orphans, as the fork server is when its command has ended, come to the process that is told to reap them.
_MEASURE = """
import ctypes, json, os, resource, subprocess, sys, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
began = time.monotonic()
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode
clock = time.monotonic() - began
try:
    while True:
        os.wait()
except ChildProcessError:
    pass
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([status, clock, used.ru_utime + used.ru_stime]))
"""


def measured(*arguments: object, environment: dict[str, str] | None = None) -> tuple[float, float]:
    """Seconds by the clock and of CPU that `urbancross-bench` takes, with everything below it."""
    command = [sys.executable, "-m", "urbancross_bench", *map(str, arguments)]
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, *command],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **(environment or {})},
    )
    status, clock, cpu = json.loads(done.stdout)
    assert status == 0, command
    return clock, cpu


def own_seconds(out: Path) -> dict[str, float]:
    """Seconds by the clock that the stages of a store took themselves, by kind."""
    found: dict[str, float] = {}
    for file in (out / "store").glob("[!.]*/*/provenance.json"):
        kind = file.parts[-3]
        found[kind] = found.get(kind, 0.0) + json.loads(file.read_text(encoding="utf-8"))["seconds"]
    return found


def test_featherweight_cells(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Cells that do nothing: no training, a dozen test images, one metric."""
    from broken_grids import MODEL, PLUGIN
    from conftest import write_domains, write_grid

    (tmp_path / "moody_plugin.py").write_text(PLUGIN, encoding="utf-8")
    (tmp_path / "bag_model.py").write_text(MODEL, encoding="utf-8")
    grid = write_grid(
        tmp_path,
        write_domains(tmp_path),
        plugins=["moody_plugin.py"],
        scenarios=[{"source": "plain", "target": "dark"}],
        encoders=["bag"],
        pretraining={"steps": 0},
        budget={"steps": 0},
        adaptations=[f"moody[mood=m{number}]" for number in range(CELLS)],
    )
    environment = {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    out = tmp_path / "out"
    plan, _ = measured("plan", grid, "--out", out, environment=environment)
    clock, cpu = benchmark.pedantic(
        measured, args=("run", grid, "--out", out), kwargs={"environment": environment}, rounds=1
    )
    again, _ = measured("run", grid, "--out", out, environment=environment)
    replan, _ = measured("plan", grid, "--out", out, environment=environment)
    own = own_seconds(out)
    slots = os.cpu_count() or 1
    print(f"\n{CELLS} cells on {slots} cores: plan {plan:.2f} s, run {clock:.1f} s by the clock, {cpu:.1f} of CPU")
    print(f"  stages themselves: {', '.join(f'{kind} {seconds:.1f}' for kind, seconds in own.items())} s")
    print(f"  a cell: {1000 * clock / CELLS:.0f} ms by the clock, {1000 * cpu / CELLS:.0f} of CPU")
    beside = (clock - sum(own.values()) / slots) / CELLS
    print(f"  beside its stages, by the clock: {1000 * beside:.0f} ms")
    print(f"  run again, all done: {again:.2f} s; plan of it: {replan:.2f} s")


def _grid(file: Path, encoders: dict[str, str], adaptations: Sequence[str], seeds: Sequence[int]) -> Path:
    content = {
        "name": file.stem,
        "domains": {
            "rsicd": "karpathy[file=mini/rsicd_mini/dataset.json]",
            "ucm": "karpathy[file=mini/ucm_mini/dataset.json]",
        },
        "scenarios": [{"source": "rsicd", "target": "ucm"}],
        "encoders": encoders,
        "pretraining": {"steps": 20, "batch_size": 64, "learning_rate": 3e-4},
        "adaptations": list(adaptations),
        "budget": {"steps": 20, "batch_size": 64, "target_batch_size": 64, "learning_rate": 3e-4},
        "seeds": list(seeds),
    }
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return file


def _weights(file: Path, seed: int) -> Path:
    """Weights in a file, so that towers are the same for all seeds."""
    import torch
    from safetensors.torch import save_file

    from urbancross_bench.registry import Registry

    torch.manual_seed(seed)
    model = Registry.discover().resolve("encoder", "openclip[architecture=urbancross-s]").build().load()
    file = file.with_suffix(".safetensors")
    save_file({name: value.contiguous() for name, value in model.clip.state_dict().items()}, file)
    return file


@pytest.mark.skipif(not (MINI / "mini").is_dir(), reason="needs the small real domains")
def test_shared_towers(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """24 runs on frozen towers as one grid, and one seed of each by itself, counted twice."""
    frozen = "frozen_towers=[image,text],head=residual"
    encoders = {
        name: f"openclip[architecture=urbancross-s,checkpoint={_weights(tmp_path / name, seed)},{frozen}]"
        for seed, name in enumerate(("one", "other"))
    }
    adaptations, seeds = ("source_only", "coral", "mmd", "dann", "mcc", "information_maximisation"), (0, 1)
    environment = {"URBANCROSS_DATA": str(MINI), "PYTHONPATH": str(ROOT)}
    whole = _grid(tmp_path / "whole.yaml", encoders, adaptations, seeds)
    out = tmp_path / "whole"
    clock, cpu = benchmark.pedantic(
        measured, args=("run", whole, "--out", out), kwargs={"environment": environment}, rounds=1
    )
    own = own_seconds(out)
    alone_clock = alone_cpu = 0.0
    for (name, reference), adaptation in product(encoders.items(), adaptations):
        shutil.rmtree(tmp_path / "alone", ignore_errors=True)
        file = _grid(tmp_path / "alone.yaml", {name: reference}, [adaptation], [0])
        once = measured("run", file, "--out", tmp_path / "alone", environment=environment)
        alone_clock, alone_cpu = alone_clock + len(seeds) * once[0], alone_cpu + len(seeds) * once[1]
    slots = os.cpu_count() or 1
    print(f"\n24 runs on {slots} cores, as one grid: {clock:.1f} s by the clock, {cpu:.1f} of CPU")
    print(f"  stages themselves: {', '.join(f'{kind} {seconds:.1f}' for kind, seconds in own.items())} s")
    print(f"  one by one: {alone_clock:.1f} s by the clock, {alone_cpu:.1f} of CPU")
    print(f"  one by one takes {alone_cpu / cpu:.2f} times the CPU, {alone_clock / clock:.2f} times the clock")
    print(f"  the grid takes {clock * slots / sum(own.values()):.2f} times its stages' own time, over all slots")
