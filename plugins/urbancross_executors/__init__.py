"""First-party executors beside the core's `local`: stages on the machines of a cluster."""

from urbancross_bench.interfaces import Registration, hookimpl, register


@hookimpl
def register_executors() -> list[Registration]:
    """Ray and Slurm; neither package is imported unless its executor is used."""
    return [
        register(
            "ray",
            "urbancross_executors.on_ray:RayExecutor",
            options="urbancross_executors.options:RayOptions",
            summary="Tasks on a ray cluster, or on one started here.",
        ),
        register(
            "slurm",
            "urbancross_executors.on_slurm:SlurmExecutor",
            options="urbancross_executors.options:SlurmOptions",
            summary="A Slurm job per task, through submitit.",
        ),
    ]
