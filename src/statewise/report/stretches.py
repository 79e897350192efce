"""Which stretch of a record to look at closely: the worst one and a typical one."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from statewise.report.content import Trace

SHORTEST, LONGEST = 40, 400
#: A record is divided into about this many stretches.
PARTS = 12


@dataclasses.dataclass(frozen=True)
class Stretch:
    """A run of samples of a record.

    Attributes:
        kind: "worst" or "typical".
        first: index of the first sample.
        stop: index after the last.
        rmse: root mean squared error over it, in the unit of the output.
    """

    kind: str
    first: int
    stop: int
    rmse: float


def stretches(trace: Trace, method: str) -> list[Stretch]:
    """Find the stretch with the largest error energy, and one whose error is the median.

    All stretches of one length within the scored part compete (a twelfth of it, 40 to 400
    samples); those with less than half of their samples measured do not. The typical stretch does
    not overlap the worst one when the record is long enough.

    Args:
        trace: measured and simulated output.
        method: whose error counts.

    Returns:
        The worst stretch and the typical one; only the worst when the record is hardly longer; none
        when ``method`` was not simulated or nothing was measured.
    """
    if method not in trace.simulated:
        return []
    error = trace.errors(method)
    first, length = trace.skip, len(error) - trace.skip
    observed = np.isfinite(error[first:])
    if not observed.any():
        return []
    width = min(max(length // PARTS, SHORTEST), LONGEST, length)
    energy = _sliding_sum(np.where(observed, error[first:], 0.0) ** 2, width)
    number = _sliding_sum(observed.astype(np.float64), width)
    enough = number >= min(0.5 * width, number.max())
    score = np.where(enough, energy, -np.inf)
    worst = int(np.argmax(score))
    found = [_stretch("worst", error, first + worst, width)]
    if length < 2 * width:
        return found
    mean = np.where(enough, energy / np.maximum(number, 1.0), np.nan)
    middle = np.nanmedian(mean)
    apart = np.abs(np.arange(len(mean)) - worst) >= width
    distance = np.where(apart & enough, np.abs(mean - middle), np.inf)
    typical = int(np.argmin(distance))
    if np.isfinite(distance[typical]):
        found.append(_stretch("typical", error, first + typical, width))
    return found


def _sliding_sum(values: npt.NDArray[np.float64], width: int) -> npt.NDArray[np.float64]:
    """Sums of ``width`` neighbours; cumulative sums that cannot turn negative by rounding."""
    total = np.concatenate(([0.0], np.cumsum(values)))
    return np.maximum(total[width:] - total[:-width], 0.0)


def _stretch(kind: str, error: npt.NDArray[np.float64], first: int, width: int) -> Stretch:
    # The cumulative sums above lose digits; the number shown is computed afresh.
    rmse = float(np.sqrt(np.nanmean(error[first : first + width] ** 2)))
    return Stretch(kind, first, first + width, rmse)
