"""Identification of many series at once equals the loop over them."""

from __future__ import annotations

import pytest
import torch
from lti_systems import stable

from statewise.lti import (
    CVA,
    MOESP,
    N4SID,
    SSARX,
    StateSpace,
    identify,
    identify_batch,
    markov_parameters,
    simulate,
)


def batch_of_records(count: int, length: int, n: int, m: int, p: int, noise: float = 0.1):
    g = torch.Generator().manual_seed(n)
    systems = stable(n, m, p, seed=n, batch=(count,))
    u = torch.randn(count, length, m, generator=g, dtype=torch.float64)
    y = simulate(systems, u)[0]
    spread = y.std(1, keepdim=True)
    return systems, u, y + noise * spread * torch.randn(y.shape, generator=g, dtype=y.dtype)


def gap(first: StateSpace, second: StateSpace) -> float:
    a, b = markov_parameters(first, 20), markov_parameters(second, 20)
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("weighting", [N4SID, MOESP, CVA, SSARX], ids=lambda w: w.name)
@pytest.mark.parametrize(("n", "m", "p"), [(4, 1, 1), (3, 2, 2)])
def test_batch_equals_loop(weighting, n, m, p) -> None:
    _, u, y = batch_of_records(7, 400, n, m, p)
    together = identify_batch(u, y, n, weighting=weighting)
    for k in range(7):
        single = identify(u[k], y[k], n, weighting=weighting)
        assert gap(together.system[k], single.system) < 1e-8
        assert gap(together.predictor[k], single.predictor) < 1e-8
        assert torch.allclose(together.fit[k], single.fit[0], atol=1e-8)
        assert torch.allclose(together.prediction_fit[k], single.prediction_fit[0], atol=1e-8)
        assert torch.allclose(
            together.innovation_covariance[k], single.innovation_covariance, rtol=1e-8
        )


def test_noise_free_series_fall_back_to_qr() -> None:
    systems, u, y = batch_of_records(5, 200, 3, 1, 2, noise=0.0)
    result = identify_batch(u, y, 3)
    for k in range(5):
        assert gap(result.system[k], systems[k]) < 1e-8
    with pytest.raises(ValueError, match="singular to working precision"):
        identify_batch(u, y, 3, factor="gram")


@pytest.mark.parametrize("compiled", [True, False])
def test_stable_and_unstable_systems_keep_their_places(compiled, monkeypatch) -> None:
    if not compiled:
        monkeypatch.setattr("statewise.lti.subspace.lanes_of", lambda records: None)
    poles = [0.7, 1.03, 0.5, 1.01]
    u = torch.randn(4, 200, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    systems = StateSpace(
        torch.tensor(poles, dtype=torch.float64)[:, None, None], [[1.0]], [[1.0]], [[0.5]], 1.0
    )
    y = simulate(systems, u)[0]
    result = identify_batch(u, y, 1)
    assert result.focus == "mixed"
    assert result.system.A.flatten().tolist() == pytest.approx(poles, abs=1e-9)
    assert result.system.D.flatten().tolist() == pytest.approx([0.5] * 4, abs=1e-6)
    held = identify_batch(u, y, 1, stability=0.999)
    assert held.stabilised.tolist() == [False, True, False, True]
    assert held.focus == "simulation"


def test_pieces_of_a_batch_are_joined(monkeypatch) -> None:
    _, u, y = batch_of_records(6, 200, 2, 1, 1)
    whole = identify_batch(u, y, 2)
    monkeypatch.setattr("statewise.lti.subspace.PIECE", 400)
    parts = identify_batch(u, y, 2)
    assert torch.allclose(whole.fit, parts.fit)
    assert parts.x0.shape == (6, 2)
    assert parts.singular_values.shape[0] == 6


def test_series_without_inputs_and_channels() -> None:
    g = torch.Generator().manual_seed(0)
    y = torch.randn(3, 300, generator=g, dtype=torch.float64).cumsum(-1)
    result = identify_batch(None, y, 1)
    assert result.K.shape == (3, 1, 1)
    single = identify(None, y[2], 1)
    assert torch.allclose(single.K, result.K[2])


def test_errors_say_what_was_given() -> None:
    with pytest.raises(ValueError, match=r"u has shape \(2, 300, 1\) and y \(3, 300, 1\)"):
        identify_batch(torch.ones(2, 300, 1), torch.ones(3, 300, 1), 1)
    with pytest.raises(ValueError, match="the records are too short"):
        identify_batch(torch.ones(2, 9, 1), torch.ones(2, 9, 1), 1, horizon=4)
