"""Particle Gibbs leaves the posterior alone: by enumeration, and beside Kalman."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.distributions import Categorical, Normal

from statewise import inference
from statewise.inference import (
    Additive,
    AncestorSampling,
    AncestorTracing,
    Auxiliary,
    BackwardSampling,
    ExactBackward,
    Guided,
    LinearGaussian,
    MetropolisBackward,
    ParisianGibbs,
    RejectionBackward,
    StateSpaceModel,
    chance,
    conditional_particles,
    parisian_gibbs,
    particle_gibbs,
    sample_states,
)

A, Q, R = 0.9, 0.5, 0.4
P0 = torch.tensor([1.2], dtype=torch.float64)
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


def data(B=1, T=6, seed=0):
    """Drawn from the model."""
    random = torch.Generator().manual_seed(seed)
    noise = torch.randn(T, 2, B, 1, generator=random, dtype=torch.float64)
    x, y = P0.sqrt() * noise[0, 0], []
    for t in range(T):
        x = A * x + math.sqrt(Q) * noise[t, 0] if t else x
        y.append(x + math.sqrt(R) * noise[t, 1])
    return torch.stack(y, 1)


def posterior(y, chains, seed=0, u=None):
    """Exact paths (chains, T, n)."""
    found = inference.filter(kalman(u is not None), y, u)
    return sample_states(found, chains, seed=seed)[:, 0]


class Branches:
    """Every outcome of every random number at once: lane b takes the branches its digits say."""

    def __init__(self, lanes):
        self.left = torch.arange(lanes)
        self.probability = torch.ones(lanes, dtype=torch.float64)

    def _choose(self, share):
        """An index by shares (…, options) that sum to 1; the lanes are one of the other axes."""
        options = share.shape[-1]
        digit = self.left % options
        self.left = self.left // options
        self.probability = self.probability * share.gather(-1, digit.unsqueeze(-1)).squeeze(-1)
        return digit

    def pick(self, weights, count):
        share = weights / weights.sum(-1, keepdim=True)
        if share.dim() == 2:
            return torch.stack([self._choose(share) for _ in range(count)], -1)
        # (K, B, N): what each of K particles draws.
        drawn = [[self._choose(one) for _ in range(count)] for one in share]
        return torch.stack([torch.stack(one, -1) for one in drawn])

    def draw(self, law, shape=()):
        share = law.probs if not shape else law.probs.expand(*shape, *law.probs.shape)
        slots = share.shape[1]
        found = torch.stack([self._choose(share[:, i, 0]) for i in range(slots)], -1)
        return found.unsqueeze(-1)

    def accept(self, logs):
        yes = logs.exp().clamp_max(1.0).nan_to_num(0.0)
        share = torch.stack([1 - yes, yes], -1)
        return torch.stack([self._choose(share[:, i]) == 1 for i in range(yes.shape[1])], -1)


START = torch.tensor([0.3, 0.7], dtype=torch.float64)
MOVE = torch.tensor([[0.8, 0.2], [0.35, 0.65]], dtype=torch.float64)
SEE = torch.tensor([[0.9, 0.1], [0.25, 0.75]], dtype=torch.float64)
SEEN = torch.tensor([[[0], [1], [0]]])
TINY = StateSpaceModel(
    lambda: Categorical(START.unsqueeze(0)),
    lambda x, t: Categorical(MOVE[x.long()]),
    lambda x, t: Categorical(SEE[x.long()]),
)
PATHS = torch.cartesian_prod(*[torch.arange(2)] * 3)


def tiny_posterior():
    p = START[PATHS[:, 0]] * SEE[PATHS[:, 0], 0]
    for t in (1, 2):
        p = p * MOVE[PATHS[:, t - 1], PATHS[:, t]] * SEE[PATHS[:, t], SEEN[0, t, 0]]
    return p / p.sum()


def sum_of(x, after, s):
    return ((1 + x + 2 * after + x * after * (s + 1)).double()).sum(-1)


SWEEPS = {
    "ancestor tracing": (AncestorTracing(), 9),
    "ancestor sampling": (AncestorSampling(), 11),
    "backward sampling": (BackwardSampling(), 11),
    "Parisian, one draw": ((1, ExactBackward()), 13),
    "Parisian, two draws": ((2, ExactBackward()), 17),
    "Parisian, all": ((None, ExactBackward()), 13),
    "Parisian, Metropolis": ((1, MetropolisBackward()), 17),
    "Parisian, two of Metropolis": ((2, MetropolisBackward()), 17),
}


@pytest.mark.parametrize("name", list(SWEEPS))
def test_the_transition_matrix_keeps_the_posterior(monkeypatch, name):
    """All branches of a kernel with 2 particles on 8 paths: π K = π, and π μ = E[h], to 1e-12."""
    kernel, digits = SWEEPS[name]
    lanes = 2**digits
    branches = Branches(8 * lanes)
    branches.left = branches.left % lanes
    for function in ("pick", "draw", "accept"):
        monkeypatch.setattr(chance, function, getattr(branches, function))
    start = PATHS.double().repeat_interleave(lanes, 0).unsqueeze(-1)
    y = SEEN.expand(8 * lanes, -1, -1)
    if isinstance(kernel, tuple):
        draws, backward = kernel
        sweep = ParisianGibbs(
            TINY, y, Additive(sum_of), particles=2, draws=draws, backward=backward
        )
        mean, path = sweep(start)
    else:
        mean = None
        path = particle_gibbs(TINY, y, start, particles=2, kernel=kernel).reference
    assert not branches.left.any()
    p = branches.probability.reshape(8, lanes)
    torch.testing.assert_close(p.sum(1), torch.ones(8).double(), rtol=1e-12, atol=0)
    index = (path[..., 0].long() * torch.tensor([4, 2, 1])).sum(-1).reshape(8, lanes)
    K = torch.zeros(8, 8, dtype=torch.float64).scatter_add(1, index, p)
    pi = tiny_posterior()
    torch.testing.assert_close(pi @ K, pi, rtol=0, atol=1e-12)
    assert (K - torch.eye(8)).abs().max() > 0.1
    if mean is not None:
        h = Additive(sum_of).of(PATHS.unsqueeze(-1))
        found = (pi @ (p * mean.reshape(8, lanes))).sum()
        torch.testing.assert_close(found, pi @ h, rtol=0, atol=1e-12)
        # From elsewhere than the posterior it is biased, so that the identity says something.
        assert ((p * mean.reshape(8, lanes)).sum(1) - pi @ h).abs().max() > 0.05


def best(x, y, t):
    """The law of x_t given x_{t−1} and y_t, made a little too wide."""
    mean, var = (torch.zeros_like(y), P0) if x is None else (A * x, torch.full_like(P0, Q))
    gain = var / (var + R)
    return Normal(mean + gain * (y - mean), 1.2 * ((1 - gain) * var).sqrt())


def moments(paths):
    """Means, squares and products of neighbours of paths (K, T, 1)."""
    x = paths[..., 0]
    return torch.cat([x, x**2, x[:, 1:] * x[:, :-1], (x[:, :1] * x[:, -1:])], 1)


KERNELS = {
    "ancestor tracing": AncestorTracing(),
    "ancestor sampling": AncestorSampling(),
    "backward sampling": BackwardSampling(),
    "Parisian": ExactBackward(),
    "Parisian, Metropolis": MetropolisBackward(2),
    "Parisian, rejection": RejectionBackward(-0.5 * math.log(2 * math.pi * Q), trials=4),
}


@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("particles", [2, 3])
@pytest.mark.parametrize("name", list(KERNELS))
def test_exact_paths_stay_exact(name, particles, guided):
    """Moments after a sweep are those before within 4.5 s.e., and sums are unbiased."""
    chains, kernel = 12_000, KERNELS[name]
    y, u = data(seed=1), 0.4 * data(seed=2)
    y[0, 3] = torch.nan
    start = posterior(y, chains, u=u)
    fresh = moments(posterior(y, chains, seed=9, u=u))
    method = None
    if guided:
        method = Guided(
            lambda x, y, t, u: best(x if t == 0 else x + u / A, y, t).expand(
                torch.Size((chains, particles, 1))
            )
        )
    y, u = y.expand(chains, -1, -1), u.expand(chains, -1, -1)
    options = {"particles": particles, "method": method, "seed": 3}
    if name.startswith("Parisian"):
        found = parisian_gibbs(
            walk(u=True), y, PRODUCT, start, u, sweeps=1, backward=kernel, **options
        )
        after = found.reference
        exact = inference.smooth(inference.filter(kalman(u=True), y[:1], u[:1]))
        want = (exact.mean[:, 1:] * exact.mean[:, :-1]).sum() + exact.cross[:, 1:].sum()
        assert (found.mean - want).abs() < 4.5 * found.standard_error
    else:
        result = particle_gibbs(walk(u=True), y, start, u, kernel=kernel, **options)
        after = result.reference
        rate = result.update_rate.mean(0)
        torch.testing.assert_close(rate, (after != start).double().mean((0, 2)))
    now = moments(after)
    error = (now.var(0) + fresh.var(0)).sqrt() / math.sqrt(chains)
    assert ((now.mean(0) - fresh.mean(0)).abs() < 4.5 * error).all()
    assert 0.03 < (after != start).double().mean() < 0.95


def test_a_reference_is_one_of_the_particles():
    y, start = data(B=3, T=7), data(B=3, T=7, seed=8)
    for sampled in (False, True):
        found = conditional_particles(
            walk(), y, start, particles=5, ancestor_sampling=sampled, seed=2
        )
        assert torch.equal(found.particles[:, :, -1], start)
        own = (found.ancestors[:, 1:, -1] == 4).all()
        assert own != sampled
        assert found.log_weights.exp().sum(-1).allclose(torch.ones(3, 7).double())
    with pytest.raises(ValueError, match=r"reference has shape \(3, 6, 1\); y of shape"):
        conditional_particles(walk(), y, start[:, 1:])
    with pytest.raises(ValueError, match="particles is 1; at least 2 are needed, the reference"):
        conditional_particles(walk(), y, start, particles=1)


def test_ancestor_sampling_renews_early_states_and_plain_particle_gibbs_does_not():
    """T = 500, N = 20: the share of chains whose first state is new is near 1 − 1/N, or 0."""
    y, chains = data(T=500, seed=1), 60
    start = posterior(y, chains)
    wide = y.expand(chains, -1, -1)
    for kernel in (AncestorTracing(), AncestorSampling(), BackwardSampling()):
        found = particle_gibbs(walk(), wide, start, particles=20, kernel=kernel, seed=0)
        rate = found.update_rate.mean(0)
        if isinstance(kernel, AncestorTracing):
            assert rate[:100].max() < 0.02
        else:
            assert rate[0] > 0.85
            assert rate[:100].mean() > 0.85


def test_sums_of_a_sweep_are_those_of_its_pairs():
    """Passed forwards as statistics or backwards as weights, to 1e-12; series may end early."""
    y, u, lengths = data(B=3, T=7), data(B=3, T=7, seed=4), torch.tensor([7, 3, 5])
    both = Additive(
        lambda x, after, s: torch.cat([x * after, after - s], -1),
        lambda x: torch.cat([x**2, x], -1),
    )
    for first in (both.first, None):
        h = Additive(both.pair, first)
        sweep = ParisianGibbs(walk(u=True), y, h, u, particles=9, draws=3, lengths=lengths)
        start = data(B=3, T=7, seed=5)
        torch.manual_seed(0)
        mean, path = sweep(start)
        torch.manual_seed(0)
        pairs, again = sweep.pairs(start)
        torch.testing.assert_close(pairs.mean(h), mean, rtol=1e-12, atol=1e-12)
        assert torch.equal(path, again)
        joined = inference.SmoothedPairs.join([pairs, sweep.pairs(path)[0]])
        torch.manual_seed(0)
        _, path = sweep.pairs(start)
        want = (mean + sweep.pairs(path)[0].mean(h)) / 2
        torch.testing.assert_close(joined.mean(h), want, rtol=1e-12, atol=1e-12)
    paths = torch.stack([start, path])
    along = inference.SmoothedPairs.along(ParisianGibbs(walk(u=True), y, both, u).series, paths)
    want = (both.of(start) + both.of(path)) / 2
    torch.testing.assert_close(along.mean(both), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("draws", [1, 2, None])
def test_ones_sum_to_the_number_of_steps(draws):
    for length in (1, 6):
        y = data(B=2, T=length)
        ones = Additive(lambda x, after, s: torch.ones_like(x[..., 0]))
        found = parisian_gibbs(walk(), y, ones, particles=5, draws=draws, sweeps=3, burn=0)
        torch.testing.assert_close(found.estimates, torch.full((3, 2), length - 1.0).double())


def test_the_bias_of_paris_falls_with_the_sweeps():
    """Started anywhere: each sweep is nearer to Kalman's value than the one before."""
    y = data(T=12)
    exact = inference.smooth(inference.filter(kalman(), y))
    want = (exact.mean[:, 1:] * exact.mean[:, :-1]).sum() + exact.cross[:, 1:].sum()
    wide = y.expand(1000, -1, -1)
    first = inference.paris(walk(), wide, PRODUCT, particles=10, seed=1).estimate
    found = parisian_gibbs(walk(), wide, PRODUCT, particles=10, sweeps=6, burn=4, seed=1)
    biased = (first.mean() - want).abs()
    bias = (found.estimates.mean(1) - want).abs()
    assert bias[0] < 0.7 * biased
    assert (bias[:3] > bias[1:4]).all()
    assert (found.mean - want).abs() < biased / 8
    assert found.estimate.shape == (1000,)
    assert found.estimates.shape == (6, 1000)
    alone = parisian_gibbs(walk(), y, PRODUCT, particles=15, sweeps=1)
    assert alone.standard_error.isnan()
    assert torch.equal(alone.mean, alone.estimate[0])


def test_chains_with_models_of_their_own_run_side_by_side():
    """Parameters (B, 1, 1), the first law too, with any number of particles."""
    a = torch.tensor([0.5, 0.95], dtype=torch.float64).reshape(2, 1, 1)
    model = StateSpaceModel(
        lambda: Normal(torch.zeros_like(a), (Q / (1 - a**2)).sqrt()),
        lambda x, t: Normal(a * x, math.sqrt(Q)),
        lambda x, t: Normal(x, math.sqrt(R)),
    )
    y = data(T=10).expand(2, -1, -1)
    found = particle_gibbs(model, y, sweeps=400, particles=8, seed=1)
    for row in range(2):
        slope = a[row].item()
        linear = LinearGaussian([[slope]], [[1.0]], [[Q]], [[R]]).stationary()
        exact = inference.smooth(inference.filter(linear, y[:1]))
        x = found.paths[100:, row]
        batches = x.reshape(20, 15, 10, 1).mean(1)
        error = batches.std(0) / math.sqrt(20)
        assert ((x.mean(0) - exact.mean[0]).abs() < 5 * error).all()


@pytest.mark.parametrize(
    "way", [ExactBackward(), MetropolisBackward(), KERNELS["Parisian, rejection"]]
)
def test_no_step_waits_for_a_device(way):
    """A sweep runs on tensors without values, where asking for one is an error."""
    start = data(B=3)
    sweep = ParisianGibbs(walk(), start, PRODUCT, particles=5, backward=way)
    with FakeTensorMode(allow_non_fake_inputs=True) as empty:
        known = ("y", "missing", "valid")
        blank = {name: empty.from_tensor(getattr(sweep.series, name)) for name in known}
        sweep.series = dataclasses.replace(sweep.series, **blank)
        if isinstance(way, RejectionBackward):
            with pytest.raises(DataDependentOutputException):
                sweep(empty.from_tensor(start))
            return
        mean, after = sweep(empty.from_tensor(start))
        assert after.shape == (3, 6, 1)
        assert mean.shape == (3,)


def test_seeds_types_and_what_does_not_fit():
    y, start = data(B=2, T=5), data(B=2, T=5, seed=3)
    for function in (
        lambda s: particle_gibbs(walk(), y, start, sweeps=2, particles=4, seed=s).paths,
        lambda s: parisian_gibbs(walk(), y, PRODUCT, start, particles=4, seed=s).estimates,
        lambda s: conditional_particles(walk(), y, start, particles=4, seed=s).particles,
    ):
        torch.manual_seed(5)
        want = torch.rand(3)
        torch.manual_seed(5)
        first, again, other = (function(s) for s in (1, 1, 2))
        assert torch.equal(torch.rand(3), want)
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
    P = torch.ones(1)
    small = StateSpaceModel(
        lambda: Normal(torch.zeros(1), P), lambda x, t: Normal(x, 1.0), lambda x, t: Normal(x, 1.0)
    )
    found = parisian_gibbs(small, y.float(), PRODUCT, particles=4, sweeps=2)
    assert found.estimates.dtype == torch.float64
    assert found.reference.dtype == torch.float32
    with pytest.raises(ValueError, match="sweeps is 0; at least 1"):
        particle_gibbs(walk(), y, sweeps=0)
    with pytest.raises(ValueError, match="burn is 4 and sweeps 4; at least one"):
        parisian_gibbs(walk(), y, PRODUCT, sweeps=4, burn=4)
    with pytest.raises(ValueError, match="method is Auxiliary"):
        particle_gibbs(walk(), y, method=Auxiliary(lambda x, y, t: y))
    with pytest.raises(ValueError, match="additive is None"):
        ParisianGibbs(walk(), y, None)(start)
    flat = StateSpaceModel(walk().initial, lambda x, t: Normal(x[..., 0], 1.0), walk().observation)
    with pytest.raises(ValueError, match=r"the law of x_t has shape \(2, 4\); states are"):
        particle_gibbs(flat, y, particles=4)
    wide = StateSpaceModel(lambda: Normal(torch.zeros(2, 7, 1), 1.0), flat.transition, lambda: 0)
    with pytest.raises(ValueError, match=r"the first law has shape \(2, 7, 1\)"):
        particle_gibbs(wide, y, particles=4)
