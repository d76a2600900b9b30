"""Reading a file of YAML, a grid's or another: overrides from the command line, and errors that name the line."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from urbancross_bench.errors import UsageError, did_you_mean, requirement
from urbancross_bench.sources import files_of
from urbancross_bench.specs.grid import Grid, got

BUILT_IN = Path(__file__).parent.parent / "grids"

Where = Callable[[Sequence[str | int]], str]

M = TypeVar("M", bound=BaseModel)

_Names = tuple[str | int, ...]
_OF_KEY = "[key]"  # the end of pydantic's path to a key that is wrong itself
_NO_YAML = (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError)  # as its tags raise them
_MOST_VALUES = 100_000
_MOST_BITS = 4096  # of an integer: Python prints none of 4,300 digits
_SURROGATE = re.compile("[\ud800-\udfff]")
_OTHER_KIND = ("tuple_type", "dict_type", "model_type")  # neither a list nor a mapping where one is needed


def find_grid(grid: str | Path) -> Path:
    """The file of a grid: itself, or that of a built-in one by its name. Raises UsageError for neither."""
    if Path(grid).is_file():
        return Path(grid)
    built_in = {file.stem: file for file in BUILT_IN.glob("*.yaml")}
    if str(grid) in built_in:
        return built_in[str(grid)]
    raise UsageError(f"{str(grid)!r} is neither a file nor a built-in grid.{did_you_mean(str(grid), built_in)}")


def load_grid(path: Path, overrides: Sequence[str] = ()) -> Grid:
    """Read a grid file and apply `a.b=c` overrides (values are YAML). Paths become absolute: those in the file are
    taken from its folder, those in an override from the working folder.

    Raises UsageError naming the file, the line, the key and the nearest known key.
    """
    return placed_grid(path, overrides)[0]


def placed_grid(path: Path, overrides: Sequence[str] = (), plugins: Sequence[Path] = ()) -> tuple[Grid, Where]:
    """The same, and what an error calls the place in the file that some keys of the grid lead to.

    plugins: files that the grid has besides those that it names.
    """
    content, where = read_yaml(path, "grid", overrides)
    grid = grid_of(content, where)

    def placed(file: str, *names: str) -> str:
        return str((Path.cwd() if _setting(overrides, names) else path.resolve().parent) / file)

    named: list[str | Path] = [*(placed(file, "plugins") for file in grid.plugins), *plugins]
    absolute = {
        "plugins": tuple(map(str, files_of(named))),
        "exclusions": {name: placed(file, "exclusions", name) for name, file in grid.exclusions.items()},
        "segments": {name: placed(place, "segments", name) for name, place in grid.segments.items()},
    }
    return grid.model_copy(update=absolute), where


def grid_of(content: Mapping[str, Any], where: Where = lambda names: "grid") -> Grid:
    """The grid of what a file would hold; paths in it are taken from the working folder.

    Raises UsageError as `checked` does.
    """
    return checked(Grid, content, where)


def read_yaml(path: Path, kind: str, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], Where]:
    """The keys and values of a file, with `a.b=c` overrides, and what an error calls the place of some keys.

    kind: what the file is of. Raises UsageError for one that cannot be read or is no mapping, and for a key that
    stands twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{kind} {path} cannot be read: {error}") from error
    try:
        content, tree = yaml.safe_load(text), yaml.compose(text, Loader=yaml.SafeLoader)
    except _NO_YAML as error:
        raise UsageError(f"{kind} {path} is not YAML: {error}") from error
    if not isinstance(content, dict) or tree is None:
        raise UsageError(f"{kind} {path} must be a mapping of keys to values")
    _refuse_repeated_keys(path, tree, set())
    for override in overrides:
        _override(content, override)

    def where(names: Sequence[str | int]) -> str:
        blamed = _setting(overrides, names)
        return f"--set {blamed}" if blamed else f"{path}:{_line(tree, names)}"

    for key, value in content.items():
        if why := _unusual(value):
            raise UsageError(f"{where([key])}: {key} {why}")
    return content, where


def checked(model: type[M], content: Mapping[str, Any], where: Where) -> M:
    """What a file holds, as the model of its kind.

    where: what an error calls the place that some keys lead to. Raises UsageError naming the key and the nearest
    known key.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        told = _telling([(_names(problem, content), problem) for problem in error.errors()])
        said = [_explain(names, those, where, model) for names, those in told.items()]
        raise UsageError("\n".join(said)) from None


def _setting(overrides: Sequence[str], names: Sequence[str | int]) -> str | None:
    """The key that was overridden, if any, of what some keys lead to."""
    key = ".".join(str(name) for name in names)
    set_keys = sorted({override.partition("=")[0].strip() for override in overrides})
    return next((set_key for set_key in set_keys if f"{key}.".startswith(f"{set_key}.")), None)


def _override(content: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    *parents, last = key.strip().split(".")
    if not equals or not last:
        raise UsageError(f"--set {override!r}: write key=value or section.key=value")
    place: Any = content
    for parent in parents:
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            raise UsageError(f"--set {override!r}: {parent!r} is not a section")
    try:
        place[last] = yaml.safe_load(value)
    except _NO_YAML as error:
        raise UsageError(f"--set {override!r}: the value is not YAML: {error}") from error


def _unusual(value: Any) -> str:
    """Why nothing here could print or compare a value that YAML can say; empty if it is as others."""
    left, seen = [value], 0
    while left:
        one = left.pop()
        seen += 1
        if seen + len(left) > _MOST_VALUES:
            return f"holds more than {_MOST_VALUES:,} values, or aliases without end"
        if isinstance(one, Mapping):
            if strange := [key for key in one if not isinstance(key, str | int | float | None)]:
                return f"holds {strange[0]!r} where a word or a number is the key"
            left += [*one, *one.values()]
        elif isinstance(one, list):
            left += one
        elif isinstance(one, int) and one.bit_length() > _MOST_BITS:
            return f"holds an integer of {one.bit_length()} bits"
        elif isinstance(one, str) and _SURROGATE.search(one):
            return f"holds half a character: {one!r}"
    return ""


def _names(problem: Any, content: Any) -> _Names:
    """The keys that lead to a problem: pydantic's path, without the branches of unions that it names there."""
    names: list[str | int] = []
    for number, part in enumerate(problem["loc"]):
        is_key = isinstance(content, Mapping) and part in content
        if is_key or isinstance(part, int):
            names.append(part)
            is_entry = isinstance(content, (list, tuple)) and isinstance(part, int) and part < len(content)
            content = content[part] if is_key or is_entry else None
        elif number == len(problem["loc"]) - 1 and (problem["type"] == "missing" or part == _OF_KEY):
            names.append(part)
    return tuple(names)


def _telling(problems: Sequence[tuple[_Names, Any]]) -> dict[_Names, list[Any]]:
    """The problems by their place, without what says nothing of what is meant.

    That is whatever stands above another problem: a branch of a union that got less far, or the length of a list
    whose entries are wrong. And at one place, the branches that would have had a value of another kind.
    """
    groups: dict[_Names, list[Any]] = {}
    for names, problem in problems:
        if not any(len(other) > len(names) and other[: len(names)] == names for other, _ in problems):
            groups.setdefault(names, []).append(problem)
    return {names: _of_its_kind(group) for names, group in groups.items()}


def _of_its_kind(problems: list[Any]) -> list[Any]:
    """Without the branches of a union that want a text, a list or a mapping where something else stands."""
    said = [p for p in problems if p["type"] != "literal_error" or isinstance(p["input"], str)] or problems
    return [p for p in said if p["type"] not in _OTHER_KIND] or said


def _explain(names: _Names, problems: Sequence[Any], where: Where, model: type[BaseModel]) -> str:
    """The problems of one place as `grid.yaml:12: budget: unknown key "stpes". Did you mean "steps"?`"""
    problem = problems[0]
    at = getattr(problem.get("ctx", {}).get("error"), "at", ())  # of a PlacedError
    key, place = ".".join(str(name) for name in names), where([*names, *at])
    section = ".".join(str(name) for name in names[:-1])
    if problem["type"] == "extra_forbidden":
        hint = did_you_mean(str(names[-1]), _known_keys(model, names[:-1]))
        return f"{place}: {f'{section}: ' if section else ''}unknown key {str(names[-1])!r}.{hint}"
    if problem["type"] == "missing":
        return f"{place}: {key} is missing"
    musts = [must for must in map(requirement, problems) if must]
    if names[-1:] == (_OF_KEY,):
        return f"{place}: {'.'.join(map(str, names[:-2]))}: a name {musts[0] if musts else problem['msg']}"
    if len(musts) < len(problems):
        said = "; or: ".join(problem["msg"].removeprefix("Value error, ") for problem in problems)
        return f"{place}: {f'{key}: ' if key else ''}{said}"
    stands = f"; {got(problem['input'])}" if problem["type"] in _OTHER_KIND else ""
    return f"{place}: {key} {', or '.join(musts)}{stands}"


def _known_keys(model: type[BaseModel], names: Sequence[str | int]) -> set[str]:
    """The keys of the part of a model that some names lead to; those that a user chose are of no part."""
    for name in names:
        field = model.model_fields.get(str(name))
        model = (field and _model_in(field.annotation)) or model
    return set(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model of the values of a field, whatever holds them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for inner in get_args(annotation) if (model := _model_in(inner))), None)


def _line(tree: yaml.Node, names: Sequence[str | int]) -> int:
    """The line of the key (or list entry) that a path of names leads to, as far as the file has it."""
    node, line = tree, tree.start_mark.line + 1
    for name in names:
        if isinstance(node, yaml.MappingNode):
            entry = next(((k, v) for k, v in node.value if k.value == str(name) or _means(k, name)), None)
            if entry is None:
                break
            line, node = entry[0].start_mark.line + 1, entry[1]
        elif isinstance(node, yaml.SequenceNode) and (entries := _entries(node, name)):
            node = entries[0]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _entries(node: yaml.SequenceNode, name: str | int) -> list[yaml.Node]:
    """The entry of a list by its number, or by its text where the list's entries name themselves."""
    return [entry for number, entry in enumerate(node.value) if name in (number, entry.value)]


def _means(key: yaml.Node, name: str | int) -> bool:
    """Whether a key that is no text, `no` say, is the number by which pydantic calls it."""
    return key.tag.endswith((":bool", ":int")) and bool(yaml.safe_load(key.value) == name)


def _refuse_repeated_keys(path: Path, node: yaml.Node, visited: set[int]) -> None:
    if id(node) in visited:  # an alias, perhaps of a node around it
        return
    visited.add(id(node))
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if key.value in seen:
                raise UsageError(f"{path}:{key.start_mark.line + 1}: key {key.value!r} stands twice")
            seen.add(key.value)
            _refuse_repeated_keys(path, value, visited)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _refuse_repeated_keys(path, value, visited)
