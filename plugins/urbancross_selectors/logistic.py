"""The ratio of two densities from a logistic classifier that tells their samples apart."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_STEPS = 100  # of Newton's method; it takes about ten
_SMALL = 1e-10  # a gradient's greatest component at which it has arrived
_ROUNDING = 1e-12  # next to the minimum a step may seem to lead up by as much, and would be halved to nothing


def log_density_ratio(source: Floats, target: Floats, asked: Floats) -> Floats:
    """(Q,) log p_target / p_source at rows `asked` (Q, D), from samples (n, D) and (m, D).

    The log odds of a linear logistic classifier, both samples weighing half. The ridge is D / min(n, m) times the
    features' mean variance. Where both densities are equal, the variance that chance gives a log ratio is then 1/8
    at most (to first order in the weights, for any dimension and any covariance), where an unpenalised classifier
    tells any two samples of fewer than D rows apart without doubt.
    """
    centre = (source.mean(axis=0) + target.mean(axis=0)) / 2
    spread = np.sqrt((np.mean((source - centre) ** 2) + np.mean((target - centre) ** 2)) / 2) or 1.0
    rows = np.concatenate([source, target]) - centre
    labels = np.repeat([0.0, 1.0], [len(source), len(target)])
    shares = np.repeat([0.5 / len(source), 0.5 / len(target)], [len(source), len(target)])
    ridge = source.shape[1] / min(len(source), len(target))
    weights = fit_logistic(_with_one(rows / spread), labels, shares, ridge)
    return np.asarray(_with_one((asked - centre) / spread) @ weights)


def fit_logistic(rows: Floats, labels: Floats, shares: Floats, ridge: float) -> Floats:
    """(D,) the w that minimises Σ share · log loss of ⟨w, row⟩ + ridge / 2 · ‖w‖², without its last component.

    rows: (N, D), the last column 1, so that the last of w is the intercept. labels: (N,) 0 or 1. shares: (N,).
    """
    penalty = np.full(rows.shape[1], ridge)
    penalty[-1] = 0.0

    def objective(weights: Floats) -> float:
        odds = rows @ weights
        return float(shares @ (np.logaddexp(0, odds) - labels * odds) + penalty @ weights**2 / 2)

    weights = np.zeros(rows.shape[1])
    value = objective(weights)
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(rows @ weights, -500, 500)))
        gradient = rows.T @ (shares * (chance - labels)) + penalty * weights
        if np.abs(gradient).max() < _SMALL:
            break
        bend = rows.T @ (rows * (shares * chance * (1 - chance))[:, None]) + np.diag(penalty)
        step = np.linalg.solve(bend, gradient)
        reach = 1.0
        while (reached := objective(weights - reach * step)) > value + _ROUNDING and reach > _SMALL:
            reach /= 2  # a full step may overshoot far from the minimum
        weights, value = weights - reach * step, reached
    return weights


def _with_one(rows: Floats) -> Floats:
    return np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
