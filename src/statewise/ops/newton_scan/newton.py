"""``newton_scan``: any nonlinear recurrence, by Newton's method over the whole sequence."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from statewise.ops.arguments import (
    REAL,
    check_length,
    check_reset,
    check_shape,
    floating,
    optional_tensors,
    require_tensors,
)
from statewise.ops.library import in_forward_mode
from statewise.ops.newton_scan.linearised import Layout, Linearised, jacobian
from statewise.ops.newton_scan.methods import Method, Newton
from statewise.ops.newton_scan.structure import Blocks, Dense, Structure
from statewise.ops.precision import accumulation_dtype

_OP = "newton_scan"

AGREEMENT = 1e-3
"""The largest bound, relative to max(1, |h|), of an answer that counts as converged."""


class NewtonScan(NamedTuple):
    """What :func:`newton_scan` found.

    Attributes:
        h: every state, (B, L, n).
        last: the last one in scan order, (B, n).
        residuals: max |h_t − f(h_{t−1}, x_t)| of the first guess and after every update.
        bound: max |δ|, with δ_t = J_t δ_{t−1} + f(h_{t−1}, x_t) − h_t the next Newton correction,
            with the full Jacobian: the distance of ``h`` from the sequential run, up to terms of
            second order in it. A cell that expands turns a small residual into a large bound.
        converged: the last residual is at most ``tolerance`` and the bound at most
            :data:`AGREEMENT`, both relative to max(1, max |h|). Otherwise gradients are refused.
        tolerance: the tolerance that was asked for.
    """

    h: Tensor
    last: Tensor
    residuals: tuple[float, ...]
    bound: float
    converged: bool
    tolerance: float

    @property
    def residual(self) -> float:
        """The last residual; that of ``h``, unless it is not finite."""
        return self.residuals[-1]

    @property
    def iterations(self) -> int:
        """Updates that were made."""
        return len(self.residuals) - 1

    @property
    def diverged(self) -> bool:
        """Whether the iteration left the numbers, or ended further away than it began."""
        return not self.converged and not self.residual <= self.residuals[0]


def newton_scan(
    cell: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    h0: Tensor | None = None,
    *,
    method: Method | None = None,
    iterations: int = 16,
    tolerance: float | None = None,
    guess: Tensor | None = None,
    reset: Tensor | None = None,
    reverse: bool = False,
) -> NewtonScan:
    """Solve h_t = f(h_{t−1}, x_t) for all t at once: each update is one linear scan.

    All steps are evaluated together along the present trajectory; the recurrence linearised there
    is a linear scan, whose solution is the next trajectory. The updates stop when the residual
    max |h_t − f(h_{t−1}, x_t)| is small; an answer that is not converged says so, and refuses to
    be differentiated.

    The gradient is that of the solution itself (implicit function theorem): one scan against time
    with J_tᵀ, and one vector-Jacobian product of the cell at all steps. It reaches x, h0 and every
    parameter of the cell. Half-precision inputs are computed in float32, outside of autocast.

    Args:
        cell: f, a callable of a state (B, L, n) and x that treats every (b, t) alone, called in
            float32 or float64. It may have the attributes ``size`` (n, needed without ``h0``),
            ``structure`` (:class:`Diagonal`, :class:`Blocks` or, by default, :class:`Dense`) and
            ``jacobian(h, x)`` (∂f/∂h in the structure's shape; by default autograd finds it).
            :class:`Cell` adds them to a function.
        x: inputs, (B, L, ...).
        h0: state before the first step, (B, n); None for zero.
        method: :class:`Newton` (the default), :class:`QuasiNewton` or :class:`Damped`.
        iterations: the most updates to make.
        tolerance: the residual to stop at, relative to max(1, max |h|); by default ε^(3/4) for the
            machine epsilon of the computation: 6e-6 in float32, 2e-12 in float64.
        guess: the first trajectory, (B, L, n); by default f(0, x_t), and f(h0, x_t) at first.
        reset: (B, L) bool; True zeroes the state before that step.
        reverse: run from the last step to the first; "before" and "last" follow that order.

    Returns:
        The trajectory and how it was reached. The numbers are read on the host, so that every
        update waits for the device once, and ``torch.compile`` breaks its graph here.

    Raises:
        ValueError: a shape that does not fit, no steps, no iterations, a tolerance below 0, or a
            cell of unknown size.
        TypeError: a type that is not floating-point where it must be, a reset that is not bool, or
            a method that is none.
        RuntimeError: in the backward pass, or where there are forward-mode tangents, when the
            answer has not converged.

    Source: DEER (arXiv 2309.12252), ParaRNN (arXiv 2510.21450), ELK (arXiv 2407.19115).

    Example:
        >>> import torch
        >>> from statewise.ops import Cell, Diagonal
        >>> f = Cell(lambda h, x: torch.tanh(0.5 * h + x), size=1, structure=Diagonal())
        >>> found = newton_scan(f, torch.ones(1, 4, 1))
        >>> found.converged, [round(v, 4) for v in found.h.flatten().tolist()]
        (True, [0.7616, 0.8811, 0.8938, 0.8951])
    """
    method = Newton() if method is None else method
    structure = getattr(cell, "structure", Dense())
    size = _check(cell, x, h0, guess, reset, iterations, structure)
    if isinstance(method, type) or not callable(getattr(method, "update", None)):
        raise TypeError(
            f"{_OP}: method is {method!r}; it must be a Newton(), QuasiNewton() or Damped(...)"
        )
    if tolerance is not None and not tolerance >= 0:
        raise ValueError(f"{_OP}: tolerance is {tolerance}; it must be at least 0")
    out, acc = _types(x, h0)
    layout = _layout(x, reset, reverse)
    inputs = x.to(acc) if x.dtype in REAL else x
    start = None if h0 is None else h0.to(acc)
    wanted = torch.finfo(acc).eps ** 0.75 if tolerance is None else tolerance
    with torch.autocast(x.device.type, enabled=False):
        with torch.no_grad():
            first = None if start is None else start.detach()
            problem = _Problem(cell, inputs.detach(), first, structure, layout)
            if guess is None:
                h = problem.value(
                    layout.before(inputs.new_zeros((*x.shape[:2], size), dtype=acc), first)
                )
            else:
                h = guess.detach().to(acc)
            step, h, residuals = _iterate(problem, method, h, iterations, wanted)
            bound = _largest(step.scan(step.J, step.offset()) - h)
            # A parameter of the cell may have left forward-mode tangents.
            h, J, prev = h.detach(), step.J.detach(), step.prev.detach()
            step = Linearised(step.f, J, prev, layout)
        scale = max(1.0, _largest(h))
        converged = residuals[-1] <= wanted * scale and bound <= AGREEMENT * scale
        forward = in_forward_mode()
        if torch.is_grad_enabled() or forward:
            value = cell(layout.before(h, start), inputs).to(acc)
            if value.requires_grad or forward:
                refusal = None if converged else _refusal(residuals, bound, wanted)
                solution = step.scan(step.J, step.offset(value))
                h = _Answer.apply(solution, h, refusal)
    last = h[:, 0 if reverse else -1]
    return NewtonScan(h.to(out), last, tuple(residuals), bound, converged, wanted)


class _Problem(NamedTuple):
    """The recurrence to solve."""

    cell: Callable[[Tensor, Tensor], Tensor]
    x: Tensor
    h0: Tensor | None
    structure: Structure
    layout: Layout

    def value(self, prev: Tensor) -> Tensor:
        """The cell at the states before every step."""
        value = self.cell(prev, self.x)
        check_shape(_OP, "what the cell returns", value, prev.shape, "its state")
        return value.to(prev.dtype)

    def linearise(self, h: Tensor) -> Linearised:
        """The cell and its Jacobian along a trajectory."""
        prev = self.layout.before(h, self.h0)
        J = jacobian(self.cell, prev, self.x, self.structure)
        return Linearised(self.value(prev), J, prev, self.layout)


def _iterate(
    problem: _Problem, method: Method, h: Tensor, iterations: int, tolerance: float
) -> tuple[Linearised, Tensor, list[float]]:
    """The last finite trajectory, the recurrence linearised along it, and all residuals."""
    step = problem.linearise(h)
    residuals = [_largest(h - step.f)]
    while len(residuals) <= iterations:
        scale = max(1.0, _largest(h))
        if residuals[-1] <= tolerance * scale or not math.isfinite(residuals[-1]):
            break
        following = method.update(step, h)
        next_step = problem.linearise(following)
        residuals.append(_largest(following - next_step.f))
        if math.isfinite(residuals[-1]):
            step, h = next_step, following
    return step, h, residuals


def _largest(x: Tensor) -> float:
    return x.abs().max().item() if x.numel() else 0.0


class _Answer(torch.autograd.Function):
    """The trajectory, with the derivatives of the linear system that it solves."""

    generate_vmap_rule = True

    @staticmethod
    def forward(solution: Tensor, h: Tensor, refusal: str | None) -> Tensor:
        return h.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.refusal = inputs[2]

    @staticmethod
    def jvp(ctx: Any, solution: Tensor | None, *rest: Any) -> Tensor | None:
        if ctx.refusal is not None:
            raise RuntimeError(ctx.refusal)
        return None if solution is None else solution.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple:
        if ctx.refusal is not None:
            raise RuntimeError(ctx.refusal)
        return gradients[0], None, None


def _refusal(residuals: list[float], bound: float, tolerance: float) -> str:
    return (
        f"{_OP} did not converge, so its gradient is refused: the residual is {residuals[-1]:.3g} "
        f"after {len(residuals) - 1} iterations (tolerance {tolerance:.3g} relative to the states) "
        f"and the next correction {bound:.3g} (at most {AGREEMENT:.3g}); allow more iterations, "
        "damp the updates, or make the cell contract"
    )


def _types(x: Tensor, h0: Tensor | None) -> tuple[torch.dtype, torch.dtype]:
    """The type of h and the type of the computation."""
    out = x.dtype if x.dtype in REAL else torch.get_default_dtype()
    acc = accumulation_dtype(out)
    if h0 is not None and h0.dtype not in (out, acc):
        wider = torch.promote_types(acc, h0.dtype)
        out, acc = (out, acc) if wider == acc else (wider, wider)
    return out, acc


def _layout(x: Tensor, reset: Tensor | None, reverse: bool) -> Layout:
    fresh = torch.zeros(x.shape[:2], dtype=torch.bool, device=x.device)
    fresh[:, -1 if reverse else 0] = True
    return Layout(fresh if reset is None else fresh | reset, reset, reverse)


def _check(
    cell: Any,
    x: Tensor,
    h0: Tensor | None,
    guess: Tensor | None,
    reset: Tensor | None,
    iterations: int,
    structure: Structure,
) -> int:
    """Refuse what does not fit; the number of states."""
    require_tensors(_OP, x=x)
    optional_tensors(_OP, h0=h0, guess=guess)
    shape = tuple(x.shape)
    if len(shape) < 2:
        raise ValueError(f"{_OP}: x has shape {shape}; it must be (B, L, ...)")
    check_length(_OP, "x", x)
    if iterations < 1:
        raise ValueError(f"{_OP}: iterations is {iterations}; it must be at least 1")
    size = getattr(cell, "size", None)
    if h0 is not None:
        floating(_OP, "h0", h0)
        if h0.dim() != 2 or h0.shape[0] != shape[0]:
            raise ValueError(
                f"{_OP}: h0 has shape {tuple(h0.shape)}; x of shape {shape} needs ({shape[0]}, n)"
            )
        if size is not None:
            check_shape(_OP, "h0", h0, (shape[0], size), f"a cell of {size} states")
        size = h0.shape[1]
    if size is None:
        raise ValueError(
            f"{_OP}: the cell does not say how many states it has; give h0 of shape "
            f"({shape[0]}, n), or a cell with an attribute size"
        )
    if isinstance(structure, Blocks) and size % structure.k:
        raise ValueError(f"{_OP}: {size} states cannot be cut into blocks of {structure.k}")
    if guess is not None:
        floating(_OP, "guess", guess)
        check_shape(_OP, "guess", guess, (*shape[:2], size), f"x of shape {shape}")
    check_reset(_OP, reset, shape[0], shape[1])
    return size
