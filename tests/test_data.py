"""From rows to a domain, and the check of a domain: whole data passes, what is incoherent is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import write_karpathy
from data_files import read
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from urbancross_bench.data.builder import DomainBuilder
from urbancross_bench.data.domain import check, split_of
from urbancross_bench.data.images import NoImages
from urbancross_bench.errors import DataError
from urbancross_bench.interfaces import Domain, Repair


@pytest.fixture
def domain(tmp_path: Path) -> Domain:
    return read(f"karpathy[file={write_karpathy(tmp_path / 'd')}]")


# --- splits and the check ---------------------------------------------------------------------------------------


def test_splits_are_cut_in_the_order_of_the_file(domain: Domain, tmp_path: Path) -> None:
    check(domain)
    entries = json.loads((tmp_path / "d" / "dataset.json").read_text())["images"]
    for name in ("train", "val", "test"):
        split = split_of(domain, name)
        expected = [e for e in entries if e["split"] == name]
        assert split.image_names == [e["filename"] for e in expected]
        pairs = [(split.image_names[i], c) for i, c in zip(split.image_of_caption, split.captions, strict=True)]
        assert pairs == [(e["filename"], s["raw"]) for e in expected for s in e["sentences"]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"splits": {"train": np.arange(24)}},
            r"no image is in split 'val'; the option `split=drawn`.* draws all",
        ),
        ({"splits": {"train": np.arange(24)}, "given": False}, r"no image is in split 'val'$"),
        (
            {"splits": {"train": np.arange(8), "val": np.arange(8, 16), "test": np.arange(16, 24), "dev": [0]}},
            "unknown",
        ),
        ({"splits": {"train": np.arange(8), "val": np.array([7, 8]), "test": np.array([9])}}, "1 images.*d_007"),
        (
            {"splits": {"train": np.array([0, 0]), "val": np.array([1]), "test": np.array([2])}},
            "names an image twice",
        ),
        ({"splits": {"train": np.array([0]), "val": np.array([1]), "test": np.array([24])}}, r"leaves \[0, 24\)"),
        ({"splits": {"train": np.array([0]), "val": np.array([1]), "test": np.array([-1])}}, r"leaves \[0, 24\)"),
        ({"image_names": ["a"] * 24}, "stand twice"),
        ({"captions": ["", *["x"] * 47]}, r"1 captions are blank, one of 'd_000\.png'"),
        ({"image_of_caption": np.zeros(48, dtype=np.int64)}, r"23 images have no caption, 'd_001\.png' the first"),
        ({"image_of_caption": np.full(48, 99)}, "belongs to no image"),
        ({"image_of_caption": np.zeros(3, dtype=np.int64)}, "shape"),
        ({"attributes": {"latitude": [1.0]}}, "attribute 'latitude' has 1 values for 24 images"),
        ({"images": NoImages(["a"] * 24)}, "24 of 24 images are missing.*opened without images"),
    ],
)
def test_an_incoherent_domain_is_refused(domain: Domain, change: dict[str, object], message: str) -> None:
    check(domain)
    with pytest.raises(DataError, match=message):
        check(replace(domain, **change))  # type: ignore[arg-type]


def test_splits_that_say_so_may_share_images(domain: Domain) -> None:
    splits = {"train": np.arange(20), "val": np.arange(20, 22), "test": np.arange(10, 24)}
    check(replace(domain, splits=splits, overlapping=True))


def test_the_fingerprint_follows_content(domain: Domain, tmp_path: Path) -> None:
    before = split_of(domain, "train").fingerprint
    assert split_of(replace(domain, name="other"), "train").fingerprint == before
    captions = list(domain.captions)
    captions[0] += "!"
    assert split_of(replace(domain, captions=captions), "train").fingerprint != before
    Image.new("RGB", (20, 20)).save(tmp_path / "d" / "images" / "d_000.png")
    changed = read(f"karpathy[file={tmp_path / 'd' / 'dataset.json'}]")
    assert split_of(changed, "train").fingerprint != before


def test_a_digest_that_is_no_text_names_its_class(domain: Domain) -> None:
    class Numbered:
        def digest(self, index: int) -> int:
            return index

    split = split_of(replace(domain, images=Numbered()), "train")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"^Numbered\.digest must give text, a hash, not 0"):
        split.fingerprint  # noqa: B018


# --- the builder ------------------------------------------------------------------------------------------------

texts = st.text(st.characters(codec="utf-8"), max_size=6)
rows = st.lists(
    st.tuples(
        st.sampled_from(["a.png", "b.png", "dir/c.png", "d.png"]), st.sampled_from(["train", "test", ""]), texts
    )
)


@given(rows)
def test_a_row_per_caption_gives_what_a_plain_loop_gives(some: list[tuple[str, str, str]]) -> None:
    """Names, order, pairs, splits, what is left out, and when it is an error."""
    owner: dict[str, str] = {}
    for name, split, _ in some:
        owner.setdefault(name, split)
    clash = any(owner[name] != split for name, split, _ in some)
    captioned = {name for name, _, text in some if text.strip()}

    def build() -> Domain:
        builder = DomainBuilder("d")
        for number, (name, split, text) in enumerate(some):
            builder.caption(builder.row(name, split, f"f:{number}"), text, f"f:{number}")
        return builder.build(NoImages)

    if clash or not captioned:
        with pytest.raises(DataError, match="has split" if clash else "no image has a caption"):
            build()
        return
    built = build()
    assert list(built.image_names) == [name for name in owner if name in captioned]
    pairs = [(built.image_names[i], text) for i, text in zip(built.image_of_caption, built.captions, strict=True)]
    assert pairs == [(name, text.strip()) for name, _, text in some if text.strip()]
    said = {built.image_names[i]: split for split, members in built.splits.items() for i in members}
    assert said == {name: owner[name] for name in captioned if owner[name]}
    left_out = [repair.image for repair in built.repairs if repair.problem == "image without a caption"]
    assert left_out == [name for name in owner if name not in captioned]
    blank = [repair.where for repair in built.repairs if repair.problem == "blank caption"]
    assert blank == [f"f:{number}" for number, (_, _, text) in enumerate(some) if not text.strip()]


def test_captions_without_a_word_are_kept_and_noted() -> None:
    builder = DomainBuilder("d")
    image = builder.image("a.png", "train", "f:1")
    for text in ("...", " 42 ", "a word", "机场"):
        builder.caption(image, text, "f:1")
    built = builder.build(NoImages)
    assert built.captions == ["...", "42", "a word", "机场"]
    assert built.repairs == (
        Repair("f:1", "caption '...' has no word", "kept", "a.png"),
        Repair("f:1", "caption '42' has no word", "kept", "a.png"),
    )


def test_attributes_follow_their_images() -> None:
    builder = DomainBuilder("d")
    for name, facts in (("a", {"year": 2017}), ("bare", {}), ("b", {"country": "FI"}), ("c", {"year": 2019})):
        image = builder.row(name, "train", name, **facts)
        builder.caption(image, "" if name == "bare" else name, name)
    assert builder.build(NoImages).attributes == {"year": [2017, None, 2019], "country": [None, "FI", None]}
    with pytest.raises(DataError, match=r"image 'a' has resolution 0.5, but None in a"):
        builder.row("a", "train", "f:9", resolution=0.5)


@pytest.mark.parametrize("value", [None, 3, 2.5, True, ["a"], {"a": 1}, b"a", "\ud800"])
def test_what_is_no_text_is_refused(value: Any) -> None:
    builder = DomainBuilder("d")
    calls: list[Callable[[], object]] = [
        lambda: builder.image(value, "train", "f:7"),
        lambda: builder.row(value, "train", "f:7"),
        lambda: builder.caption(0, value, "f:7"),
    ]
    builder.image("a.png", "train", "f:1")
    for call in calls:
        with pytest.raises(DataError, match=r"^f:7: the (image name|caption)"):
            call()


def test_image_names_are_stripped_and_stand_once() -> None:
    builder = DomainBuilder("d")
    assert builder.image(" a.png\t", "train", "f:1") == 0
    assert builder.row("a.png ", "train", "f:2") == 0
    with pytest.raises(
        DataError, match=r"f:3: image 'a.png' stands twice, first in f:1; put all its captions there"
    ):
        builder.image("a.png", "train", "f:3")
    for name in ("./a.png", ".//a.png"):
        assert builder.row(name, "train", "f:3") == 0
        with pytest.raises(DataError, match=r"f:3: image .* stands twice, first in f:1"):
            builder.image(name, "train", "f:3")
    for blank in ("", "  \n"):
        with pytest.raises(DataError, match="f:4: an image has no name"):
            builder.row(blank, "train", "f:4")
