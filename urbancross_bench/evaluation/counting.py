"""Counting, per query, the gallery items that score above a threshold and those that equal it.

All images are multiplied with all texts once, block by block, and each product serves both directions. A rank is
a count, so nothing is sorted and no matrix of similarities is kept. What a screen's error bound leaves open is
decided by the definition of the score (see `vectors`); blocks, threads and precisions cannot move a count.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from threading import Lock, local

import numpy as np
import torch

from urbancross_bench.evaluation import fused
from urbancross_bench.evaluation.directions import Buffer, Direction, Pairs, Probes
from urbancross_bench.evaluation.screening import (
    BFLOAT16,
    Block,
    Side,
    plain_arithmetic,
    product,
    scaled,
    screens,
)
from urbancross_bench.evaluation.threads import for_each
from urbancross_bench.evaluation.toplists import TopLists
from urbancross_bench.evaluation.vectors import Vectors, at_once

_IMAGES, _TEXTS = 1024, 2048  # rows and columns of a block: its products and masks stay in the cache
_WIDER = 4  # times on a card, whose cache does not matter so much as the number of its kernels
_SPAN = 1 << 22  # elements of the texts kept at hand for a round over all images


def count(
    images: Vectors,
    texts: Vectors,
    to_texts: Probes,
    to_images: Probes,
    *,
    attained: tuple[Pairs, Pairs] | None = None,
    tops: tuple[TopLists, TopLists] | None = None,
) -> None:
    """Fill the counts of both directions' probes, and their lists of the best, in one pass over all pairs.

    attained: per direction, probes and gallery vectors known to score the threshold exactly; only saves time.
    """
    sides = scaled(images, texts)
    if fused.suits(*sides, to_texts, to_images):
        try:
            return fused.count(*sides, to_texts, to_images, tops)
        except (fused.TooManyOpenError, torch.OutOfMemoryError):
            pass  # close scores and many ties are for slower screens, blocks for little memory
    nothing = (np.empty(0, dtype=np.int64),) * 2
    known = attained or (nothing, nothing)
    wider = 1 if images.device.type == "cpu" else _WIDER
    sizes = wider * _IMAGES, wider * _TEXTS
    forth = Direction(*sides, to_texts, known[0], sizes, tops[0] if tops else None, transposed=False)
    back = Direction(*sides[::-1], to_images, known[1], sizes[::-1], tops[1] if tops else None, transposed=True)
    of_thread, taking, worth = local(), Lock(), [0]

    def work(blocks: tuple[Block, Block]) -> None:
        image, text = blocks
        if not hasattr(of_thread, "buffer"):
            of_thread.buffer = Buffer(sizes[0] * sizes[1], images.device)
        buffer: Buffer = of_thread.buffer
        for screen in screening[worth[0] :]:
            scores = product(screen, image, text, buffer.take)
            most = math.inf if screen is screening[-1] else screen.open * scores.numel()
            looks = (
                forth.look(screen, image, text, scores, buffer),
                back.look(screen, text, image, scores.T, buffer),
            )
            if max(look.open for look in looks) <= most:
                looks = (
                    forth.with_candidates(looks[0], scores, buffer),
                    back.with_candidates(looks[1], scores.T, buffer),
                )
                if max(look.open for look in looks) <= most:
                    break
            with taking:
                worth[0] = max(worth[0], screening.index(screen) + 1)  # later blocks will be no better
        found = forth.refined(looks[0]), back.refined(looks[1])
        with taking:
            forth.take(found[0])
            back.take(found[1])

    with plain_arithmetic():
        screening = screens(images, texts)
        if screening[0] is BFLOAT16:
            for side in sides:
                side.residuals(BFLOAT16.dtype)  # by all threads, before each of them asks for it
        for_each(_blocks(*sides, sizes), work, images.device)
    forth.finish()
    back.finish()


def _blocks(images: Side, texts: Side, sizes: tuple[int, int]) -> Iterator[tuple[Block, Block]]:
    """All pairs of blocks; those of a span of texts are read once, those of images once a span."""
    rows, columns = sizes
    span = max(1, at_once(_SPAN, texts.vectors.device) // (texts.vectors.width * columns)) * columns
    n, m = len(images.vectors), len(texts.vectors)
    for start in range(0, m, span):
        stop = min(start + span, m)
        held = [Block(texts, first, min(first + columns, stop)) for first in range(start, stop, columns)]
        for first in range(0, n, rows):
            image = Block(images, first, min(first + rows, n))
            for text in held:
                yield image, text
