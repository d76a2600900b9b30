"""Feeds: which items a step sees, and the batches a method gets to hold.

What a step draws is a function of the seed and the step alone, so training can be repeated from anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Generator, Tensor

from urbancross_bench.data.views import PairView, StreamView
from urbancross_bench.errors import FirewallError
from urbancross_bench.identity import derive_seed
from urbancross_bench.interfaces.encoder import DualEncoder
from urbancross_bench.modelling.embed import cut, embed_images, embed_texts
from urbancross_bench.modelling.heads import masked_mean
from urbancross_bench.modelling.inputs import encoded_segments, image_inputs

Ints = NDArray[np.int64]
T = TypeVar("T")


class EncodedBatch:
    """The `interfaces.Batch` a method gets: it holds the rows of one step and nothing they were drawn from."""

    def __init__(
        self,
        model: DualEncoder,
        *,
        hidden: str = "",
        images: tuple[Tensor, ...] | None = None,
        tokens: Tensor | None = None,
        text_features: Tensor | None = None,
        reference_images: Tensor | None = None,
        reference_texts: Tensor | None = None,
        domains: Tensor | None = None,
        word_weights: Tensor | None = None,
    ) -> None:
        self._model = model
        self._hidden = hidden
        self._images = images
        self._tokens = tokens
        self._text_features = text_features
        self._reference_images = reference_images
        self._reference_texts = reference_texts
        self._domains = domains
        self._word_weights = word_weights

    @cached_property
    def image_features(self) -> Tensor:
        """See `interfaces.Batch`."""
        images, *segments = self._shown(self._images, "images")
        more = (self._segments, segments[1]) if segments else ()
        return F.normalize(self._model.encode_image(images, *more).float(), dim=1)

    @cached_property
    def text_features(self) -> Tensor:
        """See `interfaces.Batch`."""
        taken = self._shown(self._tokens, "captions") if self._text_features is None else self._text_features
        return F.normalize(self._model.encode_text(taken).float(), dim=1)

    @cached_property
    def segment_features(self) -> Tensor:
        """See `interfaces.Batch`."""
        present = self._with_segments()[2]
        return masked_mean(F.normalize(self._segments.float(), dim=2), present)

    @cached_property
    def _segments(self) -> Tensor:
        """(B, K, D)."""
        _, segments, present = self._with_segments()
        return encoded_segments(self._model, segments, present)

    def _with_segments(self) -> tuple[Tensor, ...]:
        images = self._shown(self._images, "images")
        if len(images) < 3:
            raise FirewallError("segments are not shown here: register the method with needs={'segments'}")
        return images

    @property
    def reference_image_features(self) -> Tensor:
        """See `interfaces.Batch`."""
        return self._shown(self._reference_images, "reference image features")

    @property
    def reference_text_features(self) -> Tensor:
        """See `interfaces.Batch`."""
        return self._shown(self._reference_texts, "reference text features")

    @property
    def caption_similarity(self) -> Tensor:
        """See `interfaces.Batch`."""
        tokens, weights = self._shown(self._tokens, "captions"), self._shown(self._word_weights, "captions")
        words = torch.zeros(len(tokens), len(weights), device=tokens.device).scatter_(1, tokens, 1.0)
        words = F.normalize(words * weights, dim=1)
        return words @ words.T

    @property
    def domains(self) -> Tensor:
        """See `interfaces.Batch`."""
        return self._shown(self._domains, "domains")

    def rows(self, chosen: Tensor) -> EncodedBatch:
        """The same batch cut down to some rows."""

        def take(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[chosen]

        return EncodedBatch(
            self._model,
            hidden=self._hidden,
            images=None if self._images is None else tuple(part[chosen] for part in self._images),
            tokens=take(self._tokens),
            text_features=take(self._text_features),
            reference_images=take(self._reference_images),
            reference_texts=take(self._reference_texts),
            domains=take(self._domains),
            word_weights=self._word_weights,
        )

    def _shown(self, values: T | None, what: str) -> T:
        if values is None:
            raise FirewallError(f"{what} are not shown here: {self._hidden}")
        return values


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
    ) -> None:
        self._model = model
        self._view = view
        self._device = device
        self._augmentation = augmentation
        self._hidden = hidden
        self._seed = seed
        self._images = self._texts = self._word_weights = None
        if view is not None and view.images is not None:
            self._images = Stream(len(view.images), batch_size, derive_seed("images", seed))
        if view is not None and view.captions is not None:
            self._tokens = model.tokenize(view.captions)
            self._word_weights = _inverse_frequencies(self._tokens).to(device)
            if isinstance(view, PairView):
                self._captions_of_image = _grouped(view.image_of_caption, len(view.images))
            else:
                self._texts = Stream(len(view.captions), batch_size, derive_seed("captions", seed))
        self._references = ReferenceFeatures(model, view, device) if references and view is not None else None

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
        view = self._view
        if view is None:
            return EncodedBatch(self._model, hidden=self._hidden)
        seed = derive_seed("batch", step, self._seed)
        images = self._images.draw(step) if self._images else None
        domains: Tensor | None = None
        if isinstance(view, PairView):
            assert images is not None
            texts: Ints | None = self._one_caption_each(images, seed)
            domains = torch.from_numpy(view.domains[images]).to(self._device)
        else:
            texts = self._texts.draw(step) if self._texts else None
        reference = self._references
        return EncodedBatch(
            self._model,
            hidden=self._hidden,
            images=None if images is None else self._prepared(images, Generator().manual_seed(seed)),
            tokens=None if texts is None else cut(self._tokens[texts], self._model).to(self._device),
            text_features=None if texts is None else self._stored(texts),
            reference_images=self._looked_up(reference.images if reference else None, images),
            reference_texts=self._looked_up(reference.texts if reference else None, texts),
            domains=domains,
            word_weights=self._word_weights,
        )

    def _stored(self, texts: Ints) -> Tensor | None:
        assert self._view is not None
        features = self._view.text_features
        return None if features is None else torch.from_numpy(features.take(texts)).to(self._device)

    def _prepared(self, images: Ints, generator: Generator) -> tuple[Tensor, ...]:
        assert self._view is not None
        assert self._view.images is not None
        taken = self._view.images.take(images)
        return image_inputs(taken, self._model, self._device, self._augmentation, generator)

    def _one_caption_each(self, images: Ints, seed: int) -> Ints:
        generator = np.random.Generator(np.random.PCG64(seed))
        order, starts, counts = self._captions_of_image
        picks = np.floor(generator.random(len(images)) * counts[images]).astype(np.int64)
        chosen: Ints = order[starts[images] + picks]
        return chosen

    def _looked_up(self, features: Tensor | None, rows: Ints | None) -> Tensor | None:
        return None if features is None or rows is None else features[rows].to(self._device)


def _inverse_frequencies(tokens: Tensor) -> Tensor:
    """(V,) log(M / captions with the token) of (M, L) tokens; 0 for what stands in all, like start and end."""
    present = torch.zeros(len(tokens), int(tokens.max()) + 1).scatter_(1, tokens, 1.0)
    frequency = present.sum(dim=0).clamp(min=1)
    frequency[0] = len(tokens)  # padding is no word
    return (len(tokens) / frequency).log()


def _grouped(owners: Ints, groups: int) -> tuple[Ints, Ints, Ints]:
    """Items sorted by owner, where each owner's items start, and how many they are."""
    counts = np.bincount(owners, minlength=groups).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
    return np.argsort(owners, kind="stable"), starts, counts
