"""Factors of starts and learning rates for models of other sizes."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from statewise.nn import LRU, Mamba, Mamba2, mup_factors, mup_groups, mup_slices, mup_start_
from statewise.nn.mup import KINDS


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_changes_at_the_base_size(kind):
    assert mup_factors(kind) == (1.0, 1.0, 1.0)


def test_the_table():
    assert mup_factors("matrix", 4, 4) == (0.5, 1.0, 0.25)
    assert mup_factors("matrix", 4, 1) == (0.25, 0.25, 0.25)
    assert mup_factors("matrix", 1, 4) == (1.0, 4.0, 1.0)
    assert mup_factors("vector", 1, 4) == (1.0, 4.0, 1.0)
    assert mup_factors("selective B", 4, 2) == (0.5, 0.5, 0.25)
    assert mup_factors("selective C", 4, 2) == (0.25, 0.125, 0.125)
    assert mup_factors("selective C", 4, 2).rate("sgd") == 0.125


def test_groups_of_the_base_model_have_its_rate():
    groups = mup_groups(LRU(4, 4, 8), LRU(4, 4, 8), 1e-3, weight_decay=0.1)
    assert {group["lr"] for group in groups} == {1e-3}
    assert sum(len(group["params"]) for group in groups) == len(list(LRU(4, 4, 8).parameters()))


def test_groups_of_a_wider_model():
    with torch.device("meta"):
        base = Mamba(16)
    model = Mamba(64)
    groups = mup_groups(model, base, 1e-2, weight_decay=0.1)
    rate = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert rate[id(model.A_log)] == (1e-2, 0.0)
    assert rate[id(model.in_proj.weight)] == pytest.approx((2.5e-3, 0.4))
    assert len(rate) == len(list(model.parameters()))


def test_kinds_name_the_exceptions():
    model, base = nn.Linear(8, 6), nn.Linear(4, 3)
    groups = mup_groups(model, base, 1.0, kinds={"weight": "selective C"})
    assert {len(g["params"][0].shape): g["lr"] for g in groups} == {2: 0.25, 1: 1.0}


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: mup_factors("tensor"), "a kind is one of matrix"),
        (lambda: mup_factors("matrix", 0.0), "ratios are positive"),
        (lambda: mup_factors("matrix").rate("lion"), 'is "adam" or "sgd"'),
        (lambda: mup_groups(nn.Linear(2, 2), nn.Identity(), 1.0), "no parameter weight"),
        (
            lambda: mup_groups(nn.Linear(2, 2), nn.Linear(1, 1), 1.0, kinds={"w": "vector"}),
            "the model has not",
        ),
    ],
)
def test_mistakes_get_a_sentence(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()


# --- weights in which several maps are packed

PACKED = [
    (Mamba(64, d_state=32), Mamba(16, d_state=16), "x_proj.weight", (4, 32, 32), (1, 16, 16)),
    (
        Mamba2(32, d_state=32, headdim=8, n_groups=2, d_ssm=48),
        Mamba2(16, d_state=8, headdim=8, n_groups=2, d_ssm=16),
        "in_proj.weight",
        (128, 64, 64, 6),
        (64, 16, 16, 2),
    ),
]
KINDS_OF = {
    "x_proj.weight": ("matrix", "selective B", "selective C"),
    "in_proj.weight": ("matrix", "selective B", "selective C", "matrix"),
}


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
@pytest.mark.parametrize(("model", "base", "name", "rows", "few"), PACKED)
def test_slices_have_the_rates_of_their_kinds(model, base, name, rows, few, optimiser):
    weight, small = model.get_parameter(name), base.get_parameter(name)
    assert sum(rows) == weight.shape[0]
    (group,) = [g for g in mup_groups(model, base, 1e-2, optimiser=optimiser) if "slices" in g]
    assert group["params"] == [weight]
    fan_in, start = weight.shape[1] / small.shape[1], 0
    for (first, stop, factor), kind, many, little in zip(
        group["slices"], KINDS_OF[name], rows, few, strict=True
    ):
        assert (first, stop) == (start, start + many)
        expected = 1e-2 * mup_factors(kind, fan_in, many / little).rate(optimiser)
        assert group["lr"] * factor == pytest.approx(expected)
        start = stop


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
@pytest.mark.parametrize(("model", "base", "name", "rows", "few"), PACKED)
def test_steps_are_those_of_separate_weights(model, base, name, rows, few, optimiser):
    """Against one parameter for each slice, with the rate and the decay of its kind."""
    whole = nn.Parameter(torch.randn(model.get_parameter(name).shape, dtype=torch.float64))
    apart = [nn.Parameter(part.detach().clone()) for part in whole.split(list(rows))]
    options = {"optimiser": optimiser, "weight_decay": 0.1}
    (group,) = [g for g in mup_groups(model, base, 1e-2, **options) if "slices" in g]
    kind = torch.optim.AdamW if optimiser == "adam" else torch.optim.SGD
    fan_in = whole.shape[1] / base.get_parameter(name).shape[1]
    rates = [
        mup_factors(k, fan_in, many / little).rate(optimiser)
        for k, many, little in zip(KINDS_OF[name], rows, few, strict=True)
    ]
    one = kind([group | {"params": [whole]}])
    two = kind(
        {"params": [part], "lr": 1e-2 * rate, "weight_decay": 0.1 / rate}
        for part, rate in zip(apart, rates, strict=True)
    )
    handles = mup_slices(one)
    target = torch.randn_like(whole)
    for _ in range(4):
        for optim, now in ((one, whole), (two, torch.cat(apart))):
            optim.zero_grad()
            (now * now * target).sum().backward()
            optim.step()
    torch.testing.assert_close(whole.detach(), torch.cat(apart).detach(), rtol=1e-10, atol=1e-12)
    one.zero_grad()
    before = whole.detach().clone()
    one.step()
    assert torch.equal(before, whole)
    for handle in handles:
        handle.remove()
    whole.grad = torch.ones_like(whole)
    plain = kind([group | {"params": [nn.Parameter(before.clone())]}])
    plain.param_groups[0]["params"][0].grad = torch.ones_like(whole)
    plain.load_state_dict(copy.deepcopy(one.state_dict()))
    one.step()
    plain.step()
    assert torch.equal(whole, plain.param_groups[0]["params"][0])


@pytest.mark.parametrize(("model", "base", "name", "rows", "few"), PACKED)
def test_only_the_start_of_maps_to_c_is_smaller(model, base, name, rows, few):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    mup_start_(model, base)
    for key, value in model.state_dict().items():
        if key != name:
            assert torch.equal(value, before[key])
            continue
        for kind, new, old, many, little in zip(
            KINDS_OF[name], value.split(list(rows)), before[key].split(list(rows)), rows, few,
            strict=True,
        ):  # fmt: skip
            scale = many / little if kind == "selective C" else 1
            torch.testing.assert_close(new * scale, old)
    model.load_state_dict(before)
    mup_start_(model, model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_a_kind_that_is_given_goes_before_slices():
    model, base, name = *PACKED[0][:2], PACKED[0][2]
    groups = mup_groups(model, base, 1.0, kinds={name: "matrix"})
    assert not any("slices" in group for group in groups)


def test_other_parts_in_the_base_model_are_told():
    from statewise.nn import Selective

    model, base = Mamba(8), Mamba(4, selective=Selective(B=False))
    with pytest.raises(ValueError, match="packs matrix, selective C into a weight where"):
        mup_groups(model, base, 1.0)
