"""Keys and names: what is one thing has one key however it is written, and a graph of stages holds together."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from identity_world import keys_of
from pydantic import BaseModel, RootModel, model_serializer

from urbancross_bench.errors import UsageError
from urbancross_bench.execution.plan import Plan, make_plan
from urbancross_bench.identity import canonical_json, derive_seed, digest, key_of
from urbancross_bench.interfaces import Options
from urbancross_bench.registry import Registry
from urbancross_bench.specs import load_grid

GridWriter = Callable[..., Path]
BUDGET = {"batch_size": 8, "target_batch_size": 4}


def plan_of(file: Path) -> Plan:
    return make_plan(load_grid(file), Registry.discover())


# ── One thing, written in two ways ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("one", "other"),
    [
        # Twelve training images are one step of eight: three passes are three steps.
        ({"budget": {**BUDGET, "steps": 3}}, {"budget": {**BUDGET, "epochs": 3}}),
        ({"pretraining": {"steps": 3, "batch_size": 8}}, {"pretraining": {"epochs": 3, "batch_size": 8}}),
        ({"budget": {**BUDGET, "steps": 3}}, {"budget": {**BUDGET, "steps": 3, "weight_decay": 0.1, "ema": 0}}),
        (
            {"scenarios": "all_ordered_pairs"},
            {"scenarios": [{"source": s, "target": t} for s in ("dark", "plain") for t in ("dark", "plain")]},
        ),
        ({"adaptations": ["urbancross"]}, {"adaptations": {"u": "urbancross[variant=paper,triplet=1]"}}),
        ({"protocols": ["row_diagonal"], "ties": "optimistic"}, {"protocols": ["urbancross_released"]}),
        ({"encoders": ["openclip[architecture=urbancross-s]"]}, {"encoders": {"e": "openclip"}}),
    ],
)
def test_what_is_the_same_has_the_same_keys(
    grid: GridWriter, one: Mapping[str, Any], other: Mapping[str, Any]
) -> None:
    assert keys_of(plan_of(grid(**one))) == keys_of(plan_of(grid(**other)))


def test_a_method_that_takes_no_step_does_not_depend_on_how_many_others_take(grid: GridWriter) -> None:
    few, many = ({"budget": {**BUDGET, "steps": steps}, "adaptations": ["zero_shot"]} for steps in (2, 20))
    assert keys_of(plan_of(grid(**few))) == keys_of(plan_of(grid(**many)))


def test_the_same_run_twice_is_refused(grid: GridWriter) -> None:
    with pytest.raises(UsageError, match=r"the same.* a .* b "):
        plan_of(grid(adaptations={"a": "urbancross", "b": "urbancross[triplet=1.0]"}))


def test_a_source_under_another_name_is_no_shift(grid: GridWriter, domains: dict[str, str]) -> None:
    twins = {"a": domains["plain"], "b": domains["plain"]}
    with pytest.raises(UsageError, match="'a' and 'b' hold the same data"):
        plan_of(grid(domains=twins, scenarios=[{"source": "a", "target": "b"}]))


# ── The graph of stages ───────────────────────────────────────────────────────────────────────────


def test_source_only_is_trained_once_for_all_targets(grid: GridWriter) -> None:
    plan = plan_of(grid(adaptations=["source_only"], seeds=[0, 1]))
    kinds = [stage.kind for stage in plan.stages.values()]
    assert (len(plan.runs), kinds.count("pretrain"), kinds.count("adapt")) == (8, 4, 4)


def test_every_stage_follows_its_inputs(grid: GridWriter) -> None:
    plan = plan_of(grid(selectors=["last", "source_val", "target_oracle"]))
    seen: set[str] = set()
    for key, stage in plan.stages.items():
        assert set(stage.inputs.values()) <= seen
        seen.add(key)


def test_unsupervised_training_does_not_depend_on_target_test_or_val(grid: GridWriter) -> None:
    plan = plan_of(grid(scenarios=[{"source": "plain", "target": "dark"}], adaptations=["urbancross"]))
    [run] = plan.runs
    reached, labels = [*run.trainings], set()
    while reached:
        stage = reached.pop()
        labels.add(stage.label)
        reached += [plan.stages[key] for key in stage.inputs.values()]
    assert {label for label in labels if label.startswith(("dark", "plain"))} == {"dark train", "plain train"}


def test_another_method_moves_no_other(grid: GridWriter) -> None:
    alone, beside = (
        {
            str(run): (run.key, *(score.key for score in run.scores))
            for run in plan_of(grid(adaptations=names)).runs
        }
        for names in (["urbancross"], ["source_only", "dann", "urbancross", "csls"])
    )
    assert alone.items() <= beside.items()


# ── Hashes ────────────────────────────────────────────────────────────────────────────────────────


def test_keys_do_not_depend_on_the_hash_seed(grid: GridWriter, tmp_path: Path) -> None:
    file = grid(selectors=["source_val", "target_oracle"])
    command = [sys.executable, "-m", "urbancross_bench", "plan", str(file), "--json", "--out", str(tmp_path / "o")]
    plans = []
    for seed in ("1", "2"):
        done = subprocess.run(command, capture_output=True, check=True, env={"PYTHONHASHSEED": seed, "PATH": ""})
        plans.append(json.loads(done.stdout))
    assert plans[0] == plans[1]


class Part(Options):
    """An option in an option."""

    names: frozenset[int] = frozenset()


class Sets(Options):
    """Options whose order Python is free to choose."""

    whole: set[int]
    within: dict[str, tuple[Part, set[int]]]
    listed: list[int]


def test_a_set_is_the_same_in_any_order() -> None:
    one, other = [{8, 0}, {0, 8}] if [*{8, 0}] != [*{0, 8}] else [set(), set()]  # in a set of eight places
    assert one, "Python orders small sets in another way; find two that are ordered differently"
    made = [Sets(whole=s, within={"a": (Part(names=frozenset(s)), s)}, listed=[8, 0]) for s in (one, other)]
    assert made[0].identity() == made[1].identity()
    assert made[0].identity() == {
        "whole": [0, 8], "within": {"a": [{"names": [0, 8]}, [0, 8]]}, "listed": [8, 0]
    }  # fmt: skip


class Written(BaseModel):
    """An option that is written in a way of its own."""

    parts: frozenset[int]

    @model_serializer
    def text(self) -> str:
        return "+".join(map(str, sorted(self.parts)))


class Renamed(BaseModel):
    """And one that is written under another name."""

    part: int

    @model_serializer
    def named(self) -> dict[str, int]:
        return {"of": self.part}


@dataclass(frozen=True)
class Record:
    """One that is no model."""

    parts: frozenset[int]


class Unusual(Options):
    """What else pydantic takes, with sets in it."""

    written: Written
    renamed: Renamed
    root: RootModel[set[int]]
    record: Record
    records: set[Record]
    sets: set[frozenset[int]]
    pairs: set[tuple[str, frozenset[int]]]


def test_sets_in_whatever_pydantic_takes_are_the_same_in_any_order() -> None:
    one, other = [{8, 0}, {0, 8}] if [*{8, 0}] != [*{0, 8}] else [set(), set()]
    assert one
    made = [
        Unusual(
            written=Written(parts=frozenset(s)),
            renamed=Renamed(part=3),
            root=RootModel[set[int]](s),
            record=Record(frozenset(s)),
            records={Record(frozenset(s)), Record(frozenset())},
            sets={frozenset(s), frozenset({3})},
            pairs={("a", frozenset(s))},
        )
        for s in (one, other)
    ]
    assert made[0].identity() == made[1].identity()
    assert made[0].identity() == {
        "written": "0+8", "renamed": {"of": 3}, "root": [0, 8], "record": {"parts": [0, 8]},
        "records": [{"parts": [0, 8]}, {"parts": []}], "sets": [[0, 8], [3]], "pairs": [["a", [0, 8]]],
    }  # fmt: skip


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(one=JSON, other=JSON)
def test_equal_facts_have_one_key_and_others_another(one: Any, other: Any) -> None:
    # What JSON itself tells apart: 1, 1.0 and true are three facts.
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (key_of(one) == key_of(other)) == same
    assert json.loads(canonical_json(one)) == one


@given(facts=st.dictionaries(st.text(), JSON, max_size=4), data=st.data())
def test_the_order_of_facts_does_not_count(facts: dict[str, Any], data: st.DataObject) -> None:
    assert key_of(dict(data.draw(st.permutations([*facts.items()])))) == key_of(facts)


@given(one=st.lists(st.binary(max_size=3), max_size=3), other=st.lists(st.binary(max_size=3), max_size=3))
def test_hashes_keep_parts_apart(one: list[bytes], other: list[bytes]) -> None:
    assert (digest(one) == digest(other)) == (one == other)


@given(names=st.lists(st.text() | st.integers(), max_size=4), more=st.text())
def test_seeds_depend_on_their_names(names: list[Any], more: str) -> None:
    assert derive_seed(*names) == derive_seed(*names)
    assert derive_seed(*names) != derive_seed(*names, more)
    assert 0 <= derive_seed(*names) < 2**63
