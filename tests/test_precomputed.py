"""Stored features: files, the encoder that reads them, heads on top, and grids without any pixels."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from feature_data import CLASSES, FORMATS, TEMPLATES, bundle_arrays, save_npz, table, write_bundle

from urbancross_bench.data.features import FeatureRows
from urbancross_bench.data.readers import read_bundle, read_features
from urbancross_bench.errors import DataError, RunError, UsageError
from urbancross_bench.modelling.runtime import lowered
from urbancross_bench.registry import Registry
from urbancross_encoders.precomputed import PrecomputedModel
from urbancross_encoders.precomputed_options import PrecomputedOptions

DOCS = Path(__file__).parent.parent / "docs" / "precomputed.md"


def encoder(images: Path, texts: Path, **options: Any) -> PrecomputedOptions:
    return PrecomputedOptions(images=str(images), texts=str(texts), **options)


# Files


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_rows_are_found_by_name_in_any_order_and_form(tmp_path: Path, kind: str, dtype: str) -> None:
    names, rows = table(9, dtype=dtype)
    shuffled = np.random.default_rng(3).permutation(9)
    file = FORMATS[kind](tmp_path / "a", [names[i] for i in shuffled], rows[shuffled])
    wanted = [4, 0, 8, 4]
    taken = FeatureRows([read_features(file, "images")], "image").take([names[i] for i in wanted])
    assert taken.dtype == np.float32
    assert taken.tobytes() == rows[wanted].astype(np.float32).tobytes()


def test_rows_of_several_files_come_in_the_order_asked(tmp_path: Path) -> None:
    names, rows = table(7)
    tables = [
        read_features(save_npz(tmp_path / str(part), names[part::2], rows[part::2]), "texts") for part in (0, 1)
    ]
    order = [5, 2, 0, 6, 1, 3, 4]
    taken = FeatureRows(tables, "caption").take([names[i] for i in order])
    assert taken.tobytes() == rows[order].tobytes()


def bad(**changes: Any) -> dict[str, Any]:
    names, rows = table(5)
    return {"names": np.array(names), "features": rows} | changes


def spoilt(row: int, value: float, dtype: str = "float32") -> dict[str, Any]:
    rows = table(5)[1].astype(dtype)
    rows[row] = value
    return bad(features=rows)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (spoilt(3, np.nan), r"1 rows hold NaN or infinity: row 3 \('image 3'\)$"),
        (spoilt(0, np.inf), r"hold NaN or infinity: row 0"),
        (spoilt(2, 1e39, "float64"), r"hold NaN or infinity: row 2"),  # more than single precision holds
        (spoilt(1, 0), r"1 rows are zero, or as good as zero: row 1 \('image 1'\)$"),
        (spoilt(1, 1e-20), r"as good as zero: row 1"),
        (spoilt(1, 1e30), r"too long for single precision: row 1"),
        (spoilt(slice(None), 0), r"5 rows are zero.*row 0.*row 1.*row 2 \('image 2'\), and 2 more$"),
        (bad(names=np.array(["a", "b", "a", "c", "b"])), r"2 rows have the name of a row before: row 2 \('a'\)"),
        (bad(names=np.array(["a", "b", " ", "c", "d"])), r"have an empty name: row 2"),
        (bad(names=np.array(["a", "b"])), "2 names for 5 rows"),
        (bad(names=np.arange(5)), "names are of type int64, not a list of strings"),
        (bad(features=np.ones((5, 4), dtype=np.int32)), "are of type int32; write floats"),
        (bad(features=np.ones((5, 4), dtype=np.complex64)), "are of type complex64; write floats"),
        (bad(features=np.ones((5, 2, 2), dtype=np.float32)), r"have shape \(5, 2, 2\)"),
        (bad(features=np.ones((5, 0), dtype=np.float32)), r"have shape \(5, 0\)"),
        ({"names": np.array(["a"]), "rows": np.ones((1, 2))}, "hold names, rows, but no features"),
        (bad(names=np.array(["a", None, 3, "c", "d"], dtype=object)), "cannot be read: .*allow_pickle"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    file = tmp_path / "table.npz"
    np.savez(file, **arrays)
    with pytest.raises(DataError, match=message) as raised:
        read_features(file, "images")
    assert str(file) in str(raised.value)


def test_what_is_wrong_with_a_file_is_said(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    from safetensors.numpy import save_file

    rows = np.ones((2, 3), dtype=np.float32)
    found = {}

    def parquet(stem: str, /, **columns: Any) -> None:
        pq.write_table(pa.table(columns), tmp_path / f"{stem}.parquet")

    save_file({"features": rows}, tmp_path / "bare.safetensors")
    save_file({"features": rows}, tmp_path / "words.safetensors", metadata={"names": '["a", 1]'})
    save_file({"x": rows}, tmp_path / "other.safetensors", metadata={"names": '["a", "b"]'})
    save_file({"features": rows.astype(np.int8)}, tmp_path / "whole.safetensors", metadata={"names": '["a", "b"]'})
    parquet("other", name=["a"], x=[1.0])
    parquet("numbers", name=[1, 2], features=[[1.0], [2.0]])
    parquet("flat", name=["a", "b"], features=[1.0, 2.0])
    parquet("whole", name=["a", "b"], features=[[1], [2]])
    parquet("null", name=["a", "b"], features=[[1.0, None], [2.0, 1.0]])
    parquet("gone", name=["a", None], features=[[1.0], [2.0]])
    parquet("ragged", name=["a", "b"], features=[[1.0, 2.0], [2.0]])
    for name in ("torn.npz", "torn.safetensors", "torn.parquet", "strange.csv", "rows.npy"):
        (tmp_path / name).write_bytes(b"PK\x03\x04 this is none of them")
    for file in [*tmp_path.iterdir(), tmp_path / "absent.npz"]:
        with pytest.raises(DataError, match=re.escape(str(file))) as raised:
            read_features(file, "images")
        found[file.name] = str(raised.value).partition(str(file))[2]
    expected = {
        "bare.safetensors": "the header's metadata hold no 'names'",
        "words.safetensors": "the header's metadata hold no 'names'",
        "other.safetensors": "hold x, but no tensor 'features'",
        "whole.safetensors": "are of type I8; write floats",
        "other.parquet": "hold the columns name, x, but no features",
        "numbers.parquet": "column 'name' is of type int64, not of strings",
        "flat.parquet": "column 'features' is of type double, not of lists of floats",
        "whole.parquet": "column 'features' is of type list<element: int64>, not of lists of floats",
        "null.parquet": "a name or a feature is null",
        "gone.parquet": "a name or a feature is null",
        "ragged.parquet": "rows have 1 to 2 floats",
        "torn.npz": "cannot be read: ",
        "torn.safetensors": "cannot be read: ",
        "torn.parquet": "cannot be read: ",
        "strange.csv": "the name ends in none of .npz, .safetensors, .parquet",
        "rows.npy": "an array alone does not name its rows; write np.savez(…, names=…, features=…),",
        "absent.npz": "there is no such file",
    }
    assert found.keys() == expected.keys()
    assert [name for name in expected if expected[name] not in found[name]] == []


def test_missing_and_surplus_rows_are_named(tmp_path: Path) -> None:
    names, rows = table(6)
    images = save_npz(tmp_path / "images", names, rows)
    texts = save_npz(tmp_path / "texts", ["a lake", "a road"], rows[:2])
    options = encoder(images, texts)
    options.check_items({*names}, {"a lake", "a road"})
    with pytest.raises(
        DataError, match=r"2 of 3 different images have no row in .*images\.npz: 'x 1', 'x 2'"
    ) as e:
        options.check_items({names[0], "x 1", "x 2"}, {"a lake", "a road"})
    assert re.search(
        r"5 of 6 rows of .*images\.npz are of no image here: 'image 1', .*'image 3', and 2 more", str(e.value)
    )
    with pytest.raises(DataError, match=r"1 of 2 rows of .*texts\.npz are of no caption here: 'a road' \(surplus"):
        options.check_items({*names}, {"a lake"})
    with pytest.raises(DataError, match=r"1 of 2 different captions have no row in .*: 'A lake'"):
        options.check_items({*names}, {"a lake", "A lake"})
    encoder(images, texts, surplus=True).check_items({names[0]}, {"a lake"})
    with pytest.raises(DataError, match="1 of 2 different captions have no row"):
        encoder(images, texts, surplus=True).check_items({names[0]}, {"a lake", "a sea"})


def test_several_files_must_fit_each_other(tmp_path: Path) -> None:
    names, rows = table(4)
    a = read_features(save_npz(tmp_path / "a", names, rows), "images")
    b = read_features(save_npz(tmp_path / "b", ["x", names[2]], rows[:2]), "images")
    c = read_features(save_npz(tmp_path / "c", ["y"], rows[:1, :3]), "images")
    with pytest.raises(DataError, match=r"b\.npz hold 'image 2' again, which stands in .*a\.npz"):
        FeatureRows([a, b], "image")
    with pytest.raises(DataError, match=r"c\.npz have 3 dimensions, but those of .*a\.npz 4"):
        FeatureRows([a, c], "image")


def test_a_bundle_is_read_as_images_and_prompts(tmp_path: Path) -> None:
    file = write_bundle(tmp_path / "b.npz")
    arrays = bundle_arrays()
    images, texts = read_features(file, "images"), read_features(file, "texts")
    counts = dict.fromkeys(range(len(CLASSES)), 0)
    for name, label in zip(images.names, arrays["labels"].tolist(), strict=True):
        counts[label] += 1
        assert name == f"{['lake', 'playing_field', 'port', 'road'][label]}_{counts[label]}"
    where = texts.names.index("a photo of the playing field")
    assert texts.rows[where].tobytes() == arrays["text"][TEMPLATES.index("a_photo_of_the"), 1].tobytes()
    where = texts.names.index("port from above, view 2")
    assert texts.rows[where].tobytes() == arrays["text"][TEMPLATES.index("{} from above, view 2"), 2].tobytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": bundle_arrays()["text"][:, 1:]}, "text has shape"),
        ({"labels": bundle_arrays()["labels"] + 1}, "label 4 of image 3 is none of 4 classes"),
        ({"labels": bundle_arrays()["labels"] - 1}, "label -1 of image 0 is none of 4 classes"),
        ({"labels": bundle_arrays()["labels"][1:]}, "labels are no integers, one for each"),
        ({"labels": bundle_arrays()["labels"].astype(float)}, "labels are no integers, one for each"),
        ({"classnames": np.array(["lake", "lake", "port", "road"])}, "have the name of a row before"),
        ({"classnames": np.arange(4)}, "classnames are of type int64"),
        ({"templates": np.array(["a {}"] * len(TEMPLATES))}, "have the name of a row before"),
        ({"image": bundle_arrays()["image"] * np.float32(0)}, "are zero"),
        ({"text": bundle_arrays()["text"] * np.float32("nan")}, "hold NaN"),
    ],
)
def test_what_is_wrong_with_a_bundle_is_said(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    file = tmp_path / "b.npz"
    np.savez(file, **(bundle_arrays() | changes))
    with pytest.raises(DataError, match=message) as raised:
        read_bundle(file)
    assert str(file) in str(raised.value)


# The encoder


def test_identity_is_content_wherever_it_lies(tmp_path: Path) -> None:
    file = write_bundle(tmp_path / "b.npz")
    (tmp_path / "elsewhere").mkdir()
    moved = Path(shutil.copy(file, tmp_path / "elsewhere" / "other_name.npz"))
    first, second = encoder(file, file), encoder(moved, moved, surplus=True, bottleneck=3)
    assert first.identity() == second.identity()
    assert first.weights().sha256 == second.weights().sha256 is not None
    assert first.weights().status == "pretrained"
    assert str(tmp_path) not in json.dumps(first.identity())
    other = write_bundle(tmp_path / "c.npz", seed=1)
    different = [
        encoder(file, other),
        encoder(other, file),
        encoder(file, file, head="residual"),
        encoder(file, file, head="residual", bottleneck=3),
        encoder(file, file, logit_scale=1.0),
        encoder(file, file, width=3),
    ]
    keys = {json.dumps(options.identity(), sort_keys=True) for options in [first, *different]}
    assert len(keys) == 7
    assert encoder(file, file, width=3).weights().status == "untrained"


def test_a_file_that_changes_after_planning_is_refused(tmp_path: Path) -> None:
    file = write_bundle(tmp_path / "b.npz")
    resolved = Registry.discover().resolve("encoder", f"precomputed[images={file},texts={file}]")
    resolved.options.weights()  # type: ignore[attr-defined]
    built = resolved.build()
    assert len(built.stored_features(["lake_1"], ["a photo of the lake"])[0]) == 1
    write_bundle(file, seed=1)
    with pytest.raises(RunError, match=r"b\.npz is not the file that was hashed"):
        built.stored_features(["lake_1"], ["a photo of the lake"])


def test_models_start_from_the_features_bit_for_bit(tmp_path: Path) -> None:
    file = write_bundle(tmp_path / "b.npz")
    features = torch.from_numpy(bundle_arrays()["image"].astype(np.float32))
    for head in ("none", "linear", "residual"):
        model = PrecomputedModel(12, 12, encoder(file, file, head=head))
        model.train(False)
        for precision in (torch.float32, torch.bfloat16):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision is torch.bfloat16):
                assert torch.equal(model.encode_image(features), features)
                assert torch.equal(model.encode_text(features), features)
        with torch.autocast("cpu", dtype=torch.bfloat16):  # as bfloat16 evaluation runs it
            assert torch.equal(lowered(model, "bfloat16").encode_image(features), features)
        trainable = {name for name, p in model.named_parameters() if p.requires_grad}
        assert (trainable == {"logit_scale"}) is (head == "none")


def test_what_a_model_cannot_do_is_said(tmp_path: Path) -> None:
    names, rows = table(4)
    wide = save_npz(tmp_path / "wide", names, rows)
    narrow = save_npz(tmp_path / "narrow", names, rows[:, :3])
    for head in ("none", "linear", "residual"):
        with pytest.raises(UsageError, match="image features have 4 dimensions and text features 3"):
            encoder(wide, narrow, head=head).check_items({*names}, {*names})
    for head in ("none", "residual"):
        with pytest.raises(ValueError, match="width is for head=linear"):
            encoder(wide, narrow, head=head, width=3)
    model = PrecomputedModel(4, 4, encoder(wide, wide, head="none"))
    with pytest.raises(UsageError, match="head=none has nothing to train"):
        model.train()
    with pytest.raises(UsageError, match="no text tower of blocks"):
        model.blocks("text")


def test_features_of_two_widths_meet_in_one(tmp_path: Path) -> None:
    names, rows = table(4)
    files = [save_npz(tmp_path / str(d), names, rows[:, :d]) for d in (4, 3)]
    options = encoder(*files, width=3)
    options.check_items({*names}, {*names})
    built = (
        Registry.discover().resolve("encoder", f"precomputed[images={files[0]},texts={files[1]},width=3]").build()
    )
    torch.manual_seed(5)
    model = built.load()
    torch.manual_seed(5)
    again = built.load()
    images, texts = torch.from_numpy(rows), torch.from_numpy(rows[:, :3].copy())
    assert model.encode_image(images).shape == (4, 3)
    assert torch.equal(model.encode_image(images), again.encode_image(images))
    assert torch.equal(model.encode_text(texts), texts)
    weight = model.image_tower.weight.detach()  # type: ignore[union-attr]
    torch.testing.assert_close(weight @ weight.T, torch.eye(3))


def test_words_are_numbered_alike_within_a_call(tmp_path: Path) -> None:
    file = write_bundle(tmp_path / "b.npz")
    model = PrecomputedModel(12, 12, encoder(file, file))
    tokens = model.tokenize(["A lake, a road", "road", "…"])
    a, lake, road = tokens[0, 0], tokens[0, 1], tokens[0, 3]
    assert tokens.tolist() == [[a, lake, a, road], [road, 0, 0, 0], [0, 0, 0, 0]]
    assert len({0, int(a), int(lake), int(road)}) == 4
    assert model.tokenize(["…"]).shape == (1, 1)
    assert model.text_length(tokens) == 4


def test_heads_learn_what_they_can_say() -> None:
    """A linear head reaches a rotation it is shown; weight decay alone brings it back to the features."""
    from urbancross_bench.modelling.heads import LinearHead, ResidualHead

    torch.manual_seed(0)
    x = torch.randn(64, 6)
    rotation = torch.linalg.qr(torch.randn(6, 6)).Q
    for head in (LinearHead(6), ResidualHead(6, 32)):
        optimiser = torch.optim.AdamW(head.parameters(), lr=0.02, weight_decay=0.0)
        first = (head(x) - x @ rotation).square().mean().item()
        for _ in range(300):
            optimiser.zero_grad()
            loss = (head(x) - x @ rotation).square().mean()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        assert loss.item() < first * (1e-4 if isinstance(head, LinearHead) else 0.3)
    decayed = LinearHead(6)
    torch.nn.init.normal_(decayed.change.weight)
    optimiser = torch.optim.AdamW(decayed.parameters(), lr=0.1, weight_decay=1.0)
    before = (decayed(x) - x).norm()
    for _ in range(30):
        (decayed(x).sum() * 0).backward()
        optimiser.step()
    assert (decayed(x) - x).norm() < before / 10


def test_the_page_writes_files_that_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [code] = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    made: dict[str, Any] = {}
    exec(code, made)
    domain = made["domain"]
    encoder(tmp_path / "images.npz", tmp_path / "captions.npz").check_items(
        {*domain.image_names}, {*domain.captions}
    )
