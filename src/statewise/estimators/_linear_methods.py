"""One linear system from records by any of the methods, in the same form."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from statewise.estimators._linear_found import POLYNOMIAL, Array, Found, Settings, frequencies
from statewise.estimators._polynomial_methods import polynomial
from statewise.lti.weightings import WEIGHTINGS

if TYPE_CHECKING:
    from statewise.lti import RefinedSystem, SubspaceResult

ROUNDS = 6


def identify(stretches: Sequence[tuple[Array, Array]], settings: Settings) -> Found:
    """The system that a method finds in stretches of scaled inputs and outputs.

    Raises:
        ValueError: a method that does not suit the data, or data too short.
    """
    u = None if not stretches[0][0].shape[1] else [u for u, _ in stretches]
    y = [y for _, y in stretches]
    if settings.method in POLYNOMIAL:
        return polynomial(u, y, settings)
    if settings.method == "auto":
        if u is not None:
            with contextlib.suppress(ValueError):  # too short to hold samples out
                return _selected(u, y, settings)
        settings = plain(settings)
    return _state_space(u, y, settings)


def plain(settings: Settings) -> Settings:
    """Canonical variates instead of a search."""
    return dataclasses.replace(settings, method="cva", criterion=settings.criterion or "bic")


def constant_outputs(
    stretches: Sequence[tuple[Array, Array]], settings: Settings
) -> npt.NDArray[np.float64]:
    """Constants c of y = G u + c, (p,), that a subspace model with them explains best.

    The mean of the outputs over a record is not the answer to the mean of the inputs, because of
    what was before the record. The model is identified on y − c, and c found anew, until it stays.
    """
    c = np.zeros(stretches[0][1].shape[1])
    simple = plain(settings)
    if settings.method in POLYNOMIAL:
        simple = dataclasses.replace(simple, order=None, criterion="bic")
    if settings.method in WEIGHTINGS:
        simple = settings
    for turn in range(ROUNDS):
        shifted = [(u, y - c) for u, y in stretches]
        # Differences have no constants, which a model of free order explains by one more state.
        free = [(np.diff(u, axis=0), np.diff(y, axis=0)) for u, y in stretches]
        try:
            found = identify(shifted if turn else free, simple)
        except ValueError:  # too short for the horizons
            return c
        change, settled = _constant(found, shifted)
        if not np.isfinite(c + change).all():
            return c
        c = c + change
        if turn and (np.abs(change) <= settled).all():
            break
    return c


def _constant(found: Found, stretches: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Constants that lower the one-step errors most, and a tenth of their standard errors.

    Errors depend linearly on the constants and on the first state of each stretch.
    """
    p = len(found.covariance)
    noise = np.sqrt(np.maximum(np.diag(found.covariance), 1e-24))
    normal, right = np.eye(p), np.zeros(p)
    longest = max(len(u) for u, _ in stretches)
    start, unit = _errors_of_states(found, longest), _errors_of_constants(found, longest)
    for u, y in stretches:
        errors = (_errors(found, u, y) / noise).ravel()
        x = (start[: len(u)] / noise[:, None]).reshape(errors.size, -1)
        s = (unit[: len(u)] / noise[:, None]).reshape(errors.size, p)
        Q = np.linalg.qr(x)[0]
        s, errors = s - Q @ (Q.T @ s), errors - Q @ (Q.T @ errors)
        normal += s.T @ s
        right += s.T @ errors
    inverse = np.linalg.inv(normal)
    return inverse @ right, 0.1 * np.sqrt(np.diag(inverse))


def _errors(found: Found, u: Array, y: Array) -> Array:
    """One-step errors (L, p) from rest."""
    A, B, K, C, D = found.matrices
    given = y - u @ D.T
    drive = u @ B.T
    x, errors = np.zeros(len(A)), np.empty_like(y)
    for t in range(len(u)):
        errors[t] = given[t] - C @ x
        x = A @ x + drive[t] + K @ errors[t]
    return errors


def _errors_of_states(found: Found, length: int) -> Array:
    """What one unit of each first state takes from the errors, (L, p, n)."""
    A, _, K, C, _ = found.matrices
    power, rows = np.eye(len(A)), np.empty((length, *C.shape))
    for t in range(length):
        rows[t] = C @ power
        power = (A - K @ C) @ power
    return rows


def _errors_of_constants(found: Found, length: int) -> Array:
    """What a constant 1 on each output adds to the errors, (L, p, p)."""
    A, _, K, C, _ = found.matrices
    x, rows = np.zeros(K.shape), np.empty((length, len(C), len(C)))
    for t in range(length):
        rows[t] = np.eye(len(C)) - C @ x
        x = A @ x + K @ rows[t]
    return rows


def _selected(u: list[Array], y: list[Array], settings: Settings) -> Found:
    from statewise import lti
    from statewise.lti.validated import HORIZONS

    picked = lti.identify_validated(
        u,
        y,
        settings.order,
        largest_order=settings.largest_order,
        direct=settings.delay == 0,
        stability=settings.radius or 1.0,
        horizons=HORIZONS if settings.horizon is None else (settings.horizon,),
    )
    best, model = picked.candidates[0], picked.model
    scores: dict[int, float] = {}
    for one in picked.candidates:
        scores[one.order] = min(one.error, scores.get(one.order, math.inf))
    scores = {n: scores[n] for n in sorted(scores)} if settings.order is None else {}
    how = f"{best.weighting.name}, horizon {best.horizon}"
    if picked.kind != "subspace":
        how += f", refined by {picked.kind}"
    found = _estimated(model, picked.start, scores)
    return dataclasses.replace(found, how=how)


def _state_space(u: list[Array] | None, y: list[Array], settings: Settings) -> Found:
    from statewise import lti

    refined = settings.method == "refine"
    given = settings.order

    def subspace(order: int | None, method: str) -> SubspaceResult:
        return lti.identify(
            u,
            y,
            order,
            weighting=WEIGHTINGS[method],
            horizon=settings.horizon,
            largest_order=None if order is not None else settings.largest_order,
            criterion=settings.criterion or "bic",
            direct=settings.delay == 0,
            stability=settings.radius,
        )

    found = subspace(given, "cva" if refined else settings.method)
    scores = {}
    if given is None:
        scores = dict(enumerate(found.order_scores[settings.criterion or "bic"].tolist(), 1))
    if not refined:
        return _estimated(found, found, scores)
    starts: list[Any] = [found]
    with contextlib.suppress(ValueError):  # one start is enough
        starts.append(subspace(found.order, "moesp"))
    best = lti.refine(starts, u, y, direct=settings.delay == 0, stability=settings.radius)
    return _estimated(best, found, scores)


def _estimated(
    model: SubspaceResult | RefinedSystem, start: SubspaceResult, scores: dict[int, float]
) -> Found:
    """A state-space model in the common form; a refined one has deviations."""
    from statewise.lti import RefinedSystem

    p, m = model.system.D.shape
    poles, deviation = np.linalg.eigvals(model.system.A.numpy()), np.zeros(0)
    omega, spread = np.zeros(0), np.zeros((0, p, m))
    converged, reason = True, "a linear problem"
    if isinstance(model, RefinedSystem):
        values, own = model.pole_deviation()
        poles, deviation, omega = values.numpy(), own.numpy(), frequencies()
        spread = model.response_deviation(omega).numpy()
        converged, reason = model.converged, model.reason
    return Found(
        _innovation(model),
        model.innovation_covariance.numpy(),
        start.order,
        scores,
        start.singular_values.numpy(),
        [],
        poles.astype(np.complex128),
        deviation,
        omega,
        spread,
        converged,
        reason,
        subspace=None if isinstance(model, RefinedSystem) else model,
    )


def _innovation(found: SubspaceResult | RefinedSystem) -> Any:
    A, B, C, D = (M.numpy() for M in found.system.matrices)
    return A, B, found.K.numpy(), C, D
