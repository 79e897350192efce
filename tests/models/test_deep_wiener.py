"""The deep Wiener model by its formula, its size, its stability and its configuration."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from statewise._config import from_dict, to_dict
from statewise.lti import Trapezoid
from statewise.models import DeepWiener, DeepWienerConfig
from statewise.nn import (
    ELU,
    Bank,
    ContinuousDiagonal,
    DiscreteDiagonal,
    Identity,
    LayerNorm,
    Polynomial,
    Ring,
    RMSNorm,
    S4DLin,
    Scan,
    Tanh,
    state_tensors,
)

CARD = DeepWienerConfig(
    n_layers=4,
    d_model=3,
    d_state=6,
    poles=DiscreteDiagonal(Ring(0.5, 0.99)),
    static=ELU(),
    skip="identity",
    input_map=False,
    bias=True,
)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_published_stack_has_358_parameters() -> None:
    model = DeepWiener(1, 1, CARD)
    assert model.n_parameters == 358
    first, other = model.blocks[0], model.blocks[1]
    assert sum(p.numel() for p in first.parameters()) == 66
    assert sum(p.numel() for p in other.parameters()) == 96
    model.output_map.requires_grad_(False)
    assert model.n_parameters == 354


def test_model_is_its_formula() -> None:
    config = DeepWienerConfig(n_layers=2, d_model=4, d_state=3, static=Tanh(), direct=True)
    model, u = DeepWiener(2, 3, config).double(), noise(2, 12, 2)
    signal = model.input_map(u)
    for block in model.blocks:
        signal = signal + torch.tanh(block.lti(signal)[0])
    expected = signal @ model.output_map.weight.mT + model.output_map.bias
    expected = expected + u @ model.direct.weight.mT
    torch.testing.assert_close(model(u)[0], expected, rtol=1e-12, atol=1e-13)


def test_linear_model_is_linear() -> None:
    config = DeepWienerConfig(n_layers=3, d_model=4, d_state=3, static=Identity())
    model = DeepWiener(2, 2, config).double()
    one, other = noise(1, 30, 2), noise(1, 30, 2, seed=1)
    offset = model(torch.zeros_like(one))[0]
    mixed = model(2 * one - 3 * other)[0] - offset
    parts = 2 * (model(one)[0] - offset) - 3 * (model(other)[0] - offset)
    torch.testing.assert_close(mixed, parts, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    "config",
    [
        CARD,
        DeepWienerConfig(n_layers=2, d_model=4, d_state=4, poles=DiscreteDiagonal(Ring(0.3, 0.9))),
        DeepWienerConfig(
            n_layers=2,
            d_model=3,
            d_state=2,
            poles=ContinuousDiagonal(S4DLin(), Trapezoid(), 0.2, 0.8),
            coupling=Bank(),
            static=Polynomial(),
        ),
    ],
    ids=["card", "glu", "trapezoids"],
)
def test_runs_from_different_states_meet(config: DeepWienerConfig) -> None:
    """A series of incrementally stable systems forgets where it started."""
    model = DeepWiener(2, 2, config).double()
    u = noise(1, 4000, 2)
    one, last = model(u, model(noise(1, 40, 2, seed=1))[1])
    other, final = model(u, model(noise(1, 40, 2, seed=2))[1])
    assert (one[:, 0] - other[:, 0]).abs().max() > 1e-3
    assert (one[:, -1] - other[:, -1]).abs().max() < 1e-10
    for a, b in zip(state_tensors(last), state_tensors(final), strict=True):
        assert (a - b).abs().max() < 1e-10


def test_huge_inputs_stay_finite() -> None:
    model = DeepWiener(1, 1, CARD)
    y, _ = model(torch.full((1, 500, 1), 1e6))
    assert y.isfinite().all()


@settings(max_examples=25, deadline=None)
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 15),
    n_inputs=st.integers(1, 3),
    n_outputs=st.integers(1, 3),
    n_layers=st.integers(1, 3),
    d_model=st.integers(1, 4),
    d_state=st.integers(1, 4),
    bank=st.booleans(),
    input_map=st.booleans(),
    norm=st.sampled_from([None, LayerNorm(), RMSNorm()]),
    skip=st.sampled_from(["identity", "linear", "none"]),
)
def test_any_sizes(
    batch: int,
    length: int,
    n_inputs: int,
    n_outputs: int,
    n_layers: int,
    d_model: int,
    d_state: int,
    bank: bool,
    input_map: bool,
    norm,
    skip: str,
) -> None:
    config = DeepWienerConfig(
        n_layers=n_layers,
        d_model=d_model,
        d_state=d_state,
        skip=skip,
        norm=norm,
        input_map=input_map or bank,
        simulator=Scan(),
        **({"coupling": Bank()} if bank else {}),
    )
    model = DeepWiener(n_inputs, n_outputs, config).double()
    u = noise(batch, length, n_inputs)
    y, _ = model(u)
    assert y.shape == (batch, length, n_outputs)
    state = model.init_state(batch)
    for k in range(length):
        sample, state = model.step(u[:, k], state)
        torch.testing.assert_close(sample, y[:, k], rtol=1e-9, atol=1e-9)


def test_states_are_counted() -> None:
    model = DeepWiener(1, 1, CARD)
    u = torch.zeros(2, 3, 1)
    state = model.init_state(2)
    assert len(state) == 4
    for given_state, words in ((state[:3], "given 3"), (state[0], "given Tensor")):
        with pytest.raises(ValueError, match=f"4 states.*{words}"):
            model(u, given_state)
        with pytest.raises(ValueError, match=f"4 states.*{words}"):
            model.step(u[:, 0], given_state)


@pytest.mark.parametrize(
    ("fields", "kind", "message"),
    [
        ({"n_layers": 0}, ValueError, "n_layers >= 1; given 0"),
        ({"d_model": -2}, ValueError, "d_model >= 1; given -2"),
        ({"d_state": 0}, ValueError, "d_state >= 1; given 0"),
        ({"dropout": 1.0}, ValueError, r"\[0, 1\); given 1\.0"),
        ({"n_layers": 2.5}, TypeError, r"n_layers of type int; given 2\.5"),
        ({"d_model": True}, TypeError, "d_model of type int; given True"),
        ({"poles": Ring()}, TypeError, "poles of type PolesConfig"),
        ({"static": "tanh"}, TypeError, "static of type StaticMap; given 'tanh'"),
        ({"norm": 1}, TypeError, "norm of type Norm or NoneType; given 1"),
        ({"bias": 1}, TypeError, "bias of type bool; given 1"),
    ],
)
def test_config_checks_its_fields(fields: dict, kind: type, message: str) -> None:
    with pytest.raises(kind, match=message):
        DeepWienerConfig(**fields)


def test_config_checks_every_field() -> None:
    for field in dataclasses.fields(DeepWienerConfig):
        with pytest.raises(TypeError, match=f"takes {field.name} of type"):
            DeepWienerConfig(**{field.name: 1j})


@pytest.mark.parametrize(("n_inputs", "n_outputs"), [(0, 1), (1, 0), (-1, 2)])
def test_model_checks_its_channels(n_inputs: int, n_outputs: int) -> None:
    with pytest.raises(ValueError, match=r"n_(in|out)puts of at least 1; given (0|-1)$"):
        DeepWiener(n_inputs, n_outputs)


def test_skip_is_checked() -> None:
    with pytest.raises(ValueError, match="'both'"):
        DeepWiener(1, 1, DeepWienerConfig(skip="both"))


def test_bank_without_input_map_needs_as_many_inputs_as_channels() -> None:
    config = DeepWienerConfig(d_model=3, coupling=Bank(), input_map=False)
    with pytest.raises(ValueError, match="d_input = 2, d_output = 3"):
        DeepWiener(2, 1, config)
    assert DeepWiener(3, 1, config)(torch.zeros(1, 2, 3))[0].shape == (1, 2, 1)


def test_config_is_data() -> None:
    for config in (CARD, DeepWienerConfig(norm=RMSNorm(), coupling=Bank(), dropout=0.1)):
        assert from_dict(json.loads(json.dumps(to_dict(config)))) == config
