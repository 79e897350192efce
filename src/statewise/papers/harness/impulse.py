"""Impulse responses that diagonal systems are to have, and what they cost in weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array = npt.NDArray[Any]


def targets(length: int, seed: int = 0) -> dict[str, Array]:
    """Impulse responses of norm 1: a delay by half of it, cos(πk/2) and a random one."""
    delay = np.zeros(length)
    delay[length // 2] = 1.0
    cosine = np.tile([1.0, 0.0, -1.0, 0.0], length // 4 + 1)[:length]
    drawn = np.random.default_rng(seed).uniform(-1, 1, length)
    found = {"delay": delay, "oscillation": cosine, "random": drawn}
    return {name: response / np.linalg.norm(response) for name, response in found.items()}


def least_weights(response: Array) -> float:
    """A lower bound on ‖c‖₁ for real poles in [−1, 1] that make an impulse response exactly.

    On even or odd samples J a pole λ gives c μ^m with μ = λ² in [0, 1], and its d-th difference is
    at most |c| m^m d^d/(m + d)^(m + d). The bound is the largest |Δ^d J_m| over that factor.

    Args:
        response: I_0 … I_{t−1}.
    """
    largest = 0.0
    for part in (response[0::2], response[1::2]):
        difference = part.copy()
        for d in range(len(part)):
            for m, value in enumerate(np.abs(difference)):
                # 0⁰ = 1 in both factors.
                log = (m + d) * math.log(max(m + d, 1)) - _xlogx(m) - _xlogx(d)
                largest = max(largest, float(value) * math.exp(log))
            difference = np.diff(difference)
    return largest


def _xlogx(x: int) -> float:
    return x * math.log(x) if x else 0.0


def real_basis(length: int, count: int) -> Array:
    """λ_i^k for Chebyshev nodes λ_i in (−1, 1), (length, count)."""
    nodes = np.cos((np.arange(count) + 0.5) * np.pi / count)
    return nodes ** np.arange(length)[:, None]


def bounded_error(basis: Array, response: Array, bound: float) -> tuple[float, float]:
    """The best error ‖V c − I‖ over |c_i| ≤ bound, from below and from above.

    From below by duality: r·I − bound ‖Vᵀ r‖₁ for any ‖r‖ = 1 is no more than the error.

    Args:
        basis: V, (t, n).
        response: I, (t,).
        bound: largest weight.

    Returns:
        A certified lower bound, and the error that was reached.
    """
    from scipy.optimize import minimize

    scaled = basis * bound

    def loss(c: Array) -> tuple[float, Array]:
        left = scaled @ c - response
        return 0.5 * float(left @ left), scaled.T @ left

    start = np.zeros(basis.shape[1])
    limits = [(-1.0, 1.0)] * len(start)
    options = {"maxiter": 2000, "maxfun": 4000, "ftol": 1e-14, "gtol": 1e-12, "maxcor": 50}
    solved = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=limits, options=options)
    return _dual_bound(scaled, response), float(np.linalg.norm(scaled @ solved.x - response))


def _dual_bound(scaled: Array, response: Array) -> float:
    """The largest r·I − ‖Vᵀ r‖₁ over ‖r‖ = 1 found by Newton steps on smoothed absolute values."""
    from scipy.optimize import minimize

    best, r = 0.0, response.copy()
    for width in 10.0 ** np.arange(0, -9, -0.5):

        def loss(r: Array, width: float = width) -> tuple[float, Array]:
            x = scaled.T @ r
            size = np.hypot(x, width)
            return float(size.sum() + 0.5 * r @ r - r @ response), scaled @ (
                x / size
            ) + r - response

        def curvature(r: Array, width: float = width) -> Array:
            size = np.hypot(scaled.T @ r, width)
            return (scaled * (width**2 / size**3)) @ scaled.T + np.eye(len(r))

        options = {"gtol": 1e-10, "maxiter": 200}
        found = minimize(loss, r, jac=True, hess=curvature, method="trust-exact", options=options)
        r = found.x
        unit = r / max(float(np.linalg.norm(r)), 1e-300)
        best = max(best, float(unit @ response - np.abs(scaled.T @ unit).sum()))
    return best


def fourier_system(response: Array) -> tuple[Array, float]:
    """Impulse response and largest weight of λ_j = e^{2πij/t}, c = DFT(I)/t."""
    length = len(response)
    weights = np.fft.fft(response) / length
    turns = np.exp(2j * np.pi * np.outer(np.arange(length), np.arange(length)) / length)
    return turns @ weights, float(np.abs(weights).max())


def fit_responses(
    responses: Tensor,
    states: int,
    *,
    real: bool,
    r_min: float,
    lr: float,
    steps: int = 5000,
    seed: int = 0,
) -> Tensor:
    """Adam on poles and weights of a diagonal system, one for each response.

    λ = exp(−e^r) e^{iθ}, radii uniform in area from ``r_min`` to 0.9999; real systems keep the
    signs of their poles. The loss is ‖I − target‖², the rate falls as a cosine.

    Args:
        responses: targets of norm 1, (M, t), float64.
        states: n.
        real: real poles and weights, or complex ones with twice the real part.
        r_min: smallest initial radius.
        lr: first learning rate.
        steps: number of steps.
        seed: seed of the start.

    Returns:
        The smallest loss of each, (M,).
    """
    rng = np.random.default_rng(seed)
    count, length = responses.shape
    radius = np.sqrt(rng.uniform(r_min**2, 0.9999**2, (count, states)))
    phase = rng.uniform(0, 2 * np.pi, (count, states))
    spread = 0.01 * rng.standard_normal((4, count, states))
    log_decay = _leaf(np.log(-np.log(np.maximum(radius, 1e-12))))
    parameters = [log_decay, *(_leaf(part) for part in (spread[:2] if real else spread))]
    sign = torch.from_numpy(np.where(phase > np.pi, -1.0, 1.0)).unsqueeze(-1)
    angle = _leaf(phase)
    if not real:
        parameters.append(angle)
    time = torch.arange(length, dtype=torch.float64)
    signs = torch.where(time % 2 == 1, sign, torch.ones_like(sign))
    optimiser = torch.optim.Adam(parameters, lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    best = torch.full((count,), math.inf, dtype=torch.float64)
    for _ in range(steps):
        size = torch.exp(-torch.exp(log_decay).unsqueeze(-1) * time)
        if real:
            weight = (parameters[1] * parameters[2]).unsqueeze(-1)
            made = (weight * size * signs).sum(-2)
        else:
            b, c = torch.complex(*parameters[1:3]), torch.complex(*parameters[3:5])
            weight, turn = (b * c).unsqueeze(-1), angle.unsqueeze(-1) * time
            made = (2 * size * (weight.real * turn.cos() - weight.imag * turn.sin())).sum(-2)
        loss = (made - responses).square().sum(-1)
        best = torch.minimum(best, loss.detach())
        optimiser.zero_grad()
        loss.sum().backward()
        optimiser.step()
        schedule.step()
    return best


def _leaf(start: Array) -> Tensor:
    return torch.tensor(start, dtype=torch.float64, requires_grad=True)
