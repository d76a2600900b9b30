"""The mistakes of somebody's first plugin: each message says whose it is, and what to write instead."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from urbancross_bench.data.packed import PackedImages, PackedSplit, Rows
from urbancross_bench.data.readers import DomainBuilder, finish
from urbancross_bench.data.views import source_view
from urbancross_bench.errors import PluginError, UsageError
from urbancross_bench.execution import worker
from urbancross_bench.execution.domains import read_domains
from urbancross_bench.execution.items import SplitItems, rank_features
from urbancross_bench.execution.stage import Stage
from urbancross_bench.interfaces import Adaptation, Features, Options
from urbancross_bench.interfaces.executor import Event, Task
from urbancross_bench.modelling import answers
from urbancross_bench.modelling.embed import embed_images, embed_texts
from urbancross_bench.modelling.feeds import Feed
from urbancross_bench.references import Reference
from urbancross_bench.registry import Provider, Registry
from urbancross_bench.testing.fixtures.model import TinyDualEncoder

Written = Callable[[str, str, str], Registry]
RIGHT = """
from urbancross_bench.interfaces import Adaptation, Options, hookimpl, register

@hookimpl
def register_adaptations():
    return [register("mine", "NAME:Mine", options="NAME:MineOptions", setting="source_only", summary="Mine.")]

class MineOptions(Options):
    weight: float

class Mine(Adaptation):
    options_type = MineOptions
"""


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """A registry with RIGHT as a file of its own name, some of its text changed."""

    def write(name: str, old: str, new: str) -> Registry:
        assert old in RIGHT
        file = tmp_path / f"{name}.py"
        file.write_text(RIGHT.replace(old, new).replace("NAME", name), encoding="utf-8")
        return Registry().with_files([file])

    return write


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        ("slip_hook", "register_adaptations", "register_adaptation", 'Did you mean "register_adaptations"'),
        ("slip_mark", "@hookimpl\n", "", "it implements no hook; write @hookimpl"),
        ("slip_return", "return [", "[", r"register_adaptations\(\) must return a list .* it returns None"),
        ("slip_needs", 'setting="', 'needs="gradients", setting="', r"needs .* must be a set .*\{\"gradients\"\}"),
    ],
)
def test_registering_amiss_is_an_error_that_names_the_file(
    written: Written, name: str, old: str, new: str, says: str
) -> None:
    with pytest.raises(PluginError, match=says) as caught:
        written(name, old, new)
    assert f"{name}.py" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "old", "new", "says"),
    [
        ("slip_base", "class Mine(Adaptation)", "class Mine", "Mine is not a subclass of .*Adaptation"),
        (
            "slip_init",
            "    options_type",
            "    def __init__(self): pass\n    options_type",
            "must take the options",
        ),
        (
            "slip_super",
            "    options_type",
            "    def __init__(self, options): pass\n    options_type",
            r"must take the options and hand them on: .*super\(\).__init__\(options\) \(it does not",
        ),
        ("slip_options", ', options="NAME:MineOptions"', "", r'name the latter: .*"slip_options:MineOptions"'),
        (
            "slip_loss",
            "    options_type",
            "    def loss(self, batch): pass\n    options_type",
            r"Mine\.loss must take \(self, source, target, progress\); it takes \(self, batch\)",
        ),
        (
            "slip_static",
            "    options_type",
            "    @staticmethod\n    def loss(source, target): pass\n    options_type",
            r"Mine\.loss must take \(source, target, progress\); it takes \(source, target\)",
        ),
        ("slip_method", "    options_type", "    extend = 3\n    options_type", r"Mine\.extend must be a method"),
    ],
)
def test_a_class_that_is_none_of_its_kind_is_an_error_that_names_the_plugin(
    written: Written, name: str, old: str, new: str, says: str
) -> None:
    options = {} if name == "slip_options" else {"weight": 1.0}
    resolved = written(name, old, new).resolve("adaptation", Reference("mine", None, options))
    with pytest.raises(PluginError, match=f"adaptation 'mine' of file .*{says}"):
        resolved.build()


PACKAGE = """
from urbancross_bench.interfaces import hookimpl, register

@hookimpl
def register_adaptations():
    return [
        register(name.lower(), f"slips.{module}:{name}", setting="source_only", summary="x")
        for module, name in [TARGETS]
    ]
"""
MODULES = {
    "plain": "import torch\nclass Mine: ...\n",
    "again": "from .plain import *\n",
    "aliased": "import torch\nfrom .plain import Mine as Yours\n",
    "asked": "import torch\ndef __getattr__(n):\n    if n[0] == 'Y': return 3\n    raise AttributeError\n",
    "made": "import torch\nglobals().update({'yOURS'.swapcase(): 3})\n",
    "broken": "import nothing_like_it\n",
    "leaves": "import sys; sys.exit(0)\n",
}


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("plain:Min", """is registered as slips.plain:Min, and that module has no 'Min'. Did you mean "Mine"?"""),
        ("plain:Mine", ""),
        ("again:Mine", ""),
        ("again:Min", "no 'Min'"),
        ("aliased:Yours", ""),
        ("asked:Yours", ""),
        ("asked:Hers", "no 'Hers'"),
        ("made:Yours", ""),
        ("broken:Mine", ""),
        ("leaves:Mine", ""),
        ("absent:Mine", "is registered as slips.absent:Mine, and there is no module 'slips.absent'"),
    ],
)
def test_a_plan_knows_of_a_class_that_is_not_there_and_of_none_that_may_be(
    target: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, _, name = target.partition(":")
    (tmp_path / "slips").mkdir()
    for file, source in MODULES.items():
        (tmp_path / "slips" / f"{file}.py").write_text(source)
    (tmp_path / "slips" / "__init__.py").write_text(PACKAGE.replace("TARGETS", repr((module, name))))
    monkeypatch.syspath_prepend(tmp_path)
    for loaded in [one for one in sys.modules if one.partition(".")[0] == "slips"]:
        monkeypatch.delitem(sys.modules, loaded)
    registry = Registry()
    provider = Provider("slips", "slips", "1", "slips")
    registry.add(provider, lambda: importlib.import_module("slips"), strict=True)
    if said:
        with pytest.raises(PluginError) as caught:
            registry.resolve("adaptation", name.lower())
        assert str(caught.value).startswith(f"adaptation '{name.lower()}' of slips 1 (slips) ")
        assert said in str(caught.value)
    else:
        registry.resolve("adaptation", name.lower())
    # Nothing is loaded but for a class that is not named.
    assert ("slips.plain" in sys.modules) is (target in {"plain:Min", "again:Mine", "again:Min"})


def test_a_class_that_its_own_file_lacks_is_told(written: Written) -> None:
    registry = written("slip_class", '"NAME:Mine"', '"NAME:Min"')
    with pytest.raises(PluginError, match=r"that module has no 'Min'\. Did you mean \"Mine"):
        registry.resolve("adaptation", "mine[weight=1.0]")


def test_a_method_may_call_its_parameters_what_it_likes(written: Written) -> None:
    own = "    def loss(self, here, *rest, more=1): pass\n    def prepare(self, *all, **named): pass\n"
    registry = written("free_names", "    options_type", f"{own}    options_type")
    registry.resolve("adaptation", "mine[weight=1.0]").build()


def test_a_type_error_within_a_constructor_is_its_own(written: Written) -> None:
    registry = written("own_error", "    options_type", "    def __init__(self, o): len(3)\n    options_type")
    with pytest.raises(TypeError, match="has no len"):
        registry.resolve("adaptation", "mine[weight=1.0]").build()


def test_an_option_without_limit_is_none(written: Written) -> None:
    registry = written("slip_endless", "weight: float", 'weight: float = float("inf")')
    with pytest.raises(PluginError, match=r"adaptation 'mine' of file .* its option 'weight' is inf.*let None"):
        registry.resolve("adaptation", "mine")


def test_an_option_that_is_needed_is_asked_for_as_it_is_written(written: Written) -> None:
    registry = written("well_made", "Mine.", "Mine.")
    assert registry.resolve("adaptation", "mine[weight=2]").build().options.weight == 2
    with pytest.raises(UsageError, match=r"needs the option 'weight': write mine\[weight=…\]"):
        registry.resolve("adaptation", "mine")
    with pytest.raises(UsageError, match="One of your own: install its package, or name its file"):
        registry.find("adaptation", "somebody_elses")


@pytest.mark.parametrize("neighbour", ["next_door.py", "next_door/__init__.py"])
def test_a_file_that_imports_its_neighbour_is_told_that_it_stands_alone(
    written: Written, tmp_path: Path, neighbour: str
) -> None:
    with pytest.raises(PluginError, match=r"No module named 'next_door'$"):
        written("slip_alone", "from urban", "import next_door\nfrom urban")
    (tmp_path / neighbour).parent.mkdir(exist_ok=True)
    (tmp_path / neighbour).write_text("")
    with pytest.raises(PluginError, match=r"'next_door'; it lies beside slip_alone\.py, which stands alone"):
        written("slip_alone", "from urban", "import next_door\nfrom urban")


def _carried_out(work: Callable[[], object], file: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is told of a stage that does this."""

    def make(*_: object) -> None:
        work()

    monkeypatch.setattr(worker, "_make", make)
    monkeypatch.setenv("URBANCROSS_DATA", "")
    told: list[Event] = []
    store = str(file.parent / "store")
    task = Task("task", (Stage("adapt", {}).to_json(),), store, "", "", "cpu", plugins=(str(file),))
    before = dict(os.environ)
    worker.carry_out(task, told.append)
    assert os.environ == before
    return str(told[-1].error)


def test_an_error_with_a_name_that_is_no_utf8_can_be_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read() -> None:
        Path(os.fsdecode(b"/nowhere/caf\xe9.jpg")).read_bytes()

    said = _carried_out(read, tmp_path / "none.py", monkeypatch)
    assert "/nowhere/caf\\udce9.jpg" in said
    said.encode()


def test_an_error_of_python_names_the_last_line_of_a_plugin(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = "    def loss(self, source, target, progress):\n        import next_door\n"
    shapes = "    def prepare(self, *_):\n        import torch\n        torch.ones(2) @ torch.ones(3)\n"
    registry = written("lines", "    options_type", f"{own}{shapes}    options_type")
    method = registry.resolve("adaptation", "mine[weight=1]").build()
    file, nothing = tmp_path / "lines.py", None
    lines = file.read_text().splitlines()
    [product] = [number for number, line in enumerate(lines, 1) if "@ torch" in line]
    found = _carried_out(lambda: method.prepare(nothing, nothing), file, monkeypatch)
    assert found.startswith("RuntimeError: ")
    assert found.endswith(f" (lines.py:{product} in prepare)")
    (tmp_path / "next_door.py").write_text("")
    found = _carried_out(lambda: method.loss(nothing, nothing, nothing), file, monkeypatch)
    assert "No module named 'next_door' (lines.py:" in found
    assert " in loss); it lies beside lines.py, which stands alone" in found
    assert _carried_out(lambda: dict[str, int]()["mine"], file, monkeypatch) == "KeyError: 'mine'"  # of no plugin


def _method(**answered: Any) -> Adaptation:
    made = {name: (lambda self, *given, value=value: value) for name, value in answered.items()}
    method: Adaptation = type("Mine", (Adaptation,), made)(Options())
    return method


WEIGHT = torch.ones(3, requires_grad=True)


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (None, "Mine.loss must return named losses.*returns nothing"),
        (WEIGHT.sum(), "Mine.loss must return named losses.*a tensor of shape"),
        ({"a": WEIGHT.sum(), "b": 0.5}, "tensor of one real number .* as 'b'; it returns a float"),
        ({}, "it returns an empty dict$"),
        ({"a": WEIGHT}, r"as 'a'; it returns a tensor of shape \(3,\)"),
        (
            {"a": WEIGHT.sum() * 1j},
            r"one real number .* as 'a'; it returns a tensor of shape \(\), torch.complex64",
        ),
        ({"loss": WEIGHT.sum()}, "Mine.loss calls a loss 'loss', and loss is in every learning curve; call it by"),
        ({"a": WEIGHT.sum(), "step": WEIGHT.sum()}, "calls a loss 'step'"),
        ({"a": WEIGHT.sum().detach()}, "none of a depends on a weight that is trained"),
    ],
)
def test_a_loss_that_is_none_says_what_it_must_be(found: Any, says: str) -> None:
    nothing: Any = None
    with pytest.raises(PluginError, match=says):
        answers.losses(_method(loss=found), nothing, nothing, nothing)
    right = {"a": WEIGHT.sum(), "b": torch.tensor(1.0)}
    assert answers.losses(_method(loss=right), nothing, nothing, nothing) == right


def test_rows_to_keep_are_numbers_of_rows() -> None:
    nothing: Any = None
    kept = torch.tensor([0, 2])
    for wrong in ([0, 1], torch.tensor([True, False]), kept[:0], kept.float(), 1):
        with pytest.raises(PluginError, match=r"Mine\.select must return None, or the numbers of the rows"):
            answers.selected(_method(select=wrong), nothing, nothing, nothing)
    assert answers.selected(_method(select=kept), nothing, nothing, nothing) is kept
    assert answers.selected(_method(), nothing, nothing, nothing) is None


def test_a_calibration_gives_features_to_rank() -> None:
    features = Features(np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32), np.arange(3))
    items = SplitItems(["a", "b", "c"], np.arange(3), np.arange(3), None, {})
    with pytest.raises(PluginError, match=r"Mine\.calibrate must return Calibrated.*it returns a tuple"):
        rank_features(features, items, protocol="classic", ties="expected", calibration=_method(calibrate=(1, 2)))


def test_other_answers_of_a_method_are_checked_too() -> None:
    model: Any = TinyDualEncoder()
    asked: Any
    wrong: Any
    for name, asked, wrong in (
        ("extend", answers.extended, [None, 3]),
        ("candidates", answers.candidates, [None, {}]),
    ):
        for found in wrong:
            with pytest.raises(PluginError, match=f"Mine.{name} must return"):
                asked(_method(**{name: found}), model)
    for groups in (None, model.parameters(), [model.logit_scale]):
        with pytest.raises(PluginError, match=r"Mine\.parameter_groups must return a list"):
            answers.parameter_groups(_method(parameter_groups=groups), model, 0.1)
    with pytest.raises(PluginError, match=r"it returns a list of Parameter$"):
        answers.parameter_groups(_method(parameter_groups=[model.logit_scale]), model, 0.1)
    for groups in (
        [{"params": model.parameters()}, {"params": [model.logit_scale]}],
        [{"params": [model.logit_scale] * 2}],
    ):
        with pytest.raises(
            PluginError, match=r"Mine\.parameter_groups gives logit_scale more than once; put each"
        ):
            answers.parameter_groups(_method(parameter_groups=groups), model, 0.1)
    weight = model.logit_scale
    for params, told in (
        ({weight}, r"order in each process\); it returns a set$"),
        (model.named_parameters(), r"it returns a tuple of str$"),
        ([weight.detach()], r"it returns a tensor of shape \(\), torch.float32$"),
        (weight * 1, r"it returns a tensor of shape"),
        (3, r"it returns an? int$"),
    ):
        with pytest.raises(
            PluginError, match=rf'Mine\.parameter_groups must return parameters in each "params".*{told}'
        ):
            answers.parameter_groups(_method(parameter_groups=[{"params": params}]), model, 0.1)
    assert answers.parameter_groups(_method(parameter_groups=[{"params": weight}]), model, 0.1) == [
        {"params": [weight]}
    ]
    state = model.state_dict()
    arrays = {name: value.numpy() for name, value in state.items()}
    with pytest.raises(PluginError, match="the names and shapes of"):
        answers.candidates(_method(candidates={"": arrays}), model)
    assert answers.extended(_method(), model) is model
    assert answers.parameter_groups(_method(), model, 0.1)[0]["lr"] == 0.1
    assert [*answers.candidates(_method(), model)] == [""]


def test_a_model_that_is_extended_is_still_one() -> None:
    model: Any = TinyDualEncoder()
    with pytest.raises(
        PluginError, match=r"Mine\.extend must return the model .*, extended: its model Linear has no"
    ):
        answers.extended(_method(extend=nn.Linear(2, 2)), model)


def test_candidates_are_whole_states_by_names_of_text() -> None:
    model: Any = TinyDualEncoder()
    own = model.state_dict()
    scale = own["logit_scale"]
    wrong: list[tuple[Any, str]] = [
        (
            {"": own, 3: own},
            r"Mine\.candidates must return states by names of text; one is called 3; it returns an int",
        ),
        ({"a": [scale]}, r"Mine\.candidates must return a state of the model as 'a'; it returns a list of Tensor"),
        (
            {"a": {"logit_scale": scale}},
            r"shapes of model\.state_dict\(\); 'a' differs from it in image_tower.*more$",
        ),
        ({"a": {**own, "more": scale}}, "'a' differs from it in more$"),
        ({"a": {**own, "logit_scale": scale[None]}}, "'a' differs from it in logit_scale$"),
    ]
    for found, says in wrong:
        with pytest.raises(PluginError, match=says):
            answers.candidates(_method(candidates=found), model)


class Strange(TinyDualEncoder):
    """Its features and tokens are what is made of the right ones."""

    def __init__(self, **made: Callable[[Any], Any]) -> None:
        super().__init__()
        self.made = made

    def tokenize(self, texts: Any) -> Any:
        return self.made.get("tokenize", lambda right: right)(super().tokenize(texts))

    def encode_image(self, images: Any) -> Any:
        return self.made.get("encode_image", lambda right: right)(super().encode_image(images))

    def encode_text(self, tokens: Any) -> Any:
        return self.made.get("encode_text", lambda right: right)(super().encode_text(tokens))


FEATURES = r"Strange\.{} must return \(B, width\) features, \(3, 12\) of these 3 .*; it returns {}"
TOKENS = r"Strange\.tokenize must return \(B, L\) token ids, a tensor of int64 with 3 rows .*; it returns {}"


@pytest.mark.parametrize(
    ("name", "made", "says"),
    [
        ("encode_image", lambda right: right[0], FEATURES.format("encode_image", r"a tensor of shape \(12,\)")),
        ("encode_image", lambda right: right[:, None], FEATURES.format("encode_image", r".* \(3, 1, 12\)")),
        ("encode_image", lambda right: right[:, 1:], FEATURES.format("encode_image", r".* \(3, 11\)")),
        ("encode_text", lambda right: right[:, 1:], FEATURES.format("encode_text", r".* \(3, 11\)")),
        ("encode_text", lambda right: None, FEATURES.format("encode_text", "nothing")),
        ("tokenize", lambda right: right.tolist(), TOKENS.format("a list of list")),
        ("tokenize", lambda right: right[:-1], TOKENS.format(r"a tensor of shape \(2, 16\)")),
        ("tokenize", lambda right: right.float(), TOKENS.format(".*float32")),
    ],
)
def test_what_an_encoder_gives_is_told_by_its_method(name: str, made: Callable[[Any], Any], says: str) -> None:
    """Where it is trained, and where it embeds."""
    model: Any = Strange(**{name: made})
    pixels = np.random.default_rng(0).integers(0, 255, (3, 32, 32, 3), dtype=np.uint8)
    packed = PackedImages(Rows([pixels]))
    captions = ("a field", "two roofs", "a road")
    view = source_view([PackedSplit(packed, ("a", "b", "c"), captions, np.arange(3))])

    def trained() -> None:
        options: Any = {
            "batch_size": 3,
            "augmentation": (),
            "device": torch.device("cpu"),
            "seed": 0,
            "hidden": "",
        }
        batch = Feed(model, view, **options).batch(0)
        batch.image_features, batch.text_features  # noqa: B018

    def embedded() -> None:
        embed_images(model, packed, torch.device("cpu"))
        embed_texts(model, captions, torch.device("cpu"))

    for work in (trained, embedded):
        with pytest.raises(PluginError, match=says):
            work()


def test_a_model_that_lacks_a_member_is_told_which() -> None:
    assert "it returns nothing" in answers.lacking(None)
    assert "Linear has no width" in answers.lacking(nn.Linear(2, 2))


def test_a_reader_notes_what_it_leaves_out_and_needs_the_options_of_files() -> None:
    builder = DomainBuilder("mine")
    builder.caption(builder.image("a.png", "train", "line 1"), "a field", "line 1")
    builder.leave_out("b.png", "no such file", "line 2")
    wrong: Any = Options()
    with pytest.raises(PluginError, match=r"Options must be a subclass of data\.readers\.FileOptions"):
        finish(builder, wrong, None)
    [note] = builder.build(lambda names: None).repairs  # type: ignore[arg-type, return-value]
    assert (note.where, note.problem, note.remedy, note.image) == ("line 2", "no such file", "left out", "b.png")


READER = """
from pathlib import Path

from urbancross_bench.interfaces import Dataset, Options, hookimpl, register


class Files(Options):
    file: str


class Mine(Dataset):
    options_type = Files

    def read(self, member):
        return Path(self.options.file).read_text()[5]


@hookimpl
def register_datasets():
    return [register("reads_badly", "reads_badly:Mine", options="reads_badly:Files", summary="x")]
"""


def test_an_error_of_python_in_a_reader_names_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "reads_badly.py").write_text(READER)
    (tmp_path / "short").write_text("a")
    registry = Registry.discover([tmp_path / "reads_badly.py"])

    def said(file: str) -> str:
        with pytest.raises(PluginError) as raised:
            read_domains([f"reads_badly[file={tmp_path}/{file}]"], registry)
        return str(raised.value)

    line = READER.splitlines().index("        return Path(self.options.file).read_text()[5]") + 1
    missing, short = said("gone"), said("short")
    assert f"FileNotFoundError: [Errno 2] No such file or directory: '{tmp_path}/gone'" in missing
    assert missing.endswith(f" (reads_badly.py:{line} in read)")
    assert f"IndexError: string index out of range (reads_badly.py:{line} in read)" in short
    with pytest.raises(
        UsageError, match=r"has no option 'fle'\. Did you mean \"file\""
    ):  # and not that it needs one
        registry.resolve("dataset", "reads_badly[fle=x]")
