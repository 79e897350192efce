"""Certified gains: never below what gradient ascent finds, exact for linear models."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from analysis_systems import LINEAR, build

from statewise.analysis import InUnits, gain, linearise
from statewise.data import Normaliser
from statewise.lti import hinf_norm
from statewise.models import DeepWiener, DeepWienerConfig
from statewise.nn import (
    ELU,
    GELU,
    GLU,
    MLP,
    Block,
    FeedForward,
    Identity,
    L2Bounded,
    LayerNorm,
    OneLipschitz,
    Polynomial,
    RMSNorm,
    Tanh,
)


def stack(static, layers=2, seed=0, **options):
    config = DeepWienerConfig(n_layers=layers, d_model=3, d_state=3, static=static, **options)
    return DeepWiener(2, 2, config, seed=seed).double()


def attacked(model, *, steps=35, pairs=6, length=50, seed=0):
    """The largest ‖y − y'‖/‖u − u'‖ that gradient ascent over pairs of inputs finds."""
    generator = torch.Generator().manual_seed(seed)
    shape = (pairs, length, model.d_input)
    u = torch.randn(shape, generator=generator, dtype=torch.float64)
    change = 0.5 * torch.randn(shape, generator=generator, dtype=torch.float64)
    u, change = u.requires_grad_(), change.requires_grad_()
    optimiser = torch.optim.Adam([u, change], lr=0.1)
    best = 0.0
    for _ in range(steps):
        difference = model(u + change)[0] - model(u)[0]
        ratio = difference.square().sum((1, 2)) / change.square().sum((1, 2))
        best = max(best, float(ratio.detach().max()) ** 0.5)
        optimiser.zero_grad()
        (-ratio.log().sum()).backward()
        optimiser.step()
    return best


STACKS = {
    "elu": lambda: stack(ELU()),
    "tanh": lambda: stack(Tanh(), direct=True, input_map=True),
    "gelu": lambda: stack(GELU(), skip="none"),
    "mlp": lambda: stack(MLP(4)),
    "one_lipschitz": lambda: stack(OneLipschitz(), layer=L2Bounded.spec(d_state=4)),
    "prescribed": lambda: stack(OneLipschitz(), layer=L2Bounded.spec(d_state=4), gain=0.5),
}


@pytest.mark.parametrize("name", STACKS)
def test_no_attack_exceeds_the_certificate(name):
    model = STACKS[name]()
    found = gain(model, steps=25)
    assert found.certified
    assert found.bound <= found.product * (1 + 1e-9)
    reached = attacked(model)
    assert 0.03 * found.bound < reached <= found.bound


@pytest.mark.parametrize("name", LINEAR)
def test_a_linear_layer_has_its_h_infinity_norm(name):
    layer = build(name)
    system = linearise(layer, np.zeros(layer.d_input)).system
    wanted = float(hinf_norm(system).upper)
    assert gain(layer).bound == pytest.approx(wanted, rel=1e-7)
    assert attacked(layer, length=120, steps=25) <= wanted


def test_a_linear_stack_is_bounded_as_one_system():
    for static in (Identity(), Polynomial()):
        model = stack(static, layers=3, direct=True)
        system = linearise(model, [0.0, 0.0]).system
        found = gain(model)
        assert found.bound == pytest.approx(float(hinf_norm(system).upper), rel=1e-6)
        assert found.product > 2 * found.bound


def test_blocks_together_have_less_than_their_product():
    model = stack(Tanh(), layers=3)
    joint, alone = gain(model, steps=50), gain(model, joint=False)
    assert alone.bound == alone.product == joint.product
    assert joint.bound < 0.5 * alone.bound
    # Where every slope is 1 the stack is a linear system, whose gain no bound can undercut.
    linear = linearise(stack(Identity(), layers=3), [0.0, 0.0]).system
    assert joint.bound >= float(hinf_norm(linear).lower)


def test_the_joint_bound_holds_blocks_between_others():
    model = stack(ELU(), layers=3)
    with torch.no_grad():
        model.blocks[1].norm = torch.nn.LayerNorm(3).double()
    found = gain(model, steps=25)
    assert found.certified
    assert found.bound < found.product
    assert "LayerNorm is Lipschitz by its eps" in found.reasons[0]
    assert found.blocks[1].norm == pytest.approx(1e-5**-0.5, rel=1e-6)


def test_the_product_is_that_of_the_parts():
    model = stack(ELU(), input_map=True, direct=True)
    found = gain(model, joint=False)

    def norm(module):
        return float(torch.linalg.matrix_norm(module.weight.detach(), 2))

    blocks = 1.0
    for block, part in zip(model.blocks, found.blocks, strict=True):
        system = linearise(block.lti, np.zeros(3)).system
        assert part.linear == pytest.approx(float(hinf_norm(system).upper), rel=1e-7)
        assert part.bound == pytest.approx(1 + part.linear)
        blocks *= part.bound
    wanted = norm(model.input_map) * blocks * norm(model.output_map) + norm(model.direct)
    assert found.product == pytest.approx(wanted, rel=1e-9)


def test_units_scale_the_bound():
    model = stack(Tanh())
    scaling = Normaliser(np.ones(2), np.full(2, 0.5), np.ones(2), np.full(2, 3.0))
    wanted = 6 * gain(model, steps=25).bound
    assert gain(InUnits(model, scaling), steps=25).bound == pytest.approx(wanted, rel=1e-2)


def test_layers_answer_for_themselves():
    layer = L2Bounded(3, d_state=4, seed=1).double()
    found = gain(layer)
    assert found.bound <= layer.gain_bound() * (1 + 1e-9)
    assert found.bound == pytest.approx(layer.gain_bound(), rel=0.5)

    class Known(FeedForward):
        def gain_bound(self):
            return 0.25

    block = Block(Known(3, gated=True), Tanh(), rng=np.random.default_rng(0))
    assert gain(block).bound == pytest.approx(1.25, rel=1e-9)
    static = Block(FeedForward(3), None, skip="none", rng=np.random.default_rng(0))
    assert attacked(static.double(), length=1) <= gain(static).bound < math.inf


def test_a_model_keeps_the_gain_it_was_given():
    model = STACKS["prescribed"]()
    found = gain(model, steps=25)
    assert found.bound <= 0.5 * (1 + 1e-9)


def test_what_has_no_bound_says_why():
    found = gain(build("gru"))
    assert not found.certified
    assert found.bound == math.inf
    assert "GRU is no linear layer and gives no gain_bound()" in found.reasons[0]
    found = gain(stack(GLU()))
    assert "block 1: a gate has no global Lipschitz constant" in found.reasons[0]
    found = gain(build("mamba_stack"))
    assert not found.certified
    assert any("LayerNorm" in text for text in found.reasons)


def test_norms_bound_by_their_eps_on_either_side():
    for norm in (LayerNorm(), RMSNorm()):
        for prenorm in (True, False):
            model = stack(Tanh(), layers=1, norm=norm, prenorm=prenorm)
            found = gain(model)
            assert 100 < found.bound < math.inf
            assert attacked(model, steps=10) <= found.bound
