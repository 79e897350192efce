"""Smoothed sums while filtering: by all pairs, by drawn ancestors, and beside Kalman."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal

from statewise import inference
from statewise.inference import (
    Additive,
    Auxiliary,
    ExactBackward,
    Guided,
    LinearGaussian,
    MetropolisBackward,
    ParticleResult,
    RejectionBackward,
    StateSpaceModel,
    paris,
    sample_states,
    smooth_particles,
)
from statewise.inference.conditional import Series, Step, sweep
from statewise.inference.parisian_smoother import Statistic
from statewise.inference.particle import Bootstrap, seeded

A, Q, R = 0.9, 0.5, 0.4
P0 = torch.tensor([1.2], dtype=torch.float64)
BOUND = -0.5 * math.log(2 * math.pi * Q)
WAYS = {
    "exact": ExactBackward(),
    "rejection": RejectionBackward(BOUND),
    "one trial": RejectionBackward(lambda t: BOUND, trials=1),
    "Metropolis": MetropolisBackward(),
}
PRODUCT = Additive(lambda x, after, s: (x * after).sum(-1))


def walk(u=False):
    return StateSpaceModel(
        lambda: Normal(torch.zeros_like(P0), P0.sqrt()),
        lambda x, t, *given: Normal(A * x + (given[0] if u else 0.0), math.sqrt(Q)),
        lambda x, t, *given: Normal(x, math.sqrt(R)),
    )


def kalman(u=False):
    driven = {"B": [[1.0]]} if u else {}
    return LinearGaussian([[A]], [[1.0]], [[Q]], [[R]], P0=[[P0.item()]], **driven)


def data(B=1, T=8, seed=0):
    """Drawn from the model."""
    random = torch.Generator().manual_seed(seed)
    noise = torch.randn(T, 2, B, 1, generator=random, dtype=torch.float64)
    x, y = P0.sqrt() * noise[0, 0], []
    for t in range(T):
        x = A * x + math.sqrt(Q) * noise[t, 0] if t else x
        y.append(x + math.sqrt(R) * noise[t, 1])
    return torch.stack(y, 1)


def exact_product(y, u=None, **options):
    """E Σ x_s x_{s+1} given y, (B,)."""
    found = inference.smooth(inference.filter(kalman(u is not None), y, u, **options))
    mean, cross = found.mean, found.cross
    return (mean[:, 1:] * mean[:, :-1]).sum((1, 2)) + cross[:, 1:].sum((1, 2, 3))


def clouds(y, N, seed, u=None, **options):
    """The particles that paris has with that seed and all ancestors averaged."""
    series = Series.of(walk(u is not None), y, u, **options)
    with torch.no_grad(), seeded(seed, y.device):
        return series, list(sweep(series, N, Bootstrap()))


def test_the_sum_over_all_ancestors_is_ffbsm():
    """On the same particles, at every step, to 1e-12."""
    y, u = data(B=3, T=9), 0.3 * data(B=3, T=9, seed=5)
    y[1, 3:5] = torch.nan
    several = Additive(
        lambda x, after, s: torch.cat([x * after, x**2 + s, after], -1),
        lambda x: torch.cat([x, x**2, 0 * x], -1),
    )
    found = paris(walk(u=True), y, several, u, particles=12, draws=None, seed=3)
    series, steps = clouds(y, 12, 3, u)
    for last in range(9):
        part = steps[: last + 1]
        x, logs, ancestors, ll = (torch.stack(one, 1) for one in zip(*part, strict=True))
        result = ParticleResult(
            x, logs, ancestors, ll, ll, series.model, u, torch.ones(3, last + 1, dtype=torch.bool)
        )
        w = smooth_particles(result).exp()
        total = torch.einsum("bn,bnd->bd", w[:, 0], several.first(x[None, :, 0])[0])
        for t in range(last):
            law = Normal(A * x[:, t, None, :, 0] + u[:, t + 1, :, None], math.sqrt(Q))
            beta = logs[:, t, None] + law.log_prob(x[:, t + 1, :, None, 0])
            beta = torch.softmax(beta, -1)
            pairs = (x[:, t].unsqueeze(1), x[:, t + 1].unsqueeze(2))
            h = several.pair(*(one.expand(3, 12, 12, 1) for one in pairs), t)
            total = total + torch.einsum("bi,bij,bijd->bd", w[:, t + 1], beta, h)
        torch.testing.assert_close(found.estimates[:, last], total, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("draws", [1, 2, 3, None])
@pytest.mark.parametrize("name", list(WAYS))
def test_nothing_sums_to_nothing_and_ones_to_the_number_of_steps(name, draws):
    y, lengths = data(B=2, T=6), torch.tensor([6, 4])
    options = {"particles": 7, "draws": draws, "backward": WAYS[name], "lengths": lengths}
    none = paris(walk(), y, Additive(lambda x, after, s: 0 * x[..., 0]), **options)
    assert not none.estimates.any()
    ones = Additive(lambda x, after, s: torch.ones_like(x[..., 0]))
    found = paris(walk(), y, ones, **options).estimates
    want = torch.tensor([[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 3, 3]], dtype=torch.float64)
    torch.testing.assert_close(found, want, rtol=1e-14, atol=0)


def moves(count, lanes=1):
    """A step, the next one and the statistic between them, for N = 6, in so many equal lanes."""
    series, steps = clouds(data(T=3), 6, 2)
    before, after = steps[1:]
    series = Series.of(series.model, data(T=3).expand(lanes, -1, -1))
    wide = [Step(*(x.expand(lanes, *x.shape[1:]) for x in one)) for one in (before, after)]
    tau = torch.linspace(-1, 2, 6, dtype=torch.float64).expand(lanes, 6)
    law = Normal(A * before.x[0, None, :, 0], math.sqrt(Q))
    logs = before.log_weights[0] + law.log_prob(after.x[0, :, None, 0])
    statistic = Statistic(series, PRODUCT, count)
    statistic.value = tau
    return series, *wide, statistic, torch.softmax(logs, -1)


@pytest.mark.parametrize("name", ["exact", "rejection", "one trial"])
def test_drawn_ancestors_average_to_the_exact_update(name):
    """Over 10⁵ draws, each particle's new statistic is that of FFBSm within 4.5 s.e."""
    series, before, after, statistic, beta = moves(100_000)
    statistic.move(1, before, after, None)
    want, statistic.value = statistic.value[0], torch.linspace(-1, 2, 6, dtype=torch.float64)[None]
    torch.manual_seed(0)
    drawn = WAYS[name](series, 1, before, after, 100_000)
    assert drawn.shape == (100_000, 1, 6)
    statistic.move(1, before, after, drawn)
    value = torch.linspace(-1, 2, 6, dtype=torch.float64)[None]
    value = value + before.x[0, None, :, 0] * after.x[0, :, None, 0]
    torch.testing.assert_close((beta * value).sum(1), want, rtol=1e-12, atol=1e-12)
    sd = ((beta * value**2).sum(1) - want**2).sqrt()
    assert ((statistic.value[0] - want).abs() < 4.5 * sd / math.sqrt(1e5)).all()
    share = torch.stack([(drawn[:, 0] == j).double().mean(0) for j in range(6)], -1)
    assert ((share - beta).abs() < 4.5 * (beta * (1 - beta) / 1e5).sqrt() + 1e-12).all()


@pytest.mark.parametrize(("steps", "draws"), [(1, 3), (2, 2), (2, 1)])
def test_a_chain_from_an_ancestor_draws_from_the_backward_kernel(steps, draws):
    """The ancestors being such draws themselves; and the chain does move."""
    lanes = 60_000
    series, before, after, _, beta = moves(draws, lanes)
    torch.manual_seed(1)
    ancestors = ExactBackward()(series, 1, before, after, 1)[0]
    drawn = MetropolisBackward(steps)(series, 1, before, after._replace(ancestors=ancestors), draws)
    assert drawn.shape == (draws, lanes, 6)
    for one in drawn:
        share = torch.stack([(one == j).double().mean(0) for j in range(6)], -1)
        assert ((share - beta).abs() < 4.5 * (beta * (1 - beta) / lanes).sqrt() + 1e-12).all()
    assert (drawn[0] == ancestors).all() == (draws > 1)
    assert (drawn[-1] != ancestors).double().mean() > 0.2


def test_rejection_refuses_a_bound_that_is_none():
    with pytest.raises(ValueError, match="bound is -3 at t = 1, but a log-density"):
        paris(walk(), data(), PRODUCT, particles=20, backward=RejectionBackward(-3.0))


@pytest.mark.parametrize("name", [*WAYS, "all"])
def test_many_particles_give_what_kalman_gives(name):
    """With the bias of order 1/N taken away by two numbers of particles: within 4.5 s.e."""
    y, u = data(B=2, T=8), 0.3 * data(B=2, T=8, seed=5)
    y[1, 2:4] = torch.nan
    lengths = torch.tensor([8, 6])
    want = exact_product(y, u, lengths=lengths)
    runs = 60
    options = {"draws": None} if name == "all" else {"backward": WAYS[name]}
    y, u, lengths = y.repeat(runs, 1, 1), u.repeat(runs, 1, 1), lengths.repeat(runs)
    few, many = (
        paris(
            walk(u=True), y, PRODUCT, u, particles=N, lengths=lengths, seed=N, **options
        ).estimate.reshape(runs, 2)
        for N in (60, 120)
    )
    error = (4 * many.var(0) + few.var(0)).sqrt() / math.sqrt(runs)
    assert ((2 * many.mean(0) - few.mean(0) - want).abs() < 4.5 * error).all()


def test_a_longer_end_does_not_count():
    y = data(T=8).expand(2, -1, -1).clone()
    y[1, 5:] = 50.0
    lengths, short = torch.tensor([8, 5]), exact_product(y[1:, :5])
    found = paris(
        walk(), y.repeat(200, 1, 1), PRODUCT, lengths=lengths.repeat(200), particles=100
    ).estimate[1::2]
    assert (found.mean() - short).abs() < 4 * found.std() / math.sqrt(200) + 0.05


def test_two_draws_are_stable_in_time_and_one_is_not():
    """The variance of 2 draws grows as time from 40 to 240 steps, that of 1 draws away from it."""
    y, found = data(T=241).expand(80, -1, -1), {}
    total = Additive(lambda x, after, s: x[..., 0])
    for draws in (1, 2):
        sums = paris(
            walk(), y, total, particles=150, draws=draws, backward=MetropolisBackward(), seed=4
        ).estimates
        found[draws] = sums.var(0)
    assert found[2][240] / found[2][40] < 10
    assert found[1][240] / found[2][240] > 2 * found[1][5] / found[2][5]
    assert found[1][240] > 4 * found[2][240]


def test_a_state_with_two_parts():
    F = torch.tensor([[0.9, 0.2], [-0.1, 0.7]], dtype=torch.float64)
    cov = torch.tensor([[0.5, 0.2], [0.2, 0.4]], dtype=torch.float64)
    zero, eye = torch.zeros(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    model = StateSpaceModel(
        lambda: MultivariateNormal(zero, eye),
        lambda x, t: MultivariateNormal(x @ F.T, cov),
        lambda x, t: Independent(Normal(x[..., :1], 0.6), 1),
    )
    linear = LinearGaussian(F, [[1.0, 0.0]], cov, [[0.36]], P0=eye)
    y = data(T=6)
    found = inference.smooth(inference.filter(linear, y))
    outer = found.mean[:, 1:].unsqueeze(-1) * found.mean[:, :-1].unsqueeze(-2)
    want = (outer + found.cross[:, 1:]).sum(1)[0].flatten()
    products = Additive(lambda x, after, s: (after.unsqueeze(-1) * x.unsqueeze(-2)).flatten(-2))
    y = y.expand(30, -1, -1)
    for way in (ExactBackward(), MetropolisBackward()):
        runs = paris(model, y, products, particles=250, backward=way, seed=0).estimate
        assert ((runs.mean(0) - want).abs() < 4 * runs.std(0) / math.sqrt(30) + 0.02).all()


def test_outputs_may_be_missing_one_by_one():
    """Of independent numbers each; of a joint law the step is missing as a whole."""
    y = torch.tensor([[[1.0, torch.nan]], [[0.5, 2.0]]], dtype=torch.float64)
    x = data(B=2, T=4).reshape(2, 4, 1)
    eye = torch.eye(2, dtype=torch.float64)
    apart = StateSpaceModel(
        walk().initial, walk().transition, lambda x, t: Normal(x.expand(-1, -1, 2), 1.0)
    )
    joint = StateSpaceModel(
        walk().initial,
        walk().transition,
        lambda x, t: MultivariateNormal(x.expand(-1, -1, 2), eye),
    )
    one = Normal(x[..., 0], 1.0).log_prob(y[:, :, 0])
    both = one + Normal(x[..., 0], 1.0).log_prob(y[:, :, 1].nan_to_num())
    found = Series.of(apart, y).observed(x, 0)
    torch.testing.assert_close(found, torch.stack([one[0], both[1]]))
    found = Series.of(joint, y).observed(x, 0)
    torch.testing.assert_close(found, torch.stack([torch.zeros(4).double(), both[1]]))


def test_a_move_without_noise_keeps_the_ancestors():
    """Densities that are infinite or 0 for all but the ancestor leave it, and no NaN."""
    still = StateSpaceModel(
        lambda: Normal(torch.zeros_like(P0), P0.sqrt()),
        lambda x, t: Normal(x, 1e-200),
        lambda x, t: Normal(x, 1.0),
    )
    total = Additive(lambda x, after, s: (after - x).abs().sum(-1))
    for draws, way in ((2, ExactBackward()), (None, None), (2, MetropolisBackward())):
        found = paris(still, data(), total, particles=10, draws=draws, backward=way).estimates
        assert found.isfinite().all()
        assert found.abs().max() < 1e-12


def test_a_guide_moves_the_particles():
    """Fewer than of the bootstrap filter are needed, and missing steps have none."""

    def best(x, y, t):
        mean, var = (torch.zeros_like(y), P0) if x is None else (A * x, torch.full_like(P0, Q))
        gain = var / (var + R)
        mean = (mean + gain * (y - mean)).expand(-1, 20, -1)
        return Normal(mean, ((1 - gain) * var).sqrt().expand_as(mean))

    y = 2.5 * data(T=8)
    y[0, 3] = torch.nan
    wide = y.expand(300, -1, -1)
    found = paris(walk(), wide, PRODUCT, particles=20, method=Guided(best)).estimate
    plain = paris(walk(), wide, PRODUCT, particles=20).estimate
    want = exact_product(y)
    assert (found.mean() - want).abs() < (plain.mean() - want).abs() / 2
    assert found.std() < plain.std()


def test_the_seed_decides_and_the_caller_keeps_theirs():
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    first, again, other = (
        paris(walk(), data(), PRODUCT, particles=10, seed=s).estimates for s in (1, 1, 2)
    )
    assert torch.equal(torch.rand(3), want)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.dtype == torch.float64


def test_sums_along_paths():
    y = data(B=3, T=5)
    both = Additive(lambda x, after, s: torch.cat([x * after, s + 0 * x], -1))
    want = torch.stack([(y[:, 1:] * y[:, :-1]).sum((1, 2)), torch.full((3,), 6.0)], -1)
    torch.testing.assert_close(both.of(y), want.double())
    assert Additive(both.pair, lambda x: x).of(y[:, :1]).tolist() == y[:, 0].tolist()
    assert sample_states(inference.filter(kalman(), y), 2).shape == (2, 3, 5, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"particles": 0}, "particles is 0; at least 1 is needed"),
        ({"draws": 0}, "draws is 0; it must be at least 1, or None"),
        ({"method": Auxiliary(lambda x, y, t: y)}, "method is Auxiliary"),
        ({"u": torch.ones(1, 3, 1)}, r"u has shape \(1, 3, 1\); y of shape \(1, 8, 1\)"),
        ({"y": torch.ones(8, 1)}, r"y has shape \(8, 1\); it must be \(B, T, p\)"),
    ],
)
def test_what_does_not_fit_is_named(change, message):
    given = {"y": data(), "additive": PRODUCT, **change}
    with pytest.raises(ValueError, match=message):
        paris(walk(), **given)
