"""Code in keys: a wheel counts by its version, code that can change without one by its sources; and the core's."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from identity_world import Keys, changed, keys_of, planned, write_world

from urbancross_bench import sources
from urbancross_bench.execution import versions
from urbancross_bench.registry import Registry
from urbancross_bench.sources import code_version, own_version

KeysOf = Callable[[Mapping[str, Any]], Keys]
METHOD = "adapt embed rank run score"
TRAINING = f"pretrain {METHOD}"
FACE = """
from urbancross_bench.interfaces import hookimpl, register

FEW = "urbancross_adaptations.fine_tuning_options:FewShotOptions"


@hookimpl
def register_datasets():
    options = "urbancross_datasets.karpathy:KarpathyOptions"
    return [register("elsewhere", "elsewhere.data:Mine", options=options, summary="Theirs.")]


@hookimpl
def register_encoders():
    options = "urbancross_encoders.options:OpenClipOptions"
    return [register("elsewhere", "elsewhere.deep:E", options=options, provides={"gradients"}, summary="Theirs.")]


@hookimpl
def register_adaptations():
    needs = {"gradients"}
    return [
        register("elsewhere", "elsewhere.deep:A", options=FEW, setting="few_shot", needs=needs, summary="Theirs.")
    ]


@hookimpl
def register_selectors():
    return [register("elsewhere", "elsewhere.deep:S", setting="source_only", summary="Theirs.")]


@hookimpl
def register_metrics():
    return [register("elsewhere", "elsewhere.deep:M", summary="Theirs.")]
"""
# A grid with the plugin for one thing, and the kinds that hang on it.
USES: Mapping[str, tuple[Mapping[str, Any], str]] = {
    "dataset": (
        {"domains.dark": "elsewhere[file={folder}/dark/dataset.json]"},
        f"items pack stored towers segments segment_features {TRAINING}",
    ),
    "encoder": (
        {
            "encoders.frozen": "elsewhere[architecture=urbancross-tiny,"
            "checkpoint={folder}/weights.safetensors,frozen_towers=image]"
        },
        f"towers {TRAINING}",
    ),
    "adaptation": ({"adaptations.few": "elsewhere"}, METHOD),
    "selector": ({"selectors": ["last", "elsewhere"]}, "rank score"),
    "metric": ({"metrics": ["recall", "elsewhere"]}, "rank score"),
}


@pytest.fixture(autouse=True)
def _versions_are_asked_anew() -> Iterator[None]:
    def forget() -> None:
        for cached in (own_version, versions.core, versions.decoders):
            cached.cache_clear()

    forget()
    yield
    forget()
    for name in [name for name in sys.modules if name.partition(".")[0] in ("elsewhere", "some_file")]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The folder of a world, and its grid with fewer methods."""
    folder = tmp_path_factory.mktemp("code")
    fewer = {"adaptations.uda": None, "adaptations.after": None, "search": None}
    return folder, changed(write_world(folder), fewer)


@pytest.fixture
def keys(world: tuple[Path, dict[str, Any]]) -> KeysOf:
    """The keys of the grid with some changes, with whatever is installed now."""
    folder, grid = world

    def call(change: Mapping[str, Any]) -> Keys:
        placed = json.loads(json.dumps(change).replace("{folder}", str(folder)))
        return keys_of(planned(changed(grid, placed), folder, Registry.discover()))

    return call


class Distribution:
    """A distribution `elsewhere`, as an installer leaves it in a folder of `sys.path`."""

    def __init__(self, site: Path) -> None:
        self.package = site / "elsewhere"
        self._info = site / "elsewhere-1.0.dist-info"
        for folder in (self.package / "deep", self._info):
            folder.mkdir(parents=True)
        (self.package / "__init__.py").write_text(FACE, encoding="utf-8")
        data = "from urbancross_datasets.karpathy import Karpathy\n\n\nclass Mine(Karpathy):\n    pass\n"
        (self.package / "data.py").write_text(data, encoding="utf-8")
        deep = "from elsewhere.deep import helper\n\nE = A = S = M = helper.WEIGHT  # a plan loads none of them\n"
        (self.package / "deep" / "__init__.py").write_text(deep, encoding="utf-8")
        (self.package / "deep" / "helper.py").write_text("WEIGHT = 1\n", encoding="utf-8")
        (self._info / "entry_points.txt").write_text(
            "[urbancross_bench]\nelsewhere = elsewhere\n", encoding="utf-8"
        )
        self.release("1.0")

    def release(self, version: str) -> None:
        """Install this version in place of the one that is there."""
        content = f"Metadata-Version: 2.1\nName: elsewhere\nVersion: {version}\n"
        (self._info / "METADATA").write_text(content, encoding="utf-8")

    def come_from(self, origin: Mapping[str, Any] | None) -> None:
        """Say where it was installed from; None: from an index."""
        if origin is not None:
            (self._info / "direct_url.json").write_text(json.dumps(origin), encoding="utf-8")

    def append(self, file: str, text: str) -> None:
        """Write more at the end of a file of the package."""
        with (self.package / file).open("a", encoding="utf-8") as opened:
            opened.write(text)


@pytest.fixture
def distribution(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Distribution:
    """Installed, from an index."""
    monkeypatch.syspath_prepend(tmp_path / "site")
    return Distribution(tmp_path / "site")


def moved(before: Keys, after: Keys) -> set[str]:
    return {kind for kind in before if before[kind] != after[kind]}


@pytest.mark.parametrize("kind", USES)
def test_an_installed_plugin_counts_by_its_version_alone(
    distribution: Distribution, keys: KeysOf, kind: str
) -> None:
    change, moves = USES[kind]
    first = keys(change)
    distribution.append("deep/helper.py", "WEIGHT = 2\n")
    assert keys(change) == first
    distribution.release("1.1")
    assert moved(first, keys(change)) == {*moves.split()}


@pytest.mark.parametrize("kind", USES)
def test_an_editable_plugin_counts_by_its_sources_too(distribution: Distribution, keys: KeysOf, kind: str) -> None:
    distribution.come_from({"url": "file:///somewhere", "dir_info": {"editable": True}})
    change, moves = USES[kind]
    seen = [keys(change)]
    # A comment is a change: which edits of a source change a result is nothing to guess at.
    for file, text in (("data.py", "# more\n"), ("deep/helper.py", "WEIGHT = 2\n"), ("deep/new.py", "")):
        distribution.append(file, text)
        seen.append(keys(change))
        assert moved(seen[-2], seen[-1]) == {*moves.split()}, file
    for text in ("1\n", "2\n"):  # what a package reads beside its sources decides a result as they do
        distribution.append("deep/table.json", text)
        seen.append(keys(change))
        assert moved(seen[-2], seen[-1]) == {*moves.split()}
    (distribution.package / "__pycache__").mkdir(exist_ok=True)
    for passing in ("__pycache__/helper.pyc", "deep/old.pyc", ".helper.py.swp"):
        distribution.append(passing, "No source.\n")
    assert keys(change) == seen[-1]
    distribution.release("1.1")
    assert moved(seen[-1], keys(change)) == {*moves.split()}


def test_data_beside_sources_moves_no_key_of_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An architecture is in the identity of the options that name it; another one added is nobody's."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "__init__.py").write_text("x = 1\n", encoding="utf-8")
    found = []
    for _ in range(2):
        own_version.cache_clear()
        found.append([own_version("elsewhere"), code_version("elsewhere", None)])
        (tmp_path / "elsewhere" / "more.json").write_text("{}", encoding="utf-8")
    assert [one == other for one, other in zip(*found, strict=True)] == [True, False]
    assert found[0][0].partition("+")[2] == found[0][1].partition("+")[2]  # sources alone give one hash in both


def test_what_a_grid_does_not_use_does_not_count(distribution: Distribution, keys: KeysOf) -> None:
    first = keys({})
    distribution.release("2.0")
    distribution.come_from({"url": "file:///somewhere", "dir_info": {"editable": True}})
    assert keys({}) == first


def test_a_checkout_counts_by_its_sources_however_it_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what setuptools left in it, as by an editable install, which that hides where Python starts there."""
    monkeypatch.syspath_prepend(tmp_path / "site")
    editable = Distribution(tmp_path / "site")
    editable.come_from({"url": "file:///x", "dir_info": {"editable": True}})
    (tmp_path / "site" / "elsewhere").rename(tmp_path / "elsewhere")
    monkeypatch.syspath_prepend(tmp_path)
    installed = code_version("elsewhere", "elsewhere")
    left = tmp_path / "elsewhere.egg-info"
    left.mkdir()
    (left / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n", encoding="utf-8")
    (left / "SOURCES.txt").write_text("setup.py\nelsewhere/__init__.py\n", encoding="utf-8")
    (tmp_path / "setup.py").write_text("x = 1\n", encoding="utf-8")
    assert code_version("elsewhere", "elsewhere") == installed
    (tmp_path / "elsewhere" / "data.py").write_text("Mine = 2\n", encoding="utf-8")
    assert code_version("elsewhere", "elsewhere") != installed


@pytest.mark.parametrize("origin", [{"dir_info": {}}, {"vcs_info": {"vcs": "git", "commit_id": "0" * 40}}])
def test_a_plugin_installed_from_a_folder_or_from_git_counts_by_its_sources(
    distribution: Distribution, keys: KeysOf, origin: Mapping[str, Any]
) -> None:
    distribution.come_from({"url": "file:///somewhere", **origin})
    change, moves = USES["adaptation"]
    first = keys(change)
    distribution.append("deep/helper.py", "WEIGHT = 2\n")
    assert moved(first, keys(change)) == {*moves.split()}


ONE_FILE = """
from urbancross_bench.interfaces import Adaptation, hookimpl, register


class Mine(Adaptation):
    pass


@hookimpl
def register_adaptations():
    return [register("mine", "some_file:Mine", setting="few_shot", needs={"gradients"}, summary="Mine.")]
"""


def test_a_file_counts_by_its_content_in_any_folder(tmp_path: Path, keys: KeysOf) -> None:
    def with_file(folder: str, content: str) -> Keys:
        file = tmp_path / folder / "some_file.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(content, encoding="utf-8")
        sys.modules.pop("some_file", None)
        return keys({"plugins": [str(file)], "adaptations.few": "mine", "ablation": None})

    first = with_file("a", ONE_FILE)
    assert with_file("b", ONE_FILE) == first
    assert moved(first, with_file("b", ONE_FILE + "# more\n")) == {*METHOD.split()}


# ── The core ──────────────────────────────────────────────────────────────────────────────────────

# Room of the core → the kinds of which every key moves with it.
ROOMS = {
    "data": f"pack stored segments towers segment_features {TRAINING}",
    "data.views": f"towers segment_features {TRAINING}",
    "data.domain": "items rank score",
    "modelling": f"towers segment_features {TRAINING}",
    "execution.training": f"towers segment_features {TRAINING}",
    "evaluation": "items rank score",
    "execution.selection": "items rank score",
    "execution.items": f"towers segment_features items {TRAINING}",
    "interfaces.adaptation": f"towers segment_features {TRAINING}",
    "interfaces.metric": "items rank score",
    "execution.scoring": "items rank score",
    "execution.stages": f"items pack stored segments towers segment_features {TRAINING}",
    "execution.preparing": f"items pack stored segments towers segment_features {TRAINING}",
    "leaderboard": "",
    "cli": "",
    "execution.local": "",
    "execution.scheduler": "",
}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_of_the_core_moves_what_it_makes(keys: KeysOf, monkeypatch: pytest.MonkeyPatch, room: str) -> None:
    edited = ""
    monkeypatch.setattr(
        versions, "own_version", lambda module: f"{module}, edited" if module == edited else module
    )
    before = keys({})
    edited = f"urbancross_bench.{room}"
    versions.core.cache_clear()
    after = keys({})
    assert {kind for kind in before if not before[kind] & after[kind]} == {*ROOMS[room].split()}
    assert moved(before, after) == {*ROOMS[room].split()}


@pytest.mark.parametrize("library", ["pillow", "tifffile", "imagecodecs"])
def test_a_decoder_moves_what_is_made_of_pixels(
    keys: KeysOf, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    before, version = keys({}), importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0" if name == library else version(name))
    versions.decoders.cache_clear()
    assert moved(before, keys({})) == {*f"pack segments towers segment_features {TRAINING}".split()}


def test_sources_count_with_their_folders_and_in_namespace_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    part = tmp_path / "elsewhere" / "part"  # `elsewhere` has no __init__.py
    part.mkdir(parents=True)
    seen = []
    for text in ("x = 1\n", "x = 2\n"):
        (part / "__init__.py").write_text(text, encoding="utf-8")
        seen.append(code_version("elsewhere", None))
    part.rename(part.with_name("renamed"))
    seen.append(code_version("elsewhere", None))
    assert len({*seen}) == 3


def test_what_a_plugin_imports_from_beside_it_counts_with_what_that_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A helper beside a file, a package of the same checkout; of that the modules on the way, and no others."""
    monkeypatch.syspath_prepend(tmp_path)
    files = {
        "some_file.py": "import helper_of_it, yaml\ndef late():\n    from its_lab.losses import sums\n",
        "helper_of_it.py": "import some_file\n",  # in a circle
        "its_lab/__init__.py": "",
        "its_lab/losses/__init__.py": "from . import weights\nfrom ..tools.all import *\nimport its_lab.broken\n",
        "its_lab/losses/weights.py": "from ............. import nowhere\n",
        "its_lab/losses/sums.py": "",
        "its_lab/tools/all.py": "",  # in a folder without __init__.py
        "its_lab/broken.py": "def (",
        "its_lab/unused.py": "",
        "its_lab/table.json": "{}",
        "another.py": "",
        "json.py": "",  # Python has one
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    counted = set()
    for name in files:
        before = code_version("some_file", None)
        with (tmp_path / name).open("a", encoding="utf-8") as opened:
            opened.write("\n")
        if code_version("some_file", None) != before:
            counted.add(name)
    assert counted == {*files} - {"its_lab/unused.py", "its_lab/table.json", "another.py", "json.py"}
    elsewhere = tmp_path / "moved"  # names are those of imports, wherever the files lie
    for name in files:
        (elsewhere / name).parent.mkdir(parents=True, exist_ok=True)
        (elsewhere / name).write_bytes((tmp_path / name).read_bytes())
    there = code_version("some_file", None)
    monkeypatch.syspath_prepend(elsewhere)
    importlib.invalidate_caches()
    assert code_version("some_file", None) == there


def test_a_plugins_version_does_not_hang_on_how_python_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither on what else is on its path, nor on what has been imported."""
    for folder in ("here", "vendored"):
        (tmp_path / folder).mkdir()
    (tmp_path / "here" / "some_file.py").write_text("import elsewhere\n", encoding="utf-8")
    (tmp_path / "vendored" / "elsewhere.py").write_text("x = 1\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / "here")
    before = code_version("some_file", None)
    monkeypatch.syspath_prepend(tmp_path / "vendored")
    importlib.import_module("elsewhere")
    assert code_version("some_file", None) == before


def test_what_was_installed_with_a_plugin_from_its_folder_counts(
    distribution: Distribution, tmp_path: Path
) -> None:
    site = distribution.package.parent
    (site / "its_common.py").write_text("x = 1\n", encoding="utf-8")
    (site / "elsewhere-1.0.dist-info" / "RECORD").write_text("elsewhere/__init__.py,,\nits_common.py,,\n")
    distribution.come_from({"url": "file:///somewhere", "dir_info": {}})
    before = code_version("elsewhere", "elsewhere")
    (site / "its_common.py").write_text("x = 2\n", encoding="utf-8")
    assert code_version("elsewhere", "elsewhere") != before


@pytest.mark.parametrize("origin", [None, {"url": "file:///somewhere", "dir_info": {"editable": True}}])
def test_a_plugin_of_ours_that_others_extend_counts(
    distribution: Distribution, monkeypatch: pytest.MonkeyPatch, origin: Mapping[str, Any] | None
) -> None:
    distribution.come_from(origin)
    before = code_version("elsewhere", "elsewhere")
    assert code_version("elsewhere", "elsewhere") == before
    monkeypatch.setattr(sources, "own_version", lambda module: f"another {module}")
    assert code_version("elsewhere", "elsewhere") != before
