"""`data caption`: sentences made of tags, the csv that readers take back, and how the file comes to be."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import COLOURS, Result
from data_files import encoded, read, write_csv, write_files, write_json, zip_with_damage
from hypothesis import given
from hypothesis import strategies as st

from urbancross_bench.errors import RunError
from urbancross_bench.execution.captioning import CaptionMaker, Source
from urbancross_bench.references import Reference
from urbancross_bench.registry import Registry
from urbancross_captioners.from_tags import caption
from urbancross_captioners.tags import Told, read_tags

Cli = Callable[..., Result]

COLOUR_PLUGIN = '''
"""A captioner that says which colour an image has, and nothing of a black one."""
from urbancross_bench.errors import DataError
from urbancross_bench.interfaces import Captioner, hookimpl, register

@hookimpl
def register_captioners():
    return [register("colours", "colours:Colours", options="urbancross_bench.interfaces:CaptionerOptions",
                     summary="colours")]

class Colours(Captioner):
    def load(self, device):
        self.device = device

    def describe(self, subjects):
        for subject in subjects:
            if not subject.pixels.any():
                raise DataError(f"image {subject.name!r} is black")
        return [f"{s.tags}:\\n {tuple(map(int, s.pixels[0, 0]))}" for s in subjects]
'''

DYING_PLUGIN = """
import os

from urbancross_bench.interfaces import Captioner, hookimpl, register

@hookimpl
def register_captioners():
    options = "urbancross_bench.interfaces:CaptionerOptions"
    return [register(name.lower(), f"dying:{name}", options=options, summary="") for name in ("Dying", "Unloaded")]

class Dying(Captioner):
    def describe(self, subjects):
        print("told before it died", flush=True)
        os._exit(3)

class Unloaded(Dying):
    def load(self, device):
        raise KeyError("weights")
"""


COUNTING_PLUGIN = """
from pathlib import Path

from urbancross_bench.interfaces import Captioner, hookimpl, register

@hookimpl
def register_captioners():
    options = "urbancross_bench.interfaces:CaptionerOptions"
    return [register("by_number", f"{__name__}:Counting", options=options, summary="How many at once.")]

class Counting(Captioner):
    def describe(self, subjects):
        if len(subjects) > 1 and Path(__file__).with_name("full").exists():
            raise MemoryError("no room")
        return [f"{len(subjects)} at once"] * len(subjects)
"""


def rows(file: Path) -> dict[str, str]:
    """The csv, read by nothing of ours."""
    with file.open(encoding="utf-8", newline="") as stream:
        header, *lines = csv.reader(stream)
    assert header == ["image_name", "description"]
    assert len({name for name, _ in lines}) == len(lines)
    return {name: text for name, text in lines}  # noqa: C416 - two fields, not three


# --- tags as English --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tags", "centre", "around", "properties"),
    [
        ("amenity of school", ["a school"], [], []),
        ("amenity of school, road of residential; surrounded by road of service",
         ["a school", "a residential road"], ["a service road"], []),
        ("surrounded by highway of tertiary, building of yes", [], ["a tertiary road", "a building"], []),
        ("building of apartments, building of house, building of industrial",
         ["an apartment building", "a house", "an industrial building"], [], []),
        ("leisure of pitch, surface of grass, sport of baseball;softball", ["a pitch"], [],
         [("surface", "grass"), ("sport", "baseball and softball")]),
        ("amenity of place_of_worship, religion of hindu", ["a place of worship"], [], [("religion", "hindu")]),
        ("natural of water, natural of wood, natural of bare soil, landuse of farmland",
         ["water", "woodland", "bare soil", "farmland"], [], []),
        ("amenity of university, amenity of ice_cream, leisure of outdoor seating",
         ["a university", "an ice cream", "an outdoor seating"], [], []),
        ("highway of unclassified, highway of primary_link, highway of motorway, highway of steps",
         ["an unclassified road", "a primary link road", "a motorway", "a flight of steps"], [], []),
        ("shop of clothes, shop of supermarket, shop of yes, office of insurance",
         ["a clothes shop", "a supermarket", "a shop", "an insurance office"], [], []),
        ("landuse of residential, landuse of allotments, landuse of recreation_ground",
         ["residential land", "allotments", "a recreation ground"], [], []),
        ("railway of rail, power of line, natural of grass, landuse of grass",
         ["a railway line", "a power line", "grass"], [], []),
        ("building:material of stone; surrounded by surface of asphalt", [], [], [("building material", "stone")]),
        ("amenity of cafe, name of Smith, Sons & Co", ["a cafe"], [], [("name", "Smith, Sons & Co")]),
        ("harbour, old mill", ["a harbour", "an old mill"], [], []),
        ("natural of cliff;beach", ["a cliff and a beach"], [], []),
        ("", [], [], []),
        (" ; , of ,", [], [], []),
    ],
)  # fmt: skip
def test_tags_become_noun_phrases(
    tags: str, centre: list[str], around: list[str], properties: list[tuple[str, str]]
) -> None:
    if tags == " ; , of ,":
        read_tags(tags)  # nonsense may give nonsense, but no error
        return
    assert read_tags(tags) == Told(tuple(centre), tuple(around), tuple(properties))


@given(st.text(alphabet="ab of;,_:sé\n ", max_size=40) | st.text(max_size=20), st.integers(0, 2**63 - 1))
def test_any_tags_give_sentences_or_nothing(text: str, seed: int) -> None:
    told = read_tags(text)
    made = caption(told, seed, 3)
    assert made.endswith(".")
    assert "{" not in made or "{" in text
    assert "  " not in made.strip()


def test_the_seed_chooses_the_phrasing_and_nothing_else() -> None:
    told = read_tags("amenity of school, surface of sand; surrounded by road of service, natural of water")
    made = {caption(told, seed, 6) for seed in range(300)}
    assert len(made) == 4 * 3 * 3
    assert all(word in text for text in made for word in ("a school", "a service road", "water", "sand"))
    assert caption(told, 1, 1).count("water") == 0


# --- the command ------------------------------------------------------------------------------------------------


def test_a_domain_is_captioned_from_its_tags_and_read_back(cli: Cli, tmp_path: Path) -> None:
    domain = "synthetic/nordia[images=40]"
    file = tmp_path / "nordia.csv"
    result = cli("data", "caption", domain, "--out", file)
    assert result.status == 0, result.err
    assert "captions for 40 of 40 images" in result.out
    source = read(domain)
    made = rows(file)
    assert list(made) == list(source.image_names)
    for name, tags in zip(source.image_names, source.attributes["tags"], strict=True):
        own = tags.partition(";")[0].split(", ")[0].partition(" of ")[2]
        assert {"wood": "woodland", "parking": "car park"}.get(own, own) in made[name], (tags, made[name])
    again = read(Reference("csv", None, {"file": str(file), "images": "none"}))
    assert dict(zip(again.image_names, again.captions, strict=True)) == made
    record = json.loads((tmp_path / "nordia.csv.json").read_text())
    assert record["counts"] == {"images": 40, "captions": 40, "distinct": len({*made.values()}), "failed": 0}
    assert (record["seed"], record["weights"], record["source"]) == (0, None, {"domain": domain})
    assert record["captioner"]["reference"] == "from_tags"
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []
    # Neither batches nor processes matter; the seed does, and only to the wording.
    assert cli("data", "caption", domain, "--out", tmp_path / "b.csv", "--batch", 3, "--workers", 2).status == 0
    assert (tmp_path / "b.csv").read_bytes() == file.read_bytes()
    assert cli("data", "caption", domain, "--out", tmp_path / "c.csv", "--seed", 1, "--batch", 40).status == 0
    assert list(rows(tmp_path / "c.csv")) == list(made)
    assert rows(tmp_path / "c.csv") != made


def test_what_is_there_is_never_replaced(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    command = ("data", "caption", "synthetic/costara[images=40]", "--out", file)
    assert cli(*command).status == 0
    before = file.read_bytes()
    again = cli(*command)
    assert (again.status, "nothing to do" in again.out) == (0, True)
    for change in (("--seed", 5), ("--batch", 4), ("--captioner", "from_tags[most=2]")):
        refused = cli(*command, *change)
        assert (refused.status, "is there already" in refused.err) == (2, True)
    assert file.read_bytes() == before
    file.write_bytes(before + b"mine,my own words\n")
    assert "changed since" in cli(*command).err
    assert file.read_bytes().endswith(b"my own words\n")
    (tmp_path / "a.csv.json").unlink()
    assert cli(*command).status == 2
    assert not (tmp_path / "a.csv.partial").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), "DOMAIN or --images"),
        (("synthetic/nordia", "--images", "x"), "DOMAIN or --images"),
        (("synthetic/nordia", "--metadata", "x"), "--metadata goes with --images"),
        (("synthetic/nordia", "--captioner", "from_tag"), 'Did you mean "from_tags"'),
        (("synthetic/nordia", "--captioner", "from_tags[most=0]"), "option 'most'"),
        (("synthetic/nordia", "--captioner", 'instructblip[model=m,prompt="a {tag}"]'), "placeholder {tag}"),
        (("synthetic/nordia", "--captioner", 'instructblip[model=m,prompt="{tags!r}"]'), "takes no format"),
        (("synthetic/nordia", "--captioner", 'instructblip[model=m,prompt="{tags"]'), "option 'prompt'"),
        (("synthetic/nordia", "--captioner", 'instructblip[model=m,prompt="{}"]'), "unknown placeholder {}"),
        (("synthetic/nordia", "--captioner", "instructblip[model=m,top_p=0.5]"), "without do_sample"),
        (("synthetic/nordia", "--captioner", "instructblip"), "option 'model'"),
        (("synthetic/nowhere",), "no member 'nowhere'"),
        (("--images", "nowhere"), "nowhere"),
    ],
)  # fmt: skip
def test_wrong_commands_are_named(cli: Cli, tmp_path: Path, arguments: tuple[str, ...], expected: str) -> None:
    result = cli("data", "caption", *arguments, "--out", tmp_path / "a.csv")
    assert result.status == 2, result.err
    assert expected in result.err
    assert list(tmp_path.iterdir()) == []


# --- images without captions ------------------------------------------------------------------------------------


def write_loose(folder: Path, *, zipped: bool) -> tuple[Path, Path]:
    """Fourteen images, no captions; SkyScript's metadata for thirteen of them, one with no tag in it."""
    names = [f"a{number}_FI_17.jpg" for number in range(14)]
    files = {name: encoded(np.full((6, 6, 3), 10 * n, dtype=np.uint8), "jpg") for n, name in enumerate(names)}
    place = folder / ("Finland/images.zip" if zipped else "Finland/images")
    write_files(place, {f"images/{name}": data for name, data in files.items()} if zipped else files)
    entries = {
        "a0_FI_17": {"center_tags": {"amenity": "school"}, "surrounding_tags": [{"highway": "service"}]},
        "a1_FI_17": {"center_tags": {}, "surrounding_tags": [{"natural": "water"}]},
        "a2_FI_17.jpg": {"center_tags": {"leisure": "park"}, "surrounding_tags": []},
        "a3_FI_17": {"center_tags": {}, "surrounding_tags": []},
        **{f"a{number}_FI_17": {"center_tags": {"leisure": "park"}} for number in range(5, 14)},
    }
    return place, write_json(folder / "metadata.json", entries)


@pytest.mark.parametrize("zipped", [False, True])
def test_images_with_metadata_become_a_dataset_of_urbancross(cli: Cli, tmp_path: Path, zipped: bool) -> None:
    images, metadata = write_loose(tmp_path, zipped=zipped)
    file = tmp_path / "Finland" / "instructblip_generation_finland_refine.csv"
    command = ("data", "caption", "--images", images, "--metadata", metadata, "--out", file, "--batch", 2)
    result = cli(*command)
    assert result.status == 1
    assert "captions for 12 of 14 images" in result.out
    assert "a3_FI_17.jpg" in result.err
    assert "a4_FI_17.jpg" in result.err
    assert {
        name: any(word in text for word in ("school", "water", "park")) for name, text in rows(file).items()
    } == {f"a{number}_FI_17.jpg": True for number in range(14) if number not in (3, 4)}
    domain = read(Reference("urbancross", "finland", {"folder": str(tmp_path)}))
    assert dict(zip(domain.image_names, domain.captions, strict=True)) == rows(file)
    last = domain.image_names.index("a13_FI_17.jpg")
    assert int(domain.images.read(last).mean()) == 130
    assert sorted(json.loads(file.with_name(f"{file.name}.json").read_text())["failures"]) == [
        "a3_FI_17.jpg",
        "a4_FI_17.jpg",
    ]


def test_metadata_that_is_none_is_an_error(cli: Cli, tmp_path: Path) -> None:
    images, metadata = write_loose(tmp_path, zipped=False)
    command = ("data", "caption", "--images", images, "--metadata", metadata, "--out", tmp_path / "a.csv")
    layout = "SkyScript's metadata is one object, image → "
    others = {"images": [{"filename": "a1_FI_17.jpg"}], "dataset": "rsicd", "x": 1, "y": 2}
    for content, expected, says_layout in (
        ([], "holds a list", True),
        ({}, "no entry for any of 14 images, 'a0_FI_17.jpg' the first; its keys are none; ", True),
        (others, "the first; its keys are 'images', 'dataset', 'x', and 1 more; ", True),
        ({"a1_FI_17": 3}, "entry 'a1_FI_17.jpg' is garbled, a int", True),
        ({"a1_FI_17": {"caption": "a school", "box": []}}, "'a1_FI_17.jpg' has 'caption', 'box'", True),
        (
            {"a1_FI_17": {"center_tags": {"name": "\ud83d cut"}}},
            r"a1_FI_17.jpg: center_tags or surrounding_tags are garbled: tag 'name': '\ud83d cut' cannot",
            False,
        ),
        ({"a1_FI_17": {"center_tags": 1}}, "a1_FI_17.jpg: center_tags or surrounding_tags are garbled", False),
    ):
        metadata.write_text(json.dumps(content))
        result = cli(*command)
        assert (result.status, f"{metadata}" in result.err, expected in result.err) == (2, True, True), result.err
        assert (layout in result.err) == says_layout
        assert not (tmp_path / "a.csv").exists()


@pytest.mark.parametrize("name", ["caf\udce9.jpg", " lead.jpg"])
def test_names_that_no_reader_of_the_csv_would_find_are_refused(cli: Cli, tmp_path: Path, name: str) -> None:
    images, metadata = write_loose(tmp_path, zipped=False)
    write_files(images, {name: b""})
    result = cli("data", "caption", "--images", images, "--metadata", metadata, "--out", tmp_path / "a.csv")
    assert (result.status, "1 image names are not UTF-8, or have blanks" in result.err) == (2, True)
    assert repr(name) in result.err


# --- pixels -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("plugin") / "colours.py"
    file.write_text(COLOUR_PLUGIN)
    return file


@pytest.fixture
def pictures(tmp_path: Path, colours: Path) -> tuple[str, list[str]]:
    """A csv dataset of nine tiles with tags, and the command that captions them by colour."""
    tiles = {f"{n}.png": list(COLOURS.values())[n % 4] for n in range(9)}
    write_files(tmp_path / "images", {n: encoded(np.full((4, 4, 3), c, dtype=np.uint8)) for n, c in tiles.items()})
    entries = [{"image_name": name, "description": "old words", "tags": f"tag of {name}"} for name in tiles]
    domain = f"csv[file={write_csv(tmp_path / 'tiles.csv', entries)},tags_column=tags]"
    out = str(tmp_path / "out" / "new.csv")
    plugin = ["--plugin", str(colours), "--captioner", "colours"]
    return out, ["data", "caption", domain, *plugin, "--batch", "4", "--device", "cpu", "--out", out]


def expected(skip: int | None = None) -> dict[str, str]:
    colours = list(COLOURS.values())
    return {f"{n}.png": f"tag of {n}.png: {colours[n % 4]}" for n in range(9) if n != skip}


def test_every_image_gets_the_caption_of_its_own_pixels(cli: Cli, pictures: tuple[str, list[str]]) -> None:
    out, command = pictures
    result = cli(*command)
    assert result.status == 0, result.err
    assert rows(Path(out)) == expected()


def test_a_captioner_that_changes_meanwhile_describes_nothing(
    colours: Path, pictures: tuple[str, list[str]]
) -> None:
    source = Source(domain=pictures[1][2], plugins=(str(colours),))
    identity = Registry.discover([colours]).resolve("captioner", "colours").identity()
    assert callable(CaptionMaker(source, "colours", identity, 0, "").build("cpu"))
    before = identity | {"version": "another"}
    with pytest.raises(RunError, match="has changed since the command began; run it again"):
        CaptionMaker(source, "colours", before, 0, "").build("cpu")


@pytest.mark.parametrize(
    "broken", [b"no image", encoded(np.zeros((4, 4, 3), dtype=np.uint8))], ids=["damaged", "refused"]
)
def test_a_bad_image_costs_itself_and_is_tried_again(
    cli: Cli, pictures: tuple[str, list[str]], tmp_path: Path, broken: bytes
) -> None:
    out, command = pictures
    good = (tmp_path / "images" / "5.png").read_bytes()
    (tmp_path / "images" / "5.png").write_bytes(broken)
    result = cli(*command)
    assert result.status == 1
    assert "5.png" in result.err
    assert rows(Path(out)) == expected(skip=5)
    assert [*json.loads(Path(f"{out}.json").read_text())["failures"]] == ["5.png"]
    (tmp_path / "images" / "5.png").write_bytes(good)
    assert cli(*command).status == 0
    assert rows(Path(out)) == expected()
    assert sorted(path.name for path in Path(out).parent.iterdir()) == ["new.csv", "new.csv.json"]
    (tmp_path / "images" / "5.png").write_bytes(encoded(np.ones((4, 4, 3), dtype=np.uint8)))
    assert "have changed since" in cli(*command).err


def test_an_image_that_cannot_be_read_costs_itself(
    cli: Cli, pictures: tuple[str, list[str]], tmp_path: Path
) -> None:
    out, command = pictures
    zip_with_damage(tmp_path / "images", "5.png")
    result = cli(*command)
    assert (result.status, "5.png cannot be read: Bad CRC-32" in result.err) == (1, True)
    assert rows(Path(out)) == expected(skip=5)


@pytest.mark.parametrize(
    ("bad", "kept"), [(range(9), 0), ((0, 4, 8), 0), ((5,), 2)], ids=["all", "one of each batch", "one"]
)
def test_what_was_captioned_in_vain_leaves_only_what_the_next_call_goes_on_from(
    cli: Cli, pictures: tuple[str, list[str]], tmp_path: Path, bad: tuple[int, ...], kept: int
) -> None:
    out, command = pictures
    for number in bad:
        (tmp_path / "images" / f"{number}.png").write_bytes(encoded(np.zeros((4, 4, 3), dtype=np.uint8)))
    result = cli(*command)
    assert (result.status, f"captions for {9 - len(bad)} of 9" in result.out) == (1, True)
    assert Path(out).exists() == (len(bad) < 9)
    journal = Path(f"{out}.partial")
    assert journal.exists() == bool(kept)
    assert len([*journal.glob(".partial/*.json")]) == kept


def test_the_log_that_a_failure_names_stays(cli: Cli, pictures: tuple[str, list[str]], tmp_path: Path) -> None:
    out, command = pictures
    log = Path(f"{out}.partial") / ".partial" / "log"
    (tmp_path / "dying.py").write_text(DYING_PLUGIN)
    command = [*command, "--plugin", str(tmp_path / "dying.py"), "--captioner"]
    result = cli(*command, "dying")
    assert (result.status, "captions for 0 of 9" in result.out) == (1, True)
    assert result.err.count(f"the process died (exit status 3); see {log}") == 9
    assert "told before it died" in log.read_text()
    # With a model that cannot be loaded there is nothing to go on from, nor a log to look into.
    log.unlink()
    result = cli(*command, "unloaded")
    assert result.status == 2
    assert re.search(r"captioner 'unloaded' of .* failed to load: KeyError: 'weights' \(dying\.py:", result.err)
    assert not Path(f"{out}.partial").exists()


def test_images_whose_batch_fails_for_no_fault_of_theirs_are_captioned_alone_and_named(
    cli: Cli, pictures: tuple[str, list[str]], tmp_path: Path
) -> None:
    out, command = pictures
    file = tmp_path / "by-number.py"  # a file's name need be no identifier
    file.write_text(COUNTING_PLUGIN)
    command = [*command, "--plugin", str(file), "--captioner", "by_number"]
    (tmp_path / "full").touch()
    result = cli(*command)
    told = "warning: 8 images were captioned alone, since their batches failed (MemoryError: no room)"
    assert (result.status, told in result.err) == (0, True), result.err
    assert set(rows(Path(out)).values()) == {"1 at once"}
    assert json.loads(Path(f"{out}.json").read_text())["alone"] == {
        f"{n}.png": "MemoryError: no room" for n in range(8)
    }
    Path(out).unlink()
    (tmp_path / "full").unlink()
    result = cli(*command)
    assert (result.status, "warning" in result.err) == (0, False)
    assert [*rows(Path(out)).values()] == ["4 at once"] * 8 + ["1 at once"]
    assert json.loads(Path(f"{out}.json").read_text())["alone"] == {}


def test_captions_of_pixels_depend_on_what_decodes_images(
    cli: Cli, pictures: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, command = pictures
    assert cli(*command).status == 0
    assert "nothing to do" in cli(*command).out
    monkeypatch.setattr("urbancross_bench.execution.captioning.decoders", lambda: {"pillow": "99"})
    result = cli(*command)
    assert (result.status, "made otherwise" in result.err) == (2, True)


def test_missing_images_are_said_before_anything_is_made(
    cli: Cli, pictures: tuple[str, list[str]], tmp_path: Path
) -> None:
    out, command = pictures
    (tmp_path / "images" / "3.png").unlink()
    result = cli(*command)
    assert (result.status, "1 of 9 images are missing, '3.png' the first" in result.err) == (2, True)
    assert not Path(out).exists()
