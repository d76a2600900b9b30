"""It keeps what it is shown."""

from urbancross_bench.interfaces import Adaptation, hookimpl, register


@hookimpl
def register_adaptations():
    return [
        register(
            "leaks_memory", "leaks_memory:Mine", setting="unsupervised", needs={"gradients"}, summary="hostile"
        )
    ]


_seen = []


class Mine(Adaptation):
    def prepare(self, model, context):
        self.pair_loss = context.pair_loss

    def loss(self, source, target, progress):
        _seen.append(source.image_features.detach().repeat(500, 1))
        return {"pairs": self.pair_loss(source)}
