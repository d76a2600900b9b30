"""The page of a run, and its line in the list of all of them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from urbancross_bench.interfaces import Estimate, ShownRun
from urbancross_bench.interfaces.renderer import printable
from urbancross_bench.interfaces.scenarios import route
from urbancross_renderers.html.curves import Curve, curves
from urbancross_renderers.html.markup import file_name, page
from urbancross_renderers.html.tables import Column, ShownCell, ShownTable, filtered

_GIVEN = ("setting", "pre-training", "steps", "trials")
_HEAD = ("scenario", "kind", "encoder", "adaptation", *_GIVEN, "seed", "status", "weights", "row")
_NUMBERS = ("steps", "trials", "seed")
_FIRST = ("scenario", "adaptation", "seed")  # of these, what stands before the numbers
_MOST_MEASURES = 6  # columns of the list
_PLAIN = (str, int, float, bool, type(None))


_Measure = tuple[str, str, str]  # protocol, tie rule, selector


@dataclass(frozen=True)
class Listed:
    """A run's line in the list: cells by column, and the metric by protocol, tie rule and selector."""

    key: str
    link: str
    cells: Mapping[str, str | int]
    values: Mapping[_Measure, float]


def listed(run: ShownRun, metric: str) -> Listed:
    """What the list says of a run. Scores on the target's own test split count."""
    spec = run.spec
    cells: dict[str, str | int] = {
        "scenario": route(spec["scenario"]),
        "kind": spec["scenario"]["kind"],
        "encoder": spec["encoder"]["label"],
        "adaptation": spec["adaptation"]["label"],
        **{name: run.given.get(name, "–") for name in _GIVEN},
        "seed": spec["seed"],
        "status": spec["status"],
        "weights": spec["encoder"]["weights"]["status"],
        "row": run.row,
    }
    values: dict[_Measure, float] = {}
    for score in run.scores:
        if score["domain"] == spec["scenario"]["target"] and metric in score["metrics"]:
            measure = score["protocol"], score["ties"], score["selector"]
            values.setdefault(measure, float(score["metrics"][metric]["value"]))
    return Listed(str(spec["key"]), run_link(spec), cells, values)


def run_list(runs: Sequence[Listed], metric: str, title: str) -> ShownTable:
    """The table of all runs, with a column for each selector, and where there are several, protocol and tie rule;
    what is beyond the first six, by name, stands on the runs' own pages alone.
    """
    rest = [name for name in _HEAD if name not in _FIRST]
    every = sorted({measure for run in runs for measure in run.values})
    measures = every[:_MOST_MEASURES]
    rows = [
        [
            ShownCell(run.key[:8], run.link),
            *(ShownCell(run.cells[name]) for name in _FIRST),
            *(ShownCell(run.values.get(measure)) for measure in measures),
            *(ShownCell(run.cells[name]) for name in rest),
        ]
        for run in sorted(runs, key=lambda one: ([str(one.cells[name]) for name in _HEAD], one.key))
    ]
    columns = [
        Column("run", False),
        *(Column(name, name in _NUMBERS) for name in _FIRST),
        *(Column(_heading(metric, measure, every), True) for measure in measures),
        *(Column(name, name in _NUMBERS) for name in rest),
    ]
    return ShownTable("table-runs", f"{title}: runs", columns, rows)


def _heading(metric: str, measure: _Measure, every: Sequence[_Measure]) -> str:
    *how, selector = measure
    told = [name for at, name in enumerate(how) if len({one[at] for one in every}) > 1]
    return ", ".join([metric, selector, *told])


def run_link(spec: Mapping[str, Any]) -> str:
    """The address of a run's page from the site's folder."""
    return f"runs/{file_name(str(spec['key']))}.html"


@dataclass(frozen=True)
class _Scored:
    """Selectors side by side, of one domain, protocol and tie rule: metric → a cell for each."""

    title: str
    selectors: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Any]]]


def run_page(run: ShownRun, **frame: Any) -> str:
    """The page of a run; `frame` is what the skeleton takes."""
    spec = run.spec
    return page(
        "run.html",
        spec=spec,
        scenario=route(spec["scenario"]),
        given=run.given,
        scored=_scored(run),
        trainings=_trainings(run),
        failure=run.failure,
        provenance=_provenance(run.provenance),
        command=_command(spec),
        alike=filtered("../runs.html", run.row),
        everything=json.dumps(spec, indent=1, ensure_ascii=False).split("\n"),
        **frame,
    )


def _command(spec: Mapping[str, Any]) -> str:
    """As it would be typed; names that a shell would not take as they are stand in quotes."""
    grid, key = (shlex.quote(printable(str(spec[name]))) for name in ("grid", "key"))
    return f"urbancross-bench run {grid} --only {key}"


def _scored(run: ShownRun) -> list[_Scored]:
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for score in run.scores:
        groups.setdefault((score["domain"], score["protocol"], score["ties"]), []).append(score)
    found = []
    for (domain, protocol, ties), scores in sorted(groups.items()):
        scores = sorted(scores, key=lambda one: (one["selector"], one["key"]))
        metrics = dict.fromkeys(name for score in scores for name in score["metrics"])
        rows: list[tuple[str, Sequence[Any]]] = [
            (name, [_estimate(score["metrics"].get(name)) for score in scores])
            for name in sorted(metrics, key=_last)
        ]
        rows += [
            (title, [score.get(name) for score in scores])
            for title, name in (("chosen at step", "step"), ("setting", "setting"), ("test images", "images"))
        ]
        title = f"Tested on {domain}, protocol {protocol}, ties {ties}"
        found.append(_Scored(title, [score["selector"] for score in scores], rows))
    return found


def _last(name: str) -> tuple[bool, str, int]:
    """mR first, then each direction's metrics with their cuts in order."""
    stem, _, cut = name.rpartition("@")
    return name != "mR", stem or name, int(cut) if cut.isdigit() else 0


def _estimate(entry: Mapping[str, Any] | None) -> Estimate | None:
    return None if entry is None else Estimate(entry["value"], entry["low"], entry["high"])


def _trainings(run: ShownRun) -> list[tuple[str, list[Curve]]]:
    drawn = ((name, curves(name, passes)) for name, passes in run.curves.items() if isinstance(passes, list))
    return [(name, some) for name, some in drawn if some]


def _provenance(said: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Training → facts in words, one a line; what nests is flattened."""
    return [(training, [*_flat(facts, "")]) for training, facts in said.items()]


def _flat(facts: Mapping[str, Any], above: str) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for name, value in facts.items():
        if isinstance(value, Mapping) and value:
            lines += _flat(value, f"{above}{name} ")
        elif isinstance(value, _PLAIN):
            lines.append((f"{above}{name}".replace("_", " "), "–" if value is None else str(value)))
        else:
            lines.append((f"{above}{name}".replace("_", " "), json.dumps(value, ensure_ascii=False)))
    return lines
