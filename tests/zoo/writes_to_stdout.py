"""It prints, through Python and past it."""

import os

from urbancross_bench.interfaces import Adaptation, hookimpl, register


@hookimpl
def register_adaptations():
    return [
        register(
            "writes_to_stdout",
            "writes_to_stdout:Mine",
            setting="unsupervised",
            needs={"gradients"},
            summary="hostile",
        )
    ]


class Mine(Adaptation):
    def prepare(self, model, context):
        self.pair_loss = context.pair_loss

    def loss(self, source, target, progress):
        print("step", progress.step)
        os.write(1, b"\x00\xff and past it\n")
        return {"pairs": self.pair_loss(source)}
