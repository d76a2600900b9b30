"""Whatever happens to a grid, the next `run` finishes it, to the same bytes; `break_grids` does more."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
from collections import Counter

import pytest
from broken_grids import MOODS, PATIENCE, SEEDS, BrokenGrid, comparable, damaged, kill_all, killed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> BrokenGrid:
    return BrokenGrid(tmp_path_factory.mktemp("faults"))


def test_killed_at_random_it_goes_on(broken: BrokenGrid) -> None:
    done = killed(broken, "killed", 3, random.Random(0))
    assert sum(done.values()) == 3


def test_a_bad_plugin_costs_its_own_cells(broken: BrokenGrid) -> None:
    """Raises, exits, segfaults, hangs, allocates more than it may, prints garbage: most at once."""
    others = [f"moody[mood={mood}]" for mood in MOODS if mood != "hang"]
    with broken.moods(*MOODS):
        assert broken.run("moods", "--memory-limit", "2", "--set", f"adaptations={['source_only', *others]}") == 1
        # What hangs has so long as the others may not need.
        assert broken.run("moods", "--time-limit", "1", "--set", "adaptations=['moody[mood=hang]']") == 1
    seeds = len(SEEDS)
    for said, counts in zip(
        broken.said[-2:],
        (f"{2 * seeds} ok, {3 * seeds} failed, {seeds} oom", f"{seeds} timeout"),
        strict=True,
    ):
        assert counts in said.replace("\n", " ")
    failures = [json.loads(file.read_text()) for file in (broken.folder / "moods" / "runs").glob("*/failure.json")]
    errors = Counter(failure["error"].partition(" (")[0].partition(" of memory")[0] for failure in failures)
    assert errors["RuntimeError: I do not feel like it"] == seeds
    assert errors["the process died without a word"] == seeds
    assert errors["its process ended before it did"] == seeds
    assert errors["took longer than 1 s, the time limit"] == seeds
    assert sum(count for error, count in errors.items() if error.startswith("took 2.")) == seeds
    assert {"I do not feel like it" in failure["traceback"] for failure in failures if failure["traceback"]} == {
        True
    }
    broken.is_mended("moods", untouched=broken.stored("moods"))


def test_a_damaged_store_is_made_anew(broken: BrokenGrid) -> None:
    assert damaged(broken, "damaged", 6, random.Random(1)) > 1
    assert any("is damaged" in said for said in broken.said)
    assert list((broken.folder / "damaged" / "store" / ".damaged").iterdir())


def test_two_at_once_share_every_stage(broken: BrokenGrid) -> None:
    counted = broken.folder / "counted"
    processes = [broken.start("shared", environment={"COUNTED": str(counted)}) for _ in range(2)]
    said = [process.communicate(timeout=PATIENCE)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    assert comparable(broken.folder / "shared") == broken.whole
    assert Counter(counted.read_text().split()) == dict.fromkeys(MOODS, len(SEEDS))  # every training once


def test_a_full_disk_ends_it_in_words(broken: BrokenGrid) -> None:
    out = broken.folder / "full"
    out.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", out], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs privileges")
    try:
        process = broken.start("full")  # with whatever its processes print
        said = process.communicate(timeout=PATIENCE)[0]
        assert process.returncode in (1, 2)
        assert "No space left on device" in said
        assert "Traceback" not in said
        subprocess.run(["mount", "-o", "remount,size=100m", out], check=True)
        broken.is_mended("full", untouched=broken.stored("full"))
    finally:
        subprocess.run(["umount", out], check=True)


def test_a_read_only_folder_is_named(broken: BrokenGrid) -> None:
    out = broken.folder / "sealed"
    shutil.copytree(broken.folder / "whole", out)
    mount = ["mount", "--bind", "-o", "ro", out, out]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting read-only needs privileges")
    try:
        assert broken.run("sealed") == 2
        assert f"output folder {out / 'store'} cannot be written to" in broken.said[-1]
    finally:
        subprocess.run(["umount", out], check=True)
    broken.is_mended("sealed", untouched=broken.stored("sealed"))


@pytest.mark.long
def test_clocks_that_jump_change_nothing(broken: BrokenGrid) -> None:
    """The clock of every process leaps by days, back and forth, at each look."""
    folder = broken.folder / "clocks"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import random, time\nnow, leap = time.time, random.Random(0).uniform\n"
        "time.time = lambda: now() + leap(-4e7, 4e7)\n"
    )
    paths = os.pathsep.join([str(folder), str(broken.folder)])
    process = broken.start("leaping", environment={"PYTHONPATH": paths})
    said = process.communicate(timeout=PATIENCE)[0]
    assert process.returncode == 0, said
    assert comparable(broken.folder / "leaping") == broken.whole


def test_an_interrupt_leaves_word(broken: BrokenGrid) -> None:
    begun = broken.folder / "begun"
    os.mkfifo(begun)
    with os.fdopen(os.open(begun, os.O_RDWR)) as trained, broken.moods("hang"):
        process = broken.start("hanging", environment={"COUNTED": str(begun)})
        while trained.readline().strip() != "hang":
            pass
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[0]
    assert process.returncode == 130, said
    assert "run the same command again" in said
    records = [file.read_text() for file in (broken.folder / "hanging" / "runs").glob("*/run.json")]
    assert sum('"status": "interrupted"' in text for text in records) >= 1


@pytest.mark.long
def test_a_second_interrupt_does_not_wait(broken: BrokenGrid) -> None:
    """A tracker that never returns, and an hour of patience with it."""
    pipe = broken.folder / "pipe"
    os.mkfifo(pipe)
    (broken.folder / "endless.py").write_text(
        "import threading\n"
        "from urbancross_bench.interfaces import hookimpl\n\n"
        "@hookimpl\n"
        "def on_grid_finished(out, counts):\n"
        f"    open({str(pipe)!r}, 'w').close()\n"
        "    threading.Event().wait()\n"
    )
    plugins = ("--plugin", str(broken.folder / "endless.py"), "--track-patience", "3600")
    process = broken.start("endless", *plugins)
    assert process.stdout is not None
    next(line for line in process.stdout if "[1/" in line)
    process.send_signal(signal.SIGINT)
    pipe.read_bytes()  # until the tracker has opened it
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    kill_all(process, random.Random())  # the tracker is given its hour


def test_a_folder_that_several_grids_share(broken: BrokenGrid) -> None:
    """`--store`: the second output folder finds all stages there."""
    store = str(broken.folder / "store")
    assert broken.run("one", "--store", store, "--set", "seeds=[0]") == 0
    assert broken.run("two", "--store", store, "--set", "seeds=[0]") == 0
    assert "0 stages to do" in broken.said[-1]
    assert broken.run("whole", "--store", store) == 2
    assert "has a store already" in broken.said[-1]


def test_a_stage_that_died_is_tried_again_if_asked(broken: BrokenGrid) -> None:
    with broken.moods("exit"):
        assert broken.run("retried", "--retries", "1", "--set", "seeds=[0]") == 1
    assert broken.said[-1].count("is tried again") == 1
