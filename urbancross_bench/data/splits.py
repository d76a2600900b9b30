"""Partitions: drawn with a recorded seed, cut along geographic blocks, or read from and written to split lists."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.data.geo import nearest_distances, on_globe
from urbancross_bench.data.paths import plain_name
from urbancross_bench.data.text import read_json, read_lines, unwrap
from urbancross_bench.errors import DataError, did_you_mean
from urbancross_bench.files import replacing, write_json
from urbancross_bench.identity import derive_seed, file_digest
from urbancross_bench.interfaces.dataset import SPLITS, Domain, Indices

# Where a domain finds train, val and test among the split lists of UrbanCross, and the share of the images each
# list holds. `finetune` and `zeroshot` are the second scheme of the released scripts: drawn by a shuffle of its
# own, so its lists share images with those of the first.
SCHEMES: dict[str, dict[str, str]] = {
    "partition": {"train": "train_list", "val": "val_list", "test": "test_list"},
    "finetune": {"train": "finetune_list", "val": "finetune_val_list", "test": "test_list"},
    "zeroshot": {"train": "finetune_list", "val": "finetune_val_list", "test": "zeroshot_list"},
}
RECORD = "splits.json"  # beside lists that `data split` wrote: how they were drawn, and their hashes
_DRAWS: tuple[dict[str, float], ...] = (
    {"train_list": 0.7, "val_list": 0.1, "test_list": 0.2},
    {"finetune_list": 0.2, "finetune_val_list": 0.1, "zeroshot_list": 0.7},
)


def draw_lists(names: Sequence[str], seed: int) -> dict[str, list[str]]:
    """All six split lists of some images, by list name: two shuffles, 70/10/20 and 20/10/70, cut at whole images.

    What is drawn depends on the names and the seed, never on the order of the names. Raises DataError where a list
    would be empty; with ten names none is.
    """
    lists: dict[str, list[str]] = {}
    for number, shares in enumerate(_DRAWS):
        order = sorted(names, key=lambda name: derive_seed("split lists", number, seed, name))
        ends = np.round(np.cumsum([0.0, *shares.values()]) * len(order)).astype(int)
        lists |= {name: order[a:b] for name, a, b in zip(shares, ends, ends[1:], strict=False)}
    empty = next((name for name, chosen in lists.items() if not chosen), None)
    if empty:
        raise DataError(
            f"{len(names)} images are too few to draw splits from: {empty} would be empty; ten are enough"
        )
    return lists


def drawn(domain: Domain, seed: int, scheme: str = "partition") -> Domain:
    """The domain with splits of a scheme, drawn with a seed."""
    lists = draw_lists(domain.image_names, seed)
    position = {name: index for index, name in enumerate(domain.image_names)}
    splits = {
        split: np.array(sorted(position[name] for name in lists[which]), dtype=np.int64)
        for split, which in SCHEMES[scheme].items()
    }
    return replace(
        domain,
        splits=splits,
        partition=f"{_said(scheme)}, drawn with seed {seed}",
        given=False,
        **_marked(scheme),
    )


def with_validation(domain: Domain, seed: int) -> Domain:
    """The domain with a validation split: its own, else a fifth of its training images, drawn with a seed."""
    if "val" in domain.splits or "train" not in domain.splits:
        return domain

    def draw(index: int) -> int:
        return derive_seed("validation split", seed, domain.image_names[index])

    order = sorted(domain.splits["train"].tolist(), key=draw)
    cut = round(len(order) / 5)
    if not cut:
        raise DataError(
            f"domain {domain.name!r} has no validation split, and {len(order)} training images are too few to "
            "take a fifth from"
        )
    splits = {"val": order[:cut], "train": order[cut:]}
    return replace(
        domain,
        splits={**domain.splits, **{name: np.array(sorted(s), dtype=np.int64) for name, s in splits.items()}},
        partition=f"{domain.partition}; validation: a fifth of training, drawn with seed {seed}",
    )


def listed(domain: Domain, folder: Path, scheme: str = "partition") -> Domain:
    """The domain with splits of a scheme as split lists in `folder` say, one image name a line.

    A name that no image has is read without the wrapper `b'…'` of some scripts. An image may stand in no list.
    Raises DataError naming list and line for a name that is not in the domain or stands twice in a list, and
    naming a list that leaves its split empty.
    """
    position = {plain_name(name): index for index, name in enumerate(domain.image_names)}
    left_out = {plain_name(repair.image) for repair in domain.repairs}
    splits: dict[str, Indices] = {}
    for split, which in SCHEMES[scheme].items():
        file, seen = folder / f"{which}.txt", dict[int, int]()
        for number, line in enumerate(read_lines(file), start=1):
            name = plain_name(line.strip())
            if name not in position and name not in left_out:
                name = plain_name(unwrap(name, f"{file}:{number}"))
            index = position.get(name)
            if not name or (index is None and name in left_out):
                continue  # what was left out has been said
            if index is None:
                raise DataError(f"{file}:{number}: no image is called {name!r}.{did_you_mean(name, position)}")
            if index in seen:
                raise DataError(f"{file}:{number}: {name!r} stands in line {seen[index]} already")
            seen[index] = number
        if not seen:
            raise DataError(f"{file} names no image of the domain; split {split!r} would be empty")
        splits[split] = np.array(sorted(seen), dtype=np.int64)
    return replace(
        domain,
        splits=splits,
        partition=f"{', '.join(SCHEMES[scheme].values())} of {folder.name}{_recorded(folder, scheme)}",
        **_marked(scheme),
    )


def has_lists(folder: Path, scheme: str) -> bool:
    """Whether the folder holds all lists of a scheme. Raises DataError if it holds some of them only."""
    files = [folder / f"{which}.txt" for which in SCHEMES[scheme].values()]
    present = [file for file in files if file.is_file()]
    if present and len(present) < len(files):
        absent = next(file for file in files if file not in present)
        raise DataError(
            f"{folder} holds {present[0].name} but lacks {absent.name}; `data split` writes whole sets"
        )
    return bool(present)


def blocked(domain: Domain, seed: int, block: float, distance: float) -> Domain:
    """The domain with splits of whole geographic blocks, 70/10/20 by images, no neighbours across them.

    Blocks are cells of `block` kilometres; a seed draws which of them go to the test, validation and training
    split. Training and validation images within `distance` kilometres of a test image, and training images that
    near to a validation image, are in no split: they come off the shares of training and validation. Raises
    DataError if an image has no coordinates, or if there are too few blocks to fill every split.
    """
    latitude, longitude = coordinates(domain)
    cells = _cells(latitude, longitude, block)
    names = sorted(set(cells), key=lambda cell: derive_seed("geographic blocks", seed, *cell))
    blocks: dict[tuple[int, int], list[int]] = {name: [] for name in names}
    for index, cell in enumerate(cells):
        blocks[cell].append(index)
    splits: dict[str, list[int]] = {name: [] for name in SPLITS}
    for members in blocks.values():
        # The split that is furthest from its share takes the next block.
        shares = {"test": 0.2, "val": 0.1, "train": 0.7}
        wanting = max(shares, key=lambda name: shares[name] - len(splits[name]) / len(cells))
        splits[wanting] += members
    kept = {name: np.array(sorted(members), dtype=np.int64) for name, members in splits.items()}
    places = np.stack([latitude, longitude], axis=1)
    for name, others in (("val", ["test"]), ("train", ["test", "val"])):
        for other in others:
            far = nearest_distances(places[kept[name]], places[kept[other]]) > distance
            kept[name] = kept[name][far]
    empty = [name for name in SPLITS if not len(kept[name])]
    if empty:
        raise DataError(
            f"domain {domain.name!r}: blocks of {block:g} km with {distance:g} km between splits leave no image "
            f"for {', '.join(empty)}; choose smaller ones"
        )
    left_out = len(cells) - sum(len(members) for members in kept.values())
    gap = min(float(nearest_distances(places[kept[n]], places[kept["test"]]).min()) for n in ("train", "val"))
    return replace(
        domain,
        splits=kept,
        partition=(
            f"blocks of {block:g} km, drawn with seed {seed}; no image within {distance:g} km of one in another "
            f"split (nearest to a test image: {gap:.2f} km), {left_out} images between them in no split"
        ),
        given=False,
        **_marked("partition"),
    )


def coordinates(domain: Domain) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N,) latitudes and longitudes in degrees. Raises DataError where the domain or an image has none."""
    latitude, longitude = (_column(domain, name) for name in ("latitude", "longitude"))
    astray = np.flatnonzero(~on_globe(latitude, longitude))
    if len(astray):
        first = int(astray[0])
        raise DataError(
            f"domain {domain.name!r}: image {domain.image_names[first]!r} lies at latitude {latitude[first]:g}, "
            f"longitude {longitude[first]:g}: degrees in [-90, 90] and [-180, 180] are wanted"
        )
    return latitude, longitude


def write_lists(folder: Path, schemes: Mapping[str, Domain], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write the split lists of a domain, one image name a line in order, and what they are to `splits.json`.

    schemes: the domain with the splits of each scheme whose lists are wanted. facts: how they were drawn. Returns
    what `splits.json` holds: the facts, and size and SHA-256 of each list. Raises DataError rather than replace a
    file, and for a name that a list cannot hold.
    """
    lists: dict[str, str] = {}
    for scheme, domain in schemes.items():
        for split, which in SCHEMES[scheme].items():
            names = sorted(domain.image_names[index] for index in domain.splits[split].tolist())
            lists[which] = "".join(f"{_one_line(name)}\n" for name in names)
    every = dict.fromkeys(f"{which}.txt" for lists_of in SCHEMES.values() for which in lists_of.values())
    present = [name for name in (*every, RECORD) if (folder / name).exists()]
    if present:
        raise DataError(f"{folder / present[0]} is there already; remove it or choose another folder")
    sums = {
        which: {"images": text.count("\n"), "sha256": hashlib.sha256(text.encode()).hexdigest()}
        for which, text in lists.items()
    }
    partitions = {scheme: domain.partition for scheme, domain in schemes.items()}
    record = {**facts, "partitions": partitions, "lists": sums}
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / RECORD) as unfinished:  # first: lists that are all there have it
        write_json(unfinished, record)
    for which, text in lists.items():
        with replacing(folder / f"{which}.txt") as unfinished:
            unfinished.write_bytes(text.encode())
    return record


def _one_line(name: str) -> str:
    """A name that a list gives back as it is. Raises DataError for any other."""
    # A byte order mark would vanish from the head of the file, blanks from the ends of a line.
    if not name or "\n" in name or name != name.strip() or name.startswith("\ufeff"):
        raise DataError(f"image name {name!r} cannot stand in a split list, which has one name a line")
    return name


def _recorded(folder: Path, scheme: str) -> str:
    """What `splits.json` says of a scheme's lists beside it; empty where it says nothing."""
    if not (folder / RECORD).is_file():
        return ""
    record = read_json(folder / RECORD)
    try:
        said, sums = record["partitions"][scheme], record["lists"]
        drawn = all(file_digest(folder / f"{w}.txt") == sums[w]["sha256"] for w in SCHEMES[scheme].values())
    except (KeyError, TypeError):
        return ""
    return f": {said}" if drawn else ", changed since they were drawn"


def _column(domain: Domain, name: str) -> NDArray[np.float64]:
    values = domain.attributes.get(name)
    if values is None:
        raise DataError(f"domain {domain.name!r} has no column {name!r}")
    bare = [index for index, value in enumerate(values) if value is None]
    if bare:
        raise DataError(
            f"domain {domain.name!r}: {len(bare)} images have no {name}, {domain.image_names[bare[0]]!r} the first"
        )
    return np.asarray(values, dtype=np.float64)


def _marked(scheme: str) -> dict[str, Any]:
    """What of `Domain` goes with a scheme: whether its lists overlap, and the mark of its rows."""
    mark = "" if scheme == "partition" else f"the released scripts' {scheme} lists"
    return {"overlapping": scheme == "finetune", "mark": mark}


def _said(scheme: str) -> str:
    if scheme == "partition":
        return "70/10/20"
    return "the second scheme of the released scripts, 20/10/70" + (
        " tested on the first scheme's test list" if scheme == "finetune" else ""
    )


def _cells(latitude: NDArray[np.float64], longitude: NDArray[np.float64], block: float) -> list[tuple[int, int]]:
    """The block of each place: rows of equal height, each cut into columns of about equal width in kilometres."""
    degrees = block / 111.195  # one degree of latitude in kilometres, on a sphere of radius 6371.0
    rows = np.floor(latitude / degrees)
    width = degrees / np.maximum(np.cos(np.radians((rows + 0.5) * degrees)), 1e-3)
    return list(zip(rows.astype(int).tolist(), np.floor(longitude / width).astype(int).tolist(), strict=True))
