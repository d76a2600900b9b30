"""Rows are compared by what they are: one label of two contents, or of other data, makes no mean and no rank."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from made_up_records import domains, edit, write_run, write_runs

from urbancross_bench.interfaces.renderer import Estimate
from urbancross_bench.leaderboard.ablation import ablation_tables
from urbancross_bench.leaderboard.committed import read_all
from urbancross_bench.leaderboard.pairing import Wanted, other_differences, paired, sides_of_methods
from urbancross_bench.leaderboard.rows import make_rows
from urbancross_bench.leaderboard.tables import make_tables
from urbancross_bench.leaderboard.view import View
from urbancross_bench.specs import AblationCell, AblationView, row_key

ACROSS = (("a", "b"), ("b", "a"))
SEEDS = (0, 1, 2)


def lines_of(place: Path, table: str = "summary", view: View | None = None) -> list[dict[str, Any]]:
    [found] = [one for one in make_tables(read_all([place]), view or View(title="T"), {}) if one.name == table]
    return [dict(zip(found.columns, row, strict=True)) for row in found.rows]


def line_of(place: Path, method: str, table: str = "summary") -> dict[str, Any]:
    [found] = [line for line in lines_of(place, table) if line["adaptation"] == method]
    return found


def write(place: Path, method: str, pairs: Iterable[tuple[str, str]] = ACROSS, **changes: Any) -> None:
    write_runs(place, methods=[method], pairs=pairs, **changes)


CONTENT: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "options": (
        {"adaptation": {"label": "ours", "name": "ours", "version": "1", "options": {"weight": 1}}},
        {"adaptation": {"label": "ours", "name": "ours", "version": "1", "options": {"weight": 5}}},
    ),
    "version": (
        {"adaptation": {"label": "ours", "name": "ours", "version": "1", "options": {}}},
        {"adaptation": {"label": "ours", "name": "ours", "version": "2", "options": {}}},
    ),
    "space": (
        {"search": {"space": {"weight": [1, 2]}, "trials": [{}, {}]}},
        {"search": {"space": {"weight": [1, 9]}, "trials": [{}, {}]}},
    ),
}


@pytest.mark.parametrize("what", CONTENT)
def test_one_label_of_two_methods_has_no_mean(tmp_path: Path, what: str) -> None:
    once, again = CONTENT[what]
    write(tmp_path, "source_only")
    for pair, changes in zip(ACROSS, (once, again), strict=True):
        write(tmp_path, "ours", [pair], **changes)
    line = line_of(tmp_path, "ours")
    assert {line[name] for name in ("mean mR", "rank", "Δ source_only", "verdict")} == {None}
    assert line_of(tmp_path, "ours", "transfer")["gap closed, %"] is None
    assert isinstance(line_of(tmp_path, "source_only")["mean mR"], Estimate)
    # One content has all of it.
    shutil.rmtree(tmp_path / "runs")
    write(tmp_path, "source_only")
    write(tmp_path, "ours", **once)
    line = line_of(tmp_path, "ours")
    assert None not in [line[name] for name in ("mean mR", "rank", "verdict")]


def test_scenarios_may_draw_their_shares_by_other_seeds(tmp_path: Path) -> None:
    """Which pairs are shown is the scenario's affair, and no other method's."""
    for pair, drawn in zip(ACROSS, (0, 7), strict=True):
        for method, setting in (("source_only", "source_only"), ("ours", "few_shot")):
            shown = {"setting": setting, "share": 0.1, "share_seed": drawn, "disjoint_halves": False}
            write(tmp_path, method, [pair], shown=shown)
    assert all(isinstance(line["mean mR"], Estimate) for line in lines_of(tmp_path))


@pytest.mark.parametrize(("domain", "split"), [("source", "train"), ("source", "val"), ("target", "train")])
def test_what_was_trained_on_other_data_is_not_ranked_among_the_rest(
    tmp_path: Path, domain: str, split: str
) -> None:
    for method in ("source_only", "ours"):
        write(tmp_path, method)
    for source, target in ACROSS:
        name = source if domain == "source" else target
        write(tmp_path, "theirs", [(source, target)], domains=domains(source, target, **{name: {split: "other"}}))
    ranks = {line["adaptation"]: line["rank"] for line in lines_of(tmp_path)}
    assert ranks["ours"] == "1 (1 to 1)"
    assert ranks["source_only"] == "2 (2 to 2)"
    assert line_of(tmp_path, "theirs")["Δ source_only"] is None
    assert ranks["theirs"] in (None, "1 (1 to 1)")  # among its own, where it is alone


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_cell_of_other_data_has_no_difference_to_the_base(tmp_path: Path, split: str) -> None:
    identities = {level: {"name": "m", "version": "1", "options": {"x": level}} for level in ("on", "off")}
    view = View(
        title="T",
        ablation=AblationView(
            of="m",
            kind="adaptation",
            design="factorial",
            factors={"x": ("on", "off")},
            cells=tuple(
                AblationCell(levels={"x": level}, row=row_key(said)) for level, said in identities.items()
            ),
        ),
    )

    def differences(**other: Mapping[str, str]) -> list[Any]:
        place = tmp_path / str(len(other))
        for level, method in (("on", "source_only"), ("off", "ours")):
            said = {"label": level, **identities[level]}
            for pair in ACROSS:
                data = domains(*pair, **(other if level == "off" else {}))
                write(place, method, [pair], adaptation=said, domains=data)
        cells, effects = ablation_tables(make_rows(read_all([place]), ["trained here"]), view)
        return [cells.rows[1][cells.columns.index("Δ base")], effects.rows[0][effects.columns.index("effect")]]

    assert all(isinstance(one, Estimate) for one in differences())
    assert differences(a={split: "other"}) == [None, None]


def test_seeds_chosen_on_other_validation_images_are_another_row(tmp_path: Path) -> None:
    for seed in range(5):
        for method in ("source_only", "ours"):
            data = domains("a", "b", **({"a": {"val": "other"}} if seed > 2 else {}))
            write_run(tmp_path / "runs", method, "a", "b", seed, domains=data)
    found = [(line["adaptation"], line["seeds"]) for line in lines_of(tmp_path, "scenarios")]
    assert sorted(found) == [("ours", 2), ("ours", 3), ("source_only", 2), ("source_only", 3)]


def test_a_mean_is_of_the_seeds_that_its_row_says(tmp_path: Path) -> None:
    write_runs(tmp_path, methods=["source_only", "ours"], pairs=[("a", "b")])
    write_runs(tmp_path, methods=["source_only", "ours"], pairs=[("b", "a")], seeds=(0, 1))
    assert {line["mean mR"] for line in lines_of(tmp_path)} == {None}
    [summary, *_] = make_tables(read_all([tmp_path]), View(title="T"), {})
    assert "No mean is taken over scenarios of other seeds: ours, source_only." in summary.notes


def measured_by(*names: str) -> dict[str, Any]:
    return {"code": "1", "metrics": [{"name": name, "version": "1", "options": {}} for name in names]}


def test_a_score_that_was_taken_again_with_more_metrics_stands_once(tmp_path: Path) -> None:
    write(tmp_path, "source_only")
    write(tmp_path, "ours")
    before = lines_of(tmp_path)
    for score in [*(tmp_path / "runs").glob("*/scores/*")]:
        again = score.with_name(f"{score.name[:-2]}ff")
        shutil.copytree(score, again)
        edit(score / "score.json", measured_by=measured_by("recall"))
        edit(again / "score.json", measured_by=measured_by("map", "recall"), key=again.name)
    assert lines_of(tmp_path) == before
    # One seed alone does not stand in for three.
    for score in (tmp_path / "runs").glob("*/scores/*"):
        if score.name.endswith("ff") and seed_of(score.parent.parent) > 0:
            shutil.rmtree(score)
    whole = [line for line in lines_of(tmp_path) if line["seeds"] == 3]
    assert [line["mean mR"] for line in whole] == [line["mean mR"] for line in before]
    # Of other metrics each has its own.
    for again in (tmp_path / "runs").glob("*/scores/*ff"):
        edit(again / "score.json", measured_by=measured_by("map", "rank"))
    assert len(lines_of(tmp_path)) == 2 * len(before)


def test_a_baseline_stays_for_whom_it_alone_is_one(tmp_path: Path) -> None:
    """Two grids of one folder; only one of them takes further metrics."""
    write(tmp_path, "source_only", [("a", "b")])
    write(tmp_path, "ours", [("a", "b")])
    for score in [*(tmp_path / "runs").glob("*/scores/*")]:
        edit(score / "score.json", measured_by=measured_by("recall"))
    alone = {line["adaptation"]: line["Δ source_only"] for line in lines_of(tmp_path, "scenarios")}
    for score in [*(tmp_path / "runs").glob("*/scores/*")]:
        run = json.loads((score.parents[1] / "run.json").read_text(encoding="utf-8"))
        if run["adaptation"]["label"] == "source_only":
            again = score.with_name(f"{score.name[:-2]}ff")
            shutil.copytree(score, again)
            edit(again / "score.json", measured_by=measured_by("map", "recall"), key=again.name)
    lines = lines_of(tmp_path, "scenarios")
    assert [line["Δ source_only"] for line in lines if line["adaptation"] == "ours"] == [alone["ours"]]
    assert [line["adaptation"] for line in lines].count("source_only") == 2


def test_a_baseline_was_searched_as_often(tmp_path: Path) -> None:
    """Grids of one folder whose searches had other numbers of trials; `last` takes what they wrote of each."""
    for trials in (1, 3, 5):
        search = {"space": {"lr": [1, 2]}, "trials": [{"lr": 1}] * trials} if trials > 1 else None
        for method in ("source_only", "ours"):
            write(tmp_path, method, [("a", "b")], search=search)
    for score in [*(tmp_path / "runs").glob("*/scores/*")]:
        edit(score / "score.json", selected_by={"name": "last", "member": None, "version": "1", "options": {}})
    lines = [line for line in lines_of(tmp_path, "scenarios") if line["adaptation"] == "ours"]
    assert len(lines) == 3
    assert all(line["Δ source_only"] is not None for line in lines)


def test_a_mean_of_fewer_metrics_stays_whole(tmp_path: Path) -> None:
    """Of two scenarios all but one method's score in one were taken again with further metrics."""
    for method in ("source_only", "ours"):
        write(tmp_path, method, ACROSS)
    for score in [*(tmp_path / "runs").glob("*/scores/*")]:
        edit(score / "score.json", measured_by=measured_by("recall"))
    before = {line["adaptation"]: (line["scenarios"], line["mean mR"]) for line in lines_of(tmp_path)}
    for score in [*(tmp_path / "runs").glob("*/scores/*")]:
        run = json.loads((score.parents[1] / "run.json").read_text(encoding="utf-8"))
        if (run["adaptation"]["label"], run["scenario"]["target"]) != ("ours", ACROSS[-1][1]):
            again = score.with_name(f"{score.name[:-2]}ff")
            shutil.copytree(score, again)
            edit(again / "score.json", measured_by=measured_by("map", "recall"), key=again.name)
    found = [(line["adaptation"], (line["scenarios"], line["mean mR"])) for line in lines_of(tmp_path)]
    assert all((method, mean) in found for method, mean in before.items())
    assert [mean for mean in found if mean[1][0] == 1] == [("ours", (1, None))]


def test_compare_tells_of_other_pairs_and_of_other_validation_images(tmp_path: Path) -> None:
    few = {"setting": "few_shot", "share": 0.1, "disjoint_halves": False}

    def told(name: str, **changes: Any) -> str:
        place = tmp_path / name
        write(place, "ours", [("a", "b")], shown=few | {"share_seed": 0})
        write(place, "theirs", [("a", "b")], **({"shown": few | {"share_seed": 0}} | changes))
        sides = sides_of_methods(read_all([place]), "ours", "theirs", Wanted())
        [(a, b)], _ = paired(sides)
        return other_differences(a, b, by_method=True)

    assert told("same") == ""
    assert told("pairs", shown=few | {"share_seed": 7}) == "share_seed: 0 → 7"
    assert "validation data" in told("val", domains=domains("a", "b", a={"val": "other"}))
    # A method that is shown no pairs has none that could be others.
    assert (
        told("none", shown={"setting": "unsupervised", "share": 1.0, "share_seed": 3, "disjoint_halves": False})
        == ""
    )


def test_the_drift_that_is_told_is_the_largest_of_any_seed(tmp_path: Path) -> None:
    write(tmp_path, "source_only", [("a", "b")])
    for seed, run in enumerate(sorted((tmp_path / "runs").iterdir(), key=seed_of)):
        [score] = (run / "scores").iterdir()
        drift = {"images": 9, "mr": 50.0 + (0.0, -4.0, 3.0)[seed], "mr_float32": 50.0}
        edit(score / "score.json", drift=drift, precision="bfloat16")
    [line] = lines_of(tmp_path, "scenarios")
    assert line["data"] == "embedded in bfloat16, mR of 9 images moved by up to -4.00"


def seed_of(run: Path) -> int:
    return int(json.loads((run / "run.json").read_text())["seed"])
