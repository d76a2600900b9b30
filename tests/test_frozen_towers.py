"""Towers that never change: run once, the same features as live ones, heads that learn on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Result
from safetensors.numpy import load_file
from safetensors.torch import save_file

from urbancross_bench.data.packed import PackedImages, Rows
from urbancross_bench.errors import UsageError
from urbancross_bench.modelling.embed import embed_images, embed_texts
from urbancross_bench.records import read_records
from urbancross_bench.registry import Registry

Cli = Callable[..., Result]
GridWriter = Callable[..., Path]
CPU = torch.device("cpu")
NO_TRAINING = {"steps": 0}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file of weights, so that towers do not depend on the seed."""
    torch.manual_seed(3)
    model = Registry.discover().resolve("encoder", "openclip[architecture=urbancross-tiny]").build().load()
    file = tmp_path / "tiny.safetensors"
    save_file({name: value.contiguous() for name, value in model.clip.state_dict().items()}, file)
    return file


def encoder(file: Path, more: str = "") -> str:
    return f"openclip[architecture=urbancross-tiny,checkpoint={file}{more}]"


def features(out: Path) -> dict[str, dict[str, np.ndarray]]:
    """Encoder → what its only run was ranked from."""
    return {
        record.spec["encoder"]["label"]: load_file(
            out / "store" / "embed" / record.scores[0].content["features"] / "features.safetensors"
        )
        for record in read_records([out])
    }


def stages(out: Path, kind: str) -> int:
    return len(list((out / "store" / kind).glob("*/stage.json")))


@pytest.mark.long
def test_untrained_frozen_towers_rank_from_the_bits_of_live_ones(
    grid: GridWriter, cli: Cli, weights: Path, tmp_path: Path
) -> None:
    file = grid(
        encoders={
            "live": encoder(weights),
            "image": encoder(weights, ",frozen_towers=image"),
            "both": encoder(weights, ",frozen_towers=[image, text],head=residual"),
        },
        scenarios=[{"source": "plain", "target": "dark"}],
        adaptations=["source_only"],
        pretraining=NO_TRAINING,
        budget=NO_TRAINING,
    )
    result = cli("run", file, "--out", tmp_path / "out")
    assert result.status == 0, result.err
    found = features(tmp_path / "out")
    assert set(found) == {"live", "image", "both"}
    for arrays in found.values():
        assert {name: value.tobytes() for name, value in arrays.items()} == {
            name: value.tobytes() for name, value in found["live"].items()
        }


def test_frozen_towers_run_once_for_all_seeds_and_methods_and_their_heads_learn(
    grid: GridWriter, cli: Cli, weights: Path, tmp_path: Path
) -> None:
    file = grid(
        encoders={"frozen": encoder(weights, ',frozen_towers="image,text",head=linear')},
        scenarios=[{"source": "plain", "target": "dark"}],
        adaptations=["source_only", "urbancross"],
        seeds=[0, 1],
    )
    out = tmp_path / "out"
    result = cli("run", file, "--out", out)
    assert result.status == 0, result.err
    # Of the source's training split, the target's, and the target's test split.
    assert stages(out, "towers") == 3
    assert stages(out, "pretrain") == 2
    for stage in (out / "store" / "adapt").iterdir():
        [state] = [load_file(candidate) for candidate in stage.glob("candidate-*.safetensors")]
        assert np.abs(state["image_head.change.weight"]).max() > 0
        assert np.abs(state["text_head.change.weight"]).max() > 0
        first = load_file(weights)
        assert all(
            (state[f"clip.{name}"] == value).all() for name, value in first.items() if name != "logit_scale"
        )
    curves = [json.loads((record.folder / "curve.json").read_text()) for record in read_records([out])]
    assert all(np.isfinite(list(point.values())).all() for curve in curves for point in curve["adapt"])


def test_a_frozen_model_without_a_head_is_not_trained(weights: Path) -> None:
    model = Registry.discover().resolve("encoder", encoder(weights, ",frozen_towers=[image, text]")).build().load()
    model.train(False)
    with pytest.raises(UsageError, match="nothing to train; take head=linear"):
        model.train()
    still = Registry.discover().resolve("encoder", encoder(weights, ",freeze=[visual.*, text.*]")).build().load()
    assert [name for name, p in still.named_parameters() if p.requires_grad] == ["clip.logit_scale"]
    with pytest.raises(UsageError, match="by frozen_towers or freeze, and there is nothing to train"):
        still.train()
    with pytest.raises(UsageError, match="head goes with frozen_towers"):
        Registry.discover().resolve("encoder", encoder(weights, ",head=linear"))
    with pytest.raises(UsageError, match="frozen_towers"):
        Registry.discover().resolve("encoder", encoder(weights, ",frozen_towers=[audio]"))


def test_bfloat16_embeds_nearly_the_same_and_leaves_the_model_alone(weights: Path) -> None:
    model = Registry.discover().resolve("encoder", encoder(weights)).build().load()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    images = PackedImages(Rows([np.random.default_rng(0).integers(0, 255, (9, 32, 32, 3), dtype=np.uint8)]))
    texts = ["a road", "a river beside a dense forest", "a road", "many planes are parked next to a long building"]
    for embedded in (
        lambda precision: embed_images(model, images, CPU, precision),
        lambda precision: embed_texts(model, texts, CPU, precision),
    ):
        plain, rounded = embedded("float32"), embedded("bfloat16")
        cosines = torch.nn.functional.cosine_similarity(plain, rounded)
        assert float(cosines.min()) > 0.99
        assert not torch.equal(plain, rounded)
        assert rounded.dtype == torch.float32
    assert torch.equal(
        embed_texts(model, texts, CPU, "bfloat16")[0], embed_texts(model, texts, CPU, "bfloat16")[2]
    )
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_what_a_grid_trained_is_loaded_again_and_says_where_it_comes_from(
    grid: GridWriter, cli: Cli, weights: Path, tmp_path: Path
) -> None:
    scenario = [{"source": "plain", "target": "dark"}]
    first = grid(encoders={"tiny": encoder(weights)}, scenarios=scenario, adaptations=["source_only"])
    assert cli("run", first, "--out", tmp_path / "one").status == 0
    [record] = read_records([tmp_path / "one"])
    [key] = record.spec["stages"]["adapt"]
    [candidate] = (tmp_path / "one" / "store" / "adapt" / key).glob("candidate-*.safetensors")
    again = grid(
        encoders={"tiny": encoder(candidate)},
        scenarios=scenario,
        adaptations=["source_only"],
        pretraining=NO_TRAINING,
        budget=NO_TRAINING,
    )
    result = cli("run", again, "--out", tmp_path / "two")
    assert result.status == 0, result.err
    [loaded] = read_records([tmp_path / "two"])
    said = loaded.spec["encoder"]["weights"]
    assert (said["status"], said["source"]) == ("trained here", f"adapt/{key}/{candidate.name}")
    one, two = (features(tmp_path / name)["tiny"] for name in ("one", "two"))
    [ours] = [value for name, value in one.items() if name.startswith("images.")]
    [theirs] = [value for name, value in two.items() if name.startswith("images.")]
    assert ours.tobytes() == theirs.tobytes()
