"""The command line's verbs as functions, for notebooks and scripts.

    from urbancross_bench.api import Grid, leaderboard, run

    run(Grid.from_yaml("quickstart", "budget.steps=50"))
    leaderboard("runs/quickstart")["summary"]

Light to import: torch and pandas come with the first call that needs them.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from urbancross_bench.evaluation import Ranking, evaluate_retrieval
from urbancross_bench.specs import Grid

if TYPE_CHECKING:
    import pandas as pd

    from urbancross_bench.execution.plan import Plan
    from urbancross_bench.leaderboard.view import View
    from urbancross_bench.records import ScoreRecord
    from urbancross_bench.registry import Registry

__all__ = [
    "Grid",
    "Ranking",
    "compare",
    "evaluate_retrieval",
    "leaderboard",
    "plan",
    "records",
    "rescore",
    "run",
    "search",
    "status",
]


def plan(grid: Grid | Mapping[str, Any] | str | Path, out: str | Path | None = None) -> pd.DataFrame:
    """What `run` would do: a row per run of the grid, with its `state` (`run`, `reused` or `skipped`) and reason.

    grid: a grid, what the file of one would hold, a file, or the name of a built-in one. out: the output folder,
    by default runs/NAME.
    Raises UsageError or DataError naming what is wrong with the grid or its data.
    """
    import pandas as pd

    from urbancross_bench.execution.status import status_of

    made, _, folder = _planned(grid, _path(out))
    return pd.DataFrame(
        {
            "scenario": str(run.scenario),
            "kind": run.scenario.kind,
            "encoder": run.encoder,
            "adaptation": run.adaptation,
            "seed": run.seed,
            "state": state,
            "reason": run.skipped or None,
            "run": run.key or None,
        }
        for run, state in status_of(made, folder).states().items()
    )


def run(
    grid: Grid | Mapping[str, Any] | str | Path,
    out: str | Path | None = None,
    *,
    device: str = "auto",
    only: Collection[str] = (),
    store: str | Path | None = None,
    save_every: float = 60.0,
    time_limit: float | None = None,
    memory_limit: float | None = None,
    retries: int = 0,
    track: Sequence[str] = (),
    track_patience: float = 5.0,
) -> pd.DataFrame:
    """Carry out what a grid lacks, build its tables, and return the records of its runs, as `records` does.

    Arguments are the options of `urbancross-bench run`: memory in GiB, times in seconds; progress goes to standard
    error. A run that fails is a row with its `status`, not an exception. A second call redoes nothing.

    Raises UsageError, DataError or PluginError where nothing can be run, KeyboardInterrupt when interrupted.
    """
    from urbancross_bench.cli.run import run_plan
    from urbancross_bench.execution.scheduler import Limits
    from urbancross_bench.frames import frame_of_records
    from urbancross_bench.records import read_records

    made, registry, folder = _planned(grid, _path(out))
    with _main_left_out():
        run_plan(
            made,
            registry,
            folder,
            device=device,
            only=_several(only),
            store=_path(store),
            limits=Limits.of(save_every, time_limit, memory_limit, retries),
            track=_several(track),
            track_patience=track_patience,
        )
    keys = {planned.key for planned in made.runs if not only or planned.key.startswith(_several(only))}
    records = [record for record in read_records([folder]) if record.folder.name in keys]
    return frame_of_records(records, [folder])


def records(*places: str | Path | Sequence[str | Path]) -> pd.DataFrame:
    """The records below some folders (outputs of grids, boards, unpacked bundles): a row per score.

    A run without a score is one row. Columns: what the run was (`run` is its key, `version` that of the
    adaptation's code), how it was scored, and for each metric its value and its 95 % interval: `mR`, `mR low`,
    `mR high`; NaN where they are not known. `current`: whether a grid of the folder, as it was last run there,
    asks for the row, as none does for what an earlier grid or earlier code left; <NA> where no grid is kept, or
    one cannot be read, of which a warning tells.
    Raises UsageError where no folder is named, DataError for one without records, and for committed ones that were
    edited.
    """
    from urbancross_bench.frames import frame_of_records
    from urbancross_bench.leaderboard.committed import read_unbroken

    folders = _named(places)
    return frame_of_records(read_unbroken(folders), folders)


def leaderboard(
    *places: str | Path | Sequence[str | Path],
    view: View | Mapping[str, Any] | str | Path | None = None,
    out: str | Path | None = None,
    plugins: Sequence[str | Path] = (),
) -> dict[str, pd.DataFrame]:
    """The tables that a view shows of the records below some folders, by name: `summary`, `scenarios`, …

    view: one, what the file of one would hold, or a file; by default that of `run`. out: a folder to write them to
    as well, in the view's formats. An estimate takes three columns: `mR`, `mR low`, `mR high`. plugins: one-file
    plugins with columns or renderers that the view names.
    Raises DataError for a folder without records, and for committed ones that were edited, UsageError where no
    folder is named and for what is wrong with a view, PluginError for a file that cannot be registered.
    """
    from urbancross_bench.frames import frame_of_table
    from urbancross_bench.leaderboard.build import build, columns_of, make_board
    from urbancross_bench.leaderboard.committed import read_unbroken
    from urbancross_bench.registry import Registry

    shown, folders, registry = _view(view), _named(places), Registry.discover(_several(plugins))
    if out is None:
        tables = [*make_board(read_unbroken(folders), shown, columns_of(shown, registry)).tables]
    else:
        tables = build(folders, Path(out), shown, registry)
    return {table.name: frame_of_table(table) for table in tables}


def rescore(
    *places: str | Path | Sequence[str | Path],
    metrics: Sequence[str] = ("recall",),
    ties: str | None = None,
    plugins: Sequence[str | Path] = (),
) -> pd.DataFrame:
    """Recorded runs by other metrics or another tie rule: a row per score, as in `records`.

    places: output folders of grids. metrics: as a grid names them, `ndcg[k=20]`; plugins: one-file plugins with
    metrics. Trains and writes nothing; what a metric needs and the folders lack makes NaN.
    Raises UsageError where no folder is named and for what is wrong with a metric or a tie rule, DataError for a
    folder without records.
    """
    from dataclasses import replace

    from urbancross_bench.execution.rescoring import rescored
    from urbancross_bench.frames import frame_of_records

    folders = _named(places)
    found = rescored(
        folders,
        _several(metrics),
        ties,
        _several(plugins),
        warn=lambda message: print(f"warning: {message}", file=sys.stderr),
    )
    records = [
        replace(record, scores=tuple(map(_as_rescored, record.scores, anew))) for record, anew in found if anew
    ]
    return frame_of_records(records, folders)


def compare(
    a: str | Path,
    b: str | Path,
    *places: str | Path | Sequence[str | Path],
    metric: str = "mR",
    protocol: str | None = None,
    selector: str | None = None,
    scenarios: Sequence[str] = (),
) -> pd.DataFrame:
    """Two methods (labels, or ENCODER/LABEL), or the records of two folders, compared: a row per scenario.

    Columns: what is compared, `A mR`, `B mR` and `A − B` with their intervals, p of a paired test after Holm's
    correction, and the verdict. places: output folders with the methods; by default those below runs. What could
    not be compared is in the frame's `attrs["not_compared"]`, remarks in `attrs["notes"]`.
    Raises UsageError where nothing can be compared, DataError for a folder without records, or with edited ones.
    """
    from urbancross_bench.frames import frame_of_table
    from urbancross_bench.leaderboard import comparing
    from urbancross_bench.leaderboard.pairing import Wanted, sides_of

    wanted = Wanted(metric, protocol, selector, _several(scenarios))
    sides = sides_of(str(a), str(b), _folders(places), wanted)
    found = comparing.compare(sides, str(a), str(b), wanted)
    frame = frame_of_table(comparing.table_of(found))
    frame.attrs |= {"notes": [*found.notes], "not_compared": [*found.refused]}
    return frame


def status(out: str | Path) -> pd.DataFrame:
    """How far the grids of an output folder are, also while another process runs them: a row per run.

    Columns: its `run` key (None where it is skipped), its `name` in words, its `state` (`ok`, `running`, `to do`,
    `failed`, …) and the `reason` for one that is not well. Raises UsageError where nothing was run.
    """
    import pandas as pd

    from urbancross_bench.execution.following import sessions, together

    runs = together(Path(out), sessions(Path(out))).values()
    rows = [{"run": run.key or None, "name": run.name, "state": run.state, "reason": run.reason} for run in runs]
    return pd.DataFrame(rows, columns=["run", "name", "state", "reason"])


def search(
    out: str | Path,
    *texts: str | Sequence[str],
    images: Sequence[str | Path] = (),
    run: str | None = None,
    domain: str | None = None,
    selector: str | None = None,
    top: int = 10,
    device: str = "cpu",
) -> pd.DataFrame:
    """What a run's model finds in a test split that it has embedded: a row per query and place, best first.

    out: the output folder of a grid. texts: each, or each of a list, finds images; images: files, each finds
    captions. run: how its key begins. domain: by default the run's target.
    Columns: `query`, `place`, `score` (cosine similarity), `image` (the name), `text` (the caption found, None
    where an image was), `captions` (of the image).
    Raises UsageError for a run that is not there, or has lost what a search needs.
    """
    import pandas as pd

    from urbancross_bench.execution.searching import searched

    asked, files = [text for one in texts for text in _several(one)], [*map(Path, _several(images))]
    _, _, found = searched(Path(out), asked, files, run, domain, selector, top, device)
    return pd.DataFrame(
        {
            "query": one.query,
            "place": place,
            "score": hit.score,
            "image": hit.name,
            "text": hit.text,
            "captions": hit.captions,
        }
        for one in found
        for place, hit in enumerate(one.hits, start=1)
    )


def _planned(grid: Grid | Mapping[str, Any] | str | Path, out: Path | None) -> tuple[Plan, Registry, Path]:
    from urbancross_bench.cli.grids import open_grid, plan_grid
    from urbancross_bench.specs.reading import grid_of

    if isinstance(grid, (str, Path)):
        return open_grid(str(grid), out=out)
    return plan_grid(grid_of(grid) if isinstance(grid, Mapping) else grid, out, verify=False)


def _view(view: View | Mapping[str, Any] | str | Path | None) -> View:
    from urbancross_bench.leaderboard.view import DEFAULT, View, load_view
    from urbancross_bench.specs.reading import checked

    if isinstance(view, Mapping):
        return checked(View, view, lambda names: "view")
    return view if isinstance(view, View) else load_view(Path(view or DEFAULT))


def _named(places: Sequence[str | Path | Sequence[str | Path]]) -> list[Path]:
    """The folders, of which at least one is named."""
    from urbancross_bench.errors import UsageError

    folders = _folders(places)
    if not folders:
        raise UsageError("name a folder: the output of a grid, a board or an unpacked bundle")
    return folders


def _folders(places: Sequence[str | Path | Sequence[str | Path]]) -> list[Path]:
    """Each place, or each of a list. Raises UsageError for what is no path."""
    from urbancross_bench.errors import UsageError

    named = [place for one in places for place in _several(one)]
    for place in named:
        if not isinstance(place, (str, Path)):
            raise UsageError(f"{place!r} is no folder; give its path, as text or a Path")
    return [Path(place) for place in named]


def _several(values: str | Path | Collection[Any]) -> tuple[Any, ...]:
    """Several, or one that is not in a list: a string's letters are never meant."""
    return tuple(values) if isinstance(values, Iterable) and not isinstance(values, str) else (values,)


def _path(place: str | Path | None) -> Path | None:
    return None if place is None else Path(place)


def _as_rescored(score: ScoreRecord, anew: Mapping[str, Any]) -> ScoreRecord:
    """A score with the metrics and the tie rule that it was given anew."""
    from dataclasses import replace

    return replace(score, content={**score.content, "ties": anew["ties"], "metrics": anew["metrics"]})


@contextmanager
def _main_left_out() -> Iterator[None]:
    """Processes that are started meanwhile do not import the calling script anew, as multiprocessing has them do.

    Stages need nothing of it, and one that calls `run` at its top level would call it again in each of them.
    """
    main = vars(sys.modules["__main__"])
    kept: dict[str, Any] = {name: main.pop(name) for name in ("__file__", "__spec__") if name in main}
    main["__spec__"] = None
    try:
        yield
    finally:
        main.update(kept)
