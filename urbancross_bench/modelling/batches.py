"""The batches a method gets to hold: rows that were drawn, and their features once they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from urbancross_bench.errors import FirewallError
from urbancross_bench.interfaces.encoder import DualEncoder
from urbancross_bench.modelling import answers
from urbancross_bench.modelling.encoding import Encoding
from urbancross_bench.modelling.heads import masked_mean
from urbancross_bench.modelling.inputs import encoded_segments
from urbancross_bench.modelling.residence import on_device

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Drawn:
    """What was drawn for a batch, on the device; None for what is not shown, and `hidden` says why.

    `images` are what `image_inputs` gives. All but `word_weights`, (V,), has a row per image or per text.
    `present`, (B, K), is on the CPU: which segments there are is known there without waiting for the device.
    """

    hidden: str
    images: tuple[Tensor, ...] | None = None
    present: Tensor | None = None
    image_rows: Tensor | None = None
    domains: Tensor | None = None
    reference_images: Tensor | None = None
    tokens: Tensor | None = None
    text_rows: Tensor | None = None
    text_features: Tensor | None = None
    reference_texts: Tensor | None = None
    word_weights: Tensor | None = None

    def rows(self, chosen: Tensor) -> Drawn:
        """Some of the rows, of images and texts alike."""

        def take(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[chosen]

        return Drawn(
            self.hidden,
            images=None if self.images is None else tuple(part[chosen] for part in self.images),
            present=None if self.present is None else self.present[chosen.to(self.present.device)],
            image_rows=take(self.image_rows),
            domains=take(self.domains),
            reference_images=take(self.reference_images),
            tokens=take(self.tokens),
            text_rows=take(self.text_rows),
            text_features=take(self.text_features),
            reference_texts=take(self.reference_texts),
            word_weights=self.word_weights,
        )

    def needed(self, values: T | None, what: str, need: str, there: object) -> T:
        """The values. Raises FirewallError where there are none; if their side is `there`, for want of a need."""
        if values is None and there is not None:
            raise FirewallError(f"{what} are not shown here: register the method with needs={{{need!r}}}")
        return self.shown(values, what)

    def shown(self, values: T | None, what: str) -> T:
        """The values. Raises FirewallError where there are none."""
        if values is None:
            raise FirewallError(f"{what} are not shown here: {self.hidden}")
        return values


class EncodedBatch:
    """The `interfaces.Batch` a method gets: it holds its own rows and nothing they were drawn from.

    trained: features have gradients even if they are first asked for where there are none: all who ask for them
    later get the same.
    """

    def __init__(self, model: DualEncoder, drawn: Drawn, encoding: Encoding, *, trained: bool = False) -> None:
        self._model = model
        self._drawn = drawn
        self._encoding = encoding
        self._trained = trained
        self._handed_out: dict[str, tuple[Tensor, int]] = {}
        for name, values in (
            ("image_rows", drawn.image_rows),
            ("text_rows", drawn.text_rows),
            ("domains", drawn.domains),
            ("reference_image_features", drawn.reference_images),
            ("reference_text_features", drawn.reference_texts),
        ):
            self._handed(name, values)

    def changed(self) -> list[str]:
        """What was changed in place since it was handed out, by name."""
        return [name for name, (values, version) in self._handed_out.items() if values._version != version]

    def _handed(self, name: str, values: T) -> T:
        if isinstance(values, Tensor) and not values.is_inference():
            self._handed_out[name] = values, values._version
        return values

    @cached_property
    def image_features(self) -> Tensor:
        """See `interfaces.Batch`."""
        images, *segments = self._drawn.shown(self._drawn.images, "images")
        more = (self._segments, segments[1]) if segments else ()
        return self._handed("image_features", self._normalised("encode_image", images, *more))

    @cached_property
    def text_features(self) -> Tensor:
        """See `interfaces.Batch`."""
        drawn = self._drawn
        taken = drawn.shown(drawn.tokens, "captions") if drawn.text_features is None else drawn.text_features
        return self._handed("text_features", self._normalised("encode_text", taken))

    def _normalised(self, encode: str, *inputs: Tensor) -> Tensor:
        if not len(inputs[0]):  # no tower need know what to do with nothing
            return torch.zeros(0, self._model.width, device=inputs[0].device)
        with self._gradients():
            by = partial(answers.encoded, self._model, encode)
            features = self._encoding(self._model, lambda *some: by(*some).float(), *inputs)
            return F.normalize(features, dim=1)

    @contextmanager
    def _gradients(self) -> Iterator[None]:
        """Inside, features have gradients wherever they are asked for, if they are to be trained on."""
        if not self._trained:
            yield
            return
        with torch.inference_mode(False), torch.enable_grad():
            yield

    @cached_property
    def segment_features(self) -> Tensor:
        """See `interfaces.Batch`."""
        present = self._with_segments()[2]
        with self._gradients():
            mean = masked_mean(F.normalize(self._segments.float(), dim=2), present)
        return self._handed("segment_features", mean)

    @cached_property
    def _segments(self) -> Tensor:
        """(B, K, D)."""
        _, segments, _ = self._with_segments()
        if segments.ndim == 3:  # features already, of a frozen tower
            return segments
        encode = partial(encoded_segments, self._model)
        present = self._drawn.shown(self._drawn.present, "segments")
        with self._gradients():
            return self._encoding(self._model, encode, segments, present, pictures=segments.shape[1])

    @property
    def with_segments(self) -> Tensor:
        """(B',) int64, the rows of images that have segments; how many is known without waiting for the device."""
        segments, present = self._with_segments()[1], self._drawn.shown(self._drawn.present, "segments")
        return on_device(present.any(dim=1).nonzero()[:, 0], segments.device)

    def _with_segments(self) -> tuple[Tensor, ...]:
        images = self._drawn.shown(self._drawn.images, "images")
        return self._drawn.needed(images if len(images) == 3 else None, "segments", "segments", images)

    @property
    def reference_image_features(self) -> Tensor:
        """See `interfaces.Batch`."""
        drawn = self._drawn
        return drawn.needed(drawn.reference_images, "reference image features", "reference", drawn.image_rows)

    @property
    def reference_text_features(self) -> Tensor:
        """See `interfaces.Batch`."""
        drawn = self._drawn
        return drawn.needed(drawn.reference_texts, "reference text features", "reference", drawn.text_rows)

    @property
    def caption_similarity(self) -> Tensor:
        """See `interfaces.Batch`."""
        drawn = self._drawn
        tokens, weights = drawn.shown(drawn.tokens, "captions"), drawn.shown(drawn.word_weights, "captions")
        words = torch.zeros(len(tokens), len(weights), device=tokens.device).scatter_(1, tokens, 1.0)
        words = F.normalize(words * weights, dim=1)
        return (words @ words.T).fill_diagonal_(1)  # also of a caption whose every word stands in all

    @property
    def domains(self) -> Tensor:
        """See `interfaces.Batch`."""
        return self._drawn.shown(self._drawn.domains, "domains")

    @property
    def image_rows(self) -> Tensor:
        """See `interfaces.Batch`."""
        return self._drawn.shown(self._drawn.image_rows, "images")

    @property
    def text_rows(self) -> Tensor:
        """See `interfaces.Batch`."""
        return self._drawn.shown(self._drawn.text_rows, "captions")

    def encoded_by(self, model: DualEncoder) -> EncodedBatch:
        """See `interfaces.Batch`."""
        return EncodedBatch(model, self._drawn, self._encoding)

    def rows(self, chosen: Tensor) -> EncodedBatch:
        """The same batch cut down to some rows."""
        return EncodedBatch(self._model, self._drawn.rows(chosen), self._encoding, trained=self._trained)
