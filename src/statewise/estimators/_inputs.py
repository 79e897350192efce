"""The door: arrays, tensors, frames and lists of them become records."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from statewise.data import Experiments

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


def check_steps(steps: int) -> None:
    """Refuse a number of steps ahead that is no whole number of at least 1."""
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1:
        raise ValueError(f"steps must be a whole number of at least 1, got {steps!r}")
