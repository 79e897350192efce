"""LinearSystem: known systems, oracles of simulation and prediction, errors in units, folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from statewise import lti
from statewise._errors import DataError
from statewise.data import Experiments
from statewise.estimators import LinearSystem, reduce_states
from statewise.estimators._innovation_form import GENEROUS, InnovationForm
from statewise.estimators._linear_found import METHODS, POLYNOMIAL

A = np.array([[0.8, 0.3], [-0.3, 0.8]])
B = np.array([[1.0], [0.5]])
C = np.array([[1.0, -0.5]])
K = np.array([[0.4], [0.1]])
POLES = np.linalg.eigvals(A)


def _record(length: int, noise: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """In units of their own: inputs about 5, outputs about 100."""
    rng = np.random.default_rng(seed)
    u, e = rng.standard_normal((length, 1)), noise * rng.standard_normal((length, 1))
    x, y = np.zeros(2), np.empty((length, 1))
    for t in range(length):
        y[t] = C @ x + 0.2 * u[t] + e[t]
        x = A @ x + B @ u[t] + K @ e[t]
    return 5 + 2 * u, 100 + 10 * y


@pytest.fixture(scope="module")
def noisy() -> LinearSystem:
    return LinearSystem(2).fit(*_record(600, 0.3))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_finds_the_system(method: str) -> None:
    u, y = _record(500, 0.01)
    model = LinearSystem(2, method).fit(u, y)
    near = np.abs(model.poles_[:, None] - POLES[None]).min(0)
    assert near.max() < (0.03 if method in ("arx", "oe") else 3e-3)
    assert model.stable_
    gain = 5 * (C @ np.linalg.inv(np.eye(2) - A) @ B + 0.2).item()
    assert lti.dc_gain(model.system_).item() == pytest.approx(gain, rel=0.03)
    assert {item.mode for item in model.scores_} == {"simulation", "1-step prediction"}
    deviations = np.isfinite(model.pole_deviation_)
    assert deviations.any() == (method == "refine" or method in POLYNOMIAL)


@pytest.mark.parametrize("method", ["n4sid", "moesp", "cva"])
def test_without_noise_the_order_and_the_poles_are_exact(method: str) -> None:
    u, y = _record(400)
    model = LinearSystem(method=method, largest_order=6).fit(u, y)
    assert model.order_ == 2
    assert model.how_.startswith("bic over the orders 1 to ")
    mean = 5 * (C @ np.linalg.inv(np.eye(2) - A) @ B + 0.2) * (model.normaliser_.u_mean - 5) + 100
    assert np.abs(mean - model.normaliser_.y_mean).max() < 1e-8
    assert np.abs(np.sort_complex(model.poles_) - np.sort_complex(POLES)).max() < 1e-8


def test_time_constants_and_damping_are_those_of_the_poles() -> None:
    u, y = _record(400)
    model = LinearSystem(2).fit(Experiments.from_arrays(u, y, dt=0.5, time_unit="s"))
    rate = np.log(np.array([0.8 + 0.3j, 0.8 - 0.3j])) / 0.5
    assert np.allclose(model.time_constants_, -1 / rate.real, rtol=1e-6)
    assert np.allclose(model.damping_, -rate.real / np.abs(rate), rtol=1e-6)
    assert model.system_.dt == 0.5


def test_simulation_is_the_loop_in_units_of_the_data(noisy: LinearSystem) -> None:
    u, _ = _record(60, seed=3)
    x0 = np.array([0.3, -1.0])
    system = [M.numpy() for M in noisy.system_.matrices]
    x, expected = x0, []
    for value in u:
        v = value - noisy.normaliser_.u_mean
        expected.append(system[2] @ x + system[3] @ v + noisy.normaliser_.y_mean)
        x = system[0] @ x + system[1] @ v
    assert np.allclose(noisy.simulate(u, x0), expected, rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="x0 is a state of 2 numbers here; given 3"):
        noisy.simulate(u, [1.0, 2.0, 3.0])


@pytest.mark.parametrize("steps", [1, 2, 5, 100])
def test_prediction_is_the_loop_of_the_predictor(noisy: LinearSystem, steps: int) -> None:
    u, y = _record(50, 0.3, seed=4)
    y[20:23] = np.nan
    system, gain = [M.numpy() for M in noisy.system_.matrices], noisy.gain_
    v, z = u - noisy.normaliser_.u_mean, y - noisy.normaliser_.y_mean
    expected = []
    for t in range(50):
        # Outputs until t − steps, then the model alone.
        x = np.zeros(2)
        for s in range(t):
            error = z[s] - system[2] @ x - system[3] @ v[s]
            known = s <= t - steps and np.isfinite(z[s, 0])
            x = system[0] @ x + system[1] @ v[s] + (gain @ error if known else 0.0)
        expected.append(system[2] @ x + system[3] @ v[t] + noisy.normaliser_.y_mean)
    found = noisy.predict(u, y, steps=steps)
    assert np.allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("skip", [4, 30])
def test_the_state_is_found_from_the_first_outputs(skip: int) -> None:
    u, y = _record(500)
    model = LinearSystem(2).fit(u, y)
    inside = Experiments.from_arrays(u[200:320], y[200:320], skip=skip)
    simulated = model.simulate_experiments(inside)[0]
    assert np.abs(simulated - y[200:320])[skip:].max() < 1e-5
    from_rest = model.simulate_experiments(inside.map(lambda r: r.with_fields(skip=0)))[0]
    assert np.abs(from_rest - y[200:320])[skip : skip + 3].max() > 1e-3
    hidden = y[200:320].copy()
    hidden[skip:] = np.nan
    unseen = model.simulate_experiments(Experiments.from_arrays(u[200:320], hidden, skip=skip))[0]
    assert np.array_equal(unseen, simulated)


def test_gaps_are_cut_out_and_inputs_count_as_their_mean() -> None:
    u, y = _record(600)
    y[200:210], u[400:405] = np.nan, np.nan
    model = LinearSystem(2).fit(u, y)
    assert np.abs(np.sort_complex(model.poles_) - np.sort_complex(POLES)).max() < 1e-6
    filled = np.where(np.isfinite(u), u, model.normaliser_.u_mean)
    assert np.array_equal(model.simulate(u), model.simulate(filled))
    odd = np.where(np.arange(600) % 2, np.nan, 1.0)[:, None]
    with pytest.raises(DataError, match="no sample at which all inputs and outputs are known"):
        LinearSystem(2).fit(odd * filled, odd[::-1] * filled)


def test_errors_of_coefficients_are_in_units_of_the_data() -> None:
    u, y = _record(400, 0.2)
    model = LinearSystem(2, "arx", delay=1).fit(u, y)
    centre = model.normaliser_
    plain = lti.arx(u - centre.u_mean, y - centre.y_mean, 2, 2, nk=1)
    names, values, errors = zip(*model.coefficients_, strict=True)
    assert names == ("a[1]", "a[2]", "b[0]", "b[1]")
    expected = np.concatenate([plain.model.a[1:].numpy(), plain.model.b[0].numpy()])
    assert np.allclose(values, expected, rtol=1e-8)
    assert np.allclose(errors, plain.covariance.diagonal().sqrt().numpy(), rtol=1e-8)
    omega = model.omega_[::50]
    deviation = plain.response_deviation(omega)[:, 0].numpy()
    assert np.allclose(model.response_deviation_[::50, 0], deviation, rtol=1e-8)


def test_errors_of_poles_follow_those_of_the_polynomial() -> None:
    u, y = _record(400, 0.2)
    model = LinearSystem(2, "arx", delay=1).fit(u, y)
    centre = model.normaliser_
    plain = lti.arx(u - centre.u_mean, y - centre.y_mean, 2, 2, nk=1)
    polynomial, covariance = plain.model.a.numpy(), plain.covariance[:2, :2].numpy()

    def pole(change: np.ndarray) -> complex:
        roots = np.roots(polynomial + np.append(0.0, change))
        return complex(roots[np.abs(roots - model.poles_[0]).argmin()])

    step = 1e-6
    J = np.array([(pole(step * d) - pole(-step * d)) / (2 * step) for d in np.eye(2)])
    expected = np.sqrt(np.real(J @ covariance @ J.conj()))
    assert model.pole_deviation_[0] == pytest.approx(expected, rel=1e-6)


def test_a_radius_holds_the_poles() -> None:
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.standard_normal(400))
    model = LinearSystem(1, radius=0.9).fit(rng.standard_normal(400), walk)
    assert np.abs(model.poles_).max() <= 0.9 + 1e-12


def test_several_outputs_and_no_inputs() -> None:
    rng = np.random.default_rng(0)
    y = np.zeros((500, 2))
    for t in range(1, 500):
        y[t] = A @ y[t - 1] + rng.standard_normal(2)
    model = LinearSystem(2).fit(None, y)
    assert model.n_features_in_ == 0
    assert np.abs(np.sort_complex(model.poles_) - np.sort_complex(POLES)).max() < 0.1
    assert model.predict(None, y).shape == (500, 2)
    with pytest.raises(ValueError, match="oe is for one output, the records have 2"):
        LinearSystem(2, "oe").fit(None, y)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"method": "n4"}, "method is one of auto, n4sid, .*; given 'n4'"),
        ({"criterion": "bic"}, "criterion is 'bic'; method \"auto\" chooses the order by"),
        (
            {"method": "cva", "criterion": "best"},
            "criterion is one of bic, aic, mdl, gap; given 'best'",
        ),
        ({"order": 0}, "order is a whole number of at least 1; given 0"),
        ({"largest_order": 0}, "largest_order is a whole number"),
        ({"delay": 2}, "delay is 0 or 1 with a state-space method; given 2"),
        ({"radius": 1.5}, "radius is between 0 and 1; given 1.5"),
        ({"method": "arx", "criterion": "gap"}, "arx has no singular values"),
    ],
)
def test_settings_that_no_method_has(settings: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        LinearSystem(**settings).fit(*_record(100))


@pytest.mark.parametrize("method", ["cva", "arx", "refine"])
def test_a_folder_gives_the_same_model(method: str, tmp_path: Path) -> None:
    u, y = _record(300, 0.1)
    model = LinearSystem(None, method, largest_order=4).fit(u, y)
    model.save(tmp_path / "model")
    names = sorted(path.name for path in (tmp_path / "model").iterdir())
    assert names == ["config.json", "metrics.json", "model.safetensors"]
    again = LinearSystem.load(tmp_path / "model")
    assert np.array_equal(again.simulate(u), model.simulate(u))
    assert np.array_equal(again.predict(u, y, steps=3), model.predict(u, y, steps=3))
    for name in ("poles_", "pole_deviation_", "singular_values_", "response_deviation_", "omega_"):
        assert np.array_equal(getattr(again, name), getattr(model, name), equal_nan=True)
    assert again.get_params() == model.get_params()
    assert again.coefficients_ == model.coefficients_
    assert (again.how_, again.order_scores_) == (model.how_, model.order_scores_)


def test_a_folder_of_other_channels_is_refused(tmp_path: Path, noisy: LinearSystem) -> None:
    noisy.save(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    config = json.loads(path.read_text())
    config["signals"]["output_names"] = ["a", "b"]
    path.write_text(json.dumps(config))
    with pytest.raises(DataError, match=r"holds K of \(2, 1\), expected \(2, 2\)"):
        LinearSystem.load(tmp_path / "model")


def test_a_reduced_system_keeps_its_bound_and_its_predictor() -> None:
    u, y = _record(600, 0.1)
    big = LinearSystem(8, radius=0.98).fit(u, y)
    data = Experiments.from_arrays(u, y, skip=50)
    small, found = reduce_states(big, data, to=2)
    (block,) = found.blocks
    assert block.bound is not None
    assert found.fit_before is not None
    assert found.fit_after is not None
    assert (block.order_before, block.order_after) == (8, 2)
    assert block.error <= block.bound * (1 + 1e-6)
    # The bound holds for the part from the inputs alone, between scaled signals.
    scale = big.normaliser_.u_std[0] / big.normaliser_.y_std[0]
    gap = float(lti.hinf_norm(big.system_ - small.system_).upper) * scale
    assert gap <= block.bound * (1 + 1e-6)
    assert len(small.poles_) == 2
    assert len(big.poles_) == 8
    assert found.fit_before - found.fit_after < 0.5
    one_step = small.evaluate(data, 1, metrics=("fit",))[0].value
    assert one_step > small.evaluate(data, metrics=("fit",))[0].value + 1
    least, searched = reduce_states(big, data, tolerance=0.5)
    assert searched.fit_before is not None
    assert searched.fit_after is not None
    assert searched.fit_before - searched.fit_after <= 0.5
    assert len(least.poles_) <= 2
    same, _ = reduce_states(big, data, to=1.0)
    assert np.array_equal(same.simulate(u), big.simulate(u))


def test_what_cannot_be_reduced_is_told() -> None:
    u, y = _record(200, 0.1)
    model, data = LinearSystem(2).fit(u, y), Experiments.from_arrays(u, y)
    with pytest.raises(ValueError, match="one of to and tolerance"):
        reduce_states(model, data)
    with pytest.raises(ValueError, match="to has 2 orders; a LinearSystem takes one"):
        reduce_states(model, data, to=[1, 1])
    with pytest.raises(ValueError, match="an order is at least 1; given 0"):
        reduce_states(model, data, to=0)
    with pytest.raises(ValueError, match=r"a fraction of the states is in \(0, 1\]; given 1.5"):
        reduce_states(model, data, to=1.5)


@pytest.mark.parametrize("length", [13, 40])
def test_short_records_get_the_orders_that_they_allow(length: int) -> None:
    u, y = _record(length, 0.01)
    model = LinearSystem().fit(u, y)
    assert 1 <= model.order_ < 10
    with pytest.raises(ValueError, match="the records are too short"):
        LinearSystem().fit(u[:6], y[:6])


def test_the_spread_of_states_is_their_covariance_in_any_units() -> None:
    units = np.diag([1e9, 1.0])
    form = InnovationForm(
        units @ A @ np.linalg.inv(units), units @ B, units @ K, C @ np.linalg.inv(units), [[0.2]]
    )
    root = np.linalg.inv(units) @ form.spread() / GENEROUS
    P = root @ root.T
    np.testing.assert_allclose(A @ P @ A.T + B @ B.T + K @ K.T, P, rtol=1e-12)
    assert np.array_equal(InnovationForm(2 * A, B, K, C, [[0.0]]).spread(), 1e3 * np.eye(2))
