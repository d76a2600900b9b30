"""Names in records that are markup, commands or formulas: no format takes them for more than text."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import Result
from made_up_records import write_runs
from markdown_it import MarkdownIt

from urbancross_bench.interfaces.renderer import printable
from urbancross_bench.leaderboard.view import DEFAULT

Cli = Callable[..., Result]
EVIL = {
    "html": "</td></tr></table><script>alert(1)</script><!--",
    "image": '"><img src=x onerror=alert(1)>',
    "latex": "\\end{tabular}\\input{/etc/passwd}\\write18{id} $x$ % & # _ ^ ~ {",
    "formula": '=HYPERLINK("http://x",1)',
    "command": "@SUM(1)|cmd",
    "hidden tab": "\t=1+1",
    "backwards": "\u202egpj.exe\u2066",
    "lines": "a\n\n# heading\r\n| b | c |\n|---|---|\n- [x](javascript:y)\n```",
    "control": "\x1b[31m\x00red",
}
EVIL_PLUGIN = """
from pydantic import Field
from urbancross_bench.interfaces import Adaptation, Options, hookimpl, register

TEXT = {text!r}

@hookimpl
def register_adaptations():
    return [register("told", "{module}:Told", options="{module}:ToldOptions", setting="source_only", summary=TEXT)]

class ToldOptions(Options):
    weight: float = Field(default=1.0, description=TEXT)
    word: str = Field(default=TEXT, description=TEXT)

class Told(Adaptation):
    __doc__ = TEXT
    options_type = ToldOptions
"""
FORMATS = ("markdown", "csv", "latex", "json", "parquet")


@pytest.fixture(params=EVIL, scope="module")
def tables(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables of two methods on one encoder whose every name is the text, in every format."""
    text, place = EVIL[request.param], tmp_path_factory.mktemp("evil")
    encoder = {"label": text, "name": text, "options": {}}
    encoder["weights"] = {"status": "trained here", "source": text, "sha256": None, "partial": False}
    facts = {"partition": text, "mark": text, "captions_generated": True, "excluded": None}
    facts |= {"test_images_also_in_train_or_val": 0, "splits": dict.fromkeys(("train", "val", "test"), "x")}
    target = f"b{text}"
    changes: dict[str, Any] = {"encoder": encoder, "domains": {text: facts, target: facts}}
    for method in ("source_only", "ours"):
        label = "source_only" if method == "source_only" else text
        named = {"label": label, "name": label, "version": "1", "options": {}}
        write_runs(place, methods=[method], pairs=[(text, target)], adaptation=named, **changes)
    view = DEFAULT.read_text(encoding="utf-8").replace("[markdown, csv]", json.dumps([*FORMATS]))
    view = view.replace("title: Leaderboard", f"title: {json.dumps(text)}")
    (place / "view.yaml").write_text(view, encoding="utf-8")
    return place


def test_no_name_is_taken_for_more_than_text(tables: Path, cli: Cli) -> None:
    out = tables / "board"
    built = cli("leaderboard", "build", tables, "--out", out, "--view", tables / "view.yaml")
    assert built.status == 0, built.err
    for name in ("summary", "scenarios"):
        of = {suffix: out / f"{name}.{suffix}" for suffix in ("md", "csv", "tex", "json", "parquet")}
        for suffix in ("md", "csv", "tex", "json"):
            text = of[suffix].read_text(encoding="utf-8")
            assert not [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c != "\n"]
        said = json.loads(of["json"].read_text(encoding="utf-8"))
        rows = len(said["rows"])
        assert rows == 2
        shape = {len(line) for line in csv.reader(io.StringIO(of["csv"].read_text(encoding="utf-8")))}
        assert len(shape) == 1
        check_csv(of["csv"].read_text(encoding="utf-8"), rows)
        check_markdown(of["md"].read_text(encoding="utf-8"), rows, len(said["notes"]))
        check_latex(of["tex"].read_text(encoding="utf-8"), rows)
        assert not set("<>&") & set(of["json"].read_text(encoding="utf-8"))
        assert pq.read_table(of["parquet"]).to_pylist() == said["rows"]


@pytest.mark.parametrize("kind", EVIL)
def test_what_a_plugin_says_of_itself_stays_on_its_line(kind: str, cli: Cli, tmp_path: Path) -> None:
    """No description of a plugin or an option moves the cursor, colours the screen or makes lines of its own."""
    file = tmp_path / f"told_{kind.replace(' ', '_')}.py"
    file.write_text(EVIL_PLUGIN.format(text=EVIL[kind], module=file.stem), encoding="utf-8")
    said = printable(EVIL[kind])
    listed, shown = (cli("plugins", *verb, "--plugin", file) for verb in (("list",), ("show", "told")))
    for result in (listed, shown):
        assert result.status == 0, result.err
        assert not [c for c in result.out if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c != "\n"]
    [line] = [line for line in listed.out.splitlines() if line.split()[1:2] == ["told"]]
    assert said in line
    head, *rest = shown.out.splitlines()
    assert head == f"adaptation told: {said}"
    assert [line.split()[0] for line in rest] == ["from", "setting", "option", "option"]
    assert all(line.endswith(f"  {said}") for line in rest[2:])
    [plugin] = json.loads(cli("plugins", "show", "told", "--plugin", file, "--json").out)
    assert plugin["summary"] == plugin["options"]["word"]["description"] == EVIL[kind]


def check_csv(text: str, rows: int) -> None:
    lines = list(csv.reader(io.StringIO(text, newline="")))
    assert text.count("\n") == len(lines) == 1 + rows
    for cell in (cell for line in lines for cell in line):
        assert not cell.startswith(("=", "+", "@", "\t", "\r"))
        assert not cell.startswith("-") or float(cell) <= 0


def check_markdown(text: str, rows: int, notes: int) -> None:
    tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
    kinds = [token.type for token in tokens]
    counts = [kinds.count(f"{kind}_open") for kind in ("heading", "table", "tr", "list_item")]
    assert counts == [1, 1, 1 + rows, notes]
    inline = {child.type for token in tokens if token.type == "inline" for child in token.children or ()}
    assert inline <= {"text", "text_special"}
    assert not {"html_block", "fence", "code_block"} & {*kinds}


def check_latex(text: str, rows: int) -> None:
    assert text.isascii()
    commands = {*re.findall(r"(?<!\\)(?:\\\\)*\\([A-Za-z]+)", text)}
    assert not {"input", "write", "href", "def", "include"} & commands
    assert text.count("\\end{tabular}") == text.count("\\begin{table}") == 1
    body = text.split("\\toprule\n")[1].split("\n\\bottomrule")[0]
    assert body.count(" \\\\\n") + body.endswith(" \\\\") == 1 + rows
