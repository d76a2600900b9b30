"""Options of the captioners, and what planning asks of them. No torch, no transformers."""

from __future__ import annotations

import string
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from urbancross_bench.identity import library_versions
from urbancross_bench.interfaces import CaptionerOptions, Weights
from urbancross_captioners.checkpoint import Checkpoint, open_checkpoint

# Zhong et al., ACM MM 2024 (arXiv 2404.14241). Their {satellite image} is what the model sees beside the text.
PROMPT = (
    "Please give a comprehensive and detailed description of the satellite image "
    "and its geographical tags: {tags}."
)


class FromTagsOptions(CaptionerOptions):
    """`from_tags[most=6]`."""

    sees_pixels: ClassVar[bool] = False

    most: int = Field(
        default=6, ge=1, description="things told of the centre, and of the surroundings, and properties"
    )


class InstructBlipOptions(CaptionerOptions):
    """`instructblip[model=/models/instructblip-flan-t5-xl,precision=bfloat16]`."""

    model: str = Field(description="a folder as `save_pretrained` writes it, or a hub name that is in the cache")
    revision: str | None = Field(default=None, description="branch, tag or commit of a hub name")
    prompt: str = Field(default=PROMPT, min_length=1, description="template; {tags} stands for the image's tags")
    precision: Literal["float32", "bfloat16"] = "float32"
    max_new_tokens: int = Field(default=128, ge=1, description="longest caption, in tokens")
    num_beams: int = Field(default=5, ge=1, description="beams of the search; 1 is greedy, or plain sampling")
    repetition_penalty: float = Field(default=1.0, gt=0, description="above 1: words said already become rarer")
    do_sample: bool = Field(default=False, description="draw words instead of searching the likeliest")
    temperature: float = Field(default=1.0, gt=0, description="of sampling")
    top_p: float = Field(default=1.0, gt=0, le=1, description="share of the probability that is drawn from")

    @field_validator("prompt")
    @classmethod
    def _known_placeholders(cls, prompt: str) -> str:
        for _, name, form, conversion in string.Formatter().parse(prompt):
            if name not in (None, "tags"):
                raise ValueError(f"unknown placeholder {{{name}}}; known: {{tags}}. Write {{{{ for a plain brace")
            if form or conversion:
                raise ValueError("a placeholder takes no format; write {tags}")
        return prompt

    @model_validator(mode="after")
    def _sampling_is_asked_for(self) -> Self:
        if not self.do_sample and (self.temperature, self.top_p) != (1.0, 1.0):
            raise ValueError("temperature and top_p change nothing without do_sample=true")
        return self

    @property
    def names_tags(self) -> bool:
        """Whether the prompt has a place for tags."""
        return any(name == "tags" for _, name, _, _ in string.Formatter().parse(self.prompt))

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The model's files, hashed. Raises UsageError if they are not all there."""
        return open_checkpoint(self.model, self.revision)

    def weights(self) -> Weights:
        """Of the safetensors files alone."""
        return Weights("pretrained", self.checkpoint.source, self.checkpoint.weights_digest)

    def identity(self) -> dict[str, Any]:
        """The content of every file the model is made from, in place of its name, and what computes with it."""
        chosen = self.model_dump(mode="json", exclude={"model", "revision"})
        libraries = library_versions("torch", "torchvision", "transformers", "tokenizers")
        return {**chosen, "files": dict(self.checkpoint.files), "libraries": libraries}
