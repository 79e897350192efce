"""Matrices of rational functions, by entry, to and from state space."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from statewise.lti import polynomials
from statewise.lti.state_space import StateSpace, as_tensor, checked_dt


@dataclasses.dataclass(frozen=True, eq=False, init=False, repr=False)
class TransferFunction:
    """G_ij(s) = num_ij(s) / den_ij(s), coefficients with the highest power first.

    Leading zeros are allowed. Discrete systems have polynomials in z, not in z⁻¹.

    Attributes:
        num: numerators, (..., p, m, k).
        den: denominators, (..., p, m, l).
        dt: sampling time, or None for continuous time.

    Example:
        >>> low_pass = TransferFunction([1.0], [0.5, 1.0])
        >>> low_pass(0.0).item()
        (1+0j)
    """

    num: Tensor
    den: Tensor
    dt: float | None

    def __init__(self, num: Any, den: Any, dt: float | None = None) -> None:
        """See the class; one-dimensional arrays are one input and one output.

        Raises:
            ValueError: shapes that do not broadcast, a denominator that is 0, or a bad ``dt``.
        """
        num, den = as_tensor("num", num), as_tensor("den", den)
        kind = torch.promote_types(num.dtype, den.dtype)
        num, den = (x.to(kind) for x in (num, den))
        for name, value in (("num", num), ("den", den)):
            if value.dim() not in (1, *range(3, 99)) or not value.shape[-1]:
                raise ValueError(
                    f"{name} has shape {tuple(value.shape)}; coefficients of one function (k,), or "
                    f"of a matrix of them (..., outputs, inputs, k), are needed"
                )
            if not value.isfinite().all():
                raise ValueError(f"{name} holds values that are not finite")
        num, den = (x[None, None] if x.dim() == 1 else x for x in (num, den))
        try:
            shape = torch.broadcast_shapes(num.shape[:-1], den.shape[:-1])
        except RuntimeError:
            raise ValueError(
                f"num of shape {tuple(num.shape)} and den of shape {tuple(den.shape)} do not "
                f"broadcast in all but the last axis"
            ) from None
        if (den == 0).all(-1).any():
            raise ValueError("a denominator is 0")
        object.__setattr__(self, "num", num.expand(*shape, num.shape[-1]))
        object.__setattr__(self, "den", den.expand(*shape, den.shape[-1]))
        object.__setattr__(self, "dt", checked_dt(dt))

    @property
    def n_outputs(self) -> int:
        """Number of outputs p."""
        return self.num.shape[-3]

    @property
    def n_inputs(self) -> int:
        """Number of inputs m."""
        return self.num.shape[-2]

    @property
    def batch_shape(self) -> torch.Size:
        """The leading dimensions."""
        return self.num.shape[:-3]

    def __repr__(self) -> str:
        time = "continuous time" if self.dt is None else f"dt={self.dt:g}"
        sizes = f"{self.n_inputs} inputs, {self.n_outputs} outputs"
        return f"TransferFunction({sizes}, degree {self.den.shape[-1] - 1}, {time})"

    def __call__(self, points: Any) -> Tensor:
        """G at ``points``, which broadcast with the batch dimensions: (..., p, m), complex."""
        kind = torch.promote_types(self.num.dtype, torch.complex64)
        s = torch.as_tensor(points, dtype=kind, device=self.num.device)[..., None, None]
        return polynomials.evaluate(self.num, s) / polynomials.evaluate(self.den, s)


def to_transfer_function(system: StateSpace) -> TransferFunction:
    """The rational functions of a system, all over det(sI − A).

    The numerators are the first n + 1 coefficients of det(sI − A) times the Markov parameters D,
    CB, CAB, …; nothing is cancelled, so take a minimal realisation first. Meant for orders up to
    about 15: the coefficients of high-order polynomials do not hold a system's digits.

    Returns:
        Numerators and denominators of degree n.
    """
    den = polynomials.characteristic(system.A)
    markov, state = [system.D], system.B
    for _ in range(system.n_states):
        markov.append(system.C @ state)
        state = system.A @ state
    series = torch.stack(markov, -1)
    den = den[..., None, None, :]
    num = polynomials.multiply(den, series)[..., : system.n_states + 1]
    return TransferFunction(num, den, system.dt)


def from_transfer_function(function: TransferFunction) -> StateSpace:
    """A realisation: controllable companion form, one for each input or for each entry.

    Entries of a column with the same denominator share their states; else each entry has states
    of its own. Not minimal in general for several inputs and outputs.

    Raises:
        ValueError: a numerator of higher degree than its denominator, or degrees that differ
            between the systems of a batch.
    """
    p, m = function.n_outputs, function.n_inputs
    blocks: list[tuple[Tensor, Tensor, Tensor, int]] = []
    D = function.num.new_zeros(*function.batch_shape, p, m)
    for j in range(m):
        column = function.den[..., :, j, :]
        shared = p > 0 and bool((column == column[..., :1, :]).all())
        groups = [list(range(p))] if shared else [[i] for i in range(p)]
        for rows in groups:
            A, C, direct = _companion(function.num[..., rows, j, :], column[..., rows[0], :])
            full = C.new_zeros(*C.shape[:-2], p, C.shape[-1])
            full[..., rows, :] = C
            D[..., rows, j] = direct
            if A.shape[-1]:
                blocks.append((A, full, direct, j))
    n = sum(A.shape[-1] for A, *_ in blocks)
    A = D.new_zeros(*function.batch_shape, n, n)
    B = D.new_zeros(*function.batch_shape, n, m)
    C = D.new_zeros(*function.batch_shape, p, n)
    start = 0
    for block, rows, _, j in blocks:
        end = start + block.shape[-1]
        A[..., start:end, start:end] = block
        B[..., start, j] = 1
        C[..., start:end] = rows
        start = end
    return StateSpace(A, B, C, D, function.dt)


def _companion(num: Tensor, den: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A, C and D of the companion form of ``num`` (..., rows, k) over one ``den`` (..., l)."""
    den = _trimmed(den)
    degree = den.shape[-1] - 1
    excess = num.shape[-1] - degree - 1
    if excess > 0:
        if (num[..., :excess] != 0).any():
            raise ValueError(
                f"a numerator has a higher degree than its denominator, which has {degree}: an "
                f"improper function has no state-space form"
            )
        num = num[..., excess:]
    num = torch.nn.functional.pad(num, (max(-excess, 0), 0))
    lead = den[..., :1]
    den, num = den / lead, num / lead[..., None, :]
    direct = num[..., 0]
    C = num[..., 1:] - direct[..., None] * den[..., None, 1:]
    return polynomials.companion(den[..., 1:]), C, direct


def _trimmed(den: Tensor) -> Tensor:
    """The denominators of a batch without the leading zeros that all of them have."""
    nonzero = (den != 0).reshape(-1, den.shape[-1])
    first = int(nonzero.any(0).long().argmax())
    if not nonzero[:, first].all():
        raise ValueError(
            "denominators of different degrees in one batch give different numbers of states; "
            "convert the systems one by one"
        )
    return den[..., first:]
