"""The tutorials work as they stand: files are made of their blocks, and tested, run and shown as the pages say."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import Result
from test_scaffold import install, pytest_of

from urbancross_bench.specs import Grid
from urbancross_bench.testing import KINDS

Cli = Callable[..., Result]
ROOT = Path(__file__).parent.parent
TUTORIALS = ROOT / "docs" / "tutorials"
WITH_TIMM = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs timm")


def blocks(page: str, language: str = "python") -> list[str]:
    text = (TUTORIALS / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def files(page: str) -> dict[str, str]:
    """The python blocks of a page by the file that the text before each names last."""
    text = (TUTORIALS / f"{page}.md").read_text(encoding="utf-8")
    found = {}
    for before, code in re.findall(r"(.*?)```python\n(.*?)```", text, re.DOTALL):
        names = re.findall(r"`([\w./]+\.py)`", before)
        found[names[-1]] = code
    assert len(found) == len(blocks(page)), "a block without a file of its own"
    return found


def write(folder: Path, page: str) -> None:
    for name, code in files(page).items():
        (folder / name).write_text(code, encoding="utf-8")


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The packages of the two pages that make one, with what the pages put in place of the generated files."""
    from urbancross_bench.registry import Registry
    from urbancross_bench.scaffold import write_package

    folder = tmp_path_factory.mktemp("tutorials")
    made = {}
    for page, name in (("adaptation", "plain_dann"), ("encoder", "timm_words")):
        [command] = [line for line in blocks(page, "console")[0].splitlines() if "plugins new" in line]
        assert command == f"$ urbancross-bench plugins new {page} {name}"
        made[page] = write_package(page, name, folder, Registry())
        assert {*files(page)} <= {path.relative_to(made[page]).as_posix() for path in made[page].rglob("*.py")}
        write(made[page], page)
        install(made[page])
    return made


def test_there_is_a_tutorial_for_what_is_written_most() -> None:
    assert {path.stem for path in TUTORIALS.glob("*.md")} <= {*KINDS}


def test_the_encoder_is_said_to_be_what_it_is(packages: dict[str, Path]) -> None:
    """Whatever the generated package says of its own model; and a wrong option is told before anything runs."""
    project = tomllib.loads((packages["encoder"] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [needed] = blocks("encoder", "toml")
    assert {*project["dependencies"]} < {*tomllib.loads(needed)["dependencies"]}

    def told(*words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(packages["encoder"] / "src")}
        command = [sys.executable, "-m", "urbancross_bench", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert "image model of timm" in told("show", "timm_words").stdout
    wrong = told("plan", "quickstart", "--set", "encoders=[timm_words[architecture=resnet999]]")
    assert (wrong.returncode, "architecture" in wrong.stderr) == (2, True), wrong.stderr


@pytest.mark.long
@WITH_TIMM
@pytest.mark.slow
def test_the_plugins_pass_their_tests(
    packages: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "dataset")
    write(tmp_path, "metric")
    subprocess.run([sys.executable, "make_plots.py"], check=True)
    done = pytest_of([*packages.values()], "-rA", ".")
    assert done.returncode == 0, done.stdout[-4000:]
    for name in ("test_plain_dann", "test_timm_words", "test_my_plots", "test_my_ndcg"):
        assert len(re.findall(rf"^PASSED .*{name}\.py::", done.stdout, re.MULTILINE)) > 8, name


@pytest.mark.long
@WITH_TIMM
@pytest.mark.slow
def test_the_method_and_the_encoder_run_in_a_grid(packages: dict[str, Path], tmp_path: Path) -> None:
    """With a weight of 0 the method is `source_only`, bit for bit; not where normalised by batch."""
    [grid], [encoders] = blocks("adaptation", "yaml"), blocks("encoder", "yaml")
    content = yaml.safe_load(grid)
    content["encoders"] |= yaml.safe_load(encoders)["encoders"]
    Grid.model_validate(content)
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    path = os.pathsep.join(str(package / "src") for package in packages.values())
    command = [sys.executable, "-m", "urbancross_bench", "run", "grid.yaml", "--out", "out"]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    metrics = {}
    for file in tmp_path.glob("out/runs/*/scores/*/score.json"):
        run = json.loads((file.parents[2] / "run.json").read_text(encoding="utf-8"))
        metrics[run["encoder"]["label"], run["adaptation"]["label"]] = json.loads(file.read_text())["metrics"]
        if run["adaptation"]["label"] == "plain_dann":
            curve = json.loads((file.parents[2] / "curve.json").read_text(encoding="utf-8"))
            assert "told" in json.dumps(curve)
    assert len(metrics) == 8
    assert metrics["tiny", "plain_dann[weight=0.0]"] == metrics["tiny", "source_only"]
    assert metrics["tiny", "plain_dann"] != metrics["tiny", "source_only"]
    assert metrics["timm", "plain_dann[weight=0.0]"] != metrics["timm", "source_only"]


def test_the_dataset_reads_what_was_written(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "dataset")
    subprocess.run([sys.executable, "make_plots.py"], check=True)
    for line in blocks("dataset", "console")[0].splitlines()[1:]:
        words = re.findall(r'"[^"]+"|\S+', line.removeprefix("$ urbancross-bench "))
        result = cli(*(word.strip('"') for word in words))
        assert result.status in (0, 1), result.err  # the check may find something
    shown = cli("data", "show", "plots[file=plots/plots.csv]", "--plugin", "my_plots.py", "--json")
    [card] = json.loads(shown.out)
    assert {name: split["images"] for name, split in card["splits"].items()} == {"train": 14, "val": 2, "test": 4}
    with Path("plots/plots.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    rows[4]["fold"] = "four"
    with Path("plots/plots.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    broken = cli("data", "show", "plots[file=plots/plots.csv]", "--plugin", "my_plots.py")
    assert (broken.status, "plots.csv:6: fold 'four' is no number" in broken.err) == (2, True)


def test_the_metric_scores_embeddings(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "metric")
    np.save("I.npy", np.eye(6))
    np.save("T.npy", np.eye(6)[np.repeat(np.arange(6), 2)])
    Path("M.json").write_text(json.dumps(np.repeat(np.arange(6), 2).tolist()))
    [command] = blocks("metric", "console")
    result = cli(*command.replace('"', "").strip().removeprefix("$ urbancross-bench ").split(), "--json")
    found = json.loads(result.out)["metrics"]
    assert found["binary_nDCG@5"]["value"] == 100
    assert 0 < found["binary_nDCG@5"]["chance"] < 100
    assert yaml.safe_load(blocks("metric", "yaml")[0])["metrics"] == ["recall", "ndcg[k=5]"]
