"""`search OUT QUERY …`: type a query, see what a run's model finds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from urbancross_bench.cli.json_output import JsonOption, print_json
from urbancross_bench.cli.options import DeviceOption
from urbancross_bench.errors import UsageError, cut

if TYPE_CHECKING:
    from urbancross_bench.execution.searching import Found, Hit
    from urbancross_bench.records import Record, ScoreRecord

_WIDEST = 100  # characters of a caption in a line


def search(
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="The output folder of a grid, such as runs/quickstart.")
    ],
    query: Annotated[list[str] | None, typer.Argument(metavar="QUERY", help="Texts; each finds images.")] = None,
    image: Annotated[
        list[Path] | None, typer.Option("--image", metavar="FILE", help="An image that finds texts; repeatable.")
    ] = None,
    run: Annotated[
        str | None,
        typer.Option("--run", metavar="KEY", help="The run whose model is asked, or how its key begins."),
    ] = None,
    domain: Annotated[
        str | None, typer.Option(help="Whose test split is searched, if scored; by default the run's target.")
    ] = None,
    selector: Annotated[
        str | None, typer.Option(help="Whose choice of a checkpoint; by default the first by name.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many are shown.")] = 10,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FILE", help="Also a page (.html) or a picture (.png, .jpg).")
    ] = None,
    device: DeviceOption = "cpu",
    json_: JsonOption = False,
) -> None:
    """Search a test split that a run has embedded, by texts or images of your own; without any, list the runs."""
    from urbancross_bench.cli.search_page import PAGES, PICTURES, is_ours, write_found
    from urbancross_bench.files import keep_others

    if to is not None and to.suffix.lower() not in PAGES + PICTURES:
        raise UsageError(f"--to {to}: name a page ({', '.join(PAGES)}) or a picture ({', '.join(PICTURES)})")
    if to is not None:
        keep_others(to, is_ours)

    from urbancross_bench.execution.choosing import choices, named

    if not (query or image or run or to or json_):
        print("\n".join([*choices(out), "Name one by --run, and a text or an image to search for."]))
        return

    from urbancross_bench.execution.searching import searched
    from urbancross_bench.interfaces.renderer import printable

    record, score, found = searched(out, query or [], image or [], run, domain, selector, top, device)
    about = _about(record, score)
    if json_:
        content = {"run": record.folder.name, **about, "queries": [_as_json(one) for one in found]}
        print_json(content)
    else:
        print("\n".join([named(record), *(f"  {name}: {printable(value)}" for name, value in about.items())]))
        for one in found:
            print("\n".join(_lines(one)))
    if to is not None:
        write_found(to, named(record), about, found)
        if not json_:
            print(f"written to {to}")


def _about(record: Record, score: ScoreRecord) -> dict[str, str]:
    """What a reader of the results has to know."""
    from urbancross_bench.leaderboard.stored import Exhibits

    content, exhibit = score.content, Exhibits().of(score)
    searched = f"the test split of {content['domain']}, {content['images']} images, {content['texts']} captions"
    about = {"searched": searched, "selector": content["selector"]}
    if content["calibration"]:
        about["calibration"] = f"left out: {record.spec['adaptation']['label']} needs all queries at once"
    licence = exhibit.card.get("licence") if exhibit else None
    shareable = exhibit is not None and exhibit.shareable
    may = "images and captions may be shown" if shareable else "ask it before you show the images to others"
    about["licence"] = f"{licence or 'none is stated'}; {may}"
    return about


def _as_json(found: Found) -> dict[str, Any]:
    hits = [
        {"score": hit.score, "image": hit.name, "text": hit.text, "captions": hit.captions} for hit in found.hits
    ]
    return {"query": found.query, "hits": hits}


def _lines(found: Found) -> list[str]:
    from urbancross_bench.interfaces.renderer import printable

    return ["", printable(found.query), *(_line(place, hit) for place, hit in enumerate(found.hits, start=1))]


def _line(place: int, hit: Hit) -> str:
    from urbancross_bench.interfaces.renderer import printable

    said = cut(printable(hit.text or hit.captions[0]), _WIDEST)
    more = f"  (+{len(hit.captions) - 1})" if hit.text is None and len(hit.captions) > 1 else ""
    return f"{place:4}  {hit.score:6.3f}  {printable(hit.name)}  {said}{more}"
