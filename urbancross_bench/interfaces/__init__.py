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
from urbancross_bench.interfaces.column import Column
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
from urbancross_bench.interfaces.evidence import (
    Evidence,
    Hit,
    Item,
    ShownDomain,
    ShownQuery,
    ShownRun,
    TopList,
)
from urbancross_bench.interfaces.executor import Event, Executor, Task
from urbancross_bench.interfaces.metric import PERCENT, Metric, QueryScores
from urbancross_bench.interfaces.options import CalibrationOptions, Options
from urbancross_bench.interfaces.registration import API_VERSION, Registration, hookimpl, register
from urbancross_bench.interfaces.renderer import Board, Cell, Estimate, Renderer, Table
from urbancross_bench.interfaces.segmenter import Mask, Segmenter, SegmenterOptions
from urbancross_bench.interfaces.selector import Candidate, Features, Selector, UnpairedFeatures
from urbancross_bench.interfaces.settings import SETTINGS, Access
from urbancross_bench.interfaces.tracker import Scores, Tracker
from urbancross_bench.interfaces.weights import Weights

__all__ = [
    "API_VERSION",
    "PERCENT",
    "SETTINGS",
    "SPLITS",
    "Access",
    "Adaptation",
    "Batch",
    "Board",
    "Calibrated",
    "CalibrationOptions",
    "Candidate",
    "Captioner",
    "CaptionerOptions",
    "Cell",
    "Column",
    "Context",
    "Dataset",
    "Domain",
    "DualEncoder",
    "Encoder",
    "EncoderOptions",
    "Estimate",
    "Event",
    "Evidence",
    "Executor",
    "Features",
    "Hit",
    "ImageFormat",
    "ImageSource",
    "Item",
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
    "ShownDomain",
    "ShownQuery",
    "ShownRun",
    "Subject",
    "Table",
    "Task",
    "TopList",
    "Tracker",
    "UnpairedFeatures",
    "Weights",
    "hookimpl",
    "index_splits",
    "register",
]
