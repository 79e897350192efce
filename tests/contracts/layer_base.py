"""What the suites of the layer contract are made of."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from statewise.nn import Layer, State, map_state, state_tensors


def close(given: State, expected: State, *, rtol: float = 1e-9, atol: float = 1e-11) -> None:
    """Two states or tensors have the same structure and close values."""
    for one, other in zip(state_tensors(given), state_tensors(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


def parts(state: State, index: Any) -> State:
    """The same rows of every tensor of a state."""
    return map_state(lambda tensor: tensor[index], state)


def fold(layer: Layer, u: Tensor, state: State, **per_step: Tensor) -> tuple[Tensor, State]:
    """The outputs of ``step`` from sample to sample; further arguments are (B, L, ...)."""
    outputs = []
    for k in range(u.shape[1]):
        now = {name: value[:, k] for name, value in per_step.items()}
        y, state = layer.step(u[:, k], state, **now)
        outputs.append(y)
    return torch.stack(outputs, 1), state


def gradients(layer: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    """Gradients of a loss by parameter name; zero where it does not depend on the parameter."""
    named = dict(layer.named_parameters())
    found = torch.autograd.grad(
        loss, list(named.values()), retain_graph=True, materialize_grads=True
    )
    return dict(zip(named, found, strict=True))


def rms(x: Tensor) -> float:
    """Root of the mean square; 0 of nothing."""
    return float(x.detach().double().square().mean().sqrt()) if x.numel() else 0.0


class LayerTests:
    """How a suite gets its layer, its sequences and its arguments."""

    refuses: ClassVar[frozenset[str]] = frozenset()
    exact: ClassVar[bool] = True

    def build(self, dtype: torch.dtype = torch.float64, seed: int = 0) -> Layer:
        raise NotImplementedError

    def needs(self, *names: str) -> None:
        """Leave a test whose argument the layer refuses; ``test_refusals`` takes its place."""
        refused = sorted(self.refuses & set(names))
        if refused:
            pytest.skip(f"the layer refuses {', '.join(refused)}, which test_refusals checks")

    def sequence(self, layer: Layer, batch: int, length: int, seed: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        dtype = next(layer.parameters()).dtype
        shape = (batch, length, layer.d_input)
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    def some_state(self, layer: Layer, batch: int) -> State:
        """A state that the layer reaches, other than rest."""
        with torch.no_grad():
            return layer(self.sequence(layer, batch, 5, seed=99))[1]

    def arguments(self, batch: int, length: int, dtype: torch.dtype) -> dict[str, Tensor]:
        """Every argument that the layer honours, at once."""
        rng = np.random.default_rng(5)
        given = {
            "dt": torch.from_numpy(rng.uniform(0.4, 2.0, (batch, length))).to(dtype),
            "mask": torch.from_numpy(rng.random((batch, length)) < 0.7),
            "reset": torch.from_numpy(rng.random((batch, length)) < 0.2),
            "lengths": torch.from_numpy(rng.integers(1, length + 1, batch)),
        }
        return {name: value for name, value in given.items() if name not in self.refuses}
