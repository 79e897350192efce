"""Polynomial models of one output as linear systems in innovation form."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from statewise.estimators._linear_found import Array, Found, Settings, frequencies

if TYPE_CHECKING:
    from statewise.lti import PolynomialEstimate

PATIENCE = 2
"""Orders of polynomials that may be worse one after the other before no larger one is tried."""


def polynomial(u: list[Array] | None, y: list[Array], settings: Settings) -> Found:
    """The system that a polynomial method finds.

    Raises:
        ValueError: a criterion that the method has not, or data too short.
    """
    if settings.criterion == "gap":
        raise ValueError(
            f'{settings.method} has no singular values, so that criterion "gap" cannot choose its '
            f'order; "bic" or "aic" can'
        )
    scores: dict[int, float] = {}
    best: PolynomialEstimate | None = None
    if settings.order is not None:
        order = settings.order
        best = _estimate(u, y, order, settings)
    else:
        order, complaint = 0, None
        for n in range(1, settings.largest_order + 1):
            try:
                found = _estimate(u, y, n, settings)
            except ValueError as error:
                complaint = error
                break
            scores[n] = _score(found, settings.criterion or "bic")
            if best is None or scores[n] < scores[order]:
                order, best = n, found
            elif n >= order + PATIENCE:
                break
        if best is None:
            raise ValueError(str(complaint))
    system, gain = best.model.innovation_form
    A, B, C, D = (M.numpy() for M in system.matrices)
    poles, deviation = _poles(best)
    omega = frequencies()
    return Found(
        (A, B, gain.numpy(), C, D),
        np.array([[best.variance]]),
        order,
        scores,
        np.zeros(0),
        _coefficients(best),
        poles,
        deviation,
        omega,
        best.response_deviation(omega).numpy(),
        best.converged,
        best.reason,
    )


def _estimate(
    u: list[Array] | None, y: list[Array], order: int, settings: Settings
) -> PolynomialEstimate:
    from statewise import lti

    n, nk = order, settings.delay
    nb = n + 1 if nk == 0 else n
    if settings.method == "arx":
        return lti.arx(u, y, n, nb, nk=nk)
    if settings.method == "armax":
        return lti.armax(u, y, n, nb, n, nk=nk)
    if settings.method == "oe":
        return lti.output_error(u, y, nb, n, nk=nk)
    return lti.box_jenkins(u, y, nb, n, n, n, nk=nk)


def _score(found: PolynomialEstimate, criterion: str) -> float:
    """A criterion for each sample: with more initial conditions, fewer samples count.

    It is infinite where the descent did not end: a model with too many parameters has no minimum.
    """
    if not found.converged:
        return math.inf
    value = {"bic": found.bic, "mdl": found.bic / 2, "aic": found.aic}[criterion]
    return value / found.samples if math.isfinite(value) else math.inf


def _coefficients(found: PolynomialEstimate) -> list[tuple[str, float, float]]:
    model, errors = found.model, found.standard_errors
    rows = []
    for letter, values, spread in (
        ("a", [model.a[1:]], [errors.a]),
        ("b", list(model.b), list(errors.b)),
        ("c", [model.c[1:]], [errors.c]),
        ("d", [model.d[1:]], [errors.d]),
        ("f", [part[1:] for part in model.f], list(errors.f)),
    ):
        for channel, (part, own) in enumerate(zip(values, spread, strict=True), 1):
            mark = f"{letter}{channel}" if letter in "bf" and len(values) > 1 else letter
            first = 0 if letter == "b" else 1
            for k, (value, error) in enumerate(zip(part.tolist(), own.tolist(), strict=True)):
                rows.append((f"{mark}[{k + first}]", value, error))
    return rows


def _poles(found: PolynomialEstimate) -> tuple[npt.NDArray[np.complex128], Array]:
    """Roots of A, or of every F_i, and by linearisation their standard deviations.

    λⁿ + p_1 λⁿ⁻¹ + … = 0 gives ∂λ/∂p_k = −λⁿ⁻ᵏ/P'(λ).
    """
    model, covariance = found.model, found.covariance.numpy()
    sizes = [len(model.a) - 1, *(len(b) for b in model.b), len(model.c) - 1, len(model.d) - 1]
    sizes += [len(f) - 1 for f in model.f]
    first = np.cumsum([0, *sizes])
    m = model.n_inputs
    parts = [(model.a, first[0]), *zip(model.f, first[m + 3 :], strict=False)]
    poles, deviation = [], []
    for polynomial, start in parts:
        p = polynomial.numpy()
        n = len(p) - 1
        if not n:
            continue
        roots = np.roots(p).astype(np.complex128)
        slope = np.polyval(np.polyder(p), roots)
        slope = np.where(slope == 0, np.nan, slope)  # a double root has no linearisation
        J = -(roots[:, None] ** (n - 1 - np.arange(n))) / slope[:, None]
        own = covariance[start : start + n, start : start + n]
        poles.append(roots)
        deviation.append(np.sqrt(np.maximum(np.real(((J @ own) * J.conj()).sum(1)), 0)))
    if not poles:
        return np.zeros(0, np.complex128), np.zeros(0)
    return np.concatenate(poles), np.concatenate(deviation)
