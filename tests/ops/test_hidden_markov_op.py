"""The forward recursion and its adjoint: back ends beside the reference, both beside all paths."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from statewise import ops
from statewise.ops import hidden_markov, hidden_markov_smoother

BACKENDS = ("reference", "cpu")


def problem(B, T, K, *, seed=0, varies=False, own=False, ends=False, zeros=False, scale=3.0):
    g = torch.Generator().manual_seed(seed)
    P = torch.softmax(
        torch.randn(B if own else 1, T if varies else 1, K, K, dtype=torch.float64, generator=g), -1
    )
    if zeros:
        P = P.triu()
        P = P / P.sum(-1, keepdim=True)
    start = torch.softmax(torch.randn(B, K, dtype=torch.float64, generator=g), -1)
    e = scale * torch.randn(B, T, K, dtype=torch.float64, generator=g)
    lengths = torch.randint(1, T + 1, (B,), generator=g) if ends else None
    return (start.log(), P.log(), e), lengths


def enumerated(given, lengths=None, begins=True):
    """Filtered, smoothed, pairs and likelihoods of every series, from the sum over all paths."""
    start, P, e = given
    B, T, K = e.shape
    filtered, one, logs = torch.zeros_like(e), torch.zeros_like(e), torch.zeros(B, T).double()
    both = torch.zeros(B, T, K, K).double()
    for b in range(B):
        stop = T if lengths is None else int(lengths[b])
        before = 0.0
        for t in range(stop):
            states = [range(1 if begins else K)] + [range(K)] * (t + 1)
            paths = torch.tensor(list(itertools.product(*states)))
            weight = start[b, paths[:, 1 if begins else 0]]
            for s in range(t + 1):
                if s or not begins:
                    step = P[min(b, len(P) - 1), min(s, P.shape[1] - 1)]
                    weight = weight + step[paths[:, s], paths[:, s + 1]]
                weight = weight + e[b, s, paths[:, s + 1]]
            total = torch.logsumexp(weight, 0)
            weight = (weight - total).exp()
            logs[b, t], before = total - before, total
            for k in range(K):
                filtered[b, t, k] = weight[paths[:, -1] == k].sum()
            if t == stop - 1:
                for s in range(stop):
                    for k in range(K):
                        one[b, s, k] = weight[paths[:, s + 1] == k].sum()
                        for i in range(K if s or not begins else 0):
                            here = (paths[:, s] == i) & (paths[:, s + 1] == k)
                            both[b, s, i, k] = weight[here].sum()
    return filtered, one, both, logs


def close(found, expected, bound=1e-12):
    torch.testing.assert_close(found, expected, rtol=bound, atol=bound)


OPTIONS = [
    {},
    {"varies": True},
    {"own": True, "ends": True},
    {"varies": True, "own": True, "ends": True},
    {"zeros": True},
    {"scale": 400.0},
    {"scale": 400.0, "zeros": True, "varies": True},
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("begins", [True, False])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("T", "K"), [(1, 1), (1, 3), (6, 3), (7, 2)])
def test_equals_the_sum_over_all_paths(backend, begins, options, T, K):
    given, lengths = problem(2, T, K, **options)
    filtered, one, both, logs = enumerated(given, lengths, begins)
    with ops.use_backend(backend):
        f, ll = hidden_markov(*given, lengths=lengths, begins=begins)
        ends = torch.tensor([T, T]) if lengths is None else lengths
        valid = torch.arange(T) < ends[:, None]
        close(torch.where(valid[..., None], f.exp(), 0.0), filtered)
        close(ll, logs)
        assert not f[~valid].any()
        options = {"lengths": lengths, "begins": begins}
        found = hidden_markov_smoother(f, *given[:2], **options, pairs=True)
        close(found[0], one)
        close(found[1], both)
        found = hidden_markov_smoother(f, *given[:2], **options)
        close(found[0], one)
        close(found[1], both.sum(1, keepdim=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("begins", [True, False])
@pytest.mark.parametrize("options", OPTIONS[:4], ids=str)
def test_gradient_by_finite_differences(backend, begins, options):
    given, lengths = problem(2, 4, 3, **options)
    leaves = [x.requires_grad_() for x in given]
    with ops.use_backend(backend):
        assert torch.autograd.gradcheck(
            lambda *x: hidden_markov(*x, lengths=lengths, begins=begins), leaves
        )


@given(
    st.integers(1, 4),
    st.integers(1, 9),
    st.integers(1, 5),
    st.integers(0, 10_000),
    st.sampled_from(OPTIONS),
    st.booleans(),
)
def test_back_ends_agree(B, T, K, seed, options, begins):
    given, lengths = problem(B, T, K, seed=seed, **options)
    g = torch.Generator().manual_seed(seed)
    weights = None
    found = []
    for backend in BACKENDS:
        leaves = [x.clone().requires_grad_() for x in given]
        with ops.use_backend(backend):
            f, ll = hidden_markov(*leaves, lengths=lengths, begins=begins)
            if weights is None:
                weights = [torch.randn(x.shape, dtype=x.dtype, generator=g) for x in (f, ll)]
            ((f.exp() * weights[0]).sum() + (ll * weights[1]).sum()).backward()
        found.append((f.exp(), ll, *(x.grad for x in leaves)))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_state_thousands_of_nats_behind_comes_back(backend):
    """The way there is 1000 nats less likely at first, and the only one at the end."""
    no = float("-inf")
    P = torch.tensor([[0.0, no], [no, 0.0]], dtype=torch.float64)[None, None]
    start = torch.tensor([[0.5, 0.5]], dtype=torch.float64).log()
    e = torch.tensor([[[0.0, -1000.0], [0.0, -1000.0], [no, 0.0]]], dtype=torch.float64)
    with ops.use_backend(backend):
        f, ll = hidden_markov(start, P, e)
        close(ll.sum(), start[0, 1] - 2000)
        one, both = hidden_markov_smoother(f, start, P)
    close(one[0], torch.tensor([[0.0, 1.0]] * 3).double())
    close(both[0, 0], torch.tensor([[0.0, 0.0], [0.0, 2.0]]).double())


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_series_can_be_cut(backend):
    (start, P, e), _ = problem(2, 9, 3)
    with ops.use_backend(backend):
        f, ll = hidden_markov(start, P, e)
        first = hidden_markov(start, P, e[:, :4])
        second = hidden_markov(first[0][:, -1], P, e[:, 4:], begins=False)
    close(torch.cat([first[0], second[0]], 1), f, 1e-14)
    close(torch.cat([first[1], second[1]], 1), ll, 1e-14)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_that_is_impossible_is_named(backend):
    (start, P, e), _ = problem(3, 5, 2)
    e[1, 3] = float("-inf")
    with ops.use_backend(backend), pytest.raises(ValueError, match="step 3 of series 1"):
        hidden_markov(start, P, e)


def test_narrow_types_are_computed_wide():
    given, _ = problem(2, 50, 4)
    narrow = [x.float() for x in given]
    f, ll = hidden_markov(*narrow)
    wide = hidden_markov(*(x.double() for x in narrow))
    assert f.dtype == ll.dtype == torch.float32
    assert torch.equal(f, wide[0].float())
    assert torch.equal(ll, wide[1].float())


def test_long_series_keep_their_sum():
    given, _ = problem(1, 100_000, 3, scale=1.0)
    f, _ = hidden_markov(*given)
    one, both = hidden_markov_smoother(f, *given[:2])
    close(one.sum(-1), torch.ones(1, 100_000).double())
    close(both.sum(), torch.tensor(99_999.0).double(), 1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_torch_sees_the_operator(backend):
    given, lengths = problem(2, 5, 3, ends=True)
    leaves = [x.requires_grad_() for x in given]
    with ops.use_backend(backend):
        torch.library.opcheck(torch.ops.statewise.hidden_markov.default, (*leaves, lengths, True))


def test_arguments_that_do_not_fit():
    (start, P, e), _ = problem(2, 5, 3)
    with pytest.raises(ValueError, match=r"log_initial has shape \(1, 3\)"):
        hidden_markov(start[:1], P, e)
    with pytest.raises(ValueError, match=r"log_transition has shape \(1, 1, 2, 3\)"):
        hidden_markov(start, P[:, :, :2], e)
    with pytest.raises(ValueError, match=r"must be \(B, T, K\)"):
        hidden_markov(start, P, e[0])
    with pytest.raises(ValueError, match="must be from 0 to the 5 steps"):
        hidden_markov(start, P, e, lengths=torch.tensor([1, 6]))
    with pytest.raises(TypeError, match=r"log_emission is torch\.int64"):
        hidden_markov(start, P, e.long())
    f, _ = hidden_markov(start, P, e)
    with pytest.raises(ValueError, match="wants a gradient"):
        hidden_markov_smoother(f.requires_grad_(), start, P)
