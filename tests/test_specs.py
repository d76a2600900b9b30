"""Grids: what is accepted, and that every error names file, line, key and the nearest name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from urbancross_bench.errors import UsageError
from urbancross_bench.specs import Grid, Scenario, load_grid

GOOD = """\
name: g
domains: [a, b]
encoders: [openclip]
pretraining: {steps: 10}
adaptations:
  - source_only
  - urbancross
budget:
  steps: 5
"""
SCENARIOS = "scenarios: write all_ordered_pairs, or a list of mappings, such as [{source: a, target: b}]"


@pytest.fixture
def load(tmp_path: Path):  # type: ignore[no-untyped-def]
    def load(text: str, *overrides: str) -> Grid:
        (tmp_path / "g.yaml").write_text(text)
        return load_grid(tmp_path / "g.yaml", overrides)

    return load


def test_a_grid_is_read(load) -> None:  # type: ignore[no-untyped-def]
    grid = load(GOOD, "budget.steps=7", "seeds=[1, 2]")
    assert grid.budget.steps == 7
    assert grid.seeds == (1, 2)
    assert grid.domains == {"a": "a", "b": "b"}
    assert [str(s) for s in grid.expanded_scenarios()] == ["a → a", "a → b", "b → a", "b → b"]


def test_scenario_kinds_come_from_membership() -> None:
    kinds = {
        "in_domain": Scenario(source="a", target="a"),  # type: ignore[arg-type]
        "cross_domain": Scenario(source="a", target="b"),  # type: ignore[arg-type]
        "multi_source": Scenario(source=("a", "b"), target="c"),
        "seen_target": Scenario(source=("a", "b"), target="a"),
    }
    assert {scenario.kind: scenario for scenario in kinds.values()} == kinds


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("  steps: 5", "  stpes: 5"), ["g.yaml:9: budget: unknown key 'stpes'. Did you mean \"steps\"?"]),
        (
            ("[a, b]", '{"a → b": a, b: b}'),
            ["g.yaml:2: domains: 'a → b'", "no domain's name has '→', '->', ' + '"],
        ),
        (("[a, b]", "[a + b, c]"), ["g.yaml:2: domains", "a scenario reads `a + b → c`"]),
        (("adaptations", "adaptation"), ["g.yaml:5: unknown key 'adaptation'. Did you mean \"adaptations\"?"]),
        (("{steps: 10}", "{steps: ten}"), ["g.yaml:4: pretraining.steps", "integer"]),
        (("{steps: 10}", "{steps: .nan}"), ["g.yaml:4: pretraining.steps"]),
        (
            ("  steps: 5", "  steps: 5\n  checkpoints: 6"),
            ["g.yaml:8: budget", "6 checkpoints do not fit into 5 steps"],
        ),
        (("name: g", "name: a/b"), ["g.yaml:1: name"]),
        (("domains: [a, b]", "domains: [a, b]\ndomains: [c]"), ["g.yaml:3: key 'domains' stands twice"]),
        (("domains: [a, b]", "domains: [a, a]"), ["domains stands twice"]),
        (
            ("name: g", "name: g\nscenarios: [{source: a, target: bb}]"),
            ["scenario a → bb names 'bb'", "not among the domains"],
        ),
        (("name: g", "name: g\nscenarios: [{source: a, tagret: b}]"), ["g.yaml:2", "'tagret'", '"target"']),
        (("name: g", "name: g\nscenarios: all_pairs"), ["g.yaml:2: scenarios"]),
        (
            ("name: g", "name: g\nprotocols: [row]"),
            ["g.yaml:2: protocols: unknown protocol 'row'", "row_diagonal"],
        ),
        (("name: g", "name: g\nprotocols: [classic, amfmn]"), ["'classic' and 'amfmn' are the same here"]),
        (("name: g", "name: [g"), ["is not YAML"]),
        (("name: g", "name: g\nseeds: !!bool foo"), ["g.yaml is not YAML"]),
        (("name: g", "name: g\nseeds: !!int ''"), ["g.yaml is not YAML"]),
        (("name: g", "name: g\nseeds: !!timestamp foo"), ["g.yaml is not YAML"]),
        (("name: g", f"name: g\nseeds: [0x{'f' * 6000}]"), ["g.yaml:2: seeds holds an integer of 24000 bits"]),
        (
            ("name: g", 'name: g\ndescription: "\\ud800"'),
            [r"g.yaml:2: description holds half a character: '\ud800'"],
        ),
        (
            ("name: g", "name: g\nablation: {of: urbancross, factors: {x: [1, {2024-01-01: 2}]}}"),
            ["g.yaml:2: ablation holds datetime.date(2024, 1, 1) where a word or a number is the key"],
        ),
        (
            ("name: g", "name: g\nablation: {of: urbancross, factors: {x: &a [1, *a]}}"),
            ["g.yaml:2: ", "more than 100,000 values, or aliases"],
        ),
        (
            (
                "name: g",
                "name: g\nsearch:\n  trials: 2\n  space:\n    urbancross:\n      a: &a0 [1, 2]\n"
                + "".join(f"      b{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)),
            ),
            ["g.yaml:2: ", "more than 100,000 values, or aliases"],
        ),
        (("name: g", "name: g\nseeds: [0, 0]"), ["seeds stands twice"]),
        (("name: g", "name: .."), ["g.yaml:1: name"]),
        (("name: g", "name: 2024-13-45"), ["is not YAML"]),
        (("name: g", "name: &x [*x]"), ["g.yaml:1: name"]),
        (("name: g", "name: g\nscenarios: []"), ["g.yaml:2: scenarios"]),
        (("domains: [a, b]", "domains: a"), ["domains must be a list of references, or a mapping"]),
        # What is wrong between parts of the grid is blamed on one of them.
        (
            ("name: g", "name: g\nscenarios:\n- {source: a, target: b}\n- source: a\n  target: bb"),
            ["g.yaml:5: scenario a → bb names 'bb', which is not among the domains."],
        ),
        (
            ("name: g", "name: g\nscenarios:\n- source:\n  - a\n  - c\n  target: b"),
            ["g.yaml:5: scenario a + c → b names 'c'"],
        ),
        (
            ("name: g", "name: g\nscenarios:\n- {source: a, target: b}\n- {source: [a], target: b}"),
            ["g.yaml:4: scenario a → b stands twice"],
        ),
        (
            ("name: g", "name: g\nscenarios:\n- {source: a, target: b}\n- {source: [a, a], target: b}"),
            ["g.yaml:4: scenario a + a → b names a source twice"],
        ),
        (("- urbancross", "- source_only"), ["g.yaml:7: an entry of adaptations stands twice: source_only"]),
        (("name: g", "name: g\nseeds:\n- 0\n- 7\n- 7"), ["g.yaml:5: an entry of seeds stands twice: 7"]),
        (("domains: [a, b]", "domains: a"), ["g.yaml:2: domains must be a list"]),
        (
            ("name: g", "name: g\nablation:\n  of: urbancros\n  factors: {x: [1, 2]}"),
            ["g.yaml:3: ablation.of names 'urbancros'"],
        ),
        (
            ("name: g", "name: g\nsearch:\n  trials: 2\n  space:\n    urbancros: {x: [1, 2]}"),
            ["g.yaml:5: search.space names 'urbancros'"],
        ),
        (("name: g", "name: g\nprotocols:\n- classic\n- amfmn"), ["g.yaml:4: protocols 'classic' and 'amfmn'"]),
    ],
)
def test_errors_name_line_and_key(load, change: tuple[str, str], expected: list[str]) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError) as caught:
        load(GOOD.replace(*change))
    for part in expected:
        assert part in str(caught.value)


def told(load, line: str) -> str:  # type: ignore[no-untyped-def]
    """The one line that is said of a good grid with another one below its name."""
    with pytest.raises(UsageError) as caught:
        load(GOOD.replace("name: g", f"name: g\n{line}"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("scenario", "says"),
    [
        ("{source: a, target: b, share: 2}", "scenarios.0.share: Input should be less than or equal to 1"),
        ("{source: a, target: b, shares: 1}", "scenarios.0: unknown key 'shares'. Did you mean \"share\"?"),
        ("{source: a, target: [b]}", "scenarios.0.target: Input should be a valid string"),
    ],
)
def test_a_mistake_within_a_scenario_is_told_alone(load, scenario: str, says: str) -> None:  # type: ignore[no-untyped-def]
    assert told(load, f"scenarios: [{scenario}]").endswith(f"g.yaml:2: {says}")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("seeds: 3", "seeds must be a list, such as [0, 1, 2] or [a, b]; got 3"),
        ("seeds: first three", "seeds must be a list, such as [0, 1, 2] or [a, b]; got 'first three'"),
        ("selectors: last", "selectors must be a list, such as [last]; got 'last'"),
        ("seeds: []", "seeds must have at least 1 entry, not 0"),
        ("seeds: [a]", "seeds.0: Input should be a valid integer, unable to parse string as an integer"),
        ("segments: []", "segments must be a mapping of keys to values; got []"),
        (
            "ablation: {of: urbancross, factors: {x: [1]}}",
            "ablation.factors.x must have at least 2 entries, not 1",
        ),
        ("ablation: 3", "ablation must be a mapping of keys to values; got 3"),
        ("description: 12", "description must be text, and YAML reads this as 12: put it in quotes"),
        (
            "description: 2024-05-01",
            "description must be text, and YAML reads this as 2024-05-01: put it in quotes",
        ),
        ("scenarios: []", "scenarios must have at least 1 entry, not 0"),
        ("scenarios: all_pairs", f"{SCENARIOS}; got 'all_pairs'"),
        ("scenarios: {source: a}", f"{SCENARIOS}; got {{'source': 'a'}}"),
        ("scenarios:", f"{SCENARIOS}; got nothing"),
        ("scenarios: 3", f"{SCENARIOS}; got 3"),
        (
            "scenarios: [{source: a, target: no}]",
            "scenarios.0.target must be text, and YAML reads this as false: put it in quotes",
        ),
        (
            "scenarios: [{source: no, target: b}]",
            "scenarios.0.source.0 must be text, and YAML reads this as false: put it in quotes",
        ),
        (
            "scenarios: [{source: a, target: b, share_seed: rn}]",
            "scenarios.0.share_seed: Input should be a valid integer, unable to parse string as an integer; or: "
            "Input should be 'run'",
        ),
    ],
)
def test_what_has_the_wrong_form_is_told_in_words_of_the_grid(load, change: str, says: str) -> None:  # type: ignore[no-untyped-def]
    assert told(load, change).endswith(f"g.yaml:2: {says}")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ("{low: 3, high: 1}", ": low must be less than high, and above 0 where log is true"),
        ("{low: 0, high: x}", ".high: Input should be a valid number, unable to parse string as a number"),
        ("{low: 0, high: 1, lg: true}", ": unknown key 'lg'. Did you mean \"log\"?"),
        ("[]", " must have at least 1 entry, not 0"),
        ("3", " must be a list, such as [0, 1, 2] or [a, b], or must be a mapping of keys to values; got 3"),
    ],
)
def test_a_search_is_told_what_is_meant(load, values: str, says: str) -> None:  # type: ignore[no-untyped-def]
    said = told(load, f"search: {{trials: 2, space: {{urbancross: {{triplet: {values}}}}}}}")
    assert said.endswith(f"g.yaml:2: search.space.urbancross.triplet{says}")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            ("domains: [a, b]", "domains:\n  a: a\n  no: b"),
            "4: domains: a name must be text, and YAML reads this as false",
        ),
        (
            ("domains: [a, b]", "domains:\n  a: a\n  tuple: 3"),
            "4: domains.tuple must be text, and YAML reads this as 3",
        ),
        (
            ("domains: [a, b]", "domains:\n- a\n- no"),
            "4: an entry of domains must be text, and YAML reads this as false",
        ),
        (("- urbancross", "- mine: urbancross"), "7: adaptations must be a list of references, or a mapping"),
        (("  - source_only\n  - urbancross", "  []"), "5: adaptations must have at least 1 entry, not 0"),
        (("  steps: 5", "  steps: 1\n  checkpoints: 2"), "8: budget: 2 checkpoints do not fit into 1 step\n"),
        (("budget:\n  steps: 5", "budget:"), "8: budget must be a mapping of keys to values; got nothing"),
    ],
)
def test_parts_that_a_grid_needs_are_told_alike(load, change: tuple[str, str], says: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError) as caught:
        load(GOOD.replace(*change))
    assert f"g.yaml:{says}" in f"{caught.value}\n"
    assert "\n" not in str(caught.value)


def test_an_override_is_blamed_between_parts_too(load) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match=r"^--set seeds: an entry of seeds stands twice: 1$"):
        load(GOOD, "seeds=[1, 1]")


def test_an_override_is_blamed_for_itself(load) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match=r"^--set budget.stepz: budget: unknown key 'stepz'"):
        load(GOOD, "budget.stepz=3")


def test_what_a_message_proposes_for_scenarios_is_a_grid(load) -> None:  # type: ignore[no-untyped-def]
    proposed = SCENARIOS.removeprefix("scenarios: write ").split(", or a list of mappings, such as ")
    made = [load(GOOD.replace("name: g", f"name: g\nscenarios: {one}")) for one in proposed]
    assert [len(grid.expanded_scenarios()) for grid in made] == [4, 1]


@pytest.mark.parametrize(
    "override", ["description=2024-13-45", "steps", "=1", "name.x=1", "budget.stepz=3", "a=[1"]
)
def test_bad_overrides(load, override: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError):
        load(GOOD, override)


def test_paths_of_an_override_are_taken_from_the_working_folder(
    load: Callable[..., Grid], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    text = GOOD + "plugins: [p.py]\nexclusions: {a: a.csv, b: b.csv}\nsegments: {a: s}\n"
    beside, there = str(tmp_path), str(tmp_path / "elsewhere")
    grid = load(text, "exclusions.b=b.csv", "segments={a: s}")
    assert grid.plugins == (f"{beside}/p.py",)
    assert grid.exclusions == {"a": f"{beside}/a.csv", "b": f"{there}/b.csv"}
    assert grid.segments == {"a": f"{there}/s"}
    assert load(text, "plugins=[p.py]").plugins == (f"{there}/p.py",)


def test_no_file_no_mapping(load, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match="cannot be read"):
        load_grid(tmp_path / "none.yaml")
    for text in ("", "- 1", "text"):
        with pytest.raises(UsageError, match="mapping"):
            load(text)
