"""Scene-level retrieval: how much of what is retrieved shows the query's kind of scene."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from urbancross_bench.evaluation.positions import sides, standing

if TYPE_CHECKING:
    from urbancross_bench.evaluation.ranking import Direction, Ranking

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def scene_precisions(ranking: Ranking, direction: Direction, r: int) -> Floats:
    """(Q,) the share of the first r gallery items that are of the query's scene class (Yuan et al. 2022, AMFMN).

    A text is of its image's class. Where items tie over place r, the rule of the ranking decides: by expectation,
    they share the places that are left. Raises ValueError without classes or embeddings, or if fewer than r items
    are listed.
    """
    inputs = ranking.with_inputs("scene-level retrieval")
    if inputs.image_class is None:
        raise ValueError("scene-level retrieval needs image_class: an integer per image")
    side = ranking.i2t if direction == "i2t" else ranking.t2i
    cut = min(r, side.gallery)
    if side.top.shape[1] < cut:
        raise ValueError(f"the first {r} items are asked for, and {side.top.shape[1]} are listed; raise top")
    scene = {
        "i2t": inputs.image_class[inputs.items.image],
        "t2i": inputs.image_class[ranking.image_of_text[inputs.items.text]],
    }
    of_query, of_item = (scene["i2t"], scene["t2i"]) if direction == "i2t" else (scene["t2i"], scene["i2t"])
    same = of_item[side.top[:, :cut]] == of_query[:, None]
    found = same.sum(axis=1).astype(np.float64)
    split = np.flatnonzero(side.top_tied[:, cut - 1])  # the last place is shared with items further down
    if len(split):
        apart = ~side.top_tied[split, : cut - 1]
        start = (apart * np.arange(1, cut)).max(axis=1, initial=0)  # where the tied ones begin
        certain = (same[split] & (np.arange(cut) < start[:, None])).sum(axis=1)
        total, alike = _tied(ranking, direction, split, side.top[split, cut - 1], of_query, of_item)
        places = cut - start
        if ranking.ties == "expected":
            shared = places * alike / total
        elif ranking.ties == "optimistic":
            shared = np.minimum(places, alike)
        else:
            shared = np.maximum(0, places - (total - alike))
        found[split] = certain + shared
    precisions: Floats = found / cut
    return precisions


def _tied(
    ranking: Ranking, direction: Direction, query: Ints, item: Ints, of_query: Ints, of_item: Ints
) -> tuple[Ints, Ints]:
    """How many items score exactly like one does for a query, and how many of these are of the query's class."""
    inputs = ranking.with_inputs("scene-level retrieval")
    queries, gallery = sides(inputs, direction)
    asked = queries.standing_for(query)
    order = np.arange(len(query))
    _, total = standing(inputs, asked, gallery, order, item)
    alike = np.zeros(len(query), dtype=np.int64)
    for scene in np.unique(of_query[query]):
        mine = np.flatnonzero(of_query[query] == scene)
        members = np.flatnonzero(of_item == scene)
        if len(members):
            few = asked.standing_for(mine)
            part = gallery.standing_for(members)
            _, alike[mine] = standing(inputs, few, gallery, np.arange(len(mine)), item[mine], part)
    return total, alike
