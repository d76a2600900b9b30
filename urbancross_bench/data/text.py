"""Text files of the field: lines, JSON and csv, each error with file and line.

`encoding` is what the user says a file is in, None for a reader that does not let them say so: it reads UTF-8.
"""

from __future__ import annotations

import ast
import codecs
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from urbancross_bench.data.paths import relative_start
from urbancross_bench.errors import DataError, cut, meant, some

csv.field_size_limit(2**24)
_WRAPPED = re.compile(r"""b(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]")
_SAID = 10  # faults that a message names
_LISTED, _LONGEST = 20, 60  # columns that one lists, and characters of each
_PROPOSED = ("latin-1", "cp1252", "gb18030")  # encodings of a file that is not UTF-8, where they fit
_SEPARATORS = {";": ";", "\t": "tab", "|": '"|"', ",": '","'}  # as an option writes them
_NO_TEXT = {  # how a file begins that is none → what it is, and what to do
    b"PAR1\x15": "a parquet file; huggingface[path=FOLDER] reads the folder that holds it",
    b"\x1f\x8b": "packed by gzip; unpack it",
    b"PK\3\4": "a zip, as those of spreadsheets (.xlsx) are; save the sheet as csv, or unpack it",
}


class Faults:
    """What is wrong with single rows, gathered so that a user hears of all of it at once."""

    def __init__(self) -> None:
        self._first: list[str] = []
        self._count = 0

    def add(self, error: DataError) -> None:
        """Gather an error; the row that it is about is passed over."""
        self._count += 1
        if self._count <= _SAID:
            self._first.append(str(error))

    @contextmanager
    def gathered(self) -> Iterator[None]:
        """Add what goes wrong inside, where the rest is then passed over."""
        try:
            yield
        except DataError as error:
            self.add(error)

    def raise_any(self) -> None:
        """Raise DataError naming the first ten, a line each. With none, nothing."""
        if self._count == 1:
            raise DataError(self._first[0])
        if self._count:
            more = [f"and {self._count - _SAID:,} more"] if self._count > _SAID else []
            raise DataError("\n  ".join([f"{self._count:,} faults:", *self._first, *more]))


def read_text(file: Path, encoding: str | None = None) -> str:
    """A file as UTF-8 (with or without byte order mark), or in the encoding that its user names.

    No encoding is guessed: many files in Latin-1 are valid GB 18030 too, and then say other words. Raises
    DataError naming the line that is not in the encoding, or if the file cannot be read or holds no text.
    """
    content = _content(file)
    other = next((what for start, what in _NO_TEXT.items() if content.startswith(start)), None)
    if other:
        raise DataError(f"{file} is no text but {other}")
    if content.startswith(codecs.BOM_UTF8) and not is_utf8(encoding):
        raise DataError(f"{file}:1: the file begins with the mark of UTF-8; leave encoding={encoding} out")
    try:
        if is_utf8(encoding):
            return content.decode("utf-8-sig")
        return content.decode(encoding or "").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        start = error.start
    except UnicodeError as error:
        raise DataError(f"{file}: not {encoding}: {error}") from error
    line = content.count(b"\n", 0, start) + 1
    where = f"{file}:{line}"
    if not is_utf8(encoding):
        raise DataError(f"{where}: byte 0x{content[start]:02x} is not {encoding}")
    letters = _NOT_ASCII.findall(content.decode("utf-8", "surrogateescape"))
    if 2 * sum("\ud800" <= letter <= "\udfff" for letter in letters) < len(letters):
        raise DataError(f"{where}: not UTF-8, as the rest of the file is; it is damaged here")
    raise DataError(f"{where}: byte 0x{content[start]:02x} is not UTF-8; {_remedy(content, encoding)}")


def is_utf8(encoding: str | None) -> bool:
    """Whether `read_text` takes a file as UTF-8."""
    return encoding is None or codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


def beyond_ascii(text: str) -> tuple[int, str] | None:
    """The number of the first line with a character outside ASCII, and the words around it. None without one."""
    found = _NOT_ASCII.search(text)
    if found is None:
        return None
    place = found.start()
    start = max(text.rfind("\n", 0, place) + 1, place - 12)
    words = text[start : place + 24].splitlines()[0].strip()
    return text.count("\n", 0, place) + 1, words


def read_lines(file: Path, encoding: str | None = None) -> list[str]:
    """The lines of a file, blank ones too: which line it is pairs it with another file's.

    Raises DataError as `read_text` does, and for UTF-16 that is read as another encoding.
    """
    text = read_text(file, encoding)
    # Else the lines would pair as they should, with NUL bytes in their words; a caption may hold some of its own.
    if 3 * text.count("\0") > len(text) and _reads(_content(file)):
        raise DataError(f"{file}: not {encoding or 'UTF-8'}. {_nul_bytes(file, encoding)}")
    # Only a newline ends a line: splitlines() would also cut at characters that stand within captions.
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def read_json(file: Path, encoding: str | None = None) -> Any:
    """Any JSON value. Raises DataError naming file and line.

    A key that stands twice in an object is an error: which value is meant, and what belongs to it, is not said.
    """
    text = read_text(file, encoding)
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        hint = f". {_nul_bytes(file, encoding)}" if "\0" in text else ""
        hint = hint or (". If each line is a record, call it .jsonl" if error.msg == "Extra data" else "")
        raise DataError(f"{file}:{error.lineno}: {file.name} is not JSON: {error.msg}{hint}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not JSON: {error}") from error


def read_json_lines(file: Path, encoding: str | None, faults: Faults) -> Iterator[tuple[int, Any]]:
    """The JSON value of each line that is not blank, with the line's number; lines that are none go to `faults`.

    Raises DataError as `read_lines` does.
    """
    for line, text in enumerate(read_lines(file, encoding), start=1):
        if not text.strip():
            continue
        try:
            value = json.loads(text, object_pairs_hook=_object)
        except (ValueError, RecursionError) as error:
            faults.add(DataError(f"{file}:{line}: the line is not JSON: {error}"))
        else:
            yield line, value


def read_csv(
    file: Path,
    columns: Sequence[str],
    separator: str | None = None,
    encoding: str | None = None,
    faults: Faults | None = None,
) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a csv file, each with the number of its last line. `columns` must be there; others come along.

    separator: what the user says it is, None for a reader that does not let them say so: a comma.
    faults: takes what is wrong with single rows, which are then passed over.

    Raises DataError naming file and line: missing or repeated columns, a row with more or fewer fields.
    """
    content = read_text(file, encoding)
    other = _other_than_csv(content)
    try:
        rows = csv.reader(io.StringIO(content, newline=""), delimiter=separator or ",", strict=True)
    except (TypeError, ValueError) as error:
        raise DataError(f"{file}: {separator!r} cannot separate columns: {error}") from error
    ended = 0  # the last line of the row before
    try:
        header = [name.strip() for name in next(rows, [])]
        missing = no_columns(columns, header)
        if missing and other:
            raise DataError(f"{file}:1: {other}")
        if missing and any("\0" in name for name in header):
            missing = no_columns([name for name in columns if name not in header], [])
            raise DataError(f"{file}:1: {missing} {_nul_bytes(file, encoding)}")
        if missing:
            raise DataError(f"{file}:1: {_other_separator(columns, header, separator) or missing}")
        repeated = [name for name in header if header.count(name) > 1]
        if repeated:
            raise DataError(f"{file}:1: column {repeated[0]!r} stands twice")
        ended = rows.line_num
        for row in rows:
            ended = rows.line_num
            if not row:
                continue
            if len(row) != len(header):
                problem = DataError(
                    f"{file}:{rows.line_num}: {len(row)} fields, but the header names {len(header)}"
                )
                if faults is None:
                    raise problem
                faults.add(problem)
                continue
            yield rows.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        several = f"; a quote may be left open in line {ended + 1}, where this row begins"
        began = several if ended + 1 < rows.line_num else ""
        raise DataError(f"{file}:{rows.line_num}: {other or f'not csv: {error}{began}'}") from error


def no_columns(wanted: Iterable[str], known: Sequence[str]) -> str:
    """What to say of the wanted columns that are not there, each once; empty if all are."""
    missing = [name for name in dict.fromkeys(wanted) if name not in known]
    hints = [meant(name, known) for name in missing]
    said = " ".join(f"No column {name!r}.{hint}" for name, hint in zip(missing, hints, strict=True))
    shown = some([cut(name, _LONGEST) for name in sorted(known)], _LISTED)
    listed = "" if all(hints) or not known else f" Known: {shown}."
    return f"n{said[1:]}{listed}" if said else ""


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


def _nul_bytes(file: Path, encoding: str | None) -> str:
    """What to say of NUL bytes in a file that was read in an encoding."""
    content = _content(file)
    said = "Its NUL bytes look like UTF-16" if _reads(content) else "It holds NUL bytes"
    return f"{said}; {_remedy(content, encoding)}"


def _remedy(content: bytes, encoding: str | None) -> str:
    """What a user may do about a file in another encoding, with what the likely ones make of its words."""
    if encoding is None:
        return "convert the file to UTF-8"
    said = ", ".join(f"encoding={name} reads {words!r}" for name, words in _reads(content).items())
    if b"\0" in content and not said:
        line = content.count(b"\n", 0, content.index(b"\0")) + 1
        return f"take the NUL bytes out, the first in line {line}, or say what it is by the option `encoding`"
    return f"say what it is by the option `encoding`{f': {said}' if said else ''}"


def _reads(content: bytes) -> dict[str, str]:
    """Encoding that fits a file that is not UTF-8 → some words as it reads them, each reading once.

    With NUL bytes it is UTF-16 or none: any other would keep them.
    """
    proposed: tuple[str, ...] = _PROPOSED
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        proposed = ("utf-16",)
    elif b"\0" in content:
        proposed = ("utf-16-le", "utf-16-be")
    reads = dict[str, str]()
    for encoding in proposed:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        _, words = beyond_ascii(text.removeprefix("\ufeff")) or (0, text[:24])
        # Control characters in place of letters, or lines that do not end: it is another one.
        letters = text.strip() and not re.search(r"[\0\x80-\x9f]", text)
        lines = 2 * text.count("\n") >= content.count(b"\n")
        if words not in reads.values() and letters and lines:
            reads[encoding] = words
    return reads


def _other_than_csv(content: str) -> str:
    """What to say of a text that has no line of columns because it is empty, or JSON; else empty."""
    start = content.lstrip()[:1]
    if start in ("{", "["):
        return "JSON, not csv; captions in JSON are read by json[file=…] or karpathy[file=…]"
    return "" if start else "the file is empty; its first line is to name the columns"


def _other_separator(columns: Sequence[str], header: Sequence[str], separator: str | None) -> str:
    """What to say of a header whose only field has the wanted columns in it, between other separators."""
    if len(header) != 1:
        return ""
    for other, option in _SEPARATORS.items():
        if other in header[0] and not no_columns(columns, [name.strip() for name in header[0].split(other)]):
            remedy = "put commas" if separator is None else f"write separator={option}"
            return f"the columns are separated by {other!r}, not by {separator or ','!r}; {remedy}"
    return ""


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        raise DataError(f"file {file} does not exist ({relative_start()})") from None
    except (OSError, ValueError) as error:
        raise DataError(f"file {file} cannot be read: {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        repeated = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"key {repeated!r} stands twice in one object")
    return content
