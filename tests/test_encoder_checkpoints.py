"""Files of weights: every published layout is read, every fault has its own words, nothing is run unasked."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Result, write_karpathy
from encoder_files import TINY, layouts, load, resolve, state_of, theirs, under
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from urbancross_bench.errors import RunError, UsageError
from urbancross_bench.execution.specification import Specification
from urbancross_bench.interfaces import Weights
from urbancross_bench.leaderboard.marks import marks_of
from urbancross_bench.leaderboard.rows import make_rows
from urbancross_bench.modelling import formats
from urbancross_bench.modelling.checkpoints import fitting, freeze, read_checkpoint, save_weights
from urbancross_bench.modelling.origins import Origin, origin_of, short
from urbancross_bench.records import read_records
from urbancross_bench.registry import Registry
from urbancross_bench.specs import Scenario
from urbancross_encoders.options import OWN_ARCHITECTURES
from urbancross_encoders.preprocessing import IMAGENET, OPENAI

STATE = state_of(theirs())
CLOSED = """
from urbancross_bench.interfaces import Adaptation, hookimpl, register


@hookimpl
def register_adaptations():
    said = {"setting": "unsupervised", "summary": "x"}
    return [register("closed", "closed:Closed", **said), register("idle", "closed:Idle", **said)]


class Closed(Adaptation):
    def prepare(self, model, context):
        super().prepare(model, context)
        model.logit_scale.data += 1


class Idle(Adaptation):
    pass
"""
REFERENCE = "openclip[architecture=urbancross-tiny,checkpoint=w.pt]"


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the reference's weights lie; nothing yet."""
    monkeypatch.setenv("URBANCROSS_DATA", str(tmp_path))
    return tmp_path / "w.pt"


def loaded(reference: str = REFERENCE) -> dict[str, Tensor]:
    """What the real loader made of the file, by the names of open_clip's own model."""
    state: dict[str, Tensor] = load(reference).clip.state_dict()
    return {name.removeprefix("text."): value for name, value in state.items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("name", layouts(STATE))
@pytest.mark.parametrize("zipped", [True, False])
def test_every_published_layout_loads_into_the_same_model(name: str, zipped: bool, file: Path) -> None:
    content, layout = layouts(STATE)[name]
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    read = read_checkpoint(file)
    assert read.layout == layout
    assert same(read.state, STATE)
    assert (read.segment_state is not None) == ("clip_img_seg." in layout)
    assert same(loaded(), STATE)


def test_a_segment_tower_is_read_apart_and_its_absence_from_the_model_told(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save(layouts(STATE)["urbancross, parallel"][0], file)
    read = read_checkpoint(file)
    assert read.segment_state is not None
    assert same(read.segment_state, {"visual.proj": torch.ones(2)})
    load(REFERENCE)
    assert "w.pt: 1 tensors of a segment tower are left out" in capsys.readouterr().out


def test_what_else_a_released_checkpoint_holds_is_surplus_under_its_full_name(file: Path) -> None:
    torch.save({"model": under("clip_model.", STATE) | {"discriminator.weight": torch.ones(2)}}, file)
    with pytest.raises(UsageError, match=r"1 surplus \(discriminator\.weight\)"):
        load(REFERENCE)
    assert same(loaded(REFERENCE.replace("]", ",allow_surplus=discriminator.*]")), STATE)


def test_a_tensor_of_the_model_that_stands_twice_is_refused(file: Path) -> None:
    torch.save({"model": under("clip_model.", STATE) | {"visual.proj": torch.zeros(2)}}, file)
    with pytest.raises(UsageError, match=r"w\.pt holds both 'clip_model\.visual\.proj' and 'visual\.proj'"):
        load(REFERENCE.replace("]", ",allow_surplus=visual.proj]"))


def test_safetensors_is_known_by_content_whatever_the_suffix(file: Path) -> None:
    save_file(STATE, file)
    assert same(loaded(), STATE)


def test_half_precision_weights_are_held_in_single(file: Path) -> None:
    torch.save({name: value.half() for name, value in STATE.items()}, file)
    found = loaded()
    assert {value.dtype for value in found.values()} == {torch.float32}
    assert all(torch.equal(found[name], value.half().float()) for name, value in STATE.items())


def test_a_best_score_of_numpy_is_no_reason_to_refuse(file: Path) -> None:
    best = {"best": np.float64(71.5), "epoch": np.int64(3), "loss": np.float32(0.1)}
    torch.save({"model": under("module.", STATE), **best}, file)
    assert same(loaded(), STATE)


class Harmful:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self._trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._trace),)


@pytest.mark.parametrize("way", ["torch", "torch, old", "pickle"])
def test_a_pickle_runs_nothing_unless_told_to(way: str, file: Path) -> None:
    trace = file.with_name("trace")
    content = {"state_dict": STATE, "config": Harmful(trace)}
    if way == "pickle":
        file.write_bytes(pickle.dumps(content, protocol=2))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=way == "torch")
    with pytest.raises(UsageError, match=r"w\.pt is a pickle that may run code when opened .*unsafe_pickle=true"):
        load(REFERENCE)
    assert not trace.exists()
    if way != "pickle":
        assert same(loaded(REFERENCE.replace("]", ",unsafe_pickle=true]")), STATE)
        assert trace.exists()


@pytest.mark.filterwarnings("ignore:.torch.jit")
def test_torchscript_needs_consent_too(file: Path) -> None:
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(str(file))
    with pytest.raises(UsageError, match=r"w\.pt is a TorchScript archive.*unsafe_pickle=true"):
        read_checkpoint(file)
    assert read_checkpoint(file, unsafe_pickle=True).state.keys() == {"weight", "bias"}


TWICE: dict[str, tuple[dict[str, Any], str]] = {
    "two wrappers": ({"state_dict": STATE, "model": {**STATE}}, "'state_dict' and 'model'"),
    "running means": ({"model": STATE, "model_ema": {**STATE}}, "'model' and 'model_ema'"),
    "running means below": (
        {"model": STATE, "ema": {"module": under("module.", STATE)}},
        "'model' and 'ema.module'",
    ),
    "a momentum encoder": (
        {"state_dict": STATE, "momentum_encoder": {n: v + 1 for n, v in STATE.items()}},
        "'state_dict' and 'momentum_encoder'",
    ),
    "means of a callback": (
        {"state_dict": STATE, "callbacks": {"EMA": {"average": {n: v + 1 for n, v in STATE.items()}}}},
        "'state_dict' and 'callbacks.EMA.average'",
    ),
}


@pytest.mark.parametrize("name", TWICE)
def test_weights_that_stand_twice_in_a_file_are_refused(name: str, file: Path) -> None:
    content, told = TWICE[name]
    torch.save(content, file)
    with pytest.raises(UsageError, match=rf"{file} holds weights under both {told}; save those that are meant"):
        load(REFERENCE)


@pytest.mark.parametrize(
    "beside",
    [
        {"optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}}},
        {"critic": {"w": torch.ones(2)}},
        {"critic": {next(iter(STATE)): torch.ones(3), "w": torch.ones(2)}},
        {"optimizer": {"state": {"exp_avg": {name: torch.zeros_like(value) for name, value in STATE.items()}}}},
        {"grads": {name: torch.zeros_like(value) for name, value in STATE.items()}},
    ],
)
def test_what_else_a_training_saved_is_passed_over(beside: dict[str, Any], file: Path) -> None:
    torch.save({"model": STATE, "epoch": 2, **beside}, file)
    assert same(loaded(), STATE)


def test_a_prefix_of_somebodys_own_module_is_told(file: Path) -> None:
    torch.save({"state_dict": under("net.clip.", STATE)}, file)
    with pytest.raises(
        UsageError, match=r"none of its .* all its names start with 'net\.clip\.', .*save them without"
    ):
        load(REFERENCE)


def test_a_folder_is_no_checkpoint(file: Path) -> None:
    file.mkdir()
    with pytest.raises(UsageError, match=rf"checkpoint {file} is a folder; .*architecture=local-dir:w\.pt"):
        resolve(REFERENCE).identity()


def torch_bytes(content: object, file: Path, *, zipped: bool = True) -> bytes:
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.read_bytes()


FAULTS = {
    "empty": "is empty",
    "a page": "is a web page, not weights",
    "a pointer": "is a Git LFS pointer",
    "text": "is neither safetensors nor a file of torch.save",
    "half a zip": "is damaged or cut short",
    "a hole": r"is damaged: its member w/data/\d+ is not what was saved; fetch it again",
    "half an old file": "is damaged, cut short, or not weights",
    "half a safetensors": "is damaged or cut short",
    "a header alone": "is damaged or cut short",
    "numpy": "is a zip of numpy arrays",
    "a list": "holds a list, not named tensors",
    "a tensor": "holds a Tensor, not named tensors",
    "no state": "holds no state dict: epoch, optimizer",
    "nothing": "holds no state dict: it is empty",
}


def faulty(fault: str, file: Path) -> bytes:
    """What a file holds instead of weights."""
    match fault:
        case "half a zip":
            return torch_bytes(STATE, file)[:9000]
        case "a hole":
            content = bytearray(torch_bytes(STATE, file))
            content[len(content) // 3 : len(content) // 3 + 20000] = bytes(20000)
            return bytes(content)
        case "half an old file":
            return torch_bytes(STATE, file, zipped=False)[:9000]
        case "half a safetensors" | "a header alone":
            save_file(STATE, file)
            return file.read_bytes()[: 9000 if fault.startswith("half") else 40]
        case "numpy":
            np.savez(file.with_suffix(".npz"), a=np.ones(2))
            return file.with_suffix(".npz").read_bytes()
    plain = {
        "empty": b"",
        "a page": b"\n<!DOCTYPE html><html><body>Quota exceeded</body></html>",
        "a pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "text": b"hello, these are weights",
    }
    pickled: dict[str, object] = {
        "a list": [torch.ones(2)],
        "a tensor": torch.ones(2),
        "no state": {"epoch": 3, "optimizer": {}},
        "nothing": {},
    }
    return plain[fault] if fault in plain else torch_bytes(pickled[fault], file)


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_of_a_file_has_its_own_words(fault: str, file: Path) -> None:
    file.write_bytes(faulty(fault, file))
    with pytest.raises(UsageError, match=FAULTS[fault]) as caught:
        load(REFERENCE)
    assert str(file) in str(caught.value)


ASKING_TORCH = {"half an old file", "a list", "a tensor", "no state", "nothing"}


@pytest.mark.parametrize("fault", sorted(FAULTS.keys() - ASKING_TORCH))
def test_what_torch_need_not_be_asked_is_told_when_planning(fault: str, file: Path) -> None:
    file.write_bytes(faulty(fault, file))
    with pytest.raises(UsageError, match=FAULTS[fault]) as caught:
        resolve(REFERENCE).options.weights()
    assert str(file) in str(caught.value)


def test_a_plan_ends_at_a_file_that_is_no_weights_without_torch(
    file: Path, grid: Callable[..., Path], tmp_path: Path
) -> None:
    torn = "openclip[architecture=urbancross-tiny,checkpoint=torn.safetensors]"
    towerless = "sam_fused[architecture=urbancross-tiny,checkpoint=whole.safetensors,tower=checkpoint]"
    absent = "openclip[architecture=urbancross-tiny,checkpoint=absent.safetensors]"
    save_file(STATE, tmp_path / "whole.safetensors")
    (tmp_path / "torn.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-1])
    sound = "openclip[architecture=urbancross-tiny,checkpoint=whole.safetensors]"
    grids = [str(grid(encoders={"one": encoder})) for encoder in (sound, torn, towerless, absent)]
    code = f"""
import sys
sys.modules["torch"] = None
from urbancross_bench.cli.app import main
for grid in {grids}:
    sys.argv = ["urbancross-bench", "plan", grid, "--out", {str(tmp_path / "out")!r}]
    try:
        main()
        status = 0
    except SystemExit as stop:
        status = stop.code or 0
    print("STATUS", status, file=sys.stderr, flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said = [" ".join(part.split()) for part in done.stderr.split("STATUS")]
    assert [part[:1] for part in said[1:]] == ["0", "2", "2", "2"], done.stderr
    assert re.search(r"torn\.safetensors is damaged or cut short: .*; fetch it again", said[1])
    assert "whole.safetensors: it holds none, no tensor whose name starts with clip_img_seg." in said[2]
    assert "absent.safetensors does not exist" in said[3]
    assert not (tmp_path / "out" / "store").exists()


def test_flipped_bytes_are_no_weights(file: Path) -> None:
    content = bytearray(torch_bytes(STATE, file))
    content[100:160] = b"x" * 60
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"w\.pt is"):
        load(REFERENCE)


def test_a_file_is_looked_through_once_unless_it_changes(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.save(STATE, file)
    times, testzip = [], zipfile.ZipFile.testzip
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda archive: times.append(1) or testzip(archive))
    monkeypatch.setattr(formats, "signature", lambda path: f"{path.stat().st_mtime_ns}")
    for _ in range(2):
        resolve(REFERENCE).options.weights()
        read_checkpoint(file)
    assert len(times) == 1
    file.write_bytes(faulty("a hole", file))
    with pytest.raises(UsageError, match=r"w\.pt is damaged: its member"):
        read_checkpoint(file)


def test_a_file_that_was_saved_without_checksums_is_read(file: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(STATE, file)
    finally:
        torch.serialization.set_crc32_options(before)
    assert same(loaded(), STATE)


def refused(state: dict[str, Tensor], file: Path, reference: str = REFERENCE) -> str:
    """What is said of a state dict that does not fit."""
    torch.save(state, file)
    with pytest.raises(UsageError, match="cannot load") as caught:
        load(reference)
    return str(caught.value)


def test_missing_and_surplus_names_are_listed_and_counted(file: Path) -> None:
    short = {name: value for name, value in STATE.items() if not name.startswith("visual.ln_p")}
    assert "4 missing (visual.ln_pre.weight, visual.ln_pre.bias, visual.ln_post.weight, and 1 more)" in refused(
        short, file
    )
    assert f"of {len(STATE)} tensors" in refused(short, file)
    long = STATE | {"head.weight": torch.ones(2), "head.bias": torch.ones(2)}
    assert "2 surplus (head.weight, head.bias)" in refused(long, file)
    both = refused({**short, "head.bias": torch.ones(2)}, file)
    assert "4 missing" in both
    assert "1 surplus (head.bias)" in both


def test_names_are_allowed_by_pattern_and_no_further(file: Path) -> None:
    short = {name: value for name, value in STATE.items() if name not in ("ln_final.bias", "visual.proj")}
    short["head.bias"] = torch.ones(2)
    allowed = REFERENCE.replace("]", ",allow_missing=ln_final.*,allow_surplus=[head.*]]")
    words = refused(short, file, allowed)
    assert "1 missing (visual.proj)" in words
    assert "surplus (" not in words
    found = loaded(allowed.replace("ln_final.*", '"ln_final.bias, *.proj"'))
    assert all(torch.equal(found[name], short[name]) for name in STATE if name in short)
    assert found["visual.proj"].shape == STATE["visual.proj"].shape


def test_weights_that_are_no_numbers_are_refused(file: Path) -> None:
    spoilt = STATE["visual.proj"].clone()
    spoilt[0, 0] = torch.nan
    words = refused(STATE | {"visual.proj": spoilt}, file)
    assert f"of {len(STATE)} tensors, 1 with values that are no numbers (visual.proj)" in words
    assert "w.pt" in words
    unlimited = {"mask": torch.full((2, 2), -torch.inf), "steps": torch.tensor(1)}
    assert fitting(unlimited, unlimited, "here").keys() == unlimited.keys()


PROJECTION = STATE["visual.proj"]
UNFIT: dict[str, tuple[str, Callable[[], Tensor], str]] = {
    "infinite": (
        "visual.proj",
        lambda: PROJECTION.index_fill(0, torch.tensor([0]), -torch.inf),
        r"1 with values that are infinite, or too large .*\(visual\.proj\); .* take others",
    ),
    "too large": (
        "visual.proj",
        lambda: PROJECTION.double() * 1e300,
        r"1 with values that are infinite, or too large for the model's numbers \(visual\.proj\)",
    ),
    "quantised": (
        "visual.proj",
        lambda: (PROJECTION * 100).to(torch.int8),
        r"1 that are no real floating-point numbers \(visual\.proj is int8\); save the weights as float32",
    ),
    "complex": (
        "visual.proj",
        lambda: PROJECTION.to(torch.complex64),
        r"1 that are no real floating-point numbers \(visual\.proj is complex64\)",
    ),
    "sparse": (
        "visual.proj",
        PROJECTION.to_sparse,
        r"1 that are not dense \(visual\.proj is sparse_coo\); save them after `to_dense\(\)`",
    ),
    "meta": ("visual.proj", lambda: PROJECTION.to("meta"), r"1 that are not dense \(visual\.proj is meta\)"),
    "a factor": (
        "logit_scale",
        lambda: torch.tensor(100.0),
        r"1 whose exponential is infinite \(logit_scale is 100\); .* logarithm of the factor: save that",
    ),
    "a sparse factor": (
        "logit_scale",
        lambda: torch.tensor([4.6]).to_sparse(),
        r"1 of another shape \(logit_scale is 1, the model wants a scalar\)",
    ),
}


@pytest.mark.filterwarnings("ignore:Validating sparse")
@pytest.mark.parametrize("fault", UNFIT)
def test_a_tensor_is_refused_whose_numbers_the_model_cannot_take(fault: str, file: Path) -> None:
    name, value, told = UNFIT[fault]
    words = refused(STATE | {name: value()}, file)
    assert re.search(told, words), words
    assert "w.pt" in words


def test_a_mask_may_be_infinite_where_the_model_has_it_so() -> None:
    mask = torch.tensor([[0.0, -torch.inf], [0.0, 0.0]])
    assert fitting({"mask": mask.double()}, {"mask": mask}, "here").keys() == {"mask"}
    with pytest.raises(UsageError, match=r"1 with values that are infinite, .* \(mask\)"):
        fitting({"mask": mask.T.contiguous()}, {"mask": mask}, "here")


def test_other_shapes_are_refused_whatever_is_allowed(file: Path) -> None:
    longer = STATE | {"positional_embedding": torch.ones(99, 32)}
    words = refused(longer, file, REFERENCE.replace("]", ',allow_missing="*",allow_surplus="*"]'))
    assert "1 of another shape (positional_embedding is 99×32, the model wants 77×32)" in words
    assert "another architecture?" in words


def test_renamed_tensors_are_recognised_by_their_shapes(file: Path) -> None:
    renamed = {name.replace("ln_final", "final_norm"): value for name, value in STATE.items()}
    words = refused(renamed, file)
    assert "the names may be another library's" in words
    assert "is 'final_norm.weight' what the model calls 'ln_final.weight'?" in words


def test_a_file_of_another_model_is_named_as_such(file: Path) -> None:
    words = refused({"backbone.weight": torch.ones(2)}, file, REFERENCE.replace("]", ',allow_missing="*"]'))
    assert "none of its 1 tensors has a name of this model; it holds 'backbone.weight'" in words


def test_weights_must_still_be_those_that_were_hashed(file: Path) -> None:
    torch.save(STATE, file)
    resolved = resolve(REFERENCE)
    before = resolved.identity()
    torch.save(STATE | {"visual.proj": torch.zeros_like(STATE["visual.proj"])}, file)
    with pytest.raises(RunError, match=r"w\.pt is not the file that was hashed when the run was planned"):
        resolved.build().load()
    assert resolve(REFERENCE).identity() != before
    file.unlink()
    with pytest.raises(RunError, match="is not the file that was hashed"):
        resolved.build().load()


def test_a_file_that_changes_while_it_is_read_is_noticed(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import urbancross_encoders.openclip as plugin

    torch.save(STATE, file)
    read = plugin.read_weights

    def and_replace(options: Any) -> Any:
        found = read(options)
        torch.save(STATE, file.with_name("new.pt"))
        save_file(STATE, file.with_name("new.pt"))
        file.with_name("new.pt").replace(file)
        return found

    monkeypatch.setattr(plugin, "read_weights", and_replace)
    with pytest.raises(RunError, match="is not the file that was hashed"):
        load(REFERENCE)


def test_the_name_of_a_file_is_no_part_of_the_identity_and_its_content_is(file: Path) -> None:
    torch.save(STATE, file)
    file.with_name("other.pt").write_bytes(file.read_bytes())
    one, other = (resolve(REFERENCE.replace("w.pt", name)) for name in ("w.pt", "other.pt"))
    assert one.identity() == other.identity()
    assert one.options.weights().sha256 == other.options.weights().sha256 is not None
    assert one.options.weights().source == "w.pt"
    trusting = resolve(REFERENCE.replace("]", ",unsafe_pickle=true,allow_surplus=x]"))
    assert trusting.identity()["options"] == one.identity()["options"]


def test_what_a_grid_trained_is_loaded_as_the_model_that_was_trained(
    grid: Callable[..., Path], cli: Callable[..., Result], file: Path, tmp_path: Path
) -> None:
    """Its header says how images were normalised and what the architecture was: neither shows in the tensors."""
    save_file(STATE, file)
    first = grid(
        encoders={"tiny": f"openclip[architecture={TINY},checkpoint={file},normalisation=imagenet]"},
        scenarios=[{"source": "plain", "target": "dark"}],
        adaptations=["source_only"],
    )
    assert cli("run", first, "--out", tmp_path / "one").status == 0
    store = tmp_path / "one" / "store"
    [adapted], [pretrained] = (list(store.glob(f"{kind}/*/*.safetensors")) for kind in ("adapt", "pretrain"))
    alone = tmp_path / "alone" / "mine.safetensors"
    alone.parent.mkdir()
    shutil.copy(adapted, alone)
    shutil.rmtree(pretrained.parent)  # as `store gc` may have it: what was trained says all itself
    for trained in (adapted, alone):
        reference = f"openclip[architecture={TINY},checkpoint={trained}]"
        assert load(reference).mean == IMAGENET[0]
        named = reference.replace("]", ",normalisation=openai]")
        assert resolve(named).options.preprocessing.mean == OPENAI[0]
        assert resolve(reference).options.weights().status == "trained here"
    # A tag of OpenAI's weights would have trained it with QuickGELU.
    origin = origin_of(alone)
    assert origin is not None
    for architecture, told in (
        (
            hashed(TINY, quick_gelu=True),
            f"{alone} .*another architecture than .*; take the architecture that its grid names",
        ),
        (hashed("urbancross-s"), f"{alone} .*; take architecture=urbancross-s"),
    ):
        save_weights(
            load_file(alone), alone, replace(origin, encoder=origin.encoder | {"architecture": architecture})
        )
        with pytest.raises(UsageError, match=told):
            resolve(reference).identity()
        with pytest.raises(UsageError, match=told):
            load(reference)


def test_what_was_not_trained_is_untrained_by_any_way(
    grid: Callable[..., Path], cli: Callable[..., Result], tmp_path: Path
) -> None:
    """Random weights that went through a grid without a step are random weights."""
    nothing = {"pretraining": {"steps": 0}, "budget": {"steps": 0}}
    scenarios = [{"source": "plain", "target": "dark"}]
    reference = f"openclip[architecture={TINY}]"
    for number in range(2):
        out = tmp_path / f"{number}"
        file = grid(
            encoders={"tiny": reference}, scenarios=scenarios, adaptations=["source_only"], seeds=[0], **nothing
        )
        assert cli("run", file, "--out", out).status == 0
        [record] = read_records([out])
        assert record.spec["encoder"]["weights"]["status"] == "untrained"
        [left] = (out / "store" / "adapt").glob("*/candidate-*.safetensors")
        reference = f"openclip[architecture={TINY},checkpoint={left}]"


@pytest.mark.parametrize("copied", [False, True])
def test_weights_that_saw_the_targets_pairs_make_oracles(
    copied: bool, grid: Callable[..., Path], cli: Callable[..., Result], tmp_path: Path
) -> None:
    """Of an oracle, directly and by a further training; of a source that is the target now. Not of the source."""
    ways = [{"source": "plain", "target": "dark"}]
    first = grid(
        encoders={"tiny": f"openclip[architecture={TINY}]"}, scenarios=ways, adaptations=["source_only", "oracle"]
    )
    assert cli("run", first, "--out", tmp_path / "one").status == 0
    left = {
        record.spec["adaptation"]["label"]: next(
            (tmp_path / "one" / "store" / "adapt" / record.spec["stages"]["adapt"][0]).glob(
                "candidate-*.safetensors"
            )
        )
        for record in read_records([tmp_path / "one"])
    }
    if copied:
        left = {name: Path(shutil.copy(file, tmp_path / f"{name}.safetensors")) for name, file in left.items()}
    encoders = {name: f"openclip[architecture={TINY},checkpoint={file}]" for name, file in left.items()}
    ways = [{"source": "plain", "target": "dark"}, {"source": "dark", "target": "plain"}]
    again = grid(
        encoders=encoders, scenarios=ways, adaptations=["source_only"], pretraining={"steps": 0}, seeds=[0]
    )
    said = cli("plan", again, "--out", tmp_path / "two")
    for route, encoder, seen in (
        ("plain → dark", "oracle", True),
        ("plain → dark", "source_only", False),
        ("dark → plain", "source_only", True),
    ):
        told = rf"scenario {route}: the weights of encoder '{encoder}' were trained on [\d,]+ images of the target"
        assert bool(re.search(told, " ".join((said.out + said.err).split()))) == seen
    assert cli("run", again, "--out", tmp_path / "two").status == 0
    settings = {
        (record.spec["encoder"]["label"], record.spec["scenario"]["target"]): {
            score.content["setting"] for score in record.scores if score.content["selector"] == "last"
        }
        for record in read_records([tmp_path / "two"])
    }
    assert settings == {
        ("source_only", "dark"): {"source_only"},
        ("source_only", "plain"): {"oracle"},
        ("oracle", "dark"): {"oracle"},
        ("oracle", "plain"): {"oracle"},
    }
    for row in make_rows(read_records([tmp_path / "two"]), ["trained here"]):
        saw = row.target == "plain" or row.run["encoder"]["label"] == "oracle"
        assert ("weights that saw the target" in marks_of(row)) == saw
    # What goes on from them has seen what they have.
    origins = [origin_of(file) for file in (tmp_path / "two" / "store" / "adapt").glob("*/candidate-*")]
    seen = sorted(len(origin.images) for origin in origins if origin)
    assert seen[1:] == [2 * seen[0]] * 3  # of the source alone where that is the source once more


def test_weights_that_saw_one_target_are_averaged_with_no_other(
    grid: Callable[..., Path], domains: dict[str, str], cli: Callable[..., Result], tmp_path: Path
) -> None:
    """Whatever the domains are called, and also where the target's splits are others than when it was seen."""
    content = json.loads((tmp_path / "plain" / "dataset.json").read_text())
    (tmp_path / "list.csv").write_text(f"image,caption\n{content['images'][0]['filename']},\n")
    tiny = {"tiny": f"openclip[architecture={TINY}]"}
    common = {"adaptations": ["source_only"], "seeds": [0]}
    first = grid(encoders=tiny, scenarios=[{"source": "plain", "target": "plain"}], **common)
    assert cli("run", first, "--out", tmp_path / "one").status == 0
    [left] = (tmp_path / "one" / "store" / "adapt").glob("*/candidate-*")
    seen = {"tiny": f"openclip[architecture={TINY},checkpoint={left}]"}
    third = f"karpathy[file={write_karpathy(tmp_path / 'third', shade=30)}]"
    for other in ("aside", "zebra"):
        named = {"dark": domains["dark"], "plain": domains["plain"], other: third}
        ways = [{"source": "dark", "target": "plain"}, {"source": "dark", "target": other}]
        for number, scenarios in enumerate((ways, ways[::-1])):
            again = grid(
                domains=named,
                encoders=seen,
                scenarios=scenarios,
                exclusions={"plain": str(tmp_path / "list.csv")},
                score_sources=True,
                pretraining={"steps": 0},
                **common,
            )
            out = tmp_path / f"{other}{number}"
            assert cli("run", again, "--out", out).status == 0
            settings = {
                (record.spec["scenario"]["target"], score.content["domain"]): score.content["setting"]
                for record in read_records([out])
                for score in record.scores
                if score.content["selector"] == "last"
            }
            assert settings == {
                ("plain", "plain"): "oracle",
                ("plain", "dark"): "oracle",
                (other, other): "source_only",
                (other, "dark"): "source_only",
            }
            with (out / "leaderboard" / "summary.csv").open(encoding="utf-8", newline="") as file:
                lines = {row["setting"]: row for row in csv.DictReader(file) if row["selector"] == "last"}
            assert {setting: row["mean mR"] for setting, row in lines.items()} == {"oracle": "", "source_only": ""}


def test_test_images_behind_the_weights_count_as_trained_on(
    grid: Callable[..., Path], cli: Callable[..., Result], tmp_path: Path
) -> None:
    """Where the splits are others: in the domain itself, from another one, and from a folder of open_clip's."""
    first = grid(
        encoders={"tiny": f"openclip[architecture={TINY}]"},
        scenarios=[{"source": "plain", "target": "plain"}],
        adaptations=["source_only"],
        seeds=[0],
    )
    assert cli("run", first, "--out", tmp_path / "one").status == 0
    [left] = (tmp_path / "one" / "store" / "adapt").glob("*/candidate-*")
    folder = tmp_path / "folder"
    folder.mkdir()
    shutil.copy(left, folder / "open_clip_model.safetensors")
    config = {"model_cfg": json.loads((OWN_ARCHITECTURES / f"{TINY}.json").read_text()), "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    content = json.loads((tmp_path / "plain" / "dataset.json").read_text())
    turned = {"train": "test", "test": "train"}
    for entry in content["images"]:
        entry["split"] = turned.get(entry["split"], entry["split"])
    (tmp_path / "plain" / "turned.json").write_text(json.dumps(content))
    tested = sum(entry["split"] == "test" for entry in content["images"])
    again = grid(
        domains={
            "dark": f"karpathy[file={tmp_path / 'dark' / 'dataset.json'}]",
            "turned": f"karpathy[file={tmp_path / 'plain' / 'turned.json'}]",
        },
        encoders={
            "file": f"openclip[architecture={TINY},checkpoint={left}]",
            "folder": f"openclip[architecture=local-dir:{folder},orientations=8]",
        },
        scenarios=[{"source": source, "target": "turned"} for source in ("dark", "turned")],
        adaptations=["source_only"],
        pretraining={"steps": 0},
        seeds=[0],
    )
    assert cli("run", again, "--out", tmp_path / "two").status == 0
    for record in read_records([tmp_path / "two"]):
        weights = record.spec["encoder"]["weights"]
        assert weights["status"] == "trained here"
        assert weights["source"] == {"folder": "folder/open_clip_model.safetensors"}.get(
            record.spec["encoder"]["label"], weights["source"]
        )
        assert record.spec["test_images_in_training"] == tested
        assert {score.content["setting"] for score in record.scores} == {"oracle"}
    refused = cli("leaderboard", "add", tmp_path / "two", "--to", tmp_path / "board")
    assert refused.status == 1
    assert "test split" in refused.err


@pytest.mark.parametrize(
    ("seen", "images", "oracles", "tested"),
    [
        ({"train": 0, "val": 0, "test": 0}, 0, False, 0),
        ({"train": 1, "val": 0, "test": 0}, 1, False, 0),  # of forty: by accident
        ({"train": 2, "val": 0, "test": 0}, 2, True, 0),  # a twentieth
        ({"train": 0, "val": 1, "test": 0}, 1, True, 0),  # of twenty: a fiftieth of all three
        ({"train": 1, "val": 0, "test": 2}, 3, False, 2),  # of sixty
        ({"train": 0, "val": 0, "test": 3}, 3, True, 3),
    ],
)
def test_how_much_of_a_target_makes_oracles(seen: dict[str, int], images: int, oracles: bool, tested: int) -> None:
    sizes = {"train": 40, "val": 20, "test": 60}
    target = {part: {f"{part} {number}" for number in range(size)} for part, size in sizes.items()}
    source = {"train": {"train 39", "other"}, "val": set[str](), "test": set[str]()}
    domains: Any = {name: SimpleNamespace(contents=of) for name, of in (("a", source), ("b", target))}
    known = {f"{part} {number}" for part, count in seen.items() for number in range(count)} | {"train 39", "other"}
    encoder: Any = SimpleNamespace(weights=Weights("trained here", "x", "0", images=short(known)))
    found = Specification(None, domains)._count_seen(Scenario(source=("a",), target="b"), encoder)  # type: ignore[arg-type]
    assert (found.images, found.too_many, len(found.test)) == (images, oracles, tested)
    encoder.weights = Weights("pretrained", "x", "0")
    assert Specification(None, domains)._count_seen(Scenario(source=("a",), target="b"), encoder).images == 0  # type: ignore[arg-type]


def test_of_a_few_shots_the_weights_have_seen_the_share(
    grid: Callable[..., Path], cli: Callable[..., Result], tmp_path: Path
) -> None:
    way = {"source": "plain", "target": "dark"}
    file = grid(
        encoders={"tiny": f"openclip[architecture={TINY}]"},
        scenarios=[way, way | {"share": 0.25}],
        adaptations=["source_only", "few_shot"],
        seeds=[0],
    )
    assert cli("run", file, "--out", tmp_path / "out").status == 0
    seen = {}
    for record in read_records([tmp_path / "out"]):
        [left] = (tmp_path / "out" / "store" / "adapt" / record.spec["stages"]["adapt"][0]).glob("candidate-*")
        origin = origin_of(left)
        assert origin is not None
        seen[record.spec["adaptation"]["label"]] = origin.images
    shots = seen["few_shot"] - seen["source_only"]
    assert seen["source_only"] < seen["few_shot"]
    assert len(shots) == -(-len(seen["source_only"]) // 4)  # the two domains are of one size
    content = json.loads((tmp_path / "dark" / "dataset.json").read_text())
    domain = Registry.discover().resolve("dataset", f"karpathy[file={tmp_path / 'dark' / 'dataset.json'}]")
    images = domain.build().read(None).images
    trained = [i for i, entry in enumerate(content["images"]) if entry["split"] == "train"]
    assert shots < short(images.digest(i) for i in trained)


def test_what_a_method_without_steps_moved_has_seen_what_it_was_shown(
    grid: Callable[..., Path], cli: Callable[..., Result], tmp_path: Path
) -> None:
    plugin = tmp_path / "closed.py"
    plugin.write_text(CLOSED)
    file = grid(
        plugins=[str(plugin)],
        encoders={"tiny": f"openclip[architecture={TINY}]"},
        scenarios=[{"source": "plain", "target": "dark"}],
        adaptations=["closed", "idle"],
        pretraining={"steps": 0},
        seeds=[0],
    )
    assert cli("run", file, "--out", tmp_path / "out").status == 0
    seen = {
        record.spec["adaptation"]["label"]: len(origin.images)
        for record in read_records([tmp_path / "out"])
        for file in (tmp_path / "out" / "store" / "adapt" / record.spec["stages"]["adapt"][0]).glob("candidate-*")
        if (origin := origin_of(file))
    }
    assert seen["idle"] == 0
    assert seen["closed"] > 0


def test_a_part_that_was_missing_stays_so(
    grid: Callable[..., Path], cli: Callable[..., Result], file: Path, tmp_path: Path
) -> None:
    save_file({name: value for name, value in STATE.items() if name != "text_projection"}, file)
    reference = f"openclip[architecture={TINY},checkpoint={file},allow_missing=text_projection]"
    for number in range(2):
        out = tmp_path / f"{number}"
        written = grid(
            encoders={"tiny": reference},
            scenarios=[{"source": "plain", "target": "dark"}],
            adaptations=["source_only"],
            pretraining={"steps": 0},
            budget={"steps": 0},
            seeds=[0],
        )
        assert cli("run", written, "--out", out).status == 0
        [record] = read_records([out])
        weights = record.spec["encoder"]["weights"]
        assert (weights["partial"], weights.get("was_partial", False)) == (number == 0, number == 1)
        assert "some of the first weights" in (out / "leaderboard" / "scenarios.csv").read_text()
        [left] = (out / "store" / "adapt").glob("*/candidate-*.safetensors")
        reference = f"openclip[architecture={TINY},checkpoint={left}]"


@pytest.mark.parametrize(
    "said",
    [
        "[",
        "[" * 100_000,
        "[]",
        "null",
        '{"a": 1}',
        '{"schema": 2}',
        json.dumps({"schema": 1, "encoder": 5, "trained": True, "partial": False, "images": "", "candidate": ""}),
        json.dumps({"schema": 1, "encoder": {}, "trained": "no", "partial": False, "images": "", "candidate": ""}),
        json.dumps(
            {"schema": 1, "encoder": {}, "trained": True, "partial": False, "images": "ab", "candidate": ""}
        ),
    ],
)
def test_a_header_that_says_something_else_is_named(said: str, file: Path) -> None:
    save_file(STATE, file, metadata={"urbancross_bench": said})
    with pytest.raises(UsageError, match=r"w\.pt says in its header where its weights come from, and not as this"):
        resolve(REFERENCE).options.weights()


def test_weights_of_an_earlier_version_are_not_taken_for_somebody_elses(file: Path) -> None:
    save_file(STATE, file)
    (file.parent / "stage.json").write_text(json.dumps({"kind": "adapt"}))
    with pytest.raises(UsageError, match=r"was left by an earlier version \(adapt/.*; run its grid again"):
        resolve(REFERENCE).identity()


@given(st.sets(st.text(st.characters(codec="utf-8")), max_size=5), st.booleans())
def test_an_origin_says_what_it_was_told(digests: set[str], trained: bool) -> None:
    origin = Origin({"architecture": "x"}, trained, False, short(digests), "alpha=0.5")
    [said] = origin.header().values()
    assert Origin.of(json.loads(said)) == origin
    assert len(short(digests)) == len(digests)


def hashed(architecture: str, **changes: Any) -> str:
    """As an identity has it."""
    content = json.loads((OWN_ARCHITECTURES / f"{architecture}.json").read_text()) | changes
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def test_fitting_says_where() -> None:
    with pytest.raises(
        UsageError, match=r"^here: of 1 tensors, 1 of another shape \(a is a scalar, the model wants 2"
    ):
        fitting({"a": torch.tensor(1.0)}, {"a": torch.ones(2)}, "here")


def test_freezing_goes_by_pattern_and_a_pattern_that_finds_nothing_is_told() -> None:
    model = torch.nn.ModuleDict({"image": torch.nn.Linear(2, 2), "text": torch.nn.Linear(2, 2)})
    assert freeze(model, ["image.*", "*.bias"]) == ["image.weight", "image.bias", "text.bias"]
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["text.weight"]
    with pytest.raises(UsageError, match=r"no parameter matches 'txt\.\*'; the nearest is \"text\."):
        freeze(model, ["image.*", "txt.*"])
