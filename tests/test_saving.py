"""What is saved of a training: damaged it is not believed, and the training still ends in the same bytes."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from urbancross_bench.data.packed import PackedImages, Rows
from urbancross_bench.data.views import PairView
from urbancross_bench.interfaces import Adaptation, Batch, Options, Progress
from urbancross_bench.modelling.curve import Curve
from urbancross_bench.modelling.feeds import Feed
from urbancross_bench.modelling.loop import train
from urbancross_bench.modelling.saving import Saves
from urbancross_bench.specs import Budget

STEPS = 8
IMAGES = np.random.default_rng(0).integers(0, 255, size=(12, 4, 4, 3)).astype(np.uint8)
Kept = tuple[dict[str, bytes], Any]


class ToyModel(nn.Module):
    """Two layers, on the first pixels and on the number in a caption."""

    width, mean, std = 4, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.image_tower, self.text_tower = nn.Linear(9, 4), nn.Linear(1, 4)
        self.logit_scale = nn.Parameter(torch.ones(()))
        self.logit_bias = None

    def tokenize(self, texts: list[str]) -> Tensor:
        return torch.tensor([[1 + int(text.split()[1])] for text in texts])

    def text_length(self, tokens: Tensor) -> int:
        return tokens.shape[1]

    def encode_image(self, images: Tensor) -> Tensor:
        features: Tensor = self.image_tower(images.flatten(1)[:, :9])
        return features

    def encode_text(self, tokens: Tensor) -> Tensor:
        features: Tensor = self.text_tower(tokens.float() / 24)
        return features


class Noisy(Adaptation):
    """A method that draws from torch's own generator, and counts."""

    count = 0

    def loss(self, source: Batch, target: Batch, progress: Progress) -> dict[str, Tensor]:
        noise = torch.rand(source.image_features.shape)
        apart = source.image_features * noise - source.text_features
        return {"pairs": apart.square().mean() * (1 + self.count)}

    def after_step(self, model: Any, progress: Progress) -> None:
        self.count += 1


def trained(folder: Path, cut: int = STEPS) -> tuple[int, Kept]:
    """How many steps a training took, cut in the middle of the one after `cut`, and what it left."""
    model: Any = ToyModel()
    captions = tuple(f"text {i}" for i in range(24))
    pairs = PairView(PackedImages(Rows([IMAGES])), captions, np.repeat(np.arange(12), 2), np.zeros(12, np.int64))
    options: Any = {"augmentation": ("flip",), "device": torch.device("cpu"), "hidden": ""}
    source, target = (Feed(model, view, batch_size=4, seed=0, **options) for view in (pairs, None))
    saves, curve, reported = Saves(folder, 0), Curve(), list[float]()

    def report(fraction: float) -> None:
        if fraction > cut / STEPS:
            raise KeyboardInterrupt
        reported.append(fraction)

    recipe = Budget(steps=STEPS, learning_rate=1e-2, batch_size=4, checkpoints=3, ema=0.5)
    steps = train(
        model, Noisy(Options()), source, target, recipe, loss_name="info_nce", precision="float32",
        device=torch.device("cpu"), candidates=3, curve=curve, report=report, on_pass=lambda _: None, saves=saves,
    )  # fmt: skip
    with contextlib.suppress(KeyboardInterrupt):
        for step in steps:
            with saves.writing(f"candidate-{step:09d}-00.safetensors") as file:
                save_file({name: value.clone() for name, value in model.state_dict().items()}, file)
    return len(reported), ({file.name: file.read_bytes() for file in folder.glob("candidate-*")}, curve.points)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """The candidates and the learning curve of the training, uninterrupted."""
    return trained(tmp_path_factory.mktemp("whole"))[1]


@pytest.fixture
def cut(tmp_path: Path) -> Path:
    """What is saved of the training when it is cut after six of its steps, with candidates at three and five."""
    trained(tmp_path / "cut", 6)
    assert [path.name for path in (tmp_path / "cut").glob("state-*")] == ["state-000000006"]
    return tmp_path / "cut"


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "halved": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "emptied": lambda file: file.write_bytes(b""),
    "removed": lambda file: file.unlink(),
    "flipped": lambda file: flip(file, file.stat().st_size // 2, 0),
    "flipped at its end": lambda file: flip(file, -1, 6),
}


def flip(file: Path, place: int, bit: int) -> None:
    """Turn one bit."""
    content = bytearray(file.read_bytes())
    content[place] ^= 1 << bit
    file.write_bytes(content)


STATE = "state-000000006/state.safetensors"
CANDIDATES = [f"candidate-{step:09d}-00.safetensors" for step in (3, 5)]


def test_a_cut_training_ends_in_the_same_bytes(cut: Path, whole: Kept) -> None:
    assert trained(cut) == (2, whole)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", [STATE, "state-000000006/state.json", "state-000000006/hashes.json", *CANDIDATES])
def test_what_is_damaged_is_not_believed(
    name: str, damage: str, cut: Path, whole: Kept, capsys: pytest.CaptureFixture[str]
) -> None:
    DAMAGES[damage](cut / name)
    assert Saves(cut, 0, writes=False).read() is None  # another rank comes to the same, and leaves it to the first
    assert (cut / "state-000000006").is_dir()
    assert capsys.readouterr().out == ""
    assert trained(cut) == (STEPS, whole)
    assert "state-000000006 is damaged" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "left"), [(STATE, 4), (CANDIDATES[1], 4), (CANDIDATES[0], 8), (None, 2)])
def test_the_state_before_is_gone_on_with(
    name: str | None, left: int, cut: Path, whole: Kept, tmp_path: Path
) -> None:
    """Two are there where a process is killed as soon as the second is; a candidate may belong to that alone."""
    both = tmp_path / "both"
    trained(both, 4)
    shutil.copytree(cut, both, dirs_exist_ok=True)
    if name:
        DAMAGES["flipped"](both / name)
    assert trained(both) == (left, whole)


def test_a_training_that_went_on_knows_the_candidates_before(cut: Path, whole: Kept) -> None:
    assert trained(cut, 7)[0] == 1
    assert [path.name for path in cut.glob("state-*")] == ["state-000000007"]
    DAMAGES["flipped"](cut / CANDIDATES[0])
    assert trained(cut) == (STEPS, whole)


def test_any_byte_of_the_hashes_may_change(cut: Path) -> None:
    """Of what a state says of itself: it is not believed, or it says the same still."""
    [read, file] = [Saves(cut, 0, writes=False).read, cut / "state-000000006" / "hashes.json"]
    good = file.read_bytes()
    assert read() is not None
    believed = []
    for place in range(len(good)):
        flip(file, place, place % 8)
        if read() is not None:
            believed.append(chr(good[place]))
        file.write_bytes(good)
    assert set(believed) <= {" "}


def test_tensors_are_saved_as_they_are_whatever_they_share(tmp_path: Path) -> None:
    one = torch.arange(12.0).reshape(3, 4)
    given = {"whole": one, "turned": one.T, "row": one[1], "spread": one[0].expand(2, 4), "half": one.bfloat16()}
    Saves(tmp_path, 0).offer(1, lambda: given)
    one += 1  # what was saved is a copy
    read = Saves(tmp_path, 0).read()
    assert read is not None
    assert read.keys() == given.keys()
    for name, value in given.items():
        assert read[name].dtype == value.dtype
        assert torch.equal(read[name] + (name != "half"), value)
    assert len(load_file(tmp_path / "state-000000001" / "state.safetensors")) == 5
