"""Finding plugins, keeping a broken one from breaking the rest, and looking them up by name."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pluggy
from pydantic import ValidationError

from urbancross_bench import hookspecs
from urbancross_bench.declarations import IncompatibleError, check_api, check_declarations
from urbancross_bench.disabling import disabled
from urbancross_bench.errors import OptionError, PluginError, UsageError, did_you_mean, requirement
from urbancross_bench.identity import DISTRIBUTION
from urbancross_bench.interfaces.options import Options
from urbancross_bench.interfaces.registration import PROJECT, Registration
from urbancross_bench.kinds import behind, beside, blamed, build, misspelt
from urbancross_bench.references import Reference
from urbancross_bench.sources import code_version, files_of, is_library, own_version

_ALLOWED = "URBANCROSS_LOAD_PLUGINS"
_SOURCE = "__urbancross_source__"  # of a one-file plugin's module: what was run


@dataclass(frozen=True)
class Provider:
    """Where plugins come from: an entry point of a distribution, or a file the user named.

    status: whether they are registered; else `error` says why they are not. api: what versions of the plugin
    interface they were written for, as they say; None where they say nothing.
    """

    name: str
    distribution: str | None
    version: str
    location: str
    status: Literal["ok", "broken", "incompatible", "disabled"] = "ok"
    error: str | None = None
    traceback: str | None = None
    api: str | None = None

    def __str__(self) -> str:
        if self.distribution is None:
            return f"file {self.location}"
        return f"{self.distribution} {self.version} ({self.location})"


@dataclass(frozen=True)
class Plugin:
    """One registered plugin and who provides it."""

    kind: str
    registration: Registration
    provider: Provider

    def load(self) -> Any:
        """Import the target class. Raises PluginError naming the plugin and its provider."""
        return self._import(self.registration.target)

    @cached_property
    def options_type(self) -> type[Options]:
        """The options model; plugins without one take no options."""
        if self.registration.options is None:
            return Options
        found = self._import(self.registration.options)
        if not (isinstance(found, type) and issubclass(found, Options)):
            raise PluginError(f"{self}: {self.registration.options} is not a subclass of Options")
        for name, field in found.model_fields.items():
            if isinstance(field.default, float) and not math.isfinite(field.default):
                raise PluginError(
                    f"{self}: the default of its option {name!r} is {field.default}, and options are finite "
                    "numbers; let None stand for no limit"
                )
        return found

    def blamed(self, doing: str) -> AbstractContextManager[None]:
        """Inside, its errors that are not meant for users name it: see `kinds.blamed`."""
        return blamed(str(self), self.package, doing)

    @property
    def package(self) -> str:
        """The top package of its code."""
        return self.registration.target.partition(":")[0].partition(".")[0]

    @cached_property
    def version(self) -> str:
        """What identifies the plugin's code in keys, see `sources.code_version`: a notebook may change it."""
        name = self.provider.distribution
        return own_version(self.package) if name == DISTRIBUTION else code_version(self.package, name)

    @cached_property
    def misspelt(self) -> str:
        """Why its target cannot be right, as far as that is told without loading it; empty if it may be."""
        return misspelt(self.registration.target)

    def __str__(self) -> str:
        return f"{self.kind} {self.registration.name!r} of {self.provider}"

    def _import(self, path: str) -> Any:
        try:
            return behind(path)
        except (Exception, SystemExit) as error:
            raise PluginError(f"{self} cannot be loaded from {path}: {error!r}") from error


@dataclass(frozen=True)
class Resolved:
    """A reference with its plugin found and its options checked."""

    reference: Reference
    plugin: Plugin
    options: Options

    def build(self) -> Any:
        """An instance of the plugin's class. Imports what the plugin needs, torch included.

        Raises PluginError naming the plugin where its class is missing or none of its kind.
        """
        return build(str(self.plugin), self.plugin.kind, self.plugin.load(), self.options)

    def identity(self) -> dict[str, Any]:
        """The facts about plugin, version and options that may change a result.

        Raises UsageError for options whose file cannot be read.
        """
        try:
            options = self.options.identity()
        except OSError as error:
            raise UsageError(f"{self.plugin}, given as {self.reference}: {error}") from error
        return {
            "name": self.reference.name,
            "member": self.reference.member,
            "version": self.plugin.version,
            "options": options,
        }


class Registry:
    """All plugins of one process. `Registry.discover` makes the usual one."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self.providers: list[Provider] = []
        self.plugins: list[Plugin] = []

    @classmethod
    def discover(cls, files: Iterable[str | Path] = ()) -> Registry:
        """Installed plugins (entry-point group `urbancross_bench`), then one-file plugins.

        `URBANCROSS_LOAD_PLUGINS` (entry-point names, comma-separated; empty for none) limits the installed
        ones, and what is disabled is left out (`disabling`). With `URBANCROSS_STRICT_PLUGINS=1` a plugin that
        cannot be registered raises PluginError instead of being listed as broken. A file is named by its user, so
        its failure always raises.
        """
        registry = cls()
        allowed = os.environ.get(_ALLOWED)
        names = None if allowed is None else {name.strip() for name in allowed.split(",")}
        strict = os.environ.get("URBANCROSS_STRICT_PLUGINS") == "1"
        about = functools.cache(_about)
        points, left_out = importlib.metadata.entry_points(group=PROJECT), disabled()
        for point in sorted(points, key=lambda p: (about(p.dist)[0] or "", p.name)):
            if names is None or point.name in names:
                name, version = about(point.dist)
                provider = Provider(point.name, name, version, point.value)
                by = left_out.get(point.name) or left_out.get(name or "")
                if by is None:
                    registry.add(provider, point.load, strict=strict)
                else:
                    registry.providers.append(replace(provider, status="disabled", error=f"disabled by {by}"))
        return registry.with_files(files)

    def with_files(self, files: Iterable[str | Path]) -> Registry:
        """A registry of the same plugins, and those of one-file plugins, whose failure raises."""
        registry = Registry()
        for provider in self.providers:
            if provider.status != "ok":
                registry.providers.append(provider)
            else:
                registry.add(provider, functools.partial(self._manager.get_plugin, str(provider)))
        for path in files_of(files):  # a grid and --plugin may name the same
            provider = Provider(path.stem, None, "local", str(path))
            registry.add(provider, functools.partial(load_file, path), strict=True)
        return registry

    def add(self, provider: Provider, load: Callable[[], object], *, strict: bool = False) -> None:
        """Register what `load()` returns. A failure is kept in `providers`, or raised if `strict`."""
        plugin: object | None = None
        try:
            plugin = load()
            provider = replace(provider, api=getattr(plugin, "urbancross_api", None))
            check_api(provider.api)
            self._manager.register(plugin, name=str(provider))
            self._check_hooks(plugin)
            found = self._registrations(plugin, provider)
        except (Exception, SystemExit) as error:  # a plugin may even try to leave
            if plugin is not None and self._manager.is_registered(plugin):
                self._manager.unregister(plugin)
            if strict:
                raise PluginError(f"plugin {provider} cannot be registered: {error}") from error
            broken = replace(
                provider,
                status="incompatible" if isinstance(error, IncompatibleError) else "broken",
                error=str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}",
                traceback=traceback.format_exc(),
            )
            self.providers.append(broken)
        else:
            self.providers.append(provider)
            self.plugins.extend(found)

    def _check_hooks(self, plugin: object) -> None:
        """Raise PluginError for a hook that there is not, and for a plugin without any."""
        known = (*hookspecs.REGISTRATION_HOOKS.values(), *hookspecs.LIFECYCLE_HOOKS)
        callers = self._manager.get_hookcallers(plugin) or ()
        for caller in callers:
            optional = all(one.optionalhook for one in caller.get_hookimpls() if one.plugin is plugin)
            if caller.name not in known and not optional:
                raise PluginError(f"there is no hook {caller.name!r}.{did_you_mean(caller.name, known)}")
        if not callers:
            raise PluginError(
                "it implements no hook; write @hookimpl above its functions, such as register_adaptations()"
            )

    def _registrations(self, plugin: object, provider: Provider) -> list[Plugin]:
        found = []
        for kind, hook in hookspecs.REGISTRATION_HOOKS.items():
            caller = getattr(self._manager.hook, hook)
            mine = [one for one in caller.get_hookimpls() if one.plugin is plugin]
            for registrations in (one.function() for one in mine):
                if not isinstance(registrations, Iterable):
                    raise PluginError(
                        f"{hook}() must return a list of registrations, return [register(…)]; it returns "
                        f"{registrations!r}"
                    )
                for registration in registrations:
                    if not isinstance(registration, Registration):
                        raise TypeError(
                            f"{hook} must return registrations made by register(), got {registration!r}"
                        )
                    check_declarations(kind, registration)
                    found.append(Plugin(kind, registration, provider))
        return found

    def listening(self) -> list[Provider]:
        """Those whose plugins implement a hook of the life of a grid."""
        found = []
        for provider in self.providers:
            plugin = self._manager.get_plugin(str(provider))
            hooks = (self._manager.get_hookcallers(plugin) or []) if plugin is not None else []
            if any(hook.name in hookspecs.LIFECYCLE_HOOKS for hook in hooks):
                found.append(provider)
        return found

    def of_kind(self, kind: str) -> list[Plugin]:
        """The plugins of a kind, by name."""
        return sorted((p for p in self.plugins if p.kind == kind), key=lambda p: p.registration.name)

    def find(self, kind: str, name: str) -> Plugin:
        """The plugin of this kind and name.

        Raises UsageError with the nearest name if there is none, PluginError naming all providers if there are
        several.
        """
        found = [p for p in self.of_kind(kind) if p.registration.name == name]
        if not found:
            known = {p.registration.name for p in self.of_kind(kind)}
            raise UsageError(f"there is no {kind} {name!r}.{did_you_mean(name, known)}{self.elsewhere()}")
        if len(found) > 1:
            providers = " and by ".join(str(plugin.provider) for plugin in found)
            raise PluginError(
                f"{kind} {name!r} is provided more than once: by {providers}. "
                "Uninstall one, or leave it out: --disable-plugin NAME, `plugins disable NAME`."
            )
        return found[0]

    def elsewhere(self) -> str:
        """Where a plugin may be that is not here, for the message that it is missed in."""
        left_out = [f"{p}: {p.error}" for p in self.providers if p.error]
        if (only := os.environ.get(_ALLOWED)) is not None:
            left_out.append(f"what {_ALLOWED}={only!r} does not name")
        not_loaded = f" Not loaded: {'; '.join(left_out)}." if left_out else ""
        own = (
            "One of your own: install its package, or name its file: under `plugins:` in the grid, or, for a "
            "command without a grid, by --plugin."
        )
        return f"{not_loaded} {own}"

    def expand(self, kind: str, reference: Reference | str) -> list[Reference]:
        """The references that an alias stands for (`urbancross/integration`); any other stands for itself."""
        if isinstance(reference, str):
            reference = Reference.parse(reference)
        members = self.find(kind, reference.name).registration.aliases.get(reference.member or "")
        return [replace(reference, member=member) for member in members] if members else [reference]

    def resolve(self, kind: str, reference: Reference | str) -> Resolved:
        """Find a reference's plugin and check member and options; loads nothing but the options model.

        Raises UsageError for what the reference says, PluginError for a plugin whose class is seen to be missing.
        """
        if isinstance(reference, str):
            reference = Reference.parse(reference)
        plugin = self.find(kind, reference.name)
        if plugin.misspelt:
            raise PluginError(f"{plugin} {plugin.misspelt}")
        members = plugin.registration.members
        if members and reference.member is None:
            raise UsageError(
                f"{kind} {reference.name!r} has several members; write one of "
                f"{', '.join(f'{reference.name}/{m}' for m in members)}"
            )
        if reference.member in plugin.registration.aliases:
            raise UsageError(
                f"{kind} {reference} stands for several domains; name one of {', '.join(members)} here"
            )
        if reference.member is not None and reference.member not in members:
            raise UsageError(
                f"{kind} {reference.name!r} has no member {reference.member!r}."
                f"{did_you_mean(reference.member, (*members, *plugin.registration.aliases))}"
            )
        return Resolved(reference, plugin, _checked_options(plugin, reference))


def _about(distribution: importlib.metadata.Distribution | None) -> tuple[str | None, str]:
    """Its name and version. Every look at one of them would read all that it says of itself."""
    if distribution is None:
        return None, "local"
    about = distribution.metadata
    return about["Name"], about["Version"]


def _checked_options(plugin: Plugin, reference: Reference) -> Options:
    try:
        return plugin.options_type.model_validate(dict(reference.options))
    except ValidationError as error:
        # One that there is not is perhaps the one that is missing.
        problem = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
        option = ".".join(str(part) for part in problem["loc"])
        title = f"{plugin.kind} {plugin.registration.name!r}"
        if problem["type"] == "extra_forbidden":
            hint = did_you_mean(option, plugin.options_type.model_fields) or " It takes no options."
            raise OptionError(option, f"{title} has no option {option!r}.{hint}") from None
        if problem["type"] == "missing":
            name = plugin.registration.name
            raise OptionError(option, f"{title} needs the option {option!r}: write {name}[{option}=…]") from None
        where = f"option {option!r} of {title}" if option else title
        must = requirement(problem)
        said = f" {must}" if must else f": {problem['msg'].removeprefix('Value error, ')}"
        name = str(next(iter(problem["loc"]), ""))
        if problem["type"] in ("value_error", "assertion_error"):  # of a validator, which may look at others too
            name = ""
        raise OptionError(name, f"{where}{said} (got {problem['input']!r})") from None


def load_file(path: Path) -> ModuleType:
    """Import a one-file plugin under its stem, so that its lazy targets can name it.

    A file that is imported and has not changed since is not run again: what other modules took from it stays the
    same. Raises ImportError where another module has that name, FileNotFoundError, and whatever the file raises.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    if "." in path.stem:  # its sources would not be found by it, and not be in its keys
        raise ImportError(f"a dot in a module's name stands for a package; rename {path}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    if is_library(path.stem):
        raise ImportError(f"a library is called {path.stem!r}, which the file would hide; rename {path}")
    there, source = sys.modules.get(path.stem), path.read_bytes()
    if there is not None and getattr(there, "__file__", None) != str(path):
        raise ImportError(f"a module called {path.stem!r} is loaded already; rename {path}")
    if there is not None and getattr(there, _SOURCE, source) == source:
        return there
    module = importlib.util.module_from_spec(spec)
    setattr(module, _SOURCE, source)
    sys.modules[path.stem] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[path.stem]
        if hint := beside(error, [path]):
            raise ImportError(f"{error}{hint}") from error
        raise
    return module
