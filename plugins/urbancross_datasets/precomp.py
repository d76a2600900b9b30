"""The `*_precomp` text files of the AMFMN family: captions beside image names, line by line."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import cast

from pydantic import Field, PositiveInt

from urbancross_bench.data.readers import (
    DomainBuilder,
    TextOptions,
    data_path,
    finish,
    images_place,
    read_lines,
    relative_start,
    unwrap,
)
from urbancross_bench.errors import DataError
from urbancross_bench.interfaces import Dataset, Domain


class PrecompOptions(TextOptions):
    """`precomp[folder=data/rsitmd_precomp,images=data/rsitmd/images]`."""

    folder: str = Field(description="holds train_caps.txt, train_filename.txt, test_caps.txt, …")
    verify: bool = Field(default=True, description="training and validation from the *_verify files, where there")
    captions_per_image: PositiveInt = Field(default=5, description="captions of each image, padded by repeats")


class Precomp(Dataset):
    """`train_caps.txt` and `train_filename.txt`, the same for `test`, and `*_verify.txt` for train and val.

    The `_verify` files cut the training files into training and validation; without them, or with `verify=false`,
    a validation split is drawn. A list of names has a line per caption or a line per image.
    """

    options_type = PrecompOptions

    def read(self, member: str | None) -> Domain:
        """One domain per folder."""
        options = cast(PrecompOptions, self.options)
        folder = data_path(options.folder)
        if not folder.is_dir():
            raise DataError(f"folder {folder} does not exist ({relative_start()})")
        verify = options.verify and any(_pair(folder, split, "_verify") for split in ("train", "val"))
        suffixes = {"train": "_verify" if verify else "", "val": "_verify" if verify else "", "test": ""}
        builder = DomainBuilder(folder.name)
        for split, suffix in suffixes.items():
            files = _pair(folder, split, suffix)
            if files:
                _read(builder, *files, split, options)
            elif split != "val" or verify:
                raise DataError(f"folder {folder} lacks {split}_caps{suffix}.txt and {split}_filename{suffix}.txt")
        partition = "as the *_verify files say" if verify else "as the files say"
        return finish(builder, options, images_place(options.images, folder), partition=partition)


def _pair(folder: Path, split: str, suffix: str) -> tuple[Path, Path] | None:
    """The two files of a split; None if both are absent. Raises DataError if one of them is."""
    captions, names = folder / f"{split}_caps{suffix}.txt", folder / f"{split}_filename{suffix}.txt"
    if captions.is_file() != names.is_file():
        there, absent = (captions, names) if captions.is_file() else (names, captions)
        raise DataError(f"folder {folder} holds {there.name} but lacks {absent.name}")
    return (captions, names) if captions.is_file() else None


def _read(
    builder: DomainBuilder, caption_file: Path, name_file: Path, split: str, options: PrecompOptions
) -> None:
    """Add one split. Raises DataError unless every caption has its image beyond doubt."""
    per_image, encoding = options.captions_per_image, options.encoding
    builder.encoding(caption_file, encoding)
    builder.encoding(name_file, encoding)
    captions = read_lines(caption_file, encoding)
    lines_of_names = enumerate(read_lines(name_file, encoding), start=1)
    names = [unwrap(line, f"{name_file}:{number}") for number, line in lines_of_names]
    counts, lines = Counter(names), dict[str, int]()
    for line, name in enumerate(names, start=1):
        lines.setdefault(name, line)
    if len(captions) == per_image * len(names):
        owners = [name for name in names for _ in range(per_image)]
        odd = next((name for name, count in counts.items() if count > 1), None)
    elif len(captions) == len(names):
        owners = names
        odd = next((name for name, count in counts.items() if count != per_image), None)
    else:
        raise DataError(
            f"{caption_file} has {len(captions)} lines and {name_file.name} {len(names)}: neither a name per "
            f"caption nor a name per {per_image} captions"
        )
    if odd is not None:
        raise DataError(
            f"{name_file}:{lines[odd]}: {odd!r} stands {counts[odd]} times, but the list has a name per "
            f"{'image' if len(names) < len(captions) else 'caption'} and {per_image} captions per image "
            "(option `captions_per_image`)"
        )
    images = {name: builder.image(name, split, f"{name_file}:{line}") for name, line in lines.items()}
    for number, (name, caption) in enumerate(zip(owners, captions, strict=True), start=1):
        builder.caption(images[name], caption, f"{caption_file}:{number}")
