"""Systems that the tests of linear systems share."""

from __future__ import annotations

import math

import torch

from statewise.lti import StateSpace


def stable(
    n: int,
    m: int = 2,
    p: int = 3,
    *,
    seed: int = 0,
    dt: float | None = 1.0,
    batch: tuple[int, ...] = (),
    radius: float = 0.9,
    complex_valued: bool = False,
) -> StateSpace:
    """A random system whose poles lie within ``radius``, or left of −(1 − radius)."""
    g = torch.Generator().manual_seed(seed)
    kind = torch.complex128 if complex_valued else torch.float64

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*batch, *shape, generator=g, dtype=kind)

    A = draw(n, n) / math.sqrt(n)
    poles = torch.linalg.eigvals(A)
    if dt is None:
        shift = poles.real.amax(-1)[..., None, None] + 1 - radius
        A = A - shift * torch.eye(n, dtype=kind)
    else:
        A = A * (radius / poles.abs().amax(-1)[..., None, None])
    return StateSpace(A, draw(n, m), draw(p, n), draw(p, m), dt)


def card_system() -> StateSpace:
    """The reference system of the notes: poles 0.95 e^{±0.5i} and 0.7."""
    c, s = 0.95 * math.cos(0.5), 0.95 * math.sin(0.5)
    A = [[c, s, 0], [-s, c, 0], [0, 0, 0.7]]
    return StateSpace(A, [[1.0], [0.5], [1.0]], [[1.0, 0.0, 0.5]], [[0.1]], dt=1.0)


def points(system: StateSpace, count: int = 7) -> torch.Tensor:
    """Points off the poles at which transfer matrices are compared, complex, (count,)."""
    w = torch.linspace(0.05, 3.0, count, dtype=torch.float64)
    if system.dt is None:
        return torch.complex(torch.full_like(w, 0.1), w)
    return 1.05 * torch.exp(1j * w)


def values(system, at: torch.Tensor | None = None) -> torch.Tensor:
    """Transfer matrices at the points, (count, ..., p, m)."""
    at = points(system) if at is None else at
    return torch.stack([system(s) for s in at])


def same_map(first, second, tolerance: float = 1e-10) -> None:
    """Two systems have one transfer matrix, relative to its largest entry."""
    left, right = values(first), values(second)
    assert left.shape == right.shape
    gap = (left - right).abs().max() / right.abs().max()
    assert gap <= tolerance, f"transfer matrices differ by {gap:.3g}"
