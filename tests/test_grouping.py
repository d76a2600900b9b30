"""Tables over groups of scenarios: means by target or source, and every source against every target."""

from __future__ import annotations

import csv
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import tree
from made_up_records import edit, write_runs

from urbancross_bench.leaderboard.build import build
from urbancross_bench.leaderboard.view import DEFAULT, load_view
from urbancross_bench.registry import Registry

METHODS = ("source_only", "ours", "oracle")
SIDES = "abc"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three methods from each of three domains to each. Look, do not touch."""
    place = tmp_path_factory.mktemp("made_up")
    return write_runs(place, methods=METHODS, pairs=[*product(SIDES, SIDES)])


def tables(runs: Path, out: Path, **changes: Any) -> dict[str, list[dict[str, str]]]:
    """The csv tables of a view like the default one, by name."""
    build(
        [runs], out, load_view(DEFAULT).model_copy(update={"renderers": ("csv",), **changes}), Registry.discover()
    )
    found = {}
    for file in sorted(out.glob("*.csv")):
        with file.open(encoding="utf-8", newline="") as lines:
            found[file.stem] = list(csv.DictReader(lines))
    return found


def test_the_matrix_has_every_scenario_once(runs: Path, tmp_path: Path) -> None:
    found = tables(runs, tmp_path)
    said = {(line["scenario"], line["adaptation"]): line["mR"] for line in found["scenarios"]}
    cells = {
        (f"{line['source']} → {target}", line["adaptation"]): line[f"→ {target}"]
        for line in found["matrix"]
        for target in SIDES
    }
    assert cells == said
    assert len(said) == len(METHODS) * len(SIDES) ** 2


@pytest.mark.parametrize("by", ["target", "source"])
def test_means_are_over_the_shifted_scenarios_of_a_group(runs: Path, tmp_path: Path, by: str) -> None:
    found = tables(runs, tmp_path, grouping=(by,))
    assert {name for name in found if name.startswith("by_")} == {f"by_{by}"}
    assert len(found[f"by_{by}"]) == len(METHODS) * len(SIDES)
    for line in found[f"by_{by}"]:
        of = [
            other
            for other in found["scenarios"]
            if other["adaptation"] == line["adaptation"]
            and other["kind"] == "cross_domain"
            and other["scenario"].split(" → ")[by == "target"] == line[by]
        ]
        assert len(of) == int(line["scenarios"]) == len(SIDES) - 1
        assert float(line["mean mR"]) == pytest.approx(np.mean([float(other["mR"]) for other in of]), abs=1e-3)
        assert float(line["worst mR"]) == min(float(other["mR"]) for other in of)
    for group in SIDES:  # ranked among each other, best first, references last
        lines = [line for line in found[f"by_{by}"] if line[by] == group]
        assert lines[-1]["adaptation"] == "oracle"
        assert sorted(line["rank"][:1] for line in lines) == ["", "1", "2"]


def test_what_a_view_does_not_group_has_no_table(runs: Path, tmp_path: Path) -> None:
    assert not [name for name in tables(runs, tmp_path, grouping=()) if name.startswith("by_")]


def test_there_is_no_matrix_of_one_scenario_and_no_group_of_single_ones(tmp_path: Path) -> None:
    one = tables(write_runs(tmp_path / "one", methods=METHODS, pairs=[("a", "b")]), tmp_path / "out")
    assert {*one} == {"summary", "scenarios", "transfer"}
    two = tables(write_runs(tmp_path / "two", methods=METHODS, pairs=[("a", "b"), ("b", "a")]), tmp_path / "out2")
    assert {*two} == {"summary", "scenarios", "transfer", "matrix"}


def test_a_missing_scenario_leaves_a_hole_and_no_mean(tmp_path: Path) -> None:
    pairs = [pair for pair in product(SIDES, SIDES) if pair != ("a", "b")]
    write_runs(tmp_path, methods=METHODS, pairs=[("a", "b")])
    write_runs(tmp_path, methods=("source_only",), pairs=pairs)
    write_runs(tmp_path, methods=("ours",), pairs=[pair for pair in pairs if pair != ("c", "b")])
    found = tables(tmp_path, tmp_path / "out")
    [hole] = [line for line in found["matrix"] if (line["source"], line["adaptation"]) == ("c", "ours")]
    assert (hole["→ a"] != "", hole["→ b"]) == (True, "")
    means = {(line["target"], line["adaptation"]): line["mean mR"] for line in found["by_target"]}
    assert means["b", "ours"] == ""
    assert means["c", "ours"] != ""


def test_floors_and_ceilings_stand_beside_a_row(runs: Path, tmp_path: Path) -> None:
    write_runs(tmp_path, methods=METHODS, pairs=[("a", "b")])
    for score in tmp_path.glob("runs/*/scores/*/score.json"):
        edit(score, floors={"class_oracle": {"mR": 14.5}, "ceiling": {"mR": 98.6}})
    [line, *_] = tables(tmp_path, tmp_path / "out")["scenarios"]
    assert (float(line["class oracle"]), float(line["ceiling"])) == (14.5, 98.6)
    assert 0 < float(line["chance"]) < 14.5
    [line, *_] = tables(runs, tmp_path / "without")["scenarios"]
    assert line["ceiling"] == ""


def test_the_same_again_is_the_same_bytes(runs: Path, tmp_path: Path) -> None:
    tables(runs, tmp_path / "one", grouping=("target", "source", "kind"))
    tables(runs, tmp_path / "two", grouping=("target", "source", "kind"))
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
