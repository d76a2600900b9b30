"""The conformance kit: what a plugin of each kind promises, as tests for its author. Light to import.

A test of a plugin is a class of three lines:

    from urbancross_bench.testing import AdaptationConformance

    class TestMine(AdaptationConformance):
        plugin = "mine"
        options = {"weight": 0.5}

pytest collects what it inherits. `urbancross-bench plugins check` runs the same without pytest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from urbancross_bench.testing.adaptation import AdaptationConformance as AdaptationConformance
    from urbancross_bench.testing.captioner import CaptionerConformance as CaptionerConformance
    from urbancross_bench.testing.column import ColumnConformance as ColumnConformance
    from urbancross_bench.testing.command import CommandConformance as CommandConformance
    from urbancross_bench.testing.conformance import Conformance as Conformance
    from urbancross_bench.testing.dataset import DatasetConformance as DatasetConformance
    from urbancross_bench.testing.encoder import EncoderConformance as EncoderConformance
    from urbancross_bench.testing.executor import ExecutorConformance as ExecutorConformance
    from urbancross_bench.testing.metric import MetricConformance as MetricConformance
    from urbancross_bench.testing.renderer import RendererConformance as RendererConformance
    from urbancross_bench.testing.segmenter import SegmenterConformance as SegmenterConformance
    from urbancross_bench.testing.selector import SelectorConformance as SelectorConformance
    from urbancross_bench.testing.tracker import TrackerConformance as TrackerConformance

# Kind → the module with its promises, and the class in it.
KINDS = {
    kind: (f"{__name__}.{kind}", f"{kind.capitalize()}Conformance")
    for kind in (
        "adaptation",
        "captioner",
        "column",
        "command",
        "dataset",
        "encoder",
        "executor",
        "metric",
        "renderer",
        "segmenter",
        "selector",
        "tracker",
    )
}
_PLACES = {name: module for module, name in KINDS.values()} | {"Conformance": f"{__name__}.conformance"}
__all__ = ["KINDS", *sorted(_PLACES)]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
