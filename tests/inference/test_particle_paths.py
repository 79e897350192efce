"""Fast paths of the particle filter beside slow ones, and what a filter leaves behind."""

from __future__ import annotations

import math
import threading

import pytest
import torch
from torch.distributions import Distribution, Independent, MultivariateNormal, Normal

from statewise import inference, ops
from statewise.inference import (
    Auxiliary,
    Bootstrap,
    LinearGaussian,
    Multinomial,
    Residual,
    StateSpaceModel,
    Stratified,
    Systematic,
    particle_filter,
)
from statewise.inference.quiet_laws import unchecked

F = torch.tensor([[0.9, 0.2], [-0.1, 0.8]], dtype=torch.float64)
Q, R = 0.3, 0.5
START = torch.zeros(2, dtype=torch.float64)
DEVIATION = torch.tensor(0.6, dtype=torch.float64)


class Slow(Normal):
    """A law that no path knows."""


def model(kind="normal"):
    eye = torch.eye(2, dtype=torch.float64)

    def law(loc, variance):
        if kind == "vector":
            return MultivariateNormal(loc, variance * eye)
        if kind == "joint":
            return Independent(Normal(loc, math.sqrt(variance)), 1)
        if kind == "slow":
            return Slow(loc, math.sqrt(variance))
        return Normal(loc, math.sqrt(variance))

    return StateSpaceModel(
        lambda: law(START, 1.0),
        lambda x, t, *u: law(x @ F.mT + (u[0] if u else 0.0), Q),
        lambda x, t, *u: law(x, R),
    )


def data(B=1, T=7, seed=0, holes=False):
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(B, 2, dtype=torch.float64, generator=g), []
    for _ in range(T):
        y.append(x + math.sqrt(R) * torch.randn(B, 2, dtype=torch.float64, generator=g))
        x = x @ F.mT + math.sqrt(Q) * torch.randn(B, 2, dtype=torch.float64, generator=g)
    y = torch.stack(y, 1)
    if holes:
        y[:, 2, 0] = y[0, 4] = torch.nan
    return y


def exact(y, joint=False):
    eye = torch.eye(2, dtype=torch.float64)
    if joint:
        y = torch.where(y.isnan().any(-1, keepdim=True), torch.nan, y)
    return inference.filter(LinearGaussian(F, eye, Q * eye, R * eye, P0=eye), y)


def fields(found):
    return [getattr(found, x) for x in ("particles", "log_weights", "log_likelihoods", "ess")]


@pytest.mark.parametrize("way", [Systematic(), Stratified(), Multinomial(), Residual()])
@pytest.mark.parametrize("looks", [False, True])
def test_back_ends_filter_alike(way, looks):
    y = data(B=3, holes=True)
    method = Bootstrap()
    if looks:
        method = Auxiliary(lambda x, y, t: Normal(x @ F.mT, math.sqrt(Q + R)).log_prob(y).sum(-1))
    found = []
    for backend in ("cpu", "reference"):
        with ops.use_backend(backend):
            run = particle_filter(
                model(), y, particles=40, method=method, resampling=way, threshold=0.8, seed=3
            )
        found.append([*fields(run), run.ancestors])
    assert (found[0][-1] != torch.arange(40)).any()
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_a_law_that_is_known_weighs_as_it_does_itself():
    """The same particles are weighed by three ways to write one law."""
    y = data(B=2)

    def observed(law):
        one = model()
        return StateSpaceModel(one.initial, one.transition, law)

    deviation = math.sqrt(R)
    laws = (
        lambda x, t: Normal(x, deviation),
        lambda x, t: Slow(x, deviation),
        lambda x, t: Independent(Normal(x, deviation), 1),
        lambda x, t: Normal(x, torch.full_like(x, deviation)),
        lambda x, t: MultivariateNormal(x, R * torch.eye(2, dtype=torch.float64)),
    )
    first, *others = (particle_filter(observed(k), y, particles=50, seed=1) for k in laws)
    for other in others:
        for a, b in zip(fields(first), fields(other), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["normal", "joint", "vector", "slow"])
def test_every_path_is_unbiased(kind):
    y = data(holes=kind != "vector")
    z = exact(y, kind == "joint").log_likelihood
    found = particle_filter(model(kind), y.expand(1500, -1, -1), particles=30, seed=2)
    ratio = (found.log_likelihood - z).exp()
    assert abs(ratio.mean() - 1) < 4 * ratio.std() / math.sqrt(1500)


def test_float32_stays_so():
    half = StateSpaceModel(
        lambda: Normal(torch.zeros(1), 1.0),
        lambda x, t: Normal(0.9 * x, 0.5),
        lambda x, t: Normal(x, 0.6),
    )
    y = data().float()[..., :1]
    found = particle_filter(half, y, particles=100)
    assert found.particles.dtype == torch.float32
    assert found.log_weights.dtype == torch.float64
    with ops.use_backend("reference"):
        other = particle_filter(half, y, particles=100)
    torch.testing.assert_close(found.log_likelihoods, other.log_likelihoods, rtol=1e-6, atol=1e-6)


def test_summaries_are_those_of_all_particles():
    y, lengths = data(B=3, T=9, holes=True), torch.tensor([9, 4, 6])
    for options in ({}, {"lengths": lengths}):
        whole, brief, means = (
            particle_filter(model(), y, particles=60, seed=4, keep=k, **options)
            for k in ("all", "cov", "mean")
        )
        assert means.cov is None
        for name in ("mean", "cov", "log_likelihoods", "ess", "log_likelihood", "valid"):
            torch.testing.assert_close(getattr(brief, name), getattr(whole, name))
        assert torch.equal(means.mean, brief.mean)
        last = options.get("lengths", torch.tensor([9, 9, 9])) - 1
        for b in range(3):
            assert torch.equal(brief.particles[b], whole.particles[b, last[b]])
            assert torch.equal(brief.log_weights[b], whole.log_weights[b, last[b]])


def test_what_a_function_keeps_is_not_written_over():
    seen, y = [], data(T=12)

    def transition(x, t):
        seen.append((x, x.clone()))
        return Normal(x @ F.mT, math.sqrt(Q))

    one = model()
    for keep in ("all", "mean"):
        particle_filter(
            StateSpaceModel(one.initial, transition, one.observation), y, particles=50, keep=keep
        )
    assert len(seen) == 22
    assert all(torch.equal(x, copy) for x, copy in seen)


@pytest.fixture
def checked(monkeypatch):
    """Distributions check their arguments, which torch.compile turns off for good."""
    monkeypatch.setattr(Distribution, "_validate_args", True)


def test_arguments_of_laws_are_checked_at_first_only(checked):
    default = Distribution._validate_args
    seen = []

    def transition(x, t):
        seen.append(Distribution._validate_args)
        return Normal(x @ F.mT, math.sqrt(Q))

    one = model()
    particle_filter(StateSpaceModel(one.initial, transition, one.observation), data(), particles=9)
    assert seen == [default] + [False] * 5
    assert Distribution.__dict__["_validate_args"] is default
    wrong = StateSpaceModel(one.initial, lambda x, t: Normal(x, -1.0), one.observation)
    with pytest.raises(ValueError, match="scale"):
        particle_filter(wrong, data(), particles=9)

    def fails(x, t):
        if t == 3:
            raise RuntimeError("no")
        return Normal(x, 1.0)

    with pytest.raises(RuntimeError, match="no"):
        particle_filter(StateSpaceModel(one.initial, fails, one.observation), data(), particles=9)
    assert Distribution.__dict__["_validate_args"] is default


def test_other_threads_keep_their_checks(checked):
    default = Distribution._validate_args
    inside, asked, answers = threading.Event(), threading.Event(), []

    def quiet():
        with unchecked(), unchecked():
            answers.append(Distribution._validate_args)
            answers.append(Normal(torch.zeros(1), -1.0)._validate_args)
            answers.append(Normal(torch.zeros(1), 1.0, validate_args=True)._validate_args)
            inside.set()
            asked.wait(10)

    thread = threading.Thread(target=quiet)
    thread.start()
    assert inside.wait(10)
    try:
        assert answers == [False, False, True]
        assert Distribution._validate_args is default
        with pytest.raises(ValueError, match="scale"):
            Normal(torch.zeros(1), -1.0)
        with unchecked():
            assert Distribution._validate_args is False
        assert Distribution._validate_args is default
    finally:
        asked.set()
        thread.join()
    assert Distribution.__dict__["_validate_args"] is default


def test_a_setting_changed_meanwhile_stays():
    default = Distribution._validate_args
    try:
        with unchecked():
            Distribution.set_default_validate_args(not default)
        assert Distribution.__dict__["_validate_args"] is (not default)
    finally:
        Distribution.set_default_validate_args(default)


def test_threads_do_not_disturb_each_other():
    """Filters of unknown laws draw from torch's one generator, and come out the same."""
    y = data(T=15)
    alone = [particle_filter(model("slow"), y, particles=30, seed=s) for s in range(4)]
    torch.manual_seed(7)
    before, found = torch.random.get_rng_state(), {}

    def work(s):
        found[s] = particle_filter(model("slow"), y, particles=30, seed=s)

    threads = [threading.Thread(target=work, args=(s,)) for s in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for s in range(4):
        assert torch.equal(found[s].particles, alone[s].particles)
    assert torch.equal(before, torch.random.get_rng_state())
    assert Distribution.__dict__["_validate_args"] is Distribution._validate_args


def test_a_keep_that_is_not_known():
    with pytest.raises(ValueError, match="keep is 'none'"):
        particle_filter(model(), data(), particles=9, keep="none")
