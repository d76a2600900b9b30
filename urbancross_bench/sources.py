"""Versions of code: what identifies sources while they may change, those that a plugin borrows among them."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import itertools
import json
import sys
import warnings
from collections.abc import Iterable, Iterator
from functools import cache
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

    Code installed from a wheel is named by its distribution's version. Code from a folder or a repository, or in a
    file outside any distribution (None), can change without one, so the files below `module` count too: its
    sources, and data such as a table; neither bytecode nor hidden files. So do sources beside it that it imports,
    and of both kinds the versions of other plugins that they import: see `_borrowed`.
    """
    version = "local" if distribution is None else importlib.metadata.version(distribution)
    local = distribution is None or _is_local(distribution)
    own = sorted(_files(module, "*"))
    beside, plugins = _borrowed(module, [file for _, file in own])
    if local and distribution is not None and not _is_checkout(distribution):
        # Where it is not editable, what was installed with it lies where libraries do.
        of_it = importlib.metadata.distribution(distribution).files or ()
        beside |= {file.as_posix(): Path(str(file.locate())) for file in of_it if _is_source(file.as_posix())}
    if not local:
        return f"{version}+{_hash([], plugins)}" if plugins else version
    seen = {file.resolve() for _, file in own}
    others = [(f"beside {name}", file) for name, file in sorted(beside.items()) if file.resolve() not in seen]
    return f"{version}+{_hash([*own, *others], plugins)}" if own or plugins else version


def providers() -> dict[str, str]:
    """The top packages of installed plugins, with the distributions they come with."""
    points = importlib.metadata.entry_points(group=PROJECT)
    packages = {point.value.partition(":")[0].partition(".")[0]: point.dist for point in points}
    return {package: dist.name for package, dist in packages.items() if dist and package != PROJECT}


def file_of(plugin: str | Path) -> Path:
    """Where a one-file plugin lies, under the name that its user gave it: a link may lead to another name."""
    return Path(plugin).parent.resolve() / Path(plugin).name


def files_of(plugins: Iterable[str | Path]) -> list[Path]:
    """`file_of` each, in order; of one that is named twice, by a link even, the first."""
    places: dict[Path, Path] = {}
    for file in map(file_of, plugins):
        places.setdefault(file.resolve(), file)
    return [*places.values()]


def is_library(name: str) -> bool:
    """Whether a top module is Python's own or an installed one."""
    if name in sys.stdlib_module_names:
        return True
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # a loader of somebody's, or a module that somebody made
        return False
    return bool(found and _INSTALLED & {*Path(found.origin or "").parts})


def _hash(files: Iterable[tuple[str, Path]], more: Iterable[str] = ()) -> str:
    parts = (part for name, file in files for part in (name.encode(), file.read_bytes()))  # not all in memory
    return digest(itertools.chain(parts, map(str.encode, sorted(more))))[:12]


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
    """Whether it was installed from a folder, editable or not, or from a repository such as git's: its code may
    change and its version stay.
    """
    if _is_checkout(distribution):
        return True
    text = importlib.metadata.distribution(distribution).read_text("direct_url.json")
    return not {"dir_info", "vcs_info"}.isdisjoint(json.loads(text or "{}"))


def _is_checkout(distribution: str) -> bool:
    """Whether it is found by what setuptools leaves in a folder that it builds from, and that is on Python's path.

    There it hides how, and whether, the distribution was installed.
    """
    found = importlib.metadata.distribution(distribution)
    of_setuptools = found.read_text("PKG-INFO") is not None
    return of_setuptools and not _INSTALLED & {*Path(str(found.locate_file(""))).parts}


def _is_source(name: str) -> bool:
    """Of a file that was installed; not what leads to the folder of an editable one, on this machine."""
    return name.endswith(".py") and not name.startswith(("..", "__editable__"))


def _borrowed(module: str, files: Iterable[Path]) -> tuple[dict[str, Path], set[str]]:
    """What a module's files import, and that in turn: sources beside it, by name, and plugins, with versions.

    Beside it: in the folder that it is imported from itself, unless libraries are there; what else is on Python's
    path differs from process to process. Neither the project's core, whose parts have versions of their own, nor
    libraries count: those are told with each record.
    """
    known, plugins, found = providers(), set[str](), dict[str, Path]()
    passed = {*sys.stdlib_module_names, *known, PROJECT, module}
    folder = _folder(module)
    open_ = sorted(file for file in files if file.suffix == ".py")
    seen = {*open_}
    for file in open_:
        for level, names in _imports(file):
            if not level and names[0] in known and names[0] != module:
                plugins.add(_version_of(names[0], known[names[0]]))
            if folder is None or (not level and names[0] in passed) or level > len(file.parents):
                continue
            for other in _on_the_way(file.parents[level - 1] if level else folder, names):
                if other not in seen and other.is_relative_to(folder):
                    seen.add(other)
                    open_.append(other)
                    found[other.relative_to(folder).as_posix()] = other
    return found, plugins


def _folder(module: str) -> Path | None:
    """Where a top module is imported from; None where that is not one folder, or libraries are there."""
    spec = importlib.util.find_spec(module)
    places = [*(spec.submodule_search_locations or [spec.origin or ""])] if spec else []
    found = {Path(place).parent for place in places if place and not _INSTALLED & {*Path(place).parts}}
    return found.pop() if len(found) == 1 else None


def _version_of(package: str, distribution: str) -> str:
    """Of a plugin that another imports; not of what that imports."""
    if distribution == DISTRIBUTION:
        return f"{package} {own_version(package)}"
    more = "+" + _hash(sorted(_files(package, "*.py"))) if _is_local(distribution) else ""
    return f"{package} {importlib.metadata.version(distribution)}{more}"


def _imports(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Of each import of a file how many folders up it begins, 0 for Python's path, and its names from there on."""
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # what is wrong with it, its import says
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = node.module.split(".") if node.module else []
            yield from ((node.level, [*start, alias.name]) for alias in node.names)


def _on_the_way(place: Path, names: list[str]) -> Iterator[Path]:
    """The files that are run where these names are imported from a folder, one below the other."""
    for name in names:
        if (file := place / f"{name}.py").is_file():
            yield file
            return
        place /= name
        if (file := place / "__init__.py").is_file():
            yield file
