"""The frequency response of the data, with its uncertainty, beside that of the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from statewise.data import Experiments
from statewise.lti import best_linear_approximation
from statewise.models import DeepWiener
from statewise.report.content import Channel, ResponseComparison
from statewise.report.path import physical_scale, small_signal_response

Array = npt.NDArray[np.float64]

FREQUENCIES = 48
#: Samples of a record that are looked at, and records.
LONGEST, RECORDS = 20_000, 8
#: Samples for each degree of freedom of the variances: longer records are averaged over more.
SAMPLES_EACH = 100
#: An input is left out when the others leave less of its variance unexplained.
UNEXPLAINED = 0.1
#: Frequencies are left out where an input has less power, relative to its largest.
POWER = 1e-6
#: Probability that the true response is in the disc around the estimate.
PROBABILITY = 0.95


def response_comparison(
    model: DeepWiener,
    train: Experiments,
    simulated: Sequence[Array],
    inputs: Sequence[Channel],
    outputs: Sequence[Channel],
    *,
    u_std: npt.ArrayLike,
    to_physical: Callable[[Array], Array],
) -> ResponseComparison | None:
    """Compare best linear approximations of measured and simulated outputs on the same inputs.

    Both come from the local polynomial method, which needs no periodic inputs and allows for
    transients; what it leaves over, noise and nonlinear distortions, gives the uncertainty.

    Args:
        model: the model, for its linearisation at the mean input.
        train: evenly sampled records; the longest stretch without a gap of each is used.
        simulated: outputs of the model on these records, (L, n_y) each.
        inputs: the input signals.
        outputs: the output signals.
        u_std: standard deviation of each input, (n_u,).
        to_physical: map from normalised outputs to those in physical units.

    Returns:
        The responses, or None for records that are too short, unevenly sampled, or whose inputs do
        not excite enough.
    """
    if any(record.t is not None for record in train) or len({record.dt for record in train}) > 1:
        return None
    stretches: list[tuple[Array, Array, Array]] = []
    for record, run in zip(train, simulated, strict=True):
        if record.u is not None:
            known = np.isfinite(np.hstack([record.u, record.y, run]))
            part = _longest(np.all(known, axis=1, keepdims=True)[:, 0])
            if part is not None:
                stretches.append((record.u[part], record.y[part], run[part]))
    stretches = sorted(stretches, key=lambda one: -len(one[0]))[:RECORDS]
    if not stretches:
        return None
    pooled = np.concatenate([u for u, _, _ in stretches])
    kept, left, along = independent(pooled)
    if not kept:
        return None
    us = [u[:, kept] for u, _, _ in stretches]
    length = max(len(u) for u in us)
    freedom = min(max(6, length // SAMPLES_EACH), 60)
    omega = _excited(us, freedom)
    if len(omega) < 5:
        return None
    try:
        measured, own = (
            best_linear_approximation(
                us, [one[k] for one in stretches], frequency=omega, freedom=freedom
            )
            for k in (1, 2)
        )
    except ValueError:
        return None
    response = small_signal_response(model, omega)
    response = response * physical_scale(model, len(inputs), u_std, to_physical)
    half = measured.freedom / 2
    # The quantile of the F distribution with 2 and ``freedom`` degrees.
    quantile = half * ((1 - PROBABILITY) ** (-1 / half) - 1)
    return ResponseComparison(
        inputs=tuple(inputs[j] for j in kept),
        outputs=tuple(outputs),
        left_out=tuple(inputs[j].name for j in left),
        omega=omega,
        data=measured.response.numpy(),
        radius=np.sqrt(quantile * measured.variance.numpy()),
        model=own.response.numpy(),
        linearised=response[:, :, kept] + response[:, :, left] @ along,
    )


def independent(u: Array) -> tuple[list[int], list[int], Array]:
    """Inputs that are not nearly combinations of those before them, the others, and how they are.

    Args:
        u: inputs (L, n_u).

    Returns:
        Indices of those kept, of those left out, and the matrix M (left out, kept) of the
        regression u_left ≈ M u_kept.
    """
    v = u - u.mean(0)
    kept: list[int] = []
    for j in range(v.shape[1]):
        power = float(v[:, j] @ v[:, j])
        rest = v[:, j]
        if kept:
            rest = rest - v[:, kept] @ np.linalg.lstsq(v[:, kept], rest, rcond=None)[0]
        if power > 0 and float(rest @ rest) > UNEXPLAINED * power:
            kept.append(j)
    left = [j for j in range(v.shape[1]) if j not in kept]
    if not kept or not left:
        return kept, left, np.zeros((len(left), len(kept)))
    return kept, left, np.linalg.lstsq(v[:, kept], v[:, left], rcond=None)[0].T


def _longest(known: npt.NDArray[np.bool_]) -> slice | None:
    """The longest run of samples that are all there, cut at ``LONGEST``."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], known.astype(int), [0]])))
    if not len(edges):
        return None
    first, stop = edges[::2], edges[1::2]
    best = int(np.argmax(stop - first))
    return slice(int(first[best]), min(int(stop[best]), int(first[best]) + LONGEST))


def _excited(us: Sequence[Array], freedom: int) -> Array:
    """Frequencies that windows of the method resolve and where all inputs have power."""
    window = 3 * (us[0].shape[1] + 1) + freedom + 2
    length = max(len(u) for u in us)
    if length < 4 * window:
        return np.empty(0)
    omega = np.geomspace(np.pi * window / length, 0.98 * np.pi, FREQUENCIES)
    good = np.ones(len(omega), bool)
    u = next(u for u in us if len(u) == length)
    power = np.abs(np.fft.rfft(u - u.mean(0), axis=0)) ** 2
    smooth = np.stack(
        [np.convolve(column, np.ones(window) / window, "same") for column in power.T], 1
    )
    place = np.clip(np.rint(omega * length / (2 * np.pi)).astype(int), 1, len(smooth) - 1)
    good &= (smooth[place] > POWER * smooth.max(0)).all(1)
    return omega[good]
