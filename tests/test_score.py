"""`score`, `rescore` and `distance` as their users run them, over files of every kind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Outcome, Result, tree, write_domains, write_grid
from safetensors.torch import save_file

from urbancross_bench.evaluation import evaluate_retrieval
from urbancross_bench.records import read_records

Cli = Callable[..., Result]

MEDIAN = """
from urbancross_bench.interfaces import Metric, QueryScores, hookimpl, register


@hookimpl
def register_metrics():
    return [
        register("nearly", "nearly:Nearly", summary="Hits among the first 3."),
        register("spread", "nearly:Spread", needs={"embeddings"}, summary="How far the images lie apart."),
    ]


class Nearly(Metric):
    def score(self, ranking):
        return {"i2t_R@3": QueryScores("i2t", 100.0 * ranking.i2t.hits(3))}


class Spread(Metric):
    def score(self, ranking):
        images = ranking.inputs.images
        vectors = images.rows(images.vector_of_item).numpy().astype(float)
        return {"spread": QueryScores("i2t", (vectors - vectors.mean(axis=0)).std(axis=1))}
"""


@dataclass(frozen=True)
class Files:
    """Embeddings of 30 images and 90 texts, written in every way there is."""

    folder: Path
    images: np.ndarray
    texts: np.ndarray
    owner: np.ndarray

    def arguments(self, **changes: object) -> list[object]:
        """The options of `score`; keywords replace or add some."""
        options: dict[str, object] = {
            "images": self.folder / "images.npy",
            "texts": self.folder / "texts.npy",
            "map": self.folder / "map.json",
        } | changes
        return [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]


@pytest.fixture
def files(tmp_path: Path) -> Files:
    generator = np.random.default_rng(0)
    owner = np.arange(90) // 3
    images = generator.normal(size=(30, 6)).astype(np.float32)
    texts = (images[owner] + generator.normal(size=(90, 6))).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    np.save(tmp_path / "texts.npy", texts)
    np.savez(tmp_path / "both.npz", images=images, texts=texts)
    save_file(
        {"images": torch.from_numpy(images), "texts": torch.from_numpy(texts).bfloat16()},
        tmp_path / "both.safetensors",
    )
    (tmp_path / "map.json").write_text(json.dumps(owner.tolist()))
    np.save(tmp_path / "map.npy", owner)
    (tmp_path / "map.txt").write_text("".join(f"{image}\r\n" for image in owner))
    (tmp_path / "captions.txt").write_text("".join(f"text {n % 70}\r\n" for n in range(90)))
    (tmp_path / "classes.txt").write_text("\n".join("field" if n < 12 else "port" for n in range(30)))
    return Files(tmp_path, images, texts, owner)


@pytest.mark.parametrize(
    ("images", "texts", "map_"),
    [
        ("images.npy", "texts.npy", "map.json"),
        ("both.npz:images", "both.npz:texts", "map.npy"),
        ("both.safetensors:images", "texts.npy", "map.txt"),
    ],
)
def test_every_format_gives_the_same_score(files: Files, cli: Cli, images: str, texts: str, map_: str) -> None:
    folder = files.folder
    places = {"images": folder / images, "texts": folder / texts, "map": folder / map_}
    result = cli("score", *files.arguments(**places), "--json")
    assert result.status == 0, result.err
    found = json.loads(result.out)
    ranking = evaluate_retrieval(files.images, files.texts, files.owner)
    assert found["metrics"]["mR"]["value"] == pytest.approx(ranking.mr)
    assert {k: found["metrics"][f"t2i_R@{k}"]["value"] for k in (1, 5, 10)} == ranking.t2i.recall
    assert found["gallery"] == {"i2t": 90, "t2i": 30}
    assert found["queries"] == {"i2t": 30, "t2i": 90}
    assert {name for name, floor in found["floors"].items() if floor} == {"random"}  # no captions, no classes


def test_bfloat16_tensors_are_read(files: Files, cli: Cli) -> None:
    place = files.folder / "both.safetensors"
    result = cli("score", *files.arguments(texts=f"{place}:texts"), "--json")
    rounded = torch.from_numpy(files.texts).bfloat16()
    expected = evaluate_retrieval(files.images, rounded, files.owner).mr
    assert json.loads(result.out)["metrics"]["mR"]["value"] == pytest.approx(expected)


def test_captions_and_classes_bring_floors_and_metrics(files: Files, cli: Cli) -> None:
    known = {"captions": files.folder / "captions.txt", "classes": files.folder / "classes.txt"}
    metrics = [part for name in ("recall", "map", "graded", "scenes", "rank") for part in ("--metric", name)]
    found = json.loads(cli("score", *files.arguments(**known), *metrics, "--json").out)
    assert found["lacking"] == {}
    assert set(found["floors"]) == {"random", "class_oracle", "equal_strings", "ceiling"}
    for name, entry in found["metrics"].items():
        assert (entry["chance"] > entry["value"]) == name.endswith("mean_rank"), name
    lean = json.loads(cli("score", *files.arguments(), "--metric", "map", "--json").out)
    assert lean["metrics"]["t2i_mAP@R"] == found["metrics"]["t2i_mAP@R"]


def test_protocols_and_presets(files: Files, cli: Cli) -> None:
    captions = {"captions": files.folder / "captions.txt"}
    found = {
        name: json.loads(cli("score", *files.arguments(protocol=name, **captions), "--json").out)
        for name in ("classic", "deduplicated", "row_diagonal", "urbancross_released", "skyscript")
    }
    assert found["urbancross_released"]["ties"] == "optimistic"
    assert found["urbancross_released"]["protocol"] == "row_diagonal"
    assert found["skyscript"]["metrics"] == found["deduplicated"]["metrics"]
    assert found["deduplicated"]["gallery"]["i2t"] == 70
    assert found["row_diagonal"]["queries"]["i2t"] == 90
    chance = found["row_diagonal"]["metrics"]["mR"]["chance"]
    assert found["row_diagonal"]["floors"]["random"]["mR"] == pytest.approx(chance)
    for ties in ("pessimistic", "expected"):
        conflict = cli("score", *files.arguments(protocol="urbancross_released", ties=ties))
        assert conflict.status == 2
        assert "brings the tie rule 'optimistic'; give --protocol row_diagonal for others" in conflict.err


@pytest.mark.parametrize("ties", ["optimistic", "pessimistic"])
def test_a_random_order_is_one_whatever_becomes_of_ties(files: Files, cli: Cli, ties: str) -> None:
    """Other floors go by the tie rule, and say so."""
    more = {"captions": files.folder / "captions.txt", "classes": files.folder / "classes.txt", "ties": ties}
    found = json.loads(cli("score", *files.arguments(**more), "--json").out)
    assert found["floors"]["random"]["mR"] == pytest.approx(found["metrics"]["mR"]["chance"])
    assert found["floors"]["class_oracle"]["mR"] == (100 if ties == "optimistic" else 0)
    lines = cli("score", *files.arguments(**more)).out.splitlines()[-4:]
    assert [line.endswith(f", ties {ties}") for line in lines] == [False, True, True, True]
    assert lines[0].endswith("random order")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": "gone.npy"}, "gone.npy cannot be read"),
        ({"images": "map.json"}, "map.json: embeddings are read from .npy, .npz or .safetensors"),
        ({"images": "both.npz"}, "both.npz holds several arrays; name one of images, texts after a colon"),
        ({"images": "both.npz:image"}, "has no array 'image'; name one of images, texts"),
        ({"images": "map.npy"}, "map.npy must be a non-empty matrix"),
        ({"images": "number.npy"}, "number.npy must be a non-empty matrix"),
        ({"images": "objects.npy"}, "objects.npy cannot be read"),
        ({"images": "renamed.npy"}, "renamed.npy is an archive of arrays, whose ending is .npz"),
        ({"images": "renamed.npz"}, "renamed.npz is a single array, whose ending is .npy"),
        ({"images": "texts.npy", "texts": "images.npy"}, "are --images and --texts swapped?"),
        ({"map": "captions.txt"}, "captions.txt, line 1 is no index of an image; write an integer from 0"),
        ({"map": "gone.json"}, "there is no file "),
        ({"map": "floats.json"}, "floats.json must be a list of integers"),
        ({"map": "short.json"}, "short.json must hold one integer each for 90 rows"),
        ({"map": "astray.json"}, "astray.json must lie in [0, 30), got 0 to 30"),
        ({"map": "bare.json"}, "29 images have no text"),
        ({"map": "huge.json"}, "huge.json"),
        ({"captions": "classes.txt"}, "classes.txt has 30 lines for 90 texts"),
        ({"captions": "hole.txt"}, "hole.txt, line 5 is blank; write what belongs there, or remove it"),
        ({"classes": "spaces.txt"}, "spaces.txt, line 2 is blank"),
        (
            {"image_ids": "end.txt"},
            "end.txt, line 31 is blank; write what belongs there, or remove it if it is none",
        ),
        ({"classes": "utf-16.txt"}, "utf-16.txt:1: byte 0xff is not UTF-8; convert the file to UTF-8"),
        ({"classes": "empty.txt"}, "empty.txt has 0 lines for 30 images"),
        ({"protocol": "deduplicated"}, "needs --captions, which says which strings are equal"),
        ({"map": "gap.txt"}, "gap.txt, line 3 is no index of an image"),
        ({"protocol": "clasic"}, 'Did you mean "classic"?'),
        ({"ties": "lucky"}, "unknown tie rule 'lucky'"),
        ({"metric": "recal"}, 'Did you mean "recall"?'),
        ({"metric": "graded"}, "metric 'graded' needs --captions"),
        ({"metric": "scenes"}, "metric 'scenes' needs --classes"),
        ({"device": "gpu"}, "gpu"),
    ],
)
def test_bad_input_is_named(files: Files, cli: Cli, change: dict[str, str], message: str) -> None:
    folder = files.folder
    np.save(folder / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(folder / "number.npy", np.float64(3))
    shutil.copy(folder / "both.npz", folder / "renamed.npy")
    shutil.copy(folder / "images.npy", folder / "renamed.npz")
    contents = {"floats": [0.0] * 90, "short": [0], "astray": [*range(31)] * 3, "bare": [0] * 90, "huge": [2**70]}
    for name, content in contents.items():
        content = content[:90] if name == "astray" else content
        (folder / f"{name}.json").write_text(json.dumps(content))
    lines = {
        "hole": "a\n" * 4 + "\n" + "a\n" * 85,
        "spaces": "a\r\n \t\r\n" * 15,
        "end": "a\n" * 30 + "\n",
        "empty": "",
        "gap": "0\n0\n\n1\n",
    }
    for name, text in lines.items():
        (folder / f"{name}.txt").write_text(text, newline="")
    (folder / "utf-16.txt").write_text("a\n" * 30, encoding="utf-16")
    paths = {name: folder / value if "." in value else value for name, value in change.items()}
    result = cli("score", *files.arguments(**paths))
    assert result.status == 2
    assert message in result.err


BROKEN = """
import numpy as np
from urbancross_bench.interfaces import Metric, QueryScores, hookimpl, register

NAMES = ("nothing", "empty", "listed", "short", "sideways", "words", "astray", "shadow", "writes", "raises")


@hookimpl
def register_metrics():
    return [register(name, f"broken:{name.title()}", summary="Broken.") for name in NAMES]


class Base(Metric):
    def score(self, ranking):
        return {f"{type(self).__name__}": QueryScores("i2t", ranking.i2t.hits(1))}


class Nothing(Base):
    def score(self, ranking):
        return None


class Empty(Base):
    def score(self, ranking):
        return {}


class Listed(Base):
    def score(self, ranking):
        return {"x": [1.0] * len(ranking.i2t.greater)}


class Short(Base):
    def score(self, ranking):
        return {"x": QueryScores("i2t", np.ones(3))}


class Sideways(Base):
    def score(self, ranking):
        return {"x": QueryScores("t2t", ranking.i2t.hits(1))}


class Words(Base):
    def score(self, ranking):
        return {"x": QueryScores("i2t", np.array(["high"] * len(ranking.i2t.greater)))}


class Astray(Base):
    def averages(self):
        return {"mean": ["nope"]}


class Shadow(Base):
    def averages(self):
        return {"Shadow": ["Shadow"]}


class Writes(Base):
    def score(self, ranking):
        ranking.i2t.greater[:] = 0
        return super().score(ranking)


class Raises(Base):
    def score(self, ranking):
        raise KeyError("cheese")
"""


def test_a_metric_that_fails_costs_its_own_values(files: Files, cli: Cli) -> None:
    (files.folder / "broken.py").write_text(BROKEN)
    names = ("nothing", "empty", "listed", "short", "sideways", "words", "astray", "shadow", "writes", "raises")
    metrics = [part for name in (*names, "recall") for part in ("--metric", name)]
    result = cli("score", *files.arguments(), *metrics, "--plugin", files.folder / "broken.py", "--json")
    assert result.status == 1
    found = json.loads(result.out)
    assert set(found["failed"]) == set(names)
    assert "cheese" in found["failed"]["raises"]
    assert "read-only" in found["failed"]["writes"]
    alone = json.loads(cli("score", *files.arguments(), "--json").out)
    assert found["metrics"] == alone["metrics"]
    text = cli("score", *files.arguments(), *metrics, "--plugin", files.folder / "broken.py").out
    assert "raises: failed, KeyError('cheese')" in text


TALKS = """
from urbancross_bench.interfaces import Metric, QueryScores, hookimpl, register

print("found")


@hookimpl
def register_metrics():
    return [register("talks", "talks:Talks", summary="Prints.")]


class Talks(Metric):
    def score(self, ranking):
        print("scoring")
        return {"talks": QueryScores("i2t", ranking.i2t.hits(1))}
"""


def test_what_a_metric_prints_is_no_part_of_the_json(files: Files, outcome: Outcome, cli: Cli) -> None:
    (files.folder / "talks.py").write_text(TALKS)
    more = ("--metric", "talks", "--plugin", files.folder / "talks.py")
    scored = cli("score", *files.arguments(), *more, "--json")
    rescored = cli("rescore", outcome.out, *more, "--json")
    assert (scored.status, rescored.status) == (0, 0), scored.err + rescored.err
    for content in (json.loads(scored.out), *json.loads(rescored.out)):
        assert "talks" in content["metrics"]
    assert {"found", "scoring"} <= {*scored.err.splitlines()}
    assert "scoring" in rescored.err.splitlines()
    # For people it stays where it was printed.
    assert "scoring" in cli("score", *files.arguments(), *more).out.splitlines()


def test_captions_from_windows_are_equal_strings_too(files: Files, cli: Cli) -> None:
    known = {"captions": files.folder / "captions.txt", "protocol": "deduplicated"}
    plain = json.loads(cli("score", *files.arguments(**known), "--json").out)
    text = (files.folder / "captions.txt").read_text()
    (files.folder / "captions.txt").write_text(text, encoding="utf-8-sig")
    assert json.loads(cli("score", *files.arguments(**known), "--json").out) == plain


def test_graded_relevance_pools_the_captions_of_equal_images(files: Files, cli: Cli) -> None:
    (files.folder / "ids.txt").write_text("".join(f"{n // 2}.jpg\n" for n in range(30)))
    known = {"captions": files.folder / "captions.txt", "image_ids": files.folder / "ids.txt"}
    result = cli("score", *files.arguments(protocol="deduplicated", **known), "--metric", "graded", "--json")
    assert result.status == 0, result.out
    assert json.loads(result.out)["gallery"]["t2i"] == 15


def test_rescoring_does_without_an_embedding_that_was_damaged(
    outcome: Outcome, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It costs the values of its own run, every time with a word of it, and `run` makes it anew."""
    out = tmp_path / "out"
    shutil.copytree(outcome.out, out)
    monkeypatch.chdir(out / "runs")
    options = ("rescore", ".", "--metric", "map", "--json")
    before = {one["score"]: one for one in json.loads(cli(*options).out)}
    run = read_records([out])[3]
    keys = {score.content["features"] for score in run.scores}
    scores = [score for record in read_records([out]) for score in record.scores]
    sharing = {score.content["run"] for score in scores if score.content["features"] in keys}
    for key in keys:
        file = out / "store" / "embed" / key / "features.safetensors"
        file.write_bytes(file.read_bytes()[:100])
    for _ in range(2):
        result = cli(*options)
        assert result.status == 0, result.err
        for one in json.loads(result.out):
            if one["run"] in sharing:
                assert (one["metrics"], one["lacking"]) == ({}, {"map": "embeddings"})
            else:
                assert one == before[one["score"]]
        told = [line for line in result.err.splitlines() if line.startswith("warning: ")]
        assert len(told) == len(sharing)
        assert all(any(key[:12] in line for line in told) for key in sharing)
        assert f"seed {run.spec['seed']}" in result.err
        assert "was damaged, and set aside" in told[0]
        assert "Run its grid again" in told[0]
    assert cli("rescore", ".", "--metric", "recall").err == ""
    again = ("run", outcome.file, "--out", out, "--set", "metrics=[recall, map]", "--only", run.folder.name)
    assert cli(*again).status == 0
    found = [one for one in json.loads(cli(*options).out) if one["run"] == run.folder.name]
    assert len(found) == 2 * len(run.scores)
    for one in found:
        if one["score"] in before:
            assert one == before[one["score"]]


def test_rescoring_gives_what_scoring_would_have(outcome: Outcome, cli: Cli, tmp_path: Path) -> None:
    before = tree(outcome.out)
    recorded = {
        (record.folder.name, score.folder.name): score.content["metrics"]
        for record in read_records([outcome.out])
        for score in record.scores
    }
    again = json.loads(cli("rescore", outcome.out, "--json").out)
    assert {(one["run"], one["score"]): one["metrics"] for one in again} == recorded
    generous = json.loads(cli("rescore", outcome.out, "--ties", "optimistic", "--json").out)
    for one in generous:
        assert one["metrics"]["mR"]["value"] >= recorded[one["run"], one["score"]]["mR"]["value"]
    assert tree(outcome.out) == before


def test_a_third_partys_metric_is_computed_from_records(outcome: Outcome, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "nearly.py").write_text(MEDIAN)
    options = ("--plugin", tmp_path / "nearly.py", "--metric", "nearly", "--metric", "spread", "--metric", "map")
    found = json.loads(cli("rescore", outcome.out, *options, "--json").out)
    assert all(set(one["metrics"]) == {"i2t_R@3", "spread", "i2t_mAP@R", "t2i_mAP@R"} for one in found)
    # The records alone: what needs embeddings is null, and says so; what needs counts is the same.
    shutil.copytree(outcome.out / "runs", tmp_path / "moved" / "runs")
    alone = json.loads(cli("rescore", tmp_path / "moved", *options, "--json").out)
    for whole, lean in zip(found, alone, strict=True):
        assert lean["metrics"] == {"i2t_R@3": whole["metrics"]["i2t_R@3"]}
        assert lean["lacking"] == {"spread": "embeddings", "map": "embeddings"}
    assert "null" in cli("rescore", tmp_path / "moved", *options).out


def test_a_grid_scores_by_several_protocols_and_metrics(cli: Cli, tmp_path: Path) -> None:
    grid = write_grid(
        tmp_path,
        write_domains(tmp_path),
        scenarios=[{"source": "plain", "target": "dark"}],
        adaptations=["source_only"],
        protocols=["classic", "deduplicated", "urbancross_released"],
        metrics=["recall", "map", "graded", "scenes"],
    )
    result = cli("run", grid, "--out", tmp_path / "out")
    assert result.status == 0, result.err
    (record,) = read_records([tmp_path / "out"])
    found = {(s.content["protocol"], s.content["ties"]): s.content for s in record.scores}
    assert set(found) == {
        ("classic", "expected"),
        ("deduplicated", "expected"),
        ("row_diagonal", "optimistic"),
    }
    for content in found.values():
        assert content["lacking"] == {"scenes": "image_class"}  # these domains have no classes
        assert {"mR", "i2t_mAP@R", "t2i_nDCG@10"} <= set(content["metrics"])
        assert (content["floors"]["ceiling"] is None) == (content["protocol"] != "classic")
    assert found["row_diagonal", "optimistic"]["queries"]["i2t"] == 2 * found["classic", "expected"]["images"]
    assert json.loads(cli("rescore", tmp_path / "out", "--json").out)[0]["metrics"].keys() >= {"mR"}


def test_distance_of_types_that_numpy_lacks(files: Files, cli: Cli) -> None:
    place = files.folder / "half.safetensors"
    tensors = {name: torch.from_numpy(np.load(files.folder / f"{name}.npy")) for name in ("images", "texts")}
    save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, place)
    save_file(
        {name: tensor.bfloat16().double() for name, tensor in tensors.items()}, files.folder / "whole.safetensors"
    )
    found = [
        json.loads(cli("distance", f"{files.folder / name}:images", f"{files.folder / name}:texts", "--json").out)
        for name in ("half.safetensors", "whole.safetensors")
    ]
    assert found[0] == found[1]


def test_an_arrays_name_may_hold_colons(files: Files, cli: Cli) -> None:
    arrays = {"a:b": np.load(files.folder / "images.npy"), "b": np.load(files.folder / "texts.npy")}
    np.savez(files.folder / "named.npz", **arrays)
    place = files.folder / "named.npz"
    assert cli("distance", f"{place}:a:b", f"{place}:b").status == 0


def test_distance(files: Files, cli: Cli) -> None:
    images, folder = files.folder / "images.npy", files.folder
    np.save(folder / "far.npy", files.images + 9)
    near = json.loads(cli("distance", images, images, "--json").out)
    far = json.loads(cli("distance", images, folder / "far.npy", "--json").out)
    assert near["proxy_a_distance"] == 0
    assert far["proxy_a_distance"] == pytest.approx(2)
    assert far["squared_mmd"] > near["squared_mmd"]
    assert cli("distance", images, folder / "both.npz:texts").status == 0
    bad = cli("distance", images, folder / "map.npy")
    assert bad.status == 2
    assert "map.npy" in bad.err
