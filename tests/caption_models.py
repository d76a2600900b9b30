"""Random InstructBLIPs of some hundred kilobytes, whole: every file that the real loaders read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_TEXT = (
    "please give a comprehensive and detailed description of the satellite image its geographical tags : , ; . "
    "surrounded by natural water wood leisure park road footway waterway river man made bridge landuse residential"
)
WORDS = [*dict.fromkeys(_TEXT.split())]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>", "</s>", "<image>"]
QUERIES = 4


def write_instructblip(folder: Path, *, language: str = "t5", seed: int = 0, **save: Any) -> Path:
    """A model with a T5 (an encoder and a decoder) or a Llama (a decoder alone) as its language model."""
    import torch
    from transformers import InstructBlipConfig, InstructBlipForConditionalGeneration

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vocabulary = len(SPECIAL) + len(WORDS)
    if language == "t5":
        text: dict[str, Any] = {"model_type": "t5", "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1}
        text |= {"num_heads": 2, "decoder_start_token_id": 0, "eos_token_id": 6, "pad_token_id": 0}
    else:
        text = {"model_type": "llama", **sizes, "bos_token_id": 5, "eos_token_id": 6, "pad_token_id": 0}
    torch.manual_seed(seed)
    config = InstructBlipConfig(
        vision_config={**sizes, "image_size": 16, "patch_size": 8},
        qformer_config={
            **sizes,
            "vocab_size": vocabulary,
            "encoder_hidden_size": 16,
            "max_position_embeddings": 64,
        },
        text_config={**text, "vocab_size": vocabulary},
        num_query_tokens=QUERIES,
        image_token_index=SPECIAL.index("<image>"),
    )
    model = InstructBlipForConditionalGeneration(config)
    for parameter in model.parameters():  # with the usual small weights all captions would be alike
        torch.nn.init.normal_(parameter, std=0.6)
    model.save_pretrained(folder, **save)
    _processor().save_pretrained(folder)
    return folder


def _processor() -> Any:
    from transformers import BlipImageProcessor, InstructBlipProcessor

    return InstructBlipProcessor(
        BlipImageProcessor(size={"height": 16, "width": 16}), _tokenizer(), _tokenizer(), num_query_tokens=QUERIES
    )


def _tokenizer() -> Any:
    """A word a token."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WORDS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "bos_token": "<s>", "eos_token": "</s>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, **special)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    return tokenizer
