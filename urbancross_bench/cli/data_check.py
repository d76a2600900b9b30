"""`data check DOMAIN…`: whether data may be ranked, and what is to be repaired or excluded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from urbancross_bench.cli.grids import VerifyOption
from urbancross_bench.cli.json_output import JsonOption, print_json
from urbancross_bench.cli.options import PluginOption
from urbancross_bench.errors import cut

if TYPE_CHECKING:
    from urbancross_bench.data.audit import Audit, Finding
    from urbancross_bench.data.captions import CaptionFacts
    from urbancross_bench.data.checking import Between
    from urbancross_bench.data.overlap import Shared
    from urbancross_bench.evaluation.distances import VocabularyDistance
    from urbancross_bench.evaluation.floors import Floors
    from urbancross_bench.interfaces import Repair

_EXAMPLES = {"defect": 3, "warning": 3, "note": 1}
_WIDTH = 84  # characters of an example
_LEAST = 12  # of them for the end of a path
_LABEL, _COLUMN = 39, 17  # characters; three columns fit a hundred
_NARROW = 8  # characters of a column of percentages; seven fit


def check(
    domains: Annotated[
        list[str], typer.Argument(metavar="DOMAIN", help="Datasets: rsicd, ucm, urbancross/integration, …")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where report, repair and exclusion lists go.")
    ] = None,
    verify: VerifyOption = False,
    json_: JsonOption = False,
    plugin: PluginOption = None,
) -> None:
    """Open every file of some domains, and compare every two. Exit status 1: one of them may not be ranked."""
    from urbancross_bench.cli.progress_bars import progress
    from urbancross_bench.cli.resuming import resumable
    from urbancross_bench.data.checking import as_json, check_domains, open_folder, write
    from urbancross_bench.data.index import reading
    from urbancross_bench.execution.domains import read_domains
    from urbancross_bench.registry import Registry

    if out:
        open_folder(out)
    with resumable(), progress() as report, reading(verify=verify, report=report):
        # All are read before the first image is opened: a misspelling shows early.
        checked = check_domains(read_domains(domains, Registry.discover(plugin or [])), report)
    if out:
        write(checked, out)
    if json_:
        print_json(as_json(checked))
    else:
        lists = str(out) if out else "--out DIR"
        blocks = [_domain(name, found, lists) for name, found in checked.audits.items()]
        blocks += [_between(between) for between in checked.between]
        print("\n\n".join("\n".join(block) for block in blocks))
        if out:
            print(f"\nreport, repairs, pairs and exclusion lists: {out}")
    if not checked.may_be_ranked:
        raise typer.Exit(1)


def _domain(name: str, found: Audit, lists: str) -> list[str]:
    """The block of one domain: sizes and captions by split, then the findings, the worst first."""
    domain = found.opened.domain
    verdict = "may be ranked" if found.may_be_ranked else "MAY NOT BE RANKED"
    lines = [f"{name}: {verdict}", f"  splits: {domain.partition}"] if domain.partition else [f"{name}: {verdict}"]
    if found.captions:
        lines += _caption_table(found.captions)
    if found.floors:
        lines += _floor_table(found.floors["expected"])
    for finding in found.findings:
        lines += _finding(finding, lists)
    return lines


def _caption_table(facts: Mapping[str, CaptionFacts]) -> list[str]:
    columns = list(facts.values())
    rows: list[tuple[str, list[str]]] = [
        ("", list(facts)),
        ("images", [f"{f.images:,}" for f in columns]),
        ("captions", [f"{f.captions:,}" for f in columns]),
        ("different captions per image, mean", [f"{f.distinct_per_image:.2f}" for f in columns]),
        (f"images with fewer than {columns[0].usual}", [_of(f.repeating, f.images) for f in columns]),
        ("captions that stand at another image", [_of(f.elsewhere, f.captions) for f in columns]),
        ("images that have such a caption", [_of(f.sharing, f.images) for f in columns]),
        ("images without a caption of their own", [_of(f.unowned, f.images) for f in columns]),
        ("captions that stand in train", [_of(f.in_train, f.captions) for f in columns]),
        ("captions that stand in train or val", [_of(f.in_training, f.captions) for f in columns]),
    ]
    return [_row(label, cells) for label, cells in rows]


def _floor_table(floors: Floors) -> list[str]:
    """What scores on the test split lie between, ties by expectation; the report has the other tie rules too."""
    from urbancross_bench.evaluation.floors import FLOORS

    contents = floors.as_json()
    names = [*floors.random.as_json()]
    lines = [_row("test split, ties by expectation", [name.replace("_R", " ") for name in names], _NARROW)]
    for key, label in FLOORS.items():
        values = contents[key]
        lines.append(_row(label, [f"{values[name]:.2f}" if values else "–" for name in names], _NARROW))
    return lines


def _finding(finding: Finding, lists: str) -> list[str]:
    lines = [f"  {finding.level:9}{finding.text}"]
    shown = finding.items[: _EXAMPLES[finding.level]]
    lines += [f"           {_example(item)}" for item in shown]
    if len(finding.items) > len(shown):
        lines[-1] += f" (and {len(finding.items) - len(shown):,} more; see {lists})"
    return lines


def _example(item: Repair) -> str:
    """One line. A long path loses its start, not the problem its end: the report has all of it."""
    where = item.image or item.where
    room = _WIDTH - len(f"…: {item.problem}")
    if not item.image and _LEAST <= room < len(where):
        where = f"…{where[-room:]}"
    return cut(f"{where}: {item.problem}", _WIDTH)


def _between(between: Between) -> list[str]:
    """The block of two domains: a column for what of A is in B, one for what of B is in A."""
    columns = (between.a_in_b, between.b_in_a)
    return [
        f"A: {between.a}",
        f"B: {between.b}",
        _row("", ["A in B", "B in A"]),
        _row("images of the same content", [_of(s.identical, s.images) for s in columns]),
        _row("images that look alike", [_of(s.alike, s.images) for s in columns]),
        _row("train and val images in its test", [_of(_leaking(s), s.training_images) for s in columns]),
        _row("test captions in its train", [_of(s.in_train, s.test_captions) for s in columns]),
        _row("test captions in its train or val", [_of(s.in_training, s.test_captions) for s in columns]),
        _row("train and val captions in its test", [_of(s.in_test, s.training_captions) for s in columns]),
        *_vocabulary(between.vocabulary),
    ]


def _vocabulary(found: VocabularyDistance | None) -> list[str]:
    if found is None:
        return []
    outside = found.a_outside_b / found.words_a, found.b_outside_a / found.words_b
    return [
        _row("caption words that the other lacks", [f"{share:.1%}" for share in outside]),
        _row("divergence of word frequencies, bits", [f"{found.divergence:.3f}"]),
    ]


def _row(label: str, cells: Sequence[str], width: int = _COLUMN) -> str:
    return f"  {label:{_LABEL}}{''.join(f'{cell:>{width}}' for cell in cells)}".rstrip()


def _leaking(found: Shared) -> int | None:
    return None if found.leaking is None else len(found.leaking)


def _of(count: int | None, total: int) -> str:
    return "–" if count is None else f"{count:,} of {total:,}"
