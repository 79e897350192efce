"""Factors of starts and learning rates for models of other sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from statewise.nn import LRU, Mamba, mup_factors, mup_groups
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
