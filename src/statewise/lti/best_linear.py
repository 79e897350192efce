"""The best linear approximation of a system, with its noise and its nonlinear distortions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from statewise.lti._hankel import read_records
from statewise.lti._local_polynomial import local_polynomial
from statewise.lti.frequency_fit import FrequencyFit, fit_frequency_response
from statewise.lti.state_space import as_tensor, checked_dt

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex128]
# Amplitude of a line relative to the largest, above which it counts as excited.
EXCITED = 0.01
# Power of the mean over periods relative to its own noise, likewise.
CLEAR = 10.0


@dataclasses.dataclass(frozen=True, eq=False)
class BestLinearApproximation:
    """A nonparametric frequency response with its variances.

    Attributes:
        frequency: ω in radians per unit of time, (F,).
        response: G(ω), (F, p, m), complex: of all linear systems the one whose output is closest in
            mean square, for inputs of this spectrum and this distribution.
        noise_variance: E|G − E G|² that noise alone gives ``response``, (F, p, m); None where it
            cannot be told apart, without two periods.
        total_variance: the same of noise and nonlinear distortions together; None with a single
            realisation of periodic data.
        dt: sampling time.
        realisations: number of realisations, or of records.
        periods: least number of periods of a record; 0 for data without a period.
        freedom: real degrees of freedom of ``total_variance``, or of ``noise_variance`` where that
            is the only one.
    """

    frequency: Tensor
    response: Tensor
    noise_variance: Tensor | None
    total_variance: Tensor | None
    dt: float
    realisations: int
    periods: int
    freedom: int

    @property
    def angle(self) -> Tensor:
        """Frequencies in radians per sample, (F,)."""
        return self.frequency * self.dt

    @property
    def distortion_variance(self) -> Tensor | None:
        """Variance of nonlinear distortions in one realisation, M (total − noise), at least 0.

        None where noise and total are not both known. The distortions that depend on the phases
        are meant; those that do not are part of the response.
        """
        if self.noise_variance is None or self.total_variance is None:
            return None
        return (self.realisations * (self.total_variance - self.noise_variance)).clamp_min(0)

    @property
    def variance(self) -> Tensor:
        """The total variance, or that of the noise where it is the only one known."""
        known = self.total_variance if self.total_variance is not None else self.noise_variance
        assert known is not None
        return known

    def fit(
        self,
        order: int,
        *,
        smooth: int = 5,
        direct: bool = True,
        stable: bool = True,
        iterations: int = 100,
    ) -> FrequencyFit:
        """A state-space system that fits the response, weighted with its variance.

        Args:
            order: number of states.
            smooth: neighbours on each side over which a variance is averaged, since few
                realisations give uncertain ones.
            direct: see :func:`~statewise.lti.fit_frequency_response`.
            stable: see :func:`~statewise.lti.fit_frequency_response`.
            iterations: see :func:`~statewise.lti.fit_frequency_response`.
        """
        variance = self.variance
        weights = torch.ones(2 * smooth + 1, dtype=variance.dtype)
        columns = variance.flatten(1).mT[:, None]
        summed = torch.nn.functional.conv1d(columns, weights[None, None], padding=smooth)
        there = torch.nn.functional.conv1d(
            torch.ones_like(columns[:1]), weights[None, None], padding=smooth
        )
        averaged = (summed / there)[:, 0].mT.reshape(variance.shape)
        floor = 1e-20 * float(self.response.abs().square().max()) or 1.0
        return fit_frequency_response(
            self.response,
            self.frequency,
            order,
            dt=self.dt,
            variance=averaged.clamp_min(floor),
            direct=direct,
            stable=stable,
            iterations=iterations,
        )

    def plot(self) -> Figure:
        """Amplitudes in decibels: the response and the standard deviations, entry by entry."""
        from matplotlib.figure import Figure

        _, p, m = self.response.shape
        figure = Figure(figsize=(4.5 * m, 3.0 * p), layout="constrained")
        axes = figure.subplots(p, m, squeeze=False, sharex=True)
        curves = [("response", self.response.abs().square(), "-")]
        for name, values in (
            ("standard deviation", self.total_variance),
            ("of noise", self.noise_variance),
            ("of distortions, one realisation", self.distortion_variance),
        ):
            if values is not None:
                curves.append((name, values, "."))
        for i in range(p):
            for j in range(m):
                for name, values, style in curves:
                    level = 10 * values[:, i, j].clamp_min(1e-300).log10()
                    level = torch.where(values[:, i, j] > 0, level, math.nan)
                    axes[i, j].plot(self.frequency.numpy(), level.numpy(), style, label=name)
                axes[i, j].set_title(f"input {j + 1} to output {i + 1}")
                axes[i, j].set_ylabel("dB")
        for j in range(m):
            axes[-1, j].set_xlabel("frequency, radians per unit of time")
        axes[0, 0].legend()
        return figure

    def __repr__(self) -> str:
        count, p, m = self.response.shape
        kind = f"{self.periods} periods" if self.periods else "no period"
        return (
            f"BestLinearApproximation({count} frequencies, {m} inputs, {p} outputs, "
            f"{self.realisations} realisations, {kind})"
        )


@torch.no_grad()
def best_linear_approximation(
    u: Any,
    y: Any,
    *,
    dt: float = 1.0,
    period: int | None = None,
    transient: int = 0,
    lines: Sequence[int] | None = None,
    frequency: Any = None,
    degree: int = 2,
    freedom: int = 6,
) -> BestLinearApproximation:
    """Measure a frequency response, how noisy it is and how nonlinear the system is.

    Periodic data (``period`` given): the robust method. For each realisation of the input, and
    for m inputs each block of m experiments that follow one another, G = Y U⁻¹ from means over
    periods. What varies from period to period is noise; what varies from realisation to
    realisation is noise and nonlinear distortion. Noise of the inputs is allowed for.

    Other data: the local polynomial method. Around each frequency the response and the transient
    of each record are polynomials, fitted to the bins around; what is left gives the total
    variance. It resolves no more than its windows, of about 3 (m + 1) + ``freedom`` bins.

    Args:
        u: inputs, (T, m) or (T,), or a list of those. For periodic data one record is one
            experiment in its steady state, but for the ``transient`` periods.
        y: outputs, (T, p) or (T,), or a list of those.
        dt: sampling time.
        period: samples of a period; None for data without.
        transient: periods to drop at the start of each record. Samples that are too few for a
            period are dropped there too.
        lines: excited multiples of 1/period; None for those where the input has more than 1 % of
            its largest amplitude and, with several periods, stands out of its noise. With
            ``period`` only.
        frequency: where to estimate, radians per unit of time, between 0 and π/dt; None for the
            bins of the longest record. Without ``period`` only.
        degree: of the local polynomials.
        freedom: least number of bins beyond the coefficients of the local polynomials.

    Returns:
        The response with its variances.

    Raises:
        ValueError: shapes that do not fit; with ``period``, records shorter than a period, numbers
            of experiments that are no multiple of m, or neither two periods nor two realisations;
            inputs that do not excite all channels; an argument of the other kind of data.

    Source: Pintelon & Schoukens, System Identification: A Frequency Domain Approach, 2nd ed.
    (2012), chapters 3, 4 and 7; Pintelon, Schoukens, Vandersteen & Barbe, Estimation of
    nonparametric noise and FRF models for multivariable systems (2010), for the local polynomials.

    Example:
        >>> from statewise.lti import StateSpace, random_phase_multisine, simulate
        >>> u = random_phase_multisine(64, range(1, 32), realisations=4)
        >>> u = u.repeat(1, 3, 1)
        >>> y = simulate(StateSpace([[0.5]], [[1.0]], [[1.0]], dt=1.0), u)[0]
        >>> found = best_linear_approximation(list(u), list(y), period=64, transient=1)
        >>> found.response.shape, bool(found.total_variance.max() < 1e-12)
        (torch.Size([31, 1, 1]), True)
    """
    records = read_records(u, y)
    if not records.n_inputs:
        raise ValueError("u is None or has no channels; a frequency response needs an input")
    step = checked_dt(dt)
    if step is None:
        raise ValueError("dt is None; data have a sampling time")
    us = [(part[0] * records.u_scale[0]).numpy() for part in records.u]
    ys = [(part[0] * records.y_scale[0]).numpy() for part in records.y]
    if period is None:
        if lines is not None or transient:
            raise ValueError("lines and transient go with a period, and period is None")
        angles = _angles(frequency, [len(part) for part in ys], step)
        G, total, _, left = local_polynomial(us, ys, angles, degree, freedom)
        return BestLinearApproximation(
            torch.as_tensor(angles / step),
            torch.as_tensor(G),
            None,
            torch.as_tensor(total),
            step,
            len(ys),
            0,
            2 * left,
        )
    if frequency is not None:
        raise ValueError("frequency goes with data without a period; with one, give lines")
    return _robust(us, ys, period, transient, lines, step)


def _angles(frequency: Any, lengths: Sequence[int], dt: float) -> Array:
    if frequency is None:
        n = max(lengths)
        return np.arange(1, (n + 1) // 2) * 2 * math.pi / n
    given = as_tensor("frequency", frequency)
    if given.dim() != 1 or not len(given) or given.is_complex():
        raise ValueError(f"frequency has shape {tuple(given.shape)}; a real vector (F,) is needed")
    angles = given.to(torch.float64).numpy() * dt
    if not ((angles >= 0) & (angles <= math.pi)).all():
        raise ValueError(
            f"frequency runs from {angles.min() / dt:.6g} to {angles.max() / dt:.6g}; 0 to the "
            f"Nyquist frequency {math.pi / dt:.6g} is possible"
        )
    return angles


def _robust(
    us: Sequence[Array],
    ys: Sequence[Array],
    period: int,
    transient: int,
    lines: Sequence[int] | None,
    dt: float,
) -> BestLinearApproximation:
    if isinstance(period, bool) or not isinstance(period, int) or period < 3:
        raise ValueError(f"period is {period!r}; a whole number of at least 3 samples is needed")
    if transient < 0:
        raise ValueError(f"transient is {transient}; 0 or more periods can be dropped")
    m = us[0].shape[1]
    if len(us) % m:
        raise ValueError(
            f"{len(us)} experiments with {m} inputs; blocks of {m} experiments are needed, since "
            f"one alone cannot tell the inputs apart"
        )
    counts = [len(part) // period - transient for part in ys]
    if min(counts) < 1:
        raise ValueError(
            f"records of lengths {[len(part) for part in ys]} leave {min(counts)} periods of "
            f"{period} samples after {transient}; at least 1 is needed"
        )
    U = [_spectra(part, period, count) for part, count in zip(us, counts, strict=True)]
    Y = [_spectra(part, period, count) for part, count in zip(ys, counts, strict=True)]
    chosen = _excited(U, period) if lines is None else _checked_lines(lines, period)
    blocks = len(us) // m
    if blocks == 1 and min(counts) == 1:
        raise ValueError(
            "one realisation of one period says nothing about variances; give more periods, more "
            "realisations, or no period"
        )
    responses, noises = [], []
    for b in range(blocks):
        some = range(b * m, (b + 1) * m)
        means = np.stack([U[e][:, chosen].mean(0) for e in some], 2)
        _check_conditioned(means)
        inverse = np.linalg.inv(means)
        outputs = np.stack([Y[e][:, chosen].mean(0) for e in some], 2)
        G = np.asarray(outputs @ inverse, np.complex128)
        responses.append(G)
        if min(counts) > 1:
            spread = np.stack([_noise(U[e], Y[e], G, chosen) for e in some], 2)
            noises.append(spread @ np.abs(inverse) ** 2)
    G = np.mean(responses, 0)
    noise = np.mean(noises, 0) / blocks if noises else None
    total, freedom = None, 2 * (sum(counts) - len(counts))
    if blocks > 1:
        total = (np.abs(np.array(responses) - G) ** 2).sum(0) / (blocks * (blocks - 1))
        freedom = 2 * (blocks - 1)
    return BestLinearApproximation(
        torch.as_tensor(2 * math.pi * chosen / (period * dt)),
        torch.as_tensor(G),
        None if noise is None else torch.as_tensor(noise),
        None if total is None else torch.as_tensor(total),
        dt,
        blocks,
        min(counts),
        freedom,
    )


def _spectra(signal: Array, period: int, count: int) -> Complex:
    """The spectrum of each of the last ``count`` periods, (count, bins, channels)."""
    last = signal[len(signal) - count * period :]
    return np.fft.rfft(last.reshape(count, period, -1), axis=1)


def _excited(U: Sequence[Complex], period: int) -> npt.NDArray[np.int64]:
    inner = slice(1, (period + 1) // 2)
    power = np.mean([np.abs(part.mean(0)) ** 2 for part in U], 0)[inner]
    enough = power > EXCITED**2 * power.max(0)
    if min(len(part) for part in U) > 1:
        noise = np.mean([part.var(0) / (len(part) - 1) for part in U], 0)[inner]
        enough &= power > CLEAR * noise
    found = 1 + np.flatnonzero(enough.all(1))
    if not len(found):
        raise ValueError("no line excites all inputs; blocks of multisines that share lines do")
    return found


def _checked_lines(lines: Sequence[int], period: int) -> npt.NDArray[np.int64]:
    chosen = np.array(sorted(set(lines)), dtype=np.int64)
    if not len(chosen) or chosen[0] < 1 or 2 * chosen[-1] >= period:
        raise ValueError(
            f"lines are {list(lines)}; multiples from 1 to {(period - 1) // 2} of 1/period are "
            f"possible, and one at least is needed"
        )
    return chosen


def _check_conditioned(means: Complex) -> None:
    sigma = np.linalg.svd(means, compute_uv=False)
    if not (sigma[:, -1] > 1e-6 * sigma[:, 0].max()).all():
        raise ValueError(
            "the inputs of a block of experiments are not independent at every line; orthogonal "
            "multisines are, see random_phase_multisine; or give the lines that are excited"
        )


def _noise(U: Complex, Y: Complex, G: Complex, chosen: npt.NDArray[np.int64]) -> Array:
    """Variance of the mean over periods of Y − G U, (F, p)."""
    rest = Y[:, chosen] - np.einsum("fom,pfm->pfo", G, U[:, chosen])
    count = len(rest)
    rest = rest - rest.mean(0)
    return (np.abs(rest) ** 2).sum(0) / (count * (count - 1))
