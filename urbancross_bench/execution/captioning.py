"""Writing a csv of captions for images: what is captioned, and how the file comes to be, once and whole.

`FILE.csv` has the columns `image_name,description`, as UrbanCross's archives do; `FILE.csv.json` beside it says
how it was made. Until every image has its caption, finished batches are kept in `FILE.csv.partial`; without any,
only the log of a process that died stays there.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

from urbancross_bench.data.geo import metadata_entries, tag_text
from urbancross_bench.data.images import digest_or_nothing, list_files, open_images, said_missing
from urbancross_bench.data.paths import data_folder
from urbancross_bench.errors import DataError, PluginError, UsageError
from urbancross_bench.execution.crew import Work
from urbancross_bench.execution.domains import naming, read_domain
from urbancross_bench.execution.making import Made, as_planned, forget, holding, make, tidy_unless_told
from urbancross_bench.execution.versions import decoders
from urbancross_bench.files import replacing, write_json
from urbancross_bench.identity import derive_seed, key_of
from urbancross_bench.interfaces.captioner import Captioner, CaptionerOptions, Subject
from urbancross_bench.interfaces.dataset import ImageSource
from urbancross_bench.registry import Registry, Resolved
from urbancross_bench.sources import own_version

SCHEMA = 1
COLUMNS = ("image_name", "description")
_PICTURES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


@dataclass(frozen=True, eq=False)
class Pictures:
    """What is captioned: N images by name, the text of their tags (empty where there are none), their pixels."""

    names: Sequence[str]
    tags: Sequence[str]
    images: ImageSource


@dataclass(frozen=True)
class Source:
    """How pictures are found, in any process: a domain, or images with SkyScript's metadata or without."""

    domain: str | None = None
    images: str | None = None
    metadata: str | None = None
    plugins: tuple[str, ...] = ()

    def open(self) -> Pictures:
        """Raises DataError, PluginError or UsageError."""
        if self.images:
            return _loose(Path(self.images), Path(self.metadata) if self.metadata else None)
        resolved = Registry.discover(self.plugins).resolve("dataset", self.domain or "")
        with naming(str(resolved.reference)):
            domain, _ = read_domain(resolved)
            tags = domain.attributes.get("tags") or [""] * len(domain.image_names)
            return Pictures(domain.image_names, [str(text or "") for text in tags], domain.images)

    def said(self) -> dict[str, str]:
        """For a reader of the record."""
        names = {"domain": self.domain, "images": self.images, "metadata": self.metadata}
        return {name: value for name, value in names.items() if value}


@dataclass(frozen=True)
class CaptionMaker:
    """See `crew.Maker`. `identity`: of the captioner, as it must still be."""

    source: Source
    captioner: str
    identity: Mapping[str, Any]
    seed: int
    data: str

    def build(self, device: str) -> Work:
        """Load the captioner, and find the images again."""
        os.environ["URBANCROSS_DATA"] = self.data  # relative paths, in whatever folder this process was born
        pictures = self.source.open()
        position = {name: index for index, name in enumerate(pictures.names)}
        registry = Registry.discover(self.source.plugins)
        planned = as_planned(registry, "captioner", self.captioner, self.identity)
        with planned as resolved, resolved.plugin.blamed("to load"):
            captioner, sees = cast(Captioner, resolved.build()), _options(resolved).sees_pixels
            captioner.load(device)

        def subject(name: str) -> Subject:
            index = position[name]
            pixels = pictures.images.read(index) if sees else None
            return Subject(name, pictures.tags[index], derive_seed("caption", self.seed, name), pixels)

        def work(names: Sequence[str]) -> list[str]:
            texts = captioner.describe([subject(name) for name in names])
            if len(texts) != len(names):
                raise PluginError(f"{resolved.plugin} gave {len(texts)} captions for {len(names)} images")
            return [_tidy(text, name) for text, name in zip(texts, names, strict=True)]

        return work


@dataclass(frozen=True)
class Captioned:
    """What came of it. `file` is None if no image has a caption; `alone`: see `making.Made`; `again`: it was all
    there already.
    """

    file: Path | None
    images: int
    distinct: int
    failures: Mapping[str, str]
    alone: Mapping[str, str]
    again: bool = False


def caption(
    source: Source,
    captioner: Resolved,
    out: Path,
    *,
    seed: int,
    batch: int,
    workers: int = 1,
    threads: int = 1,
    device: str = "auto",
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Captioned:
    """Write the captions, those apart that cannot be made. Nothing is replaced but what failures left incomplete.

    Raises DataError for images that are not there, UsageError for a file that is there already.
    """
    options = _options(captioner)
    weights = options.weights()  # first of all: what is missing shows before images are read
    pictures = source.open()
    items = _items(pictures, options.sees_pixels)
    facts = {"captioner": captioner.identity(), "seed": seed, "core": own_version(__name__)}
    if options.sees_pixels:
        facts["decoding"] = {"core": own_version("urbancross_bench.data.decode"), "libraries": decoders()}
    making = {
        "schema": SCHEMA,
        "source": source.said(),
        "captioner": {**captioner.identity(), "reference": str(captioner.reference)},
        "weights": weights.said() if weights else None,
        "seed": seed,
        "batch": batch,
        "threads": threads,
        "key": key_of({"facts": facts, "batch": batch, "threads": threads, "source": source.said()}),
        "items": key_of(items),
    }
    before = _present(out, making)
    if before is not None and not before["failures"]:
        return Captioned(out, len(items), before["counts"]["distinct"], {}, {}, again=True)
    journal = out.resolve().with_name(f"{out.name}.partial")
    with holding(journal):
        made = make(
            CaptionMaker(source, str(captioner.reference), captioner.identity(), seed, str(data_folder())),
            items,
            journal,
            identity=facts,
            batch=batch,
            workers=workers,
            threads=threads,
            device=device,
            report=report,
        )
        captioned = _write(out, list(items), made, making)
        if made.failures:
            tidy_unless_told(journal, made.failures.values())
        else:
            forget(journal)
    return captioned


def _options(captioner: Resolved) -> CaptionerOptions:
    if not isinstance(captioner.options, CaptionerOptions):
        raise PluginError(f"{captioner.plugin}: its options are no CaptionerOptions")
    return captioner.options


def _loose(place: Path, metadata: Path | None) -> Pictures:
    """Images of a folder or zip that no caption file names, in order; tags as SkyScript's metadata has them."""
    names = [name for name in list_files(place) if PurePosixPath(name).suffix.lower() in _PICTURES]
    if not names:
        raise DataError(f"{place} holds no image ({', '.join(_PICTURES)})")
    if not place.is_dir():
        names = _below_one_folder(names)
    odd = [name for name in names if not _comes_back(name)]
    if odd:
        raise DataError(
            f"{place}: {len(odd)} image names are not UTF-8, or have blanks around them, {odd[0]!r} the first; "
            "no reader of the csv would find these images, so rename them"
        )
    entries = metadata_entries(metadata, names) if metadata else {}
    tags = [_tags(entries.get(name), f"{metadata}: {name}") for name in names]
    return Pictures(names, tags, open_images(place, names))


def _comes_back(name: str) -> bool:
    """Whether a name in a csv of captions is read as it is."""
    return name == name.strip() == name.encode(errors="ignore").decode()


def _below_one_folder(names: Sequence[str]) -> list[str]:
    """Names as caption files give them: without the one folder that a zip may keep all its images in."""
    folders = {str(PurePosixPath(name).parent) for name in names}
    return [PurePosixPath(name).name for name in names] if len(folders) == 1 else list(names)


def _tags(entry: Any, where: str) -> str:
    if entry is None:
        return ""
    try:
        return tag_text(entry.get("center_tags") or {}, entry.get("surrounding_tags") or [])
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{where}: center_tags or surrounding_tags are garbled: {error}") from error


def _items(pictures: Pictures, sees_pixels: bool) -> dict[str, str]:
    """Name → a hash of what a caption depends on."""
    missing = pictures.images.missing() if sees_pixels else {}
    if missing:
        said = said_missing(pictures.images, missing, pictures.names)
        raise DataError(f"{said}; the captioner looks at images")
    repeated = [name for name, count in Counter(pictures.names).items() if count > 1]
    if repeated:
        raise DataError(f"{len(repeated)} image names stand twice, {repeated[0]!r} the first")
    # One that cannot be read costs itself alone, when the captioner is to look at it.
    numbers = range(len(pictures.names))
    digests = [digest_or_nothing(pictures.images.digest, i) if sees_pixels else "" for i in numbers]
    return {
        name: key_of([tags, digest])
        for name, tags, digest in zip(pictures.names, pictures.tags, digests, strict=True)
    }


def _tidy(text: Any, name: str) -> str:
    """One line, without what cannot be written. Raises DataError where nothing is left."""
    if not isinstance(text, str):
        raise PluginError(f"image {name!r}: the captioner gave {text!r}, which is no text")
    line = " ".join(text.encode(errors="ignore").decode().replace("\0", " ").split())
    if not line:
        raise DataError(f"image {name!r}: the captioner wrote nothing")
    return line


def _side(out: Path) -> Path:
    return out.with_name(f"{out.name}.json")


def _present(out: Path, making: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of the file that is there, if the same command made it; None if there is no file.

    Raises UsageError for a file that must not be replaced: made otherwise, changed since, or whole and outdated.
    """
    if not out.exists():
        return None
    try:
        record = json.loads(_side(out).read_text(encoding="utf-8"))
        same = record["key"] == making["key"] and record["sha256"] == _sha256(out.read_bytes())
        current, failed = record["items"] == making["items"], bool(record["failures"])
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise UsageError(
            f"{out} is there already, made otherwise or changed since; remove it or choose another --out"
        )
    if not current and not failed:
        raise UsageError(f"{out} is there already, and its images or tags have changed since; remove it first")
    return cast(dict[str, Any], record)


def _write(out: Path, names: Sequence[str], made: Made, making: Mapping[str, Any]) -> Captioned:
    """The csv and its record, each whole; nothing if there is no caption at all."""
    captions = [(name, text) for name, text in zip(names, made.texts, strict=True) if text is not None]
    distinct = len({text for _, text in captions})
    if not captions:
        return Captioned(None, len(names), 0, made.failures, {})
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(captions)
    content = stream.getvalue().encode()
    counts = {"images": len(names), "captions": len(captions), "distinct": distinct, "failed": len(made.failures)}
    found = {"counts": counts, "failures": made.failures, "alone": made.alone, "sha256": _sha256(content)}
    # In this order a kill leaves no csv beside a record that is not its own; what it lacks is in the journal.
    out.unlink(missing_ok=True)
    with replacing(_side(out)) as place:
        write_json(place, {**making, **found})
    with replacing(out) as place:
        place.write_bytes(content)
    return Captioned(out, len(names), distinct, made.failures, made.alone)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
