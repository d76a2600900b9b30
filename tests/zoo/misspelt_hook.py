"""A hook of a name that there is not."""

from urbancross_bench.interfaces import hookimpl, register


@hookimpl
def register_metric():
    return [register("misspelt_hook", "misspelt_hook:Mine", summary="never found")]
