"""Where the descent of prediction error methods begins: linear estimates, none of them random."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from statewise.lti._descent import least_norm, triangle
from statewise.lti._polynomial_filters import (
    ONE,
    Coefficients,
    Series,
    Structure,
    delayed,
    errors,
    filtered,
    linearised,
    reflected,
)
from statewise.lti.realisation import era
from statewise.lti.simulation import markov_parameters
from statewise.lti.subspace import identify
from statewise.lti.weightings import CVA, MOESP

Array = npt.NDArray[np.float64]
LIMIT = 0.999
SWEEPS = 12
RESPONSE = 200
CARRIED = ", Steiglitz-McBride"


def arx_structure(na: int, nb: Sequence[int], nk: Sequence[int]) -> Structure:
    """A and B alone."""
    return Structure(na, tuple(nb), 0, 0, (0,) * len(nb), tuple(nk))


def least_squares(records: Sequence[Series], structure: Structure, at_rest: bool) -> Coefficients:
    """The ARX model, whose errors are linear in its parameters."""
    start = Coefficients.of(np.zeros(structure.count), structure)
    local = linearised(records, start, structure, at_rest)
    return Coefficients.of(-least_norm(local.R, local.r), structure)


def instrumental(
    records: Sequence[Series], structure: Structure, at_rest: bool, model: Coefficients
) -> Coefficients:
    """ARX by instruments: past outputs of the model instead of those of the data."""
    count = structure.count
    moments, target = np.zeros((count, count)), np.zeros(count)
    drop = 0 if at_rest else structure.noise_start
    stable_a = reflected(model.a, LIMIT)
    for record in records:
        inputs = [
            delayed(record.u[:, i], structure.nk[i] + k)
            for i, n in enumerate(structure.nb)
            for k in range(n)
        ]
        clean = np.zeros_like(record.y)
        for i, b in enumerate(model.b):
            if len(b):
                clean += filtered(b, stable_a, delayed(record.u[:, i], structure.nk[i]))
        lags = range(1, structure.na + 1)
        phi = np.stack([*(-delayed(record.y, k) for k in lags), *inputs], 1)[drop:]
        zeta = np.stack([*(-delayed(clean, k) for k in lags), *inputs], 1)[drop:]
        moments = moments + zeta.T @ phi
        target = target + zeta.T @ record.y[drop:]
    return Coefficients.of(least_norm(moments, target), structure)


def with_inputs(
    records: Sequence[Series], structure: Structure, at_rest: bool, poly: Coefficients
) -> Coefficients:
    """The best B for all other polynomials as they are."""
    bare = Coefficients(poly.a, tuple(np.zeros(n) for n in structure.nb), poly.c, poly.d, poly.f)
    first = structure.na
    columns = slice(first, first + sum(structure.nb))
    local = linearised(records, bare, structure, at_rest, columns)
    found = -least_norm(local.R, local.r)
    b = tuple(np.split(found, np.cumsum(structure.nb)[:-1])) if structure.nb else ()
    return Coefficients(poly.a, b, poly.c, poly.d, poly.f)


def denominators(responses: Array, structure: Structure) -> tuple[Array, ...]:
    """F_i of the wanted degrees from the pulse response of each input, (L, m)."""
    found = []
    for i, n in enumerate(structure.nf):
        # Behind the numerator a response obeys F alone.
        late = responses[max(structure.nk[i] + structure.nb[i] - 1 - n, 0) :, i]
        if not n or not np.abs(late).max() > 0:
            found.append(np.concatenate((ONE, np.zeros(n))))
            continue
        A = era(torch.as_tensor(late)[:, None, None], n).system.A.numpy()
        found.append(reflected(np.asarray(np.poly(A)).real.astype(np.float64), LIMIT))
    return tuple(found)


def output_error_starts(
    records: Sequence[Series], structure: Structure, at_rest: bool
) -> dict[str, Coefficients]:
    """F and B from ARX models, short and long, from instruments, and from a subspace model.

    Each is also carried on by Steiglitz-McBride iterations. ``structure`` has B and F alone.
    """
    m, total = len(structure.nb), sum(len(r.y) for r in records)
    degree = max(structure.nf)
    low = arx_structure(degree, structure.nb, structure.nk)
    reach = max(n + k for n, k in zip(structure.nb, structure.nk, strict=True))
    lags = max(1, min(max(4 * degree + 4, reach), total // (6 * (m + 1))))
    high = arx_structure(lags, (lags,) * m, structure.nk)
    short = least_squares(records, low, at_rest)

    def subspace() -> Array:
        n = max(sum(structure.nf), 1)
        weight = MOESP if m else CVA
        inputs = [torch.as_tensor(r.u) for r in records]
        outputs = [torch.as_tensor(r.y) for r in records]
        found = identify(inputs, outputs, n, weighting=weight, stability=LIMIT)
        return markov_parameters(found.system, RESPONSE)[:, 0].numpy()

    ways: dict[str, Callable[[], Array]] = {
        "arx": lambda: _responses(short, low),
        "long arx": lambda: _responses(least_squares(records, high, at_rest), high),
        "instruments": lambda: _responses(instrumental(records, low, at_rest, short), low),
        "subspace": subspace,
    }
    starts: dict[str, Coefficients] = {}
    for name, way in ways.items():
        try:
            below = denominators(way(), structure)
        except (ValueError, np.linalg.LinAlgError):
            continue
        bare = Coefficients(ONE, tuple(np.zeros(n) for n in structure.nb), ONE, ONE, below)
        starts[name] = with_inputs(records, structure, at_rest, bare)
    starts.update(
        {
            name + CARRIED: steiglitz_mcbride(records, structure, at_rest, start)
            for name, start in list(starts.items())
            if name != "subspace"
        }
    )
    return starts


def steiglitz_mcbride(
    records: Sequence[Series], structure: Structure, at_rest: bool, poly: Coefficients
) -> Coefficients:
    """Least squares of F_i y_i = B_i u_i with both sides filtered by the 1/F_i of before.

    With several inputs, y_i is what the other inputs leave. The best of all sweeps is kept.
    """
    best, least = poly, _power(records, poly, structure, at_rest)
    for _ in range(SWEEPS):
        poly = _sweep(records, structure, poly)
        poly = with_inputs(records, structure, at_rest, poly)
        power = _power(records, poly, structure, at_rest)
        if power < least:
            best, least = poly, power
    return best


def _sweep(records: Sequence[Series], structure: Structure, poly: Coefficients) -> Coefficients:
    b, f = list(poly.b), list(poly.f)
    for i, (n, count) in enumerate(zip(structure.nf, structure.nb, strict=True)):
        if not n:
            continue
        factor = None
        for record in records:
            rest = record.y.copy()
            for j in range(len(b)):
                if j != i and len(b[j]):
                    rest -= filtered(b[j], f[j], delayed(record.u[:, j], structure.nk[j]))
            y, u = (filtered(ONE, f[i], x) for x in (rest, record.u[:, i]))
            columns = [-delayed(y, k) for k in range(1, n + 1)]
            columns += [delayed(u, structure.nk[i] + k) for k in range(count)]
            start = min(structure.input_starts[i], len(y) - 1)
            factor = triangle(np.stack([*columns, y], 1)[start:], factor)
        assert factor is not None
        found = least_norm(factor[:, :-1], factor[:, -1])
        if not np.isfinite(found).all():
            continue
        f[i] = reflected(np.concatenate((ONE, found[:n])), LIMIT)
        b[i] = found[n:]
    return Coefficients(poly.a, tuple(b), poly.c, poly.d, tuple(f))


def _power(
    records: Sequence[Series], poly: Coefficients, structure: Structure, at_rest: bool
) -> float:
    power = sum(float(e @ e) for e in errors(records, poly, structure, at_rest)[0])
    return power if np.isfinite(power) else np.inf


def _responses(model: Coefficients, structure: Structure) -> Array:
    """Pulse responses of the inputs of an ARX model, (RESPONSE, m)."""
    pulse = np.zeros(RESPONSE)
    pulse[0] = 1.0
    below = reflected(model.a, LIMIT)
    columns = [
        filtered(b, below, delayed(pulse, k)) for b, k in zip(model.b, structure.nk, strict=True)
    ]
    return np.stack(columns, 1)


def armax_starts(
    records: Sequence[Series], structure: Structure, at_rest: bool
) -> dict[str, Coefficients]:
    """ARX with C = 1, and C by regression on the errors of a long ARX model, with and without A.

    Source: Hannan & Rissanen, Recursive estimation of mixed autoregressive-moving average order
    (1982).
    """
    m, total = len(structure.nb), sum(len(r.y) for r in records)
    low = arx_structure(structure.na, structure.nb, structure.nk)
    short = least_squares(records, low, at_rest)
    blank = np.concatenate((ONE, np.zeros(structure.nc)))
    starts = {"arx": Coefficients(short.a, short.b, blank, ONE, short.f)}
    degree = max(structure.na, structure.nc)
    lags = max(degree + 1, min(2 * degree + 10, total // (6 * (m + 1))))
    long = arx_structure(lags, (lags,) * m, structure.nk)
    whitened = errors(records, least_squares(records, long, at_rest), long, at_rest)[0]
    starts["long arx"] = _regressed(records, structure, whitened)
    if structure.na and m:
        moved = instrumental(records, low, at_rest, short)
        rests = errors(records, moved, low, at_rest)[0]
        only = Structure(0, (), structure.nc, 0, (), ())
        series = [Series(np.zeros((len(r), 0)), r) for r in rests]
        bare = arx_structure(lags, (), ())
        white = errors(series, least_squares(series, bare, at_rest), bare, at_rest)[0]
        c = _regressed(series, only, white).c
        starts["instruments"] = Coefficients(moved.a, moved.b, c, ONE, moved.f)
    return starts


def _regressed(
    records: Sequence[Series], structure: Structure, whitened: Sequence[Array]
) -> Coefficients:
    """A, B and C by least squares, with given errors as if they were measured."""
    factor = None
    for record, e in zip(records, whitened, strict=True):
        columns = [-delayed(record.y, k) for k in range(1, structure.na + 1)]
        for i, n in enumerate(structure.nb):
            columns += [delayed(record.u[:, i], structure.nk[i] + k) for k in range(n)]
        columns += [delayed(e, k) for k in range(1, structure.nc + 1)]
        start = min(structure.noise_start, len(e) - 1)
        rows = np.stack([*columns, record.y], 1)[start:]
        factor = triangle(rows, factor)
    assert factor is not None
    found = least_norm(factor[:, :-1], factor[:, -1], 1e-10)
    poly = Coefficients.of(found, structure)
    return Coefficients(poly.a, poly.b, reflected(poly.c, LIMIT), ONE, poly.f)
