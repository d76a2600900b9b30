"""What the pages show works as shown."""

from __future__ import annotations

import json
import re
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
    grid: Callable[..., Path], cli: Callable[..., Result], tmp_path: Path
) -> None:
    code, *_ = blocks("plugins.md", "python")
    (tmp_path / "my_method.py").write_text(code)
    [shown] = blocks("plugins.md", "yaml")
    result = cli("run", grid(**yaml.safe_load(shown)), "--out", tmp_path / "out")
    assert result.status == 0, result.err
    assert "mean_matching[weight=0.5]" in result.out


def test_the_one_file_metric_of_the_plugins_page_runs(cli: Callable[..., Result], tmp_path: Path) -> None:
    [code] = [block for block in blocks("plugins.md", "python") if "register_metrics" in block]
    (tmp_path / "my_metric.py").write_text(code)
    np.save(tmp_path / "eye.npy", np.eye(20))
    (tmp_path / "map.json").write_text(json.dumps([*range(20)]))
    files = [part for name in ("images", "texts") for part in (f"--{name}", tmp_path / "eye.npy")]
    plugin = ("--plugin", tmp_path / "my_metric.py", "--metric", "near_misses")
    result = cli("score", *files, "--map", tmp_path / "map.json", *plugin, "--json")
    assert json.loads(result.out)["metrics"]["i2t_near"]["value"] == 0


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


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[\w-]+)?\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} links to {target}"
