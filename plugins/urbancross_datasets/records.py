"""Captions in json as people write them: a list of records, a mapping of image names, or jsonl."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

from pydantic import Field

from urbancross_bench.data.readers import Faults, no_columns, read_json, read_json_lines
from urbancross_bench.errors import DataError, cut
from urbancross_datasets.tables import Row, Table, TableOptions

_SHOWN = 60  # characters of a value that a message shows
_FORMS = '[{"image": …, "captions": […]}, …], {"a.jpg": […], …}, or such records a line each in a file *.jsonl'


class JsonOptions(TableOptions):
    """`json[file=captions.json]`; columns are the keys of a record."""

    image_column: str = "image"
    caption_columns: tuple[str, ...] = Field(
        default=("captions",), min_length=1, description="a text, or a list of texts"
    )


class Json(Table):
    """A list of records, a mapping of image names to captions or records, or jsonl, a record a line."""

    options_type = JsonOptions

    def rows(self, file: Path, wanted: Sequence[str], faults: Faults) -> Iterator[Row]:
        """The records. A column that is no caption's, and which some records lack, is empty there."""
        options = cast(JsonOptions, self.options)
        records = list[Row]()
        for where, called, value in _entries(file, options, faults):
            if isinstance(value, dict):
                records.append(Row(where, called, value))
            else:
                faults.add(DataError(f"{where} is {_said(value)}, not a record"))
        missing = no_columns(wanted, list({key: None for record in records for key in record.fields}))
        if records and missing:
            raise DataError(f"{file}: {missing}")
        for record in records:
            try:
                row = _row(record, wanted, options)
            except DataError as error:
                faults.add(error)
            else:
                yield row


def _row(record: Row, wanted: Sequence[str], options: JsonOptions) -> Row:
    """The record with texts in the wanted columns that are no caption's. Raises DataError for what is none."""
    where, called, fields = record
    needed = (options.image_column, *options.caption_columns)
    absent = no_columns(needed, list(fields))
    if absent:
        raise DataError(f"{where}: {absent}")
    name = fields[options.image_column]
    if not isinstance(name, str):
        raise DataError(f"{where}: the image name is {_said(name)}, not a text")
    captions = {column: fields[column] for column in options.caption_columns}
    texts = {column: _text(fields, column, where) for column in wanted if column not in captions}
    return Row(where, called, {**fields, **texts})


def _entries(file: Path, options: JsonOptions, faults: Faults) -> list[tuple[str, str, Any]]:
    """What stands in the place of each record, as it is, after where that is and what it is called.

    Raises DataError for a file of another form.
    """
    if file.suffix.lower() in (".jsonl", ".ndjson"):
        lines = read_json_lines(file, options.encoding, faults)
        found = [(f"{file}:{line}", f"line {line}", value) for line, value in lines]
    else:
        content = read_json(file, options.encoding)
        if isinstance(content, dict) and (inner := _inner(content)):
            raise DataError(f"{file} holds {inner}")
        if isinstance(content, dict):
            found = [_named(file, name, value, options) for name, value in content.items()]
        else:
            entries = enumerate(_listed(content))
            found = [(f"{file}: entry {number}", f"entry {number}", entry) for number, entry in entries]
    if not found:
        raise DataError(f"{file} holds no records; `json` reads {_FORMS}")
    return found


def _named(file: Path, name: str, value: Any, options: JsonOptions) -> tuple[str, str, Any]:
    """The entry of an image whose name stands before its captions or its record."""
    fields = value if isinstance(value, dict) else {options.caption_columns[0]: value}
    called = f"entry {cut(name, _SHOWN)!r}"
    other = fields.get(options.image_column, name)
    if other != name:
        raise DataError(
            f"{file}: {called} says that its image is {_said(other)}; write a list of such records, without names "
            "before them"
        )
    return f"{file}: {called}", called, {**fields, options.image_column: name}


def _inner(content: dict[str, Any]) -> str:
    """What to do about a mapping that keeps its records in a list of its own; empty for one that does not."""
    lists = [name for name, value in content.items() if any(isinstance(entry, dict) for entry in _listed(value))]
    images = [entry.keys() for entry in _listed(content.get("images")) if isinstance(entry, dict)]
    if any({"filename", "sentences"} & keys for keys in images):
        return 'a list "images", as Karpathy-style files do: karpathy[file=…] reads those'
    if "annotations" in lists:
        return 'a list "annotations", as COCO has it, which is not read; write a list of records'
    return f'a list "{cut(lists[0], _SHOWN)}"; a file of records is that list alone' if lists else ""


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(fields: dict[str, Any], column: str, where: str) -> str:
    """A field as text; empty where it is null or not there."""
    value = fields.get(column)
    if isinstance(value, float):
        if math.isnan(value):  # as tables say that there is nothing
            return ""
        value = int(value) if value.is_integer() else value
    if isinstance(value, bool) or not isinstance(value, str | int | float | None):
        raise DataError(f"{where}: {column} is {_said(value)}, not a text or a number")
    return "" if value is None else str(value)


def _said(value: Any) -> str:
    return cut(repr(value), _SHOWN)
