"""A training on disk, so that it goes on where it was cut: weights, optimiser, the method's own, draws, curve.

Safetensors and JSON. Whatever is written is written beside its place and renamed into it, so a state is whole or
not there. It holds hashes of its files, and of the checkpoints that were left before it: what has changed since is
not believed.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from urbancross_bench.errors import RunError
from urbancross_bench.files import publish
from urbancross_bench.identity import file_digest

_HASHES = "hashes.json"  # of a state: SHA-256 by name below the folder of the training
_DAMAGED = (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError, TypeError, AttributeError)


class Saves:
    """The last saved state of one training, in a folder of its own, and the checkpoints it has left so far.

    seconds: how long a step has to be from the last save for it to be saved, too; 0 saves each.
    writes: False for a process that only reads, beside one that writes.
    """

    def __init__(self, folder: Path, seconds: float, *, writes: bool = True) -> None:
        self.folder = folder
        self._seconds = seconds
        self._writes = writes
        self._saved = time.monotonic()
        self._candidates: dict[str, str] = {}  # SHA-256 of those that were left so far, by name
        folder.mkdir(parents=True, exist_ok=True)
        # Of a process that was killed as it wrote, or of a training that failed.
        for leftover in [*folder.glob(".*"), *folder.glob("*.json")] if writes else ():
            _remove(leftover)

    def read(self) -> dict[str, Any] | None:
        """What `offer` wrote last, if that and all checkpoints left before it are as they were written.

        Otherwise the one before, if there still is one; None where there is none. What is damaged is removed.
        """
        for folder in reversed(self._states()):
            hashes, problem = self._checked(folder)
            if not problem:
                self._candidates = {name: hash for name, hash in hashes.items() if "/" not in name}
                tensors = load_file(folder / "state.safetensors")
                content = json.loads((folder / "state.json").read_text(encoding="utf-8"))
                state: dict[str, Any] = _put_together(content, tensors)
                return state
            if self._writes:
                print(
                    f"saved training {folder} is damaged ({problem}) and was removed; "
                    "it goes on from what was saved before, or from its start"
                )
                shutil.rmtree(folder, ignore_errors=True)
        return None

    def _checked(self, state: Path) -> tuple[dict[str, str], str]:
        """The hashes of a state, and what of it is not as it was written; empty if all is well."""
        try:
            hashes: dict[str, str] = json.loads((state / _HASHES).read_text(encoding="utf-8"))
            for name, written in hashes.items():
                if file_digest(self.folder / name) != written:
                    return hashes, f"{name} has changed"
        except _DAMAGED as error:
            return {}, f"{_HASHES} or a file it names: {error or type(error).__name__}"
        except OSError as error:
            raise RunError(f"saved training {state} cannot be read, and was left as it is: {error}") from error
        return hashes, ""

    def offer(self, step: int, state: Callable[[], Mapping[str, Any]]) -> None:
        """Write what `state` gives, as it is after a step, if it is time to."""
        if not self._writes or time.monotonic() - self._saved < self._seconds:
            return
        tensors: dict[str, Tensor] = {}
        content = _taken_apart(state(), tensors)
        older, name = self._states(), f"state-{step:09d}"
        with self.writing(name) as folder:
            folder.mkdir()
            save_file(tensors, folder / "state.safetensors")
            (folder / "state.json").write_text(json.dumps(content), encoding="utf-8")
            _readable(folder / "state.safetensors")
            hashes = {f"{name}/{file.name}": file_digest(file) for file in sorted(folder.iterdir())}
            (folder / _HASHES).write_text(json.dumps(hashes | self._candidates), encoding="utf-8")
        for folder in older:
            _remove(folder)
        self._saved = time.monotonic()

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A place to write to; in the end it becomes that of `name`, in this folder, in one step."""
        beside = self.folder / f".{name}"
        yield beside
        if beside.is_file():
            _readable(beside)
            self._candidates[name] = file_digest(beside)
        publish(beside, self.folder / name)

    def _states(self) -> list[Path]:
        return sorted(self.folder.glob("state-*"))


def module_state(module: nn.Module) -> dict[str, Any]:
    """What of a module is saved: its tensors, which of them learn, and which of its parts are in training mode."""
    tensors = module.state_dict()
    return {
        "tensors": tensors,
        "more": {name: buffer for name, buffer in module.named_buffers() if name not in tensors},
        "learning": [name for name, parameter in module.named_parameters() if parameter.requires_grad],
        "training": [name for name, part in module.named_modules() if part.training],
    }


def restore_module(module: nn.Module, state: Mapping[str, Any]) -> None:
    """Give a module back what `module_state` took of it."""
    module.load_state_dict(state["tensors"])
    buffers = dict(module.named_buffers())
    for name, value in state["more"].items():
        there = buffers.get(name)  # what grows with what it is asked for is made again
        if there is not None and there.shape == value.shape and not same_bits(there, value):
            there.copy_(value)
    learning, training = set(state["learning"]), set(state["training"])
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name in learning)
    for name, part in module.named_modules():
        part.training = name in training


def same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two dense tensors of a shape and type are the same, signs of noughts and all."""
    return torch.equal(raw_bytes(one), raw_bytes(other))


def raw_bytes(value: Tensor) -> Tensor:
    """(N,) uint8: the numbers of a dense tensor in their order, on the CPU. numpy has no bfloat16."""
    return value.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Where torch's global generators stand."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Put torch's global generators where they stood."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


def _taken_apart(value: Any, tensors: dict[str, Tensor]) -> Any:
    """`value` as JSON, its tensors put into `tensors` and named in their places."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        # Copied once, from wherever it is: safetensors takes no shared memory.
        tensors[name] = value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(value, np.ndarray | np.generic):
        # As bytes: torch lacks some of numpy's types.
        flat = torch.frombuffer(bytearray(value.tobytes()), dtype=torch.uint8) if value.size else torch.empty(0)
        kind = "array" if isinstance(value, np.ndarray) else "number"
        return {kind: [value.dtype.str, value.shape, _taken_apart(flat, tensors)["tensor"]]}
    if isinstance(value, Mapping):
        return {"pairs": [[key, _taken_apart(part, tensors)] for key, part in value.items()]}
    if isinstance(value, list | tuple | deque):
        kind = "tuple" if isinstance(value, tuple) else "items"
        parts = {kind: [_taken_apart(part, tensors) for part in value]}
        return parts | {"longest": value.maxlen} if isinstance(value, deque) else parts
    return value


def _put_together(content: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(content, dict):
        return content
    if "tensor" in content:
        return tensors[content["tensor"]]
    if "pairs" in content:
        return {key: _put_together(part, tensors) for key, part in content["pairs"]}
    for kind in ("array", "number"):
        if kind in content:
            dtype, shape, name = content[kind]
            array = np.frombuffer(bytearray(tensors[name].numpy().tobytes()), dtype=dtype).reshape(shape)
            return array if kind == "array" else array[()]
    if "tuple" in content:
        return tuple(_put_together(part, tensors) for part in content["tuple"])
    parts = [_put_together(part, tensors) for part in content["items"]]
    return deque(parts, content["longest"]) if "longest" in content else parts


def _readable(file: Path) -> None:
    """safetensors lets nobody else read its files, whatever the umask that made the folder says."""
    file.chmod(file.parent.stat().st_mode & 0o666)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
