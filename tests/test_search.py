"""`search`: a query of one's own finds what the run's model finds, and is refused where it could not."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Outcome, Result, outcome_of, write_domains, write_grid
from feature_data import save_npz
from PIL import Image

from urbancross_bench.cli import search_page
from urbancross_bench.cli.search_page import page, sheet
from urbancross_bench.data.card import CARD
from urbancross_bench.execution import searching
from urbancross_bench.execution.searching import Found, Hit
from urbancross_bench.files import write_json
from urbancross_bench.records import Record, ScoreRecord, read_records

Cli = Callable[..., Result]
GridWriter = Callable[..., Path]
PAIR: dict[str, Any] = {"scenarios": [{"source": "plain", "target": "dark"}]}


def the_run(out: Path, adaptation: str, **spec: Any) -> Record:
    """The first run from one domain to the other by an adaptation, with further values of its spec."""
    runs = [record for record in read_records([out]) if record.spec["adaptation"]["label"] == adaptation]
    runs = [record for record in runs if record.spec["scenario"]["kind"] == "cross_domain"]
    return next(record for record in runs if all(record.spec[name] == value for name, value in spec.items()))


def ranked(score: ScoreRecord, way: str, query: int) -> list[int]:
    """The rows of the gallery in the order in which the run's record has them."""
    arrays = score.arrays()
    return [int(arrays[f"{way}.gallery_row"][item]) for item in arrays[f"{way}.top"][query]]


def items_of(domain: Path) -> tuple[list[str], list[str]]:
    """Names and captions of a domain's test split, from its file."""
    entries = [e for e in json.loads(domain.read_text())["images"] if e["split"] == "test"]
    return [e["filename"] for e in entries], [s["raw"] for e in entries for s in e["sentences"]]


def found(result: Result) -> list[dict[str, Any]]:
    assert result.status == 0, result.err
    queries: list[dict[str, Any]] = json.loads(result.out)["queries"]
    return queries


# What is found


def test_a_caption_finds_what_the_run_was_ranked_by(outcome: Outcome, cli: Cli) -> None:
    """Of the weights that the selector chose: those of the other candidate rank otherwise."""
    run = the_run(outcome.out, "urbancross", seed=0)
    names, captions = items_of(outcome.file.parent / run.spec["scenario"]["target"] / "dataset.json")
    queries = [0, 5, 8, 15]
    for score in run.scores:
        said = ["--selector", score.content["selector"], "--run", run.folder.name[:10], "--json"]
        result = cli("search", outcome.out, *(captions[query] for query in queries), *said)
        for one, query in zip(found(result), queries, strict=True):
            assert [hit["image"] for hit in one["hits"]] == [names[row] for row in ranked(score, "t2i", query)]
            assert one["hits"][0]["captions"] == captions[2 * names.index(one["hits"][0]["image"]) :][:2]


def test_an_image_finds_what_the_run_was_ranked_by(outcome: Outcome, cli: Cli) -> None:
    run = the_run(outcome.out, "oracle")
    folder = outcome.file.parent / run.spec["scenario"]["target"]
    names, captions = items_of(folder / "dataset.json")
    options = ("--run", run.folder.name, "--selector", "last", "--json", "--top", 4)
    [one] = found(cli("search", outcome.out, "--image", folder / "images" / names[3], *options))
    [score] = [score for score in run.scores if score.content["selector"] == "last"]
    texts = [captions[row] for row in ranked(score, "i2t", 3)[:4]]
    assert [hit["text"] for hit in one["hits"]] == texts
    scores = [hit["score"] for hit in one["hits"]]
    assert scores == sorted(scores, reverse=True)


@pytest.fixture(scope="module")
def special(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The output of a grid with frozen towers below trained heads, and stored features; the target's file."""
    folder = tmp_path_factory.mktemp("special")
    domains = write_domains(folder)
    items = [json.loads((folder / name / "dataset.json").read_text())["images"] for name in ("plain", "dark")]
    entries = [entry for one in items for entry in one]
    captions = sorted({sentence["raw"] for entry in entries for sentence in entry["sentences"]})
    generator = np.random.default_rng(0)
    images = save_npz(folder / "i", [e["filename"] for e in entries], generator.normal(size=(len(entries), 8)))
    texts = save_npz(folder / "t", [*captions, "unheard of"], generator.normal(size=(len(captions) + 1, 8)))
    towers = 'frozen_towers="image,text",head=residual'
    file = write_grid(
        folder,
        domains,
        encoders={
            "frozen": f"openclip[architecture=urbancross-tiny,{towers}]",
            "stored": f"precomputed[images={images},texts={texts},surplus=true]",
        },
        adaptations=["source_only"],
        **PAIR,
    )
    outcome = outcome_of(file, folder / "out")
    assert outcome.result.status == 0, outcome.result.err
    return outcome.out, folder / "dark" / "dataset.json"


@pytest.mark.parametrize("encoder", ["frozen", "stored"])
def test_queries_pass_through_towers_that_never_change(special: tuple[Path, Path], cli: Cli, encoder: str) -> None:
    out, domain = special
    [run] = [record for record in read_records([out]) if record.spec["encoder"]["label"] == encoder]
    names, captions = items_of(domain)
    [one] = found(cli("search", out, captions[4], "--run", run.folder.name, "--json"))
    assert [hit["image"] for hit in one["hits"]] == [names[row] for row in ranked(run.scores[0], "t2i", 4)]


def test_stored_features_know_the_strings_of_their_files_alone(special: tuple[Path, Path], cli: Cli) -> None:
    out, domain = special
    run = next(record for record in read_records([out]) if record.spec["encoder"]["label"] == "stored")
    said = ("--run", run.folder.name)
    assert len(found(cli("search", out, "unheard of", *said, "--json"))[0]["hits"]) == 8
    result = cli("search", out, "a lake", *said)
    assert result.status == 2
    assert "encoder 'stored' has no text tower" in result.err
    assert "'a lake'" in result.err
    result = cli("search", out, "--image", domain.parent / "images" / "dark_002.png", *said)
    assert (result.status, "cannot embed an image" in result.err) == (2, True)


# What is refused


def copied(outcome: Outcome, run: Record, place: Path) -> Path:
    """One run with all it needs to be searched, to be spoilt."""
    shutil.copytree(outcome.out / "grids", place / "grids")
    shutil.copytree(run.folder, place / "runs" / run.folder.name)
    unneeded = shutil.ignore_patterns("logs", "rank", "pretrain")
    shutil.copytree(outcome.out / "store", place / "store", ignore=unneeded)
    return place


def test_a_run_is_found_by_what_it_is_whatever_the_grid_calls_it_now(
    outcome: Outcome, cli: Cli, tmp_path: Path
) -> None:
    out = copied(outcome, the_run(outcome.out, "urbancross"), tmp_path / "out")
    asked = ("search", out, "green", "--json")
    before = found(cli(*asked))
    kept = json.loads((out / "grids" / "tiny.json").read_text())
    broken = "openclip[architecture=urbancross-tiny,checkpoint=/nowhere.pt]"
    kept["grid"]["encoders"] = {"broken": broken, "small": kept["grid"]["encoders"]["tiny"]}
    # Its label is another method's now.
    kept["grid"]["adaptations"] = {"urbancross": "source_only", "of the paper": "urbancross"}
    write_json(out / "grids" / "tiny.json", kept)
    assert found(cli(*asked)) == before
    kept["grid"]["encoders"] = {"small": "openclip[architecture=urbancross-s]"}
    write_json(out / "grids" / "tiny.json", kept)
    result = cli(*asked)
    assert (result.status, "have changed. Run the grid again" in result.err) == (2, True)


def test_a_model_that_is_another_one_now_is_not_asked(
    outcome: Outcome, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = copied(outcome, the_run(outcome.out, "urbancross"), tmp_path / "out")
    assert cli("search", out, "green").status == 0  # the only run there is
    with monkeypatch.context() as patched:
        patched.setattr(searching, "load_weights", lambda model, path: None)
        result = cli("search", out, "green")
        assert (result.status, "makes something else now" in result.err) == (2, True)
    kept = json.loads((out / "grids" / "tiny.json").read_text())
    kept["grid"]["encoders"]["tiny"] = "openclip[architecture=urbancross-s]"
    write_json(out / "grids" / "tiny.json", kept)
    result = cli("search", out, "green")
    assert (result.status, "its weights do not fit" in result.err) == (2, True)


def test_what_may_be_shown_is_said_to_be(outcome: Outcome, cli: Cli, tmp_path: Path) -> None:
    run = the_run(outcome.out, "source_only", seed=0)
    out = copied(outcome, run, tmp_path)
    [file] = {out / "store" / "items" / score.content["items"] / CARD for score in run.scores}
    content = json.loads(file.read_text(encoding="utf-8"))
    content["card"] |= {"licence": "CC BY 4.0", "shareable": True}
    write_json(file, content)
    result = cli("search", out, "a green place .", "--top", 1)
    assert "licence: CC BY 4.0; images and captions may be shown" in result.out, result.err


def test_what_the_store_has_lost_is_named(outcome: Outcome, cli: Cli, tmp_path: Path) -> None:
    run = the_run(outcome.out, "urbancross")
    out = copied(outcome, run, tmp_path / "out")
    shutil.rmtree(out / "store" / "adapt")
    result = cli("search", out, "green")
    assert result.status == 2
    assert f"stage {run.spec['stages']['adapt'][0]} is not in the store" in result.err
    assert "into another --out" in result.err
    shutil.rmtree(out / "grids")
    assert "nothing is redone, and the grid is kept" in cli("search", out, "green").err


def test_a_run_that_its_grid_has_no_more_is_told_so(outcome: Outcome, cli: Cli, tmp_path: Path) -> None:
    for name in ("runs", "grids"):
        shutil.copytree(outcome.out / name, tmp_path / name)
    key = the_run(tmp_path, "urbancross").folder.name
    [file] = (tmp_path / "grids").iterdir()
    kept = json.loads(file.read_text(encoding="utf-8"))
    del kept["runs"][key]
    file.write_text(json.dumps(kept), encoding="utf-8")
    result = cli("search", tmp_path, "green", "--run", key)
    assert result.status == 2
    assert f"run {key} has no score, or is of no grid in {tmp_path} as it was run there last" in result.err


def test_without_a_query_the_runs_are_listed(outcome: Outcome, cli: Cli) -> None:
    result, several = cli("search", outcome.out), cli("search", outcome.out, "green")
    *listed, last = result.out.splitlines()
    assert (result.status, len(listed)) == (0, 16)
    assert listed == [line.strip() for line in several.err.splitlines()[1:]]
    assert "--run" in last


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--run", "RUN"), "there is nothing to search for"),
        (("  ",), "a query is blank"),
        (("green", "--to", "found.gif"), "name a page (.html, .htm) or a picture (.png"),
        (("green", "--run", "zz"), "0 keys of runs begin with zz; name one by its key:"),
        (("green",), "16 runs in"),
        (("green", "--run", "RUN", "--domain", "plainn"), "has no score of domain 'plainn'"),
        (("green", "--run", "RUN", "--selector", "lost"), 'Did you mean "last"?'),
        (("--image", "nowhere.png", "--run", "RUN"), "image nowhere.png cannot be read"),
        (("green", "--run", "RUN", "--device", "tpu"), "device 'tpu'"),
    ],
)
def test_what_cannot_be_searched_is_said(
    outcome: Outcome, cli: Cli, arguments: tuple[str, ...], problem: str
) -> None:
    key = the_run(outcome.out, "urbancross").folder.name
    result = cli("search", outcome.out, *(key if one == "RUN" else one for one in arguments))
    assert result.status == 2
    assert problem in result.err


# What is shown

HOSTILE = '<script>alert("1")</script>\x1b[31m'
TILE = np.full((4, 4, 3), (10, 200, 30), dtype=np.uint8)


def made_up() -> list[Found]:
    image = Hit(0.5, HOSTILE, (HOSTILE, "second"), None, TILE)
    text = Hit(0.25, "b.png", ("said", "other"), "said", None)
    return [Found(HOSTILE, (image, text)), Found("query.png", (text,), TILE)]


class Reader(HTMLParser):
    """The tags, attributes and texts of a page."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.values: list[str] = []
        self.texts: list[str] = []
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.values += [value for name, value in attrs if name in ("src", "href") and value]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_page_loads_and_runs_nothing() -> None:
    written = page(HOSTILE, {"licence": HOSTILE}, made_up())
    read = Reader(written)
    assert "script" not in read.tags
    assert all(value.startswith("data:image/png;base64,") for value in read.values)
    assert len(read.values) == 2  # the image that was found, and that which was asked with
    assert "default-src 'none'" in written
    assert "\x1b" not in written
    shown = '<script>alert("1")</script>[U+001B][31m'
    assert read.texts.count(shown) == 5  # title, heading, licence, query, caption; its name stands in a line
    assert any(shown in text and text != shown for text in read.texts)


def test_a_sheet_shows_the_pictures_in_order() -> None:
    picture = sheet("a → b", {"licence": "none"}, made_up())
    pixels = np.asarray(picture.convert("RGB"))
    columns = np.flatnonzero((pixels == (10, 200, 30)).all(axis=2).any(axis=0))
    assert len(columns) == columns[-1] - columns[0] + 1 == 192
    assert columns[0] == 16  # the first place; the second has no picture


def test_a_long_query_ends_within_the_sheet() -> None:
    short, long = (
        sheet("t", {}, [replace(one, query=query) for one in made_up()]) for query in ("a " * 40, "a " * 999)
    )
    dark = [(np.asarray(picture.convert("L"))[20:60] < 100).any(axis=0) for picture in (short, long)]
    assert np.flatnonzero(dark[1]).max() < long.width - 16
    assert dark[1].sum() >= dark[0].sum()


def test_a_sheet_that_its_format_does_not_take_is_told_after_what_was_found(
    outcome: Outcome, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(search_page._HIGHEST, ".jpg", 300)
    run = the_run(outcome.out, "urbancross").folder.name
    result = cli("search", outcome.out, "a green place .", "--run", run, "--to", tmp_path / "f.jpg", "--top", 3)
    assert result.status == 2
    assert "pixels high, and .jpg takes 300; name a .html or a .png" in result.err
    assert re.search(r"^   1 +-?\d\.\d{3}  \w+_\d+\.png", result.out, re.MULTILINE)
    assert not (tmp_path / "f.jpg").exists()


def test_files_are_written_as_asked(outcome: Outcome, cli: Cli, tmp_path: Path) -> None:
    run = the_run(outcome.out, "urbancross").folder.name
    for name in ("new/found.html", "found.png"):
        result = cli("search", outcome.out, "a green place .", "--run", run, "--to", tmp_path / name, "--top", 3)
        assert result.status == 0, result.err
        line = r"^   1 +-?\d\.\d{3}  \w+_\d+\.png  a \w+ field with . white rows \.  \(\+1\)$"
        assert re.search(line, result.out, re.MULTILINE)
        assert "licence: none is stated; ask it before you show the images to others" in result.out
    assert (tmp_path / "new" / "found.html").read_text().count("<img") == 3
    assert Image.open(tmp_path / "found.png").size[0] == 5 * 208 + 16


def test_a_page_or_picture_takes_the_place_of_its_like_alone(outcome: Outcome, cli: Cli, tmp_path: Path) -> None:
    run = the_run(outcome.out, "urbancross").folder.name
    command = ("search", outcome.out, "a green place .", "--run", run, "--top", 1, "--to")
    for name in ("found.html", "found.png", "found.jpg", "found.webp"):
        for _ in range(2):
            result = cli(*command, tmp_path / name)
            assert result.status == 0, result.err
    Image.new("RGB", (8, 8)).save(tmp_path / "mine.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "mine.jpg")
    (tmp_path / "mine.html").write_text("<!doctype html><title>mine</title>")
    (tmp_path / "torn.png").write_bytes((tmp_path / "found.png").read_bytes()[:8])
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    for name in ("mine.png", "mine.jpg", "mine.html", "torn.png"):
        result = cli(*command, tmp_path / name)
        assert result.status == 2
        assert f"{tmp_path / name} is there already" in result.err
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before
