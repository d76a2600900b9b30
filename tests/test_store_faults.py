"""The store and the records against disks that change and other processes that are in the way."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from conftest import tree
from filelock import FileLock, Timeout
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_plans import FACTS, Session, make_plan, make_run, make_stage, publish, scripted
from safetensors.numpy import save_file

from urbancross_bench import files
from urbancross_bench.errors import RunError
from urbancross_bench.execution.recording import Recorder
from urbancross_bench.execution.stage import Stage
from urbancross_bench.execution.store import MissingError, Store
from urbancross_bench.interfaces import Event
from urbancross_bench.records import read_record

FILES = {"values.0": b"some bytes", "values.1": bytes(range(256)), "empty": b"", "deep/one": b"x"}
STAGE = make_stage("pack", 0)
START = make_stage("pretrain", 0, STAGE)
ADAPT = make_stage("adapt", 0, START)
RANKS = [make_stage("rank", n, ADAPT, **FACTS) for n in range(2)]
RUN = make_run(0, [ADAPT], RANKS)
PLAN = make_plan([STAGE, START, ADAPT, *RANKS], [RUN])
pytestmark = pytest.mark.usefixtures("disk_at_ease")
_FORK = multiprocessing.get_context("fork")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    made.create()
    return made


def put(store: Store, stage: Stage = STAGE) -> Path:
    with store.writing(stage, {"seconds": 1}) as folder:
        for name, content in FILES.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
    return store.path(stage.kind, stage.key)


# ── A disk that changes ───────────────────────────────────────────────────────────────────────────

NAMES = [*FILES, "provenance.json", "stage.json"]


@settings(max_examples=100, deadline=None)
@given(name=st.sampled_from(NAMES), place=st.integers(0, 5000), bit=st.integers(0, 7), cut=st.booleans())
def test_no_changed_byte_is_believed(name: str, place: int, bit: int, cut: bool) -> None:
    """A flipped bit, or a file cut off, anywhere: what is served is what was written, or nothing is."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        store.create()
        file = put(store) / name
        before = file.read_bytes()
        changed = bytearray(before or b"\0")
        place %= len(changed)
        changed[place] ^= 1 << bit
        file.write_bytes(before[:place] if cut and before else changed)
        if name != "stage.json":
            with pytest.raises(MissingError, match="is damaged") as caught:
                store.read(STAGE.key, name)
            assert caught.value.keys == (STAGE.key,)
        else:
            for each, content in FILES.items():
                with contextlib.suppress(MissingError):
                    assert store.read(STAGE.key, each) == content
        try:
            found = store.find(STAGE.key)
            assert {each: (found / each).read_bytes() for each in FILES} == FILES
        except MissingError:
            assert not store.has(STAGE)
            assert list((store.root / ".damaged").iterdir())
            assert put(store).is_dir()
            assert store.find_all([STAGE.key]) == [store.path("pack", STAGE.key)]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_gone(store: Store, name: str) -> None:
    (put(store) / name).unlink()
    with pytest.raises(MissingError):
        store.find(STAGE.key)
    place = put(store)  # what a lost manifest leaves behind is not in the way
    assert store.find(STAGE.key) == place
    assert {each: store.read(STAGE.key, each) for each in FILES} == FILES


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", "7", "null", '{"kind": "pack", "facts": {}, "inputs": {}, "files": {}}']
)
def test_a_manifest_of_something_else(store: Store, content: str) -> None:
    (put(store) / "stage.json").write_text(content)
    with pytest.raises(MissingError, match="is damaged"):
        store.find(STAGE.key)


def test_a_manifest_of_another_stage(store: Store) -> None:
    other = make_stage("pack", 1)
    (put(store) / "stage.json").write_bytes((put(store, other) / "stage.json").read_bytes())
    with pytest.raises(MissingError, match="does not fit"):
        store.find(STAGE.key)
    assert store.find(other.key)


def test_all_that_is_missing_is_said_at_once(store: Store) -> None:
    stages = [make_stage("pack", n) for n in range(4)]
    places = [put(store, stage) for stage in stages[:3]]
    (places[1] / "empty").write_text("not any more")
    with pytest.raises(MissingError, match=r"is damaged.*is not in the store") as caught:
        store.find_all(stage.key for stage in stages)
    assert caught.value.keys == (stages[1].key, stages[3].key)
    with pytest.raises(MissingError, match="no file"):
        store.read(stages[0].key, "unheard")


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(5, "Input/output error")])
def test_what_cannot_be_read_now_stays_where_it_is(
    store: Store, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    """A colleague's file, or one on a server that is gone for a moment, is as good as ever."""
    place = put(store)

    def refuse(file: Path) -> str:
        raise error

    monkeypatch.setattr("urbancross_bench.execution.store.file_digest", refuse)
    with pytest.raises(
        RunError, match=rf"stored pack {STAGE.key} cannot be read, and stays as it is: .*{error.strerror}"
    ):
        store.find_all([STAGE.key])
    monkeypatch.undo()
    assert store.find(STAGE.key) == place


def test_whoever_may_read_one_file_may_read_all(store: Store) -> None:
    """Of a store that several share: safetensors writes for its owner alone."""
    with store.writing(STAGE, {}) as folder:
        save_file({"a": np.zeros(1)}, folder / "values.safetensors")
    modes = {file.stat().st_mode for file in store.path(STAGE.kind, STAGE.key).iterdir()}
    assert len(modes) == 1


def test_what_fails_amid_writing_leaves_nothing(store: Store) -> None:
    with pytest.raises(FileNotFoundError), store.writing(STAGE, {}) as folder:
        (folder / "half").rename(folder / "no such folder" / "half")
    assert not store.has(STAGE)
    assert not list((store.root / ".partial").iterdir())


# ── Other processes ───────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def beside() -> Iterator[Callable[..., tuple[int, Connection]]]:
    """Starts a process that calls a function with its end of a pipe; its number and our end."""
    started = []

    def start(call: Callable[..., None], *arguments: object) -> tuple[int, Connection]:
        here, there = _FORK.Pipe()
        process = _FORK.Process(target=call, args=(there, *arguments))
        process.start()
        there.close()
        started.append(process)
        assert process.pid is not None
        return process.pid, here

    yield start
    for process in started:
        process.kill()
        process.join()


def hold(pipe: Connection, store: Store) -> None:
    """Compute a stage until told to end, or killed."""
    with store.holding(STAGE.key) as free:
        pipe.send(free)
        pipe.recv()


def test_a_lock_goes_with_its_process(store: Store, beside: Callable[..., tuple[int, Connection]]) -> None:
    for kill in (False, True):
        number, pipe = beside(hold, store)
        assert pipe.recv() is True
        assert store.busy(STAGE.key)
        assert not store.busy(START.key)
        with store.holding(STAGE.key, wait=False) as free:
            assert not free
        if kill:
            os.kill(number, signal.SIGKILL)
        else:
            pipe.send("end")
        with store.holding(STAGE.key) as free:  # waits until it has ended
            assert free
        assert not store.busy(STAGE.key)


def write(pipe: Connection, root: Path) -> None:
    """Make the store, and compute a stage in it unless it is there."""
    store = Store(root)
    pipe.recv()
    store.create()
    with store.holding(STAGE.key):
        there = store.has(STAGE)
        if not there:
            put(store)
    store.find(STAGE.key)
    pipe.send(there)


def test_several_processes_make_one_store(tmp_path: Path, beside: Callable[..., tuple[int, Connection]]) -> None:
    pipes = [beside(write, tmp_path / "a" / "store")[1] for _ in range(5)]
    for pipe in pipes:
        pipe.send("go")
    assert sorted(pipe.recv() for pipe in pipes) == [False, True, True, True, True]


def test_a_file_in_the_place_of_a_stage_makes_way(store: Store) -> None:
    place = store.path(START.kind, START.key)
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.touch()
    publish(store, START)
    assert store.has(START)


# ── Records ───────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def stored(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.create()
    for stage in PLAN.stages.values():
        publish(store, stage)
    return store


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 1}', '{"schema": 5, "status": "?", "key": "x"}'])
def test_a_record_that_cannot_be_read_is_set_aside(tmp_path: Path, stored: Store, content: str) -> None:
    assert Session(PLAN, tmp_path).run() == {0: "ok"}
    place = tmp_path / "runs" / RUN.key
    (place / "run.json").write_text(content)
    session = Session(PLAN, tmp_path)
    assert session.run() == {0: "ok"}
    assert session.executor.tasks == []
    [warning] = session.told.warnings
    [aside] = (tmp_path / "runs").glob(".damaged-*")
    assert str(aside) in warning
    assert (aside / "run.json").read_text() == content
    assert session.record(RUN).ok


@pytest.mark.parametrize("left", [0, 10, -1])
def test_a_record_whose_arrays_are_cut_short_is_set_aside(tmp_path: Path, stored: Store, left: int) -> None:
    assert Session(PLAN, tmp_path).run() == {0: "ok"}
    arrays = tmp_path / "runs" / RUN.key / "scores" / RUN.scores[0].key / "queries.safetensors"
    whole = arrays.read_bytes()
    arrays.write_bytes(whole[:left])
    session = Session(PLAN, tmp_path)
    assert session.run() == {0: "ok"}
    assert session.executor.tasks == []
    [warning] = session.told.warnings
    assert str(arrays) in warning
    assert arrays.read_bytes() == whole
    again = Session(PLAN, tmp_path)
    assert again.run() == {}
    assert not again.told.warnings


def test_waiting_for_a_folder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = FileLock(tmp_path / ".lock")
    held.acquire()
    said: list[str] = []

    class Screen(io.StringIO):
        def write(self, text: str) -> int:
            said.append(text)
            held.release()
            return len(text)

    monkeypatch.setattr(files, "_SILENT", 0.0)
    monkeypatch.setattr(sys, "stderr", Screen())
    with files.alone_in(tmp_path), pytest.raises(Timeout):
        FileLock(tmp_path / ".lock", blocking=False).acquire()
    assert said[0] == f"waiting for another process to leave {tmp_path / '.lock'}"
    held.acquire(blocking=False)


def test_two_recorders_of_one_run(tmp_path: Path, stored: Store) -> None:
    """Who comes second adds what is new, and changes nothing; a failure does not take the place of a success."""
    failed = Event(RANKS[1].key, "ended", outcome="oom", error="too large")
    warnings: list[str] = []
    one, two = (Recorder(PLAN, tmp_path, stored, warnings.append) for _ in range(2))
    place = tmp_path / "runs" / RUN.key
    lost = Event(START.key, "ended", outcome="timeout", error="too long")
    one.record(RUN, dict.fromkeys(RUN.stage_keys(), lost))
    two.interrupt(RUN)  # it has its record
    record = read_record(place)
    assert record is not None
    assert (record.spec["status"], record.scores) == ("timeout", ())
    two.record(RUN, {RANKS[1].key: failed})
    before = tree(place)
    assert not any("failure" in name for name in before)
    one.record(RUN, dict.fromkeys(RUN.stage_keys(), lost))
    assert tree(place) == before
    one.record(RUN, {})
    after = tree(place)
    assert {name: after[name] for name in before} == before
    record = read_record(place)
    assert record is not None
    assert record.ok
    assert len(record.scores) == 2
    assert warnings == []


def test_a_run_whose_training_failed_is_not_well_for_scores_of_old(tmp_path: Path, stored: Store) -> None:
    lost = Event(START.key, "ended", outcome="oom", error="too large")
    Recorder(PLAN, tmp_path, stored, lambda text: None).record(RUN, {START.key: lost})
    record = read_record(tmp_path / "runs" / RUN.key)
    assert record is not None
    assert (record.spec["status"], record.scores) == ("oom", ())


def test_a_score_that_failed_is_tried_again(tmp_path: Path) -> None:
    assert Session(PLAN, tmp_path, scripted({RANKS[0]: ["raise"]})).run() == {0: "failed"}
    session = Session(PLAN, tmp_path)
    assert session.record(RUN).ok
    assert [score.folder.name for score in session.record(RUN).scores] == [RUN.scores[1].key]
    assert session.run() == {0: "ok"}
    assert session.executor.tasks == [(RANKS[0].label,)]
