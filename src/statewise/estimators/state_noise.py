"""An observer of the network's own state: an extended Kalman filter with a few noise levels."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from statewise._config import register
from statewise.estimators.error_noise import FreeRun
from statewise.estimators.signals import Candidate, Fold, Signals, Track
from statewise.estimators.state_steps import StateSteps

if TYPE_CHECKING:
    from torch import Tensor

Array = npt.NDArray[np.float64]

PRIOR = 100.0
"""Variance of the first state over that which one sample adds."""
FINER = 0.25
"""Distance of the last ratios that are compared, as a power of ten."""


@register
@dataclasses.dataclass(frozen=True)
class StateObserver:
    """How to observe the state of the network: every state gets noise in proportion to its size.

    x_{t+1} = f(x_t, u_t) + w_t, z_t = g(x_t, u_t) + v_t with Cov w = q² diag(Var x), the variance
    of the states along the inputs, and Cov v = r² diag(d), d the mean square of the errors of the
    free run, all on the scale of the model. q/r is found by the likelihood of the extended Kalman
    filter, r in closed form. It costs a few milliseconds a sample for a hundred states, and 16 n²
    bytes a sample of n states to smooth.

    Attributes:
        lowest: least q/r that is tried.
        highest: largest.
        samples: samples of each record, its last, that the levels are fitted on, at most.
    """

    lowest: float = 1e-2
    highest: float = 10.0
    samples: int = 1000

    def __post_init__(self) -> None:
        if not 0 < self.lowest < self.highest:
            raise ValueError(
                f"a StateObserver needs 0 < lowest < highest; given {self.lowest} and "
                f"{self.highest}"
            )
        if self.samples < 2:
            raise ValueError(f"samples is at least 2; given {self.samples}")

    def fit(self, records: Sequence[Signals], model: Any) -> StateNoise:
        """Fit both levels by maximum likelihood.

        Args:
            records: measured records; outputs that are NaN do not count.
            model: the network.

        Returns:
            The noise of the state.
        """
        whole = [np.zeros(r.z.shape, dtype=np.intp) for r in records]
        return self._fit(records, whole, model)[0]

    def candidates(
        self,
        judged: Sequence[Signals],
        folds: Sequence[Fold],
        train: Sequence[Signals],
        model: Any,
    ) -> list[Candidate]:
        """See :class:`Observer`; two numbers are fitted, on the data to be judged alone."""
        first, second, every = self._fit(judged, folds, model)
        return [Candidate("StateObserver, held-out errors", (second, first), every)]

    def _fit(
        self, records: Sequence[Signals], folds: Sequence[Fold], model: Any
    ) -> tuple[StateNoise, StateNoise, StateNoise]:
        """Levels by the likelihood of fold 0, of fold 1 and of both; one filter serves all."""
        steps = StateSteps(model)
        parts = [_last(r, self.samples) for r in records]
        halves = [f[len(f) - len(p.z) :] for f, p in zip(folds, parts, strict=True)]
        variance = steps.variances([r.u for r in parts])
        error = np.concatenate([(r.z - r.free)[r.settled :] for r in parts])
        size = np.maximum(np.nanmean(error**2, axis=0), 1e-18)

        def judge(log_ratio: float) -> list[tuple[float, float]]:
            noise = _levels(10.0**log_ratio, 1.0, variance, size)
            sums = np.zeros((2, 3))
            for record, fold in zip(parts, halves, strict=True):
                e, S = noise.innovations(record, steps)
                known = np.isfinite(e)
                known[: record.settled] = False
                for half in (0, 1):
                    here = known & (fold == half)
                    square = np.sum(e[here] ** 2 / S[here])
                    sums[half] += square, np.sum(np.log(S[here])), here.sum()
            rows = sums[0].tolist(), sums[1].tolist(), sums.sum(0).tolist()
            return [_profile(square, logs, count) for square, logs, count in rows]

        low, high = math.log10(self.lowest), math.log10(self.highest)
        grid = np.linspace(low, high, max(2, round(high - low) + 1)).tolist()
        tried = {x: judge(x) for x in grid}
        step = 1.0
        while step > FINER:
            step /= 2
            best = max(tried, key=lambda x: tried[x][2][0])
            tried |= {x: judge(x) for x in (best - step, best + step) if x not in tried}

        def levels(part: int) -> StateNoise:
            best = max(tried, key=lambda x: tried[x][part][0])
            level = tried[best][part][1]
            return _levels(10.0**best * level, level, variance, size)

        return levels(0), levels(1), levels(2)


@register
@dataclasses.dataclass(frozen=True)
class StateNoise:
    """Noise of the state of a network, fitted: Cov w = diag(process²), Cov v = diag(measurement²).

    Attributes:
        process: standard deviation that a sample adds to every state, (n,), on the model's scale.
        measurement: of the noise of every output, (n_y,), likewise.
    """

    process: tuple[float, ...]
    measurement: tuple[float, ...]

    @property
    def n_y(self) -> int:
        """Number of outputs."""
        return len(self.measurement)

    def innovations(self, signals: Signals, model: Any) -> tuple[Array, Array]:
        """Errors one step ahead and their variances, (L, n_y)."""
        found = self.filter(signals, model)
        return signals.z - found.mean, found.variance

    def filter(self, signals: Signals, model: Any) -> Track:
        """Every output given the earlier ones, ẑ(t | t − 1); the state is given the present too."""
        import torch

        walk = _Walk(self, model)
        means, variances, states, spreads = [], [], [], []
        with torch.no_grad():
            for t in range(len(signals.z)):
                mean, S = walk.advance(signals, t)
                walk.absorb(signals.z[t])
                means.append(mean)
                variances.append(S.diagonal())
                states.append(walk.m)
                spreads.append(walk.P.diagonal().clone())
        return Track(*(torch.stack(x).numpy() for x in (means, variances, states, spreads)))

    def smooth(self, signals: Signals, model: Any) -> Track:
        """Every output as it would be measured, given all measurements.

        The smoother of Bryson and Frazier behind the filter, in the affine model that it used.
        """
        import torch

        walk, length = _Walk(self, model), len(signals.z)
        kept = []
        with torch.no_grad():
            for t in range(length):
                mean, S = walk.advance(signals, t)
                before = walk.m, walk.P, walk.H, walk.F_in
                known = np.isfinite(signals.z[t])
                walk.absorb(signals.z[t])
                kept.append((mean, S, known, *before))
            n = len(walk.m)
            pull, weight = walk.m.new_zeros(n), walk.P.new_zeros(n, n)
            rows: list[tuple[Tensor, ...]] = []
            for t in range(length - 1, -1, -1):
                mean, S, known, m, P, H, F = kept.pop()
                seen = torch.tensor(known)
                if known.any():
                    h, s = H[seen], S[seen][:, seen]
                    e = torch.tensor(signals.z[t])[seen] - mean[seen]
                    gain = torch.linalg.solve(s, h @ P).mT
                    pull = pull + h.mT @ (torch.linalg.solve(s, e) - gain.mT @ pull)
                    # (I − K h)ᵀ Λ (I − K h) + hᵀ S⁻¹ h without a product of square matrices.
                    side = h.mT @ (weight @ gain).mT
                    inner = gain.mT @ weight @ gain + torch.linalg.inv(s)
                    weight = weight - side - side.mT + h.mT @ inner @ h
                x, shrink = m + P @ pull, weight @ P
                slope = H @ P
                V = P.diagonal() - (P * shrink.mT).sum(1)
                spread = (slope @ H.mT - slope @ weight @ slope.mT + walk.R).diagonal()
                # g was expanded where the filter expected the state.
                rows.append((mean + H @ (x - m), spread.clone(), x, V))
                if F is not None:
                    pull, weight = F.mT @ pull, F.mT @ weight @ F
        return Track(*(torch.stack(x[::-1]).numpy() for x in zip(*rows, strict=True)))

    def ahead(
        self, signals: Signals, horizons: Sequence[int], model: Any
    ) -> list[tuple[Array, Array]]:
        """Mean and variance (L, n_y) of ẑ(t | t − h) for each h, NaN for t < h."""
        import torch

        if tuple(horizons) == (1,):
            found = self.filter(signals, model)
            blank = np.arange(len(signals.z))[:, None] < 1
            return [tuple(np.where(blank, np.nan, x) for x in found[:2])]  # type: ignore[list-item]
        walk, length = _Walk(self, model), len(signals.z)
        states, covs, slopes, moves = [], [], [], []
        with torch.no_grad():
            for t in range(length):
                walk.advance(signals, t)
                slopes.append(walk.H)
                if walk.F_in is not None:
                    moves.append(walk.F_in)
                walk.absorb(signals.z[t])
                states.append(walk.m)
                covs.append(walk.P)
            x, P, G = torch.stack(states), torch.stack(covs), torch.stack(slopes)
            F = torch.stack(moves)
            noise = walk.R.diagonal().expand(length, -1).clone()
            blank = np.full(signals.z.shape, np.nan)
            out: dict[int, tuple[Array, Array]] = {}
            for h in range(1, max(horizons) + 1):
                if h >= length:
                    out[h] = blank, blank
                    continue
                # Rows are origins in x and targets in G: row k of both is origin k, target k + h.
                x, _ = walk.steps.run(x[: length - h], signals, np.arange(h - 1, length - 1))
                noise = noise[-(length - h) :] + ((G * walk.Q) @ G.mT).diagonal(0, 1, 2)[1:]
                G = G[1:] @ F[: length - h]
                if h in horizons:
                    _, y = walk.steps.run(x, signals, np.arange(h, length))
                    mean, variance = blank.copy(), blank.copy()
                    mean[h:] = y.numpy()
                    spread = (G @ P[: length - h] @ G.mT).diagonal(0, 1, 2)
                    variance[h:] = (spread + noise).numpy()
                    out[h] = mean, variance
        return [out[h] for h in horizons]

    def stream(self, model: Any) -> StateStream:
        """The same online."""
        return StateStream(self, model)


class _Walk:
    """The extended Kalman filter of a :class:`StateNoise`, sample by sample.

    Attributes:
        m: mean of the state, (n,); predicted behind ``advance``, filtered behind ``absorb``.
        P: its covariance.
        H: slope of g where the state was expected.
        F_in: slope of f into the present sample; None in the first.
        Q: variances of the process noise, (n,).
        R: covariance of the measurement noise.
    """

    def __init__(self, noise: StateNoise, model: Any) -> None:
        import torch

        self.steps = model if isinstance(model, StateSteps) else StateSteps(model)
        if len(noise.process) != self.steps.n:
            raise ValueError(
                f"the noise is for {len(noise.process)} states; the network has {self.steps.n}"
            )
        self.Q = torch.tensor(noise.process, dtype=torch.float64).square()
        self.R = torch.tensor(noise.measurement, dtype=torch.float64).square().diag()
        self.m, self.P = self.steps.rest, PRIOR * self.Q.diag()
        self.F_in: Tensor | None = None
        self._last: tuple[Array, float | None] | None = None
        self._expanded: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    def advance(self, signals: Signals, t: int) -> tuple[Tensor, Tensor]:
        """Mean and covariance of the output at sample t."""
        return self.at(signals.u[t], None if signals.dt is None else float(signals.dt[t]))

    def at(self, u: Array, dt: float | None) -> tuple[Tensor, Tensor]:
        """The same at an input."""
        if self._last is not None:
            moved, _, F, _ = self._expanded or self.steps.expand(self.m, *self._last)
            P = F @ self.P @ F.mT
            self.m, self.P, self.F_in = moved, (P + P.mT) / 2 + self.Q.diag(), F
        self._last = u, dt
        self._expanded = self.steps.expand(self.m, u, dt)
        _, self.mean, _, self.H = self._expanded
        self.S = self.H @ self.P @ self.H.mT + self.R
        return self.mean, self.S

    def absorb(self, z: Array) -> None:
        """Take the measurement of the sample in."""
        import torch

        known = np.isfinite(z)
        if not known.any():
            return
        seen = torch.tensor(known)
        h, S = self.H[seen], self.S[seen][:, seen]
        gain = torch.linalg.solve(S, h @ self.P).mT
        self.m = self.m + gain @ (torch.tensor(z)[seen] - self.mean[seen])
        P = self.P - gain @ S @ gain.mT
        self.P = (P + P.mT) / 2
        self._expanded = None


class StateStream:
    """The filter of a :class:`StateNoise` one sample at a time.

    Args:
        noise: the noise.
        model: the network, in the layer contract.
    """

    def __init__(self, noise: StateNoise, model: Any) -> None:
        self.walk, self.run = _Walk(noise, model), FreeRun(model)

    def advance(self, u: Array) -> tuple[Array, Array, Array]:
        """See :class:`Stream`."""
        import torch

        with torch.no_grad():
            mean, S = self.walk.at(u, None)
        return mean.numpy(), S.diagonal().numpy(), self.run.step(u)

    def absorb(self, z: Array) -> None:
        """See :class:`Stream`."""
        self.walk.absorb(z)

    def fork(self) -> StateStream:
        """See :class:`Stream`."""
        other = copy.copy(self)
        other.walk, other.run = copy.copy(self.walk), copy.copy(self.run)
        return other


def _levels(q: float, r: float, variance: Array, size: Array) -> StateNoise:
    return StateNoise(tuple((q * np.sqrt(variance)).tolist()), tuple((r * np.sqrt(size)).tolist()))


def _last(record: Signals, count: int) -> Signals:
    """The last samples that count of a record, and as many before them as settle the state."""
    first = max(0, len(record.z) - count - record.settled)
    u, z, free = (x[first:] for x in (record.u, record.z, record.free))
    dt = None if record.dt is None else record.dt[first:]
    return Signals(u, z, free, dt, record.settled)


def _profile(square: float, logs: float, count: float) -> tuple[float, float]:
    """Log-likelihood but for a constant at the best common level, and that level."""
    if not count:
        return 0.0, 1.0
    level = max(square / count, 1e-18)
    return -0.5 * (logs + count * math.log(level)), math.sqrt(level)
