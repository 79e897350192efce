"""Gradients of the Kalman filter over steps at which its covariance stayed put, and when it may."""

from __future__ import annotations

import importlib
import math
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from statewise import ops
from statewise.ops import kalman_filter, kalman_likelihood, rts_smoother

EYE = torch.eye


def textbook(y, F, H, Q, R, m0, P0, c=None, d=None, observed=None, moves_first=True):
    """Log-likelihoods by the equations of a textbook, for autograd; all or nothing is observed."""
    at = lambda x, t: x[:, min(t, x.shape[1] - 1)]  # noqa: E731
    dot = lambda A, x: (A @ x.unsqueeze(-1)).squeeze(-1)  # noqa: E731
    even = lambda x: (x + x.mT) / 2  # noqa: E731
    m, P, terms = m0, even(P0), []
    for t in range(y.shape[1]):
        if t or moves_first:
            m, P = dot(at(F, t), m), even(at(F, t) @ P @ at(F, t).mT + even(at(Q, t)))
            m = m if c is None else m + at(c, t)
        seen = torch.ones_like(y[:, 0, :1]) if observed is None else observed[:, t, :1].to(y)
        e = y[:, t] - dot(at(H, t), m)
        e = e if d is None else e - at(d, t)
        S = at(H, t) @ P @ at(H, t).mT + even(at(R, t))
        L = torch.linalg.cholesky(S)
        K = torch.cholesky_solve(at(H, t) @ P, L).mT * seen.unsqueeze(-1)
        white = torch.linalg.solve_triangular(L, e.unsqueeze(-1), upper=False).squeeze(-1)
        log = L.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        total = -0.5 * (y.shape[-1] * math.log(2 * math.pi) + white.square().sum(-1)) - log
        terms.append(total * seen.squeeze(-1))
        J = EYE(m.shape[-1], dtype=y.dtype) - K @ at(H, t)
        m, P = m + dot(K, e), even(J @ P @ J.mT + K @ even(at(R, t)) @ K.mT)
    return torch.stack(terms, 1)


def problem(B, T, n, p, *, seed=0, radius=0.9, q=1.0, offsets=True, own=False):
    """A constant model whose transition has a spectral radius near the one given."""
    g = torch.Generator().manual_seed(seed)
    b = B if own else 1

    def normal(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=g)

    root, noise = normal(b, 1, n, n) / math.sqrt(n), normal(b, 1, p, p) / math.sqrt(p)
    start = normal(B, n, n) / math.sqrt(n)
    given = {
        "F": radius * torch.linalg.qr(normal(b, 1, n, n))[0],
        "H": normal(b, 1, p, n),
        "Q": q * root @ root.mT,
        "R": noise @ noise.mT + 0.5 * EYE(p, dtype=torch.float64),
        "m0": normal(B, n),
        "P0": start @ start.mT,
    }
    given["y"] = normal(B, T, p)
    if offsets:
        given["c"], given["d"] = normal(b, 1, n), normal(B, T, p)
    return given


def slopes(function, given, weight):
    """The gradient of a weighted sum of log-likelihoods."""
    leaves = {name: x.clone().requires_grad_() for name, x in given.items()}
    found = function(**leaves)
    grads = torch.autograd.grad((weight * found).sum(), list(leaves.values()))
    return dict(zip(leaves, grads, strict=True))


def agree(found, expected, bound=1e-10):
    for name, x in expected.items():
        scale = x.abs().max().clamp_min(1e-3)
        torch.testing.assert_close(found[name] / scale, x / scale, rtol=0, atol=bound, msg=name)


def weights(y, seed=9):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(y.shape[:2], dtype=torch.float64, generator=g)


def still(given, **options):
    """Which steps the filter took without their covariance."""
    call = [given.get(k) for k in ("y", "F", "H", "Q", "R", "c", "d", "m0", "P0")]
    observed, moves_first = options.get("observed"), options.get("moves_first", True)
    lengths = options.get("lengths")
    return torch.ops.statewise.kalman_filter(*call, observed, lengths, moves_first)[3]


def log(**more):
    return lambda **given: kalman_filter(**given, **more)[2]


@pytest.mark.parametrize("moves_first", [True, False])
@pytest.mark.parametrize(("n", "p"), [(1, 1), (4, 2), (3, 4), (6, 3)])
def test_the_gradient_is_that_of_a_textbook_filter(n, p, moves_first):
    given = problem(2, 240, n, p, seed=n, own=p == 3)
    assert still(given)[:, -60:].all()
    weight = weights(given["y"])
    expected = slopes(lambda **x: textbook(**x, moves_first=moves_first), given, weight)
    agree(slopes(log(moves_first=moves_first), given, weight), expected)


@given(data=st.data())
def test_any_constant_model(data):
    draw = lambda low, high, name: data.draw(st.integers(low, high), name)  # noqa: E731
    given = problem(
        *(draw(1, 3, "B"), draw(60, 140, "T"), draw(1, 6, "n"), draw(1, 5, "p")),
        seed=draw(0, 999, "seed"),
        radius=data.draw(st.sampled_from([0.3, 0.8, 0.99, 1.0, 1.05]), "radius"),
        q=data.draw(st.sampled_from([1.0, 0.01]), "q"),
        offsets=data.draw(st.booleans(), "offsets"),
        own=data.draw(st.booleans(), "own"),
    )
    weight = weights(given["y"])
    agree(slopes(log(), given, weight), slopes(textbook, given, weight))


@pytest.mark.parametrize("more", [0, 1, 30, 31, 32, 33, 48])
def test_series_that_end_soon_after(more):
    given = problem(1, 300, 3, 2, seed=5)
    begin = int(still(given)[0].int().argmax())
    given["y"], given["d"] = (given[k][:, : begin + more] for k in ("y", "d"))
    weight = weights(given["y"])
    agree(slopes(log(), given, weight), slopes(textbook, given, weight))


def test_gaps_wake_it_and_ends_stop_it():
    given = problem(2, 420, 4, 2, seed=3)
    seen = torch.ones(2, 420, 2, dtype=torch.bool)
    seen[0, 150], seen[0, 300], seen[1, 200:210] = False, False, False
    options = {"observed": seen, "lengths": torch.tensor([420, 333])}
    put = still(given, **options)
    assert put[0, [149, 299, 419]].all()
    assert not put[0, [150, 151, 300, 301]].any()
    assert not put[1, [200, 220, 333, 419]].any()
    weight = weights(given["y"])
    valid = torch.arange(420) < options["lengths"].unsqueeze(1)
    expected = slopes(lambda **x: textbook(**x, observed=seen), given, weight * valid)
    agree(slopes(log(**options), given, weight), expected)


@pytest.mark.parametrize("radius", [1.0, 0.999])
def test_states_that_nothing_moves(radius):
    """Known and without noise, so P and K stay 0 in them while Ψ forgets nothing."""
    given = problem(1, 150, 4, 2, radius=0.7, seed=2)
    for name in ("F", "Q", "P0"):
        given[name][..., :2, 2:] = given[name][..., 2:, :2] = 0
    given["F"][..., 2:, 2:] = radius * torch.tensor([[0.6, -0.8], [0.8, 0.6]])
    given["Q"][..., 2:, 2:] = given["P0"][..., 2:, 2:] = 0
    assert still(given)[0, -80:].all()
    weight = weights(given["y"])
    agree(slopes(log(), given, weight), slopes(textbook, given, weight))


def test_a_limit_that_is_reached_slowly():
    given = problem(1, 1000, 2, 1, radius=1.0, q=1e-2, seed=1)
    put = still(given)
    assert put[0, -200:].all()
    assert not put[0, :600].any()
    weight = torch.ones(1, 1000, dtype=torch.float64)
    agree(slopes(log(), given, weight), slopes(textbook, given, weight))


def test_units_of_the_states_do_not_matter():
    """Of a model in other units, twelve orders apart, gradients are those in these units."""
    given = problem(1, 160, 4, 2, seed=8)
    unit = torch.tensor([1e-6, 1.0, 1e3, 1e6], dtype=torch.float64)
    square = unit[:, None] * unit
    factors = {"F": unit[:, None] / unit, "H": 1 / unit, "Q": square, "P0": square}
    factors |= {"m0": unit, "c": unit}
    other = {name: x * factors.get(name, 1.0) for name, x in given.items()}
    weight = weights(given["y"])
    found, expected = (slopes(log(), x, weight) for x in (other, given))
    agree({name: x * factors.get(name, 1.0) for name, x in found.items()}, expected)


@pytest.mark.parametrize("use", [("m", "log"), ("m",), ("P",), ("m", "P", "log")])
def test_gradients_asked_of_moments(use):
    given = problem(2, 160, 4, 2, seed=6)
    g = torch.Generator().manual_seed(1)
    weight = [torch.randn(2, 160, *k, dtype=torch.float64, generator=g) for k in ((4,), (4, 4), ())]

    def slope(backend):
        leaves = {name: x.clone().requires_grad_() for name, x in given.items()}
        with ops.use_backend(backend):
            found = kalman_filter(**leaves)
        named = zip(("m", "P", "log"), weight, found, strict=True)
        loss = torch.stack([(w * x).sum() for name, w, x in named if name in use]).sum()
        grads = torch.autograd.grad(loss, list(leaves.values()))
        return dict(zip(leaves, grads, strict=True))

    agree(slope("cpu"), slope("reference"))


@pytest.mark.parametrize("kept", [0, 10**9])
def test_the_likelihood_alone(kept, monkeypatch):
    """Two series a round, where moments are found again for the gradient."""
    monkeypatch.setattr(sys.modules[kalman_filter.__module__], "KEPT", kept)
    cpu = importlib.import_module("statewise.ops.kalman_filter.cpu")
    monkeypatch.setattr(cpu, "SCRATCH", 2 * 160 * 4 * 5)
    given = problem(3, 160, 4, 2, seed=4)
    weight = weights(given["y"])
    expected = slopes(textbook, given, weight)
    agree(slopes(kalman_likelihood, given, weight), expected)


def test_float32_is_close():
    given = problem(2, 200, 4, 2, seed=7)
    weight = weights(given["y"])
    expected = slopes(log(), given, weight)
    found = slopes(log(), {k: x.float() for k, x in given.items()}, weight.float())
    assert all(x.dtype == torch.float32 for x in found.values())
    agree({k: x.double() for k, x in found.items()}, expected, 1e-4)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_a_covariance_that_comes_back_is_no_limit(backend):
    """Two states change places at every step, and nobody looks: what was two steps ago is again."""
    swap = torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64).expand(1, 1, 2, 2)
    zero, one = torch.zeros(1, 1, 2, 2, dtype=torch.float64), torch.ones(1, 1, 1, 1).double()
    H, start = zero[:, :, :1], torch.diag(torch.tensor([1.0, 2.0])).double().unsqueeze(0)
    y = torch.zeros(1, 60, 1, dtype=torch.float64)
    with ops.use_backend(backend):
        _, P, _ = kalman_filter(y, swap, H, zero, one, y[:, 0].expand(1, 2), start)
        assert P[0, ::2, 0, 0].eq(2).all()
        assert P[0, 1::2, 0, 0].eq(1).all()
        # Backwards alike: all is symmetric until the last step, which knows more of one state.
        P = EYE(2, dtype=torch.float64).repeat(1, 60, 1, 1)
        P[0, -1, 0, 0] = 0.5
        _, Ps, _ = rts_smoother(y.expand(1, 60, 2), P, swap, zero)
    assert Ps[0, 1::2, 0, 0].eq(0.5).all()
    assert Ps[0, ::2, 0, 0].eq(1).all()
