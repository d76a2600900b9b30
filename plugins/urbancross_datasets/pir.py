"""The json files of PIR and HarMA: a row per caption for training, a row per image for validation and test."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from pydantic import Field

from urbancross_bench.data.readers import (
    DomainBuilder,
    Faults,
    TextOptions,
    data_path,
    finish,
    images_place,
    read_json,
)
from urbancross_bench.errors import DataError
from urbancross_bench.interfaces import Dataset, Domain


class PirOptions(TextOptions):
    """`pir[train=finetune/rsicd_train.json,val=finetune/rsicd_val.json,test=finetune/rsicd_test.json]`."""

    train: str = Field(description="json of the training split")
    test: str = Field(description="json of the test split")
    val: str | None = Field(default=None, description="json of the validation split; without it, one is drawn")


class Pir(Dataset):
    """Rows `{"caption", "image", "label_name"}`; `caption` is one text or a list of them."""

    options_type = PirOptions

    def read(self, member: str | None) -> Domain:
        """One domain for the three files."""
        options = cast(PirOptions, self.options)
        files = {
            split: data_path(file)
            for split, file in (("train", options.train), ("val", options.val), ("test", options.test))
            if file
        }
        builder, faults = DomainBuilder(files["train"].stem), Faults()
        for split, file in files.items():
            with faults.gathered():  # what is wrong with the file as a whole
                _read(builder, file, split, options.encoding, faults)
        faults.raise_any()
        return finish(builder, options, images_place(options.images, files["train"].parent))


def _read(builder: DomainBuilder, file: Path, split: str, encoding: str, faults: Faults) -> None:
    rows: Any = read_json(file, encoding)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{file} holds no list of rows; is it a PIR or HarMA caption file?")
    builder.encoding(file, encoding)
    for number, row in enumerate(rows):
        with faults.gathered():
            _add(builder, row, split, f"{file}: row {number}")


def _add(builder: DomainBuilder, row: dict[str, Any], split: str, where: str) -> None:
    if "image" not in row or "caption" not in row:
        raise DataError(f"{where} has no {'caption' if 'image' in row else 'image'!r}")
    label = row.get("label_name")
    if label is not None and not isinstance(label, str):
        raise DataError(f"{where}: label_name is {label!r}, not a text")
    captions = row["caption"] if isinstance(row["caption"], list) else [row["caption"]]
    image = builder.row(row["image"], split, where, scene_class=label)
    for caption in captions:
        builder.caption(image, caption, where)
