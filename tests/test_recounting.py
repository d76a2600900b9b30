"""`leaderboard check` of boards whose records hold counts: each number that does not follow from them is named."""

from __future__ import annotations

import json
import lzma
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Result
from made_up_records import edit, write_run
from safetensors.numpy import load, save, save_file

from urbancross_bench.evaluation import evaluate_retrieval
from urbancross_bench.evaluation.floors import as_json, floors, random_floor
from urbancross_bench.execution.scoring import resolve_metrics, score_ranking
from urbancross_bench.leaderboard.committed import read_all, seal
from urbancross_bench.leaderboard.importing import add
from urbancross_bench.leaderboard.recounting import moved
from urbancross_bench.registry import Registry

Cli = Callable[..., Result]
OWNER = np.repeat(np.arange(12), 3)
STRINGS = np.where(np.arange(36) % 5, np.arange(36), 0)  # some captions stand at several images


def with_counts(folder: Path, protocol: str, ties: str) -> None:
    """Give a made-up run a score of drawn embeddings, many of which tie."""
    rng = np.random.default_rng(3)
    images, texts = rng.integers(-1, 2, (12, 4)) + 0.5, rng.integers(-1, 2, (36, 4)) + 0.5
    ranking = evaluate_retrieval(images, texts, OWNER, protocol=protocol, ties=ties, text_id=STRINGS)
    metrics = resolve_metrics(Registry.discover(), ["recall", "rank", "map"])
    content, arrays = score_ranking(ranking, metrics, draws=5)
    classic = as_json(floors(OWNER, STRINGS, 12, np.arange(12) % 4))[ties]
    found = classic if protocol == "classic" else {"class_oracle": None, "random": random_floor(ranking).as_json()}
    [file] = folder.glob("scores/*/score.json")
    measured = {"metrics": [metric.identity() for metric in metrics], "code": "1"}
    edit(file, **content, measured_by=measured, floors=found)
    save_file(arrays, file.with_name("queries.safetensors"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A board of one run, ties by expectation. Look, do not touch."""
    folder = tmp_path_factory.mktemp("counted")
    with_counts(write_run(folder / "runs", "source_only", "a", "b", 0), "classic", "expected")
    assert add([folder], folder / "board").refused == ()
    return folder / "board"


@pytest.fixture
def board(whole: Path, tmp_path: Path) -> Path:
    """A copy of the board."""
    shutil.copytree(whole, tmp_path / "board")
    return tmp_path / "board"


def said(cli: Cli, board: Path) -> list[str]:
    """What `check` says of a board that was sealed and built anew, each without the file's name."""
    seal(board / "records")
    assert cli("leaderboard", "build", board).status == 0
    result = cli("leaderboard", "check", board)
    lines = result.err.splitlines()
    assert result.status == bool(lines)
    [file] = board.glob("records/*/scores/*/score.json")
    assert all(line.startswith(f"record {file}: ") for line in lines)
    return [line.removeprefix(f"record {file}: ") for line in lines]


def change(board: Path, *path: str, to: Any) -> None:
    """Another value at a place in `score.json`."""
    [file] = board.glob("records/*/scores/*/score.json")
    content = json.loads(file.read_text(encoding="utf-8"))
    place = content
    for name in path[:-1]:
        place = place[name]
    assert place[path[-1]] != to
    place[path[-1]] = to
    file.write_text(json.dumps(content), encoding="utf-8")


def repack(board: Path, kind: str, edited: Callable[[dict[str, np.ndarray]], object]) -> None:
    """Change the arrays of `queries` or `images`."""
    [file] = board.glob(f"records/*/scores/*/{kind}.safetensors.xz")
    arrays = {name: array.copy() for name, array in load(lzma.decompress(file.read_bytes())).items()}
    edited(arrays)
    file.write_bytes(lzma.compress(save(arrays)))


@pytest.mark.parametrize("ties", ["expected", "optimistic", "pessimistic"])
@pytest.mark.parametrize("protocol", ["classic", "deduplicated", "row_diagonal"])
def test_nothing_is_said_of_what_a_run_records(tmp_path: Path, cli: Cli, protocol: str, ties: str) -> None:
    with_counts(write_run(tmp_path / "runs", "source_only", "a", "b", 0), protocol, ties)
    assert add([tmp_path], tmp_path / "board").refused == ()
    assert said(cli, tmp_path / "board") == []


@pytest.mark.parametrize("name", ["i2t_R@1", "t2i_MRR", "i2t_mean_rank", "i2t_mAP@R", "mR"])
@pytest.mark.parametrize(("field", "to"), [("value", 0.5), ("low", 0.5), ("high", None), ("chance", 0.5)])
def test_a_forged_number_is_named(board: Path, cli: Cli, name: str, field: str, to: float | None) -> None:
    change(board, "metrics", name, field, to=to)
    lines = said(cli, board)
    if (name, field) == ("i2t_mAP@R", "chance"):
        assert lines == []  # the record does not hold what gives it
        return
    shown = "nothing" if to is None else "0.5"
    assert lines[0].startswith(f"{name} moved: it says {field} {shown}, its queries give ")
    assert len(lines) == 1 + (name == "i2t_R@1" and field == "chance")  # and so that of mR


def test_counts_that_give_other_hits_are_named(board: Path, cli: Cli) -> None:
    def first(arrays: dict[str, np.ndarray]) -> None:
        arrays["i2t.greater"][:] = 0
        arrays["i2t.tied"][:] = 0

    repack(board, "queries", first)
    lines = said(cli, board)
    moved = [line.partition(" ")[0] for line in lines]
    assert moved == ["i2t_R@1", "i2t_R@5", "i2t_R@10", "i2t_MRR", "i2t_mean_rank"]
    assert all(" are not what its queries give, first of image " in line for line in lines)
    assert lines[0].endswith(" → 100 of 1")


def test_hits_are_those_of_the_tie_rule(board: Path, cli: Cli) -> None:
    change(board, "ties", to="optimistic")
    assert "i2t_R@1 moved: the sums of " in said(cli, board)[0]


@pytest.mark.parametrize("name", ["t2i_R@5", "i2t_mAP@R"])
def test_sums_are_named_where_counts_or_values_speak_against_them(board: Path, cli: Cli, name: str) -> None:
    def one_more(arrays: dict[str, np.ndarray]) -> None:
        arrays[f"image_sums.{name}"][4, 0] += 50

    repack(board, "images", one_more)
    lines = said(cli, board)
    assert any(line.startswith(f"{name} moved: it says value ") for line in lines)
    against = [line for line in lines if line.startswith(f"{name} moved: the sums of 1 images are not what")]
    assert [" first of image 4 (from 0): " in line for line in against] == [True] * (name == "t2i_R@5")


def test_a_value_whose_sums_are_gone_is_held_to_the_counts(board: Path, cli: Cli) -> None:
    repack(board, "images", lambda arrays: arrays.pop("image_sums.i2t_MRR"))
    assert said(cli, board) == []
    change(board, "metrics", "i2t_MRR", "value", to=99.0)
    assert said(cli, board)[0].startswith("i2t_MRR moved: it says value 99, its queries give ")


def test_other_draws_give_other_intervals(board: Path, cli: Cli) -> None:
    change(board, "draws", to=6)
    assert {line.split()[4] for line in said(cli, board)} <= {"low", "high"} != set()


def test_other_right_answers_give_other_chance(board: Path, cli: Cli) -> None:
    repack(board, "queries", lambda arrays: arrays["t2i.right"].__iadd__(1))
    lines = said(cli, board)
    assert [line for line in lines if line.startswith("t2i_R@1 ")] == [
        "t2i_R@1 moved: it says chance 8.333333, its queries give 16.66667",
        "t2i_R@1 moved: it says random order 8.333333, its queries give 16.66667",
    ]
    assert {line.split("_")[0] for line in lines} == {"t2i"}


@pytest.mark.parametrize(("floor", "name"), [("random", "i2t_R@5"), ("class_oracle", "mR"), ("ceiling", "mR")])
def test_a_forged_floor_is_named(board: Path, cli: Cli, floor: str, name: str) -> None:
    change(board, "floors", floor, name, to=1.0)
    shown = "random order" if floor == "random" else floor
    assert said(cli, board)[0].startswith(f"{name} moved: it says {shown} 1, its queries give ")


@pytest.mark.parametrize(
    ("edited", "reason"),
    [
        (lambda arrays: arrays.pop("i2t.tied"), "KeyError('i2t.tied')"),
        (lambda arrays: arrays.update({"i2t.greater": arrays["i2t.greater"][:5]}), "Error("),
        (lambda arrays: arrays.update({"t2i.image_of_query": arrays["t2i.image_of_query"] - 9}), "ValueError("),
    ],
)
def test_counts_that_do_not_fit_are_named(
    board: Path, cli: Cli, edited: Callable[[dict[str, np.ndarray]], object], reason: str
) -> None:
    repack(board, "queries", edited)
    [line] = said(cli, board)
    assert line.startswith("the counts beside it cannot be used: ")
    assert reason in line


def test_counts_that_cannot_be_are_named_without_a_warning(board: Path, cli: Cli) -> None:
    repack(board, "queries", lambda arrays: arrays["t2i.tied_positives"].__imul__(0))
    assert any(line.startswith("t2i_R@1 moved: the sums of ") for line in said(cli, board))


def first_query(greater: int, tied: int, positives: int) -> Callable[[dict[str, np.ndarray]], None]:
    """Other counts of the first image, whose gallery are 36 texts."""

    def edited(arrays: dict[str, np.ndarray]) -> None:
        for name, count in (("greater", greater), ("tied", tied), ("tied_positives", positives)):
            arrays[f"i2t.{name}"][0] = count

    return edited


@pytest.mark.parametrize(
    ("counts", "found"),
    [
        ((0, 35, 1), "2.777778"),
        ((0, 36, 1), "nan"),
        ((0, 10**12, 1), "nan"),
        ((0, 0, 10**12), "nan"),
        ((-(10**6), 10**6, 1), "nan"),
        ((2**62, 2**62, 2**62), "nan"),
        ((2**63 - 1, 2**63 - 1, 3), "nan"),  # as whole numbers these sum to 1
    ],
)
def test_counts_beyond_the_gallery_are_no_number_and_cost_nothing(
    board: Path, cli: Cli, counts: tuple[int, int, int], found: str
) -> None:
    repack(board, "queries", first_query(*counts))
    lines = said(cli, board)
    told = {line.partition(" ")[0]: line for line in reversed(lines)}
    assert told.keys() >= {"i2t_R@1", "i2t_MRR"}
    for line in told.values():
        assert " moved: the sums of 1 images are not what its queries give, first of image 0 (from 0): " in line
    assert told["i2t_R@1"].endswith(f" of 1 queries → {found} of 1")


@pytest.mark.parametrize("answers", [-(10**12), 0, 10**12])
def test_right_answers_that_cannot_be_give_no_chance(board: Path, cli: Cli, answers: int) -> None:
    repack(board, "queries", lambda arrays: arrays["t2i.right"].__setitem__(0, answers))
    lines = said(cli, board)
    assert lines[0] == "t2i_R@1 moved: it says chance 8.333333, its queries give nan"
    assert all(line.startswith("t2i_") and line.endswith("its queries give nan") for line in lines)


@pytest.mark.parametrize("row", [0, 1])
def test_rows_of_images_and_queries_that_are_not_there_cost_nothing(board: Path, cli: Cli, row: int) -> None:
    repack(board, "queries", lambda arrays: arrays["i2t.image_of_query"].__setitem__((row, 0), 10**12))
    [line] = said(cli, board)
    told = "ValueError('i2t.image_of_query must lie in [0, 12), got 1 to 1000000000000')"
    assert line == f"the counts beside it cannot be used: {told}"


def test_more_images_than_texts_cost_nothing(board: Path) -> None:
    repack(board, "images", lambda arrays: arrays.clear())
    change(board, "images", to=10**12)
    [line] = [line for line in moved(read_all([board / "records"])) if "cannot be used" in line]
    assert line.endswith("ValueError('36 texts are fewer than 1000000000000 images')")
