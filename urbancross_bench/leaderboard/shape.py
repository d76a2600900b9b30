"""What a record must hold so that tables can be made of it; of one edited by hand the file at fault is named."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Any

from urbancross_bench.errors import DataError
from urbancross_bench.names import domains_of
from urbancross_bench.records import Record

_Types = Mapping[str, type | tuple[type, ...]]

# Optional parts are there, and null.
_OBJECTS = ("scenario", "encoder", "adaptation", "shown", "pretraining", "budget", "domains")
_RUN: _Types = {
    **dict.fromkeys(
        ("seed", "steps", "threads", "ranks", "test_images_in_training", "target_images_in_sources"), int
    ),
    **dict.fromkeys(("status", "key", "grid", "precision", "code"), str),
    **dict.fromkeys(_OBJECTS, dict),
    **dict.fromkeys(("search", "segments"), (dict, NoneType)),
}
_SCORE: _Types = {
    **dict.fromkeys(("draws", "images", "texts"), int),
    **dict.fromkeys(("key", "selector", "domain", "setting", "test", "protocol", "ties", "precision"), str),
    **dict.fromkeys(("items", "segments"), str),
    **dict.fromkeys(("selected_by", "measured_by", "metrics", "failed", "floors"), dict),
    **dict.fromkeys(("calibration", "drift"), (dict, NoneType)),
}
_NAMED = ("encoder", "adaptation")
_OF_DOMAIN: _Types = {"splits": dict, "mark": str, "excluded": (dict, NoneType)}
_LENGTHS = ("steps", "epochs")
_WITHIN = {
    "scenario": ("source", "target", "kind"),
    "encoder": ("label", "name", "weights"),
    "adaptation": ("label", "name"),
    "shown": ("setting",),
    "pretraining": _LENGTHS,
    "measured_by": ("metrics", "code"),
    "selected_by": ("name",),
}


def check_shape(record: Record) -> None:
    """Raise DataError naming a file of the record that lacks a fact, or holds one of another type."""
    _check(record.folder / "run.json", record.spec, _RUN)
    _check_names(record.folder / "run.json", record.spec)
    if not isinstance(seen := record.spec.get("target_images_in_weights", 0), int):
        raise DataError(f"record {record.folder / 'run.json'} holds {seen!r} as its target_images_in_weights")
    for score in record.scores:
        file = score.folder / "score.json"
        _check(file, score.content, _SCORE)
        _check_metrics(file, score.content["metrics"])
        if not all(isinstance(why, str) for why in score.content["failed"].values()):
            raise DataError(f"record {file} holds {score.content['failed']!r} as its failed")


def _check(file: Path, content: Mapping[str, Any], types: _Types) -> None:
    if missing := [name for name in types if name not in content]:
        raise DataError(f"record {file} lacks {', '.join(missing)}")
    for name, type_ in types.items():
        if not isinstance(content[name], type_):
            raise DataError(f"record {file} holds {content[name]!r} as its {name}")
        if missing := [within for within in _WITHIN.get(name, ()) if within not in content[name]]:
            raise DataError(f"record {file} lacks {', '.join(missing)} in its {name}")


def _check_names(file: Path, spec: Mapping[str, Any]) -> None:
    names = [*domains_of(spec["scenario"]), *(spec[part][of] for part in _NAMED for of in ("label", "name"))]
    if not all(isinstance(name, str) for name in names):
        raise DataError(f"record {file} holds {names!r} as names")
    if missing := {*domains_of(spec["scenario"])} - spec["domains"].keys():
        raise DataError(f"record {file} lacks the domain {min(missing)} among its domains")
    for domain, facts in spec["domains"].items():
        if not isinstance(facts, dict) or not all(
            name in facts and isinstance(facts[name], types) for name, types in _OF_DOMAIN.items()
        ):
            raise DataError(f"record {file} lacks {', '.join(_OF_DOMAIN)} of the domain {domain}")
    if not all(isinstance(spec["pretraining"][length], int | float | None) for length in _LENGTHS):
        raise DataError(f"record {file} holds {spec['pretraining']!r} as its pretraining")
    if not (isinstance(spec["encoder"]["weights"], dict) and "status" in spec["encoder"]["weights"]):
        raise DataError(f"record {file} lacks the status of its encoder's weights")


def _check_metrics(file: Path, metrics: Mapping[str, Any]) -> None:
    """Raise DataError for a metric that is no number, or lacks what is said of one."""
    for name, entry in metrics.items():
        try:
            ends = [end for end in (entry["low"], entry["high"]) if end is not None]
            numbers = [entry["value"], entry["chance"], *ends]
            sound = (
                all(math.isfinite(number) and not isinstance(number, bool) for number in numbers)
                and isinstance(entry["parts"], list)
                and all(isinstance(part, str) for part in entry["parts"])
                and isinstance(entry["higher_is_better"], bool)
            )
        except (LookupError, TypeError, OverflowError):
            sound = False
        if not sound:
            raise DataError(f"record {file} holds {entry!r} as its metric {name}")
