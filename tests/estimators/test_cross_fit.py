"""Calibration on training records that models which did not see them simulate."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from identifier_systems import identifier, measured
from scipy.signal import lfilter

from statewise.data import Experiments
from statewise.estimators import ErrorObserver, LinearSystem, StateObserver, SystemIdentifier
from statewise.estimators.cross_fit import left_out


def _records(*lengths: int, seed: int = 0) -> Experiments:
    """Records of a linear system with errors that remember a little."""
    rng = np.random.default_rng(seed)
    u = [rng.standard_normal((n, 1)) for n in lengths]
    y = [
        lfilter([0.0, 1.0], [1.0, -0.8], x, axis=0)
        + lfilter([0.3], [1.0, -0.6], rng.standard_normal(x.shape), axis=0)
        for x in u
    ]
    return Experiments.from_arrays(u, y)


def _growing(length: int, seed: int, wet: float) -> tuple[np.ndarray, np.ndarray]:
    """An output whose errors grow with it; ``wet`` scales the input."""
    rng = np.random.default_rng(seed)
    u = wet * rng.exponential(1.0, (length, 1)) * (rng.random((length, 1)) < 0.3)
    x = lfilter([1.0], [1.0, -0.8], u, axis=0)
    return u, x + (0.05 + 0.3 * x) * rng.standard_normal(x.shape)


def test_no_block_is_seen_by_the_model_that_simulates_it() -> None:
    data = _records(300)
    model = LinearSystem(1, "arx").fit(data)
    block = slice(100, 200)
    y = np.array(data[0].y)
    y[block] = 50.0  # would spoil any model that saw it
    other = data.map(lambda r: dataclasses.replace(r, y=y))
    (clean,), (spoilt,) = (left_out(model, x, None, 3) for x in (data, other))
    np.testing.assert_array_equal(spoilt.free[block], clean.free[block])
    assert np.abs(spoilt.free[:100] - clean.free[:100]).max() > 1
    np.testing.assert_array_equal(clean.z, model._signals(data[0]).z)


def test_every_block_is_that_of_a_model_without_it() -> None:
    data = _records(120, 60, 20)  # 200 samples in 4 blocks: two records are cut
    model = LinearSystem(1, "arx").fit(data)
    found = np.concatenate([s.free for s in left_out(model, data, None, 4)])
    block = np.arange(200) // 50
    for k in range(4):
        parts = np.split(block == k, [120, 180])
        y = [np.where(p[:, None], np.nan, r.y) for p, r in zip(parts, data, strict=True)]
        known = [i for i in range(3) if np.isfinite(y[i]).any()]
        assert len(known) == (2 if k == 3 else 3)
        copy = LinearSystem(1, "arx").fit([data[i].u for i in known], [y[i] for i in known])
        free = np.concatenate(copy.simulate_experiments(data))
        np.testing.assert_allclose(
            model.normaliser_.inverse_y(found)[block == k], free[block == k], atol=1e-12
        )


def test_errors_that_are_too_small_in_sample_get_bands_that_hold() -> None:
    narrow, honest = [], []
    for seed in range(4):
        data, new = _records(200, seed=seed), _records(2000, seed=100 + seed)
        model = LinearSystem(20, "arx").fit(data)  # many more states than the system has
        for shares, folds in ((narrow, 0), (honest, 5)):
            model.fit_noise(data, folds=folds)
            (bands,) = model.filter(new)
            shares.append(bands.coverage(new[0].y)[0])
    assert model.noise_.judged_on == "left-out training"
    assert np.mean(narrow) < 0.86
    assert abs(np.mean(honest) - 0.9) < 0.03


def test_training_records_tell_what_a_calm_validation_record_does_not() -> None:
    u, y = _growing(1500, 0, wet=1.0)
    train = Experiments.from_arrays(u, y)
    valid = Experiments.from_arrays(*_growing(300, 1, wet=0.02))
    u, y = _growing(1500, 2, wet=1.0)
    model = LinearSystem(1, "oe").fit(train)
    shares = {}
    for folds in (0, 5):
        model.fit_noise(train, valid, folds=folds)
        shares[folds] = model.filter(u, y).coverage(y)[0]
    assert model.noise_.judged_on == "validation and left-out training"
    assert abs(shares[5] - 0.9) < 0.03
    assert shares[0] < 0.5


def test_identifier_is_trained_again_for_each_block_and_saved(tmp_path: Path) -> None:
    u, y = measured(600)
    train = Experiments.from_arrays(u[:320], y[:320], dt=0.5)
    valid = Experiments.from_arrays(u[320:], y[320:], dt=0.5)
    model = identifier().fit(train, valid=valid)
    weights = {name: x.clone() for name, x in model.model_.state_dict().items()}
    plain = model.noise_
    model.fit_noise(train, valid, folds=2)
    assert all((weights[name] == x).all() for name, x in model.model_.state_dict().items())
    more, less = (
        [row.count for row in noise.coverage if row.horizon == 1] for noise in (model.noise_, plain)
    )
    # A run takes a quarter of a record to settle, 64 samples at most.
    assert (more, less) == ([472, 472], [216, 216])
    assert "validation and left-out training data" in model.noise_.summary()
    model.save(tmp_path / "model")
    loaded = SystemIdentifier.load(tmp_path / "model")
    assert loaded.noise_ == model.noise_
    np.testing.assert_array_equal(loaded.filter(u, y).upper, model.filter(u, y).upper)


def test_errors_read_well() -> None:
    data = _records(60)
    model = LinearSystem(1, "arx").fit(data)
    with pytest.raises(ValueError, match=r"folds is 0, or from 2 to the 60 measured .* given 1"):
        model.fit_noise(data, folds=1)
    with pytest.raises(ValueError, match=r"given -2"):
        model.fit_noise(data, folds=-2)
    with pytest.raises(ValueError, match=r"folds=3 leaves out training records; given none"):
        model.fit_noise(None, data, folds=3)
    with pytest.raises(ValueError, match=r"works on; given ErrorObserver, StateObserver"):
        model.fit_noise(data, observers=[ErrorObserver(), StateObserver()], folds=3)
