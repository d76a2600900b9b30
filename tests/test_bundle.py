"""`export bundle` and `verify`: what a rerun is told, and which bundles are not believed."""

from __future__ import annotations

import json
import lzma
import math
import shutil
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import Outcome, Result, tree
from made_up_records import edit, write_runs
from safetensors.numpy import load_file, save_file

from urbancross_bench.errors import DataError
from urbancross_bench.execution import verifying
from urbancross_bench.execution.bundle import Bundle
from urbancross_bench.execution.keeping import asked_for, keep_grid, kept_grids
from urbancross_bench.execution.plan import make_plan
from urbancross_bench.execution.verifying import Verification, verify
from urbancross_bench.records import read_records, writing_record
from urbancross_bench.registry import Registry
from urbancross_bench.specs import load_grid

Cli = Callable[..., Result]
GridWriter = Callable[..., Path]


# What a bundle holds


@pytest.fixture(scope="module")
def bundle(outcome: Outcome, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a grid that was run. Look, do not touch."""
    from urbancross_bench.execution.bundling import write_bundle

    file = tmp_path_factory.mktemp("bundle") / "tiny.zip"
    assert write_bundle(outcome.out, file, 0.5).remarks == ()
    return file


def members(file: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(file) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def test_the_same_output_gives_the_same_bytes(outcome: Outcome, bundle: Path, cli: Cli, tmp_path: Path) -> None:
    result = cli("export", "bundle", outcome.out, tmp_path / "new" / bundle.name)
    assert (result.status, result.err) == (0, "")
    assert "16 runs with 48 scores written to" in result.out
    assert (tmp_path / "new" / bundle.name).read_bytes() == bundle.read_bytes()


def test_a_rerun_is_planned_with_the_same_keys(
    bundle: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anywhere: the grid in the bundle says all that the runs depend on."""
    with zipfile.ZipFile(bundle) as opened:
        opened.extractall(tmp_path)
        recorded = {
            name.split("/")[1] for name in opened.namelist() if name.startswith("records/") and "run" in name
        }
    monkeypatch.chdir(tmp_path)
    plan = json.loads(cli("plan", "grids/tiny.yaml", "--json").out)
    assert {run["key"] for run in plan["runs"] if run["state"] == "run"} == recorded
    assert f"urbancross-bench verify {bundle.name} rerun" in (tmp_path / "README.md").read_text()
    assert "torch==" in (tmp_path / "environment.txt").read_text()
    data = json.loads((tmp_path / "data.json").read_text())
    assert set(data) == {"plain", "dark"}
    assert {
        len(one["splits"][split]) for facts in data.values() for one in facts["content"] for split in one["splits"]
    } == {32}


def test_no_image_caption_or_host_leaves_the_house(outcome: Outcome, bundle: Path) -> None:
    [facts, *_] = [json.loads(file.read_text()) for file in outcome.out.glob("runs/*/provenance.json")]
    private = [b"white rows", b"_002.png", f'"{facts["adapt"]["host"]}"'.encode()]
    for name, content in members(bundle).items():
        plain = lzma.decompress(content) if name.endswith(".xz") else content
        assert [one for one in private if one in plain] == [], name


METHOD = """
from urbancross_bench.interfaces import Adaptation, hookimpl, register


class Mine(Adaptation):
    def loss(self, source, target, progress):
        return {}


@hookimpl
def register_adaptations():
    return [register("mine", "mine:Mine", setting="source_only", needs={"gradients"}, summary="mine")]
"""


def test_files_that_a_grid_names_come_along(
    grid: GridWriter, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text(METHOD)
    (tmp_path / "list.csv").write_text("split,image,caption,reason\ntrain,plain_000.png,,a copy\n")
    file = grid(plugins=["mine.py"], adaptations=["mine"], exclusions={"plain": "list.csv"})
    plan = make_plan(load_grid(file), Registry.discover([tmp_path / "mine.py"]))
    out = tmp_path / "out"
    out.mkdir()
    keep_grid(plan, out)
    for run in plan.runs[1:]:
        assert run.spec is not None
        with writing_record(out / "runs" / run.key, run.spec, "ok"):
            pass
    for name in ("mine.py", "list.csv"):
        before = (tmp_path / name).read_text()
        (tmp_path / name).write_text(f"{before}\n")
        refused = cli("export", "bundle", out, tmp_path / "b.zip")
        assert (refused.status, (tmp_path / "b.zip").exists()) == (2, False)
        assert f"{name} has changed since grid 'tiny' was run" in refused.err
        (tmp_path / name).write_text(before)
    result = cli("export", "bundle", out, tmp_path / "b.zip")
    assert "note: 1 of 4 runs of grid 'tiny' have not ended well" in result.err
    for name in ("mine.py", "list.csv"):
        (tmp_path / name).unlink()
    with zipfile.ZipFile(tmp_path / "b.zip") as opened:
        opened.extractall(tmp_path / "elsewhere")
    monkeypatch.delitem(sys.modules, "mine")  # another process has not loaded it
    result = cli("plan", tmp_path / "elsewhere" / "grids" / "tiny.yaml", "--json")
    assert result.status == 0, result.err
    again = json.loads(result.out)
    assert [run["key"] for run in again["runs"]] == [run.key for run in plan.runs]


def test_of_metrics_that_failed_the_bundle_says_no_more_than_the_kind_of_error(
    outcome: Outcome, cli: Cli, tmp_path: Path
) -> None:
    out = shutil.copytree(outcome.out, tmp_path / "out", symlinks=True)
    files = sorted(out.glob("runs/*/scores/*/score.json"))
    for file in files[:2]:
        edit(file, failed={"mine": "OSError('cannot read /home/alice/dark_002.png')"})
    edit(files[2], failed={"own": "metric 'own' of /home/alice/own.py (it) has words", "no": "1 error at alice's"})
    result = cli("export", "bundle", out, tmp_path / "b.zip")
    assert "note: metric mine failed in 2 scores" in result.err
    with zipfile.ZipFile(tmp_path / "b.zip") as opened:
        contents = b"".join(opened.read(name) for name in opened.namelist())
    assert b"alice" not in contents
    assert contents.count(b'"mine": "OSError"') == 2
    assert [contents.count(said) for said in (b'"own": "error"', b'"no": "error"')] == [1, 1]


def test_a_plugin_that_no_index_has_is_to_be_known_of(
    grid: GridWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from urbancross_bench.execution.bundling import write_bundle

    site = tmp_path / "site"
    for name, plugin, origin in (("local", "mine", True), ("bought", "mine", False), ("unused", "other", True)):
        about = site / f"{name}_methods-1.2.dist-info"
        about.mkdir(parents=True)
        source = METHOD.replace('"mine"', f'"{plugin}"').replace("mine:Mine", f"{name}_methods:Mine")
        (site / f"{name}_methods.py").write_text(source)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-methods\nVersion: 1.2\n")
        (about / "entry_points.txt").write_text(f"[urbancross_bench]\n{name} = {name}_methods\n")
        if origin:
            (about / "direct_url.json").write_text('{"url": "file:///here", "dir_info": {"editable": true}}')
    monkeypatch.syspath_prepend(site)
    monkeypatch.setenv("URBANCROSS_DISABLE_PLUGINS", "bought")  # one of a name at a time
    plan = make_plan(load_grid(grid(adaptations=["source_only", "mine"])), Registry.discover())
    monkeypatch.delenv("URBANCROSS_DISABLE_PLUGINS")
    out = tmp_path / "out"
    out.mkdir()
    keep_grid(plan, out)
    for run in plan.runs:
        assert run.spec is not None
        with writing_record(out / "runs" / run.key, run.spec, "ok"):
            pass
    [remark] = write_bundle(out, tmp_path / "b.zip", 0.5).remarks
    assert "plugins of local-methods 1.2 are in no index and not in the bundle" in remark
    readme = members(tmp_path / "b.zip")["README.md"].decode()
    assert readme.rstrip().endswith(f"## To know\n\n- {remark}")
    for name in ("local", "bought", "unused"):
        sys.modules.pop(f"{name}_methods", None)


def test_scores_of_an_older_form_of_the_grid_stay_at_home(outcome: Outcome, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in ("runs", "grids"):
        shutil.copytree(outcome.out / name, out / name)
    score = next(out.glob("runs/*/scores/*"))
    shutil.copytree(score, score.with_name("f" * 32))
    edit(score.with_name("f" * 32) / "score.json", key="f" * 32)
    assert sum(len(record.scores) for record in read_records([out])) == 49
    assert sum(len(record.scores) for record in asked_for(kept_grids(out), read_records([out]))) == 48


def test_without_a_kept_grid_it_says_how_to_keep_one(cli: Cli, tmp_path: Path) -> None:
    result = cli("export", "bundle", write_runs(tmp_path / "out"), tmp_path / "b.zip")
    assert (result.status, "nothing is redone, and the grid is kept" in result.err) == (2, True)
    result = cli("export", "bundle", tmp_path / "out", tmp_path / "b.tar")
    assert (result.status, "a bundle is a zip" in result.err) == (2, True)
    (tmp_path / "out" / "grids").mkdir()
    (tmp_path / "out" / "grids" / "tiny.json").write_text('{"schema": 1, "grid": {"name": 3}, "runs": {}}')
    result = cli("export", "bundle", tmp_path / "out", tmp_path / "b.zip")
    assert (result.status, "tiny.json cannot be read" in result.err) == (2, True)


def test_a_bundle_takes_the_place_of_a_bundle_alone(
    outcome: Outcome, bundle: Path, cli: Cli, tmp_path: Path
) -> None:
    file = tmp_path / bundle.name
    index = json.loads(members(bundle)["bundle.json"])
    with zipfile.ZipFile(file, "w") as opened:  # an older one
        opened.writestr("bundle.json", json.dumps(index | {"schema": 0, "made_by": "urbancross-bench 0.0.1"}))
    for _ in range(2):
        assert cli("export", "bundle", outcome.out, file).status == 0
        assert file.read_bytes() == bundle.read_bytes()
    with zipfile.ZipFile(tmp_path / "notes.zip", "w") as opened:
        opened.writestr("notes.txt", "mine")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as opened:
        opened.writestr("bundle.json", "[]")
    (tmp_path / "text.zip").write_text("no zip")
    (tmp_path / "folder.zip").mkdir()
    before = tree(tmp_path)
    for name in ("notes", "other", "text", "folder"):
        result = cli("export", "bundle", outcome.out, tmp_path / f"{name}.zip")
        assert result.status == 2
        assert f"{name}.zip is there already" in result.err
        assert "remove it or name another" in result.err
    assert tree(tmp_path) == before


def test_the_folder_of_a_bundle_stands_for_its_records(
    outcome: Outcome, bundle: Path, cli: Cli, tmp_path: Path
) -> None:
    with zipfile.ZipFile(bundle) as opened:
        opened.extractall(tmp_path / "bundle")
    said = [
        json.loads(cli("compare", "oracle", "source_only", place, "--json", "--top", 0).out)
        for place in (outcome.out, tmp_path / "bundle")
    ]
    assert said[0] == said[1]
    held = json.loads(cli("verify", bundle, tmp_path / "bundle", "--json").out)
    assert {name: count for name, count in held["counts"].items() if count} == {"same": 48}
    result = cli("rescore", tmp_path / "bundle")
    assert (result.status, "is a committed record" in result.err) == (2, True)


# What is not believed


def rewritten(bundle: Path, place: Path, change: Callable[[dict[str, bytes]], None]) -> Path:
    content = members(bundle)
    change(content)
    with zipfile.ZipFile(place, "w") as opened:
        for name, data in content.items():
            opened.writestr(name, data)
    return place


def run_file(content: Mapping[str, bytes]) -> str:
    return next(name for name in content if name.endswith("run.json"))


def change_index(content: dict[str, bytes], **changes: Any) -> None:
    index = json.loads(content["bundle.json"]) | changes
    content["bundle.json"] = json.dumps(index).encode()


def flip(content: dict[str, bytes]) -> None:
    name = run_file(content)
    content[name] = content[name].replace(b'"seed": ', b'"seed":  ')


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (flip, "run.json has another hash"),
        (lambda content: content.pop(run_file(content)), "run.json is gone"),
        (lambda content: content.update({"records/more.json": b"{}"}), "records/more.json was added"),
        (lambda content: content.update({"../outside": b"x"}), "'../outside', which leads out of it"),
        (lambda content: content.update({"/outside": b"x"}), "'/outside', which leads out of it"),
        (lambda content: content.update({"a\\b": b"x"}), "which leads out of it"),
        (lambda content: content.pop("bundle.json"), "is no bundle: it has no bundle.json"),
        (lambda content: content.update({"bundle.json": b'{"schema": 9}'}), "has schema 9"),
        (lambda content: content.update({"bundle.json": b"["}), "cannot be read"),
        (lambda content: content.update({"bundle.json": b"[]"}), "has schema None"),
        (lambda content: change_index(content, drift=None), "bundle.json is not whole"),
        (lambda content: change_index(content, drift="1"), "bundle.json is not whole"),
        (lambda content: change_index(content, drift=math.nan), "bundle.json is not whole"),
        (lambda content: change_index(content, members=[]), "bundle.json is not whole"),
    ],
)
def test_a_bundle_that_was_changed_is_refused(
    outcome: Outcome,
    bundle: Path,
    cli: Cli,
    tmp_path: Path,
    change: Callable[[dict[str, bytes]], None],
    problem: str,
) -> None:
    result = cli("verify", rewritten(bundle, tmp_path / "b.zip", change), outcome.out)
    assert result.status == 2
    assert problem in result.err
    assert not (tmp_path.parent / "outside").exists()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_members_of_one_name_and_too_much_of_them_are_refused(
    outcome: Outcome, bundle: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twice = tmp_path / "twice.zip"
    shutil.copyfile(bundle, twice)
    with zipfile.ZipFile(twice, "a") as opened:
        opened.writestr("data.json", opened.read("data.json"))
    result = cli("verify", twice, outcome.out)
    assert (result.status, "holds a member twice" in result.err) == (2, True)
    monkeypatch.setattr("urbancross_bench.execution.bundle._LARGEST", 2**17)
    result = cli("verify", bundle, outcome.out)
    assert (result.status, "would unpack to more than" in result.err) == (2, True)


def test_what_is_no_zip_is_refused(outcome: Outcome, bundle: Path, cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "b.zip"
    for content in (b"", b"no zip", bundle.read_bytes()[:-100]):
        file.write_bytes(content)
        result = cli("verify", file, outcome.out)
        assert (result.status, f"bundle {file} cannot be read" in result.err) == (2, True)
    result = cli("verify", tmp_path / "none.zip", outcome.out)
    assert (result.status, "none.zip" in result.err) == (2, True)


# What is said of a rerun


def test_the_output_itself_is_the_same(outcome: Outcome, bundle: Path, cli: Cli) -> None:
    result = cli("verify", bundle, outcome.out)
    assert (result.status, result.out) == (0, "48 scores: 48 same (drift: 0.5 points of mR)\n")
    said = json.loads(cli("verify", bundle, outcome.out, "--json").out)
    assert (said["repeated"], said["counts"]["same"], len(said["checked"])) == (True, 48, 48)


def test_a_moved_score_is_named_and_ends_with_status_1(
    outcome: Outcome, bundle: Path, cli: Cli, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(outcome.out / "runs", out / "runs")
    score = sorted(out.glob("runs/*/scores/*"))[5]
    content = json.loads((score / "score.json").read_text())
    content["metrics"]["mR"]["value"] += 0.75
    edit(score / "score.json", metrics=content["metrics"])
    arrays = load_file(score / "queries.safetensors")
    arrays["t2i.greater"][:3] += 1
    save_file(arrays, score / "queries.safetensors")
    shutil.rmtree(sorted(out.glob("runs/*"))[-1])
    result = cli("verify", bundle, out)
    assert result.status == 1
    assert result.out.startswith("48 scores: 44 same, 1 different, 3 missing (drift: 0.5 points of mR)")
    assert f"{content['selector']}, classic, ties expected, on {content['domain']}" in result.out
    assert "(+0.75)" in result.out
    assert "ranks t2i: 3 of 16 queries" in result.out
    assert "· 3 scores\n  the rerun has no such run" in result.out
    result = cli("verify", bundle, out, "--drift", 0.8)
    assert result.out.startswith("48 scores: 44 same, 1 within drift, 3 missing (drift: 0.8 points of mR)")


OTHER = {"label": "large", "name": "openclip", "version": "1", "options": {}}
ONE: dict[str, Any] = {"methods": ["ours"], "seeds": [0], "pairs": [("a", "b")]}


def held(place: Path, change: Callable[[Path], None] = lambda folder: None, **spec: Any) -> Verification:
    """A made-up run against a copy of it, changed; `spec` gives the copy another key, too."""
    for name, more in (("bundle", {}), ("rerun", spec)):
        for score in write_runs(place / name, **ONE, **more).glob("runs/*/scores/*"):
            edit(score / "score.json", step=5, candidate="")
            arrays = load_file(score / "queries.safetensors")
            for way in ("i2t", "t2i"):
                arrays |= {f"{way}.{count}": np.ones(30, dtype=np.int64) for count in ("tied", "tied_positives")}
            save_file(arrays, score / "queries.safetensors")
    [folder] = (place / "rerun" / "runs").iterdir()
    change(folder)
    records = [read_records([place / name]) for name in ("bundle", "rerun")]
    return verify(Bundle(records[0], {}, {}, {}), records[1], 0.5)


def in_score(**changes: Any) -> Callable[[Path], None]:
    return lambda folder: edit(next(folder.glob("scores/*/score.json")), **changes)


VERSIONED = {"label": "ours", "name": "ours", "version": "1", "options": {"version": 2}}


def moved(by: float, metric: str = "mR", of: str = "value") -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = next(folder.glob("scores/*/score.json"))
        metrics = json.loads(file.read_text())["metrics"]
        metrics[metric][of] += by
        edit(file, metrics=metrics)

    return change


def swapped(folder: Path) -> None:
    """One query gains, another loses: an equal value of other images, with an interval of its own."""
    moved(5.0, "i2t_R@1", of="low")(folder)
    file = next(folder.glob("scores/*/queries.safetensors"))
    arrays = load_file(file)
    sums, greater = arrays["image_sums.i2t_R@1"].copy(), arrays["i2t.greater"].copy()
    hit, miss = np.flatnonzero(sums[:, 0])[0], np.flatnonzero(sums[:, 0] == 0)[0]
    sums[[hit, miss]], greater[[hit, miss]] = sums[[miss, hit]], greater[[hit, miss]] + 1
    save_file(arrays | {"image_sums.i2t_R@1": sums, "i2t.greater": greater}, file)


def without_metric(folder: Path) -> None:
    file = next(folder.glob("scores/*/score.json"))
    metrics = json.loads(file.read_text())["metrics"]
    edit(file, metrics={name: value for name, value in metrics.items() if name != "mR"})


def by_another_selector(folder: Path) -> None:
    [score] = folder.glob("scores/*")
    edit(score / "score.json", key="0" * 32, selector="source_val")
    score.rename(score.with_name("0" * 32))


def shorter(folder: Path) -> None:
    file = next(folder.glob("scores/*/queries.safetensors"))
    arrays = load_file(file)
    save_file(arrays | {"i2t.greater": np.ascontiguousarray(arrays["i2t.greater"][:9])}, file)


def without_scores(folder: Path) -> None:
    shutil.rmtree(folder / "scores")


@pytest.mark.parametrize(
    ("change", "spec", "verdict", "where"),
    [
        (lambda folder: None, {}, "same", ()),
        (moved(1e-9), {}, "same", ()),
        (moved(0.4), {}, "within drift", ("(+0.4)",)),
        (moved(-0.6), {}, "different", ("metric mR", "(-0.6)")),
        (moved(3.0, "i2t_R@1"), {}, "within drift", ("metric i2t_R@1", "(+3)")),
        (without_metric, {}, "different", ("metric mR: absent",)),
        (in_score(test="0" * 32), {}, "different", ("data: test split of b",)),
        (by_another_selector, {}, "missing", ("no such score",)),
        (shorter, {}, "different", ("ranks i2t: 30 queries → 9",)),
        (without_scores, {}, "missing", ("no such score",)),
        (lambda folder: edit(folder / "run.json", status="oom"), {}, "different", ("status: ok → oom",)),
        (lambda folder: None, {"budget": {"steps": 6}}, "different", ("grid: budget.steps 5 → 6",)),
        (lambda folder: None, {"domains": {}}, "different", ("data: domains.a", "→ absent")),
        (lambda folder: None, {"encoder": OTHER}, "missing", ("the rerun has no such run",)),
        (lambda folder: None, {"code": "2"}, "same", ()),
        (lambda folder: None, {"adaptation": VERSIONED}, "different", ("grid: adaptation.options.version",)),
        (in_score(measured_by={"metrics": [], "code": "7"}), {}, "same", ()),
        (
            in_score(measured_by={"metrics": [{"options": {"k": 3}}], "code": "1"}),
            {},
            "different",
            ("grid: measured",),
        ),
        (in_score(precision="bfloat16"), {}, "different", ("grid: precision float32 → bfloat16",)),
        (in_score(setting="oracle"), {}, "different", ("grid: setting unsupervised → oracle",)),
        (in_score(floors={"random": {"mR": 1.0}}), {}, "different", ("grid: floors",)),
        (moved(5.0, of="low"), {}, "different", ("metric mR: low",)),
        (moved(5.0, of="chance"), {}, "different", ("metric mR: chance 5.0 → 10.0",)),
        (moved(1e-12, of="high"), {}, "same", ()),
        (swapped, {}, "within drift", ("ranks i2t: 2 of 30 queries",)),
    ],
)
def test_what_differs_is_said(
    tmp_path: Path, change: Callable[[Path], None], spec: dict[str, Any], verdict: str, where: tuple[str, ...]
) -> None:
    result = held(tmp_path, change, **spec)
    [one] = result.checked
    assert one.verdict == verdict
    assert result.repeated == (verdict in ("same", "within drift"))
    text = "\n".join(one.where)
    assert [part for part in where if part not in text] == []
    assert bool(one.where) == bool(where)


def test_options_that_are_called_as_versions_are_none() -> None:
    for path in ("adaptation.options.version", "search.space.version", "measured_by.metrics.0.options.code"):
        assert not verifying._is_version(path)
    for path in ("code", "adaptation.version", "adaptation.base.version", "measured_by.metrics.0.version"):
        assert verifying._is_version(path)


def test_versions_and_machines_are_told_and_judge_nothing(tmp_path: Path) -> None:
    def elsewhere(folder: Path) -> None:
        said = json.loads((folder / "provenance.json").read_text())
        said["adapt"] |= {"device": "another", "versions": {"torch": "9"}}
        edit(folder / "provenance.json", **said)
        in_score(measured_by={"metrics": [], "code": "1 3"})(folder)

    result = held(tmp_path, elsewhere, code="1 2")
    assert result.repeated
    assert dict(result.environment) == {
        "code 1 → 1 2": 1,
        "device x86_64 → another": 1,
        "measured_by.code 1 → 1 3": 1,
        "versions.torch absent → 9": 1,
    }


def test_of_several_runs_of_one_name_the_likest_is_taken(tmp_path: Path) -> None:
    def another(folder: Path) -> None:
        write_runs(folder.parents[1], **ONE, code="2", budget={"steps": 7})

    result = held(tmp_path, another, code="2")
    assert (result.checked[0].verdict, result.surplus) == ("same", 1)


def test_a_run_that_failed_in_both_is_the_same(tmp_path: Path) -> None:
    write_runs(tmp_path / "bundle", **ONE, status="failed")
    write_runs(tmp_path / "rerun", **ONE, status="failed")
    records = [read_records([tmp_path / name]) for name in ("bundle", "rerun")]
    [one] = verify(Bundle(records[0], {}, {}, {}), records[1], 0.5).checked
    assert (one.verdict, one.where) == ("same", ("status: failed → failed",))


def test_a_run_that_nobody_ended_is_missing(tmp_path: Path) -> None:
    for name in ("bundle", "rerun"):
        write_runs(tmp_path / name, **ONE, status="interrupted")
    records = [read_records([tmp_path / name]) for name in ("bundle", "rerun")]
    [one] = verify(Bundle(records[0], {}, {}, {}), records[1], 0.5).checked
    assert (one.verdict, one.where) == ("missing", ("status: interrupted → interrupted",))


@pytest.mark.parametrize("by", [math.nan, math.inf])
def test_what_is_no_number_is_never_the_same(tmp_path: Path, by: float) -> None:
    def both(folder: Path) -> None:
        for place in (folder, next((tmp_path / "bundle" / "runs").iterdir())):
            moved(by)(place)

    with pytest.raises(DataError, match=r"score\.json cannot be read: (NaN|Infinity) is no number of JSON"):
        held(tmp_path, both)


def test_a_run_that_failed_in_one_tells_of_no_machine(tmp_path: Path) -> None:
    write_runs(tmp_path / "bundle", **ONE)
    [failed] = (tmp_path / "bundle" / "runs").iterdir()
    edit(failed / "run.json", status="failed")
    (failed / "provenance.json").unlink()
    write_runs(tmp_path / "rerun", **ONE)
    records = [read_records([tmp_path / name]) for name in ("bundle", "rerun")]
    found = verify(Bundle(records[0], {}, {}, {}), records[1], 0.5)
    assert [one.where for one in found.checked] == [("status: failed → ok",)]
    assert found.environment == {}


def test_a_plugin_of_another_version_than_the_runs_is_noted(outcome: Outcome, tmp_path: Path) -> None:
    from urbancross_bench.execution.bundling import write_bundle

    out = shutil.copytree(outcome.out, tmp_path / "out", symlinks=True)
    for file in out.glob("runs/*/provenance.json"):
        said = json.loads(file.read_text())
        said["adapt"]["plugins"] = {"gone-methods": "1.0"}
        edit(file, **said)
    remarks = write_bundle(out, tmp_path / "b.zip", 0.5).remarks
    assert remarks == ("runs were made with gone-methods 1.0, where environment.txt has none",)


def test_the_grid_is_written_whole(bundle: Path) -> None:
    """With every default, so that another version's would change nothing."""
    kept = yaml.safe_load(members(bundle)["grids/tiny.yaml"])
    assert kept["evaluation_precision"] == "float32"
    assert kept["pretraining"]["schedule"] == "cosine"
