"""Verbs of the command line that installed plugins add."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

VERB = """
from typing import Annotated

import typer

from urbancross_bench.interfaces import hookimpl, register


@hookimpl
def register_commands():
    return [register("greet", "greeting:greet", summary="Greet somebody.")]


def greet(name: str, times: Annotated[int, typer.Option(min=1)] = 1) -> None:
    print(" ".join([f"hello {name}"] * times))
"""


@pytest.fixture
def called(tmp_path: Path) -> object:
    """The command line where a distribution offers a verb."""
    (tmp_path / "greeting.py").write_text(VERB)
    about = tmp_path / "greeting_dist-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: greeting-dist\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[urbancross_bench]\ngreeting = greeting\n")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "urbancross_bench", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    return call


def test_an_installed_plugin_adds_a_verb(called: object) -> None:
    assert callable(called)
    done = called("greet", "ada", "--times", "2")
    assert (done.returncode, done.stdout) == (0, "hello ada hello ada\n"), done.stderr
    assert "Greet somebody." in called("greet", "--help").stdout
    wrong = called("greet", "ada", "--times", "0")
    assert wrong.returncode == 2
    assert "greet" in called("plugins", "list").stdout
    unknown = called("great")
    assert unknown.returncode == 2
    assert "great" in unknown.stderr
