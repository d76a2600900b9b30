"""The report card of `plugins check`: which plugins are meant, what each promises, and what it keeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from urbancross_bench.errors import PluginError, UsageError, did_you_mean
from urbancross_bench.references import Reference
from urbancross_bench.registry import Plugin, Registry
from urbancross_bench.sources import file_of
from urbancross_bench.testing.runner import Kept, Subject, keep, prepare

_MARKS = {"kept": "✓", "broken": "✗", "skipped": "–"}


def subjects(what: str, written: Sequence[str]) -> list[Subject]:
    """The plugins of a distribution, of an entry point, or of a file, each with the options `written` gives.

    Raises UsageError where nothing is meant, PluginError where it cannot be registered.
    """
    files = (str(file_of(what)),) if what.endswith(".py") else ()
    registry = Registry.discover(files)
    wanted = [plugin for plugin in registry.plugins if _is_of(plugin, what, files)]
    for provider in registry.providers:
        if provider.error and what in (provider.name, provider.distribution):
            raise PluginError(f"plugin {provider} cannot be registered: {provider.error}")
    if not wanted:
        names = {
            name for provider in registry.providers for name in (provider.name, provider.distribution) if name
        }
        if "[" in what:
            raise UsageError(f"name what offers it first: plugins check DISTRIBUTION|FILE {what!r}")
        raise UsageError(f"there is no distribution, entry point or file {what!r}.{did_you_mean(what, names)}")
    references = [Reference.parse(text) for text in written]
    known = {plugin.registration.name for plugin in wanted}
    if strange := [reference.name for reference in references if reference.name not in known]:
        raise UsageError(f"{what} has no plugin {strange[0]!r}.{did_you_mean(strange[0], known)}")
    return [
        Subject(plugin.kind, plugin.registration.name, dict(given.options), given.member, files)
        for plugin in wanted
        for given in [one for one in references if one.name == plugin.registration.name]
        or [Reference(plugin.registration.name, None, {})]
    ]


def _is_of(plugin: Plugin, what: str, files: Sequence[str]) -> bool:
    provider = plugin.provider
    return provider.location in files if files else what in (provider.name, provider.distribution)


def card(some: Sequence[Subject], patience: float) -> Iterator[tuple[Subject, list[Kept]]]:
    """Each plugin with what became of its promises."""
    prepare(subject.kind for subject in some)
    for subject in some:
        yield subject, list(keep(subject, patience))


def lines(subject: Subject, kept: Sequence[Kept]) -> Iterator[str]:
    """A plugin's part of the card, for people."""
    counts = {outcome: sum(one.outcome == outcome for one in kept) for outcome in _MARKS}
    told = ", ".join(f"{count} {outcome}" for outcome, count in counts.items() if count)
    yield f"{subject.kind} {Reference(subject.name, subject.member, dict(subject.options))}: {told}"
    for one in kept:
        yield f"  {_MARKS[one.outcome]} {one.words}"
        if one.why:
            yield f"      {' '.join(one.why.split())}"


def as_json(subject: Subject, kept: Sequence[Kept]) -> Mapping[str, Any]:
    """The same for programs."""
    return {
        "kind": subject.kind,
        "name": subject.name,
        "options": dict(subject.options),
        "promises": [{"promise": one.promise, "outcome": one.outcome, "why": one.why} for one in kept],
    }
