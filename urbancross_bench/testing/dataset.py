"""What a dataset promises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from unittest import SkipTest

import numpy as np

from urbancross_bench.errors import DataError
from urbancross_bench.identity import key_of
from urbancross_bench.interfaces import Domain
from urbancross_bench.registry import Resolved
from urbancross_bench.testing.conformance import PureConformance, broken

_LOOKED_AT = 5  # images that are decoded
_DEGREES = {"latitude": 90, "longitude": 180}


def order(resolved: Resolved) -> dict[str, str]:
    """A key for each thing that its domain lists, another for another order."""
    domain = resolved.build().read(resolved.reference.member)
    splits = {name: list(map(int, members)) for name, members in domain.splits.items()}
    return {
        "names": key_of([*domain.image_names]),
        "captions": key_of([*domain.captions]),
        "owners": key_of(list(map(int, domain.image_of_caption))),
        "splits": key_of(splits),
        "attributes": _facts(domain.attributes),
        "caption attributes": _facts(domain.caption_attributes),
    }


def _facts(attributes: Mapping[str, Sequence[Any]]) -> str:
    return key_of({name: [*map(_told, values)] for name, values in attributes.items()})


def _told(value: Any) -> str:
    """A set has no order of its own."""
    return repr(sorted(map(repr, value)) if isinstance(value, set | frozenset) else value)


class DatasetConformance(PureConformance):
    """Every member is read; `member` is looked at closely, by default the first."""

    kind = "dataset"
    opens_files = True

    def work(self) -> Any:
        """Read the domain, and a few of its images."""
        resolved = self.resolved
        domain = resolved.build().read(resolved.reference.member)
        self._whole(domain)
        some = range(0, len(domain.image_names), max(1, len(domain.image_names) // _LOOKED_AT))
        pixels = [domain.images.read(index) for index in some] if domain.images.has_pixels else []
        return {
            "names": domain.image_names,
            "captions": domain.captions,
            "owners": domain.image_of_caption,
            "splits": domain.splits,
            "attributes": {name: [*values] for name, values in domain.attributes.items()},
            "digests": [domain.images.digest(index) for index in some],
            "pixels": pixels,
        }

    @staticmethod
    def _whole(domain: Any) -> None:
        from urbancross_bench.data.domain import check, misshapen

        if problem := misshapen(domain):
            broken(f"read gives no whole Domain: {problem}")
        try:
            check(domain)
        except DataError as error:
            broken(f"read gives no whole Domain: {error}")

    def _domain(self) -> Domain:
        self.worked()
        resolved = self.resolved
        domain: Domain = self.once("domain", lambda: resolved.build().read(resolved.reference.member))
        return domain

    def test_it_reads_the_same_elsewhere(self) -> None:
        """Another process, whose sets and hashes have another order, reads the same in the same order."""
        self._domain()
        if others := self.others_elsewhere(order):
            broken(
                f"{', '.join(others)} are others in another process, so no grid finds what it has planned with: "
                "sort what comes out of a set or a folder, and draw nothing without a seed"
            )

    def test_images_are_pixels(self) -> None:
        """Images come as H×W×3 of uint8, each in an array of its own."""
        images = self._domain().images
        if not images.has_pixels:
            raise SkipTest("it is made of stored features")
        pixels = images.read(0)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            broken(f"image 0 comes as {pixels.shape} of {pixels.dtype}")
        before = pixels.copy()
        for index in range(1, min(_LOOKED_AT, len(self._domain().image_names))):
            images.read(index)
            if not np.array_equal(pixels, before):
                broken(f"the array of image 0 has other pixels once image {index} is read; give each an array")
        if not np.array_equal(before, images.read(0)):
            broken("image 0 has other pixels the second time it is read")
        if pixels.flags.writeable and pixels.flags.owndata:  # never into a file that an array is mapped from
            pixels[:] = 255 - pixels
            again = images.read(0).copy()
            pixels[:] = before
            if not np.array_equal(before, again):
                broken("image 0 has other pixels once somebody changes the array that it came in; give a copy")

    def test_places_are_on_the_globe(self) -> None:
        """A latitude is a number of degrees from -90 to 90, a longitude from -180 to 180, or None."""
        attributes = self._domain().attributes
        if not (names := [name for name in _DEGREES if name in attributes]):
            raise SkipTest("it does not say where images are")
        for name in names:
            for index, value in enumerate(attributes[name]):
                if value is not None and not _within(value, _DEGREES[name]):
                    broken(f"the {name} of image {index} is {value!r}; where it is not known it is None")

    def test_digests_tell_images_apart(self) -> None:
        """Images that differ have digests that differ: stored results are found by them."""
        domain = self._domain()
        if not domain.images.has_pixels:
            raise SkipTest("it is made of stored features")
        count = min(20, len(domain.image_names))
        content = {domain.images.digest(index): domain.images.read(index).tobytes() for index in range(count)}
        if len(content) < len({domain.images.read(index).tobytes() for index in range(count)}):
            broken("two images that differ have one digest")

    def test_every_member_can_be_read(self) -> None:
        """Each of its members is a whole domain, and its aliases stand for members."""
        self.worked()
        registration = self.resolved.plugin.registration
        if len(registration.members) < 2:
            raise SkipTest("it has no members")
        for member in registration.members:
            self._whole(self.build().read(member))

    def test_it_says_where_splits_come_from(self) -> None:
        """The domain says in words where its splits come from: it stands beside every score."""
        if not self._domain().partition:
            broken("its domain says nothing of its partition")


def _within(value: Any, most: float) -> bool:
    """Whether it is a number that is no further from nought; NaN is none."""
    return isinstance(value, int | float | np.integer | np.floating) and abs(float(value)) <= most
