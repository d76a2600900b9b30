"""`plugins new`: packages that work as they are written, whatever the kind; one of them from pip to the table."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
import venv
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import Result, tree, write_domains, write_grid

from urbancross_bench import scaffold
from urbancross_bench.registry import Registry
from urbancross_bench.testing import KINDS

Cli = Callable[..., Result]
PYTHON = Path(sys.executable)


def install(package: Path) -> Path:
    """The package's source folder, with what an installer would leave beside it; to put on Python's path."""
    project = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    source = package / "src"
    info = source / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n", encoding="utf-8"
    )
    points = "".join(f"{name} = {place}\n" for name, place in project["entry-points"]["urbancross_bench"].items())
    (info / "entry_points.txt").write_text(f"[urbancross_bench]\n{points}", encoding="utf-8")
    return source


def run(command: list[object], **environment: str) -> subprocess.CompletedProcess[str]:
    words = [str(word) for word in command]
    return subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, **environment})


def pytest_of(packages: list[Path], *options: str) -> subprocess.CompletedProcess[str]:
    """The packages' own tests, with all of them installed, in one process; torch on one thread."""
    path = os.pathsep.join(str(package / "src") for package in packages)
    command = [PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options, *packages]
    return run(command, PYTHONPATH=path)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A package of each kind, by kind. Look, do not touch."""
    folder = tmp_path_factory.mktemp("packages")
    made = {kind: scaffold.write_package(kind, f"fresh_{kind}", folder, Registry()) for kind in scaffold.KINDS}
    for package in made.values():
        install(package)
    return made


@pytest.mark.long
def test_packages_of_all_kinds_pass_their_own_tests(packages: Mapping[str, Path]) -> None:
    done = pytest_of([*packages.values()], "-rA")
    assert done.returncode == 0, done.stdout[-4000:]
    for kind in packages:
        passed = re.findall(rf"^PASSED .*test_fresh_{kind}\.py::", done.stdout, re.MULTILINE)
        assert len(passed) > 5, f"{kind}: {len(passed)} tests passed"


def test_whatever_has_promises_has_a_template() -> None:
    assert {*scaffold.KINDS} >= {*KINDS}


@pytest.mark.long
def test_their_tests_can_fail(cli: Cli, tmp_path: Path) -> None:
    faults = {
        "metric": ("ranking.t2i.hits(k)", "ranking.t2i.hits(k + 1)"),
        "selector": ("spread * everything", "spread"),
        "renderer": ("harmless(printable(str(cell)))", "str(cell)"),
    }
    broken = []
    for kind, (right, wrong) in faults.items():
        assert cli("plugins", "new", kind, f"our_{kind}", "--out", tmp_path).status == 0
        broken.append(tmp_path / f"our-{kind}")
        file = broken[-1] / "src" / f"our_{kind}" / f"{kind}.py"
        code = file.read_text(encoding="utf-8")
        assert code.count(right) == 1
        file.write_text(code.replace(right, wrong), encoding="utf-8")
        install(broken[-1])
    kit = " and ".join(f"not TestOur{kind}" for kind in faults)  # what it finds is tested elsewhere
    done = pytest_of(broken, "-k", kit)
    assert {kind for kind in faults if re.search(rf"^FAILED .*test_our_{kind}.py", done.stdout, re.MULTILINE)} == {
        *faults
    }, done.stdout[-2000:]


def test_a_package_is_whole(packages: Mapping[str, Path]) -> None:
    for kind, package in packages.items():
        files = set(tree(package))
        wanted = {"__init__.py", f"{kind}.py", "py.typed"} | ({"options.py"} if kind != "command" else set())
        assert {f"src/fresh_{kind}/{name}" for name in wanted} <= files
        assert {"pyproject.toml", "README.md", ".gitignore", ".github/workflows/test.yml"} <= files
        text = "".join(content.decode() for name, content in tree(package).items() if "dist-info" not in name)
        assert re.findall(r"\$(?!\{\{ matrix| )", text) == [], kind  # every word is filled in
        shown = (package / "README.md").read_text(encoding="utf-8")
        assert f"fresh_{kind}" in shown
        assert ("part of the keys" in shown) == (
            kind not in ("executor", "tracker", "renderer", "column", "command")
        )
        assert "```" in shown.partition("|")[0]


def test_a_package_is_tidy(packages: Mapping[str, Path]) -> None:
    for kind, package in packages.items():
        for check in (["check"], ["check", "--select", "E,F,I,UP,B,C4,SIM"], ["format", "--check"]):
            done = run([PYTHON, "-m", "ruff", *check, "--no-cache", package])
            assert done.returncode == 0, f"{kind}: {done.stdout}"


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("adaption", "mine", "no kind 'adaption' of plugin to begin with. Did you mean \"adaptation\"?"),
        ("metric", "My Metric", "write small letters and digits"),
        ("metric", "3d", "write small letters and digits"),
        ("metric", "../up", "write small letters and digits"),
        ("metric", "a--b", "write small letters and digits"),
        ("metric", "class", "a word of Python's"),
        ("metric", "json", "a module 'json' is installed already"),
        ("metric", "numpy", "a module 'numpy' is installed already"),
        ("metric", "pillow", "a package 'pillow' is installed already, and yours would replace it"),
        ("metric", "none", "would call your code None, which has a meaning there"),
        ("segmenter", "mask", "would call your code Mask, which"),
        ("selector", "candidate", "would call your code Candidate, which"),
        ("executor", "event", "would call your code Event, which"),
        ("command", "records", "would call your code records, which"),
        ("command", "sorted", "would call your code sorted, which"),
        ("command", "tmp_path", "would call your code tmp_path, which"),
        ("encoder", "model", "would call your code Model, which"),
        ("adaptation", "dann", "adaptation 'dann' of urbancross-bench"),
    ],
)
def test_what_cannot_be_is_refused(kind: str, name: str, said: str, cli: Cli, tmp_path: Path) -> None:
    result = cli("plugins", "new", kind, name, "--out", tmp_path / "out")
    assert result.status == 2
    assert said in result.err
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten(cli: Cli, tmp_path: Path) -> None:
    assert cli("plugins", "new", "metric", "near_misses", "--out", tmp_path).status == 0
    before = tree(tmp_path)
    result = cli("plugins", "new", "dataset", "near-misses", "--out", tmp_path)
    assert result.status == 2
    assert "near-misses is there already" in result.err
    assert tree(tmp_path) == before


@pytest.mark.parametrize(("kind", "name"), [("metric", "dann"), ("command", "summary"), ("command", "count")])
def test_another_kind_may_share_a_name_and_code_a_local_one(
    kind: str, name: str, cli: Cli, tmp_path: Path
) -> None:
    assert cli("plugins", "new", kind, name, "--out", tmp_path).status == 0


def records(out: Path) -> dict[str, Any]:
    """The content of each `run.json`, by the method's label."""
    specs = [json.loads(file.read_text(encoding="utf-8")) for file in out.glob("runs/*/run.json")]
    return {spec["adaptation"]["label"]: spec for spec in specs}


@pytest.mark.slow
def test_a_method_from_pip_to_the_table_and_gone_again(cli: Cli, tmp_path: Path) -> None:
    """Installed beside the project into a fresh environment; then uninstalled, and the table is the same."""
    assert cli("plugins", "new", "adaptation", "means-apart", "--out", tmp_path).status == 0
    fresh = tmp_path / "fresh"
    venv.create(fresh, with_pip=False)
    python = fresh / "bin" / "python"
    [site] = fresh.glob("lib/python*/site-packages")
    ours = [path for path in sys.path if path.endswith("site-packages")]
    lines = [f"import site; site.addsitedir({path!r})\n" for path in ours]
    (site / "beside.pth").write_text("".join(lines), encoding="utf-8")
    pip = [PYTHON, "-m", "pip", "--python", python, "--disable-pip-version-check"]

    done = run([*pip, "install", "--no-index", "--no-deps", "--no-build-isolation", tmp_path / "means-apart"])
    assert done.returncode == 0, done.stderr
    file = write_grid(
        tmp_path,
        write_domains(tmp_path),
        scenarios=[{"source": "plain", "target": "dark"}],
        adaptations=["source_only", "means_apart[weight=0.5]"],
    )
    out, bench = tmp_path / "out", [python, "-m", "urbancross_bench"]
    done = run([*bench, "run", file, "--out", out])
    assert done.returncode == 0, done.stderr
    assert "means_apart[weight=0.5]" in (out / "leaderboard" / "summary.csv").read_text(encoding="utf-8")
    spec = records(out)["means_apart[weight=0.5]"]
    assert (spec["status"], spec["shown"]["setting"]) == ("ok", "unsupervised_images")
    assert re.fullmatch(
        r"0\.1\.0\+[0-9a-f]{12}", spec["adaptation"]["version"]
    )  # from a folder, so its source too

    done = run([*pip, "uninstall", "--yes", "means-apart"])
    assert done.returncode == 0, done.stderr
    done = run([*bench, "plan", file, "--out", out])
    assert (done.returncode, "there is no adaptation 'means_apart'" in done.stderr) == (2, True)
    done = run([*bench, "leaderboard", "build", out, "--out", tmp_path / "again"])
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "again") == tree(out / "leaderboard")
