"""Subspace identification: exact identities without noise, statistics with it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lti_systems import card_system, stable

from statewise._config import from_dict, to_dict
from statewise.lti import (
    CVA,
    MOESP,
    N4SID,
    SSARX,
    StateSpace,
    Weighting,
    hankel_singular_values,
    identify,
    identify_batch,
    markov_parameters,
    simulate,
)

METHODS = (N4SID, MOESP, CVA, SSARX)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def markov_gap(found: StateSpace, true: StateSpace, count: int = 30) -> float:
    h = markov_parameters(true, count)
    return float((markov_parameters(found, count) - h).abs().max() / h.abs().max())


def noisy(system: StateSpace, length: int, seed: int, share: float = 0.1):
    """An input, and outputs with white noise of a share of their size (0.1: 20 dB)."""
    u = draw(length, system.n_inputs, seed=seed)
    y = simulate(system, u)[0]
    return u, y + share * y.std(0) * draw(*y.shape, seed=seed + 10**6)


def with_innovations(length: int, seed: int = 0) -> tuple:
    """A record of a system in innovation form, its system, its gain and its innovations."""
    system = card_system()
    K = torch.tensor([[0.3], [0.1], [0.2]], dtype=torch.float64)
    u, e = draw(length, 1, seed=seed), 0.5 * draw(length, 1, seed=seed + 1)
    one = torch.ones(1, 1, dtype=torch.float64)
    noise = simulate(StateSpace(system.A, K, system.C, one, 1.0), e)[0]
    return u, simulate(system, u)[0] + noise, system, K, e


@pytest.mark.parametrize("weighting", METHODS, ids=lambda w: w.name)
@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 6), m=st.integers(1, 3), p=st.integers(1, 3), seed=st.integers(0, 99))
@example(n=2, m=3, p=3, seed=30)
def test_noise_free_records_give_the_system_back(weighting, n, m, p, seed) -> None:
    system = stable(n, m, p, seed=seed)
    hsv = hankel_singular_values(system)
    if hsv[-1] < 1e-3 * hsv[0]:
        return
    us = [draw(T, m, seed=seed + T) for T in (260, 40, 330)]
    starts = draw(3, n, seed=seed)
    ys = [simulate(system, u, x0)[0] for u, x0 in zip(us, starts, strict=True)]
    result = identify(us, ys, n, weighting=weighting)
    assert markov_gap(result.system, system) < 1e-8
    assert (result.fit > 100 - 1e-6).all()
    for u, y, x0 in zip(us, ys, result.x0, strict=True):
        again = simulate(result.system, u, x0)[0]
        assert (again - y).abs().max() < 1e-8 * y.abs().max()
    assert identify(us, ys, weighting=weighting).order == n


@pytest.mark.parametrize("weighting", METHODS, ids=lambda w: w.name)
def test_direct_term_held_at_zero(weighting) -> None:
    base = stable(3, 2, 2, seed=1)
    system = StateSpace(base.A, base.B, base.C, dt=1.0)
    u = draw(300, 2)
    y = simulate(system, u)[0]
    for focus in ("simulation", "prediction"):
        result = identify(u, y, 3, weighting=weighting, direct=False, focus=focus)
        assert not result.system.D.any()
        assert markov_gap(result.system, system) < 1e-8


@pytest.mark.parametrize("weighting", METHODS, ids=lambda w: w.name)
def test_coordinates_and_units_do_not_matter(weighting) -> None:
    u, y, *_ = with_innovations(600)
    first = identify(u, y, 3, weighting=weighting)
    second = identify(1e3 * u, 1e-4 * y, 3, weighting=weighting)
    D = second.system.D * 1e7
    assert (D - first.system.D).abs().max() < 1e-9
    scaled = StateSpace(second.system.A, second.system.B * 1e7, second.system.C, D, 1.0)
    assert markov_gap(scaled, first.system) < 1e-9
    assert torch.allclose(second.innovation_covariance * 1e8, first.innovation_covariance)
    assert torch.allclose(first.fit, second.fit)
    T = draw(3, 3, seed=5)
    assert markov_gap(first.system.transform(T), first.system) < 1e-9


def reference_moesp(u: np.ndarray, y: np.ndarray, rows: int, n: int) -> np.ndarray:
    """Poles of PO-MOESP, written out for one input and one output."""
    count = len(u) - 2 * rows + 1
    stack = [
        z[k : k + count] for z, start in ((u, rows), (u, 0), (y, 0), (y, rows))
        for k in range(start, start + rows)
    ]  # fmt: skip
    L = np.linalg.qr(np.array(stack).T, mode="r").T
    U, s, _ = np.linalg.svd(L[3 * rows :, rows : 3 * rows])
    gamma = U[:, :n] * np.sqrt(s[:n])
    return np.linalg.eigvals(np.linalg.lstsq(gamma[:-1], gamma[1:], rcond=None)[0])


def test_moesp_is_the_textbook_one() -> None:
    u, y = noisy(card_system(), 500, 3)
    result = identify(u, y, 3, weighting=MOESP, horizon=8)
    expected = reference_moesp(u[:, 0].numpy(), y[:, 0].numpy(), 8, 3)
    found = torch.linalg.eigvals(result.system.A).numpy()
    assert np.abs(found[:, None] - expected).min(0).max() < 1e-11


@pytest.mark.parametrize("weighting", [N4SID, MOESP, CVA], ids=lambda w: w.name)
def test_pole_errors_are_those_of_the_notes(weighting) -> None:
    true = torch.linalg.eigvals(card_system().A)
    errors = []
    for seed in range(10):
        u = draw(1000, 1, seed=seed)
        y = simulate(card_system(), u)[0] + 0.5 * draw(1000, 1, seed=seed + 50)
        found = torch.linalg.eigvals(identify(u, y, 3, weighting=weighting, horizon=10).system.A)
        errors.append(float((found[:, None] - true).abs().amin(0).max()))
    assert np.median(errors) < 2 * {N4SID: 0.023, MOESP: 0.018, CVA: 0.015}[weighting]


def test_fit_at_low_noise_is_that_of_the_notes() -> None:
    system = card_system()
    u = draw(2000, 1, seed=1)
    y = simulate(system, u)[0] + 0.5 * draw(2000, 1, seed=2)
    found = identify(u, y, 3).system
    test = draw(2000, 1, seed=3)
    clean = simulate(system, test)[0]
    rest = simulate(found, test)[0] - clean
    assert 100 * (1 - rest.norm() / (clean - clean.mean()).norm()) > 98


@pytest.mark.parametrize("weighting", METHODS, ids=lambda w: w.name)
def test_gain_makes_innovations_white(weighting) -> None:
    T = 4000
    u, y, system, K, e = with_innovations(T)
    result = identify(u, y, 3, weighting=weighting)
    ahead = simulate(result.predictor, torch.cat((u, y), -1), result.x0[0])[0]
    error = (y - ahead)[:, 0]
    assert float(error.square().mean()) == pytest.approx(
        float(result.innovation_covariance), rel=1e-9
    )
    assert float(error.square().mean()) == pytest.approx(float(e.square().mean()), rel=0.02)
    centred = error - error.mean()
    lags = torch.stack([(centred[k:] * centred[: T - k]).sum() for k in range(1, 21)])
    statistic = float(T * (lags / centred.square().sum()).square().sum())
    # The 99.9 % point of χ² with 20 degrees of freedom.
    assert statistic < 45.3
    one = torch.ones(1, 1, dtype=torch.float64)
    true = StateSpace(system.A, K, system.C, one, 1.0)
    found = StateSpace(result.system.A, result.K, result.system.C, one, 1.0)
    assert markov_gap(found, true) < 0.1


def closed_loop(length: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """x⁺ = 0.9 x + u + 0.4 e, y = x + e under u = −0.6 y + 0.3 r."""
    r, e = draw(2, length, seed=seed).tolist()
    x, us, ys = 0.0, [], []
    for k in range(length):
        ys.append(x + e[k])
        us.append(-0.6 * ys[-1] + 0.3 * r[k])
        x = 0.9 * x + us[-1] + 0.4 * e[k]
    return torch.tensor(us, dtype=torch.float64), torch.tensor(ys, dtype=torch.float64)


@pytest.mark.parametrize("weighting", METHODS, ids=lambda w: w.name)
def test_feedback_biases_all_but_ssarx(weighting) -> None:
    poles, gains = [], []
    for seed in range(3):
        u, y = closed_loop(20000, seed)
        result = identify(u, y, 1, weighting=weighting, direct=False)
        assert not result.system.D.any()
        poles.append(float(result.system.A))
        gains.append(float(result.system.C @ result.system.B))
    found = (np.mean(poles), np.mean(gains))
    if weighting == SSARX:
        assert found == pytest.approx((0.9, 1.0), abs=0.05)
    else:
        assert found[0] < 0.75
        assert found[1] < 0.75


def test_series_without_inputs() -> None:
    K = torch.tensor([[0.5], [0.2], [0.4]], dtype=torch.float64)
    one = torch.ones(1, 1, dtype=torch.float64)
    true = StateSpace(card_system().A, K, card_system().C, one, 1.0)
    y = simulate(true, draw(6000, 1))[0]
    for weighting in METHODS:
        result = identify(None, y, 3, weighting=weighting)
        assert result.system.n_inputs == 0
        shaped = StateSpace(result.system.A, result.K, result.system.C, one, 1.0)
        assert markov_gap(shaped, true) < 0.1
        assert float(result.innovation_covariance) == pytest.approx(1, rel=0.05)
    x, rows = draw(3, seed=4), []
    for _ in range(120):
        rows.append(true.C @ x)
        x = true.A @ x
    assert identify(None, torch.stack(rows), 3, weighting=MOESP).fit.min() > 99.9999


def test_order_at_20_decibels() -> None:
    hits = {"bic": 0, "gap": 0}
    for k in range(40):
        n, (m, p) = 1 + k % 6, [(1, 1), (2, 2), (1, 2), (2, 1)][k % 4]
        # Systems whose every state is seen above the noise.
        for seed in range(1000):
            system = stable(n, m, p, seed=1000 * k + seed)
            hsv = hankel_singular_values(system)
            if hsv[-1] > 0.1 * hsv[0]:
                break
        result = identify(*noisy(system, 1000, k))
        for name in hits:
            hits[name] += result.suggested_orders[name] == n
        assert result.order == result.suggested_orders["bic"] == result.suggested_orders["mdl"]
    assert min(hits.values()) >= 38, hits


def test_scores_are_minimal_or_maximal_at_the_order() -> None:
    u, y = noisy(card_system(), 800, 2)
    for criterion in ("bic", "aic", "mdl", "gap"):
        result = identify(u, y, criterion=criterion, largest_order=6)
        score = result.order_scores[criterion]
        assert len(score) == 6
        best = score.argmax() if criterion == "gap" else score.argmin()
        assert result.order == int(best) + 1


@pytest.mark.parametrize("coloured", [False, True])
def test_a_model_without_gain_pays_for_no_gain(coloured: bool) -> None:
    if coloured:
        u, y, *_ = with_innovations(1500)
    else:
        u, y = noisy(card_system(), 1500, 5)
    result = identify(u, y, largest_order=4, focus="simulation")
    for n in range(1, 5):
        found = identify(u, y, n, horizon=result.horizon)
        power = (y - y.mean()).square().sum()
        simulated = power * (1 - found.fit / 100).square() / 1500
        ahead = identify(u, y, n, horizon=result.horizon, focus="prediction")
        both = torch.stack((simulated[0, 0], ahead.innovation_covariance[0, 0]))
        both = both / y.square().mean()
        free = torch.tensor([2.0 * n + 1, 3.0 * n + 1])
        scores = 1500 * both.log() + free * math.log(1500)
        assert float(result.order_scores["bic"][n - 1]) == pytest.approx(float(scores.min()))
        if n == 3:
            assert int(scores.argmin()) == int(coloured)


def test_records_are_never_mixed() -> None:
    system = stable(3, 1, 1, seed=2)
    us = [draw(80, 1, seed=k) for k in range(4)]
    ys = [simulate(system, u, 50 * draw(3, seed=k))[0] for k, u in enumerate(us)]
    assert markov_gap(identify(us, ys, 3).system, system) < 1e-8
    glued = identify(torch.cat(us), torch.cat(ys), 3)
    assert markov_gap(glued.system, system) > 1e-3


def test_long_records_go_through_in_pieces() -> None:
    u, y = noisy(card_system(), 5000, 1)
    pieces = identify([u, u[:40]], [y, y[:40]], 3)
    gram = identify([u, u[:40]], [y, y[:40]], 3, factor="gram")
    assert markov_gap(gram.system, pieces.system) < 1e-10
    assert pieces.x0.shape == (2, 3)
    assert pieces.fit.shape == (2, 1)


def test_stability_is_enforced_only_when_asked() -> None:
    A = torch.tensor([[1.02, 0.1], [0.0, 0.6]], dtype=torch.float64)
    system = StateSpace(A, [[1.0], [0.5]], [[1.0, 1.0]], [[0.2]], 1.0)
    u = draw(300, 1)
    y = simulate(system, u)[0]
    free = identify(u, y, 2)
    assert free.focus == "prediction"
    assert not free.stabilised.any()
    assert markov_gap(free.system, system) < 1e-7
    held = identify(u, y, 2, stability=0.99)
    found = torch.linalg.eigvals(held.system.A).real.sort().values
    assert held.stabilised.all()
    assert found.tolist() == pytest.approx([0.6, 1 / 1.02], abs=1e-8)
    tight = identify(u, y, 2, stability=0.9)
    assert float(torch.linalg.eigvals(tight.system.A).abs().max()) == pytest.approx(0.9)


def test_numbers_of_any_kind_are_read() -> None:
    u, y = noisy(card_system(), 300, 1)
    first = identify(u, y, 2)
    frozen = y[:, 0].numpy().copy()
    frozen.flags.writeable = False
    second = identify(u[:, 0].tolist(), frozen, 2)
    assert torch.equal(first.system.A, second.system.A)
    assert identify(u.float(), y.float(), 2).system.dtype is torch.float64
    assert "order 2" in repr(first)
    assert identify(u, y, np.int64(2)).order == 2  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="order is None; a whole number"):
        identify_batch(u[None], y[None], None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": torch.ones(30, 1)}, r"record 0 has 300 samples of u and 30 of y"),
        ({"horizon": 2, "order": 4}, r"2 past and 2 future block rows; order 4"),
        ({"horizon": 80}, r"horizons of 80 \+ 80 samples .* need 320 windows, .* 479 samples"),
        ({"focus": "both"}, r"focus is 'both'"),
        ({"factor": "lu"}, r"factor is 'lu'"),
        ({"criterion": "eyes"}, r"criterion is 'eyes'"),
        ({"stability": 1.5}, r"stability is 1.5"),
        ({"order": 0}, r"order is 0"),
        ({"order": None, "largest_order": 0}, r"largest_order is 0"),
        ({"y": torch.full((300, 1), math.nan)}, r"y holds values that are not finite"),
        ({"y": torch.ones(2, 300, 1)}, r"y has shape \(2, 300, 1\)"),
        ({"u": [torch.ones(300, 1)] * 2, "y": [torch.ones(300, 1)]}, r"y has 1 records; u .* is 2"),
    ],
)
def test_errors_say_what_was_given(change, message) -> None:
    u, y = noisy(card_system(), 300, 1)
    with pytest.raises(ValueError, match=message):
        identify(**{"u": u, "y": y, "order": 2, **change})


def test_weightings_are_checked_values() -> None:
    with pytest.raises(TypeError, match="weighting is 'cva'; a Weighting such as CVA"):
        identify(torch.ones(300), torch.ones(300), 2, weighting="cva")  # type: ignore[arg-type]
    assert from_dict(to_dict(SSARX)) == SSARX
    assert Weighting("mine", whiten=True) == Weighting("mine", whiten=True)
    u, y = noisy(card_system(), 300, 1)
    mine = identify(u, y, 2, weighting=Weighting("mine", whiten=True))
    assert torch.equal(mine.system.A, identify(u, y, 2, weighting=CVA).system.A)
    assert not torch.equal(mine.system.A, identify(u, y, 2, weighting=MOESP).system.A)
    with pytest.raises(ValueError, match="future of a weighting is 'none'"):
        Weighting("x", future="none")
    with pytest.raises(ValueError, match='future="arx" needs'):
        Weighting("x", future="arx")
