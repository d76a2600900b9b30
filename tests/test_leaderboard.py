"""Tables are functions of records: same bytes from any order, right numbers, nothing partial, nothing run."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Outcome, Result, tree, write_domains, write_grid, write_karpathy
from made_up_records import write_runs
from safetensors.numpy import load_file, save_file
from scipy import stats

from urbancross_bench.errors import DataError, UsageError
from urbancross_bench.evaluation.spread import Spread
from urbancross_bench.interfaces import Estimate, Options, Table
from urbancross_bench.leaderboard.build import build
from urbancross_bench.leaderboard.peers import Peers, paired_differences
from urbancross_bench.leaderboard.rows import make_rows
from urbancross_bench.leaderboard.view import DEFAULT, View, load_view
from urbancross_bench.records import read_records
from urbancross_bench.registry import Registry
from urbancross_renderers.csv import Csv
from urbancross_renderers.markdown import Markdown

Cli = Callable[..., Result]


def rows_of(folder: Path, name: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((folder / f"{name}.csv").read_text(encoding="utf-8"))))


def test_same_bytes_from_any_order_hash_seed_and_place(outcome: Outcome, tmp_path: Path) -> None:
    # The same records in another folder, created in another order.
    for folder in sorted((outcome.out / "runs").iterdir(), reverse=True):
        shutil.copytree(folder, tmp_path / "copies" / folder.name)
    boards = []
    for seed in ("1", "77"):
        command = [sys.executable, "-m", "urbancross_bench", "leaderboard", "build", str(tmp_path / "copies")]
        target = tmp_path / f"board{seed}"
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run([*command, "--out", str(target)], check=True, env=environment, capture_output=True)
        boards.append(tree(target))
    assert boards[0] == boards[1] == tree(outcome.out / "leaderboard")
    names = ("matrix", "scenarios", "summary", "transfer")
    assert set(boards[0]) == {f"{name}.{suffix}" for name in names for suffix in ("csv", "md")}


@pytest.mark.parametrize(
    ("pairs", "status", "said"),
    [
        ((("a", "b"), ("b", "a")), "ok", "Leaderboard: scenarios with a shift"),
        ((("a", "a"), ("b", "b")), "ok", "Leaderboard: every scenario"),
        ((("a", "b"),), "failed", "no row to show; "),
    ],
)
def test_a_grid_shows_the_first_table_that_has_rows(
    pairs: tuple[tuple[str, str], ...],
    status: str,
    said: str,
    tmp_path: Path,
    cli: Cli,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def tables(*args: object, **options: object) -> tuple[Counter[str], list[Table]]:
        write_runs(tmp_path, pairs=pairs, methods=["source_only"], status=status)
        made = build([tmp_path], tmp_path / "out" / "leaderboard", load_view(DEFAULT), Registry.discover())
        return Counter({status: len(pairs)}), made

    monkeypatch.setattr("urbancross_bench.cli.run.run_plan", tables)
    result = cli("run", write_grid(tmp_path, write_domains(tmp_path)), "--out", tmp_path / "out")
    assert result.out.startswith(said), result.err
    assert "nothing to show" not in result.out
    assert ("a → a" in result.out) == ("every" in said)
    file = tmp_path / "out" / "leaderboard" / "summary.md"
    assert (f"{file} says" in result.out) == (status == "failed")
    assert ("Runs that did not end well: 3." in file.read_text(encoding="utf-8")) == (status == "failed")


def test_building_needs_no_torch(outcome: Outcome, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv = "
        f"['x', 'leaderboard', 'build', {str(outcome.out)!r}, '--out', {str(tmp_path / 'b')!r}]; "
        "from urbancross_bench.cli.app import main; main()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert tree(tmp_path / "b") == tree(outcome.out / "leaderboard")


def test_one_seed_shows_the_interval_of_its_record(outcome: Outcome, tmp_path: Path) -> None:
    runs = without(outcome, tmp_path / "runs", lambda run: run["seed"] == 1)
    for row in make_rows(read_records([runs]), ["trained here"]):
        for metric in ("mR", "t2i_R@1"):
            entry, shown = row.score["metrics"][metric], row.estimate(metric)
            assert shown is not None
            assert (shown.low, shown.high) == pytest.approx((entry["low"], entry["high"]))


def test_values_are_means_over_seeds_and_differences_are_paired(outcome: Outcome) -> None:
    records = read_records([outcome.out])
    lines = rows_of(outcome.out / "leaderboard", "scenarios")
    assert len(lines) == 8 * 3
    for line in lines:
        cell = {}
        for method in (line["adaptation"], "source_only"):
            scores = [
                score.content["metrics"]["mR"]["value"]
                for record in records
                for score in record.scores
                if record.spec["adaptation"]["label"] == method
                and score.content["selector"] == line["selector"]
                and line["scenario"]
                == f"{record.spec['scenario']['source'][0]} → {record.spec['scenario']['target']}"
            ]
            assert len(scores) == 2
            cell[method] = np.mean(scores)
        assert float(line["mR"]) == pytest.approx(cell[line["adaptation"]], abs=1e-4)
        if line["mR low"]:  # of eight images, two equal seeds may say nothing
            assert float(line["mR low"]) <= float(line["mR"]) <= float(line["mR high"])
        if line["adaptation"] != "source_only":
            difference = cell[line["adaptation"]] - cell["source_only"]
            assert float(line["Δ source_only"]) == pytest.approx(difference, abs=1e-4)
        assert line["seeds"] == "2"


METHODS = {"source_only": -0.5, "urbancross": 0.5, "oracle": 1.0}


def planted(outcome: Outcome, place: Path, levels: dict[str, float], *, seeds: int = 3, images: int = 200) -> Path:
    """The records with more seeds and made-up hits: methods of these levels on test sets of this size."""
    for folder in sorted((outcome.out / "runs").iterdir()):
        run = json.loads((folder / "run.json").read_text())
        if run["seed"]:
            continue
        where = int(run["scenario"]["target"] == "dark")
        difficulty = np.random.default_rng(where).normal(size=images)
        for seed in range(seeds):
            copy = place / f"{seed}{folder.name[1:]}"
            shutil.copytree(folder, copy)
            edit(copy / "run.json", seed=seed, key=copy.name)
            method = run["adaptation"]["label"]
            generator = np.random.default_rng([seed, where, list(levels).index(method)])  # whatever the keys
            level = levels[method] + generator.normal(scale=0.05)
            latent = level + difficulty + generator.normal(scale=0.5, size=images)
            for score in (copy / "scores").iterdir():
                plant(score, 100.0 * (latent > 0), draws=where)
    return place


def plant(score: Path, hits: np.ndarray, draws: int) -> None:
    """The same value of each image for every metric."""
    arrays = load_file(score / "queries.safetensors")
    pair = np.stack([hits, np.ones_like(hits)], axis=1)
    save_file(
        {name: pair if "image_sums" in name else x for name, x in arrays.items()}, score / "queries.safetensors"
    )
    content = json.loads((score / "score.json").read_text())
    metrics = {name: entry | {"value": hits.mean()} for name, entry in content["metrics"].items()}
    sizes = {"images": len(hits), "texts": 5 * len(hits), "queries": {"i2t": 7, "t2i": 9}}
    edit(score / "score.json", metrics=metrics, draws=draws, **sizes)


def test_intervals_equal_a_bootstrap_with_draws_of_its_own(outcome: Outcome, tmp_path: Path) -> None:
    """Images by the generator's own draws, seeds by scipy's t, the interaction from its definition."""
    runs = planted(outcome, tmp_path / "runs", METHODS)
    row = next(r for r in make_rows(read_records([runs]), ["trained here"]) if r.method[1] == "urbancross")
    generator = np.random.default_rng(0)
    files = [load_file(seed.score.folder / "queries.safetensors") for seed in row.seeds]
    hits = np.stack([arrays["image_sums.t2i_R@5"][:, 0] for arrays in files])
    draws = np.stack([hits[:, generator.integers(0, 200, 200)].mean(axis=1) for _ in range(20_000)])
    interaction = (draws - draws.mean(axis=1, keepdims=True)).var(axis=0).sum() / (3 * 2)
    deviation = draws.mean(axis=1) - hits.mean()
    deviation *= np.sqrt(max(0, 1 - interaction / deviation.var()))
    deviation += stats.sem(hits.mean(axis=1)) * stats.t(2).rvs(20_000, random_state=0)
    low, high = hits.mean() + np.quantile(deviation, [0.025, 0.975])
    estimate = row.estimate("mR")
    assert estimate is not None
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=0.06 * (high - low))


def test_verdicts_are_corrected_over_the_table(outcome: Outcome, cli: Cli, tmp_path: Path) -> None:
    """Four comparisons, each below 5 % by itself, of which two stand after Holm; of references, no verdict."""
    runs = planted(outcome, tmp_path / "runs", METHODS | {"urbancross": -0.21})
    assert cli("leaderboard", "build", runs, "--out", tmp_path / "board").status == 0
    rows = make_rows(read_records([runs]), ["trained here"])
    p_values = {}
    for row in (row for row in rows if row.method[1] == "urbancross" and row.setting != "oracle"):
        difference = row.difference(Peers(rows).baseline(row, "source_only"), "mR")  # type: ignore[arg-type]
        assert difference is not None
        p_values[row.scenario, row.score["selector"]] = Spread.of(difference).p_value()
    _, small, large, _ = sorted(p_values.values())
    assert small <= 0.05 / 4
    assert 0.05 / 2 < large < 0.05
    for line in rows_of(tmp_path / "board", "scenarios"):
        p = p_values.get((line["scenario"], line["selector"]))
        judged = p is not None and line["adaptation"] == "urbancross"
        assert line["verdict"] == ("" if not judged else "better" if p <= small else "not shown")
        assert bool(line["Δ source_only"]) or not judged


@pytest.mark.parametrize(
    ("level", "seeds", "verdict", "ranks", "groups"),
    [
        (0.5, 3, "better", {"1 (1 to 1)", "2 (2 to 2)"}, {"urbancross": "1", "source_only": "2"}),
        (-1.5, 3, "worse", {"1 (1 to 1)", "2 (2 to 2)"}, {"urbancross": "2", "source_only": "1"}),
        (-0.4, 3, "not shown", {"1 (1 to 2)", "2 (1 to 2)"}, {"urbancross": "1", "source_only": "1"}),
        (0.5, 2, "too few seeds", None, {"urbancross": "", "source_only": ""}),
        (0.5, 1, "too few seeds", {"1 (1 to 1)", "2 (2 to 2)"}, {"urbancross": "", "source_only": ""}),
    ],
)
def test_the_summary_ranks_and_ties(  # type: ignore[no-untyped-def]
    outcome: Outcome, cli: Cli, tmp_path: Path, level: float, seeds: int, verdict: str, ranks, groups
) -> None:
    runs = planted(outcome, tmp_path / "runs", METHODS | {"urbancross": level}, seeds=seeds)
    for folder in runs.iterdir():  # one selector, so that only two rows are ranked
        for score in (folder / "scores").iterdir():
            if json.loads((score / "score.json").read_text())["selector"] != "last":
                shutil.rmtree(score)
    assert cli("leaderboard", "build", runs, "--out", tmp_path / "board").status == 0
    lines = {line["adaptation"]: line for line in rows_of(tmp_path / "board", "summary")}
    assert lines["urbancross"]["verdict"] == verdict
    assert {lines["oracle"][name] for name in ("verdict", "rank", "tie group")} == {""}
    assert {name: lines[name]["tie group"] for name in ("urbancross", "source_only")} == groups
    if ranks:
        assert {lines[name]["rank"] for name in ("urbancross", "source_only")} == ranks
    text = (tmp_path / "board" / "summary.md").read_text()
    assert ("not for other trainings" in text) == (seeds == 1)
    assert ("fewer than three seeds" in text) == (seeds < 3)
    assert "Holm" in text
    assert "gallery stays" in text
    of_scenarios = (tmp_path / "board" / "scenarios.md").read_text()
    assert f"dark (200 images, {seeds} seed" in of_scenarios  # not the number of queries
    values = {
        (r.method[1], r.scenario): r.estimate("mR") for r in make_rows(read_records([runs]), ["trained here"])
    }
    for name, line in lines.items():
        worst = values[name, line["worst scenario"]]
        assert worst is not None
        assert worst.value == min(e.value for (method, _), e in values.items() if e and method == name)
        ends = [float(line[f"worst mR{end}"]) for end in ("", " low", " high")]
        assert ends == pytest.approx([worst.value, worst.low, worst.high], abs=1e-4)


def test_images_and_captions_are_counted_whatever_the_queries_are(cli: Cli, tmp_path: Path) -> None:
    grid = write_grid(
        tmp_path,
        write_domains(tmp_path),
        scenarios=[{"source": "plain", "target": "dark"}],
        adaptations=["source_only"],
        protocols=["classic", "row_diagonal", "deduplicated"],
    )
    assert cli("run", grid, "--out", tmp_path / "out").status == 0
    lines = rows_of(tmp_path / "out" / "leaderboard", "scenarios")
    assert {line["protocol"] for line in lines} == {"classic", "row_diagonal", "deduplicated"}
    assert {(line["test images"], line["test captions"]) for line in lines} == {("8", "16")}


def test_the_detectable_difference_shrinks_with_the_test_set(outcome: Outcome, cli: Cli, tmp_path: Path) -> None:
    sizes = {}
    for images in (100, 400):
        runs = planted(outcome, tmp_path / f"{images}", METHODS | {"urbancross": -0.5}, seeds=1, images=images)
        cli("leaderboard", "build", runs, "--out", tmp_path / "board")
        text = (tmp_path / "board" / "scenarios.md").read_text()
        sizes[images] = float(re.findall(rf"dark \({images} images, 1 seed\) ([\d.]+)", text)[0])
        rows = make_rows(read_records([runs]), ["trained here"])
        pairs = [(row, Peers(rows).baseline(row, "source_only")) for row in rows]
        errors = [
            (one.difference(base, "mR").resampled[0]).std()
            for one, base in pairs
            if base not in (None, one) and one.run["scenario"]["target"] == "dark" and one.setting != "oracle"
        ]
        assert sizes[images] == pytest.approx(2.80 * np.median(errors), rel=0.05)
    assert sizes[100] / sizes[400] == pytest.approx(2, rel=0.4)


def test_oracle_rows_and_oracle_selection_stand_last(outcome: Outcome) -> None:
    for name in ("summary", "scenarios"):
        lines = rows_of(outcome.out / "leaderboard", name)
        groups = (
            [lines]
            if name == "summary"
            else [[x for x in lines if x["scenario"] == s] for s in {x["scenario"] for x in lines}]
        )
        for group in groups:
            marks = [line["setting"] == "oracle" for line in group]
            assert marks == sorted(marks)
            assert {line["setting"] for line in group if "target_oracle" in (line["selector"],)} == {"oracle"}


def without(outcome: Outcome, place: Path, chosen: Callable[[dict[str, object]], bool]) -> Path:
    """A copy of the records without the chosen ones."""
    for folder in (outcome.out / "runs").iterdir():
        if not chosen(json.loads((folder / "run.json").read_text())):
            shutil.copytree(folder, place / folder.name)
    return place


def test_a_missing_seed_gives_null_and_never_a_partial_mean(outcome: Outcome, cli: Cli, tmp_path: Path) -> None:
    def chosen(run: dict[str, object]) -> bool:
        scenario = run["scenario"]
        return run["seed"] == 1 and run["shown"]["setting"] == "unsupervised" and scenario["target"] == "dark"  # type: ignore[index]

    runs = without(outcome, tmp_path / "runs", chosen)
    assert cli("leaderboard", "build", runs, "--out", tmp_path / "board").status == 0
    for line in rows_of(tmp_path / "board", "scenarios"):
        partial = line["adaptation"] == "urbancross" and line["scenario"] == "plain → dark"
        assert (line["mR"] == "") == partial
        assert line["seeds"] == ("1" if partial else "2")
    summary = {(line["adaptation"], line["selector"]): line for line in rows_of(tmp_path / "board", "summary")}
    assert summary["urbancross", "last"]["mean mR"] == ""
    assert summary["source_only", "last"]["mean mR"] != ""


def test_a_missing_scenario_gives_no_mean_over_scenarios(outcome: Outcome, cli: Cli, tmp_path: Path) -> None:
    runs = without(
        outcome,
        tmp_path / "runs",
        lambda r: r["shown"]["setting"] == "oracle" and r["scenario"]["target"] == "dark",  # type: ignore[index]
    )
    cli("leaderboard", "build", runs, "--out", tmp_path / "board")
    lines = rows_of(tmp_path / "board", "summary")
    assert {line["mean mR"] == "" for line in lines if line["adaptation"] == "oracle"} == {True}


def test_rows_of_other_code_are_other_rows(outcome: Outcome, cli: Cli, tmp_path: Path) -> None:
    runs = without(outcome, tmp_path / "runs", lambda r: r["shown"]["setting"] != "source_only")
    for folder in runs.iterdir():
        if json.loads((folder / "run.json").read_text())["seed"] == 1:
            edit(folder / "run.json", code="another version")
    cli("leaderboard", "build", runs, "--out", tmp_path / "board")
    assert {line["seeds"] for line in rows_of(tmp_path / "board", "scenarios")} == {"1"}
    assert "version of the code" in (tmp_path / "board" / "scenarios.md").read_text()


def test_labels_do_not_part_what_is_the_same(outcome: Outcome, cli: Cli, tmp_path: Path) -> None:
    runs = without(outcome, tmp_path / "runs", lambda r: False)
    for folder in runs.iterdir():
        run = json.loads((folder / "run.json").read_text())
        if run["seed"] == 1:
            edit(folder / "run.json", encoder=run["encoder"] | {"label": "renamed"})
    cli("leaderboard", "build", runs, "--out", tmp_path / "board")
    assert tree(tmp_path / "board") == tree(outcome.out / "leaderboard")


def test_two_scores_for_one_seed_are_refused(outcome: Outcome, tmp_path: Path) -> None:
    runs = without(outcome, tmp_path / "runs", lambda r: r["shown"]["setting"] != "source_only")
    run = sorted(runs.iterdir())[0]
    score = sorted((run / "scores").iterdir())[0]
    shutil.copytree(score, run / "scores" / ("0" * 32))
    edit(run / "scores" / ("0" * 32) / "score.json", key="0" * 32)
    seed = json.loads((run / "run.json").read_text())["seed"]
    said = rf"several scores stand for seed {seed} of one row: .*0{{32}}, [^,]*; keep one"
    with pytest.raises(DataError, match=said):
        build([runs], tmp_path / "board", load_view(DEFAULT), Registry.discover())


def other_classes(runs: Path) -> None:
    """Every score once more, as a grid writes it that is run again after its domains were given classes."""
    for score in [*runs.glob("*/scores/*")]:
        content = json.loads((score / "score.json").read_text())
        copy = score.with_name("0" + content["key"][:-1])
        shutil.copytree(score, copy)
        edit(copy / "score.json", key=copy.name, items="1" * 32)


def test_scores_with_other_classes_are_other_rows(outcome: Outcome, cli: Cli, tmp_path: Path) -> None:
    runs = planted(outcome, tmp_path / "runs", METHODS)
    assert cli("leaderboard", "build", runs, "--out", tmp_path / "before").status == 0
    other_classes(runs)
    result = cli("leaderboard", "build", runs, "--out", tmp_path / "after")
    assert result.status == 0, result.err

    def shown(board: str) -> list[tuple[str, ...]]:
        names = ("scenario", "adaptation", "selector", "mR", "mR low", "Δ source_only", "test images")
        return sorted(tuple(line[name] for name in names) for line in rows_of(tmp_path / board, "scenarios"))

    assert shown("after") == sorted(2 * shown("before"))
    # Which of them belong together over scenarios is not known.
    for line in rows_of(tmp_path / "after", "summary"):
        assert (line["mean mR"], line["worst scenario"], line["rank"]) == ("", "", "")
    assert {line["gap closed, %"] for line in rows_of(tmp_path / "after", "transfer")} == {""}
    assert "stands twice in one scenario" in (tmp_path / "after" / "summary.md").read_text()
    assert "stands twice" not in (tmp_path / "before" / "summary.md").read_text()


def test_rows_with_other_classes_are_not_compared(outcome: Outcome, tmp_path: Path) -> None:
    runs = planted(outcome, tmp_path / "runs", METHODS)
    for score in runs.glob("*/scores/*/score.json"):
        run = json.loads((score.parents[2] / "run.json").read_text())
        if run["adaptation"]["label"] == "source_only":
            edit(score, items="1" * 32)
    rows = make_rows(read_records([runs]), ["trained here"])
    for row in rows:
        method = row.method[1]
        assert (Peers(rows).baseline(row, "source_only") is None) == (method != "source_only")
    assert {row.difference(rows[0], "mR") for row in rows if row.score["items"] != rows[0].score["items"]} == {
        None
    }


def test_the_order_of_folders_does_not_matter(outcome: Outcome, cli: Cli, tmp_path: Path) -> None:
    """Two folders with the same runs, one lacking a selector's scores and with labels of its own."""
    few = without(outcome, tmp_path / "few", lambda r: False)
    for folder in few.iterdir():
        edit(folder / "run.json", grid="another")
        for score in (folder / "scores").iterdir():
            if json.loads((score / "score.json").read_text())["selector"] != "last":
                shutil.rmtree(score)
    cli("leaderboard", "build", few, outcome.out, "--out", tmp_path / "a")
    cli("leaderboard", "build", outcome.out, few, "--out", tmp_path / "b")
    assert tree(tmp_path / "a") == tree(tmp_path / "b") == tree(outcome.out / "leaderboard")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("metric: mr", "no score has the metric 'mr'"),
        ("details: [i2t_R@1, i2t_R@3]", "no score has the metric 'i2t_R@3'"),
        ("baseline: sourceonly", "no row is the baseline 'sourceonly'"),
        ("oracle: orcale", "no row is the oracle 'orcale'. Did you mean \"oracle\"?"),
    ],
)
def test_a_view_of_nothing_is_named(outcome: Outcome, cli: Cli, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "view.yaml").write_text(f"title: Mine\n{text}\n")
    result = cli("leaderboard", "build", outcome.out, "--out", tmp_path / "b", "--view", tmp_path / "view.yaml")
    assert result.status == 2
    assert message in result.err


def test_a_view_changes_what_is_shown(outcome: Outcome, cli: Cli, tmp_path: Path) -> None:
    view = tmp_path / "view.yaml"
    view.write_text("title: Mine\nmetric: t2i_R@5\nbaseline: oracle\nrenderers: [markdown]\n")
    assert cli("leaderboard", "build", outcome.out, "--out", tmp_path / "board", "--view", view).status == 0
    assert set(tree(tmp_path / "board")) == {"matrix.md", "scenarios.md", "summary.md", "transfer.md"}
    text = (tmp_path / "board" / "scenarios.md").read_text()
    assert "# Mine: every scenario" in text
    assert "Δ oracle" in text
    view.write_text("title: Mine\nmetrik: mR\n")
    result = cli("leaderboard", "build", outcome.out, "--out", tmp_path / "board", "--view", view)
    assert result.status == 2
    assert "view.yaml:2: unknown key 'metrik'" in result.err
    assert 'Did you mean "metric"' in result.err


def take_out(file: Path, name: str) -> None:
    content = json.loads(file.read_text())
    del content[name]
    file.write_text(json.dumps(content))


def with_metric(**changes: object) -> Callable[[Path], None]:
    def change(run: Path) -> None:
        file = next(run.glob("scores/*/score.json"))
        metrics = json.loads(file.read_text())["metrics"]
        edit(file, metrics=metrics | {"mR": metrics["mR"] | changes})

    return change


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda r: (r / "run.json").write_text("{"), r"run\.json cannot be read"),
        (lambda r: (r / "run.json").write_text("{}"), r"run\.json lacks schema, status, key"),
        (lambda r: (r / "run.json").unlink(), r"lacks its run\.json; run its grid again"),
        (lambda r: edit(r / "run.json", schema=99), r"run\.json has schema 99"),
        (lambda r: edit(r / "run.json", status="great"), "unknown status"),
        (lambda r: edit(r / "run.json", key="0" * 32), "does not fit its directory"),
        (lambda r: next(r.glob("scores/*/score.json")).write_text("[]"), r"score\.json is no JSON object"),
        (
            lambda r: next(r.glob("scores/*/score.json")).write_text("{}"),
            r"score\.json lacks schema, key, metrics",
        ),
        (lambda r: take_out(r / "run.json", "seed"), r"run\.json lacks seed"),
        (lambda r: take_out(next(r.glob("scores/*/score.json")), "protocol"), r"score\.json lacks protocol"),
        (lambda r: edit(r / "run.json", domains={}), r"run\.json lacks the domain \w+ among its domains"),
        (lambda r: edit(r / "run.json", shown={}), r"run\.json lacks setting in its shown"),
        (lambda r: edit(r / "run.json", seed="0"), r"run\.json holds '0' as its seed"),
        (lambda r: edit(r / "run.json", pretraining=None), r"run\.json holds None as its pretraining"),
        (
            lambda r: edit(next(r.glob("scores/*/score.json")), floors=None),
            r"score\.json holds None as its floors",
        ),
        (with_metric(value=float("nan")), r"score\.json cannot be read: NaN is no number of JSON"),
        (lambda r: edit(r / "run.json", budget={"steps": float("inf")}), r"run\.json cannot be read: Infinity"),
        (lambda r: (r / "run.json").write_text('{"a":' * 100_000), r"run\.json cannot be read"),
        (lambda r: edit(next(r.glob("scores/*/score.json")), failed={"own": None}), r"holds .* as its failed"),
        (with_metric(value=10**400), r"score\.json holds .* as its metric mR"),
        (with_metric(value="30"), r"score\.json holds .* as its metric mR"),
        (with_metric(value=True), r"score\.json holds .* as its metric mR"),
        (with_metric(chance=None), r"score\.json holds .* as its metric mR"),
        (with_metric(parts=[1]), r"score\.json holds .* as its metric mR"),
        (with_metric(parts=["i2t_R@7"]), r"has no sums of i2t_R@7, of which mR is made"),
        (lambda r: take_out(r / "run.json", "grid"), r"run\.json lacks grid"),
        (lambda r: edit(r / "run.json", pretraining={"steps": 3, "epochs": "x"}), r"holds .* as its pretraining"),
        (lambda r: edit(r / "run.json", pretraining={"steps": 3}), r"run\.json lacks epochs in its pretraining"),
        (
            lambda r: edit(r / "run.json", domains={"plain": {"splits": {}}, "dark": {"splits": {}}}),
            r"run\.json lacks splits, mark, excluded of the domain",
        ),
        (with_metric(low=float("inf")), r"score\.json cannot be read: Infinity is no number of JSON"),
        (with_metric(parts=None), r"score\.json holds .* as its metric mR"),
        (
            lambda r: next(r.glob("scores/*/queries.safetensors")).write_bytes(b"x"),
            r"queries\.safetensors cannot be read",
        ),
    ],
)
def test_malformed_records_are_named(outcome: Outcome, tmp_path: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    runs = without(outcome, tmp_path / "runs", lambda r: r["shown"]["setting"] != "source_only")
    damage(sorted(runs.iterdir())[0])
    with pytest.raises(DataError, match=message):
        build([runs], tmp_path / "board", load_view(DEFAULT), Registry.discover())


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_no_records_and_no_place(outcome: Outcome, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no record"):
        read_records([tmp_path])
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        build([outcome.out], tmp_path / "file" / "board", load_view(DEFAULT), Registry.discover())


def test_cells_cannot_break_out_of_their_table() -> None:
    nasty = "a|b\n<script>`*_[x](y)\\"
    table = Table(
        "t", nasty, ["c"], [[nasty], [None], [1.0], [Estimate(1.0)], [Estimate(-0.001, -1.0, 2.0)]], [nasty]
    )
    text = Markdown(Options()).render(table)
    assert "<script>" not in text
    body = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.replace("\\|", "").count("|") == 2 for line in body)
    assert body[-1].strip("| ") == "0.00 [-1.00, 2.00]"
    lines = list(
        csv.reader(io.StringIO(Csv(Options()).render(Table("t", "", ["c"], [["=1+1"], [nasty], [-1.5]]))))
    )
    assert lines == [["c"], ["'=1+1"], [nasty.replace("\n", " ")], ["-1.5000"]]


def test_the_default_view_is_a_view() -> None:
    assert isinstance(load_view(DEFAULT), View)


def test_what_adapting_was_worth(cli: Cli, tmp_path: Path) -> None:
    """Gap closed and forgetting, against the records' own values."""
    grid = write_grid(
        tmp_path,
        write_domains(tmp_path),
        scenarios=[{"source": "plain", "target": "dark"}, {"source": "dark", "target": "plain"}],
        score_sources=True,
        seeds=[0, 1],
    )
    result = cli("run", grid, "--out", tmp_path / "out")
    assert result.status == 0, result.err
    values: dict[tuple[str, bool], list[float]] = {}
    for record in read_records([tmp_path / "out"]):
        for score in record.scores:
            key = record.spec["adaptation"]["label"], score.content["domain"] == record.spec["scenario"]["target"]
            values.setdefault(key, []).append(score.content["metrics"]["mR"]["value"])
    means = {key: float(np.mean(found)) for key, found in values.items()}
    assert {key: len(found) for key, found in values.items()} == dict.fromkeys(
        [(name, target) for name in ("source_only", "urbancross", "oracle") for target in (True, False)], 4
    )
    [line] = rows_of(tmp_path / "out" / "leaderboard", "transfer")
    assert line["adaptation"] == "urbancross"
    forgotten = means["source_only", False] - means["urbancross", False]
    assert float(line["forgotten mR"]) == pytest.approx(forgotten, abs=0.01)
    ends = float(line["forgotten mR low"] or "nan"), float(line["forgotten mR high"] or "nan")
    rows = make_rows(read_records([tmp_path / "out"]), ["trained here"])
    own = [row for row in rows if row.of_source and row.method[1] == "urbancross"]
    difference = paired_differences(own, Peers(rows), "source_only", "mR")
    assert difference is not None
    low, high = Spread.of(difference).interval()
    expected = [np.nan if end is None else -end for end in (high, low)]
    assert ends == pytest.approx(expected, abs=1e-4, nan_ok=True)
    # The tables of targets hold target scores alone.
    assert len(rows_of(tmp_path / "out" / "leaderboard", "scenarios")) == 2 * 3


def test_what_was_forgotten_is_over_all_sources_or_none(cli: Cli, tmp_path: Path) -> None:
    third = f"karpathy[file={write_karpathy(tmp_path / 'light', shade=30)}]"
    grid = write_grid(
        tmp_path,
        write_domains(tmp_path) | {"light": third},
        scenarios=[{"source": ["plain", "light"], "target": "dark"}],
        adaptations=["source_only", "urbancross"],
        score_sources=True,
    )
    result = cli("run", grid, "--out", tmp_path / "out")
    assert result.status == 0, result.err
    [line] = rows_of(tmp_path / "out" / "leaderboard", "transfer")
    assert line["forgotten mR"] != ""
    for score in (tmp_path / "out" / "runs").glob("*/scores/*"):
        if json.loads((score / "score.json").read_text())["domain"] == "light":
            shutil.rmtree(score)
    assert cli("leaderboard", "build", tmp_path / "out", "--out", tmp_path / "board").status == 0
    [line] = rows_of(tmp_path / "board", "transfer")
    assert line["forgotten mR"] == ""


def test_rows_are_not_ordered_by_a_metric_of_which_less_is_better(cli: Cli, tmp_path: Path) -> None:
    grid = write_grid(
        tmp_path,
        write_domains(tmp_path),
        scenarios=[{"source": "plain", "target": "dark"}],
        adaptations=["source_only"],
        metrics=["recall", "rank"],
    )
    assert cli("run", grid, "--out", tmp_path / "out").status == 0
    (tmp_path / "view.yaml").write_text("title: t\nmetric: i2t_mean_rank\n")
    build = (
        "leaderboard",
        "build",
        tmp_path / "out",
        "--out",
        tmp_path / "board",
        "--view",
        tmp_path / "view.yaml",
    )
    wrong = cli(*build)
    assert wrong.status == 2
    assert "'i2t_mean_rank' among the details" in wrong.err
    (tmp_path / "view.yaml").write_text("title: t\nmetric: i2t_MRR\ndetails: [i2t_mean_rank]\n")
    assert cli(*build).status == 0


def test_trained_parameters_are_counted_with_a_methods_own(outcome: Outcome) -> None:
    counts = {
        line["adaptation"]: int(line["parameters trained"])
        for line in rows_of(outcome.out / "leaderboard", "scenarios")
    }
    [model] = {
        score.content["parameters"]["model"] for record in read_records([outcome.out]) for score in record.scores
    }
    assert counts["source_only"] == counts["oracle"] == model
    assert counts["urbancross"] > model  # a discriminator


def test_seeds_of_which_the_search_chose_other_sizes_vary_in_what_they_train(
    outcome: Outcome, tmp_path: Path
) -> None:
    """An option that adds weights, such as a rank, may be another for each seed."""
    shutil.copytree(outcome.out / "runs", tmp_path / "runs")
    for file in (tmp_path / "runs").glob("*/scores/*/score.json"):
        run = json.loads((file.parents[2] / "run.json").read_text(encoding="utf-8"))
        if (run["adaptation"]["label"], run["seed"]) == ("urbancross", 1):
            said = json.loads(file.read_text(encoding="utf-8"))
            said["parameters"]["trained"] += 1
            file.write_text(json.dumps(said), encoding="utf-8")
    build([tmp_path], tmp_path / "board", load_view(DEFAULT), Registry.discover())
    for name in ("scenarios", "summary"):
        shown = {row["adaptation"]: row["parameters trained"] for row in rows_of(tmp_path / "board", name)}
        assert shown["urbancross"] == "varies"
        assert shown["source_only"].isdigit()


def test_tables_may_lie_beside_the_runs_of_a_folder_that_holds_them_itself(
    outcome: Outcome, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(outcome.out / "runs", tmp_path / "collected")
    monkeypatch.chdir(tmp_path / "collected")
    for _ in range(2):
        assert cli("leaderboard", "build", ".", "--out", "tables").status == 0
    assert (tmp_path / "collected" / "tables" / "summary.csv").is_file()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    result = cli("leaderboard", "build", ".", "--out", "tables")
    assert (result.status, "holds no record" in result.err) == (2, True)
