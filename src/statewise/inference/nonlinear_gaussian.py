"""State-space models with functions of the user's and additive Gaussian noise."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from statewise.inference.linear_gaussian import (
    LinearGaussian,
    Problem,
    as_matrix,
    as_tensor,
    ends_of,
    observed_of,
    together,
    window,
)

Map = Callable[[Tensor, Any, Tensor], Tensor]
"""(x, u, t) → values: x (n,), u (m,) or None, t a whole number; with ``batched`` (N, ·), (N,)."""


class Functions(NamedTuple):
    """What moves and what is seen, and their derivatives with respect to x, or None."""

    f: Map
    g: Map
    f_slope: Map | None
    g_slope: Map | None
    batched: bool


class NonlinearProblem(NamedTuple):
    """A nonlinear model beside the data it is asked about; fields as those of :class:`Problem`.

    Attributes:
        functions: the maps.
        Q: (b, t, n, n).
        R: (b, t, p, p).
        m0: (B, n).
        P0: (B, n, n).
        y: (B, T, p), 0 where nothing is observed.
        observed: (B, T, p) bool, or None.
        lengths: (B,) int64, or None.
        moves_first: whether the first step moves the state before it observes.
        begins: whether the first step is that of the series.
        u: inputs of the outputs, (B, T, m), or None.
        u_move: inputs of the transition into each step, (B, T, m), or None.
        first: number of the first step.
    """

    functions: Functions
    Q: Tensor
    R: Tensor
    m0: Tensor
    P0: Tensor
    y: Tensor
    observed: Tensor | None
    lengths: Tensor | None
    moves_first: bool
    begins: bool
    u: Tensor | None
    u_move: Tensor | None
    first: int

    @property
    def size(self) -> tuple[int, int, int, int]:
        """(B, T, n, p)."""
        batch, length, outputs = self.y.shape
        return batch, length, self.m0.shape[-1], outputs

    valid = Problem.valid
    seen = Problem.seen

    def steps(self, start: int, stop: int) -> NonlinearProblem:
        """The steps [start, stop) alone; the prior stays, and a later part moves first."""

        def cut(x: Tensor | None, every: bool = False) -> Tensor | None:
            return x if x is None or (x.shape[1] == 1 and not every) else x[:, start:stop]

        lengths = self.lengths
        if lengths is not None:
            lengths = (lengths - start).clamp(0, stop - start)
        return self._replace(
            **{name: cut(getattr(self, name)) for name in ("Q", "R")},
            **{name: cut(getattr(self, name), True) for name in ("y", "observed", "u", "u_move")},
            lengths=lengths,
            moves_first=self.moves_first or start > 0,
            begins=self.begins and start == 0,
            first=self.first + start,
        )


def _call(
    function: Map, batched: bool, x: Tensor, u: Tensor | None, t: Tensor, tail: tuple[int, ...]
) -> Tensor:
    """A map at (N, n), (N, m) and (N,)."""
    found = (
        function(x, u, t) if batched else vmap(function, (0, None if u is None else 0, 0))(x, u, t)
    )
    if tuple(found.shape) != (len(x), *tail):
        shape = tuple(found.shape) if batched else tuple(found.shape[1:])
        wanted = (len(x), *tail) if batched else tail
        raise ValueError(
            f"a function of the model gave the shape {shape} for a state of shape "
            f"{tuple(x.shape) if batched else tuple(x.shape[1:])}; it must be {wanted}"
        )
    return found


def evaluate(problem: Problem | NonlinearProblem, moves: bool, x: Tensor) -> Tensor:
    """F (into each step) or g at points (B, T, K, n) of the steps of a problem."""
    if isinstance(problem, Problem):
        weight, offset = (problem.F, problem.c) if moves else (problem.H, problem.d)
        y = x @ weight.mT
        return y if offset is None else y + offset.unsqueeze(2)
    batch, length, points, n = x.shape
    functions = problem.functions
    p = n if moves else problem.y.shape[-1]
    u, t = _around(problem, moves, (batch, length, points))
    function = functions.f if moves else functions.g
    found = _call(function, functions.batched, x.reshape(-1, n), u, t, (p,))
    return found.reshape(batch, length, points, p)


def slopes(problem: Problem | NonlinearProblem, moves: bool, x: Tensor) -> Tensor:
    """Derivatives of f or g at states (B, T, n) of the steps of a problem, (B, T, p, n)."""
    batch, length, n = x.shape
    if isinstance(problem, Problem):
        weight = problem.F if moves else problem.H
        return weight.expand(batch, length, *weight.shape[2:])
    functions = problem.functions
    p = n if moves else problem.y.shape[-1]
    function, slope = (
        (functions.f, functions.f_slope) if moves else (functions.g, functions.g_slope)
    )
    u, t = _around(problem, moves, (batch, length, 1))
    x = x.reshape(-1, n)
    if slope is not None:
        found = _call(slope, functions.batched, x, u, t, (p, n))
    else:
        found = _slopes_by_rows(lambda x: _call(function, functions.batched, x, u, t, (p,)), x)
    return found.reshape(batch, length, p, n)


def _around(
    problem: NonlinearProblem, moves: bool, shape: tuple[int, int, int]
) -> tuple[Tensor | None, Tensor]:
    """Inputs and step numbers of all points, flat."""
    u = problem.u_move if moves else problem.u
    steps = torch.arange(problem.first, problem.first + shape[1], device=problem.y.device)
    t = steps[:, None].expand(shape).reshape(-1)
    return None if u is None else u.unsqueeze(2).expand(*shape, -1).reshape(-1, u.shape[-1]), t


def _slopes_by_rows(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Derivatives of a function that works on each row, one output after the other."""
    # A gradient is wanted of x, or of what else the function reads.
    wanted = torch.is_grad_enabled() and (x.requires_grad or function(x.detach()).requires_grad)
    with torch.enable_grad():
        x = x if wanted and x.requires_grad else x.detach().requires_grad_()
        y = function(x)
        if not y.requires_grad:
            return x.new_zeros(*y.shape, x.shape[-1])
        rows = [
            torch.autograd.grad(
                y[:, k].sum(), x, create_graph=wanted, retain_graph=True, materialize_grads=True
            )[0]
            for k in range(y.shape[1])
        ]
    found = torch.stack(rows, 1)
    return found if wanted else found.detach()


class NonlinearGaussian:
    """x_t = f(x_{t−1}, u_t, t) + w_t, y_t = g(x_t, u_t, t) + v_t, w ~ N(0, Q), v ~ N(0, R).

    Write f and g for one state, in torch; they are vectorised and differentiated for you. t counts
    the steps of a series from 0, f leads into step t.

    Args:
        f: (x (n,), u (m,) or None, t) → (n,).
        g: (x, u, t) → (p,).
        Q: covariance of the state noise, (n, n), (T, n, n) or (B, T, n, n).
        R: covariance of the output noise, (p, p), likewise.
        m0: mean of the first state, (n,) or (B, n); None for zero.
        P0: its covariance, (n, n) or (B, n, n).
        prior_at: 1 when m0 and P0 are those at the first observation, 0 when they are those
            before the transition into it.
        slopes: derivatives of f and g with respect to x, as functions of the same arguments that
            give (n, n) and (p, n); None to find them.
        batched: f, g and slopes take (N, n), (N, m) and (N,) at once and are not vectorised.
        input_at: what f into step t is given: "now" for u_t, "before" for u_{t−1}.

    Raises:
        ValueError: shapes that do not fit.

    Example:
        >>> model = NonlinearGaussian(
        ...     lambda x, u, t: torch.sin(x), lambda x, u, t: x**2, [[0.1]], [[0.1]], P0=[[1.0]]
        ... )
        >>> model.states, model.outputs
        (1, 1)
    """

    unknown = None

    def __init__(
        self,
        f: Map,
        g: Map,
        Q: Any,
        R: Any,
        *,
        m0: Any = None,
        P0: Any,
        prior_at: int = 1,
        slopes: tuple[Map, Map] | None = None,
        batched: bool = False,
        input_at: str = "now",
    ) -> None:
        if prior_at not in (0, 1):
            raise ValueError(f"prior_at is {prior_at!r}; it must be 0 or 1")
        if input_at not in ("now", "before"):
            raise ValueError(f"input_at is {input_at!r}; it must be 'now' or 'before'")
        self.functions = Functions(f, g, *(slopes or (None, None)), batched)
        self.prior_at, self.input_at = prior_at, input_at
        self._set(Q, R, m0, P0)

    def _set(self, Q: Any, R: Any, m0: Any, P0: Any) -> None:
        given = {"Q": Q, "R": R, "m0": m0, "P0": P0}
        absent = [name for name in ("Q", "R", "P0") if given[name] is None]
        if absent:
            raise ValueError(f"{' and '.join(absent)} must be given; a nonlinear model needs them")
        tensors = together({k: x for k, x in given.items() if x is not None})
        self.Q, self.R = (as_matrix(k, tensors[k]) for k in "QR")
        n = self.states
        start = tensors.get("m0")
        self.m0 = self.Q.new_zeros(1, n) if start is None else start.reshape(-1, start.shape[-1])
        P = tensors["P0"]
        self.P0 = P.reshape(-1, *P.shape[-2:])
        for name, x, wanted in (
            ("Q", self.Q, (n, n)),
            ("R", self.R, (self.outputs, self.outputs)),
            ("m0", self.m0, (n,)),
            ("P0", self.P0, (n, n)),
        ):
            if tuple(x.shape[-len(wanted) :]) != wanted:
                raise ValueError(
                    f"{name} has shape {tuple(x.shape[-len(wanted) :])}; a model with {n} states "
                    f"and {self.outputs} outputs needs {wanted}"
                )

    @property
    def states(self) -> int:
        """Number of states n."""
        return self.Q.shape[-1]

    @property
    def outputs(self) -> int:
        """Number of outputs p."""
        return self.R.shape[-1]

    def replace(self, **changes: Any) -> NonlinearGaussian:
        """A copy with other Q, R, m0, P0 or prior_at."""
        unknown = set(changes) - {"Q", "R", "m0", "P0", "prior_at"}
        if unknown:
            raise TypeError(f"replace takes Q, R, m0, P0 and prior_at, not {sorted(unknown)}")
        made = copy.copy(self)
        made.prior_at = changes.pop("prior_at", self.prior_at)
        made._set(**({"Q": self.Q, "R": self.R, "m0": self.m0, "P0": self.P0} | changes))
        return made

    def problem(
        self,
        y: Any,
        u: Any = None,
        *,
        mask: Any = None,
        lengths: Any = None,
        start: int | None = None,
        u_before: Any = None,
    ) -> NonlinearProblem:
        """The model beside data; see :meth:`LinearGaussian.problem`.

        Args:
            y: observations (B, T, p).
            u: inputs (B, T, m), or None.
            mask: True where y is observed.
            lengths: steps of each series, (B,).
            start: number of steps before these.
            u_before: input of the step before these, (B, m), for a model whose f is given that.

        Raises:
            ValueError: shapes that do not fit.
        """
        y = as_tensor("y", y).to(self.Q)
        if y.dim() != 3 or y.shape[2] != self.outputs or 0 in y.shape:
            raise ValueError(
                f"y has shape {tuple(y.shape)}; it must be (B, T, {self.outputs}), series first"
            )
        batch, length, _ = y.shape
        for name, x in (("m0", self.m0), ("P0", self.P0)):
            if len(x) not in (1, batch):
                raise ValueError(f"{name} is given for {len(x)} series; the data have {batch}")
        observed = observed_of(y, mask)
        if observed is not None:
            y = torch.where(observed, y, 0.0)
        u_move = None
        if u is not None:
            u = as_tensor("u", u).to(self.Q)
            if u.dim() != 3 or tuple(u.shape[:2]) != (batch, length):
                raise ValueError(f"u has shape {tuple(u.shape)}; it must be ({batch}, {length}, m)")
            u_move = u
            if self.input_at == "before":
                # Nothing moves into the first step of a series but from rest.
                first = torch.zeros_like(u[:, 0]) if u_before is None else u_before
                u_move = torch.cat([first.unsqueeze(1), u[:, :-1]], 1)
        if lengths is not None:
            lengths = ends_of(lengths, y)
        return NonlinearProblem(
            functions=self.functions,
            Q=window("Q", self.Q, batch, length, start),
            R=window("R", self.R, batch, length, start),
            m0=self.m0.expand(batch, -1),
            P0=self.P0.expand(batch, -1, -1),
            y=y,
            observed=observed,
            lengths=lengths,
            moves_first=self.prior_at == 0 or bool(start),
            begins=not start,
            u=u,
            u_move=u_move,
            first=start or 0,
        )

    def __repr__(self) -> str:
        kinds = f"states={self.states}, outputs={self.outputs}"
        return f"NonlinearGaussian({kinds}, dtype={self.Q.dtype})"


Model = LinearGaussian | NonlinearGaussian
