"""Sums over the samples of many series of equal length, eight series to a vector register."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor

from statewise.lti._hankel import Layout, Records, columns
from statewise.ops import pool
from statewise.ops.blocks import cut

LANES = 8
# Below this ratio of pivots of equilibrated columns, normal equations would cost too many digits.
PIVOTS = 1e-3


@dataclasses.dataclass(frozen=True)
class Lanes:
    """Inputs and outputs of a batch, series last.

    Attributes:
        z: (groups, T, m + p, 8); behind the last series come zeros.
        count: number of series.
        length: samples T.
        m: inputs.
        p: outputs.
    """

    z: Tensor
    count: int
    length: int
    m: int
    p: int


@dataclasses.dataclass(frozen=True)
class Fitted:
    """Least-squares estimates of B, D and x_0 from simulated outputs.

    Attributes:
        B: input matrix, (B, n, m).
        D: direct term, (B, p, m).
        x0: first states, (B, n).
        sound: whether the normal equations were well enough conditioned, (B,).
    """

    B: Tensor
    D: Tensor
    x0: Tensor
    sound: Tensor


def lanes_of(records: Records) -> Lanes | None:
    """The batch for compiled sums, or None where they do not apply."""
    from statewise.ops.arrays import refuses_cpu

    if len(records.y) != 1 or refuses_cpu("identify_batch", records.y[0].device.type):
        return None
    z = torch.cat((records.u[0], records.y[0]), -1)
    count, length = z.shape[:2]
    return Lanes(_spread(z), count, length, records.n_inputs, records.n_outputs)


def window_gram(lanes: Lanes, layout: Layout) -> Tensor:
    """Σ h hᵀ over all windows h, (B, width, width), with the columns of the layout."""
    from statewise.lti import _lane_kernels as kernels

    total, c, width = layout.past + layout.future, lanes.m + lanes.p, layout.width
    where = np.argsort(np.array(columns(layout))).reshape(total, c)
    gram = torch.empty(len(lanes.z), width, width, LANES, dtype=torch.float64)
    z, out = _flat(lanes.z), _flat(gram)

    def call(g0: int, g1: int) -> None:
        kernels.window_gram(z, g0, g1, lanes.length, c, total, where, out)

    _run(call, lanes)
    return _gathered(gram, lanes.count)


def fit_simulation(lanes: Lanes, A: Tensor, C: Tensor, direct: bool) -> Fitted:
    """Minimise Σ ‖y − ŷ‖² over B, D and x_0 by normal equations; ŷ is a simulation."""
    from statewise.lti import _lane_kernels as kernels

    n, m, p = A.shape[-1], lanes.m, lanes.p
    wide = n * (1 + m)
    q = wide + m * direct + 1
    sums = torch.zeros(len(lanes.z), p, q, q, LANES, dtype=torch.float64)
    given = [_flat(x) for x in (lanes.z, _spread(A), _spread(C))]
    out = _flat(sums)

    def call(g0: int, g1: int) -> None:
        room = np.zeros((kernels.STEPS + 1) * q * LANES)
        kernels.design_gram(*given, g0, g1, lanes.length, m, p, n, direct, room, out)

    _run(call, lanes)
    found = _gathered(sums, lanes.count)
    found = found.triu() + found.triu(1).mT
    normal, right = _assembled(found, wide, m * direct)
    size = normal.diagonal(dim1=-2, dim2=-1).sqrt().clamp_min(torch.finfo(normal.dtype).tiny)
    lower, info = torch.linalg.cholesky_ex(normal / (size[..., None] * size[..., None, :]))
    pivots = lower.diagonal(dim1=-2, dim2=-1)
    sound = (info == 0) & (pivots.amin(-1) > PIVOTS * pivots.amax(-1))
    theta = torch.cholesky_solve((right / size)[..., None], lower)[..., 0] / size
    B = theta[:, n:wide].reshape(len(theta), m, n).mT
    D = theta.new_zeros(len(theta), p, m)
    if direct:
        D = theta[:, wide:].reshape(len(theta), p, m)
    return Fitted(B, D, theta[:, :n], sound & theta.isfinite().all(-1))


def compiled_gains(
    A: Tensor, C: Tensor, Q: Tensor, R: Tensor, S: Tensor, doublings: int
) -> tuple[Tensor, Tensor] | None:
    """Kalman gains, (B, n, p), and which of them were found; None where compiled code cannot."""
    from statewise.ops.arrays import refuses_cpu

    if refuses_cpu("identify_batch", A.device.type):
        return None
    from statewise.lti._riccati_kernel import kalman_gains

    count, n = A.shape[:2]
    K = A.new_zeros(count, n, C.shape[-2])
    settled = torch.zeros(count, dtype=torch.bool)
    given = [x.contiguous().numpy() for x in (A, C, Q, R, S)]
    out = (K.numpy(), settled.numpy())
    blocks = cut(count, 1, count * n**3 * doublings)
    pool.run([partial(kalman_gains, *given, s0, s1, doublings, *out) for s0, s1, _, _ in blocks])
    return K, settled


def _assembled(found: Tensor, wide: int, m: int) -> tuple[Tensor, Tensor]:
    """Normal equations of all outputs: they share B and x_0, and each has its own row of D."""
    if m == 0 or found.shape[1] == 1:
        whole = found.sum(1)
        return whole[:, :-1, :-1], whole[:, :-1, -1]
    count, p = found.shape[:2]
    size = wide + p * m
    normal = found.new_zeros(count, size, size)
    right = found.new_zeros(count, size)
    normal[:, :wide, :wide] = found[:, :, :wide, :wide].sum(1)
    right[:, :wide] = found[:, :, :wide, -1].sum(1)
    for i in range(p):
        own = slice(wide + i * m, wide + (i + 1) * m)
        normal[:, :wide, own] = found[:, i, :wide, wide:-1]
        normal[:, own, :wide] = found[:, i, wide:-1, :wide]
        normal[:, own, own] = found[:, i, wide:-1, wide:-1]
        right[:, own] = found[:, i, wide:-1, -1]
    return normal, right


def rest_powers(
    lanes: Lanes, A: Tensor, B: Tensor, C: Tensor, D: Tensor, K: Tensor, x0: Tensor
) -> tuple[Tensor, Tensor]:
    """Σ r_i² of the simulation, (B, p), and Σ e eᵀ of one-step predictions, (B, p, p)."""
    from statewise.lti import _lane_kernels as kernels

    n, m, p = A.shape[-1], lanes.m, lanes.p
    simulated = torch.zeros(len(lanes.z), p, LANES, dtype=torch.float64)
    ahead = torch.zeros(len(lanes.z), p, p, LANES, dtype=torch.float64)
    given = [_flat(x) for x in (lanes.z, *map(_spread, (A, B, C, D, K, x0)))]
    out = [_flat(x) for x in (simulated, ahead)]

    def call(g0: int, g1: int) -> None:
        room = np.zeros((3 * n + p) * LANES)
        kernels.rest_powers(*given, g0, g1, lanes.length, m, p, n, room, *out)

    _run(call, lanes)
    lower = _gathered(ahead, lanes.count)
    return _gathered(simulated, lanes.count), lower.tril() + lower.tril(-1).mT


def _spread(x: Tensor) -> Tensor:
    """Series from the first axis to the last, in groups of eight."""
    missing = -len(x) % LANES
    if missing:
        x = torch.cat((x, x.new_zeros(missing, *x.shape[1:])))
    return x.unflatten(0, (-1, LANES)).movedim(1, -1).contiguous()


def _gathered(x: Tensor, count: int) -> Tensor:
    """The opposite of :func:`_spread`."""
    return x.movedim(-1, 1).flatten(0, 1)[:count].contiguous()


def _flat(x: Tensor) -> np.ndarray:
    return x.reshape(-1).numpy()


def _run(call: Callable[[int, int], None], lanes: Lanes) -> None:
    blocks = cut(len(lanes.z), 1, lanes.z.numel())
    pool.run([partial(call, g0, g1) for g0, g1, _, _ in blocks])
