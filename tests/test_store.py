"""The store from outside: what it holds, and what `gc` removes."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NoReturn

import pytest
from conftest import Result
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from urbancross_bench.cli.amounts import about, read_size, size_text
from urbancross_bench.errors import UsageError
from urbancross_bench.execution import collecting
from urbancross_bench.execution.collecting import Rule, collect, holdings, store_in
from urbancross_bench.execution.plan import Plan, make_plan
from urbancross_bench.execution.stage import Stage
from urbancross_bench.execution.store import Store
from urbancross_bench.registry import Registry
from urbancross_bench.specs import load_grid

Cli = Callable[..., Result]
GridWriter = Callable[..., Path]
DAY = 86400
NOW = 1_750_000_000.0


def put(store: Store, stage: Stage, *, size: int = 100, used: float = NOW, **provenance: object) -> Path:
    """A stage in the store, with an output of so many bytes, last used then."""
    with store.holding(stage.key), store.writing(stage, {"seconds": 1.5, **provenance}) as folder:
        (folder / "output").write_bytes(bytes(size))
    place = store.path(stage.kind, stage.key)
    os.utime(place / "stage.json", (used, used))
    return place


def pack(number: int) -> Stage:
    return Stage("pack", {"content": number})


@contextmanager
def held(store: Store, *keys: str) -> Iterator[None]:
    """Locks as another process would have them."""
    with ExitStack() as stack:
        for key in keys:
            stack.enter_context(FileLock(store.root / ".locks" / key, is_singleton=False))
        yield


# ── Which stages go ───────────────────────────────────────────────────────────────────────────────

KINDS = ("pack", "adapt", "rank")
ENTRIES = st.lists(
    st.fixed_dictionaries(
        {
            "kind": st.sampled_from(KINDS),
            "size": st.integers(0, 400),
            "days": st.integers(0, 30),
            "keep": st.booleans(),
            "busy": st.sampled_from([False, False, True]),
        }
    ),
    max_size=9,
)


def expected(entries: list[dict[str, object]], sizes: list[int], asked: dict[str, object]) -> set[int]:
    """Which entries go, by the words of the page: a number, worked out one at a time from the oldest."""

    def may(n: int) -> bool:
        e = entries[n]
        return not (e["busy"] or e["kind"] in asked["kinds"] or (asked["grid"] and e["keep"]))  # type: ignore[operator]

    gone: set[int] = set()
    if asked["days"] is not None:
        gone |= {n for n in range(len(entries)) if may(n) and entries[n]["days"] > asked["days"]}  # type: ignore[operator]
    elif asked["limit"] is None and (asked["grid"] or asked["kinds"]):
        gone |= {n for n in range(len(entries)) if may(n)}
    while asked["limit"] is not None:
        stay = [n for n in range(len(entries)) if n not in gone]
        can = [n for n in stay if may(n)]
        if sum(sizes[n] for n in stay) <= asked["limit"] or not can:  # type: ignore[operator]
            break
        gone.add(max(can, key=lambda n: (entries[n]["days"], -n)))
    return gone


@settings(max_examples=60, deadline=None)
@given(
    entries=ENTRIES,
    grid=st.booleans(),
    kinds=st.sets(st.sampled_from(KINDS), max_size=2),
    days=st.none() | st.integers(0, 30),
    limit=st.none() | st.integers(0, 3000),
    dry_run=st.booleans(),
)
def test_exactly_what_the_rule_says_goes(
    entries: list[dict[str, object]],
    grid: bool,
    kinds: set[str],
    days: int | None,
    limit: int | None,
    dry_run: bool,
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        store.create()
        keys = [f"{number:032x}" for number in range(len(entries))]  # in the order that settles equal ages
        for key, entry in zip(keys, entries, strict=True):
            place = store.path(str(entry["kind"]), key)
            place.mkdir(parents=True)
            (place / "output").write_bytes(bytes(int(str(entry["size"]))))
            (place / "stage.json").write_text("{}")
            used = NOW - int(str(entry["days"])) * DAY
            os.utime(place / "stage.json", (used, used))
        sizes = [int(str(entry["size"])) + 2 for entry in entries]
        keep = frozenset(key for key, entry in zip(keys, entries, strict=True) if entry["keep"])
        rule = Rule(
            keep=keep if grid else None,
            keep_kinds=frozenset(kinds),
            unused_for=None if days is None else days * DAY,
            limit=limit,
        )
        with held(store, *(key for key, entry in zip(keys, entries, strict=True) if entry["busy"])):
            found = collect(store, rule, now=NOW, dry_run=dry_run)
        gone = expected(entries, sizes, {"grid": grid, "kinds": kinds, "days": days, "limit": limit})
        assert {keys.index(one.entry.key) for one in found.removed} == gone
        assert found.freed == sum(sizes[number] for number in gone)
        assert found.size == sum(sizes) - found.freed
        there = {keys.index(one.entry.key) for one in holdings(store)}
        assert there == set(range(len(entries))) - (set() if dry_run else gone)


def test_what_was_used_since_it_was_looked_at_stays(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    place = put(store, pack(0), used=NOW - 9 * DAY)
    whole = store.holding

    @contextmanager
    def used_meanwhile(key: str, *, wait: bool = True) -> Iterator[bool]:
        os.utime(place / "stage.json", (NOW, NOW))
        with whole(key, wait=wait) as free:
            yield free

    monkeypatch.setattr(store, "holding", used_meanwhile)
    found = collect(store, Rule(unused_for=DAY), now=NOW)
    assert (found.removed, [one.entry.key for one in found.busy]) == ((), [pack(0).key])
    assert place.is_dir()


# ── Rubbish ───────────────────────────────────────────────────────────────────────────────────────


def litter(store: Store) -> dict[str, Path]:
    """One of everything that is no stage, by what it is."""
    root = store.root
    there, gone, busy, cut = (f"{number:032x}" for number in range(4))
    put(store, pack(1))
    made = pack(1).key
    paths = {
        "damaged": root / ".damaged" / f"pack-{gone}-17",
        "half": root / ".partial" / f"{there}-4711",
        "removed": root / ".partial" / f"{gone}-removed-4711",
        "half, busy": root / ".partial" / f"{busy}-4711",
        "saved": root / ".saved" / cut,
        "log": root / "logs" / f"segment_features-{gone}.log",
        "log, failed": root / "logs" / f"adapt-{there}.log",
        "log, stored": root / "logs" / f"pack-{made}.log",
        "log, busy": root / "logs" / f"adapt-{busy}.log",
        "log, cut": root / "logs" / f"adapt-{cut}.log",
        "lock": root / ".locks" / gone,  # whoever waits for it would wait for another file than the next
        "lock, busy": root / ".locks" / busy,
    }
    for name, path in paths.items():
        if name.startswith("lock"):
            path.touch()
        elif path.suffix == ".log":
            path.write_text("printed")
            if name == "log":
                os.utime(path, (0, 0))
        else:
            path.mkdir(parents=True)
            (path / "file").write_bytes(bytes(10))
    return paths


def test_without_a_rule_only_rubbish_goes(store: Store, cli: Cli) -> None:
    paths = litter(store)
    rubbish = {"damaged", "half", "removed", "log"}
    with held(store, paths["lock, busy"].name):
        would = json.loads(cli("store", "gc", store.root.parent, "--dry-run", "--json").out)
        assert {name for name, path in paths.items() if not path.exists()} == set()
        did = json.loads(cli("store", "gc", store.root.parent, "--json").out)
    assert {name for name, path in paths.items() if not path.exists()} == rubbish
    assert {Path(piece["path"]) for piece in did["rubbish"]} == {paths[name] for name in rubbish}
    assert would | {"dry_run": False} == did
    assert did["freed_bytes"] == 3 * 10 + len("printed")
    assert (did["removed"], did["left"]["stages"]) == ([], 1)
    assert [one.entry.key for one in holdings(store)] == [pack(1).key]


@pytest.mark.parametrize("clean", [Store.clean, lambda store: collect(store, Rule(), now=time.time())])
def test_how_far_a_training_was_goes_once_it_is_stored(store: Store, clean: Callable[[Store], object]) -> None:
    """Killed between the two, it left both; one that was cut may be gone on with, one that runs is left alone."""
    stages = {name: Stage("adapt", {"content": name}) for name in ("stored", "cut", "old", "running")}
    for name, stage in stages.items():
        store.saved(stage.key).mkdir(parents=True)
        if name in ("stored", "running"):
            put(store, stage)
    os.utime(store.saved(stages["old"].key), (NOW, NOW))
    with held(store, stages["running"].key):
        clean(store)
    assert {name for name, stage in stages.items() if store.saved(stage.key).exists()} == {"cut", "running"}


def test_logs_of_removed_stages_go_with_them(store: Store) -> None:
    put(store, pack(1))
    store.log(pack(1)).write_text("printed")
    found = collect(store, Rule(keep_kinds=frozenset({"rank"})), now=NOW)
    assert [one.entry.key for one in found.removed] == [pack(1).key]
    assert {piece.sort for piece in found.rubbish} == {"log"}
    assert [path for path in store.root.rglob("*") if path.is_file() and path.parent.name != ".locks"] == []


# ── The commands ──────────────────────────────────────────────────────────────────────────────────


def planned(file: Path) -> Plan:
    return make_plan(load_grid(file), Registry.discover())


def put_with_lock(store: Store) -> None:
    """A stage, and the file of its lock, which nobody holds."""
    stage = pack(0)
    put(store, stage)
    (store.root / ".locks" / stage.key).touch()


def test_what_would_go_is_told_of_a_store_that_nobody_may_write_to(
    store: Store, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_with_lock(store)
    monkeypatch.setattr(collecting.os, "access", lambda place, mode: mode != os.W_OK)
    monkeypatch.setattr(Store, "holding", lambda self, key, **how: (self.root / "there" / key).touch())
    result = cli("store", "gc", store.root, "--unused-for", "0", "--dry-run")
    assert result.status == 0, result.err
    assert "1 pack" in result.out


def test_a_lock_that_is_somebody_elses_may_be_held(
    store: Store, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_with_lock(store)

    half = store.root / ".partial" / "abc-1"
    half.touch()

    def refused(self: Store, key: str, **how: bool) -> NoReturn:
        raise PermissionError(13, "Permission denied", key)

    monkeypatch.setattr(Store, "holding", refused)
    for only_told in (["--dry-run"], []):
        result = cli("store", "gc", store.root, "--unused-for", "0", *only_told)
        assert result.status == 0, result.err
        assert "1 pack" not in result.out
        assert "left alone, in use" in result.out
    assert len(holdings(store)) == 1
    assert half.exists()


def test_a_link_to_a_store_that_is_gone_is_named(tmp_path: Path) -> None:
    (tmp_path / "store").symlink_to(tmp_path / "gone")
    with pytest.raises(UsageError, match=r"store leads to .*gone, which is not there"):
        Store(tmp_path / "store").create()


def test_the_stages_of_a_grid_are_kept(store: Store, cli: Cli, grid: GridWriter) -> None:
    file, other = grid(), grid(budget={"steps": 3, "batch_size": 8, "target_batch_size": 4})
    kept, more = planned(file).stages, planned(other).stages
    for stage in (kept | more).values():
        put(store, stage)
    result = cli("store", "gc", store.root, "--keep", file)
    assert result.status == 0, result.err
    gone = [stage.kind for key, stage in more.items() if key not in kept]
    assert f"removed {gone.count('adapt')} adapt, " in result.out
    assert {one.entry.key for one in holdings(store)} == set(kept)
    assert (
        json.loads(cli("store", "gc", store.root, "--keep", file, "--keep", other, "--json").out)["removed"] == []
    )
    assert cli("store", "gc", store.root, "--keep", "quickstrat").status == 2


def test_a_grid_that_needs_nothing_here_is_named(store: Store, cli: Cli, grid: GridWriter) -> None:
    """Most likely it is the grid of another folder, and all would go."""
    put(store, pack(0))
    file = grid()
    result = cli("store", "gc", store.root, "--keep", file, "--dry-run")
    assert f"grid {file} needs none of the stages here" in result.err
    put(store, next(iter(planned(file).stages.values())))
    assert "needs none" not in cli("store", "gc", store.root, "--keep", file, "--dry-run").err


def test_a_limit_takes_the_least_recently_used_first(store: Store, cli: Cli) -> None:
    places = [put(store, pack(number), size=100_000, used=NOW - number * DAY) for number in range(4)]
    result = cli("store", "gc", store.root.parent, "--limit", "250kB")
    assert result.status == 0
    assert "removed 2 pack, 201 kB" in result.out
    assert [place.is_dir() for place in places] == [True, True, False, False]
    result = cli("store", "gc", store.root.parent, "--limit", "1kB", "--keep-kind", "pack")
    assert result.status == 1
    assert "--limit 1kB is not reached" in result.out
    assert json.loads(cli("store", "gc", store.root.parent, "--limit", "1kB", "--json", "--dry-run").out)[
        "removed"
    ]
    assert places[0].is_dir()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--limit", "20 apples"], "'20 apples' is no size"),
        (["--limit", "5"], "--limit: '5' has no unit; write 5GB, or 5B for bytes"),
        (["--keep-kind", "adpat"], 'Did you mean "adapt"'),
        (["--unused-for", "-1"], "--unused-for"),
    ],
)
def test_what_makes_no_sense_is_an_error(store: Store, cli: Cli, options: list[str], message: str) -> None:
    result = cli("store", "gc", store.root, *options)
    assert result.status == 2
    assert message in result.err


def test_a_folder_without_a_store_is_an_error(tmp_path: Path, cli: Cli) -> None:
    with pytest.raises(UsageError, match="holds no store"):
        store_in(tmp_path)
    assert cli("store", "ls", tmp_path / "nowhere").status == 2


def test_ls_counts_all_there_is(store: Store, cli: Cli) -> None:
    litter(store)
    put(store, pack(2), size=5000, used=NOW - 3 * DAY, label="plain train")
    put(store, Stage("rank", {"protocol": "classic"}), used=NOW)
    listed = json.loads(cli("store", "ls", store.root.parent, "--json", "--stages").out)
    files = [file for file in store.root.glob("[!.]*/*/*") if file.is_file()]
    assert {kind: of["stages"] for kind, of in listed["kinds"].items()} == {"pack": 2, "rank": 1}
    assert sum(of["bytes"] for of in listed["kinds"].values()) == sum(file.stat().st_size for file in files)
    assert (listed["kinds"]["pack"]["oldest_use"], listed["kinds"]["pack"]["newest_use"]) == (NOW - 3 * DAY, NOW)
    assert listed["other"] == {"damaged": 1, "half-written": 3, "saved trainings": 1, "logs": 5}
    [labelled] = [stage for stage in listed["stages"] if stage["label"]]
    assert (labelled["key"], labelled["seconds"], labelled["label"]) == (pack(2).key, 1.5, "plain train")
    shown = cli("store", "ls", store.root.parent).out
    assert "2025-06-12" in shown
    assert "1 damaged, 3 half-written, 1 saved trainings, 5 logs" in shown
    assert pack(2).key in cli("store", "ls", store.root.parent, "--stages").out


def test_an_empty_store_is_listed(store: Store, cli: Cli) -> None:
    assert "all" in cli("store", "ls", store.root).out
    assert "no stages" in cli("store", "ls", store.root, "--stages").out


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("20GB", 20_000_000_000),
        ("1.5 TB", 1_500_000_000_000),
        ("512MiB", 512 * 2**20),
        ("7B", 7),
        ("3k", 3000),
        ("0", 0),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert read_size(text) == size


@given(st.integers(1, 10**17))
def test_a_size_in_words_is_that_size(count: int) -> None:
    assert read_size(size_text(count)) == pytest.approx(count, rel=0.005, abs=0.5)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "less than a second"),
        (7.3, "about 7 s"),
        (54, "about 50 s"),
        (58, "about 1 min"),
        (723, "about 12 min"),
        (4 * 3600 + 900, "about 4.2 h"),
        (5 * 86400, "about 5 days"),
    ],
)
def test_an_estimate_has_no_more_digits_than_it_deserves(seconds: float, words: str) -> None:
    assert about(seconds) == words
