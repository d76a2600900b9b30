"""Options of Segment Anything, and where its weights come from. No torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, PositiveInt

from urbancross_bench.data.readers import data_path
from urbancross_bench.errors import UsageError, did_you_mean
from urbancross_bench.identity import digest, file_digest
from urbancross_bench.interfaces import SegmenterOptions, Weights
from urbancross_bench.modelling.formats import kind_of, read_config, without_history
from urbancross_segmenters.preprocessing import of_folder

VISION = {  # width, layers, heads and layers that see the whole image
    "vit_b": (768, 12, 12, [2, 5, 8, 11]),
    "vit_l": (1024, 24, 16, [5, 11, 17, 23]),
    "vit_h": (1280, 32, 16, [7, 15, 23, 31]),
}
_DEFAULT = "vit_b"
_SIDE = 1024  # of images, where a config does not say
_FOLDER_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


class SamOptions(SegmenterOptions):
    """`sam[checkpoint=sam_vit_b_01ec64.pth]`; the other defaults are those of Segment Anything's generator."""

    libraries: ClassVar[Sequence[str]] = ("torch", "torchvision", "transformers")

    checkpoint: str | None = Field(
        default=None,
        description="the authors' .pth or .safetensors, or a folder as transformers saves one; none: untrained",
    )
    architecture: str | None = Field(
        default=None,
        description="vit_b (if nothing says another), vit_l, vit_h, or a json file like transformers' config.json",
    )
    points_per_side: PositiveInt = Field(default=32, description="points asked about, along each side of an image")
    points_per_batch: PositiveInt = Field(default=64, description="points asked about at once")
    pred_iou_thresh: float = Field(
        default=0.88, description="masks of lower predicted quality are dropped; 0: none"
    )
    stability_score_thresh: float = Field(
        default=0.95, le=1, description="masks of lower stability are dropped; 0: none"
    )
    stability_score_offset: float = Field(
        default=1.0, gt=0, description="how far the threshold moves to tell stability"
    )
    box_nms_thresh: float = Field(
        default=0.7, ge=0, le=1, description="of masks whose boxes overlap by more, the best is kept"
    )

    @property
    def folder(self) -> Path | None:
        """The checkpoint where it is a folder."""
        path = data_path(self.checkpoint) if self.checkpoint else None
        return path if path and path.is_dir() else None

    @property
    def asked(self) -> str:
        """The architecture, as the user said it."""
        return f"the config.json of {self.folder.name}" if self.folder else self.architecture or _DEFAULT

    @cached_property
    def config(self) -> dict[str, Any]:
        """The architecture in the terms of transformers' `SamConfig`. Raises UsageError if there is none."""
        if self.folder and self.architecture:
            raise UsageError(
                f"segmenter: {self.folder} says its architecture; leave architecture={self.architecture}"
            )
        if self.folder:
            return _read_config(self.folder / "config.json")
        name = self.architecture or _DEFAULT
        if name in VISION:
            width, layers, heads, global_layers = VISION[name]
            vision = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
            return {"vision_config": {**vision, "global_attn_indexes": global_layers, "mlp_dim": 4 * width}}
        if not name.endswith(".json"):
            raise UsageError(f"segmenter: there is no architecture {name!r}.{did_you_mean(name, VISION)}")
        return _read_config(data_path(name))

    @cached_property
    def preprocessing(self) -> dict[str, Any]:
        """What a folder's image processor does otherwise than the authors' code; see `preprocessing.of_folder`."""
        if self.folder is None:
            return {}
        return of_folder(self.folder, int(self.config["vision_config"].get("image_size", _SIDE)))

    @property
    def weights_file(self) -> Path | None:
        """The file that holds the weights. Raises UsageError if it does not exist."""
        if self.checkpoint is None:
            return None
        path = data_path(self.checkpoint)
        if self.folder:
            present = [path / name for name in _FOLDER_WEIGHTS if (path / name).is_file()]
            if not present:
                raise UsageError(f"segmenter: {path} holds neither {' nor '.join(_FOLDER_WEIGHTS)}")
            return present[0]
        if not path.is_file():
            raise UsageError(f"segmenter: checkpoint {path} does not exist")
        return path

    def weights(self) -> Weights:
        """The hash of the one file."""
        path = self.weights_file
        if path is None:
            return Weights("untrained", "random")
        kind_of(path, unsafe_pickle=None)  # what is no weights is told before a model is built
        return Weights("pretrained", path.name if self.folder is None else path.parent.name, self._file_hash)

    @cached_property
    def _file_hash(self) -> str:
        path = self.weights_file
        return file_digest(path) if path else ""

    def identity(self) -> dict[str, Any]:
        """Of checkpoint and architecture, the contents; how a folder has images prepared, where not as usual."""
        said = {**super().identity(), "checkpoint": self.weights().sha256}
        said |= {"preprocessing": self.preprocessing} if self.preprocessing else {}
        model = json.dumps(without_history(self.config), sort_keys=True)
        return {**said, "architecture": digest([model.encode()])}


class OriginalOptions(SamOptions):
    """`segment_anything[checkpoint=sam_vit_b_01ec64.pth]`; transformers says what an architecture leaves open."""

    libraries: ClassVar[Sequence[str]] = (*SamOptions.libraries, "segment-anything")


def _read_config(file: Path) -> dict[str, Any]:
    config = read_config(file)
    if not isinstance(config.get("vision_config"), dict):
        raise UsageError(f"segmenter: architecture {file} has no vision_config; is it of a SamModel?")
    return config
