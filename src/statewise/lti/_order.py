"""Choice of the order: gap of the singular values, or information criteria of innovations."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from statewise.lti._hankel import Records
from statewise.lti._output_fit import fit_outputs
from statewise.lti._projections import RANK, Decomposition, kalman_gain, state_model

CRITERIA = ("bic", "aic", "mdl", "gap")
# Innovations this small against their output are rounding, whose decrease means nothing.
FLOOR = 1e-18


def order_scores(
    found: Decomposition, records: Records, largest: int
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Scores of the orders 1 … ``largest``, (largest,), and the order that each criterion picks.

    With N samples of p outputs, R_n the covariance of one-step errors of the model of order n
    and d_n = n (2 p + m) + p m its free parameters (without p m if D is 0):
    AIC = N log det R_n + 2 d_n, BIC = N log det R_n + d_n log N, MDL = BIC/2. "gap" is
    log σ_n/σ_{n+1}, of which the largest wins; the others are to be small.
    """
    sigma = found.singular_values[0]
    rank = int((sigma > RANK * sigma[0]).sum())
    largest = max(1, min(largest, rank))
    floored = sigma.clamp_min(RANK * float(sigma[0]))
    padded = torch.cat((floored, floored.new_full((1,), float(floored[-1]))))
    gap = (padded[:-1] / padded[1:]).log()[:largest]
    count, m, p = sum(records.lengths), records.n_inputs, records.n_outputs
    orders = torch.arange(1, largest + 1, dtype=sigma.dtype)
    free = orders * (2 * p + m) + p * m * found.layout.direct
    fits = torch.tensor([_log_det(found, records, n) for n in range(1, largest + 1)])
    fits = fits.to(sigma.dtype)
    bic = count * fits + free * math.log(count)
    scores = {"bic": bic, "aic": count * fits + 2 * free, "mdl": bic / 2, "gap": gap}
    best = {
        name: int(score.argmax() if name == "gap" else score.argmin()) + 1
        for name, score in scores.items()
    }
    return scores, best


def _log_det(found: Decomposition, records: Records, order: int) -> float:
    """Log det of the innovation covariance of one order; ∞ where the model fails."""
    model = state_model(found, order)
    K = kalman_gain(model.A, model.C, model.covariance)
    if not torch.linalg.eigvals(model.A - K @ model.C).abs().max() < 1 + 1e-6:
        return math.inf
    rests = torch.cat(fit_outputs(records, model.A, model.C, K, found.layout.direct).rests, 1)[0]
    covariance = rests.mT @ rests / len(rests)
    if not covariance.isfinite().all():
        return math.inf
    return float(torch.linalg.eigvalsh(covariance).clamp_min(FLOOR).log().sum())
