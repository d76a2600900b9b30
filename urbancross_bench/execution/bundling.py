"""From an output folder to a bundle: its grids as they were last run, and what the records say of each run."""

from __future__ import annotations

import importlib.metadata
import platform
import re
import shlex
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from urbancross_bench import __version__
from urbancross_bench.errors import DataError, UsageError
from urbancross_bench.execution.bundle import DATA, ENVIRONMENT, GRIDS, MADE_BY, RECORDS, is_bundle, pack_bundle
from urbancross_bench.execution.keeping import KeptGrid, asked_for, kept_grids
from urbancross_bench.execution.provenance import plugin_distributions
from urbancross_bench.files import keep_others, write_json
from urbancross_bench.identity import DISTRIBUTION, canonical_json, file_digest
from urbancross_bench.leaderboard.committed import write_committed
from urbancross_bench.records import Record, read_records
from urbancross_bench.registry import Registry
from urbancross_bench.specs import as_json


@dataclass(frozen=True)
class Bundled:
    """What went into a bundle, and what whoever takes it has to know: sentences."""

    runs: int
    scores: int
    remarks: tuple[str, ...]


def write_bundle(out: Path, file: Path, drift: float) -> Bundled:
    """Bundle the grids that were run in a folder with their records. drift: the points of mR that may differ.

    An older bundle is replaced. Raises UsageError where no grid is kept, or none of them has a record, and for
    another file that is there.
    """
    keep_others(file, is_bundle)
    grids = kept_grids(out)
    if not grids:
        raise UsageError(
            f"no grid is kept in {out}; run it again with --out {out}: nothing is redone, and the grid is kept"
        )
    records = asked_for(grids, read_records([out]))
    if not records:
        raise UsageError(f"the grids in {out} have no records; run them first")
    known = {record.folder.name for record in records}
    with tempfile.TemporaryDirectory(prefix="bundle-") as holder:
        folder = Path(holder)
        remarks = [*_lacking(grids, records), *_write_grids(grids, folder / GRIDS)]
        write_committed(records, folder / RECORDS)
        write_json(folder / DATA, _data(records))
        write_json(folder / ENVIRONMENT, _environment())
        (folder / "environment.txt").write_text("\n".join([*_distributions(), ""]), encoding="utf-8")
        remarks += [*_from_elsewhere(grids), *_other_versions(records)]
        index = {
            "made_by": f"{MADE_BY}{__version__}",
            "drift": drift,
            "grids": {kept.grid.name: [key for key in kept.runs if key in known] for kept in grids},
        }
        (folder / "README.md").write_text(_readme(grids, file.name, drift, remarks), encoding="utf-8")
        file.parent.mkdir(parents=True, exist_ok=True)
        pack_bundle(folder, index, file)
    return Bundled(len(records), sum(len(record.scores) for record in records), tuple(remarks))


def _lacking(grids: Sequence[KeptGrid], records: Sequence[Record]) -> list[str]:
    well = {record.folder.name for record in records if record.ok}
    remarks = []
    for kept in grids:
        missing = sum(key not in well for key in kept.runs)
        if missing:
            remarks.append(f"{missing} of {len(kept.runs)} runs of grid {kept.grid.name!r} have not ended well")
    lost = Counter(name for record in records for score in record.scores for name in score.content["failed"])
    return remarks + [f"metric {name} failed in {count} scores" for name, count in sorted(lost.items())]


def _write_grids(grids: Sequence[KeptGrid], folder: Path) -> list[str]:
    """Each grid as a file that `run` takes, with the files it names beside it; what has to be found elsewhere."""
    folder.mkdir()
    remarks = []
    for kept in grids:
        content, name = as_json(kept.grid), kept.grid.name
        beside = folder / f"{name}-files"
        content["plugins"] = [_brought(file, beside, kept.files) for file in content["plugins"]]
        content["exclusions"] = {
            d: _brought(file, beside, kept.files) for d, file in content["exclusions"].items()
        }
        for domain, place in content["segments"].items():
            remarks.append(f"grid {name!r} takes segments of {domain!r} from {place}, which is not in the bundle")
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8", newline="\n")
    return remarks


def _brought(named: str, folder: Path, digests: Mapping[str, str]) -> str:
    """Copy a file that a grid names; what the grid calls it from now on. Raises DataError if it is gone, or is not
    what it was when the grid was run: its digest is among these.
    """
    folder.mkdir(exist_ok=True)
    file = Path(named)
    place, number = folder / file.name, 1
    try:
        content = file.read_bytes()
        if (found := file_digest(file)) != digests.get(named, found):
            grid = folder.name.removesuffix("-files")
            raise DataError(
                f"{file} has changed since grid {grid!r} was run: run that again with its --out, or bring it back"
            )
        while place.exists() and place.read_bytes() != content:
            number += 1
            place = folder / f"{file.stem}-{number}{file.suffix}"
        shutil.copyfile(file, place)
    except OSError as error:
        raise DataError(f"{file}, which the grid names, cannot be read: {error}") from error
    return f"{folder.name}/{place.name}"


def _data(records: Sequence[Record]) -> dict[str, Any]:
    """Per domain what records say of it, its licence among it; several times where that differs between them."""
    said: dict[str, dict[str, Any]] = {}
    for record in records:
        for name, facts in record.spec["domains"].items():
            said.setdefault(name, {})[canonical_json(facts)] = facts
    return {name: {"content": [said[name][key] for key in sorted(said[name])]} for name in sorted(said)}


def _environment() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "plugins": plugin_distributions(),
    }


def _distributions() -> list[str]:
    """What is installed, one a line, as pip reads it; what comes from no index is a comment."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name, version = distribution.metadata["Name"], distribution.version
        if name:
            line = f"{name}=={version}"
            if _of_no_index(distribution):
                line = f"# {line}: from no index; install it by hand"
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), line)
    return [found[name] for name in sorted(found)]


def _of_no_index(distribution: importlib.metadata.Distribution) -> bool:
    """Whether it was installed from a folder, an archive or a repository: a version alone does not find it."""
    return bool(distribution.read_text("direct_url.json"))


def _from_elsewhere(grids: Sequence[KeptGrid]) -> list[str]:
    """Distributions with plugins that the grids name, where nobody can install them by their version."""
    kinds = ("domains", "encoders", "adaptations")
    named = canonical_json(
        [
            [*(list(getattr(kept.grid, kind).values()) for kind in kinds), kept.grid.selectors, kept.grid.metrics]
            for kept in grids
        ]
    )
    used = {
        plugin.provider.distribution
        for plugin in Registry.discover().plugins
        if re.search(rf"(?<![\w-]){re.escape(plugin.registration.name)}(?![\w-])", named)
    }
    return [
        f"plugins of {name} {version} are in no index and not in the bundle: give them too, environment.txt cannot"
        for name, version in sorted(plugin_distributions().items())
        if name in used - {DISTRIBUTION} and _of_no_index(importlib.metadata.distribution(name))
    ]


def _other_versions(records: Sequence[Record]) -> list[str]:
    """Where the environment of the bundle is not the one that runs were made in."""
    made: dict[str, set[str]] = {}
    for record in records:
        for facts in record.provenance().values():
            used = {**(facts.get("versions") or {}), **(facts.get("plugins") or {})}
            for name, version in used.items():
                made.setdefault(name, set()).add(version)
    remarks = []
    for name in sorted(made):
        try:
            here = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            here = "none"
        if made[name] != {here}:
            versions = " and ".join(sorted(made[name]))
            remarks.append(f"runs were made with {name} {versions}, where environment.txt has {here}")
    return remarks


def _readme(grids: Sequence[KeptGrid], file: str, drift: float, remarks: Sequence[str]) -> str:
    text = files("urbancross_bench.execution").joinpath("bundle_readme.md").read_text(encoding="utf-8")
    runs = [f"urbancross-bench run bundle/{GRIDS}/{kept.grid.name}.yaml --out rerun" for kept in grids]
    return text.format(
        file=shlex.quote(file),
        drift=f"{drift:g}",
        runs="\n".join(runs),
        remarks="\n".join(f"- {remark}" for remark in remarks) or "- none",
    )
