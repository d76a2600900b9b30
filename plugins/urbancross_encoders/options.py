"""Options of the encoders, and what planning asks of them. No torch, no open_clip."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from urbancross_bench.data.readers import data_path
from urbancross_bench.errors import UsageError, did_you_mean
from urbancross_bench.identity import file_digest
from urbancross_bench.interfaces import EncoderOptions, ImageFormat, Weights

OWN_ARCHITECTURES = Path(__file__).with_name("architectures")


class OpenClipOptions(EncoderOptions):
    """`openclip[architecture=ViT-B-32,pretrained=laion2b_s34b_b79k]`."""

    architecture: str = Field(default="urbancross-s", description="an open_clip model name, or one of ours")
    pretrained: str | None = Field(default=None, description="a tag of open_clip; needs its file or a network")
    checkpoint: str | None = Field(default=None, description="a local .pt or .safetensors file, strictly matching")

    orientations: Literal[1, 8] = Field(
        default=1, description="8: outside training, image features are means over flips and quarter turns"
    )

    @model_validator(mode="after")
    def _one_source_of_weights(self) -> Self:
        if self.pretrained and self.checkpoint:
            raise ValueError("give either pretrained (a tag) or checkpoint (a file), not both")
        return self

    @cached_property
    def config(self) -> dict[str, Any]:
        """The architecture as open_clip's json describes it. Raises UsageError for an unknown name."""
        known = {file.stem: file for folder in _architecture_folders() for file in folder.glob("*.json")}
        if self.architecture not in known:
            hint = did_you_mean(self.architecture, known)
            raise UsageError(f"encoder 'openclip' knows no architecture {self.architecture!r}.{hint}")
        config: dict[str, Any] = json.loads(known[self.architecture].read_text(encoding="utf-8"))
        return config

    def image_format(self) -> ImageFormat:
        """The square the image tower wants."""
        size = self.config["vision_cfg"].get("image_size", 224)
        if not isinstance(size, int):
            raise UsageError(f"architecture {self.architecture!r} wants images of {size}; only squares are packed")
        return ImageFormat(size)

    def weights(self) -> Weights:
        """A tag's weights never change under open_clip; a file is hashed."""
        if self.pretrained:
            return Weights("pretrained", f"open_clip:{self.architecture}/{self.pretrained}")
        if self.checkpoint:
            path = data_path(self.checkpoint)
            if not path.is_file():
                raise UsageError(f"encoder 'openclip': checkpoint {path} does not exist")
            return Weights("pretrained", path.name, file_digest(path))
        return Weights("untrained", "random")

    def identity(self) -> dict[str, Any]:
        """The architecture's content and the weights' content; neither name nor path of a file."""
        weights = self.weights()
        return {
            "architecture": hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()[:32],
            "weights": weights.sha256 or weights.source,
            "orientations": self.orientations,
        }


def _architecture_folders() -> list[Path]:
    # `find_spec` locates open_clip without importing it, which would take seconds.
    spec = importlib.util.find_spec("open_clip")
    places = list(spec.submodule_search_locations or []) if spec else []
    return [*(Path(place, "model_configs") for place in places), OWN_ARCHITECTURES]
