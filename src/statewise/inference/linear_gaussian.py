"""The linear-Gaussian state-space model as a value."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from statewise.lti import discrete_lyapunov

MATRICES = {"F": ("n", "n"), "H": ("p", "n"), "Q": ("n", "n"), "R": ("p", "p")}


class Problem(NamedTuple):
    """A model beside the data it is asked about, everything broadcastable over (B, T).

    Attributes:
        F: (b, t, n, n) with b 1 or B and t 1 or T; so are the other parameters.
        H: (b, t, p, n).
        Q: (b, t, n, n).
        R: (b, t, p, p).
        c: what inputs and offset add to the state, (b, t, n), or None.
        d: what they add to the outputs, (b, t, p), or None.
        m0: (B, n).
        P0: (B, n, n).
        y: observations with 0 where nothing is observed, (B, T, p).
        observed: (B, T, p) bool, or None where all is observed.
        lengths: (B,) int64, or None where all series end at T.
        moves_first: whether the first step moves the state before it observes.
        begins: whether the first step is that of the series, which the prior is for.
    """

    F: Tensor
    H: Tensor
    Q: Tensor
    R: Tensor
    c: Tensor | None
    d: Tensor | None
    m0: Tensor
    P0: Tensor
    y: Tensor
    observed: Tensor | None
    lengths: Tensor | None
    moves_first: bool
    begins: bool

    @property
    def size(self) -> tuple[int, int, int, int]:
        """(B, T, n, p)."""
        batch, length, outputs = self.y.shape
        return batch, length, self.F.shape[-1], outputs

    def valid(self) -> Tensor:
        """Which steps are before the end of their series, (B, T) bool."""
        batch, length = self.y.shape[:2]
        steps = torch.arange(length, device=self.y.device).expand(batch, length)
        return steps < (length if self.lengths is None else self.lengths.unsqueeze(1))

    def seen(self) -> Tensor:
        """Which outputs are observed, before the end of their series, (B, T, p) bool."""
        valid = self.valid().unsqueeze(-1)
        return valid.expand(self.y.shape) if self.observed is None else self.observed & valid

    def steps(self, start: int, stop: int) -> Problem:
        """The steps [start, stop) alone; the prior stays, and a later part moves first."""

        def cut(x: Tensor | None) -> Tensor | None:
            return x if x is None or x.shape[1] == 1 else x[:, start:stop]

        lengths = self.lengths
        if lengths is not None:
            lengths = (lengths - start).clamp(0, stop - start)
        return self._replace(
            **{name: cut(getattr(self, name)) for name in ("F", "H", "Q", "R", "c", "d")},
            y=self.y[:, start:stop],
            observed=None if self.observed is None else self.observed[:, start:stop],
            lengths=lengths,
            moves_first=self.moves_first or start > 0,
            begins=self.begins and start == 0,
        )


class LinearGaussian:
    """x_t = F x_{t−1} + B u_t + c + w_t, y_t = H x_t + D u_t + d + v_t, w ~ N(0, Q), v ~ N(0, R).

    A parameter has the axes written below; or time first, (T, ·, ·); or series and time first,
    (B, T, ·, ·), either of length 1 where nothing varies. A parameter that varies in time leads
    into step t at index t.

    Args:
        F: transition, (n, n).
        H: (p, n).
        Q: covariance of the state noise, (n, n), positive semi-definite.
        R: covariance of the output noise, (p, p), positive semi-definite.
        B: (n, m), or None without inputs.
        D: (p, m), or None.
        c: offset of the state, (n,).
        d: offset of the outputs, (p,).
        m0: mean of the first state, (n,) or (B, n); None for zero.
        P0: its covariance, (n, n) or (B, n, n); None until :meth:`stationary` or :meth:`diffuse`
            gives one.
        prior_at: 1 when m0 and P0 are those at the first observation, 0 when they are those
            before the transition into it.

    Raises:
        ValueError: shapes that do not fit.
        TypeError: complex or whole-number tensors.

    Example:
        >>> model = LinearGaussian([[1.0]], [[1.0]], [[0.1]], [[1.0]], P0=[[10.0]])
        >>> model.states, model.outputs, model.inputs
        (1, 1, 0)
    """

    def __init__(
        self,
        F: Any,
        H: Any,
        Q: Any,
        R: Any,
        *,
        B: Any = None,
        D: Any = None,
        c: Any = None,
        d: Any = None,
        m0: Any = None,
        P0: Any = None,
        prior_at: int = 1,
    ) -> None:
        given = {"F": F, "H": H, "Q": Q, "R": R, "B": B, "D": D, "c": c, "d": d, "m0": m0, "P0": P0}
        tensors = together({k: x for k, x in given.items() if x is not None})
        if prior_at not in (0, 1):
            raise ValueError(f"prior_at is {prior_at!r}; it must be 0 or 1")
        self.F, self.H, self.Q, self.R = (as_matrix(k, tensors.get(k)) for k in "FHQR")
        self.B, self.D = (as_matrix(k, tensors[k]) if k in tensors else None for k in "BD")
        self.c, self.d = (_vector(k, tensors[k]) if k in tensors else None for k in "cd")
        self.prior_at = prior_at
        self.unknown: Tensor | None = None
        n, p = self.F.shape[-1], self.H.shape[-2]
        self._check(n, p)
        m0, P0 = tensors.get("m0"), tensors.get("P0")
        self.m0 = self.F.new_zeros(1, n) if m0 is None else m0.reshape(-1, m0.shape[-1])
        self.P0 = None if P0 is None else P0.reshape(-1, *P0.shape[-2:])
        if self.m0.shape[-1] != n or (self.P0 is not None and self.P0.shape[-2:] != (n, n)):
            raise ValueError(
                f"m0 has shape {tuple(self.m0.shape)} and P0 "
                f"{None if self.P0 is None else tuple(self.P0.shape)}; a model of {n} states needs "
                f"(..., {n}) and (..., {n}, {n})"
            )

    def _check(self, n: int, p: int) -> None:
        m = self.inputs
        sizes = {"n": n, "p": p, "m": m}
        expected = {**MATRICES, "B": ("n", "m"), "D": ("p", "m"), "c": ("n",), "d": ("p",)}
        for name, axes in expected.items():
            x = getattr(self, name)
            wanted = tuple(sizes[a] for a in axes)
            if x is not None and tuple(x.shape[2:]) != wanted:
                raise ValueError(
                    f"{name} has shape {tuple(x.shape[2:])}; a model with {n} states, {p} outputs "
                    f"and {m} inputs needs {wanted}"
                )

    @property
    def states(self) -> int:
        """Number of states n."""
        return self.F.shape[-1]

    @property
    def outputs(self) -> int:
        """Number of outputs p."""
        return self.H.shape[-2]

    @property
    def inputs(self) -> int:
        """Number of inputs m."""
        given = [x.shape[-1] for x in (self.B, self.D) if x is not None]
        return given[0] if given else 0

    def replace(self, **changes: Any) -> LinearGaussian:
        """A copy with other parameters, by the names of the constructor."""
        names = ("F", "H", "Q", "R", "B", "D", "c", "d", "m0", "P0", "prior_at")
        given = {name: getattr(self, name) for name in names}
        made = LinearGaussian(**(given | changes))
        if "P0" not in changes:
            made.unknown = self.unknown
        return made

    def diffuse(self, which: Any = None, *, scale: float | None = None) -> LinearGaussian:
        """A copy that knows nothing about some states at the start.

        Args:
            which: (n,) bool, the states of which nothing is known; None for all.
            scale: None for an exact start, the limit of an infinite variance, in which the
                likelihood is that of Durbin and Koopman; a number for that variance.

        The variance of P0 counts for the other states, 0 where the model has no P0.
        """
        n = self.states
        unknown = torch.ones(n, dtype=torch.bool, device=self.F.device)
        if which is not None:
            unknown = torch.as_tensor(which, dtype=torch.bool, device=self.F.device)
        if unknown.shape != (n,):
            raise ValueError(f"which has shape {tuple(unknown.shape)}; it must be ({n},)")
        known = (~unknown).to(self.F)
        P0 = self.F.new_zeros(1, n, n) if self.P0 is None else self.P0
        P0 = P0 * known.unsqueeze(-1) * known
        if scale is not None:
            return self.replace(P0=P0 + scale * torch.diag(unknown.to(self.F)))
        made = copy.copy(self)
        made.P0, made.unknown = P0, unknown
        return made

    def stationary(self) -> LinearGaussian:
        """A copy that starts from its stationary distribution, P = F P Fᵀ + Q.

        Raises:
            ValueError: parameters that vary in time, or a transition that is not stable.
        """
        F, Q = self._constant("F"), self._constant("Q")
        radius = torch.linalg.eigvals(F.detach()).abs().amax().item()
        if not radius < 1:
            raise ValueError(
                f"a stationary start needs a stable F; its spectral radius is {radius:.6g}, and "
                "below 1 is needed (for other models see diffuse)"
            )
        m0 = F.new_zeros(1, self.states)
        if self.c is not None:
            eye = torch.eye(self.states, dtype=F.dtype, device=F.device)
            m0 = torch.linalg.solve(eye - F, self._constant("c").unsqueeze(-1)).squeeze(-1)
        return self.replace(m0=m0, P0=discrete_lyapunov(F, Q).X)

    def _constant(self, name: str) -> Tensor:
        """A parameter that must not vary in time, with series first."""
        x = getattr(self, name)
        if x.shape[1] != 1:
            raise ValueError(f"{name} varies in time, over {x.shape[1]} steps; it must be constant")
        return x[:, 0]

    def problem(
        self,
        y: Any,
        u: Any = None,
        *,
        mask: Any = None,
        lengths: Any = None,
        start: int | None = None,
    ) -> Problem:
        """The model beside data.

        Args:
            y: observations (B, T, p); NaN where nothing is observed.
            u: inputs (B, T, m), or None for a model without.
            mask: (B, T) or (B, T, p) bool, True where y is observed; None where it is not NaN.
            lengths: steps of each series, (B,); None for T.
            start: number of steps before these, which parameters that vary in time have too; None
                when the parameters are those of these steps.

        Raises:
            ValueError: shapes that do not fit, missing inputs, or a model without a start.
        """
        if self.P0 is None:
            raise ValueError(
                "the model has no P0: give one, or take model.stationary() or model.diffuse()"
            )
        y = as_tensor("y", y).to(self.F)
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
        named = {name: getattr(self, name) for name in ("F", "H", "Q", "R", "c", "d", "B", "D")}
        for name, x in named.items():
            if x is not None:
                named[name] = window(name, x, batch, length, start)
        c, d = named["c"], named["d"]
        if self.inputs:
            u = _inputs(u, batch, length, self.inputs).to(self.F)
            c, d = _driven(c, named["B"], u), _driven(d, named["D"], u)
        elif u is not None:
            raise ValueError("u is given, but the model has neither B nor D")
        if lengths is not None:
            lengths = ends_of(lengths, y)
        return Problem(
            **{name: named[name] for name in "FHQR"},
            c=c,
            d=d,
            m0=self.m0.expand(batch, -1),
            P0=self.P0.expand(batch, -1, -1),
            y=y,
            observed=observed,
            lengths=lengths,
            moves_first=self.prior_at == 0 or bool(start),
            begins=not start,
        )

    def __repr__(self) -> str:
        kinds = f"states={self.states}, outputs={self.outputs}, inputs={self.inputs}"
        return f"LinearGaussian({kinds}, dtype={self.F.dtype})"


def as_tensor(name: str, x: Any) -> Tensor:
    """What is given as a real floating-point tensor; numbers and arrays become float64."""
    if isinstance(x, np.ndarray) and not x.flags.writeable:
        x = x.copy()
    found = torch.as_tensor(x)
    if not isinstance(x, Tensor) and found.dtype is not torch.float64:
        found = torch.as_tensor(x, dtype=torch.float64)
    if not found.is_floating_point():
        raise TypeError(f"{name} is {found.dtype}; it must be real floating-point")
    return found


def together(given: dict[str, Any]) -> dict[str, Tensor]:
    """Tensors of one type, on the device of those that are not on the CPU, where there are any."""
    tensors = {name: as_tensor(name, x) for name, x in given.items()}
    dtype, device = torch.float32, torch.device("cpu")
    for x in tensors.values():
        dtype = torch.promote_types(dtype, x.dtype)
        device = x.device if device.type == "cpu" else device
    return {name: x.to(device, dtype) for name, x in tensors.items()}


def as_matrix(name: str, x: Tensor | None) -> Tensor:
    """A parameter with all of its axes, (b, t, rows, columns)."""
    if x is None or not 2 <= x.dim() <= 4:
        shape = None if x is None else tuple(x.shape)
        raise ValueError(f"{name} has shape {shape}; it must have 2 to 4 axes, matrices last")
    return x.reshape((1,) * (4 - x.dim()) + tuple(x.shape))


def _vector(name: str, x: Tensor | None) -> Tensor:
    if x is None or not 1 <= x.dim() <= 3:
        shape = None if x is None else tuple(x.shape)
        raise ValueError(f"{name} has shape {shape}; it must have 1 to 3 axes")
    return x.reshape((1,) * (3 - x.dim()) + tuple(x.shape))


def observed_of(y: Tensor, mask: Any) -> Tensor | None:
    """Where y is neither NaN nor masked, (B, T, p), or None where that is everywhere."""
    missing = y.isnan()
    if mask is None:
        return ~missing if bool(missing.any()) else None
    mask = torch.as_tensor(mask, device=y.device)
    if mask.dtype is not torch.bool:
        raise TypeError(f"mask is {mask.dtype}; it must be bool")
    if mask.dim() == 2:
        mask = mask.unsqueeze(-1)
    if mask.dim() != 3 or mask.shape[:2] != y.shape[:2] or mask.shape[2] not in (1, y.shape[2]):
        raise ValueError(
            f"mask has shape {tuple(mask.shape)}; y of shape {tuple(y.shape)} needs "
            f"{tuple(y.shape[:2])} or {tuple(y.shape)}"
        )
    return mask.expand(y.shape) & ~missing


def ends_of(lengths: Any, y: Tensor) -> Tensor:
    """Steps of each series of y (B, T, …), (B,) int64; those that a GPU holds are not looked at."""
    found = torch.as_tensor(lengths, dtype=torch.int64)
    batch, length = y.shape[:2]
    if tuple(found.shape) != (batch,):
        raise ValueError(f"lengths has shape {tuple(found.shape)}; {batch} series need ({batch},)")
    if found.device.type == "cpu" and bool(((found < 0) | (found > length)).any()):
        raise ValueError(
            f"lengths reach from {int(found.min())} to {int(found.max())}; they must be from 0 to "
            f"the {length} steps of y"
        )
    return found.to(y.device)


def window(name: str, x: Tensor, batch: int, length: int, start: int | None) -> Tensor:
    """The steps from ``start`` on of a parameter, its batch and time checked."""
    if x.shape[1] > 1 and start is not None:
        if start + length > x.shape[1]:
            raise ValueError(
                f"{name} is given for {x.shape[1]} steps; observation {start + length} is behind "
                "them"
            )
        x = x[:, start : start + length]
    if x.shape[0] not in (1, batch) or x.shape[1] not in (1, length):
        raise ValueError(
            f"{name} is given for {x.shape[0]} series and {x.shape[1]} steps; the data have "
            f"{batch} series and {length} steps"
        )
    return x


def _inputs(u: Any, batch: int, length: int, m: int) -> Tensor:
    if u is None:
        raise ValueError(f"the model has {m} inputs; give u (B, T, {m})")
    u = as_tensor("u", u)
    if tuple(u.shape) != (batch, length, m):
        raise ValueError(f"u has shape {tuple(u.shape)}; it must be {(batch, length, m)}")
    return u


def _driven(offset: Tensor | None, weight: Tensor | None, u: Tensor) -> Tensor | None:
    if weight is None:
        return offset
    added = (weight @ u.unsqueeze(-1)).squeeze(-1)
    return added if offset is None else offset + added
