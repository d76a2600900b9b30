"""What a method is given before training: all of a side that its setting shows, and no pairing beyond that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_firewall import feed, numbers, reachable, said, split_of_tiles, tiles

from urbancross_bench.data.domain import Split
from urbancross_bench.data.packed import PackedSplit
from urbancross_bench.data.views import PairView, Shown, StreamView, target_view
from urbancross_bench.errors import FirewallError
from urbancross_bench.interfaces import Domain
from urbancross_bench.modelling.feeds import Feed


@pytest.fixture
def packed() -> PackedSplit:
    return split_of_tiles([2] * 40)


@pytest.mark.parametrize(
    ("setting", "images", "texts"),
    [
        ("unsupervised", 40, 80),
        ("unsupervised_images", 40, 0),
        ("few_shot", 40, 80),
        ("oracle", 40, 80),
    ],
)
def test_a_pool_is_all_that_is_shown_once_and_batches_say_where_theirs_stands(
    packed: PackedSplit, setting: str, images: int, texts: int
) -> None:
    view = target_view(packed, Shown(setting), seed=2)
    assert view is not None
    source = feed(view, batch_size=16, augmentation=("flip",), references=True)
    batches, pool = list(source.pool.batches()), source.pool
    rows = torch.cat([batch.image_rows for batch in batches])
    assert rows.tolist() == list(range(images))
    assert [len(batch.image_rows) for batch in batches] == [16, 16, 8]
    assert numbers(torch.cat([batch.image_features for batch in batches])) == tiles(view.images)  # type: ignore[arg-type]
    assert numbers(pool.reference_image_features) == tiles(view.images)  # type: ignore[arg-type]
    for batch in (*batches, source.batch(3)):
        assert numbers(pool.reference_image_features[batch.image_rows]) == numbers(batch.image_features)
        assert (batch.reference_image_features == pool.reference_image_features[batch.image_rows]).all()
        if texts:
            assert len(batch.text_rows) == len(batch.image_rows)
            assert numbers(pool.reference_text_features[batch.text_rows]) == numbers(batch.text_features)
    if isinstance(view, PairView):
        for batch in batches:
            assert numbers(batch.text_features) == numbers(batch.image_features)
    if texts:
        assert len(pool.reference_text_features) == texts
        assert numbers(pool.reference_text_features) == said(view.captions)  # type: ignore[arg-type]


def test_texts_of_a_pool_go_as_far_as_they_go(packed: PackedSplit) -> None:
    view = target_view(packed, Shown("unsupervised"), seed=2)
    assert isinstance(view, StreamView)
    assert view.captions is not None
    short = feed(replace(view, captions=view.captions[:13]), batch_size=10)
    sizes = [(len(batch.image_features), len(batch.text_features)) for batch in short.pool.batches()]
    assert sizes == [(10, 10), (10, 3), (10, 0), (10, 0)]
    alone = feed(replace(view, images=None), batch_size=30)
    assert [len(batch.text_features) for batch in alone.pool.batches()] == [30, 30, 20]


@pytest.mark.parametrize("disjoint", [False, True])
def test_the_rows_of_a_pool_pair_nothing_that_is_unpaired(packed: PackedSplit, disjoint: bool) -> None:
    same = []
    for seed in range(20):
        view = target_view(packed, Shown("unsupervised", disjoint_halves=disjoint), seed)
        for batch in feed(view).pool.batches():
            images, texts = numbers(batch.image_features), numbers(batch.text_features)
            same += [image == text for image, text in zip(images, texts, strict=True)]
    assert np.mean(same) == (0 if disjoint else pytest.approx(1 / 40, abs=0.02))


def test_nothing_reachable_from_a_pool_or_its_batches_leads_further(packed: PackedSplit) -> None:
    target = feed(target_view(packed, Shown("unsupervised"), seed=2), references=True)
    assert not [t for t in reachable(target.pool) if isinstance(t, PackedSplit | Split | Domain | Path | PairView)]
    assert not [t for t in reachable(target.pool) if isinstance(t, str) and t.endswith(".png")]
    for batch in target.pool.batches():
        things = reachable(batch)
        assert not [t for t in things if isinstance(t, Feed | StreamView | PackedSplit | np.ndarray)]
        tensors = [t for t in things if isinstance(t, torch.Tensor) and t.ndim > 0]
        assert all(t.untyped_storage().nbytes() <= t.numel() * t.element_size() for t in tensors)


@pytest.mark.parametrize("setting", ["source_only", "generalisation", "test_time"])
def test_a_pool_of_nothing_has_no_batches(setting: str) -> None:
    pool = feed(target_view(split_of_tiles([1, 1]), Shown(setting), seed=2), references=True).pool
    for ask in (pool.batches, lambda: pool.reference_image_features, lambda: pool.reference_text_features):
        with pytest.raises(FirewallError, match=r"not shown here: the setting is a test|nothing is shown here"):
            ask()
