"""Models made of parts: level, trend, season, autoregression, factors, and their sum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from statewise.inference.linear_gaussian import LinearGaussian, together


def _tensor(x: Any) -> Tensor:
    return x if isinstance(x, Tensor) else torch.as_tensor(x, dtype=torch.float64)


def _diagonal(*variances: Any) -> Tensor:
    given = together({f"variance {i + 1}": _tensor(v) for i, v in enumerate(variances)})
    return torch.diag(torch.stack([x.reshape(()) for x in given.values()]))


def _output(n: int) -> Tensor:
    """The output that is the first of n states."""
    H = torch.zeros(1, n, dtype=torch.float64)
    H[0, 0] = 1.0
    return H


def local_level(level: Any, noise: Any = 0.0) -> LinearGaussian:
    """A random walk seen through noise: μ_t = μ_{t−1} + w_t, y_t = μ_t + v_t, with a diffuse start.

    Args:
        level: variance of w.
        noise: variance of v.

    Source: Durbin and Koopman, Time series analysis by state space methods (2012), chapter 2.
    """
    one = torch.ones(1, 1, dtype=torch.float64)
    return LinearGaussian(one, one, _diagonal(level), _diagonal(noise)).diffuse()


def local_linear_trend(level: Any, slope: Any, noise: Any = 0.0) -> LinearGaussian:
    """A level whose slope walks: μ_t = μ_{t−1} + ν_{t−1} + w_t, ν_t = ν_{t−1} + z_t; diffuse start.

    Args:
        level: variance of w.
        slope: variance of z.
        noise: variance of the output's noise.

    Source: Durbin and Koopman (2012), section 3.2.
    """
    F = torch.tensor([[1.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    return LinearGaussian(F, _output(2), _diagonal(level, slope), _diagonal(noise)).diffuse()


def seasonal(period: int, variance: Any = 0.0, noise: Any = 0.0) -> LinearGaussian:
    """A season that sums to noise over a period: γ_t = −Σ_{j<period} γ_{t−j} + w_t; diffuse start.

    Args:
        period: steps in a period, at least 2.
        variance: variance of w.
        noise: variance of the output's noise.

    Source: Durbin and Koopman (2012), section 3.2.
    """
    if period < 2:
        raise ValueError(f"period is {period}; it must be at least 2")
    n = period - 1
    F = torch.diag(torch.ones(n - 1, dtype=torch.float64), -1)
    F[0] = -1.0
    Q = torch.nn.functional.pad(_diagonal(variance), (0, n - 1, 0, n - 1))
    return LinearGaussian(F, _output(n), Q, _diagonal(noise)).diffuse()


def autoregressive(coefficients: Any, variance: Any, noise: Any = 0.0) -> LinearGaussian:
    """y_t = φ_1 y_{t−1} + … + φ_p y_{t−p} + w_t, in companion form, with a stationary start.

    Args:
        coefficients: φ, (p,); the process must be stationary.
        variance: variance of w.
        noise: variance of what is added to the output.

    Raises:
        ValueError: a process that is not stationary.
    """
    phi = _tensor(coefficients).reshape(-1)
    n = len(phi)
    below = torch.eye(n, dtype=phi.dtype, device=phi.device)[: n - 1]
    Q = torch.nn.functional.pad(_diagonal(variance), (0, n - 1, 0, n - 1))
    F = torch.cat([phi.unsqueeze(0), below])
    return LinearGaussian(F, _output(n), Q, _diagonal(noise)).stationary()


def factors(
    loadings: Any, transition: Any, variance: Any = None, *, noise: Any = 1.0
) -> LinearGaussian:
    """Many outputs that follow a few factors: f_t = A f_{t−1} + w_t, y_t = Λ f_t + v_t.

    Args:
        loadings: Λ, (p, k).
        transition: A, (k, k), stable; the start is stationary.
        variance: covariance of w, (k, k); None for the identity.
        noise: variances of v, one number or (p,).
    """
    loadings, A, noise = (_tensor(x) for x in (loadings, transition, noise))
    Q = torch.eye(len(A), dtype=A.dtype, device=A.device) if variance is None else variance
    R = torch.diag(noise.expand(len(loadings)))
    return LinearGaussian(A, loadings, Q, R).stationary()


def add(*parts: LinearGaussian) -> LinearGaussian:
    """The sum of the outputs of independent models, their states side by side.

    F, Q and P0 are block-diagonal, H is [H₁ H₂ …], R the sum of those of the parts; a state of
    which a part knows nothing stays so.

    Args:
        *parts: models with as many outputs, without inputs, constant in time, priors at the
            first observation.

    Raises:
        ValueError: parts that do not fit.
    """
    if not parts:
        raise ValueError("no part is given; give at least one model")
    for part in parts:
        plain = part.inputs == 0 and part.c is None and part.prior_at == 1
        single = all(x.shape[:2] == (1, 1) for x in (part.F, part.H, part.Q, part.R))
        if not plain or not single or part.outputs != parts[0].outputs or part.P0 is None:
            raise ValueError(
                f"{part!r} cannot be added to {parts[0]!r}; parts need as many outputs, a start at "
                "the first observation, constant parameters, and neither inputs nor a state offset"
            )

    def blocks(name: str) -> Tensor:
        return torch.block_diag(*(getattr(part, name).squeeze(0).squeeze(0) for part in parts))

    R = torch.stack([part.R[0, 0] for part in parts]).sum(0)
    offsets = [part.d for part in parts if part.d is not None]
    made = LinearGaussian(
        *(blocks("F"), torch.cat([part.H[0, 0] for part in parts], 1), blocks("Q"), R),
        d=torch.stack(offsets).sum(0) if offsets else None,
        m0=torch.cat([part.m0 for part in parts], 1),
        P0=blocks("P0"),
    )
    unknown = [
        part.F.new_zeros(part.states, dtype=torch.bool) if part.unknown is None else part.unknown
        for part in parts
    ]
    together = torch.cat(unknown)
    return made.diffuse(together) if bool(together.any()) else made
