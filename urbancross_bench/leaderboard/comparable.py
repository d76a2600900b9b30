"""What makes rows comparable: content. Labels are what a grid happens to call things."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from urbancross_bench.identity import canonical_json, key_of
from urbancross_bench.names import domains_of


def recipe_of(run: Mapping[str, Any]) -> str:
    """What all rows of one comparison have in common over scenarios: encoder, segments, training, code."""
    names = ("pretraining", "budget", "precision", "threads", "ranks", "code")
    return canonical_json([_unlabelled(run["encoder"]), *(run[name] for name in names)])


def data_of(run: Mapping[str, Any]) -> list[Any]:
    """Its kind of scenario, and the splits, with their segments, but for the test split: see `measure_of`."""
    domains, names = run["domains"], domains_of(run["scenario"])
    content = [[domains[name]["splits"][part] for part in ("train", "val")] for name in names]
    if run["segments"]:
        segments = {name: facts["splits"] for name, facts in run["segments"]["domains"].items()}
        content += [[segments[n][part] if n in segments else None for part in ("train", "val")] for n in names]
    return [run["scenario"]["kind"], content]


def comparison_of(run: Mapping[str, Any]) -> str:
    """What rows that can be compared have in common: everything but method, selector and seed."""
    return canonical_json([data_of(run), recipe_of(run)])


def method_of(run: Mapping[str, Any], score: Mapping[str, Any]) -> list[Any]:
    """What the method and its selector are, and how much of the target they were shown; which pairs of a share,
    the scenario says.
    """
    shown = {name: value for name, value in run["shown"].items() if name != "share_seed"}
    return [_unlabelled(run["adaptation"]), run["search"], shown, score["selected_by"]]


def averaged_of(run: Mapping[str, Any], score: Mapping[str, Any]) -> str:
    """What rows share whose numbers are averaged over scenarios: recipe, and how scores were taken."""
    names = ("protocol", "ties", "precision", "measured_by")
    return canonical_json([recipe_of(run), *(score[name] for name in names)])


def cell_of(comparison: str, run: Mapping[str, Any], score: Mapping[str, Any]) -> str:
    """What the seeds of one row have in common."""
    return canonical_json([comparison, method_of(run, score), run["shown"], measure_of(score)])


def seeds_of(run: Mapping[str, Any]) -> str:
    """A name, of eight digits, for the runs of one method in one scenario, whichever their seed."""
    tested = run["domains"][run["scenario"]["target"]]["splits"]["test"]
    method = [_unlabelled(run["adaptation"]), run["search"], run["shown"]]
    return key_of([comparison_of(run), tested, method])[:8]


def measure_of(score: Mapping[str, Any]) -> str:
    """How a score was taken: protocol, ties, precision, test split, what is the same in it, metrics, code."""
    # items: the key of the stage that told equal strings and scene classes
    names = ("protocol", "ties", "precision", "test", "items", "segments", "measured_by")
    return canonical_json([score[name] for name in names])


def measures_more(score: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether a score has all metrics of another, and further ones."""
    known, wanted = (one["measured_by"]["metrics"] for one in (score, other))
    return len(known) > len(wanted) and all(metric in known for metric in wanted)


def without_metrics(score: Mapping[str, Any]) -> dict[str, Any]:
    """A score whichever metrics were taken."""
    return {**score, "measured_by": score["measured_by"] | {"metrics": ()}}


def _unlabelled(named: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in named.items() if key != "label"}
