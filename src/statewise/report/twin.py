"""The JSON twin of a report: every number that the page shows, and those behind its figures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from statewise.report.content import (
    LayerSummary,
    ReductionCurve,
    ReportData,
    ResponseComparison,
    Trace,
)
from statewise.report.findings import findings
from statewise.report.headline import headline
from statewise.report.stretches import stretches

#: Digits kept of the samples of a trace; all other numbers are exact.
TRACE_DIGITS = 8


#: What stands beside the fields of a dataclass.
_COMPUTED: dict[type, tuple[str, ...]] = {
    LayerSummary: ("time_constants", "periods", "damping"),
    ReductionCurve: ("states", "enough"),
    ResponseComparison: ("inside",),
}


def to_json(data: ReportData) -> dict[str, Any]:
    """Give a report as JSON-ready values.

    NaN and infinity become None, complex arrays become ``{"re": [...], "im": [...]}``, dates become
    ISO strings. Time constants, periods and damping ratios stand beside the eigenvalues, the
    stretches that the page zooms on beside the traces. Samples are rounded to 8 digits.

    Args:
        data: the report.

    Returns:
        A dictionary with the fields of :class:`ReportData`, ``headline`` and ``findings``.
    """
    result: dict[str, Any] = {"format": "statewise-report", "format_version": 1}
    result["headline"] = plain(headline(data))
    result["findings"] = findings(data)
    for field in dataclasses.fields(data):
        result[field.name] = plain(getattr(data, field.name))
    result["traces"] = [_trace(trace, data) for trace in data.traces]
    return result


def plain(value: Any) -> Any:
    """Turn dataclasses, arrays, dates and numbers into what JSON holds."""
    if value is None or isinstance(value, bool | np.bool_):
        return value if value is None else bool(value)
    if isinstance(value, str):
        # A lone surrogate cannot be written as UTF-8.
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, np.datetime64 | np.timedelta64):
        return None if np.isnat(value) else str(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, complex | np.complexfloating):
        return {"re": plain(value.real), "im": plain(value.imag)}
    if isinstance(value, np.ndarray):
        return _array(value)
    if hasattr(value, "to_dict"):
        return plain(value.to_dict())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        for kind, names in _COMPUTED.items():
            if isinstance(value, kind):
                fields |= {name: plain(getattr(value, name)) for name in names}
        return fields
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return str(value)


def _array(value: np.ndarray) -> Any:
    if value.dtype.kind == "c":
        return {"re": _array(np.real(value)), "im": _array(np.imag(value))}
    if value.dtype.kind == "M":
        days = value.astype("datetime64[D]")
        seconds = value.astype("datetime64[s]")
        short = days if (days == value).all() else seconds if (seconds == value).all() else value
        return np.datetime_as_string(short).tolist()
    if value.dtype.kind == "f":
        items = value.tolist()
        return items if np.isfinite(value).all() else _finite(items)
    return [plain(item) for item in value.tolist()] if value.ndim else plain(value.item())


def _finite(items: Any) -> Any:
    if isinstance(items, list):
        return [_finite(item) for item in items]
    return items if math.isfinite(items) else None


def _rounded(values: np.ndarray) -> list[float | None]:
    return [
        float(f"{value:.{TRACE_DIGITS}g}") if math.isfinite(value) else None
        for value in np.asarray(values, np.float64).tolist()
    ]


def _trace(trace: Trace, data: ReportData) -> dict[str, Any]:
    fields = {
        field.name: plain(getattr(trace, field.name))
        for field in dataclasses.fields(trace)
        if field.name not in ("time", "measured", "simulated")
    }
    dates = trace.time.dtype.kind == "M"
    fields["time"] = _array(trace.time) if dates else _rounded(trace.time)
    fields["measured"] = _rounded(trace.measured)
    fields["simulated"] = {name: _rounded(values) for name, values in trace.simulated.items()}
    fields["stretches"] = plain(stretches(trace, data.model.name))
    return fields
