"""Any layer or model that keeps the layer contract as a state-space model with noise."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from statewise.data import Normaliser
from statewise.inference.linear_gaussian import as_tensor
from statewise.inference.nonlinear_gaussian import NonlinearGaussian
from statewise.nn.contract import Layer, State, map_state, state_tensors
from statewise.ops.pairs import from_pairs


class _Flat:
    """States of a layer as rows of real numbers, and back."""

    def __init__(self, layer: Layer, kind: torch.dtype) -> None:
        self.rest = layer.init_state(1)
        tensors = state_tensors(self.rest)
        for x in tensors:
            if not (x.is_floating_point() or x.is_complex()):
                raise ValueError(
                    f"a state of {type(layer).__name__} holds {x.dtype}; noise needs real or "
                    "complex numbers"
                )
        self.shapes = [tuple(x.shape[1:]) for x in tensors]
        # A state of rest may be narrower than the states that follow it.
        self.dtypes = [torch.promote_types(x.dtype, kind) for x in tensors]
        self.sizes = [
            math.prod(shape) * (2 if dtype.is_complex else 1)
            for shape, dtype in zip(self.shapes, self.dtypes, strict=True)
        ]

    def rows(self, state: State, dtype: torch.dtype) -> Tensor:
        """(N, n) of a state."""
        parts = [torch.view_as_real(x) if x.is_complex() else x for x in state_tensors(state)]
        return torch.cat([x.reshape(len(x), -1).to(dtype) for x in parts], 1)

    def state(self, rows: Tensor) -> State:
        """A state of (N, n)."""
        parts = iter(zip(rows.split(self.sizes, 1), self.shapes, self.dtypes, strict=True))

        def take(_: Tensor) -> Tensor:
            part, shape, dtype = next(parts)
            if not dtype.is_complex:
                return part.reshape(-1, *shape).to(dtype)
            real = torch.float32 if dtype == torch.complex64 else torch.float64
            return from_pairs(part.reshape(-1, *shape, 2).to(real))

        return map_state(take, self.rest)


def with_noise(
    model: Layer, Q: Any, R: Any, *, P0: Any = 0.0, normaliser: Normaliser | None = None
) -> NonlinearGaussian:
    """A layer or model as a nonlinear state-space model, to be filtered and smoothed.

    x_t is the layer's own state before sample t, its tensors in a row, complex numbers as two:
    x_{t+1} = f(x_t, u_t) + w and y_t = g(x_t, u_t) + v are what ``model.step`` gives. It starts
    from rest. Without noise of the state the filter is the free run.

    Args:
        model: what keeps the layer contract, such as a trained :class:`DeepWiener`; it is used as
            it is, not copied.
        Q: covariance of the state noise: a number, (n,) for a diagonal, or (n, n).
        R: covariance of the output noise, in units of the data: a number, (p,) or (p, p).
        P0: covariance of the first state, likewise.
        normaliser: scaling that the model was trained with; inputs and outputs are then those of
            the data. None for a model of plain signals.

    Raises:
        ValueError: shapes that do not fit, dropout that is switched on, a state that is not of
            floating-point numbers, or none.

    Example:
        >>> from statewise.nn import LRU
        >>> noisy = with_noise(LRU(1, d_state=2), 0.01, 0.1)
        >>> noisy.states, noisy.outputs
        (4, 1)
    """
    for part in model.modules():
        if isinstance(part, nn.modules.dropout._DropoutNd) and part.training and part.p > 0:
            raise ValueError("the model has dropout switched on; call model.eval() first")
    kinds = [x.dtype for x in model.parameters() if x.is_floating_point()]
    kind = kinds[0] if kinds else torch.float32
    flat = _Flat(model, kind)
    n, p = sum(flat.sizes), model.d_output
    if not n:
        raise ValueError(f"{type(model).__name__} has no state to filter")
    scales = _scales(normaliser, model.d_input, p)

    def step(x: Tensor, u: Tensor | None) -> tuple[Tensor, State]:
        if u is None:
            raise ValueError(f"the model has {model.d_input} inputs; give u (B, T, m)")
        if scales is not None:
            u = (u - scales[0].to(u)) / scales[1].to(u)
        return model.step(u.to(kind), flat.state(x))

    def f(x: Tensor, u: Tensor | None, t: Tensor) -> Tensor:
        return flat.rows(step(x, u)[1], x.dtype)

    def g(x: Tensor, u: Tensor | None, t: Tensor) -> Tensor:
        y = step(x, u)[0].to(x.dtype)
        return y if scales is None else scales[2].to(y) + scales[3].to(y) * y

    m0 = flat.rows(flat.rest, torch.float64)
    return NonlinearGaussian(
        f,
        g,
        _covariance("Q", Q, n),
        _covariance("R", R, p),
        m0=m0,
        P0=_covariance("P0", P0, n),
        batched=True,
        input_at="before",
    )


def _scales(normaliser: Normaliser | None, m: int, p: int) -> tuple[Tensor, ...] | None:
    if normaliser is None:
        return None
    sizes = normaliser.u_mean.size, normaliser.y_mean.size
    if sizes != (m, p):
        raise ValueError(
            f"the normaliser is for {sizes[0]} inputs and {sizes[1]} outputs; the model has {m} "
            f"and {p}"
        )
    given = (normaliser.u_mean, normaliser.u_std, normaliser.y_mean, normaliser.y_std)
    return tuple(torch.tensor(x) for x in given)


def _covariance(name: str, x: Any, n: int) -> Tensor:
    found = as_tensor(name, x)
    if found.dim() == 0:
        return found * torch.eye(n, dtype=found.dtype, device=found.device)
    if found.dim() == 1 and len(found) == n:
        return torch.diag(found)
    if found.dim() >= 2 and tuple(found.shape[-2:]) == (n, n):
        return found
    raise ValueError(
        f"{name} has shape {tuple(found.shape)}; it must be one number, ({n},) or ({n}, {n})"
    )
