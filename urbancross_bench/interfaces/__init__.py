"""What a plugin author imports. Nothing here imports torch."""

from urbancross_bench.interfaces.adaptation import (
    Adaptation,
    Batch,
    Calibrated,
    Context,
    Pool,
    Progress,
)
from urbancross_bench.interfaces.captioner import Captioner, CaptionerOptions, Subject
from urbancross_bench.interfaces.dataset import (
    SPLITS,
    Dataset,
    Domain,
    ImageSource,
    Repair,
    Segments,
    index_splits,
)
from urbancross_bench.interfaces.encoder import (
    DualEncoder,
    Encoder,
    EncoderOptions,
    ImageFormat,
    SegmentEncoder,
    SegmentUse,
)
from urbancross_bench.interfaces.executor import Event, Executor, Task
from urbancross_bench.interfaces.metric import Metric, QueryScores
from urbancross_bench.interfaces.options import CalibrationOptions, Options
from urbancross_bench.interfaces.registration import Registration, hookimpl, register
from urbancross_bench.interfaces.renderer import Cell, Estimate, Renderer, Table
from urbancross_bench.interfaces.segmenter import Mask, Segmenter, SegmenterOptions
from urbancross_bench.interfaces.selector import Candidate, Features, Selector, UnpairedFeatures
from urbancross_bench.interfaces.settings import SETTINGS, Access
from urbancross_bench.interfaces.tracker import Scores, Tracker
from urbancross_bench.interfaces.weights import Weights

__all__ = [
    "SETTINGS",
    "SPLITS",
    "Access",
    "Adaptation",
    "Batch",
    "Calibrated",
    "CalibrationOptions",
    "Candidate",
    "Captioner",
    "CaptionerOptions",
    "Cell",
    "Context",
    "Dataset",
    "Domain",
    "DualEncoder",
    "Encoder",
    "EncoderOptions",
    "Estimate",
    "Event",
    "Executor",
    "Features",
    "ImageFormat",
    "ImageSource",
    "Mask",
    "Metric",
    "Options",
    "Pool",
    "Progress",
    "QueryScores",
    "Registration",
    "Renderer",
    "Repair",
    "Scores",
    "SegmentEncoder",
    "SegmentUse",
    "Segmenter",
    "SegmenterOptions",
    "Segments",
    "Selector",
    "Subject",
    "Table",
    "Task",
    "Tracker",
    "UnpairedFeatures",
    "Weights",
    "hookimpl",
    "index_splits",
    "register",
]
