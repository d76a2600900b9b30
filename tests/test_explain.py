"""`explain`: the facts that make two keys differ, and no others."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Outcome, Result
from hypothesis import example, given
from hypothesis import strategies as st

from urbancross_bench.errors import UsageError
from urbancross_bench.execution.explaining import ABSENT, Library, compared, explain
from urbancross_bench.execution.plan import Plan, Run, make_plan
from urbancross_bench.execution.store import Store
from urbancross_bench.files import write_json
from urbancross_bench.records import writing_record
from urbancross_bench.registry import Registry
from urbancross_bench.specs import load_grid

Cli = Callable[..., Result]
GridWriter = Callable[..., Path]

PAIR: dict[str, object] = {"scenarios": [{"source": "plain", "target": "dark"}], "adaptations": ["urbancross"]}
TRAINING = {"steps": 3, "batch_size": 8, "learning_rate": 1e-3}


def planned(file: Path) -> Plan:
    return make_plan(load_grid(file), Registry.discover())


def fill(out: Path, plan: Plan, *, kinds: tuple[str, ...] = (), records: bool = True) -> None:
    """An output folder as if the grid had been run: stages (of some kinds only, if named), and records of runs."""
    store = Store(out / "store")
    store.create()
    for stage in plan.stages.values():
        if not kinds or stage.kind in kinds:
            folder = store.path(stage.kind, stage.key)
            folder.mkdir(parents=True, exist_ok=True)
            content = {"kind": stage.kind, "facts": stage.facts, "inputs": stage.inputs, "files": {}}
            write_json(folder / "stage.json", content)
    for run in plan.runs if records else ():
        if run.spec is not None:
            with writing_record(out / "runs" / run.key, run.spec, "ok"):
                pass


def lines(result: Result) -> list[str]:
    """What follows the two things and an empty line."""
    assert result.status == 0, result.err
    _, _, empty, *rest = result.out.splitlines()
    assert empty == ""
    return rest


# ── Runs ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"pretraining": TRAINING | {"loss": "hinge"}}, {"start.recipe.loss", "training.0.loss"}),
        ({"pretraining": TRAINING | {"steps": 4}}, {"start.recipe.steps"}),
        ({"budget": {"steps": 3, "batch_size": 8, "target_batch_size": 4}}, {"training.0.budget.steps"}),
        ({"adaptations": ["urbancross[triplet=0.5]"]}, {"adaptation.options.triplet"}),
        ({"threads": 2}, {"training.0.threads"}),
        ({"seeds": [1]}, {"training.0.seed"}),
        ({"disjoint_halves": True}, {"training.0.shown.disjoint_halves"}),
    ],
)
def test_one_changed_value_is_named_and_nothing_else(
    grid: GridWriter, cli: Cli, tmp_path: Path, change: dict[str, object], expected: set[str]
) -> None:
    before, after = planned(grid(**PAIR)), planned(grid(**(PAIR | change)))
    fill(tmp_path / "out", before)
    fill(tmp_path / "out", after)
    keys = [plan.runs[0].key for plan in (before, after)]
    said = json.loads(cli("explain", *keys, tmp_path / "out", "--json").out)
    assert (said["same"], said["unknown"]) == (False, [])
    paths = {path for found in said["differences"] for path in (found["path"], *found["also"])}
    named = {found["path"] for found in said["differences"]}
    assert named <= paths
    assert expected <= paths
    last = {path.rpartition(".")[2] for path in expected}
    assert {path.rpartition(".")[2] for path in named} == last


def test_a_line_names_both_values_and_where_else(grid: GridWriter, cli: Cli, tmp_path: Path) -> None:
    plan = planned(grid(**PAIR, seeds=[0, 1]))
    fill(tmp_path / "out", plan)
    first, second = plan.runs
    result = cli("explain", first.key[:12], second.key[:12], tmp_path / "out")
    assert lines(result) == ["training.0.seed: 0 → 1  (also start.seed)"]
    assert result.out.startswith(
        f"run {first.key}  plain → dark · tiny · urbancross · seed 0  ({tmp_path / 'out'})"
    )


def test_changed_data_is_one_line_a_split_under_its_hash(
    grid: GridWriter, cli: Cli, tmp_path: Path, domains: dict[str, str]
) -> None:
    before = planned(grid(**PAIR))
    file = tmp_path / "plain" / "dataset.json"
    file.write_text(file.read_text().replace("a red place", "one red place"))
    after = planned(grid(**PAIR))
    for plan in (before, after):
        fill(tmp_path / "out", plan)
    found = lines(cli("explain", before.runs[0].key, after.runs[0].key, tmp_path / "out"))
    hashes = r"\w{32} → \w{32}"
    trained, chosen_on = sorted(found)
    assert re.fullmatch(rf"domains.source.0.train: {hashes}  \(also training.0.source.0.content\)", trained)
    assert re.fullmatch(rf"domains.source.0.val: {hashes}", chosen_on)


def test_records_alone_say_what_their_stages_would(grid: GridWriter, cli: Cli, tmp_path: Path) -> None:
    before, after = planned(grid(**PAIR)), planned(grid(**PAIR, threads=2))
    for plan in (before, after):
        fill(tmp_path / "out", plan, kinds=("items",))
    keys = [plan.runs[0].key for plan in (before, after)]
    found = lines(cli("explain", *keys, tmp_path / "out"))
    assert found[0] == "threads: 1 → 2"
    assert [line.partition(":")[0] for line in found[1:]] == ["training.0", "start"]
    assert all("are not there" in line for line in found[1:])


# ── Stages, scores and plans ──────────────────────────────────────────────────────────────────────


def test_inputs_are_descended_into_once(grid: GridWriter, tmp_path: Path) -> None:
    plans = [planned(grid(**PAIR)), planned(grid(**PAIR, pretraining=TRAINING | {"learning_rate": 0.5}))]
    for plan in plans:
        fill(tmp_path / "out", plan, records=False)
    library = Library([tmp_path / "out"], None)
    ranks = [plan.runs[0].scores[0].stage.key for plan in plans]
    found = explain(library[ranks[0]], library[ranks[1]], library)
    assert [(one.path, one.values, one.also) for one in found.differences] == [
        ("test.0.model.start.recipe.learning_rate", (0.001, 0.5), [])
    ]
    assert found.unknown == ()


def test_an_input_that_is_gone_is_said_to_be(grid: GridWriter, tmp_path: Path, cli: Cli) -> None:
    plans = [planned(grid(**PAIR)), planned(grid(**PAIR, pretraining=TRAINING | {"learning_rate": 0.5}))]
    fill(tmp_path / "one", plans[0], kinds=("adapt", "pack", "pretrain"), records=False)
    fill(tmp_path / "two", plans[1], kinds=("adapt", "pack"), records=False)
    adapts = [plan.runs[0].trainings[0] for plan in plans]
    starts = [stage.inputs["start"] for stage in adapts]
    [line] = lines(cli("explain", *(stage.key for stage in adapts), tmp_path / "one", tmp_path / "two"))
    assert line == f"start: {starts[0]} → {starts[1]}  (the facts of {starts[1]} are not there)"


def test_a_role_that_only_one_has(grid: GridWriter, tmp_path: Path) -> None:
    plan = planned(grid(scenarios=PAIR["scenarios"], adaptations=["source_only", "dann"]))
    library = Library([], plan)
    first, second = (run.trainings[0].key for run in plan.runs)
    found = {one.path: one.values for one in explain(library[first], library[second], library).differences}
    target = plan.runs[1].trainings[0].inputs["target.0"]
    assert found["target.0"] == (ABSENT, f"pack {target}")
    assert found["adaptation.name"] == ("source_only", "dann")
    assert not any("options" in path for path in found)  # they are another plugin's, not other values


def test_what_a_grid_plans_is_there_too(grid: GridWriter, cli: Cli, tmp_path: Path) -> None:
    before, file = planned(grid(**PAIR)), grid(**PAIR, selectors=["source_val"])
    after = planned(file)
    fill(tmp_path / "out", before)
    [old], [new] = before.runs[0].scores, after.runs[0].scores
    # The run is the same; its score is not made yet, and its stage is there under no key but the plan's.
    assert before.runs[0].key == after.runs[0].key
    said = json.loads(cli("explain", old.stage.key, new.stage.key, tmp_path / "out", "--grid", file, "--json").out)
    named = {found["path"] for found in said["differences"]}
    assert {path for path in named if path.startswith("selector")} == {"selector.name"}
    assert "source_val.0" in named
    assert said["other"]["where"] == "planned"
    assert cli("explain", new.key[:10], new.stage.key[:10], tmp_path / "out").status == 2
    alone = cli("explain", new.key[:10], new.key[:10], tmp_path / "out", "--plugin", tmp_path / "any.py")
    assert (alone.status, "--plugin goes with --grid" in alone.err) == (2, True)


def test_scores_of_two_protocols_differ_in_that(grid: GridWriter) -> None:
    plan = planned(grid(**PAIR, protocols=["classic", "deduplicated"]))
    library = Library([], plan)
    first, second = plan.runs[0].scores
    [found] = explain(library[first.key], library[second.key], library).differences
    assert (found.path, found.values) == ("protocol", ("classic", "deduplicated"))


@pytest.mark.slow
def test_real_records_are_explained_like_plans(outcome: Outcome, cli: Cli) -> None:
    """Recorded scores, held against each other and against what the same grid plans."""
    plan = planned(outcome.file)
    runs = {str(run): run for run in plan.runs if not run.skipped}
    run, other = (runs[f"plain → dark · tiny · urbancross · seed {seed}"] for seed in (0, 1))
    scores = [one.scores[0].key for one in (run, other)]
    recorded = lines(cli("explain", *scores, outcome.out))
    assert recorded == ["run.training.0.seed: 0 → 1  (also run.start.seed)"]
    library, ahead = Library([outcome.out], None), Library([], plan)
    for score in run.scores:
        there = explain(library[score.key], ahead[score.key], ahead)
        assert (there.differences, there.unknown) == ((), ())
    for key in (run.key, run.trainings[0].key):
        assert explain(library[key], ahead[key], ahead).differences == ()


# ── Finding ───────────────────────────────────────────────────────────────────────────────────────


def test_equal_keys_say_so(grid: GridWriter, cli: Cli, tmp_path: Path) -> None:
    plan = planned(grid(**PAIR))
    fill(tmp_path / "out", plan)
    key = plan.runs[0].key
    assert "the same key: nothing differs" in cli("explain", key, key, tmp_path / "out").out
    assert json.loads(cli("explain", key, key, tmp_path / "out", "--json").out)["same"] is True


def test_different_kinds_are_not_compared(grid: GridWriter, cli: Cli, tmp_path: Path) -> None:
    plan = planned(grid(**PAIR))
    fill(tmp_path / "out", plan)
    run: Run = plan.runs[0]
    assert lines(cli("explain", run.trainings[0].key, run.trainings[0].inputs["start"], tmp_path / "out")) == [
        "kind: adapt → pretrain"
    ]


def test_keys_that_are_not_there_or_not_clear(
    grid: GridWriter, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(grid(**PAIR))
    fill(tmp_path / "runs" / "tiny", plan)
    (tmp_path / "runs" / "notes").mkdir()
    key = plan.runs[0].key
    monkeypatch.chdir(tmp_path)
    assert "the same key" in cli("explain", key[:8], key).out  # found below ./runs
    missing = cli("explain", key, "zzzz")
    assert (missing.status, "no stage, run or score has a key zzzz…; looked in runs/tiny" in missing.err) == (
        2,
        True,
    )
    with pytest.raises(UsageError, match=r"keys begin with : .*, and [0-9]+ more; write more of it"):
        Library([tmp_path / "runs" / "tiny"], None).find("")
    assert "holds no store" in cli("explain", key, key, tmp_path / "runs" / "notes").err
    monkeypatch.chdir(tmp_path / "runs" / "notes")
    assert "no output folder below runs" in cli("explain", key, key).err


def test_a_record_that_cannot_be_read_is_an_error(grid: GridWriter, cli: Cli, tmp_path: Path) -> None:
    plan = planned(grid(**PAIR))
    fill(tmp_path / "out", plan)
    file = tmp_path / "out" / "runs" / plan.runs[0].key / "run.json"
    for text in ("{", "[]", '{"key": "x"}'):
        file.write_text(text)
        result = cli("explain", plan.runs[0].key, plan.runs[0].key, tmp_path / "out")
        assert (result.status, "record" in result.err) == (2, True)


# ── Values ────────────────────────────────────────────────────────────────────────────────────────

NAMES = st.sampled_from(["a", "b", "c"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from(["", "x"]),
    lambda inner: st.dictionaries(NAMES, inner, max_size=3) | st.lists(inner, max_size=3),
    max_leaves=8,
)


def put_at(value: Any, path: list[str], new: Any) -> Any:
    """The value with another at a path; ABSENT takes the name away."""
    if not path:
        return new
    name, *rest = path
    if isinstance(value, list):
        return [put_at(one, rest, new) if str(n) == name else one for n, one in enumerate(value)]
    if new is ABSENT and not rest:
        return {key: one for key, one in value.items() if key != name}
    return {**value, name: put_at(value.get(name), rest, new)}


@given(VALUES, VALUES)
@example([{}, {}], [{}, {"a": None}])
def test_the_differences_make_the_one_into_the_other(one: Any, other: Any) -> None:
    found = list(compared(one, other))
    made = one
    for path, _, new in found:
        made = put_at(made, path.split(".") if path else [], new)
    assert json.dumps(made, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (found == []) == (json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True))
    assert len({path for path, _, _ in found}) == len(found)


def test_long_values_are_cut_and_strings_are_told_from_numbers(grid: GridWriter, cli: Cli, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.create()
    keys = []
    for n, facts in enumerate(
        ({"a": "2", "b": "x" * 400, "c": None, "d": "plain"}, {"a": 2, "b": "y", "d": "dark"})
    ):
        keys.append(f"{n:032x}")
        folder = store.path("pack", keys[-1])
        folder.mkdir(parents=True)
        write_json(folder / "stage.json", {"kind": "pack", "facts": facts, "inputs": {}, "files": {}})
    found = lines(cli("explain", *keys, tmp_path))
    assert found[0] == 'a: "2" → 2'
    assert re.fullmatch(r"b: x{159}… → y", found[1])
    assert found[2:] == ["c: null → absent", "d: plain → dark"]
