"""Losses against plain loops, feeds, the training loop, and the OpenCLIP wrapper against open_clip itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip import SimpleTokenizer
from PIL import Image
from safetensors.torch import save_file

from urbancross_bench.data.packed import PackedImages, Rows
from urbancross_bench.data.views import PairView
from urbancross_bench.errors import RunError, UsageError
from urbancross_bench.identity import derive_seed, digest
from urbancross_bench.modelling.augment import AUGMENTATIONS, drawn, few_at_once
from urbancross_bench.modelling.checkpoints import load_weights, save_weights
from urbancross_bench.modelling.embed import cut_texts, embed_images, embed_texts
from urbancross_bench.modelling.feeds import Feed, Stream
from urbancross_bench.modelling.losses import (
    hinge,
    info_nce,
    normalised_weights,
    reverse_gradient,
    soft_info_nce,
    weighted_bce,
    weighted_triplet,
)
from urbancross_bench.registry import Registry
from urbancross_bench.specs import Augmentation

CPU = torch.device("cpu")


def weights_digest(model: torch.nn.Module) -> str:
    parts = (
        v.contiguous().view(-1).view(torch.uint8).numpy().tobytes() for _, v in sorted(model.state_dict().items())
    )
    return digest(parts)


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(
        torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1
    )


def test_info_nce_equals_a_loop() -> None:
    x, y = unit(5, 3), unit(5, 3, seed=1)
    s = 7.0 * x @ y.T
    rows = [-math.log(math.exp(s[i, i]) / sum(math.exp(v) for v in s[i])) for i in range(5)]
    columns = [-math.log(math.exp(s[i, i]) / sum(math.exp(v) for v in s[:, i])) for i in range(5)]
    assert info_nce(x, y, torch.tensor(7.0)).item() == pytest.approx((np.mean(rows) + np.mean(columns)) / 2)


def test_soft_info_nce_equals_a_loop_and_info_nce_at_its_end() -> None:
    x, y, words = unit(4, 3), unit(4, 3, seed=1), unit(4, 5, seed=2)
    similarity, s = words @ words.T, 7.0 * x @ y.T
    total = 0.0
    for scores in (s, s.T):
        for i in range(4):
            target = [math.exp(v / 0.3) for v in similarity[i]]
            weights = [math.exp(v) for v in scores[i]]
            total -= (
                sum(t / sum(target) * math.log(w / sum(weights)) for t, w in zip(target, weights, strict=True)) / 4
            )
    scale = torch.tensor(7.0)
    assert soft_info_nce(x, y, scale, similarity, 0.3).item() == pytest.approx(total / 2)
    assert soft_info_nce(x, y, scale, torch.eye(4).double(), 1e-3).item() == pytest.approx(
        info_nce(x, y, scale).item()
    )


def test_caption_similarity_knows_equal_and_unlike_captions(tiny) -> None:  # type: ignore[no-untyped-def]
    captions = ("a red roof", "a red roof", "many green trees", "a red car")
    images = np.zeros((4, 32, 32, 3), dtype=np.uint8)
    view = PairView(PackedImages(Rows([images])), captions, np.arange(4), np.zeros(4, np.int64))
    batch = Feed(tiny, view, batch_size=4, augmentation=(), device=CPU, seed=0, hidden="").batch(0)
    order = Stream(4, 4, derive_seed("images", 0)).draw(0).tolist()
    similarity = batch.caption_similarity
    place = {caption: order.index(i) for i, caption in enumerate(captions)}
    twins = order.index(0), order.index(1)
    assert similarity[twins].item() == pytest.approx(1.0)
    assert similarity[twins[0], place["many green trees"]].item() == 0.0
    assert 0.0 < similarity[twins[0], place["a red car"]].item() < 1.0

    alike = PairView(PackedImages(Rows([images])), ("roof",) * 4, np.arange(4), np.zeros(4, np.int64))
    of_none = Feed(tiny, alike, batch_size=4, augmentation=(), device=CPU, seed=0, hidden="").batch(0)
    assert of_none.caption_similarity.diagonal().tolist() == [1.0] * 4


def test_hinge_equals_a_loop() -> None:
    x, y = unit(5, 3), unit(5, 3, seed=1)
    s = (x @ y.T).numpy()
    total = sum(
        max(0, 0.2 - s[i, i] + s[i, j]) + max(0, 0.2 - s[i, i] + s[j, i])
        for i in range(5)
        for j in range(5)
        if i != j
    )
    assert hinge(x, y).item() == pytest.approx(total / 5)


def test_weighted_triplet_equals_a_loop() -> None:
    a, p, n = unit(4, 3), unit(4, 3, seed=1), unit(6, 3, seed=2)
    w = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
    total = sum(
        w[i] * max(0, (a[i] - p[i]).norm() - min((a[i] - n[j]).norm() for j in range(6)) + 0.5) for i in range(4)
    )
    assert weighted_triplet(a, p, n, w, 0.5).item() == pytest.approx(float(total))


def test_weighted_triplet_has_a_gradient_where_points_coincide() -> None:
    a = unit(2, 3).requires_grad_()
    weighted_triplet(a, a.detach(), a.detach(), torch.tensor([0.5, 0.5]), 1.0).backward()
    assert a.grad is not None
    assert a.grad.isfinite().all()


def test_weighted_bce_and_weights() -> None:
    logits, w = torch.tensor([0.3, -2.0]), torch.tensor([0.25, 0.75])
    sigmoid = 1 / (1 + np.exp(-logits.numpy()))
    expected = -(w.numpy() * np.log(sigmoid)).sum()
    assert weighted_bce(logits, 1.0, w).item() == pytest.approx(expected)
    assert normalised_weights(torch.tensor([1.0, 2.0, 4.0])).tolist() == pytest.approx([0, 0.25, 0.75])
    assert normalised_weights(torch.tensor([3.0, 3.0])).tolist() == [0.5, 0.5]
    # Products of matrices round equal similarities otherwise.
    last = torch.nextafter(torch.tensor(0.3), torch.tensor(1.0)).item()
    assert normalised_weights(torch.tensor([0.3, last, 0.3])).tolist() == pytest.approx([1 / 3] * 3)
    assert normalised_weights(torch.tensor([9.0, 9.00001]), terms=30).tolist() == [0.5, 0.5]
    assert normalised_weights(torch.tensor([9.0, 9.001]), terms=30).tolist() == [0.0, 1.0]


def test_gradients_are_reversed_and_scaled() -> None:
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    y = reverse_gradient(x, 0.5)
    assert (y == x).all()
    (y * torch.tensor([3.0, 4.0])).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [-1.5, -2.0]


@settings(deadline=None)
@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 1000))
def test_a_stream_shows_each_item_at_most_once_a_pass(length: int, batch: int, step: int) -> None:
    stream = Stream(length, batch, seed=1)
    first = stream.passes(step) * stream.batches
    drawn = np.concatenate([stream.draw(s) for s in range(first, first + stream.batches)])
    assert len(set(drawn.tolist())) == len(drawn) == stream.batches * min(batch, length)
    assert len(drawn) > length - min(batch, length)
    assert (Stream(length, batch, seed=1).draw(step) == stream.draw(step)).all()


def test_specs_and_modelling_know_the_same_names() -> None:
    assert set(get_args(Augmentation)) == set(AUGMENTATIONS)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentations_keep_range_and_depend_on_the_generator_alone(name: str) -> None:
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    changes = [drawn([name], 6, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    one, two, other = (change(images, slice(0, 6)) for change in changes)
    assert one.shape == images.shape
    assert one.min() >= 0
    assert one.max() <= 1 + 1e-6
    assert (one == two).all()
    assert (one != other).any()
    assert (one != images).any()


def test_a_few_images_at_a_time_are_changed_as_all_at_once() -> None:
    images = torch.rand(21, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    change = drawn([*AUGMENTATIONS], 21, torch.Generator().manual_seed(1))
    parts = [change(images[rows], rows) for rows in few_at_once(21, CPU)]
    assert len(parts) > 1
    torch.testing.assert_close(torch.cat(parts), change(images, slice(None)))


def test_rotate_crop_is_the_released_transform_seen_at_once() -> None:
    """Beside PIL's resize to 278, rotation about the centre and crop of 224, with the same angle and place."""
    y, x = np.mgrid[0:224, 0:224]
    smooth = np.stack([127 + 120 * np.sin(x / 25), 127 + 120 * np.cos(y / 30), (x + y) / 2], axis=2)
    image = Image.fromarray(smooth.astype(np.uint8))
    generator = torch.Generator().manual_seed(3)
    floats = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1).float()[None].expand(5, -1, -1, -1) / 255
    ours = drawn(["rotate_crop"], 5, generator)(floats, slice(None))
    again = torch.Generator().manual_seed(3)
    angles = torch.rand(5, generator=again) * 90
    places = torch.rand(5, 2, generator=again)
    for result, angle, (across, down) in zip(ours, angles.tolist(), places.tolist(), strict=True):
        turned = image.resize((278, 278), Image.Resampling.BILINEAR).rotate(angle)
        left, top = across * 54, down * 54
        theirs = np.asarray(
            turned.crop((round(left), round(top), round(left) + 224, round(top) + 224)), np.float32
        )
        difference = np.abs(result.permute(1, 2, 0).numpy() * 255 - theirs)
        assert np.median(difference) < 4


def test_crop_looks_where_it_says() -> None:
    """A cut-out of coordinates shows a straight grid inside the image."""
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    images = (torch.stack([x, y, x + y]) / 64).expand(40, -1, -1, -1)
    cut = drawn(["crop"], 40, torch.Generator().manual_seed(0))(images, slice(None)) * 64
    inner = cut[:, :, 4:-4, 4:-4]
    steps = inner[:, 0].diff(dim=2), inner[:, 1].diff(dim=1)
    for step in steps:
        torch.testing.assert_close(step, step[:, :1, :1].expand_as(step), atol=1e-3, rtol=0)
    area = steps[0][:, 0, 0] * steps[1][:, 0, 0]
    assert area.min() > 0.49
    assert area.max() < 1.01
    torch.testing.assert_close(inner[:, 2], inner[:, 0] + inner[:, 1], atol=1e-3, rtol=0)


@pytest.fixture(scope="module")
def tiny():  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    return Registry.discover().resolve("encoder", "openclip[architecture=urbancross-tiny]").build().load()


def test_cut_text_gives_the_same_features(tiny) -> None:  # type: ignore[no-untyped-def]
    tiny.train(False)
    texts = ["a", "two red roofs beside a road", "many long words " * 8]
    for text in texts:
        tokens = tiny.tokenize([text])
        length = tiny.text_length(tokens)
        assert length < tokens.shape[1]
        with torch.inference_mode():
            cut, whole = tiny.encode_text(tokens[:, :length]), tiny.clip.encode_text(tokens)
        # Matrix products of another shape sum in another order; nothing else may differ.
        torch.testing.assert_close(cut, whole, rtol=1e-5, atol=1e-6)


def test_small_vocabularies_fold_words_and_keep_the_special_tokens(tiny) -> None:  # type: ignore[no-untyped-def]
    plain = open_clip.SimpleTokenizer(context_length=77)(["a harbour with ships", ""])
    folded = tiny.tokenize(["a harbour with ships", ""])
    assert folded.max() == 511
    assert ((folded == 511) == (plain == 49407)).all()
    assert ((folded == 510) == (plain == 49406)).all()
    assert ((folded == 0) == (plain == 0)).all()


def test_eight_orientations_make_features_blind_to_orientation() -> None:
    registry = Registry.discover()
    model = registry.resolve("encoder", "openclip[architecture=urbancross-tiny,orientations=8]").build().load()
    image = np.random.default_rng(0).integers(0, 255, size=(1, 32, 32, 3)).astype(np.uint8)
    turned = np.ascontiguousarray(np.rot90(image, axes=(1, 2)))
    mirrored = np.ascontiguousarray(image[:, :, ::-1])
    one, two, three = (embed_images(model, PackedImages(Rows([i])), CPU) for i in (image, turned, mirrored))
    torch.testing.assert_close(one, two)
    torch.testing.assert_close(one, three)
    views = [np.rot90(side, turn, axes=(1, 2)) for side in (image, mirrored) for turn in range(4)]
    once = registry.resolve("encoder", "openclip[architecture=urbancross-tiny]").build().load()
    once.load_state_dict(model.state_dict())
    single = torch.as_tensor(embed_images(once, PackedImages(Rows([np.concatenate(views)])), CPU))
    lengths = single.norm(dim=1, keepdim=True)
    torch.testing.assert_close(torch.as_tensor(one[0]), (single / lengths).mean(dim=0) * lengths.mean())
    given = torch.zeros(2, 3, 32, 32)
    assert (model.train(True).encode_image(given) == once.train(True).encode_image(given)).all()


@pytest.mark.parametrize("stored", [False, True])
def test_a_model_meets_texts_in_an_order_that_tells_nothing_of_their_images(
    stored: bool, tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it does with the order is the same for captions that stand otherwise."""
    texts = [f"a field of {number * 7 % 40} stripes" for number in range(60)]
    rows = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    met: list[list[Any]] = []
    tokenize = tiny.tokenize
    monkeypatch.setattr(tiny, "tokenize", lambda given: (met[-1].extend(given), tokenize(given))[1])

    def encode(given: torch.Tensor) -> torch.Tensor:
        met[-1].extend(given.tolist())
        return given.float().sum(dim=1, keepdim=True) + torch.arange(tiny.width)

    monkeypatch.setattr(tiny, "encode_text", encode)
    found = []
    for order in (np.arange(60), np.random.default_rng(1).permutation(60)):
        met.append([])
        features = Rows([rows[order]]) if stored else None
        given = embed_texts(tiny, [texts[place] for place in order], CPU, features=features)
        found.append(given[order.argsort()])
    assert met[0] == met[1]
    assert torch.equal(found[0], found[1])


@pytest.mark.parametrize("architecture", ["urbancross-tiny", "urbancross-s"])
def test_captions_are_cut_where_their_tokens_are_more_than_fit(architecture: str) -> None:
    """As open_clip's own tokenizer counts them; those that just fit are whole."""
    model = Registry.discover().resolve("encoder", f"openclip[architecture={architecture}]").build().load()
    tokenizer = SimpleTokenizer()
    room = model.tokenize(["a"]).shape[1] - 2  # beside start and end
    generator = np.random.default_rng(0)
    words = ["plane", "road", "multistorey", "parking-lots", "the", "St.", "3", "42,", "a"]
    texts = [" ".join(generator.choice(words, size=size)) for size in range(2 * room)]
    texts += [" ".join(["road"] * size) for size in (room - 1, room, room + 1)] + ["", "  ", "road " * room + " "]
    wanted = [len(tokenizer.encode(text)) > room for text in texts]
    assert 3 < sum(wanted) < len(texts) - 3
    assert [cut_texts(model, [text]) for text in texts] == [*map(int, wanted)]
    assert cut_texts(model, [*texts, *texts]) == 2 * sum(wanted)


def test_tokens_of_any_width_are_no_cut_captions(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As wide as the longest text of a call, as those of stored features are."""

    def wide(texts: Sequence[str]) -> torch.Tensor:
        rows = [[*map(ord, text)] for text in texts]
        return torch.tensor([row + [0] * (max(map(len, rows)) - len(row)) for row in rows])

    monkeypatch.setattr(tiny, "tokenize", wide)
    assert cut_texts(tiny, ["a", "a road " * 40, "b."]) == 0
    assert cut_texts(tiny, []) == 0


def test_equal_captions_get_equal_bits(tiny) -> None:  # type: ignore[no-untyped-def]
    texts = [f"text number {i}" for i in range(300)]
    features = embed_texts(tiny, [*texts, texts[7], texts[299].upper()], CPU)  # the tokenizer knows no case
    assert (features[300] == features[7]).all()
    assert (features[301] == features[299]).all()
    one = embed_texts(tiny, [texts[7]], CPU)
    torch.testing.assert_close(one[0], features[7])


def test_equal_images_get_equal_bits_and_order_is_kept(tiny) -> None:  # type: ignore[no-untyped-def]
    images = np.random.default_rng(0).integers(0, 255, size=(300, 32, 32, 3)).astype(np.uint8)
    images[299] = images[4]
    features = embed_images(tiny, PackedImages(Rows([images])), CPU)
    assert (features[299] == features[4]).all()
    torch.testing.assert_close(embed_images(tiny, PackedImages(Rows([images[10:12]])), CPU), features[10:12])


def test_embedding_is_tried_again_in_small_batches_where_memory_ends(
    tiny, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    images = PackedImages(Rows([np.random.default_rng(0).integers(0, 255, (70, 32, 32, 3), dtype=np.uint8)]))
    whole, encode, sizes = embed_images(tiny, images, CPU), tiny.encode_image, []

    def encode_few(pictures: torch.Tensor) -> torch.Tensor:
        sizes.append(len(pictures))
        if len(pictures) > limit:
            raise torch.OutOfMemoryError("tried to allocate too much")
        return encode(pictures)

    limit = 32
    monkeypatch.setattr(tiny, "encode_image", encode_few)
    torch.testing.assert_close(embed_images(tiny, images, CPU), whole)
    assert sizes == [70, 32, 32, 6]
    limit = 8
    with pytest.raises(torch.OutOfMemoryError):
        embed_images(tiny, images, CPU)


def test_a_checkpoint_must_fit_exactly(tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("URBANCROSS_DATA", str(tmp_path))
    registry = Registry.discover()
    reference = "openclip[architecture=urbancross-tiny,checkpoint=w.safetensors]"
    state = {name: value.contiguous() for name, value in tiny.clip.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    resolved = registry.resolve("encoder", reference)
    assert resolved.options.weights().status == "pretrained"  # type: ignore[attr-defined]
    assert weights_digest(resolved.build().load()) == weights_digest(tiny)
    images = PackedImages(Rows([np.zeros((2, 32, 32, 3), dtype=np.uint8)]))
    assert (embed_images(resolved.build().load(), images, CPU) == embed_images(tiny, images, CPU)).all()
    before = resolved.identity()
    for damage in (
        {k: v for k, v in state.items() if k != "text.ln_final.bias"},
        state | {"extra": torch.zeros(1)},
    ):
        save_file(damage, tmp_path / "w.safetensors")
        changed = registry.resolve("encoder", reference)
        assert changed.identity() != before
        with pytest.raises(UsageError, match="cannot load"):
            changed.build().load()
    (tmp_path / "w.safetensors").unlink()
    with pytest.raises(UsageError, match=r"w\.safetensors does not exist"):
        registry.resolve("encoder", reference).identity()


def test_unknown_architectures_and_tags_are_named() -> None:
    registry = Registry.discover()
    with pytest.raises(UsageError, match=r"no architecture 'ViT-B-33'. Did you mean \"ViT-B-32\""):
        registry.resolve("encoder", "openclip[architecture=ViT-B-33]").identity()
    assert registry.resolve("encoder", "openclip[architecture=ViT-B-32]").options.image_format().size == 224  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="no weights tagged 'laion'"):
        registry.resolve("encoder", "openclip[architecture=RN50,pretrained=laion]").build().load()


def test_weights_survive_saving(tiny, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    save_weights(tiny.state_dict(), tmp_path / "w.safetensors")
    other = Registry.discover().resolve("encoder", "openclip[architecture=urbancross-tiny]").build().load()
    assert weights_digest(other) != weights_digest(tiny)
    load_weights(other, tmp_path / "w.safetensors")
    assert weights_digest(other) == weights_digest(tiny)
    wrong = Registry.discover().resolve("encoder", "openclip").build().load()
    with pytest.raises(RuntimeError):
        load_weights(wrong, tmp_path / "w.safetensors")


def test_nan_embeddings_fail(tiny) -> None:  # type: ignore[no-untyped-def]
    broken = Registry.discover().resolve("encoder", "openclip[architecture=urbancross-tiny]").build().load()
    with torch.no_grad():
        broken.clip.visual.proj[0, 0] = math.nan
    with pytest.raises(RunError, match="image embeddings hold NaN"):
        embed_images(broken, PackedImages(Rows([np.zeros((2, 32, 32, 3), dtype=np.uint8)])), CPU)
    with torch.no_grad():
        broken.clip.visual.proj.zero_()
    with pytest.raises(RunError, match="1 of 1 image embeddings hold NaN, infinity or zeros alone"):
        embed_images(broken, PackedImages(Rows([np.zeros((2, 32, 32, 3), dtype=np.uint8)])), CPU)
