"""Options of the encoder that reads its features from files. No torch."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Set
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from urbancross_bench.data.readers import FeatureRows, data_path, read_features
from urbancross_bench.errors import UsageError
from urbancross_bench.interfaces import EncoderOptions, Weights
from urbancross_encoders.weight_files import digest_of


def _one_or_several(value: object) -> object:
    return (value,) if isinstance(value, str) else value


Files = Annotated[tuple[str, ...], BeforeValidator(_one_or_several), Field(min_length=1)]


class PrecomputedOptions(EncoderOptions):
    """`precomputed[images=clip/images.npz,texts=clip/captions.npz,head=residual]`."""

    images: Files = Field(description="a file, or several, of image features: .npz, .safetensors or .parquet")
    texts: Files = Field(description="the same of caption features; a bundle of prompts stands under both")
    surplus: bool = Field(default=False, description="files may hold more images and captions than the grid")
    head: Literal["none", "linear", "residual"] = Field(
        default="linear", description="what is trained on either side; at first it leaves features as they are"
    )
    width: PositiveInt | None = Field(
        default=None, description="of the common space, where images and texts are not of one width"
    )
    bottleneck: PositiveInt = Field(default=64, description="inner width of head=residual")
    logit_scale: float = Field(
        default=math.log(100),
        description="natural logarithm of the first factor on similarities; CLIP's as trained",
    )

    @model_validator(mode="after")
    def _width_needs_a_map(self) -> Self:
        if self.width and self.head != "linear":
            raise ValueError("width is for head=linear; other heads keep that of the features")
        return self

    @cached_property
    def hashed(self) -> dict[Path, str]:
        """The files with their hashes, taken once: what is read must still have them."""
        return {path: digest_of(path) for path in (*self._files(self.images), *self._files(self.texts))}

    def _files(self, names: Iterable[str]) -> list[Path]:
        return [data_path(name) for name in names]

    def image_rows(self) -> FeatureRows:
        """Features of images by name, read from disk. Raises DataError."""
        return FeatureRows([read_features(file, "images") for file in self._files(self.images)], "image")

    def text_rows(self) -> FeatureRows:
        """Features of captions by their words, read from disk. Raises DataError."""
        return FeatureRows([read_features(file, "texts") for file in self._files(self.texts)], "caption")

    def common_width(self, images: int, texts: int) -> int:
        """Width of the common space, given those of the features. Raises UsageError where they differ."""
        if self.width is None and images != texts:
            raise UsageError(
                f"encoder 'precomputed': image features have {images} dimensions and text features {texts}; "
                "head=linear with a width maps both to one space, which then has to be trained"
            )
        return self.width or images

    def image_format(self) -> None:
        """No pixels."""
        return None

    def frozen(self) -> frozenset[str]:
        """Both sides: heads are added to what is stored."""
        return frozenset({"image", "text"})

    def trains(self) -> bool:
        """What stands on the features."""
        return self.head != "none"

    def check_items(self, image_names: Set[str], captions: Set[str]) -> None:
        """Raises DataError unless every image and caption has a row, and without `surplus` every row is needed."""
        images, texts = self.image_rows(), self.text_rows()
        self.common_width(images.width, texts.width)
        images.expect(image_names, surplus=self.surplus)
        texts.expect(captions, surplus=self.surplus)

    def weights(self) -> Weights:
        """The hash of the file, or one of several. A map to another width is random, hence untrained."""
        names = dict.fromkeys(path.name for path in self.hashed)
        status: Literal["pretrained", "untrained"] = "untrained" if self.width else "pretrained"
        return Weights(status, " + ".join(names), _hash(self.hashed.values()))

    def idle(self) -> Mapping[str, str]:
        """Only an adapter has an inner width."""
        return {} if self.head == "residual" else {"bottleneck": f"head={self.head}"}

    def identity(self) -> dict[str, Any]:
        """What the files hold, and the head; `surplus` decides whether they are taken, not what is."""
        return {
            **{
                side: _hash(self.hashed[p] for p in self._files(getattr(self, side)))
                for side in ("images", "texts")
            },
            "head": self.head,
            "width": self.width,
            "bottleneck": self.bottleneck,
            "logit_scale": self.logit_scale,
            **dict.fromkeys(self.idle()),
        }


def _hash(digests: Iterable[str]) -> str:
    """The one hash, or one of several, in whatever order."""
    different = sorted(set(digests))
    return different[0] if len(different) == 1 else hashlib.sha256("\n".join(different).encode()).hexdigest()
