"""The same in another process, where sets and hashes of text have another order: what stored results rest on."""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import BinaryIO, ClassVar, NoReturn, cast

from urbancross_bench.data.paths import data_folder
from urbancross_bench.processes import end_with, python_path, servers_environment, take_environment
from urbancross_bench.registry import Registry, Resolved
from urbancross_bench.testing.watching import folder

Look = Callable[[Resolved], Mapping[str, str]]

_START = 60  # seconds more than a plugin's patience, for a process that imports torch
# What takes long to import: where it is imported here, it is there once, for all looks that are not far.
_LIBRARIES = ("torch", "open_clip", "transformers", "datasets")
_SUBJECT, _SEEN, _SAID = "subject", "seen.json", "said"  # files of a look's folder
_WELL, _ILL = b".", b"!"  # how its process ended


def others_elsewhere(
    look: Look, resolved: Resolved, files: Sequence[str], patience: float, *, far: bool = False
) -> list[str]:
    """What of a look at a plugin, keys by name, is another in a process of another hash seed.

    look: a function of a module, which is called here and there. files: one-file plugins to load first. far: that
    process is as on another machine, too: of another folder, home, time zone, day and language. Raises
    RuntimeError, in the words of what is raised there, where it fails.
    """
    there, here = _Server.of(far).look(look, resolved, files, patience + _START), look(resolved)
    return [name for name in {**here, **there} if here.get(name) != there.get(name)]


class _Server:
    """A process of another hash seed that is forked for each look, once it has imported what takes long."""

    running: ClassVar[dict[bool, _Server]] = {}

    @classmethod
    def of(cls, far: bool) -> _Server:
        """The one that is forked for far looks, or for the others."""
        if far not in cls.running:
            cls.running[far] = cls(far)
        return cls.running[far]

    def __init__(self, far: bool) -> None:
        self._far, self._parent = far, os.getpid()
        self._own = {"PYTHONHASHSEED": "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"}
        if far:  # from its start, for what libraries keep of it
            self._own["LC_ALL"] = "C.UTF-8" if os.environ.get("LC_ALL") == "C" else "C"
        home = {"HOME": str(folder())} if far else {}
        answers, there = os.pipe()
        with servers_environment():
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", f"from {__name__} import serve; serve({there})"],
                env={**os.environ, **home, **self._own},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[there],
                start_new_session=True,
            )
        os.close(there)
        self._asks, self._answers = cast(BinaryIO, self._process.stdin), os.fdopen(answers, "rb", buffering=0)
        atexit.register(self.end)

    def look(self, look: Look, resolved: Resolved, files: Sequence[str], patience: float) -> dict[str, str]:
        """What is seen there. RuntimeError where nothing is, or not within so many seconds."""
        place, cwd, path = folder(), Path.cwd(), python_path()
        environment = {**os.environ, **_as_many_threads(), "URBANCROSS_DATA": str(data_folder()), **self._own}
        if self._far:
            cwd = folder()
            environment |= {"HOME": str(folder()), "TZ": _zone(), "PYTHONPATH": os.pathsep.join(path)}
        subject = (look, resolved.plugin.kind, resolved.reference, tuple(files))
        (place / _SUBJECT).write_bytes(pickle.dumps((environment, cwd, path)) + pickle.dumps(subject))
        libraries = [] if self._far else [name for name in _LIBRARIES if sys.modules.get(name)]
        try:
            self._asks.write(json.dumps([str(place), libraries]).encode() + b"\n")
            self._asks.flush()
            if not wait([self._answers.fileno()], patience):
                raise RuntimeError(f"it has not ended after {patience:g} seconds")
            answer = self._answers.read(1)
            if not answer:
                raise RuntimeError("the server that it is forked from has ended")
        except OSError as error:
            self.end()
            raise RuntimeError(f"the server that it is forked from has ended ({error})") from None
        except BaseException:  # as an interrupt: what is still to be answered would be taken for the next answer
            self.end()
            raise
        if answer == _WELL and (place / _SEEN).exists():
            return cast(dict[str, str], json.loads((place / _SEEN).read_bytes()))
        said = (place / _SAID).read_text(encoding="utf-8", errors="replace") if (place / _SAID).exists() else ""
        raise RuntimeError((said.strip().splitlines() or ["it says nothing"])[-1])

    def end(self) -> None:
        """Kill it, with whoever looks; the next look is another server's."""
        if os.getpid() != self._parent:  # a fork of who started it
            return
        self.running.pop(self._far, None)
        atexit.unregister(self.end)
        with suppress(ProcessLookupError, PermissionError):  # as it is said of those that have ended already
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()
        self._answers.close()


def serve(answers: int) -> None:
    """The life of the server: a line says where a look lies and what to import, a byte that its process ended."""
    gc.disable()  # for most of what it does is to import
    for line in sys.stdin.buffer:
        place, libraries = json.loads(line)
        for name in libraries:
            with suppress(BaseException):  # the look needs it and says why, or does without
                importlib.import_module(name)
        gc.freeze()
        process = os.fork()
        if not process:
            os.close(answers)
            _take(Path(place))
        status = os.waitpid(process, 0)[1]
        os.write(answers, _ILL if status else _WELL)
    os._exit(0)


def _take(place: Path) -> NoReturn:
    """The life of a look's process."""
    status = 1
    try:
        # Whoever asked may be killed: nothing else comes this way before there is an answer.
        end_with(Connection(os.dup(0), writable=False), partial(os.killpg, 0, signal.SIGKILL))
        with (place / _SAID).open("wb") as said, Path(os.devnull).open("rb") as nothing:
            for stream, file in ((0, nothing), (1, said), (2, said)):
                os.dup2(file.fileno(), stream)
        with (place / _SUBJECT).open("rb") as file:
            environment, cwd, sys.path[:] = pickle.load(file)
            take_environment(environment)
            os.chdir(cwd)
            if "torch" in sys.modules and "OMP_NUM_THREADS" in environment:
                from urbancross_bench.modelling.runtime import set_threads

                set_threads(int(environment["OMP_NUM_THREADS"]))
            look, kind, reference, files = pickle.load(file)  # of modules that the path leads to
        seen = json.dumps(look(Registry.discover(files).resolve(kind, reference)))
        (place / _SEEN).write_text(seen, encoding="utf-8")
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            atexit._run_exitfuncs()  # as of folders that are to go
            sys.stderr.flush()
        os._exit(status)


def _as_many_threads() -> dict[str, str]:
    """Sums of another number of threads are rounded otherwise, which is nobody's fault."""
    torch = sys.modules.get("torch")
    return {"OMP_NUM_THREADS": str(torch.get_num_threads())} if torch else {}


def _zone() -> str:
    """A time zone in which it is another day."""
    now = datetime.now(UTC)
    zones = {"UTC-14": now + timedelta(hours=14), "UTC+12": now - timedelta(hours=12)}  # never of one day
    return next(zone for zone, there in zones.items() if there.date() != datetime.now().astimezone().date())
