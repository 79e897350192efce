"""Tests of innovations, predictive laws, chains and evidences, beside closed forms."""

from __future__ import annotations

import math
import sys
import warnings

import numpy as np
import pytest
import torch
from scipy import stats
from statsmodels.stats.diagnostic import acorr_ljungbox
from torch.distributions import Normal, Poisson

from statewise import inference
from statewise.inference import (
    LinearGaussian,
    Multinomial,
    StateSpaceModel,
    calibration,
    ess_bulk,
    ess_mean,
    ess_tail,
    evidence,
    innovation_tests,
    particle_filter,
    pooled_evidence,
    predictive_pit,
    rhat,
    root_indices,
    state_pit,
    summarise_chains,
    to_arviz,
)

A, Q, R, P0 = 0.9, 0.5, 0.4, 1.2


def linear(**changes):
    numbers = {"A": A, "Q": Q, "R": R} | changes
    H = [[1.0], [-0.5]]
    return LinearGaussian(
        [[numbers["A"]]], H, [[numbers["Q"]]], numbers["R"] * np.eye(2), P0=[[P0]]
    )


def simulate(B, T, seed=0):
    """States (B, T, 1) and two outputs of them."""
    rng = np.random.default_rng(seed)
    x, states, outputs = math.sqrt(P0) * rng.normal(size=(B, 1)), [], []
    for _ in range(T):
        states.append(x)
        outputs.append(x * [1.0, -0.5] + math.sqrt(R) * rng.normal(size=(B, 2)))
        x = A * x + math.sqrt(Q) * rng.normal(size=(B, 1))
    return torch.as_tensor(np.stack(states, 1)), torch.as_tensor(np.stack(outputs, 1))


def scalar():
    one = torch.ones(1, dtype=torch.float64)
    return StateSpaceModel(
        lambda: Normal(0 * one, math.sqrt(P0)),
        lambda x, t: Normal(A * x, math.sqrt(Q)),
        lambda x, t: Normal(x, math.sqrt(R)),
    )


def test_innovations_of_the_right_model_pass():
    _, y = simulate(4, 400)
    y[1, 50:70] = y[2, 10, 0] = torch.nan
    found = inference.filter(linear(), y)
    tests = innovation_tests(found)
    assert tests.passed
    assert "look like" in tests.sentence
    e, S = found.innovations[0], found.innovation_cov[0]
    direct = torch.einsum("ti,tij,tj->t", e, torch.linalg.inv(S), e)
    np.testing.assert_allclose(tests.nis[0], direct, rtol=1e-10)
    assert tests.observed.sum() == 4 * 400 * 2 - 2 * 20 - 1
    assert np.isnan(tests.nis[1, 50:70]).all()
    assert tests.observed[2, 10] == 1
    assert 0.985 < tests.nis_inside <= 1
    later = innovation_tests(found, skip=100)
    np.testing.assert_array_equal(later.nis, tests.nis[:, 100:])


def test_ljung_box_is_that_of_statsmodels():
    _, y = simulate(1, 300)
    tests = innovation_tests(inference.filter(linear(R=0.8), y), lags=12, fitted=2)
    for i in range(2):
        theirs = acorr_ljungbox(tests.values[0, :, i], lags=[12], model_df=2)
        assert tests.ljung_box[i] == pytest.approx(theirs["lb_stat"].iloc[0], rel=1e-9)
        assert tests.white_p[i] == pytest.approx(theirs["lb_pvalue"].iloc[0], rel=1e-7)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("small noise", "NIS does not fit"),
        ("large noise", "NIS does not fit"),
        ("dynamics", "correlated"),
        ("offset", "mean"),
        ("heavy tails", "normal"),
    ],
)
def test_a_wrong_model_is_seen(fault, words):
    _, y = simulate(3, 400, seed=1)
    model = linear()
    if fault == "small noise":
        model = linear(R=0.1, Q=0.1)
    elif fault == "large noise":
        model = linear(R=1.6, Q=2.0)
    elif fault == "dynamics":
        model = linear(A=0.0, Q=Q / (1 - A**2))
    elif fault == "offset":
        y = y + 0.3
    else:
        rng = np.random.default_rng(2)
        jump = rng.standard_t(2.5, size=y.shape) / math.sqrt(5)
        y = y + torch.as_tensor(jump) * math.sqrt(R)
        model = linear(R=2 * R)
    tests = innovation_tests(inference.filter(model, y))
    assert not tests.passed
    low, high = tests.nis_bounds
    assert {"small noise": tests.nis_mean > high, "large noise": tests.nis_mean < low}.get(
        fault, True
    )
    assert words in tests.sentence


def test_levels_are_kept_under_the_right_model():
    """Each p-value is uniform over 300 data sets, and so is the rate of rejection."""
    _, y = simulate(300, 100, seed=3)
    found = [innovation_tests(inference.filter(linear(), one[None]), lags=10) for one in y]
    for name in ("mean_p", "variance_p", "white_p", "normal_p"):
        p = np.array([getattr(one, name)[1] for one in found])
        assert stats.kstest(p, "uniform").pvalue > 1e-3, name
    assert stats.kstest([one.nis_p for one in found], "uniform").pvalue > 1e-3
    assert np.mean([not one.passed for one in found]) < 0.04
    assert abs(np.mean([one.nis_inside for one in found]) - 0.99) < 0.002


def test_predictive_pit_of_both_filters_agree():
    _, y = simulate(3, 12)
    y = y[..., :1].clone()
    y[1, 5] = torch.nan
    model = LinearGaussian([[A]], [[1.0]], [[Q]], [[R]], P0=[[P0]])
    lengths = torch.tensor([12, 12, 7])
    exact = inference.filter(model, y, lengths=lengths)
    gauss = predictive_pit(exact)
    white = torch.special.ndtr(exact.standardised_innovations)
    torch.testing.assert_close(gauss, white, equal_nan=True)
    runs = particle_filter(scalar(), y, particles=20_000, lengths=lengths, seed=1)
    found = predictive_pit(runs, y, seed=2)
    assert torch.equal(found.isnan(), gauss.isnan())
    assert found[1, 5].isnan()
    assert found[2, 7:].isnan().all()
    assert (found - gauss).abs().nan_to_num().max() < 0.02
    assert torch.equal(found[0], predictive_pit(runs, y, seed=2)[0])


def test_pit_of_counts_is_uniform():
    """Counts drawn from the model have uniform values, though their laws jump."""
    rng = np.random.default_rng(0)
    x, counts = rng.normal(size=(150, 1)), []
    for _ in range(12):
        counts.append(rng.poisson(np.exp(0.5 * x)))
        x = 0.8 * x + 0.6 * rng.normal(size=x.shape)
    y = torch.as_tensor(np.stack(counts, 1), dtype=torch.float64)
    one = torch.zeros(1, dtype=torch.float64)
    model = StateSpaceModel(
        lambda: Normal(one, 1.0),
        lambda x, t: Normal(0.8 * x, 0.6),
        lambda x, t: Poisson((0.5 * x).exp()),
    )
    good = calibration(predictive_pit(particle_filter(model, y, particles=500), y))
    assert good.ks_p > 1e-3
    assert (np.abs(good.covered - good.levels) < 4 * good.standard_errors).all()
    narrow = StateSpaceModel(
        model.initial, model.transition, lambda x, t: Poisson((0.5 * x + 1).exp())
    )
    assert calibration(predictive_pit(particle_filter(narrow, y, particles=500), y)).ks_p < 1e-6


def test_state_pit_covers_the_truth():
    x, y = simulate(50, 40, seed=4)
    found = inference.filter(linear(), y)
    for result in (found, inference.smooth(found)):
        values = state_pit(result, x)
        mine = torch.special.ndtr((x - result.mean) / result.cov[..., 0].sqrt())
        torch.testing.assert_close(values, mine)
        # Values of neighbours depend on each other, which doubles the errors at the most.
        cover = calibration(values)
        assert (np.abs(cover.covered - cover.levels) < 8 * cover.standard_errors).all()
    bold = inference.filter(linear(R=0.02, Q=0.02), y)
    assert calibration(state_pit(bold, x)).covered[2] < 0.75
    one = LinearGaussian([[A]], [[1.0]], [[Q]], [[R]], P0=[[P0]])
    runs = particle_filter(scalar(), y[:2, :5, :1], particles=20_000)
    exact = state_pit(inference.filter(one, y[:2, :5, :1]), x[:2, :5])
    assert (state_pit(runs, x[:2, :5]) - exact).abs().max() < 0.02


def test_calibration_of_known_values():
    grid = (np.arange(1000) + 0.5) / 1000
    found = calibration(grid, levels=(0.5, 0.9))
    np.testing.assert_allclose(found.covered, [0.5, 0.9], atol=1e-12)
    assert found.ks == pytest.approx(0.0005)
    assert "50.0 % for 50 %" in found.sentence
    with pytest.raises(ValueError, match="between 0 and 1"):
        calibration([0.5, 1.2])
    with pytest.raises(ValueError, match="levels are"):
        calibration(grid, levels=(90.0,))


def autoregression(phi, C, D, seed=0):
    rng = np.random.default_rng(seed)
    x = np.zeros((C, D))
    x[:, 0] = rng.normal(size=C) / math.sqrt(1 - phi**2)
    for t in range(1, D):
        x[:, t] = phi * x[:, t - 1] + rng.normal(size=C)
    return x[..., None]


@pytest.mark.parametrize("phi", [-0.5, 0.0, 0.5, 0.9])
def test_effective_sizes_of_autoregressions(phi):
    x = autoregression(phi, 4, 20_000)
    share = (1 - phi) / (1 + phi)
    assert ess_mean(x)[0] / 80_000 == pytest.approx(share, rel=0.1)
    assert ess_bulk(x)[0] / 80_000 == pytest.approx(share, rel=0.1)
    assert rhat(x)[0] == pytest.approx(1, abs=2e-3)
    sd = 1 / math.sqrt(1 - phi**2)
    found = summarise_chains(x)
    assert found.mcse[0] == pytest.approx(sd / math.sqrt(80_000 * share), rel=0.1)
    assert found.sd[0] == pytest.approx(sd, rel=0.05)
    assert found.converged


def test_chains_that_differ_are_seen():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 500, 3))
    x[0, :, 1] += 1.0  # one chain elsewhere
    x[0, :, 2] *= 4.0  # one chain wider, with the same median
    good, elsewhere, wider = rhat(x)
    assert good < 1.01 < elsewhere
    assert wider > 1.05
    trend = np.linspace(-2, 2, 500)[:, None] + rng.normal(size=(4, 500, 1))
    assert rhat(trend)[0] > 1.1  # only halves of the chains show it
    assert not summarise_chains(x).converged


def test_diagnostics_are_invariant():
    x = autoregression(0.6, 3, 301, seed=1)
    for measure in (rhat, ess_bulk, ess_tail, ess_mean):
        assert measure(x[[2, 0, 1]])[0] == pytest.approx(measure(x)[0], rel=1e-12)
        assert measure(3 * x - 5)[0] == pytest.approx(measure(x)[0], rel=1e-9)
        both = measure(np.stack([np.concatenate([x, 2 * x], -1)] * 2))
        np.testing.assert_allclose(both, np.full((2, 2), measure(x)[0]), rtol=1e-9)
    # Ranks stay under a monotone map, whatever it does to moments.
    assert ess_bulk(np.exp(4 * x))[0] == pytest.approx(ess_bulk(x)[0], rel=1e-9)
    assert ess_mean(np.exp(4 * x))[0] != pytest.approx(ess_mean(x)[0], rel=1e-2)
    still = np.ones((2, 10, 1))
    assert rhat(still)[0] == 1
    assert ess_bulk(still)[0] == 20
    assert ess_bulk(torch.as_tensor(x)) == ess_bulk(x)


def test_diagnostics_are_those_of_arviz():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arviz = pytest.importorskip("arviz")
        for phi, C, D in ((0.0, 4, 500), (0.9, 4, 500), (-0.5, 2, 100), (0.99, 3, 37)):
            x = autoregression(phi, C, D)
            plain = x[..., 0]
            assert rhat(x)[0] == pytest.approx(float(arviz.rhat(plain)), rel=1e-9)
            for method, ours in (("bulk", ess_bulk), ("tail", ess_tail), ("mean", ess_mean)):
                theirs = float(arviz.ess(plain, method=method))
                assert ours(x)[0] == pytest.approx(theirs, rel=1e-6), (phi, method)
        tree = to_arviz(x, names=["level"], statistics={"lp": x[..., 0]})
        posterior = tree["posterior"]["level"]
        assert posterior.dims == ("chain", "draw")
        np.testing.assert_array_equal(np.asarray(posterior), x[..., 0])
        np.testing.assert_array_equal(np.asarray(tree["sample_stats"]["lp"]), x[..., 0])


def test_without_arviz_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "arviz", None)
    with pytest.raises(ImportError, match=r"statewise\[arviz\]"):
        to_arviz(np.zeros((2, 10, 1)))


def test_one_step_has_the_variance_of_a_mean():
    """Without resampling Ẑ is a mean of N numbers, and V̂ its squared standard error."""
    y = simulate(5, 1)[1][..., :1]
    runs = particle_filter(scalar(), y, particles=50)
    g = Normal(runs.particles[:, 0, :, 0], math.sqrt(R)).log_prob(y[:, 0]).exp()
    direct = g.std(1) / math.sqrt(50) / g.mean(1)
    found = evidence(runs)
    torch.testing.assert_close(found.standard_error, direct)
    torch.testing.assert_close(found.value, g.mean(1).log())


@pytest.mark.parametrize("threshold", [0.5, 1.1])
def test_the_variance_of_one_run_is_unbiased(threshold):
    """Mean of Ẑ² V̂ over runs is the variance of Ẑ, for few particles too."""
    model = LinearGaussian([[A]], [[1.0]], [[Q]], [[R]], P0=[[P0]])
    y = simulate(1, 4, seed=3)[1][..., :1]
    exact = inference.filter(model, y).log_likelihood
    runs = particle_filter(
        scalar(),
        y.expand(40_000, -1, -1),
        particles=12,
        resampling=Multinomial(),
        threshold=threshold,
        seed=5,
    )
    ratio = (runs.log_likelihood - exact).exp()
    N = torch.tensor(12.0, dtype=torch.float64)
    steps = (runs.ancestors != torch.arange(12)).any(-1).sum(1)
    roots = root_indices(runs)[:, -1]
    same = roots.unsqueeze(1) == roots.unsqueeze(2)
    W = runs.log_weights[:, -1].exp()
    pairs = (W.unsqueeze(1) * W.unsqueeze(2) * ~same).sum((1, 2))
    direct = 1 - (N / (N - 1)) ** (steps + 1) * pairs
    torch.testing.assert_close(evidence(runs).standard_error, direct.clamp_min(0).sqrt())
    values = ratio**2 * direct
    spread = (ratio - 1) ** 2
    error = (values - spread).std() / math.sqrt(len(ratio))
    assert (values.mean() - spread.mean()).abs() < 4 * error
    assert error < 0.1 * spread.mean()


def test_roots_follow_ancestors():
    y = simulate(2, 6)[1][..., :1]
    lengths = torch.tensor([6, 4])
    runs = particle_filter(scalar(), y, particles=30, lengths=lengths, threshold=1.1)
    roots = root_indices(runs)
    index = torch.arange(30)
    for t in range(5, 0, -1):
        index = runs.ancestors[0, t][index]
    assert torch.equal(roots[0, -1], index)
    # Behind the end of a series nothing is estimated.
    short = particle_filter(scalar(), y[:, :4], particles=30, threshold=1.1)
    assert evidence(runs).standard_error[1] == evidence(short).standard_error[1]


def test_pooled_runs():
    logs = torch.log(torch.tensor([[1.0, 10.0], [3.0, 30.0]], dtype=torch.float64)) - 1000
    found = pooled_evidence(logs)
    want = torch.tensor([2.0, 20.0], dtype=torch.float64).log() - 1000
    torch.testing.assert_close(found.value, want)
    torch.testing.assert_close(found.standard_error, torch.full((2,), 0.5, dtype=torch.float64))
    with pytest.raises(ValueError, match="1 run has no spread"):
        pooled_evidence(logs[:1])


def test_figures_are_drawn():
    _, y = simulate(2, 60)
    found = inference.filter(linear(), y)
    assert len(innovation_tests(found).plot().axes) == 3
    assert len(calibration(predictive_pit(found)).plot().axes) == 2


def test_arguments_that_do_not_fit():
    _, y = simulate(1, 30)
    found = inference.filter(linear(), y)
    with pytest.raises(ValueError, match="too few for 29 lags"):
        innovation_tests(found, lags=29)
    with pytest.raises(ValueError, match="fitted 5"):
        innovation_tests(found, lags=5, fitted=5)
    with pytest.raises(ValueError, match="confidence is 2"):
        innovation_tests(found, confidence=2)
    runs = particle_filter(scalar(), y[..., :1], particles=4)
    with pytest.raises(ValueError, match="give y"):
        predictive_pit(runs)
    with pytest.raises(ValueError, match=r"y has shape \(1, 3, 1\)"):
        predictive_pit(runs, y[:, :3, :1])
    with pytest.raises(ValueError, match=r"x has shape \(1, 30, 2\)"):
        state_pit(runs, y)
    for wrong in (np.zeros((5, 3)), np.zeros((2, 3, 1)), np.full((2, 9, 1), np.nan)):
        with pytest.raises(ValueError, match="chains"):
            rhat(wrong)
    with pytest.raises(ValueError, match="2 parameters need 2 names"):
        summarise_chains(np.zeros((2, 9, 2)), names=["a"])
