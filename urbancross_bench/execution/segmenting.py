"""`data segment`: every image of a domain cut into masks by a segmenter, and some of them kept as its segments."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from urbancross_bench.data.masks import CHOOSERS, chosen, region
from urbancross_bench.data.segments import MANIFEST, SegmentStore, read_store, write_store
from urbancross_bench.errors import DataError, PluginError, UrbanCrossError, UsageError, did_you_mean
from urbancross_bench.execution.domains import read_domain
from urbancross_bench.execution.making import Work, forget, holding, make
from urbancross_bench.execution.versions import DISTRIBUTION, decoders
from urbancross_bench.identity import canonical_json, code_version
from urbancross_bench.interfaces.dataset import SPLITS, Domain
from urbancross_bench.interfaces.segmenter import Segmenter, SegmenterOptions
from urbancross_bench.registry import Registry


@dataclass(frozen=True)
class Choice:
    """Which masks become segments: see `data.masks.chosen`."""

    chooser: str = "area"
    count: int = 10
    min_area: float = 0.0

    def __post_init__(self) -> None:
        if self.chooser not in CHOOSERS:
            raise UsageError(f"there is no chooser {self.chooser!r}.{did_you_mean(self.chooser, CHOOSERS)}")
        if self.count < 1 or not 0 <= self.min_area < float("inf"):
            raise UsageError("the count of segments must be at least 1, and their least area at least 0")


@dataclass(frozen=True)
class Sizing:
    """How the work is shared out. Batch and threads move the last bits of what a model computes."""

    batch: int = 4
    threads: int = 1
    workers: int = 1
    device: str = "auto"


@dataclass(frozen=True)
class Segmenting:
    """A `making.Maker`: JSON lines of a domain's images. `digests` are those that the images must still have."""

    domain: str
    segmenter: str
    plugins: Sequence[str]
    choice: Choice
    digests: Mapping[str, str]

    def build(self, device: str) -> Work:
        """Read the domain, load the segmenter."""
        registry = Registry.discover(self.plugins)
        domain, _ = read_domain(registry.resolve("dataset", self.domain))
        resolved = registry.resolve("segmenter", self.segmenter)
        try:
            segmenter: Segmenter = resolved.build()
            segmenter.load(device)
        except UrbanCrossError:
            raise
        except Exception as error:
            raise PluginError(f"{resolved.plugin} failed to load: {error!r}") from error
        indices = {name: index for index, name in enumerate(domain.image_names)}
        return lambda names: self._segmented(segmenter, domain, [indices[name] for name in names])

    def _segmented(self, segmenter: Segmenter, domain: Domain, indices: Sequence[int]) -> list[str]:
        names = [domain.image_names[index] for index in indices]
        for name, index in zip(names, indices, strict=True):
            if domain.images.digest(index) != self.digests[name]:
                raise DataError(f"image {name!r} has changed while it was in use; run the command again")
        images = [domain.images.read(index) for index in indices]
        found = segmenter.segment(images)
        if len(found) != len(images):
            raise PluginError(f"segmenter {self.segmenter} gave masks of {len(found)} images for {len(images)}")
        lines = []
        for image, masks in zip(images, found, strict=True):
            height, width = image.shape[:2]
            for mask in masks:
                if mask.pixels.shape != (height, width) or mask.pixels.dtype != np.bool_:
                    raise PluginError(f"segmenter {self.segmenter} gave no {height}×{width} mask of booleans")
            regions = [region(m.pixels, m.quality, m.stability) for m in masks if m.pixels.any()]
            kept = chosen(regions, (height, width), **asdict(self.choice))
            lines.append(canonical_json({"size": [height, width], "regions": [one.as_json() for one in kept]}))
        return lines


def segment(
    domain: Domain,
    domain_reference: str,
    segmenter: str,
    registry: Registry,
    folder: Path,
    *,
    plugins: Sequence[str] = (),
    choice: Choice,
    sizing: Sizing,
    splits: Sequence[str] = (),
    report: Callable[[int, int], None] = lambda done, total: None,
) -> SegmentStore:
    """Fill the segment store in `folder`, going on where an earlier call ended; nothing is done twice.

    splits: those whose images are wanted; all images if there are none. Raises UsageError for a folder that holds
    another store, DataError for a domain whose images are not all there.
    """
    digests = _digests(domain, splits)
    making = making_of(segmenter, registry, choice, sizing)
    with holding(folder):
        if (folder / MANIFEST).exists():
            stored = read_store(folder)
            if stored.making != making:
                raise UsageError(
                    f"{folder} holds segments that were made otherwise ({_difference(stored.making, making)}); "
                    "choose another --out"
                )
            if not stored.failures and {row["image"]: row["digest"] for row in stored.rows} == digests:
                report(len(digests), len(digests))
                forget(folder)
                return stored
        made = make(
            Segmenting(domain_reference, segmenter, list(plugins), choice, digests),
            digests,
            folder,
            identity=making,
            batch=sizing.batch,
            workers=sizing.workers,
            threads=sizing.threads,
            device=sizing.device,
            report=report,
        )
        rows = [
            {
                "image": name,
                "digest": digest,
                **({"failure": made.failures[name]} if text is None else json.loads(text)),
            }
            for (name, digest), text in zip(digests.items(), made.texts, strict=True)
        ]
        store = SegmentStore(making, caption_aware=False, splits=list(splits), rows=rows)
        write_store(folder, store)
        if not made.failures:
            forget(folder)
    return store


def making_of(segmenter: str, registry: Registry, choice: Choice, sizing: Sizing) -> dict[str, Any]:
    """Everything that may change which segments an image gets, as JSON values."""
    resolved = registry.resolve("segmenter", segmenter)
    if not isinstance(resolved.options, SegmenterOptions):
        raise PluginError(f"{resolved.plugin}: its options are no SegmenterOptions")
    return {
        "segmenter": resolved.identity(),
        "weights": asdict(resolved.options.weights()),
        **asdict(choice),
        "batch": sizing.batch,
        "threads": sizing.threads,
        "core": code_version("urbancross_bench.data.masks", DISTRIBUTION),
        "decoders": decoders(),
    }


def _digests(domain: Domain, splits: Sequence[str]) -> dict[str, str]:
    """Name → digest of the wanted images, in the domain's order."""
    unknown = [name for name in splits if name not in SPLITS]
    if unknown:
        raise UsageError(f"there is no split {unknown[0]!r}.{did_you_mean(unknown[0], SPLITS)}")
    missing = domain.images.missing()
    if missing:
        first = domain.image_names[min(missing)]
        raise DataError(
            f"domain {domain.name!r}: {len(missing)} images are missing, {first!r} the first; "
            "`urbancross-bench data check` lists them"
        )
    members = {index for name in splits for index in domain.splits.get(name, np.empty(0, np.int64)).tolist()}
    wanted = sorted(members) if splits else range(len(domain.image_names))
    digests = {domain.image_names[index]: domain.images.digest(index) for index in wanted}
    if not digests or len(digests) != len(wanted):
        problem = "several images have the same name" if digests else "there are no images"
        raise DataError(f"domain {domain.name!r}: {problem}")
    return digests


def _difference(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The first fact in which they differ, in words."""
    for name in wanted:
        if stored.get(name) != wanted[name]:
            return f"{name}: {stored.get(name)!r}, now {wanted[name]!r}"
    return "with other facts"
