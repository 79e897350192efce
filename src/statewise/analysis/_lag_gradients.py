"""Gradients of outputs with respect to inputs some samples before, along data."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from statewise.analysis._flow import Flow

AT_ONCE = 2**20
"""Input numbers of the windows that are run side by side."""


def windows(
    flow: Flow, u: Tensor, start: Tensor, lags: int, times: np.ndarray
) -> tuple[Tensor, Tensor]:
    """Inputs up to some times of a run, and the states before them.

    Args:
        flow: the model.
        u: inputs (L, m).
        start: state before the first sample (1, n).
        lags: largest lag K.
        times: samples t of at least K, ascending, (T,).

    Returns:
        States before the samples t − K, (T, n), and the inputs from there to t, (T, K + 1, m).
    """
    states, found = [], []
    x, before = start, 0
    with torch.no_grad():
        for time in times:
            first = int(time) - lags
            if first > before:
                _, state = flow.model(u[None, before:first], flow.unflatten(x))
                x, before = flow.flatten(state), first
            states.append(x)
            found.append(u[first : first + lags + 1])
    return torch.cat(states), torch.stack(found)


def lag_gradients(flow: Flow, x: Tensor, window: Tensor) -> Tensor:
    """∂y_t/∂u_{t−k} at the ends t of windows (T, K + 1, m): (T, K + 1, p, m), lag 0 first."""
    chunk = max(1, AT_ONCE // (window.shape[1] * window.shape[2]))
    found = [_of(flow, xs, us) for xs, us in zip(x.split(chunk), window.split(chunk), strict=True)]
    return torch.cat(found).flip(1)


def _of(flow: Flow, x: Tensor, window: Tensor) -> Tensor:
    """∂y/∂u of the last sample of windows (T, K + 1, m): (T, K + 1, p, m)."""
    with torch.enable_grad():
        at = window.detach().clone().requires_grad_()
        y, _ = flow.model(at, flow.unflatten(x))
        rows = []
        for index in range(flow.p):
            value = y[:, -1, index].sum()
            if not value.requires_grad:
                rows.append(torch.zeros_like(window))
                continue
            grad = torch.autograd.grad(value, at, retain_graph=True, materialize_grads=True)
            rows.append(grad[0])
    return torch.stack(rows, 2)


def drawn_times(length: int, lags: int, count: int, seed: int | np.random.Generator) -> np.ndarray:
    """At most ``count`` samples from ``lags`` on, drawn without repeats, ascending.

    Raises:
        ValueError: too few samples for the lags, or no sample asked for.
    """
    if lags < 0 or count < 1 or length <= lags:
        raise ValueError(
            f"lags must be at least 0 and below the {length} samples, and at least one time is "
            f"needed; given lags = {lags}, times = {count}"
        )
    rng = np.random.default_rng(seed)
    return np.sort(rng.permutation(np.arange(lags, length))[:count])
