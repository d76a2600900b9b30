"""InstructBLIP, Dai et al., NeurIPS 2023 (arXiv 2305.06500), made and loaded by transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from PIL import Image
from safetensors import safe_open
from transformers import InstructBlipForConditionalGeneration, InstructBlipProcessor

from urbancross_bench.errors import DataError, UsageError
from urbancross_bench.interfaces import Captioner, Subject
from urbancross_bench.modelling.formats import deviation_of_pixels, expect_scaled, mean_of_pixels
from urbancross_captioners.checkpoint import Checkpoint
from urbancross_captioners.options import InstructBlipOptions

_Processor: Any = InstructBlipProcessor  # what transformers declares of them is less than they have
_Model: Any = InstructBlipForConditionalGeneration

# Buffers that older versions of transformers saved and newer ones compute; no weights are lost with them.
_COMPUTED = ("position_ids", "rotary_emb.inv_freq")


class InstructBlip(Captioner):
    """Captions by a frozen InstructBLIP from pixels and a prompt that names the tags.

    A batch is generated together. Padding is masked, but sums of floating point depend on a batch's shape; so the
    harness fixes which images make a batch.
    """

    options_type = InstructBlipOptions

    def load(self, device: str) -> None:
        """Raises UsageError for files that are damaged, or do not fit together."""
        options = cast(InstructBlipOptions, self.options)
        folder = str(options.checkpoint.folder)
        try:
            self._processor = _Processor.from_pretrained(folder, local_files_only=True)
            model, found = _Model.from_pretrained(
                folder,
                dtype=getattr(torch, options.precision),
                local_files_only=True,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # they are told below, by name
                output_loading_info=True,
            )
        except Exception as error:  # a damaged file trips json, tokenizers, safetensors or transformers itself
            raise UsageError(f"captioner 'instructblip' cannot load {folder}: {error}") from error
        _expect_all_weights(found, folder)
        _expect_numbers(model, options.checkpoint)
        _expect_fit(self._processor, model.config, folder)
        _expect_pictures(self._processor.image_processor, model.config.vision_config.image_size, folder)
        self._writes_prompt = not model.config.text_config.is_encoder_decoder
        self._longest_prompt = int(model.config.qformer_config.max_position_embeddings)
        # Where padding moves no position that a model sees: a decoder goes on from the prompt's last token and
        # counts masked tokens out; an encoder with relative positions does not, nor does the Q-Former.
        self._processor.tokenizer.padding_side = "left" if self._writes_prompt else "right"
        self._processor.qformer_tokenizer.padding_side = "right"
        self._model = model.eval().to(device)

    @torch.inference_mode()
    def describe(self, subjects: Sequence[Subject]) -> list[str]:
        """Raises DataError for an image without tags, if the prompt names them, and for too many of them."""
        options = cast(InstructBlipOptions, self.options)
        inputs = self._processor(
            images=[_picture(subject) for subject in subjects],
            text=[self._prompt(subject) for subject in subjects],
            padding=True,
            return_tensors="pt",
        ).to(self._model.device, self._model.dtype)
        # Without a word on top_k, transformers draws from the fifty likeliest.
        sampling = {"temperature": options.temperature, "top_p": options.top_p, "top_k": 0}
        tokens = self._model.generate(
            **inputs,
            max_new_tokens=options.max_new_tokens,
            num_beams=options.num_beams,
            repetition_penalty=options.repetition_penalty,
            do_sample=options.do_sample,
            pad_token_id=self._processor.tokenizer.pad_token_id,
            **(sampling if options.do_sample else {}),
        )
        if self._writes_prompt:
            tokens = tokens[:, inputs["input_ids"].shape[1] :]
        texts: list[str] = self._processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return texts

    def _prompt(self, subject: Subject) -> str:
        options = cast(InstructBlipOptions, self.options)
        if options.names_tags and not subject.tags:
            raise DataError(
                f"image {subject.name!r} has no tags, which the prompt names; give one without {{tags}}"
            )
        text = options.prompt.format(tags=subject.tags)
        if self._processor.image_token.content in text:
            raise DataError(f"image {subject.name!r}: its prompt holds the token that stands for the image")
        length = len(self._processor.qformer_tokenizer(text)["input_ids"])
        if length > self._longest_prompt:
            raise DataError(
                f"image {subject.name!r}: its prompt has {length} tokens, and the Q-Former takes "
                f"{self._longest_prompt}"
            )
        return text


def _picture(subject: Subject) -> Image.Image:
    assert subject.pixels is not None
    return Image.fromarray(subject.pixels)


def _expect_all_weights(found: dict[str, Any], folder: str) -> None:
    """transformers would draw what is missing at random, and only warn."""
    surplus = [name for name in found["unexpected_keys"] if not name.endswith(_COMPUTED)]
    for what, names in (
        ("lack", found["missing_keys"]),
        ("hold surplus", surplus),
        ("have another shape for", [name for name, *_ in found["mismatched_keys"]]),
    ):
        if names:
            raise UsageError(
                f"captioner 'instructblip': the weights in {folder} {what} {len(names)} tensors, "
                f"{min(names)} the first"
            )


def _expect_numbers(model: Any, checkpoint: Checkpoint) -> None:
    """transformers would take integers for the numbers that they stand for, and anything for weights."""
    names = dict(model.named_parameters())
    for shard in checkpoint.shards:
        with safe_open(checkpoint.folder / shard, framework="pt") as file:
            for name in names.keys() & set(file.keys()):
                dtype = file.get_slice(name).get_dtype()
                if dtype not in ("F64", "F32", "F16", "BF16"):
                    raise UsageError(
                        f"captioner 'instructblip': {name} in {checkpoint.folder / shard} is of {dtype}; save the "
                        "weights as float32, not quantised"
                    )
    for name, value in names.items():
        if not value.isfinite().all():
            raise UsageError(
                f"captioner 'instructblip': {name} in {checkpoint.folder} has values that are no numbers, or "
                "too large for the precision; such weights are damaged: take others"
            )


def _expect_pictures(processor: Any, side: int, folder: str) -> None:
    """Images come to the vision tower as it takes them."""
    where = f"captioner 'instructblip': the image processor in {folder}:"
    size = processor.size["height"], processor.size["width"]
    if not processor.do_resize or size != (side, side):
        raise UsageError(f"{where} images become {dict(processor.size)}, and the model takes {side}×{side}")
    expect_scaled(vars(processor), where)
    if processor.do_normalize:
        mean_of_pixels(processor.image_mean, f"{where} image_mean")
        deviation_of_pixels(processor.image_std, f"{where} image_std")


def _expect_fit(processor: Any, config: Any, folder: str) -> None:
    """The processor puts as many image tokens before a prompt as the model fills, and calls them the same."""
    tokenizer = processor.tokenizer
    token = tokenizer.convert_tokens_to_ids(processor.image_token.content)
    facts = {
        "num_query_tokens": (processor.num_query_tokens, config.num_query_tokens),
        "image_token_index": (token, config.image_token_index),
    }
    for name, (here, there) in facts.items():
        if here != there:
            raise UsageError(
                f"captioner 'instructblip': in {folder} the processor has {name} {here}, the model's config.json "
                f"{there}; take both from the same revision"
            )
    if tokenizer.pad_token_id is None:
        raise UsageError(f"captioner 'instructblip': the tokenizer in {folder} has no padding token")
    vocabulary = config.text_config.vocab_size
    if len(tokenizer) > vocabulary:
        raise UsageError(
            f"captioner 'instructblip': the tokenizer in {folder} has {len(tokenizer)} tokens, the language model "
            f"{vocabulary}"
        )
