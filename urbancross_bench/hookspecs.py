"""The hooks a plugin may implement: one registration hook per kind, and the life of a run.

Mark an implementation with `interfaces.hookimpl`; a marked function that is no hook is an error, not silence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pluggy

from urbancross_bench.interfaces.registration import PROJECT, Registration

hookspec = pluggy.HookspecMarker(PROJECT)

# Kind → the hook that registers plugins of this kind.
REGISTRATION_HOOKS = {
    "dataset": "register_datasets",
    "encoder": "register_encoders",
    "adaptation": "register_adaptations",
    "metric": "register_metrics",
    "selector": "register_selectors",
    "executor": "register_executors",
    "renderer": "register_renderers",
    "column": "register_columns",
    "segmenter": "register_segmenters",
    "captioner": "register_captioners",
    "tracker": "register_trackers",
    "command": "register_commands",
}

# The hooks of the life of a grid. They are called in a process of the plugin's own, in order, and cost the grid
# nothing: not its time, not its result. An implementation may leave out arguments that it does not use.
LIFECYCLE_HOOKS = (
    "on_grid_started",
    "on_run_reused",
    "on_run_started",
    "on_epoch_ended",
    "on_run_finished",
    "on_grid_finished",
)


@hookspec
def register_datasets() -> Sequence[Registration]:  # type: ignore[empty-body]
    """Offer datasets (targets: subclasses of `interfaces.Dataset`)."""


@hookspec
def register_encoders() -> Sequence[Registration]:  # type: ignore[empty-body]
    """Offer dual encoders (targets: subclasses of `interfaces.Encoder`)."""


@hookspec
def register_adaptations() -> Sequence[Registration]:  # type: ignore[empty-body]
    """Offer adaptation methods (targets: subclasses of `interfaces.Adaptation`)."""


@hookspec
def register_metrics() -> Sequence[Registration]:  # type: ignore[empty-body]
    """Offer metrics (targets: subclasses of `interfaces.Metric`)."""


@hookspec
def register_selectors() -> Sequence[Registration]:  # type: ignore[empty-body]
    """Offer checkpoint selectors (targets: subclasses of `interfaces.Selector`)."""


@hookspec
def register_executors() -> Sequence[Registration]:  # type: ignore[empty-body]
    """Offer executors (targets: subclasses of `interfaces.Executor`)."""


@hookspec
def register_renderers() -> Sequence[Registration]:  # type: ignore[empty-body]
    """Offer renderers of leaderboard tables (targets: subclasses of `interfaces.Renderer`)."""


@hookspec
def register_columns() -> Sequence[Registration]:  # type: ignore[empty-body]
    """Offer further columns of leaderboard tables (targets: subclasses of `interfaces.Column`)."""


@hookspec
def register_segmenters() -> Sequence[Registration]:  # type: ignore[empty-body]
    """Offer segmenters for `data segment` (targets: subclasses of `interfaces.Segmenter`)."""


@hookspec
def register_captioners() -> Sequence[Registration]:  # type: ignore[empty-body]
    """Offer captioners for `data caption` (targets: subclasses of `interfaces.Captioner`)."""


@hookspec
def register_trackers() -> Sequence[Registration]:  # type: ignore[empty-body]
    """Offer trackers for `run --track` (targets: subclasses of `interfaces.Tracker`)."""


@hookspec
def register_commands() -> Sequence[Registration]:  # type: ignore[empty-body]
    """Offer verbs of the command line (targets: functions, as typer takes them)."""


@hookspec
def on_grid_started(out: str, grid: str, runs: Sequence[Mapping[str, Any]]) -> None:
    """Before the first stage. `out` is the output folder, `grid` its name, `runs` the specs of the runs to do."""


@hookspec
def on_run_reused(
    run: Mapping[str, Any],
    trainings: Sequence[Mapping[str, Any]],
    scores: Mapping[str, Mapping[str, float]],
) -> None:
    """`run` has a record already, which is reused. Called for each such run before anything else of any run.

    `trainings`: of each stage that trained for it, and is not to be done again, `stage` and `key` as
    `on_epoch_ended` has them, and `passes`, the `values` of each pass.
    """


@hookspec
def on_run_started(run: Mapping[str, Any]) -> None:
    """The first stage of `run` (its spec, as JSON) that it does not share by name was handed to the executor.

    That is its adaptation, or its ranking where the adaptation was stored already; not called for a run whose
    stages were all stored and only its record was missing.
    """


@hookspec
def on_epoch_ended(stage: str, values: Mapping[str, float], key: str) -> None:
    """A pass over the source ended while training in `stage`; `values` holds its mean losses, and the `step`.

    `stage` is for people; `key` tells which runs it is of: it stands among the `stages` of their specs.
    """


@hookspec
def on_run_finished(
    run: Mapping[str, Any], status: str, error: str | None, scores: Mapping[str, Mapping[str, float]]
) -> None:
    """The record of `run` was written with this status, for this `error` where it is not `ok`.

    `scores`: of each score of the record, `selector/protocol/domain` → metric → value.
    """


@hookspec
def on_grid_finished(out: str, counts: Mapping[str, int]) -> None:
    """All runs have ended, or the grid was interrupted. `counts`: the number of runs per status."""
