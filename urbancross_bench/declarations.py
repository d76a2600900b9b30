"""What a plugin's module says of itself, held against what must be said: nothing is assumed where nothing is."""

from __future__ import annotations

from urbancross_bench.errors import PluginError
from urbancross_bench.interfaces.registration import API_VERSION, Registration
from urbancross_bench.interfaces.settings import SETTINGS

_NEEDS = {
    "selector": frozenset({"source_val", "target_unpaired", "target_val"}),
    "metric": frozenset({"embeddings", "text_id", "image_class"}),
}


class IncompatibleError(PluginError):
    """A plugin was written for another version of the plugin interface."""


def check_api(wanted: object) -> None:
    """Raise PluginError unless this version is among those that a plugin says it was written for."""
    if wanted is None:
        return
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        versions = SpecifierSet(str(wanted))
    except InvalidSpecifier:
        raise PluginError(f'urbancross_api = {wanted!r} is no range of versions; write ">=1.0,<2", say') from None
    if API_VERSION not in versions:
        raise IncompatibleError(
            f"it is written for the plugin interface {wanted}, and this is {API_VERSION}; take a version of one "
            "of them that fits the other"
        )


def check_declarations(kind: str, registration: Registration) -> None:
    """Raise ValueError for a setting or a need that is missing or unknown: what a row may claim rests on them."""
    name, needs = registration.name, registration.needs
    if kind in ("adaptation", "selector") and registration.setting is None:
        raise ValueError(f"{kind} {name!r} names no setting; register it with one of {', '.join(SETTINGS)}")
    if kind in _NEEDS:
        unknown = needs - _NEEDS[kind]
        if unknown:
            known = ", ".join(sorted(_NEEDS[kind]))
            raise ValueError(f"{kind} {name!r} needs {', '.join(sorted(unknown))}; known: {known}")
    if kind == "selector" and "target_val" in needs and registration.setting != "oracle":
        raise ValueError(f"selector {name!r} looks at target_val, so its setting must be 'oracle'")
    unpaired = kind == "selector" and "target_unpaired" in needs
    if unpaired and registration.setting not in ("unsupervised", "oracle"):
        raise ValueError(f"selector {name!r} looks at target_unpaired, so its setting must be 'unsupervised'")
