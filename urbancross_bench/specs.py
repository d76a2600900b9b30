"""The grid as a user writes it: a YAML file, checked key by key, with errors that name the line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from urbancross_bench.errors import UsageError, did_you_mean
from urbancross_bench.evaluation.protocols import PRESETS, PROTOCOLS, protocol_and_ties

Augmentation = Literal["flip", "rotate90", "crop", "rotate_crop", "colour"]


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Training(_Spec):
    """How a model is trained: AdamW, linear warm-up, then the schedule.

    A step draws `batch_size` source images, each with one of its captions at random.
    """

    steps: int | None = Field(default=None, ge=0)
    epochs: PositiveFloat | None = Field(default=None, description="passes over the source, instead of steps")
    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = 1e-4
    weight_decay: float = Field(default=0.1, ge=0)
    warmup: float = Field(default=0.05, ge=0, le=1, description="share of the steps")
    schedule: Literal["cosine", "constant", "step"] = "cosine"
    decay: float = Field(
        default=0.7, gt=0, le=1, description="of schedule `step`: the rate times this, again and again"
    )
    decay_every: PositiveFloat | None = Field(
        default=None, description="of schedule `step`: after so many epochs, or steps where the length is in steps"
    )
    clip_norm: PositiveFloat = 1.0
    max_logit_scale: PositiveFloat = Field(default=100.0, description="upper bound of InfoNCE's factor")
    ema: float = Field(
        default=0.0, ge=0, lt=1, description="decay of the moving average of weights that is scored"
    )
    micro_batch: PositiveInt | None = Field(
        default=None,
        description="encode so many at a time, with all negatives of the batch: less memory, more time",
    )
    checkpoint_activations: bool = Field(default=False, description="less memory, more time, the same gradients")
    compile: bool = Field(default=False, description="compile the blocks of the towers")
    frozen_statistics: bool = Field(default=False, description="batch normalisation keeps the start's statistics")
    augmentation: tuple[Augmentation, ...] = ()

    @model_validator(mode="after")
    def _one_length_and_one_schedule(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("say how long to train: either steps or epochs")
        if (self.schedule == "step") != (self.decay_every is not None):
            raise ValueError("schedule: step and decay_every go together")
        return self

    def in_steps(self, steps_per_pass: int) -> Self:
        """The same with its length in steps, for a source that takes `steps_per_pass` of them."""
        if self.epochs is None:
            return self
        changes: dict[str, Any] = {"steps": round(self.epochs * steps_per_pass), "epochs": None}
        if self.decay_every is not None:
            changes["decay_every"] = self.decay_every * steps_per_pass
        return self.model_copy(update=changes)

    def length(self) -> dict[str, Any]:
        """What `in_steps` settles."""
        return {"steps": self.steps, "epochs": self.epochs, "decay_every": self.decay_every}

    @property
    def trains(self) -> bool:
        """Whether there is any step."""
        return self.steps != 0


class Pretraining(Training):
    """The recipe every adaptation of the grid starts from: training on the source pairs alone."""

    loss: Literal["info_nce", "soft_info_nce", "hinge", "hardest_hinge"] = "info_nce"
    segment_weight: float = Field(
        default=1.0, ge=0, description="of L(segments, text), for encoders that use segments; others have none"
    )


class Budget(Training):
    """What every adaptation may spend: the same optimiser steps for all."""

    target_batch_size: PositiveInt = 64
    checkpoints: PositiveInt = Field(default=1, description="candidates for the selector, evenly spaced")

    @model_validator(mode="after")
    def _checkpoints_fit(self) -> Self:
        if self.steps and self.checkpoints > self.steps:
            raise ValueError(f"{self.checkpoints} checkpoints do not fit into {self.steps} steps")
        return self


class Range(_Spec):
    """An interval that a search draws from, evenly, or evenly in the logarithm."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _is_an_interval(self) -> Self:
        if self.low >= self.high or (self.log and self.low <= 0):
            raise ValueError("low must be less than high, and above 0 where log is true")
        return self


class Search(_Spec):
    """A random search over options: `trials` sets for each adaptation, the first of them as the grid wrote it.

    space: adaptation (its name in the grid) → option → the values to choose from, or a range; `learning_rate` is
    the budget's. The selector chooses among the checkpoints of all trials. Without a space there is one trial.
    """

    trials: int = Field(ge=2)
    seed: int = 0
    space: dict[str, dict[str, Annotated[tuple[Any, ...], Field(min_length=1)] | Range]] = Field(min_length=1)


class Scenario(_Spec):
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
        if isinstance(value, Mapping) and isinstance(value.get("source"), str):
            return {**value, "source": (value["source"],)}
        return value

    @property
    def kind(self) -> str:
        """`in_domain`, `cross_domain`, `multi_source` or `seen_target`, from membership."""
        if self.target in self.source:
            return "in_domain" if len(self.source) == 1 else "seen_target"
        return "cross_domain" if len(self.source) == 1 else "multi_source"

    def __str__(self) -> str:
        share = f" ({100 * self.share:g} % of its pairs)" if self.share else ""
        return f"{' + '.join(self.source)} → {self.target}{share}"


class Grid(_Spec):
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
            if isinstance(entries, list) and all(isinstance(entry, str) for entry in entries):
                if len(set(entries)) < len(entries):
                    raise ValueError(f"an entry of {key} stands twice")
                value[key] = {entry: entry for entry in entries}
            elif key in value and not isinstance(entries, Mapping):
                raise ValueError(f"{key} must be a list of references, or a mapping from names to references")
        return value

    @model_validator(mode="after")
    def _scenarios_name_domains(self) -> Self:
        for scenario in self.expanded_scenarios():
            for domain in (*scenario.source, scenario.target):
                if domain not in self.domains:
                    hint = did_you_mean(domain, self.domains)
                    raise ValueError(
                        f"scenario {scenario} names {domain!r}, which is not among the domains.{hint}"
                    )
            if len(set(scenario.source)) < len(scenario.source):
                raise ValueError(f"scenario {scenario} names a source twice")
        for name in self.search.space if self.search else ():
            if name not in self.adaptations:
                hint = did_you_mean(name, self.adaptations)
                raise ValueError(f"search.space names {name!r}, which is not among the adaptations.{hint}")
        for key in ("seeds", "selectors", "protocols", "metrics"):
            values = getattr(self, key)
            if len(set(values)) < len(values):
                raise ValueError(f"an entry of {key} stands twice")
        return self

    @model_validator(mode="after")
    def _protocols_differ(self) -> Self:
        meant: dict[tuple[str, str], str] = {}
        for name in self.protocols:
            twin = meant.setdefault(protocol_and_ties(name, self.ties), name)
            if twin != name:
                raise ValueError(f"protocols {twin!r} and {name!r} are the same here; remove one of them")
        return self

    def expanded_scenarios(self) -> tuple[Scenario, ...]:
        """The scenarios in order; `all_ordered_pairs` gives each domain to itself and to every other."""
        if self.scenarios != "all_ordered_pairs":
            return self.scenarios
        return tuple(Scenario(source=(s,), target=t) for s in self.domains for t in self.domains)


def as_json(spec: BaseModel) -> dict[str, Any]:
    """A part of a grid as plain JSON values: a fact of stages and records."""
    facts: dict[str, Any] = spec.model_dump(mode="json")
    return facts


def load_grid(path: Path, overrides: Sequence[str] = ()) -> Grid:
    """Read a grid file and apply `a.b=c` overrides (values are YAML). Paths in it become absolute.

    Raises UsageError naming the file, the line, the key and the nearest known key.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"grid {path} cannot be read: {error}") from error
    try:
        content, tree = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"grid {path} is not YAML: {error}") from error
    if not isinstance(content, dict) or tree is None:
        raise UsageError(f"grid {path} must be a mapping of keys to values")
    _refuse_repeated_keys(path, tree, set())
    for override in overrides:
        _override(content, override)
    try:
        grid = Grid.model_validate(content)
    except ValidationError as error:
        set_keys = {override.partition("=")[0].strip() for override in overrides}
        problems = [_explain(path, tree, set_keys, problem) for problem in error.errors()]
        raise UsageError("\n".join(problems)) from None
    folder = path.resolve().parent
    return grid.model_copy(
        update={
            "plugins": tuple(str(folder / file) for file in grid.plugins),
            "exclusions": {domain: str(folder / file) for domain, file in grid.exclusions.items()},
            "segments": {domain: str(folder / place) for domain, place in grid.segments.items()},
        }
    )


def _override(content: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    *parents, last = key.strip().split(".")
    if not equals or not last:
        raise UsageError(f"--set {override!r}: write key=value or section.key=value")
    place: Any = content
    for parent in parents:
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            raise UsageError(f"--set {override!r}: {parent!r} is not a section")
    try:
        place[last] = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(f"--set {override!r}: the value is not YAML: {error}") from error


def _explain(path: Path, tree: yaml.Node, set_keys: set[str], problem: Any) -> str:
    """One problem as `grid.yaml:12: budget: unknown key "stpes". Did you mean "steps"?`"""
    names = [part for part in problem["loc"] if not _is_union_tag(part)]
    key = ".".join(str(name) for name in names)
    blamed = next((set_key for set_key in sorted(set_keys) if f"{key}.".startswith(f"{set_key}.")), None)
    where = f"--set {blamed}" if blamed else f"{path}:{_line(tree, names)}"
    if problem["type"] == "extra_forbidden":
        section = ".".join(str(name) for name in names[:-1])
        hint = did_you_mean(str(names[-1]), _known_keys(names[:-1]))
        return f"{where}: {f'{section}: ' if section else ''}unknown key {str(names[-1])!r}.{hint}"
    if problem["type"] == "missing":
        return f"{where}: {key} is missing"
    return f"{where}: {f'{key}: ' if key else ''}{problem['msg'].removeprefix('Value error, ')}"


def _is_union_tag(part: str | int) -> bool:
    # pydantic names the branch of a union in the path: `literal['…']`, `tuple[Scenario, ...]`.
    return isinstance(part, str) and ("[" in part or part == "tuple")


def _known_keys(names: Sequence[str | int]) -> set[str]:
    sections: dict[str, type[BaseModel]] = {
        "pretraining": Pretraining,
        "budget": Budget,
        "scenarios": Scenario,
        "search": Search,
    }
    model = sections.get(str(names[0]), Grid) if names else Grid
    return set(model.model_fields)


def _line(tree: yaml.Node, names: Sequence[str | int]) -> int:
    """The line of the key (or list entry) that a path of names leads to, as far as the file has it."""
    node, line = tree, tree.start_mark.line + 1
    for name in names:
        if isinstance(node, yaml.MappingNode):
            entry = next(((k, v) for k, v in node.value if k.value == str(name)), None)
            if entry is None:
                break
            line, node = entry[0].start_mark.line + 1, entry[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(name, int) and name < len(node.value):
            node = node.value[name]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _refuse_repeated_keys(path: Path, node: yaml.Node, visited: set[int]) -> None:
    if id(node) in visited:  # an alias, perhaps of a node around it
        return
    visited.add(id(node))
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise UsageError(f"{path}:{key.start_mark.line + 1}: key {key.value!r} stands twice")
            seen.add(key.value)
            _refuse_repeated_keys(path, value, visited)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_repeated_keys(path, value, visited)
