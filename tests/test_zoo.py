"""Hostile plugins: what the conformance kit says of each, and what becomes of a grid that uses it.

`docs/conformance.md` has the same table in words, and SECURITY.md where containment ends.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import SkipTest

import numpy as np
import pytest
from conftest import Outcome, Result, made_once, outcome_of, write_domains, write_grid

import urbancross_bench.testing as kit
from urbancross_bench.errors import PluginError
from urbancross_bench.evaluation import evaluate_retrieval
from urbancross_bench.execution.scoring import metric_values
from urbancross_bench.records import read_records
from urbancross_bench.registry import Registry
from urbancross_bench.testing.fixtures.domains import write_tiny_domain
from urbancross_bench.testing.runner import Subject, keep

ZOO = Path(__file__).parent / "zoo"


OTHERS = (
    "import_error",
    "missing_dependency",
    "wrong_signature",
    "misspelt_hook",
    "duplicate_name",
    "heavy_import",
)


@dataclass(frozen=True)
class Beast:
    """A hostile adaptation. kit: the promise it breaks, and a word of why. run: how its cell of a grid ends."""

    kit: tuple[str, str]
    run: tuple[str, str]


ADAPTATIONS = {
    "changes_seed": Beast(("test_it_leaves_no_trace", "the seed of torch"), ("ok", "")),
    "patches_torch": Beast(("test_it_leaves_no_trace", "torch.nn.functional.normalize"), ("ok", "")),
    "draws_unseeded": Beast(("test_it_repeats", "draw from torch's generators"), ("ok", "")),
    "reads_hidden_captions": Beast(
        ("test_it_asks_for_what_it_may_see", "captions are not shown"), ("failed", "captions are not shown here")
    ),
    "walks_to_pairs": Beast(("test_hidden_data_changes_nothing", "what its setting hides"), ("ok", "")),
    "reads_files": Beast(("test_it_opens_nothing", "dataset.json"), ("ok", "")),
    "writes_to_stdout": Beast(("test_it_prints_nothing", "step 0"), ("ok", "")),
    "leaks_memory": Beast(("test_it_keeps_nothing", "bytes more"), ("ok", "")),
    "never_returns": Beast(("test_it_works", "did not return"), ("timeout", "the time limit")),
    "ends_the_process": Beast(("", ""), ("failed", "its process ended before it did")),
}  # fmt: skip


def test_the_table_is_whole() -> None:
    assert {file.stem for file in ZOO.glob("*.py")} == {*ADAPTATIONS, *OTHERS}
    page = (ZOO.parent.parent / "docs" / "conformance.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in {*ADAPTATIONS, *OTHERS})


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


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", [name for name, beast in ADAPTATIONS.items() if beast.kit[0]])
def test_the_kit_catches_it(name: str) -> None:
    promise, words = ADAPTATIONS[name].kit
    found = broken_promises("adaptation", name, **({"patience": 0.5} if name == "never_returns" else {}))
    assert words in found[promise]
    also = {"test_it_works"} if name == "reads_hidden_captions" else set()
    if name in ("draws_unseeded", "changes_seed"):  # a kill shows it too
        also |= {"test_it_goes_on_after_a_kill", "test_hidden_data_changes_nothing", "test_it_leaves_no_trace"}
    if name == "patches_torch":  # and what follows is done with what it left
        also |= {"test_it_repeats", "test_hidden_data_changes_nothing", "test_it_goes_on_after_a_kill"}
    if name == "walks_to_pairs":  # there is another number of splits to be found after one
        also |= {"test_it_goes_on_after_a_kill", "test_it_repeats"}
    assert found.keys() <= {promise, *also}


def test_a_plugin_that_ends_its_process_is_reported(tmp_path: Path) -> None:
    subject = Subject("adaptation", "ends_the_process", {}, None, (str(ZOO / "ends_the_process.py"),))
    told = {one.promise: one for one in keep(subject, 30.0)}
    assert told["test_it_is_there"].outcome == "kept"
    assert told["test_it_works"].why == "its process ended (exit status 0)"
    assert [one.promise for one in told.values() if one.outcome == "skipped" and "2 processes" in one.why]


def test_what_starts_processes_is_tried_too() -> None:
    told = list(keep(Subject("executor", "local", {}, None, ()), 60.0))
    assert [(one.promise, one.why) for one in told if one.outcome == "broken"] == []
    assert "test_it_works" in {one.promise for one in told if one.outcome == "kept"}


@pytest.mark.usefixtures("one_thread")
def test_the_kit_catches_metrics() -> None:
    found = broken_promises("metric", "wrong_signature")
    assert "Mine.score must take (self, ranking)" in found["test_it_is_of_its_kind"]
    found = broken_promises("metric", "missing_dependency")
    assert "a_package_that_is_not_there" in found["test_it_is_of_its_kind"]
    cls = type("Checked", (kit.MetricConformance,), {"plugin": "recall", "files": (ZOO / "duplicate_name.py",)})
    with pytest.raises(PluginError, match=r"provided more than once.*duplicate_name"):
        cls().test_it_is_there()
    for name, words in (("import_error", "this module is not well"), ("misspelt_hook", "register_metric")):
        with pytest.raises(PluginError, match=words):
            Registry.discover([ZOO / f"{name}.py"])


SPOILT = """
import torch
from urbancross_bench.interfaces import hookimpl, register
from urbancross_encoders.openclip import OpenClip


@hookimpl
def register_encoders():
    options = "urbancross_encoders.options:OpenClipOptions"
    return [register("spoilt", "spoilt:Spoilt", options=options, summary="Of float32 alone.")]


class Spoilt(OpenClip):
    def load(self):
        model = super().load()
        model.image_tower.register_forward_hook(
            lambda tower, given, found: found / float(next(tower.parameters()).dtype == torch.float32)
        )
        return model
"""


@pytest.mark.usefixtures("one_thread")
def test_the_kit_catches_an_encoder_that_bfloat16_spoils(tmp_path: Path) -> None:
    (tmp_path / "spoilt.py").write_text(SPOILT, encoding="utf-8")
    options = {"architecture": "urbancross-tiny"}
    promise, file = "test_it_embeds_in_bfloat16", tmp_path / "spoilt.py"
    found = broken_promises("encoder", "spoilt", only=promise, files=(file,), choose=lambda self: options)
    assert "in bfloat16 encode_image gives (4, " in found[promise]


HASHED = (
    SPOILT.replace("spoilt", "hashed").partition("    def load")[0]
    + """
    def load(self):
        model = super().load()
        tokenize = model.tokenize
        def hashed(texts):
            tokens = tokenize(texts)
            tokens[:, 1] = torch.tensor([1 + hash(text) % 50 for text in texts])
            return tokens
        model.tokenize = hashed
        return model
"""
)
UNORDERED = (
    HASHED.replace("hashed", "unordered").partition("        tokenize =")[0]
    + """
        for name in {f"{name} {number}" for number, (name, _) in enumerate(model.named_parameters())}:
            torch.nn.init.normal_(model.get_parameter(name.partition(" ")[0]), std=0.02)
        return model
"""
)
BY_SIGHT = (
    HASHED.replace("hashed", "by_sight").partition("            tokens[:, 1]")[0]
    + """
            tokens[:, 1] = torch.tensor([1 + seen.setdefault(text, len(seen)) for text in texts])
            return tokens
        seen = {}
        model.tokenize = by_sight
        return model
"""
)
OUTSIDE = (
    HASHED.replace("hashed", "outside").partition("        tokenize =")[0]
    + """
        encode, kept = model.encode_text, torch.randn(model.width)
        model.encode_text = lambda tokens: encode(tokens) + kept
        return model
"""
)
HEADED = (
    HASHED.replace("hashed", "headed").partition("        tokenize =")[0]
    + """
        head, encode = torch.nn.Linear(model.width, model.width), model.encode_image
        model.encode_image = lambda images: head(GIVEN)
        return model
"""
)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("name", "source", "promise", "says"),
    [
        ("hashed", HASHED, "test_it_starts_the_same_elsewhere", "its tokens are others in another process"),
        ("unordered", UNORDERED, "test_it_starts_the_same_elsewhere", "its first weights are others in another"),
        (
            "by_sight",
            BY_SIGHT,
            "test_texts_may_come_in_any_order",
            "texts have other tokens when they come in another",
        ),
        (
            "outside",
            OUTSIDE,
            "test_weights_go_round",
            "after load_state_dict features of texts are not those of the",
        ),
        (
            "headed",
            HEADED.replace("GIVEN", "encode(images)"),
            "test_features_stand_for_what_a_frozen_tower_took",
            "leave them as they are; they come back as others",
        ),
        (
            "unheaded",
            HEADED.replace("headed", "unheaded").replace(
                "head(GIVEN)", "encode(images.view(-1, 3, *images.shape[-2:]))"
            ),
            "test_features_stand_for_what_a_frozen_tower_took",
            "leave them as they are; it fails: ",
        ),
    ],
)
def test_the_kit_catches_an_encoder_that_nobody_could_repeat(
    tmp_path: Path, name: str, source: str, promise: str, says: str
) -> None:
    (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
    options = {"architecture": "urbancross-tiny"} | ({"frozen_towers": "image"} if "headed" in name else {})
    file = tmp_path / f"{name}.py"
    [reason] = broken_promises("encoder", name, only=promise, files=(file,), choose=lambda self: options).values()
    assert says in reason


METHOD = """
from pathlib import Path

import torch
from torch import nn
from urbancross_bench.interfaces import Adaptation, Options, hookimpl, register


@hookimpl
def register_adaptations():
    return [
        register("NAME", "NAME:Mine", options="NAME:O", setting="source_only", needs={"gradients"}, summary="x")
    ]


class O(Options):
    file: str = ""
OPTIONS

class Mine(Adaptation):
    options_type = O

    def prepare(self, model, context):
        self.pair_loss = context.pair_loss
        self.head = nn.Linear(context.width, 4)

    def loss(self, source, target, progress):
        pairs = self.pair_loss(source)
        return {"pairs": pairs, "mine": TERM}

    def parameter_groups(self, model, learning_rate):
        groups = super().parameter_groups(model, learning_rate)
        return GROUPS
"""
TRAINED = '[*groups, {"params": self.head.parameters(), "lr": learning_rate}]'
SQUARE = "self.head(source.image_features).square().mean()"


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("name", "groups", "term", "says"),
    [
        ("whole", TRAINED, SQUARE, ""),
        ("without_group", "groups", SQUARE, "self.head.weight gets gradients and is never trained"),
        ("without_gradient", "groups", f"{SQUARE}.detach()", "the loss 'mine' depends on no weight"),
        ("nothing_yet", "groups", "torch.zeros(())", ""),
    ],
)
def test_the_kit_catches_parts_that_do_nothing(
    tmp_path: Path, name: str, groups: str, term: str, says: str
) -> None:
    found = adapted(tmp_path, name, GROUPS=groups, TERM=term)
    assert found.keys() == ({"test_all_of_it_trains"} if says else set())
    assert says in found.get("test_all_of_it_trains", "")


def adapted(folder: Path, name: str, *, options: dict[str, object] | None = None, **parts: str) -> dict[str, str]:
    """The promises that METHOD breaks with these parts."""
    source = METHOD
    for part, text in {"NAME": name, "GROUPS": TRAINED, "OPTIONS": "", **parts}.items():
        source = source.replace(part, text)
    file = folder / f"{name}.py"
    file.write_text(source, encoding="utf-8")
    return broken_promises("adaptation", name, files=(file,), options=options or {})


COUNTED = """
    def identity(self):
        from urbancross_bench.identity import file_digest
        return {"file": file_digest(Path(self.file))}
"""
READ = """
    def identity(self):
        return {"factor": float(Path(self.file).read_text())}
"""


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("name", "options"), [("by_path", ""), ("by_digest", COUNTED), ("by_content", READ)])
def test_the_kit_catches_a_file_that_counts_by_its_path(tmp_path: Path, name: str, options: str) -> None:
    file = tmp_path / "factor.txt"
    file.write_text("2.0")
    term = "float(Path(self.options.file).read_text()) * pairs"
    found = adapted(tmp_path, name, options={"file": str(file)}, TERM=term, OPTIONS=options)
    assert found.keys() == (set() if options else {"test_files_of_options_count"})
    assert options or "the file of the option 'file' may change" in found["test_files_of_options_count"]
    assert file.read_text() == "2.0"


READER = """
from pathlib import Path

from urbancross_bench.data.readers import DomainBuilder, FileOptions, finish, read_json
from urbancross_bench.interfaces import Dataset, hookimpl, register


@hookimpl
def register_datasets():
    return [register("NAME", "NAME:Mine", options="NAME:O", summary="x")]


class O(FileOptions):
    file: str


class Mine(Dataset):
    options_type = O

    def read(self, member):
        file = Path(self.options.file)
        entries = {entry["filename"]: entry for entry in read_json(file)["images"]}
        builder = DomainBuilder("mine")
        for name in ORDER:
            image = builder.image(name, entries[name]["split"], name)
            builder.caption(image, entries[name]["sentences"][0]["raw"], name)
        return finish(builder, self.options, file.parent / "images", partition="its own")
"""


@pytest.mark.parametrize(("name", "order"), [("by_set", "set(entries)"), ("by_name", "sorted(set(entries))")])
def test_the_kit_catches_a_reader_whose_order_hangs_on_hashes(tmp_path: Path, name: str, order: str) -> None:
    options = {"file": str(write_tiny_domain(tmp_path))}
    (tmp_path / f"{name}.py").write_text(READER.replace("NAME", name).replace("ORDER", order), encoding="utf-8")
    found = broken_promises("dataset", name, files=(tmp_path / f"{name}.py",), options=options)
    assert found.keys() == ({"test_it_reads_the_same_elsewhere"} if name == "by_set" else set())
    assert name == "by_name" or "names, captions" in found["test_it_reads_the_same_elsewhere"]


FUSED = """
import torch
from urbancross_bench.interfaces import (
    Encoder, EncoderOptions, ImageFormat, SegmentUse, Weights, hookimpl, register
)
from urbancross_bench.testing.fixtures.model import SIZE, TinyDualEncoder


@hookimpl
def register_encoders():
    return [register("NAME", "NAME:Mine", options="NAME:O", provides={"segments"}, summary="x")]


class O(EncoderOptions):
    def image_format(self):
        return ImageFormat(SIZE)

    def weights(self):
        return Weights("untrained", "random")

    def segments(self):
        return SegmentUse(4, "shared", True)


class Model(TinyDualEncoder):
    def ENCODE_SEGMENT(self, images):
        return super().encode_image(images)

    def encode_image(self, images, segments=None, present=None):
        own = super().encode_image(images)
        return own if segments is None else own + FUSION


class Mine(Encoder):
    options_type = O

    def load(self):
        return Model()
"""
SUM = "(segments * present[..., None]).sum(1)"
FALLING = SUM.replace("segments", "segments * torch.linspace(1, 0, segments.shape[1])[:, None]", 1)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("name", "fusion", "promise", "says"),
    [
        ("sum", SUM, "test_segments_", ""),
        ("in_order", FALLING, "test_segments_are_a_set", "with the segments in another order"),
        ("padded", SUM.replace("sum", "mean"), "test_segments_are_a_set", "without places at which no segment is"),
        ("blind", "segments.sum(1)", "test_segments_are_a_set", "with something else where no segment is"),
        ("not_itself", f"{SUM} + 1", "test_segments_are_a_set", "without any segment"),
        ("no_number", f"{SUM} / present.sum(1)[:, None]", "test_segments_have_features", "that is no number"),
        ("nothing", SUM, "test_segments_have_features", "its model no encode_segment"),
        ("no_room", SUM, "test_segments_have_features", "encode_image cannot be given segments"),
    ],
)
def test_the_kit_catches_an_encoder_that_fuses(
    tmp_path: Path, name: str, fusion: str, promise: str, says: str
) -> None:
    source = FUSED.replace("FUSION", fusion)
    source = source.replace("ENCODE_SEGMENT", "other" if name == "nothing" else "encode_segment")
    if name == "no_room":
        source = source.replace(", segments=None, present=None", "").replace(
            "own if segments is None else own + ", "own #"
        )
    caught(tmp_path, "encoder", name, source, promise, says)


SEGMENTER = """
import numpy as np
from urbancross_bench.interfaces import Mask, Segmenter, SegmenterOptions, Weights, hookimpl, register


@hookimpl
def register_segmenters():
    return [register("NAME", "NAME:Mine", options="NAME:O", summary="x")]


class O(SegmenterOptions):
    def weights(self):
        return Weights("untrained", "none")


class Mine(Segmenter):
    options_type, cut = O, 0

    def load(self, device):
        pass

    def segment(self, images):
        self.cut += 1
        mean = np.mean(images)
        return [[Mask(image.mean(2) > 100), Mask(MASK)] for image in images]
"""


@pytest.mark.parametrize(
    ("name", "mask", "promise", "says"),
    [
        ("by_itself", "image.mean(2) > image.mean(), 0.5", "test_", ""),
        ("transposed", "image.mean(2).T > 100", "test_it_works", "no Mask of (H, W) bool"),
        ("in_place", "image.__setitem__(0, 0) or image.mean(2) > 100", "test_it_works", "it changes the images"),
        ("no_number", "image.mean(2) > 100, float('nan')", "test_it_works", "the quality of a mask is nan"),
        ("by_batch", "image.mean(2) > mean", "test_a_batch_of_one", "alone has other masks than among others"),
        ("by_count", "image.mean(2) > 99 * self.cut", "test_calls_are_independent", "after a call for others"),
    ],
)
def test_the_kit_catches_a_segmenter(tmp_path: Path, name: str, mask: str, promise: str, says: str) -> None:
    caught(tmp_path, "segmenter", name, SEGMENTER.replace("MASK", mask), promise, says)


def caught(folder: Path, kind: str, name: str, source: str, promise: str, says: str, **members: object) -> None:
    """Of the promises that begin so, a plugin of this source breaks one, and why; where nothing is said, none."""
    name = f"{kind}_{name}"  # a module of another test's is not to be taken for it
    file = folder / f"{name}.py"
    file.write_text(source.replace("NAME", name), encoding="utf-8")
    found = broken_promises(kind, name, only=promise, files=(file,), **members)
    assert len(found) == bool(says), found
    assert all(says in reason for reason in found.values()), found


CHANGED = """

import numpy as np
from dataclasses import replace
from urbancross_bench.interfaces import ImageSource


class Shared(ImageSource):
    def __init__(self, images):
        self.images, self.page, self.kept = images, images.read(0).copy(), {}

    def digest(self, index):
        return self.images.digest(index)

    def read(self, index):
        return READ

    def filled(self, pixels):
        self.page[:] = pixels
        return self.page


whole = Mine.read


def read(self, member):
    domain = whole(self, member)
    count = len(domain.image_names)
    return replace(domain, images=Shared(domain.images), attributes=ATTRIBUTES)


Mine.read = read
"""
FRESH, NORTH = "self.images.read(index).copy()", '{"scene_class": domain.image_names, "latitude": [90, None] * 12}'


@pytest.mark.parametrize(
    ("name", "pixels", "attributes", "promise", "says"),
    [
        ("unshared", FRESH, NORTH, "test_", ""),
        (
            "overwritten",
            "self.filled(self.images.read(index))",
            NORTH,
            "test_images_are_pixels",
            "image 1 is read",
        ),
        ("kept", f"self.kept.setdefault(index, {FRESH})", NORTH, "test_images_are_pixels", "somebody changes"),
        ("further", FRESH, NORTH.replace("90", "-90.1"), "test_places_", "latitude of image 0 is -90.1"),
        ("nowhere", FRESH, NORTH.replace("None", "np.nan"), "test_places_", "latitude of image 1 is nan"),
        (
            "hashed",
            FRESH,
            '{"a": [hash(n) for n in domain.image_names]}',
            "test_it_reads_the_same",
            "attributes are",
        ),
    ],
)
def test_the_kit_catches_a_reader(
    tmp_path: Path, name: str, pixels: str, attributes: str, promise: str, says: str
) -> None:
    options = {"file": str(write_tiny_domain(tmp_path))}
    source = READER.replace("ORDER", "entries") + CHANGED.replace("READ", pixels).replace("ATTRIBUTES", attributes)
    caught(tmp_path, "dataset", name, source, promise, says, options=options)


RENDERER = """
import os, time
from datetime import datetime
from urbancross_bench.interfaces import Renderer, hookimpl, register


@hookimpl
def register_renderers():
    return [register("NAME", "NAME:Mine", summary="x")]


class Mine(Renderer):
    suffix = ".txt"

    def render(self, table):
        return f"{len(table.rows)} rows {FACT}"
"""


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        ("of_the_table", ""),
        ("of_a_set", "set(table.columns)"),
        ("of_a_folder", "os.getcwd()"),
        ("of_a_home", "os.path.expanduser('~')"),
        ("of_an_hour", "time.localtime().tm_hour"),
        ("of_a_day", "datetime.now().date()"),
        ("of_a_language", "os.environ.get('LC_ALL')"),
    ],
)
def test_the_kit_catches_a_renderer_of_one_machine(tmp_path: Path, name: str, fact: str) -> None:
    promise, says = (
        ("test_it_writes", "summary.txt, other.txt are others in another process") if fact else ("test_", "")
    )
    caught(tmp_path, "renderer", name, RENDERER.replace("FACT", fact or "'by name'"), promise, says)


CAPTIONER = """
from urbancross_bench.interfaces import Captioner, CaptionerOptions, hookimpl, register


@hookimpl
def register_captioners():
    return [register("NAME", "NAME:Mine", options="NAME:O", summary="x")]


class O(CaptionerOptions):
    pass


class Mine(Captioner):
    options_type = O

    def describe(self, subjects):
        means = [subject.pixels.mean() for subject in subjects]
        return [SAYS for subject in subjects]
"""


@pytest.mark.parametrize(
    ("name", "caption", "promise", "says"),
    [
        ("plain", "f'a place of {subject.tags}'", "test_", ""),
        ("drawing", "str(__import__('torch').rand(()))", "test_a_batch_of_one", ""),
        ("mute", "' '", "test_it_works", "' ' is not one line of text"),
        ("in_lines", "'a place\\nof water'", "test_it_works", "is not one line of text"),
        ("hidden", "'a place\\u202e'", "test_it_works", "is not one line of text"),
        ("comparing", "str(subject.pixels.mean() < max(means))", "test_a_batch_of_one", "for a subject alone"),
        (
            "by_hash",
            "f'place {hash(subject.name)}'",
            "test_it_says_the_same",
            "captions of tile 0, tile 1, tile 2 are",
        ),
    ],
)
def test_the_kit_catches_a_captioner(tmp_path: Path, name: str, caption: str, promise: str, says: str) -> None:
    caught(tmp_path, "captioner", name, CAPTIONER.replace("SAYS", caption), promise, says)


EXECUTOR = """
from dataclasses import replace
from urbancross_bench.execution.worker import carry_out
from urbancross_bench.interfaces import Event, Executor, hookimpl, register


@hookimpl
def register_executors():
    return [register("NAME", "NAME:Mine", summary="x")]


class Mine(Executor):
    def __init__(self, options):
        super().__init__(options)
        self.events = []

    def slots(self, device, devices, threads):
        return 1

    def submit(self, task):
        carry_out(replace(task, stages=task.stages[CUT]), self.events.append)
        self.events.append(Event(task.key, "over"))

    def wait(self, seconds):
        events, self.events = self.events, []
        return events

    def close(self):
        pass
"""


@pytest.mark.parametrize(
    ("name", "cut", "heard"),
    [
        ("in_turn", ":", ""),
        ("first_alone", ":1", "it tells started 1, ended 1, over"),
        ("backwards", "::-1", "it tells started 2, ended 2, started 1, ended 1, over"),
    ],
)
def test_the_kit_catches_an_executor(tmp_path: Path, name: str, cut: str, heard: str) -> None:
    caught(tmp_path, "executor", name, EXECUTOR.replace("CUT", cut), "test_it_works", heard)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The beasts that are no adaptation, as distributions on Python's path; the folder."""
    for name in OTHERS:
        (tmp_path / f"{name}.py").write_text((ZOO / f"{name}.py").read_text(encoding="utf-8"), encoding="utf-8")
        about = tmp_path / f"{name}_dist-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[urbancross_bench]\n{name} = {name}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in OTHERS:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield tmp_path
    for name in OTHERS:
        sys.modules.pop(name, None)


def test_installed_ones_cost_themselves_only(installed: Path) -> None:
    registry = Registry.discover()
    bad = {p.name: (p.status, str(p.error)) for p in registry.providers if p.error}
    assert bad.keys() == {"import_error", "misspelt_hook"}
    assert "not well" in bad["import_error"][1]
    assert registry.find("adaptation", "dann").provider.name == "adaptations"
    with pytest.raises(PluginError, match=r"by duplicate_name-dist 1.0.*by urbancross-bench"):
        registry.find("metric", "recall")
    names = ("rank", "wrong_signature", "missing_dependency", "heavy_import")
    ranking = evaluate_retrieval(np.eye(6), np.eye(6), np.arange(6))
    found, _ = metric_values(ranking, [registry.resolve("metric", name) for name in names], draws=0)
    assert found["failed"].keys() == {"wrong_signature", "missing_dependency"}
    assert found["metrics"]["i2t_hit"]["value"] == 1.0


def test_a_heavy_one_is_told_so(
    installed: Path, cli: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(installed))
    result = cli("plugins", "check", "heavy_import-dist", "--json")
    [card] = json.loads(result.out)
    broken = {one["promise"]: one["why"] for one in card["promises"] if one["outcome"] == "broken"}
    assert result.status == 1
    assert broken.keys() == {"test_registering_is_light"}
    assert "imports torch" in broken["test_registering_is_light"]


def run(folder: Path, plugins: list[str], adaptations: list[str]) -> Outcome:
    """A grid of one scenario."""
    scenarios = [{"source": "plain", "target": "dark"}]
    file = write_grid(folder, write_domains(folder), plugins=plugins, adaptations=adaptations, scenarios=scenarios)
    return outcome_of(folder, file, "--time-limit", "10")


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A grid of all hostile adaptations beside a good one. Look, do not touch."""
    plugins = [str(ZOO / f"{name}.py") for name in ADAPTATIONS]
    return made_once(tmp_path_factory, "zoo", lambda folder: run(folder, plugins, [*ADAPTATIONS, "source_only"]))


@pytest.mark.parametrize("name", ADAPTATIONS)
def test_a_grid_contains_it(together: Outcome, name: str) -> None:
    status, words = ADAPTATIONS[name].run
    [record] = [one for one in read_records([together.out]) if one.spec["adaptation"]["label"] == name]
    assert record.spec["status"] == status
    if words:
        assert words in json.loads((record.folder / "failure.json").read_text())["error"]


def metrics(out: Path, label: str) -> list[object]:
    """All scores of a method's one run."""
    [record] = [one for one in read_records([out]) if one.spec["adaptation"]["label"] == label]
    return [score.content["metrics"] for score in record.scores]


def test_a_stage_lets_go_of_what_its_view_was_made_from(together: Outcome) -> None:
    """Its loss is that of `source_only`, unless it finds a split."""
    assert metrics(together.out, "walks_to_pairs") == metrics(together.out, "source_only")


def test_the_good_one_is_what_it_would_be_alone(together: Outcome, tmp_path: Path) -> None:
    """To the bit, though it was trained after all the others; and what was printed went to logs."""

    assert together.result.status == 1
    assert metrics(together.out, "source_only") == metrics(run(tmp_path, [], ["source_only"]).out, "source_only")
    assert "and past it" not in together.result.out
