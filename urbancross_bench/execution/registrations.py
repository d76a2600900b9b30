"""What the core itself registers, through the same entry-point group as anybody."""

from urbancross_bench.interfaces import Registration, hookimpl, register


@hookimpl
def register_executors() -> list[Registration]:
    """Processes on this machine."""
    return [
        register(
            "local",
            "urbancross_bench.execution.local:LocalExecutor",
            options="urbancross_bench.execution.options:LocalOptions",
            summary="A fresh process per stage on this machine.",
        )
    ]
