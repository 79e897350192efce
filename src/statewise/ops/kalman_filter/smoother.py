"""The Rauch–Tung–Striebel smoother as a function of tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from statewise.ops.arguments import check_shape, floating, optional_tensors, require_tensors
from statewise.ops.kalman_filter._library import SMOOTHER, complete, smooth, smooth_shared_now
from statewise.ops.library import is_followed, refuse_tangents


def rts_smoother(
    mean: Tensor,
    cov: Tensor,
    F: Tensor,
    Q: Tensor,
    *,
    c: Tensor | None = None,
    lengths: Tensor | None = None,
    cross: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Moments of every state given all observations, from those that the Kalman filter found.

    Covariances are sums of positive semi-definite terms; a singular prediction is allowed. Without
    gradients.

    Args:
        mean: filtered means (B, T, n).
        cov: filtered covariances (B, T, n, n).
        F: transition into each step, (b, t, n, n) with b 1 or B and t 1 or T.
        Q: (b, t, n, n).
        c: offset of the state, (b, t, n), or None.
        lengths: (B,) int64, as given to the filter.
        cross: whether to give Cov(x_t, x_{t−1}) too.

    Returns:
        Smoothed means and covariances, and Cov(x_t, x_{t−1} | y), zero at t = 0, or None. Where
        ``cov`` is one tensor expanded over the batch, so may they be.

    Raises:
        ValueError: a shape that does not fit, or a tensor whose gradient is asked for.
        TypeError: tensors that are not real floating-point.

    Source: Rauch, Tung and Striebel (1965).
    """
    named = {"mean": mean, "cov": cov, "F": F, "Q": Q}
    require_tensors(SMOOTHER, **named)
    optional_tensors(SMOOTHER, c=c, lengths=lengths)
    for label, x in named.items():
        floating(SMOOTHER, label, x, (torch.float32, torch.float64))
    if mean.dim() != 3:
        raise ValueError(f"{SMOOTHER}: mean has shape {tuple(mean.shape)}; it must be (B, T, n)")
    n = mean.shape[-1]
    because = f"mean of shape {tuple(mean.shape)}"
    check_shape(SMOOTHER, "cov", cov, (*mean.shape, n), because)
    for label, x in (("F", F), ("Q", Q)):
        check_shape(SMOOTHER, label, x, (*x.shape[:2], n, n), because)
    given = (mean, cov, F, Q, c)
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in given):
        raise ValueError(
            f"{SMOOTHER}: a tensor wants a gradient, and this operator has none; detach the "
            "tensors, or smooth in parallel"
        )
    refuse_tangents(SMOOTHER, given)
    one = cov.stride(0) == 0 < len(cov) - 1 and len(F) == len(Q) == 1
    mean, cov, F, Q = (x.to(mean.dtype) for x in (mean, cov, F, Q))
    c = None if c is None else c.to(mean.dtype)
    if one and not is_followed((mean, cov, F, Q, c)):
        whole = complete(lengths, mean.shape[1])
        shared = smooth_shared_now(mean, cov[:1], F, Q, c, cross) if whole else None
        if shared is not None:
            ms, Ps, both = shared
            many = (len(ms), -1, -1, -1)
            return ms, Ps.expand(many), both.expand(many) if cross else None
    found = smooth(mean, cov, F, Q, c, lengths, cross)
    return found[0], found[1], found[2] if cross else None
