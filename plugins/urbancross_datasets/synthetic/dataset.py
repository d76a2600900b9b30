"""The dataset plugin `synthetic`: three small domains that need no download."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.errors import UsageError, did_you_mean
from urbancross_bench.interfaces import Dataset, Domain, ImageSource, Options, index_splits
from urbancross_datasets.synthetic import captions, render
from urbancross_datasets.synthetic.countries import COUNTRIES, Country
from urbancross_datasets.synthetic.hashing import Draws, key_of
from urbancross_datasets.synthetic.options import SyntheticOptions
from urbancross_datasets.synthetic.scene import Scene, draw_scene

# Dealt along the tiles in order of class: of two neighbours one is always for training, so every class is.
_SPLIT_CYCLE = ("train", "train", "test", "train", "train", "val", "train", "test")


class SyntheticImages(ImageSource):
    """Tiles of one country, drawn when read."""

    def __init__(self, country: Country, options: SyntheticOptions, scenes: list[Scene]) -> None:
        self._country = country
        self._options = options
        self._scenes = scenes

    def digest(self, index: int) -> str:
        options = self._options
        key = key_of(render.GENERATOR_VERSION, self._country.name, options.seed, options.size, index)
        return f"synthetic-{key:016x}"

    def read(self, index: int) -> NDArray[np.uint8]:
        return render.render(self._scenes[index], self._country, self._options.size)

    def segments(self, index: int) -> NDArray[np.uint8]:
        """What each pixel of image `index` shows, as H×W indices into `render.SEGMENT_NAMES`."""
        return render.segments(self._scenes[index], self._country, self._options.size)


class Synthetic(Dataset):
    """Members are the countries: `synthetic/nordia`, `synthetic/meridia`, `synthetic/costara`."""

    options_type: ClassVar[type[Options]] = SyntheticOptions
    options: SyntheticOptions

    def read(self, member: str | None) -> Domain:
        if member is None or member not in COUNTRIES:
            hint = did_you_mean(member or "", COUNTRIES)
            raise UsageError(f'Dataset "synthetic" has no member "{member or ""}".{hint}')
        country, options = COUNTRIES[member], self.options
        scenes = [draw_scene(country, options.seed, index) for index in range(options.images)]
        said = [captions.captions(scene, country) for scene in scenes]
        kinds = ["refined"] + ["plain"] * captions.PLAIN_CAPTIONS
        return Domain(
            name=member,
            image_names=[f"{member}_{index:04d}.png" for index in range(options.images)],
            splits=index_splits(_splits(scenes, country, options.seed)),
            captions=[caption for group in said for caption in group],
            image_of_caption=np.repeat(np.arange(options.images, dtype=np.int64), len(kinds)),
            images=SyntheticImages(country, options, scenes),
            attributes={
                "latitude": [scene.latitude for scene in scenes],
                "longitude": [scene.longitude for scene in scenes],
                "resolution": [country.extent / (100 * options.size)] * options.images,
                "scene_class": [scene.scene_class for scene in scenes],
                "tags": [captions.tags(scene) for scene in scenes],
            },
            partition=f"five eighths, one, two eighths in every class, drawn with seed {options.seed}",
            licence="MIT, as this project",
            shareable=True,
            caption_attributes={"kind": kinds * options.images},
        )


def _splits(scenes: list[Scene], country: Country, seed: int) -> list[str]:
    """Five eighths for training, one for validation, two for testing, alike in every class."""
    order = Draws("splits", country.name, seed).shuffle(range(len(scenes)))
    order.sort(key=lambda index: scenes[index].scene_class)
    splits = [""] * len(scenes)
    for place, index in enumerate(order):
        splits[index] = _SPLIT_CYCLE[place % len(_SPLIT_CYCLE)]
    return splits
