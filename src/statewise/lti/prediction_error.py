"""Polynomial models by prediction error: ARX, ARMAX, output error and Box-Jenkins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from statewise.lti import _polynomial_starts as starts
from statewise.lti._descent import Descent, inverse_normal
from statewise.lti._hankel import read_records
from statewise.lti._polynomial_descent import TRIAL, Point, best_of, located
from statewise.lti._polynomial_filters import (
    Coefficients,
    Series,
    Structure,
    factored,
    reflected,
)
from statewise.lti.polynomial_estimate import PolynomialEstimate
from statewise.lti.polynomial_model import PolynomialModel
from statewise.lti.state_space import checked_dt

Array = npt.NDArray[np.float64]
ITERATIONS = 100
TOLERANCE = 1e-4


def arx(
    u: Any,
    y: Any,
    na: int,
    nb: int | Sequence[int],
    *,
    nk: int | Sequence[int] = 1,
    dt: float = 1.0,
    at_rest: bool = False,
) -> PolynomialEstimate:
    """Least squares of A(q) y_t = Σ B_i(q) u_i(t − nk_i) + e_t, in one step.

    Args:
        u: inputs, (T, m) or (T,), or a list of those, of any lengths; None for none.
        y: the output, (T, 1) or (T,), or a list of those.
        na: number of coefficients of A behind its 1.
        nb: of each B_i; one number stands for all inputs.
        nk: delays in samples, likewise.
        dt: sampling time.
        at_rest: whether the signals were 0 before each record. If not, what the unknown past adds
            to the errors is estimated for each record, which for ARX means that its first
            max(na, nb + nk − 1) samples are history only.

    Returns:
        The estimates with their covariance.

    Raises:
        ValueError: shapes or degrees that do not fit, several outputs, or records too short.

    Source: Ljung, System Identification: Theory for the User, 2nd ed. (1999), chapters 4, 7, 10.
    """
    records, scales = _read(u, y)
    structure = _structure(records, na, nb, 0, 0, 0, nk)
    _check_length(records, structure, at_rest)
    poly = starts.least_squares(records, structure, at_rest)
    point = located(records, poly, structure, at_rest)
    found = Descent(point, point.cost, 1, True, "a linear problem")
    return _estimate(found, records, structure, scales, dt, {})


def armax(
    u: Any,
    y: Any,
    na: int,
    nb: int | Sequence[int],
    nc: int,
    *,
    nk: int | Sequence[int] = 1,
    dt: float = 1.0,
    at_rest: bool = False,
    iterations: int = ITERATIONS,
    tolerance: float = TOLERANCE,
) -> PolynomialEstimate:
    """Minimise Σ ε² of A(q) y_t = Σ B_i(q) u_i(t − nk_i) + C(q) e_t; without inputs, ARMA.

    Levenberg-Marquardt with analytic sensitivities, from ARX, from a long ARX model (Hannan and
    Rissanen) and from instruments; the best goes on. Roots of C stay within the unit circle.

    Args:
        u: see :func:`arx`.
        y: see :func:`arx`.
        na: see :func:`arx`.
        nb: see :func:`arx`.
        nc: number of coefficients of C behind its 1.
        nk: see :func:`arx`.
        dt: sampling time.
        at_rest: whether the signals were 0 before each record. If not, the initial conditions of
            the predictor are estimated for each record, by least squares at every step.
        iterations: most steps.
        tolerance: length of the Gauss-Newton step, in standard errors, at which to stop.

    Returns:
        The estimates with their covariance, and whether the descent converged.

    Raises:
        ValueError: see :func:`arx`.
    """
    records, scales = _read(u, y)
    structure = _structure(records, na, nb, nc, 0, 0, nk)
    _check_length(records, structure, at_rest)
    first = starts.armax_starts(records, structure, at_rest)
    found, tried = best_of(first, records, structure, at_rest, iterations, tolerance)
    return _estimate(found, records, structure, scales, dt, tried)


def output_error(
    u: Any,
    y: Any,
    nb: int | Sequence[int],
    nf: int | Sequence[int],
    *,
    nk: int | Sequence[int] = 1,
    dt: float = 1.0,
    at_rest: bool = False,
    iterations: int = ITERATIONS,
    tolerance: float = TOLERANCE,
) -> PolynomialEstimate:
    """Minimise the simulation error Σ (y − Σ B_i(q)/F_i(q) u_i(t − nk_i))².

    The cost has local minima. The descent runs for some steps from each of several linear
    estimates: ARX, a long ARX model and a subspace model reduced to the wanted degrees,
    instruments, and what Steiglitz-McBride iterations make of these. The best goes on. Roots of
    F_i stay within the unit circle.

    Args:
        u: see :func:`arx`; an input is needed.
        y: see :func:`arx`.
        nb: number of coefficients of each B_i.
        nf: of each F_i behind its 1.
        nk: see :func:`arx`.
        dt: sampling time.
        at_rest: see :func:`armax`.
        iterations: see :func:`armax`.
        tolerance: see :func:`armax`.

    Returns:
        See :func:`armax`. The covariance is that for white output noise.

    Raises:
        ValueError: see :func:`arx`.

    Source: Ljung (1999); Steiglitz & McBride, A technique for the identification of linear systems
    (1965).
    """
    records, scales = _read(u, y)
    structure = _structure(records, 0, nb, 0, 0, nf, nk)
    _needs_inputs(structure, "output_error")
    _check_length(records, structure, at_rest)
    first = starts.output_error_starts(records, structure, at_rest)
    found, tried = best_of(first, records, structure, at_rest, iterations, tolerance)
    return _estimate(found, records, structure, scales, dt, tried)


def box_jenkins(
    u: Any,
    y: Any,
    nb: int | Sequence[int],
    nc: int,
    nd: int,
    nf: int | Sequence[int],
    *,
    nk: int | Sequence[int] = 1,
    dt: float = 1.0,
    at_rest: bool = False,
    iterations: int = ITERATIONS,
    tolerance: float = TOLERANCE,
) -> PolynomialEstimate:
    """Minimise Σ ε² of y_t = Σ B_i(q)/F_i(q) u_i(t − nk_i) + C(q)/D(q) e_t.

    The starts are output error models, each with an ARMA model of what it leaves. Roots of F_i and
    C stay within the unit circle.

    Args:
        u: see :func:`arx`; an input is needed.
        y: see :func:`arx`.
        nb: number of coefficients of each B_i.
        nc: of C behind its 1.
        nd: of D behind its 1.
        nf: of each F_i behind its 1.
        nk: see :func:`arx`.
        dt: sampling time.
        at_rest: see :func:`armax`.
        iterations: see :func:`armax`.
        tolerance: see :func:`armax`.

    Returns:
        See :func:`armax`.

    Raises:
        ValueError: see :func:`arx`.
    """
    records, scales = _read(u, y)
    structure = _structure(records, 0, nb, nc, nd, nf, nk)
    _needs_inputs(structure, "box_jenkins")
    _check_length(records, structure, at_rest)
    plain = Structure(0, structure.nb, 0, 0, structure.nf, structure.nk)
    inputs = starts.output_error_starts(records, plain, at_rest)
    best, _ = best_of(inputs, records, plain, at_rest, iterations, tolerance)
    inputs["output error"] = best.point.poly
    noise = Structure(nd, (), nc, 0, (), ())
    first = {}
    for name, poly in inputs.items():
        point = located(records, poly, plain, at_rest)
        if name.endswith(starts.CARRIED) or not point.signals:
            continue
        left = [Series(np.zeros((len(s.error), 0)), s.error) for s in point.signals]
        model, _ = best_of(
            starts.armax_starts(left, noise, at_rest), left, noise, at_rest, TRIAL, tolerance
        )
        arma = model.point.poly
        first[name] = Coefficients(arma.d, poly.b, arma.c, reflected(arma.a, starts.LIMIT), poly.f)
    found, tried = best_of(first, records, structure, at_rest, iterations, tolerance)
    return _estimate(found, records, structure, scales, dt, tried)


def _read(u: Any, y: Any) -> tuple[list[Series], tuple[Array, float]]:
    """Records in units of their root mean square, and those units."""
    given = read_records(u, y)
    if given.n_outputs != 1:
        raise ValueError(
            f"y has {given.n_outputs} outputs; a polynomial model has one, and refine takes several"
        )
    records = [
        Series(a[0].numpy(), b[0, :, 0].numpy()) for a, b in zip(given.u, given.y, strict=True)
    ]
    return records, (given.u_scale[0].numpy(), float(given.y_scale))


def _structure(
    records: Sequence[Series],
    na: int,
    nb: int | Sequence[int],
    nc: int,
    nd: int,
    nf: int | Sequence[int],
    nk: int | Sequence[int],
) -> Structure:
    m = records[0].u.shape[1]
    na, nc, nd = (_whole(name, n, 0) for name, n in (("na", na), ("nc", nc), ("nd", nd)))
    each = {"nb": nb, "nf": nf, "nk": nk}
    lists = {}
    for name, value in each.items():
        parts = tuple(value) if isinstance(value, Sequence) else (value,) * m
        if len(parts) != m:
            raise ValueError(f"{name} is {value!r}; the data have {m} inputs, and each needs one")
        lists[name] = tuple(_whole(name, part, int(name == "nb")) for part in parts)
    return Structure(na, lists["nb"], nc, nd, lists["nf"], lists["nk"])


def _whole(name: str, value: Any, least: int) -> int:
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or value < least:
        raise ValueError(f"{name} is {value!r}; a whole number of at least {least} is needed")
    return int(value)


def _needs_inputs(structure: Structure, name: str) -> None:
    if not structure.nb:
        raise ValueError(f"{name} needs an input; for a series without one, see armax")


def _check_length(records: Sequence[Series], structure: Structure, at_rest: bool) -> None:
    past = 0 if at_rest else structure.noise_start + sum(structure.input_starts)
    lengths = [len(r.y) for r in records]
    left = sum(max(0, n - past) for n in lengths)
    if left <= structure.count:
        raise ValueError(
            f"the records are too short: lengths {lengths}, less {past} each for the initial "
            f"conditions, leave {left} samples for {structure.count} parameters"
        )


def _estimate(
    found: Descent[Point],
    records: Sequence[Series],
    structure: Structure,
    scales: tuple[Array, float],
    dt: float,
    tried: dict[str, float],
) -> PolynomialEstimate:
    """The result in the units of the data."""
    poly, signals, (up, out) = found.point.poly, found.point.signals, scales
    local = factored(records, poly, structure, signals)
    rests, taken = [s.error for s in signals], sum(s.basis.shape[1] for s in signals)
    count, power = sum(len(e) for e in rests), sum(float(e @ e) for e in rests)
    variance = power / max(count - structure.count - taken, 1)
    unit = [np.ones(structure.na)]
    unit += [np.full(n, out / scale) for n, scale in zip(structure.nb, up, strict=True)]
    unit += [np.ones(structure.nc + structure.nd + sum(structure.nf))]
    factor = np.concatenate(unit)
    covariance = variance * inverse_normal(local.R) * factor[:, None] * factor
    b = [part * out / scale for part, scale in zip(poly.b, up, strict=True)]
    spread = [r.y - r.y.mean() for r in records]
    model = PolynomialModel(
        torch.as_tensor(poly.a),
        [torch.as_tensor(part) for part in b],
        torch.as_tensor(poly.c),
        torch.as_tensor(poly.d),
        [torch.as_tensor(part) for part in poly.f],
        structure.nk,
        checked_dt(dt) or 1.0,
    )
    share = [
        100 * (1 - float(np.linalg.norm(e)) / (float(np.linalg.norm(s)) or 1.0))
        for e, s in zip(rests, spread, strict=True)
    ]
    return PolynomialEstimate(
        model,
        torch.as_tensor(covariance),
        variance * out**2,
        [torch.as_tensor(e * out) for e in rests],
        torch.tensor(share, dtype=torch.float64),
        power / count * out**2,
        count,
        found.iterations,
        found.converged,
        found.reason,
        {name: value * out**2 for name, value in tried.items()},
    )
