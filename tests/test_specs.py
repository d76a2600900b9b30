"""Grids: what is accepted, and that every error names file, line, key and the nearest name."""

from __future__ import annotations

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
        (("name: g", "name: g\nseeds: [0, 0]"), ["seeds stands twice"]),
        (("name: g", "name: .."), ["g.yaml:1: name"]),
        (("name: g", "name: 2024-13-45"), ["is not YAML"]),
        (("name: g", "name: &x [*x]"), ["g.yaml:1: name"]),
        (("name: g", "name: g\nscenarios: []"), ["g.yaml:2: scenarios"]),
        (("domains: [a, b]", "domains: a"), ["domains must be a list of references, or a mapping"]),
    ],
)
def test_errors_name_line_and_key(load, change: tuple[str, str], expected: list[str]) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError) as caught:
        load(GOOD.replace(*change))
    for part in expected:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("scenario", "says"),
    [
        ("{source: a, target: b, share: 2}", "scenarios.0.share: Input should be less than or equal to 1"),
        ("{source: a, target: b, shares: 1}", "scenarios.0: unknown key 'shares'. Did you mean \"share\"?"),
        ("{source: a, target: [b]}", "scenarios.0.target: Input should be a valid string"),
    ],
)
def test_a_mistake_within_a_scenario_is_told_alone(load, scenario: str, says: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError) as caught:
        load(GOOD.replace("name: g", f"name: g\nscenarios: [{scenario}]"))
    assert str(caught.value).endswith(f"g.yaml:2: {says}")
    assert "\n" not in str(caught.value)


def test_an_override_is_blamed_for_itself(load) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match=r"^--set budget.stepz: budget: unknown key 'stepz'"):
        load(GOOD, "budget.stepz=3")


@pytest.mark.parametrize(
    "override", ["description=2024-13-45", "steps", "=1", "name.x=1", "budget.stepz=3", "a=[1"]
)
def test_bad_overrides(load, override: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError):
        load(GOOD, override)


def test_no_file_no_mapping(load, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match="cannot be read"):
        load_grid(tmp_path / "none.yaml")
    for text in ("", "- 1", "text"):
        with pytest.raises(UsageError, match="mapping"):
            load(text)
