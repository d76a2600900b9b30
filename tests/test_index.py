"""The index of files: nothing is read twice, nothing stale is believed, and without it all goes on."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from data_files import encoded, files_of, tiles, write_files

from urbancross_bench.data import index as indexing
from urbancross_bench.data.images import FileImages, open_images
from urbancross_bench.data.index import Index, home, open_index, reading, signature
from urbancross_bench.data.paths import data_path
from urbancross_bench.errors import DataError, UrbanCrossError


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An index for each test, in which files count as settled at once, so that no test has to wait."""
    monkeypatch.setenv("URBANCROSS_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(indexing, "_SETTLED", 0)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return write_files(tmp_path / "images", files_of(tiles(8)))


class Reads:
    """Counts what is read from files."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.of: Counter[str] = Counter()
        for kind in FileImages.__subclasses__():
            if kind.__module__ == "urbancross_bench.data.images":
                monkeypatch.setattr(kind, "content", self._counted(kind.content))

    def _counted(self, content: Callable[[FileImages, int], bytes]) -> Callable[[FileImages, int], bytes]:
        def counted(source: FileImages, index: int) -> bytes:
            self.of[source._names[index]] += 1
            return content(source, index)

        return counted

    def names(self) -> list[str]:
        """What was read since the last call, in order of name."""
        found = sorted(self.of.elements())
        self.of.clear()
        return found


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    return Reads(monkeypatch)


NAMES = sorted(files_of(tiles(8)))


def digests(place: Path, names: list[str] = NAMES) -> list[str]:
    source = open_images(place, names)
    return [source.digest(index) for index in range(len(names))]


# --- reuse and change -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["images", "images.zip"])
def test_nothing_is_read_twice(tmp_path: Path, kind: str, reads: Reads) -> None:
    place = write_files(tmp_path / kind, files_of(tiles(8)))
    first = digests(place)
    assert reads.names() == NAMES
    assert digests(place) == first
    assert digests(place, NAMES[::-1]) == first[::-1]
    assert reads.names() == []
    assert len(set(first)) == 8


def same_size(file: Path) -> None:
    """Other content of the same size, under the same modification time."""
    before = file.stat()
    file.write_bytes(file.read_bytes()[::-1])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def same_times_but(file: Path) -> None:
    before = file.stat()
    file.write_bytes(file.read_bytes() + b"x")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        same_size,
        same_times_but,
        lambda file: file.write_bytes(b"other"),
        lambda file: os.utime(file, ns=(1, 1)),
        lambda file: (write_files(file.parent, {"new": b"other"}) / "new").replace(file),
    ],
)
def test_a_file_that_changed_is_read_again_and_no_other(
    place: Path, reads: Reads, change: Callable[[Path], object]
) -> None:
    before = digests(place)
    reads.names()
    content = (place / NAMES[3]).read_bytes()
    change(place / NAMES[3])
    after = digests(place)
    assert reads.names() == [NAMES[3]]
    assert [a == b for a, b in zip(before, after, strict=True)].count(False) == (
        (place / NAMES[3]).read_bytes() != content
    )


def test_a_zip_that_changed_is_read_again(tmp_path: Path, reads: Reads) -> None:
    files = files_of(tiles(8))
    place = write_files(tmp_path / "images.zip", files)
    before = digests(place)
    write_files(place, files | {NAMES[3]: encoded(tiles(1)[0].pixels[::-1])})
    reads.names()
    after = digests(place)
    assert reads.names() == NAMES
    assert [a == b for a, b in zip(before, after, strict=True)] == [index != 3 for index in range(8)]


def test_a_file_that_cannot_be_read_costs_itself(tmp_path: Path) -> None:
    """The digests of others are known all the same, and it is asked again each time."""
    place = tmp_path / "f"
    write_files(place, {name: name.encode() for name in NAMES})
    (place / NAMES[0]).unlink()
    for _ in "12":
        source = open_images(place, NAMES)
        for name in NAMES[1:]:
            assert source.digest(NAMES.index(name)) == hashlib.sha256(name.encode()).hexdigest()
        with pytest.raises(DataError, match=NAMES[0]):
            source.digest(0)
        (place / NAMES[0]).write_bytes(b"back")
        assert source.digest(0) == hashlib.sha256(b"back").hexdigest()
        (place / NAMES[0]).unlink()


def test_places_do_not_share_entries(tmp_path: Path, reads: Reads) -> None:
    """The same names, sizes and times in two folders."""
    contents = {"a": b"first!", "b": b"second"}
    for name, content in contents.items():
        file = write_files(tmp_path / name, {"x.png": content}) / "x.png"
        os.utime(file, ns=(10**18, 10**18))
    assert digests(tmp_path / "a", ["x.png"]) != digests(tmp_path / "b", ["x.png"])
    assert reads.names() == ["x.png", "x.png"]


@pytest.mark.parametrize("times", ["just written", "from the future", "just moved here"])
def test_a_young_file_is_not_trusted(
    place: Path, reads: Reads, monkeypatch: pytest.MonkeyPatch, times: str
) -> None:
    """It could change again within the grain of its times."""
    monkeypatch.setattr(indexing, "_SETTLED", 2 * 10**9)
    file = place / NAMES[0]
    stat = file.stat()
    modified = {"just written": 0, "from the future": 10**12, "just moved here": -(10**12)}[times]
    changed = -(10**12) if times == "from the future" else 0  # cannot be set, but the clock can be moved
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + modified))
    now = file.stat().st_ctime_ns - changed
    monkeypatch.setattr("urbancross_bench.data.index.time.time_ns", lambda: now + 10**9)
    assert signature(file) == ""
    digests(place, NAMES[:1])
    digests(place, NAMES[:1])
    assert reads.names() == NAMES[:1] * 2
    if times != "from the future":
        monkeypatch.setattr("urbancross_bench.data.index.time.time_ns", lambda: now + 3 * 10**9)
        assert signature(file) != ""


def test_verifying_reads_all_again_and_mends_the_index(place: Path, reads: Reads) -> None:
    right = digests(place)
    with closing(sqlite3.connect(home() / "index.sqlite")) as connection, connection:
        connection.execute("UPDATE entries SET value = 'wrong'")
    assert digests(place) == ["wrong"] * 8
    reads.names()
    with reading(verify=True):
        assert digests(place) == right
    assert reads.names() == NAMES
    assert digests(place) == right
    assert reads.names() == []


def test_progress_is_told(place: Path) -> None:
    told: list[tuple[str, int, int]] = []
    with reading(report=lambda *said: told.append(said)):
        digests(place)
        assert told == [(str(place), 0, 8), (str(place), 8, 8)]
        digests(place)
        (place / NAMES[0]).write_bytes(b"other")
        digests(place)
    digests(place, NAMES[1:])
    assert told[2:] == [(str(place), 0, 1), (str(place), 1, 1)]


def test_an_empty_value_and_one_without_signature_are_not_kept(tmp_path: Path) -> None:
    calls: list[int] = []

    def compute(position: int) -> str:
        calls.append(position)
        return "" if position == 1 else f"value {position}"

    for _ in range(2):
        with open_index() as index:
            wanted = [("kept", "s"), ("empty", "s"), ("young", "")]
            assert index.values("place", wanted, compute) == ["value 0", "", "value 2"]
    assert sorted(calls) == [0, 1, 1, 2, 2]


def test_names_that_are_not_utf8_are_kept(tmp_path: Path, reads: Reads) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    place = write_files(tmp_path / os.fsdecode(b"d\xfcr"), {name: b"x", "caf\\xe9.png": b"y"})
    first = digests(place, [name, "caf\\xe9.png"])
    reads.names()
    assert digests(place, [name, "caf\\xe9.png"]) == first
    assert reads.names() == []
    assert first[0] != first[1]


# --- errors and interruptions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [DataError, KeyboardInterrupt, ZeroDivisionError])
def test_what_was_computed_before_an_error_is_kept(error: type[BaseException]) -> None:
    wanted = [(f"{number:04d}", "s") for number in range(600)]
    calls: list[int] = []

    def compute(position: int) -> str:
        calls.append(position)
        if position == 400 and not again:
            raise error("at 400")
        return str(position)

    again = False
    with pytest.raises(error), open_index() as index:
        index.values("place", wanted, compute)
    calls.clear()
    again = True
    with open_index() as index:
        assert index.values("place", wanted, compute) == [str(number) for number in range(600)]
    assert sorted(calls) == list(range(400, 600))


def test_a_process_killed_in_the_middle_leaves_what_it_had() -> None:
    code = """
import hashlib
import os
from urbancross_bench.data.index import open_index
def compute(position):
    if position == 300:
        os._exit(9)
    return str(position)
open_index().values("place", [(f"{n:04d}", "s") for n in range(600)], compute)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    calls: list[int] = []
    with open_index() as index:
        wanted = [(f"{number:04d}", "s") for number in range(600)]
        index.values("place", wanted, lambda position: str(calls.append(position) or position))
    assert len(calls) < 600
    assert {*range(300, 600)} <= {*calls}


def test_two_processes_at_once_get_the_same(place: Path, reads: Reads) -> None:
    code = """
import sys
from urbancross_bench.data import index
from urbancross_bench.data.images import open_images
from pathlib import Path
index._SETTLED = 0
names = sys.argv[2:]
for _ in range(10):
    source = open_images(Path(sys.argv[1]), names)
    with index.reading(verify=True):
        print(*(source.digest(number) for number in range(len(names))))
"""
    command = [sys.executable, "-c", code, str(place), *NAMES]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    ended = [process.communicate() for process in running]
    assert [process.returncode for process in running] == [0, 0, 0], ended
    assert {line for out, _ in ended for line in out.splitlines()} == {" ".join(digests(place))}
    assert reads.names() == []


# --- the file of the index --------------------------------------------------------------------------------------


def spoilt_pages(file: Path) -> None:
    """Damage below the header: the file opens, its table does not read."""
    content = bytearray(file.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    file.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b"not a database at all" * 500),
        lambda file: file.write_bytes(file.read_bytes()[:5000]),
        lambda file: file.write_bytes(b"\xff" * 20 + file.read_bytes()[20:]),
        spoilt_pages,
    ],
)
def test_a_damaged_index_is_set_aside(place: Path, reads: Reads, damage: Callable[[Path], object]) -> None:
    with open_index() as index:
        index.values("place", [(f"{number:0200d}", "s") for number in range(300)], str)
    right = digests(place)
    damage(home() / "index.sqlite")
    reads.names()
    assert digests(place) == right
    reads.names()
    assert digests(place) == right
    assert reads.names() == []
    assert (home() / "index.damaged").is_file()


def test_an_empty_index_file_is_a_new_one(place: Path, reads: Reads) -> None:
    home().mkdir()
    (home() / "index.sqlite").touch()
    digests(place)
    reads.names()
    digests(place)
    assert reads.names() == []


def blocked_by_a_file(folder: Path) -> None:
    folder.write_text("no folder")


def blocked_by_a_folder(folder: Path) -> None:
    (folder / "index.sqlite").mkdir(parents=True)


def of_another_kind(folder: Path) -> None:
    """A table of that name with other columns, as a version to come may have it."""
    folder.mkdir()
    with closing(sqlite3.connect(folder / "index.sqlite")) as connection, connection:
        connection.execute("CREATE TABLE entries (something TEXT)")


@pytest.mark.parametrize("block", [blocked_by_a_file, blocked_by_a_folder, of_another_kind])
def test_without_an_index_all_is_read_each_time(
    place: Path, reads: Reads, tmp_path: Path, block: Callable[[Path], None]
) -> None:
    block(tmp_path / "home")
    for _ in range(2):
        digests(place)
        assert reads.names() == NAMES


def test_a_locked_index_is_done_without(place: Path, reads: Reads, monkeypatch: pytest.MonkeyPatch) -> None:
    right = digests(place)
    reads.names()
    opened = sqlite3.connect
    monkeypatch.setattr(
        "urbancross_bench.data.index.sqlite3.connect", lambda file, timeout: opened(file, timeout=0)
    )
    with closing(opened(home() / "index.sqlite", isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        assert digests(place) == right
    assert reads.names() == NAMES
    assert not (home() / "index.damaged").exists()


def test_an_index_is_opened_and_closed(tmp_path: Path) -> None:
    index = Index(tmp_path / "i.sqlite")
    index.close()
    index.close()
    assert index.values("place", [("a", "s")], str) == ["0"]


def test_the_cache_folder_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert home() == tmp_path / "home"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("URBANCROSS_HOME", "~/mine")
    assert home() == tmp_path / "mine"
    monkeypatch.setenv("URBANCROSS_HOME", "~no-such-user/mine")
    monkeypatch.setenv("URBANCROSS_DATA", "~no-such-user/data")
    with pytest.raises(UrbanCrossError, match="URBANCROSS_DATA '~no-such-user/data'"):
        data_path("rsicd")
    with pytest.raises(UrbanCrossError, match="URBANCROSS_HOME"):
        home()
    monkeypatch.delenv("URBANCROSS_HOME")
    assert home().name == "urbancross-bench"
