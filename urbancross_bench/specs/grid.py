"""The grid, its scenarios and its search, as models that check what a file says."""

from __future__ import annotations

import reprlib
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, PositiveInt, field_validator, model_validator

from urbancross_bench.errors import UsageError, did_you_mean, requirement
from urbancross_bench.evaluation.protocols import PRESETS, PROTOCOLS, protocol_and_ties
from urbancross_bench.interfaces.renderer import printable
from urbancross_bench.specs.ablation import Ablation
from urbancross_bench.specs.training import Budget, PlacedError, Pretraining, Spec

_REFERENCES = "must be a list of references, or a mapping from names to references"
_OF_ROUTES = ("→", "->", " + ")
_SCENARIOS = "write all_ordered_pairs, or a list of mappings, such as [{source: a, target: b}]"


class Range(Spec):
    """An interval that a search draws from, evenly, or evenly in the logarithm."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _is_an_interval(self) -> Self:
        if self.low >= self.high or (self.log and self.low <= 0):
            raise ValueError("low must be less than high, and above 0 where log is true")
        return self


class Search(Spec):
    """A random search over options: `trials` sets for each adaptation, the first of them as the grid wrote it.

    space: adaptation (its name in the grid) → option → the values to choose from, or a range; `learning_rate` is
    the budget's. The selector chooses among the checkpoints of all trials. Without a space there is one trial.
    """

    trials: int = Field(ge=2, le=10_000)
    seed: int = 0
    space: dict[
        str, Annotated[dict[str, Annotated[tuple[Any, ...], Field(min_length=1)] | Range], Field(min_length=1)]
    ] = Field(min_length=1)


class Scenario(Spec):
    """Source domains → target domain, by their names in the grid.

    With a `share`, few-shot methods get that share of the target's training images with their captions: the first
    of one order, the same for every seed of the grid (or `share_seed: run`: each run its own).
    """

    source: tuple[str, ...] = Field(min_length=1)
    target: str
    share: float | None = Field(default=None, gt=0, le=1)
    share_seed: int | Literal["run"] = 0

    @model_validator(mode="before")
    @classmethod
    def _one_source_or_several(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and isinstance(value.get("source"), (str, int, float)):
            return {**value, "source": (value["source"],)}
        return value

    @property
    def domains(self) -> tuple[str, ...]:
        """Sources, in order, and target, each once."""
        return tuple(dict.fromkeys((*self.source, self.target)))

    @property
    def kind(self) -> str:
        """`in_domain`, `cross_domain`, `multi_source` or `seen_target`, from membership."""
        if self.target in self.source:
            return "in_domain" if len(self.source) == 1 else "seen_target"
        return "cross_domain" if len(self.source) == 1 else "multi_source"

    def __str__(self) -> str:
        share = f" ({100 * self.share:g} % of its pairs)" if self.share else ""
        return f"{' + '.join(self.source)} → {self.target}{share}"


class Grid(Spec):
    """A set of runs: scenarios × encoders × adaptations × seeds, and how each is scored.

    Plugins are given as references, `name[option=value]`. `domains`, `encoders` and `adaptations` are lists of
    references, or mappings from a name of one's own to a reference.
    """

    name: str = Field(pattern=r"^\w[\w.-]*$")
    description: str = ""
    plugins: tuple[str, ...] = Field(default=(), description="one-file plugins, relative to the grid's folder")
    domains: dict[str, str] = Field(min_length=1)
    scenarios: Literal["all_ordered_pairs"] | Annotated[tuple[Scenario, ...], Field(min_length=1)] = (
        "all_ordered_pairs"
    )
    exclusions: dict[str, str] = Field(
        default={}, description="domain → list of training images to leave out, relative to the grid's folder"
    )
    segments: dict[str, str] = Field(
        default={}, description="domain → segments that `data segment` made, relative to the grid's folder"
    )
    disjoint_halves: bool = Field(
        default=False, description="control: an unpaired target shows images of one half, captions of the other"
    )
    encoders: dict[str, str] = Field(min_length=1)
    pretraining: Pretraining
    adaptations: dict[str, str] = Field(min_length=1)
    budget: Budget
    selectors: tuple[str, ...] = Field(default=("last",), min_length=1)
    search: Search | None = None
    ablation: Ablation | None = None
    protocols: tuple[str, ...] = Field(
        default=("classic",), min_length=1, description="protocols, or presets of protocol and tie rule"
    )
    ties: Literal["expected", "optimistic", "pessimistic"] = "expected"
    score_sources: bool = Field(
        default=False, description="score runs on their sources' test splits too: what adapting has forgotten"
    )
    metrics: tuple[str, ...] = Field(default=("recall",), min_length=1)
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    evaluation_precision: Literal["float32", "bfloat16"] = Field(
        default="float32", description="of the embeddings that are ranked; what bfloat16 moves is measured"
    )
    threads: PositiveInt = Field(default=1, description="CPU threads per run; they change sums, so they count")
    ranks: PositiveInt = Field(
        default=1, description="processes per training, each with a share of every batch; they change sums, too"
    )
    executor: str = "local"

    @classmethod
    def from_yaml(cls, grid: str | Path, *overrides: str) -> Grid:
        """The grid of a file, or a built-in one by its name, with `a.b=c` overrides; see `reading.load_grid`."""
        from urbancross_bench.specs.reading import find_grid, load_grid  # which need this class

        if isinstance(grid, Mapping):
            raise UsageError("Grid.from_yaml reads a file; give a mapping to `plan` or `run` as it is")
        return load_grid(find_grid(grid), overrides)

    @field_validator("scenarios", mode="before")
    @classmethod
    def _scenarios_are_listed(cls, value: Any) -> Any:
        if value != "all_ordered_pairs" and not isinstance(value, (list, tuple)):
            raise ValueError(f"{_SCENARIOS}; {got(value)}")
        return value

    @field_validator("protocols")
    @classmethod
    def _protocols_are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in PROTOCOLS and name not in PRESETS:
                raise ValueError(f"unknown protocol {name!r}.{did_you_mean(name, [*PROTOCOLS, *PRESETS])}")
        return names

    @model_validator(mode="before")
    @classmethod
    def _lists_name_themselves(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        value = dict(value)
        for key in ("domains", "encoders", "adaptations"):
            entries = value.get(key)
            if isinstance(entries, list):
                _refuse_what_is_no_text(entries, key)
                _refuse_twins(entries, key)
                value[key] = {entry: entry for entry in entries}
            elif key in value and not isinstance(entries, Mapping):
                raise PlacedError(f"{key} {_REFERENCES}", key)
        return value

    @field_validator("domains")
    @classmethod
    def _domains_are_no_routes(cls, domains: dict[str, str]) -> dict[str, str]:
        for name in domains:
            if any(mark in name for mark in _OF_ROUTES):
                said = ", ".join(map(repr, _OF_ROUTES))
                raise PlacedError(
                    f"{name!r}: a scenario reads `a + b → c`, so no domain's name has {said}; name it otherwise, "
                    "domains: {name: reference}",
                    name,
                )
        return domains

    @model_validator(mode="after")
    def _names_can_be_told_apart(self) -> Self:
        for key in ("domains", "encoders", "adaptations"):
            looks: dict[str, str] = {}
            for name in getattr(self, key):
                twin = looks.setdefault(unicodedata.normalize("NFC", printable(name)), name)
                if twin != name:
                    raise PlacedError(
                        f"{key} {twin!r} and {name!r} look the same in a table; rename one", key, name
                    )
        return self

    @model_validator(mode="after")
    def _scenarios_name_domains(self) -> Self:
        seen: set[Scenario] = set()
        for number, scenario in enumerate(self.expanded_scenarios()):
            sources = ((name, ("source", place)) for place, name in enumerate(scenario.source))
            for domain, place in (*sources, (scenario.target, ("target",))):
                if domain not in self.domains:
                    hint = did_you_mean(domain, self.domains)
                    said = f"scenario {scenario} names {domain!r}, which is not among the domains.{hint}"
                    raise PlacedError(said, "scenarios", number, *place)
            if len(set(scenario.source)) < len(scenario.source):
                raise PlacedError(f"scenario {scenario} names a source twice", "scenarios", number, "source")
            if scenario in seen:
                raise PlacedError(f"scenario {scenario} stands twice", "scenarios", number)
            seen.add(scenario)
        for name in self.search.space if self.search else ():
            if name not in self.adaptations:
                hint = did_you_mean(name, self.adaptations)
                said = f"search.space names {name!r}, which is not among the adaptations.{hint}"
                raise PlacedError(said, "search", "space", name)
        for key in ("seeds", "selectors", "protocols", "metrics"):
            _refuse_twins(getattr(self, key), key)
        return self

    @model_validator(mode="after")
    def _ablation_names_one_thing(self) -> Self:
        if self.ablation is None:
            return self
        of, homes = self.ablation.of, [self.adaptations, self.encoders]
        if not any(of in home for home in homes):
            hint = did_you_mean(of, {*self.adaptations, *self.encoders})
            said = f"ablation.of names {of!r}, which is no adaptation or encoder of the grid.{hint}"
            raise PlacedError(said, "ablation", "of")
        if all(of in home for home in homes):
            said = f"ablation.of names {of!r}, an adaptation and an encoder of the grid; rename one of them"
            raise PlacedError(said, "ablation", "of")
        return self

    @model_validator(mode="after")
    def _protocols_differ(self) -> Self:
        meant: dict[tuple[str, str], str] = {}
        for place, name in enumerate(self.protocols):
            twin = meant.setdefault(protocol_and_ties(name, self.ties), name)
            if twin != name:
                said = f"protocols {twin!r} and {name!r} are the same here; remove one of them"
                raise PlacedError(said, "protocols", place)
        return self

    def expanded_scenarios(self) -> tuple[Scenario, ...]:
        """The scenarios in order; `all_ordered_pairs` gives each domain to itself and to every other."""
        if self.scenarios != "all_ordered_pairs":
            return self.scenarios
        return tuple(Scenario(source=(s,), target=t) for s in self.domains for t in self.domains)


def _refuse_what_is_no_text(entries: Sequence[Any], key: str) -> None:
    for number, entry in enumerate(entries):
        if not isinstance(entry, str):
            quoted = requirement({"type": "string_type", "input": entry})
            raise PlacedError(f"an entry of {key} {quoted}" if quoted else f"{key} {_REFERENCES}", key, number)


def _refuse_twins(entries: Sequence[Any], key: str) -> None:
    seen: set[Any] = set()
    for number, entry in enumerate(entries):
        if entry in seen:
            raise PlacedError(f"an entry of {key} stands twice: {entry}", key, number)
        seen.add(entry)


def got(value: Any) -> str:
    """What stands where something else is needed, cut short."""
    return f"got {'nothing' if value is None else reprlib.repr(value)}"


def as_json(spec: BaseModel) -> dict[str, Any]:
    """A part of a grid as plain JSON values: a fact of stages and records."""
    facts: dict[str, Any] = spec.model_dump(mode="json")
    return facts
