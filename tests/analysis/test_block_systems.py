"""Poles, zeros and responses of blocks, in units of time, and warnings about them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from analysis_systems import LINEAR, build

from statewise.analysis import blocks
from statewise.lti import hankel_singular_values
from statewise.models import DeepWiener, DeepWienerConfig
from statewise.nn import LRU, LTI, S4D, DiscreteDiagonal, FeedForward, GivenDiscrete


def system_of(poles, b, c, d=0.0):
    """A layer y = Re(C x) + D u of one channel with given poles."""
    law = GivenDiscrete(tuple(np.real(poles).tolist()), tuple(np.imag(poles).tolist()))
    layer = LTI(1, 1, len(poles), poles=DiscreteDiagonal(law, "none")).double()
    with torch.no_grad():
        for parameter, value in ((layer.coupling.B, b), (layer.coupling.C, c)):
            pair = np.stack([np.real(value), np.imag(value)], -1).reshape(parameter.shape)
            parameter.copy_(torch.from_numpy(pair))
        layer.D.fill_(d)
    return layer


@pytest.mark.parametrize("name", LINEAR)
def test_a_block_has_the_response_and_the_poles_of_its_layer(name):
    layer = build(name)
    omega = np.linspace(0.2, 3.0, 9)
    (block,) = blocks(layer, omega=omega).blocks
    assert block.linear
    if name != "s4":
        wanted = layer.frequency_response(torch.from_numpy(omega)).detach().numpy()
        given = block.response
        if block.system.batch_shape:
            given = np.zeros_like(wanted)
            for channel, value in enumerate(block.response):
                given[:, channel, channel] = value[:, 0, 0]
        np.testing.assert_allclose(given, wanted, rtol=1e-9, atol=1e-12)
        half = layer.eigenvalues().detach().numpy()
        both = np.sort_complex(np.concatenate([half, half.conj()]))
        np.testing.assert_allclose(np.sort_complex(block.poles.ravel()), both, atol=1e-9)
    values = hankel_singular_values(block.system).numpy()
    np.testing.assert_allclose(block.hankel, values, rtol=1e-9)


def test_a_resonance_has_its_physical_frequency_and_damping():
    dt, frequency, damping = 0.01, 2 * math.pi * 5.0, 0.1
    s = frequency * complex(-damping, math.sqrt(1 - damping**2))
    layer = system_of([np.exp(s * dt)], [1.0 + 0j], [1.0 - 0.5j])
    (block,) = blocks(layer, dt=dt).blocks
    np.testing.assert_allclose(block.natural_frequencies, frequency, rtol=1e-6)
    np.testing.assert_allclose(block.damping, damping, rtol=1e-6)
    np.testing.assert_allclose(block.time_constants, 1 / (frequency * damping), rtol=1e-6)
    assert block.time_unit == "s"
    assert block.warnings == ()
    gain = np.abs(block.response[:, 0, 0])
    assert block.omega[gain.argmax()] == pytest.approx(frequency, rel=0.03)


def test_zeros_are_where_the_response_vanishes():
    layer = LRU(1, d_state=3, seed=2).double()
    (block,) = blocks(layer).blocks
    assert len(block.zeros[0]) == 6
    for zero in block.zeros[0]:
        value = block.system(complex(zero))
        assert float(value.abs()) < 1e-8


def test_phases_beyond_the_nyquist_strip_are_named():
    layer = LRU(2, d_state=32, phase_max=2.0, seed=0)
    with torch.no_grad():
        layer.poles.theta[:5] = math.log(1.5 * math.pi)
    (block,) = blocks(layer).blocks
    assert (
        "5 of 32 poles are outside the Nyquist strip, |Im log λ| up to 1.50 π" in block.warnings[0]
    )
    (block,) = blocks(LRU(2, d_state=32, phase_max=2.0, seed=0)).blocks
    assert not any("Nyquist" in text for text in block.warnings)


def test_hidden_states_and_cancelling_poles_are_named():
    layer = system_of([0.9 * np.exp(0.5j), 0.7 * np.exp(1.5j)], [1.0, 0.0], [1.0, 1.0])
    (block,) = blocks(layer).blocks
    assert any("2 of 4 states are out of reach" in text for text in block.warnings)
    layer = system_of([0.9 * np.exp(0.5j), 0.7 * np.exp(1.5j)], [1.0, 1.0], [1.0, 1e-4])
    (block,) = blocks(layer).blocks
    assert any("2 of 4 poles nearly cancel" in text for text in block.warnings)


def test_a_stack_gives_a_block_each_and_a_bank_a_system_each():
    found = blocks(build("stack"), dt=0.1)
    assert [block.name for block in found.blocks] == ["block 1", "block 2"]
    assert all(block.poles.shape == (6,) for block in found.blocks)
    (bank,) = blocks(S4D(3, 4)).blocks
    assert bank.system.batch_shape == (3,)
    assert bank.poles.shape == bank.hankel.shape == (3, 8)
    assert len(bank.zeros) == 3
    assert all(text.startswith("block ") for text in found.warnings)


def test_layers_that_are_not_linear_are_linearised_where_the_model_rests():
    found = blocks(build("mamba_stack"), u=[0.5, 0.2])
    assert [block.linear for block in found.blocks] == [False, False]
    config = DeepWienerConfig(n_layers=1, d_model=2, d_state=2, input_map=True)
    (block,) = blocks(DeepWiener(1, 1, config)).blocks
    assert block.linear
    assert block.system.n_inputs == 2


def test_a_model_without_states_has_nothing_to_draw() -> None:
    found = blocks(FeedForward(3))
    assert found.blocks == ()
    assert found.warnings == ()
    with pytest.raises(ValueError, match="no block of the model has a state"):
        found.plot()
