"""What stands below a board's tables: each note on made-up records that it is true of, and on others."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from compared_records import methods
from compared_records import write_run as write_compared
from made_up_records import edit, write_run, write_runs

from urbancross_bench.errors import UsageError
from urbancross_bench.identity import key_of
from urbancross_bench.interfaces import Table
from urbancross_bench.leaderboard.best import marked
from urbancross_bench.leaderboard.build import make_board
from urbancross_bench.leaderboard.committed import read_all
from urbancross_bench.leaderboard.comparisons import Field, standings
from urbancross_bench.leaderboard.view import Filters, View, shown

ENCODER = {"name": "openclip", "version": "1", "options": {}, "label": "big"}
WEIGHTS = {"status": "trained here", "source": "another", "sha256": None, "partial": False}
BIG: dict[str, Any] = {"encoder": ENCODER | {"weights": WEIGHTS}}
SEARCH: dict[str, Any] = {"search": {"space": {"lr": [1, 2]}, "trials": [{"learning_rate": n} for n in range(8)]}}
DIFFER = "A row may differ from another in "


def made(place: Path) -> dict[str, Table]:
    return {table.name: table for table in make_board(read_all([place]), View(title="T"), {}).tables}


def notes(place: Path, table: str, start: str) -> list[str]:
    return [note for note in made(place)[table].notes if note.startswith(start)]


def cells(table: Table, *columns: str) -> dict[str, tuple[Any, ...]]:
    """By adaptation."""
    of = [table.columns.index(column) for column in ("adaptation", *columns)]
    return {str(row[of[0]]): tuple(row[k] for k in of[1:]) for row in table.rows}


def write(place: Path, *names: str, seeds: int = 3, pair: tuple[str, str] = ("a", "b"), **changes: Any) -> None:
    write_runs(place, methods=names, seeds=range(seeds), pairs=[pair], **changes)


def rescored(place: Path, **changes: Any) -> None:
    """Change every score."""
    for score in place.glob("runs/*/scores/*/score.json"):
        edit(score, **changes)


def test_what_is_not_tested_is_not_said_to_be_found_by_the_test(tmp_path: Path) -> None:
    write(tmp_path / "many", "source_only", "ours", "theirs")
    [alone] = notes(tmp_path / "many", "scenarios", "True difference in mR that ")
    write(tmp_path / "many", "source_only", "ours", seeds=2, **BIG)
    found = notes(tmp_path / "many", "scenarios", "True difference in mR that ")
    assert found[0] == alone
    assert "the test finds four times in five, at 5 % over all 2 comparisons, by test set" in alone
    assert re.search(r"\(median of its comparisons\): b \(30 images, 3 seeds\) [\d.]+\.$", alone)
    assert "where seeds are too few for one, at 5 % for each alone, by test set" in found[1]
    assert re.search(r": b \(30 images, 2 seeds\) [\d.]+\.$", found[1])
    assert len(found) == 2

    write(tmp_path / "few", "source_only", "ours", seeds=2)
    [said] = notes(tmp_path / "few", "scenarios", "True difference")
    assert "the test finds" not in said
    assert "over all" not in said


def test_of_one_seed_nothing_is_said_of_what_more_would_show(tmp_path: Path) -> None:
    write(tmp_path, "source_only", "ours", seeds=1)
    [said] = notes(tmp_path, "scenarios", "True difference")
    assert re.search(r"\(median of its comparisons\): b \(30 images, 1 seed\) [\d.]+\.$", said)


def test_of_two_seeds_compare_says_what_a_test_would_find(tmp_path: Path) -> None:
    for seed in range(3):
        for target in "bcd"[: 3 - (seed == 2)]:  # the last in two seeds
            for method, level in (("dann", 70), ("coral", 30)):
                hits = [100.0 * (place * 7 % 40 < level * 0.4 + seed) for place in range(40)]
                write_compared(tmp_path, method, seed, hits, target=target)
    of_three, of_two = (note for note in methods(tmp_path).notes if note.startswith("True difference"))
    assert "over all 2 comparisons" in of_three
    assert "2 seeds" not in of_three
    assert "d (40 images, 2 seeds)" in of_two
    assert "3 seeds" not in of_two


def test_rows_are_said_to_differ_in_what_they_differ_in(tmp_path: Path) -> None:
    def said(name: str, score: dict[str, Any], **changes: Any) -> list[str]:
        write(tmp_path / name, "source_only", "ours", **{"budget": {"steps": 5}} | changes, steps=6)
        rescored(tmp_path / name, **score)
        write(tmp_path / name, "source_only", "ours")
        return notes(tmp_path / name, "scenarios", "A row may") + notes(
            tmp_path / name, "scenarios", "Rows differ"
        )

    only = "; only equal ones are compared."
    assert said("selector", {"selector": "first", "selected_by": {"name": "first", "options": {}}}) == []
    assert said("protocol", {"protocol": "row_diagonal"}) == [f"{DIFFER}its protocol{only}"]
    both = {"protocol": "row_diagonal", "ties": "optimistic"}
    assert said("both", both) == [f"{DIFFER}its protocol or its tie rule{only}"]
    metrics = {"measured_by": {"metrics": [{"name": "map"}], "code": "1"}}
    assert said("metrics", metrics) == [f"{DIFFER}the metrics measured or their versions{only}"]
    assert said("precision", {"precision": "bfloat16"}) == [f"{DIFFER}the precision of its embeddings{only}"]
    assert said("budget", {}, budget={"steps": 6}) == [f"{DIFFER}its recipe or budget{only}"]
    assert said("encoder", {}, **BIG) == [f"{DIFFER}its encoder or the version of that{only}"]
    assert said("code", {}, code="2") == [f"{DIFFER}the version of the code{only}"]


def test_a_label_that_means_two_things_is_told_of(tmp_path: Path) -> None:
    other = {"label": "ours", "name": "ours", "version": "1", "options": {"weight": 2}}
    write(tmp_path, "source_only")
    write(tmp_path, "ours")
    write(tmp_path, "source_only", pair=("b", "a"))
    write(tmp_path, "ours", pair=("b", "a"), adaptation=other)
    [said] = notes(tmp_path, "summary", "A method ")
    assert said == (
        "A method is not one in all of its scenarios where what its label means changed between runs (ours); "
        "no mean is taken over its scenarios."
    )


def domains(place: Path, **of_b: Any) -> dict[str, Any]:
    """The facts of `a` and `b` as made-up runs have them, but for these of `b`."""
    write(place, "source_only", seeds=1)
    [record] = read_all([place])
    facts = dict(record.spec["domains"])
    return facts | {"b": facts["b"] | of_b}


def test_facts_of_a_domain_are_those_of_all_rows(tmp_path: Path) -> None:
    same = tmp_path / "same"
    write(same, "source_only", "ours")
    usual = ["Splits of a: as the files say.", "Splits of b: as the files say."]
    assert [*made(same)["summary"].notes][-2:] == usual
    assert notes(same, "summary", "A model wrote") == notes(same, "summary", "Several ") == []

    splits = {part: key_of(["b", part]) for part in ("train", "val")} | {"test": "another"}
    random = domains(tmp_path / "x", partition="random 20/10/70", captions_generated=True, splits=splits)
    for first, last in (("ours", "theirs"), ("theirs", "ours")):  # whichever row stands last
        place = tmp_path / first
        write(place, first, domains=random)
        rescored(place, test="another")
        write(place, "source_only", last)
        assert notes(place, "summary", "Splits of") == [
            usual[0],
            "Splits of b: as the files say or random 20/10/70.",
        ]
        assert notes(place, "summary", "A model") == [
            "A model wrote the captions of b (in some rows) from the images."
        ]
        [several] = notes(place, "summary", "Several ")
        assert several.startswith("Several test splits are called b")


def test_a_row_without_others_has_no_rank_and_is_not_the_best(tmp_path: Path) -> None:
    for pair in (("a", "b"), ("b", "a")):
        write(tmp_path, "source_only", pair=pair)
        write(tmp_path, "ours", pair=pair, **SEARCH)
    rescored(tmp_path, selector="source_val", selected_by={"name": "source_val", "options": {}})
    summary = made(tmp_path)["summary"]
    assert cells(summary, "trials", "rank", "tie group") == {
        "ours": (8, None, None),
        "source_only": (1, None, None),
    }
    assert cells(summary, "verdict")["ours"] == ("better",)
    assert not marked(summary).best | marked(summary).tied
    for pair in (("a", "b"), ("b", "a")):
        write(tmp_path, "theirs", pair=pair)
    rescored(tmp_path, selector="source_val", selected_by={"name": "source_val", "options": {}})
    ranks = cells(made(tmp_path)["summary"], "rank")
    assert (ranks["ours"], ranks["theirs"], ranks["source_only"]) == ((None,), ("1 (1 to 1)",), ("2 (2 to 2)",))


def test_tie_groups_are_held_against_all_pairs_of_a_table() -> None:
    """Else the groups of many targets would be wrong as often as tests at 5 % for each of them."""
    field = Field((2.0, 1.0), ((1, 2), (1, 2)), {(0, 1): 0.03})
    assert [standing.group for standing in standings([field])[0]] == [1, 2]
    assert [[standing.group for standing in of] for of in standings([field, field])] == [[1, 1], [1, 1]]
    untested = Field((2.0, 1.0), ((1, 2), (1, 2)), None)
    assert [[standing.group for standing in of] for of in standings([untested, field])] == [[None, None], [1, 2]]


def test_a_mean_that_is_not_taken_for_want_of_a_scenario_says_so(tmp_path: Path) -> None:
    write(tmp_path, "source_only", "ours", "theirs")
    write(tmp_path, "source_only", "theirs", pair=("b", "a"))
    means = cells(made(tmp_path)["summary"], "mean mR")
    assert [name for name, (mean,) in means.items() if mean is None] == ["ours"]
    said = "No mean where a scenario is missing that was run: "
    assert notes(tmp_path, "summary", "No mean") == [f"{said}b → a (ours)."]
    write(tmp_path, "ours", pair=("b", "c"))
    assert notes(tmp_path, "summary", "No mean") == [f"{said}b → a (ours); b → c (source_only, theirs)."]
    write(tmp_path, "source_only", "theirs", pair=("b", "c"))
    write(tmp_path, "ours", pair=("b", "a"))
    assert notes(tmp_path, "summary", "No mean") == []
    write(tmp_path, "source_only", pair=("c", "a"))
    by_target = made(tmp_path)["by_target"]
    at = [by_target.columns.index(name) for name in ("target", "adaptation", "mean mR")]
    without = {(row[at[0]], row[at[1]]) for row in by_target.rows if row[at[2]] is None}
    assert without == {("a", "ours"), ("a", "theirs")}
    assert [note for note in by_target.notes if note.startswith("No mean")] == [f"{said}c → a (ours, theirs)."]
    write(tmp_path, "source_only", "ours", "theirs", pair=("d", "a"), status="failed")  # nobody has it
    assert notes(tmp_path, "summary", "No mean") == [f"{said}c → a, d → a (ours, theirs); d → a (source_only)."]


def test_no_oracle_is_ranked_unless_the_view_allows_it(tmp_path: Path) -> None:
    write(tmp_path, "source_only", "oracle")
    view = View(title="T", reference_settings=())
    with pytest.raises(UsageError, match="would rank what has seen labels of the target, a → b · small · oracle"):
        make_board(read_all([tmp_path]), view, {})
    hidden = view.model_copy(update={"weights": ("pretrained",)})
    assert not any(table.rows for table in make_board(read_all([tmp_path]), hidden, {}).tables)
    allowed = view.model_copy(update={"allow": ("ranked_oracle",)})
    [summary, *_] = make_board(read_all([tmp_path]), allowed, {}).tables
    assert cells(summary, "verdict")["oracle"] == ("better",)


def test_a_filter_that_is_a_label_leaves_the_variants_of_its_plugin_out(tmp_path: Path) -> None:
    write(tmp_path, "source_only", "ours")
    write(tmp_path, "ours", adaptation={"label": "ours[x=1]", "name": "ours", "version": "1", "options": {"x": 1}})

    def left(*patterns: str) -> list[str]:
        records = shown(read_all([tmp_path]), View(title="T", filters=Filters(adaptation=patterns)))
        return sorted({record.spec["adaptation"]["label"] for record in records})

    assert left("ours") == ["ours"]
    assert left("ours*") == left("ours", "ours[x=1]") == ["ours", "ours[x=1]"]
    for file in tmp_path.glob("runs/*/run.json"):  # a label of no row is none
        if json.loads(file.read_text())["adaptation"]["label"] == "ours":
            edit(file, status="failed")
    assert left("ours") == ["ours", "ours[x=1]"]
    for file in tmp_path.glob("runs/*/run.json"):
        edit(file, status="ok")
    for file in tmp_path.glob("runs/*/run.json"):
        method = json.loads(file.read_text())["adaptation"]
        edit(file, adaptation=method | {"label": method["label"].replace("ours", "mine")})
    assert left("ours", "source_only") == ["mine", "mine[x=1]", "source_only"]


@pytest.mark.parametrize("table", ["summary", "scenarios"])
def test_a_difference_between_other_numbers_of_trials_is_told_of(tmp_path: Path, table: str) -> None:
    write(tmp_path, "source_only", "theirs")
    write(tmp_path, "ours", **SEARCH)
    assert notes(tmp_path, table, "Not as many trials") == []  # `last` takes what the grid wrote
    rescored(tmp_path, selector="source_val", selected_by={"name": "source_val", "options": {}})
    assert notes(tmp_path, table, "Not as many trials") == [
        "Not as many trials as source_only had: ours. More trials are more to choose from, and what that was "
        "worth is in the difference, too."
    ]


def test_rows_that_lack_a_seed_are_told_of_though_all_ended_well(tmp_path: Path) -> None:
    lacking = "Rows that show no number, since they lack a seed"
    write(tmp_path, "source_only", "ours", "theirs")
    assert notes(tmp_path, "scenarios", lacking) == []
    write_run(tmp_path / "runs", "ours", "a", "b", 99)
    [said] = notes(tmp_path, "scenarios", lacking)
    assert said.endswith(": 2.")
    assert cells(made(tmp_path)["scenarios"], "mR")["theirs"] == (None,)
    assert notes(tmp_path, "scenarios", "Runs that did not end well") == []
    bare = "Runs that ended well and have no score to show"
    assert notes(tmp_path, "scenarios", bare) == []
    for scores in [*tmp_path.glob("runs/*/scores")][:2]:
        shutil.rmtree(scores)
    assert notes(tmp_path, "scenarios", bare) == [f"{bare}: 2."]


def test_a_scenario_that_all_runs_of_an_encoder_failed_in_is_one_that_its_means_lack(tmp_path: Path) -> None:
    pairs = [("a", "b"), ("a", "c"), ("b", "a")]
    write_runs(tmp_path, methods=["source_only", "ours"], pairs=pairs)
    write_runs(tmp_path, methods=["source_only", "ours"], pairs=pairs, **BIG)

    def without_mean() -> set[tuple[str, str]]:
        """Table and encoder, or source and encoder."""
        found = set()
        for table in make_board(read_all([tmp_path]), View(title="T", grouping=("source",)), {}).tables:
            if table.name in ("summary", "by_source"):
                for row in table.rows:
                    line = dict(zip(table.columns, row, strict=True))
                    if line["mean mR"] is None:
                        found.add((str(line.get("source", table.name)), str(line["encoder"])))
        return found

    assert without_mean() == set()
    for file in tmp_path.glob("runs/*/run.json"):
        run = json.loads(file.read_text(encoding="utf-8"))
        if run["encoder"]["label"] == "big" and run["scenario"]["target"] == "c":
            edit(file, status="failed")
            failure = {"stage": "adapt", "error": "out of memory", "what": "", "key": ""}
            file.with_name("failure.json").write_text(json.dumps(failure), encoding="utf-8")
            shutil.rmtree(file.with_name("scores"))
    assert without_mean() == {("summary", "big"), ("a", "big")}
