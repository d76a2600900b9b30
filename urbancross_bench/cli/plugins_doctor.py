"""`plugins doctor`: what is wrong with the plugins that are installed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from urbancross_bench.cli.json_output import JsonOption, print_json

if TYPE_CHECKING:
    from urbancross_bench.registry import Plugin, Registry


def doctor(
    traceback: Annotated[bool, typer.Option(help="Show where in its code a plugin failed.")] = False,
    json_: JsonOption = False,
) -> None:
    """Look for what is wrong with the plugins that are installed: load every one, and say what to do.

    Exit status: 0 nothing is wrong, 1 something is.
    """
    from urbancross_bench.registry import Registry

    registry = Registry.discover()
    problems = [*_of_providers(registry, traceback), *_of_plugins(registry)]
    if json_:
        said = [
            {"name": p.name, "provider": str(p), "status": p.status, "api": p.api, "error": p.error}
            for p in registry.providers
        ]
        print_json({"providers": said, "problems": problems})
    else:
        for provider in registry.providers:
            api = f", for interface {provider.api}" if provider.api else ""
            print(f"{provider.status:13}{provider.name}: {provider}{api}")
        print("\n".join(f"problem: {problem}" for problem in problems) or "nothing is wrong")
    if problems:
        raise typer.Exit(1)


def _of_providers(registry: Registry, traceback: bool) -> Iterator[str]:
    for provider in registry.providers:
        if provider.status in ("broken", "incompatible"):
            where = f"\n{provider.traceback}" if traceback else " (--traceback shows where)"
            yield f"{provider} is {provider.status}: {provider.error}{where}"


def _of_plugins(registry: Registry) -> Iterator[str]:
    """Names that are taken twice, and plugins whose class or options cannot be imported."""
    from urbancross_bench.errors import UrbanCrossError
    from urbancross_bench.interfaces.command import VERBS
    from urbancross_bench.kinds import misfit

    seen: dict[tuple[str, str], Plugin] = {}
    for plugin in registry.plugins:
        twin = seen.setdefault((plugin.kind, plugin.registration.name), plugin)
        if twin is not plugin:
            yield f"{plugin} has the name of {twin}; disable one of them"
        if plugin.kind == "command" and plugin.registration.name in VERBS:
            yield f"{plugin} is never called: urbancross-bench has a verb of that name, which comes first"
        try:
            if why := misfit(plugin.kind, plugin.load(), plugin.options_type):
                yield f"{plugin}: {why}"
        except UrbanCrossError as error:
            yield str(error)
