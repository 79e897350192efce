"""Markov chains, learned laws and noisy layers with tensors on a GPU, beside the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from inference.device_cases import (
    DEVICE,
    given,
    normal,
    same,
)
from statewise import inference
from statewise.data import Normaliser
from statewise.inference import (
    BernoulliGLM,
    CategoricalEmission,
    CholeskyNetwork,
    ConstantCovariance,
    Cubature,
    Discriminative,
    DrivenTransition,
    FirstOrder,
    FreeCouplings,
    GaussianCouplings,
    GaussianEmission,
    GaussianFilter,
    GaussianProcess,
    HiddenMarkov,
    NadarayaWatson,
    OneHotCouplings,
    PoissonEmission,
    PoissonGLM,
    baum_welch,
    fit_discriminative,
    fit_switching_glm,
    with_noise,
)
from statewise.models import DeepWiener, DeepWienerConfig
from statewise.nn import LRU

pytestmark = pytest.mark.gpu

KINDS = ("gauss", "full", "symbols", "counts", "choices", "rates")


def rows(*shape, seed):
    x = np.random.default_rng(seed).gamma(1.0, size=shape) + 0.05
    return torch.as_tensor(x / x.sum(-1, keepdims=True))


def emission(kind, device):
    """Of three states and two outputs."""
    mean, weight, root = normal(3, 2), normal(3, 2, 3, seed=1), normal(3, 2, 3, seed=2)
    made = {
        "gauss": lambda: GaussianEmission(mean.to(device), weight.square().sum(-1).to(device)),
        "full": lambda: GaussianEmission(mean.to(device), (root @ root.mT).to(device)),
        "symbols": lambda: CategoricalEmission(rows(3, 2, 4, seed=3).to(device)),
        "counts": lambda: PoissonEmission(mean.exp().to(device)),
        "choices": lambda: BernoulliGLM(weight.to(device), mean.to(device)),
        "rates": lambda: PoissonGLM(0.3 * weight.to(device), mean.to(device)),
    }
    return made[kind]()


def markov(kind, device):
    """A hidden Markov model with data; what is not on the device by hand is numbers."""
    transition = rows(3, 3, seed=4)
    if kind == "choices":
        transition = DrivenTransition(transition.log(), normal(3, 3, 3, seed=5)).to(device)
    y = normal(2, 8, 2, seed=6)
    y = y if kind in ("gauss", "full") else (y > 0).double()
    y[0, 2, 0] = y[1, 4] = torch.nan
    ends = torch.tensor([8, 6], device=device)
    model = HiddenMarkov([0.5, 0.3, 0.2], transition, emission(kind, device))
    options = {"u": normal(2, 8, 3, seed=7).to(device), "lengths": ends}
    return model, y.to(device), options


@pytest.mark.parametrize("kind", KINDS)
def test_hidden_markov_models(kind):
    def make(device):
        model, y, options = markov(kind, device)
        filtered, step = model.filter(y, **options), model.filter(y, **options, fused=False)
        parallel = model.filter(y, **options, parallel=True)
        found = [x for one in (filtered, step, parallel) for x in (one.mean, one.log_likelihoods)]
        one, two = (model.smooth(y, **options, parallel=way) for way in (False, True))
        best = model.viterbi(y, **options)
        draws = model.sample_states(y, 4, **options, seed=2)
        smoothed = (one.mean, one.pairs, two.mean, two.pairs, one.log_likelihood)
        path = (best.path.double(), best.log_probability, draws.double())
        return *found, filtered.predicted_mean, *smoothed, *path

    same(make)


@pytest.mark.parametrize("kind", KINDS)
def test_learning_of_markov_models(kind):
    def make(device):
        model, y, options = markov(kind, device)
        counts = None if kind == "choices" else np.eye(3)
        fit = baum_welch(model, y, **options, counts=counts, steps=2)
        return (*(fit.model.filter(y, **options).mean,), fit.model.smooth(y, **options).mean)

    # A module is fitted by L-BFGS, whose line search sees rounding.
    same(make, 1e-4 if kind == "choices" else 1e-7)


def test_a_stream_of_a_markov_model():
    model, y, options = markov("gauss", DEVICE)
    u = options["u"]
    whole, stream = model.filter(y, u), model.stream(2)
    for t in range(8):
        now = stream.update(y[:, t], u[:, t])
    torch.testing.assert_close(now.mean, whole.mean[:, -1])
    torch.testing.assert_close(stream.log_likelihood, whole.log_likelihood)


def test_gradients_of_a_markov_model():
    def make(device):
        y = normal(2, 8, 2).to(device)
        mean = normal(3, 2).to(device).requires_grad_()
        model = HiddenMarkov([0.5, 0.3, 0.2], rows(3, 3, seed=4), GaussianEmission(mean, mean**2))
        total = model.filter(y).log_likelihood
        return total, *torch.autograd.grad(total.sum(), mean)

    same(make)


@pytest.mark.parametrize(
    "prior",
    [FreeCouplings(), GaussianCouplings(), OneHotCouplings()],
    ids=lambda x: type(x).__name__,
)
def test_switching_regressions(prior):
    """Adam divides small gradients by their own size, which shows their rounding."""

    def make(device):
        counts = torch.as_tensor(np.random.default_rng(0).poisson(1.0, (2, 30, 3)))
        counts = counts.double().to(device)
        first = fit_switching_glm(counts, 2, prior, turns=2, inner=2)
        fit = fit_switching_glm(counts, 2, prior, turns=2, inner=2, start=first)
        filtered = fit.markov().filter(counts)
        return fit.transition, fit.bias, fit.weight, fit.basis, filtered.mean

    same(make, 1e-5)


def tracked(device, T=240):
    """States of a linear model and what is seen of them."""
    rng = np.random.default_rng(0)
    F, H = 0.95 * np.linalg.qr(rng.normal(size=(2, 2)))[0], rng.normal(size=(3, 2))
    z = np.zeros((T, 2))
    for t in range(1, T):
        z[t] = F @ z[t - 1] + 0.3 * rng.normal(size=2)
    y = z @ H.T + 0.3 * rng.normal(size=(T, 3))
    return (torch.as_tensor(x)[None].to(device) for x in (z, y))


@pytest.mark.parametrize(
    ("regression", "bound"),
    [
        # Where V is almost S a measurement says almost nothing, and its likelihood is a difference.
        (NadarayaWatson(), 1e-5),
        (NadarayaWatson(0.5, ConstantCovariance()), 1e-8),
        # What optimisers end at depends on rounding, and on single precision in a network.
        (GaussianProcess(100, 10), 1e-3),
        (CholeskyNetwork((8,), epochs=3), 1e-2),
    ],
    ids=("kernel", "constant", "process", "network"),
)
def test_discriminative_filters(regression, bound):
    def make(device):
        z, y = tracked(device)
        model = fit_discriminative(z, y, regression, lengths=[230], stationary=True, seed=1)
        found = model.filter(y[:, :12], lengths=[11])
        smoothed = inference.smooth(found)
        state = None
        for t in range(3):
            now, state = model.update(y[:, t], state)
        return found.mean, found.cov, found.log_likelihoods, smoothed.mean, now.mean, model.F

    same(make, bound)


def test_a_discriminative_model_by_hand():
    def make(device):
        S = torch.eye(2, dtype=torch.float64, device=device)
        law = lambda y: (0.5 * y, 1.5 * S.expand(*y.shape[:-1], 2, 2))  # noqa: E731
        model = Discriminative(0.9 * S, 0.19 * S, S, law, shift=1)
        y = normal(2, 6, 2).to(device)
        linear = model.filter(y, mask=normal(2, 6) > -1)
        bent = Discriminative(lambda z, u, t: torch.sin(z), 0.19 * S, S, law, robust=True)
        return linear.mean, linear.log_likelihoods, bent.filter(y).mean, bent.repaired(2 * S)

    same(make)


@pytest.mark.parametrize("rule", [FirstOrder(), Cubature()], ids=lambda x: type(x).__name__)
@pytest.mark.parametrize("name", ["deep Wiener", "LRU"])
def test_noisy_layers(name, rule):
    def make(device):
        config = DeepWienerConfig(n_layers=1, d_model=2, d_state=2)
        layer = LRU(1, d_state=2, seed=1) if name == "LRU" else DeepWiener(1, 1, config, seed=3)
        layer = layer.double().eval().to(device)
        scaling = Normaliser(np.array([2.0]), np.array([3.0]), np.array([-1.0]), np.array([0.5]))
        noisy = with_noise(layer, 0.1, torch.tensor(0.1, device=device), normaliser=scaling)
        y, u = normal(2, 6, 1).to(device), normal(2, 6, 1, seed=1).to(device)
        y[0, 2] = torch.nan
        with torch.no_grad():
            found = inference.filter(noisy, y, u, method=GaussianFilter(rule))
            return found.mean, found.cov, found.log_likelihoods, inference.smooth(found).mean

    same(make)


def test_diagnostics_of_gaussian_filters():
    def make(device):
        model, y, _ = given("plain", device)
        y = normal(3, 60, 2).to(device)
        y[0, 4, 0] = torch.nan
        found = inference.filter(model, y)
        tests = inference.innovation_tests(found, lags=5)
        pit, states = inference.predictive_pit(found), inference.state_pit(found, found.mean + 0.1)
        cover = inference.calibration(pit)
        numbers = (tests.nis, tests.ljung_box, tests.nis_p, cover.covered, cover.ks)
        return pit, states, *(torch.as_tensor(x, device=device) for x in numbers)

    same(make)
