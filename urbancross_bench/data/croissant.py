"""A domain described in Croissant 1.0 (https://docs.mlcommons.org/croissant/docs/croissant-spec.html).

The description is JSON-LD; beside it lies the one file it needs, a csv with a row for each caption. Images are
named where they lie, and not copied.
"""

from __future__ import annotations

import csv
import io
import mimetypes
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from urbancross_bench.data.images import FolderImages, ZipImages
from urbancross_bench.errors import DataError
from urbancross_bench.files import write_json
from urbancross_bench.identity import file_digest
from urbancross_bench.interfaces.dataset import SPLITS, Domain

_TERMS = (
    *(
        "citeAs",
        "column",
        "equivalentProperty",
        "extract",
        "field",
        "fileObject",
        "fileProperty",
        "fileSet",
        "format",
    ),
    *("includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references"),
    *("regex", "repeated", "replace", "samplingRate", "separator", "source", "subField", "transform"),
)
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{term: f"cr:{term}" for term in _TERMS},
}
_COLUMNS = {
    "image": ("sc:Text", "Name of the image."),
    "split": ("sc:Text", "Split of the image; empty: in none."),
    "caption": ("sc:Text", "One caption of the image."),
    "latitude": ("sc:Float", "Degrees north, of the image's centre."),
    "longitude": ("sc:Float", "Degrees east, of the image's centre."),
}


def write_croissant(domain: Domain, file: Path) -> Path:
    """Describe a domain in `file`, and write its captions beside it, to a csv of the same name, which is returned.

    Raises DataError rather than replace a file, and where images lie in a folder that is not below the file's: the
    format has no way to name them.
    """
    table = file.with_suffix(".csv")
    for path in (file, table):
        if path.exists():
            raise DataError(f"{path} is there already; remove it or choose another name")
    if table == file:
        raise DataError(f"{file}: the description is JSON and its captions go to a csv; choose a name in .json")
    images = _images(domain, file.parent)
    file.parent.mkdir(parents=True, exist_ok=True)
    columns = [name for name in _COLUMNS if name in ("image", "split", "caption") or name in domain.attributes]
    text = io.StringIO(newline="")
    rows = csv.writer(text, lineterminator="\r\n")  # RFC 4180; else a lone \r in a caption is not quoted
    rows.writerows([columns, *_rows(domain, columns[3:])])
    table.write_text(text.getvalue(), encoding="utf-8", newline="")
    write_json(file, _description(domain, columns, table, images))
    return table


def _rows(domain: Domain, attributes: list[str]) -> Iterator[list[Any]]:
    """A row for each caption, and for each split where its image is in several."""
    splits: list[list[str]] = [[] for _ in domain.image_names]
    for name in SPLITS:
        for index in domain.splits.get(name, ()):
            splits[index].append(name)
    for owner, caption in zip(domain.image_of_caption.tolist(), domain.captions, strict=True):
        for split in splits[owner] or [""]:
            yield [domain.image_names[owner], split, caption, *(domain.attributes[a][owner] for a in attributes)]


def _description(domain: Domain, columns: list[str], table: Path, images: list[dict[str, Any]]) -> dict[str, Any]:
    sizes = f"{len(domain.image_names):,} satellite images with {len(domain.captions):,} captions."
    licence = {"license": domain.licence} if domain.licence else {}
    splits = f" Splits: {domain.partition}." if domain.partition else ""
    written = " A model wrote the captions from the images." if domain.captions_generated else ""
    captions = {
        "@type": "cr:FileObject",
        "@id": table.name,
        "name": table.name,
        "contentUrl": table.name,
        "contentSize": f"{table.stat().st_size} B",
        "encodingFormat": "text/csv",
        "sha256": file_digest(table),
    }
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": domain.name,
        "description": f"{sizes}{splits}{written}",
        **licence,
        "distribution": [captions, *images],
        "recordSet": [_splits(), {**_named("cr:RecordSet", "captions"), "field": [*_fields(columns, table.name)]}],
    }


def _images(domain: Domain, folder: Path) -> list[dict[str, Any]]:
    """The zip, and the files in it or in a folder; nothing where images are no files of their own."""
    images = domain.images
    if not isinstance(images, FolderImages | ZipImages):
        return []
    place = Path(os.path.relpath(images.place.resolve(), folder.resolve())).as_posix()
    names = [PurePosixPath(name) for name in domain.image_names]
    formats = sorted({mimetypes.guess_type(name.name)[0] or "application/octet-stream" for name in names})
    if isinstance(images, FolderImages):
        if ".." in PurePosixPath(place).parts:
            raise DataError(
                f"images lie in {images.place}, which is not below {folder}; write the description to a folder "
                "above them, or leave them out by images=none"
            )
        files = sorted({str(PurePosixPath(place) / name.parent / f"*{name.suffix}") for name in names})
        return [{**_named("cr:FileSet", "images"), "encodingFormat": formats, "includes": files}]
    packed = {
        **_named("cr:FileObject", "images.zip"),
        "contentUrl": place,
        "encodingFormat": "application/zip",
        "sha256": file_digest(images.place),
    }
    files = sorted({f"*{name.suffix}" for name in names})
    members = {"containedIn": {"@id": "images.zip"}, "encodingFormat": formats, "includes": files}
    return [packed, {**_named("cr:FileSet", "images"), **members}]


def _splits() -> dict[str, Any]:
    field = {**_named("cr:Field", "splits/name"), "dataType": "sc:Text", "description": "Name of a split."}
    return {
        **_named("cr:RecordSet", "splits"),
        "dataType": "cr:Split",
        "key": {"@id": "splits/name"},
        "field": [field],
        "data": [{"splits/name": name} for name in SPLITS],
    }


def _fields(columns: list[str], table: str) -> Iterator[dict[str, Any]]:
    for name in columns:
        kind, text = _COLUMNS[name]
        source = {"fileObject": {"@id": table}, "extract": {"column": name}}
        yield {**_named("cr:Field", f"captions/{name}"), "description": text, "dataType": kind, "source": source}


def _named(kind: str, name: str) -> dict[str, Any]:
    return {"@type": kind, "@id": name, "name": name.rpartition("/")[2]}
