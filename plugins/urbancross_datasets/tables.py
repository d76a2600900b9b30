"""Any csv: which column is which is an option."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self, cast

from pydantic import Field, field_validator, model_validator

from urbancross_bench.data.readers import (
    DomainBuilder,
    FileOptions,
    data_path,
    find,
    finish,
    images_place,
    name_facts,
    read_csv,
    split_name,
)
from urbancross_bench.errors import DataError
from urbancross_bench.interfaces import SPLITS, Dataset, Domain

_RANGES = {"latitude": (-90.0, 90.0), "longitude": (-180.0, 180.0), "resolution": (1e-3, 1e6)}


class CsvOptions(FileOptions):
    """`csv[file=skyscript.csv,image_column=filepath,caption_columns=[title],images=skyscript]`."""

    file: str | None = Field(default=None, description="one csv with all rows")
    train: str | None = Field(default=None, description="or a csv for each split")
    val: str | None = None
    test: str | None = None
    separator: str = Field(default=",", description="one character, or `tab`")
    image_column: str = "image_name"
    caption_columns: tuple[str, ...] = Field(default=("description",), min_length=1, description="a caption each")
    split_column: str | None = Field(default=None, description="train, val or test; empty for none")
    lists: str | None = Field(default=None, description="folder of train_list.txt, val_list.txt, test_list.txt")
    class_column: str | None = None
    latitude_column: str | None = None
    longitude_column: str | None = None
    resolution_column: str | None = Field(default=None, description="metres per pixel")
    tags_column: str | None = None

    @field_validator("separator")
    @classmethod
    def _one_character(cls, separator: str) -> str:
        if separator in ("tab", "\\t"):
            return "\t"
        if len(separator) != 1:
            raise ValueError("a separator is one character, or `tab`")
        return separator

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.file is None) == (self.train is None and self.val is None and self.test is None):
            raise ValueError("give either `file`, or `train` and `test` (and `val`)")
        if self.file is None and not (self.train and self.test):
            raise ValueError("`train` and `test` go together")
        return self


class Csv(Dataset):
    """A row per image or a row per caption; rows of one image must agree in everything but the caption."""

    options_type = CsvOptions

    def read(self, member: str | None) -> Domain:
        """One domain for the file or files."""
        options = cast(CsvOptions, self.options)
        named = {"": options.file} | {split: getattr(options, split) for split in SPLITS}
        files = {split: data_path(file) for split, file in named.items() if file}
        first = next(iter(files.values()))
        builder = DomainBuilder(first.stem)
        for split, file in files.items():
            _read(builder, file, split, options)
        lists = data_path(options.lists) if options.lists else None
        if lists:
            find(lists, [f"{split}_list.txt" for split in SPLITS], "split lists")
        return finish(builder, options, images_place(options.images, first.parent), lists=lists)


def _read(builder: DomainBuilder, file: Path, split: str, options: CsvOptions) -> None:
    builder.encoding(file)
    attributes = {
        "scene_class": options.class_column,
        "latitude": options.latitude_column,
        "longitude": options.longitude_column,
        "resolution": options.resolution_column,
        "tags": options.tags_column,
    }
    columns = {name: column for name, column in attributes.items() if column}
    wanted = [options.image_column, *options.caption_columns, *columns.values()]
    wanted += [options.split_column] if options.split_column else []
    for line, row in read_csv(file, wanted, options.separator):
        where = f"{file}:{line}"
        part = split_name(row[options.split_column], where) if options.split_column else split
        facts = {name: _value(name, row[column], f"{where}: {column}") for name, column in columns.items()}
        name = row[options.image_column].strip()
        image = builder.row(name, part, where, **name_facts(name), **facts)
        for column in options.caption_columns:
            builder.caption(image, row[column], where)


def _value(name: str, text: str, where: str) -> Any:
    """A number where the attribute is one; None where the field is empty."""
    if not text.strip():
        return None
    if name not in _RANGES:
        return text.strip()
    least, most = _RANGES[name]
    try:
        value = float(text)
    except ValueError:
        raise DataError(f"{where}: {text!r} is not a number") from None
    if not least <= value <= most:
        raise DataError(f"{where}: {text!r} is no {name}: it lies outside {least:g} to {most:g}")
    return value
