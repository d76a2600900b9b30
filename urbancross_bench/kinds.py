"""What a plugin's class must be, whoever is about to use it: a grid, `plugins doctor` or the conformance kit."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from urbancross_bench import interfaces
from urbancross_bench.errors import PluginError, UrbanCrossError, did_you_mean
from urbancross_bench.interfaces.options import Options


def misspelt(target: str) -> str:
    """Why there is no class of a target `module:name`, where that is told at little cost; empty if it may be.

    A module is loaded only if its source does not so much as name the class, and then to be sure: there are other
    ways to define one. Why a module cannot be loaded is for whoever needs it to say.
    """
    module, _, name = target.partition(":")
    package = module.rpartition(".")[0]
    try:
        if module not in sys.modules:
            if package and package not in sys.modules:
                return ""  # to find the module would load the package
            spec = importlib.util.find_spec(module)
            if spec is None:
                return f"is registered as {target}, and there is no module {module!r}"
            source = Path(spec.origin).read_text(encoding="utf-8") if spec.origin else name
            if re.search(rf"\b{re.escape(name)}\b", source):
                return ""
        found = importlib.import_module(module)
        if hasattr(found, name):
            return ""
    except (Exception, SystemExit):
        return ""
    own = [one for one, value in vars(found).items() if isinstance(value, type) and value.__module__ == module]
    return f"is registered as {target}, and that module has no {name!r}.{did_you_mean(name, own)}"


def behind(target: str) -> Any:
    """What stands behind `module:Name`. The module may be a one-file plugin, whose name need be no identifier."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def place_in(error: BaseException, packages: Collection[str]) -> str:
    """` (mine.py:12 in loss)`: the last line of some packages that an error came from; empty without any."""
    places = [
        f" ({Path(frame.f_code.co_filename).name}:{line} in {frame.f_code.co_name})"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__", "").partition(".")[0] in packages
    ]
    return "".join(places[-1:])


@contextmanager
def blamed(plugin: str, package: str, doing: str) -> Iterator[None]:
    """Inside, errors that are not meant for users are PluginErrors that name a plugin, and its last line."""
    try:
        yield
    except UrbanCrossError:
        raise
    except (Exception, SystemExit) as error:
        said = f"{type(error).__name__}: {error}{place_in(error, {package})}"
        raise PluginError(f"{plugin} failed {doing}: {said}") from error


def beside(error: BaseException, files: Iterable[str | Path]) -> str:
    """What to do about a module that is missing and lies beside a one-file plugin; empty for any other error."""
    name = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    for file in map(Path, files):
        if name and ((file.parent / f"{name}.py").is_file() or (file.parent / name / "__init__.py").is_file()):
            return (
                f"; it lies beside {file.name}, which stands alone: move what it needs of {name!r} into the file, "
                "or make a package of both (urbancross-bench plugins new)"
            )
    return ""


def misfit(kind: str, found: object, options_type: type[Options]) -> str:
    """Why what a plugin's target names cannot be used as that kind; empty if it can."""
    if kind == "command":
        return _unfit_for_a_verb(found, options_type)
    base: Any = getattr(interfaces, kind.capitalize())
    if not (isinstance(found, type) and issubclass(found, base)):
        name = getattr(found, "__name__", repr(found))
        return f"{name} is not a subclass of urbancross_bench.interfaces.{base.__name__}"
    if left := getattr(found, "__abstractmethods__", None):
        return f"{found.__name__} does not define {', '.join(sorted(left))}"
    for name, method in inspect.getmembers(base, inspect.isfunction):
        if not name.startswith("_") and (why := _called_otherwise(found, name, method)):
            return why
    wanted: type[Options] = found.options_type  # type: ignore[attr-defined] # the base has it
    if wanted is not base.options_type and not issubclass(options_type, wanted):
        return (
            f"it is registered with {options_type.__name__}, and its class says options_type = {wanted.__name__}; "
            f'name the latter: register(…, options="{wanted.__module__}:{wanted.__name__}")'
        )
    return ""


def _called_otherwise(found: type, name: str, method: Callable[..., Any]) -> str:
    """Why a class's own method cannot be called as its base's is; empty if it can."""
    own = inspect.getattr_static(found, name)
    if own is method:
        return ""
    if not callable(getattr(found, name)):
        return f"{found.__name__}.{name} must be a method; it is {own!r}"
    wanted, parameters = inspect.signature(method), inspect.signature(getattr(found, name))
    expected = [one for one in wanted.parameters.values() if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
    if isinstance(own, staticmethod | classmethod):
        expected = expected[1:]
    try:
        parameters.bind(
            *(one.name for one in expected if one.kind is not one.KEYWORD_ONLY),
            **{one.name: None for one in expected if one.kind is one.KEYWORD_ONLY},
        )
    except TypeError:
        takes = ", ".join(map(str, parameters.parameters))
        return f"{found.__name__}.{name} must take ({', '.join(one.name for one in expected)}); it takes ({takes})"
    return ""


def _unfit_for_a_verb(found: object, options_type: type[Options]) -> str:
    if isinstance(found, type) or not callable(found):
        return f"{getattr(found, '__name__', repr(found))} is not a function"
    if options_type is not Options:
        return "a verb takes its options from the command line, as parameters of the function; register it without"
    return ""


def build(plugin: str, kind: str, found: Any, options: Options) -> Any:
    """An instance of a plugin's class. Raises PluginError, saying what to change, where it cannot be one.

    plugin: how messages call it.
    """
    if why := misfit(kind, found, type(options)):
        raise PluginError(f"{plugin}: {why}")
    must = (
        f"{plugin}: {found.__name__}.__init__ must take the options and hand them on: "
        "def __init__(self, options): super().__init__(options)"
    )
    try:
        built = found(options)
    except TypeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is None:  # the call itself
            raise PluginError(f"{must} ({error})") from error
        raise
    if not hasattr(built, "options"):
        raise PluginError(f"{must} (it does not hand them on)")
    return built
