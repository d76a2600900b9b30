"""First-party renderers of leaderboard tables."""

from urbancross_bench.interfaces import Registration, hookimpl, register


@hookimpl
def register_renderers() -> list[Registration]:
    """Markdown and LaTeX for people, CSV, JSON and Parquet for programs."""
    return [
        register("markdown", "urbancross_renderers.markdown:Markdown", summary="A Markdown table."),
        register("csv", "urbancross_renderers.csv:Csv", summary="A CSV file; intervals in columns of their own."),
        register("latex", "urbancross_renderers.latex:Latex", summary="A LaTeX table (booktabs), to \\input."),
        register("json", "urbancross_renderers.json:Json", summary="A JSON file with title, rows and notes."),
        register(
            "html",
            "urbancross_renderers.html.site:Html",
            summary="A site to open from the disk, with plots and a page per run.",
        ),
        register("parquet", "urbancross_renderers.parquet:Parquet", summary="A Parquet file, typed columns."),
    ]
