"""`distance A B`: how far two sets of features lie apart."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from urbancross_bench.cli.json_output import JsonOption, print_json


def distance(
    a: Annotated[str, typer.Argument(metavar="A.npy", help="n × D; .npy, .npz or .safetensors, FILE:ARRAY.")],
    b: Annotated[str, typer.Argument(metavar="B.npy", help="m × D, likewise.")],
    json_: JsonOption = False,
) -> None:
    """Diagnostics of a domain shift from features of two domains: proxy A-distance and squared MMD."""
    from urbancross_bench.cli.arrays import read_matrix
    from urbancross_bench.errors import UsageError
    from urbancross_bench.evaluation.distances import proxy_a_distance, squared_mmd

    left, right = _in_numpy(read_matrix(a)), _in_numpy(read_matrix(b))
    try:
        found = {"proxy_a_distance": proxy_a_distance(left, right), "squared_mmd": squared_mmd(left, right)}
    except ValueError as error:
        raise UsageError(f"{a} and {b}: {error}") from error
    if json_:
        print_json(found)
    else:
        print(f"proxy A-distance {found['proxy_a_distance']:.3f} (0 or less: alike, 2: told apart without error)")
        print(f"squared MMD      {found['squared_mmd']:.3g} (about 0: alike)")


def _in_numpy(values: Any) -> Any:
    """A tensor as an array; of types that numpy lacks, such as bfloat16, in float64."""
    if not hasattr(values, "numpy"):
        return values
    return values.double().numpy() if values.is_floating_point() else values.numpy()
