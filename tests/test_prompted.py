"""Domains without pixels: what is in them, what is checked of them, and grids over them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import SHARED, Result, write_domains, write_grid
from feature_data import CLASSES, bundle_arrays, save_npz, write_bundle

from urbancross_bench.data.domain import check, split_of
from urbancross_bench.data.readers import read_bundle, read_features
from urbancross_bench.errors import DataError, UsageError
from urbancross_bench.interfaces import SPLITS, Domain
from urbancross_bench.records import read_records
from urbancross_bench.registry import Registry

Cli = Callable[..., Result]


def read(reference: str) -> Domain:
    resolved = Registry.discover().resolve("dataset", reference)
    domain = resolved.build().read(None)
    assert isinstance(domain, Domain)
    return domain


def halves(file: Path) -> dict[str, str]:
    """Two domains with disjoint images and disjoint prompts."""
    return {
        "above": f"prompted[file={file},parts=2,part=0,templates=0-5,captions_per_image=3]",
        "photo": f"prompted[file={file},parts=2,part=1,templates=6-11,captions_per_image=3,split_seed=4]",
    }


def own_captions(domain: Domain) -> dict[str, list[str]]:
    """The captions of each image, by its name."""
    found: dict[str, list[str]] = {name: [] for name in domain.image_names}
    for owner, caption in zip(domain.image_of_caption.tolist(), domain.captions, strict=True):
        found[domain.image_names[owner]].append(caption)
    return found


def test_halves_share_no_image_and_no_prompt(tmp_path: Path) -> None:
    file = write_bundle(tmp_path / "b.npz")
    above, photo = (read(reference) for reference in halves(file).values())
    assert {*above.image_names} | {*photo.image_names} == {*read_bundle(file).images.names}
    assert not {*above.image_names} & {*photo.image_names}
    assert not {*above.captions} & {*photo.captions}
    for domain in (above, photo):
        check(domain)
        assert Counter(domain.attributes["scene_class"]) == dict.fromkeys(CLASSES, 10)
        for split, each in zip(SPLITS, (7, 1, 2), strict=True):  # of the ten of a class
            classes = split_of(domain, split).image_class
            assert classes is not None
            assert Counter(classes) == dict.fromkeys(CLASSES, each)
        for index, (name, captions) in enumerate(own_captions(domain).items()):
            assert len({*captions}) == 3
            assert name.rpartition("_")[0].replace("_", " ") == domain.attributes["scene_class"][index]
            assert all(domain.attributes["scene_class"][index] in caption for caption in captions)
        assert not domain.given
    assert all("view" in caption for caption in above.captions)
    assert photo.partition == "part 1 of 2, 70/10/20 of each class, drawn with seed 4"


def test_what_is_drawn_depends_on_names_and_seed_alone(tmp_path: Path) -> None:
    file = write_bundle(tmp_path / "b.npz")
    one, same, other = (read(f"prompted[file={file},parts=2,part=1,split_seed={seed}]") for seed in (0, 0, 1))
    assert own_captions(one) == own_captions(same)
    assert {*one.image_names} == {*other.image_names}  # or halves of two seeds could overlap
    assert own_captions(one) != own_captions(other)
    assert {*split_of(one, "test").image_names} != {*split_of(other, "test").image_names}


@pytest.mark.parametrize(
    ("templates", "expected"),
    [
        ("3", [3]),
        ("0-3", [0, 1, 2, 3]),
        ("1-11/5", [1, 6, 11]),
        ("[2,0,10-11,0-2/2]", [0, 2, 10, 11]),
        ("null", [*range(12)]),
    ],
)
def test_templates_are_numbers_and_ranges(tmp_path: Path, templates: str, expected: list[int]) -> None:
    file = write_bundle(tmp_path / "b.npz")
    domain = read(f"prompted[file={file},templates={templates},captions_per_image={len(expected)}]")
    bundle = read_bundle(file)
    assert {*domain.captions} == {bundle.prompt(t, label) for t in expected for label in range(len(CLASSES))}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ("templates=12", UsageError, "12 names none, or more than there are; they are 0 to 11"),
        ("templates=6-12", UsageError, "'6-12' names none, or more than there are"),
        ("templates=6-5", UsageError, "'6-5' names none"),
        ("templates=1-5/0", UsageError, "'1-5/0' names none"),
        ("templates=port", UsageError, "'port' is neither a number nor a range"),
        ("templates=-1", UsageError, "-1 is neither a number nor a range"),
        ("templates='6:12'", UsageError, "'6:12' is neither a number nor a range"),
        ("templates=0-3", UsageError, "4 templates are too few for captions_per_image=5"),
        ("parts=2,part=2", UsageError, "part 2 is not there: 2 parts are counted from 0"),
        ("parts=40,part=0", DataError, "classes are too small to be cut"),
        ("parts=10,part=0", DataError, "classes are too small to be cut; no image is in split 'test'"),
    ],
)
def test_what_cannot_be_a_domain_is_said(
    tmp_path: Path, options: str, error: type[Exception], message: str
) -> None:
    file = write_bundle(tmp_path / "b.npz")
    with pytest.raises(error, match=message.replace("(", r"\(")):
        read(f"prompted[file={file},{options}]")


def test_an_image_is_its_features(tmp_path: Path) -> None:
    arrays = bundle_arrays()
    arrays["image"][7] = arrays["image"][3]  # of one class
    np.savez(tmp_path / "b.npz", **arrays)
    domain, bundle = read(f"prompted[file={tmp_path / 'b.npz'}]"), read_bundle(tmp_path / "b.npz")
    where = {name: index for index, name in enumerate(domain.image_names)}
    digests = [domain.images.digest(where[name]) for name in bundle.images.names]
    assert digests[3] == digests[7]
    assert len({*digests}) == 79
    arrays["image"] = arrays["image"].astype(np.float32)
    np.savez(tmp_path / "b.npz", **arrays)
    wider = read(f"prompted[file={tmp_path / 'b.npz'}]")
    assert [wider.images.digest(where[name]) for name in bundle.images.names] == digests
    with pytest.raises(DataError, match=r"image 'lake_\d+': .*b\.npz holds features and no pixels"):
        domain.images.read(0)


def test_check_and_show_say_that_there_are_no_pixels(tmp_path: Path, cli: Cli) -> None:
    arrays = bundle_arrays()
    np.savez(tmp_path / "b.npz", **arrays)
    reference = f"prompted[file={tmp_path / 'b.npz'}]"
    result = cli("data", "check", reference)
    assert result.status == 0, result.err
    assert "the 80 images are stored features: none was opened" in result.out
    domain, bundle = read(reference), read_bundle(tmp_path / "b.npz")
    tested, trained = (split_of(domain, split).image_names[0] for split in ("test", "train"))
    arrays["image"][bundle.images.names.index(trained)] = arrays["image"][bundle.images.names.index(tested)]
    np.savez(tmp_path / "b.npz", **arrays)
    result = cli("data", "check", reference, "--json")
    assert result.status == 1
    [found] = json.loads(result.out)["domains"]
    leaks = {finding["kind"]: finding["items"] for finding in found["findings"]}["test images in training"]
    assert [(item["image"], item["problem"]) for item in leaks] == [(trained, f"is {tested} (test)")]
    assert (found["shared"]["identical"], found["shared"]["alike"]) == (2, None)
    assert {pair["how"] for pair in found["pairs"]} == {"content", "caption"}
    result = cli("data", "show", reference)
    assert "80, 0 of them in no split; stored features, no pixels" in result.out
    assert json.loads(cli("data", "show", reference, "--json").out)[0]["pixels"] is False


def test_features_are_not_compared_with_pixels(tmp_path: Path, cli: Cli) -> None:
    features = f"prompted[file={write_bundle(tmp_path / 'b.npz')}]"
    result = cli("data", "check", features, write_domains(tmp_path)["plain"], "--json")
    [between] = json.loads(result.out)["between"]
    for side in ("a_in_b", "b_in_a"):
        assert [between[side][what] for what in ("identical", "alike", "leaking")] == [None] * 3


def test_one_name_for_two_images_is_refused(tmp_path: Path, cli: Cli) -> None:
    first, second = write_bundle(tmp_path / "a.npz"), write_bundle(tmp_path / "b.npz", seed=1)
    file = write_grid(
        tmp_path,
        {"a": f"prompted[file={first}]", "b": f"prompted[file={second}]"},
        encoders={"e": f"precomputed[images={first},texts={first}]"},
    )
    result = cli("plan", file)
    assert result.status == 2
    assert "of domain 'b' is another image than that of domain 'a'; rename one of them" in result.err


def test_a_grid_looks_up_every_image_when_planned(tmp_path: Path, cli: Cli) -> None:
    """Domains with pixels and ones without alike."""
    domains = {"plain": write_domains(tmp_path)["plain"]}
    domain = read(domains["plain"])
    names, captions = list(domain.image_names), sorted({*domain.captions})

    def planned(images: list[str], texts: list[str]) -> Result:
        files = [
            save_npz(tmp_path / side, rows, np.random.default_rng(0).normal(size=(len(rows), 4)))
            for side, rows in (("i", images), ("t", texts))
        ]
        encoders = {"e": f"precomputed[images={files[0]},texts={files[1]}]"}
        return cli("plan", write_grid(tmp_path, domains, encoders=encoders))

    assert planned(names, captions).status == 0
    result = planned(names[1:], captions)
    assert result.status != 0
    assert f"1 of 24 different images have no row in {tmp_path / 'i.npz'}: {names[0]!r}" in result.err
    result = planned(names, [*captions, "a sea"])
    assert result.status != 0
    assert f"rows of {tmp_path / 't.npz'} are of no caption here: 'a sea'" in result.err


def expected_recall(file: Path, domain: Domain) -> dict[str, float]:
    """R@K of the stored features of a test split, in percent: hits both ways, counted one query at a time."""
    split = split_of(domain, "test")
    found: dict[str, dict[str, np.ndarray]] = {}
    for part in ("images", "texts"):
        table = read_features(file, part)  # type: ignore[arg-type]
        rows = table.rows.astype(np.float64)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        found[part] = dict(zip(table.names, rows, strict=True))
    images = np.stack([found["images"][name] for name in split.image_names])
    texts = np.stack([found["texts"][caption] for caption in split.captions])
    scores = images @ texts.T
    owner = split.image_of_caption
    # Copies of a caption tie, and a right one may stand before or behind a wrong one. Queries by text rank images
    # of different features, so they have one answer.
    recall = {}
    for k in (1, 5, 10):
        hits = [int((scores[:, j] > scores[owner[j], j]).sum()) < k for j in range(len(owner))]
        recall[f"t2i_R@{k}"] = 100 * float(np.mean(hits))
    return recall


def test_without_a_step_rows_say_what_the_features_reach(tmp_path: Path, cli: Cli) -> None:
    file = write_bundle(tmp_path / "b.npz")
    domains = halves(file)
    grid = write_grid(
        tmp_path,
        domains,
        scenarios=[{"source": "above", "target": "photo"}],
        encoders={"theirs": f"precomputed[images={file},texts={file},surplus=true,head=none]"},
        pretraining={"steps": 0},
        budget={"steps": 0},
        adaptations=["source_only"],
    )
    result = cli("run", grid, "--out", tmp_path / "out")
    assert result.status == 0, result.err
    expected = expected_recall(file, read(domains["photo"]))
    [record] = read_records([tmp_path / "out"])
    metrics = record.scores[0].content["metrics"]
    assert {name: metrics[name]["value"] for name in expected} == pytest.approx(expected)
    assert record.spec["encoder"]["weights"]["status"] == "pretrained"
    assert expected["t2i_R@1"] > 2 * metrics["t2i_R@1"]["chance"]


def test_pre_training_of_what_has_no_head_is_refused_when_planning(tmp_path: Path, cli: Cli) -> None:
    file = write_bundle(tmp_path / "b.npz")
    bare = f"precomputed[images={file},texts={file},surplus=true,head=none]"
    grid = write_grid(
        tmp_path, halves(file), scenarios=[{"source": "above", "target": "photo"}], encoders={"e": bare}
    )
    result = cli("plan", grid, "--out", tmp_path / "out")
    assert result.status == 2
    assert "encoders: e: there is nothing that pre-training could change; take head=linear" in result.err


def test_an_encoder_that_pre_training_cannot_change_is_left_out_of_a_grid_of_others(
    tmp_path: Path, cli: Cli
) -> None:
    file = write_bundle(tmp_path / "b.npz")
    stored = f"precomputed[images={file},texts={file},surplus=true"
    grid = write_grid(
        tmp_path,
        halves(file),
        scenarios=[{"source": "above", "target": "photo"}],
        encoders={"bare": f"{stored},head=none]", "linear": f"{stored}]"},
        pretraining={"steps": 1, "batch_size": 4},
        budget={"steps": 0},
        adaptations=["source_only"],
    )
    result = cli("run", grid, "--out", tmp_path / "out")
    assert result.status == 0, result.err
    assert "encoder 'bare' has nothing that pre-training could change" in result.out + result.err
    assert [record.spec["encoder"]["label"] for record in read_records([tmp_path / "out"])] == ["linear"]


def test_a_method_that_could_train_nothing_is_left_out_of_the_plan(tmp_path: Path, cli: Cli) -> None:
    file = write_bundle(tmp_path / "b.npz")
    grid = write_grid(
        tmp_path,
        halves(file),
        scenarios=[{"source": "above", "target": "photo"}],
        encoders={"bare": f"precomputed[images={file},texts={file},surplus=true,head=none]"},
        pretraining={"steps": 0},
        budget={"steps": 1, "batch_size": 4},
        adaptations=["source_only", "zero_shot", "csls", "csls[base=zero_shot]"],
    )
    runs = json.loads(cli("plan", grid, "--out", tmp_path / "out", "--json").out)["runs"]
    reason = "encoder 'bare' has nothing that adaptation 'source_only' could train"
    assert {run["adaptation"]: run["reason"] for run in runs} == {
        "source_only": reason,
        "zero_shot": None,
        "csls": reason,  # of which it is the base unless another is named
        "csls[base=zero_shot]": None,
    }


def test_heads_are_trained_by_a_method_of_gradients(tmp_path: Path, cli: Cli) -> None:
    file = write_bundle(tmp_path / "b.npz")
    grid = write_grid(
        tmp_path,
        halves(file),
        scenarios=[{"source": "above", "target": "photo"}],
        encoders={
            "linear": f"precomputed[images={file},texts={file},surplus=true]",
            "pixels": "openclip[architecture=urbancross-tiny]",
        },
        pretraining={"steps": 6, "batch_size": 16, "learning_rate": 1e-2, "loss": "soft_info_nce"},
        budget={"steps": 4, "batch_size": 16, "target_batch_size": 8, "learning_rate": 1e-2},
        adaptations=["source_only", "urbancross"],
    )
    result = cli("run", grid, "--out", tmp_path / "out")
    assert "domain 'above' holds no pixels, and encoder 'pixels' needs them" in result.out + result.err
    by_cell = {
        (r.spec["encoder"]["label"], r.spec["adaptation"]["label"]): r for r in read_records([tmp_path / "out"])
    }
    done = {cell: record for cell, record in by_cell.items() if record.spec["status"] == "ok"}
    assert {*done} == {("linear", "source_only"), ("linear", "urbancross")}
    for record in done.values():
        metrics: dict[str, Any] = record.scores[0].content["metrics"]
        assert metrics["mR"]["value"] > metrics["mR"]["chance"] + 10
    values = {cell: record.scores[0].content["metrics"]["mR"]["value"] for cell, record in done.items()}
    assert len({*values.values()}) == 2  # the two methods went different ways
    table = (tmp_path / "out" / "leaderboard").rglob("*.md")
    assert any("linear" in page.read_text(encoding="utf-8") for page in table)


# Real features


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "embeddings").is_dir(), reason="real embeddings are not at hand")
@pytest.mark.parametrize(("name", "published"), [("CLIP_ViT-B-32", 81.3), ("RemoteCLIP_ViT-B-32", 95.2)])
def test_zero_shot_accuracy_is_that_of_the_release(name: str, published: float) -> None:
    """Of the mean of 107 prompts per class, every row found by name."""
    file = SHARED / "embeddings" / f"{name}.npz"
    built = Registry.discover().resolve("encoder", f"precomputed[images={file},texts={file},surplus=true]").build()
    bundle = read_bundle(file)
    prompts = [
        bundle.prompt(template, label)
        for label in range(len(bundle.classnames))
        for template in range(len(bundle.templates))
    ]
    images, texts = built.stored_features(bundle.images.names, prompts)
    means = texts.reshape(len(bundle.classnames), len(bundle.templates), -1).mean(axis=1)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    predicted = (images @ means.T).argmax(axis=1)
    classes = [re.sub(r"_\d+$", "", image) for image in bundle.images.names]
    right = [bundle.classnames[p] == c for p, c in zip(predicted.tolist(), classes, strict=True)]
    assert round(100 * float(np.mean(right)), 1) == published


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "embeddings").is_dir(), reason="real embeddings are not at hand")
def test_heads_are_trained_on_real_features(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("URBANCROSS_DATA", str(SHARED / "embeddings"))
    domains = {
        "aerial": "prompted[file=CLIP_ViT-B-32.npz,parts=2,part=0,templates=[0-59/6,1-59/6,91-105]]",
        "satellite": "prompted[file=CLIP_ViT-B-32.npz,parts=2,part=1,templates=[4-59/6,5-59/6,75-89]]",
    }
    files = {name: f"{name}_ViT-B-32.npz" for name in ("CLIP", "RemoteCLIP")}
    file = write_grid(
        tmp_path,
        domains,
        scenarios=[{"source": "aerial", "target": "satellite"}],
        encoders={name: f"precomputed[images={file},texts={file},surplus=true]" for name, file in files.items()},
        pretraining={"steps": 40, "batch_size": 64, "learning_rate": 1e-3, "loss": "soft_info_nce"},
        budget={"steps": 20, "batch_size": 64, "target_batch_size": 32, "learning_rate": 1e-4},
        adaptations=["source_only", "urbancross"],
    )
    result = cli("run", file, "--out", tmp_path / "out")
    assert result.status == 0, result.err
    records = [record for record in read_records([tmp_path / "out"]) if record.spec["status"] == "ok"]
    assert len(records) == 4
    for record in records:
        value = record.scores[0].content["metrics"]["mR"]
        assert value["value"] > 4 * value["chance"]
