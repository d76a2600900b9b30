"""What runs are called: names of domains, encoders and methods are a grid's, and no part of what a run is.

RUNS/names.json    what the grid that was run last calls runs whose records have other names
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from urbancross_bench.errors import DataError
from urbancross_bench.files import read_object, replacing, write_json

NAMES = "names.json"


def keep_names(runs: Path, called: Mapping[str, Mapping[str, Any] | None]) -> None:
    """Have `records.read_records` call runs by other names than the grid did that made their records.

    called: of runs, by key, their spec with the other names; None where the record has the right ones. Other runs
    are called as they were. Only for the holder of the output folder's lock.
    """
    before = None
    with suppress(DataError):  # damaged: what it said of these runs is told anew
        before = kept_names(runs)
    names = {key: spec for key, spec in (before or {}).items() if key not in called}
    names |= {key: names_of(spec) for key, spec in called.items() if spec is not None}
    if names != before:
        with replacing(runs / NAMES) as fresh:
            write_json(fresh, names)


def kept_names(runs: Path) -> dict[str, Any]:
    """Run key → the names that `keep_names` left for it. Raises DataError for a damaged file."""
    file = runs / NAMES
    names = read_object(file) if file.is_file() else {}
    try:
        return {key: names_of(spec) for key, spec in names.items()}
    except (LookupError, TypeError) as error:
        raise DataError(
            f"{file} holds no names of runs; run the grid again with the same --out, or delete it"
        ) from error


def names_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Of a run's spec what `records.called_as` takes: its scenario, and labels. Raises as `domains_of`."""
    labels = {part: {"label": spec[part]["label"]} for part in ("encoder", "adaptation")}
    domains_of(spec["scenario"])
    return {"scenario": spec["scenario"], **labels}


def domains_of(scenario: Mapping[str, Any]) -> list[str]:
    """The names of its sources, in order, and of its target. Raises LookupError or TypeError for no scenario."""
    return [*scenario["source"], scenario["target"]]


def are_called_alike(spec: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two copies of a run have the same names for its domains, encoder and method."""
    return names_of(spec) == names_of(other)


def names_in(scenario: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, str]:
    """What another copy of a run calls the domains of its scenario: names are no part of what a run is."""
    return dict(zip(domains_of(scenario), domains_of(other), strict=True))
