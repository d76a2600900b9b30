"""A bundle against the records of a rerun: the same, within the stated drift, or different, and where.

Runs and scores are paired by their keys, else by what they are called: another machine may have another version of
the code, which is part of every key. Versions and hardware make no difference by themselves; what they explain is
told beside the verdicts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.errors import cut
from urbancross_bench.execution.bundle import Bundle
from urbancross_bench.execution.choosing import named
from urbancross_bench.execution.explaining import ABSENT, compared, rooms_that_differ
from urbancross_bench.records import IMAGE_SUMS, Record, ScoreRecord, called_as

Verdict = Literal["same", "within drift", "different", "missing"]
VERDICTS: tuple[Verdict, ...] = ("same", "within drift", "different", "missing")
Arrays = Mapping[str, NDArray[Any]]
T = TypeVar("T")

_HEADLINE = "mR"
_DIGITS = 1e-9  # relative: what the order of a sum may move
_WAYS = ("i2t", "t2i")
_COUNTS = ("greater", "tied", "tied_positives")  # of each query: all that its rank is made of
_MEASURED = ("measured_by", "selected_by", "setting", "precision", "segments", "calibration", "floors")
_NOT_SAID = ("schema", "key", "grid", "stages", "status")  # of a run: names, or told by its scores
_VERSIONS = ("code", "version", "reader")
_MACHINE = ("python", "torch", "cuda", "cudnn", "device", "cpu", "system")


@dataclass(frozen=True)
class Checked:
    """A score of the bundle (or a run that left none, then `score` is empty) held against the rerun's.

    `moved`: the rerun's mR less the bundle's, None where there are not two. `where`: what differs, in words.
    """

    run: str
    score: str
    key: str
    verdict: Verdict
    moved: float | None = None
    where: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verification:
    """All scores of a bundle; how versions and machines differ, and of how many runs or scores that is true; how
    many runs of the rerun are not in the bundle.
    """

    checked: tuple[Checked, ...]
    environment: Mapping[str, int]
    surplus: int

    @property
    def repeated(self) -> bool:
        """Whether every score is the same or within drift."""
        return all(one.verdict in ("same", "within drift") for one in self.checked)


def verify(bundle: Bundle, rerun: Sequence[Record], drift: float) -> Verification:
    """Compare every run of a bundle with that of a rerun. drift: points of mR. Raises DataError."""
    checked: list[Checked] = []
    environment: Counter[str] = Counter()
    left = {record.folder.name: record for record in rerun}
    own = {record.folder.name for record in bundle.records}
    for record in bundle.records:
        free = [one for one in left.values() if one.folder.name not in own]
        other = left.pop(record.folder.name, None) or _partner(record, free, named, _spec)
        if other is None:
            checked += _missing(record, ("the rerun has no such run",))
            continue
        left.pop(other.folder.name, None)
        if other.folder.name == record.folder.name:  # names are no part of a run
            other = called_as(other, record.spec)
        differences = [*compared(_spec(record), _spec(other))]
        environment.update({_said(*one) for one in differences if _is_version(one[0])})
        if record.ok and other.ok:  # others do not say where they were computed
            environment.update(_machines(record, other))
        elsewhere = [f"{_place(one[0])}: {_said(*one)}" for one in differences if not _is_version(one[0])]
        checked += _scores(record, other, elsewhere, drift, environment)
    checked.sort(key=lambda one: (one.run, one.score, one.key))
    return Verification(tuple(checked), dict(sorted(environment.items())), len(left))


def _scores(
    record: Record, other: Record, elsewhere: Sequence[str], drift: float, environment: Counter[str]
) -> Iterator[Checked]:
    """The verdicts on one run's scores; adds to `environment` what they were measured by."""
    if not record.ok or not other.ok:
        one, two = record.spec["status"], other.spec["status"]
        # That a run was interrupted, or had too little time or memory, says nothing of it.
        verdict: Verdict = "different" if one != two or elsewhere else "same" if one == "failed" else "missing"
        status = f"status: {one} → {two}"
        for name in [_called(score) for score in record.scores] or [""]:
            yield Checked(named(record), name, record.folder.name, verdict, None, (status, *elsewhere))
        return
    left = list(other.scores)
    for score in record.scores:
        keyed = [one for one in left if one.folder.name == score.folder.name]
        found = keyed[0] if keyed else _partner(score, left, _called, lambda one: one.content["measured_by"])
        if found is None:
            yield Checked(named(record), _called(score), score.folder.name, "missing", None, ("no such score",))
            continue
        left.remove(found)
        differences = [*_differences(score.content, found.content)]
        environment.update({_said(*one) for one in differences if _is_version(one[0])})
        here = [f"{_place(one[0])}: {_said(*one)}" for one in differences if not _is_version(one[0])]
        verdict, moved, where = _held(score, found, here, drift)
        if elsewhere:
            verdict = "different"
        yield Checked(named(record), _called(score), score.folder.name, verdict, moved, (*elsewhere, *where))


def _differences(one: Mapping[str, Any], two: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """In what two scores differ, their numbers aside: path and both values."""
    for name in _MEASURED:
        if name == "floors" and one["test"] != two["test"]:
            continue  # of other images
        for path, a, b in compared(one.get(name), two.get(name), name):
            if not _are_close(a, b):
                yield path, a, b


def _are_close(one: Any, two: Any) -> bool:
    both = isinstance(one, int | float) and isinstance(two, int | float)
    return both and math.isclose(one, two, rel_tol=_DIGITS, abs_tol=_DIGITS)


def _equal_sums(metric: Mapping[str, Any], name: str, arrays: tuple[Arrays, Arrays]) -> bool:
    """Whether two scores have the same sums per image of a metric, or of its parts."""
    sums = [tuple(of.get(IMAGE_SUMS + part) for of in arrays) for part in metric["parts"] or [name]]
    return all(one is not None and two is not None and np.array_equal(one, two) for one, two in sums)


def _held(
    score: ScoreRecord, other: ScoreRecord, differences: Sequence[str], drift: float
) -> tuple[Verdict, float | None, list[str]]:
    """Two scores of one name: the verdict, what mR moved by, and what differs, these differences among it."""
    where = [*differences]
    one, two = score.content, other.content
    if one["test"] != two["test"]:
        where.append(f"data: test split of {one['domain']}: {one['test']} → {two['test']}")
    arrays = score.arrays(), other.arrays()
    where += _sizes(*arrays)
    ranks = [] if where else _ranks(*arrays)
    values = [{name: metric["value"] for name, metric in content["metrics"].items()} for content in (one, two)]
    gone = sorted(values[0].keys() - values[1].keys())
    moves = {name: values[1][name] - values[0][name] for name in sorted(values[0].keys() & values[1].keys())}
    # What is no finite number has moved: records hold none.
    moved = [n for n, move in moves.items() if not abs(move) <= _DIGITS * max(1.0, abs(values[0][n])) < math.inf]
    # What follows from equal sums per image is the same on every machine, and chance from the gallery.
    where += [
        f"metric {name}: {part} {a} → {b}"
        for name in moves
        for part in (("low", "high", "chance") if _equal_sums(one["metrics"][name], name, arrays) else ("chance",))
        for a, b in [(one["metrics"][name][part], two["metrics"][name][part])]
        if a != b and not _are_close(a, b)
    ]
    if not where and not ranks and not gone and not moved:
        return "same", moves.get(_HEADLINE), []
    judged = [_HEADLINE] if _HEADLINE in moves else list(moves)
    within = not where and not gone and all(math.fabs(moves[name]) <= drift for name in judged)
    if (one["step"], one["candidate"]) != (two["step"], two["candidate"]):
        where.append(f"chosen: step {one['step']} {one['candidate']} → step {two['step']} {two['candidate']}")
    where += [f"metric {name}: absent" for name in gone]
    most = max(moved, key=lambda name: abs(moves[name]), default=None)
    for name in dict.fromkeys([*(name for name in judged if name in moved), *([most] if most else [])]):
        where.append(f"metric {name}: {values[0][name]:.4g} → {values[1][name]:.4g} ({moves[name]:+.3g})")
    return "within drift" if within else "different", moves.get(_HEADLINE), [*where, *ranks]


def _sizes(one: Arrays, two: Arrays) -> list[str]:
    """Where the numbers of queries differ."""
    sizes = {way: (len(one[f"{way}.greater"]), len(two[f"{way}.greater"])) for way in _WAYS}
    return [f"ranks {way}: {a} queries → {b}" for way, (a, b) in sizes.items() if a != b]


def _ranks(one: Arrays, two: Arrays) -> list[str]:
    """How many queries rank otherwise, each way."""
    said = []
    for way in _WAYS:
        moved = np.any([one[f"{way}.{name}"] != two[f"{way}.{name}"] for name in _COUNTS], axis=0)
        if moved.any():
            said.append(f"ranks {way}: {int(moved.sum())} of {len(moved)} queries")
    return said


def _partner(one: T, others: Sequence[T], name: Callable[[T], str], facts: Callable[[T], Any]) -> T | None:
    """Of those with the same name the one whose facts differ least."""
    same = [other for other in others if name(other) == name(one)]
    return min(same, key=lambda other: len([*compared(facts(one), facts(other))]), default=None)


def _spec(record: Record) -> dict[str, Any]:
    said = {name: value for name, value in record.spec.items() if name not in _NOT_SAID}
    # Who may use the data is no difference of content, and older records do not say it.
    free = {name: {k: v for k, v in facts.items() if k != "licence"} for name, facts in said["domains"].items()}
    return said | {"domains": free}


def _is_version(path: str) -> bool:
    """Whether a path leads to what the code is, and to no option that is called so."""
    *within, last = path.split(".")
    return last in _VERSIONS and "options" not in within and within[:1] != ["search"]


def _place(path: str) -> str:
    return "data" if path.partition(".")[0] in ("domains", "segments") else "grid"


def _said(path: str, one: Any, other: Any) -> str:
    if path.rpartition(".")[2] == "code":
        one, other = rooms_that_differ(one, other)
    return f"{path} {_short(one)} → {_short(other)}"


def _short(value: Any) -> str:
    return "absent" if value is ABSENT else cut(str(value), 60)


def _machines(one: Record, other: Record) -> set[str]:
    """How the versions and machines of two runs differ."""
    return {_said(*difference) for difference in compared(_machine(one), _machine(other))}


def _machine(record: Record) -> dict[str, Any]:
    found = record.provenance().get("adapt", {})
    said = {name: found.get(name) for name in _MACHINE}
    return said | {kind: found.get(kind) or {} for kind in ("versions", "plugins")}


def _missing(record: Record, where: tuple[str, ...]) -> list[Checked]:
    names = [(_called(score), score.folder.name) for score in record.scores] or [("", record.folder.name)]
    return [Checked(named(record), name, key, "missing", None, where) for name, key in names]


def _called(score: ScoreRecord) -> str:
    """`last, classic, ties expected, on dark`."""
    said = score.content
    return f"{said['selector']}, {said['protocol']}, ties {said['ties']}, on {said['domain']}"
