"""Lengths that do not fit the data are refused by every filter, in the same words."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal

from statewise import inference
from statewise.inference import (
    Additive,
    Discriminative,
    EnsembleKalman,
    GaussianEmission,
    HiddenMarkov,
    Kalman,
    LinearGaussian,
    NonlinearGaussian,
    ParallelKalman,
    SquareRootKalman,
    StateSpaceModel,
    SwitchingLinear,
)

ONE = [[1.0]]
Y = torch.zeros(2, 4, 1, dtype=torch.float64)
LINEAR = LinearGaussian([[0.9]], ONE, ONE, ONE, P0=ONE)
CURVED = NonlinearGaussian(lambda x, u, t: x.sin(), lambda x, u, t: x, ONE, ONE, P0=ONE)
WALK = StateSpaceModel(
    lambda: Normal(torch.zeros(1, dtype=torch.float64), 1.0),
    lambda x, t: Normal(0.9 * x, 1.0),
    lambda x, t: Normal(x, 1.0),
)
CHAIN = HiddenMarkov(
    [0.5, 0.5], [[0.9, 0.1], [0.1, 0.9]], GaussianEmission([[0.0], [1.0]], ONE * 2)
)
SWITCH = SwitchingLinear([1.0], [[1.0]], F=[ONE], H=ONE, Q=[ONE], R=ONE)
KNOWN = Discriminative([[0.9]], [[0.19]], ONE, lambda y: (y, torch.full((1, 1), 0.5).double()))
SUM = Additive(lambda x, after, s: (x * after).sum(-1))

FILTERS = {
    "Kalman": lambda n: inference.filter(LINEAR, Y, lengths=n, method=Kalman()),
    "roots": lambda n: inference.filter(LINEAR, Y, lengths=n, method=SquareRootKalman()),
    "parallel": lambda n: inference.filter(
        LINEAR, Y, lengths=n, method=ParallelKalman(), parallel=True
    ),
    "nonlinear": lambda n: inference.filter(CURVED, Y, lengths=n),
    "ensemble": lambda n: inference.filter(CURVED, Y, lengths=n, method=EnsembleKalman(5)),
    "iterated": lambda n: inference.smooth_iterated(CURVED, Y, lengths=n),
    "discriminative": lambda n: KNOWN.filter(Y, lengths=n),
    "states": lambda n: CHAIN.smooth(Y, lengths=n, parallel=True),
    "particles": lambda n: inference.particle_filter(WALK, Y, particles=9, lengths=n),
    "paris": lambda n: inference.paris(WALK, Y, SUM, particles=9, lengths=n),
    "gibbs": lambda n: inference.particle_gibbs(WALK, Y, particles=9, lengths=n),
    "switching": lambda n: inference.rao_blackwell_filter(SWITCH, Y, particles=9, lengths=n),
}


@pytest.mark.parametrize("name", FILTERS)
def test_lengths_must_fit_the_data(name):
    run = FILTERS[name]
    run([4, 1])
    with pytest.raises(ValueError, match=r"lengths has shape \(1,\); 2 series need \(2,\)"):
        run([4])
    with pytest.raises(ValueError, match=r"lengths reach from 4 to 5; .* from 0 to the 4 steps"):
        run([4, 5])
    with pytest.raises(ValueError, match="lengths reach from -1 to 4"):
        run(torch.tensor([-1, 4]))


def test_models_of_another_kind_are_told_where_to_go():
    for model in (CHAIN, WALK):
        with pytest.raises(TypeError, match=r"model is a .* of its own"):
            inference.filter(model, Y)
        with pytest.raises(TypeError, match="goes to particle_filter"):
            inference.log_likelihood(model, Y)
        with pytest.raises(TypeError, match="goes to particle_filter"):
            inference.Filter(model)


def test_a_nonlinear_model_needs_its_covariances():
    with pytest.raises(ValueError, match="R and P0 must be given"):
        NonlinearGaussian(lambda x, u, t: x, lambda x, u, t: x, ONE, None, P0=None)
