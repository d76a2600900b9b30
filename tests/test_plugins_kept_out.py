"""Plugins that are kept out, by whom and how; what `plugins doctor` says; versions of the plugin interface."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from conftest import Result

from urbancross_bench.disabling import VARIABLE, note
from urbancross_bench.errors import PluginError
from urbancross_bench.execution import worker
from urbancross_bench.interfaces import API_VERSION, hookimpl, register
from urbancross_bench.registry import Provider, Registry

Cli = Callable[..., Result]
MAJOR = int(API_VERSION.partition(".")[0])


@pytest.fixture(autouse=True)
def _settings_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("URBANCROSS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv(VARIABLE, "")  # `--disable-plugin` sets it, and this puts it back


@pytest.fixture
def beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a distribution of one module, called as it, on Python's path."""

    def install(name: str, code: str) -> None:
        (tmp_path / f"{name}.py").write_text(code)
        about = tmp_path / f"{name}_dist-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[urbancross_bench]\n{name} = {name}\n")

    monkeypatch.syspath_prepend(str(tmp_path))
    return install


def statuses(cli: Cli, *arguments: str) -> dict[str, str]:
    found = json.loads(cli(*arguments, "plugins", "list", "--json").out)["broken"]
    return {one["provider"].partition("(")[2].rstrip(")"): one["status"] for one in found}


def test_an_option_keeps_a_plugin_out_of_one_command(cli: Cli) -> None:
    assert "recall" in cli("plugins", "list").out
    out = cli("--disable-plugin", "metrics", "--disable-plugin", "trackers", "plugins", "list").out
    assert "\nmetric " not in out
    assert out.count("\ndisabled ") == 2
    assert statuses(cli, "--disable-plugin", "metrics")["urbancross_metrics"] == "disabled"


def test_a_name_that_is_not_there_keeps_nothing_out_in_silence(
    cli: Cli, beside: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = cli("--disable-plugin", "metrcs", "plugins", "list")
    assert (wrong.status, 'Did you mean "metrics"' in wrong.err) == (2, True)
    beside("leaves", "raise SystemExit\n")  # may be noted all the same, without being imported
    assert cli("plugins", "disable", "leaves-dist").status == 0
    monkeypatch.setenv("URBANCROSS_LOAD_PLUGINS", "metrcs")
    missed = cli("plugins", "show", "recall")
    assert (missed.status, "URBANCROSS_LOAD_PLUGINS='metrcs' does not name" in missed.err) == (2, True)


def test_a_listing_keeps_words_apart(cli: Cli, beside: Callable[[str, str], None]) -> None:
    beside("torn", "urbancross_api = '>=99'\n")
    assert "\nincompatible torn-dist 1.0" in cli("plugins", "list").out


def test_what_is_disabled_says_so_when_it_is_asked_for(cli: Cli) -> None:
    result = cli("--disable-plugin", "metrics", "show", "recall")
    assert result.status == 2
    with pytest.raises(Exception, match=r"no metric 'recall'.*disabled by --disable-plugin"):
        Registry.discover().find("metric", "recall")


def test_disable_is_kept_and_enable_takes_it_back(cli: Cli, tmp_path: Path) -> None:
    wrong = cli("plugins", "disable", "metrcs")
    assert (wrong.status, 'Did you mean "metrics"' in wrong.err) == (2, True)
    assert cli("plugins", "disable", "metrics").status == 0
    assert statuses(cli) == {"urbancross_metrics": "disabled"}
    assert "disabled by `plugins disable`" in cli("plugins", "list").out
    assert cli("plugins", "enable", "trackers").status == 2
    assert cli("plugins", "enable", "metrics").status == 0
    assert statuses(cli) == {}
    (tmp_path / "home" / "disabled-plugins.json").write_text("[1")
    damaged = cli("plugins", "list")
    assert damaged.status == 2
    assert "disabled-plugins.json cannot be read" in damaged.err


@pytest.mark.parametrize(
    ("wanted", "status"),
    [
        (None, "ok"),
        (f">={MAJOR}.0,<{MAJOR + 1}", "ok"),
        (f">={MAJOR + 1}", "incompatible"),
        (f"<{MAJOR}", "incompatible"),
        ("one or two", "broken"),
    ],
)
def test_a_plugin_says_what_it_was_written_for(wanted: str | None, status: str) -> None:
    module = ModuleType("mine")
    module.register_metrics = hookimpl(lambda: [register("mine", "m:C", summary="x")])  # type: ignore[attr-defined]
    module.register_metrics.__name__ = "register_metrics"
    if wanted is not None:
        module.urbancross_api = wanted  # type: ignore[attr-defined]
    registry = Registry()
    registry.add(Provider("mine", "dist", "1", "mine"), lambda: module)
    [provider] = registry.providers
    assert (provider.status, provider.api) == (status, wanted)
    assert bool(registry.plugins) == (status == "ok")
    if status == "incompatible":
        assert API_VERSION in str(provider.error)
    assert registry.with_files([]).providers == registry.providers
    if status != "ok":
        with pytest.raises(PluginError, match="dist 1"):
            Registry().add(Provider("mine", "dist", "1", "mine"), lambda: module, strict=True)


def test_the_doctor_names_what_is_wrong(
    cli: Cli, beside: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("URBANCROSS_LOAD_PLUGINS", "metrics,torn,twin,lost")
    well = cli("plugins", "doctor")
    assert (well.status, well.out.splitlines()[-1]) == (0, "nothing is wrong")
    head = (
        "from urbancross_bench.interfaces import Metric, hookimpl, register\n@hookimpl\ndef register_metrics():\n"
    )
    beside("torn", "urbancross_api = '>=99'\n")
    recall = "class Recall(Metric):\n    def score(self, ranking):\n        return {}\n"
    beside("twin", head + "    return [register('recall', 'twin:Recall', summary='x')]\n" + recall)
    beside("lost", head + "    return [register('lost', 'lost:Nothing', summary='x')]\n")
    ill = cli("plugins", "doctor")
    assert ill.status == 1
    problems = [line for line in ill.out.splitlines() if line.startswith("problem")]
    assert len(problems) == 3
    assert any("torn-dist 1.0" in line and "interface >=99" in line for line in problems)
    assert any("twin-dist 1.0" in line and "has the name of" in line for line in problems)
    assert any("lost:Nothing" in line for line in problems)
    assert "Traceback" not in ill.out
    assert "Traceback" in cli("plugins", "doctor", "--traceback").out
    assert len(json.loads(cli("plugins", "doctor", "--json").out)["problems"]) == 3


def test_processes_find_what_was_installed_or_disabled_since_their_server_began(
    beside: Callable[[str, str], None], tmp_path: Path
) -> None:
    def known() -> set[str]:
        return {provider.name for provider in worker.registry().providers if provider.status == "ok"}

    os.utime(tmp_path, (0, 0))  # Python looks into a folder anew by its time
    assert "late" not in known()
    beside(
        "late",
        "from urbancross_bench.interfaces import hookimpl\n\n@hookimpl\ndef register_metrics():\n    return []\n",
    )
    assert "late" in known()
    found = worker.registry()
    (tmp_path / "runs").mkdir()  # what a grid writes there is no reason to look again
    assert worker.registry() is found
    note(["late"])
    assert "late" not in known()


def test_a_home_of_no_user_is_named(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("URBANCROSS_HOME", "~no-such-user/mine")
    result = cli("plugins", "list")
    assert result.status == 2
    assert "URBANCROSS_HOME '~no-such-user/mine'" in result.err
