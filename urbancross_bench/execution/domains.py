"""The domains of a grid, read and checked, and its scenarios with every alias in its members' place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from urbancross_bench.data.builder import BARE
from urbancross_bench.data.domain import Split, check, misshapen, split_of
from urbancross_bench.data.exclusions import Excluded, without
from urbancross_bench.data.segments import making_identity, open_segments
from urbancross_bench.errors import PluginError, UrbanCrossError, UsageError, did_you_mean, plural
from urbancross_bench.interfaces.dataset import SPLITS, Domain
from urbancross_bench.references import Reference
from urbancross_bench.registry import Registry, Resolved
from urbancross_bench.specs import Budget, Grid, Scenario, Training

T = TypeVar("T", bound=Training)


@dataclass(frozen=True, eq=False)
class PlannedDomain:
    """A domain of the grid: how it is found again, and its splits."""

    name: str
    reference: str
    reader: str
    exclusions: str | None
    segments: str | None
    excluded: Excluded | None
    splits: Mapping[str, Split]

    @property
    def domain(self) -> Domain:
        """All of it."""
        return self.splits["test"].domain

    def work(self, split: str) -> dict[str, Any]:
        """How a stage finds one of its splits again."""
        return {
            "dataset": self.reference,
            "split": split,
            "exclusions": self.exclusions,
        }

    @cached_property
    def contents(self) -> dict[str, set[str]]:
        """Digests of the images, by split."""
        return {name: {*map(self.domain.images.digest, s.members.tolist())} for name, s in self.splits.items()}

    def said(self) -> dict[str, Any]:
        """What a plugin or an option says of the domain's content, and rows repeat."""
        return {"mark": self.domain.mark, "captions_generated": self.domain.captions_generated}

    def facts(self) -> dict[str, Any]:
        """What a record says of the domain: everything that names or explains its splits."""
        domain = self.domain
        shared = np.intersect1d(
            domain.splits["test"], np.concatenate([domain.splits[s] for s in ("train", "val")])
        )
        return {
            "splits": {name: split.fingerprint for name, split in self.splits.items()},
            "partition": domain.partition,
            **self.said(),
            "test_images_also_in_train_or_val": len(shared),
            "excluded": asdict(self.excluded) if self.excluded else None,
            "repairs": len(domain.repairs),
            "licence": domain.licence,
        }

    @cached_property
    def segments_facts(self) -> dict[str, Any]:
        """What a record says of the segments of a domain that has some; its key holds it, so no names of files."""
        segments = self.domain.segments
        assert segments is not None
        return {
            "splits": {name: split.segments_fingerprint for name, split in self.splits.items()},
            "images_without": {name: sum(not group for group in s.segments) for name, s in self.splits.items()},
            "making": making_identity(segments.making),
            "caption_aware": segments.caption_aware,
        }

    def remarks(self) -> list[str]:
        """What a user has to know before the domain is used."""
        remarks = [str(self.excluded)] if self.excluded else []
        if self.domain.repairs:
            bare = sum(repair.problem == BARE for repair in self.domain.repairs)
            out = f", {bare} {plural(bare, 'image')} without a caption left out" if bare else ""
            repairs = len(self.domain.repairs)
            remarks.append(f"its reader noted {repairs} {plural(repairs, 'repair')}{out}; `data check` lists them")
        if self.domain.mark:
            remarks.append(f"its splits are {self.domain.mark}; rows that use it are marked")
        return [f"domain {self.name!r}: {remark}" for remark in remarks]


@dataclass(frozen=True, eq=False)
class Domains:
    """The domains of a grid by name, and its scenarios with every alias in its place."""

    by_name: Mapping[str, PlannedDomain]
    scenarios: tuple[Scenario, ...]

    def __getitem__(self, name: str) -> PlannedDomain:
        return self.by_name[name]

    def training_images(self, scenario: Scenario) -> int:
        """How many its sources have."""
        return sum(len(self.by_name[name].splits["train"].members) for name in scenario.source)

    def in_steps(self, recipe: T, scenario: Scenario) -> T:
        """A recipe with its length in steps of this scenario's sources.

        Raises UsageError where epochs come to no step, or to fewer than there are checkpoints.
        """
        images = self.training_images(scenario)
        found = recipe.in_steps(max(1, images // recipe.batch_size))
        if recipe.epochs is None:
            return found
        if not found.steps:
            raise UsageError(
                f"{type(recipe).__name__.lower()}: {recipe.epochs:g} epochs are no step in scenario {scenario}, "
                f"whose sources have {images:,} training images, in batches of {recipe.batch_size}; give more "
                "epochs, or steps: 0 for none"
            )
        if isinstance(found, Budget) and found.checkpoints > found.steps:
            raise UsageError(
                f"budget: {found.checkpoints} checkpoints do not fit into the {found.steps} steps that "
                f"{recipe.epochs:g} epochs are in scenario {scenario}"
            )
        return found


def read_domain(
    resolved: Resolved, exclusions: str | None = None, segments: str | None = None
) -> tuple[Domain, Excluded | None]:
    """A domain as its plugin reads it, without what a list excludes, and with the segments of a store.

    Raises DataError, PluginError, UsageError.
    """
    with resolved.plugin.blamed("to read it"):
        domain = resolved.build().read(resolved.reference.member)
    problem = misshapen(domain)
    if problem:
        raise PluginError(f"{resolved.plugin} gave no usable domain: {problem}")
    if segments:
        domain = replace(domain, segments=open_segments(Path(segments), domain))
    return without(domain, Path(exclusions)) if exclusions else (domain, None)


def read_domains(texts: Iterable[str], registry: Registry) -> dict[str, Domain]:
    """Domains by their references, aliases in their members' places, none of them checked.

    Raises DataError, PluginError or UsageError naming the domain.
    """
    references = [reference for text in texts for reference in registry.expand("dataset", text)]
    resolved = [registry.resolve("dataset", reference) for reference in references]
    domains = {}
    for one in resolved:
        name = str(one.reference)
        with naming(name):
            domains[name], _ = read_domain(one)
    return domains


def open_domains(grid: Grid, registry: Registry) -> Domains:
    """Read and check every domain of a grid. Raises UsageError, DataError or PluginError naming the domain."""
    members = _members(grid, registry)
    references = {name: text for group in members.values() for name, text in group.items()}
    for key, named in (("exclusions", grid.exclusions), ("segments", grid.segments)):
        unknown = next((name for name in named if name not in references), None)
        if unknown in members:
            raise UsageError(f"{key}: {unknown!r} is several domains; name one of {', '.join(members[unknown])}")
        if unknown is not None:
            raise UsageError(f"{key}: there is no domain {unknown!r}.{did_you_mean(unknown, references)}")
    domains = {name: _open(name, text, grid, registry) for name, text in references.items()}
    placed = (s for scenario in grid.expanded_scenarios() for s in _placed(scenario, members))
    scenarios = tuple(dict.fromkeys(placed))
    for scenario in scenarios:
        _refuse_disguised_target(scenario, domains)
    return Domains(domains, scenarios)


def _members(grid: Grid, registry: Registry) -> dict[str, dict[str, str]]:
    """The grid's name of a domain → the names and references it stands for: of an alias, those of its members."""
    expanded = {name: registry.expand("dataset", text) for name, text in grid.domains.items()}
    single = {name: references[0] for name, references in expanded.items() if len(references) == 1}

    def called(alias: str, reference: Reference) -> str:
        known = (name for name, other in single.items() if other == reference)
        return next(known, f"{alias}/{reference.member}")

    return {
        name: {name: text} if name in single else {called(name, r): str(r) for r in expanded[name]}
        for name, text in grid.domains.items()
    }


def _placed(scenario: Scenario, members: Mapping[str, Mapping[str, str]]) -> list[Scenario]:
    """The scenario with aliases in their members' places: sources pooled, a scenario for each target."""
    source = tuple(dict.fromkeys(name for alias in scenario.source for name in members[alias]))
    return [scenario.model_copy(update={"source": source, "target": t}) for t in members[scenario.target]]


def _open(name: str, text: str, grid: Grid, registry: Registry) -> PlannedDomain:
    exclusions, segments = grid.exclusions.get(name), grid.segments.get(name)
    with naming(name):
        resolved = registry.resolve("dataset", text)
        domain, excluded = read_domain(resolved, exclusions, segments)
        domain = replace(domain, name=name)
        check(domain)
        splits = {split: split_of(domain, split) for split in SPLITS}
        planned = PlannedDomain(name, text, resolved.plugin.version, exclusions, segments, excluded, splits)
        planned.facts()  # reads the files that the index does not know; what is wrong with them shows here
        return planned


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Errors say which domain they are about; what else a plugin makes us trip over is the plugin's."""
    try:
        yield
    except UrbanCrossError as error:
        raise error.after(f"domain {name!r}: ") from error
    except Exception as error:
        raise PluginError(f"domain {name!r}: what its plugin gave cannot be used: {error!r}") from error


def _refuse_disguised_target(scenario: Scenario, domains: Mapping[str, PlannedDomain]) -> None:
    """A target that is a source under another name, most of its training images being there, is no shift."""
    target = domains[scenario.target].contents["train"]
    for name in scenario.source:
        source = domains[name].contents["train"]
        shared = len(target & source)
        if name != scenario.target and 2 * shared > len(target):
            raise UsageError(
                f"scenario {scenario}: {name!r} and {scenario.target!r} hold the same data: they share {shared} "
                f"of the {len(source)} distinct training images of {name!r}, and of the {len(target)} of "
                f"{scenario.target!r}"
            )
