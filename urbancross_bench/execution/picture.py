"""A plan's stages as a Mermaid flowchart: grouped by kind, those stored drawn with a dashed line."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

from urbancross_bench.execution.stage import Kind, Stage

State = Literal["stored", "to do", "not needed"]
LARGEST = 60  # stages drawn one by one; of more, one node stands for all of a kind in the same state

_CLASSES = {"stored": "stored", "to do": "todo", "not needed": "unneeded"}
_STYLES = """  classDef stored stroke-dasharray:4 3,fill:#eeeeee,stroke:#888888,color:#555555
  classDef todo fill:#dbeafe,stroke:#1d4ed8,color:#111111
  classDef unneeded fill:#ffffff,stroke:#cccccc,color:#999999"""
# `;` ends an entity, `#` begins one; quotes end a label, backticks make it Markdown, and the rest may be HTML.
_ESCAPES = {ord(sign): f"#{ord(sign)};" for sign in '"#&<>`;'}


def flowchart(stages: Mapping[str, Stage], stored: Collection[str], todo: Collection[str]) -> str:
    """Of the stages of a plan: `stored` and `todo` are keys; a stage in neither is not needed any more."""
    nodes, edges = _nodes(stages, stored, todo)
    lines = ["flowchart LR"]
    for kind in dict.fromkeys(kind for kind, _, _ in nodes.values()):
        lines.append(f"  subgraph {kind}")
        for name, (of, label, state) in nodes.items():
            if of == kind:
                lines.append(f'    {name}["{label}"]:::{_CLASSES[state]}')
        lines.append("  end")
    lines += [f"  {source} --> {target}" for source, target in edges]
    return "\n".join([*lines, _STYLES])


def _nodes(
    stages: Mapping[str, Stage], stored: Collection[str], todo: Collection[str]
) -> tuple[dict[str, tuple[Kind, str, State]], list[tuple[str, str]]]:
    """Nodes (name → kind, label, state), and the edges between them, each once."""
    states: dict[str, State] = {
        key: "to do" if key in todo else "stored" if key in stored else "not needed" for key in stages
    }
    groups: dict[tuple[str, ...], list[Stage]] = {}
    for key, stage in stages.items():
        group = (stage.kind, states[key]) if len(stages) > LARGEST else (key,)
        groups.setdefault(group, []).append(stage)
    names = {stage.key: f"n{number}" for number, members in enumerate(groups.values()) for stage in members}
    nodes = {
        names[members[0].key]: (members[0].kind, _label(members, states), states[members[0].key])
        for members in groups.values()
    }
    edges = ((names[above], names[stage.key]) for stage in stages.values() for above in stage.inputs.values())
    return nodes, list(dict.fromkeys(edges))


def _label(members: list[Stage], states: Mapping[str, State]) -> str:
    first = members[0]
    if len(members) == 1:
        return escaped(first.label or first.key)
    return f"{len(members)} {first.kind}, {states[first.key]}"


def escaped(text: str) -> str:
    """A text as it may stand between the quotes of a label."""
    return " ".join(text.split()).translate(_ESCAPES)
