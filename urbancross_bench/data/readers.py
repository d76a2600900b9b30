"""What a dataset plugin stands on: where data lies, files of the field, and the way from rows to a domain.

A reader parses its file into a `DomainBuilder` and ends with `finish`; the rest is shared.
"""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from urbancross_bench.data.builder import DomainBuilder
from urbancross_bench.data.feature_files import PromptBundle, read_bundle, read_features
from urbancross_bench.data.features import FeatureRows, StoredImages
from urbancross_bench.data.geo import box_facts, metadata_entries, name_facts, tag_text
from urbancross_bench.data.images import FileImages, is_file, list_files, open_images, read_file
from urbancross_bench.data.index import signature, verifying
from urbancross_bench.data.paths import data_folder, data_path, find, images_place, plain_name, relative_start
from urbancross_bench.data.splits import blocked, drawn, has_lists, listed, with_validation
from urbancross_bench.data.text import Faults, no_columns, read_csv, read_json, read_json_lines, read_lines, unwrap
from urbancross_bench.errors import DataError, PluginError
from urbancross_bench.interfaces.dataset import SPLITS, Domain, ImageSource
from urbancross_bench.interfaces.options import Options

__all__ = [
    "DomainBuilder",
    "Faults",
    "FeatureRows",
    "FileImages",
    "FileOptions",
    "PromptBundle",
    "StoredImages",
    "TextOptions",
    "box_facts",
    "class_in_name",
    "data_folder",
    "data_path",
    "find",
    "finish",
    "images_place",
    "is_file",
    "list_files",
    "metadata_entries",
    "name_facts",
    "no_columns",
    "open_images",
    "plain_name",
    "read_bundle",
    "read_csv",
    "read_features",
    "read_file",
    "read_json",
    "read_json_lines",
    "read_lines",
    "relative_start",
    "signature",
    "split_name",
    "tag_text",
    "unwrap",
    "verifying",
]

_SPLIT_NAMES = {"restval": "train", "valid": "val", "validation": "val", "dev": "val", "": ""}


class FileOptions(Options):
    """What every dataset read from files lets its user choose."""

    images: str | None = Field(default=None, description="folder or zip of the images; `none`: captions alone")
    split: Literal["given", "drawn", "blocks"] | None = Field(
        default=None,
        description="splits as the files say, drawn, or by geographic block; given where there are any",
    )
    split_seed: int = Field(default=0, description="of what is drawn")
    block_km: float = Field(default=10.0, gt=0, description="edge of a geographic block")
    distance_km: float = Field(default=1.0, ge=0, description="least distance between images of two splits")
    captions_generated: bool = Field(default=False, description="a model wrote the captions from the images")
    shareable: bool = Field(default=False, description="their licence lets anybody show images and captions")
    classes: Literal["given", "from_file_name"] = Field(
        default="given", description="scene classes as the dataset says, or `airport` of `airport_12.jpg`"
    )

    def split_of(self, name: str, where: str) -> str:
        """`split_name` of what a file says; empty where splits are made anew, whatever it says."""
        return "" if self.splits_anew else split_name(name, where)

    @property
    def splits_anew(self) -> bool:
        """Whether it does not count how files split their images."""
        return self.split in ("drawn", "blocks")

    @model_validator(mode="after")
    def _blocks_have_room(self) -> FileOptions:
        if self.split == "blocks" and self.distance_km >= self.block_km:
            raise ValueError("distance_km must be smaller than block_km, or no image is left between two blocks")
        return self


class TextOptions(FileOptions):
    """And of those read from text files, which do not say themselves what encoding they are in."""

    encoding: str = Field(default="utf-8", description="of the caption files: utf-8, latin-1, gb18030, …")

    @field_validator("encoding")
    @classmethod
    def _known(cls, encoding: str) -> str:
        try:
            "a".encode(encoding)
        except (LookupError, ValueError) as error:
            raise ValueError(f"no encoding of texts has this name: {error}") from error
        return encoding


def split_name(name: str, where: str) -> str:
    """`train`, `val` or `test` for what files call them (`restval` counts as train, `valid` is val).

    Empty stays empty: in no split. Raises DataError for any other name.
    """
    name = _SPLIT_NAMES.get(name.strip().lower(), name.strip().lower())
    if name and name not in SPLITS:
        raise DataError(
            f"{where}: unknown split {name!r}; known: {', '.join(filter(None, (*SPLITS, *_SPLIT_NAMES)))}"
        )
    return name


def class_in_name(name: str) -> str | None:
    """The scene class that a file name says, `airport` of `airport_12.jpg`; None where it says none.

    Files that are only numbered are one class, `unnamed`: so RSICD calls the images it has no class for.
    """
    stem = PurePosixPath(name).stem
    unnumbered = stem.rstrip(string.digits)
    if not unnumbered:
        return "unnamed"
    has_class = unnumbered != stem and any(letter.isalpha() for letter in unnumbered)
    return unnumbered.rstrip(" _-") if has_class else None


def finish(
    builder: DomainBuilder,
    options: FileOptions,
    images: Callable[[list[str]], ImageSource] | Path | None,
    *,
    lists: Path | None = None,
    scheme: str = "partition",
    **facts: Any,
) -> Domain:
    """The domain of a builder, with its images opened and the splits that the options ask for.

    images: folder or zip, None where the captions alone are at hand; or what opens the images of some names.
    lists: a folder that may hold split lists, of which `scheme` says those to take (`data.splits.SCHEMES`).
    facts: further fields of `Domain`.

    Raises DataError for splits that cannot be made, PluginError for options that are no `FileOptions`.
    """
    if not isinstance(options, FileOptions):
        raise PluginError(
            f"{type(options).__name__} must be a subclass of data.readers.FileOptions to end in finish()"
        )
    facts.setdefault("captions_generated", options.captions_generated)
    facts.setdefault("shareable", options.shareable)
    facts.setdefault("partition", "as the files say")
    opened = images if callable(images) else lambda names: open_images(images, names)
    domain = builder.build(opened, **facts)
    if options.classes == "from_file_name":
        domain = replace(domain, attributes={**domain.attributes, "scene_class": _classes_in_names(domain)})
    if options.split == "blocks":
        return blocked(domain, options.split_seed, options.block_km, options.distance_km)
    if options.split != "drawn":
        if lists and has_lists(lists, scheme):
            return listed(domain, lists, scheme)
        if domain.splits:
            return with_validation(domain, options.split_seed)
        if options.split == "given":
            raise DataError(f"domain {domain.name!r}: nothing says which image is in which split; try split=drawn")
    return drawn(domain, options.split_seed, scheme)


def _classes_in_names(domain: Domain) -> list[str]:
    classes = {name: class_in_name(name) for name in domain.image_names}
    bare = [name for name, found in classes.items() if found is None]
    if bare:
        raise DataError(
            f"domain {domain.name!r}: {len(bare)} file names say no class, {bare[0]!r} the first; "
            "classes=from_file_name reads names like airport_12.jpg"
        )
    return [found for found in classes.values() if found is not None]
