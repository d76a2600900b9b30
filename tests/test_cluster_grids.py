"""Whole grids on executors other than `local`: records are the same bytes, whoever carries a grid out."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest
from conftest import Result, console_script

from urbancross_bench.processes import servers_environment
from urbancross_bench.records import read_records

KILLING = """
import psutil
from urbancross_bench.interfaces import Adaptation, hookimpl, register

@hookimpl
def register_adaptations():
    return [register("killing", "killing:Killing", setting="source_only", needs={"gradients"}, summary="x")]

class Killing(Adaptation):
    def loss(self, source, target, progress):
        [server, worker, *_] = psutil.Process().parents()
        assert worker.name().startswith("ray::"), worker.name()
        worker.kill()
"""


def kept(out: Path) -> dict[str, bytes]:
    """Of the records that are well: what has to be equal wherever they were made."""
    return {
        str(file.relative_to(out)): file.read_bytes()
        for record in (out / "runs").iterdir()
        if json.loads((record / "run.json").read_text())["status"] == "ok"
        for file in record.rglob("*")
        if file.is_file() and file.name != "provenance.json"
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    "executor", ["ray[cpus=2]", pytest.param("slurm[cluster=local,slots=2]", marks=pytest.mark.long)]
)
def test_a_grid_leaves_what_it_leaves_here(
    executor: str, grid: Callable[..., Path], cli: Callable[..., Result], tmp_path: Path
) -> None:
    """Whoever carries it out, and though a worker of ray's is killed amid a cell."""
    pytest.importorskip("ray" if executor.startswith("ray") else "submitit")
    killed = executor.startswith("ray")
    few = {"scenarios": [{"source": "plain", "target": "dark"}], "adaptations": ["source_only", "urbancross"]}
    assert cli("run", grid(**few), "--out", tmp_path / "here").status == 0
    (tmp_path / "killing.py").write_text(KILLING)
    more = {"adaptations": [*few["adaptations"], "killing"], "plugins": ["killing.py"]} if killed else {}
    result = cli("run", grid(**(few | more), executor=executor), "--out", tmp_path / "there")
    assert result.status == int(killed), result.err
    assert ("2 ok, 1 failed" if killed else "2 ok. Rec") in result.out
    assert ("the ray worker died" in result.err) == killed
    assert kept(tmp_path / "there") == kept(tmp_path / "here")
    assert not list((tmp_path / "there").rglob("*.events"))


@pytest.mark.slow
def test_the_executor_of_the_clusters_page_runs(grid: Callable[..., Path], tmp_path: Path) -> None:
    page = (Path(__file__).parent.parent / "docs" / "clusters.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "in_process.py").write_text(code)
    few = {"scenarios": [{"source": "plain", "target": "plain"}], "adaptations": ["source_only"]}
    file = grid(**few, plugins=["in_process.py"], executor="in_process")
    # Not in this process, whose switches it would turn.
    process = get_context("forkserver").Process(target=leave_with, args=("run", file, "--out", tmp_path / "out"))
    with servers_environment():
        process.start()
    process.join()
    assert process.exitcode == 0
    [record] = read_records([tmp_path / "out"])
    assert record.scores


def leave_with(*arguments: object) -> None:
    sys.exit(console_script(*arguments))
