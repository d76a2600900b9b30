"""Which installed plugins are left out on this machine: said by the environment, or noted by `plugins disable`."""

from __future__ import annotations

import importlib.metadata
import json
import os
from collections.abc import Collection, Iterable
from pathlib import Path

from urbancross_bench.errors import UsageError, did_you_mean
from urbancross_bench.files import named_folder, replacing, write_json
from urbancross_bench.interfaces.registration import PROJECT

VARIABLE = "URBANCROSS_DISABLE_PLUGINS"  # entry points or distributions, comma-separated


def disabled() -> dict[str, str]:
    """Entry points and distributions that are left out, each with what says so. Raises UsageError."""
    said = [name.strip() for name in os.environ.get(VARIABLE, "").split(",")]
    found = dict.fromkeys(noted(), "`plugins disable`")
    return found | {name: f"--disable-plugin or {VARIABLE}" for name in said if name}


def disable_here(names: Collection[str]) -> None:
    """Leave plugins out in this process and in those that it starts. Raises UsageError for what is not there."""
    check_installed(names)
    said = [name for name in os.environ.get(VARIABLE, "").split(",") if name]
    os.environ[VARIABLE] = ",".join(dict.fromkeys([*said, *names]))


def check_installed(names: Iterable[str]) -> None:
    """Raise UsageError for what is neither an entry point nor a distribution with one."""
    points = importlib.metadata.entry_points(group=PROJECT)
    known = {name for point in points for name in (point.name, point.dist and point.dist.name) if name}
    for name in names:
        if name not in known:
            raise UsageError(f"there is no entry point or distribution {name!r}.{did_you_mean(name, known)}")


def noted() -> list[str]:
    """What `plugins disable` noted. Raises UsageError where the note cannot be read."""
    file = _file()
    try:
        names = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read: {error}; remove it, and disable plugins anew") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UsageError(f"{file} holds no list of names; remove it, and disable plugins anew")
    return names


def note(names: Iterable[str]) -> Path:
    """Write down what is to be left out, in place of what was; the file."""
    file = _file()
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as fresh:
        write_json(fresh, sorted(set(names)))
    return file


def _file() -> Path:
    import platformdirs

    return (
        named_folder("URBANCROSS_HOME", platformdirs.user_config_dir("urbancross-bench", False))
        / "disabled-plugins.json"
    )
