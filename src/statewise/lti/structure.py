"""Poles, zeros, reachable and observable states, and minimal realisations."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from statewise.lti.matrices import eigenvalues, needs_one
from statewise.lti.simulation import markov_parameters
from statewise.lti.state_space import StateSpace, batch_of, each
from statewise.lti.zero_pole_gain import ZeroPoleGain


def poles(system: StateSpace) -> Tensor:
    """The eigenvalues of A, (..., n), complex."""
    return eigenvalues(system.A)


def is_stable(system: StateSpace, *, margin: float = 0.0) -> Tensor:
    """Whether all poles lie inside the unit circle, or left of the imaginary axis.

    Args:
        system: the system.
        margin: least distance of the poles from that boundary.

    Returns:
        Bool, of the batch shape.
    """
    at = poles(system)
    inside = 1 - at.abs() if system.is_discrete else -at.real
    return (inside > margin).all(-1)


def controllability_matrix(system: StateSpace, count: int | None = None) -> Tensor:
    """[B, AB, …, A^{count−1}B], (..., n, count·m); ``count`` None for n."""
    count = system.n_states if count is None else count
    eye = torch.eye(system.n_states, dtype=system.dtype, device=system.device)
    states = markov_parameters(StateSpace(system.A, system.B, eye), count + 1)[..., 1:, :, :]
    return states.movedim(-3, -2).reshape(
        *system.batch_shape, system.n_states, count * system.n_inputs
    )


def observability_matrix(system: StateSpace, count: int | None = None) -> Tensor:
    """[C; CA; …; CA^{count−1}], (..., count·p, n); ``count`` None for n."""
    return controllability_matrix(system.dual(), count).mH


class Staircase(NamedTuple):
    """A system in controllable staircase form.

    Attributes:
        system: the system in the states z = T* x, controllable ones first.
        T: orthogonal or unitary, (n, n).
        sizes: heights of the steps; their sum is the number of controllable states.
    """

    system: StateSpace
    T: Tensor
    sizes: tuple[int, ...]


def controllable_staircase(system: StateSpace, *, tolerance: float | None = None) -> Staircase:
    """The staircase form of (A, B), by singular value decompositions.

    Args:
        system: one system.
        tolerance: singular values below it count as 0, relative to the norm of [A, B] with B in
            units that give it the norm of A; None for 10 n times the rounding unit.

    Source: Van Dooren, The generalized eigenstructure problem in linear system theory (1981).
    """
    needs_one(system, "controllable_staircase")
    A, B = (M.detach().cpu().numpy() for M in (system.A, system.B))
    n = system.n_states
    feed = B * _unit(A, B)
    limit = _limit((A, feed), tolerance)
    T = np.eye(n, dtype=A.dtype)
    sizes: list[int] = []
    start = 0
    while start < n and feed.shape[1]:
        U, S, _ = np.linalg.svd(feed)
        rank = int((limit < S).sum())
        if not rank:
            break
        whole = np.eye(n, dtype=A.dtype)
        whole[start:, start:] = U
        T = T @ whole
        A = whole.conj().T @ A @ whole
        sizes.append(rank)
        feed = A[start + rank :, start : start + rank]
        start += rank
    turn = torch.as_tensor(T).to(system.device)
    moved = StateSpace(
        turn.mH @ system.A @ turn, turn.mH @ system.B, system.C @ turn, system.D, system.dt
    )
    return Staircase(moved, turn, tuple(sizes))


def minimal_realisation(system: StateSpace, *, tolerance: float | None = None) -> StateSpace:
    """The controllable and observable part, by two staircases.

    Args:
        system: a system, or a batch of systems whose minimal realisations are of one order; they
            are worked on one by one.
        tolerance: see :func:`controllable_staircase`.

    Raises:
        ValueError: systems of a batch with minimal realisations of different orders.
    """
    if system.batch_shape:
        parts = [minimal_realisation(one, tolerance=tolerance) for one in each(system)]
        orders = sorted({part.n_states for part in parts})
        if len(orders) != 1:
            raise ValueError(
                f"the systems of the batch have minimal realisations of {orders} states, which fit "
                f"no single batch; take them one by one"
            )
        return batch_of(parts, system.batch_shape)
    for _ in range(2):
        stairs = controllable_staircase(system, tolerance=tolerance)
        n = sum(stairs.sizes)
        A, B, C, D = stairs.system.matrices
        system = StateSpace(A[:n, :n], B[:n], C[:, :n], D, system.dt).dual()
    return system


def transmission_zeros(system: StateSpace, *, tolerance: float | None = None) -> Tensor:
    """The invariant zeros: where [[A − zI, B], [C, D]] loses rank; any numbers of channels.

    Args:
        system: a system, or a batch, worked on one by one.
        tolerance: singular values below it count as 0, relative to the norm of the system with
            inputs and outputs in units that give B and C the norm of A; None for 10 n times the
            rounding unit.

    Returns:
        The finite zeros, (k,), complex; of a batch (..., k), k the largest number of any system,
        with NaN behind the zeros of those that have fewer.

    Source: Emami-Naeini & Van Dooren, Computation of zeros of linear multivariable systems (1982).
    """
    if system.batch_shape:
        parts = [transmission_zeros(one, tolerance=tolerance) for one in each(system)]
        count = max(len(part) for part in parts)
        padded = [
            torch.nn.functional.pad(part, (0, count - len(part)), value=math.nan) for part in parts
        ]
        return torch.stack(padded).reshape(*system.batch_shape, count)
    import scipy.linalg

    A, B, C, D = (M.detach().cpu().numpy() for M in system.matrices)
    into, out = _unit(A, B), _unit(A, C)
    B, C, D = B * into, C * out, D * into * out
    limit = _limit((A, B, C, D), tolerance)
    A, B, C, D = _full_row_rank(A, B, C, D, limit)
    At, Ct, Bt, Dt = _full_row_rank(A.conj().T, C.conj().T, B.conj().T, D.conj().T, limit)
    A, B, C, D = (M.conj().T for M in (At, Bt, Ct, Dt))
    n = len(A)
    if not n:
        found = np.zeros(0, complex)
    elif not D.size:
        found = scipy.linalg.eigvals(A)
    else:
        _, _, Vh = np.linalg.svd(np.hstack((C, D)))
        kernel = Vh[len(C) :].conj().T
        found = scipy.linalg.eigvals(np.hstack((A, B)) @ kernel, kernel[:n])
        found = found[np.isfinite(found)]
    kind = torch.promote_types(system.dtype, torch.complex64)
    return torch.as_tensor(found, dtype=kind, device=system.device)


def to_zpk(system: StateSpace) -> ZeroPoleGain:
    """Zeros, poles and gain of one system with one input and one output.

    Raises:
        ValueError: a batch, several channels, or a transfer function that is 0.
    """
    needs_one(system, "to_zpk")
    if system.n_inputs != 1 or system.n_outputs != 1:
        raise ValueError(
            f"to_zpk needs one input and one output; given {system.n_inputs} and "
            f"{system.n_outputs}; select(outputs, inputs) picks channels"
        )
    zeros = transmission_zeros(system)
    lag = system.n_states - len(zeros)
    gain = markov_parameters(system, lag + 1)[-1, 0, 0]
    if gain == 0:
        raise ValueError("the transfer function is 0, and so has no zeros and poles")
    return ZeroPoleGain(zeros, poles(system), gain, system.dt)


def _unit(A: np.ndarray, M: np.ndarray) -> float:
    """A factor for B or C, which have units of their own, so that ranks do not hang on these."""
    size, found = np.linalg.norm(A), np.linalg.norm(M)
    return float(size / found) if size and found else 1.0


def _limit(matrices: tuple[np.ndarray, ...], tolerance: float | None) -> float:
    scale = float(np.sqrt(sum(np.linalg.norm(M) ** 2 for M in matrices)))
    if tolerance is None:
        tolerance = 10 * max(1, len(matrices[0])) * float(np.finfo(matrices[0].dtype).eps)
    return tolerance * scale


def _full_row_rank(
    A: np.ndarray, B: np.ndarray, C: np.ndarray, D: np.ndarray, limit: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A smaller system with the same zeros whose D has independent rows."""
    while len(D):
        U, S, _ = np.linalg.svd(D)
        rank = int((limit < S).sum())
        C, D = U.conj().T @ C, U.conj().T @ D
        free = C[rank:]
        C, D = C[:rank], D[:rank]
        if not len(free):
            break
        n = len(A)
        _, S, Vh = np.linalg.svd(free)
        seen = int((limit < S).sum())
        if not seen:
            break
        V = np.hstack((Vh[seen:].conj().T, Vh[:seen].conj().T))
        A, B, C = V.conj().T @ A @ V, V.conj().T @ B, C @ V
        left = n - seen
        C = np.vstack((C[:, :left], A[left:, :left]))
        D = np.vstack((D, B[left:]))
        A, B = A[:left, :left], B[:left]
    return A, B, C, D
