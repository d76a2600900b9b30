"""`plugins list` and `show NAME`."""

from __future__ import annotations

import json
from typing import Any

import typer

from urbancross_bench.cli.grids import JsonOption
from urbancross_bench.errors import UsageError, did_you_mean
from urbancross_bench.registry import Plugin, Registry, describe

app = typer.Typer(help="See which plugins are there.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    pass


@app.command("list")
def list_(json_: JsonOption = False) -> None:
    """List every registered plugin, and every one that could not be registered."""
    registry = Registry.discover()
    broken = [provider for provider in registry.providers if provider.error]
    if json_:
        errors = [{"provider": str(p), "error": p.error, "traceback": p.traceback} for p in broken]
        print(json.dumps({"plugins": describe(_all(registry)), "broken": errors}, indent=1, ensure_ascii=False))
        return
    for plugin in _all(registry):
        registration = plugin.registration
        print(f"{plugin.kind:11}{registration.name:15}{registration.summary}  [{plugin.provider.distribution}]")
    for provider in broken:
        print(f"broken     {provider}: {provider.error}")


def show(name: str, json_: JsonOption = False) -> None:
    """Show a plugin: where it comes from, its setting and needs, its options with types and defaults."""
    registry = Registry.discover()
    found = [plugin for plugin in _all(registry) if plugin.registration.name == name]
    if not found:
        known = {plugin.registration.name for plugin in _all(registry)}
        raise UsageError(f"there is no plugin {name!r}.{did_you_mean(name, known)}")
    if json_:
        print(json.dumps([_details(plugin) for plugin in found], indent=1, ensure_ascii=False))
        return
    for plugin in found:
        _print(plugin)


def _all(registry: Registry) -> list[Plugin]:
    return sorted(registry.plugins, key=lambda plugin: (plugin.kind, plugin.registration.name))


def _details(plugin: Plugin) -> dict[str, Any]:
    return {**describe([plugin])[0], "options": plugin.options_type.model_json_schema().get("properties", {})}


def _print(plugin: Plugin) -> None:
    registration = plugin.registration
    print(f"{plugin.kind} {registration.name}: {registration.summary}")
    print(f"  from     {plugin.provider}")
    for title, value in (
        ("setting", registration.setting or ""),
        ("needs", ", ".join(sorted(registration.needs))),
        ("provides", ", ".join(sorted(registration.provides))),
        ("members", ", ".join(registration.members)),
    ):
        if value:
            print(f"  {title:8} {value}")
    for name, field in plugin.options_type.model_fields.items():
        annotation = getattr(field.annotation, "__name__", None) if isinstance(field.annotation, type) else None
        default = "required" if field.is_required() else repr(field.default)
        print(
            f"  option   {name}: {annotation or field.annotation} = {default}  {field.description or ''}".rstrip()
        )
