"""Algebraic Riccati equations in discrete and continuous time."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from statewise._errors import ConvergenceError
from statewise.lti.lyapunov import continuous_lyapunov, discrete_lyapunov
from statewise.lti.matrices import block, eigenvalues, hermitian, identity_like, numpy_each
from statewise.lti.state_space import as_tensor

METHODS = ("auto", "scipy", "doubling")
FEW = 8
DOUBLINGS = 60


class RiccatiSolution(NamedTuple):
    """The stabilising solution of a Riccati equation.

    Attributes:
        X: the solution, Hermitian, (..., n, n).
        gain: K of the optimal feedback u = −K x, (..., m, n).
        residual: norm of the equation's rest relative to its largest term, (...), no gradient.
    """

    X: Tensor
    gain: Tensor
    residual: Tensor


def discrete_riccati(
    A: Any, B: Any, Q: Any, R: Any, S: Any = None, *, method: str = "auto"
) -> RiccatiSolution:
    """Solve X = A*XA − (A*XB + S)(R + B*XB)⁻¹(B*XA + S*) + Q for A − BK stable.

    It gives the least Σ x*Qx + u*Ru + 2 x*Su of x_{k+1} = A x_k + B u_k. For a Kalman filter,
    give A*, C*, and the covariances of state and output noise; its gain is K*.

    Args:
        A: (..., n, n).
        B: (..., n, m).
        Q: (..., n, n), Hermitian.
        R: (..., m, m), Hermitian and positive definite.
        S: (..., n, m); None for 0.
        method: "scipy", matrix by matrix; "doubling", the structured doubling algorithm in torch
            for whole batches; "auto", "scipy" for up to 8 systems on a CPU.

    Returns:
        Solution, gain and residual. The last step is one of Newton, through which first
        derivatives are those of the implicit function.

    Raises:
        ValueError: shapes that do not fit, or a stabilising solution that does not exist.
        ConvergenceError: doubling did not settle.

    Source: Chu, Fan, Lin & Wang, Structure-preserving algorithms for periodic discrete-time
    algebraic Riccati equations (2004), for the doubling.
    """
    A, B, Q, R, S = _problem(A, B, Q, R, S)
    with torch.no_grad():
        if _by_scipy(A, method):
            X = numpy_each(_scipy_discrete, A, B, Q, R, S)[0]
        else:
            inner, rest, back = _without_cross(A, B, Q, R, S)
            X = _double(inner, B @ back, rest)
        X = hermitian(X)
        K = _discrete_gain(X, A, B, R, S)
        _check_closed_loop(eigenvalues(A - B @ K).abs() < 1)
    # K is optimal, so X does not change with it to first order, and it may be held constant.
    X = hermitian(discrete_lyapunov((A - B @ K).mH, _cost(Q, R, S, K)).X)
    gain = _discrete_gain(X, A, B, R, S)
    with torch.no_grad():
        moved = A.mH @ X @ A
        pulled = (A.mH @ X @ B + S) @ gain
        residual = _relative(moved - pulled + Q - X, (moved, pulled, Q, X))
    return RiccatiSolution(X, gain, residual)


def continuous_riccati(
    A: Any, B: Any, Q: Any, R: Any, S: Any = None, *, method: str = "auto"
) -> RiccatiSolution:
    """Solve A*X + XA − (XB + S) R⁻¹ (B*X + S*) + Q = 0 for A − BK stable.

    Arguments, result and errors are those of :func:`discrete_riccati`; here the cost is an
    integral.

    Source: Chu, Fan & Lin, A structure-preserving doubling algorithm for continuous-time algebraic
    Riccati equations (2005).
    """
    A, B, Q, R, S = _problem(A, B, Q, R, S)
    with torch.no_grad():
        if _by_scipy(A, method):
            X = numpy_each(_scipy_continuous, A, B, Q, R, S)[0]
        else:
            inner, rest, back = _without_cross(A, B, Q, R, S)
            X = _double(*_to_discrete(inner, B @ back, rest))
        X = hermitian(X)
        K = torch.linalg.solve(R, B.mH @ X + S.mH)
        _check_closed_loop(eigenvalues(A - B @ K).real < 0)
    X = hermitian(continuous_lyapunov((A - B @ K).mH, _cost(Q, R, S, K)).X)
    gain = torch.linalg.solve(R, B.mH @ X + S.mH)
    with torch.no_grad():
        left, pulled = A.mH @ X, (X @ B + S) @ gain
        residual = _relative(left + left.mH - pulled + Q, (left, pulled, Q))
    return RiccatiSolution(X, gain, residual)


def _double(A: Tensor, G: Tensor, H: Tensor) -> Tensor:
    """The limit of H under structured doubling."""
    eye = identity_like(A)
    for _ in range(DOUBLINGS):
        W = eye + G @ H
        forward = torch.linalg.solve(W, A)
        G_next = hermitian(G + A @ torch.linalg.solve(W, G) @ A.mH)
        H_next = hermitian(H + A.mH @ H @ forward)
        A = A @ forward
        change = torch.linalg.matrix_norm(H_next - H)
        size = torch.linalg.matrix_norm(H_next)
        G, H = G_next, H_next
        if not H.isfinite().all():
            break
        if (change <= 4 * torch.finfo(size.dtype).eps * size).all():
            return H
    raise ConvergenceError(
        f"structured doubling did not settle in {DOUBLINGS} steps: the system may not be "
        f"stabilisable, or the closed loop has a pole on the boundary of stability"
    )


def _to_discrete(A: Tensor, G: Tensor, H: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The Cayley transform of A*X + XA − XGX + H = 0 to the form that doubling takes."""
    eye = identity_like(A)
    # Above every eigenvalue of A and of the Hamiltonian, so that nothing below is singular.
    flow = block([[A, -G], [-H, -A.mH]])
    sizes = [eigenvalues(M).abs().amax(-1) for M in (A, flow)]
    shift = 1.1 * torch.maximum(*sizes)[..., None, None].clamp_min(torch.finfo(sizes[0].dtype).eps)
    moved = A - shift * eye
    left_G = torch.linalg.solve(moved, G)
    W = moved.mH + H @ left_G
    inverse = torch.linalg.inv(W)
    return (
        eye + 2 * shift * inverse.mH,
        hermitian(2 * shift * left_G @ inverse),
        hermitian(2 * shift * inverse @ torch.linalg.solve(moved, H, left=False)),
    )


def _discrete_gain(X: Tensor, A: Tensor, B: Tensor, R: Tensor, S: Tensor) -> Tensor:
    return torch.linalg.solve(R + B.mH @ X @ B, B.mH @ X @ A + S.mH)


def _cost(Q: Tensor, R: Tensor, S: Tensor, K: Tensor) -> Tensor:
    cross = S @ K
    return Q + K.mH @ R @ K - cross - cross.mH


def _without_cross(
    A: Tensor, B: Tensor, Q: Tensor, R: Tensor, S: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A − BR⁻¹S*, Q − SR⁻¹S* and R⁻¹B*: the problem without a cross term."""
    solved, singular = torch.linalg.solve_ex(R, torch.cat((B.mH, S.mH), -1))
    if singular.any():
        raise ValueError('R is singular; method "doubling" needs a positive definite one')
    back, cross = solved.split(B.shape[-2], -1)
    return A - B @ cross, hermitian(Q - S @ cross), back


def _scipy_discrete(A: Any, B: Any, Q: Any, R: Any, S: Any) -> Any:
    import scipy.linalg

    return _named(scipy.linalg.solve_discrete_are, A, B, Q, R, S)


def _scipy_continuous(A: Any, B: Any, Q: Any, R: Any, S: Any) -> Any:
    import scipy.linalg

    return _named(scipy.linalg.solve_continuous_are, A, B, Q, R, S)


def _check_closed_loop(inside: Tensor) -> None:
    if not inside.all():
        raise ValueError(
            "no stabilising solution was found: the system may not be stabilisable, or a mode on "
            "the boundary of stability has no cost"
        )


def _named(solve: Any, A: Any, B: Any, Q: Any, R: Any, S: Any) -> Any:
    import numpy as np

    try:
        return solve(A, B, Q, R, s=S if S.any() else None)
    except np.linalg.LinAlgError as error:
        raise ValueError(
            f"no stabilising solution was found: the system may not be stabilisable, or a mode on "
            f"the boundary of stability has no cost ({error})"
        ) from error


def _by_scipy(A: Tensor, method: str) -> bool:
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; it must be one of {METHODS}")
    if method == "auto":
        return A.device.type == "cpu" and A.numel() <= FEW * A.shape[-1] ** 2
    return method == "scipy"


def _problem(A: Any, B: Any, Q: Any, R: Any, S: Any) -> tuple[Tensor, ...]:
    names = ("A", "B", "Q", "R", "S")
    given = [as_tensor(name, M) for name, M in zip(names, (A, B, Q, R), strict=False)]
    given.append(torch.zeros_like(given[1]) if S is None else as_tensor("S", S))
    n, m = given[0].shape[-1], given[1].shape[-1]
    expected = ((n, n), (n, m), (n, n), (m, m), (n, m))
    for name, M, shape in zip(names, given, expected, strict=True):
        if M.shape[-2:] != shape:
            raise ValueError(
                f"{name} has shape {tuple(M.shape)}; A of shape {tuple(given[0].shape)} and B of "
                f"shape {tuple(given[1].shape)} need (..., {shape[0]}, {shape[1]})"
            )
    kind = given[0].dtype
    for M in given:
        kind = torch.promote_types(kind, M.dtype)
    batch = torch.broadcast_shapes(*(M.shape[:-2] for M in given))
    return tuple(M.to(kind).expand(*batch, *M.shape[-2:]) for M in given)


def _relative(rest: Tensor, terms: tuple[Tensor, ...]) -> Tensor:
    scale = torch.stack([torch.linalg.matrix_norm(M) for M in terms]).amax(0)
    return torch.linalg.matrix_norm(rest) / scale.clamp_min(torch.finfo(scale.dtype).tiny)
