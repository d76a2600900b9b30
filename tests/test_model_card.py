"""`export model-card`: what a hub reads of it, and what a reader does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import Outcome, Result
from huggingface_hub import ModelCard
from made_up_records import edit, write_runs
from markdown_it import MarkdownIt

from urbancross_bench.records import Record, read_records

Cli = Callable[..., Result]

HOSTILE = 'a"]: {x}\n---\n| <script> `b` | *c* [d](e) #'


def card_of(out: Path, cli: Cli, place: Path) -> tuple[Record, str]:
    """Some run across domains, and its card as it was written."""
    runs = [record for record in read_records([out]) if record.spec["scenario"]["kind"] == "cross_domain"]
    run = min(runs, key=lambda record: (record.spec["adaptation"]["label"], record.folder.name))
    result = cli("export", "model-card", out, run.folder.name[:12], "--to", place / "card")
    assert (result.status, result.out) == (0, f"written to {place / 'card' / 'README.md'}\n"), result.err
    return run, (place / "card" / "README.md").read_text(encoding="utf-8")


def tables(card: str) -> list[list[list[str]]]:
    """The cells of each table, as a reader sees them."""
    found: list[list[list[str]]] = []
    for token in MarkdownIt().enable("table").parse(card.split("---\n", 2)[2]):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and token.level == 4:  # of a cell
            found[-1][-1].append("".join(child.content for child in token.children or []))
    return found


def test_a_hub_reads_what_the_record_says(outcome: Outcome, cli: Cli, tmp_path: Path) -> None:
    run, text = card_of(outcome.out, cli, tmp_path)
    results = ModelCard(text).data.eval_results
    assert results is not None
    said = {
        (one.dataset_args["selector"], one.dataset_name, one.metric_type): one.metric_value
        for one in results
        if one.dataset_args
    }
    assert said == {
        (score.content["selector"], score.content["domain"], name): pytest.approx(metric["value"], abs=1e-4)
        for score in run.scores
        for name, metric in score.content["metrics"].items()
    }
    assert len(results) == 3 * 7
    for one in results:
        assert (one.verified, one.dataset_split, one.task_type) == (False, "test", "image-text-retrieval")
        assert one.dataset_args is not None
        assert one.dataset_args["protocol"] == "classic"
        assert len(one.dataset_args["fingerprint"]) == 32


def test_licences_are_those_of_all_domains_and_their_lack_is_told(
    outcome: Outcome, cli: Cli, tmp_path: Path
) -> None:
    out = shutil.copytree(outcome.out, tmp_path / "out", symlinks=True)
    run, _ = card_of(out, cli, tmp_path)
    [source] = run.spec["scenario"]["source"]
    domains = json.loads((run.folder / "run.json").read_text())["domains"]
    domains[source]["licence"] = "CC BY 4.0"
    for name in domains.keys() - {source}:
        del domains[name]["licence"]  # as a record of an older version
    edit(run.folder / "run.json", domains=domains)
    _, data = tables(card_of(out, cli, tmp_path)[1])
    told = {row[0]: row[2] for row in data[1:]}
    assert told.pop(source) == "CC BY 4.0"
    assert set(told.values()) == {"not known from this record: see the dataset"}


def test_a_reader_is_told_how_it_was_measured_and_made(outcome: Outcome, cli: Cli, tmp_path: Path) -> None:
    run, text = card_of(outcome.out, cli, tmp_path)
    assert "Protocol `classic`: An image's own texts are right" in text
    assert "Ties `expected`: among equal scores the mean over all their orders counts" in text
    assert "Setting `oracle`: training or selection saw pairs of the target." in text
    assert f"Run `{run.folder.name}` of grid `tiny`" in text
    assert "First weights: random (trained here)" in text
    results, data = tables(text)
    assert [row[1] for row in results[1:]] == ["last", "source_val", "target_oracle"]
    score = next(score for score in run.scores if score.content["selector"] == "last")
    metric = score.content["metrics"]["mR"]
    shown = f"{metric['value']:.2f} ({metric['low']:.2f} to {metric['high']:.2f})"
    assert results[1][results[0].index("mR")] == shown
    assert [row[2] for row in data[1:]] == ["not stated: ask its authors"] * 2
    files = json.loads(
        (outcome.out / "store" / "adapt" / run.spec["stages"]["adapt"][0] / "stage.json").read_text()
    )
    named = [f"`{name}`, sha256 `{digest}`" for name, digest in files["files"].items() if name.startswith("cand")]
    assert any(name in text for name in named)


def made_up(place: Path, **changes: Any) -> Path:
    """One run with names as bad as they come, and no store."""
    recipe = {"steps": None, "epochs": 1.5, "batch_size": 8, "learning_rate": 1e-3, "loss": "info_nce"}
    budget = {"steps": 5, "batch_size": 8, "learning_rate": 1e-4}
    changes = {"pretraining": recipe, "budget": budget} | changes
    out = write_runs(place / "out", methods=["ours"], seeds=[0], pairs=[("a", "b")], **changes)
    for score in out.glob("runs/*/scores/*/score.json"):
        edit(score, step=5, candidate="", number=0, features="0", selector=HOSTILE)
    return out


def test_names_end_no_table_and_start_no_markup(cli: Cli, tmp_path: Path) -> None:
    adaptation = {"label": HOSTILE, "name": HOSTILE, "version": "1", "options": {"text": HOSTILE}}
    _, text = card_of(made_up(tmp_path, adaptation=adaptation), cli, tmp_path)
    _, front, body = text.split("---\n", 2)
    [index] = yaml.safe_load(front)["model-index"]
    shown = " ".join(HOSTILE.split())  # front matter ends at a line of hyphens, wherever that stands
    assert shown in index["name"]
    assert index["results"][0]["dataset"]["args"]["selector"] == shown
    results, data = tables(text)
    assert results[1][1] == shown
    assert {len(row) for table in (results, data) for row in table} == {len(results[0]), len(data[0])}
    assert "<script>" not in MarkdownIt().enable("table").render(body)


def test_a_target_that_is_a_source_is_not_called_unseen(cli: Cli, tmp_path: Path) -> None:
    """Within one domain `source_only` says that nothing of the target was seen, and its training pairs were."""
    out = made_up(tmp_path)
    [record] = read_records([out])
    said = "The target is one of the sources"
    for source in (["a"], ["a", "b"], ["b"]):
        edit(record.folder / "run.json", scenario=record.spec["scenario"] | {"source": source})
        text = " ".join(cli("export", "model-card", out, record.folder.name).out.split())
        assert (said in text) == ("b" in source)
        assert ("carried over to b" in text) == ("b" not in source)
        assert f"trained on pairs of {' + '.join(source)}" in text


def test_what_the_store_has_lost_and_nobody_measured_is_not_made_up(cli: Cli, tmp_path: Path) -> None:
    shown = {"setting": "few_shot", "share": 0.05, "share_seed": 0, "disjoint_halves": False}
    _, text = card_of(made_up(tmp_path, shown=shown), cli, tmp_path)
    assert "step 5, not in the store any more" in text
    assert "Pre-training on the source: 1.5 epochs" in text
    assert "Of the target's training pairs 5 % were seen." in text
    assert "training or selection saw pairs of the target, a share of them" in text


def test_what_the_first_weights_saw_and_lacked_is_told(cli: Cli, tmp_path: Path) -> None:
    out = made_up(tmp_path)
    [record] = read_records([out])
    weights = record.spec["encoder"]["weights"] | {"was_partial": True}
    encoder = record.spec["encoder"] | {"weights": weights}
    edit(record.folder / "run.json", encoder=encoder, target_images_in_weights=7)
    [score] = (record.folder / "scores").glob("*/score.json")
    edit(score, setting="oracle")
    _, text = card_of(out, cli, tmp_path)
    assert "The first weights had been trained on 7 images of the target, with their captions, that" in text
    assert "Setting `oracle`: the first weights, training or selection saw pairs of the target." in text
    assert "some of which were allowed to be missing" in text


def test_the_card_is_printed_unless_it_is_to_be_written(cli: Cli, tmp_path: Path) -> None:
    out = made_up(tmp_path)
    run, text = card_of(out, cli, tmp_path)
    result = cli("export", "model-card", out, run.folder.name)
    assert (result.status, result.out) == (0, text)
    result = cli("export", "model-card", out, "none")
    assert (result.status, "0 keys of runs begin with none" in result.err) == (2, True)


def test_a_card_takes_the_place_of_a_card_alone(cli: Cli, tmp_path: Path) -> None:
    out = made_up(tmp_path)
    run, text = card_of(out, cli, tmp_path)
    place = tmp_path / "card" / "README.md"
    place.write_text(text.replace("---\n", "---\nlicense: mit\n", 1), encoding="utf-8")
    command = ("export", "model-card", out, run.folder.name, "--to", place.parent)
    assert cli(*command).status == 0
    assert place.read_text(encoding="utf-8") == text
    _, front, _ = text.split("---\n", 2)
    for mine in (
        "# My model\n",
        "",
        f"# Mine\n---\n{front}---\n",
        "---\ntags: [x]\n---\n",
        "---\n]\n---\n",
        "---\n",
    ):
        place.write_text(mine, encoding="utf-8")
        result = cli(*command)
        assert result.status == 2
        assert f"{place} is there already" in result.err
        assert place.read_text(encoding="utf-8") == mine
    place.write_bytes(b"\xff")
    assert cli(*command).status == 2


def test_of_a_calibrated_run_it_is_said_that_cosines_give_other_numbers(cli: Cli, tmp_path: Path) -> None:
    out = made_up(tmp_path)
    for score in out.glob("runs/*/scores/*/score.json"):
        edit(score, calibration={"queries": "all"})
    _, card = card_of(out, cli, tmp_path)
    assert "- The numbers are of cosines that `ours` has changed; it is not in the weights." in card
