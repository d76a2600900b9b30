"""Plugins that are broken in one place, and the promise of the conformance kit that says so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from broken_promises import broken_promises
from executor_tasks import PATIENCE

from urbancross_bench.testing import elsewhere
from urbancross_bench.testing.fixtures.domains import write_tiny_domain

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
MOVING = (
    HASHED.replace("hashed", "moving")
    .replace("options=options", 'options=options, provides={"gradients"}')
    .partition("        tokenize =")[0]
    + """
        encode, kept = model.encode_text, torch.zeros(model.width)
        def shifted(tokens):
            features = encode(tokens)
            if model.training:
                kept.lerp_(features.detach().mean(dim=0), 0.1)
            return features + kept
        model.encode_text = shifted
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
            "moving",
            MOVING,
            "test_weights_go_round",
            "after a step of training and load_state_dict features of texts are not those of the",
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


@pytest.mark.parametrize(
    ("name", "answer", "says"),
    [
        ("trained", "trains(self): return 'yes'", "says whether it can be trained by 'yes', which is no bool"),
        ("towered", "tower_identity(self): return None", "says what its towers are by None, which is no dict"),
        ("frozen_head", "frozen(self): return {'head'}", "frozen() names ['head']"),
        ("weighed", "weights(self): return 1 / 0", "failed to say where its weights come from: ZeroDivisionError"),
    ],
)
def test_the_kit_asks_an_encoder_what_planning_asks(tmp_path: Path, name: str, answer: str, says: str) -> None:
    file = tmp_path / f"{name}.py"
    source = SPOILT.replace("spoilt", name).replace("urbancross_encoders.options:OpenClipOptions", f"{name}:Mine")
    file.write_text(
        f"{source}\n\nfrom urbancross_encoders.options import OpenClipOptions\n"
        f"class Mine(OpenClipOptions):\n    def {answer}\n",
        encoding="utf-8",
    )
    promise, options = "test_planning_can_ask", {"architecture": "urbancross-tiny"}
    [reason] = broken_promises("encoder", name, only=promise, files=(file,), choose=lambda self: options).values()
    assert says in reason


@pytest.fixture
def _own_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Looks of a server that may be ended: the one that all tests share has imported what takes long."""
    monkeypatch.setattr(elsewhere, "_LIBRARIES", ())
    own: dict[bool, elsewhere._Server] = {}
    monkeypatch.setattr(elsewhere._Server, "running", own)
    yield
    for server in [*own.values()]:
        server.end()


@pytest.mark.usefixtures("_own_server")
def test_a_plugin_that_is_too_slow_in_another_process_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elsewhere, "_START", -60)  # of sixty that a plugin has
    promise = "test_it_reads_the_same_elsewhere"
    [reason] = broken_promises("dataset", "synthetic", only=promise, files=()).values()
    assert reason == "in another process it fails: it has not ended after 0 seconds"


METHOD = """
from pathlib import Path

from urbancross_bench.interfaces import Adaptation, Options, hookimpl, register


@hookimpl
def register_adaptations():
    return [
        register("NAME", "NAME:Mine", options="NAME:O", setting="source_only", needs={NEEDS}, summary="x")
    ]


class O(Options):
    file: str = ""
OPTIONS

class Mine(Adaptation):
    options_type = O

    def prepare(self, model, context):
        import torch

        self.pair_loss = context.pair_loss
        self.head = torch.nn.Linear(context.width, 4)

    def loss(self, source, target, progress):
        import torch

        pairs = self.pair_loss(source)
        return {"pairs": pairs, "mine": TERM}

    def parameter_groups(self, model, learning_rate):
        groups = super().parameter_groups(model, learning_rate)
        return GROUPS

    def candidates(self, model):
        import torch

        return {"": {name: CANDIDATE for name, value in model.state_dict().items()}}
"""
TRAINED = '[*groups, {"params": self.head.parameters(), "lr": learning_rate}]'
SQUARE = "self.head(source.image_features).square().mean()"


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


SEGMENTS = '"gradients", "segments", "trained_tower"'
AT_SEGMENTS = "self.head(source.segment_features).square().mean()"


@pytest.mark.parametrize("encoder", ["", "shared", "pretrained"])
@pytest.mark.parametrize(
    ("term", "says"), [(AT_SEGMENTS, ""), (f"{AT_SEGMENTS}.reshape(2)", "RuntimeError: shape '[2]' is invalid")]
)
def test_the_kit_shows_segments_to_a_method_that_needs_them(
    tmp_path: Path, encoder: str, term: str, says: str
) -> None:
    """Of its own tiny encoder, or of one that the test names, whatever encodes them there."""
    name = f"at_segments_{encoder}_{'wrong' if says else 'right'}"
    named = encoder and f"sam_fused[architecture=urbancross-tiny,tower={encoder},most=3]"
    found = adapted(tmp_path, name, only="test_it_works", encoder=named, NEEDS=SEGMENTS, TERM=term)
    assert found.keys() == ({"test_it_works"} if says else set())
    assert says in found.get("test_it_works", "")


def test_a_method_over_segments_trains_in_half_precision_beside_images_without_any(tmp_path: Path) -> None:
    only = "test_it_trains_in_half_precision"
    assert adapted(tmp_path, "half_of_segments", only=only, NEEDS=SEGMENTS, TERM=AT_SEGMENTS) == {}


def test_the_kit_catches_weights_that_are_no_numbers(tmp_path: Path) -> None:
    found = adapted(tmp_path, "no_numbers", only="test_it_works", CANDIDATE="value * torch.nan")
    assert "of its model hold what is no number" in found["test_it_works"]


def test_the_kit_catches_what_trains_at_single_precision_alone(tmp_path: Path) -> None:
    term = "torch.linalg.matrix_norm(source.image_features @ source.text_features.T, ord=2)"
    found = adapted(tmp_path, "single", TERM=term)
    assert found.keys() == {"test_it_trains_in_half_precision"}
    assert "at bfloat16 it fails: " in found["test_it_trains_in_half_precision"]


def adapted(
    folder: Path,
    name: str,
    *,
    options: dict[str, object] | None = None,
    encoder: str = "",
    only: str = "test_",
    **parts: str,
) -> dict[str, str]:
    """The promises that METHOD breaks with these parts."""
    source = METHOD
    for part, text in {
        "NAME": name,
        "NEEDS": '"gradients"',
        "GROUPS": TRAINED,
        "TERM": SQUARE,
        "CANDIDATE": "value",
        "OPTIONS": "",
        **parts,
    }.items():
        source = source.replace(part, text)
    file = folder / f"{name}.py"
    file.write_text(source, encoding="utf-8")
    return broken_promises("adaptation", name, only=only, files=(file,), options=options or {}, encoder=encoder)


COUNTED = """
    def identity(self):
        from urbancross_bench.identity import file_digest
        return {"file": file_digest(Path(self.file))}
"""
READ = """
    def identity(self):
        return {"factor": float(Path(self.file).read_text())}
"""


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


def read_elsewhere(folder: Path, name: str, end: str) -> dict[str, str]:
    """What the kit finds of a reader that ends so where it is not this process that reads."""
    order = f"sorted(entries) if os.environ['LOOKED_AT_BY'] == str(os.getpid()) else {end}"
    source = "import os\n" + READER.replace("NAME", name).replace("ORDER", order)
    (folder / f"{name}.py").write_text(source, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOOKED_AT_BY", str(os.getpid()))
        members = {"files": (folder / f"{name}.py",), "options": {"file": str(folder / "dataset.json")}}
        return broken_promises("dataset", name, only="test_it_reads_the_same_elsewhere", **members)


@pytest.mark.usefixtures("_own_server")
def test_a_plugin_that_ends_another_process_is_told_and_the_next_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert write_tiny_domain(tmp_path) == tmp_path / "dataset.json"
    for number, (end, says) in enumerate(
        (
            ("os._exit(3)", "in another process it fails: it says nothing"),
            ("os._exit(0)", "in another process it fails: it says nothing"),
            ("os.killpg(0, 9)", "in another process it fails: the server that it is forked from has ended"),
        )
    ):
        assert [*read_elsewhere(tmp_path, f"ends_{number}", end).values()] == [says]
        assert read_elsewhere(tmp_path, f"goes_on_{number}", "sorted(entries)") == {}
    os.killpg(elsewhere._Server.of(False)._process.pid, signal.SIGKILL)
    [reason] = read_elsewhere(tmp_path, "unserved", "sorted(entries)").values()
    assert "the server that it is forked from has ended" in reason
    assert read_elsewhere(tmp_path, "served", "sorted(entries)") == {}
    with monkeypatch.context() as patch:
        patch.setattr(elsewhere, "wait", interrupted)
        with pytest.raises(KeyboardInterrupt):
            read_elsewhere(tmp_path, "interrupted", "sorted(entries)")
    assert read_elsewhere(tmp_path, "resumed", "sorted(entries)") == {}


def interrupted(*arguments: object) -> None:
    raise KeyboardInterrupt


def test_a_look_that_hangs_goes_with_who_looks(tmp_path: Path) -> None:
    write_tiny_domain(tmp_path)
    end = "[open(os.environ['HANGS'], 'w').close(), __import__('signal').pause()]"
    code = f"import pathlib, {__name__} as t; t.read_elsewhere(pathlib.Path({str(tmp_path)!r}), 'hangs', {end!r})"
    path = os.pathsep.join(sys.path)
    environment = os.environ | {"PYTHONPATH": path, "HANGS": str(tmp_path / "hangs")}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment)
    while not (tmp_path / "hangs").exists():
        assert process.poll() is None
        os.sched_yield()
    below = psutil.Process(process.pid).children(recursive=True)
    assert len(below) == 2
    process.kill()
    process.wait()
    assert psutil.wait_procs(below, timeout=PATIENCE)[1] == []


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
