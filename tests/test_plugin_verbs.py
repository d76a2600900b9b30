"""Verbs of the command line that installed plugins add."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from urbancross_bench.cli.app import app
from urbancross_bench.interfaces.command import VERBS

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
    only = {"URBANCROSS_LOAD_PLUGINS": "greeting"}  # the others take seconds to import
    environment = {
        **os.environ,
        **only,
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
    }

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


def test_our_own_verbs_are_known_by_name() -> None:
    assert {*typer.main.get_command(app).commands} == VERBS  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("target", "says"),
    [("Greeting", "Greeting is not a function"), ("NUMBER", "5 is not a function"), ("odd", "cannot make a verb")],
)
def test_what_is_no_verb_is_told_as_the_plugins(called: object, tmp_path: Path, target: str, says: str) -> None:
    assert callable(called)
    amiss = VERB.replace("greeting:greet", f"greeting:{target}") + "NUMBER = 5\nclass Greeting: pass\n"
    (tmp_path / "greeting.py").write_text(
        amiss + "def odd(name: Annotated[str, typer.Option(), typer.Argument()]): pass\n"
    )
    done = called("greet")
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "command 'greet' of greeting-dist 1.0" in done.stderr
    assert says in done.stderr


def test_a_verb_that_is_ours_is_never_called_and_said_to_be(called: object, tmp_path: Path) -> None:
    assert callable(called)
    (tmp_path / "greeting.py").write_text(VERB.replace('"greet"', '"plan"'))
    assert "GRID" in called("plan", "--help").stdout
    ill = called("plugins", "doctor")
    assert (ill.returncode, "is never called" in ill.stdout) == (1, True)
    card = called("plugins", "check", "greeting-dist")
    assert (card.returncode, "has a verb 'plan' of its own" in card.stdout) == (1, True)
    new = called("plugins", "new", "command", "plan", "--out", str(tmp_path / "new"))
    assert (new.returncode, "has a verb 'plan' of its own" in new.stderr) == (2, True)
