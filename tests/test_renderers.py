"""Every format keeps its structure whatever stands in a table, and says the same as the others."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from tabulate import tabulate

from urbancross_bench.interfaces import Cell, Estimate, Options, Renderer, Table
from urbancross_bench.interfaces.renderer import printable
from urbancross_bench.registry import Registry
from urbancross_renderers.content import flat
from urbancross_renderers.csv import Csv
from urbancross_renderers.html.site import Html
from urbancross_renderers.json import Json
from urbancross_renderers.latex import Latex
from urbancross_renderers.markdown import Markdown
from urbancross_renderers.parquet import Parquet

NASTY = [
    *("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</td></tr></table>", "<!--", "&lt;b&gt;"),
    *(
        "\\input{/etc/passwd}",
        "\\end{tabular}",
        "\\\\",
        "$x^2$",
        "%",
        "&",
        "#",
        "{",
        "}",
        "_",
        "~",
        "^",
        "--",
        "?`",
    ),
    *("=HYPERLINK(1)", "+1", "-1", "@SUM(1)", "\t=1", "\r=1", "\uff1d1", "'", '"', ";", ","),
    *("|", "`", "**", "[a](javascript:x)", "![a](b)", "# h", "- l", "1. l", "> q", "~~~", "```", "===", "_a_"),
    *("\n", "\r\n", "\u2028", "\u0085", "\0", "\x1b[31m", "\ud800", "\ufeff"),
    *("\u202e", "\u2066", "\u200f", "\u061c", "é", "Å", "漢", "→", "Δ", "☃", "e\u0301", " "),
]
KINDS: tuple[type[Renderer], ...] = (Markdown, Csv, Latex, Json, Parquet, Html)

texts = st.lists(st.one_of(st.sampled_from(NASTY), st.text(max_size=4)), max_size=4).map("".join)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    """Tables with a column of each type."""
    rows = [
        [draw(texts), draw(st.integers(0, 9)), Estimate(-0.5, -1.25, 3.0), None]
        for _ in range(draw(st.integers(0, 3)))
    ]
    columns = [draw(texts) + str(i) for i in range(4)]
    best = frozenset({(0, 2)}) if rows else frozenset[tuple[int, int]]()
    return Table("t", draw(texts), columns, rows, draw(st.lists(texts.filter(printable), max_size=2)), best=best)


@settings(max_examples=150, deadline=None)
@given(tables())
def test_nothing_breaks_out_of_any_format(table: Table) -> None:
    contents = {kind: kind(Options()).render(table) for kind in KINDS}
    for content in contents.values():
        if isinstance(content, str):
            content.encode()  # no lone surrogate
            strange = {c for c in content if unicodedata.category(c) in ("Cc", "Cf", "Cs")} - {
                "\n",
                *"\u200c\u200d",
            }
            assert not strange
    markdown_is_whole(str(contents[Markdown]), table)
    csv_is_whole(str(contents[Csv]), table)
    latex_is_whole(str(contents[Latex]), table)
    said = json.loads(str(contents[Json]))
    assert not set("<>&") & set(str(contents[Json]))
    assert (said["title"], said["notes"]) == (printable(table.title), [printable(note) for note in table.notes])
    assert [[*row.values()] for row in said["rows"]] == [
        [printable(str(row[0])), row[1], -0.5, -1.25, 3.0, None] for row in table.rows
    ]
    assert said_by_parquet(contents[Parquet]) == {
        name: said[name] for name in ("title", "notes", "columns", "rows")
    }


def said_by_parquet(content: Any) -> dict[str, Any]:
    """The content in the shape of the JSON file."""
    table = pq.ParquetFile(io.BytesIO(content)).read(use_threads=False)
    meta = {key.decode(): value.decode() for key, value in table.schema.metadata.items()}
    return {
        "title": meta["title"],
        "notes": json.loads(meta["notes"]),
        "columns": table.column_names,
        "rows": table.to_pylist(),
    }


def markdown_is_whole(text: str, table: Table) -> None:
    """As a parser of Markdown sees it: a heading, a table of the right shape, a list, and text alone in them."""
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    kinds = [token.type for token in tokens]
    assert kinds.count("heading_open") == 1
    assert kinds.count("table_open") == 1
    assert kinds.count("tr_open") == 1 + len(table.rows)
    assert kinds.count("td_open") == 4 * len(table.rows)
    assert kinds.count("list_item_open") == len(table.notes)
    assert {*kinds} <= {
        *("heading_open", "heading_close", "inline", "paragraph_open", "paragraph_close"),
        *("bullet_list_open", "bullet_list_close", "list_item_open", "list_item_close"),
        *(f"{part}_{end}" for part in ("table", "thead", "tbody", "tr", "th", "td") for end in ("open", "close")),
    }
    inline = [token for token in tokens if token.type == "inline"]
    assert {child.type for token in inline for child in token.children or ()} <= {"text", "text_special"}
    seen = ["".join(child.content for child in token.children or ()) for token in inline]
    cells = [text for row in table.rows for text in (str(row[0]), str(row[1]), "-0.50 [-1.25, 3.00]", "–")]
    wanted = [printable(text) for text in (table.title, *table.columns, *cells, *table.notes)]
    assert [part.strip() for part in seen] == [text.strip() for text in wanted]


def csv_is_whole(text: str, table: Table) -> None:
    """As a spreadsheet reads it: a line a row, and no text that it would take for a formula."""
    lines = list(csv.reader(io.StringIO(text, newline="")))
    assert text.count("\n") == len(lines) == 1 + len(table.rows)
    assert {len(line) for line in lines} == {6 if table.rows else 4}
    for line in lines:
        for cell in line:
            assert not cell.startswith(("=", "+", "@", "\t", "\r", "\uff1d"))
            assert not cell.startswith("-") or float(cell) < 0


COMMANDS = {
    *("begin", "end", "centering", "caption", "label", "sbox", "usebox", "resizebox", "ifdim", "fi"),
    *("dimexpr", "wd", "ht", "dp", "relax", "linewidth", "textheight"),
    *("toprule", "midrule", "bottomrule", "par", "medskip", "raggedright", "footnotesize", "textbf", "dagger"),
    *("textbackslash", "textasciicircum", "textasciitilde", "textbar", "textless", "textgreater", "symbol"),
    *("pm", "times", "cdot", "rightarrow", "leq", "geq", "Delta", "ldots", "ss", "ae", "AE", "o", "O", "l", "L"),
    *("r", "v", "c", "u", "H", "$", "&", "#", "%", "_", "{", "}", "\\", "`", "'", "^", "~", '"', "=", ">"),
}


def latex_is_whole(text: str, table: Table) -> None:
    """Known commands alone, groups and environments closed in order, and as many cells as the table has."""
    assert text.isascii()
    head, body = text.split("\n", 1)
    assert head.startswith("%")
    assert re.findall(r"(?<!\\)(?:\\\\)*%", body.replace("sbox2{%\n", "")) == []
    depth, environments, math = 0, [], False
    tokens = re.findall(r"\\(?:[A-Za-z]+|.)|[{}$]|[^\\{}$]+", body, flags=re.DOTALL)
    for i, token in enumerate(tokens):
        if token[0] == "\\":
            assert token[1:] in COMMANDS, token
        depth += {"{": 1, "}": -1}.get(token, 0)
        math ^= token == "$"
        assert depth >= 0
        if token == "\\begin":
            environments.append(tokens[i + 2])
        elif token == "\\end":
            assert environments.pop() == tokens[i + 2]
    assert (depth, environments, math) == (0, [], False)
    rows = (
        body.split("\\toprule\n")[1].split("\n\\bottomrule")[0].replace("\\midrule\n", "").replace("\\midrule", "")
    )
    lines = [line for line in rows.split("\n") if line]
    assert len(lines) == 1 + len(table.rows)
    for line in lines:
        assert line.endswith(" \\\\")
        assert len(re.findall(r"(?<!\\)&", line)) == len(table.columns) - 1
        assert not re.match(r"[\[*]", line)


def test_the_structural_check_sees_a_breach() -> None:
    table = Table("t", "x", ["a", "b"], [["c", "d"]])
    text = Latex(Options()).render(table)
    latex_is_whole(text, table)
    for breach in (r"\input{x}", "}", "{", "&", "%", "$", "é", r"\end{tabular}"):
        with pytest.raises(AssertionError):
            latex_is_whole(text.replace("c &", f"{breach} &"), table)


TEX = r"\documentclass{article}\usepackage{booktabs,graphicx}\begin{document}%s\end{document}"


@pytest.mark.parametrize(
    ("text", "printed"), [("a–b", "a--b"), ("a—b", "a---b"), ("--", "-{}-"), ("-–-", "-{}--{}-"), ("−1", "$-$1")]
)
def test_hyphens_stay_and_dashes_are_dashes(text: str, printed: str) -> None:
    table = Table("t", "", ["c"], [[text]])
    assert f"\n{printed} \\\\\n" in Latex(Options()).render(table)


def has_latex() -> bool:
    find = shutil.which("kpsewhich")
    wanted = ("article.cls", "booktabs.sty", "graphicx.sty")
    return bool(shutil.which("pdflatex") and find) and all(
        subprocess.run([str(find), name], capture_output=True, check=False).returncode == 0 for name in wanted
    )


@pytest.mark.skipif(not has_latex(), reason="no pdflatex with booktabs here; the structure is checked above")
def test_latex_compiles(tmp_path: Path) -> None:
    nasty: list[list[Cell]] = [[text, i, Estimate(float(i), -1.0, 2.0)] for i, text in enumerate(NASTY)]
    nasty += [
        [unicodedata.normalize("NFC", f"{base}{mark}"), 0, None]
        for base in "aeou"
        for mark in "\u0300\u0308\u030c\u0327\u030b"
    ]
    cells = frozenset({(0, 2)})
    table = Table(
        "nasty",
        "".join(NASTY),
        ["a" * 60, "".join(NASTY[:9]), "c"],
        nasty,
        NASTY,
        best=cells,
        tied=frozenset({(1, 2)}),
    )
    (tmp_path / "nasty.tex").write_text(Latex(Options()).render(table), encoding="utf-8")
    (tmp_path / "all.tex").write_text(TEX % r"\input{nasty}")
    command = ["pdflatex", "-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "all.pdf").stat().st_size > 1000


@pytest.mark.skipif(not has_latex(), reason="no pdflatex with booktabs here")
def test_a_table_larger_than_the_page_is_scaled_down_to_it(tmp_path: Path) -> None:
    """TeX itself says what does not fit, and prints it beyond the edge."""
    rows: list[list[Cell]] = [["some words", i, Estimate(1.0, 0.0, 2.0)] for i in range(200)]
    for number, columns in enumerate((3, 30)):
        wide = [(row * columns)[:columns] for row in rows]
        table = Table(f"t{number}", "x", ["column"] * columns, wide, ["A note of some length. " * 5] * 6)
        (tmp_path / f"t{number}.tex").write_text(Latex(Options()).render(table), encoding="utf-8")
    (tmp_path / "all.tex").write_text(TEX % r"\input{t0}\clearpage\input{t1}")
    command = ["pdflatex", "-no-shell-escape", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert "too large" not in done.stdout
    assert "Overfull" not in done.stdout


def test_the_best_is_bold_and_what_is_tied_with_it_marked() -> None:
    rows: list[list[Cell]] = [["a", Estimate(3.0)], ["b", Estimate(2.0, 1.0, 2.5)], ["c", Estimate(1.0)]]
    table = Table("t", "x", ["m", "v"], rows, best=frozenset({(0, 1)}), tied=frozenset({(1, 1)}))
    lines = Latex(Options()).render(table).splitlines()
    assert r"a & \textbf{3.00} \\" in lines
    assert r"b & 2.00 {[}1.00, 2.50{]}$^\dagger$ \\" in lines
    assert r"c & 1.00 \\" in lines
    assert "Bold" in lines[-2]
    assert "with as many trials; transductive rows apart" in lines[-2]  # so there may be several
    assert "Bold" not in Latex(Options()).render(Table("t", "x", ["m", "v"], rows))


words = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=9)


@settings(max_examples=50, deadline=None)
@given(st.lists(words, min_size=1, max_size=4), st.data())
def test_markdown_is_laid_out_as_tabulate_does_it(columns: list[str], data: st.DataObject) -> None:
    rows = data.draw(
        st.lists(st.lists(words, min_size=len(columns), max_size=len(columns)), min_size=1, max_size=3)
    )
    expected = tabulate(rows, headers=columns, tablefmt="pipe", disable_numparse=True)
    assert Markdown(Options()).render(Table("t", "x", columns, rows)) == f"# x\n\n{expected}\n"


def test_columns_that_mix_types_are_text_and_what_is_not_finite_is_missing() -> None:
    rows: list[list[Cell]] = [
        [1, 2, float("nan"), "a"],
        ["varies", 0.123456, float("inf"), None],
        [None, None, -0.00001, None],
    ]
    table = Table("t", "x", ["mixed", "numbers", "odd", "text"], rows)
    assert said_by_parquet(Parquet(Options()).render(table))["rows"] == [
        {"mixed": "1", "numbers": 2.0, "odd": None, "text": "a"},
        {"mixed": "varies", "numbers": 0.1235, "odd": None, "text": None},
        {"mixed": None, "numbers": None, "odd": 0.0, "text": None},
    ]
    assert (
        json.loads(Json(Options()).render(table))["rows"]
        == said_by_parquet(Parquet(Options()).render(table))["rows"]
    )


def test_parquet_files_are_the_same_by_content() -> None:
    table, other = (Table("t", "x", ["a"], [[value]], ["note"]) for value in (1.0, 2.0))
    renderer = Parquet(Options())
    content = io.BytesIO()
    pq.write_table(
        pq.ParquetFile(io.BytesIO(renderer.render(table))).read(use_threads=False), content, compression="none"
    )
    assert content.getvalue() != renderer.render(table)
    assert renderer.same(content.getvalue(), renderer.render(table))
    assert not renderer.same(renderer.render(other), renderer.render(table))
    assert not renderer.same(renderer.render(Table("t", "y", ["a"], [[1.0]], ["note"])), renderer.render(table))
    assert not renderer.same(b"", renderer.render(table))


def test_every_renderer_of_the_project_is_among_these() -> None:
    registry = Registry.discover()
    names = [plugin.registration.name for plugin in registry.plugins if plugin.kind == "renderer"]
    built = {type(registry.resolve("renderer", name).build()) for name in names}
    assert {kind for kind in built if kind.__module__.startswith("urbancross_renderers")} == {*KINDS}


def test_the_ends_of_an_interval_are_called_as_no_other_column_is() -> None:
    columns = ["→ urban", "→ urban low"]
    table = Table("matrix", "T", columns, [[Estimate(2.0, 1.0, 3.0), 5.0], [None, Estimate(6.0, 5.5, 6.5)]], [])
    more = Table("matrix", "T", [*columns, "→ urban [high]"], [[Estimate(2.0, 1.0, 3.0), 5.0, 4.0]], [])
    assert flat(more)[0] == ["→ urban", "→ urban [[low]]", "→ urban [[high]]", "→ urban low", "→ urban [high]"]
    lines = [*csv.DictReader(io.StringIO(Csv(Csv.options_type()).render(table)))]
    [names, *_] = csv.reader(io.StringIO(Csv(Csv.options_type()).render(table)))
    assert names == [
        "→ urban",
        "→ urban [low]",
        "→ urban [high]",
        "→ urban low",
        "→ urban low low",
        "→ urban low high",
    ]
    assert lines[0]["→ urban [low]"] == "1.0000"
    assert [*json.loads(Json(Json.options_type()).render(table))["rows"][0]] == names
