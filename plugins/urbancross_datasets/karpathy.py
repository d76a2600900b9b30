"""Any Karpathy-style caption json with its image folder: RSICD, UCM-Captions, Sydney-Captions, …"""

from __future__ import annotations

from typing import cast

from pydantic import Field

from urbancross_bench.data.readers import data_path, read_karpathy
from urbancross_bench.interfaces import Dataset, Domain, Options


class KarpathyOptions(Options):
    """`karpathy[file=rsicd/dataset_rsicd.json]`; relative paths lie below `URBANCROSS_DATA`."""

    file: str = Field(description="the caption json")
    images: str | None = Field(default=None, description="the image folder; by default images/ beside the file")
    captions_generated: bool = Field(default=False, description="a model wrote the captions from the images")


class Karpathy(Dataset):
    """One domain per caption file."""

    options_type = KarpathyOptions

    def read(self, member: str | None) -> Domain:
        """See `data.readers.read_karpathy`."""
        options = cast(KarpathyOptions, self.options)
        file = data_path(options.file)
        folder = data_path(options.images) if options.images else file.parent / "images"
        return read_karpathy(file.stem, file, folder, captions_generated=options.captions_generated)
