"""A view: which records a leaderboard shows, and how."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from urbancross_bench.errors import UsageError, did_you_mean
from urbancross_bench.interfaces.scenarios import route, typed_route
from urbancross_bench.interfaces.settings import SETTINGS
from urbancross_bench.records import Record, ScoreRecord
from urbancross_bench.specs import AblationView
from urbancross_bench.specs.reading import checked, read_yaml
from urbancross_bench.specs.training import PlacedError

DEFAULT = Path(__file__).with_name("default.yaml")
Allowed = Literal["failed_runs", "missing_seeds", "ranked_oracle", "test_images_in_training"]


def _inside(folder: str) -> str:
    """A view comes with the records of others: it writes beside itself and nowhere else."""
    if PurePosixPath(folder).is_absolute() or ".." in PurePosixPath(folder).parts or "\\" in folder:
        raise ValueError("name a folder below that of the view, without '..'")
    return folder


def _setting(name: str) -> str:
    if name not in SETTINGS:
        raise ValueError(f"unknown setting {name!r}.{did_you_mean(name, SETTINGS)}")
    return name


def _once(names: tuple[str, ...]) -> tuple[str, ...]:
    for number, name in enumerate(names):
        if name in names[:number]:
            raise PlacedError(f"{name!r} stands twice", number)
    return names


Names = Annotated[tuple[str, ...], AfterValidator(_once)]  # a table, column or file for each


class Filters(BaseModel):
    """Which rows are shown: per field the names to show, `*` for any characters; nothing named shows all."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scenario: tuple[str, ...] = Field(default=(), description="`a + b -> c`, as in the tables")
    protocol: tuple[str, ...] = ()
    selector: tuple[str, ...] = ()
    # Last: what these say depends on how the rows are labelled that those before leave.
    encoder: tuple[str, ...] = Field(default=(), description="labels; plugins, where no row is labelled so")
    adaptation: tuple[str, ...] = Field(default=(), description="labels; plugins, where no row is labelled so")


class View(BaseModel):
    """The content of a view file; see `default.yaml` beside this module. Paths are relative to the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    records: tuple[str, ...] = Field(
        default=("records",), min_length=1, description="folders of records, or of grids' outputs"
    )
    out: Annotated[str, AfterValidator(_inside)] = Field(default=".", description="where the files go")
    filters: Filters = Filters()
    metric: str = Field(default="mR", description="what rows are ordered and compared by; see `fitted`")
    details: Names = Field(default=(), description="further metrics, a column each")
    grouping: Annotated[tuple[Literal["target", "source", "kind"], ...], AfterValidator(_once)] = Field(
        default=("target",), description="what scenarios have in common, each a table of means over those"
    )
    columns: Names = Field(default=(), description="column plugins, in the table of scenarios")
    baseline: str = Field(default="source_only", description="the adaptation that differences are taken to")
    oracle: str = Field(default="oracle", description="the adaptation that the gap to close is taken to")
    reference_settings: tuple[Annotated[str, AfterValidator(_setting)], ...] = Field(
        default=("oracle",), description="shown, never ranked"
    )
    weights: tuple[Literal["pretrained", "trained here", "untrained"], ...] = Field(
        default=("pretrained", "trained here"), min_length=1
    )
    allow: tuple[Allowed, ...] = Field(default=(), description="what is taken all the same")
    ablation: AblationView | None = Field(default=None, description="the factors of an ablation, see `specs`")
    cost: bool = Field(default=False, description="whether there is a table of what was spent")
    renderers: Names = Field(default=("markdown", "csv"), min_length=1)

    def is_reference(self, setting: str) -> bool:
        """Whether rows of a setting are shown beside the others, and neither ranked nor judged."""
        return setting in self.reference_settings


def load_view(path: Path) -> View:
    """Read a view file. Raises UsageError naming the file, the line, the key and the nearest known key."""
    return checked(View, *read_yaml(path, "view"))


def fitted(view: View, records: Iterable[Record]) -> View:
    """A view that names no metric: where these records have no values of the usual one, another stands for it.

    That is the first in their scores of which more is better; the other values are its details then. Usual details
    that the records lack are left out, others stay to be missed.
    """
    if "metric" in view.model_fields_set:
        return view
    known: dict[str, bool] = {}  # whether more is better
    for record in records:  # seldom more than the first
        for score in record.scores:
            known |= {name: entry["higher_is_better"] for name, entry in score.content["metrics"].items()}
        if known.keys() >= {view.metric, *view.details}:
            return view
    details = [name for name in view.details if name in known or name not in _usual_details()]
    if view.metric in known:
        return view.model_copy(update={"details": tuple(details)})
    metric = next((name for name, more in known.items() if more), None)
    if metric is None:
        return view
    others = dict.fromkeys(name for name in (*known, *details) if name != metric)
    return view.model_copy(update={"metric": metric, "details": tuple(others)})


@cache
def _usual_details() -> tuple[str, ...]:
    """Those that stand in a view because it began as the one in use where none is given."""
    return load_view(DEFAULT).details


def shown(records: Sequence[Record], view: View) -> list[Record]:
    """The records, with the scores, that a view's filters let through. A run without scores counts by its spec.

    Raises UsageError for a filter that nothing passes.
    """
    chosen = [*records]
    for field in Filters.model_fields:
        patterns = [typed_route(name) if field == "scenario" else name for name in getattr(view.filters, field)]
        if not patterns:
            continue
        of_score = field in ("protocol", "selector")
        names = {name for record in chosen for name in (_of_scores if of_score else _of_run)(record, field)}
        for pattern in patterns:
            if not _passing(names, [pattern]):
                hint = did_you_mean(pattern, names)
                raise UsageError(f"view {view.title!r}: no record has the {field} {pattern!r}.{hint}")
        if of_score:
            chosen = [
                replace(r, scores=tuple(s for s in r.scores if _passing([s.content[field]], patterns)))
                for r in chosen
            ]
        else:
            # As in `compare`: what a row is labelled is meant first, lest a plugin's variants come along.
            rows = [
                r for r in chosen if r.ok and r.scores and r.spec["encoder"]["weights"]["status"] in view.weights
            ]
            labels = {_of_run(record, field)[0] for record in rows}
            exact, others = labels.intersection(patterns), [one for one in patterns if one not in labels]
            chosen = [r for r in chosen if _of_run(r, field)[0] in exact or _passing(_of_run(r, field), others)]
    return chosen


def ranked_oracles(records: Iterable[Record], view: View) -> list[Record]:
    """Those that have seen labels of the target, by method, selector or weights, and that the view would rank."""
    if view.is_reference("oracle"):
        return []
    return [record for record in records if any(s.content["setting"] == "oracle" for s in record.scores)]


def _of_run(record: Record, field: str) -> list[str]:
    if field == "scenario":
        return [typed_route(route(record.spec["scenario"]))]  # a name may hold a plus
    return [record.spec[field][key] for key in ("label", "name")]


def _of_scores(record: Record, field: str) -> list[str]:
    scores: Sequence[ScoreRecord] = record.scores
    return [score.content[field] for score in scores]


def _passing(names: Iterable[str], patterns: Sequence[str]) -> bool:
    # Labels hold brackets, so the star alone is a sign.
    wanted = [re.escape(pattern).replace(r"\*", ".*") for pattern in patterns]
    return any(re.fullmatch(one, name) for name in names for one in wanted)
