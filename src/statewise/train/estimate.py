"""The state of a model from measured inputs and outputs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from statewise.nn.contract import Layer, State
from statewise.train.least_squares import least_squares_state
from statewise.train.modes import evaluating
from statewise.train.signals import Slices


def estimate_state(
    model: Layer,
    u: npt.ArrayLike | Tensor,
    y: npt.ArrayLike | Tensor,
    *,
    dt: npt.ArrayLike | Tensor | None = None,
    mask: npt.ArrayLike | Tensor | None = None,
    y_mask: npt.ArrayLike | Tensor | None = None,
    samples: int | None = None,
    iterations: int = 20,
    ridge: float = 1e-6,
) -> State:
    """The state before the first sample that explains the first outputs best, by least squares.

    Args:
        model: a model in the layer contract; it sees normalised signals.
        u: inputs (L, n_u) or (B, L, n_u); NaN is missing.
        y: outputs (L, n_y) or (B, L, n_y); NaN is missing.
        dt: relative time steps (L,) or (B, L); None is 1.
        mask: True where the input was observed, shaped like ``u``.
        y_mask: True where the output was observed, shaped like ``y``.
        samples: leading samples that are used; None uses all.
        iterations: largest number of Levenberg–Marquardt steps.
        ridge: weight of |x|² beside the squared errors.

    Returns:
        The state of the model, with a batch of 1 for two-dimensional ``u`` and ``y``.

    Raises:
        ValueError: shapes that do not fit, or no observed output.
    """
    parameter = next(model.parameters())
    u_array, y_array = _batched(u, "u"), _batched(y, "y")
    if u_array.shape[:2] != y_array.shape[:2]:
        raise ValueError(
            f"u of shape {np.shape(u)} and y of shape {np.shape(y)} do not have one length"
        )
    if u_array.shape[2] != model.d_input or y_array.shape[2] != model.d_output:
        raise ValueError(
            f"the model has {model.d_input} inputs and {model.d_output} outputs; given u of shape "
            f"{np.shape(u)} and y of shape {np.shape(y)}"
        )
    used = u_array.shape[1] if samples is None else samples
    if not 1 <= used <= u_array.shape[1]:
        raise ValueError(f"samples is 1 to {u_array.shape[1]} for these signals; given {samples}")
    u_seen = ~np.isnan(u_array) & _flags(mask, u_array, "mask")
    y_seen = ~np.isnan(y_array) & _flags(y_mask, y_array, "y_mask")
    if not y_seen[:, :used].any():
        raise ValueError(f"none of the first {used} outputs was observed")
    steps = None
    if dt is not None:
        array = np.asarray(dt, dtype=np.float64)
        if array.shape not in (u_array.shape[:2], u_array.shape[1:2]):
            raise ValueError(f"dt of shape {array.shape} does not fit u of shape {np.shape(u)}")
        steps = np.broadcast_to(array, u_array.shape[:2])

    def tensor(array: np.ndarray, dtype: torch.dtype) -> Tensor:
        return torch.tensor(array[:, :used], device=parameter.device, dtype=dtype)

    context = Slices(
        tensor(np.where(u_seen, u_array, 0.0), parameter.dtype),
        tensor(np.where(y_seen, y_array, 0.0), parameter.dtype),
        None if u_seen.all() else tensor(u_seen, torch.bool),
        None if steps is None else tensor(steps, parameter.dtype),
        None if y_seen.all() else tensor(y_seen, parameter.dtype),
    )
    with torch.no_grad(), evaluating(model):
        return least_squares_state(model, context, iterations=iterations, ridge=ridge)


def _batched(value: npt.ArrayLike | Tensor, name: str) -> np.ndarray:
    array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value, np.float64)
    if array.ndim not in (2, 3):
        raise ValueError(
            f"{name} has shape (length, channels) or (batch, length, channels); given {array.shape}"
        )
    return array if array.ndim == 3 else array[None]


def _flags(value: npt.ArrayLike | Tensor | None, like: np.ndarray, name: str) -> np.ndarray:
    if value is None:
        return np.ones(like.shape, dtype=bool)
    flags = np.asarray(value, dtype=bool)
    flags = flags if flags.ndim == 3 else flags[None]
    if flags.shape != like.shape:
        raise ValueError(f"{name} of shape {np.shape(value)} does not fit a signal of {like.shape}")
    return flags
