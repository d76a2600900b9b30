"""Copies on disk that Hugging Face's `datasets` reads: saved datasets, parquet folders, image folders."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, ClassVar, cast

from pydantic import Field

from urbancross_bench.data.readers import (
    DomainBuilder,
    FileImages,
    FileOptions,
    data_path,
    finish,
    signature,
    split_name,
)
from urbancross_bench.errors import DataError, did_you_mean
from urbancross_bench.interfaces import Dataset, Domain


class HuggingFaceOptions(FileOptions):
    """`huggingface[path=data/rsicd_hf]`."""

    path: str = Field(description="a folder on disk, or a dataset's name on the hub (owner/name)")
    image_column: str = "image"
    caption_column: str = Field(default="captions", description="a text, or a list of texts")
    filename_column: str | None = Field(default="filename", description="names the images; else split and row do")
    class_column: str | None = None
    download: bool = Field(default=False, description="fetch a hub name that is not in the cache")


class HuggingFace(Dataset):
    """Rows `filename, captions, image`, as the hub's copies of RSICD have them; the split `valid` is val.

    A folder is read without network. A hub name needs network, or the dataset in the cache of `datasets`.
    """

    options_type = HuggingFaceOptions
    builder: ClassVar[str | None] = None  # of `datasets`; None: as the folder looks

    def read(self, member: str | None) -> Domain:
        """One domain for all splits."""
        options = cast(HuggingFaceOptions, self.options)
        builder, rows = DomainBuilder(Path(options.path).name), dict[str, tuple[Any, int]]()
        for name, table in _load(options, self.builder).items():
            origin = f"{options.path}, split {name!r}"
            table = _prepared(table, options, origin)
            split, names = split_name(name, origin), _names(table, options, name)
            texts = table.remove_columns(options.image_column)
            for number, (image, row) in enumerate(zip(names, texts, strict=True)):
                where = f"{origin}, row {number}"
                facts = {"scene_class": str(row[options.class_column])} if options.class_column else {}
                index = builder.image(image, split, where, **facts)
                captions = row[options.caption_column]
                for caption in captions if isinstance(captions, list) else [captions]:
                    builder.caption(index, caption, where)
                rows[image] = table, number
        return finish(builder, options, lambda names: RowImages(options, [rows[n] for n in names], names))


class ImageFolder(HuggingFace):
    """A folder of images with a `metadata.csv` or `metadata.jsonl` for each split."""

    builder = "imagefolder"


class RowImages(FileImages):
    """Images that are rows of tables: their bytes, or paths to files."""

    def __init__(self, options: HuggingFaceOptions, rows: Sequence[tuple[Any, int]], names: Sequence[str]) -> None:
        super().__init__(Path(options.path), names)
        self._column = options.image_column
        self._rows = rows

    def content(self, index: int) -> bytes:
        """The image's bytes. Raises DataError if there are none."""
        table, number = self._rows[index]
        cell = table[number][self._column] or {}
        if cell.get("bytes"):
            return bytes(cell["bytes"])
        try:
            return Path(cell.get("path") or "").read_bytes()
        except OSError as error:
            raise DataError(f"image {self.where(index)} cannot be read: {error}") from error

    def where(self, index: int) -> str:
        """The copy and the image's name in it."""
        return f"{self.place}, image {self._names[index]!r}"

    def _signatures(self) -> list[str]:
        tables = {id(table): _signature(table) for table, _ in self._rows}
        return [tables[id(table)] and f"{tables[id(table)]} {number}" for table, number in self._rows]


def _load(options: HuggingFaceOptions, builder: str | None) -> Mapping[str, Any]:
    """Split name → table. Raises DataError if there is no such copy here, and says what would get one."""
    import datasets

    path, datasets_verbosity = data_path(options.path), datasets.utils.logging.get_verbosity()
    datasets.utils.logging.set_verbosity_error()
    try:
        if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
            loaded = datasets.load_from_disk(str(path))
        elif path.is_dir() and builder:
            loaded = datasets.load_dataset(builder, data_dir=str(path))
        elif path.is_dir():
            loaded = datasets.load_dataset(str(path))
        elif builder or options.path.count("/") != 1:
            raise DataError(f"folder {path} does not exist (relative paths start at URBANCROSS_DATA)")
        else:
            with _no_network(unless=options.download):
                loaded = datasets.load_dataset(options.path)
    except DataError:
        raise
    except Exception as error:
        hint = "" if path.is_dir() else "; give a folder on disk, or download=true to fetch it from the hub"
        raise DataError(f"{options.path} cannot be loaded by `datasets`: {error}{hint}") from error
    finally:
        datasets.utils.logging.set_verbosity(datasets_verbosity)
    return loaded if isinstance(loaded, dict) else {str(loaded.split or "train"): loaded}


@contextlib.contextmanager
def _no_network(*, unless: bool) -> Iterator[None]:
    """Without network `datasets` would try for minutes before it looks into its cache."""
    import datasets
    import huggingface_hub.constants

    before = datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE
    if not unless:
        datasets.config.HF_HUB_OFFLINE = huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE = before


def _prepared(table: Any, options: HuggingFaceOptions, origin: str) -> Any:
    """The columns that count, with images left undecoded."""
    import datasets

    columns = [options.image_column, options.caption_column, options.class_column]
    for column in filter(None, columns):
        if column not in table.column_names:
            raise DataError(f"{origin}: no column {column!r}.{did_you_mean(column, table.column_names)}")
    columns += [options.filename_column] if options.filename_column in table.column_names else []
    return table.select_columns([*filter(None, columns)]).cast_column(
        options.image_column, datasets.Image(decode=False)
    )


def _names(table: Any, options: HuggingFaceOptions, split: str) -> list[Any]:
    """What the images are called: by their column, else by the files they came from, else by split and row."""
    if options.filename_column in table.column_names:
        return list(table[options.filename_column])
    paths = [path for chunk in table.data.column(options.image_column).chunks for path in chunk.field("path")]
    names = [PurePath(path.as_py() or "").name for path in paths]
    if len(names) != len(table) or len({*names}) < len(names) or "" in names:
        return [f"{split}-{number:07d}" for number in range(len(table))]
    return names


def _signature(table: Any) -> str:
    """Of the files behind a table; empty for one in memory."""
    signatures = [signature(Path(file["filename"])) for file in table.cache_files]
    return " ".join(signatures) if signatures and all(signatures) else ""
