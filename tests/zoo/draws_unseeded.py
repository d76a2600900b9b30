"""It draws from a generator that nobody seeds."""

import numpy as np

from urbancross_bench.interfaces import Adaptation, hookimpl, register


@hookimpl
def register_adaptations():
    return [
        register(
            "draws_unseeded", "draws_unseeded:Mine", setting="unsupervised", needs={"gradients"}, summary="hostile"
        )
    ]


class Mine(Adaptation):
    def prepare(self, model, context):
        self.pair_loss = context.pair_loss

    def loss(self, source, target, progress):
        noise = float(np.random.rand())
        return {"pairs": (1 + noise) * self.pair_loss(source)}
