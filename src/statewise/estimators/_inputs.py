"""The door: arrays, tensors, frames and lists of them become records."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from statewise._errors import DataError
from statewise.data import Experiments, Record

Array = npt.NDArray[np.float64]


def as_experiments(u: Any, y: Any = None, *, dt: float | None = None) -> Experiments:
    """Turn the arguments of ``fit(u, y)`` into records.

    Args:
        u: an :class:`~statewise.data.Experiments` (then ``y`` is left out), or inputs (L,),
            (L, n_u) or (R, L, n_u), a data frame, or a list of records; None when autonomous.
        y: outputs in the same form.
        dt: sampling interval of arrays.

    Returns:
        The records.

    Raises:
        TypeError: both an ``Experiments`` and ``y``.
        ValueError: no ``y``.
        DataError: arrays that do not fit together.
    """
    if isinstance(u, Experiments):
        if y is not None:
            raise TypeError("an Experiments holds its outputs: leave y out")
        return u
    if y is None:
        raise ValueError("y is missing: give u and y, or one Experiments")
    inputs = None if u is None else as_arrays(u, "u")[0]
    return Experiments.from_arrays(inputs, as_arrays(y, "y")[0], dt=dt)


def as_arrays(data: Any, what: str) -> tuple[list[Array], str]:
    """Turn arrays, tensors, frames or lists of them into a list of (L, n) float64 arrays.

    Args:
        data: (L,), (L, n) or (R, L, n), or a list of (L,) or (L, n) arrays.
        what: the name of the argument, for messages.

    Returns:
        The records, and ``"one"``, ``"list"`` or ``"stack"``, the layout they came in.

    Raises:
        ValueError: another number of dimensions, or values that are no numbers.
    """
    if isinstance(data, list | tuple) and any(len(getattr(item, "shape", ())) for item in data):
        return [_two_dimensional(_to_numpy(item, what), what) for item in data], "list"
    array = _to_numpy(data, what)
    if array.ndim == 3:
        return list(array), "stack"
    return [_two_dimensional(array, what)], "one"


def _to_numpy(data: Any, what: str) -> Array:
    if type(data).__module__.partition(".")[0] == "torch":
        data = data.detach().cpu().double().numpy()
    elif hasattr(data, "to_numpy"):
        data = data.to_numpy()
    try:
        return np.asarray(data, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} cannot be read as an array of numbers: {error}") from error


def _two_dimensional(array: Array, what: str) -> Array:
    if array.ndim == 1:
        return array[:, None]
    if array.ndim != 2:
        raise ValueError(f"{what} must be (L,), (L, n) or (R, L, n), got {array.shape}")
    return array


def in_layout(outputs: list[Array], layout: str) -> Any:
    """Give records back in the layout that :func:`as_arrays` found."""
    if layout == "one":
        return outputs[0]
    return np.stack(outputs) if layout == "stack" else outputs


def check_even(
    experiments: Experiments, who: str, *, dt: float | None = None, time_unit: str = ""
) -> None:
    """Refuse unevenly sampled records, and those of another interval than ``dt`` if it is given.

    Raises:
        ValueError: the first record that an estimator named ``who`` cannot take.
    """
    for index, record in enumerate(experiments):
        if record.steps() is not None:
            raise ValueError(
                f"record {record.name or index} is unevenly sampled; {who} works on even sampling: "
                f"resample it"
            )
    here = experiments.dt
    if dt is None or here is None or experiments.time_unit != time_unit:
        return
    if not np.isclose(dt, here, rtol=1e-3):
        raise ValueError(
            f"this {who} was fitted at a sampling interval of {dt:g} {time_unit}, the records "
            f"have {here:g}: resample them"
        )


def gapless(experiments: Iterable[Record], shortest: int = 50) -> list[tuple[Array, Array]]:
    """Inputs (L, n_u) and outputs (L, n_y) of the stretches without missing samples.

    Stretches below ``shortest`` samples are left out where there is a longer one.

    Raises:
        DataError: no complete sample.
    """
    found: list[tuple[Array, Array]] = []
    for record in experiments:
        u = np.zeros((len(record), 0)) if record.u is None else record.u
        known = np.isfinite(u).all(1) & np.isfinite(record.y).all(1)
        edges = np.flatnonzero(np.diff(np.concatenate(([False], known, [False]))))
        for first, last in zip(edges[::2], edges[1::2], strict=True):
            found.append((u[first:last], record.y[first:last]))
    if not found:
        raise DataError("the records have no sample at which all inputs and outputs are known")
    longest = max(len(u) for u, _ in found)
    return [pair for pair in found if len(pair[0]) >= min(shortest, longest)]


def check_steps(steps: int) -> None:
    """Refuse a number of steps ahead that is no whole number of at least 1."""
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1:
        raise ValueError(f"steps must be a whole number of at least 1, got {steps!r}")


def one_record(data: Any, what: str) -> Array:
    """The array (L, n) of a single record."""
    records, _ = as_arrays(data, what)
    if len(records) != 1:
        raise ValueError(f"{what} is one record here, (L,) or (L, n); given {len(records)} records")
    return records[0]


def as_tensor(values: Array, dtype: Any) -> tuple[Any, Any]:
    """Values as a tensor with a batch axis, 0 where missing, and the mask of what is known."""
    import torch

    known = np.isfinite(values)
    tensor = torch.from_numpy(np.where(known, values, 0.0)).to(dtype)[None]
    return tensor, None if known.all() else torch.from_numpy(known)[None]
