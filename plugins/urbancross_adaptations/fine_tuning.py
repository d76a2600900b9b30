"""Ways of fine-tuning on source pairs that leave more of what the start could do on other domains."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, cast

from torch import Tensor

from urbancross_adaptations.adapters import heads_of
from urbancross_adaptations.fine_tuning_options import InterpolationOptions, ProbingThenFineTuningOptions
from urbancross_adaptations.partial_training import faster
from urbancross_adaptations.supervised import SourceOnly
from urbancross_bench.interfaces import Batch, Context, DualEncoder, Progress
from urbancross_bench.modelling.heads import LinearHead, WithHeads

State = Mapping[str, Tensor]


class ProbingThenFineTuning(SourceOnly):
    """LP-FT: first the last layer alone, then all. Kumar et al. 2022 (arXiv 2202.10054).

    A dual encoder has no classifier to probe with. Its last layers are the projections of both towers, which some
    architectures lack; so a linear head, the identity at first, stands behind each tower and is what is probed.
    (Behind a tower that ends in a matrix, it is that matrix which a head changes.) One schedule of the learning
    rate spans both phases, and both together take the budget's steps.
    """

    options_type = ProbingThenFineTuningOptions

    def extend(self, model: DualEncoder) -> DualEncoder:
        """The model with a linear head behind either tower."""
        return WithHeads(model, LinearHead(model.width), LinearHead(model.width))

    def prepare(self, model: DualEncoder, context: Context) -> None:
        """Note what the encoder lets be trained."""
        super().prepare(model, context)
        self.o = cast(ProbingThenFineTuningOptions, self.options)
        self.model = model
        always = {id(p) for p in (*heads_of(model), model.logit_scale, model.logit_bias)}
        self.thawed = [n for n, p in model.named_parameters() if p.requires_grad and id(p) not in always]

    def parameter_groups(self, model: DualEncoder, learning_rate: float) -> list[dict[str, Any]]:
        """The heads at a rate of their own. The rest has no gradient in the first phase, and so does not move."""
        return faster(model, heads_of(model), learning_rate, self.o.rate_factor)

    def select(self, source: Batch, target: Batch, progress: Progress) -> None:
        """All rows; but the phase is set before anything is encoded, at each step, so that it needs no memory."""
        parameters = dict(self.model.named_parameters())
        for name in self.thawed:
            parameters[name].requires_grad_(progress.fraction >= self.o.probing)
        self.model.train()  # running statistics, too, move in the second phase alone


class Interpolation(SourceOnly):
    """WiSE-FT: θ_α = (1 − α) θ_start + α θ_trained. Wortsman et al. 2022 (arXiv 2109.01903, eq. 1).

    One training on source pairs gives all α. Every floating-point number of the state is interpolated, running
    statistics and the logarithm of the scale among them.
    """

    options_type = InterpolationOptions

    def prepare(self, model: DualEncoder, context: Context) -> None:
        """Keep the start, where it takes no memory of the device."""
        super().prepare(model, context)
        start = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
        # Behind a callable: it never changes, and need not be saved with each state of the training.
        self.interpolated = partial(interpolated, start)

    def candidates(self, model: DualEncoder) -> Mapping[str, State]:
        """By their α, in the order of the option."""
        trained = {name: value.detach().cpu() for name, value in model.state_dict().items()}
        alphas = cast(InterpolationOptions, self.options).alphas
        return {f"alpha={alpha!r}": self.interpolated(trained, alpha) for alpha in alphas}


def interpolated(start: State, end: State, share: float) -> State:
    """(1 − share) · start + share · end by name, bit for bit one of them at 0 and 1. Counters are of `end`."""
    if share in (0, 1):
        return end if share else start
    return {
        name: start[name].lerp(value, share) if value.is_floating_point() else value for name, value in end.items()
    }
