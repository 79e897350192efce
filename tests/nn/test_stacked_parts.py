"""Chains of blocks with parts put in by hand, and tensors of other devices or with gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from statewise import ops
from statewise.nn import Block, Mamba, Mamba2, RMSNorm, map_state, stacked
from statewise.nn.stacked import Stepper

KINDS = [(Mamba, {"d_state": 4}), (Mamba2, {"d_state": 4, "headdim": 4})]


class Thrice(nn.Module):
    """Neither a dropout nor nothing."""

    def forward(self, x: Tensor) -> Tensor:
        return 3 * x


class ThriceDropout(nn.Dropout):
    """A dropout that is more than that."""

    def forward(self, x: Tensor) -> Tensor:
        return 3 * x


@pytest.fixture(params=KINDS, ids=lambda kind: kind[0].__name__)
def chain(request) -> list[Block]:
    """Three frozen blocks in float64."""
    layer, options = request.param
    rng, norm = np.random.default_rng(0), RMSNorm()
    blocks = [Block(layer(8, seed=k, **options), norm=norm, rng=rng) for k in range(3)]
    return [block.double().requires_grad_(False) for block in blocks]


@pytest.fixture
def taken(monkeypatch) -> list[int]:
    """How many blocks each call of the operator took."""
    calls: list[int] = []

    def note(x, states, stack, **more):
        calls.append(len(states))
        return ops.stack_step(x, states, stack, **more)

    monkeypatch.setattr(stacked, "stack_step", note)
    return calls


def sample(chain) -> tuple[Tensor, list]:
    g = torch.Generator().manual_seed(1)
    draw = lambda like: torch.randn(like.shape, generator=g, dtype=torch.float64)  # noqa: E731
    return draw(torch.empty(2, 8)), [map_state(draw, block.init_state(2)) for block in chain]


def one_by_one(chain, h, states, dt=None) -> Tensor:
    for block, state in zip(chain, states, strict=True):
        h, _ = block.step(h, state, dt=dt)
    return h


def test_anything_in_the_place_of_a_dropout(chain, taken) -> None:
    steps, (h, states) = Stepper(), sample(chain)
    steps("chain", chain, h, states)
    assert taken == [3]
    for part in (nn.Identity(), Thrice().eval(), ThriceDropout(0.2).eval(), nn.Dropout(0.0)):
        taken.clear()
        chain[1].dropout = part
        found = steps("chain", chain, h, states)[0]
        torch.testing.assert_close(found, one_by_one(chain, h, states), rtol=1e-11, atol=1e-11)
        assert taken == ([3] if type(part) in (nn.Identity, nn.Dropout) else [1, 1])


def test_a_norm_that_chooses_what_it_adds(chain, taken) -> None:
    steps, (h, states) = Stepper(), sample(chain)
    assert isinstance(chain[1].norm, nn.RMSNorm)
    chain[1].norm.eps = None
    found = steps("chain", chain, h, states)[0]
    torch.testing.assert_close(found, one_by_one(chain, h, states), rtol=1e-11, atol=1e-11)
    assert taken == [1, 1]


def test_gradients_of_the_step_alone(chain, taken) -> None:
    h, states = sample(chain)
    dt = torch.tensor([0.5, 1.5], dtype=torch.float64, requires_grad=True)
    steps = Stepper()
    assert torch.autograd.gradcheck(lambda dt: steps("chain", chain, h, states, dt)[0], dt)
    assert not taken
    with torch.no_grad():
        steps("chain", chain, h, states, dt)
    assert taken == [3]


def test_states_on_another_device_are_not_read(chain, taken) -> None:
    h, states = sample(chain)
    states[1] = map_state(lambda x: x.to("meta"), states[1])
    with pytest.raises((RuntimeError, TypeError), match="meta"):
        Stepper()("chain", chain, h, states)
    assert not taken


def test_no_rows(chain) -> None:
    h, states = sample(chain)
    none = [map_state(lambda x: x[:0], state) for state in states]
    assert Stepper()("chain", chain, h[:0], none)[0].shape == (0, 8)
    assert one_by_one(chain, h[:0], none).shape == (0, 8)
