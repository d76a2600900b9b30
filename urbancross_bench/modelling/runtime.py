"""The state of torch that results depend on: threads, determinism, seeds, precision."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import functools
import os
import sys
from contextlib import AbstractContextManager
from typing import TypeVar, cast

import torch
from threadpoolctl import ThreadpoolController
from torch import nn

from urbancross_bench.errors import UsageError
from urbancross_bench.interfaces.encoder import DualEncoder
from urbancross_bench.modelling.attention import join_products

M = TypeVar("M", bound=DualEncoder)


def configure(threads: int, seed: int) -> None:
    """Make this process give the same numbers every time: set before any model is built."""
    # cuBLAS is deterministic only with a fixed workspace; the variable is read at its first use.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    set_threads(threads)
    torch.use_deterministic_algorithms(True)
    # Else every new tensor is first filled with NaN, lest anyone read what was never written: nobody here does.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(seed)
    keep_freed_memory()


def set_threads(threads: int) -> None:
    """Threads of torch and of numpy's products.

    Left to itself, numpy takes one per core in every process; beside other processes these wait for each other in
    loops, and a system of 500 equations takes ten times as long.
    """
    torch.set_num_threads(threads)
    products().limit(limits=threads, user_api="blas")


def products() -> ThreadpoolController:
    """The libraries of products, looked for once, in the process this was forked from too: to look takes 20 ms."""
    return _products("scipy.linalg" in sys.modules)


@functools.cache
def _products(scipy: bool) -> ThreadpoolController:
    """Anew where scipy is used since, which brings its own."""
    return ThreadpoolController()


def reset() -> None:
    """Undo what a plugin may have changed for the whole process, before the next stage is carried out in it."""
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_grad_enabled(True)


def keep_freed_memory() -> None:
    """Let the C library keep large blocks that were freed, for the next batch of the same size.

    By default glibc gives each of them back, and the system clears every page anew when it is next asked for one:
    most of the time of preparing a batch on a CPU. Nothing happens with other C libraries.
    """
    largest, mmap_max, trim_threshold, top_pad = 2**31 - 1, -4, -1, -2
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, largest)
        mallopt(top_pad, 64 * 2**20)


def autocast(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The context of a forward pass in `float32`, `bfloat16` or `float16`."""
    return torch.autocast(device.type, getattr(torch, precision), enabled=precision != "float32")


def lowered(model: M, precision: str) -> M:
    """The model itself in `float32`; in `bfloat16` a copy with such weights, for inference under `autocast`.

    With weights in float32, autocast rounds them anew for each batch, which on a CPU takes as long as using them.
    """
    if precision != "bfloat16":
        return model
    model = copy.deepcopy(model).to(torch.bfloat16)
    join_products(cast(nn.Module, model))
    return model


def resolve_device(name: str) -> torch.device:
    """`auto` is the first CUDA device if there is one, else the CPU. Raises UsageError for what is not there."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"there is no device {name!r}; known: auto, cpu, cuda, cuda:N") from None
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type not in ("cpu", "cuda") or (device.type == "cuda" and (device.index or 0) >= count):
        raise UsageError(f"device {name!r} is not on this machine, which has the CPU and {count} CUDA devices")
    return device
