"""The second phase: L-BFGS on a fixed set of windows."""

from __future__ import annotations

import math
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from statewise.train.batches import Batch, assemble
from statewise.train.problem import Gradients, Problem, drop_gradients

CHUNK = 10
"""Iterations between evaluations."""
HISTORY = 20
"""Pairs of steps and gradients that L-BFGS remembers."""
START = 1e6
"""The objective is scaled to start here: torch's L-BFGS has absolute thresholds near 1e-10, which a
small loss would fall below long before it is at its minimum."""
_LISTS = ("old_dirs", "old_stps", "ro")


class PolishPhase:
    """Full-batch L-BFGS with strong Wolfe line search, without dropout, in float64 by default.

    Use as a context: the modules have the wide type inside it and their own outside.

    Args:
        problem: the problem.
    """

    name = "polish"

    def __init__(self, problem: Problem) -> None:
        self.problem, self.config = problem, problem.config
        self.iterations, self.reason = 0, ""
        self.scale: float | None = None
        self._ready: Tensor | None = None
        self._restored: dict[str, Any] | None = None
        self._weights: dict[str, Tensor] | None = None

    def __enter__(self) -> PolishPhase:
        problem = self.problem
        drop_gradients(problem.parameters)
        self._dtypes = {name: t.dtype for name, t in problem.modules.state_dict().items()}
        if self.config.polish_double:
            problem.modules.double()
            problem.load_data(torch.float64)
        if self._weights is not None:
            problem.modules.load_state_dict(self._weights)
        problem.modules.eval()
        self.gradients = Gradients(problem.parameters)
        self.batches = self._batches()
        self.optimiser = self._new_optimiser()
        if self._restored is not None:
            self.optimiser.state[problem.parameters[0]] = self._restored
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        drop_gradients(self.problem.parameters)
        if self.config.polish_double:
            for owner in (
                self.problem.modules.named_parameters,
                self.problem.modules.named_buffers,
            ):
                for name, tensor in owner():
                    tensor.data = tensor.data.to(self._dtypes.get(name, tensor.dtype))
            self.problem.load_data(self.problem.dtype)

    def _batches(self) -> list[Batch]:
        problem = self.problem
        sampler = problem.window_sampler()
        batches = [
            assemble(problem.signals, plan, sampler.length, problem.context, problem.ranks.share)
            for plan in sampler.cover(self.config.polish_samples)
        ]
        count = sum(batch.count for batch in batches)
        return [batch._replace(count=count) for batch in batches if len(batch.record)]

    def _new_optimiser(self) -> torch.optim.LBFGS:
        return torch.optim.LBFGS(
            self.problem.parameters,
            max_eval=20 * CHUNK,
            tolerance_grad=0.0,
            tolerance_change=0.0,
            history_size=HISTORY,
            line_search_fn="strong_wolfe",
        )

    @property
    def finished(self) -> bool:
        """Whether all iterations are done or there is a reason to stop."""
        if not self.reason and self.iterations >= self.config.polish_steps:
            self.reason = f"all {self.iterations} iterations were taken"
        return bool(self.reason)

    def stop(self, reason: str) -> None:
        """End the phase."""
        self.reason = reason

    def _closure(self) -> Tensor:
        """Scaled loss of all batches with its gradient; the last result is kept once."""
        if self._ready is not None:
            value, self._ready = self._ready, None
            return value
        problem = self.problem
        self.gradients.clear()
        total = torch.zeros((), dtype=problem.parameters[0].dtype, device=problem.device)
        with torch.enable_grad():
            for batch in self.batches:
                loss, _ = problem.loss(batch, problem.start(batch))
                (loss * (self.scale or 1.0)).backward()
                total += loss.detach()
            penalty = problem.penalty()
            if penalty is not None:
                (penalty * (self.scale or 1.0)).backward()
                total += penalty.detach()
        return self.gradients.combine(total, problem.ranks) * (self.scale or 1.0)

    def step(self) -> tuple[float, float]:
        """Take a chunk of iterations; gives loss and gradient norm where it ends."""
        if self.scale is None:
            first = float(self._closure())
            if not math.isfinite(first):
                return first, math.nan
            self.scale = START / first if first > 0 else 1.0
        chunk = min(CHUNK, self.config.polish_steps - self.iterations)
        self.optimiser.param_groups[0]["max_iter"] = chunk
        before = float(self.optimiser.step(self._closure))
        self._ready = None
        value = self._closure()
        self._ready = value
        self.iterations = self.optimiser.state[self.problem.parameters[0]]["n_iter"]
        if float(value) >= before:
            self.stop("L-BFGS converged")
        return float(value) / self.scale, float(self.gradients.norm()) / self.scale

    def info(self) -> dict[str, Any]:
        """Numbers that a checkpoint keeps."""
        state = self._state()
        return {
            "iterations": self.iterations,
            "reason": self.reason,
            "scale": self.scale,
            "numbers": {
                name: float(state[name]) for name in ("t", "prev_loss", "H_diag") if name in state
            },
            "counts": {name: state[name] for name in ("n_iter", "func_evals") if name in state},
            "pairs": len(state.get("ro", ())),
        }

    def tensors(self) -> dict[str, Tensor]:
        """Tensors that a checkpoint keeps."""
        state = self._state()
        found = {name: state[name] for name in ("d", "prev_flat_grad") if name in state}
        for name in _LISTS:
            found |= {f"{name}.{i}": tensor for i, tensor in enumerate(state.get(name, ()))}
        return found

    def _state(self) -> dict[str, Any]:
        if not hasattr(self, "optimiser"):
            return {}
        return dict(self.optimiser.state.get(self.problem.parameters[0], {}))

    def load(
        self, info: dict[str, Any], tensors: dict[str, Tensor], weights: dict[str, Tensor]
    ) -> None:
        """Take up what :meth:`info` and :meth:`tensors` gave, before the context is entered.

        Args:
            info: the numbers.
            tensors: the tensors.
            weights: the weights in the type of this phase.
        """
        self._weights = weights
        self.iterations, self.reason, self.scale = info["iterations"], info["reason"], info["scale"]
        if "d" not in tensors:
            return
        state: dict[str, Any] = {**info["counts"], **info["numbers"]}
        state |= {name: tensors[name] for name in ("d", "prev_flat_grad")}
        for name in _LISTS:
            state[name] = [tensors[f"{name}.{i}"] for i in range(info["pairs"])]
        self._restored = state
