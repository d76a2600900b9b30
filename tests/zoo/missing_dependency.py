"""It registers, but the class needs a package that is not installed."""

from urbancross_bench.interfaces import hookimpl, register


@hookimpl
def register_metrics():
    return [register("missing_dependency", "missing_dependency:Mine", summary="needs more than there is")]


def __getattr__(name):
    if name == "Mine":
        import a_package_that_is_not_there  # noqa: F401
    raise AttributeError(name)
