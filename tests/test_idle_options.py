"""Options that do nothing as others stand: refused in a grid, no part of any key, free in a search."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import Result
from feature_data import save_npz

from urbancross_bench.errors import UsageError
from urbancross_bench.execution.methods import refuse_idle
from urbancross_bench.interfaces import Progress
from urbancross_bench.records import read_records
from urbancross_bench.registry import Registry

Cli = Callable[..., Result]
GridWriter = Callable[..., Path]
REGISTRY = Registry.discover()
PAIR = [{"source": "plain", "target": "dark"}]
FEATURES = ("image_features", "text_features", "reference_image_features", "reference_text_features")
# As written, and with other values for all that is idle there.
IDLE = [
    ("adapters[kind=linear]", {"bottleneck": 3}),
    ("align_statistics", {"shrinkage": 0.5}),
    ("urbancross[order=none]", {"first_share": 0.3, "share_step": 0.5}),
    (
        "urbancross[order=none,triplet=0,weighted=none]",
        {
            "features": "live",
            **{"first_share": 0.3, "share_step": 0.5, "restart": 2, "similarity": "text", "sums": "slice"},
            **{"source_weights": "target", "negatives": "source", "first_margin": 0.1, "margin_step": 0.1},
            **{"last_margin": 0.3, "pairs_scale": 3.0},
        },
    ),
    (
        "urbancross[adversarial=0]",
        {"domains_of": "text", "reversal": "none", "discriminator_learning_rate": 0.5, "sums": "nearest"},
    ),
    (
        "urbancross[adversarial=0,triplet=0,pairs=1,order=random]",
        {"weighted": "none", "similarity": "text", "features": "live"},
    ),
    ("urbancross[share_step=0,triplet=0]", {"restart": 2}),
    ("urbancross[first_share=1,margin_step=0]", {"restart": 2}),
    ("urbancross[weighted=triplet,triplet=0]", {"sums": "nearest", "source_weights": "target"}),
    ("urbancross[variant=april_2024]", {"first_margin": 0.3, "negatives": "source"}),
]
SLEEPY = """
from collections.abc import Mapping
from urbancross_bench.interfaces import Options, Selector, hookimpl, register
from urbancross_encoders.options import OpenClipOptions
from urbancross_encoders.openclip import OpenClip as Sleepy

class Sleep(Options):
    deep: bool = False
    depth: int = 1

    def idle(self) -> Mapping[str, str]:
        return {} if self.deep else {"depth": "deep=false"}

class SleepyOptions(OpenClipOptions):
    deep: bool = False
    depth: int = 1
    idle = Sleep.idle

class Drowsy(Selector):
    options_type = Sleep

    def scores(self, candidates):
        return [0.0 for _ in candidates]

@hookimpl
def register_encoders():
    options = "sleepy:SleepyOptions"
    return [register("sleepy", "sleepy:Sleepy", options=options, provides={"gradients"}, summary="Sleeps.")]

@hookimpl
def register_selectors():
    return [register("drowsy", "sleepy:Drowsy", options="sleepy:Sleep", setting="source_only", summary="Yawns.")]
"""


def changed(written: str, options: dict[str, Any]) -> str:
    name, _, given = written.rstrip("]").partition("[")
    said = [given] if given else []
    return f"{name}[{','.join([*said, *(f'{key}={value}' for key, value in options.items())])}]"


def resolved(reference: str) -> Any:
    return REGISTRY.resolve("adaptation", reference)


@pytest.mark.parametrize(("written", "idle"), IDLE)
def test_what_does_nothing_is_refused_by_name_and_is_no_part_of_the_identity(
    written: str, idle: dict[str, Any]
) -> None:
    plain = resolved(written)
    refuse_idle(plain)
    assert {*idle} <= {*plain.options.idle()}
    assert resolved(changed(written, idle)).options.identity() == plain.options.identity()
    for name, value in idle.items():
        one = resolved(changed(written, {name: value}))
        with pytest.raises(UsageError, match=f": {name} does nothing with .*; leave it out"):
            refuse_idle(one)
        default = plain.plugin.options_type.model_fields[name].default
        refuse_idle(resolved(changed(written, {name: default})))


def batch(rows: int, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    made = {name: F.normalize(torch.randn(rows, 8, generator=generator), dim=1) for name in FEATURES}
    made = {name: x.requires_grad_("reference" not in name) for name, x in made.items()}
    return SimpleNamespace(**made, image_rows=torch.arange(rows), text_rows=torch.arange(rows))


def trained_by(reference: str) -> list[Any]:
    """Kept rows, losses and gradients of steps in several passes, and the state of the random numbers behind."""
    found: list[Any] = []
    for target_pass in range(4):
        torch.manual_seed(0)
        method, source, target = resolved(reference).build(), batch(6, seed=1), batch(5, seed=2)
        context = SimpleNamespace(
            width=8,
            device=torch.device("cpu"),
            pair_loss=lambda b: (b.image_features * b.text_features).sum(),
            log=lambda name, value: None,
        )
        method.prepare(None, context)
        progress = Progress(step=3, steps=9, source_pass=0, target_pass=target_pass)
        kept = method.select(source, target, progress)
        rows = torch.arange(6) if kept is None else kept
        cut = SimpleNamespace(**{name: getattr(source, name)[rows] for name in FEATURES})
        losses = method.loss(cut, target, progress)
        sum(losses.values()).backward()
        gradients = [getattr(side, name).grad for side in (source, target) for name in FEATURES[:2]]
        found += [rows.tolist(), {name: value.item() for name, value in losses.items()}]
        found += [None if gradient is None else gradient.tolist() for gradient in gradients]
        found.append(torch.get_rng_state().tolist())
    return found


@pytest.mark.parametrize(("written", "idle"), [pair for pair in IDLE if pair[0].startswith("urbancross")])
def test_what_is_said_to_do_nothing_does_nothing_to_the_bit(written: str, idle: dict[str, Any]) -> None:
    assert trained_by(written) == trained_by(changed(written, idle))


def test_what_is_not_said_to_do_nothing_does_something() -> None:
    """Each option of UrbanCross where its part is in use, so that the equality above says something."""
    other = {
        **{"first_share": 0.5, "share_step": 0.4, "restart": 2, "similarity": "text", "sums": "nearest"},
        **{"source_weights": "target", "negatives": "source", "first_margin": 0.1, "margin_step": 0.1},
        **{"last_margin": 0.6, "pairs_scale": 3.0, "domains_of": "text", "reversal": "none", "weighted": "none"},
    }
    base = "urbancross[pairs=1]"
    assert not resolved(base).options.idle()
    before = trained_by(base)
    assert [name for name, value in other.items() if trained_by(changed(base, {name: value})) == before] == []


def test_of_the_options_of_urbancross_none_is_idle_that_moves_a_default_run() -> None:
    """What stands idle in the paper's variant is the factor of a loss that it has not."""
    assert {*resolved("urbancross").options.idle()} == {"pairs_scale"}
    released = {
        name: {*resolved(f"urbancross[variant={name}]").options.idle()} for name in ("april_2024", "october_2024")
    }
    margin = {"negatives", "first_margin", "margin_step", "last_margin"}
    assert released == {"april_2024": margin, "october_2024": {"pairs_scale"}}


# In grids.


def test_a_grid_that_gives_an_idle_option_is_refused(grid: GridWriter, cli: Cli) -> None:
    def told(adaptation: str) -> Result:
        return cli("plan", grid(adaptations=["source_only", adaptation], scenarios=PAIR))

    refused = told("urbancross[order=none,first_share=0.3]")
    assert refused.status == 2
    named = "adaptation 'urbancross[order=none,first_share=0.3]'"
    assert refused.err.strip().endswith(f"{named}: first_share does nothing with order=none; leave it out")
    calibrated = told("csls[base='urbancross[pairs_scale=2]']")
    assert (calibrated.status, "pairs_scale does nothing with pairs=0" in calibrated.err) == (2, True)
    for fine in (
        "urbancross[order=none,first_share=0.2]",
        "urbancross[variant=october_2024,order=none]",
        "urbancross[variant=october_2024,weighted=none,sums=nearest]",
        "urbancross[variant=april_2024,order=none,share_step=0]",
    ):
        assert told(fine).status == 0


def test_an_encoder_and_a_selector_are_asked_too(grid: GridWriter, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "sleepy.py").write_text(SLEEPY)
    tiny = "sleepy[architecture=urbancross-tiny"
    wide = "[architecture=urbancross-tiny,frozen_towers=image,head=linear,bottleneck=3]"
    told = cli("plan", grid(encoders={"e": f"openclip{wide}"}))
    assert (told.status, f"encoder 'openclip{wide}': bottleneck does nothing with head=linear" in told.err) == (
        2,
        True,
    )
    for changes, name in (
        ({"encoders": {"e": f"{tiny},depth=3]"}}, "encoder 'sleepy[architecture=urbancross-tiny,depth=3]'"),
        ({"selectors": ["drowsy[depth=3]"]}, "selector 'drowsy[depth=3]'"),
    ):
        result = cli("plan", grid(plugins=["sleepy.py"], scenarios=PAIR, **changes))
        assert (result.status, f"{name}: depth does nothing with deep=false; leave it out" in result.err) == (
            2,
            True,
        )
    assert cli("plan", grid(plugins=["sleepy.py"], encoders={"e": f"{tiny},deep=true,depth=3]"})).status == 0
    (tmp_path / "sleepier.py").write_text(SLEEPY.replace('{"depth":', '{"dept":').replace("sleepy:", "sleepier:"))
    result = cli("plan", grid(plugins=["sleepier.py"], selectors=["drowsy"]))
    assert (result.status, "idle() of its options names 'dept', which is none of them" in result.err) == (2, True)


def test_a_search_may_draw_what_is_idle_in_one_trial_and_not_in_another(grid: GridWriter, cli: Cli) -> None:
    """Trials that differ in an idle option are one training: of two kinds and two widths three are left."""
    space = {"adapters": {"kind": ["linear", "residual"], "bottleneck": [4, 8]}}
    file = grid(
        adaptations=["adapters[bottleneck=4]"],
        scenarios=PAIR,
        selectors=["source_val"],
        search={"trials": 8, "space": {"adapters[bottleneck=4]": space["adapters"]}},
    )
    result = cli("plan", file, "--json")
    assert result.status == 0, result.err
    assert sum(stage["kind"] == "adapt" for stage in json.loads(result.out)["stages"]) == 3


def test_a_search_over_what_is_idle_in_all_trials_is_refused(grid: GridWriter, cli: Cli) -> None:
    def told(adaptation: str, space: dict[str, list[Any]], **more: Any) -> Result:
        search = {"trials": 5, "space": {"mine": space}}
        return cli("plan", grid(adaptations={"mine": adaptation}, selectors=["source_val"], search=search, **more))

    one = told("urbancross[variant=april_2024]", {"first_margin": [0.1, 0.2]})
    assert (
        one.status,
        "search.space: mine: first_margin does nothing with triplet=0; leave it out" in one.err,
    ) == (
        2,
        True,
    ), one.err
    # As written it does nothing, and in other trials it does.
    assert told("urbancross[order=none,first_share=0.4]", {"order": ["nearest", "random"]}).status == 0
    # A cell of an ablation has its entry's search.
    ablation = {"of": "mine", "factors": {"triplet": [1, 0]}}
    assert told("urbancross", {"first_margin": [0.1, 0.2]}, ablation=ablation).status == 0
    # What does nothing in any of them is no more than it were without an ablation.
    of_order = {"of": "mine", "factors": {"order": ["nearest", "random"]}}
    nowhere = told("urbancross[triplet=0]", {"first_margin": [0.1, 0.2]}, ablation=of_order)
    assert (nowhere.status, "mine: first_margin does nothing with triplet=0" in nowhere.err) == (2, True)
    # An entry beside it is no cell.
    beside = {"mine": "urbancross[variant=april_2024]", "other": "urbancross"}
    search = {"trials": 5, "space": {"mine": {"first_margin": [0.1, 0.2]}}}
    ablation = {"of": "other", "factors": {"triplet": [1, 0]}}
    refused = cli("plan", grid(adaptations=beside, selectors=["source_val"], search=search, ablation=ablation))
    assert (refused.status, "mine: first_margin does nothing with triplet=0" in refused.err) == (2, True)


# What an encoder has no tower for.


@pytest.fixture
def stored(tmp_path: Path, domains: dict[str, str]) -> str:
    """The precomputed encoder of both domains."""
    items = [
        e for d in ("plain", "dark") for e in json.loads((tmp_path / d / "dataset.json").read_text())["images"]
    ]
    captions = sorted({sentence["raw"] for item in items for sentence in item["sentences"]})
    rows = np.random.default_rng(0)
    images = save_npz(tmp_path / "i", [e["filename"] for e in items], rows.normal(size=(len(items), 8)))
    texts = save_npz(tmp_path / "t", captions, rows.normal(size=(len(captions), 8)))
    return f"precomputed[images={images},texts={texts},surplus=true]"


def test_lora_is_skipped_where_no_tower_is_trained_unless_it_names_its_targets(
    grid: GridWriter, cli: Cli, tmp_path: Path, stored: str
) -> None:
    tiny = "openclip[architecture=urbancross-tiny"
    encoders = {
        "stored": stored,
        "frozen": f'{tiny},frozen_towers="image,text",head=linear]',
        "half": f"{tiny},frozen_towers=image]",
        "free": f"{tiny}]",
    }
    heads = 'lora[targets="*_tower.*"]'
    file = grid(encoders=encoders, adaptations=["lora", heads, "adapters"], scenarios=PAIR)
    runs = json.loads(cli("plan", file, "--json").out)["runs"]
    skipped = {(run["encoder"], run["adaptation"]): run["reason"] for run in runs if run["state"] == "skipped"}
    assert {*skipped} == {("stored", "lora"), ("frozen", "lora")}
    assert (
        skipped["stored", "lora"]
        == "encoder 'stored' has no tower to train, and adaptation 'lora' trains nothing else"
    )
    out, small = tmp_path / "out", grid(encoders={"stored": stored}, adaptations=["lora", heads], scenarios=PAIR)
    assert cli("run", small, "--out", out).status == 0
    [record] = read_records([out])
    assert (record.spec["adaptation"]["label"], record.ok) == (heads, True)
