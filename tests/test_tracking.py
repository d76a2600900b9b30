"""Trackers are told everything, and whatever they do costs the grid nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import wait
from pathlib import Path

import pytest
from grid_events import ADAPT, RUNS, START, Heard, spec, status, write_record

from urbancross_bench.errors import PluginError, UsageError
from urbancross_bench.execution.hosting import Hosted, _caller
from urbancross_bench.execution.listening import Listener
from urbancross_bench.execution.tracking import Tracking, trackers
from urbancross_bench.files import write_json
from urbancross_bench.hookspecs import LIFECYCLE_HOOKS
from urbancross_bench.interfaces import Scores, Tracker
from urbancross_bench.registry import Registry

TESTS = Path(__file__).parent

HEADER = """
import json, os, signal, sys, threading
from urbancross_bench.interfaces import Options, Tracker, hookimpl, register

class Where(Options):
    place: str = ""

@hookimpl
def register_trackers():
    return [register(NAME, f"{__name__}:Mine", options=f"{__name__}:Where", summary="x")]
"""

BROKEN = """
class Mine(Tracker):
    def __init__(self, options):
        os.no_such_thing()
"""

# Writes down all it is told, each call a line; says so through a FIFO where `place` is one.
GOOD = """
class Mine(Tracker):
    options_type = Where
    def say(self, *told):
        with open(self.options.place, "a") as file:
            file.write(json.dumps(told) + "\\n")
    def on_grid_started(self, out, grid, runs):
        self.say("grid started", grid, [run["seed"] for run in runs], "torch" in sys.modules)
    def on_run_reused(self, run, trainings, scores):
        self.say("run reused", run["seed"], trainings, scores)
    def on_run_started(self, run):
        self.say("run started", run["seed"])
    def on_epoch_ended(self, stage, values, key):
        self.say("epoch", stage, values, key)
    def on_run_finished(self, run, status, error, scores):
        self.say("run finished", run["seed"], status, error, scores)
    def on_grid_finished(self, out, counts):
        self.say("grid finished", counts)
"""

RAISES = """
class Mine(Tracker):
    def on_epoch_ended(self, stage, values, key):
        self.times = getattr(self, "times", 0) + 1
        raise RuntimeError(f"not interested {self.times}")
    def on_grid_finished(self, out, counts):
        sys.exit(0)
"""

EXITS = """
class Mine(Tracker):
    def on_run_started(self, run):
        os._exit(3)
"""

CRASHES = """
class Mine(Tracker):
    def on_run_started(self, run):
        os.kill(os.getpid(), signal.SIGSEGV)
"""

PRINTS = """
class Mine(Tracker):
    def on_run_started(self, run):
        os.write(1, b"\\x00\\xff garbage\\n" * 20_000)
        os.write(2, b"\\x80{}" * 1000)
        print("the end of it")
"""

HANGS = """
class Mine(Tracker):
    options_type = Where
    def on_grid_started(self, out, grid, runs):
        fifo = open(self.options.place, "w")  # and never closed while the process lives
        print("hanging", os.getpid(), file=fifo, flush=True)
        threading.Event().wait()
"""

HOOKS = """
import json
from urbancross_bench.interfaces import hookimpl

@hookimpl
def on_epoch_ended(stage, values):
    with open(PLACE, "a") as file:
        file.write(json.dumps(["epoch", stage, values]) + "\\n")

@hookimpl
def on_run_finished(scores, status):
    with open(PLACE, "a") as file:
        file.write(json.dumps(["run finished", status, scores]) + "\\n")
"""


def plugin(folder: Path, name: str, body: str) -> Path:
    """A one-file plugin of a tracker of this name."""
    file = folder / f"{name}_tracker.py"
    file.write_text(HEADER.replace("NAME", repr(name)) + body)
    return file


def tell_of_a_grid(listener: Listener, out: Path, reused: int = 0) -> None:
    """Two runs, of which one fails, as if so many had been recorded before."""
    listener.planned(status(reused=reused))
    listener.run_started(RUNS[0])
    listener.stage_values(ADAPT[0], {"step": 3.0, "loss": 0.5})
    listener.stage_values(ADAPT[0], {"step": 6.0, "loss": float("nan")})
    write_record(out, RUNS[0], "ok", scores={"mR": 12.5})
    listener.run_ended(RUNS[0], "ok", None)
    listener.run_started(RUNS[1])
    write_record(out, RUNS[1], "failed", "no luck")
    listener.run_ended(RUNS[1], "failed", "no luck")
    listener.finished({"ok": 1, "failed": 1})


def test_a_grid_calls_every_hook_that_there_is(tmp_path: Path) -> None:
    file, place, heard = tmp_path / "every_hook.py", tmp_path / "called", Heard()
    hook = "@hookimpl\ndef {0}():\n    print({0!r}, file=open({1!r}, 'a'))\n"
    file.write_text(
        "from urbancross_bench.interfaces import hookimpl\n"
        + "".join(hook.format(name, str(place)) for name in LIFECYCLE_HOOKS)
    )
    listener = trackers([], Registry.discover([file]), [file], tmp_path / "out", heard, patience=60)
    tell_of_a_grid(listener, tmp_path / "out", reused=1)
    assert (heard.warnings, {*place.read_text().split()}) == ([], {*LIFECYCLE_HOOKS})


def lines(file: Path) -> list[object]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(autouse=True)
def _forget_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """One-file plugins of other tests may have the same names."""
    for name in [name for name in sys.modules if name.endswith(("_tracker", "_hooks"))]:
        monkeypatch.delitem(sys.modules, name)


def test_trackers_hear_all_and_those_that_misbehave_are_warned_of(tmp_path: Path) -> None:
    bodies = {"good": GOOD, "raises": RAISES, "exits": EXITS, "crashes": CRASHES, "prints": PRINTS}
    files = [plugin(tmp_path, name, body) for name, body in bodies.items()]
    hooks = tmp_path / "own_hooks.py"
    hooks.write_text(HOOKS.replace("PLACE", repr(str(tmp_path / "hooked"))))
    registry, heard, out = Registry.discover([*files, hooks]), Heard(), tmp_path / "out"
    references = [f"good[place={tmp_path / 'heard'}]", "raises", "exits", "crashes", "prints"]
    tell_of_a_grid(trackers(references, registry, [*files, hooks], out, heard, patience=60), out)

    scores = {"last/classic/b": {"mR": 12.5}}
    first = ["epoch", "adapt dann, a → b, seed 0", {"step": 3.0, "loss": 0.5}]
    told = lines(tmp_path / "heard")
    assert str(told.pop(3)).startswith("['epoch', 'adapt dann, a → b, seed 0', {'step': 6.0, 'loss': nan}")
    assert told == [
        ["grid started", "small", [0, 1], False],
        ["run started", 0],
        [*first, ADAPT[0].key],
        ["run finished", 0, "ok", None, scores],
        ["run started", 1],
        ["run finished", 1, "failed", "no luck", {}],
        ["grid finished", {"ok": 1, "failed": 1}],
    ]
    hooked = lines(tmp_path / "hooked")
    assert [hooked[0], *hooked[2:]] == [first, ["run finished", "ok", scores], ["run finished", "failed", {}]]
    assert sorted(heard.warnings) == [
        "tracker crashes: ended (signal 11, Segmentation fault) before the grid did; it is told nothing more",
        "tracker exits: ended (exit status 3) before the grid did; it is told nothing more",
        "tracker raises: failed 1 more time in the same ways; see {}".format(out / "journal/tracker-raises.log"),
        "tracker raises: failed in on_epoch_ended: RuntimeError: not interested 1",
        "tracker raises: failed in on_grid_finished: SystemExit: 0",
    ]
    assert (out / "journal" / "tracker-prints.log").read_bytes().endswith(b"the end of it\n")


def test_of_runs_that_are_reused_is_told_what_their_records_say(tmp_path: Path) -> None:
    file, heard, out = plugin(tmp_path, "good", GOOD), Heard(), tmp_path / "out"
    passes = [{"step": 3.0, "loss": 0.5}, {"step": 6.0, "loss": 0.25}]
    write_record(out, RUNS[0], "ok", scores={"mR": 12.5})
    write_json(out / "runs" / RUNS[0].key / "curve.json", {"pretrain": passes, "adapt": passes})
    references = [f"good[place={tmp_path / 'heard'}]"]
    listener = trackers(references, Registry.discover([file]), [file], out, heard, patience=60)
    listener.planned(status(reused=1))  # whose pre-training is to be done again, for the other run
    listener.finished({"reused": 1})
    assert heard.warnings == []
    training = {"stage": "adapt dann, a → b, seed 0", "key": ADAPT[0].key, "passes": passes}
    assert lines(tmp_path / "heard")[1:] == [
        ["run reused", 0, [training], {"last/classic/b": {"mR": 12.5}}],
        ["grid finished", {"reused": 1}],
    ]


@pytest.mark.parametrize("name", ["tensorboard", "trackio"])
def test_a_folder_that_cannot_be_written_to_is_said_once(tmp_path: Path, name: str) -> None:
    pytest.importorskip(name)
    (tmp_path / "a_file.csv").touch()
    heard, out = Heard(), tmp_path / "out"
    reference = f"{name}[folder={tmp_path / 'a_file.csv'}]"
    tell_of_a_grid(trackers([reference], Registry.discover(), [], out, heard, patience=60), out)
    said, *ended = heard.warnings
    assert "failed in on_grid_started: UsageError: nothing can be written to" in said
    assert said.endswith("name another by folder=…")
    assert [one for one in ended if not one.endswith("is told nothing more")] == []


def test_one_that_hangs_costs_no_time_silences_no_other_and_is_killed(tmp_path: Path) -> None:
    files = [plugin(tmp_path, "hangs", HANGS), plugin(tmp_path, "good", GOOD)]
    for name in ("hung", "heard"):
        os.mkfifo(tmp_path / name)
    references, heard = [f"hangs[place={tmp_path / 'hung'}]", f"good[place={tmp_path / 'heard'}]"], Heard()
    listener = trackers(references, Registry.discover(files), files, tmp_path / "out", heard, patience=0)
    listener.planned(status())
    with (tmp_path / "hung").open() as hung:
        _, process = hung.readline().split()
        with (tmp_path / "heard").open() as told:
            assert told.readline().startswith('["grid started"')
        for number in range(20_000):  # some megabytes: more than any pipe holds
            listener.stage_values(ADAPT[0], {"step": float(number), "loss": 0.5} | {f"{n}": 0.5 for n in range(9)})
        listener.finished({})
        assert hung.read() == ""  # its end of the FIFO is closed
    with pytest.raises(ProcessLookupError):
        os.kill(int(process), 0)
    said = [warning for warning in heard.warnings if warning.startswith("tracker hangs")]
    assert "had not ended 0 seconds after the grid, and was killed" in said[0]
    assert "events were dropped" in said[1]


def test_one_that_hangs_does_not_outlive_a_grid_that_is_killed(tmp_path: Path) -> None:
    plugin(tmp_path, "hangs", HANGS)
    os.mkfifo(tmp_path / "hung")
    code = f"""
import os, sys
sys.path.insert(0, {str(TESTS)!r})
from pathlib import Path
from grid_events import Heard, status
from urbancross_bench.execution.tracking import trackers
from urbancross_bench.registry import Registry
files, out = [{str(tmp_path / "hangs_tracker.py")!r}], Path({str(tmp_path / "out")!r})
reference = "hangs[place={tmp_path / "hung"}]"
trackers([reference], Registry.discover(files), files, out, Heard(), patience=0).planned(status())
with open({str(tmp_path / "hung")!r}) as hung:
    hung.readline()
    print("hanging", flush=True)
    sys.stdin.read()
"""
    grid = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert grid.stdout is not None
    assert grid.stdout.readline() == "hanging\n"
    with (tmp_path / "hung").open() as hung:  # has a writer: the process that hangs
        grid.kill()
        grid.communicate()
        assert hung.read() == ""  # comes when the last process that has it open to write is gone


def test_no_process_where_nobody_listens(tmp_path: Path) -> None:
    assert type(trackers([], Registry.discover(), [], tmp_path, Heard(), patience=60)) is Listener


def test_what_cannot_be_told_is_said_before_anything_starts(tmp_path: Path) -> None:
    absent = tmp_path / "absent_tracker.py"
    absent.write_text(
        HEADER.replace("NAME", "'absent'").replace("summary", "needs={'no_such_thing'}, summary") + GOOD
    )
    registry = Registry.discover([absent])

    def start(reference: str) -> Listener:
        return trackers([reference], registry, [absent], tmp_path, Heard(), patience=60)

    with pytest.raises(UsageError, match=r"there is no tracker 'tensorbord'\. Did you mean \"tensorboard\""):
        start("tensorbord")
    with pytest.raises(UsageError, match=r"tracker 'tensorboard' has no option 'foldr'.*\"folder\""):
        start("tensorboard[foldr=x]")
    with pytest.raises(
        PluginError, match=r"'absent' needs the package 'no_such_thing'.* pip install no_such_thing"
    ):
        start("absent")


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from urbancross_bench.execution import tracking

    found = tracking.importlib.util.find_spec
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda n: None if n == "trackio" else found(n))
    with pytest.raises(
        PluginError, match=r"needs the package 'trackio'.* pip install 'urbancross-bench\[trackio\]'"
    ):
        trackers(["trackio"], Registry.discover(), [], tmp_path, Heard(), patience=60)


def test_one_that_cannot_be_loaded_is_a_warning_while_the_grid_runs(tmp_path: Path) -> None:
    file, heard = plugin(tmp_path, "broken", BROKEN), Heard()
    listener = trackers(["broken"], Registry.discover([file]), [file], tmp_path, heard, patience=60)
    listener.planned(status())
    assert isinstance(listener, Tracking)
    [side] = listener._sides
    wait([side._connection])
    listener.stage_progress(ADAPT[0], 0.5, {})
    assert heard.warnings[0].startswith("tracker broken: cannot be loaded: AttributeError")
    listener.finished({})
    assert [warning for warning in heard.warnings[1:] if "is told nothing more" not in warning] == []


def test_one_that_leaves_out_arguments_is_told_which_it_must_take_before_a_run(tmp_path: Path) -> None:
    short = "class Mine(Tracker):\n    def on_grid_finished(self, counts): pass\n"
    file, heard = plugin(tmp_path, "short", short), Heard()
    listener = trackers(["short"], Registry.discover([file]), [file], tmp_path, heard, patience=60)
    listener.planned(status())
    assert isinstance(listener, Tracking)
    [side] = listener._sides
    wait([side._connection])
    listener.stage_progress(ADAPT[0], 0.5, {})
    assert heard.warnings[0].endswith(
        "PluginError: Mine.on_grid_finished must take (self, out, counts); it takes (self, counts)"
    )
    listener.finished({})


def test_the_tracker_of_the_page_posts_what_became_of_runs(tmp_path: Path) -> None:
    posted: list[dict[str, object]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    page = (TESTS.parent / "docs" / "tracking.md").read_text(encoding="utf-8")
    _, code = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    file = tmp_path / "my_tracker.py"
    file.write_text(code)
    heard, out = Heard(), tmp_path / "out"
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        reference = f'webhook[url="http://127.0.0.1:{server.server_port}"]'
        tell_of_a_grid(trackers([reference], Registry.discover([file]), [file], out, heard, patience=60), out)
        server.shutdown()
    assert heard.warnings == []
    assert [(run["status"], run["error"]) for run in posted] == [("ok", None), ("failed", "no luck")]


def hear(tracker: object, out: Path) -> None:
    """What a tracker is told of a grid, without its process."""
    scores: Scores = {"last/classic/b": {"mR": 12.5, "i2t_R@1": 50.0}}
    call: Mapping[str, Sequence[object]] = {
        "on_grid_started": (str(out), "small", [spec(0)]),
        "on_run_started": (spec(0),),
        "on_epoch_ended": ("adapt dann, a → b/c, seed 0", {"step": 3.0, "loss": 0.5}, ADAPT[0].key),
        "on_run_finished": (spec(0), "failed", "one | score", scores),
        "on_grid_finished": (str(out), {"ok": 1}),
    }
    for hook, arguments in call.items():
        getattr(tracker, hook)(*arguments)
        if hook == "on_epoch_ended":  # of two trainings that take turns, the second pass of the first
            tracker.on_epoch_ended("adapt dann, a → b/c, seed 0", {"step": 3.0, "loss": 0.7}, ADAPT[1].key)  # type: ignore[attr-defined]
            tracker.on_epoch_ended("adapt dann, a → b/c, seed 0", {"step": 6.0, "loss": 0.25}, ADAPT[0].key)  # type: ignore[attr-defined]


def hear_of_reused(tracker: Tracker, out: Path) -> None:
    """What a tracker is told of a grid that is finished, but for its process."""
    passes = [{"step": 3.0, "loss": 0.5}, {"step": 6.0, "loss": 0.25}]
    tracker.on_grid_started(str(out), "small", [])
    for seed in range(2):  # runs that share a training
        trained = [{"stage": "pretrain tiny, a", "key": START.key, "passes": passes}]
        tracker.on_run_reused(spec(seed), trained, {"last/classic/b": {"mR": 12.5}})
    tracker.on_grid_finished(str(out), {"reused": 2})


def test_tensorboard_is_filled_from_records_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):
        hear_of_reused(Registry.discover().resolve("tracker", "tensorboard").build(), tmp_path)
    [training] = (tmp_path / "tensorboard" / "trainings").iterdir()
    runs = list((tmp_path / "tensorboard" / "runs").iterdir())
    assert [len(list(place.glob("events*"))) for place in (training, *runs)] == [1, 1, 1]
    read = EventAccumulator(str(training)).Reload()
    assert [(point.step, point.value) for point in read.Scalars("train/loss")] == [(3, 0.5), (6, 0.25)]
    assert [len(EventAccumulator(str(run)).Reload().Scalars("last/classic/b/mR")) for run in runs] == [1, 1]


def test_tensorboard_is_told_the_whole_of_what_it_had_heard_in_part(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = Registry.discover().resolve("tracker", "tensorboard").build()
    tracker.on_grid_started(str(tmp_path), "small", [])
    tracker.on_epoch_ended("pretrain tiny, a", {"step": 3.0, "loss": 0.5}, START.key)
    for seed in range(2):
        tracker.on_run_finished(spec(seed), "failed", "boom", {})
    hear_of_reused(Registry.discover().resolve("tracker", "tensorboard").build(), tmp_path)
    [training] = (tmp_path / "tensorboard" / "trainings").iterdir()
    points = EventAccumulator(str(training)).Reload().Scalars("train/loss")
    assert [(point.step, point.value) for point in points] == [(3, 0.5), (6, 0.25)]
    for run in (tmp_path / "tensorboard" / "runs").iterdir():
        read = EventAccumulator(str(run)).Reload()
        [said] = [read.Tensors(tag)[-1].tensor_proto.string_val[0] for tag in read.Tags()["tensors"]]
        assert b"| status | ok |" in said
        assert read.Scalars("last/classic/b/mR")[-1].value == 12.5


def test_who_does_not_hear_of_reused_runs_is_not_read_their_records(tmp_path: Path) -> None:
    heard = {}
    for name, source in (("good", GOOD), ("deaf", GOOD.replace("def on_run_reused", "def on_nothing"))):
        file = plugin(tmp_path, name, source)
        registration = Registry.discover([file]).resolve("tracker", name).plugin.registration
        _, hears = _caller(
            Hosted(name, (str(file),), registration.target, registration.options, {}, "log", str(tmp_path), 5.0)
        )
        heard[name] = [hears(hook) for hook in ("on_run_reused", "on_grid_finished")]
    assert heard == {"good": [True, True], "deaf": [False, True]}


def test_trackio_is_filled_from_records_once(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    import sqlite3

    code = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
from pathlib import Path
from test_tracking import hear_of_reused
from urbancross_bench.registry import Registry
hear_of_reused(Registry.discover().resolve("tracker", "trackio").build(), Path({str(tmp_path)!r}))
"""
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    with sqlite3.connect(tmp_path / "trackio" / "small.db") as database:
        found = database.execute("SELECT group_concat(step) FROM metrics GROUP BY run_name ORDER BY 1").fetchall()
    assert found == [("0",), ("0",), ("3,6",)]


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    hear(Registry.discover().resolve("tracker", "tensorboard").build(), tmp_path)
    [training] = [p for p in (tmp_path / "tensorboard" / "trainings").iterdir() if ADAPT[0].key[:8] in p.name]
    read = EventAccumulator(str(training)).Reload()
    assert [(point.step, point.value) for point in read.Scalars("train/loss")] == [(3, 0.5), (6, 0.25)]
    assert len(list((tmp_path / "tensorboard" / "trainings").iterdir())) == 2
    [run] = (tmp_path / "tensorboard" / "runs").iterdir()
    assert run.name == "a → b · tiny · dann[weight=0.5] · seed 0 (11111111)"
    read = EventAccumulator(str(run)).Reload()
    assert [(point.step, point.value) for point in read.Scalars("last/classic/b/mR")] == [(0, 12.5)]
    [text] = read.Tensors("run/text_summary")
    assert b"| error | one \\| score |" in text.tensor_proto.string_val[0]
    assert "torch.utils.tensorboard" not in sys.modules


def test_tensorboard_shows_a_point_once_that_a_resumed_training_passes_again(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for steps in ((3, 6, 9), (6, 9, 12)):  # the second session goes on from what was saved at 3
        tracker = Registry.discover().resolve("tracker", "tensorboard").build()
        tracker.on_grid_started(str(tmp_path), "small", [])
        for step in steps:
            tracker.on_epoch_ended("adapt", {"step": float(step), "loss": step / 10}, ADAPT[0].key)
        tracker.on_run_finished(spec(0), "ok", None, {"last/classic/b": {"mR": 12.5}})
    [training] = (tmp_path / "tensorboard" / "trainings").iterdir()
    assert len(list(training.iterdir())) == 2
    read = EventAccumulator(str(training), purge_orphaned_data=True).Reload()
    assert [point.step for point in read.Scalars("train/loss")] == [3, 6, 9, 12]
    [run] = (tmp_path / "tensorboard" / "runs").iterdir()
    assert len(EventAccumulator(str(run)).Reload().Scalars("last/classic/b/mR")) == 1


def test_trackio_keeps_what_was_written_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trackio")
    import sqlite3

    monkeypatch.setenv("TRACKIO_SERVER_URL", "http://localhost:1/elsewhere")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "wrong"))
    code = f"""
import sys
sys.path.insert(0, {str(TESTS)!r})
from pathlib import Path
from test_tracking import hear
from urbancross_bench.registry import Registry
hear(Registry.discover().resolve("tracker", "trackio").build(), Path({str(tmp_path)!r}))
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    with sqlite3.connect(tmp_path / "trackio" / "small.db") as database:
        found = database.execute("SELECT run_name, step, metrics FROM metrics ORDER BY run_name, step").fetchall()
        configs = dict(database.execute("SELECT run_name, config FROM configs").fetchall())
    title = "adapt dann, a → b/c, seed 0 ({})".format
    run = "a → b · tiny · dann[weight=0.5] · seed 0 (11111111)"
    scores = {"ok": 0.0, "last/classic/b/mR": 12.5, "last/classic/b/i2t_R@1": 50.0}
    assert [(name, step, json.loads(metrics)) for name, step, metrics in found] == sorted(
        [
            (run, 0, scores),
            (title(ADAPT[0].key[:8]), 3, {"train/loss": 0.5}),
            (title(ADAPT[0].key[:8]), 6, {"train/loss": 0.25}),
            (title(ADAPT[1].key[:8]), 3, {"train/loss": 0.7}),
        ],
        key=lambda row: row[:2],
    )
    assert json.loads(configs[run])["adaptation weight"] == "0.5"
    assert not (tmp_path / "wrong").exists()
