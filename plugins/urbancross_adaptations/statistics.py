"""Statistics of one domain put in the place of another's, in closed form. Nothing is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from urbancross_adaptations.alignment import features
from urbancross_adaptations.alignment_options import Side, StatisticsImagesOptions
from urbancross_bench.errors import RunError
from urbancross_bench.interfaces import Adaptation, Context, DualEncoder, Pool
from urbancross_bench.modelling.heads import WithHeads


class AlignStatistics(Adaptation):
    """Maps features so that the mean, or mean and covariance, of the target's become those of the source's.

    A unit vector x becomes x − μ_t + μ_s, images and texts apart; with `whitening`
    Σ_s^{1/2} Σ_t^{−1/2} (x − μ_t) + μ_s, with (1 − α) Σ + α · tr Σ / D · I for Σ, α = `shrinkage`. That is CORAL
    (Sun, Feng & Saenko, AAAI 2016, arXiv 1511.05547, algorithm 1) with the domains' parts exchanged, as here it is
    the source that the encoder knows.
    """

    options_type = StatisticsImagesOptions

    def extend(self, model: DualEncoder) -> DualEncoder:
        """With a map on each side that is to be moved, at first the identity on unit vectors."""
        sides = cast(StatisticsImagesOptions, self.options).sides
        image, text = (Affine(model.width) if side in sides else nn.Identity() for side in ("image", "text"))
        return WithHeads(model, image, text)

    def prepare(self, model: DualEncoder, context: Context) -> None:
        """Set the maps. Raises RunError where a covariance is needed and has no inverse."""
        o = cast(StatisticsImagesOptions, self.options)
        for side in o.sides:
            source, target = Moments.of(context.source, side), Moments.of(context.target, side)
            matrix = torch.eye(len(source.mean), dtype=torch.float64)
            if o.whitening:
                matrix = source.shrunk(o.shrinkage).power(0.5) @ target.shrunk(o.shrinkage).power(-0.5)
            head = cast(Affine, getattr(model, f"{side}_head"))
            head.matrix.copy_(matrix)
            head.shift.copy_(source.mean - matrix @ target.mean)


class Affine(nn.Module):
    """A x + b of the unit vector x along a feature. Not trained, but part of the model's state."""

    matrix: Tensor
    shift: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("matrix", torch.eye(width))
        self.register_buffer("shift", torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, D) to (B, D), not normalised."""
        return F.linear(F.normalize(x.float(), dim=1), self.matrix.float(), self.shift.float())


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean (D,) and covariance (D, D) of the unit features of one side of a pool, float64 on the CPU."""

    name: str
    mean: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, pool: Pool, side: Side) -> Moments:
        """By the frozen starting encoder. Raises RunError for a single feature."""
        found = pool.reference_image_features if side == "image" else pool.reference_text_features
        x = found.double().cpu()
        if len(x) < 2:
            raise RunError(f"align_statistics needs two {side}s of a domain at least; this one has {len(x)}")
        return cls(f"{len(x)} {side} features of width {x.shape[1]}", x.mean(dim=0), x.T.cov())

    def shrunk(self, share: float) -> Moments:
        """With the covariance drawn to the multiple of the identity that has the same trace."""
        even = self.covariance.trace() / len(self.mean) * torch.eye(len(self.mean), dtype=torch.float64)
        return Moments(self.name, self.mean, (1 - share) * self.covariance + share * even)

    def power(self, exponent: float) -> Tensor:
        """(D, D) symmetric power of the covariance. Raises RunError for the inverse of what has none."""
        values, vectors = torch.linalg.eigh(self.covariance)
        least = values.max() * len(values) * torch.finfo(values.dtype).eps
        if exponent < 0 and values.min() <= least:
            raise RunError(f"the covariance of {self.name} has no inverse; raise shrinkage of align_statistics")
        power: Tensor = (vectors * values.clamp(min=0) ** exponent) @ vectors.T
        return power


class AdaBn(Adaptation):
    """The running statistics of batch normalisation in the image tower, estimated anew on the target's images.

    Li et al., "Revisiting Batch Normalization for Practical Domain Adaptation", 2016 (arXiv 1603.04779), section
    3. In one pass: mean and (unbiased) variance are brought up to date with each batch, and a layer normalises by
    what they are so far. Of the first layer they are those over all images at once, whatever the batches; of
    deeper ones they depend on `target_batch_size`, as what these see was normalised by estimates on their way.
    """

    def prepare(self, model: DualEncoder, context: Context) -> None:
        """Estimate. Raises RunError where the image tower has no batch normalisation or is not run."""
        tower = model.image_tower
        layers = [m for m in tower.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
        if not layers:
            raise RunError(
                f"adabn: the image tower, a {type(tower).__name__}, has no batch normalisation with running "
                "statistics; take an encoder that has, such as a ResNet"
            )
        model.train(False)
        pooled = [PooledStatistics(layer) for layer in layers]
        hooks = [
            layer.register_forward_pre_hook(statistics) for layer, statistics in zip(layers, pooled, strict=True)
        ]
        with torch.no_grad():
            for batch in context.target.batches():
                features(batch, "image")
        for hook in hooks:
            hook.remove()
        if not any(statistics.count for statistics in pooled):
            raise RunError(
                "adabn: the image tower is frozen and its features are stored, so it cannot be adapted; leave "
                "image out of frozen_towers"
            )


class PooledStatistics:
    """A hook: counts what reaches a layer of batch normalisation in, and gives it the statistics of all so far.

    Batches are put together by the pairwise update of Chan, Golub & LeVeque 1983, in float64.
    """

    def __init__(self, layer: _BatchNorm) -> None:
        self.count, self._momentum = 0, layer.momentum
        self._mean = torch.zeros(layer.num_features, dtype=torch.float64)
        self._squares = torch.zeros(layer.num_features, dtype=torch.float64)

    def __call__(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """inputs: (B, C, …), alone in a tuple."""
        if layer.momentum != self._momentum:  # these leave the statistics as they are: they are of segments
            return
        x = inputs[0].float().transpose(0, 1).flatten(1)
        variance, mean = (part.double().cpu() for part in torch.var_mean(x, dim=1, correction=0))
        added, total = x.shape[1], self.count + x.shape[1]
        step = mean - self._mean
        self._squares += variance * added + step.square() * (self.count * added / total)
        self._mean += step * (added / total)
        self.count = total
        norm = cast(_BatchNorm, layer)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.copy_(self._mean)
        norm.running_var.copy_(self._squares / max(1, total - 1))
