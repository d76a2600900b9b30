"""A process beside the grid's that holds one tracker, or one plugin's hooks, and calls them as it is told."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from urbancross_bench import hookspecs
from urbancross_bench.errors import PluginError, UrbanCrossError, plural
from urbancross_bench.interfaces.options import Options
from urbancross_bench.interfaces.registration import PROJECT
from urbancross_bench.interfaces.tracker import Tracker
from urbancross_bench.kinds import behind, misfit
from urbancross_bench.processes import redirect_output
from urbancross_bench.registry import load_file

if TYPE_CHECKING:
    from urbancross_bench.records import Record

END = b""  # the last message of the grid's process

Call = Callable[[str, dict[str, Any]], None]


@dataclass(frozen=True)
class Hosted:
    """What the process holds. `files`: one-file plugins to load first, in order.

    target: of a tracker its class, `module:Class`; else what an entry point names, or a file of `files`.
    options: of a tracker, as they were written, for the class that `options_type` names.
    log: the file that takes what it prints. out: the output folder.
    patience: seconds that a hook may still take when the grid's process is gone.
    """

    name: str
    files: tuple[str, ...]
    target: str
    options_type: str | None
    options: Mapping[str, Any] | None
    log: str
    out: str
    patience: float


def host(hosted: Hosted, connection: Connection) -> None:
    """The life of the process. Messages in are JSON, `{"hook": …, "arguments": …}`; out: words."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the grid's to answer, which tells of its end
    threading.Thread(target=_leave_with_parent, args=(hosted.patience,), daemon=True).start()
    _print_to(hosted.log)
    problems: Counter[str] = Counter()

    def say(text: str) -> None:
        connection.send_bytes(text[:500].encode(errors="replace"))

    def problem(what: str, error: BaseException) -> None:
        traceback.print_exc()
        named = f"{what}: {type(error).__name__}"
        problems[named] += 1
        if problems[named] == 1:  # the next ones may name other files, and be the same all the same
            say(f"{named}: {error}")

    with contextlib.suppress(EOFError, OSError):  # the grid's process is gone
        try:
            call, hears = _caller(hosted)
        except (Exception, SystemExit) as error:
            problem("cannot be loaded", error)
            return
        while (message := connection.recv_bytes()) != END:
            content = json.loads(message)
            hook = content["hook"]
            if not hears(hook):
                continue
            for read in _calls(Path(hosted.out), hook, content["arguments"]):
                try:
                    call(hook, read())
                except (Exception, SystemExit) as error:
                    problem(f"failed in {hook}", error)
                    if hook == "on_grid_started":
                        return
        if more := problems.total() - len(problems):
            say(f"failed {more} more {plural(more, 'time')} in the same ways; see {hosted.log}")


def _caller(hosted: Hosted) -> tuple[Call, Callable[[str], bool]]:
    """Something that calls a hook of what is hosted, and says whether it does anything there.

    Raises whatever its import raises.
    """
    loaded = {file: load_file(Path(file)) for file in hosted.files}
    if hosted.options is not None:
        options_type = behind(hosted.options_type) if hosted.options_type else Options
        if why := misfit("tracker", kind := behind(hosted.target), options_type):
            raise PluginError(why)
        tracker = kind(options_type.model_validate(dict(hosted.options)))

        def hears(hook: str) -> bool:
            method = getattr(tracker, hook, None)
            return method is not None and getattr(method, "__func__", method) is not getattr(Tracker, hook)

        return lambda hook, arguments: getattr(tracker, hook)(**arguments), hears
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    plugin = loaded.get(hosted.target)
    manager.register(plugin or importlib.metadata.EntryPoint(hosted.name, hosted.target, PROJECT).load())
    return (
        lambda hook, arguments: getattr(manager.hook, hook)(**arguments),
        lambda hook: bool(getattr(manager.hook, hook).get_hookimpls()),
    )


def _calls(out: Path, hook: str, told: dict[str, Any]) -> Iterator[Callable[[], dict[str, Any]]]:
    """For each call of a hook that a message asks for, what reads its arguments: what records say of a run."""
    if hook == "on_run_finished":
        yield lambda: {**told, "scores": _scores(_record(out, told["run"]))}
    elif hook == "on_run_reused":
        yield from (partial(_reused, out, run, told["stages"]) for run in told["runs"])
    else:
        yield lambda: told


def _reused(out: Path, run: Mapping[str, Any], stages: Mapping[str, str]) -> dict[str, Any]:
    record = _record(out, run)
    return {"run": run, "trainings": _trainings(record, run, stages), "scores": _scores(record)}


def _record(out: Path, run: Mapping[str, Any]) -> Record | None:
    """The record of a run, with the run's names; None where it cannot be read."""
    from urbancross_bench.records import called_as, read_record  # numpy and all, as late as may be

    try:
        record = read_record(out / "runs" / run["key"])
    except UrbanCrossError:
        return None
    return called_as(record, run) if record else None


def _trainings(record: Record | None, run: Mapping[str, Any], stages: Mapping[str, str]) -> list[dict[str, Any]]:
    """What the record has of those of a run's trainings whose stages are named."""
    from urbancross_bench.records import trainings_of

    try:
        curves = record.beside("curve.json") if record else {}
    except UrbanCrossError:
        curves = {}
    return [
        {"stage": stages[key], "key": key, "passes": curves[name]}
        for name, key in trainings_of(run).items()
        if key in stages and curves.get(name)
    ]


def _scores(record: Record | None) -> dict[str, dict[str, float]]:
    """The values of every score of a record."""
    found: dict[str, dict[str, float]] = {}
    for score in record.scores if record else ():
        content = score.content
        metrics = {name: metric["value"] for name, metric in content["metrics"].items()}
        known = {name: value for name, value in metrics.items() if value is not None}
        found[f"{content['selector']}/{content['protocol']}/{content['domain']}"] = known
    return found


def _print_to(log: str) -> None:
    """What the process prints goes to its log; where that cannot be, nowhere."""
    try:
        file = Path(log).open("ab", buffering=0)  # noqa: SIM115 - for as long as the process lives
    except OSError:
        file = Path(os.devnull).open("ab", buffering=0)  # noqa: SIM115
    redirect_output(file)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, errors="replace")


def _leave_with_parent(patience: float) -> None:
    """A hook that hangs must not outlive the grid's process, however that ended."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        threading.Event().wait(patience)
        os._exit(1)
