"""The same in another process, where sets and hashes of text have another order: what stored results rest on."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

from urbancross_bench.registry import Resolved
from urbancross_bench.testing.watching import folder

Look = Callable[[Resolved], Mapping[str, str]]

_CODE = """
import json, pickle, sys
from urbancross_bench.registry import Registry
with open(sys.argv[1], "rb") as file:
    look, kind, reference, files = pickle.load(file)
print("\\n" + json.dumps(look(Registry.discover(files).resolve(kind, reference))))
"""


def others_elsewhere(look: Look, resolved: Resolved, files: Sequence[str], patience: float) -> list[str]:
    """What of a look at a plugin, keys by name, is another in a process of another hash seed.

    look: a function of a module, which is called here and there. files: one-file plugins to load first. Raises
    RuntimeError, in the words of what is raised there, where it fails.
    """
    place = folder() / "subject"
    place.write_bytes(pickle.dumps((look, resolved.plugin.kind, resolved.reference, tuple(files))))
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    done = subprocess.run(
        [sys.executable, "-c", _CODE, str(place)],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        timeout=patience + 60,
        check=False,
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it says nothing"])[-1])
    there = json.loads(done.stdout.splitlines()[-1])
    return [name for name, key in look(resolved).items() if there[name] != key]
