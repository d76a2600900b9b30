"""Segments chosen by their image's captions: which win, what the store says of it, and what is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Result, tree
from encoder_files import TINY, load, state_of, theirs
from PIL import Image
from safetensors.torch import load_file, save_file

from urbancross_bench.data.masks import from_counts, region
from urbancross_bench.data.segments import open_segments, read_store
from urbancross_bench.errors import DataError
from urbancross_bench.execution.domains import read_domains
from urbancross_bench.interfaces import Domain, ImageFormat
from urbancross_bench.modelling.similarity import Similarity, parts_of
from urbancross_bench.registry import Registry

PLUGIN = Path(__file__).with_name("striped_segmenter.py")
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]  # OpenAI's
CAPTIONS = [
    ["a school; roads of residential, a park. trees"],
    ["red roofs", "a long road, a river; boats on it, and 2 bridges."],
    ["a field .", "a field .", "many green trees, a lake"],
    ["water"],
    ["an airport; runways, planes.. a terminal,"],
    ["dense houses, a stadium"],
]
CAPTIONS += [[one[-1], other[0]] for one, other in zip(CAPTIONS, CAPTIONS[2:] + CAPTIONS[:2], strict=True)]
COUNT = 3
Choosing = Callable[..., Result]


def tile(index: int) -> np.ndarray:
    """24×20 pixels of a few shades of green in patches."""
    patches = np.random.default_rng(index).integers(0, 255, (6, 4, 3))
    return np.kron(patches, np.ones((4, 5, 1))).astype(np.uint8)


def write_tiles(folder: Path, captions: list[list[str]]) -> str:
    """A domain of PNGs; its reference."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    entries = []
    for index, texts in enumerate(captions):
        name, split = f"t{index}.png", ("train", "val", "test")[index % 3]
        Image.fromarray(tile(index)).save(folder / "images" / name)
        entries.append({"filename": name, "split": split, "sentences": [{"raw": text} for text in texts]})
    (folder / "dataset.json").write_text(json.dumps({"images": entries}), encoding="utf-8")
    return f"karpathy[file={folder / 'dataset.json'}]"


def read(reference: str) -> Domain:
    [domain] = read_domains([reference], Registry.discover()).values()
    return domain


def write_weights(file: Path, seed: int) -> str:
    """A random encoder on disk, drawn wide so that features differ by more than rounding does; its reference."""
    clip = theirs()
    torch.manual_seed(seed)
    for parameter in clip.parameters():
        torch.nn.init.normal_(parameter, std=0.6)
    save_file(state_of(clip), file)
    return f"openclip[architecture={TINY},checkpoint={file}]"


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two encoders with weights of their own."""
    folder = tmp_path_factory.mktemp("encoders")
    return [write_weights(folder / f"clip{seed}.safetensors", seed) for seed in (14, 20)]


@pytest.fixture
def choose(cli: Choosing, tmp_path: Path) -> Choosing:
    """`data segment` with the striped segmenter, by caption unless told otherwise."""

    def call(domain: str, out: str, encoder: str | None, *more: object, chooser: str = "caption") -> Result:
        where = ("--out", tmp_path / out, "--segmenter", "striped", "--plugin", PLUGIN, "--device", "cpu")
        how = ("--chooser", chooser, *(("--encoder", encoder) if encoder else ()), "--count", COUNT)
        return cli("data", "segment", domain, *where, *how, *more)

    return call


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "masks.jsonl").read_text().splitlines()]


def shades_of(row: dict[str, Any], index: int) -> set[int]:
    """The shades whose masks a row of a store has."""
    found = [np.unique(tile(index)[..., 1][from_counts(one["counts"], 24, 20)] // 32) for one in row["regions"]]
    assert all(len(shades) == 1 for shades in found)
    return {int(shades[0]) for shades in found}


def weights_of(encoder: str) -> Path:
    return Path(encoder.partition("checkpoint=")[2].rstrip("]"))


@cache
def towers(encoder: str) -> tuple[Any, Callable[[list[str]], torch.Tensor]]:
    """An encoder as open_clip builds it, and how ours makes tokens of texts."""
    clip = theirs()
    clip.load_state_dict(load_file(weights_of(encoder)))
    return clip, load(encoder).tokenize


@cache
@torch.inference_mode()
def looks(encoder: str, index: int) -> torch.Tensor:
    """(8, D) features of what a tile has of each shade, on white."""
    pictures = []
    for shade in range(8):
        pixels = tile(index)
        pixels[pixels[..., 1] // 32 != shade] = 255
        small = Image.fromarray(pixels).resize((32, 32), Image.Resampling.BICUBIC)
        values = (np.asarray(small, dtype=np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
        pictures.append(torch.from_numpy(values).permute(2, 0, 1))
    features: torch.Tensor = towers(encoder)[0].encode_image(torch.stack(pictures), normalize=True)
    return features


@torch.inference_mode()
def scores(encoder: str, index: int, captions: list[str], least: int) -> dict[int, float]:
    """By open_clip's own model: shade → the mean of its similarities to the parts of the captions."""
    clip, tokenize = towers(encoder)
    text = ";".join(captions).replace(",", ";").replace(".", ";").split(";")
    parts = clip.encode_text(tokenize([part.strip() for part in text if part.strip()]), normalize=True)
    found = (looks(encoder, index) @ parts.T).mean(dim=1).tolist()
    sizes = np.bincount(tile(index)[..., 1].ravel() // 32, minlength=8).tolist()
    return {shade: found[shade] for shade in range(8) if sizes[shade] >= max(least, 1)}


def winners(found: dict[int, float]) -> set[int]:
    """The best, told apart from the rest by more than rounding."""
    order = sorted(found, key=lambda shade: -found[shade])
    assert len(order) <= COUNT or found[order[COUNT - 1]] - found[order[COUNT]] > 1e-5
    return set(order[:COUNT])


def test_those_win_that_are_most_like_their_captions(
    choose: Choosing, encoders: list[str], tmp_path: Path, cli: Choosing, grid: Callable[..., Path]
) -> None:
    reference = write_tiles(tmp_path / "tiles", CAPTIONS)
    result = choose(reference, "store", encoders[0], "--min-area", 41)
    assert result.status == 0, result.err
    found = [scores(encoders[0], index, texts, 41) for index, texts in enumerate(CAPTIONS)]
    stored = rows(tmp_path / "store")
    assert [shades_of(row, index) for index, row in enumerate(stored)] == [winners(one) for one in found]
    # Each wrong reading of the captions would have chosen others somewhere, and so would the sizes of the masks.
    for wrong in (
        [CAPTIONS[index - 1] for index in range(len(CAPTIONS))],
        [texts[:1] for texts in CAPTIONS],
        [[text.replace(",", " and") for text in texts] for texts in CAPTIONS],
        [[texts[0].replace(",", ";").replace(".", ";").split(";")[0]] for texts in CAPTIONS],
    ):
        others = [scores(encoders[0], index, texts, 41) for index, texts in enumerate(wrong)]
        assert [winners(one) for one in found] != [set(sorted(o, key=lambda s: -o[s])[:COUNT]) for o in others]
    sizes = [np.bincount(tile(index)[..., 1].ravel() // 32, minlength=8) for index in range(len(CAPTIONS))]
    assert [winners(one) for one in found] != [{*np.argsort(-size)[:COUNT].tolist()} for size in sizes]
    least = [scores(encoders[0], index, texts, 0) for index, texts in enumerate(CAPTIONS)]
    assert [winners(one) for one in found] != [winners(one) for one in least]

    said = json.loads((tmp_path / "store" / "segments.json").read_text())
    making, file = said["making"], weights_of(encoders[0])
    assert said["caption_aware"] is True
    assert (making["chooser"], making["encoder"]["name"]) == ("caption", "openclip")
    assert making["encoder_weights"]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    assert str(tmp_path) not in json.dumps(making)
    segments = open_segments(tmp_path / "store", read(reference))
    assert segments.caption_aware
    assert segments.making == making
    # A grid takes them at retrieval only where its encoder says so.
    for more, refused in (("", True), (",caption_aware=true", False)):
        file = grid(
            domains={"tiles": reference},
            segments={"tiles": str(tmp_path / "store")},
            encoders={"fused": f"sam_fused[architecture={TINY},most=2,fusion=mean{more}]"},
            scenarios=[{"source": "tiles", "target": "tiles"}],
            adaptations=["source_only"],
        )
        plan = cli("plan", file, "--out", tmp_path / "out")
        assert plan.status == 0, plan.err
        assert ("chosen with the images' own captions" in " ".join((plan.out + plan.err).split())) is refused


def test_what_captions_and_weights_change_is_made_anew(
    choose: Choosing, encoders: list[str], tmp_path: Path
) -> None:
    reference, store = write_tiles(tmp_path / "tiles", CAPTIONS), tmp_path / "store"
    assert choose(reference, "store", encoders[0]).status == 0
    before = tree(store)
    # In another order, captions say the same.
    write_tiles(tmp_path / "tiles", [texts[::-1] for texts in CAPTIONS])
    assert open_segments(store, read(reference)).caption_aware
    assert choose(reference, "store", encoders[0], "--workers", 2, "--threads", 1).status == 0
    assert tree(store) == before
    renamed = weights_of(encoders[0]).with_name("renamed.safetensors")
    renamed.write_bytes(weights_of(encoders[0]).read_bytes())
    again = choose(reference, "store", encoders[0].replace(str(weights_of(encoders[0])), str(renamed)))
    assert (again.status, tree(store) == before) == (0, True), again.err
    changed = [*CAPTIONS[:4], ["bare soil, cranes"], [" ., ;"], *CAPTIONS[6:]]
    old = rows(store)
    write_tiles(tmp_path / "tiles", changed)
    with pytest.raises(DataError, match=r"captions of image 't4\.png' have changed since"):
        open_segments(store, read(reference))
    result = choose(reference, "store", encoders[0])
    assert result.status == 1
    assert "FAILED t5.png: the image has no caption with words in it" in result.err
    new = rows(store)
    assert new[:4] + new[6:] == old[:4] + old[6:]
    assert (new[4]["digest"], new[4]["captions"] == old[4]["captions"]) == (old[4]["digest"], False)
    assert shades_of(new[4], 4) == winners(scores(encoders[0], 4, changed[4], 0))
    assert len(read_store(store).failures) == 1
    refused = choose(reference, "store", encoders[1])
    assert (refused.status, "holds segments that were made otherwise (encoder " in refused.err) == (2, True)
    refused = choose(reference, "store", None, chooser="area")
    assert (refused.status, "made otherwise (chooser: 'caption', now 'area')" in refused.err) == (2, True)


@pytest.mark.parametrize(
    ("chooser", "encoder", "problem"),
    [
        ("caption", None, "--encoder openclip[architecture=ViT-B-32,pretrained=openai]"),
        ("area", "openclip", "--encoder goes with --chooser caption; 'area' asks no encoder"),
        ("captions", "openclip", 'Did you mean "caption"?'),
        ("caption", "opencilp", 'Did you mean "openclip"?'),
        ("caption", "openclip[checkpoint=none.pt]", "none.pt does not exist"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    choose: Choosing, tmp_path: Path, chooser: str, encoder: str | None, problem: str
) -> None:
    reference = write_tiles(tmp_path / "tiles", CAPTIONS)
    result = choose(reference, "store", encoder, chooser=chooser)
    assert (result.status, problem in " ".join(result.err.split())) == (2, True), result.err
    assert not (tmp_path / "store" / "segments.json").exists()


def test_parts_have_an_order_of_their_own() -> None:
    texts = ["Roofs; a road,a park .", "a park..", " ,; "]
    assert parts_of(texts) == parts_of(texts[::-1]) == ["Roofs", "a park", "a park", "a road"]
    assert parts_of([" ., ;"]) == []


def test_masks_that_look_the_same_get_the_same_score(encoders: list[str]) -> None:
    pixels = np.random.default_rng(5).integers(0, 200, (24, 20, 3)).astype(np.uint8)
    pixels[:, 10:] = 255
    masks = [np.zeros((24, 20), dtype=bool) for _ in range(9)]
    for place, mask in enumerate(masks):
        mask[place : place + 8, : 9 + place] = True
        mask[:, 10:] = False
    white = masks[2].copy()
    white[:4, 10:] = True  # of what is white anyway
    regions = [region(mask) for mask in (*masks, white)]
    similarity = Similarity(load(encoders[0]), ImageFormat(32), torch.device("cpu"))
    found = similarity.scores(pixels, regions, ["a road", "trees"])
    assert found[9] == found[2]
    assert len({*found.tolist()}) == 9


def test_an_encoder_that_knows_nothing_is_told(choose: Choosing, tmp_path: Path) -> None:
    """Its choice of segments is random, and so are rows that use them."""
    reference = write_tiles(tmp_path / "tiles", CAPTIONS)
    result = choose(reference, "store", f"openclip[architecture={TINY}]")
    assert result.status == 0, result.err
    assert "warning: the encoder's weights are random, so its choice of segments is: name weights" in result.err
