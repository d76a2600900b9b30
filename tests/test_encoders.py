"""The open_clip encoders: parity with open_clip itself, what weights bring along, and what training may reach."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
import pytest
import torch
from encoder_files import TEXTS, TINY, cached, load, resolve, state_of, theirs, write_local_dir
from open_clip.pretrained import _PRETRAINED
from open_clip.transform import PreprocessCfg
from safetensors.torch import save_file
from torch import nn
from transformers import BertConfig

from urbancross_bench.errors import UsageError
from urbancross_bench.testing.fixtures.clip import word_tokenizer
from urbancross_encoders.preprocessing import OPEN_CLIP_KEYS, OPENAI, of_architecture, of_open_clip

SMALL = open_clip.get_model_config(TINY)
LONG = ["many long words " * 40]


def images(size: int = 32, count: int = 3) -> torch.Tensor:
    """Floats in the order in memory that packed images have."""
    found = torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    return found.to(memory_format=torch.channels_last)


def difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max())


def config(**changes: Any) -> dict[str, Any]:
    """The tiny architecture with the whole vocabulary, and parts of its towers changed."""
    text = {**SMALL["text_cfg"], "vocab_size": 49408, **changes.pop("text_cfg", {})}
    return {**SMALL, "text_cfg": text, **changes}


ARCHITECTURES: dict[str, dict[str, Any]] = {
    "ViT": config(),
    "ResNet": config(vision_cfg={"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32}),
    "QuickGELU": config(quick_gelu=True),
    "eos": config(text_cfg={"pool_type": "eos", "eos_id": 49407}),
    "bidirectional": config(text_cfg={"no_causal_mask": True, "pool_type": "last", "proj_bias": True}),
    "SigLIP": config(
        embed_dim=64,
        init_logit_bias=-10,
        custom_text=True,
        vision_cfg={"image_size": 32, "timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none"},
        text_cfg={"no_causal_mask": True, "pool_type": "last", "proj_bias": True},
    ),
    "convolutions": config(
        vision_cfg={"image_size": 64, "timm_model_name": "test_convnext", "timm_proj": "linear"}
    ),
    "CoCa": config(
        vision_cfg={
            **SMALL["vision_cfg"],
            "attentional_pool": True,
            "attn_pooler_heads": 2,
            "output_tokens": True,
        },
        text_cfg={"embed_cls": True, "output_tokens": True, "context_length": 76},
        multimodal_cfg={"context_length": 76, "width": 16, "heads": 2, "layers": 1},
        custom_text=True,
    ),
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any]]:
    """Of each architecture: our encoder, and open_clip's own model with the same weights from the same folder."""
    found = {}
    for name, cfg in ARCHITECTURES.items():
        folder = tmp_path_factory.mktemp(name)
        open_clip.add_model_config(folder)
        (folder / f"own-{name}.json").write_text(json.dumps(cfg))
        open_clip.add_model_config(folder / f"own-{name}.json")
        other = theirs(f"own-{name}")
        if name == "CoCa":  # open_clip leaves it as it finds the memory; nothing is embedded by it
            torch.nn.init.constant_(other.text_decoder.text_projection, torch.nan)
        write_local_dir(
            folder / "dir", cfg, {"mean": [0.1, 0.2, 0.3], "interpolation": "bilinear"}, state_of(other)
        )
        ours = load(f"openclip[architecture=local-dir:{folder / 'dir'}]").train(False)
        found[name] = ours, open_clip.create_model(f"local-dir:{folder / 'dir'}").eval()
    return found


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.inference_mode()
def test_features_are_those_of_open_clip_itself(name: str, pairs: dict[str, tuple[Any, Any]]) -> None:
    ours, other = pairs[name]
    size = ARCHITECTURES[name]["vision_cfg"]["image_size"]
    tokens = ours.tokenize(TEXTS + LONG)
    assert torch.equal(tokens, open_clip.SimpleTokenizer(context_length=tokens.shape[1])(TEXTS + LONG))
    seen = ours.encode_image(images(size))
    # Convolutions over weights in another memory order sum in another order.
    assert difference(seen, other.encode_image(images(size), normalize=False)) <= 1e-6
    other.to(memory_format=torch.channels_last)
    assert difference(seen, other.encode_image(images(size), normalize=False)) == 0
    assert difference(ours.encode_text(tokens), other.encode_text(tokens, normalize=False)) == 0
    assert seen.shape == (3, ours.width)
    assert seen.std() > 1e-3
    assert (ours.logit_bias is None) == (name != "SigLIP")
    if ours.logit_bias is not None:
        assert ours.logit_bias.item() == other.logit_bias.item() == -10


@pytest.mark.parametrize("name", ARCHITECTURES)
@torch.inference_mode()
def test_text_is_cut_where_that_is_exact_and_nowhere_else(name: str, pairs: dict[str, tuple[Any, Any]]) -> None:
    ours, other = pairs[name]
    tokens = ours.tokenize(TEXTS)
    length, exact = ours.text_length(tokens), name not in ("bidirectional", "SigLIP", "CoCa")
    assert (length < tokens.shape[1]) == exact
    whole = other.encode_text(tokens, normalize=False)
    assert difference(ours.encode_text(tokens[:, :length]), whole) <= 1e-6
    if exact:
        # One column less would cut an end token off: the length is the shortest.
        assert difference(ours.encode_text(tokens[:, : length - 1]), whole) > 1e-3


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_towers_hold_every_parameter_once_and_blocks_run_in_order(
    name: str, pairs: dict[str, tuple[Any, Any]]
) -> None:
    ours, _ = pairs[name]
    towers = {"image": ours.image_tower, "text": ours.text_tower}
    owned = [id(p) for tower in towers.values() for p in tower.parameters()]
    rest = [n for n, p in ours.named_parameters() if id(p) not in owned]
    assert len(owned) == len(set(owned))
    assert set(rest) <= {"clip.logit_scale", "clip.logit_bias"}
    ran: list[nn.Module] = []
    tokens, size = ours.tokenize(TEXTS), ARCHITECTURES[name]["vision_cfg"]["image_size"]
    blocks = [*ours.blocks("image"), *ours.blocks("text")]
    assert len(blocks) >= 2
    hooks = [block.register_forward_hook(lambda module, *_: ran.append(module)) for block in blocks]
    ours.encode_image(images(size))
    ours.encode_text(tokens)
    for hook in hooks:
        hook.remove()
    assert ran == blocks


def test_a_training_step_moves_what_is_not_frozen_and_nothing_else() -> None:
    torch.manual_seed(0)
    model = load("openclip[architecture=urbancross-s,freeze=[visual.*, text.token_embedding.*]]").train()
    before = state_of(model)
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    (model.encode_image(images(64)) @ model.encode_text(model.tokenize(TEXTS)).T).square().sum().backward()
    optimiser.step()
    after = state_of(model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    # Its running statistics too stay: batch normalisation is part of the frozen tower.
    assert any("running_mean" in name for name in before)
    assert not [name for name in moved if name.startswith(("clip.visual.", "clip.text.token_embedding."))]
    assert {"clip.text.positional_embedding", "clip.text.text_projection"} <= moved
    assert model.clip.text.training
    assert load("openclip[architecture=urbancross-s]").train().clip.visual.bn1.training


def test_freezing_is_part_of_the_identity_and_a_pattern_without_match_an_error() -> None:
    plain, frozen = (resolve(f"openclip[architecture={TINY}{more}]") for more in ("", ",freeze=visual.*"))
    assert plain.identity() != frozen.identity()
    assert frozen.identity()["options"]["freeze"] == ["visual.*"]
    assert resolve(f'openclip[architecture={TINY},freeze="visual.*"]').identity() == frozen.identity()
    with pytest.raises(UsageError, match=r"no parameter matches 'visal\.proj'; the nearest is \"visual\.proj\""):
        load(f"openclip[architecture={TINY},freeze=visal.proj]")


def test_untrained_weights_follow_the_seed_and_say_so() -> None:
    weights = resolve(f"openclip[architecture={TINY}]").options.weights()
    assert (weights.status, weights.sha256) == ("untrained", None)
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(load(f"openclip[architecture={TINY}]").clip.visual.proj)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_a_folder_says_how_its_images_are_normalised(tmp_path: Path) -> None:
    state = state_of(theirs())
    write_local_dir(tmp_path / "a", SMALL, {"mean": [0.1, 0.2, 0.3], "interpolation": "bilinear"}, state)
    write_local_dir(tmp_path / "b", SMALL, {"std": 0.25, "size": 32}, state)
    one, two = (resolve(f"openclip[architecture=local-dir:{tmp_path / name}]") for name in "ab")
    assert one.options.image_format().interpolation == "bilinear"
    assert (one.build().load().mean, one.build().load().std) == ((0.1, 0.2, 0.3), open_clip.OPENAI_DATASET_STD)
    assert two.build().load().std == (0.25, 0.25, 0.25)
    assert one.options.weights().sha256 == two.options.weights().sha256
    assert one.identity() != two.identity()
    named = resolve(f"openclip[architecture=local-dir:{tmp_path / 'a'},normalisation=imagenet]")
    assert (named.build().load().mean, named.build().load().std) == (
        open_clip.constants.IMAGENET_MEAN,
        open_clip.constants.IMAGENET_STD,
    )
    assert named.options.image_format() == one.options.image_format()
    assert named.identity()["options"]["preprocessing"]["mean"] == [0.485, 0.456, 0.406]
    resized = resolve(f"openclip[architecture=local-dir:{tmp_path / 'a'},interpolation=bicubic]")
    assert resized.options.image_format().interpolation == "bicubic"
    assert resized.options.preprocessing.mean == one.options.preprocessing.mean
    assert resized.identity() != one.identity()


def test_a_bare_file_is_normalised_as_the_tags_of_its_architecture_say() -> None:
    for architecture, tags in _PRETRAINED.items():
        said = {of_open_clip(tag, "a tag") for tag in tags.values()}
        if len(said) == 1:
            assert of_architecture(architecture) == said.pop(), architecture
        else:
            assert architecture == "ViT-L-14"
            assert of_architecture(architecture) in said


WRONG_CONFIGS: dict[str, tuple[Any, str]] = {
    "no deviation": ({"std": [0.2, 0, 0.2]}, r"std is \[0\.2, 0, 0\.2\]; .* finite and above 0"),
    "no number": ({"std": float("nan")}, "std is nan; .* finite and above 0"),
    "to 255": ({"mean": [123.0, 116.0, 103.0]}, r"mean is \[123\.0, .* of pixels in \[0, 1\] \(divide by 255"),
    "below 0": ({"mean": [-0.1, 0.5, 0.5]}, r"mean is \[-0\.1, "),
    "a text": ({"mean": "111"}, "mean is '111', not three numbers"),
    "two": ({"mean": [0.5, 0.5]}, r"mean is \[0\.5, 0\.5\], not three numbers"),
    "misspelt": ({"Mean": [0.5] * 3}, "open_clip knows no 'Mean' in a preprocess_cfg. Did you mean \"mean\""),
    "another mode": ({"mode": "BGR"}, "images are of mode BGR; only RGB is supported"),
    "a list": (["mean"], r"preprocess_cfg is \['mean'\], no json object"),
}


@pytest.mark.parametrize("name", WRONG_CONFIGS)
def test_a_config_that_cannot_be_right_is_told_with_its_file(name: str, tmp_path: Path) -> None:
    content, told = WRONG_CONFIGS[name]
    write_local_dir(tmp_path, SMALL, content, {"a": torch.ones(1)})
    with pytest.raises(UsageError, match=rf"{tmp_path}/open_clip_config\.json: {told}"):
        resolve(f"openclip[architecture=local-dir:{tmp_path}]").identity()


def test_all_that_open_clip_may_say_of_pixels_is_known(tmp_path: Path) -> None:
    assert set(OPEN_CLIP_KEYS) == {field.name for field in dataclasses.fields(PreprocessCfg)}
    said = dataclasses.asdict(PreprocessCfg()) | {"mean": 0, "std": None}
    write_local_dir(tmp_path, SMALL, said, {"a": torch.ones(1)})
    found = resolve(f"openclip[architecture=local-dir:{tmp_path}]").options.preprocessing
    assert (found.mean, found.std) == ((0, 0, 0), OPENAI[1])


@pytest.mark.parametrize(("size", "taken"), [([32, 32], True), ([32, 48], False), ([32], False)])
def test_a_square_may_be_written_as_two_sides(size: list[int], taken: bool, tmp_path: Path) -> None:
    cfg = config(vision_cfg=SMALL["vision_cfg"] | {"image_size": size})
    write_local_dir(tmp_path / "dir", cfg, {}, {})
    options = resolve(f"openclip[architecture=local-dir:{tmp_path / 'dir'}]").options
    if taken:
        assert options.image_format().size == 32
    else:
        with pytest.raises(UsageError, match="only squares are packed"):
            options.image_format()


def test_what_is_wrong_with_a_folder_is_told(tmp_path: Path) -> None:
    write_local_dir(tmp_path / "a", SMALL, {"interpolation": "nearest"}, state_of(theirs()))
    reference = f"openclip[architecture=local-dir:{tmp_path / 'a'}]"
    with pytest.raises(UsageError, match="images are resized by nearest; only bicubic and bilinear"):
        resolve(reference).identity()
    write_local_dir(tmp_path / "a", SMALL, {"mean": [0.5, 0.5]}, {"x": torch.ones(1)})
    with pytest.raises(UsageError, match=r"mean is \[0.5, 0.5\], not three numbers"):
        resolve(reference).identity()
    (tmp_path / "a" / "open_clip_model.safetensors").rename(tmp_path / "a" / "one.pt")
    assert resolve(reference).options.weight_files == [tmp_path / "a" / "one.pt"]
    shutil.copyfile(tmp_path / "a" / "one.pt", tmp_path / "a" / "two.pt")
    with pytest.raises(UsageError, match=r"holds several weights: one.pt, two.pt; name one with checkpoint"):
        resolve(reference).options.weights()
    named = resolve(reference.replace("]", f",checkpoint={tmp_path / 'a' / 'two.pt'}]"))
    assert named.options.weights().source == "two.pt"
    (tmp_path / "a" / "one.pt").unlink()
    (tmp_path / "a" / "two.pt").unlink()
    with pytest.raises(UsageError, match="holds no weights"):
        resolve(reference).options.weights()
    (tmp_path / "a" / "open_clip_config.json").write_text('{"model_cfg": {"embed_dim": 16}}')
    with pytest.raises(UsageError, match=r"open_clip_config\.json describes no open_clip model"):
        resolve(reference).options.image_format()
    with pytest.raises(UsageError, match=r"holds no open_clip_config\.json"):
        resolve(f"openclip[architecture=local-dir:{tmp_path}]").identity()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, for open_clip and transformers as well, which then ask no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def test_weights_of_a_tag_are_hashed_in_the_cache_and_loaded_from_it(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tag = {"hf_hub": "owner/tiny/", "quick_gelu": True, "mean": (0.1, 0.1, 0.1), "std": (1.0, 1.0, 1.0)}
    monkeypatch.setitem(_PRETRAINED, TINY, {"mine": tag})
    resolved = resolve(f"openclip[architecture={TINY},pretrained=mine]")
    with pytest.raises(
        UsageError, match=r"weights mine of urbancross-tiny: owner/tiny is not in the cache .*OFFLINE"
    ):
        resolved.identity()
    other = theirs()
    torch.save(state_of(other), cached(hub, "owner/tiny") / "open_clip_pytorch_model.bin")
    resolved = resolve(f"openclip[architecture={TINY},pretrained=mine]")
    weights = resolved.options.weights()
    assert (weights.status, weights.source) == ("pretrained", "open_clip:urbancross-tiny/mine")
    assert len(weights.sha256 or "") == 64
    assert resolved.options.image_format().interpolation == "bicubic"
    model = resolved.build().load()
    assert model.mean == (0.1, 0.1, 0.1)
    assert torch.equal(model.clip.visual.proj, other.visual.proj)
    # The tag says that its weights want QuickGELU, and the architecture's name does not.
    gelus = {type(m).__name__ for m in model.modules() if "GELU" in type(m).__name__}
    assert gelus == {"QuickGELU"}


def test_a_hub_architecture_is_read_from_the_cache(hub: Path) -> None:
    reference = "openclip[architecture=hf-hub:owner/tiny]"
    with pytest.raises(UsageError, match="owner/tiny is not in the cache"):
        resolve(reference).identity()
    other = theirs()
    write_local_dir(cached(hub, "owner/tiny"), SMALL, {"std": 0.5}, state_of(other))
    model = load(reference)
    assert torch.equal(model.clip.visual.proj, other.visual.proj)
    assert model.std == (0.5, 0.5, 0.5)
    assert resolve(reference).options.weights().source == "hf-hub:owner/tiny"


def test_a_tokenizer_of_the_hub_is_part_of_the_model(hub: Path, tmp_path: Path) -> None:
    text = {**SMALL["text_cfg"], "vocab_size": 13, "hf_tokenizer_name": "owner/words", "context_length": 12}
    write_local_dir(tmp_path / "a", {**SMALL, "text_cfg": text}, {}, {"x": torch.ones(1)})
    reference = f"openclip[architecture=local-dir:{tmp_path / 'a'}]"
    with pytest.raises(UsageError, match="holds none; save owner/words's there"):
        resolve(reference).identity()
    word_tokenizer(12).save_pretrained(tmp_path / "a")
    before = resolve(reference).identity()
    open_clip.add_model_config(tmp_path / "a" / "own-words.json")
    model = theirs_from(tmp_path / "a", {**SMALL, "text_cfg": text})
    save_file(state_of(model), tmp_path / "a" / "open_clip_model.safetensors")
    tokens = load(reference).tokenize(TEXTS)
    assert tokens.shape == (3, 12)
    assert tokens[0].tolist() == [11, 2, 3, 4, 12, 0, 0, 0, 0, 0, 0, 0]
    content = json.loads((tmp_path / "a" / "tokenizer.json").read_text())
    content["model"]["vocab"] |= {"red": 4, "roof": 3}
    (tmp_path / "a" / "tokenizer.json").write_text(json.dumps(content))
    after = resolve(reference).identity()
    assert before["options"]["tokenizer"] != after["options"]["tokenizer"]


@pytest.mark.parametrize("beside", [None, {"model_type": "clip"}], ids=["no config", "a config of CLIP"])
@torch.inference_mode()
def test_a_text_tower_of_the_hub_is_described_where_its_name_leads(
    hub: Path, beside: dict[str, str] | None
) -> None:
    own, tower = cached(hub, "owner/tiny"), cached(hub, "owner/bert")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertConfig(vocab_size=16, pad_token_id=0, max_position_embeddings=20, **sizes).save_pretrained(tower)
    text = {
        **{"hf_model_name": "owner/bert", "hf_tokenizer_name": "owner/bert", "context_length": 12},
        **{"hf_proj_type": "mlp", "hf_pooler_type": "mean_pooler"},
    }
    cfg = {**SMALL, "text_cfg": text}
    (own / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg, "preprocess_cfg": {}}))
    if beside is not None:
        (own / "config.json").write_text(json.dumps(beside))
    for folder in (own, tower):
        word_tokenizer(12).save_pretrained(folder)
    name = "hf-hub:owner/tiny"
    torch.manual_seed(1)
    random = open_clip.create_model(name, load_weights=False, pretrained_text=False)
    torch.save(random.state_dict(), own / "open_clip_pytorch_model.bin")
    ours, other = load(f"openclip[architecture={name}]").train(False), open_clip.create_model(name).eval()
    tokens = ours.tokenize(TEXTS)
    assert torch.equal(tokens, open_clip.get_tokenizer(name)(TEXTS))
    assert difference(ours.encode_text(tokens), other.encode_text(tokens, normalize=False)) == 0
    before = resolve(f"openclip[architecture={name}]").identity()
    config = json.loads((tower / "config.json").read_text())
    (tower / "config.json").write_text(json.dumps(config | {"num_attention_heads": 4}))
    assert resolve(f"openclip[architecture={name}]").identity() != before


def test_the_config_of_a_text_tower_is_part_of_the_model(tmp_path: Path) -> None:
    """Its heads, say, show in no tensor's shape."""
    text = {"hf_model_name": "owner/bert", "hf_tokenizer_name": "owner/bert", "context_length": 12}
    write_local_dir(tmp_path / "a", {**SMALL, "text_cfg": text}, {}, {"x": torch.ones(1)})
    word_tokenizer(12).save_pretrained(tmp_path / "a")
    reference, file = f"openclip[architecture=local-dir:{tmp_path / 'a'}]", tmp_path / "a" / "config.json"
    found = []
    for said in (
        {"num_attention_heads": 4},
        {"num_attention_heads": 4, "transformers_version": "6"},
        {"num_attention_heads": 2},
    ):
        file.write_text(json.dumps({"model_type": "bert", "hidden_size": 32, **said}))
        found.append(resolve(reference).identity()["options"]["text_config"])
    assert found[0] == found[1] != found[2]


def theirs_from(folder: Path, cfg: dict[str, Any]) -> Any:
    (folder / "own-words.json").write_text(json.dumps(cfg))
    open_clip.add_model_config(folder / "own-words.json")
    return theirs("own-words")


def test_without_a_connection_planning_says_so_at_once(tmp_path: Path) -> None:
    """In a process of its own: the address of the hub is read when its library is imported."""
    code = """
from urbancross_bench.registry import Registry
from urbancross_bench.errors import UsageError
for reference in ("transformers[model=owner/name]", "openclip[architecture=hf-hub:owner/name]"):
    try:
        Registry.discover().resolve("encoder", reference).options.weights()
    except UsageError as error:
        print(error)
import sys
print([name for name in ("torch", "transformers", "open_clip") if name in sys.modules])
"""
    closed = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | closed,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    one, two, heavy = done.stdout.splitlines()
    assert "owner/name is not in the cache of the hub" in one
    assert "refused" in one
    assert "refused" in two
    assert heavy == "[]"
    assert "Retrying" not in done.stderr


def test_options_that_contradict_each_other_are_refused() -> None:
    for more, words in {
        "pretrained=a,checkpoint=b": "not both",
        "architecture=local-dir:a,pretrained=b": "brings its own weights",
        "normalisation=ours": "normalisation",
    }.items():
        with pytest.raises(UsageError, match=words):
            resolve(f"openclip[{more}]")
