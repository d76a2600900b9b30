"""`plugins list | show`, and the other verbs of `plugins`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from urbancross_bench.cli.json_output import JsonOption, print_json
from urbancross_bench.cli.options import PluginOption
from urbancross_bench.cli.plugins_check import check
from urbancross_bench.cli.plugins_disable import disable, enable
from urbancross_bench.cli.plugins_doctor import doctor
from urbancross_bench.cli.plugins_new import new

if TYPE_CHECKING:
    from urbancross_bench.registry import Plugin, Registry

app = typer.Typer(help="See which plugins are there, check them, make one.", no_args_is_help=True)
for _verb in (new, check, doctor, disable, enable):
    app.command(_verb.__name__)(_verb)


@app.command("list")
def list_(
    kind: Annotated[
        str | None, typer.Argument(metavar="KIND", help="Of one kind: encoder, metric, …; by default all.")
    ] = None,
    json_: JsonOption = False,
    plugin: PluginOption = None,
) -> None:
    """List every registered plugin, or those of one kind, and every one that could not be registered."""
    from urbancross_bench.errors import UsageError, did_you_mean
    from urbancross_bench.hookspecs import REGISTRATION_HOOKS
    from urbancross_bench.interfaces.renderer import printable
    from urbancross_bench.registry import Registry

    if kind is not None and kind not in REGISTRATION_HOOKS:
        raise UsageError(f"there is no kind {kind!r} of plugin.{did_you_mean(kind, REGISTRATION_HOOKS)}")
    registry = Registry.discover(plugin or [])
    listed = [found for found in _all(registry) if kind in (None, found.kind)]
    broken = [provider for provider in registry.providers if provider.error]
    if json_:
        errors = [
            {"provider": str(p), "status": p.status, "error": p.error, "traceback": p.traceback} for p in broken
        ]
        print_json({"plugins": [_described(found) for found in listed], "broken": errors})
        return
    width = max((len(found.registration.name) for found in listed), default=0)
    for found in listed:
        registration, source = found.registration, found.provider.distribution or found.provider.location
        print(f"{found.kind:13}{registration.name:{width}}  {printable(registration.summary)}  [{source}]")
    for provider in broken:
        print(f"{provider.status:13}{printable(f'{provider}: {provider.error}')}")


@app.command("show")
def show(name: str, json_: JsonOption = False, plugin: PluginOption = None) -> None:
    """Show a plugin: where it comes from, its setting and needs, its options with types and defaults."""
    from urbancross_bench.errors import UsageError, did_you_mean
    from urbancross_bench.references import Reference
    from urbancross_bench.registry import Registry

    name = Reference.parse(name).name  # as a grid writes it, with member and options
    registry = Registry.discover(plugin or [])
    found = [p for p in _all(registry) if p.registration.name == name]
    if not found:
        known = {p.registration.name for p in _all(registry)}
        raise UsageError(f"there is no plugin {name!r}.{did_you_mean(name, known)}{registry.elsewhere()}")
    if json_:
        print_json([_details(p) for p in found])
        return
    for p in found:
        _print(p)


def _all(registry: Registry) -> list[Plugin]:
    return sorted(registry.plugins, key=lambda plugin: (plugin.kind, plugin.registration.name))


def _described(plugin: Plugin) -> dict[str, Any]:
    registration, provider = plugin.registration, plugin.provider
    return {
        "kind": plugin.kind,
        "name": registration.name,
        "summary": registration.summary,
        "setting": registration.setting,
        "needs": sorted(registration.needs),
        "provides": sorted(registration.provides),
        "members": list(registration.members),
        "aliases": {name: list(members) for name, members in registration.aliases.items()},
        "distribution": provider.distribution,
        "version": provider.version,
        "location": provider.location,
    }


def _details(plugin: Plugin) -> dict[str, Any]:
    return {**_described(plugin), "options": plugin.options_type.model_json_schema().get("properties", {})}


def _print(plugin: Plugin) -> None:
    from urbancross_bench.interfaces.renderer import printable

    registration = plugin.registration
    print(f"{plugin.kind} {registration.name}: {printable(registration.summary)}")
    print(f"  from     {plugin.provider}")
    for title, value in (
        ("setting", registration.setting or ""),
        ("needs", ", ".join(sorted(registration.needs))),
        ("provides", ", ".join(sorted(registration.provides))),
        ("members", ", ".join(registration.members)),
        ("aliases", "; ".join(f"{name} = {' + '.join(of)}" for name, of in registration.aliases.items())),
    ):
        if value:
            print(f"  {title:8} {printable(value)}")
    for name, field in plugin.options_type.model_fields.items():
        annotation = getattr(field.annotation, "__name__", None) if isinstance(field.annotation, type) else None
        default = "required" if field.is_required() else repr(field.default)
        said = annotation or str(field.annotation).replace("typing.", "")
        described = printable(field.description or "")
        print(f"  option   {name}: {printable(f'{said} = {default}')}  {described}".rstrip())
