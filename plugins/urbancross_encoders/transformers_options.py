"""Options of models that transformers builds, read from their json files. No torch, no transformers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import Field

from urbancross_bench.data.readers import data_path
from urbancross_bench.errors import UsageError, did_you_mean
from urbancross_bench.interfaces import ImageFormat, Weights
from urbancross_bench.modelling.formats import image_processor_in, read_config, weight_map
from urbancross_encoders.options import ClipOptions, architecture_with
from urbancross_encoders.preprocessing import Preprocessing, of_transformers
from urbancross_encoders.weight_files import (
    config_digest,
    digests_of,
    hub_folder,
    one_digest,
    tokenizer_files,
    weights_of,
)

FAMILIES = ("clip", "siglip", "siglip2")
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_INDEX = ".index.json"  # of weights in several files
_WEIGHTS = ("model.safetensors", f"model.safetensors{_INDEX}", "pytorch_model.bin", f"pytorch_model.bin{_INDEX}")
_ADAPTER = "adapter_config.json"  # of PEFT, beside low-rank updates
_SMALL_FILES = ("*.json", "*.txt", "*.model")
_PATCH, _PATCHES, _SIZE, _LENGTH = 16, 256, 224, {"clip": 77, "siglip": 64, "siglip2": 64}


class TransformersOptions(ClipOptions):
    """`transformers[model=google/siglip2-base-patch16-224]`."""

    model: str = Field(description="a folder of save_pretrained, or a name on the hub (owner/name)")
    revision: str | None = Field(default=None, description="of a hub name: a branch, tag or commit")

    @cached_property
    def folder(self) -> Path:
        """The folder on disk, or the copy of the hub's. Raises UsageError where there is neither.

        Also for one with low-rank updates: a model beside them would be taken without.
        """
        folder = self._folder()
        if (folder / _ADAPTER).is_file():
            raise UsageError(
                f"encoder 'transformers': {folder} holds low-rank updates of PEFT ({_ADAPTER}), which are no "
                "model; `merge_and_unload()` them, and save the model that this gives, with its processor, in a "
                "folder of its own"
            )
        return folder

    def _folder(self) -> Path:
        folder = data_path(self.model)
        if folder.is_dir():
            if self.revision:
                raise UsageError(f"encoder 'transformers': {folder} is a folder; revision is for names on the hub")
            return folder
        if folder.is_file():
            raise UsageError(
                f"encoder 'transformers': {folder} is a file; name its folder, model={Path(self.model).parent}, "
                "where config, tokenizer and processor stand beside it"
            )
        if not _HUB_NAME.fullmatch(self.model):
            raise UsageError(f"encoder 'transformers': folder {folder} does not exist")
        # Shards are called after the whole: model-00001-of-00002.safetensors.
        shards = [name.removesuffix(_INDEX).replace(".", "-*.") for name in _WEIGHTS]
        patterns = [(*_SMALL_FILES, *names) for names in zip(_WEIGHTS, shards, strict=True)]
        what = f"encoder 'transformers': {folder} is no folder, and the hub's"
        return hub_folder(what, self.model, _is_complete, patterns, self.revision)

    @cached_property
    def config(self) -> dict[str, Any]:
        """`config.json`. Raises UsageError for a model that is not of the CLIP family."""
        config = read_config(self.folder / "config.json")
        family = config.get("model_type")
        if family not in FAMILIES:
            raise UsageError(
                f"encoder 'transformers': {self.folder / 'config.json'} is of a {family!r} model."
                f"{did_you_mean(str(family), FAMILIES)}"
            )
        return config

    @property
    def family(self) -> str:
        """`clip`, `siglip` or `siglip2`; SigLIP 2 of a fixed resolution calls itself `siglip`."""
        return str(self.config["model_type"])

    @cached_property
    def weight_files(self) -> list[Path]:
        """One file, or the shards that an index names."""
        file = self._weights_or_index
        if not file.name.endswith(_INDEX):
            return [file]
        shards = [self.folder / name for name in sorted({*self.weight_map.values()})]
        absent = [shard.name for shard in shards if not shard.is_file()]
        if absent:
            raise UsageError(f"encoder 'transformers': {file} names {absent[0]}, which is not there")
        return shards

    @cached_property
    def weight_map(self) -> Mapping[str, str]:
        """See `ClipOptions`. Raises UsageError for an index without one."""
        file = self._weights_or_index
        return weight_map(file) if file.name.endswith(_INDEX) else {}

    @property
    def _weights_or_index(self) -> Path:
        for name in _WEIGHTS:
            if (self.folder / name).is_file():
                return self.folder / name
        raise UsageError(f"encoder 'transformers': {self.folder} holds none of {', '.join(_WEIGHTS)}")

    def vision(self, name: str, default: int) -> int:
        """A whole number of the image tower's config, which leaves defaults out."""
        return int(self._part("vision_config").get(name, default))

    def _part(self, name: str) -> dict[str, Any]:
        """A tower's config. Old files of CLIP have a second one, `…_dict`, and transformers lets that one win."""
        return (self.config.get(name) or {}) | (self.config.get(f"{name}_dict") or {})

    @property
    def context_length(self) -> int:
        """Tokens per text."""
        return int(self._part("text_config").get("max_position_embeddings", _LENGTH[self.family]))

    def image_format(self) -> ImageFormat:
        """The square the image tower wants. SigLIP 2 of any resolution gets the largest of patches."""
        size = self.vision("image_size", _SIZE)
        if self.family == "siglip2":
            patches = int(self._processor[1].get("max_num_patches", self.vision("num_patches", _PATCHES)))
            size = math.isqrt(patches) * self.vision("patch_size", _PATCH)
        return ImageFormat(size, self.preprocessing.interpolation)

    @cached_property
    def _processor(self) -> tuple[Path, dict[str, Any]]:
        return image_processor_in(self.folder)

    def _preprocessing_of_weights(self) -> Preprocessing:
        file, said = self._processor
        if not said and self.normalisation == "weights":
            raise UsageError(
                f"encoder 'transformers': {self.folder} holds no preprocessor_config.json, so nothing says how "
                "images are normalised; save the processor there, or name a normalisation"
            )
        return of_transformers(said, self.family, f"encoder 'transformers': {file}")

    @cached_property
    def tokenizer_files(self) -> list[Path]:
        """Raises UsageError where there are none."""
        files = tokenizer_files(self.folder)
        if not files:
            raise UsageError(f"encoder 'transformers': {self.folder} holds no tokenizer; save the processor there")
        return files

    def check_files(self) -> None:
        """Also for one of `openclip`."""
        if "architecture" in self.trained_as:
            file, found = self.weight_files[0], architecture_with(self.trained_as["architecture"])
            raise UsageError(
                f"encoder 'transformers': {file} was trained as a model of open_clip; take "
                f"openclip[architecture={found or 'ITS_OWN'},checkpoint={file}], as its grid names it"
            )
        super().check_files()

    def model_identity(self) -> dict[str, str]:
        """The config and the tokenizer."""
        return {
            "config": config_digest(self.config),
            "tokenizer": one_digest(digests_of(self.tokenizer_files)),
        }

    def otherwise_trained(self, what: str) -> UsageError:
        """Names the folder, whose other files are not those of the training."""
        return UsageError(
            f"encoder 'transformers': {self.weight_files[0]} was trained with another {what} than that of "
            f"{self.folder}; put it into a copy of the folder that its grid names"
        )

    def weights(self) -> Weights:
        """Hashed, wherever they lie; shards as one."""
        path = data_path(self.model)
        source = (
            path.name if path.is_dir() else f"hub:{self.model}" + (f"@{self.revision}" if self.revision else "")
        )
        return weights_of(self.origin, source, one_digest(self.hashed), partial=bool(self.allow_missing))

    def identity(self) -> dict[str, Any]:
        """The model's config and tokenizer beside what all of the family have."""
        return self.model_identity() | super().identity()


def _is_complete(folder: Path) -> bool:
    small = (folder / "config.json").is_file() and bool(tokenizer_files(folder))
    for name in _WEIGHTS:
        if (folder / name).is_file():
            shards = weight_map(folder / name).values() if name.endswith(_INDEX) else [name]
            return small and all((folder / shard).is_file() for shard in shards)
    return False
