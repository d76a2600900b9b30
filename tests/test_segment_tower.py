"""The segment tower of a released checkpoint: which features it gives, what is refused, what is kept of it."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Result
from encoder_files import TINY, load, resolve, state_of, theirs, under
from safetensors.torch import load_file, save_file
from test_segment_encoders import stages, store
from torch import Tensor

from urbancross_bench.errors import UsageError
from urbancross_bench.records import read_records
from urbancross_encoders.sam_fused import SegmentTower

IMAGES, SEGMENTS = theirs(seed=1), theirs(seed=2)
OF_SEGMENTS = "clip_img_seg."
OWN = f"sam_fused[architecture={TINY},checkpoint=w.pt,most=2,tower=checkpoint]"


def released(**more: Tensor) -> dict[str, Tensor]:
    """Both towers as UrbanCross's code saves them: the second a whole model without its text blocks."""
    copied = {n: v for n, v in state_of(SEGMENTS).items() if not n.startswith("transformer.")}
    assert {"logit_scale", "token_embedding.weight", "visual.proj"} < copied.keys()
    return under("clip_model.", state_of(IMAGES)) | under(OF_SEGMENTS, copied) | more


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("URBANCROSS_DATA", str(tmp_path))
    return tmp_path / "w.pt"


def pictures() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("wrapped", ["plain", "parallel", "the image tower alone"])
@torch.inference_mode()
def test_segments_are_encoded_by_the_tower_of_the_checkpoint_and_images_are_not(wrapped: str, file: Path) -> None:
    state = released()
    if wrapped == "the image tower alone":
        state = {n: v for n, v in state.items() if not n.startswith(OF_SEGMENTS) or "visual" in n}
    torch.save({"epoch": 1, "model": under("module.", state) if wrapped == "parallel" else state}, file)
    model = load(OWN).eval()
    for one in (model, copy.deepcopy(model).eval()):
        features, images = one.encode_segment(pictures()), one.encode_image(pictures())
        torch.testing.assert_close(features, SEGMENTS.encode_image(pictures()), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(images, IMAGES.encode_image(pictures()), atol=1e-5, rtol=1e-4)
        assert not torch.allclose(features, images, atol=1e-2)
    start = load(OWN.replace("=checkpoint]", "=start]")).eval()
    assert torch.equal(start.encode_segment(pictures()), start.encode_image(pictures()))
    # What is frozen and in the file is neither trained nor saved again.
    assert model.state_dict().keys() == start.state_dict().keys()
    model.train()
    assert len(list(model.parameters())) == len(list(start.parameters()))


@torch.inference_mode()
def test_all_orientations_of_a_segment_have_a_say_where_those_of_an_image_do(file: Path) -> None:
    torch.save(released(), file)
    model = load(OWN.replace("]", ",orientations=8]")).eval()
    once, turned = model.encode_segment(pictures()), model.encode_segment(pictures().rot90(1, (2, 3)).flip(3))
    torch.testing.assert_close(once, turned, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(once, torch.nn.functional.normalize(SEGMENTS.encode_image(pictures()), dim=1), 1e-2)


@torch.inference_mode()
def test_copies_of_a_model_share_the_tower_and_it_goes_where_images_are(file: Path) -> None:
    torch.save(released(), file)
    model = load(OWN)
    [tower] = [part for part in vars(model).values() if isinstance(part, SegmentTower)]
    assert tower in vars(copy.deepcopy(model)).values()
    assert tower(pictures().to("meta")).device.type == "meta"


@pytest.mark.parametrize("tower", ["start", "checkpoint"])
def test_a_file_that_is_cut_short_is_told_whichever_tower_is_taken(tower: str, file: Path) -> None:
    save_file(released(), file.with_suffix(".safetensors"))
    whole = file.with_suffix(".safetensors").read_bytes()
    file.with_suffix(".safetensors").write_bytes(whole[: len(whole) // 2])
    reference = OWN.replace("w.pt", "w.safetensors").replace("=checkpoint]", f"={tower}]")
    with pytest.raises(UsageError, match=r"w\.safetensors is damaged or cut short"):
        resolve(reference).options.weights()


def refused(state: dict[str, Tensor], file: Path, more: str = "") -> str:
    torch.save({"model": state}, file)
    with pytest.raises(UsageError, match=r"cannot take its segment tower from .*w\.pt: ") as caught:
        load(OWN.replace("]", f"{more}]"))
    return str(caught.value)


def test_every_tensor_of_the_tower_must_be_there_and_none_may_be_left_over(file: Path) -> None:
    lost = [f"{OF_SEGMENTS}visual.{name}" for name in ("ln_post.bias", "ln_pre.bias", "ln_pre.weight", "proj")]
    short = {name: value for name, value in released().items() if name not in lost}
    names = [name for name in released() if name in lost]
    assert f"4 missing ({', '.join(names[:3])}, and 1 more)" in refused(short, file)
    surplus = {f"{OF_SEGMENTS}head.bias": torch.ones(2), f"{OF_SEGMENTS}visual.more": torch.ones(2)}
    assert f"2 surplus ({', '.join(surplus)})" in refused(released(**surplus), file)
    other = {f"{OF_SEGMENTS}visual.proj": torch.ones(3, 2)}
    words = refused(released(**other), file, ',allow_surplus="*",allow_missing="*"')
    assert f"1 of another shape ({OF_SEGMENTS}visual.proj is 3×2" in words
    torch.save(released(**surplus), file)
    load(OWN.replace("]", f",allow_surplus=[{OF_SEGMENTS}head.*, {OF_SEGMENTS}visual.more]]"))
    # Nor does it lend the image tower what that lacks.
    torch.save({n: v for n, v in released().items() if n != "clip_model.visual.proj"}, file)
    with pytest.raises(UsageError, match=r"cannot load .*1 missing \(visual\.proj\)"):
        load(OWN)


def test_a_checkpoint_without_the_tower_is_told(file: Path) -> None:
    for state in (under("clip_model.", state_of(IMAGES)), state_of(IMAGES)):
        assert "holds none, no tensor whose name starts with clip_img_seg.; take tower=start" in refused(
            state, file
        )
    with pytest.raises(UsageError, match="takes the segment tower from a file; name it with checkpoint"):
        resolve(OWN.replace("checkpoint=w.pt,", ""))


def test_who_leaves_the_tower_out_says_so(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(released(), file)
    count = sum(name.startswith(OF_SEGMENTS) for name in released())
    for reference in (f"openclip[architecture={TINY},checkpoint=w.pt]", OWN.replace("=checkpoint]", "=shared]")):
        load(reference)
        assert f"w.pt: {count} tensors of a segment tower are left out" in capsys.readouterr().out
    load(OWN)
    assert capsys.readouterr().out == ""


def test_features_are_kept_by_the_file_and_the_tower_that_made_them(file: Path) -> None:
    def keys() -> list[dict[str, Any]]:
        resolved = [resolve(OWN.replace("=checkpoint]", f"={tower}]")) for tower in ("checkpoint", "start")]
        return [one.options.tower_identity() for one in resolved]

    torch.save(released(), file)
    own, start = keys()
    assert own != start
    assert own["weights"] == start["weights"] == resolve(OWN).options.weights().sha256
    torch.save(released(**{f"{OF_SEGMENTS}visual.proj": torch.zeros(64, 32)}), file)
    assert keys()[0] != own


def test_a_grid_trains_against_the_features_of_that_tower(
    grid: Callable[..., Path], domains: dict[str, str], cli: Callable[..., Result], tmp_path: Path
) -> None:
    weights = tmp_path / "urbancross.safetensors"
    save_file(released(), weights)
    encoder = f"sam_fused[architecture={TINY},checkpoint={weights},most=2,tower="
    file = grid(
        encoders={"own": f"{encoder}checkpoint]", "first": f"{encoder}start]"},
        segments={"plain": str(store(tmp_path / "segments", domains["plain"]))},
        scenarios=[{"source": "plain", "target": "dark"}],
        adaptations=["source_only"],
        pretraining={"steps": 1, "batch_size": 8, "segment_weight": 1.0},
    )
    result = cli("run", file, "--out", tmp_path / "out")
    assert result.status == 0, result.err + result.out
    uses = {r.spec["encoder"]["label"]: r.spec["segments"]["use"] for r in read_records([tmp_path / "out"])}
    assert {label: use["tower"] for label, use in uses.items()} == {"own": "checkpoint", "first": "start"}
    assert len(stages(tmp_path / "out", "segments")) == 1
    kept = list((tmp_path / "out" / "store" / "segment_features").iterdir())
    assert len(kept) == 2
    [[one], [other]] = (load_file(folder / "segments.safetensors").values() for folder in kept)
    assert one.shape == other.shape
    assert not torch.allclose(one, other, atol=1e-2)
