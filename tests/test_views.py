"""Views: a mistake in the file of one is told as one in a grid is, with its line and in words of YAML."""

from __future__ import annotations

from pathlib import Path

import pytest

from urbancross_bench.errors import UsageError
from urbancross_bench.leaderboard.view import load_view


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("metrik: mR", ":2: unknown key 'metrik'. Did you mean \"metric\"?"),
        ("filters:\n  encodr: [a]", ":3: filters: unknown key 'encodr'. Did you mean \"encoder\"?"),
        (
            "ablation:\n  of: a\n  kind: encoder\n  design: factorial\n  factors: {}\n  cells:\n"
            "  - {levels: {}, rows: k, row: k}",
            ":8: ablation.cells.0: unknown key 'rows'. Did you mean \"row\"?",
        ),
        ("details: mR", ":2: details must be a list, such as [mR]; got 'mR'"),
        ("filters: [a]", ":2: filters must be a mapping of keys to values; got ['a']"),
        (
            "filters:\n  adaptation:\n  - 12",
            ":4: filters.adaptation.0 must be text, and YAML reads this as 12: put it ",
        ),
        ("renderers: []", ":2: renderers must have at least 1 entry, not 0"),
        ("out: ../elsewhere", ":2: out: name a folder below that of the view, without '..'"),
        (
            "reference_settings:\n- oracle\n- orcale",
            ":4: reference_settings.1: unknown setting 'orcale'. Did you mean \"oracle\"?",
        ),
        ("metric: mR\nmetric: mR", ":3: key 'metric' stands twice"),
        ("grouping: [kind, kind]", ":2: grouping: 'kind' stands twice"),
        ("details:\n- x\n- y\n- x", ":5: details: 'x' stands twice"),
        ("columns: [x, x]", ":2: columns: 'x' stands twice"),
        ("renderers: [csv, csv]", ":2: renderers: 'csv' stands twice"),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "view.yaml"
    file.write_text(f"title: Mine\n{text}\n", encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        load_view(file)
    assert str(caught.value).startswith(f"{file}{says}")
    assert "\n" not in str(caught.value)


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "view.yaml"
    file.write_text("cost: perhaps\nmetrik: mR\n", encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        load_view(file)
    told = sorted(str(caught.value).splitlines())
    assert [line.split(": ")[0] for line in told] == [f"{file}:1", f"{file}:1", f"{file}:2"]
    assert f"{file}:1: title is missing" in told


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[a]", "view FILE must be a mapping of keys to values"),
        (b"", "view FILE must be a mapping of keys to values"),
        (b"title: [", "view FILE is not YAML: "),
        (b"title: \xff", "view FILE cannot be read: "),
    ],
)
def test_what_is_no_view_at_all_is_told_so(tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "view.yaml"
    file.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        load_view(file)
    assert str(caught.value).startswith(says.replace("FILE", str(file)))
