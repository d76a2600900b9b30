"""The command line: what each verb prints, and that bad input is named and exits with 2."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import Result

from urbancross_bench import __version__

Cli = Callable[..., Result]
GridWriter = Callable[..., Path]


def test_version_and_help(cli: Cli) -> None:
    assert cli("--version").out == f"urbancross-bench {__version__}\n"
    for verb in ("run", "plan", "plugins", "show", "leaderboard"):
        assert verb in cli("--help").out
    done = subprocess.run(
        [sys.executable, "-m", "urbancross_bench", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().endswith(__version__)


def test_plan_shows_runs_and_shared_stages(grid: GridWriter, cli: Cli, tmp_path: Path) -> None:
    result = cli("plan", grid(seeds=[0, 1, 2]))
    assert result.status == 0
    assert "36 runs: 24 to do, 0 reused, 12 skipped" in result.out
    assert "6 pretrain" in result.out
    assert "in-domain: there is no target to adapt to" in result.out
    plan = json.loads(cli("plan", grid(), "--json").out)
    assert len(plan["runs"]) == 12
    assert {run["state"] for run in plan["runs"]} == {"run", "skipped"}
    assert not Path("runs", "tiny").exists()


def test_plugins_list_and_show(cli: Cli) -> None:
    listed = json.loads(cli("plugins", "list", "--json").out)
    assert listed["broken"] == []
    assert {(p["kind"], p["name"]) for p in listed["plugins"]} >= {
        ("encoder", "openclip"),
        ("dataset", "synthetic"),
    }
    shown = cli("show", "urbancross").out
    assert "setting  unsupervised" in shown
    assert "first_share: float = 0.2" in shown
    assert "file: str = required" in cli("show", "karpathy").out
    assert '"name": "urbancross"' in cli("show", "urbancross", "--json").out
    assert cli("show", "coral[weight=2]").out == cli("show", "coral").out != ""
    result = cli("show", "urbancros")
    assert result.status == 2
    assert 'Did you mean "urbancross"' in result.err


def test_one_file_plugins_can_be_shown(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "shown_metric.py").write_text(
        "from urbancross_bench.interfaces import hookimpl, register\n"
        "@hookimpl\n"
        "def register_metrics():\n"
        "    return [register('mine', 'shown_metric:Mine', summary='my own')]\n"
    )
    assert "my own" in cli("plugins", "list", "--plugin", tmp_path / "shown_metric.py").out
    assert {line.split()[0] for line in cli("plugins", "list", "metric").out.splitlines()} == {"metric"}
    wrong = cli("plugins", "list", "metrics")
    assert (wrong.status, wrong.err) == (
        2,
        "error: there is no kind 'metrics' of plugin. Did you mean \"metric\"?\n",
    )
    assert "my own" in cli("show", "mine", "--plugin", tmp_path / "shown_metric.py").out


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"adaptations": ["xyz"]}, ["no adaptation 'xyz'", "Known: adabn"]),
        ({"adaptations": ["orcale"]}, ["no adaptation 'orcale'", 'Did you mean "oracle"']),
        ({"budgt": {"steps": 1}}, [":", "unknown key 'budgt'", 'Did you mean "budget"']),
        ({"domains": {"a": "karpathy[file=nowhere/data.json]"}}, ["nowhere/data.json does not exist"]),
        ({"domains": {"a": "karpaty[file=x]"}}, ['Did you mean "karpathy"']),
        ({"encoders": ["openclip[architecture=urbancross-tny]"]}, ['Did you mean "urbancross-tiny"']),
        ({"selectors": ["lst"]}, ["no selector 'lst'"]),
        ({"metrics": ["recal"]}, ['Did you mean "recall"']),
        ({"executor": "cloud"}, ["no executor 'cloud'"]),
        ({"plugins": ["nothing.py"]}, ["nothing.py"]),
    ],
)
def test_bad_grids_are_named(
    grid: GridWriter, cli: Cli, tmp_path: Path, changes: dict[str, object], expected: list[str]
) -> None:
    result = cli("run", grid(**changes), "--out", tmp_path / "out")
    assert result.status == 2
    for part in expected:
        assert part in result.err
    assert "Traceback" not in result.err
    assert not (tmp_path / "out").exists()


def test_a_grid_that_is_no_file(cli: Cli) -> None:
    result = cli("plan", "quickstrat")
    assert result.status == 2
    assert "'quickstrat' is neither a file nor a built-in grid. Did you mean \"quickstart\"?" in result.err


def test_damaged_caption_files_are_named(grid: GridWriter, cli: Cli, tmp_path: Path) -> None:
    file = grid()
    (tmp_path / "dark" / "dataset.json").write_text('{"images": [')
    result = cli("plan", file)
    assert result.status == 2
    assert "dark/dataset.json:1: dataset.json is not JSON" in result.err


def test_a_truncated_image_fails_the_runs_that_need_it_and_no_other(
    grid: GridWriter, cli: Cli, tmp_path: Path
) -> None:
    image = tmp_path / "dark" / "images" / "dark_002.png"  # a test image of `dark`
    file = grid(adaptations=["source_only"])
    image.write_bytes(image.read_bytes()[:70])
    result = cli("run", file, "--out", tmp_path / "out")
    assert result.status == 1
    assert "dark_002.png cannot be decoded" in result.err
    assert "2 ok, 2 failed" in result.out


@pytest.mark.parametrize("place", ["a file in the way", "a read-only folder"])
def test_an_output_folder_that_cannot_be_written(grid: GridWriter, cli: Cli, tmp_path: Path, place: str) -> None:
    if place == "a file in the way":
        out = tmp_path / "file" / "out"
        out.parent.touch()
    else:
        if os.geteuid() == 0:
            out = Path("/proc/urbancross-bench")  # not even root can write here
        else:
            (tmp_path / "locked").mkdir(mode=0o500)
            out = tmp_path / "locked" / "out"
    result = cli("run", grid(), "--out", out)
    assert result.status == 2
    assert f"output folder {out}" in result.err
    assert "cannot be written" in result.err


def test_relative_paths_lie_below_the_data_folder(
    cli: Cli, grid: GridWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = grid(domains={"plain": "karpathy[file=plain/dataset.json]"})
    monkeypatch.setenv("URBANCROSS_DATA", str(tmp_path))
    assert cli("plan", file).status == 0
    monkeypatch.delenv("URBANCROSS_DATA")
    assert cli("plan", file).status == 2


def test_built_in_and_example_grids_are_valid(cli: Cli) -> None:
    root = Path(__file__).parent.parent
    for file in [*(root / "urbancross_bench" / "grids").glob("*.yaml"), *(root / "grids").glob("*.yaml")]:
        content = yaml.safe_load(file.read_text())
        assert content["name"] == file.stem
    assert cli("plan", "quickstart").status == 0


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_stream_is_no_error(closed: str) -> None:
    command = f"{sys.executable} -m urbancross_bench plugins list {closed}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("verb", ["plugins list", "plugins list --json", "show dann"])
def test_a_reader_that_goes_away_is_no_failure_of_the_verb(verb: str) -> None:
    command = f"{sys.executable} -m urbancross_bench {verb} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", f"trap '' PIPE; {command}"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_pipe_of_the_verbs_own_is_no_reader_that_went_away(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from urbancross_bench.cli import verbs\n"
        "from urbancross_bench.cli.app import main\n"
        "import urbancross_bench.cli.status as status\n"
        "import os\n"
        "def broken(*names, **given):\n    end, pipe = os.pipe()\n    os.close(end)\n    os.write(pipe, b'x')\n"
        "verbs._ours = lambda name: __import__('click').Command(name, callback=broken)\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, tmp_path / "own.py", "status"], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (2, b"error: [Errno 32] Broken pipe\n")


STREAMS = """
import os, subprocess, sys
from pathlib import Path
from urbancross_bench.cli import app

app.app = lambda: None
app.main()
with Path(sys.argv[1]).open("w") as file:
    print("to nobody", flush=True)
    print("to nobody", file=sys.stderr, flush=True)
    child = subprocess.run([sys.executable, "-c", "import sys; sys.stdout.flush(); sys.stderr.flush()"])
    file.write(f"{file.fileno() > 2} {child.returncode}")
"""


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", ">&- 2>&-", "<&- 2>&-", "<&-"])
def test_a_closed_stream_is_no_other_file(tmp_path: Path, closed: str) -> None:
    (tmp_path / "streams.py").write_text(STREAMS)
    command = f"{sys.executable} {tmp_path}/streams.py {tmp_path}/said {closed}"
    assert subprocess.run(command, shell=True, capture_output=True, check=False).returncode == 0
    assert (tmp_path / "said").read_text() == "True 0"
