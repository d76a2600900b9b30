"""No label of the target reaches a method that may not see it: what views hold, and attempts to cheat."""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import math
import types
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from random import Random
from textwrap import dedent

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from urbancross_bench.data.domain import Split
from urbancross_bench.data.packed import PackedImages, PackedSegments, PackedSplit, Rows
from urbancross_bench.data.views import PairView, Shown, StreamView, target_view
from urbancross_bench.errors import DataError, FirewallError
from urbancross_bench.interfaces import SETTINGS, Domain
from urbancross_bench.modelling.feeds import Feed


@pytest.fixture
def packed() -> PackedSplit:
    """Image i is filled with i; its two captions say i."""
    images = np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None, None, None], (40, 8, 8, 3)).copy()
    captions = tuple(f"tile {i} {kind}" for i in range(40) for kind in "ab")
    owners = np.repeat(np.arange(40), 2)
    return PackedSplit(PackedImages(Rows([images])), tuple(f"{i}.png" for i in range(40)), captions, owners)


def tiles(images: PackedImages) -> list[int]:
    """The tiles that images are, in order."""
    return [int(image[0, 0, 0]) for block in images.blocks(7) for image in block.rows]


def said(captions: Iterable[str]) -> list[int]:
    """The tiles that captions are of, in order."""
    return [int(caption.split()[1]) for caption in captions]


class ToyModel(torch.nn.Module):
    """The least a feed needs: features that are the mean pixel, and the number a caption names."""

    width, mean, std = 2, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(self) -> None:
        super().__init__()
        self.logit_scale = torch.nn.Parameter(torch.zeros(()))

    def tokenize(self, texts: list[str]) -> torch.Tensor:
        return torch.tensor([[int(text.split()[1]) + 1] for text in texts])

    def text_length(self, tokens: torch.Tensor) -> int:
        return tokens.shape[1]

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        mean = images.mean(dim=(1, 2, 3)) * 255 + 1
        return torch.stack([torch.ones_like(mean), mean], dim=1) * self.logit_scale.exp()

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        number = tokens[:, 0].float()
        return torch.stack([torch.ones_like(number), number], dim=1) * self.logit_scale.exp()


def feed(view: PairView | StreamView | None, **changes: object) -> Feed:
    arguments: dict[str, object] = {
        "batch_size": 10,
        "augmentation": (),
        "device": torch.device("cpu"),
        "seed": 3,
        "hidden": "the setting is a test",
    }
    return Feed(ToyModel(), view, **(arguments | changes))  # type: ignore[arg-type]


def numbers(features: torch.Tensor) -> list[int]:
    """The tile numbers that normalised toy features stand for."""
    return (features[:, 1] / features[:, 0] - 1).round().int().tolist()


def reachable(root: object) -> list[object]:
    """Everything reachable from an object, code and modules aside."""
    seen: dict[int, object] = {}
    open_ = [root]
    while open_:
        thing = open_.pop()
        if id(thing) in seen or isinstance(
            thing, types.ModuleType | type | types.FunctionType | types.BuiltinFunctionType
        ):
            continue
        seen[id(thing)] = thing
        open_ += gc.get_referents(thing)
        if isinstance(thing, np.ndarray) and thing.base is not None:
            open_.append(thing.base)
    return list(seen.values())


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_view_shows_what_its_setting_allows(packed: PackedSplit, setting: str) -> None:
    view, access = target_view(packed, Shown(setting), seed=1), SETTINGS[setting]
    if access.pairs:
        assert isinstance(view, PairView)
    elif not access.anything:
        assert view is None
    else:
        assert isinstance(view, StreamView)
        assert (view.images is not None) == access.images
        assert (view.captions is not None) == access.captions


def test_streams_keep_all_items_and_lose_all_pairing(packed: PackedSplit) -> None:
    agreements = []
    for seed in range(30):
        view = target_view(packed, Shown("unsupervised"), seed)
        assert isinstance(view, StreamView)
        assert view.images is not None
        assert view.captions is not None
        order, spoken = tiles(view.images), said(view.captions)
        assert sorted(order) == list(range(40))
        assert sorted(view.captions) == sorted(packed.captions)
        # Whatever rule pairs positions (i with 2i, with 2i + 1, with i), it is right about as often as by chance.
        agreements += [np.mean([order[i] == spoken[2 * i + j] for i in range(40)]) for j in (0, 1)]
        agreements.append(np.mean([order[i] == spoken[i] for i in range(40)]))
    assert np.mean(agreements) == pytest.approx(1 / 40, abs=0.01)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    texts=st.lists(st.integers(0, 9), min_size=2, max_size=30),
    dealt=st.randoms(use_true_random=False),
)
def test_an_unpaired_view_is_a_function_of_what_is_unpaired(seed: int, texts: list[int], dealt: Random) -> None:
    """Whichever image has which caption, and wherever that stood: whoever undoes the shuffle finds no pair."""
    tiled = split_of_tiles([1] * len(texts))
    views = []
    for _ in range(2):
        features = Rows([np.array(texts, dtype=np.float32)[:, None]])
        captions = tuple(f"caption {text}" for text in texts)
        owners, files = (np.array(dealt.sample(range(len(texts)), len(texts))) for _ in range(2))
        split = PackedSplit(
            tiled.images.chosen(files),
            tuple(tiled.image_names[place] for place in files.tolist()),
            captions,
            owners,
            features,
        )
        view = target_view(split, Shown("unsupervised"), seed)
        assert isinstance(view, StreamView)
        assert view.text_features is not None
        assert view.images is not None
        every = np.arange(len(texts))
        views.append((view.captions, view.text_features.take(every).tolist(), tiles(view.images)))
        dealt.shuffle(texts)
    assert views[0] == views[1]


def test_few_shot_leads_to_nothing_but_what_it_shows(packed: PackedSplit) -> None:
    counts = np.arange(40) % 3
    values = Rows([np.repeat(np.arange(40), counts).astype(np.float32)[:, None]])
    segments = PackedSegments(values, np.cumsum(counts) - counts, counts, 1)
    texts = Rows([np.arange(80, dtype=np.float32)[:, None]])
    rows = Rows([np.arange(40, dtype=np.float32)[:, None]])
    split = replace(packed, images=PackedImages(rows, segments), text_features=texts)
    view = target_view(split, Shown("few_shot", share=0.1), 0)
    assert isinstance(view, PairView)
    arrays = [thing for thing in reachable(view) if isinstance(thing, np.ndarray)]
    assert max(len(array) for array in arrays) == 8  # four images, two captions each
    taken = view.images.take(np.arange(4))
    assert taken.segments is not None
    assert taken.present is not None
    own = taken.rows[:, 0].astype(int).tolist()
    assert taken.present.sum(axis=1).tolist() == [min(tile % 3, 1) for tile in own]
    assert taken.segments[taken.present][:, 0].tolist() == [tile for tile in own if tile % 3]


def test_nothing_reachable_from_a_view_leads_further(packed: PackedSplit) -> None:
    view = target_view(packed, Shown("unsupervised"), seed=1)
    things = reachable(view)
    assert not [t for t in things if isinstance(t, PackedSplit | Split | Domain | Path)]
    # Pixels, their order, their number: a permutation of the images alone, and nothing as long as the captions.
    arrays = [t for t in things if isinstance(t, np.ndarray)]
    assert sorted({a.shape for a in arrays}) == [(1,), (40,), (40, 8, 8, 3)]
    assert not [t for t in things if isinstance(t, str) and t.endswith(".png")]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), captions=st.lists(st.integers(1, 4), min_size=2, max_size=30))
def test_the_streams_are_what_they_were_in_orders_that_know_nothing_of_each_other(
    seed: int, captions: list[int]
) -> None:
    """With any number of captions an image: the image order is one permutation however the captions are dealt."""
    views = []
    for dealt in (captions, captions[::-1], [1] * len(captions)):
        view = target_view(split_of_tiles(dealt), Shown("unsupervised"), seed)
        assert isinstance(view, StreamView)
        assert view.images is not None
        assert view.captions is not None
        assert Counter(said(view.captions)) == dict(enumerate(dealt))
        views.append(tiles(view.images))
    assert views[0] == views[1] == views[2]
    assert sorted(views[0]) == list(range(len(captions)))


@settings(max_examples=40, deadline=None)
@given(
    shares=st.lists(st.floats(0.001, 1.0), min_size=2, max_size=4),
    share_seed=st.integers(0, 9),
    images=st.integers(1, 60),
)
def test_few_shot_shares_are_nested_paired_and_the_same_for_every_run(
    shares: list[float], share_seed: int, images: int
) -> None:
    split, shown = split_of_tiles([1 + i % 3 for i in range(images)]), []
    for share in sorted(shares):
        several = [target_view(split, Shown("few_shot", share, share_seed), seed) for seed in (0, 1)]
        for view in several:
            assert isinstance(view, PairView)
            own = tiles(view.images)
            assert [own[owner] for owner in view.image_of_caption] == said(view.captions)
            assert Counter(said(view.captions)) == {tile: 1 + tile % 3 for tile in own}
        assert tiles(several[0].images) == tiles(several[1].images)  # type: ignore[union-attr, arg-type]
        shown.append({*tiles(several[0].images)})  # type: ignore[union-attr, arg-type]
        assert len(shown[-1]) == max(1, math.ceil(share * images - 1e-9))
    assert all(smaller <= larger for smaller, larger in itertools.pairwise(shown))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), texts=st.lists(st.integers(0, 9), min_size=2, max_size=40))
def test_disjoint_halves_show_no_text_of_a_shown_image_though_captions_repeat(seed: int, texts: list[int]) -> None:
    split = split_of_tiles([1] * len(texts))
    split = replace(split, captions=tuple(f"caption {text}" for text in texts))
    if len(set(texts)) == 1:
        with pytest.raises(DataError, match="none is left to show"):
            target_view(split, Shown("unsupervised", disjoint_halves=True), seed)
    with contextlib.suppress(DataError):
        view = target_view(split, Shown("unsupervised", disjoint_halves=True), seed)
        assert isinstance(view, StreamView)
        own = {f"caption {texts[tile]}" for tile in tiles(view.images)}  # type: ignore[arg-type]
        assert own.isdisjoint(view.captions)  # type: ignore[arg-type]
        assert {*view.captions} | own == {*split.captions}  # type: ignore[misc]


def test_another_share_seed_draws_another_order(packed: PackedSplit) -> None:
    views = [target_view(packed, Shown("few_shot", 0.5, share_seed), 0) for share_seed in (0, 1)]
    assert {*tiles(views[0].images)} != {*tiles(views[1].images)}  # type: ignore[union-attr, arg-type]


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), images=st.integers(2, 60))
def test_disjoint_halves_show_no_image_with_its_caption(seed: int, images: int) -> None:
    split = split_of_tiles([1 + i % 3 for i in range(images)])
    view = target_view(split, Shown("unsupervised", disjoint_halves=True), seed)
    other = target_view(split, Shown("unsupervised", disjoint_halves=True), seed + 1)
    assert isinstance(view, StreamView)
    assert isinstance(other, StreamView)
    seen, spoken = {*tiles(view.images)}, {*said(view.captions)}  # type: ignore[arg-type]
    assert seen.isdisjoint(spoken)
    assert seen | spoken == set(range(images))
    assert seen == {*tiles(other.images)}  # type: ignore[arg-type]


def split_of_tiles(captions: list[int]) -> PackedSplit:
    """Tile i is filled with i and has `captions[i]` captions that say i."""
    count = len(captions)
    images = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 4, 4, 3)).copy()
    texts = tuple(f"tile {i} no {k}" for i in range(count) for k in range(captions[i]))
    owners = np.repeat(np.arange(count), captions)
    return PackedSplit(PackedImages(Rows([images])), tuple(f"{i}.png" for i in range(count)), texts, owners)


def test_batches_of_the_two_streams_do_not_pair(packed: PackedSplit) -> None:
    target = feed(target_view(packed, Shown("unsupervised"), seed=2), references=True)
    same = []
    for step in range(60):
        batch = target.batch(step)
        images, texts = numbers(batch.image_features), numbers(batch.text_features)
        assert numbers(batch.reference_image_features) == images
        assert numbers(batch.reference_text_features) == texts
        same += [a == b for a, b in zip(images, texts, strict=True)]
    assert np.mean(same) == pytest.approx(1 / 40, abs=0.02)


def test_nothing_reachable_from_a_batch_leads_further(packed: PackedSplit) -> None:
    target = feed(target_view(packed, Shown("unsupervised"), seed=2), references=True)
    batch = target.batch(0)
    _ = batch.image_features, batch.text_features
    things = reachable(batch)
    assert not [
        t
        for t in things
        if isinstance(t, PackedSplit | Split | Domain | Path | StreamView | Feed | str) and t in packed.captions
    ]
    assert not [t for t in things if isinstance(t, Feed | StreamView | PairView | PackedSplit | np.ndarray)]
    tensors = [t for t in things if isinstance(t, torch.Tensor) and t.ndim > 0]
    vocabulary = len(target.batch(1)._drawn.word_weights)  # type: ignore[arg-type]
    assert {t.shape[0] for t in tensors} == {10, vocabulary}
    assert all(t.untyped_storage().nbytes() <= t.numel() * t.element_size() for t in tensors)


def test_oracle_and_source_batches_are_paired(packed: PackedSplit) -> None:
    view = target_view(packed, Shown("oracle"), seed=2)
    source = feed(view)
    for step in range(8):
        batch = source.batch(step)
        assert numbers(batch.image_features) == numbers(batch.text_features)


@pytest.mark.parametrize(
    ("setting", "hidden"),
    [
        (
            "source_only",
            ["image_features", "text_features", "reference_image_features", "domains", "image_rows", "text_rows"],
        ),
        ("generalisation", ["image_features", "text_features", "reference_image_features", "domains"]),
        ("test_time", ["image_features", "text_features", "reference_image_features", "domains"]),
        ("unsupervised_images", ["text_features", "reference_text_features", "domains", "text_rows"]),
        ("unsupervised", ["domains"]),
    ],
)
def test_what_is_hidden_cannot_be_read(packed: PackedSplit, setting: str, hidden: list[str]) -> None:
    batch = feed(target_view(packed, Shown(setting), seed=2), references=True).batch(0)
    for name in hidden:
        with pytest.raises(FirewallError, match="not shown here: the setting is a test"):
            getattr(batch, name)
        with pytest.raises(FirewallError, match="not shown here: the setting is a test"):
            getattr(batch.encoded_by(ToyModel()), name)  # type: ignore[arg-type]


CHEATS = [
    ("source_only", "target.image_features.sum()"),
    ("source_only", "target.text_features.sum()"),
    ("unsupervised_images", "target.text_features.sum()"),
    ("unsupervised", "target.domains.sum()"),
    ("unsupervised", "target.image_of_caption.sum()"),
    ("unsupervised", "target.ids.sum()"),
    ("unsupervised_images", "target.caption_similarity.sum()"),
]
CHEAT = """
    class Cheat{number}(Adaptation):
        def loss(self, source, target, progress):
            return {{"cheat": {attempt}}}
"""


def test_methods_that_read_what_is_hidden_fail_their_runs(
    grid: Callable[..., Path], cli: Callable[..., object], tmp_path: Path
) -> None:
    source = [
        "from urbancross_bench.interfaces import Adaptation, hookimpl, register",
        "@hookimpl",
        "def register_adaptations():",
        "    return [",
        *(
            f'        register("cheat{number}", "cheats:Cheat{number}", setting="{setting}", '
            'needs={"gradients"}, summary="looks at labels"),'
            for number, (setting, _) in enumerate(CHEATS)
        ),
        "    ]",
        *(dedent(CHEAT).format(number=number, attempt=attempt) for number, (_, attempt) in enumerate(CHEATS)),
    ]
    (tmp_path / "cheats.py").write_text("\n".join(source))
    names = [f"cheat{number}" for number in range(len(CHEATS))]
    file = grid(plugins=["cheats.py"], adaptations=names, scenarios=[{"source": "plain", "target": "dark"}])
    assert cli("run", file, "--out", tmp_path / "out").status == 1  # type: ignore[attr-defined]
    failures = [place.parent for place in (tmp_path / "out" / "runs").glob("*/failure.json")]
    told = {
        json.loads((place / "run.json").read_text())["adaptation"]["label"]: (place / "failure.json").read_text()
        for place in failures
    }
    assert sorted(told) == names
    for name, text in told.items():
        assert f"not shown here: adaptation '{name}' has the setting" in text or "has no attribute" in text


def test_the_pairing_method_gains_nothing(packed: PackedSplit) -> None:
    """A cheat that trusts positions learns no pairing: over many passes each image meets every caption alike."""
    target = feed(target_view(packed, Shown("unsupervised"), seed=5), batch_size=40)
    met = np.zeros((40, 40), dtype=int)
    for step in range(800):
        batch = target.batch(step)
        met[numbers(batch.image_features), numbers(batch.text_features)] += 1
    own, other = np.diag(met).mean(), met[~np.eye(40, dtype=bool)].mean()
    assert own == pytest.approx(other, rel=0.1)


@pytest.mark.parametrize("halves", [False, True])
def test_stored_features_and_segments_go_with_their_items_and_tell_of_no_pair(
    packed: PackedSplit, halves: bool
) -> None:
    counts = np.arange(40) % 3
    starts = np.cumsum([0, *counts[:-1]])
    values = np.repeat(np.arange(40), counts).astype(np.float32)[:, None]
    segments = PackedSegments(Rows([values]), starts, counts, 2)
    texts = np.repeat(np.arange(40), 2).astype(np.float32)[:, None]
    rows = Rows([np.arange(40, dtype=np.float32)[:, None]])
    split = replace(packed, images=PackedImages(rows, segments), text_features=Rows([texts]))
    view = target_view(split, Shown("unsupervised", disjoint_halves=halves), 7)
    assert isinstance(view, StreamView)
    assert view.images is not None
    assert view.text_features is not None
    assert view.captions is not None
    everything = np.arange(len(view.images))
    taken = view.images.take(everything)
    assert taken.segments is not None
    assert taken.present is not None
    assert taken.present.sum(axis=1).tolist() == [int(image) % 3 for image in taken.rows[:, 0]]
    belongs = taken.segments[..., 0] == taken.rows[:, :1]
    assert belongs[taken.present].all()
    shown = view.text_features.take(np.arange(len(view.text_features)))[:, 0].astype(int).tolist()
    assert shown == said(view.captions)
    # Where images stood in the split may be found out; where captions stood must not, or the two would pair them.
    reachable = [part for part in vars(view.text_features).values() if isinstance(part, np.ndarray)]
    assert all(np.array_equal(part, np.arange(len(part))) or len(part) == 1 for part in reachable)
    few = target_view(split, Shown("few_shot", share=0.25), 7)
    assert isinstance(few, PairView)
    assert few.text_features is not None
    owners = few.images.take(few.image_of_caption).rows[:, 0]
    assert (few.text_features.take(np.arange(len(few.captions)))[:, 0] == owners).all()
