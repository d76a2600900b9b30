"""The same in another process, where sets and hashes of text have another order: what stored results rest on."""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import pickle
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from urbancross_bench.data.paths import data_folder
from urbancross_bench.registry import Registry, Resolved
from urbancross_bench.testing.watching import folder

Look = Callable[[Resolved], Mapping[str, str]]

_START = 60  # seconds more than a plugin's patience, for a process that imports torch
# What takes long to import: where it is imported here, it is there once, for all looks.
_LIBRARIES = ("torch", "open_clip", "transformers", "datasets")
_SUBJECT, _SEEN, _SAID = "subject", "seen.json", "said"  # files of a look's folder


def others_elsewhere(
    look: Look, resolved: Resolved, files: Sequence[str], patience: float, *, far: bool = False
) -> list[str]:
    """What of a look at a plugin, keys by name, is another in a process of another hash seed.

    look: a function of a module, which is called here and there. files: one-file plugins to load first. far: that
    process is as on another machine, too: of another folder, home, time zone, day and language. Raises
    RuntimeError, in the words of what is raised there, where it fails.
    """
    place = folder()
    environment = {**os.environ, **_as_many_threads(), **(_far() if far else {})}
    surroundings = (environment, str(folder() if far else Path.cwd()), _path())
    subject = (resolved.plugin.kind, resolved.reference, tuple(files))
    (place / _SUBJECT).write_bytes(pickle.dumps(surroundings) + pickle.dumps((look, subject)))
    _server().look(place, patience + _START)
    there, here = json.loads((place / _SEEN).read_bytes()), look(resolved)
    return [name for name in {**here, **there} if here.get(name) != there.get(name)]


class _Server:
    """A process of another hash seed that imports what takes long, and is forked for each look."""

    def __init__(self) -> None:
        seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve()"],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(_path()), "PYTHONHASHSEED": seed},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        atexit.register(self.end)

    def look(self, place: Path, patience: float) -> None:
        """Have a look that lies in a folder taken; what is seen lies there then. RuntimeError where nothing is."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        libraries = [name for name in _LIBRARIES if name in sys.modules]
        self._process.stdin.write(json.dumps([str(place), libraries]).encode() + b"\n")
        self._process.stdin.flush()
        if not select.select([self._process.stdout], [], [], patience)[0]:
            self.end()
            raise RuntimeError(f"it has not ended after {patience:g} seconds")
        status = self._process.stdout.readline()
        if not status:
            self.end()
            raise RuntimeError(f"the process that is to start it has ended ({' '.join(libraries)})")
        if status != b"0\n":
            said = (place / _SAID).read_text(encoding="utf-8", errors="replace").strip()
            raise RuntimeError((said.splitlines() or ["it says nothing"])[-1])

    def end(self) -> None:
        """Kill it, with whoever looks; the next look is another server's."""
        _server.cache_clear()
        atexit.unregister(self.end)
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


@functools.cache
def _server() -> _Server:
    return _Server()


def serve() -> None:
    """The life of the server: a line says where a look lies and what to import, another how its process ended."""
    gc.disable()  # for most of what it does is to import
    for line in sys.stdin.buffer:
        place, libraries = json.loads(line)
        for name in libraries:
            importlib.import_module(name)
        gc.freeze()
        process = os.fork()
        if not process:
            _take(Path(place))
        status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        sys.stdout.write(f"{status}\n")
        sys.stdout.flush()


def _take(place: Path) -> None:
    """The life of a look's process: as if it had begun in its surroundings."""
    with (place / _SAID).open("wb") as said, Path(os.devnull).open("rb") as nothing:
        for stream, file in ((0, nothing), (1, said), (2, said)):
            os.dup2(file.fileno(), stream)
    status = 1
    try:
        with (place / _SUBJECT).open("rb") as file:
            environment, cwd, sys.path[:] = pickle.load(file)
            os.environ.clear()
            os.environ.update(environment)
            time.tzset()
            os.chdir(cwd)
            if (torch := sys.modules.get("torch")) and "OMP_NUM_THREADS" in environment:
                torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
            look, (kind, reference, files) = pickle.load(file)  # of modules that the path leads to
        seen = look(Registry.discover(files).resolve(kind, reference))
        (place / _SEEN).write_text(json.dumps(seen), encoding="utf-8")
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _path() -> list[str]:
    """Where modules are, whatever the folder of who looks for them."""
    return [str(Path(entry).resolve()) for entry in sys.path]


def _as_many_threads() -> dict[str, str]:
    """Sums of another number of threads are rounded otherwise, which is nobody's fault."""
    torch = sys.modules.get("torch")
    return {"OMP_NUM_THREADS": str(torch.get_num_threads())} if torch else {}


def _far() -> dict[str, str]:
    """The environment of a machine on which it is another day; what can be read here can be there."""
    now = datetime.now(UTC)
    zones = {"UTC-14": now + timedelta(hours=14), "UTC+12": now - timedelta(hours=12)}  # never of one day
    return {
        "HOME": str(folder()),
        "TZ": next(zone for zone, there in zones.items() if there.date() != datetime.now().astimezone().date()),
        "LC_ALL": "C.UTF-8" if os.environ.get("LC_ALL") == "C" else "C",
        "URBANCROSS_DATA": str(data_folder()),
    }
