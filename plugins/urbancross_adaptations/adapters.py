"""Adapters: small heads on the features of either tower, trained on source pairs; the encoder stays as it is.

`residual` is the bottleneck of Houlsby et al. 2019 (arXiv 1902.00751, section 2.1), placed behind the tower as in
CLIP-Adapter (Gao et al. 2021, arXiv 2110.04544): x + up(gelu(down(x))). That one mixes by a fixed ratio;
here `up` starts at zero and finds its size. `linear` is x + Δx + b. Both leave every feature as it was at first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from torch import nn

from urbancross_adaptations.fine_tuning_options import AdapterOptions
from urbancross_adaptations.partial_training import faster, train_only
from urbancross_adaptations.supervised import SourceOnly
from urbancross_bench.interfaces import Context, DualEncoder
from urbancross_bench.modelling.heads import WithHeads, head


class Adapters(SourceOnly):
    """See `AdapterOptions`. No gradient is computed inside the towers."""

    options_type = AdapterOptions

    def extend(self, model: DualEncoder) -> DualEncoder:
        """The model with a head behind either tower."""
        o = cast(AdapterOptions, self.options)
        return WithHeads(
            model, *(head(o.kind, model.width, model.width, bottleneck=o.bottleneck) for _ in ("image", "text"))
        )

    def prepare(self, model: DualEncoder, context: Context) -> None:
        """Freeze the encoder."""
        super().prepare(model, context)
        train_only(model, heads_of(model))

    def parameter_groups(self, model: DualEncoder, learning_rate: float) -> list[dict[str, Any]]:
        """The heads at a rate of their own."""
        factor = cast(AdapterOptions, self.options).rate_factor
        return faster(model, heads_of(model), learning_rate, factor)


def heads_of(model: DualEncoder) -> Iterator[nn.Parameter]:
    """The parameters of both heads of a `WithHeads`."""
    extended = cast(WithHeads, model)
    yield from extended.image_head.parameters()
    yield from extended.text_head.parameters()
