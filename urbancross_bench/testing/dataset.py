"""What a dataset promises."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import SkipTest

import numpy as np

from urbancross_bench.errors import DataError
from urbancross_bench.identity import key_of
from urbancross_bench.interfaces import Domain
from urbancross_bench.testing.conformance import PureConformance, broken
from urbancross_bench.testing.watching import folder

_LOOKED_AT = 5  # images that are decoded
_ELSEWHERE = """
import json, pickle, sys
from urbancross_bench.registry import Registry
from urbancross_bench.testing.dataset import order
with open(sys.argv[1], "rb") as file:
    reference, files = pickle.load(file)
domain = Registry.discover(files).resolve("dataset", reference).build().read(reference.member)
print("\\n" + json.dumps(order(domain)))
"""


def order(domain: Domain) -> dict[str, str]:
    """A key for each thing that a domain lists, another for another order."""
    splits = {name: list(map(int, members)) for name, members in domain.splits.items()}
    return {
        "names": key_of([*domain.image_names]),
        "captions": key_of([*domain.captions]),
        "owners": key_of(list(map(int, domain.image_of_caption))),
        "splits": key_of(splits),
    }


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
        here, resolved = order(self._domain()), self.resolved
        files = tuple(str(Path(file).resolve()) for file in self.files)
        place = folder() / "subject"
        place.write_bytes(pickle.dumps((resolved.reference, files)))
        seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
        done = subprocess.run(
            [sys.executable, "-c", _ELSEWHERE, str(place)],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            timeout=self.patience + 60,
            check=False,
        )
        if done.returncode:
            broken(f"in another process it fails: {(done.stderr.strip().splitlines() or ['it says nothing'])[-1]}")
        there = json.loads(done.stdout.splitlines()[-1])
        if others := [name for name, key in here.items() if there[name] != key]:
            broken(
                f"{', '.join(others)} are others in another process, so no grid finds what it has planned with: "
                "sort what comes out of a set or a folder, and draw nothing without a seed"
            )

    def test_images_are_pixels(self) -> None:
        """Images come as H×W×3 of uint8, in an array that is the reader's own to change."""
        images = self._domain().images
        if not images.has_pixels:
            raise SkipTest("it is made of stored features")
        pixels = images.read(0)
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            broken(f"image 0 comes as {pixels.shape} of {pixels.dtype}")
        if not np.array_equal(pixels, images.read(0)):
            broken("image 0 has other pixels the second time it is read")

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
