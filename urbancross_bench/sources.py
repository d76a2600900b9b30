"""Versions of code: what identifies sources while they may change, those that a plugin borrows among them."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import json
import sys
from collections.abc import Container, Iterable, Iterator
from functools import cache
from importlib.machinery import ModuleSpec
from pathlib import Path

from urbancross_bench.identity import DISTRIBUTION, digest
from urbancross_bench.interfaces.registration import PROJECT

_COMPILED = {".pyc", ".pyo", ".so", ".pyd", ".o", ".obj", ".dll", ".dylib"}
_INSTALLED = {"site-packages", "dist-packages"}


@cache
def own_version(module: str) -> str:
    """`code_version` of the project's own code: as it was when first asked, since it is imported but once.

    Data of the project's own packages is in the identity of the options that name it, and so is not looked at.
    """
    version = importlib.metadata.version(DISTRIBUTION)
    return f"{version}+{_hash(sorted(_files(module, '*.py')))}" if _is_local(DISTRIBUTION) else version


def code_version(module: str, distribution: str | None) -> str:
    """What identifies a plugin's code: the version of its distribution, and a source hash while it may change.

    Code installed from a wheel is named by its distribution's version. Code in an editable install, or in a file
    outside any distribution (None), can change without one, so the files below `module` count too: its sources,
    and data such as a table; neither bytecode nor hidden files. So do the sources that it imports from elsewhere,
    and of both kinds the versions of other plugins that they import: see `_borrowed`.
    """
    version = "local" if distribution is None else importlib.metadata.version(distribution)
    own = sorted(_files(module, "*"))
    others, plugins = _borrowed(file for _, file in own)
    if distribution is not None:
        if not _is_local(distribution):
            own, others = [], {}
        elif (of_it := importlib.metadata.distribution(distribution).files) is not None:
            # Not editable, but from a folder: what was installed with it lies where libraries do.
            others |= {file.as_posix(): Path(str(file.locate())) for file in of_it if _is_source(file.as_posix())}
    seen = {file.resolve() for _, file in own}
    beside = [(f"beside {name}", file) for name, file in sorted(others.items()) if file.resolve() not in seen]
    hashed = _hash([*own, *beside], sorted(plugins)) if own or plugins else ""
    return f"{version}+{hashed}" if hashed else version


def own_packages() -> set[str]:
    """The project's top packages."""
    return {PROJECT, *(name for name, provider in _providers().items() if provider == DISTRIBUTION)}


def is_library(name: str) -> bool:
    """Whether a top module is Python's own or an installed one."""
    found = _found(name)
    return name in sys.stdlib_module_names or bool(found and _INSTALLED & {*Path(found.origin or "").parts})


def _found(top: str) -> ModuleSpec | None:
    try:
        return importlib.util.find_spec(top)
    except (ImportError, ValueError):  # a loader of somebody's, or a module that somebody made
        return None


def _hash(files: Iterable[tuple[str, Path]], more: Iterable[str] = ()) -> str:
    parts = [part for name, file in files for part in (name.encode(), file.read_bytes())]
    return digest([*parts, *map(str.encode, more)])[:12]


def _files(module: str, pattern: str) -> Iterable[tuple[str, Path]]:
    """The files of a module or package, with their names in it; of a package, those whose names match."""
    spec = importlib.util.find_spec(module)
    if spec is None:
        return []
    # A namespace package has folders, but no file of its own.
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    if not folders:
        return [(Path(spec.origin).name, Path(spec.origin))] if spec.origin else []
    found = [(file.relative_to(folder), file) for folder in folders for file in folder.rglob(pattern)]
    return [(name.as_posix(), file) for name, file in found if not _passing(name) and file.is_file()]


def _passing(name: Path) -> bool:
    """Whether a file of a package is no part of it: what is compiled from it here, or hidden."""
    hidden = any(part == "__pycache__" or part.startswith(".") for part in name.parts)
    return hidden or name.suffix in _COMPILED or name.name.endswith("~")


def _is_local(distribution: str) -> bool:
    """Whether it was installed from a folder, editable or not: its code may change and its version stay."""
    text = importlib.metadata.distribution(distribution).read_text("direct_url.json")
    return "dir_info" in json.loads(text or "{}")


def _is_source(name: str) -> bool:
    """Of a file that was installed; not what leads to the folder of an editable one, on this machine."""
    return name.endswith(".py") and not name.startswith(("..", "__editable__"))


def _borrowed(files: Iterable[Path]) -> tuple[dict[str, Path], set[str]]:
    """What files import, and what that imports in turn: other local sources by name, and plugins with a version.

    Local is what is imported from outside of where packages are installed: a helper beside the file, another
    package of the same checkout. Neither the project's core, whose parts have versions of their own, nor libraries
    count: those are told with each record.
    """
    given = {file.resolve() for file in files if file.suffix == ".py"}
    providers, found, plugins = _providers(), dict[Path, str](), set[str]()
    others = {*sys.stdlib_module_names, PROJECT, *(top for top, by in providers.items() if by == DISTRIBUTION)}
    open_ = [(file, file.parent) for file in sorted(given)]
    for file, root in open_:
        for level, names in _imports(file):
            places = [file.parents[level - 1]] if level else _places(names[0], others)
            if not level and not places and names[0] in providers:
                plugins.add(_version_of(names[0], providers[names[0]]))
            for place in places:
                base = root if level else place
                for other in _on_the_way(place, names):
                    if other not in given and other not in found and other.is_relative_to(base):
                        found[other] = other.relative_to(base).as_posix()
                        open_.append((other, base))
    return {name: file for file, name in found.items()}, plugins


def _providers() -> dict[str, str]:
    """The top packages of installed plugins, with the distributions they come with."""
    points = importlib.metadata.entry_points(group=PROJECT)
    packages = {point.value.partition(":")[0].partition(".")[0]: point.dist for point in points}
    return {package: dist.name for package, dist in packages.items() if dist and package != PROJECT}


def _version_of(package: str, distribution: str) -> str:
    own = distribution == DISTRIBUTION
    return f"{package} {own_version(package) if own else importlib.metadata.version(distribution)}"


def _imports(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Of each import of a file how many folders up it begins, 0 for Python's path, and its names from there on."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):  # it says so when it is imported
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = node.module.split(".") if node.module else []
            yield from ((node.level, [*start, alias.name]) for alias in node.names)


def _places(name: str, others: Container[str]) -> list[Path]:
    """The folders that a top module is imported from; none of what is among others, or installed."""
    spec = None if name in others else _found(name)
    folders = [*(spec.submodule_search_locations or [spec.origin or ""])] if spec else []
    found = [Path(folder).resolve() for folder in folders if folder]
    return [path.parent for path in found if not _INSTALLED & {*path.parts}]


def _on_the_way(place: Path, names: list[str]) -> Iterator[Path]:
    """The files that are run as these names are imported from a folder, one below the other."""
    for name in names:
        if (file := place / f"{name}.py").is_file():
            yield file
            return
        place /= name
        if (file := place / "__init__.py").is_file():
            yield file
