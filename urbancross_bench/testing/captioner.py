"""What a captioner promises."""

from __future__ import annotations

from typing import Any

from urbancross_bench.interfaces import CaptionerOptions, Subject
from urbancross_bench.testing.alike import difference
from urbancross_bench.testing.conformance import PureConformance, broken
from urbancross_bench.testing.fixtures.domains import tiny_images

_TAGS = ("natural: water", "landuse: residential, surrounded by highway: footway", "natural: wood; leisure: park")


class CaptionerConformance(PureConformance):
    """A captioner is asked about a few tiles with tags."""

    kind = "captioner"
    opens_files = True  # its weights

    def work(self) -> Any:
        """A caption for each of three subjects."""
        return self._said(self._ready(), self._subjects())

    def _ready(self) -> Any:
        captioner = self.build()
        captioner.load("cpu")
        return captioner

    def _subjects(self) -> list[Subject]:
        options = self.resolved.options
        sees = isinstance(options, CaptionerOptions) and options.sees_pixels
        pixels = tiny_images(len(_TAGS), 32)
        return [
            Subject(f"tile {number}", tags, number, pixels[number] if sees else None)
            for number, tags in enumerate(_TAGS)
        ]

    @staticmethod
    def _said(captioner: Any, subjects: list[Subject]) -> list[str]:
        said = captioner.describe(subjects)
        if len(said) != len(subjects) or not all(isinstance(text, str) for text in said):
            broken(f"it does not give one text for each of {len(subjects)} subjects")
        return list(said)

    def test_calls_are_independent(self) -> None:
        """What it was asked before changes nothing of what it says."""
        first, captioner = self.worked().result, self._ready()
        self._said(captioner, self._subjects()[::-1])
        again = self.watched(lambda: self._said(captioner, self._subjects())).result
        if found := difference(first, again):
            broken(f"{found} is another after a call for others")

    def test_a_batch_of_one(self) -> None:
        """It can be asked about one subject alone."""
        self.worked()
        self._said(self._ready(), self._subjects()[:1])
