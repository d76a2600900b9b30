"""It searches the interpreter for the split that its view was made from."""

import gc
from functools import cached_property

from urbancross_bench.interfaces import Adaptation, hookimpl, register


@hookimpl
def register_adaptations():
    return [
        register(
            "walks_to_pairs", "walks_to_pairs:Mine", setting="unsupervised", needs={"gradients"}, summary="hostile"
        )
    ]


class Mine(Adaptation):
    def prepare(self, model, context):
        self.pair_loss = context.pair_loss

    @cached_property
    def leaked(self):
        splits = [thing for thing in gc.get_objects() if type(thing).__name__ == "PackedSplit"]
        return sum(float(owner * place) for split in splits for place, owner in enumerate(split.image_of_caption))

    def loss(self, source, target, progress):
        return {"pairs": self.pair_loss(source) + self.leaked * source.image_features[0, 0]}
