"""How long the command line takes to answer, beside a bare interpreter and the commands of two other harnesses.

    pip install mteb clip_benchmark      # the peers; without them their part is skipped
    pytest benchmarks/test_startup.py --benchmark-only

Commands take turns, so that a busy machine slows all alike; printed are medians and their ratios to `--help`.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
ROUNDS = 10
_OURS = [sys.executable, "-m", "urbancross_bench"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A finished grid, as arguments."""
    from conftest import write_domains, write_grid

    folder = tmp_path_factory.mktemp("finished")
    arguments = [str(write_grid(folder, write_domains(folder))), "--out", str(folder / "out")]
    subprocess.run([*_OURS, "run", *arguments], check=True, capture_output=True)
    return arguments


def test_startup(benchmark: BenchmarkFixture, finished: list[str]) -> None:
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "--help": [*_OURS, "--help"],
        "plugins list": [*_OURS, "plugins", "list"],
        "plan of a finished grid": [*_OURS, "plan", *finished],
        "status": [*_OURS, "status", finished[-1]],
    }
    for peer in ("mteb", "clip_benchmark"):
        script = Path(sys.executable).with_name(peer)
        if script.is_file():
            commands[f"{peer} --help"] = [str(script), "--help"]
    seconds: dict[str, list[float]] = {name: [] for name in commands}

    def once(name: str) -> None:
        began = time.perf_counter()
        subprocess.run(commands[name], check=True, capture_output=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        seconds[name].append(time.perf_counter() - began)

    def others() -> None:
        for name in commands:
            if name != "--help":
                once(name)

    benchmark.pedantic(once, args=("--help",), setup=others, rounds=ROUNDS, warmup_rounds=1)
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    print()
    for name, median in medians.items():
        print(f"  {name:24} {median:6.2f} s, {median / medians['--help']:6.1f} times --help")
