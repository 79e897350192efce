"""Polynomial models with inputs and coloured noise, as values."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from statewise.lti.polynomials import companion
from statewise.lti.state_space import StateSpace, as_tensor, checked_dt


@dataclasses.dataclass(frozen=True, eq=False, init=False, repr=False)
class PolynomialModel:
    """A(q) y_t = Σ_i B_i(q)/F_i(q) u_i(t − nk_i) + C(q)/D(q) e_t, one output, any inputs.

    Polynomials are in the delay operator q⁻¹, lowest power first: A = 1 + a_1 q⁻¹ + …. ARX has A
    and B, ARMAX also C, output error B and F, Box-Jenkins all but A.

    Attributes:
        a: A with its leading 1, (na + 1,).
        b: B_i of each input, (nb_i,).
        c: C with its leading 1, (nc + 1,).
        d: D with its leading 1, (nd + 1,).
        f: F_i of each input with its leading 1, (nf_i + 1,).
        nk: delay of each input in samples.
        dt: sampling time.

    Example:
        >>> model = PolynomialModel(a=[1.0, -0.5], b=[[2.0]], nk=(1,))
        >>> model.system.A.item(), model.system.n_inputs
        (0.5, 1)
    """

    a: Tensor
    b: tuple[Tensor, ...]
    c: Tensor
    d: Tensor
    f: tuple[Tensor, ...]
    nk: tuple[int, ...]
    dt: float

    def __init__(
        self,
        a: Any = (1.0,),
        b: Any = (),
        c: Any = (1.0,),
        d: Any = (1.0,),
        f: Any = None,
        nk: Any = None,
        dt: float = 1.0,
    ) -> None:
        """See the class; ``f`` None for 1, ``nk`` None for 1.

        Raises:
            ValueError: a monic polynomial that does not start with 1, numbers of polynomials or
                delays that do not match, or A F_i and D together, which no form here has.
        """
        parts = tuple(_coefficients("b", part) for part in b)
        f = [(1.0,)] * len(parts) if f is None else f
        nk = (1,) * len(parts) if nk is None else tuple(nk)
        if len(f) != len(parts) or len(nk) != len(parts):
            raise ValueError(
                f"b has {len(parts)} polynomials, f {len(f)} and nk {len(nk)}; each input needs one"
            )
        if any(isinstance(k, bool) or not isinstance(k, int) or k < 0 for k in nk):
            raise ValueError(f"nk is {nk}; whole numbers of at least 0 are needed")
        monic = {"a": _monic("a", a), "c": _monic("c", c), "d": _monic("d", d)}
        below = tuple(_monic("f", part) for part in f)
        if len(monic["a"]) > 1 and (len(monic["d"]) > 1 or any(len(part) > 1 for part in below)):
            raise ValueError("a model has either A, or D and F_i; both were given")
        for name, value in monic.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "b", parts)
        object.__setattr__(self, "f", below)
        object.__setattr__(self, "nk", nk)
        checked = checked_dt(dt)
        if checked is None:
            raise ValueError("dt is None; a polynomial model has a sampling time")
        object.__setattr__(self, "dt", checked)

    @property
    def n_inputs(self) -> int:
        """Number of inputs m."""
        return len(self.b)

    def __repr__(self) -> str:
        counts = [len(part) for part in self.b], [len(part) - 1 for part in self.f]
        return (
            f"PolynomialModel(na={len(self.a) - 1}, nb={counts[0]}, nc={len(self.c) - 1}, "
            f"nd={len(self.d) - 1}, nf={counts[1]}, nk={list(self.nk)}, dt={self.dt:g})"
        )

    @property
    def system(self) -> StateSpace:
        """From the inputs to the output, without the states of the noise."""
        if len(self.a) > 1:
            return self._common((*self.b,), self.nk)
        blocks = [_block(b, f, k) for b, f, k in zip(self.b, self.f, self.nk, strict=True)]
        return _beside(blocks, self.dt)

    @property
    def noise(self) -> StateSpace:
        """From e to the output: C/(A D), with a direct term of 1."""
        if len(self.a) > 1:
            return self._common((self.c,), (0,))
        return _beside([_block(self.c, self.d, 0)], self.dt)

    @property
    def innovation_form(self) -> tuple[StateSpace, Tensor]:
        """A, B, C, D and the gain K of x_{t+1} = A x + B u + K e,  y = C x + D u + e."""
        if len(self.a) > 1:
            whole = self._common((*self.b, self.c), (*self.nk, 0))
        else:
            blocks = [_block(b, f, k) for b, f, k in zip(self.b, self.f, self.nk, strict=True)]
            whole = _beside([*blocks, _block(self.c, self.d, 0)], self.dt)
        m = self.n_inputs
        system = StateSpace(whole.A, whole.B[:, :m], whole.C, whole.D[:, :m], self.dt)
        return system, whole.B[:, m:]

    def _common(self, tops: tuple[Tensor, ...], lags: tuple[int, ...]) -> StateSpace:
        """Several numerators over A, in observable companion form."""
        return _observable(
            [_shifted(b, k) for b, k in zip(tops, lags, strict=True)], self.a, self.dt
        )


def _shifted(b: Tensor, lag: int) -> Tensor:
    return torch.nn.functional.pad(b, (lag, 0))


def _observable(tops: list[Tensor], below: Tensor, dt: float) -> StateSpace:
    """Numerators over one monic denominator, both in powers of q⁻¹."""
    n = max([len(below) - 1, *(len(top) - 1 for top in tops)])
    below = torch.nn.functional.pad(below, (0, n + 1 - len(below)))
    rows = [torch.nn.functional.pad(top, (0, n + 1 - len(top))) for top in tops]
    M = torch.stack(rows, 1) if rows else below.new_zeros(n + 1, 0)
    D = M[:1]
    A = companion(below[1:]).mT
    C = below.new_zeros(1, n)
    C[:, :1] = 1.0
    return StateSpace(A, M[1:] - below[1:, None] * D, C, D, dt)


def _block(top: Tensor, below: Tensor, lag: int) -> StateSpace:
    return _observable([_shifted(top, lag)], below, 1.0)


def _beside(blocks: list[StateSpace], dt: float) -> StateSpace:
    """Systems with one output each, side by side, their outputs added."""
    if not blocks:
        return StateSpace.gain(torch.zeros(1, 0, dtype=torch.float64), dt)
    A = torch.block_diag(*(s.A for s in blocks))
    B = torch.block_diag(*(s.B for s in blocks))
    C, D = torch.cat([s.C for s in blocks], 1), torch.cat([s.D for s in blocks], 1)
    return StateSpace(A, B, C, D, dt)


def _coefficients(name: str, value: Any) -> Tensor:
    value = as_tensor(name, value).to(torch.float64)
    if value.dim() != 1 or not value.isfinite().all():
        raise ValueError(
            f"a polynomial of {name} has shape {tuple(value.shape)}; finite coefficients (k,) are "
            f"needed"
        )
    return value


def _monic(name: str, value: Any) -> Tensor:
    value = _coefficients(name, value)
    if not len(value) or value[0] != 1:
        raise ValueError(f"{name} is {value.tolist()}; its first coefficient must be 1")
    return value
