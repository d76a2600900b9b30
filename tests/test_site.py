"""The site: whole, the same bytes from the same records, silent about what may not be shown, and safe to open."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

import pytest
import yaml
from conftest import Outcome, Result, tree
from made_up_records import IMAGES, edit
from safetensors.numpy import load_file, save_file
from site_board import COPIES, write_output
from test_renderers import NASTY

from urbancross_bench.data.card import card
from urbancross_bench.errors import PluginError
from urbancross_bench.interfaces import (
    Board,
    Cell,
    Domain,
    Estimate,
    ImageSource,
    Options,
    Renderer,
    ShownRun,
    Table,
)
from urbancross_bench.leaderboard.build import make_files, write_files
from urbancross_bench.leaderboard.gallery import _labels, _methods
from urbancross_bench.leaderboard.rows import make_rows
from urbancross_bench.leaderboard.stored import _unrolled
from urbancross_bench.leaderboard.view import DEFAULT, load_view
from urbancross_bench.records import read_records
from urbancross_renderers.csv import Csv
from urbancross_renderers.html.forest import forests
from urbancross_renderers.html.heatmap import heatmaps
from urbancross_renderers.html.maps import tile_map
from urbancross_renderers.html.runs import listed, run_list
from urbancross_renderers.html.site import Html
from urbancross_renderers.html.tables import filtered, labels, shown_table

Cli = Callable[..., Result]
WITHOUT_TORCH = (
    "import sys, socket; sys.modules['torch'] = socket.socket.connect = None; sys.argv = ['x', *{}]; "
    "from urbancross_bench.cli.app import main; main()"
)
VOID = {"meta", "link", "img", "input"}


class Seen(HTMLParser):
    """What a page holds: its elements with the names of their attributes, its text, and where it leads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.shape: list[tuple[str, ...]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.classes: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.shape.append((tag, *(name for name, _ in attrs)))
        said = dict(attrs)
        self.links += [value for name in ("href", "src") if (value := said.get(name)) and value != "data:,"]
        self.ids += [value] if (value := said.get("id")) else []
        self.classes.append(said.get("class") or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        """All of it, spaces as one."""
        return " ".join(" ".join(self.texts).split())


def pages(site: Path) -> Iterator[tuple[Path, Seen]]:
    """Every page below a folder, whole: all its elements closed in order."""
    for file in sorted(site.rglob("*.html")):
        seen = Seen(file.read_text(encoding="utf-8"))
        assert seen.open == []
        yield file, seen


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs with a store. Look, do not touch."""
    return write_output(tmp_path_factory.mktemp("output"))


@pytest.fixture(scope="module")
def site(output: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Their site, made without torch and network. Look, do not touch."""
    return build(output, tmp_path_factory.mktemp("site"))


def built(out: Path, cli: Cli, *places: Path) -> Path:
    """The site of some folders, made in this process."""
    done = cli("leaderboard", "build", *places, "--out", out, "--format", "html")
    assert done.status == 0, done.err
    return out / "site"


def build(output: Path, out: Path, seed: str = "0") -> Path:
    """The site of some runs, by the command line in a process of its own."""
    arguments = ["leaderboard", "build", str(output), "--out", str(out), "--format", "html"]
    code = WITHOUT_TORCH.format(arguments)
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONHASHSEED": seed})
    return out / "site"


def test_every_link_leads_somewhere_and_nothing_leaves_the_disk(site: Path) -> None:
    found = {file for file in site.rglob("*") if file.is_file()}
    reached = {site / "index.html"}
    for file, seen in pages(site):
        assert len(set(seen.ids)) == len(seen.ids)
        assert "Content-Security-Policy" in file.read_text(encoding="utf-8")
        for link in seen.links:
            place, _, part = link.partition("#")
            assert not re.match(r"[a-z]+:|//", link)
            target = (file.parent / place).resolve() if place else file
            assert target in found
            reached.add(target)
            assert part.startswith("filter=") or not part or part in Seen(target.read_text(encoding="utf-8")).ids
    assert reached == found
    for name in ("style.css", "site.js"):
        assert not re.search(r"https?:|url\(|@import|eval\(|innerHTML", (site / name).read_text(encoding="utf-8"))


def test_the_same_records_give_the_same_bytes(output: Path, site: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(output / "store", other / "store")
    for folder in sorted((output / "runs").iterdir(), reverse=True):
        shutil.copytree(folder, other / "runs" / folder.name)
    assert tree(build(other, tmp_path / "out", seed="7")) == tree(site)


def test_from_within_a_folder_of_records_the_site_is_the_same(output: Path, site: Path, tmp_path: Path) -> None:
    code = WITHOUT_TORCH.format(["leaderboard", "build", ".", "--out", str(tmp_path / "out"), "--format", "html"])
    subprocess.run([sys.executable, "-c", code], check=True, cwd=output / "runs")
    assert tree(tmp_path / "out" / "site") == tree(site)


def test_a_run_has_a_page_with_what_its_record_says(output: Path, site: Path) -> None:
    records = {record.folder.name: record for record in read_records([output])}
    shown = {}
    for file, seen in pages(site / "runs"):
        key = next(name for name in records if f"urbancross-bench run 'made up' --only {name}" in seen.text)
        shown[key] = file
        record = records[key]
        for name, entry in record.scores[0].content["metrics"].items():
            assert f"{name} {entry['value']:.2f} [{entry['low']:.2f}, {entry['high']:.2f}]" in seen.text
        assert "secret" not in seen.text  # the host's name
        assert "cpu seconds 120.0" in seen.text
    assert shown.keys() == records.keys()
    listed = Seen((site / "runs.html").read_text(encoding="utf-8"))
    assert sum(link.startswith("runs/") for link in listed.links) == len(records)


def test_curves_are_drawn_to_scale(site: Path) -> None:
    """`CURVE` at its ends and middle: the axis of a share goes from 0 to 1."""
    file = next(file for file, _ in pages(site / "runs"))
    text = file.read_text(encoding="utf-8")
    loss, share = re.findall(r'<polyline points="([^"]+)"', text)
    assert loss == "0.0,4.0 150.0,50.0 300.0,96.0"  # 4, 3 and 2 in a box of 300 by 100
    assert share == "0.0,96.0 150.0,50.0 300.0,4.0"
    assert "curriculum: share of the source kept" in text
    assert "3 passes; 4.00 at first, 2.00 at the end, between 2.00 and 4.00." in text


def test_tables_show_the_numbers_of_the_csv(output: Path, site: Path, cli: Cli, tmp_path: Path) -> None:
    assert cli("leaderboard", "build", output, "--out", tmp_path, "--format", "json").status == 0
    for name, page in (("summary", "index.html"), ("scenarios", "scenarios.html")):
        text = Seen((site / page).read_text(encoding="utf-8")).text
        said = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
        for row in said["rows"]:
            column = "mean mR" if name == "summary" else "mR"
            assert f"{row[column]:.2f} [{row[f'{column} low']:.2f}, {row[f'{column} high']:.2f}]" in text
    assert not (tmp_path / "summary.csv").exists()


def test_a_domain_has_its_card_its_floors_and_a_map_over_the_antimeridian(site: Path) -> None:
    found = {seen.text.split(" ", 1)[0]: seen for _, seen in pages(site / "domains")}
    assert found.keys() == {"a", "b"}
    text = found["a"].text
    assert "random order 12.50 3.25" in text
    assert "ceiling: equal captions score equally 99.50 98.75" in text
    assert "knows the scene class alone" not in text  # null in the score
    assert "179.00° E to 179.10° W" in text  # the twenty tiles, some on each side
    assert "train (10)" in text
    assert "test (10)" in text
    assert sum("tile tile" in name for name in found["a"].classes) == 20


def test_a_gallerys_baseline_has_seen_no_labels_where_there_is_one(output: Path) -> None:
    """`source_only` as a selector chooses it that sees the target's pairs stands above its other rows."""
    view = load_view(DEFAULT)
    run = next(r for r in read_records([output]) if r.spec["adaptation"]["label"] == view.baseline)
    [honest] = run.scores
    said = honest.content
    best = {view.metric: said["metrics"][view.metric] | {"value": 99.0}}
    told = said | {"selector": "target_oracle", "setting": "oracle", "metrics": said["metrics"] | best}
    told |= {"selected_by": {"name": "target_oracle", "options": {}}}
    for known in ([honest, replace(honest, content=told)], [replace(honest, content=told)]):
        rows = make_rows([replace(run, scores=tuple(known))], view.weights)
        assert len(rows) == len(known)
        assert _methods(rows, view)[0].seeds[0].score == known[0]


def test_a_gallery_keeps_methods_apart_that_have_one_name(cli: Cli, tmp_path: Path) -> None:
    """Shares, recipes: each has its own lists; none stands for another because it scored higher."""
    places = [tmp_path / name for name in "abcd"]
    for place, share in zip(places[:2], (0.25, 0.5), strict=True):
        shown = {"setting": "few_shot", "share": share, "share_seed": 0, "disjoint_halves": False}
        write_output(place, methods=["ours"], pairs=[("a", "b")], shown=shown)
    for place, steps in zip(places[2:], (20, 30), strict=True):
        more = {"steps": steps, "epochs": None}
        write_output(place, methods=["source_only", "theirs"], pairs=[("a", "b")], pretraining=more)
    # Behind the baseline of one recipe stands its rival of that recipe.
    rows = make_rows(read_records(places), ["trained here"])
    first, rival, *others = _methods(rows, load_view(DEFAULT))
    assert [row.run["adaptation"]["label"] for row in (first, rival)] == ["source_only", "theirs"]
    assert first.run["pretraining"] == rival.run["pretraining"]
    assert len(others) == 4
    site = built(tmp_path / "board", cli, *places)
    [room] = site.glob("gallery/*.html")
    text = Seen(room.read_text(encoding="utf-8")).text
    for name in (
        "ours · from a · small · last · 25 % of the pairs",
        "ours · from a · small · last · 50 % of the pairs",
    ):
        assert f"{name} · seed 0" in text
    for name in ("source_only", "theirs"):
        for steps in (20, 30):
            assert f"{name} · from a · small · last · {steps} steps, 5 steps · seed 0" in text
    # Their runs are told apart in the list, and each row leads to its own.
    listed = Seen((site / "runs.html").read_text(encoding="utf-8"))
    assert {"few_shot, 25 % of the pairs", "few_shot, 50 % of the pairs"} <= {*listed.texts}
    links = [
        link for link in Seen((site / "scenarios.html").read_text(encoding="utf-8")).links if "#filter" in link
    ]
    assert len(links) == len({*links}) == 6
    for link in links:
        [row] = re.findall(r'^"([0-9a-f]{8})"$', unquote(link.partition("#filter=")[2]))
        assert listed.texts.count(row) == 3  # seeds


def test_what_was_measured_otherwise_has_a_name_of_its_own(output: Path) -> None:
    run = next(r for r in read_records([output]) if r.spec["adaptation"]["label"] == "ours")
    [score] = run.scores
    changes = ({}, {"precision": "bfloat16"}, {"measured_by": {"metrics": [], "code": "2"}})
    scores = tuple(replace(score, content={**score.content, **change}) for change in changes)
    names = _labels(make_rows([replace(run, scores=scores)], load_view(DEFAULT).weights))
    assert len({*names}) == 3
    assert all(name.startswith("ours · from ") and name.endswith(f" · seed {run.spec['seed']}") for name in names)


def test_a_run_shows_the_scores_that_count(cli: Cli, tmp_path: Path) -> None:
    """Not those that stand there once more with further metrics."""
    out = write_output(tmp_path / "out", methods=["source_only"], pairs=[("a", "b")], seeds=[0])
    [score] = out.glob("runs/*/scores/*")
    edit(score / "score.json", measured_by={"metrics": ["recall"], "code": "1"})
    more = score.with_name("more")
    shutil.copytree(score, more)
    said = json.loads((more / "score.json").read_text(encoding="utf-8"))
    extra = said["metrics"] | {"i2t_mAP@R": said["metrics"]["i2t_R@1"]}
    edit(more / "score.json", key="more", measured_by={"metrics": ["recall", "map"], "code": "1"}, metrics=extra)
    [page] = built(tmp_path / "board", cli, out).glob("runs/*.html")
    seen = Seen(page.read_text(encoding="utf-8"))
    assert seen.texts.count("last") == 1
    assert "i2t_mAP@R" in seen.texts


def test_pictures_come_from_whichever_folder_has_them(output: Path, cli: Cli, tmp_path: Path) -> None:
    """Copies of the records without a store, before or after the output; all of them, or the first alone."""
    usual = tree(built(tmp_path / "usual", cli, output))
    every, one = tmp_path / "every", tmp_path / "one"
    shutil.copytree(output / "runs", every / "runs")
    first = min((output / "runs").iterdir())
    shutil.copytree(first, one / "runs" / first.name)
    for copies in (every, one):
        for number, places in enumerate(([copies, output], [output, copies])):
            assert tree(built(tmp_path / f"{copies.name}{number}", cli, *places)) == usual
    larger = tmp_path / "larger"
    shutil.copytree(output, larger)
    for pack in [*larger.glob("store/pack/*")]:
        facts = json.loads((pack / "stage.json").read_text(encoding="utf-8"))["facts"] | {"format": {"size": 16}}
        shutil.copytree(pack, other := pack.with_name(f"{pack.name[::-1]}"))
        edit(other / "stage.json", facts=facts)
        pixels = load_file(other / "images.safetensors")["images"].repeat(2, axis=1).repeat(2, axis=2)
        save_file({"images": pixels}, other / "images.safetensors")
    one_way, other_way = (
        tree(built(tmp_path / f"larger{number}", cli, *places))
        for number, places in enumerate(([larger, output], [output, larger]))
    )
    assert one_way == other_way != usual
    rest = tmp_path / "rest"
    shutil.copytree(output, rest)
    shutil.rmtree(rest / "runs" / first.name)
    assert tree(built(tmp_path / "parts", cli, rest, one)) == usual


@pytest.mark.parametrize(
    ("easts", "ends"),
    [
        ([-120.0, -3.0, 2.0, 140.0], ("120.00° W", "140.00° E")),  # around half the globe and more
        ([170.0, -170.0], ("170.00° E", "170.00° W")),
        ([-10.0, 30.0], ("10.00° W", "30.00° E")),
    ],
)
def test_a_map_goes_along_the_shortest_arc(easts: list[float], ends: tuple[str, str]) -> None:
    drawn = tile_map(_unrolled([("test", 10.0 + i, east) for i, east in enumerate(easts)]))
    assert drawn is not None
    assert (drawn.west, drawn.east) == ends
    at = [float(x) for x in re.findall(r'cx="([\d.]+)"', drawn.drawing)]
    west = easts[0]
    away = [east - west if east >= west else east - west + 360 for east in easts]
    assert at == pytest.approx([at[0] + (at[-1] - at[0]) * one / away[-1] for one in away], abs=0.1)


def test_the_gallery_marks_right_answers_and_copies(output: Path, site: Path) -> None:
    """Against the top lists themselves: query i is right with item i alone, and `COPIES` are the same."""
    [room] = [seen for file, seen in pages(site / "gallery") if file.name.startswith("a-")]
    wanted = []
    tops = {}
    for record in read_records([output]):
        scenario, method = record.spec["scenario"], record.spec["adaptation"]["label"]
        if scenario["target"] == "a" and record.spec["seed"] == 0:
            tops[method, scenario["source"][0]] = load_file(record.scores[0].folder / "queries.safetensors")
    queries = sorted({round(i * (IMAGES - 1) / 7) for i in range(8)})
    asked = re.findall(r"(\w+) · from (\w) · small · last · seed 0 first right answer at rank (\d+)", room.text)
    assert len(asked) == 2 * len(queries) * len(tops)
    assert asked[0][:2] == ("source_only", "b")  # the baseline of another source, then its best rival
    assert asked[1][:2] == ("ours", "b")
    for number, (method, source, rank) in enumerate(asked):
        way = "t2i" if number < len(asked) / 2 else "i2t"
        query = queries[number // len(tops) % len(queries)]
        arrays = tops[method, source]
        assert int(rank) == 1 + arrays[f"{way}.greater"][query]
        seen = set[int]()
        for item in arrays[f"{way}.top"][query].tolist():
            same = COPIES.get(item, item)
            right, copy = item == query, same == COPIES.get(query, query) or same in seen
            wanted.append("right" if right else "copy" if copy else "wrong")
            seen.add(same)
    assert [name for name in room.classes if name in ("wrong", "copy", "right")] == wanted
    assert {"copy", "right"} <= set(wanted)


def test_what_may_not_be_shown_stands_nowhere(output: Path, cli: Cli, tmp_path: Path) -> None:
    closed = write_output(tmp_path / "closed", shareable=False, seeds=[0])
    committed = tmp_path / "committed"
    assert cli("leaderboard", "add", output, "--to", committed).status == 0
    for name, places in (("closed", (closed, "--out", tmp_path / "a")), ("committed", (committed,))):
        assert cli("leaderboard", "build", *places, "--format", "html").status == 0
        out = (tmp_path / "a" if name == "closed" else committed) / "site"
        for file in out.rglob("*"):
            assert file.suffix in ("", ".html", ".css", ".js")
            assert file.is_dir() or not re.search(rb"caption [2-9]|image_\d|[ab]_\d+\.png", file.read_bytes())
        assert "There is nothing to show" in (out / "gallery.html").read_text(encoding="utf-8")
        domain = "".join(seen.text for _, seen in pages(out / "domains"))
        assert ("may be shown" if name == "closed" else "Records alone say nothing") in domain


def test_a_domain_of_committed_records_shows_what_they_hold(output: Path, cli: Cli, tmp_path: Path) -> None:
    assert cli("leaderboard", "add", output, "--to", tmp_path).status == 0
    assert cli("leaderboard", "build", tmp_path, "--format", "html").status == 0
    found = {file.name[0]: seen.text for file, seen in pages(tmp_path / "site" / "domains")}
    record = read_records([output])[0]
    score = record.scores[0].content
    prints = record.spec["domains"][score["domain"]]["splits"]
    text = found[score["domain"]]
    for split in ("train", "val"):
        assert f"{split} – – {prints[split]}" in text
    assert f"test {score['images']} {score['texts']} {score['test']}" in text
    assert "random order 12.50 3.25" in text
    for absent in ("Records alone say nothing", "hold no coordinates", "hold neither images nor captions"):
        assert absent in text


def test_rows_of_two_protocols_are_told_apart_in_every_plot() -> None:
    columns = ["scenario", "encoder", "adaptation", "setting", "selector", "mR", "protocol"]
    scores = {"classic": 60.0, "deduplicated": 70.0}
    rows: list[list[Cell]] = [
        [f"{a} → {b}", "clip", method, method, "last", Estimate(value, None, None), protocol]
        for a, b in ("xy", "yx")
        for method in ("source_only", "ours")
        for protocol, value in scores.items()
    ]
    table = Table("scenarios", "t", columns, rows, [])
    wanted = [f"{method} · {protocol}" for method in ("source_only", "ours") for protocol in scores]
    assert labels(table, rows[:4]) == wanted
    drawn = heatmaps(table, "mR", "source_only")
    assert drawn is not None
    assert [one.method for one in drawn.maps] == wanted
    assert [row[1][0].value for row in drawn.maps[1].rows] == [None, 70.0]


@pytest.mark.parametrize(
    ("column", "other"),
    [
        ("encoder", "big"),
        ("setting", "few_shot, 10 % of the pairs"),
        ("selector", "source_val"),
        ("pre-training", "5 epochs"),
        ("protocol", "row_diagonal"),
        ("ties", "optimistic"),
    ],
)
def test_a_heatmap_is_of_one_encoder_and_measure(column: str, other: str) -> None:
    """Where no scenario has both, too; steps and data may be other in each scenario."""
    usual: dict[str, Cell] = {"scenario": "", "encoder": "small", "adaptation": "ours", "setting": "unsupervised"}
    usual |= {"selector": "last", "pre-training": "10 steps", "protocol": "classic", "ties": "expected"}
    scores = {"x → y": 1.0, "y → x": 2.0, "x → z": 3.0, "z → x": 4.0}
    lines: list[dict[str, Cell]] = [
        usual
        | ({column: other} if "z" in scenario else {})
        | {"scenario": scenario, "mR": Estimate(score, None, None), "steps": int(score), "data": scenario}
        for scenario, score in scores.items()
    ]
    table = Table("scenarios", "t", [*lines[0]], [[*line.values()] for line in lines], [])
    drawn = heatmaps(table, "mR", "source_only")
    assert drawn is not None
    assert [(one.method, one.targets) for one in drawn.maps] == [
        (f"ours · {usual[column]}", ["x", "y"]),
        (f"ours · {other}", ["x", "z"]),
    ]
    assert [[[cell.value for cell in cells] for _, cells in one.rows] for one in drawn.maps] == [
        [[None, 1.0], [2.0, None]],
        [[None, 3.0], [4.0, None]],
    ]
    table = Table("scenarios", "t", table.columns, table.rows[1:3], [])
    assert heatmaps(table, "mR", "source_only") is None  # one scenario each is no map


def scored(number: int, *scores: tuple[str, str, str, float]) -> ShownRun:
    """A run with scores: protocol, tie rule, selector, mR."""
    spec = {
        "key": f"{number}",
        "scenario": {"source": ["a"], "target": "b", "kind": "cross_domain"},
        "encoder": {"label": "small", "weights": {"status": "pretrained"}},
        "adaptation": {"label": "ours"},
        "seed": number,
        "status": "ok",
    }
    given = {"setting": "unsupervised", "pre-training": "5 steps", "steps": 3, "trials": 1}
    said = [
        {"domain": "b", "protocol": one, "ties": two, "selector": name, "metrics": {"mR": {"value": value}}}
        for one, two, name, value in scores
    ]
    return ShownRun(spec, said, row="0", given=given)


def test_the_list_of_runs_keeps_protocols_and_tie_rules_apart() -> None:
    last = scored(0, ("classic", "expected", "last", 1.0), ("classic", "expected", "source_val", 2.0))
    lists = {
        "protocol": (("row_diagonal", "expected"), ", classic", ", row_diagonal"),
        "ties": (("classic", "optimistic"), ", expected", ", optimistic"),
        "both": (("row_diagonal", "optimistic"), ", classic, expected", ", row_diagonal, optimistic"),
        "none": (("classic", "expected"), "", ""),
    }
    for (protocol, ties), usual, other in lists.values():
        runs = [listed(run, "mR") for run in (last, scored(1, (protocol, ties, "last", 3.0)))]
        table = run_list(runs, "mR", "t")
        lines = [
            {
                column.name: cell.value
                for column, cell in zip(table.columns, row, strict=True)
                if column.name.startswith("mR")
            }
            for row in table.rows
        ]
        empty = {f"mR, last{usual}": None, f"mR, source_val{usual}": None, f"mR, last{other}": None}
        assert lines == [
            empty | {f"mR, last{usual}": 1.0, f"mR, source_val{usual}": 2.0},
            empty | {f"mR, last{other}": 3.0},
        ]


def test_a_filter_asks_for_whole_cells_whatever_they_hold() -> None:
    place, _, asked = filtered("runs.html", 'm[words=["a b", "c"]]').partition("#filter=")
    assert place == "runs.html"
    assert unquote(asked) == '"m[words=[""a b"", ""c""]]"'


def test_lines_of_an_ablation_are_read_by_what_they_change() -> None:
    changes = ["base", "weight=1", "on=no", "weight=1, on=no"]
    columns = ["encoder", "selector", "change", "weight=", "on=", "seeds", "mean mR"]
    rows: list[list[Cell]] = [
        ["clip", "last", change, "0.1", "yes", 3, Estimate(1.0, None, None)] for change in changes
    ]
    table = Table("ablation", "t", columns, rows, [])
    assert labels(table, rows) == [f"clip · {change}" for change in changes]
    shown = shown_table(table)
    assert [column.name for column in shown.columns][:2] == ["change", "mean mR"]
    assert [row[0].value for row in shown.rows] == changes
    assert labels(Table("t", "t", ["name", "mR"], [["a", 1.0]], []), [["a", 1.0]]) == ["a"]


def test_an_effect_that_is_not_told_from_zero_is_hollow() -> None:
    effect = Estimate(1.0, -1.0, 3.0)
    rows: list[list[Cell]] = [["clip", "order=none", effect, said] for said in ("better", "not shown")]
    [plot] = forests(Table("ablation_effects", "t", ["encoder", "change", "effect", "verdict"], rows, []), rows)
    assert ["sure" in line.drawing for line in plot.lines] == [True, False]


def test_what_is_read_first_stands_first(site: Path) -> None:
    for name, wanted in (("index", ["adaptation", "mean mR"]), ("scenarios", ["adaptation", "scenario", "mR"])):
        head = (site / f"{name}.html").read_text(encoding="utf-8").split("<thead>")[1].split("</thead>")[0]
        assert re.findall(r">([^<>\n]+)</th>", head)[: len(wanted)] == wanted


def test_runs_without_curve_score_or_provenance_have_pages(cli: Cli, tmp_path: Path) -> None:
    output = write_output(tmp_path / "o", seeds=[0])
    first, second, *_ = sorted((output / "runs").iterdir())
    for name in ("curve.json", "provenance.json"):
        (first / name).unlink()
    edit(second / "run.json", status="failed")
    shutil.rmtree(second / "scores")
    (second / "failure.json").write_text(
        '{"stage": "adapt", "what": "it", "error": "<b>no", "traceback": "/home/me"}'
    )
    assert cli("leaderboard", "build", output, "--out", tmp_path / "b", "--format", "html").status == 0
    texts = {file.name: seen.text for file, seen in pages(tmp_path / "b" / "site" / "runs")}
    [bare] = [text for text in texts.values() if "The record holds no curve." in text]
    assert "The record says nothing of machine and versions." in bare
    [failed] = [text for text in texts.values() if "What went wrong" in text]
    assert "adapt, it: <b>no" in failed
    assert "/home/me" not in failed
    assert "This run has no score." in failed
    shutil.rmtree(output / "store" / "pack")
    assert cli("leaderboard", "build", output, "--out", tmp_path / "c", "--format", "html").status == 0
    assert not list((tmp_path / "c").rglob("*.jpg"))


def test_a_damaged_store_is_named(cli: Cli, tmp_path: Path) -> None:
    output = write_output(tmp_path / "o", seeds=[0])
    damaged = sorted(output.glob("store/items/*/card.json"))[0]
    damaged.write_text("{")
    result = cli("leaderboard", "build", output, "--out", tmp_path / "b", "--format", "html")
    assert result.status != 0
    assert str(damaged) in result.err


def dressed(text: str) -> dict[str, object]:
    """A run in which whatever may be is named by a text."""
    weights = {"status": "trained here", "source": text, "sha256": None, "partial": False}
    return {
        "grid": text,
        "encoder": {"label": text, "name": text, "version": text, "options": {text: text}, "weights": weights},
    }


@pytest.mark.parametrize("part", range(4))
def test_no_text_breaks_out_of_any_page(part: int, cli: Cli, tmp_path: Path) -> None:
    """Pages of nasty texts have the elements and attributes of pages of plain ones, and the texts as text."""
    texts = [text for text in NASTY if text != "\ud800"][part::4]  # a lone surrogate is no UTF-8, so in no record
    nasty = "a".join(texts)
    plain = "plain words"
    shapes = []
    for name, word in (("plain", plain), ("nasty", nasty)):
        said = [f"{word}{i}" for i in range(IMAGES)]
        output = write_output(
            tmp_path / name, captions=said, names=said, seeds=[0], methods=["source_only", "ours"], **dressed(word)
        )
        for record in read_records([output]):
            told = {"label": f"{record.spec['adaptation']['label']} {word}", "name": word, "options": {word: word}}
            edit(record.folder / "run.json", adaptation=record.spec["adaptation"] | told)
            edit(record.folder / "curve.json", **{word: [{"step": i, "loss": i, word: i} for i in range(3)]})
        view = yaml.safe_load(DEFAULT.read_text(encoding="utf-8")) | {"title": word}
        (tmp_path / "view.yaml").write_text(yaml.safe_dump(view), encoding="utf-8")
        arguments = ("--out", tmp_path / f"{name}-out", "--view", tmp_path / "view.yaml", "--format", "html")
        assert cli("leaderboard", "build", output, *arguments).status == 0
        site = tmp_path / f"{name}-out" / "site"
        shapes.append({kind: sorted(seen.shape for _, seen in some) for kind, some in by_kind(site).items()})
        for file, seen in pages(site):
            strange = {
                c for c in file.read_text(encoding="utf-8") if unicodedata.category(c) in ("Cc", "Cf", "Cs")
            }
            assert strange <= {"\n", "\u200c", "\u200d"}
            assert not [link for link in seen.links if re.match(r"\s*[a-z]+:", unquote(link.partition("#")[0]))]
    assert shapes[0] == shapes[1]


def by_kind(site: Path) -> dict[str, list[tuple[Path, Seen]]]:
    """The pages by their folder, or their name where they stand in none."""
    found: dict[str, list[tuple[Path, Seen]]] = {}
    for file, seen in pages(site):
        kind = file.parent.name if file.parent != site else file.name
        found.setdefault(kind, []).append((file, seen))
    return found


def test_the_comparison_of_shapes_sees_a_breach(site: Path) -> None:
    text = (site / "index.html").read_text(encoding="utf-8")
    for breach in ("<b>ours</b>", '<i onclick="x"></i>', "<script>x</script>"):
        assert Seen(text.replace(">ours<", f">{breach}<", 1)).shape != Seen(text).shape


def test_a_table_alone_is_one_page(tmp_path: Path) -> None:
    table = Table(
        "t", "A <table>", ["adaptation", "mR"], [["a&b", Estimate(1.0, 0.5, 2.0)], ["c", None]], ["<note>"]
    )
    text = Html(Options()).render(table)
    seen = Seen(text)
    assert seen.links == []
    assert "a&b 1.00 [0.50, 2.00]" in seen.text
    assert "c –" in seen.text
    assert "<note>" in seen.text


def test_check_sees_pages_that_are_stale_missing_or_surplus(output: Path, cli: Cli, tmp_path: Path) -> None:
    board = tmp_path / "board"
    assert cli("leaderboard", "add", output, "--to", board).status == 0
    view = yaml.safe_load((board / "view.yaml").read_text(encoding="utf-8")) | {"renderers": ["html", "csv"]}
    (board / "view.yaml").write_text(yaml.safe_dump(view), encoding="utf-8")
    assert cli("leaderboard", "build", board).status == 0
    assert cli("leaderboard", "check", board).status == 0
    gone = sorted((board / "site" / "runs").iterdir())[0]
    gone.unlink()
    (board / "site" / "index.html").write_text("x")
    (board / "site" / "runs" / "old.html").write_text("x")
    result = cli("leaderboard", "check", board)
    assert result.status == 1
    said = result.err.splitlines()
    assert len(said) == 3
    for wanted in (f"{gone} is missing", "index.html is stale", "old.html is not among"):
        assert sum(wanted in line for line in said) == 1


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "a\\x", ""])
def test_no_renderer_writes_elsewhere(name: str, tmp_path: Path) -> None:
    class Elsewhere(Renderer):
        suffix = ".x"

        def render(self, table: Table) -> str:
            return ""

        def files(self, board: Board) -> Iterator[tuple[str, str | bytes]]:
            yield name, "x"

    with pytest.raises(PluginError, match="Elsewhere"):
        write_files(make_files(Board("b", []), [Elsewhere(Options())]), tmp_path / "out" / "here")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


class Given(Renderer):
    """Writes what it is told to, or does otherwise."""

    suffix = ".csv"

    def __init__(self, do: Callable[[Table], str]) -> None:
        super().__init__(Options())
        self._do = do

    def render(self, table: Table) -> str:
        return self._do(table)


def nothing(table: Table) -> str:
    return None  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("name", "do", "says"),
    [
        (
            "summary",
            lambda table: 1 / 0,
            r"Given failed to make its files: Zero.* \(test_site\.py:\d+ in <lambda>\)",
        ),
        ("summary", nothing, "Given failed to make its files: TypeError: it gives 'summary.csv' with NoneType"),
        (
            "records/x",
            lambda table: "",
            "a file 'records/x.csv', which is of records in ",
        ),
        ("./summary", lambda table: "", "Given names a file 'summary.csv', which is that of renderer Csv"),
        ("summary", lambda table: "", "Given names a file 'summary.csv', which is that of renderer Csv"),
        ("summary", lambda table: table.rows.sort(), "AttributeError: 'tuple' object has no attribute 'sort'"),
    ],
)
def test_a_renderer_that_fails_or_is_in_the_way_is_named(
    name: str, do: Callable[[Table], str], says: str, tmp_path: Path
) -> None:
    """And none changes what the next is shown."""
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "form.json").touch()
    others = [Csv(Options())] if "is that of" in says else []
    board = Board("b", [Table(name, "t", ["a"], [["x"]])])
    with pytest.raises(PluginError, match=says):
        write_files(make_files(board, [*others, Given(do)]), tmp_path, [tmp_path / "records"])


def test_a_format_that_is_not_there_is_named(output: Path, cli: Cli, tmp_path: Path) -> None:
    result = cli("leaderboard", "build", output, "--out", tmp_path, "--format", "htm")
    assert result.status == 2
    assert "html" in result.err


class Closed(ImageSource):
    """Images that nobody may open."""

    def digest(self, index: int) -> str:
        raise AssertionError("opened")

    def read(self, index: int):  # type: ignore[no-untyped-def]
        raise AssertionError("opened")


def test_a_card_without_pixels_opens_no_image() -> None:
    import numpy as np

    splits = {name: np.array([i]) for i, name in enumerate(("train", "val", "test"))}
    attributes = {"extent": [1.0, 2.0, 3.0]}
    domain = Domain("d", ["a", "b", "c"], splits, ["x", "y", "z"], np.arange(3), Closed(), attributes)
    said = card(domain, pixels=False)
    assert said["shareable"] is False
    assert said["resolution"] is None
    assert {split["fingerprint"] for split in said["splits"].values()} == {None}
    with pytest.raises(AssertionError, match="opened"):
        card(domain)


def test_a_grid_leaves_what_the_pages_of_its_domains_need(outcome: Outcome, cli: Cli, tmp_path: Path) -> None:
    """From a grid to the gallery; its domains do not say that they may be shown, until their cards do."""
    for name in ("runs", "store/items", "store/pack"):
        shutil.copytree(outcome.out / name, tmp_path / "o" / name)
    build = ("leaderboard", "build", tmp_path / "o", "--format", "html", "--out")
    assert cli(*build, tmp_path / "closed").status == 0
    assert not list((tmp_path / "closed").rglob("*.jpg"))
    assert "a red field" not in "".join(seen.text for _, seen in pages(tmp_path / "closed"))
    cards = sorted(tmp_path.glob("o/store/items/*/card.json"))
    assert len(cards) == 2
    for file in cards:
        edit(file, card=json.loads(file.read_text(encoding="utf-8"))["card"] | {"shareable": True})
    assert cli(*build, tmp_path / "open").status == 0
    for _, room in pages(tmp_path / "open" / "site" / "gallery"):
        assert room.text.count("first right answer at rank") >= 2 * 16
        assert len({PurePosixPath(link).name for link in room.links if link.endswith(".jpg")}) == 8  # of the split
        assert "with 2 white rows ." in room.text
    for _, domain in pages(tmp_path / "open" / "site" / "domains"):
        assert "images 24" in domain.text
        assert "test 8 16" in domain.text
