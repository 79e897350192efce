"""How many states of a model matter: the fit of reduced copies."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from statewise.compress import reduce
from statewise.data import Experiments
from statewise.report.content import ReductionCurve
from statewise.train import EncoderState

Array = npt.NDArray[np.float64]

#: Fractions of all states that are tried.
FRACTIONS = (0.6, 0.4, 0.25, 0.15, 0.1, 0.06)
#: Real states of a model up to which it is reduced; beyond, that would take longer than the page.
MOST_STATES = 400


def reduction_curve(
    identifier: Any, data: Experiments, split: str, hankel: Sequence[Array]
) -> ReductionCurve | None:
    """Reduce the blocks of an identified model by balanced truncation and score the free run.

    The orders follow from the Hankel singular values: all blocks lose the same fraction of theirs.

    Args:
        identifier: the fitted estimator; it is not changed.
        data: records for the score, not those on which the model will be judged.
        split: their name.
        hankel: Hankel singular values of every block.

    Returns:
        The curve, or None for models that are too large or cannot be reduced, or whose initial
        state an encoder of the full state gives.
    """
    if isinstance(getattr(identifier, "initial_state_", None), EncoderState):
        return None
    sizes = [len(values) for values in hankel]
    if 0 in sizes or sum(sizes) > MOST_STATES:
        return None

    def fit(model: Any) -> float:
        smaller = copy.copy(identifier)
        smaller.model_ = model
        scores = smaller.evaluate(data, split=split)
        return float(np.mean([one.value for one in scores if one.metric == "fit"]))

    orders, fits = [sizes], [fit(identifier.model_)]
    for fraction in FRACTIONS:
        candidate = orders_for(hankel, fraction)
        if candidate in orders:
            continue
        try:
            reduced = reduce(identifier.model_, to=candidate, certify=False)
        except ValueError:  # no diagonal form at this order
            continue
        orders.append([block.order_after for block in reduced.blocks])
        fits.append(fit(reduced.model))
    if len(orders) < 3:
        return None
    return ReductionCurve(np.array(orders), np.array(fits), split)


def orders_for(hankel: Sequence[Array], fraction: float) -> list[int]:
    """Orders of at most a fraction of all states, where each block loses the same share.

    Args:
        hankel: Hankel singular values of every block, descending.
        fraction: of all states.
    """
    tails = [_tails(values) for values in hankel]
    most = fraction * sum(len(values) for values in hankel)
    for share in sorted({float(value) for tail in tails for value in tail}):
        orders = [max(1, int(np.argmax(tail <= share))) for tail in tails]
        if sum(orders) <= most:
            return orders
    return [1] * len(hankel)


def _tails(values: Array) -> Array:
    """The share of the sum that is left out at the orders 0 to n."""
    total = float(values.sum())
    tails = np.append(values[::-1].cumsum()[::-1], 0.0)
    return tails / total if total > 0 else tails
