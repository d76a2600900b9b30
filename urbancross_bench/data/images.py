"""Images as users have them: in a folder, or still in the zip they came in."""

from __future__ import annotations

import hashlib
import os
import threading
import unicodedata
import zipfile
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.data.decode import decode
from urbancross_bench.data.index import open_index, signature
from urbancross_bench.data.paths import plain_name, relative_start
from urbancross_bench.errors import DataError
from urbancross_bench.identity import digest
from urbancross_bench.interfaces.dataset import ImageSource

LARGEST = 512 * 2**20  # bytes of one image file, unpacked: more is no tile but a zip bomb


def open_images(place: Path | None, names: Sequence[str]) -> ImageSource:
    """The images called `names` in a folder or a zip; None stands for a domain whose captions alone are at hand.

    Raises DataError if the place is neither, or a name leads out of it.
    """
    if place is None:
        return NoImages(names)
    for name in names:
        if leads_out(name):
            raise DataError(f"image name {name!r} leads out of {place}; {_below(place, name)}")
    plain = [plain_name(name) for name in names]
    if place.is_dir():
        return FolderImages(place, plain)
    if place.is_file():
        return ZipImages(place, plain)
    raise DataError(f"images {place}: there is no such folder or zip ({relative_start()})")


def said_missing(images: ImageSource, missing: Mapping[int, str], names: Sequence[str]) -> str:
    """How many images of all these are missing, the first with the reason, and where they were looked for.

    missing: what `images.missing()` gives, or a part of it that has at least one image.
    """
    first = min(missing)
    looked = f"; looked in {images.place}" if isinstance(images, FileImages) else ""
    count = f"{len(missing):,} of {len(names):,} images are missing"
    return f"{count}, {names[first]!r} the first ({missing[first]}){looked}"


def list_files(place: Path) -> list[str]:
    """The names of all files in a folder, below it too, or of all members of a zip; in order.

    What macOS lays beside files, `._a.png` beside `a.png`, is none of them. Links are followed; one that leads
    nowhere is listed, so that who reads it is told. Raises DataError if a folder cannot be read: what is in it
    would be missed by nobody.
    """
    if not place.is_dir():
        return _listed(member.filename for group in _members(place).values() for member in group)
    names, folders = list[str](), [("", frozenset[tuple[int, int]]())]
    try:
        while folders:
            prefix, above = folders.pop()
            stat = (place / prefix).stat()
            if (stat.st_dev, stat.st_ino) in above:
                continue  # by a link, in itself
            with os.scandir(place / prefix) as entries:
                for entry in entries:
                    name, link = f"{prefix}{entry.name}", entry.is_symlink()
                    if Path(entry.path).is_dir() if link else entry.is_dir():
                        folders.append((f"{name}/", above | {(stat.st_dev, stat.st_ino)}))
                    elif link or entry.is_file():
                        names.append(name)
    except OSError as error:
        raise DataError(f"folder {place} cannot be read: {error}") from error
    return _listed(names)


def _listed(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if not PurePosixPath(name).name.startswith("._"))


def leads_out(name: str) -> bool:
    """Whether a relative name would lead out of its folder."""
    return PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\0" in name


def is_file(place: Path | os.DirEntry[str]) -> bool:
    """Whether a file is there; no path makes this raise."""
    try:
        return place.is_file()
    except (OSError, ValueError):  # a name too long for the file system, or a link to itself, say
        return False


def read_file(path: Path, where: str) -> bytes:
    """The bytes of an image file, called `where` in messages. Raises DataError for a pipe, say, or a huge file."""
    try:
        if path.exists() and not path.is_file():
            raise DataError(f"image {where} is not a file")
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        raise DataError(f"image {where} cannot be read: {error}") from error
    return _bounded(content, where)


def digest_or_nothing(digest: Callable[[int], str], index: int) -> str:
    """The digest of an image; empty if it cannot be read, which whoever reads it is told."""
    try:
        return digest(index)
    except DataError:
        return ""


class FileImages(ImageSource):
    """Images that are files somewhere. Digests are those of the files, and are kept in the index."""

    def __init__(self, place: Path, names: Sequence[str]) -> None:
        self.place = place
        self._names = names
        self._digests: list[str] | None = None  # of all files; None until the first is asked for

    def digest(self, index: int) -> str:
        """SHA-256 of the file. Raises DataError if it cannot be read; other files keep theirs."""
        if self._digests is None:
            wanted = list(zip(self._names, self._signatures(), strict=True))
            with open_index() as known:
                self._digests = known.values(str(self.place), wanted, lambda i: digest_or_nothing(self._hashed, i))
        if not self._digests[index]:
            self._digests[index] = self._hashed(index)
        return self._digests[index]

    def read(self, index: int) -> NDArray[np.uint8]:
        """Decode one file (see `data.decode`), which must still be the one whose digest was asked for."""
        content, known = self.content(index), self._digests[index] if self._digests else ""
        if known and hashlib.sha256(content).hexdigest() != known:
            raise DataError(f"image {self.where(index)} has changed while it was in use; run the command again")
        return decode(content, self.where(index))

    @abstractmethod
    def content(self, index: int) -> bytes:
        """The bytes of one file. Raises DataError naming it."""

    @abstractmethod
    def where(self, index: int) -> str:
        """How one file is called in messages."""

    @abstractmethod
    def _signatures(self) -> list[str]:
        """What changes when a file does; see `data.index`."""

    def _hashed(self, index: int) -> str:
        return hashlib.sha256(self.content(index)).hexdigest()


class FolderImages(FileImages):
    """Files in one folder, by their names relative to it."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        super().__init__(folder, names)
        self._paths = [folder / name for name in names]

    def missing(self) -> Mapping[int, str]:
        """Names without a file, and links that lead nowhere."""
        try:
            present = {entry.name for entry in os.scandir(self.place) if is_file(entry)}
        except OSError as error:
            raise DataError(f"image folder {self.place} cannot be read: {error}") from error
        absent = [i for i, name in enumerate(self._names) if name not in present and not is_file(self._paths[i])]
        alike = _alike([self._names[i] for i in absent], present)
        return {i: self._reason(i, alike[self._names[i]]) for i in absent}

    def content(self, index: int) -> bytes:
        """The file's bytes."""
        return read_file(self._paths[index], self.where(index))

    def where(self, index: int) -> str:
        """Its path."""
        return str(self._paths[index])

    def _reason(self, index: int, alike: str) -> str:
        if _is_link(self._paths[index]):
            return "the link leads nowhere"
        above = self.place.parent
        return f"no such file{alike}{f'; images={above} finds it' if is_file(above / self._names[index]) else ''}"

    def _signatures(self) -> list[str]:
        return [signature(path) for path in self._paths]


class _Tails:
    """Members of a zip by the ends of their paths: of many that are called alike, none is looked through."""

    def __init__(self, members: Sequence[zipfile.ZipInfo]) -> None:
        self._members = members
        self._by_depth: dict[int, dict[str, list[zipfile.ZipInfo]]] = {}

    def of(self, name: str) -> list[zipfile.ZipInfo]:
        """Those of this name, whole or below some folder."""
        depth = name.count("/") + 1
        if depth not in self._by_depth:
            known = self._by_depth[depth] = {}
            for member in self._members:
                known.setdefault("/".join(member.filename.split("/")[-depth:]), []).append(member)
        return self._by_depth[depth].get(name, [])


class ZipImages(FileImages):
    """Members of a zip. A name is matched whole, or below the one folder of the zip that holds it."""

    def __init__(self, file: Path, names: Sequence[str]) -> None:
        """Raises DataError for a zip that is damaged, leads out of itself, or holds a name twice."""
        super().__init__(file, names)
        self._opened: tuple[int, zipfile.ZipFile] | None = None  # by which process: a fork shares no position
        self._lock = threading.Lock()
        members = _members(file)
        everything = [member for some in members.values() for member in some]
        self._present = [member.filename for member in everything]
        self._tails = _Tails(everything)
        self._members = [self._find(name) for name in names]

    def missing(self) -> Mapping[int, str]:
        """Names without a member."""
        absent = {i: self._names[i] for i, member in enumerate(self._members) if member is None}
        alike = _alike(absent.values(), self._present)
        return {i: f"no such member{alike[name]}" for i, name in absent.items()}

    def folders(self) -> Mapping[int, str]:
        """Of each image that is there, the folder of the zip below which its name was found."""
        found = {i: member.filename for i, member in enumerate(self._members) if member}
        return {i: path.removesuffix(self._names[i]) for i, path in found.items()}

    def content(self, index: int) -> bytes:
        """The member's bytes, unpacked; checked against its CRC."""
        member = self._members[index]
        if member is None:
            raise DataError(f"image {self.where(index)} is not in the zip")
        if member.file_size > LARGEST:
            raise DataError(f"image {self.where(index)} would unpack to {member.file_size} bytes; refused")
        try:
            with self._open().open(member) as stream:
                content = stream.read(LARGEST + 1)  # what a header says of its size is no proof
        except Exception as error:  # zlib, lzma and bz2 have errors of their own, encryption is a RuntimeError
            raise DataError(f"image {self.where(index)} cannot be read: {_said(error)}") from error
        return _bounded(content, self.where(index))

    def where(self, index: int) -> str:
        """The zip and the name in it."""
        return f"{self.place}:{self._names[index]}"

    def _find(self, name: str) -> zipfile.ZipInfo | None:
        found = self._tails.of(name)
        if len(found) > 1 and [m.filename for m in found].count(name) == 1:
            return next(m for m in found if m.filename == name)
        if len(found) > 1:
            places = " and ".join(member.filename for member in found[:2])
            raise DataError(f"zip {self.place} holds {name!r} more than once: {places}")
        return found[0] if found else None

    def _open(self) -> zipfile.ZipFile:
        """The zip, opened once: its directory may be large, and threads can read one ZipFile together."""
        with self._lock:
            if self._opened is None or self._opened[0] != os.getpid():
                self._opened = os.getpid(), zipfile.ZipFile(self.place)
            return self._opened[1]

    def _signatures(self) -> list[str]:
        own = signature(self.place)
        return [f"{own}:{m.CRC:08x}:{m.file_size}" if own and m else "" for m in self._members]


class NoImages(ImageSource):
    """A domain of which only the captions are at hand: enough to check them, too little to rank."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def digest(self, index: int) -> str:
        """Of the name: there is nothing else."""
        return digest([b"no image", self._names[index].encode()])

    def read(self, index: int) -> NDArray[np.uint8]:
        """Raises DataError."""
        raise DataError(f"image {self._names[index]}: this domain was opened without images")

    def missing(self) -> Mapping[int, str]:
        """All of them."""
        return dict.fromkeys(range(len(self._names)), "opened without images")


def _members(file: Path) -> dict[str, list[zipfile.ZipInfo]]:
    """The files of a zip by the last part of their names."""
    if not file.exists():
        raise DataError(f"images {file} do not exist; name their folder or a zip of them")
    try:
        with zipfile.ZipFile(file) as opened:
            infos = opened.infolist()
    except Exception as error:  # a damaged header makes zipfile trip over whatever it holds
        raise DataError(f"zip {file} cannot be read: {_said(error)}") from error
    members: dict[str, list[zipfile.ZipInfo]] = {}
    given = {info.filename for info in infos}
    for info in infos:
        meant = _unmarked(info)
        info.filename = info.filename if meant in given else meant
        if "\\" in info.filename:
            raise DataError(
                f"zip {file} holds the member {info.filename!r}, which by its backslashes may be a path that "
                "leads out of it; not trusted: pack it again, with `/` between folders"
            )
        if not info.filename or leads_out(info.filename):
            raise DataError(f"zip {file} holds the member {info.filename!r}, which leads out of it; not trusted")
        if not info.is_dir() and not info.filename.startswith("__MACOSX/"):
            members.setdefault(PurePosixPath(info.filename).name, []).append(info)
    return members


def _unmarked(info: zipfile.ZipInfo) -> str:
    """A member's name, in UTF-8 also where the zip does not mark it as such: zipfile reads it as code page 437."""
    if info.flag_bits & 0x800:
        return info.filename
    try:
        return info.filename.encode("cp437").decode()
    except UnicodeError:  # of another code page, or said by a field of its own
        return info.filename


def _alike(names: Iterable[str], present: Iterable[str]) -> dict[str, str]:
    """What to say of each name that is not there: what is, if they differ in capitals, in Unicode form, in the
    folders before them or in the extension.
    """
    wanted = list(names)
    known = dict[str, str]()
    for name in sorted(present, key=lambda name: (name.count("/"), name)) if wanted else ():
        for form in _forms(name):
            known.setdefault(form, name)
    found = {name: next((known[form] for form in _forms(name) if form in known), name) for name in wanted}
    return {name: f"; {there!a} is there, not {name!a}" if there != name else "" for name, there in found.items()}


def _forms(name: str) -> list[str]:
    """A name as it may be meant: whole, without folders, and without its extension."""
    folded = unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())
    path = PurePosixPath(folded)
    return [folded, path.name, f"{path.stem}."]


def _below(place: Path, name: str) -> str:
    """What to write in place of a name that leads out of a folder or zip."""
    if PurePosixPath(name).is_relative_to(place.as_posix()):
        return f"names start in it: write {PurePosixPath(name).relative_to(place.as_posix()).as_posix()!r}"
    return "names start in it; the option `images` names another folder or zip"


def _is_link(path: Path) -> bool:
    try:
        return path.is_symlink()
    except (OSError, ValueError):
        return False


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__


def _bounded(content: bytes, where: str) -> bytes:
    if len(content) > LARGEST:
        raise DataError(f"image {where} is larger than {LARGEST >> 20} MiB; refused")
    return content
