"""Any csv: which column is which is an option. Other files of rows are read alike, see `Table`."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

from pydantic import Field, field_validator, model_validator

from urbancross_bench.data.readers import (
    DomainBuilder,
    Faults,
    TextOptions,
    data_path,
    find,
    finish,
    images_place,
    name_facts,
    read_csv,
)
from urbancross_bench.errors import DataError, meant, some
from urbancross_bench.interfaces import SPLITS, Dataset, Domain

_RANGES = {"latitude": (-90.0, 90.0), "longitude": (-180.0, 180.0), "resolution": (1e-3, 1e6)}
_SHOWN = 20  # values of a column that a message lists


class TableOptions(TextOptions):
    """Where the rows are and which column is which; readers give names to images and captions."""

    file: str | None = Field(default=None, description="one file with all rows")
    train: str | None = Field(default=None, description="or a file for each split")
    val: str | None = None
    test: str | None = None
    image_column: str
    caption_columns: tuple[str, ...]
    split_column: str | None = Field(default=None, description="train, val or test; empty for none")
    domain_column: str | None = Field(default=None, description="says which domain a row is of")
    domain: str | None = Field(default=None, min_length=1, description="the one whose rows are read")
    lists: str | None = Field(default=None, description="folder of train_list.txt, val_list.txt, test_list.txt")
    class_column: str | None = None
    latitude_column: str | None = None
    longitude_column: str | None = None
    resolution_column: str | None = Field(default=None, description="metres per pixel")
    tags_column: str | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.file is None) == (self.train is None and self.val is None and self.test is None):
            raise ValueError("give either `file`, or `train` and `test` (and `val`)")
        if self.file is None and not (self.train and self.test):
            raise ValueError("`train` and `test` go together")
        if self.domain and not self.domain_column:
            raise ValueError("`domain` is a value of a column; name the column by `domain_column`")
        return self


class CsvOptions(TableOptions):
    """`csv[file=skyscript.csv,image_column=filepath,caption_columns=[title],images=skyscript]`."""

    image_column: str = "image_name"
    caption_columns: tuple[str, ...] = Field(default=("description",), min_length=1, description="a caption each")
    separator: str = Field(default=",", description="one character, or `tab`")

    @field_validator("separator")
    @classmethod
    def _one_character(cls, separator: str) -> str:
        if separator in ("tab", "\\t"):
            return "\t"
        if len(separator) != 1:
            raise ValueError("a separator is one character, or `tab`")
        return separator


class Row(NamedTuple):
    """One row: file and line, as messages name it; what it is called within its file; its fields by column.

    All fields are texts, but those of captions may be lists of them.
    """

    where: str
    called: str
    fields: dict[str, Any]


class Table(Dataset):
    """A row per image or a row per caption; rows of one image must agree in everything but the caption."""

    def read(self, member: str | None) -> Domain:
        """One domain for the file or files, or for the rows of one of their domains."""
        options = cast(TableOptions, self.options)
        named = {"": options.file} | {split: getattr(options, split) for split in SPLITS}
        files = {split: data_path(file) for split, file in named.items() if file}
        first = next(iter(files.values()))
        builder, faults, domains = DomainBuilder(options.domain or first.stem), Faults(), set[str]()
        for split, file in files.items():
            with faults.gathered():  # what is wrong with the file as a whole
                builder.encoding(file, options.encoding)
                self._add(builder, file, split, faults, domains)
        faults.raise_any()
        if options.domain_column and options.domain not in domains:
            raise DataError(f"{first}:1: {_no_domain(options.domain_column, options.domain, domains)}")
        lists = data_path(options.lists) if options.lists else None
        if lists:
            find(lists, [f"{split}_list.txt" for split in SPLITS], "split lists")
        return finish(builder, options, images_place(options.images, first.parent), lists=lists)

    @abstractmethod
    def rows(self, file: Path, wanted: Sequence[str], faults: Faults) -> Iterator[Row]:
        """The rows of a file, each with the wanted columns; what is wrong with single ones goes to `faults`.

        Raises DataError if the file is no such table.
        """

    def _add(self, builder: DomainBuilder, file: Path, split: str, faults: Faults, domains: set[str]) -> None:
        """Add the rows of a file; what is wrong with them goes to `faults`, the domains it has to `domains`."""
        options = cast(TableOptions, self.options)
        attributes = {
            "scene_class": options.class_column,
            "latitude": options.latitude_column,
            "longitude": options.longitude_column,
            "resolution": options.resolution_column,
            "tags": options.tags_column,
        }
        columns = {name: column for name, column in attributes.items() if column}
        wanted = [options.image_column, *options.caption_columns, *columns.values()]
        wanted += [column for column in (options.split_column, options.domain_column) if column]
        first_of = dict[int, str]()  # by the hash of a row: whole rows of a large file would fill the memory twice
        for where, called, row in self.rows(file, wanted, faults):
            name = row[options.image_column].strip()
            if options.domain_column:
                domain = row[options.domain_column].strip()
                domains.add(domain)
                if not domain:
                    builder.leave_out(name, f"column {options.domain_column!r} says no domain", where)
                if domain != options.domain:
                    continue
            with faults.gathered():
                part = options.split_of(row[options.split_column] if options.split_column else split, where)
                facts = {key: _value(key, row[column], f"{where}: {column}") for key, column in columns.items()}
                image = builder.row(name, part, where, **name_facts(name), **facts)
                for field in (row[column] for column in options.caption_columns):
                    for text in field if isinstance(field, list) else [field]:
                        builder.caption(image, text, where)
                        if isinstance(options, CsvOptions):
                            builder.spanning(image, text, options.separator, where)
                earlier = first_of.setdefault(hash(tuple(map(str, row.values()))), called)
                if earlier != called:
                    builder.copied(image, called, earlier, where)


class Csv(Table):
    """A csv with a header."""

    options_type = CsvOptions

    def rows(self, file: Path, wanted: Sequence[str], faults: Faults) -> Iterator[Row]:
        """The lines below the header."""
        options = cast(CsvOptions, self.options)
        for line, fields in read_csv(file, wanted, options.separator, options.encoding, faults):
            yield Row(f"{file}:{line}", f"line {line}", fields)


def _no_domain(column: str, domain: str | None, known: set[str]) -> str:
    """What to say where no row is of the domain that was asked for, or none was."""
    names = sorted(known - {""})
    values = f"its values are {some(names, _SHOWN)}" if names else "it is empty"
    if domain is None:
        return f"column {column!r} says which domain a row is of; choose one by `domain`: {values}"
    return f"no row has {domain!r} in column {column!r}; {values}.{meant(domain, names)}"


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
