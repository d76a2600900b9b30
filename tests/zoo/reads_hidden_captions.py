"""It asks for captions that its setting does not show."""

from urbancross_bench.interfaces import Adaptation, hookimpl, register


@hookimpl
def register_adaptations():
    return [
        register(
            "reads_hidden_captions",
            "reads_hidden_captions:Mine",
            setting="unsupervised_images",
            needs={"gradients"},
            summary="hostile",
        )
    ]


class Mine(Adaptation):
    def prepare(self, model, context):
        self.pair_loss = context.pair_loss

    def loss(self, source, target, progress):
        target.text_features.mean()
        return {"pairs": self.pair_loss(source)}
