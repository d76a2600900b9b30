"""Where a grid stands, told from its journal's entries: for the screen while it runs, for `status` at any time."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeGuard

from filelock import FileLock, Timeout

from urbancross_bench.errors import UsageError

FOLDER = "journal"  # in an output folder
_GLANCE = 0.2  # seconds to wait for a lock that another reader may be looking at, too
_KNOWN = 0.02  # a stage that is so far tells how long it will take
_NONE_FAILED = b'\n "failed": {}'  # as `write_json` writes it at the top; one further in stands further right


@dataclass
class Running:
    """A stage that runs: since when, how far it is, what its last pass lost and what device memory it takes."""

    kind: str
    label: str
    since: float  # seconds since the session began
    fraction: float = 0.0
    loss: float | None = None
    cuda_bytes: float | None = None

    def left(self, now: float) -> float | None:
        """Seconds it will still take; None if nothing is known."""
        if self.fraction < _KNOWN:
            return None
        return (now - self.since) * (1 - self.fraction) / self.fraction


@dataclass
class Known:
    """A run: its name, its state (`to do`, `running`, `reused` or a record's status) and why it is not well."""

    key: str
    name: str
    state: str
    reason: str | None = None

    @property
    def well(self) -> bool:
        """Whether it ended as it should."""
        return self.state in ("ok", "reused")

    @property
    def amiss(self) -> bool:
        """Whether it ended otherwise, or was skipped."""
        return not self.well and self.state not in ("to do", "running")


@dataclass
class Standing:
    """Folds the entries of one session. Times are in seconds since the session began."""

    grid: str = ""
    runs: dict[str, Known] = field(default_factory=dict)
    running: dict[str, Running] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)  # stages
    failed: dict[str, str] = field(default_factory=dict)  # stage → error
    warnings: list[str] = field(default_factory=list)
    counts: Mapping[str, int] | None = None  # of the last entry
    _stages: dict[str, tuple[str, str, tuple[str, ...]]] = field(default_factory=dict)  # kind, label, inputs
    _durations: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))  # by kind
    _barred: set[str] = field(default_factory=set)  # stages that cannot come, for one that failed

    def take(self, entry: Mapping[str, Any], now: float) -> None:
        """One entry, told at `now`. Those of a later version, of an unknown kind, are passed over."""
        tell = getattr(self, f"_{entry['event']}", None)
        if tell is not None:
            tell(entry, now)

    def states(self) -> Counter[str]:
        """How many runs are in which state."""
        return Counter(run.state for run in self.runs.values())

    def stages(self) -> dict[str, int]:
        """How many stages are in which state."""
        return {
            "done": len(self.done),
            "failed": len(self.failed),
            "running": len(self.running),
            "left": self.stages_left(),
        }

    def stages_left(self) -> int:
        """Stages that are neither done, nor running, nor impossible since another failed."""
        return len(self._open())

    def rate(self, now: float) -> float:
        """Stages done a second."""
        return len(self.done) / now if now > 0 else 0.0

    def seconds_left(self, now: float) -> float | None:
        """An estimate, from how long each kind took, and how many ran at once. None: nothing to go by."""
        means = {kind: sum(taken) / len(taken) for kind, taken in self._durations.items()}
        work_done = sum(sum(taken) for taken in self._durations.values())
        work_left = 0.0
        for one in self.running.values():
            left = one.left(now)
            if left is not None:
                means.setdefault(one.kind, now - one.since + left)
        kinds = [self._stages[key][0] for key in self._open()]
        if any(kind not in means for kind in (*kinds, *(one.kind for one in self.running.values()))):
            return None
        for one in self.running.values():
            spent, left = now - one.since, one.left(now)
            work_done += spent
            work_left += max(means[one.kind] - spent, 0.0) if left is None else left
        work_left += sum(means[kind] for kind in kinds)
        return now * work_left / work_done if work_done > 0 else None

    def log(self, folder: Path, key: str) -> Path | None:
        """The file that took what a stage printed: its own, or that of a stage it followed in one process."""
        line = [key]
        for one in line:
            kind, _, inputs = self._stages[one]
            if (file := folder / f"{kind}-{one}.log").is_file():
                return file
            line += [each for each in inputs if each not in line]
        return None

    def _open(self) -> set[str]:
        return self._stages.keys() - self.done - self.running.keys() - self.failed.keys() - self._barred

    def _planned(self, entry: Mapping[str, Any], now: float) -> None:
        self.grid = entry["grid"]
        for run in entry["runs"]:  # those skipped have no key
            known = Known(run["key"], run["name"], run["state"], run["reason"] or None)
            self.runs[run["key"] or run["name"]] = known
        for stage in entry["stages"]:
            self._stages[stage["key"]] = (stage["kind"], stage["label"], tuple(stage["inputs"]))

    def _run_started(self, entry: Mapping[str, Any], now: float) -> None:
        self.runs[entry["run"]].state = "running"

    def _stage_started(self, entry: Mapping[str, Any], now: float) -> None:
        key = entry["stage"]
        self._stages.setdefault(key, (entry["kind"], entry["label"], ()))
        self.running[key] = Running(entry["kind"], entry["label"], now)
        self.done.discard(key)
        if self.failed.pop(key, None) is not None:  # it is tried again
            self._bar()

    def _stage_progress(self, entry: Mapping[str, Any], now: float) -> None:
        if (running := self.running.get(entry["stage"])) is not None:
            running.fraction = entry["fraction"]
            running.cuda_bytes = entry["values"].get("cuda_bytes", running.cuda_bytes)

    def _stage_values(self, entry: Mapping[str, Any], now: float) -> None:
        if (running := self.running.get(entry["stage"])) is not None:
            running.loss = entry["values"].get("loss", running.loss)

    def _stage_ended(self, entry: Mapping[str, Any], now: float) -> None:
        key, error = entry["stage"], entry["error"]
        running = self.running.pop(key, None)
        if error is not None:
            self.failed[key] = error
            self._bar()
            return
        self.done.add(key)
        if key in self._barred:  # it had its input from an earlier try
            self._bar()
        if running is not None:  # else another process was faster
            self._durations[running.kind].append(max(now - running.since, 0.0))

    def _run_ended(self, entry: Mapping[str, Any], now: float) -> None:
        run = self.runs[entry["run"]]
        run.state, run.reason = entry["status"], entry["error"]

    def _warn(self, entry: Mapping[str, Any], now: float) -> None:
        self.warnings.append(entry["message"])

    def _finished(self, entry: Mapping[str, Any], now: float) -> None:
        self.counts = entry["counts"]
        self.running.clear()

    def _bar(self) -> None:
        self._barred = set()
        for key, (_, _, inputs) in self._stages.items():  # a stage stands after its inputs
            if key not in self.done and any(one in self.failed or one in self._barred for one in inputs):
                self._barred.add(key)


@dataclass(frozen=True)
class Session:
    """One `run` command in an output folder. `state`: `alive`, `finished`, `interrupted`, or `killed`.

    `begun` and `seen`: when it began and was last heard of, in seconds since 1970. `elapsed`: seconds from its
    beginning to its end, or to now while it is alive.
    """

    file: Path
    state: str
    command: str
    folder: str
    host: str
    pid: int
    begun: float
    seen: float
    elapsed: float
    standing: Standing


def sessions(out: Path) -> list[Session]:
    """Those with something to tell now: all that are alive, or else the latest and those that ran beside it.

    Raises UsageError if the folder has no journal.
    """
    begun = {file: entry["time"] for file in (out / FOLDER).glob("*.jsonl") if (entry := _first(file))}
    if not begun:
        raise UsageError(
            f"{out} holds no journal of a grid; give the output folder of a `run`, such as runs/quickstart"
        )
    chosen = [file for file in begun if _is_held(file)]
    if not chosen:  # old journals may be long: of these no more is read than the first line
        # The file system's clock lags behind ours by some milliseconds: none ended before it began.
        spans = {file: (at := _seconds(time), max(at, file.stat().st_mtime)) for file, time in begun.items()}
        first, last = max(spans.values(), key=lambda span: span[1])
        chosen = [file for file, span in spans.items() if span[1] >= first and span[0] <= last]
    found = [read_session(file) for file in chosen]
    return sorted(found, key=lambda session: (session.begun, session.file.name))


def read_session(file: Path) -> Session:
    """What a journal tells of its session."""
    alive = _is_held(file)  # looked at first: a session that ends meanwhile says so in its entries
    head, *rest = read_entries(file)
    last, standing = (rest or [head])[-1], Standing()
    standing.take(head, head["elapsed"])
    for entry in rest:
        with contextlib.suppress(KeyError, TypeError, AttributeError):  # a damaged line costs no more than itself
            standing.take(entry, entry["elapsed"])
    begun, seen = _seconds(head["time"]), _seconds(last["time"])
    if standing.counts is not None:
        states = standing.states()
        state = "interrupted" if states["interrupted"] + states["to do"] + states["running"] else "finished"
    else:
        state = "alive" if alive else "killed"
    elapsed = last["elapsed"] + (max(time.time() - seen, 0.0) if state == "alive" else 0.0)
    origin = (head["command"], head["folder"], head["host"], head["pid"])
    return Session(file, state, *origin, begun, seen, elapsed, standing)


def read_entries(file: Path) -> Iterator[dict[str, Any]]:
    """The entries of a journal in order. What is no whole entry, as the last line after a kill, is passed over."""
    with file.open("rb") as lines:
        for line in lines:
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if _is_entry(entry):
                yield entry


def _is_entry(found: Any) -> TypeGuard[dict[str, Any]]:
    try:
        _seconds(found["time"])
        return isinstance(found["event"], str) and math.isfinite(found["elapsed"])
    except (KeyError, TypeError, ValueError, OverflowError):
        return False


def together(out: Path, shown: Sequence[Session]) -> dict[str, Known]:
    """The runs of several sessions of a folder, each as the last that is known of it, its record included."""
    runs: dict[str, Known] = {}
    alive = {name for session in shown if session.state == "alive" for name in session.standing.runs}
    for session in shown:
        for name, run in session.standing.runs.items():
            if session.state != "alive" and run.state == "running":
                reason = "its process was killed" if session.state == "killed" else "an error ended its grid"
                run = replace(run, state="interrupted", reason=reason)
            if name not in runs or not runs[name].well:
                runs[name] = run
    return {name: _recorded(out, run, waits=name in alive) for name, run in runs.items()}


def logs_of(out: Path, standing: Standing) -> dict[str, set[Path]]:
    """Error → the files that took what the stages printed that failed of it."""
    found: dict[str, set[Path]] = {}
    for key, error in standing.failed.items():
        if (log := standing.log(out / "store" / "logs", key)) is not None:
            found.setdefault(error, set()).add(log)
    return found


def _recorded(out: Path, run: Known, *, waits: bool) -> Known:
    """A run as its record has it, if another process left one. `waits`: a living session is to do it yet."""
    if not run.key or run.state not in ("to do", "interrupted"):
        return run
    place = out / "runs" / run.key
    status = _read(place / "run.json", "status")
    if status is None or (waits and status != "ok"):
        return run
    if status != "ok":
        return replace(run, state=status, reason=_read(place / "failure.json", "error") or run.reason)
    if failed := _failed_metrics(place):
        return run if waits else replace(run, state="failed", reason=failed)
    return replace(run, state="ok", reason=None)


def _failed_metrics(place: Path) -> str:
    """Those of a record that is well, with the reasons; empty without any."""
    scores = [file for file in sorted((place / "scores").glob("[!.]*/score.json")) if not _is_well(file)]
    if not (failed := [found for file in scores if (found := _read(file, "failed"))]):
        return ""
    from urbancross_bench.records import failed_metrics  # numpy and all: not for thousands that are well

    return "; ".join(failed_metrics({"failed": one} for one in failed))


def _is_well(score: Path) -> bool:
    """Whether a score says in its very bytes that no metric failed: parsing takes many times as long."""
    try:
        return _NONE_FAILED in score.read_bytes()
    except OSError:
        return False


def _read(file: Path, name: str) -> Any:
    """One value of a JSON file; None where there is none."""
    try:
        return json.loads(file.read_bytes())[name]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _first(file: Path) -> dict[str, Any] | None:
    """The entry that begins a session; None as long as it is not there."""
    entry = next(read_entries(file), None)
    return entry if entry and entry["event"] == "planned" else None


def _is_held(file: Path) -> bool:
    """Whether the process that writes a journal lives."""
    lock = file.with_suffix(".lock")
    if not lock.exists():
        return False
    try:
        with FileLock(lock, timeout=_GLANCE, poll_interval=_GLANCE / 10):
            return False
    except (Timeout, OSError):  # a folder of somebody else's lets no lock be tried: believe what stands there
        return True


def _seconds(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()
