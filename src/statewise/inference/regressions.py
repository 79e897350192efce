"""Emissions of hidden Markov models with inputs, and any that a function or module gives."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from statewise.inference.emissions import Emission, parameter


class _GLM(Emission):
    """A generalised linear model for each state: η = W_k u_t + b_k."""

    def __init__(self, weight: Any, bias: Any, *, ridge: float = 0.0, steps: int = 10) -> None:
        self.weight, self.bias = parameter("weight", weight, 3), parameter("bias", bias, 2)
        if tuple(self.weight.shape[:2]) != tuple(self.bias.shape):
            raise ValueError(
                f"weight has shape {tuple(self.weight.shape)} and bias {tuple(self.bias.shape)}; "
                "they must be (K, p, m) and (K, p)"
            )
        self.states, self.outputs, self.inputs = self.weight.shape
        self.ridge, self.steps = ridge, steps

    @abstractmethod
    def _terms(self, y: Tensor, eta: Tensor) -> Tensor:
        """Log p(y | η) but for what does not depend on η."""

    @abstractmethod
    def _slopes(self, eta: Tensor) -> tuple[Tensor, Tensor]:
        """Mean of y and its variance."""

    def _constant(self, y: Tensor) -> Tensor:
        return torch.zeros_like(y)

    def _design(self, y: Tensor, u: Tensor | None) -> Tensor:
        ones = y.new_ones(*y.shape[:2], 1)
        if self.inputs == 0:
            return ones
        if u is None or u.shape[-1] != self.inputs:
            shape = None if u is None else tuple(u.shape)
            raise ValueError(f"u has shape {shape}; the emission needs (B, T, {self.inputs})")
        return torch.cat([u, ones], -1)

    def log_prob(self, y: Tensor, u: Tensor | None, seen: Tensor) -> Tensor:
        """Densities of the observed outputs."""
        whole = torch.cat([self.weight, self.bias.unsqueeze(-1)], -1)
        eta = torch.einsum("btm,kpm->btkp", self._design(y, u), whole)
        y = y.unsqueeze(2)
        each = self._terms(y, eta) + self._constant(y)
        return torch.where(seen.unsqueeze(2), each, 0.0).sum(-1)

    def maximise(self, y: Tensor, u: Tensor | None, seen: Tensor, weight: Tensor) -> Emission:
        """Newton's method, each step halved until it gains; ``ridge`` ‖W‖²/2 is taken off."""
        X = self._design(y, u).flatten(0, 1)
        target = y.flatten(0, 1).T.unsqueeze(0)
        w = (weight.unsqueeze(-1) * seen.unsqueeze(2)).flatten(0, 1).permute(1, 2, 0)
        theta = torch.cat([self.weight, self.bias.unsqueeze(-1)], -1).detach()
        penalty = torch.full_like(theta[0, 0], self.ridge)
        penalty[-1] = 0.0
        tiny = 1e-10 * torch.eye(len(penalty), dtype=theta.dtype, device=theta.device)

        def gained(theta: Tensor) -> Tensor:
            own = (w * self._terms(target, theta @ X.T)).sum(-1)
            return own - 0.5 * (penalty * theta.square()).sum(-1)

        value = gained(theta)
        for _ in range(self.steps):
            eta = theta @ X.T
            mean, variance = self._slopes(eta)
            slope = (w * (target - mean)) @ X - penalty * theta
            H = torch.einsum("kpt,ti,tj->kpij", w * variance, X, X)
            step = torch.linalg.solve(H + torch.diag(penalty) + tiny, slope.unsqueeze(-1))
            step = step.squeeze(-1)
            for _ in range(30):
                tried = gained(theta + step)
                worse = ~(tried >= value)
                if not bool(worse.any()):
                    break
                step = torch.where(worse.unsqueeze(-1), step / 2, step)
            step = torch.where((gained(theta + step) >= value).unsqueeze(-1), step, 0.0)
            theta = theta + step
            value = gained(theta)
            if bool((step.abs().amax(-1) <= 1e-10 * (1 + theta.abs().amax(-1))).all()):
                break
        kind = type(self)
        return kind(theta[..., :-1], theta[..., -1], ridge=self.ridge, steps=self.steps)


class BernoulliGLM(_GLM):
    """p(y_t = 1 | k, u_t) = 1 / (1 + exp(−W_k u_t − b_k)): the choices of a behavioural GLM-HMM.

    Args:
        weight: (K, p, m); m may be 0.
        bias: (K, p).
        ridge: ½ ridge ‖W‖² is taken off what is maximised.
        steps: Newton steps of a fit at most.

    Source: Ashwood et al., Mice alternate between discrete strategies (2022).
    """

    def _terms(self, y: Tensor, eta: Tensor) -> Tensor:
        return y * eta - nn.functional.softplus(eta)

    def _slopes(self, eta: Tensor) -> tuple[Tensor, Tensor]:
        p = torch.sigmoid(eta)
        return p, p * (1 - p)


class PoissonGLM(_GLM):
    """y_t | k, u_t ~ Poisson(exp(W_k u_t + b_k)).

    Args:
        weight: (K, p, m); m may be 0.
        bias: (K, p).
        ridge: ½ ridge ‖W‖² is taken off what is maximised.
        steps: Newton steps of a fit at most.
    """

    def _terms(self, y: Tensor, eta: Tensor) -> Tensor:
        return y * eta - eta.exp()

    def _slopes(self, eta: Tensor) -> tuple[Tensor, Tensor]:
        rate = eta.exp()
        return rate, rate

    def _constant(self, y: Tensor) -> Tensor:
        return -torch.lgamma(y + 1)


class CallableEmission(Emission):
    """A function or module (y, u) → log p(y_t | x_t = k), (B, T, K).

    A step of which any output is missing counts as missing. A module is fitted by L-BFGS.

    Args:
        function: gives the log-densities; y is 0 where nothing is observed.
        states: K.
        outputs: p.
        steps: L-BFGS iterations of a fit.
    """

    def __init__(
        self,
        function: Callable[[Tensor, Tensor | None], Tensor],
        states: int,
        outputs: int,
        *,
        steps: int = 20,
    ) -> None:
        self.function, self.states, self.outputs, self.steps = function, states, outputs, steps

    def log_prob(self, y: Tensor, u: Tensor | None, seen: Tensor) -> Tensor:
        """What the function says, where all is observed.

        Raises:
            ValueError: the function gives another shape.
        """
        found = self.function(y, u)
        expected = (*y.shape[:2], self.states)
        if tuple(found.shape) != expected:
            raise ValueError(
                f"the emission gives shape {tuple(found.shape)}; it must be {expected}, (B, T, K)"
            )
        return torch.where(seen.all(-1, keepdim=True), found.double(), 0.0)

    def maximise(
        self, y: Tensor, u: Tensor | None, seen: Tensor, weight: Tensor
    ) -> CallableEmission:
        """A copy of the module, its parameters moved by L-BFGS.

        Raises:
            TypeError: the function is no module with parameters.
        """
        if not isinstance(self.function, nn.Module) or not any(
            x.requires_grad for x in self.function.parameters()
        ):
            raise TypeError(
                f"the emission is a {type(self.function).__name__}; to be fitted it must be a "
                "module with parameters (or leave emission out of free)"
            )
        made = copy.copy(self)
        made.function = copy.deepcopy(self.function)
        ascend(made.function, lambda: made.log_prob(y, u, seen), weight, self.steps)
        return made


def ascend(module: nn.Module, logs: Callable[[], Tensor], weight: Tensor, steps: int) -> None:
    """Move the parameters of a module up Σ weight · logs by L-BFGS."""
    optimiser = torch.optim.LBFGS(
        [x for x in module.parameters() if x.requires_grad],
        max_iter=steps,
        line_search_fn="strong_wolfe",
    )
    scale = 1 / max(float(weight.sum()), 1.0)

    def loss() -> Tensor:
        optimiser.zero_grad()
        found = logs()
        value = -scale * torch.where(weight > 0, weight * found, 0.0).sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(loss)


class DrivenTransition(nn.Module):
    """log p(x_t = j | x_{t−1} = i, u_t) = log softmax_j (logits_ij + weight_ij · u_t).

    Args:
        logits: (K, K).
        weight: (K, K, m).
    """

    def __init__(self, logits: Any, weight: Any) -> None:
        super().__init__()
        self.logits = nn.Parameter(parameter("logits", logits, 2).clone())
        self.weight = nn.Parameter(parameter("weight", weight, 3).clone())
        if self.weight.shape[:2] != self.logits.shape:
            raise ValueError(
                f"weight has shape {tuple(self.weight.shape)}; logits of shape "
                f"{tuple(self.logits.shape)} need {(*self.logits.shape, 'm')}"
            )

    def forward(self, u: Tensor) -> Tensor:
        """Logarithms (B, T, K, K) of inputs (B, T, m)."""
        driven = self.logits + torch.einsum("btm,ijm->btij", u, self.weight)
        return torch.log_softmax(driven, -1)
