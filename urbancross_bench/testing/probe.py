"""Registering a plugin in a process of its own: the only place where one can see what that alone imports."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from urbancross_bench.processes import said_exit

HEAVY = ("torch", "torchvision", "pandas", "transformers", "open_clip", "datasets", "tensorflow", "jax", "sklearn")

# Everything the process prints goes to standard output; what is found, to the file named.
_CODE = """
import json, os, sys
place, files = sys.argv[1], sys.argv[2:]
from urbancross_bench.registry import Registry
from urbancross_bench.testing.watching import observe
print("BEGIN", flush=True)
def register():
    registry = Registry.discover(files)
    for plugin in registry.plugins:
        plugin.options_type
    return [[provider.name, provider.error] for provider in registry.providers]
seen = observe(register, float(os.environ.pop("URBANCROSS_TESTING_SECONDS")))
with open(place, "w") as file:
    json.dump({
        "providers": seen.result or [], "error": repr(seen.error) if seen.error else None, "changed": seen.changed,
        "printed": seen.printed, "modules": sorted(sys.modules),
    }, file)
"""


@dataclass(frozen=True)
class Registered:
    """What registering all that is installed, and some files, did. `error`: why it did not come to an end."""

    error: str | None
    changed: tuple[str, ...] = ()
    printed: str = ""
    heavy: tuple[str, ...] = ()


@functools.cache
def registered_alone(names: str | None, files: Sequence[str], seconds: float) -> Registered:
    """Register the entry points in `names` (comma-separated; None: all that are installed) and one-file plugins.

    Reads their options models too. Done once in a process for the same arguments.
    """
    environment = {**os.environ, "URBANCROSS_TESTING_SECONDS": str(seconds)}
    if names is not None:
        environment["URBANCROSS_LOAD_PLUGINS"] = names
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "seen.json"
        command = [sys.executable, "-c", _CODE, str(place), *files]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=seconds + 60, check=False
            )
        except subprocess.TimeoutExpired:
            return Registered(f"it did not return within {seconds:g} seconds")
        if not place.is_file():
            last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            return Registered(f"its process ended ({said_exit(done.returncode)}): {last}")
        seen = json.loads(place.read_text(encoding="utf-8"))
    failed = seen["error"] or next((f"{name}: {error}" for name, error in seen["providers"] if error), None)
    heavy = tuple(name for name in HEAVY if name in seen["modules"])
    return Registered(failed, tuple(seen["changed"]), seen["printed"], heavy)
