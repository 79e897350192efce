"""Eigensystem realisation: a system from its pulse, step or frequency response."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from statewise.lti.state_space import StateSpace, as_tensor

KINDS = ("pulse", "step", "frequency")
RANK = 1e-10
# From so many responses on, with matrices of at most so many entries, code that works on eight of
# them at a time is faster than the library.
MANY = 4
SMALL = 25_000


@dataclasses.dataclass(frozen=True, eq=False)
class RealisationResult:
    """A realisation and what its order rests on.

    Attributes:
        system: A, B, C and D, in coordinates that are balanced as far as the horizon reaches.
        hankel_singular_values: of the Hankel matrix of the response, (..., k), falling; as the
            horizon grows, those of the system.
        order: number of states n.
    """

    system: StateSpace
    hankel_singular_values: Tensor
    order: int


@torch.no_grad()
def era(
    response: Any,
    order: int | None = None,
    *,
    dt: float = 1.0,
    kind: str = "pulse",
    rows: int | None = None,
) -> RealisationResult:
    """Realise Markov parameters: H = [h_{i+j−1}] = U S Vᵀ, A = S^{−1/2} Uᵀ H↑ V S^{−1/2}.

    On a CPU, batches are decomposed by compiled code, eight small matrices at a time; each passes a
    check, or is done by LAPACK. Singular values agree with LAPACK's to rounding of the largest, and
    the matrices up to the signs of the states.

    Args:
        response: "pulse": h_0 = D, h_1 = C B, …, (..., L, p, m). "step": their running sums, the
            response to inputs that are 1 from the first sample on. "frequency": complex
            G(e^{iω_k}) on the grid ω_k = π k/M, k = 0 … M, (..., M + 1, p, m); the aliasing
            of its inverse transform is undone, so that few points are enough.
        order: number of states; None for the singular values above 1e-10 of the largest, which
            is for data without noise. A batch needs it.
        dt: sampling time.
        kind: one of the above.
        rows: block rows of H; None for half of the response.

    Returns:
        System, Hankel singular values and order.

    Raises:
        ValueError: a shape, kind or order that does not fit.

    Source: Juang & Pappa, An eigensystem realization algorithm (1985); for frequency data,
    McKelvey, Akcay & Ljung, Subspace-based multivariable system identification from frequency
    response data (1996), algorithm 1.

    Example:
        >>> h = torch.tensor([0.0, 1.0, 0.5, 0.25, 0.125], dtype=torch.float64)[:, None, None]
        >>> result = era(h)
        >>> result.order, round(result.system.A.item(), 12)
        (1, 0.5)
    """
    h = _markov(response, kind)
    count, p, m = h.shape[-3:]
    rows = count // 2 if rows is None else rows
    columns = count - rows - 1
    if rows < 1 or columns < 1:
        raise ValueError(
            f"a response of {count} Markov parameters and {rows} block rows leave {columns} block "
            f"columns; both must be at least 1"
        )
    least = min(rows * p, columns * m)
    D = h[..., 0, :, :]
    if order is not None and h.dim() > 3 and _compiled(h, rows):
        order = _order(h.new_empty(least), order)
        sigma, A, B, C = _by_lanes(h, rows, order)
    else:
        sigma, A, B, C = _by_library(h, rows, order)
        order = A.shape[-1]
    if kind == "frequency":
        power = torch.linalg.matrix_power(A, count - 1)
        D = D - C @ power @ B
        B = B - A @ power @ B
    return RealisationResult(StateSpace(A, B, C, D, dt), sigma, order)


def _compiled(h: Tensor, rows: int) -> bool:
    """Whether many small matrices are to be decomposed at once by compiled code."""
    from statewise.ops.arrays import refuses_cpu

    count, p, m = h.shape[-3:]
    size = rows * p * (count - rows - 1) * m
    many = h[..., 0, 0, 0].numel()
    return many >= MANY and 0 < size <= SMALL and refuses_cpu("era", h.device.type) is None


def _by_lanes(h: Tensor, rows: int, order: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Singular values, A, B and C by compiled code; what fails its check goes to the library."""
    from statewise.lti._lane_realisation import realised

    shape, flat = h.shape[:-3], h.flatten(0, -4)
    *found, sound = realised(flat, rows, order)
    if not sound.all():
        for x, other in zip(found, _by_library(flat[~sound], rows, order), strict=True):
            x[~sound] = other
    sigma, A, B, C = (x.unflatten(0, shape) for x in found)
    return sigma, A, B, C


def _by_library(h: Tensor, rows: int, order: int | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Singular values, A, B and C."""
    count, p, m = h.shape[-3:]
    columns = count - rows - 1
    at = torch.arange(rows)[:, None] + torch.arange(columns) + 1
    H, later = (
        h[..., at + shift, :, :].transpose(-3, -2).reshape(*h.shape[:-3], rows * p, columns * m)
        for shift in (0, 1)
    )
    U, sigma, Vh = torch.linalg.svd(H, full_matrices=False)
    order = _order(sigma, order)
    root = sigma[..., :order].sqrt()
    gamma = U[..., :order] * root[..., None, :]
    reach = root[..., :, None] * Vh[..., :order, :]
    back = 1 / root.clamp_min(torch.finfo(root.dtype).tiny)
    A = (
        back[..., :, None]
        * (U[..., :order].mT @ later @ Vh[..., :order, :].mT)
        * back[..., None, :]
    )
    return sigma, A, reach[..., :m], gamma[..., :p, :]


def _markov(response: Any, kind: str) -> Tensor:
    """The Markov parameters in float64; those of frequency data are sums over aliases."""
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; it must be one of {KINDS}")
    values = as_tensor("response", response)
    least = 2 if kind == "frequency" else 3
    if values.dim() < 3 or values.shape[-3] < least or not values.numel():
        raise ValueError(
            f"the response has shape {tuple(values.shape)}; (..., L, p, m) with L ≥ {least} is "
            f"needed"
        )
    # A finite sum has finite terms only.
    if not (values.sum().isfinite() or values.isfinite().all()):
        raise ValueError("the response holds values that are not finite")
    if kind == "frequency":
        grid = values.to(torch.complex128)
        return torch.fft.irfft(grid, n=2 * (grid.shape[-3] - 1), dim=-3)
    if values.is_complex():
        raise TypeError(f'the response is complex; kind="{kind}" needs real values')
    values = values.to(torch.float64)
    if kind == "step":
        values = torch.cat((values[..., :1, :, :], values.diff(dim=-3)), -3)
    return values


def _order(sigma: Tensor, order: int | None) -> int:
    if order is None:
        if sigma.dim() > 1:
            raise ValueError(
                f"a batch of shape {tuple(sigma.shape[:-1])} needs an order; the ranks of its "
                f"systems may differ"
            )
        return max(1, int((sigma > RANK * sigma[0]).sum()))
    if isinstance(order, bool) or not isinstance(order, int) or not 1 <= order <= sigma.shape[-1]:
        raise ValueError(
            f"order is {order!r}; the Hankel matrix of this response allows 1 to {sigma.shape[-1]}"
        )
    return order
