"""Whole grids that learn something: the built-in countries, and real satellite images where they are at hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import SHARED, Result

from urbancross_bench.records import Record, read_records

Cli = Callable[..., Result]
pytestmark = pytest.mark.slow
GRIDS = Path(__file__).parent.parent / "grids"


def mean_mr(records: list[Record], **wanted: str) -> tuple[float, float]:
    """Mean mR, and mean chance, of the runs whose scenario kind, adaptation or target are these."""

    def facts(record: Record) -> dict[str, str]:
        scenario = record.spec["scenario"]
        return {**scenario, "adaptation": record.spec["adaptation"]["label"]}

    chosen = [r for r in records if all(facts(r)[name] == value for name, value in wanted.items())]
    values = [score.content["metrics"]["mR"] for record in chosen for score in record.scores]
    return sum(v["value"] for v in values) / len(values), sum(v["chance"] for v in values) / len(values)


@pytest.mark.long
def test_quickstart_shows_a_shift_and_room_to_win(cli: Cli, tmp_path: Path) -> None:
    ways = [f"{{source: synthetic/meridia, target: synthetic/{target}}}" for target in ("meridia", "nordia")]
    few = {
        "seeds": "[0]",
        "adaptations": "[source_only, oracle]",
        "domains": "[synthetic/nordia, synthetic/meridia]",
        "scenarios": f"[{', '.join(ways)}]",
    }
    fewer = [word for name, value in few.items() for word in ("--set", f"{name}={value}")]
    result = cli("run", "quickstart", "--out", tmp_path, *fewer, "--device", "cpu")
    assert result.status == 0, result.err
    records = read_records([tmp_path])
    assert len(records) == 1 + 2
    inside, chance = mean_mr(records, kind="in_domain", adaptation="source_only")
    across, _ = mean_mr(records, kind="cross_domain", adaptation="source_only")
    oracle, _ = mean_mr(records, kind="cross_domain", adaptation="oracle")
    assert inside > oracle > across > 3 * chance
    assert inside > 1.5 * across


@pytest.mark.long
@pytest.mark.skipif(not (SHARED / "mini").is_dir(), reason=f"no real images at {SHARED}")
def test_real_images_show_a_shift(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("URBANCROSS_DATA", str(SHARED))
    fewer = ("--set", "seeds=[0]", "--set", "adaptations=[source_only]")
    result = cli("run", GRIDS / "mini.yaml", "--out", tmp_path, *fewer, "--device", "cpu")
    assert result.status == 0, result.err
    records = read_records([tmp_path])
    for target, floor in (
        ("rsicd", 3.0),
        ("ucm", 4.0),
    ):  # measured 4.4 and 5.1 times over three seeds
        inside, chance = mean_mr(records, kind="in_domain", target=target)
        across, _ = mean_mr(records, kind="cross_domain", target=target, adaptation="source_only")
        assert inside > floor * chance
        assert across < 0.8 * inside


@pytest.mark.skipif(not (SHARED / "rsicd").is_dir(), reason=f"no RSICD at {SHARED}")
def test_full_datasets_are_read(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of RSICD and UCM-Captions: splits of the official sizes, every file there."""
    from urbancross_bench.data.domain import check, split_of
    from urbancross_bench.registry import Registry

    monkeypatch.setenv("URBANCROSS_DATA", str(SHARED))
    sizes = {
        "rsicd/dataset_rsicd.json": ((8734, 43670), (1094, 5470), (1093, 5465)),
        "ucm_captions/dataset_ucm.json": ((1680, 8400), (210, 1050), (210, 1050)),
    }
    for file, expected in sizes.items():
        domain = Registry.discover().resolve("dataset", f"karpathy[file={file}]").build().read(None)
        check(domain)
        splits = [split_of(domain, name) for name in ("train", "val", "test")]
        assert tuple((len(s.members), len(s.captions)) for s in splits) == expected
