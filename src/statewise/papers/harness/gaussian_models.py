"""Linear-Gaussian models to filter, and plain ways to the same answers."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from statewise.inference import LinearGaussian

Array = npt.NDArray[np.floating]

NILE = (
    *(1120, 1160, 963, 1210, 1160, 1160, 813, 1230, 1370, 1140, 995, 935, 1110, 994, 1020, 960),
    *(1180, 799, 958, 1140, 1100, 1210, 1150, 1250, 1260, 1220, 1030, 1100, 774, 840, 874, 694),
    *(940, 833, 701, 916, 692, 1020, 1050, 969, 831, 726, 456, 824, 702, 1120, 1100, 832, 764),
    *(821, 768, 845, 864, 862, 698, 845, 744, 796, 1040, 759, 781, 865, 845, 944, 984, 897, 822),
    *(1010, 771, 676, 649, 846, 812, 742, 801, 1040, 860, 874, 848, 890, 744, 749, 838, 1050, 918),
    *(986, 797, 923, 975, 815, 1020, 906, 901, 1170, 912, 746, 919, 718, 714, 740),
)
"""Flow of the Nile at Aswan in 10⁸ m³ a year, 1871 to 1970."""


class Moments(NamedTuple):
    """What is known of the states of one series, and log p(y)."""

    mean: Array
    cov: Array
    log_likelihood: float


def random_model(
    n: int, p: int, seed: int, *, rank: int | None = None, conditioned: float = 1.0
) -> LinearGaussian:
    """A stable model with offsets, its prior at the first observation.

    Args:
        n: states.
        p: outputs.
        seed: of the parameters.
        rank: of Q, which is singular below n; None for n.
        conditioned: smallest eigenvalue of Q and P0 beside the largest, in order of size.
    """
    rng = np.random.default_rng(seed)

    def covariance(k: int, rank: int, least: float) -> Array:
        turn = np.linalg.qr(rng.normal(size=(k, k)))[0][:, :rank]
        sizes = np.geomspace(1.0, least, rank) if rank > 1 else np.ones(rank)
        return (turn * sizes) @ turn.T

    F = 0.97 * np.linalg.qr(rng.normal(size=(n, n)))[0]
    return LinearGaussian(
        F,
        rng.normal(size=(p, n)),
        covariance(n, n if rank is None else rank, conditioned),
        covariance(p, p, 0.3),
        c=rng.normal(size=n),
        d=rng.normal(size=p),
        m0=rng.normal(size=n),
        P0=covariance(n, n, conditioned),
    )


def simulate(model: LinearGaussian, length: int, seed: int, gaps: float = 0.0) -> Tensor:
    """One series (1, T, p) of a model without inputs, a share of its numbers missing."""
    rng = np.random.default_rng(seed)
    F, H, Q, R, c, d, m0, P0 = _arrays(model)
    n, p = len(F), len(H)
    rootQ, rootR, root = (_root(x) for x in (Q, R, P0))
    w, v = rng.normal(size=(length, n)) @ rootQ.T, rng.normal(size=(length, p)) @ rootR.T
    x, y = m0 + root @ rng.normal(size=n), np.zeros((length, p))
    for t in range(length):
        x = F @ x + c + w[t] if t else x
        y[t] = H @ x + d + v[t]
    y[rng.random(y.shape) < gaps] = np.nan
    return torch.as_tensor(y)[None]


def _root(x: Array) -> Array:
    values, vectors = np.linalg.eigh(x)
    return vectors * np.sqrt(np.maximum(values, 0))


def _arrays(model: LinearGaussian) -> tuple[Array, ...]:
    assert model.c is not None
    assert model.d is not None
    assert model.P0 is not None
    matrices = (model.F, model.H, model.Q, model.R, model.c, model.d)
    return (*(x[0, 0].numpy() for x in matrices), model.m0[0].numpy(), model.P0[0].numpy())


def textbook(model: LinearGaussian, y: Tensor) -> Moments:
    """Filtered moments by the equations as they are printed, missing rows deleted."""
    F, H, Q, R, c, d, m, P = _arrays(model)
    means, covs, total = [], [], 0.0
    for t, value in enumerate(y[0].numpy()):
        if t:
            m, P = F @ m + c, F @ P @ F.T + Q
        seen = ~np.isnan(value)
        if seen.any():
            here = H[seen]
            e, S = (value - d)[seen] - here @ m, here @ P @ here.T + R[np.ix_(seen, seen)]
            K = np.linalg.solve(S, here @ P).T
            m, P = m + K @ e, P - K @ S @ K.T
            size = seen.sum() * math.log(2 * math.pi) + np.linalg.slogdet(S)[1]
            total -= 0.5 * float(size + e @ np.linalg.solve(S, e))
        means.append(m)
        covs.append((P + P.T) / 2)
    return Moments(np.array(means), np.array(covs), total)


def joint(model: LinearGaussian, y: Tensor) -> Moments:
    """Smoothed moments by conditioning one Gaussian of all states and outputs."""
    F, H, Q, R, c, d, m0, P0 = _arrays(model)
    n, T = len(F), y.shape[1]
    mean, cov = np.zeros((T, n)), np.zeros((T * n, T * n))
    m, P = m0, P0
    for t in range(T):
        if t:
            m, P = F @ m + c, F @ P @ F.T + Q
        mean[t] = m
        at = slice(t * n, t * n + n)
        cov[at, at] = P
        carried = P
        for s in range(t + 1, T):
            carried = F @ carried
            later = slice(s * n, s * n + n)
            cov[later, at], cov[at, later] = carried, carried.T
    big = np.kron(np.eye(T), H)
    seen = ~np.isnan(y[0].numpy().reshape(-1))
    big, noise = big[seen], np.kron(np.eye(T), R)[np.ix_(seen, seen)]
    e = (y[0].numpy() - d).reshape(-1)[seen] - big @ mean.reshape(-1)
    S = big @ cov @ big.T + noise
    gain = np.linalg.solve(S, big @ cov).T
    after = cov - gain @ S @ gain.T
    total = seen.sum() * math.log(2 * math.pi) + np.linalg.slogdet(S)[1] + e @ np.linalg.solve(S, e)
    blocks = np.array([after[t * n : t * n + n, t * n : t * n + n] for t in range(T)])
    return Moments((mean.reshape(-1) + gain @ e).reshape(T, n), blocks, -0.5 * float(total))


def constant_velocity(q: float, r: float, spread: float, dt: float = 0.1) -> LinearGaussian:
    """A target in the plane whose position is measured: states (x, v, y, w), moved first.

    Every number can be held in float32, so that arithmetic alone makes a difference.
    """
    both = np.eye(2)
    F = np.kron(both, [[1.0, dt], [0.0, 1.0]])
    Q = np.kron(both, q * np.array([[dt**3 / 3, dt**2 / 2], [dt**2 / 2, dt]]))
    H = np.kron(both, [[1.0, 0.0]])
    parts = [torch.as_tensor(part).float().double() for part in (F, H, Q, r * both)]
    zero, eye = torch.zeros(4).double(), torch.eye(4).double()
    return LinearGaussian(*parts, c=zero, d=zero[:2], P0=spread * eye, prior_at=0)


def covariances(model: LinearGaussian, length: int, kind: type, *, joseph: bool) -> Array:
    """P after each of so many moves and observations, in the arithmetic of a NumPy type.

    Args:
        model: of two outputs, its prior before the first move.
        length: steps.
        kind: such as ``numpy.float32``.
        joseph: (I − K H) P (I − K H)ᵀ + K R Kᵀ, rather than (I − K H) P.
    """
    F, H, Q, R, _, _, _, P = (x.astype(kind) for x in _arrays(model))
    eye, found = np.eye(len(F), dtype=kind), []
    for _ in range(length):
        P = F @ P @ F.T + Q
        (a, b), (c, d) = H @ P @ H.T + R
        K = P @ H.T @ np.array([[d, -b], [-c, a]], dtype=kind) / (a * d - b * c)
        left = eye - K @ H
        P = left @ P @ left.T + K @ R @ K.T if joseph else left @ P
        found.append(P)
    return np.array(found)


def deviation(found: Array | Tensor, expected: Array | Tensor) -> float:
    """Largest difference beside the largest number expected, or beside 1 where that is more."""
    one, other = (np.asarray(x, dtype=np.float64) for x in (found, expected))
    return float(np.abs(one - other).max() / max(np.abs(other).max(), 1.0))
