"""What is said of a scene: one refined caption, several plain ones, and geo-tags."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from urbancross_datasets.synthetic.classes import BORDERS, CLASSES, DENSITIES, HEADINGS, NUMBERS, SIDES
from urbancross_datasets.synthetic.countries import Country
from urbancross_datasets.synthetic.hashing import Draws
from urbancross_datasets.synthetic.scene import Scene

T = TypeVar("T")

PLAIN_CAPTIONS = 4

_IDIOM = 50  # how often, in percent, a country takes its favourite word without a choice

# Each leaves something out, so that captions of different tiles can coincide.
_PLAIN = (
    "{place} with {tone} {toned} and {number} {counted}",
    "{place} with {border} {side}",
    "{number} {counted} and {tone} {toned} next to {border}",
    "{place} with {density} {crowd} where {line} runs {heading}",
    "{place} with {density} {crowd} and {number} {counted}",
    "{place} with {tone} {toned} is next to {border}",
    "{border} {side} of {place} with {tone} {toned}",
    "{tone} {toned} and {density} {crowd} beside {line} running {heading}",
    "{density} {crowd} in {place} with {border} {side}",
)

_REFINED = (
    "The satellite image shows {place} with {tone} {toned} and {density} {crowd}. {Line} runs {heading}, and "
    "{number} {counted} can be seen, with {border} {side}. Tags: {tags}.",
    "This is {place} seen from above, where {line} runs {heading}. {Number} {counted} and {density} {crowd} "
    "stand out, with {tone} {toned} and {border} {side}. Tags: {tags}.",
    "An aerial view of {place}: {number} {counted}, {density} {crowd} and {tone} {toned}. {Line} runs "
    "{heading}, and the scene gives way to {border} {side}. Tags: {tags}.",
)

_AROUND = {
    "trees": "natural of wood",
    "water": "natural of water",
    "soil": "natural of bare soil",
    "field": "landuse of farmland",
}


def tags(scene: Scene) -> str:
    """What a map knows of the place: what it is, and what surrounds it."""
    own = ", ".join(CLASSES[scene.scene_class].tags)
    return f"{own}; surrounded by {_AROUND[scene.border]}, road of {scene.road}"


def captions(scene: Scene, country: Country) -> list[str]:
    """The refined caption, then the plain ones. Each country prefers other templates and other words."""
    draws = Draws("captions", scene.key)
    refined = _fill(_accented(draws, _REFINED, country), scene, country, draws)
    plain: list[str] = []
    templates = list(_PLAIN)
    for _ in range(PLAIN_CAPTIONS):
        template = _accented(draws, templates, country)
        templates.remove(template)
        plain.append(_fill(template, scene, country, draws))
    return [refined, *plain]


def _fill(template: str, scene: Scene, country: Country, draws: Draws) -> str:
    kind = CLASSES[scene.scene_class]
    singular, plural = _accented(draws, kind.counted, country)
    words = {
        "place": _accented(draws, kind.place, country),
        "number": _accented(draws, NUMBERS[scene.count], country),
        "counted": singular if scene.count == 1 else plural,
        "tone": scene.tone,
        "toned": _accented(draws, kind.toned, country),
        "density": _accented(draws, DENSITIES[scene.density], country),
        "crowd": _accented(draws, kind.crowd, country),
        "line": _accented(draws, kind.line, country),
        "heading": _accented(draws, HEADINGS[scene.heading], country),
        "border": _accented(draws, BORDERS[scene.border], country),
        "side": _accented(draws, SIDES[scene.side], country),
        "tags": tags(scene),
    }
    words |= {name.capitalize(): text.capitalize() for name, text in words.items()}
    return template.format_map(words)


def _accented(draws: Draws, synonyms: Sequence[T], country: Country) -> T:
    """One of the synonyms: the country's accent says which comes first, and it comes most often."""
    turned = [synonyms[(place + country.accent) % len(synonyms)] for place in range(len(synonyms))]
    return turned[0] if draws.between(1, 100) <= _IDIOM else draws.pick(turned)
