"""Small data sets with an answer key, written in every layout that a reader reads.

Each caption says which tile it belongs to, by a tag with a check digit, and no two tiles have the same pixels: a
wrong pair shows, whoever made it.
"""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from urbancross_bench.interfaces import SPLITS, Domain
from urbancross_bench.references import Reference
from urbancross_bench.registry import Registry

Pixels = NDArray[np.uint8]
TAG = re.compile(r"tile_\d{3}_[0-9a-f]{4}")


@dataclass(frozen=True, eq=False)
class Tile:
    """One image with its captions, and what a reader should say of it."""

    name: str
    split: str
    captions: tuple[str, ...]
    pixels: Pixels

    @property
    def tag(self) -> str:
        return Path(self.name).stem


def tag(number: int) -> str:
    """`tile_007_…` with a checksum, so that a damaged tag is no tag."""
    return f"tile_{number:03d}_{zlib.crc32(b'%03d' % number) & 0xFFFF:04x}"


def tags_in(text: str) -> set[str]:
    """The undamaged tags in a text."""
    return {found for found in TAG.findall(text) if found == tag(int(found[5:8]))}


def tiles(count: int = 15, *, captions: int = 5, suffix: str = ".png", size: int = 8) -> list[Tile]:
    """Tiles of all three splits. Captions have commas, quotes and letters outside ASCII."""
    made = []
    for number in range(count):
        split = "test" if number % 5 == 4 else "val" if number % 5 == 3 else "train"
        texts = tuple(f'caption {k} of {tag(number)}, a "café" by 机场 {k}' for k in range(captions))
        pixels = np.random.default_rng(number).integers(0, 256, (size, size, 3)).astype(np.uint8)
        made.append(Tile(tag(number) + suffix, split, texts, pixels))
    return made


def encoded(pixels: NDArray[Any], form: str = "png", **options: Any) -> bytes:
    """The bytes of an image file, written by PIL."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, {"jpg": "jpeg", "tif": "tiff"}.get(form, form), **options)
    return buffer.getvalue()


def files_of(some: Iterable[Tile]) -> dict[str, bytes]:
    """The image file of each tile, by name."""
    return {tile.name: encoded(tile.pixels, Path(tile.name).suffix[1:]) for tile in some}


def write_files(place: Path, files: Mapping[str, bytes]) -> Path:
    """Files below a folder, or the members of a zip if the place is called so."""
    if place.suffix == ".zip":
        place.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(place, "w", zipfile.ZIP_DEFLATED) as opened:
            for name, content in files.items():
                opened.writestr(name, content)
        return place
    for name, content in files.items():
        file = place / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return place


def zip_with_damage(folder: Path, name: str) -> Path:
    """The files of a folder packed in its place; one of them is not what its sum says, and cannot be unpacked."""
    file = folder.with_suffix(".zip")
    with zipfile.ZipFile(file, "w") as opened:
        for path in sorted(folder.iterdir()):
            opened.write(path, path.name)
        start = opened.getinfo(name).header_offset + 30 + len(name)
    content = bytearray(file.read_bytes())
    content[start + 40] ^= 255
    file.write_bytes(content)
    shutil.rmtree(folder)
    return file


def write_json(file: Path, content: object, *, indent: int | None = None) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, ensure_ascii=False, indent=indent), encoding="utf-8")
    return file


def write_csv(
    file: Path, rows: Sequence[Mapping[str, object]], separator: str = ",", *, quoted: bool = False
) -> Path:
    """A csv with the columns of the first row; `quoted`: every field, as a bare carriage return needs it."""
    quoting = csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), delimiter=separator, lineterminator="\n", quoting=quoting)
        writer.writeheader()
        writer.writerows(rows)
    return file


def write_lines(file: Path, lines: Iterable[str], *, encoding: str = "utf-8", end: str = "\n") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes("".join(line + end for line in lines).encode(encoding))
    return file


# --- layouts: each writes some tiles into a folder and returns the reference that reads them -------------------


def karpathy_entries(some: Iterable[Tile], **more: Callable[[Tile], object]) -> dict[str, Any]:
    entries = [
        {
            "filename": tile.name,
            "imgid": number,
            "split": tile.split,
            "sentences": [{"raw": text, "tokens": text.split(), "imgid": number} for text in tile.captions],
            **{key: value(tile) for key, value in more.items()},
        }
        for number, tile in enumerate(some)
    ]
    return {"dataset": "tiles", "images": entries}


def karpathy(
    folder: Path, some: Sequence[Tile], *, images: str = "images", indent: int | None = None
) -> Reference:
    write_files(folder / images, files_of(some))
    file = write_json(folder / "dataset_tiles.json", karpathy_entries(some), indent=indent)
    return Reference("karpathy", None, {"file": str(file), "images": str(folder / images)})


def known(name: str, file: str, images: str) -> Callable[[Path, Sequence[Tile]], Reference]:
    """One of the field's datasets, by the names that its files go by."""

    def write(folder: Path, some: Sequence[Tile]) -> Reference:
        write_files(folder / images, files_of(some))
        write_json(folder / file, karpathy_entries(some))
        return Reference(name, None, {"folder": str(folder)})

    return write


def precomp(
    folder: Path,
    some: Sequence[Tile],
    *,
    per_image: Iterable[str] = (),
    wrapped: bool = False,
    verify: bool = False,
    encoding: str = "utf-8",
    end: str = "\n",
) -> Reference:
    """`per_image` are the splits whose lists of names have a line per image."""
    write_files(folder / "images", files_of(some))
    by_split = {split: [tile for tile in some if tile.split == split] for split in SPLITS}
    parts = {f"{split}": members for split, members in by_split.items()}
    if verify:
        parts = {"train_verify": by_split["train"], "val_verify": by_split["val"], "test": by_split["test"]}
        parts["train"] = [*by_split["train"], *by_split["val"]]
    for part, members in parts.items():
        split, _, suffix = part.partition("_")
        suffix = suffix and f"_{suffix}"
        names = [tile.name for tile in members for _ in (range(1) if split in per_image else tile.captions)]
        names = [repr(name.encode()) if wrapped else name for name in names]
        write_lines(folder / f"{split}_filename{suffix}.txt", names, encoding=encoding, end=end)
        texts = [text for tile in members for text in tile.captions]
        write_lines(folder / f"{split}_caps{suffix}.txt", texts, encoding=encoding, end=end)
    options: dict[str, Any] = {"captions_per_image": len(some[0].captions)}
    if encoding != "utf-8":
        options["encoding"] = encoding
    return Reference("precomp", None, {"folder": str(folder), **options})


def pir(folder: Path, some: Sequence[Tile], *, indent: int | None = None) -> Reference:
    write_files(folder / "images", files_of(some))
    paths = {}
    for split in SPLITS:
        rows: list[dict[str, Any]] = []
        for number, tile in enumerate(tile for tile in some if tile.split == split):
            row = {"image": tile.name, "image_id": number, "label_name": "port", "label": 3}
            texts = list(tile.captions)
            rows += (
                [{"caption": text, **row} for text in texts] if split == "train" else [{"caption": texts, **row}]
            )
        paths[split] = str(write_json(folder / f"tiles_{split}.json", rows, indent=indent))
    return Reference("pir", None, paths)


def csv_captions(folder: Path, some: Sequence[Tile], *, separator: str = ",", images: str = "images") -> Reference:
    """A row per caption, and a column of splits."""
    write_files(folder / images, files_of(some))
    rows = [{"image_name": t.name, "description": text, "split": t.split} for t in some for text in t.captions]
    file = write_csv(folder / "tiles.csv", rows, separator)
    options = {"file": str(file), "split_column": "split", "separator": separator}
    return Reference("csv", None, {**options, "images": str(folder / images)})


def csv_columns(folder: Path, some: Sequence[Tile]) -> Reference:
    """A row per image with a column per caption, `raw, raw_1 …`, as NWPU-Captions has them."""
    write_files(folder / "images", files_of(some))
    columns = ["raw", *(f"raw_{k}" for k in range(1, len(some[0].captions)))]
    rows = [
        {"filename": tile.name, "split": tile.split, **dict(zip(columns, tile.captions, strict=True))}
        for tile in some
    ]
    file = write_csv(folder / "tiles.csv", rows)
    options = {"file": str(file), "split_column": "split", "image_column": "filename", "caption_columns": columns}
    return Reference("csv", None, options)


def csv_files(folder: Path, some: Sequence[Tile]) -> Reference:
    """A csv for each split, `filename,title`, as iEBAKER has them."""
    write_files(folder / "images", files_of(some))
    options: dict[str, Any] = {"image_column": "filename", "caption_columns": ["title"]}
    for split in SPLITS:
        rows = [{"filename": t.name, "title": text} for t in some if t.split == split for text in t.captions]
        options[split] = str(write_csv(folder / f"{split}.csv", rows))
    return Reference("csv", None, options)


def json_records(folder: Path, some: Sequence[Tile]) -> Reference:
    """A list of records, `image, captions, split`."""
    write_files(folder / "images", files_of(some))
    rows = [{"image": tile.name, "captions": tile.captions, "split": tile.split} for tile in some]
    file = write_json(folder / "tiles.json", rows)
    return Reference("json", None, {"file": str(file), "split_column": "split"})


def json_names(folder: Path, some: Sequence[Tile]) -> Reference:
    """Captions by image name, a file for each split."""
    write_files(folder / "images", files_of(some))
    parts = {split: {t.name: t.captions for t in some if t.split == split} for split in SPLITS}
    files = {split: str(write_json(folder / f"{split}.json", part, indent=1)) for split, part in parts.items()}
    return Reference("json", None, files)


def json_lines(folder: Path, some: Sequence[Tile]) -> Reference:
    """A record a line and a record per caption, under keys of their own."""
    write_files(folder / "images", files_of(some))
    rows = [{"file": t.name, "text": text, "part": t.split} for t in some for text in t.captions]
    file = write_lines(folder / "tiles.jsonl", [json.dumps(row) for row in rows])
    columns = {"image_column": "file", "caption_columns": ["text"], "split_column": "part"}
    return Reference("json", None, {"file": str(file), **columns})


def write_lists(folder: Path, some: Iterable[Tile]) -> None:
    """`train_list.txt`, `val_list.txt` and `test_list.txt`."""
    members = list(some)
    for split in SPLITS:
        write_lines(folder / f"{split}_list.txt", [tile.name for tile in members if tile.split == split])


def csv_lists(folder: Path, some: Sequence[Tile]) -> Reference:
    """Split lists beside the csv."""
    reference = csv_captions(folder, some)
    write_lists(folder, some)
    options = {key: value for key, value in reference.options.items() if key != "split_column"}
    return replace(reference, options={**options, "lists": str(folder)})


def segments_of(some: Iterable[Tile], count: int = 3) -> dict[str, Pixels]:
    """Cut-outs of each tile by the names they have in UrbanCross: `<stem>/<stem>_<i>.jpg`, here png."""
    return {
        f"{tile.tag}/{tile.tag}_{number}.png": np.full((4, 4, 3), (index, number, 7), dtype=np.uint8)
        for index, tile in enumerate(some)
        for number in range(count)
    }


def write_urbancross_tree(
    folder: Path,
    some: Sequence[Tile],
    *,
    country: str = "finland",
    zipped: bool = False,
    lists: bool = False,
    segments: Mapping[str, Pixels] | None = None,
    prefix: str = "",
) -> Reference:
    """`<Country>/`: csv, images and segments as folders or zips, with or without split lists.

    `segments` are their pixels by name, three a tile by default; `prefix` is a folder within the zips.
    """
    home, ending = folder / country.capitalize(), ".zip" if zipped else ""
    pieces = segments_of(some) if segments is None else segments
    write_files(home / f"images{ending}", {prefix + name: content for name, content in files_of(some).items()})
    write_files(
        home / f"image_segments{ending}", {prefix + name: encoded(pixels) for name, pixels in pieces.items()}
    )
    rows = [{"image_name": tile.name, "description": text} for tile in some for text in tile.captions]
    write_csv(home / f"instructblip_generation_{country}_refine.csv", rows)
    if lists:
        write_lists(home, some)
    return Reference("urbancross", country, {"folder": str(folder)})


def hub_table(some: Sequence[Tile], split: str, **columns: Sequence[Any]) -> Any:
    """A table of `datasets` as the hub's copies of RSICD are: filename, captions, image."""
    import datasets

    datasets.disable_progress_bars()
    chosen = [tile for tile in some if tile.split == split]
    content = {
        "filename": [tile.name for tile in chosen],
        "captions": [list(tile.captions) for tile in chosen],
        "image": [{"bytes": files_of([tile])[tile.name], "path": None} for tile in chosen],
        **columns,
    }
    return datasets.Dataset.from_dict(content).cast_column("image", datasets.Image())


HUB_SPLITS = {"train": "train", "val": "valid", "test": "test"}


def saved(folder: Path, some: Sequence[Tile]) -> Reference:
    """What `save_to_disk` leaves."""
    import datasets

    tables = {HUB_SPLITS[split]: hub_table(some, split) for split in SPLITS}
    datasets.DatasetDict(tables).save_to_disk(str(folder / "saved"))
    return Reference("huggingface", None, {"path": str(folder / "saved")})


def parquet(folder: Path, some: Sequence[Tile]) -> Reference:
    """A folder of parquet files, as on the hub."""
    (folder / "parquet").mkdir(parents=True)
    for split in SPLITS:
        file = folder / "parquet" / f"{HUB_SPLITS[split]}-00000-of-00001.parquet"
        hub_table(some, split).to_parquet(str(file))
    return Reference("huggingface", None, {"path": str(folder / "parquet")})


def imagefolder(folder: Path, some: Sequence[Tile], *, kind: str = "jsonl") -> Reference:
    """A folder for each split with `metadata.jsonl` (a list of captions) or `metadata.csv` (a row per caption)."""
    for split in SPLITS:
        chosen = [tile for tile in some if tile.split == split]
        home = write_files(folder / "tiles" / HUB_SPLITS[split], files_of(chosen))
        if kind == "jsonl":
            rows = [{"file_name": tile.name, "captions": list(tile.captions)} for tile in chosen]
            write_lines(home / "metadata.jsonl", [json.dumps(row, ensure_ascii=False) for row in rows])
        else:
            pairs = [{"file_name": tile.name, "captions": text} for tile in chosen for text in tile.captions]
            write_csv(home / "metadata.csv", pairs)
    return Reference("imagefolder", None, {"path": str(folder / "tiles")})


Layout = Callable[[Path, Sequence[Tile]], Reference]
LAYOUTS: dict[str, Layout] = {
    "karpathy": karpathy,
    "karpathy, indented": lambda folder, some: karpathy(folder, some, indent=1),
    "karpathy, zip": lambda folder, some: karpathy(folder, some, images="images.zip"),
    "rsicd": known("rsicd", "dataset_rsicd.json", "RSICD_images"),
    "rsitmd": known("rsitmd", "dataset_RSITMD.json", "images"),
    "ucm": known("ucm", "dataset.json", "imgs"),
    "sydney": known("sydney", "dataset_sydney.json", "images.zip"),
    "precomp": precomp,
    "precomp, a name per image": lambda folder, some: precomp(folder, some, per_image=SPLITS),
    "precomp, both lists": lambda folder, some: precomp(folder, some, per_image=("train",)),
    "precomp, wrapped names": lambda folder, some: precomp(folder, some, wrapped=True),
    "precomp, verify": lambda folder, some: precomp(folder, some, verify=True),
    "precomp, GB 18030": lambda folder, some: precomp(folder, some, encoding="gb18030"),
    "precomp, CRLF": lambda folder, some: precomp(folder, some, end="\r\n"),
    "pir": pir,
    "pir, indented": lambda folder, some: pir(folder, some, indent=1),
    "csv, a row per caption": csv_captions,
    "csv, tabs": lambda folder, some: csv_captions(folder, some, separator="\t"),
    "csv, zip": lambda folder, some: csv_captions(folder, some, images="images.zip"),
    "csv, a column per caption": csv_columns,
    "csv, a file per split": csv_files,
    "csv, lists": csv_lists,
    "json, records": json_records,
    "json, names": json_names,
    "json, lines": json_lines,
    "urbancross": lambda folder, some: write_urbancross_tree(folder, some, lists=True),
    "urbancross, zips": lambda folder, some: write_urbancross_tree(folder, some, lists=True, zipped=True),
    "huggingface, saved": saved,
    "huggingface, parquet": parquet,
    "imagefolder, jsonl": imagefolder,
    "imagefolder, csv": lambda folder, some: imagefolder(folder, some, kind="csv"),
}


@cache
def _registry() -> Registry:
    return Registry.discover()


def read(reference: Reference | str, **options: Any) -> Domain:
    """The domain that a reference names; keywords are further options."""
    if isinstance(reference, str):
        reference = Reference.parse(reference)
    reference = replace(reference, options={**reference.options, **options})
    domain = _registry().resolve("dataset", reference).build().read(reference.member)
    assert isinstance(domain, Domain)
    return domain


def content_of(domain: Domain) -> dict[str, tuple[str, list[str]]]:
    """Of each image its split and its captions in order, found by loops alone."""
    found: dict[str, tuple[str, list[str]]] = {name: ("", []) for name in domain.image_names}
    for split, members in domain.splits.items():
        for index in members.tolist():
            name = domain.image_names[index]
            assert found[name][0] == "", f"{name} stands in two splits"
            found[name] = (split, [])
    for text, index in zip(domain.captions, domain.image_of_caption.tolist(), strict=True):
        found[domain.image_names[index]][1].append(text)
    return found


def answer(some: Iterable[Tile]) -> dict[str, tuple[str, list[str]]]:
    """What `content_of` should give."""
    return {tile.name: (tile.split, list(tile.captions)) for tile in some}
