"""Linear matrix equations: Lyapunov in discrete and continuous time, and Sylvester.

Gradients come from the adjoint equation (implicit function theorem), so nothing is unrolled.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from statewise.lti.matrices import eigenvalues, identity_like, numpy_each
from statewise.lti.state_space import as_tensor

METHODS = ("auto", "diagonal", "schur", "doubling")
FEW = 8
DOUBLINGS = 64
SINGULAR = (
    "the equation has no unique solution: two eigenvalues mirror each other at the boundary of "
    "stability"
)


class Solution(NamedTuple):
    """The solution of a matrix equation.

    Attributes:
        X: the solution, (..., n, k).
        residual: Frobenius norm of the equation's rest relative to the largest of its terms,
            (...), without gradient.
    """

    X: Tensor
    residual: Tensor


def discrete_lyapunov(A: Any, Q: Any, *, method: str = "auto") -> Solution:
    """Solve A X A* − X + Q = 0.

    - "diagonal": X_ij = Q_ij/(1 − a_i ā_j), for a diagonal A.
    - "schur": SciPy, matrix by matrix, with one step of refinement; A need not be stable.
    - "doubling": X ← X + A X A*, A ← A², in torch for whole batches; A must be stable.
    - "auto": "diagonal" where A is; else "schur" for up to 8 matrices on a CPU; else "doubling".

    Args:
        A: (..., n, n).
        Q: (..., n, n), any matrix; batch dimensions broadcast.
        method: one of the above.

    Returns:
        The solution and its residual.

    Raises:
        ValueError: shapes that do not fit, an unknown method, or no unique solution.
    """
    A, Q = _pair(A, Q)
    way = _method(A, method)
    X = _Discrete.apply(A, Q, way)
    return Solution(X, discrete_residual(A, X, Q))


def continuous_lyapunov(A: Any, Q: Any, *, method: str = "auto") -> Solution:
    """Solve A X + X A* + Q = 0.

    "diagonal" is X_ij = −Q_ij/(a_i + ā_j). "doubling" takes the equation to discrete time by a
    Cayley transform, A_d = (γ − A)⁻¹(γ + A). For the rest see :func:`discrete_lyapunov`.
    """
    A, Q = _pair(A, Q)
    way = _method(A, method)
    X = _Continuous.apply(A, Q, way)
    return Solution(X, continuous_residual(A, X, Q))


def sylvester(A: Any, B: Any, Q: Any) -> Solution:
    """Solve A X + X B = Q by the Schur method of SciPy, matrix by matrix.

    Args:
        A: (..., n, n).
        B: (..., k, k), no eigenvalue of it the negative of one of A.
        Q: (..., n, k).

    Raises:
        ValueError: shapes that do not fit, or no unique solution.
    """
    A, B, Q = (as_tensor(name, M) for name, M in (("A", A), ("B", B), ("Q", Q)))
    sizes = (A.shape[-1], B.shape[-1])
    if A.shape[-2:] != sizes[:1] * 2 or B.shape[-2:] != sizes[1:] * 2 or Q.shape[-2:] != sizes:
        raise ValueError(
            f"sylvester needs A (..., n, n), B (..., k, k) and Q (..., n, k); given "
            f"{tuple(A.shape)}, {tuple(B.shape)} and {tuple(Q.shape)}"
        )
    kind = torch.promote_types(torch.promote_types(A.dtype, B.dtype), Q.dtype)
    A, B, Q = (M.to(kind) for M in (A, B, Q))
    batch = torch.broadcast_shapes(A.shape[:-2], B.shape[:-2], Q.shape[:-2])
    A, B, Q = (M.expand(*batch, *M.shape[-2:]) for M in (A, B, Q))
    X = _Sylvester.apply(A, B, Q)
    with torch.no_grad():
        terms = (A @ X, X @ B, Q)
        rest = _relative(terms[0] + terms[1] - terms[2], terms)
    return Solution(X, rest)


def discrete_residual(A: Tensor, X: Tensor, Q: Tensor) -> Tensor:
    """‖A X A* − X + Q‖ relative to the largest term."""
    with torch.no_grad():
        moved = A @ X @ A.mH
        return _relative(moved - X + Q, (moved, X, Q))


def continuous_residual(A: Tensor, X: Tensor, Q: Tensor) -> Tensor:
    """‖A X + X A* + Q‖ relative to the largest term."""
    with torch.no_grad():
        left, right = A @ X, X @ A.mH
        return _relative(left + right + Q, (left, right, Q))


def cayley_shift(A: Tensor) -> Tensor:
    """γ > 0 of the Cayley transform, (..., 1, 1): the geometric mean of extreme |eigenvalues|."""
    size = eigenvalues(A.detach()).abs()
    if not size.shape[-1]:
        return size.new_ones(*size.shape[:-1], 1, 1)
    tiny = torch.finfo(size.dtype).tiny ** 0.25
    return (size.amax(-1) * size.amin(-1)).clamp_min(tiny).sqrt()[..., None, None]


class _Discrete(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, A: Tensor, Q: Tensor, method: str) -> Tensor:
        X = _solve_discrete(A, Q, method)
        ctx.save_for_backward(A, X)
        ctx.method = method
        return X

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        A, X = ctx.saved_tensors
        weight = _solve_discrete(A.mH.resolve_conj(), grads[0], ctx.method)
        return weight @ A @ X.mH + weight.mH @ A @ X, weight, None


class _Continuous(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, A: Tensor, Q: Tensor, method: str) -> Tensor:
        X = _solve_continuous(A, Q, method)
        ctx.save_for_backward(A, X)
        ctx.method = method
        return X

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        A, X = ctx.saved_tensors
        weight = _solve_continuous(A.mH.resolve_conj(), grads[0], ctx.method)
        return weight @ X.mH + weight.mH @ X, weight, None


class _Sylvester(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, A: Tensor, B: Tensor, Q: Tensor) -> Tensor:
        X = _solve_sylvester(A, B, Q)
        ctx.save_for_backward(A, B, X)
        return X

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        A, B, X = ctx.saved_tensors
        weight = _solve_sylvester(A.mH, B.mH, grads[0])
        return -weight @ X.mH, -X.mH @ weight, weight


def _solve_discrete(A: Tensor, Q: Tensor, method: str) -> Tensor:
    if method == "diagonal":
        a = A.diagonal(dim1=-2, dim2=-1)
        return Q / _regular(1 - a[..., :, None] * a.conj()[..., None, :])
    if method == "doubling":
        _needs_stable(eigenvalues(A).abs().max() if A.numel() else A.new_zeros(()), 1)
        return _doubling(A, Q)
    at = eigenvalues(A)
    product = at[..., :, None] * at.conj()[..., None, :]
    _distinct(1 - product, product.abs().amax((-1, -2)).clamp_min(1) if A.numel() else product)
    X = numpy_each(_schur_discrete, A, Q)[0]
    return X + numpy_each(_schur_discrete, A, A @ X @ A.mH - X + Q)[0]


def _solve_continuous(A: Tensor, Q: Tensor, method: str) -> Tensor:
    if method == "diagonal":
        a = A.diagonal(dim1=-2, dim2=-1)
        return -Q / _regular(a[..., :, None] + a.conj()[..., None, :])
    if method == "schur":
        at = eigenvalues(A)
        _distinct(at[..., :, None] + at.conj()[..., None, :], _largest(at))
        X = numpy_each(_schur_continuous, A, Q)[0]
        return X + numpy_each(_schur_continuous, A, A @ X + X @ A.mH + Q)[0]
    _needs_stable(eigenvalues(A).real.max() if A.numel() else -A.new_ones(()), 0)
    shift = cayley_shift(A)
    eye = identity_like(A)
    back = torch.linalg.inv(shift * eye - A)
    Ad = back @ (shift * eye + A)
    X = _doubling(Ad, 2 * shift * back @ Q @ back.mH)
    rest = A @ X + X @ A.mH + Q
    return X + _doubling(Ad, 2 * shift * back @ rest @ back.mH)


def _doubling(A: Tensor, Q: Tensor) -> Tensor:
    X = Q
    for _ in range(DOUBLINGS):
        more = A @ X @ A.mH
        X = X + more
        size = torch.linalg.matrix_norm(more)
        if (size <= torch.finfo(size.dtype).eps / 16 * torch.linalg.matrix_norm(X)).all():
            break
        A = A @ A
    return X


def _solve_sylvester(A: Tensor, B: Tensor, Q: Tensor) -> Tensor:
    a, b = eigenvalues(A), eigenvalues(B)
    _distinct(a[..., :, None] + b[..., None, :], torch.maximum(_largest(a), _largest(b)))
    X = numpy_each(_schur_sylvester, A, B, Q)[0]
    return X + numpy_each(_schur_sylvester, A, B, Q - A @ X - X @ B)[0]


def _schur_discrete(A: Any, Q: Any) -> Any:
    import numpy as np
    import scipy.linalg

    if len(A) <= 4:
        n = len(A)
        left = np.eye(n * n) - np.kron(A, A.conj())
        return np.linalg.solve(left, Q.reshape(-1)).reshape(n, n)
    return scipy.linalg.solve_discrete_lyapunov(A, Q, method="bilinear")


def _schur_continuous(A: Any, Q: Any) -> Any:
    import scipy.linalg

    return scipy.linalg.solve_continuous_lyapunov(A, -Q)


def _schur_sylvester(A: Any, B: Any, Q: Any) -> Any:
    import scipy.linalg

    return scipy.linalg.solve_sylvester(A, B, Q)


def _pair(A: Any, Q: Any) -> tuple[Tensor, Tensor]:
    A, Q = as_tensor("A", A), as_tensor("Q", Q)
    if A.dim() < 2 or A.shape[-1] != A.shape[-2] or Q.shape[-2:] != A.shape[-2:]:
        raise ValueError(
            f"A and Q must both be (..., n, n); given {tuple(A.shape)} and {tuple(Q.shape)}"
        )
    kind = torch.promote_types(A.dtype, Q.dtype)
    batch = torch.broadcast_shapes(A.shape[:-2], Q.shape[:-2])
    A, Q = (M.to(kind).expand(*batch, *M.shape[-2:]) for M in (A, Q))
    return A, Q


def _method(A: Tensor, method: str) -> str:
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; it must be one of {METHODS}")
    rest = A.detach() - torch.diag_embed(A.detach().diagonal(dim1=-2, dim2=-1))
    diagonal = not torch.count_nonzero(rest)
    if method == "diagonal" and not diagonal:
        raise ValueError('method "diagonal" needs a diagonal A; it has entries off the diagonal')
    if method != "auto" and A.shape[-1]:
        return method
    # The gradient of a diagonal matrix has entries off the diagonal, which the form serves too.
    if diagonal:
        return "diagonal"
    few = A.numel() <= FEW * A.shape[-1] ** 2 and A.device.type == "cpu"
    return "schur" if few else "doubling"


def _regular(divisor: Tensor) -> Tensor:
    if (divisor == 0).any():
        raise ValueError(SINGULAR)
    return divisor


def _distinct(gaps: Tensor, size: Tensor) -> None:
    """Refuse gaps between eigenvalues, (..., n, k), that are rounding of their size, (...)."""
    if not gaps.numel():
        return
    rounding = 10 * max(gaps.shape[-2:]) * torch.finfo(torch.float64).eps
    if (gaps.abs().amin((-1, -2)) <= rounding * size).any():
        raise ValueError(SINGULAR)


def _largest(at: Tensor) -> Tensor:
    return at.abs().amax(-1) if at.shape[-1] else at.real.sum(-1)


def _needs_stable(extreme: Tensor, boundary: float) -> None:
    if not extreme < boundary:
        what = "spectral radius" if boundary else "largest real part of an eigenvalue"
        raise ValueError(
            f'method "doubling" needs a stable A; its {what} is {extreme.item():.6g}, and below '
            f"{boundary} is needed"
        )


def _relative(rest: Tensor, terms: tuple[Tensor, ...]) -> Tensor:
    scale = torch.stack([torch.linalg.matrix_norm(M) for M in terms]).amax(0)
    return torch.linalg.matrix_norm(rest) / scale.clamp_min(torch.finfo(scale.dtype).tiny)
