"""Small real things to test with: caption files with images on disk, grids, and the command line."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path

import numpy as np
import pytest
import yaml
from filelock import FileLock
from hypothesis import settings
from PIL import Image

from urbancross_bench.cli.app import main
from urbancross_bench.execution.store import Store

# A thread for each process: others have the cores, and threads would do little but wait for them. Read when torch
# is imported, and by numpy in the processes that are started; tests of several threads ask for them.
os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")  # as servers have it, see servers_environment

# How long an example takes is the machine's affair, which other processes share.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")

COLOURS = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (40, 60, 200), "grey": (130, 130, 130)}
FORKED = (
    "urbancross_bench.execution.preload",
    "urbancross_adaptations.alignment",
    "urbancross_adaptations.urbancross",
    "urbancross_datasets.karpathy",
    "urbancross_encoders.sam_fused",
    "urbancross_segmenters.sam",
)
SHARED = Path(__file__).parent.parent.parent / "shared" / "data"


gc.disable()  # while thousands of tests are collected, of which nothing is garbage


def pytest_collection_finish() -> None:
    """Nor is it looked at again, time and again, while they run."""
    gc.freeze()
    gc.enable()


def pytest_unconfigure() -> None:
    """Else libraries that look for what is left at the end take all of it for leaks."""
    gc.unfreeze()


def pytest_addoption(parser: pytest.Parser) -> None:
    """How often the test of killed trainings kills one."""
    parser.addoption("--kills", type=int, default=2)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    plugins = ("URBANCROSS_LOAD_PLUGINS", "URBANCROSS_DISABLE_PLUGINS", "URBANCROSS_STRICT_PLUGINS")
    for name in ("URBANCROSS_DATA", *plugins):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("URBANCROSS_HOME", str(tmp_path_factory.getbasetemp() / "home"))


@pytest.fixture(autouse=True, scope="session")
def _one_fork_server() -> Iterator[None]:
    """It lives as long as this process: whichever test starts it, it imports what the others need too."""
    own = ForkServerContext.set_forkserver_preload

    def set_all(context: ForkServerContext, modules: list[str]) -> None:
        own(context, [*modules, *FORKED])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ForkServerContext, "set_forkserver_preload", set_all)
        ForkServerContext().set_forkserver_preload([])  # for a test that starts it and says nothing of imports
        yield


@dataclass(frozen=True)
class Result:
    status: int
    out: str
    err: str


def console_script(*arguments: object) -> int:
    """The console script, in this process, whose fork server has imported what stages need; its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["urbancross-bench", *map(str, arguments)])
        try:
            main()
        except SystemExit as stop:
            return int(stop.code or 0)
    return 0


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """The console script: exit status and what it printed."""

    def call(*arguments: object) -> Result:
        capfd.readouterr()
        status = console_script(*arguments)
        return Result(status, *capfd.readouterr())

    return call


def write_karpathy(folder: Path, *, images: int = 24, shade: int = 0, split: str = "") -> Path:
    """A caption json with `images` plain colour tiles, two captions each; the json's path."""
    (folder / "images").mkdir(parents=True)
    entries = []
    for index in range(images):
        colour = list(COLOURS)[index % len(COLOURS)]
        pixels = np.clip(np.array(COLOURS[colour]) + shade + index, 0, 255).astype(np.uint8)
        tile = np.broadcast_to(pixels, (20, 20, 3)).copy()
        tile[: index % 7] = 255
        name = f"{folder.name}_{index:03d}.png"
        Image.fromarray(tile).save(folder / "images" / name)
        texts = [f"a {colour} field with {index % 7} white rows .", f"a {colour} place ."]
        part = split or ("test" if index % 3 == 2 else "val" if index % 6 == 4 else "train")
        entries.append({"filename": name, "split": part, "sentences": [{"raw": text} for text in texts]})
    file = folder / "dataset.json"
    file.write_text(json.dumps({"images": entries}), encoding="utf-8")
    return file


def write_domains(folder: Path) -> dict[str, str]:
    """Two small domains on disk, by name."""
    return {
        "plain": f"karpathy[file={write_karpathy(folder / 'plain')}]",
        "dark": f"karpathy[file={write_karpathy(folder / 'dark', shade=-30)}]",
    }


def write_grid(folder: Path, domains: dict[str, str], **changes: object) -> Path:
    """A grid of seconds over the two small domains; keywords replace its values."""
    content: dict[str, object] = {
        "name": "tiny",
        "domains": domains,
        "encoders": {"tiny": "openclip[architecture=urbancross-tiny]"},
        "pretraining": {"steps": 3, "batch_size": 8, "learning_rate": 1e-3},
        "adaptations": ["source_only", "urbancross", "oracle"],
        "budget": {"steps": 2, "batch_size": 8, "target_batch_size": 4},
    }
    content.update(changes)
    file = folder / f"grid{len(list(folder.glob('grid*.yaml')))}.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return file


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store, as an output folder has it."""
    made = Store(tmp_path / "out" / "store")
    made.create()
    return made


@pytest.fixture
def disk_at_ease(monkeypatch: pytest.MonkeyPatch) -> None:
    """For what survives no power cut, nor has to."""
    monkeypatch.setattr("urbancross_bench.files._sync", lambda path: None)


@pytest.fixture
def domains(tmp_path: Path) -> dict[str, str]:
    """`write_domains` in the test's own folder."""
    return write_domains(tmp_path)


@pytest.fixture
def grid(tmp_path: Path, domains: dict[str, str]) -> Callable[..., Path]:
    """`write_grid` in the test's own folder."""

    def write(**changes: object) -> Path:
        return write_grid(tmp_path, **({"domains": domains} | changes))  # type: ignore[arg-type]

    return write


@dataclass(frozen=True)
class Outcome:
    """A finished grid: its file, its output folder, and what the command printed."""

    file: Path
    out: Path
    result: Result


def outcome_of(file: Path, out: Path, *options: str) -> Outcome:
    """Run a grid into an output folder."""
    said, warned = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(warned):
        status = console_script("run", file, "--out", out, *options)
    return Outcome(file, out, Result(status, said.getvalue(), warned.getvalue()))


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], Outcome]) -> Outcome:
    """What is made in a folder of this name: once for all processes that the tests are dealt out to."""
    base = factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    kept = folder / "outcome.pickle"
    with FileLock(folder.with_suffix(".lock")):
        if not kept.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            written = folder / "outcome.partial"
            written.write_bytes(pickle.dumps(make(folder)))
            written.replace(kept)
    found: Outcome = pickle.loads(kept.read_bytes())
    return found


@pytest.fixture(scope="session")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A grid of two domains, three methods, two seeds and three selectors, run once. Look, do not touch."""

    def make(folder: Path) -> Outcome:
        budget = {"steps": 2, "batch_size": 8, "target_batch_size": 4, "checkpoints": 2}
        selectors = ["last", "source_val", "target_oracle"]
        file = write_grid(folder, write_domains(folder), seeds=[0, 1], selectors=selectors, budget=budget)
        return outcome_of(file, folder / "out")

    return made_once(tmp_path_factory, "outcome", make)


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by relative path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def comparable(out: Path) -> dict[str, bytes]:
    """What must be equal when a grid is repeated: the tables, and every score, spec and curve of the records."""
    files = {f"leaderboard/{k}": v for k, v in tree(out / "leaderboard").items()}
    return files | {k: v for k, v in tree(out / "runs").items() if "provenance" not in k}
