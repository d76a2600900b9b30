"""It waits for something that does not come."""

import threading

from urbancross_bench.interfaces import Adaptation, hookimpl, register


@hookimpl
def register_adaptations():
    return [
        register(
            "never_returns", "never_returns:Mine", setting="unsupervised", needs={"gradients"}, summary="hostile"
        )
    ]


class Mine(Adaptation):
    def prepare(self, model, context):
        self.pair_loss = context.pair_loss

    def loss(self, source, target, progress):
        threading.Event().wait()
        return {"pairs": self.pair_loss(source)}
