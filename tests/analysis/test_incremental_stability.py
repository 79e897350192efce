"""δISS constants: no pair of runs ever exceeds them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from analysis_systems import LINEAR, build
from hypothesis import given, settings
from hypothesis import strategies as st

from statewise.analysis import InUnits, incremental_stability
from statewise.data import Normaliser
from statewise.models import DeepWiener, DeepWienerConfig
from statewise.nn import GLU, MLP, DiscreteDiagonal, LayerNorm, Polynomial, Ring, Tanh

LENGTH = 30


def runs(model, u, x):
    """States (L + 1, n) and outputs (L, p) from a flat state."""
    template = model.init_state(1)
    parts = [template] if isinstance(template, torch.Tensor) else list(template)
    sizes = [part.numel() for part in parts]

    def shaped(flat):
        pieces = [p.reshape(t.shape) for p, t in zip(flat.split(sizes), parts, strict=True)]
        if isinstance(template, torch.Tensor):
            return pieces[0]
        named = hasattr(template, "_fields")
        return type(template)(*pieces) if named else tuple(pieces)

    states, outputs, state = [x], [], shaped(x)
    with torch.no_grad():
        for sample in u:
            y, state = model.step(sample[None], state)
            found = [state] if isinstance(state, torch.Tensor) else list(state)
            states.append(torch.cat([part.flatten() for part in found]))
            outputs.append(y[0])
    return torch.stack(states), torch.stack(outputs)


def size(model):
    template = model.init_state(1)
    parts = [template] if isinstance(template, torch.Tensor) else list(template)
    return sum(part.numel() for part in parts)


def stack(static, layers=3, **options):
    config = DeepWienerConfig(
        n_layers=layers,
        d_model=3,
        d_state=3,
        poles=DiscreteDiagonal(Ring(0.3, 0.9)),
        static=static,
        **options,
    )
    return DeepWiener(2, 1, config, seed=4).double()


MODELS = {
    **{name: lambda name=name: build(name) for name in LINEAR},
    "tanh": lambda: stack(Tanh()),
    "mlp": lambda: stack(MLP(5), layers=2, skip="none"),
    "polynomial": lambda: stack(Polynomial(), input_map=True, direct=True),
}


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=5)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([1e-3, 1.0, 30.0]))
def test_pairs_of_runs_stay_within_the_bound(name, seed, scale):
    model = MODELS[name]()
    found = incremental_stability(model)
    assert found.certified
    assert found.rho < 1
    rng = np.random.default_rng(seed)
    n = size(model)
    u = torch.from_numpy(rng.standard_normal((LENGTH, 2)))
    x = torch.from_numpy(rng.standard_normal(n))
    change = torch.from_numpy(scale * rng.standard_normal(n))
    k = np.arange(LENGTH + 1)
    here, _ = runs(model, u, x)
    there, _ = runs(model, u, x + change)
    gap = (here - there).norm(dim=1).numpy()
    bound = found.bound(LENGTH, state=gap[0])
    assert (gap <= bound * (1 + 1e-9)).all()
    assert (bound <= found.c * found.rho**k * gap[0] * (1 + 1e-9)).all()
    push = torch.from_numpy(scale * rng.choice([-1.0, 1.0], (LENGTH, 2)))
    moved, y = runs(model, u + push, x)
    _, still = runs(model, u, x)
    most = float(push.norm(dim=1).max())
    gap = (here - moved).norm(dim=1).numpy()
    bound = found.bound(LENGTH, inputs=most)
    assert (gap <= bound * (1 + 1e-9)).all()
    assert (bound <= found.gain * most * (1 + 1e-9)).all()
    assert float((y - still).norm(dim=1).max()) <= found.output_gain * most


def test_diagonal_dynamics_have_their_largest_pole_and_c_one():
    layer = build("lru")
    found = incremental_stability(layer)
    assert found.c == pytest.approx(1.0, abs=1e-9)
    assert found.rho == pytest.approx(float(layer.eigenvalues().abs().max().detach()), abs=1e-12)
    # The slowest mode shows that the rate is sharp.
    slow = int(layer.eigenvalues().abs().argmax())
    x = torch.zeros(8, dtype=torch.float64)
    u = torch.zeros(LENGTH, 2, dtype=torch.float64)
    start = x.clone()
    start[2 * slow] = 1.0
    gap = (runs(layer, u, start)[0] - runs(layer, u, x)[0]).norm(dim=1).numpy()
    np.testing.assert_allclose(gap, found.rho ** np.arange(LENGTH + 1), rtol=1e-9)


def test_a_series_forgets_at_the_rate_of_its_slowest_block():
    model = stack(Tanh())
    found = incremental_stability(model, slack=0.01)
    slowest = max(block.rho for block in found.blocks)
    assert slowest < found.rho < slowest + 0.02 * (1 - slowest)
    assert found.c >= 1
    assert incremental_stability(model, slack=0.5).c <= found.c


def test_units_scale_the_gains():
    model = stack(Tanh())
    inside = incremental_stability(model)
    scaling = Normaliser(np.zeros(2), np.full(2, 0.5), np.zeros(1), np.full(1, 3.0))
    outside = incremental_stability(InUnits(model, scaling))
    assert outside.gain == pytest.approx(2 * inside.gain)
    assert outside.output_gain == pytest.approx(6 * inside.output_gain)
    assert outside.c == inside.c


def test_what_has_no_bound_says_why():
    found = incremental_stability(build("gru"))
    assert not found.certified
    assert "GRU is no linear layer" in found.reasons[0]
    with pytest.raises(ValueError, match="there is no bound: layer: GRU"):
        found.bound(3)
    found = incremental_stability(stack(GLU()))
    assert "gate has no global Lipschitz constant" in found.reasons[0]
    # The constant of a norm is finite, and huge.
    found = incremental_stability(stack(Tanh(), norm=LayerNorm()))
    assert found.certified
    assert found.gain > 1e6
    with pytest.raises(ValueError, match="given 1"):
        incremental_stability(build("lru"), slack=1)
    assert math.isinf(incremental_stability(build("mamba")).c)
