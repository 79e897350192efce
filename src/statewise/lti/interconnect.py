"""Systems joined to one: in series, in parallel, side by side and in a loop."""

from __future__ import annotations

import torch

from statewise.lti.matrices import block, block_diagonal, identity_like
from statewise.lti.state_space import StateSpace, common_dt


def series(first: StateSpace, second: StateSpace) -> StateSpace:
    """The output of ``first`` drives ``second``: G = G₂ G₁, also written ``second @ first``.

    Returns:
        A system with the states of both, those of ``first`` on top.

    Raises:
        ValueError: numbers of channels or sampling times that do not fit.
    """
    dt = common_dt(first, second)
    first, second = _one_type(first, second)
    if first.n_outputs != second.n_inputs:
        raise ValueError(
            f"series: the first system has {first.n_outputs} outputs, and the second "
            f"{second.n_inputs} inputs; they must be equal"
        )
    zero = first.A.new_zeros(first.n_states, second.n_states)
    return StateSpace(
        block([[first.A, zero], [second.B @ first.C, second.A]]),
        block([[first.B], [second.B @ first.D]]),
        block([[second.D @ first.C, second.C]]),
        second.D @ first.D,
        dt,
    )


def parallel(first: StateSpace, second: StateSpace) -> StateSpace:
    """One input for both and the sum of the outputs: G = G₁ + G₂, also ``first + second``.

    Raises:
        ValueError: numbers of channels or sampling times that do not fit.
    """
    dt = common_dt(first, second)
    first, second = _one_type(first, second)
    sizes = [(s.n_outputs, s.n_inputs) for s in (first, second)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"parallel: both systems need equal numbers of (outputs, inputs); given {sizes[0]} "
            f"and {sizes[1]}"
        )
    return StateSpace(
        block_diagonal(first.A, second.A),
        block([[first.B], [second.B]]),
        block([[first.C, second.C]]),
        first.D + second.D,
        dt,
    )


def append(*systems: StateSpace) -> StateSpace:
    """Systems side by side, without joint channels: G = blockdiag(G₁, G₂, …)."""
    dt = common_dt(*systems)
    parts = zip(*(s.matrices for s in systems), strict=True)
    return StateSpace(*(block_diagonal(*part) for part in parts), dt=dt)


def feedback(
    plant: StateSpace, controller: StateSpace | None = None, *, sign: int = -1
) -> StateSpace:
    """The loop y = G e, e = u + sign · K y: (I − sign · G K)⁻¹ G.

    Args:
        plant: G.
        controller: K; None for 1, which needs as many outputs as inputs.
        sign: −1 for negative feedback, 1 for positive.

    Returns:
        A system with the states of both, those of the plant on top.

    Raises:
        ValueError: channels or sampling times that do not fit, another sign, or an algebraic loop
            without a solution, I − sign · D_G D_K singular.
    """
    if sign not in (-1, 1):
        raise ValueError(f"sign is {sign!r}; it must be -1 or 1")
    if controller is None:
        if plant.n_inputs != plant.n_outputs:
            raise ValueError(
                f"feedback without a controller needs as many outputs as inputs; the plant has "
                f"{plant.n_outputs} and {plant.n_inputs}"
            )
        eye = torch.eye(plant.n_inputs, dtype=plant.dtype, device=plant.device)
        controller = StateSpace.gain(eye, plant.dt)
    dt = common_dt(plant, controller)
    plant, controller = _one_type(plant, controller)
    expected = (plant.n_inputs, plant.n_outputs)
    if (controller.n_outputs, controller.n_inputs) != expected:
        raise ValueError(
            f"feedback: the controller has {controller.n_outputs} outputs and "
            f"{controller.n_inputs} inputs; the plant needs {expected[0]} and {expected[1]}"
        )
    A1, B1, C1, D1 = plant.matrices
    A2, B2, C2, D2 = controller.matrices
    loop = D1 @ D2
    M = identity_like(loop) - sign * loop
    size = torch.linalg.svdvals(M)
    if size.numel() and (size[..., -1] <= M.shape[-1] * torch.finfo(size.dtype).eps).any():
        raise ValueError(
            "the loop is not well-posed: I − sign · D_G D_K is singular, so that the direct terms "
            "ask for an output without a solution"
        )
    C1, C2_D1, D1 = (torch.linalg.solve(M, part) for part in (C1, D1 @ C2, D1))
    return StateSpace(
        block(
            [
                [A1 + sign * B1 @ D2 @ C1, sign * B1 @ (C2 + sign * D2 @ C2_D1)],
                [B2 @ C1, A2 + sign * B2 @ C2_D1],
            ]
        ),
        block([[B1 + sign * B1 @ D2 @ D1], [B2 @ D1]]),
        block([[C1, sign * C2_D1]]),
        D1,
        dt,
    )


def _one_type(first: StateSpace, second: StateSpace) -> tuple[StateSpace, StateSpace]:
    dtype = torch.promote_types(first.dtype, second.dtype)
    return first.to(dtype), second.to(dtype)
