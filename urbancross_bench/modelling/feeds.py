"""Feeds: which items a step sees, and all there is to see.

What a step draws is a function of the seed and the step alone, so training can be repeated from anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Generator, Tensor

from urbancross_bench.data.packed import Rows
from urbancross_bench.data.views import PairView, StreamView
from urbancross_bench.errors import FirewallError
from urbancross_bench.identity import derive_seed
from urbancross_bench.interfaces.encoder import DualEncoder
from urbancross_bench.modelling import answers
from urbancross_bench.modelling.batches import Drawn, EncodedBatch
from urbancross_bench.modelling.embed import cut, embed_images, embed_texts
from urbancross_bench.modelling.encoding import Encoding
from urbancross_bench.modelling.inputs import image_inputs
from urbancross_bench.modelling.residence import Gathered, Ints, Residence, Tables, Wanted, on_device


class Stream:
    """Indices 0 … length−1 in a new random order each pass, in batches; the last incomplete one is dropped."""

    def __init__(self, length: int, batch_size: int, seed: int) -> None:
        self._length = length
        self._size = min(batch_size, length)
        self._seed = seed
        self._order: tuple[int, Ints] | None = None
        self.batches = length // self._size

    def passes(self, step: int) -> int:
        """How many passes are finished before this step."""
        return step // self.batches

    def draw(self, step: int) -> Ints:
        """(B,) indices of one step."""
        number = self.passes(step)
        if self._order is None or self._order[0] != number:
            generator = np.random.Generator(np.random.PCG64([self._seed, number]))
            self._order = number, generator.permutation(self._length).astype(np.int64)
        start = step % self.batches * self._size
        return self._order[1][start : start + self._size]


class ReferenceFeatures:
    """Features of whole views by the frozen starting encoder, computed once before training."""

    def __init__(self, model: DualEncoder, view: PairView | StreamView, device: torch.device) -> None:
        self.images = None if view.images is None else F.normalize(embed_images(model, view.images, device), dim=1)
        self.texts = None
        if view.captions is not None:
            texts = embed_texts(model, view.captions, device, features=view.text_features)
            self.texts = F.normalize(texts, dim=1)


class Feed:
    """Batches of one side of the training, drawn from what its view shows."""

    def __init__(
        self,
        model: DualEncoder,
        view: PairView | StreamView | None,
        *,
        batch_size: int,
        augmentation: Sequence[str],
        device: torch.device,
        seed: int,
        hidden: str,
        references: bool = False,
        encoding: Encoding | None = None,
        residence: Residence | None = None,
    ) -> None:
        """`hidden` says why something is not shown; `encoding`, how features are computed, by default at once.

        residence: how rows come to the device, for all feeds of a training; by default one of this feed alone.
        """
        self._model = model
        self._view = view
        self._batch_size = batch_size
        self._device = device
        self._augmentation = augmentation
        self._hidden = hidden
        self._seed = seed
        self._encoding = encoding or Encoding()
        self._images = self._texts = self._word_weights = None
        if view is not None and view.images is not None:
            self._images = Stream(len(view.images), batch_size, derive_seed("images", seed))
        if view is not None and view.captions is not None:
            self._tokens = answers.tokens(model, view.captions)
            self._word_weights = _inverse_frequencies(self._tokens).to(device)
            if isinstance(view, PairView):
                self._captions_of_image = _grouped(view.image_of_caption, len(view.images))
            else:
                self._texts = Stream(len(view.captions), batch_size, derive_seed("captions", seed))
        self._references = ReferenceFeatures(model, view, device) if references and view is not None else None
        self._supply = (residence or Residence(device)).of(_tables(view, self._references))

    @property
    def steps_per_pass(self) -> int:
        """Steps of one pass over the images (over the captions where only they are shown)."""
        stream = self._images or self._texts
        return stream.batches if stream else 1

    def passes(self, step: int) -> int:
        """How many passes are finished before this step; 0 where nothing is shown."""
        stream = self._images or self._texts
        return stream.passes(step) if stream else 0

    def batch(self, step: int) -> EncodedBatch:
        """The batch of one step."""
        wanted = self._wanted(step)
        # What the next one draws is a function of its step, so that beginning with it moves no draw.
        gathered = self._supply.take(wanted, partial(self._wanted, step + 1))
        generator = Generator().manual_seed(self._batch_seed(step))
        drawn = self._drawn(wanted, gathered, self._augmentation, generator)
        return EncodedBatch(self._model, drawn, self._encoding, trained=True)

    def _wanted(self, step: int) -> Wanted:
        images = self._images.draw(step) if self._images else None
        if not isinstance(self._view, PairView):
            return Wanted(images, self._texts.draw(step) if self._texts else None)
        assert images is not None
        return Wanted(images, self._one_caption_each(images, self._batch_seed(step)))

    def _batch_seed(self, step: int) -> int:
        return derive_seed("batch", step, self._seed)

    @property
    def pool(self) -> EncodedPool:
        """All that batches are drawn from."""
        sides = {"image": self._view and self._view.images, "text": self._view and self._view.captions}
        shown = frozenset(side for side, values in sides.items() if values is not None)
        return EncodedPool(self._in_order, self._references, self._hidden, self._device, shown)

    def _in_order(self) -> Iterator[EncodedBatch]:
        """One pass, as `interfaces.Pool` says."""
        view = self._view
        if view is None:
            raise FirewallError(f"nothing is shown here: {self._hidden}")
        images = None if view.images is None else np.arange(len(view.images))
        texts = None if view.captions is None else np.arange(len(view.captions))
        if isinstance(view, PairView):
            order, starts, _ = self._captions_of_image
            texts = order[starts]
        leading, size = texts if images is None else images, self._batch_size
        unshared = self._encoding.unshared()  # statistics of layers are to be those of all rows
        assert leading is not None, "a view shows something"

        def some(rows: Ints | None, start: int) -> Ints | None:
            return None if rows is None else rows[start : min(start + size, len(leading))]

        def block(start: int) -> EncodedBatch:
            wanted = Wanted(some(images, start), some(texts, start))
            return EncodedBatch(self._model, self._drawn(wanted, self._supply.take(wanted)), unshared)

        return (block(start) for start in range(0, len(leading), size))

    def _drawn(
        self,
        wanted: Wanted,
        gathered: Gathered,
        augmentation: Sequence[str] = (),
        generator: Generator | None = None,
    ) -> Drawn:
        """What a batch of these rows holds; `generator` is what augmentation draws from."""
        view = self._view
        drawn = Drawn(self._hidden, word_weights=self._word_weights)
        if view is not None and view.images is not None and wanted.images is not None:
            assert gathered.images is not None
            segments = view.images.segments
            present = None if segments is None else segments.present(wanted.images)
            taken = gathered.images, gathered.segments, present
            drawn = replace(
                drawn,
                images=image_inputs(taken, self._model, self._device, augmentation, generator),
                present=None if present is None else torch.from_numpy(present),
                image_rows=gathered.image_rows,
                domains=self._moved(view.domains[wanted.images]) if isinstance(view, PairView) else None,
                reference_images=gathered.reference_images,
            )
        if wanted.texts is not None:
            tokens = self._tokens[wanted.texts]
            drawn = replace(
                drawn,
                tokens=on_device(cut(tokens, self._model) if len(tokens) else tokens, self._device),
                text_rows=gathered.text_rows,
                text_features=gathered.text_features,
                reference_texts=gathered.reference_texts,
            )
        return drawn

    def _moved(self, values: NDArray[Any]) -> Tensor:
        """Values that are no slice of others, on the device."""
        return on_device(torch.from_numpy(values), self._device)

    def _one_caption_each(self, images: Ints, seed: int) -> Ints:
        generator = np.random.Generator(np.random.PCG64(seed))
        order, starts, counts = self._captions_of_image
        picks = np.floor(generator.random(len(images)) * counts[images]).astype(np.int64)
        chosen: Ints = order[starts[images] + picks]
        return chosen


class EncodedPool:
    """The `interfaces.Pool` of a feed: the same rows, the same model, the same firewall."""

    def __init__(
        self,
        in_order: Callable[[], Iterator[EncodedBatch]],
        references: ReferenceFeatures | None,
        hidden: str,
        device: torch.device,
        shown: frozenset[str],
    ) -> None:
        self._in_order = in_order
        self._hidden = hidden
        self._device = device
        self._shown = shown
        held = {"image": references.images, "text": references.texts} if references else {}
        self._held = {side: (values, values._version) for side, values in held.items() if values is not None}

    def changed(self) -> list[str]:
        """See `EncodedBatch`."""
        return [
            f"reference_{side}_features"
            for side, (values, version) in self._held.items()
            if values._version != version
        ]

    def batches(self) -> Iterator[EncodedBatch]:
        """See `interfaces.Pool`. Raises FirewallError where nothing is shown."""
        return self._in_order()

    @property
    def reference_image_features(self) -> Tensor:
        """See `interfaces.Pool`."""
        return self._all("image")

    @property
    def reference_text_features(self) -> Tensor:
        """See `interfaces.Pool`."""
        return self._all("text")

    def _all(self, side: str) -> Tensor:
        features, _ = self._held.get(side, (None, 0))
        there = side if side in self._shown else None
        drawn = Drawn(self._hidden)
        return drawn.needed(features, f"reference {side} features", "reference", there).to(self._device)


def _tables(view: PairView | StreamView | None, references: ReferenceFeatures | None) -> Tables:
    """What a view shows, and its reference features, as rows to be gathered."""
    images, texts = (references.images, references.texts) if references else (None, None)
    return Tables(
        view.images if view is not None else None,
        None if images is None else Rows([images.numpy()]),
        view.text_features if view is not None else None,
        None if texts is None else Rows([texts.numpy()]),
    )


def _inverse_frequencies(tokens: Tensor) -> Tensor:
    """(V,) log(M / captions with the token) of (M, L) tokens; 0 for what stands in all, like start and end."""
    ordered = tokens.sort(dim=1).values
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    frequency = torch.bincount(ordered[first]).float().clamp(min=1)
    frequency[0] = len(tokens)  # padding is no word
    return (len(tokens) / frequency).log()


def _grouped(owners: Ints, groups: int) -> tuple[Ints, Ints, Ints]:
    """Items sorted by owner, where each owner's items start, and how many they are."""
    counts = np.bincount(owners, minlength=groups).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
    return np.argsort(owners, kind="stable"), starts, counts
