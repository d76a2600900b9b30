"""Which rows of two methods, or of two sets of records, stand against each other, and why others do not."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from urbancross_bench.errors import UsageError, did_you_mean, some
from urbancross_bench.interfaces.scenarios import typed_route
from urbancross_bench.leaderboard.committed import read_unbroken
from urbancross_bench.leaderboard.rows import Row, make_rows
from urbancross_bench.names import domains_of
from urbancross_bench.records import Record

# A comparison is no board: whoever names an encoder without training may look at it.
_WEIGHTS = ("pretrained", "trained here", "untrained")
# What a run is of, or what an equal run may have otherwise; all else of its spec is told of where it differs.
_OF_THE_RUN = ("schema", "status", "key", "grid", "scenario", "seed", "domains", "stages", "shown")
_OF_THE_METHOD = ("adaptation", "search")
_OF_THE_SCORE = ("selected_by", "precision", "measured_by", "calibration")
_NAMED, _LONGEST = 6, 40  # differences named, and characters of a value

Place = tuple[str, ...]


@dataclass(frozen=True)
class Wanted:
    """Which scores to compare, and by which metric; None and an empty tuple stand for all."""

    metric: str = "mR"
    protocol: str | None = None
    selector: str | None = None
    scenarios: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Sides:
    """The rows of A and of B, and by what a row of the one finds that of the other."""

    a: Sequence[Row]
    b: Sequence[Row]
    place: Callable[[Row], Place]
    by_method: bool


def sides_of(a: str, b: str, places: Sequence[Path], wanted: Wanted) -> Sides:
    """Two folders are two sets of records; anything else are two methods of the records in some places, by default
    the output folders below `runs`. Raises UsageError, DataError.
    """
    if Path(a).is_dir() and Path(b).is_dir():
        if places:
            raise UsageError(f"{a} and {b} are folders, so all of their records are compared; give no more places")
        return sides_of_sets(read_unbroken([Path(a)]), read_unbroken([Path(b)]), wanted)
    found = places or sorted(place for place in Path("runs").glob("*") if any(place.glob("runs/*/run.json")))
    if not found:
        raise UsageError("there is no output folder with records below runs; name some after A and B")
    return sides_of_methods(read_unbroken(found), a, b, wanted)


def sides_of_methods(records: Sequence[Record], a: str, b: str, wanted: Wanted) -> Sides:
    """Two methods of the same records. A method is an adaptation's label, `encoder/adaptation`, or, where nothing
    is labelled so, the name of an adaptation's plugin. Raises UsageError, naming what there is, if none is found.
    """
    every = _rows(records)
    rows = _filtered(every, wanted)
    found = [_of_method(name, every, rows, records) for name in (a, b)]
    same_encoder = not (found[0][1] and found[1][1])

    def place(row: Row) -> Place:
        return (row.scenario, row.method[2], *((row.method[0],) if same_encoder else ()))

    return Sides(found[0][0], found[1][0], place, by_method=True)


def sides_of_sets(a: Sequence[Record], b: Sequence[Record], wanted: Wanted) -> Sides:
    """Two sets of records: rows of the same scenario, encoder, adaptation and selector, as grids call them."""
    mine, theirs = (_filtered(_rows(records), wanted) for records in (a, b))
    return Sides(mine, theirs, lambda row: (row.scenario, row.method[2], *row.method[:2]), by_method=False)


def paired(sides: Sides) -> tuple[list[tuple[Row, Row]], list[str]]:
    """The pairs that were measured alike, over the seeds that both rows have; and what was not paired, and why.

    Of several candidates, those of the same recipe, and of the same share of the target, are paired. Raises
    UsageError, saying what differs, where no pair remains, or where A and B are the same scores.
    """
    places: dict[Place, tuple[list[Row], list[Row]]] = defaultdict(lambda: ([], []))
    for side, rows in enumerate((sides.a, sides.b)):
        for row in rows:
            places[sides.place(row)][side].append(row)
    pairs: list[tuple[Row, Row]] = []
    refused: list[str] = []
    for place, (mine, theirs) in places.items():
        where = " · ".join(place)
        if not mine or not theirs:
            refused.append(f"{where}: only {'A' if mine else 'B'} has scores there")
            continue
        alike = [(x, y) for x in mine for y in theirs if not unlike(x, y)]
        pairs += _nearest(alike)
        lone = [row for row in (*mine, *theirs) if not any(row in pair for pair in alike)]
        near = [min((unlike(x, y) for x in mine for y in theirs if row in (x, y)), key=len) for row in lone]
        refused += dict.fromkeys(f"{where}: not measured alike: {'; '.join(found)}" for found in near)
    if pairs and all(_scores(x) == _scores(y) for x, y in pairs):
        raise UsageError("A and B are the same scores; there is nothing to compare")
    if not pairs:
        reasons = some(refused or ["neither has scores"], 10, "\n  ")
        raise UsageError(f"nothing of A was measured like anything of B:\n  {reasons}")
    return [_on_common_seeds(x, y) for x, y in pairs], refused


def unlike(a: Row, b: Row) -> list[str]:
    """What keeps two rows from being compared: other queries or answers, or no seed in common.

    The key of the items also names the code that told them, which may change and tell the same; there, the queries
    themselves are compared (`comparing`).
    """
    mine, theirs = a.score, b.score
    found = [
        f"{word} ({mine[name]} against {theirs[name]})"
        for name, word in (("protocol", "protocol"), ("ties", "tie rule"))
        if mine[name] != theirs[name]
    ]
    if mine["test"] != theirs["test"]:
        sizes = [f"{score['images']} images, {score['texts']} captions" for score in (mine, theirs)]
        found.append(f"test split ({sizes[0]} against {sizes[1]})")
    elif mine["draws"] != theirs["draws"]:
        found.append("draws of test images for intervals")
    elif mine["items"] != theirs["items"] and mine["measured_by"]["code"] == theirs["measured_by"]["code"]:
        found.append("what counts as the same text, image or class in the test split")
    if not set(a.numbers) & set(b.numbers):
        found.append(f"seeds ({_listed(a.numbers)} against {_listed(b.numbers)})")
    return found


def other_differences(a: Row, b: Row, *, by_method: bool) -> str:
    """What differs besides what is compared, as `path: a → b, …`; empty where nothing does.

    A reader who compares methods expects those to differ; who compares two sets of records, nothing.
    """
    hidden = {*_OF_THE_RUN, *(_OF_THE_METHOD if by_method else ())}
    if by_method and a.method[0] != b.method[0]:
        hidden |= {"encoder"}
    if a.run["shown"]["setting"] != b.run["shown"]["setting"]:  # one of them is shown no pairs
        hidden |= {"share_seed"}
    mine, theirs = (dict(_flat(_facts(row, hidden))) for row in (a, b))
    paths = [path for path in {**mine, **theirs} if mine.get(path) != theirs.get(path)]
    said = [_change(path, mine.get(path), theirs.get(path)) for path in paths]
    return some(said, _NAMED)


def _rows(records: Sequence[Record]) -> list[Row]:
    return [row for row in make_rows(records, _WEIGHTS) if not row.of_source]


def _filtered(rows: Sequence[Row], wanted: Wanted) -> list[Row]:
    """The rows wanted. Raises UsageError naming what was asked for and no row has."""
    filters: list[tuple[str, tuple[str, ...], Callable[[Row], str]]] = [
        ("protocol", (wanted.protocol,) if wanted.protocol else (), lambda row: str(row.score["protocol"])),
        ("selector", (wanted.selector,) if wanted.selector else (), lambda row: row.method[2]),
        ("scenario", tuple(map(typed_route, wanted.scenarios)), lambda row: typed_route(row.scenario)),
    ]
    for what, values, of in filters:
        known = {of(row) for row in rows}
        for value in values:
            if value not in known:
                raise UsageError(f"no score has the {what} {value!r}.{did_you_mean(value, known)}")
        rows = [row for row in rows if not values or of(row) in values]
    metrics = {name for row in rows for name in row.score["metrics"]}
    if rows and wanted.metric not in metrics:
        raise UsageError(f"no score has the metric {wanted.metric!r}.{did_you_mean(wanted.metric, metrics)}")
    return list(rows)


def _of_method(
    name: str, every: Sequence[Row], rows: Sequence[Row], records: Sequence[Record]
) -> tuple[list[Row], bool]:
    """A method's rows, and whether its name says the encoder. Raises UsageError if it has none."""
    spellings: tuple[tuple[Callable[[Mapping[str, Any]], str], bool], ...] = (
        (lambda run: f"{run['encoder']['label']}/{run['adaptation']['label']}", True),
        (lambda run: str(run["adaptation"]["label"]), False),
        (lambda run: str(run["adaptation"]["name"]), False),
    )
    for spelling, says_encoder in spellings:
        if any(spelling(row.run) == name for row in every):
            found = [row for row in rows if spelling(row.run) == name]
            if not found:
                raise UsageError(
                    f"method {name!r} has no score under the protocol, selector and scenarios asked for"
                )
            return found, says_encoder
    failed = [record.spec["status"] for record in records if any(of(record.spec) == name for of, _ in spellings)]
    if failed:
        raise UsageError(f"method {name!r} has no score: its {len(failed)} runs ended as {_listed(set(failed))}")
    known = {of(row.run) for row in every for of, _ in spellings[:2]}
    raise UsageError(
        f"no record is of a method {name!r}, and A and B are not both output folders.{did_you_mean(name, known)}"
    )


def _nearest(alike: Sequence[tuple[Row, Row]]) -> Iterator[tuple[Row, Row]]:
    """The candidates than which neither row has a nearer one."""
    near = [(x.recipe == y.recipe, x.shown == y.shown, x.trials == y.trials) for x, y in alike]
    for pair, own in zip(alike, near, strict=True):
        rivals = (n for other, n in zip(alike, near, strict=True) if other[0] is pair[0] or other[1] is pair[1])
        if own >= max(rivals):
            yield pair


def _scores(row: Row) -> list[Path]:
    return [seed.score.folder.resolve() for seed in row.seeds]


def _on_common_seeds(a: Row, b: Row) -> tuple[Row, Row]:
    common = set(a.numbers) & set(b.numbers)
    rows = [Row(tuple(seed for seed in row.seeds if seed.run["seed"] in common), complete=True) for row in (a, b)]
    return rows[0], rows[1]


def _facts(row: Row, hidden: set[str]) -> dict[str, Any]:
    """What may differ of a row, without labels. The data are told of by what they are, not by their names."""
    run, scenario, domains = row.run, row.run["scenario"], row.run["domains"]
    shown = {"share_seed": run["shown"].get("share_seed")}
    facts = {name: value for name, value in {**run, **shown}.items() if name not in hidden}
    splits = {name: domains[name]["splits"] for name in domains_of(scenario)}
    facts["training data"] = [splits[name]["train"] for name in scenario["source"]]
    facts["validation data"] = [splits[name]["val"] for name in scenario["source"]]
    facts["target data"] = {name: splits[scenario["target"]][name] for name in ("train", "val")}
    return facts | {f"score.{name}": row.score[name] for name in _OF_THE_SCORE}


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            if name != "label":
                yield from _flat(inner, f"{path}.{name}" if path else str(name))
    else:
        yield path, value


def _change(path: str, a: Any, b: Any) -> str:
    said = [str(value) for value in (a, b)]
    return path if max(map(len, said)) > _LONGEST else f"{path}: {said[0]} → {said[1]}"


def _listed(values: Iterable[object]) -> str:
    return ", ".join(sorted(map(str, values)))
