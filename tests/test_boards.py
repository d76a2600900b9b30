"""Boards: committed records give the bytes of the originals, and nothing stale, edited or unfit passes."""

from __future__ import annotations

import contextlib
import csv
import json
import lzma
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import Result, tree
from filelock import FileLock, Timeout
from made_up_records import edit, write_run, write_runs
from safetensors.numpy import load_file, save_file

from urbancross_bench import api, files
from urbancross_bench.errors import DataError, UsageError
from urbancross_bench.interfaces.scenarios import route, typed_route
from urbancross_bench.leaderboard import committed, importing
from urbancross_bench.leaderboard.build import build, make_board
from urbancross_bench.leaderboard.committed import read_all
from urbancross_bench.leaderboard.importing import Added, add
from urbancross_bench.leaderboard.view import DEFAULT, load_view
from urbancross_bench.records import Record, read_records
from urbancross_bench.registry import Registry

Cli = Callable[..., Result]
ROOT = Path(__file__).parent.parent
METHODS = ("source_only", "ours", "oracle")
TEXTS = ["markdown", "csv", "latex", "json"]
WITHOUT_TORCH = (
    "import sys, socket; sys.modules['torch'] = socket.socket.connect = None; sys.argv = ['x', *{}]; "
    "from urbancross_bench.cli.app import main; main()"
)


def write_view(file: Path, **changes: object) -> Path:
    """The default view with changes."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = yaml.safe_load(DEFAULT.read_text(encoding="utf-8")) | changes
    file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three methods, three scenarios, three seeds. Look, do not touch."""
    return write_runs(tmp_path_factory.mktemp("made_up"), methods=METHODS)


@pytest.fixture(scope="module")
def built(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A board with these records, built. Look, do not touch."""
    folder = tmp_path_factory.mktemp("built")
    write_view(folder / "view.yaml", renderers=[*TEXTS, "parquet"], cost=True, details=["t2i_R@1"])
    assert add([runs], folder).refused == ()
    view = load_view(folder / "view.yaml")
    build([folder / "records"], folder, view, Registry.discover())
    return folder


@pytest.fixture
def board(built: Path, tmp_path: Path) -> Path:
    """A copy of the board."""
    shutil.copytree(built, tmp_path / "board")
    return tmp_path / "board"


def generated(folder: Path) -> dict[str, bytes]:
    """The text files of a board."""
    return {
        p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and p.suffix not in (".yaml", ".parquet")
    }


def test_committed_records_give_the_bytes_of_the_originals(runs: Path, board: Path, tmp_path: Path) -> None:
    build([runs], tmp_path / "direct", load_view(board / "view.yaml"), Registry.discover())
    assert generated(board) == generated(tmp_path / "direct")
    assert len(generated(board)) == 5 * len(TEXTS)
    for original, compact in zip(read_records([runs]), read_all([board / "records"]), strict=True):
        assert compact.spec == original.spec
        before, after = original.scores[0].arrays(), compact.scores[0].arrays()
        assert {*before} - {*after} == {"i2t.top", "t2i.top", "i2t.top_tied", "t2i.top_tied"}
        for name, array in after.items():
            np.testing.assert_array_equal(array, before[name], strict=True)


def test_committed_records_are_small_and_say_nothing_of_images_and_hosts(runs: Path, board: Path) -> None:
    def size(folder: Path, name: str) -> int:
        return sum(file.stat().st_size for file in folder.rglob(name))

    assert size(board, "*.safetensors.xz") < size(runs, "*.safetensors") / 5
    everything = b"".join(tree(board / "records").values())
    assert b"secret" not in everything
    assert b".png" not in everything
    assert b'"loss":1.235}' in everything


def test_same_bytes_from_shuffled_records_three_hash_seeds_and_without_torch(board: Path, tmp_path: Path) -> None:
    folders = [f for f in (board / "records").iterdir() if f.is_dir()]
    for seed in ("0", "1", "77"):
        copy = tmp_path / seed
        for folder in (folders[i] for i in np.random.default_rng(int(seed)).permutation(len(folders))):
            shutil.copytree(folder, copy / "records" / folder.name)
        for name in ("form.json", "SHA256SUMS"):
            shutil.copy(board / "records" / name, copy / "records")
        shutil.copy(board / "view.yaml", copy)
        code = WITHOUT_TORCH.format(["leaderboard", "build", str(copy)])
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run([sys.executable, "-c", code], check=True, env=environment, capture_output=True)
        assert generated(copy) == generated(board)


def test_check_finds_nothing_on_a_fresh_board_without_network_and_torch(board: Path) -> None:
    before = tree(board)
    code = WITHOUT_TORCH.format(["leaderboard", "check", str(board)])
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert tree(board) == before


def one(board: Path, pattern: str) -> Path:
    return sorted(board.glob(f"records/{pattern}"))[0]


def change_numbers(board: Path) -> None:
    """All metrics of a score one point up."""
    file = one(board, "*/scores/*/score.json")
    metrics = json.loads(file.read_text())["metrics"]
    edit(file, metrics={name: entry | {"value": entry["value"] + 1} for name, entry in metrics.items()})


def replace_text(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def repack(board: Path) -> None:
    """An edit that leaves every number as it is."""
    file = one(board, "*/scores/*/images.safetensors.xz")
    file.write_bytes(lzma.compress(lzma.decompress(file.read_bytes()), preset=0))


def test_check_names_everything_that_is_wrong(board: Path, cli: Cli) -> None:
    (board / "summary.md").unlink()
    (board / "summary.tex").write_text("x")
    replace_text(board / "transfer.csv", "unsupervised", "supervised")
    (board / "summary.parquet").write_bytes((board / "cost.parquet").read_bytes())
    (board / "cost.parquet").write_bytes(b"x")
    (board / "summary.xml").touch()
    edit(one(board, "*/run.json"), grid="x")
    repack(board)
    one(board, "*/curve.json").unlink()
    one(board, "*/run.json").with_name("x.json").touch()
    result = cli("leaderboard", "check", board)
    assert result.status == 1
    for expected, line in zip(
        [
            r"x\.json is not among SHA256SUMS",
            r"curve\.json is gone",
            r"run\.json was edited",
            r"images\.safetensors\.xz was edited",
            r"summary\.md is missing: .*leaderboard build",
            r"transfer\.csv is stale, row 1, setting: supervised → unsupervised: ",
            r"summary\.tex is stale: ",
            r"summary\.parquet is stale: ",
            r"cost\.parquet is stale",
            r"summary\.xml is not among",
        ],
        result.err.splitlines(),
        strict=True,
    ):
        assert re.search(expected, line), result.err


@pytest.mark.parametrize(
    ("damage", "messages"),
    [
        (lambda b: shutil.rmtree(one(b, "*")), [r"run\.json is gone", r"summary\.\w+ is stale"]),
        (lambda b: (b / "records" / "SHA256SUMS").unlink(), [r"SHA256SUMS cannot be read"]),
        (lambda b: one(b, "*/run.json").write_text("{"), [r"run\.json was edited", r"run\.json cannot be read"]),
        (
            lambda b: one(b, "*/scores/*/images*.xz").write_bytes(b"x"),
            [r"\.xz was edited", r"\.xz cannot be read"],
        ),
        (lambda b: edit(b / "records" / "form.json", schema=9), [r"form\.json was edited", r"says schema 9"]),
        (
            change_numbers,
            [r"score\.json was edited", r"i2t_R@1 moved: it says", r"scenarios\.csv is stale, row \d+, .* → "],
        ),
    ],
)
def test_check_names_a_damage(board: Path, cli: Cli, damage, messages: list[str]) -> None:  # type: ignore[no-untyped-def]
    damage(board)
    result = cli("leaderboard", "check", board)
    assert result.status == 1
    for message in messages:
        assert re.search(message, result.err), result.err


def test_check_names_tables_and_sites_that_the_view_no_longer_makes(board: Path, cli: Cli) -> None:
    assert cli("leaderboard", "build", board, "--format", "html", "--format", "csv").status == 0
    for name in ("by_source.md", "by_kind.csv"):
        (board / name).touch()
    write_view(board / "view.yaml", renderers=[*TEXTS, "parquet"], details=["t2i_R@1"])
    told = cli("leaderboard", "check", board).err
    for name in ("by_source.md", "by_kind.csv", "cost.csv", "cost.parquet", "site"):
        assert f"{board / name} is not among what the view makes: delete it, or " in told, name
    (board / "docs").mkdir()
    for name in ("cost.txt", "docs/index.html", "ablation.yaml"):
        (board / name).touch()
        assert name not in cli("leaderboard", "check", board).err


def test_published_figures_may_lie_beside_a_board(board: Path, cli: Cli) -> None:
    for file in ("published.csv", "published.md"):
        shutil.copy(ROOT / "leaderboards" / file, board)
    for place in (board, board / "published.csv"):
        assert cli("leaderboard", "check", place).status == 0


@pytest.mark.parametrize("out", ["records", "records/tables"])
def test_tables_are_not_written_among_records(board: Path, cli: Cli, out: str) -> None:
    replace_text(board / "view.yaml", "out: .", f"out: {out}")
    before = tree(board)
    for arguments in ([board / "records", "--out", board / out], [board]):
        result = cli("leaderboard", "build", *arguments)
        assert result.status == 2
        assert f"leaderboard folder {board / out} is one of records; choose another" in result.err
    assert tree(board) == before


def test_add_takes_no_file_for_a_folder(runs: Path, tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "board").touch()
    result = cli("leaderboard", "add", runs, "--to", tmp_path / "board")
    assert (result.status, f"--to {tmp_path / 'board'} is no folder" in result.err) == (2, True)


def test_hashes_are_those_of_sha256sum(board: Path) -> None:
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], check=True, cwd=board / "records")
    lines = (board / "records" / "SHA256SUMS").read_text().splitlines()
    assert len(lines) == len(tree(board / "records")) - 1


@pytest.mark.parametrize(
    ("changes", "view", "allowed", "reason"),
    [
        ({"status": "failed"}, {}, {"allow": ["failed_runs", "missing_seeds"]}, "did not end well"),
        (
            {"encoder": {"label": "e", "name": "e", "weights": {"status": "untrained"}}},
            {},
            {"weights": ["pretrained", "trained here", "untrained"], "allow": ["missing_seeds"]},
            "use weights that are untrained",
        ),
        ({}, {"reference_settings": []}, {"allow": ["ranked_oracle"]}, "have seen labels of the target"),
        (
            {"test_images_in_training": 4},
            {},
            {"allow": ["test_images_in_training", "missing_seeds"]},
            "were trained, or may have been chosen, on images of their test split",
        ),
        ({"seed": 3, "code": "1"}, {}, {"allow": ["missing_seeds"]}, "lack a seed"),
    ],
)
def test_add_refuses_what_the_view_does_not_allow(  # type: ignore[no-untyped-def]
    runs: Path, tmp_path: Path, cli: Cli, changes, view, allowed, reason: str
) -> None:
    shutil.copytree(runs, tmp_path / "some")
    write_run(tmp_path / "some" / "runs", "oracle", "a", "b", **({"seed": 0, "code": "2"} | changes))
    write_view(tmp_path / "board" / "view.yaml", **view)
    refused = cli("leaderboard", "add", tmp_path / "some", "--to", tmp_path / "board")
    assert refused.status == 1
    assert reason in refused.err
    assert not (tmp_path / "board" / "records").exists()
    write_view(tmp_path / "board" / "view.yaml", **view, **allowed)
    result = cli("leaderboard", "add", tmp_path / "some", "--to", tmp_path / "board")
    assert result.status == 0, result.err
    assert f"{len(METHODS) * 9 + 1} runs" in result.out


def test_add_begins_a_folder_goes_on_and_is_idempotent(runs: Path, tmp_path: Path, cli: Cli) -> None:
    few = write_runs(tmp_path / "few", methods=["source_only", "ours"])
    assert "18 runs and 18 scores" in cli("leaderboard", "add", few, "--to", tmp_path / "board").out
    assert "9 runs and 9 scores" in cli("leaderboard", "add", runs, "--to", tmp_path / "board").out
    before = tree(tmp_path / "board")
    assert "0 runs and 0 scores" in cli("leaderboard", "add", runs, few, "--to", tmp_path / "board").out
    assert tree(tmp_path / "board") == before
    assert before["view.yaml"] == DEFAULT.read_bytes()
    assert cli("leaderboard", "build", tmp_path / "board").status == 0
    assert cli("leaderboard", "check", tmp_path / "board").status == 0


def test_add_takes_what_the_filters_let_through(runs: Path, tmp_path: Path, cli: Cli) -> None:
    shutil.copytree(runs, tmp_path / "some")
    for folder in (tmp_path / "some" / "runs").iterdir():
        if json.loads((folder / "run.json").read_text())["adaptation"]["label"] == "ours":
            edit(folder / "run.json", status="failed")
    write_view(tmp_path / "board" / "view.yaml", filters={"adaptation": ["or*", "source_only"]})
    assert "18 runs" in cli("leaderboard", "add", tmp_path / "some", "--to", tmp_path / "board").out


def test_add_never_changes_a_score(board: Path, runs: Path, tmp_path: Path, cli: Cli) -> None:
    shutil.copytree(runs, tmp_path / "again")
    file = sorted((tmp_path / "again").glob("runs/*/scores/*/score.json"))[0]
    edit(file, draws=5)
    before = tree(board)
    result = cli("leaderboard", "add", tmp_path / "again", "--to", board)
    assert result.status == 1
    assert re.search(r"1 score \(.*\) stand there already with other numbers", result.err)
    assert tree(board) == before


def without_a_metric(file: Path, name: str) -> None:
    """A score as it is where the metric failed: without the value, and without its sums."""
    metrics = json.loads(file.read_text(encoding="utf-8"))["metrics"]
    edit(file, metrics={each: entry for each, entry in metrics.items() if each != name}, failed={"own": "away"})
    arrays = load_file(file.with_name("queries.safetensors"))
    arrays.pop(f"image_sums.{name}", None)
    save_file(arrays, file.with_name("queries.safetensors"))


def test_a_metric_that_had_failed_comes_into_the_board(runs: Path, tmp_path: Path, cli: Cli) -> None:
    def add_to_board(name: str) -> Result:
        return cli("leaderboard", "add", tmp_path / name, "--to", tmp_path / "board")

    for name in ("then", "now", "moved", "summed", "cured"):
        shutil.copytree(runs, tmp_path / name)
    files = {place.name: sorted(place.glob("runs/*/scores/*/score.json"))[0] for place in tmp_path.iterdir()}
    without_a_metric(files["then"], "t2i_R@10")
    for name in ("now", "moved", "summed"):
        edit(files[name], failed={})
    without_a_metric(files["cured"], "t2i_R@10")
    edit(files["cured"], failed={})  # nothing was computed
    moved = json.loads(files["moved"].read_text(encoding="utf-8"))["metrics"]
    edit(files["moved"], metrics=moved | {"mR": moved["mR"] | {"value": 1.0}})
    arrays = load_file(files["summed"].with_name("queries.safetensors"))
    save_file(arrays | {"image_sums.other": np.ones((2, 2))}, files["summed"].with_name("queries.safetensors"))

    assert "27 runs and 27 scores added. Now" in add_to_board("then").out
    before = tree(tmp_path / "board")
    for name in ("moved", "summed", "cured"):
        assert "1 score (" in add_to_board(name).err
        assert tree(tmp_path / "board") == before
    result = add_to_board("now")
    assert "0 runs and 0 scores added, and to 1 scores the values of metrics that had failed. Now" in result.out
    after = tree(tmp_path / "board")
    place = f"records/{files['now'].parent.relative_to(tmp_path / 'now' / 'runs')}"
    changed = {f"{place}/score.json", f"{place}/images.safetensors.xz", "records/SHA256SUMS"}
    assert {name for name in after if after[name] != before.get(name)} == changed
    assert before.keys() == after.keys()
    assert after[f"{place}/score.json"] == files["now"].read_bytes()
    assert "added. Now" in add_to_board("now").out
    assert "1 score (" in add_to_board("then").err
    assert tree(tmp_path / "board") == after
    assert cli("leaderboard", "build", tmp_path / "board").status == 0
    assert cli("leaderboard", "check", tmp_path / "board").status == 0


def test_a_repeated_run_changes_the_cost_alone(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs, tmp_path / "again")
    for file in (tmp_path / "again").glob("runs/*/provenance.json"):
        edit(file, adapt=json.loads(file.read_text())["adapt"] | {"seconds": 99.0})
    view = load_view(DEFAULT).model_copy(update={"cost": True})
    for name, place in (("before", runs), ("after", tmp_path / "again")):
        build([place], tmp_path / name, view, Registry.discover())
    before, after = generated(tmp_path / "before"), generated(tmp_path / "after")
    assert {name for name in before if before[name] != after[name]} == {"cost.md", "cost.csv"}


def test_the_cost_counts_a_shared_training_once(runs: Path, tmp_path: Path) -> None:
    """Pre-trainings: two sources, three seeds, 60 s each; adaptations: nine a method, 30 s each."""
    view = load_view(DEFAULT).model_copy(update={"cost": True})
    build([runs], tmp_path / "board", view, Registry.discover())
    with (tmp_path / "board" / "cost.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert [line["adaptation"] for line in lines] == [*sorted(METHODS), ""]
    for line, methods in zip(lines, [1, 1, 1, 3], strict=True):
        assert float(line["minutes"]) == 9 * methods * 0.5
        assert float(line["minutes of pre-training"]) == 6
        assert float(line["CPU hours"]) == pytest.approx(2 * (9 * methods * 30 + 6 * 60) / 3600, abs=1e-4)
        assert float(line["GPU hours"]) == 0
        assert float(line["CPU energy, Wh"]) == 2 * (9 * methods + 6)
    record = sorted((runs / "runs").iterdir())[0]
    shutil.copytree(record, tmp_path / "one" / record.name)
    (tmp_path / "one" / record.name / "provenance.json").unlink()
    table = make_board(read_all([tmp_path / "one"]), view, {}).tables[-1]
    assert table.rows[0][table.columns.index("CPU hours")] is None


def test_the_cost_is_that_of_the_runs_a_board_shows(runs: Path, tmp_path: Path) -> None:
    """Not of those that its weights leave out: it is what there would be without them."""
    view = load_view(DEFAULT).model_copy(update={"cost": True})
    shutil.copytree(runs, tmp_path / "more")
    weights = {"status": "untrained", "source": "random", "sha256": None, "partial": False}
    encoder = {"label": "small", "name": "openclip", "version": "1", "options": {}, "weights": weights}
    write_runs(tmp_path / "more", methods=["theirs", "ours"], encoder=encoder)
    alone, more = (make_board(read_all([place]), view, {}).tables[-1] for place in (runs, tmp_path / "more"))
    assert more == alone
    asked = view.model_copy(update={"weights": (*view.weights, "untrained")})
    every = make_board(read_all([tmp_path / "more"]), asked, {}).tables[-1]
    assert every.rows[-1][every.columns.index("runs")] == 27 + 18


def test_one_seed_shows_the_interval_of_its_record(runs: Path, tmp_path: Path) -> None:
    """Made-up ends, which no resampling gives."""
    some, halves = write_runs(tmp_path, seeds=[0]), {"mR": 0.5, "t2i_R@5": 1.0}
    for file in some.glob("runs/*/scores/*/score.json"):
        metrics = json.loads(file.read_text(encoding="utf-8"))["metrics"]
        for metric, half in halves.items():
            value = metrics[metric]["value"]
            metrics[metric] |= {"low": value - half, "high": value + half}
        edit(file, metrics=metrics)
    for line in csv.DictReader(_text([some], tmp_path, "scenarios.csv").splitlines()):
        for metric, half in halves.items():
            value, low, high = (float(line[f"{metric}{end}"]) for end in ("", " low", " high"))
            assert (value - low, high - value) == pytest.approx((half, half), abs=2e-4)


def _text(places: list[Path], folder: Path, name: str, **changes: object) -> str:
    view = load_view(write_view(folder / "views" / "view.yaml", **changes))
    build(places, folder / "built", view, Registry.discover())
    return (folder / "built" / name).read_text(encoding="utf-8")


def test_filters_show_what_they_name(runs: Path, tmp_path: Path) -> None:
    filters = {"adaptation": ["ours", "source_only"], "scenario": ["a -> *"], "encoder": ["small"]}
    lines = list(csv.DictReader(_text([runs], tmp_path, "scenarios.csv", filters=filters).splitlines()))
    assert {line["scenario"] for line in lines} == {"a → a", "a → b"}
    assert {line["adaptation"] for line in lines} == {"ours", "source_only"}
    for field, pattern in (("adaptation", "our"), ("protocol", "classical"), ("selector", "l[a]st")):
        with pytest.raises(UsageError, match=f"no record has the {field}.*(Did you mean|Known)"):
            _text([runs], tmp_path, "scenarios.csv", filters={field: [pattern]})
    assert _text([runs], tmp_path, "summary.csv", filters={"protocol": ["classic"], "selector": ["la*"]})
    for typed in ("a->b", "a → b", "* ->b"):  # as on the command line
        text = _text([runs], tmp_path, "scenarios.csv", filters={"scenario": [typed]})
        assert {line["scenario"] for line in csv.DictReader(text.splitlines())} == {"a → b"}


def test_a_route_is_the_same_however_it_is_typed() -> None:
    said = route({"source": ["a", "b"], "target": "c"})
    assert {typed_route(text) for text in ("a+b->c", "a + b -> c", " a +b→ c ", said)} == {said}
    assert typed_route("no arrow +here") == "no arrow +here"


def test_a_view_says_where_its_records_and_files_are(runs: Path, tmp_path: Path, cli: Cli) -> None:
    shutil.copytree(runs, tmp_path / "here")
    view = write_view(tmp_path / "boards" / "x.yaml", records=["../here"], out="tables/x", renderers=["json"])
    assert cli("leaderboard", "build", view).status == 0
    wanted = {f"{name}.json" for name in ("summary", "scenarios", "matrix", "transfer")}
    assert {*tree(tmp_path / "boards" / "tables" / "x")} == wanted
    for out in ("../x", "/x", "a/../../x"):
        result = cli("leaderboard", "build", write_view(tmp_path / "y.yaml", out=out))
        assert result.status == 2
        assert re.search(r"y\.yaml:\d+: out: name a folder", result.err)
    wrong = cli("leaderboard", "build", write_view(tmp_path / "y.yaml", filters={"encodr": ["x"]}))
    assert 'Did you mean "encoder"' in wrong.err
    assert "holds none" in cli("leaderboard", "build", runs).err
    assert "--view needs --out" in cli("leaderboard", "build", runs, "--view", view).err
    given = cli("leaderboard", "build", view, "--out", tmp_path / "there").err
    assert "is a file: with --out name folders of records, and a view by --view" in given


def test_all_boards_of_a_folder_are_built_and_checked(board: Path, cli: Cli) -> None:
    shutil.copytree(board, board.parent / "boards" / "two")
    shutil.copy(ROOT / "leaderboards" / "published.csv", board.parent / "boards")
    (board.parent / "boards" / "two" / "summary.md").unlink()
    result = cli("leaderboard", "check", board.parent / "boards")
    assert "two/summary.md is missing" in result.err
    assert "published.md is missing" in result.err
    assert cli("leaderboard", "build", board.parent / "boards").status == 0
    assert "2 checked" in cli("leaderboard", "check", board.parent / "boards").out


def test_a_board_stands_for_its_records(board: Path, runs: Path, tmp_path: Path, cli: Cli) -> None:
    """Wherever an output folder does."""
    frame = api.records(board)
    assert frame.equals(api.records(board / "records"))
    assert len(frame) == 27
    for place in (board, board / "records"):
        assert (
            "27 runs and 27 scores" in cli("leaderboard", "add", place, "--to", tmp_path / place.name / "new").out
        )
    assert (
        cli("leaderboard", "build", board, "--out", tmp_path / "tables", "--view", board / "view.yaml").status == 0
    )
    assert generated(tmp_path / "tables") == generated(board)
    edit(board / "records" / "form.json", schema=9)
    with pytest.raises(DataError, match="says schema 9"):
        api.records(board)
    empty = tmp_path / "empty" / "records"
    empty.mkdir(parents=True)
    assert "a board or a bundle's folder" in cli("rescore", empty.parent).err


def test_committed_records_cannot_be_scored_anew(board: Path, cli: Cli) -> None:
    for place in (board, board / "records"):
        result = cli("rescore", place, "--metric", "rank")
        assert (result.status, result.out) == (2, "")
        assert f"{sorted((board / 'records').iterdir())[0].parent}" in result.err
        assert "is a committed record, of a board or a bundle" in result.err
        assert "give the output folder of its grid" in result.err


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (change_numbers, r"score\.json was edited: its hash is not the one in SHA256SUMS"),
        (repack, r"images\.safetensors\.xz was edited"),
        (lambda b: one(b, "*/run.json").with_name("x.json").touch(), r"x\.json is not among SHA256SUMS"),
        (lambda b: one(b, "*/curve.json").unlink(), r"curve\.json is gone"),
        (lambda b: (b / "records" / "SHA256SUMS").unlink(), r"SHA256SUMS cannot be read"),
    ],
)
def test_nothing_is_shown_of_records_that_were_touched(  # type: ignore[no-untyped-def]
    board: Path, tmp_path: Path, cli: Cli, damage, message: str
) -> None:
    whole = shutil.copytree(board, tmp_path / "whole")
    damage(board)
    before = tree(board)
    for command in (
        ("leaderboard", "build", board),
        ("leaderboard", "build", board, "--out", tmp_path / "x"),
        ("compare", "ours", "source_only", board),
        ("compare", whole, board),
        ("compare", board / "records", whole),
    ):
        result = cli(*command)
        assert (result.status, result.out) == (2, "")
        assert re.search(message, result.err), result.err
        assert "Fetch the records as they were" in result.err
    for asked in (
        lambda: api.records(board),
        lambda: api.records(whole, board / "records"),
        lambda: api.leaderboard(board),
        lambda: api.leaderboard(board, out=tmp_path / "x"),
        lambda: api.compare("ours", "source_only", board),
        lambda: api.compare(board, whole),
    ):
        with pytest.raises(DataError, match=message):
            asked()
    assert tree(board) == before
    assert not (tmp_path / "x").exists()


def test_add_does_not_seal_what_was_edited(board: Path, runs: Path, tmp_path: Path, cli: Cli) -> None:
    """Neither of the board nor of what is added, nor what it cannot know; records that are gone come back."""
    shutil.copytree(board, tmp_path / "edited")
    change_numbers(tmp_path / "edited")
    before = tree(tmp_path / "edited")
    for source, target in ((runs, tmp_path / "edited"), (tmp_path / "edited", tmp_path / "new")):
        result = cli("leaderboard", "add", source, "--to", target)
        assert (result.status, "score.json was edited" in result.err) == (2, True)
    assert tree(tmp_path / "edited") == before
    assert not (tmp_path / "new").exists()
    whole = tree(board)
    shutil.rmtree(one(board, "*"))
    assert cli("leaderboard", "add", runs, "--to", board).status == 0
    assert tree(board) == whole
    for name in ("SHA256SUMS", "form.json"):  # without either it is known by what lies there
        (board / "records" / name).unlink()
        result = cli("leaderboard", "add", runs, "--to", board)
        assert (result.status, "SHA256SUMS cannot be read" in result.err) == (2, True)
    for place in board.glob("records/*/"):
        shutil.rmtree(place)
    assert cli("leaderboard", "add", runs, "--to", board).status == 0
    assert tree(board) == whole
    assert cli("leaderboard", "check", board).status == 0


def test_two_adds_at_once_wait_for_each_other(
    board: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[Sequence[Path]] = []
    free: list[Path] = []

    def read(places: Sequence[Path]) -> list[Record]:
        held.append(places)
        for lock in (tmp_path / "tmp").rglob(".lock"):
            with contextlib.suppress(Timeout):
                FileLock(lock, blocking=False).acquire()
                free.append(lock)
        return read_all(places)

    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(importing, "read_all", read)
    assert add([runs], board) == Added()
    assert [board / "records"] in held
    assert len([*(tmp_path / "tmp").rglob(".lock")]) == 1
    assert not free
    assert add([runs], tmp_path / "new").runs
    assert len([*(tmp_path / "tmp").rglob(".lock")]) == 2
    assert not [*board.glob(".*"), *(tmp_path / "new").glob(".*")]


@pytest.mark.parametrize("before", [False, True])
def test_an_add_that_was_killed_is_gone_on_with(
    before: bool, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into a new board, or one that has runs; what it had added is not taken for edited."""
    first = min((runs / "runs").iterdir())
    shutil.copytree(first, tmp_path / "first" / "runs" / first.name)
    if before:  # its score is still to come, too
        shutil.rmtree(tmp_path / "first" / "runs" / first.name / "scores")
    write_view(tmp_path / "board" / "view.yaml", allow=["missing_seeds"])
    shutil.copytree(tmp_path / "board", tmp_path / "whole")
    if before:
        assert add([tmp_path / "first"], tmp_path / "board").refused == ()
    write_run_ = committed._write_run
    left = [2]

    def write(*arguments: Any) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write_run_(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(committed, "_write_run", write)
        with pytest.raises(KeyboardInterrupt):
            add([runs], tmp_path / "board")
    for board in ("board", "whole"):
        assert add([runs], tmp_path / board).refused == ()
    assert tree(tmp_path / "board") == tree(tmp_path / "whole")


def set_aside(records: Path, key: str) -> None:
    """As a kill leaves it between two renames."""
    (records / f"{committed._PARTIAL}x" / "replaced").mkdir(parents=True)
    (records / f"{committed._PARTIAL}x" / "run").mkdir()
    (records / key).rename(records / f"{committed._PARTIAL}x" / "replaced" / key)


def halved(runs: Path, place: Path) -> tuple[Path, str]:
    """A copy of one run that has another score than the original, and its key."""
    run = min((runs / "runs").iterdir())
    shutil.copytree(run, place / "runs" / run.name)
    [score, *_] = (place / "runs" / run.name / "scores").iterdir()
    other = score.with_name("0" * 32)
    score.rename(other)
    edit(other / "score.json", key=other.name, selector="other", selected_by={"name": "other", "options": {}})
    return place, run.name


@pytest.mark.parametrize("wrong", [KeyboardInterrupt, OSError(5, "Input/output error")])
def test_a_run_that_was_to_be_replaced_is_put_back(  # type: ignore[no-untyped-def]
    wrong, board: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more, _ = halved(runs, tmp_path / "more")
    edit_view = yaml.safe_load((board / "view.yaml").read_text())
    write_view(board / "view.yaml", **{**edit_view, "allow": ["missing_seeds"]})
    before = tree(board / "records")

    def publish(folder: Path, place: Path) -> None:
        raise wrong

    with monkeypatch.context() as patch:
        patch.setattr(committed, "publish", publish)
        with pytest.raises((KeyboardInterrupt, OSError)):
            add([more], board)
    assert tree(board / "records") == before
    assert add([more], board).scores == 1
    assert committed.broken_seals(board / "records") == []
    assert tree(board / "records").keys() > before.keys()


@pytest.mark.parametrize("published", [False, True])
def test_a_run_that_a_kill_left_aside_is_put_back(
    published: bool, board: Path, runs: Path, tmp_path: Path
) -> None:
    more, key = halved(runs, tmp_path / "more")
    write_view(
        board / "view.yaml", **{**yaml.safe_load((board / "view.yaml").read_text()), "allow": ["missing_seeds"]}
    )
    records, before = board / "records", tree(board / "records")
    set_aside(records, key)
    if published:
        shutil.copytree(records / f"{committed._PARTIAL}x" / "replaced" / key, records / key)
    assert add([more], board).refused == ()
    assert not [*records.glob(".*")]
    assert tree(records).keys() > before.keys()
    assert committed.broken_seals(records) == []


def test_a_run_that_a_kill_left_aside_is_held_against_what_is_added(
    board: Path, runs: Path, tmp_path: Path
) -> None:
    shutil.copytree(runs, tmp_path / "other")
    score = min((tmp_path / "other").glob("runs/*/scores/*/score.json"))
    metrics = json.loads(score.read_text(encoding="utf-8"))["metrics"]
    edit(score, metrics=metrics | {"mR": metrics["mR"] | {"value": 1.0}})
    whole = add([tmp_path / "other"], board).refused
    assert whole
    set_aside(board / "records", score.parent.parent.parent.name)
    with (board / "records" / "SHA256SUMS").open("a", encoding="utf-8") as sums:
        sums.write(f"{'0' * 64}  what-was/to-come.json\n")
    assert add([tmp_path / "other"], board).refused == whole
    assert not [*(board / "records").glob(".*")]
    assert committed.broken_seals(board / "records") == []
    set_aside(board / "records", score.parent.parent.parent.name)
    assert add([runs], board) == Added()


def test_what_says_of_a_board_is_replaced_whole(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk leaves no half a `view.yaml`, say, over which the next `add` would fail."""
    publish_ = files.publish
    add([runs], tmp_path / "whole")
    for name in ("view.yaml", "form.json", "SHA256SUMS"):
        board = tmp_path / name

        def publish(folder: Path, place: Path, name: str = name) -> None:
            if place.name == name:
                raise OSError(28, "No space left on device")
            publish_(folder, place)

        with monkeypatch.context() as patch:
            patch.setattr(files, "publish", publish)
            with pytest.raises(OSError, match="No space"):
                add([runs], board)
        assert add([runs], board).refused == ()
        assert tree(board) == tree(tmp_path / "whole")


def test_a_damaged_curve_or_provenance_is_named(runs: Path, tmp_path: Path) -> None:
    for name, damage in (("curve.json", "{"), ("provenance.json", "[1]"), ("provenance.json", '{"adapt": 3}')):
        shutil.copytree(runs, tmp_path / damage[:5])
        file = min((tmp_path / damage[:5]).rglob(name))
        file.write_text(damage)
        with pytest.raises(DataError, match=re.escape(str(file))):
            add([tmp_path / damage[:5]], tmp_path / "board" / damage[:5])


def test_a_bomb_is_not_unpacked(board: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("urbancross_bench.leaderboard.committed._UNPACKED", 1000)
    [record, *_] = read_all([board / "records"])
    with pytest.raises(DataError, match="unpacks to more than 1000 bytes"):
        record.scores[0].arrays()


def test_sums_that_are_not_of_the_scores_images_are_refused(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs, tmp_path / "runs")
    file = sorted(tmp_path.glob("runs/runs/*/scores/*/queries.safetensors"))[0]
    save_file({**load_file(file), "image_sums.t2i_R@5": np.ones((7, 2))}, file)
    with pytest.raises(DataError, match=rf"{file.parent.name} has sums of t2i_R@5 in the form \(7, 2\), where 30"):
        make_board(read_all([tmp_path / "runs"]), load_view(DEFAULT), {})


def test_equal_values_of_records_are_held_once(runs: Path) -> None:
    one, two, *_ = read_records([runs])
    assert one.spec["encoder"] is two.spec["encoder"]
    assert one.spec["stages"] != two.spec["stages"]


def test_compact_arrays_equal_the_file_read_by_the_library(runs: Path) -> None:
    file = sorted(runs.glob("runs/*/scores/*/queries.safetensors"))[0]
    [record] = [r for r in read_all([runs]) if r.folder == file.parents[2]]
    for name, array in load_file(file).items():
        np.testing.assert_array_equal(record.scores[0].arrays()[name], array)
