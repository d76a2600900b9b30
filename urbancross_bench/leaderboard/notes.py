"""What a reader has to know to trust the numbers of a table: only what its own rows and columns need."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from urbancross_bench.errors import some
from urbancross_bench.evaluation.significance import FEWEST_IMAGES, FEWEST_SEEDS
from urbancross_bench.identity import canonical_json
from urbancross_bench.leaderboard.comparisons import Compared, detectable
from urbancross_bench.leaderboard.marks import marks_of
from urbancross_bench.leaderboard.means import lacking
from urbancross_bench.leaderboard.peers import Peers
from urbancross_bench.leaderboard.rows import Row, groups_of, stand_twice
from urbancross_bench.leaderboard.view import View
from urbancross_bench.names import domains_of
from urbancross_bench.records import Record, versions_of

_NAMED = 3  # methods in a note


def _meant(identity: Mapping[str, Any]) -> list[Any]:
    """Which plugin with which options, whatever it is called and of whatever version."""
    return [
        {name: one.get(name) for name in ("name", "member", "options")}
        for one in (identity, identity.get("base", {}))
    ]


def _trained_on(row: Row) -> list[Any]:
    splits = [row.run["domains"][name]["splits"] for name in domains_of(row.run["scenario"])]
    return [[one["train"], one["val"]] for one in splits]


def _code(row: Row) -> list[Any]:
    return [row.run["code"], row.score["measured_by"]["code"]]


def _encoder(row: Row) -> list[Any]:
    return [_meant(row.run["encoder"]), row.run["encoder"]["weights"]]


_Facts = Mapping[str, Callable[[Row], Any]]

# In what rows of one label may differ: see `Row.content`.
_OF_METHODS: _Facts = {
    "the version of the method's code": lambda row: versions_of(row.run["adaptation"]),
    "the version of its selector's code": lambda row: versions_of(row.score["selected_by"]),
    "what its label means": lambda row: [_meant(row.run["adaptation"]), _meant(row.score["selected_by"])],
    "its search": lambda row: row.run["search"],
    "what it was shown": lambda row: row.run["shown"],
}
_OF_BOTH: _Facts = {
    "its recipe or budget": lambda row: [
        row.run[name] for name in ("pretraining", "budget", "precision", "threads", "ranks")
    ],
    "its protocol": lambda row: row.score["protocol"],
    "its tie rule": lambda row: row.score["ties"],
    "the precision of its embeddings": lambda row: row.score["precision"],
    "the metrics measured or their versions": lambda row: row.score["measured_by"]["metrics"],
}
# In what rows of one table may differ: see `Row.recipe`.
_OF_RECIPES: _Facts = {
    "the version of the code": _code,
    "its encoder or the version of that": lambda row: [_encoder(row), versions_of(row.run["encoder"])],
    **_OF_BOTH,
}
# In what rows of one label and scenario may differ. A change of the code comes first: the rest follows from grids.
_OF_LABELS: _Facts = {
    **_OF_METHODS,
    "the version of other code": lambda row: [*_code(row), versions_of(row.run["encoder"])],
    "its encoder": _encoder,
    **_OF_BOTH,
    "the data it saw": _trained_on,
    "its segments": lambda row: [row.run["segments"], row.score["segments"]],
    "its test split": lambda row: row.score["test"],
    "the classes there": lambda row: row.score["items"],
}


def differences_of(several: Iterable[Sequence[Row]], facts: _Facts = _OF_LABELS) -> list[str]:
    """In what the rows of any of these groups differ, in words; by default of rows that look alike."""
    groups = [*several]
    found = [
        what
        for what, of in facts.items()
        if any(len({canonical_json(of(row)) for row in rows}) > 1 for rows in groups)
    ]
    return found or ["another fact of the records"]


def _of_one_scenario(group: Iterable[Row]) -> list[list[Row]]:
    found: dict[tuple[str, str], list[Row]] = {}
    for row in group:
        found.setdefault((row.scenario, row.score["domain"]), []).append(row)
    return [*found.values()]


def notes_of(own: Sequence[str], rows: Sequence[Row], records: Sequence[Record], view: View) -> list[str]:
    """All notes of a table that is made of these rows; own: those on its columns."""
    return [*_on_intervals(rows), *own, *_on_rows(rows), *_on_records(rows, records, view), *_on_domains(rows)]


def on_scenarios(rows: Sequence[Row], compared: Compared, view: View) -> list[str]:
    """On the columns of the table of scenarios; compared: the differences that it judges together."""
    return [*_on_verdicts(rows, view), *detectable(compared, view.metric), *_on_few(rows), *_on_data(rows)]


def on_means(rows: Sequence[Row], compared: Compared, view: View, by: str) -> list[str]:
    """On the columns of a table of means over scenarios; as `on_scenarios`. by: what they have in common."""
    return [
        *_on_verdicts(rows, view),
        "Rank, and in brackets the range of ranks in 95 % of the resamples, among ranked rows of one recipe, "
        "data, scenarios and seeds, with as many trials; transductive rows apart; none of a row without others. "
        "Tie group: rows that cannot be told apart from the best of their group (same test, Holm over all pairs "
        "of the table).",
        "Worst scenario: its interval leaves out that it was chosen as the worst.",
        *_on_lacking(rows, by),
        *_on_uneven(rows, by),
        *detectable(compared, view.metric),
        *_on_few(rows),
        *_on_data(rows),
    ]


def _groups(rows: Sequence[Row], by: str) -> list[list[Row]]:
    """The rows that each line of a table of means is made of."""
    return groups_of(rows, attrgetter(by)) if by else groups_of(rows)


def _on_lacking(rows: Sequence[Row], by: str) -> list[str]:
    groups = _groups(rows, by)
    lacks: dict[tuple[str, ...], list[Row]] = {}
    for group, missing in zip(groups, lacking(groups, by), strict=True):
        if missing:
            lacks.setdefault(tuple(sorted(missing)), []).append(group[0])
    said = [f"{some(missing, _NAMED)} ({_named(of)})" for missing, of in lacks.items()]
    return [f"No mean where a scenario is missing that was run: {some(said, _NAMED, '; ')}."] if said else []


def _on_uneven(rows: Sequence[Row], by: str) -> list[str]:
    uneven = [group for group in _groups(rows, by) if len({row.numbers for row in group}) > 1]
    if not uneven:
        return []
    return [f"No mean is taken over scenarios of other seeds: {_named(group[0] for group in uneven)}."]


def on_transfer(rows: Sequence[Row], view: View) -> list[str]:
    """On the columns of what adapting was worth."""
    return [
        f"Gap closed: the mean difference to {view.baseline} over scenarios as a share of that of {view.oracle} "
        f"(scenarios with larger gaps weigh more); none unless {view.oracle} is clearly better. Forgotten: what "
        f"was lost on the sources' own test splits against {view.baseline}, where runs were scored there.",
        *_on_few(rows),
    ]


def _on_intervals(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    several = any(len(row.seeds) > 1 for row in rows)
    return [
        "Recall and mR in percent. Brackets: 95 % interval by resampling test images with all their captions; the "
        "gallery stays as it is." + (" Other seeds too, by Student's t." if several else "")
    ]


def _on_verdicts(rows: Sequence[Row], view: View) -> list[str]:
    notes = [
        f"Δ {view.baseline}: paired difference on the same images and seeds. Verdict: paired bootstrap over "
        "images and seeds, 5 % over all comparisons of ranked rows with three seeds or more in this table (Holm's "
        "correction)."
    ]
    peers = Peers(rows)
    pairs = [(row, base) for row in rows if (base := peers.baseline(row, view.baseline))]
    if uneven := [row for row, base in pairs if row.trials != base.trials]:
        notes.append(
            f"Not as many trials as {view.baseline} had: {_named(uneven)}. More trials are more to choose from, "
            "and what that was worth is in the difference, too."
        )
    references = [name for name in view.reference_settings if any(row.setting == name for row in rows)]
    if references:
        notes.append(f"Rows of the setting {' or '.join(references)} are references, without rank or verdict.")
    return notes


def _on_few(rows: Sequence[Row]) -> list[str]:
    notes = []
    if any(len(row.seeds) < FEWEST_SEEDS for row in rows):
        notes.append("Rows of fewer than three seeds: no difference there is more than an observation.")
    if any(row.score["images"] < FEWEST_IMAGES for row in rows):
        notes.append(
            f"Test sets of fewer than {FEWEST_IMAGES} images: intervals there are too narrow, verdicts too bold."
        )
    return notes


def _on_data(rows: Sequence[Row]) -> list[str]:
    if not any(marks_of(row) for row in rows):
        return []
    return ["The column data marks rows whose data are not the usual: excluded, or standing in several splits."]


def _on_rows(rows: Sequence[Row]) -> list[str]:
    notes = []
    if any(len(row.seeds) == 1 for row in rows):
        notes.append("Rows of one seed: their intervals are for other images, not for other trainings.")
    groups = groups_of(rows)
    no_mean = "no mean is taken over its scenarios"
    twice = [group for group in groups if any(len(some) > 1 for some in _of_one_scenario(group))]
    if twice:
        changed = " or ".join(differences_of(some for group in twice for some in _of_one_scenario(group)))
        said = f"A method stands twice in one scenario where {changed} changed between runs"
        notes.append(f"{said} ({_named(group[0] for group in twice)}); {no_mean}.")
    if mixed := [group for group in groups if stand_twice(group) and group not in twice]:
        changed = " or ".join(differences_of(mixed, _OF_METHODS))
        said = f"A method is not one in all of its scenarios where {changed} changed between runs"
        notes.append(f"{said} ({_named(group[0] for group in mixed)}); {no_mean}.")
    of_recipes = [*{row.recipe: row for row in rows}.values()]
    if len(of_recipes) > 1:
        changed = " or ".join(differences_of([of_recipes], _OF_RECIPES))
        notes.append(f"A row may differ from another in {changed}; only equal ones are compared.")
    return notes


def _named(rows: Iterable[Row]) -> str:
    return some([*dict.fromkeys(row.method[1] for row in rows)], _NAMED)


def _on_records(rows: Sequence[Row], records: Sequence[Record], view: View) -> list[str]:
    notes = []
    failed = sum(not record.ok for record in records)
    if failed:
        notes.append(f"Runs that did not end well: {failed}.")
    if bare := sum(record.ok and not record.scores for record in records):
        notes.append(f"Runs that ended well and have no score to show: {bare}.")
    lacking = sum(not row.complete for row in rows)
    if lacking:
        notes.append(
            "Rows that show no number, since they lack a seed that others of their scenario and recipe have: "
            f"{lacking}."
        )
    hidden = sum(
        record.ok and record.spec["encoder"]["weights"]["status"] not in view.weights for record in records
    )
    if hidden:
        shown = ", ".join(view.weights)
        notes.append(f"{hidden} runs are left out: their encoder's weights are not among {shown}.")
    return notes


def _on_domains(rows: Sequence[Row]) -> list[str]:
    domains: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        for name, facts in row.run["domains"].items():
            domains.setdefault(name, []).append(facts)
    by_model = {name: [facts["captions_generated"] for facts in domains[name]] for name in sorted(domains)}
    written = [name if all(said) else f"{name} (in some rows)" for name, said in by_model.items() if any(said)]
    notes = [f"A model wrote the captions of {', '.join(written)} from the images."] if written else []
    for name in sorted(domains):
        partitions = sorted({facts["partition"] for facts in domains[name]})
        notes.append(f"Splits of {name}: {' or '.join(partitions)}.")
        splits = [facts["splits"] for facts in domains[name]]
        if several := [part for part in ("train", "val", "test") if len({one[part] for one in splits}) > 1]:
            notes.append(f"Several {', '.join(several)} splits are called {name}; rows differ in them.")
    return notes
