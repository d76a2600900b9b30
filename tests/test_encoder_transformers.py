"""The transformers encoders: parity with transformers itself, from files that `save_pretrained` wrote."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import sentencepiece
import torch
from encoder_files import HUB, TEXTS, cached, load, resolve, state_of
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    CLIPImageProcessorPil,
    PreTrainedTokenizerFast,
    Siglip2ImageProcessorPil,
    SiglipImageProcessorPil,
    SiglipTokenizer,
)

from urbancross_bench.errors import RunError, UsageError
from urbancross_bench.modelling.checkpoints import load_weights, save_weights
from urbancross_bench.modelling.inputs import prepared
from urbancross_bench.modelling.origins import Origin, short
from urbancross_bench.testing.fixtures.clip import write_tiny_clip
from urbancross_encoders import transformers_models

FAMILIES = ("clip", "siglip", "siglip2")
SIZES = {"clip": 32, "siglip": 32, "siglip2": 48}
CPU = torch.device("cpu")
PARTS = ("text_config", "vision_config")
WORDS_OF_TEXT = "text_model.embeddings.token_embedding.weight"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Any]]:
    """A folder per family, and the model it was written from. Copy before changing."""
    place = tmp_path_factory.mktemp("models")
    return {family: (place / family, write_tiny_clip(place / family, family)) for family in FAMILIES}


@pytest.fixture
def copied(written: dict[str, tuple[Path, Any]], tmp_path: Path) -> Path:
    """The CLIP model's folder, to be changed."""
    return Path(shutil.copytree(written["clip"][0], tmp_path / "clip"))


def photos(size: int, count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(count, size, size, 3)).astype(np.uint8)


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_features_are_those_of_transformers_itself(family: str, written: dict[str, tuple[Path, Any]]) -> None:
    folder, other = written[family]
    ours = load(f"transformers[model={folder}]").train(False)
    packed = photos(SIZES[family])
    processor = {
        "clip": CLIPImageProcessorPil,
        "siglip": SiglipImageProcessorPil,
        "siglip2": Siglip2ImageProcessorPil,
    }[family].from_pretrained(folder)
    inputs = processor([Image.fromarray(photo) for photo in packed], return_tensors="pt")
    theirs = other.get_image_features(**inputs).pooler_output
    assert difference(ours.encode_image(prepared(packed, ours, CPU)), theirs) <= 1e-5
    assert theirs.std() > 1e-2
    # Of the same floats, with weights in the same order in memory, not one bit differs.
    other = copy.deepcopy(other).to(memory_format=torch.channels_last)
    pixels = prepared(packed, ours, CPU)
    if family == "siglip2":
        patches = torch.stack([patches_of(image) for image in pixels])
        shown = {"pixel_values": patches, "pixel_attention_mask": torch.ones(3, 9, dtype=torch.int32)}
        shown["spatial_shapes"] = torch.full((3, 2), 3)
    else:
        shown = {"pixel_values": pixels}
    assert difference(ours.encode_image(pixels), other.get_image_features(**shown).pooler_output) == 0
    tokens = ours.tokenize(TEXTS)
    if family != "clip":  # as they were trained, whatever the tokenizer does by itself
        assert torch.equal(tokens, ours.tokenize([text.upper() for text in TEXTS]))
    if family == "siglip2":
        assert tokens[2, -1] == 0  # padded at the end
    else:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        assert tokens.tolist() == tokenizer(TEXTS, padding="max_length", max_length=12)["input_ids"]
    assert difference(ours.encode_text(tokens), other.get_text_features(input_ids=tokens).pooler_output) == 0
    assert ours.encode_text(tokens).shape == (3, ours.width)
    assert torch.equal(ours.logit_scale, other.logit_scale)
    assert (ours.logit_bias is None) == (family == "clip")


def patches_of(image: torch.Tensor) -> torch.Tensor:
    """(9, 768) of (3, 48, 48): row by row, each pixel's three colours together."""
    rows = [image[:, y : y + 16, x : x + 16] for y in range(0, 48, 16) for x in range(0, 48, 16)]
    return torch.stack([row.permute(1, 2, 0).reshape(-1) for row in rows])


@torch.inference_mode()
def test_siglip_is_loaded_with_the_tokenizer_that_it_comes_with(
    written: dict[str, tuple[Path, Any]], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(written["siglip"][0], tmp_path / "siglip"))
    for file in folder.glob("*token*"):
        file.unlink()
    (tmp_path / "texts").write_text("\n".join(TEXTS * 40))
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "texts"),
        model_prefix=str(tmp_path / "spiece"),
        vocab_size=24,
        pad_id=3,
        eos_id=1,
        bos_id=-1,
        unk_id=2,
        minloglevel=2,
    )
    tokenizer = SiglipTokenizer(str(tmp_path / "spiece.model"), model_max_length=12)
    tokenizer.save_pretrained(folder)
    content, state = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    content["text_config"]["vocab_size"] = 24
    (folder / "config.json").write_text(json.dumps(content))
    save_file(state | {WORDS_OF_TEXT: torch.randn(24, 16)}, folder / "model.safetensors")
    ours = load(f"transformers[model={folder}]").train(False)
    shown = ["A Red Roof", "a red roof"]
    tokens = ours.tokenize(shown)
    assert tokens.tolist() == tokenizer(shown, padding="max_length", max_length=12)["input_ids"]
    assert torch.equal(tokens[0], tokens[1])
    assert tokens[0, -1] == tokenizer.pad_token_id


def test_a_tokenizer_that_lacks_a_library_is_named(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lacking(*_: Any, **__: Any) -> None:
        raise ImportError("it requires the sentencepiece library")

    monkeypatch.setattr(transformers_models.AutoTokenizer, "from_pretrained", lacking)
    with pytest.raises(UsageError, match=r"cannot build .*requires the sentencepiece library"):
        load(f"transformers[model={copied}]")


@pytest.mark.parametrize("family", FAMILIES)
def test_texts_are_padded_and_cut_at_their_end_whatever_the_tokenizer_says(
    family: str, written: dict[str, tuple[Path, Any]], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(written[family][0], tmp_path / "m"))
    file = folder / "tokenizer_config.json"
    left = json.loads(file.read_text()) | {"padding_side": "left", "truncation_side": "left"}
    file.write_text(json.dumps(left))
    ours, sound = (load(f"transformers[model={place}]") for place in (folder, written[family][0]))
    texts = [*TEXTS, " ".join(["a red roof"] * 9)]
    assert torch.equal(ours.tokenize(texts), sound.tokenize(texts))


def test_a_tokenizer_and_a_model_that_do_not_belong_together_are_told(
    written: dict[str, tuple[Path, Any]], copied: Path, tmp_path: Path
) -> None:
    file = copied / "config.json"
    content = json.loads(file.read_text())
    for end, told in ((11, "11"), (None, "None")):
        content["text_config"]["eos_token_id"] = end
        file.write_text(json.dumps(content))
        with pytest.raises(
            UsageError,
            match=rf"by {copied}/tokenizer\.json texts end with .* 12, by {file} \(eos_token_id\) with {told};",
        ):
            load(f"transformers[model={copied}]")
    for family in FAMILIES:
        folder = Path(shutil.copytree(written[family][0], tmp_path / family, dirs_exist_ok=True))
        tokenizer = AutoTokenizer.from_pretrained(folder)
        count = len(tokenizer)
        assert load(f"transformers[model={folder}]").tokenize(TEXTS).max() < count
        tokenizer.add_tokens(["sea"])
        tokenizer.save_pretrained(folder)
        with pytest.raises(
            UsageError, match=rf"tokenizer\.json has a token {count}, and by {folder}.* a vocabulary of {count};"
        ):
            load(f"transformers[model={folder}]")


@pytest.mark.parametrize("end", [None, 2])
@torch.inference_mode()
def test_clip_texts_are_cut_after_the_last_end_token(end: int | None, tmp_path: Path) -> None:
    """Old configs say 2 for the end token, and mean the highest id."""
    other = write_tiny_clip(tmp_path / "m", "clip", end=end)
    ours = load(f"transformers[model={tmp_path / 'm'}]").train(False)
    tokens = ours.tokenize(TEXTS)
    length = ours.text_length(tokens)
    assert length == 11  # start, nine words, end
    whole = other.get_text_features(input_ids=tokens).pooler_output
    assert difference(ours.encode_text(tokens[:, :length]), whole) <= 1e-6
    assert difference(ours.encode_text(tokens[:, : length - 1]), whole) > 1e-3
    masked = other.get_text_features(input_ids=tokens, attention_mask=(tokens != 0).long()).pooler_output
    assert difference(whole, masked) <= 1e-6


@pytest.mark.parametrize("family", ["siglip", "siglip2"])
@torch.inference_mode()
def test_siglip_texts_are_not_cut_since_padding_counts(family: str, written: dict[str, tuple[Path, Any]]) -> None:
    ours = load(f"transformers[model={written[family][0]}]").train(False)
    tokens = ours.tokenize(TEXTS)
    assert ours.text_length(tokens) == tokens.shape[1] == 12
    assert difference(ours.encode_text(tokens[:, :11]), ours.encode_text(tokens)) > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_towers_and_blocks_are_within_reach_and_may_be_frozen(
    family: str, written: dict[str, tuple[Path, Any]]
) -> None:
    ours = load(f"transformers[model={written[family][0]},freeze=vision_model.*]").train()
    owned = [id(p) for tower in (ours.image_tower, ours.text_tower) for p in tower.parameters()]
    rest = {name for name, p in ours.named_parameters() if id(p) not in owned}
    assert rest == {"clip.logit_scale"} | ({"clip.logit_bias"} if family != "clip" else set())
    assert len(ours.blocks("image")) == len(ours.blocks("text")) == 2
    tokens, pixels = ours.tokenize(TEXTS), prepared(photos(SIZES[family]), ours, CPU)
    (ours.encode_image(pixels) @ ours.encode_text(tokens).T).sum().backward()
    reached = {name for name, p in ours.named_parameters() if p.grad is not None}
    assert not [name for name in reached if "vision_model" in name]
    assert "clip.text_model.embeddings.token_embedding.weight" in reached
    assert ("clip.visual_projection.weight" in reached) == (family == "clip")


def test_images_are_prepared_as_the_files_say(written: dict[str, tuple[Path, Any]], copied: Path) -> None:
    options = {family: resolve(f"transformers[model={written[family][0]}]").options for family in FAMILIES}
    formats = {family: found.image_format() for family, found in options.items()}
    assert {family: found.size for family, found in formats.items()} == SIZES
    assert [formats[f].interpolation for f in FAMILIES] == ["bicubic", "bilinear", "bilinear"]
    assert options["siglip"].preprocessing.mean == (0.5, 0.5, 0.5)
    assert options["clip"].preprocessing.mean == (0.48145466, 0.4578275, 0.40821073)
    before = resolve(f"transformers[model={copied}]").identity()
    name = next(n for n in ("preprocessor_config.json", "processor_config.json") if (copied / n).is_file())
    found = json.loads((copied / name).read_text())
    found = found.get("image_processor", found)
    for change, words in (
        ({"rescale_factor": 0.1}, "pixels are scaled by 0.1"),
        ({"resample": 0}, "images are resized by PIL's filter 0"),
        ({"resample": None}, rf"{copied / name}: images are resized by PIL's filter None"),
        ({"rescale_factor": None}, rf"{copied / name}: pixels are scaled by None, not by 1/255"),
        ({"rescale_factor": float("nan")}, "pixels are scaled by nan"),
        ({"do_rescale": False}, "pixels are scaled by 1, not by 1/255"),
        ({"image_std": [0.2, 0.0, 0.2]}, rf"{copied / name}: image_std is \[0\.2, 0\.0, 0\.2\]; .* above 0"),
        ({"image_mean": [123, 116, 103]}, rf"{copied / name}: image_mean is \[123, 116, 103\]; .* in \[0, 1\]"),
    ):
        (copied / name).write_text(json.dumps(found | change))
        with pytest.raises(UsageError, match=words):
            resolve(f"transformers[model={copied}]").identity()
    # Since transformers 5 the image processor's file may be a part of the processor's.
    (copied / name).unlink()
    inside = {"image_processor": found | {"image_mean": [0.1, 0.2, 0.3], "do_normalize": True}}
    (copied / "processor_config.json").write_text(json.dumps(inside))
    assert resolve(f"transformers[model={copied}]").options.preprocessing.mean == (0.1, 0.2, 0.3)
    assert resolve(f"transformers[model={copied}]").identity() != before
    (copied / "processor_config.json").write_text(json.dumps({"image_processor": "of CLIP"}))
    with pytest.raises(UsageError, match="nothing says how images are normalised"):
        resolve(f"transformers[model={copied}]").identity()
    inside["image_processor"]["do_normalize"] = False
    (copied / "processor_config.json").write_text(json.dumps(inside))
    assert resolve(f"transformers[model={copied}]").options.preprocessing.std == (1.0, 1.0, 1.0)
    (copied / "processor_config.json").unlink()
    with pytest.raises(UsageError, match="nothing says how images are normalised"):
        resolve(f"transformers[model={copied}]").identity()
    assert resolve(f"transformers[model={copied},normalisation=openai]").identity() == {
        **before,
        "options": before["options"],
    }


@torch.inference_mode()
def test_patches_that_make_no_square_make_the_largest_that_they_can(
    written: dict[str, tuple[Path, Any]], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(written["siglip2"][0], tmp_path / "siglip2"))
    processor = Siglip2ImageProcessorPil.from_pretrained(folder)
    processor.max_num_patches = 10
    processor.save_pretrained(folder)
    (folder / "processor_config.json").unlink(missing_ok=True)
    reference = f"transformers[model={folder}]"
    assert resolve(reference).options.image_format().size == SIZES["siglip2"]
    ours, packed = load(reference).train(False), photos(SIZES["siglip2"])
    inputs = processor([Image.fromarray(photo) for photo in packed], return_tensors="pt")
    theirs = written["siglip2"][1].get_image_features(**inputs).pooler_output
    assert difference(ours.encode_image(prepared(packed, ours, CPU)), theirs) <= 1e-5


def test_sizes_that_an_old_config_keeps_in_its_second_place_are_those_of_the_model(
    written: dict[str, tuple[Path, Any]], copied: Path
) -> None:
    content = json.loads((copied / "config.json").read_text())
    for part in PARTS:
        content[f"{part}_dict"], content[part] = content[part], {}
    (copied / "config.json").write_text(json.dumps(content))
    options = resolve(f"transformers[model={copied}]").options
    assert (options.image_format().size, options.context_length) == (SIZES["clip"], 12)
    moved, plain = load(f"transformers[model={copied}]"), load(f"transformers[model={written['clip'][0]}]")
    tokens = moved.tokenize(TEXTS)
    assert torch.equal(moved.encode_text(tokens), plain.encode_text(plain.tokenize(TEXTS)))


def test_weights_are_strict_hashed_and_of_any_file_layout(copied: Path) -> None:
    reference = f"transformers[model={copied}]"
    state = load_file(copied / "model.safetensors")
    before = resolve(reference)
    weights = before.options.weights()
    assert (weights.status, weights.source) == ("pretrained", "clip")
    assert weights.sha256 == before.identity()["options"]["weights"]
    positions = {"text_model.embeddings.position_ids": torch.arange(12)[None]}
    whole = state_of(before.build().load())
    # A buffer that transformers once saved is no surplus.
    torch.save(state | positions, copied / "pytorch_model.bin")
    (copied / "model.safetensors").unlink()
    assert all(torch.equal(value, whole[name]) for name, value in state_of(load(reference)).items())
    names = sorted(state)
    for number, part in enumerate((names[:40], names[40:]), 1):
        save_file({name: state[name] for name in part}, copied / f"model-{number:05d}-of-00002.safetensors")
    index = {name: f"model-{1 + (name in names[40:]):05d}-of-00002.safetensors" for name in names}
    (copied / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    sharded = resolve(reference)
    assert len(sharded.options.weight_files) == 2
    assert all(torch.equal(value, whole[name]) for name, value in state_of(sharded.build().load()).items())
    save_file({name: state[name] + 1 for name in names[40:]}, copied / "model-00002-of-00002.safetensors")
    with pytest.raises(RunError, match=r"model-00002-of-00002\.safetensors is not the file that was hashed"):
        sharded.build().load()
    assert resolve(reference).identity() != sharded.identity()
    save_file({name: state[name] for name in names[41:]}, copied / "model-00002-of-00002.safetensors")
    with pytest.raises(UsageError, match=rf"and 1 more: of 78 tensors, 1 missing \({names[40]}\)"):
        load(reference)
    load(reference.replace("]", f",allow_missing={names[40]}]"))
    (copied / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(
        UsageError, match=r"index\.json names model-00002-of-00002\.safetensors, which is not there"
    ):
        resolve(reference).options.weights()


def test_shards_hold_what_their_index_says_and_no_more(copied: Path) -> None:
    reference = f"transformers[model={copied}]"
    state = load_file(copied / "model.safetensors")
    (copied / "model.safetensors").unlink()
    index, names = copied / "model.safetensors.index.json", sorted(state)
    files = [f"model-{number:05d}-of-00002.safetensors" for number in (1, 2)]
    mapped = {name: files[name in names[40:]] for name in names}

    def written_as(first: list[str], second: list[str], weight_map: Any) -> None:
        for name, held in zip(files, (first, second), strict=True):
            save_file({n: state[n] for n in held}, copied / name)
        index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))

    for first, second, weight_map, told in (
        (names[:40], [names[0], *names[40:]], mapped, rf"{files[1]} holds '{names[0]}', .* has in {files[0]}"),
        (names[:39], names[39:], mapped, rf"{files[1]} holds '{names[39]}', .* has in {files[0]}"),
        (
            names[:40],
            names[40:],
            dict([*mapped.items()][1:]),
            rf"{files[0]} holds '{names[0]}', .* has in no file",
        ),
    ):
        written_as(first, second, weight_map)
        with pytest.raises(UsageError, match=told):
            load(reference)
    for weight_map, told in (
        (None, r"index\.json has no weight_map"),
        ({}, r"index\.json has no weight_map"),
        (mapped | {names[0]: "../a.safetensors"}, r"names '\.\./a\.safetensors', which is no file beside it"),
    ):
        written_as(names[:40], names[40:], weight_map)
        with pytest.raises(UsageError, match=told):
            resolve(reference).options.weights()


def test_weights_that_a_grid_left_say_so_in_a_folder_too(copied: Path) -> None:
    """As somebody puts them there, to share them."""
    file, reference = copied / "model.safetensors", f"transformers[model={copied}]"
    assert resolve(reference).options.weights().status == "pretrained"
    origin = Origin({}, trained=True, partial=True, images=short(["one image"]))
    save_weights(load_file(file), file, origin)
    weights = resolve(reference).options.weights()
    assert (weights.status, weights.source) == ("trained here", copied.name)
    assert (weights.images, weights.partial, weights.was_partial) == (origin.images, False, True)


def left_by_a_grid(folder: Path, **facts: Any) -> None:
    """Weights in the folder that say what they were trained as, in place of those that were there."""
    file = folder / "model.safetensors"
    save_weights(load_file(file), file, Origin(facts, trained=True, partial=False, images=short(["one image"])))


def test_weights_that_a_grid_trained_are_shown_images_as_in_that_training(copied: Path) -> None:
    reference = f"transformers[model={copied}]"
    trained = resolve(f"transformers[model={copied},normalisation=imagenet,interpolation=bilinear]")
    facts = trained.options.identity()
    left_by_a_grid(copied, **facts)
    assert resolve(reference).options.preprocessing == trained.options.preprocessing
    assert load(reference).mean == trained.options.preprocessing.mean
    named = reference.replace("]", ",normalisation=openai,interpolation=bicubic]")
    assert resolve(named).options.preprocessing != trained.options.preprocessing


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"config": "0"}, r"was trained with another config than that of .*a copy of the folder"),
        ({"tokenizer": "0"}, r"was trained with another tokenizer than that of"),
        ({"config": None, "architecture": "0"}, r"was trained as a model of open_clip; take openclip\[arch"),
    ],
)
def test_weights_of_another_training_are_refused_when_planning(
    changed: dict[str, str | None], told: str, copied: Path
) -> None:
    facts = resolve(f"transformers[model={copied}]").options.identity() | changed
    left_by_a_grid(copied, **{name: value for name, value in facts.items() if value is not None})
    with pytest.raises(UsageError, match=rf"model\.safetensors {told}"):
        resolve(f"transformers[model={copied}]").identity()


def test_weights_that_transformers_trained_are_none_of_open_clip(copied: Path) -> None:
    left_by_a_grid(copied, **resolve(f"transformers[model={copied}]").options.identity())
    reference = f"openclip[architecture=urbancross-tiny,checkpoint={copied / 'model.safetensors'}]"
    with pytest.raises(
        UsageError, match=r"was trained as a model of transformers; take transformers\[model=FOLDER\]"
    ):
        resolve(reference).identity()


def test_configs_in_half_precision_make_models_in_single(copied: Path) -> None:
    content = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(content | {"dtype": "float16", "transformers_version": "4.0"}))
    changed = resolve(f"transformers[model={copied}]")
    assert {p.dtype for p in changed.build().load().parameters()} == {torch.float32}


def test_identity_follows_content_alone(written: dict[str, tuple[Path, Any]], copied: Path) -> None:
    one, two = resolve(f"transformers[model={written['clip'][0]}]"), resolve(f"transformers[model={copied}]")
    assert one.identity() == two.identity()
    content = json.loads((copied / "config.json").read_text())
    (copied / "config.json").write_text(json.dumps(content | {"transformers_version": "9", "dtype": "float16"}))
    assert resolve(f"transformers[model={copied}]").identity() == one.identity()
    parts = {name: content[name] | {"transformers_version": "9", "dtype": "float16"} for name in PARTS}
    (copied / "config.json").write_text(json.dumps(content | parts))
    assert resolve(f"transformers[model={copied}]").identity() == one.identity()
    parts["text_config"]["hidden_act"] = "gelu"
    (copied / "config.json").write_text(json.dumps(content | parts))
    assert resolve(f"transformers[model={copied}]").identity() != one.identity()
    (copied / "config.json").write_text(json.dumps(content | {"projection_dim": 4}))
    assert resolve(f"transformers[model={copied}]").identity() != one.identity()


def test_what_is_wrong_with_a_folder_is_told(copied: Path, tmp_path: Path) -> None:
    reference = f"transformers[model={copied}]"
    with pytest.raises(UsageError, match="revision is for names on the hub"):
        resolve(reference.replace("]", ",revision=main]")).identity()
    with pytest.raises(UsageError, match=r"folder .*/nowhere does not exist"):
        resolve(f"transformers[model={tmp_path / 'nowhere'}]").identity()
    with pytest.raises(UsageError, match=rf"is a file; name its folder, model={copied}"):
        resolve(f"transformers[model={copied / 'model.safetensors'}]").identity()
    (copied / "adapter_config.json").touch()
    with pytest.raises(UsageError, match=r"holds low-rank updates of PEFT .*`merge_and_unload\(\)` them"):
        resolve(reference).identity()
    (copied / "adapter_config.json").unlink()
    (copied / "model.safetensors").write_bytes(b"<html>404</html>")
    with pytest.raises(UsageError, match=r"model\.safetensors is a web page"):
        load(reference)
    (copied / "model.safetensors").unlink()
    with pytest.raises(UsageError, match=r"holds none of model\.safetensors"):
        resolve(reference).options.weights()
    (copied / "tokenizer.json").unlink()
    (copied / "model.safetensors").touch()
    with pytest.raises(UsageError, match="holds no tokenizer"):
        resolve(reference).identity()
    (copied / "config.json").write_text('{"model_type": "siglib"}')
    with pytest.raises(UsageError, match=r"is of a 'siglib' model. Did you mean \"siglip\""):
        resolve(reference).options.image_format()
    (copied / "config.json").write_text("{")
    with pytest.raises(UsageError, match=r"config\.json cannot be read"):
        resolve(reference).options.image_format()


def test_a_hub_name_is_read_from_the_cache_whole_or_not_at_all(
    written: dict[str, tuple[Path, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    reference = "transformers[model=owner/name]"
    with pytest.raises(UsageError, match=r"owner/name is not in the cache of the hub.*HF_HUB_OFFLINE"):
        resolve(reference).identity()
    folder = cached(tmp_path, "owner/name")
    for file in written["clip"][0].iterdir():
        if file.name != "model.safetensors":
            shutil.copy(file, folder)
    with pytest.raises(UsageError, match="or not all of it"):
        resolve(reference).identity()
    shutil.copy(written["clip"][0] / "model.safetensors", folder)
    found = resolve(reference)
    assert found.options.weights().source == "hub:owner/name"
    local = resolve(f"transformers[model={written['clip'][0]}]")
    assert found.identity() == local.identity()
    assert torch.equal(found.build().load().logit_scale, local.build().load().logit_scale)
    at = resolve(reference.replace("]", f",revision={HUB}]"))
    assert at.options.weights().source == f"hub:owner/name@{HUB}"
    with pytest.raises(UsageError, match="owner/name at other is not in the cache"):
        resolve(reference.replace("]", ",revision=other]")).identity()


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_what_the_harness_does_with_a_model_works(
    family: str, written: dict[str, tuple[Path, Any]], tmp_path: Path
) -> None:
    """Weights are saved and loaded again, and towers run in bfloat16."""
    ours = load(f"transformers[model={written[family][0]},orientations=8]").train(False)
    pixels, tokens = prepared(photos(SIZES[family]), ours, CPU), ours.tokenize(TEXTS)
    images, texts = ours.encode_image(pixels), ours.encode_text(tokens)
    assert difference(images, ours.encode_image(pixels.rot90(1, (2, 3)))) <= 1e-5
    save_weights(ours.state_dict(), tmp_path / "w.safetensors")
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.zero_()
    load_weights(ours, tmp_path / "w.safetensors")
    assert difference(ours.encode_image(pixels), images) == 0
    with torch.autocast("cpu", torch.bfloat16):
        cut = ours.encode_text(tokens[:, : ours.text_length(tokens)])
    assert 0 < difference(cut.float(), texts) < 0.2
