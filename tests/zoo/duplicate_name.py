"""It takes a name that is taken."""

from urbancross_bench.interfaces import Metric, hookimpl, register


@hookimpl
def register_metrics():
    return [register("recall", "duplicate_name:Recall", summary="a better recall")]


class Recall(Metric):
    def score(self, ranking):
        return {}
