"""A nonlinear recurrence linearised along a trajectory, and the linear scans that this gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from statewise.ops.block_scan import block_scan
from statewise.ops.linear_scan import linear_scan
from statewise.ops.newton_scan.structure import Blocks, Diagonal, Structure


@dataclass(frozen=True)
class Layout:
    """Which step follows which.

    Attributes:
        fresh: (B, L), True at the first step in scan order and at resets: there the state before
            the step is given, so that nothing is linearised.
        reset: (B, L) bool, or None.
        reverse: whether the scan runs from the last step to the first.
    """

    fresh: Tensor
    reset: Tensor | None
    reverse: bool

    def before(self, h: Tensor, h0: Tensor | None) -> Tensor:
        """The state before every step: ``h`` moved by one, ``h0`` first, zero at resets."""
        start = torch.zeros_like(h[:, :1]) if h0 is None else h0.unsqueeze(1)
        parts = [h[:, 1:], start] if self.reverse else [start, h[:, :-1]]
        moved = torch.cat(parts, 1)
        if self.reset is None:
            return moved
        return torch.where(self.reset.unsqueeze(-1), torch.zeros_like(moved), moved)


@dataclass(frozen=True)
class Linearised:
    """h_t ≈ f_t + J_t (h_{t−1} − p_t), around the states p_t before every step.

    Attributes:
        f: f(p_t, x_t), (B, L, n).
        J: its Jacobian, (B, L, n) where diagonal, else (B, L, n/k, k, k).
        prev: the states p, (B, L, n).
        layout: which step follows which.
    """

    f: Tensor
    J: Tensor
    prev: Tensor
    layout: Layout

    @property
    def diagonal(self) -> bool:
        """Whether J holds diagonals only."""
        return self.J.dim() == 3

    def main_diagonal(self) -> Linearised:
        """The same with the diagonal of J alone."""
        if self.diagonal:
            return self
        J = self.J.diagonal(dim1=-2, dim2=-1).flatten(-2)
        return Linearised(self.f, J, self.prev, self.layout)

    def blocks(self, x: Tensor) -> Tensor:
        """Vectors (B, L, n) as (B, L, n/k, k)."""
        return x.unflatten(-1, self.J.shape[2:4])

    def product(self, x: Tensor) -> Tensor:
        """J_t x_t, (B, L, n)."""
        if self.diagonal:
            return self.J * x
        return (self.J @ self.blocks(x).unsqueeze(-1)).squeeze(-1).flatten(-2)

    def offset(self, f: Tensor | None = None) -> Tensor:
        """What the linear recurrence adds at each step: f − J p, and f where nothing is carried.

        Args:
            f: in place of the stored value, for gradients to pass through.
        """
        f = self.f if f is None else f
        carried = f - self.product(self.prev)
        return torch.where(self.layout.fresh.unsqueeze(-1), f, carried)

    def scan(self, J: Tensor, b: Tensor) -> Tensor:
        """h_t = J_t h_{t−1} + b_t, and h_t = b_t at fresh steps."""
        layout = self.layout
        if self.diagonal:
            return linear_scan(J, b, reset=layout.reset, reverse=layout.reverse)[0]
        h, _ = block_scan(J, self.blocks(b), reset=layout.reset, reverse=layout.reverse)
        return h.flatten(-2)


def jacobian(
    cell: Callable[[Tensor, Tensor], Tensor], prev: Tensor, x: Tensor, structure: Structure
) -> Tensor:
    """∂f/∂h at the given states, by the cell's own formula or by autograd.

    Autograd takes one vector-Jacobian product where the structure is diagonal, k for blocks of k.

    Raises:
        ValueError: the cell's own Jacobian is not of the shape that its structure names.
    """
    B, L, n = prev.shape
    k = (
        1
        if isinstance(structure, Diagonal)
        else structure.k
        if isinstance(structure, Blocks)
        else n
    )
    own = getattr(cell, "jacobian", None)
    if own is not None:
        J = own(prev, x).to(prev.dtype)
        if isinstance(structure, Diagonal):
            expected = (B, L, n)
        else:
            expected = (B, L, n // k, k, k)
            if tuple(J.shape) == (B, L, n, n) and k == n:
                J = J.unsqueeze(2)
        if tuple(J.shape) != expected:
            raise ValueError(
                f"newton_scan: the cell's Jacobian has shape {tuple(J.shape)}; states of shape "
                f"{(B, L, n)} with the structure {structure} need {expected}"
            )
        return J
    with torch.enable_grad():
        point = prev.detach().requires_grad_()
        value = cell(point, x)
        if not value.requires_grad:
            return prev.new_zeros(
                (B, L, n) if isinstance(structure, Diagonal) else (B, L, n // k, k, k)
            )
        rows = []
        for row in range(k):
            seed = torch.zeros_like(value).unflatten(-1, (n // k, k))
            seed[..., row] = 1
            (gradient,) = torch.autograd.grad(
                value, point, seed.flatten(-2), retain_graph=row < k - 1, allow_unused=True
            )
            rows.append(torch.zeros_like(prev) if gradient is None else gradient)
    if isinstance(structure, Diagonal):
        return rows[0]
    return torch.stack([row.unflatten(-1, (n // k, k)) for row in rows], -2)
