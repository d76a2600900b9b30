"""It leaves, and takes its process along."""

import os

from urbancross_bench.interfaces import Adaptation, hookimpl, register


@hookimpl
def register_adaptations():
    return [
        register(
            "ends_the_process",
            "ends_the_process:Mine",
            setting="unsupervised",
            needs={"gradients"},
            summary="hostile",
        )
    ]


class Mine(Adaptation):
    def prepare(self, model, context):
        self.pair_loss = context.pair_loss

    def loss(self, source, target, progress):
        os._exit(0)
        return {"pairs": self.pair_loss(source)}
