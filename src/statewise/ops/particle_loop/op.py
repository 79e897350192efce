"""A particle filter in one call: the public door, where arguments are checked."""

from __future__ import annotations

import torch
from torch import Tensor

from statewise.ops import dispatch
from statewise.ops.library import refuse_tangents
from statewise.ops.particle_loop.program import Formula
from statewise.ops.particle_loop.reference import LoopResult, Task
from statewise.ops.particle_step.reference import SCHEMES

OP = "particle_loop"

dispatch.register(
    OP,
    reference="statewise.ops.particle_loop.reference",
    cpu="statewise.ops.particle_loop.cpu",
    gpu="statewise.ops.particle_loop.reference",
)

__all__ = ["LoopResult", "particle_formula", "particle_loop"]


def particle_loop(
    x: Tensor,
    y: Tensor,
    move: Formula,
    weigh: Formula,
    *,
    seen: Tensor | None = None,
    inputs: Tensor | None = None,
    ends: Tensor | None = None,
    key: int = 0,
    scheme: str = "systematic",
    threshold: float = 0.5,
    history: bool = True,
    covariances: bool = False,
) -> LoopResult:
    """A bootstrap particle filter whose model is two formulas, without gradients.

    x_t = move(x_{t−1}, z_t, y_t, u_t), log p(y_t | x_t) = Σ_d weigh_d(x_t, y_t, u_t), with normal
    numbers z_t. In float64 whatever the particles are.

    Args:
        x: particles of the first step (B, N, n).
        y: outputs (B, T, p), none of them NaN.
        move: n outputs.
        weigh: q outputs, log-densities that are added.
        seen: which of them are observed, (B, T, q) bool; all without.
        inputs: u (B, T, m), or None.
        ends: last step of each series, (B,) int64; None for the last of all.
        key: of the random numbers, from 0 to 2⁶⁴ − 1; the same gives the same particles.
        scheme: how ancestors are chosen, a name that ``particle_steps`` knows.
        threshold: a series takes ancestors where its effective sample size is below this share of
            N.
        history: whether particles, weights and ancestors of all steps are kept, and not means.
        covariances: whether covariances are wanted; without history only.

    Returns:
        What was found.

    Raises:
        ValueError: shapes that do not fit, a scheme that is not known, a key out of its range, or
            covariances with history, or a forward-mode tangent.

    Source: Gordon, Salmond and Smith (1993).
    """
    if x.dim() != 3 or y.dim() != 3 or len(x) != len(y) or 0 in (*x.shape, *y.shape):
        raise ValueError(
            f"{OP}: x has shape {tuple(x.shape)} and y {tuple(y.shape)}; they must be (B, N, n) "
            "and (B, T, p)"
        )
    if scheme not in SCHEMES:
        raise ValueError(f"{OP}: scheme is {scheme!r}; it must be one of {', '.join(SCHEMES)}")
    if not 0 <= key < 2**64:
        raise ValueError(f"{OP}: key is {key}; it must be from 0 to 2**64 - 1")
    if history and covariances:
        raise ValueError(f"{OP}: covariances go with history=False, and history is True")
    refuse_tangents(OP, (x, y, inputs, move.constants, weigh.constants))
    (B, _, n), T = x.shape, y.shape[1]
    given = y.new_zeros(B, T, 0) if inputs is None else inputs
    for name, one in (("move", move), ("weigh", weigh)):
        _check(name, one, x, y, given)
    if len(move.program.outputs) != n:
        raise ValueError(f"{OP}: move gives {len(move.program.outputs)} numbers; x has {n}")
    q = len(weigh.program.outputs)
    if seen is None:
        seen = torch.ones(B, T, q, dtype=torch.bool, device=x.device)
    if ends is None:
        ends = torch.full((B,), T - 1, device=x.device)
    if seen.shape != (B, T, q) or ends.shape != (B,) or given.shape[:2] != (B, T):
        raise ValueError(
            f"{OP}: seen, ends and inputs have shapes {tuple(seen.shape)}, {tuple(ends.shape)} and "
            f"{tuple(given.shape)}; they must be {(B, T, q)}, {(B,)} and ({B}, {T}, m)"
        )
    backend = dispatch.select(OP, x.device.type, torch.float64)
    task = Task(x, y, given, seen, ends, move, weigh, key, scheme, threshold, history, covariances)
    return backend.loop(task)


def particle_formula(
    formula: Formula,
    x: Tensor,
    *,
    t: int = 0,
    z: Tensor | None = None,
    y: Tensor | None = None,
    u: Tensor | None = None,
) -> Tensor:
    """What a formula gives for particles, as :func:`particle_loop` computes it.

    Args:
        formula: the formula.
        x: states (B, N, n).
        t: the step.
        z: normal numbers (B, N, n), or None for zeros.
        y: outputs (B, p), or None.
        u: inputs (B, m), or None.

    Returns:
        (B, N, q) float64.

    Raises:
        ValueError: fewer entries than the formula reads, or a forward-mode tangent.
    """
    none = x.new_zeros(len(x), 0)
    z, y, u = (
        torch.zeros_like(x) if z is None else z,
        none if y is None else y,
        none if u is None else u,
    )
    refuse_tangents("particle_formula", (x, z, y, u, formula.constants))
    _check("the formula", formula, x, y.unsqueeze(1), u.unsqueeze(1))
    backend = dispatch.select(OP, x.device.type, torch.float64)
    return backend.formula(formula, t, x, z, y, u)


def _check(name: str, formula: Formula, x: Tensor, y: Tensor, u: Tensor) -> None:
    """Whether there is all that a formula reads."""
    program, shape = formula.program, formula.constants.shape
    if len(shape) != 3 or shape[1] not in (1, len(x)):
        raise ValueError(
            f"{OP}: constants of {name} have shape {tuple(shape)}; they must be (S, R, C) with R 1 "
            f"or {len(x)}"
        )
    sizes = {"x": x.shape[-1], "z": x.shape[-1], "y": y.shape[-1], "u": u.shape[-1], "c": shape[2]}
    for leaf, size in sizes.items():
        if program.entries(leaf) > size:
            raise ValueError(
                f"{OP}: {name} reads {program.entries(leaf)} entries of {leaf}, which has {size}"
            )
