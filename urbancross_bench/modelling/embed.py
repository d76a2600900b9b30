"""Embedding: features of images, segments and texts, each different one once."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad
from xxhash import xxh3_128_digest

from urbancross_bench.data.packed import PackedImages, PackedSegments, Rows, Taken, sorted_places
from urbancross_bench.interfaces.dataset import Indices
from urbancross_bench.interfaces.encoder import DualEncoder, SegmentEncoder
from urbancross_bench.modelling import answers
from urbancross_bench.modelling.curve import DivergedError
from urbancross_bench.modelling.inputs import encoded_segments, image_inputs, prepared
from urbancross_bench.modelling.runtime import autocast, lowered

BATCH = 256
_SMALLER = 32  # where a device has no room for that many

P = ParamSpec("P")
R = TypeVar("R")


def _smaller_where_needed(embed: Callable[P, R]) -> Callable[P, R]:
    """Try an embedding again, once and in smaller batches, on a device that ran out of memory."""

    @functools.wraps(embed)
    def embed_twice(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return embed(*args, **kwargs)
        except torch.OutOfMemoryError as error:
            print(f"{error}\ntrying again with {_SMALLER} at a time")
        # Out of the handler: the error holds the frames, and they what filled the memory.
        torch.cuda.empty_cache()
        return embed(*args, **kwargs | {"batch": _SMALLER})  # type: ignore[arg-type]

    return embed_twice


def cut(tokens: Tensor, model: DualEncoder) -> Tensor:
    """(B, L) tokens without the columns that no feature depends on."""
    return tokens[:, : model.text_length(tokens)]


@_smaller_where_needed
@torch.inference_mode()
def embed_images(
    model: DualEncoder,
    images: PackedImages,
    device: torch.device,
    precision: str = "float32",
    *,
    batch: int = BATCH,
) -> Tensor:
    """(N, D) float32 features on the CPU, not normalised, of N images, equal ones once."""
    model.train(False)
    model = lowered(model, precision)
    once, parts = _Once(), []
    for block in images.blocks(batch):  # hashed while the device works on the one before
        for some in _affordable(once.new(block), batch):
            with autocast(precision, device):
                pictures, *segments = image_inputs(some, model, device)
                if segments:
                    segments[0] = encoded_segments(model, segments[0], segments[1])
                parts.append(answers.encoded(model, "encode_image", pictures, *segments).float())
    return _finite("image", torch.cat(parts).cpu())[once.places]


@_smaller_where_needed
@torch.inference_mode()
def embed_segments(
    model: SegmentEncoder, segments: PackedSegments, device: torch.device, *, batch: int = BATCH
) -> Tensor:
    """(T, D) float32 features on the CPU, not normalised, of all packed segments, equal ones once."""
    model.train(False)
    once, parts = _Once(), [torch.empty(0, model.width, device=device)]
    for block in _blocks(segments.values, batch):
        new = once.new(Taken(block)).rows
        if len(new):
            parts.append(answers.encoded(model, "encode_segment", prepared(new, model, device)).float())
    return _finite("segment", torch.cat(parts).cpu())[once.places]


@_smaller_where_needed
@torch.inference_mode()
def embed_texts(
    model: DualEncoder,
    texts: Sequence[str],
    device: torch.device,
    precision: str = "float32",
    *,
    features: Rows | None = None,
    batch: int = BATCH,
) -> Tensor:
    """(M, D) float32 features on the CPU, not normalised; from `features` (M, D') of a tower that never changes.

    Texts of equal tokens are embedded once, so they get equal bits and tie. Short ones are embedded together: a
    batch is as long as its longest. The model meets them in an order of what they say, which tells nothing of the
    images that they are of.
    """
    model.train(False)
    model = lowered(model, precision)
    if features is None:
        place = {text: number for number, text in enumerate(sorted({*texts}))}
        tokens, rows = torch.unique(answers.tokens(model, [*place]), dim=0, return_inverse=True)
        rows = rows[[place[text] for text in texts]]
        # Whatever pads a row stands at its end.
        order = (tokens != tokens[:, -1:]).sum(dim=1).sort(stable=True).indices
        tokens, rows = tokens[order], order.argsort()[rows]
    else:
        once = _Once()
        new = [once.new(Taken(block)).rows for block in _blocks(features, batch)]
        order = torch.from_numpy(once.by_content())
        tokens, rows = torch.from_numpy(np.concatenate(new))[order], order.argsort()[once.places]
    parts = []
    for start in range(0, len(tokens), batch):
        block = tokens[start : start + batch]
        with autocast(precision, device):
            inputs = cut(block, model) if features is None else block
            parts.append(answers.encoded(model, "encode_text", inputs.to(device)).float())
    return _finite("text", torch.cat(parts).cpu())[rows]


def cut_texts(model: DualEncoder, texts: Sequence[str]) -> int:
    """How many of M texts are longer than the model reads: its tokens are the same without their last character,
    and with all that they say once more. Not those that have no tokens at all.
    """
    room = answers.tokens(model, [""]).shape[1]
    # A token stands for a byte or more, and three frame a text: shorter ones need not be looked at.
    kept = sorted(text for text in {text.strip() for text in texts} if len(text.encode()) + 3 > room)
    for changed in (lambda text: text[:-1], lambda text: f"{text} {text}"):
        same = _same_tokens(model, kept, [*map(changed, kept)])
        kept = [text for text, is_same in zip(kept, same, strict=True) if is_same]
    bare = _same_tokens(model, kept, [""] * len(kept))
    cut = {text for text, is_bare in zip(kept, bare, strict=True) if not is_bare}
    return sum(text.strip() in cut for text in texts)


def _same_tokens(model: DualEncoder, texts: Sequence[str], others: Sequence[str]) -> list[bool]:
    """Of (B, L) and (B, L') tokens; what one has beyond the other must be zeros."""
    if not texts:
        return []
    tokens = [answers.tokens(model, some) for some in (texts, others)]
    width = max(rows.shape[1] for rows in tokens)
    one, other = (pad(rows, (0, width - rows.shape[1])) for rows in tokens)
    return (one == other).all(dim=1).tolist()


def _blocks(rows: Rows, batch: int) -> Iterator[np.ndarray]:
    for start in range(0, len(rows), batch):
        yield rows.take(np.arange(start, min(start + batch, len(rows))))


def _affordable(block: Taken, batch: int) -> Iterator[Taken]:
    """A block in parts that hold no more pictures at once than a block of images without segments."""
    pictures = 1 if block.segments is None or block.segments.dtype != np.uint8 else 1 + block.segments.shape[1]
    size = max(1, batch // pictures)
    for start in range(0, len(block.rows), size):
        yield Taken(*(None if part is None else part[start : start + size] for part in block))  # type: ignore[arg-type]


class _Once:
    """Block after block, the rows not seen before; `places` says of every row which of the new ones it is like."""

    def __init__(self) -> None:
        self._place: dict[bytes, int] = {}
        self.places: list[int] = []

    def by_content(self) -> Indices:
        """The different rows in an order that does not hang on where they stood."""
        return sorted_places([*self._place])

    def new(self, block: Taken) -> Taken:
        """The rows of a block, with their segments, that differ from all before."""
        parts, fresh = [part for part in block if part is not None], []
        for number, row in enumerate(zip(*parts, strict=True)):
            content = b"".join(xxh3_128_digest(np.ascontiguousarray(part).data) for part in row)
            if content not in self._place:
                self._place[content] = len(self._place)
                fresh.append(number)
            self.places.append(self._place[content])
        if len(fresh) == len(block.rows):
            return block
        return Taken(*(None if part is None else part[fresh] for part in block))  # type: ignore[arg-type]


def _finite(what: str, features: Tensor) -> Tensor:
    lost = ~features.isfinite().all(dim=1)
    if what != "segment":  # an image's or text's direction is what is ranked
        lost |= (features == 0).all(dim=1)
    if bad := int(lost.sum()):
        whose = f"{bad} of {len(features)} {what} embeddings"
        raise DivergedError(f"{whose} hold NaN, infinity or zeros alone; the encoder has diverged")
    return features
