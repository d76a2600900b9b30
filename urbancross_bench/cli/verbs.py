"""The verbs: ours, each imported where it is called for, and those of plugins, where it is none of ours."""

from __future__ import annotations

import os
import pkgutil
import select
import sys
from typing import Any

import typer
from typer.core import TyperGroup

# Where each is in this package: a function, or a group of more.
_OURS = {
    "run": "run:run",
    "plan": "plan:plan",
    "explain": "explain:explain",
    "export": "export:app",
    "status": "status:status",
    "score": "score:score",
    "rescore": "rescore:rescore",
    "compare": "compare:compare",
    "verify": "verify:verify",
    "search": "search:search",
    "distance": "distance:distance",
    "plugins": "plugins:app",
    "show": "plugins:show",
    "data": "data:app",
    "store": "store:app",
    "leaderboard": "leaderboard:app",
}


class Verbs(TyperGroup):
    """Our verbs, then those of plugins. Help lists ours; `plugins list` all."""

    def __init__(self, **settings: Any) -> None:
        # Ours by name alone: typer takes longer to make all of them than most take to be carried out.
        settings["commands"] = dict.fromkeys(_OURS)
        super().__init__(**settings)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """See click. Raises PluginError for a verb that is provided twice or cannot be loaded."""
        return _ours(cmd_name) if cmd_name in _OURS else _of_a_plugin(cmd_name)

    def invoke(self, ctx: Any) -> Any:
        """See click, which takes a reader that went away, as after `| head`, for a failure of the verb."""
        try:
            try:
                found = super().invoke(ctx)
            except typer.Exit:
                sys.stdout.flush()
                raise
            sys.stdout.flush()
            return found
        except BrokenPipeError as error:
            if _is_deserted(sys.stdout):
                os._exit(141)  # as a program that is ended by SIGPIPE; there is nobody to tell
            raise OSError(str(error)) from error  # of the verb's own, over which click would end without a word


def _is_deserted(stream: Any) -> bool:
    """Whether a stream leads to a pipe that nobody reads any more."""
    looking = select.poll()
    looking.register(stream.fileno(), 0)
    return any(what & (select.POLLERR | select.POLLHUP) for _, what in looking.poll(0))


def _ours(name: str) -> Any:
    found = pkgutil.resolve_name(f"{__package__}.{_OURS[name]}")
    one = typer.Typer(rich_markup_mode=None)  # as of all together
    if isinstance(found, typer.Typer):
        one.add_typer(found, name=name)
    else:
        one.command(name)(found)
    return typer.main.get_group(one).commands[name]


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
