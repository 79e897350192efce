"""A stack with a certificate of its gain: an adversary stays under it, and training keeps it."""

from __future__ import annotations

import math

import pytest
import torch

from contracts.layer_suite import EagerContract
from statewise.analysis import gain
from statewise.models import DeepWiener, DeepWienerConfig, load_model, save_model
from statewise.nn import ELU, GELU, L2Bounded, LayerNorm, OneLipschitz


def config(**changes: object) -> DeepWienerConfig:
    parts = {
        "n_layers": 2,
        "d_model": 4,
        "layer": L2Bounded.spec(d_state=3),
        "static": OneLipschitz(),
    }
    return DeepWienerConfig(**(parts | changes))  # type: ignore[arg-type]


class TestContractOfGain(EagerContract):
    refuses = frozenset({"dt"})

    def build(self, dtype=torch.float64, seed=0):
        return DeepWiener(2, 3, config(gain=0.5, direct=True), seed=seed).to(dtype)


def ratios(model: DeepWiener, u: torch.Tensor, delta: torch.Tensor) -> torch.Tensor:
    moved = model(u + delta)[0] - model(u)[0]
    return moved.square().sum((1, 2)).sqrt() / delta.square().sum((1, 2)).sqrt()


@pytest.mark.parametrize(
    "changes",
    [{}, {"gain": 1.5}, {"skip": "none", "static": GELU()}, {"direct": True, "gain": 0.7}],
    ids=["product", "whole", "no-skip", "direct"],
)
def test_an_adversary_stays_under_the_certificate(changes: dict) -> None:
    model = DeepWiener(2, 2, config(**changes), seed=1).double()
    bound = model.gain_bound()
    draw = torch.Generator().manual_seed(0)
    u = torch.randn(64, 30, 2, generator=draw, dtype=torch.float64).requires_grad_()
    delta = torch.randn(64, 30, 2, generator=draw, dtype=torch.float64).requires_grad_()
    first = float(ratios(model, u, delta).detach().max())
    ascent = torch.optim.Adam([u, delta], lr=0.1)
    for _ in range(40):
        ascent.zero_grad()
        (-ratios(model, u, delta).log().sum()).backward()
        ascent.step()
    worst = float(ratios(model, u, delta).detach().max())
    assert first < worst <= bound
    # A bound that nothing comes near would say little.
    assert worst > 0.03 * bound


def test_whole_gain_holds_for_any_parameters_and_shrinks_only() -> None:
    model = DeepWiener(1, 1, config(gain=2.0)).double()
    loose = DeepWiener(1, 1, config()).double()
    loose.load_state_dict(model.state_dict())
    u = torch.randn(2, 20, 1, generator=torch.Generator().manual_seed(0)).double()
    with torch.no_grad():
        factor = loose.gain_bound() / 2.0
        assert factor > 1
        expected = (loose(u)[0] - loose.output_map.bias) / factor + loose.output_map.bias
        torch.testing.assert_close(model(u)[0], expected, rtol=1e-12, atol=1e-12)
        for parameter in model.parameters():
            parameter.mul_(7)
        assert model.gain_bound() == 2.0
        for one in (model, loose):
            one.load_state_dict({k: 0.1 * v for k, v in loose.state_dict().items()})
        assert model.gain_bound() == loose.gain_bound() < 2.0
        torch.testing.assert_close(model(u)[0], loose(u)[0], rtol=1e-12, atol=1e-14)


def test_training_keeps_the_bound() -> None:
    model = DeepWiener(1, 1, config(gain=1.0))
    u = torch.randn(4, 60, 1, generator=torch.Generator().manual_seed(0))
    y = 3 * u.cumsum(1) / 10
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = (model(u)[0] - y).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    assert model.gain_bound() <= 1.0
    with torch.no_grad():
        assert float(ratios(model.double(), u.double(), 0.3 * y.double()).max()) <= 1.0


def test_bounds_of_other_parts(tmp_path) -> None:
    assert math.isinf(DeepWiener(1, 1).gain_bound())
    for changes in ({"layer": None, "gain": 1.0}, {"norm": LayerNorm(), "gain": 1.0}):
        with pytest.raises(ValueError, match=r"cannot have the gain 1\.0"):
            DeepWiener(1, 1, config(**changes))
    with pytest.raises(ValueError, match="positive gain; given -1"):
        config(gain=-1.0)
    model = DeepWiener(1, 1, config(static=ELU(), gain=1.5))
    save_model(model, tmp_path / "bounded")
    again = load_model(tmp_path / "bounded")
    assert again.gain_bound() == model.gain_bound() == 1.5


def test_analysis_takes_the_bound_of_the_model() -> None:
    model = DeepWiener(1, 1, config(gain=0.9))
    assert gain(model).bound <= 0.9
