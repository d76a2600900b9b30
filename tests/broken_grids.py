"""A grid of 16 small cells, and everything that may happen to it: what `test_faults` and `break_grids` share.

Whatever it is, a later `run` has to finish the grid, to the tables and scores of one that nothing happened to, and
must not compute again what was finished before.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import conftest
import pytest
from conftest import outcome_of, write_domains, write_grid

MOODS = ("raise", "exit", "segfault", "hang", "allocate", "garbage")
SEEDS = (0, 1)
PATIENCE = 600  # seconds that a command may take before it counts as a hang

PLUGIN = """
from urbancross_bench.interfaces import EncoderOptions, ImageFormat, Options, Weights, hookimpl, register

@hookimpl
def register_encoders():
    return [
        register("bag", "bag_model:Bag", options="moody_plugin:BagOptions", provides={"gradients"}, summary="x")
    ]

@hookimpl
def register_adaptations():
    return [
        register("moody", "bag_model:Moody", options="moody_plugin:MoodyOptions", setting="source_only",
                 needs={"gradients"}, summary="x")
    ]

class BagOptions(EncoderOptions):
    def image_format(self):
        return ImageFormat(8)

    def weights(self):
        return Weights("untrained", "none")

class MoodyOptions(Options):
    mood: str
"""

MODEL = """
import ctypes, os, threading
from pathlib import Path
import torch
from urbancross_bench.interfaces import Adaptation, Encoder
from moody_plugin import BagOptions, MoodyOptions

class Bag(Encoder):
    options_type = BagOptions

    def load(self):
        return Model()

class Model(torch.nn.Module):
    width, mean, std, logit_bias = 8, (0.5,) * 3, (0.5,) * 3, None

    def __init__(self):
        super().__init__()
        self.image_tower = torch.nn.Linear(3, 8)
        self.text_tower = torch.nn.EmbeddingBag(64, 8)
        self.logit_scale = torch.nn.Parameter(torch.tensor(2.0))

    def tokenize(self, texts):
        rows = [[sum(map(ord, word)) % 64 for word in text.split()] for text in texts]
        longest = max(map(len, rows))
        return torch.tensor([row + [0] * (longest - len(row)) for row in rows])

    def text_length(self, tokens):
        return tokens.shape[1]

    def encode_image(self, images):
        return self.image_tower(images.mean(dim=(2, 3)))

    def encode_text(self, tokens):
        return self.text_tower(tokens)

class Moody(Adaptation):
    options_type = MoodyOptions

    def prepare(self, model, context):
        self.pair_loss = context.pair_loss
        if "COUNTED" in os.environ:
            with open(os.environ["COUNTED"], "a") as file:
                print(self.options.mood, file=file)

    def loss(self, source, target, progress):
        mood = self.options.mood
        if progress.step == 1 and (Path(__file__).parent / "upon" / mood).exists():
            getattr(self, "_" + mood)()
        return {"pairs": self.pair_loss(source)}

    def _raise(self):
        raise RuntimeError("I do not feel like it")

    def _exit(self):
        os._exit(0)

    def _segfault(self):
        ctypes.string_at(0)

    def _hang(self):
        threading.Event().wait()

    def _allocate(self):
        self.kept = torch.ones(2**29)  # 2 GiB, beside what every process takes: no more, however late one looks
        threading.Event().wait()

    def _garbage(self):
        os.write(1, os.urandom(1 << 16))
        os.write(2, b"\\x1b[2J\\xff\\x00" * 1000)
"""


@dataclass
class BrokenGrid:
    """The grid in a folder of its own, and what an undisturbed run of it gives. `said`: what commands printed."""

    folder: Path
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "moody_plugin.py").write_text(PLUGIN, encoding="utf-8")
        (self.folder / "bag_model.py").write_text(MODEL, encoding="utf-8")
        self.file = write_grid(
            self.folder,
            write_domains(self.folder),
            plugins=["moody_plugin.py"],
            scenarios=[{"source": "plain", "target": "dark"}],
            encoders=["bag"],
            adaptations=["source_only", "coral", *[f"moody[mood={mood}]" for mood in MOODS]],
            budget={"steps": 3, "batch_size": 8, "target_batch_size": 4},
            seeds=list(SEEDS),
        )
        assert self.run("whole") == 0, self.said[-1]
        self.whole = comparable(self.folder / "whole")

    def run(self, out: str, *options: str) -> int:
        """`run` to its end, in this process; its exit status."""
        faulthandler.dump_traceback_later(PATIENCE, exit=True)
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.syspath_prepend(self.folder)
                result = outcome_of(self.file, self.folder / out, "--device", "cpu", *options).result
        finally:
            faulthandler.cancel_dump_traceback_later()
            for name in ("moody_plugin", "bag_model"):  # another grid has its own
                sys.modules.pop(name, None)
        self.said.append(result.out + result.err)
        return result.status

    def start(
        self, out: str, *options: str, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """`run` in a process group of its own, which may be killed."""
        paths = [str(self.folder), *filter(None, [os.environ.get("PYTHONPATH")])]
        command = ["run", str(self.file), "--out", str(self.folder / out), "--device", "cpu", *options]
        return subprocess.Popen(
            [sys.executable, "-m", "urbancross_bench", *command],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **(environment or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    @contextlib.contextmanager
    def moods(self, *moods: str) -> Iterator[None]:
        """Meanwhile these come upon every training of theirs."""
        folder = self.folder / "upon"
        folder.mkdir()
        for mood in moods:
            (folder / mood).touch()
        try:
            yield
        finally:
            shutil.rmtree(folder)

    def stored(self, out: str) -> dict[Path, int]:
        """The published stages of an output folder, and what tells one from another in its place."""
        found = (self.folder / out / "store").glob("[!.]*/*/stage.json")
        return {file.parent: file.parent.stat().st_ino for file in found}

    def is_mended(self, out: str, *, untouched: Mapping[Path, int]) -> None:
        """Assert that one more `run` ends well, with the undisturbed tables, redoing nothing finished."""
        assert self.run(out) == 0, self.said[-1]
        assert comparable(self.folder / out) == self.whole
        after = self.stored(out)
        redone = [path for path, number in untouched.items() if after.get(path) != number]
        assert not redone, f"{len(redone)} of {len(untouched)} finished stages were computed again: {redone[0]}"


def comparable(out: Path) -> dict[str, bytes]:
    """The same of a grid in which all has gone well."""
    found = conftest.comparable(out)
    assert not any("failure" in name or "partial" in name for name in found)
    return found


# --- processes are killed ---------------------------------------------------------------------------------------


def below(process: int) -> list[int]:
    """The processes below one, as Linux tells them."""
    found: list[int] = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            children = [int(number) for number in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            found += [child, *below(child)]
    return found


def kill_a_worker(process: subprocess.Popen[str], rng: random.Random) -> None:
    """One of the processes that carry out stages, or the server that they are forked from."""
    if found := below(process.pid):
        os.kill(rng.choice(found), signal.SIGKILL)


def kill_the_parent(process: subprocess.Popen[str], rng: random.Random) -> None:
    """The command itself; its processes are on their own."""
    process.kill()


def kill_all(process: subprocess.Popen[str], rng: random.Random) -> None:
    """The whole process group."""
    os.killpg(process.pid, signal.SIGKILL)


KILLS: tuple[Callable[[subprocess.Popen[str], random.Random], None], ...] = (
    kill_a_worker,
    kill_the_parent,
    kill_all,
)


def killed(grid: BrokenGrid, out: str, kills: int, rng: random.Random) -> dict[str, int]:
    """Kill somebody at a random moment, `kills` times, and then let it finish. How often whom."""
    done: dict[str, int] = {}
    total = len(grid.stored("whole"))
    finished: dict[Path, int] = {}
    for number in range(kills):
        kill = KILLS[number % len(KILLS)]
        process = grid.start(out)
        before = len(grid.stored(out))
        # A moment: when so many more stages are there, and a little later.
        moment = before + rng.randrange(max(1, (total - before) // max(1, kills - number)))
        while process.poll() is None and len(grid.stored(out)) < moment:
            time.sleep(0.002)
        for _ in range(rng.randrange(200)):
            os.sched_yield()
        try:
            kill(process, rng)
            done[kill.__name__] = done.get(kill.__name__, 0) + 1
        except ProcessLookupError:  # it was done already
            pass
        process.communicate(timeout=PATIENCE)
        now = grid.stored(out)
        assert finished.items() <= now.items(), "a finished stage was computed again"
        finished = now
    grid.is_mended(out, untouched=finished)
    return done


# --- the store is damaged ---------------------------------------------------------------------------------------


def damaged(grid: BrokenGrid, out: str, files: int, rng: random.Random) -> int:
    """Truncate, or flip a bit of, random files of the store of an unfinished grid. How many stages were hit."""
    assert grid.run(out, "--set", "seeds=[0]") == 0, grid.said[-1]
    store = grid.folder / out / "store"
    shutil.rmtree(grid.folder / out / "runs")
    every = sorted(file for folder in grid.stored(out) for file in folder.rglob("*") if file.stat().st_size)
    hit = set()
    for file in rng.sample(every, min(files, len(every))):
        content = bytearray(file.read_bytes())
        if rng.random() < 0.5:
            del content[rng.randrange(len(content)) :]
        else:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        file.write_bytes(content)
        hit.add(file.relative_to(store).parts[:2])
    whole = {path: number for path, number in grid.stored(out).items() if path.parts[-2:] not in hit}
    grid.is_mended(out, untouched=whole)
    return len(hit)
