"""The files of a model as `save_pretrained` leaves them: found without a network, checked, hashed. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from urbancross_bench.data.readers import data_path, relative_start
from urbancross_bench.errors import UsageError
from urbancross_bench.identity import file_digest, key_of
from urbancross_bench.modelling.formats import read_config, weight_map

TYPE = "instructblip"
_READ = (".json", ".jinja", ".model", ".safetensors", ".txt")  # what the loaders may open: no pickle, no code
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_TOKENIZERS = ("", "qformer_tokenizer")  # folders


@dataclass(frozen=True)
class Checkpoint:
    """A folder with a whole model. `files`: relative name → SHA-256 of all that loading may read."""

    folder: Path
    source: str
    files: Mapping[str, str]
    shards: tuple[str, ...]

    @property
    def weights_digest(self) -> str:
        """SHA-256 of the weights file; of several, a hash of their names and hashes."""
        if len(self.shards) == 1:
            return self.files[self.shards[0]]
        return key_of({name: self.files[name] for name in self.shards})


def open_checkpoint(model: str, revision: str | None) -> Checkpoint:
    """The files of an InstructBLIP. Raises UsageError naming what is missing, and what to do."""
    folder, source = _found(model, revision)
    shards = _shards(folder)
    config = read_config(folder / "config.json")
    if config.get("model_type") != TYPE:
        raise UsageError(f"{_TITLE}: {folder} holds a model of type {config.get('model_type')!r}, not {TYPE!r}")
    _expect_processor(folder)
    places = [folder / name for name in _TOKENIZERS]
    read = sorted(p for place in places for p in place.iterdir() if p.suffix in _READ and p.is_file())
    unused = {*folder.glob("*.safetensors")} - {folder / name for name in shards}
    files = {p.relative_to(folder).as_posix(): file_digest(p) for p in read if p not in unused}
    return Checkpoint(folder, source, files, shards)


_TITLE = "captioner 'instructblip'"


def _found(model: str, revision: str | None) -> tuple[Path, str]:
    """The folder, and what to call it."""
    local = data_path(model)
    if local.is_dir():
        if revision is not None:
            raise UsageError(f"{_TITLE}: {local} is a folder; revision goes with a name on the hub")
        return local, local.name
    if model.startswith((".", "/", "~")) or model.count("/") != 1:
        raise UsageError(f"{_TITLE}: there is no folder {local} ({relative_start()})")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        # Nothing is ever fetched here: a download of many gigabytes is the user's to start.
        folder = Path(snapshot_download(model, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError, OSError) as error:
        named = f"{model} --revision {revision}" if revision else model
        raise UsageError(
            f"{_TITLE}: {model!r} is neither a folder below {local.parent} nor in the cache of the Hugging Face "
            f"hub; nothing is downloaded from here. Run `hf download {named}` first"
        ) from error
    return folder, f"hub:{model}@{folder.name}"


def _shards(folder: Path) -> tuple[str, ...]:
    """The names of the weights files."""
    if (folder / _SINGLE).is_file():
        return (_SINGLE,)
    if (folder / _INDEX).is_file():
        shards = tuple(sorted(set(weight_map(folder / _INDEX).values())))
        if absent := [name for name in shards if not (folder / name).is_file()]:
            raise UsageError(f"{_TITLE}: weights file {folder / absent[0]} is missing")
        return shards
    pickles = sorted(folder.glob("*.bin")) + sorted(folder.glob("*.pt")) + sorted(folder.glob("*.pth"))
    if pickles:
        raise UsageError(
            f"{_TITLE}: {folder} holds its weights as pickle alone ({pickles[0].name}), which can run code when "
            "it is opened; convert them with save_pretrained to safetensors"
        )
    raise UsageError(f"{_TITLE}: {folder} holds no weights; looked for {_SINGLE} and {_INDEX}")


def _expect_processor(folder: Path) -> None:
    """Images and both tokenizers have their files."""
    if not any((folder / name).is_file() for name in ("processor_config.json", "preprocessor_config.json")):
        raise UsageError(f"{_TITLE}: {folder} holds no processor_config.json and no preprocessor_config.json")
    for place in (folder / name for name in _TOKENIZERS):
        if not any(
            (place / n).is_file() for n in ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.txt")
        ):
            raise UsageError(f"{_TITLE}: {place} holds no tokenizer (tokenizer.json, a .model or a vocab.txt)")
