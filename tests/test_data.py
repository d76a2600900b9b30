"""Reading, checking, packing: whole data passes, damaged data is named."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import write_karpathy
from PIL import Image

from urbancross_bench.data.domain import check, split_of
from urbancross_bench.data.pack import PackedSplit, pack
from urbancross_bench.data.readers import FolderImages, read_karpathy
from urbancross_bench.errors import DataError
from urbancross_bench.interfaces import Domain, ImageFormat


@pytest.fixture
def domain(tmp_path: Path) -> Domain:
    return read_karpathy("d", write_karpathy(tmp_path / "d"), tmp_path / "d" / "images")


def test_a_karpathy_file_is_read(domain: Domain, tmp_path: Path) -> None:
    check(domain)
    entries = json.loads((tmp_path / "d" / "dataset.json").read_text())["images"]
    for name in ("train", "val", "test"):
        split = split_of(domain, name)
        expected = [e for e in entries if e["split"] == name]
        assert split.image_names == [e["filename"] for e in expected]
        pairs = [(split.image_names[i], c) for i, c in zip(split.image_of_caption, split.captions, strict=True)]
        assert pairs == [(e["filename"], s["raw"]) for e in expected for s in e["sentences"]]


def test_restval_is_train_and_blank_sentences_are_left_out(tmp_path: Path) -> None:
    file = write_karpathy(tmp_path / "d")
    content = json.loads(file.read_text())
    content["images"][0]["split"] = "restval"
    content["images"][0]["sentences"].append({"raw": "  "})
    file.write_text(json.dumps(content))
    domain = read_karpathy("d", file, file.parent / "images")
    check(domain)
    assert domain.splits[0] == "train"
    assert len(domain.captions) == 48


def swap(file: Path, old: str, new: str) -> None:
    file.write_text(file.read_text().replace(old, new, 1))


def swap_for_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: f.write_text("{not json"), r"dataset\.json is not JSON"),
        (lambda f: f.write_bytes(b"\xff\xfe{"), r"dataset\.json is not JSON"),
        (lambda f: f.write_text("[]"), r"dataset\.json holds a list"),
        (lambda f: f.write_text('{"images": []}'), r'dataset\.json holds no list "images"'),
        (lambda f: f.write_text('{"images": [{"filename": "a.png", "split": "train"}]}'), "entry 0.*sentences"),
        (lambda f: f.write_text("[" * 100_000), "is not JSON"),
        (lambda f: swap(f, '"d_000.png"', "null"), "entry 0.*a string: None"),
        (lambda f: swap(f, '"a red place ."', "null"), "entry 0.*a string: None"),
        (lambda f: swap(f, "a red place .", "\\ud800"), "entry 0.*surrogates"),
        (lambda f: swap(f, "d_000.png", "../d_000.png"), "leads out of the image folder"),
        (lambda f: swap(f, "d_000.png", "/d_000.png"), "leads out of the image folder"),
        (lambda f: swap_for_folder(f.parent / "images" / "d_000.png"), r"lacks 1 of 24 images, d_000\.png"),
        (lambda f: f.unlink(), r"dataset\.json does not exist"),
        (lambda f: (f.parent / "images" / "d_003.png").unlink(), r"lacks 1 of 24 images, d_003\.png"),
        (lambda f: (f.parent / "images").rename(f.parent / "pictures"), "images does not exist"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    file = write_karpathy(tmp_path / "d")
    damage(file)
    with pytest.raises(DataError, match=message):
        read_karpathy("d", file, file.parent / "images")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"splits": ["train"] * 24}, "no image is in split 'val'"),
        ({"splits": ["train"] * 23 + ["dev"]}, "unknown splits"),
        ({"image_names": ["a"] * 24}, "stand twice"),
        ({"captions": ["", *["x"] * 47]}, r"1 captions are blank, one of 'd_000\.png'"),
        ({"image_of_caption": np.zeros(48, dtype=np.int64)}, r"23 images have no caption, 'd_001\.png' the first"),
        ({"image_of_caption": np.full(48, 99)}, "belongs to no image"),
        ({"image_of_caption": np.zeros(3, dtype=np.int64)}, "shape"),
        ({"attributes": {"latitude": [1.0]}}, "attribute 'latitude' has 1 values for 24 images"),
    ],
)
def test_an_incoherent_domain_is_refused(domain: Domain, change: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        check(replace(domain, **change))  # type: ignore[arg-type]


def test_packing_decodes_once_and_keeps_pixels(domain: Domain, tmp_path: Path) -> None:
    split = split_of(domain, "val")
    seen: list[float] = []
    packed = pack(split, ImageFormat(20), seen.append)
    assert seen[-1] == 1.0
    for position, name in enumerate(split.image_names):
        with Image.open(tmp_path / "d" / "images" / name) as image:
            assert (packed.images[position] == np.asarray(image)).all()
    resized = pack(split, ImageFormat(8, "bilinear"), seen.append)
    with Image.open(tmp_path / "d" / "images" / split.image_names[0]) as image:
        assert (resized.images[0] == np.asarray(image.resize((8, 8), Image.Resampling.BILINEAR))).all()
    packed.save(tmp_path)
    loaded = PackedSplit.load(tmp_path)
    assert (loaded.images == packed.images).all()
    assert (loaded.image_names, loaded.captions) == (packed.image_names, packed.captions)
    assert (loaded.image_of_caption == packed.image_of_caption).all()


def test_a_truncated_image_is_named(domain: Domain, tmp_path: Path) -> None:
    path = tmp_path / "d" / "images" / split_of(domain, "test").image_names[1]
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=f"{path.name} cannot be decoded"):
        pack(split_of(domain, "test"), ImageFormat(8), lambda _: None)


def test_every_image_mode_becomes_rgb(tmp_path: Path) -> None:
    modes = ("L", "P", "RGBA", "CMYK", "1", "I;16")
    for mode in modes:
        Image.new(mode, (4, 4)).save(tmp_path / f"{mode.replace(';', '')}.tif")
    images = FolderImages(tmp_path, [f"{mode.replace(';', '')}.tif" for mode in modes])
    assert {images.read(i).shape for i in range(len(modes))} == {(4, 4, 3)}


def test_the_fingerprint_follows_content(domain: Domain, tmp_path: Path) -> None:
    before = split_of(domain, "train").fingerprint
    assert split_of(replace(domain, name="other"), "train").fingerprint == before
    captions = list(domain.captions)
    captions[0] += "!"
    assert split_of(replace(domain, captions=captions), "train").fingerprint != before
    Image.new("RGB", (20, 20)).save(tmp_path / "d" / "images" / "d_000.png")
    assert split_of(domain, "train").fingerprint != before
