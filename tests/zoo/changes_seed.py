"""It seeds the generators that all share."""

import random

import torch

from urbancross_bench.interfaces import Adaptation, hookimpl, register


@hookimpl
def register_adaptations():
    return [
        register(
            "changes_seed", "changes_seed:Mine", setting="unsupervised", needs={"gradients"}, summary="hostile"
        )
    ]


class Mine(Adaptation):
    def prepare(self, model, context):
        self.pair_loss = context.pair_loss

    def loss(self, source, target, progress):
        torch.manual_seed(0)
        random.seed(0)
        return {"pairs": self.pair_loss(source)}
