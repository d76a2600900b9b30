"""Verbs that plugins add: looked for only where a verb is none of ours, so that ours cost no more for them."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


class Verbs(TyperGroup):
    """Our verbs, then those of plugins. Help lists ours; `plugins list` all."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """See click. Raises PluginError for a verb that is provided twice or cannot be loaded."""
        return super().get_command(ctx, cmd_name) or _of_a_plugin(cmd_name)


def _of_a_plugin(name: str) -> Any:
    from urbancross_bench.errors import PluginError
    from urbancross_bench.interfaces.command import verb  # brings numpy, for which `leaderboard` sets its threads
    from urbancross_bench.kinds import misfit
    from urbancross_bench.registry import Registry

    registry = Registry.discover()
    if name not in {plugin.registration.name for plugin in registry.of_kind("command")}:
        return None
    plugin = registry.find("command", name)
    function = plugin.load()
    if why := misfit("command", function, plugin.options_type):
        raise PluginError(f"{plugin}: {why}")
    try:
        return verb(name, plugin.registration.summary, function)
    except Exception as error:  # whatever typer makes of parameters that it cannot read
        raise PluginError(f"{plugin}: typer cannot make a verb of it: {error}") from error
