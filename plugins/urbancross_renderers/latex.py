"""Tables as LaTeX, with the rules of booktabs."""

from __future__ import annotations

import re
import unicodedata
from typing import ClassVar

from urbancross_bench.interfaces import Cell, Renderer, Table
from urbancross_bench.interfaces.renderer import printable
from urbancross_renderers.content import in_words

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "|": r"\textbar{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    '"': r"\symbol{34}",
    "`": r"\symbol{96}",
    # After the end of a row these would be an argument and a star of it.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "–": "--",
    "—": "---",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "→": r"$\rightarrow$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "Δ": r"$\Delta$",
    "†": r"$\dagger$",
    "…": r"\ldots{}",
    "’": "'",
    "ß": r"\ss{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "ł": r"\l{}",
    "Ł": r"\L{}",
}
_ACCENTS = {
    "\u0300": "`",
    "\u0301": "'",
    "\u0302": "^",
    "\u0303": "~",
    "\u0308": '"',
    "\u030a": "r",
    "\u030c": "v",
    "\u0327": "c",
    "\u0304": "=",
    "\u0306": "u",
    "\u030b": "H",
}
_HYPHENS = re.compile("(?<=[-–—])(?=[-–—])")
_OF_NUMBERS = str.maketrans({"-": "$-$", "–": "--", "[": "{[}", "]": "{]}"})
_NEEDS = "% Needs \\usepackage{booktabs,graphicx}. Plain ASCII: any engine and input encoding.\n"
# What is printed of a table that is wider than the page, or higher than leaves room for the notes.
_FITTED = (
    "\\ifdim\\wd2>\\linewidth\\sbox2{\\resizebox{\\linewidth}{!}{\\usebox2}}\\fi\n"
    "\\ifdim\\dimexpr\\ht2+\\dp2\\relax>.55\\textheight\\sbox2{\\resizebox*{!}{.55\\textheight}{\\usebox2}}\\fi\n"
    "\\usebox2\n"
)
_LEGEND = (
    "Bold: the highest mean among ranked rows of one recipe, data, scenarios and seeds, with as many trials; "
    "transductive rows apart. $\\dagger$: cannot be told apart from it (its tie group)."
)


class Latex(Renderer):
    """A `table` for \\input: caption, label `tab:NAME`, the rows in a `tabular`, the notes in small print below.

    A table larger than the page is scaled down to it. The best is bold, what cannot be told apart from it has a
    dagger, where the table tests that.
    """

    suffix: ClassVar[str] = ".tex"

    def render(self, table: Table) -> str:
        """Numbers with two decimals, intervals in brackets, a dash for what is missing."""
        lines = [
            _line([_escape(name) for name in table.columns]),
            r"\midrule",
            *(
                _line([_marked(_text(cell), (i, k), table) for k, cell in enumerate(row)])
                for i, row in enumerate(table.rows)
            ),
        ]
        notes = [_escape(note) for note in table.notes] + ([_LEGEND] if table.best else [])
        small = "".join(f"\\par {note}\n" for note in notes)
        label = re.sub(r"[^A-Za-z0-9-]", "-", table.name)
        return (
            f"{_NEEDS}\\begin{{table}}\n\\centering\n\\caption{{{_escape(table.title)}}}\n\\label{{tab:{label}}}\n"
            "\\sbox2{%\n"
            f"\\begin{{tabular}}{{{_alignment(table)}}}\n\\toprule\n"
            + "\n".join(lines)
            + f"\n\\bottomrule\n\\end{{tabular}}}}\n{_FITTED}"
            + (f"\\par\\medskip\\raggedright\\footnotesize\n{small}" if notes else "")
            + "\\end{table}\n"
        )


def _alignment(table: Table) -> str:
    """Numbers to the right."""
    numeric = [
        any(not isinstance(row[i], str | None) for row in table.rows)
        and not any(isinstance(row[i], str) for row in table.rows)
        for i in range(len(table.columns))
    ]
    return "".join("r" if is_numeric else "l" for is_numeric in numeric)


def _line(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"


def _marked(text: str, place: tuple[int, int], table: Table) -> str:
    if place in table.best:
        return f"\\textbf{{{text}}}"
    return f"{text}$^\\dagger$" if place in table.tied else text


def _text(cell: Cell) -> str:
    return _escape(str(cell)) if isinstance(cell, str | int) else in_words(cell).translate(_OF_NUMBERS)


def _escape(text: str) -> str:
    """Plain text in ASCII: no command of it is carried out, and no letter needs a font of its own."""
    composed = unicodedata.normalize("NFC", printable(text))
    parts = _HYPHENS.split(composed)  # hyphens and dashes side by side would be a longer dash
    return "{}".join("".join(_SPECIAL.get(char) or _char(char) for char in part) for part in parts)


def _char(char: str) -> str:
    if char.isascii():
        return char
    base, *marks = list(unicodedata.normalize("NFD", char))
    if base.isascii() and len(marks) == 1 and marks[0] in _ACCENTS:
        return f"\\{_ACCENTS[marks[0]]}{{{base}}}"
    return _unknown(char)


def _unknown(char: str) -> str:
    """By its number, as `printable` does it."""
    return f"{{[}}U+{ord(char):04X}{{]}}"
