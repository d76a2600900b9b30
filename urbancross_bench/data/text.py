"""Text files of the field: lines, JSON and csv, each error with file and line."""

from __future__ import annotations

import ast
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from urbancross_bench.errors import DataError, did_you_mean

csv.field_size_limit(2**24)
_WRAPPED = re.compile(r"""b(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""")


def read_text(file: Path) -> str:
    """A file as UTF-8 (with or without byte order mark), else as GB 18030, which some copies are in.

    Raises DataError if it is neither, if it is UTF-8 with a damaged place, or cannot be read.
    """
    content = _content(file)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
    letters = [letter for letter in content.decode("utf-8", "surrogateescape") if letter > "\x7f"]
    if 2 * sum("\ud800" <= letter <= "\udfff" for letter in letters) < len(letters):
        raise DataError(f"{file}:{line}: not UTF-8, as the rest of the file is; it is damaged here")
    try:
        return content.decode("gb18030").removeprefix("\ufeff")
    except UnicodeDecodeError:
        raise DataError(f"{file}:{line}: neither UTF-8 nor GB 18030; convert the file to UTF-8") from None


def is_utf8(file: Path) -> bool:
    """Whether `read_text` takes the file as UTF-8. Raises DataError if it cannot be read."""
    try:
        _content(file).decode("utf-8-sig")
    except UnicodeDecodeError:
        return False
    return True


def read_lines(file: Path) -> list[str]:
    """The lines of a file, blank ones too: which line it is pairs it with another file's."""
    # Only a newline ends a line: splitlines() would also cut at characters that stand within captions.
    lines = read_text(file).replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def read_json(file: Path) -> Any:
    """Any JSON value. Raises DataError naming file and line.

    A key that stands twice in an object is an error: which value is meant, and what belongs to it, is not said.
    """
    try:
        return json.loads(read_text(file), object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise DataError(f"{file}:{error.lineno}: {file.name} is not JSON: {error.msg}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not JSON: {error}") from error


def read_csv(file: Path, columns: Sequence[str], separator: str = ",") -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a csv file, each with the number of its last line. `columns` must be there; others come along.

    Raises DataError naming file and line: a missing or repeated column, a row with more or fewer fields.
    """
    try:
        rows = csv.reader(io.StringIO(read_text(file), newline=""), delimiter=separator, strict=True)
    except (TypeError, ValueError) as error:
        raise DataError(f"{file}: {separator!r} cannot separate columns: {error}") from error
    try:
        header = [name.strip() for name in next(rows, [])]
        missing = [name for name in columns if name not in header]
        if missing:
            raise DataError(f"{file}:1: no column {missing[0]!r}.{did_you_mean(missing[0], header)}")
        repeated = [name for name in header if header.count(name) > 1]
        if repeated:
            raise DataError(f"{file}:1: column {repeated[0]!r} stands twice")
        for row in rows:
            if not row:
                continue
            if len(row) != len(header):
                raise DataError(f"{file}:{rows.line_num}: {len(row)} fields, but the header names {len(header)}")
            yield rows.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise DataError(f"{file}:{rows.line_num}: not csv: {error}") from error


def unwrap(name: str, where: str) -> str:
    """An image name without blanks around it, and without the python wrapper `b'…'` that some lists carry.

    Raises DataError for a wrapper that is none.
    """
    name = name.strip()
    if not name.startswith(("b'", 'b"')):
        return name
    try:
        if not _WRAPPED.fullmatch(name):
            raise ValueError("the quotes do not end where the name does")
        return str(ast.literal_eval(name).decode())
    except (ValueError, SyntaxError) as error:
        raise DataError(f"{where}: {name!r} is not an image name: {error}") from error


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise DataError(
            f"file {file} does not exist (relative paths start at URBANCROSS_DATA, a grid's exclusions beside it)"
        ) from None
    except (OSError, ValueError) as error:
        raise DataError(f"file {file} cannot be read: {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        repeated = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"key {repeated!r} stands twice in one object")
    return content
