"""From the rows of any caption file to a domain: what every reader has in common."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from urbancross_bench.data.paths import plain_name
from urbancross_bench.data.text import beyond_ascii, is_utf8, read_text
from urbancross_bench.errors import DataError, cut
from urbancross_bench.interfaces.dataset import Domain, ImageSource, Repair, index_splits

BARE = "image without a caption"  # the problem of a repair
_SHOWN = 200  # characters of a caption that a note shows
TWICE = "kept: its captions count twice"  # the remedy of one
LIST = "kept as one caption: write a row per caption, or a json of lists"  # and of another
_LIST = re.compile(r"""\[\s*['"].*['"]\s*\]""", re.DOTALL)  # as pandas writes a cell that is one


class DomainBuilder:
    """Takes images and captions in the order a file has them, and keeps account of what it leaves out.

    `where` names file and line in every message.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._images: dict[str, int] = {}  # by their plain names
        self._names: list[str] = []
        self._where: list[str] = []
        self._splits: list[str] = []
        self._attributes: dict[str, dict[int, Any]] = {}
        self._captions: list[tuple[int, str]] = []
        self._repairs: list[Repair] = []

    def image(self, name: Any, split: str, where: str, **attributes: Any) -> int:
        """Add an image and return its number; `split` may be empty: in none. Where each caption of the file has a
        row of its own, a reader takes `row`. `./a.png` is `a.png`, and is called as it is first.

        `attributes` are what is known of it: `scene_class`, `latitude`, `longitude`, `tags` and the others of
        `interfaces.Domain`, by exactly these names; others are kept, and mean nothing to the harness.

        Raises DataError if the name is no text or stands twice, and for what cannot be written as UTF-8.
        """
        name = self._text(name, "image name", where)
        plain = plain_name(name)
        if plain in self._images:
            first = self._where[self._images[plain]]
            raise DataError(f"{where}: image {name!r} stands twice, first in {first}; put all its captions there")
        if not name:
            raise DataError(f"{where}: an image has no name")
        index = self._images[plain] = len(self._images)
        self._names.append(name)
        self._where.append(where)
        self._splits.append(split)
        for key, value in attributes.items():
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str):
                    self._text(text, key, where)
            self._attributes.setdefault(key, {})[index] = value
        return index

    def row(self, name: Any, split: str, where: str, **attributes: Any) -> int:
        """The image of one row of a file that has a row per caption: added at its first row.

        Raises DataError if a later row puts the same image elsewhere.
        """
        index = self._images.get(plain_name(name.strip())) if isinstance(name, str) else None
        if index is None:
            return self.image(name, split, where, **attributes)
        facts = {"split": split, **attributes}
        before: dict[str, Any] = {"split": self._splits[index]}
        before |= {key: self._attributes.get(key, {}).get(index) for key in attributes}
        differing = next((key for key in facts if facts[key] != before[key]), None)
        if differing:
            raise DataError(
                f"{where}: image {name!r} has {differing} {facts[differing]!r}, "
                f"but {before[differing]!r} in {self._where[index]}"
            )
        return index

    def caption(self, image: int, text: Any, where: str) -> None:
        """Add a caption of an image. A blank one is left out; one without a word is kept, since published figures
        count it. Both are noted, and so is one that is a list written out. Raises DataError if it is no text.
        """
        text = self._text(text, "caption", where)
        if text:
            self._captions.append((image, text))
        if not any(letter.isalpha() for letter in text):
            problem, remedy = (f"caption {text!r} has no word", "kept") if text else ("blank caption", "left out")
            self._repairs.append(Repair(where, problem, remedy, self._names[image]))
        if _LIST.fullmatch(text):
            problem = f"caption that looks like a list: {text[:_SHOWN]!r}"
            self._repairs.append(Repair(where, problem, LIST, self._names[image]))

    def spanning(self, image: int, text: str, separator: str, where: str) -> None:
        """Note a caption of a table that spans fields and lines: so a quote left open takes in the rows below."""
        text = text.strip()
        if "\n" in text and separator in text:
            problem = f"caption over several fields and lines: {text[:_SHOWN]!r}"
            self._repairs.append(Repair(where, problem, "kept", self._names[image]))

    def leave_out(self, name: str, problem: str, where: str) -> None:
        """Note an image that the reader does not add: `data check` lists it, plans and records count it."""
        self._repairs.append(Repair(where, problem, "left out", name))

    def copied(self, image: int, row: str, earlier: str, where: str) -> None:
        """Note a row of an image (`line 7`) that says again, field for field, what an earlier one says."""
        problem = f"{row} is the same row as {earlier}"
        self._repairs.append(Repair(where, problem, TWICE, self._names[image]))

    def encoding(self, file: Path, encoding: str | None = None) -> None:
        """Note a text file in another encoding than UTF-8, with words that tell whether it is the right one."""
        found = None if is_utf8(encoding) else beyond_ascii(read_text(file, encoding))
        if found:
            line, words = found
            self._repairs.append(Repair(f"{file}:{line}", f"not ASCII: {words!r}", f"read as {encoding}"))

    def build(self, images: Callable[[list[str]], ImageSource], **facts: Any) -> Domain:
        """The domain. `images` opens the images of some names; `facts` are further fields of `Domain`.

        Images without a caption are left out, and that is noted. Raises DataError if nothing is left.
        """
        captioned = {image for image, _ in self._captions}
        kept = [image for image in range(len(self._names)) if image in captioned]
        if not kept:
            raise DataError(f"domain {self._name!r}: no image has a caption")
        position = {image: index for index, image in enumerate(kept)}
        for image, name in enumerate(self._names):
            if image not in captioned:
                self._repairs.append(Repair(self._where[image], BARE, "left out", name))
        chosen = [self._names[image] for image in kept]
        labels = [self._splits[image] for image in kept]
        return Domain(
            name=self._name,
            image_names=chosen,
            splits={name: members for name, members in index_splits(labels).items() if name},
            captions=[text for _, text in self._captions],
            image_of_caption=np.array([position[image] for image, _ in self._captions], dtype=np.int64),
            images=images(chosen),
            attributes={key: [values.get(i) for i in kept] for key, values in self._attributes.items()},
            repairs=tuple(self._repairs),
            **facts,
        )

    @staticmethod
    def _text(value: Any, what: str, where: str) -> str:
        if not isinstance(value, str):
            raise DataError(f"{where}: the {what} is {cut(repr(value), _SHOWN)}, not a text")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{where}: the {what} {value!r} cannot be written: {error.reason}") from error
        return value.strip()
