"""B, D and initial states by linear least squares on simulated or predicted outputs."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from statewise.lti._hankel import Records, fold
from statewise.lti._projections import divide
from statewise.ops import block_scan


@dataclasses.dataclass(frozen=True)
class OutputFit:
    """The least-squares estimates that belong to given A, C and K.

    Attributes:
        B: input matrix, (B, n, m).
        D: direct term, (B, p, m).
        x0: first states of each record, (B, n).
        rests: y − ŷ of each record, (B, T, p).
    """

    B: Tensor
    D: Tensor
    x0: list[Tensor]
    rests: list[Tensor]


def states_before(A: Tensor, drive: Tensor, x0: Tensor) -> Tensor:
    """x_0 … x_{T−1} of x_{t+1} = A x_t + drive_t: A (B, n, n), drive (B, T, H, n)."""
    inner = drive[:, :-1]
    first = x0[:, None]
    if not inner.shape[1]:
        return first
    later = block_scan(A[:, None, None], inner.contiguous(), x0.contiguous())[0]
    return torch.cat((first, later), 1)


def fit_outputs(
    records: Records, A: Tensor, C: Tensor, K: Tensor | None, direct: bool
) -> OutputFit:
    """Minimise Σ ‖y − ŷ‖² over B, D and x_0, for which ŷ is linear.

    Without K, ŷ is a simulation: x_{t+1} = A x_t + B u_t. With it, a one-step prediction:
    x_{t+1} = (A − K C) x_t + (B − K D) u_t + K y_t. Initial states are eliminated record by record.
    D is 0 unless ``direct``.
    """
    n, p, m = A.shape[-1], C.shape[-2], records.n_inputs
    inner = A if K is None else A - K @ C
    shared = n * m + p * m * direct
    common: Tensor | None = None
    tops, designs = [], []
    for u, y in zip(records.u, records.y, strict=True):
        rows = _design(inner, C, K, u, y, direct)
        R = fold(None, rows)
        R = torch.nn.functional.pad(R, (0, 0, 0, R.shape[-1] - R.shape[-2]))
        tops.append(R[:, :n])
        common = fold(common, R[:, n:, n:]) if common is not None else R[:, n:, n:]
        designs.append(rows)
    assert common is not None
    theta = divide(common[:, :shared, :shared], common[:, :shared, shared:])
    x0, rests = [], []
    for top, rows in zip(tops, designs, strict=True):
        free = top[..., n + shared :] - top[..., n : n + shared] @ theta
        start = divide(top[..., :n], free)
        x0.append(start[..., 0])
        full = torch.cat((-start, -theta, torch.ones_like(free[:, :1])), -2)
        rests.append((rows @ full).reshape(len(rows), -1, p))
    B = theta[:, : n * m, 0].reshape(len(theta), m, n).mT
    D = theta.new_zeros(len(theta), p, m)
    if direct:
        D = theta[:, n * m :, 0].reshape(len(theta), m, p).mT
    return OutputFit(B, D, x0, rests)


def _design(
    inner: Tensor, C: Tensor, K: Tensor | None, u: Tensor, y: Tensor, direct: bool
) -> Tensor:
    """Regressors of (x_0, B, D) and the target, (B, T p, n + n m + p m + 1)."""
    batch, length, m = u.shape
    p, n = C.shape[-2:]
    wide = (1 + m) * n
    rows = y.new_empty(batch, length, p, wide + p * m * direct + 1)
    # Rows C_i inner^t, and their convolutions with each input, are states of the transposed system.
    start = y.new_zeros(batch, p, 1 + m, n)
    start[:, :, 0] = C
    rows[:, 0, :, :wide] = start.flatten(2)
    if length > 1:
        drive = y.new_zeros(batch, length - 1, p, 1 + m, n)
        torch.mul(u[:, :-1, None, :, None], C[:, None, :, None], out=drive[:, :, :, 1:])
        later = block_scan(
            inner.mT.contiguous()[:, None, None], drive.flatten(2, 3), start.flatten(1, 2)
        )[0]
        rows[:, 1:, :, :wide] = later.reshape(batch, length - 1, p, wide)
    if m and direct:
        unit = torch.eye(p, dtype=u.dtype, device=u.device)
        through = u[:, :, None, :, None] * unit[:, None]
        if K is not None:
            states = rows[..., n:wide].unflatten(-1, (m, n))
            through = through - states @ K[:, None, None]
        rows[..., wide:-1] = through.flatten(3)
    rows[..., -1] = y
    if K is not None:
        ran = states_before(inner, (y @ K.mT)[:, :, None], y.new_zeros(batch, 1, n))
        rows[..., -1] -= ran[:, :, 0] @ C.mT
    return rows.flatten(1, 2)


def innovations(
    records: Records, A: Tensor, B: Tensor, C: Tensor, D: Tensor, K: Tensor, x0: list[Tensor]
) -> list[Tensor]:
    """Errors of the one-step predictor, (B, T, p) for each record."""
    errors = []
    for u, y, start in zip(records.u, records.y, x0, strict=True):
        drive = u @ (B - K @ D).mT + y @ K.mT
        x = states_before(A - K @ C, drive[:, :, None], start[:, None])[:, :, 0]
        errors.append(y - x @ C.mT - u @ D.mT)
    return errors


def simulation_rests(
    records: Records, A: Tensor, B: Tensor, C: Tensor, D: Tensor, x0: list[Tensor]
) -> list[Tensor]:
    """Errors of the simulation, (B, T, p) for each record."""
    return innovations(records, A, B, C, D, C.new_zeros(len(C), C.shape[-1], C.shape[-2]), x0)
