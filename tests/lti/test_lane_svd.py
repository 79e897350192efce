"""Decompositions of eight small matrices at a time equal those of the library, one by one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lti_systems import stable

from statewise.lti import _lane_realisation as lanes
from statewise.lti import _lane_svd as svd
from statewise.lti import era, frequency_response, markov_parameters, realisation
from statewise.lti._lane_vectors import leading_vectors
from statewise.ops.jit import kernel
from statewise.ops.simd import store

LANES = svd.LANES


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@kernel
def _vectors(w, a, b, n, values, r, u, v, room, good):
    fine = leading_vectors(w, a, b, n, values, r, u, n * 8, 8, v, n * 8, 8, room)
    store(w, good, fine)


def decomposed(given: torch.Tensor, r: int) -> tuple[torch.Tensor, ...]:
    """B, σ, and the r leading vectors of B, of sixteen matrices."""
    rows, n = given.shape[1:]
    apart = (rows * n + 17 * n + 2 * n * n + 20) * LANES
    w = np.zeros(2 * apart)
    unit = rows * n * LANES
    a, b, left, right, values = (unit + LANES + k * n * LANES for k in range(5))
    u = values + n * LANES
    v = u + n * n * LANES
    room = v + n * n * LANES
    good = room + 10 * n * LANES + svd.STATE * LANES
    for o, part in ((0, given[:8]), (apart, given[8:])):
        w[o : o + unit] = part.movedim(0, -1).reshape(-1)
        svd.scale(w, o, rows * n, o + unit)
        svd.bidiagonal(w, o, rows, n, o + a, o + b, o + left, o + right)
    svd.singular_values(w, a, b, n, values, room, apart)
    found = []
    for o in (0, apart):
        assert (w[o + room + 4 * n * LANES + svd.FOUND :][:LANES] == n).all()
        _vectors(w, o + a, o + b, n, o + values, r, o + u, o + v, o + room, o + good)

        def taken(at: int, count: int, o: int = o) -> torch.Tensor:
            return torch.from_numpy(w[o + at :][: count * LANES].reshape(count, LANES).T.copy())

        B = torch.diag_embed(taken(a, n))
        if n > 1:
            B = B + torch.diag_embed(taken(b, n)[:, :-1], 1)
        vectors = [taken(at, n * n).unflatten(1, (n, n))[:, :, :r] for at in (u, v)]
        found.append((B, taken(values, n), *vectors, taken(unit, 1), taken(good, 1)))
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def cases() -> dict[str, torch.Tensor]:
    grades = 10.0 ** -torch.arange(12, dtype=torch.float64)
    low = draw(16, 9, 2) @ draw(16, 2, 9, seed=1)
    return {
        "square": draw(16, 12, 12),
        "tall": 1e6 * draw(16, 17, 5),
        "one column": draw(16, 3, 1),
        "two columns": draw(16, 2, 2),
        "three columns": draw(16, 4, 3),
        "graded": draw(16, 12, 12) * grades,
        "graded the other way": draw(16, 12, 12) * grades.flip(0)[:, None],
        "rank 2": low,
        "one of zeros": draw(16, 6, 4) * (torch.arange(16) != 5)[:, None, None],
    }


@pytest.mark.parametrize("name", cases())
def test_singular_values_and_vectors(name: str) -> None:
    given = cases()[name]
    n = given.shape[-1]
    r = min(n, 2)
    B, sigma, u, v, unit, good = decomposed(given, r)
    expected = torch.linalg.svdvals(given)
    largest = expected[:, :1].clamp_min(1e-300)
    assert ((sigma * unit - expected).abs() / largest).max() < 1e-14
    assert ((torch.linalg.svdvals(B) * unit - expected).abs() / largest).max() < 1e-14
    sound = good[:, 0] == 1
    assert sound.sum() >= 15
    B, sigma, u, v = (x[sound] for x in (B, sigma[:, :r], u, v))
    assert (B @ v - u * sigma[:, None]).abs().max() < 1e-13
    assert (B.mT @ u - v * sigma[:, None]).abs().max() < 1e-13
    for x in (u, v):
        assert (x.mT @ x - torch.eye(r, dtype=x.dtype)).abs().max() < 1e-13


def gap(found, expected, count: int) -> float:
    a, b = (markov_parameters(one.system, count) for one in (found, expected))
    size = b.abs().amax((-3, -2, -1), keepdim=True)
    return float(((a - b).abs() / size).max())


def by_library(monkeypatch, *arguments, **options):
    with monkeypatch.context() as patch:
        patch.setattr(realisation, "MANY", 10**9)
        return era(*arguments, **options)


SHAPES = [(4, 1, 1, 42, 20, 4), (4, 1, 1, 42, 20, 9), (3, 2, 3, 21, 9, 3), (3, 3, 1, 20, 4, 2)]


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
