"""A run's scenario, as its spec has it, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def sources(scenario: Mapping[str, Any]) -> str:
    """`nordia + costara`: where it comes from."""
    return " + ".join(scenario["source"])


def route(scenario: Mapping[str, Any]) -> str:
    """`nordia + costara → meridia`."""
    return f"{sources(scenario)} → {scenario['target']}"


def typed_route(text: str) -> str:
    """A route in the words of `route`, however it was typed: `a->b`, `a+b -> c`; what has no arrow as it is."""
    origins, arrow, target = text.replace("->", "→").rpartition("→")
    return f"{' + '.join(part.strip() for part in origins.split('+'))} → {target.strip()}" if arrow else text
