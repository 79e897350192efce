"""How sure the poles and the response of an identified linear system are."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from statewise.estimators._linear_found import Settings, frequencies

if TYPE_CHECKING:
    from statewise.estimators.linear_system import LinearSystem
    from statewise.lti import BootstrapResult, SubspaceResult

Array = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]

LEVEL = 0.9
ERRORS = 2.0
"""Standard errors to each side, where an information matrix gives them."""
SILENT = 1e-4
"""Part of the peak of an input's spectrum below which a frequency counts as not excited."""
NEAR = 1.25
"""Factor of a frequency within which excitation counts: a rational response is smooth there."""
SEGMENT = 1024
LEAST = 1e-3
STILL = 1e-9
"""Range of scaled inputs below which they count as constant."""


class StillInputWarning(UserWarning):
    """Inputs never move in the training records, so that what they do cannot be identified."""


@dataclasses.dataclass(frozen=True, eq=False)
class LinearUncertainty:
    """Bands of a linear system about its estimate.

    Attributes:
        how: what they come from, in words: "bootstrap, 50 simulated records" or "information
            matrix".
        width: what the bands are: "90 % band", pointwise, or "2 standard errors".
        poles: as ``poles_`` of the system, (n,).
        pole_deviation: standard deviation of each pole, bias included, (n,); NaN where unknown.
        time_constant_band: least and largest time constant of each pole, (n, 2), in units of time;
            inf where the data allow a pole that does not decay, NaN where the method gives none.
        omega: frequencies in radians per sample, (F,).
        gain: absolute value of the response, (F, n_y, n_u), in output per input unit.
        gain_band: its least and largest value, (F, n_y, n_u, 2); 0 and inf for an input that never
            moved.
        phase: in radians, continuous along the frequencies, (F, n_y, n_u).
        phase_band: its least and largest value, (F, n_y, n_u, 2); at most half a turn to each side.
        response_deviation: standard deviation of the response, (F, n_y, n_u).
        excited: whether the training inputs say something about a frequency, (F, n_u): a record
            holds a period of it, and near it the input's power is above 1e-4 of its peak. All where
            the training inputs are not known, in a model that was loaded.
    """

    how: str
    width: str
    poles: npt.NDArray[np.complex128]
    pole_deviation: Array
    time_constant_band: Array
    omega: Array
    gain: Array
    gain_band: Array
    phase: Array
    phase_band: Array
    response_deviation: Array
    excited: npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """What a fit keeps to say later how sure it is.

    Attributes:
        inputs: scaled inputs of the stretches that were identified from, (L, m) each.
        settings: what the method was asked for.
        subspace: the model, where it is one of a subspace method.
    """

    inputs: tuple[Array, ...]
    settings: Settings
    subspace: SubspaceResult | None

    def bootstrap(self, replicates: int, seed: int) -> BootstrapResult:
        """Models of records that the model makes, between scaled signals."""
        from statewise import lti

        assert self.subspace is not None
        radius = self.settings.radius
        if radius is None and self.settings.method == "auto" and self.subspace.focus == "states":
            radius = 1.0
        inputs = list(self.inputs)
        return lti.bootstrap(
            self.subspace,
            inputs if inputs[0].shape[1] else None,
            [len(u) for u in inputs],
            replicates=replicates,
            seed=seed,
            direct=self.settings.delay == 0,
            stability=radius,
        )

    def excited(self, omega: Array) -> npt.NDArray[np.bool_]:
        """Whether the inputs say something about frequencies in radians per sample, (F, m)."""
        return excitation(self.inputs, omega)


def linear_uncertainty(
    model: LinearSystem, source: Source | None, replicates: int, seed: int
) -> LinearUncertainty | None:
    """The bands of a fitted system; see :meth:`LinearSystem.uncertainty`."""
    from statewise.lti import frequency_response

    given = bool(len(model.response_deviation_))
    if not given and (source is None or source.subspace is None):
        return None
    omega = model.omega_ if given else frequencies()
    dt = 1.0 if model.dt_ is None else model.dt_
    response = frequency_response(model.system_, omega / dt).numpy()
    gain, phase = np.abs(response), np.unwrap(np.angle(response), axis=0)
    n, m = len(model.poles_), response.shape[-1]
    excited = np.ones((len(omega), m), bool) if source is None else source.excited(omega)
    if given:
        how, width = "information matrix", f"{ERRORS:g} standard errors"
        deviation, poles = model.response_deviation_, model.pole_deviation_
        times = np.full((n, 2), np.nan)
        low, high = np.maximum(gain - ERRORS * deviation, 0.0), gain + ERRORS * deviation
        share = np.divide(ERRORS * deviation, gain, out=np.ones_like(gain), where=gain > 0)
        turn = np.where(share < 1, np.arcsin(np.minimum(share, 1.0)), np.pi)
    else:
        assert source is not None
        how, width = f"bootstrap, {replicates} simulated records", f"{100 * LEVEL:.0f} % band"
        made = source.bootstrap(replicates, seed)
        order = _places(model.poles_, made.poles.numpy())
        poles = made.pole_deviation()[1].numpy()[order]
        times = _time_constants(model.poles_, made.replicated_poles.numpy()[:, order], dt)
        out, into = model.normaliser_.y_std, model.normaliser_.u_std
        responses = made.responses(omega).numpy() * out[:, None] / into
        deviation = np.sqrt(np.mean(np.abs(responses - response) ** 2, 0))
        tiny = np.finfo(float).tiny
        ratio = np.maximum(np.abs(responses), tiny) / np.maximum(gain, tiny)
        factor = np.exp(_covering(np.log(ratio)))
        low, high = gain / factor, gain * factor
        turn = _covering(np.angle(responses * np.conj(response)))
    unknown = np.broadcast_to(~excited.any(0), gain.shape)
    low, high = np.where(unknown, 0.0, low), np.where(unknown, np.inf, high)
    turn = np.where(unknown, np.pi, turn)
    return LinearUncertainty(
        how,
        width,
        model.poles_,
        poles,
        times,
        omega,
        gain,
        np.stack([low, high], -1),
        phase,
        np.stack([phase - turn, phase + turn], -1),
        np.where(unknown, np.inf, deviation),
        excited,
    )


def said_of_still(names: Sequence[str]) -> str:
    """One sentence on inputs that never move."""
    which = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
    is_, what = ("is", "it does") if len(names) == 1 else ("are", "they do")
    return f"{which} {is_} constant in the training records: nothing of what {what} is identified"


def warn_of_still(names: Sequence[str], inputs: Sequence[Array]) -> tuple[str, ...]:
    """The names of inputs that never move, with a warning on them for the caller's caller."""
    still = tuple(np.array(names, dtype=object)[~_moving(inputs)].tolist())
    if still:
        warnings.warn(said_of_still(still), StillInputWarning, stacklevel=3)
    return still


def _moving(inputs: Sequence[Array]) -> npt.NDArray[np.bool_]:
    every = np.concatenate(inputs)
    return np.ptp(every, axis=0) > STILL


def excitation(inputs: Sequence[Array], omega: Array) -> npt.NDArray[np.bool_]:
    """Where input records have power, (F, m): see :class:`LinearUncertainty`."""
    longest = max(len(u) for u in inputs)
    size = min(longest, SEGMENT)
    window = np.hanning(size + 2)[1:-1, None]
    power = np.zeros((4 * size // 2 + 1, inputs[0].shape[1]))
    for u in inputs:
        for start in range(0, len(u) - size + 1, max(1, size // 2)):
            power += np.abs(np.fft.rfft(window * u[start : start + size], 4 * size, axis=0)) ** 2
    at = np.linspace(0, np.pi, len(power))
    strongest = np.empty((len(omega), power.shape[1]))
    for k, w in enumerate(omega):
        first, last = np.searchsorted(at, [w / NEAR, w * NEAR])
        strongest[k] = power[max(0, first - 1) : last + 1].max(0)
    whole = (omega >= 2 * np.pi / longest)[:, None]
    return (strongest > SILENT * power.max(0)) & whole & _moving(inputs)


def _covering(deviations: Array) -> Array:
    """The size that a new deviation does not pass with the probability of the level, (F, ...)."""
    count = len(deviations)
    rank = min(count, math.ceil(LEVEL * (count + 1)))
    return np.sort(np.abs(deviations), axis=0)[rank - 1]


def _places(poles: npt.NDArray[np.complex128], others: npt.NDArray[np.complex128]) -> Places:
    """Where each pole stands among the same poles in another order."""
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(np.abs(poles[:, None] - others))[1]


def _time_constants(
    poles: npt.NDArray[np.complex128], replicated: npt.NDArray[np.complex128], dt: float
) -> Array:
    """Bands by those of the rates −log|λ|, the same for conjugate poles, (n, 2)."""
    rate, rates = (-np.log(np.maximum(np.abs(x), LEAST)) / dt for x in (poles, replicated))
    away = np.abs(rates - rate)
    away = np.maximum(away, away[:, np.abs(poles[:, None] - poles.conj()).argmin(1)])
    reach = _covering(away)
    with np.errstate(divide="ignore"):
        slowest = np.where(rate > reach, 1 / np.maximum(rate - reach, 0.0), np.inf)
    return np.stack([1 / (rate + reach), slowest], -1)
