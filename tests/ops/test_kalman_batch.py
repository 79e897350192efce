"""Series that share their covariances: means beside those of series filtered one by one."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from statewise import ops
from statewise.ops import kalman_filter, kalman_likelihood, rts_smoother


def problem(B, T, n, p, *, seed=0, varies=False, offsets="none", gaps=0.0, blind=False):
    """Series of one model; offsets may be common, of a series, of a step, or of both."""
    g = torch.Generator().manual_seed(seed)
    t = T if varies else 1

    def normal(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=g)

    root, noise, start = normal(1, t, n, max(1, n - 1)), normal(1, t, p, p), normal(1, n, n)
    given = {
        "y": normal(B, T, p),
        "F": 0.9 * torch.linalg.qr(normal(1, t, n, n))[0],
        "H": normal(1, t, p, n),
        "Q": root @ root.mT / n,
        "R": noise @ noise.mT + 0.1 * torch.eye(p, dtype=torch.float64),
        "m0": normal(B, n),
        "P0": (start @ start.mT).expand(B, n, n),
    }
    if offsets != "none":
        b, k = (B if "series" in offsets else 1), (T if "step" in offsets else 1)
        given["c"], given["d"] = normal(b, k, n), normal(b, k, p)
    if gaps:
        seen = torch.rand(1, T, p, generator=g) > gaps
        if blind:
            seen[:, T // 2] = False
        given["observed"] = seen.expand(B, T, p)
    return given


def alone(given, i):
    """The problem of one of the series."""
    return {k: x[i : i + 1] if len(x) > 1 else x for k, x in given.items()}


def close(found, expected, bound=1e-11):
    torch.testing.assert_close(found, expected, rtol=bound, atol=bound)


def squares(found):
    return torch.stack([x.square().sum() for x in found]).sum()


def compare(given, **options):
    m, P, log = kalman_filter(**given, **options)
    terms = kalman_likelihood(**given, **options)
    more = {"c": given.get("c"), "cross": True}
    ms, Ps, cross = rts_smoother(m, P, given["F"], given["Q"], **more)
    assert cross is not None
    assert P.stride(0) == Ps.stride(0) == cross.stride(0) == 0
    for i in range(len(m)):
        own = alone(given, i)
        m1, P1, log1 = kalman_filter(**own, **options)
        more = {"c": own.get("c"), "cross": True}
        ms1, Ps1, cross1 = rts_smoother(m1, P1, own["F"], own["Q"], **more)
        pairs = [(m, m1), (P, P1), (log, log1), (terms, log1)]
        for x, one in [*pairs, (ms, ms1), (Ps, Ps1), (cross, cross1)]:
            close(x[i], one[0])


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("moves_first", [True, False])
@pytest.mark.parametrize(
    ("n", "p", "more"),
    [
        (1, 1, {}),
        (4, 2, {"offsets": "series"}),
        (3, 4, {"offsets": "step", "gaps": 0.3}),
        (6, 3, {"varies": True, "gaps": 0.3, "offsets": "series and step"}),
        (9, 5, {"gaps": 0.5, "blind": True, "offsets": "common"}),
    ],
)
def test_each_series_is_as_it_is_alone(n, p, more, moves_first, backend):
    with ops.use_backend(backend):
        compare(problem(3, 40, n, p, seed=n, **more), moves_first=moves_first)


@given(data=st.data())
def test_any_shape(data):
    draw = lambda low, high, name: data.draw(st.integers(low, high), name)  # noqa: E731
    given = problem(
        *(draw(2, 9, "B"), draw(1, 30, "T"), draw(1, 9, "n"), draw(1, 6, "p")),
        seed=draw(0, 99, "seed"),
        varies=data.draw(st.booleans(), "varies"),
        offsets=data.draw(st.sampled_from(["none", "common", "series", "series and step"])),
        gaps=data.draw(st.sampled_from([0.0, 0.4, 0.9]), "gaps"),
    )
    compare(given)


def test_covariances_that_stayed_put_and_more_series_than_a_group():
    given = problem(70, 250, 4, 2, seed=3, offsets="series")
    seen = torch.ones(1, 250, 2, dtype=torch.bool)
    seen[:, 150] = False
    compare(given | {"observed": seen.expand(70, 250, 2)})


@pytest.mark.parametrize("threads", ["1", "3"])
def test_threads_share_the_series(threads, monkeypatch):
    monkeypatch.setenv("STATEWISE_THREADS", threads)
    given = problem(200, 300, 6, 2, seed=2)
    m, P, log = kalman_filter(**given)
    own = {k: x.contiguous() for k, x in given.items()}
    with ops.use_backend("reference"):
        expected = kalman_filter(**own)
    for x, wanted in zip((m, P, log), expected, strict=True):
        close(x, wanted, 1e-10)


def test_what_differs_among_series_is_not_shared():
    given = problem(2, 12, 3, 2, gaps=0.4, seed=5)
    same: dict[str, Any] = {k: x.contiguous() for k, x in given.items()}

    def cov(**changes):
        return kalman_filter(**(same | changes))[1]

    assert cov().stride(0) == 0
    for name in ("P0", "observed"):
        changed = same[name].clone()
        changed[1] = 2 * changed[1] if name == "P0" else ~changed[1]
        P = cov(**{name: changed})
        assert P.stride(0) != 0
        assert not torch.equal(P[0], P[1])
    assert cov(Q=torch.cat([same["Q"], 2 * same["Q"]])).stride(0) != 0
    assert cov(lengths=torch.tensor([12, 12])).stride(0) == 0
    P = cov(lengths=torch.tensor([12, 5]))
    assert P[0, 5:].any()
    assert not P[1, 5:].any()


def test_gradients_of_a_batch_do_not_depend_on_it():
    given = problem(3, 60, 4, 2, seed=1)
    plain = kalman_filter(**given)
    F = given["F"].clone().requires_grad_()
    found = kalman_filter(**(given | {"F": F}))
    for x, wanted in zip(found, plain, strict=True):
        close(x, wanted)
    slope = torch.autograd.grad(squares(found), F)[0]
    expected = torch.zeros_like(slope)
    for i in range(3):
        found = kalman_filter(**(alone(given, i) | {"F": F}))
        expected += torch.autograd.grad(squares(found), F)[0]
    close(slope / expected.norm(), expected / expected.norm())


def test_float32():
    given = problem(5, 50, 4, 2, gaps=0.2)
    narrow = {k: x.float() if x.is_floating_point() else x for k, x in given.items()}
    found, expected = kalman_filter(**narrow), kalman_filter(**given)
    for x, wanted in zip(found, expected, strict=True):
        assert x.dtype == torch.float32
        torch.testing.assert_close(x.double(), wanted, rtol=1e-4, atol=1e-4)


def vague():
    """A prior so vague that float32 cannot hold the covariances that follow."""
    g = torch.Generator().manual_seed(2)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=g))[0]
    return {
        "y": torch.randn(3, 30, 1, generator=g),
        "F": (turn @ torch.diag(torch.tensor([1.0, 0.95, 0.9])) @ turn.mT)[None, None],
        "H": torch.randn(1, 1, 1, 3, generator=g),
        "Q": 1e-3 * torch.eye(3)[None, None],
        "R": 1e-4 * torch.ones(1, 1, 1, 1),
        "m0": torch.zeros(3, 3),
        "P0": 1e7 * torch.eye(3).expand(3, 3, 3),
    }


def test_rounded_covariances_make_no_gains():
    given = vague()
    found, terms = kalman_filter(**given), kalman_likelihood(**given)
    for i in range(3):
        own = alone(given, i)
        for one, two in zip(found, kalman_filter(**own), strict=True):
            close(one[i], two[0], 1e-6)
        close(terms[i], kalman_likelihood(**own)[0], 1e-6)


def test_rounded_covariances_make_no_gradients():
    wants = []
    for dtype in (torch.float64, torch.float32):
        given = {label: x.to(dtype).clone().requires_grad_() for label, x in vague().items()}
        wants.append(torch.autograd.grad(kalman_filter(**given)[2].sum(), tuple(given.values())))
    for exact, rounded in zip(*wants, strict=True):
        assert (rounded - exact).abs().max() <= 1e-5 * exact.abs().max()


def test_no_variance_is_said():
    given = problem(3, 4, 3, 2)
    given["R"], given["H"] = torch.zeros_like(given["R"]), torch.zeros_like(given["H"])
    with pytest.raises(ValueError, match="series 0 at step 0 is not pos"):
        kalman_filter(**given)


def test_nothing_waits_for_a_device():
    """A call must not look at values on a GPU: that stalls it, and no graph can capture it."""
    library = importlib.import_module("statewise.ops.kalman_filter._library")
    op = importlib.import_module("statewise.ops.kalman_filter.op")
    there = torch.empty(5, 7, 2, device="meta")
    with pytest.raises(RuntimeError, match="meta"):
        bool((there == there[:1]).all())
    assert not op._alike(there)
    assert op._alike(there[:1].expand(5, 7, 2))
    assert not library.complete(torch.empty(5, dtype=torch.int64, device="meta"), 7)
