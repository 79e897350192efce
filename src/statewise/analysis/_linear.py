"""The linear time-invariant system of a layer, where it is one."""

from __future__ import annotations

import torch
from torch import Tensor

from statewise.analysis._chain import Stage, chain_of, layer_points
from statewise.analysis._flow import Flow
from statewise.analysis.equilibrium import operating_state
from statewise.lti import DiagonalForm, StateSpace, append, from_diagonal
from statewise.nn.contract import Layer, State, state_tensors
from statewise.nn.coupling import BankCoupling
from statewise.nn.lti import LTI

MOST_STATES = 600
"""Real states above which a layer without a diagonal form is not asked for its matrices."""
SAME = 1e-9


def linear_system(layer: Layer, *, dt: float = 1.0) -> StateSpace | None:
    """The map from δu to δy of a layer that is affine in state and input; None for another.

    LTI layers give it from their parameters, others by their derivatives, which then are the same
    at three points.

    Args:
        layer: the layer.
        dt: sampling time.

    Returns:
        A real system in the textbook form; for a bank a batch (d_input,) of systems with one input
        and one output. Without gradient.
    """
    with torch.no_grad():
        if isinstance(layer, LTI):
            return _of_lti(layer, dt)
        count = sum(part[0].numel() for part in state_tensors(layer.init_state(1)))
        return None if count > MOST_STATES else _by_derivatives(layer, dt)


def stage_systems(
    flow: Flow, u: Tensor, *, dt: float = 1.0
) -> list[tuple[Stage, StateSpace, bool]]:
    """Every block with the linear system of its layer, and whether that is exact.

    A layer that is not linear is linearised where the model settles under the input.

    Args:
        flow: the model.
        u: constant input of the model (m,).
        dt: sampling time.

    Raises:
        ValueError: a model that is no chain of blocks.
    """
    chain = chain_of(flow.model)
    exact = [linear_system(stage.layer, dt=dt) for stage in chain.stages]
    points: list[tuple[Tensor, State]] = []
    if any(system is None for system in exact):
        at = flow.unflatten(operating_state(flow, u))
        points = layer_points(chain, flow.model, at, u)
    found = []
    for index, (stage, system) in enumerate(zip(chain.stages, exact, strict=True)):
        if system is not None:
            found.append((stage, system, True))
            continue
        inside, state = points[index]
        one = Flow(stage.layer)
        parts = one.jacobians(one.flatten(state), inside[None])
        found.append((stage, StateSpace(*(part[0] for part in parts), dt=dt), False))
    return found


def dense(system: StateSpace) -> StateSpace:
    """A bank as one system with all its channels; others as they are."""
    if not system.batch_shape:
        return system
    return append(*(system[index] for index in range(len(system.A))))


def _of_lti(layer: LTI, dt: float) -> StateSpace:
    """s_{k+1} = a s_k + (a g + g') B u_k,  y_k = Re(C (s_k + g B u_k)) + D u_k."""
    a, gain, gain_previous = (
        None if part is None else part.to(torch.complex128) for part in layer.poles.discretise()
    )
    assert a is not None
    assert gain is not None
    b, c = layer.coupling.matrices()
    if isinstance(layer.coupling, BankCoupling):
        width = layer.d_input
        a, gain = a.unflatten(0, (width, -1)), gain.unflatten(0, (width, -1))
        if gain_previous is not None:
            gain_previous = gain_previous.unflatten(0, (width, -1))
        b = b.sum(1).unflatten(0, (width, -1))[..., None]
        c = c.sum(0).unflatten(0, (width, -1))[:, None, :]
    b, c = b.to(a.dtype), layer.poles.output_scale * c.to(a.dtype)
    push = a * gain if gain_previous is None else a * gain + gain_previous
    D = (c @ (gain[..., None] * b)).real
    if layer.D is not None:
        given = layer.D.to(D)
        if isinstance(layer.coupling, BankCoupling):
            given = given[:, None, None]
        elif given.ndim == 1:
            given = torch.diag(given)
        D = D + given
    form = DiagonalForm(a, push[..., None] * b, c, D, dt, half=True)
    return from_diagonal(form, real=True)


def _by_derivatives(layer: Layer, dt: float) -> StateSpace | None:
    try:
        flow = Flow(layer)
    except TypeError:
        return None
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, flow.n, generator=generator, dtype=torch.float64).to(flow.device)
    u = torch.randn(3, flow.m, generator=generator, dtype=torch.float64).to(flow.device)
    x[0], u[0] = 0.0, 0.0
    try:
        found = flow.jacobians(x, u)
    except (ValueError, RuntimeError):
        return None
    for matrix in found:
        size = float(matrix.abs().max()) if matrix.numel() else 0.0
        if not bool(((matrix - matrix[:1]).abs() <= SAME * (1e-3 + size)).all()):
            return None
    return StateSpace(*(matrix[0] for matrix in found), dt=dt)
