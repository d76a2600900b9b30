"""Every command that a page shows is one that there is, with its options; every block is what it says."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer.main
import yaml

from urbancross_bench.cli.app import app
from urbancross_bench.leaderboard.view import View
from urbancross_bench.specs import Grid

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
APP = typer.main.get_command(app)
# Pages whose Python needs more than to be executed, and where that is seen to. All others' is executed here.
RUN_IN = {
    "plugins.md": "test_docs.py",
    "clusters.md": "test_cluster_grids.py",
    "python.md": "test_api.py",
    "adaptation.md": "test_tutorials.py",
    "dataset.md": "test_tutorials.py",
    "encoder.md": "test_tutorials.py",
    "metric.md": "test_tutorials.py",
}


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands() -> Iterator[tuple[str, str]]:
    for page in PAGES:
        for block in blocks(page, "console"):
            for line in re.findall(r"^\$ (.*)$", block.replace("\\\n", " "), re.MULTILINE):
                for part in re.split(r"&&|;|\|", line):
                    words = part.split()
                    if "urbancross-bench" in words[:1]:
                        yield page.name, part.strip()


@pytest.mark.parametrize(("page", "command"), sorted(set(commands())))
def test_a_command_is_one_that_there_is(page: str, command: str) -> None:
    """It parses; nothing is carried out."""
    words = shlex.split(command, comments=True)[1:]
    found: click.Command = APP
    context = click.Context(found, info_name="urbancross-bench")
    while hasattr(found, "get_command") and words and not words[0].startswith("-"):
        name = words.pop(0)
        below = found.get_command(context, name)
        assert below is not None, f"{page}: there is no {name!r} in {command}"
        found = below
        context = click.Context(found, info_name=name, parent=context)
    found.parse_args(click.Context(found, info_name="it", resilient_parsing="--help" in words), words)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=lambda page: page.stem)
def test_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a reader would run it, block after block, in an empty folder."""
    if page.name in RUN_IN:
        assert page.stem in (ROOT / "tests" / RUN_IN[page.name]).read_text(encoding="utf-8")
        return
    monkeypatch.chdir(tmp_path)
    seen: dict[str, object] = {"__name__": page.stem}
    for block in blocks(page, "python"):
        exec(block, seen)


def test_blocks_are_what_they_say() -> None:
    known = {*Grid.model_fields, *View.model_fields}
    for page in PAGES:
        for block in blocks(page, "python"):
            ast.parse(block)
        for block in blocks(page, "json"):
            json.loads(block)
        for block in blocks(page, "yaml"):
            content = yaml.safe_load(block)
            assert isinstance(content, dict), f"{page.name}: {block}"
            assert {*content} <= known, f"{page.name}: {block}"
