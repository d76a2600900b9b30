"""First-party renderers of leaderboard tables."""

from urbancross_bench.interfaces import Registration, hookimpl, register


@hookimpl
def register_renderers() -> list[Registration]:
    """Markdown for people, CSV for programs."""
    return [
        register("markdown", "urbancross_renderers.markdown:Markdown", summary="A Markdown table."),
        register("csv", "urbancross_renderers.csv:Csv", summary="A CSV file; intervals in columns of their own."),
    ]
