"""`data check`: every fault that is put into a domain is found, named, and decides whether it may be ranked."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
import tracemalloc
import zipfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from conftest import SHARED, Result, tree
from data_files import read
from numpy.typing import NDArray
from PIL import Image

from urbancross_bench.data import looks
from urbancross_bench.data.audit import Audit, audit
from urbancross_bench.data.captions import caption_facts
from urbancross_bench.data.checking import file_names
from urbancross_bench.data.domain import split_of
from urbancross_bench.data.exclusions import without
from urbancross_bench.data.images import FolderImages
from urbancross_bench.data.looks import BITS, DIFFERENCE, Look, Seen, look_at, nearest
from urbancross_bench.errors import DataError
from urbancross_bench.evaluation.floors import as_json
from urbancross_bench.identity import library_versions
from urbancross_bench.interfaces import SPLITS, Domain, ImageSource

Cli = Callable[..., Result]
Pixels = NDArray[np.uint8]


@pytest.fixture(autouse=True)
def _own_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("URBANCROSS_HOME", str(tmp_path / "home"))


def texture(seed: int, size: int = 64) -> Pixels:
    """A tile of soft blobs, muted as land is: different for each seed, the same to the eye in any size."""
    draw = np.random.default_rng(seed)
    blobs = (draw.integers(40, 200, (9, 9, 1)) + draw.integers(0, 30, (9, 9, 3))).astype(np.uint8)
    return np.asarray(Image.fromarray(blobs).resize((size, size), Image.Resampling.BICUBIC))


def write_domain(folder: Path, *, seed: int = 0, images: int = 20, suffix: str = ".jpg") -> Path:
    """A Karpathy json with `images` different tiles: 0–11 train, 12–15 val, 16–19 test of each 20."""
    (folder / "images").mkdir(parents=True)
    entries = []
    for index in range(images):
        name = f"{folder.name}_{index:03d}{suffix}"
        Image.fromarray(texture(1000 * seed + index)).save(folder / "images" / name)
        texts = [f"{folder.name} tile {index}", f"a tile of {folder.name} called {index}"]
        split = "train" if index % 20 < 12 else "val" if index % 20 < 16 else "test"
        entries.append({"filename": name, "split": split, "sentences": [{"raw": text} for text in texts]})
    file = folder / "dataset.json"
    file.write_text(json.dumps({"images": entries}), encoding="utf-8")
    return file


def change(file: Path, *captions: tuple[int, int, str]) -> None:
    """Put other words in place of caption `k` of entry `i`."""
    content = json.loads(file.read_text())
    for entry, number, text in captions:
        content["images"][entry]["sentences"][number]["raw"] = text
    file.write_text(json.dumps(content))


def audited(domain: Domain) -> Audit:
    return audit("d", domain, lambda what, done, total: None)


def findings(result: Result, number: int = 0) -> dict[str, dict[str, Any]]:
    """The findings on one domain of a `--json` report, by kind."""
    return {finding["kind"]: finding for finding in json.loads(result.out)["domains"][number]["findings"]}


def named(finding: dict[str, Any]) -> list[str]:
    return [item["image"] for item in finding["items"]]


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


# One domain: images


def test_a_whole_domain_may_be_ranked(cli: Cli, tmp_path: Path) -> None:
    file = write_domain(tmp_path / "d")
    result = cli("data", "check", f"karpathy[file={file}]", "--out", tmp_path / "out")
    assert result.status == 0
    assert ": may be ranked" in result.out
    assert "defect" not in result.out
    assert "warning" not in result.out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["may_be_ranked"]
    assert [domain["findings"] for domain in report["domains"]] == [[]]
    assert report["domains"][0]["splits"]["test"] | {"usual": 0} == {
        "images": 4, "captions": 8, "usual": 0, "distinct_per_image": 2.0, "repeating": 0, "elsewhere": 0,
        "sharing": 0, "unowned": 0, "in_train": 0, "in_training": 0,
    }  # fmt: skip


def take_away(path: Path) -> None:
    path.unlink()


def link_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere.jpg")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def put_a_folder_there(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "kind", "problem"),
    [
        (take_away, "missing images", "no such file"),
        (link_nowhere, "missing images", "the link leads nowhere"),
        (put_a_folder_there, "missing images", "no such file"),
        (truncate, "broken images", "cannot be decoded: image file is truncated"),
        (lambda path: path.write_bytes(b""), "broken images", "is empty (0 bytes)"),
        (lambda path: path.write_text("<html>"), "broken images", "cannot be decoded: it is "),
    ],
)
def test_images_that_cannot_be_read_are_found_and_nothing_else_is(
    cli: Cli, tmp_path: Path, damage: Callable[[Path], None], kind: str, problem: str
) -> None:
    file = write_domain(tmp_path / "d")
    for number in (3, 17):
        damage(tmp_path / "d" / "images" / f"d_{number:03d}.jpg")
    command = ("data", "check", f"karpathy[file={file}]", "--out", tmp_path / "out")
    for _ in range(2):  # with an empty index, then with what the first check kept
        result = cli(*command, "--json")
        assert result.status == 1
        found = findings(result)
        assert set(found) == {kind}
        assert found[kind]["level"] == "defect"
        assert named(found[kind]) == ["d_003.jpg", "d_017.jpg"]
        assert all(problem in item["problem"] for item in found[kind]["items"])
    listed = rows(next((tmp_path / "out").glob("repairs-*.csv")))
    assert [row["image"] for row in listed] == ["d_003.jpg", "d_017.jpg"]
    assert all(row["where"].endswith(row["image"]) and row["problem"] and row["remedy"] for row in listed)
    shown = cli(*command)
    assert "MAY NOT BE RANKED" in shown.out
    assert "2 of 20 images" in shown.out


def test_a_zip_is_checked_like_a_folder(cli: Cli, tmp_path: Path) -> None:
    file = write_domain(tmp_path / "d")
    folder, packed = tmp_path / "d" / "images", tmp_path / "d" / "images.zip"
    truncate(folder / "d_002.jpg")
    (folder / "d_005.jpg").unlink()
    with zipfile.ZipFile(packed, "w") as zip_:
        for path in sorted(folder.iterdir()):
            zip_.write(path, path.name)
    content = bytearray(packed.read_bytes())
    middle = content.index((folder / "d_007.jpg").read_bytes()) + 300
    content[middle] ^= 255  # its CRC no longer fits
    packed.write_bytes(bytes(content))
    shutil.rmtree(folder)
    result = cli("data", "check", f"karpathy[file={file}]", "--json")
    assert result.status == 1
    found = findings(result)
    assert named(found["missing images"]) == ["d_005.jpg"]
    assert named(found["broken images"]) == ["d_002.jpg", "d_007.jpg"]
    assert "CRC" in found["broken images"]["items"][1]["problem"]


def test_what_is_no_defect_is_said_all_the_same(cli: Cli, tmp_path: Path) -> None:
    file = write_domain(tmp_path / "d")
    images = tmp_path / "d" / "images"
    Image.fromarray(texture(4)).save(images / "d_004.jpg", format="PNG")
    Image.fromarray(texture(5, size=50)).save(images / "d_005.jpg")
    change(file, (6, 0, "d tile 6"), (6, 1, "d tile 6"), (7, 0, "  "), (8, 0, "."))
    result = cli("data", "check", f"karpathy[file={file}]", "--json")
    assert result.status == 0
    found = findings(result)
    assert {kind: (finding["level"], named(finding)) for kind, finding in found.items()} == {
        "odd sizes": ("note", ["d_005.jpg"]),
        "wrong extensions": ("note", ["d_004.jpg"]),
        "repeated captions": ("note", ["d_006.jpg"]),
        "reader: blank caption": ("warning", ["d_007.jpg"]),
        "reader: caption … has no word": ("note", ["d_008.jpg"]),
    }
    assert found["odd sizes"]["text"] == "1 of 20 images is not 64×64 pixels, as most are"
    assert found["wrong extensions"]["items"][0]["problem"] == "holds PNG"
    assert found["reader: blank caption"]["text"].startswith("the reader noted 1 place: blank caption; ")


def test_images_of_16_bits_that_fill_few_of_them_are_a_warning(cli: Cli, tmp_path: Path) -> None:
    """Reflectances up to 3,500 are nearly black once the high byte is kept; dark ones of 8 bits are meant so."""
    file = write_domain(tmp_path / "d", suffix=".png")
    images = tmp_path / "d" / "images"
    reflectances = texture(4)[..., 0].astype(np.uint16) * 16
    Image.fromarray(reflectances).save(images / "d_004.png")
    tifffile.imwrite(images / "d_005.png", np.repeat(reflectances[..., None], 3, axis=-1), photometric="rgb")
    Image.fromarray(reflectances * 16).save(images / "d_006.png")
    Image.fromarray(texture(7) // 16).save(images / "d_007.png")
    Image.fromarray(texture(8) // 16).save(images / "d_008.png", format="TIFF")
    for _ in range(2):  # as it is kept, too
        found = findings(cli("data", "check", f"karpathy[file={file}]", "--json"))["dark 16-bit images"]
        assert (found["level"], named(found)) == ("warning", ["d_004.png", "d_005.png"])
        most = int(reflectances.max()) >> 8
        assert found["text"] == (
            f"2 of 20 images are of 16 bits with no more than {most + 1} of 256 levels in use, since the high "
            "byte is kept; stretch them to the full range first"
        )
        assert found["items"][0]["problem"] == f"no value above {most} of 255 is left"
    for number in (4, 5):
        Image.fromarray(reflectances * 16).save(images / f"d_00{number}.png")
    Image.fromarray(reflectances).save(images / "d_006.png")  # of the night
    assert "dark 16-bit images" not in findings(cli("data", "check", f"karpathy[file={file}]", "--json"))


def test_a_list_that_is_taken_for_a_caption_is_a_warning(cli: Cli, tmp_path: Path) -> None:
    """As `to_csv` writes a column of lists."""
    file = write_domain(tmp_path / "d")
    lists = [str(["a pier", "it's a boat"]), json.dumps(["a park"]), "['a park'\n 'a road']"]
    change(file, *((index, 0, text) for index, text in enumerate(lists)), (3, 0, "[a park] and 'a road'"))
    found = findings(cli("data", "check", f"karpathy[file={file}]", "--json"))
    found = found["reader: caption that looks like a list: …"]
    assert (found["level"], named(found)) == ("warning", ["d_000.jpg", "d_001.jpg", "d_002.jpg"])
    assert found["text"].endswith("; kept as one caption: write a row per caption, or a json of lists")


def test_a_domain_without_images_has_its_captions_checked(cli: Cli, tmp_path: Path) -> None:
    file = write_domain(tmp_path / "d")
    change(file, (0, 0, "a field"), (16, 1, "a field"))
    result = cli("data", "check", f"karpathy[file={file},images=none]", "--json", "--out", tmp_path / "out")
    assert result.status == 1
    found = findings(result)
    assert set(found) == {"opened without images", "test captions in training"}
    assert found["opened without images"]["count"] == 20
    assert named(found["test captions in training"]) == ["d_016.jpg"]
    written = [file.name for file in (tmp_path / "out").iterdir()]
    assert [name for name in written if name.startswith("exclude-")] == [
        name for name in written if name.startswith("exclude-captions-")
    ]


def test_what_prevents_a_check_is_an_error(cli: Cli, tmp_path: Path) -> None:
    file = write_domain(tmp_path / "d")
    assert cli("data", "check").status == 2
    result = cli("data", "check", f"karpathy[file={file}]", "karpaty[file=x]")
    assert (result.status, result.out) == (2, "")
    assert 'Did you mean "karpathy"' in result.err
    (tmp_path / "taken").touch()
    result = cli("data", "check", f"karpathy[file={file}]", "--out", tmp_path / "taken" / "out")
    assert result.status == 2
    assert "cannot be written to" in result.err
    file.write_text('{"images": [')
    result = cli("data", "check", f"karpathy[file={file}]")
    assert result.status == 2
    assert f"domain 'karpathy[file={file}]'" in result.err
    assert "is not JSON" in result.err


# One domain: counts and coherence


def test_known_counts(tmp_path: Path) -> None:
    domain = read(f"karpathy[file={write_domain(tmp_path / 'd')}]")
    official = {"train": (12, 24), "val": (4, 8), "test": (4, 8)}
    for known, drawn, kind, level in (
        (official, False, "known counts", "note"),
        (official | {"val": (4, 7)}, False, "other caption counts", "warning"),
        (official | {"test": (5, 10)}, False, "other counts", "defect"),
        (official | {"train": (11, 22), "val": (5, 10)}, False, "other counts", "defect"),
        (official | {"train": (11, 22), "val": (5, 10)}, True, "other counts", "note"),
        (official | {"test": (5, 10)}, True, "other counts", "defect"),
    ):
        changed = replace(domain, known_counts={"redrawn": {"test": (1, 1)}, "official": known})
        changed = replace(changed, given=not drawn)
        found = {finding.kind: finding for finding in audited(changed).findings}
        assert list(found) == [kind]
        assert found[kind].level == level
        assert "official" in found[kind].text


@pytest.mark.parametrize(
    ("break_", "problem"),
    [
        (lambda d: replace(d, image_of_caption=d.image_of_caption + 1), "a caption belongs to no image"),
        (lambda d: replace(d, captions=d.captions[1:]), "39 captions but"),
        (lambda d: replace(d, splits={**d.splits, "val": d.splits["train"][:2]}), "2 images stand in split 'val'"),
        (lambda d: replace(d, splits={**d.splits, "val": d.splits["val"][:0]}), "no image is in split 'val'"),
        (lambda d: replace(d, splits={**d.splits, "val": d.splits["val"] + 90}), "names an image twice or leaves"),
        (lambda d: replace(d, splits={"train": np.arange(20)}), "no image is in split 'val'"),
        (lambda d: replace(d, splits={}), "no image is in split 'train'"),
        (lambda d: replace(d, splits={**d.splits, "tset": d.splits["val"]}), "unknown splits ['tset']"),
        (lambda d: replace(d, captions=[*d.captions[:-1], " "]), "1 captions are blank"),
    ],
)
def test_a_domain_that_does_not_hold_together_is_looked_at_as_far_as_it_goes(
    tmp_path: Path, break_: Callable[[Domain], Domain], problem: str
) -> None:
    file = write_domain(tmp_path / "d")
    (tmp_path / "d" / "images" / "d_011.jpg").unlink()
    found = audited(break_(read(f"karpathy[file={file}]")))
    defects = {finding.kind: finding.text for finding in found.findings if finding.level == "defect"}
    assert set(defects) == {"missing images", "incoherent"}
    assert problem in defects["incoherent"]
    assert not found.may_be_ranked


def test_splits_that_share_images_by_design_are_a_warning(tmp_path: Path) -> None:
    domain = read(f"karpathy[file={write_domain(tmp_path / 'd')}]")
    shared = np.concatenate([domain.splits["train"], domain.splits["test"][:3]])
    found = audited(replace(domain, splits={**domain.splits, "train": shared}, overlapping=True))
    assert found.may_be_ranked
    assert {f.kind: f.level for f in found.findings} == {
        "splits that overlap": "warning",
        "test captions in training": "warning",
    }
    assert found.shared.leaking == ("d_016.jpg", "d_017.jpg", "d_018.jpg")


def test_images_in_no_split_are_counted(tmp_path: Path) -> None:
    domain = read(f"karpathy[file={write_domain(tmp_path / 'd')}]")
    [finding] = audited(replace(domain, splits={**domain.splits, "train": domain.splits["train"][2:]})).findings
    assert (finding.kind, finding.level, finding.count) == ("images in no split", "note", 2)


# Twins


def test_test_images_in_training_are_a_defect_until_they_are_excluded(cli: Cli, tmp_path: Path) -> None:
    file = write_domain(tmp_path / "d")
    images, out = tmp_path / "d" / "images", tmp_path / "out"
    for copy, of in ((1, 16), (13, 18), (2, 3)):
        shutil.copy(images / f"d_{of:03d}.jpg", images / f"d_{copy:03d}.jpg")
    Image.open(images / "d_019.jpg").resize((40, 40)).save(images / "d_007.jpg", quality=50)
    result = cli("data", "check", f"karpathy[file={file}]", "--out", out, "--json")
    assert result.status == 1
    found = findings(result)
    assert {kind: (f["level"], named(f)) for kind, f in found.items() if kind != "odd sizes"} == {
        "test images in training": ("defect", ["d_001.jpg", "d_013.jpg"]),
        "test images in training, by look": ("warning", ["d_007.jpg"]),
        "identical images": ("note", ["d_002.jpg", "d_003.jpg"]),
    }
    [name] = file_names([f"karpathy[file={file}]"]).values()
    exclusions = out / f"exclude-{name}-from-{name}.csv"
    assert rows(exclusions) == [{"image": f"d_{i:03d}.jpg", "caption": ""} for i in (1, 7, 13)]
    pairs = {(row["how"], row["image_a"], row["image_b"]) for row in rows(out / f"pairs-{name}-{name}.csv")}
    assert pairs == {
        ("content", "d_001.jpg", "d_016.jpg"), ("content", "d_013.jpg", "d_018.jpg"),
        ("content", "d_002.jpg", "d_003.jpg"), ("look", "d_007.jpg", "d_019.jpg"),
    }  # fmt: skip
    domain, excluded = without(read(f"karpathy[file={file}]"), exclusions)
    assert excluded.images == 3
    assert audited(domain).may_be_ranked


def test_twins_of_two_domains_are_found_through_encoding_and_size(cli: Cli, tmp_path: Path) -> None:
    a, b = write_domain(tmp_path / "a", seed=1), write_domain(tmp_path / "b", seed=2, suffix=".png")
    folder_a, folder_b = tmp_path / "a" / "images", tmp_path / "b" / "images"
    shutil.copy(folder_a / "a_000.jpg", folder_b / "b_017.png")
    with Image.open(folder_a / "a_014.jpg") as image:
        image.resize((150, 140)).save(folder_b / "b_018.png")
    with Image.open(folder_a / "a_016.jpg") as image:
        image.save(folder_b / "b_002.png", format="JPEG", quality=40)
    change(b, (19, 0, "a tile of a called 3"), (0, 0, "a tile 17"), (1, 0, "a tile 17"))
    references, out = [f"karpathy[file={file}]" for file in (a, b)], tmp_path / "out"
    result = cli("data", "check", *references, "--out", out)
    assert result.status == 0
    names = list(file_names(references).values())
    found = rows(out / f"pairs-{names[0]}-{names[1]}.csv")
    assert [(row["how"], row["image_a"], row["split_a"], row["image_b"], row["split_b"]) for row in found] == [
        ("content", "a_000.jpg", "train", "b_017.png", "test"),
        ("look", "a_014.jpg", "val", "b_018.png", "test"),
        ("look", "a_016.jpg", "test", "b_002.png", "train"),
        ("caption", "a_017.jpg", "test", "b_000.png", "train"),
        ("caption", "a_003.jpg", "train", "b_019.png", "test"),
    ]
    lists = {file.name: rows(file) for file in out.glob("exclude-*.csv")}
    assert lists == {
        f"exclude-{kind}{names[x]}-from-{names[y]}.csv": [
            {"image": image, "caption": caption} for image, caption in expected.get((kind, x, y), [])
        ]
        for expected in [{
            ("", 0, 1): [("a_000.jpg", ""), ("a_014.jpg", "")],
            ("", 1, 0): [("b_002.png", "")],
            ("captions-", 0, 1): [("a_003.jpg", "a tile of a called 3")],
            ("captions-", 1, 0): [("b_000.png", "a tile 17"), ("b_001.png", "a tile 17")],
        }]
        for kind in ("", "captions-") for x in (0, 1) for y in (0, 1)
    }  # fmt: skip
    between = json.loads((out / "report.json").read_text())["between"][0]
    counts = ("identical", "alike", "in_train", "in_training", "in_test")
    assert [between["a_in_b"][count] for count in counts] == [1, 2, 1, 1, 1]
    assert [between["b_in_a"][count] for count in counts] == [1, 2, 1, 1, 2]
    assert "images that look alike                           2 of 20          2 of 20" in result.out


def seen_of(bits: NDArray[np.uint64], thumbnails: Pixels, digests: Iterable[str]) -> Seen:
    count = len(bits)
    return Seen({}, {}, list(digests), [Look()] * count, np.ones(count, dtype=bool), bits, thumbnails)


def test_nearest_agrees_with_comparing_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(looks, "_ROWS", 7)
    monkeypatch.setattr(looks, "_COLUMNS", 11)
    draw = np.random.default_rng(5)

    def some(count: int, of: Seen | None) -> Seen:
        """Random signatures; half of them those of `of`, with about as many bits flipped as are allowed."""
        bits = draw.integers(0, 2, (count, 256)).astype(bool)
        thumbnails = draw.integers(0, 256, (count, 192)).astype(np.uint8)
        digests = [f"{draw.integers(10**9)}" for _ in range(count)]
        for i in range(0, count, 2) if of else []:
            j = draw.integers(len(of.digests)) if of else 0
            assert of
            bits[i] = np.unpackbits(of.bits[j].view(np.uint8)).astype(bool)
            bits[i] ^= draw.random(256) < BITS / 256
            noise = draw.normal(0, DIFFERENCE * 1.25, 192)
            thumbnails[i] = np.clip(of.thumbnails[j] + noise, 0, 255).astype(np.uint8)
            if i % 8 == 0:
                bits[i] = np.unpackbits(of.bits[j].view(np.uint8)).astype(bool)
                thumbnails[i], digests[i] = of.thumbnails[j], of.digests[j]
        packed = np.packbits(bits, axis=1).view(np.uint64)
        return seen_of(packed, thumbnails, digests)

    first = some(40, None)
    second = some(53, first)
    whole = Seen({}, {}, first.digests + second.digests, [], np.ones(93, bool),
                 np.concatenate([first.bits, second.bits]),
                 np.concatenate([first.thumbnails, second.thumbnails]))  # fmt: skip
    for a, b in ((second, first), (first, second), (whole, whole)):
        rows, columns = np.arange(len(a.digests)), np.arange(3, len(b.digests))
        expected = {}
        for i in rows.tolist():
            candidates = []
            for j in columns.tolist():
                if a is b and i == j:
                    continue
                bits = sum(
                    int(x ^ y).bit_count() for x, y in zip(a.bits[i].tolist(), b.bits[j].tolist(), strict=True)
                )
                difference = float(np.abs(a.thumbnails[i].astype(float) - b.thumbnails[j]).mean())
                same = a.digests[i] == b.digests[j]
                if same or (bits <= BITS and difference <= DIFFERENCE):
                    candidates.append((not same, bits, difference, j))
            if candidates:
                expected[i] = min(candidates)
        found = nearest(a, rows, b, columns, lambda share: None)
        assert {m.image: (not m.identical, m.bits, pytest.approx(m.difference), m.twin) for m in found} == expected
        assert 10 < len(expected) < len(rows)


def test_many_images_alike_do_not_fill_the_memory_with_pairs() -> None:
    count = 3000  # nine million pairs
    same = seen_of(np.zeros((count, 4), np.uint64), np.zeros((count, 192), np.uint8), map(str, range(count)))
    tracemalloc.start()
    found = nearest(same, np.arange(count), same, np.arange(count), lambda share: None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**29
    assert [match.twin for match in found] == [1] + [0] * (count - 1)


# Captions


def test_caption_facts_agree_with_counting_one_by_one(tmp_path: Path) -> None:
    file = write_domain(tmp_path / "d", images=60)
    content, draw = json.loads(file.read_text()), np.random.default_rng(3)
    for entry in content["images"]:
        count = int(draw.choice([3, 3, 3, 2, 5]))
        entry["sentences"] = [{"raw": f"word{min(draw.integers(40), draw.integers(40))}"} for _ in range(count)]
    file.write_text(json.dumps(content))
    domain = read(f"karpathy[file={file}]")
    facts = caption_facts({name: split_of(domain, name) for name in SPLITS})
    texts = {
        split: [[s["raw"] for s in e["sentences"]] for e in content["images"] if e["split"] == split]
        for split in SPLITS
    }
    for split, images in texts.items():
        elsewhere = [
            [any(text in other for j, other in enumerate(images) if j != i) for text in captions]
            for i, captions in enumerate(images)
        ]
        assert facts[split].images == len(images)
        assert facts[split].captions == sum(map(len, images))
        assert facts[split].usual == 3
        assert facts[split].distinct_per_image == pytest.approx(np.mean([len(set(c)) for c in images]))
        assert facts[split].repeating == sum(len(set(c)) < 3 for c in images)
        assert facts[split].elsewhere == sum(map(sum, elsewhere))
        assert facts[split].sharing == sum(map(any, elsewhere))
        assert facts[split].unowned == sum(map(all, elsewhere))
    train, validation, tested = ([text for image in texts[split] for text in image] for split in SPLITS)
    training = train + validation
    assert facts["test"].in_train == sum(text in train for text in tested)
    assert facts["test"].in_training == sum(text in training for text in tested)
    assert facts["val"].in_train == sum(text in train for text in validation)
    assert (facts["train"].in_train, facts["val"].in_training) == (None, None)
    assert 0 < facts["test"].in_train < facts["test"].in_training


# Floors, and how domains speak


def test_floors_of_the_test_split_are_shown_and_reported(cli: Cli, tmp_path: Path) -> None:
    file = write_domain(tmp_path / "d")
    change(file, (16, 0, "a field"), (17, 0, "a field"), (17, 1, "a field"))
    domain = read(f"karpathy[file={file}]")
    classes = [["lake", "wood"][index % 2] for index in range(20)]
    found = audited(replace(domain, attributes={"scene_class": classes}))
    assert found.floors["expected"].class_oracle
    result = cli("data", "check", f"karpathy[file={file}]", "--out", tmp_path / "out")
    reported = json.loads((tmp_path / "out" / "report.json").read_text())["domains"][0]["floors"]
    assert [*reported] == ["expected", "optimistic", "pessimistic"]
    expected = reported["expected"]
    assert expected == as_json(found.floors)["expected"] | {"class_oracle": None}
    # Four images of two captions. "a field" is one's first, and both of another's: best ranked 2/3 right there.
    assert expected["random"]["i2t_R@1"] == 25
    assert expected["ceiling"]["i2t_R@1"] == pytest.approx(100 * (3 + 2 / 3) / 4)
    assert expected["ceiling"]["t2i_R@1"] == pytest.approx(100 * 7 / 8)
    lines = {line[2:41].strip(): line[41:].split() for line in result.out.splitlines()}
    assert lines["test split, ties by expectation"][:3] == ["mR", "i2t", "@1"]
    assert lines["random order"] == [f"{value:.2f}" for value in expected["random"].values()]
    assert lines["ceiling: equal captions score equally"][1] == "91.67"
    assert lines["knows the scene class alone"] == ["–"] * 7


def test_the_floors_of_the_page_are_computed(capsys: pytest.CaptureFixture[str]) -> None:
    page = Path(__file__).parent.parent / "docs" / "checking-data.md"
    [code] = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    exec(code, {})
    # Of the shared caption's two images one has another caption to be found by.
    assert float(capsys.readouterr().out.split()[0]) == pytest.approx(100 * (2 + 1 / 2) / 3)


def test_a_domain_that_does_not_hold_together_has_no_floors(tmp_path: Path) -> None:
    domain = read(f"karpathy[file={write_domain(tmp_path / 'd')}]")
    for broken in (
        replace(domain, attributes={"scene_class": ["lake"]}),
        replace(domain, captions=domain.captions[:-2], image_of_caption=domain.image_of_caption[:-2]),
        replace(domain, splits={}),
    ):
        assert audited(broken).floors == {}


def test_how_differently_two_domains_speak_is_shown(cli: Cli, tmp_path: Path) -> None:
    a, b = (write_domain(tmp_path / name, seed=seed) for seed, name in enumerate(("a", "b")))
    result = cli("data", "check", *(f"karpathy[file={file}]" for file in (a, b)), "--out", tmp_path / "out")
    # "a tile 3", "a tile of a called 3": of a's nine words all are b's too; of b's two are its own.
    vocabulary = json.loads((tmp_path / "out" / "report.json").read_text())["between"][0]["vocabulary"]
    assert vocabulary["words_a"] == vocabulary["words_b"] == 20 * 9
    assert (vocabulary["a_outside_b"], vocabulary["b_outside_a"]) == (0, 20 * 2)
    assert 0 < vocabulary["divergence"] < 1
    said = " ".join(result.out.split())
    assert "caption words that the other lacks 0.0% 22.2%" in said
    assert f"divergence of word frequencies, bits {vocabulary['divergence']:.3f}" in said


# Resuming, reporting, running


def test_a_stopped_check_goes_on_where_it_was(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("data", "check", f"karpathy[file={write_domain(tmp_path / 'd', images=40)}]")
    decode, calls = looks.decode, list[str]()

    def stop_at(image: str) -> None:
        calls.clear()
        stop = hashlib.sha256((tmp_path / "d" / "images" / image).read_bytes()).hexdigest() if image else ""

        def counted(content: bytes, where: str) -> Pixels:
            calls.append(where)
            if where == stop:
                raise KeyboardInterrupt
            return decode(content, where)

        monkeypatch.setattr(looks, "decode", counted)

    stop_at("d_024.jpg")
    result = cli(*command)
    assert result.status == 130
    assert "interrupted; run the same command again" in result.err
    stop_at("")
    assert cli(*command).status == 0
    assert len(calls) == 40 - 24
    stop_at("")
    assert cli(*command).status == 0
    assert calls == []
    assert cli(*command, "--verify").status == 0
    assert len(calls) == 40


def test_what_does_not_follow_from_the_content_is_asked_again(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("data", "check", f"karpathy[file={write_domain(tmp_path / 'd')}]", "--json")
    content = FolderImages.content

    for good_reads in (0, 1):  # it fails when it is hashed, or when it is opened
        reads = defaultdict[int, int](int)

        def fail(self: FolderImages, index: int, reads: dict[int, int] = reads, good: int = good_reads) -> bytes:
            reads[index] += 1
            if index == 9 and reads[index] > good:
                raise DataError("image d_009.jpg cannot be read: Input/output error")
            return content(self, index)

        monkeypatch.setattr(FolderImages, "content", fail)
        result = cli(*command)
        assert result.status == 1
        found = findings(result)
        assert named(found["broken images"]) == ["d_009.jpg"]
        assert "Input/output error" in found["broken images"]["items"][0]["problem"]
    monkeypatch.setattr(FolderImages, "content", content)
    assert cli(*command).status == 0


@pytest.mark.parametrize("name", ["pillow", "tifffile", "imagecodecs"])
def test_what_one_decoder_cannot_read_is_asked_of_another(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    command = ("data", "check", f"karpathy[file={write_domain(tmp_path / 'd')}]", "--json")
    with monkeypatch.context() as before:
        before.setattr("PIL.Image.open", lambda *_, **__: 1 / 0)
        assert len(named(findings(cli(*command))["broken images"])) == 20
    assert cli(*command).status == 1
    versions = library_versions

    def newer(*names: str) -> dict[str, str]:
        return versions(*names) | {name: "2099.1"}

    monkeypatch.setattr(looks, "library_versions", newer)
    assert cli(*command).status == 0


def test_an_image_that_changes_during_the_check_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = read(f"karpathy[file={write_domain(tmp_path / 'd')}]")
    domain.images.digest(0)
    Image.fromarray(texture(77)).save(tmp_path / "d" / "images" / "d_000.jpg")
    seen = look_at(domain.images, 20, "d")
    assert list(seen.broken) == [0]
    assert "has changed while it was in use" in seen.broken[0]


def test_a_second_check_writes_the_same_bytes(cli: Cli, tmp_path: Path) -> None:
    files = [write_domain(tmp_path / name, seed=seed) for seed, name in enumerate(("a", "b"))]
    shutil.copy(tmp_path / "a" / "images" / "a_001.jpg", tmp_path / "b" / "images" / "b_016.jpg")
    command = ("data", "check", *(f"karpathy[file={file}]" for file in files), "--out", tmp_path / "out")
    first = cli(*command)
    before = tree(tmp_path / "out")
    assert "opening the images of karpathy" in first.err
    second = cli(*command)
    assert tree(tmp_path / "out") == before
    assert second.out == first.out
    assert "opening the images" not in second.err
    assert sorted(name.split("-")[0] for name in before) == [
        *["exclude"] * 8, *["pairs"] * 3, *["repairs"] * 2, "report.json",
    ]  # fmt: skip


def test_lists_that_cannot_be_made_are_not_left_from_before(cli: Cli, tmp_path: Path) -> None:
    file, out = write_domain(tmp_path / "d"), tmp_path / "out"
    cli("data", "check", f"karpathy[file={file}]", "--out", out)
    [name] = file_names([f"karpathy[file={file}]"]).values()
    assert rows(out / f"exclude-{name}-from-{name}.csv") == []
    shutil.rmtree(tmp_path / "d" / "images")
    (tmp_path / "d" / "images").mkdir()
    result = cli("data", "check", f"karpathy[file={file}]", "--out", out)
    assert result.status == 1
    assert "(and 17 more; see" in result.out
    assert not (out / f"exclude-{name}-from-{name}.csv").exists()


def test_a_caption_that_is_a_formula_is_excluded_by_its_words_and_shown_as_text(cli: Cli, tmp_path: Path) -> None:
    file, out, formula = write_domain(tmp_path / "d"), tmp_path / "out", '=HYPERLINK("x", "a ""field""")'
    change(file, (0, 0, formula), (16, 1, formula))
    assert cli("data", "check", f"karpathy[file={file}]", "--out", out).status == 0
    assert [row["caption"] for row in rows(next(out.glob("pairs-*.csv")))] == [f"'{formula}"]
    [exclusions] = out.glob("exclude-captions-*.csv")
    assert rows(exclusions) == [{"image": "d_000.jpg", "caption": formula}]
    _, excluded = without(read(f"karpathy[file={file}]"), exclusions)
    assert (excluded.images, excluded.captions) == (0, 1)


def test_names_are_safe_in_a_file_system() -> None:
    long = "precomp[folder=" + "x/" * 200 + "]"
    names = [
        "urbancross/finland",
        "karpathy[file=../../a b.json]",
        "rsicd",
        "RSICD",
        "rsicd[]",
        long,
        long + "x",
        "/",
    ]
    safe = file_names(names)
    assert list(safe) == names
    assert safe["urbancross/finland"] == "urbancross-finland"
    assert len({name.casefold() for name in safe.values()}) == len(names)
    for name in safe.values():
        assert 0 < len(name) <= 60
        assert not set(name) & set('/\\[]:*?"<>| ')
        assert name[0] != "."


def test_letters_of_any_script_stay_in_file_names() -> None:
    names = ["Øster.csv", "机场", "हिन्दी", "a\u0301/b", "á/b", "csv[file=x.csv,domain=Åre]"]
    safe = file_names(names)
    assert list(safe.values())[:4] == ["Øster.csv", "机场", "हिन्दी", "á-b"]
    assert safe["á/b"].startswith("á-b-")  # Unicode has two spellings of it, and some file systems one
    assert safe["csv[file=x.csv,domain=Åre]"] == "csv-file-x.csv-domain-Åre"


def test_long_names_keep_both_ends() -> None:
    names = [
        f"csv[file=/data/{'cities/' * 20}c.csv,domain_column=city,domain={city}]" for city in ("Lyon", "机场" * 9)
    ]
    names += ["机" * 200, "机" * 201]
    safe = list(file_names(names).values())
    assert re.fullmatch(r"csv-file-data-cities-[0-9a-f]{8}-umn-city-domain-Lyon", safe[0])
    assert len(set(safe)) == 4
    for name in safe:
        assert len(name.encode()) <= 60
    assert len(f"exclude-captions-{safe[2]}-from-{safe[3]}.csv") < 130


def test_rows_that_stand_twice_are_a_warning_with_their_lines(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    lines = ["image_name,description,split"]
    for number, split in enumerate(["train"] * 6 + ["val"] * 2 + ["test"] * 2):
        Image.fromarray(texture(number)).save(tmp_path / "images" / f"{number}.png")
        lines += [f"{number}.png,tile {number},{split}", f"{number}.png,the tile called {number},{split}"]
    command = ("data", "check", f"csv[file={tmp_path}/t.csv,split_column=split]")
    for copies, text in (([], ""), ([1], "1 place: "), ([1, 4], "2 places: ")):
        (tmp_path / "t.csv").write_text("\n".join(lines + [lines[number] for number in copies]) + "\n")
        result = cli(*command, "--json")
        assert result.status == 0
        warned = [finding for finding in findings(result).values() if finding["level"] == "warning"]
        assert [(item["image"], item["problem"]) for finding in warned for item in finding["items"]] == [
            (f"{(number - 1) // 2}.png", f"line {22 + k} is the same row as line {number + 1}")
            for k, number in enumerate(copies)
        ]
        assert all(text in finding["text"] for finding in warned)
    assert "1.png: line 23 is the same row as line 5" in cli(*command).out


def test_words_of_a_file_in_another_encoding_are_shown(cli: Cli, tmp_path: Path) -> None:
    rows_ = [f"{k}.png,la forêt {k},{split}" for k, split in enumerate(["train"] * 4 + ["val", "test"])]
    (tmp_path / "t.csv").write_bytes("\n".join(["image_name,description,split", *rows_]).encode("latin-1"))
    reference = f"csv[file={tmp_path}/t.csv,split_column=split,images=none{{}}]"
    refused = cli("data", "check", reference.format(""))
    assert (refused.status, refused.out) == (2, "")
    assert "t.csv:2: byte 0xea is not UTF-8" in refused.err
    shown = cli("data", "check", reference.format(",encoding=latin-1"))
    assert "not ASCII: …; read as latin-1" in shown.out
    assert "'0.png,la forêt 0,train'" in shown.out


def test_images_of_another_domain_of_the_file_are_not_said_to_have_no_caption(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    lines = ["image_name,description,city,split"]
    for number, split in enumerate(["train", "train", "val", "val", "test", "test"]):
        Image.fromarray(texture(number)).save(tmp_path / "images" / f"{number}.png")
        lines.append(f"{number}.png,tile {number},{'Lyon' if number % 2 else 'Graz'},{split}")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    options = "split_column=split,domain_column=city,domain=Lyon"
    result = cli("data", "check", f"csv[file={tmp_path}/t.csv,{options}]", "--json")
    assert result.status == 0
    assert findings(result)["images without captions"]["text"] == (
        "3 images beside the domain's 3 are named by none of its captions"
    )


def test_an_image_with_a_dot_before_its_name_is_not_one_without_caption(cli: Cli, tmp_path: Path) -> None:
    file = write_domain(tmp_path / "d")
    file.write_text(file.read_text().replace('"d_005.jpg"', '"./d_005.jpg"'))
    shutil.copy(tmp_path / "d" / "images" / "d_000.jpg", tmp_path / "d" / "images" / "other.jpg")
    found = findings(cli("data", "check", f"karpathy[file={file}]", "--json"))["images without captions"]
    assert named(found) == ["other.jpg"]
    assert found["text"] == "1 image beside the domain's 20 is named by none of its captions"


def test_what_macos_lays_beside_images_is_no_image_without_caption(cli: Cli, tmp_path: Path) -> None:
    file = write_domain(tmp_path / "d")
    (tmp_path / "d" / "images" / "._d_000.jpg").write_bytes(b"resource fork")
    assert "images without captions" not in findings(cli("data", "check", f"karpathy[file={file}]", "--json"))
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "d" / "images")
    reference = f"karpathy[file={file},images={packed}]"
    assert "images without captions" not in findings(cli("data", "check", reference, "--json"))


def test_an_image_that_a_zip_holds_below_another_folder_than_the_rest_is_told(cli: Cli, tmp_path: Path) -> None:
    """A missing image whose thumbnail lies elsewhere in the zip, say."""
    file = write_domain(tmp_path / "d")
    images = sorted((tmp_path / "d" / "images").iterdir())
    with zipfile.ZipFile(tmp_path / "i.zip", "w") as packed:
        for image in images:
            packed.write(image, f"{'thumbs' if image == images[3] else 'full/size'}/{image.name}")
    reference = f"karpathy[file={file},images={tmp_path / 'i.zip'}]"
    found = findings(cli("data", "check", reference, "--json"))["several folders"]
    assert found["level"] == "note"
    assert found["text"] == "1 of 20 images is below another folder of the zip than most"
    assert named(found) == [images[3].name]
    assert found["items"][0]["problem"] == "found in 'thumbs/', most in 'full/size/'"


def test_a_folder_beside_the_images_that_cannot_be_read_prevents_no_check(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(place: Path) -> list[str]:
        raise DataError(f"folder {place} cannot be read: Permission denied: 'lost+found'")

    file = write_domain(tmp_path / "d")
    monkeypatch.setattr("urbancross_bench.data.audit.list_files", refuse)
    result = cli("data", "check", f"karpathy[file={file}]", "--json")
    assert result.status == 0
    assert "not looked for: folder" in findings(result)["images without captions"]["text"]


def test_an_alias_stands_for_its_members_and_segments_are_opened(cli: Cli, tmp_path: Path) -> None:
    for number, country in enumerate(("finland", "germany", "spain")):
        folder = tmp_path / country.capitalize()
        (folder / "images").mkdir(parents=True)
        lines = ["image_name,description"]
        for index in range(20):
            name = f"{country[0]}{index}.jpg"
            Image.fromarray(texture(100 * number + index)).save(folder / "images" / name)
            lines.append(f"{name},{country} from above {index}")
            (folder / "image_segments" / f"{country[0]}{index}").mkdir(parents=True)
            for part in range(2):
                piece = folder / "image_segments" / f"{country[0]}{index}" / f"{country[0]}{index}_{part}.jpg"
                Image.fromarray(texture(5000 + 100 * number + 2 * index + part, size=20)).save(piece)
        (folder / f"instructblip_generation_{country}_refine.csv").write_text("\n".join(lines))
    truncate(tmp_path / "Spain" / "image_segments" / "s4" / "s4_1.jpg")
    shutil.rmtree(tmp_path / "Germany" / "image_segments" / "g3")
    result = cli("data", "check", f"urbancross/integration[folder={tmp_path}]", "--json")
    assert result.status == 1
    report = json.loads(result.out)
    assert [domain["name"].split("[")[0] for domain in report["domains"]] == [
        f"urbancross/{country}" for country in ("finland", "germany", "spain")
    ]
    assert [domain["may_be_ranked"] for domain in report["domains"]] == [True, True, False]
    assert named(findings(result, 1)["images without segments"]) == ["g3.jpg"]
    broken = findings(result, 2)["broken segments"]
    assert (named(broken), broken["level"]) == (["s4.jpg"], "defect")
    assert broken["items"][0]["where"].endswith("s4_1.jpg")
    assert len(report["between"]) == 3


class Failing(ImageSource):
    """A plugin's source that keeps no promise."""

    def digest(self, index: int) -> str:
        if index == 1:
            raise RuntimeError("no digest")
        return f"failing {index}"

    def read(self, index: int) -> Pixels:
        if index == 2:
            raise ZeroDivisionError("no pixels")
        return texture(index)


def test_a_source_of_a_plugin_costs_no_more_than_its_images(tmp_path: Path) -> None:
    domain = read(f"karpathy[file={write_domain(tmp_path / 'd')}]")
    found = audited(replace(domain, images=Failing()))
    assert found.opened.seen.broken == {1: "no digest", 2: "no pixels"}
    assert int(found.opened.seen.decoded.sum()) == 18


def test_one_file_plugins_are_loaded(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "checked_dataset.py").write_text(
        "from urbancross_bench.interfaces import Dataset, hookimpl, register\n"
        "class Broken(Dataset):\n"
        "    def read(self, member):\n"
        "        raise IndexError('off by one')\n"
        "@hookimpl\n"
        "def register_datasets():\n"
        "    return [register('broken', 'checked_dataset:Broken', summary='mine')]\n"
    )
    result = cli("data", "check", "broken", "--plugin", tmp_path / "checked_dataset.py")
    assert result.status == 2
    assert "off by one" in result.err
    assert "Traceback" not in result.err


# The data of the field


@pytest.mark.long
@pytest.mark.skipif(not all((SHARED / name).is_dir() for name in ("rsicd", "samples")), reason=f"none at {SHARED}")
def test_the_figures_of_the_field_are_reproduced(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("URBANCROSS_DATA", str(SHARED))
    text_only = "precomp[folder=precomp/rsitmd_precomp,images=none]"
    names = sorted(path.name for path in (SHARED / "samples" / "rsitmd_images").iterdir())
    samples = samples_of_rsitmd(tmp_path, names)
    result = cli("data", "check", "rsicd", "ucm", text_only, samples, "--json", "--out", tmp_path / "out")
    assert result.status == 1  # the text files have no images
    report = json.loads(result.out)
    *domains, few = report["domains"]
    rsicd, ucm, rsitmd = domains
    assert few["may_be_ranked"]
    floors = [[round(f["mR"], 2) for f in d["floors"]["expected"].values() if f] for d in domains]
    assert floors == [[0.49, 14.53, 95.95, 98.63], [2.52, 46.88, 70.39, 77.01], [1.18, 99.95, 99.98]]
    assert [domain["may_be_ranked"] for domain in (rsicd, ucm, rsitmd)] == [True, True, False]

    test = rsicd["splits"]["test"]
    assert (test["elsewhere"], test["captions"]) == (641, 5465)
    assert (test["sharing"], test["repeating"], test["images"]) == (410, 1030, 1093)
    assert (test["in_train"], test["in_training"]) == (612, 636)
    distinct = [round(rsicd["splits"][split]["distinct_per_image"], 2) for split in ("train", "val", "test")]
    assert distinct == [2.04, 2.65, 3.31]

    test = ucm["splits"]["test"]
    assert (test["in_train"], test["captions"]) == (576, 1050)
    assert (test["unowned"], test["images"]) == (154, 210)
    assert findings(result, 1)["odd sizes"]["count"] == 44
    assert findings(result, 2)["reader: blank caption"]["count"] == 20
    assert rsitmd["splits"]["test"]["in_training"] == 54

    between = {(b["a"], b["b"]): b for b in report["between"]}
    assert between["rsicd", text_only]["a_in_b"]["in_training"] == 839
    assert between["rsicd", text_only]["a_in_b"]["test_captions"] == 5465

    for number in (0, 1):
        found = findings(result, number)
        assert "official" in found["known counts"]["text"]
        assert found["identical images"]["count"] == 2
        assert not {"test images in training", "test images in training, by look"} & set(found)
    assert findings(result, 0)["images alike"]["count"] == 4
    assert (between["rsicd", "ucm"]["a_in_b"]["identical"], between["rsicd", "ucm"]["a_in_b"]["alike"]) == (0, 0)

    # 22 of the 23 samples are images of RSICD: re-encoded, 256 pixels for 224. The classes in their names agree.
    [file] = (tmp_path / "out").glob("pairs-rsicd-karpathy*.csv")
    found = [(row["image_a"], row["image_b"]) for row in rows(file)]
    assert len(found) == 22
    assert {b for _, b in found} == {*names} - {"airport_4688.png"}
    assert all(a.split("_")[0] == b.split("_")[0] for a, b in found)
    [file] = (tmp_path / "out").glob("exclude-karpathy*-from-rsicd.csv")
    assert len(rows(file)) == 4  # the others are no test images of RSICD


def samples_of_rsitmd(folder: Path, names: list[str]) -> str:
    """The plugin reference of a domain of some of its images."""
    splits = ["test", "val", *["train"] * (len(names) - 2)]
    entries = [
        {"filename": name, "split": split, "sentences": [{"raw": f"sample {name}"}]}
        for name, split in zip(names, splits, strict=True)
    ]
    (folder / "samples.json").write_text(json.dumps({"images": entries}))
    return f"karpathy[file={folder / 'samples.json'},images=samples/rsitmd_images]"
