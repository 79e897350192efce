"""Numbers at the door: lists, NumPy arrays and torch tensors become float64 arrays."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from statewise._errors import DataError


def is_torch(value: Any) -> bool:
    """Whether ``value`` is a torch tensor; torch itself is never imported for the question."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def as_array(value: Any, what: str) -> np.ndarray:
    """Turn ``value`` into a NumPy array of real numbers, booleans or time stamps.

    Args:
        value: array, torch tensor (any device), (nested) list of numbers, series.
        what: how error messages call the value, such as ``"y of record 0"``.

    Returns:
        The array, not copied where it was one already.

    Raises:
        DataError: complex numbers, text, ragged lists, other objects.
    """
    if is_torch(value):
        if value.is_complex():
            raise DataError(f"{what} holds complex numbers; expected real ones")
        # bfloat16 has no NumPy twin, and every dtype that torch has fits into float64.
        return value.detach().to("cpu").double().numpy()
    if isinstance(value, np.ma.MaskedArray):
        value = np.ma.filled(np.ma.asarray(value, dtype=np.float64), np.nan)
    try:
        array = np.asarray(value)
        if array.dtype == object:
            array = np.asarray(array, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise DataError(
            f"{what} cannot be read as an array of numbers; expected numbers in rows of equal "
            f"length, got {type(value).__name__} ({_first_line(error)})"
        ) from error
    if array.dtype.kind not in "biufMm":
        kind = {"c": "complex numbers", "U": "text", "S": "text"}.get(
            array.dtype.kind, f"values of type {array.dtype}"
        )
        raise DataError(f"{what} holds {kind}; expected real numbers")
    return array


def as_signal(value: Any, what: str) -> np.ndarray:
    """Turn ``value`` into a new float64 array (L, n); NaN is kept, ±inf refused.

    Args:
        value: anything :func:`as_array` takes, 1-D (one channel) or 2-D (L, n).
        what: how error messages call the value.

    Returns:
        A C-contiguous float64 copy of shape (L, n).

    Raises:
        DataError: another number of dimensions, no samples, infinite values, time stamps.
    """
    array = as_array(value, what)
    if array.dtype.kind in "Mm":
        raise DataError(f"{what} holds time stamps; expected real numbers")
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2:
        raise DataError(f"{what} has shape {array.shape}; expected (L,) or (L, channels)")
    if array.shape[0] == 0:
        raise DataError(f"{what} is empty; expected at least one sample")
    with np.errstate(over="ignore"):
        array = np.array(array, dtype=np.float64, order="C")
    infinite = np.isinf(array)
    if infinite.any():
        row, channel = (int(i) for i in np.argwhere(infinite)[0])
        raise DataError(
            f"{what} is infinite at sample {row} (counting from 0), channel {channel}; expected "
            "finite numbers, or NaN where a value is missing"
        )
    return array


def as_mask(value: Any, shape: tuple[int, int], what: str) -> np.ndarray:
    """Turn ``value`` into a boolean array of ``shape``, True where observed.

    Args:
        value: booleans, or numbers 0 and 1, of shape (L,) or (L, n); (L,) holds for all channels.
        shape: (L, n) of the signal.
        what: how error messages call the mask.

    Returns:
        A boolean array of ``shape``.

    Raises:
        DataError: another shape, or numbers other than 0 and 1.
    """
    array = as_array(value, what)
    if array.dtype != bool:
        if not np.isin(array, (0, 1)).all():
            raise DataError(f"{what} must hold booleans (True = observed)")
        array = array.astype(bool)
    if array.ndim == 1 and array.shape[0] == shape[0]:
        array = array[:, None]
    if array.ndim != 2 or array.shape[0] != shape[0] or array.shape[1] not in (1, shape[1]):
        raise DataError(f"{what} has shape {array.shape}; expected {shape}")
    return np.broadcast_to(array, shape).copy()


def freeze(array: np.ndarray) -> np.ndarray:
    """Make ``array`` read-only in place and return it."""
    array.setflags(write=False)
    return array


def safe_scale(values: np.ndarray) -> float:
    """The power of two below the largest |value|, by which sums of squares cannot overflow."""
    exponent = int(np.frexp(np.max(np.abs(values), initial=0.0))[1])
    return float(np.ldexp(1.0, max(exponent - 1, -1022)))


def split_records(value: Any, what: str) -> list[Any] | None:
    """The records that ``value`` holds: None for one record, a list for several.

    A list or tuple of arrays or tensors is one record each; a 3-D array (R, L, n) is R records;
    numbers, nested lists of numbers, 1-D and 2-D arrays are one record.

    Args:
        value: what the caller gave.
        what: how error messages call the value.

    Returns:
        None, or a list with one entry per record.

    Raises:
        DataError: an empty list.
    """
    if isinstance(value, list | tuple):
        if not value:
            raise DataError(f"{what} is an empty list; expected at least one record")
        if any(_is_array(item) for item in value):
            return list(value)
        return None
    if isinstance(value, np.ndarray) and value.dtype == object and value.ndim == 1:
        if len(value) and all(_is_array(item) for item in value):
            return list(value)
        return None
    if getattr(value, "ndim", 0) == 3:
        return list(value)
    return None


def _is_array(item: Any) -> bool:
    if isinstance(item, np.generic | int | float | str | bytes):
        return False
    return getattr(item, "ndim", 0) >= 1


def _first_line(error: BaseException) -> str:
    return str(error).split("\n")[0].rstrip(".")
