"""The house rules: imports point down, the core knows no plugin, and light rooms stay light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CORE = ROOT / "urbancross_bench"
FLOORS = {
    **dict.fromkeys(
        ["errors", "files", "identity", "processes", "sources", "interfaces", "hookspecs", "evaluation"], 1
    ),
    **dict.fromkeys(
        ["references", "registry", "names", "declarations", "kinds", "disabling", "data", "scaffold"], 2
    ),
    **dict.fromkeys(["specs", "modelling"], 3),
    "records": 4,
    **dict.fromkeys(["execution", "leaderboard"], 5),
    **dict.fromkeys(["cli", "api", "frames", "testing"], 6),
}
PUBLIC_KIT = (
    "interfaces",
    "evaluation",
    "data.readers",
    "modelling.losses",
    "modelling.checkpoints",
    "modelling.formats",
    "modelling.origins",
    "modelling.heads",
    "modelling.transport",
    "execution.worker",
    "execution.local",
    "execution.options",
    "errors",
    "testing",
)
HEAVY = ("torch", "torchvision", "pandas", "transformers", "open_clip", "datasets")


def imported(file: Path) -> list[str]:
    """The modules a file imports, wherever in the file."""
    names = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += (
                [f"{node.module}.{alias.name}" for alias in node.names]
                if node.module == "urbancross_bench"
                else [node.module]
            )
    return names


def rooms() -> dict[str, set[str]]:
    """Room of the core → rooms it imports."""
    graph: dict[str, set[str]] = {}
    for file in CORE.rglob("*.py"):
        room = file.relative_to(CORE).with_suffix("").parts[0]
        if room.startswith("__"):
            continue
        found = {name.split(".")[1] for name in imported(file) if name.startswith("urbancross_bench.")}
        graph.setdefault(room, set()).update(found - {room, "__version__"})
    return graph


def test_every_room_has_a_floor() -> None:
    assert set(rooms()) == set(FLOORS)


def test_imports_point_down_and_never_in_a_circle() -> None:
    graph = rooms()
    upward = [(a, b) for a, others in graph.items() for b in others if FLOORS[b] > FLOORS[a]]
    assert upward == []
    list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_the_map_names_every_module_below_the_verbs() -> None:
    named = set(re.findall(r"\w+", (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")))
    rooms = [
        room for room, floor in FLOORS.items() if floor < 6 and room not in ("interfaces", "scaffold", "specs")
    ]
    modules = {file.stem for room in rooms for file in (CORE / room).glob("[!_]*.py")}
    assert modules - named == set()


def test_the_core_imports_no_plugin() -> None:
    plugins = {folder.name for folder in (ROOT / "plugins").iterdir() if folder.is_dir()}
    named = [
        (file, name) for file in CORE.rglob("*.py") for name in imported(file) if name.split(".")[0] in plugins
    ]
    assert named == []


def test_plugins_stand_on_the_public_kit() -> None:
    allowed = tuple(f"urbancross_bench.{room}" for room in PUBLIC_KIT)
    # Hashing a weights file is part of what an encoder's options must answer.
    allowed += ("urbancross_bench.identity",)
    strangers = [
        (str(file.relative_to(ROOT)), name)
        for file in (ROOT / "plugins").rglob("*.py")
        for name in imported(file)
        if name.startswith("urbancross_bench") and not name.startswith(allowed)
    ]
    assert strangers == []


@pytest.mark.parametrize(
    "code",
    [
        "import urbancross_bench.interfaces, urbancross_bench.registry, urbancross_bench.specs",
        "import urbancross_bench.records, urbancross_bench.leaderboard.build, urbancross_bench.execution.run",
        "from urbancross_bench.api import Grid, run; Grid.from_yaml('quickstart')",
        "from urbancross_bench.evaluation import statistics, significance, floors, transfer, distances, protocols",
        "from urbancross_bench.registry import Registry; [p.options_type for p in Registry.discover().plugins]",
        "import urbancross_bench.testing.pytest_plugin, urbancross_bench.testing.report",
        "cli('--help')",
        "cli('plan', 'quickstart')",
        "cli('plugins', 'list')",
        "cli('show', 'urbancross')",
    ],
)
def test_light_rooms_import_nothing_heavy(code: str, tmp_path: Path) -> None:
    prelude = f"""
import sys
def cli(*arguments):
    from urbancross_bench.cli.app import main
    sys.argv = ["urbancross-bench", *arguments]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code
{code}
print("HEAVY", [name for name in {HEAVY!r} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", prelude], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "HEAVY []"


def test_no_file_is_too_long() -> None:
    long = {
        str(f.relative_to(ROOT)): n
        for f in [*CORE.rglob("*.py"), *(ROOT / "plugins").rglob("*.py")]
        if (n := len(f.read_text().splitlines())) > 400
    }
    assert long == {}
