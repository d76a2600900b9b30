"""The card of a domain: facts counted by hand, missing images that do not stop it, and what the command prints."""

from __future__ import annotations

import csv
import hashlib
import json
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SHARED, Result, write_karpathy
from data_files import read
from PIL import Image

from urbancross_bench.data.card import card, places
from urbancross_bench.data.croissant import write_croissant
from urbancross_bench.data.domain import split_of
from urbancross_bench.data.images import FolderImages, NoImages, ZipImages
from urbancross_bench.errors import DataError
from urbancross_bench.interfaces import Domain, Segments
from urbancross_bench.interfaces.dataset import Repair

Cli = Callable[..., Result]


NAMES = ["a.png", "b.png", "c.png", "d.png", "e.png"]


@pytest.fixture
def domain(tmp_path: Path) -> Domain:
    """Five tiles 20 pixels wide and 10 high; `d` has the content of `a`, and `e` is in no split."""
    for number, name in enumerate(NAMES):
        Image.new("RGB", (20, 10), (0, 0, 0) if name == "d.png" else (number, 0, 0)).save(tmp_path / name)
    return Domain(
        name="small",
        image_names=NAMES,
        splits={"train": np.array([0, 1]), "val": np.array([2]), "test": np.array([3])},
        captions=["A lake.", "a lake", "a lake", "two roads, a wood", "x", "a lake", "Über-Wald"],
        image_of_caption=np.array([0, 0, 1, 2, 3, 3, 4]),
        images=FolderImages(tmp_path, NAMES),
        attributes={
            "latitude": [10.0, 12.0, None, 95.0, 11.0],
            "longitude": [179.5, -179.5, 3.0, 0.0, 179.0],
            "extent": [10.0, 20.0, None, 40.0, float("nan")],
            "scene_class": ["lake", "lake", "wood", None, "road"],
            "year": [2017, 2017, 2021, None, 2009],
            "country": ["FI", None, "DE", "FI", None],
            "tags": ["a of b, c of d; surrounded by a of b, e of f", "c of d", ["a of b", "c of d"], "", None],
        },
        segments=Segments(NoImages(["s"] * 4), np.array([0, 0, 0, 2]), caption_aware=False),
        partition="by hand",
        licence="mine",
        repairs=(Repair("x:1", "blank caption", "left out", "a.png"),),
    )


def test_the_facts_are_those_of_the_domain(domain: Domain) -> None:
    facts = card(domain)
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    splits = facts.pop("splits")
    assert {name: (s["images"], s["captions"]) for name, s in splits.items()} == {
        "train": (2, 3),
        "val": (1, 1),
        "test": (1, 2),
    }
    for name, split in splits.items():
        assert split["fingerprint"] == split_of(domain, name).fingerprint
        assert split["no_fingerprint_because"] is None
    assert facts == {
        "name": "small",
        "images": 5,
        "pixels": True,
        "captions": 7,
        "in_no_split": 1,
        "test_images_in_train": 1,
        "captions_per_image": {"min": 1, "mean": 1.4, "max": 2},
        "distinct_captions": 5,
        "words_per_caption": {"min": 1, "mean": 15 / 7, "max": 4},
        "vocabulary": 8,  # a lake two roads wood x über wald
        "classes": {"distinct": 3, "most": {"lake": 2, "road": 1, "wood": 1}},
        # Extents over the longer side of 20 pixels: 0.5, 1 and 2 metres.
        "resolution": {"min": 0.5, "median": 1.0, "max": 2.0, "images": 3, "from": "extent over pixels"},
        "years": {"2009": 1, "2017": 2, "2021": 1},
        "countries": {"FI": 2, "DE": 1},
        "place": {"latitude": [10.0, 12.0], "longitude": [179.0, -179.5], "images": 3},
        "tags": {"distinct": 3, "most": {"c of d": 3, "a of b": 2, "e of f": 1}},
        "segments": {"segments": 4, "per_image": {"min": 0, "mean": 0.8, "max": 3}, "caption_aware": False},
        "captions_generated": False,
        "partition": "by hand",
        "overlapping": False,
        "mark": None,
        "licence": "mine",
        "shareable": False,
        "repairs": 1,
    }
    assert [*facts["years"]] == ["2009", "2017", "2021"]
    assert [column.tolist() for column in places(domain)] == [[10.0, 12.0, 11.0], [179.5, -179.5, 179.0]]


def test_what_a_domain_does_not_say_is_unknown(domain: Domain) -> None:
    facts = card(replace(domain, attributes={}, segments=None, licence="", partition=""))
    unknown = ("classes", "resolution", "years", "countries", "place", "tags", "segments", "licence", "partition")
    assert {name: facts[name] for name in unknown} == dict.fromkeys(unknown)


def test_a_resolution_that_is_said_needs_no_pixels(domain: Domain) -> None:
    said = {"resolution": [0.5, 0.1, None, 0.3, float("nan")], "extent": [9.0] * 5}
    facts = card(replace(domain, attributes=said, images=NoImages(NAMES)))
    assert facts["resolution"] == {"min": 0.1, "median": 0.3, "max": 0.5, "images": 3, "from": "the domain"}


def test_missing_images_cost_the_fingerprint_and_no_more(domain: Domain, tmp_path: Path) -> None:
    whole = card(domain)
    (tmp_path / "a.png").unlink()
    (tmp_path / "b.png").write_bytes(b"")
    facts = card(replace(domain, images=FolderImages(tmp_path, NAMES)))
    train = facts["splits"]["train"]
    assert train["fingerprint"] is None
    reason = f"1 of 5 images are missing, 'a.png' the first (no such file); looked in {tmp_path}"
    assert train["no_fingerprint_because"] == reason
    assert facts["test_images_in_train"] is None
    assert facts["resolution"]["images"] == 1
    same = set(whole) - {"splits", "test_images_in_train", "resolution"}
    assert {name: facts[name] for name in same} == {name: whole[name] for name in same}


def test_a_domain_without_images_has_a_card(domain: Domain) -> None:
    facts = card(replace(domain, images=NoImages(NAMES)))
    assert {split["fingerprint"] for split in facts["splits"].values()} == {None}
    assert "opened without images" in facts["splits"]["test"]["no_fingerprint_because"]
    assert facts["resolution"] is None


def test_a_card_is_printed(cli: Cli) -> None:
    result = cli("data", "show", "synthetic/nordia")
    assert result.status == 0, result.err
    domain = read("synthetic/nordia")
    lines = {line[2:14].strip(): line[14:] for line in result.out.splitlines() if line.startswith("  ")}
    assert result.out.splitlines()[0] == "nordia, from synthetic/nordia"
    assert lines["captions"] == f"1,600, {len(set(domain.captions)):,} of them distinct"
    assert lines["train"].split() == ["200", "images", "1,000", "captions", split_of(domain, "train").fingerprint]
    assert lines["repeats"] == "0 test images stand in train, too"
    assert lines["resolution"] == "1.5 m/px (the domain, 320 images)"
    assert lines["place"].startswith("58.0234°N to 60.9766°N, 12.0234°E to 14.9766°E")
    most = max(Counter(domain.attributes["scene_class"]).values())
    assert lines["classes"].startswith(f"10: forest ({most}), residential ({most}), ")
    assert sum(letter > "⠀" for letter in result.out if "⠀" <= letter <= "⣿") > 50
    assert cli("data", "show", "synthetic/nordia").out == result.out


def test_json_has_the_same_facts(cli: Cli) -> None:
    [facts] = json.loads(cli("data", "show", "synthetic/nordia", "--json").out)
    assert facts == {"reference": "synthetic/nordia", **card(read("synthetic/nordia"))}


def test_several_domains_and_one_with_images_missing(cli: Cli, tmp_path: Path) -> None:
    file = write_karpathy(tmp_path / "d")
    (tmp_path / "d" / "images" / "d_002.png").unlink()
    reference = f"karpathy[file={file}]"
    result = cli("data", "show", reference, "synthetic/costara[images=40]")
    assert result.status == 0, result.err
    assert "no fingerprint: 1 of 24 images are missing, 'd_002.png' the first (no such file)" in result.out
    assert "\n\ncostara, from synthetic/costara[images=40]\n" in result.out
    cards = json.loads(cli("data", "show", reference, "synthetic/costara[images=40]", "--json").out)
    assert [facts["name"] for facts in cards] == ["dataset", "costara"]
    assert cards[0]["splits"]["test"]["fingerprint"] is None


def test_an_alias_shows_its_members(cli: Cli, tmp_path: Path) -> None:
    for country in ("finland", "germany", "spain"):
        folder = tmp_path / country.capitalize()
        folder.mkdir()
        rows = "".join(
            f"a{index}_{country[:2].upper()}_1{index % 10}.jpg,a place {index}\n" for index in range(20)
        )
        text = f"image_name,description\n{rows}"
        (folder / f"instructblip_generation_{country}_refine.csv").write_text(text)
    reference = f"urbancross/integration[folder={tmp_path},images=none]"
    cards = json.loads(cli("data", "show", reference, "--json").out)
    assert [facts["name"] for facts in cards] == ["finland", "germany", "spain"]
    assert cards[0]["countries"] == {"FI": 20}
    assert cards[0]["years"] == {str(year): 2 for year in range(2010, 2020)}
    assert cards[0]["captions_generated"]
    assert "a model wrote the captions" in cli("data", "show", reference).out


def test_places_of_a_csv_split_by_blocks_end_to_end(cli: Cli, tmp_path: Path) -> None:
    generator, rows = np.random.default_rng(0), ["image_name,description,lat,lon"]
    (tmp_path / "images").mkdir()
    for index in range(200):
        latitude, longitude = generator.uniform(60.0, 60.9), generator.uniform(24.0, 25.8)
        rows.append(f"{index}.png,place {index},{latitude:.6f},{longitude:.6f}")
        Image.new("RGB", (4, 4), (index, 0, 0)).save(tmp_path / "images" / f"{index}.png")
    (tmp_path / "places.csv").write_text("\n".join(rows) + "\n")
    file = tmp_path / "places.csv"
    options = "latitude_column=lat,longitude_column=lon,split=blocks,block_km=15,distance_km=5"
    [facts] = json.loads(cli("data", "show", f"csv[file={file},{options}]", "--json").out)
    assert facts["partition"].startswith("blocks of 15 km, drawn with seed 0; no image within 5 km")
    assert facts["in_no_split"] > 0
    assert sum(split["images"] for split in facts["splits"].values()) + facts["in_no_split"] == 200
    assert all(split["fingerprint"] for split in facts["splits"].values())
    assert facts["test_images_in_train"] == 0
    assert 60.0 <= facts["place"]["latitude"][0] < facts["place"]["latitude"][1] <= 60.9
    bare = cli("data", "show", f"csv[file={file},split=blocks]")
    assert bare.status == 2
    assert "has no column 'latitude'" in bare.err


def test_one_file_plugins_have_cards(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "shown_dataset.py").write_text(
        "import numpy as np\n"
        "from urbancross_bench.interfaces import Dataset, Domain, ImageSource, hookimpl, register\n"
        "class Grey(ImageSource):\n"
        "    def digest(self, index):\n"
        "        return 'same'\n"
        "    def read(self, index):\n"
        "        return np.zeros((8, 8, 3), np.uint8)\n"
        "class Mine(Dataset):\n"
        "    def read(self, member):\n"
        "        splits = {'train': np.array([0]), 'val': np.array([1]), 'test': np.array([2, 3])}\n"
        "        return Domain('mine', list('abcd'), splits, ['x'] * 4, np.arange(4), Grey())\n"
        "@hookimpl\n"
        "def register_datasets():\n"
        "    return [register('mine', 'shown_dataset:Mine', summary='my own')]\n"
    )
    result = cli("data", "show", "mine", "--plugin", tmp_path / "shown_dataset.py")
    assert result.status == 0, result.err
    assert "2 test images stand in train, too" in result.out


def test_a_domain_that_is_none(cli: Cli) -> None:
    for reference, message in (("rsicdd", 'Did you mean "rsicd"'), ("synthetic/nordai", 'Did you mean "nordia"')):
        result = cli("data", "show", reference)
        assert result.status == 2
        assert message in result.err


def test_looking_at_data_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from urbancross_bench.cli.app import main\n"
        "for arguments in (['show', 'synthetic/nordia'], ['split', 'synthetic/nordia', '--out', 'lists']):\n"
        "    sys.argv = ['urbancross-bench', 'data', *arguments]\n"
        "    try:\n"
        "        main()\n"
        "    except SystemExit as stop:\n"
        "        assert not stop.code\n"
        "print('HEAVY', [name for name in ('torch', 'pandas', 'datasets', 'open_clip') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "HEAVY []"


@pytest.mark.skipif(not (SHARED / "samples").is_dir(), reason=f"no SkyScript samples at {SHARED}")
def test_a_country_of_real_samples(cli: Cli, tmp_path: Path) -> None:
    """Finland's three tiles with metadata, among others without: resolution, year and place are theirs."""
    samples = SHARED / "samples"
    folder = tmp_path / "Finland"
    folder.mkdir()
    (folder / "images").symlink_to(samples / "skyscript_images")
    names = sorted(file.name for file in (samples / "skyscript_images").iterdir())
    text = "image_name,description\n" + "".join(f"{name},a place\n" for name in names)
    (folder / "instructblip_generation_finland_refine.csv").write_text(text)
    reference = f"urbancross/finland[folder={tmp_path},metadata={samples / 'skyscript_meta.json'}]"
    [facts] = json.loads(cli("data", "show", reference, "--json").out)
    assert facts["images"] == 20
    assert facts["countries"] == {"US": 12, "CH": 4, "FI": 3}
    assert facts["resolution"]["images"] == 10
    assert facts["resolution"]["min"] == pytest.approx(0.098, abs=0.001)
    assert facts["resolution"]["max"] == pytest.approx(0.597, abs=0.001)
    assert facts["place"]["longitude"][0] == pytest.approx(-117.919, abs=0.001)
    assert facts["place"]["longitude"][1] == pytest.approx(22.240, abs=0.001)
    assert facts["tags"]["distinct"] > 20


def described(domain: Domain, folder: Path) -> tuple[dict[str, Any], Any]:
    """A domain's Croissant file, and what the format's own reader makes of it."""
    mlcroissant = pytest.importorskip("mlcroissant")
    file = folder / "domain.json"
    assert write_croissant(domain, file) == file.with_suffix(".csv")
    dataset = mlcroissant.Dataset(jsonld=str(file))
    assert dataset.metadata.issues.errors == set()
    recommended = [w for w in dataset.metadata.issues.warnings if "is recommended, but does not exist" not in w]
    assert recommended == []
    return json.loads(file.read_text()), dataset


def decoded(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value.decode() if isinstance(value, bytes) else value for key, value in record.items()}


def test_a_croissant_description_is_valid_and_gives_the_captions(domain: Domain, tmp_path: Path) -> None:
    content, dataset = described(domain, tmp_path)
    assert content["description"] == "5 satellite images with 7 captions. Splits: by hand."
    assert content["license"] == "mine"
    split = ["train", "train", "val", "test", ""]
    rows = [decoded(record) for record in dataset.records("captions")]
    for row, owner, caption in zip(rows, domain.image_of_caption, domain.captions, strict=True):
        assert (row["captions/image"], row["captions/caption"]) == (NAMES[owner], caption)
        if split[owner]:
            assert row["captions/split"] == split[owner]
        latitude = domain.attributes["latitude"][owner]
        if latitude is not None:
            assert row["captions/latitude"] == latitude


def test_a_croissant_description_keeps_captions_of_several_lines(domain: Domain, tmp_path: Path) -> None:
    captions = ["a lake\rand a wood", "two\nlines", "two\r\nlines", *domain.captions[3:]]
    table = write_croissant(replace(domain, captions=tuple(captions)), tmp_path / "domain.json")
    with table.open(encoding="utf-8", newline="") as file:
        assert [row["caption"] for row in csv.DictReader(file)] == captions


@pytest.mark.parametrize("packed", [False, True])
def test_a_croissant_description_finds_the_images(domain: Domain, tmp_path: Path, packed: bool) -> None:
    if packed:
        with zipfile.ZipFile(tmp_path / "images.zip", "w") as file:
            for name in NAMES:
                file.write(tmp_path / name, f"images/{name}")
                (tmp_path / name).unlink()
        domain = replace(domain, images=ZipImages(tmp_path / "images.zip", NAMES))
    content, _ = described(domain, tmp_path)
    source = {"fileSet": {"@id": "images"}, "extract": {"fileProperty": "filename"}}
    field = {"@type": "cr:Field", "@id": "files/name", "name": "name", "dataType": "sc:Text", "source": source}
    content["recordSet"].append({"@type": "cr:RecordSet", "@id": "files", "name": "files", "field": [field]})
    file = tmp_path / "domain.json"
    file.write_text(json.dumps(content))
    records = pytest.importorskip("mlcroissant").Dataset(jsonld=str(file)).records("files")
    assert sorted(Path(decoded(record)["files/name"]).name for record in records) == NAMES


def test_a_croissant_description_lies_above_the_images(domain: Domain, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not below .*elsewhere; write the description to a folder above them"):
        write_croissant(domain, tmp_path / "elsewhere" / "domain.json")
    assert not (tmp_path / "elsewhere").exists()


def test_croissant_by_the_command(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "new" / "nordia.json"
    result = cli("data", "show", "synthetic/nordia", "--croissant", file)
    assert result.status == 0, result.err
    assert f"described in {file}" in result.err
    assert result.out == cli("data", "show", "synthetic/nordia").out
    content = json.loads(file.read_text())
    assert [part["@id"] for part in content["distribution"]] == ["nordia.csv"]
    assert (
        content["distribution"][0]["sha256"]
        == hashlib.sha256((tmp_path / "new/nordia.csv").read_bytes()).hexdigest()
    )
    for arguments, message in (
        (["synthetic/nordia", "--croissant", file], "nordia.json is there already"),
        (["synthetic/nordia", "--croissant", tmp_path / "x.csv"], "choose a name in .json"),
        (["synthetic/nordia", "synthetic/costara", "--croissant", tmp_path / "x.json"], "describes one domain"),
    ):
        result = cli("data", "show", *arguments)
        assert result.status == 2
        assert message in result.err
        assert not (tmp_path / "x.csv").exists()
