"""What the store of a grid's output knows of a test split: the card of its domain, its captions and pictures."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from urbancross_bench.data.card import CARD
from urbancross_bench.data.geo import span
from urbancross_bench.data.packed import PackedSplit
from urbancross_bench.errors import DataError
from urbancross_bench.records import ScoreRecord

_KEY = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True, eq=False)
class Exhibit:
    """A test split as a store has it. `pack`: the folder with its captions and pictures of a `size`, if there."""

    card: Mapping[str, Any]
    places: Sequence[tuple[str, float, float]]
    items: Path
    pack: Path | None
    size: int

    @property
    def shareable(self) -> bool:
        """Whether images and captions may be shown; a card that does not say so forbids it."""
        return self.card.get("shareable") is True

    @cached_property
    def split(self) -> PackedSplit | None:
        """Captions and pictures; None where the store has none of them, or not any more."""
        return PackedSplit.load(self.pack) if self.pack else None

    @cached_property
    def equal(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(N,) equal integers for equal images, (M,) for equal captions. Raises DataError."""
        try:
            arrays = load_file(self.items / "items.safetensors")
            return arrays["image_id"], arrays["text_id"]
        except Exception as error:  # safetensors raises its own type, OSError and KeyError
            raise DataError(f"{self.items / 'items.safetensors'} cannot be read: {error}") from error


class Exhibits:
    """The exhibits of scores. What is found of a store is remembered."""

    def __init__(self) -> None:
        self._packs: dict[Path, dict[str, tuple[int, Path | None]]] = {}
        self._found: dict[Path, Exhibit | None] = {}

    def of(self, score: ScoreRecord) -> Exhibit | None:
        """That of the test split of a score; None where its output folder has no store, or no card in it."""
        key = score.content.get("items")
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            return None
        store = score.output / "store"
        items = store / "items" / key
        if items not in self._found:
            self._found[items] = self._read(store, items, score.content["test"])
        return self._found[items]

    def _read(self, store: Path, items: Path, test: str) -> Exhibit | None:
        if not (items / CARD).is_file():
            return None
        size, pack = self._packs_in(store).get(test, (0, None))
        return Exhibit(*_card(items / CARD), items, pack, size)

    def _packs_in(self, store: Path) -> dict[str, tuple[int, Path | None]]:
        """Fingerprint of a split → the pack with the largest pictures, and their size."""
        if store not in self._packs:
            found: list[tuple[int, str, str, Path]] = []
            for manifest in store.glob("pack/*/stage.json"):
                try:
                    facts = json.loads(manifest.read_text(encoding="utf-8"))["facts"]
                    found.append(
                        (facts["format"]["size"], manifest.parent.name, facts["content"], manifest.parent)
                    )
                except (OSError, ValueError, LookupError, TypeError) as error:
                    raise DataError(f"{manifest} cannot be read: {error}") from error
            self._packs[store] = {content: (size, folder) for size, _, content, folder in sorted(found)}
        return self._packs[store]


def _card(file: Path) -> tuple[Mapping[str, Any], Sequence[tuple[str, float, float]]]:
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        places = _unrolled([(str(split), float(north), float(east)) for split, north, east in said["places"]])
        card: Mapping[str, Any] = dict(said["card"])
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    return card, places


def _unrolled(places: Sequence[tuple[str, float, float]]) -> list[tuple[str, float, float]]:
    """The same with longitudes that run on beyond 180 degrees, where their arc crosses the antimeridian."""
    if not places:
        return []
    west, _ = span(np.array([east for *_, east in places]))
    return [(split, north, east if east >= west else east + 360) for split, north, east in places]
