"""An observer of the simulation error: the free run, and an error with a memory and white noise."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from statewise._config import register
from statewise.estimators.noise import ErrorModel
from statewise.estimators.signals import Candidate, Fold, Signals, Track

if TYPE_CHECKING:
    from torch import Tensor

    from statewise.inference import LinearGaussian

Array = npt.NDArray[np.float64]

LARGEST = 6
"""Errors that count, at most, where the order is chosen."""
PAST = 0.999
"""Largest modulus of a partial autocorrelation."""
DOUBLINGS = 18
"""Of the sum of F^k Q F^kᵀ: beyond 2¹⁸ samples nothing is left of a state."""
SAMPLES = 20_000
"""Samples that noise levels are fitted on, at most: the last of each record."""


@register
@dataclasses.dataclass(frozen=True)
class ErrorObserver:
    """How to observe the error of the free run: an autoregression with white noise on top.

    z_t = z_free(t) + e_t + v_t, e_t = Σ φ_i e_{t−i} + w_t, each output on its own. It costs
    nothing beside the free run, whatever the network.

    Attributes:
        order: number of earlier errors that count; None chooses 1 to 6 by the Bayesian
            information criterion of least squares.
    """

    order: int | None = None

    def __post_init__(self) -> None:
        if self.order is not None and self.order < 1:
            raise ValueError(f"order is at least 1, or None to choose it; given {self.order}")

    def fit(self, records: Sequence[Signals], model: Any = None) -> ErrorNoise:
        """Fit coefficients and both deviations by exact maximum likelihood.

        Args:
            records: measured records; outputs that are NaN do not count.
            model: not needed.

        Returns:
            The noise of every output.
        """
        errors = [(r.z - r.free)[r.settled :][-SAMPLES:] for r in records]
        order = self.order
        if order is None:
            order = min(max(ErrorModel.fit(errors).order, 1), LARGEST)
        fitted = [_fit_one([e[:, k] for e in errors], order) for k in range(errors[0].shape[1])]
        phi, process, measurement = zip(*fitted, strict=True)
        return ErrorNoise(phi, process, measurement)

    def candidates(
        self,
        judged: Sequence[Signals],
        folds: Sequence[Fold],
        train: Sequence[Signals],
        model: Any = None,
    ) -> list[Candidate]:
        """See :class:`Observer`: fitted to the errors on the data, and to those in training."""
        by = [
            self.fit(
                [
                    r._replace(z=np.where(fold == half, r.z, np.nan))
                    for r, fold in zip(judged, folds, strict=True)
                ]
            )
            for half in (0, 1)
        ]
        found = [
            Candidate("ErrorObserver, held-out errors", (by[1], by[0]), self.fit(judged)),
        ]
        if train:
            levels = self.fit(train)
            found.append(Candidate("ErrorObserver, training errors", (levels, levels), levels))
        return found


@register
@dataclasses.dataclass(frozen=True)
class ErrorNoise:
    """Noise of the error of a simulation, fitted: z_t = z_free(t) + e_t + v_t, e an AR process.

    Attributes:
        coefficients: φ of every output, n_y rows of p numbers.
        process: standard deviation of w that drives e, of every output, on the model's scale.
        measurement: standard deviation of the white v, likewise.
    """

    coefficients: tuple[tuple[float, ...], ...]
    process: tuple[float, ...]
    measurement: tuple[float, ...]

    @property
    def n_y(self) -> int:
        """Number of outputs."""
        return len(self.process)

    def model(self) -> LinearGaussian:
        """The error as a linear model from its stationary state on, one series per output."""
        import torch

        from statewise.inference import LinearGaussian

        phi = torch.tensor(self.coefficients, dtype=torch.float64)
        q, r = (
            torch.tensor(x, dtype=torch.float64).square() for x in (self.process, self.measurement)
        )
        count, order = phi.shape
        return LinearGaussian(
            _companion(phi).unsqueeze(1),
            torch.eye(1, order, dtype=torch.float64),
            _first(q, order).unsqueeze(1),
            r.reshape(count, 1, 1, 1),
            P0=_stationary(phi, q),
        )

    def filter(self, signals: Signals, model: Any = None) -> Track:
        """Every output given the earlier ones, ẑ(t | t − 1); the state is given the present too."""
        from statewise import inference

        found = inference.filter(self.model(), _series(signals))
        return _track(
            signals,
            found.predicted_mean[..., 0],
            found.innovation_cov[..., 0, 0],
            found.mean,
            found.cov,
        )

    def smooth(self, signals: Signals, model: Any = None) -> Track:
        """Every output as it would be measured, given all measurements."""
        from statewise import inference

        noisy = self.model()
        found = inference.smooth(inference.filter(noisy, _series(signals)))
        variance = found.cov[..., 0, 0] + noisy.R[..., 0, 0]
        return _track(signals, found.mean[..., 0], variance, found.mean, found.cov)

    def ahead(
        self, signals: Signals, horizons: Sequence[int], model: Any = None
    ) -> list[tuple[Array, Array]]:
        """Mean and variance (L, n_y) of ẑ(t | t − h) for each h, NaN for t < h."""
        import torch

        from statewise import inference

        noisy = self.model()
        found = inference.filter(noisy, _series(signals))
        F, Q, R = noisy.F, noisy.Q, noisy.R[..., 0, 0]
        m, P = found.mean.unsqueeze(-1), found.cov
        blank = np.full(signals.z.shape, np.nan)
        out: dict[int, tuple[Array, Array]] = {}
        for h in range(1, max(horizons) + 1):
            m, P = F @ m, F @ P @ F.mT + Q
            if h in horizons:
                mean, variance = blank.copy(), blank.copy()
                if h < len(blank):
                    shift = torch.stack([m[:, :-h, 0, 0], P[:, :-h, 0, 0] + R]).mT.numpy()
                    mean[h:], variance[h:] = signals.free[h:] + shift[0], shift[1]
                out[h] = mean, variance
        return [out[h] for h in horizons]

    def stream(self, model: Any) -> ErrorStream:
        """The same online."""
        return ErrorStream(self, model)


class ErrorStream:
    """The filter of an :class:`ErrorNoise` one sample at a time.

    Args:
        noise: the noise.
        model: the network, in the layer contract.
    """

    def __init__(self, noise: ErrorNoise, model: Any) -> None:
        linear = noise.model()
        self.F, self.Q = linear.F[:, 0].numpy(), linear.Q[:, 0].numpy()
        self.R = linear.R[:, 0, 0, 0].numpy()
        assert linear.P0 is not None
        self.m, self.P = np.zeros(self.F.shape[:2]), linear.P0.numpy()
        self.run = FreeRun(model)
        self.begun = False

    def advance(self, u: Array) -> tuple[Array, Array, Array]:
        """See :class:`Stream`."""
        if self.begun:
            self.m = (self.F @ self.m[..., None])[..., 0]
            self.P = self.F @ self.P @ self.F.swapaxes(1, 2) + self.Q
        self.begun = True
        self.free = self.run.step(u)
        return self.free + self.m[:, 0], self.P[:, 0, 0] + self.R, self.free

    def absorb(self, z: Array) -> None:
        """See :class:`Stream`."""
        known = np.isfinite(z)
        error = np.where(known, z - self.free - self.m[:, 0], 0.0)
        gain = self.P[:, :, 0] / (self.P[:, 0, 0] + self.R)[:, None] * known[:, None]
        self.m = self.m + gain * error[:, None]
        P = self.P - gain[:, :, None] * self.P[:, None, 0]
        self.P = (P + P.swapaxes(1, 2)) / 2

    def fork(self) -> ErrorStream:
        """See :class:`Stream`."""
        other = copy.copy(self)
        other.run = copy.copy(self.run)
        return other


class FreeRun:
    """A network from rest, one sample at a time.

    Args:
        model: the network, in the layer contract.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.state = model, model.init_state(1)
        self.dtype = next(
            (x.dtype for x in [*model.parameters(), *model.buffers()] if x.is_floating_point()),
            None,
        )

    def step(self, u: Array) -> Array:
        """The output (n_y,) at an input (n_u,), NaN where missing."""
        import torch

        known = np.isfinite(u)
        sample = torch.from_numpy(np.where(known, u, 0.0)).to(self.dtype)[None]
        mask = None if known.all() else torch.from_numpy(known)[None]
        with torch.no_grad():
            y, self.state = self.model.step(sample, self.state, mask=mask)
        return y[0].double().numpy()


def _series(signals: Signals) -> Tensor:
    """Errors with outputs as series, (n_y, L, 1)."""
    import torch

    return torch.from_numpy((signals.z - signals.free).T[..., None].copy())


def _track(signals: Signals, shift: Tensor, variance: Tensor, m: Tensor, P: Tensor) -> Track:
    flat = m.transpose(0, 1).flatten(1).numpy()
    spread = P.diagonal(dim1=-2, dim2=-1).transpose(0, 1).flatten(1).numpy()
    return Track(signals.free + shift.T.numpy(), variance.T.numpy(), flat, spread)


def _companion(phi: Tensor) -> Tensor:
    """Transition of e_t … e_{t−p+1} from coefficients (…, p)."""
    import torch

    order = phi.shape[-1]
    shift = torch.eye(order, dtype=phi.dtype)[:-1].expand(*phi.shape[:-1], -1, -1)
    return torch.cat([phi.unsqueeze(-2), shift], -2)


def _first(q: Tensor, order: int) -> Tensor:
    """Covariance with q (…,) in its first entry."""
    corner = q.new_zeros(order, order)
    corner[0, 0] = 1.0
    return q[..., None, None] * corner


def _stationary(phi: Tensor, q: Tensor) -> Tensor:
    """P = F P Fᵀ + Q of an autoregression, (…, p, p), by doubling, which keeps it positive."""
    F, P = _companion(phi), _first(q, phi.shape[-1])
    for _ in range(DOUBLINGS):
        P, F = P + F @ P @ F.mT, F @ F
    return (P + P.mT) / 2


def _from_partial(partial: Tensor) -> Tensor:
    """Coefficients of a stable autoregression from its partial autocorrelations in (−1, 1)."""
    import torch

    phi = partial[:0]
    for k in range(len(partial)):
        phi = torch.cat([phi - partial[k] * phi.flip(0), partial[k : k + 1]])
    return phi


def _fit_one(errors: list[Array], order: int) -> tuple[tuple[float, ...], float, float]:
    """Coefficients and both deviations of one output by L-BFGS on the exact likelihood."""
    import torch
    from scipy.optimize import minimize

    from statewise.inference import LinearGaussian, log_likelihood

    length = max(len(e) for e in errors)
    padded = np.full((len(errors), length, 1), np.nan)
    for row, e in zip(padded, errors, strict=True):
        row[: len(e), 0] = e
    known = padded[np.isfinite(padded)]
    if len(known) < 2 * (order + 2):
        raise ValueError(
            f"{len(known)} measured outputs do not tell the noise of an observer of order {order}; "
            f"at least {2 * (order + 2)} are needed"
        )
    # A free run that is exact to rounding still gets a level that can be divided by.
    size = max(float(np.sqrt(np.mean(known**2))), 1e-9)
    y = torch.from_numpy(padded / size)
    lengths = torch.tensor([len(e) for e in errors])

    def unpack(theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        partial = PAST * torch.tanh(theta[:order])
        return _from_partial(partial), (2 * theta[order]).exp(), (2 * theta[order + 1]).exp()

    def slope(vector: Array) -> tuple[float, Array]:
        theta = torch.tensor(vector, requires_grad=True)
        with torch.enable_grad():
            phi, q, r = unpack(theta)
            model = LinearGaussian(
                _companion(phi),
                torch.eye(1, order, dtype=phi.dtype),
                _first(q, order),
                r.reshape(1, 1),
                P0=_stationary(phi, q),
            )
            found = log_likelihood(model, y, lengths=lengths).sum()
            # A weak pull to white errors settles what the data do not tell.
            loss = 0.02 * theta[:order].square().sum() - found
            (gradient,) = torch.autograd.grad(loss, theta)
        return loss.item(), gradient.numpy()

    first = np.concatenate([[1.0], np.zeros(order - 1), [-1.0, -1.5]])
    bounds = [(-4.0, 4.0), *[(-2.0, 2.0)] * (order - 1), (-16.0, 3.0), (-16.0, 3.0)]
    found = minimize(slope, first, jac=True, method="L-BFGS-B", bounds=bounds)
    phi, q, r = unpack(torch.as_tensor(found.x))
    deviations = size * q.sqrt().item(), size * r.sqrt().item()
    return tuple(phi.tolist()), *deviations
