"""`status OUT`: where a grid stands, from a second terminal or after the fact."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from urbancross_bench.cli.amounts import duration, moment
from urbancross_bench.cli.json_output import JsonOption, print_json

if TYPE_CHECKING:
    from urbancross_bench.execution.following import Known, Session

_BEGUN = "%Y-%m-%d %H:%M:%S UTC"


def status(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The output folder of a grid, such as runs/quickstart.")
    ],
    json_: JsonOption = False,
) -> None:
    """Show how far the grids of an output folder are, why runs are not well, and how to run them again."""
    from urbancross_bench.execution.following import sessions, together

    found = sessions(out)
    runs = together(out, found)
    if json_:
        print_json(_as_json(out, found, runs))
    else:
        print("\n".join(_as_lines(out, found, runs)))


def _as_lines(out: Path, found: list[Session], runs: dict[str, Known]) -> list[str]:
    from urbancross_bench.cli.wording import counts_of, details_of, rate_of, reasons_of, stages_of, time_of

    lines = []
    for session in found:
        standing, now = session.standing, session.elapsed
        begun = moment(session.begun, _BEGUN)
        lines.append(f"{standing.grid}, from {begun} on {session.host}, process {session.pid}")
        took = time_of(standing, now) if session.state == "alive" else f"after {duration(now)}"
        lines.append(f"  {session.state}, {took}")
        lines.append(f"  stages: {', '.join(filter(None, [stages_of(standing), rate_of(standing, now)]))}")
        for one in standing.running.values():
            details = ", ".join(filter(None, details_of(one, now if session.state == "alive" else None)))
            lines.append(f"  {'' if session.state == 'alive' else 'was at '}{one.kind} of {one.label}: {details}")
        lines += [f"  warning: {warning}" for warning in standing.warnings]
    lines.append(f"runs: {counts_of(_states(runs)) or 'none'}")
    lines += reasons_of(runs.values(), _logs(out, found))
    if again := _again(found, runs):
        lines += ["to go on:", *(f"  {command}" for command in again)]
    return lines


def _as_json(out: Path, found: list[Session], runs: dict[str, Known]) -> dict[str, Any]:
    logs = _logs(out, found)
    return {
        "sessions": [_session_as_json(session) for session in found],
        "runs": _states(runs),
        "not_ok": [
            {
                "key": run.key or None,
                "run": run.name,
                "status": run.state,
                "reason": run.reason,
                "logs": sorted(map(str, logs.get(run.reason or "", ()))),
            }
            for run in runs.values()
            if run.amiss
        ],
        "to_go_on": _again(found, runs),
    }


def _session_as_json(session: Session) -> dict[str, Any]:
    standing, now = session.standing, session.elapsed
    return {
        "journal": str(session.file),
        "state": session.state,
        "grid": standing.grid,
        "begun": moment(session.begun, _BEGUN),
        "host": session.host,
        "pid": session.pid,
        "command": session.command,
        "folder": session.folder,
        "seconds": round(now, 3),
        "seconds_left": standing.seconds_left(now) if session.state == "alive" else None,
        "stages": standing.stages(),
        "stages_per_second": standing.rate(now),
        "running": [
            {
                "key": key,
                "kind": one.kind,
                "label": one.label,
                "fraction": one.fraction,
                "loss": one.loss,
                "cuda_bytes": one.cuda_bytes,
                "seconds_left": one.left(now) if session.state == "alive" else None,
            }
            for key, one in standing.running.items()
        ],
        "warnings": standing.warnings,
    }


def _states(runs: dict[str, Known]) -> dict[str, int]:
    from urbancross_bench.cli.wording import STATES

    counts = {state: sum(run.state == state for run in runs.values()) for state in STATES}
    return {state: count for state, count in counts.items() if count}


def _logs(out: Path, found: list[Session]) -> dict[str, set[Path]]:
    from urbancross_bench.execution.following import logs_of

    merged: dict[str, set[Path]] = {}
    for session in found:
        for error, files in logs_of(out, session.standing).items():
            merged.setdefault(error, set()).update(files)
    return merged


def _again(found: list[Session], runs: dict[str, Known]) -> list[str]:
    """The commands that carry on; none where all is well, or somebody is at it."""
    if all(run.well or run.state == "skipped" for run in runs.values()):
        return []
    ended = [session for session in found if session.state != "alive"]
    return list(dict.fromkeys(f"cd {shlex.quote(session.folder)} && {session.command}" for session in ended))
