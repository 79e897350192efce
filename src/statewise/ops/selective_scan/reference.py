"""The selective scan as a readable loop, and its adjoint as one.

Shapes: u, dt, z, y (B, L, D); A (D, N); B, C (B, L, G, N) or (D, N); D, dt_bias (D,); h0, last
(B, D, N); reset (B, L). Complex A, B, C, h0 and last have a trailing axis (re, im).
README.md derives what is computed here. Equation numbers are those of Mamba (arXiv 2312.00752).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from statewise.ops.pairs import from_pairs
from statewise.ops.precision import accumulation_dtype
from statewise.ops.selective_scan._shapes import chunk_of, states_shape

THRESHOLD = 20.0
"""Above this, softplus passes its argument through."""

SMALL = 0.5
"""Below this modulus (e^x − 1)/x and its derivative come from their series."""


def supports(device: str, dtype: torch.dtype) -> str | None:
    """None: the reference computes on any device and any floating-point type."""
    return None


class _Numbers(NamedTuple):
    """The arguments in the accumulation type, complex where they are pairs."""

    u: Tensor
    delta: Tensor
    slope: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    z: Tensor | None
    start: Tensor

    def row(self, x: Tensor, t: int) -> Tensor:
        """B or C at one step, for every channel: (B or 1, D, N)."""
        if x.dim() == 2:
            return x[None]
        return x[:, t].repeat_interleave(self.u.shape[2] // x.shape[2], dim=1)


def _numbers(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    h0: Tensor | None,
    softplus: bool,
) -> _Numbers:
    dtype = accumulation_dtype(u.dtype)
    pairs = A.dim() == 3

    def number(x: Tensor) -> Tensor:
        x = x.to(dtype)
        return from_pairs(x) if pairs else x

    step = dt.to(dtype)
    if dt_bias is not None:
        step = step + dt_bias
    delta, slope = step, torch.ones_like(step)
    if softplus:
        delta = functional.softplus(step, threshold=THRESHOLD)
        slope = torch.where(step > THRESHOLD, slope, torch.sigmoid(step))
    dynamics = number(A)
    start = dynamics.new_zeros((u.shape[0], *dynamics.shape)) if h0 is None else number(h0)
    return _Numbers(
        u=u.to(dtype),
        delta=delta,
        slope=slope,
        A=dynamics,
        B=number(B),
        C=number(C),
        D=step.new_zeros(u.shape[2]) if D is None else D.to(dtype),
        z=None if z is None else z.to(dtype),
        start=start,
    )


def _expm1(x: Tensor) -> Tensor:
    """e^x − 1 without cancellation; torch has it for real numbers only."""
    if not x.is_complex():
        return torch.expm1(x)
    real = torch.expm1(x.real) * torch.cos(x.imag) - 2 * torch.sin(x.imag / 2) ** 2
    return torch.complex(real, torch.exp(x.real) * torch.sin(x.imag))


def _phi(x: Tensor) -> Tensor:
    """(e^x − 1)/x = Σ_k x^k / (k+1)!, by which its derivative keeps its digits near 0."""
    near = x.abs() < SMALL
    small = torch.where(near, x, 0.0)
    series = torch.zeros_like(x)
    for k in reversed(range(14)):
        series = series * small + 1 / math.factorial(k + 1)
    return torch.where(near, series, _expm1(x) / torch.where(near, 1.0, x))


def _phi_slope(x: Tensor) -> Tensor:
    """Derivative of :func:`_phi`: (e^x − φ(x))/x = Σ_k (k+1) x^k / (k+2)!."""
    near = x.abs() < SMALL
    small = torch.where(near, x, 0.0)
    series, factorial = torch.zeros_like(x), 1.0
    terms = []
    for k in range(18):
        factorial *= k + 2
        terms.append((k + 1) / factorial)
    for coefficient in reversed(terms):
        series = series * small + coefficient
    far = torch.where(near, 1.0, x)
    return torch.where(near, series, (torch.exp(far) - _phi(far)) / far)


def _gain(delta: Tensor, A: Tensor, zoh: bool) -> Tensor:
    """B̄_t = gain · B_t, (B, D, N) or (B, D, 1): Δ, or (e^{ΔA} − 1)/A = Δ φ(ΔA) (eq. 4)."""
    return delta * _phi(delta * A) if zoh else delta


def _order(length: int, reverse: bool) -> range:
    return range(length - 1, -1, -1) if reverse else range(length)


def _fresh(k: int, t: int, h0: Tensor | None, reset: Tensor | None, like: Tensor) -> Tensor:
    """(B, 1, 1): True where the step, k-th in scan order and t-th in time, has no predecessor."""
    fresh = torch.full((like.shape[0], 1, 1), k == 0 and h0 is None, device=like.device)
    return fresh if reset is None else fresh | reset[:, t, None, None]


def _tensor(x: Tensor) -> Tensor:
    # A fresh tensor: an operator may not return a view of another tensor.
    return torch.view_as_real(x.resolve_conj()).clone() if x.is_complex() else x.clone()


def _scan(x: _Numbers, h0: Tensor | None, reset: Tensor | None, zoh: bool, reverse: bool):
    """Every state in scan order, (L, B, D, N), and the output before skip and gate (eq. 2)."""
    state, states, y = x.start, [], torch.empty_like(x.u)
    for k, t in enumerate(_order(x.u.shape[1], reverse)):
        delta = x.delta[:, t, :, None]
        inflow = _gain(delta, x.A, zoh) * x.row(x.B, t) * x.u[:, t, :, None]
        carried = torch.exp(delta * x.A) * state + inflow
        state = torch.where(_fresh(k, t, h0, reset, x.u), inflow, carried)
        states.append(state)
        read = (x.row(x.C, t) * state).sum(-1)
        y[:, t] = 2 * read.real if read.is_complex() else read
    return torch.stack(states), y


def forward(
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    h0: Tensor | None,
    reset: Tensor | None,
    softplus: bool,
    zoh: bool,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """h_t = e^{Δ_t A} h_{t−1} + B̄_t u_t;  y_t = (C_t h_t + D u_t) silu(z_t).

    Args:
        u: inputs, (B, L, D), in the working type.
        dt: step sizes before bias and softplus, (B, L, D), in the working type.
        A: dynamics, (D, N), in the accumulation type.
        B: input vectors, (B, L, G, N) or (D, N), in the working type.
        C: read-out vectors, likewise.
        D: skip, (D,), in the accumulation type, or None.
        z: gate, (B, L, D), in the working type, or None.
        dt_bias: added to ``dt``, (D,), in the accumulation type, or None.
        h0: state before the first step in scan order, (B, D, N), accumulation type, or None.
        reset: (B, L) bool, True where the state is zeroed before the step, or None.
        softplus: take softplus of the step size.
        zoh: B̄ = (e^{ΔA} − 1)/A B rather than ΔB.
        reverse: scan from the last step to the first.
        keep: return the states that a backward pass starts from.

    Returns:
        y (B, L, D) in the working type; the last state (B, D, N) and the state before each chunk
        of steps (B, K, N, D), empty unless ``keep``, in the accumulation type. Complex ones have
        a trailing axis (re, im).
    """
    x = _numbers(u, dt, A, B, C, D, z, dt_bias, h0, softplus)
    states, y = _scan(x, h0, reset, zoh, reverse)
    y = y + x.D * x.u
    if x.z is not None:
        y = y * functional.silu(x.z)
    if not keep:
        return y.to(u.dtype), _tensor(states[-1]), x.u.new_empty(states_shape(u, A, keep))
    before = torch.cat([x.start[None], states[:-1]])[:: chunk_of(u)]
    return y.to(u.dtype), _tensor(states[-1]), _tensor(before.permute(1, 0, 3, 2).contiguous())


def backward(
    grad_y: Tensor | None,
    grad_last: Tensor | None,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    dt_bias: Tensor | None,
    h0: Tensor | None,
    reset: Tensor | None,
    states: Tensor,
    softplus: bool,
    zoh: bool,
    reverse: bool,
    needs: Sequence[bool],
) -> tuple[Tensor, ...]:
    """The adjoint of :func:`forward`, which README.md derives.

    Args:
        grad_y: gradient of ``y``, (B, L, D), or None for zero.
        grad_last: gradient of the last state, or None for zero.
        u: as given to :func:`forward`; likewise all up to ``reset``, and the options.
        dt: see there.
        A: see there.
        B: see there.
        C: see there.
        D: see there.
        z: see there.
        dt_bias: see there.
        h0: see there.
        reset: see there.
        states: kept by it. The reference computes every state again and reads none.
        softplus: as given to it.
        zoh: as given to it.
        reverse: as given to it.
        needs: for each of u, dt, A, B, C, D, z, dt_bias, h0, whether its gradient is wanted.

    Returns:
        These gradients, of the shape and type of the argument, or empty, (0,), where not wanted.
    """
    x = _numbers(u, dt, A, B, C, D, z, dt_bias, h0, softplus)
    states, y = _scan(x, h0, reset, zoh, reverse)
    grad = torch.zeros_like(x.u) if grad_y is None else grad_y.to(x.u.dtype)
    dz = torch.zeros_like(x.u)
    if x.z is not None:
        gate = torch.sigmoid(x.z)
        dz = grad * (y + x.D * x.u) * gate * (1 + x.z * (1 - gate))
        grad = grad * x.z * gate
    du, ddelta = grad * x.D, torch.zeros_like(x.u)
    dA, dB, dC = torch.zeros_like(x.A), torch.zeros_like(x.B), torch.zeros_like(x.C)
    carry = torch.zeros_like(x.start)
    if grad_last is not None:
        last = grad_last.to(x.u.dtype)
        carry = from_pairs(last) if A.dim() == 3 else last
    weight = 2 if A.dim() == 3 else 1
    for k, t in reversed(list(enumerate(_order(x.u.shape[1], reverse)))):
        before = states[k - 1] if k else x.start
        fresh = _fresh(k, t, h0, reset, x.u)
        delta, inputs = x.delta[:, t, :, None], x.u[:, t, :, None]
        row, reads = x.row(x.B, t), weight * grad[:, t, :, None]
        decay, gain = torch.exp(delta * x.A), _gain(delta, x.A, zoh)
        g = carry + reads * x.row(x.C, t).conj()
        _collect(dC, t, reads * states[k].conj())
        _collect(dB, t, gain.conj() * inputs * g)
        du[:, t] += ((gain * row).conj() * g).sum(-1).real
        dgain = row.conj() * inputs * g
        dpower = torch.where(fresh, 0.0, g * before.conj() * decay.conj())
        ddelta[:, t] = (dpower * x.A.conj()).sum(-1).real
        dA += (delta * dpower).sum(0)
        if zoh:
            ddelta[:, t] += (dgain * decay.conj()).sum(-1).real
            dA += (delta**2 * _phi_slope(delta * x.A).conj() * dgain).sum(0)
        else:
            ddelta[:, t] += dgain.sum(-1).real
        carry = torch.where(fresh, 0.0, decay.conj() * g)
    dstep = ddelta * x.slope
    skip, bias = (grad * x.u).sum((0, 1)), dstep.sum((0, 1))
    found = (du, dstep, dA, dB, dC, skip, dz, bias, carry)
    given = (u, dt, A, B, C, D, z, dt_bias, h0)
    return tuple(
        _tensor(g).to(x.dtype) if x is not None and need else u.new_empty(0)
        for g, x, need in zip(found, given, needs, strict=True)
    )


def _collect(total: Tensor, t: int, g: Tensor) -> None:
    """Add the gradient (B, D, N) of one step's B or C to that of the whole."""
    if total.dim() == 2:
        total += g.sum(0)
    else:
        total[:, t] = g.unflatten(1, (total.shape[2], -1)).sum(2)
