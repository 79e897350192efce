"""Polynomial models by prediction error: exact identities, gradients and asymptotic statistics."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch
from polynomial_data import MODELS, NK, draw, vector
from scipy.signal import lfilter

from statewise.lti import (
    PolynomialEstimate,
    PolynomialModel,
    armax,
    arx,
    box_jenkins,
    frequency_response,
    identify,
    output_error,
    refine,
    simulate,
)
from statewise.lti._polynomial_filters import (
    Coefficients,
    Series,
    Structure,
    linearised,
    run,
    sensitivities,
)

LENGTHS = (600, 40, 250)


def fit(name: str, u, y, **settings) -> PolynomialEstimate:
    settings = {"nk": NK, **settings}
    if name == "arx":
        return arx(u, y, 2, 2, **settings)
    if name == "armax":
        return armax(u, y, 2, 2, 2, **settings)
    if name == "oe":
        return output_error(u, y, 2, (2, 1), **settings)
    return box_jenkins(u, y, 2, 2, 1, (2, 1), **settings)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("at_rest", [False, True])
def test_noise_free_records_give_the_coefficients_back(name, at_rest) -> None:
    model = MODELS[name]
    us, ys = draw(model, LENGTHS, 0.0, 1, settle=0 if at_rest else 100)
    found = fit(name, us, ys, at_rest=at_rest)
    assert found.converged
    for mine, true in zip(
        (found.model.a, *found.model.b, *found.model.f), (model.a, *model.b, *model.f), strict=True
    ):
        assert (mine - true).abs().max() < 1e-10
    assert all(e.abs().max() < 1e-10 for e in found.residuals)
    # Another system for a record whose past is taken to be zero and is not.
    if not at_rest:
        wrong = fit(name, us, ys, at_rest=True)
        assert wrong.loss > 1e-6


@pytest.mark.parametrize("name", MODELS)
def test_errors_of_the_estimates_are_those_of_the_covariance(name) -> None:
    model, seeds = MODELS[name], 10 if name == "bj" else 20
    distances, variances = [], []
    for seed in range(seeds):
        us, ys = draw(model, (450, 60, 200), 0.5, seed)
        found = fit(name, us, ys)
        assert found.converged, found.reason
        gap = vector(found.model) - vector(model)
        distances.append(gap @ np.linalg.solve(found.covariance.numpy(), gap))
        variances.append(found.variance)
    degrees = seeds * len(vector(model))
    low, high = scipy.stats.chi2.ppf((0.0005, 0.9995), degrees)
    assert low < sum(distances) < high
    # The mean of σ̂² has a relative standard deviation of √(2/(N seeds)).
    assert np.mean(variances) == pytest.approx(0.25, rel=3.5 * np.sqrt(2 / (710 * seeds)))


@pytest.mark.parametrize("name", ["armax", "oe"])
def test_response_deviation_is_the_spread_of_the_responses(name) -> None:
    model, seeds = MODELS[name], 16
    w = torch.tensor([0.05, 0.6, 1.5, 2.8], dtype=torch.float64)
    true = frequency_response(model.system, w)
    ratios = []
    for seed in range(seeds):
        us, ys = draw(model, (1000,), 0.5, 100 + seed)
        found = fit(name, us, ys)
        gap = frequency_response(found.system, w) - true
        ratios.append((gap.abs() / found.response_deviation(w)).square())
    mean = torch.stack(ratios).mean(0)
    # Of |z|² with E|z|² = 1, whose standard deviation is √2 at most.
    assert (mean < 1 + 3.5 * np.sqrt(2 / seeds)).all()
    assert mean.mean() > 0.7


STRUCTURES = {
    "arx": Structure(2, (2, 2), 0, 0, (0, 0), NK),
    "armax": Structure(2, (2, 2), 2, 0, (0, 0), NK),
    "oe": Structure(0, (2, 2), 0, 0, (2, 1), NK),
    "bj": Structure(0, (2, 2), 2, 1, (2, 1), NK),
    "all": Structure(1, (2, 1), 1, 2, (1, 0), (0, 3)),
}


@pytest.mark.parametrize("name", STRUCTURES)
@pytest.mark.parametrize("at_rest", [False, True])
def test_sensitivities_are_the_differences_of_the_errors(name, at_rest) -> None:
    structure = STRUCTURES[name]
    rng = np.random.default_rng(0)
    records = [Series(rng.standard_normal((n, 2)), rng.standard_normal(n)) for n in (40, 25)]
    theta = 0.3 * rng.standard_normal(structure.count)

    def cost(at: np.ndarray) -> float:
        poly = Coefficients.of(at, structure)
        return sum(float(np.sum(run(r, poly, structure, at_rest).error ** 2)) for r in records)

    poly = Coefficients.of(theta, structure)
    assert np.array_equal(poly.vector(), theta)
    local = linearised(records, poly, structure, at_rest)
    gradient = 2 * local.R.T @ local.r
    step = 1e-6
    for k, unit in enumerate(np.eye(structure.count)):
        slope = (cost(theta + step * unit) - cost(theta - step * unit)) / (2 * step)
        assert gradient[k] == pytest.approx(slope, rel=1e-6, abs=1e-6)
    if at_rest:
        signals = run(records[0], poly, structure, True)
        J = sensitivities(records[0], poly, structure, signals)
        for k, unit in enumerate(np.eye(structure.count)):
            sides = [
                run(
                    records[0], Coefficients.of(theta + s * step * unit, structure), structure, True
                )
                for s in (1, -1)
            ]
            slope = (sides[0].error - sides[1].error) / (2 * step)
            assert np.abs(J[:, k] - slope).max() < 1e-6


def test_special_cases_are_the_simpler_models() -> None:
    us, ys = draw(MODELS["armax"], LENGTHS, 0.5, 3)
    plain = arx(us, ys, 2, 2, nk=NK)
    assert np.allclose(vector(armax(us, ys, 2, 2, 0, nk=NK).model), vector(plain.model), atol=1e-9)
    us, ys = draw(MODELS["oe"], LENGTHS, 0.5, 3)
    plain = output_error(us, ys, 2, (2, 1), nk=NK, tolerance=1e-7)
    bare = box_jenkins(us, ys, 2, 0, 0, (2, 1), nk=NK, tolerance=1e-7)
    assert np.allclose(vector(bare.model), vector(plain.model), atol=1e-6)
    assert bare.loss == pytest.approx(plain.loss, rel=1e-12)
    moving = output_error(us, ys, 3, 0, nk=1)
    assert np.allclose(vector(moving.model), vector(arx(us, ys, 0, 3, nk=1).model), atol=1e-9)


def test_arx_is_the_textbook_regression() -> None:
    (u,), (y,) = draw(MODELS["arx"], (300,), 0.5, 5)
    rows = [[-y[t - 1], -y[t - 2], u[t - 1, 0], u[t - 2, 0], u[t - 2, 1], u[t - 3, 1]]
            for t in range(3, 300)]  # fmt: skip
    theta = np.linalg.lstsq(np.array(rows), y[3:], rcond=None)[0]
    assert np.allclose(vector(arx(u, y, 2, 2, nk=NK).model), theta, atol=1e-11)


@pytest.mark.parametrize("name", ["armax", "oe"])
def test_another_optimiser_on_another_predictor_agrees(name) -> None:
    """Written out as a loop over samples, for one input, and left to SciPy."""
    model = PolynomialModel(
        a=(1.0, -1.5, 0.7) if name == "armax" else (1.0,),
        b=[(1.0, 0.5)],
        c=(1.0, 0.6) if name == "armax" else (1.0,),
        f=[(1.0,)] if name == "armax" else [(1.0, -1.5, 0.7)],
    )
    (u,), (y,) = draw(model, (200,), 0.5, 8, settle=0)

    def errors(theta: np.ndarray) -> np.ndarray:
        x, e = np.zeros(202), np.zeros(202)
        for t in range(200):
            known = y[t - 2 : t][::-1] if t > 1 else np.array([y[0] if t else 0.0, 0.0])
            back = known if name == "armax" else x[t : t + 2][::-1]
            forced = theta[2] * (u[t - 1, 0] if t else 0) + theta[3] * (u[t - 2, 0] if t > 1 else 0)
            x[t + 2] = forced - theta[:2] @ back + (theta[4] * e[t + 1] if name == "armax" else 0)
            e[t + 2] = y[t] - x[t + 2]
        return e[2:]

    start = np.array([-1.4, 0.65, 0.8, 0.3, 0.2][: 5 if name == "armax" else 4])
    peer = scipy.optimize.least_squares(errors, start, xtol=1e-12, ftol=1e-14, gtol=1e-12)
    if name == "armax":
        found = armax(u, y, 2, 2, 1, at_rest=True)
        mine = vector(found.model)
    else:
        found = output_error(u, y, 2, 2, at_rest=True)
        mine = vector(found.model)[[2, 3, 0, 1]]
    assert found.loss == pytest.approx(2 * peer.cost / 200, rel=1e-9)
    assert np.allclose(mine, peer.x, atol=1e-5)


def test_single_channels_equal_state_space_models() -> None:
    model = PolynomialModel(a=(1.0, -1.5, 0.7), b=[(1.0, 0.5)], c=(1.0, 0.6, 0.1), nk=(1,))
    us, ys = draw(model, (400, 60), 0.5, 2)
    u, y = [torch.as_tensor(x) for x in us], [torch.as_tensor(x) for x in ys]
    start = identify(u, y, 2, direct=False)
    for noise in (True, False):
        tight = {"tolerance": 1e-7}
        space = refine(start, u, y, noise=noise, direct=False, **tight)
        poly = armax(us, ys, 2, 2, 2, **tight) if noise else output_error(us, ys, 2, 2, **tight)
        assert space.converged
        assert poly.converged
        assert space.loss == pytest.approx(poly.loss, rel=1e-9)
        w = torch.linspace(0.1, 3.0, 9, dtype=torch.float64)
        gap = frequency_response(space.system, w) - frequency_response(poly.system, w)
        assert gap.abs().max() < 1e-5
        mine, theirs = poly.response_deviation(w), space.response_deviation(w)
        assert torch.allclose(mine, theirs, rtol=1e-3)


def test_innovation_form_and_system_are_the_polynomials() -> None:
    for model in MODELS.values():
        (u,), (y,) = draw(model, (200,), 0.5, 4, settle=0)
        rng = np.random.default_rng(4)
        rng.standard_normal((200, 2))
        e = 0.5 * rng.standard_normal(200)
        system, K = model.innovation_form
        noise = type(system)(system.A, K, system.C, [[1.0]], 1.0)
        joint = simulate(system, u)[0] + simulate(noise, e[:, None])[0]
        assert np.abs(joint[:, 0].numpy() - y).max() < 1e-10
        apart = simulate(model.system, u)[0] + simulate(model.noise, e[:, None])[0]
        assert np.abs(apart[:, 0].numpy() - y).max() < 1e-10


def test_a_resonance_does_not_trap_output_error() -> None:
    """Light damping and strong coloured noise, where descents from ARX alone end elsewhere."""
    f = np.poly([0.97 * np.exp(0.9j), 0.97 * np.exp(-0.9j), 0.9, 0.5]).real
    b = np.array([0.2, -0.1, 0.3, 0.1])
    for seed in range(5):
        rng = np.random.default_rng(seed)
        u = rng.standard_normal(1500)
        clean = lfilter(np.pad(b, (1, 0)), f, u)
        noise = lfilter([1.0], [1.0, -0.95], rng.standard_normal(1500))
        y = clean + 0.7 * clean.std() / noise.std() * noise
        found = output_error(u, y, 4, 4)
        at_truth = np.mean((y - clean) ** 2)
        assert found.converged
        assert found.loss < at_truth
        assert np.abs(np.roots(found.model.f[0].numpy())).max() < 1


def test_series_without_inputs() -> None:
    rng = np.random.default_rng(0)
    e = rng.standard_normal(3000)
    y = lfilter([1.0, 0.6], [1.0, -0.8], e)
    found = armax(None, y, 1, (), 1)
    z = (vector(found.model) - (-0.8, 0.6)) / found.covariance.diagonal().sqrt().numpy()
    assert np.abs(z).max() < 3.5
    assert found.system.n_inputs == 0
    assert arx(None, y, 3, ()).model.a.shape == (4,)
    assert found.response_deviation([0.1]).shape == (1, 1, 0)


def test_units_do_not_matter() -> None:
    us, ys = draw(MODELS["bj"], (500,), 0.5, 6)
    first = fit("bj", us, ys, tolerance=1e-7)
    second = fit("bj", [u * (1e3, 1e-2) for u in us], [1e-4 * y for y in ys], tolerance=1e-7)
    scale = np.array([1, 1e-7, 1e-7, 1e-2, 1e-2, 1, 1, 1, 1, 1, 1])[1:]
    assert np.allclose(vector(second.model), vector(first.model) * scale, rtol=1e-5)
    P = first.covariance.numpy() * scale * scale[:, None]
    assert np.allclose(second.covariance.numpy(), P, rtol=1e-4)
    assert second.loss == pytest.approx(first.loss * 1e-8)


def test_what_is_known_about_an_estimate() -> None:
    us, ys = draw(MODELS["armax"], (800,), 0.5, 7)
    found = fit("armax", us, ys)
    assert found.n_parameters == 8
    assert found.bic > found.aic
    assert found.loss < found.variance < found.fpe * 1.1
    errors = found.standard_errors
    assert [len(part) for part in (errors.a, *errors.b, errors.c, errors.d)] == [2, 2, 2, 2, 0]
    assert min(found.starts.values()) >= found.loss * (1 - 1e-9)
    too_small = armax(us, ys, 1, 1, 1, nk=NK)
    assert too_small.bic > found.bic
    stopped = fit("armax", us, ys, iterations=1)
    assert not stopped.converged
    assert "1 iterations were not enough" in stopped.reason
    assert "not converged after 1 iterations" in repr(stopped)


U, Y = np.random.default_rng(0).standard_normal((2, 60))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: arx(U, np.stack((Y, Y), 1), 1, 1), r"y has 2 outputs; a polynomial model has one"),
        (lambda: arx(U, Y, -1, 1), r"na is -1; a whole number of at least 0"),
        (lambda: output_error(U, Y, 2.0, 2), r"nb is 2.0; a whole number of at least 1"),
        (lambda: arx(U, Y, 1, 0), r"nb is 0; a whole number of at least 1"),
        (lambda: arx(U, Y, 1, (1, 2)), r"nb is \(1, 2\); the data have 1 inputs"),
        (lambda: arx(U[:6], Y[:6], 3, 3), r"lengths \[6\], less 3 each .* leave 3 samples for 6"),
        (lambda: armax(U, Y, 1, 1, True), r"nc is True"),
        (lambda: output_error(None, Y, (), ()), r"output_error needs an input"),
        (lambda: box_jenkins(None, Y, (), 1, 1, ()), r"box_jenkins needs an input"),
        (lambda: arx(U[:50], Y, 1, 1), r"record 0 has 50 samples of u and 60 of y"),
        (lambda: PolynomialModel(a=(2.0, 1.0)), r"its first coefficient must be 1"),
        (lambda: PolynomialModel(b=[(1.0,)], nk=(1, 2)), r"b has 1 polynomials, f 1 and nk 2"),
        (lambda: PolynomialModel(b=[(1.0,)], nk=(-1,)), r"nk is \(-1,\)"),
        (lambda: PolynomialModel(a=(1.0, 0.5), d=(1.0, 0.5)), r"either A, or D and F_i"),
        (lambda: PolynomialModel(a=[[1.0]]), r"polynomial of a has shape \(1, 1\)"),
    ],
)
def test_errors_say_what_was_given(call, words) -> None:
    with pytest.raises(ValueError, match=words):
        call()
