"""Thumbnails: each picture is one file, named by its content, whoever shows it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from urbancross_bench.interfaces import Item


@dataclass(frozen=True)
class ShownItem:
    """An image or a caption for a template: a text, or the address of a picture; without either, a name."""

    name: str
    text: str | None
    picture: str


class Pictures:
    """The thumbnails of a site, written when they are first shown."""

    def __init__(self) -> None:
        self._new: dict[str, bytes] = {}
        self._written: set[str] = set()

    def shown(self, item: Item, up: str = "") -> ShownItem:
        """An item for a page; `up` leads from its folder to the site's."""
        if item.thumbnail is None:
            return ShownItem(item.name, item.text, "")
        name = f"thumbnails/{hashlib.blake2b(item.thumbnail, digest_size=12).hexdigest()}.jpg"
        if name not in self._written:
            self._new[name] = item.thumbnail
        return ShownItem(item.name, item.text, f"{up}{name}")

    def take(self) -> Iterator[tuple[str, bytes]]:
        """The files that pages made since the last call need."""
        new, self._new = self._new, {}
        self._written.update(new)
        yield from sorted(new.items())
