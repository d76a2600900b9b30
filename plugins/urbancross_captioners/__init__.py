"""First-party captioners."""

from urbancross_bench.interfaces import Registration, hookimpl


@hookimpl
def register_captioners() -> list[Registration]:
    """None yet."""
    return []
