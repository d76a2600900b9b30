"""The pages build into a site, without a warning, and its reference holds every hook and interface."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_contract import PUBLIC_KIT

from urbancross_bench import api, interfaces
from urbancross_bench.hookspecs import LIFECYCLE_HOOKS, REGISTRATION_HOOKS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def test_every_page_is_in_the_navigation() -> None:
    named = set(re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE))
    assert named == {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}


def test_every_module_of_the_interfaces_is_in_the_reference() -> None:
    named = re.findall(r"^::: ([\w.]+)$", (DOCS / "reference.md").read_text(encoding="utf-8"), re.MULTILINE)
    folder = ROOT / "urbancross_bench" / "interfaces"
    wanted = {f"urbancross_bench.interfaces.{file.stem}" for file in folder.glob("[!_]*.py")}
    assert wanted | {"urbancross_bench.hookspecs", "urbancross_bench.api"} <= {*named}
    kit = [f"urbancross_bench.{room}" for room in PUBLIC_KIT]
    assert [room for room in kit if not any(one == room or one.startswith(f"{room}.") for one in named)] == []


@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("mkdocs", "material", "mkdocstrings")),
    reason='needs the extra "docs"',
)
def test_the_site_builds(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "reference" / "index.html").read_text(encoding="utf-8")
    ids = set(re.findall(r'id="(urbancross_bench\.[\w.]+)"', page))
    hooks = {f"urbancross_bench.hookspecs.{name}" for name in (*REGISTRATION_HOOKS.values(), *LIFECYCLE_HOOKS)}
    classes = {
        f"{thing.__module__}.{name}"
        for name in interfaces.__all__
        if isinstance(thing := getattr(interfaces, name), type)
    }
    functions = {f"urbancross_bench.api.{name}" for name in ("plan", "run", "records", "leaderboard")}
    assert {*functions} <= {f"urbancross_bench.api.{name}" for name in api.__all__}
    assert hooks | classes | functions <= ids, sorted((hooks | classes | functions) - ids)
    assert "urbancross_bench.interfaces.adaptation.Adaptation.loss" in ids
