"""A linear time-invariant system as a value: the matrices A, B, C, D and the sampling time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

NAMES = ("A", "B", "C", "D")


@dataclasses.dataclass(frozen=True, eq=False, init=False, repr=False)
class StateSpace:
    """x_{k+1} = A x_k + B u_k,  y_k = C x_k + D u_k; or x' = A x + B u,  y = C x + D u.

    The textbook form: y_k uses the state *before* it is updated with u_k. The layers of Statewise
    use the state updated with u_k; :func:`~statewise.lti.to_updated` and
    :func:`~statewise.lti.from_updated` convert without changing the input-output map.

    Everything but ``dt`` may have leading batch dimensions, which broadcast together. Numbers that
    are no tensors become float64; types promote together. The matrices may be complex.

    Attributes:
        A: dynamics, (..., n, n).
        B: input matrix, (..., n, m).
        C: output matrix, (..., p, n).
        D: direct term, (..., p, m); zeros when it is not given.
        dt: sampling time, in the unit of time; None for continuous time.

    Example:
        >>> system = StateSpace([[0.5]], [[1.0]], [[2.0]], dt=1.0)
        >>> system.n_states, system.n_inputs, system.n_outputs, system.is_discrete
        (1, 1, 1, True)
    """

    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    dt: float | None

    def __init__(self, A: Any, B: Any, C: Any, D: Any = None, dt: float | None = None) -> None:
        """See the class.

        Raises:
            ValueError: shapes that do not fit, entries that are not finite, or a sampling time
                that is not positive.
            TypeError: something that is not a number.
        """
        given = {"A": _matrix("A", A), "B": _matrix("B", B), "C": _matrix("C", C)}
        if D is None:
            p, m = given["C"].shape[-2], given["B"].shape[-1]
            given["D"] = given["C"].new_zeros(p, m)
        else:
            given["D"] = _matrix("D", D)
        _check_shapes(given)
        dtype, device = _common_type(given)
        batch = _common_batch(given)
        for name, value in given.items():
            value = value.to(dtype=dtype, device=device).resolve_conj()
            object.__setattr__(self, name, value.expand(*batch, *value.shape[-2:]))
        object.__setattr__(self, "dt", checked_dt(dt))

    @classmethod
    def gain(cls, D: Any, dt: float | None = None) -> StateSpace:
        """A system without states: y = D u, ``D`` of shape (..., p, m)."""
        D = _matrix("D", D)
        p, m = D.shape[-2:]
        batch = D.shape[:-2]
        return cls(
            D.new_zeros(*batch, 0, 0), D.new_zeros(*batch, 0, m), D.new_zeros(*batch, p, 0), D, dt
        )

    @property
    def n_states(self) -> int:
        """Number of states n."""
        return self.A.shape[-1]

    @property
    def n_inputs(self) -> int:
        """Number of inputs m."""
        return self.B.shape[-1]

    @property
    def n_outputs(self) -> int:
        """Number of outputs p."""
        return self.C.shape[-2]

    @property
    def batch_shape(self) -> torch.Size:
        """The leading dimensions, () for one system."""
        return self.A.shape[:-2]

    @property
    def is_discrete(self) -> bool:
        """Whether the system has a sampling time."""
        return self.dt is not None

    @property
    def is_complex(self) -> bool:
        """Whether the matrices are complex."""
        return self.A.is_complex()

    @property
    def dtype(self) -> torch.dtype:
        """Type of the matrices."""
        return self.A.dtype

    @property
    def device(self) -> torch.device:
        """Device of the matrices."""
        return self.A.device

    @property
    def matrices(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """A, B, C and D."""
        return self.A, self.B, self.C, self.D

    def __repr__(self) -> str:
        time = "continuous time" if self.dt is None else f"dt={self.dt:g}"
        batch = f", batch {tuple(self.batch_shape)}" if self.batch_shape else ""
        sizes = f"{self.n_states} states, {self.n_inputs} inputs, {self.n_outputs} outputs"
        return f"StateSpace({sizes}, {time}{batch}, {str(self.dtype).removeprefix('torch.')})"

    def __getitem__(self, index: Any) -> StateSpace:
        """Systems of the batch: indices act on the leading dimensions only.

        For channels, see :meth:`select`.
        """
        if not self.batch_shape:
            raise IndexError(
                "this system has no batch dimensions to index; select(outputs, inputs) picks "
                "channels"
            )
        parts = index if isinstance(index, tuple) else (index,)
        if Ellipsis not in parts:
            parts = (*parts, Ellipsis)
        parts = (*parts, slice(None), slice(None))
        return StateSpace(*(M[parts] for M in self.matrices), dt=self.dt)

    def select(
        self, outputs: int | Sequence[int] | None = None, inputs: int | Sequence[int] | None = None
    ) -> StateSpace:
        """The system between some inputs and some outputs, with all its states.

        Args:
            outputs: one index or several; None for all.
            inputs: one index or several; None for all.
        """
        rows = _indices("outputs", outputs, self.n_outputs)
        columns = _indices("inputs", inputs, self.n_inputs)
        return StateSpace(
            self.A,
            self.B[..., columns],
            self.C[..., rows, :],
            self.D[..., rows, :][..., columns],
            self.dt,
        )

    def expand(self, *batch: int) -> StateSpace:
        """The system repeated to a batch shape, without copies."""
        return StateSpace(*(M.expand(*batch, *M.shape[-2:]) for M in self.matrices), dt=self.dt)

    def to(
        self, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> StateSpace:
        """The system in another type or on another device."""
        moved = (M.to(dtype=dtype or M.dtype, device=device or M.device) for M in self.matrices)
        return StateSpace(*moved, dt=self.dt)

    def transform(self, T: Any) -> StateSpace:
        """The same system in the states z of x = T z: (T⁻¹AT, T⁻¹B, CT, D).

        Args:
            T: invertible matrix, (..., n, n).
        """
        T = _matrix("T", T)
        n = self.n_states
        if T.shape[-2:] != (n, n):
            raise ValueError(f"T has shape {tuple(T.shape)}; {n} states need (..., {n}, {n})")
        dtype = torch.promote_types(T.dtype, self.dtype)
        T = T.to(dtype=dtype, device=self.device)
        A, B, C, D = (M.to(dtype) for M in self.matrices)
        return StateSpace(torch.linalg.solve(T, A @ T), torch.linalg.solve(T, B), C @ T, D, self.dt)

    def dual(self) -> StateSpace:
        """The adjoint system (A*, C*, B*, D*), for which inputs and outputs change places."""
        return StateSpace(self.A.mH, self.C.mH, self.B.mH, self.D.mH, self.dt)

    def __call__(self, points: Any) -> Tensor:
        """The transfer matrix G(s) = C (sI − A)⁻¹ B + D by direct solution.

        Args:
            points: s, or z in discrete time: a number, or anything that broadcasts with the batch
                dimensions.

        Returns:
            Complex values, (..., p, m).
        """
        kind = torch.promote_types(self.dtype, torch.complex64)
        A, B, C, D = (M.to(kind) for M in self.matrices)
        s = torch.as_tensor(points, dtype=kind, device=self.device)[..., None, None]
        eye = torch.eye(self.n_states, dtype=kind, device=self.device)
        left = s * eye - A
        return C @ torch.linalg.solve(left, B.expand(*left.shape[:-2], *B.shape[-2:])) + D

    def __neg__(self) -> StateSpace:
        return StateSpace(self.A, self.B, -self.C, -self.D, self.dt)

    def __add__(self, other: StateSpace) -> StateSpace:
        """The sum of both outputs for one input."""
        from statewise.lti.interconnect import parallel

        return parallel(self, other) if isinstance(other, StateSpace) else NotImplemented

    def __sub__(self, other: StateSpace) -> StateSpace:
        return self + (-other) if isinstance(other, StateSpace) else NotImplemented

    def __matmul__(self, other: StateSpace) -> StateSpace:
        """The product of transfer matrices: the output of ``other`` is the input of this one."""
        from statewise.lti.interconnect import series

        return series(other, self) if isinstance(other, StateSpace) else NotImplemented

    def __mul__(self, factor: float) -> StateSpace:
        """The system with its output multiplied by a number or a 0-dimensional tensor."""
        if isinstance(factor, StateSpace) or (isinstance(factor, Tensor) and factor.dim()):
            return NotImplemented
        return StateSpace(self.A, self.B, self.C * factor, self.D * factor, self.dt)

    __rmul__ = __mul__


def stack(systems: Sequence[StateSpace]) -> StateSpace:
    """One batched system, with a new leading dimension, of systems of equal sizes."""
    common_dt(*systems)
    sizes = {(s.n_states, s.n_inputs, s.n_outputs) for s in systems}
    if len(sizes) != 1:
        raise ValueError(f"stack needs equal (states, inputs, outputs); given {sorted(sizes)}")
    parts = zip(*(s.matrices for s in systems), strict=True)
    return StateSpace(*(torch.stack(p) for p in parts), dt=systems[0].dt)


def each(system: StateSpace) -> list[StateSpace]:
    """The systems of a batch, one by one.

    Raises:
        ValueError: a batch that holds none.
    """
    count = math.prod(system.batch_shape)
    if not count:
        raise ValueError(f"the batch of shape {tuple(system.batch_shape)} holds no system")
    flat = [M.reshape(count, *M.shape[-2:]) for M in system.matrices]
    return [StateSpace(*(M[k] for M in flat), dt=system.dt) for k in range(count)]


def batch_of(systems: Sequence[StateSpace], shape: Sequence[int]) -> StateSpace:
    """Systems of equal sizes as a batch of a shape."""
    whole = stack(systems)
    return StateSpace(*(M.reshape(*shape, *M.shape[1:]) for M in whole.matrices), dt=whole.dt)


def common_dt(*systems: Any) -> float | None:
    """The sampling time that all systems share.

    Raises:
        ValueError: there is none, or there are no systems.
    """
    if not systems:
        raise ValueError("no systems were given; at least one is needed")
    times = [s.dt for s in systems]
    if any(dt != times[0] for dt in times):
        raise ValueError(f"systems of one sampling time are needed; given dt = {times}")
    return times[0]


def checked_dt(dt: float | None) -> float | None:
    """A sampling time as a float, or None for continuous time."""
    if dt is None:
        return None
    if isinstance(dt, bool) or not isinstance(dt, (int, float)):
        raise TypeError(f"dt is {dt!r}; it must be a number, or None for continuous time")
    if not (math.isfinite(dt) and dt > 0):
        raise ValueError(f"dt is {dt!r}; it must be positive, or None for continuous time")
    return float(dt)


def as_tensor(name: str, value: Any) -> Tensor:
    """Numbers as a floating-point or complex tensor; what is no tensor is read as float64."""
    if not isinstance(value, Tensor):
        try:
            value = torch.as_tensor(np.asarray(value))
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"{name} cannot be read as an array of numbers: {error}") from error
        value = value.to(torch.complex128 if value.is_complex() else torch.float64)
    elif not (value.is_floating_point() or value.is_complex()):
        if value.dtype is torch.bool:
            raise TypeError(f"{name} has type bool; numbers are needed")
        value = value.to(torch.float64)
    return value


def _matrix(name: str, value: Any) -> Tensor:
    value = as_tensor(name, value)
    if value.dim() < 2:
        raise ValueError(
            f"{name} has shape {tuple(value.shape)}; a matrix with two dimensions or more is needed"
        )
    if not value.isfinite().all():
        raise ValueError(f"{name} holds values that are not finite")
    return value


def _check_shapes(given: dict[str, Tensor]) -> None:
    n, m, p = given["A"].shape[-1], given["B"].shape[-1], given["C"].shape[-2]
    expected = {"A": (n, n), "B": (n, m), "C": (p, n), "D": (p, m)}
    for name, shape in expected.items():
        if given[name].shape[-2:] != shape:
            found = ", ".join(f"{key} {tuple(M.shape)}" for key, M in given.items())
            raise ValueError(
                f"{name} must be (..., {shape[0]}, {shape[1]}) to fit the others; given {found}"
            )


def _common_type(given: dict[str, Tensor]) -> tuple[torch.dtype, torch.device]:
    dtype = given["A"].dtype
    for value in given.values():
        dtype = torch.promote_types(dtype, value.dtype)
    devices = {value.device for value in given.values()}
    if len(devices) > 1:
        found = ", ".join(f"{name} on {value.device}" for name, value in given.items())
        raise ValueError(f"the matrices must be on one device; given {found}")
    return dtype, devices.pop()


def _common_batch(given: dict[str, Tensor]) -> torch.Size:
    try:
        return torch.broadcast_shapes(*(value.shape[:-2] for value in given.values()))
    except RuntimeError:
        shapes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in given.items())
        raise ValueError(f"the batch dimensions do not broadcast: {shapes}") from None


def _indices(name: str, chosen: int | Sequence[int] | None, count: int) -> list[int]:
    chosen = range(count) if chosen is None else [chosen] if isinstance(chosen, int) else chosen
    for k in chosen:
        if not -count <= k < count:
            raise IndexError(f"{name} has index {k}; the system has {count}")
    return list(chosen)
