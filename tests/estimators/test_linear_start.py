"""Training from a linear model: it begins there, never ends below it, and says what it cannot."""

from __future__ import annotations

import numpy as np
import pytest
from identifier_systems import measured, quick, small
from scipy.signal import lfilter

from statewise import DataError
from statewise._config import from_dict, to_dict
from statewise.data import Experiments, Record
from statewise.estimators import LinearStart, SystemIdentifier
from statewise.models import DeepWiener, DeepWienerConfig
from statewise.nn import LayerNorm, LinearPlus, Tanh


def linear_data(length: int = 600, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A linear system of order 3 with offsets, without noise."""
    u = np.random.default_rng(seed).standard_normal((length, 1)) + 3.0
    y = lfilter([0.0, 1.0, 0.5], [1.0, -1.5, 0.7], u[:, 0]) + lfilter([1.0], [1.0, 0.6], u[:, 0])
    return u, 5.0 * y[:, None] - 20.0


def test_start_simulates_as_the_linear_model() -> None:
    """What is found without a single step is the system itself, to float32."""
    u, y = linear_data()
    fitted = SystemIdentifier(small(), quick(steps=0), start=LinearStart(order=3)).fit(u, y)
    tested, expected = linear_data(300, seed=1)
    error = (np.reshape(fitted.simulate(tested), expected.shape) - expected)[60:]
    assert np.sqrt(np.mean(error**2)) < 1e-3 * expected.std()
    assert [row["phase"] for row in fitted.history_] == ["start"]
    assert fitted.history_[0]["valid"] < 2e-2


def test_order_is_found_and_no_larger_than_the_data_say() -> None:
    u, y = measured()
    records = Experiments([Record(y=(y - y.mean(0)) / y.std(0), u=(u - u.mean(0)) / u.std(0))])
    system, offset = LinearStart().system(records, None)
    assert system.n_states <= 4
    assert offset.shape == (2,)
    system, _ = LinearStart().system(records, None, modes=1)
    assert system.n_states <= 2
    system, _ = LinearStart(order=6, weighting="moesp").system(records, None)
    assert system.n_states == 6


def test_training_never_ends_below_the_start() -> None:
    """With a rate that ruins every weight, the start is what is kept."""
    u, y = measured(600)
    ruin = quick(steps=20, lr=10.0, eval_every=5, clip=None)
    fitted = SystemIdentifier(small(), ruin, start="linear", seed=1).fit(u, y)
    errors = [row["valid"] for row in fitted.history_]
    assert errors[0] is not None
    assert all(error is None or error > errors[0] for error in errors[1:])
    untrained = SystemIdentifier(small(), quick(steps=0), start="linear", seed=1).fit(u, y)
    np.testing.assert_array_equal(fitted.simulate(u), untrained.simulate(u))


def test_training_gets_better_from_there() -> None:
    u = np.random.default_rng(0).standard_normal((900, 1))
    y = np.tanh(0.6 * lfilter([1.0], [1.0, -0.8], u, axis=0))
    training = quick(batch_size=8, steps=150, eval_every=25)
    fitted = SystemIdentifier(small(static=Tanh()), training, start="linear").fit(u, y)
    errors = [row["valid"] for row in fitted.history_]
    assert errors[0] < 0.4
    assert min(errors) < 0.5 * errors[0]


def test_missing_samples_split_the_records() -> None:
    u, y = measured(800)
    holes = y.copy()
    holes[[100, 300, 301, 550], 0] = np.nan
    whole = SystemIdentifier(small(), quick(steps=0), start=LinearStart(order=2)).fit(u, y)
    split = SystemIdentifier(small(), quick(steps=0), start=LinearStart(order=2)).fit(u, holes)
    gap = whole.simulate(u) - split.simulate(u)
    assert np.sqrt(np.mean(gap**2)) < 0.15 * y.std()


def test_folder_keeps_the_start(tmp_path) -> None:
    u, y = measured(300)
    fitted = SystemIdentifier(small(), quick(steps=0), start=LinearStart(order=2)).fit(u, y)
    fitted.save(tmp_path / "model")
    again = SystemIdentifier.load(tmp_path / "model")
    assert again.start == LinearStart(order=2)
    assert isinstance(again.model_.config.static, LinearPlus)
    np.testing.assert_array_equal(again.simulate(u), fitted.simulate(u))


def test_a_run_that_goes_on_takes_the_same_course(tmp_path) -> None:
    u, y = measured(300)
    whole = SystemIdentifier(small(), quick(steps=8), start="linear").fit(u, y)
    part = SystemIdentifier(small(), quick(steps=8), start="linear")
    part.fit(u, y, folder=tmp_path)
    part.fit(u, y, folder=tmp_path, resume=True)
    assert [row["step"] for row in part.history_] == [row["step"] for row in whole.history_]
    np.testing.assert_array_equal(part.simulate(u), whole.simulate(u))


def test_what_cannot_be_is_told() -> None:
    u, y = measured(300)
    with pytest.raises(TypeError, match="\"linear\" or a LinearStart; given 'arx'"):
        SystemIdentifier(start="arx").fit(u, y)
    with pytest.raises(ValueError, match="no normalisation"):
        SystemIdentifier(small(norm=LayerNorm()), quick(), start="linear").fit(u, y)
    with pytest.raises(ValueError, match="d_state >="):
        SystemIdentifier(small(d_state=2), quick(), start=LinearStart(order=9)).fit(u, y)
    holes = y.copy()
    holes[::2] = np.nan
    with pytest.raises(DataError, match="do not give a linear model"):
        SystemIdentifier(small(), quick(), start="linear").fit(u, holes)
    for options, words in (
        ({"order": 0}, "order >= 1; given 0"),
        ({"radius": 1.0}, r"radius in \(0, 1\); given 1.0"),
        ({"weighting": "pca"}, "cva.*given 'pca'"),
    ):
        with pytest.raises(ValueError, match=words):
            LinearStart(**options)


def test_start_is_data() -> None:
    start = LinearStart(order=4, weighting="n4sid", radius=0.98)
    assert from_dict(to_dict(start)) == start


def test_model_of_a_start_is_that_of_its_config() -> None:
    u, y = measured(300)
    records = Experiments([Record(y=y - y.mean(0), u=u - u.mean(0))])
    config = DeepWienerConfig(n_layers=2, d_model=5, d_state=6)
    model = LinearStart(order=2).model(records, None, config, seed=3)
    assert isinstance(model, DeepWiener)
    assert (model.d_input, model.d_output, len(model.blocks)) == (2, 2, 2)
