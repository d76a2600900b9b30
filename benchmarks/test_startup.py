"""How long the command line takes to answer, beside a bare interpreter."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "--help": ["-m", "urbancross_bench", "--help"],
    "plugins list": ["-m", "urbancross_bench", "plugins", "list"],
    "plan quickstart": ["-m", "urbancross_bench", "plan", "quickstart"],
}


@pytest.mark.benchmark(group="startup")
@pytest.mark.parametrize("command", COMMANDS)
def test_startup(benchmark: BenchmarkFixture, command: str) -> None:
    benchmark.pedantic(
        subprocess.run,
        args=([sys.executable, *COMMANDS[command]],),
        kwargs={"check": True, "capture_output": True},
        rounds=10,
        warmup_rounds=2,
    )
