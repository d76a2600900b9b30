"""Tables over groups of scenarios: means by target or source, and every source against every target."""

from __future__ import annotations

import csv
import json
import re
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import tree
from made_up_records import edit, write_runs

from urbancross_bench.evaluation.significance import minimum_detectable
from urbancross_bench.evaluation.spread import Spread
from urbancross_bench.identity import key_of
from urbancross_bench.leaderboard.build import build
from urbancross_bench.leaderboard.peers import Peers, paired_differences
from urbancross_bench.leaderboard.rows import make_rows
from urbancross_bench.leaderboard.view import DEFAULT, load_view
from urbancross_bench.records import read_records
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


def test_what_adapting_was_worth_is_over_every_scenario_or_none(tmp_path: Path) -> None:
    write_runs(tmp_path, methods=METHODS, pairs=[("a", "b"), ("b", "a")])
    write_runs(tmp_path, methods=("theirs",), pairs=[("a", "b")])
    score_on_sources(tmp_path)
    found = tables(tmp_path, tmp_path / "out")
    said = {(line["scenario"], line["adaptation"]): float(line["mR"]) for line in found["scenarios"]}
    won, gaps = (
        [said[scenario, method] - said[scenario, "source_only"] for scenario in ("a → b", "b → a")]
        for method in ("ours", "oracle")
    )
    ours, theirs = (line for line in found["transfer"])
    assert float(ours["gap closed, %"]) == pytest.approx(100 * sum(won) / sum(gaps), abs=0.01)
    assert float(ours["gap closed, %"]) != pytest.approx(100 * np.mean(np.divide(won, gaps)), abs=0.1)
    assert ours["forgotten mR"] != ""
    assert (theirs["adaptation"], theirs["scenarios"]) == ("theirs", "1")
    assert {theirs[name] for name in theirs if "gap" in name or "forgotten" in name} == {""}


def score_on_sources(place: Path) -> None:
    """Every score once more, as one on the source's test split."""
    for score in [*place.glob("runs/*/scores/*")]:
        [source] = json.loads((score.parents[1] / "run.json").read_text(encoding="utf-8"))["scenario"]["source"]
        copy = score.with_name(key_of([score.name, source]))
        shutil.copytree(score, copy)
        edit(copy / "score.json", key=copy.name, domain=source, test=key_of([source, "test"]))


def said_below(place: Path, out: Path) -> dict[str, tuple[list[dict[str, Any]], str]]:
    """The rows of each table by its name, and its notes."""
    build([place], out, load_view(DEFAULT).model_copy(update={"renderers": ("json",)}), Registry.discover())
    made = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(out.glob("*.json"))]
    return {table["name"]: (table["rows"], "\n".join(table["notes"])) for table in made}


def test_a_table_has_the_notes_of_its_own_columns(runs: Path, tmp_path: Path) -> None:
    found = said_below(runs, tmp_path / "out")
    assert {*found} == {"summary", "by_target", "scenarios", "matrix", "transfer"}
    of_columns = {
        "verdict": ("Verdict: ", "are references, ", "True difference in "),
        "rank": ("Rank, ", "with as many trials; transductive rows apart"),
        "worst scenario": ("Worst scenario: ",),
        "gap closed, %": ("Gap closed: ", "larger gaps weigh more"),
    }
    for rows, notes in found.values():
        assert "Brackets: " in notes
        assert "Splits of a: " in notes
        for column, texts in of_columns.items():
            assert [text in notes for text in texts] == [column in rows[0]] * len(texts), column
    alone = write_runs(tmp_path / "alone", methods=["source_only"], pairs=[("a", "b")])
    assert said_below(alone, tmp_path / "out2")["transfer"] == ([], "")
    assert "references" not in said_below(alone, tmp_path / "out2")["summary"][1]


def test_what_can_be_detected_is_of_the_tables_own_comparisons(tmp_path: Path) -> None:
    methods = ("source_only", "ours", "theirs", "oracle")
    write_runs(tmp_path, methods=methods, pairs=[*product(SIDES, SIDES)])
    found = said_below(tmp_path, tmp_path / "out")
    rows = make_rows(read_records([tmp_path]), ["trained here"])
    peers = Peers(rows)

    def detected(wanted: str, tested: int, seeds: int | None = None) -> float:
        """In the mean over the scenarios with this target (any for "") that have a shift."""
        sizes = []
        for method in ("ours", "theirs"):
            own = [r for r in rows if r.method[1] == method and r.shifted and r.target in (wanted or SIDES)]
            means = paired_differences(own, peers, "source_only", "mR")
            assert means is not None
            sizes.append(minimum_detectable(Spread.of(means), tested, seeds))
        return float(np.median(sizes))

    for name, tested in (("summary", 2), ("by_target", 6), ("scenarios", 18)):
        lines, notes = found[name]
        assert sum(line["verdict"] is not None for line in lines) == tested
        assert re.findall(r"over all (\d+) comparisons", notes) == [str(tested)]
    assert "; after →: with more seeds that differ as these do): " in found["summary"][1]
    [sizes] = re.findall(
        r"in mean mR .*: (\d+\.\d) \(3 seeds\) → (\d+\.\d) \(5 seeds\) → (\d+\.\d) \(10 seeds\)\.",
        found["summary"][1],
    )
    expected = [detected("", 2, seeds) for seeds in (None, 5, 10)]
    assert [*map(float, sizes)] == pytest.approx(expected, abs=0.06)
    sizes = dict(re.findall(r"(\w) \(30 images, 3 seeds\) (\d+\.\d)", found["by_target"][1]))
    assert {target: float(size) for target, size in sizes.items()} == {
        target: pytest.approx(detected(target, 6), abs=0.06) for target in SIDES
    }


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
