"""The renderer `html`: which pages there are, and how they lead to each other."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from typing import Any, ClassVar

from urbancross_bench.interfaces import Board, Renderer, Table
from urbancross_renderers.html.domains import domain_link, domain_page
from urbancross_renderers.html.forest import forests
from urbancross_renderers.html.gallery import rooms
from urbancross_renderers.html.heatmap import heatmaps
from urbancross_renderers.html.markup import page, static
from urbancross_renderers.html.pictures import Pictures
from urbancross_renderers.html.runs import Listed, listed, run_link, run_list, run_page
from urbancross_renderers.html.tables import shown_table

FOLDER = "site"
_STYLE, _SCRIPT = "style.css", "site.js"
_RUNS, _DOMAINS, _GALLERY = "runs.html", "domains.html", "gallery.html"
_SCENARIO = "scenario"
_MOST_SCENARIOS = 40  # with forest plots


class Html(Renderer):
    """A folder `site` whose `index.html` opens from the disk: style and script lie beside the pages, nothing else
    is asked for, and a policy in each page forbids it.
    """

    suffix: ClassVar[str] = ".html"

    def render(self, table: Table) -> str:
        """A page of its own for one table, with style and script in it."""
        style, script = static(_STYLE), static(_SCRIPT)
        policy = f"style-src {_hashed(style)}; script-src {_hashed(script)}"
        return page("one_table.html", table=shown_table(table), style=style, script=script, policy=policy)

    def files(self, board: Board) -> Iterator[tuple[str, str | bytes]]:
        """All pages, those of runs one by one."""
        for name, content in _pages(board):
            yield f"{FOLDER}/{name}", content


def _hashed(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _pages(board: Board) -> Iterator[tuple[str, str | bytes]]:
    yield _STYLE, static(_STYLE)
    yield _SCRIPT, static(_SCRIPT)
    pictures, found = Pictures(), list[Listed]()
    top, below = _frame(board, ""), {**_frame(board, "../"), "here": ""}
    for run in board.evidence.runs():
        found.append(listed(run, board.metric))
        yield run_link(run.spec), run_page(run, **below)
    domains: list[tuple[str, str, bool]] = []
    for domain in board.evidence.domains():
        domains.append((domain_link(domain), domain.name, domain.card.get("shareable") is True))
        yield domain_link(domain), domain_page(domain, pictures, **below)
        yield from pictures.take()
    shown: list[tuple[str, str]] = []
    for room in rooms(board.evidence.queries(), pictures, **below):
        shown.append((room.link, room.title))
        yield room.link, room.content
        yield from pictures.take()
    yield _GALLERY, page("gallery.html", rooms=shown, domains=domains, here=_GALLERY, **top)
    yield _DOMAINS, page("domains.html", domains=domains, here=_DOMAINS, **top)
    runs = run_list(found, board.metric, board.title)
    yield _RUNS, page("table.html", table=runs, heat=None, plots=(), here=_RUNS, **top)
    for number, table in enumerate(board.tables):
        here = _address(number, table)
        yield here, page("table.html", here=here, **_of_table(board, table), **top)


def _of_table(board: Board, table: Table) -> dict[str, Any]:
    """A table with its plots: of one with scenarios, one for each, and the heatmaps of transfer."""
    plots = [("", forests(table, table.rows))]
    heat = None
    if _SCENARIO in table.columns:
        at = table.columns.index(_SCENARIO)
        names = dict.fromkeys(str(row[at]) for row in table.rows)
        plots = [
            (name, forests(table, [row for row in table.rows if row[at] == name]))
            for name in [*names][:_MOST_SCENARIOS]
        ]
        heat = heatmaps(table, board.metric, board.baseline)
    plots = [(name, some) for name, some in plots if some]
    return {"table": shown_table(table, runs=_RUNS), "plots": plots, "heat": heat, "metric": board.metric}


def _frame(board: Board, up: str) -> dict[str, Any]:
    """What every page's skeleton takes: where it leads to; `up` is the way to the site's folder."""
    tables = [(_address(number, table), table.name) for number, table in enumerate(board.tables)]
    others = [(_RUNS, "runs"), (_DOMAINS, "domains"), (_GALLERY, "gallery")]
    return {"board": board.title, "up": up, "ways": tables + others}


def _address(number: int, table: Table) -> str:
    return f"{table.name}.html" if number else "index.html"
