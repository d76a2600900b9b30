"""What moves which keys: lines for every field of a grid, alone and together; the order of its lists never."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from identity_world import KINDS, Keys, change_text, changed, keys_of, planned, write_world

from urbancross_bench.specs import Ablation, Budget, Grid, Pretraining, Range, Scenario, Search

KeysOf = Callable[[Mapping[str, Any]], Keys]
METHOD = "adapt embed rank run score"
TRAINING = f"pretrain {METHOD}"
DATA = "pack stored towers segments segment_features"
UNUSED = """
from urbancross_bench.interfaces import hookimpl

@hookimpl
def register_metrics():
    return []
"""


@dataclass(frozen=True)
class Line:
    """A change of a field, and the kinds of which all keys move, or some of them; all other keys stay.

    change: dotted path → value; `{folder}` is the world's. alone: what it moves depends on what else is changed.
    """

    field: str
    change: Mapping[str, Any]
    every: str = ""
    some: str = ""
    alone: bool = False

    @property
    def moves(self) -> set[str]:
        return {*self.every.split(), *self.some.split()}

    def clashes(self, other: Line) -> bool:
        """Whether one of the two would write over the other."""
        places = [(f"{mine}.", f"{theirs}.") for mine in self.change for theirs in other.change]
        return any(a.startswith(b) or b.startswith(a) for a, b in places)

    def __str__(self) -> str:
        return f"{self.field} {json.dumps(self.change)}"[:100]


def of_training(section: str, model: str, moves: str) -> list[Line]:
    """Lines of the fields that pre-training and budget share."""
    values = {
        "steps": 7,
        "batch_size": 4,
        "learning_rate": 0.002,
        "weight_decay": 0.2,
        "warmup": 0.1,
        "decay": 0.5,
        "decay_every": 2,
        "clip_norm": 2,
        "max_logit_scale": 50,
        "ema": 0.5,
        "micro_batch": 4,
        "checkpoint_activations": True,
        "compile": True,
        "frozen_statistics": True,
        "augmentation": ["flip"],
    }
    return [
        *(Line(f"{model}.{name}", {f"{section}.{name}": value}, moves) for name, value in values.items()),
        Line(f"{model}.epochs", {f"{section}.steps": None, f"{section}.epochs": 9}, moves),
        Line(f"{model}.schedule", {f"{section}.schedule": "cosine", f"{section}.decay_every": None}, moves),
    ]


FROZEN = "openclip[architecture=urbancross-tiny,checkpoint={folder}/weights.safetensors,frozen_towers=image"
FUSED = "sam_fused[fusion=mean,architecture=urbancross-"
STORED = "precomputed[images={folder}/features.images.npz,texts={folder}/features.texts.npz,surplus=true"
RENAMED = {
    "domains.old": None,
    "domains.ancient": "karpathy[file={folder}/old/dataset.json]",
    "segments.old": None,
    "segments.ancient": "{folder}/old_segments",
    "scenarios.3.target": "ancient",
}
# A share has a scenario, and an adaptation, of its own.
WITHOUT_THE_WAY_BACK = [
    {"source": ["plain"], "target": "dark"},
    {"source": ["plain"], "target": "dark", "share": 0.5},
    {"source": ["plain"], "target": "old"},
]

LINES = [
    # What things are called, and who carries them out.
    Line("Grid.name", {"name": "other"}),
    Line("Grid.description", {"description": "other"}),
    Line("Grid.executor", {"executor": "local[slots=3]"}),
    Line("Grid.executor", {"executor": "ray"}),
    Line("Grid.plugins", {"plugins": ["{folder}/some_unused_plugin.py"]}),
    Line("Grid.domains", RENAMED, alone=True),  # other lines name the domain as it is
    Line("Grid.encoders", {"encoders.fused": None, "encoders.renamed": FUSED + "tiny,most=2]"}),
    Line(
        "Grid.adaptations",
        {"adaptations.few": None, "adaptations.another": "few_shot", "ablation.of": "another"},
    ),
    # Data.
    Line(
        "Grid.domains",
        {"domains.dark": "karpathy[file={folder}/dark/train.json]"},
        "",
        f"pack stored towers {TRAINING}",
    ),
    Line(
        "Grid.domains",
        {"domains.dark": "karpathy[file={folder}/dark/test.json]"},
        "",
        "items pack stored towers embed rank run score",
    ),
    Line("Grid.domains", {"domains.unused": "karpathy[file={folder}/dark/test.json]"}),
    Line("Grid.exclusions", {"exclusions.dark": "{folder}/out.csv"}, "", f"{DATA} {TRAINING}"),
    Line(
        "Grid.segments",
        {"segments.dark": "{folder}/dark_wide_segments"},
        "",
        f"segments segment_features {TRAINING}",
    ),
    # Scenarios.
    Line("Grid.scenarios", {"scenarios": WITHOUT_THE_WAY_BACK}, "", f"items {DATA} {TRAINING}", alone=True),
    Line("Scenario.source", {"scenarios.0.source": ["plain", "old"]}, "", TRAINING),
    Line("Scenario.target", {"scenarios.0.target": "plain"}, "", METHOD),
    Line("Scenario.target", {"scenarios.3.target": "plain"}, "", f"items {DATA} {METHOD}", alone=True),
    Line("Scenario.share", {"scenarios.1.share": 0.25}, "", METHOD),
    Line("Scenario.share_seed", {"scenarios.1.share_seed": 3}, "", METHOD),
    Line("Scenario.share_seed", {"scenarios.1.share_seed": "run"}, "", METHOD),
    Line("Grid.disjoint_halves", {"disjoint_halves": True}, "", METHOD),
    # Encoders.
    Line("Grid.encoders", {"encoders.frozen": FROZEN + ",head=residual]"}, "", TRAINING),
    Line("Grid.encoders", {"encoders.frozen": FROZEN + ",head=linear,bottleneck=64]"}),  # as by default
    Line("Grid.encoders", {"encoders.frozen": FROZEN + ",head=linear,orientations=8]"}, "towers", TRAINING),
    Line(
        "Grid.encoders",
        {"encoders.fused": FUSED + "tiny,most=2,normalisation=imagenet]"},
        "segment_features",
        TRAINING,
    ),
    Line("Grid.encoders", {"encoders.fused": FUSED + "tiny,most=3]"}, "segments segment_features", TRAINING),
    Line(
        "Grid.encoders",
        {"encoders.fused": FUSED + "tiny,most=2,tower=pretrained]"},
        "segment_features",
        TRAINING,
        alone=True,
    ),
    Line("Grid.encoders", {"encoders.fused": FUSED + "tiny,most=2,caption_aware=true,allow_surplus=x]"}),
    Line(
        "Grid.encoders", {"encoders.fused": FUSED + "s,most=2]"}, "segments segment_features", f"pack {TRAINING}"
    ),
    Line("Grid.encoders", {"encoders.stored": STORED + ",logit_scale=2]"}, "stored", TRAINING),
    # Training.
    *of_training("pretraining", "Pretraining", TRAINING),
    Line("Pretraining.loss", {"pretraining.loss": "hinge"}, TRAINING),
    Line("Pretraining.segment_weight", {"pretraining.segment_weight": 0.5}, "", TRAINING),
    Line("Grid.pretraining", {"pretraining.learning_rate": 0.003}, TRAINING),
    *of_training("budget", "Budget", METHOD),
    Line("Budget.target_batch_size", {"budget.target_batch_size": 5}, METHOD),
    Line("Budget.checkpoints", {"budget.checkpoints": 3}, METHOD),
    Line("Grid.budget", {"budget.learning_rate": 0.003}, METHOD),
    Line("Grid.adaptations", {"adaptations.uda": "urbancross[first_share=0.3]"}, "", METHOD),
    Line("Grid.adaptations", {"adaptations.uda": "urbancross[first_share=0.2]"}),  # the default
    Line("Grid.adaptations", {"adaptations.after": "csls[neighbours=5]"}, "", "rank run score"),
    Line("Grid.adaptations", {"adaptations.still": "zero_shot"}, "", METHOD),
    Line("Grid.search", {"search": None}, "", METHOD),
    Line("Search.trials", {"search.trials": 3}, "", METHOD),
    Line("Search.seed", {"search.seed": 1}, "", METHOD),
    Line("Search.space", {"search.space.uda.pairs": [0.5, 1.0]}, "", METHOD),
    Line("Range.low", {"search.space.uda.adversarial.low": 0.6}, "", METHOD),
    Line("Range.high", {"search.space.uda.adversarial.high": 1.6}, "", METHOD),
    Line("Range.log", {"search.space.uda.adversarial.log": True}, "", METHOD),
    # An ablation: its cells are adaptations like any other.
    Line("Grid.ablation", {"ablation": None}, "", METHOD),
    Line("Ablation.of", {"ablation.of": "uda", "ablation.factors": {"order": ["nearest", "none"]}}, "", METHOD),
    Line("Ablation.factors", {"ablation.factors.source": [1.0, 0.25]}, "", METHOD),
    Line("Ablation.factors", {"ablation.factors.source": [1, 0.5]}),  # the same numbers
    Line("Ablation.design", {"ablation.design": "factorial"}, "", METHOD),
    Line("Grid.seeds", {"seeds": [2]}, f"segment_features {TRAINING}"),
    Line("Grid.seeds", {"seeds": [2, 1]}, "", f"segment_features {TRAINING}"),
    Line("Grid.precision", {"precision": "bfloat16"}, TRAINING),
    Line("Grid.threads", {"threads": 2}, f"towers segment_features {TRAINING}"),
    Line("Grid.ranks", {"ranks": 2}, TRAINING),
    # Scoring.
    Line("Grid.evaluation_precision", {"evaluation_precision": "bfloat16"}, "embed rank score"),
    Line("Grid.selectors", {"selectors": ["last", "neighbourhood_density[temperature=0.1]"]}, "", "rank score"),
    Line("Grid.selectors", {"selectors": ["last", "neighbourhood_density", "source_val"]}, "", "embed rank score"),
    Line("Grid.protocols", {"protocols": ["classic", "urbancross_released", "deduplicated"]}, "", "rank score"),
    Line("Grid.protocols", {"protocols": ["amfmn", "urbancross_released"]}),  # another name of `classic`
    Line("Grid.ties", {"ties": "pessimistic"}, "", "rank score"),
    Line("Grid.score_sources", {"score_sources": True}, "", "embed rank score"),
    Line("Grid.metrics", {"metrics": ["recall", "map"]}, "rank score"),
]
TOGETHER = [line for line in LINES if not line.alone]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the world lies."""
    return tmp_path_factory.mktemp("factors")


@pytest.fixture(scope="module")
def base(folder: Path) -> dict[str, Any]:
    """The grid that every line changes."""
    grid = write_world(folder)
    for split in ("train", "test"):
        change_text(folder / "dark", split, to=f"{split}.json")
    (folder / "some_unused_plugin.py").write_text(UNUSED, encoding="utf-8")
    return grid


@pytest.fixture(scope="module")
def keys(folder: Path, base: dict[str, Any]) -> KeysOf:
    """The keys of the grid with some changes; each is planned once."""

    @cache
    def plan(written: str) -> Keys:
        return keys_of(planned(changed(base, json.loads(written)), folder))

    def call(change: Mapping[str, Any]) -> Keys:
        return plan(json.dumps(change, sort_keys=True).replace("{folder}", str(folder)))

    return call


def test_no_field_of_a_grid_is_without_a_line() -> None:
    models = (Grid, Pretraining, Budget, Scenario, Search, Range, Ablation)
    fields = {f"{model.__name__}.{name}" for model in models for name in model.model_fields}
    assert {line.field for line in LINES} == fields


def test_the_world_has_stages_of_every_kind(keys: KeysOf) -> None:
    assert [kind for kind in KINDS if not keys({})[kind]] == []


@pytest.mark.parametrize("line", LINES, ids=str)
def test_a_field_moves_what_it_should_and_nothing_else(keys: KeysOf, line: Line) -> None:
    before, after = keys({}), keys(line.change)
    moved = {kind for kind in KINDS if before[kind] != after[kind]}
    wholly = {kind for kind in KINDS if not before[kind] & after[kind]}
    assert moved == line.moves
    assert wholly == {*line.every.split()}


@st.composite
def compatible(draw: st.DrawFn) -> list[Line]:
    """A few lines that do not write over each other."""
    lines: list[Line] = []
    for line in draw(st.lists(st.sampled_from(TOGETHER), max_size=4, unique_by=id)):
        if not any(line.clashes(other) for other in lines):
            lines.append(line)
    return lines


@settings(max_examples=15, deadline=None, derandomize=True)
@given(one=compatible(), other=compatible(), common=compatible())
def test_grids_share_the_kinds_that_no_line_between_them_moves(
    keys: KeysOf, one: list[Line], other: list[Line], common: list[Line]
) -> None:
    def with_common(lines: list[Line]) -> list[Line]:
        return [*lines, *(line for line in common if not any(line.clashes(mine) for mine in lines))]

    left, right = with_common(one), with_common(other)
    mine, theirs = (keys({p: v for line in lines for p, v in line.change.items()}) for lines in (left, right))
    between = [line for line in (*left, *right) if (line in left) != (line in right)]
    moves = set().union(*(line.moves for line in between))
    assert {kind for kind in KINDS if mine[kind] != theirs[kind]} == moves


SEVERAL = {
    "seeds": [3, 1],
    "selectors": ["last", "source_val", "neighbourhood_density"],
    "metrics": ["recall", "rank", "map"],
}
LISTS = (
    *("domains", "scenarios", "segments", "encoders", "adaptations", "selectors", "protocols", "seeds", "metrics"),
)


@settings(max_examples=5, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_order_of_a_grid_moves_nothing(
    folder: Path, base: dict[str, Any], keys: KeysOf, data: st.DataObject
) -> None:
    grid = changed(base, SEVERAL)
    shuffled: dict[str, Any] = {}
    for name in data.draw(st.permutations(sorted(grid))):
        value = grid[name]
        if name in LISTS:
            entries = data.draw(st.permutations([*value.items()] if isinstance(value, dict) else value))
            value = dict(entries) if isinstance(value, dict) else entries
        shuffled[name] = value
    assert keys_of(planned(shuffled, folder)) == keys(SEVERAL)
