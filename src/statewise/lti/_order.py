"""Choice of the order: gap of the singular values, or information criteria of innovations."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from statewise.lti._hankel import Records
from statewise.lti._output_fit import fit_outputs
from statewise.lti._projections import (
    RANK,
    Decomposition,
    StateModel,
    kalman_gain,
    state_model,
)

CRITERIA = ("bic", "aic", "mdl", "gap")
# Innovations this small against their output are rounding, whose decrease means nothing.
FLOOR = 1e-18


def checked_order(order: Any, name: str = "order") -> int:
    """A number of states as an int.

    Raises:
        ValueError: no whole number of at least 1.
    """
    if isinstance(order, bool) or not isinstance(order, (int, np.integer)) or order < 1:
        raise ValueError(f"{name} is {order!r}; a whole number of at least 1 is needed")
    return int(order)


def order_scores(
    found: Decomposition, records: Records, largest: int
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Scores of the orders 1 … ``largest``, (largest,), and the order that each criterion picks.

    With N samples of p outputs, R_n the covariance of one-step errors of the model of order n
    and d_n = n (2 p + m) + p m its free parameters (without p m if D is 0):
    AIC = N log det R_n + 2 d_n, BIC = N log det R_n + d_n log N, MDL = BIC/2. Where noise is on the
    outputs only, the model without gain is enough, whose errors are those of the simulation and
    whose d_n is n p less: the lower of both counts, but for methods for feedback. "gap" is
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
    fits = [_log_dets(found, records, n) for n in range(1, largest + 1)]
    costs = count * torch.tensor(fits, dtype=sigma.dtype)
    # Columns: with a gain, and without.
    free = torch.stack((free, free - orders * p), 1)
    bic = (costs + free * math.log(count)).amin(1)
    aic = (costs + 2 * free).amin(1)
    scores = {"bic": bic, "aic": aic, "mdl": bic / 2, "gap": gap}
    best = {
        name: int(score.argmax() if name == "gap" else score.argmin()) + 1
        for name, score in scores.items()
    }
    return scores, best


def _log_dets(found: Decomposition, records: Records, order: int) -> tuple[float, float]:
    """Log det of the covariance of one-step errors and of simulations; ∞ where a model fails."""
    model = state_model(found, order)
    K = kalman_gain(model.A, model.C, model.covariance)
    values = []
    for gain, unused in ((K, False), (None, found.weighting.feedback)):
        inner = model.A if gain is None else model.A - gain @ model.C
        stable = bool(torch.linalg.eigvals(inner).abs().max() < 1 + 1e-6)
        values.append(math.inf)
        if stable and not unused:
            values[-1] = _log_det(records, model, gain, found.layout.direct)
    return values[0], values[1]


def _log_det(records: Records, model: StateModel, K: Tensor | None, direct: bool) -> float:
    rests = torch.cat(fit_outputs(records, model.A, model.C, K, direct).rests, 1)[0]
    covariance = rests.mT @ rests / len(rests)
    if not covariance.isfinite().all():
        return math.inf
    return float(torch.linalg.eigvalsh(covariance).clamp_min(FLOOR).log().sum())
