"""Particle filters and smoothers with tensors on a GPU: where results are, and what they obey."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import MultivariateNormal, Normal

from inference.device_cases import (
    DEVICE,
    DRAWS,
    KERNELS,
    P0,
    PRODUCT,
    A,
    Q,
    R,
    data,
    kalman,
    name_of,
    near,
    ragged,
    there,
    twice,
    walk,
)
from statewise import inference
from statewise.inference import (
    Auxiliary,
    Bootstrap,
    GenealogyBackward,
    Guided,
    LinearGaussian,
    Multinomial,
    ParisianGibbs,
    Residual,
    StateSpaceModel,
    Stratified,
    SwitchingLinear,
    Systematic,
    conditional_particles,
    evidence,
    paris,
    parisian_gibbs,
    particle_filter,
    particle_gibbs,
    rao_blackwell_filter,
    sample_paths,
    smooth_particles,
    smooth_particles_lagged,
)

pytestmark = pytest.mark.gpu

WAYS = (Multinomial(), Stratified(), Systematic(), Residual())


def guide(x, y, t, *u):
    """The law of x_t given y_t too."""
    zero = torch.zeros(1, 1, 1, dtype=torch.float64, device=DEVICE)
    move = 0.0 if not u or x is None else u[0]
    ahead = zero if x is None else A * x + move
    variance = P0 if x is None else Q
    gain = variance / (variance + R)
    shape = torch.broadcast_shapes(ahead.shape, y.shape) if x is not None else (len(y), 400, 1)
    return Normal((ahead + gain * (y - ahead)).expand(shape), math.sqrt(variance * (1 - gain)))


def ahead(x, y, t, *u):
    move = u[0] if u else 0.0
    return Normal(A * x + move, math.sqrt(Q + R)).log_prob(y).squeeze(-1)


METHODS = (Bootstrap(), Guided(guide), Auxiliary(ahead), Auxiliary(ahead, guide))


@pytest.mark.parametrize("way", WAYS, ids=name_of)
@pytest.mark.parametrize("method", METHODS, ids=("bootstrap", "guided", "auxiliary", "both"))
def test_filters(method, way):
    y, u, ends = ragged()
    options = {"particles": 400, "method": method, "resampling": way, "lengths": ends, "seed": 3}
    found = particle_filter(walk(), y, u, **options)
    twice(lambda: (particle_filter(walk(), y, u, **options).particles, found.ess))
    W = found.log_weights.exp().sum(-1)
    torch.testing.assert_close(W, torch.ones_like(W))
    there(found.mean, found.cov, found.log_likelihoods, found.ancestors)
    exact = inference.filter(kalman(driven=True), y, u, lengths=ends)
    near(found.log_likelihood, exact.log_likelihood, evidence(found).standard_error + 0.1)
    near(found.mean, exact.mean, 0.15)
    assert not found.mean[2, 5:].any()


def test_summaries_are_those_of_all_particles():
    y, u, ends = ragged()
    options = {"particles": 300, "lengths": ends, "seed": 3}
    whole = particle_filter(walk(), y, u, **options)
    for keep in ("mean", "cov"):
        found = particle_filter(walk(), y, u, keep=keep, **options)
        there(found.mean, found.particles, found.log_weights)
        torch.testing.assert_close(found.mean, whole.mean)
        torch.testing.assert_close(found.log_likelihood, whole.log_likelihood)
    torch.testing.assert_close(found.cov, whole.cov)


def test_vectors():
    eye = torch.eye(2, dtype=torch.float64, device=DEVICE)
    model = StateSpaceModel(
        lambda: MultivariateNormal(torch.zeros_like(eye[0]), eye),
        lambda x, t: MultivariateNormal(0.9 * x, 0.5 * eye),
        lambda x, t: MultivariateNormal(x, 0.4 * eye),
    )
    y = torch.cat([data(2), data(2, seed=5)], -1)
    y[0, 3, 0] = torch.nan
    (found,) = twice(lambda: (particle_filter(model, y, particles=2000).log_likelihood,))
    both = LinearGaussian(0.9 * eye, eye, 0.5 * eye, 0.4 * eye, P0=eye)
    y[0, 3] = torch.nan
    near(found, inference.log_likelihood(both, y), 0.1)


@pytest.mark.parametrize("way", WAYS, ids=name_of)
def test_conditionally_linear_models(way):
    """One regime is the Kalman filter; regimes given as numbers follow the data."""
    y, _, ends = ragged()
    one = SwitchingLinear([1.0], [[1.0]], [[A]], [[1.0]], [[Q]], [[R]], P0=[[P0]])
    found = rao_blackwell_filter(one, y, particles=5, lengths=ends, resampling=way)
    exact = inference.filter(kalman(), y, lengths=ends)
    there(found.mean, found.cov, found.log_likelihoods)
    for a, b in zip(
        (found.mean, found.cov, found.log_likelihoods),
        (exact.mean, exact.cov, exact.log_likelihoods),
        strict=True,
    ):
        torch.testing.assert_close(a.cpu(), b.cpu(), rtol=1e-8, atol=1e-9)
    F = torch.tensor([[[0.9]], [[0.2]]], dtype=torch.float64, device=DEVICE)
    two = SwitchingLinear(
        [0.6, 0.4], [[0.9, 0.1], [0.3, 0.7]], F, [[1.0]], 0.5 * F, [[R]], c=[[0.1], [0.2]]
    )
    share, mean = twice(
        lambda: (
            rao_blackwell_filter(two, y, particles=300, resampling=way).probabilities,
            rao_blackwell_filter(two, y, particles=300, resampling=way).mean,
        )
    )
    torch.testing.assert_close(share.sum(-1), torch.ones_like(share[..., 0]))
    there(mean)


def test_smoothing_by_weights():
    y, u, ends = ragged()
    runs = particle_filter(walk(), y, u, particles=600, lengths=ends)
    exact = inference.smooth(inference.filter(kalman(driven=True), y, u, lengths=ends))
    for logs in (smooth_particles(runs), smooth_particles_lagged(runs, 3)):
        there(logs.exp())
        W = logs.exp()
        torch.testing.assert_close(W.sum(-1), torch.ones_like(W[..., 0]))
    mean = (smooth_particles(runs).exp().unsqueeze(-1) * runs.particles).sum(2)
    near(mean[0], exact.mean[0], 0.05)


@pytest.mark.parametrize("backward", [*DRAWS, GenealogyBackward(), None], ids=name_of)
def test_smoothing_by_paths(backward):
    y, u, ends = ragged()
    runs = particle_filter(walk(), y, u, particles=600, lengths=ends)
    (paths,) = twice(lambda: (sample_paths(runs, 300, backward=backward, seed=1),))
    exact = inference.smooth(inference.filter(kalman(driven=True), y, u, lengths=ends))
    near(paths[:, 0].mean(0), exact.mean[0], 0.08)
    assert not paths[:, 2, 5:].any()


@pytest.mark.parametrize("draws", [2, None])
@pytest.mark.parametrize("backward", DRAWS, ids=name_of)
def test_smoothed_sums_online(backward, draws):
    y, u, ends = ragged()
    options = {"particles": 150, "draws": draws, "backward": backward, "lengths": ends}
    for method in (None, Guided(lambda *args: guide(*args) if args[0] is not None else None)):
        found = paris(walk(), y, PRODUCT, u, method=method, **options)
        again = paris(walk(), y, PRODUCT, u, method=method, **options)
        twice(lambda a=found, b=again: (torch.stack([a.estimates, b.estimates]),))
        torch.testing.assert_close(found.estimates, again.estimates, rtol=1e-11, atol=1e-11)
    exact = inference.smooth(inference.filter(kalman(driven=True), y, u, lengths=ends))
    m, C = exact.mean[..., 0], exact.cross[..., 0, 0]
    total = (m[:, 1:] * m[:, :-1] + C[:, 1:]).sum(1).to(DEVICE)
    assert ((found.estimates[:, -1] - total).abs() < 0.6 * (1 + total.abs())).all()


@pytest.mark.parametrize("ancestors", [False, True])
def test_conditional_particles(ancestors):
    y, u, ends = ragged()
    path = torch.zeros(3, 8, 1, dtype=torch.float64)
    options = {"particles": 20, "ancestor_sampling": ancestors, "lengths": ends}
    found = conditional_particles(walk(), y, path, u, **options)
    twice(lambda: (conditional_particles(walk(), y, path, u, **options).particles,))
    assert not found.particles[:, :, -1].any()
    W = found.log_weights.exp().sum(-1)
    torch.testing.assert_close(W, torch.ones_like(W))


@pytest.mark.parametrize("kernel", KERNELS, ids=name_of)
def test_particle_gibbs(kernel):
    y = data().expand(200, -1, -1)
    options = {"sweeps": 4, "particles": 10, "kernel": kernel, "seed": 2}
    found = particle_gibbs(walk(), y, **options)
    twice(lambda: (particle_gibbs(walk(), y, **options).paths, found.update_rate))
    exact = inference.smooth(inference.filter(kalman(), y[:1]))
    error = exact.cov[0, :, :, 0].sqrt().to(DEVICE) / math.sqrt(200)
    assert ((found.reference.mean(0) - exact.mean[0].to(DEVICE)).abs() < 6 * error + 0.05).all()
    y, u, ends = ragged()
    there(particle_gibbs(walk(), y, found.reference[:3, :1].expand(3, 8, 1), u, lengths=ends).paths)


@pytest.mark.parametrize("backward", DRAWS, ids=name_of)
def test_parisian_gibbs(backward):
    y = data().expand(200, -1, -1)
    options = {"sweeps": 3, "particles": 10, "backward": backward}
    estimates, mean, error, path = twice(
        lambda: (
            (found := parisian_gibbs(walk(), y, PRODUCT, **options)).estimates,
            found.mean,
            found.standard_error,
            found.reference,
        )
    )
    exact = inference.smooth(inference.filter(kalman(), y[:1]))
    m, C = exact.mean[0, :, 0], exact.cross[0, :, 0, 0]
    assert estimates.shape == (3, 200)
    near(mean, (m[1:] * m[:-1] + C[1:]).sum(), error + 0.05)
    there(parisian_gibbs(walk(), y, PRODUCT, path, **options).estimate)
    pairs, _ = ParisianGibbs(walk(), y, None, particles=6).pairs(path)
    there(pairs.mean(PRODUCT))
