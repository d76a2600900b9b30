"""Its methods take other arguments than they are given."""

from urbancross_bench.interfaces import Metric, hookimpl, register


@hookimpl
def register_metrics():
    return [register("wrong_signature", "wrong_signature:Mine", summary="expects a matrix of scores")]


class Mine(Metric):
    def score(self, similarities, labels):
        return {}
