"""The page of a domain: its card, where its tiles lie, samples, floors and ceilings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from urbancross_bench.evaluation.floors import FLOORS
from urbancross_bench.interfaces import SPLITS, Item, ShownDomain
from urbancross_renderers.html.maps import tile_map
from urbancross_renderers.html.markup import file_name, page
from urbancross_renderers.html.pictures import Pictures, ShownItem


def domain_link(domain: ShownDomain) -> str:
    """The address of its page from the site's folder."""
    return f"domains/{file_name(domain.name, domain.test)}.html"


def domain_page(domain: ShownDomain, pictures: Pictures, **frame: Any) -> str:
    """The page of a domain; `frame` is what the skeleton takes. Thumbnails go to `pictures`."""
    return page(
        "domain.html",
        domain=domain,
        said=_said(domain),
        splits=_splits(domain),
        map=tile_map(domain.places),
        samples=_samples(domain.samples, pictures),
        floors=[(rule, _floors(values)) for rule, values in domain.floors.items()],
        **frame,
    )


def _said(domain: ShownDomain) -> list[tuple[str, Any]]:
    """What card and records say, a line each; of a domain without a card, what records say alone."""
    facts, card = domain.facts, domain.card
    lines: list[tuple[str, Any]] = []
    if card:
        lines += [
            ("images", f"{card['images']:,}"),
            ("captions", f"{card['captions']:,}, {card['distinct_captions']:,} of them distinct"),
            ("captions an image", _spread(card["captions_per_image"])),
            ("words a caption", _spread(card["words_per_caption"])),
            ("vocabulary", f"{card['vocabulary']:,} words"),
            ("scene classes", _most(card["classes"])),
            ("tags", _most(card["tags"])),
            ("resolution", _resolution(card["resolution"])),
            ("years", _counts(card["years"])),
            ("countries", _counts(card["countries"])),
            ("licence", card["licence"] or "not stated"),
        ]
    excluded = facts.get("excluded")
    lines += [
        ("splits", facts.get("partition") or "unknown origin"),
        ("mark", facts.get("mark") or None),
        ("captions by a model", "yes" if facts.get("captions_generated") else "not said"),
        ("test images in other splits", facts.get("test_images_also_in_train_or_val")),
        ("excluded", f"{excluded['images']} images, {excluded['captions']} captions" if excluded else "nothing"),
        ("repairs of its reader", facts.get("repairs")),
    ]
    return lines


def _splits(domain: ShownDomain) -> list[tuple[str, int | None, int | None, str]]:
    """Images, captions and fingerprint of each; without a card only the tested split has sizes."""
    prints = {**domain.facts.get("splits", {}), "test": domain.test}
    sizes = {name: (facts["images"], facts["captions"]) for name, facts in domain.card.get("splits", {}).items()}
    sizes.setdefault("test", domain.tested)
    return [(name, *sizes.get(name, (None, None)), prints[name]) for name in SPLITS if name in prints]


def _samples(samples: Sequence[tuple[Item, Item]], pictures: Pictures) -> list[tuple[ShownItem, ShownItem]]:
    return [(pictures.shown(image, "../"), pictures.shown(text, "../")) for image, text in samples]


def _floors(values: Mapping[str, Mapping[str, float] | None]) -> tuple[list[str], list[tuple[str, list[Any]]]]:
    """The metrics, and a row for each floor or ceiling."""
    known = {name: found for name, found in values.items() if found}
    metrics = [*dict.fromkeys(metric for found in known.values() for metric in found)]
    rows = [(FLOORS.get(name, name), [found.get(m) for m in metrics]) for name, found in known.items()]
    return metrics, rows


def _spread(spread: Mapping[str, float] | None) -> str | None:
    return None if spread is None else f"{spread['mean']:.4g} ({spread['min']:,} to {spread['max']:,})"


def _most(facts: Mapping[str, Any] | None) -> str | None:
    if facts is None:
        return None
    rest = ", …" if len(facts["most"]) < facts["distinct"] else ""
    return f"{facts['distinct']:,}: {_counts(facts['most'])}{rest}"


def _counts(counts: Mapping[str, int] | None) -> str | None:
    return ", ".join(f"{name} ({count:,})" for name, count in counts.items()) if counts else None


def _resolution(facts: Mapping[str, Any] | None) -> str | None:
    return None if facts is None else f"{facts['min']:.3g} to {facts['max']:.3g} metres a pixel"
