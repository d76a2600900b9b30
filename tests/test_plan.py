"""`plan`: what it shows of runs and stages, what it guesses of time and disk, and its picture."""

from __future__ import annotations

import html
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Result
from hypothesis import given
from hypothesis import strategies as st

from urbancross_bench import api
from urbancross_bench.errors import UsageError
from urbancross_bench.execution.estimates import Estimate, Guess, estimate
from urbancross_bench.execution.picture import LARGEST, escaped, flowchart
from urbancross_bench.execution.plan import Plan, make_plan
from urbancross_bench.execution.stage import Stage
from urbancross_bench.execution.store import Store
from urbancross_bench.files import write_json
from urbancross_bench.registry import Registry
from urbancross_bench.specs import load_grid

Cli = Callable[..., Result]
GridWriter = Callable[..., Path]


def planned(file: Path) -> Plan:
    return make_plan(load_grid(file), Registry.discover())


def put(store: Store, stage: Stage, *, seconds: float = 1.0, size: int = 10_000) -> None:
    """A stage in the store as if it had been computed, without the care that takes."""
    folder = store.path(stage.kind, stage.key)
    folder.mkdir(parents=True)
    write_json(
        folder / "stage.json", {"kind": stage.kind, "facts": stage.facts, "inputs": stage.inputs, "files": {}}
    )
    write_json(folder / "provenance.json", {"seconds": seconds})
    (folder / "output").write_bytes(bytes(size - sum(file.stat().st_size for file in folder.iterdir())))


def test_a_plan_remarks_on_what_is_no_error(grid: GridWriter) -> None:
    both = [{"source": ["plain", "dark"], "target": "dark"}, {"source": "plain", "target": "dark"}]
    made = planned(grid(scenarios=both, pretraining={"steps": 2, "batch_size": 100}, budget={"steps": 0}))
    assert made.remarks == (
        "scenario plain + dark → dark: its target is one of its sources, so it is no cross-domain scenario",
        "pretraining.batch_size 100: plain + dark has 24 training images, so a batch is all",
        "pretraining.batch_size 100: plain has 12 training images, so a batch is all",
    )


@pytest.mark.parametrize(
    ("key", "written", "blamed", "says"),
    [
        (
            "encoders",
            {"one": "openclip", "two": "opneclip"},
            "opneclip",
            "there is no encoder 'opneclip'. Did you",
        ),
        (
            "encoders",
            {"a": "openclip[head=round]"},
            "[head=round]",
            "option 'head' of encoder 'openclip'",
        ),
        ("adaptations", ["source_only", "dan"], "- dan", "there is no adaptation 'dan'. Did you mean \"dann\"?"),
        ("adaptations", ["source_only", "dann[wait=1]"], "wait=1", "adaptation 'dann' has no option 'wait'."),
        ("adaptations", ["source_only", "dann[weight"], "dann[", "'dann[weight' is not a plugin reference"),
        ("selectors", ["last", "lats"], "lats", "there is no selector 'lats'. Did you mean \"last\"?"),
        ("metrics", ["recall", "recall[q=1]"], "recall[q", "metric 'recall' has no option 'q'."),
        ("executor", "local[slot=2]", "slot=2", "executor 'local' has no option 'slot'. Did you mean \"slots\"?"),
        (
            "domains",
            {"plain": "karpaty[file=x]", "dark": "x"},
            "karpaty",
            "there is no dataset 'karpaty'. Did you",
        ),
    ],
)
def test_a_reference_that_is_wrong_is_told_with_its_line(
    grid: GridWriter, cli: Cli, key: str, written: object, blamed: str, says: str
) -> None:
    file = grid(**{key: written})
    [line] = [n for n, text in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1) if blamed in text]
    result = cli("plan", file)
    assert (result.status, result.out) == (2, "")
    assert result.err.startswith(f"error: {file}:{line}: {says}")
    with pytest.raises(UsageError) as caught:
        api.plan(str(file))
    assert result.err == f"error: {caught.value}\n"


def test_two_selectors_that_are_the_same_by_their_defaults_are_refused(grid: GridWriter, cli: Cli) -> None:
    name = "neighbourhood_density"
    result = cli("plan", grid(selectors=[name, f"{name}[temperature=0.05]"]))
    assert (result.status, result.out) == (2, "")
    assert f"selectors '{name}' and '{name}[temperature=0.05]' are the same; remove one of them" in result.err


def test_a_reference_of_the_command_line_is_blamed_on_it(grid: GridWriter, cli: Cli) -> None:
    result = cli("plan", grid(), "--set", "encoders.tiny=opneclip")
    assert result.err.startswith("error: --set encoders.tiny: there is no encoder 'opneclip'. Did you mean")


def test_a_batch_of_the_budget_is_remarked_on_where_something_is_trained(grid: GridWriter) -> None:
    def told(*adaptations: str) -> list[str]:
        read = load_grid(
            grid(
                scenarios=[{"source": name, "target": "plain"} for name in ("plain", "dark")],
                adaptations=[*adaptations],
                pretraining={"steps": 0},
                budget={"steps": 2, "batch_size": 100},
            )
        )
        return [remark for remark in make_plan(read, Registry.discover()).remarks if "batch_size" in remark]

    of_dark, of_plain = (
        f"budget.batch_size 100: {name} has {count} training images, so a batch is all"
        for name, count in (("dark", 12), ("plain", 12))
    )
    assert told("zero_shot") == []
    assert told("zero_shot", "oracle") == [of_dark]  # in domain nothing adapts
    assert told("csls", "source_only") == [of_plain, of_dark]


def test_an_oracle_of_fewer_images_than_a_batch_of_the_source_is_remarked_on(grid: GridWriter) -> None:
    def told(batch_size: int, *adaptations: str) -> list[str]:
        read = load_grid(
            grid(
                domains={"large": "synthetic/nordia[images=60]", "small": "synthetic/meridia[images=40]"},
                scenarios=[{"source": "large", "target": "small"}, {"source": "small", "target": "large"}],
                adaptations=[*adaptations],
                pretraining={"steps": 0},
                budget={"steps": 2, "batch_size": batch_size},
            )
        )
        return [remark for remark in make_plan(read, Registry.discover()).remarks if "oracle" in remark]

    assert told(25, "oracle") == told(40, "dann") == []
    assert told(26, "oracle") == [
        "scenario large → small: an oracle's batch is the target's 25 training images, the others' are of 26: "
        "with fewer negatives it is too low a reference"
    ]
    assert "of 38: with fewer" in told(40, "oracle")[0]


def test_several_processes_are_for_what_trains(grid: GridWriter) -> None:
    steps = {"pretraining": {"steps": 2, "batch_size": 4}, "budget": {"steps": 2, "batch_size": 4}}
    none = {name: {"steps": 0, "batch_size": 4} for name in steps}
    scenario = [{"source": "plain", "target": "dark"}]

    def ranks(adaptation: str, **recipes: Any) -> tuple[int, int]:
        file = grid(ranks=2, adaptations=[adaptation], scenarios=scenario, **recipes)
        of_kind = {stage.kind: stage.facts.get("ranks") for stage in planned(Path(file)).stages.values()}
        return of_kind["pretrain"], of_kind["adapt"]

    assert ranks("source_only", **steps) == (2, 2)
    assert ranks("zero_shot", **steps) == (2, 1)
    assert ranks("source_only", **steps | {"pretraining": none["pretraining"]}) == (1, 2)
    assert ranks("source_only", **none) == (1, 1)


ENCODER = """
from urbancross_bench.interfaces import Encoder, EncoderOptions, ImageFormat, SegmentUse, Weights
from urbancross_bench.interfaces import hookimpl, register

class Mine(EncoderOptions):
    def image_format(self):
        return ImageFormat(8)

    def weights(self):
        return Weights("untrained", "random", None)

    def {question}(self):
        return {answer}

class Model(Encoder):
    options_type = Mine

    def load(self):
        raise AssertionError

@hookimpl
def register_encoders():
    return [register("{name}", "{name}:Model", options="{name}:Mine", summary="x")]
"""


@pytest.mark.parametrize(
    ("question", "answer", "says"),
    [
        ("frozen", "'image'", "says which towers are frozen by 'image', which is no frozenset or set"),
        ("image_format", "(8, 8)", "says what images it wants by (8, 8), which is no ImageFormat or None"),
        ("segments", "4", "says how it uses segments by 4, which is no SegmentUse or None"),
        ("tower_identity", "None", "says what its towers are by None, which is no dict"),
        ("segments", "SegmentUse(4, 'start', True)", "uses segments; register it with provides={'segments'}"),
    ],
)
def test_an_encoder_that_answers_otherwise_than_asked_is_named(
    grid: GridWriter, cli: Cli, tmp_path: Path, question: str, answer: str, says: str
) -> None:
    name = f"{question}_{len(answer)}"  # a process loads a module of a name from one place only
    (tmp_path / f"{name}.py").write_text(ENCODER.format(name=name, question=question, answer=answer))
    result = cli("plan", grid(plugins=[f"{name}.py"], encoders={"mine": name}))
    assert result.status == 2
    assert says in result.err


# ── The table ─────────────────────────────────────────────────────────────────────────────────────


def test_cells_share_a_line_and_kinds_say_how_many_runs_share_them(
    grid: GridWriter, cli: Cli, tmp_path: Path
) -> None:
    result = cli("plan", grid(seeds=[0, 1, 2]), "--out", tmp_path / "o")
    lines = [re.split(r"  +", line.strip()) for line in result.out.splitlines()]
    assert ["state", "scenario", "encoder", "adaptation", "seeds", "reason"] in lines
    assert ["run", "plain → dark", "tiny", "urbancross", "0, 1, 2"] in lines
    skipped = ["skipped", "dark → dark", "tiny", "oracle", "0, 1, 2", "in-domain: there is no target to adapt to"]
    assert skipped in lines
    assert ["pretrain", "6", "24", "6"] in lines
    assert ["rank", "24", "24", "24"] in lines
    assert "no estimate: nothing of kind pack, pretrain, adapt, items, embed, rank was run here yet" in result.out


def test_without_a_skipped_run_there_are_no_reasons(grid: GridWriter, cli: Cli) -> None:
    result = cli("plan", grid(scenarios=[{"source": "plain", "target": "dark"}]))
    assert "reason" not in result.out


def test_json_says_the_same(grid: GridWriter, cli: Cli) -> None:
    file = grid(seeds=[0, 1])
    plan = json.loads(cli("plan", file, "--json").out)
    assert cli("plan", file, "--json", "--mermaid").status == 2
    assert plan["shared"]["pretrain"] == {"stages": 4, "runs": 16}
    assert plan["estimate"]["seconds"] is None
    assert set(plan["estimate"]["unknown"]) == {stage["kind"] for stage in plan["stages"]}


def test_a_finished_grid_is_looked_at_without_torch(grid: GridWriter, store: Store) -> None:
    file, out = str(grid()), str(store.root.parent)
    stages = [*planned(Path(file)).stages.values()]
    for stage in stages:
        put(store, stage)
    ranks = [stage.key for stage in stages if stage.kind == "rank"]
    commands = [
        ["plan", file, "--out", out],
        ["store", "ls", out, "--stages"],
        ["store", "gc", out, "--keep", file],
        ["explain", ranks[0], ranks[1], out],
    ]
    code = f"""
import sys
from urbancross_bench.cli.app import main
for command in {commands!r}:
    sys.argv = ["urbancross-bench", *command]
    try:
        main()
    except SystemExit as stop:
        assert not stop.code
print("HEAVY", [name for name in ("torch", "pandas", "rich.table") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "0 stages to do" in done.stdout
    assert f"{len(stages)} stages with" in done.stdout
    assert "HEAVY []" in done.stdout


# ── Estimates ─────────────────────────────────────────────────────────────────────────────────────


def guessed(file: Path, store: Store) -> dict[str, Guess]:
    """Kind → the guess for a planned stage of it (the last one)."""
    plan = planned(file)
    found = estimate(plan, [*plan.stages.values()], store, Registry.discover())
    return {plan.stages[key].kind: guess for key, guess in found.guesses.items()}


PAIR = {"scenarios": [{"source": "plain", "target": "dark"}], "adaptations": ["urbancross"]}
LONGER = {"budget": {"steps": 20, "batch_size": 16, "target_batch_size": 4}}


def test_the_same_settings_take_what_they_took(grid: GridWriter, store: Store) -> None:
    for stage in planned(grid(**PAIR)).stages.values():
        put(store, stage, seconds=7, size=5000)
    found = guessed(grid(**PAIR, seeds=[5]), store)  # another seed is the same work
    assert {kind: (g.seconds, g.size, g.alike) for kind, g in found.items()} == dict.fromkeys(
        ("pack", "pretrain", "adapt", "items", "embed", "rank"), (7, 5000, "the same settings")
    )


def test_trainings_take_time_by_the_image(grid: GridWriter, store: Store) -> None:
    for stage in planned(grid(**PAIR)).stages.values():
        put(store, stage, seconds=7)
    found = guessed(grid(**(PAIR | LONGER)), store)
    assert (found["adapt"].seconds, found["adapt"].alike) == (7 * 20, "the same encoder and method")
    assert found["pretrain"].seconds == 7


@pytest.mark.parametrize(
    ("stored", "seconds", "alike"),
    [
        ({"adaptations": ["urbancross[triplet=0.5]"]}, 3, "the same encoder and method"),
        ({"adaptations": ["oracle"]}, 3, "the same encoder"),
        ({"encoders": {"e": "openclip[architecture=urbancross-s]"}}, 3, "the same kind"),
    ],
)
def test_the_most_alike_counts(
    grid: GridWriter, store: Store, stored: dict[str, object], seconds: float, alike: str
) -> None:
    far = {"encoders": {"e": "openclip[architecture=urbancross-s,orientations=8]"}, "adaptations": ["oracle"]}
    for stage in planned(grid(**(PAIR | far))).stages.values():
        put(store, stage, seconds=3 if alike == "the same kind" else 1000)
    for stage in planned(grid(**(PAIR | stored))).stages.values():
        if not store.has(stage):
            put(store, stage, seconds=seconds)
    found = guessed(grid(**PAIR), store)
    assert [found[kind].seconds for kind in ("adapt", "embed", "rank")] == [seconds] * 3
    assert found["adapt"].alike == alike


def test_what_was_removed_or_cannot_be_read_is_no_evidence(grid: GridWriter, store: Store) -> None:
    stages = planned(grid(**PAIR)).stages.values()
    for stage in stages:
        put(store, stage, seconds=3)
    for stage in stages:
        folder = store.path(stage.kind, stage.key)
        if stage.kind == "pretrain":
            (folder / "stage.json").unlink()
        if stage.kind == "pack":
            (folder / "provenance.json").write_text("{")
    found = guessed(grid(**PAIR, encoders={"e": "openclip[architecture=urbancross-tiny,orientations=8]"}), store)
    assert found["adapt"].alike == "the same kind"
    assert found.keys() == {"adapt", "items", "embed", "rank"}


def test_the_plan_says_what_is_to_do_and_how_long(grid: GridWriter, store: Store, cli: Cli) -> None:
    file = grid(**PAIR, executor="local[slots=2]", seeds=[0, 1, 2, 3])
    for stage in planned(grid(**PAIR, seeds=[9])).stages.values():
        put(store, stage, seconds=60, size=10**6)
    result = cli("plan", file, "--out", store.root.parent)
    # packs and items are there; four each of pretrain, adapt, embed and rank, which take 60 s each, two at once
    assert "to do: about 16 min one stage at a time, about 8 min with 2 at once; about 16 MB of disk" in result.out
    assert re.search(r"adapt +4 +4 +4 +about 4 min +about 4 MB +the same settings", result.out)
    made = json.loads(cli("plan", file, "--out", store.root.parent, "--json").out)["estimate"]
    assert (made["seconds"], made["slots"], made["seconds_with_slots"]) == (960, 2, 480)
    assert made["bytes"] == 16 * 10**6
    assert made["kinds"]["adapt"] == {
        "stages": 4,
        "known": 4,
        "seconds": 240,
        "bytes": 4 * 10**6,
        "by": "the same settings",
    }


def test_a_kind_that_is_new_is_left_out_and_said(grid: GridWriter, store: Store, cli: Cli) -> None:
    for stage in planned(grid(**PAIR)).stages.values():
        if stage.kind != "rank":
            put(store, stage, seconds=60, size=10**6)
    result = cli("plan", grid(**PAIR, seeds=[1]), "--out", store.root.parent)
    assert "no estimate: nothing of kind rank was run here yet" in result.out
    assert "to do: at least about 3 min one stage at a time" in result.out


def chain(*lengths: int) -> tuple[list[Stage], dict[str, Guess]]:
    """Chains of so many stages of a second each."""
    stages, above = [], ""
    for number, length in enumerate(lengths):
        above = ""
        for step in range(length):
            stages.append(Stage("adapt", {"n": number, "step": step}, {"start": above} if above else {}))
            above = stages[-1].key
    return stages, {stage.key: Guess(1.0, 1, "the same kind") for stage in stages}


@pytest.mark.parametrize(
    ("lengths", "slots", "span"),
    [((3,), 5, 3), ((1, 1, 1), 1, 3), ((1, 1, 1), 2, 2), ((4, 1, 1), 3, 4), ((), 2, 0), ((2, 2), None, 4)],
)
def test_slots_shorten_what_does_not_wait(lengths: tuple[int, ...], slots: int | None, span: float) -> None:
    stages, guesses = chain(*lengths)
    assert Estimate(tuple(stages), guesses, slots).span == span


@given(st.integers(0, 10**6), st.integers(1, 5))
def test_a_span_lies_between_its_bounds(seed: int, slots: int) -> None:
    draw = random.Random(seed)
    stages: list[Stage] = []
    longest: dict[str, float] = {}  # the critical path up to a stage's end
    guesses = {}
    for number in range(draw.randint(1, 12)):
        above = draw.sample(stages, draw.randint(0, min(2, len(stages))))
        stage = Stage("adapt", {"n": number}, {f"in.{n}": one.key for n, one in enumerate(above)})
        seconds = draw.randint(0, 9)
        longest[stage.key] = seconds + max((longest[one.key] for one in above), default=0)
        guesses[stage.key] = Guess(seconds, 1, "the same kind")
        stages.append(stage)
    total, path = sum(guess.seconds for guess in guesses.values()), max(longest.values())
    span = Estimate(tuple(stages), guesses, slots).span
    assert max(path, total / slots) <= span <= total / slots + path  # Graham's bound for lists
    assert Estimate(tuple(stages), guesses, 1).span == total
    assert Estimate(tuple(stages), guesses, 99).span == path


# ── The picture ───────────────────────────────────────────────────────────────────────────────────

NODE = re.compile(r'    (n\d+)\["([^"]*)"\]:::(stored|todo|unneeded)')
EDGE = re.compile(r"  (n\d+) --> (n\d+)")


def read(chart: str) -> tuple[dict[str, tuple[str, str, str]], set[tuple[str, str]]]:
    """Nodes (name → kind, label, class) and edges of a flowchart; every line has to be one we know."""
    first, *lines = chart.splitlines()
    assert first == "flowchart LR"
    nodes, edges, kind = {}, [], ""
    for line in lines:
        if match := NODE.fullmatch(line):
            nodes[match[1]] = (kind, html.unescape(match[2].replace("#", "&#")), match[3])
        elif match := EDGE.fullmatch(line):
            edges.append((match[1], match[2]))
        elif line.startswith("  subgraph "):
            kind = line.removeprefix("  subgraph ")
        else:
            assert line == "  end" or line.startswith("  classDef "), line
    assert len(set(edges)) == len(edges)
    return nodes, set(edges)


def test_the_picture_has_every_stage_and_every_edge(grid: GridWriter, store: Store, cli: Cli) -> None:
    file = grid(adaptations={"a": 'urbancross[triplet="0.5"]', "b": "oracle"})
    plan = planned(file)
    stored = {key for key, stage in plan.stages.items() if stage.kind in ("pack", "items")}
    for key in stored:
        put(store, plan.stages[key])
    nodes, edges = read(cli("plan", file, "--out", store.root.parent, "--mermaid").out)
    names = {(kind, label): name for name, (kind, label, _) in nodes.items()}
    assert len(names) == len(plan.stages) < LARGEST
    of = {key: names[stage.kind, stage.label] for key, stage in plan.stages.items()}
    assert edges == {(of[above], of[key]) for key, stage in plan.stages.items() for above in stage.inputs.values()}
    assert {name for name, (_, _, state) in nodes.items() if state == "stored"} == {of[key] for key in stored}
    assert {state for _, _, state in nodes.values()} == {"stored", "todo"}


def test_of_many_stages_those_of_a_kind_are_one_node(grid: GridWriter) -> None:
    plan = planned(grid(seeds=[0, 1, 2, 3]))
    assert len(plan.stages) > LARGEST
    done = {
        key
        for key, stage in plan.stages.items()
        if stage.kind in ("pack", "items") or stage.facts.get("seed") == 0
    }
    nodes, edges = read(flowchart(plan.stages, done, plan.stages.keys() - done))
    assert sum(int(label.split()[0]) for _, label, _ in nodes.values()) == len(plan.stages)
    kinds = {name: (kind, state) for name, (kind, _, state) in nodes.items()}
    states = {key: "stored" if key in done else "todo" for key in plan.stages}
    assert {(kinds[a], kinds[b]) for a, b in edges} == {
        ((plan.stages[above].kind, states[above]), (stage.kind, states[key]))
        for key, stage in plan.stages.items()
        for above in stage.inputs.values()
    }


@given(st.text(max_size=30))
def test_no_label_ends_early(text: str) -> None:
    label = escaped(text)
    assert not set(label) & set('"&<>`')
    assert re.sub(r"#(\d+);", lambda match: chr(int(match[1])), label) == " ".join(text.split())
    stage = replace(Stage("adapt", {}), label=text)
    assert len(flowchart({stage.key: stage}, (), (stage.key,)).splitlines()) == 7
