"""One measured or simulated record of inputs and outputs over time."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from statewise._errors import DataError
from statewise.data.arrays import as_array, as_mask, as_signal, freeze
from statewise.data.timeaxis import (
    EVEN_TOLERANCE,
    SECONDS,
    canonical_unit,
    check_increasing,
    even_step,
    fine_stamps,
)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Record:
    """Inputs u_k and outputs y_k, k = 0 … L − 1, of one experiment; immutable.

    Arrays are copied and made read-only. Missing samples are NaN and False in the mask. A time
    axis ``t`` that turns out evenly sampled is kept as ``dt`` and ``t0``.

    Attributes:
        y: outputs (L, n_y), float64; NaN exactly where ``y_mask`` is False. (L,) is one channel.
        u: inputs (L, n_u), float64, NaN exactly where ``u_mask`` is False; None = autonomous.
        t: time stamps (L,), strictly increasing, in ``time_unit``; None when evenly sampled.
        dt: sampling interval in ``time_unit`` when evenly sampled; None when uneven or unknown.
        y_mask: (L, n_y), True = observed; None = all observed.
        u_mask: (L, n_u), True = observed; None = all observed.
        name: name of the record, for tables and messages.
        start: calendar time of the first sample.
        skip: number of leading samples that only serve to find the initial state: not scored.
        time_unit: unit of ``t`` and ``dt``, such as "s" or "d"; "" = unknown.
        t0: time of the first sample in ``time_unit``.
        nominal_dt: interval that counts as 1 in :meth:`steps`; the median step when not given.

    Raises:
        DataError: shapes that do not fit, no samples, infinite values, time that does not
            strictly increase, ``skip`` outside 0 … L − 1, both ``t`` and ``dt``.
    """

    y: np.ndarray
    u: np.ndarray | None = None
    t: np.ndarray | None = None
    dt: float | None = None
    y_mask: np.ndarray | None = None
    u_mask: np.ndarray | None = None
    name: str = ""
    start: np.datetime64 | None = None
    skip: int = 0
    time_unit: str = ""
    t0: float = 0.0
    nominal_dt: float | None = None

    def __post_init__(self) -> None:
        label = f" of record {self.name!r}" if self.name else ""
        y, y_mask = _masked(self.y, self.y_mask, f"y{label}", f"y_mask{label}")
        fields: dict[str, Any] = {"y": y, "y_mask": y_mask}
        if self.u is None:
            if self.u_mask is not None:
                raise DataError(f"u_mask{label} is given without u")
        else:
            u, u_mask = _masked(self.u, self.u_mask, f"u{label}", f"u_mask{label}")
            if len(u) != len(y):
                raise DataError(
                    f"u{label} has {len(u)} samples and y has {len(y)}; expected equally many"
                )
            fields |= {"u": u if u.shape[1] else None, "u_mask": u_mask}
        if not y.shape[1] and fields.get("u") is None:
            raise DataError(f"the record{label} has neither inputs nor outputs")
        fields |= self._checked_time(len(y), label)
        skip = int(self.skip)
        if not 0 <= skip < len(y):
            raise DataError(
                f"skip{label} is {self.skip}; expected 0 to {len(y) - 1}, so that at least one of "
                f"the {len(y)} samples is scored"
            )
        fields |= {"skip": skip, "name": str(self.name)}
        for key, value in fields.items():
            object.__setattr__(self, key, value)

    def _checked_time(self, length: int, label: str) -> dict[str, Any]:
        for key in ("dt", "nominal_dt"):
            value = getattr(self, key)
            if value is not None and not (np.isfinite(value) and value > 0):
                raise DataError(f"{key}{label} is {value}; expected a positive number")
        if not np.isfinite(self.t0):
            raise DataError(f"t0{label} is {self.t0}; expected a finite number")
        fields: dict[str, Any] = {
            "time_unit": canonical_unit(self.time_unit),
            "dt": None if self.dt is None else float(self.dt),
            "t0": float(self.t0),
            "nominal_dt": None if self.nominal_dt is None else float(self.nominal_dt),
        }
        if self.start is not None:
            start = np.asarray(self.start, dtype="datetime64")
            if start.ndim or np.isnat(start):
                raise DataError(f"start{label} is {self.start}; expected one calendar time")
            fields["start"] = fine_stamps(start)[()]
        if self.t is None:
            return fields
        if self.dt is not None:
            raise DataError(f"the record{label} has both t and dt; give one of them")
        raw = as_array(self.t, f"t{label}")
        if raw.dtype.kind in "Mm" or raw.shape != (length,):
            raise DataError(
                f"t{label} has shape {raw.shape} and type {raw.dtype}; expected {length} numbers, "
                "one for each sample"
            )
        t = np.array(raw, dtype=np.float64)
        if not np.isfinite(t).all():
            row = int(np.argmin(np.isfinite(t)))
            raise DataError(f"t{label} is {t[row]} at sample {row}; expected finite time stamps")
        check_increasing(t, f"t{label}", lambda i: f"sample {i}", lambda i: f"{t[i]:.15g}")
        coarse = np.finfo(raw.dtype).eps * np.abs(t).max() if raw.dtype.kind == "f" else 0.0
        step = even_step(t, float(coarse))
        uneven = step is None and length > 1
        return fields | {"t": freeze(t) if uneven else None, "dt": step, "t0": float(t[0])}

    def __len__(self) -> int:
        return self.y.shape[0]

    @property
    def n_u(self) -> int:
        """Number of input channels; 0 for an autonomous record."""
        return 0 if self.u is None else self.u.shape[1]

    @property
    def n_y(self) -> int:
        """Number of output channels."""
        return self.y.shape[1]

    def times(self) -> np.ndarray:
        """Time of each sample (L,) in ``time_unit``; sample numbers when no time is known."""
        if self.t is not None:
            return self.t
        return self.t0 + (1.0 if self.dt is None else self.dt) * np.arange(len(self))

    def steps(self) -> np.ndarray | None:
        """Time since the previous sample over the nominal interval, (L,); the first is 1.

        Returns:
            The relative steps, or None when all are 1: even sampling at the nominal interval.
        """
        if self.t is None:
            if self.dt is None or self.nominal_dt is None:
                return None
            ratio = self.dt / self.nominal_dt
            if abs(ratio - 1.0) <= EVEN_TOLERANCE:
                return None
            steps = np.full(len(self), ratio)
        else:
            difference = np.diff(self.t)
            nominal = self.nominal_dt or float(np.median(difference))
            steps = np.concatenate(([1.0], difference / nominal))
        steps[0] = 1.0
        return steps

    def dates(self) -> np.ndarray | None:
        """Calendar time of each sample (L,), or None without ``start`` or a calendar unit."""
        if self.start is None or (len(self) > 1 and self.time_unit not in SECONDS):
            return None
        unit = np.datetime_data(self.start.dtype)[0]
        per_second = {"us": 1e6, "ns": 1e9, "ps": 1e12, "fs": 1e15, "as": 1e18}[unit]
        factor = SECONDS.get(self.time_unit, 1.0) * per_second
        offset = np.round((self.times() - self.t0) * factor).astype(np.int64)
        return self.start + offset.astype(f"timedelta64[{unit}]")

    def part(self, first: int, stop: int, *, skip: int = 0) -> Record:
        """Samples ``first`` … ``stop`` − 1 as a record of their own.

        Args:
            first: index of the first sample, ≥ 0.
            stop: index after the last sample, ≤ L.
            skip: leading samples of the part that are not scored.

        Returns:
            The part; its arrays are read-only views, its time axis runs on from this record's.

        Raises:
            ValueError: bounds outside the record.
        """
        if not 0 <= first < stop <= len(self) or not 0 <= skip < stop - first:
            raise ValueError(
                f"cannot cut samples {first}:{stop} with skip {skip} from a record of "
                f"{len(self)} samples"
            )
        changes: dict[str, Any] = {"y": self.y[first:stop], "skip": skip}
        for key in ("u", "u_mask", "y_mask"):
            value = getattr(self, key)
            changes[key] = None if value is None else value[first:stop]
        for key in ("u_mask", "y_mask"):
            if changes[key] is not None and changes[key].all():
                changes[key] = None
        if first:
            dates = self.dates()
            changes["start"] = None if dates is None else dates[first]
        if self.t is None:
            changes["t0"] = self.t0 + first * (1.0 if self.dt is None else self.dt)
        else:
            t = self.t[first:stop]
            step = even_step(t)
            even = step is not None or len(t) == 1
            changes |= {"t": None if even else t, "dt": step, "t0": float(t[0])}
            if self.nominal_dt is None:
                changes["nominal_dt"] = float(np.median(np.diff(self.t)))
        return self.with_fields(**changes)

    def with_fields(self, **changes: Any) -> Record:
        """A copy with fields replaced by values that are already valid; arrays are shared."""
        copy = object.__new__(Record)
        for key, value in {**self.__dict__, **changes}.items():
            object.__setattr__(copy, key, value)
        return copy

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickled arrays come back writeable; going through __init__ freezes them again.
        return Record, tuple(getattr(self, f.name) for f in dataclasses.fields(self))

    def __repr__(self) -> str:
        name = f"{self.name!r}, " if self.name else ""
        unit = f" {self.time_unit}" if self.time_unit and self.time_unit != "samples" else ""
        time = "uneven time" if self.t is not None else f"dt {self.dt:g}{unit}" if self.dt else ""
        parts = [f"{len(self)} samples", f"{self.n_u} inputs", f"{self.n_y} outputs"]
        parts += [time] if time else []
        parts += [f"skip {self.skip}"] if self.skip else []
        return f"Record({name}{', '.join(parts)})"


def _masked(
    value: Any, mask: Any, what: str, mask_what: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """The frozen signal with NaN where unobserved, and its frozen mask or None."""
    signal = as_signal(value, what)
    observed = ~np.isnan(signal)
    if mask is not None:
        observed &= as_mask(mask, signal.shape, mask_what)  # type: ignore[arg-type]
        signal[~observed] = np.nan
    return freeze(signal), None if observed.all() else freeze(observed)
