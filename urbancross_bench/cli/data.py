"""`data …`: the verbs that look at datasets."""

from __future__ import annotations

import typer

from urbancross_bench.cli import data_caption, data_check, data_segment, data_show, data_split

app = typer.Typer(help="Check datasets, look at them, and split them.", no_args_is_help=True)


app.command("caption")(data_caption.caption)
app.command("check")(data_check.check)
app.command("segment")(data_segment.segment)
app.command("show")(data_show.show)
app.command("split")(data_split.split)
