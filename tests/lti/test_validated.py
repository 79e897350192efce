"""Cross-validated identification: folds, errors against a loop, exact data, drift, refusals."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from lti_systems import card_system, stable

from statewise.lti import (
    CVA,
    N4SID,
    SSARX,
    StateSpace,
    identify,
    identify_batch,
    identify_validated,
    markov_parameters,
    simulate,
)
from statewise.lti._cross_validation import folds_of, simulation_errors, spread
from statewise.lti._hankel import read_records
from statewise.lti.validated import _better, regressed


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def markov_gap(found: StateSpace, true: StateSpace) -> float:
    h = markov_parameters(true, 30)
    return float((markov_parameters(found, 30) - h).norm() / h.norm())


def test_blocks_hold_every_sample_once_and_the_last_fold_looks_forward() -> None:
    lengths = (120, 80, 100)
    t = [torch.arange(n, dtype=torch.float64) + 1000 * k for k, n in enumerate(lengths)]
    records = read_records(t, [x.clone() for x in t])
    scale = float(records.y_scale)
    folds = folds_of(records, 4)
    assert len(folds) == 5

    def samples(parts: list[torch.Tensor]) -> list[int]:
        return sorted(round(v * scale) for part in parts for v in part.flatten().tolist())

    held = [samples(fold.held.y) for fold in folds]
    every = samples(records.y)
    assert sorted(value for out in held[:4] for value in out) == every
    for fold, out in zip(folds, held, strict=True):
        kept = samples(fold.train.y)
        assert not set(kept) & set(out)
        # What is neither trained nor judged on is in parts too short to be of use.
        assert len(every) - len(kept) - len(out) < 2 * 20
        assert all(len(part[0]) >= 20 for part in (*fold.train.y, *fold.held.y))
    assert held[4] == every[200:]
    assert max(samples(folds[4].train.y)) < min(held[4])


def test_errors_are_those_of_a_loop() -> None:
    systems = [stable(3, 2, 2, seed=seed) for seed in (1, 2)]
    u, y = draw(90, 2, seed=3), draw(90, 2, seed=4)
    records = read_records(u, y)
    stacked = [torch.stack(parts) for parts in zip(*(s.matrices for s in systems), strict=True)]
    unit = spread(records)
    A, B, C, D = stacked
    found = simulation_errors(records, (A, B, C, D), unit)
    v, z = records.u[0][0].numpy(), records.y[0][0].numpy()
    for k, system in enumerate(systems):
        a, b, c, d = (M.numpy() for M in system.matrices)

        def run(x: np.ndarray, a=a, b=b, c=c, d=d) -> np.ndarray:
            outputs = []
            for value in v:
                outputs.append(c @ x + d @ value)
                x = a @ x + b @ value
            return np.array(outputs)

        window = 90 // 4
        bare = run(np.zeros(3))
        table = np.concatenate([c @ np.linalg.matrix_power(a, t) for t in range(window)])
        x0 = np.linalg.lstsq(table, (z - bare)[:window].ravel(), rcond=None)[0]
        rest = (z - run(x0))[window:]
        expected = np.mean(np.sqrt((rest**2).mean(0)) / z.std(0))
        assert float(found[k]) == pytest.approx(expected, rel=1e-9)


def test_a_system_that_runs_away_counts_as_bad_and_not_as_an_error() -> None:
    records = read_records(draw(400, 1), draw(400, 1, seed=1))
    A = torch.tensor([[[1e9]], [[0.5]], [[float("nan")]]], dtype=torch.float64)
    one = torch.ones(3, 1, 1, dtype=torch.float64)
    errors = simulation_errors(records, (A, one, one, one), spread(records))
    assert errors[0] == 100
    assert errors[2] == 100
    assert errors[1] < 3


@pytest.mark.parametrize("records", [1, 3])
def test_without_noise_the_smallest_exact_model_is_chosen(records: int) -> None:
    system = card_system()
    us = [draw(300 + 40 * k, 1, seed=k) for k in range(records)]
    ys = [simulate(system, u)[0] for u in us]
    found = identify_validated(us, ys, dt=0.5)
    assert found.candidates[0].order == 3
    assert found.candidates[0].error < 1e-9
    assert found.model is found.start
    assert found.kind == "subspace"
    assert found.start.system.dt == 0.5
    assert markov_gap(found.model.system, system) < 1e-8
    errors = [one.error for one in found.candidates[1:]]
    assert errors == sorted(errors)


def test_all_matrices_from_regressed_states_are_those_of_the_textbook() -> None:
    u, e = draw(400, 1), 0.3 * draw(400, 1, seed=1)
    y = simulate(card_system(), u)[0] + e
    n, rows = 3, 6
    method = dataclasses.replace(N4SID, dynamics="states")
    found = identify(u, y, n, weighting=method, horizon=rows, focus="states")
    a, b = (x[:, 0].numpy() / np.sqrt((x.numpy() ** 2).mean()) for x in (u, y))
    count = len(a) - 2 * rows + 1

    def stack(x: np.ndarray, start: int) -> np.ndarray:
        return np.array([x[start + k : start + k + count] for k in range(rows)])

    past, future = np.vstack([stack(a, 0), stack(b, 0)]), stack(b, rows)
    later = np.vstack([stack(a, 1), stack(b, 1)])
    both = np.vstack([past, stack(a, rows)])
    theta = np.linalg.lstsq(both.T, future.T, rcond=None)[0][: 2 * rows].T
    U, s, _ = np.linalg.svd(theta @ past)
    gamma = np.linalg.pinv(U[:, :n] * np.sqrt(s[:n]))
    x, after = gamma @ theta @ past, gamma @ theta @ later
    known = np.vstack([x, a[rows : rows + count]])
    M = np.linalg.lstsq(known.T, np.vstack([after, b[rows : rows + count]]).T, rcond=None)[0].T
    parts = M[:n, :n], M[:n, n:], M[n:, :n], M[n:, n:]
    ratio = float(y.square().mean().sqrt() / u.square().mean().sqrt())
    expected = StateSpace(parts[0], parts[1] * ratio, parts[2], parts[3] * ratio, 1.0)
    assert markov_gap(found.system, expected) < 1e-9
    again = simulate(found.system, u, found.x0[0])[0]
    fit = 100 * (1 - (y - again).norm() / (y - y.mean()).norm())
    assert float(fit) == pytest.approx(float(found.fit[0, 0]), abs=1e-9)
    # No other first state simulates the record better.
    for d in torch.eye(n, dtype=torch.float64):
        moved = simulate(found.system, u, found.x0[0] + 1e-4 * d)[0]
        assert (y - moved).norm() > (y - again).norm()


def test_a_batch_takes_regressed_states_too() -> None:
    u = draw(5, 300, 1)
    y = torch.stack([simulate(card_system(), x)[0] for x in u]) + 0.2 * draw(5, 300, 1, seed=2)
    method = regressed(CVA)
    many = identify_batch(u, y, 3, weighting=method, focus="states")
    for k in range(5):
        one = identify(u[k], y[k], 3, weighting=method, focus="states")
        A, B, C, D = (M[k] for M in many.system.matrices)
        assert markov_gap(StateSpace(A, B, C, D, 1.0), one.system) < 1e-7
        assert torch.allclose(many.fit[k], one.fit[0], atol=1e-6)
    assert many.focus == "states"


def test_drift_is_not_summed_up_by_regressed_states() -> None:
    system, gaps = card_system(), []
    for seed in range(6):
        u = draw(1500, 1, seed=seed)
        walk = draw(1500, 1, seed=100 + seed).cumsum(0)
        y = simulate(system, u)[0] + 0.5 * walk
        plain = identify(u, y, 4, weighting=CVA)
        states = identify(u, y, 4, weighting=regressed(CVA), focus="states")
        gaps.append([markov_gap(one.system, system) for one in (plain, states)])
    simulated, from_states = np.median(gaps, 0)
    assert from_states < simulated


def test_a_refinement_is_taken_where_it_simulates_better() -> None:
    u = draw(800, 1)
    y = simulate(card_system(), u)[0]
    y = y + 0.5 * y.std() * draw(800, 1, seed=1)
    found = identify_validated(u, y, 3, weightings=(CVA,), horizons=(5,))
    assert set(found.refinements) == {"prediction error", "simulation error"}
    plain = identify_validated(u, y, 3, weightings=(CVA,), horizons=(5,), refined=False)
    assert plain.model is plain.start
    assert not plain.refinements
    assert plain.candidates == found.candidates
    if found.kind != "subspace":
        assert _better(found.refinements[found.kind], found.candidates[0].errors)
        assert (found.model.fit >= found.start.fit - 1e-9).all()
    assert _better((1.0, 1.1, 0.9), (2.0, 2.2, 1.8))
    assert not _better((1.0, 3.0, 0.9), (2.0, 2.2, 1.0))


def test_what_cannot_be_validated_is_told() -> None:
    u, y = draw(200, 1), draw(200, 1, seed=1)
    with pytest.raises(ValueError, match="identify_validated simulates, which needs an input"):
        identify_validated(None, y)
    with pytest.raises(ValueError, match=r"folds is 1 and stability 1\.0"):
        identify_validated(u, y, folds=1)
    with pytest.raises(ValueError, match="order is 0; a whole number"):
        identify_validated(u, y, 0)
    with pytest.raises(ValueError, match="stability 2"):
        identify_validated(u, y, stability=2)
    with pytest.raises(ValueError, match=r"lengths \[40\] in 4 folds allow none of the horizons"):
        identify_validated(u[:40], y[:40], horizons=(20,))
    with pytest.raises(ValueError, match='cva has dynamics="shift", and not "states"'):
        identify(u, y, 2, weighting=CVA, focus="states")
    assert identify(u, y, 2, weighting=SSARX, focus="states").focus == "states"
