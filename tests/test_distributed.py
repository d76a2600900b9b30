"""A batch shared by several processes: the loss and gradients of one process, and errors that end all of them."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from urbancross_bench.data.packed import PackedImages, PackedSegments, Rows
from urbancross_bench.data.views import PairView, StreamView
from urbancross_bench.errors import DiedError, RunError, UsageError
from urbancross_bench.execution import worker
from urbancross_bench.execution.stage import Stage
from urbancross_bench.interfaces import Task
from urbancross_bench.modelling.curve import DivergedError
from urbancross_bench.modelling.distributed import Ranks, run_ranks
from urbancross_bench.modelling.encoding import Encoding
from urbancross_bench.modelling.feeds import Feed
from urbancross_bench.modelling.heads import masked_mean
from urbancross_bench.modelling.inputs import encoded_segments
from urbancross_bench.modelling.losses import hinge, info_nce, reverse_gradient

CPU = torch.device("cpu")
PAIRS = 8


class Small(nn.Module):
    """Two linear towers, dropout if wanted, and segments that have a part in their image's feature."""

    width, mean, std = 6, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.tower = nn.Sequential(nn.Linear(48, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 6))
        self.fused = nn.Linear(6, 6)
        self.words = nn.Embedding(50, 6)
        self.unused = nn.Linear(2, 2)
        self.logit_scale = nn.Parameter(torch.tensor(1.5))
        self.encoded = 0

    @property
    def image_tower(self) -> nn.Module:
        return self.tower

    def encode_segment(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.tower(pixels.flatten(1))
        return features

    def encode_image(self, pixels: Tensor, *more: Tensor) -> Tensor:
        self.encoded += len(pixels)
        features = self.encode_segment(pixels)
        if not more:
            return features
        segments, present = more
        return features + self.fused(masked_mean(F.normalize(segments, dim=2), present))

    def encode_text(self, tokens: Tensor) -> Tensor:
        features: Tensor = self.words(tokens).mean(dim=1)
        return features

    def tokenize(self, texts: list[str]) -> Tensor:
        return torch.tensor([[int(text), 2 * int(text)] for text in texts])

    def text_length(self, tokens: Tensor) -> int:
        return 2


def feed(model: Any, encoding: Encoding, *, pairs: bool = True, segments: bool = False) -> Feed:
    draw = np.random.default_rng(3)
    rows, values = (draw.integers(0, 255, size=(n, 4, 4, 3)).astype(np.uint8) for n in (PAIRS, 12))
    counts = np.array([0, 0, 1, 2, 3, 1, 3, 2])
    packed = PackedSegments(Rows([values]), np.cumsum([0, *counts[:-1]]), counts, 3) if segments else None
    images, captions = PackedImages(Rows([rows]), packed), tuple(str(i + 1) for i in range(PAIRS))
    owners = np.arange(PAIRS)
    view = PairView(images, captions, owners, 0 * owners) if pairs else StreamView(images, captions[:5])
    return Feed(
        model, view, batch_size=PAIRS, augmentation=("flip",), device=CPU, seed=0, hidden="", encoding=encoding
    )


def pair_loss(model: Any, batch: Any) -> Tensor:
    return info_nce(batch.image_features, batch.text_features, model.logit_scale.exp())


def contrastive(model: Any, encoding: Encoding, own: nn.Module) -> Tensor:
    return pair_loss(model, feed(model, encoding).batch(0))


def hinged(model: Any, encoding: Encoding, own: nn.Module) -> Tensor:
    """Of a batch that does not divide; texts are cut down to as many images."""
    batch = feed(model, encoding).batch(1).rows(torch.tensor([0, 1, 2, 4, 7]))
    return hinge(batch.image_features, batch.text_features)


def adversarial(model: Any, encoding: Encoding, own: nn.Module) -> Tensor:
    """A discriminator of its own behind reversed gradients, over source and target, and a penalty on weights."""
    source, target = feed(model, encoding).batch(2), feed(model, encoding, pairs=False).batch(0)
    both = torch.cat([source.image_features, target.image_features, source.text_features, target.text_features])
    labels = torch.cat([torch.zeros(8), torch.ones(8), torch.zeros(8), torch.ones(5)])
    told: Tensor = own(reverse_gradient(both, 0.7))[:, 0]
    penalty = model.tower[0].weight.square().mean()
    return pair_loss(model, source) + F.binary_cross_entropy_with_logits(told, labels) + penalty


def segmented(model: Any, encoding: Encoding, own: nn.Module) -> Tensor:
    """Features of segments, in features of images and by themselves."""
    batch = feed(model, encoding, segments=True).batch(3)
    return pair_loss(model, batch) + hinge(batch.segment_features, batch.text_features)


def one_row(model: Any, encoding: Encoding, own: nn.Module) -> Tensor:
    """Fewer rows than processes."""
    batch = feed(model, encoding).batch(0).rows(torch.tensor([3]))
    return (batch.image_features * batch.text_features).sum()


def pooled(model: Any, encoding: Encoding, own: nn.Module) -> Tensor:
    """A pass over all there is, in which every process runs every layer on every row."""
    return torch.stack([pair_loss(model, batch) for batch in feed(model, encoding).pool.batches()]).sum()


LOSSES = (contrastive, hinged, adversarial, segmented, one_row, pooled)


def measured(loss: Callable[..., Tensor], ranks: Ranks, micro_batch: int | None) -> dict[str, Any]:
    """The loss and all gradients, of the model and of a discriminator; how many images were encoded."""
    torch.manual_seed(0)
    model, own = Small(), nn.Linear(6, 1)
    total = loss(model, Encoding(micro_batch, ranks), own)
    total.backward()  # type: ignore[no-untyped-call]
    both = nn.ModuleDict({"model": model, "own": own})
    ranks.average(both.parameters())
    gradients = {name: p.grad.numpy() for name, p in both.named_parameters() if p.grad is not None}
    return {"loss": total.item(), "gradients": gradients, "encoded": model.encoded}


def measure(device: torch.device, tell: Callable[[Any], None]) -> None:
    """What the processes are asked to do: all losses, then draws, then weights that go apart."""
    torch.set_num_threads(1)
    ranks = Ranks.current()
    for loss in LOSSES:
        for micro_batch in (None, 2):
            tell((loss.__name__, micro_batch, measured(loss, ranks, micro_batch)))
    tell(("draws", None, drawn(ranks)))
    model = nn.Linear(3, 2)
    torch.manual_seed(5)
    model.reset_parameters()
    ranks.check_alike(model.parameters(), [torch.ones(())])
    for name, losses in {"chosen": [torch.ones(()), torch.ones(()) + 1e-6 * ranks.rank], "apart": []}.items():
        if name == "apart":
            with torch.no_grad():
                model.weight.add_(1e-6 * ranks.rank)
        try:
            ranks.check_alike(model.parameters(), losses)
        except RunError as error:
            tell((name, None, str(error)))


def drawn(ranks: Ranks) -> dict[str, Any]:
    """What dropout does to eight equal images, and where generators stand afterwards."""
    torch.manual_seed(7)
    plain, dropping = Small(), Small(dropout=0.5)
    encoding, pixels = Encoding(None, ranks), torch.ones(PAIRS, 3, 4, 4)
    before = torch.get_rng_state()
    encoding(plain, plain.encode_image, pixels)  # type: ignore[arg-type]
    untouched = torch.equal(torch.get_rng_state(), before)
    twice = [encoding(dropping, dropping.encode_image, pixels).detach().numpy() for _ in range(2)]  # type: ignore[arg-type]
    segments, present = torch.ones(PAIRS, 2, 3, 4, 4), torch.zeros(PAIRS, 2, dtype=torch.bool)
    present[0, 1] = True  # in the first share alone
    encoding(dropping, partial(encoded_segments, dropping), segments, present)  # type: ignore[arg-type]
    own = torch.rand(1)
    [every] = ranks.gather(own[None], ranks.world).T.tolist() if ranks.world > 1 else [own.tolist()]
    return {"untouched": untouched, "features": twice, "own": every}


@pytest.fixture(scope="module")
def one() -> dict[Any, Any]:
    return {(loss.__name__, size): measured(loss, Ranks(), size) for loss in LOSSES for size in (None, 2)}


@pytest.fixture(scope="module", params=[2, 3])
def several(request: pytest.FixtureRequest) -> tuple[int, dict[Any, Any]]:
    """What the first of two processes, and of three, has told."""
    told: list[Any] = []
    run_ranks(request.param, measure, device=CPU, report=told.append)
    return request.param, {(name, size): content for name, size, content in told}


@pytest.mark.parametrize("size", [None, 2])
@pytest.mark.parametrize("name", [loss.__name__ for loss in LOSSES])
def test_several_processes_have_the_loss_and_gradients_of_one(
    name: str, size: int | None, one: dict[Any, Any], several: tuple[int, dict[Any, Any]]
) -> None:
    _, told = several
    wanted, own = one[name, None], told[name, size]
    assert own["loss"] == pytest.approx(wanted["loss"], rel=1e-5)
    assert own["gradients"].keys() == wanted["gradients"].keys()
    assert "model.unused.weight" not in own["gradients"]
    for parameter, gradient in wanted["gradients"].items():
        apart = np.abs(own["gradients"][parameter] - gradient).max()
        assert apart <= 1e-5 * max(1e-2, np.abs(gradient).max()), parameter


def test_each_process_encodes_its_share(one: dict[Any, Any], several: tuple[int, dict[Any, Any]]) -> None:
    world, told = several
    assert one["contrastive", None]["encoded"] == 8
    assert told["contrastive", None]["encoded"] == {2: 4, 3: 3}[world]
    assert told["one_row", None]["encoded"] == 1
    assert told["pooled", None]["encoded"] == 8


def test_shares_draw_apart_and_methods_alike(several: tuple[int, dict[Any, Any]]) -> None:
    world, told = several
    draws = told["draws", None]
    assert draws["untouched"]
    first, second = draws["features"]
    cut = {2: 4, 3: 3}[world]
    assert not np.allclose(first[:2], first[cut : cut + 2])  # the same mask would make these rows the same
    assert not np.allclose(first, second)
    assert len(draws["own"]) == world
    assert len({*draws["own"]}) == 1


@pytest.mark.parametrize("what", ["apart", "chosen"])
def test_weights_and_losses_that_went_apart_are_noticed(what: str, several: tuple[int, dict[Any, Any]]) -> None:
    assert "the weights or losses of process 1 are no longer those of process 0" in several[1][what, None]


@pytest.mark.parametrize(("count", "world"), [(8, 3), (5, 2), (3, 3), (100, 7)])
def test_shares_are_all_rows_once_and_as_equal_as_can_be(count: int, world: int) -> None:
    shares = [list(range(count))[Ranks(rank, world).rows(count)] for rank in range(world)]
    assert [row for share in shares for row in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def fail(device: torch.device, tell: Callable[[Any], None], how: str) -> None:
    """The last process fails while the other waits for it."""
    ranks = Ranks.current()
    if ranks.first:
        ranks.gather(torch.ones(1), 2)
    elif how == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        raise {"usage": UsageError("an option is wrong"), "other": ValueError("no")}[how]


@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        ("usage", UsageError, "^an option is wrong$"),
        ("other", ValueError, "^no$"),
        ("killed", DiedError, r"process 1 died without a word \(signal 9, Killed\)"),
    ],
)
def test_the_error_of_one_process_ends_all(how: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said) as raised:
        run_ranks(2, fail, how, device=CPU, report=print)
    if how != "killed":
        assert "process 1:\nTraceback" in str(raised.value.__cause__)


def diverge(device: torch.device, tell: Callable[[Any], None], file: Path) -> None:
    """At the same step; the first has more to do."""
    if Ranks.current().first:
        tell(sum(range(10**7)))
        file.touch()
    raise DivergedError("step 3")


def test_the_line_of_a_plugin_comes_along_with_its_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As told where there is one process alone: the traceback itself stays in the process that raised."""
    of_plugin: dict[str, Any] = {"__name__": "urbancross_adaptations.mine"}
    exec(compile("def loss(*_):\n    raise ValueError('bang')", "mine.py", "exec"), of_plugin)
    monkeypatch.setattr(worker, "do", of_plugin["loss"])
    stage = Stage("adapt", {}).to_json()
    task = Task("task", (stage,), "", "", "", "cpu")
    with pytest.raises(ValueError, match="bang") as caught:
        worker._as_rank(torch.device("cpu"), print, task, stage, tmp_path)
    come = pickle.loads(pickle.dumps(caught.value))
    assert worker._told(come, ()) == worker._told(caught.value, ()) == "ValueError: bang (mine.py:2 in loss)"


def test_of_a_training_that_diverges_the_first_process_keeps_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(DivergedError, match="step 3"):
        run_ranks(2, diverge, tmp_path / "curve", device=CPU, report=print)
    assert (tmp_path / "curve").exists()


ORPHANS = """
import os, sys, torch
from test_distributed import hang
from urbancross_bench.modelling.distributed import run_ranks
if __name__ == "__main__":
    run_ranks(1, hang, device=torch.device("cpu"), report=lambda pid: print(pid, flush=True))
"""


def hang(device: torch.device, tell: Callable[[Any], None]) -> None:
    tell(os.getpid())
    signal.pause()


def test_processes_end_when_the_one_that_started_them_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "orphans.py"
    script.write_text(ORPHANS)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.kill()
    until = time.monotonic() + 30
    while _lives(child) and time.monotonic() < until:
        os.sched_yield()
    assert not _lives(child)


def _lives(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().split()[2]
    except (FileNotFoundError, ProcessLookupError):
        return False
