"""Tables and plots of ablations are the sums one can do by hand."""

from __future__ import annotations

import copy
import itertools
import json
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Result
from numpy.typing import NDArray

from urbancross_bench.errors import UsageError
from urbancross_bench.evaluation.significance import TEST_RESAMPLES, holm
from urbancross_bench.evaluation.spread import Spread
from urbancross_bench.evaluation.statistics import (
    RESAMPLES,
    SeedMeans,
    image_sums,
    resampled_images,
    resampled_means,
)
from urbancross_bench.interfaces.renderer import Estimate, Table
from urbancross_bench.leaderboard.ablation import ablation_plots, ablation_tables, keep_view
from urbancross_bench.leaderboard.plotting import Dot, Panel, forest
from urbancross_bench.leaderboard.rows import make_rows
from urbancross_bench.leaderboard.view import View, load_view
from urbancross_bench.records import Record, ScoreRecord
from urbancross_bench.specs import AblationCell, AblationView, row_key

Cli = Callable[..., Result]
GridWriter = Callable[..., Path]
Floats = NDArray[np.float64]


# ── The tables ────────────────────────────────────────────────────────────────────────────────────

IMAGES = {"b": 60, "c": 45}  # target → test images
SEEDS = (0, 1, 2)


@dataclass(frozen=True, eq=False)
class MadeUp(ScoreRecord):
    """A score with values per image instead of files."""

    values: Floats

    def image_sums(self) -> dict[str, NDArray[np.float64]]:
        return {"mR": sums_of(self.values)}


def sums_of(values: Floats) -> Floats:
    each = np.arange(len(values))
    return image_sums(values, each, each, len(each))


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
        "steps": 5,
        "pretraining": {"steps": 1, "epochs": None, "segment_weight": label if kind == "encoder" else ""},
        **dict.fromkeys(("budget", "precision", "threads", "ranks", "code"), "x"),
        "domains": {name: {"splits": {s: name + s for s in splits}} for name in ("a", target)},
    }
    score = {
        **dict.fromkeys(("precision", "segments"), "x"),
        "measured_by": {"metrics": [], "code": "x"},
        "selected_by": {"name": "x"},
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
    searches: Mapping[str, Any] = field(default_factory=dict)  # by the level of the first factor

    def identity(self, cell: tuple[str, ...]) -> dict[str, Any]:
        return {"name": "m", "options": dict(zip(self.factors, cell, strict=True))}

    def view(self, design: str) -> View:
        cells = [
            AblationCell(
                levels=dict(zip(self.factors, cell, strict=True)),
                row=row_key(self.identity(cell), self.searches.get(cell[0])),
            )
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
            searched(
                record(self.identity(cell), "-".join(cell), target, seed, of_seeds[seed], self.kind),
                self.searches.get(cell[0]),
            )
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


def spread(contrast: Mapping[str, Floats], resamples: int = TEST_RESAMPLES) -> Spread:
    """That of a number per target, seed and image: here the contrast is taken before any resampling."""
    several = []
    for target, of_seeds in contrast.items():
        draws = resampled_images(of_seeds.shape[1], len(target), resamples)
        many = [resampled_means({"x": sums_of(one)}, draws)["x"] for one in of_seeds]
        several.append(SeedMeans(of_seeds.mean(axis=1), np.stack(many)))
    return Spread.of(SeedMeans.average(several))


def test_intervals_and_verdicts_are_those_of_the_contrast_of_each_image() -> None:
    two = {"f": ("0", "1"), "g": ("0", "1")}
    made = world(two, interacting=0.5, noise=4.0)
    tables = made.tables("factorial")
    cell = {target: {"".join(c): v[target] for c, v in made.values.items()} for target in IMAGES}
    mean, of_base = tables["ablation"][0]["mean mR"], {t: v["00"] for t, v in cell.items()}
    assert (mean.low, mean.high) == pytest.approx(spread(of_base, RESAMPLES).interval(), abs=1e-9)
    effects = {
        "f=1": {t: (v["10"] - v["00"] + v["11"] - v["01"]) / 2 for t, v in cell.items()},
        "g=1": {t: (v["01"] - v["00"] + v["11"] - v["10"]) / 2 for t, v in cell.items()},
        "f=1 × g=1": {t: v["11"] - v["01"] - v["10"] + v["00"] for t, v in cell.items()},
    }
    steps = {name: {t: v[name] - v["00"] for t, v in cell.items()} for name in ("01", "10", "11")}
    for name, column, contrasts in (("ablation_effects", "effect", effects), ("ablation", "Δ base", steps)):
        lines = [line for line in tables[name] if line[column] is not None]
        draws = [spread(contrast) for contrast in contrasts.values()]
        for line, drawn in zip(lines, draws, strict=True):
            low, high = drawn.interval()
            assert (line[column].low, line[column].high) == pytest.approx((low, high), abs=1e-9)
        adjusted = holm([drawn.p_value() for drawn in draws])
        sizes = [np.mean([one.mean() for one in contrast.values()]) for contrast in contrasts.values()]
        words = [
            "not shown" if p > 0.05 else "better" if size > 0 else "worse"
            for p, size in zip(adjusted, sizes, strict=True)
        ]
        assert [line["verdict"] for line in lines] == words
        if name == "ablation_effects":  # of one line p is below 5 % until it is corrected
            assert words == ["not shown", "better", "not shown"]
            assert draws[0].p_value() < 0.05


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


@pytest.mark.parametrize("kind", ["adaptation", "encoder"])
def test_a_scenario_that_cells_failed_in_is_one_that_they_lack(kind: str) -> None:
    made = replace(world({"f": ("0", "1")}, noise=1.0), kind=kind)
    short = made.records(without=lambda cell, target, seed: target == "c")
    rest = [one for one in made.records() if one.spec["scenario"]["target"] == "c"]
    assert [line["scenarios"] for line in made.tables("one_at_a_time", [*short, *rest])["ablation"]] == [2, 2]

    def shown() -> list[bool]:
        lines = made.tables("one_at_a_time", [*short, *rest])["ablation"]
        assert [line["scenarios"] for line in lines] == [1, 1]
        return [line["mean mR"] is not None for line in lines]

    # Of another method nothing is known about these cells: they may be skipped there.
    other = "adaptation" if kind == "encoder" else kind
    names = [one.spec[other]["name"] for one in rest]
    for status in ("ok", "failed") if kind == other else ("failed",):
        for one in rest:
            one.spec["status"] = status  # type: ignore[index]
            one.spec[other]["name"] = "a stranger"
        assert shown() == [True, True]
    for one, name in zip(rest, names, strict=True):
        one.spec[other]["name"] = name
    assert shown() == [False, False]


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
        higher.content.update(selector="source_val", selected_by={"name": "source_val"})  # type: ignore[attr-defined]
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


def searched(found: Record, search: Any) -> Record:
    """The record as that of a search, in a folder of its own."""
    folder = Path(f"{found.folder}-{json.dumps(search)}")
    scores = tuple(replace(score, folder=folder) for score in found.scores)
    return replace(found, folder=folder, spec={**found.spec, "search": search}, scores=scores)


def trials(number: int, space: str = "s") -> Any:
    """A search of so many; of one, none."""
    return {"space": {space: [1, 2]}, "trials": [{space: one} for one in range(number)]} if number > 1 else None


NOTE = "Cells of one search had different numbers of trials"


def test_a_cell_that_has_nothing_to_search_is_compared_with_the_base_that_has() -> None:
    """In whichever of both the part is out; the numbers are those without any search."""
    plain = world({"f": ("0", "1", "2")}, noise=1.0)
    expected = plain.tables("one_at_a_time")["ablation"]
    assert [line["trials"] for line in expected] == [1, 1, 1]
    for numbers in ((4, 1, 2), (1, 4, 4)):
        made = replace(plain, searches=dict(zip("012", map(trials, numbers), strict=True)))
        lines = made.tables("one_at_a_time")["ablation"]
        assert lines == [line | {"trials": n} for line, n in zip(expected, numbers, strict=True)]
        tables = ablation_tables(make_rows(made.records(), ["trained here"]), made.view("factorial"))
        assert all(any(note.startswith(NOTE) for note in table.notes) for table in tables)
        effects = [dict(zip(tables[1].columns, row, strict=True)) for row in tables[1].rows]
        assert [line["trials"] for line in effects] == ["varies"] * 2
        assert all(isinstance(line["effect"], Estimate) for line in effects)
    made = replace(plain, searches=dict.fromkeys("012", trials(3)))
    for one in ablation_tables(make_rows(made.records(), ["trained here"]), made.view("factorial")):
        assert not any(note.startswith(NOTE) for note in one.notes)
        assert {row[one.columns.index("trials")] for row in one.rows} == {3}


@pytest.mark.parametrize("other", [None, trials(2), trials(4, "t")])
def test_rows_of_another_search_in_one_folder_are_no_cells(other: Any) -> None:
    """Another grid's: a cell that was not searched is no better or worse than one that was."""
    plain = world({"f": ("0", "1", "2")}, noise=1.0)
    ours = replace(plain, searches={"0": trials(4), "1": trials(4)})
    theirs = replace(plain, searches=dict.fromkeys("012", other)).records(
        without=lambda cell, *_: cell == ("2",) and other is None  # what neither searches is one row
    )
    alone = ours.tables("one_at_a_time")
    assert [line["trials"] for line in alone["ablation"]] == [4, 4, 1]
    assert ours.tables("one_at_a_time", [*ours.records(), *theirs]) == alone
    # Where ours is not run yet, theirs do not stand in for it.
    unfinished = [*ours.records(without=lambda cell, *_: cell == ("0",)), *theirs]
    lines = ours.tables("one_at_a_time", unfinished)["ablation"]
    assert [line["mean mR"] is None for line in lines] == [True, False, False]
    assert {line["Δ base"] for line in lines} == {None}


def test_methods_that_were_searched_otherwise_are_compared_apart_where_encoders_are_ablated() -> None:
    made = world({"f": ("0", "1")}, noise=1.0, kind="encoder")
    records = [*made.records(), *(searched(one, trials(2)) for one in made.records())]
    lines = made.tables("one_at_a_time", records)["ablation"]
    assert sorted(line["trials"] for line in lines) == [1, 1, 2, 2]
    assert [line["Δ base"] is None for line in lines] == [True, False] * 2


def run_with(found: Record, **changes: Any) -> Record:
    """The record as that of another run, in a folder of its own."""
    folder = Path(f"{found.folder}-{json.dumps(changes)}")
    scores = tuple(replace(score, folder=folder) for score in found.scores)
    return replace(found, folder=folder, spec={**found.spec, **changes}, scores=scores)


@pytest.mark.parametrize("kind", ["adaptation", "encoder"])
@pytest.mark.parametrize(
    ("changes", "column", "heading", "note"),
    [
        ({"budget": "y", "steps": 50}, {"steps": [5, 50]}, " · steps: {steps}", "its recipe or budget"),
        ({"code": "y"}, {}, "", "the version of other code"),
    ],
)
def test_what_one_folder_has_of_two_grids_stands_below_two_bases(
    kind: str, changes: Any, column: dict[str, list[int]], heading: str, note: str
) -> None:
    """In tables and pictures: lines and panels are those of each grid alone."""
    made = [world({"f": ("0", "1", "2")}, noise=noise, kind=kind) for noise in (1.0, 2.0)]
    records = [made[0].records(), [run_with(one, **changes) for one in made[1].records()]]
    view = made[0].view("factorial")
    alone = [ablation_tables(make_rows(some, ["trained here"]), view) for some in records]
    both = ablation_tables(make_rows([*records[1], *records[0]], ["trained here"]), view)
    drawn = [ablation_plots(tables) for tables in (both, *alone)]
    verdict = re.compile(", (better|worse|not shown)")  # corrected over all lines of a table
    assert [table.name for table in both] == ["ablation", "ablation_effects"]
    for number, table in enumerate(both):
        lines = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
        expected = [
            dict(zip(one[number].columns, row, strict=True)) | {name: two[place] for name, two in column.items()}
            for place, one in enumerate(alone)
            for row in one[number].rows
        ]
        assert [{**line, "verdict": ""} for line in lines] == [{**line, "verdict": ""} for line in expected]
        assert any(f"one of another block in {note};" in said for said in table.notes)
        assert not any("another block" in said for one in alone for said in one[number].notes)
        said, *apart = (verdict.sub("", words(plots[f"{table.name}.svg"])) for plots in drawn)
        for place, one in enumerate(apart):
            more = heading.format(**{name: two[place] for name, two in column.items()})
            intro, panel = one.split("interval. ")
            assert intro in said
            assert re.sub(r"( · expected)", rf"\1{more}", panel) in said
        assert said.count("expected") == 2


def words(plot: str) -> str:
    return ET.fromstring(plot).findtext(f"{SVG}desc") or ""


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


def test_a_plot_of_any_text_is_well_formed() -> None:
    texts = ["a<b>&c", "line\nbreak", "\u202eleft", "not XML: \ufffe\uffff\ud800"]
    drawn = forest("plot", texts[3], texts[3], [Panel(text, [Dot(text, None, text)]) for text in texts])
    assert "not XML: \ufffd\ufffd[U+D800]" in words(drawn)


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
