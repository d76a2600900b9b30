"""`data show DOMAIN`: a card with what is in a domain."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from urbancross_bench.cli.json_output import JsonOption, print_json
from urbancross_bench.cli.maps import degrees, text_map
from urbancross_bench.cli.options import PluginOption


def show(
    domains: Annotated[
        list[str], typer.Argument(metavar="DOMAIN", help="Datasets: synthetic/nordia, rsicd[folder=…], …")
    ],
    json_: JsonOption = False,
    croissant: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Describe the domain in Croissant 1.0, too: FILE and a csv."),
    ] = None,
    plugin: PluginOption = None,
) -> None:
    """Show what is in a domain: sizes, captions, classes, resolution, place, licence, fingerprints."""
    from urbancross_bench.cli.progress import report_reading
    from urbancross_bench.data.card import card, places
    from urbancross_bench.data.croissant import write_croissant
    from urbancross_bench.data.index import reading
    from urbancross_bench.errors import UsageError
    from urbancross_bench.execution.domains import naming, read_domains
    from urbancross_bench.registry import Registry

    read = read_domains(domains, Registry.discover(plugin or []))
    if croissant and len(read) > 1:
        raise UsageError(f"--croissant describes one domain, and {len(read)} are asked for")
    cards = []
    for number, (reference, domain) in enumerate(read.items()):
        with reading(report=report_reading), naming(reference):
            facts = {"reference": reference, **card(domain)}
        cards.append(facts)
        if not json_:
            print("\n" * bool(number) + "\n".join([*_lines(facts), *text_map(*places(domain))]))
        if croissant:
            table = write_croissant(domain, croissant)
            print(f"described in {croissant}, its captions in {table}", file=sys.stderr)
    if json_:
        print_json(cards)


def _lines(facts: Mapping[str, Any]) -> list[str]:
    """A card's facts, one a line."""
    lines = [f"{facts['name']}, from {facts['reference']}"]
    for title, text in (
        ("images", f"{facts['images']:,}, {facts['in_no_split']:,} of them in no split{_kind(facts)}"),
        ("captions", f"{facts['captions']:,}, {facts['distinct_captions']:,} of them distinct"),
        *((name, _split(split)) for name, split in facts["splits"].items()),
        ("repeats", _repeats(facts["test_images_in_train"])),
        ("splits", (facts["partition"] or "unknown origin") + (f" ({facts['mark']})" if facts["mark"] else "")),
        ("per image", _spread(facts["captions_per_image"], "captions")),
        ("words", f"{_spread(facts['words_per_caption'], 'a caption')}; vocabulary {facts['vocabulary']:,}"),
        ("generated", "a model wrote the captions from the images" if facts["captions_generated"] else "not said"),
        ("classes", _most(facts["classes"])),
        ("tags", _most(facts["tags"])),
        ("resolution", _resolution(facts["resolution"])),
        ("years", _counts(facts["years"])),
        ("countries", _counts(facts["countries"])),
        ("segments", _segments(facts["segments"])),
        ("licence", (facts["licence"] or "not stated") + ("; may be shown" if facts["shareable"] else "")),
        ("repairs", f"{facts['repairs']:,}" + ("; `data check` lists them" if facts["repairs"] else "")),
        ("place", _place(facts["place"])),
    ):
        lines.append(f"  {title:12}{text}")
    return lines


def _kind(facts: Mapping[str, Any]) -> str:
    return "" if facts["pixels"] else "; stored features, no pixels"


def _split(split: Mapping[str, Any]) -> str:
    mark = split["fingerprint"] or f"no fingerprint: {split['no_fingerprint_because']}"
    return f"{split['images']:>7,} images {split['captions']:>9,} captions  {mark}"


def _repeats(count: int | None) -> str:
    return "unknown" if count is None else f"{count:,} test images stand in train, too"


def _spread(spread: Mapping[str, float] | None, what: str) -> str:
    if spread is None:
        return "none"
    return f"{spread['mean']:.4g} {what} ({spread['min']:,} to {spread['max']:,})"


def _most(facts: Mapping[str, Any] | None) -> str:
    if facts is None:
        return "unknown"
    rest = ", …" if len(facts["most"]) < facts["distinct"] else ""
    return f"{facts['distinct']:,}: {_counts(facts['most'])}{rest}"


def _counts(counts: Mapping[str, int] | None) -> str:
    return ", ".join(f"{name} ({count:,})" for name, count in counts.items()) if counts else "unknown"


def _resolution(facts: Mapping[str, Any] | None) -> str:
    if facts is None:
        return "unknown"
    values = f"{facts['min']:.3g} to {facts['max']:.3g}, median {facts['median']:.3g}"
    alike = facts["min"] == facts["max"]
    return f"{facts['min'] if alike else values} m/px ({facts['from']}, {facts['images']:,} images)"


def _segments(facts: Mapping[str, Any] | None) -> str:
    if facts is None:
        return "none"
    aware = "chosen by caption, or not known" if facts["caption_aware"] else "chosen without the captions"
    return f"{facts['segments']:,}, {_spread(facts['per_image'], 'an image')}; {aware}"


def _place(facts: Mapping[str, Any] | None) -> str:
    if facts is None:
        return "unknown"
    south, north = (degrees(value, 4, "NS") for value in facts["latitude"])
    west, east = (degrees(value, 4, "EW") for value in facts["longitude"])
    return f"{south} to {north}, {west} to {east} ({facts['images']:,} images)"
