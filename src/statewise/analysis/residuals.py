"""Residual tests of system identification: is there anything left that a model could explain?

Two questions (Ljung, System Identification, 2nd ed., 1999, section 16.6): are the residuals white,
and are they uncorrelated with past inputs? Both tests take one record, or a list of records whose
sums are pooled; NaN means missing, and a pair of samples counts when both are there.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import chdtrc, ndtr, ndtri

Array = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class ResidualTest:
    """Correlations with their bounds, and a verdict.

    Attributes:
        channel: name of the output.
        lags: lags in samples, (K,).
        values: correlation at each lag, between about −1 and 1, (K,).
        bounds: half width at each lag of the interval that holds a correlation of zero with the
            probability ``confidence``, (K,).
        outside: fraction of the lags outside the bounds; about 1 − confidence is expected by
            chance. Lag 0 of a whiteness test is left out.
        statistic: the number behind ``p_value``.
        p_value: probability of a statistic at least this large when the hypothesis holds.
        confidence: confidence level of the bounds and of the verdict.
        passed: whether ``p_value`` is at least 1 − confidence; None when there is no variation
            to test.
        sentence: the result in words.
    """

    channel: str
    lags: npt.NDArray[np.int64]
    values: Array
    bounds: Array
    outside: float
    statistic: float
    p_value: float
    confidence: float
    passed: bool | None
    sentence: str

    def to_dict(self) -> dict[str, Any]:
        """Give the fields as JSON-ready values; a number that is not finite becomes None."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}


@dataclasses.dataclass(frozen=True, eq=False)
class Whiteness(ResidualTest):
    """Result of :func:`whiteness` for one output; ``statistic`` is the Ljung–Box Q."""


@dataclasses.dataclass(frozen=True, eq=False)
class InputCorrelation(ResidualTest):
    """Result of :func:`input_residual_correlation` for one input and one output.

    ``statistic`` is the largest |correlation| / standard error over the lags 0..M. ``outside``
    looks at the same lags.
    """

    input: str = ""


def whiteness(
    residuals: npt.ArrayLike | Sequence[npt.ArrayLike],
    max_lag: int = 25,
    confidence: float = 0.99,
    *,
    names: Sequence[str] | None = None,
    fitted: int = 0,
) -> list[Whiteness]:
    """Test whether residuals are white: autocorrelation with bounds, and Ljung–Box.

    r(k) = (mean of e(t) e(t+k) over the n_k pairs at lag k) / (mean of e²), after the mean of e is
    removed. White residuals have r(k) ~ N(0, 1/n_k) for k > 0, so the bounds are ± z/√n_k, with
    n_k = N − k when nothing is missing. Q = (N + 2)/N · Σ_{k=1..M} n_k r(k)² is then χ² with
    M − fitted degrees of freedom.

    Args:
        residuals: (L,) or (L, n_y), or a list of such records; NaN is missing.
        max_lag: largest lag M in samples.
        confidence: of the bounds and the verdict.
        names: names of the outputs; ``y1``, ``y2``, ... when None.
        fitted: number of parameters fitted to the autocorrelation of these residuals (the orders
            of a time-series model), taken off the degrees of freedom.

    Returns:
        One result per output.

    Raises:
        ValueError: too few samples for ``max_lag``, infinite values, or arguments out of range.

    Source: Ljung and Box, Biometrika 65 (1978) 297–303.
    """
    records = _records(residuals, "residuals")
    _check_arguments(records, max_lag, confidence)
    if not 0 <= fitted < max_lag:
        raise ValueError(f"fitted must be at least 0 and below max_lag {max_lag}, got {fitted}")
    z = float(ndtri(0.5 + 0.5 * confidence))
    lags = np.arange(max_lag + 1)
    results = []
    for index, name in enumerate(_names(names, records[0].shape[1], "y")):
        columns = [record[:, index] for record in records]
        e, n, constant = _centred(columns, name, max_lag)
        products, pairs = _correlate(e, e, max_lag)
        products, pairs = products[max_lag:], pairs[max_lag:]
        counted = np.maximum(pairs, 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            values = products / counted / (products[0] / n)
        bounds = np.where(pairs > 0, z / np.sqrt(counted), np.nan)
        q = float((n + 2) / n * np.sum(pairs[1:] * values[1:] ** 2))
        p = float(chdtrc(max_lag - fitted, q)) if not constant else math.nan
        outside = float(np.mean(np.abs(values[1:]) > bounds[1:]))
        passed = None if constant else p >= 1.0 - confidence
        if passed is None:
            sentence = f"The residuals of {name} are constant, so there is nothing to test."
        else:
            sentence = (
                f"The residuals of {name} {'look' if passed else 'are not'} white: Ljung–Box "
                f"Q = {q:.4g} over {max_lag} lags, {_probability(p)}; {100 * outside:.0f} % of the "
                f"lags are outside the {100 * confidence:g} % bounds."
            )
        results.append(
            Whiteness(name, lags, values, bounds, outside, q, p, confidence, passed, sentence)
        )
    return results


def input_residual_correlation(
    u: npt.ArrayLike | Sequence[npt.ArrayLike],
    residuals: npt.ArrayLike | Sequence[npt.ArrayLike],
    max_lag: int = 25,
    confidence: float = 0.99,
    *,
    input_names: Sequence[str] | None = None,
    names: Sequence[str] | None = None,
) -> list[InputCorrelation]:
    """Test whether residuals are uncorrelated with the inputs.

    r(k) = mean of u(t) e(t+k) / (std(u) std(e)) for k = −M..M. A value out of bounds at k ≥ 0 means
    that an effect of the input is missing from the model; at k < 0 that the output acts on the
    input (feedback). When the two are independent, √n_k r(k) is asymptotically normal with
    variance P = Σ_j R_e(j) R_u(j) / (R_e(0) R_u(0)), which accounts for the autocorrelation of
    both; the bounds are ± z √(P / n_k). P is estimated from the sample autocovariances under a
    Parzen window. The p-value is that of the largest |r(k)| √(n_k / P) over k = 0..M with Šidák's
    correction for M + 1 lags, which is safe whatever the correlation between lags.

    Args:
        u: inputs (L,) or (L, n_u), or a list of such records; NaN is missing.
        residuals: (L,) or (L, n_y), or a list, with the same lengths; NaN is missing.
        max_lag: largest lag M in samples.
        confidence: of the bounds and the verdict.
        input_names: names of the inputs; ``u1``, ``u2``, ... when None.
        names: names of the outputs; ``y1``, ``y2``, ... when None.

    Returns:
        One result per output and input: all inputs of the first output, then of the next.

    Raises:
        ValueError: lengths that differ, too few samples for ``max_lag``, infinite values, or
            arguments out of range.

    Source: Ljung, System Identification, 2nd ed., 1999, section 16.6.
    """
    inputs, outputs = _records(u, "u"), _records(residuals, "residuals")
    lengths = [len(record) for record in inputs], [len(record) for record in outputs]
    if lengths[0] != lengths[1]:
        raise ValueError(
            f"u has records of {lengths[0]} samples, residuals of {lengths[1]}: they must agree"
        )
    _check_arguments(outputs, max_lag, confidence)
    z = float(ndtri(0.5 + 0.5 * confidence))
    lags = np.arange(-max_lag, max_lag + 1)
    results = []
    for j, name in enumerate(_names(names, outputs[0].shape[1], "y")):
        e, n_e, constant_e = _centred([record[:, j] for record in outputs], name, max_lag)
        for i, input_name in enumerate(_names(input_names, inputs[0].shape[1], "u")):
            v, n_v, constant_v = _centred([r[:, i] for r in inputs], input_name, max_lag)
            products, pairs = _correlate(v, e, max_lag)
            power = _sum_of_squares(e) / n_e * _sum_of_squares(v) / n_v
            counted = np.maximum(pairs, 1)
            with np.errstate(divide="ignore", invalid="ignore"):
                values = products / counted / np.sqrt(power)
            spread = np.sqrt(_correlation_variance(v, e) / counted)
            bounds = np.where(pairs > 0, z * spread, np.nan)
            late = slice(max_lag, None)
            outside = float(np.mean(np.abs(values[late]) > bounds[late]))
            statistic, p, passed = math.nan, math.nan, None
            if constant_e or constant_v:
                culprit = f"residuals of {name} are" if constant_e else f"input {input_name} is"
                sentence = f"The {culprit} constant, so there is nothing to test."
            else:
                statistic = float(np.nanmax(np.abs(values[late]) / spread[late]))
                tail = 2.0 * float(ndtr(-statistic))
                p = -math.expm1((max_lag + 1) * math.log1p(-min(tail, 1.0 - 1e-16)))
                passed = p >= 1.0 - confidence
                sentence = (
                    f"The residuals of {name} {'look uncorrelated' if passed else 'correlate'} "
                    f"with past {input_name}: largest correlation {statistic:.3g} standard errors "
                    f"over the lags 0 to {max_lag}, {_probability(p)}; {100 * outside:.0f} % of "
                    f"them are outside the {100 * confidence:g} % bounds."
                )
            results.append(
                InputCorrelation(
                    channel=name,
                    lags=lags,
                    values=values,
                    bounds=bounds,
                    outside=outside,
                    statistic=statistic,
                    p_value=p,
                    confidence=confidence,
                    passed=passed,
                    sentence=sentence,
                    input=input_name,
                )
            )
    return results


def _correlation_variance(v: list[Array], e: list[Array]) -> float:
    """P = Σ_j w(j) R_e(j) R_v(j) / (R_e(0) R_v(0)) with a Parzen window w.

    Biased autocovariances and the Parzen window are positive semidefinite sequences, so their
    product is, too, and P ≥ 0 when nothing is missing; the floor covers the other cases.
    """
    n = max(len(record) for record in v)
    reach = min(n - 1, max(30, int(6.0 * math.sqrt(n))))
    r_e, r_v = _correlate(e, e, reach)[0], _correlate(v, v, reach)[0]
    scale = r_e[reach] * r_v[reach]
    if scale == 0.0:
        return 1.0
    x = np.abs(np.arange(-reach, reach + 1)) / (reach + 1)
    window = np.where(x <= 0.5, 1.0 - 6.0 * x**2 * (1.0 - x), 2.0 * (1.0 - x) ** 3)
    return max(float(np.sum(window * r_e * r_v)) / float(scale), 1.0 / (2 * reach + 1))


def _correlate(a: list[Array], b: list[Array], max_lag: int) -> tuple[Array, Array]:
    """Sums of a(t) b(t+k) and numbers of pairs for k = −max_lag..max_lag, pooled over records."""
    products, pairs = np.zeros(2 * max_lag + 1), np.zeros(2 * max_lag + 1)
    for x, y in zip(a, b, strict=True):
        size = 1 << (2 * len(x) - 1).bit_length()
        reach = min(max_lag, len(x) - 1)
        place = slice(max_lag - reach, max_lag + reach + 1)
        for total, left, right in (
            (products, np.nan_to_num(x), np.nan_to_num(y)),
            (pairs, (~np.isnan(x)).astype(float), (~np.isnan(y)).astype(float)),
        ):
            spectrum = np.conj(np.fft.rfft(left, size)) * np.fft.rfft(right, size)
            full = np.fft.irfft(spectrum, size)
            total[place] += np.concatenate([full[size - reach :], full[: reach + 1]])
    return products, np.round(pairs)


def _centred(columns: list[Array], name: str, max_lag: int) -> tuple[list[Array], int, bool]:
    """Remove the pooled mean; give also the number of samples and whether all are equal."""
    observed = np.concatenate([column[~np.isnan(column)] for column in columns])
    if observed.size < max_lag + 2:
        raise ValueError(
            f"{name} has {observed.size} samples that are not missing; "
            f"max_lag {max_lag} needs at least {max_lag + 2}"
        )
    mean = float(np.mean(observed))
    constant = bool(observed.min() == observed.max())
    centred = [np.where(np.isnan(c), c, 0.0) if constant else c - mean for c in columns]
    return centred, int(observed.size), constant


def _sum_of_squares(records: list[Array]) -> float:
    return float(sum(np.nansum(record**2) for record in records))


def _records(data: Any, what: str) -> list[Array]:
    """Turn one record or a list of records into a list of (L, n) arrays."""
    several = isinstance(data, list | tuple) and any(np.ndim(item) > 0 for item in data)
    records = []
    for item in data if several else [data]:
        array = np.asarray(item, dtype=np.float64)
        if array.ndim == 1:
            array = array[:, None]
        if array.ndim != 2 or array.size == 0:
            raise ValueError(f"{what} must be (L,) or (L, n) per record, got {np.shape(item)}")
        if np.isinf(array).any():
            raise ValueError(f"{what} holds infinite values; mark missing samples by NaN")
        records.append(array)
    if len({record.shape[1] for record in records}) > 1:
        widths = [record.shape[1] for record in records]
        raise ValueError(f"the records of {what} have different numbers of channels: {widths}")
    return records


def _check_arguments(records: list[Array], max_lag: int, confidence: float) -> None:
    if max_lag < 1:
        raise ValueError(f"max_lag must be at least 1, got {max_lag}")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence}")
    longest = max(len(record) for record in records)
    if longest <= max_lag:
        raise ValueError(f"max_lag {max_lag} needs a record longer than that, got {longest}")


def _names(names: Sequence[str] | None, n: int, letter: str) -> list[str]:
    if names is None:
        return [f"{letter}{index + 1}" for index in range(n)]
    if len(names) != n:
        raise ValueError(f"{n} channels need {n} names, got {len(names)}: {list(names)}")
    return list(names)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value.tolist()]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value


def _probability(p: float) -> str:
    """``p = 0.03``; a value too small to tell from 0 is given as a bound."""
    return f"p = {p:.2g}" if p >= 1e-16 else "p < 1e-16"
