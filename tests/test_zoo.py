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
    found = broken_promises("encoder", "spoilt", files=(tmp_path / "spoilt.py",), choose=lambda self: options)
    assert found.keys() == {"test_it_embeds_in_bfloat16"}
    assert "in bfloat16 encode_image gives (4, " in found["test_it_embeds_in_bfloat16"]


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
