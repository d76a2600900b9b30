"""Copies on disk that Hugging Face's `datasets` reads: saved datasets, parquet folders, image folders."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath
from typing import Any, ClassVar, cast

from pydantic import Field

from urbancross_bench.data.readers import (
    DomainBuilder,
    Faults,
    FileImages,
    FileOptions,
    data_path,
    finish,
    images_place,
    is_file,
    no_columns,
    open_images,
    plain_name,
    read_file,
    relative_start,
    signature,
    verifying,
)
from urbancross_bench.errors import DataError
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

    Of a copy with a row for each caption, the rows of one picture are one image; see `Row.label`. A row without a
    picture may name its file: by a whole path, or by one below `images`, else below the folder. A folder is read
    without network. A hub name needs network, or the dataset in the cache of `datasets`.
    """

    options_type = HuggingFaceOptions
    builder: ClassVar[str | None] = None  # of `datasets`; None: as the folder looks

    def read(self, member: str | None) -> Domain:
        """One domain for all splits."""
        options = cast(HuggingFaceOptions, self.options)
        tables = [Table(table, split, options) for split, table in _load(options, self.builder).items()]
        rows = [Row(table, number) for table in tables for number in range(len(table.paths))]
        place = _place(rows, options)
        pictures = _pictures(rows, options, place)
        builder, faults = DomainBuilder(Path(options.path).name), Faults()
        found, seen = dict[str, Row](), set[tuple[str, str]]()
        for row, picture, name in zip(rows, pictures, _names(rows, pictures), strict=True):
            where, captions = row.where, row.table.captions[row.number]
            split = options.split_of(row.table.split, row.table.origin)
            facts = {"scene_class": row.table.classes[row.number]} if options.class_column else {}
            with faults.gathered():
                # Two rows of one picture are one image with two captions; two of one name alone are a mistake.
                key = plain_name(name.strip()) if isinstance(name, str) else ""
                if key in found and not (picture and (key, picture) in seen):
                    hint = "; the pictures differ" if picture and found[key].table is row.table else ""
                    raise DataError(f"{where}: image {key!r} stands twice, first in {found[key].where}{hint}")
                image = builder.row(name, split, where, **facts)
                found.setdefault(key, row)
                seen.add((key, picture))
                for caption in captions if isinstance(captions, list) else [captions]:
                    builder.caption(image, caption, where)
        faults.raise_any()

        def images(kept: list[str]) -> RowImages:
            return RowImages(options, [found[plain_name(name)] for name in kept], kept, place)

        return finish(builder, options, None if options.images == "none" else images)


class ImageFolder(HuggingFace):
    """A folder of images with a `metadata.csv` or `metadata.jsonl` for each split."""

    builder = "imagefolder"


class Table:
    """One split of a copy: its columns in memory, its images where they are.

    Raises DataError if a column is missing, or the file damaged.
    """

    def __init__(self, table: Any, split: str, options: HuggingFaceOptions) -> None:
        self.split, self.origin = split, f"{options.path}, split {split!r}"
        self.image_column = options.image_column
        known: list[str] = table.column_names
        given = (options.image_column, options.caption_column, options.class_column)
        wanted = [column for column in dict.fromkeys(given) if column]
        missing = no_columns(wanted, known)
        if missing:
            raise DataError(f"{self.origin}: {missing}")
        if options.filename_column in known and options.filename_column not in wanted:
            wanted.append(options.filename_column)
        self._rows, columns, cells = _columns(table, wanted, options.image_column, self.origin)
        self.captions: list[Any] = columns[options.caption_column]
        self.classes = _classes(columns.get(options.class_column or "", []), table, options.class_column)
        self.names: list[Any] | None = columns.get(options.filename_column or "")
        self.paths = [path for path, _ in cells]
        self.embedded = [embedded for _, embedded in cells]

    @cached_property
    def signature(self) -> str:
        """Of the files behind the table; empty for one in memory."""
        signatures = [signature(Path(file["filename"])) for file in self._rows.cache_files]
        return " ".join(signatures) if signatures and all(signatures) else ""

    def content(self, row: int) -> bytes:
        """The bytes of an image that is embedded in the table."""
        return bytes(self._rows[row][self.image_column]["bytes"])


def _classes(values: Sequence[Any], table: Any, column: str | None) -> list[str | None]:
    """Scene classes by name, where the copy has names for its numbers; a negative one is of none."""
    name_of = getattr(table.features.get(column), "int2str", str)
    return [None if c is None or (name_of is not str and c < 0) else name_of(c) for c in values]


@dataclass(frozen=True)
class Row:
    """Where one image is: in a row of a table, or in the file that the row names."""

    table: Table
    number: int

    @property
    def embedded(self) -> bool:
        """Whether the image is in the row itself."""
        return self.table.embedded[self.number]

    @property
    def named(self) -> str:
        """The path of the image's file as the row has it; empty if the image is in the row itself, or nowhere."""
        path = "" if self.embedded else self.table.paths[self.number]
        return path and plain_name(path)

    @property
    def file(self) -> str:
        """The same where it is absolute, else empty."""
        return self.named if PurePath(self.named).is_absolute() else ""

    @property
    def below(self) -> str:
        """The same where it is relative, else empty."""
        return "" if self.file else self.named

    @property
    def where(self) -> str:
        """How it is called in messages."""
        return f"{self.table.origin}, row {self.number}"

    @property
    def label(self) -> str | None:
        """What all rows of an image that is in the rows themselves say: its name, else its file's.

        Without either it is nothing where a row holds one caption. None if no other row is of the same image.
        """
        if self.table.names is not None:
            name = self.table.names[self.number]
            return plain_name(name.strip()) if isinstance(name, str) else None
        one_caption = isinstance(self.table.captions[self.number], str)
        return self.table.paths[self.number] or ("" if one_caption else None)

    @property
    def signature(self) -> str:
        """What changes when the image does, or another column is read; see `data.index`."""
        if self.file:
            return _of(signature(Path(self.file)), self.file)
        return _of(self.table.signature, f"{self.table.image_column} {self.number}")


class RowImages(FileImages):
    """Images that are rows of tables, or files that these name: relative paths start in a folder or a zip."""

    def __init__(
        self, options: HuggingFaceOptions, rows: Sequence[Row], names: Sequence[str], place: Path | None
    ) -> None:
        """Raises DataError if a relative path leads out of the place."""
        super().__init__(place or Path(options.path), names)
        self._rows = rows
        below = [row.below for row in rows]
        self._files = cast(FileImages, open_images(place, below)) if place and any(below) else None

    def missing(self) -> Mapping[int, str]:
        """Rows without an image, and files that are not there."""
        rows, absent = [*enumerate(self._rows)], self._files.missing() if self._files else {}
        bare = {i: "the row holds no image" for i, r in rows if not (r.embedded or r.file or self._below(i))}
        gone = {i: "no such file" for i, r in rows if r.file and not is_file(Path(r.file))}
        return bare | gone | {i: f"{absent[i]}: {r.below}" for i, r in rows if r.below and i in absent}

    def content(self, index: int) -> bytes:
        """The image's bytes. Raises DataError if there are none."""
        row = self._rows[index]
        if files := self._below(index):
            return files.content(index)
        if row.file:
            return read_file(Path(row.file), self.where(index))
        if not row.embedded:
            raise DataError(f"image {self.where(index)}: the row holds no image")
        try:
            return row.table.content(row.number)
        except Exception as error:  # of pyarrow, over a damaged table
            raise DataError(f"image {self.where(index)} cannot be read: {error}") from error

    def where(self, index: int) -> str:
        """The file that is named by a relative path, else the copy and the image's name in it."""
        files = self._below(index)
        return files.where(index) if files else f"{self.place}, image {self._names[index]!r}"

    def _signatures(self) -> list[str]:
        files = self._files._signatures() if self._files else []
        return [
            _of(files[index], self.where(index)) if self._below(index) else row.signature
            for index, row in enumerate(self._rows)
        ]

    def _below(self, index: int) -> FileImages | None:
        """What a row's relative path is looked for in; None if it has none, or there is nothing to look in."""
        return self._files if self._rows[index].below else None


def _load(options: HuggingFaceOptions, builder: str | None) -> Mapping[str, Any]:
    """Split name → table. Raises DataError if there is no such copy here, and says what would get one."""
    import datasets

    path = data_path(options.path)
    try:
        with _silent(unless=options.download):
            if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
                loaded = datasets.load_from_disk(str(path))
            elif path.is_dir():
                # `datasets` keeps what it read of a folder, by sizes and times.
                fresh = {"download_mode": "force_redownload"} if verifying() else {}
                _refuse_null(path.rglob("*.*json*"))  # .json, .jsonl and .ndjson
                source = {"path": builder, "data_dir": str(path)} if builder else {"path": str(path)}
                loaded = datasets.load_dataset(**source, **fresh)
            elif is_file(path):
                raise DataError(f"{path} is a file; write path={PurePath(options.path).parent}, its folder")
            elif builder or options.path.count("/") != 1:
                raise DataError(f"folder {path} does not exist ({relative_start()})")
            else:
                with _no_network(unless=options.download):
                    loaded = datasets.load_dataset(options.path)
    except DataError:
        raise
    except Exception as error:
        hint = "" if path.is_dir() else "; give a folder on disk, or download=true to fetch it from the hub"
        raise DataError(f"{options.path} cannot be loaded by `datasets`: {error}{hint}") from error
    return loaded if isinstance(loaded, dict) else {str(loaded.split or "train"): loaded}


def _place(rows: Sequence[Row], options: HuggingFaceOptions) -> Path | None:
    """The folder or zip that relative paths start in, if any. Raises DataError for `images` without a use."""
    folder = data_path(options.path)
    if options.images in (None, "none"):
        return folder if folder.is_dir() else None
    if not any(row.below for row in rows):
        raise DataError(
            f"{options.path}: no row names a file to look for in images={options.images}: the images stand in the "
            "rows, or these give whole paths; leave `images` out"
        )
    return images_place(options.images, folder)


def _refuse_null(files: Iterable[Path]) -> None:
    """Raise DataError for a line that begins with `null`: as a block's first, pyarrow ends the process over it.

    A list that spans lines may hold some, and is no such case.
    """
    for file in filter(Path.is_file, files):
        with file.open("rb") as lines:
            stripped = ((number, line.strip(b"\xef\xbb\xbf \t\r\n")) for number, line in enumerate(lines, 1))
            for number, line in stripped:
                if line.startswith(b"["):
                    break
                if line.startswith(b"null"):
                    raise DataError(f"{file}, line {number} begins with null, where an object is wanted")


@contextlib.contextmanager
def _silent(*, unless: bool) -> Iterator[None]:
    """Without the warnings and progress bars of `datasets`."""
    from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, logging

    verbosity, bars = logging.get_verbosity(), not are_progress_bars_disabled()
    if not unless:
        logging.set_verbosity(logging.CRITICAL)  # an error is raised, and need not be printed too
        disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            enable_progress_bars()


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


def _columns(
    table: Any, wanted: list[str], images: str, origin: str
) -> tuple[Any, dict[str, list[Any]], list[tuple[str, bool]]]:
    """The table with its images left undecoded, its other columns, and the path of each image (empty without one)
    with whether the image is in the table itself.
    """
    import datasets

    try:
        table = table.select_columns(wanted).cast_column(images, datasets.Image(decode=False))
        arrow = table.with_format("arrow")[:]
        arrow.validate(full=True)  # what is mapped from disk is not trusted
        columns = {name: arrow.column(name).to_pylist() for name in wanted if name != images}
        cells: list[tuple[str, bool]] = []
        for chunk in arrow.column(images).chunks:
            fields = dict(zip([field.name for field in chunk.type], chunk.flatten(), strict=True))
            paths = [path or "" for path in fields["path"].to_pylist()]
            cells += zip(paths, fields["bytes"].is_valid().to_pylist(), strict=True)
    except Exception as error:  # of pyarrow: a column of another type, or a damaged file
        raise DataError(f"{origin} cannot be read: {error}") from error
    return table, columns, cells


def _of(known: str, what: str) -> str:
    """A signature of what is in a file; an empty one stays empty."""
    return known and f"{known} {what}"


def _pictures(rows: Sequence[Row], options: HuggingFaceOptions, place: Path | None) -> list[str]:
    """Of each row what tells whether another one has the same picture; empty where no other has.

    A file is told by its path. Pictures in the rows themselves are told by split, label and content, which is read
    where another row has the same label.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for index, row in enumerate(rows):
        if row.embedded and row.label is not None:
            groups.setdefault((row.table.split, row.label), []).append(index)
    several = {index: place for place, group in groups.items() if len(group) > 1 for index in group}
    chosen = [rows[index] for index in several]
    images = RowImages(options, chosen, [f"{row.table.split}-{row.number:07d}" for row in chosen], place)
    pictures = [row.named for row in rows]
    for position, (index, (split, label)) in enumerate(several.items()):
        pictures[index] = f"{split}/{label}: {images.digest(position)}"
    return pictures


def _names(rows: Sequence[Row], pictures: Sequence[str]) -> list[Any]:
    """What the image of each row is called: by its column, else by its file, else by split and row.

    Files of one name in several folders are told apart by their splits, or else not called by their files.
    """
    images = [picture or row for row, picture in zip(rows, pictures, strict=True)]
    first: dict[str | Row, Row] = {}  # of the rows of each unnamed image
    for row, image in zip(rows, images, strict=True):
        if row.table.names is None:
            first.setdefault(image, row)
    names: dict[str | Row, str] = {}
    for style in ("{file}", "{split}/{file}", "{split}-{number:07d}"):
        for image, row in first.items():
            file = PurePath(row.table.paths[row.number]).name
            names[image] = style.format(file=file, split=row.table.split, number=row.number)
        if len({*names.values()}) == len(names) and all(row.table.paths[row.number] for row in first.values()):
            break
    return [
        names[image] if row.table.names is None else row.table.names[row.number]
        for row, image in zip(rows, images, strict=True)
    ]
