"""A bundle: one zip with all that somebody else needs to repeat grids, and to see whether they did.

    README.md           what this is, and the commands
    bundle.json         form, stated drift, what is in each grid, a hash of every other member
    grids/<name>.yaml   the grids as they were run; beside them the files of code and lists that they name
    environment.json    Python, system, plugins; environment.txt: every distribution, for pip
    data.json           per domain the fingerprints of its splits, and its licence
    records/            committed records (`leaderboard.committed`): no names of images, no captions, no host

The same records, in the same environment, make the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from urbancross_bench.data.images import leads_out
from urbancross_bench.errors import DataError
from urbancross_bench.files import replacing
from urbancross_bench.identity import file_digest
from urbancross_bench.leaderboard.committed import read_all
from urbancross_bench.records import Record

SCHEMA = 1
MADE_BY = "urbancross-bench "
INDEX, RECORDS, GRIDS, DATA, ENVIRONMENT = "bundle.json", "records", "grids", "data.json", "environment.json"
_DATE = (1980, 1, 1, 0, 0, 0)  # the first that a zip knows
_LARGEST = 2**33  # bytes that a bundle may unpack to
_BLOCK = 2**20


@dataclass(frozen=True, eq=False)
class Bundle:
    """An opened bundle. `index`: the content of `bundle.json`; `data` and `environment` those of their files."""

    records: list[Record]
    index: Mapping[str, Any]
    data: Mapping[str, Any]
    environment: Mapping[str, Any]


def pack_bundle(folder: Path, index: Mapping[str, Any], file: Path) -> None:
    """Write all files below a folder, and the index with their hashes, into a zip; in order, without times."""
    members = {place.relative_to(folder).as_posix(): place for place in folder.rglob("*") if place.is_file()}
    hashes = {name: file_digest(members[name]) for name in sorted(members)}
    content = json.dumps({"schema": SCHEMA, **index, "members": hashes}, indent=1, ensure_ascii=False)
    with replacing(file) as partial, zipfile.ZipFile(partial, "w") as opened:
        opened.writestr(_entry(INDEX), content + "\n")
        for name in hashes:
            opened.writestr(_entry(name), members[name].read_bytes())


def is_bundle(file: Path) -> bool:
    """Whether a file is a bundle of whatever version of this program. Raises OSError, ValueError."""
    try:
        with zipfile.ZipFile(file) as opened:
            index = json.loads(opened.read(INDEX))
    except (zipfile.BadZipFile, KeyError, RuntimeError, NotImplementedError, zlib.error) as error:
        raise ValueError(f"{file} is no bundle") from error
    return isinstance(index, dict) and str(index.get("made_by", "")).startswith(MADE_BY)


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _DATE)
    entry.create_system, entry.external_attr = 3, 0o644 << 16  # the same on every system
    entry.compress_type = zipfile.ZIP_DEFLATED
    return entry


@contextmanager
def opened_bundle(file: Path) -> Iterator[Bundle]:
    """A bundle whose members are what they were when it was made, as long as the body runs.

    Raises DataError for what is no bundle, leads out of itself, is too large, or was changed after it was made.
    """
    with tempfile.TemporaryDirectory(prefix="bundle-") as holder:
        folder = Path(holder)
        try:
            with zipfile.ZipFile(file) as opened:
                index = _unpacked(opened, folder, file)
            data, environment = (json.loads((folder / name).read_bytes()) for name in (DATA, ENVIRONMENT))
        except DataError:
            raise
        except Exception as error:  # a damaged header makes zipfile trip over whatever it holds
            raise DataError(f"bundle {file} cannot be read: {str(error) or type(error).__name__}") from error
        yield Bundle(read_all([folder / RECORDS]), index, data, environment)


def _unpacked(opened: zipfile.ZipFile, folder: Path, file: Path) -> Mapping[str, Any]:
    members = opened.infolist()
    names = [member.filename for member in members]
    for name in names:
        if not name or leads_out(name) or "\\" in name or name.endswith("/"):
            raise DataError(f"bundle {file} holds the member {name!r}, which leads out of it; not trusted")
    if len({*names}) < len(names):
        raise DataError(f"bundle {file} holds a member twice; not trusted")
    if INDEX not in names:
        raise DataError(f"{file} is no bundle: it has no {INDEX}; make one with `export bundle`")
    if sum(member.file_size for member in members) > _LARGEST:
        raise DataError(f"bundle {file} would unpack to more than {_LARGEST >> 30} GiB; refused")
    hashes = {member.filename: _unpack(opened, member, folder / member.filename) for member in members}
    index = json.loads((folder / INDEX).read_bytes())
    if not isinstance(index, dict) or index.get("schema") != SCHEMA:
        found = index.get("schema") if isinstance(index, dict) else None
        raise DataError(f"bundle {file} has schema {found}; this version reads {SCHEMA}")
    drift, said = index.get("drift"), index.get("members")  # no hash covers them
    if not isinstance(drift, int | float) or not 0 <= drift <= 100 or not isinstance(said, dict):
        raise DataError(f"bundle {file} was changed after it was made: {INDEX} is not whole. Ask for the original")
    del hashes[INDEX]
    for name in sorted(said.keys() | hashes.keys()):
        if said.get(name) != hashes.get(name):
            how = "was added" if name not in said else "is gone" if name not in hashes else "has another hash"
            raise DataError(f"bundle {file} was changed after it was made: {name} {how}. Ask for the original")
    return index


def _unpack(opened: zipfile.ZipFile, member: zipfile.ZipInfo, place: Path) -> str:
    """Write one member, no more of it than its header says; its hash."""
    place.parent.mkdir(parents=True, exist_ok=True)
    hasher, left = hashlib.sha256(), member.file_size
    with opened.open(member) as source, place.open("wb") as target:
        while block := source.read(_BLOCK):
            left -= len(block)
            if left < 0:
                raise DataError(f"member {member.filename} is larger than it says; not trusted")
            hasher.update(block)
            target.write(block)
    return hasher.hexdigest()
