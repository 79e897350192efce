"""Likelihoods and states of statsmodels on its own example series."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from contracts.filter_suite import close
from statewise import inference

sm = pytest.importorskip("statsmodels.api")


def series(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = getattr(sm.datasets, name).load_pandas().data
    column = {"nile": "volume", "sunspots": "SUNACTIVITY"}[name]
    return np.array(data[column], dtype=float)


def theirs(model, parameters):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model.smooth(parameters)


def ours(model, y):
    return inference.filter(model, torch.as_tensor(np.asarray(y, dtype=float)).reshape(1, -1, 1))


def compare(result, found, bound=1e-9):
    """Likelihood, smoothed states and their covariances."""
    close(found.log_likelihood.item(), float(result.llf), bound)
    smoothed = inference.smooth(found)
    states = result.smoothed_state.T
    scale = np.abs(states).max()
    close(smoothed.mean[0] / scale, torch.as_tensor(states / scale), bound)
    cov = np.moveaxis(result.smoothed_state_cov, -1, 0)
    scale = np.abs(cov).max()
    close(smoothed.cov[0] / scale, torch.as_tensor(cov / scale), bound)


@pytest.mark.parametrize("gap", [(), (0,), tuple(range(20, 40))])
def test_local_level_on_the_nile(gap):
    y = series("nile")
    y[list(gap)] = np.nan
    model = sm.tsa.UnobservedComponents(y, "llevel", use_exact_diffuse=True)
    compare(theirs(model, [15098.52, 1469.18]), ours(inference.local_level(1469.18, 15098.52), y))


def test_the_maximum_of_the_nile():
    y = torch.as_tensor(series("nile")).reshape(1, -1, 1)
    fit = inference.maximise_likelihood(
        lambda v: inference.local_level(*v.exp()), y, start=[7.0, 9.0], tolerance=1e-14
    )
    # Durbin and Koopman (2012), section 2.10; the book drops the first observation.
    level, noise = fit.theta.exp().tolist()
    assert abs(noise / 15098.52 - 1) < 1e-3
    assert abs(level / 1469.18 - 1) < 3e-3
    assert abs(fit.log_likelihood + 0.5 * np.log(2 * np.pi) + 632.5456) < 1e-3


@pytest.mark.parametrize("gap", [(), (5, 6, 100)])
@pytest.mark.parametrize("phi", [[0.8], [1.39, -0.69], [1.2, -0.5, 0.1]])
def test_autoregression_on_sunspots(gap, phi):
    y = series("sunspots")
    y = y - y.mean()
    y[list(gap)] = np.nan
    model = sm.tsa.SARIMAX(y, order=(len(phi), 0, 0))
    result = theirs(model, [*phi, 270.0])
    found = ours(inference.autoregressive(phi, 270.0), y)
    close(found.log_likelihood.item(), float(result.llf), 1e-9)
    smoothed = inference.smooth(found)
    close(smoothed.mean[0, :, 0], torch.as_tensor(result.smoothed_state[0]), 1e-7)


@pytest.mark.parametrize("gap", [(), (0, 3), tuple(range(50, 70))])
def test_trend_and_season_on_sunspots(gap):
    y = series("sunspots")
    y[list(gap)] = np.nan
    model = sm.tsa.UnobservedComponents(y, "lltrend", seasonal=11, use_exact_diffuse=True)
    found = inference.add(
        inference.local_linear_trend(20.0, 0.5, 100.0), inference.seasonal(11, 3.0)
    )
    compare(theirs(model, [100.0, 20.0, 0.5, 3.0]), ours(found, y), 1e-7)


def test_level_and_autoregression_on_the_nile():
    y = series("nile")
    model = sm.tsa.UnobservedComponents(y, "llevel", autoregressive=1, use_exact_diffuse=True)
    found = inference.add(
        inference.local_level(1000.0, 9000.0), inference.autoregressive([0.3], 2000.0)
    )
    compare(theirs(model, [9000.0, 1000.0, 2000.0, 0.3]), ours(found, y))
