"""Segment stores, from the command line: what stands in them, whatever happens while they are made."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Result, tree
from data_files import read, zip_with_damage
from PIL import Image

from urbancross_bench.data.masks import from_counts
from urbancross_bench.data.segments import open_segments, read_store
from urbancross_bench.errors import DataError
from urbancross_bench.execution import making
from urbancross_bench.interfaces import ImageSource

PLUGIN = Path(__file__).with_name("striped_segmenter.py")
Cli = Callable[..., Result]


def tile(index: int) -> np.ndarray:
    """24×20 pixels of a few shades in patches; the first pixel's red is the index."""
    patches = np.random.default_rng(index).integers(0, 255, (6, 4, 3))
    pixels = np.kron(patches, np.ones((4, 5, 1))).astype(np.uint8)
    pixels[0, 0, 0] = index
    return pixels


def write_tiles(folder: Path, count: int = 10) -> str:
    """A domain of PNGs; its reference."""
    (folder / "images").mkdir(parents=True)
    entries = []
    for index in range(count):
        name = f"t{index:02d}.png"
        Image.fromarray(tile(index)).save(folder / "images" / name)
        split = ("train", "val", "test")[index % 3]
        entries.append({"filename": name, "split": split, "sentences": [{"raw": f"patches {index}"}]})
    (folder / "dataset.json").write_text(json.dumps({"images": entries}), encoding="utf-8")
    return f"karpathy[file={folder / 'dataset.json'}]"


@pytest.fixture
def tiles(tmp_path: Path) -> str:
    return write_tiles(tmp_path / "tiles")


@pytest.fixture
def cut(cli: Cli, tmp_path: Path) -> Callable[..., Result]:
    """`data segment` with the striped segmenter, into a folder of the test's."""

    def call(domain: str, out: str, *more: object, options: str = "", count: int = 3) -> Result:
        segmenter = f"striped[{options}]"
        where = ("--out", tmp_path / out, "--plugin", PLUGIN, "--device", "cpu", "--count", count)
        return cli("data", "segment", domain, "--segmenter", segmenter, "--batch", 2, *where, *more)

    return call


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "masks.jsonl").read_text().splitlines()]


def test_a_store_holds_the_largest_different_masks_of_every_image(
    tiles: str, cut: Callable[..., Result], tmp_path: Path
) -> None:
    result = cut(tiles, "store")
    assert result.status == 0, result.err
    assert "segmenting: 10 of 10" in result.err
    said = json.loads((tmp_path / "store" / "segments.json").read_text())
    assert (said["images"], said["failed"], said["caption_aware"]) == (10, 0, False)
    making = said["making"]
    assert (making["chooser"], making["count"], making["segmenter"]["name"]) == ("area", 3, "striped")
    assert making["weights"] == {"status": "untrained", "source": "none", "sha256": None, "partial": False}
    assert [path.name for path in sorted((tmp_path / "store").iterdir())] == ["masks.jsonl", "segments.json"]
    for index, row in enumerate(rows(tmp_path / "store")):
        assert (row["image"], row["size"]) == (f"t{index:02d}.png", [24, 20])
        shades = tile(index)[..., 1] // 32
        by_size = sorted(range(8), key=lambda s, shades=shades: -(shades == s).sum())
        sizes = [int((shades == s).sum()) for s in by_size if (shades == s).any()][:3]
        assert [region["area"] for region in row["regions"]] == sizes
        for region in row["regions"]:
            mask = from_counts(region["counts"], 24, 20)
            [shade] = np.unique(shades[mask])
            assert (mask == (shades == shade)).all()
            assert region["quality"] == 0.5 + shade / 16  # the duplicate of lower quality gave way


def test_segments_are_the_images_painted_white_outside(
    tiles: str, cut: Callable[..., Result], tmp_path: Path
) -> None:
    cut(tiles, "store", "--chooser", "quality")
    domain = read(tiles)
    segments = open_segments(tmp_path / "store", domain)
    assert segments.caption_aware is False
    assert segments.making["chooser"] == "quality"
    assert segments.image_of_segment.tolist() == [i for i in range(10) for _ in range(3)]
    digests = [segments.images.digest(s) for s in range(30)]
    assert len(set(digests)) == 30
    for s, owner in enumerate(segments.image_of_segment.tolist()):
        pixels, picture = segments.images.read(s), tile(owner)
        mask = from_counts(rows(tmp_path / "store")[owner]["regions"][s % 3]["counts"], 24, 20)
        assert (pixels[mask] == picture[mask]).all()
        assert (pixels[~mask] == 255).all()


def test_an_image_is_decoded_once_for_its_segments(
    tiles: str, cut: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut(tiles, "store")
    domain, decoded = read(tiles), list[int]()
    inner = type(domain.images).read

    def counting(self: ImageSource, index: int) -> np.ndarray:
        decoded.append(index)
        return inner(self, index)

    monkeypatch.setattr(type(domain.images), "read", counting)
    segments = open_segments(tmp_path / "store", domain)
    for s in range(30):
        segments.images.read(s)
    assert decoded == list(range(10))
    decoded.clear()
    order = {number: iter(range(15 * number, 15 * number + 15)) for number in range(2)}
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:  # by turns, each its own images
        for _ in range(15):
            for number, thread in enumerate((one, other)):
                thread.submit(segments.images.read, next(order[number])).result()
    assert sorted(decoded) == list(range(10))


def test_workers_and_kills_leave_no_trace(tiles: str, cut: Callable[..., Result], tmp_path: Path) -> None:
    cut(tiles, "whole")
    assert cut(tiles, "two", "--workers", 2).status == 0
    assert tree(tmp_path / "two") == tree(tmp_path / "whole")
    os.mkfifo(tmp_path / "pipe")
    command = [sys.executable, "-m", "urbancross_bench", "data", "segment", tiles, "--out", tmp_path / "killed"]
    segmenter = f"striped[waits={tmp_path / 'pipe'},waits_at=2]"
    options = ["--segmenter", segmenter, "--plugin", PLUGIN, "--batch", "2", "--count", "3", "--device", "cpu"]
    words = [*map(str, command), *map(str, options)]
    running = subprocess.Popen(words, stderr=subprocess.DEVNULL, start_new_session=True)
    with (tmp_path / "pipe").open("rb"):  # opens when the fifth batch of six has begun, and holds it up
        running.send_signal(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
    with contextlib.suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)  # the process that waits at the pipe would wait for ever
    assert not (tmp_path / "killed" / "segments.json").exists()
    assert len(list((tmp_path / "killed" / ".partial").glob("*.json"))) == 4
    with pytest.raises(DataError, match=r"unfinished one: it lacks segments\.json"):
        read_store(tmp_path / "killed")
    result = cut(tiles, "killed")
    assert "segmenting: 7 of 10" in result.err
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")
    again = cut(tiles, "killed")
    assert again.status == 0
    assert again.err == "segmenting: 10 of 10\n"


def test_a_process_that_dies_costs_its_image_or_nothing(
    tiles: str, cut: Callable[..., Result], tmp_path: Path
) -> None:
    cut(tiles, "whole")
    cut(tiles, "once", options=f"dies_once={tmp_path / 'died'}")
    assert (tmp_path / "died").exists()
    assert tree(tmp_path / "once") == tree(tmp_path / "whole")
    result = cut(tiles, "always", options="dies=5")
    assert result.status == 1
    log = tmp_path / "always" / ".partial" / "log"
    assert re.search(rf"FAILED t05\.png: the process died \(signal 9.*\); see {log}$", result.err, re.MULTILINE)
    assert log.exists()
    left = rows(tmp_path / "always")
    assert [row["image"] for row in left if "failure" in row] == ["t05.png"]
    whole = rows(tmp_path / "whole")
    assert [row for row in left if row["image"] != "t05.png"] == whole[:5] + whole[6:]
    # Nothing of the fault is in the identity: the same command without it completes the store.
    assert cut(tiles, "always").status == 0
    assert tree(tmp_path / "always") == tree(tmp_path / "whole")


@pytest.mark.parametrize("fault", ["fails_together", "dies_together"])
def test_a_segmenter_that_takes_no_batches_is_given_one_image_at_a_time(
    tiles: str, cut: Callable[..., Result], tmp_path: Path, fault: str
) -> None:
    cut(tiles, "whole")
    (tmp_path / "always").touch()
    result = cut(tiles, "store", "--split", "train", options=f"{fault}={tmp_path / 'always'}")
    why = "MemoryError: no room" if fault == "fails_together" else "the process died (signal 9"
    told = f"warning: 4 images were segmented alone, since their batches failed ({why}"
    assert (result.status, told in result.err) == (0, True), result.err
    assert not (tmp_path / "store" / ".partial").exists()
    (tmp_path / "always").unlink()
    assert cut(tiles, "store").status == 0  # what the store knows of these stays
    found, plain = rows(tmp_path / "store"), rows(tmp_path / "whole")
    assert [row["image"] for row in found if row.get("alone", "").startswith(why)] == [
        "t00.png",
        "t03.png",
        "t06.png",
        "t09.png",
    ]
    assert [{key: row[key] for key in row if key != "alone"} for row in found] == plain


def test_a_store_without_any_segment_is_warned_of(tiles: str, cut: Callable[..., Result]) -> None:
    result = cut(tiles, "store", options="sees_nothing=true")
    assert (result.status, "warning: no image has a segment" in result.err) == (0, True), result.err
    broken = cut(tiles, "broken", options="fails=true")
    assert (broken.status, "no image has a segment" in broken.err) == (1, False)
    assert "no image has a segment" not in cut(tiles, "other").err


def test_a_broken_image_costs_itself_until_it_is_mended(
    tiles: str, cut: Callable[..., Result], tmp_path: Path
) -> None:
    cut(tiles, "whole")
    broken = tmp_path / "tiles" / "images" / "t03.png"
    sound = broken.read_bytes()
    broken.write_bytes(sound[: len(sound) // 2])
    result = cut(tiles, "store")
    assert result.status == 1
    assert "FAILED t03.png: image" in result.err
    assert "cannot be decoded" in result.err
    assert "1 images failed" in result.out
    segments = open_segments(tmp_path / "store", read(tiles))
    assert sorted(set(range(10)) - set(segments.image_of_segment.tolist())) == [3]
    broken.write_bytes(sound)
    assert cut(tiles, "store").status == 0
    assert tree(tmp_path / "store") == tree(tmp_path / "whole")
    refused = cut(tiles, "refused", options="refuses=7")
    assert (refused.status, "FAILED t07.png: tile 7 has no stripes" in refused.err) == (1, True)
    (broken.parent / "t00.png").write_bytes(sound)
    with pytest.raises(DataError, match=r"image 't00\.png' has changed since"):
        open_segments(tmp_path / "store", read(tiles))


def test_an_image_that_cannot_be_read_costs_itself(tiles: str, cut: Callable[..., Result], tmp_path: Path) -> None:
    cut(tiles, "whole")
    zip_with_damage(tmp_path / "tiles" / "images", "t03.png")
    result = cut(tiles, "store")
    assert (result.status, "FAILED t03.png: image" in result.err, "CRC" in result.err) == (1, True, True)
    whole = rows(tmp_path / "whole")
    assert [row for row in rows(tmp_path / "store") if "failure" not in row] == whole[:3] + whole[4:]


def test_a_store_is_made_in_one_way_only(tiles: str, cut: Callable[..., Result], tmp_path: Path) -> None:
    cut(tiles, "store")
    before = tree(tmp_path / "store")
    result = cut(tiles, "store", count=4)
    assert (result.status, "made otherwise (count: 3, now 4)" in result.err) == (2, True)
    assert tree(tmp_path / "store") == before
    assert cut(tiles, "store").status == 0
    assert tree(tmp_path / "store") == before


def counted(tmp_path: Path) -> list[int]:
    """The images that the segmenter was given since it was last asked, in order."""
    file = tmp_path / "given"
    names = sorted(map(int, file.read_text().split())) if file.exists() else []
    file.unlink(missing_ok=True)
    return names


def test_splits_are_added_to_a_store_and_nothing_is_done_twice(
    tiles: str, cut: Callable[..., Result], tmp_path: Path
) -> None:
    notes = f"notes={tmp_path / 'given'}"
    for splits, out in (("val,train", "both"), ("train,val,test", "three"), (None, "all")):
        assert cut(tiles, out, *(["--split", splits] if splits else [])).status == 0
    for split, done, given, said, same in (
        ("train", "4 of 4", [0, 3, 6, 9], ["train"], None),
        ("val", "4 of 7", [1, 4, 7], ["train", "val"], "both"),
        ("train", "7 of 7", [], ["train", "val"], "both"),
        ("test", "7 of 10", [2, 5, 8], ["train", "val", "test"], "three"),
        ("", "10 of 10", [], [], "all"),
        ("val", "10 of 10", [], [], "all"),
    ):
        result = cut(tiles, "store", *(["--split", split] if split else []), options=notes)
        assert result.status == 0, result.err
        assert f"segmenting: {done}" in result.err
        assert counted(tmp_path) == given
        assert json.loads((tmp_path / "store" / "segments.json").read_text())["splits"] == said
        assert same is None or tree(tmp_path / "store") == tree(tmp_path / same)
    assert "made otherwise" in cut(tiles, "both", "--split", "test", count=4).err


def test_a_store_is_the_same_however_the_command_that_adds_to_it_ends(
    tiles: str, cut: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = f"notes={tmp_path / 'given'}"
    cut(tiles, "whole", "--split", "train,test")
    cut(tiles, "store", "--split", "train")
    before = tree(tmp_path / "store")
    # One of the new images fails: what was there and what is new stay, the failed batch is tried again alone.
    result = cut(tiles, "store", "--split", "test", options="refuses=5")
    assert (result.status, "FAILED t05.png" in result.err) == (1, True)
    assert cut(tiles, "store", "--split", "test", options=notes).status == 0
    assert counted(tmp_path) == [2, 5]
    assert tree(tmp_path / "store") == tree(tmp_path / "whole")

    # Killed at each of the steps that put the new store in the old one's place.
    replace = Path.replace
    for fatal in (1, 2):
        shutil.rmtree(tmp_path / "store")
        for name, content in before.items():
            (tmp_path / "store").mkdir(exist_ok=True)
            (tmp_path / "store" / name).write_bytes(content)
        steps = iter(range(1, 100))

        def replaced(self: Path, target: Path, steps: Iterator[int] = steps, fatal: int = fatal) -> Path:
            if self.parent == tmp_path / "store" and next(steps) == fatal:
                raise KeyboardInterrupt
            return replace(self, target)

        monkeypatch.setattr(Path, "replace", replaced)
        assert cut(tiles, "store", "--split", "test").status == 130
        monkeypatch.setattr(Path, "replace", replace)
        assert len(read_store(tmp_path / "store").rows) == (4 if fatal == 1 else 7)  # in a grid, meanwhile
        assert cut(tiles, "store", "--split", "train", options=notes).status == 0
        assert counted(tmp_path) == []
        assert len(rows(tmp_path / "store")) == (4 if fatal == 1 else 7)
        assert cut(tiles, "store", "--split", "test", options=notes).status == 0
        assert counted(tmp_path) == []
        made = tree(tmp_path / "store")
        assert {name: content for name, content in made.items() if name[0] != "."} == tree(tmp_path / "whole")


def test_of_a_store_that_changed_images_only_their_batches_are_made_anew(
    tiles: str, cut: Callable[..., Result], tmp_path: Path
) -> None:
    cut(tiles, "store", "--split", "train")
    Image.fromarray(tile(77)).save(tmp_path / "tiles" / "images" / "t03.png")
    assert cut(tiles, "store", "--split", "test", options=f"notes={tmp_path / 'given'}").status == 0
    assert counted(tmp_path) == [0, 2, 5, 8, 77]
    cut(tiles, "whole", "--split", "train,test")
    assert tree(tmp_path / "store") == tree(tmp_path / "whole")


def test_where_an_image_has_left_the_domain_the_batches_after_it_are_made_anew(
    tiles: str, cut: Callable[..., Result], tmp_path: Path
) -> None:
    """What a model sees together moves last bits."""
    cut(tiles, "store")
    file = tmp_path / "tiles" / "dataset.json"
    entries = [entry for entry in json.loads(file.read_text())["images"] if entry["filename"] != "t03.png"]
    file.write_text(json.dumps({"images": entries}))
    assert cut(tiles, "store", options=f"notes={tmp_path / 'given'}").status == 0
    assert counted(tmp_path) == [0, 6, 9]
    cut(tiles, "whole")
    assert tree(tmp_path / "store") == tree(tmp_path / "whole")


def test_an_image_that_has_moved_to_another_split_is_made_anew(
    tiles: str, cut: Callable[..., Result], tmp_path: Path
) -> None:
    cut(tiles, "store")
    file = tmp_path / "tiles" / "dataset.json"
    file.write_text(file.read_text().replace('"t09.png", "split": "train"', '"t09.png", "split": "val"'))
    assert cut(tiles, "store", options=f"notes={tmp_path / 'given'}").status == 0
    assert counted(tmp_path) == [6, 7, 9]
    cut(tiles, "whole")
    assert tree(tmp_path / "store") == tree(tmp_path / "whole")


def test_what_a_killed_call_made_of_one_split_outlasts_a_call_for_another(
    tiles: str, cut: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes, keep = f"notes={tmp_path / 'given'}", making._Batch.keep
    cut(tiles, "store", "--split", "train")

    def killed(self: Any, result: Any) -> None:
        keep(self, result)
        raise KeyboardInterrupt

    monkeypatch.setattr(making._Batch, "keep", killed)
    assert cut(tiles, "store", "--split", "test", options=notes).status == 130
    monkeypatch.undo()
    counted(tmp_path)
    for split, given in (("val", [1, 4, 7]), ("test", [8])):
        assert cut(tiles, "store", "--split", split, options=notes).status == 0
        assert counted(tmp_path) == given
    assert not (tmp_path / "store" / ".partial").exists()


@pytest.mark.parametrize(
    ("more", "options", "problem"),
    [
        (["--chooser", "arae"], "", 'Did you mean "area"?'),
        (["--split", "train,tset"], "", 'Did you mean "test"?'),
        (["--count", "0"], "", "at least 1"),
        (["--min-area", "-1"], "", "at least 0"),
        (["--device", "abacus"], "", "there is no device 'abacus'"),
        ([], "fails_to_load=true", "failed to load: ValueError: no such stripes ("),
        ([], "dies_loading=true", "a process died while it loaded the model (signal 9"),
        ([], "shades=9", "has no option 'shades'"),
    ],
)
def test_what_cannot_work_is_said_at_once(
    tiles: str, cut: Callable[..., Result], tmp_path: Path, more: list[str], options: str, problem: str
) -> None:
    result = cut(tiles, "store", *more, options=options)
    assert (result.status, problem in result.err) == (2, True), result.err
    assert not (tmp_path / "store" / "segments.json").exists()


def test_splits_and_small_masks_can_be_left_out(tiles: str, cut: Callable[..., Result], tmp_path: Path) -> None:
    cut(tiles, "all", count=8)
    cut(tiles, "some", "--split", "val,train", "--min-area", "0.2", count=8)
    cut(tiles, "pixels", "--split", "val,train", "--min-area", "96", count=8)
    expected = [
        {**row, "regions": [one for one in row["regions"] if one["area"] >= 96]}
        for index, row in enumerate(rows(tmp_path / "all"))
        if index % 3 < 2
    ]
    assert rows(tmp_path / "some") == rows(tmp_path / "pixels") == expected
    assert any(len(row["regions"]) < 8 for row in expected)
    open_segments(tmp_path / "some", read(tiles))
    # A store of all splits must know every image of the domain.
    more = write_tiles(tmp_path / "more", count=11)
    with pytest.raises(DataError, match=r"does not know 1 images of domain .*'t10.png' the first"):
        open_segments(tmp_path / "all", read(more))


def test_damaged_stores_are_not_believed(tiles: str, cut: Callable[..., Result], tmp_path: Path) -> None:
    cut(tiles, "store")
    masks, manifest = tmp_path / "store" / "masks.jsonl", tmp_path / "store" / "segments.json"
    content, said = masks.read_bytes(), manifest.read_text()
    for damaged in (content[:-1], content[: len(content) // 2], b"", content.replace(b"O", b"N", 1)):
        masks.write_bytes(damaged)
        with pytest.raises(DataError, match=r"masks\.jsonl is damaged or cut short"):
            read_store(tmp_path / "store")
    masks.write_bytes(content)
    for wrong, problem in (
        (said.replace('"schema": 1', '"schema": 2'), "of schema 2"),
        (said[: len(said) // 2], "cannot be read"),
        ("[]", "of schema None"),
    ):
        manifest.write_text(wrong)
        with pytest.raises(DataError, match=problem):
            read_store(tmp_path / "store")
    refused = cut(tiles, "store")
    assert (refused.status, "of schema None" in refused.err) == (2, True)
    masks.unlink()
    manifest.write_text(said)
    with pytest.raises(DataError, match=r"it lacks masks\.jsonl"):
        read_store(tmp_path / "store")


def test_a_store_that_contradicts_itself_is_not_believed(
    tiles: str, cut: Callable[..., Result], tmp_path: Path
) -> None:
    cut(tiles, "store")
    manifest = tmp_path / "store" / "segments.json"
    said = json.loads(manifest.read_text())
    assert "libraries" not in said["making"]  # this segmenter names none, so its earlier stores go on
    said["making"]["chooser"] = "caption"
    manifest.write_text(json.dumps(said))
    with pytest.raises(DataError, match=r"store/segments\.json says caption_aware: false, but chooser: caption"):
        open_segments(tmp_path / "store", read(tiles))
    manifest.write_text(json.dumps(said | {"caption_aware": True}))
    assert read_store(tmp_path / "store").caption_aware
    manifest.write_text(json.dumps(said | {"making": []}))
    assert read_store(tmp_path / "store").making == {}
    manifest.write_text(json.dumps(said | {"making": 3}))
    with pytest.raises(DataError, match="store is damaged: TypeError"):
        read_store(tmp_path / "store")


def test_the_archive_is_read_back_by_its_reader(
    cut: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finland = tmp_path / "uc" / "Finland"
    (finland / "images").mkdir(parents=True)
    names = [f"a{index}_FI_20.jpg" for index in range(6)]
    for index, name in enumerate(names):
        Image.fromarray(tile(index)).resize((60, 72), Image.Resampling.NEAREST).save(finland / "images" / name)
    lines = ["image_name,description", *(f"{name},patches of {name}" for name in names)]
    (finland / "instructblip_generation_finland_refine.csv").write_text("\n".join(lines))
    reference = f"urbancross/finland[folder={tmp_path / 'uc'},split=drawn]"
    result = cut(reference, "store", "--jpg", finland / "image_segments", count=12)
    assert result.status == 0, result.err
    domain = read(reference)
    assert domain.segments is not None
    assert not domain.repairs
    ours = open_segments(tmp_path / "store", domain)
    assert domain.segments.image_of_segment.tolist() == ours.image_of_segment.tolist()
    assert len(ours.image_of_segment) > 30
    for s in range(len(ours.image_of_segment)):
        theirs, exact = domain.segments.images.read(s).astype(int), ours.images.read(s).astype(int)
        assert theirs.shape == exact.shape
        assert abs(theirs - exact).mean() < 8  # JPEG
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    refused = cut(reference, "store", "--jpg", ".", count=12)
    assert (refused.status, ". is the current folder" in refused.err) == (2, True)
    refused = cut(reference, "store", "--jpg", finland / "image_segments", count=12)
    assert (refused.status, "not an empty folder" in refused.err) == (2, True)
