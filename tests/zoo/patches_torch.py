"""It replaces a function of torch for everybody."""

import torch.nn.functional as F

from urbancross_bench.interfaces import Adaptation, hookimpl, register


@hookimpl
def register_adaptations():
    return [
        register(
            "patches_torch", "patches_torch:Mine", setting="unsupervised", needs={"gradients"}, summary="hostile"
        )
    ]


_plain = F.normalize


def _normalize(x, *arguments, **options):
    return 1.01 * _plain(x, *arguments, **options)


class Mine(Adaptation):
    def prepare(self, model, context):
        self.pair_loss = context.pair_loss

    def loss(self, source, target, progress):
        F.normalize = _normalize
        return {"pairs": self.pair_loss(source)}
