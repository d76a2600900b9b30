"""The grids that stand for UrbanCross's released scripts, on small trees of the layouts they read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Result
from data_files import known, segments_of, tiles, write_urbancross_tree

from urbancross_bench.records import read_records
from urbancross_bench.specs import load_grid

Cli = Callable[..., Result]

FOLDER = Path(__file__).parent.parent / "grids" / "urbancross"
GRIDS = sorted(FOLDER.glob("*.yaml"))
COUNTRIES = ("finland", "germany", "spain")
TINY = "[architecture=urbancross-tiny"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The countries without split lists, as released, and RSICD and RSITMD; no two domains share an image."""
    root = tmp_path_factory.mktemp("data")
    every = iter(tiles(5 * 24, captions=2))
    for country in COUNTRIES:
        some = [next(every) for _ in range(24)]
        write_urbancross_tree(root / "urbancross", some, country=country, segments=segments_of(some, 6))
    known("rsicd", "dataset_rsicd.json", "RSICD_images")(root / "RSICD", [next(every) for _ in range(24)])
    known("rsitmd", "dataset_RSITMD.json", "images")(root / "RSITMD", [next(every) for _ in range(24)])
    return root


@pytest.fixture
def at(data: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("URBANCROSS_DATA", str(data))
    return data


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("stores")


def changes(file: Path, stores: Path, **more: object) -> Iterator[str]:
    """`--set` for a grid: a small random encoder of the same kind, and where its segments are."""
    grid = load_grid(file)
    [encoder] = grid.encoders.values()
    most = re.search(r",most=\d+", encoder)
    tiny = f"sam_fused{TINY}{most[0]}]" if most else f"openclip{TINY}]"
    values: dict[str, object] = {"encoders.clip": tiny, "precision": "float32", **more}
    values |= {f"segments.{name}": str(stores / name) for name in grid.segments}
    for key, value in values.items():
        yield from ("--set", f"{key}={value}")


def segmented(cli: Cli, file: Path, stores: Path) -> None:
    """Make the segments that a grid names, as its page says, by a segmenter of no weight."""
    for name in load_grid(file).segments:
        if not (stores / name).exists():
            plugin = ("--plugin", Path(__file__).parent / "striped_segmenter.py", "--segmenter", "striped")
            made = cli("data", "segment", name, "--out", stores / name, *plugin)
            assert made.status == 0, made.err


def test_every_script_has_its_grid() -> None:
    """25 scripts: training and testing of eleven sets, and three of fine-tuning."""
    page = (FOLDER / "README.md").read_text(encoding="utf-8")
    sets = [*(f"urbancross_{name}" for name in (*COUNTRIES, "rsicd", "rsitmd"))]
    sets += [f"urbancross_without_sam_{name}" for name in (*COUNTRIES, "integration", "rsicd", "rsitmd")]
    scripts = {f"{verb}/{verb}_{name}.sh" for verb in ("train", "test") for name in sets}
    scripts |= {f"fine-tune/{name}_urbancross{more}.sh" for name, more in FINE_TUNING}
    assert len(scripts) == 25
    rows = dict(re.findall(r"^\| `([\w/-]+\.sh)` \| \[`\w+\.yaml`\]\((\w+\.yaml)\) \|", page, re.MULTILINE))
    assert set(rows) == scripts
    assert set(rows.values()) == {file.name for file in GRIDS}
    for script, name in rows.items():
        assert script in load_grid(FOLDER / name).description


FINE_TUNING = [("zeroshot", ""), ("finetune", ""), ("finetune", "_curriculum")]


@pytest.mark.parametrize("file", GRIDS, ids=lambda file: file.stem)
def test_every_grid_plans(file: Path, cli: Cli, at: Path, stores: Path, tmp_path: Path) -> None:
    segmented(cli, file, stores)
    checkpoints = {} if load_grid(file).budget.checkpoints == 1 else {"budget.checkpoints": 2}
    planned = cli("plan", file, "--out", tmp_path, "--json", *changes(file, stores, **checkpoints))
    assert planned.status == 0, planned.err
    runs = json.loads(planned.out)["runs"]
    assert {run["state"] for run in runs} == {"run"}
    grid = load_grid(file)
    assert grid.name == f"urbancross_{file.stem}"
    assert len(runs) == len(grid.adaptations) * (3 if "integration" in grid.domains else len(grid.scenarios))


@pytest.mark.parametrize("name", ["sam_rsicd", "without_sam_integration", "zeroshot"])
def test_training_grids_train_and_score(name: str, cli: Cli, at: Path, stores: Path, tmp_path: Path) -> None:
    file = FOLDER / f"{name}.yaml"
    segmented(cli, file, stores)
    one = {"scenarios": "[{source: finland, target: spain_zeroshot}]"} if name == "zeroshot" else {}
    result = cli("run", file, "--out", tmp_path, *changes(file, stores, **{"pretraining.epochs": 2}, **one))
    assert result.status == 0, result.err
    records = read_records([tmp_path])
    assert len(records) == (3 if "integration" in name else 1)
    for record in records:
        assert record.spec["encoder"]["weights"]["status"] == "trained here"
        assert {score.content["protocol"] for score in record.scores} == {"classic", "row_diagonal"}
    if name == "zeroshot":
        [score] = [s for s in records[0].scores if s.content["protocol"] == "classic"]
        assert score.content["queries"]["i2t"] == 17  # 70 % of 24


@pytest.mark.slow
def test_a_fine_tuning_grid_trains_and_scores(cli: Cli, at: Path, stores: Path, tmp_path: Path) -> None:
    file = FOLDER / "finetune_curriculum.yaml"
    short = {"pretraining.epochs": 1, "budget.epochs": 2, "budget.checkpoints": 2}
    one = {"scenarios": "[{source: finland, target: spain_finetune}]"}
    result = cli("run", file, "--out", tmp_path, *changes(file, stores, **short, **one))
    assert result.status == 0, result.err
    records = read_records([tmp_path])
    assert {record.spec["adaptation"]["label"] for record in records} == set(load_grid(file).adaptations)
    for record in records:
        assert record.ok
        assert {s.content["selector"] for s in record.scores} == {"last", "target_oracle"}
        assert record.spec["domains"]["spain_finetune"]["mark"]
