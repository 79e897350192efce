"""Maximum likelihood by gradient, with standard errors from the observed information."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from statewise.inference.engine import log_likelihood
from statewise.inference.linear_gaussian import LinearGaussian
from statewise.inference.methods import Method
from statewise.inference.moments import inverse_of
from statewise.inference.nonlinear_gaussian import Model

COVARIANCES = ("Q", "R", "P0")
NAMES = ("F", "H", "B", "D", "c", "d", "m0", *COVARIANCES)

Build = Callable[[Tensor], Model]


class Unconstrained:
    """Some parameters of a model as one vector without constraints.

    Covariances are L Lᵀ with L lower triangular and the logarithms of its diagonal in the vector;
    all others are taken as they are.

    Args:
        model: where to start, and what the other parameters stay.
        free: names of the parameters in the vector, among F, H, B, D, c, d, m0, Q, R and P0.

    Attributes:
        start: the vector of ``model``, float64.

    Raises:
        ValueError: a name that is not known, a parameter that the model does not have, or a
            covariance that is singular, for which a function of its own must be written.
    """

    def __init__(self, model: LinearGaussian, free: tuple[str, ...] = ("Q", "R")) -> None:
        self.model = model
        self.free = tuple(free)
        parts = []
        for name in self.free:
            if name not in NAMES:
                raise ValueError(f"free names {name!r}; it must be among {', '.join(NAMES)}")
            x = getattr(model, name)
            if x is None:
                raise ValueError(f"free names {name}, which the model does not have")
            x = x.detach().double()
            if name not in COVARIANCES:
                parts.append(x.reshape(-1))
                continue
            L, failed = torch.linalg.cholesky_ex(x)
            if bool(failed.any()):
                raise ValueError(
                    f"{name} is singular, so it has no logarithmic Cholesky factor; write a "
                    "function from a vector to a model and give that to maximise_likelihood"
                )
            logs = L.diagonal(dim1=-2, dim2=-1).log()
            n = x.shape[-1]
            rows, columns = torch.tril_indices(n, n, -1)
            parts += [logs.reshape(-1), L[..., rows, columns].reshape(-1)]
        self.start = torch.cat(parts)

    def __call__(self, theta: Tensor) -> LinearGaussian:
        """The model of a vector, differentiable."""
        changes, at = {}, 0
        for name in self.free:
            x = getattr(self.model, name)
            if name not in COVARIANCES:
                changes[name] = theta[at : at + x.numel()].reshape(x.shape)
                at += x.numel()
                continue
            n, many = x.shape[-1], x.shape[:-2].numel()
            below = n * (n - 1) // 2
            logs = theta[at : at + many * n].reshape(*x.shape[:-2], n)
            rest = theta[at + many * n : at + many * (n + below)].reshape(*x.shape[:-2], below)
            at += many * (n + below)
            rows, columns = torch.tril_indices(n, n, -1)
            lower = theta.new_zeros(*x.shape[:-2], n, n)
            lower[..., rows, columns] = rest
            L = lower + torch.diag_embed(logs.exp())
            changes[name] = L @ L.mT
        return self.model.replace(**changes)


@dataclasses.dataclass(frozen=True)
class LikelihoodFit:
    """A maximum of the likelihood.

    Attributes:
        model: the model there.
        theta: its vector.
        log_likelihood: log p(y) there, over all series.
        gradient: its gradient there; small when ``converged``.
        converged: whether the search ended by its own tolerance.
        evaluations: how often the filter ran.
        information: observed information, minus the matrix of second derivatives.
        build: the function from vectors to models.
    """

    model: Model
    theta: Tensor
    log_likelihood: float
    gradient: Tensor
    converged: bool
    evaluations: int
    information: Tensor
    build: Build

    @property
    def covariance(self) -> Tensor:
        """Asymptotic covariance of ``theta``.

        Raises:
            ValueError: information that is not positive definite: not a maximum inside, or a
                direction that the data do not tell.
        """
        L, failed = torch.linalg.cholesky_ex(self.information)
        if bool(failed):
            lowest = torch.linalg.eigvalsh(self.information)[0].item()
            raise ValueError(
                f"the observed information has the eigenvalue {lowest:.6g}; standard errors need "
                "all of them positive"
            )
        return inverse_of(L)

    def standard_errors(self, of: Callable[[Any], Tensor] | None = None) -> Tensor:
        """Standard errors of ``theta``, or of a function of the model by the delta method.

        Args:
            of: a differentiable function of the model that gives a tensor; None for ``theta``.
        """
        covariance = self.covariance
        if of is None:
            return covariance.diagonal().sqrt()
        slope = torch.autograd.functional.jacobian(lambda x: of(self.build(x)), self.theta)
        flat = slope.reshape(-1, len(self.theta))
        variances = ((flat @ covariance) * flat).sum(1)
        return variances.sqrt().reshape(slope.shape[:-1])


def maximise_likelihood(
    build: Build,
    y: Any,
    u: Any = None,
    *,
    start: Any = None,
    mask: Any = None,
    lengths: Any = None,
    method: Method | None = None,
    steps: int = 500,
    tolerance: float = 1e-9,
) -> LikelihoodFit:
    """Fit the parameters of a model by L-BFGS on the exact gradient of the log-likelihood.

    Args:
        build: a function from a vector to a model, such as :class:`Unconstrained`.
        y: observations (B, T, p), all series with the same parameters.
        u: inputs (B, T, m), or None.
        start: first vector; None for ``build.start``. Vectors are on its device.
        mask: (B, T) or (B, T, p) bool, True where y is observed.
        lengths: steps of each series, (B,).
        method: how to filter; None for :class:`Kalman`.
        steps: iterations at most.
        tolerance: relative change of the likelihood that ends the search.

    Returns:
        The maximum that was found, with the observed information by central differences of the
        gradient.

    Raises:
        ValueError: no start, or a model that the filter refuses.

    Example:
        >>> import torch
        >>> from statewise.inference import local_level
        >>> y = torch.randn(1, 50, 1, dtype=torch.float64).cumsum(1)
        >>> fit = maximise_likelihood(lambda v: local_level(*v.exp()), y, start=[0.0, 0.0])
        >>> fit.converged
        True
    """
    from scipy.optimize import minimize

    if start is None:
        start = getattr(build, "start", None)
    if start is None:
        raise ValueError("start is None and build has none; give the first vector")
    first = torch.as_tensor(start, dtype=torch.float64).detach().reshape(-1)
    here = {"dtype": torch.float64, "device": first.device}

    def slope(vector: np.ndarray) -> tuple[float, np.ndarray]:
        theta = torch.tensor(vector, **here, requires_grad=True)
        with torch.enable_grad():
            model = build(theta)
            found = log_likelihood(model, y, u, mask=mask, lengths=lengths, method=method)
            loss = -found.sum()
            (gradient,) = torch.autograd.grad(loss, theta)
        return loss.item(), gradient.cpu().numpy()

    options = {"maxiter": steps, "maxfun": 20 * steps, "ftol": tolerance, "gtol": 0.0, "maxls": 50}
    found = minimize(slope, first.cpu().numpy(), jac=True, method="L-BFGS-B", options=options)
    best = found.x
    hessian = np.empty((len(best), len(best)))
    for k in range(len(best)):
        step = np.zeros_like(best)
        step[k] = np.finfo(float).eps ** (1 / 3) * max(1.0, abs(best[k]))
        hessian[k] = (slope(best + step)[1] - slope(best - step)[1]) / (2 * step[k])
    theta = torch.as_tensor(best, **here)
    with torch.no_grad():
        model = build(theta)
    return LikelihoodFit(
        model,
        theta,
        -float(found.fun),
        -torch.as_tensor(found.jac, **here),
        bool(found.success),
        int(found.nfev) + 2 * len(best),
        torch.as_tensor((hessian + hessian.T) / 2, **here),
        build,
    )
