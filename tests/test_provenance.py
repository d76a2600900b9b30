"""What is said of how a stage was computed."""

from __future__ import annotations

import json
import mmap
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from urbancross_bench.execution import energy, provenance
from urbancross_bench.execution.energy import Energy
from urbancross_bench.execution.provenance import git_state, measured, remember_git
from urbancross_bench.processes import servers_environment

CPU = torch.device("cpu")
MIB = 2**20
# A child that waits for another's half a second of work, and then for us: as a fork server does for its ranks.
SERVER = """
import subprocess, sys
work = "import time\\nwhile time.process_time() < 0.5: pass"
subprocess.run([sys.executable, "-c", work], check=True)
print("done", flush=True)
sys.stdin.read()
"""
# The fork server on a machine with a GPU, as far as torch can be told so; its last line is what a process forked
# from it finds.
PRELOADED = """
import importlib, json, os, pkgutil, sys
import torch
torch.cuda._device_count_nvml = lambda: 1
from urbancross_bench.execution.local import PRELOAD
names = [f"{name}.{found.name}" for name in sys.argv[1:]
         for found in pkgutil.iter_modules(importlib.import_module(name).__path__)]
os.environ[PRELOAD] = json.dumps([sys.path, *names])
import urbancross_bench.execution.preload
assert torch.cuda.is_available()  # as any library may ask
child = os.fork()
if not child:
    worker = urbancross_bench.execution.worker
    worker.registry()
    print(len(names), torch.cuda._is_in_bad_fork(), worker._registry.cache_info().hits, flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Neither what other tests have remembered, nor a change of the environment that outlives the test."""
    monkeypatch.setenv("URBANCROSS_GIT", "null")
    git_state.cache_clear()
    yield
    git_state.cache_clear()


def test_it_is_plain_json_and_keeps_what_was_there() -> None:
    said: dict[str, Any] = {"mine": 1}
    with measured(said, CPU, ranks=1):
        pass
    assert json.loads(json.dumps(said, allow_nan=False)) == said
    assert said["mine"] == 1
    assert said["torch"] == torch.__version__
    assert said["versions"]["numpy"] == sys.modules["numpy"].__version__
    assert "urbancross-bench" in said["plugins"]
    assert said["threads"]["torch"] == torch.get_num_threads()
    assert {"seconds", "host", "device", "python"} <= said.keys()
    assert "cuda_peak_bytes" not in said


def test_a_stage_that_fails_adds_nothing() -> None:
    said: dict[str, Any] = {}
    with pytest.raises(KeyError), measured(said, CPU, ranks=1):
        raise KeyError
    assert said == {}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system counts one peak for good")
def test_every_stage_has_a_peak_of_its_own() -> None:
    big: dict[str, Any] = {}
    small: dict[str, Any] = {}
    with (
        measured(big, CPU, ranks=1),
        mmap.mmap(-1, 128 * MIB) as block,
    ):  # not from what the process has in reserve
        block.write(b"1" * 128 * MIB)
    with measured(small, CPU, ranks=1):
        pass
    assert big["peak_resident_of"] == small["peak_resident_of"] == "stage"
    assert 100 * MIB < big["peak_resident_bytes"] - small["peak_resident_bytes"] < 400 * MIB


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="processes below are not listed")
def test_work_of_processes_below_counts_dead_or_alive() -> None:
    said: dict[str, Any] = {}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with measured(said, CPU, ranks=1):
        server = subprocess.Popen([sys.executable, "-c", SERVER], **pipes)  # type: ignore[call-overload]
        assert server.stdout.readline() == b"done\n"
    server.communicate()
    before = said["cpu_seconds"]
    assert before >= 0.5
    with measured(said, CPU, ranks=1):
        pass
    assert said["cpu_seconds"] < 0.5  # what was is not counted again


def test_switches_are_those_the_stage_has_set(monkeypatch: pytest.MonkeyPatch) -> None:
    said: dict[str, Any] = {}
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    try:
        for wanted in (True, False):
            with measured(said, CPU, ranks=1):
                torch.use_deterministic_algorithms(wanted)
            assert said["determinism"]["deterministic_algorithms"] is wanted
    finally:
        torch.use_deterministic_algorithms(before)
    assert said["determinism"]["cublas_workspace_config"] == ":4096:8"


def test_what_only_the_ranks_know_is_null() -> None:
    said: dict[str, Any] = {}
    with measured(said, CPU, ranks=2):
        pass
    assert said["ranks"] == 2
    assert said["determinism"] is None
    assert said["peak_resident_bytes"] is None


def git(*arguments: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    return subprocess.run(["git", *who, *arguments], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="no git")
def test_git_is_that_of_the_folder_the_grid_runs_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    remember_git()
    assert git_state() is None
    git("init")
    file = tmp_path / "grid.yaml"
    file.write_text("one")
    git("add", "grid.yaml")
    git("commit", "-m", "one")
    commit = git("log", "--format=%H")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "output").touch()  # files git does not follow are no change
    remember_git()
    assert git_state() == {"commit": commit, "changed": False}
    file.write_text("two")
    assert git_state() == {"commit": commit, "changed": False}  # asked once
    remember_git()
    assert git_state() == {"commit": commit, "changed": True}
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("PATH", "")
    git_state.cache_clear()  # as in another process, on a machine without git
    assert git_state() == {"commit": commit, "changed": True}
    monkeypatch.delenv("URBANCROSS_GIT")
    git_state.cache_clear()
    assert git_state() is None


def write_counter(folder: Path, name: str, kind: str, joules: float) -> None:
    domain = folder / name
    domain.mkdir(exist_ok=True)
    (domain / "name").write_text(f"{kind}\n")
    (domain / "energy_uj").write_text(f"{round(joules * 1e6)}\n")
    (domain / "max_energy_range_uj").write_text("1000000000\n")  # a thousand joules


def test_energy_of_the_processors_is_the_sum_over_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(energy, "_POWERCAP", tmp_path)
    monkeypatch.setattr(energy, "_HIGHEST_WATTS", 0.001)
    assert Energy(gpus=False).used([]) == {"gpu": None, "cpu": None}
    write_counter(tmp_path, "intel-rapl:0", "package-0", 10)
    write_counter(tmp_path, "intel-rapl:1", "package-1", 990)
    write_counter(tmp_path, "intel-rapl:0:0", "core", 5)  # part of its package
    counters = Energy(gpus=False)
    write_counter(tmp_path, "intel-rapl:0", "package-0", 17)
    write_counter(tmp_path, "intel-rapl:1", "package-1", 4)  # it has turned over
    write_counter(tmp_path, "intel-rapl:0:0", "core", 8)
    assert counters.used([])["cpu"] == 7 + 14
    counters._began -= 2e6  # so long that it may have turned over twice
    assert counters.used([])["cpu"] is None


def test_energy_of_devices_is_found_by_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    counters = {"GPU-a": 1000, "GPU-b": 5000}  # millijoules, in the system's order

    class NoCounterError(Exception):
        pass

    def energy_of(handle: int) -> int:
        if handle == 2:
            raise NoCounterError
        return list(counters.values())[handle]

    system = SimpleNamespace(
        NVMLError=NoCounterError,
        nvmlDeviceGetCount=lambda: 3,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetUUID=lambda handle: ["GPU-a", "GPU-b", "GPU-c"][handle],
        nvmlDeviceGetTotalEnergyConsumption=energy_of,
    )
    monkeypatch.setattr(energy, "_nvml", lambda: system)
    order = ["b", "a", "c"]  # torch's
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: SimpleNamespace(uuid=order[number]))
    started = Energy(gpus=True)
    counters |= {"GPU-a": 1500, "GPU-b": 9000}
    assert started.used([0])["gpu"] == 4.0
    assert started.used([0, 1])["gpu"] == 4.5
    assert started.used([2])["gpu"] is None
    assert started.used([])["gpu"] is None
    assert Energy(gpus=False).used([0])["gpu"] is None


@pytest.mark.gpu
def test_a_device_in_use_is_named_with_its_peak() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    said: dict[str, Any] = {}
    with measured(said, torch.device("cuda"), ranks=1):
        torch.zeros(64 * MIB, dtype=torch.uint8, device="cuda")
    assert said["device"] == torch.cuda.get_device_name(0)
    assert said["device"] in said["gpus"]
    assert said["cuda_peak_bytes"] >= 64 * MIB
    with measured(said, torch.device("cuda"), ranks=1):
        pass
    assert said["cuda_peak_bytes"] < 64 * MIB


@pytest.mark.skipif(not hasattr(torch._C, "_cuda_isInBadFork"), reason="torch was built without CUDA")
def test_processes_of_the_fork_server_can_use_cuda_and_know_the_plugins() -> None:
    """What asks CUDA's runtime before a fork, be it only for a version, leaves the child without it."""
    plugins = ["urbancross_adaptations", "urbancross_encoders", "urbancross_segmenters", "urbancross_selectors"]
    with servers_environment():
        command = [sys.executable, "-c", PRELOADED, *plugins]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    count, bad, hits = done.stdout.split()[-3:]
    assert int(count) > 20
    assert bad == "False"
    assert hits == "1"


def test_what_no_stage_changes_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    provenance.machine()
    monkeypatch.setattr(provenance, "_versions", lambda: pytest.fail("asked again"))
    provenance.machine()
