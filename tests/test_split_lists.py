"""Partitions drawn and kept as split lists: what is written is what is read back, and nothing else is written."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Result
from data_files import read as read_domain
from hypothesis import given, settings
from hypothesis import strategies as st

from urbancross_bench.data.images import NoImages
from urbancross_bench.data.splits import (
    SCHEMES,
    draw_lists,
    drawn,
    has_lists,
    listed,
    with_validation,
    write_lists,
)
from urbancross_bench.errors import DataError
from urbancross_bench.interfaces import Domain, index_splits
from urbancross_bench.interfaces.dataset import Repair

Cli = Callable[..., Result]

# Any text that a reader takes for a name, so without blanks around it, and some that no list can hold.
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
names_lists = st.lists(texts.map(str.strip).filter(bool), min_size=10, max_size=40, unique=True)
LISTS = ("train_list", "val_list", "test_list", "finetune_list", "finetune_val_list", "zeroshot_list")


def domain_of(names: list[str], **facts: object) -> Domain:
    owners = np.arange(len(names))
    return Domain("d", names, {}, ["x"] * len(names), owners, NoImages(names), **facts)  # type: ignore[arg-type]


def names_of(domain: Domain) -> dict[str, set[str]]:
    return {split: {domain.image_names[i] for i in members} for split, members in domain.splits.items()}


def files_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir()) if folder.exists() else []


@given(names_lists, st.integers(-(2**40), 2**40), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_what_is_drawn_depends_on_names_and_seed_alone(names: list[str], seed: int, random: object) -> None:
    lists = draw_lists(names, seed)
    shuffled = list(names)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert draw_lists(shuffled, seed) == lists
    for group in (LISTS[:3], LISTS[3:]):
        assert sorted(name for which in group for name in lists[which]) == sorted(names)
    shares = dict(zip(LISTS, (0.7, 0.1, 0.2, 0.2, 0.1, 0.7), strict=True))
    for which, share in shares.items():
        assert lists[which]
        assert abs(len(lists[which]) - share * len(names)) <= 1


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 8])
def test_too_few_images_are_refused(count: int) -> None:
    with pytest.raises(DataError, match=f"{count} images are too few to draw splits from"):
        draw_lists([str(index) for index in range(count)], 0)


def test_fewer_than_ten_images_are_drawn_from_where_no_list_is_empty() -> None:
    lists = draw_lists([str(index) for index in range(9)], 0)
    assert [len(lists[which]) for which in LISTS] == [6, 1, 2, 2, 1, 6]


def test_no_list_is_empty_from_ten_images_on() -> None:
    for count in range(10, 200):
        assert all(draw_lists([str(index) for index in range(count)], 0).values())


def test_the_two_schemes_overlap_by_a_fifth_of_the_test_list() -> None:
    """As the released scripts do, which draw them by shuffles of their own."""
    names = [f"a{index}_FI_17.jpg" for index in range(10_000)]
    lists = draw_lists(names, 0)
    assert [len(lists[which]) for which in LISTS] == [7000, 1000, 2000, 2000, 1000, 7000]
    # Hypergeometric: mean 400, standard deviation 16.
    assert 0.17 < len({*lists["test_list"]} & {*lists["finetune_list"]}) / 2000 < 0.23
    assert drawn(domain_of(names), 0, "finetune").overlapping
    assert not drawn(domain_of(names), 0, "zeroshot").overlapping
    marks = {scheme: drawn(domain_of(names), 0, scheme).mark for scheme in SCHEMES}
    assert marks["partition"] == ""
    assert all(f"{scheme} lists" in marks[scheme] for scheme in ("finetune", "zeroshot"))


@given(names=names_lists, seed=st.integers(0, 99))
@settings(deadline=None)
def test_lists_are_read_back_as_they_were_drawn_or_refused(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], seed: int
) -> None:
    folder, domain = tmp_path_factory.mktemp("lists"), domain_of(names)
    schemes = {scheme: drawn(domain, seed, scheme) for scheme in SCHEMES}
    if any("\n" in name or name.startswith("\ufeff") for name in names):
        with pytest.raises(DataError, match="cannot stand in a split list"):
            write_lists(folder / "out", schemes, {})
        assert files_in(folder / "out") == []
        return
    record = write_lists(folder / "out", schemes, {"seed": seed})
    assert files_in(folder / "out") == sorted([*(f"{which}.txt" for which in LISTS), "splits.json"])
    for scheme, written in schemes.items():
        read = listed(domain, folder / "out", scheme)
        assert {name: s.tolist() for name, s in read.splits.items()} == {
            name: s.tolist() for name, s in written.splits.items()
        }
        assert read.overlapping == written.overlapping
        assert read.partition.endswith(f" of out: {written.partition}")
    assert json.loads((folder / "out" / "splits.json").read_text()) == record
    for which, facts in record["lists"].items():
        content = (folder / "out" / f"{which}.txt").read_bytes()
        assert facts == {"images": content.count(b"\n"), "sha256": hashlib.sha256(content).hexdigest()}


@pytest.mark.parametrize("name", ["a\nb.jpg", "a\r\nb.jpg", " a.jpg", "a.jpg\t", "\ufeffa.jpg", ""])
def test_a_name_that_a_list_cannot_hold_is_refused(tmp_path: Path, name: str) -> None:
    domain = domain_of([name, *(f"{index}.jpg" for index in range(9))])
    with pytest.raises(DataError, match="cannot stand in a split list"):
        write_lists(tmp_path / "out", {"partition": drawn(domain, 0)}, {})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("full", ["splits.json", "train_list", "test_list"])
def test_on_a_full_disk_no_list_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str) -> None:
    """A test list that is cut would be read as a smaller test split, without a word."""
    fsync = os.fsync

    def fill(descriptor: int) -> None:
        if full in Path(f"/proc/self/fd/{descriptor}").readlink().name:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fill)
    domain = drawn(domain_of([f"{index}.jpg" for index in range(20)]), 0)
    with pytest.raises(OSError, match=rf"No space left on device: '.*/out/{full}"):
        write_lists(tmp_path / "out", {"partition": domain}, {})
    there = files_in(tmp_path / "out")
    assert not any(full in name or name.startswith(".") for name in there)
    assert "splits.json" in there or not there


@pytest.mark.parametrize("present", ["train_list.txt", "zeroshot_list.txt", "splits.json"])
def test_nothing_is_overwritten(tmp_path: Path, present: str) -> None:
    (tmp_path / present).write_text("mine\n")
    with pytest.raises(DataError, match=f"{present} is there already"):
        write_lists(tmp_path, {"partition": drawn(domain_of([str(i) for i in range(10)]), 0)}, {})
    assert files_in(tmp_path) == [present]
    assert (tmp_path / present).read_text() == "mine\n"


def write(folder: Path, **lists: str) -> Path:
    for which, text in lists.items():
        (folder / f"{which}.txt").write_bytes(text.encode())
    return folder


def test_lists_as_users_have_them(tmp_path: Path) -> None:
    """Windows line ends, blank lines and blanks around names; an image in no list, and one that was left out."""
    folder = write(
        tmp_path, train_list="\ufeffa.jpg\r\n b.jpg \r\n", val_list="c.jpg", test_list="\nd.jpg\ngone.jpg\n\n"
    )
    domain = domain_of(
        ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"],
        repairs=(Repair("x.csv:7", "image without a caption", "left out", "gone.jpg"),),
    )
    read = listed(domain, folder)
    assert names_of(read) == {"train": {"a.jpg", "b.jpg"}, "val": {"c.jpg"}, "test": {"d.jpg"}}
    assert read.partition == f"train_list, val_list, test_list of {tmp_path.name}"


def test_names_in_lists_may_be_wrapped_as_python_2_wrote_them(tmp_path: Path) -> None:
    """But a name that looks so is read back as it is."""
    folder = write(
        tmp_path, train_list="b'a.jpg'\nb'b.jpg'\n", val_list='b"c.jpg"\n', test_list="d.jpg\nb'gone.jpg'\n"
    )
    gone = Repair("x.csv:7", "image without a caption", "left out", "gone.jpg")
    read = listed(domain_of(["a.jpg", "b'b.jpg'", "c.jpg", "d.jpg"], repairs=(gone,)), folder)
    assert names_of(read) == {"train": {"a.jpg", "b'b.jpg'"}, "val": {"c.jpg"}, "test": {"d.jpg"}}


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        (
            {"train_list": "a.jpg\nb.jpgg\n"},
            r'train_list\.txt:2: no image is called .b\.jpgg.\. Did you mean "b\.jpg"',
        ),
        ({"train_list": "a.jpg\nb.jpg\na.jpg\n"}, r"train_list\.txt:3: 'a\.jpg' stands in line 1 already"),
        ({"test_list": "b'd.jpg\n"}, r"test_list\.txt:1: .* is not an image name: the quotes do not end"),
        ({"val_list": "\n \n"}, r"val_list\.txt names no image of the domain; split 'val' would be empty"),
    ],
)
def test_errors_name_list_and_line(tmp_path: Path, lists: dict[str, str], message: str) -> None:
    right = {"train_list": "a.jpg\nb.jpg\n", "val_list": "c.jpg\n", "test_list": "d.jpg\n"}
    folder = write(tmp_path, **(right | lists))
    with pytest.raises(DataError, match=message):
        listed(domain_of(["a.jpg", "b.jpg", "c.jpg", "d.jpg"]), folder)


def test_half_a_set_of_lists_is_no_set(tmp_path: Path) -> None:
    assert not has_lists(tmp_path, "partition")
    write(tmp_path, train_list="a\n", val_list="b\n")
    with pytest.raises(DataError, match=r"train_list\.txt but lacks test_list\.txt"):
        has_lists(tmp_path, "partition")
    write(tmp_path, test_list="c\n")
    assert has_lists(tmp_path, "partition")
    assert not has_lists(tmp_path, "zeroshot")


def test_what_was_drawn_is_said_as_long_as_it_is_true(tmp_path: Path) -> None:
    domain = domain_of([f"{index}.jpg" for index in range(20)])
    write_lists(tmp_path, {"partition": drawn(domain, 3)}, {})
    lists = f"train_list, val_list, test_list of {tmp_path.name}"
    assert listed(domain, tmp_path).partition == f"{lists}: 70/10/20, drawn with seed 3"
    file = tmp_path / "train_list.txt"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    assert listed(domain, tmp_path).partition == f"{lists}, changed since they were drawn"
    for other in ("[]", "{}", '{"partitions": {"partition": "x"}, "lists": 3}'):
        (tmp_path / "splits.json").write_text(other)
        assert listed(domain, tmp_path).partition == lists


def test_a_validation_split_is_a_fifth_of_training_or_an_error() -> None:
    labels = ["train"] * 10 + ["test"] * 5
    domain = domain_of([f"{index}.jpg" for index in range(15)])
    domain = replace(domain, splits=index_splits(labels), partition="as the files say")
    cut = with_validation(domain, 0)
    assert [len(cut.splits[name]) for name in ("train", "val", "test")] == [8, 2, 5]
    assert names_of(cut)["train"] | names_of(cut)["val"] == names_of(domain)["train"]
    assert with_validation(cut, 1) is cut
    small = replace(domain, splits=index_splits(["train"] * 2 + ["test"] * 13))
    with pytest.raises(DataError, match="2 training images are too few to take a fifth from"):
        with_validation(small, 0)


NAMES = [f"a{index} späti_FI_17.jpg" if index % 3 else f"w{index}_FI_17.jpg" for index in range(40)]


def write_country(root: Path) -> Path:
    """A country as its archive is laid out, without its images."""
    folder = root / "Finland"
    folder.mkdir(parents=True)
    rows = [f'"{name}","a place, number {index}"' for index, name in enumerate(NAMES)]
    text = "image_name,description\n" + "\n".join(rows) + "\n"
    (folder / "instructblip_generation_finland_refine.csv").write_text(text, encoding="utf-8")
    return folder


def test_split_lists_put_into_a_country_are_found_there(tmp_path: Path, cli: Cli) -> None:
    folder = write_country(tmp_path)
    country = f"urbancross/finland[folder={tmp_path},images=none"
    before = {scheme: read_domain(f"{country},split_seed=5,lists={scheme}]") for scheme in SCHEMES}
    result = cli("data", "split", f"{country}]", "--out", folder, "--seed", 5)
    assert result.status == 0, result.err
    assert result.out.splitlines()[0].split() == ["train_list.txt", "28", "images"]
    assert "0 of 40 images are in no split" in result.out
    for scheme, domain in before.items():
        read = read_domain(f"{country},split=given,lists={scheme}]")
        assert names_of(read) == names_of(domain)
        assert read.overlapping == (scheme == "finetune")
        assert "drawn with seed 5" in read.partition
    record = json.loads((folder / "splits.json").read_text())
    assert (record["domain"], record["images"], record["seed"]) == (f"{country}]", 40, 5)
    again = cli("data", "split", f"{country}]", "--out", folder)
    assert again.status == 2
    assert "train_list.txt is there already" in again.err


def write_places(folder: Path, count: int = 400) -> Path:
    """A csv of captions with places, a square of 100 km."""
    generator = np.random.default_rng(0)
    rows = ["image_name,description,lat,lon"]
    for index in range(count):
        latitude, longitude = generator.uniform(60.0, 60.9), generator.uniform(24.0, 25.8)
        rows.append(f"tile {index}.jpg,a place,{latitude:.6f},{longitude:.6f}")
    file = folder / "places.csv"
    file.write_text("\n".join(rows) + "\n")
    return file


def test_geographic_lists_give_the_split_that_the_option_gives(tmp_path: Path, cli: Cli) -> None:
    columns = "images=none,latitude_column=lat,longitude_column=lon"
    reference = f"csv[file={write_places(tmp_path)},{columns}"
    place = tmp_path / "blocks"
    options = ("--blocks", 12.5, "--distance", 2, "--seed", 4)
    result = cli("data", "split", f"{reference}]", "--out", place, *options)
    assert result.status == 0, result.err
    assert files_in(place) == ["splits.json", "test_list.txt", "train_list.txt", "val_list.txt"]
    read = read_domain(f"{reference},lists={place}]")
    expected = read_domain(f"{reference},split=blocks,block_km=12.5,distance_km=2,split_seed=4]")
    assert names_of(read) == names_of(expected)
    left = 400 - sum(len(members) for members in read.splits.values())
    assert left > 0
    assert f"{left} of 400 images are in no split" in result.out
    assert read.partition.endswith(expected.partition)
    record = json.loads((place / "splits.json").read_text())
    assert (record["block_km"], record["distance_km"], record["in_no_split"]) == (12.5, 2.0, left)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--distance", 1], "--distance goes with --blocks"),
        (["--blocks", 5, "--distance", 5], "--distance 5 must be at least 0 and smaller than --blocks 5"),
        (["--blocks", 0.5], "--distance 1 must be at least 0 and smaller than --blocks 0.5"),
        (["--blocks", "inf"], "smaller than --blocks inf"),
        (["--blocks", "nan"], "smaller than --blocks nan"),
        (["--blocks", 5, "--distance", -1], "--distance -1 must be at least 0"),
        (["--blocks", 5000], "leave no image for"),
    ],
)
def test_options_that_cannot_be_met(cli: Cli, tmp_path: Path, options: list[object], message: str) -> None:
    result = cli("data", "split", "synthetic/nordia[images=40]", "--out", tmp_path / "out", *options)
    assert result.status == 2
    assert message in result.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        ("urbancross/integration", "name one of finland, germany, spain"),
        ("synthetic", "has several members"),
        ("ucmm", 'Did you mean "ucm"'),
        ("csv[file=nothing.csv]", "nothing.csv"),
    ],
)
def test_domains_that_cannot_be_split(cli: Cli, tmp_path: Path, domain: str, message: str) -> None:
    result = cli("data", "split", domain, "--out", tmp_path / "out")
    assert result.status == 2
    assert message in result.err
    assert not (tmp_path / "out").exists()
