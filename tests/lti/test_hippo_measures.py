"""HiPPO operators against their bases: kernels, orthogonality, what they remember exactly."""

from __future__ import annotations

import json

import numpy as np
import pytest
import scipy.linalg
import scipy.special
from numpy.polynomial import Polynomial

from statewise._config import from_dict, to_dict
from statewise.lti import (
    FouT,
    HiPPO,
    LagT,
    LegS,
    LegT,
    fout,
    lagt,
    legs,
    legs_memory,
    legs_rebuild,
    legt,
)

LAGUERRE = [LagT(), LagT(beta=1.0), LagT(alpha=0.5, beta=0.3), LagT(alpha=-0.4, beta=2.0)]
ALL = [LegS(), LegT(), LegT(2.5), FouT(), FouT(0.5), *LAGUERRE]


def test_legt_entries() -> None:
    a, b = legt(5, 2.0)
    for i in range(5):
        assert b[i] == pytest.approx(np.sqrt(2 * i + 1) / 2, rel=1e-15)
        for j in range(5):
            sign = 1 if j <= i else (-1) ** (i - j)
            expected = -np.sqrt((2 * i + 1) * (2 * j + 1)) / 2 * sign
            assert a[i, j] == pytest.approx(expected, rel=1e-15)


def test_lagt_entries() -> None:
    a, b = lagt(4)
    np.testing.assert_allclose(a, 0.5 * np.eye(4) - np.tril(np.ones((4, 4))), rtol=1e-14)
    np.testing.assert_allclose(b, np.ones(4), rtol=1e-14)
    np.testing.assert_allclose(np.diag(lagt(4, 0.3, 1.0)[0]), -np.ones(4), rtol=1e-15)


def test_fout_entries() -> None:
    """The entries by the rules of the paper: cosines at 2k, sines at 2k + 1, k from 1."""
    a, b = fout(8)
    cosine = np.arange(2, 8, 2)
    for i in range(8):
        assert b[i] == pytest.approx(2 if i == 0 else 2 * np.sqrt(2) * (i in cosine))
        for j in range(8):
            expected = 0.0
            if i == j == 0:
                expected = -2.0
            elif (i == 0 and j in cosine) or (j == 0 and i in cosine):
                expected = -2 * np.sqrt(2)
            elif i in cosine and j in cosine:
                expected = -4.0
            elif i - j == 1 and j in cosine:
                expected = np.pi * j
            elif j - i == 1 and i in cosine:
                expected = -np.pi * i
            assert a[i, j] == pytest.approx(expected, rel=1e-14), (i, j)


def test_eigenvalues_of_legs_are_the_negative_integers() -> None:
    a, _ = legs(64)
    assert not np.triu(a, 1).any()
    np.testing.assert_array_equal(np.diag(a), -np.arange(1.0, 65))


@pytest.mark.parametrize("measure", [LegS(), *LAGUERRE], ids=str)
def test_kernels_are_the_closed_forms(measure: HiPPO) -> None:
    assert measure.exact
    age = np.array([0.0, 0.01, 0.3, 1.0, 4.0])
    for n in (1, 2, 12):
        a, b = measure.operator(n)
        kernels = np.stack([scipy.linalg.expm(s * a) @ b for s in age], 1)
        np.testing.assert_allclose(measure.kernels(n, age), kernels, rtol=0, atol=2e-13 * n)


@pytest.mark.parametrize(
    ("measure", "states", "sizes", "errors"),
    [
        (FouT(), [0, 2, 3], (32, 128, 512), (0.04, 0.009, 0.002)),
        (LegT(), [0], (16, 64, 128), (0.07, 0.03, 0.02)),
        (LegT(2.0), [0], (16, 64, 128), (0.07, 0.03, 0.02)),
    ],
    ids=["FouT", "LegT", "wide LegT"],
)
def test_kernels_of_windows_converge(measure, states, sizes, errors) -> None:
    assert not measure.exact
    age = np.linspace(0.02, 0.98, 481) * measure.window
    for n, error in zip(sizes, errors, strict=True):
        a, b = measure.operator(n)
        hop = scipy.linalg.expm((age[1] - age[0]) * a)
        x, kernels = scipy.linalg.expm(age[0] * a) @ b, []
        for _ in age:
            kernels.append(x)
            x = hop @ x
        gap = (np.stack(kernels, 1) - measure.kernels(n, age))[states]
        rms = np.sqrt(np.mean(gap**2)) * measure.window
        assert error / 2 < rms < error, (n, rms)


def rule(measure: HiPPO) -> tuple[np.ndarray, np.ndarray]:
    """Ages and weights of a quadrature of ∫ f(s) ω(s) ds, exact for products of the basis."""
    z, w = np.polynomial.legendre.leggauss(40)
    if isinstance(measure, LegS):
        return -np.log((1 + z) / 2), w / 2
    if isinstance(measure, LegT):
        return measure.window * (1 + z) / 2, w / 2
    if isinstance(measure, FouT):
        return measure.window * np.arange(64) / 64, np.full(64, 1 / 64)
    assert isinstance(measure, LagT)
    s, w = scipy.special.roots_genlaguerre(40, measure.alpha)
    # p_n p_m ω is L_n L_m s^α e^{−s}; the quadrature has s^α e^{−s} in its weights.
    return s, w * np.exp(s) * s**-measure.alpha * measure.weight(s)


@pytest.mark.parametrize("measure", ALL, ids=str)
def test_bases_are_orthonormal(measure: HiPPO) -> None:
    s, w = rule(measure)
    basis = measure.basis(10, s)
    assert basis.shape == (10, len(s))
    expected = np.eye(10)
    if isinstance(measure, FouT):
        expected[1, 1] = 0  # the sine of frequency 0
    np.testing.assert_allclose((basis * w) @ basis.T, expected, rtol=0, atol=1e-11)
    positive = s[s > 0]
    np.testing.assert_allclose(
        measure.kernels(10, positive),
        measure.basis(10, positive) * measure.weight(positive),
        rtol=1e-11,
        atol=1e-300,
    )


def test_squared_kernels_of_legs_integrate_to_a_half() -> None:
    s, w = rule(LegS())
    power = (LegS().basis(12, s) ** 2 * LegS().weight(s) * w).sum(1)
    np.testing.assert_allclose(power, 0.5, rtol=1e-12)


@pytest.mark.parametrize("measure", [LegT(), LegT(3.0), FouT(), FouT(3.0)], ids=str)
def test_wide_windows_are_slower(measure) -> None:
    a, b = measure.operator(6)
    one, drive = type(measure)().operator(6)
    np.testing.assert_allclose(a * measure.window, one, rtol=1e-14)
    np.testing.assert_allclose(b * measure.window, drive, rtol=1e-14)


def test_windows_are_empty_behind_their_end() -> None:
    for measure in (LegT(0.5), FouT(0.5)):
        assert not measure.kernels(4, np.array([0.51, 2.0])).any()
        assert measure.kernels(4, np.array([0.5])).any()


def coefficients(measure: HiPPO, n: int, u, t: float) -> np.ndarray:
    """∫ u(t − s) p_n(s) ω(s) ds."""
    s, w = rule(measure)
    return measure.basis(n, s) @ (w * u(t - s))


@pytest.mark.parametrize("window", [1.0, 1.7])
def test_legt_follows_polynomials_without_error(window: float) -> None:
    """The closure is exact for degrees below n: coefficients obey x' = A x + B u, and rebuild u."""
    measure, n = LegT(window), 7
    a, b = measure.operator(n)
    u = Polynomial(np.random.default_rng(0).standard_normal(n))
    ages = np.linspace(0, window, 9)
    for t in (-0.4, 0.0, 1.3):
        x = coefficients(measure, n, u, t)
        slope = coefficients(measure, n, u.deriv(), t)
        # The quadrature is right to 1e-14; A multiplies what it misses.
        scale = np.linalg.norm(a, 2) * np.abs(x).max()
        np.testing.assert_allclose(a @ x + b * u(t), slope, rtol=0, atol=1e-13 * scale)
        np.testing.assert_allclose(
            x @ measure.basis(n, ages), u(t - ages), rtol=0, atol=1e-12 * np.abs(x).max()
        )


def test_legt_arrives_where_the_polynomial_is() -> None:
    """The system driven by a polynomial of degree 5, solved exactly over two windows."""
    measure, n, t = LegT(), 6, 2.0
    a, b = measure.operator(n)
    u = Polynomial(np.random.default_rng(1).standard_normal(n))
    # The derivatives of u at 0 form an autonomous chain.
    chain = np.array([u.deriv(k)(0.0) if k else u(0.0) for k in range(n)])
    joint = np.zeros((2 * n, 2 * n))
    joint[:n, :n], joint[:n, n] = a, b
    joint[n:, n:] = np.diag(np.ones(n - 1), 1)
    start = np.concatenate([coefficients(measure, n, u, 0.0), chain])
    x = (scipy.linalg.expm(t * joint) @ start)[:n]
    expected = coefficients(measure, n, u, t)
    np.testing.assert_allclose(x, expected, rtol=0, atol=1e-11 * np.abs(expected).max())


@pytest.mark.parametrize("window", [1.0, 0.3])
def test_fout_follows_periodic_inputs_without_error(window: float) -> None:
    measure, n = FouT(window), 8
    a, b = measure.operator(n)
    rng = np.random.default_rng(2)
    cosines, sines = rng.standard_normal(4), rng.standard_normal(4)
    turn = 2 * np.pi / window * np.arange(4)

    def u(t: np.ndarray) -> np.ndarray:
        angle = np.multiply.outer(t, turn)
        return np.cos(angle) @ cosines + np.sin(angle) @ sines

    def slope(t: np.ndarray) -> np.ndarray:
        angle = np.multiply.outer(t, turn)
        return np.cos(angle) @ (turn * sines) - np.sin(angle) @ (turn * cosines)

    for t in (0.0, 0.77):
        x = coefficients(measure, n, u, t)
        change = coefficients(measure, n, slope, t)
        value = u(np.array(t))
        np.testing.assert_allclose(a @ x + b * value, change, rtol=0, atol=1e-12 / window)
        ages = np.linspace(0, window, 9)
        np.testing.assert_allclose(x @ measure.basis(n, ages), u(t - ages), rtol=0, atol=1e-12)


def test_legs_rebuilds_polynomials_of_the_warped_age() -> None:
    """Where u(t − s) is a polynomial of e^{−s} of degree below n, nothing is lost."""
    n, measure = 6, LegS()
    warped = Polynomial(np.random.default_rng(3).standard_normal(n))
    s, w = rule(measure)
    x = measure.basis(n, s) @ (w * warped(np.exp(-s)))
    ages = np.linspace(0, 5, 11)
    np.testing.assert_allclose(
        x @ measure.basis(n, ages), warped(np.exp(-ages)), rtol=0, atol=1e-12
    )


def test_time_varying_legs_projects_the_whole_history() -> None:
    """c' = (A c + B u)/t for coefficients on [0, t] with √(2n+1) P_n(2s/t − 1), for any u."""
    n = 9
    a, b = legs(n)
    z, w = np.polynomial.legendre.leggauss(60)
    basis = np.sqrt(2 * np.arange(n) + 1)[:, None] * scipy.special.eval_legendre(
        np.arange(n)[:, None], z
    )
    for t in (0.5, 2.0):
        past = t * (1 + z) / 2
        c = basis @ (w / 2 * np.sin(3 * past))
        # c(t) = ∫_0^1 u(t v) p_n(v) dv, so c' = ∫_0^1 v u'(t v) p_n(v) dv.
        slope = basis @ (w / 2 * (1 + z) / 2 * 3 * np.cos(3 * past))
        found = (a @ c + b * np.sin(3 * t)) / t
        scale = np.linalg.norm(a, 2) / t
        np.testing.assert_allclose(found, slope, rtol=0, atol=1e-13 * scale)


def test_legs_memory_is_its_recurrence() -> None:
    """(I − A/(2(k+1))) c_{k+1} = (I + A/(2k)) c_k + B f_k/k, written out."""
    f = np.random.default_rng(4).standard_normal(30)
    memory = legs_memory(f, 5)
    a, b = legs(5)
    np.testing.assert_array_equal(memory[0], [f[0], 0, 0, 0, 0])
    for k in range(1, 30):
        left = (np.eye(5) - a / (2 * (k + 1))) @ memory[k]
        right = (np.eye(5) + a / (2 * k)) @ memory[k - 1] + b * f[k] / k
        np.testing.assert_allclose(left, right, rtol=0, atol=1e-13)


def test_legs_memory_rebuilds_the_history_at_any_rate() -> None:
    """32 coefficients keep a smooth history to 1 %, and twice the samples change them by less."""

    def f(place: np.ndarray) -> np.ndarray:
        return np.sin(6 * place) + 0.5 * np.cos(11 * place + 1)

    place, ends = np.linspace(0, 1, 101), []
    for length in (1000, 2000):
        memory = legs_memory(f(np.arange(1, length + 1) / length), 32)
        gap = legs_rebuild(memory[-1], place) - f(place)
        assert np.linalg.norm(gap) < 0.01 * np.linalg.norm(f(place))
        ends.append(memory[-1])
    assert np.linalg.norm(ends[1] - ends[0]) < 0.01 * np.linalg.norm(ends[0])


def test_legs_rebuild_inverts_the_projection_of_polynomials() -> None:
    u, place = Polynomial(np.random.default_rng(5).standard_normal(6)), np.linspace(0, 1, 7)
    z, w = np.polynomial.legendre.leggauss(20)
    basis = np.sqrt(2 * np.arange(6) + 1)[:, None] * scipy.special.eval_legendre(
        np.arange(6)[:, None], z
    )
    c = basis @ (w / 2 * u((1 + z) / 2))
    np.testing.assert_allclose(legs_rebuild(c, place), u(place), rtol=0, atol=1e-12)


@pytest.mark.parametrize("measure", ALL, ids=str)
def test_measures_are_data(measure: HiPPO) -> None:
    assert from_dict(json.loads(json.dumps(to_dict(measure)))) == measure


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: legt(0), "at least one state; given n = 0"),
        (lambda: legt(3, 0.0), r"window above 0; given window = 0\.0"),
        (lambda: lagt(0), "at least one state; given n = 0"),
        (lambda: lagt(3, -1.0), r"alpha > -1 .* given alpha = -1\.0, beta = 0\.0"),
        (lambda: lagt(3, 0.0, -0.1), r"beta = -0\.1"),
        (lambda: fout(5), "even number of states.* n = 5"),
        (lambda: fout(4, -1.0), r"window = -1\.0"),
        (lambda: LegT(-2.0), r"LegT needs a window above 0; given window = -2\.0"),
        (lambda: FouT(float("nan")), "window = nan"),
        (lambda: LagT(beta=-1.0), r"beta = -1\.0"),
        (lambda: legs_memory(np.zeros((2, 2)), 3), r"shape \(L,\), L >= 1; given \(2, 2\)"),
        (lambda: legs_memory(np.zeros(2), 0), "at least one state; given n = 0"),
    ],
)
def test_arguments_are_checked(call, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call()
