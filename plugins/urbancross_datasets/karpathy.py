"""Karpathy-style caption files: any of them by its path, and those of the field by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pydantic import Field

from urbancross_bench.data.readers import (
    DomainBuilder,
    Faults,
    TextOptions,
    class_in_name,
    data_path,
    find,
    finish,
    images_place,
    read_json,
)
from urbancross_bench.errors import DataError
from urbancross_bench.interfaces import Dataset, Domain


class KarpathyOptions(TextOptions):
    """`karpathy[file=rsicd/dataset_rsicd.json]`; relative paths lie below `URBANCROSS_DATA`."""

    file: str = Field(description="the caption json")


class Karpathy(Dataset):
    """`{"images": [{"filename", "split", "sentences": [{"raw"}]}]}` and its images. `restval` counts as train."""

    options_type = KarpathyOptions

    def read(self, member: str | None) -> Domain:
        """One domain per caption file."""
        options = cast(KarpathyOptions, self.options)
        file = data_path(options.file)
        builder = read_karpathy(file.stem, file, lambda entry: {}, options)
        return finish(builder, options, images_place(options.images, file.parent))


class KnownOptions(TextOptions):
    """`rsicd[folder=data/RSICD]`; by default a folder of the dataset's name below `URBANCROSS_DATA`."""

    folder: str | None = Field(default=None, description="the folder with the caption json and the images")
    file: str | None = Field(default=None, description="the caption json in it, if it has a name of its own")


@dataclass(frozen=True)
class Known:
    """What is known of one of the field's datasets: the names its files go by, its classes, its sizes."""

    folders: tuple[str, ...]
    files: tuple[str, ...]
    images: tuple[str, ...]
    licence: str
    counts: dict[str, dict[str, tuple[int, int]]]
    scene_class: Callable[[str], str | None] | None = None
    keys: tuple[str, ...] = field(default=())  # of an entry that are attributes


class KnownDataset(Dataset):
    """A dataset of the field by its name: where its files are is looked up, what is wrong with them is said."""

    options_type = KnownOptions
    known: Known

    def read(self, member: str | None) -> Domain:
        """The one domain of the dataset."""
        options, known = cast(KnownOptions, self.options), self.known
        folder = data_path(options.folder) if options.folder else _first_folder(known.folders)
        file = folder / options.file if options.file else find(folder, known.files, "caption json")

        def facts(entry: dict[str, Any]) -> dict[str, Any]:
            found = {key: entry.get(key) for key in known.keys}
            if known.scene_class:
                found["scene_class"] = known.scene_class(entry["filename"])
            return found

        builder = read_karpathy(known.folders[0], file, facts, options)
        place = images_place(options.images, folder, known.images)
        return finish(builder, options, place, licence=known.licence, known_counts=known.counts)


def read_karpathy(
    name: str, file: Path, facts: Callable[[dict[str, Any]], dict[str, Any]], options: TextOptions
) -> DomainBuilder:
    """The images and captions of a file. `facts` gives an entry's attributes.

    Raises DataError naming the file, and the entries that are malformed.
    """
    content = read_json(file, options.encoding)
    entries = content.get("images") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        other = "; json[file=…] reads a list of records, or captions by image name" if content else ""
        raise DataError(f'{file} holds no list "images", as Karpathy-style caption files do{other}')
    builder, faults = DomainBuilder(name), Faults()
    builder.encoding(file, options.encoding)
    for number, entry in enumerate(entries):
        with faults.gathered():
            _add(builder, entry, f'{file}: entry {number} of "images"', facts, options)
    faults.raise_any()
    return builder


def _add(
    builder: DomainBuilder,
    entry: Any,
    where: str,
    facts: Callable[[dict[str, Any]], dict[str, Any]],
    options: TextOptions,
) -> None:
    try:
        name, sentences = entry["filename"], [s["raw"] for s in entry["sentences"]]
        split = "" if options.splits_anew else entry["split"]
    except KeyError as error:
        raise DataError(f"{where} lacks {error}") from error
    except TypeError as error:
        layout = '{"filename": …, "split": …, "sentences": [{"raw": …}, …]}'
        raise DataError(f"{where} is not of the form {layout}") from error
    if not isinstance(name, str) or not isinstance(split, str):
        raise DataError(f"{where}: filename {name!r} and split {split!r} must be texts")
    image = builder.image(name, options.split_of(split, where), where, **facts(entry))
    for sentence in sentences:
        builder.caption(image, sentence, where)


def _first_folder(names: tuple[str, ...]) -> Path:
    folders = [data_path(name) for name in names]
    return next((folder for folder in folders if folder.is_dir()), folders[0])


UCM_CLASSES = (
    *("agricultural", "airplane", "baseballdiamond", "beach", "buildings", "chaparral", "denseresidential"),
    *("forest", "freeway", "golfcourse", "harbor", "intersection", "mediumresidential", "mobilehomepark"),
    *("overpass", "parkinglot", "river", "runway", "sparseresidential", "storagetanks", "tenniscourt"),
)


def _class_of_hundred(name: str) -> str | None:
    """UCM-Captions numbers its images from 1, a hundred of each class of UC Merced in alphabetical order."""
    match = re.fullmatch(r"(?:.*/)?(\d+)\.\w+", name)
    number = (int(match[1]) - 1) // 100 if match else -1
    return UCM_CLASSES[number] if 0 <= number < len(UCM_CLASSES) else None


def _counts(train: int, val: int, test: int) -> dict[str, tuple[int, int]]:
    return {"train": (train, 5 * train), "val": (val, 5 * val), "test": (test, 5 * test)}


class Rsicd(KnownDataset):
    """RSICD, Lu et al. 2017 (doi 10.1109/TGRS.2017.2776321): 10,921 images, 31 classes."""

    known = Known(
        folders=("rsicd", "RSICD"),
        files=("dataset_rsicd.json", "dataset_RSICD.json", "dataset.json"),
        images=("images", "RSICD_images", "images.zip", "RSICD_images.zip"),
        licence="none stated; research use",
        counts={"official": _counts(8734, 1094, 1093), "redrawn by AMFMN": _counts(7862, 1966, 1093)},
        scene_class=class_in_name,
    )


class Rsitmd(KnownDataset):
    """RSITMD, Yuan et al. 2021 (arXiv 2204.09868): 4,743 images; the json has no validation split."""

    known = Known(
        folders=("rsitmd", "RSITMD"),
        files=("dataset_RSITMD.json", "dataset_rsitmd.json", "dataset.json"),
        images=("images", "RSITMD_images", "images.zip", "RSITMD_images.zip"),
        licence="none stated; research use",
        counts={"drawn by AMFMN": _counts(3432, 859, 452), "of the same size": _counts(3433, 858, 452)},
        scene_class=class_in_name,
        keys=("keywords",),
    )


class Ucm(KnownDataset):
    """UCM-Captions, Qu et al. 2016 (doi 10.1109/CITS.2016.7546397): 2,100 images, 21 classes."""

    known = Known(
        folders=("ucm", "ucm_captions", "UCM_captions", "UCM"),
        files=("dataset_ucm.json", "dataset_UCM.json", "dataset.json"),
        images=("images", "imgs", "UCM_images", "images.zip", "imgs.zip"),
        licence="images: public domain (USGS); captions: none stated",
        counts={"official": _counts(1680, 210, 210)},
        scene_class=_class_of_hundred,
    )


class Sydney(KnownDataset):
    """Sydney-Captions, Qu et al. 2016 (doi 10.1109/CITS.2016.7546397): 613 images."""

    known = Known(
        folders=("sydney", "Sydney_captions", "Sydney"),
        files=("dataset_sydney.json", "dataset_Sydney.json", "dataset.json"),
        images=("images", "imgs", "Sydney_images", "images.zip", "imgs.zip"),
        licence="none stated; research use",
        counts={"official": _counts(497, 58, 58)},
    )
