"""`data segment`: every image of a domain cut into masks by a segmenter, and some of them kept as its segments."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.data.images import digest_or_nothing, said_missing
from urbancross_bench.data.masks import CHOOSERS, Chooser, by_score, chosen, region
from urbancross_bench.data.segments import (
    BY_CAPTION,
    MANIFEST,
    SegmentStore,
    captions_key,
    captions_of,
    complete_writing,
    making_identity,
    read_store,
    write_store,
)
from urbancross_bench.errors import DataError, PluginError, UsageError, did_you_mean
from urbancross_bench.execution.crew import Work
from urbancross_bench.execution.domains import read_domain
from urbancross_bench.execution.making import Earlier, as_planned, holding, make, tidy
from urbancross_bench.execution.supply import PlannedEncoder
from urbancross_bench.execution.versions import decoders
from urbancross_bench.identity import canonical_json, key_of, library_versions
from urbancross_bench.interfaces.dataset import SPLITS, Domain
from urbancross_bench.interfaces.segmenter import Segmenter, SegmenterOptions
from urbancross_bench.registry import Registry
from urbancross_bench.sources import own_version

_CHOOSERS = (*CHOOSERS, BY_CAPTION)
_ABSENT = object()  # of facts


@dataclass(frozen=True)
class Choice:
    """Which masks become segments: see `data.masks.chosen`. `encoder` compares them with captions."""

    chooser: str = "area"
    count: int = 10
    min_area: float = 0.0
    encoder: str | None = None

    def __post_init__(self) -> None:
        if self.chooser not in _CHOOSERS:
            raise UsageError(f"there is no chooser {self.chooser!r}.{did_you_mean(self.chooser, _CHOOSERS)}")
        if self.by_caption and self.encoder is None:
            raise UsageError(
                "--chooser caption compares segments with captions by an encoder; name one, as UrbanCross's paper "
                "does: --encoder openclip[architecture=ViT-B-32,pretrained=openai]"
            )
        if self.encoder is not None and not self.by_caption:
            raise UsageError(f"--encoder goes with --chooser caption; {self.chooser!r} asks no encoder")
        if self.count < 1 or not 0 <= self.min_area < float("inf"):
            raise UsageError("the count of segments must be at least 1, and their least area at least 0")

    @property
    def by_caption(self) -> bool:
        """An image's own captions have a say."""
        return self.chooser == BY_CAPTION


@dataclass(frozen=True)
class Sizing:
    """How the work is shared out. Batch and threads move the last bits of what a model computes."""

    batch: int = 4
    threads: int = 1
    workers: int = 1
    device: str = "auto"


@dataclass(frozen=True)
class Segmenting:
    """A `crew.Maker`: JSON lines of a domain's images. `contents`: by name, what `_content` must still say.

    identities: of the segmenter and of the chooser's encoder, if there is one, as they must still be.
    """

    domain: str
    segmenter: str
    plugins: Sequence[str]
    choice: Choice
    contents: Mapping[str, Mapping[str, str]]
    identities: Mapping[str, Mapping[str, Any]]

    def build(self, device: str) -> Work:
        """Read the domain, load the segmenter and, where captions have a say, then the encoder."""
        registry = Registry.discover(self.plugins)
        domain, _ = read_domain(registry.resolve("dataset", self.domain))
        said = self.identities["segmenter"]
        with (
            as_planned(registry, "segmenter", self.segmenter, said) as resolved,
            resolved.plugin.blamed("to load"),
        ):
            segmenter: Segmenter = resolved.build()
            segmenter.load(device)
        captions = captions_of(domain) if self.choice.by_caption else None
        choosers = self._choosers(registry, device)
        indices = {name: index for index, name in enumerate(domain.image_names)}

        def work(names: Sequence[str]) -> list[str]:
            for name in names:
                if _content(domain, indices[name], captions) != self.contents[name]:
                    raise DataError(
                        f"image {name!r} or a caption of it has changed while in use; run the command again"
                    )
            # Copies: a reader may use one array again.
            images = [domain.images.read(indices[name]).copy() for name in names]
            said = [captions[indices[name]] if captions else [] for name in names]
            return self._segmented(segmenter, images, [choosers(*both) for both in zip(images, said, strict=True)])

        return work

    def _choosers(self, registry: Registry, device: str) -> Callable[[NDArray[np.uint8], Sequence[str]], Chooser]:
        """From an image and, where they have a say, its captions to what chooses among its regions."""
        if self.choice.encoder is None:
            same = CHOOSERS[self.choice.chooser]
            return lambda pixels, captions: same
        import torch

        from urbancross_bench.modelling.answers import load_model
        from urbancross_bench.modelling.similarity import Similarity, parts_of

        reference, said = self.choice.encoder, self.identities["encoder"]
        with as_planned(registry, "encoder", reference, said) as resolved, resolved.plugin.blamed("to load"):
            model = load_model(resolved)
            model.to(device)
        image_format = _encoder(registry, reference).format
        assert image_format is not None
        similarity = Similarity(model, image_format, torch.device(device))

        def choose(pixels: NDArray[np.uint8], captions: Sequence[str]) -> Chooser:
            parts = parts_of(captions)
            if not parts:
                raise DataError("the image has no caption with words in it to choose segments by")
            return by_score(lambda regions: similarity.scores(pixels, regions, parts))

        return choose

    def _segmented(
        self, segmenter: Segmenter, images: Sequence[NDArray[np.uint8]], choosers: Sequence[Chooser]
    ) -> list[str]:
        found = segmenter.segment(images)
        if len(found) != len(images):
            raise PluginError(f"segmenter {self.segmenter} gave masks of {len(found)} images for {len(images)}")
        lines = []
        for image, masks, chooser in zip(images, found, choosers, strict=True):
            height, width = image.shape[:2]
            for mask in masks:
                if mask.pixels.shape != (height, width) or mask.pixels.dtype != np.bool_:
                    raise PluginError(f"segmenter {self.segmenter} gave no {height}×{width} mask of booleans")
            regions = [region(m.pixels, m.quality, m.stability) for m in masks if m.pixels.any()]
            kept = chosen(regions, (height, width), chooser, self.choice.count, self.choice.min_area)
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

    splits: those whose images are wanted, beside those that are there already; all images if there are none. The
    store is the same whether its splits came at once or one after the other. Raises UsageError for a folder that
    holds segments made otherwise, DataError for a domain whose images are not all there.
    """
    contents = _contents(domain, splits, choice)
    making = making_of(segmenter, registry, choice, sizing)
    identities: dict[str, Any] = {role: making[role] for role in ("segmenter", "encoder") if role in making}
    with holding(folder):
        complete_writing(folder)
        stored = read_store(folder) if (folder / MANIFEST).exists() else None
        if stored and making_identity(stored.making) != making_identity(making):
            tidy(folder)
            raise UsageError(
                f"{folder} holds segments that were made otherwise ({_difference(stored.making, making)}); "
                "choose another --out"
            )
        wanted = _with_stored(splits, stored)
        if wanted != list(splits):
            contents = _contents(domain, wanted, choice)
        groups = _memberships(domain)
        if stored and list(stored.splits) == wanted and _is_of(stored, contents, groups):
            report(len(contents), len(contents))
            tidy(folder)
            return stored
        made = make(
            Segmenting(domain_reference, segmenter, list(plugins), choice, contents, identities),
            {name: key_of(content) for name, content in contents.items()},
            folder,
            identity=making_identity(making),
            batch=sizing.batch,
            workers=sizing.workers,
            threads=sizing.threads,
            device=sizing.device,
            groups=groups,
            earlier=_earlier(stored) if stored else None,
            report=report,
        )
        rows = [
            {
                "image": name,
                "splits": groups[name],
                **content,
                **({"failure": made.failures[name]} if text is None else json.loads(text)),
                **({"alone": made.alone[name]} if name in made.alone else {}),
            }
            for (name, content), text in zip(contents.items(), made.texts, strict=True)
        ]
        store = SegmentStore(making, caption_aware=choice.by_caption, splits=wanted, rows=rows)
        write_store(folder, store)
        if not made.failures:  # else what they name, the log of a process that died, is there to be read
            tidy(folder, made.kept)
    return store


def making_of(segmenter: str, registry: Registry, choice: Choice, sizing: Sizing) -> dict[str, Any]:
    """Everything that may change which segments an image gets, as JSON values; see `making_identity`."""
    resolved = registry.resolve("segmenter", segmenter)
    if not isinstance(resolved.options, SegmenterOptions):
        raise PluginError(f"{resolved.plugin}: its options are no SegmenterOptions")
    making = {
        "segmenter": resolved.identity(),
        "weights": resolved.options.weights().said(),
        "chooser": choice.chooser,
        "count": choice.count,
        "min_area": choice.min_area,
        "batch": sizing.batch,
        "threads": sizing.threads,
        "core": _code("data.masks"),
        "decoders": decoders(),
    }
    if resolved.options.libraries:  # of a segmenter without any, stores made before these were noted go on
        making["libraries"] = library_versions(*resolved.options.libraries)
    if choice.encoder is not None:
        encoder = _encoder(registry, choice.encoder)
        making["encoder"] = encoder.identity
        making["encoder_weights"] = encoder.weights.said()
        making["core"] = _code("data.masks", "data.segments", "data.pack", "modelling")
    return making


def _code(*rooms: str) -> str:
    return " ".join(dict.fromkeys(own_version(f"urbancross_bench.{room}") for room in rooms))


def _encoder(registry: Registry, reference: str) -> PlannedEncoder:
    encoder = PlannedEncoder(reference, registry.resolve("encoder", reference))
    if encoder.format is None:
        raise UsageError(f"--encoder {reference} takes no pixels, so it cannot look at segments; choose another")
    return encoder


def _contents(domain: Domain, splits: Sequence[str], choice: Choice) -> dict[str, dict[str, str]]:
    """Name → content of the wanted images, in the domain's order."""
    unknown = [name for name in splits if name not in SPLITS]
    if unknown:
        raise UsageError(f"there is no split {unknown[0]!r}.{did_you_mean(unknown[0], SPLITS)}")
    missing = domain.images.missing()
    if missing:
        said = said_missing(domain.images, missing, domain.image_names)
        raise DataError(f"domain {domain.name!r}: {said}; `urbancross-bench data check` lists them")
    members = {index for name in splits for index in domain.splits.get(name, np.empty(0, np.int64)).tolist()}
    wanted = sorted(members) if splits else range(len(domain.image_names))
    captions = captions_of(domain) if choice.by_caption else None
    contents = {domain.image_names[index]: _content(domain, index, captions) for index in wanted}
    if not contents or len(contents) != len(wanted):
        problem = "several images have the same name" if contents else "there are no images"
        raise DataError(f"domain {domain.name!r}: {problem}")
    return contents


def _content(domain: Domain, index: int, captions: Sequence[Sequence[str]] | None) -> dict[str, str]:
    """What the segments of an image depend on, hashed; `captions`, of every image, where they have a say.

    An image that cannot be read has no digest; it fails, alone, where it is to be cut.
    """
    content = {"digest": digest_or_nothing(domain.images.digest, index)}
    return content if captions is None else {**content, "captions": captions_key(captions[index])}


def _with_stored(splits: Sequence[str], stored: SegmentStore | None) -> list[str]:
    """The splits of a store that gets further ones, in the order of `SPLITS`; empty for all images."""
    if not splits or (stored and not stored.splits):
        return []
    return [name for name in SPLITS if name in {*splits, *(stored.splits if stored else ())}]


def _is_of(stored: SegmentStore, contents: Mapping[str, Mapping[str, str]], groups: Mapping[str, str]) -> bool:
    """Whether a store is what would be made of these images; stores once did not say of which splits each is."""
    said = {
        row["image"]: _said(row) for row in stored.rows if row.get("splits") in (None, groups.get(row["image"]))
    }
    return not stored.failures and len(stored.rows) == len(said) and [*said.items()] == [*contents.items()]


def _earlier(stored: SegmentStore) -> Earlier:
    rows = {row["image"]: row for row in stored.rows if "splits" in row}
    return Earlier(
        {name: key_of(_said(row)) for name, row in rows.items()},
        {name: row["splits"] for name, row in rows.items()},
        {
            name: canonical_json({key: row[key] for key in ("size", "regions", "alone") if key in row})
            for name, row in rows.items()
            if "failure" not in row
        },
    )


def _memberships(domain: Domain) -> dict[str, str]:
    """Name → the splits of an image. Images alike in this are asked for together, in whatever order splits are."""
    of: dict[str, list[str]] = {name: [] for name in domain.image_names}
    for split in SPLITS:
        for index in domain.splits.get(split, np.empty(0, np.int64)).tolist():
            of[domain.image_names[index]].append(split)
    return {name: " ".join(splits) for name, splits in of.items()}


def _said(row: Mapping[str, Any]) -> dict[str, str]:
    """What a store's row says of its image's content."""
    return {name: row[name] for name in ("digest", "captions") if name in row}


def _difference(stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The first fact in which they differ, in words."""
    before: Any = making_identity(stored)
    now: Any = making_identity(wanted)
    names = []
    while isinstance(before, Mapping) and isinstance(now, Mapping):
        name = next(name for name in (*now, *before) if before.get(name, _ABSENT) != now.get(name, _ABSENT))
        names.append(name)
        before, now = before.get(name, _ABSENT), now.get(name, _ABSENT)
    words = ["not said" if value is _ABSENT else repr(value) for value in (before, now)]
    return f"{' '.join(names)}: {', now '.join(words)}"
