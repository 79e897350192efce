"""Numbers, times and names as words on the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

_THIN = "\u202f"
_MINUS = "\u2212"
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_UNITS = {
    "ns": "nanoseconds",
    "us": "microseconds",
    "ms": "milliseconds",
    "s": "seconds",
    "min": "minutes",
    "h": "hours",
    "d": "days",
    "": "samples",
}
_SPLITS = {"train": "training", "valid": "validation"}
METRICS = {
    "rmse": "RMSE",
    "mae": "MAE",
    "nrmse": "NRMSE",
    "fit": "FIT",
    "fit_percent": "FIT",
    "r2": "R²",
    "nse": "NSE",
    "vaf": "VAF",
}
#: What each metric means, for the note below the error table.
MEANINGS = {
    "RMSE": "root mean squared error, in the unit of the output",
    "MAE": "mean absolute error, in the unit of the output",
    "NRMSE": "RMSE over the standard deviation of the output; 0 is perfect, 1 is the mean",
    "FIT": "100 (1 − NRMSE) %; 100 is perfect",
    "R²": "1 − NRMSE², the share of the variance explained",
    "NSE": "1 − NRMSE² (Nash–Sutcliffe, the same as R²), the share of the variance explained",
    "VAF": "variance accounted for, which does not see a constant offset",
}
_PERCENT = frozenset({"fit", "fit_percent", "vaf"})
_SHARES = frozenset({"nse", "r2"})
HIGHER_IS_BETTER = frozenset({"fit", "fit_percent", "r2", "nse", "vaf"})


def number(value: Any, digits: int = 4) -> str:
    """A number with ``digits`` significant digits, "–" when it is missing or undefined."""
    if value is None or (isinstance(value, float | np.floating) and math.isnan(value)):
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    value = float(value)
    if math.isinf(value):
        return "∞" if value > 0 else f"{_MINUS}∞"
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}"))))
    if exponent < -4 or exponent >= 7:
        mantissa = f"{value / 10.0**exponent:.{digits - 1}f}".rstrip("0").rstrip(".")
        return f"{mantissa}·10{str(exponent).translate(_SUPERSCRIPT)}".replace("-", _MINUS)
    text = f"{value:.{max(digits - 1 - exponent, 0)}f}"
    return _grouped(text).replace("-", _MINUS)


def exact(value: float) -> str:
    """A setting as it was given, without trailing zeros."""
    return f"{value:.10g}".replace("-", _MINUS)


def count(value: int) -> str:
    """A whole number with thin spaces between thousands."""
    return _grouped(str(int(value))).replace("-", _MINUS)


def _grouped(text: str) -> str:
    whole, dot, rest = text.partition(".")
    sign, whole = ("-", whole[1:]) if whole.startswith("-") else ("", whole)
    if len(whole) > 4:
        whole = f"{int(whole):,}".replace(",", _THIN)
    return sign + whole + dot + rest


def tick(value: float, _position: int | None = None) -> str:
    """A tick label: powers of ten above 10⁴ and below 10⁻³, plain numbers between."""
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)) + 1e-9)
    if -3 <= exponent < 5:
        return f"{value:.10g}".replace("-", _MINUS)
    mantissa = value / 10.0**exponent
    power = f"10{str(exponent).translate(_SUPERSCRIPT)}"
    if abs(mantissa - 1) < 1e-6:
        return power
    return f"{mantissa:.4g}·{power}".replace("-", _MINUS)


def percent_explained(nse: float) -> str:
    """The share of variance explained; more digits the nearer it is to 100 %."""
    share = 100.0 * nse
    if share < 95:
        return f"{share:.0f} %".replace("-", _MINUS)
    if share >= 100:
        return "100 %"
    digits = max(1 - math.floor(math.log10(100.0 - share)), 1)
    return f"{share:.{digits}f} %" if digits <= 6 else "more than 99.9999 %"


def unit_words(unit: str) -> str:
    """A time unit in the plural: "d" becomes "days"; unknown units stay."""
    return _UNITS.get(unit, unit)


def split_name(split: str) -> str:
    """A part of the data in words."""
    return _SPLITS.get(split, split)


def unit_word(unit: str) -> str:
    """A time unit in the singular: "d" becomes "day"."""
    return unit_words(unit).removesuffix("s") if unit in (*_UNITS, "samples") else unit


def column(values: Sequence[float | None], metric: str = "") -> list[str]:
    """Numbers below each other with the same number of decimals, so that they line up.

    Percentages have 2 decimals; NSE and R² have 4, or 6 close to 1; others as many as give the
    smallest 4 significant digits. Numbers too far apart for that stand each by itself.
    """
    known = [abs(v) for v in values if v is not None and math.isfinite(v) and v != 0]
    relative = metric in _PERCENT or metric in _SHARES
    if not known or max(known) >= 1e6 or (min(known) < 1e-4 and not relative):
        return [number(value) for value in values]
    if metric in _PERCENT:
        decimals = 2
    elif metric in _SHARES:
        decimals = 6 if any(v is not None and 0.999 < v < 1 for v in values) else 4
    else:
        decimals = max(3 - math.floor(math.log10(min(known))), 0)
        if max(known) > 1e3 * min(known):
            return [number(value) for value in values]
    return [
        number(value)
        if value is None or not math.isfinite(value)
        else _grouped(f"{round(value, decimals) + 0.0:.{decimals}f}").replace("-", _MINUS)
        for value in values
    ]


def duration(samples: int, dt: float | None, unit: str) -> str:
    """How much data: "1096 days", "40 000 samples (65.5 seconds)", "512 samples"."""
    if dt is None or unit in ("", "samples"):
        return f"{count(samples)} samples"
    if dt == 1:
        return f"{count(samples)} {unit_words(unit)}"
    return f"{count(samples)} samples ({number(samples * dt, 3)} {unit_words(unit)})"


def stamp(value: Any, unit: str = "") -> str:
    """A point on the time axis in words: a date, or a number with its unit."""
    if isinstance(value, np.datetime64):
        for resolution in ("D", "m", "s", "ms"):
            if value.astype(f"datetime64[{resolution}]") == value:
                return str(value.astype(f"datetime64[{resolution}]")).replace("T", " ")
        return str(value).replace("T", " ")
    text = f"{float(value):.7g}".replace("-", _MINUS)
    return f"{text} {unit}".rstrip() if unit and unit != "samples" else text


def shorten(text: str, length: int = 28) -> str:
    """A name cut to ``length`` characters with an ellipsis."""
    return text if len(text) <= length else text[: length - 1] + "…"


def metric_name(metric: str) -> str:
    """The usual spelling of a metric."""
    return METRICS.get(metric, metric)
