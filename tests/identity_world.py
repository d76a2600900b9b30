"""A grid that plans stages of every kind over three small domains, and the keys that a plan has, by kind."""

from __future__ import annotations

import copy
import csv
import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
from conftest import write_karpathy
from feature_data import save_npz
from safetensors.numpy import save_file

from urbancross_bench.data.masks import region
from urbancross_bench.data.segments import SegmentStore, write_store
from urbancross_bench.execution.plan import Plan, make_plan
from urbancross_bench.execution.stage import Kind
from urbancross_bench.identity import file_digest
from urbancross_bench.registry import Registry
from urbancross_bench.specs import load_grid

KINDS: tuple[str, ...] = (*get_args(Kind), "run", "score")
Keys = Mapping[str, frozenset[str]]


def write_world(folder: Path) -> dict[str, Any]:
    """Data, segments, features and weights below a folder; the grid over them.

    The three encoders: one with a frozen tower and weights from a file, one that is untrained and takes segments,
    one that reads features. The adaptations: with and without a target, with a share, and at test time. One is
    searched, of one there is an ablation.
    """
    shades = {"plain": 0, "dark": -30, "old": -60}
    for name, shade in shades.items():
        write_karpathy(folder / name, images=12, shade=shade)
        write_segments(folder, name)
        write_segments(folder, name, wide=True)
    write_features(folder / "features", shades)
    write_weights(folder / "weights.safetensors")
    write_exclusions(folder / "out.csv", ["dark_000.png"])
    return over(folder)


def over(folder: Path) -> dict[str, Any]:
    """The grid over a world that lies below a folder."""
    features = f"images={folder / 'features.images.npz'},texts={folder / 'features.texts.npz'}"
    training = {"steps": 6, "batch_size": 8, "learning_rate": 0.001, "schedule": "step", "decay_every": 1.0}
    return {
        "name": "world",
        "domains": {name: f"karpathy[file={folder / name / 'dataset.json'}]" for name in ("plain", "dark", "old")},
        "scenarios": [
            {"source": ["plain"], "target": "dark"},
            {"source": ["plain"], "target": "dark", "share": 0.5},
            {"source": ["dark"], "target": "plain"},
            {"source": ["plain"], "target": "old"},
        ],
        "segments": {name: str(folder / f"{name}_segments") for name in ("plain", "dark", "old")},
        "encoders": {
            "frozen": f"openclip[architecture=urbancross-tiny,checkpoint={folder / 'weights.safetensors'},"
            "frozen_towers=image,head=linear]",
            "fused": "sam_fused[architecture=urbancross-tiny,most=2,fusion=mean]",
            "stored": f"precomputed[{features},surplus=true]",
        },
        "pretraining": dict(training),
        "adaptations": {"none": "source_only", "uda": "urbancross", "few": "few_shot", "after": "csls"},
        "budget": {**training, "target_batch_size": 4, "checkpoints": 2},
        "search": {
            "trials": 2,
            "space": {"uda": {"triplet": [0.25, 0.5, 2.0], "adversarial": {"low": 0.5, "high": 1.5}}},
        },
        "ablation": {"of": "few", "factors": {"source": [1.0, 0.5], "target": [1.0, 2.0]}},
        "selectors": ["last", "neighbourhood_density"],
        "protocols": ["classic", "urbancross_released"],
        "seeds": [1],
    }


def write_segments(folder: Path, domain: str, *, wide: bool = False) -> None:
    """Segments of the 20×20 tiles of a domain, three of each image; `wide` ones under another name."""
    mask = np.zeros((20, 20), dtype=bool)
    regions = []
    for end in (5, 9, 12):
        mask[:end, : end + wide] = True
        regions.append(region(mask).as_json())
    images = sorted((folder / domain / "images").iterdir())
    rows = [{"image": i.name, "digest": file_digest(i), "size": [20, 20], "regions": regions} for i in images]
    place = folder / f"{domain}_{'wide_' if wide else ''}segments"
    place.mkdir(exist_ok=True)
    write_store(place, SegmentStore({"segmenter": "corners"}, False, [], rows))


def write_features(place: Path, domains: Iterable[str]) -> None:
    """Four random numbers for each image and caption of the domains, and for what captions may be changed to."""
    entries = [entry for name in domains for entry in read_entries(place.parent / name)]
    texts = {sentence["raw"] for entry in entries for sentence in entry["sentences"]}
    texts |= {other_text(text) for text in texts}
    for what, names in (("images", [e["filename"] for e in entries]), ("texts", sorted(texts))):
        rows = np.random.default_rng(len(names)).normal(size=(len(names), 4)).astype(np.float32)
        # `with_suffix` is what `save_npz` does.
        save_npz(place.with_name(f"{place.name}.{what}.npz"), names, rows)


def read_entries(domain: Path) -> list[dict[str, Any]]:
    """The entries of a caption file."""
    entries: list[dict[str, Any]] = json.loads((domain / "dataset.json").read_text(encoding="utf-8"))["images"]
    return entries


def other_text(text: str) -> str:
    """The text with another last character."""
    return text[:-1] + "!"


def change_text(domain: Path, split: str, *, to: str = "dataset.json") -> None:
    """Write a domain's caption file with another character in a text of the last image of a split."""
    entries = read_entries(domain)
    [*_, entry] = (entry for entry in entries if entry["split"] == split)
    entry["sentences"][0]["raw"] = other_text(entry["sentences"][0]["raw"])
    (domain / to).write_text(json.dumps({"images": entries}), encoding="utf-8")


def write_weights(file: Path, number: float = 1.0) -> None:
    """A file of weights. Planning looks at its bytes alone, so one small tensor will do."""
    save_file({"visual.proj": np.array([number, 2.0], dtype=np.float32)}, file)


def write_exclusions(file: Path, images: Iterable[str]) -> None:
    """A list that keeps images out of training."""
    with file.open("w", encoding="utf-8", newline="") as opened:
        csv.writer(opened).writerows([("image", "caption"), *((image, "") for image in images)])


def changed(grid: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The grid with other values, each at a dotted path; a number is a place in a list, None removes."""
    new = copy.deepcopy(dict(grid))
    for path, value in changes.items():
        *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
        place: Any = new
        for parent in parents:
            place = place.setdefault(parent, {}) if isinstance(parent, str) else place[parent]
        if value is None:
            del place[last]
        else:
            place[last] = copy.deepcopy(value)
    return new


@cache
def installed() -> Registry:
    """The installed plugins."""
    return Registry.discover()


def planned(grid: Mapping[str, Any], folder: Path, registry: Registry | None = None) -> Plan:
    """The plan of a grid that is written to a file in this folder; with the plugins installed, or others."""
    file = folder / "grid.yaml"
    file.write_text(json.dumps(grid), encoding="utf-8")  # JSON is YAML
    spec = load_grid(file)
    plugins = registry or installed()
    return make_plan(spec, plugins.with_files(spec.plugins) if spec.plugins else plugins)


def below(plan: Plan, roots: Iterable[str]) -> set[str]:
    """The stages with these keys, and all that is made from them."""
    found = set(roots)
    for key, stage in plan.stages.items():  # a stage stands after its inputs
        if found.intersection(stage.inputs.values()):
            found.add(key)
    return found


def keys_of(plan: Plan) -> Keys:
    """The keys of all stages, runs and scores, by kind."""
    runs = [run for run in plan.runs if not run.skipped]
    stages = {kind: {key for key, stage in plan.stages.items() if stage.kind == kind} for kind in get_args(Kind)}
    stages |= {"run": {run.key for run in runs}, "score": {score.key for run in runs for score in run.scores}}
    return {kind: frozenset(keys) for kind, keys in stages.items()}
