"""What a captioner promises."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import SkipTest

from urbancross_bench.identity import key_of
from urbancross_bench.interfaces import CaptionerOptions, Subject
from urbancross_bench.interfaces.renderer import printable
from urbancross_bench.registry import Resolved
from urbancross_bench.testing.alike import difference
from urbancross_bench.testing.conformance import PureConformance, broken
from urbancross_bench.testing.fixtures.domains import tiny_images

_TAGS = ("natural: water", "landuse: residential, surrounded by highway: footway", "natural: wood; leisure: park")


def captions(resolved: Resolved) -> dict[str, str]:
    """A key of each caption, by the name of its subject."""
    captioner, subjects = resolved.build(), _subjects(resolved)
    captioner.load("cpu")
    with _seeded(0):
        said = captioner.describe(subjects)
    return {subject.name: key_of([text]) for subject, text in zip(subjects, said, strict=True)}


def _subjects(resolved: Resolved) -> list[Subject]:
    options, pixels = resolved.options, tiny_images(len(_TAGS), 32)
    sees = isinstance(options, CaptionerOptions) and options.sees_pixels
    return [
        Subject(f"tile {number}", tags, number, pixels[number] if sees else None)
        for number, tags in enumerate(_TAGS)
    ]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """As before every call; what was drawn when it was loaded is no matter."""
    if torch := sys.modules.get("torch"):  # what does without it is not to wait for it
        before = torch.get_rng_state()
        torch.manual_seed(seed)
        yield
        if torch.initial_seed() == seed:  # else the captioner has changed it, which is to be seen
            torch.set_rng_state(before)
    else:
        yield


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
        return _subjects(self.resolved)

    @staticmethod
    def _said(captioner: Any, subjects: list[Subject], seed: int = 0) -> list[str]:
        with _seeded(seed):
            said = captioner.describe(subjects)
        if len(said) != len(subjects) or not all(isinstance(text, str) for text in said):
            broken(f"it does not give one text for each of {len(subjects)} subjects")
        for text in said:
            if len(text.strip().splitlines()) != 1 or printable(text) != " ".join(text.split()):
                broken(f"the caption {text!r} is not one line of text that shows")
        return list(said)

    def _again(self, how: str, work: Callable[[], list[str]]) -> list[str]:
        seen = self.watched(work)
        if seen.error is not None:
            broken(f"{how} it fails: {type(seen.error).__name__}: {seen.error}")
        said: list[str] = seen.result
        return said

    def test_calls_are_independent(self) -> None:
        """What it was asked before changes nothing of what it says."""
        first, captioner = self.worked().result, self._ready()
        self._said(captioner, self._subjects()[::-1])
        again = self._again("called again", lambda: self._said(captioner, self._subjects()))
        if found := difference(first, again):
            broken(f"{found} is another after a call for others")

    def test_a_batch_of_one(self) -> None:
        """A subject alone has the caption that it has among others, unless captions are drawn."""
        first, captioner = self.worked().result, self._ready()
        alone = self._again("alone", lambda: [self._said(captioner, [one])[0] for one in self._subjects()])
        if (found := difference(first, alone)) and first != self._again("called again", self._of_another_seed):
            raise SkipTest("it draws what it says, and draws are made for a whole batch")
        if found:
            broken(f"{found} is another for a subject alone")

    def _of_another_seed(self) -> list[str]:
        return self._said(self._ready(), self._subjects(), seed=1)

    def test_it_says_the_same_elsewhere(self) -> None:
        """Another process, whose sets and hashes have another order, says the same."""
        self.worked()
        if others := self.others_elsewhere(captions):
            broken(
                f"the captions of {', '.join(others)} are others in another process: sort what comes out of a "
                "set, and choose by the subject's seed, not by hash()"
            )
