"""A model card of one run: front matter that model hubs read (`model-index`), and what a reader has to know.

The prose is in `model_card.md`; here are the facts that go into it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from urbancross_bench import __version__
from urbancross_bench.errors import RunError
from urbancross_bench.evaluation.protocols import PROTOCOLS
from urbancross_bench.execution.choosing import named
from urbancross_bench.execution.store import Store
from urbancross_bench.interfaces.renderer import printable
from urbancross_bench.interfaces.scenarios import sources
from urbancross_bench.interfaces.settings import SETTINGS
from urbancross_bench.leaderboard.spent import length
from urbancross_bench.records import Record, ScoreRecord, weights_lacked

_TASK = {"type": "image-text-retrieval", "name": "Cross-domain remote-sensing image-text retrieval"}
_TAGS = ["remote-sensing", "image-text-retrieval", "domain-adaptation", "urbancross-bench"]
_NAMES = ("domain", "selector", "protocol", "ties")
_MARKUP = str.maketrans({c: f"\\{c}" for c in "\\|`*_[~#"} | {"<": "&lt;", ">": "&gt;", "&": "&amp;"})
_TIES = {
    "expected": "among equal scores the mean over all their orders counts, so a constant encoder scores chance",
    "optimistic": "among equal scores the right answer is taken to stand first",
    "pessimistic": "among equal scores the right answer is taken to stand last",
}


def model_card(out: Path, record: Record) -> str:
    """The text of a README.md. out: the output folder that the record is in; its store may say more."""
    spec = record.spec
    scores = sorted(record.scores, key=lambda s: (*(s.content[name] for name in _NAMES), s.folder.name))
    template = files("urbancross_bench.execution").joinpath("model_card.md").read_text(encoding="utf-8")
    return template.format(
        front=yaml.safe_dump(_front(record, scores), sort_keys=False, allow_unicode=True, width=10**6),
        title=_text(named(record)),
        encoder=_code(spec["encoder"]["name"]),
        made=_made(spec),
        results=_results(scores),
        protocol="\n".join(_protocol(record, scores)),
        data=_data(record),
        training="\n".join(_training(record, out, scores)),
        provenance="\n".join(_provenance(record)),
    )


def is_card(file: Path) -> bool:
    """Whether a file is such a card, by its front matter. Raises OSError, ValueError."""
    head, front, *_ = [*file.read_text(encoding="utf-8").split("---\n", 2), ""]
    try:
        said = yaml.safe_load(front)
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is no card") from error
    tags = said.get("tags") if isinstance(said, dict) else None
    return not head and isinstance(tags, list) and _TAGS[-1] in tags and "model-index" in said


def _front(record: Record, scores: Sequence[ScoreRecord]) -> dict[str, Any]:
    """Every text is one line: readers cut the front matter at the next line of hyphens, wherever that stands."""
    results = [_result(score.content) for score in scores]
    return {"tags": _TAGS, "model-index": [{"name": named(record), "results": results}]}


def _made(spec: Mapping[str, Any]) -> str:
    source, target = _text(sources(spec["scenario"])), _text(spec["scenario"]["target"])
    method = f"`{_code(spec['adaptation']['name'])}`"
    if _seen_as_source(spec):
        return f"trained on pairs of {source} by {method}, and tested on other pairs of {target}"
    return f"trained on pairs of {source}, and carried over to {target} by {method}"


def _seen_as_source(spec: Mapping[str, Any]) -> bool:
    return spec["scenario"]["target"] in spec["scenario"]["source"]


def _result(score: Mapping[str, Any]) -> dict[str, Any]:
    """One entry of the index: a score, with what it was measured by as arguments."""
    facts = {"fingerprint": score["test"], "images": score["images"], "texts": score["texts"]}
    facts |= {name: printable(score[name]) for name in ("protocol", "ties", "selector", "setting")}
    domain = printable(score["domain"])
    return {
        "task": dict(_TASK),
        "dataset": {"type": domain, "name": domain, "split": "test", "args": facts},
        "metrics": [_metric(name, metric) for name, metric in score["metrics"].items()],
    }


def _metric(name: str, metric: Mapping[str, Any]) -> dict[str, Any]:
    bounds = {part: round(metric[part], 4) for part in ("low", "high", "chance") if metric[part] is not None}
    name = printable(name)
    return {"type": name, "name": name, "value": round(metric["value"], 4), "verified": False, "args": bounds}


def _results(scores: Sequence[ScoreRecord]) -> str:
    names = [*dict.fromkeys(name for score in scores for name in score.content["metrics"])]
    rows = []
    for score in scores:
        metrics = (_estimate(score.content["metrics"].get(name)) for name in names)
        rows.append([*(score.content[name] for name in _NAMES), *metrics])
    return _table([*_NAMES, *names], rows)


def _protocol(record: Record, scores: Sequence[ScoreRecord]) -> Iterator[str]:
    behind = record.spec.get("target_images_in_weights")
    protocols, ties, settings = ({s.content[what] for s in scores} for what in ("protocol", "ties", "setting"))
    for name in sorted(protocols):
        yield f"- Protocol `{name}`: {' '.join((inspect.getdoc(PROTOCOLS[name]) or '').split())}"
    for name in sorted(ties):
        yield f"- Ties `{name}`: {_TIES[name]}."
    for name in sorted(settings):
        yield f"- Setting `{name}`: {_seen(name, by_weights=bool(behind) and name == 'oracle')}."
    if any(score.content["calibration"] for score in scores):
        name = _code(record.spec["adaptation"]["name"])
        yield f"- The numbers are of cosines that `{name}` has changed; it is not in the weights."
    if _seen_as_source(record.spec):
        yield "- The target is one of the sources, so training saw its training pairs, whatever the setting is."
    if behind:
        yield (
            f"- The first weights had been trained on {behind} images of the target, with their captions, that "
            "the sources do not train on."
        )
    share = record.spec["shown"]["share"]
    if share < 1:
        yield f"- Of the target's training pairs {100 * share:g} % were seen."


def _seen(setting: str, *, by_weights: bool) -> str:
    """What training and selection were shown of the target, or the weights before."""
    access = SETTINGS[setting]
    if setting == "test_time":
        return "training saw nothing of the target; when it is tested, it uses all queries and the gallery at once"
    if not access.anything:
        return "training and selection saw nothing of the target"
    what = "the target's images alone"
    if access.captions:
        what = "the target's images and captions, unpaired"
    if access.pairs:
        what = "pairs of the target" + (", a share of them" if access.share else "")
    return f"{'the first weights, ' if by_weights else ''}training or selection saw {what}"


def _data(record: Record) -> str:
    scenario, rows = record.spec["scenario"], []
    for name, facts in record.spec["domains"].items():
        roles = ["source"] * (name in scenario["source"]) + ["target"] * (name == scenario["target"])
        captions = "written by a model" if facts["captions_generated"] else "not said to be a model's"
        prints = " ".join(facts["splits"].get(split, "–")[:12] for split in ("train", "val", "test"))
        licence = facts.get("licence", "not known from this record: see the dataset")
        rows.append([name, ", ".join(roles), licence or "not stated: ask its authors", captions, prints])
    return _table(["domain", "role", "licence", "captions", "fingerprints of train, val, test"], rows)


def _training(record: Record, out: Path, scores: Sequence[ScoreRecord]) -> Iterator[str]:
    spec, weights = record.spec, record.spec["encoder"]["weights"]
    recipe, budget = spec["pretraining"], spec["budget"]
    digest = f", sha256 `{weights['sha256']}`" if weights["sha256"] else ""
    options = ", ".join(f"{name}={value}" for name, value in spec["adaptation"]["options"].items())
    lacking = ", some of which were allowed to be missing" if weights_lacked(spec) else ""
    yield f"- First weights: {_text(weights['source'])} ({weights['status']}){digest}{lacking}"
    yield (
        f"- Pre-training on the source: {length(recipe)}, batches of {recipe['batch_size']}, learning rate "
        f"{recipe['learning_rate']:g}, loss `{recipe['loss']}`"
    )
    yield (
        f"- Adaptation: `{_code(spec['adaptation']['name'])}`"
        + (f" (`{_code(options)}`)" if options else "")
        + ", "
        f"{spec['steps']} steps, batches of {budget['batch_size']}, learning rate {budget['learning_rate']:g}"
    )
    yield f"- Seed {spec['seed']}, {spec['precision']}; options searched for: {'yes' if spec['search'] else 'no'}"
    chosen: dict[str, dict[str, None]] = {}
    for score in scores:
        chosen.setdefault(_weights(out, score), {})[score.content["selector"]] = None
    for file, selectors in chosen.items():
        yield f"- Weights chosen by {_text(', '.join(selectors))}: {file}"


def _weights(out: Path, score: ScoreRecord) -> str:
    """The file in the store that has what a selector chose, by its hash."""
    store = Store(out / "store")
    try:
        embedded = store.entry(score.content["features"]).manifest()
        written = store.entry(embedded["inputs"]["model"]).manifest()["files"]
        name = sorted(file for file in written if file.startswith("candidate-"))[score.content["number"]]
        return f"`{name}`, sha256 `{written[name]}`"
    except (RunError, OSError, ValueError, LookupError):
        return f"step {score.content['step']}, not in the store any more"


def _provenance(record: Record) -> Iterator[str]:
    for training, facts in record.provenance().items():
        if "torch" in facts:
            versions = f"torch {facts['torch']}, Python {facts['python']}"
            where = f"{facts['device']}, {facts['system']}"
            yield f"- {training}: {facts['seconds']:.0f} s from {facts['began']}; {versions}; {_text(where)}"
    yield f"- Run `{record.folder.name}` of grid `{record.spec['grid']}`; card by urbancross-bench {__version__}"


def _table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = f"|{'---|' * len(names)}"
    return "\n".join([_row(names), rule, *map(_row, rows)])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_text, cells))} |"


def _estimate(metric: Mapping[str, Any] | None) -> str:
    if metric is None:
        return "–"
    if metric["low"] is None:
        return f"{metric['value']:.2f}"
    return f"{metric['value']:.2f} ({metric['low']:.2f} to {metric['high']:.2f})"


def _text(value: str) -> str:
    """As it is read, whatever markup it holds."""
    return printable(value).translate(_MARKUP)


def _code(value: str) -> str:
    """What may stand between backticks."""
    return printable(value).replace("`", "'")
