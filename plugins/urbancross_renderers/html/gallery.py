"""The gallery: queries with the top ten of two methods side by side, a page for each test split."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from urbancross_bench.interfaces import Hit, ShownQuery
from urbancross_renderers.html.markup import file_name, page
from urbancross_renderers.html.pictures import Pictures, ShownItem


@dataclass(frozen=True)
class _Entry:
    """A place of a list: what stands there, and what is to be said of it in words and by a class."""

    item: ShownItem
    said: str
    kind: str


@dataclass(frozen=True)
class _List:
    """What one method found; `number` is that of its method on the page."""

    number: int
    method: str
    rank: float
    entries: Sequence[_Entry]


@dataclass(frozen=True)
class _Asked:
    query: ShownItem
    is_text: bool
    lists: Sequence[_List]


@dataclass(frozen=True)
class Room:
    """A page of the gallery: its address from the site's folder, what it is of, and its content."""

    link: str
    title: str
    content: str


def rooms(queries: Iterator[ShownQuery], pictures: Pictures, **frame: Any) -> Iterator[Room]:
    """A page for each test split and protocol, one after the other; `frame` is what the skeleton takes."""
    for (domain, test, protocol), group in groupby(queries, key=lambda one: (one.domain, one.test, one.protocol)):
        some = [*group]
        methods = [*dict.fromkeys(found.method for one in some for found in one.lists)]
        number = {method: place for place, method in enumerate(methods)}
        asked = [_asked(one, number, pictures) for one in some]
        title = f"{domain}, protocol {protocol}"
        content = page("room.html", title=title, domain=domain, methods=methods, asked=asked, **frame)
        yield Room(f"gallery/{file_name(domain, test, protocol)}.html", title, content)


def _asked(one: ShownQuery, number: dict[str, int], pictures: Pictures) -> _Asked:
    lists = [
        _List(
            number[found.method],
            found.method,
            found.rank,
            [_Entry(pictures.shown(hit.item, "../"), _said(hit), _kind(hit)) for hit in found.hits],
        )
        for found in one.lists
    ]
    return _Asked(pictures.shown(one.query, "../"), one.query.kind == "text", lists)


def _said(hit: Hit) -> str:
    same = "the same image" if hit.item.kind == "image" else "the same words"
    parts = (
        ["right"] if hit.right else [f"not right here, but {same} as a right answer"] if hit.copy_of_right else []
    )
    parts += [f"{same} as further up"] if hit.repeats else []
    return "; ".join(parts)


def _kind(hit: Hit) -> str:
    return "right" if hit.right else "copy" if hit.copy_of_right or hit.repeats else "wrong"
