"""`compare`: tests against direct calls, refusals one by one, and the command on a grid."""

from __future__ import annotations

import csv
import itertools
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from compared_records import methods, write_run
from conftest import Outcome, Result
from safetensors.numpy import load_file, save_file

from urbancross_bench.errors import DataError, UsageError
from urbancross_bench.evaluation.spread import Spread
from urbancross_bench.evaluation.statistics import (
    SeedMeans,
    resampled_images,
    resampled_means,
)
from urbancross_bench.leaderboard.committed import write_committed
from urbancross_bench.leaderboard.comparing import as_json, compare, table_of
from urbancross_bench.leaderboard.notes import differences_of
from urbancross_bench.leaderboard.pairing import Wanted, sides_of_methods, sides_of_sets
from urbancross_bench.records import read_records

Cli = Callable[..., Result]


def made_hits(gap: float, seed: int, images: int = 60) -> list[float]:
    difficulty = np.random.default_rng(1).normal(size=images)
    noise = np.random.default_rng([2, seed]).normal(size=images)
    return [100.0 * float(latent > 0) for latent in gap + difficulty + 0.3 * noise]


def direct(a: Sequence[list[float]], b: Sequence[list[float]]) -> tuple[SeedMeans, float]:
    """The paired test on arrays, by the functions of `evaluation` alone."""
    draws = resampled_images(len(a[0]), 7, 10_000)

    def means(hits: Sequence[list[float]]) -> SeedMeans:
        sums = {str(n): np.stack([one, np.ones(len(one))], axis=1) for n, one in enumerate(hits)}
        return SeedMeans(np.mean(hits, axis=1), np.stack([*resampled_means(sums, draws).values()]))

    difference = means(a) - means(b)
    return difference, Spread.of(difference).p_value()


def test_the_test_is_paired_and_corrected_over_the_scenarios(tmp_path: Path) -> None:
    gaps = {"b": 0.9, "c": 0.12, "d": -0.3}
    hits = {}
    for target, gap in gaps.items():
        hits[target] = [[made_hits(g, 10 * n + s) for s in range(3)] for n, g in enumerate((gap, 0.0))]
        for method, found in zip(("dann", "coral"), hits[target], strict=True):
            for seed in range(3):
                write_run(tmp_path, method, seed, found[seed], target=target)
    comparison = methods(tmp_path)
    expected = {f"a → {target}": direct(*found) for target, found in hits.items()}
    in_order = sorted(p for _, p in expected.values())
    assert [pair.a.scenario for pair in comparison.pairs] == sorted(expected)
    for pair in comparison.pairs:
        difference, p = expected[pair.a.scenario]
        assert pair.difference.estimate.value == pytest.approx(difference.value)
        assert pair.difference.p == p
        assert pair.adjusted == max(min(1.0, (3 - n) * in_order[n]) for n in range(in_order.index(p) + 1))
        shown = as_json(comparison, 0)["pairs"][comparison.pairs.index(pair)]
        low, high = Spread.of(difference).interval()
        assert shown["difference"] == {"value": pytest.approx(difference.value), "low": low, "high": high}
    assert {"better", "not shown"} <= {pair.verdict for pair in comparison.pairs}
    assert comparison.pairs[0].verdict == "better"
    table = table_of(comparison)
    assert [row[table.columns.index("A is")] for row in table.rows] == [p.verdict for p in comparison.pairs]
    back = methods(tmp_path, "coral", "dann")
    assert [pair.difference.p for pair in back.pairs] == [pair.difference.p for pair in comparison.pairs]
    assert back.pairs[0].verdict == "worse"
    alone = methods(tmp_path, scenarios=("a->c",))
    assert [pair.adjusted for pair in alone.pairs] == [expected["a → c"][1]]


def test_no_p_is_nought(tmp_path: Path) -> None:
    """A difference beyond all doubt: every image but two, in five seeds."""
    for seed in range(5):
        write_run(tmp_path, "dann", seed, [100.0] * 38 + [0.0] * 2)
        write_run(tmp_path, "coral", seed, [0.0] * 38 + [100.0] * 2)
    comparison = methods(tmp_path)
    [p] = [pair.adjusted for pair in comparison.pairs]
    assert p is not None
    assert 0 < p < 1e-12
    [numbers], [words] = (table_of(comparison, to_read=to_read).rows for to_read in (False, True))
    at = table_of(comparison).columns.index("p (Holm)")
    assert (numbers[at], words[at]) == (p, "< 0.0001")
    assert as_json(comparison, 0)["pairs"][0]["p_holm"] == p


@pytest.mark.parametrize(
    ("p", "said"), [(None, None), (0.00012, "0.0001"), (0.000099, "< 0.0001"), (0.25, "0.2500"), (1.0, "1.0000")]
)
def test_p_is_read_in_four_decimals(tmp_path: Path, p: float | None, said: str | None) -> None:
    write_run(tmp_path, "dann", 0, [1.0] * 4)
    write_run(tmp_path, "coral", 0, [0.0] * 4)
    found = methods(tmp_path)
    found = replace(found, pairs=[replace(found.pairs[0], adjusted=p)])
    table = table_of(found, to_read=True)
    assert table.rows[0][table.columns.index("p (Holm)")] == said


@pytest.mark.parametrize("seeds", [1, 3])
def test_images_are_swapped_between_these_models(tmp_path: Path, seeds: int) -> None:
    """Against all 2^9 swaps of the images of each pair, and Holm over both."""
    generator, exact = np.random.default_rng(4), {}
    for target, gap in (("b", 0.9), ("c", 0.2)):
        found = generator.normal(size=(2, seeds, 9)) + np.array([gap, 0.0])[:, None, None]
        for method, hits in zip(("dann", "coral"), found, strict=True):
            for seed in range(seeds):
                write_run(tmp_path, method, seed, hits[seed], target=target)
        apart = (found[0] - found[1]).mean(axis=0)
        swapped = np.array([*product((1, -1), repeat=9)]) @ apart
        exact[f"a → {target}"] = (np.abs(swapped) >= abs(apart.sum()) - 1e-9).mean()
    small, large = sorted(exact.values())
    comparison = methods(tmp_path)
    for pair in comparison.pairs:
        corrected = 2 * small if exact[pair.a.scenario] == small else max(2 * small, large)
        assert pair.swapped == pytest.approx(min(1.0, corrected), abs=0.03)
        assert (pair.adjusted is None) == (seeds == 1)
    [words, _] = table_of(comparison, to_read=True).rows
    assert words[-3] == f"{comparison.pairs[0].swapped:.4f}"
    assert as_json(comparison, 0)["pairs"][0]["p_of_models_holm"] == comparison.pairs[0].swapped


def test_where_less_is_better_the_smaller_wins(tmp_path: Path) -> None:
    for method, gap in (("dann", 1.5), ("coral", -1.5)):
        for seed in range(3):
            write_run(tmp_path, method, seed, made_hits(gap, seed), better=False)
    [pair] = methods(tmp_path).pairs
    assert pair.difference.estimate.value > 0
    assert pair.verdict == "worse"


def test_two_seeds_give_no_verdict_and_lone_seeds_are_left_out_aloud(tmp_path: Path) -> None:
    for method, seeds in (("dann", (0, 1, 5)), ("coral", (1, 0, 2))):
        for seed in seeds:
            write_run(tmp_path, method, seed, made_hits(2.0 * (method == "dann"), seed))
    comparison = methods(tmp_path)
    [pair] = comparison.pairs
    assert (pair.a.numbers, pair.verdict, pair.difference.p, pair.adjusted) == (
        (0, 1),
        "too few seeds",
        None,
        None,
    )
    hits = [np.mean([made_hits(gap, seed) for seed in (0, 1)]) for gap in (2.0, 0.0)]
    assert pair.difference.estimate.value == pytest.approx(hits[0] - hits[1])
    assert any("Only A or B has seed 2, 5" in note for note in comparison.notes)
    assert any("Fewer than three seeds" in note for note in comparison.notes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"protocol": "row_diagonal"}, "protocol (classic against row_diagonal)"),
        ({"ties": "optimistic"}, "tie rule (expected against optimistic)"),
        ({"test": "another"}, "test split (4 images, 4 captions against 4 images, 4 captions)"),
        ({"draws": 8}, "draws of test images"),
        ({"items": "j"}, "the same text, image or class"),
    ],
)
def test_what_was_measured_otherwise_is_refused_and_said(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    write_run(tmp_path, "dann", 0, [1.0] * 4)
    write_run(tmp_path, "coral", 0, [0.0] * 4, score=changes)
    with pytest.raises(UsageError, match="nothing of A was measured like anything of B") as caught:
        methods(tmp_path)
    assert said in str(caught.value)
    # Another scenario that can be compared is, and the refusal stands beside it.
    write_run(tmp_path, "dann", 0, [1.0] * 4, target="c")
    write_run(tmp_path, "coral", 0, [0.0] * 4, target="c")
    comparison = methods(tmp_path)
    assert [pair.a.scenario for pair in comparison.pairs] == ["a → c"]
    [reason] = comparison.refused
    assert said in reason


def test_no_common_seed_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, "dann", 0, [1.0] * 4)
    write_run(tmp_path, "coral", 1, [0.0] * 4)
    with pytest.raises(UsageError, match=r"seeds \(0 against 1\)"):
        methods(tmp_path)


@pytest.mark.parametrize("array", ["t2i.query_row", "i2t.right", "i2t.gallery_row", "t2i.image_of_query"])
def test_other_queries_under_one_name_of_a_split_are_refused(tmp_path: Path, array: str) -> None:
    """Versions of the code may tell equal texts otherwise, which no key of a test split says."""
    write_run(tmp_path, "dann", 0, [1.0] * 4)
    other = {"items": "j", "measured_by": {"metrics": {}, "code": "2"}}
    folder = write_run(tmp_path, "coral", 0, [0.0] * 4, score=other)
    comparison = methods(tmp_path)
    assert any("score.measured_by.code: 1 → 2" in note for note in comparison.notes)
    assert comparison.pairs[0].queries["i2t"].counts["tied"] == 4
    file = folder / "scores" / "s" / "queries.safetensors"
    arrays = load_file(file)
    arrays[array] = arrays[array][..., ::-1].copy() + 1
    save_file(arrays, file)
    with pytest.raises(DataError, match=rf"other {array[:3]} queries"):
        table_of(methods(tmp_path))
    del arrays["i2t.greater"]
    arrays[array] = load_file(tmp_path / "runs/dann-tiny-b-0/scores/s/queries.safetensors")[array]
    save_file(arrays, file)
    with pytest.raises(DataError, match=r"lacks the array 'i2t.greater'"):
        table_of(methods(tmp_path))


def test_rows_find_those_of_their_own_recipe_and_encoder(tmp_path: Path) -> None:
    for code, gain in (("1", 10.0), ("2", 30.0)):
        for method in ("dann", "coral"):
            hits = [gain * (method == "dann")] * 4
            write_run(tmp_path, method, 0, hits, key=f"{method}{code}", run={"code": code})
    write_run(tmp_path, "dann", 0, [70.0] * 4, encoder="vit")
    assert sorted(pair.difference.estimate.value for pair in methods(tmp_path).pairs) == [10.0, 30.0]
    across = methods(tmp_path, "vit/dann", "tiny/coral")
    assert {pair.cells["encoder"] for pair in across.pairs} == {"vit / tiny"}
    # Neither is of the same recipe as another encoder: both stand there, and a note tells why.
    assert [pair.difference.estimate.value for pair in across.pairs] == [70.0, 70.0]
    assert any("Lines that look alike" in note for note in across.notes)
    assert any("A and B also differ in code: 1 → 2" in note for note in across.notes)


def test_what_else_differs_is_told(tmp_path: Path) -> None:
    write_run(tmp_path, "dann", 0, [1.0] * 4, run={"budget": {"steps": 9}, "steps": 9})
    write_run(tmp_path, "coral", 0, [0.0] * 4)
    assert any("A and B also differ in steps: 9 → 5, budget.steps: 9 → 5." in n for n in methods(tmp_path).notes)


def test_versions_of_the_code_are_told_of_lines_that_look_alike(tmp_path: Path) -> None:
    for version, hit in (("local+a", 10.0), ("local+b", 30.0)):
        method = {"label": "dann", "name": "dann", "version": version, "options": {}}
        write_run(tmp_path, "dann", 0, [hit] * 4, key=version, run={"adaptation": method})
    write_run(tmp_path, "coral", 0, [0.0] * 4)
    found = methods(tmp_path)
    [note] = [note for note in found.notes if note.startswith("Lines that look alike")]
    assert note.startswith("Lines that look alike differ in the version of the method's code. ")
    assert "In their order the versions are dann local+a, local+b. " in note
    said = as_json(found, 0)["pairs"]
    assert [(pair["a"]["versions"], pair["a"]["value"]) for pair in said] == [(["local+a"], 10), (["local+b"], 30)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"code": "2"}, "the version of other code"),
        ({"adaptation": {"label": "dann", "name": "dann", "options": {"weight": 2}}}, "what its label means"),
        ({"search": {"space": {"w": [1]}, "trials": [{}, {}]}}, "its search"),
        ({"budget": {"steps": 9}}, "its recipe or budget"),
    ],
)
def test_what_tells_lines_apart_that_look_alike_is_named(tmp_path: Path, changes: Any, said: str) -> None:
    write_run(tmp_path, "dann", 0, [1.0] * 4)
    write_run(tmp_path, "dann", 0, [2.0] * 4, key="again", run=changes)
    write_run(tmp_path, "coral", 0, [0.0] * 4)
    sides = sides_of_methods(read_records([tmp_path]), "dann", "coral", Wanted())
    rows = [row for row in sides.a if row.method[1] == "dann"]
    assert differences_of([rows]) == [said]


def test_names_are_found_or_suggested(tmp_path: Path) -> None:
    for method in ("dann[weight=0.1]", "coral"):
        write_run(tmp_path, method, 0, [1.0] * 4)
    write_run(tmp_path, "mmd", 0, [1.0] * 4, run={"status": "failed"})
    assert len(methods(tmp_path, "dann").pairs) == len(methods(tmp_path, "tiny/dann[weight=0.1]").pairs) == 1
    for name, said in (
        ("corall", 'Did you mean "coral"'),
        ("x", "Known: coral, dann[weight=0.1], tiny/coral, tiny/dann[weight=0.1]."),
        ("mmd", "its 1 runs ended as failed"),
    ):
        with pytest.raises(UsageError) as caught:
            methods(tmp_path, name)
        assert said in str(caught.value)
    with pytest.raises(UsageError, match="same scores"):
        methods(tmp_path, "tiny/coral", "coral")
    wrong: list[tuple[str, Any]] = [("protocol", "clasic"), ("selector", "first"), ("metric", "mr")]
    for option, value in [*wrong, ("scenarios", ("a -> z",))]:
        with pytest.raises(UsageError, match=f"no score has the {option.rstrip('s')} '"):
            methods(tmp_path, **{option: value})


def test_two_sets_are_compared_row_by_row(tmp_path: Path) -> None:
    for method, target in itertools.product(("dann", "coral"), "bc"):
        write_run(tmp_path / "old", method, 0, [10.0] * 4, target=target)
        gain = 5.0 if method == "dann" and target == "c" else 0.0
        write_run(tmp_path / "new", method, 0, [10.0 + gain] * 4, target=target, run={"code": "2"})
    write_run(tmp_path / "new", "mmd", 0, [0.0] * 4)
    wanted = Wanted()
    sides = sides_of_sets(read_records([tmp_path / "new"]), read_records([tmp_path / "old"]), wanted)
    found = compare(sides, "new", "old", wanted)
    assert {(pair.a.method[1], pair.a.scenario, pair.difference.estimate.value) for pair in found.pairs} == {
        ("dann", "a → b", 0.0),
        ("dann", "a → c", 5.0),
        ("coral", "a → b", 0.0),
        ("coral", "a → c", 0.0),
    }
    assert found.refused == ["a → b · last · tiny · mmd: only A has scores there"]
    assert any(note == "A and B also differ in code: 2 → 1." for note in found.notes)


def test_the_command_compares_methods_of_a_grid(outcome: Outcome, cli: Cli, tmp_path: Path) -> None:
    files = ("--queries", tmp_path / "q.csv", "--plot", tmp_path / "p.svg")
    result = cli("compare", "urbancross", "tiny/source_only", outcome.out, "--selector", "last", "--json", *files)
    assert result.status == 0, result.err
    found = json.loads(result.out)
    records = [r for r in read_records([outcome.out]) if r.spec["scenario"]["kind"] == "cross_domain"]
    for pair in found["pairs"]:
        means = {}
        for side in ("a", "b"):
            scores = [
                score.content["metrics"]["mR"]["value"]
                for record in records
                for score in record.scores
                if record.folder.name in pair[side]["runs"] and score.content["selector"] == "last"
            ]
            assert len(scores) == 2
            means[side] = np.mean(scores)
            assert pair[side]["value"] == pytest.approx(means[side])
        assert pair["difference"]["value"] == pytest.approx(means["a"] - means["b"])
        assert (pair["a_is"], pair["p"], pair["seeds"]) == ("too few seeds", None, [0, 1])
        assert [sum(counts.values()) for counts in pair["queries"].values()] == [8, 16]
    assert [pair["scenario"] for pair in found["pairs"]] == ["dark → plain", "plain → dark"]
    assert [reason.split(" · ")[0] for reason in found["not_compared"]] == ["dark → dark", "plain → plain"]
    lines = list(csv.DictReader((tmp_path / "q.csv").open(encoding="utf-8")))
    assert len(lines) == 2 * (8 + 16)
    assert {line["name"] for line in lines if line["direction"] == "i2t"} == {
        f"{name}_{index:03d}.png" for name in ("plain", "dark") for index in range(2, 24, 3)
    }
    ElementTree.parse(tmp_path / "p.svg")


def test_the_command_needs_no_torch_and_finds_what_lies_below_runs(outcome: Outcome, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "no_records").mkdir()
    shutil.copytree(outcome.out / "runs", tmp_path / "runs" / "tiny" / "runs")
    code = (
        "import sys; sys.modules['torch'] = None; "
        "sys.argv = ['x', 'compare', 'oracle', 'source_only', '--top', '2']; "
        "from urbancross_bench.cli.app import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "A: oracle   B: source_only" in done.stdout
    assert "too few seeds" in done.stdout
    assert "by the largest ratio of ranks" in " ".join(done.stdout.split())  # wrapped where tables are narrow


def test_the_page_runs_as_shown(outcome: Outcome, capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parent.parent / "docs" / "compare.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(code.replace("runs/quickstart", str(outcome.out)), {})
    assert capsys.readouterr().out.count("too few seeds") == 2


def test_the_command_reads_committed_records_too(tmp_path: Path, cli: Cli) -> None:
    for method, hits in (("dann", [100.0, 0.0]), ("coral", [0.0, 0.0])):
        write_run(
            tmp_path, method, 0, hits, names=["a.png", "b.png"], counts={"i2t": {"greater": [0, len(method)]}}
        )
    write_committed(read_records([tmp_path]), tmp_path / "records")
    said = [
        json.loads(cli("compare", "dann", "coral", place, "--json").out)
        for place in (tmp_path, tmp_path / "records")
    ]
    assert said[0]["won_most"][0].pop("name") == "b.png"
    assert said[1]["won_most"][0].pop("name") == "image 1"  # names are not committed
    assert said[0] == said[1]


def test_the_command_replaces_its_own_files_alone(tmp_path: Path, cli: Cli) -> None:
    for method, hits in (("dann", [100.0, 0.0]), ("coral", [0.0, 0.0])):
        write_run(tmp_path, method, 0, hits)
    ranks, drawing = tmp_path / "ranks.csv", tmp_path / "ranks.svg"
    command = ("compare", "dann", "coral", tmp_path)
    for _ in range(2):
        result = cli(*command, "--queries", ranks, "--plot", drawing)
        assert result.status == 0, result.err
    for option, file in (("--queries", ranks), ("--plot", drawing)):
        for mine in ("image,caption\n1,2\n", "", f"mine\n{file.read_text()}", "<svg >\n<circle/></svg>"):
            other = tmp_path / f"mine{file.suffix}"
            other.write_text(mine)
            result = cli(*command, option, other)
            assert result.status == 2
            assert f"{other} is there already" in result.err
            assert other.read_text() == mine
    result = cli(*command, "--queries", tmp_path / "new.csv", "--plot", tmp_path / "q.png")
    assert result.status == 2
    assert re.search(r"--plot \S+q\.png: name a picture \(\.svg\)", result.err)
    assert not (tmp_path / "new.csv").exists()
    assert not (tmp_path / "q.png").exists()
    assert cli(*command, "--queries", "/dev/null").status == 0


def test_the_command_compares_two_folders(outcome: Outcome, cli: Cli, tmp_path: Path) -> None:
    shutil.copytree(outcome.out / "runs", tmp_path / "copy")
    result = cli("compare", outcome.out, tmp_path / "copy", "--json", "--top", 3)
    assert result.status == 0, result.err
    found = json.loads(result.out)
    assert len(found["pairs"]) == 8 * 3
    assert {pair["difference"]["value"] for pair in found["pairs"]} == {0.0}
    assert (found["won_most"], found["lost_most"], found["not_compared"]) == ([], [], [])
    assert "give no more places" in cli("compare", outcome.out, tmp_path / "copy", tmp_path).err
    assert "same scores" in cli("compare", outcome.out, outcome.out / "runs").err
    assert (
        "cannot be written" in cli("compare", outcome.out, tmp_path / "copy", "--plot", tmp_path / "no/p.svg").err
    )
