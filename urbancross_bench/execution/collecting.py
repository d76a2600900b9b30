"""What a store holds, and which of it can go: unused stages by a rule, and what is of no use to anybody."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from urbancross_bench.errors import UsageError
from urbancross_bench.execution.store import KEPT, Entry, Store

Sort = Literal["damaged", "half-written", "saved", "log"]


@dataclass(frozen=True)
class Held:
    """A stored stage with its bytes, and when it was last written or read (seconds since 1970)."""

    entry: Entry
    size: int
    used: float


@dataclass(frozen=True)
class Rubbish:
    """What no stage needs: set aside as damaged, left by a killed process, how far a training was that is stored,
    or that nobody has gone on with, or of a stage that is no more.
    """

    sort: Sort
    path: Path
    size: int


@dataclass(frozen=True)
class Rule:
    """Which stages go.

    Never those of `keep` (keys; None: no grid was named) or of a kind in `keep_kinds`. Of the others those not
    used for `unused_for` seconds; and then, the least recently used first, until all that stays takes no more
    than `limit` bytes. With neither, but something to keep, all others. With nothing at all, none.
    """

    keep: frozenset[str] | None = None
    keep_kinds: frozenset[str] = frozenset()
    unused_for: float | None = None
    limit: int | None = None

    def keeps(self, held: Held) -> bool:
        """Whether a stage stays whatever else is asked."""
        return held.entry.key in (self.keep or ()) or held.entry.kind in self.keep_kinds

    def dismisses(self, held: Held, now: float) -> bool:
        """Whether a stage that is not kept goes, however much room there is."""
        if self.unused_for is not None:
            return now - held.used > self.unused_for
        return self.limit is None and (self.keep is not None or bool(self.keep_kinds))


@dataclass(frozen=True)
class Collection:
    """What went (or would go), what was left because someone is at it, and what is there after."""

    removed: tuple[Held, ...]
    busy: tuple[Held, ...]
    rubbish: tuple[Rubbish, ...]
    left: tuple[Held, ...]

    @property
    def freed(self) -> int:
        """Bytes."""
        return sum(held.size for held in self.removed) + sum(piece.size for piece in self.rubbish)

    @property
    def size(self) -> int:
        """Bytes of the stages that are left."""
        return sum(held.size for held in self.left)


def store_in(place: Path) -> Store:
    """The store of an output folder, or the one in this very folder. Raises UsageError if there is none."""
    for root in (place / "store", place):
        if (root / ".partial").is_dir():
            return Store(root)
    raise UsageError(f"{place} holds no store; name the output folder of a grid")


def holdings(store: Store) -> list[Held]:
    """All stages, by kind and key."""
    found = []
    for entry in store.entries():
        with contextlib.suppress(FileNotFoundError):  # another process removes it
            found.append(Held(entry, entry.size, entry.used))
    return found


def chosen(held: Iterable[Held], rule: Rule, now: float, take: Callable[[Held], bool]) -> list[Held]:
    """Apply a rule: `take` is called on each stage that is to go, and says whether it could be taken."""
    held = sorted(held, key=lambda one: (one.used, one.entry.key))
    open_ = [one for one in held if not rule.keeps(one)]
    gone = [one for one in open_ if rule.dismisses(one, now) and take(one)]
    if rule.limit is None:
        return gone
    size = sum(one.size for one in held) - sum(one.size for one in gone)
    for one in open_:
        if size <= rule.limit:
            break
        if not rule.dismisses(one, now) and take(one):
            gone.append(one)
            size -= one.size
    return gone


def collect(store: Store, rule: Rule, *, now: float, dry_run: bool = False) -> Collection:
    """Remove what a rule says, and all rubbish; or only say what would go.

    A stage that a process computes at this moment is left alone, as is one that was used since it was looked at.
    Raises UsageError if something is to be removed and the store cannot be written to.
    """
    if not dry_run:
        store.create()
    held, busy = holdings(store), list[Held]()

    def take(one: Held) -> bool:
        taken = not _busy(store, one.entry.key) if dry_run else _removed(store, one)
        if not taken:
            busy.append(one)
        return taken

    removed = chosen(held, rule, now, take)
    gone = {one.entry.key for one in removed}
    left = [one for one in held if one.entry.key not in gone]
    found = rubbish(store, {one.entry.key for one in left}, gone, now)
    swept = found if dry_run else [piece for piece in found if _swept(store, piece)]
    return Collection(tuple(removed), tuple(busy), tuple(swept), tuple(left))


def rubbish(store: Store, stored: set[str], gone: set[str], now: float) -> list[Rubbish]:
    """What can go of what is no stage, given the keys of those that stay and of those that go.

    A log goes with its stage. One without any is of a stage that failed: somebody has yet to look at it.
    """
    root = store.root
    partial, saved = (sorted(root.glob(f"{name}/*")) for name in (".partial", ".saved"))
    old = [path for path in saved if path.name in stored | gone or _age(path, now) > KEPT]
    needed = stored | {path.name for path in saved if path not in old}
    found = [Rubbish("damaged", path, _size(path)) for path in sorted(root.glob(".damaged/*"))]
    found += [Rubbish("saved", path, _size(path)) for path in old if not _busy(store, path.name)]
    found += [Rubbish("half-written", path, _size(path)) for path in partial if not _busy(store, _key(path))]
    logs = [path for path in sorted(root.glob("logs/*.log")) if _key(path) not in needed]
    logs = [path for path in logs if _key(path) in gone or _age(path, now) > KEPT]
    return found + [Rubbish("log", path, _size(path)) for path in logs if not _busy(store, _key(path))]


def _age(path: Path, now: float) -> float:
    """Seconds since it was written to; none of what another process has removed meanwhile."""
    with contextlib.suppress(FileNotFoundError):
        return now - path.stat().st_mtime
    return 0.0


def _key(path: Path) -> str:
    """The key in the name of something half-written (`KEY-…`), or of a log (`KIND-KEY.log`)."""
    return path.stem.rpartition("-")[2] if path.suffix == ".log" else path.name.partition("-")[0]


def _busy(store: Store, key: str) -> bool:
    """Whether someone holds the lock, or may; without leaving a new lock behind. In a store that is not to be
    written to nobody does.
    """
    lock = store.root / ".locks" / key
    if not lock.exists() or not os.access(lock.parent, os.W_OK):
        return False
    with _held(store, key) as free:
        return not free


def _removed(store: Store, one: Held) -> bool:
    with _held(store, one.entry.key) as free:
        if not free:
            return False
        with contextlib.suppress(FileNotFoundError):  # if it is gone, all is well
            if one.entry.used != one.used:
                return False
            store.remove(one.entry)
        return True


def _swept(store: Store, piece: Rubbish) -> bool:
    if piece.sort == "damaged":
        return _cleared(piece.path)
    with _held(store, _key(piece.path)) as free:
        return free and _cleared(piece.path)


@contextlib.contextmanager
def _held(store: Store, key: str) -> Iterator[bool]:
    """`Store.holding` of what nobody else holds, or may: a lock that is somebody else's cannot be tried."""
    with contextlib.ExitStack() as stack:
        try:
            free = stack.enter_context(store.holding(key, wait=False))
        except PermissionError:
            free = False
        yield free


def _cleared(path: Path) -> bool:
    with contextlib.suppress(OSError):  # what cannot be removed is not said to be
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return not path.exists()


def _size(path: Path) -> int:
    files: Sequence[Path] = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
