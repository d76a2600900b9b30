"""`export model-card OUT RUN`: a README for a model hub, with the run's results in a form that hubs read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def model_card(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The output folder of a grid, such as runs/quickstart.")
    ],
    run: Annotated[str, typer.Argument(metavar="RUN", help="The key of a run, or how it begins.")],
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="DIR", help="Write DIR/README.md; by default the card is printed."),
    ] = None,
) -> None:
    """Write a Hugging Face model card of one run: `model-index`, protocol, data, provenance."""
    from urbancross_bench.execution.choosing import chosen_run
    from urbancross_bench.execution.model_card import is_card
    from urbancross_bench.execution.model_card import model_card as card
    from urbancross_bench.files import keep_others

    if to is not None:
        keep_others(to / "README.md", is_card)
    text = card(out, chosen_run(out, run))
    if to is None:
        print(text, end="")
        return
    to.mkdir(parents=True, exist_ok=True)
    (to / "README.md").write_text(text, encoding="utf-8")
    print(f"written to {to / 'README.md'}")
