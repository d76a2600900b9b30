"""Captions made of tags by rules: what a map says of a place, in a few phrasings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from urbancross_bench.errors import DataError
from urbancross_bench.identity import derive_seed
from urbancross_bench.interfaces import Captioner, Subject
from urbancross_captioners.options import FromTagsOptions
from urbancross_captioners.tags import Told, listed, read_tags

_OPENINGS = (
    "The satellite image shows {centre}",
    "This aerial view shows {centre}",
    "Seen from above, the image shows {centre}",
    "The image shows {centre} from above",
)
_SURROUNDINGS = (
    ", surrounded by {around}.",
    ". The surroundings include {around}.",
    ". Nearby, {around} can be seen.",
)
_PROPERTIES = (
    " The map gives {properties}.",
    " Tags give {properties}.",
    " According to the map, {properties_are}.",
)


class FromTags(Captioner):
    """The same tags and the same seed give the same caption, whatever else is captioned."""

    options_type = FromTagsOptions

    def describe(self, subjects: Sequence[Subject]) -> list[str]:
        """Raises DataError for an image without tags: one sentence for all of those would make false pairs."""
        return [self._caption(subject) for subject in subjects]

    def _caption(self, subject: Subject) -> str:
        told = read_tags(subject.tags)
        if not (told.centre or told.around or told.properties):
            raise DataError(f"image {subject.name!r} has no tags, and from_tags knows nothing else")
        return caption(told, subject.seed, cast(FromTagsOptions, self.options).most)


def caption(told: Told, seed: int, most: int) -> str:
    """One to three sentences; of each kind of phrase the first `most`. The seed chooses the phrasing."""

    def drawn(phrasings: Sequence[str], what: str) -> str:
        return phrasings[derive_seed("phrasing", what, seed) % len(phrasings)]

    properties = told.properties[:most]
    words = {
        "centre": listed(told.centre[:most] or ["a place"]),
        "around": listed(told.around[:most] or [""]),
        "properties": listed([f"the {key} as {value}" for key, value in properties] or [""]),
        "properties_are": listed([f"the {key} is {value}" for key, value in properties] or [""]),
    }
    text = drawn(_OPENINGS, "opening") + (drawn(_SURROUNDINGS, "surroundings") if told.around else ".")
    return (text + (drawn(_PROPERTIES, "properties") if properties else "")).format_map(words)
