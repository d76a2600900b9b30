"""Damaged data sets: whatever happens to the files of a layout, there is a named error or the right pairs.

Each case writes a small valid data set, damages some of its files, and reads, checks and decodes what is left. An
independent slow parser says which pairs the damaged files state; nothing else may come out. Pixels say whose they
are.
`benchmarks/fuzz_data.py` runs more cases.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import shutil
import signal
import struct
import traceback
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_files import (
    LAYOUTS,
    Layout,
    Tile,
    encoded,
    read,
    segments_of,
    tags_in,
    tiles,
    write_json,
    write_urbancross_tree,
)

from urbancross_bench.data.domain import check, split_of
from urbancross_bench.errors import DataError, UsageError
from urbancross_bench.interfaces import Domain, ImageSource
from urbancross_bench.references import Reference

CASES = 400  # of the fast share
_LIMIT = 60  # seconds that a case may take before it counts as a hang


def countries_with_places(folder: Path, some: Sequence[Tile]) -> Reference:
    """UrbanCross with SkyScript's metadata and without lists."""
    reference = write_urbancross_tree(folder, some, zipped=True)
    entry = {
        "bbox": [24.9, 60.0, 25.1, 60.2],
        "center_tags": {"amenity": "school"},
        "surrounding_tags": [{"a": "b"}],
    }
    file = write_json(folder / "meta.json", {tile.tag: entry for tile in some}, indent=1)
    return replace(reference, options={**reference.options, "metadata": str(file)})


FUZZED: dict[str, Layout] = {**LAYOUTS, "urbancross, metadata": countries_with_places}


# --- damage -----------------------------------------------------------------------------------------------------

TOKENS = (
    *(b'"', b"'", b",", b"\n", b"\r", b"\t", b"\\", b"\0", b"{", b"}", b"[", b"]", b":", b'""', b'","', b'"\n"'),
    *(
        b"\xff",
        b"\xe9",
        b"\xef\xbb\xbf",
        b"\xed\xa0\x80",
        "\u2028".encode(),
        "\x85".encode(),
        b"../",
        b"/etc/passwd",
    ),
    *(b"\\ud800", b"\\u0000", b"NaN", b"1e999", b"-1", b"null", b"9" * 5000, b"b'", b"x" * 400, b"train", b"=1+1"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, 0, -1, 2.5, float("nan"), 10**400, "", " ", "train", "../x.png", "\ud800", "\0", [], {}, [[]]),
    *({"raw": 1}, {"filename": "x"}, ["a", 3], "x" * 5000, [None]),
)


def flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def drop(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content[:start] + content[start + rng.choice((1, 1, 2, 5, 40, 400)) :]


def insert(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content) + 1)
    return content[:start] + rng.choice(TOKENS) + content[start:]


def splice(content: bytes, rng: random.Random) -> bytes:
    start, at = (rng.randrange(len(content) + 1) for _ in range(2))
    return content[:at] + content[start : start + rng.randrange(200)] + content[at:]


def lines_changed(content: bytes, rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    a, b = (rng.randrange(len(lines)) for _ in range(2))
    how = rng.randrange(6)
    if how == 0:
        del lines[a]
    elif how == 1:
        lines.insert(b, lines[a])
    elif how == 2:
        lines[a], lines[b] = lines[b], lines[a]
    elif how == 3:
        del lines[min(a, b) : max(a, b)]
    elif how == 4:
        lines[a] = b""
    else:
        lines.insert(a, b"")
    return b"\n".join(lines)


def quotes_changed(content: bytes, rng: random.Random) -> bytes:
    """The field's own punctuation, taken out or put in."""
    places = [i for i, byte in enumerate(content) if byte in b"\",'\n{}[]:"]
    if not places:
        return content
    at = rng.choice(places)
    if rng.random() < 0.5:
        return content[:at] + content[at + 1 :]
    return content[:at] + rng.choice((b'"', b",", b"\n")) + content[at:]


def encoding_changed(content: bytes, rng: random.Random) -> bytes:
    text = content.decode(errors="replace")
    kind = rng.choice(("gb18030", "utf-16", "utf-8-sig", "latin-1", "utf-7", "CRLF", "CR"))
    if kind in ("CRLF", "CR"):
        return text.replace("\n", "\r\n" if kind == "CRLF" else "\r").encode()
    return text.encode(kind, errors="replace")


def json_changed(content: bytes, rng: random.Random) -> bytes:
    """A value somewhere becomes another, goes, or stands twice; other files are left to the bytes' luck."""
    try:
        root = json.loads(content)
    except ValueError:
        return flip(content, rng)
    node = root
    while isinstance(node, (dict, list)) and node:
        key = rng.choice([*node]) if isinstance(node, dict) else rng.randrange(len(node))
        inner = node[key]
        if not isinstance(inner, (dict, list)) or not inner or rng.random() < 0.25:
            how = rng.randrange(4)
            if how == 0:
                del node[key]
            elif how == 1 and isinstance(node, list):
                node.insert(rng.randrange(len(node)), inner)
            else:
                node[key] = rng.choice(VALUES)
            break
        node = inner
    return json.dumps(root, indent=rng.choice((None, 1))).encode("utf-8", "surrogatepass")


def zip_changed(content: bytes, rng: random.Random) -> bytes:
    """Headers with wrong bytes; members that lead out, stand twice, or claim to be encrypted."""
    how = rng.randrange(4)
    if how == 0:
        marks = [i for i in range(len(content) - 4) if content[i : i + 2] == b"PK"]
        changed = bytearray(content)
        for _ in range(rng.choice((1, 2, 4)) if marks else 0):
            at = min(rng.choice(marks) + rng.randrange(46), len(content) - 1)
            changed[at] = rng.randrange(256)
        return bytes(changed)
    if how == 1:
        return flip(content, rng)
    buffer = io.BytesIO(content)
    try:
        with zipfile.ZipFile(buffer, "a") as opened:
            info = zipfile.ZipInfo("x")
            names = opened.namelist() or ["a.png"]
            again = rng.choice(names)
            info.filename = rng.choice(
                ("../x.png", "/x.png", "a\\b.png", again, f"sub/{again}", f"__MACOSX/{again}", "")
            )
            opened.writestr(info, encoded(np.full((4, 4, 3), 255, np.uint8)))
    except (zipfile.BadZipFile, struct.error, ValueError, OSError):
        return cut(content, rng)
    return buffer.getvalue()


def image_changed(content: bytes, rng: random.Random) -> bytes:
    how = rng.randrange(5)
    if how == 0:
        return b""
    if how == 1:
        return b"no image at all"
    if how == 2:
        at = rng.randrange(60)
        return content[:at] + bytes([rng.randrange(256)]) + content[at + 1 :]
    if how == 3:
        return cut(content, rng)
    return flip(content, rng)


TEXT_DAMAGE = (
    flip,
    cut,
    drop,
    insert,
    insert,
    splice,
    *[lines_changed] * 3,
    *[quotes_changed] * 2,
    encoding_changed,
)
DAMAGE: dict[str, tuple[Callable[[bytes, random.Random], bytes], ...]] = {
    ".json": (*TEXT_DAMAGE, *[json_changed] * 6),
    ".jsonl": TEXT_DAMAGE,
    ".csv": TEXT_DAMAGE,
    ".txt": TEXT_DAMAGE,
    ".zip": (zip_changed, zip_changed, zip_changed, cut, drop),
    ".png": (image_changed,),
    ".tif": (image_changed,),
    ".arrow": (flip, cut, drop, flip, flip),
    ".parquet": (flip, cut, drop, flip, flip),
}


def damage_a_file(folder: Path, rng: random.Random) -> str:
    """Damage one file of a tree; what was done, in words."""
    files = sorted((f for f in folder.rglob("*") if f.is_file() and not f.is_symlink()), key=os.fsencode)
    if not files:
        return "nothing left"
    kinds = sorted({file.suffix for file in files})
    weights = [
        {".png": 1, ".tif": 1, ".json": 5, ".csv": 5, ".txt": 5, ".jsonl": 5}.get(kind, 3) for kind in kinds
    ]
    kind = rng.choices(kinds, weights)[0]
    file = rng.choice([file for file in files if file.suffix == kind])
    said = file.relative_to(folder).as_posix()
    if rng.random() < 0.12:
        how = rng.choice(
            ("gone", "a folder", "empty", "a link to nowhere", "a link to itself", "a pipe", "renamed")
        )
        if how == "renamed":
            file.rename(file.with_name(os.fsdecode(b"caf\xe9") + file.suffix))
        elif how == "empty":
            file.write_bytes(b"")
        else:
            file.unlink()
        if how == "a folder":
            file.mkdir()
        elif how == "a link to nowhere":
            file.symlink_to(file.with_name("nowhere"))
        elif how == "a link to itself":
            file.symlink_to(file)
        elif how == "a pipe" and file.suffix in (".png", ".tif"):
            os.mkfifo(file)
        return f"{said} is {how}"
    change = rng.choice(DAMAGE.get(kind, TEXT_DAMAGE))
    file.write_bytes(change(file.read_bytes(), rng))
    return f"{said}: {change.__name__}"


# --- what the damaged files state, by slow parsers of our own ---------------------------------------------------

Pairs = set[tuple[str, str]]  # of names and captions


def text_of(file: Path, reference: Reference) -> str:
    return file.read_bytes().decode(str(reference.options.get("encoding", "utf-8"))).removeprefix("\ufeff")


def rows_of_csv(text: str, separator: str) -> Iterator[list[str]]:
    """Fields letter by letter. A quote opens a field where it begins it, and is a letter within a bare one."""
    row, field, state = list[str](), "", "start"  # of a field; then "bare", "quoted", or "closed" after a quote
    for letter in [*text, ""]:
        if state == "quoted" and letter == '"':
            state = "closed"
        elif state == "closed" and letter == '"':
            state, field = "quoted", field + letter
        elif state == "quoted":
            field += letter
        elif letter == separator:
            row, field, state = [*row, field], "", "start"
        elif letter in ("\n", "\r", ""):
            if row or field or state == "closed":
                yield [*row, field]
            row, field, state = [], "", "start"
        elif state == "start" and letter == '"':
            state = "quoted"
        else:
            state, field = "bare", field + letter


def pairs_of_csv(file: Path, reference: Reference) -> Pairs:
    header, *rows = rows_of_csv(text_of(file, reference), str(reference.options.get("separator", ",")))
    name = str(reference.options.get("image_column", "image_name"))
    captions: Any = reference.options.get("caption_columns", ["description"])
    columns, found = [column.strip() for column in header], Pairs()
    for row in rows:
        values = dict(zip(columns, row, strict=False))
        found |= {(values[name].strip(), values[column].strip()) for column in captions if column in values}
    return found


def pairs_of_karpathy(file: Path, reference: Reference) -> Pairs:
    entries = json.loads(text_of(file, reference))["images"]
    return {(entry["filename"].strip(), s["raw"].strip()) for entry in entries for s in entry["sentences"]}


def pairs_of_pir(file: Path, reference: Reference) -> Pairs:
    found = Pairs()
    for row in json.loads(text_of(file, reference)):
        texts = row["caption"] if isinstance(row["caption"], list) else [row["caption"]]
        found |= {(row["image"].strip(), text.strip()) for text in texts}
    return found


def pairs_of_json(file: Path, reference: Reference) -> Pairs:
    text = text_of(file, reference)
    if file.suffix == ".jsonl":
        rows = [json.loads(line) for line in text.split("\n") if line.strip()]
        return {(row["file"].strip(), row["text"].strip()) for row in rows}
    content = json.loads(text)
    by_name = content.items() if isinstance(content, dict) else ((r["image"], r["captions"]) for r in content)
    return {(name.strip(), text.strip()) for name, texts in by_name for text in texts}


def pairs_of_precomp(file: Path, reference: Reference) -> Pairs:
    def lines(file: Path) -> list[str]:
        return text_of(file, reference).replace("\r\n", "\n").removesuffix("\n").split("\n")

    texts, names = lines(file), [n.strip() for n in lines(file.with_name(file.name.replace("caps", "filename")))]
    names = [n[2:-1] if n.startswith(("b'", 'b"')) else n for n in names]
    each = 1 if len(texts) == len(names) else int(str(reference.options["captions_per_image"]))
    return {(names[k // each], text.strip()) for k, text in enumerate(texts) if k // each < len(names)}


def pairs_of_table(file: Path, reference: Reference) -> Pairs:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(file) if file.suffix == ".parquet" else pa.ipc.open_stream(file.read_bytes()).read_all()
    rows = table.select(["filename", "captions"]).to_pylist()
    return {(row["filename"].strip(), text.strip()) for row in rows for text in row["captions"]}


def pairs_of_metadata(file: Path, reference: Reference) -> Pairs:
    """Of an image folder; images go by the last part of their names."""
    if file.suffix == ".jsonl":
        rows, rest = list[Any](), text_of(file, reference).strip()
        while rest:  # one value after the other, whatever blanks lie between
            row, end = json.JSONDecoder().raw_decode(rest)
            rows, rest = [*rows, row], rest[end:].lstrip()
        return {
            (row["file_name"].replace("\\", "/").rpartition("/")[2], text.strip())
            for row in rows
            for text in row["captions"]
        }
    options = {"image_column": "file_name", "caption_columns": ["captions"]}
    return {
        (name.replace("\\", "/").rpartition("/")[2], text)
        for name, text in pairs_of_csv(file, replace(reference, options=options))
    }


PARSERS: dict[str, tuple[str, Callable[[Path, Reference], Pairs]]] = {
    **dict.fromkeys(("karpathy", "rsicd", "rsitmd", "ucm", "sydney"), ("*.json", pairs_of_karpathy)),
    "pir": ("*.json", pairs_of_pir),
    "precomp": ("*_caps*.txt", pairs_of_precomp),
    "csv": ("*.csv", pairs_of_csv),
    "json": ("*.json*", pairs_of_json),
    "urbancross": ("*/*.csv", pairs_of_csv),
    "huggingface": ("**/*.[ap]*r*", pairs_of_table),
    "imagefolder": ("*/*/metadata.*", pairs_of_metadata),
}


def pairs_stated(folder: Path, reference: Reference) -> Pairs:
    """Name and caption of every pair that the files state.

    A file that its parser gives up on states none: whoever takes pairs from it has made them up.
    """
    pattern, parse = PARSERS[reference.name]
    found = Pairs()
    for file in folder.glob(pattern):
        with contextlib.suppress(Exception):
            found |= parse(file, reference)
    return found


# --- a case -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """What was done to which layout, and what came of it. `failure` is a traceback, or empty."""

    seed: int
    layout: str
    damage: tuple[str, ...]
    outcome: str
    failure: str = ""

    def __str__(self) -> str:
        return f"case {self.seed}: {self.layout}; {'; '.join(self.damage)} → {self.outcome}\n{self.failure}"


def is_numbered(name: str) -> bool:
    """Whether a table calls its image by split and row, for want of a name."""
    return re.fullmatch(r"\w+-\d{7}", name) is not None


def wrong_pairs(domain: Domain, stated: Pairs) -> list[tuple[str, str]]:
    """Pairs that the files do not state. Of a numbered image the caption must be stated of some image."""
    texts, wrong = {text for _, text in stated}, []
    for text, index in zip(domain.captions, domain.image_of_caption.tolist(), strict=True):
        name = domain.image_names[index]
        right = text in texts if is_numbered(name) else {(name, text), (Path(name).name, text)} & stated
        if not right:
            wrong.append((name, text))
    return wrong


def whose_pixels(domain: Domain) -> list[set[str]]:
    """Of each image the tags of the tiles that its pixels may be of; none: any."""
    said = [tags_in(name) for name in domain.image_names]
    for text, index in zip(domain.captions, domain.image_of_caption.tolist(), strict=True):
        if is_numbered(domain.image_names[index]):
            said[index] = said[index] | tags_in(text)
    return said


def decoded(source: ImageSource, owners: Sequence[set[str]], known: dict[bytes, str]) -> int:
    """How many of the images cannot be read. Raises AssertionError if one has the pixels of a tile not its own."""
    broken = 0
    for index, mine in enumerate(owners):
        try:
            pixels = source.read(index)
        except DataError:
            broken += 1
            continue
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3
        whose = known.get(pixels.tobytes(), "")
        assert not whose or not mine or whose in mine, f"an image of {mine} has the pixels of {whose}"
    return broken


def read_and_look(folder: Path, reference: Reference, some: Sequence[Tile]) -> str:
    """Read, check, digest and decode; which of them refused, in words. Any error but a named one goes through."""
    try:
        domain = read(reference)
    except (DataError, UsageError):
        return "refused when read"
    wrong = wrong_pairs(domain, pairs_stated(folder, reference))
    assert not wrong, f"{len(wrong)} wrong pairs, {wrong[0]} the first"
    outcome = "read whole"
    try:
        check(domain)
    except DataError:
        outcome = "refused when checked"
    with contextlib.suppress(DataError):
        for split in domain.splits:
            assert split_of(domain, split).fingerprint
    owners = whose_pixels(domain)
    broken = decoded(domain.images, owners, {tile.pixels.tobytes(): tile.tag for tile in some})
    if domain.segments is not None:
        known = {pixels.tobytes(): name.partition("/")[0] for name, pixels in segments_of(some).items()}
        images = domain.segments.image_of_segment.tolist()
        broken += decoded(domain.segments.images, [owners[image] for image in images], known)
    if broken and outcome == "read whole":
        outcome = "images refused when decoded"
    return f"{outcome}, repairs noted" if domain.repairs and outcome == "read whole" else outcome


@contextlib.contextmanager
def _limited(seconds: int) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise TimeoutError(f"it hangs: more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run_case(seed: int, folder: Path) -> Case:
    """One case in a folder of its own, which is removed."""
    rng = random.Random(seed)
    layout = rng.choice(sorted(FUZZED))
    some = [
        replace(t, name=f"{t.tag}{rng.choice(('.png', '.png', '.tif'))}") for t in tiles(10, captions=3, size=6)
    ]
    options: dict[str, Any] = rng.choice(
        [{}, {}, {}, {"split": "drawn"}, {"split": "given"}, {"captions_generated": True}]
    )
    damage: list[str] = []
    outcome = failure = ""
    try:
        reference = FUZZED[layout](folder, some)
        if layout.startswith("urbancross"):
            options |= rng.choice([{}, {"lists": "finetune"}, {"lists": "zeroshot"}])
        reference = replace(reference, options={**reference.options, **options})
        for _ in range(rng.choice((1, 1, 1, 1, 2, 2, 3))):
            damage.append(damage_a_file(folder, rng))
        with _limited(_LIMIT):
            outcome = read_and_look(folder, reference, some)
    except Exception:
        outcome, failure = "FAILED", traceback.format_exc()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Case(seed, layout, tuple(damage), outcome, failure)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("part", range(4))
def test_damaged_data_is_refused_by_name_or_read_right(
    part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "hub"))
    cases = [run_case(seed, tmp_path / str(seed)) for seed in range(part, CASES, 4)]
    failed = [str(case) for case in cases if case.failure]
    assert not failed, "\n".join(failed)
    # The damage is neither all harmless nor all fatal.
    assert len({case.outcome for case in cases}) >= 3


def test_the_same_seed_is_the_same_case(tmp_path: Path) -> None:
    seeds = [
        seed for seed in range(40) if random.Random(seed).choice(sorted(FUZZED)).startswith(("csv", "karpathy"))
    ]
    assert run_case(seeds[0], tmp_path / "a") == run_case(seeds[0], tmp_path / "b")


@pytest.mark.parametrize("layout", FUZZED)
def test_undamaged_data_is_what_the_slow_parser_says(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oracle itself: it states exactly the pairs that were written, and finds a wrong one."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "hub"))
    some = tiles(10, captions=3)
    reference = FUZZED[layout](tmp_path / "d", some)
    stated = pairs_stated(tmp_path / "d", reference)
    pairs = {(tile.name, text) for tile in some for text in tile.captions}
    assert stated == pairs
    domain = read(reference)
    assert wrong_pairs(domain, stated) == []
    moved = replace(domain, image_of_caption=np.roll(domain.image_of_caption, 1))
    assert len(wrong_pairs(moved, stated)) == 10
    known = {tile.pixels.tobytes(): tile.tag for tile in some}
    owners = whose_pixels(domain)
    assert decoded(domain.images, owners, known) == 0
    with pytest.raises(AssertionError, match="has the pixels of"):
        decoded(domain.images, owners[::-1], known)
