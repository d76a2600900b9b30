"""Which run and which of its scores somebody means, of those that an output folder has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from urbancross_bench.errors import UsageError, did_you_mean, some
from urbancross_bench.execution.keeping import asked_for, kept_grids
from urbancross_bench.interfaces.renderer import printable
from urbancross_bench.records import Record, ScoreRecord, in_words, read_records

_SHOWN = 20
_HEADLINE = "mR"


def named(record: Record) -> str:
    """A run in words, printable."""
    return printable(in_words(record.spec))


def chosen_key(beginning: str, known: Iterable[str], missing: str) -> str:
    """The key that begins so. Raises UsageError if there are several, and one that says `missing` for none."""
    found = sorted(key for key in known if key.startswith(beginning))
    if not found:
        raise UsageError(missing)
    if len(found) > 1:
        raise UsageError(f"{len(found)} keys begin with {beginning}: {some(found, 5)}; write more of it")
    return found[0]


def chosen_run(out: Path, prefix: str | None) -> Record:
    """The run with scores whose key begins so; the only one, if nothing is said. Where grids are kept, of theirs.

    Raises UsageError with the runs there are, the best first.
    """
    records = read_records([out])
    runs = _with_scores(out, records)
    found = [record for record in runs if record.folder.name.startswith(prefix or "")]
    if len(found) == 1:
        return found[0]
    problem = f"{len(found)} runs in {out}" if prefix is None else f"{len(found)} keys of runs begin with {prefix}"
    if prefix and not found and any(record.folder.name.startswith(prefix) for record in records):
        problem = f"run {prefix} has no score, or is of no grid in {out} as it was run there last"
    lines = map(_line, _best_first(found or runs))
    raise UsageError(some([f"{problem}; name one by its key:", *lines], 1 + _SHOWN, "\n  "))


def choices(out: Path) -> list[str]:
    """A line for each run that `chosen_run` may choose, the best first. Raises UsageError if there is none."""
    if not (runs := _with_scores(out, read_records([out]))):
        raise UsageError(f"no run in {out} has a score; `status {out}` says what became of its runs")
    return [*map(_line, _best_first(runs))]


def chosen_score(record: Record, domain: str | None, selector: str | None) -> ScoreRecord:
    """A score of a run: on the target unless a domain is named; of the first selector by name unless one is.

    Raises UsageError naming those there are.
    """
    wanted = domain or record.spec["scenario"]["target"]
    on = [score for score in record.scores if score.content["domain"] == wanted]
    _expect(on, "domain", wanted, [score.content["domain"] for score in record.scores])
    by = [score for score in on if selector in (None, score.content["selector"])]
    _expect(by, "selector", selector or "", [score.content["selector"] for score in on])
    return min(by, key=lambda score: (score.content["selector"], score.content["protocol"], score.folder.name))


def _expect(found: Sequence[ScoreRecord], what: str, wanted: str, known: Sequence[str]) -> None:
    if not found:
        raise UsageError(f"the run has no score of {what} {wanted!r}.{did_you_mean(wanted, set(known))}")


def _with_scores(out: Path, records: Sequence[Record]) -> list[Record]:
    """Those that ended well and have scores; where grids are kept, of theirs."""
    grids = kept_grids(out)
    return [record for record in (asked_for(grids, records) if grids else records) if record.ok and record.scores]


def _best_first(records: Sequence[Record]) -> list[tuple[float | None, Record]]:
    """With their headlines."""
    listed = [(_headline(record), record) for record in records]
    return sorted(listed, key=lambda one: (one[0] is None, -(one[0] or 0.0), one[1].folder.name))


def _line(listed: tuple[float | None, Record]) -> str:
    value, record = listed
    return f"{record.folder.name[:12]}  {_HEADLINE} {_shown(value)}  {named(record)}"


def _headline(record: Record) -> float | None:
    """Of the score that is chosen where nobody names one; None where there is none, or it has no such metric."""
    try:
        metrics = chosen_score(record, None, None).content["metrics"]
    except UsageError:
        return None
    return float(metrics[_HEADLINE]["value"]) if _HEADLINE in metrics else None


def _shown(value: float | None) -> str:
    return "    –" if value is None else f"{value:5.1f}"
