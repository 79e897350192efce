"""Best linear approximations: theory of the cubic, levels of variance, leakage, refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from lti_systems import stable

from statewise.lti import (
    BestLinearApproximation,
    best_linear_approximation,
    frequency_response,
    random_phase_multisine,
    simulate,
)

N, PERIODS = 256, 5
LINES = range(1, 101)


def noise(shape: torch.Size, size: float, seed: int) -> torch.Tensor:
    return size * torch.randn(
        shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def measured(
    m: int, p: int, realisations: int, cubic: float, size: float, seed: int = 0, periods: int = 5
) -> tuple[BestLinearApproximation, torch.Tensor]:
    """The estimate for (1 + cubic u³) before a linear system, and the linear response."""
    system = stable(3, m, p, seed=3, radius=0.8)
    u = random_phase_multisine(N, LINES, n_inputs=m, realisations=realisations, seed=seed)
    u = u.repeat(1, periods + 1, 1)
    y = simulate(system, u + cubic * u**3)[0]
    y = y + noise(y.shape, size, seed)
    found = best_linear_approximation(list(u), list(y), period=N, transient=1)
    return found, frequency_response(system, found.frequency)


@pytest.mark.parametrize(("m", "p"), [(1, 1), (1, 3), (2, 2), (3, 1)])
def test_a_linear_system_without_noise_is_exact(m, p) -> None:
    found, true = measured(m, p, 3, 0.0, 0.0)
    assert found.response.shape == (100, p, m)
    assert (found.response - true).abs().max() < 1e-12 * true.abs().max()
    assert found.total_variance.max() < 1e-24
    assert found.noise_variance.max() < 1e-24
    assert found.angle.tolist() == pytest.approx((2 * math.pi * np.array(LINES) / N).tolist())


@pytest.mark.parametrize(("m", "p"), [(1, 2), (2, 2)])
def test_noise_of_a_linear_system_is_all_there_is(m, p) -> None:
    realisations, size = 12, 0.3
    found, true = measured(m, p, realisations, 0.0, size)
    # One line of an input has |U|² = (N a/2)² with a² = 2/F; m experiments share the work.
    line = N**2 / (2 * len(LINES))
    expected = N * size**2 / (PERIODS * realisations * m * line)
    # Means over 100 lines, whose relative standard deviations are some per cent.
    assert found.noise_variance.mean((0,)).numpy() == pytest.approx(expected, rel=0.12)
    assert found.total_variance.mean((0,)).numpy() == pytest.approx(expected, rel=0.15)
    share = ((found.response - true).abs().square() / expected).mean(0)
    # Of an exponential variable with mean 1 over 100 lines.
    assert (share - 1).abs().max() < 0.4
    assert float((found.distortion_variance / realisations / expected).mean()) < 0.2


def test_a_cubic_adds_its_gain_and_its_distortion() -> None:
    cubic, realisations = 0.1, 40
    clean, linear = measured(1, 1, realisations, cubic, 0.0)
    # Of F lines of equal size, u³ gives back 3 σ² (1 − 1/(2 F)) u in the mean.
    gain = 1 + 3 * cubic * (1 - 1 / (2 * len(LINES)))
    gap = (clean.response - gain * linear).abs().square()
    ratio = float((gap / clean.total_variance).mean())
    assert 0.7 < ratio < 1.4
    assert clean.noise_variance.max() < 1e-24
    assert abs(complex((clean.response / linear).mean()) - gain) < 0.01
    size = 0.2
    found, _ = measured(1, 1, realisations, cubic, size)
    level = N * size**2 / (PERIODS * realisations * N**2 / (2 * len(LINES)))
    assert float(found.noise_variance.mean()) == pytest.approx(level, rel=0.06)
    assert float(found.distortion_variance.mean()) == pytest.approx(
        float(clean.distortion_variance.mean()), rel=0.15
    )
    total = found.noise_variance + clean.total_variance
    assert float(found.total_variance.mean()) == pytest.approx(float(total.mean()), rel=0.1)


def test_distortion_of_orthogonal_multisines() -> None:
    clean, linear = measured(2, 2, 30, 0.1, 0.0)
    gain = 1 + 3 * 0.1 * (1 - 1 / (2 * len(LINES)))
    gap = (clean.response - gain * linear).abs().square()
    assert 0.7 < float((gap / clean.total_variance).mean()) < 1.4


def test_one_realisation_or_one_period_leaves_one_variance() -> None:
    single, _ = measured(1, 1, 1, 0.0, 0.1)
    assert single.total_variance is None
    assert single.distortion_variance is None
    assert single.variance is single.noise_variance
    assert single.freedom == 2 * (PERIODS - 1)
    u = random_phase_multisine(N, LINES, realisations=4).repeat(1, 2, 1)
    y = simulate(stable(2, 1, 1), u)[0]
    short = best_linear_approximation(list(u[:, 30:]), list(y[:, 30:]), period=N)
    assert short.noise_variance is None
    assert short.periods == 1
    assert short.freedom == 6
    assert "4 realisations, 1 periods" in repr(short)


def test_noise_on_the_inputs_counts_too() -> None:
    u = random_phase_multisine(N, LINES, realisations=30).repeat(1, 6, 1)
    system = stable(2, 1, 1, seed=4, radius=0.7)
    y = simulate(system, u)[0]
    seen = u + noise(u.shape, 0.05, 1)
    found = best_linear_approximation(list(seen), list(y), period=N, transient=1)
    gap = (found.response - frequency_response(system, found.frequency)).abs().square()
    assert 0.7 < float((gap / found.noise_variance).mean()) < 1.4
    assert 0.8 < float((found.total_variance / found.noise_variance).mean()) < 1.25


@pytest.mark.parametrize(("m", "p"), [(1, 1), (2, 2)])
def test_local_polynomials_remove_leakage(m, p) -> None:
    system = stable(3, m, p, seed=3, radius=0.8)
    us = [noise(torch.Size((n, m)), 1.0, n) for n in (1500, 1000)]
    ys = [simulate(system, u, 5 * noise(torch.Size((3,)), 1.0, k))[0] for k, u in enumerate(us)]
    clean = best_linear_approximation(us, ys, dt=0.5)
    assert clean.frequency[-1] < math.pi / 0.5
    true = frequency_response(system, clean.frequency * 0.5)
    assert (clean.response - true).abs().max() < 0.01 * true.abs().max()
    noisy = [y + noise(y.shape, 0.4, k + 7) for k, y in enumerate(ys)]
    found = best_linear_approximation(us, noisy, dt=0.5, degree=2, freedom=12)
    ratio = (found.response - true).abs().square() / found.total_variance
    # E |z|²/s² = ν/(ν − 2) for the variance of few degrees of freedom.
    expected = found.freedom / (found.freedom - 2)
    assert float(ratio.mean()) == pytest.approx(expected, rel=0.12)
    assert found.noise_variance is None
    assert found.periods == 0
    few = best_linear_approximation(us, noisy, dt=0.5, frequency=[0.5, 1.0])
    assert few.response.shape == (2, p, m)
    assert torch.allclose(few.response, frequency_response(system, few.angle), rtol=0.2, atol=0.2)


def test_random_data_show_the_gain_of_a_cubic() -> None:
    system = stable(3, 1, 1, seed=3, radius=0.8)
    u = noise(torch.Size((6000, 1)), 1.0, 3)
    y = simulate(system, u + 0.1 * u**3)[0]
    found = best_linear_approximation(u, y)
    true = 1.3 * frequency_response(system, found.frequency)
    ratio = (found.response - true).abs().square() / found.total_variance
    assert 0.8 < float(ratio.mean()) < 1.6


def test_a_system_fits_the_response() -> None:
    found, linear = measured(2, 2, 10, 0.1, 0.2)
    fitted = found.fit(3)
    assert fitted.converged
    assert 0.7 < fitted.loss < 1.4
    gain = 1 + 3 * 0.1 * (1 - 1 / (2 * len(LINES)))
    assert (fitted.response - gain * linear).abs().max() < 0.03 * linear.abs().max()
    assert found.fit(1).loss > 10
    exact, linear = measured(1, 1, 2, 0.0, 0.0)
    assert (exact.fit(3).response - linear).abs().max() < 1e-10 * linear.abs().max()


def test_the_figure_has_all_entries_and_levels() -> None:
    found, _ = measured(2, 1, 3, 0.1, 0.1)
    figure = found.plot()
    assert len(figure.axes) == 2
    assert [line.get_label() for line in figure.axes[0].get_lines()] == [
        "response",
        "standard deviation",
        "of noise",
        "of distortions, one realisation",
    ]
    single, _ = measured(1, 1, 1, 0.0, 0.1)
    assert len(single.plot().axes[0].get_lines()) == 2


def test_multisines_are_what_they_say() -> None:
    u = random_phase_multisine(60, range(1, 20, 2), n_inputs=3, realisations=2, rms=2.0, seed=1)
    assert u.shape == (6, 60, 3)
    assert u.square().mean(1).numpy() == pytest.approx(4.0)
    spectrum = torch.fft.rfft(u, dim=1).abs()
    assert spectrum[:, 0::2].max() < 1e-10
    assert spectrum[:, 1:20:2].std() < 1e-10
    # Odd: the second half is the first with the other sign.
    assert (u[:, :30] + u[:, 30:]).abs().max() < 1e-12
    blocks = torch.fft.rfft(u, dim=1)[:, 1:20:2].reshape(2, 3, 10, 3).movedim(1, 3)
    inner = blocks @ blocks.mH
    assert (inner - torch.diag_embed(inner.diagonal(dim1=-2, dim2=-1))).abs().max() < 1e-9
    again = random_phase_multisine(
        60, range(1, 20, 2), n_inputs=3, realisations=2, rms=2.0, seed=np.random.default_rng(1)
    )
    assert torch.equal(u, again)


U = random_phase_multisine(32, range(1, 12), realisations=2).repeat(1, 3, 1)
TWO = random_phase_multisine(32, range(1, 12), n_inputs=2).repeat(1, 3, 1)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda f: f(None, U[0]), r"u is None or has no channels"),
        (lambda f: f(U[0], U[0], period=2), r"period is 2"),
        (lambda f: f(U[0], U[0], period=32, transient=3), r"lengths \[96\] leave 0 periods"),
        (lambda f: f(U[0], U[0], period=32, transient=-1), r"transient is -1"),
        (lambda f: f(U[0, :40], U[0, :40], period=32), r"one realisation of one period"),
        (lambda f: f([TWO[0]], [U[0]], period=32), r"1 experiments with 2 inputs"),
        (lambda f: f([TWO[0]] * 2, [U[0]] * 2, period=32), r"not independent at every line"),
        (lambda f: f(U[0], U[0], period=32, lines=[0]), r"lines are \[0\]; multiples from 1 to 15"),
        (lambda f: f(U[0], U[0], lines=[1]), r"go with a period, and period is None"),
        (lambda f: f(U[0], U[0], period=32, frequency=[1.0]), r"frequency goes with data without"),
        (lambda f: f(U[0], U[0], frequency=[4.0]), r"Nyquist frequency 3.14159"),
        (lambda f: f(U[0], U[0], frequency=1.0), r"frequency has shape \(\)"),
        (lambda f: f(U[0], U[0]), r"do not excite every window"),
        (lambda f: f(U[0, :20], U[0, :20]), r"a record of 20 samples has 9 frequencies"),
        (lambda f: f(U[0], U[0], dt=None), r"dt is None"),
        (lambda f: random_phase_multisine(32, [16]), r"1 to 15 are possible"),
        (lambda f: random_phase_multisine(32, []), r"one at least is needed"),
        (lambda f: random_phase_multisine(32, [1], realisations=0), r"realisations is 0"),
    ],
)
def test_errors_say_what_was_given(call, words) -> None:
    with pytest.raises(ValueError, match=words):
        call(best_linear_approximation)
