"""Decompositions of eight small matrices at a time equal those of the library, one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lti_systems import stable

from statewise.lti import _lane_eigenvalues as eigen
from statewise.lti import _lane_realisation as lanes
from statewise.lti import _lane_reduction as reduction
from statewise.lti import _lane_values as values
from statewise.lti import era, frequency_response, markov_parameters, realisation
from statewise.lti._lane_vectors import leading_vectors
from statewise.ops.jit import kernel
from statewise.ops.simd import store

LANES = reduction.LANES


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@kernel
def _vectors(w, d, e, n, parts, values, r, x, outer, y, room, good):
    store(w, good, leading_vectors(w, d, e, n, parts, values, r, x, outer, y, room))


def decomposed(given: torch.Tensor, r: int, symmetric: bool = False) -> tuple[torch.Tensor, ...]:
    """T, the values, the r leading vectors on both sides and what was found sound, of 16 matrices.

    Args:
        given: (16, rows, n), rows ≥ n.
        r: how many vectors.
        symmetric: whether T is of order n, with eigenvalues, or [0, Bᵀ; B, 0] in pairs.
    """
    rows, n = given.shape[1:]
    parts = 1 if symmetric else 2
    size, M = parts * n, 0
    counts = (rows * n, n, n, size, size, n + 1, n + 1, 10, r * n, r * n, 5 * size + rows + 1)
    *_, end = at = [LANES * sum(counts[:k]) for k in range(len(counts) + 1)]
    left, right, d, e, found, beside, state, x, y, room = at[1:-1]
    w = np.zeros(2 * end)
    for o, part in ((0, given[:8]), (end, given[8:])):
        w[o : o + left] = part.mT.movedim(0, -1).reshape(-1)
        if symmetric:
            reduction.tridiagonal(w, o + M, n, o + d, o + e, o + left, o + room)
            w[o + found :][: n * LANES] = w[o + d :][: n * LANES]
            w[o + beside :][: n * LANES] = w[o + e :][: n * LANES] ** 2
        else:
            first, second = o + e, o + e + LANES
            reduction.bidiagonal(w, o, rows, n, first, second, o + left, o + right, o + room)
            both = w[o + e :][: size * LANES].reshape(n, 2, LANES) ** 2
            w[o + found :][: n * LANES] = both[:, 0].reshape(-1)
            w[o + beside :][: n * LANES] = both[:, 1].reshape(-1)
    (eigen.eigenvalues if symmetric else values.squares)(w, found, beside, n, state, end)
    results = []
    for o in (0, end):
        if not symmetric:
            w[o + found :][: n * LANES] = np.sqrt(np.maximum(w[o + found :][: n * LANES], 0.0))
        values.sort(w, o + found, n)
        good = o + room + 5 * size * LANES
        places = (o + x, n * LANES, o + y, o + room, good)
        _vectors(w, o + d, o + e, n, parts, o + found, r, *places)

        def taken(at: int, count: int, o: int = o) -> torch.Tensor:
            return torch.from_numpy(w[o + at :][: count * LANES].reshape(count, LANES).T.copy())

        T = torch.diag_embed(taken(d, size))
        if size > 1:
            T = T + torch.diag_embed(taken(e, size)[:, :-1], 1)
            T = T + torch.diag_embed(taken(e, size)[:, :-1], -1)
        vectors = [taken(k, r * n).unflatten(1, (r, n)).mT for k in (x, y)]
        sound = taken(state, 1)[:, 0] * taken(good - o, 1)[:, 0]
        results.append((T, taken(found, n), *vectors, taken(state, 1)[:, 0], sound))
    return tuple(torch.cat(parts) for parts in zip(*results, strict=True))


def cases() -> dict[str, torch.Tensor]:
    grades = 10.0 ** -torch.arange(12, dtype=torch.float64)
    low = draw(16, 9, 2) @ draw(16, 2, 9, seed=1)
    return {
        "square": draw(16, 12, 12),
        "tall": draw(16, 17, 5),
        "one column": draw(16, 3, 1),
        "two columns": draw(16, 2, 2),
        "three columns": draw(16, 4, 3),
        "graded": draw(16, 12, 12) * grades,
        "graded the other way": draw(16, 12, 12) * grades.flip(0)[:, None],
        "rank 2": low,
        "rank 2 and noise": low + 1e-9 * draw(16, 9, 9, seed=2),
        "one of zeros": draw(16, 6, 4) * (torch.arange(16) != 5)[:, None, None],
        "diagonal": torch.diag_embed(draw(16, 7)),
    }


@pytest.mark.parametrize("name", cases())
def test_singular_values_and_vectors(name: str) -> None:
    given = cases()[name]
    n = given.shape[-1]
    r = min(n, 2)
    T, sigma, u, v, settled, sound = decomposed(given, r)
    expected = torch.linalg.svdvals(given)
    # What is found for values of 0 is small, but not 0.
    largest = expected[:, :1].clamp_min(1e-10)
    assert settled.all()
    assert ((sigma - expected).abs() / largest).max() < 1e-14
    B = T[:, 1::2, ::2]
    assert ((torch.linalg.svdvals(B) - expected).abs() / largest).max() < 1e-14
    kept = sound == 1
    assert kept.sum() >= 15
    B, sigma, u, v = (x[kept] for x in (B, sigma[:, :r], u, v))
    size = 1e-13 * sigma[:, :1, None]
    assert ((B @ v - u * sigma[:, None]).abs() <= size).all()
    assert ((B.mT @ u - v * sigma[:, None]).abs() <= size).all()
    for x in (u, v):
        assert (x.mT @ x - torch.eye(r, dtype=x.dtype)).abs().max() < 1e-13


@pytest.mark.parametrize("name", [k for k, x in cases().items() if x.shape[1] == x.shape[2]])
def test_eigenvalues_and_vectors_of_symmetric_ones(name: str) -> None:
    given = cases()[name] + cases()[name].mT
    T, found, x, _, settled, sound = decomposed(given, 2, symmetric=True)
    expected = torch.linalg.eigvalsh(given)
    largest = expected.abs().amax(1)
    assert settled.all()
    assert (found.abs().diff(dim=1) <= 0).all()
    assert ((found.sort().values - expected).abs().amax(1) / largest).max() < 1e-14
    assert ((torch.linalg.eigvalsh(T) - expected).abs().amax(1) / largest).max() < 1e-14
    kept = sound == 1
    assert kept.sum() >= 15
    T, found, x, largest = T[kept], found[kept, :2], x[kept], largest[kept]
    assert ((T @ x - x * found[:, None]).abs().amax((1, 2)) / largest).max() < 1e-13
    assert (x.mT @ x - torch.eye(2, dtype=x.dtype)).abs().max() < 1e-13


def tame(n: int, kind: str, rng: np.random.Generator) -> np.ndarray:
    """Sixteen times n numbers, of a kind that is hard for searches of singular values."""
    x = rng.standard_normal((16, n))
    if kind == "whole":
        return np.round(x)
    if kind == "falling":
        return x * 10.0 ** -np.arange(n)
    if kind == "rising":
        return x * 10.0 ** -np.arange(n)[::-1]
    if kind == "mixed":
        return x * 10.0 ** rng.integers(-9, 1, (16, n))
    if kind == "equal":
        return np.ones((16, n))
    if kind == "holes":
        return x * (rng.random((16, n)) < 0.7)
    return x


KINDS = ("normal", "whole", "falling", "rising", "mixed", "equal", "holes")


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 24),
    kinds=st.tuples(st.sampled_from(KINDS), st.sampled_from(KINDS)),
    seed=st.integers(0, 2**16),
)
def test_values_of_difficult_bands(n: int, kinds: tuple[str, str], seed: int) -> None:
    rng = np.random.default_rng(seed)
    on, off = (tame(n, kind, rng) for kind in kinds)
    off[:, n - 1] = 0.0
    largest = np.maximum(np.abs(on), np.abs(off)).max(1, keepdims=True)
    on, off = on / np.maximum(largest, 1e-300), off / np.maximum(largest, 1e-300)
    B = np.stack([np.diag(a) + np.diag(b[:-1], 1) for a, b in zip(on, off, strict=True)])
    T = np.stack([np.diag(b[:-1], 1) for b in off])
    T = T + T.transpose(0, 2, 1) + np.stack([np.diag(a) for a in on])
    for symmetric in (False, True):
        found, beside, state = 0, (n + 1) * LANES, 2 * (n + 1) * LANES
        apart = state + 10 * LANES
        w = np.zeros(2 * apart)
        for half in range(2):
            mine = slice(8 * half, 8 * half + 8)
            a, o = on[mine] if symmetric else on[mine] ** 2, half * apart
            w[o : o + n * LANES] = a.T.reshape(-1)
            w[o + beside :][: n * LANES] = (off[mine] ** 2).T.reshape(-1)
        (eigen.eigenvalues if symmetric else values.squares)(w, found, beside, n, state, apart)
        both = w.reshape(2, -1)
        good = both[:, state:][:, :LANES].reshape(-1) == 1
        result = both[:, : n * LANES].reshape(2, n, LANES).transpose(0, 2, 1).reshape(16, n)
        if symmetric:
            gaps = np.abs(np.sort(result, 1) - np.linalg.eigvalsh(T)).max(1)
        else:
            result = np.sort(np.sqrt(np.maximum(result, 0.0)), 1)[:, ::-1]
            gaps = np.abs(result - np.linalg.svd(B, compute_uv=False)).max(1)
        # What is not sound goes to the library; without zeros and grades that must stay rare.
        assert kinds[0] not in ("normal", "mixed") or good.mean() > 0.8
        assert (gaps[good] < 2e-14).all()


def gap(found, expected, count: int) -> float:
    a, b = (markov_parameters(one.system, count) for one in (found, expected))
    size = b.abs().amax((-3, -2, -1), keepdim=True)
    return float(((a - b).abs() / size).max())


def by_library(monkeypatch, *arguments, **options):
    with monkeypatch.context() as patch:
        patch.setattr(realisation, "MANY", 10**9)
        return era(*arguments, **options)


SHAPES = [
    (4, 1, 1, 42, 20, 4),
    (4, 1, 1, 41, 20, 9),
    (4, 1, 1, 41, 22, 6),
    (3, 2, 3, 21, 9, 3),
    (3, 3, 1, 20, 4, 2),
]


@pytest.mark.parametrize(("n", "m", "p", "length", "rows", "order"), SHAPES)
@pytest.mark.parametrize("count", [5, 35])
def test_batches_are_those_of_the_library(n, m, p, length, rows, order, count, monkeypatch) -> None:
    h = markov_parameters(stable(n, m, p, seed=n, batch=(count,)), length)
    h = h + 0.01 * h.abs().amax() * draw(*h.shape)
    found = era(h, order, rows=rows, dt=0.5)
    expected = by_library(monkeypatch, h, order, rows=rows, dt=0.5)
    largest = expected.hankel_singular_values[:, :1]
    values = (found.hankel_singular_values - expected.hankel_singular_values).abs()
    assert (values / largest).max() < 1e-13
    assert gap(found, expected, length) < 1e-10
    assert found.system.dt == 0.5
    # The compiled code did it, and not what stands in for it.
    assert lanes.realised(h, rows, order)[-1].all()


def test_shape_of_the_batch_and_other_kinds(monkeypatch) -> None:
    system = stable(3, 2, 2, seed=4, batch=(2, 3))
    grid = torch.linspace(0, torch.pi, 31, dtype=torch.float64)
    G = frequency_response(system, grid)
    found = era(G, 3, kind="frequency")
    expected = by_library(monkeypatch, G, 3, kind="frequency")
    assert found.system.batch_shape == (2, 3)
    assert found.hankel_singular_values.shape == expected.hankel_singular_values.shape
    assert gap(found, expected, 40) < 1e-10


def test_what_the_check_refuses_goes_to_the_library(monkeypatch) -> None:
    h = draw(12, 14, 2, 2)
    expected = by_library(monkeypatch, h, 3)
    compiled = lanes.realised

    def spoilt(*arguments):
        *found, sound = compiled(*arguments)
        for x in found:
            x[4] = torch.nan
        sound[4] = False
        return *found, sound

    monkeypatch.setattr(lanes, "realised", spoilt)
    found = era(h, 3)
    assert torch.equal(found.system.A[4], expected.system.A[4])
    assert gap(found, expected, 14) < 1e-10


def test_equal_singular_values_and_responses_of_zeros(monkeypatch) -> None:
    h = markov_parameters(stable(2, 1, 1, seed=1, batch=(12,)), 14)
    twice = torch.zeros(12, 14, 2, 2, dtype=torch.float64)
    # Equal channels have equal singular values, whose vectors are not unique.
    twice[..., 0, 0] = twice[..., 1, 1] = h[..., 0, 0]
    twice[7] = 0.0
    found, expected = era(twice, 4), by_library(monkeypatch, twice, 4)
    kept = [k for k in range(12) if k != 7]
    a, b = (markov_parameters(one.system, 14)[kept] for one in (found, expected))
    assert (a - b).abs().max() < 1e-10 * b.abs().max()
    assert (found.hankel_singular_values - expected.hankel_singular_values).abs().max() < 1e-12
    assert torch.equal(found.system.A[7].isfinite(), expected.system.A[7].isfinite())


def test_threads_and_places_change_nothing(monkeypatch) -> None:
    h = draw(260, 42, 1, 1) * 0.8 ** torch.arange(42)[:, None, None]
    one = era(h, 4)
    monkeypatch.setenv("STATEWISE_THREADS", "3")
    three = era(h, 4)
    assert torch.equal(one.system.A, three.system.A)
    part = era(h[100:117], 4)
    assert torch.allclose(part.hankel_singular_values, one.hankel_singular_values[100:117])


def test_without_compiled_code(monkeypatch) -> None:
    h = draw(9, 20, 1, 1)
    fast = era(h, 3)
    monkeypatch.setattr("statewise.ops.arrays.refuses_cpu", lambda op, device: "no compiler")
    slow = era(h, 3)
    assert gap(fast, slow, 20) < 1e-10
