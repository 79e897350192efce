"""Elementary functions on packs, against NumPy in extended precision."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
from llvmlite import ir

from statewise.ops import simd_math
from statewise.ops.jit import kernel
from statewise.ops.simd import WIDER, any_less, load, root, store, width, zero

exp2, exp, sigmoid, softplus = (
    simd_math.exp2, simd_math.exp, simd_math.sigmoid, simd_math.softplus
)  # fmt: skip
sine, cosine, log = simd_math.sine, simd_math.cosine, simd_math.log


@kernel
def _apply(x, y, wide):
    for o in range(0, x.size, width(x, wide)):
        v = load(x, o, wide)
        store(y[0], o, exp2(v))
        store(y[1], o, exp(v))
        store(y[2], o, sigmoid(v))
        store(y[3], o, softplus(v))
        store(y[4], o, sine(v))
        store(y[5], o, cosine(v))


@kernel
def _logarithm(x, y, wide):
    for o in range(0, x.size, width(x, wide)):
        store(y, o, log(load(x, o, wide)))


@pytest.mark.parametrize("wide", [True, WIDER, None])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logarithms(dtype, wide):
    info = np.finfo(dtype)
    for reach in (80, 1, 1e-4):
        x = np.exp(np.random.default_rng(0).uniform(-reach, reach, 1 << 15)).astype(dtype)
        y = np.empty_like(x)
        _logarithm(x, y, wide)
        assert _ulps(y, np.log(x.astype(np.longdouble))) <= 1
    x = [0, -0.0, -1, -np.inf, np.nan, np.inf, 1, info.tiny, info.smallest_subnormal, info.max]
    x = np.array(x + [2.0] * 6, dtype)
    y = np.empty_like(x)
    _logarithm(x, y, wide)
    assert np.isneginf(y[:2]).all()
    assert np.isnan(y[2:5]).all()
    assert y[5] == np.inf
    assert y[6] == 0
    np.testing.assert_allclose(y[7:10], np.log(x[7:10].astype(np.longdouble)), rtol=info.eps)


def _all(x, wide=WIDER):
    y = np.full((6, x.size), np.nan, x.dtype)
    _apply(x, y, wide)
    return dict(zip(("exp2", "exp", "sigmoid", "softplus", "sine", "cosine"), y, strict=True))


def _ulps(given, expected):
    unit = np.spacing(np.abs(expected).astype(given.dtype)).astype(np.longdouble)
    return float((np.abs(given - expected) / unit).max())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("low", "high"), [(-80, 80), (-1, 1), (-1e-4, 1e-4)])
def test_errors_are_a_few_units_in_the_last_place(dtype, low, high):
    x = np.random.default_rng(0).uniform(low, high, 1 << 17).astype(dtype)
    exact = x.astype(np.longdouble)
    found = _all(x)
    assert _ulps(found["exp2"], np.exp2(exact)) <= 1
    assert _ulps(found["exp"], np.exp(exact)) <= 1
    assert _ulps(found["sigmoid"], 1 / (1 + np.exp(-exact))) <= 3
    plus = np.maximum(exact, 0) + np.log1p(np.exp(-np.abs(exact)))
    assert _ulps(found["softplus"], np.where(x > 20, exact, plus)) <= 4
    for name, function in (("sine", np.sin), ("cosine", np.cos)):
        assert np.abs(found[name] - function(exact)).max() <= np.finfo(dtype).eps


@kernel
def _near(x, y, wide):
    for o in range(0, x.size, width(x, wide)):
        v = load(x, o, wide)
        store(y[0], o, simd_math.sine_near(v))
        store(y[1], o, simd_math.cosine_near(v))


def _sines(x):
    """Sine and cosine with as many digits as it takes, of numbers as they are."""
    with mpmath.workprec(1200):
        angles = [mpmath.mpf(float(v)) for v in x]
        return np.array([[float(f(v)) for v in angles] for f in (mpmath.sin, mpmath.cos)])


@pytest.mark.parametrize("wide", [True, WIDER, None])
@pytest.mark.parametrize(("dtype", "reach"), [(np.float32, 38), (np.float64, 300)])
def test_phases_of_angles_of_any_size(dtype, reach, wide):
    rng = np.random.default_rng(0)
    near = 10 ** rng.uniform(3, 6 if dtype is np.float32 else 14.6, 512)
    x = np.concatenate([10 ** rng.uniform(-3, reach, 512), near]) * rng.choice([-1, 1], 1024)
    x = rng.permutation(x).astype(dtype)
    found = _all(x, wide)
    exact, eps = _sines(x), np.finfo(dtype).eps
    assert np.abs(found["sine"] - exact[0]).max() <= eps
    assert np.abs(found["cosine"] - exact[1]).max() <= eps
    few = np.empty((2, x.size), dtype)
    _near(x, few, wide)
    close = np.abs(x) < simd_math.FAR[ir.FloatType if dtype is np.float32 else ir.DoubleType]
    assert np.abs(few - exact)[:, close].max() <= eps
    assert np.abs(few).max() <= 1 + eps
    # One element that is far changes nothing of those beside it.
    assert (found["sine"][close] == few[0, close]).all()


@pytest.mark.parametrize("wide", [True, WIDER, None])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_phases_where_the_methods_meet(dtype, wide):
    """Where the number of quarter turns fills a mantissa, and at multiples of a quarter."""
    edge = simd_math.FAR[ir.FloatType if dtype is np.float32 else ir.DoubleType]
    turns = np.array([1, 2, 3, 1e3, 1e5, edge / 2, edge, 4 * edge]) * np.pi / 2
    x = np.concatenate([turns, np.nextafter(dtype(edge), np.array([0, np.inf], dtype))])
    x = np.concatenate([x, [edge, 2 * edge, 8 * edge, np.finfo(dtype).max, 1, 2]]).astype(dtype)
    found, exact = _all(x, wide), _sines(x)
    assert np.abs(found["sine"] - exact[0]).max() <= np.finfo(dtype).eps
    assert np.abs(found["cosine"] - exact[1]).max() <= np.finfo(dtype).eps


@pytest.mark.parametrize("wide", [True, WIDER, None])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ends_of_the_range(dtype, wide):
    tiny, huge = np.finfo(dtype).min, np.finfo(dtype).max
    x = np.array([-np.inf, tiny, -3000, huge, np.inf, np.nan, 0, -0.0] * 2, dtype)
    found = {name: y[:8].tolist() for name, y in _all(x, wide).items()}
    for name in ("exp2", "exp"):
        assert found[name][:5] == [0, 0, 0, np.inf, np.inf]
        assert found[name][6:] == [1, 1]
    assert found["sigmoid"][:5] == [0, 0, 0, 1, 1]
    assert found["softplus"][:5] == [0, 0, 0, float(huge), np.inf]
    assert found["cosine"][6:] == [1, 1]
    assert all(np.isnan(values[5]) for values in found.values())
    for name in ("sine", "cosine"):
        assert np.isnan([found[name][0], found[name][4]]).all()
        assert np.isfinite([found[name][1], found[name][3]]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_largest_numbers_do_not_overflow_early(dtype):
    top = np.log2(np.longdouble(np.finfo(dtype).max))
    x = np.full(16, np.nextafter(dtype(top), dtype(0)), dtype)
    found = _all(x)["exp2"]
    assert np.isfinite(found).all()
    assert _ulps(found, np.exp2(x.astype(np.longdouble))) <= 1


@kernel
def _roots(x, y, wide):
    below = 0
    for o in range(0, x.size, width(x, wide)):
        v = load(x, o, wide)
        store(y, o, root(v))
        if any_less(v, zero(x, wide)):
            below += 1
    return below


@pytest.mark.parametrize("wide", [True, WIDER, None])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_square_roots_and_what_is_below_zero(dtype, wide):
    x = np.linspace(0, 9, 64).astype(dtype)
    y = np.empty_like(x)
    assert _roots(x, y, wide) == 0
    assert (y == np.sqrt(x)).all()
    x[[17, 18, 60]] = -1, np.nan, -np.inf
    size = {True: 32, WIDER: 64, None: x.itemsize}[wide] // x.itemsize
    assert _roots(x, y, wide) == len({17 // size, 60 // size})
    assert np.isnan(y[[17, 18, 60]]).all()
