"""The first phase: Adam on random windows."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from statewise.nn.contract import State, map_state, state_tensors
from statewise.nn.roles import parameter_groups
from statewise.train.batches import assemble
from statewise.train.config import FitConfig
from statewise.train.problem import Gradients, Problem
from statewise.train.sampling import Sampler

MAX_RESTARTS = 5
"""How often a loss that is not finite is forgiven."""
CHECK_EVERY = 25
"""Steps between looks at the loss on a GPU, where each look waits for the device."""
LARGE = 1_000_000
"""Parameters from which ``precision="auto"`` uses bfloat16."""


def rate_factor(config: FitConfig, step: int) -> float:
    """Learning rate of a step over ``lr``: linear warm-up, then a cosine to ``lr_final``."""
    warm = round(config.warmup * config.steps)
    if step < warm:
        return (step + 1) / warm
    progress = (step - warm) / max(1, config.steps - warm)
    return config.lr_final + (1 - config.lr_final) * 0.5 * (1 + math.cos(math.pi * progress))


def uses_bfloat16(config: FitConfig, device: torch.device, n_parameters: int) -> bool:
    """Whether the model runs under bfloat16 autocast."""
    if config.precision != "auto":
        return config.precision == "bfloat16"
    if device.type != "cuda" or n_parameters < LARGE:
        return False
    return torch.cuda.is_bf16_supported(including_emulation=False)


class AdamPhase:
    """Adam with warm-up, cosine, clipping, and a way back from a loss that is not finite."""

    name = "adam"

    def __init__(self, problem: Problem, sampler: Sampler) -> None:
        self.problem, self.config, self.sampler = problem, problem.config, sampler
        self.gradients = Gradients(problem.parameters)
        self.optimiser = self._new_optimiser()
        self.step_index, self.restarts, self.backoff = 0, 0, 1.0
        self.carried: State = None
        self.check_every = 1 if problem.device.type == "cpu" else CHECK_EVERY
        self.bfloat16 = uses_bfloat16(self.config, problem.device, problem.n_parameters())
        self.average = None
        if self.config.average is not None:
            self.average = [p.detach().clone() for p in problem.parameters]
        self._reset_sums()

    def _new_optimiser(self) -> torch.optim.AdamW:
        config = self.config
        groups = parameter_groups(
            self.problem.modules, config.lr, config.weight_decay, config.dynamics_factor
        )
        optimiser = torch.optim.AdamW(groups, lr=config.lr, fused=True)
        self.base_rates = [group["lr"] for group in optimiser.param_groups]
        return optimiser

    def _reset_sums(self) -> None:
        self.sums = torch.zeros(2, dtype=torch.float64, device=self.problem.device)
        self.summed = 0

    @property
    def finished(self) -> bool:
        """Whether all steps are taken."""
        return self.step_index >= self.config.steps

    @property
    def rate(self) -> float:
        """Learning rate of the latest step."""
        return self.config.lr * self.backoff * rate_factor(self.config, max(0, self.step_index - 1))

    def step(self) -> bool:
        """Take one step; False when a loss that is not finite was found instead."""
        problem, batch = self.problem, self._batch()
        self.gradients.clear()
        loss = torch.zeros((), dtype=problem.dtype, device=problem.device)
        if len(batch.record):
            with self._reproducible_noise(), self._autocast():
                loss, last = problem.loss(batch, problem.start(batch, self.carried))
            loss.backward()
            if batch.fresh is not None:
                self.carried = map_state(Tensor.detach, last)
        penalty = problem.penalty()
        if penalty is not None:
            penalty.backward()
            loss = loss.detach() + penalty.detach()
        loss = self.gradients.combine(loss, problem.ranks)
        norm = self.gradients.norm()
        self.sums += torch.stack((loss, norm)).double()
        self.summed += 1
        if self.summed % self.check_every == 0 and not self.is_finite():
            return False
        if self.config.clip is not None:
            self.gradients.scale((self.config.clip / (norm + 1e-12)).clamp(max=1.0))
        factor = self.backoff * rate_factor(self.config, self.step_index)
        for group, base in zip(self.optimiser.param_groups, self.base_rates, strict=True):
            group["lr"] = base * factor
        self.optimiser.step()
        self.step_index += 1
        if self.average is not None and self.config.average is not None:
            # Early on the average looks back over the few steps there are.
            decay = min(self.config.average, self.step_index / (9 + self.step_index))
            with torch.no_grad():
                now: list[Tensor] = list(problem.parameters)
                get_ema_multi_avg_fn(decay)(self.average, now, self.step_index)
        return True

    def _batch(self) -> Any:
        problem = self.problem
        return assemble(
            problem.signals,
            self.sampler.next(),
            self.sampler.length,
            problem.context,
            problem.ranks.share,
        )

    @contextlib.contextmanager
    def _reproducible_noise(self) -> Iterator[None]:
        """Dropout draws from a seed of its own for each step and rank."""
        device = self.problem.device
        devices = [device] if device.type == "cuda" else []
        seed = self.problem.seed * 1_000_003 + self.step_index * 1009 + self.problem.ranks.rank
        with torch.random.fork_rng(devices=devices):
            torch.default_generator.manual_seed(seed % 2**63)
            if devices:
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed % 2**63)
            yield

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if not self.bfloat16:
            return contextlib.nullcontext()
        return torch.autocast(self.problem.device.type, dtype=torch.bfloat16)

    def is_finite(self) -> bool:
        """Whether all losses and gradients since the last evaluation were finite."""
        return bool(torch.isfinite(self.sums).all())

    def averages(self) -> tuple[float, float]:
        """Mean loss and gradient norm since the last call."""
        loss, norm = (self.sums / max(1, self.summed)).tolist()
        self._reset_sums()
        return loss, norm

    def restart(self) -> None:
        """After the best weights were put back: forget the moments and halve the rate."""
        self.restarts += 1
        self.backoff *= 0.5
        self.optimiser = self._new_optimiser()
        self.carried = None
        self.sampler.restart()
        if self.average is not None:
            for mean, parameter in zip(self.average, self.problem.parameters, strict=True):
                mean.copy_(parameter.detach())
        self._reset_sums()

    def info(self) -> dict[str, Any]:
        """Numbers that a checkpoint keeps."""
        return {
            "step": self.step_index,
            "restarts": self.restarts,
            "backoff": self.backoff,
            "sampler": self.sampler.state(),
        }

    def tensors(self) -> dict[str, Tensor]:
        """Tensors that a checkpoint keeps; all ranks take part."""
        found: dict[str, Tensor] = {}
        for name, parameter in self.problem.named:
            for key, value in self.optimiser.state.get(parameter, {}).items():
                found[f"moments/{key}/{name}"] = value
        if self.average is not None:
            names = [name for name, _ in self.problem.named]
            found |= {f"average/{n}": t for n, t in zip(names, self.average, strict=True)}
        if self.carried is not None:
            for index, tensor in enumerate(state_tensors(self.carried)):
                rows = self.problem.ranks.gather_rows(tensor, self.sampler.batch_size)
                found[f"carried/{index}"] = rows
        return found

    def load(self, info: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        """Take up what :meth:`info` and :meth:`tensors` gave."""
        self.step_index, self.restarts = info["step"], info["restarts"]
        self.backoff = info["backoff"]
        self.sampler.load(info["sampler"])
        for name, parameter in self.problem.named:
            moments = {
                key.split("/")[1]: value
                for key, value in tensors.items()
                if key.startswith("moments/") and key.split("/", 2)[2] == name
            }
            if moments:
                self.optimiser.state[parameter] = moments
        if self.average is not None and tensors:
            self.average = [tensors[f"average/{name}"] for name, _ in self.problem.named]
        carried = [
            tensors[f"carried/{i}"] for i in range(len(tensors)) if f"carried/{i}" in tensors
        ]
        if carried:
            rows = iter([tensor[self.problem.ranks.share].contiguous() for tensor in carried])
            self.carried = map_state(lambda _: next(rows), self.problem.model.init_state(1))

    @contextlib.contextmanager
    def candidate(self) -> Iterator[None]:
        """The weights to judge: the moving average when there is one."""
        if self.average is None:
            yield
            return
        with torch.no_grad():
            now = [p.detach().clone() for p in self.problem.parameters]
            _copy(self.average, self.problem.parameters)
            try:
                yield
            finally:
                _copy(now, self.problem.parameters)


def _copy(sources: list[Tensor], targets: Any) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.data.copy_(source)
