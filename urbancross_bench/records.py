"""Records: what a run left behind. One directory per run, named by its key; below it one per score.

    RUNS/<run key>/run.json            the run's spec and status
                   provenance.json     versions, hardware, time: what may differ when a run is repeated
                   curve.json          what training said of its steps, as means per pass
                   failure.json        where it failed, with the traceback
                   scores/<score key>/ score.json, queries.safetensors, items.json

A directory is written beside its final place and renamed into it. Scores are never changed, but for one with a
metric that failed: it is replaced once that was tried again.
"""

from __future__ import annotations

import gc
import marshal
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from urbancross_bench.errors import DataError
from urbancross_bench.files import publish, read_object, write_json
from urbancross_bench.identity import canonical_json
from urbancross_bench.interfaces.scenarios import route
from urbancross_bench.names import are_called_alike, kept_names, names_in, names_of

SCHEMA = 5
IMAGE_SUMS = "image_sums."
_PROVENANCE = "provenance.json"
_PARTIAL = ".partial-"
_OWN = ("key", "run", "stages", "metrics")  # what no two records have in common
STATUSES = ("ok", "failed", "skipped", "timeout", "oom", "interrupted")


@dataclass(frozen=True, eq=False)
class ScoreRecord:
    """One score of a run: the content of its `score.json`, and the arrays beside it when asked for."""

    folder: Path
    content: Mapping[str, Any]

    @property
    def output(self) -> Path:
        """OUT of OUT/runs/RUN/scores/SCORE: the folder that may have a store, however this one was named, and
        wherever `runs` leads.
        """
        return self.folder.absolute().parents[3]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Per-query counts and per-image sums; see `execution.scoring.score_ranking`."""
        with self._opened() as arrays:
            return {name: arrays.get_tensor(name) for name in arrays.keys()}  # noqa: SIM118 - no mapping

    def image_sums(self) -> dict[str, NDArray[np.float64]]:
        """Metric → (N, 2) per image the sum of its queries' values and their number; nothing else is read.

        Raises DataError if they are not of as many images as the score.
        """
        found = {name.removeprefix(IMAGE_SUMS): array for name, array in self._sums().items()}
        for name, array in found.items():
            if array.shape != (self.content["images"], 2):
                raise DataError(
                    f"record {self.folder} has sums of {name} in the form {array.shape}, where "
                    f"{self.content['images']} images were ranked"
                )
        return found

    def look(self) -> None:
        """Raise DataError if the arrays cannot be read, as far as their file's head and length tell."""
        with self._opened():
            pass

    def _sums(self) -> dict[str, NDArray[Any]]:
        """The arrays that `image_sums` is of."""
        with self._opened() as arrays:
            names = arrays.keys()
            return {name: arrays.get_tensor(name) for name in names if name.startswith(IMAGE_SUMS)}

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        file = self.folder / "queries.safetensors"
        try:
            with safe_open(file, framework="numpy") as arrays:
                yield arrays
        except Exception as error:  # safetensors raises its own type, OSError and ValueError
            raise DataError(f"record {file} cannot be read: {error}") from error


def trainings_of(spec: Mapping[str, Any]) -> dict[str, str]:
    """The trainings of a run, as `curve.json` calls them → keys of their stages; trials after the first, which is
    the grid's own, have a number.
    """
    adapting = {f"adapt {n}" if n else "adapt": key for n, key in enumerate(spec["stages"]["adapt"])}
    return {"pretrain": spec["stages"]["pretrain"], **adapting}


@dataclass(frozen=True, eq=False)
class Record:
    """One run: its spec with its status, and its scores in order of their keys."""

    folder: Path
    spec: Mapping[str, Any]
    scores: tuple[ScoreRecord, ...]

    @property
    def ok(self) -> bool:
        """Whether the run ended as it should; only such a run is reused."""
        return bool(self.spec["status"] == "ok")

    def beside(self, name: str) -> dict[str, Any]:
        """The content of a JSON file beside `run.json`; empty without it. Raises DataError naming a bad one."""
        file = self.folder / name
        return read_object(file) if file.is_file() else {}

    def provenance(self) -> dict[str, Mapping[str, Any]]:
        """Training → what it was computed with, and took; empty for a run that has not ended well."""
        content = self.beside(_PROVENANCE)
        if not all(isinstance(facts, dict) for facts in content.values()):
            raise DataError(f"record {self.folder / _PROVENANCE} holds no provenance of trainings")
        return content


def in_words(spec: Mapping[str, Any]) -> str:
    """A run by its spec: `plain → dark · vit · urbancross · seed 0`."""
    labels = (spec[part]["label"] for part in ("encoder", "adaptation"))
    return " · ".join([route(spec["scenario"]), *labels, f"seed {spec['seed']}"])


def failed_metrics(scores: Iterable[Mapping[str, Any]]) -> list[str]:
    """`metric flaky: OSError('…')`: which metrics failed in scores, and why, each different reason once."""
    failed = [one for score in scores for one in score["failed"].items()]
    return list(dict.fromkeys(f"metric {name}: {why}" for name, why in failed))


def is_shifted(scenario: Mapping[str, Any]) -> bool:
    """Whether the target of a record's scenario is none of its sources."""
    return scenario["kind"] not in ("in_domain", "seen_target")


def weights_lacked(spec: Mapping[str, Any]) -> bool:
    """Whether some of the first weights were allowed to be missing, when they were loaded or further back."""
    weights = spec["encoder"]["weights"]
    return bool(weights.get("partial") or weights.get("was_partial"))


def versions_of(plugin: Mapping[str, Any]) -> list[str]:
    """Of a plugin's code, and of the method that it calibrates, given what a record says of the plugin."""
    return [str(one["version"]) for one in (plugin, plugin.get("base", {})) if "version" in one]


def read_record(folder: Path, shared: dict[bytes, Any] | None = None) -> Record | None:
    """The record in a directory; None if there is none. Raises DataError naming a malformed file.

    shared: values that records have in common, each of them held once; give all records of a list the same.
    """
    shared = {} if shared is None else shared
    if not (folder / "run.json").is_file():
        return None
    spec = _read(folder / "run.json", ("schema", "status", "key"), shared)
    if spec["key"] != folder.name or spec["status"] not in STATUSES:
        raise DataError(f"record {folder / 'run.json'} does not fit its directory, or has an unknown status")
    try:
        names_of(spec)
    except (LookupError, TypeError) as error:
        raise DataError(f"record {folder / 'run.json'} names no scenario, encoder and adaptation") from error
    scores = []
    for place in _visible(folder / "scores"):
        content = _read(place / "score.json", ("schema", "key", "metrics", "failed", "floors"), shared)
        if content["key"] != place.name:
            raise DataError(f"record {place / 'score.json'} does not fit its directory")
        scores.append(ScoreRecord(place, content))
    return Record(folder, spec, tuple(scores))


def read_whole(folder: Path) -> Record | None:
    """`read_record`, with a look at the file of arrays of each score: it is there, and of the length it tells."""
    record = read_record(folder)
    for score in record.scores if record else ():
        score.look()
    return record


def runs_of(place: Path) -> Path:
    """Where the runs lie that a folder stands for: an output has them in `runs`, a board or an unpacked bundle in
    `records`; any other folder holds them itself.
    """
    return next((place / name for name in ("runs", "records") if (place / name).is_dir()), place)


def read_records(places: Sequence[Path], check: Callable[[Record], object] = bool) -> list[Record]:
    """All records below some folders, each of which `runs_of` leads to, in order of their keys.

    A run that stands in several folders counts once, with the scores of all of them; where copies differ, the
    choice depends on the folders' content, never on their order: all runs have their names of the folder with the
    most runs, as far as they are there. check: is given each as it stands there. Raises DataError for a folder
    without any, and for a record without its `run.json`.
    """
    found: dict[str, list[tuple[tuple[int, str], Record]]] = {}
    shared: dict[bytes, Any] = {}
    for place in places:
        with _collecting_nothing():
            runs = runs_of(place)
            records = [record for folder in _visible(runs) if (record := _expected(folder, shared))]
        if not records:
            raise DataError(
                f"{place} holds no record of a run; give the output folder of a grid, a board or a bundle's folder"
            )
        for record in records:
            check(record)
        called = kept_names(runs)
        records = [called_as(record, called.get(record.folder.name, record.spec)) for record in records]
        names = canonical_json({record.folder.name: names_of(record.spec) for record in records})
        for record in records:
            found.setdefault(record.folder.name, []).append(((-len(records), names), record))
    return [_merged(found[key]) for key in sorted(found)]


def _expected(folder: Path, shared: dict[bytes, Any]) -> Record | None:
    """The record in a directory; None if nothing of one is there. Raises DataError where not all of it is."""
    record = read_record(folder, shared)
    if record is None and (folder / "scores").is_dir():
        raise DataError(
            f"record {folder} lacks its run.json; run its grid again with the same --out, or delete the folder"
        )
    return record


@contextmanager
def _collecting_nothing() -> Iterator[None]:
    """Records are many objects without a circle; the search for circles would take a third of reading them."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def clear_partial(runs: Path) -> None:
    """Remove what killed processes left half-written. Only for the holder of the output folder's lock."""
    for leftover in [*runs.glob(f"{_PARTIAL}*"), *runs.glob(f"*/scores/{_PARTIAL}*")]:
        shutil.rmtree(leftover, ignore_errors=True)


def called_as(record: Record, spec: Mapping[str, Any]) -> Record:
    """A record with the names that another copy of the run has for its domains, encoder and method."""
    own = record.spec
    if are_called_alike(own, spec):
        return record
    names = names_in(own["scenario"], spec["scenario"])

    def renamed(facts: Mapping[str, Any]) -> dict[str, Any]:
        return {names.get(name, name): fact for name, fact in facts.items()}

    said = {"scenario": spec["scenario"], "domains": renamed(own["domains"])}
    said |= {kind: {**own[kind], "label": spec[kind]["label"]} for kind in ("encoder", "adaptation")}
    if own["segments"]:
        said["segments"] = {**own["segments"], "domains": renamed(own["segments"]["domains"])}
    scores = []
    for score in record.scores:
        domain = score.content["domain"]
        scores.append(replace(score, content={**score.content, "domain": names.get(domain, domain)}))
    return replace(record, spec={**own, **said}, scores=tuple(scores))


def _merged(copies: Sequence[tuple[tuple[int, str], Record]]) -> Record:
    """One of several copies of a run, each with the rank of its folder, whose names it has; the first's count."""
    if len(copies) == 1:
        return copies[0][1]
    _, namer = min(copies, key=lambda copy: (copy[0], canonical_json(copy[1].spec)))
    records = [called_as(record, namer.spec) for _, record in copies]
    best = min(records, key=_rank_of_copy)
    scores: dict[str, list[ScoreRecord]] = {}
    for record in records:
        for score in record.scores if record.ok == best.ok else ():
            scores.setdefault(score.folder.name, []).append(score)
    chosen = [min(scores[key], key=_rank_of_score) for key in sorted(scores)]
    return Record(best.folder, best.spec, tuple(chosen))


def _rank_of_copy(record: Record) -> tuple[bool, str, int, list[str]]:
    """Of several copies of a run, one that ended well counts; of equal ones, one whose images are at hand."""
    return not record.ok, canonical_json(record.spec), *_rank_of_packs(record.folder.absolute().parents[1])


def _rank_of_score(score: ScoreRecord) -> tuple[int, str, int, list[str]]:
    """Of several copies of a score, one where the fewest metrics failed; of equal ones as with runs."""
    return len(score.content["failed"]), canonical_json(score.content), *_rank_of_packs(score.output)


def _rank_of_packs(output: Path) -> tuple[int, list[str]]:
    packs = [folder.name for folder in _visible(output / "store" / "pack")]
    return -len(packs), packs


def _visible(folder: Path) -> list[Path]:
    """The entries of a folder in order, without those being written."""
    try:
        return [folder / name for name in sorted(os.listdir(folder)) if name[0] != "."]  # noqa: PTH208 - many
    except (FileNotFoundError, NotADirectoryError):
        return []


@contextmanager
def writing_record(place: Path, spec: Mapping[str, Any], status: str) -> Iterator[Path]:
    """A folder to complete the record in; it takes the place of an older record when the body succeeds."""
    with _beside(place) as folder:
        write_json(folder / "run.json", {"schema": SCHEMA, "status": status, **spec})
        yield folder
        if place.exists():  # only a run that is not `ok` is ever written again
            shutil.rmtree(place)
        publish(folder, place)


def write_score(place: Path, content: Mapping[str, Any], outputs: Path) -> None:
    """Write one score from the folder of its `rank` stage.

    One that is there already, where a metric failed that does not fail now, is replaced file by file, `score.json`
    last: whoever reads it meanwhile, or after a kill, finds the old values or the new, beside arrays with the sums
    of either. So no metric may fail now that did not fail then.
    """
    with _beside(place) as folder:
        write_json(folder / "score.json", {"schema": SCHEMA, "key": place.name, **content})
        for name in ("queries.safetensors", "items.json"):
            shutil.copyfile(outputs / name, folder / name)
        if not place.exists():
            publish(folder, place)
            return
        for name in ("items.json", "queries.safetensors", "score.json"):
            publish(folder / name, place / name)


@contextmanager
def _beside(place: Path) -> Iterator[Path]:
    place.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=place.parent))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _read(file: Path, keys: Sequence[str], shared: dict[bytes, Any]) -> dict[str, Any]:
    content = read_object(file)
    missing = [key for key in keys if key not in content]
    if missing:
        raise DataError(f"record {file} lacks {', '.join(missing)}")
    if content["schema"] != SCHEMA:
        raise DataError(f"record {file} has schema {content['schema']}; this version reads {SCHEMA}")
    return {sys.intern(name): _once(name, value, shared) for name, value in content.items()}


def _once(name: str, value: Any, shared: dict[bytes, Any]) -> Any:
    """A value, or the equal one that another record has: ten thousand runs have few encoders, domains, budgets."""
    return value if name in _OWN else shared.setdefault(marshal.dumps(value, 2), value)
