"""Where dashboards write."""

from __future__ import annotations

import tempfile
from pathlib import Path

from urbancross_bench.errors import UsageError


def writable(folder: Path) -> Path:
    """The folder, made where it was not there. Raises UsageError where nothing can be written in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"nothing can be written to {folder}: {error}; name another by folder=…") from error
    return folder
