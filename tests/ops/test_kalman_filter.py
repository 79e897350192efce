"""Kalman filter and smoother: back ends beside the reference, both beside dense Gaussians."""

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

BACKENDS = ("reference", "cpu")


def covariance(generator, rank, *shape):
    """Positive semi-definite matrices of so small a rank."""
    *batch, n = shape
    root = torch.randn(*batch, n, rank, dtype=torch.float64, generator=generator)
    return root @ root.mT / math.sqrt(n)


def problem(B, T, n, p, *, seed=0, varies=False, own=False, offsets=True, gaps=0.0, ends=False):
    """Arguments of the filter, whose parameters may vary in time or be each series' own."""
    g = torch.Generator().manual_seed(seed)
    b, t = (B if own else 1), (T if varies else 1)

    def normal(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=g)

    given = {
        "y": normal(B, T, p),
        "F": 0.9 * torch.linalg.qr(normal(b, t, n, n))[0],
        "H": normal(b, t, p, n),
        "Q": covariance(g, max(1, n - 1), b, t, n),
        "R": covariance(g, p + 1, b, t, p) + 0.1 * torch.eye(p, dtype=torch.float64),
        "m0": normal(B, n),
        "P0": covariance(g, n, B, n),
    }
    options = {}
    if offsets:
        given["c"], given["d"] = normal(b, t, n), normal(b, t, p)
    if gaps:
        options["observed"] = torch.rand(B, T, p, generator=g) > gaps
    if ends:
        options["lengths"] = torch.randint(1, T + 1, (B,), generator=g)
    return given, options


def joint(given, series, moves_first=True):
    """Mean and covariance of all states and all outputs of one series."""
    at = lambda x, t: x[min(series, len(x) - 1), min(t, x.shape[1] - 1)]  # noqa: E731
    T, n = given["y"].shape[1], given["m0"].shape[1]
    m, P = given["m0"][series], given["P0"][series]
    means, blocks = [], torch.zeros(T, T, n, n, dtype=torch.float64)
    for t in range(T):
        F = at(given["F"], t)
        if t or moves_first:
            m, P = F @ m, F @ P @ F.mT + at(given["Q"], t)
            if given.get("c") is not None:
                m = m + at(given["c"], t)
            for s in range(t):
                blocks[t, s] = F @ blocks[t - 1, s]
                blocks[s, t] = blocks[t, s].mT
        blocks[t, t] = P
        means.append(m)
    H = torch.block_diag(*(at(given["H"], t) for t in range(T)))
    R = torch.block_diag(*(at(given["R"], t) for t in range(T)))
    mean, cov = torch.cat(means), blocks.transpose(1, 2).reshape(T * n, T * n)
    mean_y = H @ mean
    if given.get("d") is not None:
        mean_y = mean_y + torch.cat([at(given["d"], t) for t in range(T)])
    return mean, cov, mean_y, H @ cov @ H.mT + R, H @ cov


def conditioned(given, options, series, stop, moves_first=True):
    """Moments of all states given what is observed before ``stop``, and log p of that."""
    mean, cov, mean_y, S, C = joint(given, series, moves_first)
    T, p = given["y"].shape[1:]
    seen = torch.ones(T, p, dtype=torch.bool)
    if "observed" in options:
        seen = options["observed"][series].clone()
    seen[stop:] = False
    seen = seen.reshape(-1)
    e = (given["y"][series].reshape(-1) - mean_y)[seen]
    S, C = S[seen][:, seen], C[seen]
    solved = torch.linalg.solve(S, torch.cat([C, e[:, None]], 1))
    count = int(seen.sum())
    log = -0.5 * (count * math.log(2 * math.pi) + torch.logdet(S) + e @ solved[:, -1])
    return mean + C.mT @ solved[:, -1], cov - C.mT @ solved[:, :-1], log


def close(found, expected, bound=1e-10):
    torch.testing.assert_close(found, expected, rtol=bound, atol=bound)


CASES = [
    {"n": 1, "p": 1},
    {"n": 3, "p": 2, "gaps": 0.4},
    {"n": 4, "p": 4, "varies": True},
    {"n": 2, "p": 3, "own": True, "ends": True, "gaps": 0.3},
    {"n": 6, "p": 2, "varies": True, "own": True, "gaps": 0.3},
    {"n": 9, "p": 5, "offsets": False, "ends": True},
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("moves_first", [True, False])
def test_equals_conditioning_the_joint_gaussian(backend, case, moves_first):
    B, T, n = 2, 6, case["n"]
    given, options = problem(B, T, **case)
    with ops.use_backend(backend):
        m, P, log = kalman_filter(**given, **options, moves_first=moves_first)
        ms, Ps, cross = rts_smoother(
            *(m, P, given["F"], given["Q"]),
            c=given.get("c"),
            lengths=options.get("lengths"),
            cross=True,
        )
    for i in range(B):
        stop = int(options["lengths"][i]) if "lengths" in options else T
        for t in range(stop):
            mean, cov, total = conditioned(given, options, i, t + 1, moves_first)
            now = slice(t * n, (t + 1) * n)
            close(m[i, t], mean[now])
            close(P[i, t], cov[now, now])
            close(log[i, : t + 1].sum(), total)
        mean, cov, _ = conditioned(given, options, i, stop, moves_first)
        close(ms[i, :stop].flatten(), mean[: stop * n])
        for t in range(stop):
            now, before = slice(t * n, (t + 1) * n), slice((t - 1) * n, t * n)
            close(Ps[i, t], cov[now, now])
            if t:
                close(cross[i, t], cov[now, before])
        for x in (m, P, log, ms, Ps, cross):
            assert not x[i, stop:].any()


def gradients(given, options, backend, use=("m", "P", "log"), **more):
    leaves = {name: x.clone().requires_grad_() for name, x in given.items()}
    with ops.use_backend(backend):
        found = dict(
            zip(("m", "P", "log"), kalman_filter(**leaves, **options, **more), strict=True)
        )
    g = torch.Generator().manual_seed(1)
    weights = {k: torch.randn(x.shape, dtype=x.dtype, generator=g) for k, x in found.items()}
    loss = sum((weights[k] * found[k]).sum() for k in use)
    return found, dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("use", [("log",), ("m",), ("P",), ("m", "P", "log")])
def test_gradients_of_back_ends_agree(case, use):
    given, options = problem(3, 9, **case)
    expected, slopes = gradients(given, options, "reference", use)
    found, fast = gradients(given, options, "cpu", use)
    for name in expected:
        close(found[name], expected[name], 1e-11)
    for name in slopes:
        scale = slopes[name].abs().max().clamp_min(1e-3)
        close(fast[name] / scale, slopes[name] / scale, 1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("moves_first", [True, False])
@pytest.mark.parametrize("case", CASES[1:4])
def test_gradient_against_finite_differences(backend, moves_first, case):
    given, options = problem(2, 3, **case)

    def function(*tensors):
        arguments = dict(zip(given, tensors, strict=True))
        return kalman_filter(**arguments, **options, moves_first=moves_first)

    with ops.use_backend(backend):
        leaves = [x.requires_grad_() for x in given.values()]
        assert torch.autograd.gradcheck(function, leaves, eps=1e-6, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kept", [0, 10**9])
@pytest.mark.parametrize("case", CASES)
def test_the_likelihood_alone_is_that_of_the_filter(backend, kept, case, monkeypatch):
    # Two of five series a round, where moments are found again for the gradient.
    monkeypatch.setattr(sys.modules[kalman_filter.__module__], "KEPT", kept)
    n = case["n"]
    cpu = importlib.import_module("statewise.ops.kalman_filter.cpu")
    monkeypatch.setattr(cpu, "SCRATCH", 2 * 9 * n * (n + 1))
    given, options = problem(5, 9, **case)
    expected, slopes = gradients(given, options, backend, ("log",))
    leaves = {name: x.clone().requires_grad_() for name, x in given.items()}
    with ops.use_backend(backend):
        plain = kalman_likelihood(**given, **options)
        found = kalman_likelihood(**leaves, **options)
    close(plain, expected["log"], 1e-13)
    close(found, expected["log"], 1e-13)
    g = torch.Generator().manual_seed(1)
    for x in expected.values():
        weight = torch.randn(x.shape, dtype=x.dtype, generator=g)
    loss = (weight * found).sum()
    for name, slope in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
        close(slope, slopes[name], 1e-12)


@given(data=st.data())
def test_any_shape(data):
    draw = lambda low, high, name: data.draw(st.integers(low, high), name)  # noqa: E731
    flags = {k: data.draw(st.booleans(), k) for k in ("varies", "own", "offsets", "ends")}
    given, options = problem(
        *(draw(1, 4, "B"), draw(1, 9, "T"), draw(1, 9, "n"), draw(1, 6, "p")),
        gaps=data.draw(st.sampled_from([0.0, 0.4, 0.99]), "gaps"),
        seed=draw(0, 99, "seed"),
        **flags,
    )
    expected, slopes = gradients(given, options, "reference")
    found, fast = gradients(given, options, "cpu")
    for name in expected:
        close(found[name], expected[name], 1e-9)
    for name in slopes:
        scale = slopes[name].abs().max().clamp_min(1.0)
        close(fast[name] / scale, slopes[name] / scale, 1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_split_and_carry(backend):
    given, options = problem(3, 20, 3, 2, gaps=0.3, seed=4)
    with ops.use_backend(backend):
        m, P, log = kalman_filter(**given, **options)
        parts, start = [], {}
        for cut in (slice(0, 7), slice(7, 8), slice(8, 20)):
            piece = given | {"y": given["y"][:, cut]} | start
            found = kalman_filter(**piece, observed=options["observed"][:, cut])
            start = {"m0": found[0][:, -1], "P0": found[1][:, -1]}
            parts.append(found)
    for whole, pieces in zip((m, P, log), zip(*parts, strict=True), strict=True):
        close(torch.cat(pieces, 1), whole, 1e-13)


@pytest.mark.parametrize("n", [1, 4, 6])
def test_covariances_that_no_longer_change(n):
    """Constant models long enough to settle, unsettled again by gaps and ends of series."""
    given, options = problem(2, 600, n, 2, seed=n, ends=True)
    g = torch.Generator().manual_seed(0)
    given["c"] = torch.randn(1, 600, n, dtype=torch.float64, generator=g)
    given["d"] = torch.randn(2, 600, 2, dtype=torch.float64, generator=g)
    seen = torch.ones(2, 600, 2, dtype=torch.bool)
    seen[0, 150], seen[1, 211, 0] = False, False
    options |= {"observed": seen, "lengths": torch.tensor([600, 350])}
    found = {}
    for backend in BACKENDS:
        with ops.use_backend(backend), torch.no_grad():
            m, P, log = kalman_filter(**given, **options)
            alone = kalman_likelihood(**given, **options)
            more = {"c": given["c"], "lengths": options["lengths"], "cross": True}
            smoothed = rts_smoother(m, P, given["F"], given["Q"], **more)
        found[backend] = (m, P, log, alone, *smoothed)
    assert torch.equal(found["cpu"][1][0, 148], found["cpu"][1][0, 149])
    assert not torch.equal(found["cpu"][1][0, 149], found["cpu"][1][0, 150])
    assert torch.equal(found["cpu"][5][0, 400], found["cpu"][5][0, 401])
    for fast, expected in zip(found["cpu"], found["reference"], strict=True):
        close(fast, expected, 1e-11)


@pytest.mark.parametrize("q", [1e-4, 1e-6])
def test_a_covariance_is_kept_only_at_its_limit(q):
    """It closes in by 1 − 2√q a step: far from its limit it barely changes, and must not stay."""
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    y = torch.zeros(1, 20_000, 1, dtype=torch.float64)
    P = kalman_filter(y, one, one, q * one, one, y[:, 0], one[0])[1]
    ahead = q / 2 + math.sqrt(q * q / 4 + q)
    close(P[0, -1, 0, 0].item(), ahead / (1 + ahead), 1e-13)


@pytest.mark.parametrize("threads", ["1", "3"])
def test_threads_share_the_series(threads, monkeypatch):
    monkeypatch.setenv("STATEWISE_THREADS", threads)
    given, options = problem(50, 200, 6, 2, seed=2, ends=True, gaps=0.1)
    expected, slopes = gradients(given, options, "reference")
    found, fast = gradients(given, options, "cpu")
    for name in expected:
        close(found[name], expected[name], 1e-9)
    close(fast["F"] / slopes["F"].norm(), slopes["F"] / slopes["F"].norm(), 1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_float32_is_close(backend):
    given, options = problem(2, 50, 4, 2, gaps=0.2)
    expected, _ = gradients(given, options, "reference")
    narrow = {name: x.float() for name, x in given.items()}
    found, slopes = gradients(narrow, options, backend)
    for name, x in expected.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name].double(), x, rtol=1e-4, atol=1e-4)
    assert all(g.dtype == torch.float32 for g in slopes.values())


def test_torch_knows_the_operators():
    given, options = problem(2, 4, 3, 2, gaps=0.3, ends=True)
    tensors = [given[k].requires_grad_() for k in ("y", "F", "H", "Q", "R", "c", "d", "m0", "P0")]
    arguments = (*tensors, options["observed"], options["lengths"], True)
    torch.library.opcheck(torch.ops.statewise.kalman_filter.default, arguments)
    torch.library.opcheck(torch.ops.statewise.kalman_likelihood.default, arguments)
    with torch.no_grad():
        m, P, _ = kalman_filter(**given, **options)
        smoothed = (m, P, given["F"], given["Q"], given["c"], options["lengths"], True)
        torch.library.opcheck(torch.ops.statewise.rts_smoother.default, smoothed)


def test_memory_layout_does_not_matter():
    given, _ = problem(3, 5, 4, 2)
    turned = {k: x.transpose(0, 1).contiguous().transpose(0, 1) for k, x in given.items()}
    for a, b in zip(kalman_filter(**given), kalman_filter(**turned), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("backend", BACKENDS)
def test_no_variance_is_said(backend):
    given, _ = problem(2, 4, 3, 2)
    given["R"], given["H"] = torch.zeros_like(given["R"]), torch.zeros_like(given["H"])
    with ops.use_backend(backend), pytest.raises(ValueError, match="series 0 at step 0 is not pos"):
        kalman_filter(**given)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"y": torch.zeros(3, 2)}, ValueError, r"y has shape \(3, 2\)"),
        ({"y": torch.zeros(2, 0, 2)}, ValueError, "no steps"),
        ({"F": torch.zeros(3, 3)}, ValueError, r"\(b, t, 3, 3\) with b 1 or 2 and t 1 or 4"),
        ({"H": torch.zeros(1, 3, 2, 3)}, ValueError, "H has shape"),
        ({"m0": torch.zeros(3)}, ValueError, "m0 has shape"),
        ({"lengths": torch.tensor([0, 4])}, ValueError, r"lengths is \[0, 4\]"),
        ({"lengths": torch.tensor([1.0, 4.0])}, TypeError, "must be int64"),
        ({"observed": torch.ones(2, 4, 2)}, TypeError, "must be bool"),
        ({"Q": 1.0}, TypeError, "Q must be a tensor"),
        ({"R": torch.ones(1, 1, 2, 2, dtype=torch.int64)}, TypeError, "R is torch.int64"),
    ],
)
def test_what_does_not_fit_is_said(change, error, message):
    given, _ = problem(2, 4, 3, 2)
    with pytest.raises(error, match=f"kalman_filter: .*{message}"):
        kalman_filter(**(given | change))


def test_the_smoother_says_that_it_has_no_gradient():
    given, _ = problem(1, 4, 3, 2)
    m, P, _ = kalman_filter(**given)
    with pytest.raises(ValueError, match="wants a gradient"):
        rts_smoother(m, P, given["F"].requires_grad_(), given["Q"])
