"""The packages that ``subspace.py`` compares: settings to try, and loops over series."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from unittest import mock

import numpy as np
import pandas as pd

from statewise.lti import StateSpace, identify
from statewise.lti._estimates import FOCUS
from statewise.lti.weightings import WEIGHTINGS

Array = np.ndarray
Matrices = tuple[Array, Array, Array, Array]
Finder = Callable[[Array, Array], Iterator[tuple[str, Matrices]]]
PEERS = ("nfoursid", "sippy_unipi", "control")


@dataclasses.dataclass(frozen=True)
class Grid:
    """Settings that every package tries."""

    orders: Sequence[int]
    horizons: Sequence[int]


def numbers(system: StateSpace) -> Matrices:
    """A, B, C and D as arrays."""
    A, B, C, D = (M.numpy() for M in system.matrices)
    return A, B, C, D


def ours(grid: Grid) -> Finder:
    """All weightings, A from the shift or from regressed states, horizons, orders and focuses."""
    states = {
        f"{name}-states": dataclasses.replace(weighting, name=f"{name}-states", dynamics="states")
        for name, weighting in WEIGHTINGS.items()
        if weighting.dynamics == "shift"
    }
    tried = {**WEIGHTINGS, **states}

    def find(u: Array, y: Array) -> Iterator[tuple[str, Matrices]]:
        for name, weighting in tried.items():
            for rows in grid.horizons:
                for order, focus in itertools.product(grid.orders, FOCUS):
                    with contextlib.suppress(ValueError):
                        found = identify(
                            *(u, y, order),
                            weighting=weighting,
                            horizon=rows,
                            focus=focus,
                            stability=1.0,
                        )
                        yield f"{name} {rows}/{order} {focus}", numbers(found.system)

    return find


def alike(label: str) -> bool:
    """Whether a setting of ours is one that peers have: A, B, C and D from regressed states."""
    return "-states " in label and label.endswith(" states")


def with_nfoursid(grid: Grid) -> Finder:
    """Its one method. Its full singular value decompositions are made thin, which is the same."""
    from nfoursid.nfoursid import NFourSID
    from nfoursid.utils import Decomposition, Utils

    def thin(matrix: Array) -> Decomposition:
        left, sigma, right = np.linalg.svd(matrix, full_matrices=False)
        return Decomposition(left, np.diag(sigma), right)

    def find(u: Array, y: Array) -> Iterator[tuple[str, Matrices]]:
        inputs, outputs = ([f"{c}{k}" for k in range(z.shape[1])] for c, z in (("u", u), ("y", y)))
        frame = pd.DataFrame(np.hstack((u, y)), columns=inputs + outputs)
        for rows in grid.horizons:
            for order in grid.orders:
                if order <= rows * y.shape[1] and enough(u, y, rows):
                    with mock.patch.object(Utils, "eigenvalue_decomposition", thin):
                        method = NFourSID(frame, outputs, inputs, num_block_rows=rows)
                        method.subspace_identification()
                        found, _ = method.system_identification(rank=order)
                    yield f"n4sid {rows}/{order}", (found.a, found.b, found.c, found.d)

    return find


def with_sippy(grid: Grid) -> Finder:
    """N4SID, MOESP and CVA; one decomposition serves all orders. Its PARSIM takes minutes a set."""
    from sippy_unipi import OLSims_methods as methods

    def find(u: Array, y: Array) -> Iterator[tuple[str, Matrices]]:
        u, y = u.T, y.T
        m, p, length = len(u), len(y), u.shape[1]
        for name in ("N4SID", "MOESP", "CVA"):
            for rows in grid.horizons:
                if not enough(u.T, y.T, rows):
                    continue
                try:
                    parts = methods.SVD_weighted(y, u, rows, p, name)
                except (np.linalg.LinAlgError, ValueError):
                    continue
                for order in grid.orders:
                    if order <= rows * p:
                        count = length - 2 * rows + 1
                        fitted = methods.algorithm_1(
                            y, u, p, m, rows, count, *parts, 0.0, order, True
                        )
                        Ob, X, M = fitted[:3]
                        yield f"{name.lower()} {rows}/{order}", parted(M, order)
                        if np.abs(np.linalg.eigvals(M[:order, :order])).max() >= 1:
                            with contextlib.redirect_stdout(io.StringIO()):
                                M, *_ = methods.forcing_A_stability(
                                    M, order, Ob, p, X, count, u, rows
                                )
                            yield f"{name.lower()} {rows}/{order} stable", parted(M, order)

    return find


def parted(M: Array, n: int) -> Matrices:
    """A, B, C and D of a block matrix."""
    return M[:n, :n].copy(), M[:n, n:].copy(), M[n:, :n].copy(), M[n:, n:].copy()


def with_control(grid: Grid) -> Finder:
    """ERA of Markov parameters by least squares, as many as five times the horizon or more."""
    import control

    def find(u: Array, y: Array) -> Iterator[tuple[str, Matrices]]:
        for rows in grid.horizons:
            for count in (2 * rows + 2, 5 * rows + 2):
                if count * u.shape[1] > len(u) // 2:
                    continue
                h = control.markov(y.T, u.T, count, dt=1.0)
                half = (count - 1) // 2
                for order in grid.orders:
                    if order <= half * min(u.shape[1], y.shape[1]):
                        found, _ = control.eigensys_realization(h, order, half, half)
                        A, B, C, D = map(np.asarray, (found.A, found.B, found.C, found.D))
                        yield f"era {count}/{order}", (A, B, C, D)

    return find


def finders(grid: Grid) -> dict[str, Finder]:
    """By package."""
    makers = {"nfoursid": with_nfoursid, "sippy_unipi": with_sippy, "control": with_control}
    return {
        "statewise": ours(grid),
        **{name: make(grid) for name, make in makers.items() if find_spec(name)},
    }


def enough(u: Array, y: Array, rows: int) -> bool:
    """Whether there are as many windows as rows of data."""
    return len(u) - 2 * rows + 1 >= 2 * rows * (u.shape[1] + y.shape[1])


def loops(n: int) -> dict[str, Callable[[Array, Array], Array]]:
    """A of one series by each peer, by its own functions as they come."""
    found: dict[str, Callable[[Array, Array], Array]] = {}
    if find_spec("nfoursid"):
        from nfoursid.nfoursid import NFourSID

        def by_nfoursid(u: Array, y: Array) -> Array:
            frame = pd.DataFrame({"u": u[:, 0], "y": y[:, 0]})
            method = NFourSID(frame, ["y"], ["u"], num_block_rows=10)
            method.subspace_identification()
            return method.system_identification(rank=n)[0].a

        found["nfoursid 10, loop"] = by_nfoursid
    if find_spec("sippy_unipi"):
        from sippy_unipi.OLSims_methods import OLSims

        for name in ("N4SID", "MOESP", "CVA"):

            def by_sippy(u: Array, y: Array, name: str = name) -> Array:
                with contextlib.redirect_stdout(io.StringIO()):
                    return OLSims(y.T, u.T, 10, name, fixed_order=n, D_required=True)[0]

            found[f"sippy_unipi {name.lower()} 10, loop"] = by_sippy
    if find_spec("control"):
        import control

        def by_control(u: Array, y: Array) -> Array:
            h = control.markov(y.T, u.T, 42, dt=1.0)
            return np.asarray(control.eigensys_realization(h, n, 20, 20)[0].A)

        found["control ERA of 42 Markov parameters, loop"] = by_control
    return found
