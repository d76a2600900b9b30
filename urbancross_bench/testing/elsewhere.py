"""The same in another process, where sets and hashes of text have another order: what stored results rest on."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from urbancross_bench.data.paths import data_folder
from urbancross_bench.registry import Resolved
from urbancross_bench.testing.watching import folder

Look = Callable[[Resolved], Mapping[str, str]]

_START = 60  # seconds more than a plugin's patience, for a process that imports torch
_CODE = """
import gc, json, pickle, sys
gc.disable()  # it lives for one look, of which most is imports
from urbancross_bench.registry import Registry
with open(sys.argv[1], "rb") as file:
    look, kind, reference, files = pickle.load(file)
print("\\n" + json.dumps(look(Registry.discover(files).resolve(kind, reference))))
"""


def others_elsewhere(
    look: Look, resolved: Resolved, files: Sequence[str], patience: float, *, far: bool = False
) -> list[str]:
    """What of a look at a plugin, keys by name, is another in a process of another hash seed.

    look: a function of a module, which is called here and there. files: one-file plugins to load first. far: that
    process is as on another machine, too: of another folder, home, time zone, day and language. Raises
    RuntimeError, in the words of what is raised there, where it fails.
    """
    place = folder() / "subject"
    place.write_bytes(pickle.dumps((look, resolved.plugin.kind, resolved.reference, tuple(files))))
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    until = patience + _START
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CODE, str(place)],
            env={**os.environ, **_as_many_threads(), **(_far() if far else {}), "PYTHONHASHSEED": seed},
            cwd=folder() if far else None,
            capture_output=True,
            text=True,
            timeout=until,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"it has not ended after {until:g} seconds") from None
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it says nothing"])[-1])
    there, here = json.loads(done.stdout.splitlines()[-1]), look(resolved)
    return [name for name in {**here, **there} if here.get(name) != there.get(name)]


def _as_many_threads() -> dict[str, str]:
    """Sums of another number of threads are rounded otherwise, which is nobody's fault."""
    torch = sys.modules.get("torch")
    return {"OMP_NUM_THREADS": str(torch.get_num_threads())} if torch else {}


def _far() -> dict[str, str]:
    """The environment of a machine on which it is another day; what can be imported and read here can be there."""
    now = datetime.now(UTC)
    zones = {"UTC-14": now + timedelta(hours=14), "UTC+12": now - timedelta(hours=12)}  # never of one day
    return {
        "HOME": str(folder()),
        "TZ": next(zone for zone, there in zones.items() if there.date() != datetime.now().astimezone().date()),
        "LC_ALL": "C.UTF-8" if os.environ.get("LC_ALL") == "C" else "C",
        "PYTHONPATH": os.pathsep.join(str(Path(place).resolve()) for place in sys.path),
        "URBANCROSS_DATA": str(data_folder()),
    }
