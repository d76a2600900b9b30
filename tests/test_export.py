"""A grid as commands for another engine."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import Outcome, Result

Cli = Callable[..., Result]
GridWriter = Callable[..., Path]

PROGRAM = """#!{python}
import json, sys
print(json.dumps(sys.argv[1:]))
"""


@pytest.fixture
def program(tmp_path: Path) -> dict[str, str]:
    """An environment in which `urbancross-bench` prints what it was called with, as JSON."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    file = folder / "urbancross-bench"
    file.write_text(PROGRAM.format(python=sys.executable))
    file.chmod(0o755)
    return os.environ | {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


def called(script: str, environment: dict[str, str]) -> list[list[str]]:
    """What a shell makes of a script: the words of every call."""
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def keys_to_do(cli: Cli, *arguments: object) -> list[str]:
    """By another command."""
    plan = json.loads(cli("plan", *arguments, "--json").out)
    return [run["key"] for run in plan["runs"] if run["state"] == "run"]


def test_a_grid_needs_no_word_before_it(cli: Cli, grid: GridWriter, tmp_path: Path) -> None:
    options = ("--format", "slurm", "--out", tmp_path / "out")
    short, full = cli("export", *options, file := grid()), cli("export", "jobs", *options, file)
    assert (short.status, short.out) == (0, full.out)
    shown = cli("export", "--help").out
    assert [name for name in ("jobs", "bundle", "model-card") if f"  {name}  " not in shown] == []
    assert "neither a file nor a built-in grid" in cli("export", "bundel").err


def test_every_run_to_do_is_one_command(
    cli: Cli, grid: GridWriter, tmp_path: Path, program: dict[str, str]
) -> None:
    file = grid(seeds=[0, 1]).rename(tmp_path / "my grid's.yaml")
    out = tmp_path / "out; echo $HOME"
    settings = ("--set", "seeds=[0,1,2]", "--set", "budget.learning_rate=1e-3")
    keys = keys_to_do(cli, file, "--out", out, *settings)
    assert len(keys) == 3 * (2 + 6)
    result = cli("export", file, "--out", out, *settings)
    assert result.status == 0
    common = ["run", str(file), "--out", str(out), *settings]
    assert called(result.out, program) == [[*common, "--only", key] for key in keys]
    *_, last = result.out.splitlines()
    assert last.startswith("# ")
    assert shlex.split(last.partition(": ")[2]) == ["urbancross-bench", *common]


def test_an_array_script_calls_the_same(
    cli: Cli, grid: GridWriter, tmp_path: Path, program: dict[str, str]
) -> None:
    file, out = grid(threads=2), tmp_path / "out"
    arguments = ("export", file, "--out", out, "--set", "seeds=[0, 1]", "--per-job", "3")
    options = ("--time", "04:00:00", "--mem", "16G", "--gres", "gpu:1", "--parallel", "4")
    script = cli(*arguments, "--format", "slurm", *options).out
    asked = [line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH ")]
    assert set(asked) == {
        "job-name=tiny",
        "array=0-5%4",
        "cpus-per-task=2",
        "time=04:00:00",
        "mem=16G",
        "gres=gpu:1",
    }
    calls = [
        call for number in range(6) for call in called(script, program | {"SLURM_ARRAY_TASK_ID": str(number)})
    ]
    commands = called(cli(*arguments).out, program)
    # The same words: only where the keys stand differs.
    assert [sorted(call) for call in calls] == [sorted(command) for command in commands]
    assert [len([word for word in call if word == "--only"]) for call in calls] == [3, 3, 3, 3, 3, 1]


def test_what_is_there_is_not_exported(outcome: Outcome, cli: Cli) -> None:
    for format_ in ("commands", "slurm"):
        result = cli("export", outcome.file, "--out", outcome.out, "--format", format_)
        assert result.status == 0
        assert result.out.startswith("# nothing is to do")
        assert len(result.out.splitlines()) == 1
    more = cli("export", outcome.file, "--out", outcome.out, "--set", "seeds=[0,1,2]")
    assert len(more.out.splitlines()) == 8 + 1


def test_a_command_hands_nothing_on(cli: Cli, grid: GridWriter, tmp_path: Path, program: dict[str, str]) -> None:
    file = grid(executor="slurm[cluster=local]")
    [words, *_] = called(cli("export", file, "--out", tmp_path / "out").out, program)
    assert words[words.index("--set") + 1] == "executor=local"
    plain = cli("export", grid(executor="local[slots=2]"), "--out", tmp_path / "out")
    assert "executor" not in plain.out


def test_options_of_slurm_belong_to_slurm(cli: Cli, grid: GridWriter) -> None:
    result = cli("export", grid(), "--mem", "1G")
    assert result.status == 2
    assert "--format slurm" in result.err


def test_a_large_array_is_warned_of(cli: Cli, grid: GridWriter, tmp_path: Path) -> None:
    seeds = f"seeds={yaml.safe_dump(list(range(130)), default_flow_style=True, width=10**6).strip()}"
    arguments = ("export", grid(), "--out", tmp_path / "out", "--set", seeds, "--format", "slurm")
    result = cli(*arguments)
    assert "1040 jobs" in result.err
    assert "--per-job 2" in result.err
    assert "warning" not in cli(*arguments, "--per-job", 2).err


@pytest.mark.slow
def test_exported_commands_leave_what_one_run_leaves(outcome: Outcome, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = (outcome.file, "--out", out, "--set", "seeds=[1]", "--set", "adaptations=[source_only]")
    lines = cli("export", *arguments, "--per-job", 2).out.splitlines()
    assert len(lines) == 3
    for line in lines[:-1]:
        _, *words = shlex.split(line)
        assert cli(*words).status == 0
    assert not (out / "leaderboard").exists()
    _, *words = shlex.split(lines[-1].partition(": ")[2])
    result = cli(*words)
    assert "4 reused" in result.out
    assert (out / "leaderboard").is_dir()
    for record in (out / "runs").iterdir():
        assert (record / "run.json").read_bytes() == (outcome.out / "runs" / record.name / "run.json").read_bytes()
