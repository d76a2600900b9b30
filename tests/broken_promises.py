"""Which promises of the conformance kit a plugin breaks."""

from __future__ import annotations

from pathlib import Path
from unittest import SkipTest

import urbancross_bench.testing as kit
from urbancross_bench.errors import PluginError

ZOO = Path(__file__).parent / "zoo"


def broken_promises(kind: str, name: str, *, only: str = "test_", **members: object) -> dict[str, str]:
    """Those that a plugin of a file breaks, of names that begin as `only`, with the reasons, in this process."""
    base = getattr(kit, f"{kind.capitalize()}Conformance")
    cls = type("Checked", (base,), {"plugin": name, "files": (ZOO / f"{name}.py",), **members})
    found = {}
    for promise in [one for one in dir(cls) if one.startswith(only) and callable(getattr(cls, one))]:
        try:
            getattr(cls(), promise)()
        except SkipTest:
            continue
        except (AssertionError, PluginError) as reason:
            found[promise] = str(reason)
    return found
