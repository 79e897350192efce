"""The state that explains measured outputs best."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.func import functional_call

from statewise.nn.contract import Layer, State, map_state
from statewise.train.signals import Slices
from statewise.train.state_vector import flatten_state, unflatten_state

STEP = 1e-6
"""Step of the difference quotients in float64: half of the digits."""
ROWS = 65_536
"""Sequences × samples simulated at once."""


def least_squares_state(
    model: Layer,
    context: Slices,
    start: State = None,
    *,
    iterations: int = 10,
    ridge: float = 1e-3,
    tolerance: float = 1e-8,
) -> State:
    """The x that minimises Σ_k w_k |y_k − ŷ_k(x)|² + ridge |x − start|², for each sequence alone.

    Levenberg–Marquardt in float64. The Jacobian comes from difference quotients, all columns in
    one batched simulation, so any model in the layer contract will do. Directions that the outputs
    do not see stay at the start. Where the output is linear in the state, as for one layer with
    a linear read-out, one step is exact.

    Args:
        model: the model.
        context: u, y, mask, dt and weights of the samples, (B, n, ·).
        start: first guess and centre of the ridge; None is the state of rest.
        iterations: largest number of steps.
        ridge: weight of the distance from ``start``.
        tolerance: a sequence is done when its step is shorter than this, relative to its state.

    Returns:
        The states before the first sample. Where gradients are recorded they carry the one that the
        solution has: dx/dθ = −(JᵀJ + ridge)⁻¹ Jᵀ ∂r/∂θ, with the curvature of the residual r left
        out as in Gauss–Newton. Without it training would shrink the read-out and the states would
        grow to make up for it.
    """
    with torch.no_grad():
        problem = _Problem(model, context)
        batch = context.u.shape[0]
        like = model.init_state(batch) if start is None else start
        centre = flatten_state(like).double()
        solution = _solve(problem, centre, iterations, ridge, tolerance)
        x = solution.to(flatten_state(like).dtype)
    if not torch.is_grad_enabled():
        return unflatten_state(x, like)
    with torch.no_grad():
        gain = problem.gain(solution, ridge).to(x.dtype)
    y, _ = model(context.u, unflatten_state(x, like), dt=context.dt, mask=context.mask)
    error = y if context.weight is None else y * context.weight
    # Zero in value: it only brings the gradient.
    change = (error - error.detach()).flatten(1).to(x.dtype)
    return unflatten_state(x - (gain @ change.unsqueeze(-1)).squeeze(-1), like)


def _solve(
    problem: _Problem, centre: Tensor, iterations: int, ridge: float, tolerance: float
) -> Tensor:
    x = centre.clone()
    residual = problem.residual(x)
    cost = _cost(residual, x - centre, ridge)
    damping = torch.full_like(cost, 1e-6)
    eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    done = torch.zeros_like(cost, dtype=torch.bool)
    for _ in range(iterations):
        jacobian = problem.jacobian(x, residual)
        normal = jacobian.mT @ jacobian
        gradient = jacobian.mT @ residual.unsqueeze(-1) + ridge * (x - centre).unsqueeze(-1)
        # Scaled by the mean curvature, and held above rounding for states that nothing sees.
        scale = normal.diagonal(dim1=1, dim2=2).mean(-1).clamp_min(1e-12)
        shift = (damping * scale + ridge).view(-1, 1, 1)
        # A matrix that is not finite gives a step that is not, which is refused below.
        step = -torch.linalg.solve_ex(normal + shift * eye, gradient)[0].squeeze(-1)
        candidate = x + step
        residual_there = problem.residual(candidate)
        cost_there = _cost(residual_there, candidate - centre, ridge)
        better = (cost_there < cost) & ~done
        x = torch.where(better.unsqueeze(-1), candidate, x)
        residual = torch.where(better.unsqueeze(-1), residual_there, residual)
        cost = torch.where(better, cost_there, cost)
        damping = torch.where(better, damping * 0.01, damping * 100).clamp(1e-15, 1e9)
        small = step.norm(dim=1) <= tolerance * (1 + x.norm(dim=1))
        done = done | small
        if bool(done.all()):
            break
    return x


def _cost(residual: Tensor, distance: Tensor, ridge: float) -> Tensor:
    cost = (residual**2).sum(-1) + ridge * (distance**2).sum(-1)
    return torch.where(torch.isfinite(cost), cost, torch.inf)


class _Problem:
    """Residuals w ⊙ (ŷ(x) − y) of all sequences, in float64."""

    def __init__(self, model: Layer, context: Slices) -> None:
        self.model = model
        tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
        self.tensors = {
            name: tensor.detach().double() if tensor.is_floating_point() else tensor
            for name, tensor in tensors.items()
        }
        self.u, self.y = context.u.double(), context.y.double()
        self.mask = context.mask
        self.dt = None if context.dt is None else context.dt.double()
        self.weight = None if context.weight is None else context.weight.double()
        self.like = map_state(lambda tensor: tensor.double(), model.init_state(1))

    def _simulate(self, x: Tensor, rows: Tensor) -> Tensor:
        state = unflatten_state(x, self.like)
        dt = None if self.dt is None else self.dt[rows]
        mask = None if self.mask is None else self.mask[rows]
        arguments = {"dt": dt, "mask": mask}
        y, _ = functional_call(self.model, self.tensors, (self.u[rows], state), arguments)
        error = y - self.y[rows]
        return (error if self.weight is None else error * self.weight[rows]).flatten(1)

    def residual(self, x: Tensor) -> Tensor:
        """(B, n · n_y) for states (B, S)."""
        return self._simulate(x, torch.arange(x.shape[0], device=x.device))

    def gain(self, x: Tensor, ridge: float) -> Tensor:
        """(JᵀJ + ridge)⁻¹ Jᵀ at the solution, (B, S, n · n_y)."""
        jacobian = self.jacobian(x, self.residual(x))
        # A trace of ridge keeps states that no output sees from making the matrix singular.
        normal = jacobian.mT @ jacobian
        floor = 1e-12 * normal.diagonal(dim1=1, dim2=2).mean(-1).clamp_min(1.0)
        eye = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
        shift = (ridge + floor).view(-1, 1, 1)
        return torch.linalg.solve_ex(normal + shift * eye, jacobian.mT)[0]

    def jacobian(self, x: Tensor, residual: Tensor) -> Tensor:
        """Derivative of the residual, (B, n · n_y, S)."""
        batch, size = x.shape
        width = STEP * (1 + x.abs().amax(dim=1))
        shifted = x.unsqueeze(1) + width.view(-1, 1, 1) * torch.eye(
            size, dtype=x.dtype, device=x.device
        )
        flat = shifted.reshape(batch * size, size)
        rows = torch.arange(batch, device=x.device).repeat_interleave(size)
        most = max(1, ROWS // self.u.shape[1])
        there = torch.cat(
            [
                self._simulate(flat[i : i + most], rows[i : i + most])
                for i in range(0, batch * size, most)
            ]
        )
        change = there.view(batch, size, -1) - residual.unsqueeze(1)
        return (change / width.view(-1, 1, 1)).mT
