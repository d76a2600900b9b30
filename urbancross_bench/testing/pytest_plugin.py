"""What pytest gets from the kit (entry point `pytest11`): fixtures for tests of plugins. Imports nothing heavy.

The promises themselves need no pytest: a class that inherits them is collected like any other.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def tiny_domain(tmp_path: Path) -> str:
    """The reference of a domain of 24 tiles on disk, with all three splits: `karpathy[file=…]`."""
    from urbancross_bench.testing.fixtures.domains import write_tiny_domain

    return f"karpathy[file={write_tiny_domain(tmp_path / 'tiny_domain')}]"


@pytest.fixture
def tiny_encoder() -> Any:
    """A dual encoder of some thousand weights, as `Encoder.load` gives one."""
    import torch

    from urbancross_bench.testing.fixtures.model import TinyDualEncoder

    torch.manual_seed(0)
    return TinyDualEncoder()


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP as transformers saves one: a folder for `transformers[checkpoint=…]`."""
    from urbancross_bench.testing.fixtures.clip import write_tiny_clip

    folder = tmp_path_factory.mktemp("tiny_clip")
    write_tiny_clip(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_sam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Segment Anything as transformers saves one: a folder for `sam[checkpoint=…]`."""
    from urbancross_bench.testing.fixtures.sam import write_tiny_sam

    return write_tiny_sam(tmp_path_factory.mktemp("tiny_sam"))


@pytest.fixture(scope="session")
def tiny_instructblip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random InstructBLIP, whole: a folder for `instructblip[model=…]`."""
    from urbancross_bench.testing.fixtures.instructblip import write_instructblip

    return write_instructblip(tmp_path_factory.mktemp("tiny_instructblip"))
