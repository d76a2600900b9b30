"""First-party trackers: dashboards that show what a grid does while it does it."""

from __future__ import annotations

from urbancross_bench.interfaces import Registration, hookimpl, register


@hookimpl
def register_trackers() -> list[Registration]:
    """Both write files of this machine, and nothing else."""
    return [
        register(
            "tensorboard",
            "urbancross_trackers.tensorboard:Tensorboard",
            options="urbancross_trackers.tensorboard:TensorboardOptions",
            needs={"tensorboard"},
            summary="Event files for TensorBoard: learning curves and scores.",
        ),
        register(
            "trackio",
            "urbancross_trackers.trackio:Trackio",
            options="urbancross_trackers.trackio:TrackioOptions",
            needs={"trackio"},
            summary="A local Trackio project: learning curves, scores and what each run is.",
        ),
    ]
