"""First-party metrics."""

from urbancross_bench.interfaces import Registration, hookimpl, register


@hookimpl
def register_metrics() -> list[Registration]:
    """Recall, the field's metric."""
    return [
        register(
            "recall",
            "urbancross_metrics.recall:Recall",
            summary="R@1, R@5, R@10 in both directions and their mean mR, in percent.",
        )
    ]
