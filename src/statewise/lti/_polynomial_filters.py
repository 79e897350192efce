"""Predictors of polynomial models as filters: errors, sensitivities and initial conditions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from statewise.lti._descent import Linearised, triangle

Array = npt.NDArray[np.float64]
RANK = 1e-10
ONE = np.ones(1)


@dataclasses.dataclass(frozen=True)
class Structure:
    """Degrees of A y = Σ (B_i/F_i) u_i + (C/D) e, and the delays of the inputs.

    Attributes:
        na, nc, nd: coefficients of A, C and D, without the leading 1.
        nb: of each B_i.
        nf: of each F_i, without the leading 1.
        nk: samples before u_i enters.
    """

    na: int
    nb: tuple[int, ...]
    nc: int
    nd: int
    nf: tuple[int, ...]
    nk: tuple[int, ...]

    @property
    def sizes(self) -> list[int]:
        """Lengths of the parts of the parameter vector: a, b_1 …, c, d, f_1 …."""
        return [self.na, *self.nb, self.nc, self.nd, *self.nf]

    @property
    def count(self) -> int:
        """Number of parameters."""
        return sum(self.sizes)

    @property
    def noise_start(self) -> int:
        """Number of samples of the noise filter that the unknown past reaches."""
        reach = [
            n + k - 1 for n, k, f in zip(self.nb, self.nk, self.nf, strict=True) if n and not f
        ]
        return max([self.nc, self.na + self.nd, *(max(r, 0) + self.nd for r in reach)])

    @property
    def input_starts(self) -> list[int]:
        """The same of each filter B_i/F_i; 0 where F_i is 1, since the noise filter has it."""
        return [
            max(f, n + k - 1) if f else 0 for n, k, f in zip(self.nb, self.nk, self.nf, strict=True)
        ]


@dataclasses.dataclass(frozen=True)
class Coefficients:
    """The polynomials in q⁻¹, lowest power first; A, C, D and F_i with their leading 1."""

    a: Array
    b: tuple[Array, ...]
    c: Array
    d: Array
    f: tuple[Array, ...]

    @classmethod
    def of(cls, theta: Array, structure: Structure) -> Coefficients:
        """From a parameter vector."""
        parts = np.split(theta, np.cumsum(structure.sizes)[:-1])
        m = len(structure.nb)
        monic = [np.concatenate((ONE, part)) for part in parts]
        return cls(
            monic[0],
            tuple(parts[1 : 1 + m]),
            monic[1 + m],
            monic[2 + m],
            tuple(monic[3 + m :]),
        )

    def vector(self) -> Array:
        """The parameter vector."""
        tails = [f[1:] for f in self.f]
        return np.concatenate([self.a[1:], *self.b, self.c[1:], self.d[1:], *tails])


@dataclasses.dataclass(frozen=True)
class Series:
    """One record: inputs (T, m) and the output (T,)."""

    u: Array
    y: Array


@dataclasses.dataclass(frozen=True)
class Signals:
    """What a predictor makes of a record, with the initial conditions that suit it best.

    Attributes:
        forced: w_i = (B_i u_i + τ_i)/F_i, (m, T).
        rest: v = A y − Σ w_i, (T,).
        error: ε = (D v + τ)/C, (T,).
        basis: orthonormal directions that initial conditions span, (T, k).
    """

    forced: Array
    rest: Array
    error: Array
    basis: Array


def filtered(above: Array, below: Array, signal: Array) -> Array:
    """Signal · above(q)/below(q), from rest."""
    from scipy.signal import lfilter

    return np.asarray(lfilter(above, below, signal))


def delayed(signal: Array, lag: int) -> Array:
    """signal(t − lag), 0 before the record."""
    if lag >= len(signal):
        return np.zeros_like(signal)
    return np.concatenate((np.zeros(lag), signal[: len(signal) - lag])) if lag else signal


def run(record: Series, poly: Coefficients, structure: Structure, at_rest: bool) -> Signals:
    """Filter a record through the predictor."""
    length = len(record.y)
    forced = np.zeros((len(poly.b), length))
    for i, (b, f) in enumerate(zip(poly.b, poly.f, strict=True)):
        forced[i] = filtered(b, f, delayed(record.u[:, i], structure.nk[i])) if len(b) else 0.0
    rest = filtered(poly.a, ONE, record.y) - forced.sum(0)
    error = filtered(poly.d, poly.c, rest)
    if at_rest:
        return Signals(forced, rest, error, np.zeros((length, 0)))
    pulse = np.zeros(length)
    pulse[0] = 1.0
    noise, starts = structure.noise_start, structure.input_starts
    first = filtered(ONE, poly.c, pulse)
    columns = [delayed(first, k) for k in range(min(noise, length))]
    ranges = [(0, len(columns))]
    for f, count in zip(poly.f, starts, strict=True):
        response = -filtered(poly.d, np.convolve(poly.c, f), pulse) if count else pulse
        columns += [delayed(response, k) for k in range(min(count, length))]
        ranges.append((ranges[-1][1], len(columns)))
    if not columns:
        return Signals(forced, rest, error, np.zeros((length, 0)))
    X = np.stack(columns, 1)
    U, sigma, Vh = np.linalg.svd(X, full_matrices=False)
    kept = sigma > RANK * sigma[0]
    U, sigma, Vh = U[:, kept], sigma[kept], Vh[kept]
    tau = -Vh.T @ ((U.T @ error) / sigma)
    for i, f in enumerate(poly.f):
        part = tau[slice(*ranges[i + 1])]
        if len(part):
            free = filtered(ONE, f, np.pad(part, (0, length - len(part))))
            forced[i] += free
            rest -= free
    return Signals(forced, rest, error + X @ tau, U)


def sensitivities(
    record: Series, poly: Coefficients, structure: Structure, signals: Signals
) -> Array:
    """∂ε/∂θ for fixed initial conditions, by filtering, (T, d)."""
    columns: list[Array] = []
    seen = filtered(poly.d, poly.c, record.y) if structure.na else record.y
    columns += [delayed(seen, k) for k in range(1, structure.na + 1)]
    below = [np.convolve(poly.c, f) for f in poly.f]
    for i, n in enumerate(structure.nb):
        moved = -filtered(poly.d, below[i], record.u[:, i]) if n else record.y
        columns += [delayed(moved, structure.nk[i] + k) for k in range(n)]
    if structure.nc:
        moved = -filtered(ONE, poly.c, signals.error)
        columns += [delayed(moved, k) for k in range(1, structure.nc + 1)]
    if structure.nd:
        moved = filtered(ONE, poly.c, signals.rest)
        columns += [delayed(moved, k) for k in range(1, structure.nd + 1)]
    for i, n in enumerate(structure.nf):
        moved = filtered(poly.d, below[i], signals.forced[i]) if n else record.y
        columns += [delayed(moved, k) for k in range(1, n + 1)]
    return np.stack(columns, 1) if columns else np.zeros((len(record.y), 0))


def errors(
    records: Sequence[Series], poly: Coefficients, structure: Structure, at_rest: bool
) -> tuple[list[Array], int]:
    """One-step errors of each record, and how many numbers the initial conditions take."""
    ran = [run(record, poly, structure, at_rest) for record in records]
    return [s.error for s in ran], sum(s.basis.shape[1] for s in ran)


def linearised(
    records: Sequence[Series],
    poly: Coefficients,
    structure: Structure,
    at_rest: bool,
    columns: slice | None = None,
) -> Linearised:
    """Errors and sensitivities with initial conditions projected out, as a triangular factor."""
    signals = [run(record, poly, structure, at_rest) for record in records]
    return factored(records, poly, structure, signals, columns)


def factored(
    records: Sequence[Series],
    poly: Coefficients,
    structure: Structure,
    signals: Sequence[Signals],
    columns: slice | None = None,
) -> Linearised:
    """The same with what :func:`run` gave."""
    factor, power, count = None, 0.0, 0
    for record, ran in zip(records, signals, strict=True):
        J = sensitivities(record, poly, structure, ran)
        J = J if columns is None else J[:, columns]
        J = J - ran.basis @ (ran.basis.T @ J)
        factor = triangle(np.concatenate((J, ran.error[:, None]), 1), factor)
        power += float(ran.error @ ran.error)
        count += len(record.y)
    assert factor is not None
    d = factor.shape[1] - 1
    variance = power / count
    return Linearised(factor[:d, :d], factor[:d, d], variance, variance)


def reflected(poly: Array, limit: float = 1.0) -> Array:
    """The monic polynomial with roots outside the circle moved to their mirror images."""
    if len(poly) < 2 or not np.isfinite(poly).all():
        return poly
    roots = np.roots(poly)
    size = np.abs(roots)
    if (size < limit).all():
        return poly
    radius = np.where(size < limit, size, np.minimum(1 / np.maximum(size, 1e-300), 0.99 * limit))
    moved = np.asarray(np.poly(radius * np.exp(1j * np.angle(roots))), np.complex128).real
    return np.pad(moved, (0, len(poly) - len(moved)))


def stable(poly: Array, limit: float = 1.0) -> bool:
    """Whether all roots lie within the circle."""
    return len(poly) < 2 or bool((np.abs(np.roots(poly)) < limit).all())
