"""What the stages still to do may take, from what stages like them took that are in the store."""

from __future__ import annotations

import heapq
import statistics
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from urbancross_bench.execution.plan import Plan
from urbancross_bench.execution.stage import Stage
from urbancross_bench.execution.store import Entry, Store
from urbancross_bench.identity import canonical_json
from urbancross_bench.registry import Registry

# How alike a stored stage has to be, the closest first.
ALIKE = ("the same settings", "the same encoder and method", "the same encoder", "the same kind")
_VERSIONS = frozenset({"version", "code", "reader", "decoders", "seed"})  # facts that change no cost to speak of
_Look = Callable[[str], tuple[Mapping[str, Any], Mapping[str, str]] | None]  # key → facts and inputs, if known


@dataclass(frozen=True)
class Guess:
    """What a stage may take, by stored ones that are this much alike (of ALIKE)."""

    seconds: float
    size: float
    alike: str


@dataclass(frozen=True, eq=False)
class Estimate:
    """What stages to do may take: by key, those of which something is known.

    `slots` of them run at once (None: the executor does not say), which takes `span` seconds.
    """

    stages: tuple[Stage, ...]
    guesses: Mapping[str, Guess]
    slots: int | None

    @property
    def seconds(self) -> float:
        """Of all known ones, one after the other."""
        return sum(guess.seconds for guess in self.guesses.values())

    @property
    def size(self) -> float:
        """Bytes of all known ones."""
        return sum(guess.size for guess in self.guesses.values())

    @property
    def span(self) -> float:
        """Seconds until all known ones have ended, each begun as soon as its inputs and a slot are there."""
        return _span(self.stages, {key: guess.seconds for key, guess in self.guesses.items()}, self.slots or 1)

    @property
    def unknown(self) -> tuple[str, ...]:
        """The kinds of which nothing is known for some stage."""
        return tuple(dict.fromkeys(stage.kind for stage in self.stages if stage.key not in self.guesses))

    def to_json(self) -> dict[str, Any]:
        """Plain values: totals, null where a stage is unknown, and by kind."""
        known = not self.unknown
        kinds: dict[str, list[Stage]] = defaultdict(list)
        for stage in self.stages:
            kinds[stage.kind].append(stage)
        return {
            "seconds": self.seconds if known else None,
            "slots": self.slots,
            "seconds_with_slots": self.span if known else None,
            "bytes": round(self.size) if known else None,
            "unknown": list(self.unknown),
            "kinds": {kind: self.of(stages) for kind, stages in kinds.items()},
        }

    def of(self, stages: Sequence[Stage]) -> dict[str, Any]:
        """Of some of the stages: how many, what the known ones may take, and how these are known."""
        found = [self.guesses[stage.key] for stage in stages if stage.key in self.guesses]
        alike = max((guess.alike for guess in found), key=ALIKE.index, default=None)
        return {
            "stages": len(stages),
            "known": len(found),
            "seconds": sum(guess.seconds for guess in found) if found else None,
            "bytes": round(sum(guess.size for guess in found)) if found else None,
            "by": alike,  # the least alike of them
        }


def estimate(plan: Plan, stages: Sequence[Stage], store: Store, registry: Registry) -> Estimate:
    """Guess from the store of the output folder. Imports nothing heavy; with nothing to do, it reads nothing."""
    entries = {entry.key: entry for entry in store.entries()} if stages else {}
    look = _looker(plan, entries)
    kinds = {stage.kind for stage in stages}
    past, gpu = _Past(), False
    for key, entry in entries.items():
        known = look(key) if entry.kind in kinds else None
        took = _took(entry)
        if known is not None and took is not None:
            seconds, size, on_gpu = took
            past.add(_Traits.of(entry.kind, *known, look), seconds, size)
            gpu = gpu or on_gpu
    traits = {stage.key: _Traits.of(stage.kind, stage.facts, stage.inputs, look) for stage in stages}
    guesses = {key: guess for key, of in traits.items() if (guess := past.guess(of)) is not None}
    return Estimate(tuple(stages), guesses, _slots(plan, registry, gpu) if stages else None)


@dataclass(frozen=True)
class _Traits:
    """What of a stage tells how long it takes: how it has to be alike (of ALIKE) → what has to be equal for that.

    From the most telling to the kind. `images` it trains on, or 0.
    """

    keys: Mapping[str, Hashable]
    images: int

    @classmethod
    def of(cls, kind: str, facts: Mapping[str, Any], inputs: Mapping[str, str], look: _Look) -> _Traits:
        recipe = facts.get("recipe") or facts.get("budget") or {}
        images = (recipe.get("steps") or 0) * recipe.get("batch_size", 0)
        encoder, method = _ancestry(facts, inputs, look)
        levels = (_settings(facts), encoder, method), (encoder, method), (encoder,), ()
        said = [True, encoder and method, encoder, True]  # what is not known of two is not alike
        keys = {
            alike: (kind, images > 0, alike, *level)
            for alike, level, known in zip(ALIKE, levels, said, strict=True)
            if known
        }
        return cls(keys, images)


class _Past:
    """What stages took that were run here, by what they are like."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, list[tuple[float, float]]] = defaultdict(list)

    def add(self, traits: _Traits, seconds: float, size: float) -> None:
        """One more; the time of a training counts by the image."""
        for key in traits.keys.values():
            self._seen[key].append((seconds / (traits.images or 1), size))

    def guess(self, traits: _Traits) -> Guess | None:
        """The medians over the most alike; None if there is nothing of the kind."""
        for alike, key in traits.keys.items():
            if seen := self._seen.get(key):
                seconds, size = (statistics.median(values) for values in zip(*seen, strict=True))
                return Guess(seconds * (traits.images or 1), size, alike)
        return None


def _looker(plan: Plan, entries: Mapping[str, Entry]) -> _Look:
    known: dict[str, tuple[Mapping[str, Any], Mapping[str, str]] | None] = {}

    def look(key: str) -> tuple[Mapping[str, Any], Mapping[str, str]] | None:
        if stage := plan.stages.get(key):
            return stage.facts, stage.inputs
        if key not in known:
            try:
                manifest = entries[key].manifest()
                known[key] = (manifest["facts"], manifest["inputs"])
            except (KeyError, OSError, ValueError):
                known[key] = None
        return known[key]

    return look


def _ancestry(facts: Mapping[str, Any], inputs: Mapping[str, str], look: _Look) -> tuple[str, str]:
    """The encoder and the method of a stage, which may stand with a stage that it builds on; empty if unknown."""
    encoder = method = ""
    while True:
        encoder = encoder or _settings(facts.get("encoder") or facts.get("format") or "")
        method = method or str(facts.get("adaptation", {}).get("name", ""))
        above = inputs.get("test.0") or inputs.get("model") or inputs.get("start")
        found = look(above) if above else None
        if found is None:
            return encoder, method
        facts, inputs = found


def _settings(facts: Any) -> str:
    """Facts without what may change while the cost stays; empty for none."""
    return canonical_json(_stripped(facts)) if facts else ""


def _stripped(facts: Any) -> Any:
    if isinstance(facts, Mapping):
        return {name: _stripped(value) for name, value in facts.items() if name not in _VERSIONS}
    return facts


def _took(entry: Entry) -> tuple[float, int, bool] | None:
    """Seconds, bytes, and whether a GPU was used; None if its files do not say."""
    try:
        provenance = entry.provenance()
        return float(provenance["seconds"]), entry.size, "cuda_peak_bytes" in provenance
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _slots(plan: Plan, registry: Registry, gpu: bool) -> int | None:
    """How many stages run at once. Only our own executor is asked: another's may look for a cluster when made."""
    grid = plan.grid
    resolved = registry.resolve("executor", grid.executor)
    if resolved.reference.name == "local" and not gpu:
        slots: int = resolved.build().slots("cpu", grid.ranks, grid.threads)
        return slots
    return getattr(resolved.options, "slots", None)


def _span(stages: Iterable[Stage], seconds: Mapping[str, float], slots: int) -> float:
    """When the last stage ends, if they are handed out in order as soon as their inputs and a slot are there."""
    waiting = {stage.key: sum(1 for _ in stage.inputs) for stage in stages}
    order = {key: number for number, key in enumerate(waiting)}
    heirs: dict[str, list[str]] = defaultdict(list)
    for stage in stages:
        for key in stage.inputs.values():
            if key in order:
                heirs[key].append(stage.key)
            else:
                waiting[stage.key] -= 1  # stored
    ready = [(order[key], key) for key, open_ in waiting.items() if not open_]
    heapq.heapify(ready)
    running: list[tuple[float, int, str]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < slots:
            number, key = heapq.heappop(ready)
            heapq.heappush(running, (now + seconds.get(key, 0.0), number, key))
        now, _, ended = heapq.heappop(running)
        for key in heirs[ended]:
            waiting[key] -= 1
            if not waiting[key]:
                heapq.heappush(ready, (order[key], key))
    return now
