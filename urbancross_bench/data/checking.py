"""Checking domains together, and what a check leaves behind: a report, repair lists, pairs and exclusion lists."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from urbancross_bench import __version__
from urbancross_bench.data.audit import Audit, audit
from urbancross_bench.data.index import Report
from urbancross_bench.data.overlap import Pair, Shared, pairs, shared, twins
from urbancross_bench.errors import UsageError
from urbancross_bench.evaluation import floors
from urbancross_bench.evaluation.distances import VocabularyDistance, vocabulary_distance
from urbancross_bench.files import replacing
from urbancross_bench.identity import digest
from urbancross_bench.interfaces.dataset import Domain
from urbancross_bench.interfaces.renderer import harmless

_LONGEST = 60  # bytes of a domain in a file name, which may have two
_END = 20  # bytes that are kept of either end of a longer one


@dataclass(frozen=True, eq=False)
class Between:
    """What two domains share: what of `a` is in `b`, what of `b` is in `a`, and the pairs.

    vocabulary: how differently their captions speak; None where those of one have no word.
    """

    a: str
    b: str
    a_in_b: Shared
    b_in_a: Shared
    pairs: Sequence[Pair]
    vocabulary: VocabularyDistance | None


@dataclass(frozen=True, eq=False)
class Check:
    """Each domain by itself, and every two."""

    audits: Mapping[str, Audit]
    between: Sequence[Between]

    @property
    def may_be_ranked(self) -> bool:
        """Whether no domain has a defect."""
        return all(audit.may_be_ranked for audit in self.audits.values())


def check_domains(domains: Mapping[str, Domain], report: Report) -> Check:
    """Audit each domain and compare every two. `report` is told of comparisons, `data.index.reading` of files."""
    audits = {name: audit(name, domain, report) for name, domain in domains.items()}
    between = []
    for a, b in combinations((found.opened for found in audits.values()), 2):
        forth, back = twins(a, b, report), twins(b, a, report)
        found, speech = pairs(a, b, forth, back), vocabulary_distance(a.domain.captions, b.domain.captions)
        between.append(Between(a.name, b.name, shared(a, b, forth), shared(b, a, back), found, speech))
    return Check(audits, between)


def as_json(check: Check) -> dict[str, Any]:
    """Everything, as plain JSON values."""
    return {
        "version": __version__,
        "may_be_ranked": check.may_be_ranked,
        "domains": [
            {
                "name": name,
                "may_be_ranked": found.may_be_ranked,
                "images": len(found.opened.domain.image_names),
                "captions": len(found.opened.domain.captions),
                "partition": found.opened.domain.partition,
                "splits": {split: asdict(facts) for split, facts in found.captions.items()},
                "floors": floors.as_json(found.floors),
                "findings": [asdict(finding) for finding in found.findings],
                "shared": asdict(found.shared),
                "pairs": [asdict(pair) for pair in _within(found)],
            }
            for name, found in check.audits.items()
        ],
        "between": [asdict(between) for between in check.between],
    }


def open_folder(folder: Path) -> None:
    """Make the folder of a report. Raises UsageError if it cannot be written to: before the work, not after."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "report.json.probe", "")
        (folder / "report.json.probe").unlink()
    except OSError as error:
        raise UsageError(f"output folder {folder} cannot be written to: {error}") from error


def write(check: Check, folder: Path) -> None:
    """Write `report.json`, repair lists, pairs and exclusion lists; what an earlier check left is replaced.

    A list that could not be made, because there are no images to compare, is not left lying from before either.
    """
    names = file_names(check.audits)
    text = json.dumps(as_json(check), indent=1, ensure_ascii=False, allow_nan=False)
    _write(folder / "report.json", text + "\n")
    for name, found in check.audits.items():
        rows = [
            [harmless(cell or "") for cell in (item.where, item.image, item.problem, item.remedy)]
            for finding in found.findings
            for item in finding.items
            if item.remedy
        ]
        _write_csv(folder / f"repairs-{names[name]}.csv", ["where", "image", "problem", "remedy"], rows)
        _write_pairs(folder / f"pairs-{names[name]}-{names[name]}.csv", _within(found))
        _write_exclusions(folder, names[name], names[name], found.shared)
    for pair in check.between:
        a, b = names[pair.a], names[pair.b]
        _write_pairs(folder / f"pairs-{a}-{b}.csv", pair.pairs)
        _write_exclusions(folder, a, b, pair.a_in_b)
        _write_exclusions(folder, b, a, pair.b_in_a)


def file_names(names: Iterable[str]) -> dict[str, str]:
    """What domains are called in file names: safe everywhere, and different even where case is not told apart.

    Long ones keep both ends: the reader, and the options given last, which often tell two domains of a file apart.
    """
    safe: dict[str, str] = {}
    for name in names:
        spelt = "".join(letter if _is_safe(letter) else "-" for letter in unicodedata.normalize("NFC", name))
        short = re.sub("-+", "-", spelt).strip("-.") or "domain"
        if len(short.encode()) > _LONGEST:
            start, end = short.encode()[:_END], short.encode()[-_END:]
            ends = [part.decode(errors="ignore").strip("-.") for part in (start, end)]
            short = f"{ends[0]}-{_hash(name)}-{ends[1]}"
        elif short.casefold() in {other.casefold() for other in safe.values()}:
            short = f"{short}-{_hash(name)}"
        safe[name] = short
    return safe


def _is_safe(letter: str) -> bool:
    """Whether a file name may have it: letters of any script with their marks, digits, underscore, point."""
    return letter.isalnum() or letter in "_." or unicodedata.category(letter).startswith("M")


def _hash(name: str) -> str:
    return digest([name.encode(errors="backslashreplace")])[:8]


def _within(found: Audit) -> list[Pair]:
    return pairs(found.opened, found.opened, found.twins, ())


def _write_pairs(file: Path, found: Sequence[Pair]) -> None:
    columns = ["how", "image_a", "split_a", "image_b", "split_b", "bits", "difference", "caption"]
    _write_csv(file, columns, [[_cell(value) for value in asdict(pair).values()] for pair in found])


def _write_exclusions(folder: Path, of: str, test: str, found: Shared) -> None:
    """What to keep out of a domain's training because it stands in the test split of another, or its own."""
    file = folder / f"exclude-{of}-from-{test}.csv"
    if found.leaking is None:
        file.unlink(missing_ok=True)
    else:
        _write_csv(file, ["image", "caption"], [[name, ""] for name in found.leaking])
    captions = folder / f"exclude-captions-{of}-from-{test}.csv"
    _write_csv(captions, ["image", "caption"], [list(row) for row in found.leaking_captions])


def _write_csv(file: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)  # else a lone \r stands bare
    writer.writerow(columns)
    writer.writerows(rows)
    _write(file, text.getvalue())


def _cell(value: object) -> str:
    return "" if value is None else harmless(str(value))


def _write(file: Path, text: str) -> None:
    with replacing(file) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
