"""Weighing and choosing: the compiled step beside the reference, given the same numbers."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from statewise import ops
from statewise.ops import ancestors, particle_steps
from statewise.ops.particle_step.reference import SCHEMES

INF = float("inf")


def close(found, expected, bound=1e-11):
    torch.testing.assert_close(found, expected, rtol=bound, atol=bound, equal_nan=True)


def inputs(B, N, n, p, steps, seed, *, own=False, holes=False, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=g)

    found = []
    for _ in range(steps):
        y, loc = normal(B, p), normal(B, N, p)
        if holes:
            y = torch.where(torch.rand(B, p, generator=g) < 0.3, torch.nan, y)
        scale = (0.3 * normal(B, N, p)).exp() if own else normal(p).abs().add(0.2).expand_as(loc)
        x, u, ahead = normal(B, N, n), torch.rand(B, N, generator=g).double(), normal(B, N)
        found.append((y, loc.to(dtype), scale.to(dtype), x.to(dtype), u, ahead))
    return found


def walk(backend, given, scheme, threshold, *, looks=False, history=True, whole=False, plain=False):
    """All that a few steps give: moved particles, and what the object holds."""
    (y, loc, _, _, _, _), steps = given[0], len(given)
    B, N = loc.shape[:2]
    with ops.use_backend(backend):
        run = particle_steps(steps, B, N, threshold=threshold, scheme=scheme, history=history)
    out = []
    for t, (y, loc, scale, x, u, ahead) in enumerate(given):
        u = u[:, :1].contiguous() if run.uniforms() == 1 else u
        before = x.clone()
        following = None if looks or t + 1 == steps else x
        if plain:
            gain = (-0.5 * ((y.unsqueeze(1) - loc) / scale).square() - scale.log()).sum(-1)
            moved = run.weigh(t, gain.double(), following, u)
        else:
            moved = run.weigh_normal(t, y, loc, scale, whole, following, u)
        if looks and t + 1 < steps:
            moved = run.choose(t + 1, x, u, ahead)
        assert torch.equal(x, before)
        out.append(run.last(t).clone())
        mean = torch.empty(B, x.shape[-1], dtype=torch.float64)
        run.average(t, x, mean)
        out.append(mean)
        out += [] if moved is None else [moved.clone(), run.carried.clone()]
    kept = (run.log_weights, run.ancestors, run.log_likelihoods, run.ess)
    return [*out, *(x.clone() for x in kept)]


def compare(given, *arguments, bound=1e-11, **options):
    found, expected = (walk(k, given, *arguments, **options) for k in ("cpu", "reference"))
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        close(a, b, bound)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("threshold", [0.0, 0.6, 1.1])
@pytest.mark.parametrize("looks", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 37, 1, 1), (2, 64, 2, 3), (4, 130, 5, 2)])
def test_back_ends_agree(scheme, threshold, looks, shape):
    for n in {shape[2], 4, 9} if shape[0] == 2 else {shape[2]}:
        given = inputs(*shape[:2], n, shape[3], 4, seed=n)
        compare(given, scheme, threshold, looks=looks)


@given(
    st.integers(1, 4), st.integers(1, 70), st.integers(1, 3), st.integers(0, 10_000),
    st.sampled_from(SCHEMES), st.booleans(), st.booleans(), st.booleans(), st.booleans(),
)  # fmt: skip
def test_forms_of_weighing_agree(B, N, p, seed, scheme, own, holes, whole, history):
    given = inputs(B, N, 1, p, 3, seed, own=own, holes=holes)
    compare(given, scheme, 0.7, whole=whole, history=history)
    if not holes:
        compare(given, scheme, 0.7, plain=True)
        normal, plain = (walk("cpu", given, scheme, 0.7, plain=k) for k in (False, True))
        shift = 0.5 * p * math.log(2 * math.pi)
        close(normal[-2], plain[-2] - shift, 1e-10)
        assert torch.equal(normal[-3], plain[-3])


def test_narrow_numbers_are_weighed_wide():
    given = inputs(2, 50, 3, 2, 3, 0, own=True, dtype=torch.float32)
    compare(given, "systematic", 0.9)
    given = inputs(2, 50, 3, 2, 3, 0, dtype=torch.float32)
    compare(given, "systematic", 0.9)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_series_are_shared_among_threads(scheme):
    given = inputs(40, 2000, 2, 1, 3, 1, own=True)
    one = walk("cpu", given, scheme, 0.5)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        two = walk("cpu", given, scheme, 0.5)
    finally:
        torch.set_num_threads(before)
    moved = (one[2] != given[0][3]).flatten(1).any(-1)
    assert 0 < moved.sum() < 40
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_weight_is_left_to_chance(backend, scheme):
    """Particles of weight 0 have no copies, and weights of −∞ or NaN all around are even."""
    B, N = 5, 7
    gain = torch.zeros(B, N, dtype=torch.float64)
    gain[0, [0, 3, 6]] = -INF
    gain[1] = -INF
    gain[1, 2] = -900.0
    gain[2] = -INF
    gain[3, 1] = math.nan
    gain[4, 1:] = -1000.0
    x = torch.arange(N).double().expand(B, N).unsqueeze(-1).contiguous()
    for u in (0.0, 0.5, 1 - 2**-53):
        with ops.use_backend(backend):
            run = particle_steps(2, B, N, threshold=2.0, scheme=scheme)
            chance = torch.full((B, run.uniforms()), u, dtype=torch.float64)
            moved = run.weigh(0, gain, x, chance)
        rows = run.ancestors[1]
        assert torch.equal(moved.squeeze(-1), rows.double())
        assert not torch.isin(rows[0], torch.tensor([0, 3, 6])).any()
        assert (rows[1] == 2).all()
        assert (rows[4] == 0).all()
        assert ((rows >= 0) & (rows < N)).all()
        assert run.log_likelihoods[0, 2] == -INF
        assert run.log_likelihoods[0, 3].isnan()
        close(run.log_weights[0, 2:4], torch.full((2, N), -math.log(N), dtype=torch.float64))
        close(run.ess[0, 2:4], torch.full((2,), float(N), dtype=torch.float64))
        assert abs(run.log_likelihoods[0, 1].item() + 900 + math.log(N)) < 1e-12


@pytest.mark.parametrize("scheme", SCHEMES)
def test_expected_copies(scheme):
    B, N = 40_000, 6
    w = torch.tensor([0.3, 0.0, 0.25, 0.05, 0.4, 0.0], dtype=torch.float64)
    run = particle_steps(2, B, N, threshold=2.0, scheme=scheme)
    u = ops.philox_uniform(5, 6, B * run.uniforms()).view(B, -1)
    run.weigh(0, w.log().expand(B, N), torch.zeros(B, N, 1).double(), u)
    rows = run.ancestors[1]
    counts = torch.stack([(rows == i).sum(-1) for i in range(N)], -1).double()
    error = (counts.mean(0) - N * w).abs()
    assert (error <= 4.5 * counts.std(0) / math.sqrt(B) + 1e-12).all()
    assert not counts[:, w == 0].any()
    if scheme in ("systematic", "residual"):
        assert (counts >= (N * w).floor()).all()


def test_a_scheme_of_ones_own_and_other_types():
    def last(W):
        return torch.full(W.shape, W.shape[-1] - 1)

    given = inputs(2, 9, 1, 1, 3, 0)
    compare(given, last, 2.0)
    run = particle_steps(2, 1, 3, threshold=2.0)
    u = torch.full((1, 1), 0.5, dtype=torch.float64)
    gain = torch.tensor([[-INF, 0.0, -INF]], dtype=torch.float64)
    for dtype in (torch.int64, torch.float16, torch.bool, torch.float32):
        x = torch.tensor([[[0], [1], [0]]]).to(dtype)
        run.carried.fill_(0.0)
        assert torch.equal(run.weigh(0, gain, x, u), torch.ones_like(x))


def test_arguments_that_do_not_fit():
    with pytest.raises(ValueError, match="particles is 0"):
        particle_steps(1, 1, 0)
    with pytest.raises(ValueError, match="scheme is 'sorted'"):
        particle_steps(1, 1, 1, scheme="sorted")
    run = particle_steps(2, 1, 3, threshold=2.0)
    with pytest.raises(ValueError, match="need uniform numbers"):
        run.weigh(0, torch.zeros(1, 3).double(), torch.zeros(1, 3, 1))
    even = torch.ones(2, 4)
    assert torch.equal(
        ancestors("systematic", even, torch.full((2, 1), 0.5)), torch.arange(4).expand(2, 4)
    )
