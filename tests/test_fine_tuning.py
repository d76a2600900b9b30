"""Training on pairs: what moves, what stays to the bit, and that a checkpoint is loaded as it was left."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from dual_encoder import Drawn, Small, Training, context, copied, moved, vectors
from encoder_files import load, state_of, theirs, write_local_dir
from safetensors.torch import load_file, save_file
from torch import nn

from urbancross_adaptations.adapters import heads_of
from urbancross_adaptations.lora import LowRank
from urbancross_bench.errors import RunError, UsageError
from urbancross_bench.interfaces import Progress
from urbancross_bench.modelling.checkpoints import fitting
from urbancross_bench.modelling.method_state import MethodState
from urbancross_bench.registry import Registry
from urbancross_bench.testing.fixtures.clip import write_tiny_clip

REGISTRY = Registry.discover()
TINY = "openclip[architecture=urbancross-tiny]"
_TEXT = {"context_length": 77, "vocab_size": 512, "width": 32, "heads": 2, "layers": 1}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "vit": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "resnet": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32},
    "timm": {"image_size": 32, "timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear"},
}
FACTORS = {"logit_scale", "logit_bias"}


def method(reference: str) -> Any:
    return REGISTRY.resolve("adaptation", reference).build()


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """References of small encoders of each kind of tower; loading one twice gives the same weights."""
    folder = tmp_path_factory.mktemp("encoders")
    found = {}
    for name, vision in ARCHITECTURES.items():
        config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": _TEXT}
        (folder / f"{name}.json").write_text(json.dumps(config))
        open_clip.add_model_config(folder / f"{name}.json")
        write_local_dir(folder / name, config, {}, state_of(theirs(name)))
        found[name] = f"openclip[architecture='local-dir:{folder / name}']"
    for family in ("clip", "siglip"):
        write_tiny_clip(folder / family, family)
        found[family] = f"transformers[model='{folder / family}']"
    return found


def inputs_of(model: Any, rows: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    texts = ["a red roof", "many green trees beside the road", "road", "the roof beside trees", "a", "green road"]
    images = torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return images, model.tokenize(texts[:rows])


def both(model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    images, texts = inputs_of(model)
    with torch.no_grad():
        return model.encode_image(images), model.encode_text(texts)


def same(left: tuple[torch.Tensor, ...], right: tuple[torch.Tensor, ...]) -> list[bool]:
    return [torch.equal(a, b) for a, b in zip(left, right, strict=True)]


# No training, both domains, several sources.


def test_zero_shot_is_not_trained_and_leaves_the_start() -> None:
    registration = next(p.registration for p in REGISTRY.plugins if p.registration.name == "zero_shot")
    assert "gradients" not in registration.needs
    model, zero_shot = Small(), method("zero_shot")
    assert zero_shot.extend(model) is model
    zero_shot.prepare(model, context(model)[0])
    [(name, state)] = zero_shot.candidates(model).items()
    assert name == ""
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in state.items())


def test_few_shot_weighs_both_losses_and_reads_no_source_without_a_weight() -> None:
    model = Small().eval()
    sides = [Drawn(model, *vectors(5, seed)) for seed in (1, 2)]
    told, _ = context(model)
    alone = [told.pair_loss(side).item() for side in sides]
    weighted = method("few_shot[source=0.5,target=3]")
    weighted.prepare(model, told)
    losses = weighted.loss(*sides, Progress(0, 10, 0, 0))
    assert losses["source_pairs"].item() == pytest.approx(0.5 * alone[0])
    assert losses["target_pairs"].item() == pytest.approx(3 * alone[1])
    target_only = method("few_shot[source=0]")
    target_only.prepare(model, told)
    assert {*target_only.loss(None, sides[1], Progress(0, 10, 0, 0))} == {"target_pairs"}


@pytest.mark.parametrize("reference", ["source_only", "few_shot", "oracle"])
def test_one_pair_teaches_nothing_and_is_refused(reference: str) -> None:
    model = Small().eval()
    told, _ = context(model)
    several, one = Drawn(model, *vectors(5, 1)), Drawn(model, *vectors(1, 2))
    learning = method(reference)
    learning.prepare(model, told)
    for unencoded in (one, Drawn(None, *vectors(1, 2))):
        sides = (unencoded, several) if reference == "source_only" else (several, unencoded)
        with pytest.raises(RunError, match="a batch shows one item"):
            learning.loss(*sides, Progress(0, 10, 0, 0))


@pytest.mark.parametrize("seed", range(5))
def test_balanced_batches_keep_the_first_rows_of_each_domain_that_is_there(seed: int) -> None:
    domains = [random.Random(seed).choice([0, 2, 2, 2, 3, 3]) for _ in range(17)]
    fewest = min(domains.count(domain) for domain in set(domains))
    expected = [i for i, domain in enumerate(domains) if domains[:i].count(domain) < fewest]
    source: Any = SimpleNamespace(domains=torch.tensor(domains))
    progress = Progress(0, 10, 0, 0)
    assert method("pooled[balanced=true]").select(source, None, progress).tolist() == expected
    assert method("pooled").select(source, None, progress) is None


# LP-FT.


def probing(model: Any, share: float = 0.5) -> Training:
    lp_ft = method(f"lp_ft[probing={share}]")
    return Training(lp_ft, lp_ft.extend(model), steps=6)


def test_probing_moves_the_heads_alone_and_fine_tuning_moves_all() -> None:
    training = probing(Small())
    model = training.model
    start = copied(model)
    batches = [vectors(8, seed) for seed in range(6)]
    training.run(batches[:3])
    heads = {name for name in start if name.startswith(("image_head.", "text_head."))}
    # Neither weight decay nor running statistics touch the encoder.
    assert moved(start, model) == heads | {"base.logit_scale"}
    probed = copied(model)
    training.run(batches[3:], first=3)
    assert moved(probed, model) == set(start)


def test_no_gradient_is_computed_in_the_towers_while_probing() -> None:
    training = probing(Small())
    model, batch = training.model, Drawn(training.model, *vectors(8, 0))
    for step, inside in ((0, False), (2, False), (3, True)):
        training.method.select(batch, batch, Progress(step, 6, 0, 0))
        assert model.base.encode_image(batch.images).requires_grad is inside
        assert model.base.training is inside
        assert model.encode_image(batch.images).requires_grad


def test_a_training_that_was_cut_goes_on_in_its_phase() -> None:
    batches = [vectors(8, seed) for seed in range(6)]
    whole = probing(Small())
    whole.run(batches)
    for cut in (2, 3, 4):
        first, second = probing(Small()), probing(Small(seed=7))
        first.run(batches[:cut])
        second.model.load_state_dict(first.model.state_dict())
        second.optimiser.load_state_dict(first.optimiser.state_dict())
        second.run(batches[cut:], first=cut)
        assert moved(copied(whole.model), second.model) == set()


def test_what_the_encoder_freezes_stays_frozen_and_heads_learn_faster() -> None:
    small = Small()
    small.text_tower.requires_grad_(False)
    training = probing(small, share=0)
    rest, added = training.method.parameter_groups(training.model, 1e-3)
    assert added["lr"] == pytest.approx(1e-2)
    assert rest["lr"] == 1e-3
    assert {id(p) for p in added["params"]} == {id(p) for p in heads_of(training.model)}
    start = copied(training.model)
    training.run([vectors(8, 0)])
    names = moved(start, training.model)
    assert "base.image_tower.0.weight" in names
    assert not any(name.startswith("base.text_tower") for name in names)
    assert not any(p.requires_grad for p in training.model.text_tower.parameters())


# WiSE-FT.


def interpolation(alphas: str = "[0,0.3,1,0.5]") -> Training:
    small = Small()
    with torch.no_grad():
        small.text_tower.bias[0] = -0.0  # adding nothing to it would lose its sign
    return Training(method(f"wise_ft[alphas={alphas}]"), small)


def test_interpolations_run_from_the_start_to_what_was_trained() -> None:
    training = interpolation()
    start = copied(training.model)
    training.run([vectors(8, seed) for seed in range(4)])
    end = copied(training.model)
    found = training.method.candidates(training.model)
    assert list(found) == ["alpha=0.0", "alpha=0.3", "alpha=1.0", "alpha=0.5"]

    def bits(state: Any) -> dict[str, bytes]:
        return {name: value.numpy().tobytes() for name, value in state.items()}

    assert bits(found["alpha=0.0"]) == bits(start)
    assert bits(found["alpha=1.0"]) == bits(end)
    for name in ("image_tower.1.running_var", "image_tower.0.weight", "logit_scale"):
        a, b = start[name].double().numpy(), end[name].double().numpy()
        assert not np.array_equal(a, b)
        np.testing.assert_allclose(found["alpha=0.3"][name].numpy(), 0.7 * a + 0.3 * b, rtol=1e-5, atol=1e-7)
    assert found["alpha=0.3"]["image_tower.1.num_batches_tracked"] == 4
    for state in found.values():
        Small(seed=3).load_state_dict(state)


def test_one_half_is_the_default_and_the_start_is_not_saved_again_and_again() -> None:
    training = Training(method("wise_ft"), Small())
    training.run([vectors(8, 0)])
    assert list(training.method.candidates(training.model))[-1] == "alpha=0.5"
    assert MethodState(training.method, training.model).content()["kept"] == {}


def test_shares_beyond_the_ends_or_twice_are_refused() -> None:
    for alphas in ("[1.5]", "[0.5,0.5]", "[]"):
        with pytest.raises(UsageError, match="alphas"):
            method(f"wise_ft[alphas={alphas}]")


# LoRA.

KINDS = [*ARCHITECTURES, "clip", "siglip"]


def with_lora(reference: str, options: str = "") -> tuple[Any, Any]:
    lora = method(f"lora[{options}]")
    return lora, lora.extend(load(reference))


def drawn_updates(model: nn.Module) -> list[LowRank]:
    """All updates, no longer zero."""
    updates = [part for part in model.modules() if isinstance(part, LowRank)]
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for update in updates:
            update.b.copy_(0.1 * torch.randn(update.b.shape, generator=generator))
    return updates


@pytest.mark.parametrize("kind", KINDS)
def test_updates_leave_features_as_they_were_and_are_all_that_learns(
    kind: str, references: dict[str, str]
) -> None:
    plain, (lora, model) = load(references[kind]).eval(), with_lora(references[kind])
    assert same(both(plain), both(model.eval())) == [True, True]
    training = Training(lora, model)
    trainable = {name.rpartition(".")[2] for name, p in model.named_parameters() if p.requires_grad}
    assert trainable - FACTORS == {"a", "b"}
    assert "logit_scale" in trainable
    start = copied(model)
    training.run([inputs_of(model, seed=seed) for seed in range(2)])
    names = {name for name in moved(start, model) if "running_" not in name and "num_batches" not in name}
    ends = {name.rpartition(".")[2] for name in names}
    assert ends - FACTORS == {"a", "b"}
    # Each update had a gradient: no matrix is read past its update.
    assert {name for name in start if name.endswith((".a", ".b"))} <= names
    if kind == "resnet":
        assert sum("attnpool" in name for name in names) == 8  # q, k, v and output, two each


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_those_of_the_matrices_with_the_updates_added(kind: str, references: dict[str, str]) -> None:
    plain, (_, model) = load(references[kind]).eval(), with_lora(references[kind], "rank=3,alpha=6")
    assert len(drawn_updates(model)) >= 6
    added = dict(model.named_parameters())
    with torch.no_grad():
        for name, matrix in plain.named_parameters():
            place, _, own = name.rpartition(".")
            kept = f"{place}.parametrizations.{own}.0"
            if f"{kept}.a" in added:
                matrix += 2 * added[f"{kept}.b"] @ added[f"{kept}.a"]
    before = both(load(references[kind]).eval())
    assert same(both(plain), both(model.eval())) == [True, True]
    assert same(both(plain), before) == [False, False]


def test_the_last_projections_get_the_same_update_the_other_way_round(references: dict[str, str]) -> None:
    plain = load(references["vit"]).eval()
    _, model = with_lora(references["vit"], 'rank=3,alpha=6,targets="*projection,*visual.proj"')
    updates = drawn_updates(model)
    inner = {plain.clip.visual.proj.shape[0], plain.clip.text.text_projection.shape[0]}
    assert {update.a.shape for update in updates} == {(3, width) for width in inner}  # x @ P: P is (in, out)
    visual, text = model.clip.visual, model.clip.text
    with torch.no_grad():
        for matrix, module, own in (
            (plain.clip.visual.proj, visual, "proj"),
            (plain.clip.text.text_projection, text, "text_projection"),
        ):
            [update] = module.parametrizations[own]
            matrix += 2 * (update.b @ update.a).T
    assert same(both(plain), both(model.eval())) == [True, True]


@pytest.mark.parametrize("kind", ["vit", "clip"])
def test_a_checkpoint_with_updates_loads_strictly(kind: str, references: dict[str, str], tmp_path: Path) -> None:
    lora, model = with_lora(references[kind])
    drawn_updates(model)
    [(_, state)] = lora.candidates(model).items()
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "w.safetensors")
    _, again = with_lora(references[kind])
    assert same(both(model.eval()), both(again.eval())) == [False, False]
    again.load_state_dict(load_file(tmp_path / "w.safetensors"))
    assert same(both(model), both(again)) == [True, True]
    with pytest.raises(RuntimeError, match="parametrizations"):
        load(references[kind]).load_state_dict(state)
    with pytest.raises(UsageError, match=r"where: .* surplus .*; its low-rank updates are no part of"):
        fitting(state, load(references[kind]).state_dict(), "where", allow_missing=(), allow_surplus=())
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)).state_dict()
    with pytest.raises(UsageError, match="allow_missing and allow_surplus take patterns"):
        fitting(normed, nn.Linear(2, 2).state_dict(), "where", allow_missing=(), allow_surplus=())


def test_targets_choose_matrices_and_frozen_ones_are_left_alone() -> None:
    def updated(reference: str, options: str) -> set[str]:
        names = with_lora(reference, options)[1].state_dict()
        return {name.partition(".parametrizations.")[0] for name in names if name.endswith(".0.a")}

    every = updated(TINY, 'targets="*"')
    assert {name.rpartition(".")[2] for name in every} == {
        *("attn", "out_proj", "c_fc", "c_proj"),
        *("visual", "text"),  # their last projections
    }
    assert {name.rpartition(".")[2] for name in updated(TINY, "")} == {"attn", "out_proj"}
    assert updated(TINY, 'targets="*.visual.*c_fc*,*.text.*c_fc*"') == {name for name in every if "c_fc" in name}
    text = updated(TINY.replace("]", ",frozen_towers=image]"), "")
    assert text == {name for name in updated(TINY, "") if ".text." in name}
    with pytest.raises(UsageError, match=r"targets=\*conv\*; there are 10: clip\.visual.*, and 7 more"):
        with_lora(TINY, 'targets="*conv*"')
    with pytest.raises(UsageError, match=r"no trainable matrix matches '\*typo\*' of targets"):
        with_lora(TINY, 'targets="*attn*,*typo*"')
    with pytest.raises(UsageError, match="there are 0: none"):
        with_lora(TINY.replace("]", ',frozen_towers="image,text"]'))


# Adapters.


@pytest.mark.parametrize("kind", ["linear", "residual"])
def test_adapters_learn_on_an_encoder_that_stays(kind: str, references: dict[str, str], tmp_path: Path) -> None:
    reference = references["resnet"]
    adapters = method(f"adapters[kind={kind},bottleneck=4]")
    extend: Callable[[], Any] = lambda: adapters.extend(load(reference))  # noqa: E731
    model = extend()
    assert same(both(load(reference).eval()), both(model.eval())) == [True, True]
    training, start = Training(adapters, model), copied(model)
    groups = adapters.parameter_groups(model, 1e-3)
    assert [group["lr"] for group in groups] == [1e-3, pytest.approx(1e-2)]
    batches = [inputs_of(model, seed=seed) for seed in range(3)]
    training.run(batches)
    heads = {name for name in start if name.startswith(("image_head.", "text_head."))}
    assert moved(start, model) == heads | {"base.clip.logit_scale"}
    model.train()
    assert not model.base.encode_image(batches[0][0]).requires_grad
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, tmp_path / "w.safetensors")
    again = extend()
    again.load_state_dict(load_file(tmp_path / "w.safetensors"))
    assert same(both(model.eval()), both(again.eval())) == [True, True]


def test_adapters_lower_the_loss_they_are_trained_by() -> None:
    adapters, small = method("adapters"), Small()
    small.logit_scale.requires_grad_(False)  # as an encoder's option may: then the scale is not trained either
    training = Training(adapters, adapters.extend(small), steps=40, learning_rate=1e-3)
    scale = small.logit_scale.item()
    inputs = vectors(16, 0)
    batch = Drawn(training.model.eval(), *inputs)
    before = training.context.pair_loss(batch).item()
    training.run([inputs] * 40)
    assert training.context.pair_loss(Drawn(training.model, *inputs)).item() < 0.7 * before
    assert F.cosine_similarity(batch.image_features, Drawn(training.model, *inputs).image_features).min() < 0.99
    assert small.logit_scale.item() == scale


@pytest.mark.parametrize(
    ("written", "same", "other"),
    [
        ("adapters[kind=linear]", "adapters[kind=linear,bottleneck=4]", "adapters[bottleneck=4]"),
        ("align_statistics", "align_statistics[shrinkage=0.5]", "align_statistics[whitening=true,shrinkage=0.5]"),
    ],
)
def test_an_option_that_changes_nothing_is_not_part_of_the_key(written: str, same: str, other: str) -> None:
    first, second, third = (
        REGISTRY.resolve("adaptation", one).options.identity() for one in (written, same, other)
    )
    assert first == second != third
