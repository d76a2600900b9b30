"""Segment Anything from real files of small random weights: two implementations against each other."""

from __future__ import annotations

import importlib.metadata
import json
import pickle
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from conftest import Result, tree, write_karpathy
from segment_anything import sam_model_registry
from segment_models import original, write_original
from transformers import SamConfig, SamImageProcessorPil, SamModel

from urbancross_bench.data.segments import read_store
from urbancross_bench.errors import DataError, PluginError, RunError, UsageError
from urbancross_bench.execution.segmenting import Choice, Segmenting, _difference
from urbancross_bench.identity import library_versions
from urbancross_bench.interfaces import Mask
from urbancross_bench.registry import Registry
from urbancross_bench.testing.fixtures.sam import CONFIG, write_tiny_sam
from urbancross_segmenters.options import SamOptions
from urbancross_segmenters.original import SegmentAnything, built
from urbancross_segmenters.sam import Sam
from urbancross_segmenters.weights import as_transformers

LOW: dict[str, Any] = {
    "points_per_side": 6,
    "points_per_batch": 10,
    "pred_iou_thresh": 0.2,
    "stability_score_thresh": 0.4,
    "stability_score_offset": 0.3,
    "box_nms_thresh": 1,
}


DROPPING_NONE: dict[str, Any] = {"pred_iou_thresh": 0, "stability_score_thresh": 0}


@pytest.fixture(scope="module", autouse=True)
def _switched_back() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_original(tmp_path_factory.mktemp("sam"))


def options(checkpoint: Path, **changes: Any) -> SamOptions:
    config = checkpoint.with_name("config.json")
    return SamOptions.model_validate(LOW | {"checkpoint": str(checkpoint), "architecture": str(config)} | changes)


def pictures() -> list[np.ndarray]:
    generator = np.random.default_rng(1)
    sizes = [(8, 8), (12, 5), (6, 9), (8, 8)]
    return [np.kron(generator.integers(0, 255, (*s, 3)), np.ones((9, 9, 1))).astype(np.uint8) for s in sizes]


def both(weights: Path, **changes: Any) -> tuple[Sam, SegmentAnything]:
    ours, theirs = Sam(options(weights, **changes)), SegmentAnything(options(weights, **changes))
    ours.load("cpu")
    theirs.load("cpu")
    return ours, theirs


def expect_same(found: list[Mask], expected: list[Mask]) -> None:
    """As many masks, and each has its like: all but a pixel or two on an edge, with the same scores."""
    assert len(found) == len(expected)
    for mask in expected:
        nearest = min(found, key=lambda other: int((other.pixels ^ mask.pixels).sum()))
        assert (nearest.pixels ^ mask.pixels).sum() <= 2
        assert nearest.quality == pytest.approx(mask.quality, abs=1e-3)
        assert nearest.stability == pytest.approx(mask.stability, abs=5e-3)


def test_both_implementations_find_the_same_masks(weights: Path) -> None:
    ours, theirs = both(weights)
    found, expected = ours.segment(pictures()), theirs.segment(pictures())
    alone = [ours.segment([picture])[0] for picture in pictures()]
    for picture, masks, others, same in zip(pictures(), found, expected, alone, strict=True):
        expect_same(masks, others)
        expect_same(masks, same)  # in company or alone
        assert {mask.pixels.shape for mask in masks} == {picture.shape[:2]}
        assert all((m.quality or 0) > 0.2 and (m.stability or 0) >= 0.4 for m in masks)
    assert sum(map(len, found)) > 30
    assert min(map(len, found)) > 0


def test_of_masks_in_the_same_box_the_same_one_is_kept(weights: Path) -> None:
    ours, theirs = both(weights, box_nms_thresh=0.9)
    for masks, others in zip(ours.segment(pictures()), theirs.segment(pictures()), strict=True):
        expect_same(masks, others)
        assert 0 < len(masks) < 6


def test_a_store_says_which_option_it_was_made_with(weights: Path) -> None:
    made = [
        {"segmenter": {"name": "sam", "options": options(weights, pred_iou_thresh=p).model_dump(mode="json")}}
        for p in (0.2, 0.8)
    ]
    assert _difference(*made) == "segmenter options pred_iou_thresh: 0.2, now 0.8"


def test_an_image_too_narrow_for_the_model_is_told(weights: Path) -> None:
    ours, _ = both(weights)
    with pytest.raises(DataError, match="an image of 300×1 pixels is too narrow"):
        ours.segment([np.zeros((1, 300, 3), np.uint8)])
    assert len(ours.segment([np.zeros((2, 90, 3), np.uint8)])) == 1


@pytest.mark.parametrize(
    ("part", "said", "told"),
    [
        (
            "prompt_encoder_config",
            {"image_size": 1024},
            r"mine\.json has image_size 64 in its vision_config, and 1024",
        ),
        ("vision_config", {"patch_size": 0}, r"cannot build .*mine\.json: ZeroDivisionError"),
        ("vision_config", {"hidden_act": "none"}, r"cannot build .*mine\.json: KeyError"),
    ],
)
def test_an_architecture_that_cannot_be_is_told_by_file(
    part: str, said: dict[str, Any], told: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(CONFIG | {part: CONFIG[part] | said}))
    with pytest.raises(UsageError, match=told):
        Sam(SamOptions(architecture=str(file))).load("cpu")


def test_thresholds_of_zero_drop_nothing_but_empty_masks(weights: Path) -> None:
    ours, theirs = both(weights, pred_iou_thresh=0, stability_score_thresh=0)
    [found], [expected] = ours.segment(pictures()[:1]), theirs.segment(pictures()[:1])
    assert len(expected) == 6 * 6 * 3
    expect_same(found, [mask for mask in expected if mask.pixels.any()])


def test_renaming_leaves_nothing_over() -> None:
    renamed = as_transformers(original().state_dict())
    wanted = SamModel(SamConfig(**CONFIG)).state_dict()
    assert {name: value.shape for name, value in renamed.items()} == {n: v.shape for n, v in wanted.items()}
    assert as_transformers(renamed).keys() == renamed.keys()


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_published_sizes_are_the_authors(name: str) -> None:
    with torch.device("meta"):
        theirs = sam_model_registry[name]().state_dict()
        config = SamConfig(**SamOptions(architecture=name).config)
        ours, wanted = built(config).state_dict(), SamModel(config).state_dict()
    assert {n: v.shape for n, v in ours.items()} == {n: v.shape for n, v in theirs.items()}
    assert {n: v.shape for n, v in as_transformers(theirs).items()} == {n: v.shape for n, v in wanted.items()}


def test_a_folder_of_transformers_brings_its_architecture(tmp_path: Path) -> None:
    folder = write_tiny_sam(tmp_path / "saved")
    sam = Sam(SamOptions.model_validate(LOW | {"checkpoint": str(folder), "pred_iou_thresh": 0}))
    sam.load("cpu")
    reference = SamModel.from_pretrained(folder)
    assert all(torch.equal(a, b) for a, b in zip(sam._model.parameters(), reference.parameters(), strict=True))
    assert sam.options.weights().source == "saved"
    with pytest.raises(UsageError, match="leave architecture=vit_b"):
        SamOptions(checkpoint=str(folder), architecture="vit_b").config  # noqa: B018
    misplaced = SegmentAnything(SamOptions(checkpoint=str(folder)))
    with pytest.raises(UsageError, match="which segmenter 'sam' reads"):
        misplaced.load("cpu")


def test_a_folder_that_another_transformers_saved_is_the_same_model(tmp_path: Path) -> None:
    folder = write_tiny_sam(tmp_path / "saved")
    before = SamOptions(checkpoint=str(folder)).identity()
    content = json.loads((folder / "config.json").read_text())
    history = {"transformers_version": "4.0", "dtype": "float16"}
    parts = {name: value | history for name, value in content.items() if isinstance(value, dict)}
    (folder / "config.json").write_text(json.dumps(content | parts | history | {"architectures": ["SamModel"]}))
    changed = SamOptions(checkpoint=str(folder))
    assert changed.identity() == before
    sam = Sam(changed)
    sam.load("cpu")
    assert {parameter.dtype for parameter in sam._model.parameters()} == {torch.float32}
    parts["vision_config"]["qkv_bias"] = False
    (folder / "config.json").write_text(json.dumps(content | parts))
    assert SamOptions(checkpoint=str(folder)).identity() != before


def prepared_as(folder: Path, **said: Any) -> SamOptions:
    """The folder's options after its image processor was saved so."""
    pad = {"height": 64, "width": 64}
    usual = {"size": {"longest_edge": 64}, "pad_size": pad, "image_processor_type": "SamImageProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(usual | said))
    return SamOptions.model_validate(LOW | {"checkpoint": str(folder)} | DROPPING_NONE)


def test_images_are_prepared_as_the_image_processor_of_a_folder_says(tmp_path: Path) -> None:
    folder = write_tiny_sam(tmp_path / "saved")
    bare = SamOptions.model_validate(LOW | {"checkpoint": str(folder)} | DROPPING_NONE).identity()
    processor = SamImageProcessorPil(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})
    processor.save_pretrained(folder)
    assert prepared_as(folder).identity() == bare  # as the authors prepare them
    seen = {json.dumps(bare)}
    for said in (
        {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]},
        {"do_normalize": False},
        {"size": {"longest_edge": 48}},
        {"resample": 0},
    ):
        options = prepared_as(folder, **said)
        seen.add(json.dumps(options.identity()))
        sam = Sam(options)
        sam.load("cpu")
        shown, theirs = pictures(), SamImageProcessorPil.from_pretrained(folder)
        made = [p(images=shown, input_data_format="channels_last") for p in (sam._processor, theirs)]
        for one, other in zip(*(found["pixel_values"] for found in made), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)
        assert {mask.pixels.shape for mask in sam.segment(shown[:1])[0]} == {shown[0].shape[:2]}
    assert len(seen) == 5
    # Since transformers 5 the image processor's file may be a part of the processor's.
    inside = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    (folder / "processor_config.json").write_text(json.dumps({"image_processor": inside}))
    assert SamOptions.model_validate(options.model_dump()).identity() == options.identity()
    with pytest.raises(UsageError, match=r"saved says otherwise \(resample\), which segmenter 'sam' heeds"):
        SegmentAnything(options).load("cpu")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"image_std": [0.2, 0, 0.2]}, r"image_std is \[0\.2, 0, 0\.2\]"),
        ({"image_mean": [123, 116, 103]}, r"image_mean is \[123, 116, 103\]"),
        ({"rescale_factor": 1}, "pixels are scaled by 1, not by 1/255"),
        ({"resample": "bicubic"}, "images are resized by bicubic, which is no filter of PIL"),
        ({"do_pad": False}, "says do_pad=False, and the model wants True"),
        ({"pad_size": {"height": 1024, "width": 1024}}, "says pad_size=.*1024.*, and the model wants .*64"),
        ({"size": {"longest_edge": 65}}, "says size=.*65.*, and the model takes up to 64"),
        ({"size": 64}, "says size=64; its longest_edge is"),
    ],
)
def test_an_image_processor_that_is_not_the_models_is_told(said: Any, told: str, tmp_path: Path) -> None:
    folder = write_tiny_sam(tmp_path / "saved")
    with pytest.raises(UsageError, match=rf"{folder}/preprocessor_config\.json.* ?{told}"):
        prepared_as(folder, **said).identity()


class _Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('a pickle was run')",))


def test_weights_that_do_not_fit_are_refused(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    sound = torch.load(weights, weights_only=True)
    lacking = {name: value for name, value in sound.items() if name != "mask_decoder.iou_token.weight"}
    wrong: dict[str, Any] = {
        "lacking": (lacking, "mask_decoder.iou_token.weight"),
        "surplus": ({**sound, "mask_decoder.more": torch.zeros(1)}, "mask_decoder.more"),
        "unnamed": ([*sound.values()], "unnamed.pth"),
    }
    for name, (state, problem) in wrong.items():
        torch.save(state, tmp_path / f"{name}.pth")
        for kind in (Sam, SegmentAnything):
            with pytest.raises(UsageError, match=problem.replace(".", r"\.")):
                kind(options(tmp_path / f"{name}.pth")).load("cpu")
    (tmp_path / "trap.pth").write_bytes(pickle.dumps(_Trap(), protocol=2))
    (tmp_path / "short.pth").write_bytes(weights.read_bytes()[:1000])
    torch.save({"model": sound}, tmp_path / "nested.pth")  # as a training script may save it
    Sam(options(tmp_path / "nested.pth")).load("cpu")
    # No option of a segmenter trusts a pickle, so none is told of.
    for name, problem in (("trap", r"may run code.*safetensors$"), ("short", "is damaged or cut short")):
        with pytest.raises(UsageError, match=rf"{name}\.pth {problem}|{name}\.pth is a pickle that {problem}"):
            Sam(options(tmp_path / f"{name}.pth")).load("cpu")
        if name == "short":  # which is seen before anything is built; a pickle has to be opened
            with pytest.raises(UsageError, match=r"short\.pth is damaged or cut short"):
                options(tmp_path / f"{name}.pth").weights()
    with pytest.raises(UsageError, match="does not exist"):
        options(tmp_path / "none.pth").weights()
    with pytest.raises(UsageError, match='Did you mean "vit_b"'):
        SamOptions(architecture="vitb").config  # noqa: B018


@pytest.mark.parametrize("kind", [Sam, SegmentAnything])
@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_weights_of_another_published_model_are_named(name: str, kind: Any, weights: Path, tmp_path: Path) -> None:
    sound = torch.load(weights, weights_only=True)
    width = SamConfig(**SamOptions(architecture=name).config).vision_config.hidden_size
    bias, first = "image_encoder.patch_embed.proj.bias", "image_encoder.patch_embed.proj.weight"
    # The sizes of the published tower, its numbers all one and the same.
    more = {f"image_encoder.blocks.{n}.norm1.bias": torch.zeros(1).expand(width) for n in (90, 91, 92, 93)}
    state = {n: v for n, v in sound.items() if n not in ("mask_decoder.iou_token.weight", bias)}
    state |= {first: torch.zeros(1).expand(width, *sound[first].shape[1:]), **more}
    torch.save(state, tmp_path / "sam.pth")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(UsageError) as caught:
        kind(options(tmp_path / "sam.pth")).load("cpu")
    words = str(caught.value)
    start, asked = f"checkpoint {tmp_path / 'sam.pth'}", f"{tmp_path / 'config.json'}"
    assert f"{start} does not fit {asked}: of " in words
    assert "1 of another shape (" in words
    assert "2 missing (" in words
    assert "4 surplus (" in words
    assert words.count(".norm1.bias" if kind is SegmentAnything else ".layer_norm1.bias") == 3
    assert words.endswith(f"Its width of {width} is that of architecture={name}.")
    assert "allow_missing" not in words


def test_the_command_says_which_model_the_weights_are_of(
    weights: Path, cli: Callable[..., Result], tmp_path: Path
) -> None:
    domain = f"karpathy[file={write_karpathy(tmp_path / 'tiles', images=10)}]"
    state = torch.load(weights, weights_only=True)
    state["image_encoder.patch_embed.proj.weight"] = torch.zeros(1).expand(1024, 3, 16, 16)
    torch.save(state, tmp_path / "sam_large.pth")
    segmenter = f"sam[checkpoint={tmp_path / 'sam_large.pth'},architecture={weights.with_name('config.json')}]"
    result = cli("data", "segment", domain, "--segmenter", segmenter, "--out", tmp_path / "s", "--device", "cpu")
    assert result.status == 2, result.err
    assert "sam_large.pth does not fit" in result.err
    assert "Its width of 1024 is that of architecture=vit_l." in " ".join(result.err.split())
    assert not (tmp_path / "s" / "segments.json").exists()


def test_what_lies_at_a_path_counts_and_not_the_path(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG, indent=3))
    moved = tmp_path / "elsewhere.pth"
    moved.write_bytes(weights.read_bytes())
    assert options(moved).identity() == options(weights).identity()
    other = write_original(tmp_path / "other", seed=1)
    assert options(other).identity() != options(weights).identity()
    assert options(weights, points_per_side=7).identity() != options(weights).identity()


def test_a_store_goes_on_under_another_name_of_its_weights_but_not_with_other_libraries(
    weights: Path, cli: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    domain = f"karpathy[file={write_karpathy(tmp_path / 'tiles', images=10)}]"
    said = LOW | {"points_per_side": 2, "architecture": weights.with_name("config.json")}
    renamed = tmp_path / "renamed.pth"
    renamed.write_bytes(weights.read_bytes())

    def segment(out: str, *more: str, checkpoint: Path = weights, segmenter: str = "sam") -> Result:
        chosen = ",".join(f"{name}={value}" for name, value in (said | {"checkpoint": checkpoint}).items())
        where = ("--segmenter", f"{segmenter}[{chosen}]", "--out", tmp_path / out, "--device", "cpu")
        return cli("data", "segment", domain, *where, *more)

    def making(out: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((tmp_path / out / "segments.json").read_text())["making"]
        return found

    assert segment("store", "--split", "train").status == 0
    assert segment("theirs", "--split", "test", segmenter="segment_anything").status == 0
    assert making("store")["libraries"].keys() == {"torch", "torchvision", "transformers"}
    assert making("store")["libraries"]["transformers"] == transformers.__version__
    assert making("theirs")["libraries"].keys() - making("store")["libraries"].keys() == {"segment-anything"}
    result = segment("store", "--split", "val", checkpoint=renamed)
    assert result.status == 0, result.err
    assert making("store")["weights"]["source"] == "renamed.pth"
    assert segment("whole", "--split", "train,val", checkpoint=renamed).status == 0
    assert tree(tmp_path / "store") == tree(tmp_path / "whole")

    version = importlib.metadata.version
    with monkeypatch.context() as patch:
        patch.setattr(importlib.metadata, "version", lambda name: "99" if name == "torchvision" else version(name))
        result = segment("store", "--split", "test")
    assert result.status == 2
    assert re.search(r"made otherwise \(libraries torchvision: '.*', now '99'\)", result.err)
    assert tree(tmp_path / "store") == tree(tmp_path / "whole")

    # A store from before they were noted is read, and gets nothing more.
    manifest = tmp_path / "store" / "segments.json"
    content = json.loads(manifest.read_text())
    del content["making"]["libraries"]
    manifest.write_text(json.dumps(content))
    assert len(read_store(tmp_path / "store").rows) == content["images"]
    result = segment("store", "--split", "test")
    assert (result.status, "made otherwise (libraries: not said, now {" in result.err) == (2, True), result.err


def test_a_library_that_is_declared_and_missing_is_named() -> None:
    with pytest.raises(PluginError, match="no-such-library is needed and not installed"):
        library_versions("torch", "no-such-library")


def test_the_command_gives_the_same_with_any_number_of_processes(
    weights: Path, cli: Callable[..., Result], tmp_path: Path
) -> None:
    domain = f"karpathy[file={write_karpathy(tmp_path / 'tiles', images=10)}]"
    said = LOW | {"checkpoint": weights, "architecture": weights.with_name("config.json"), "pred_iou_thresh": 0}
    segmenter = f"sam[{','.join(f'{name}={value}' for name, value in said.items())}]"
    for workers in (1, 2):
        out = ("--out", tmp_path / str(workers), "--workers", workers, "--device", "cpu", "--batch", 3)
        result = cli("data", "segment", domain, "--segmenter", segmenter, *out)
        assert result.status == 0, result.err
        assert "random" not in result.err
    assert tree(tmp_path / "1") == tree(tmp_path / "2")
    said = json.loads((tmp_path / "1" / "segments.json").read_text())
    assert said["segments"] > 0
    assert said["making"]["weights"]["status"] == "pretrained"
    options = LOW | {"architecture": weights.with_name("config.json")}
    segmenter = f"sam[{','.join(f'{name}={value}' for name, value in options.items())}]"
    result = cli(
        "data", "segment", domain, "--segmenter", segmenter, "--out", tmp_path / "bare", "--device", "cpu"
    )
    assert result.status == 0, result.err
    assert "warning: the segmenter's weights are random" in result.err


@pytest.mark.parametrize("when", ["before", "amid"])
def test_weights_that_are_replaced_meanwhile_make_nothing(
    when: str, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process loads the model anew, maybe hours after the command has hashed it."""
    for name in (weights.name, "config.json"):
        shutil.copy(weights.with_name(name), tmp_path / name)
    file, domain = tmp_path / weights.name, f"karpathy[file={write_karpathy(tmp_path / 'tiles', images=6)}]"
    segmenter = f"sam[checkpoint={file},architecture={tmp_path / 'config.json'}]"
    identity = Registry.discover().resolve("segmenter", segmenter).identity()
    work = Segmenting(domain, segmenter, [], Choice(), {}, {"segmenter": identity})
    assert callable(work.build("cpu"))

    def replace() -> None:
        state = torch.load(file, weights_only=True)
        torch.save({name: value + 1 for name, value in state.items()}, tmp_path / "new.pth")
        (tmp_path / "new.pth").replace(file)

    loaded = Sam.load
    monkeypatch.setattr(Sam, "load", lambda self, device: (loaded(self, device), when == "amid" and replace()))
    if when == "before":
        replace()
    with pytest.raises(RunError, match=r"'sam' .*has changed since the command began; run it again"):
        work.build("cpu")
