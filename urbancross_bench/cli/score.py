"""`score`: rank anybody's embeddings, without any model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from urbancross_bench.cli.json_output import JsonOption, print_json
from urbancross_bench.cli.options import PluginOption

if TYPE_CHECKING:
    from urbancross_bench.evaluation.floors import Ints
    from urbancross_bench.evaluation.ranking import Ranking
    from urbancross_bench.registry import Resolved

_OPTIONS = {"text_id": "--captions", "image_class": "--classes"}


def score(
    images: Annotated[str, typer.Option(metavar="I.npy", help="N × D; .npy, .npz or .safetensors, FILE:ARRAY.")],
    texts: Annotated[str, typer.Option(metavar="T.npy", help="M × D, likewise.")],
    map_: Annotated[
        Path,
        typer.Option(
            "--map",
            metavar="M.json",
            help="M image indices, from 0: each text's image. A JSON list, .npy, or one on each line of a text.",
        ),
    ],
    captions: Annotated[
        Path | None, typer.Option(metavar="C.txt", help="A line per text; equal lines are equal strings.")
    ] = None,
    classes: Annotated[
        Path | None, typer.Option(metavar="K.txt", help="A line per image: its scene class.")
    ] = None,
    image_ids: Annotated[
        Path | None, typer.Option(metavar="F.txt", help="A line per image; equal lines are equal images.")
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="classic, deduplicated, row_diagonal, or a preset: urbancross_released, …")
    ] = "classic",
    ties: Annotated[
        str | None,
        typer.Option(help="expected (by default), optimistic or pessimistic.", show_default=False),
    ] = None,
    metric: Annotated[list[str] | None, typer.Option(help="A metric plugin; repeatable.")] = None,
    normalize: Annotated[bool, typer.Option(help="Divide each row by its length first.")] = True,
    device: Annotated[str | None, typer.Option(help="Where to multiply: cpu, cuda, cuda:1.")] = None,
    json_: JsonOption = False,
    plugin: PluginOption = None,
) -> None:
    """Score embeddings: exact ranking, every metric with its interval, chance, floors and ceilings."""
    from urbancross_bench.cli.arrays import read_lines, read_map, read_matrix
    from urbancross_bench.errors import UsageError
    from urbancross_bench.evaluation import evaluate_retrieval
    from urbancross_bench.execution.scoring import resolve_metrics, score_ranking
    from urbancross_bench.identity import derive_seed, digest
    from urbancross_bench.modelling.runtime import resolve_device
    from urbancross_bench.registry import Registry

    if device is not None:
        device = str(resolve_device(device))
    _check_ties(protocol, ties)
    registry = Registry.discover(plugin or [])
    metrics = resolve_metrics(registry, metric or ["recall"])
    _check_needs(metrics, {"text_id": captions, "image_class": classes})
    image_matrix, text_matrix, owner = read_matrix(images), read_matrix(texts), read_map(map_)
    n, m = (len(one) if one.ndim else 0 for one in (image_matrix, text_matrix))
    if len(owner) == n != m:
        raise UsageError(f"{map_} is for {n} texts, and {texts} has {m} rows; are --images and --texts swapped?")
    text_id = None if captions is None else read_lines(captions, m, "texts")
    image_class = None if classes is None else read_lines(classes, n, "images")
    image_id = None if image_ids is None else read_lines(image_ids, n, "images")
    told = {"image_embeddings": images, "text_embeddings": texts, "image_of_text": str(map_), **_OPTIONS}
    with _named_as(told):
        ranking = evaluate_retrieval(
            image_matrix,
            text_matrix,
            owner,
            protocol=protocol,
            ties=ties or "expected",
            normalize=normalize,
            text_id=text_id,
            image_id=image_id,
            image_class=image_class,
            device=device,
        )
    # Scores of one map are resampled alike, so that their differences are paired.
    draws = derive_seed("resampled images", digest([owner.tobytes()]))
    found, _ = score_ranking(ranking, metrics, draws=draws)
    found["floors"] = _floors(ranking, owner, text_id, n, image_class)
    if json_:
        print_json(found)
    else:
        print("\n".join(_lines(found)))
    if found["failed"]:
        raise typer.Exit(1)


def _check_needs(metrics: Sequence[Resolved], given: Mapping[str, Path | None]) -> None:
    """A metric that was asked for has what it needs: raise UsageError naming the option that is not given."""
    from urbancross_bench.errors import UsageError

    for metric in metrics:
        for need in sorted(metric.plugin.registration.needs & given.keys()):
            if given[need] is None:
                raise UsageError(
                    f"metric {str(metric.reference)!r} needs {_OPTIONS[need]}; add it, see `score --help`"
                )


def _check_ties(protocol: str, ties: str | None) -> None:
    """Of a preset, which brings its tie rule, no other can be asked for."""
    from urbancross_bench.errors import UsageError
    from urbancross_bench.evaluation.protocols import PRESETS

    name, rule = PRESETS.get(protocol, (protocol, ties))
    if ties not in (None, rule):
        raise UsageError(f"preset {protocol!r} brings the tie rule {rule!r}; give --protocol {name} for others")


@contextmanager
def _named_as(names: Mapping[str, str]) -> Iterator[None]:
    """What is wrong with arrays is said of the options and files that they come from."""
    from urbancross_bench.errors import UsageError

    try:
        yield
    except ValueError as error:
        raise UsageError(re.sub("|".join(names), lambda match: names[match[0]], str(error))) from error


def _floors(
    ranking: Ranking, owner: Ints, text_id: Ints | None, images: int, image_class: Ints | None
) -> dict[str, dict[str, float] | None]:
    """By name; None for those that another protocol does not have, or that only --captions or --classes tell."""
    import numpy as np

    from urbancross_bench.evaluation.floors import FLOORS, floors, random_floor

    found: dict[str, dict[str, float] | None] = dict.fromkeys(FLOORS)
    if ranking.protocol == "classic":
        strings = np.arange(len(owner)) if text_id is None else text_id
        found = floors(owner, strings, images, image_class)[ranking.ties].as_json()
        if text_id is None:
            found |= {"equal_strings": None, "ceiling": None}
    return found | {"random": random_floor(ranking).as_json()}  # whatever becomes of ties


def _lines(found: dict[str, Any]) -> list[str]:
    from urbancross_bench.evaluation.floors import FLOORS

    sizes = found["queries"], found["gallery"]
    lines = [
        f"protocol {found['protocol']}, ties {found['ties']}",
        *(f"{way}: {sizes[0][way]:,} queries, a gallery of {sizes[1][way]:,}" for way in ("i2t", "t2i")),
        "",
        f"{'':14}{'':>8}  {'95 % interval':18}{'chance':>8}",
        *value_lines(found),
        "",
    ]
    under = "" if found["ties"] == "expected" else f", ties {found['ties']}"
    for name, floor in found["floors"].items():
        if floor:
            lines.append(f"{'mR':14}{floor['mR']:8.2f}  {FLOORS[name]}{under if name != 'random' else ''}")
    return lines


def value_lines(found: dict[str, Any]) -> list[str]:
    """A line per value of a score, and per metric that has none: why. Only records lack what a metric needs."""
    from urbancross_bench.interfaces.renderer import printable

    lines = []
    for name, entry in found["metrics"].items():
        low, high = entry["low"], entry["high"]
        interval = "–" if low is None else f"[{low:.2f}, {high:.2f}]"
        lines.append(f"{printable(name):14}{entry['value']:8.2f}  {interval:18}{entry['chance']:8.2f}")
    for name, missing in found["lacking"].items():
        lines.append(f"{name}: null, for records hold no {missing}, and the store beside them has none")
    return lines + [printable(f"{name}: failed, {problem}") for name, problem in found["failed"].items()]
