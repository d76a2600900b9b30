"""First-party segmenters."""

from urbancross_bench.interfaces import Registration, hookimpl


@hookimpl
def register_segmenters() -> list[Registration]:
    """None yet."""
    return []
