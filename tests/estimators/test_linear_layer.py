"""A system in state-space form keeps the layer contract."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from contracts.layer_suite import EagerContract
from statewise.estimators.linear_layer import LinearLayer
from statewise.lti import StateSpace, simulate


def _layer(seed: int = 0) -> LinearLayer:
    rng = np.random.default_rng(seed)
    A = 0.4 * rng.standard_normal((3, 3))
    return LinearLayer(
        A, rng.standard_normal((3, 2)), rng.standard_normal((2, 3)), rng.standard_normal((2, 2))
    )


class TestLinearLayer(EagerContract):
    refuses = frozenset({"dt"})

    def build(self, dtype=torch.float64, seed=0):
        return _layer(seed).to(dtype)


def test_outputs_are_those_of_the_system() -> None:
    layer = _layer()
    u = torch.randn(1, 40, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    system = StateSpace(*(M.detach() for M in (layer.A, layer.B, layer.C, layer.D)), dt=1.0)
    y, state = layer(u)
    expected, last = simulate(system, u)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state, last, rtol=1e-12, atol=1e-12)


def test_steps_of_time_are_refused() -> None:
    with pytest.raises(ValueError, match="takes no dt"):
        _layer()(torch.zeros(1, 3, 2, dtype=torch.float64), dt=torch.ones(3))
