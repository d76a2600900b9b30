"""Plugins: found, isolated, looked up, and refused with a reason."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from urbancross_bench.errors import PluginError, UsageError
from urbancross_bench.hookspecs import REGISTRATION_HOOKS
from urbancross_bench.interfaces import hookimpl, register
from urbancross_bench.registry import Provider, Registry
from urbancross_bench.sources import file_of


def provider(name: str, distribution: str | None = "some-dist") -> Provider:
    return Provider(name, distribution, "1.2", f"{name}_module")


def offering(hook: str, *names: str) -> ModuleType:
    """A plugin that offers something under each name."""

    def implementation() -> list[object]:
        return [register(name, "nowhere:Nothing", summary="") for name in names]

    module = ModuleType("offering")
    setattr(module, hook, hookimpl(implementation))
    return module


REGISTERS = """
@hookimpl
def register_metrics():
    return [register("once", "named_twice:Once", summary="x")]
"""


def test_every_kind_has_a_first_party_plugin() -> None:
    registry = Registry.discover()
    assert [p for p in registry.providers if p.error] == []
    ours_are_none = {"command", "column"}
    assert all(registry.of_kind(kind) for kind in {*REGISTRATION_HOOKS} - ours_are_none)


def test_every_first_party_plugin_loads_and_names_its_options() -> None:
    for plugin in Registry.discover().plugins:
        # A class may serve two registrations, one of which has options more.
        assert issubclass(plugin.options_type, plugin.load().options_type)
        assert plugin.registration.summary


def test_a_broken_plugin_costs_itself_only() -> None:
    registry = Registry()

    def fails() -> object:
        raise ImportError("no such thing")

    registry.add(provider("broken"), fails)
    registry.add(provider("good"), lambda: offering("register_metrics", "fine"))
    assert registry.find("metric", "fine").provider.name == "good"
    [broken] = [p for p in registry.providers if p.error]
    assert broken.name == "broken"
    assert "no such thing" in str(broken.error)
    assert "Traceback" in str(broken.traceback)
    with pytest.raises(UsageError, match=r"no metric 'fime'.*Did you mean \"fine\".*some-dist 1.2.*no such thing"):
        registry.find("metric", "fime")


def test_a_misspelt_hook_is_an_error_and_leaves_nothing_behind() -> None:
    registry = Registry()
    registry.add(provider("typo"), lambda: offering("register_metric", "fine"))
    registry.add(provider("next"), lambda: offering("register_metrics", "other"))
    assert "register_metric" in str(registry.providers[0].error)
    assert [p.registration.name for p in registry.plugins] == ["other"]


def test_a_raising_or_lying_hook_is_isolated() -> None:
    class Raises:
        @hookimpl
        def register_metrics(self) -> list[object]:
            raise ZeroDivisionError

    class Lies:
        @hookimpl
        def register_metrics(self) -> list[object]:
            return ["recall"]

    registry = Registry()
    registry.add(provider("raises"), Raises)
    registry.add(provider("lies"), Lies)
    registry.add(provider("good"), lambda: offering("register_metrics", "fine"))
    assert [p.error is None for p in registry.providers] == [False, False, True]
    assert "register()" in str(registry.providers[1].error)


def test_two_plugins_of_one_name_name_both_distributions() -> None:
    registry = Registry()
    registry.add(provider("a", "dist-a"), lambda: offering("register_metrics", "twin", "own"))
    registry.add(provider("b", "dist-b"), lambda: offering("register_metrics", "twin"))
    with pytest.raises(PluginError, match=r"dist-a 1.2.*dist-b 1.2"):
        registry.find("metric", "twin")
    assert registry.find("metric", "own")


@pytest.mark.parametrize(
    ("hook", "declared", "message"),
    [
        ("register_adaptations", {}, "names no setting"),
        ("register_selectors", {}, "names no setting"),
        ("register_selectors", {"setting": "source_only", "needs": {"target_val"}}, "must be 'oracle'"),
        (
            "register_selectors",
            {"setting": "oracle", "needs": {"sourceval"}},
            "known: source_val, target_unpaired",
        ),
        ("register_selectors", {"setting": "source_only", "needs": {"target_unpaired"}}, "must be 'unsupervised'"),
    ],
)
def test_what_a_plugin_sees_must_be_declared(hook: str, declared: dict[str, object], message: str) -> None:
    module = ModuleType("quiet")
    setattr(module, hook, hookimpl(lambda: [register("quiet", "m:C", summary="", **declared)]))  # type: ignore[arg-type]
    getattr(module, hook).__name__ = hook
    registry = Registry()
    registry.add(provider("quiet"), lambda: module)
    assert message in str(registry.providers[0].error)
    assert registry.plugins == []


def test_a_plugin_that_tries_to_leave_is_broken_and_no_more() -> None:
    registry = Registry()

    def leaves() -> object:
        raise SystemExit(0)

    registry.add(provider("leaves"), leaves)
    assert "SystemExit" in str(registry.providers[0].error)


def test_strict_mode_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PluginError, match="some-dist"):
        Registry().add(provider("typo"), lambda: offering("register_metric", "fine"), strict=True)


def test_the_allow_list_limits_installed_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("URBANCROSS_LOAD_PLUGINS", "metrics, selectors")
    assert {p.kind for p in Registry.discover().plugins} == {"metric", "selector"}
    monkeypatch.setenv("URBANCROSS_LOAD_PLUGINS", "")
    assert Registry.discover().plugins == []


@pytest.mark.parametrize(
    ("kind", "reference", "message"),
    [
        ("adaptation", "urbancros", r'no adaptation \'urbancros\'. Did you mean "urbancross"'),
        ("adaptation", "urbancross[ordr=none]", r'no option \'ordr\'. Did you mean "order"'),
        ("adaptation", "urbancross[triplet=much]", r"option 'triplet' of adaptation 'urbancross'.*number.*'much'"),
        ("adaptation", "urbancross[triplet=-1]", r"option 'triplet'.*greater than or equal to 0"),
        ("adaptation", "urbancross[adversarial=0,triplet=0]", "nothing would be trained"),
        ("adaptation", "source_only[x=1]", "takes no options"),
        ("dataset", "synthetic", r"several members; write one of synthetic/"),
        ("dataset", "synthetic/nordja", r"no member 'nordja'. Did you mean \"nordia\""),
        ("dataset", "karpathy", "file"),
        (
            "dataset",
            "csv[file=a.csv,caption_columns=caption_1]",
            r"option 'caption_columns' of dataset 'csv' must be a list, such as \[caption_1\] \(got 'caption_1'\)",
        ),
        (
            "dataset",
            "csv[file=12]",
            "option 'file' of dataset 'csv' must be text, and YAML reads this as 12: put it",
        ),
        (
            "dataset",
            "nothing",
            "file: under `plugins:` in the grid, or, for a command without a grid, by --plugin",
        ),
    ],
)
def test_references_are_checked_without_loading_the_plugin(kind: str, reference: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Registry.discover().resolve(kind, reference)


def test_a_one_file_plugin(tmp_path: Path) -> None:
    file = tmp_path / "my_metrics.py"
    file.write_text(
        "from urbancross_bench.interfaces import hookimpl, register\n"
        "@hookimpl\n"
        "def register_metrics():\n"
        "    return [register('mine', 'my_metrics:Mine', summary='x')]\n"
        "class Mine: pass\n"
    )
    plugin = Registry.discover([file]).find("metric", "mine")
    assert plugin.load().__name__ == "Mine"
    assert plugin.version.startswith("local+")
    with pytest.raises(PluginError, match=r"nothing_here\.py"):
        Registry.discover([tmp_path / "nothing_here.py"])


def test_a_file_may_be_named_twice(tmp_path: Path) -> None:
    file = tmp_path / "named_twice.py"
    file.write_text("from urbancross_bench.interfaces import hookimpl, register\n" + REGISTERS)
    registry = Registry().with_files([file, tmp_path / "." / "named_twice.py"])
    assert [plugin.registration.name for plugin in registry.plugins] == ["once"]


def test_a_link_to_a_file_has_the_name_of_the_link(tmp_path: Path) -> None:
    """That is the module which targets name."""
    (tmp_path / "linked_v3.py").write_text(
        "from urbancross_bench.interfaces import hookimpl, register\n"
        "@hookimpl\n"
        "def register_metrics():\n"
        "    return [register('linked', 'linked:Mine', summary='x')]\n"
        "class Mine: pass\n"
    )
    (tmp_path / "linked.py").symlink_to(tmp_path / "linked_v3.py")
    (tmp_path / "below").mkdir()
    for file in (tmp_path / "linked.py", tmp_path / "below" / ".." / "linked.py"):
        [provider] = Registry().with_files([file]).providers
        assert provider.location == str(file_of(file)) == str(tmp_path / "linked.py")
    content = (tmp_path / "linked_v3.py").read_text().replace("linked", "after_it").replace("Mine", "Mine2")
    (tmp_path / "after_it.py").write_text(f"import linked\n{content}")
    for last in (tmp_path / "linked_v3.py", file):  # each once, in the order that they are named in first
        both = Registry().with_files([file, tmp_path / "after_it.py", last]).providers
        assert [provider.name for provider in both] == ["linked", "after_it"]
    assert Registry().with_files([file]).find("metric", "linked").load().__name__ == "Mine"


@pytest.mark.parametrize("name", ["json", "datasets", "yaml"])
def test_a_file_that_would_hide_a_library_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / f"{name}.py").write_text(
        "from urbancross_bench.interfaces import hookimpl, register\n" + REGISTERS
    )
    with pytest.raises(PluginError, match=f"a library is called '{name}', which the file would hide; rename /"):
        Registry().with_files([tmp_path / f"{name}.py"])


def test_a_file_whose_sources_would_not_be_found_by_its_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "method.v2.py").write_text(
        "from urbancross_bench.interfaces import hookimpl, register\n" + REGISTERS
    )
    with pytest.raises(PluginError, match="a dot in a module's name stands for a package; rename /"):
        Registry().with_files([tmp_path / "method.v2.py"])


READS = """
from pathlib import Path
from urbancross_bench.identity import file_digest
from urbancross_bench.interfaces import Options

class Tabled:
    pass

class Table(Options):
    table: Path

    def identity(self):
        return {"table": file_digest(self.table)}

@hookimpl
def register_metrics():
    return [register("tabled", "reads_a_table:Tabled", options="reads_a_table:Table", summary="x")]
"""


def test_a_file_of_the_options_that_cannot_be_read_is_named_with_its_plugin(tmp_path: Path) -> None:
    file = tmp_path / "reads_a_table.py"
    file.write_text("from urbancross_bench.interfaces import hookimpl, register\n" + READS)
    resolved = Registry().with_files([file]).resolve("metric", "tabled[table=no.csv]")
    with pytest.raises(UsageError, match=r"metric 'tabled' .*, given as tabled\[table=no\.csv\]: .*'no\.csv'"):
        resolved.identity()


@pytest.mark.parametrize("arguments", [("a b", "m:C"), ("a", "m.C"), ("a", "m:C", "telepathy")])
def test_registrations_are_checked(arguments: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="plugin"):
        register(arguments[0], arguments[1], summary="", setting=arguments[2] if len(arguments) > 2 else None)
