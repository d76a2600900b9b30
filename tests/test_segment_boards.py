"""Segments in keys, comparisons and marks: what they are changes a row, and a row says so."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from conftest import Result
from test_segment_encoders import FUSED, store

from urbancross_bench.records import read_records

Cli = Callable[..., Result]
GridWriter = Callable[..., Path]

PLUGIN = """
from urbancross_bench.interfaces import Adaptation, hookimpl, register


class Pulls(Adaptation):
    def loss(self, source, target, progress):
        return {"segments": (source.segment_features - source.text_features).square().sum()}


@hookimpl
def register_adaptations():
    target = "pulls:Pulls"
    return [
        register("declared", target, setting="source_only", needs={"gradients", "segments"}, summary="x"),
        register("undeclared", target, setting="source_only", needs={"gradients"}, summary="x"),
    ]
"""


def test_other_segments_are_other_rows_and_those_that_tell_are_marked_where_they_are_ranked(
    grid: GridWriter, domains: dict[str, str], cli: Cli, tmp_path: Path
) -> None:
    free = {name: str(store(tmp_path / f"{name}_segments", reference)) for name, reference in domains.items()}
    aware = free | {"dark": str(store(tmp_path / "dark_told", domains["dark"], caption_aware=True))}
    scenarios = [{"source": "plain", "target": "dark"}, {"source": "dark", "target": "plain"}]
    common = {
        "scenarios": scenarios,
        "adaptations": ["source_only"],
        "score_sources": True,
        "pretraining": {"steps": 0},
        "budget": {"steps": 0},
    }
    more = ",fusion=mean,caption_aware=true"
    for segments in (free, aware):
        file = grid(encoders={"fused": FUSED.format(more)}, segments=segments, **common)
        result = cli("run", file, "--out", tmp_path / "out")
        assert result.status == 0, result.err
    records = read_records([tmp_path / "out"])
    assert len(records) == 4
    told = [record for record in records if record.spec["segments"]["domains"]["dark"]["caption_aware"]]
    assert len(told) == 2
    # Once both kinds stand side by side, over both scenarios each: not a row for every scenario.
    view = tmp_path / "view.yaml"
    view.write_text('title: all\nweights: ["pretrained", "trained here", "untrained"]\n', encoding="utf-8")
    built = cli("leaderboard", "build", tmp_path / "out", "--out", tmp_path / "board", "--view", view)
    assert built.status == 0, built.err + built.out
    with (tmp_path / "board" / "scenarios.csv").open(encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    marked = [row for row in rows if "dark: segments may have been chosen" in row["data"]]
    assert len(marked) == 1
    assert "plain → dark" in " ".join(marked[0].values())


def test_a_method_that_reads_segments_says_so(
    grid: GridWriter, domains: dict[str, str], cli: Cli, tmp_path: Path
) -> None:
    (tmp_path / "pulls.py").write_text(PLUGIN, encoding="utf-8")
    stores = {name: str(store(tmp_path / f"{name}_segments", reference)) for name, reference in domains.items()}
    file = grid(
        plugins=["pulls.py"],
        encoders={"trained": FUSED.format("")},
        segments={"plain": stores["plain"]},  # nothing reads those of the target
        scenarios=[{"source": "plain", "target": "dark"}],
        adaptations=["declared", "undeclared"],
    )
    result = cli("run", file, "--out", tmp_path / "out")
    assert result.status == 1, result.err
    ended = {record.spec["adaptation"]["label"]: record for record in read_records([tmp_path / "out"])}
    assert ended["declared"].ok
    assert not ended["undeclared"].ok
    assert "needs={'segments'}" in (ended["undeclared"].folder / "failure.json").read_text(encoding="utf-8")
