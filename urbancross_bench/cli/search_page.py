"""What was found, as a page of one file or as a contact sheet."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from urbancross_bench.errors import UsageError, cut
from urbancross_bench.interfaces.renderer import printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from urbancross_bench.execution.searching import Found, Hit

_STYLE = """
body { font: 1rem/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 76rem; padding: 0 1rem;
       color: #1c2430; background: #fff }
h1 { font-size: 1.3rem } h2 { font-size: 1.5rem; margin: 2.5rem 0 1rem } dl { color: #4c5866; font-size: .9rem }
dt { float: left; clear: left; width: 7rem } dd { margin: 0 0 0 7rem }
ol { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: 1.2rem; padding: 0;
     list-style: none }
li img, .none { width: 100%; aspect-ratio: 1; border-radius: .4rem; display: block; background: #e8ecf1 }
.query { width: 4rem; border-radius: .4rem; margin-right: 1rem; vertical-align: middle }
.none { display: grid; place-items: center; color: #4c5866 }
p { margin: .4rem 0; overflow-wrap: anywhere } .small { font-size: .85rem; color: #4c5866 }
@media (prefers-color-scheme: dark) {
  body { color: #e6eaf0; background: #14181e } dl, .small, .none { color: #a6b1bf }
  .none, img { background: #262d37 }
}
"""
PAGES, PICTURES = (".html", ".htm"), (".png", ".jpg", ".jpeg", ".webp")
_MADE_BY, _SOFTWARE = "urbancross-bench search", 0x0131  # the tag of EXIF for what made a picture
_GENERATOR, _HEAD = f'<meta name="generator" content="{_MADE_BY}">', 1000  # characters that hold it
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_SIDE, _GAP, _COLUMNS, _LINE = 192, 16, 5, 18  # pixels of the sheet
_HIGHEST = {".jpg": 65_500, ".jpeg": 65_500, ".webp": 16_383}  # pixels that a format takes
_WORDS, _QUERY = 30, 90  # characters below a picture, and above all of them


def is_ours(file: Path) -> bool:
    """Whether a page or a picture says that it was made here. Raises OSError, ValueError."""
    if file.suffix.lower() in PAGES:
        with file.open(encoding="utf-8") as opened:
            return _GENERATOR in opened.read(_HEAD)

    from PIL import Image

    with Image.open(file) as picture:
        return bool(picture.getexif().get(_SOFTWARE) == _MADE_BY)


def write_found(to: Path, title: str, about: Mapping[str, str], found: Sequence[Found]) -> None:
    """A page or a picture, by the ending of the file."""
    to.parent.mkdir(parents=True, exist_ok=True)
    if to.suffix.lower() in PAGES:
        to.write_text(page(title, about, found), encoding="utf-8")
        return

    from PIL import Image

    said, picture = Image.Exif(), sheet(title, about, found)
    said[_SOFTWARE] = _MADE_BY
    if picture.height > (most := _HIGHEST.get(to.suffix.lower(), picture.height)):
        raise UsageError(
            f"--to {to}: {picture.height:,} pixels high, and {to.suffix} takes {most:,}; name a .html or a .png, "
            "or ask for less at once"
        )
    picture.save(to, exif=said)


def page(title: str, about: Mapping[str, str], found: Sequence[Found]) -> str:
    """HTML with the pictures in it; it loads nothing and runs nothing."""
    facts = "".join(f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in about.items())
    parts = [
        f"<section><h2>{_asked(one)}{_text(one.query)}</h2><ol>"
        + "".join(_item(place, hit) for place, hit in enumerate(one.hits, start=1))
        + "</ol></section>"
        for one in found
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'{_GENERATOR}<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>{_text(title)}</h1><dl>{facts}</dl>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def sheet(title: str, about: Mapping[str, str], found: Sequence[Found]) -> Image.Image:
    """The pictures in rows below each query."""
    from PIL import Image, ImageDraw, ImageFont

    title = title.replace("→", "to")  # Pillow's font has no arrow
    heads = [title, *(f"{name}: {value}" for name, value in about.items())]
    cell, top = _SIDE + 2 * _LINE + _GAP, _GAP + _LINE * len(heads)
    rows = [-(-len(one.hits) // _COLUMNS) for one in found]
    height = top + sum(2 * _LINE + _GAP + count * cell for count in rows) + _GAP
    picture = Image.new("RGB", (_COLUMNS * (_SIDE + _GAP) + _GAP, height), "white")
    draw = ImageDraw.Draw(picture)
    small, large = ImageFont.load_default(12), ImageFont.load_default(20)
    for number, line in enumerate(heads):
        draw.text((_GAP, _GAP + number * _LINE), printable(line), "#4c5866", small)
    for one, count in zip(found, rows, strict=True):
        draw.text((_GAP, top + _GAP), cut(printable(one.query), _QUERY), "black", large)
        top += 2 * _LINE + _GAP
        for place, hit in enumerate(one.hits):
            left, upper = _GAP + place % _COLUMNS * (_SIDE + _GAP), top + place // _COLUMNS * cell
            if hit.pixels is None:
                draw.rectangle((left, upper, left + _SIDE, upper + _SIDE), "#e8ecf1")
            else:
                picture.paste(_picture(hit.pixels).resize((_SIDE, _SIDE)), (left, upper))
            under = [f"{place + 1}  {hit.score:.3f}  {hit.name}", hit.text or hit.captions[0]]
            lines = "\n".join(cut(printable(line), _WORDS) for line in under)
            draw.text((left, upper + _SIDE + 2), lines, "#1c2430", small)
        top += count * cell
    return picture


def _asked(found: Found) -> str:
    return "" if found.pixels is None else f'<img class="query" src="{_data(found.pixels)}" alt="">'


def _item(place: int, hit: Hit) -> str:
    said = [hit.text] if hit.text is not None else hit.captions
    captions = "".join(f"<p>{_text(caption)}</p>" for caption in said)
    shown = '<div class="none">no picture</div>'
    if hit.pixels is not None:
        shown = f'<img src="{_data(hit.pixels)}" alt="{_text(hit.captions[0])}">'
    return f'<li>{shown}<p class="small">{place} · {hit.score:.3f} · {_text(hit.name)}</p>{captions}</li>'


def _data(pixels: NDArray[np.uint8]) -> str:
    content = io.BytesIO()
    _picture(pixels).save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def _picture(pixels: NDArray[np.uint8]) -> Image.Image:
    from PIL import Image

    return Image.fromarray(pixels)


def _text(value: str) -> str:
    return escape(printable(value))
