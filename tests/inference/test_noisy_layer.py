"""Layers and models wrapped in noise: free run without it, better predictions with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from contracts.filter_suite import close
from statewise import inference
from statewise.data import Normaliser
from statewise.inference import Cubature, FirstOrder, GaussianFilter, LinearGaussian, with_noise
from statewise.models import DeepWiener, DeepWienerConfig
from statewise.nn import GRU, LRU, LTI


def stack():
    """A small model whose states are complex, and of some size."""
    config = DeepWienerConfig(n_layers=2, d_model=3, d_state=2)
    return DeepWiener(1, 1, config, seed=3).double().eval()


def inputs(B, T, m=1, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(B, T, m, generator=g, dtype=torch.float64)


MODELS = {
    "deep Wiener": stack,
    "LTI": lambda: LTI(2, d_state=2, seed=1).double(),
    "GRU": lambda: GRU(2, seed=1).double(),
}


@pytest.mark.parametrize("rule", [FirstOrder(), Cubature()])
@pytest.mark.parametrize("name", list(MODELS))
def test_without_noise_of_the_state_the_filter_is_the_free_run(name, rule):
    model = MODELS[name]()
    u = inputs(2, 12, model.d_input)
    free, _ = model(u)
    noisy = with_noise(model, 0.0, 0.1)
    y = inputs(2, 12, model.d_output, 1)
    with torch.no_grad():
        found = inference.filter(noisy, y, u, method=GaussianFilter(rule))
    close(y - found.innovations, free.detach(), 1e-12)
    close(found.output_mean, free.detach(), 1e-12)
    assert found.cov.abs().max() < 1e-25
    e = (y - free.detach()).square().sum(-1) / 0.1
    expected = -0.5 * (e + model.d_output * np.log(2 * np.pi * 0.1))
    close(found.log_likelihoods, expected, 1e-10)


def test_a_linear_layer_is_a_linear_model():
    # One Jacobian is that of every point.
    layer = LTI(1, d_state=2, seed=2).double()
    noisy = with_noise(layer, 0.01, 0.1, P0=0.3)
    n = noisy.states
    x, u, t = torch.zeros(1, n).double(), torch.zeros(1, 1).double(), torch.zeros(1)
    f = lambda x, u: noisy.functions.f(x, u, t)[0]  # noqa: E731
    g = lambda x, u: noisy.functions.g(x, u, t)[0]  # noqa: E731
    F, B = (j[:, 0] for j in torch.autograd.functional.jacobian(f, (x, u)))
    H, D = (j[:, 0] for j in torch.autograd.functional.jacobian(g, (x, u)))
    u, y = inputs(2, 20), inputs(2, 20, 1, 5)
    y[0, 4:7] = torch.nan
    late = torch.cat([torch.zeros_like(u[:, :1]), u[:, :-1]], 1)
    linear = LinearGaussian(
        *(F, H, 0.01 * np.eye(n), [[0.1]]),
        B=torch.cat([B, torch.zeros_like(B)], 1),
        D=torch.cat([torch.zeros_like(D), D], 1),
        P0=0.3 * np.eye(n),
    )
    expected = inference.filter(linear, y, torch.cat([late, u], -1))
    for rule in (FirstOrder(), Cubature()):
        with torch.no_grad():
            found = inference.filter(noisy, y, u, method=GaussianFilter(rule))
        close(found.mean, expected.mean, 1e-10)
        close(found.log_likelihood, expected.log_likelihood, 1e-10)
        close(inference.smooth(found).mean, inference.smooth(expected).mean, 1e-9)


def test_filtering_a_stack_predicts_better_than_its_free_run():
    model = stack()
    g = torch.Generator().manual_seed(0)
    noisy = with_noise(model, 0.3, 0.01)
    n, T = noisy.states, 200
    u = inputs(1, T, seed=2)
    x, ys = noisy.m0, []
    with torch.no_grad():
        for t in range(T):
            if t:
                w = torch.randn(1, n, generator=g, dtype=torch.float64)
                x = noisy.functions.f(x, u[:, t - 1], None) + 0.3**0.5 * w
            v = torch.randn(1, 1, generator=g, dtype=torch.float64)
            ys.append(noisy.functions.g(x, u[:, t], None) + 0.1 * v)
        y = torch.stack(ys, 1)
        free = (y - model(u)[0]).square().mean()
        for rule in (FirstOrder(), Cubature()):
            found = inference.filter(noisy, y, u, method=GaussianFilter(rule))
            assert found.innovations.square().mean() < 0.5 * free
            stream = inference.Filter(noisy, GaussianFilter(rule))
            for t in range(20):
                now = stream.update(y[:, t], u[:, t])
            close(now.mean, found.mean[:, 19], 1e-10)


def test_gaps_are_bridged_by_the_model():
    model = stack()
    noisy = with_noise(model, 0.3, 0.001)
    u, y = inputs(1, 30), inputs(1, 30, seed=1)
    y[:, 10:20] = torch.nan
    with torch.no_grad():
        found = inference.filter(noisy, y, u)
    known = found.cov[0].diagonal(dim1=-2, dim2=-1).sum(-1)
    assert (known[10:20] > known[9]).all()
    assert known[20] < known[19]
    assert found.innovations[0, 10:20].isnan().all()


def test_scaling_is_kept():
    model = stack()
    scaling = Normaliser(np.array([2.0]), np.array([3.0]), np.array([-1.0]), np.array([0.5]))
    u, y = inputs(1, 10), inputs(1, 10, seed=1)
    with torch.no_grad():
        plain = inference.filter(with_noise(model, 0.1, 0.2), y, u)
        kept = with_noise(model, 0.1, 0.2 * 0.25, normaliser=scaling)
        found = inference.filter(kept, 0.5 * y - 1, 3 * u + 2)
    close(found.mean, plain.mean, 1e-10)
    close(found.innovations, 0.5 * plain.innovations, 1e-10)
    with pytest.raises(ValueError, match="for 1 inputs and 1 outputs; the model has 2 and 2"):
        with_noise(LTI(2, d_state=2), 0.1, 0.1, normaliser=scaling)


def test_float32_models_are_filtered_in_the_type_of_the_noise():
    model = stack().float()
    with torch.no_grad():
        found = inference.filter(with_noise(model, 0.1, 0.1), inputs(1, 5), inputs(1, 5, seed=1))
    assert found.mean.dtype == torch.float64
    assert found.mean.isfinite().all()


def test_noise_levels_are_learned_by_gradient():
    model = stack()
    u, y = inputs(1, 6), inputs(1, 6, seed=1)

    def function(q, r):
        noisy = with_noise(model, q * torch.ones(8, dtype=torch.float64), r, P0=0.1)
        return inference.log_likelihood(noisy, y, u, method=GaussianFilter(Cubature()))

    levels = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (0.1, 0.2)]
    for x in model.parameters():
        x.requires_grad_(False)
    assert torch.autograd.gradcheck(function, levels, atol=1e-6)


def test_what_cannot_be_is_said():
    with pytest.raises(ValueError, match=r"Q has shape \(3,\); it must be one number, \(8,\)"):
        with_noise(stack(), [1.0, 1.0, 1.0], 0.1)
    noisy = with_noise(stack(), 0.1, 0.1)
    with pytest.raises(ValueError, match="give u"):
        inference.filter(noisy, inputs(1, 4))

    class Forgetful(LRU):
        def __init__(self):
            super().__init__(1, d_state=2)
            self.drop = nn.Dropout(0.5)

    with pytest.raises(ValueError, match="dropout"):
        with_noise(Forgetful(), 0.1, 0.1)
