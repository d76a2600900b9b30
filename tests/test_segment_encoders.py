"""Segments in the harness: packed as sets, frozen towers, fusions, the recipe's loss, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SHARED, Result, write_grid
from data_files import segments_of, tiles, write_urbancross_tree
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from segment_models import write_original
from torch import Tensor

from urbancross_bench.data.domain import Split, split_of
from urbancross_bench.data.masks import region
from urbancross_bench.data.pack import pack, pack_segments
from urbancross_bench.data.packed import PackedSegments, PackedSplit
from urbancross_bench.data.segments import SegmentStore, read_store, write_store
from urbancross_bench.data.views import source_view
from urbancross_bench.execution.domains import read_domains
from urbancross_bench.identity import file_digest
from urbancross_bench.interfaces import Domain, ImageFormat, ImageSource, Segments
from urbancross_bench.modelling.embed import embed_images, embed_segments
from urbancross_bench.modelling.feeds import Feed
from urbancross_bench.modelling.heads import masked_mean
from urbancross_bench.modelling.losses import info_nce
from urbancross_bench.modelling.pair_loss import PairLoss
from urbancross_bench.records import read_records
from urbancross_bench.registry import Registry
from urbancross_encoders.fusion import fusion

Cli = Callable[..., Result]
GridWriter = Callable[..., Path]
CPU = torch.device("cpu")


class Blocks(ImageSource):
    """Segments of 16 pixels: white but for a block of some colour and area."""

    def __init__(self, areas: list[int], colours: list[int]) -> None:
        self._areas, self._colours = areas, colours

    def digest(self, index: int) -> str:
        return f"{self._areas[index]}-{self._colours[index]}"

    def read(self, index: int) -> NDArray[np.uint8]:
        pixels = np.full((256, 3), 255, dtype=np.uint8)
        pixels[: self._areas[index]] = self._colours[index]
        return pixels.reshape(16, 16, 3)


class Grey(ImageSource):
    def digest(self, index: int) -> str:
        return str(index)

    def read(self, index: int) -> NDArray[np.uint8]:
        return np.full((16, 16, 3), index, dtype=np.uint8)


def domain(owners: list[int], areas: list[int], colours: list[int], images: int = 4) -> Split:
    """All of whose images are training images."""
    return split_of(
        Domain(
            name="some",
            image_names=[str(index) for index in range(images)],
            splits={"train": np.arange(images)},
            captions=[f"a text of {index}" for index in range(images)],
            image_of_caption=np.arange(images),
            images=Grey(),
            segments=Segments(Blocks(areas, colours), np.array(owners, dtype=np.int64)),
        ),
        "train",
    )


def packed(split: Split, most: int, folder: Path) -> PackedSegments:
    folder.mkdir()
    pack_segments(split, ImageFormat(16), most, folder, lambda _: None)
    return PackedSegments.load(folder)


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_the_largest_are_packed_whatever_the_order_of_files(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    count = data.draw(st.integers(0, 12))
    owners = data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    areas = data.draw(st.lists(st.integers(1, 9), min_size=count, max_size=count))
    colours = data.draw(st.lists(st.integers(0, 5), min_size=count, max_size=count))
    most, folder = data.draw(st.integers(1, 4)), tmp_path_factory.mktemp("packs")
    ours, present = packed(domain(owners, areas, colours), most, folder / "a").take(np.arange(4))
    for image in range(4):
        mine = [(a, str(f"{a}-{c}"), c) for o, a, c in zip(owners, areas, colours, strict=True) if o == image]
        wanted = sorted(mine, key=lambda one: (-one[0], one[1]))[:most]
        assert present[image].tolist() == [place < len(wanted) for place in range(most)]
        for pixels, (area, _, colour) in zip(ours[image], wanted, strict=False):
            assert int((pixels < 250).any(axis=2).sum()) == area
            assert (pixels.reshape(-1, 3)[:area] == colour).all()
    order = data.draw(st.permutations(range(count)))
    again = domain(*([values[i] for i in order] for values in (owners, areas, colours)))
    assert again.segments_fingerprint == domain(owners, areas, colours).segments_fingerprint
    theirs, _ = packed(again, most, folder / "b").take(np.arange(4))
    assert theirs.tobytes() == ours.tobytes()


def test_a_fingerprint_knows_which_image_a_segment_is_of_and_how_it_was_made() -> None:
    split = domain([0, 1], [3, 4], [1, 2])
    assert domain([1, 0], [3, 4], [1, 2]).segments_fingerprint != split.segments_fingerprint
    segments = split.domain.segments
    assert segments is not None
    for changed in (replace(segments, caption_aware=False), replace(segments, making={"count": 3})):
        other = replace(split, domain=replace(split.domain, segments=changed))
        assert other.segments_fingerprint != split.segments_fingerprint


def test_the_name_of_a_weights_file_is_in_no_key(
    grid: GridWriter, domains: dict[str, str], cli: Cli, tmp_path: Path
) -> None:
    place = store(tmp_path / "segments", domains["plain"])
    file = grid(
        encoders={"fused": FUSED.format(",fusion=mean")},
        adaptations=["source_only"],
        scenarios=[{"source": "plain", "target": "plain"}],
        segments={"plain": str(place)},
    )

    def planned(**changes: str) -> list[str]:
        weights = {"status": "pretrained", "source": "sam.pth", "sha256": "5a"} | changes
        making = {"weights": weights, "encoder_weights": weights}
        write_store(place, replace(read_store(place), making=making))
        plan = json.loads(cli("plan", file, "--json").out)
        return sorted(one["key"] for one in [*plan["runs"], *plan["stages"]])

    keys = planned()
    assert len(keys) > 5
    assert planned(source="sam_renamed.pth") == keys
    assert planned(sha256="6b") != keys


def units(generator: torch.Generator, *shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=generator), dim=-1)


@pytest.fixture(params=["mean", "gated", "attention"])
def fused(request: pytest.FixtureRequest) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    torch.manual_seed(0)
    module = fusion(request.param, 8)
    assert module is not None
    for parameter in module.parameters():  # not where it starts: there a mistake may hide
        torch.nn.init.normal_(parameter, std=0.5)
    return module


def test_a_fusion_knows_no_order_and_nothing_of_what_is_absent(
    fused: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> None:
    draw = torch.Generator().manual_seed(1)
    images, segments, present = units(draw, 6, 8), units(draw, 6, 5, 8), torch.rand(6, 5, generator=draw) < 0.6
    present[0] = False
    result = fused(images, segments, present)
    order = torch.randperm(5, generator=draw)
    torch.testing.assert_close(fused(images, segments[:, order], present[:, order]), result, atol=1e-6, rtol=0)
    other = torch.where(present[..., None], segments, units(draw, 6, 5, 8))
    torch.testing.assert_close(fused(images, other, present), result, atol=0, rtol=0)
    torch.testing.assert_close(result[0], images[0], atol=0, rtol=0)
    assert not torch.allclose(result[1:], images[1:], atol=1e-2)


def test_attention_is_the_softmax_over_what_is_present() -> None:
    module = fusion("attention", 8)
    assert module is not None
    draw = torch.Generator().manual_seed(2)
    image, segments = units(draw, 1, 8), units(draw, 1, 3, 8)
    weights = [np.exp(10.0 * float(image[0] @ segment)) for segment in segments[0, :2]]
    pooled = sum(w * s.numpy() for w, s in zip(weights, segments[0], strict=False)) / sum(weights)
    result = module(image, segments, torch.tensor([[True, True, False]]))
    np.testing.assert_allclose(result[0].detach().numpy(), image[0].numpy() + 0.5 * pooled, atol=1e-6)


def test_every_fusion_learns(fused: torch.nn.Module) -> None:
    draw = torch.Generator().manual_seed(3)
    result = fused(units(draw, 6, 8), units(draw, 6, 5, 8), torch.ones(6, 5, dtype=torch.bool))
    if list(fused.parameters()):
        (result * torch.randn(6, 8, generator=draw)).sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in fused.parameters())


def model(**options: object) -> torch.nn.Module:
    text = ",".join(["architecture=urbancross-tiny", *(f"{key}={value}" for key, value in options.items())])
    torch.manual_seed(5)
    loaded: torch.nn.Module = Registry.discover().resolve("encoder", f"sam_fused[{text}]").build().load()
    return loaded


@pytest.fixture
def pairs(tmp_path: Path) -> tuple[PackedSplit, PackedSegments]:
    """Six images, segments of all but the first, as pixels."""
    owners = [1, 1, 1, 2, 3, 3, 4, 5, 5]
    split = domain(owners, [40, 90, 13, 200, 77, 3, 9, 120, 55], [10, 60, 90, 130, 170, 200, 30, 5, 77], images=6)
    (tmp_path / "images").mkdir()
    pack(split, ImageFormat(32), tmp_path / "images", lambda _: None)
    (tmp_path / "segments").mkdir()
    pack_segments(split, ImageFormat(32), 2, tmp_path / "segments", lambda _: None)
    return (
        PackedSplit.load(tmp_path / "images", None, tmp_path / "segments"),
        PackedSegments.load(tmp_path / "segments"),
    )


def feed(net: torch.nn.Module, split: PackedSplit) -> Feed:
    return Feed(
        net,  # type: ignore[arg-type]
        source_view([split]),
        batch_size=6,
        augmentation=(),
        device=CPU,
        seed=1,
        hidden="",
    )


def test_live_segments_have_the_features_of_the_image_tower(pairs: tuple[PackedSplit, PackedSegments]) -> None:
    split, segments = pairs
    net = model(tower="shared")
    batch = feed(net, split).batch(0)
    live = batch.segment_features
    stored = F.normalize(embed_segments(net, segments, CPU), dim=1)  # type: ignore[arg-type]
    counts, start = [0, 2, 1, 2, 1, 2], 0
    wanted = torch.zeros(6, stored.shape[1])
    for image, count in enumerate(counts):
        wanted[image] = F.normalize(stored[start : start + count].sum(dim=0), dim=0) if count else 0
        start += count
    # The batch has the images in an order of its own: its rows are found again by content.
    order = [int(((wanted - row).abs().sum(dim=1)).argmin()) for row in live.detach()]
    assert sorted(order) == list(range(6))
    torch.testing.assert_close(live.detach(), wanted[order], atol=1e-5, rtol=1e-4)
    assert live.requires_grad


def test_the_segment_loss_is_that_of_images_with_segments_alone(pairs: tuple[PackedSplit, PackedSegments]) -> None:
    net = model(tower="shared")
    batch = feed(net, pairs[0]).batch(0)
    has = batch.segment_features.any(dim=1)
    assert has.sum() == 5
    wanted = info_nce(batch.segment_features[has], batch.text_features[has], net.logit_scale.exp())  # type: ignore[operator]
    assert PairLoss("info_nce", net).of_segments(batch) == wanted  # type: ignore[arg-type]
    none = batch.rows((~has).nonzero()[:, 0])
    assert PairLoss("info_nce", net).of_segments(none) == 0  # type: ignore[arg-type]


def test_embedded_images_are_the_fusion_of_the_parts(pairs: tuple[PackedSplit, PackedSegments]) -> None:
    split, segments = pairs
    net = model(tower="shared", fusion="mean")
    plain = F.normalize(embed_images(model(tower="shared"), split.images, CPU), dim=1)  # type: ignore[arg-type]
    parts = F.normalize(embed_segments(net, segments, CPU), dim=1)  # type: ignore[arg-type]
    ragged, present = torch.zeros(6, 2, parts.shape[1]), torch.zeros(6, 2, dtype=torch.bool)
    start = 0
    for image, count in enumerate([0, 2, 1, 2, 1, 2]):
        ragged[image, :count], present[image, :count] = parts[start : start + count], True
        start += count
    fused = embed_images(net, split.images, CPU)  # type: ignore[arg-type]
    torch.testing.assert_close(fused, plain + masked_mean(ragged, present), atol=1e-5, rtol=1e-4)


def store(folder: Path, reference: str, *, caption_aware: bool = False, split: str = "") -> Path:
    """Quarters of each image, or of each of one split, as its segments; none of the first."""
    [some] = read_domains([reference], Registry.discover()).values()
    rows = []
    for index, name in enumerate(some.image_names):
        height, width = some.images.read(index).shape[:2]
        regions = []
        for quarter in range(index % 4 if not split or index in some.splits[split] else 0):
            mask = np.zeros((height, width), dtype=bool)
            rows_, columns = divmod(quarter, 2)
            mask[rows_ * height // 2 :, columns * width // 2 :] = True
            regions.append(region(mask).as_json())
        digest = some.images.digest(index)
        rows.append({"image": name, "digest": digest, "size": [height, width], "regions": regions})
    folder.mkdir()
    write_store(folder, SegmentStore({"segmenter": "quarters"}, caption_aware, [], rows))
    return folder


def test_segments_of_the_training_split_serve_training_alone(
    grid: Callable[..., Path], domains: dict[str, str], cli: Cli, tmp_path: Path
) -> None:
    place = tmp_path / "segments"
    some = {"plain": str(store(place, domains["plain"], split="train"))}
    file = grid(
        encoders={"plain": FUSED.format(""), "fused": FUSED.format(",fusion=mean")},
        adaptations=["source_only"],
        scenarios=[{"source": "plain", "target": "dark"}],
        pretraining={"steps": 1, "batch_size": 8, "segment_weight": 1.0},
        segments=some,
    )
    told = cli("plan", file)
    assert "1 to do" in told.out
    command = f"the `data segment` command that made {place} adds them with `--split val,test`"
    assert f"no image of domain 'plain' in val, test has any; {command}" in told.out


def test_segments_that_a_dataset_brings_of_some_splits_are_to_be_made(
    grid: Callable[..., Path], domains: dict[str, str], cli: Cli, tmp_path: Path
) -> None:
    """No command made these, so none adds to them."""
    some = tiles(20)
    segments = segments_of(tile for tile in some if tile.split == "train")
    brought = write_urbancross_tree(tmp_path, some, lists=True, segments=segments)
    file = grid(
        domains=domains | {"finland": str(brought)},
        encoders={"fused": FUSED.format(",fusion=mean,caption_aware=true")},
        adaptations=["source_only"],
        scenarios=[{"source": "finland", "target": "dark"}],
    )
    wanted = "in val, test has any; make some with `data segment` and name them under `segments`"
    assert f"no image of domain 'finland' {wanted}" in cli("plan", file).out


FUSED = "sam_fused[architecture=urbancross-tiny,most=2{}]"


def stages(out: Path, kind: str) -> list[dict[str, object]]:
    return [json.loads(file.read_text()) for file in sorted((out / "store" / kind).glob("*/stage.json"))]


def test_fused_encoders_run_in_a_grid_and_share_frozen_features(
    grid: GridWriter, domains: dict[str, str], cli: Cli, tmp_path: Path
) -> None:
    stores = {name: str(store(tmp_path / f"{name}_segments", reference)) for name, reference in domains.items()}
    encoders = {
        "plain": "openclip[architecture=urbancross-tiny]",
        "trained": FUSED.format(""),
        "fused": FUSED.format(",fusion=attention"),
        "late": FUSED.format(",fusion=gated,tower=pretrained"),
        "live": FUSED.format(",fusion=mean,tower=shared"),
    }
    file = grid(
        encoders=encoders,
        segments=stores,
        scenarios=[{"source": "plain", "target": "dark"}],
        adaptations=["source_only", "urbancross"],
        evaluation_precision="bfloat16",
    )
    result = cli("run", file, "--out", tmp_path / "out")
    assert result.status == 0, result.err + result.out
    out = tmp_path / "out"
    records = {(r.spec["encoder"]["label"], r.spec["adaptation"]["label"]): r for r in read_records([out])}
    assert len(records) == 10
    values = {key: record.scores[0].content["metrics"]["mR"]["value"] for key, record in records.items()}
    assert all(np.isfinite(value) for value in values.values())
    # One pack of segments for each split that is used, whatever the encoders.
    assert len(stages(out, "segments")) == 3
    for record in records.values():
        drift = record.scores[0].content["drift"]
        assert drift["images"] > 0
        assert drift["largest_cosine"] < 0.05
        used = record.spec["segments"]
        if record.spec["encoder"]["label"] == "plain":
            assert used is None
        else:
            assert used["domains"]["dark"]["making"] == {"segmenter": "quarters"}
            assert used["use"]["most"] == 2
    curve = json.loads((records["trained", "source_only"].folder / "curve.json").read_text())
    assert "segments" in curve["pretrain"][0]
    late = json.loads((records["late", "source_only"].folder / "curve.json").read_text())
    assert "segments" not in late["pretrain"][0]
    again = cli("run", file, "--out", out)
    assert again.status == 0
    assert "10 reused" in again.out + again.err


def test_what_cannot_be_is_skipped_with_the_reason(
    grid: GridWriter, domains: dict[str, str], cli: Cli, tmp_path: Path
) -> None:
    stores = {
        "plain": str(store(tmp_path / "a", domains["plain"], caption_aware=True)),
        "dark": str(store(tmp_path / "b", domains["dark"], caption_aware=True)),
    }
    scenario = [{"source": "plain", "target": "dark"}]

    def plan(segments: dict[str, str], more: str) -> str:
        encoders = {"fused": FUSED.format(more)}
        result = cli(
            "plan", grid(encoders=encoders, segments=segments, scenarios=scenario), "--out", tmp_path / "o"
        )
        assert result.status == 0, result.err
        return " ".join((result.out + result.err).split())

    assert "domain 'plain' has none; make some with `data segment`" in plan({}, "")
    # In training alone, captions of the source have nothing to give away.
    assert "chosen with" not in plan(stores, "")
    assert "domain 'dark' were, or may have been, chosen with" in plan(stores, ",fusion=mean")
    assert "chosen with" not in plan(stores, ",fusion=mean,caption_aware=true")
    free = stores | {"dark": str(store(tmp_path / "c", domains["dark"]))}
    assert "chosen with" not in plan(free, ",fusion=mean")
    result = cli("plan", grid(segments={"nowhere": "x"}), "--out", tmp_path / "o")
    assert result.status == 2
    assert "segments: there is no domain 'nowhere'" in result.err


@pytest.mark.long
@pytest.mark.skipif(not SHARED.is_dir(), reason="the real data are not here")
def test_from_a_segmenter_to_retrieval_on_real_images(cli: Cli, tmp_path: Path) -> None:
    checkpoint = write_original(tmp_path / "sam")
    sam = (
        f"sam[checkpoint={checkpoint},architecture={checkpoint.with_name('config.json')},points_per_side=4,"
        "pred_iou_thresh=0,stability_score_thresh=0,box_nms_thresh=0.99]"
    )
    domains, stores = {}, {}
    for name in ("rsicd", "ucm"):
        place = SHARED / "mini" / f"{name}_mini"
        content = json.loads((place / "dataset.json").read_text(encoding="utf-8"))
        content["images"] = content["images"][::4]
        (tmp_path / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        domains[name] = f"karpathy[file={tmp_path / name}.json,images={place / 'images'}]"
        stores[name] = str(tmp_path / f"{name}_segments")
        made = cli("data", "segment", domains[name], "--out", stores[name], "--segmenter", sam, "--count", 4)
        assert made.status == 0, made.err
    encoders = {
        "paper": "sam_fused[architecture=urbancross-tiny]",
        "fused": "sam_fused[architecture=urbancross-tiny,fusion=attention]",
    }
    scenario = [{"source": "rsicd", "target": "ucm"}]
    file = write_grid(tmp_path, domains, encoders=encoders, segments=stores, scenarios=scenario)
    result = cli("run", file, "--out", tmp_path / "out")
    assert result.status == 0, result.err
    records = read_records([tmp_path / "out"])
    assert len(records) == 6
    for record in records:
        making = record.spec["segments"]["domains"]["ucm"]["making"]
        assert making["weights"]["sha256"] == file_digest(checkpoint)
        assert record.scores[0].content["metrics"]["mR"]["value"] > 0
