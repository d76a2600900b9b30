"""Ablations: which cells a grid gets, and all of it from the command line."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import Result, tree
from numpy.typing import NDArray

from urbancross_bench.errors import UsageError
from urbancross_bench.execution.ablating import Ablating, with_ablation
from urbancross_bench.execution.plan import Plan, make_plan
from urbancross_bench.registry import Registry
from urbancross_bench.specs import Grid, load_grid, row_key

Cli = Callable[..., Result]
GridWriter = Callable[..., Path]
Floats = NDArray[np.float64]


@cache
def installed() -> Registry:
    return Registry.discover()


# ── Which cells ───────────────────────────────────────────────────────────────────────────────────


def expanded(ablation: Mapping[str, Any], **changes: Any) -> Ablating:
    """A grid with this ablation, after planning has looked at it."""
    content = {
        "name": "g",
        "domains": ["a", "b"],
        "encoders": {"tiny": "openclip[architecture=urbancross-tiny]"},
        "pretraining": {"steps": 1},
        "adaptations": ["source_only", "urbancross"],
        "budget": {"steps": 1},
        "ablation": ablation,
    }
    return with_ablation(Grid.model_validate(content | changes), installed())


def options(reference: str) -> dict[str, Any]:
    """As they are, but for the variant that set some of them."""
    return installed().resolve("adaptation", reference).options.model_dump(exclude={"variant"})


THREE = {"order": ["nearest", "random", "none"], "weighted": ["both", "none"], "triplet": [1.0, 0.5]}


def test_a_factorial_design_is_the_product_of_its_levels() -> None:
    found = expanded({"of": "urbancross", "factors": THREE, "design": "factorial"})
    assert [tuple(levels.values()) for levels in found.cells.values()] == [*itertools.product(*THREE.values())]
    assert next(iter(found.cells)) == "urbancross"
    for name, levels in found.cells.items():
        assert options(found.grid.adaptations[name]) == options("urbancross") | levels
    assert [*found.grid.adaptations] == ["source_only", *found.cells]


def test_one_at_a_time_changes_one() -> None:
    found = expanded({"of": "urbancross", "factors": THREE})
    base, *others = found.cells.values()
    assert base == {"order": "nearest", "weighted": "both", "triplet": 1.0}
    changed = [[(name, level) for name, level in cell.items() if level != base[name]] for cell in others]
    assert changed == [[("order", "random")], [("order", "none")], [("weighted", "none")], [("triplet", 0.5)]]
    for name, levels in found.cells.items():
        assert options(found.grid.adaptations[name]) == options("urbancross") | levels


def test_names_say_what_is_changed_and_what_is_there_is_not_added() -> None:
    factors = {"order": ["nearest", "random"], "weighted": ["both", "none"]}
    written = {
        "mine": "urbancross[triplet=0.5]",
        "by hand": 'urbancross[ weighted = "none" , order=nearest, triplet=0.5 ]',
        "other": "urbancross[order=random]",
    }
    found = expanded({"of": "mine", "factors": factors, "design": "factorial"}, adaptations=written)
    assert [*found.cells] == ["mine", "by hand", "mine[order=random]", "mine[order=random,weighted=none]"]
    assert found.grid.adaptations == written | {
        "mine[order=random]": "urbancross[triplet=0.5,order=random]",
        "mine[order=random,weighted=none]": "urbancross[triplet=0.5,order=random,weighted=none]",
    }
    assert [*found.grid.adaptations] == [*written][:1] + [*found.cells][2:] + [*written][1:]
    in_a_list = expanded(
        {"of": "urbancross[triplet=0.5]", "factors": factors}, adaptations=["urbancross[triplet=0.5]"]
    )
    assert [*in_a_list.cells][1] == "urbancross[triplet=0.5,order=random]"


def test_what_the_entry_sets_of_a_part_goes_where_a_level_takes_the_part_out() -> None:
    """By itself such an option is refused, since it does nothing."""
    factors = {"order": ["nearest", "none"], "triplet": [1, 0]}
    written = {"mine": "urbancross[first_share=0.3,negatives=source]"}
    found = expanded({"of": "mine", "factors": factors, "design": "factorial"}, adaptations=written)
    assert found.grid.adaptations == written | {
        "mine[triplet=0]": "urbancross[first_share=0.3,triplet=0]",
        "mine[order=none]": "urbancross[negatives=source,order=none]",
        "mine[order=none,triplet=0]": "urbancross[order=none,triplet=0]",
    }


def test_the_base_may_be_another_than_the_entry() -> None:
    found = expanded({"of": "urbancross", "factors": {"triplet": [0.5, 1]}})
    assert [*found.cells] == ["urbancross[triplet=0.5]", "urbancross"]


def test_an_option_that_moves_others_is_no_trap() -> None:
    """A variant sets `sums`, too: with the paper's sums said, it is another cell than without."""
    factors = {"variant": ["paper", "october_2024"], "sums": ["kept", "nearest"]}
    found = expanded({"of": "urbancross", "factors": factors, "design": "factorial"})
    for name, levels in found.cells.items():
        said = f"urbancross[variant={levels['variant']},sums={levels['sums']}]"
        assert options(found.grid.adaptations[name]) == options(said)
    assert [*found.cells][2:] == ["urbancross[variant=october_2024,sums=kept]", "urbancross[variant=october_2024]"]


def test_every_cell_is_searched_like_the_entry() -> None:
    search = {"trials": 2, "space": {"urbancross": {"triplet": [0.5, 2.0]}}}
    found = expanded({"of": "urbancross", "factors": {"order": ["nearest", "none"]}}, search=search)
    assert found.grid.search is not None
    assert found.grid.search.space == {name: {"triplet": (0.5, 2.0)} for name in found.cells}


@pytest.mark.parametrize(
    ("ablation", "parts"),
    [
        ({"of": "urbancross", "factors": {"ordr": ["nearest", "none"]}}, ["no option 'ordr'", '"order"']),
        ({"of": "urbancross", "factors": {"or-der": [1, 2]}}, ["no option 'or-der'"]),
        ({"of": "urbancross", "factors": {"order": ["nearest", "far"]}}, ["order=far", "option 'order'", "'far'"]),
        ({"of": "urbancross", "factors": {"triplet": [1, 1.0]}}, ["triplet=1 and triplet=1.0 are the same"]),
        ({"of": "mine", "factors": {"order": ["nearest", "none"]}}, ["'order'", "'mine' sets already"]),
        (
            {"of": "urbancross", "factors": {"triplet": [1, 0], "adversarial": [1, 0]}, "design": "factorial"},
            ["triplet=0, adversarial=0", "nothing would be trained"],
        ),
        (
            {
                "of": "urbancross",
                "factors": {"triplet": [1, 0], "first_margin": [0.1, 0.2]},
                "design": "factorial",
            },
            ["triplet=0, first_margin=0.1 and triplet=0, first_margin=0.2 are the same", "design: one_at_a_time"],
        ),
        ({"of": "mine", "factors": {"weighted": ["both", "none"]}}, ["would be called 'mine[weighted=none]'"]),
        ({"of": "searched", "factors": {"triplet": [1, 0.5]}}, ["'triplet'", "search.space searches 'searched'"]),
        (
            {"of": "tiny", "factors": {"freeze": [[], "[]"]}},
            ["ablation of 'tiny'", """levels [] and "[]" of 'freeze' would be read as one"""],
        ),
    ],
)
def test_what_cannot_be_is_said_by_name(ablation: dict[str, Any], parts: list[str]) -> None:
    adaptations = {
        "urbancross": "urbancross",
        "mine": "urbancross[order=random]",
        "mine[weighted=none]": "oracle",
        "searched": "urbancross[pairs=1]",
    }
    search = {"trials": 2, "space": {"searched": {"triplet": [1.0, 2.0]}}}
    with pytest.raises(UsageError) as caught:
        expanded(ablation, adaptations=adaptations, search=search)
    assert [part for part in parts if part not in str(caught.value)] == []


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"ablation": {"of": "urbancros", "factors": {"a": [1, 2]}}}, ["'urbancros'", '"urbancross"']),
        ({"ablation": {"of": "urbancross", "factors": {"a": [1]}}}, ["ablation.factors.a"]),
        ({"ablation": {"of": "urbancross", "factors": {}}}, ["ablation.factors"]),
        ({"ablation": {"of": "urbancross", "facters": {}}}, ["unknown key 'facters'", '"factors"']),
        ({"ablation": {"of": "x", "factors": {"a": [1, 2]}}, "encoders": {"x": "openclip"}}, ["rename one"]),
    ],
)
def test_the_section_is_checked_as_it_is_read(grid: GridWriter, change: dict[str, Any], parts: list[str]) -> None:
    file = grid(adaptations={"urbancross": "urbancross", "x": "oracle"}, **change)
    with pytest.raises(UsageError) as caught:
        load_grid(file)
    assert [part for part in [file.name, *parts] if part not in str(caught.value)] == []


def keys(plan: Plan) -> set[str]:
    return {*plan.stages, *(key for run in plan.runs for key in (run.key, *(score.key for score in run.scores)))}


def test_cells_have_the_keys_of_those_written_by_hand(grid: GridWriter) -> None:
    of_adaptation = {"of": "urbancross", "factors": {"order": ["nearest", "none"], "triplet": [1, 0.5]}}
    by_hand = {
        "none": "source_only",
        "a": "urbancross",
        "b": "urbancross[order=none,triplet=1.0]",
        "c": "urbancross[triplet=0.5]",
    }
    of_encoder = {"of": "tiny", "factors": {"normalisation": ["weights", "imagenet"]}}
    encoders = {
        "one": "openclip[architecture=urbancross-tiny]",
        "two": "openclip[architecture=urbancross-tiny,normalisation=imagenet]",
    }
    methods = ["source_only", "urbancross"]
    for ablated, plain in (
        ({"ablation": of_adaptation, "adaptations": methods}, {"adaptations": by_hand}),
        ({"ablation": of_encoder, "adaptations": methods}, {"encoders": encoders, "adaptations": methods}),
    ):
        made, other = (make_plan(load_grid(grid(**change)), installed()) for change in (ablated, plain))
        assert keys(made) == keys(other)
        assert other.ablation is None
        assert made.ablation is not None
        kind = made.ablation.kind
        rows = {row_key(run.spec[kind]) for run in made.runs if run.spec and run.adaptation != "source_only"}
        assert {cell.row for cell in made.ablation.cells} == rows


def test_cells_are_the_rows_of_their_own_search(grid: GridWriter) -> None:
    """As a record says it; a cell that takes out what is searched has none."""
    made = make_plan(
        load_grid(
            grid(
                ablation={"of": "urbancross", "factors": {"triplet": [1, 0]}},
                adaptations=["source_only", "urbancross"],
                selectors=["source_val"],
                search={"trials": 2, "space": {"urbancross": {"first_margin": {"low": 0.1, "high": 0.4}}}},
            )
        ),
        installed(),
    )
    assert made.ablation is not None
    recorded = [
        json.loads(json.dumps(run.spec)) for run in made.runs if run.spec and run.adaptation != "source_only"
    ]
    rows = {row_key(spec["adaptation"], spec["search"]): spec["search"] for spec in recorded}
    assert [rows[cell.row] is not None for cell in made.ablation.cells] == [True, False]


# ── All of it ─────────────────────────────────────────────────────────────────────────────────────


def test_the_page_shows_what_works() -> None:
    page = (Path(__file__).parent.parent / "docs" / "ablations.md").read_text(encoding="utf-8")
    [shown] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert [*expanded(yaml.safe_load(shown)["ablation"]).cells][1:] == [
        f"urbancross[{changed}]" for changed in ("order=random", "order=none", "weighted=none")
    ]


@pytest.mark.slow
def test_from_the_command_line(grid: GridWriter, cli: Cli, tmp_path: Path) -> None:
    ablation = {"of": "urbancross", "factors": {"order": ["nearest", "none"], "weighted": ["both", "none"]}}
    common = {"scenarios": [{"source": "plain", "target": "dark"}], "pretraining": {"steps": 1, "batch_size": 8}}
    file = grid(adaptations=["source_only", "urbancross"], ablation=ablation, **common)
    out = tmp_path / "out"
    result = cli("run", file, "--out", out, "--set", "ablation.design=factorial")
    assert result.status == 0, result.err
    board = tree(out / "leaderboard")
    assert {"ablation.md", "ablation.csv", "ablation.svg", "ablation_effects.md", "ablation_effects.svg"} <= {
        *board
    }
    lines = [*csv.DictReader(io.StringIO(board["ablation.csv"].decode()))]
    assert [(line["order="], line["weighted="]) for line in lines] == [
        *itertools.product(*ablation["factors"].values())  # type: ignore[attr-defined]
    ]
    summary = {
        line["adaptation"]: float(line["mean mR"])
        for line in csv.DictReader(io.StringIO(board["summary.csv"].decode()))
    }
    base = summary["urbancross"]
    by_label = [
        "urbancross",
        *(f"urbancross[{c}]" for c in ("weighted=none", "order=none", "order=none,weighted=none")),
    ]
    assert [float(line["mean mR"]) for line in lines] == [summary[name] for name in by_label]
    for line, name in zip(lines[1:], by_label[1:], strict=True):
        assert float(line["Δ base"]) == pytest.approx(summary[name] - base, abs=2e-4)

    again = cli("leaderboard", "build", out, "--out", tmp_path / "board", "--view", out / "ablation.yaml")
    assert again.status == 0, again.err
    assert tree(tmp_path / "board") == board

    # An older form's tables are not left beside those of this one; what is somebody else's is.
    (out / "leaderboard" / "ablation_of_mine.md").write_text("mine")
    (out / "leaderboard" / "ablation.txt").write_text("mine")
    result = cli("run", file, "--out", out, "--set", "ablation.design=one_at_a_time")
    assert result.status == 0, result.err
    assert {*board} - {*tree(out / "leaderboard")} == {
        f"ablation_effects.{form}"
        for form in ("csv", "json", "md", "svg", "tex")
        if f"ablation_effects.{form}" in board
    }
    assert cli("run", grid(adaptations=["urbancross"], **common), "--out", out).status == 0
    assert {name for name in tree(out / "leaderboard") if "ablation" in name} == {
        "ablation_of_mine.md",
        "ablation.txt",
    }
    assert (out / "ablation.yaml").exists()  # a view, by which the tables can be built again

    # By hand, under other names: nothing is left to run, and the records are found all the same.
    by_hand = {"x": "urbancross[order=none]", "y": "urbancross[order=none,weighted=none]", "z": "urbancross"}
    assert "3 runs: 0 to do, 3 reused" in cli("plan", grid(adaptations=by_hand, **common), "--out", out).out
