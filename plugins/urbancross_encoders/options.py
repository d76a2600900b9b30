"""Options of the CLIP family, and of those models that open_clip builds. No torch; open_clip only for a tag."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PositiveInt, model_validator

from urbancross_bench.data.readers import data_path
from urbancross_bench.errors import UsageError, did_you_mean
from urbancross_bench.interfaces import EncoderOptions, ImageFormat, Weights
from urbancross_bench.modelling.formats import kind_of, read_config
from urbancross_bench.modelling.origins import Origin, origin_of
from urbancross_encoders.open_clip_folder import CONFIG, HUB_WEIGHTS, describes_tower, description_in, weights_in
from urbancross_encoders.preprocessing import NAMED, Preprocessing, of_architecture, of_config, of_open_clip
from urbancross_encoders.weight_files import (
    config_digest,
    digests_of,
    hub_file,
    hub_folder,
    json_digest,
    one_digest,
    stage_of,
    tokenizer_files,
    weights_of,
)

OWN_ARCHITECTURES = Path(__file__).with_name("architectures")


def _split(value: object) -> object:
    return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value


Patterns = Annotated[tuple[str, ...], BeforeValidator(_split)]


class ClipOptions(EncoderOptions):
    """What all encoders of the CLIP family let their user choose."""

    normalisation: Literal["weights", "openai", "imagenet", "inception"] = Field(
        default="weights", description="mean and deviation of pixels: as the weights say, or by name"
    )
    interpolation: Literal["weights", "bicubic", "bilinear"] = Field(
        default="weights", description="PIL's filter that resizes images: as the weights say, or by name"
    )
    freeze: Patterns = Field(default=(), description="patterns of parameters that training leaves alone")
    frozen_towers: Annotated[tuple[Literal["image", "text"], ...], BeforeValidator(_split)] = Field(
        default=(), description="image, text or both: never trained, run once for each different item"
    )
    head: Literal["none", "linear", "residual"] = Field(
        default="none", description="what is trained on a frozen tower; at first it leaves features as they are"
    )
    bottleneck: PositiveInt = Field(default=64, description="inner width of head=residual")
    allow_missing: Patterns = Field(default=(), description="patterns of names that the weights may lack")
    allow_surplus: Patterns = Field(default=(), description="patterns of names that only the weights have")
    unsafe_pickle: bool = Field(default=False, description="open files that may run code; only ones you trust")
    orientations: Literal[1, 8] = Field(
        default=1, description="8: outside training, image features are means over flips and quarter turns"
    )

    @model_validator(mode="after")
    def _heads_stand_on_frozen_towers(self) -> Self:
        if self.head != "none" and not self.frozen_towers:
            raise ValueError("head goes with frozen_towers; a tower that is trained needs none")
        return self

    def frozen(self) -> frozenset[str]:
        """As the option says."""
        return frozenset(self.frozen_towers)

    def trains(self) -> bool:
        """A tower, or a head on one. What `freeze` leaves is seen when the model is there."""
        return self.head != "none" or len(self.frozen()) < 2

    @cached_property
    def hashed(self) -> dict[Path, str]:
        """The files of the first weights with their hashes, taken once: what is loaded must still have them.

        Raises UsageError for a file that is seen to be no weights without torch.
        """
        self.check_files()
        return digests_of(self.weight_files)

    def check_files(self) -> None:
        """Raise UsageError for files of weights that are cut short, say, or something else.

        Also for one that a grid trained as another model, whose tensors may fit all the same.
        """
        for path in self.weight_files:
            kind_of(path, unsafe_pickle=self.unsafe_pickle)
        theirs = self.trained_as
        mine = self.model_identity() if theirs else {}
        for what in mine:
            if theirs.get(what, mine[what]) != mine[what]:
                raise self.otherwise_trained(what)

    def model_identity(self) -> dict[str, str]:
        """Hashes of all that makes the model and its tokens, but the weights."""
        raise NotImplementedError

    def otherwise_trained(self, what: str) -> UsageError:
        """The error of weights that a grid trained with another `what`, one of `model_identity`."""
        raise NotImplementedError

    @property
    def weight_files(self) -> list[Path]:
        """The files of the first weights; empty for random ones. Raises UsageError where they are not there."""
        raise NotImplementedError

    @cached_property
    def origin(self) -> Origin | None:
        """What the first file of weights says of itself; None if no grid trained them."""
        return origin_of(self.weight_files[0]) if self.weight_files else None

    @property
    def trained_as(self) -> Mapping[str, Any]:
        """What the encoder of the weights was when a grid trained them; empty if none did."""
        return self.origin.encoder if self.origin else {}

    @property
    def weight_map(self) -> Mapping[str, str]:
        """Of weights in several files, the name of the file that their index has each tensor in; else empty."""
        return {}

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """What the weights were trained with, unless `normalisation` or `interpolation` names another.

        Of weights that a grid trained that is what their header says, whatever stands beside them.
        """
        if said := self.trained_as.get("preprocessing"):
            found = of_open_clip(said, f"weights {self.weight_files[0]}")
        else:
            found = self._preprocessing_of_weights()
        if self.normalisation != "weights":
            found = Preprocessing(*NAMED[self.normalisation], found.interpolation)
        if self.interpolation != "weights":
            found = replace(found, interpolation=self.interpolation)
        return found

    def _preprocessing_of_weights(self) -> Preprocessing:
        raise NotImplementedError

    def idle(self) -> Mapping[str, str]:
        """Only an adapter has an inner width."""
        return {} if self.head == "residual" else {"bottleneck": f"head={self.head}"}

    def identity(self) -> dict[str, Any]:
        """What the weights, their preprocessing and their tokenizer are; no name and no path of a file.

        `allow_surplus` and `unsafe_pickle` decide whether weights are loaded, never which.
        """
        weights = self.weights()
        return {
            "weights": weights.sha256 or weights.source,
            "preprocessing": self.preprocessing.identity(),
            "orientations": self.orientations,
            "freeze": sorted(self.freeze),
            "frozen_towers": sorted(self.frozen_towers),
            "head": self.head,
            "bottleneck": self.bottleneck,
            "allow_missing": sorted(self.allow_missing),
            **dict.fromkeys(self.idle()),
        }

    def tower_identity(self) -> dict[str, Any]:
        """Without what training leaves alone, and without what stands on the towers."""
        beside = {"freeze", "frozen_towers", "head", "bottleneck", "most", "tower", "fusion"}
        return {name: value for name, value in self.identity().items() if name not in beside}


class OpenClipOptions(ClipOptions):
    """`openclip[architecture=ViT-B-32,pretrained=laion2b_s34b_b79k]`."""

    architecture: str = Field(
        default="urbancross-s",
        description="an open_clip name, one of ours, local-dir:FOLDER or hf-hub:OWNER/NAME",
    )
    pretrained: str | None = Field(default=None, description="a tag of open_clip; needs its file or a network")
    checkpoint: str | None = Field(default=None, description="a local .pt or .safetensors file, strictly matching")

    @model_validator(mode="after")
    def _one_source_of_weights(self) -> Self:
        if self.pretrained and self.checkpoint:
            raise ValueError("give either pretrained (a tag) or checkpoint (a file), not both")
        if self.pretrained and ":" in self.architecture:
            raise ValueError(f"{self.architecture} brings its own weights; leave pretrained away")
        return self

    @cached_property
    def folder(self) -> Path | None:
        """The folder that describes the architecture: one on disk, or the copy of a hub repository."""
        kind, _, name = self.architecture.partition(":")
        if kind == "local-dir":
            folder = data_path(name)
            if not (folder / CONFIG).is_file():
                raise UsageError(f"encoder 'openclip': {folder} holds no {CONFIG}")
            return folder
        if kind == "hf-hub":
            patterns = [[CONFIG, "*.json", "*.txt", "*.model"], *([name] for name in HUB_WEIGHTS)]
            return hub_folder("encoder 'openclip'", name, self._is_complete, patterns)
        return None

    def _is_complete(self, folder: Path) -> bool:
        weights = self.checkpoint or any((folder / name).is_file() for name in HUB_WEIGHTS)
        return (folder / CONFIG).is_file() and bool(weights)

    @cached_property
    def _description(self) -> dict[str, Any]:
        if self.folder is not None:
            return description_in(self.folder)
        known = _architectures()
        if self.architecture not in known:
            hint = did_you_mean(self.architecture, known)
            raise UsageError(f"encoder 'openclip' knows no architecture {self.architecture!r}.{hint}")
        return {"model_cfg": _read(known[self.architecture])}

    @cached_property
    def config(self) -> dict[str, Any]:
        """The architecture as open_clip's json describes it. Raises UsageError for an unknown name.

        Weights of a tag that were trained with QuickGELU get it, whatever the architecture's name.
        """
        config: dict[str, Any] = dict(self._description["model_cfg"])
        if self._tag.get("quick_gelu"):
            config["quick_gelu"] = True
        return config

    @cached_property
    def _tag(self) -> Mapping[str, Any]:
        """What open_clip's list says of the tag; empty without one."""
        if not self.pretrained:
            return {}
        self._description  # noqa: B018 - an unknown architecture is told without the seconds of the import
        from open_clip.pretrained import get_pretrained_cfg, list_pretrained_tags_by_model

        tag: Mapping[str, Any] = get_pretrained_cfg(self.architecture, self.pretrained)
        if not tag:
            known = list_pretrained_tags_by_model(self.architecture)
            raise UsageError(
                f"encoder 'openclip': {self.architecture} has no weights tagged {self.pretrained!r}; "
                f"known: {', '.join(known) or 'none'}"
            )
        return tag

    @cached_property
    def weight_files(self) -> list[Path]:
        """One file, or none for random weights."""
        if self.checkpoint:
            path = data_path(self.checkpoint)
            if path.is_dir():
                raise UsageError(
                    f"encoder 'openclip': checkpoint {path} is a folder; name the file of weights in it, or take "
                    f"architecture=local-dir:{self.checkpoint} if there is an {CONFIG} in it"
                )
            if not path.is_file():
                raise UsageError(f"encoder 'openclip': checkpoint {path} does not exist")
            return [path]
        if self.folder is not None:
            return [weights_in(self.folder)]
        return [self._tagged_file()] if self.pretrained else []

    def _tagged_file(self) -> Path:
        repository, _, name = self._tag["hf_hub"].rpartition("/")
        names = [name] if name else list(HUB_WEIGHTS)
        if name.endswith((".bin", ".pth")):
            names.insert(0, str(Path(name).with_suffix(".safetensors")))
        return hub_file(f"encoder 'openclip', weights {self.pretrained} of {self.architecture}", repository, names)

    @cached_property
    def text_folder(self) -> Path | None:
        """Where the tokenizer of Hugging Face lies; None for CLIP's own tokenizer."""
        text = self.config["text_cfg"]
        name = text.get("hf_tokenizer_name") or text.get("hf_model_name")
        return self._of_hugging_face("tokenizer", name, _has_tokenizer) if name else None

    @cached_property
    def text_config_folder(self) -> Path | None:
        """Where the text tower of Hugging Face is described, in a config.json; None for open_clip's own tower."""
        name = self.config["text_cfg"].get("hf_model_name")
        return self._of_hugging_face("config.json of the text tower", name, describes_tower) if name else None

    def _of_hugging_face(self, what: str, name: str, found: Callable[[Path], bool]) -> Path:
        """The model's own folder, if it is found there, or that of a name on the hub."""
        said = f"encoder 'openclip', {what} of {self.architecture}"
        if self.folder is not None and found(self.folder):
            return self.folder
        if self.folder is not None and self.architecture.startswith("local-dir:"):
            raise UsageError(f"{said}: {self.folder} holds none; save {name}'s there")
        return hub_folder(said, name, found, [["*.json", "*.txt", "*.model"]])

    def image_format(self) -> ImageFormat:
        """The square the image tower wants, resized as its weights say."""
        size = self.config["vision_cfg"].get("image_size", 224)
        if isinstance(size, list) and len(size) == 2 and size[0] == size[1]:
            size = size[0]
        if not isinstance(size, int):
            raise UsageError(f"architecture {self.architecture!r} wants images of {size}; only squares are packed")
        return ImageFormat(size, self.preprocessing.interpolation)

    def _preprocessing_of_weights(self) -> Preprocessing:
        if self.pretrained:
            return of_open_clip(self._tag, f"encoder 'openclip', weights {self.pretrained}")
        if self.folder is not None:
            return of_config(self._description.get("preprocess_cfg") or {}, str(self.folder / CONFIG))
        return of_architecture(self.architecture)

    def check_files(self) -> None:
        """Also for one that an earlier version left, and for one of `transformers`."""
        file = self.weight_files[0] if self.weight_files else None
        if "config" in self.trained_as and "architecture" not in self.trained_as:
            raise UsageError(
                f"encoder 'openclip': {file} was trained as a model of transformers; take "
                "transformers[model=FOLDER], a copy of the folder that its grid names, with this file as its "
                "model.safetensors"
            )
        super().check_files()
        if file and not self.origin and (stage := stage_of(file)):
            said = f"{file} was left by an earlier version ({stage}) and does not say what it is"
            raise UsageError(f"encoder 'openclip': {said}; run its grid again")

    def otherwise_trained(self, what: str) -> UsageError:
        """Names the architecture that has it, where one is known."""
        [file] = self.weight_files
        found = architecture_with(self.trained_as[what])
        name = f"architecture={found}" if found else "the architecture that its grid names"
        name += "" if self.checkpoint else f" with checkpoint={file}"
        return UsageError(
            f"encoder 'openclip': {file} was trained with another {what} than that of {self.architecture}; "
            f"take {name}"
        )

    def weights(self) -> Weights:
        """A file is hashed, wherever it lies."""
        if not self.weight_files:
            return Weights("untrained", "random")
        [path] = self.weight_files
        stage = stage_of(path)
        source = f"{stage}/{path.name}" if stage else path.name
        if self.pretrained:
            source = f"open_clip:{self.architecture}/{self.pretrained}"
        elif self.folder is not None and not self.checkpoint:
            hub = self.architecture.startswith("hf-hub:")
            source = self.architecture if hub else f"{self.folder.name}/{path.name}"
        return weights_of(self.origin, source, self.hashed[path], partial=bool(self.allow_missing))

    def identity(self) -> dict[str, Any]:
        """The architecture's content beside what all of the family have."""
        return super().identity() | self.model_identity()

    def model_identity(self) -> dict[str, str]:
        """The architecture, and what Hugging Face has a part in."""
        facts = {"architecture": json_digest(self.config)}
        if self.text_folder is not None:
            facts["tokenizer"] = one_digest(digests_of(tokenizer_files(self.text_folder)))
        if self.text_config_folder is not None:
            facts["text_config"] = config_digest(read_config(self.text_config_folder / "config.json"))
        return facts


def _has_tokenizer(folder: Path) -> bool:
    return bool(tokenizer_files(folder))


def architecture_with(digest: str) -> str | None:
    """The name of open_clip's or ours that has it for its content."""
    return next((name for name, file in _architectures().items() if json_digest(_read(file)) == digest), None)


def _architectures() -> dict[str, Path]:
    """Names of open_clip and of ours, and their files."""
    # `find_spec` locates open_clip without importing it, which would take seconds.
    spec = importlib.util.find_spec("open_clip")
    places = [Path(place, "model_configs") for place in (spec and spec.submodule_search_locations) or []]
    return {file.stem: file for place in (*places, OWN_ARCHITECTURES) for file in place.glob("*.json")}


def _read(architecture: Path) -> dict[str, Any]:
    return json.loads(architecture.read_text(encoding="utf-8"))  # type: ignore[no-any-return]
