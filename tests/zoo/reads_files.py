"""It looks for test data on the disk."""

import contextlib
import os
from pathlib import Path

from urbancross_bench.interfaces import Adaptation, hookimpl, register


@hookimpl
def register_adaptations():
    return [
        register("reads_files", "reads_files:Mine", setting="unsupervised", needs={"gradients"}, summary="hostile")
    ]


class Mine(Adaptation):
    def prepare(self, model, context):
        self.pair_loss = context.pair_loss

    def loss(self, source, target, progress):
        with contextlib.suppress(OSError):
            (Path(os.environ.get("URBANCROSS_DATA", ".")) / "dataset.json").read_text()
        return {"pairs": self.pair_loss(source)}
