from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from linear_floor import fir_errors, rms, scored

from statewise.data.generators import silverbox_like, two_tanks, wiener_hammerstein
from statewise.data.task import Task

GENERATORS = (wiener_hammerstein, silverbox_like, two_tanks)


def arrays(task: Task) -> list[np.ndarray]:
    parts = [task.train, task.valid, *task.test.values()]
    return [a for part in parts if part is not None for r in part for a in (r.u, r.y)]


@pytest.mark.parametrize("generate", GENERATORS)
def test_same_seed_same_samples_other_seed_others(generate):
    one, same, other = (arrays(generate(n_train=800, n_test=600, seed=seed)) for seed in (3, 3, 4))
    for a, b, c in zip(one, same, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert not np.array_equal(a, c)


@pytest.mark.parametrize("generate", GENERATORS)
def test_sizes_windows_and_units(generate):
    task = generate(n_train=1000, n_test=700, valid_fraction=0.3)
    assert task.valid is not None
    assert len(task.train[0]) == 700
    assert (len(task.valid[0]), task.valid[0].skip) == (350, 50)
    for test in task.test.values():
        assert (len(test[0]), test[0].skip) == (700, 50)
    assert task.train.input_units == ("V",)
    assert task.train.time_unit == "s"
    for values in arrays(task):
        assert np.isfinite(values).all()


@pytest.mark.parametrize("generate", GENERATORS)
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n_train": 10}, "n_train must be a whole number of at least"),
        ({"n_test": 600.5}, "got 600.5"),
        ({"valid_fraction": 1.0}, "valid_fraction must be in [0, 1), got 1.0"),
    ],
)
def test_wrong_sizes_are_named(generate, arguments, words):
    with pytest.raises(ValueError) as caught:
        generate(**{"n_train": 800, "n_test": 600, **arguments})
    assert words in str(caught.value)


def test_wiener_hammerstein_follows_its_recipe():
    task = wiener_hammerstein(n_train=20_000, n_test=4_000, valid_fraction=0)
    u = task.train[0].u[:, 0]
    assert np.std(u) == pytest.approx(0.64, rel=0.02)
    assert task.train.dt == pytest.approx(1 / 51_200)
    power = np.abs(np.fft.rfft(u)) ** 2
    frequency = np.fft.rfftfreq(len(u), 1 / 51_200)
    below, above = (power[(frequency > a) & (frequency < b)].mean() for a, b in
                    ((1e3, 8e3), (16e3, 2.5e4)))  # fmt: skip
    # Butterworth of order 6 at 16 kHz: (tan ratio)^-12 of the warped frequencies, below 1e-3.
    assert above < 1e-3 * below
    # The stop band of G2 lets 40 dB less through; the ripple of G1 ends at 4.4 kHz.
    out = np.abs(np.fft.rfft(task.train[0].y[:, 0])) ** 2
    high = out[(frequency > 6e3) & (frequency < 1e4)].mean()
    assert high < 1e-3 * out[(frequency > 100) & (frequency < 4e3)].mean()


def test_wiener_hammerstein_is_the_cascade_of_its_three_blocks():
    """Small inputs see only the slope of f; the gain at 0 Hz is then known in closed form."""
    from scipy import signal

    from statewise.data.generators.wiener_hammerstein import simulate

    step = np.full(4000, 1e-4)
    rest = simulate(np.zeros(4000))[-1]
    gain = (simulate(step)[-1] - rest) / 1e-4
    slope = 1 - 0.9 / (1 + np.exp(5.0))
    b, a = signal.cheby1(3, 0.5, 4.4e3, fs=51_200)
    d, c = signal.cheby2(3, 40, 5e3, fs=51_200)
    expected = slope * b.sum() / a.sum() * d.sum() / c.sum()
    assert gain == pytest.approx(expected, rel=1e-3)
    assert rest == pytest.approx(-0.09 * np.log1p(np.exp(-5.0)) * d.sum() / c.sum(), rel=1e-6)


def test_linear_floor_of_wiener_hammerstein():
    task = wiener_hammerstein()
    errors = fir_errors(task.train, task.test, 50, ridge=1e-6)["test"]
    assert 0.15 < rms(errors) / np.std(scored(task.test["test"])) < 0.19


def test_linear_floor_of_silverbox_like():
    task = silverbox_like()
    errors = fir_errors(task.train, task.test, 150, ridge=1e-6)
    floor = {name: rms(e) / np.std(scored(task.test[name])) for name, e in errors.items()}
    assert 0.13 < floor["multisine"] < 0.18
    assert 2 * floor["multisine"] < floor["extrapolation"] < 0.5


def test_silverbox_like_excites_odd_harmonics_up_to_200_hz_and_repeats_nothing():
    from statewise.data.generators._signals import odd_multisine

    n = 5000
    u = odd_multisine(n, 0.03, 200.0, 610.35, np.random.default_rng(0))
    period = np.concatenate([u, -u])
    spectrum = np.abs(np.fft.rfft(period))
    excited = spectrum > 1e-6 * spectrum.max()
    lines = np.flatnonzero(excited)
    assert (lines % 2 == 1).all()
    assert lines[0] == 1
    assert lines[-1] * 610.35 / (2 * n) <= 200.0 < (lines[-1] + 2) * 610.35 / (2 * n)
    np.testing.assert_allclose(spectrum[lines], spectrum[1], rtol=1e-9)
    assert rms(u) == pytest.approx(0.03, rel=1e-12)
    half = np.corrcoef(u[: n // 2], u[n // 2 :])[0, 1]
    assert abs(half) < 0.1


def test_silverbox_like_amplitudes():
    task = silverbox_like(n_train=4000, n_test=4000, valid_fraction=0)
    assert rms(task.train[0].u) == pytest.approx(0.03, rel=1e-9)
    assert rms(task.test["multisine"][0].u) == pytest.approx(0.03, rel=1e-9)
    assert rms(task.test["extrapolation"][0].u) == pytest.approx(0.045, rel=1e-9)
    with pytest.raises(ValueError, match="rms must be a positive number of volts, got -1"):
        silverbox_like(rms=-1)


def test_the_duffing_kernel_against_an_adaptive_solver():
    from scipy.integrate import solve_ivp

    from statewise.data.generators._kernels import duffing

    rng = np.random.default_rng(0)
    u = 0.1 * rng.standard_normal(200)
    omega, zeta, cubic, dt = 2 * np.pi * 68, 0.05, 4.0, 1 / 610.35
    state, exact = np.array([0.1, -3.0]), []
    for value in u:
        exact.append(state[0])
        solution = solve_ivp(
            lambda _, s, v=value: [
                s[1], omega**2 * (v - s[0] - cubic * s[0] ** 3) - 2 * zeta * omega * s[1]
            ],
            (0, dt), state, rtol=1e-11, atol=1e-12,
        )  # fmt: skip
        state = solution.y[:, -1]

    def error(substeps: int) -> float:
        fast = duffing(u, omega, zeta, cubic, dt, substeps, 0.1, -3.0)
        return float(np.abs(fast - exact).max() / np.ptp(exact))

    # A rule of order four: half the step, a sixteenth of the error.
    assert error(10) < 1e-5
    assert 12 < error(5) / error(10) < 20
    assert 12 < error(10) / error(20) < 20


def test_two_tanks_overflow_and_stay_in_their_bounds():
    from statewise.data.generators._kernels import two_tanks as kernel

    task = two_tanks(sensor_noise=0.0, process_noise=0.0, valid_fraction=0)
    u = task.train[0].u[:, 0]
    assert np.mean(u) == pytest.approx(2.8, abs=0.01)
    assert np.std(u) == pytest.approx(1.0, abs=0.01)
    levels = kernel(u, np.zeros((len(u), 2)), 0.05, 0.05, 0.053, 0.046, 0.4, 10, 4, 10, 5.0, 5.0)
    assert levels.min() >= 0
    assert levels.max() <= 10
    assert 0.02 < np.mean(levels[:, 0] >= 10) < 0.2
    # After the start is forgotten, the task is this very simulation.
    np.testing.assert_allclose(task.train[0].y[600:, 0], levels[600:, 1], atol=1e-3)


def test_the_tank_kernel_against_the_closed_form():
    """Torricelli: √x falls linearly while a tank drains; a full pump holds x = (k4 u / k1)²."""
    from statewise.data.generators._kernels import two_tanks as kernel

    k1, k2, k3, k4 = 0.05, 0.03, 0.04, 0.046
    quiet = np.zeros((50, 2))
    drained = kernel(np.zeros(50), quiet, k1, k2, k3, k4, 0.4, 10.0, 4.0, 10, 9.0, 4.0)
    expected = np.maximum(3.0 - 0.5 * k1 * 4.0 * np.arange(50), 0.0) ** 2
    np.testing.assert_allclose(drained[:25, 0], expected[:25], atol=1e-8)
    np.testing.assert_allclose(drained[:, 0], expected, atol=1e-3)

    long = np.zeros((3000, 2))
    held = kernel(np.full(3000, 2.0), long, k1, k2, k3, k4, 0.4, 10.0, 4.0, 10, 1.0, 1.0)
    level = (k4 * 2.0 / k1) ** 2
    np.testing.assert_allclose(held[-1], [level, (k2 / k3) ** 2 * level], rtol=1e-6)

    # Overfull: tank 1 stays at the rim and spills k4 u − k1 √10, 40 % of it into tank 2.
    u = 4.0
    full = kernel(np.full(3000, u), long, k1, k2, k3, k4, 0.4, 10.0, 4.0, 10, 1.0, 1.0)
    inflow = k2 * np.sqrt(10.0) + 0.4 * (k4 * u - k1 * np.sqrt(10.0))
    np.testing.assert_allclose(full[-1], [10.0, (inflow / k3) ** 2], rtol=1e-3)


def test_both_tank_records_start_from_the_same_state():
    task = two_tanks(sensor_noise=0.0)
    assert task.train[0].y[0, 0] == task.test["test"][0].y[0, 0]
    assert two_tanks(seed=1, sensor_noise=0.0).train[0].y[0, 0] != task.train[0].y[0, 0]


def test_the_noise_of_the_tanks_is_small_beside_the_linear_floor():
    noisy, quiet = two_tanks(), two_tanks(sensor_noise=0.0, process_noise=0.0)
    errors = fir_errors(noisy.train, noisy.test, 100, ridge=1e-4)["test"]
    floor = rms(scored(noisy.test["test"]) - scored(quiet.test["test"]))
    assert 0.02 < floor < 0.1
    assert 0.2 < rms(errors) < 0.4
    with pytest.raises(ValueError, match="sensor_noise must be 0 or more, got -1"):
        two_tanks(sensor_noise=-1)


def test_importing_the_generators_is_light():
    code = (
        "import sys, statewise.data.generators; "
        "print([m for m in ('numba', 'scipy.signal', 'torch', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
