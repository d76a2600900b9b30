"""What a grid does with its data: aliases, exclusion lists, shares, halves, and what it says of them."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import Result, write_karpathy

from urbancross_bench.data.domain import check, split_of
from urbancross_bench.data.exclusions import without
from urbancross_bench.data.images import FolderImages
from urbancross_bench.errors import DataError
from urbancross_bench.execution.plan import make_plan
from urbancross_bench.execution.store import Store
from urbancross_bench.identity import digest
from urbancross_bench.interfaces import Domain
from urbancross_bench.leaderboard.view import DEFAULT
from urbancross_bench.records import read_records
from urbancross_bench.registry import Registry
from urbancross_bench.specs import load_grid

Cli = Callable[..., Result]
GridWriter = Callable[..., Path]

POOL = """
from urbancross_bench.data.readers import data_path
from urbancross_bench.interfaces import Dataset, Options, hookimpl, register
from urbancross_datasets.karpathy import Karpathy, KarpathyOptions

@hookimpl
def register_datasets():
    members = ("plain", "dark", "pale")
    aliases = {"all": members, "two": members[:2]}
    return [register("pool", "MODULE:Pool", options="MODULE:PoolOptions", members=members, aliases=aliases,
                     summary="three folders")]

class PoolOptions(Options):
    folder: str

class Pool(Dataset):
    def read(self, member):
        file = data_path(self.options.folder) / member / "dataset.json"
        return Karpathy(KarpathyOptions(file=str(file))).read(None)
"""

METHODS = """
from urbancross_bench.interfaces import Adaptation, hookimpl, register

@hookimpl
def register_adaptations():
    settings = {"shots": "few_shot", "mixed": "generalisation", "streams": "unsupervised"}
    return [register(name, "MODULE:Method", setting=setting, needs={"gradients"}, summary=name)
            for name, setting in settings.items()]

class Method(Adaptation):
    def prepare(self, model, context):
        self.pair_loss = context.pair_loss

    def loss(self, source, target, progress):
        return {"pairs": self.pair_loss(source)}
"""


@pytest.fixture
def pool(tmp_path: Path, domains: dict[str, str]) -> Path:
    """The test's folder, with a third domain."""
    write_karpathy(tmp_path / "pale", shade=30)
    return tmp_path


@pytest.fixture
def plugins(tmp_path: Path, request: pytest.FixtureRequest) -> list[str]:
    """Two one-file plugins, under names of the test's own: a process keeps the modules it has loaded."""
    names = []
    for kind, source in (("pool", POOL), ("methods", METHODS)):
        module = f"{kind}_of_{request.node.name}"
        (tmp_path / f"{module}.py").write_text(source.replace("MODULE", module))
        names.append(f"{module}.py")
    return names


def planned(cli: Cli, *arguments: object) -> list[dict[str, object]]:
    result = cli("plan", *arguments, "--json")
    assert result.status == 0, result.err
    runs: list[dict[str, object]] = json.loads(result.out)["runs"]
    return runs


def read(file: Path) -> Domain:
    domain: Domain = Registry.discover().resolve("dataset", f"karpathy[file={file}]").build().read(None)
    return domain


def test_an_alias_is_pooled_as_a_source_and_each_of_its_members_as_a_target(
    pool: Path, plugins: list[str], grid: GridWriter, cli: Cli
) -> None:
    domains = {"everything": f"pool/all[folder={pool}]", "dark": f"pool/dark[folder={pool}]"}
    file = grid(plugins=plugins, domains=domains, adaptations=["source_only"])
    found = {(tuple(r["source"]), r["target"], r["kind"]) for r in planned(cli, file)}  # type: ignore[arg-type]
    whole = ("everything/plain", "dark", "everything/pale")  # a member the grid has a name for keeps it
    assert found == {
        *((whole, target, "seen_target") for target in whole),
        *((("dark",), target, "cross_domain") for target in whole if target != "dark"),
        (("dark",), "dark", "in_domain"),
    }


def test_an_alias_is_no_domain_of_its_own(pool: Path, plugins: list[str], cli: Cli, grid: GridWriter) -> None:
    domains = {"two": f"pool/twoo[folder={pool}]", "dark": f"pool/dark[folder={pool}]"}
    result = cli("plan", grid(plugins=plugins, domains=domains))
    assert result.status == 2
    assert "no member 'twoo'. Did you mean \"two\"?" in result.err


def test_generalisation_needs_several_sources(pool: Path, plugins: list[str], cli: Cli, grid: GridWriter) -> None:
    file = grid(
        plugins=plugins,
        domains={"two": f"pool/two[folder={pool}]", "pale": f"pool/pale[folder={pool}]"},
        scenarios=[{"source": "two", "target": "pale"}, {"source": "pale", "target": "two"}],
        adaptations=["mixed"],
    )
    states = {(len(r["source"]), r["state"], r["reason"]) for r in planned(cli, file)}  # type: ignore[arg-type]
    assert states == {(2, "run", None), (1, "skipped", "generalisation needs several sources")}


def test_few_shot_runs_where_a_share_is_given_and_nowhere_else(
    pool: Path, plugins: list[str], cli: Cli, grid: GridWriter
) -> None:
    pair = {"source": "plain", "target": "dark"}
    file = grid(
        plugins=plugins,
        scenarios=[pair, pair | {"share": 0.25}, pair | {"share": 0.5}],
        adaptations=["source_only", "shots"],
        seeds=[0, 1],
    )
    out = pool / "out"
    result = cli("run", file, "--out", out)
    assert result.status == 0, result.err
    assert "skipped: a scenario with a share of the target's pairs is for few-shot methods (4 runs)" in result.err
    records = read_records([out])
    assert sorted((r.spec["adaptation"]["label"], r.spec["shown"]["share"]) for r in records) == [
        *[("shots", 0.25)] * 2, *[("shots", 0.5)] * 2, *[("source_only", 1.0)] * 2,
    ]  # fmt: skip
    lines = list(csv.DictReader((out / "leaderboard" / "summary.csv").open(encoding="utf-8")))
    assert {line["setting"]: line["seeds"] for line in lines} == {
        "source_only": "2", "few_shot, 25 % of the pairs": "2", "few_shot, 50 % of the pairs": "2",
    }  # fmt: skip
    assert all(line["mean mR"] for line in lines)
    assert all(line["Δ source_only"] for line in lines if line["adaptation"] == "shots")


def test_disjoint_halves_is_a_control_of_unpaired_methods_alone(
    pool: Path, plugins: list[str], cli: Cli, grid: GridWriter
) -> None:
    keys = []
    for halves in (False, True):
        file = grid(
            plugins=plugins,
            scenarios=[{"source": "plain", "target": "dark"}],
            adaptations=["source_only", "streams"],
            disjoint_halves=halves,
        )
        keys.append({r["adaptation"]: r["key"] for r in planned(cli, file)})
    assert keys[0]["source_only"] == keys[1]["source_only"]
    assert keys[0]["streams"] != keys[1]["streams"]
    out = pool / "out"
    assert cli("run", file, "--out", out).status == 0
    lines = list(csv.DictReader((out / "leaderboard" / "summary.csv").open(encoding="utf-8")))
    assert {line["setting"] for line in lines} == {"source_only", "unsupervised, disjoint halves"}


def write_list(file: Path, *rows: tuple[str, str]) -> Path:
    with file.open("w", encoding="utf-8", newline="") as opened:
        csv.writer(opened).writerows([("image", "caption"), *rows])
    return file


def test_exclusions_take_images_and_captions_out_of_training(tmp_path: Path) -> None:
    domain = read(write_karpathy(tmp_path / "d"))
    name = domain.image_names
    own = [c for c, owner in zip(domain.captions, domain.image_of_caption, strict=True) if owner == 1]
    other = [c for c, owner in zip(domain.captions, domain.image_of_caption, strict=True) if owner == 3]
    listed = write_list(
        tmp_path / "list.csv", (name[0], ""), (name[1], own[0]), (name[3], other[0]), (name[3], other[1])
    )
    changed, excluded = without(domain, listed)
    check(changed)
    assert (excluded.images, excluded.captions) == (2, 1)  # image 3 lost both its captions, so it is out
    assert {*domain.splits["train"]} - {*changed.splits["train"]} == {0, 3}
    assert split_of(changed, "test").fingerprint == split_of(domain, "test").fingerprint
    assert split_of(changed, "train").fingerprint != split_of(domain, "train").fingerprint
    left = [c for c, owner in zip(changed.captions, changed.image_of_caption, strict=True) if owner == 1]
    assert left == own[1:]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("d_000.pngg", ""), r'list\.csv:2: no image is called .d_000\.pngg.. Did you mean "d_000\.png"'),
        (("d_002.png", ""), "d_002.png' is a test image"),
        (("d_000.png", "a blue hat"), "has no caption 'a blue hat'"),
    ],
)
def test_an_exclusion_that_fits_nothing_is_an_error(tmp_path: Path, row: tuple[str, str], message: str) -> None:
    domain = read(write_karpathy(tmp_path / "d"))
    with pytest.raises(DataError, match=message):
        without(domain, write_list(tmp_path / "list.csv", row))


def test_exclusions_leave_the_test_items_of_overlapping_splits_alone(tmp_path: Path) -> None:
    domain = read(write_karpathy(tmp_path / "d"))
    splits = dict(domain.splits) | {"train": np.union1d(domain.splits["train"], domain.splits["test"][:2])}
    domain = replace(domain, splits=splits, overlapping=True)
    twice, caption = domain.image_names[2], domain.captions[4]
    assert domain.image_of_caption[4] == 2
    changed, excluded = without(domain, write_list(tmp_path / "list.csv", (twice, "")))
    assert excluded.images == 1
    assert 2 not in changed.splits["train"]
    assert split_of(changed, "test").fingerprint == split_of(domain, "test").fingerprint
    with pytest.raises(DataError, match="is a test image"):
        without(domain, write_list(tmp_path / "list.csv", (twice, caption)))


def test_what_was_excluded_stands_in_plan_record_and_table(pool: Path, cli: Cli, grid: GridWriter) -> None:
    write_list(pool / "twins.csv", ("plain_000.png", ""), ("plain_001.png", ""))
    scenarios = [{"source": "plain", "target": "dark"}]
    plain, without_twins = (
        grid(scenarios=scenarios, adaptations=["source_only"], exclusions=exclusions)
        for exclusions in ({}, {"plain": "twins.csv"})
    )
    assert planned(cli, plain)[0]["key"] != planned(cli, without_twins)[0]["key"]
    result = cli("run", without_twins, "--out", pool / "out")
    assert result.status == 0, result.err
    assert "domain 'plain': without 2 images and 0 captions that twins.csv excludes" in result.err
    [record] = read_records([pool / "out"])
    assert record.spec["domains"]["plain"]["excluded"]["images"] == 2
    table = (pool / "out" / "leaderboard" / "scenarios.csv").read_text(encoding="utf-8")
    assert "2 images and 0 captions of plain excluded by twins.csv" in table
    assert "exclusions" in (pool / "out" / "leaderboard" / "summary.csv").read_text(encoding="utf-8")


def test_exclusions_of_no_domain_are_an_error(pool: Path, cli: Cli, grid: GridWriter) -> None:
    result = cli("plan", grid(exclusions={"plian": "twins.csv"}))
    assert result.status == 2
    assert "exclusions: there is no domain 'plian'. Did you mean \"plain\"?" in result.err


def test_test_images_seen_in_training_are_counted_by_content(pool: Path, cli: Cli, grid: GridWriter) -> None:
    """Two of dark's test images are put among plain's training images, under other names."""
    for index, name in ((0, "dark_002.png"), (1, "dark_005.png")):
        (pool / "plain" / "images" / f"plain_00{index}.png").write_bytes(
            (pool / "dark" / "images" / name).read_bytes()
        )
    result = cli("run", grid(adaptations=["source_only"]), "--out", pool / "out")
    assert result.status == 0, result.err
    seen = {
        (r.spec["scenario"]["source"][0], r.spec["scenario"]["target"]): r.spec["test_images_in_training"]
        for r in read_records([pool / "out"])
    }
    assert seen == {("plain", "dark"): 2, ("plain", "plain"): 0, ("dark", "plain"): 0, ("dark", "dark"): 0}
    assert (
        "2 test images stand in a training or validation split"
        in (pool / "out" / "leaderboard" / "scenarios.csv").read_text()
    )


def test_test_images_in_a_sources_validation_are_counted_too(pool: Path, cli: Cli, grid: GridWriter) -> None:
    """A selector that looks at it chooses by them."""
    (pool / "plain" / "images" / "plain_004.png").write_bytes(
        (pool / "dark" / "images" / "dark_002.png").read_bytes()
    )
    file = grid(scenarios=[{"source": "plain", "target": "dark"}, {"source": "dark", "target": "plain"}])
    plan = make_plan(load_grid(file), Registry.discover())
    seen = {run.scenario.target: run.spec["test_images_in_training"] for run in plan.runs if run.spec}
    assert seen == {"dark": 1, "plain": 0}


def test_targets_that_differ_in_their_test_split_alone_are_two_runs(
    pool: Path, cli: Cli, grid: GridWriter
) -> None:
    whole = json.loads((pool / "dark" / "dataset.json").read_text(encoding="utf-8"))
    whole["images"].remove(next(entry for entry in whole["images"] if entry["split"] == "test"))
    (pool / "dark" / "less.json").write_text(json.dumps(whole), encoding="utf-8")
    domains = {
        name: f"karpathy[file={pool / folder / file}.json]"
        for name, folder, file in (
            ("plain", "plain", "dataset"),
            ("dark", "dark", "dataset"),
            ("less", "dark", "less"),
        )
    }
    pairs = [{"source": "plain", "target": target} for target in ("dark", "less")]
    file = grid(domains=domains, scenarios=pairs, adaptations=["source_only"])
    keys = {run["key"] for run in planned(cli, file)}
    assert len(keys) == 2
    Store(pool / "out" / "store").create()
    assert "target.test" in cli("explain", *keys, pool / "out", "--grid", file).out


def test_a_score_added_under_another_name_of_a_domain_stands_beside_the_others(
    pool: Path, cli: Cli, grid: GridWriter
) -> None:
    """Names are no part of what is computed; read, a record has those of the grid that was run last."""
    files = {name: f"karpathy[file={pool / name / 'dataset.json'}]" for name in ("plain", "dark")}
    for names, selectors in ((("plain", "dark"), ["last"]), (("dark", "plain"), ["last", "source_val"])):
        domains = dict(zip(names, files.values(), strict=True))
        pairs = [{"source": names[0], "target": names[1]}]
        changes = {"domains": domains, "scenarios": pairs, "selectors": selectors, "score_sources": True}
        result = cli("run", grid(adaptations=["source_only"], **changes), "--out", pool / "out")
        assert result.status == 0, result.err
    [record] = read_records([pool / "out"])
    values = {(s.content["selector"], s.content["domain"]): s.content["metrics"]["mR"] for s in record.scores}
    # One candidate: whoever selects, selects it.
    assert values["last", "plain"] == values["source_val", "plain"] != values["last", "dark"]
    assert values["last", "dark"] == values["source_val", "dark"]
    assert record.spec["scenario"]["target"] == "plain"
    lines = list(csv.DictReader((pool / "out" / "leaderboard" / "scenarios.csv").open(encoding="utf-8")))
    assert {line["selector"] for line in lines} == {"last", "source_val"}


def test_copies_of_a_run_under_other_names_of_its_domains_are_one(
    pool: Path, cli: Cli, grid: GridWriter, tmp_path: Path
) -> None:
    """Else what is of the source would be taken for the target's."""
    files = [f"karpathy[file={pool / name / 'dataset.json'}]" for name in ("plain", "dark")]
    outs = [tmp_path / name for name in ("first", "swapped", "other")]
    for out, names in zip(outs, (("plain", "dark"), ("dark", "plain"), ("aa", "zz")), strict=True):
        changes = {
            "domains": dict(zip(names, files, strict=True)),
            "scenarios": [{"source": names[0], "target": names[1]}],
            "score_sources": True,
        }
        assert cli("run", grid(adaptations=["source_only"], **changes), "--out", out).status == 0

    def roles(places: Sequence[Path]) -> dict[str, float]:
        [record] = read_records(places)
        scenario = record.spec["scenario"]
        role = {scenario["source"][0]: "source", scenario["target"]: "target"}
        return {role[s.content["domain"]]: s.content["metrics"]["mR"]["value"] for s in record.scores}

    alone = roles(outs[:1])
    assert alone["source"] != alone["target"]
    for some in itertools.permutations(outs):
        assert roles(some[:2]) == roles(some) == alone
    board = tmp_path / "board"
    board.mkdir()
    (board / "view.yaml").write_text(f"{DEFAULT.read_text()}\nfilters: {{scenario: [plain -> dark]}}\n")
    for out in outs:
        added = cli("leaderboard", "add", out, "--to", board)
        assert added.status == 0, added.err
    assert roles([board]) == alone


def test_a_grid_that_was_renamed_keeps_its_tables_and_can_be_verified(
    pool: Path, cli: Cli, grid: GridWriter, tmp_path: Path
) -> None:
    """Whoever reads its records finds the new names, though some were made by the older grid."""
    files = [f"karpathy[file={pool / name / 'dataset.json'}]" for name in ("plain", "dark")]

    def write(names: tuple[str, str], encoder: str, methods: dict[str, str]) -> Path:
        return grid(
            domains=dict(zip(names, files, strict=True)),
            scenarios=[{"source": names[0], "target": names[1]}, {"source": names[1], "target": names[0]}],
            encoders={encoder: "openclip[architecture=urbancross-tiny]"},
            adaptations=methods,
        )

    renamed = write(("bright", "dim"), "small", {"base": "source_only", "coral": "coral"})
    out, alone = tmp_path / "out", tmp_path / "alone"
    first = write(("plain", "dark"), "tiny", {"source_only": "source_only"})
    for file, place in ((first, out), (renamed, out), (renamed, alone)):
        assert cli("run", file, "--out", place).status == 0

    def table(place: Path, name: str) -> list[dict[str, str]]:
        lines = list(csv.DictReader((place / "leaderboard" / f"{name}.csv").open(encoding="utf-8")))
        return [{key: value for key, value in line.items() if "time" not in key} for line in lines]

    for name in ("summary", "scenarios"):
        assert table(out, name) == table(alone, name) != []
    assert all(line["mean mR"] for line in table(out, "summary"))
    bundle = tmp_path / "bundle.zip"
    assert cli("export", "bundle", out, bundle).status == 0
    verified = cli("verify", bundle, alone)
    assert verified.status == 0, verified.out
    for place in (out, alone):
        assert cli("leaderboard", "build", place, "--out", place / "again").status == 0
        assert cli("leaderboard", "add", place, "--to", place / "board").status == 0
    named = {(r.spec["encoder"]["label"], r.spec["adaptation"]["label"]) for r in read_records([out])}
    assert named == {("small", "base"), ("small", "coral")}
    assert read_records([out / "board"])[0].spec["scenario"] == read_records([alone])[0].spec["scenario"]
    assert (out / "again" / "summary.csv").read_bytes() == (alone / "again" / "summary.csv").read_bytes()


def test_the_names_of_two_methods_can_be_swapped(grid: GridWriter, cli: Cli, tmp_path: Path) -> None:
    """None of the numbers is taken for the other's: the grid that was run last names all the runs that it has."""
    out = tmp_path / "out"

    def called_in_turn(*order: str, **changes: object) -> set[tuple[str, str, int]]:
        named = dict(zip(("a", "b"), order, strict=True))
        file = grid(adaptations=named, scenarios=[{"source": "plain", "target": "dark"}], **changes)
        assert cli("run", file, "--out", out).status == 0
        found = (record.spec for record in read_records([out]))
        return {(spec["adaptation"]["label"], spec["adaptation"]["name"], spec["seed"]) for spec in found}

    first = {("a", "source_only", seed) for seed in (0, 1)} | {("b", "oracle", seed) for seed in (0, 1)}
    assert called_in_turn("source_only", "oracle", seeds=[0, 1]) == first
    # Seed 1 is not among the runs of this one, and keeps its names.
    after = {("b", "source_only", 0), ("a", "oracle", 0), ("a", "source_only", 1), ("b", "oracle", 1)}
    assert called_in_turn("oracle", "source_only", seeds=[0]) == after
    assert called_in_turn("oracle", "source_only", seeds=[0], selectors=["last", "source_val"]) == after
    assert called_in_turn("source_only", "oracle", seeds=[0, 1]) == first
    names = out / "runs" / "names.json"
    assert json.loads(names.read_text(encoding="utf-8")) == {}
    for damage in ("{", "[]", '{"x": {}}'):
        names.write_text(damage, encoding="utf-8")
        with pytest.raises(DataError, match=r"names\.json"):
            read_records([out])
        assert called_in_turn("source_only", "oracle", seeds=[0, 1]) == first


def test_swapped_names_stay_so_where_one_run_or_several_folders_are_looked_at(
    grid: GridWriter, cli: Cli, tmp_path: Path
) -> None:
    """Whichever runs a command is limited to, and whatever other copies are called."""
    outs = [tmp_path / "first", tmp_path / "second"]
    one_pair = [{"source": "plain", "target": "dark"}]
    swapped = grid(adaptations={"a": "oracle", "b": "source_only"}, scenarios=one_pair)
    for out in outs:
        file = grid(adaptations={"a": "source_only", "b": "oracle"}, scenarios=one_pair)
        assert cli("run", file, "--out", out).status == 0

    def called(*places: Path) -> dict[str, str]:
        found = (record.spec["adaptation"] for record in read_records(places))
        return {adaptation["name"]: adaptation["label"] for adaptation in found}

    assert called(*outs) == {"source_only": "a", "oracle": "b"}
    key = read_records(outs[:1])[0].folder.name
    assert cli("run", swapped, "--out", outs[0], "--only", key).status == 0
    assert called(outs[0]) == {"source_only": "b", "oracle": "a"}
    board = tmp_path / "board"
    assert cli("leaderboard", "add", outs[1], "--to", board).status == 0
    assert cli("leaderboard", "add", outs[0], "--to", board).status == 0  # with the names that they have there
    assert called(board) == called(outs[1])
    both_ways = [*one_pair, {"source": "dark", "target": "plain"}]
    file = grid(adaptations={"a": "oracle", "b": "source_only"}, scenarios=both_ways)
    assert cli("run", file, "--out", outs[0]).status == 0
    refused = cli("leaderboard", "add", outs[0], "--to", board)
    assert (refused.status, "are called otherwise on the board" in refused.err) == (1, True)
    for places in (outs, outs[::-1]):  # together they have the names of one of them
        assert cli("leaderboard", "add", *places, "--to", board).status == 1
    assert called(board) == called(outs[1])
    # Nothing that is new here is called as what has another name there.
    file = grid(adaptations={"base": "source_only", "coral": "coral"}, scenarios=one_pair)
    assert cli("run", file, "--out", tmp_path / "third").status == 0
    assert cli("leaderboard", "add", tmp_path / "third", "--to", board).status == 0
    assert called(board) == {**called(outs[1]), "coral": "coral"}
    for places in (outs, outs[::-1]):  # of two sets of names those of more runs, else a name would be two methods'
        assert called(*places) == called(outs[0]) == {"source_only": "b", "oracle": "a"}


def test_planning_again_reads_no_image(
    pool: Path, cli: Cli, grid: GridWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("urbancross_bench.data.index._SETTLED", 0)  # else files so young are trusted by none
    reads: list[str] = []
    content = FolderImages.content

    def counted(self: FolderImages, index: int) -> bytes:
        reads.append(self.where(index))
        return content(self, index)

    monkeypatch.setattr(FolderImages, "content", counted)
    file = grid()
    first = planned(cli, file)
    assert len(reads) == 48
    assert planned(cli, file) == first
    assert len(reads) == 48
    result = cli("plan", file, "--json", "--verify")
    assert json.loads(result.out)["runs"] == first
    assert len(reads) == 96
    assert f"reading {pool / 'plain' / 'images'}: 24 files" in result.err


def test_a_row_keeps_its_baseline_when_a_source_test_split_changes(pool: Path, cli: Cli, grid: GridWriter) -> None:
    """What training never sees of a source is no part of a comparison: an old record and a new one compare."""
    scenarios, out = [{"source": "plain", "target": "dark"}], pool / "out"
    assert cli("run", grid(scenarios=scenarios, adaptations=["source_only"]), "--out", out).status == 0
    file = pool / "plain" / "dataset.json"
    content = json.loads(file.read_text())
    next(e for e in content["images"] if e["split"] == "test")["sentences"][0]["raw"] = "something else"
    file.write_text(json.dumps(content))
    result = cli("run", grid(scenarios=scenarios, adaptations=["source_only", "oracle"]), "--out", out)
    assert "1 ok, 1 reused" in result.out
    with (out / "leaderboard" / "scenarios.csv").open(encoding="utf-8") as table:
        rows = {line["adaptation"]: line["Δ source_only"] for line in csv.DictReader(table)}
    assert rows["oracle"]


def test_what_a_plugin_says_of_its_content_is_recorded_anew(pool: Path, cli: Cli, grid: GridWriter) -> None:
    domains = {"plain": f"karpathy[file={pool / 'plain' / 'dataset.json'}]"}
    domains["dark"] = f"karpathy[file={pool / 'dark' / 'dataset.json'}]"
    said = domains | {"dark": domains["dark"].replace("]", ",captions_generated=true]")}
    scenarios = [{"source": "plain", "target": "dark"}]
    for some in (domains, said):
        file = grid(domains=some, scenarios=scenarios, adaptations=["source_only"])
        assert cli("run", file, "--out", pool / "out").status == 0
    text = (pool / "out" / "leaderboard" / "scenarios.md").read_text(encoding="utf-8")
    assert "A model wrote the captions of dark from the images." in text


def test_who_may_show_his_files_says_so_and_no_key_changes(pool: Path, cli: Cli, grid: GridWriter) -> None:
    domains = {"plain": f"karpathy[file={pool / 'plain' / 'dataset.json'}]"}
    domains["dark"] = f"karpathy[file={pool / 'dark' / 'dataset.json'}]"
    shown = domains | {"dark": domains["dark"].replace("]", ",shareable=true]")}
    rest = {"scenarios": [{"source": "plain", "target": "dark"}], "adaptations": ["source_only"]}
    before = planned(cli, grid(domains=domains, **rest))
    file, out = grid(domains=shown, **rest), pool / "out"
    assert planned(cli, file) == before
    assert {"key", "scores"} <= before[0].keys()
    assert cli("run", file, "--out", out).status == 0
    assert cli("leaderboard", "build", out, "--out", out / "board", "--format", "html").status == 0
    assert [room.name[:5] for room in (out / "board" / "site").glob("gallery/*.html")] == ["dark-"]


@pytest.mark.parametrize("change", ["", "[split_seed=3]"])
def test_a_target_that_is_mostly_a_source_is_refused(pool: Path, cli: Cli, grid: GridWriter, change: str) -> None:
    """The same images under another name, though a split differs."""
    file = pool / "plain" / "dataset.json"
    other = pool / "plain" / "other.json"
    other.write_text(file.read_text().replace("a red place .", "a red field indeed ."))
    domains = {"one": f"karpathy[file={file}]", "two": f"karpathy[file={other},images={file.parent / 'images'}]"}
    if change:
        domains["two"] = domains["two"].replace("]", ",split=drawn,split_seed=3]")
    result = cli("plan", grid(domains=domains, scenarios=[{"source": "one", "target": "two"}]))
    assert result.status == 2
    assert "'one' and 'two' hold the same data" in result.err


def test_it_is_said_how_much_two_domains_share(pool: Path, cli: Cli, grid: GridWriter) -> None:
    """The target lacks some training images of the source, and has one of its own."""
    file = pool / "plain" / "dataset.json"
    entries = json.loads(file.read_text())["images"]
    training = [entry for entry in entries if entry["split"] == "train"]
    own = [{**next(e for e in entries if e["split"] == "test"), "split": "train"}]
    rest = [entry for entry in entries if entry["split"] != "train" and entry["filename"] != own[0]["filename"]]
    (pool / "plain" / "fewer.json").write_text(json.dumps({"images": [*training[:5], *own, *rest]}))
    domains = {"one": f"karpathy[file={file}]", "two": f"karpathy[file={file.with_name('fewer.json')}]"}
    result = cli("plan", grid(domains=domains, scenarios=[{"source": "one", "target": "two"}]))
    said = f"they share 5 of the {len(training)} distinct training images of 'one', and of the 6 of 'two'"
    assert said in result.err


BROKEN = """
import numpy as np
from dataclasses import replace
from urbancross_bench.interfaces import Dataset, hookimpl, register
from urbancross_datasets.karpathy import Karpathy, KarpathyOptions

@hookimpl
def register_datasets():
    options = "urbancross_datasets.karpathy:KarpathyOptions"
    return [register("broken", "MODULE:Broken", options=options, summary="-")]

class Broken(Dataset):
    def read(self, member):
        domain = Karpathy(self.options).read(None)
        return CHANGE
"""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("replace(domain, splits=['train'] * 24)", "splits is no mapping"),
        ("replace(domain, splits={'train': [0]})", "split 'train' is no one-dimensional array of integers"),
        ("None", "it is a NoneType, not a Domain"),
        ("replace(domain, image_of_caption=[0] * 48)", "image_of_caption is no one-dimensional array"),
        ("replace(domain, captions=[1] * 48)", "captions holds something that is no text"),
        ("replace(domain, images=None)", "images is a NoneType, not an ImageSource"),
        ("replace(domain, images=type('X', (type(domain.images),), {'digest': 1 / 0 if 0 else None})"
         "(domain.images.place, domain.image_names))", "cannot be used: TypeError"),
    ],
)  # fmt: skip
def test_a_dataset_plugin_that_gives_nonsense_is_named(
    pool: Path, cli: Cli, grid: GridWriter, change: str, message: str
) -> None:
    module = f"broken_{digest([change.encode()])[:8]}"
    (pool / f"{module}.py").write_text(BROKEN.replace("MODULE", module).replace("CHANGE", change))
    reference = f"broken[file={pool / 'plain' / 'dataset.json'}]"
    plan = cli("plan", grid(plugins=[f"{module}.py"], domains={"b": reference}, scenarios="all_ordered_pairs"))
    show = cli("data", "show", reference, "--plugin", pool / f"{module}.py")
    for result in (plan, show):
        assert result.status == 2
        assert "Traceback" not in result.err
    assert message in plan.err


def test_repairs_are_said_before_anything_runs(pool: Path, cli: Cli, grid: GridWriter) -> None:
    file = pool / "plain" / "dataset.json"
    content = json.loads(file.read_text())
    content["images"][0]["sentences"].append({"raw": " "})
    file.write_text(json.dumps(content))
    result = cli("plan", grid())
    assert "domain 'plain': its reader noted 1 repair; `data check` lists them" in result.out


def test_a_wrong_option_of_a_domain_is_told_as_any_other(cli: Cli, grid: GridWriter) -> None:
    file = grid(domains={"costara": "synthetic/costara[imags=60]"}, scenarios="all_ordered_pairs")
    result = cli("plan", file)
    said = f"{file}:3: dataset 'synthetic' has no option 'imags'. Did you mean \"images\"?"
    assert (result.status, result.err.strip()) == (2, f"error: {said}")


def test_every_row_of_the_second_scheme_is_marked(pool: Path, cli: Cli, grid: GridWriter) -> None:
    country = pool / "UrbanCross" / "Finland"
    country.mkdir(parents=True)
    (pool / "dark" / "images").rename(country / "images")
    with (country / "instructblip_generation_finland_refine.csv").open("w", encoding="utf-8", newline="") as file:
        rows = [(p.name, f"a field called {p.stem}") for p in sorted((country / "images").iterdir())]
        csv.writer(file).writerows([("image_name", "description"), *rows])
    reference = f"urbancross/finland[folder={country.parent},lists=LISTS]"
    domains = {"plain": f"karpathy[file={pool / 'plain' / 'dataset.json'}]"}
    domains |= {lists: reference.replace("LISTS", lists) for lists in ("partition", "finetune", "zeroshot")}
    file = grid(
        domains=domains,
        scenarios=[{"source": "plain", "target": lists} for lists in ("partition", "finetune", "zeroshot")],
        adaptations=["source_only"],
    )
    result = cli("run", file, "--out", pool / "out")
    assert result.status == 0, result.err
    assert "domain 'zeroshot': its splits are the released scripts' zeroshot lists; rows" in result.err
    with (pool / "out" / "leaderboard" / "scenarios.csv").open(encoding="utf-8") as table:
        marks = {line["scenario"].split()[-1]: line["data"] for line in csv.DictReader(table)}
    assert marks["partition"] == ""
    assert marks["zeroshot"] == "zeroshot: the released scripts' zeroshot lists"
    assert "finetune: the released scripts' finetune lists" in marks["finetune"]
    assert "overlapping splits" in marks["finetune"]


def test_a_list_that_the_check_writes_is_taken_where_splits_overlap(
    pool: Path, cli: Cli, grid: GridWriter
) -> None:
    country = pool / "UrbanCross" / "Finland"
    country.mkdir(parents=True)
    (pool / "dark" / "images").rename(country / "images")
    with (country / "instructblip_generation_finland_refine.csv").open("w", encoding="utf-8", newline="") as file:
        rows = [(p.name, f"a field called {n // 3}") for n, p in enumerate(sorted((country / "images").iterdir()))]
        csv.writer(file).writerows([("image_name", "description"), *rows])
    reference = f"urbancross/finland[folder={country.parent},lists=finetune]"
    cli("data", "check", reference, "--out", pool / "check")
    lists = [*(pool / "check").glob("exclude-captions-*.csv")]
    assert any(len(file.read_text().splitlines()) > 1 for file in lists)
    domains = {"plain": f"karpathy[file={pool / 'plain' / 'dataset.json'}]", "finland": reference}
    for file in lists:
        planned = grid(domains=domains, exclusions={"finland": str(file)}, scenarios="all_ordered_pairs")
        assert cli("plan", planned).status == 0, cli("plan", planned).err


def test_captions_that_the_text_tower_cuts_are_told(
    grid: GridWriter, domains: dict[str, str], cli: Cli, tmp_path: Path
) -> None:
    file = tmp_path / "plain" / "dataset.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    tested = [entry for entry in content["images"] if entry["split"] == "test"]
    for entry in tested[:2]:
        entry["sentences"][0]["raw"] += " road" * 99
    file.write_text(json.dumps(content), encoding="utf-8")
    written = grid(scenarios=[{"source": "dark", "target": "plain"}], adaptations=["source_only"], seeds=[0])
    assert cli("run", written, "--out", tmp_path / "out").status == 0
    [record] = read_records([tmp_path / "out"])
    assert {score.content["captions_cut"] for score in record.scores} == {2}
    said = (tmp_path / "out" / "leaderboard" / "scenarios.csv").read_text(encoding="utf-8")
    assert "2 test captions are longer than the text tower reads" in said
    logs = [log.read_text(encoding="utf-8") for log in (tmp_path / "out" / "store" / "logs").glob("*.log")]
    assert any(f"2 of {2 * len(tested)} captions are longer than the text tower reads" in log for log in logs)
