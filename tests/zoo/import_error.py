"""Its import fails."""

from urbancross_bench.interfaces import hookimpl, register

raise RuntimeError("this module is not well")


@hookimpl
def register_metrics():
    return [register("import_error", "import_error:Metric", summary="never seen")]
