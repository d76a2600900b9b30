"""Committed records: what a leaderboard is made from, small enough for a repository.

    RECORDS/form.json                 the version of this form
            SHA256SUMS                a hash of every file, as `sha256sum` writes it
            <run key>/run.json        as in the run's own record, byte for byte, but for names
                      provenance.json without the name of the host
                      curve.json      numbers of four digits, no spaces
                      scores/<score key>/score.json              likewise
                                         images.safetensors.xz   sums per image: what tables are made of
                                         queries.safetensors.xz  counts per query; no top lists

What stands in tables is made from the same numbers as from the runs' own records. Names of images, top lists and
tracebacks are left out.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from urbancross_bench.errors import DataError, some
from urbancross_bench.files import publish, read_object, replacing, write_json
from urbancross_bench.identity import file_digest
from urbancross_bench.leaderboard.shape import check_shape
from urbancross_bench.records import IMAGE_SUMS, Record, ScoreRecord, read_records, runs_of

SCHEMA = 2
FORM, SUMS = "form.json", "SHA256SUMS"
_COUNTS, _SUMS = "queries.safetensors.xz", "images.safetensors.xz"
_UNPACKED = 2**31  # bytes that a file of counts may unpack to
_PARTIAL, _OLD = ".adding-", "replaced"
_SAID = 3  # records named in an error


@dataclass(frozen=True, eq=False)
class CompactScore(ScoreRecord):
    """A score whose arrays are compressed and without top lists."""

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Per-query counts and per-image sums, in the types they had."""
        return {**_unpacked(self.folder / _COUNTS), **self._sums()}

    def _sums(self) -> dict[str, NDArray[Any]]:
        return _unpacked(self.folder / _SUMS)


def _unpacked(file: Path) -> dict[str, NDArray[Any]]:
    try:
        unpacker = lzma.LZMADecompressor()
        content = unpacker.decompress(file.read_bytes(), max_length=_UNPACKED)
        if not unpacker.eof:
            raise ValueError(f"it is cut short, or unpacks to more than {_UNPACKED} bytes")
        arrays: dict[str, NDArray[np.generic]] = load(content)
    except Exception as error:  # safetensors raises its own type, OSError and ValueError, lzma its own
        raise DataError(f"record {file} cannot be read: {error}") from error
    return arrays


def read_all(places: Sequence[Path]) -> list[Record]:
    """Like `records.read_records`, of committed records too; raises DataError as `check_shape` does, too."""
    for place in places:
        _check_form(runs_of(place))
    records = read_records(places, check_shape)
    return [replace(record, scores=tuple(map(_compact, record.scores))) for record in records]


def read_unbroken(places: Sequence[Path]) -> list[Record]:
    """Like `read_all`, for what is shown of records; raises DataError as `expect_unbroken` does, too."""
    expect_unbroken(places)
    return read_all(places)


def _compact(score: ScoreRecord) -> ScoreRecord:
    return CompactScore(score.folder, score.content) if (score.folder / _SUMS).exists() else score


def _check_form(place: Path) -> None:
    file = place / FORM
    if not file.exists():
        return
    try:
        schema = json.loads(file.read_text(encoding="utf-8"))["schema"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    if schema != SCHEMA:
        raise DataError(f"{file} says schema {schema}; this version reads {SCHEMA}")


def write_committed(records: Sequence[Record], place: Path) -> None:
    """Add records to a folder of committed ones, and hash it anew.

    A run or score that is there already stays, but for a score that a new one `completes`.
    """
    place.mkdir(parents=True, exist_ok=True)
    _check_form(place)
    if not (place / FORM).exists():
        with replacing(place / FORM) as unfinished:
            write_json(unfinished, {"schema": SCHEMA})
    if not (place / SUMS).exists():
        seal(place)
    try:
        for record in records:
            _write_run(record, place)
    finally:  # of what was to come and did not, `SHA256SUMS` says nothing
        seal(place)


def settle(place: Path) -> bool:
    """Put in order what a `write_committed` left that was killed, before anything is read; whether there was any.

    `SHA256SUMS` then tells of files, too, that did not come.
    """
    left = [*place.glob(f"{_PARTIAL}*")]
    for holder in left:
        _settle(holder, place)
    return bool(left)


def _write_run(record: Record, place: Path) -> None:
    target = place / record.folder.name
    holder = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=place))
    try:
        folder = holder / "run"
        if target.exists() and json.loads((target / "run.json").read_text(encoding="utf-8"))["status"] == "ok":
            shutil.copytree(target, folder)
        else:
            folder.mkdir()
            _write_said(record.folder / "run.json", record.spec, folder / "run.json")
            _write_provenance(record.folder / "provenance.json", folder / "provenance.json")
            _write_curve(record.folder / "curve.json", folder / "curve.json")
        for score in record.scores:
            there = folder / "scores" / score.folder.name
            if there.exists() and completes(score, _committed(there)):
                shutil.rmtree(there)
            if not there.exists():
                _write_score(score, there)
        # Hashed before it is there: killed, an `add` leaves nothing that the next would take for edited.
        with (place / SUMS).open("a", encoding="utf-8", newline="\n") as sums:
            sums.writelines(_hashes(folder, f"{target.name}/"))
        if target.exists():
            (holder / _OLD).mkdir()
            target.rename(holder / _OLD / target.name)
        publish(folder, target)
    finally:
        _settle(holder, place)


def _settle(holder: Path, place: Path) -> None:
    """Put back a run that was to be replaced and was not, and remove what else there is of the attempt."""
    for run in holder.glob(f"{_OLD}/*/run.json"):
        if not (place / run.parent.name).exists():
            run.parent.rename(place / run.parent.name)
    shutil.rmtree(holder, ignore_errors=True)


def _committed(place: Path) -> ScoreRecord:
    return CompactScore(place, json.loads((place / "score.json").read_text(encoding="utf-8")))


def _write_said(file: Path, content: Mapping[str, Any], place: Path) -> None:
    if json.loads(file.read_text(encoding="utf-8")) == content:
        shutil.copyfile(file, place)
    else:  # the names that it has are others
        write_json(place, content)


def _write_score(score: ScoreRecord, place: Path) -> None:
    place.mkdir(parents=True)
    _write_said(score.folder / "score.json", _public(score.content), place / "score.json")
    sums: dict[str, NDArray[Any]] = {}
    counts: dict[str, NDArray[Any]] = {}
    for name, array in _without_tops(score).items():
        (sums if name.startswith(IMAGE_SUMS) else counts)[name] = array
    (place / _SUMS).write_bytes(lzma.compress(save(sums)))
    (place / _COUNTS).write_bytes(lzma.compress(save(counts)))


def _public(content: Mapping[str, Any]) -> dict[str, Any]:
    """What a score says; of metrics that failed the kind of error alone: its words may name files and images."""
    kinds = {name: re.match(r"[A-Za-z_]\w*(?=\(|$)", why) for name, why in content["failed"].items()}
    return {**content, "failed": {name: kind[0] if kind else "error" for name, kind in kinds.items()}}


def _without_tops(score: ScoreRecord) -> dict[str, NDArray[Any]]:
    return {name: array for name, array in score.arrays().items() if not name.split(".")[-1].startswith("top")}


def _write_provenance(source: Path, place: Path) -> None:
    if source.is_file():
        content = read_object(source)
        if not all(isinstance(facts, dict) for facts in content.values()):
            raise DataError(f"record {source} does not say of each stage how it came to be")
        write_json(
            place, {name: {k: v for k, v in facts.items() if k != "host"} for name, facts in content.items()}
        )


def _write_curve(source: Path, place: Path) -> None:
    if source.is_file():
        content = _shortened(read_object(source))
        place.write_text(json.dumps(content, separators=(",", ":"), ensure_ascii=False) + "\n", encoding="utf-8")


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shortened(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_shortened(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def seal(place: Path) -> None:
    """Write the hash of every file below a folder of committed records, in order of their names."""
    with replacing(place / SUMS) as unfinished:
        unfinished.write_text("".join(_hashes(place)), encoding="utf-8", newline="\n")


def _hashes(folder: Path, below: str = "") -> list[str]:
    """A line for each file of a folder that stands there in `SUMS`."""
    return [f"{file_digest(folder / name)}  {below}{name}\n" for name in _files(folder)]


def expect_unbroken(places: Iterable[Path], *, whole: bool = True) -> None:
    """Raise DataError naming records of sealed folders that were edited, added or (if `whole`) taken away, and
    for a folder of another form.
    """
    sealed = [root for root in map(runs_of, places) if _are_committed(root)]
    for root in sealed:
        _check_form(root)
    problems = [problem for root in sealed for problem in broken_seals(root, whole=whole)]
    if problems:
        raise DataError(
            f"{some(problems, _SAID, '; ')}. Fetch the records as they were, or delete their runs' folders and "
            "`leaderboard add` them anew"
        )


def _are_committed(root: Path) -> bool:
    """Whether a folder is one of committed records, or was before it lost what says so."""
    some_score = next(root.glob("*/scores/*/score.json"), None)
    return (root / FORM).exists() or (some_score is not None and some_score.with_name(_COUNTS).exists())


def broken_seals(place: Path, *, whole: bool = True) -> list[str]:
    """What was done to committed records since they were written, one sentence a file; none for other folders.

    whole: files that are gone count, too.
    """
    place = runs_of(place)
    if not _are_committed(place):
        return []
    try:
        lines = (place / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        lost = whole or any(place.glob("*/run.json"))  # else there is nothing that they were the hashes of
        return [f"{place / SUMS} cannot be read: {error}"] if lost else []
    said: dict[str, set[str]] = {}  # two hashes where an `add` that changed a file was killed
    for line in lines:
        found, _, name = line.partition("  ")
        said.setdefault(name, set()).add(found)
    there = _files(place)
    problems = [f"record {place / name} is not among {SUMS}" for name in there if name not in said]
    problems += [f"record {place / name} is gone" for name in sorted(said.keys() - set(there)) if whole]
    problems += [
        f"record {place / name} was edited: its hash is not the one in {SUMS}"
        for name in there
        if name in said and file_digest(f"{place}/{name}") not in said[name]
    ]
    return problems


def content_of(score: ScoreRecord) -> str:
    """A hash of what a score says: of its facts, and of its arrays but for top lists."""
    return _hash(_public(score.content), _without_tops(score))


def completes(score: ScoreRecord, there: ScoreRecord) -> bool:
    """Whether a score is the one that is there, but that metrics which had failed have values now."""
    before, now = _public(there.content), _public(score.content)
    new = now["metrics"].keys() - before["metrics"].keys()
    if not new or not now["failed"].items() < before["failed"].items():
        return False
    kept = {name: entry for name, entry in now["metrics"].items() if name not in new}
    sums = {IMAGE_SUMS + name for name in new}
    arrays = {name: array for name, array in _without_tops(score).items() if name not in sums}
    return _hash({**now, "metrics": kept, "failed": before["failed"]}, arrays) == content_of(there)


def _hash(facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> str:
    said = json.dumps(facts, sort_keys=True).encode()
    return hashlib.sha256(said + save(dict(sorted(arrays.items())))).hexdigest()


def _files(place: Path) -> list[str]:
    found, left = [], [""]  # strings: of ten thousand records `Path`s take three times as long
    while left:
        below = left.pop()
        with os.scandir(f"{place}/{below}") as entries:
            for entry in entries:
                if entry.name[0] == ".":
                    continue
                if entry.is_dir(follow_symlinks=False):
                    left.append(f"{below}{entry.name}/")
                elif entry.is_file():
                    found.append(f"{below}{entry.name}")
    return sorted(name for name in found if name != SUMS)
