"""InstructBLIP through the real loaders, over small random models on disk: captions, repeats, kills, bad files."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Result, tree
from PIL import Image
from safetensors.torch import load_file, save_file

from urbancross_bench.errors import DataError, UsageError
from urbancross_bench.interfaces import Subject
from urbancross_bench.registry import Registry
from urbancross_bench.testing.fixtures.instructblip import QUERIES, write_instructblip

Cli = Callable[..., Result]
DOMAIN = "synthetic/nordia[images=40,size=32]"
TAGS = (
    "natural of water, leisure of park; surrounded by natural of wood",
    "natural of wood",
    "road of path, man",
)

# Kills the command that it serves while it is at its third batch, if asked to.
MORTAL = """
import os
from urbancross_bench.interfaces import hookimpl, register

os.environ.setdefault("URBANCROSS_MAIN", str(os.getpid()))

@hookimpl
def register_captioners():
    options = "urbancross_captioners.options:InstructBlipOptions"
    return [register("mortal", "mortal_captioner:Mortal", options=options, summary="dies once")]
"""
MORTAL_CAPTIONER = """
import os, signal
from pathlib import Path
from urbancross_captioners.instructblip import InstructBlip

class Mortal(InstructBlip):
    batches = 0

    def describe(self, subjects):
        self.batches += 1
        order = Path(__file__).with_name("kill")
        if self.batches == 3 and order.exists():
            order.unlink()
            os.kill(int(os.environ["URBANCROSS_MAIN"]), signal.SIGKILL)
        return super().describe(subjects)
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("instructblip")
    return {language: write_instructblip(folder / language, language=language) for language in ("t5", "llama")}


@pytest.fixture
def model(models: dict[str, Path], tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    for name, content in tree(models["t5"]).items():
        file = tmp_path / "model" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return tmp_path / "model"


def captioner(folder: Path, **options: object) -> Any:
    said = ",".join(f"{name}={json.dumps(value)}" for name, value in {"max_new_tokens": 8, **options}.items())
    return Registry.discover().resolve("captioner", f"instructblip[model={folder},{said}]").build()


def subjects(count: int = 6) -> list[Subject]:
    def pixels(number: int) -> Any:
        return np.random.default_rng(number).integers(0, 256, (20, 20, 3)).astype(np.uint8)

    return [Subject(f"{n}.png", TAGS[n % 3], n, pixels(n)) for n in range(count)]


# --- what it writes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["t5", "llama"])
@pytest.mark.parametrize("beams", [1, 3])
def test_captions_are_what_the_model_writes_alone(models: dict[str, Path], language: str, beams: int) -> None:
    """Against transformers called by hand, an image at a time and without any padding: neither the batch nor the
    side that is padded shows in float32, and no prompt is repeated."""
    import torch
    from transformers import InstructBlipForConditionalGeneration, InstructBlipProcessor

    made = captioner(models[language], num_beams=beams)
    made.load("cpu")
    processor: Any = InstructBlipProcessor.from_pretrained(models[language])
    plain: Any = InstructBlipForConditionalGeneration.from_pretrained(models[language])
    alone = []
    for subject in subjects():
        prompt = (
            "Please give a comprehensive and detailed description of the satellite image and its geographical "
            f"tags: {subject.tags}."
        )
        inputs = processor(images=Image.fromarray(subject.pixels), text=prompt, return_tensors="pt")
        with torch.no_grad():
            tokens = plain.generate(**inputs, max_new_tokens=8, num_beams=beams, do_sample=False)
        new = tokens[0] if language == "t5" else tokens[0, inputs["input_ids"].shape[1] :]
        alone.append(processor.tokenizer.decode(new, skip_special_tokens=True))
    assert made.describe(subjects()) == alone
    assert len(set(alone)) > 1
    assert all(alone)


def test_sampling_repeats_with_torch_s_seed_and_precision_is_the_model_s(
    models: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    made = captioner(models["t5"], do_sample=True, num_beams=1, temperature=1.5, precision="bfloat16")
    made.load("cpu")
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        drawn.append(made.describe(subjects()))
    assert drawn[0] == drawn[1] != drawn[2]
    assert {parameter.dtype for parameter in made._model.parameters()} == {torch.bfloat16}
    said = dict[str, Any]()
    monkeypatch.setattr(
        made._model, "generate", lambda **given: said.update(given) or torch.zeros(1, 1, dtype=int)
    )
    made.describe(subjects(1))
    assert (said["top_k"], said["top_p"], said["temperature"]) == (
        0,
        1.0,
        1.5,
    )  # of all words, not of the likeliest


def test_prompts_that_cannot_be_are_refused(models: dict[str, Path]) -> None:
    made = captioner(models["t5"])
    made.load("cpu")
    one = subjects(1)[0]
    for tags, expected in (
        ("", "no tags"),
        ("water <image> wood", "stands for the image"),
        ("water " * 60, "takes 64"),
    ):
        with pytest.raises(DataError, match=expected) as error:
            made.describe([Subject("x.png", tags, 0, one.pixels)])
        assert "'x.png'" in str(error.value)
    tagless = captioner(models["t5"], prompt="description of the {{image}}")
    tagless.load("cpu")
    assert tagless.describe([Subject("x.png", "", 0, one.pixels)]) != []


# --- the command ------------------------------------------------------------------------------------------------


@pytest.mark.long
def test_killed_and_resumed_the_bytes_are_the_same(
    cli: Cli, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mortal.py").write_text(MORTAL)
    (tmp_path / "mortal_captioner.py").write_text(MORTAL_CAPTIONER)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}  # before URBANCROSS_MAIN is set
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("URBANCROSS_MAIN", "none")
    command = ["data", "caption", DOMAIN, "--device", "cpu", "--plugin", str(tmp_path / "mortal.py")]
    command += ["--captioner", f"mortal[model={models['t5']},max_new_tokens=6,num_beams=2]", "--out"]
    whole = cli(*command, tmp_path / "whole.csv")
    assert whole.status == 0, whole.err
    (tmp_path / "kill").touch()
    module = [sys.executable, "-m", "urbancross_bench", *command, str(tmp_path / "killed.csv")]
    assert subprocess.run(module, capture_output=True, check=False, env=environment).returncode == -9
    assert not (tmp_path / "killed.csv").exists()
    finished = {*(tmp_path / "killed.csv.partial" / ".partial").glob("*.json")}
    assert 0 < len(finished) < 5
    done = subprocess.run(module, capture_output=True, check=False, env=environment, text=True)
    assert done.returncode == 0, done.stderr
    assert "captions: 16 of 40" in done.stderr
    assert "leaked" not in done.stderr  # its processes end as Python wants them to
    for suffix in (".csv", ".csv.json"):
        assert (tmp_path / f"killed{suffix}").read_bytes() == (tmp_path / f"whole{suffix}").read_bytes()
    assert not (tmp_path / "killed.csv.partial").exists()
    with (tmp_path / "whole.csv").open(newline="") as stream:
        assert len({row[1] for row in csv.reader(stream)}) > 10
    record = json.loads((tmp_path / "whole.csv.json").read_text())
    weights = hashlib.sha256((models["t5"] / "model.safetensors").read_bytes()).hexdigest()
    assert record["weights"] == {"status": "pretrained", "source": "t5", "sha256": weights, "partial": False}
    said = record["captioner"]["options"]
    assert (said["num_beams"], said["precision"], said["files"]["model.safetensors"]) == (2, "float32", weights)
    assert "geographical tags: {tags}." in said["prompt"]


# --- files that are not what they should be ---------------------------------------------------------------------


def change_json(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def to_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({}))


def to_shards(folder: Path, *, lose: bool = False) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for part, members in parts.items():
        save_file({name: tensors[name].clone() for name in members}, folder / part, {"format": "pt"})
    where = {name: part for part, members in parts.items() for name in members}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    if lose:
        (folder / "model-2.safetensors").unlink()


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json cannot be read"),
        (lambda f: (f / "config.json").write_text("{"), "config.json cannot be read"),
        (lambda f: (f / "config.json").write_text("[" * 200_000), "config.json cannot be read"),
        (lambda f: change_json(f / "config.json", model_type="blip-2"), "type 'blip-2', not 'instructblip'"),
        (lambda f: (f / "model.safetensors").unlink(), "holds no weights"),
        (to_pickle, "pickle alone (pytorch_model.bin)"),
        (lambda f: to_shards(f, lose=True), "model-2.safetensors is missing"),
        (lambda f: (to_shards(f), (f / "model.safetensors.index.json").write_text("{}")), "has no weight_map"),
        (lambda f: (f / "processor_config.json").unlink(), "no processor_config.json"),
        (lambda f: (f / "tokenizer.json").unlink(), "holds no tokenizer"),
        (lambda f: (f / "qformer_tokenizer" / "tokenizer.json").unlink(), "qformer_tokenizer holds no tokenizer"),
    ],
)
def test_missing_files_are_named_at_once(
    cli: Cli, model: Path, tmp_path: Path, damage: Callable[[Path], object], expected: str
) -> None:
    damage(model)
    result = cli(
        "data", "caption", DOMAIN, "--captioner", f"instructblip[model={model}]", "--out", tmp_path / "a.csv"
    )
    assert (result.status, expected in result.err) == (2, True), result.err
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("model=nowhere", "there is no folder"),
        ("model=/no/where/at/all", "there is no folder"),
        ("model=Salesforce/instructblip-flan-t5-xl", "hf download Salesforce/instructblip-flan-t5-xl` first"),
        ("model=Salesforce/x,revision=abc", "hf download Salesforce/x --revision abc"),
    ],
)
def test_models_that_are_not_here_are_an_error_at_once(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str, expected: str
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")  # whatever the environment says, nothing is fetched
    result = cli("data", "caption", DOMAIN, "--captioner", f"instructblip[{options}]", "--out", tmp_path / "a.csv")
    assert (result.status, expected in result.err) == (2, True), result.err


def lose_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["query_tokens"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def add_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(
        {**tensors, "extra": tensors["query_tokens"].clone()}, folder / "model.safetensors", {"format": "pt"}
    )


def spoil_tensor(value: float) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        tensors["query_tokens"].flatten()[3] = value
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return spoil


def quantise_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["query_tokens"] = tensors["query_tokens"].char()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def prepared(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "processor_config.json"
        said = json.loads(file.read_text())
        said["image_processor"] |= changes
        file.write_text(json.dumps(said))

    return change


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (
            lambda f: change_json(f / "processor_config.json", num_query_tokens=9),
            f"num_query_tokens 9, .* {QUERIES}",
        ),
        (lambda f: change_json(f / "config.json", image_token_index=3), "image_token_index 7, .* 3"),
        (lose_tensor, "lack 1 tensors, .*query_tokens"),
        (add_tensor, "hold surplus 1 tensors, extra"),
        (
            lambda f: change_json(f / "config.json", num_query_tokens=5),
            "another shape for 1 tensors, .*query_tokens",
        ),
        (spoil_tensor(float("nan")), "query_tokens in .* has values that are no numbers"),
        (spoil_tensor(float("inf")), "query_tokens in .* has values that are no numbers"),
        (quantise_tensor, r"query_tokens in .*model\.safetensors is of I8"),
        (prepared(image_std=[0, 0, 0]), "image_std is .*; pixels are divided by it"),
        (prepared(image_mean=[122, 116, 104]), "image_mean is .*; it is a mean of pixels in"),
        (prepared(rescale_factor=1.0), "pixels are scaled by 1"),
        (prepared(do_rescale=False), "pixels are scaled by 1"),
        (prepared(size={"height": 32, "width": 32}), "images become .*32.*, and the model takes 16×16"),
        (prepared(size={"shortest_edge": 16}), "images become .*, and the model takes 16×16"),
        (prepared(do_resize=False), "images become .*, and the model takes 16×16"),
        (lambda f: cut(f / "model.safetensors"), "cannot load"),
        (lambda f: (f / "tokenizer.json").write_text("{}"), "cannot load"),
    ],
)
def test_files_that_do_not_fit_together_are_refused(
    model: Path, damage: Callable[[Path], object], expected: str
) -> None:
    damage(model)
    with pytest.raises(UsageError, match=expected) as error:
        captioner(model).load("cpu")
    assert str(model) in str(error.value)


def test_shards_are_all_hashed_and_give_the_same_captions(models: dict[str, Path], model: Path) -> None:
    whole, sharded = captioner(models["t5"]), captioner(model)
    to_shards(model)
    shards = ("model-1.safetensors", "model-2.safetensors")
    before = sharded.options.identity()["files"]
    # Whatever turns pixels into tokens and those into words.
    assert {"torch", "torchvision", "transformers", "tokenizers"} <= sharded.options.identity()["libraries"].keys()
    assert {name: before[name] for name in shards} == {
        name: hashlib.sha256((model / name).read_bytes()).hexdigest() for name in shards
    }
    whole.load("cpu")
    sharded.load("cpu")
    assert whole.describe(subjects()) == sharded.describe(subjects())
    digest = sharded.options.weights().sha256
    tensors = load_file(model / shards[1])
    save_file({name: tensor + 1 for name, tensor in tensors.items()}, model / shards[1], {"format": "pt"})
    assert captioner(model).options.weights().sha256 != digest


def test_a_name_on_the_hub_is_found_in_the_cache(
    models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    repository = tmp_path / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("c0ffee")
    for name, content in tree(models["t5"]).items():
        file = repository / "snapshots" / "c0ffee" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    named = captioner(Path("someone/tiny"))
    assert named.options.weights().source == "hub:someone/tiny@c0ffee"
    assert named.options.weights().sha256 == captioner(models["t5"]).options.weights().sha256
    assert named.options.identity() == captioner(models["t5"]).options.identity()
