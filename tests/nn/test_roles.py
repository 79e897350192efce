"""Roles of parameters and the optimiser groups that follow; walks over states."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from statewise.lti import Trapezoid
from statewise.nn import (
    LRU,
    LTI,
    MLP,
    S4D,
    Block,
    ContinuousDiagonal,
    LayerNorm,
    Mamba,
    RMSNorm,
    WienerBlock,
    map_state,
    parameter_groups,
    parameter_roles,
    state_tensors,
)


def block() -> WienerBlock:
    rng = np.random.default_rng(0)
    lti = LTI(3, 2, 4, bias=True, seed=rng)
    return WienerBlock(lti, MLP(4), skip="linear", norm=LayerNorm(), rng=rng)


def stepped() -> WienerBlock:
    """A block whose poles have time steps."""
    rng = np.random.default_rng(0)
    return WienerBlock(S4D(3, 2, seed=rng), MLP(4), rng=rng)


def test_roles() -> None:
    assert parameter_roles(LRU(2, 2, 3)) == {
        "poles.nu": "A",
        "poles.theta": "A",
        "poles.log_gamma": "A",
        "coupling.B": "B",
        "coupling.C": "C",
        "D": "D",
    }
    assert parameter_roles(S4D(2, 3)) == {
        "poles.log_decay": "A",
        "poles.frequency": "A",
        "poles.log_dt": "dt",
        "coupling.B": "B",
        "coupling.C": "C",
        "D": "D",
    }
    found = parameter_roles(block())
    assert found["F"] == "D"
    assert found["layer.bias"] == "bias"
    assert found["norm.weight"] == "bias"
    assert found["static.0.weight"] == "weight"
    assert found["static.2.bias"] == "bias"
    assert set(found) == {name for name, _ in block().named_parameters()}


@pytest.mark.parametrize("build", [block, stepped], ids=["discrete", "continuous"])
def test_groups_hold_every_parameter_once(build) -> None:
    model = build()
    groups = {group["name"]: group for group in parameter_groups(model, 1e-2, 0.1)}
    assert set(groups) == {"dynamics", "maps", "biases"}
    assert [groups[name]["lr"] for name in ("dynamics", "maps", "biases")] == [5e-3, 1e-2, 1e-2]
    decays = [groups[name]["weight_decay"] for name in ("dynamics", "maps", "biases")]
    assert decays == [0.0, 0.1, 0.0]
    held = [id(p) for group in groups.values() for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    roles = parameter_roles(model)
    members = {id(p): name for name, group in groups.items() for p in group["params"]}
    for name, parameter in model.named_parameters():
        expected = {"A": "dynamics", "B": "dynamics", "dt": "dynamics", "bias": "biases"}
        if roles[name] == "D" and parameter.ndim == 1:
            expected["D"] = "biases"
        assert members[id(parameter)] == expected.get(roles[name], "maps"), name


def test_a_module_names_the_roles_of_its_parts() -> None:
    model = Block(Mamba(4, d_state=2), norm=RMSNorm(), rng=np.random.default_rng(0))
    roles = parameter_roles(model)
    assert {name: roles[f"layer.{name}"] for name in ("dt_proj.bias", "A_log", "D")} == {
        "dt_proj.bias": "dt",
        "A_log": "A",
        "D": "D",
    }
    assert roles["layer.dt_proj.weight"] == "weight"
    groups = {group["name"]: group["params"] for group in parameter_groups(model, 1e-3, 0.1)}
    held = {name: {id(p) for p in params} for name, params in groups.items()}
    assert id(model.layer.dt_proj.bias) in held["dynamics"]
    assert id(model.layer.D) in held["biases"]
    assert id(model.norm.weight) in held["biases"]
    assert id(model.layer.out_proj.weight) in held["maps"]


def test_frozen_parameters_and_empty_groups_are_left_out() -> None:
    model = block()
    for parameter in model.lti.parameters():
        parameter.requires_grad_(False)
    groups = parameter_groups(model, 1e-3, dynamics_factor=0.1)
    assert [group["name"] for group in groups] == ["maps", "biases"]
    frozen = {id(p) for p in model.lti.parameters()}
    assert not frozen & {id(p) for group in groups for p in group["params"]}
    assert parameter_groups(nn.Identity(), 1e-3) == []


def test_groups_train_without_decay_of_the_dynamics() -> None:
    model = block()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimiser = torch.optim.AdamW(parameter_groups(model, 1e-2, 0.5))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    groups = parameter_roles(model)
    for name, value in model.state_dict().items():
        if groups[name] in ("A", "B", "dt", "bias"):
            assert torch.equal(value, before[name]), name
        else:
            torch.testing.assert_close(value, before[name] * (1 - 1e-2 * 0.5))


class Pair(NamedTuple):
    first: Tensor
    second: tuple[Tensor, ...]


def test_states_are_walked_in_order() -> None:
    state = Pair(torch.ones(1), (torch.full((1,), 2.0), torch.full((1,), 3.0)))
    doubled = map_state(lambda one, two: one + two, state, state)
    assert isinstance(doubled, Pair)
    assert [tensor.item() for tensor in state_tensors(doubled)] == [2, 4, 6]
    with pytest.raises(TypeError, match="not list"):
        map_state(torch.clone, [torch.ones(1)])


def test_state_of_a_rule_with_two_samples_holds_the_last_input() -> None:
    layer = LTI(2, 3, 4, poles=ContinuousDiagonal(rule=Trapezoid()))
    u = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0))
    _, state = layer(u)
    assert torch.equal(state.u, u[:, -1])
    with pytest.raises(ValueError, match=r"\(2, 4, 2\) and \(2, 2\).*given \(2, 4, 2\)$"):
        layer(u, state.x)
