"""`--json`: an answer for programs, whatever plugins print."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Result, write_domains, write_grid

import urbancross_bench.cli

Cli = Callable[..., Result]

TALKATIVE = """
from urbancross_bench.interfaces import Adaptation, hookimpl, register

print("imported")


@hookimpl
def register_adaptations():
    print("asked")
    return [register("talks", "talkative:Talks", setting="source_only", summary="Prints.")]


class Talks(Adaptation):
    pass
"""


@pytest.fixture(scope="session")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("plugin") / "talkative.py"
    file.write_text(TALKATIVE)
    return file


def test_what_plugins_print_is_no_part_of_an_answer(talkative: Path, tmp_path: Path, cli: Cli) -> None:
    grid = write_grid(tmp_path, write_domains(tmp_path), adaptations=["talks"], plugins=[str(talkative)])
    for command in (
        ("plugins", "list", "--plugin", talkative),
        ("show", "talks", "--plugin", talkative),
        ("plan", grid),
    ):
        found = cli(*command, "--json")
        assert found.status == 0, found.err
        assert json.loads(found.out), command
        assert "asked" in found.err.splitlines(), command


def test_people_see_it_where_it_was_printed(talkative: Path, cli: Cli) -> None:
    assert "asked" in cli("show", "talks", "--plugin", talkative).out.splitlines()


def test_after_an_answer_all_is_printed_as_before(talkative: Path, cli: Cli) -> None:
    for _ in range(2):
        json.loads(cli("show", "talks", "--plugin", talkative, "--json").out)
        assert cli("show", "nothing_of_the_name", "--json").status == 2
    assert "asked" in cli("show", "talks", "--plugin", talkative).out.splitlines()


def test_no_command_has_a_json_option_of_its_own() -> None:
    folder = Path(urbancross_bench.cli.__file__).parent
    own = [file.name for file in sorted(folder.glob("*.py")) if '"--json"' in file.read_text(encoding="utf-8")]
    assert own == ["json_output.py"]
