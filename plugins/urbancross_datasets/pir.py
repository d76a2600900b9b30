"""The json files of PIR and HarMA: a row per caption for training, a row per image for validation and test."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from pydantic import Field

from urbancross_bench.data.readers import DomainBuilder, FileOptions, data_path, finish, images_place, read_json
from urbancross_bench.errors import DataError
from urbancross_bench.interfaces import Dataset, Domain


class PirOptions(FileOptions):
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
        builder = DomainBuilder(files["train"].stem)
        for split, file in files.items():
            _read(builder, file, split)
        return finish(builder, options, images_place(options.images, files["train"].parent))


def _read(builder: DomainBuilder, file: Path, split: str) -> None:
    rows: Any = read_json(file)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{file} holds no list of rows; is it a PIR or HarMA caption file?")
    builder.encoding(file)
    for number, row in enumerate(rows):
        where = f"{file}: row {number}"
        if "image" not in row or "caption" not in row:
            raise DataError(f"{where} has no {'caption' if 'image' in row else 'image'!r}")
        captions = row["caption"] if isinstance(row["caption"], list) else [row["caption"]]
        image = builder.row(row["image"], split, where, scene_class=row.get("label_name"))
        for caption in captions:
            builder.caption(image, caption, where)
