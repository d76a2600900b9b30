"""Writing a plugin package that works: what `plugins new` leaves, for an author to change.

`package/` holds what packages of all kinds have in common, a folder per kind the rest. Files end in `.tmpl`, so
that no tool takes them for code of ours; `$name` in a file or its path is replaced (`string.Template`).
"""

from __future__ import annotations

import ast
import builtins
import importlib.metadata
import importlib.util
import keyword
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Template

from urbancross_bench import __version__
from urbancross_bench.errors import UsageError, did_you_mean
from urbancross_bench.hookspecs import REGISTRATION_HOOKS
from urbancross_bench.interfaces.command import VERBS
from urbancross_bench.interfaces.registration import API_VERSION
from urbancross_bench.registry import Registry

_TEMPLATES = Path(__file__).parent
_SUFFIX = ".tmpl"
_USAGE = "usage.md"  # of a kind: a part of the README, no file of the package
_OPTIONS_ROW = "| `src/{}/options.py` | the options, checked before it is used |\n"
# Of the kinds whose code is part of what results are stored under.
_KEYED = frozenset({"dataset", "encoder", "adaptation", "metric", "selector", "segmenter", "captioner"})
_VERSIONS = (
    "Installed with `-e` its source is part of the keys of what it computes: change it, and its results are "
    "computed again.\nA wheel is named by its version alone: raise that with every change.\n"
)
_FREE = "Nothing that is stored depends on it: change it, and no result is computed again.\n"
KINDS = tuple(kind for kind in REGISTRATION_HOOKS if (_TEMPLATES / kind).is_dir())


def write_package(kind: str, name: str, parent: Path, registry: Registry) -> Path:
    """Write the package of a plugin of this kind into a new folder below `parent`, and return the folder.

    name: of the plugin; the distribution has it with hyphens, the module with underscores. registry: the plugins
    there are, for names that are taken.

    Raises UsageError for an unknown kind, a name that is malformed or taken, and a folder that is there already.
    """
    if kind not in KINDS:
        raise UsageError(f"there is no kind {kind!r} of plugin to begin with.{did_you_mean(kind, KINDS)}")
    module, distribution = name.replace("-", "_"), name.replace("_", "-")
    _check_name(kind, name, module, registry)
    folder = parent / distribution
    if folder.exists():
        raise UsageError(f"{folder} is there already; choose another name, or another --out")
    words = _words(kind, module, distribution)
    files = _files(kind, words)
    _check_called(kind, name, words)
    for place, content in files.items():
        file = folder / place
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content, encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{file} cannot be written: {error}") from error
    return folder


def _files(kind: str, words: Mapping[str, str]) -> dict[str, str]:
    """Path below the package's folder → content, of a kind's templates with these words in them."""
    found: dict[str, Template] = {}
    for root in (_TEMPLATES / "package", _TEMPLATES / kind):
        for template in sorted(root.rglob(f"*{_SUFFIX}")):
            place = template.relative_to(root).as_posix().removesuffix(_SUFFIX)
            found[Template(place).substitute(words)] = Template(template.read_text(encoding="utf-8"))
    usage = found.pop(_USAGE).substitute(words)
    return {place: content.substitute(words, usage=usage) for place, content in found.items()}


def _words(kind: str, module: str, distribution: str) -> dict[str, str]:
    major, minor, *_ = __version__.split(".")
    return {
        "kind": kind,
        "hook": REGISTRATION_HOOKS[kind],
        "base": kind.capitalize(),
        "name": module,
        # A verb takes its options from the command line.
        "options_row": "" if kind == "command" else _OPTIONS_ROW.format(module),
        "versions": _VERSIONS if kind in _KEYED else _FREE,
        "module": module,
        "distribution": distribution,
        "cls": "".join(part.capitalize() for part in module.split("_")),
        "oldest": f"{major}.{minor}",
        "api": f">={API_VERSION},<{int(API_VERSION.partition('.')[0]) + 1}",
    }


def _check_name(kind: str, name: str, module: str, registry: Registry) -> None:
    """Raise UsageError for a name that cannot be that of a plugin, a module and a distribution."""
    if not re.fullmatch(r"[a-z][a-z0-9]*([_-][a-z0-9]+)*", name):
        raise UsageError(
            f"{name!r} cannot name a plugin, its module and its distribution: write small letters and digits, "
            "in words joined by '_' or '-', such as mean_matching"
        )
    if keyword.iskeyword(module) or keyword.issoftkeyword(module):
        raise UsageError(f"{name!r} is a word of Python's and cannot name a module; choose another")
    if kind == "command" and module in VERBS:
        raise UsageError(
            f"urbancross-bench has a verb {name!r} of its own, which comes first; choose another name"
        )
    if taken := [plugin for plugin in registry.of_kind(kind) if plugin.registration.name == module]:
        raise UsageError(f"{taken[0]} has this name; choose another")
    if module in sys.stdlib_module_names or importlib.util.find_spec(module) is not None:
        raise UsageError(f"a module {module!r} is installed already, and would hide yours; choose another name")
    if any(importlib.metadata.distributions(name=name)):
        raise UsageError(
            f"a package {name!r} is installed already, and yours would replace it; choose another name"
        )


def _check_called(kind: str, name: str, words: Mapping[str, str]) -> None:
    """Raise UsageError where the class, or a command's function, would hide a name that its code or test uses."""
    called = words["name"] if kind == "command" else words["cls"]
    apart = {word: f"{text}__" for word, text in words.items()} | {"kind": kind, "base": words["base"]}
    modules = [text for file, text in _files(kind, apart).items() if file.endswith(".py")]
    if keyword.iskeyword(called) or any(called in _names(module) for module in modules):
        raise UsageError(f"{name!r} would call your code {called}, which has a meaning there; choose another name")


def _names(source: str) -> Iterator[str]:
    """The names that a module has, of others and its own, builtin ones that it uses, and fixtures of its tests."""
    module = ast.parse(source)
    for node in ast.walk(module):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Name) and node.id in dir(builtins):
            yield node.id
    for node in module.body:
        if isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield node.name
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
            yield from (argument.arg for argument in node.args.args)
