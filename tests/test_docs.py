"""What the pages show works as shown."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import Result

from urbancross_bench.hookspecs import LIFECYCLE_HOOKS, REGISTRATION_HOOKS
from urbancross_bench.leaderboard.view import View
from urbancross_bench.registry import Registry
from urbancross_bench.specs import Budget, Grid, Pretraining, Search

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / page).read_text(encoding="utf-8"), re.DOTALL)


def test_the_scores_page_computes_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    [code] = blocks("scores.md", "python")
    exec(code, {})
    assert float(capsys.readouterr().out.split()[0]) > 90


def test_the_records_page_runs() -> None:
    [code] = blocks("records.md", "python")
    exec(code, {})


def test_the_one_file_method_of_the_plugins_page_runs(
    grid: Callable[..., Path], cli: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, *_ = blocks("plugins.md", "python")
    (tmp_path / "my_method.py").write_text(code)
    [shown] = blocks("plugins.md", "yaml")
    result = cli("run", grid(**yaml.safe_load(shown)), "--out", tmp_path / "out")
    assert result.status == 0, result.err
    assert "mean_matching[weight=0.5]" in result.out

    file = grid(**yaml.safe_load(shown) | {"plugins": []}).rename(tmp_path / "without.yaml")
    monkeypatch.chdir(tmp_path)
    named = ("--out", "out", "--plugin", "my_method.py")
    again = cli("run", file, *named)
    assert (again.status, "reused" in again.out, " ok" in again.out) == (0, True, False), again.out
    assert cli("export", "bundle", "out", "grid.zip").status == 0
    with zipfile.ZipFile("grid.zip") as bundle:
        assert [name for name in bundle.namelist() if name.endswith("my_method.py")] != []
    assert cli("export", file, "--set", "seeds=[7]", *named).out.count("--plugin my_method.py") > 1
    assert cli("store", "gc", "out", "--keep", file, "--plugin", "my_method.py").status == 0

    plan = ("plan", "quickstart", "--set", "adaptations=[mean_matching]", "--json")
    plans = [cli(*plan, *named) for named in (("--plugin", "my_method.py"), ("--set", "plugins=[my_method.py]"))]
    assert [plan.err for plan in plans] == ["", ""]
    assert plans[0].out == plans[1].out


def test_the_one_file_metric_of_the_plugins_page_runs(cli: Callable[..., Result], tmp_path: Path) -> None:
    [code] = [block for block in blocks("plugins.md", "python") if "register_metrics" in block]
    (tmp_path / "my_metric.py").write_text(code)
    np.save(tmp_path / "eye.npy", np.eye(20))
    (tmp_path / "map.json").write_text(json.dumps([*range(20)]))
    files = [part for name in ("images", "texts") for part in (f"--{name}", tmp_path / "eye.npy")]
    plugin = ("--plugin", tmp_path / "my_metric.py", "--metric", "first_three")
    result = cli("score", *files, "--map", tmp_path / "map.json", *plugin, "--json")
    assert json.loads(result.out)["metrics"]["i2t_R@3"]["value"] == 100


@pytest.mark.parametrize(
    "code", [b for b in blocks("plugins.md", "python") if "def register_" in b and "Adaptation" not in b]
)
def test_the_kit_takes_the_one_file_plugins_of_the_plugins_page(code: str, tmp_path: Path) -> None:
    [module] = set(re.findall(r'"(my_\w+):', code))
    (tmp_path / f"{module}.py").write_text(code)
    command = [sys.executable, "-m", "urbancross_bench", "plugins", "check", tmp_path / f"{module}.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def board(name: str, table: str, **wanted: str) -> dict[tuple[str, str], dict[str, str]]:
    """Rows of a committed board by adaptation and scenario, where it has one: selector `last`, the whole data."""
    with (ROOT / "leaderboards" / name / f"{table}.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["selector"] == "last" and row["setting"] != "few_shot"]
    rows = [row for row in rows if wanted.items() <= row.items()]
    found = {(row["adaptation"], row.get("scenario", "")): row for row in rows}
    assert len(found) == len(rows)
    return found


def shown(row: dict[str, str], column: str, *, signed: bool = False) -> str:
    """A cell of a board as the pages write it: one digit, a real minus, its interval where it has one."""
    if not row[column]:
        return ""
    value, *bounds = (float(row[name]) for name in (column, f"{column} low", f"{column} high") if row.get(name))
    text = f"{value:+.1f}" if signed else f"{value:.1f}"
    return (text + (f" [{bounds[0]:.1f}, {bounds[1]:.1f}]" if bounds else "")).replace("-", "−")


def said(row: dict[str, str]) -> str:
    """The verdict, where there is more to it than that none is shown."""
    return {"better": ", better", "worse": ", worse"}.get(row["verdict"], "")


def page_rows(heading: str) -> list[tuple[str, list[str]]]:
    """Name of the method and the other cells, of each row under a heading that begins with a method of a board."""
    _, _, part = (ROOT / "docs" / "results.md").read_text(encoding="utf-8").partition(f"## {heading}\n")
    lines = [line for line in part.partition("\n#")[0].splitlines() if line.startswith("| `")]
    return [(re.split("`", line)[1], [cell.strip() for cell in line.strip("|").split("|")][1:]) for line in lines]


@pytest.mark.parametrize(
    ("heading", "name"),
    [("RSICD and UCM-Captions", "rsicd_ucm"), ("RSICD and UCM-Captions in a few hundred images", "methods_mini")],
)
def test_the_tables_of_two_data_sets_are_what_their_boards_say(heading: str, name: str) -> None:
    scenarios, summary, transfer = (board(name, table) for table in ("scenarios", "summary", "transfer"))
    rows = [(method, cells) for method, cells in page_rows(heading) if method != "few_shot"]
    assert len(rows) >= 10
    for method, cells in rows:
        of = summary[method, ""]
        forgotten = transfer.get((method, ""), {"forgotten mR": ""})["forgotten mR"]
        expected = [
            *(shown(scenarios[method, pair], "mR") for pair in ("rsicd → ucm", "ucm → rsicd")),
            f"{float(of['mean mR']):.1f}",
            shown(of, "Δ source_only", signed=True) + said(of),
            f"{float(forgotten):.1f}".replace("-", "−") if forgotten and method != "oracle" else "",
        ]
        assert cells == expected, method


def test_the_table_of_every_method_is_what_its_boards_say() -> None:
    drawn = board("methods", "summary", protocol="classic")
    stored = [board("embeddings", "summary", encoder=encoder) for encoder in ("clip", "remoteclip")]
    rows = page_rows("Every method")
    assert len(rows) >= 20
    for method, cells in rows:
        of = drawn[method, ""]
        assert cells[0] == f"{float(of['mean mR']):.1f}", method
        assert cells[1] == shown(of, "Δ source_only", signed=True) + said(of), method
        known = [one.get((method, "")) for one in stored]
        assert cells[2:] == [f"{float(row['mean mR']):.1f}{said(row)}" if row else "" for row in known], method


def test_the_grid_and_the_view_shown_are_valid() -> None:
    shown, search = blocks("grids.md", "yaml")
    Search.model_validate(yaml.safe_load(search)["search"])
    grid = Grid.model_validate(yaml.safe_load(shown))
    assert len(grid.expanded_scenarios()) == 4
    [view] = blocks("leaderboards.md", "yaml")
    View.model_validate(yaml.safe_load(view))


def test_every_key_and_every_hook_has_its_line() -> None:
    grids, plugins = ((ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8") for name in ("grids", "plugins"))
    keys = {*Grid.model_fields, *Pretraining.model_fields, *Budget.model_fields} - {"description"}
    assert [key for key in sorted(keys) if f"`{key}`" not in grids] == []
    hooks = {*REGISTRATION_HOOKS.values(), *LIFECYCLE_HOOKS}
    assert [hook for hook in sorted(hooks) if f"`{hook}" not in plugins] == []


def test_every_plugin_and_its_options_have_their_line() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    for plugin in Registry.discover().plugins:
        assert f"`{plugin.registration.name}" in text or plugin.kind in ("executor", "renderer")
        assert [o for o in plugin.options_type.model_fields if o not in text] == []


def test_the_first_page_leads_where_the_readme_does() -> None:
    """It has the same table, of which every page but itself is part."""
    [readme], [index] = (
        re.findall(r"^\| I want to .*?(?=\n\n)", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        for page in (ROOT / "README.md", ROOT / "docs" / "index.md")
    )
    assert index == readme.replace("](docs/", "](")
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert pages - {"index.md"} == set(re.findall(r"\]\(([\w/-]+\.md)", index))


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[\w-]+)?\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
