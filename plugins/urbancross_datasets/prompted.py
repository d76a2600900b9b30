"""A domain without pixels: stored features of images of some classes, and of prompts that name the class.

Zero-shot papers release such bundles where they may not release images. Two domains of one bundle with disjoint
images and disjoint families of prompts give a shift on real features.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from typing import Annotated, Self, TypeVar, cast

from pydantic import BeforeValidator, Field, NonNegativeInt, PositiveInt, model_validator

from urbancross_bench.data.readers import DomainBuilder, PromptBundle, StoredImages, data_path, read_bundle
from urbancross_bench.errors import DataError, UsageError
from urbancross_bench.identity import derive_seed
from urbancross_bench.interfaces import SPLITS, Dataset, Domain, Options

_T = TypeVar("_T")
_RANGE = re.compile(r"(?P<first>\d{1,9})(?:-(?P<last>\d{1,9})(?:/(?P<step>\d{1,9}))?)?", re.ASCII)
_ENDS = (0.7, 0.8, 1.0)  # where train, val and test end among the images of a class


def _one_or_several(value: object) -> object:
    return (value,) if isinstance(value, str | int) else value


class PromptedOptions(Options):
    """`prompted[file=whu_rs19.npz,parts=2,part=0,templates=0-52]`."""

    file: str = Field(description="npz of image, text, labels, templates and classnames; see `read_bundle`")
    templates: Annotated[tuple[int | str, ...], BeforeValidator(_one_or_several), Field(min_length=1)] | None = (
        Field(
            default=None,
            description="which prompts: numbers from 0, ranges like 0-52, every sixth of a range 0-59/6",
        )
    )
    captions_per_image: PositiveInt = Field(
        default=5, description="prompts of its class that an image gets, drawn"
    )
    parts: PositiveInt = Field(default=1, description="into how many class-balanced parts the images are cut")
    part: NonNegativeInt = Field(default=0, description="which part is the domain, from 0")
    split_seed: int = Field(default=0, description="of the splits and of what prompts are drawn; parts have none")

    @model_validator(mode="after")
    def _part_is_there(self) -> Self:
        if self.part >= self.parts:
            raise ValueError(f"part {self.part} is not there: {self.parts} parts are counted from 0")
        return self

    def chosen(self, count: int) -> list[int]:
        """The numbers of the templates, of `count`, in order. Raises UsageError for what names none."""
        entries = (f"0-{count - 1}",) if self.templates is None else self.templates
        numbers = {number for entry in entries for number in _numbers(entry, count)}
        if len(numbers) < self.captions_per_image:
            raise UsageError(
                f"{len(numbers)} templates are too few for captions_per_image={self.captions_per_image}"
            )
        return sorted(numbers)


class Prompted(Dataset):
    """Images `airport_1`, `airport_2`, … with prompts of their class; `scene_class` is known, pixels are not.

    Parts and splits (70/10/20) are drawn class by class. Parts depend on the image names alone, so that those of
    two domains never overlap, whatever their seeds.
    """

    options_type = PromptedOptions

    def read(self, member: str | None) -> Domain:
        """The part that the options name."""
        options = cast(PromptedOptions, self.options)
        file = data_path(options.file)
        bundle = read_bundle(file)
        templates = options.chosen(len(bundle.templates))
        builder = DomainBuilder(f"{file.stem}_{options.part}" if options.parts > 1 else file.stem)
        splits = _splits(bundle, options)
        for index, split in sorted(splits.items()):
            name, label = bundle.images.names[index], int(bundle.labels[index])
            image = builder.image(name, split, f"{file}: image {index}", scene_class=bundle.classnames[label])
            drawn = _order(templates, "prompts", options.split_seed, name)[: options.captions_per_image]
            for template in sorted(drawn):
                builder.caption(image, bundle.prompt(template, label), f"{file}: template {template}")
        absent = [split for split in SPLITS if split not in splits.values()]
        if absent:
            raise DataError(f"{file}: classes are too small to be cut; no image is in split {absent[0]!r}")
        part = f"part {options.part} of {options.parts}, " if options.parts > 1 else ""
        return builder.build(
            lambda names: StoredImages(bundle.images, names),
            partition=f"{part}70/10/20 of each class, drawn with seed {options.split_seed}",
            given=False,
        )


def _splits(bundle: PromptBundle, options: PromptedOptions) -> dict[int, str]:
    """The images of the part, by their numbers, and the split of each."""
    of_class: dict[int, list[int]] = defaultdict(list)
    for index, label in enumerate(bundle.labels.tolist()):
        of_class[label].append(index)
    splits = {}
    for members in of_class.values():
        numbers = {bundle.images.names[index]: index for index in members}
        mine = _order(numbers, "parts")[options.part :: options.parts]
        for place, name in enumerate(_order(mine, "prompted splits", options.split_seed)):
            share = (place + 0.5) / len(mine)
            splits[numbers[name]] = next(s for s, end in zip(SPLITS, _ENDS, strict=True) if share < end)
    return splits


def _order(things: Iterable[_T], *seed: object) -> list[_T]:
    """Things in an order that depends on them and the seed alone."""
    return sorted(things, key=lambda thing: derive_seed(*seed, thing))


def _numbers(entry: int | str, count: int) -> Iterable[int]:
    """The templates that an option's entry names."""
    # Not 6:12, as Python writes ranges: YAML reads that as the number 372, hours and minutes.
    match = _RANGE.fullmatch(str(entry).strip())
    if match is None:
        raise UsageError(f"templates: {entry!r} is neither a number nor a range; write 7, 0-52 or 0-59/6")
    first, step = int(match["first"]), int(match["step"] or 1)
    last = int(match["last"] or first)
    if not first <= last < count or not step:
        raise UsageError(f"templates: {entry!r} names none, or more than there are; they are 0 to {count - 1}")
    return range(first, last + 1, step)
