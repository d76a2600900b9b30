"""Every reader: one answer key for all layouts, and every defect a named error or a repair, never a wrong pair."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import socket
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import SHARED, write_karpathy
from data_files import (
    LAYOUTS,
    Tile,
    answer,
    content_of,
    csv_captions,
    csv_lists,
    encoded,
    files_of,
    hub_table,
    imagefolder,
    karpathy,
    karpathy_entries,
    known,
    pir,
    precomp,
    read,
    saved,
    segments_of,
    tag,
    tiles,
    write_csv,
    write_files,
    write_json,
    write_lines,
    write_lists,
    write_urbancross_tree,
)
from hypothesis import given
from hypothesis import strategies as st

from urbancross_bench.data.domain import check, misshapen, split_of
from urbancross_bench.data.exclusions import without
from urbancross_bench.data.images import said_missing
from urbancross_bench.data.index import reading
from urbancross_bench.data.readers import class_in_name, data_folder
from urbancross_bench.data.text import read_csv, read_json, read_lines, unwrap
from urbancross_bench.errors import DataError, UsageError
from urbancross_bench.interfaces import SPLITS, Domain
from urbancross_bench.references import Reference
from urbancross_bench.registry import Registry

BLANK = "left out"


@pytest.fixture(autouse=True)
def _own_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "hub"))


def fingerprints(domain: Domain) -> list[str]:
    return [split_of(domain, split).fingerprint for split in SPLITS]


def sizes(domain: Domain) -> dict[str, int]:
    return {split: len(members) for split, members in domain.splits.items()}


def members(domain: Domain, split: str) -> set[str]:
    return {domain.image_names[index] for index in domain.splits[split].tolist()}


def edit(file: Path, old: str, new: str, count: int = 1) -> None:
    text = file.read_bytes().decode()
    assert old in text
    file.write_bytes(text.replace(old, new, count).encode())


# --- all layouts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_domain(tmp_path: Path, layout: str) -> None:
    some = tiles()
    domain = read(LAYOUTS[layout](tmp_path, some))
    check(domain)
    assert content_of(domain) == answer(some)
    pixels = {tile.name: tile.pixels for tile in some}
    for index, name in enumerate(domain.image_names):
        np.testing.assert_array_equal(domain.images.read(index), pixels[name])
    assert len({domain.images.digest(index) for index in range(len(some))}) == len(some)
    noted = {(repair.problem.partition(":")[0], repair.remedy) for repair in domain.repairs}
    assert noted == ({("not ASCII", "read as gb18030")} if "GB" in layout else set())
    assert not domain.overlapping
    assert domain.partition


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_may_be_shown_where_the_user_says_so_alone(layout: str, tmp_path: Path) -> None:
    reference = LAYOUTS[layout](tmp_path, tiles(15))
    assert not read(reference).shareable
    shown = read(reference, shareable=True)
    assert shown.shareable
    assert fingerprints(shown) == fingerprints(read(reference))
    for split in ("drawn", "given"):
        assert read(reference, shareable=True, split=split).shareable


@pytest.mark.parametrize("layout", ["karpathy", "csv, a row per caption", "urbancross"])
def test_folder_and_zip_have_the_same_fingerprints(tmp_path: Path, layout: str) -> None:
    some = tiles()
    packed = {"karpathy": "karpathy, zip", "urbancross": "urbancross, zips"}.get(layout, "csv, zip")
    folder, zipped = (read(LAYOUTS[kind](tmp_path / kind[-3:], some)) for kind in (layout, packed))
    assert fingerprints(folder) == fingerprints(zipped)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_missing_image_is_found_before_anything_is_read(tmp_path: Path, layout: str) -> None:
    """Or, where images stand in the table itself, cannot be missing."""
    some = tiles()
    reference = LAYOUTS[layout](tmp_path, some)
    files = list(tmp_path.rglob(some[7].name))
    if not files:
        assert "zip" in layout or "hugging" in layout or layout == "sydney"
        return
    domain = read(reference)
    files[0].unlink()
    with pytest.raises(DataError, match=rf"1 of 15 images are missing, '{some[7].name}' the first"):
        check(domain)


@pytest.mark.parametrize("layout", ["karpathy", "precomp", "pir", "csv, a row per caption", "rsicd"])
def test_captions_alone_can_be_read(tmp_path: Path, layout: str) -> None:
    some = tiles()
    reference = LAYOUTS[layout](tmp_path, some)
    for folder in ("images", "RSICD_images"):
        shutil.rmtree(tmp_path / folder, ignore_errors=True)
    with pytest.raises(DataError, match="images"):
        read(reference)
    domain = read(reference, images="none")
    assert content_of(domain) == answer(some)
    with pytest.raises(DataError, match=r"15 of 15 images are missing.*opened without images"):
        check(domain)


# --- records in json --------------------------------------------------------------------------------------------


def records(tmp_path: Path, content: object, name: str = "t.json", **options: Any) -> Domain:
    (tmp_path / "images").mkdir(exist_ok=True)
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return read(Reference("json", None, {"file": str(tmp_path / name), "split_column": "split", **options}))


RECORD = {"image": "a.png", "captions": ["a port", "a pier"], "split": "test"}
NESTED = "[" * 100_000


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ([RECORD], "t.json"),
        ({"a.png": {"captions": ["a port", "a pier"], "split": "test"}}, "t.json"),
        (b"\xef\xbb\xbf" + json.dumps([RECORD]).encode(), "t.json"),
        (b"\xef\xbb\xbf" + json.dumps(RECORD).encode() + b"\r\n\r\n", "t.jsonl"),
        ([RECORD | {"captions": "a port"}, RECORD | {"captions": "a pier"}], "t.json"),
        ([RECORD | {"more": {"x": [1]}}], "t.json"),
    ],
)
def test_records_in_json_are_read_as_they_are_written(tmp_path: Path, content: object, name: str) -> None:
    assert content_of(records(tmp_path, content, name)) == {"a.png": ("test", ["a port", "a pier"])}


def test_captions_by_image_name_need_no_options(tmp_path: Path) -> None:
    content = {f"{number}.png": [f"place {number}"] if number % 2 else f"place {number}" for number in range(10)}
    domain = records(tmp_path, content, split_column=None)
    assert sizes(domain) == {"train": 7, "val": 1, "test": 2}
    assert set(domain.captions) == {f"place {number}" for number in range(10)}


def test_numbers_and_blanks_of_records_are_those_of_columns(tmp_path: Path) -> None:
    others = [
        {"image": "b.png", "captions": "b", "split": "val"},
        {"image": "c.png", "captions": "c", "split": None},
    ]
    content = [RECORD | {"lat": 60.25, "kind": "port"}, others[0] | {"lat": None}, others[1], others[1]]
    domain = records(tmp_path, content, latitude_column="lat", class_column="kind")
    assert domain.attributes["latitude"] == [60.25, None, None]
    assert domain.attributes["scene_class"] == ["port", None, None]
    rated = [RECORD | {"kind": float("nan")}, others[0] | {"kind": 1.0}, others[1] | {"kind": 1}]
    assert records(tmp_path, rated, class_column="kind").attributes["scene_class"] == [None, "1", "1"]
    assert sizes(domain) == {"test": 1, "val": 1}
    [copied] = domain.repairs
    assert copied.problem == "entry 3 is the same row as entry 2"
    assert copied.where.endswith("t.json: entry 3")


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("", "t.json", "t.json:1: t.json is not JSON: Expecting value"),
        (NESTED, "t.json", "t.json is not JSON"),
        (NESTED, "t.jsonl", "t.jsonl:1: the line is not JSON"),
        ('{"a": 1}\n{"a": 2}', "t.json", "Extra data. If each line is a record, call it .jsonl"),
        ("", "t.jsonl", r't.jsonl holds no records; `json` reads \[\{"image": …, "captions": \[…\]\}, …\], '),
        ([], "t.json", "t.json holds no records"),
        ({}, "t.json", "t.json holds no records"),
        (7, "t.json", "t.json holds no records"),
        ([3, RECORD], "t.json", "t.json: entry 0 is 3, not a record"),
        (json.dumps(RECORD) + "\n{", "t.jsonl", "t.jsonl:2: the line is not JSON: "),
        (
            [{"image": "a.png", "caption": "a", "split": ""}],
            "t.json",
            r"no column 'captions'\. Did you mean \"caption\"\?",
        ),
        ([RECORD, {"image": "b.png", "split": "val"}], "t.json", "entry 1: no column 'captions'"),
        ([RECORD, {"captions": "b", "split": "val"}], "t.json", "entry 1: no column 'image'"),
        ([RECORD | {"image": None}], "t.json", "entry 0: the image name is None, not a text"),
        ([RECORD | {"image": 7}], "t.json", "entry 0: the image name is 7, not a text"),
        ([RECORD | {"image": ""}], "t.json", "entry 0: an image has no name"),
        ([RECORD | {"image": ["a.png"]}], "t.json", r"entry 0: the image name is \['a.png'\], not a text"),
        ([RECORD | {"split": True}], "t.json", "entry 0: split is True, not a text or a number"),
        ([RECORD | {"split": "trian"}], "t.json", "entry 0: unknown split 'trian'"),
        ([RECORD | {"captions": None}], "t.json", "entry 0: the caption is None, not a text"),
        ([RECORD | {"captions": ["a", 7]}], "t.json", "entry 0: the caption is 7, not a text"),
        (
            [RECORD | {"captions": {"raw": "a" * 500}}],
            "t.json",
            r"entry 0: the caption is \{'raw': 'a{100,200}…, not",
        ),
        ([RECORD, RECORD | {"split": "val"}], "t.json", "entry 1: image 'a.png' has split 'val', but 'test' in "),
        ('{"a.png": ["a"], "a.png": ["b"]}', "t.json", "key 'a.png' stands twice in one object"),
        ({"a.png": 7}, "t.json", "no column 'split'"),
        ({"0": RECORD}, "t.json", "entry '0' says that its image is 'a.png'; write a list of such records"),
        ({"data": [RECORD]}, "t.json", "t.json holds a list .data.; a file of records is that list alone"),
        ({"images": [RECORD]}, "t.json", "t.json holds a list .images.; a file of records is that list alone"),
        (
            {"images": [{"file_name": "a.png", "id": 1}], "annotations": [{"image_id": 1, "caption": "a"}]},
            "t.json",
            "t.json holds a list .annotations., as COCO has it, which is not read",
        ),
        (karpathy_entries(tiles(1)), "t.json", r'holds a list "images", .*: karpathy\[file=…\] reads those'),
    ],
)
def test_json_that_is_no_records_is_named(tmp_path: Path, content: object, name: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        records(tmp_path, content, name)


def test_faults_of_records_are_named_together(tmp_path: Path) -> None:
    content = [3, RECORD, RECORD | {"image": " "}, RECORD | {"captions": 7}, {"image": "b.png"}]
    with pytest.raises(DataError) as refused:
        records(tmp_path, content)
    said = str(refused.value).splitlines()
    assert said[0] == "4 faults:"
    assert [re.sub(r".*t\.json: ", "", line)[:7] for line in said[1:]] == [
        "entry 0",
        "entry 2",
        "entry 3",
        "entry 4",
    ]


def test_an_image_that_stands_twice_is_no_matter_of_plugins(tmp_path: Path) -> None:
    content = karpathy_entries(tiles(1) * 2)
    with pytest.raises(DataError, match=r"stands twice, first in .*entry 0.*; put all its captions there$"):
        read(f"karpathy[file={write_json(tmp_path / 't.json', content)}]")


def test_a_path_that_is_not_there_is_said_to_start_somewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("URBANCROSS_DATA", raising=False)
    said = rf"file {tmp_path}/no.csv does not exist \(relative paths start at {tmp_path}, "
    with pytest.raises(DataError, match=f"{said}the current folder; URBANCROSS_DATA names another"):
        read("csv[file=no.csv]")
    monkeypatch.setenv("URBANCROSS_DATA", str(tmp_path / "data"))
    with pytest.raises(DataError, match=rf"start at {tmp_path}/data, which URBANCROSS_DATA names\)$"):
        read("csv[file=no.csv]")
    with pytest.raises(DataError, match=r"exclusion list .* does not exist$"):
        without(records(tmp_path, [RECORD]), tmp_path / "no.csv")


def test_karpathy_points_to_the_reader_of_records(tmp_path: Path) -> None:
    for content in ([RECORD], {"a.png": ["a port"]}):
        file = write_json(tmp_path / "t.json", content)
        with pytest.raises(
            DataError, match=r't\.json holds no list "images".*; json\[file=…\] reads a list of rec'
        ):
            read(f"karpathy[file={file}]")


# --- Karpathy json ----------------------------------------------------------------------------------------------


def swap_for_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f.write_text("{not json"), r"dataset\.json:1: dataset\.json is not JSON"),
        (
            lambda f: f.write_text('{"images": [\n\n{"filename": "a"'),
            r"dataset\.json:3: dataset\.json is not JSON",
        ),
        (
            lambda f: f.write_bytes(b"{\n\xff\xff"),
            r"dataset\.json:2: byte 0xff is not UTF-8; say what it is by the option",
        ),
        (lambda f: f.write_text("[]"), r'dataset\.json holds no list "images"'),
        (lambda f: f.write_text("null"), r'dataset\.json holds no list "images"'),
        (lambda f: f.write_text('{"images": []}'), r'dataset\.json holds no list "images"'),
        (lambda f: f.write_text('{"images": {"a": 1}}'), r'dataset\.json holds no list "images"'),
        (lambda f: f.write_text('{"images": [{"filename": "a.png", "split": "train"}]}'), "entry 0.*'sentences'"),
        (lambda f: f.write_text('{"images": [3]}'), "entry 0"),
        *(
            (
                lambda f, bad=bad: f.write_text(
                    f'{{"images": [{{"filename": "a", "split": "val", "sentences": {bad}}}]}}'
                ),
                r'entry 0 of "images" is not of the form \{"filename": …, .*\[\{"raw": …\}, …\]\}',
            )
            for bad in ("null", '["a red place"]')
        ),
        (lambda f: f.write_text("[" * 100_000), "is not JSON"),
        (lambda f: f.write_text("1" * 5000), "is not JSON"),
        (lambda f: edit(f, '"d_000.png"', "null"), "entry 0.*filename None"),
        (lambda f: edit(f, '"d_000.png"', "7"), "entry 0.*filename 7"),
        (lambda f: edit(f, '"d_000.png"', '""'), "entry 0.*an image has no name"),
        (lambda f: edit(f, '"train"', "null"), "entry 0.*split None"),
        (lambda f: edit(f, '"train"', '"trian"'), "entry 0.*unknown split 'trian'"),
        (lambda f: edit(f, '"a red place ."', "null"), "entry 0.*the caption is None, not a text"),
        (lambda f: edit(f, '"a red place ."', "12.5"), "entry 0.*the caption is 12.5, not a text"),
        (lambda f: edit(f, "a red place .", "\\ud800"), "entry 0.*surrogates"),
        (lambda f: edit(f, "d_000.png", "\\ud800"), "entry 0.*surrogates"),
        (lambda f: edit(f, "d_001.png", "d_000.png"), "entry 1.*'d_000.png' stands twice, first in .*entry 0"),
        (lambda f: edit(f, '"split"', '"filename": "d_002.png", "split"'), "key 'filename' stands twice"),
        (lambda f: edit(f, '"raw": "a red place ."', '"raw": "a", "raw": "b"'), "key 'raw' stands twice"),
        (lambda f: edit(f, "d_000.png", "../d_000.png"), "leads out of"),
        (lambda f: edit(f, "d_000.png", "/d_000.png"), "leads out of"),
        (lambda f: edit(f, "d_000.png", "\\u0000"), "leads out of"),
        (
            lambda f: swap_for_folder(f.parent / "images" / "d_000.png"),
            r"1 of 24 images are missing, 'd_000\.png'",
        ),
        (lambda f: (f.parent / "images" / "d_003.png").unlink(), r"1 of 24 images are missing, 'd_003\.png'"),
        (lambda f: (f.parent / "images").rename(f.parent / "pictures"), "holds no images"),
        (lambda f: f.unlink(), r"dataset\.json does not exist"),
        (swap_for_folder, r"dataset\.json cannot be read"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    file = write_karpathy(tmp_path / "d")
    damage(file)
    with pytest.raises(DataError, match=message):
        check(read(f"karpathy[file={file}]"))


def test_restval_is_train_and_blank_sentences_are_left_out(tmp_path: Path) -> None:
    file = write_karpathy(tmp_path / "d")
    content = json.loads(file.read_text())
    content["images"][0]["split"] = "restval"
    content["images"][0]["sentences"].append({"raw": "  "})
    content["images"][3]["sentences"] = [{"raw": ""}, {"raw": "\t"}]
    file.write_text(json.dumps(content))
    domain = read(f"karpathy[file={file}]")
    check(domain)
    assert content_of(domain)["d_000.png"] == ("train", ["a red field with 0 white rows .", "a red place ."])
    assert "d_003.png" not in domain.image_names
    assert [(r.problem, r.remedy, r.image) for r in domain.repairs] == [
        ("blank caption", BLANK, "d_000.png"),
        ("blank caption", BLANK, "d_003.png"),
        ("blank caption", BLANK, "d_003.png"),
        ("image without a caption", BLANK, "d_003.png"),
    ]
    assert all(repair.where.startswith(f"{file}: entry ") for repair in domain.repairs)


def renamed(some: Sequence[Tile], names: Sequence[str]) -> list[Tile]:
    return [replace(tile, name=name) for tile, name in zip(some, names, strict=True)]


CLASS_RULES: dict[str, dict[str, str | None]] = {
    "rsicd": {"airport_12.jpg": "airport", "00313.jpg": "unnamed", "baseballfield_3.jpg": "baseballfield"},
    "rsitmd": {"boat_0.tif": "boat", "denseresidential_1496.tif": "denseresidential", "x.tif": None},
    "ucm": {"1.tif": "agricultural", "100.tif": "agricultural", "101.tif": "airplane", "2100.tif": "tenniscourt"},
    "sydney": {},
}


@pytest.mark.parametrize("name", CLASS_RULES)
def test_scene_classes_come_from_the_names(tmp_path: Path, name: str) -> None:
    rule = CLASS_RULES[name]
    some = renamed(tiles(len(rule)), list(rule)) if rule else tiles(3)
    file = {"rsitmd": "dataset_RSITMD.json"}.get(name, f"dataset_{name}.json")
    domain = read(known(name, file, "images")(tmp_path, some))
    if rule:
        assert dict(zip(domain.image_names, domain.attributes["scene_class"], strict=True)) == rule
    else:
        assert "scene_class" not in domain.attributes
    assert domain.name == name
    assert domain.licence
    for counts in domain.known_counts.values():
        assert all(captions == 5 * images for images, captions in counts.values())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("airport_12.jpg", "airport"),
        ("dense_residential_012.tif", "dense_residential"),
        ("DenseResidential-1.png", "DenseResidential"),
        ("AID/port/port_1.jpg", "port"),
        ("agricultural00.tif", "agricultural"),
        ("SeaLake__SeaLake_967.jpg", "SeaLake__SeaLake"),
        ("机场_3.jpg", "机场"),
        ("00313.jpg", "unnamed"),
        ("x.tif", None),
        ("12_a.tif", None),
        ("_3.jpg", None),
    ],
)
def test_the_class_in_a_name(name: str, expected: str | None) -> None:
    assert class_in_name(name) == expected


@pytest.mark.parametrize("layout", ["karpathy", "precomp", "pir", "csv, a row per caption", "huggingface, saved"])
def test_classes_are_read_from_file_names_when_told_so(tmp_path: Path, layout: str) -> None:
    names = [f"{kind}_{number}.png" for number in range(5) for kind in ("port", "lake", "dense_wood")]
    reference = LAYOUTS[layout](tmp_path, renamed(tiles(15), names))
    plain, told = read(reference), read(reference, classes="from_file_name")
    check(told)
    assert told.attributes["scene_class"] == [name.rpartition("_")[0] for name in told.image_names]
    assert fingerprints(told) == fingerprints(plain)  # nothing that trains sees classes
    for split in SPLITS:
        cut = split_of(told, split)
        assert cut.image_class == [name.rpartition("_")[0] for name in cut.image_names]
        assert split_of(plain, split).image_class == (["port"] * len(cut.members) if layout == "pir" else None)


def test_a_file_name_without_a_class_is_named(tmp_path: Path) -> None:
    reference = karpathy(tmp_path, renamed(tiles(3), ["port_1.png", "x.png", "7.png"]))
    with pytest.raises(DataError, match=r"1 file names say no class, 'x.png' the first"):
        read(reference, classes="from_file_name", split="drawn")


def test_a_split_has_classes_if_each_of_its_images_has_one(tmp_path: Path) -> None:
    domain = read(karpathy(tmp_path, tiles(15)))
    test = set(domain.splits["test"].tolist())
    some = replace(domain, attributes={"scene_class": ["port" if i in test else None for i in range(15)]})
    assert split_of(some, "test").image_class == ["port"] * len(test)
    assert split_of(some, "train").image_class is None


def test_classes_that_do_not_fit_are_named(tmp_path: Path) -> None:
    domain = read(karpathy(tmp_path, tiles(15)))
    with pytest.raises(DataError, match="attribute 'scene_class' has 14 values for 15 images"):
        check(replace(domain, attributes={"scene_class": ["port"] * 14}))
    assert misshapen(replace(domain, attributes={"scene_class": ["port", None] * 7 + [None]})) == ""
    assert misshapen(replace(domain, attributes={"scene_class": [3] * 15})) == (
        "scene_class holds something that is no text"
    )
    assert "attributes is no mapping" in misshapen(replace(domain, attributes=["port"]))  # type: ignore[arg-type]


def test_ucm_classes_are_a_hundred_images_each(tmp_path: Path) -> None:
    """`k.tif` is the class (k - 1) // 100 in alphabetical order."""
    names = [f"{k}.tif" for k in range(1, 2101)] + ["0.tif", "2101.tif"]
    entries = [{"filename": n, "split": "train", "sentences": [{"raw": "a"}]} for n in names]
    write_json(tmp_path / "dataset_ucm.json", {"images": entries})
    classes = read(f"ucm[folder={tmp_path},images=none,split=drawn]").attributes["scene_class"]
    assert classes[2100:] == [None, None]
    groups = [set(classes[start : start + 100]) for start in range(0, 2100, 100)]
    assert all(len(group) == 1 for group in groups)
    ordered = [group.pop() for group in groups]
    assert ordered == sorted(ordered)
    assert len(set(ordered)) == 21


def test_rsitmd_has_no_validation_split_and_gets_one(tmp_path: Path) -> None:
    some = [replace(tile, split="train" if tile.split == "val" else tile.split) for tile in tiles(30)]
    reference = known("rsitmd", "dataset_RSITMD.json", "images")(tmp_path, some)
    domain, again, other = read(reference), read(reference), read(reference, split_seed=1)
    check(domain)
    assert sizes(domain) == {"train": 19, "val": 5, "test": 6}
    assert members(domain, "test") == {tile.name for tile in some if tile.split == "test"}
    assert "seed 0" in domain.partition
    assert "seed 1" in other.partition
    assert fingerprints(domain) == fingerprints(again) != fingerprints(other)
    assert fingerprints(domain)[2] == fingerprints(other)[2]


def test_keywords_of_rsitmd_come_along(tmp_path: Path) -> None:
    some = tiles(5)
    write_files(tmp_path / "images", files_of(some))
    entries = karpathy_entries(some, keywords=lambda tile: ["sea", tile.tag])
    write_json(tmp_path / "dataset_RSITMD.json", entries)
    assert read(f"rsitmd[folder={tmp_path}]").attributes["keywords"] == [["sea", tile.tag] for tile in some]


def test_datasets_are_looked_for_by_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("URBANCROSS_DATA", str(tmp_path))
    with pytest.raises(
        DataError, match=rf"folder .*/ucm does not exist \(relative paths start at {data_folder()}, "
    ):
        read("ucm")
    some = tiles()
    known("ucm", "dataset_UCM.json", "imgs")(tmp_path / "UCM_captions", some)
    assert content_of(read("ucm")) == answer(some)
    shutil.move(tmp_path / "UCM_captions" / "imgs", tmp_path / "elsewhere")
    with pytest.raises(DataError, match=r"holds no images .*looked for images, imgs"):
        read("ucm")
    assert content_of(read("ucm[images=elsewhere]")) == answer(some)
    (tmp_path / "UCM_captions" / "dataset_UCM.json").rename(tmp_path / "UCM_captions" / "mine.json")
    with pytest.raises(DataError, match=r"holds no caption json; looked for dataset_ucm\.json"):
        read("ucm")
    assert content_of(read("ucm[file=mine.json,images=elsewhere]")) == answer(some)


# --- precomp text files -----------------------------------------------------------------------------------------


@pytest.fixture
def lines(tmp_path: Path) -> Callable[..., Domain]:
    """A precomp folder of two tiles in training and one in test, with some of its files replaced."""

    def build(captions_per_image: int = 2, **files: Sequence[str]) -> Domain:
        written = {
            "train_caps": ["a 1", "a 2", "b 1", "b 2"],
            "train_filename": ["a.png", "b.png"],
            "val_caps": ["d 1", "d 2"],
            "val_filename": ["d.png"],
            "test_caps": ["c 1", "c 2"],
            "test_filename": ["c.png", "c.png"],
        } | files
        for name, content in written.items():
            write_lines(tmp_path / f"{name}.txt", content)
        return read(
            Reference(
                "precomp",
                None,
                {"folder": str(tmp_path), "images": "none", "captions_per_image": captions_per_image},
            )
        )

    return build


def test_lists_of_either_form_pair_line_by_line(lines: Callable[..., Domain]) -> None:
    expected = {"a.png": ("train", ["a 1", "a 2"]), "b.png": ("train", ["b 1", "b 2"])}
    rest = {"d.png": ("val", ["d 1", "d 2"]), "c.png": ("test", ["c 1", "c 2"])}
    assert content_of(lines()) == expected | rest
    for names, captions in (
        (["a.png", "a.png", "b.png", "b.png"], ["a 1", "a 2", "b 1", "b 2"]),
        (["a.png", "b.png", "a.png", "b.png"], ["a 1", "b 1", "a 2", "b 2"]),
        (["b'a.png'", 'b"b.png"', " a.png ", "b.png"], ["a 1", "b 1", "a 2", "b 2"]),
    ):
        assert content_of(lines(train_filename=names, train_caps=captions)) == expected | rest


def test_lines_end_at_newlines_alone(lines: Callable[..., Domain]) -> None:
    """Other characters that end lines in some programs stand within captions."""
    odd = ["a\u2028 1", "a\x0c2", "b\x851", "b\x1c\x1d\x1e\x0b2"]
    domain = lines(train_caps=odd)
    assert content_of(domain)["a.png"][1] == odd[:2]
    assert content_of(domain)["b.png"][1] == odd[2:]


def test_blank_captions_leave_their_place(lines: Callable[..., Domain]) -> None:
    domain = lines(train_caps=["", "a 2", " \t", ""])
    assert content_of(domain)["a.png"] == ("train", ["a 2"])
    assert "b.png" not in domain.image_names
    said = [(re.sub(r".*/", "", r.where), r.problem, r.remedy, r.image) for r in domain.repairs]
    assert said == [
        ("train_caps.txt:1", "blank caption", BLANK, "a.png"),
        ("train_caps.txt:3", "blank caption", BLANK, "b.png"),
        ("train_caps.txt:4", "blank caption", BLANK, "b.png"),
        ("train_filename.txt:2", "image without a caption", BLANK, "b.png"),
    ]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"train_caps": ["a 1", "a 2", "b 1"]}, "train_caps.txt has 3 lines and train_filename.txt 2: neither"),
        ({"train_caps": ["a 1", "a 2", "b 1", "b 2", ""]}, "has 5 lines"),
        ({"train_filename": ["a.png"]}, "has 4 lines and train_filename.txt 1"),
        (
            {"train_filename": ["a.png", "a.png"]},
            r"train_filename.txt:1: 'a.png' stands 2 times.*a name per image",
        ),
        ({"train_caps": ["a 1", "b 1"]}, "train_filename.txt:1: 'a.png' stands 1 times.*a name per caption"),
        ({"train_filename": ["a.png", "a.png", "a.png", "b.png"]}, "filename.txt:1: 'a.png' stands 3 times"),
        ({"train_filename": ["a.png", ""]}, "train_filename.txt:2: an image has no name"),
        ({"train_filename": ["a.png", "c.png"]}, "'c.png' stands twice, first in .*train_filename.txt:2"),
        ({"train_filename": ["a.png", "b'b.png"]}, r"train_filename.txt:2: .*is not an image name"),
        ({"train_filename": ["a.png", "b'\\xff.png'"]}, r"train_filename.txt:2: .*is not an image name"),
        ({"train_filename": ["a.png", "b'" + "('" * 5000 + "'"]}, r"train_filename.txt:2: .*is not an image name"),
        ({"train_filename": ["a.png", "b'a'" + "+b'a'" * 5000]}, r"train_filename.txt:2: .*is not an image name"),
        ({"captions_per_image": 3}, "per 3 captions"),
    ],
)
def test_lists_that_do_not_fit_are_refused(
    lines: Callable[..., Domain], files: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        lines(**files)


def test_every_truncation_of_a_list_is_refused_or_harmless(tmp_path: Path) -> None:
    """Cut anywhere, a list gives an error, or at worst a shorter last line; no caption moves to another image."""
    some = tiles(10)
    last = [tile for tile in some if tile.split == "train"][-1]
    for per_image in ((), SPLITS):
        reference = precomp(tmp_path, some, per_image=per_image)
        for name in ("train_caps.txt", "train_filename.txt"):
            whole = (tmp_path / name).read_bytes()
            for cut in range(max(0, len(whole) - 300), len(whole)):
                (tmp_path / name).write_bytes(whole[:cut])
                try:
                    found = content_of(read(reference))
                except DataError:
                    continue
                for image, (split, captions) in found.items():
                    if image not in answer(some):
                        assert last.name.startswith(image)
                    expected = answer(some).get(image, ("train", list(last.captions)))
                    assert split == expected[0]
                    assert captions[:-1] == expected[1][:-1]
                    assert expected[1][-1].startswith(captions[-1])
            (tmp_path / name).write_bytes(whole)


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        (["train_caps"], r"holds train_filename.txt but lacks train_caps.txt"),
        (["train_filename"], r"holds train_caps.txt but lacks train_filename.txt"),
        (["test_caps", "test_filename"], r"lacks test_caps.txt and test_filename.txt"),
        (["val_caps"], r"holds val_filename.txt but lacks val_caps.txt"),
    ],
)
def test_a_list_without_its_partner_is_named(
    lines: Callable[..., Domain], tmp_path: Path, gone: list[str], message: str
) -> None:
    lines()
    for name in gone:
        (tmp_path / f"{name}.txt").unlink()
    with pytest.raises(DataError, match=message):
        read(f"precomp[folder={tmp_path},captions_per_image=2,images=none]")


def test_verify_files_cut_training(tmp_path: Path) -> None:
    some = tiles(30)
    reference = precomp(tmp_path, some, verify=True)
    assert content_of(read(reference)) == answer(some)
    drawn = read(reference, verify=False)
    assert members(drawn, "test") == {tile.name for tile in some if tile.split == "test"}
    assert members(drawn, "train") | members(drawn, "val") == {t.name for t in some if t.split != "test"}
    assert "drawn with seed 0" in drawn.partition
    (tmp_path / "val_caps_verify.txt").unlink()
    with pytest.raises(DataError, match=r"holds val_filename_verify.txt but lacks val_caps_verify.txt"):
        read(reference)
    (tmp_path / "val_filename_verify.txt").unlink()
    with pytest.raises(DataError, match=r"lacks val_caps_verify.txt and val_filename_verify.txt"):
        read(reference)
    assert content_of(read(reference, verify=False)) == content_of(drawn)


def test_other_encodings_are_read_and_noted_as_the_option_says_or_refused(tmp_path: Path) -> None:
    some = tiles(5)
    reference = precomp(tmp_path, some, encoding="gb18030")
    (tmp_path / "val_caps.txt").write_bytes("\ufeff".encode("gb18030") + (tmp_path / "val_caps.txt").read_bytes())
    domain = read(reference)
    assert content_of(domain) == answer(some)
    words = {
        split: f'{tag(number)[9:]}, a "café" by 机场 0'
        for number, split in ((0, "train"), (3, "val"), (4, "test"))
    }
    noted = [(Path(r.where).name, r.problem, r.remedy) for r in domain.repairs]
    assert noted == [
        (f"{split}_caps.txt:1", f"not ASCII: {words[split]!r}", "read as gb18030") for split in SPLITS
    ]
    with pytest.raises(DataError, match=r"train_caps.txt:1: byte 0x\w\w is not UTF-8.*gb18030 reads '.*机场 0'"):
        read(reference, encoding="utf-8")
    (tmp_path / "test_caps.txt").write_bytes(b"a\ncaf\xe9\n" * 5)
    with pytest.raises(DataError, match=r"test_caps.txt:2: byte 0xe9 is not gb18030"):
        read(reference)


FRENCH = "image_name,description,split\na.png,la ville,train\nb.png,une forêt près du collège,val\n"


def test_a_file_in_latin_1_is_not_taken_for_chinese(tmp_path: Path) -> None:
    """Its bytes happen to be valid GB 18030."""
    content = FRENCH.encode("latin-1")
    assert content.decode("gb18030") != FRENCH
    with pytest.raises(DataError) as refused:
        table(tmp_path, content)
    said = str(refused.value)
    assert "t.csv:3: byte 0xea is not UTF-8" in said
    assert "encoding=latin-1 reads '.png,une forêt près du collège,val'" in said
    assert "encoding=gb18030 reads '.png,une for阾 pr鑣" in said
    assert "cp1252" not in said  # it would read the same
    domain = table(tmp_path, content, encoding="latin-1")
    assert list(domain.captions) == ["la ville", "une forêt près du collège"]
    assert [(r.problem, r.remedy) for r in domain.repairs] == [
        ("not ASCII: '.png,une forêt près du collège,val'", "read as latin-1")
    ]


@pytest.mark.parametrize("encoding", ["utf-8", "UTF8", "utf-8-sig", "utf-16", "latin-1", "cp1252"])
def test_the_encoding_that_a_user_names_is_taken(tmp_path: Path, encoding: str) -> None:
    domain = table(tmp_path, FRENCH.encode(encoding), encoding=encoding)
    assert content_of(domain) == content_of(table(tmp_path, FRENCH))
    assert len(domain.repairs) == (0 if encoding.lower().startswith("utf") and "16" not in encoding else 1)


@pytest.mark.parametrize("encoding", ["nonsense", "rot13", "hex", "undefined", "", "utf-8\0"])
def test_what_is_no_encoding_of_texts_is_refused(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(UsageError, match="'encoding' of dataset 'csv': no encoding of texts has this name"):
        table(tmp_path, FRENCH, encoding=encoding)


def test_signs_that_latin_1_lacks_are_said_to_be_of_windows(tmp_path: Path) -> None:
    content = "image_name,description,split\na.png,the city’s port,train\n".encode("cp1252")
    with pytest.raises(DataError, match=r"byte 0x92 .*: encoding=cp1252 reads '.*the city’s port") as refused:
        table(tmp_path, content)
    assert "latin-1" not in str(refused.value)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_a_mark_is_proposed(tmp_path: Path, encoding: str) -> None:
    """Most of its bytes are ASCII beside NUL, and so valid Latin-1; without accents valid UTF-8, too."""
    with pytest.raises(DataError, match=f"t.csv:3: .*encoding={encoding} reads '.png,une forêt") as refused:
        table(tmp_path, FRENCH.encode(encoding))
    assert "latin-1" not in str(refused.value)
    assert content_of(table(tmp_path, FRENCH.encode(encoding), encoding=encoding)) == content_of(
        table(tmp_path, FRENCH)
    )
    with pytest.raises(DataError, match=r"t\.csv:1: no column.* Its NUL bytes look like UTF-16"):
        table(tmp_path, FRENCH.replace("ê", "e").replace("è", "e").encode(encoding))


def proposals(error: object) -> list[str]:
    return re.findall(r"encoding=(\S+) reads", str(error))


@pytest.mark.parametrize("accents", [True, False])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16"])
def test_of_utf_16_the_one_that_it_is_in_is_proposed_alone(tmp_path: Path, encoding: str, accents: bool) -> None:
    text = FRENCH if accents else FRENCH.replace("ê", "e").replace("è", "e")
    with pytest.raises(DataError) as refused:
        table(tmp_path, text.encode(encoding))
    assert proposals(refused.value) == [encoding]
    assert "\0" not in str(refused.value)  # as a column that was meant, say
    assert content_of(table(tmp_path, text.encode(encoding), encoding=encoding)) == content_of(
        table(tmp_path, text)
    )


@pytest.mark.parametrize("end", [b"", b"x"])  # one of them an even number of bytes
def test_a_stray_nul_makes_no_file_utf_16_or_latin_1(tmp_path: Path, end: bytes) -> None:
    content = FRENCH.encode("latin-1").replace(b"la ville", b"la\0ville") + end
    with pytest.raises(DataError, match=r"t\.csv:3: .*take the NUL bytes out, the first in line 2, or") as refused:
        table(tmp_path, content)
    assert proposals(refused.value) == []
    with pytest.raises(DataError, match=r"no column 'split'. It holds NUL bytes; take .* the first in line 1, or"):
        table(tmp_path, FRENCH.replace("split", "sp\0lit"))


@pytest.mark.parametrize("named", ["utf-8", "latin-1"])
@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_lines_and_json_in_utf_16_are_not_taken_for_words(tmp_path: Path, encoding: str, named: str) -> None:
    """A newline of two bytes still ends a line, so that lines pair as they should and hold NUL bytes."""
    file, lines = tmp_path / "f", ["a port", "the city’s park", "a pier"]
    file.write_bytes("".join(f"{line}\n" for line in lines).encode(encoding))
    with pytest.raises(DataError, match=r"/f: .*look like UTF-16; .* reads '") as refused:
        read_lines(file, named)
    assert proposals(refused.value) == [encoding]
    assert read_lines(file, encoding) == lines
    file.write_bytes(json.dumps(lines, indent=1).encode(encoding))
    with pytest.raises(DataError, match=r"/f:1: f is not JSON: .*look like UTF-16") as refused:
        read_json(file, named)
    assert proposals(refused.value) == [encoding]
    with pytest.raises(DataError, match=r"look like UTF-16; convert the file to UTF-8$"):
        read_json(file)


def test_a_mark_of_utf_8_is_no_part_of_a_column(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"t\.csv:1: .*mark of UTF-8; leave encoding=latin-1 out"):
        table(tmp_path, FRENCH.encode("utf-8-sig"), encoding="latin-1")


# --- PIR and HarMA ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({}, "holds no list of rows"),
        ([3], "holds no list of rows"),
        ([{"image": "a.png"}], "row 0 has no 'caption'"),
        ([{"caption": "a"}], "row 0 has no 'image'"),
        ([{"image": "a.png", "caption": "a", "label_name": 3}], "row 0: label_name is 3, not a text"),
        ([{"image": "a.png", "caption": "a", "label_name": float("nan")}], "row 0: label_name is nan, not"),
        ([{"image": "a.png", "caption": "a", "label_name": "\ud83d"}], "row 0: the scene_class .*surrogates"),
        ([{"image": "a.png", "caption": 3}], "row 0: the caption is 3"),
        ([{"image": "a.png", "caption": [["a"]]}], "row 0: the caption is"),
        ([{"image": ["a.png"], "caption": "a"}], "row 0: the image name is"),
        (
            [{"image": "tile.png", "caption": "a"}] * 2 + [{"image": "", "caption": "a"}],
            "row 2: an image has no name",
        ),
        (
            [{"image": "a.png", "caption": "a", "label_name": "port"}, {"image": "a.png", "caption": "b"}],
            r"row 1: image 'a.png' has scene_class None, but 'port' in .*row 0",
        ),
    ],
)
def test_rows_of_pir_that_do_not_fit_are_named(tmp_path: Path, rows: object, message: str) -> None:
    reference = pir(tmp_path, tiles())
    Path(str(reference.options["train"])).write_text(json.dumps(rows))
    with pytest.raises(DataError, match=rf"tiles_train.json.*{message}"):
        read(reference)


def test_an_image_of_pir_is_in_one_split(tmp_path: Path) -> None:
    some = tiles()
    reference = pir(tmp_path, some)
    test = Path(str(reference.options["test"]))
    rows = json.loads(test.read_text())
    write_json(test, [*rows, {**rows[0], "image": some[0].name}])
    with pytest.raises(
        DataError, match=rf"tiles_test.json: row 3: image '{some[0].name}' has split 'test', but 'train'"
    ):
        read(reference)


def test_pir_without_validation_draws_it(tmp_path: Path) -> None:
    some = [replace(tile, split="train" if tile.split == "val" else tile.split) for tile in tiles(30)]
    reference = pir(tmp_path, some)
    options = {key: value for key, value in reference.options.items() if key != "val"}
    domain = read(replace(reference, options=options))
    check(domain)
    assert sizes(domain) == {"train": 19, "val": 5, "test": 6}
    assert domain.attributes["scene_class"] == ["port"] * 30
    assert "seed 0" in domain.partition


# --- csv --------------------------------------------------------------------------------------------------------


def table(folder: Path, text: str | bytes, **options: Any) -> Domain:
    """A csv of this text, without images; all in training unless options say otherwise."""
    file = folder / "t.csv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read(
        Reference(
            "csv", None, {"file": str(file), "images": "none", "split": "given", "split_column": "split"} | options
        )
    )


HEAD = "image_name,description,split\n"


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("image_nam,description,split\n", {}, r"t.csv:1: no column 'image_name'\. Did you mean \"image_nam\"\?"),
        (
            HEAD,
            {"caption_columns": ["title"]},
            r"t.csv:1: no column 'title'\. Known: description, image_name, split",
        ),
        (HEAD, {"class_column": "class"}, "t.csv:1: no column 'class'"),
        ("image_name,description,split,split\n", {}, "t.csv:1: column 'split' stands twice"),
        ("", {}, "t.csv:1: the file is empty; its first line is to name the columns"),
        (" \n", {}, "t.csv:1: the file is empty"),
        (
            '[{"image": "a"}]',
            {},
            r"t.csv:1: JSON, not csv; captions in JSON are read by json\[file=…\] or karpathy",
        ),
        ('{"a": ["x"],"b": ["y"]}', {}, "t.csv:1: JSON, not csv"),
        (",".join(f"c{n:02}" + 99 * "x" for n in range(99)) + "\n", {}, "c00x{56}…, c01x{56}…, .*, and 79 more.$"),
        (HEAD, {}, "no image has a caption"),
        (HEAD + "a.png,a,train\nb.png,b\n", {}, "t.csv:3: 2 fields, but the header names 3"),
        (HEAD + "a.png,a,train\nb.png,b,c,test\n", {}, "t.csv:3: 4 fields, but the header names 3"),
        (HEAD + 'a.png,"a\nb",train\n\nb.png,b\n', {}, "t.csv:5: 2 fields"),
        (
            HEAD + 'a.png,"a,train\nb.png,b,test\n',
            {},
            "t.csv:3: not csv: .*; a quote .* open in line 2, where this",
        ),
        (
            HEAD + '\na.png,a,val\nb.png,"b,val\n\nc.png,"c"',
            {},
            "t.csv:6: not csv: .* a quote .* open in line 4, ",
        ),
        ('image_name,"description\n,split\n', {}, "t.csv:2: not csv: .* a quote .* open in line 1, "),
        (HEAD + 'a.png,"a"b,train\n', {}, "t.csv:2: not csv: ',' expected after '\"'$"),
        (HEAD + "a.png,a,trian\n", {}, "t.csv:2: unknown split 'trian'"),
        (
            HEAD + "a.png,a,train\na.png,b,test\n",
            {},
            "t.csv:3: image 'a.png' has split 'test', but 'train' in .*:2",
        ),
        (HEAD + " ,a,train\n", {}, "t.csv:2: an image has no name"),
        (HEAD + "a.png,a,\n", {}, "nothing says which image is in which split"),
        (HEAD + "../a.png,a,train\n", {"images": "."}, "leads out of"),
        ("image_name\tdescription\tsplit\na\tb,c\n", {"separator": "\t"}, "t.csv:2: 2 fields"),
        (
            "image_name,description,split,lat\na,b,train,north\n",
            {"latitude_column": "lat"},
            "t.csv:2: lat: 'north' is not a",
        ),
        (
            "image_name,description,split,lat\na,b,train,nan\n",
            {"latitude_column": "lat"},
            "t.csv:2: lat: 'nan' is no latitude",
        ),
        (
            "image_name,description,split,lat\na,b,train,91\n",
            {"latitude_column": "lat"},
            "t.csv:2: lat: '91' is no latitude",
        ),
        (
            "image_name,description,split,x\na,b,train,-181\n",
            {"longitude_column": "x"},
            "t.csv:2: x: '-181' is no longitude",
        ),
        (
            "image_name,description,split,m\na,b,train,0\n",
            {"resolution_column": "m"},
            "t.csv:2: m: '0' is no resolution",
        ),
        (
            "image_name,description,split,m\na,b,train,inf\n",
            {"resolution_column": "m"},
            "t.csv:2: m: 'inf' is no resol",
        ),
        (
            b"image_name,description,split\na.png,a,train\nb.png,\xff\xff,test\n",
            {},
            "t.csv:3: byte 0xff is not UTF-8",
        ),
        (HEAD.encode("utf-16"), {}, "t.csv:1: byte 0xff is not UTF-8; .*: encoding=utf-16 reads 'image_name"),
        (HEAD.encode("utf-16-le"), {}, "t.csv:1: no column 'image_name'"),
    ],
)
def test_a_csv_that_does_not_fit_is_named(
    tmp_path: Path, text: str | bytes, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        table(tmp_path, text, **options)


@pytest.mark.parametrize("reader", ["csv", "json"])
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_what_is_no_text_is_said_to_be_what_it_is(tmp_path: Path, reader: str, encoding: str) -> None:
    hub_copy(tmp_path)
    write_files(tmp_path / "book.xlsx.zip", {"xl/workbook.xml": b"<workbook/>"}).rename(tmp_path / "book.xlsx")
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(HEAD.encode()))
    for name, message in (
        ("valid.parquet", r"a parquet file; huggingface\[path=FOLDER\] reads"),
        ("t.csv.gz", "packed by gzip; unpack it"),
        ("book.xlsx", r"a zip, .*\(\.xlsx\).*; save the sheet as csv"),
    ):
        with pytest.raises(DataError, match=f"{name} is no text but {message}"):
            read(Reference(reader, None, {"file": str(tmp_path / name), "images": "none", "encoding": encoding}))


def test_rows_of_one_file_are_of_one_image_however_they_spell_it(tmp_path: Path) -> None:
    domain = table(tmp_path, HEAD + "./a.png,a,train\na.png,b,train\nsub//b.png,c,val\nsub/b.png,d,val\n")
    assert content_of(domain) == {"./a.png": ("train", ["a", "b"]), "sub//b.png": ("val", ["c", "d"])}


def test_all_missing_columns_are_named_at_once(tmp_path: Path) -> None:
    text = "image,title1,title2,split\na.png,a,b,train\n"
    with pytest.raises(DataError) as refused:
        table(tmp_path, text, image_column="image", caption_columns=["title_1", "title_2"], class_column="kind")
    assert str(refused.value).endswith(
        """t.csv:1: no column 'title_1'. Did you mean "title1"? No column 'title_2'. Did you mean "title2"? """
        "No column 'kind'. Known: image, split, title1, title2."
    )


@pytest.mark.parametrize(("separator", "option"), [(";", ";"), ("\t", "tab"), ("|", '"|"')])
def test_another_separator_is_proposed(tmp_path: Path, separator: str, option: str) -> None:
    text = (HEAD + "a.png,a,val\n").replace(",", separator)
    with pytest.raises(
        DataError, match=rf"t.csv:1: the columns are separated by .*; write separator={re.escape(option)}$"
    ):
        table(tmp_path, text)
    chosen = Reference.parse(f"csv[separator={option}]").options
    assert list(table(tmp_path, text, **chosen).captions) == ["a"]
    with pytest.raises(DataError, match=r"separated by ',', not by ';'; write separator=\",\"$"):
        table(tmp_path, HEAD, separator=";")


def test_a_reader_without_the_options_does_not_propose_them(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_bytes(HEAD.replace(",", ";").encode())
    with pytest.raises(DataError, match=r"separated by ';', not by ','; put commas$"):
        list(read_csv(file, ["split"]))
    file.write_bytes(FRENCH.encode("latin-1"))
    with pytest.raises(DataError, match=r"t.csv:3: byte 0xea is not UTF-8; convert the file to UTF-8$"):
        list(read_csv(file, ["split"]))


def test_all_rows_that_do_not_fit_are_named_at_once(tmp_path: Path) -> None:
    rows = [
        "a.png,a,holdout",
        ",b,train",
        "c.png,c",
        "d.png,d,train",
        "d.png,e,test",
        'f.png,"f"f,train',
        "g.png,g,x",
    ]
    with pytest.raises(DataError) as refused:
        table(tmp_path, HEAD + "\n".join(rows) + "\n")
    head, *named = str(refused.value).split("\n")
    assert head == "5 faults:"
    assert [re.sub(r"^ .*/(t.csv:\d+): (.{12}).*", r"\1 \2", line) for line in named] == [
        "t.csv:2 unknown spli",
        "t.csv:3 an image has",
        "t.csv:4 2 fields, bu",
        "t.csv:6 image 'd.png",
        "t.csv:7 not csv: ','",
    ]


def test_of_many_rows_the_first_ten_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as refused:
        table(tmp_path, HEAD + "".join(f"{k}.png,a,trian\n" for k in range(1200)))
    head, *named, last = str(refused.value).split("\n")
    assert (head, len(named), last) == ("1,200 faults:", 10, "  and 1,190 more")


def test_the_files_of_all_splits_are_looked_at(tmp_path: Path) -> None:
    files = {split: str(tmp_path / f"{split}.csv") for split in SPLITS}
    (tmp_path / "train.csv").write_text("image_name,text\n")
    (tmp_path / "test.csv").write_text("image_name,description\n,a\n")
    with pytest.raises(DataError) as refused:
        read(Reference("csv", None, files))
    assert str(refused.value).startswith("3 faults:")
    for said in (
        "train.csv:1: no column 'description'",
        "val.csv does not exist",
        "test.csv:2: an image has no name",
    ):
        assert said in str(refused.value)


@pytest.mark.parametrize("layout", ["karpathy", "pir", "urbancross", "huggingface, saved"])
def test_every_reader_of_rows_names_all_that_do_not_fit(tmp_path: Path, layout: str) -> None:
    some = tiles()
    if layout == "karpathy":
        splits = ["trian", "train", "tset"]
        entries = [{"filename": f"{k}.png", "split": s, "sentences": []} for k, s in enumerate(splits)]
        file = write_json(tmp_path / "d.json", {"images": entries})
        reference, said = Reference("karpathy", None, {"file": str(file)}), ["'trian'", "'tset'"]
    elif layout == "pir":
        reference = pir(tmp_path, some)
        write_json(Path(str(reference.options["train"])), [{"image": "a.png"}, {"caption": "b"}])
        said = ["row 0 has no 'caption'", "row 1 has no 'image'"]
    elif layout == "urbancross":
        reference = write_urbancross_tree(tmp_path, some)
        [file] = (tmp_path / "Finland").glob("*.csv")
        file.write_text("image_name,description\na.png\n,a\n")
        said = [":2: 1 fields", ":3: an image has no name"]
    else:
        reference = hub_copy(tmp_path, filename=["", "b.png", "c.png"], captions=[["a"], [None], ["c"]])
        said = ["row 0: an image has no name", "row 1: the caption is None"]
    with pytest.raises(DataError) as refused:
        read(reference)
    assert str(refused.value).startswith("2 faults:")
    assert all(words in str(refused.value) for words in said)


def test_what_is_wrong_with_a_whole_file_hides_no_rows_of_another(tmp_path: Path) -> None:
    reference = write_urbancross_tree(tmp_path, tiles())
    [file] = (tmp_path / "Finland").glob("*.csv")
    file.write_text('image_name,description\na.png\n,a\nb.png,"open\n')
    with pytest.raises(DataError) as refused:
        read(reference, metadata=str(tmp_path / "nowhere.json"))
    said = str(refused.value)
    assert said.startswith("4 faults:")
    for words in (":2: 1 fields", ":3: an image has no name", "not csv: ", "nowhere.json does not exist"):
        assert words in said


def test_rows_that_stand_twice_are_kept_and_named(tmp_path: Path) -> None:
    text = (
        HEAD + 'a.png,a,train\nb.png,"b\nc",val\na.png,d,train\n\nb.png,"b\nc",val\na.png,a,train\na.png,a,train\n'
    )
    domain = table(tmp_path, text)
    assert list(domain.captions) == ["a", "b\nc", "d", "b\nc", "a", "a"]
    assert [(re.sub(r".*/", "", r.where), r.problem, r.image) for r in domain.repairs] == [
        ("t.csv:8", "line 8 is the same row as line 4", "b.png"),
        ("t.csv:9", "line 9 is the same row as line 2", "a.png"),
        ("t.csv:10", "line 10 is the same row as line 2", "a.png"),
    ]


CITIES = """image_name,description,city,split
a.png,a park,Lyon,train
b.png,a port, Lyon ,val
c.png,a park,New York,val
a.png,again,Lyon,train
c.png,a port,New York,val
d.png,a bridge,,nonsense
"""


def test_a_domain_is_the_rows_that_a_column_gives_to_it(tmp_path: Path) -> None:
    """What is wrong with the rows of others is not its fault."""
    lyon = table(tmp_path, CITIES, domain_column="city", domain="Lyon")
    assert content_of(lyon) == {"a.png": ("train", ["a park", "again"]), "b.png": ("val", ["a port"])}
    assert lyon.name == "Lyon"
    york = table(tmp_path, CITIES, domain_column="city", domain="New York")
    assert content_of(york) == {"c.png": ("val", ["a park", "a port"])}
    for domain in (lyon, york):  # what is nobody's is lost to all of them
        [lost] = domain.repairs
        assert lost.where.endswith("t.csv:7")
        assert (lost.problem, lost.remedy, lost.image) == ("column 'city' says no domain", "left out", "d.png")
    with pytest.raises(DataError, match="'nonsense'"):
        table(tmp_path, CITIES)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"domain": "Lion"},
            r"no row has 'Lion' in column 'city'; its values are Lyon, New York. Did you mean \"Lyon\"\?$",
        ),
        ({"domain": "Graz"}, r"no row has 'Graz' in column 'city'; its values are Lyon, New York.$"),
        (
            {},
            r"t.csv:1: column 'city' says which domain .* choose one by `domain`: its values are Lyon, New York$",
        ),
        ({"domain": "Lyon", "domain_column": "citi"}, r"t.csv:1: no column 'citi'. Did you mean \"city\"\?"),
    ],
)
def test_a_domain_that_no_row_is_of_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        table(tmp_path, CITIES, **{"domain_column": "city"} | options)


def test_of_many_domains_the_first_are_listed(tmp_path: Path) -> None:
    text = "image_name,description,city,split\n" + "".join(f"{k}.png,a,city {k:02d},train\n" for k in range(50))
    with pytest.raises(DataError, match=r"its values are city 00, city 01, .*, city 19, and 30 more$"):
        table(tmp_path, text, domain_column="city")
    with pytest.raises(DataError, match=r"column 'city' .*: it is empty$"):
        table(tmp_path, CITIES.splitlines()[0], domain_column="city")


def test_the_domains_of_one_csv_that_the_page_shows_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parent.parent / "docs" / "datasets.md").read_text(encoding="utf-8")
    [shown] = [block for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "domain_column" in block]
    domains = yaml.safe_load(shown)["domains"]
    some, cities = tiles(30), ["Lyon", "Graz", "New York"]
    rows = [
        {"image_name": tile.name, "description": text, "city": cities[number % 3], "split": tile.split}
        for number, tile in enumerate(some)
        for text in tile.captions
    ]
    write_csv(tmp_path / "cities.csv", rows)
    write_files(tmp_path / "images", files_of(some))
    monkeypatch.setenv("URBANCROSS_DATA", str(tmp_path))
    assert list(domains) == ["lyon", "graz", "new_york"]
    for number, reference in enumerate(domains.values()):
        domain = read(reference)
        check(domain)
        assert content_of(domain) == answer(some[number::3])


def test_a_csv_that_is_not_there_is_named(tmp_path: Path) -> None:
    for file in (tmp_path / "t.csv", tmp_path, Path("x" * 300)):
        with pytest.raises(DataError, match=r"does not exist|cannot be read"):
            read(Reference("csv", None, {"file": str(file), "images": "none"}))


def test_csv_fields_may_hold_anything(tmp_path: Path) -> None:
    captions = ["a, b", 'say "a"', "two\nlines", "cr\rlf\r\nend", "a\u2028 and \x0cb", "café 机场", "a\0b", "=1+1"]
    splits = ["train", "val", "test", ""] * 2
    rows = [
        {"image_name": f"{k}.png", "description": c, "split": s}
        for k, (c, s) in enumerate(zip(captions, splits, strict=True))
    ]
    text = write_csv(tmp_path / "w.csv", rows, quoted=True).read_bytes()
    for content in (text, b"\xef\xbb\xbf" + text, text + b"\n\n"):
        domain = table(tmp_path, content)
        assert list(domain.captions) == captions
        assert list(domain.image_names) == [f"{k}.png" for k in range(len(captions))]


def test_a_quote_left_open_that_takes_in_a_row_is_noted(tmp_path: Path) -> None:
    rows = ['y.jpg\t"open\ttest', 'z.jpg\tclosed"\ttest', "a.jpg\tone line\ttest"]
    domain = table(tmp_path, "\n".join([HEAD.strip().replace(",", "\t"), *rows]), separator="tab")
    [note] = domain.repairs
    assert (note.image, note.remedy, note.where) == ("y.jpg", "kept", f"{tmp_path / 't.csv'}:3")
    assert note.problem == r"caption over several fields and lines: 'open\ttest\nz.jpg\tclosed'"


def test_a_csv_may_end_its_lines_either_way(tmp_path: Path) -> None:
    text = HEAD + "a.png,a 1,train\nb.png,b 1,val\n"
    expected = content_of(table(tmp_path, text))
    for end in ("\r\n", "\r"):
        assert content_of(table(tmp_path, text.replace("\n", end))) == expected


def test_blank_fields_of_a_csv_are_noted(tmp_path: Path) -> None:
    columns = {"caption_columns": ["title", "more"]}
    text = "image_name,title,more,split\na.png,a,,train\nb.png,, ,train\nc.png,,c,val\n"
    domain = table(tmp_path, text, **columns)
    assert content_of(domain) == {"a.png": ("train", ["a"]), "c.png": ("val", ["c"])}
    said = [(re.sub(r".*/", "", r.where), r.problem, r.image) for r in domain.repairs]
    assert said == [
        ("t.csv:2", "blank caption", "a.png"),
        ("t.csv:3", "blank caption", "b.png"),
        ("t.csv:3", "blank caption", "b.png"),
        ("t.csv:4", "blank caption", "c.png"),
        ("t.csv:3", "image without a caption", "b.png"),
    ]


def test_columns_become_attributes(tmp_path: Path) -> None:
    text = (
        "filepath,title,title_multi_objects,split,class,lat,lon,gsd,tags\n"
        "images2/a100011518_FI_17.jpg,a road,a road and a river,train,road,60.2,24.9,0.5,highway of service\n"
        "images2/w7_S2_21.jpg,a port,,val,,,,,\n"
    )
    domain = table(
        tmp_path,
        text,
        image_column="filepath",
        caption_columns=["title", "title_multi_objects"],
        class_column="class",
        latitude_column="lat",
        longitude_column="lon",
        resolution_column="gsd",
        tags_column="tags",
    )
    assert content_of(domain) == {
        "images2/a100011518_FI_17.jpg": ("train", ["a road", "a road and a river"]),
        "images2/w7_S2_21.jpg": ("val", ["a port"]),
    }
    assert domain.attributes == {
        "country": ["FI", None],
        "year": [2017, 2021],
        "scene_class": ["road", None],
        "latitude": [60.2, None],
        "longitude": [24.9, None],
        "resolution": [0.5, None],
        "tags": ["highway of service", None],
    }


def test_rows_of_one_image_must_agree(tmp_path: Path) -> None:
    text = "image_name,description,split,lat\na.png,a,val,60\na.png,b,val,{}\n"
    assert len(table(tmp_path, text.format("60.0"), latitude_column="lat").captions) == 2
    with pytest.raises(DataError, match=r"t.csv:3: image 'a.png' has latitude 61.0, but 60.0 in .*t.csv:2"):
        table(tmp_path, text.format("61"), latitude_column="lat")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give either `file`, or `train` and `test`"),
        ({"file": "a", "train": "b"}, "give either"),
        ({"file": "a", "val": "b"}, "give either"),
        ({"train": "b"}, "`train` and `test` go together"),
        ({"val": "b"}, "`train` and `test` go together"),
        ({"file": "a", "separator": ";;"}, "separator"),
        ({"file": "a", "domain": "Lyon"}, "name the column by `domain_column`"),
        ({"file": "a", "domain_column": "city", "domain": ""}, "domain"),
        ({"file": "a", "caption_columns": []}, "caption_columns"),
        ({"file": "a", "image_colum": "b"}, "image_column"),
        ({"file": "a", "split": "blocks", "distance_km": 20}, "distance_km must be smaller"),
    ],
)
def test_options_of_csv_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read(Reference("csv", None, options))


@pytest.mark.parametrize("separator", ['"', "\n", "\r", "a", " ", "\0"])
def test_no_separator_makes_a_crash(tmp_path: Path, separator: str) -> None:
    with pytest.raises(DataError):
        table(tmp_path, HEAD + "x.png,b,train\n", separator=separator)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "val_list.txt").unlink(), "lacks val_list.txt"),
        (lambda d: [file.unlink() for file in d.glob("*_list.txt")], "holds no split lists"),
        (
            lambda d: edit(d / "test_list.txt", "tile_004", "tile_005"),
            r"test_list.txt:1: no image is called 'tile_005_",
        ),
        (lambda d: write_lines(d / "val_list.txt", [tiles()[3].name] * 2), r"val_list.txt:2: .* stands in line 1"),
        (
            lambda d: (d / "train_list.txt").write_bytes(b"\xff\xff"),
            "train_list.txt:1: byte 0xff is not UTF-8; convert",
        ),
        (lambda d: (d / "train_list.txt").write_bytes(b""), "train"),
    ],
)
def test_split_lists_that_do_not_fit_are_named(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    reference = csv_lists(tmp_path, tiles())
    damage(tmp_path)
    with pytest.raises(DataError, match=message):
        check(read(reference))


def test_lists_that_are_not_there_are_not_passed_over(tmp_path: Path) -> None:
    reference = csv_captions(tmp_path, tiles())
    with pytest.raises(DataError, match=r"folder .*list does not exist"):
        read(reference, lists=str(tmp_path / "list"))


def test_lists_take_the_place_of_a_split_column_and_may_leave_images_out(tmp_path: Path) -> None:
    some = tiles()
    reference = csv_captions(tmp_path, some)
    write_lists(tmp_path, some[:10])
    domain = read(reference, lists=str(tmp_path))
    check(domain)
    assert len(domain.image_names) == 15
    assert {split: members(domain, split) for split in SPLITS} == {
        split: {tile.name for tile in some[:10] if tile.split == split} for split in SPLITS
    }


# --- copies of the hub, image folders ---------------------------------------------------------------------------


def test_a_copy_of_the_hub_may_have_other_columns(tmp_path: Path) -> None:
    import datasets

    some = tiles()
    parts = {}
    for split in SPLITS:
        part = hub_table(some, split, label=[tile.tag for tile in some if tile.split == split])
        parts[split] = part.rename_columns({"filename": "name", "captions": "texts", "image": "picture"})
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    reference = Reference("huggingface", None, {"path": str(tmp_path / "saved")})
    with pytest.raises(
        DataError,
        match=r"split 'train': no column 'image'\. No column 'captions'\. Known: label, name, picture, texts",
    ):
        read(reference)
    given = {
        "image_column": "picture",
        "caption_column": "texts",
        "filename_column": "name",
        "class_column": "label",
    }
    domain = read(reference, **given)
    assert content_of(domain) == answer(some)
    assert domain.attributes["scene_class"] == [Path(name).stem for name in domain.image_names]
    with pytest.raises(DataError, match=r"no column 'label2'\. Did you mean \"label\"\?"):
        read(reference, **given | {"class_column": "label2"})
    numbered = datasets.ClassLabel(names=["airport", "beach"])
    for split, part in parts.items():
        numbers = [[0, 1, -1][row % 3] for row in range(len(part))]
        parts[split] = part.remove_columns("label").add_column("label", numbers).cast_column("label", numbered)
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "numbered"))
    classes = read(Reference("huggingface", None, {"path": str(tmp_path / "numbered")}), **given).attributes
    assert set(classes["scene_class"]) == {"airport", "beach", None}
    nameless = read(reference, **given | {"filename_column": None})
    assert set(content_of(nameless)) == {
        f"{split}-{number:07d}" for split in SPLITS for number in range(sum(t.split == split for t in some))
    }


def hub_copy(folder: Path, **columns: Any) -> Reference:
    """A parquet file of three rows, with some of its columns replaced."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = {
        "filename": ["a.png", "b.png", "c.png"],
        "captions": [["a"], ["b"], ["c"]],
        "image": [{"bytes": encoded(tile.pixels), "path": None} for tile in tiles(3)],
    } | columns
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(rows), folder / "valid.parquet")
    return Reference("huggingface", None, {"path": str(folder)})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"filename": ["a.png", "b.png", "a.png"]},
            r"row 2: image 'a.png' stands twice, first in .*row 0; the pict",
        ),
        ({"filename": ["a.png", None, "c.png"]}, "row 1: the image name is None"),
        ({"filename": [1, 2, 3]}, "row 0: the image name is 1"),
        ({"filename": ["a.png", "", "c.png"]}, "row 1: an image has no name"),
        ({"captions": [["a"], [None], ["c"]]}, "row 1: the caption is None"),
        ({"captions": ["a", None, "c"]}, "row 1: the caption is None"),
        ({"captions": [[1], [2], [3]]}, "row 0: the caption is 1"),
        ({"image": [1, 2, 3]}, "cannot be read"),
    ],
)
def test_rows_of_a_copy_that_do_not_fit_are_named(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(hub_copy(tmp_path, **columns))


def test_a_copy_may_have_one_caption_a_row_and_blanks_around_names(tmp_path: Path) -> None:
    reference = hub_copy(tmp_path, captions=["a", " ", "c"], filename=[" a.png", "b.png", "c.png "])
    domain = read(reference)
    assert content_of(domain) == {"a.png": ("val", ["a"]), "c.png": ("val", ["c"])}
    np.testing.assert_array_equal(domain.images.read(1), tiles(3)[2].pixels)
    with pytest.raises(DataError, match="no image is in split 'train'"):
        check(domain)


def test_each_column_of_images_has_contents_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the files of two columns are of one size and one time, as an archive may unpack them."""
    import datasets

    monkeypatch.setattr("urbancross_datasets.huggingface.signature", lambda path: "size and times")
    some = tiles()
    other = [replace(tile, pixels=255 - tile.pixels) for tile in some]
    parts = {}
    for split in SPLITS:
        columns: dict[str, Any] = {"nir": hub_table(other, split)["image"]}
        for name, images in (("rgb_file", some), ("nir_file", other)):
            files = files_of(tile for tile in images if tile.split == split)
            write_files(tmp_path / name, files)
            columns[name] = [{"bytes": None, "path": str(tmp_path / name / file)} for file in files]
        parts[split] = hub_table(some, split, **columns)
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    for first, second in (("image", "nir"), ("rgb_file", "nir_file")):
        one, two = (
            fingerprints(read(f"huggingface[path={tmp_path}/saved,image_column={column}]"))
            for column in (first, second)
        )
        assert not {*one} & {*two}


def rows_of(some: Sequence[Tile], split: str, **columns: Any) -> Any:
    """A table with a row, and the image in it, for each caption."""
    import datasets

    pairs = [(tile, text) for tile in some if tile.split == split for text in tile.captions]
    content = {
        "filename": [tile.name for tile, _ in pairs],
        "captions": [text for _, text in pairs],
        "image": [{"bytes": encoded(tile.pixels), "path": None} for tile, _ in pairs],
        **columns,
    }
    return datasets.Dataset.from_dict(content).cast_column("image", datasets.Image())


@pytest.mark.parametrize("how", ["named", "by file", "unnamed"])
def test_rows_of_one_picture_are_one_image_with_several_captions(tmp_path: Path, how: str) -> None:
    import datasets

    some = tiles(captions=3)
    some.append(replace(some[0], split="test", name="copy.png", captions=("a copy",)))  # a leak stays one
    parts = {}
    for split in SPLITS:
        part = rows_of(some, split)
        if how == "by file":
            cells = [
                {"bytes": cell["bytes"], "path": name}
                for cell, name in zip(
                    part.cast_column("image", datasets.Image(decode=False))["image"], part["filename"], strict=True
                )
            ]
            part = rows_of(some, split, image=cells)
        parts[split] = part if how == "named" else part.remove_columns("filename")
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "saved"))
    domain = read(f"huggingface[path={tmp_path}/saved]")
    assert len(domain.image_names) == len(some)
    found = content_of(domain)
    for index, name in enumerate(domain.image_names):
        owner = next(tile for tile in some if (tile.split, list(tile.captions)) == found[name])
        assert name == owner.name or how == "unnamed"
        np.testing.assert_array_equal(domain.images.read(index), owner.pixels)


def test_one_file_or_name_in_two_spellings_is_one_image(tmp_path: Path) -> None:
    some = tiles(2)
    write_files(tmp_path / "copy", {f"i/{name}": content for name, content in files_of(some).items()})
    first, second = (f"i/{tile.name}" for tile in some)
    paths = [first, f"./{first}", second.replace("/", "//")]
    reference = hub_copy(tmp_path / "copy", image=paths, captions=["a", "b", "c"])
    domain = read(reference, filename_column=None, split="given")
    assert content_of(domain) == {some[0].name: ("val", ["a", "b"]), some[1].name: ("val", ["c"])}
    cells = [{"bytes": encoded(some[number].pixels), "path": None} for number in (0, 0, 1)]
    named = hub_copy(
        tmp_path / "named", image=cells, filename=["./a.png", "a.png", "c.png"], captions=["a", "b", "c"]
    )
    assert content_of(read(named)) == {"./a.png": ("val", ["a", "b"]), "c.png": ("val", ["c"])}


def test_a_picture_in_two_splits_is_not_said_to_be_another(tmp_path: Path) -> None:
    import datasets

    rows = {"filename": ["x.png"] * 2, "captions": ["a", "b"]}
    rows["image"] = [{"bytes": encoded(tiles(1)[0].pixels), "path": None}] * 2  # type: ignore[assignment]
    table = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    datasets.DatasetDict({"train": table, "test": table}).save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(
        DataError, match=r"split 'test', row 0: image 'x.png' stands twice, first in .*row 0"
    ) as told:
        read(f"huggingface[path={tmp_path}/saved]")
    assert "differ" not in str(told.value)


def test_where_splits_are_drawn_it_does_not_count_what_files_call_them(tmp_path: Path) -> None:
    import datasets

    some = tiles(30, captions=1)
    write_files(tmp_path / "images", files_of(some))
    datasets.DatasetDict({"full": hub_table(some, some[0].split)}).save_to_disk(str(tmp_path / "saved"))
    rows = "".join(f"{tile.name},{tile.tag},training\n" for tile in some)
    (tmp_path / "t.csv").write_text(HEAD + rows, encoding="utf-8")
    entries = [{"filename": tile.name, "sentences": [{"raw": tile.captions[0]}]} for tile in some]
    (tmp_path / "k.json").write_text(json.dumps({"images": entries}), encoding="utf-8")
    place = f"images={tmp_path}/images"
    for reference in (
        f"huggingface[path={tmp_path}/saved]",
        f"csv[file={tmp_path}/t.csv,split_column=split,{place}]",
        f"karpathy[file={tmp_path}/k.json,{place}]",
    ):
        with pytest.raises(DataError, match=r"unknown split|lacks 'split'"):
            read(reference)
        drawn = read(reference, split="drawn")
        assert [*drawn.splits] == [*SPLITS]
        assert all(len(indices) for indices in drawn.splits.values())


def test_rows_of_several_captions_and_no_name_are_an_image_each(tmp_path: Path) -> None:
    """Two files may hold one picture, and a row for each image says so by its list of captions."""
    cells = [{"bytes": encoded(tiles(1)[0].pixels), "path": None}] * 3
    assert len(read(hub_copy(tmp_path, image=cells), filename_column=None).image_names) == 3
    named = [dict(cell, path=f"{number}.png") for number, cell in enumerate(cells)]
    assert (
        len(read(hub_copy(tmp_path, image=named, captions=["a", "b", "c"]), filename_column=None).image_names) == 3
    )


def test_a_row_without_an_image_is_missing(tmp_path: Path) -> None:
    content = encoded(tiles(1)[0].pixels)
    cells = [{"bytes": content, "path": "x"}, None, {"bytes": None, "path": "sub/relative.png"}]
    domain = read(hub_copy(tmp_path, image=cells))
    assert domain.images.missing() == {1: "the row holds no image", 2: "no such file: sub/relative.png"}
    gone = [{"bytes": None, "path": path} for path in ("/nowhere/a.png", "/" + "x" * 3000, "/a\0.png")]
    elsewhere = read(hub_copy(tmp_path / "gone", image=gone))
    assert elsewhere.images.missing() == dict.fromkeys(range(3), "no such file")
    for index in range(3):
        for call in (elsewhere.images.read, elsewhere.images.digest):
            with pytest.raises(DataError, match="gone"):
                call(index)
    for index, message in ((1, "the row holds no image"), (2, r"sub/relative\.png cannot be read")):
        with pytest.raises(DataError, match=message):
            domain.images.read(index)


@pytest.mark.parametrize("place", [None, "elsewhere", "elsewhere.zip"])
def test_rows_may_name_files_below_the_folder_or_below_images(tmp_path: Path, place: str | None) -> None:
    """As pandas writes them: a path for each row, and rows of one path are of one image."""
    some = tiles(3)
    write_files(tmp_path / (place or "copy"), {f"i/{name}": content for name, content in files_of(some).items()})
    paths = [f"i/{tile.name}" for tile in (*some, some[0])]
    captions = [tile.tag for tile in (*some, some[0])]
    options = {"split": "given"} | ({"images": str(tmp_path / place)} if place else {})
    reference = hub_copy(tmp_path / "copy", image=paths, captions=captions, filename=[*"abca"])
    for named, names in (({}, [*"abc"]), ({"filename_column": None}, [tile.name for tile in some])):
        domain = read(reference, **options, **named)
        assert list(domain.image_names) == names
        assert domain.images.missing() == {}
        assert content_of(domain)[names[0]] == ("val", [some[0].tag] * 2)
        for index, tile in enumerate(some):
            assert tile.name in domain.images.where(index)  # type: ignore[attr-defined]
            np.testing.assert_array_equal(domain.images.read(index), tile.pixels)
    cells = [{"bytes": encoded(some[0].pixels), "path": None}, {"bytes": None, "path": paths[1]}, None]
    mixed = read(hub_copy(tmp_path / "copy", image=cells), **options)
    assert mixed.images.missing() == {2: "the row holds no image"}
    for index in range(2):
        np.testing.assert_array_equal(mixed.images.read(index), some[index].pixels)
    with pytest.raises(DataError, match=r"image name 'i/\.\./\.\./x\.png' leads out of "):
        read(hub_copy(tmp_path / "copy", image=["i/../../x.png"] * 3), **options)


def test_files_that_rows_name_are_kept_apart_by_their_digests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where files of two folders are of one size and one time, and called alike."""
    monkeypatch.setattr("urbancross_bench.data.images.signature", lambda path: "size and times")
    some = tiles(3)
    for name, images in (("a", some), ("b", [replace(tile, pixels=255 - tile.pixels) for tile in some])):
        write_files(tmp_path / name, files_of(images))
    reference = hub_copy(tmp_path / "copy", image=[tile.name for tile in some])
    first, second = (read(reference, images=str(tmp_path / name)).images for name in "ab")
    assert all(first.digest(index) != second.digest(index) for index in range(3))


def test_images_that_stand_in_rows_are_left_aside_or_not_looked_for_elsewhere(tmp_path: Path) -> None:
    some = tiles()
    for reference in (saved(tmp_path, some), imagefolder(tmp_path, some)):
        domain = read(reference, images="none")
        assert content_of(domain) == answer(some)
        with pytest.raises(DataError, match=r"15 of 15 images are missing.*opened without images"):
            check(domain)
        for place in (str(tmp_path / "nowhere"), str(tmp_path)):
            with pytest.raises(DataError, match=f"no row names a file to look for in images={place}: .*; leave"):
                read(reference, images=place)
    relative = hub_copy(tmp_path / "copy", image=["a.png", "b.png", "c.png"])
    with pytest.raises(DataError, match=r"images .*/nowhere: there is no such folder or zip"):
        read(relative, images=str(tmp_path / "nowhere"), split="given")
    domain = read(relative, images=str(tmp_path), split="given")
    said = said_missing(domain.images, domain.images.missing(), domain.image_names)
    assert said == f"3 of 3 images are missing, 'a.png' the first (no such file: a.png); looked in {tmp_path}"


def test_a_copy_that_is_named_by_its_file_is_to_be_named_by_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("URBANCROSS_DATA", str(tmp_path))
    hub_copy(tmp_path / "copy")
    for path, folder in (("copy/valid.parquet", "copy"), (f"{tmp_path}/copy/valid.parquet", f"{tmp_path}/copy")):
        with pytest.raises(DataError, match=rf"valid\.parquet is a file; write path={folder}, its folder"):
            read(f"huggingface[path={path}]")


def test_a_copy_that_is_damaged_is_named(tmp_path: Path) -> None:
    reference = saved(tmp_path, tiles())
    arrow = next((tmp_path / "saved" / "train").glob("*.arrow"))
    whole = arrow.read_bytes()
    for content in (b"", whole[:100], whole[: len(whole) // 2], b"\xff" * len(whole)):
        arrow.write_bytes(content)
        with pytest.raises(DataError, match="saved"):
            read(reference)
    arrow.unlink()
    with pytest.raises(DataError, match="cannot be loaded by `datasets`"):
        read(reference)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cannot be loaded by `datasets`"):
        read(f"huggingface[path={tmp_path}/empty]")


def test_a_table_whose_offsets_lead_astray_is_refused(tmp_path: Path) -> None:
    """What is mapped from disk is looked at by nobody else before it is used as places of texts in memory."""
    reference = saved(tmp_path, tiles())
    arrow = next((tmp_path / "saved" / "train").glob("*.arrow"))
    content, length = arrow.read_bytes(), len(tiles()[0].name)
    names = np.arange(10, dtype=np.int32) * length
    assert names.tobytes() in content
    for place, astray in ((5, 1), (9, 10**6), (3, -1)):
        offsets = names.copy()
        offsets[place] = astray
        arrow.write_bytes(content.replace(names.tobytes(), offsets.tobytes()))
        with pytest.raises(DataError, match=r"saved, split 'train' cannot be read: .*offset"):
            read(reference)


def test_a_name_on_the_hub_is_refused_without_trying_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[object] = []

    def no_network(*place: object, **_: object) -> None:
        tried.append(place)
        raise OSError("no network")

    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    for name in ("getaddrinfo", "create_connection"):
        monkeypatch.setattr(socket, name, no_network)
    with pytest.raises(DataError, match=r"somebody/rsicd cannot be loaded .*download=true to fetch it"):
        read("huggingface[path=somebody/rsicd]")
    for path in ("rsicd", "a/b/c"):
        with pytest.raises(
            DataError, match=rf"folder .* does not exist \(relative paths start at {data_folder()}, "
        ):
            read(f"huggingface[path={path}]")
    with pytest.raises(DataError, match="does not exist"):
        read("imagefolder[path=somebody/rsicd]")
    assert tried == []


def test_reading_a_copy_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import datasets

    datasets.enable_progress_bars()
    reference = imagefolder(tmp_path, tiles())
    capfd.readouterr()
    read(reference)
    assert capfd.readouterr() == ("", "")
    assert not datasets.are_progress_bars_disabled()


def test_verifying_trusts_no_copy_that_datasets_keeps(tmp_path: Path) -> None:
    """A caption rewritten under the same size and time: `datasets` gives the old one, unless told not to."""
    reference, old, new = imagefolder(tmp_path, tiles()), "caption 0 of", "caption O of"
    assert any(text.startswith(old) for text in read(reference).captions)
    for file in tmp_path.rglob("metadata.jsonl"):
        stat = file.stat()
        file.write_text(file.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with reading(verify=True):
        captions = read(reference).captions
    assert any(text.startswith(new) for text in captions)
    assert not any(text.startswith(old) for text in captions)


def test_a_first_line_of_null_is_named(tmp_path: Path) -> None:
    """pyarrow would end the process."""
    reference = imagefolder(tmp_path, tiles())
    file = min(tmp_path.rglob("metadata.jsonl"))
    file.write_text("\nnull\n" + file.read_text(encoding="utf-8"), encoding="utf-8")
    with pytest.raises(DataError, match=r"metadata\.jsonl, line 2 begins with null"):
        read(reference)
    with pytest.raises(DataError, match=r"metadata\.jsonl, line 2 begins with null"):
        read(f"huggingface[path={tmp_path}/tiles]")
    file.write_text("\ufeff" + file.read_text(encoding="utf-8").replace("null\n", ""), encoding="utf-8")
    assert read(reference).captions
    for name, content in (("a.ndjson", 'null {"a": 1}\n'), ("a.json", "null\n")):
        write_files(tmp_path / name, {name: content.encode()})
        with pytest.raises(DataError, match=f"{name}, line 1 begins with null"):
            read(f"huggingface[path={tmp_path / name}]")


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """`train/1.png` and `test/1.png` are two images; so are `a/1.png` and `b/1.png` of one split."""
    some = tiles(4)
    for split, tile in zip(("train", "valid", "test"), some, strict=False):
        write_files(tmp_path / "t" / split, {"1.png": encoded(tile.pixels)})
        write_csv(tmp_path / "t" / split / "metadata.csv", [{"file_name": "1.png", "captions": tile.tag}])
    domain = read(f"imagefolder[path={tmp_path}/t]")
    assert {name: texts for name, (_, texts) in content_of(domain).items()} == {
        f"{split}/1.png": [tile.tag] for split, tile in zip(("train", "validation", "test"), some, strict=False)
    }
    write_files(tmp_path / "t" / "train", {"sub/1.png": encoded(some[3].pixels)})
    rows = [
        {"file_name": n, "captions": t.tag} for n, t in (("1.png", some[0]), ("sub/1.png", some[3])) for _ in "12"
    ]
    write_csv(tmp_path / "t" / "train" / "metadata.csv", rows)
    domain = read(f"imagefolder[path={tmp_path}/t]")
    assert len(domain.image_names) == 4
    for index, name in enumerate(domain.image_names):
        texts = content_of(domain)[name][1]
        owner = next(tile for tile in some if tile.tag == texts[0])
        assert set(texts) == {owner.tag}
        np.testing.assert_array_equal(domain.images.read(index), owner.pixels)


def test_an_image_of_a_folder_that_changed_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where its modification time stays, which is all that `datasets` looks at."""
    monkeypatch.setattr("urbancross_bench.data.index._SETTLED", 0)
    some = tiles()
    reference = imagefolder(tmp_path, some)
    first = read(reference)
    index = list(first.image_names).index(some[0].name)
    before = first.images.digest(index)
    file = next((tmp_path / "tiles").rglob(some[0].name))
    times = file.stat()
    file.write_bytes(encoded(some[1].pixels))
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    again = read(reference)
    assert again.images.digest(index) != before
    np.testing.assert_array_equal(again.images.read(index), some[1].pixels)


# --- UrbanCross -------------------------------------------------------------------------------------------------


def segments_by_image(domain: Domain) -> dict[str, list[int]]:
    """Of each image the numbers that its segments carry in their pixels."""
    assert domain.segments is not None
    found: dict[str, list[int]] = {}
    for index, image in enumerate(domain.segments.image_of_segment.tolist()):
        pixels = domain.segments.images.read(index)
        owner, number, mark = pixels[0, 0].tolist()
        assert (pixels == (owner, number, mark)).all()
        assert domain.image_names[image] == tiles(30)[owner].name
        found.setdefault(domain.image_names[image], []).append(number)
    return found


@pytest.mark.parametrize("lists", [True, False])
def test_urbancross_reads_the_same_from_folders_and_zips(tmp_path: Path, lists: bool) -> None:
    some = tiles(20)
    kinds: dict[str, dict[str, Any]] = {"folder": {}, "zip": {"zipped": True}}
    kinds["zip with a folder"] = {"zipped": True, "prefix": "finland/data/"}
    domains = {
        name: read(write_urbancross_tree(tmp_path / name, some, lists=lists, **options))
        for name, options in kinds.items()
    }
    shutil.copy(tmp_path / "zip" / "Finland" / "images.zip", tmp_path / "zip" / "elsewhere.zip")
    domains["zip elsewhere"] = read(
        f"urbancross/finland[folder={tmp_path}/zip,images={tmp_path}/zip/elsewhere.zip]"
    )
    first = domains["folder"]
    for domain in domains.values():
        check(domain)
        assert domain.image_names == first.image_names == [tile.name for tile in some]
        assert {n: texts for n, (_, texts) in content_of(domain).items()} == {t.name: [*t.captions] for t in some}
        assert fingerprints(domain) == fingerprints(first)
        assert domain.captions_generated
        assert not domain.overlapping
        assert domain.segments is not None
        assert domain.segments.caption_aware
        assert segments_by_image(domain) == {tile.name: [0, 1, 2] for tile in some}
        owners = domain.segments.image_of_segment.tolist()
        assert owners == [image for image in range(20) for _ in range(3)]
    if lists:
        assert content_of(first) == answer(some)


def test_segments_are_in_order_of_their_numbers_however_they_lie(tmp_path: Path) -> None:
    some = tiles(5)
    pieces = segments_of(some, count=12)
    expected = {tile.name: list(range(12)) for tile in some}
    orders = {"straight": list(pieces), "reversed": list(pieces)[::-1]}
    orders["shuffled"] = np.random.default_rng(0).permutation(list(pieces)).tolist()
    for zipped in (False, True):
        for name, order in orders.items():
            shuffled = {piece: pieces[piece] for piece in order}
            home = tmp_path / f"{name} {zipped}"
            domain = read(
                write_urbancross_tree(home, some, segments=shuffled, zipped=zipped, lists=True), split="given"
            )
            assert segments_by_image(domain) == expected
            assert domain.segments is not None
            assert domain.segments.image_of_segment.tolist() == [image for image in range(5) for _ in range(12)]


def test_segments_of_other_images_and_other_files_are_not_taken(tmp_path: Path) -> None:
    some = tiles(15)
    pieces = {name: pixels for name, pixels in segments_of(some).items() if some[4].tag not in name}
    reference = write_urbancross_tree(tmp_path, some, segments=pieces)
    place = tmp_path / "Finland" / "image_segments"
    tag = some[0].tag
    others = [
        "stranger/stranger_1.png",
        f"{tag}/readme.txt",
        f"{tag}/{tag}.png",
        f"{tag}/{tag}_x.png",
        "Thumbs.db",
        f"{tag}_7.png",
        f"{tag}/{some[1].tag}_8.png",
        f"{tag}/{tag}_{'9' * 200}.png",
        f"{tag}/._{tag}_1.png",
    ]
    write_files(place, dict.fromkeys(others, b"x"))
    write_files(place, {os.fsdecode(b"caf\xe9/caf\xe9_1.png"): b"x"})
    assert segments_by_image(read(reference)) == {t.name: [0, 1, 2] for t in some if t is not some[4]}


def test_segments_below_a_further_folder_are_read(tmp_path: Path) -> None:
    """As unpacking a zip that has a folder of its own leaves them."""
    some = tiles(15)
    reference = write_urbancross_tree(tmp_path, some)
    place = tmp_path / "Finland" / "image_segments"
    place.rename(tmp_path / "inner")
    place.mkdir()
    (tmp_path / "inner").rename(place / os.fsdecode(b"d\xe9compress"))
    domain = read(reference)
    assert segments_by_image(domain) == {tile.name: [0, 1, 2] for tile in some}
    assert domain.segments is not None
    assert len({domain.segments.images.digest(index) for index in range(45)}) == 45


def test_segments_that_may_belong_to_two_images_are_refused(tmp_path: Path) -> None:
    some = tiles(15)
    twin = replace(some[1], name=f"other/{some[0].tag}.png", split="train")
    reference = write_urbancross_tree(tmp_path / "a", [*some, twin])
    with pytest.raises(DataError, match=f"{some[0].tag}_0.png' may be cut from '{some[0].name}' and 'other/"):
        read(reference)
    pieces = segments_of(some)
    pieces[f"{some[0].tag}/{some[0].tag}_01.png"] = pieces[f"{some[0].tag}/{some[0].tag}_1.png"]
    for zipped in (False, True):
        reference = write_urbancross_tree(tmp_path / f"b {zipped}", some, segments=pieces, zipped=zipped)
        with pytest.raises(DataError, match="have the same number"):
            read(reference)


def test_a_country_may_come_without_segments(tmp_path: Path) -> None:
    reference = write_urbancross_tree(tmp_path, tiles(15))
    place = tmp_path / "Finland" / "image_segments"
    shutil.rmtree(place)
    assert read(reference).segments is None
    place.symlink_to(tmp_path / "unmounted")
    with pytest.raises(DataError, match="image_segments"):
        read(reference)
    place.unlink()
    place.write_text("not a zip")
    with pytest.raises(DataError, match="image_segments cannot be read"):
        read(reference)


def test_without_lists_one_partition_is_drawn_and_kept(tmp_path: Path) -> None:
    some = tiles(40)
    reference = write_urbancross_tree(tmp_path, some, zipped=True)
    domain = read(reference)
    check(domain)
    assert sizes(domain) == {"train": 28, "val": 4, "test": 8}
    assert set.union(*(members(domain, split) for split in SPLITS)) == {tile.name for tile in some}
    assert "seed 0" in domain.partition
    for same in (
        read(reference, split="drawn"),
        read(reference, captions_generated=False),
        read(reference, images=str(tmp_path / "Finland" / "images.zip")),
    ):
        assert fingerprints(same) == fingerprints(domain)
    rows = write_urbancross_tree(tmp_path / "turned", some[::-1])
    assert {split: members(read(rows), split) for split in SPLITS} == {s: members(domain, s) for s in SPLITS}
    other = read(reference, split_seed=1)
    assert members(other, "test") != members(domain, "test")
    assert "seed 1" in other.partition
    # The second scheme of the scripts: tested on the first scheme's test items, or on its own.
    finetune, zeroshot = read(reference, lists="finetune"), read(reference, lists="zeroshot")
    check(finetune)
    check(zeroshot)
    assert finetune.overlapping
    assert not zeroshot.overlapping
    assert fingerprints(finetune)[2] == fingerprints(domain)[2]
    assert sizes(finetune) == {"train": 8, "val": 4, "test": 8}
    assert sizes(zeroshot) == {"train": 8, "val": 4, "test": 28}
    assert fingerprints(finetune)[:2] == fingerprints(zeroshot)[:2]


def test_lists_are_taken_as_they_are(tmp_path: Path) -> None:
    some = tiles(20)
    reference = write_urbancross_tree(tmp_path, some, lists=True)
    home, names = tmp_path / "Finland", [tile.name for tile in some]
    assert content_of(read(reference)) == answer(some)
    drawn = read(reference, split="drawn")
    assert "drawn with seed 0" in drawn.partition
    assert content_of(drawn) != answer(some)
    write_lines(home / "finetune_list.txt", names[2:6])
    with pytest.raises(DataError, match=r"finetune_val_list\.txt"):
        read(reference, lists="finetune")
    write_lines(home / "finetune_val_list.txt", names[:2])
    finetune = read(reference, lists="finetune")
    check(finetune)
    assert finetune.overlapping
    assert {s: members(finetune, s) for s in SPLITS} == {
        "train": {*names[2:6]},
        "val": {*names[:2]},
        "test": {tile.name for tile in some if tile.split == "test"},
    }
    assert names[4] in members(finetune, "train") & members(finetune, "test")
    write_lines(home / "zeroshot_list.txt", names[6:], end="\r\n")
    zeroshot = read(reference, lists="zeroshot")
    check(zeroshot)
    assert members(zeroshot, "test") == {*names[6:]}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: shutil.rmtree(d), "holds no folder Finland; looked for Finland, finland"),
        (lambda d: shutil.rmtree(d.parent), "does not exist"),
        (lambda d: (d / "instructblip_generation_finland_refine.csv").unlink(), "holds no refined captions"),
        (lambda d: swap_for_folder(d / "instructblip_generation_finland_refine.csv"), "refine.csv cannot be read"),
        (lambda d: (d / "images.zip").unlink(), r"holds no images .*looked for images, images\.zip"),
        (lambda d: (d / "images.zip").write_bytes(b"PK"), r"zip .*images\.zip cannot be read"),
        (lambda d: (d / "val_list.txt").unlink(), r"val_list\.txt"),
        (
            lambda d: edit(d / "test_list.txt", "tile_004_", "tile_999_"),
            r"test_list\.txt:1: no image is called 'tile_999_",
        ),
        (
            lambda d: edit(d / "instructblip_generation_finland_refine.csv", "description", "caption"),
            "'description'",
        ),
        (
            lambda d: edit(d / "instructblip_generation_finland_refine.csv", "tile_000_", "tile_0_"),
            "images are missing",
        ),
    ],
)
def test_damage_to_a_country_is_named(tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
    reference = write_urbancross_tree(tmp_path / "u", tiles(15), zipped=True, lists=True)
    damage(tmp_path / "u" / "Finland")
    with pytest.raises(DataError, match=message):
        check(read(reference))


def test_names_and_metadata_of_skyscript_tell_where_and_when(tmp_path: Path) -> None:
    names = ["a100011518_FI_17.png", "w7_DE_21.png", "n1_S2_09.png", *(tile.name for tile in tiles(15)[3:])]
    some = renamed(tiles(15), names)
    reference = write_urbancross_tree(tmp_path, some)
    assert read(reference).attributes == {
        "country": ["FI", "DE", *[None] * 13],
        "year": [2017, 2021, 2009, *[None] * 12],
    }
    meta = {
        "a100011518_FI_17": {
            "bbox": [24.9, 60.0, 25.1, 60.2],
            "center_tags": {"amenity": "school", "building": "yes"},
            "surrounding_tags": [{"highway": "service"}, {"highway": "service"}, {"landuse": "grass"}],
        },
        "w7_DE_21.png": {"bbox": [13.0, 52.0, 13.2, 52.2], "center_tags": {"natural": "water"}},
        "stranger": {},
    }
    file = write_json(tmp_path / "meta.json", meta)
    domain = read(reference, metadata=str(file))
    facts = {key: list(values[:3]) for key, values in domain.attributes.items()}
    assert facts["latitude"] == [pytest.approx(60.1), pytest.approx(52.1), None]
    assert facts["longitude"] == [pytest.approx(25.0), pytest.approx(13.1), None]
    assert facts["tags"] == [
        "amenity of school, building of yes; surrounded by highway of service, landuse of grass",
        "natural of water",
        None,
    ]
    # A fifth of a degree of latitude, against as much of longitude at 60 degrees.
    assert facts["extent"][0] == pytest.approx(0.2 * 111_195, rel=1e-3)
    meta["a100011518_FI_17"]["bbox"] = [1, 2, 3]  # type: ignore[assignment]
    write_json(file, meta)
    with pytest.raises(DataError, match=r"meta\.json: entry 'a100011518_FI_17\.png' lacks or garbles"):
        read(reference, metadata=str(file))
    write_json(file, [])
    with pytest.raises(DataError, match=r"meta\.json holds a list"):
        read(reference, metadata=str(file))
    write_json(file, {"images": [{"filename": "a100011518_FI_17.png"}]})
    with pytest.raises(
        DataError, match=r"meta\.json has no entry for any of 15 images, .* its keys are 'images'; Sky"
    ):
        read(reference, metadata=str(file))


def test_integration_is_the_three_countries(tmp_path: Path) -> None:
    for country in ("finland", "germany", "spain"):
        write_urbancross_tree(tmp_path, tiles(15), country=country)
    expanded = Registry.discover().expand("dataset", f"urbancross/integration[folder={tmp_path}]")
    assert [read(reference).name for reference in expanded] == ["finland", "germany", "spain"]


# --- text files -------------------------------------------------------------------------------------------------

any_text = st.text(st.characters(codec="utf-8"), max_size=12)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("text") / "f"


@given(texts=st.lists(any_text.filter(lambda t: "\n" not in t and "\r" not in t)), crlf=st.booleans())
def test_lines_come_back_one_for_one(scratch: Path, texts: list[str], crlf: bool) -> None:
    write_lines(scratch, texts, end="\r\n" if crlf else "\n")
    expected = [texts[0].removeprefix("\ufeff"), *texts[1:]] if texts else []
    assert read_lines(scratch) == expected


@given(rows=st.lists(st.tuples(any_text, any_text), min_size=1), separator=st.sampled_from(",;\t|"))
def test_rows_of_a_csv_come_back_as_they_were(scratch: Path, rows: list[tuple[str, str]], separator: str) -> None:
    write_csv(scratch, [{"a": a, "b": b} for a, b in rows], separator, quoted=True)
    found = list(read_csv(scratch, ["a", "b"], separator))
    assert [(row["a"], row["b"]) for _, row in found] == rows
    text = scratch.read_bytes().decode()
    last = [line for line, _ in found]
    assert last == sorted(last)
    assert last[-1] <= len(re.split(r"\r\n|\r|\n", text))


@given(st.binary(max_size=20))
def test_wrapped_names_are_unwrapped(name: bytes) -> None:
    try:
        expected = name.decode()
    except UnicodeDecodeError:
        with pytest.raises(DataError, match=r"f:1: .* is not an image name"):
            unwrap(repr(name), "f:1")
        return
    assert unwrap(f" {name!r} ", "f:1") == expected


@pytest.mark.parametrize("name", ["a.png", "b.png", "b", "'a.png'", "bb'a'"])
def test_other_names_stay(name: str) -> None:
    assert unwrap(f"{name}\t", "f:1") == name


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | any_text,
        lambda inner: st.lists(inner) | st.dictionaries(any_text, inner),
        max_leaves=8,
    )
)
def test_json_comes_back_as_it_was(scratch: Path, content: object) -> None:
    assert read_json(write_json(scratch, content)) == content


# --- real files -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "mini").is_dir(), reason=f"no real images at {SHARED}")
@pytest.mark.parametrize("lists", [True, False])
def test_real_tiles_in_urbancross_form_read_the_same(tmp_path: Path, lists: bool) -> None:
    """The mini domains as countries, with made segments, from folders and from zips."""
    sources = dict(zip(("finland", "germany"), ("ucm_mini", "rsicd_mini"), strict=True))
    for country, source in sources.items():
        home = tmp_path / "folder" / country.capitalize()
        shutil.copytree(SHARED / "mini" / source / "images", home / "images")
        file = home / f"instructblip_generation_{country}_refine.csv"
        shutil.copy(SHARED / "mini" / source / "captions_urbancross_style.csv", file)
        for name in (f"{split}_list.txt" for split in SPLITS if lists):
            shutil.copy(SHARED / "mini" / source / name, home)
        for index, image in enumerate(sorted((home / "images").iterdir())):
            for number in (0, 2, 10):
                piece = np.full((4, 4, 3), (index % 256, index // 256, number), np.uint8)
                write_files(home / "image_segments", {f"{image.stem}/{image.stem}_{number}.png": encoded(piece)})
        packed = tmp_path / "zip" / country.capitalize()
        packed.mkdir(parents=True)
        for path in home.iterdir():
            if path.is_file():
                shutil.copy(path, packed)
        for part in ("images", "image_segments"):
            with zipfile.ZipFile(packed / f"{part}.zip", "w") as opened:
                for path in sorted((home / part).rglob("*"), reverse=True):
                    if path.is_file():
                        opened.write(path, path.relative_to(home).as_posix())
        folder = read(f"urbancross/{country}[folder={tmp_path}/folder]")
        zipped = read(f"urbancross/{country}[folder={tmp_path}/zip]")
        check(folder)
        check(zipped)
        assert fingerprints(folder) == fingerprints(zipped)
        assert folder.image_names == zipped.image_names
        assert folder.segments is not None
        assert zipped.segments is not None
        owners = folder.segments.image_of_segment
        assert (owners == zipped.segments.image_of_segment).all()
        order = sorted(folder.image_names)
        for index, image in enumerate(owners.tolist()):
            expected = order.index(folder.image_names[image])
            for domain in (folder, zipped):
                assert domain.segments is not None
                found = domain.segments.images.read(index)[0, 0].tolist()
                assert found == [expected % 256, expected // 256, (0, 2, 10)[index % 3]]
        published = json.loads((SHARED / "mini" / source / "dataset.json").read_text())["images"]
        assert {n: texts for n, (_, texts) in content_of(folder).items()} == {
            entry["filename"]: [s["raw"].strip() for s in entry["sentences"]] for entry in published
        }
        if lists:
            assert {n: split for n, (split, _) in content_of(folder).items()} == {
                entry["filename"]: entry["split"] for entry in published
            }


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "samples").is_dir(), reason=f"no SkyScript samples at {SHARED}")
def test_real_skyscript_tiles_tell_where_and_when(tmp_path: Path) -> None:
    meta = json.loads((SHARED / "samples" / "skyscript_meta.json").read_text())
    names = sorted(path.name for path in (SHARED / "samples" / "skyscript_images").iterdir())
    home = tmp_path / "Finland"
    shutil.copytree(SHARED / "samples" / "skyscript_images", home / "images")
    write_csv(
        home / "instructblip_generation_finland_refine.csv",
        [{"image_name": n, "description": f"of {n}"} for n in names],
    )
    file = SHARED / "samples" / "skyscript_meta.json"
    domain = read(f"urbancross/finland[folder={tmp_path},metadata={file}]")
    check(domain)
    assert len(domain.image_names) == 20
    assert sum(value is not None for value in domain.attributes["latitude"]) == len(meta) == 10
    for index, name in enumerate(domain.image_names):
        entry, source, year = meta.get(Path(name).stem), *Path(name).stem.split("_")[1:]
        facts = {key: values[index] for key, values in domain.attributes.items()}
        if entry is None:
            assert facts["latitude"] is facts["tags"] is None
            continue
        west, south, east, north = entry["bbox"]
        assert west < facts["longitude"] < east
        assert south < facts["latitude"] < north
        assert facts["year"] == 2000 + int(year)
        assert facts["country"] == (source if source != "S2" else None)
        for key, value in entry["center_tags"].items():
            assert f"{key} of {value}" in facts["tags"].split("; surrounded by ")[0]
        assert ("surrounded by" in facts["tags"]) == bool(entry["surrounding_tags"])
        assert domain.images.read(index).shape[2] == 3


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "precomp").is_dir(), reason=f"no text files at {SHARED}")
@pytest.mark.parametrize(("name", "blank"), [("rsicd", 0), ("rsitmd", 20)])
def test_real_precomp_files_pair_as_a_plain_loop_pairs_them(name: str, blank: int) -> None:
    folder = SHARED / "precomp" / f"{name}_precomp"
    domain = read(f"precomp[folder={folder},images=none]")
    found, blanks = content_of(domain), 0
    for split, suffix in (("train", "_verify"), ("val", "_verify"), ("test", "")):
        captions = (folder / f"{split}_caps{suffix}.txt").read_bytes().decode().split("\n")[:-1]
        owners = (folder / f"{split}_filename{suffix}.txt").read_bytes().decode().split("\n")[:-1]
        if len(captions) == 5 * len(owners):
            owners = [owner for owner in owners for _ in range(5)]
        assert len(owners) == len(captions)
        expected: dict[str, list[str]] = {}
        for owner, caption in zip(owners, captions, strict=True):
            owner = owner.strip()
            owner = owner[2:-1] if owner.startswith("b'") else owner
            expected.setdefault(owner, [])
            if caption.strip():
                expected[owner].append(caption.strip())
            blanks += not caption.strip()
        kept = {owner: (split, texts) for owner, texts in expected.items() if texts}
        assert {n: value for n, value in found.items() if value[0] == split} == kept
    assert blanks == blank == sum(repair.problem == "blank caption" for repair in domain.repairs)


def test_a_path_that_no_file_system_holds_is_named() -> None:
    for reference in (f"karpathy[file={'x' * 300}/d.json]", f"rsicd[folder={'x' * 300}]"):
        with pytest.raises(DataError, match=r"name too long"):
            read(reference)
