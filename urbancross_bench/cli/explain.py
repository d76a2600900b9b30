"""`explain KEY KEY`: why two keys are not the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from urbancross_bench.cli.json_output import JsonOption, print_json
from urbancross_bench.cli.options import PluginOption
from urbancross_bench.errors import UsageError, cut

if TYPE_CHECKING:
    from urbancross_bench.execution.explaining import Explanation, Thing

_LONGEST = 160  # characters of a value in a line


def explain(
    one: Annotated[str, typer.Argument(metavar="KEY", help="The key of a stage, run or score, or how it begins.")],
    other: Annotated[str, typer.Argument(metavar="KEY", help="Another.")],
    places: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PLACE", help="Output folders to look in; by default those below runs."),
    ] = None,
    grid: Annotated[
        str | None, typer.Option(metavar="GRID", help="Also look among what this grid plans: made or not.")
    ] = None,
    plugin: PluginOption = None,
    json_: JsonOption = False,
) -> None:
    """Show which facts make two keys differ: why something was redone, or is not shared."""
    from urbancross_bench.cli.grids import open_grid
    from urbancross_bench.execution.explaining import Library
    from urbancross_bench.execution.explaining import explain as explained

    if plugin and not grid:
        raise UsageError("--plugin goes with --grid: what is made already tells of its plugins itself")
    plan = open_grid(grid, plugins=plugin)[0] if grid else None
    found = places or sorted(place for place in Path("runs").glob("*") if _is_output(place))
    if not found and plan is None:
        raise UsageError("there is no output folder below runs; name some, or a --grid")
    library = Library(found, plan)
    explanation = explained(library.find(one), library.find(other), library)
    if json_:
        print_json(_as_json(explanation))
    else:
        print(_as_text(explanation))


def _is_output(place: Path) -> bool:
    return (place / "store").is_dir() or (place / "runs").is_dir()


def _as_json(explanation: Explanation) -> dict[str, Any]:
    from urbancross_bench.execution.explaining import ABSENT

    def values(pair: tuple[Any, Any]) -> dict[str, Any]:
        return {name: value for name, value in zip(("one", "other"), pair, strict=True) if value is not ABSENT}

    return {
        "same": explanation.one.key == explanation.other.key,
        "one": _thing(explanation.one),
        "other": _thing(explanation.other),
        "differences": [
            {"path": found.path, **values(found.values), "also": found.also} for found in explanation.differences
        ],
        "unknown": [
            {"path": found.path, "one": found.keys[0], "other": found.keys[1], "missing": list(found.missing)}
            for found in explanation.unknown
        ],
    }


def _thing(thing: Thing) -> dict[str, str]:
    return {"kind": thing.kind, "key": thing.key, "what": thing.label, "where": thing.where}


def _as_text(explanation: Explanation) -> str:
    one, other = explanation.one, explanation.other
    if one.key == other.key:
        return f"{_said(one)}\nthe same key: nothing differs"
    lines = [_said(one), _said(other), ""]
    for found in explanation.differences:
        also = f"  (also {', '.join(found.also)})" if found.also else ""
        lines.append(f"{found.path}: {_value(found.values[0])} → {_value(found.values[1])}{also}")
    for unknown in explanation.unknown:
        missing = " and ".join(unknown.missing)
        lines.append(
            f"{unknown.path}: {unknown.keys[0]} → {unknown.keys[1]}  (the facts of {missing} are not there)"
        )
    if len(lines) == 3:
        lines.append("nothing that is known of them differs")
    return "\n".join(lines)


def _said(thing: Thing) -> str:
    return f"{thing.kind} {thing.key}  {thing.label + '  ' if thing.label else ''}({thing.where})"


def _value(value: Any) -> str:
    """A string as it is, unless it would look like something else; the rest as JSON. Cut where it is long."""
    from urbancross_bench.execution.explaining import ABSENT

    if value is ABSENT:
        return "absent"
    text = value if isinstance(value, str) and _is_plain(value) else json.dumps(value, ensure_ascii=False)
    return cut(text, _LONGEST)


def _is_plain(text: str) -> bool:
    if not text.isprintable() or text != text.strip() or text in ("", "absent"):
        return False
    try:
        json.loads(text)
    except ValueError:
        return True
    return False
