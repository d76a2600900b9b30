"""What differs between two keys: facts of two stages, runs or scores held against each other, down to inputs."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from urbancross_bench.errors import DataError
from urbancross_bench.execution.choosing import chosen_key
from urbancross_bench.execution.collecting import store_in
from urbancross_bench.execution.plan import Plan, Run, Score
from urbancross_bench.execution.stage import Stage
from urbancross_bench.execution.store import Entry
from urbancross_bench.files import read_object
from urbancross_bench.identity import canonical_json
from urbancross_bench.interfaces.dataset import SPLITS
from urbancross_bench.records import in_words

ABSENT = object()  # where one of the two has no such fact
_OPAQUE = re.compile(r"[0-9a-f]{12,}")
_OWN = ("adaptation", "segments", "scenario", "domains")  # of a run: what its trainings do not say


@dataclass(frozen=True, eq=False)
class Thing:
    """A stage (`kind` as in `Stage`), a `run` or a `score`: what its key is made of, and where it was found."""

    kind: str
    key: str
    label: str
    where: str
    facts: Mapping[str, Any]
    inputs: Mapping[str, str]


@dataclass(frozen=True)
class Difference:
    """A fact that differs: its dotted path from the two things on, both values (or ABSENT), where else it does."""

    path: str
    values: tuple[Any, Any]
    also: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Unknown:
    """A pair of inputs that differ, by key, where the facts of one or both are not there: its path, and which."""

    path: str
    keys: tuple[str, str]
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Explanation:
    """What differs between `one` and `other`."""

    one: Thing
    other: Thing
    differences: tuple[Difference, ...]
    unknown: tuple[Unknown, ...]


class Library:
    """Everything that has a key, in output folders and in a plan. Files are read when asked for.

    Raises UsageError for a folder that is no output folder.
    """

    def __init__(self, places: Sequence[Path], plan: Plan | None) -> None:
        self.places = tuple(str(place) for place in places) + (("the grid's plan",) if plan else ())
        self._known: dict[str, Callable[[], Thing]] = {}
        self._read: dict[str, Thing] = {}
        for place in places:
            self._add_stages(place)
            self._add_records(place)
        if plan is not None:
            self._add_plan(plan)

    def find(self, prefix: str) -> Thing:
        """The one whose key begins so. Raises UsageError if there is none, or several."""
        missing = f"no stage, run or score has a key {prefix}…; looked in {', '.join(self.places)}"
        return self[chosen_key(prefix, self._known, missing)]

    def __contains__(self, key: str) -> bool:
        return key in self._known

    def __getitem__(self, key: str) -> Thing:
        if key not in self._read:
            self._read[key] = self._known[key]()
        return self._read[key]

    def _add_stages(self, place: Path) -> None:
        if not (place / "runs").is_dir() or (place / "store").is_dir():
            for entry in store_in(place).entries():
                self._known.setdefault(entry.key, partial(_stored, entry, str(place)))

    def _add_records(self, place: Path) -> None:
        for file in sorted(place.glob("runs/[!.]*/run.json")):
            self._known.setdefault(file.parent.name, partial(_recorded_run, file, str(place)))
        for file in sorted(place.glob("runs/[!.]*/scores/[!.]*/score.json")):
            self._known.setdefault(file.parent.name, partial(_recorded_score, file, str(place)))

    def _add_plan(self, plan: Plan) -> None:
        for stage in plan.stages.values():
            self._known.setdefault(stage.key, partial(_planned_stage, stage))
        for run in plan.runs:
            if run.spec is not None:
                self._known.setdefault(run.key, partial(_planned_run, run))
            for score in run.scores:
                self._known.setdefault(score.key, partial(_planned_score, run, score))


def explain(one: Thing, other: Thing, library: Library) -> Explanation:
    """Compare facts, then inputs by role, the nearest first; each pair of inputs and each fact counts once."""
    differences: dict[str, Difference] = {}
    unknown: list[Unknown] = []
    pairs: deque[tuple[str, Thing, Thing]] = deque([("", one, other)])
    seen = {(one.key, other.key)}
    while pairs:
        path, left, right = pairs.popleft()
        if left.kind != right.kind:
            _note(differences, path, "kind", left.kind, right.kind)
            continue
        facts = _facts(left, right, library)
        for name, a, b in compared(facts[0], facts[1]):
            _note(differences, path, name, a, b)
        for role in _roles(left, right):
            keys = left.inputs.get(role), right.inputs.get(role)
            if keys[0] is None or keys[1] is None:
                values = (ABSENT if key is None else _named(key, library) for key in keys)
                _note(differences, path, role, *values)
                continue
            pair, below = (keys[0], keys[1]), f"{path}{role}"
            if pair[0] == pair[1] or pair in seen:
                continue
            seen.add(pair)
            if missing := tuple(key for key in pair if key not in library):
                unknown.append(Unknown(below, pair, missing))
            else:
                pairs.append((f"{below}.", library[pair[0]], library[pair[1]]))
    return Explanation(one, other, tuple(differences.values()), tuple(unknown))


def compared(one: Any, other: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two JSON values differ: dotted path and both values, as deep as both have the same shape.

    Of two plugins only the names: all options of the one are absent in the other.
    """
    within = f"{path}." if path else ""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        if _are_other_plugins(one, other):
            one, other = {"name": one["name"]}, {"name": other["name"]}
        for name in dict.fromkeys((*one, *other)):
            yield from compared(one.get(name, ABSENT), other.get(name, ABSENT), f"{within}{name}")
    elif _are_lists_of_mappings(one, other):
        for number, (a, b) in enumerate(zip(one, other, strict=True)):
            yield from compared(a, b, f"{within}{number}")
    elif one is ABSENT or other is ABSENT or canonical_json(one) != canonical_json(other):
        yield path, one, other


def _are_other_plugins(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all({"name", "version", "options"} <= of.keys() for of in (one, other)) and one["name"] != other["name"]


def _are_lists_of_mappings(one: Any, other: Any) -> bool:
    if not (isinstance(one, list) and isinstance(other, list) and len(one) == len(other)):
        return False
    return all(isinstance(value, Mapping) for value in (*one, *other))


def _note(differences: dict[str, Difference], path: str, name: str, one: Any, other: Any) -> None:
    """Add a fact, or where else it differs, if one of its name is known to differ in the same way.

    A hash that stands for content is the same fact under any name.
    """
    last = name.rpartition(".")[2]
    if last == "code":
        one, other = rooms_that_differ(one, other)
    values = [None if value is ABSENT else canonical_json(value) for value in (one, other)]
    opaque = all(isinstance(value, str) and _OPAQUE.fullmatch(value) for value in (one, other))
    same = canonical_json(["" if opaque else last, *values])
    known = differences.setdefault(same, Difference(f"{path}{name}", (one, other)))
    if known.path != f"{path}{name}":
        known.also.append(f"{path}{name}")


def rooms_that_differ(one: Any, other: Any) -> tuple[Any, Any]:
    """Of the versions of several rooms of the code, those that differ."""
    if not (isinstance(one, str) and isinstance(other, str)):
        return one, other
    left, right = one.split(), other.split()
    lost, new = [v for v in left if v not in right], [v for v in right if v not in left]
    return (" ".join(lost), " ".join(new)) if lost and new else (one, other)


def _roles(one: Thing, other: Thing) -> list[str]:
    """The inputs to compare. The record of a score names some of them only, so those that both name."""
    roles = dict.fromkeys((*one.inputs, *other.inputs))
    return [role for role in roles if one.kind != "score" or (role in one.inputs and role in other.inputs)]


def _facts(one: Thing, other: Thing, library: Library) -> list[Mapping[str, Any]]:
    """Of both. Of runs, only what their trainings do not say, where the trainings are there to ask."""
    if one.kind != "run" or not all(key in library for run in (one, other) for key in run.inputs.values()):
        return [one.facts, other.facts]
    return [{name: run.facts[name] for name in _OWN if name in run.facts} for run in (one, other)]


def _named(key: str, library: Library) -> str:
    return f"{library[key].kind} {key}" if key in library else key


def _stored(entry: Entry, place: str) -> Thing:
    try:
        manifest = entry.manifest()
        facts, inputs = manifest["facts"], manifest["inputs"]
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"stored {entry.kind} {entry.folder} cannot be read: {error!r}") from error
    return Thing(entry.kind, entry.key, _label(entry), place, facts, inputs)


def _label(entry: Entry) -> str:
    try:
        return str(entry.provenance().get("label", ""))
    except (OSError, ValueError):
        return ""


def _planned_stage(stage: Stage) -> Thing:
    facts = _plain(stage.facts)
    return Thing(stage.kind, stage.key, stage.label, "planned", facts, stage.inputs)


def _recorded_run(file: Path, place: str) -> Thing:
    return _run(read_object(file), place)


def _planned_run(run: Run) -> Thing:
    return _run(_plain(run.spec), "planned")


def _run(spec: Mapping[str, Any], where: str) -> Thing:
    try:
        scenario, stages = spec["scenario"], spec["stages"]
        inputs = {f"training.{number}": key for number, key in enumerate(stages["adapt"])}
        facts = {name: value for name, value in spec.items() if name not in ("schema", "status", "key", "grid")}
        del facts["stages"]
        for part in ("encoder", "adaptation"):
            facts[part] = {name: value for name, value in spec[part].items() if name != "label"}
        facts["domains"] = _by_role(scenario, spec["domains"])
        facts["in_common"] = {name: value for name, value in spec.items() if "_images_in_" in name}
        return Thing(
            "run",
            spec["key"],
            in_words(spec),
            where,
            facts,
            inputs | {"start": stages["pretrain"]},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"the record of run {spec.get('key')} in {where} lacks {error}") from error


def _by_role(scenario: Mapping[str, Any], domains: Mapping[str, Any]) -> dict[str, Any]:
    """What a record says of its domains, without their names: of sources and target, and what a run is made of."""
    roles: dict[str, tuple[str, tuple[str, ...]]] = {
        f"source.{number}": (name, ("train", "val")) for number, name in enumerate(scenario["source"])
    }
    roles["target"] = (scenario["target"], SPLITS)
    counts = ("mark", "captions_generated", "partition", "excluded")
    return {
        role: {split: domains[name]["splits"].get(split) for split in splits}
        | {fact: domains[name].get(fact) for fact in counts}
        for role, (name, splits) in roles.items()
    }


def _recorded_score(file: Path, place: str) -> Thing:
    content = read_object(file)
    try:
        facts = {
            "selector": content["selected_by"],
            "protocol": content["protocol"],
            "ties": content["ties"],
            **content["measured_by"],
            "test": content["test"],
            "precision": content["precision"],
        }
        inputs = {
            "run": content["run"],
            "items": content["items"],
            f"test.{content['trial']}": content["features"],
        }
        label = f"{content['selector']}, {content['protocol']} on {content['domain']}"
    except (KeyError, TypeError) as error:
        raise DataError(f"record {file} lacks {error}") from error
    return Thing("score", file.parent.name, label, place, facts, inputs)


def _planned_score(run: Run, score: Score) -> Thing:
    facts = {name: value for name, value in score.stage.facts.items() if name != "calibration"}  # the run's
    facts |= {"precision": score.stage.work["precision"]}
    label = f"{score.selector}, {score.protocol} on {score.domain}"
    return Thing("score", score.key, label, "planned", _plain(facts), {"run": run.key, **score.stage.inputs})


def _plain(facts: Any) -> Any:
    """As a file would give it back: tuples are lists there."""
    return json.loads(json.dumps(facts))
