"""Ablations: which cells a grid gets, and that their tables are the sums one can do by hand."""

from __future__ import annotations

import copy
import csv
import io
import itertools
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import Result, tree
from numpy.typing import NDArray

from urbancross_bench.errors import UsageError
from urbancross_bench.evaluation.significance import TEST_RESAMPLES, holm, p_value
from urbancross_bench.evaluation.statistics import (
    RESAMPLES,
    SeedMeans,
    image_sums,
    interval,
    over_seeds,
    resampled_images,
    resampled_means,
)
from urbancross_bench.execution.ablating import Ablating, with_ablation
from urbancross_bench.execution.plan import Plan, make_plan
from urbancross_bench.interfaces.renderer import Estimate, Table
from urbancross_bench.leaderboard.ablation import ablation_plots, ablation_tables, keep_view
from urbancross_bench.leaderboard.plotting import Dot, Panel, forest
from urbancross_bench.leaderboard.rows import make_rows
from urbancross_bench.leaderboard.view import View, load_view
from urbancross_bench.records import Record, ScoreRecord
from urbancross_bench.registry import Registry
from urbancross_bench.specs import AblationCell, AblationView, Grid, load_grid, row_key

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
    return installed().resolve("adaptation", reference).options.identity()


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
        ({"of": "mine", "factors": {"weighted": ["both", "none"]}}, ["would be called 'mine[weighted=none]'"]),
        ({"of": "searched", "factors": {"triplet": [1, 0.5]}}, ["'triplet'", "search.space searches 'searched'"]),
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


# ── The tables ────────────────────────────────────────────────────────────────────────────────────

IMAGES = {"b": 60, "c": 45}  # target → test images
SEEDS = (0, 1, 2)


@dataclass(frozen=True, eq=False)
class MadeUp(ScoreRecord):
    """A score with values per image instead of files."""

    values: Floats

    def arrays(self) -> dict[str, NDArray[Any]]:
        return {"image_sums.mR": sums_of(self.values)}


def sums_of(values: Floats) -> Floats:
    return image_sums(values, np.arange(len(values)), len(values))


def record(identity: Mapping[str, Any], label: str, target: str, seed: int, values: Floats, kind: str) -> Record:
    said = {"encoder": {"label": "e", "name": "e"}, "adaptation": {"label": "m", "name": "m"}}
    said[kind] = {"label": label, **identity}
    said["encoder"]["weights"] = {"status": "trained here"}
    key = f"{label}-{target}-{seed}"
    splits = {"train": "x", "val": "x", "test": "x"}
    spec = {
        "key": key,
        "status": "ok",
        "scenario": {"source": ["a"], "target": target, "kind": "cross_domain"},
        **said,
        "shown": {"setting": "unsupervised", "disjoint_halves": False, "share": None},
        "segments": None,
        "search": None,
        "seed": seed,
        "pretraining": {"steps": 1, "segment_weight": label if kind == "encoder" else ""},
        **dict.fromkeys(("budget", "precision", "threads", "ranks", "code"), "x"),
        "domains": {name: {"splits": {s: name + s for s in splits}} for name in ("a", target)},
    }
    score = {
        **dict.fromkeys(("precision", "segments", "measured_by", "selected_by"), "x"),
        **{"selector": "last", "protocol": "classic", "ties": "expected", "setting": "unsupervised"},
        **{"domain": target, "test": target, "items": target, "draws": len(target), "images": len(values)},
        "calibration": None,
        "metrics": {"mR": {"value": values.mean(), "parts": None, "chance": 1.0, "higher_is_better": True}},
    }
    return Record(Path(key), spec, (MadeUp(Path(key), score, values),))


@dataclass(frozen=True)
class World:
    """Cells of a design, and for each its values: target → (seeds, images)."""

    factors: Mapping[str, Sequence[str]]
    values: Mapping[tuple[str, ...], Mapping[str, Floats]]
    kind: str = "adaptation"

    def identity(self, cell: tuple[str, ...]) -> dict[str, Any]:
        return {"name": "m", "options": dict(zip(self.factors, cell, strict=True))}

    def view(self, design: str) -> View:
        cells = [
            AblationCell(levels=dict(zip(self.factors, cell, strict=True)), row=row_key(self.identity(cell)))
            for cell in self.values
        ]
        ablation = AblationView(
            of="m",
            kind=self.kind,
            design=design,
            factors=dict(self.factors),
            cells=cells,  # type: ignore[arg-type]
        )
        return View(title="T", ablation=ablation)

    def records(self, *, without: Callable[..., bool] = lambda cell, target, seed: False) -> list[Record]:
        """One per cell, target and seed, but for those left out; labels are not the names of any grid."""
        return [
            record(self.identity(cell), "-".join(cell), target, seed, of_seeds[seed], self.kind)
            for cell, by_target in self.values.items()
            for target, of_seeds in by_target.items()
            for seed in SEEDS
            if not without(cell, target, seed)
        ]

    def tables(self, design: str, records: Sequence[Record] | None = None) -> dict[str, list[dict[str, Any]]]:
        """Lines by column, by table."""
        rows = make_rows((self.records() if records is None else records)[::-1], ["trained here"])
        made = ablation_tables(rows, self.view(design))
        return {table.name: [dict(zip(table.columns, row, strict=True)) for row in table.rows] for table in made}


def world(
    factors: Mapping[str, Sequence[str]], *, interacting: float = 0.0, noise: float = 0.0, kind: str = "adaptation"
) -> World:
    """Level i of factor f adds i (f + 1) times what an image feels of f; where the first two both differ from
    their first levels, `interacting` times the product of i and j.
    """
    generator = np.random.default_rng(3)
    felt = {target: 1 + generator.random((len(factors) + 1, images)) for target, images in IMAGES.items()}
    plain = {t: 40 + 9 * generator.normal(size=(len(SEEDS), images)) for t, images in IMAGES.items()}
    values: dict[tuple[str, ...], dict[str, Floats]] = {}
    for places in itertools.product(*(range(len(levels)) for levels in factors.values())):
        cell = tuple(levels[i] for i, levels in zip(places, factors.values(), strict=True))
        values[cell] = {}
        for target, images in IMAGES.items():
            added = sum(i * (f + 1) * felt[target][f] for f, i in enumerate(places))
            added = added + interacting * math.prod(places[:2]) * felt[target][-1]
            values[cell][target] = plain[target] + added + noise * generator.normal(size=(len(SEEDS), images))
    return World(factors, values, kind)


FACTORS = {"f": ("0", "1", "2"), "g": ("0", "1"), "h": ("0", "1")}


def value(cell: Any) -> float:
    assert isinstance(cell, Estimate)
    return cell.value


def of_means(made: World) -> Floats:
    """Means over targets, seeds and images: one axis a factor."""
    means = [np.mean([of_seeds.mean() for of_seeds in by_target.values()]) for by_target in made.values.values()]
    return np.reshape(means, [len(levels) for levels in made.factors.values()])


@pytest.mark.parametrize("interacting", [0.0, -1.5])
@pytest.mark.parametrize("kind", ["adaptation", "encoder"])
def test_effects_are_those_of_the_matrix(interacting: float, kind: str) -> None:
    made = world(FACTORS, interacting=interacting, kind=kind)
    tables, means = made.tables("factorial"), of_means(made)
    for line, cell in zip(tables["ablation"], np.ndindex(means.shape), strict=True):
        assert tuple(line[f"{f}="] for f in FACTORS) == tuple(map(str, cell))
        assert value(line["mean mR"]) == pytest.approx(means[cell])
        if any(cell):
            assert value(line["Δ base"]) == pytest.approx(means[cell] - means[0, 0, 0])
        else:
            assert line["Δ base"] is line["verdict"] is None
    expected = {
        "f=1": (means[1] - means[0]).mean(),
        "f=2": (means[2] - means[0]).mean(),
        "g=1": (means[:, 1] - means[:, 0]).mean(),
        "h=1": (means[:, :, 1] - means[:, :, 0]).mean(),
        "f=1 × g=1": (means[1, 1] - means[0, 1] - means[1, 0] + means[0, 0]).mean(),
        "f=2 × g=1": (means[2, 1] - means[0, 1] - means[2, 0] + means[0, 0]).mean(),
        "f=1 × h=1": (means[1, :, 1] - means[0, :, 1] - means[1, :, 0] + means[0, :, 0]).mean(),
        "f=2 × h=1": (means[2, :, 1] - means[0, :, 1] - means[2, :, 0] + means[0, :, 0]).mean(),
        "g=1 × h=1": (means[:, 1, 1] - means[:, 0, 1] - means[:, 1, 0] + means[:, 0, 0]).mean(),
    }
    found = {line["change"]: value(line["effect"]) for line in tables["ablation_effects"]}
    assert [*found] == [*expected]
    assert found == pytest.approx(expected)
    for change, size in found.items():
        if "×" in change and not (interacting and "f" in change and "g" in change):
            assert size == pytest.approx(0, abs=1e-9)


def resampled(contrast: Mapping[str, Floats], resamples: int = TEST_RESAMPLES) -> Floats:
    """Resamples of a number per target, seed and image: here the contrast is taken before any resampling."""
    several = []
    for target, of_seeds in contrast.items():
        draws = resampled_images(of_seeds.shape[1], len(target), resamples)
        many = [resampled_means({"x": sums_of(one)}, draws)["x"] for one in of_seeds]
        several.append(SeedMeans(of_seeds.mean(axis=1), np.stack(many)))
    return over_seeds(SeedMeans.average(several))


def test_intervals_and_verdicts_are_those_of_the_contrast_of_each_image() -> None:
    two = {"f": ("0", "1"), "g": ("0", "1")}
    made = world(two, interacting=0.5, noise=4.0)
    tables = made.tables("factorial")
    cell = {target: {"".join(c): v[target] for c, v in made.values.items()} for target in IMAGES}
    mean, of_base = tables["ablation"][0]["mean mR"], {t: v["00"] for t, v in cell.items()}
    assert (mean.low, mean.high) == pytest.approx(interval(resampled(of_base, RESAMPLES)), abs=1e-9)
    effects = {
        "f=1": {t: (v["10"] - v["00"] + v["11"] - v["01"]) / 2 for t, v in cell.items()},
        "g=1": {t: (v["01"] - v["00"] + v["11"] - v["10"]) / 2 for t, v in cell.items()},
        "f=1 × g=1": {t: v["11"] - v["01"] - v["10"] + v["00"] for t, v in cell.items()},
    }
    steps = {name: {t: v[name] - v["00"] for t, v in cell.items()} for name in ("01", "10", "11")}
    for name, column, contrasts in (("ablation_effects", "effect", effects), ("ablation", "Δ base", steps)):
        lines = [line for line in tables[name] if line[column] is not None]
        draws = [resampled(contrast) for contrast in contrasts.values()]
        for line, drawn in zip(lines, draws, strict=True):
            low, high = interval(drawn)
            assert (line[column].low, line[column].high) == pytest.approx((low, high), abs=1e-9)
        adjusted = holm([p_value(drawn) for drawn in draws])
        sizes = [np.mean([one.mean() for one in contrast.values()]) for contrast in contrasts.values()]
        words = [
            "not shown" if p > 0.05 else "better" if size > 0 else "worse"
            for p, size in zip(adjusted, sizes, strict=True)
        ]
        assert [line["verdict"] for line in lines] == words
        if name == "ablation_effects":  # of one line p is below 5 % until it is corrected
            assert words == ["not shown", "better", "not shown"]
            assert p_value(draws[0]) < 0.05


def test_what_lacks_a_seed_is_null_and_all_that_rests_on_it() -> None:
    made = world({"f": ("0", "1", "2"), "g": ("0", "1")}, noise=1.0)
    tables = made.tables("factorial", made.records(without=lambda *run: run == (("2", "1"), "c", 1)))
    null = {f"{line['f=']}{line['g=']}" for line in tables["ablation"] if line["mean mR"] is None}
    assert null == {"21"}
    effects = {line["change"] for line in tables["ablation_effects"] if line["effect"] is None}
    assert effects == {"f=2", "g=1", "f=2 × g=1"}
    of_base = made.tables("one_at_a_time", made.records(without=lambda *run: run == (("0", "0"), "b", 2)))
    assert [*of_base] == ["ablation"]
    assert [line["Δ base"] for line in of_base["ablation"]] == [None] * 6
    assert sum(line["mean mR"] is None for line in of_base["ablation"]) == 1


def test_what_lacks_a_scenario_is_null() -> None:
    made = world({"f": ("0", "1")}, noise=1.0)
    records = made.records(without=lambda cell, target, seed: cell == ("1",) and target == "c")
    base, other = made.tables("one_at_a_time", records)["ablation"]
    assert (base["scenarios"], other["scenarios"]) == (2, 1)
    assert base["mean mR"] is not None
    assert other["mean mR"] is other["Δ base"] is other["verdict"] is None


def test_a_cell_that_nobody_ran_has_its_line() -> None:
    made = world({"f": ("0", "1")}, noise=1.0)
    lines = made.tables("one_at_a_time", made.records(without=lambda cell, *_: cell == ("1",)))["ablation"]
    assert [(line["f="], line["scenarios"], line["seeds"]) for line in lines] == [("0", 2, 3), ("1", 0, 0)]
    assert lines[1]["mean mR"] is None


def test_what_was_measured_otherwise_is_not_subtracted() -> None:
    made = world({"f": ("0", "1")}, noise=1.0)
    records = made.records()
    for one in records:
        if one.spec["adaptation"]["label"] == "1":
            one.scores[0].content["items"] = "other"  # type: ignore[index]
    lines = made.tables("one_at_a_time", records)["ablation"]
    assert all(line["mean mR"] is not None for line in lines)
    assert [line["Δ base"] for line in lines] == [None, None]


def test_each_selector_has_its_own_lines_and_no_shift_has_none() -> None:
    made = world({"f": ("0", "1")}, noise=1.0)
    records = []
    for one in made.records():
        [score] = one.scores
        assert isinstance(score, MadeUp)
        higher = replace(score, values=score.values + 10, content=copy.deepcopy(score.content))
        higher.content["selector"] = higher.content["selected_by"] = "source_val"  # type: ignore[index]
        higher.content["metrics"]["mR"]["value"] += 10
        in_domain = {"source": [one.spec["scenario"]["target"]], "kind": "in_domain"}
        records.append(replace(one, scores=(score, higher)))
        records.append(replace(one, spec={**one.spec, "scenario": one.spec["scenario"] | in_domain}))
    expected = made.tables("one_at_a_time")["ablation"]
    lines = made.tables("one_at_a_time", records)["ablation"]
    assert [line["selector"] for line in lines] == ["last", "last", "source_val", "source_val"]
    assert lines[:2] == expected
    assert [value(line["mean mR"]) for line in lines[2:]] == pytest.approx(
        [value(line["mean mR"]) + 10 for line in expected]
    )
    assert value(lines[3]["Δ base"]) == pytest.approx(value(expected[1]["Δ base"]))


def test_two_seeds_get_no_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "SEEDS", (0, 1))
    lines = world({"f": ("0", "1")}, noise=1.0).tables("one_at_a_time")["ablation"]
    assert [line["verdict"] for line in lines] == [None, "too few seeds"]


def test_references_are_shown_and_not_judged() -> None:
    made = world({"f": ("0", "1")}, noise=1.0)
    view = made.view("factorial").model_copy(update={"reference_settings": ("unsupervised",)})
    for table in ablation_tables(make_rows(made.records(), ["trained here"]), view):
        last = dict(zip(table.columns, table.rows[-1], strict=True))
        assert last["verdict"] is None
        assert isinstance(last.get("effect", last.get("Δ base")), Estimate)


def test_no_ablation_no_table() -> None:
    assert ablation_tables([], View(title="T")) == []
    [table] = ablation_tables([], world({"f": ("0", "1")}).view("one_at_a_time"))
    assert not table.rows
    assert ablation_plots([table]) == {}


def test_a_view_is_read_as_it_was_kept(tmp_path: Path) -> None:
    view = world(FACTORS).view("factorial")
    keep_view(view, tmp_path / "v.yaml")
    assert load_view(tmp_path / "v.yaml") == view
    with pytest.raises(UsageError, match="cannot be written"):
        keep_view(view, tmp_path / "none" / "v.yaml")


# ── The plot ──────────────────────────────────────────────────────────────────────────────────────

SVG = "{http://www.w3.org/2000/svg}"


def numbers(text: str) -> list[float]:
    return [float(one) for one in re.findall(r"[+-]?\d+\.?\d*", text.replace("−", "-"))]


def test_a_dot_stands_where_the_axis_says() -> None:
    dots = [
        Dot("a", Estimate(-3.2, -7.5, 1.25), "x", sure=True),
        Dot("b", Estimate(0.4), "y"),
        Dot("c", None, "z"),
    ]
    root = ET.fromstring(forest("plot", "Title", "Words.", [Panel("one", dots[:2]), Panel("two", dots[2:])]))
    ticks = {
        numbers(text.text or "")[0]: float(text.attrib["x"])
        for text in root.iterfind(f"{SVG}text")
        if text.attrib.get("text-anchor") == "middle"
    }
    assert all(0 < place < float(root.attrib["width"]) for place in ticks.values())
    scale, origin = np.polyfit([*ticks], [*ticks.values()], 1)
    assert 4 <= len(ticks) <= 12
    circles = [*root.iter(f"{SVG}circle")]
    for circle, at in zip(circles, [-3.2, 0.4], strict=True):
        assert float(circle.attrib["cx"]) == pytest.approx(origin + scale * at, abs=0.2)
    [bar] = root.iterfind(f"{SVG}g/{SVG}line")
    assert [float(bar.attrib[x]) for x in ("x1", "x2")] == pytest.approx(
        [origin + scale * at for at in (-7.5, 1.25)], abs=0.2
    )
    assert circles[0].attrib["fill"] != circles[1].attrib["fill"]
    texts = [text for text in root.iter(f"{SVG}text") if text.text in ("a", "b", "c")]
    assert len(texts) == 3
    assert len({text.attrib["y"] for text in texts}) == 3


def test_a_plot_says_its_numbers_in_words() -> None:
    made = world({"f": ("0", "1"), "g": ("0", "1")}, noise=1.0)
    tables = ablation_tables(make_rows(made.records(), ["trained here"]), made.view("factorial"))
    plots = ablation_plots(tables)
    assert [*plots] == ["ablation.svg", "ablation_effects.svg"]
    for table, plot in zip(tables, plots.values(), strict=True):
        root = ET.fromstring(plot)
        ids = root.attrib["aria-labelledby"].split()
        named = {one.attrib.get("id"): one for one in root}
        assert root.attrib["role"] == "img"
        assert [named[i].tag for i in ids] == [f"{SVG}title", f"{SVG}desc"]
        sure = [row[-1] in ("better", "worse") for row in table.rows if row[-1] is not None]
        fills = [circle.attrib["fill"] != "#ffffff" for circle in root.iter(f"{SVG}circle")]
        assert fills == sure
        column = [*table.columns].index("effect" if table.name == "ablation_effects" else "Δ base")
        for found in (row[column] for row in table.rows if row[column] is not None):
            assert f"{value(found):+.2f}".replace("-", "−") in (named[ids[1]].text or "")


NASTY = "<script>alert(1)</script>&\"'\u202eevil\n]]>\x00"


def test_nothing_in_a_plot_is_markup() -> None:
    lines = [["last", NASTY, NASTY, Estimate(1.0, 0.5, 2.0), NASTY]]
    table = Table("ablation_effects", NASTY, ["selector", "kind", "change", "effect", "verdict"], lines)
    [plot] = ablation_plots([table]).values()
    root = ET.fromstring(plot)
    assert {one.tag.removeprefix(SVG) for one in root.iter()} == {
        "svg",
        "title",
        "desc",
        "rect",
        "text",
        "line",
        "g",
        "circle",
    }
    assert not re.search("[\u202e\x00]|<script", plot)


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

    # By hand, under other names: nothing is left to run, and the records are found all the same.
    by_hand = {"x": "urbancross[order=none]", "y": "urbancross[order=none,weighted=none]", "z": "urbancross"}
    assert "3 runs: 0 to do, 3 reused" in cli("plan", grid(adaptations=by_hand, **common), "--out", out).out
