"""How a plugin says what it offers: light to import, and enough to plan a grid with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pluggy

from urbancross_bench.interfaces.settings import SETTINGS

PROJECT = "urbancross_bench"  # pluggy's name of the project, and the entry-point group of its plugins

# Of this plugin interface: hooks, base classes, what they are given. A plugin's module may say which versions it
# was written for, `urbancross_api = ">=1.0,<2"`. What is added raises the second number, what is taken away the
# first.
API_VERSION = "1.0"

hookimpl = pluggy.HookimplMarker(PROJECT)


@dataclass(frozen=True)
class Registration:
    """What planning knows of a plugin. Made by `register`; see there for the fields."""

    name: str
    target: str
    options: str | None
    summary: str
    setting: str | None
    needs: frozenset[str]
    provides: frozenset[str]
    members: tuple[str, ...]
    aliases: Mapping[str, tuple[str, ...]]


def register(
    name: str,
    target: str,
    *,
    summary: str,
    options: str | None = None,
    setting: str | None = None,
    needs: Iterable[str] = (),
    provides: Iterable[str] = (),
    members: Iterable[str] = (),
    aliases: Mapping[str, Iterable[str]] | None = None,
) -> Registration:
    """Offer a plugin under `name`.

    target: `"package.module:Class"`, imported only when the plugin is used.
    options: `"package.module:OptionsClass"`, a subclass of `Options` in a module that imports no torch.
    setting: for adaptations and selectors, what they see of the target (a key of `SETTINGS`).
    needs: what must be there for it to work. Adaptations: `"reference"` (features of the frozen starting encoder,
        computed by the harness) and whatever an encoder may provide. Selectors: `"source_val"`,
        `"target_unpaired"`, `"target_val"`.
        Metrics: `"embeddings"`, `"text_id"`, `"image_class"`. Trackers: the packages they import; one that is
        missing is an error before a grid starts.
    provides: for encoders, what adaptations may need of them: `"gradients"` (it can be trained), …
    members: for datasets that hold several domains, their names (`synthetic/nordia`).
    aliases: names for several members together (`urbancross/integration`); a grid puts those in its place.

    Raises ValueError for a malformed name, target or setting, or one word where several may stand.
    """
    if not name.replace("_", "").replace("-", "").isalnum():
        raise ValueError(f"plugin name {name!r} may hold letters, digits, '_' and '-' only")
    for what, path in (("target", target), ("options", options)):
        if path is not None and path.count(":") != 1:
            raise ValueError(f'{what} of plugin {name!r} must be "package.module:Name", got {path!r}')
    if setting is not None and setting not in SETTINGS:
        raise ValueError(f"setting of plugin {name!r} must be one of {', '.join(SETTINGS)}, got {setting!r}")
    for what, words in (("needs", needs), ("provides", provides), ("members", members)):
        if isinstance(words, str):
            raise ValueError(f'{what} of plugin {name!r} must be a set of words, {{"{words}"}}, got {words!r}')
    members, pooled = tuple(members), {alias: tuple(names) for alias, names in (aliases or {}).items()}
    for alias, names in pooled.items():
        if alias in members or not names or not {*names} <= {*members}:
            raise ValueError(f"alias {alias!r} of plugin {name!r} must stand for some of its members")
    return Registration(
        name, target, options, summary, setting, frozenset(needs), frozenset(provides), members, pooled
    )
