"""The countries of UrbanCross, Zhong et al., ACM MM 2024 (arXiv 2404.14241), as their archives are laid out."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast

import numpy as np
from pydantic import Field

from urbancross_bench.data.readers import (
    DomainBuilder,
    Faults,
    TextOptions,
    box_facts,
    data_path,
    find,
    finish,
    images_place,
    list_files,
    metadata_entries,
    name_facts,
    open_images,
    read_csv,
    tag_text,
)
from urbancross_bench.errors import DataError
from urbancross_bench.interfaces import Dataset, Domain, Repair, Segments

MEMBERS = ("finland", "germany", "spain")
SEGMENTS = ("image_segments", "image_segments.zip")
_SEGMENT = re.compile(r"(?:.*/)?(?P<stem>[^/]+)/(?P=stem)_(?P<number>\d{1,9})\.\w+")


class UrbanCrossOptions(TextOptions):
    """`urbancross/finland[folder=data/UrbanCross]`."""

    folder: str = Field(default="urbancross", description="the folder with Finland/, Germany/ and Spain/")
    lists: Literal["partition", "finetune", "zeroshot"] = Field(
        default="partition", description="which of the scheme's lists are train, val and test"
    )
    metadata: str | None = Field(default=None, description="SkyScript's metadata json, for places and tags")
    captions_generated: bool = Field(default=True, description="InstructBLIP wrote the captions from the images")


class UrbanCross(Dataset):
    """`<Country>/`: the refined captions as csv, images and segments as folders or zips, split lists.

    Where the lists are absent they are drawn with `split_seed`, as `data split` would write them.
    """

    options_type = UrbanCrossOptions

    def read(self, member: str | None) -> Domain:
        """One country."""
        options = cast(UrbanCrossOptions, self.options)
        country = member or MEMBERS[0]
        root = data_path(options.folder)
        folder = find(root, [country.capitalize(), country], f"folder {country.capitalize()}")
        file = find(
            folder,
            [
                f"instructblip_generation_{country}_refine.csv",
                f"instructblip_generation_with_tag_{country}_refine.csv",
            ],
            "refined captions",
        )
        faults, columns = Faults(), ["image_name", "description"]
        rows, entries = list[tuple[str, str, str]](), dict[str, Any]()
        builder = DomainBuilder(country)
        with faults.gathered():  # what is wrong with the file as a whole
            builder.encoding(file, options.encoding)
            for line, row in read_csv(file, columns, encoding=options.encoding, faults=faults):
                rows.append((f"{file}:{line}", row["image_name"].strip(), row["description"]))
        with faults.gathered():
            if options.metadata:
                entries = metadata_entries(data_path(options.metadata), [name for _, name, _ in rows])
        for where, name, caption in rows:
            with faults.gathered():
                image = builder.row(name, "", where, **_facts(name, entries.get(name), options.metadata))
                builder.caption(image, caption, where)
                builder.spanning(image, caption, ",", where)
        faults.raise_any()
        images = images_place(options.images, folder)
        domain = finish(
            builder,
            options,
            images,
            lists=folder,
            scheme=options.lists,
            licence="images: those of SkyScript's sources; captions: none stated",
        )
        return _with_segments(domain, folder)


def _facts(name: str, entry: Any, file: str | None) -> dict[str, Any]:
    """What name and entry of an image say: country, year, place, tags."""
    facts = name_facts(name)
    if entry is None:
        return facts
    try:
        tags = tag_text(entry.get("center_tags") or {}, entry.get("surrounding_tags") or [])
        return facts | box_facts(entry["bbox"]) | {"tags": tags}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{file}: entry {name!r} lacks or garbles {error}") from error


def _with_segments(domain: Domain, folder: Path) -> Domain:
    """`image_segments/<stem>/<stem>_<i>.jpg`, in order of i; how they were chosen is unknown, so by caption.

    Files there that are no segment of the domain's images are left out, and that is noted.
    """
    present = [folder / name for name in SEGMENTS if os.path.lexists(folder / name)]
    if not present:
        return domain
    owners: dict[str, list[int]] = {}
    for index, name in enumerate(domain.image_names):
        owners.setdefault(PurePosixPath(name).stem, []).append(index)
    found, astray = dict[tuple[int, int], str](), list[str]()
    for name in list_files(present[0]):
        match = _SEGMENT.fullmatch(name)
        if not match or match["stem"] not in owners:
            astray.append(name)
            continue
        images, number = owners[match["stem"]], int(match["number"])
        if len(images) > 1:
            both = " and ".join(repr(domain.image_names[index]) for index in images[:2])
            raise DataError(f"{present[0]}: {name!r} may be cut from {both}")
        if (images[0], number) in found:
            raise DataError(f"{present[0]}: {found[images[0], number]!r} and {name!r} have the same number")
        found[images[0], number] = name
    order = sorted(found)
    segments = Segments(
        open_images(present[0], [found[key] for key in order]),
        np.array([image for image, _ in order], dtype=np.int64),
        caption_aware=True,
    )
    problem = f"{len(astray)} files are segments of no captioned image, {astray[0]!r} the first" if astray else ""
    noted = [Repair(str(present[0]), problem, "left out")] if astray else []
    return replace(domain, segments=segments, repairs=(*domain.repairs, *noted))
